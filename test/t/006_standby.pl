# A standby does nothing; promoted, it does what waits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $primary = new_node(
	'primary',
	"max_prepared_transactions = 10\nsabot.pool_size = 7\n",
	init => [ allows_streaming => 1 ]);
sql($primary, <<'SQL');
CREATE TABLE effect (name text);
CREATE TABLE gate (name text);
CREATE TABLE step (job text);
SQL
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $sabots =
  "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'sabot%'";

my $job = submit($primary, "INSERT INTO effect VALUES ('before')");
ends($primary, $job, 'completed', 'the primary works');
$primary->wait_for_catchup($standby);
is(job($standby, $job, 'state'), 'completed',
	'views can be read on the standby');
is(sql($standby, $sabots), '0', 'nothing of sabot runs on the standby');
sql_fails($standby, "SELECT sabot.submit_job('SELECT 1')",
	qr/ERROR:  25006/, 'submit on the standby');
sql_fails($standby, 'SELECT sabot.start_agents(1)',
	qr/ERROR:  \w+: .*recovery/, 'start_agents on the standby');
sql_fails($standby, "SELECT sabot.run('SELECT 1')",
	qr/ERROR:  \w+: .*recovery/, 'run on the standby');

# What is there when the primary is lost: a job in progress, one that is
# prepared, jobs that wait for an agent, and one for later.

sql($primary, "INSERT INTO gate VALUES ('closed')");
my @running = map
{
	submit($primary, "INSERT INTO effect VALUES ('running $_');"
		  . " SELECT pg_sleep(600) FROM gate")
} 1 .. 4;
running($primary, $_) foreach @running;
my %outside;
foreach my $max (1, 2)
{
	$outside{$max} = submit($primary,
		"INSERT INTO step VALUES ('outside $max'); SELECT pg_sleep(600) FROM gate",
		args => "atomic => false, max_attempts => $max");
	running($primary, $outside{$max});
}
my $graph = sql($primary, <<'SQL');
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('done', $$INSERT INTO effect VALUES ('done')$$),
	sabot.graph_task('runs', $$INSERT INTO effect VALUES ('runs'); SELECT pg_sleep(600) FROM gate$$, '{done}'),
	sabot.graph_task('next', $$INSERT INTO effect VALUES ('next')$$, '{done,runs}')), timeout => '1 h');
SQL
my $after = submit($primary, "INSERT INTO effect VALUES ('after')",
	args => "depends_on => ARRAY[$graph]");
poll($primary, "SELECT sabot.job_state($graph + 2)", 'running',
	'a task of a graph runs');
my @waiting =
  map { submit($primary, "INSERT INTO effect VALUES ('waiting $_')") } 1 .. 3;
my $later = submit($primary, "INSERT INTO effect VALUES ('later')",
	args => "run_after => clock_timestamp() + interval '0.5 s'");
my $prepared = sql($primary, <<'SQL');
BEGIN;
SELECT sabot.submit_job($$INSERT INTO effect VALUES ('prepared')$$);
PREPARE TRANSACTION 'one';
SQL
sql($primary, 'DELETE FROM gate');
$primary->wait_for_catchup($standby);

is( sql($standby, 'SELECT DISTINCT state, wait_reason FROM sabot.job_status'
		  . " WHERE finished_at IS NULL AND job_id NOT IN ($later, $graph, $after)"),
	'queued|the server is in recovery',
	'jobs wait on the standby, with that reason');
is(sql($standby, $sabots), '0', 'still nothing of sabot runs there');
is( sql($standby,
		"SELECT string_agg(name || ' ' || state, ', ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph"),
	'done completed, runs queued, next blocked',
	'a graph waits there half done');
is(sql($standby, 'SELECT count(*) FROM effect'),
	'2', 'nor has any job there had an effect');

$primary->stop('immediate');
$standby->promote;

ends($standby, $_, 'completed', "job $_ in progress on the lost primary")
  foreach @running;
# The primary's file of attempts is not here: the table must say what has begun.
ends($standby, $outside{1}, 'failed',
	'a job that has had effects outside a transaction block');
is( job($standby, $outside{1}, 'attempt, losses, atomic, sqlstate, error'),
	'1|1|f|57P02|agent was lost while it ran the job',
	'its agent was lost');
is( sql($standby,
		"SELECT attempt, pid IS NULL, sqlstate, error FROM sabot.job_attempt"
		  . " WHERE job_id = $outside{1}"),
	'1|t|57P02|agent was lost',
	'which is recorded');
ends($standby, $outside{2}, 'completed', 'one that may be tried twice');
is(job($standby, $outside{2}, 'attempt, losses'), '2|1', 'runs again');
is(sql($standby, 'SELECT job, count(*) FROM step GROUP BY job ORDER BY job'),
	"outside 1|1\noutside 2|2", 'neither more often than it may');
ends($standby, $_, 'completed', "job $_ that waited there") foreach @waiting;
ends($standby, $later, 'completed', 'the job for later');
ends($standby, $graph, 'completed', 'the graph goes on');
ends($standby, $after, 'completed', 'and so does what waits for it');
sql($standby, "COMMIT PREPARED 'one'");
ends($standby, $prepared, 'completed', 'the prepared job');
is(sql($standby, 'SELECT count(*), count(DISTINCT name) FROM effect'),
	'14|14', 'every job has its effect once');
is( sql($standby, 'SELECT sum(losses) FROM sabot.job_status WHERE atomic'),
	'0', 'none of which had begun in this copy of the server');
$job = submit($standby, 'SELECT 1');
ends($standby, $job, 'completed', 'new work is done');
cmp_ok($job, '>', $prepared, 'with new numbers');

# A standby that takes over from a server that was stopped cleanly

$standby->backup('second');
my $next = PostgreSQL::Test::Cluster->new('next');
$next->init_from_backup($standby, 'second', has_streaming => 1);
$next->start;
sql($standby, "INSERT INTO gate VALUES ('closed')");
$job = submit($standby,
	"INSERT INTO step VALUES ('handed over'); SELECT pg_sleep(600) FROM gate",
	args => 'atomic => false');
running($standby, $job);
sql($standby, 'DELETE FROM gate');
$standby->stop('fast');
$next->promote;
ends($next, $job, 'completed', 'a job that was given back');
is(job($next, $job, 'attempt, losses'), '1|0', 'nothing is counted');
is(sql($next, "SELECT count(*) FROM step WHERE job = 'handed over'"),
	'2', 'it was started over');
$next->stop;

$standby->start;
$job = submit($standby, 'SELECT 1');
ends($standby, $job, 'completed', 'and on the one that was stopped');

$standby->stop;
done_testing();
