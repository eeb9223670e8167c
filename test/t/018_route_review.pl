# Routing where an agent's place in a query is least like a parallel worker's:
# the transaction's times, a table made by the query itself, agents that leave
# or cannot begin while the work is left to them alone, and inputs begun anew
# without them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_node('review', <<'CONF');
sabot.pool_size = 4
sabot.execution = distributed
max_parallel_workers_per_gather = 2
CONF
my $nrows = 30000;

sql($node, <<"SQL");
CREATE TABLE big AS SELECT i AS id, i % 10 AS v FROM generate_series(1, $nrows) AS i;
CREATE TABLE few AS SELECT i AS id FROM generate_series(1, 5) AS i;
ANALYZE big, few;
CREATE FUNCTION costly(int) RETURNS bool LANGUAGE plpgsql
	STABLE PARALLEL SAFE COST 10000
	AS 'BEGIN RETURN \$1 > 0; END';
CREATE FUNCTION stop_at_two(a int, b int) RETURNS bool LANGUAGE plpgsql
	STABLE PARALLEL RESTRICTED COST 1 AS '
BEGIN
	IF a = 2 THEN
		PERFORM sabot.stop_agents();
	END IF;
	RETURN b > 20 * a AND a < 5;
END';
SQL

# is_distributed - whether a query runs on agents now
sub is_distributed
{
	sql($node, 'SELECT sabot.start_agents(2)');
	return sql($node, 'EXPLAIN (ANALYZE) SELECT count(*) FROM big') =~
	  /ran on [12]/;
}

ok(wait_until(\&is_distributed), 'queries are distributed');

is( sql($node, <<'SQL'),
SET parallel_leader_participation = off;
SELECT count(*) FROM big
	WHERE now() = (SELECT xact_start FROM pg_stat_get_activity(pg_backend_pid()));
SQL
	$nrows, 'agents have the times of the transaction');

my $result = sql($node, <<'SQL');
SET parallel_leader_participation = off;
CREATE TABLE made AS
	SELECT count(*) AS n, count(DISTINCT c.relname) AS names
	FROM pg_class AS c, big WHERE big.id <= 10;
SELECT n = 10 * names FROM made;
SQL
is($result, 't', 'a table is made of a catalog its own making has changed');

my $rescan =
  'SELECT count(*) FROM few WHERE EXISTS (SELECT FROM big WHERE costly(big.id) AND stop_at_two(few.id, big.id))';
my $set = join '',
  map { "SET enable_$_ = off;" } qw(material hashjoin mergejoin memoize);

like(sql($node, "$set EXPLAIN $rescan"),
	qr/Nested Loop Semi.*Gather/s, 'a Gather is left early and begun anew');
is(sql($node, "$set $rescan"), '4', '... also when its agents have gone');

# Agents that cannot map the query's memory for want of file handles

# limit_files(PIDS, LIMIT) - how many files those processes may have from now on
sub limit_files
{
	my ($pids, $limit) = @_;

	foreach my $pid (split / /, $pids)
	{
		system('prlimit', "--pid=$pid", "--nofile=$limit:") == 0
		  or die "prlimit: $?";
	}
	return;
}

# two_agents() - have them, idle; their pids
sub two_agents
{
	sql($node, 'SELECT sabot.start_agents(2)');
	poll($node, "SELECT count(*) FROM sabot.agent_status WHERE state = 'idle'",
		'2', 'two agents are idle');
	return sql($node,
		"SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM sabot.agent_status");
}

SKIP:
{
	skip 'there is no prlimit', 8 if system('prlimit --version >&2') != 0;
	my $pids = two_agents();
	my ($enough) = slurp_file('/proc/' . (split / /, $pids)[0] . '/limits') =~
	  /^Max open files +(\d+)/m;
	my $offset = -s $node->logfile;
	my $asked = 0;

	limit_files($pids, 3);
	foreach my $leader ('off', 'on')
	{
		foreach my $query ('SELECT count(*) FROM big',
			'SELECT count(*) FROM (SELECT * FROM big ORDER BY v OFFSET 0) AS t')
		{
			two_agents();
			my $set =
			  "SET statement_timeout = '60s'; SET parallel_leader_participation = $leader; SET parallel_tuple_cost = 0;";
			like(sql($node, "$set EXPLAIN $query"), qr/Gather/, "no file handles, leader $leader: $query");
			is(sql($node, "$set $query"),
				$nrows, '... the answer');
			two_agents();
			like(sql($node, "$set EXPLAIN (ANALYZE) $query"),
				qr/ran on 0 \(local: no idle agent\)/, '... without agents')
			  if $leader eq 'off';
			$asked += 2;
		}
	}
	my @errors = log_since($node, $offset) =~ /ERROR: .*Too many open files/g;
	cmp_ok(scalar @errors, '>', 0, 'it is logged');
	cmp_ok(scalar @errors, '<=', 2 * $asked, '... once for each agent of a query');
	limit_files($pids, $enough);
	ok(wait_until(\&is_distributed), 'there are file handles again');
	is(two_agents(), $pids, '... and the same agents');
}

# The work is left to agents that may go before they begin.
my $wrong = 0;
my $right = 0;
my $until = time() + 8;

while (time() < $until)
{
	sql($node, <<'SQL');
SELECT sabot.start_agents(2);
SELECT pg_terminate_backend(pid) FROM sabot.agent_status
	WHERE pid IS NOT NULL AND random() < 0.5;
SQL
	for my $query ('SELECT count(*) FROM big',
		'SELECT count(*) FROM (SELECT * FROM big ORDER BY v OFFSET 0) AS t')
	{
		my ($status, $out) =
		  try_sql($node, "SET parallel_leader_participation = off; SET parallel_tuple_cost = 0; $query");

		next if $status != 0;
		$out eq $nrows ? $right++ : $wrong++;
	}
}
is($wrong, 0, 'no rows are missing if the work is left to agents that go');
cmp_ok($right, '>', 0, '... and there are answers');

done_testing();
