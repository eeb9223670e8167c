# Jobs run in the order of their numbers, whichever of two agents reads them
# from the table, and none is left behind.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('order', "sabot.pool_size = 3\nautovacuum = off\n");

# Shared memory is full of jobs of a role whose queue is paused, so of all
# other queues it has room for the first few jobs only: agents are refilling
# all the time.

sql($node, "CREATE ROLE hog LOGIN; SELECT sabot.grant_usage('hog');"
	  . " SELECT sabot.pause_queue('trough')");
running($node, submit($node, 'SELECT pg_sleep(600)', user => 'hog'));
sql($node, q{SELECT count(sabot.submit_job_each('SELECT 1',
	(SELECT jsonb_agg('[]'::jsonb) FROM generate_series(1, 32768)),
	queue => 'trough'))}, user => 'hog');

# Two agents start at once, when many queues wait that both have to read.  Each
# of them is begun by one and soon after looked at by the other.

sql($node, q{SELECT count(sabot.submit_job('SELECT', queue => 'q' || i % 200))
	FROM generate_series(1, 6000) AS i});
poll($node,
	q{SELECT count(*) FROM sabot.job_status WHERE queue LIKE 'q%' AND finished_at IS NULL},
	'0', 'every job is done');
is( sql($node, q{SELECT count(*), sum(attempt), count(DISTINCT pid) FROM sabot.job_status
	WHERE queue LIKE 'q%' AND state = 'completed'}),
	'6000|6000|2', 'by two agents, once');

# An agent that is held up delays the one job that it has taken.
my $late = q{SELECT queue, count(*) FROM (
	SELECT queue, row_number() OVER (ORDER BY started_at, job_id)
		- row_number() OVER (ORDER BY job_id) AS late
	FROM sabot.job_status WHERE queue LIKE 'q%') AS j
	WHERE late > 200 GROUP BY queue};
cmp_ok(sql($node, "SELECT coalesce(sum(count), 0) FROM ($late) AS l"),
	'<', 8, 'in the order of their numbers')
  or diag(sql($node, $late));

$node->stop;
done_testing();
