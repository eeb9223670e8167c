# Agents do not stand in the way of commands that need a database for
# themselves, and work in any number of databases is found and done.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('databases', "sabot.agent_idle_timeout = 1h\n");

# new_database(NAME) - a database with the extension and an idle agent in it
sub new_database
{
	my ($name) = @_;

	sql($node, "CREATE DATABASE $name");
	sql($node, 'CREATE EXTENSION sabot; CREATE TABLE effect (i int)',
		db => $name);
	idle_agent($name);
	return;
}

# idle_agent(NAME) - have an idle agent in a database
sub idle_agent
{
	my ($name) = @_;

	sql($node, q{SELECT sabot.run('SELECT 1')}, db => $name);
	wait_until(
		sub {
			return sql($node,
				"SELECT count(*) FROM sabot.agent_status"
				  . " WHERE database = '$name' AND state = 'idle'") > 0;
		}) or die "no agent in database $name";
	return;
}

# works(NAME, MESSAGE) - test that a job can be run in a database
sub works
{
	my ($name, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ends($node,
		submit($node, 'INSERT INTO effect VALUES (1)', db => $name),
		'completed', $message, db => $name);
}

# runs(SQL, MESSAGE) - test that a statement succeeds
sub runs
{
	my ($sql, $message) = @_;
	my ($status, $out, $err) = try_sql($node, $sql);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($status, 0, $message) or diag("$sql: $err");
	return;
}

# Idle agents give way

new_database('moving');
my $tablespace = $node->basedir . '/space';
mkdir $tablespace or die "could not create $tablespace: $!";
sql($node, "CREATE TABLESPACE space LOCATION '$tablespace'");

runs('CREATE DATABASE copy TEMPLATE moving', 'CREATE DATABASE TEMPLATE');
works('moving', 'the template works on');
runs('ALTER DATABASE moving RENAME TO moved', 'ALTER DATABASE RENAME');
works('moved', 'the renamed database works');
runs('ALTER DATABASE moved SET TABLESPACE space',
	'ALTER DATABASE SET TABLESPACE');
works('moved', 'the moved database works');
idle_agent('moved');
runs('DROP DATABASE moved', 'DROP DATABASE with an idle agent');
is( sql($node,
		"SELECT count(*) FROM sabot.agent_status WHERE database IS NULL OR database = 'moved'"
	),
	'0',
	'no agent is left of it');
runs('DROP DATABASE copy', 'DROP DATABASE of the copy');

# Who may not drop a database does not make its agents leave either.

new_database('guarded');
my $agent = sql($node,
	"SELECT pid FROM sabot.agent_status WHERE database = 'guarded'");
sql($node, 'CREATE ROLE nobody LOGIN');
foreach my $command ('DROP DATABASE guarded', 'DROP DATABASE guarded (FORCE)',
	'ALTER DATABASE guarded RENAME TO mine')
{
	sql_fails($node, $command, qr/ERROR:  42501/, $command, user => 'nobody');
}
sql_fails($node, 'DROP EXTENSION sabot', qr/ERROR:  42501/, 'DROP EXTENSION',
	db => 'guarded', user => 'nobody');
works('guarded', 'the database works on');
is( sql($node,
		"SELECT pid FROM sabot.agent_status WHERE database = 'guarded'"),
	$agent,
	'on the same agent');

# A running job stands in the way, except of FORCE

my $job = submit($node, 'INSERT INTO effect VALUES (2); SELECT pg_sleep(600)',
	db => 'guarded');
my $pid = running($node, $job, db => 'guarded');
foreach my $command ('DROP DATABASE guarded',
	'ALTER DATABASE guarded RENAME TO free',
	'CREATE DATABASE copy TEMPLATE guarded')
{
	sql_fails($node, $command, qr/ERROR:  55006/,
		"$command while a job runs");
	ok(alive($pid), 'the job runs on');
}
is(job($node, $job, 'state, attempt', db => 'guarded'),
	'running|1', 'undisturbed');
runs('DROP DATABASE guarded WITH (FORCE)', 'DROP DATABASE (FORCE)');
ok(wait_until(sub { !alive($pid) }), 'the agent has gone');

# DROP EXTENSION

new_database('bare');
$job = submit($node, 'INSERT INTO effect VALUES (3); SELECT pg_sleep(600)',
	db => 'bare');
$pid = running($node, $job, db => 'bare');
my ($status, $out, $err) = try_sql(
	$node,
	'BEGIN; DROP EXTENSION sabot; ROLLBACK; SELECT state FROM sabot.job_status',
	db => 'bare');
is($status, 0, 'DROP EXTENSION rolled back') or diag($err);
isnt(running($node, $job, db => 'bare'), $pid,
	'the job was given back and runs again on another agent');
is(job($node, $job, 'attempt, losses', db => 'bare'),
	'1|0', 'nothing was counted');
my $outside = submit($node, 'SELECT pg_sleep(600)',
	db => 'bare', args => 'atomic => false');
running($node, $outside, db => 'bare');
sql($node, 'BEGIN; DROP EXTENSION sabot; ROLLBACK', db => 'bare');
running($node, $_, db => 'bare') foreach $job, $outside;
is(job($node, $outside, 'attempt, losses, atomic', db => 'bare'),
	'1|0|f', 'nor for one that runs outside a transaction block');
sql($node, "SELECT sabot.cancel_job($outside)", db => 'bare');
ends($node, $outside, 'canceled', 'canceled', db => 'bare');
$pid = sql($node, "SELECT pid FROM sabot.agent_status WHERE job_id = $job");
($status, $out, $err) =
  try_sql($node, 'DROP EXTENSION sabot', db => 'bare');
is($status, 0, 'DROP EXTENSION with a running job') or diag($err);
ok(wait_until(sub { !alive($pid) }), 'the agent has gone');
is(sql($node, 'SELECT count(*) FROM effect', db => 'bare'),
	'0', 'the job has had no effect');
sql($node, 'CREATE EXTENSION sabot', db => 'bare');
works('bare', 'CREATE EXTENSION again: jobs run at once');
is(sql($node, 'SELECT job_id FROM sabot.job_status', db => 'bare'),
	'1', 'the queue is a new one');

# A prober that holds locks which DROP EXTENSION needs, and waits for one that
# its transaction holds, gives way, and comes again for what it came for.

sql($node, <<'SQL', db => 'bare');
BEGIN;
SELECT sabot.submit_job('INSERT INTO effect VALUES (4)');
PREPARE TRANSACTION 'submitted';
SQL
sql($node, 'SELECT sabot.stop_agents()', db => 'bare');
my $session = user_session($node, db => 'bare');
$session->query_safe('BEGIN; LOCK TABLE sabot.stream');
sql($node, "COMMIT PREPARED 'submitted'", db => 'bare');
poll($node, <<'SQL', '1', 'a prober waits for a lock');
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot prober' AND wait_event_type = 'Lock'
SQL
$session->query_safe('DROP EXTENSION sabot');
is($session->query_safe("SELECT count(*) FROM pg_extension WHERE extname = 'sabot'"),
	'0', 'DROP EXTENSION is not the victim of a deadlock');
$session->query_safe('ROLLBACK');
$session->quit;
poll($node, "SELECT count(*) FROM effect", '2', 'the prober comes again', db => 'bare');

# Signal barriers: DROP DATABASE of any database waits for every process.

$job = submit($node, 'SELECT pg_sleep(600)', db => 'bare');
$pid = running($node, $job, db => 'bare');
idle_agent('postgres');
sql($node, 'CREATE DATABASE unrelated');
runs('DROP DATABASE unrelated', 'DROP DATABASE while agents are idle or busy');
is(job($node, $job, 'state', db => 'bare'), 'running', 'the job runs on');
sql($node, "SELECT sabot.cancel_job($job)", db => 'bare');
ends($node, $job, 'canceled', 'the job is canceled', db => 'bare');

# More databases than slots, all made after the start; found after a restart

my @dbs = map { "many$_" } 1 .. 60;
sql($node, "CREATE DATABASE $_ TEMPLATE bare STRATEGY wal_log") foreach @dbs;
works($_, "database $_ works") foreach @dbs[ 0 .. 7 ];

set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SHOW sabot.enabled', 'off', 'switched off');
my %waiting = map
{
	$_ => submit($node, 'INSERT INTO effect VALUES (4)', db => $_)
} @dbs;
$node->append_conf('postgresql.conf', 'sabot.enabled = on');
$node->restart;
foreach my $db (@dbs)
{
	ends($node, $waiting{$db}, 'completed',
		"$db: work goes on after a restart", db => $db);
}
is(sql($node, 'SELECT agents <= 4 FROM sabot.pool_status'),
	't', 'with no more agents than the pool has');

# Databases that had work before a restart are looked into first.

my $hint = $node->data_dir . '/pg_stat_tmp/sabot.hint';
my $oid = sql($node, "SELECT oid FROM pg_database WHERE datname = '$dbs[-1]'");
set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
submit($node, 'SELECT 1', db => $dbs[-1],
	args => "run_after => clock_timestamp() + interval '1 day'");
ok(wait_until(sub { -e $hint && slurp_file($hint) eq "$oid\n" }),
	'it is noted which database has work');
set_conf($node, 'sabot.enabled' => 'on', 'log_min_messages' => 'debug1');
my $offset = -s $node->logfile;
$node->restart;
my @probed;
ok( wait_until(
		sub {
			@probed = log_since($node, $offset) =~
			  /registering background worker "sabot prober (\d+)"/g;
			return @probed > @dbs;
		}),
	'every database is probed after a restart');
is($probed[0], $oid, 'and that one is the first');

$node->stop;
done_testing();
