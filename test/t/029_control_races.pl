# Two sessions that are about the same job at the same instant: what one has
# promised is not undone by what the other, an agent or a prober saw before.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use SabotTest;
use Test::More;

my $node = new_node('control_races');

# A command that is at hold() goes on with it, however often it is interrupted,
# as long as table gate has a row.
sql($node, <<'SQL');
CREATE TABLE gate (name text);
CREATE FUNCTION hold() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE EXISTS (SELECT FROM gate) LOOP
		BEGIN
			PERFORM pg_sleep(0.05);
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
	END LOOP;
END $$;
CREATE TABLE t (id int PRIMARY KEY, x int DEFAULT 0);
INSERT INTO t SELECT generate_series(1, 8);
CREATE TABLE heap (id int);
INSERT INTO heap SELECT generate_series(1, 1000);
CREATE TABLE source (id int);
CREATE TABLE seen (id int);
SQL

# close_gate, open_gate - have hold() wait, or go on
sub close_gate { return sql($node, q{INSERT INTO gate VALUES ('x')}); }
sub open_gate { return sql($node, 'DELETE FROM gate'); }

# stream(COMMAND) - a stream of table source
sub stream
{
	my ($command) = @_;

	return sql($node,
		"SELECT sabot.submit_stream('source', \$job\$$command\$job\$)");
}

# waits(PID, EVENT, MESSAGE) - test that a process comes to wait for something
sub waits
{
	my ($pid, $event, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node,
		"SELECT wait_event FROM pg_stat_activity WHERE pid = $pid",
		$event, $message);
}

# begin_query(SQL) - a session that runs it: (session, pid)
sub begin_query
{
	my ($sql) = @_;
	my $session = user_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/begun/, "\\echo begun\n$sql;\n");
	return ($session, $pid);
}

# state(JOB) - its state
sub state
{
	my ($job) = @_;

	return sql($node, "SELECT sabot.job_state($job)");
}

# The last rows that a transaction writes, which also drops the trigger.
{
	my $job = stream('INSERT INTO seen SELECT id FROM batch');
	poll($node, "SELECT sabot.job_state($job)", 'blocked', 'stream is idle');
	sql($node, "SELECT sabot.pause_job($job)");
	my $writer = user_session($node);
	$writer->query_safe(<<"SQL");
BEGIN;
INSERT INTO source VALUES (1);
DROP TRIGGER sabot_stream_$job ON source;
LOCK TABLE pg_catalog.pg_trigger;
SQL
	sql($node, "SELECT sabot.resume_job($job)");
	# The agent is about to see whether the trigger is there.
	poll($node,
		"SELECT count(*) FROM pg_locks WHERE relation = 'pg_trigger'::regclass AND NOT granted",
		'1', 'agent looks for the trigger');
	$writer->query_safe('COMMIT');
	$writer->quit;
	ends($node, $job, 'failed', 'stream without a trigger ends');
	is(sql($node, 'SELECT count(*) FROM seen'),
		1, 'the rows that were written before it was dropped are handed over');
	sql($node, 'TRUNCATE seen');
}

# What was passed over because somebody was about to end it is looked for when
# he does not: a stream whose agent was told of rows meanwhile.
{
	my $job = stream('INSERT INTO seen SELECT id FROM batch');
	sql($node, 'TRUNCATE seen; INSERT INTO source VALUES (1)');
	poll($node, "SELECT sabot.job_state($job), count(*) FROM seen", 'blocked|1', 'given up: stream is idle');
	my ($first, $second) = map { user_session($node) } 1 .. 2;
	$_->query_safe('BEGIN; INSERT INTO source VALUES (2)') foreach $first, $second;
	my ($owner, $pid) = begin_query("SELECT sabot.cancel_job($job)");
	waits($pid, 'relation', 'given up: cancel waits for those who have written');
	my $looks = 'SELECT sum(jobs_done) FROM sabot.agent_status';
	my $before = sql($node, $looks);
	$first->query_safe('COMMIT');
	poll($node, "SELECT ($looks) > $before", 't', 'given up: an agent was told, and has looked');
	sql($node, "SELECT pg_cancel_backend($pid)");
	poll($node, 'SELECT count(*) FROM seen', '2', 'given up: rows are handed over');
	$second->query_safe('COMMIT');
	poll($node, 'SELECT count(*) FROM seen', '3', 'given up: those of the next one, too');
	$_->quit foreach $first, $second, $owner;
	sql($node, "SELECT sabot.cancel_job($job)");
	ends($node, $job, 'canceled', 'given up: canceled');
	sql($node, 'TRUNCATE seen');
}

# A pause that a running job has not come to is taken back.
{
	close_gate();
	my $job = stream('INSERT INTO seen SELECT id FROM batch; SELECT hold()');
	sql($node, 'INSERT INTO source VALUES (1)');
	running($node, $job);
	sql($node, "SELECT sabot.pause_job($job)");
	is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'stream: pause is taken back');
	open_gate();
	poll($node, 'SELECT count(*) FROM seen', '1', 'stream: the batch is handed over');
	sql($node, 'INSERT INTO source VALUES (2)');
	poll($node, 'SELECT count(*) FROM seen', '2', 'stream: the next one, too');
	sql($node, "SELECT sabot.cancel_job($job)");
	ends($node, $job, 'canceled', 'stream: canceled');
}
{
	close_gate();
	my $graph = sql($node, <<'SQL');
SELECT sabot.submit_graph('[{"name": "a", "command": "SELECT hold()"},
	{"name": "b", "command": "SELECT 1", "after": ["a"]}]')
SQL
	my $task = sql($node, "SELECT min(job_id) FROM sabot.job_task WHERE parent_id = $graph");
	running($node, $task);
	sql($node, "SELECT sabot.pause_job($graph)");
	is(sql($node, "SELECT sabot.resume_job($graph)"), 't', 'graph: it is resumed');
	open_gate();
	ends($node, $graph, 'completed', 'graph: none of its tasks is paused');
}
{
	close_gate();
	my $first = submit($node, 'SELECT 1');
	my $job = submit($node, 'SELECT hold()', args => "depends_on => ARRAY[$first]");
	running($node, $job);
	sql($node, "SELECT sabot.pause_job($job)");
	is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'dependent: pause is taken back');
	open_gate();
	ends($node, $job, 'completed', 'dependent: it is not paused');
}

# A job is paused as its agent has just made its pieces, which who pauses it
# could not see.
{
	my ($locker, $signals, $holder) = map { user_session($node) } 1 .. 3;
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $job = submit($node,
		'INSERT INTO seen SELECT id FROM heap, pg_advisory_xact_lock_shared(1) WHERE id <= 2',
		args => q{over => 'heap', pieces => 4, run_after => 'infinity'});
	$locker->query_safe('BEGIN; LOCK TABLE heap');
	sql($node, "SELECT sabot.pause_job($job); UPDATE sabot.job SET run_after = NULL WHERE job_id = $job");
	sql($node, "SELECT sabot.resume_job($job)");
	running($node, $job);
	$signals->query_safe('BEGIN; LOCK TABLE sabot.job_signal IN SHARE MODE');
	my ($owner, $pid) = begin_query("SELECT sabot.pause_job($job)");
	waits($pid, 'relation', 'pieces: pause is about to be asked for');
	$locker->query_safe('COMMIT');
	poll($node, "SELECT count(*) FROM sabot.job_task WHERE parent_id = $job", '4', 'pieces: there they are');
	$signals->query_safe('COMMIT');
	poll($node, "SELECT string_agg(DISTINCT state::text, ' ') FROM sabot.job WHERE parent_id = $job",
		'paused', 'pieces: they are paused');
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'pieces: resumed');
	ends($node, $job, 'completed', 'pieces: completed');
	$_->quit foreach $owner, $signals, $locker, $holder;
}

# ... and so is one that a prober has seen, before it comes to that.
{
	my ($first, $second) = map { submit($node, 'SELECT 1', args => q{run_after => 'infinity'}) } 1 .. 2;
	my $locker = user_session($node);
	$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $first FOR UPDATE");
	# As of sessions that were lost before they told the agents.
	sql($node, "INSERT INTO sabot.job_signal VALUES ($first, 'cancel'), ($second, 'pause')");
	sql($node, <<'SQL');
BEGIN;
SELECT sabot.submit_job('SELECT 1');
PREPARE TRANSACTION 'x';
COMMIT PREPARED 'x';
SQL
	poll($node, q{SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'sabot prober'},
		'transactionid', 'prober: it waits for the row of the first job');
	is(sql($node, "SELECT sabot.resume_job($second)"), 't', 'prober: pause of the second one is taken back');
	$locker->query_safe('COMMIT');
	$locker->quit;
	ends($node, $first, 'canceled', 'prober: first job');
	poll($node, 'SELECT count(*) FROM sabot.job_signal', '0', 'prober: has seen to both');
	poll($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot prober'}, '0', 'prober: is done');
	is(sql($node, "SELECT sabot.job_state($second)"), 'scheduled', 'prober: second job is not paused');
}

# Pieces with pauses between them, of which some end while the others are locked
# by who pauses the job, and then does not.
{
	my ($holder, $locker) = map { user_session($node) } 1 .. 2;
	$holder->query_safe('SELECT pg_advisory_lock(2)');
	my $other = submit($node, 'SELECT 1', args => q{run_after => 'infinity'});
	$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $other FOR UPDATE");
	my $job = submit($node, 'UPDATE t SET x = x + 1 FROM pg_advisory_xact_lock_shared(2)',
		args => q{over => 't', pieces => 8, piece_pause => '1 ms'});
	poll($node, "SELECT count(*) > 0 FROM sabot.job_task WHERE parent_id = $job AND state = 'running'",
		't', 'pauses: pieces run');
	my ($owner, $pid) = begin_query(
		"BEGIN; SELECT sabot.pause_job($job), sabot.cancel_job($other); COMMIT");
	waits($pid, 'transactionid', 'pauses: pieces are about to be paused');
	$holder->query_safe('SELECT pg_advisory_unlock(2)');
	poll($node, "SELECT DISTINCT state FROM sabot.job_task WHERE parent_id = $job AND finished_at IS NULL",
		'blocked', 'pauses: all others have ended');
	sql($node, "SELECT pg_cancel_backend($pid)");
	ends($node, $job, 'completed', 'pauses: the job goes on');
	is(sql($node, 'SELECT DISTINCT x FROM t'), '1', 'pauses: each row once');
	$_->quit foreach $holder, $locker, $owner;
	sql($node, "SELECT sabot.cancel_job($other)");
}

# An agent that is to pause a job does not wait for a transaction that takes
# this back and is not committed.
{
	close_gate();
	my ($first, $second) = map { submit($node, 'SELECT hold()') } 1 .. 2;
	my $owner = user_session($node);
	running($node, $_) foreach $first, $second;
	sql($node, "SELECT sabot.pause_job($_)") foreach $first, $second;
	is($owner->query_safe("BEGIN; SELECT sabot.resume_job($first)"), 't', 'open: pause is taken back');
	open_gate();
	ends($node, $first, 'completed', 'open: the job has run');
	poll($node, "SELECT sabot.job_state($second)", 'paused', 'open: the other one is paused');
	$owner->query_safe('COMMIT');

	close_gate();
	sql($node, "SELECT sabot.resume_job($second)");
	running($node, $second);
	sql($node, "SELECT sabot.pause_job($second)");
	$owner->query_safe("BEGIN; SAVEPOINT s; SELECT sabot.resume_job($second); ROLLBACK TO s");
	open_gate();
	poll($node, "SELECT sabot.job_state($second)", 'paused', 'open: or not taken back after all');
	$owner->quit;
	sql($node, "SELECT sabot.resume_job($second)");
	ends($node, $second, 'completed', 'open: all have run');
}

# A role whose transactions would wait for others to end: its stream does not
# wait to find that there is nothing to do.
{
	sql($node, <<'SQL');
CREATE ROLE patient LOGIN;
SELECT sabot.grant_usage('patient');
ALTER ROLE patient SET default_transaction_isolation = serializable;
ALTER ROLE patient SET default_transaction_deferrable = on;
GRANT CREATE ON SCHEMA public TO patient;
SQL
	my $job = sql($node, <<'SQL', user => 'patient');
CREATE TABLE own (id int);
SELECT sabot.submit_stream('own', 'SELECT count(*) FROM batch');
SQL
	poll($node, "SELECT sabot.job_state($job)", 'blocked', 'patient: idle');
	sql($node, 'ALTER ROLE patient SET default_transaction_read_only = on');
	sql($node, "SELECT sabot.pause_job($job)");
	my $other = user_session($node);
	$other->query_safe('CREATE TABLE other (id int); BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO other VALUES (1)');
	sql($node, "SELECT sabot.resume_job($job)");
	poll($node, "SELECT state FROM sabot.job WHERE job_id = $job", 'blocked', 'patient: its agent has looked');
	poll($node, "SELECT sabot.job_state($job)", 'blocked', 'patient: and gone');
	$other->quit;
	sql($node, "SELECT sabot.cancel_job($job)");
}

# A request that comes when its attempt has ended, and the agent has not gone.
{
	my ($holder, $locker) = map { user_session($node) } 1 .. 2;
	$holder->query_safe('SELECT pg_advisory_lock(3)');
	my $job = submit($node, <<'SQL', args => q{max_attempts => 2, retry_delay => '1 h'});
DO 'BEGIN PERFORM pg_advisory_xact_lock_shared(3); RAISE ''no''; END'
SQL
	my $pid = running($node, $job);
	$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $job FOR UPDATE");
	$holder->query_safe('SELECT pg_advisory_unlock(3)');
	waits($pid, 'transactionid', 'late: its failure is written');
	is(sql($node, "SELECT sabot.cancel_job($job)"), 't', 'late: canceled');
	$locker->query_safe('COMMIT');
	ends($node, $job, 'canceled', 'late: it is not tried again');
	$_->quit foreach $holder, $locker;
}

# Who was told that his job is canceled is not told otherwise.
{
	close_gate();
	my $job = submit($node, 'SELECT hold()');
	running($node, $job);
	is(sql($node, "SELECT sabot.cancel_job($job)"), 't', 'canceled');
	sql($node, "SELECT sabot.pause_job($job)");
	open_gate();
	ends($node, $job, 'canceled', 'it stays so, paused or not');
}

# A job finds what was made by the transaction that submits it, though its agent
# has just found that it was not there.
sql($node, <<'SQL');
CREATE PROCEDURE make_late(n int, INOUT failed int) LANGUAGE plpgsql AS $$
DECLARE
	job bigint;
BEGIN
	failed := 0;
	FOR i IN 1 .. n LOOP
		FOR try IN 1 .. 2 LOOP
			IF try = 2 THEN
				EXECUTE format('CREATE FUNCTION late_%s() RETURNS int RETURN 1', i);
			END IF;
			job := sabot.submit_job(format('SELECT late_%s()', i));
			COMMIT;
			WHILE sabot.job_state(job) NOT IN ('completed', 'failed') LOOP
				PERFORM pg_sleep(0.001);
				COMMIT;
			END LOOP;
		END LOOP;
		failed := failed + (sabot.job_state(job) = 'failed')::int;
	END LOOP;
END $$;
SQL
is(sql($node, 'CALL make_late(150, 0)'), '0', 'functions that come with a job are there');

done_testing();
