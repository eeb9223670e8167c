# A table is updated in place, in pieces, while clients update other columns of
# the same rows and agents and the server are killed: every row is up by exactly
# one for each job.
#
# SABOT_SEED picks other victims, SABOT_SPREAD_ROUNDS their number (at least 10
# are killed), SABOT_TORTURE=long takes 2,000,000 rows instead of 40,000.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use IPC::Run;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $rounds = $ENV{SABOT_SPREAD_ROUNDS} || 12;
my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';
my $rows = $long ? 2_000_000 : 40_000;
my $pieces = $long ? 200 : 40;

diag("SABOT_SEED=$seed SABOT_SPREAD_ROUNDS=$rounds rows: $rows");
srand($seed);

my $node = new_node('spread_crash',
	"log_statement = none\nsabot.max_crashes = 1000\nmax_wal_size = 4GB\n"
	  . "deadlock_timeout = 100ms\n");

# The first third by an integer, the second by text and an integer, the third
# in partitions.  There is no constraint that would hide what we look for.
sql($node, <<"SQL");
CREATE TABLE plain (id int PRIMARY KEY, x int NOT NULL DEFAULT 0, y int NOT NULL DEFAULT 0) WITH (fillfactor = 70);
CREATE TABLE tenant (name text, id int, x int NOT NULL DEFAULT 0, y int NOT NULL DEFAULT 0, PRIMARY KEY (name, id)) WITH (fillfactor = 70);
CREATE TABLE parted (id int PRIMARY KEY, x int NOT NULL DEFAULT 0, y int NOT NULL DEFAULT 0) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO plain SELECT i FROM generate_series(1, $rows) AS i;
INSERT INTO tenant SELECT 'tenant ' || i % 3, i FROM generate_series(1, $rows) AS i;
INSERT INTO parted SELECT i FROM generate_series(1, $rows) AS i;
CREATE TABLE copy (id int);
VACUUM ANALYZE;
-- wrong - rows that are not what they should be after so many jobs
CREATE FUNCTION wrong(jobs int) RETURNS bigint LANGUAGE sql AS \$\$
	SELECT (SELECT count(*) FROM plain WHERE x <> jobs) + (SELECT count(*) FROM tenant WHERE x <> jobs) +
		(SELECT count(*) FROM parted WHERE x <> jobs)
\$\$;
SQL

# processes(TYPE) - the pids of the processes of a kind
sub processes
{
	my ($type) = @_;

	return split /\n/,
	  sql($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

# start_clients - have two clients update the other column of rows at random
sub start_clients
{
	my $script = $node->basedir . '/clients.sql';

	PostgreSQL::Test::Utils::append_to_file($script, <<"PGBENCH") if !-e $script;
\\set id random(1, $rows)
UPDATE plain SET y = y + 1 WHERE id = :id;
UPDATE tenant SET y = y + 1 WHERE name = 'tenant ' || :id % 3 AND id = :id;
UPDATE parted SET y = y + 1 WHERE id = :id;
PGBENCH
	return IPC::Run::start(
		[
			'pgbench', '-n', '-c', '2', '-T', '600', '-h', $node->host, '-p',
			$node->port, '-f', $script, 'postgres'
		],
		'>',
		\my $out,
		'2>',
		\my $err);
}

my $killed = 0;
my $jobs = 0;
my $clients = start_clients();
my $id;

for my $round (1 .. $rounds)
{
	# A new job on each table when the ones before are done.
	if (sql($node,
			"SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL")
		eq '0')
	{
		sql($node, <<"SQL");
SELECT sabot.submit_job('UPDATE plain SET x = x + 1', over => 'plain', pieces => $pieces, queue => 'a');
SELECT sabot.submit_job('UPDATE tenant SET x = x + 1', over => 'tenant', pieces => $pieces, queue => 'b');
SELECT sabot.submit_job('UPDATE parted SET x = x + 1', over => 'parted', pieces => $pieces, piece_pause => '1 ms');
SELECT sabot.submit_job('INSERT INTO copy SELECT id FROM plain', over => 'plain', pieces => $pieces);
SQL
		$jobs++;
	}
	sleep(rand($long ? 5 : 0.4));
	my $how = $round % 4;
	if ($how == 3)
	{
		$node->stop('immediate');
		$node->start;
		$killed++;
	}
	else
	{
		my @agents = processes('sabot agent');
		my $pid = $agents[ rand(@agents) ];
		if (!defined $pid)
		{
			redo;
		}
		kill_pid($pid);
		server_back($node, "round $round: the server is back");
		$killed++;
	}
	# The server's restart has ended the clients.
	$clients->kill_kill;
	$clients = start_clients();
}
$node->poll_query_until('postgres',
	"SELECT count(*) = 0 FROM sabot.any_job WHERE finished_at IS NULL")
  or fail('everything ends');
$clients->kill_kill;

cmp_ok($killed, '>=', 10, "$killed times something was killed");
is( sql($node,
		"SELECT string_agg(DISTINCT state::text, ' ') FROM sabot.any_job"),
	'completed',
	'everything is completed');
is(sql($node, "SELECT wrong($jobs)"),
	'0', "every row is up by exactly one for each of $jobs jobs");
is( sql($node, 'SELECT count(*), count(DISTINCT id) FROM copy'),
	$jobs * $rows . "|$rows",
	'nothing was copied twice, nothing was lost');
cmp_ok(
	sql($node,
		'SELECT (SELECT sum(y) FROM plain) + (SELECT sum(y) FROM tenant) + (SELECT sum(y) FROM parted)'
	),
	'>', 0,
	'clients were at the same rows');
is( sql($node,
		"SELECT count(*) FROM sabot.job_history AS p WHERE kind = 'spread' AND row_count <> $rows"
	),
	'0',
	'the rows of the pieces add up');
cmp_ok(
	sql($node, "SELECT count(*) FROM sabot.job_attempt WHERE sqlstate = '57P02'"),
	'>', 0, 'pieces were lost and run again');

$node->stop;
done_testing();
