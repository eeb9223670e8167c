# Graphs, while agents and the server are killed: every graph ends, no task is
# lost, none has its effect twice, and none runs before what it comes after.
#
# SABOT_SEED picks other graphs and victims, SABOT_GRAPH_ROUNDS their number.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $rounds = $ENV{SABOT_GRAPH_ROUNDS} || 15;

diag("SABOT_SEED=$seed SABOT_GRAPH_ROUNDS=$rounds");
srand($seed);

my $node = new_node('graph_crash',
	"log_statement = none\nsabot.max_crashes = 1000\n");

# effect has no unique constraint: it would hide what we look for.
sql($node, <<'SQL');
CREATE TABLE effect (graph int, name text, at timestamptz DEFAULT clock_timestamp());
-- random_graph - some 60 tasks, each after up to 3 of those before it; a few
-- fail
CREATE FUNCTION random_graph(graph int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(sabot.graph_task('t' || i,
			format('INSERT INTO effect VALUES (%s, %L); SELECT pg_sleep(%s)',
				graph, 't' || i, random() * 0.02) ||
				CASE WHEN random() < 0.03 THEN '; SELECT 1 / 0' ELSE '' END,
			ARRAY(SELECT DISTINCT 't' || 1 + floor(random() * (i - 1))::int
				FROM generate_series(1, floor(random() * 4)::int) AS n
				WHERE i > 1 AND n > 0),
			on_failure => (ARRAY['fail', 'skip', 'continue'])[1 + floor(random() * 2.99)::int])
		ORDER BY random())
	FROM generate_series(1, 60) AS i
$$;
-- wrong - what is wrong once everything has ended
CREATE VIEW wrong AS
	WITH task AS (
		SELECT t.*, g.name::int AS graph
		FROM sabot.job_history AS t JOIN sabot.job_history AS g ON g.job_id = t.parent_id
		WHERE g.kind = 'graph')
	SELECT 'effect without a completed task' AS what, e.graph, e.name
	FROM effect AS e LEFT JOIN task AS t
		ON t.graph = e.graph AND t.name = e.name AND t.state = 'completed'
	WHERE t.job_id IS NULL
	UNION ALL
	SELECT 'effects of a completed task: ' || count(e.name), t.graph, t.name
	FROM task AS t LEFT JOIN effect AS e ON t.graph = e.graph AND t.name = e.name
	WHERE t.state = 'completed'
	GROUP BY t.graph, t.name HAVING count(e.name) <> 1
	UNION ALL
	SELECT 'task that is ' || t.state || ' after one that is ' || p.state, t.graph, t.name
	FROM task AS t, unnest(t.depends_on) AS d JOIN task AS p ON p.job_id = d
	WHERE t.state IN ('completed', 'failed') AND (t.started_at < p.finished_at OR NOT
		(p.state = 'completed' OR p.state = 'failed' AND p.on_failure = 'continue'))
	UNION ALL
	SELECT 'task that was skipped for no reason', t.graph, t.name
	FROM task AS t
	WHERE t.state = 'skipped' AND NOT EXISTS (
		SELECT FROM unnest(t.depends_on) AS d JOIN task AS p ON p.job_id = d
		WHERE p.state = 'skipped' OR p.state = 'failed' AND p.on_failure <> 'continue')
	UNION ALL
	SELECT 'graph that is ' || g.state, g.name::int, NULL
	FROM sabot.job_history AS g
	WHERE g.kind = 'graph' AND (g.state = 'failed') <> EXISTS (
		SELECT FROM task AS t WHERE t.parent_id = g.job_id
			AND t.state = 'failed' AND t.on_failure = 'fail');
SQL

# processes(TYPE) - the pids of the processes of a kind
sub processes
{
	my ($type) = @_;

	return split /\n/,
	  sql($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

for my $round (1 .. $rounds)
{
	sql($node,
		"SELECT count(sabot.submit_graph(random_graph($round * 10 + n), name => ($round * 10 + n)::text)) FROM generate_series(0, 2) AS n"
	);
	sleep(rand(0.6));
	my $how = $round % 6;
	if ($how == 5)
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		my @agents = processes('sabot agent');
		my $pid = $agents[ rand(@agents) ];
		next if !defined $pid;
		if ($how != 0)
		{
			kill_pid($pid);
			server_back($node, "round $round: the server is back");
		}
		else
		{
			sql($node, "SELECT pg_terminate_backend($pid)");
		}
	}
	poll($node,
		"SELECT count(*) FROM sabot.any_job WHERE finished_at IS NULL",
		'0', "round $round: everything ends");
}

is( sql($node,
		"SELECT count(*) FROM sabot.job_history WHERE kind = 'graph'"),
	3 * $rounds,
	'no graph is lost');
is( sql($node,
		"SELECT count(*) FROM sabot.job_history WHERE kind = 'task'"),
	3 * 60 * $rounds,
	'no task is lost');
is(sql($node, 'SELECT * FROM wrong ORDER BY 2, 3'), '', 'nothing is wrong');

$node->stop;
done_testing();
