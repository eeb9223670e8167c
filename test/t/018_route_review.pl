# Routing where an agent's place in a query is least like a parallel worker's:
# the transaction's times, a table made by the query itself, agents that leave
# while the work is left to them alone, and inputs begun anew without them.
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
		  try_sql($node, "SET parallel_leader_participation = off; $query");

		next if $status != 0;
		$out eq $nrows ? $right++ : $wrong++;
	}
}
is($wrong, 0, 'no rows are missing if the work is left to agents that go');
cmp_ok($right, '>', 0, '... and there are answers');

done_testing();
