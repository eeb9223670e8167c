# Copies of schedules, of jobs with pieces and of jobs that follow a table: none
# does anything before sabot.adopt_jobs(), and then each goes on where the
# original stood when it was copied.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('shapes', "sabot.llm_model = 'stand-in'\n");
my $ollama = SabotOllama->new;

sql($node, 'CREATE DATABASE app');
sql($node, <<"SQL", db => 'app');
CREATE EXTENSION sabot;
SELECT sabot.add_llm_endpoint('default', '@{[ $ollama->url ]}');
CREATE TABLE effect (name text);
CREATE TABLE gate AS SELECT 'closed' AS name;
CREATE TABLE large AS SELECT i AS id, 0 AS times FROM generate_series(1, 400) AS i;
ALTER TABLE large ADD PRIMARY KEY (id);
CREATE TABLE note (id int PRIMARY KEY, body text, label text);
INSERT INTO note VALUES (1, 'one'), (2, 'two');
-- once(id) - 1; the pieces after the first one wait
CREATE FUNCTION once(id int) RETURNS int LANGUAGE plpgsql AS \$\$
BEGIN
	IF id = 1 THEN
		PERFORM sabot.pause_queue('pieces');
	END IF;
	RETURN 1;
END \$\$;
SQL

# Schedules that are due later, were due meanwhile, have a run that had begun,
# and one that is a graph half done

my %id;
$id{later} = submit($node, "INSERT INTO effect VALUES ('later')", db => 'app',
	args => "name => 'later', schedule => '1 day', run_after => now() + interval '1 h'");
$id{taken} = submit($node, "INSERT INTO effect VALUES ('taken')", db => 'app',
	args => "name => 'taken', schedule => '1 day', run_after => now() + interval '1 h'");
$id{due} = submit($node, "INSERT INTO effect VALUES ('due')", db => 'app',
	args => "name => 'due', schedule => '1 day', run_after => now() + interval '4 s'");
$id{open} = submit($node, "INSERT INTO effect VALUES ('open'); SELECT pg_sleep(600) FROM gate",
	db => 'app', args => "name => 'open', schedule => '1 day'");
$id{graphs} = sql($node, <<'SQL', db => 'app');
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('first', $$INSERT INTO effect VALUES ('first'); SELECT sabot.pause_queue('half')$$),
	sabot.graph_task('second', $$INSERT INTO effect VALUES ('second')$$, '{first}')),
	name => 'graphs', queue => 'half', schedule => '1 day')
SQL
my $tasks = "SELECT string_agg(t.name || ' ' || t.state, ', ' ORDER BY t.job_id) FROM sabot.job_task AS t"
  . " JOIN sabot.schedule_status AS s ON s.run_id = t.parent_id WHERE s.name = 'graphs'";
poll($node, $tasks, 'first completed, second queued', 'a run is half done', db => 'app');
poll($node, "SELECT state FROM sabot.job_task WHERE parent_id = $id{open}", 'running',
	'another one runs', db => 'app');
sql($node, "SELECT sabot.set_queue_limit('pieces', 1)", db => 'app');
$id{spread} = submit($node, 'UPDATE large SET times = times + once(id)', db => 'app',
	args => "over => 'large', pieces => 4, queue => 'pieces'");
poll($node, "SELECT done FROM sabot.job_progress WHERE job_id = $id{spread}", '1',
	'a piece is done', db => 'app');
$id{follow} = sql($node, <<'SQL', db => 'app');
SELECT sabot.submit_llm_job('SELECT id, body FROM note ORDER BY id', '{body} [[answer:<{body}>]]',
	target => 'note', output => 'label', follow => true)
SQL
poll($node, "SELECT state FROM sabot.job_status WHERE job_id = $id{follow}", 'blocked',
	'rows are answered', db => 'app');
$node->append_conf('postgresql.conf', 'sabot.enabled = off');
$node->restart;
sql($node, "INSERT INTO note VALUES (3, 'three'); DELETE FROM gate", db => 'app');
poll($node, "SELECT next_run < now() FROM sabot.schedule_status WHERE name = 'due'", 't',
	'a schedule is due', db => 'app');
my $asked = $ollama->stats->{prompts};

# A template, and a dump that is restored on another server

sql($node, 'CREATE DATABASE twin TEMPLATE app');
my $other = new_node('other', "sabot.llm_model = 'stand-in'\n");
my $dump = $node->basedir . '/app.dump';
sql($other, 'CREATE DATABASE app');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('app') ], 'pg_dump');
$other->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('app'), $dump ],
	'pg_restore');
set_conf($node, 'sabot.enabled' => 'on');

# goes_on(NODE, DB, MESSAGE) - test that everything goes on in a database
sub goes_on
{
	my ($where, $db, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	sql($where, "SELECT sabot.resume_queue(q) FROM unnest('{half,pieces}'::text[]) AS q", db => $db);
	poll($where, 'SELECT string_agg(name, \' \' ORDER BY name) FROM effect', 'due first open second',
		"$message: each had its effect once", db => $db);
	poll($where, <<'SQL', "due 1 completed, graphs 1 completed, later 0 , open 1 completed", "$message: schedules", db => $db);
SELECT string_agg(concat(name, ' ', runs, ' ', last_state), ', ' ORDER BY name) FROM sabot.schedule_status
WHERE state = 'scheduled' AND next_run BETWEEN now() AND now() + interval '1 day' AND name <> 'taken'
SQL
	ends($where, $id{spread}, 'completed', "$message: the job with pieces", db => $db);
	is(sql($where, 'SELECT min(times), max(times) FROM large', db => $db),
		'1|1', "$message: each row was handled once");
	sql($where, "INSERT INTO note VALUES (5, 'five'); UPDATE note SET body = 'zwei' WHERE id = 2", db => $db);
	poll($where, "SELECT p.done, s.lag_rows, (SELECT count(*) FROM note WHERE label = '<' || body || '>')"
		  . " FROM sabot.llm_progress AS p JOIN sabot.stream_status AS s USING (job_id) WHERE job_id = $id{follow}",
		'5|0|5', "$message: the job that follows its table", db => $db);
	return;
}

foreach my $copy ([ $node, 'twin', 'TEMPLATE' ], [ $other, 'app', 'restored' ])
{
	my ($where, $db, $message) = @$copy;

	is( sql($where, 'SELECT state, wait_reason, count(*) FROM sabot.job_status WHERE finished_at IS NULL GROUP BY 1, 2',
			db => $db),
		'paused|copied from another database|7', "$message: it is a copy");
	is(sql($where, 'SELECT DISTINCT state FROM sabot.schedule_status', db => $db),
		'paused', "$message: schedules, too");
	sql($where, "INSERT INTO note VALUES (4, 'four')", db => $db);
	is(sql($where, "SELECT lag_rows, capturing FROM sabot.stream_status WHERE job_id = $id{follow}", db => $db),
		'2|t', "$message: rows are captured");
	sql_fails($where, "SELECT sabot.resume_job($id{$_})", qr/ERROR:  55000.*HINT:  Use sabot.adopt_jobs/s,
		"$message: resume_job of '$_'", db => $db)
	  foreach ('later', 'follow', 'spread');

	# The name of a schedule may be another one's by now.
	my $mine = submit($where, 'SELECT 1', db => $db,
		args => "name => 'taken', schedule => '1 day', run_after => now() + interval '1 h'");
	isnt($mine, $id{taken}, "$message: a copy is not replaced");
	my ($status, $adopted, $err) = try_sql($where, 'SELECT sabot.adopt_jobs()', db => $db);
	is($adopted, '12', "$message: the others are adopted");
	like($err, qr/WARNING:  \w+: 1 copied jobs? .*schedule with the same name/s, "$message: but one");
	goes_on($where, $db, $message);
	sql($where, "SELECT sabot.cancel_job($mine)", db => $db);
	is(sql($where, 'SELECT sabot.adopt_jobs()', db => $db), '1', "$message: which is adopted later");
	is(sql($where, "SELECT string_agg(job_id::text, ' ') FROM sabot.schedule_status WHERE name = 'taken' AND state = 'scheduled'",
			db => $db),
		$id{taken}, "$message: and goes on");
}

# The original does not notice; every database has asked for its rows.

sql($node, "INSERT INTO note VALUES (4, 'four')", db => 'app');
goes_on($node, 'app', 'original');
is($ollama->stats->{prompts} - $asked, 3 * 4, 'nothing was asked again for a copy');

$_->stop foreach ($node, $other);
done_testing();
