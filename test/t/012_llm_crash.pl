# Workers and servers that are killed while an LLM job runs: no row is lost,
# none has two answers, and at most the request under way is made again.
#
# SABOT_TORTURE=long kills more often.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;
use Time::HiRes 'sleep';

my $rounds = ($ENV{SABOT_TORTURE} // '') eq 'long' ? 25 : 5;
my $seed = $ENV{SABOT_SEED} // 20;
srand($seed);
note("SABOT_SEED=$seed");

# Nobody gives up a job here that is killed again before it has got anywhere.
my $node = new_node('llm_crash',
	"sabot.llm_model = 'stand-in'\nsabot.max_crashes = 100\n");
my $ollama = SabotOllama->new;

# Each row of the target that is written leaves a row in written.
sql($node, <<"SQL");
SELECT sabot.add_llm_endpoint('default', '@{[ $ollama->url ]}');
CREATE TABLE item (name text, n int, prompt text, answer text,
	PRIMARY KEY (name, n));
CREATE TABLE written (name text, n int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO written VALUES (NEW.name, NEW.n);
	RETURN NULL;
END \$\$;
CREATE TRIGGER note AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION note();
SQL

# submit_rows(NAME, N, PROMPT) - a job of N rows; PROMPT is SQL
sub submit_rows
{
	my ($name, $n, $prompt) = @_;

	return sql($node, <<"SQL");
INSERT INTO item SELECT '$name', n, $prompt FROM generate_series(1, $n) AS n;
SELECT sabot.submit_llm_job(
	\$\$SELECT * FROM item WHERE name = '$name' ORDER BY n\$\$,
	'{prompt}', target => 'item', output => 'answer', timeout => '1 h');
SQL
}

# worker(JOB) - the pid of the worker that has the job, once one has; 0 if the
# job has finished
sub worker
{
	my ($job) = @_;

	my $pid = wait_until(
		sub {
			my ($status, $out) = try_sql($node, <<"SQL");
SELECT coalesce((SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'sabot llm'
		AND application_name = 'sabot job $job' LIMIT 1),
	CASE WHEN sabot.job_state($job) IN ('completed', 'failed') THEN 0 END)
SQL

			return $status == 0 && $out ne '' && "p$out";
		}) || die "there is no worker: " . job($node, $job, '*');
	return $pid =~ s/^p//r;
}

# whole(JOB, NAME, N, REQUESTS) - test that each of N rows has been answered
# and written once, by at most so many requests
sub whole
{
	my ($job, $name, $n, $requests) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ends($node, $job, 'completed', "$name: the job is completed");
	is( sql($node,
			"SELECT count(*), count(DISTINCT item), min(state), max(state),"
			  . " max(attempts) FROM sabot.llm_answer WHERE job_id = $job"),
		"$n|$n|done|done|1",
		"$name: each row has one answer, and no attempt was charged");
	is( sql($node,
			"SELECT count(*), count(DISTINCT n) FROM written"
			  . " WHERE name = '$name'"),
		"$n|$n",
		"$name: each row was written once");
	is( sql($node,
			"SELECT total, done, pending, running FROM sabot.llm_progress"
			  . " WHERE job_id = $job"),
		"$n|$n|0|0",
		"$name: and counted once");
	is( sql($node,
			"SELECT count(*) FROM item AS i JOIN sabot.llm_answer AS a"
			  . " ON a.job_id = $job AND a.item = i.n WHERE i.name = '$name'"
			  . " AND i.answer IS DISTINCT FROM a.response"),
		0,
		"$name: what is written is what was answered");
	cmp_ok($ollama->stats->{prompts}, '<=', $requests, "$name: requests");
	return;
}

# In the middle of a request

foreach my $how ('SIGKILL', 'terminated', 'immediate')
{
	$ollama->reset;
	$ollama->faults('hold');
	my $job = submit_rows($how, 3, "'$how ' || n");
	ok($ollama->wait_for('in_flight', 1), "$how: in the middle of a request");
	my $pid = worker($job);
	if ($how eq 'SIGKILL')
	{
		kill_pid($pid);
		server_back($node, "$how: the server is back");
	}
	elsif ($how eq 'terminated')
	{
		sql($node, "SELECT pg_terminate_backend($pid)");
		ok(wait_until(sub { !alive($pid) }), "$how: the worker is gone");
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	$ollama->faults;
	$ollama->release;
	whole($job, $how, 3, 4);
}

# At any moment, a job of many rows; half of them have the prompt of another.

$ollama->reset;
$ollama->control({ service => 'uniform:2ms,20ms' });
my $rows = 40 * $rounds;
my $job = submit_rows('any', $rows, "'any ' || n % ($rows / 2)");
my $kills = 0;
foreach my $round (1 .. $rounds)
{
	my $pid = worker($job) or last;

	sleep(rand(0.4));
	$kills++;
	if (rand() < 0.5)
	{
		# It may have ended meanwhile, or be another one: no matter.
		if (kill('KILL', $pid))
		{
			wait_until(sub { !alive($pid) }) or die "process $pid does not die";
		}
		server_back($node, "round $round: the server is back");
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
}
cmp_ok($kills, '>=', 3, 'it was killed now and then');
ends($node, $job, 'completed', 'any: the job is completed');
is( sql($node,
		"SELECT count(*), count(DISTINCT item), count(*) FILTER (WHERE state = 'done'),"
		  . " count(*) FILTER (WHERE answered_by = 'reuse')"
		  . " FROM sabot.llm_answer WHERE job_id = $job"),
	"$rows|$rows|$rows|" . $rows / 2,
	'any: each row has one answer');
is(sql($node, "SELECT count(*), count(DISTINCT n) FROM written WHERE name = 'any'"),
	"$rows|$rows", 'any: each row was written once');
is( sql($node,
		"SELECT total, done, reused FROM sabot.llm_progress WHERE job_id = $job"),
	"$rows|$rows|" . $rows / 2,
	'any: and counted once');
my $stats = $ollama->stats;
cmp_ok($stats->{prompts}, '<=', $rows / 2 + $kills,
	'any: at most the request under way was made again')
  or diag("kills: $kills");
is($stats->{distinct_prompts}, $rows / 2, 'any: each prompt was sent');

$node->stop;
done_testing();
