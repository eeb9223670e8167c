# Waiting for jobs, and sabot.run(): never for ever.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('wait', "max_connections = 40\n");
sql($node, <<'SQL');
CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i;
CREATE TABLE a ();
CREATE TABLE b ();
CREATE TABLE effect (name text);
CREATE TABLE named (name text PRIMARY KEY, job_id bigint);
-- wait_for_named - wait for a job whose number is not known to its waiter
CREATE FUNCTION wait_for_named(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	job bigint := (SELECT n.job_id FROM named AS n
		WHERE n.name = wait_for_named.name);
BEGIN
	CALL sabot.wait_for_job(job);
END $$;
SQL

# fails_in(SESSION, SQL, ERROR, MESSAGE) - test how SQL fails in a session
sub fails_in
{
	my ($session, $sql, $error, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session->{stderr} = '';
	my ($out, $failed) = $session->query($sql);
	like($session->{stderr}, $error, $message);
	$session->{stderr} = '';
	return;
}

# idle(MESSAGE) - test that no agent has work
sub idle
{
	my ($message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll(
		$node,
		"SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'",
		'0', $message);
}

# blocked(SESSION'S QUERY) - wait until a session waits for a lock
sub blocked
{
	my ($query) = @_;

	wait_until(
		sub {
			sql($node, 'SELECT count(*) FROM pg_stat_activity'
				  . " WHERE wait_event_type = 'Lock' AND query LIKE '$query%'") > 0;
		}) or die "nobody waits for a lock in $query";
	return;
}

my $self = qr/ERROR:  55000: .*waits for this session/;

# A job that waits for every older transaction

my ($status, $out, $err) = try_sql($node,
	"CALL sabot.wait_for_job(sabot.submit_job('CREATE INDEX CONCURRENTLY t_i ON t (i)'))"
);
is($status, 0, 'CREATE INDEX CONCURRENTLY, waited for at top level')
  or diag($err);
is( sql($node, "SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass"),
	't',
	'the index is there');

my $session = user_session($node);
$session->query_safe('BEGIN; INSERT INTO t VALUES (0)');
my $job = submit($node, 'CREATE INDEX CONCURRENTLY t_i2 ON t (i)');
fails_in($session, "CALL sabot.wait_for_job($job)",
	$self, 'CREATE INDEX CONCURRENTLY, waited for by who is in its way');
$session->query_safe('ROLLBACK');
ends($node, $job, 'completed', 'it is built when he has gone');

$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
$job = submit($node, 'CREATE INDEX CONCURRENTLY t_i3 ON t (i)');
fails_in($session, "CALL sabot.wait_for_job($job)",
	$self, 'CREATE INDEX CONCURRENTLY, waited for with a snapshot');
$session->query_safe('ROLLBACK');
ends($node, $job, 'completed', 'it is built when the snapshot has gone');

# Locks

$session->query_safe('BEGIN; LOCK a');
$job = submit($node, 'LOCK a');
fails_in($session, "CALL sabot.wait_for_job($job)",
	$self, 'a job that needs a lock its waiter holds');
$session->query_safe('ROLLBACK');
ends($node, $job, 'completed', 'it goes on then');

my $between = user_session($node);
$session->query_safe('BEGIN; LOCK a');
$between->query_safe('BEGIN; LOCK b');
$between->query_until(qr/begun/, "\\echo begun\nLOCK a /* between */;\n");
blocked('LOCK a /* between');
$job = submit($node, 'LOCK b');
fails_in($session, "CALL sabot.wait_for_job($job)",
	$self, 'a job that waits for a session that waits for its waiter');
$session->query_safe('ROLLBACK');
$between->query_safe('ROLLBACK');
ends($node, $job, 'completed', 'it goes on then');

$session->query_safe('BEGIN; LOCK a');
fails_in($session, q{SELECT sabot.run('LOCK a')},
	$self, 'sabot.run of what needs a lock its caller holds');
$session->query_safe('ROLLBACK');
idle('the command of sabot.run was stopped');

# A lock that somebody else holds is worth waiting for.

$between->query_safe('BEGIN; LOCK a');
$job = submit($node, 'LOCK a');
running($node, $job);
$session->query_until(qr/begun/,
	"\\echo begun\nCALL sabot.wait_for_job($job);\n\\echo waited\n");
$between->query_safe('COMMIT');
$session->query_until(qr/waited/, '');
is($session->{stderr}, '', 'a job that waits for a third session');

# One's own transaction, and oneself

sql_fails($node,
	"BEGIN; CALL sabot.wait_for_job(sabot.submit_job('SELECT 1')); COMMIT",
	qr/ERROR:  55000: .*this transaction/,
	'waiting for a job of an open transaction');
sql($node, q{SELECT sabot.pause_queue('self')});
$job = submit($node, "SELECT pg_sleep(0); SELECT wait_for_named('self')",
	args => "queue => 'self'");
sql($node, "INSERT INTO named VALUES ('self', $job);"
	  . " SELECT sabot.resume_queue('self')");
ends($node, $job, 'failed', 'a job that waits for itself');
like(job($node, $job, 'sqlstate, error'),
	qr/^55000\|/, 'is told so');

# Jobs that wait for jobs

sql($node, q{SELECT sabot.pause_queue('ring')});
my @ring = map
{
	submit($node, "SELECT wait_for_named('" . ($_ + 1) % 3 . "')",
		args => "queue => 'ring'")
} 0 .. 2;
sql($node, "INSERT INTO named VALUES ('$_', $ring[$_])") foreach 0 .. 2;
sql($node, q{SELECT sabot.resume_queue('ring')});
ends($node, $_, 'failed', 'three jobs that wait for each other') foreach @ring;
is( sql($node, 'SELECT DISTINCT sqlstate FROM sabot.job_status WHERE job_id IN ('
		  . join(',', @ring) . ')'),
	'55000',
	'one is told so, the others of its failure');

set_conf($node, 'sabot.pool_size' => 1);
poll($node, 'SHOW sabot.pool_size', '1', 'a pool for one agent');
sql($node, q{SELECT sabot.pause_queue('held')});
my $child = submit($node, "INSERT INTO effect VALUES ('child')",
	args => "queue => 'held'");
my $parent = submit($node,
	"CALL sabot.wait_for_job($child); INSERT INTO effect VALUES ('parent')");
poll($node, "SELECT state FROM sabot.agent_status WHERE job_id = $parent",
	'waiting', 'a job waits for a job');
is( sql($node, 'SELECT slots >= 2 FROM sabot.pool_status'),
	't', 'for which the pool may have one agent more');
sql($node, q{SELECT sabot.resume_queue('held')});
ends($node, $child, 'completed', 'pool_size 1: what a job waits for');
ends($node, $parent, 'completed', 'pool_size 1: the job that waits');
is(sql($node, 'SELECT name FROM effect'), "child\nparent", 'in this order');
poll($node, 'SELECT agents <= slots AND slots = 1 FROM sabot.pool_status',
	't', 'the pool has its size again');

$job = submit($node, "SELECT sabot.run('SELECT 6 * 7 AS answer') AS r",
	args => 'keep_rows => 1');
ends($node, $job, 'completed', 'pool_size 1: sabot.run in a job');
is(sql($node, "SELECT r->'r'->>'answer' FROM sabot.job_rows($job) AS r"),
	'42', 'gets its answer');
set_conf($node, 'sabot.pool_size' => 4);

# sabot.run

is(sql($node, q{SELECT sabot.run('SELECT $1::int + 1 AS n', '[41]')}),
	'{"n": 42}', 'sabot.run');
$session->query_safe(
	q{BEGIN; SELECT * FROM sabot.run($$INSERT INTO effect VALUES ('run')$$); ROLLBACK}
);
is(sql($node, "SELECT count(*) FROM effect WHERE name = 'run'"),
	'1', 'what sabot.run did stays if its caller rolls back');
sql_fails($node, q{SELECT sabot.run('SELECT 1/0')},
	qr/ERROR:  22012/, "sabot.run raises its command's error");
fails_in(
	$session,
	q{SELECT sabot.run($$INSERT INTO effect VALUES ('lost'); SELECT pg_terminate_backend(pg_backend_pid())$$)},
	qr/ERROR:  \w{5}: .*(agent|terminating)/,
	'sabot.run of what ends its agent');
is($session->query('SELECT 1'), '1', 'the session goes on');
is(sql($node, "SELECT count(*) FROM effect WHERE name = 'lost'"),
	'0', 'the command is not run again');

my $sleep = q{SELECT sabot.run('SELECT pg_sleep(600)')};
my $agents_at_work = "SELECT count(*) FROM pg_stat_activity"
  . " WHERE backend_type = 'sabot agent' AND wait_event = 'PgSleep'";
fails_in($session, "SET statement_timeout = '300 ms'; $sleep",
	qr/ERROR:  57014/, 'sabot.run with statement_timeout');
$session->query_safe('RESET statement_timeout');
idle('the work stops with its caller');
fails_in($session, q{SELECT sabot.run('SELECT pg_sleep(600)', timeout => '300 ms')},
	qr/ERROR:  57014/, 'sabot.run with a timeout');
idle('the work stops when its time is up');

my $pid = $session->query('SELECT pg_backend_pid()');
$session->query_until(qr/begun/, "\\echo begun\n$sleep;\n");
poll($node, $agents_at_work, '1', 'sabot.run is at work');
sql($node, "SELECT pg_cancel_backend($pid)");
idle('the work stops when its caller is canceled');
$session->query('SELECT 1');
$session->{stderr} = '';
$session->query_until(qr/begun/, "\\echo begun\n$sleep;\n");
poll($node, $agents_at_work, '1', 'sabot.run is at work');
sql($node, "SELECT pg_terminate_backend($pid)");
idle('the work stops when its caller is terminated');
$session->{run}->kill_kill;

# An error that can be told in no other way is cut between two characters: the
# caller is stopped, so that the agent cannot finish its notice; the command
# catches that it is canceled, and raises an error of 400 bytes.

sql($node, q{CREATE DATABASE utf8 ENCODING 'UTF8' TEMPLATE template0});
sql($node, 'CREATE EXTENSION sabot; CREATE TABLE gate AS SELECT', db => 'utf8');
my $caller = user_session($node, db => 'utf8');
$caller->query_safe('SET client_encoding = UTF8');
$pid = $caller->query('SELECT pg_backend_pid()');
$caller->query_until(qr/begun/, <<'SQL');
\echo begun
SELECT sabot.run($run$
	DO $$
	BEGIN
		WHILE EXISTS (SELECT FROM gate) LOOP
			PERFORM pg_sleep(0.05);
		END LOOP;
		RAISE NOTICE '%', repeat('x', 1000000);
	EXCEPTION WHEN query_canceled THEN
		RAISE EXCEPTION '%', repeat(U&'\00fc', 200);
	END $$ $run$);
SQL
poll($node, $agents_at_work, '1', 'sabot.run is at work');
kill('STOP', $pid) == 1 or die "could not stop process $pid: $!";
sql($node, 'DELETE FROM gate', db => 'utf8');
poll($node,
	"SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
	  . " WHERE backend_type = 'sabot agent' AND wait_event = 'MessageQueueSend'",
	'1', 'its notice does not go through');
idle('the command has ended');
kill('CONT', $pid);
$caller->query('SELECT 1');
my $umlaut = "\xc3\xbc";
like($caller->{stderr},
	qr/ERROR:  08006: .*DETAIL:  Its last error was P0001: ($umlaut){127}\.\n/s,
	'a long error is cut between two characters');
$caller->quit;

# Ends other than the expected one

$job = submit($node, 'SELECT pg_sleep(600)');
sql_fails($node, "CALL sabot.wait_for_job($job, '100 ms')",
	qr/ERROR:  57014: timeout/, 'waiting with a timeout');
running($node, $job);
my $waiter = user_session($node);
$waiter->query_until(qr/begun/,
	"\\echo begun\nCALL sabot.wait_for_job($job);\n\\echo waited\n");
sql($node, "SELECT sabot.cancel_job($job)");
$waiter->query_until(qr/waited/, '');
like($waiter->{stderr}, qr/ERROR:  57014: .*canceled/,
	'waiting for a job that is canceled');
$waiter->{stderr} = '';
$job = submit($node, 'SELECT pg_sleep(600)');
running($node, $job);
$waiter->query_until(qr/begun/,
	"\\echo begun\nCALL sabot.wait_for_job($job);\n\\echo waited\n");
sql($node, "SELECT sabot.pause_job($job)");
$waiter->query_until(qr/waited/, '');
like($waiter->{stderr}, qr/ERROR:  55000: .*paused/,
	'waiting for a job that is paused');
$waiter->{stderr} = '';
sql($node, "SELECT sabot.cancel_job($job)");
sql_fails($node, 'CALL sabot.wait_for_job(987654321)',
	qr/ERROR:  42704/, 'waiting for a job that does not exist');

# When every agent waits there is nobody left to wait for.  Those who wait come
# first, however late the second agent starts.

$node->append_conf('postgresql.conf',
	"max_worker_processes = 6\nsabot.pool_size = 2");
$node->restart;
sql($node, q{SELECT sabot.pause_queue('held')});
$child = submit($node, "INSERT INTO effect VALUES ('for all')",
	args => "queue => 'held'");
my @parents =
  map {
	submit($node, "CALL sabot.wait_for_job($child)", args => 'priority => 1')
  } 1 .. 2;
sql($node, q{SELECT sabot.resume_queue('held')});
ends($node, $child, 'completed',
	'all agents wait: what they wait for is done after all');
wait_until(
	sub {
		sql($node, 'SELECT count(*) FROM sabot.job_status'
			  . " WHERE finished_at IS NULL") eq '0';
	});
is( sql($node, 'SELECT state, sqlstate FROM sabot.job_status WHERE job_id IN ('
		  . join(',', @parents) . ') ORDER BY state'),
	"completed|\nfailed|53000",
	'all agents wait: the last to wait is told so');

# Stopping

$job = submit($node, 'SELECT pg_sleep(600)');
running($node, $job);
$waiter = user_session($node);
$waiter->query_until(qr/begun/,
	"\\echo begun\nCALL sabot.wait_for_job($job);\n");
my $runner = user_session($node);
$runner->query_until(qr/begun/, "\\echo begun\n$sleep;\n");
poll($node, $agents_at_work, '2', 'a job and sabot.run are at work');
ok($node->stop('fast'), 'fast stop while jobs run and sessions wait');
$_->{run}->kill_kill foreach ($between, $waiter, $runner);

done_testing();
