# What becomes of running jobs when their agent, the launcher or the server
# dies under them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('crash', "sabot.agent_idle_timeout = 1h\n");

# A job that has had its effect waits as long as its row is in the table gate.
sql($node, <<'SQL');
CREATE TABLE effect (name text, pid int DEFAULT pg_backend_pid());
CREATE TABLE gate (name text);
CREATE FUNCTION pass(gate text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM gate AS g WHERE g.name = pass.gate) THEN
		PERFORM pg_sleep(600);
	END IF;
END $$;
CREATE PROCEDURE call(name text) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effect VALUES (name);
	COMMIT;
	PERFORM pass(name);
END $$;
SQL

# begin_job(NAME, COMMAND, ARGUMENTS) - a job that runs and waits at its gate;
# the next attempt will pass it.  Returns (job, pid).
sub begin_job
{
	my ($name, $command, $args) = @_;

	sql($node, "INSERT INTO gate VALUES ('$name')");
	$command //= "INSERT INTO effect VALUES ('$name'); SELECT pass('$name')";
	my $job = submit($node, $command, args => $args);
	my $pid = running($node, $job);
	sql($node, "DELETE FROM gate WHERE name = '$name'");
	return ($job, $pid);
}

# effects(NAME, N, MESSAGE) - test how often a job had its effect
sub effects
{
	my ($name, $n, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql($node, "SELECT count(*) FROM effect WHERE name = '$name'"),
		$n, $message);
	return;
}

# SIGKILL of an agent restarts the server

my ($job, $pid) = begin_job('kill');
kill_pid($pid);
server_back($node, 'the server starts again after a SIGKILL');
ends($node, $job, 'completed', 'SIGKILL: the job runs again');
effects('kill', 1, 'SIGKILL: its effect is there once');
is(job($node, $job, 'attempt, losses'), '2|1', 'SIGKILL: the loss is counted');
is(attempts($node, $job), '1 57P02', 'SIGKILL: and recorded');
like(
	sql($node, "SELECT error FROM sabot.job_attempt WHERE job_id = $job"),
	qr/^agent was lost/,
	'SIGKILL: as a lost agent');
is(sql($node, "SELECT pid FROM sabot.job_attempt WHERE job_id = $job"),
	$pid, 'SIGKILL: with its pid');

# A job that always kills its agent, and one that has nothing to do with it.
# The crash may hit the session that lets them begin.

my $other;
sql($node, q{SELECT sabot.pause_queue('killer')});
($job, $other) = split /\|/,
  sql($node,
	q{SELECT sabot.submit_job($$COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID'$$,
		max_attempts => 9, queue => 'killer'),
	sabot.submit_job($$INSERT INTO effect VALUES ('other')$$,
		queue => 'killer')});
try_sql($node, q{SELECT sabot.resume_queue('killer')});
ends($node, $job, 'failed', 'a job that kills its agents is given up');
is(job($node, $job, 'attempt, losses, sqlstate'),
	'3|3|57P02', 'after sabot.max_crashes losses');
like(
	job($node, $job, 'error'),
	qr/agent was lost while it ran the job, 3 times/,
	'with the reason');
like(attempts($node, $job), qr/^1 57P02, 2 57P02/, 'each loss is recorded');
ends($node, $other, 'completed', 'another job is run all the same');
effects('other', 1, 'once');

# pg_terminate_backend: the agent exits FATAL

($job, $pid) = begin_job('terminate');
my $waiter = user_session($node);
$waiter->query_until(qr/begun/,
	"\\echo begun\nCALL sabot.wait_for_job($job);\n\\echo waited\n");
sql($node, "SELECT pg_terminate_backend($pid)");
$waiter->query_until(qr/waited/, '');
ends($node, $job, 'completed', 'terminated: the job runs again');
is($waiter->{stderr}, '', 'terminated: who waits for it is not bothered');
$waiter->quit;
effects('terminate', 1, 'terminated: its effect is there once');
is(job($node, $job, 'attempt, losses'), '2|1', 'terminated: counted');
is(attempts($node, $job), '1 57P01', 'terminated: recorded');

set_conf($node, 'sabot.max_crashes' => 2);
poll($node, 'SHOW sabot.max_crashes', '2', 'max_crashes follows a reload');
$job = submit($node,
	"INSERT INTO effect VALUES ('suicide'); SELECT pg_terminate_backend(pg_backend_pid())"
);
ends($node, $job, 'failed', 'a job that terminates itself is given up');
is(job($node, $job, 'attempt, losses, sqlstate'),
	'2|2|57P01', 'after sabot.max_crashes losses');
effects('suicide', 0, 'without effects');
set_conf($node, 'sabot.max_crashes' => 3);

($job, $pid) = begin_job('error',
	"INSERT INTO effect VALUES ('error'); SELECT pass('error'); SELECT 1/0");
sql($node, "SELECT pg_terminate_backend($pid)");
ends($node, $job, 'failed', 'a loss is not an attempt that max_attempts counts');
is(job($node, $job, 'attempt, losses, sqlstate'), '2|1|22012',
	'the one attempt of its own was made');

# Stops in mid-job

($job, $pid) = begin_job('immediate');
$node->stop('immediate');
$node->start;
ends($node, $job, 'completed', 'immediate stop: the job runs again');
effects('immediate', 1, 'immediate stop: its effect is there once');
is(job($node, $job, 'attempt, losses'), '2|1', 'immediate stop: counted');

($job, $pid) = begin_job('fast');
$node->stop('fast');
$node->start;
ends($node, $job, 'completed', 'fast stop: the job is given back');
effects('fast', 1, 'fast stop: its effect is there once');
is(job($node, $job, 'attempt, losses'), '1|0', 'fast stop: nothing is counted');
is(attempts($node, $job), '', 'fast stop: nor recorded');

# Outside a transaction block too, where it has had effects

($job, $pid) = begin_job('fast outside',
	"INSERT INTO effect VALUES ('fast outside'); SELECT pass('fast outside')",
	'atomic => false');
$node->stop('fast');
$node->start;
ends($node, $job, 'completed', 'fast stop, outside: the job is given back');
effects('fast outside', 2, 'fast stop, outside: it was started over');
is(job($node, $job, 'attempt, losses, atomic'),
	'1|0|f', 'fast stop, outside: nothing is counted');
is(attempts($node, $job), '', 'fast stop, outside: nor recorded');

# Where that cannot be recorded, the attempt counts as lost.

($job, $pid) = begin_job('fast locked',
	"INSERT INTO effect VALUES ('fast locked'); SELECT pass('fast locked')",
	'atomic => false');
sql($node, <<'SQL');
BEGIN;
LOCK sabot.job IN SHARE MODE;
CREATE TABLE prepared ();
PREPARE TRANSACTION 'lock';
SQL
$node->stop('fast');
$node->start;
sql($node, "ROLLBACK PREPARED 'lock'");
ends($node, $job, 'failed', 'fast stop that cannot be recorded: lost');
effects('fast locked', 1, 'fast stop that cannot be recorded: one attempt');

# Jobs whose effects cannot be undone

my %kinds = (
	'vacuum' => "INSERT INTO effect VALUES ('NAME'); VACUUM effect; SELECT pass('NAME')",
	'call' => "CALL call('NAME')");
foreach my $kind (sort keys %kinds)
{
	foreach my $max (1, 2)
	{
		my $name = "$kind $max";
		my $command = $kinds{$kind} =~ s/NAME/$name/gr;

		# Another job of the same role must not bring an agent that takes the
		# lost one before it is known to be lost.
		($job, $pid) = begin_job($name, $command, "max_attempts => $max");
		kill_pid($pid);
		server_back($node, "$name: the server is back");
		ends($node, submit($node, 'SELECT 1'),
			'completed', "$name: another job");
		ends($node, $job, $max == 1 ? 'failed' : 'completed',
			"$name: lost with max_attempts => $max");
		effects($name, $max, "$name: number of attempts");
		is(job($node, $job, 'attempt, losses, atomic'),
			"$max|1|f", "$name: is known not to be atomic");
		is(job($node, $job, 'pid'), $pid, "$name: of which agent")
		  if $max == 1;
		is(attempts($node, $job), '1 57P02', "$name: the loss is recorded");

		$name .= ' terminated';
		$command = $kinds{$kind} =~ s/NAME/$name/gr;
		($job, $pid) = begin_job($name, $command, "max_attempts => $max");
		sql($node, "SELECT pg_terminate_backend($pid)");
		ends($node, $job, $max == 1 ? 'failed' : 'completed',
			"$name: lost with max_attempts => $max");
		effects($name, $max, "$name: number of attempts");
	}
}

# Until a loss is dealt with nobody takes the job, however long that lasts and
# whatever other work the same role has.

my $lock = user_session($node);
foreach my $atomic ('true', 'false')
{
	my $name = "unsettled $atomic";

	($job, $pid) = begin_job($name, undef, "atomic => $atomic");
	$lock->query_safe('BEGIN; LOCK sabot.job_attempt_log IN SHARE MODE');
	sql($node, "SELECT pg_terminate_backend($pid)");
	ok(wait_until(sub { !alive($pid) }), "$name: the agent is gone");
	sql($node, 'SELECT sabot.stop_agents()');
	ends($node, submit($node, 'SELECT 1'),
		'completed', "$name: other work is done meanwhile");
	effects($name, $atomic eq 'true' ? 0 : 1,
		"$name: the lost job is not taken meanwhile");
	$lock->query_safe('COMMIT');
	ends($node, $job, $atomic eq 'true' ? 'completed' : 'failed',
		"$name: it ends when its loss is recorded");
	effects($name, 1, "$name: one effect");
}
$lock->quit;

# A request that is committed is not forgotten, whatever becomes of the agent.
# A stopped process cannot act upon it.

foreach my $mode ('SIGKILL', 'terminated', 'immediate')
{
	($job, $pid) = begin_job("cancel $mode");
	kill('STOP', $pid) == 1 or die "could not stop process $pid: $!";
	is(sql($node, "SELECT sabot.cancel_job($job)"),
		't', "cancel and $mode: cancel_job");
	if ($mode eq 'SIGKILL')
	{
		kill_pid($pid);
		server_back($node, 'the server is back');
	}
	elsif ($mode eq 'terminated')
	{
		sql($node, "SELECT pg_terminate_backend($pid)");
		kill('CONT', $pid);
	}
	else
	{
		kill('CONT', $pid) if $node->stop('immediate');
		$node->start;
	}
	ends($node, $job, 'canceled', "cancel and $mode: canceled");
	effects("cancel $mode", 0, "cancel and $mode: no effects");
}

($job, $pid) = begin_job('pause');
kill('STOP', $pid) == 1 or die "could not stop process $pid: $!";
sql($node, "SELECT sabot.pause_job($job)");
kill_pid($pid);
server_back($node, 'the server is back');
poll($node, "SELECT state, wait_reason FROM sabot.job_status WHERE job_id = $job",
	'paused|paused by its owner', 'pause and SIGKILL: paused');
effects('pause', 0, 'pause and SIGKILL: no effects');
is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'resumed');
ends($node, $job, 'completed', 'pause and SIGKILL: runs when resumed');
effects('pause', 1, 'pause and SIGKILL: effects then');

# transaction_timeout ends the agent, since PostgreSQL 17, and is the job's own
# error all the same.

SKIP:
{
	skip 'there is no transaction_timeout', 12
	  if sql($node,
		"SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'") eq
	  '0';
	foreach my $max (1, 2)
	{
		my $name = "transaction_timeout, max_attempts => $max";

		$job = submit($node,
			"INSERT INTO effect VALUES ('timeout $max');"
			  . " SET transaction_timeout = '100 ms'; SELECT pg_sleep(600)",
			args => "max_attempts => $max, retry_delay => '10 ms'");
		ends($node, $job, 'failed', "$name: the job fails");
		is(job($node, $job, 'attempt, losses, sqlstate'),
			"$max|0|25P04", "$name: with its own error");
		like(job($node, $job, 'error'),
			qr/due to transaction timeout/, "$name: which one");
		like(job($node, $job, 'error_hint'),
			qr/transaction_timeout/, "$name: what to do");
		effects("timeout $max", 0, "$name: no effects");
		ends($node, submit($node, 'SELECT 1'),
			'completed', "$name: other work is done");
	}
}

# The launcher

my $launcher = sql($node,
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'sabot launcher'");
sql($node, "INSERT INTO gate VALUES ('launcher')");
$job = submit($node,
	"INSERT INTO effect VALUES ('launcher'); SELECT pg_sleep(1), pass('gone')");
$pid = running($node, $job);
sql($node, "SELECT pg_terminate_backend($launcher)");
ok(wait_until(sub { !alive($launcher) }), 'the launcher is gone');
$other = submit($node, "INSERT INTO effect VALUES ('without')");
poll(
	$node,
	"SELECT count(*), bool_and(pid <> $launcher) FROM pg_stat_activity"
	  . " WHERE backend_type = 'sabot launcher'",
	'1|t',
	'another launcher has come');
ends($node, $job, 'completed', 'the running job is not affected');
is(job($node, $job, 'pid, attempt, losses'), "$pid|1|0", 'in any way');
effects('launcher', 1, 'nor its effects');
ends($node, $other, 'completed', 'work submitted meanwhile is done');

$launcher = sql($node,
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'sabot launcher'");
($job, $pid) = begin_job('launcher killed');
kill_pid($launcher);
server_back($node, 'the server starts again without its launcher');
ends($node, $job, 'completed', 'the job runs again');
effects('launcher killed', 1, 'with effects once');

is( sql($node,
		"SELECT string_agg(DISTINCT state::text, ' ' ORDER BY state::text)"
		  . " FROM sabot.job_status"),
	'canceled completed failed',
	'nothing is left over');

$node->stop;
done_testing();
