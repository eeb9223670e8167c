# Queries are distributed all the time while leaders and agents are canceled,
# terminated and killed in random order: each answer is right, or an error that
# says what was done, and each comes.  Jobs run beside, exactly once.
#
# What the clients ask knows its answer: it is computed from how the table is
# made, and not from the table.
#
# SABOT_SEED picks another order of events, SABOT_CHAOS_SECONDS for how long,
# SABOT_TORTURE=long for a minute and a half (make torture).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';
my $seconds = $ENV{SABOT_CHAOS_SECONDS} || ($long ? 90 : 15);
my $nclients = 7;
my $hang = $PostgreSQL::Test::Utils::timeout_default / 3;

diag("SABOT_SEED=$seed SABOT_CHAOS_SECONDS=$seconds");
srand($seed);

my $node = new_node('chaos', <<'CONF');
sabot.pool_size = 4
sabot.max_crashes = 1000
log_statement = none
log_min_error_statement = panic
CONF
my $psql = $node->installed_command('psql');
my $nrows = 60000;
my $sum = $nrows * ($nrows + 1) / 2;
my $per_value = $nrows / 100;

sql($node, <<"SQL");
CREATE ROLE alice LOGIN;
SELECT sabot.grant_usage('alice');
GRANT CREATE ON SCHEMA public TO alice;
SET ROLE alice;
CREATE TABLE big (id int PRIMARY KEY, v int, pad text);
INSERT INTO big SELECT i, i % 100, 'row ' || i FROM generate_series(1, $nrows) AS i;
CREATE TABLE other (id int, k int);
INSERT INTO other SELECT i, i % 10 FROM generate_series(1, $nrows, 3) AS i;
CREATE SEQUENCE token;
CREATE TABLE accepted (job_id bigint, token bigint);
CREATE TABLE effect (token bigint);
CREATE INDEX ON effect (token);

-- check_count - what plpgsql's own query says; for EXECUTE, unlike := and
-- SELECT INTO, that may be a parallel one
CREATE FUNCTION check_count(expected bigint) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	n bigint;
BEGIN
	EXECUTE 'SELECT count(pad) FROM big' INTO n;
	IF n <> expected THEN
		RAISE EXCEPTION 'WRONG: % rows', n USING ERRCODE = 'WRONG';
	END IF;
	RETURN 'ok function';
END \$\$;

-- check_error - whether an error that a worker raises can be caught
CREATE FUNCTION check_error() RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	n bigint;
BEGIN
	EXECUTE 'SELECT sum(1 / (id - 30000)) FROM big' INTO n;
	RETURN 'WRONG: no error';
EXCEPTION WHEN division_by_zero THEN
	RETURN 'ok error';
END \$\$;

CREATE FUNCTION submit_some(n int) RETURNS void LANGUAGE sql AS \$\$
	WITH t AS MATERIALIZED (SELECT nextval('token') AS token FROM generate_series(1, n))
	INSERT INTO accepted
	SELECT sabot.submit_job('SELECT check_count($nrows); INSERT INTO effect VALUES (\$1)',
			jsonb_build_array(token), max_attempts => 100, retry_delay => '20 ms'), token
	FROM t;
\$\$;
RESET ROLE;
VACUUM ANALYZE big, other;

-- hit(KIND, CHANCE) - do that to one of those; whether there was one
CREATE FUNCTION hit(kind text, chance float8) RETURNS boolean LANGUAGE plpgsql AS \$\$
DECLARE
	pids int[];
	pid int;
BEGIN
	PERFORM pg_stat_clear_snapshot();
	-- Jobs are not to be canceled: that is an end of theirs.
	SELECT array_agg(a.pid ORDER BY a.pid) INTO pids FROM pg_stat_activity AS a
	WHERE usename = 'alice' AND CASE
		WHEN kind LIKE '% leader' THEN backend_type = 'client backend' AND state = 'active'
		WHEN kind = 'cancel agent' THEN backend_type = 'sabot agent' AND application_name NOT LIKE 'sabot job %'
		ELSE backend_type = 'sabot agent' END;
	pid := pids[1 + floor(chance * cardinality(pids))];
	RETURN pid IS NOT NULL AND CASE WHEN kind LIKE 'cancel %' THEN pg_cancel_backend(pid)
		ELSE pg_terminate_backend(pid) END;
END \$\$;
SQL

# What the clients ask, again and again: each prints "ok" and its name.

my $top = join ',', map { 99 + 100 * $_ } 0 .. 29;
my $joined = int(($nrows + 2) / 3);
my $queries = <<"SQL";
SELECT CASE WHEN count(*) = $nrows AND sum(id) = $sum AND count(pad) = $nrows THEN 'ok count'
	ELSE 'WRONG count: ' || count(*) || ' ' || coalesce(sum(id), 0) END FROM big;
SELECT CASE WHEN count(*) = 100 AND min(n) = $per_value AND max(n) = $per_value AND sum(s) = $sum THEN 'ok groups'
	ELSE 'WRONG groups: ' || count(*) || ' ' || coalesce(sum(s), 0) END
	FROM (SELECT v, count(*) AS n, sum(id) AS s FROM big GROUP BY v) AS g;
SELECT CASE WHEN count(*) = $joined AND sum(b.id - o.id) = 0 THEN 'ok join'
	ELSE 'WRONG join: ' || count(*) END FROM big AS b JOIN other AS o ON o.id = b.id;
SELECT CASE WHEN array_agg(id) = '{$top}' THEN 'ok top' ELSE 'WRONG top: ' || array_agg(id)::text END
	FROM (SELECT id FROM big ORDER BY v DESC, id LIMIT 30) AS t;
SELECT CASE WHEN bool_and(n = id) AND count(*) = $nrows THEN 'ok order' ELSE 'WRONG order: ' || count(*) END
	FROM (SELECT id, row_number() OVER (ORDER BY id + 0) AS n FROM big) AS w;
SELECT CASE WHEN count(*) = $nrows - 100 THEN 'ok subquery' ELSE 'WRONG subquery: ' || count(*) END
	FROM big WHERE id > (SELECT max(id) FROM (SELECT id FROM big WHERE id % 1000 < 101 OFFSET 0) AS s WHERE id < 200);
SELECT check_count($nrows);
SELECT check_error();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT CASE WHEN count(*) = $per_value THEN 'ok snapshot' ELSE 'WRONG snapshot: ' || count(*) END FROM big WHERE v = 7;
SAVEPOINT a;
SELECT CASE WHEN max(id) = $nrows THEN 'ok savepoint' ELSE 'WRONG savepoint: ' || max(id) END FROM big WHERE v = 0;
COMMIT;
EXECUTE prepared (0);
EXECUTE prepared (500);
SELECT id FROM big WHERE v < 5 ORDER BY id LIMIT 1 OFFSET 2 \\gset
\\echo ok rows
SQL
my $settings = <<'SQL';
SET sabot.execution = distributed;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
SET sabot.query_agents = 3;
SET max_parallel_workers_per_gather = 3;
SQL
my $script = $node->basedir . '/client.sql';
append_to_file($script, $settings . <<"SQL" . $queries x 10);
PREPARE prepared (int) AS SELECT CASE WHEN count(*) = $nrows - \$1 THEN 'ok prepared'
	ELSE 'WRONG prepared: ' || count(*) END FROM big WHERE id > \$1;
SQL

# Clients: sessions that are lost, and come again.

my $stop = $node->basedir . '/stop';
my @clients;
foreach my $i (1 .. $nclients)
{
	my $name = $node->basedir . "/client_$i";
	my $command =
	    "while [ ! -e '$stop' ]; do '$psql' -X -q -A -t -v VERBOSITY=verbose"
	  . " -U alice -f '$script' -d '" . $node->connstr('postgres')
	  . "' || sleep 0.05; done >>'$name.out' 2>>'$name.err'";

	push @clients,
	  {
		name => $name,
		run => IPC::Run::start([ 'sh', '-c', $command ],
			IPC::Run::timeout($seconds + 2 * $hang))
	  };
}

# The events

# distributed() - queries that were, since the server started
sub distributed
{
	my ($status, $n) = try_sql($node,
		'SELECT coalesce(sum(queries), 0) FROM sabot.route_stat'
		  . " WHERE route = 'distributed'");

	return $status == 0 ? $n : 0;
}

# slay_agent() - kill one; the server starts again then
sub slay_agent
{
	my ($status, $pids) = try_sql($node,
		"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity"
		  . " WHERE backend_type = 'sabot agent'");
	my @pids = split / /, $pids // '';

	return 0 unless @pids && kill('KILL', $pids[ int(rand(@pids)) ]);
	return server_back($node, 'the server is back after a kill');
}

my @kinds = (
	('cancel leader') x 3, ('terminate leader') x 2, ('cancel agent') x 4,
	('terminate agent') x 3);
my %hits = map { $_ => 0 } @kinds, 'kill agent';
my ($most_distributed, $hung) = (0, '');
my $begun = time();
my $next_kill = $begun + $seconds / 3;

# A slow machine has more time to distribute many, but not without end.
while ($hung eq ''
	&& (time() < $begun + $seconds
		|| $most_distributed <= 100 && time() < $begun + $seconds + $hang))
{
	my @events = map { [ $kinds[ int(rand(@kinds)) ], rand() ] } 1 .. 10;
	my $hits = join ', ',
	  map { "hit('$_->[0]', $_->[1]), pg_sleep(" . rand(0.02) . ')' } @events;
	my ($status, $row) = try_sql($node, "SELECT $hits");
	my @done = split /\|/, $row // '';

	if ($status == 0)
	{
		$hits{ $events[$_][0] } += $done[ 2 * $_ ] eq 't' foreach 0 .. $#events;
	}
	try_sql($node,
		'SELECT submit_some(3) WHERE (SELECT count(*) FROM accepted)'
		  . ' < 60 + (SELECT count(*) FROM effect)', user => 'alice');
	($status, $row) = try_sql($node,
		'SELECT pid, wait_event, query FROM pg_stat_activity'
		  . " WHERE backend_type = 'client backend' AND state = 'active'"
		  . " AND query_start < clock_timestamp() - interval '$hang s'");
	$hung = $row if $status == 0;

	my $distributed = distributed();
	$most_distributed = $distributed if $distributed > $most_distributed;
	next if time() < $next_kill;
	$next_kill = time() + ($long ? 12 : 6);
	$hits{'kill agent'} += slay_agent();
}
is($hung, '', 'no query hangs');
diag(join ', ', map { "$_: $hits{$_}" } sort keys %hits);
diag("distributed between two kills: $most_distributed");
cmp_ok($hits{$_}, '>', 0, "there was: $_") foreach sort keys %hits;
cmp_ok($most_distributed, '>', 100, 'many queries were distributed');

# What the clients were told

append_to_file($stop, '');
my (%ok, @wrong, %errors, @unexpected);
foreach my $client (@clients)
{
	ok(eval { $client->{run}->finish; 1 }, 'a client comes to its end')
	  or $client->{run}->kill_kill;
	foreach my $line (split /\n/, slurp_file("$client->{name}.out"))
	{
		$line =~ /^ok (\w+)$/ ? $ok{$1}++ : push @wrong, $line;
	}
	foreach my $line (split /\n/, slurp_file("$client->{name}.err"))
	{
		$line =~ s/^psql:\S*client\.sql:\d+: //;
		if ($line =~ /(?:ERROR|FATAL|WARNING):  (57014|57P01|57P02|57P03|53300|25P01|25P02|26000)\b/
			|| $line =~ /ERROR:  55000: (lost connection to parallel worker)/
			|| $line =~ /(server closed the connection|connection to server was lost|Connection refused)/
			|| $line =~ /FATAL:  (the database system is|sorry, too many clients|terminating connection)/)
		{
			$errors{$1}++;
		}
		elsif ($line =~ /^(?:\w+:)?\s*(?:ERROR|FATAL|PANIC|WARNING|error)\b|^psql: /)
		{
			push @unexpected, $line;
		}
	}
}
diag('answers: ', join ', ', map { "$_: $ok{$_}" } sort keys %ok);
diag('errors: ', join ', ', map { "$_: $errors{$_}" } sort keys %errors);
is(join("\n", @wrong), '', 'no answer is wrong');
is(join("\n", @unexpected), '', 'all errors were to be expected');
cmp_ok($ok{$_} // 0, '>', 10, "there were right answers: $_")
  foreach qw(count groups join top order subquery function error snapshot savepoint prepared rows);

# What is left

server_back($node, 'the server is up after all that');
poll($node, 'SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL',
	'0', 'every job has ended');
poll($node, "SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'",
	'0', 'all agents are idle');
poll($node,
	"SELECT count(*) FROM pg_locks WHERE relation IN ('big'::regclass, 'other'::regclass)",
	'0', 'nobody holds a lock');
cmp_ok(sql($node, 'SELECT count(*) FROM accepted'), '>', 10, 'there were jobs');
is( sql($node,
		'SELECT job_id, state, sqlstate, error, n FROM'
		  . ' (SELECT job_id, count(e.token) AS n FROM accepted AS a'
		  . ' LEFT JOIN effect AS e USING (token) GROUP BY job_id) AS a'
		  . ' LEFT JOIN sabot.job_status AS s USING (job_id)'
		  . " WHERE NOT coalesce(s.state = 'completed' AND n = 1"
		  . " OR s.sqlstate = '57014' AND n = 0, false)"),
	'',
	'every job was done once, or canceled and not done');
cmp_ok(
	sql($node, "SELECT count(*) FROM sabot.job_status WHERE state <> 'completed'"),
	'<=', $hits{'cancel agent'}, 'no job was canceled but by chance');

my $before = distributed();
my ($status, $out, $err) = try_sql($node, slurp_file($script), user => 'alice');
is($err, '', 'the same queries afterwards: no error');
is(join("\n", grep { !/^ok / } split /\n/, $out), '', 'and right answers');
cmp_ok(distributed() - $before, '>', 10, 'which were distributed');

# on_agents(QUERY) - have agents do all of a query; whether some took part
sub on_agents
{
	my ($query) = @_;
	my $done = 'SELECT coalesce(sum(queries_done), 0) FROM sabot.agent_status';
	my $was = sql($node, $done);

	sql($node, "$settings SET parallel_leader_participation = off; $query",
		user => 'alice');
	# Each is idle again a little after its last row has come.
	poll($node,
		"SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'",
		'0', "$query: all agents are idle");
	return sql($node, $done) > $was;
}
foreach my $query ("SELECT check_count($nrows)", 'SELECT check_error()')
{
	ok(wait_until(sub { on_agents($query) }), "agents take part: $query");
}
my $log = slurp_file($node->logfile);
unlike($log, qr/terminated by signal (?!9\b)\d|PANIC|TRAP|leak/,
	'the log has no complaint');

$node->stop;
done_testing();
