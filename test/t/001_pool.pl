# The pool: agents start when there is work, stay warm, give way, and are
# replaced when they are not anymore what a new login would be.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('pool', "track_counts = on\n");
my $me = sql($node, 'SELECT current_user');

sql($node, "CREATE ROLE $_ LOGIN; SELECT sabot.grant_usage('$_')")
  foreach qw(alice bob carol);

my $through_gate = 'SELECT pg_advisory_xact_lock(1)';

# closed_gate() - a session that keeps jobs of $through_gate running
sub closed_gate
{
	my $session = user_session($node);

	$session->query_safe('SELECT pg_advisory_lock(1)');
	return $session;
}

# Lazy start

$node->restart;
poll($node, 'SELECT launcher_running FROM sabot.pool_counters()',
	't', 'the launcher runs');
is(sql($node, 'SELECT agents, starts FROM sabot.pool_status'),
	'0|0', 'no agent without work');
my $job = submit($node, 'SELECT 1');
ends($node, $job, 'completed', 'the first job starts an agent');
is(sql($node, 'SELECT count(*) FROM sabot.agent_status'),
	'1', 'one agent for one job');
my $agent = job($node, $job, 'pid');
$job = submit($node, 'SELECT 1');
ends($node, $job, 'completed', 'second job');
is(job($node, $job, 'pid'), $agent, 'runs on the same warm agent');
is( sql($node,
		"SELECT database, role, jobs_done, queries_done FROM sabot.agent_status"),
	"postgres|$me|2|0",
	'agent_status');

# start_agents, stop_agents

is(sql($node, 'SELECT sabot.start_agents(3)', user => 'alice'),
	'3', 'start_agents returns how many there are');
poll(
	$node,
	"SELECT count(*) FROM sabot.agent_status WHERE state = 'idle'",
	'3', 'start_agents: of one role',
	user => 'alice');
is(sql($node, 'SELECT count(*) FROM sabot.agent_status', user => 'bob'),
	'0', "others do not see a role's agents");
my $warm = agent_of($node, 'alice');
my $before = sql($node, 'SELECT evictions FROM sabot.pool_status');
is(sql($node, 'SELECT sabot.start_agents(2)', user => 'bob'),
	'0', 'start_agents in a full pool: there is no place');
is(agent_of($node, 'alice') . ' ' . agent_of($node, $me),
	"$warm $agent", 'start_agents in a full pool: idle agents stay');
is(sql($node, 'SELECT evictions FROM sabot.pool_status'),
	$before, 'start_agents in a full pool: nor is one replaced');
is(sql($node, 'SELECT sabot.stop_agents()', user => 'alice'),
	'3', 'stop_agents returns how many it asks to leave');
poll($node, 'SELECT count(*) FROM sabot.agent_status',
	'0', 'stop_agents: they leave', user => 'alice');
is(agent_of($node, $me), $agent, "stop_agents leaves others' agents alone");

my $gate = closed_gate();
my $busy = submit($node, $through_gate, user => 'alice');
running($node, $busy);
is(sql($node, 'SELECT sabot.stop_agents()', user => 'alice'),
	'1', 'stop_agents counts busy agents');
$gate->quit;
ends($node, $busy, 'completed', 'a busy agent ends its job before it leaves');
is(job($node, $busy, 'attempt, losses'), '1|0', 'in one attempt');
is(agent_of($node, 'bob'),
	'', 'start_agents: places that become free later are not taken');
is(sql($node, 'SELECT sabot.start_agents()', user => 'bob'),
	'3', 'start_agents: as many as there is room for');
ends($node, submit($node, 'SELECT 1', user => $_),
	'completed', 'an idle agent makes way for work')
  foreach $me, 'alice';
poll($node, "SELECT count(*) FROM sabot.agent_status WHERE role = 'bob'",
	'2', 'and one is enough');
sql($node, 'SELECT sabot.stop_agents()', user => $_) foreach 'alice', 'bob';

# Idle timeout and keep_agents

sql($node, 'CREATE DATABASE app');
sql($node, "CREATE EXTENSION sabot; SELECT sabot.grant_usage('carol')",
	db => 'app');
sql($node, 'ALTER ROLE carol IN DATABASE app SET sabot.keep_agents = 2');
poll($node,
	"SELECT count(*) FROM sabot.agent_status WHERE role = 'carol'",
	'2', 'keep_agents starts agents when it is set');
set_conf($node, 'sabot.agent_idle_timeout' => '1s');
$node->restart;
poll(
	$node,
	"SELECT count(*) FROM sabot.agent_status WHERE role = 'carol'"
	  . " AND database = 'app' AND state = 'idle'",
	'2',
	'keep_agents: there from server start on');
my $kept = agent_of($node, 'carol');
$job = submit($node, 'SELECT 1', user => 'bob');
ends($node, $job, 'completed', 'a job starts an agent that is not kept');
poll($node, 'SELECT DISTINCT role FROM sabot.agent_status',
	'carol', 'which leaves when it has been idle for too long');
is(agent_of($node, 'carol'), $kept, 'those that are kept stay');
sql($node, 'ALTER ROLE carol IN DATABASE app RESET sabot.keep_agents');
poll($node, 'SELECT count(*) FROM sabot.agent_status',
	'0', 'they leave when they are not to be kept anymore');

# Eviction of the least recently used

set_conf(
	$node,
	'sabot.agent_idle_timeout' => '10min',
	'sabot.pool_size' => 2);
poll($node, 'SELECT slots FROM sabot.pool_status',
	'2', 'pool_size follows a reload');
foreach my $role (qw(alice bob alice))
{
	$job = submit($node, 'SELECT 1', user => $role);
	ends($node, $job, 'completed', "job of $role");
}
poll($node,
	"SELECT count(*) FROM sabot.agent_status WHERE state = 'idle'",
	'2', 'the pool is full of idle agents');
my %before = map { $_ => agent_of($node, $_) } qw(alice bob);
my $evictions = sql($node, 'SELECT evictions FROM sabot.pool_status');
$job = submit($node, 'SELECT 1', user => 'carol');
ends($node, $job, 'completed', 'a third role gets an agent');
is(agent_of($node, 'bob'), '', 'in the place of the least recently used one');
is(agent_of($node, 'alice'), $before{alice}, 'the other one stays');
is(sql($node, 'SELECT evictions FROM sabot.pool_status'),
	$evictions + 1, 'one eviction was counted');

# The doctor is not worried until idle agents take too long to make way.

my @idle = map { agent_of($node, $_) } qw(alice carol);
my $worry = "SELECT NOT ok FROM sabot.check() WHERE subject = 'pool size'";
kill('STOP', @idle);
sql($node, <<"SQL");
CREATE TABLE worry AS $worry;
DO \$\$
BEGIN
	PERFORM sabot.submit_job('SELECT 1');
	COMMIT;
	FOR i IN 1 .. 60000 LOOP
		EXIT WHEN (SELECT waiting_pairs > 0 FROM sabot.pool_status);
		PERFORM pg_sleep(0.001);
	END LOOP;
	INSERT INTO worry $worry;
END \$\$;
SQL
is(sql($node, "SELECT string_agg(w::text, ' ') FROM worry AS w"),
	'(f) (f)', 'sabot.check(): work that idle agents will make way for');
poll($node, $worry, 't', 'sabot.check(): work for which nobody makes way');
kill('CONT', @idle);
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'it is done');
poll($node, $worry, 'f', 'sabot.check(): nobody waits anymore');

# Round-robin

sql($node, <<'SQL', db => $_) foreach qw(postgres app);
CREATE TABLE done (role name DEFAULT session_user, pid int DEFAULT pg_backend_pid());
CREATE TABLE over ();
GRANT INSERT, SELECT ON done TO PUBLIC;
GRANT SELECT ON over TO PUBLIC;
SELECT sabot.grant_usage(r) FROM unnest('{alice,bob,carol}'::regrole[]) AS r;
-- The 3 jobs that a role begins with go on for ever.
CREATE FUNCTION step() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.01);
	INSERT INTO done DEFAULT VALUES;
	IF to_regclass('over') IS NOT NULL THEN
		PERFORM sabot.submit_job('SELECT step()');
	END IF;
END $$;
SQL
set_conf($node, 'sabot.pool_size' => 1);
foreach my $db (qw(postgres app))
{
	foreach my $role (qw(alice bob carol))
	{
		submit($node, 'SELECT step()', user => $role, db => $db) for 1 .. 3;
	}
}
foreach my $db (qw(postgres app))
{
	poll(
		$node,
		'SELECT count(*) FROM (SELECT role FROM done GROUP BY role'
		  . ' HAVING count(*) > 3 AND count(DISTINCT pid) > 2) AS r',
		'3',
		"one agent for six: every role in $db gets its turn again",
		db => $db);
}
is(sql($node, 'SELECT agents FROM sabot.pool_status'),
	'1', 'there is still one agent only');
foreach my $db (qw(postgres app))
{
	sql($node, 'DROP TABLE over', db => $db);
	poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
		'0', "the work in $db ends", db => $db);
	is( sql($node, 'SELECT count(*) - count(DISTINCT job_id) FROM sabot.job_status',
			db => $db),
		'0',
		"each job in $db once");
	is( sql($node,
			"SELECT (SELECT count(*) FROM done) = (SELECT count(*)"
			  . " FROM sabot.job_status WHERE command = 'SELECT step()')",
			db => $db),
		't',
		"every job in $db had its effect once");
}
set_conf($node, 'sabot.pool_size' => 4);

# What becomes due is not held up by other work that waits

sql($node, q{SELECT sabot.submit_job_each('SELECT pg_sleep(0.01)',
	(SELECT jsonb_agg('[]'::jsonb) FROM generate_series(1, 1500)))},
	user => 'alice');
poll($node, "SELECT count(*) FROM sabot.agent_status WHERE role = 'alice' AND jobs_done > 10",
	'4', 'all agents are at work');
$job = submit(
	$node,
	'SELECT 1',
	user => 'alice',
	args => "priority => 1, run_after => clock_timestamp() + interval '0.1 s'");
ends($node, $job, 'completed', 'a job that was due later');
cmp_ok(
	sql($node,
		"SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL OR"
		  . " finished_at > (SELECT finished_at FROM sabot.job_status WHERE job_id = $job)"
	),
	'>', 100,
	'was done before most of the others');
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'the others are done too');

# Settings and authority

# seen(ROLE, SETTING) - test that a new agent of the role has the setting now
sub seen
{
	my ($role, $query, $expected, $message, %params) = @_;
	my $id = submit($node, "SELECT ($query) AS v",
		args => 'keep_rows => 1', user => $role, %params);

	ends($node, $id, 'completed', "$message: the job runs", %params);
	is( sql($node, "SELECT v->>'v' FROM sabot.job_rows($id) AS v", %params),
		$expected, $message);
	return job($node, $id, 'pid', %params);
}

my $pid = seen('alice', "current_setting('work_mem')", '4MB', 'default');
sql($node, "ALTER ROLE alice SET work_mem = '5MB'");
my $pid2 = seen('alice', "current_setting('work_mem')", '5MB', 'ALTER ROLE SET');
isnt($pid2, $pid, 'a new agent has come');
sql($node, "ALTER ROLE alice IN DATABASE postgres SET work_mem = '6MB'");
seen('alice', "current_setting('work_mem')", '6MB', 'ALTER ROLE IN DATABASE SET');
sql($node, 'ALTER ROLE alice IN DATABASE postgres RESET work_mem');
seen('alice', "current_setting('work_mem')", '5MB', 'ALTER ROLE IN DATABASE RESET');
sql($node, "ALTER DATABASE postgres SET work_mem = '7MB'");
seen('bob', "current_setting('work_mem')", '7MB', 'ALTER DATABASE SET');
sql($node, "BEGIN; ALTER ROLE bob SET work_mem = '8MB'; ROLLBACK");
seen('bob', "current_setting('work_mem')", '7MB', 'ALTER ROLE SET rolled back');
sql($node, 'ALTER DATABASE postgres RESET work_mem');

sql($node, 'CREATE ROLE boss SUPERUSER LOGIN');
$pid = seen('boss', "current_setting('is_superuser')", 'on', 'a superuser');
sql($node,
	"ALTER ROLE boss NOSUPERUSER; SELECT sabot.grant_usage('boss')");
$pid2 = seen('boss', "current_setting('is_superuser')", 'off', 'demoted');
isnt($pid2, $pid, 'a demoted role has a new agent');

# Without CONNECT

sql($node, 'REVOKE CONNECT ON DATABASE app FROM PUBLIC;'
	  . ' GRANT CONNECT ON DATABASE app TO carol');
my $carol = user_session($node, db => 'app', user => 'carol');
$job = $carol->query_safe("SELECT sabot.submit_job('SELECT 1')");
ends($node, $job, 'completed', 'a role that may connect', db => 'app');
$agent = job($node, $job, 'pid', db => 'app');
sql($node, 'REVOKE CONNECT ON DATABASE app FROM carol');
ok(wait_until(sub { !alive($agent) }),
	'the agent of a role that may not connect anymore leaves');
$job = $carol->query_safe("SELECT sabot.submit_job('SELECT 1')");
ends($node, $job, 'failed', 'a role that may not connect', db => 'app');
like(
	job($node, $job, 'sqlstate, error', db => 'app'),
	qr/^28000\|.*may not connect/,
	'the reason is recorded');
$carol->quit;
sql($node, 'GRANT CONNECT ON DATABASE app TO PUBLIC');

# Of a role that is gone

sql($node, "CREATE ROLE dave LOGIN; SELECT sabot.grant_usage('dave')");
$job = submit($node, 'SELECT 1', user => 'dave');
ends($node, $job, 'completed', 'a role that will be dropped');
$agent = job($node, $job, 'pid');
$job = sql($node, <<'SQL');
SET SESSION AUTHORIZATION dave;
SELECT sabot.submit_job('SELECT 1', run_after => clock_timestamp() + interval '1 s');
RESET SESSION AUTHORIZATION;
DO $$BEGIN PERFORM sabot.revoke_usage('dave'); END$$;
DROP ROLE dave;
SQL
ok(wait_until(sub { !alive($agent) }), 'the agent of a dropped role leaves');
ends($node, $job, 'failed', 'its waiting job fails');
like(job($node, $job, 'sqlstate, error'),
	qr/^28000\|.*dropped/, 'the reason is recorded');

# What others see

sql($node, 'CREATE TABLE counted (i int); GRANT ALL ON counted TO alice');
$job = submit(
	$node,
	'INSERT INTO counted SELECT generate_series(1, 100); SELECT pg_sleep(600)',
	user => 'alice');
$pid = running($node, $job);
is( sql($node,
		"SELECT application_name, backend_type, datname, usename, state, query"
		  . " FROM pg_stat_activity WHERE pid = $pid"),
	"sabot job $job|sabot agent|postgres|alice|active|"
	  . 'INSERT INTO counted SELECT generate_series(1, 100); SELECT pg_sleep(600)',
	'a job in pg_stat_activity');
is(sql($node, "SELECT state, job_id FROM sabot.agent_status WHERE pid = $pid"),
	"busy|$job", 'a job in agent_status');
is(job($node, $job, 'state, pid, attempt, wait_reason IS NULL'),
	"running|$pid|1|t", 'a job in job_status');
is(sql($node, "SELECT pg_cancel_backend($pid)"), 't', 'pg_cancel_backend');
ends($node, $job, 'failed', 'pg_cancel_backend ends the attempt');
is(job($node, $job, 'sqlstate, losses'), '57014|0', 'as an error of its own');
ok(alive($pid), 'the agent stays');
is(sql($node, 'SELECT count(*) FROM counted'), '0', 'no effects');
poll(
	$node,
	"SELECT state, application_name FROM pg_stat_activity WHERE pid = $pid",
	'idle|sabot agent',
	'an idle agent in pg_stat_activity');

$job = submit($node, 'INSERT INTO counted SELECT generate_series(1, 10)',
	user => 'alice');
ends($node, $job, 'completed', 'a job writes rows');
poll(
	$node,
	"SELECT n_tup_ins - n_live_tup, n_live_tup FROM pg_stat_user_tables"
	  . " WHERE relname = 'counted'",
	'100|10',
	'pg_stat_user_tables counts the rows of jobs');
is(job($node, $job, 'pid'), $pid, 'on the same agent');

sql($node, "SELECT pg_cancel_backend($pid)");
$job = submit($node, 'SELECT 1', user => 'alice');
ends($node, $job, 'completed', 'pg_cancel_backend of an idle agent hits no job');
is(job($node, $job, 'pid'), $pid, 'and leaves the agent');

my $losses = sql($node, 'SELECT losses FROM sabot.pool_status');
sql($node, "SELECT pg_terminate_backend($pid)");
ok(wait_until(sub { !alive($pid) }), 'pg_terminate_backend of an idle agent');
$job = submit($node, 'SELECT 1', user => 'alice');
ends($node, $job, 'completed', 'the next job starts another one');
is(sql($node, 'SELECT losses FROM sabot.pool_status'),
	$losses, 'no loss is counted');

# Off and on

$gate = closed_gate();
$busy = submit($node, $through_gate);
running($node, $busy);
set_conf($node, 'sabot.enabled' => 'off');
$gate->quit;
ends($node, $busy, 'completed', 'sabot.enabled off: running work ends');
poll($node, 'SELECT agents FROM sabot.pool_status',
	'0', 'sabot.enabled off: agents leave');
$job = submit($node, 'SELECT 1');
is(job($node, $job, 'state, wait_reason'),
	'queued|sabot.enabled is off', 'sabot.enabled off: work waits');
$node->restart;
is(job($node, $job, 'state, wait_reason'),
	'queued|sabot.enabled is off', 'sabot.enabled off: after a restart too');
my @many = map { submit($node, 'SELECT pg_sleep(600)') } 1 .. 5;
set_conf($node, 'sabot.enabled' => 'on');
ends($node, $job, 'completed', 'sabot.enabled on: work goes on');

# As many agents as there may be, whoever found the work

my $running = "SELECT count(*) FROM sabot.job_status WHERE state = 'running'";
poll($node, $running, '4', 'on all agents');
$node->restart;
poll($node, $running, '4', 'on all agents after a restart');
sql($node, "SELECT sabot.cancel_job($_)") foreach @many;
poll($node, $running, '0', 'all are canceled');
is(sql($node, 'SELECT sabot.start_agents(1)'), '4', 'idle agents are there');
sql($node, 'SELECT sabot.stop_agents()');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'they leave');
$busy = submit($node, 'SELECT pg_sleep(600)');
running($node, $busy);
sql($node, q{SELECT sabot.pause_queue('held'), sabot.set_queue_limit('two', 2)});
push @many, map {
	submit($node, 'SELECT pg_sleep(600)', args => "queue => '$_'")
} qw(held held two two two);
poll($node, $running, '3', 'two more may run');
poll($node,
	"SELECT string_agg(DISTINCT wait_reason, ' and ' ORDER BY wait_reason)"
	  . " FROM sabot.job_status WHERE state = 'queued'",
	'queue "held" is paused and queue "two" is at its limit of 2',
	'the others wait');
sql($node, q{SELECT sabot.resume_queue('held')});
poll($node, $running, '4', 'a resumed queue: on another agent');
sql($node, "SELECT sabot.cancel_job($_)") foreach @many, $busy;
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'all are canceled');

# What agents ask for themselves is never compiled, however much the planner
# thinks that it costs

sql($node, "CREATE ROLE dear LOGIN; SELECT sabot.grant_usage('dear');"
	  . ' ALTER ROLE dear SET jit_above_cost = 0');
$job = submit($node, 'SET work_mem = 999', user => 'dear');
ends($node, $job, 'completed', 'a job that needs no plan');
$agent = job($node, $job, 'pid');
SKIP:
{
	skip 'no JIT in this server, or no way to see it', 3
	  if sql($node, 'SELECT pg_jit_available()') ne 't'
	  || !-r "/proc/$agent/maps";
	unlike(slurp_file("/proc/$agent/maps"), qr/llvmjit/,
		'its agent has compiled nothing');
	$job = submit($node, 'SELECT 1', user => 'dear');
	ends($node, $job, 'completed', 'a job with a plan');
	like(slurp_file('/proc/' . job($node, $job, 'pid') . '/maps'),
		qr/llvmjit/, 'which is compiled');
}

$node->stop;
done_testing();
