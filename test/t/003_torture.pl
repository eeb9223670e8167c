# Jobs are submitted all the time while agents, the launcher and the server
# are terminated, killed and stopped in random order; afterwards every job has
# ended, and had its effects once or not at all.
#
# SABOT_SEED picks another order of events, SABOT_TORTURE_EVENTS their number,
# SABOT_TORTURE=long many of them (make torture).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';
my $nevents = $ENV{SABOT_TORTURE_EVENTS} || ($long ? 250 : 30);

diag("SABOT_SEED=$seed SABOT_TORTURE_EVENTS=$nevents");
srand($seed);

my $node = new_node('torture', "log_statement = none\n");
my $psql = $node->installed_command('psql');

# effect has no unique constraint: it would hide what we look for.  A token is
# what a job has its effect with; accepted says which jobs were submitted by a
# transaction that has committed.
sql($node, <<'SQL');
CREATE ROLE alice LOGIN;
CREATE ROLE grouper LOGIN;
ALTER ROLE grouper SET sabot.group_commit = 20;
SELECT sabot.grant_usage(r) FROM unnest('{alice,grouper}'::regrole[]) AS r;
CREATE SEQUENCE token;
CREATE TABLE accepted (job_id bigint, token bigint, kind text);
CREATE TABLE effect (token bigint);
GRANT SELECT, INSERT ON accepted, effect TO PUBLIC;
GRANT USAGE ON SEQUENCE token TO PUBLIC;
CREATE INDEX ON effect (token);

-- have_effect - the effect of a job that must not run twice at a time
CREATE FUNCTION have_effect(token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT pg_try_advisory_xact_lock(token) THEN
		RAISE EXCEPTION 'runs twice at once' USING ERRCODE = 'TWICE';
	END IF;
	INSERT INTO effect VALUES (token);
END $$;

-- fail_often - raise an error that is worth another attempt
CREATE FUNCTION fail_often(share float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF random() < share THEN
		RAISE EXCEPTION 'on purpose';
	END IF;
END $$;

CREATE PROCEDURE in_steps(token bigint) LANGUAGE plpgsql AS $$
BEGIN
	COMMIT;
	INSERT INTO effect VALUES (token);
	COMMIT;
	PERFORM pg_sleep(0.02);
END $$;

CREATE FUNCTION submit_one(kind text, command text, atomic boolean,
	attempts int, delay interval) RETURNS void LANGUAGE sql AS $$
	WITH t AS MATERIALIZED (SELECT nextval('token') AS token)
	INSERT INTO accepted
	SELECT sabot.submit_job(command, jsonb_build_array(token), name => kind,
			atomic => atomic, max_attempts => attempts, retry_delay => '20 ms',
			run_after => clock_timestamp() + delay), token, kind
	FROM t;
$$;

CREATE FUNCTION submit_many(kind text, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	tokens bigint[] := ARRAY(SELECT nextval('token') FROM generate_series(1, n));
	params jsonb := (SELECT jsonb_agg(jsonb_build_array(t)) FROM unnest(tokens) AS t);
	jobs bigint[];
BEGIN
	IF kind = 'each' THEN
		jobs := sabot.submit_job_each('SELECT have_effect($1)', params);
	ELSE
		jobs := sabot.submit_jobs(array_fill('INSERT INTO effect VALUES ($1)'::text, ARRAY[n]), params);
	END IF;
	INSERT INTO accepted SELECT j, t, kind FROM unnest(jobs, tokens) AS u(j, t);
END $$;

-- submit_some - something at random, unless too much waits already
CREATE PROCEDURE submit_some() LANGUAGE plpgsql AS $$
DECLARE
	p float8 := random();
BEGIN
	IF (SELECT sum(waiting) > 400 FROM sabot.queue_status) THEN
		PERFORM pg_sleep(0.1);
		RETURN;
	END IF;
	IF p < 0.25 THEN
		PERFORM submit_one('once', 'SELECT have_effect($1)', NULL, 1, NULL);
	ELSIF p < 0.35 THEN
		PERFORM submit_one('slow', 'SELECT have_effect($1); SELECT pg_sleep(0.1)', NULL, 1, NULL);
	ELSIF p < 0.45 THEN
		PERFORM submit_one('retry', 'SELECT have_effect($1); SELECT fail_often(0.5)', NULL, 5, NULL);
	ELSIF p < 0.50 THEN
		PERFORM submit_one('fail', 'SELECT have_effect($1); SELECT fail_often(1)', NULL, 2, NULL);
	ELSIF p < 0.55 THEN
		PERFORM submit_one('later', 'SELECT have_effect($1)', true, 1, '0.5 s');
	ELSIF p < 0.60 THEN
		PERFORM submit_one('steps', 'CALL in_steps($1)', NULL, 1, NULL);
	ELSIF p < 0.65 THEN
		PERFORM submit_one('steps again', 'CALL in_steps($1)', NULL, 9, NULL);
	ELSIF p < 0.75 THEN
		PERFORM submit_many('each', 10);
	ELSIF p < 0.85 THEN
		PERFORM submit_many('jobs', 10);
	ELSIF p < 0.90 THEN
		PERFORM submit_one('rolled back', 'SELECT have_effect($1)', NULL, 1, NULL);
		ROLLBACK;
	ELSIF p < 0.95 THEN
		BEGIN
			PERFORM submit_one('rolled back', 'SELECT have_effect($1)', NULL, 1, NULL);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM submit_one('once', 'SELECT have_effect($1)', NULL, 1, NULL);
		END;
	ELSE
		PERFORM sabot.cancel_job(job_id)
		FROM (SELECT job_id FROM sabot.job_status WHERE finished_at IS NULL
			ORDER BY random() LIMIT 2) AS j;
	END IF;
END $$;
SQL

# Submitters: sessions that die with the server, and come again.

my $stop = $node->basedir . '/stop';
my $script = $node->basedir . '/submit.sql';
append_to_file($script, "CALL submit_some();\n" x 40);
my @submitters;
foreach my $role ($node->safe_psql('postgres', 'SELECT current_user'),
	'alice', 'grouper')
{
	my $command =
	    "while [ ! -e '$stop' ]; do '$psql' -X -q -U '$role' -f '$script' -d '"
	  . $node->connstr('postgres')
	  . "' >/dev/null 2>&1; sleep 0.1; done";

	push @submitters, IPC::Run::start([ 'sh', '-c', $command ]);
}

# The events.  Each returns what it hit.

# pick(WHERE) - the pid of a process of that kind, at random, or nothing
sub pick
{
	my ($where) = @_;
	my ($status, $pids) = try_sql($node,
		"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE $where");
	my @pids = split / /, $pids // '';

	return $pids[ int(rand(@pids)) ];
}

my %process = (
	agent => "backend_type = 'sabot agent'",
	job => "backend_type = 'sabot agent' AND application_name LIKE 'sabot job %'",
	launcher => "backend_type = 'sabot launcher'",
	prober => "backend_type = 'sabot prober'",
	submitter => "backend_type = 'client backend' AND query LIKE 'CALL submit%'");

sub terminate
{
	my ($what) = @_;
	my $pid = pick($process{$what});

	return $pid && kill('TERM', $pid);
}

sub slay
{
	my ($what) = @_;
	my $pid = pick($process{$what});

	return 0 unless $pid && kill('KILL', $pid);
	wait_until(sub { !alive($pid) });
	return 1;
}

# Clean stops give back what runs, uncounted: when they were.
my @clean_stops;

sub stop_and_start
{
	my ($mode) = @_;

	push @clean_stops, time if $mode eq 'fast';
	$node->stop($mode);
	$node->start;
	return 1;
}

# Nobody is told when the postmaster dies: every process finds out itself.
sub kill_postmaster
{
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	$node->kill9;
	wait_until(sub { !alive($pid) });
	return wait_until(sub { $node->start(fail_ok => 1) });
}

my @events = (
	[ 'terminate job', sub { terminate('job') } ],
	[ 'terminate job', sub { terminate('job') } ],
	[ 'terminate agent', sub { terminate('agent') } ],
	[ 'terminate launcher', sub { terminate('launcher') } ],
	[ 'terminate prober', sub { terminate('prober') } ],
	[ 'terminate submitter', sub { terminate('submitter') } ],
	[ 'kill job', sub { slay('job') } ],
	[ 'kill job', sub { slay('job') } ],
	[ 'kill launcher', sub { slay('launcher') } ],
	[ 'kill submitter', sub { slay('submitter') } ],
	[ 'kill postmaster', \&kill_postmaster ],
	[ 'stop immediate', sub { stop_and_start('immediate') } ],
	[ 'stop immediate', sub { stop_and_start('immediate') } ],
	[ 'stop fast', sub { stop_and_start('fast') } ]);

# finished - how many jobs have ended, or nothing while the server is down
sub finished
{
	my ($status, $n) = try_sql($node,
		'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NOT NULL');

	return $status == 0 ? $n : undef;
}

my %hits;
my $twice = 0;
my $stuck = 0;
for (my $n = 0; $n < $nevents && !$stuck; )
{
	# Some work must get done between two events, or nothing would be hit.
	my $before = wait_until(sub { my $f = finished(); defined $f && $f + 1 });
	$stuck = !wait_until(sub { my $f = finished(); defined $f && $f > $before });
	sleep(rand(0.3));

	my ($name, $event) = @{ $events[ int(rand(@events)) ] };
	next unless $event->();
	$n++;
	$hits{$name}++;

	my ($status, $doubles) = try_sql($node,
		'SELECT count(job_id) - count(DISTINCT job_id) FROM sabot.agent_status');
	$twice += $doubles if $status == 0;
}
note(join(', ', map { "$_: $hits{$_}" } sort keys %hits));
ok(!$stuck, 'jobs were done between all events');
is($twice, 0, 'no job was seen on two agents');

append_to_file($stop, '');
$_->finish foreach @submitters;
server_back($node, 'the server is up after all that');
poll(
	$node,
	'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'every job has ended');
poll(
	$node,
	"SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'",
	'0', 'no agent has work');

# What became of the jobs

my $clean_stops = join(', ', @clean_stops);

sql($node, <<"SQL");
CREATE TABLE result AS
SELECT a.job_id, a.kind, s.state::text, s.attempt, s.losses, s.sqlstate, s.error,
	s.atomic, (SELECT count(*) FROM effect AS e WHERE e.token = a.token) AS effects,
	(SELECT count(*) FROM unnest('{$clean_stops}'::float8[]) AS c
		WHERE to_timestamp(c) BETWEEN s.submitted_at AND s.finished_at) AS stops
FROM accepted AS a LEFT JOIN sabot.job_status AS s USING (job_id);
SQL
note(
	sql($node,
		'SELECT kind, state, count(*), sum(losses) AS losses'
		  . ' FROM result GROUP BY 1, 2 ORDER BY 1, 2'));
cmp_ok(sql($node, 'SELECT count(*) FROM result'), '>', 10 * $nevents,
	'there were many jobs');
cmp_ok(sql($node, 'SELECT sum(losses) FROM result'), '>', 0,
	'agents were lost at work');

# none(CONDITION, MESSAGE) - test that no result is such
sub none
{
	my ($condition, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql($node, "SELECT * FROM result WHERE $condition LIMIT 10"),
		'', $message);
	return;
}

none('state IS NULL', 'no job is lost');
is( sql($node,
		'SELECT count(*) FROM sabot.job_status AS s WHERE NOT EXISTS'
		  . ' (SELECT FROM accepted AS a WHERE a.job_id = s.job_id)'),
	'0',
	'no job comes from a transaction that did not commit');
is( sql($node,
		'SELECT count(*) FROM effect AS e WHERE NOT EXISTS'
		  . ' (SELECT FROM accepted AS a WHERE a.token = e.token)'),
	'0',
	'nor any effect');
none("kind = 'rolled back'", 'no job was accepted in what was rolled back');
none("kind NOT LIKE 'steps%' AND atomic IS FALSE", 'jobs are atomic if they can be');
none("kind NOT LIKE 'steps%' AND state = 'completed' AND effects <> 1",
	'a completed job has its effects once');
none("kind NOT LIKE 'steps%' AND state <> 'completed' AND effects <> 0",
	'a job that is not completed has no effects');
none("kind = 'steps' AND effects > 1 + stops",
	'a job that is not atomic is run again only when a clean stop gave it back');
none("kind LIKE 'steps%' AND state = 'completed' AND effects < 1",
	'a job that is not atomic has its effects when it is completed');
none(
	"state NOT IN ('completed', 'canceled') AND NOT"
	  . " (state = 'failed' AND sqlstate = 'P0001' AND kind IN ('retry', 'fail')) AND NOT"
	  . " (state = 'failed' AND sqlstate LIKE '57P0_' AND error LIKE 'agent was lost%'"
	  . " AND (losses >= 3 OR kind = 'steps'))",
	'what is not completed has failed for a good and recorded reason');
none(
	"losses > (SELECT count(*) FROM sabot.job_attempt AS t"
	  . " WHERE t.job_id = result.job_id AND t.sqlstate LIKE '57P0_')",
	'every loss is recorded');
is( sql($node,
		"SELECT count(*) FROM sabot.job_attempt WHERE sqlstate = 'TWICE'"),
	'0',
	'no job ran twice at once');

$node->stop;
done_testing();
