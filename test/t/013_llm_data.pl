# LLM jobs and what they leave behind: embeddings, secrets, dumps, history.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('data', "sabot.llm_model = 'stand-in'\n"
	  . "log_statement = none\nlog_min_messages = debug1\n");
my $ollama = SabotOllama->new;
my $url = $ollama->url;

sql($node, <<"SQL");
SELECT sabot.add_llm_endpoint('default', '$url');
CREATE TABLE item (name text, n int, prompt text, answer text, vec real[],
	PRIMARY KEY (name, n));
SQL

# embed(NAME, N, FAULTS, ARGUMENTS) - a job of N rows in batches of 8; FAULTS
# is an SQL expression that is added to the input
sub embed
{
	my ($name, $n, $fault, $args) = @_;

	$args = $args ? ", $args" : '';
	return sql($node, <<"SQL");
INSERT INTO item SELECT '$name', n, '$name ' || n || $fault
	FROM generate_series(1, $n) AS n;
SELECT sabot.submit_embedding_job(
	\$\$SELECT * FROM item WHERE name = '$name' ORDER BY n\$\$,
	'{prompt}', model => 'stand-in-embed', target => 'item', output => 'vec',
	batch_size => 8 $args);
SQL
}

# states(JOB) - how many of its items are in each state
sub states
{
	my ($job) = @_;

	return sql($node,
		"SELECT string_agg(s, ', ' ORDER BY s) FROM"
		  . " (SELECT concat_ws(' ', count(*), state, error_class) AS s"
		  . " FROM sabot.llm_result WHERE job_id = $job"
		  . " GROUP BY state, error_class) AS s");
}

# vectors(NAME) - rows with a vector, their dimensions, rows without
sub vectors
{
	my ($name) = @_;

	return sql($node,
		"SELECT count(vec), count(DISTINCT array_length(vec, 1)),"
		  . " count(*) FILTER (WHERE vec IS NULL) FROM item"
		  . " WHERE name = '$name'");
}

my $job = embed('batch', 20, "''");
ends($node, $job, 'completed', 'embeddings: the job is completed');
is(states($job), '20 done', 'embeddings: states');
is(vectors('batch'), '20|1|0', 'embeddings: vectors');
my @requests = grep { $_->{path} eq '/api/embed' && $_->{prompt} ne '' }
  $ollama->requests;
is(scalar @requests, 3, 'embeddings: three requests of at most 8');

# One input of 16 is at fault: its batch is cut in halves until it is alone.

foreach my $fault ('nan', '400', '500')
{
	$ollama->reset;
	$job = embed("bisect $fault", 16,
		"CASE n WHEN 5 THEN '[[fault:$fault]]' ELSE '' END");
	ends($node, $job, 'completed', "bisect $fault: the job is completed");
	like(states($job), qr/^1 failed \w+, 15 done$/, "bisect $fault: states");
	is(vectors("bisect $fault"), '15|1|1', "bisect $fault: vectors");
	is( sql($node,
			"SELECT item FROM sabot.llm_result WHERE job_id = $job"
			  . " AND state = 'failed'"),
		5,
		"bisect $fault: which one");
	my $sent = grep { $_->{path} eq '/api/embed' && $_->{prompt} ne '' }
	  $ollama->requests;
	cmp_ok($sent, '<=', 10, "bisect $fault: requests");
}

# Answers that are none: nothing of them is written.

foreach my $fault ('wrong_dim', 'ragged', 'missing', 'extra', 'zero_dim',
	'raw_nan')
{
	$job = sql($node, <<"SQL");
INSERT INTO item SELECT '$fault', n,
		'$fault ' || n || CASE n WHEN 2 THEN '[[fault:$fault]]' ELSE '' END
	FROM generate_series(1, 3) AS n;
SELECT sabot.submit_embedding_job(
	\$\$SELECT * FROM item WHERE name = '$fault' ORDER BY n\$\$,
	'{prompt}', model => 'stand-in-embed', target => 'item', output => 'vec',
	batch_size => 1);
SQL
	ends($node, $job, 'completed', "$fault: the job is completed");

	# With one text a vector that is longer than the others is a wrong one.
	is(states($job), '1 failed bad_output, 2 done', "$fault: states");
	is(vectors($fault), '2|1|1', "$fault: vectors");
}

# A server with the other api and a secret, given as it is and in a file

my $secret = 'tellnobody0815';
my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
append_to_file($file, "$secret\n");
my $openai = SabotOllama->new(token => $secret);
my $base = $openai->url;
sql($node, "SELECT sabot.add_llm_endpoint('open', '$base', api => 'openai',"
	  . " secret => '$secret'), sabot.add_llm_endpoint('file', '$base',"
	  . " api => 'openai', secret => 'file:$file'),"
	  . " sabot.add_llm_endpoint('wrong', '$base', api => 'openai',"
	  . " secret => 'no$secret')");
foreach my $endpoint ('open', 'file')
{
	$job = sql($node,
		"SELECT sabot.submit_llm_job('SELECT n FROM generate_series(1, 3) AS n',"
		  . " '$endpoint {n}', endpoint => '$endpoint')");
	ends($node, $job, 'completed', "$endpoint: the job is completed");
	is(states($job), '3 done', "$endpoint: states");
	my ($request) = $openai->requests(qr/^$endpoint 1/);
	is($request->{headers}{authorization},
		"Bearer $secret", "$endpoint: the secret is sent");
}
my $wrong = sql($node,
	"SELECT sabot.submit_llm_job('SELECT 1 AS n', 'wrong {n}',"
	  . " endpoint => 'wrong')");
poll($node, "SELECT wait_reason ~ 'endpoint \"wrong\".*401' FROM sabot.job_status"
	  . " WHERE job_id = $wrong",
	't', 'wrong secret: the job waits');
sql($node, "SELECT * FROM sabot.check_llm('$_')") foreach 'open', 'wrong';

# It is in nothing that anybody can see.

foreach my $view (
	split /\n/,
	sql($node,
		"SELECT c.oid::regclass FROM pg_class AS c"
		  . " WHERE relnamespace = 'sabot'::regnamespace"
		  . " AND relkind IN ('v', 'r') AND relname <> 'llm_secret'"))
{
	is( sql($node,
			"SELECT count(*) FROM $view AS v WHERE v::text LIKE '%$secret%'"),
		0,
		"secret: not in $view");
}
foreach my $function ('sabot.check_llm(\'wrong\')', 'sabot.check_llm(\'open\')')
{
	unlike(sql($node, "SELECT * FROM $function"),
		qr/$secret/, "secret: not in $function");
}
unlike(slurp_file($node->logfile), qr/$secret/, 'secret: not in the log');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
unlike(slurp_file($dump), qr/$secret/, 'secret: not in a dump');
like(slurp_file($dump), qr/\topenai\t/, 'endpoints are in a dump');
sql($node, "SELECT sabot.cancel_job($wrong)");

# A copy of the database: jobs are there, with their answers, and wait until
# they are adopted.

$ollama->faults('hold');
$ollama->reset;
my $open = sql($node, <<'SQL');
INSERT INTO item SELECT 'copied', n, 'copied ' || n FROM generate_series(1, 4) AS n;
SELECT sabot.submit_llm_job(
	$$SELECT * FROM item WHERE name = 'copied' ORDER BY n$$, '{prompt}',
	target => 'item', output => 'answer', timeout => '1 day');
SQL
ok($ollama->wait_for('in_flight', 1), 'copy: in the middle of a request');
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ],
	'pg_dump while a job runs');
sql($node, "SELECT sabot.cancel_job($open)");
ends($node, $open, 'canceled', 'copy: the original is canceled');
$ollama->faults;
sql($node, 'CREATE DATABASE copy TEMPLATE template0');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d',
		$node->connstr('copy'), '-f', $dump ],
	'copy: restored');
is( sql($node,
		"SELECT state FROM sabot.job_status WHERE job_id = $open", db => 'copy'),
	'paused',
	'copy: the job waits');
is( sql($node, "SELECT count(*), count(*) FILTER (WHERE state = 'pending')"
		  . " FROM sabot.llm_result WHERE job_id = $open",
		db => 'copy'),
	'4|4',
	'copy: and its rows');
my $other = sql($node,
	"SELECT sabot.submit_llm_job('SELECT 1 AS n', 'new {n}')",
	db => 'copy');
ends($node, $other, 'completed', 'copy: a new job runs', db => 'copy');
is(scalar(my @sent = $ollama->requests(qr/^copied [2-4]/)),
	0, 'copy: the old one does not');
sql($node, 'SELECT sabot.adopt_jobs()', db => 'copy');
ends($node, $open, 'completed', 'copy: when adopted it does', db => 'copy');
is( sql($node, "SELECT count(*) FROM item WHERE name = 'copied'"
		  . " AND answer IS NOT NULL",
		db => 'copy'),
	4,
	'copy: its answers are written');

# Jobs that are purged leave nothing.

my $purged = sql($node, 'SELECT count(*) FROM sabot.llm_job');
cmp_ok($purged, '>=', 10, 'there are jobs to purge');
sql($node, "SELECT sabot.purge('0')");
foreach my $table ('llm_job', 'llm_item', 'llm_answer', 'llm_failure',
	'llm_count')
{
	is(sql($node, "SELECT count(*) FROM sabot.$table"),
		0, "purged: nothing is left in $table");
}

$node->stop;
done_testing();
