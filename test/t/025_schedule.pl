# Schedules, while agents and the server are killed, on a standby that takes
# over, and while the clock is set forward and back: every due time has its
# run, those that were missed have one, no run overlaps another or has its
# effect twice.
#
# SABOT_SEED picks other victims, SABOT_SCHEDULE_ROUNDS their number.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SABOT_SEED} || 20260329;
my $rounds = $ENV{SABOT_SCHEDULE_ROUNDS} || 14;

diag("SABOT_SEED=$seed SABOT_SCHEDULE_ROUNDS=$rounds");
srand($seed);

# effect has no unique constraint: it would hide what we look for.
my $schema = <<'SQL';
CREATE TABLE effect (job_id bigint);
CREATE TABLE part (id int PRIMARY KEY);
INSERT INTO part VALUES (1), (2), (3);
-- note - the effect of the job that calls it
CREATE FUNCTION note() RETURNS void LANGUAGE sql AS
	'INSERT INTO effect SELECT job_id FROM sabot.running_job() WHERE pid = pg_backend_pid()';
-- wrong - what is wrong with runs that have ended
CREATE VIEW wrong AS
	WITH run AS (
		SELECT t.*, s.schedule, s.first_due, lag(t.submitted_at) OVER w AS last_fired,
			lag(t.finished_at) OVER w AS last_finished
		FROM sabot.job_history AS t JOIN sabot.job_schedule AS s ON s.job_id = t.parent_id
		WINDOW w AS (PARTITION BY t.parent_id ORDER BY t.job_id))
	SELECT 'begun before the last one had ended' AS what, job_id, name FROM run
	WHERE submitted_at < last_finished OR started_at < last_finished
	UNION ALL
	SELECT 'begun before it was due', job_id, name FROM run
	WHERE submitted_at < run_after
	UNION ALL
	SELECT 'not for the first time that was due since the last one', job_id, name
	FROM run
	WHERE run_after <> sabot.next_due(schedule,
		COALESCE(last_fired, first_due - interval '1 us'), first_due)
	UNION ALL
	SELECT 'effects of a job that is ' || h.state || ': ' || count(e.job_id), h.job_id, h.name
	FROM sabot.job_history AS h LEFT JOIN effect AS e ON e.job_id = h.job_id
	WHERE h.command LIKE 'SELECT note()%' AND h.kind <> 'spread'
	GROUP BY h.job_id HAVING count(e.job_id) <> (h.state = 'completed')::int
	UNION ALL
	SELECT 'completed with ' || count(p.job_id) || ' of 3 pieces', h.job_id, h.name
	FROM sabot.job_history AS h LEFT JOIN sabot.job_history AS p ON p.parent_id = h.job_id AND p.state = 'completed'
	WHERE h.kind = 'spread' AND h.state = 'completed' GROUP BY h.job_id HAVING count(p.job_id) <> 3
	UNION ALL
	SELECT 'effect of no job', job_id, NULL FROM effect AS e
	WHERE NOT EXISTS (SELECT FROM sabot.job_history AS h WHERE h.job_id = e.job_id)
	UNION ALL
	SELECT 'counted ' || s.runs || ' runs and ' || s.failures || ' failures', s.job_id, s.name
	FROM sabot.schedule_status AS s, LATERAL (SELECT count(*) AS runs,
			count(*) FILTER (WHERE state = 'failed') AS failures FROM run WHERE parent_id = s.job_id) AS r
	WHERE (s.runs, s.failures) IS DISTINCT FROM (r.runs, r.failures);
SQL

my %shape = (
	short => [ 'job', 'SELECT note()', '100 ms' ],
	long => [ 'job', 'SELECT note(), pg_sleep(random() * 0.8)', '0.3 s' ],
	second => [ 'job', 'SELECT note(), pg_sleep(0.3)', '1 s' ],
	spread => [ 'job', 'SELECT note(), pg_sleep(0.1) FROM part', '0.6 s', q{, over => 'part', pieces => 3} ],
	fails => [ 'job', 'SELECT note(), pg_sleep(0.1); SELECT 1/0', '0.5 s' ],
	graph => [
		'graph',
		'[{"name":"a","command":"SELECT note(), pg_sleep(0.1)"},'
		  . '{"name":"b","command":"SELECT note()","after":["a"]},'
		  . '{"name":"c","command":"SELECT note(), pg_sleep(0.2)","after":["a"]}]',
		'0.7 s'
	]);

# submit_shapes(NODE) - a schedule for each shape
sub submit_shapes
{
	my ($node) = @_;

	foreach my $name (sort keys %shape)
	{
		my ($kind, $what, $schedule, $more) = @{ $shape{$name} };

		sql($node,
			"SELECT sabot.submit_$kind(\$\$$what\$\$, name => '$name', schedule => '$schedule'"
			  . ($more // '') . ')');
	}
	return;
}

# runs(NODE) - how many runs of each schedule there have been
sub runs
{
	my ($node) = @_;

	return sql($node,
		"SELECT string_agg(name || ' ' || runs, ', ' ORDER BY name) FROM sabot.schedule_status"
	);
}

# go_on(NODE, MESSAGE) - test that each schedule has more runs than now
sub go_on
{
	my ($node, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	sql($node,
		'DROP TABLE IF EXISTS before; CREATE TABLE before AS SELECT job_id, runs FROM sabot.schedule_status'
	);
	return poll(
		$node,
		'SELECT bool_and(s.runs >= b.runs + 2) FROM sabot.schedule_status AS s JOIN before AS b USING (job_id)',
		't',
		$message);
}

# settle(NODE) - let runs that are open end, and begin no others
sub settle
{
	my ($node) = @_;

	sql($node, 'SELECT sabot.pause_job(job_id) FROM sabot.schedule_status');
	return poll($node,
		'SELECT count(*) FROM sabot.job_task WHERE finished_at IS NULL',
		'0', 'open runs end');
}

# processes(NODE, TYPE) - the pids of the processes of a kind
sub processes
{
	my ($node, $type) = @_;

	return split /\n/,
	  sql($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

# Whatever is killed

my $node = new_node('schedule_crash',
	"log_statement = none\nsabot.max_crashes = 1000\n");
sql($node, $schema);
submit_shapes($node);
go_on($node, 'schedules run');
for my $round (1 .. $rounds)
{
	my $how = $round % 5;

	sleep(rand(1.0));
	if ($how == 4)
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($how == 3)
	{
		my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

		$node->kill9;
		wait_until(sub { !alive($pid) });
		wait_until(sub { $node->start(fail_ok => 1) });
	}
	else
	{
		my $type = $how == 2 ? 'sabot launcher' : 'sabot agent';
		my @pids = processes($node, $type);
		my $pid = $pids[ rand(@pids) ];

		kill_pid($pid);
		server_back($node, "round $round: the server is back");
	}
	go_on($node, "round $round: schedules go on");
}
settle($node);
is(sql($node, 'SELECT * FROM wrong ORDER BY 3, 2'), '', 'nothing is wrong');
is( sql($node, 'SELECT count(*) FROM effect'),
	sql($node,
		"SELECT count(*) FROM sabot.job_history WHERE command LIKE 'SELECT note()%' AND kind <> 'spread' AND state = 'completed'"
	),
	'as many effects as completed runs, tasks and pieces');
is( sql($node, 'SELECT string_agg(name, \' \' ORDER BY name) FROM sabot.schedule_status'),
	join(' ', sort keys %shape),
	'no schedule is lost');
is( sql($node,
		"SELECT DISTINCT state FROM sabot.job_history WHERE command LIKE 'SELECT note()%' ORDER BY 1"
	),
	"completed\nfailed",
	'every run has ended by itself');
diag(runs($node));
$node->stop;

# On a standby that is promoted

my $primary = new_node(
	'schedule_primary',
	"log_statement = none\nsabot.max_crashes = 1000\n",
	init => [ allows_streaming => 1 ]);
sql($primary, $schema);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('schedule_standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
submit_shapes($primary);
go_on($primary, 'schedules run on the primary');
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
my $before = runs($standby);
sleep(0.5);
is(runs($standby), $before, 'none does on the standby');
$standby->promote;
go_on($standby, 'schedules go on after promotion');
settle($standby);
is(sql($standby, 'SELECT * FROM wrong ORDER BY 3, 2'),
	'', 'nothing is wrong there');
$standby->stop;

# While the clock is moved: the server, and nobody else, has another time
# (test/lib/clock.c).

my $clock = new_node(
	'schedule_clock',
	"log_statement = none\nsabot.timezone = 'Europe/Berlin'\nsabot.keep_jobs = -1\n",
	no_start => 1);
my $library = $clock->basedir . '/clock.so';
my $file = $clock->basedir . '/clock';

system_or_bail('gcc', '-shared', '-fPIC', '-o', $library, 'test/lib/clock.c');

# set_clock(TIME) - have it be that time in UTC for the server
sub set_clock
{
	my ($to) = @_;
	my ($seconds) = run_command([ 'date', '-u', '-d', $to, '+%s' ]);

	# The file is mapped: write it in one piece and in place.
	open(my $out, -e $file ? '+<:raw' : '>:raw', $file)
	  or die "could not open $file: $!";
	syswrite($out, pack('q', $seconds - int(time()))) == 8
	  or die "could not write $file: $!";
	close($out);
	return;
}

# start_clock() - start the server with that clock
sub start_clock
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{SABOT_TEST_CLOCK} = $file;

	$clock->start;
	return;
}

# stands(NAME, WHAT, MESSAGE) - test how a schedule comes to stand: runs, when
# the last one was due, when the next one is
sub stands
{
	my ($name, $what, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll(
		$clock,
		"SELECT runs, to_char(last_due AT TIME ZONE 'UTC', 'MM-DD HH24:MI'),"
		  . " to_char(next_run AT TIME ZONE 'UTC', 'MM-DD HH24:MI')"
		  . " FROM sabot.schedule_status WHERE name = '$name' AND last_state = 'completed'",
		$what,
		$message);
}

set_clock('2026-03-29 00:40:00');
start_clock();
sql($clock, 'CREATE EXTENSION sabot');
sql($clock, $schema);
sql($clock,
	"SELECT sabot.submit_job('SELECT note()', name => '$_->[0]', schedule => '$_->[1]')"
) foreach [ 'night', '30 2 * * *' ], [ 'quarter', '*/15 * * * *' ];
is( sql($clock,
		"SELECT name, next_run AT TIME ZONE 'UTC' FROM sabot.schedule_status ORDER BY name"
	),
	"night|2026-03-29 01:00:00\nquarter|2026-03-29 00:45:00",
	'the night without half past two: due when the clock is set forward');
set_clock('2026-03-29 00:50:00');
stands('quarter', '1|03-29 00:45|03-29 01:00', 'a quarter to two');
set_clock('2026-03-29 00:59:58');
stands('night', '1|03-29 01:00|03-30 00:30',
	'half past two is when the clock is set forward');
stands('quarter', '2|03-29 01:00|03-29 01:15',
	'three comes a quarter of an hour after a quarter to two');
set_clock('2026-03-29 01:50:00');
stands('quarter', '3|03-29 01:15|03-29 02:00',
	'one run for what is jumped over');
stands('night', '1|03-29 01:00|03-30 00:30', 'nothing at half past three');

set_clock('2026-10-25 00:20:00');
stands('night', '2|03-30 00:30|10-25 00:30',
	'one run for all nights of a summer');
stands('quarter', '4|03-29 02:00|10-25 00:30', 'and one for its quarters');
set_clock('2026-10-25 00:29:58');
stands('night', '3|10-25 00:30|10-26 01:30', 'the first half past two');
stands('quarter', '5|10-25 00:30|10-25 00:45', 'a quarter');
set_clock('2026-10-25 01:20:00');
stands('quarter', '6|10-25 00:45|10-25 01:30',
	'quarters of the hour that comes twice');
set_clock('2026-10-25 01:29:58');
stands('quarter', '7|10-25 01:30|10-25 01:45', 'the second half past two');
stands('night', '3|10-25 00:30|10-26 01:30', 'has no run of the night');
$clock->stop;
set_clock('2026-10-26 01:29:57');
start_clock();
stands('night', '4|10-26 01:30|10-27 01:30', 'the next night');
is(sql($clock, 'SELECT * FROM wrong ORDER BY 3, 2'),
	'', 'nothing is wrong there');
$clock->stop;

done_testing();
