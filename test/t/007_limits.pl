# Servers that cannot run jobs say so; submitting is part of the transaction,
# prepared ones too.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

# Not preloaded

my $plain = new_node('plain', "shared_preload_libraries = ''\n", no_start => 1);
$plain->start;
my ($status, $out, $err) = try_sql($plain, 'CREATE EXTENSION sabot');
is($status, 0, 'CREATE EXTENSION without preload');
like($err, qr/WARNING:.*sabot is not loaded/, 'warns');
like($err, qr/HINT:.*shared_preload_libraries/, 'says what to do');
my $not_loaded = qr/ERROR:  55000: sabot is not loaded.*HINT:.*shared_preload_libraries/s;
foreach my $command (
	"SELECT sabot.submit_job('SELECT 1')",
	"SELECT sabot.submit_jobs('{SELECT 1}')",
	"SELECT sabot.submit_job_each('SELECT \$1::int', '[[1]]')",
	"SELECT sabot.run('SELECT 1')",
	'CALL sabot.wait_for_job(1)',
	'SELECT sabot.start_agents()',
	'SELECT sabot.stop_agents()')
{
	sql_fails($plain, $command, $not_loaded, "without preload: $command");
}
foreach my $view (qw(job_status job_task job_attempt agent_status queue_status
	job_progress))
{
	is(sql($plain, "SELECT count(*) FROM sabot.$view"),
		'0', "without preload: $view is empty");
}
is(sql($plain, 'SELECT agents, slots FROM sabot.pool_status'),
	'0|0', 'without preload: no pool');
like(
	sql($plain,
		"SELECT advice FROM sabot.check() WHERE subject = 'preload' AND NOT ok"),
	qr/shared_preload_libraries/,
	'without preload: sabot.check() says what to do');
is( sql($plain,
		'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i; DELETE FROM t WHERE i > 10; SELECT sum(i) FROM t'
	),
	'55',
	'without preload: queries are fine');
sql($plain, 'CREATE DATABASE other; DROP DATABASE other; DROP EXTENSION sabot');
$plain->stop;

# No room for agents

my $small = new_node('small', "max_worker_processes = 4\n");
my $job = submit($small, 'SELECT 1');
poll($small, "SELECT state, wait_reason FROM sabot.job_status WHERE job_id = $job",
	'queued|no background worker slot: raise max_worker_processes',
	'max_worker_processes = 4: work waits, and says why');
$small->wait_for_log(qr/no background worker slot/);
my $second = submit($small, 'SELECT 1');
is(sql($small, 'SELECT capacity, slots FROM sabot.pool_status'),
	'0|0', 'the pool has no slots');
like(
	sql($small,
		"SELECT advice FROM sabot.check() WHERE subject = 'worker processes' AND NOT ok"
	),
	qr/max_worker_processes/,
	'sabot.check() says what to raise');
sql_fails($small, "SELECT sabot.run('SELECT 1')",
	qr/ERROR:  53000: .*HINT:.*max_worker_processes/s, 'run');
$small->stop;
my $warnings = () = slurp_file($small->logfile) =~ /could not start an agent: no background worker slot/g;
is($warnings, 1, 'the log says it once');
like(slurp_file($small->logfile), qr/HINT:.*max_worker_processes/,
	'and what to raise');
$small->append_conf('postgresql.conf', 'max_worker_processes = 6');
$small->start;
ends($small, $_, 'completed', 'with more worker processes the work is done')
  foreach ($job, $second);
is(sql($small, 'SELECT capacity FROM sabot.pool_status'),
	'2', 'four worker processes are left to others');
is(sql($small, 'SELECT sabot.start_agents(4)'),
	'2', 'start_agents says how many it can have');
poll($small, 'SELECT agents, slots FROM sabot.pool_status',
	'2|2', 'and there are no more');
$small->append_conf('postgresql.conf', 'sabot.pool_size = 0');
$small->restart;
$job = submit($small, 'SELECT 1');
is(job($small, $job, 'wait_reason'), 'sabot.pool_size is 0', 'pool_size 0');
set_conf($small, 'sabot.pool_size' => 1);
ends($small, $job, 'completed', 'pool_size follows a reload');
$small->stop;

# Transactions

my $node = new_node('transactions');
sql($node, 'CREATE TABLE effect (name text)');

# have(NAME) - SQL that submits a job with that effect
sub have
{
	return "SELECT sabot.submit_job(\$\$INSERT INTO effect VALUES ('$_[0]')\$\$);\n";
}

# later_work(MESSAGE) - what was submitted later has been done
sub later_work
{
	my ($message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ends($node, submit($node, 'SELECT 1'), 'completed', $message);
}

sql($node, 'BEGIN;' . have('rolled back') . 'ROLLBACK');
sql($node,
	    'BEGIN; SAVEPOINT s;'
	  . have('savepoint')
	  . 'ROLLBACK TO s;'
	  . have('kept')
	  . 'SAVEPOINT t;'
	  . have('released')
	  . 'RELEASE t; COMMIT');
try_sql($node, 'BEGIN;' . have('error') . 'SELECT 1/0; COMMIT');
my $session = user_session($node);
$session->query_safe('BEGIN;' . have('lost'));
sql($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	  . " WHERE state = 'idle in transaction'");
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'all is done');
is( sql($node, "SELECT string_agg(name, ' ' ORDER BY name) FROM effect"),
	'kept released',
	'what was rolled back leaves no trace: effects');
is(sql($node, 'SELECT count(*) FROM sabot.job_status'),
	'2', 'what was rolled back leaves no trace: jobs');
$session->{run}->kill_kill;

# Prepared ones

foreach my $name ('committed', 'aborted', 'restarted')
{
	sql($node, 'BEGIN;' . have($name) . have($name)
		  . "SELECT sabot.submit_job_each('SELECT \$1::int', '[[1],[2]]');"
		  . "PREPARE TRANSACTION '$name'");
}
later_work('other work goes on');
is( sql($node, "SELECT count(*) FROM effect WHERE name IN ('committed', 'aborted')"),
	'0',
	'a prepared submit is none yet');
sql($node, "COMMIT PREPARED 'committed'");
poll($node, "SELECT count(*) FROM effect WHERE name = 'committed'",
	'2', 'its jobs run after COMMIT PREPARED');
sql($node, "ROLLBACK PREPARED 'aborted'");
later_work('other work goes on');
$node->restart;
later_work('other work goes on after a restart');
is(sql($node, "SELECT count(*) FROM effect WHERE name = 'restarted'"),
	'0', 'a prepared submit is none yet');
sql($node, "COMMIT PREPARED 'restarted'");
poll($node, "SELECT count(*) FROM effect WHERE name = 'restarted'",
	'2', 'COMMIT PREPARED after a restart');

# COMMIT PREPARED has somebody look for jobs only if there may be some.  The
# launcher deals with what it has been asked before it starts agents.

set_conf($node, 'log_min_messages' => 'debug1');
poll($node, 'SHOW log_min_messages', 'debug1', 'the log tells of processes');

# prepare(SQL) - prepare it as a transaction named like one before
sub prepare
{
	sql($node, "BEGIN; $_[0]; PREPARE TRANSACTION 'again'");
	return;
}

# probed(COMMAND) - whether it has a prober look for jobs
sub probed
{
	sql($node, 'SELECT sabot.stop_agents()');
	my $offset = -s $node->logfile;
	sql($node, $_[0]);
	sql($node, 'SELECT sabot.start_agents(1)');
	return log_since($node, $offset) =~ /"sabot prober/ ? 1 : 0;
}

# calm() - wait until nobody looks for jobs for other reasons
sub calm
{
	ok( wait_until(
			sub {
				!probed('SELECT 1') && !sql($node,
					"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot prober'"
				);
			}),
		'nobody looks for jobs');
	return;
}

calm();
prepare('CREATE TABLE without_jobs ()');
is(probed("COMMIT PREPARED 'again'"), 0, 'COMMIT PREPARED without jobs');
prepare('CREATE TABLE other_without_jobs ()');
is(probed("ROLLBACK PREPARED 'again'"), 0, 'ROLLBACK PREPARED');
prepare('SAVEPOINT s;' . have('back') . 'ROLLBACK TO s');
is(probed("COMMIT PREPARED 'again'"), 0, 'of a submit that was rolled back');
prepare(have('again'));
is(probed("COMMIT PREPARED 'again'"), 1, 'COMMIT PREPARED of a job');
poll($node, "SELECT count(*) FROM effect WHERE name = 'again'",
	'1', 'whose name was that of others before');
prepare("ALTER ROLE CURRENT_USER SET work_mem = '5MB'");
is(probed("COMMIT PREPARED 'again'"), 1, 'COMMIT PREPARED of settings');
prepare('SELECT 1');
$node->restart;
later_work('the server is up');
calm();
is(probed("COMMIT PREPARED 'again'"), 1, 'after a restart nobody knows');
set_conf($node, 'log_min_messages' => 'warning');

# Its turn comes although other work never ends.

sql($node, 'BEGIN;' . have('among others') . "PREPARE TRANSACTION 'late'");
sql($node, q{SELECT sabot.submit_job_each('SELECT pg_sleep(0.01)',
	(SELECT jsonb_agg('[]'::jsonb) FROM generate_series(1, 1500)))});
poll($node, 'SELECT count(*) FROM sabot.agent_status WHERE jobs_done > 10',
	'4', 'all agents are at work');
sql($node, "COMMIT PREPARED 'late'");
poll($node, "SELECT count(*) FROM effect WHERE name = 'among others'",
	'1', 'COMMIT PREPARED while all agents are at work');
cmp_ok(sql($node, 'SELECT waiting FROM sabot.queue_status'),
	'>', 0, 'they still are');

# Jobs that nobody was told of: in queues beside ones that wait in memory, and
# for later.

sql($node, "SELECT sabot.pause_queue(q) FROM unnest('{b,d}'::text[]) AS q");
foreach my $queue ('b', 'd')
{
	sql($node,
		"SELECT sabot.submit_job('INSERT INTO effect (name) VALUES (''held'')', queue => '$queue')");
}
sql($node, q{INSERT INTO sabot.job (owner, owner_name, home, queue, state, run_after,
		retry_delay, command, settings)
	SELECT j.owner, j.owner_name, j.home, n.queue, n.state, n.run_after, j.retry_delay,
		'INSERT INTO effect (name) VALUES (''untold'')', j.settings
	FROM sabot.job AS j, (VALUES ('a', 'queued'::sabot.job_state, NULL),
		('c', 'queued', NULL), ('e', 'queued', NULL), ('b2', 'queued', NULL),
		('a', 'scheduled', now() + interval '1 s')) AS n (queue, state, run_after)
	WHERE j.queue = 'b'});
poll($node, "SELECT count(*) FROM effect WHERE name = 'untold'",
	'5', 'jobs that nobody was told of are found');
sql($node, "SELECT sabot.resume_queue(q) FROM unnest('{b,d}'::text[]) AS q");
poll($node, "SELECT count(*) FROM effect WHERE name = 'held'",
	'2', 'those in memory were left alone');

# Agents that cannot start are tried again, and after the fifth time what waits
# for them fails.  These do not get beyond pg_extension, which somebody has
# locked, and are terminated there.

set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
my $unlucky = submit($node, 'SELECT 1');
my $watch = user_session($node);
my $failures = 'SELECT max(failures) FROM sabot.pair_failures()';
my $reason = "SELECT wait_reason FROM sabot.job_status WHERE job_id = $unlucky";
my $doctor = "SELECT ok, detail FROM sabot.check() WHERE subject = 'agents'";
is($watch->query_safe("$failures; $reason; $doctor"),
	"\nsabot.enabled is off\nt|no agent failed to start",
	'nothing has failed');
my $lock = user_session($node);
$lock->query_safe('BEGIN; LOCK pg_extension');
set_conf($node, 'sabot.enabled' => 'on');

# fails_to_start(N) - wait until the start of an agent has failed N times
sub fails_to_start
{
	my ($n) = @_;

	ok( wait_until(
			sub {
				$watch->query_safe('SELECT count(pg_terminate_backend(pid))'
					  . " FROM pg_stat_activity WHERE backend_type = 'sabot agent'"
					  . " AND wait_event_type = 'Lock'");
				return $watch->query_safe($failures) eq $n;
			}),
		"an agent could not start: $n");
	return;
}

my $why =
  'terminating background worker "sabot agent" due to administrator command';
fails_to_start(1);
like($watch->query_safe($reason), qr/^agents cannot start: $why, next try in \d+ s$/,
	'its job says so');
is( $watch->query_safe($doctor),
	"f|agents of role "
	  . sql($node, 'SELECT quote_ident(current_user)')
	  . " cannot start in database postgres: $why",
	'sabot.check() does, too');
fails_to_start(5);
is($watch->query_safe($reason), "agents cannot start: $why", 'it waits still');
$lock->quit;
$watch->quit;
ends($node, $unlucky, 'failed', 'after five times it fails');
is(job($node, $unlucky, 'sqlstate, error, attempt'),
	"57P01|agents cannot start: $why|0", 'with that error');
is(sql($node, "SELECT sabot.retry_job($unlucky)"), 't', 'it is retried');
ends($node, $unlucky, 'completed', 'and runs when agents can start');

is( sql($node, "SELECT count(*) FROM effect WHERE name = 'aborted'"),
	'0', 'ROLLBACK PREPARED leaves no trace');
is( sql($node, 'SELECT count(*) FROM pg_prepared_xacts'),
	'0', 'nothing is left over');

$node->stop;
done_testing();
