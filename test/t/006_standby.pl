# A standby does nothing; promoted, it does what waits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $primary = new_node(
	'primary',
	"max_prepared_transactions = 10\nsabot.pool_size = 10\nsabot.llm_model = 'stand-in'\n",
	init => [ allows_streaming => 1 ]);
sql($primary, <<'SQL');
CREATE TABLE effect (name text);
CREATE TABLE gate (name text);
CREATE TABLE step (job text);
CREATE TABLE source (id int);
CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id int);
CREATE TABLE large AS SELECT i AS id, 0 AS times FROM generate_series(1, 400) AS i;
ALTER TABLE large ADD PRIMARY KEY (id);
CREATE TABLE note (id int PRIMARY KEY, body text, label text);
-- hold(held, value) - value, once the gate is open if it is to be held
CREATE FUNCTION hold(held boolean, value int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF held AND EXISTS (SELECT FROM gate) THEN
		PERFORM pg_sleep(600);
	END IF;
	RETURN value;
END $$;
SQL
my $ollama = SabotOllama->new;
sql($primary, "SELECT sabot.add_llm_endpoint('default', '@{[ $ollama->url ]}')");
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
# prepared, jobs that wait for an agent, and one for later; a stream in the
# middle of a batch, with rows that wait and others that are prepared; a job
# with half of its pieces done; and one that follows a table, in the middle of
# a request.

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
my $stream = sql($primary, <<'SQL');
SELECT sabot.submit_stream('source',
	'INSERT INTO seen (id) SELECT hold(id = 3, id) FROM batch ORDER BY sabot_seq', batch_rows => 2)
SQL
sql($primary, "INSERT INTO source VALUES ($_)") foreach 1 .. 6;
running($primary, $stream);
sql($primary, "BEGIN; INSERT INTO source VALUES (7); PREPARE TRANSACTION 'row'");
sql($primary, 'INSERT INTO source VALUES (8)');
my $spread = submit($primary, 'UPDATE large SET times = hold(id > 200, times + 1)',
	args => "over => 'large', pieces => 4");
poll($primary, "SELECT string_agg(state::text, ' ' ORDER BY job_id) FROM sabot.job_task"
	  . " WHERE parent_id = $spread", 'completed completed running running',
	'half of the pieces are done');
sql($primary, "INSERT INTO note VALUES (1, 'one'), (2, 'two'), (3, 'three')");
$ollama->faults('hold:,match=^two');
my $follow = sql($primary, <<'SQL');
SELECT sabot.submit_llm_job('SELECT id, body FROM note ORDER BY id', '{body} [[answer:<{body}>]]',
	target => 'note', output => 'label', follow => true)
SQL
ok($ollama->wait_for('running', 1), 'a request is under way');
poll($primary, "SELECT done FROM sabot.llm_progress WHERE job_id = $follow", 1,
	'one before it is answered');
sql($primary, "INSERT INTO note VALUES (4, 'four')");
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
		  . " WHERE finished_at IS NULL AND job_id NOT IN ($later, $graph, $after, $stream, $spread, $follow)"),
	'queued|the server is in recovery',
	'jobs wait on the standby, with that reason');
is(sql($standby, $sabots), '0', 'still nothing of sabot runs there');
is( sql($standby,
		"SELECT string_agg(name || ' ' || state, ', ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph"),
	'done completed, runs queued, next blocked',
	'a graph waits there half done');
is(sql($standby, 'SELECT count(*) FROM effect'),
	'2', 'nor has any job there had an effect');
is(sql($standby, "SELECT lag_rows FROM sabot.stream_status WHERE job_id = $stream"),
	'5', 'rows of a stream wait there');
is( sql($standby, "SELECT total, done, failed FROM sabot.job_progress WHERE job_id = $spread"),
	'4|2|0', 'and pieces of a job');
is( sql($standby, "SELECT total, done, pending FROM sabot.llm_progress WHERE job_id = $follow"),
	'3|1|2', 'and items of another');

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

# streamed(NODE, IDS, MESSAGE) - test which rows the stream comes to hand over,
# in which order, and that it waits for more then
sub streamed
{
	my ($node, $ids, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node, <<"SQL", "blocked|0|0|$ids", $message);
SELECT state, lag_rows, dead_letters, (SELECT string_agg(id::text, ' ' ORDER BY n) FROM seen)
FROM sabot.stream_status WHERE job_id = $stream
SQL
}

# followed(NODE, NOTES, MESSAGE) - test that all notes come to be answered
sub followed
{
	my ($node, $notes, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node, <<"SQL", "blocked|$notes|$notes|$notes|0", $message);
SELECT j.state, p.total, p.done, (SELECT count(*) FROM note WHERE label = '<' || body || '>'), s.lag_rows
FROM sabot.job_status AS j JOIN sabot.llm_progress AS p USING (job_id) JOIN sabot.stream_status AS s USING (job_id)
WHERE j.job_id = $follow
SQL
}

# asked() - how often the model was asked for each note, in order
sub asked
{
	my %asked;

	$asked{$_}++ foreach map { $_->{prompt} =~ /^(\w+) / ? $1 : () }
	  grep { $_->{path} eq '/api/chat' } $ollama->requests;
	return join(' ', map { "$_ $asked{$_}" } sort keys %asked);
}

sql($standby, 'INSERT INTO source VALUES (9)');
poll($standby, "SELECT state, lag_rows, (SELECT string_agg(id::text, ' ' ORDER BY n) FROM seen)"
	  . " FROM sabot.stream_status WHERE job_id = $stream", 'blocked|0|1 2 3 4 5 6 8 9',
	'the stream goes on');
sql($standby, "COMMIT PREPARED 'row'");
streamed($standby, '1 2 3 4 5 6 8 9 7', 'the prepared row');
ends($standby, $spread, 'completed', 'the job with pieces goes on');
is( sql($standby, 'SELECT min(times), max(times), count(*) FROM large'),
	'1|1|400', 'every row was handled once');
is( sql($standby, "SELECT count(*), sum(row_count), (SELECT row_count FROM sabot.job_status WHERE job_id = $spread)"
		  . " FROM sabot.job_task WHERE parent_id = $spread AND state = 'completed'"),
	'4|400|400', 'by four pieces');
$ollama->faults();
$ollama->release;
followed($standby, 4, 'the job that follows a table goes on');
sql($standby, "INSERT INTO note VALUES (5, 'five'); UPDATE note SET body = 'uno' WHERE id = 1");
followed($standby, 5, 'and hears of changes');
is(asked(), 'five 1 four 1 one 1 three 1 two 2 uno 1',
	'only what was under way was asked again');
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
sql($next, "INSERT INTO source VALUES (10); INSERT INTO note VALUES (6, 'six')");
streamed($next, '1 2 3 4 5 6 8 9 7 10', 'a stream that waited for rows');
followed($next, 6, 'a job that waited for changes');
$next->stop;

$standby->start;
$job = submit($standby, 'SELECT 1');
ends($standby, $job, 'completed', 'and on the one that was stopped');

$standby->stop;
done_testing();
