# Graphs and dependencies, and what else goes on in a server: many locks at the
# same time, agents that are all busy, a crash, an owner that is gone.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('graphs', "deadlock_timeout = 10ms\n");

# settled(JOB, STATE, MESSAGE, ...) - test that a job comes to be in a state
sub settled
{
	my ($job, $state, $message, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll($node, "SELECT sabot.job_state($job)", $state, $message, %params);
	return;
}

# Two jobs fail at the same instant and take many others with them, some of
# them the same, which one of them comes to by a detour.

sql($node, q{SELECT sabot.start_agents(3)});
foreach my $round (1 .. 5)
{
	my $gate = user_session($node);

	$gate->query_safe('SELECT pg_advisory_lock(1)');
	sql($node, <<'SQL');
CREATE TEMP TABLE first AS
	SELECT sabot.submit_jobs(array_fill('SELECT pg_advisory_xact_lock_shared(1); SELECT 1 / 0'::text, '{2}')) AS ids;
CREATE TEMP TABLE detour AS
	SELECT sabot.submit_job('SELECT', depends_on => ids[1:1]) AS id FROM first;
CREATE TEMP TABLE middle AS
	SELECT sabot.submit_jobs(array_fill('SELECT'::text, '{200}'), depends_on => ARRAY[ids[2], id]) AS ids FROM first, detour;
SELECT count(sabot.submit_jobs(array_fill('SELECT'::text, '{200}'), depends_on => ids)) FROM first;
SQL
	poll($node,
		"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
		'2', "round $round: both are about to fail");
	$gate->query_safe('SELECT pg_advisory_unlock(1)');
	poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
		'0', "round $round: everything ends");
	$gate->quit;
}
is( sql($node,
		'SELECT state, count(*), max(losses) FROM sabot.job_status GROUP BY state ORDER BY state'),
	"failed|10|0\nskipped|2005|0",
	'all others were skipped');
is( sql($node,
		'SELECT sum(deadlocks) FROM pg_stat_database'),
	'0',
	'there was no deadlock');

# Jobs that others wait for are not run in groups, the others are; and what is
# run in a group while somebody comes to depend on it is waited for.

sql($node, 'ALTER ROLE CURRENT_USER SET sabot.group_commit = 50; SELECT FROM sabot.stop_agents()');
sql($node, <<'SQL');
CREATE TABLE effect (n int);
DO $$
DECLARE
	jobs bigint[];
BEGIN
	FOR i IN 1 .. 10 LOOP
		jobs := sabot.submit_jobs(array_fill('INSERT INTO effect VALUES (1)'::text, '{50}'));
		COMMIT;
		PERFORM sabot.submit_job(format('INSERT INTO effect SELECT -1 FROM sabot.job_status WHERE job_id = %s AND finished_at IS NULL', job),
			depends_on => ARRAY[job]) FROM unnest(jobs) AS job;
		COMMIT;
	END LOOP;
END $$;
SQL
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'jobs in groups, and what depends on them, end');
is(sql($node, 'SELECT n, count(*) FROM effect GROUP BY n'),
	'1|500', 'in their order');
sql($node, 'ALTER ROLE CURRENT_USER RESET sabot.group_commit; SELECT FROM sabot.stop_agents()');

# A graph is out of time while its own tasks keep all agents.

set_conf($node, 'sabot.pool_size' => 1);
my $graph = sql($node, <<'SQL');
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('sleeps', 'SELECT pg_sleep(1000)'),
	sabot.graph_task('waits', 'SELECT'),
	sabot.graph_task('after', 'SELECT', '{sleeps}')), timeout => '200 ms');
SQL
ends($node, $graph, 'failed', 'a graph without a free agent is out of time');
like(job($node, $graph, 'sqlstate, error'),
	qr/^57014\|job timed out after 200 ms$/, 'and says so');
poll($node,
	"SELECT string_agg(name || ' ' || state, ', ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph",
	'sleeps canceled, waits canceled, after canceled',
	'its tasks are canceled');
set_conf($node, 'sabot.pool_size' => 4);

# The deadline is kept across a crash.

$graph = sql($node, <<'SQL');
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('sleeps', 'SELECT pg_sleep(1000)'),
	sabot.graph_task('after', 'SELECT', '{sleeps}')), timeout => '3 s');
SQL
poll($node, "SELECT sabot.job_state($graph + 1)", 'running', 'a task runs');
$node->stop('immediate');
$node->start;
ends($node, $graph, 'failed', 'a graph is out of time after a crash');
is( sql($node,
		"SELECT extract(epoch FROM finished_at - submitted_at) >= 3 FROM sabot.job_status WHERE job_id = $graph"),
	't', 'but not before');
settled($graph + 1, 'canceled', 'its task is canceled');

# The owner of graphs is gone: their tasks fail, and they end.

sql($node, 'CREATE ROLE gone LOGIN');
sql($node, q{SELECT sabot.grant_usage('gone')});
set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
$graph = sql($node, <<'SQL', user => 'gone');
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT'),
	sabot.graph_task('b', 'SELECT'), sabot.graph_task('c', 'SELECT', '{a,b}')));
SQL
my $late = sql($node, <<'SQL', user => 'gone');
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT')), timeout => '1 ms');
SQL
sql($node, "SELECT sabot.pause_job($late + 1)", user => 'gone');
sql($node, q{SELECT sabot.revoke_usage('gone'); DROP ROLE gone});
set_conf($node, 'sabot.enabled' => 'on');
ends($node, $graph, 'failed', 'a graph whose owner is gone');
is( sql($node,
		"SELECT string_agg(name || ' ' || state, ', ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph"),
	'a failed, b failed, c skipped',
	'its tasks');
ends($node, $late, 'failed', 'one that is out of time');
like(job($node, $late, 'error'), qr/timed out/, 'for that');

# A graph is resumed before the agents of its tasks have come to the pause; while
# one of them writes it; and again and again, by two sessions at once.

sql($node, 'CREATE TABLE gate (open boolean)');
my $command = 'SELECT pg_sleep(600) WHERE NOT EXISTS (SELECT FROM gate)';
$graph = sql($node, <<"SQL");
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('a', \$\$$command\$\$), sabot.graph_task('b', \$\$$command\$\$),
	sabot.graph_task('c', 'SELECT', '{a,b}')))
SQL
my $states = "SELECT string_agg(state::text, ' ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph";
my $after = submit($node, $command, args => "depends_on => ARRAY[" . submit($node, 'SELECT') . "]");
running($node, $after);
poll($node, $states, 'running running blocked', 'resume: two tasks run');
sql($node, "SELECT sabot.pause_job($_)") foreach $graph, $after;
is(sql($node, "SELECT sabot.resume_job($_)"), 't', 'resume: at once') foreach $graph, $after;
is(sql($node, 'SELECT count(*) FROM sabot.job_signal'), '0', 'resume: no request is left');
poll($node, $states, 'running running blocked', 'resume: both run on, or again');
running($node, $after);
is(job($node, $after, 'state'), 'running', 'resume: so does a job that depends on others');

my $task = $graph + 1;
my $pid = running($node, $task);
my $locker = user_session($node);
$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $task FOR UPDATE");
sql($node, "SELECT sabot.pause_job($graph)");
poll($node, "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid",
	'transactionid', 'resume: a pause is written');
my $owner = user_session($node);
my $owner_pid = $owner->query_safe('SELECT pg_backend_pid()');
$owner->query_until(qr/asked/, "\\echo asked\nSELECT sabot.resume_job($graph);\n");
poll($node, "SELECT wait_event FROM pg_stat_activity WHERE pid = $owner_pid",
	'transactionid', 'resume: waits for that');
$locker->query_safe('COMMIT');
$owner->query_safe('SELECT 1');
$owner->quit;
$locker->quit;
poll($node, $states, 'running running blocked', 'resume: both run again');

my $script = "$PostgreSQL::Test::Utils::tmp_check/pause.sql";
append_to_file($script, <<"SQL");
SELECT sabot.pause_job($graph);
SELECT sabot.resume_job($graph);
SQL
$node->command_ok(
	[ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', '2', '-j', '2', '-t', '100', '-f', $script, 'postgres' ],
	'resume: two sessions');
sql($node, "SELECT sabot.resume_job($graph)");
poll($node, $states, 'running running blocked', 'resume: both run after all that');
my $single = submit($node, $command);
running($node, $single);
sql($node, 'INSERT INTO gate VALUES (true)');
is(sql($node, "SELECT sabot.pause_job($_), sabot.resume_job($_)"), 't|t', 'resume: in one transaction')
  foreach $graph, $after, $single;
ends($node, $_, 'completed', 'resume: and complete') foreach $graph, $after, $single;
is( sql($node, "SELECT string_agg(concat(attempt, ' ', losses), ', ') FROM sabot.job_task WHERE parent_id = $graph"),
	'1 0, 1 0, 1 0', 'resume: nothing was counted');

# A job depends on a graph that is purged before the job runs.

sql($node, q{SELECT sabot.pause_queue('held')});
my $other = submit($node, 'SELECT', args => "queue => 'held'");
$graph = sql($node,
	"SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT')))"
);
my $job = submit($node, 'SELECT', args => "depends_on => ARRAY[$graph, $other]");
ends($node, $graph, 'completed', 'a graph that others depend on');
sql($node, q{SELECT sabot.purge('0')});
is( sql($node,
		"SELECT count(*) FROM sabot.job_history WHERE job_id = $graph OR parent_id = $graph"),
	'0',
	'is purged with its tasks');
is(job($node, $job, 'state, wait_reason'), "blocked|waits for job $other",
	'what depends on it waits for the rest');
sql($node, q{SELECT sabot.resume_queue('held')});
ends($node, $job, 'completed', 'and runs then');

$node->stop;
done_testing();
