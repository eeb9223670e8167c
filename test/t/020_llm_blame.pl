# Whose fault it is, where that is not plain: rows that a server refuses,
# tokens that it refuses, rows that kill the worker beside others with the same
# prompt, locks in the way, owners who change their minds meanwhile.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('blame',
	"sabot.llm_workers = 6\nsabot.llm_model = 'stand-in'\n"
	  . "sabot.llm_pause_retry = '1s'\n");
my $ollama = SabotOllama->new;
my $url = $ollama->url;

sql($node, <<"SQL");
SELECT sabot.add_llm_endpoint('default', '$url');
CREATE ROLE alice LOGIN;
CREATE ROLE bob LOGIN;
SELECT sabot.grant_usage('alice'), sabot.grant_usage('bob');
CREATE TABLE item (name text, n int, prompt text, answer text, label text,
	PRIMARY KEY (name, n));
GRANT ALL ON item TO PUBLIC;
SQL

# submit_rows(NAME, N, PROMPT, ARGUMENTS, ...) - a job of N rows; PROMPT is SQL
# for what comes after the name and the number
sub submit_rows
{
	my ($name, $n, $prompt, $args, %params) = @_;

	$args = $args ? ", $args" : '';
	$args .= ", output => 'answer'" unless $args =~ /output =>/;
	return sql($node, <<"SQL", %params);
INSERT INTO item SELECT '$name', n, $prompt FROM generate_series(1, $n) AS n;
SELECT sabot.submit_llm_job(
	\$\$SELECT * FROM item WHERE name = '$name' ORDER BY n\$\$,
	'{prompt}', target => 'item', name => '$name' $args);
SQL
}

# states(JOB) - how its items are: state, class, attempts
sub states
{
	my ($job) = @_;

	return sql($node,
		"SELECT string_agg(concat_ws(' ', state, error_class, attempts), ', '"
		  . " ORDER BY item) FROM sabot.llm_result WHERE job_id = $job");
}

# held(N, MESSAGE) - wait until the stand-in keeps that many requests
sub held
{
	my ($n, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(wait_until(sub { $ollama->stats->{in_flight} == $n }), $message);
	return;
}

# Rows that a filter in front of the server refuses, each time.  Each case has
# a server of its own, so that they are stopped at the same time.
#
# [ name, fault of one row, rows, which one, class, requests ]
my @refused = (
	[ 'r403', 'refuse:403', 5, 2, 'http_4xx', 3 ],
	[ 'r503', 'refuse:503', 5, 2, 'http_5xx', 3 ],
	[ 'r429', 'refuse:429', 5, 5, 'http_4xx', 3 ],
	[ 'alone', 'refuse:403', 1, 1, 'http_4xx', 3 ],
	[ 'fallback', 'refuse:403', 3, 1, 'http_4xx', 3 ],
	[ 'retry after', '429', 3, 2, 'http_4xx', 6 ]);
my %server;
my %job;
foreach my $case (@refused, ['busy'])
{
	my ($name) = @$case;

	$server{$name} = SabotOllama->new;
	sql($node,
		"SELECT sabot.add_llm_endpoint('$name', '" . $server{$name}->url . "')");
}

# The server refuses whatever comes for a while: that is nobody's fault.
$server{busy}->faults('503:first=3,match=busy');
$job{busy} = submit_rows('busy', 3, "'busy ' || n", "endpoint => 'busy'");
foreach my $case (@refused)
{
	my ($name, $fault, $n, $which) = @$case;

	$job{$name} = submit_rows($name, $n,
		"'$name ' || n || CASE n WHEN $which THEN ' secret words [[fault:$fault]]' ELSE '' END",
		"endpoint => '$name'" . ($name eq 'fallback' ? ", fallback => 'none'" : ''));
}

# Nothing of the row is shown to everybody who uses the server.
poll(
	$node,
	"SELECT state || ' ' || error FROM sabot.llm_endpoint_status"
	  . " WHERE endpoint = 'r403' AND error IS NOT NULL",
	'stopped HTTP status 403: forbidden (the endpoint has no secret)',
	'refused: why the endpoint is stopped');
unlike(job($node, $job{r403}, "coalesce(wait_reason, '')"),
	qr/secret words/, 'refused: the reason has nothing of the prompt');

# Meanwhile: an expired token stops those who use it, and nobody else.

my $tokens = SabotOllama->new(token => 'good');
my $base = $tokens->url;
sql($node,
	    "SELECT sabot.add_llm_endpoint('expired', '$base', secret => 'old'),"
	  . " sabot.add_llm_endpoint('valid', '$base', secret => 'good')");
my $expired = submit_rows('expired', 2, "'expired ' || n", "endpoint => 'expired'");
poll(
	$node,
	"SELECT state FROM sabot.llm_endpoint_status WHERE endpoint = 'expired'",
	'stopped',
	'token: the endpoint is stopped');
is( sql($node,
		"SELECT state, error IS NULL FROM sabot.llm_endpoint_status"
		  . " WHERE endpoint = 'valid'"),
	'ready|t',
	'token: the other one is not');
my $valid = submit_rows('valid', 2, "'valid ' || n", "endpoint => 'valid'");
ends($node, $valid, 'completed', 'token: a job with the other one is completed');
like(job($node, $expired, 'wait_reason'),
	qr/^endpoint "expired" HTTP status 401/, 'token: the first one waits');

# A new token is tried at once.
sql($node, "SELECT sabot.add_llm_endpoint('expired', '$base', secret => 'good')");
isnt(
	sql($node,
		"SELECT state FROM sabot.llm_endpoint_status WHERE endpoint = 'expired'"),
	'stopped',
	'token: a new one opens the endpoint');
ends($node, $expired, 'completed', 'token: and the job goes on');

# A secret's file that is not there for a moment

my $file = PostgreSQL::Test::Utils::tempdir() . '/token';
append_to_file($file, "good\n");
sql($node, "SELECT sabot.add_llm_endpoint('file', '$base', secret => 'file:$file')");
my $filed = submit_rows('file', 2, "'file ' || n",
	"endpoint => 'file', run_after => clock_timestamp() + interval '1 s'");
rename($file, "$file.gone") or die "could not rename $file: $!";
poll(
	$node,
	"SELECT regexp_replace(wait_reason, '\\d+', 'N') FROM sabot.job_status"
	  . " WHERE job_id = $filed",
	'endpoint "file" its secret cannot be read: No such file or directory,'
	  . ' next probe in N s',
	'file: the job waits for it');
rename("$file.gone", $file) or die "could not rename $file.gone: $!";

# Locks and the like in the way of writing: again, and without asking again.

sql($node, <<'SQL');
CREATE TABLE busy (n int PRIMARY KEY, t text);
INSERT INTO busy SELECT n FROM generate_series(1, 4) AS n;
CREATE SEQUENCE tries;
CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.n = 2 AND nextval('tries') < 4 THEN
		RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'not now';
	ELSIF NEW.n = 3 AND nextval('tries') < 8 THEN
		RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = 'locked';
	ELSIF NEW.n = 4 AND nextval('tries') > 0 THEN
		RAISE EXCEPTION USING ERRCODE = '40P01', MESSAGE = 'never';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER t BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION in_the_way();
SQL
$ollama->reset;
my $job = sql($node, "SELECT sabot.submit_llm_job('SELECT n FROM busy ORDER BY n',"
	  . " 'write {n}', target => 'busy', output => 't')");
ends($node, $job, 'completed', 'in the way: the job is completed');
is(states($job), 'done 1, done 1, done 1, failed write_failed 1',
	'in the way: rows');
is( sql($node, "SELECT error FROM sabot.llm_result WHERE job_id = $job AND item = 4"),
	'never',
	'in the way: the error of the row that never could be written');
is(sql($node, "SELECT last_value FROM tries"),
	12, 'in the way: each was written four times at most');
is($ollama->stats->{prompts}, 4, 'in the way: each was asked once');

# A row that kills the worker, in the midst of others with the same prompt

sql($node, <<'SQL');
CREATE TABLE same (n int PRIMARY KEY, t text);
INSERT INTO same SELECT n FROM generate_series(1, 150) AS n;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.n = 7 THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
		PERFORM pg_sleep(600);
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER t BEFORE UPDATE ON same FOR EACH ROW EXECUTE FUNCTION die();
SQL
$ollama->reset;
$job = sql($node, "SELECT sabot.submit_llm_job('SELECT n FROM same ORDER BY n',"
	  . " 'always the same', target => 'same', output => 't')");
ends($node, $job, 'completed', 'poison: the job is completed');
is( sql($node,
		"SELECT string_agg(item::text, ' ') FILTER (WHERE state <> 'done'),"
		  . " min(error), count(*) FILTER (WHERE state = 'done'),"
		  . " (SELECT count(t) FROM same)"
		  . " FROM sabot.llm_result WHERE job_id = $job"),
	'7|the worker did not survive this item|149|149',
	'poison: one row has failed, the others are done');
is($ollama->stats->{prompts}, 1, 'poison: one request');

# A target that changes before others take over an answer: it does not fit.

my $session = user_session($node);
sql($node, <<'SQL');
CREATE TABLE changing (n int PRIMARY KEY, label text, extra text);
INSERT INTO changing SELECT n FROM generate_series(1, 3) AS n;
CREATE FUNCTION wait_for_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.n = 1 THEN
		RAISE EXCEPTION 'not this one';
	END IF;
	PERFORM pg_advisory_xact_lock(1);
	RETURN NEW;
END $$;
CREATE TRIGGER t BEFORE UPDATE ON changing FOR EACH ROW EXECUTE FUNCTION wait_for_it();
SQL
$session->query_safe('SELECT pg_advisory_lock(1)');
$job = sql($node, <<'SQL');
SELECT sabot.submit_llm_job(
	$$SELECT n, '[[answer:{"label": null, "extra": "x"}]]' AS p FROM changing ORDER BY n$$,
	'{p}', target => 'changing',
	output => '{"label": "$.label", "extra": "$.extra"}', format => '{"type": "object"}');
SQL
poll(
	$node,
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot llm'"
	  . " AND wait_event = 'advisory'",
	1,
	'does not fit: others are about to take over the answer');
sql($node, "SELECT sabot.pause_job($job)");
poll($node, "SELECT sabot.job_state($job)", 'paused', 'does not fit: paused');
$session->query_safe('SELECT pg_advisory_unlock(1)');
sql($node, "DROP TRIGGER t ON changing; UPDATE changing SET label = '';"
	  . ' ALTER TABLE changing ALTER label SET NOT NULL');
sql($node, "SELECT sabot.resume_job($job)");
ends($node, $job, 'completed', 'does not fit: the job is completed');
is(states($job), 'failed write_failed 1, failed bad_output 0, failed bad_output 0',
	'does not fit: they have failed');
is( sql($node,
		"SELECT DISTINCT error FROM sabot.llm_result WHERE job_id = $job"
		  . " AND item > 1"),
	'answer does not fit: has no value for column "label"',
	'does not fit: and why');

# Jobs that pause by themselves, and what their owner has to say

# pauses(NAME, N) - a job of N rows that has paused by itself
sub pauses
{
	my ($name, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$ollama->faults('500');
	my $id = submit_rows($name, $n, "'$name ' || n", 'max_attempts => 1');
	poll($node, "SELECT sabot.job_state($id)", 'paused', "$name: has paused");
	return $id;
}

$job = pauses('stays', 15);
is(sql($node, "SELECT sabot.pause_job($job)"),
	't', 'stays: its owner can pause it all the same');
is(sql($node, "SELECT sabot.pause_job($job)"), 'f', 'stays: once');
poll(
	$node,
	"SELECT wait_reason FROM sabot.job_status WHERE job_id = $job",
	'paused by its owner',
	'stays: so says the reason');
held(0, 'stays: no row is being tried');
$ollama->faults;
$ollama->reset;
sql($node, 'SELECT pg_sleep(2.5)');
is($ollama->stats->{prompts}, 0, 'stays: no row is tried anymore');
is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'stays: until it is resumed');
ends($node, $job, 'completed', 'stays: then it goes on');

# What somebody else has recorded is no answer to a try.
$job = pauses('not ours', 15);
$ollama->faults('hold:first=1', '500');
held(1, 'not ours: a row is being tried');
my $held = sql($node,
	"SELECT item FROM sabot.llm_result WHERE job_id = $job AND state = 'running'");
sql($node,
	    "INSERT INTO sabot.llm_answer (job_id, item, state, attempts, finished_at)"
	  . " VALUES ($job, $held, 'failed', 0, clock_timestamp())");
set_conf($node, 'sabot.llm_pause_retry' => '1h');
poll($node, 'SHOW sabot.llm_pause_retry', '1h', 'a long time between tries');
my $before = $ollama->stats->{prompts};
$ollama->release;
ok($ollama->wait_for('prompts', $before + 1), 'not ours: another row is tried');
held(0, 'not ours: in vain');
poll(
	$node,
	"SELECT state, wait_reason ~ 'the last try was at', retry_at > now() + interval '10 min'"
	  . " FROM sabot.job_status JOIN sabot.llm_job USING (job_id)"
	  . " WHERE job_id = $job",
	'paused|t|t',
	'not ours: the job stays paused');
sql($node, "SELECT sabot.cancel_job($job)");

# Resumed while a row is tried in vain
set_conf($node, 'sabot.llm_pause_retry' => '1s');
poll($node, 'SHOW sabot.llm_pause_retry', '1s', 'a short time between tries');
$job = pauses('resumed', 15);
$ollama->faults('hold');
held(1, 'resumed: a row is being tried');
set_conf($node, 'sabot.llm_pause_retry' => '1h');
poll($node, 'SHOW sabot.llm_pause_retry', '1h', 'a long time between tries');
is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'resumed: meanwhile');
$ollama->faults('500:first=1');
$ollama->control({ drop_connections => JSON::PP::true });
ends($node, $job, 'completed', 'resumed: the job runs');
$session->quit;

# Workers of a role that cannot start, and whose jobs are gone, are forgotten.

sql($node, 'CREATE DATABASE closed');
sql($node, "CREATE EXTENSION sabot; SELECT sabot.add_llm_endpoint('default', '$url'),"
	  . " sabot.grant_usage('alice')",
	db => 'closed');
my $offset = -s $node->logfile;
$job = sql($node,
	"SELECT sabot.submit_llm_job('SELECT 1 AS n', 'closed {n}',"
	  . " run_after => clock_timestamp() + interval '3 s')",
	db => 'closed', user => 'alice');
sql($node, 'REVOKE CONNECT ON DATABASE closed FROM PUBLIC');
sql($node, "SELECT sabot.cancel_job($job)", db => 'closed');
ok( wait_until(
		sub { log_since($node, $offset) =~ /permission denied for database/ }),
	'closed: a worker cannot start');
poll(
	$node,
	"SELECT count(*) FROM sabot.pair_failures() WHERE database = 'closed'",
	0,
	'closed: that is forgotten, as there is no job');
sql($node, 'GRANT CONNECT ON DATABASE closed TO PUBLIC');
$job = sql($node, "SELECT sabot.submit_llm_job('SELECT 1 AS n', 'open {n}')",
	db => 'closed', user => 'alice');
ends($node, $job, 'completed', 'closed: a job runs when it is open again',
	db => 'closed');

# More servers than there is room for, while somebody stands in line for the
# one that was used longest ago.

$ollama->faults('hold');
my $first = submit_rows('first', 1, "'first'", undef, user => 'alice');
held(1, 'line: a request is open');
my $second = submit_rows('second', 1, "'second'", undef, user => 'bob');
my $pid = wait_until(
	sub {
		my $found = sql($node, <<"SQL");
SELECT pid FROM pg_stat_activity WHERE backend_type = 'sabot llm'
	AND application_name = 'sabot job $second' AND wait_event_type = 'Extension'
SQL

		# It waits there as well just before it stands in line: no matter then.
		# But it must not be stopped with a lock.
		return unless $found ne '' && kill('STOP', $found);
		return $found
		  if sql($node,
			"SELECT wait_event_type FROM pg_stat_activity WHERE pid = $found") eq
		  'Extension';
		kill('CONT', $found);
		return;
	}) or die 'no worker stands in line';
sql($node, "SELECT sabot.cancel_job($first)");
ends($node, $first, 'canceled', 'line: the first one is canceled');
held(0, 'line: no request is open');
sql($node, "SELECT sabot.add_llm_endpoint('many' || n, 'http://127.0.0.1:' || n)"
	  . ' FROM generate_series(1, 70) AS n');
my ($status, $out, $err) = try_sql($node, <<'SQL');
SET client_min_messages = error;
SELECT count(sabot.submit_llm_job('SELECT 1 AS n', '{n}', endpoint => 'many' || n,
	run_after => 'infinity')) FROM generate_series(1, 70) AS n;
SQL
kill('CONT', $pid);
is("$status|$out|$err", '0|70|', 'line: room is made elsewhere');
$ollama->faults;
ends($node, $second, 'completed', 'line: who stood in it goes on');

# What became of those who were refused

foreach my $case (@refused)
{
	my ($name, $fault, $n, $which, $class, $nrequests) = @$case;
	my $state = $name eq 'fallback' ? 'fallback' : 'failed';
	my @expected = ('done 1') x $n;

	$expected[ $which - 1 ] = "$state $class 1";
	ends($node, $job{$name}, 'completed', "$name: the job is completed");
	is(states($job{$name}), join(', ', @expected), "$name: rows");
	is(scalar(my @sent = $server{$name}->requests(qr/^\Q$name\E $which\b/)),
		$nrequests, "$name: requests of that row");
	is(scalar(@sent = $server{$name}->requests(qr/^\Q$name\E (?!$which)/)),
		$n - 1, "$name: requests of the others");
}
like(
	sql($node,
		"SELECT error FROM sabot.llm_result WHERE job_id = $job{r403} AND item = 2"),
	qr/^HTTP status 403: this text is not allowed: r403 2 secret words/,
	'r403: its owner is told all of it');
ends($node, $job{busy}, 'completed', 'busy: the job is completed');
is(states($job{busy}), 'done 1, done 1, done 1', 'busy: no row is at fault');
ends($node, $filed, 'completed', 'file: the job goes on when it is there again');

$node->stop;
done_testing();
