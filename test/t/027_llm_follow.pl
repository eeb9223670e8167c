# LLM jobs that follow a table: rows that come and change are asked for, each
# as it is, once; nothing else is, and nobody looks while nothing happens.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;
use Time::HiRes 'sleep';

my $node = new_node('follow', "sabot.llm_model = 'stand-in'\n");
my $ollama = SabotOllama->new;

sql($node, <<"SQL");
SELECT sabot.add_llm_endpoint('default', '@{[ $ollama->url ]}');
CREATE TABLE note (id int PRIMARY KEY, body text, label text, kind int DEFAULT 0);
CREATE TABLE answer (id int PRIMARY KEY, label text);
SQL

# idle(JOB, MESSAGE) - test that a job comes to wait for changes, with every
# item finished
sub idle
{
	my ($job, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node, <<"SQL", 'blocked|0|0|0', $message);
SELECT j.state, p.pending, p.running, s.lag_rows
FROM sabot.job_status AS j JOIN sabot.llm_progress AS p USING (job_id)
	JOIN sabot.stream_status AS s USING (job_id)
WHERE j.job_id = $job
SQL
}

# prompts() - what the model was asked since the last time, in order
sub prompts
{
	my @prompts = map { $_->{prompt} }
	  grep { $_->{path} eq '/api/chat' && $_->{prompt} ne '' }
	  $ollama->requests;

	$ollama->reset;
	return join(',', @prompts);
}

# progress(JOB) - total, done, fallback, failed, skipped
sub progress
{
	my ($job) = @_;

	return sql($node,
		"SELECT total, done, fallback, failed, skipped FROM sabot.llm_progress"
		  . " WHERE job_id = $job");
}

# wrong(TABLE) - rows of note whose label is not the answer to what they are
sub wrong
{
	my ($table) = @_;

	return sql($node,
		"SELECT count(*) FROM note AS n JOIN $table AS a USING (id)"
		  . " WHERE a.label IS DISTINCT FROM '<' || n.body || '>'"
		  . " AND n.body IS NOT NULL AND n.kind < 2");
}

# The model answers <x> to [[answer:<x>]] x; the prompt is made so that what
# was answered tells what was asked.
my $prompt = '{body} [[answer:<{body}>]]';

# follow(ARGUMENTS, SOURCE) - a job that follows note
sub follow
{
	my ($args, $source) = @_;

	$source //= 'SELECT id, body FROM note ORDER BY id';
	return sql($node,
		"SELECT sabot.submit_llm_job(\$\$$source\$\$, '$prompt', follow => true,"
		  . " $args)");
}

# asked(BODY, ...) - the prompts of rows, as prompts() has them
sub asked { return join(',', map { "$_ [[answer:<$_>]]" } @_); }

# Into the table itself

sql($node,
	"INSERT INTO note (id, body) VALUES (1, 'one'), (2, 'two'), (3, NULL)");
my $job = follow("target => 'note', output => 'label', name => 'same'");
idle($job, 'itself: all rows are answered, and it waits');
is(prompts(), asked('one', 'two'), 'itself: one request for each row');
is(progress($job), '3|2|0|0|1', 'itself: counts');
is(job($node, $job, 'wait_reason'),
	'waits for changes of table public.note', 'itself: why it waits');

sql($node, "INSERT INTO note (id, body) VALUES (4, 'four')");
poll($node, 'SELECT label FROM note WHERE id = 4', '<four>', 'a row that comes');
sql($node, "UPDATE note SET body = 'zwei' WHERE id = 2");
poll($node, 'SELECT label FROM note WHERE id = 2', '<zwei>',
	'a row that changes');
sql($node, "UPDATE note SET body = 'three' WHERE id = 3");
poll($node, 'SELECT label FROM note WHERE id = 3', '<three>',
	'a row that had nothing to ask');
idle($job, 'itself: it waits again');
is(prompts(), asked('four', 'zwei', 'three'), 'itself: only these were asked');
is(progress($job), '4|4|0|0|0', 'itself: one item for each row');

# What makes no other prompt makes no request.
sql($node, "UPDATE note SET kind = kind + 1, label = 'mine' WHERE id = 1");
sql($node, "UPDATE note SET body = NULL WHERE id = 4");
idle($job, 'itself: changes that ask for nothing are seen to');
is(prompts(), '', 'itself: no request');
is(sql($node, 'SELECT label FROM note WHERE id = 1'),
	'mine', 'itself: nothing was written');
is(progress($job), '4|3|0|0|1', 'itself: a row with nothing to ask anymore');

# Rolled back, and deleted
sql($node, <<'SQL');
BEGIN;
INSERT INTO note (id, body) VALUES (5, 'never');
ROLLBACK;
BEGIN;
INSERT INTO note (id, body) VALUES (6, 'gone');
DELETE FROM note WHERE id = 6;
COMMIT;
SQL
idle($job, 'itself: rows that are gone are seen to');
is(prompts(), '', 'itself: and not asked');
is(progress($job), '4|3|0|0|1', 'itself: they are no items');

# In the middle of a request: what it answers is not stored
sql($node, <<'SQL');
CREATE TABLE stored (id int, label text);
CREATE FUNCTION store() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO stored VALUES (NEW.id, NEW.label);
	RETURN NULL;
END $$;
CREATE TRIGGER store AFTER UPDATE OF label ON note
	FOR EACH ROW EXECUTE FUNCTION store();
SQL
$ollama->faults('hold:,match=^old');
sql($node, "INSERT INTO note (id, body) VALUES (7, 'old'), (8, 'eight')");
ok($ollama->wait_for('running', 1), 'midway: the request is under way')
  or diag(explain($ollama->stats));
sql($node, "UPDATE note SET body = 'new' WHERE id = 7");
$ollama->faults();
$ollama->release;
idle($job, 'midway: it waits again');
is(prompts(), asked('old', 'eight', 'new'), 'midway: the row is asked again');
is(sql($node, 'SELECT string_agg(label, \',\' ORDER BY label) FROM stored WHERE id = 7'),
	'<new>', 'midway: the old answer was never stored');
is(sql($node, "SELECT attempts FROM sabot.llm_result WHERE job_id = $job"
	  . " AND key @> '{\"id\": 7}'"), 1, 'midway: attempts count from anew');

# By a transaction that ends only while the answer is about to be written
$ollama->faults('hold:,match=^slow');
sql($node, "INSERT INTO note (id, body) VALUES (9, 'slow')");
ok($ollama->wait_for('running', 1), 'lock: the request is under way');
my $session = user_session($node);
$session->query_safe("BEGIN; UPDATE note SET body = 'fast' WHERE id = 9");
$ollama->faults();
$ollama->release;
poll($node, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted", 't',
	'lock: the answer waits for the row');
$session->query_safe('COMMIT');
$session->quit;
idle($job, 'lock: it waits again');
is(prompts(), asked('slow', 'fast'), 'lock: the row is asked again');
is(sql($node, 'SELECT string_agg(label, \',\' ORDER BY label) FROM stored WHERE id = 9'),
	'<fast>', 'lock: the old answer was never stored');

# Changed and changed back: that is no change
$ollama->faults('hold:,match=^there');
sql($node, "INSERT INTO note (id, body) VALUES (10, 'there')");
ok($ollama->wait_for('running', 1), 'back: the request is under way');
sql($node, "UPDATE note SET body = 'away' WHERE id = 10");
sql($node, "UPDATE note SET body = 'there' WHERE id = 10");
$ollama->faults();
$ollama->release;
idle($job, 'back: it waits again');
is(prompts(), asked('there'), 'back: one request');
is(wrong('note'), 1, 'back: every row has its answer, but the one set by hand');

# Idle: no process, no transaction, no request

poll($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot llm'",
	0, 'idle: the worker is gone');
my $xacts =
  "SELECT pg_stat_clear_snapshot(); SELECT sum(xact_commit + xact_rollback)"
  . " FROM pg_stat_database WHERE datname = 'template1'"
  . " OR datname = 'postgres'";
my $before = sql($node, $xacts, db => 'template1');
sleep(5);
my $after = sql($node, $xacts, db => 'template1');
cmp_ok($after - $before, '<=', 8, 'idle: next to no transactions in 5 s');
is(scalar $ollama->requests, 0, 'idle: no requests');
sql($node, "UPDATE note SET body = 'awake' WHERE id = 10");
poll($node, 'SELECT label FROM note WHERE id = 10', '<awake>',
	'idle: a commit wakes it');
idle($job, 'idle: it waits again');
prompts();

# Pause and resume: what was written meanwhile is not lost

is(sql($node, "SELECT sabot.pause_job($job)"), 't', 'pause_job');
sql($node, "UPDATE note SET body = 'paused' WHERE id = 10");
is(job($node, $job, 'state'), 'paused', 'pause: it is paused');
is(sql($node, "SELECT sabot.resume_job($job)"), 't', 'resume_job');
poll($node, 'SELECT label FROM note WHERE id = 10', '<paused>',
	'pause: it goes on');
idle($job, 'pause: it waits again');
is(prompts(), asked('paused'), 'pause: one request');

# Items that failed are asked again on demand.
$ollama->faults('400:,match=^bad');
sql($node, "INSERT INTO note (id, body) VALUES (11, 'bad')");
idle($job, 'retry: it waits');
is(progress($job), '9|7|0|1|1', 'retry: one item has failed');
prompts();
$ollama->faults();
is(sql($node, "SELECT sabot.retry_llm_items($job)"), 1, 'retry_llm_items');
poll($node, 'SELECT label FROM note WHERE id = 11', '<bad>', 'retry: answered');
idle($job, 'retry: it waits again');
is(prompts(), asked('bad'), 'retry: one request');
is(progress($job), '9|8|0|0|1', 'retry: counts');

# ... also if the worker is just about to wait for changes, and does not see it
$ollama->faults('400:,match=^late bad', 'hold:,match=^held');
sql($node, "INSERT INTO note (id, body) VALUES (30, 'late bad')");
idle($job, 'late retry: it waits');
sql($node, "INSERT INTO note (id, body) VALUES (31, 'held')");
ok($ollama->wait_for('running', 1), 'late retry: the request is under way');
{
	my ($locker, $retrier) = map { user_session($node) } 1 .. 2;
	$locker->query_safe("BEGIN; SELECT FROM sabot.job WHERE job_id = $job FOR UPDATE");
	$ollama->faults();
	$ollama->release;
	poll($node, "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'sabot llm'",
		'transactionid', 'late retry: its worker is about to block it');
	$retrier->query_safe("BEGIN; SELECT sabot.retry_llm_items($job)");
	$locker->query_safe('COMMIT');
	poll($node, "SELECT state FROM sabot.job WHERE job_id = $job", 'blocked', 'late retry: blocked');
	poll($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot llm'",
		'0', 'late retry: its worker has gone');
	$retrier->query_safe('COMMIT');
	$_->quit foreach $locker, $retrier;
}
poll($node, 'SELECT label FROM note WHERE id = 30', '<late bad>', 'late retry: answered');
sql($node, 'DELETE FROM note WHERE id IN (30, 31)');
idle($job, 'late retry: it waits again');
prompts();

# The same prompts are sent once.
sql($node, "INSERT INTO note (id, body) SELECT n, 'twin' FROM generate_series(12, 20) AS n");
idle($job, 'twins: it waits');
is(prompts(), asked('twin'), 'twins: one request');
is(sql($node, "SELECT reused FROM sabot.llm_progress WHERE job_id = $job"),
	8, 'twins: counted');
sql($node, "UPDATE note SET body = 'twin' WHERE id = 1");
idle($job, 'twins: it waits again');
is(prompts(), '', 'twins: a later one takes over the answer');
is(wrong('note'), 0, 'twins: all have it');

# The first of those that wait for its answer changes.
$ollama->faults('hold:,match=^pair');
sql($node, "INSERT INTO note (id, body) SELECT n, 'pair' FROM generate_series(21, 24) AS n");
ok($ollama->wait_for('running', 1), 'pairs: the request is under way');
sql($node, "UPDATE note SET body = 'single' WHERE id = 21");
$ollama->faults();
$ollama->release;
idle($job, 'pairs: it waits again');
is(join(',', sort split(/,/, prompts())),
	join(',', sort(split(/,/, asked('pair', 'pair', 'single')))),
	'pairs: the prompt of the others is asked again');
is(wrong('note'), 0, 'pairs: all have their answers');

# numbers that add up
is( sql($node,
		"SELECT total = done + fallback + failed + skipped + running + pending,"
		  . " done = (SELECT count(*) FROM sabot.llm_result AS r"
		  . " WHERE r.job_id = p.job_id AND state = 'done'), eta,"
		  . " (SELECT concat(h.steady_rate, h.predictable_eta) FROM sabot.llm_health AS h"
		  . " WHERE h.job_id = p.job_id) = '',"
		  . " (SELECT concat(total, ' ', done) FROM sabot.job_progress AS j"
		  . " WHERE j.job_id = p.job_id) = concat(total, ' ', done + skipped)"
		  . " FROM sabot.llm_progress AS p WHERE job_id = $job"),
	't|t|00:00:00|t|t',
	'progress and health');

# Cancel: trigger and table of captured rows are gone.

is(sql($node, "SELECT sabot.cancel_job($job)"), 't', 'cancel_job');
is(job($node, $job, 'state'), 'canceled', 'cancel: it is');
is(sql($node, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot%'"),
	0, 'cancel: no trigger');
is(sql($node, "SELECT count(*) FROM pg_class WHERE relname LIKE 'stream\\_$job%'"),
	0, 'cancel: no table');
foreach my $retry ("retry_job($job)", "retry_llm_items($job)")
{
	sql_fails($node, "SELECT sabot.$retry",
		qr/ERROR:  55000: job $job has ended, and follows its table no more/,
		"cancel: $retry");
}
sql($node, "UPDATE note SET body = 'unseen' WHERE id = 1");

# Cancel in the middle of a request
sql($node, "DELETE FROM note WHERE id > 2; UPDATE note SET label = NULL");
$ollama->faults('hold:,match=^zwei');
$job = follow("target => 'note', output => 'label'");
ok($ollama->wait_for('running', 1), 'cancel: the request is under way');
is(sql($node, "SELECT sabot.cancel_job($job)"), 't', 'cancel_job of a running one');
ends($node, $job, 'canceled', 'cancel: it is while it runs');
is(sql($node, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot%'"),
	0, 'cancel: no trigger after that');
$ollama->faults();
$ollama->release;

# Rows that the source does not have anymore, into another table

sql($node, <<'SQL');
TRUNCATE note, answer;
INSERT INTO note (id, body, kind) SELECT n, 'row ' || n, 1 FROM generate_series(1, 6) AS n;
INSERT INTO answer SELECT n FROM generate_series(1, 20) AS n;
SQL
prompts();
$ollama->faults('hold:,match=row 2');
$job = follow("target => 'answer', output => 'label', key => '{id}', reuse => false",
	'SELECT * FROM note WHERE kind = 1 ORDER BY id;');
ok($ollama->wait_for('running', 1), 'filter: the request is under way');
sql($node, "UPDATE note SET kind = 2 WHERE id IN (2, 3)");
$ollama->faults();
$ollama->release;
idle($job, 'filter: it waits');
is(prompts(), asked('row 1', 'row 2', 'row 4', 'row 5', 'row 6'),
	'filter: the one under way, and none that is left out');
is(progress($job), '6|4|0|0|2', 'filter: both are skipped');
is(sql($node, 'SELECT count(label) FROM answer WHERE id IN (2, 3)'),
	0, 'filter: nothing is written for them');
sql($node, "UPDATE note SET kind = 1 WHERE id = 3");
poll($node, 'SELECT label FROM answer WHERE id = 3', '<row 3>',
	'filter: one comes back');
sql($node, "UPDATE note SET kind = 2 WHERE id = 1");
sql($node, "UPDATE note SET kind = 1 WHERE id = 1");
idle($job, 'filter: it waits again');
is(prompts(), asked('row 3'), 'filter: one that was answered is not asked');

# Bulk, changed again while it goes on
sql($node, "INSERT INTO note (id, body, kind) SELECT n, 'bulk ' || n, 1 FROM generate_series(7, 20) AS n");
sql($node, "UPDATE note SET body = 'more ' || id WHERE id > 10");
idle($job, 'bulk: it waits');
is(wrong('answer'), 0, 'bulk: all are answered as they are');

# Columns change: a new one does no harm, a lost one stops it until it is back.
sql($node, "ALTER TABLE note ADD COLUMN extra text");
sql($node, "UPDATE note SET body = 'extra' WHERE id = 5");
poll($node, 'SELECT label FROM answer WHERE id = 5', '<extra>', 'columns: one more');
idle($job, 'columns: it waits again');
sql($node, "ALTER TABLE note RENAME COLUMN body TO text");
sql($node, "UPDATE note SET text = 'renamed' WHERE id = 5");
poll($node, "SELECT state, wait_reason LIKE 'changes cannot be read: %body%'"
	  . " FROM sabot.job_status WHERE job_id = $job", 'paused|t', 'columns: it pauses');
sql($node, "ALTER TABLE note RENAME COLUMN text TO body");
sql($node, "SELECT sabot.resume_job($job)");
poll($node, 'SELECT label FROM answer WHERE id = 5', '<renamed>',
	'columns: nothing is lost');
idle($job, 'columns: it goes on');

# Deleted while it is asked: as without follow
$ollama->faults('hold:,match=^late');
sql($node, "INSERT INTO answer VALUES (100); INSERT INTO note (id, body, kind) VALUES (100, 'late', 1)");
ok($ollama->wait_for('running', 1), 'deleted: the request is under way');
sql($node, "DELETE FROM note WHERE id = 100; DELETE FROM answer WHERE id = 100");
$ollama->faults();
$ollama->release;
idle($job, 'deleted: it waits again');
is(sql($node, "SELECT state, error_class FROM sabot.llm_result"
	  . " WHERE job_id = $job AND key @> '{\"id\": 100}'"),
	'failed|write_failed', 'deleted: there is no row to write to');

# Waiting for it does not end, and does not hang: it ends with the job.
sql_fails($node, "CALL sabot.wait_for_job($job, '100 ms')",
	qr/ERROR:  57014: timeout while waiting for job $job\nDETAIL:  It is blocked/,
	'wait_for_job');

# The table is dropped.
sql($node, 'CREATE TABLE short (id int PRIMARY KEY, body text)');
my $short = follow("name => 'short'", 'SELECT * FROM short');
idle($short, 'drop: without a target');
sql($node, "INSERT INTO short VALUES (1, 'x')");
idle($short, 'drop: it is answered');
is(sql($node, "SELECT response FROM sabot.llm_result WHERE job_id = $short"),
	'<x>', 'drop: and kept');
sql($node, 'DROP TABLE short');
ends($node, $short, 'failed', 'drop: the job ends');
like(job($node, $short, 'error'), qr/^table public.short, .* was dropped$/,
	'drop: and says why');

foreach my $dropped ('TABLE short', 'TRIGGER sabot_stream_%d ON short')
{
	sql($node, 'DROP TABLE IF EXISTS short');
	sql($node, 'CREATE TABLE short (id int PRIMARY KEY, body text)');
	$short = follow("name => 'short'", 'SELECT * FROM short');
	idle($short, 'drop: without a target');
	my $drop = 'DROP ' . ($dropped =~ s/%d/$short/r);
	sql($node, "BEGIN; INSERT INTO short VALUES (1, 'x'); $drop; COMMIT");
	ends($node, $short, 'failed', 'drop: rows that nobody can read again do not keep it');
}

# Its role is dropped, while somebody reads the table: who drops it does not
# wait, and the job ends once he is done.
sql($node, <<'SQL');
CREATE ROLE leaver LOGIN;
SELECT sabot.grant_usage('leaver');
CREATE TABLE left_behind (id int PRIMARY KEY, body text);
ALTER TABLE left_behind OWNER TO leaver;
SQL
my $left = sql($node, "SELECT sabot.submit_llm_job('TABLE left_behind', '{body}', follow => true)",
	user => 'leaver');
idle($left, 'role: it waits');
sql($node, 'REASSIGN OWNED BY leaver TO postgres; DROP OWNED BY leaver');
$session = user_session($node);
$session->query_safe('BEGIN; SELECT FROM left_behind');
sql($node, 'DROP ROLE leaver');
my $prober = 'sabot prober ERROR:  canceling statement due to lock timeout';
ok(wait_until(sub { log_since($node, 0) =~ /$prober/ }), 'role: a prober does not wait for long');
is(job($node, $left, 'state'), 'blocked', 'role: it is still there');
$session->query_safe('COMMIT');
$session->quit;
ends($node, $left, 'failed', 'role: it ends');
is(job($node, $left, 'error'), "the job's owner was dropped", 'role: and says why');
is(sql($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'left_behind'::regclass"),
	0, 'role: the trigger is gone');

# A prompt that its own answers change comes to an end.
sql($node, <<'SQL');
CREATE TABLE loop (id int PRIMARY KEY, body text, label text, written int DEFAULT 0);
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.written := NEW.written + 1;
	RETURN NEW;
END $$;
CREATE TRIGGER count_up BEFORE UPDATE ON loop FOR EACH ROW EXECUTE FUNCTION count_up();
INSERT INTO loop (id, body) VALUES (1, 'a'), (2, 'b');
SQL
prompts();
my $loop = sql($node, "SELECT sabot.submit_llm_job('SELECT * FROM loop ORDER BY id',"
	  . " '{body} {label} {written}', target => 'loop', output => 'label', follow => true)");
idle($loop, 'loop: it waits');
is(prompts(), 'a  0,b  0', 'loop: two requests');
is(sql($node, 'SELECT string_agg(written::text, \',\') FROM loop'), '1,1',
	'loop: and two writes');
sql($node, "UPDATE loop SET body = 'c' WHERE id = 2");
idle($loop, 'loop: it waits again');
like(prompts(), qr/^c [^,]* 2$/, 'loop: a change by others is one');

# Embeddings, several at a time
sql($node, <<'SQL');
CREATE TABLE doc (name text, n int, body text, vec real[], PRIMARY KEY (name, n));
INSERT INTO doc SELECT 'first', n, 'doc ' || n FROM generate_series(1, 20) AS n;
SELECT sabot.add_llm_endpoint('default', url, max_in_flight => 3) FROM sabot.llm_endpoint_status WHERE endpoint = 'default';
SQL
my $embed = sql($node, "SELECT sabot.submit_embedding_job('SELECT * FROM doc', '{body}',"
	  . " model => 'stand-in-embed', target => 'doc', output => 'vec', batch_size => 4, follow => true)");
idle($embed, 'embeddings: it waits');
sql($node, "UPDATE doc SET body = body || '!', vec = NULL WHERE n % 2 = 0");
sql($node, "INSERT INTO doc SELECT 'second', n, 'doc ' || n FROM generate_series(1, 21) AS n");
idle($embed, 'embeddings: it waits again');
is(sql($node, 'SELECT count(*), count(vec) FROM doc'), '41|41', 'embeddings: all rows have one');
is(progress($embed), '41|41|0|0|0', 'embeddings: counts');

done_testing();
