# Queries on agents, together with what else there is: other extensions' hooks
# on either side, JIT, several databases, an extension that comes late or goes,
# a standby and its promotion, restarts, and a self-test that fails.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $nrows = 6000;
my $sum = $nrows * ($nrows + 1) / 2;
my $count = 'SELECT count(*), sum(id) FROM big';
my $full = "$nrows|$sum";
my $settings = <<'CONF';
sabot.pool_size = 8
sabot.agent_idle_timeout = 1h
sabot.execution = distributed
max_connections = 20
max_parallel_workers = 8
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
parallel_leader_participation = off
jit = off
CONF
my $node = new_node('together', $settings, init => [ allows_streaming => 1 ]);
my $psql_line = qr/^Sabot: (planned for .*|local .*)$/m;

# ran(NODE, QUERY, DB) - what EXPLAIN ANALYZE says of its route
sub ran
{
	my ($on, $query, $db) = @_;
	my ($status, $out, $err) = try_sql($on,
		"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $query",
		db => $db // 'postgres');

	return $out =~ $psql_line ? $1 : "no line: $out$err";
}

# comes_to_agents(NODE, MESSAGE, DB) - test that it does, and the answer
sub comes_to_agents
{
	my ($on, $message, $db) = @_;
	my $last;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_until(
		sub {
			$last = ran($on, $count, $db);
			return $last eq 'planned for 2 agents, ran on 2';
		});
	is($last, 'planned for 2 agents, ran on 2', $message);
	is(sql($on, $count, db => $db // 'postgres'), $full, "$message: the answer");
	return;
}

my $tables = <<"SQL";
CREATE TABLE big AS SELECT i AS id, i % 10 AS v, 'row ' || i AS pad FROM generate_series(1, $nrows) AS i;
ANALYZE big;
SQL
sql($node, $tables);
comes_to_agents($node, 'a server of one');

# Several databases, and an extension that comes late and goes

sql($node, "CREATE DATABASE $_") foreach qw(late second third);
foreach my $db (qw(late second third))
{
	sql($node, $tables, db => $db);
	like(ran($node, $count, $db), qr/^no line: .*Gather/s,
		"without the extension, $db is as it was");
	sql($node, 'CREATE EXTENSION sabot', db => $db);
	comes_to_agents($node, "database $db", $db);
}
is( sql($node,
		    "SELECT string_agg(database::text, ' ' ORDER BY database) FROM sabot.route_stat"
		  . " WHERE route = 'distributed'"),
	'late postgres second third', 'each is counted for itself');
sql($node, 'DROP EXTENSION sabot', db => 'late');
like(ran($node, $count, 'late'), qr/^no line: .*Gather/s, 'DROP EXTENSION: as it was');
sql($node, 'CREATE EXTENSION sabot', db => 'late');
comes_to_agents($node, 'CREATE EXTENSION again', 'late');
my $session = user_session($node, db => 'late');
$session->query_safe('DROP EXTENSION sabot; CREATE EXTENSION sabot; BEGIN; DROP EXTENSION sabot');
unlike($session->query_safe("EXPLAIN (ANALYZE, COSTS OFF) $count"), qr/Sabot/, 'in the transaction that drops it');
$session->query_safe('ROLLBACK');
like($session->query_safe("EXPLAIN (ANALYZE, COSTS OFF) $count"), qr/Sabot: planned for 2 agents/, 'which is rolled back');
$session->quit;
comes_to_agents($node, 'database third, once more', 'third');
sql($node, 'DROP DATABASE third');
is(sql($node, "SELECT count(*) FROM pg_database WHERE datname = 'third'"),
	'0', 'DROP DATABASE where agents were idle');
is(sql($node, "SELECT queries > 0 FROM sabot.route_stat WHERE database IS NULL AND route = 'distributed'"),
	't', 'what it did is still counted');

# Agents take over what is set for their role while they are idle

sql($node, 'CREATE FUNCTION setting_of(text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS'
	  . " 'BEGIN RETURN current_setting(\$1, true); END'");
comes_to_agents($node, 'before ALTER ROLE');
sql($node, 'ALTER ROLE CURRENT_USER SET work_mem = \'999kB\'; ALTER ROLE CURRENT_USER SET sabot.query_agents = 2');
is(sql($node, "SELECT min(setting_of('work_mem')), max(setting_of('work_mem')) FROM big"),
	'999kB|999kB', 'after ALTER ROLE SET');
comes_to_agents($node, 'after ALTER ROLE SET');
sql($node, 'ALTER ROLE CURRENT_USER RESET work_mem');

# JIT

sql($node, "ALTER DATABASE postgres SET jit = on; ALTER DATABASE postgres SET jit_above_cost = 0;"
	  . ' ALTER DATABASE postgres SET jit_inline_above_cost = 0; ALTER DATABASE postgres SET jit_optimize_above_cost = 0');
SKIP:
{
	skip 'no JIT in this server', 4
	  if sql($node, 'SELECT pg_jit_available()') ne 't';
	comes_to_agents($node, 'with JIT');
	my $jitted = "SELECT v, count(*), sum(id * 2 + v), max(pad) FROM big WHERE id % 3 = 1 GROUP BY v ORDER BY v";
	is(sql($node, $jitted), sql($node, "SET sabot.execution = local; SET jit = off; SET max_parallel_workers_per_gather = 0; $jitted"),
		'JIT: the same answer');
	like(sql($node, "EXPLAIN (ANALYZE) $jitted"), qr/^JIT:.*Sabot: planned for 2 agents, ran on [12]$/ms,
		'JIT: where it is');
}
sql($node, 'ALTER DATABASE postgres RESET ALL');

# Other extensions on either side, and a restart

foreach my $order ('pg_stat_statements,auto_explain,$libdir/sabot',
	'$libdir/sabot,pg_stat_statements,auto_explain')
{
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$order'
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
compute_query_id = on
CONF
	$node->restart;
	comes_to_agents($node, "$order");
	sql($node, 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()');
	my $offset = -s $node->logfile;
	is(sql($node, "$count; $count; $count"), join("\n", ($full) x 3), 'answers');
	is( sql($node,
			"SELECT calls, rows FROM pg_stat_statements WHERE query = '$count'"),
		'3|3', 'calls are counted once, and rows');
	my $log = log_since($node, $offset);
	my @plans = $log =~ /Query Text: \Q$count\E/g;
	is(scalar @plans, 3, 'auto_explain has the plans of leaders only');
	like($log, qr/Workers Launched: 2/, 'auto_explain sees agents at work');
}
sql($node, 'DROP EXTENSION pg_stat_statements');
$node->append_conf('postgresql.conf', "shared_preload_libraries = '\$libdir/sabot'\nauto_explain.log_min_duration = -1");

# A default that keeps queries from agents does not keep the self-test from them

$node->append_conf('postgresql.conf', "default_transaction_isolation = 'serializable'\n");
$node->restart;
wait_until(sub { ran($node, $count) !~ /self-test/ });
is(ran($node, $count), 'planned for 2 agents, ran on 0 (native: serializable transaction)',
	'where all transactions are serializable');
{
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=read\\ committed";
	comes_to_agents($node, 'all but some');
}
$node->append_conf('postgresql.conf', "default_transaction_isolation = 'read committed'\n");
$node->reload;

# A standby

$node->backup('first');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'first', has_streaming => 1);
$standby->start;
is(ran($standby, $count), 'planned for 2 agents, ran on 0 (native: in recovery)',
	'on a standby');
is(sql($standby, $count), $full, 'on a standby: the answer');
is(sql($standby, "SELECT queries FROM sabot.route_stat WHERE route = 'native' AND reason = 'in recovery'"),
	'2', 'on a standby: what is counted');

# A fast stop in the middle of queries

sql($node, 'CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS'
	  . " 'BEGIN PERFORM pg_sleep(0.1); RETURN \$1; END'");
comes_to_agents($node, 'before a stop');
$session = user_session($node);
$session->{stdin} .= "SELECT sum(slow(id)) FROM big;\n";
wait_until(
	sub {
		$session->{run}->pump_nb;
		sql($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot agent' AND wait_event = 'PgSleep'") eq '2';
	}) or die 'it does not begin';
my $offset = -s $node->logfile;
my $begin = time();
$node->stop('fast');
cmp_ok(time() - $begin, '<', $PostgreSQL::Test::Utils::timeout_default / 4, 'a fast stop');
eval { $session->{run}->finish };
unlike(log_since($node, $offset), qr/PANIC|TRAP|terminated by signal|leak/, 'without complaint');

# Promotion

$standby->promote;
comes_to_agents($standby, 'after promotion');
$standby->stop;

# The server died of its self-test, as a file tells

append_to_file($node->data_dir . '/pg_stat_tmp/sabot.self_test', '');
$offset = -s $node->logfile;
$node->start;
is(ran($node, $count), 'planned for 2 agents, ran on 0 (native: self-test not passed)',
	'after a server that died of its self-test');
is(sql($node, $count), $full, 'the answer');
like(log_since($node, $offset),
	qr/WARNING:  sabot will not run queries on agents\n.*DETAIL:  The server stopped during the self-test\.\n.*HINT:  A restart tests it again\./,
	'there is a warning');
sql($node, q{SELECT sabot.run('CREATE TABLE made AS SELECT 1 AS i')});
is(sql($node, 'SELECT i FROM made'), '1', 'jobs are run all the same');
is(ran($node, $count), 'planned for 2 agents, ran on 0 (native: self-test not passed)',
	'and queries stay where they are');
ok(!-e $node->data_dir . '/pg_stat_tmp/sabot.self_test', 'the file is gone');
$node->restart;
comes_to_agents($node, 'a restart tests it again');

# An agent's result is wrong: two parts of a count are put together by another
# function, which only a parallel plan calls

# count_by(FUNCTION) - in one database
sub count_by
{
	my ($function) = @_;

	sql($node, "UPDATE pg_aggregate SET aggcombinefn = '$function'"
		  . " WHERE aggfnoid = 'pg_catalog.count()'::regprocedure", db => 'second');
	return;
}

count_by('int8mi');
$offset = -s $node->logfile;
$node->restart;
ok( wait_until(
		sub {
			ran($node, $count, 'second');
			return log_since($node, $offset) =~ /will not run queries on agents/;
		}),
	'a self-test with a wrong result');
like(log_since($node, $offset),
	qr/WARNING:  sabot will not run queries on agents\n.*DETAIL:  The self-test failed: an agent's result is not that of its session\n.*HINT:  A restart tests it again\./,
	'there is a warning');
count_by('int8pl');
foreach my $db (qw(second postgres))
{
	wait_until(sub { sql($node, "SELECT sabot.start_agents(2)", db => $db) eq '2' });
	is(ran($node, $count, $db), 'planned for 2 agents, ran on 0 (native: self-test not passed)',
		"no queries on agents in $db");
	is(sql($node, $count, db => $db), $full, "the answer in $db");
}
$node->restart;
comes_to_agents($node, 'once the result is right', 'second');

$node->stop;
done_testing();
