# Copies of a database: its jobs, history and settings are there, and nothing
# runs before sabot.adopt_jobs() says so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('source');
sql($node, 'CREATE ROLE alice LOGIN; CREATE ROLE gone LOGIN;'
	  . ' CREATE DATABASE app');
my $me = sql($node, 'SELECT current_user');

# app(SQL) - run it in the database that will be copied
sub app { return sql($node, $_[0], db => 'app') }

app(<<'SQL');
CREATE EXTENSION sabot;
CREATE TABLE effect (name text, who name DEFAULT session_user);
GRANT INSERT ON effect TO PUBLIC;
SELECT sabot.grant_usage(r) FROM unnest('{alice,gone}'::regrole[]) AS r;
SQL

# History: one job with everything a job can say, and one that failed.

my $done = submit(
	$node,
	q{DO $$BEGIN RAISE NOTICE 'hello'; END$$; SELECT 'kept' AS v},
	args => "keep_rows => 5, name => 'done'",
	db => 'app',
	user => 'alice');
ends($node, $done, 'completed', 'a job is done', db => 'app');
my $failed = submit($node, 'SELECT 1/0',
	db => 'app', user => 'alice', args => "max_attempts => 2");
ends($node, $failed, 'failed', 'a job has failed', db => 'app');

# Open jobs: those that would start at once, later, or when told to.

set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
app(q{SELECT sabot.set_queue_limit('bg', 3), sabot.pause_queue('held')});
my %open;
foreach my $role ('alice', 'gone', $me)
{
	$open{$role} = submit($node, "INSERT INTO effect VALUES ('$role')",
		db => 'app', user => $role);
}
my $later = submit(
	$node,
	q{INSERT INTO effect VALUES ('later')},
	db => 'app',
	user => 'alice',
	args => "run_after => clock_timestamp() + interval '1 s', priority => 5");
my $held = submit(
	$node,
	q{INSERT INTO effect VALUES ($1)},
	db => 'app',
	user => 'alice',
	args => q{params => '["held"]', queue => 'held'});
app(q{SELECT sabot.revoke_usage('gone')});

# everything(NODE, DB) - what a copy must have, in comparable form
sub everything
{
	my ($where, $db) = @_;

	return sql($where, <<'SQL', db => $db);
SELECT h.job_id, h.owner_name, h.state, h.attempt, h.command, h.notices, h.rows,
	h.sqlstate, h.error, h.submitted_at, h.finished_at
FROM sabot.job_history AS h ORDER BY h.job_id;
SELECT j.job_id, j.owner_name, j.command, j.params, j.priority, j.queue, j.settings,
	j.submitted_at, j.run_after
FROM sabot.job AS j ORDER BY j.job_id;
SELECT job_id, attempt, sqlstate, error FROM sabot.job_attempt_log ORDER BY 1, 2;
SELECT * FROM sabot.job_dependency ORDER BY depends_on, job_id;
SELECT * FROM sabot.queue ORDER BY queue;
SELECT last_value, is_called FROM sabot.job_job_id_seq;
SQL
}
my $everything = everything($node, 'app');

# inert(NODE, DB, MESSAGE) - test that a copy is complete and does nothing
sub inert
{
	my ($where, $db, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(everything($where, $db), $everything, "$message: everything is there");
	is( sql($where,
			"SELECT DISTINCT state, wait_reason FROM sabot.job_status"
			  . " WHERE finished_at IS NULL",
			db => $db),
		'paused|copied from another database',
		"$message: open jobs are paused");
	is( sql($where, 'SELECT name, state, command_tag FROM sabot.job_status'
			  . " WHERE job_id = $done", db => $db),
		'done|completed|SELECT 1',
		"$message: history can be read");
	is(sql($where, "SELECT v->>'v' FROM sabot.job_rows($done) AS v", db => $db),
		'kept', "$message: rows can be read");
	return;
}

# A template and its copy on the same server

sql($node, 'CREATE DATABASE copy TEMPLATE app');
set_conf($node, 'sabot.enabled' => 'on');
foreach my $role (sort keys %open)
{
	ends($node, $open{$role}, 'completed', "the original job of $role",
		db => 'app');
}
ends($node, $later, 'completed', 'the original job for later', db => 'app');
inert($node, 'copy', 'TEMPLATE');
is(sql($node, 'SELECT count(*) FROM effect', db => 'copy'),
	'0', 'TEMPLATE: nothing has run');
sql_fails($node, "CALL sabot.wait_for_job($open{alice})",
	qr/ERROR:  55000.*copied from another database/s,
	'TEMPLATE: waiting for a copied job', db => 'copy');
is(sql($node, 'SELECT sabot.adopt_jobs()', db => 'copy'),
	'5', 'TEMPLATE: adopt_jobs');
ends($node, $_, 'completed', "TEMPLATE: job $_ runs", db => 'copy')
  foreach (sort values %open), $later;
is(job($node, $held, 'state, wait_reason', db => 'copy'),
	'queued|queue "held" is paused', 'TEMPLATE: the queue is still paused');
sql($node, q{SELECT sabot.resume_queue('held')}, db => 'copy');
ends($node, $held, 'completed', 'TEMPLATE: and resumed', db => 'copy');
is( sql($node, 'SELECT name, who FROM effect ORDER BY name', db => 'copy'),
	join("\n", sort('alice|alice', 'gone|gone', 'held|alice', 'later|alice', "$me|$me")),
	'TEMPLATE: each once, as its owner');
is(sql($node, 'SELECT sabot.adopt_jobs()', db => 'copy'),
	'0', 'TEMPLATE: nothing to adopt anymore');

# pg_dump, from a copy where the jobs still wait.  Their home is "app": what
# was not adopted can be copied again.

sql($node, 'DROP DATABASE copy; CREATE DATABASE second');
set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
foreach my $role ('alice', 'gone', $me)
{
	app(q{SELECT sabot.grant_usage('gone')}) if $role eq 'gone';
	$open{$role} = submit($node, "INSERT INTO effect VALUES ('$role')",
		db => 'app', user => $role);
}
app(q{SELECT sabot.revoke_usage('gone'); DELETE FROM effect});
$everything = everything($node, 'app');
my $dump = $node->basedir . '/app.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('app') ],
	'pg_dump');
$node->command_ok(
	[ 'pg_restore', '--exit-on-error', '-d', $node->connstr('second'), $dump ],
	'pg_restore into another database');
set_conf($node, 'sabot.enabled' => 'on');
inert($node, 'second', 'restored');
ends($node, $open{$_}, 'completed', "the original job of $_", db => 'app')
  foreach sort keys %open;

# Into another server, where alice has another oid and one owner is missing.

my $other = new_node('other');
sql($other, 'CREATE ROLE filler; CREATE ROLE alice LOGIN;'
	  . ' CREATE DATABASE app');
isnt(
	sql($other, q{SELECT 'alice'::regrole::oid}),
	sql($node, q{SELECT 'alice'::regrole::oid}),
	'alice is another role here');
my $starts = sql($other, 'SELECT starts FROM sabot.pool_status');
$other->command_ok(
	[ 'pg_restore', '--exit-on-error', '-d', $other->connstr('app'), $dump ],
	'pg_restore on another server');
inert($other, 'app', 'other server');
$other->restart;
inert($other, 'app', 'other server after a restart');
is(sql($other, 'SELECT starts FROM sabot.pool_status'),
	'0', 'no agent was started');
is( sql($other, 'SELECT count(*) FROM sabot.job_status',
		db => 'app', user => 'alice'),
	sql($node, 'SELECT count(*) FROM sabot.job_status',
		db => 'app', user => 'alice'),
	'alice sees her copied jobs, by her name');
like(
	sql($other, 'SELECT detail, advice FROM sabot.check()'
		  . " WHERE subject = 'copied jobs' AND NOT ok", db => 'app'),
	qr/adopt_jobs/,
	'sabot.check() says what to do');
sql_fails($other, 'SELECT sabot.adopt_jobs()', qr/ERROR:  42501/,
	'adopt_jobs by anybody', db => 'app', user => 'alice');

my ($status, $adopted, $err) =
  try_sql($other, 'SELECT sabot.adopt_jobs()', db => 'app');
is($status, 0, 'adopt_jobs with an owner missing');
like($err, qr/WARNING:.* 1 copied job/, 'is warned of');
is($adopted, '3', 'the other jobs are adopted');
ends($other, $open{$_}, 'completed', "adopted job of $_", db => 'app')
  foreach ('alice', $me);
is(job($other, $open{gone}, 'state, wait_reason, owner', db => 'app'),
	'paused|copied from another database|gone',
	'the job without an owner stays');
sql($other, 'CREATE ROLE gone LOGIN');
is(sql($other, 'SELECT sabot.adopt_jobs()', db => 'app'),
	'1', 'adopt_jobs when the owner is there');
ends($other, $open{gone}, 'completed', 'runs', db => 'app');
is(sql($other, 'SELECT name, who FROM effect ORDER BY name', db => 'app'),
	join("\n", sort('alice|alice', 'gone|gone', "$me|$me")),
	'each once, as its owner');
cmp_ok(submit($other, 'SELECT 1', db => 'app'),
	'>', $open{$me}, 'new jobs have new numbers');

# A graph in the middle of its way, and a job that waits for it: the first task
# has completed, and paused the queue of the others.

my $graph = app(<<'SQL');
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('first', $$INSERT INTO effect VALUES ('first'); SELECT sabot.pause_queue('graph')$$),
	sabot.graph_task('last', $$INSERT INTO effect VALUES ('last')$$, '{left,right}'),
	sabot.graph_task('left', $$INSERT INTO effect VALUES ('left')$$, '{first}'),
	sabot.graph_task('right', $$INSERT INTO effect VALUES ('right')$$, '{first}')),
	queue => 'graph', timeout => '1 h');
SQL
my $after = submit($node, q{INSERT INTO effect VALUES ('after')},
	db => 'app', args => "depends_on => ARRAY[$graph]");
my $tasks =
  "SELECT string_agg(name || ' ' || state, ', ' ORDER BY job_id) FROM sabot.job_task WHERE parent_id = $graph";
poll($node, $tasks,
	'first completed, left queued, right queued, last blocked',
	'a graph is on its way', db => 'app');
my $with_graph = everything($node, 'app');
$node->command_ok(
	[ 'pg_dump', '-Fc', '-f', "$dump.graph", $node->connstr('app') ],
	'pg_dump with a graph');
sql($other, 'CREATE DATABASE graph');
$other->command_ok(
	[
		'pg_restore', '--exit-on-error',
		'-d', $other->connstr('graph'), "$dump.graph"
	],
	'pg_restore with a graph');
is(everything($other, 'graph'), $with_graph, 'everything of it is there');
is( sql($other, $tasks, db => 'graph'),
	'first completed, left paused, right paused, last paused',
	'its open tasks are paused');
is( sql($other,
		"SELECT job_id, state FROM sabot.job_status WHERE job_id IN ($graph, $after) ORDER BY job_id",
		db => 'graph'),
	"$graph|paused\n$after|paused",
	'and so are the graph, and the job that waits for it');
sql($other, "UPDATE sabot.job SET run_after = run_after - interval '1 day' WHERE job_id = $graph",
	db => 'graph');
is(sql($other, 'SELECT sabot.adopt_jobs()', db => 'graph'), '6', 'adopted');
sql($other, q{SELECT sabot.resume_queue('graph')}, db => 'graph');
ends($other, $graph, 'completed',
	'the copied graph, whose time is counted anew', db => 'graph');
ends($other, $after, 'completed', 'and the job that waits for it',
	db => 'graph');
is( sql($other, $tasks, db => 'graph'),
	'first completed, left completed, right completed, last completed',
	'its tasks');
is( sql($other,
		"SELECT name, count(*) FROM effect WHERE name IN ('first', 'left', 'right', 'last', 'after') GROUP BY name ORDER BY name",
		db => 'graph'),
	"after|1\nfirst|1\nlast|1\nleft|1\nright|1",
	'each had its effect once');
app(q{SELECT sabot.resume_queue('graph')});
ends($node, $after, 'completed', 'the original', db => 'app');

# Into a server without preload

my $plain = new_node('plain', "shared_preload_libraries = ''\n", no_start => 1);
$plain->start;
sql($plain, 'CREATE ROLE alice LOGIN; CREATE DATABASE app');
my $script = $node->basedir . '/app.sql';
$plain->command_ok([ 'pg_restore', '-f', $script, $dump ], 'as a script');
($status, my $out, $err) = try_sql($plain, "\\i $script", db => 'app');
is($status, 0, 'restored without preload') or diag($err);
like($err, qr/WARNING:.*sabot is not loaded/, 'with a warning');
inert($plain, 'app', 'without preload');
$plain->command_ok(
	[ 'pg_dump', '-f', $plain->basedir . '/again.sql', $plain->connstr('app') ],
	'and can be dumped again');

# pg_upgrade: nothing runs meanwhile, and the new server is another one

set_conf($node, 'sabot.enabled' => 'off');
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
my $last = submit($node, q{INSERT INTO effect VALUES ('last')},
	db => 'app', user => 'alice');
$everything = everything($node, 'app');
$node->stop;
my $new = new_node('upgraded', '', no_start => 1);
my $bin = $new->config_data('--bindir');
chdir($new->basedir) or die "could not change directory: $!";
$new->command_ok(
	[
		'pg_upgrade', '--no-sync',
		'-d', $node->data_dir, '-D', $new->data_dir,
		'-b', $bin, '-B', $bin,
		'-s', $new->host, '-p', $node->port, '-P', $new->port
	],
	'pg_upgrade');
my @pg_ctl = ('pg_ctl', '-w', '-D', $new->data_dir, '-l', $new->logfile);
$new->command_ok([ @pg_ctl, '-o', '-b', 'start' ], 'started as pg_upgrade does');
is( sql($new,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'sabot%'"),
	'0',
	'nothing of sabot runs');
$new->command_ok([ @pg_ctl, 'stop' ], 'stopped');
$new->start;
inert($new, 'app', 'pg_upgrade');
sql($new, 'SELECT sabot.adopt_jobs()', db => 'app');
ends($new, $last, 'completed', 'pg_upgrade: adopted', db => 'app');

$_->stop foreach ($other, $plain, $new);
done_testing();
