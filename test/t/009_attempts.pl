# What is known of an attempt when its agent or the server ends just as the end
# of the attempt is recorded.
#
# A commit that waits for a standby which does not exist is on disk already,
# though nobody can see it yet: so one can stop the server between a commit and
# what is to be done after it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('attempts', <<'CONF');
wal_level = replica
max_wal_senders = 1
CONF
my $holder;

# The test's own sessions wait for no standby.
$ENV{PGOPTIONS} = '-c synchronous_commit=local';

# A job that has left its trace waits as long as table gate has a row, and
# fails as long as table fault has one, with its SQLSTATE.
sql($node, <<'SQL');
CREATE TABLE step (job text);
CREATE TABLE gate (name text);
CREATE TABLE fault (code text);
CREATE TABLE held (n int);
CREATE FUNCTION pass() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	code text;
BEGIN
	WHILE EXISTS (SELECT FROM gate) LOOP
		PERFORM pg_sleep(0.05);
	END LOOP;
	SELECT f.code INTO code FROM fault AS f;
	IF code IS NOT NULL THEN
		RAISE EXCEPTION 'fault' USING ERRCODE = code;
	END IF;
END $$;
SQL

# begin_job(NAME, ARGUMENTS, SETTINGS) - a job that waits at the gate, with
# statements that it runs before: (job, pid)
sub begin_job
{
	my ($name, $args, $settings) = @_;

	sql($node, "INSERT INTO gate VALUES ('$name')");
	my $job = submit(
		$node, "INSERT INTO step VALUES ('$name'); "
		  . ($settings // '')
		  . 'SELECT pass()', args => $args);
	return ($job, running($node, $job));
}

# steps(NAME, N, MESSAGE) - test how many attempts have left a trace
sub steps
{
	my ($name, $n, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql($node, "SELECT count(*) FROM step WHERE job = '$name'"),
		$n, $message);
	return;
}

# waits_for_standby(WHERE, MESSAGE) - test that a process comes to do so
sub waits_for_standby
{
	my ($where, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
		  . " AND $where",
		't', $message);
}

# waits_for_lock(PID, MESSAGE) - test that a process comes to wait for a row
sub waits_for_lock
{
	my ($pid, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node,
		"SELECT wait_event FROM pg_stat_activity WHERE pid = $pid",
		'transactionid', $message);
}

# hold_commits - have commits wait, until the server is started again
#
# Processes do so from when the checkpointer has noticed, so one tries.
sub hold_commits
{
	sql($node, q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
	$node->reload;
	$holder = user_session($node);
	my $pid = $holder->query_safe('SELECT pg_backend_pid()');
	$holder->query_until(qr/begun/, <<'SQL');
\echo begun
SET synchronous_commit = on;
DO 'BEGIN FOR n IN 1 .. 10000 LOOP INSERT INTO held VALUES (n); COMMIT; END LOOP; END';
SQL
	waits_for_standby("pid = $pid", 'commits wait');
	sql($node, 'ALTER SYSTEM RESET synchronous_standby_names');
	return;
}

# restart(MODE) - stop the server so, and start it
sub restart
{
	my ($mode) = @_;

	$node->stop($mode);
	eval { $holder->quit };
	$node->start;
	return;
}

# An agent that leaves with the server gives its job back, and waits for nobody
# then, whatever the job has done to its session.

my ($job, $pid) = begin_job('hostile', 'atomic => false',
	    'SET default_transaction_read_only = on;'
	  . ' SET default_transaction_isolation = serializable;'
	  . ' SET lock_timeout = 1; SET synchronous_commit = remote_apply; ');
hold_commits();
sql($node, 'DELETE FROM gate');		# which its snapshot does not see
restart('fast');
ends($node, $job, 'completed', 'clean stop: the job is given back');
steps('hostile', 2, 'clean stop: it was started over');
is(job($node, $job, 'attempt, losses, atomic'),
	'1|0|f', 'clean stop: nothing is counted');
is(attempts($node, $job), '', 'clean stop: nor recorded');

# An attempt whose end is on disk has ended, though the server dies before
# that is noted elsewhere.  held_end(PID) has the attempt's process record its
# end, and the server die then.

sub held_end
{
	my ($pid) = @_;

	waits_for_standby("pid = $pid", 'the end of the attempt is recorded');
	sql($node, 'DELETE FROM gate; DELETE FROM fault');
	restart('immediate');
	return;
}

foreach my $case (
	[ 'free retry', '40001', 'atomic => true', '1|0', '1 40001' ],
	[ 'retry', 'P0001', 'max_attempts => 2', '2|0', '1 P0001' ],
	[ 'retry outside', 'P0001', 'max_attempts => 2, atomic => false',
		'2|0', '1 P0001' ])
{
	my ($name, $code, $args, $counts, $attempts) = @$case;

	($job, $pid) = begin_job($name, $args);
	hold_commits();
	sql($node, "INSERT INTO fault VALUES ('$code'); DELETE FROM gate");
	held_end($pid);
	ends($node, $job, 'completed', "$name: completed");
	is(job($node, $job, 'attempt, losses'), $counts, "$name: no agent was lost");
	is(attempts($node, $job), $attempts, "$name: nor is any said to be");
}

foreach my $atomic ('true', 'false')
{
	my $name = "pause $atomic";

	($job, $pid) = begin_job($name, "atomic => $atomic");
	hold_commits();
	sql($node, "SELECT sabot.pause_job($job)");
	held_end($pid);
	poll($node, 'SELECT count(*) FROM sabot.job_signal', '0', "$name: done");
	poll($node, "SELECT launcher_running FROM sabot.pool_counters()",
		't', "$name: the server is back");
	ends($node, submit($node, 'SELECT 1'), 'completed', "$name: other work");
	is(job($node, $job, 'state, attempt, losses'),
		'paused|0|0', "$name: paused, and nothing is counted");
	sql($node, "SELECT sabot.resume_job($job)");
	ends($node, $job, 'completed', "$name: completed");
	is(job($node, $job, 'attempt, losses'), '1|0', "$name: no agent was lost");
	is(attempts($node, $job), '', "$name: nor is any said to be");
}

# The same when it is the agent alone that dies.

($job, $pid) = begin_job('terminated');
hold_commits();
sql($node, "INSERT INTO fault VALUES ('40001'); DELETE FROM gate");
waits_for_standby("pid = $pid", 'terminated: the end of the attempt is recorded');
sql($node, 'DELETE FROM fault');
sql($node, "SELECT pg_terminate_backend($pid)");
ok(wait_until(sub { !alive($pid) }), 'terminated: the agent is gone');
$node->reload;
eval { $holder->quit };
ends($node, $job, 'completed', 'terminated: completed');
is(job($node, $job, 'attempt, losses'), '1|0', 'terminated: the loss is none');
is(attempts($node, $job), '1 40001', 'terminated: nor is any said to be');

# A job that has failed and is retried before anybody has looked at what was
# under way when the server died

($job, $pid) = begin_job('retry_job');
hold_commits();
sql($node, "INSERT INTO fault VALUES ('P0001'); DELETE FROM gate");
$node->append_conf('postgresql.conf', 'sabot.enabled = off');
held_end($pid);
is(job($node, $job, 'state'), 'failed', 'retry_job: the job has failed');
is(sql($node, "SELECT sabot.retry_job($job)"), 't', 'retry_job: queued again');
set_conf($node, 'sabot.enabled' => 'on');
ends($node, $job, 'completed', 'retry_job: completed');
is(job($node, $job, 'attempt, losses'), '1|0', 'retry_job: no agent was lost');
is(attempts($node, $job), '1 P0001', 'retry_job: nor is any said to be');

# A loss that was settled is not settled again.

foreach my $pause (0, 1)
{
	my $name = 'settled' . ($pause ? ' with a pause' : '');

	($job, $pid) = begin_job($name, 'max_attempts => 3');
	hold_commits();
	kill('STOP', $pid) == 1 or die "could not stop process $pid: $!";
	sql($node, "SELECT sabot.pause_job($job)") if $pause;
	sql($node, "SELECT pg_terminate_backend($pid)");
	kill('CONT', $pid);
	waits_for_standby("backend_type = 'sabot prober'", "$name: the loss is recorded");
	sql($node, 'DELETE FROM gate');
	restart('immediate');
	ends($node, submit($node, 'SELECT 1'), 'completed', "$name: other work");
	if ($pause)
	{
		is(job($node, $job, 'state, attempt, losses'),
			'paused|1|1', "$name: paused, and the loss is counted");
		sql($node, "SELECT sabot.resume_job($job)");
	}
	ends($node, $job, 'completed', "$name: completed");
	is(job($node, $job, 'attempt, losses'), '2|1', "$name: one agent was lost");
	is(attempts($node, $job), '1 57P01', "$name: once");
}

# A job is resumed while its agent writes that it is paused.

($job, $pid) = begin_job('resumed');
my $locker = user_session($node);
$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $job FOR UPDATE");
sql($node, "SELECT sabot.pause_job($job)");
waits_for_lock($pid, 'resumed: the pause is written');
my $owner = user_session($node);
$pid = $owner->query_safe('SELECT pg_backend_pid()');
$owner->query_until(qr/asked/, <<"SQL");
\\echo asked
INSERT INTO step SELECT 'resumed: ' || sabot.resume_job($job);
SQL
waits_for_lock($pid, 'resumed: waits for that');
sql($node, 'DELETE FROM gate');
$locker->query_safe('COMMIT');
$owner->quit;
$locker->quit;
steps('resumed: true', 1, 'resumed: it was paused');
ends($node, $job, 'completed', 'resumed: runs again');
is(job($node, $job, 'attempt, losses'), '1|0', 'resumed: nothing is counted');

# An LLM job forgives lost workers, in its row, when an item is finished after
# them: its attempt goes on all the same, and a later loss is one.

my $ollama = SabotOllama->new(service => 'fixed:200ms');
sql($node, "SELECT sabot.add_llm_endpoint('default', '" . $ollama->url . "')");
$job = sql($node,
	"SELECT sabot.submit_llm_job('SELECT i FROM generate_series(1, 10000) AS i',"
	  . " 'say {i}', model => 'stand-in')");
foreach my $n (1 .. 3)
{
	my $first;

	ok( wait_until(
			sub {
				my ($losses, $done) = split /\|/,
				  sql($node,
					"SELECT j.losses, count(a.item) FROM sabot.job_status AS j"
					  . " LEFT JOIN sabot.llm_answer AS a USING (job_id)"
					  . " WHERE job_id = $job AND j.state = 'running'"
					  . ' GROUP BY j.losses');
				return 0 unless defined $done && $losses == 0;
				$first //= $done;
				return $done > $first + 1;
			}),
		"LLM job: its losses are forgiven, $n");
	$pid = job($node, $job, 'pid');
	sql($node, "SELECT pg_terminate_backend($pid)");
	poll($node,
		"SELECT count(*) FROM sabot.job_attempt WHERE job_id = $job",
		$n, "LLM job: losses recorded: $n");
}
sql($node, "SELECT sabot.cancel_job($job)");
ends($node, $job, 'canceled', 'LLM job: canceled');

$node->stop;
done_testing();
