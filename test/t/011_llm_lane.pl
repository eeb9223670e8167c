# LLM jobs under control: stopped in the middle of a request, sharing a
# server, writing where something is in the way, asked again.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('lane',
	"sabot.llm_workers = 4\nsabot.llm_model = 'stand-in'\n"
	  . "sabot.llm_pause_retry = '1s'\n");
my $ollama = SabotOllama->new(parallel => 8);
my $url = $ollama->url;

# prepare(DATABASE) - the extension, its endpoint, and a table of rows
sub prepare
{
	my ($db) = @_;

	sql($node, 'CREATE EXTENSION IF NOT EXISTS sabot', db => $db);
	sql($node, <<"SQL", db => $db);
SELECT sabot.add_llm_endpoint('default', '$url'),
	sabot.grant_usage('alice'), sabot.grant_usage('bob');
CREATE TABLE item (name text, n int, prompt text, answer text,
	PRIMARY KEY (name, n));
GRANT ALL ON item TO PUBLIC;
SQL
	return;
}

sql($node, 'CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN');
prepare('postgres');

# submit_rows(NAME, N, ARGUMENTS, ...) - a job of N rows; prompt => is SQL for
# their prompt
sub submit_rows
{
	my ($name, $n, $args, %params) = @_;
	my $prompt = delete $params{prompt} // "'$name ' || n";

	$args = defined $args ? ", $args" : '';
	$args .= ", output => 'answer'" unless $args =~ /output =>/;
	$args .= ", target => 'item'" unless $args =~ /target =>/;
	sql($node,
		"INSERT INTO item SELECT '$name', n, $prompt"
		  . " FROM generate_series(1, $n) AS n",
		%params);
	return sql($node, <<"SQL", %params);
SELECT sabot.submit_llm_job(
	\$\$SELECT * FROM item WHERE name = '$name' ORDER BY n\$\$,
	'{prompt}', name => '$name' $args);
SQL
}

# held(N) - wait until the stand-in keeps that many requests
sub held
{
	my ($n, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(wait_until(sub { $ollama->stats->{in_flight} == $n }), $message)
	  or diag('in flight: ' . $ollama->stats->{in_flight});
	return;
}

# states(JOB, ...) - how its items are: state, class and how it was answered
sub states
{
	my ($job, %params) = @_;

	return sql($node,
		"SELECT string_agg(concat_ws(' ', state, nullif(answered_by, state),"
		  . " error_class), ', ' ORDER BY item)"
		  . " FROM sabot.llm_result WHERE job_id = $job",
		%params);
}

# In the middle of a request that never ends: whatever stops the job does so
# at once, or would wait for ever.

my $args = "timeout => '1 day'";
$ollama->faults('hold');
my $job = submit_rows('cancel', 3, $args);
held(1, 'cancel: in the middle of a request');
like(states($job), qr/^running, pending, pending$/, 'cancel: items before');
is( sql($node,
		"SELECT count(*), count(xact_start), count(backend_xmin)"
		  . " FROM pg_stat_activity WHERE backend_type = 'sabot llm'"
		  . " AND application_name = 'sabot job $job'"),
	'1|0|0',
	'cancel: no transaction is open during the request');
is(sql($node, "SELECT sabot.cancel_job($job)"), 't', 'cancel');
ends($node, $job, 'canceled', 'cancel: the job is canceled');
held(0, 'cancel: the request has ended');
is(states($job), 'canceled, canceled, canceled', 'cancel: items');

$job = submit_rows('pause', 3, $args);
held(1, 'pause: in the middle of a request');
is(sql($node, "SELECT sabot.pause_job($job)"), 't', 'pause');
held(0, 'pause: the request has ended');
poll($node, "SELECT sabot.job_state($job)", 'paused', 'pause: the job is paused');
$ollama->faults;
is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'resume');
ends($node, $job, 'completed', 'resume: the job is completed');
is( sql($node,
		"SELECT string_agg(attempts::text, ' ') FROM sabot.llm_result"
		  . " WHERE job_id = $job AND state = 'done'"),
	'1 1 1',
	'resume: no attempt was charged');

$ollama->faults('hold');
$job = submit_rows('fast', 3, $args);
held(1, 'fast stop: in the middle of a request');
$node->stop('fast');
held(0, 'fast stop: the request has ended');
$ollama->faults;
$node->start;
ends($node, $job, 'completed', 'fast stop: the job goes on');
is(states($job), 'done model, done model, done model', 'fast stop: items');
is(job($node, $job, 'losses'), 0, 'fast stop: no loss is counted');

sql($node, 'CREATE DATABASE doomed');
foreach my $command ('DROP EXTENSION sabot CASCADE; DROP TABLE item',
	'DROP DATABASE doomed WITH (FORCE)')
{
	prepare('doomed');
	$ollama->faults('hold');
	submit_rows('doomed', 3, $args, db => 'doomed', user => 'alice');
	held(1, "$command: in the middle of a request");
	sql($node, $command,
		db => $command =~ /EXTENSION/ ? 'doomed' : 'postgres');
	held(0, "$command: the request has ended");
}
$ollama->faults;

# Two databases, three roles, two names: one server, one request at a time,
# and everybody has his turn.

sql($node, 'CREATE DATABASE other');
prepare('other');
my $same = $url =~ s/127\.0\.0\.1/localhost/r;
sql($node, "SELECT sabot.add_llm_endpoint('same', '$same')", db => $_)
  foreach 'postgres', 'other';
$ollama->control({ service => 'fixed:20ms' });
$ollama->reset;
my @who = (
	{ db => 'postgres', user => 'alice' },
	{ db => 'postgres', user => 'bob' },
	{ db => 'other', user => 'alice' });
my @jobs = map {
	submit_rows("share $_->{db} $_->{user}", 25,
		$_->{user} eq 'bob' || $_->{db} eq 'other' ? "endpoint => 'same'" : undef,
		%$_)
} @who;
ends($node, $jobs[$_], 'completed', "share: job $_ is completed", %{ $who[$_] })
  foreach 0 .. 2;
my $stats = $ollama->stats;
is($stats->{most_in_flight}, 1, 'share: one request at a time');
is($stats->{prompts}, 75, 'share: each row was asked once');
my @order = map { $_->{prompt} =~ /^share (\w+ \w+)/ ? $1 : () }
  sort { $a->{seq} <=> $b->{seq} } $ollama->requests(qr/^share/);
my $turns = grep { $order[$_] ne $order[ $_ - 1 ] } 1 .. $#order;
cmp_ok($turns, '>=', 10, 'share: they take turns') or diag("@order");
is( sql($node,
		"SELECT most_in_flight FROM sabot.llm_count WHERE job_id = $jobs[0]"),
	1,
	'share: so says the worker');

# As many as there may be.

sql($node,
	    "SELECT sabot.add_llm_endpoint('four', '$url', max_in_flight => 4),"
	  . " sabot.add_llm_endpoint('two', '$url', max_in_flight => 2)");
$ollama->control({ service => 'fixed:0' });
$ollama->reset;
$ollama->faults('hold');
$job = submit_rows('four', 12, "$args, endpoint => 'four'");
held(4, 'four: there are four requests');
sql($node, "SELECT pg_sleep(0.2)");
is($ollama->stats->{most_in_flight}, 4, 'four: and no more');
$ollama->faults;
$ollama->release;
ends($node, $job, 'completed', 'four: the job is completed');
is($ollama->stats->{most_in_flight}, 4, 'four: there never were more');
is($ollama->stats->{prompts}, 12, 'four: each row was asked once');

$ollama->reset;
$ollama->faults('hold');
my $first = submit_rows('two', 6, "$args, endpoint => 'two'", user => 'alice');
held(2, 'two: there are two requests');
$job = submit_rows('four too', 6, "$args, endpoint => 'four'", user => 'bob');
poll($node, "SELECT sabot.job_state($job)",
	'running', 'two: a worker has the job that may have four');
sql($node, 'SELECT pg_sleep(0.2)');
is(scalar(my @none = $ollama->requests(qr/^four too/)),
	0, 'two: it waits for the one that may have two');
is($ollama->stats->{most_in_flight}, 2, 'two: the smaller limit holds');
$ollama->faults;
$ollama->release;
ends($node, $_, 'completed', 'two: the jobs are completed') foreach $first, $job;

# Rows in whose way something is: their error, and the next one goes on.

sql($node, <<'SQL');
CREATE TABLE strict (n int PRIMARY KEY, prompt text, i int, t text,
	owner name DEFAULT 'bob');
INSERT INTO strict SELECT n, 'strict ' || n FROM generate_series(1, 3) AS n;
GRANT ALL ON strict TO alice;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.n <> 2 THEN
		RETURN NEW;
	ELSIF TG_ARGV[0] = 'raise' THEN
		RAISE EXCEPTION 'row % is refused', NEW.n;
	ELSIF TG_ARGV[0] = 'ignore' THEN
		RETURN NULL;
	END IF;
	PERFORM pg_terminate_backend(pg_backend_pid());
	PERFORM pg_sleep(600);
END $$;
SQL

# strict(NAME, SETUP, UNDO, ERROR, ARGUMENTS) - test that of three rows the
# second one cannot be written, for this reason
sub strict
{
	my ($name, $setup, $undo, $error, %params) = @_;
	my $output = $params{output} // 't';
	my $prompt = $params{prompt} // '{prompt}';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	sql($node, "UPDATE strict SET t = NULL, i = NULL; $setup");
	my $id = sql($node,
		"SELECT sabot.submit_llm_job('SELECT * FROM strict ORDER BY n',"
		  . " '$prompt', target => 'strict', output => '$output')",
		user => 'alice');
	ends($node, $id, 'completed', "$name: the job is completed");
	is(states($id), 'done model, failed model write_failed, done model',
		"$name: the second row cannot be written");
	like(
		sql($node,
			"SELECT error FROM sabot.llm_result WHERE job_id = $id AND item = 2"),
		$error,
		"$name: the reason");
	is( sql($node,
			"SELECT string_agg((num_nonnulls(t, i) = 1)::text, ' ' ORDER BY n)"
			  . " FROM strict"),
		'true false true',
		"$name: the others are written");
	sql($node, $undo);
	return;
}

strict(
	'raises',
	"CREATE TRIGGER t BEFORE UPDATE ON strict FOR EACH ROW"
	  . " EXECUTE FUNCTION refuse('raise')",
	'DROP TRIGGER t ON strict',
	qr/^row 2 is refused$/);
strict(
	'raises at commit',
	"CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON strict"
	  . " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
	  . " EXECUTE FUNCTION refuse('raise')",
	'DROP TRIGGER t ON strict',
	qr/^row 2 is refused$/);
strict(
	'ignores',
	"CREATE TRIGGER t BEFORE UPDATE ON strict FOR EACH ROW"
	  . " EXECUTE FUNCTION refuse('ignore')",
	'DROP TRIGGER t ON strict',
	qr/^no row of the target/);
strict(
	'RLS hides',
	'ALTER TABLE strict ENABLE ROW LEVEL SECURITY;'
	  . ' CREATE POLICY r ON strict FOR SELECT USING (true);'
	  . ' CREATE POLICY u ON strict FOR UPDATE USING (n <> 2)',
	'ALTER TABLE strict DISABLE ROW LEVEL SECURITY;'
	  . ' DROP POLICY r ON strict; DROP POLICY u ON strict',
	qr/none that its owner may see/);
strict(
	'check',
	"ALTER TABLE strict ADD CONSTRAINT c CHECK (n <> 2 OR t IS NULL)",
	'ALTER TABLE strict DROP CONSTRAINT c',
	qr/violates check constraint "c"/);
strict(
	'range',
	"ALTER TABLE strict ALTER i TYPE smallint;"
	  . " UPDATE strict SET prompt = CASE n WHEN 2 THEN '[[answer:70000]]'"
	  . " ELSE '[[answer:7]] ' || n END",
	"ALTER TABLE strict ALTER i TYPE int;"
	  . " UPDATE strict SET prompt = 'strict ' || n",
	qr/smallint/,
	output => 'i');

# What changes between asking and writing

foreach my $case (
	[ 'deleted', 'DELETE FROM strict WHERE n = 1', qr/^no row of the target/,
		'failed model write_failed, done model, done model' ],
	[ 'revoked', 'REVOKE UPDATE ON strict FROM alice', qr/permission denied/,
		'failed model write_failed, failed model write_failed, failed model write_failed' ],
	[ 'type', 'ALTER TABLE strict ALTER t TYPE int USING n',
		qr/of type integer/,
		'failed model write_failed, failed model write_failed, failed model write_failed' ])
{
	my ($name, $command, $error, $states) = @$case;

	$ollama->faults('hold');
	sql($node, "DELETE FROM strict; INSERT INTO strict (n, prompt)"
		  . " SELECT n, 'changed ' || n FROM generate_series(1, 3) AS n");
	$job = sql($node,
		"SELECT sabot.submit_llm_job('SELECT * FROM strict ORDER BY n',"
		  . " '{prompt}', target => 'strict', output => 't')",
		user => 'alice');
	held(1, "$name: in the middle of a request");
	sql($node, $command);
	$ollama->faults;
	$ollama->release;
	ends($node, $job, 'completed', "$name: the job is completed");
	is(states($job), $states, "$name: what is not written");
	like(
		sql($node,
			"SELECT error FROM sabot.llm_result WHERE job_id = $job AND item = 1"),
		$error,
		"$name: the reason");
	sql($node, 'GRANT ALL ON strict TO alice');
}
sql($node, 'ALTER TABLE strict ALTER t TYPE text');

# A row that takes the worker with it

sql($node, "UPDATE strict SET prompt = 'poison ' || n, t = NULL;"
	  . " CREATE TRIGGER t BEFORE UPDATE ON strict FOR EACH ROW"
	  . " EXECUTE FUNCTION refuse('die')");
sql($node, "INSERT INTO strict SELECT 1, 'poison 1' WHERE NOT EXISTS"
	  . " (SELECT FROM strict WHERE n = 1)");
foreach my $fallback ('', ", fallback => 'none'")
{
	my $name = $fallback eq '' ? 'poison' : 'poison with fallback';

	$ollama->reset;
	$job = sql($node,
		"SELECT sabot.submit_llm_job('SELECT * FROM strict ORDER BY n',"
		  . " '{prompt}', target => 'strict', output => 't' $fallback)");
	ends($node, $job, 'completed', "$name: the job is completed");
	is(states($job), 'done model, failed write_failed, done model',
		"$name: the row has failed, the others are done");
	is( sql($node,
			"SELECT error FROM sabot.llm_result WHERE job_id = $job"
			  . " AND item = 2"),
		'the worker did not survive this item',
		"$name: the reason");
	my @sent = $ollama->requests(qr/^poison/);
	cmp_ok(scalar(grep { $_->{prompt} eq 'poison 2' } @sent),
		'<=', 2, "$name: it was asked twice at most");
	is(scalar(grep { $_->{prompt} ne 'poison 2' } @sent),
		2, "$name: the others once");
}
sql($node, 'DROP TRIGGER t ON strict');

# Rows with the same prompt are one request; rows without any none.

$ollama->reset;
$job = submit_rows('same', 9, undef,
	prompt => "CASE WHEN n > 6 THEN NULL ELSE 'same ' || n % 2 END");
ends($node, $job, 'completed', 'same: the job is completed');
is( states($job),
	'done model, done model, done reuse, done reuse, done reuse, done reuse,'
	  . ' skipped, skipped, skipped',
	'same: what becomes of the rows');
is($ollama->stats->{prompts}, 2, 'same: requests');
is( sql($node,
		"SELECT string_agg(attempts::text, ' ' ORDER BY item)"
		  . " FROM sabot.llm_result WHERE job_id = $job"),
	'1 1 0 0 0 0 0 0 0',
	'same: attempts');
is( sql($node,
		"SELECT count(DISTINCT answer), count(answer) FROM item"
		  . " WHERE name = 'same'"),
	'2|6',
	'same: answers');
is( sql($node,
		"SELECT total, done, skipped, reused FROM sabot.llm_progress"
		  . " WHERE job_id = $job"),
	'9|6|3|4',
	'same: counted');
$ollama->reset;
$job = submit_rows('not same', 3, 'reuse => false', prompt => "'always this'");
ends($node, $job, 'completed', 'reuse => false: the job is completed');
is($ollama->stats->{prompts}, 3, 'reuse => false: requests');

# Too many failures in a row: the job pauses by itself, tries one row now and
# then, and goes on when that has an answer.

my $listener = user_session($node);
$listener->query_safe('LISTEN lane');
my $offset = -s $node->logfile;
$ollama->reset;
$ollama->faults('500');
$job = submit_rows('pauses', 15, "max_attempts => 1, notify => 'lane'");
poll(
	$node,
	"SELECT state, wait_reason FROM sabot.job_status WHERE job_id = $job",
	'paused|10 items in a row got no answer',
	'pauses: after ten failures');
like(
	log_since($node, $offset),
	qr/WARNING:  LLM job $job was paused: 10 items in a row got no answer/,
	'pauses: so says the log');
like($listener->query_safe('SELECT 1'), qr/"lane" with payload ".*paused/,
	'pauses: who listens is told');
$listener->quit;
poll(
	$node,
	"SELECT wait_reason ~ 'the last try was at' FROM sabot.job_status"
	  . " WHERE job_id = $job",
	't',
	'pauses: one row is tried');
is(job($node, $job, 'state'), 'paused', 'pauses: in vain');
my $tried = $ollama->stats->{prompts};
cmp_ok($tried, '>=', 11, 'pauses: one more request');
cmp_ok($tried, '<', 15, 'pauses: not all of them');
$ollama->faults;
ends($node, $job, 'completed', 'pauses: goes on when a row has its answer');
is( sql($node,
		"SELECT count(*) FILTER (WHERE state = 'failed'"
		  . " AND error_class = 'http_5xx') >= 11,"
		  . " count(*) FILTER (WHERE state = 'done') >= 1, count(*)"
		  . " FROM sabot.llm_result WHERE job_id = $job"),
	't|t|15',
	'pauses: what becomes of the rows');
is(sql($node, "SELECT sabot.retry_llm_items($job, 'timeout')"),
	0, 'retry: none of that class');
is(job($node, $job, 'state'), 'completed', 'retry: none, so nothing happens');
is( sql($node,
		"SELECT sabot.retry_llm_items($job, 'http_5xx') ="
		  . " (SELECT failed_before FROM (SELECT count(*) AS failed_before"
		  . "  FROM sabot.llm_result WHERE job_id = $job"
		  . "  AND state = 'failed') AS b)"),
	't',
	'retry: all of that class');
ends($node, $job, 'completed', 'retry: the job is completed');
is( sql($node,
		"SELECT total, done, failed FROM sabot.llm_progress WHERE job_id = $job"),
	'15|15|0',
	'retry: all are done');

# Dependencies: the rows of a source are those that are there when what the job
# waits for has completed, and who waits for the job finds the answers.

sql($node, q{SELECT sabot.pause_queue('held')});
my $before = submit(
	$node,
	q{INSERT INTO item SELECT 'depends', n, 'depends ' || n FROM generate_series(1, 3) AS n},
	args => "queue => 'held'");
$job = submit_rows('depends', 0, "depends_on => ARRAY[$before]");
my $last = submit(
	$node,
	q{CREATE TABLE answered AS SELECT count(*) FROM item WHERE name = 'depends' AND answer IS NOT NULL},
	args => "depends_on => ARRAY[$job]");
is(job($node, $job, 'state, wait_reason'), "blocked|waits for job $before",
	'dependencies: the job waits');
is(job($node, $last, 'state, wait_reason'), "blocked|waits for job $job",
	'dependencies: another one waits for it');
$ollama->faults('hold');
sql($node, q{SELECT sabot.resume_queue('held')});
held(1, 'dependencies: in the middle of a request');
is(job($node, $job, 'state'), 'running', 'dependencies: the job runs');

# What is begun goes on, whatever becomes of the first job, and is taken up again.
sql($node, "SELECT sabot.pause_job($job)");
held(0, 'dependencies: the request has ended');
poll($node, "SELECT sabot.job_state($job)", 'paused',
	'dependencies: the job is paused');
sql($node, "SELECT sabot.resume_job($job)");
held(1, 'dependencies: it is taken up again');
is(job($node, $last, 'state'), 'blocked', 'dependencies: the last one waits');
$ollama->faults;
sql($node, "SELECT sabot.pause_job($job)");
poll($node, "SELECT sabot.job_state($job)", 'paused',
	'dependencies: the job is paused again');
sql($node, "SELECT sabot.resume_job($job)");
ends($node, $last, 'completed', 'dependencies: all have completed');
is(sql($node, 'SELECT count FROM answered'), '3',
	'dependencies: in their order');

$before = submit($node, 'SELECT 1 / 0', args => 'run_after => clock_timestamp() + interval \'0.5 s\'');
$job = submit_rows('skipped', 3, "depends_on => ARRAY[$before]");
$last = submit($node, 'SELECT', args => "depends_on => ARRAY[$job]");
ends($node, $last, 'skipped', 'dependencies: skipped with what it waits for');
is( job($node, $job, 'state, error'),
	"skipped|job $before failed",
	'dependencies: the LLM job says why');
is( sql($node,
		"SELECT state, total FROM sabot.llm_progress WHERE job_id = $job"),
	'skipped|',
	'dependencies: and so does its progress');

# Priority: at the next row, and if the only worker has a job already then
# within a second or so, however short its rows are.

$ollama->control({ service => 'fixed:100ms' });
for my $workers (4, 1)
{
	my $what = "priority, workers: $workers";

	sql($node, "ALTER SYSTEM SET sabot.llm_workers = $workers");
	sql($node, 'SELECT pg_reload_conf()');
	poll($node,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot llm'",
		0, "$what: those there were have left");
	$ollama->reset;
	my $low = submit_rows("low $workers", 40);
	$ollama->wait_for('prompts', 3);
	my $high = submit_rows("high $workers", 3, 'priority => 10');
	ends($node, $high, 'completed', "$what: the urgent job is completed");
	is(sql($node, "SELECT sabot.job_state($low) IN ('running', 'queued')"),
		't', "$what: before the other one");
	ends($node, $low, 'completed', "$what: the other one is completed");
	is($ollama->stats->{prompts}, 43, "$what: no row was asked twice");
}
$ollama->control({ service => 'fixed:0' });

is( sql($node,
		"SELECT count(*), count(*) FILTER (WHERE n > 1) FROM"
		  . " (SELECT count(*) AS n FROM sabot.llm_answer GROUP BY job_id, item)"
		  . " AS a") =~ s/^\d+\|//r,
	0,
	'no row has two results');

$node->stop;
done_testing();
