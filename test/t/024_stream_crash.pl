# A stream, while those that write and those that hand over are killed: every
# row that was committed is handed over or a dead letter, none twice, and the
# changes of a row come in their order.
#
# Transactions of different lengths commit in any order; some are rolled back,
# in part or as a whole; and now and then a column changes its type.
#
# SABOT_SEED picks other ones and other victims, SABOT_STREAM_ROUNDS their
# number.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run qw(start);
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';
my $rounds = $ENV{SABOT_STREAM_ROUNDS} || ($long ? 60 : 16);

diag("SABOT_SEED=$seed SABOT_STREAM_ROUNDS=$rounds");
srand($seed);

my $node = new_node('stream_crash',
	"log_statement = none\nsabot.max_crashes = 1000\n");

# Neither written nor seen has a unique constraint: it would hide what we look
# for.  What is written into source is told by a trigger of its own.
sql($node, <<'SQL');
CREATE TABLE source (id int PRIMARY KEY, version int, pad varchar(100));
CREATE TABLE written (id int, version int);
CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id int, version int);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO written VALUES (NEW.id, NEW.version);
	RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON source
	FOR EACH ROW EXECUTE FUNCTION tell();
-- write - change random rows, in their order so that nobody dies of a deadlock
CREATE PROCEDURE write(rows int, nap float) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO source
		SELECT DISTINCT ON (id) id, 1, repeat('x', 20)
		FROM (SELECT 1 + floor(random() * 2000)::int AS id FROM generate_series(1, rows)) AS r
		ORDER BY id
		ON CONFLICT (id) DO UPDATE SET version = source.version + 1;
	PERFORM pg_sleep(nap);
END $$;
-- One row in some hundreds cannot be handled.
CREATE FUNCTION handle(id int, version int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF (id * 7919 + version * 104729) % 311 = 0 THEN
		RAISE 'poison' USING ERRCODE = '22023';
	END IF;
	RETURN version;
END $$;
-- wrong - what is wrong once everything was handed over
CREATE VIEW wrong AS
	WITH seen AS (
		SELECT id, version, n FROM seen
		UNION ALL
		SELECT (d."row" ->> 'id')::int, (d."row" ->> 'version')::int, NULL
		FROM sabot.stream_dead_letter AS d)
	SELECT 'lost' AS what, w.id, w.version FROM written AS w LEFT JOIN seen AS s USING (id, version)
	WHERE s.id IS NULL
	UNION ALL
	SELECT 'made up', s.id, s.version FROM seen AS s LEFT JOIN written AS w USING (id, version)
	WHERE w.id IS NULL
	UNION ALL
	SELECT 'seen ' || count(*) || ' times', s.id, s.version FROM seen AS s
	GROUP BY s.id, s.version HAVING count(*) > 1
	UNION ALL
	SELECT 'out of order', s.id, s.version
	FROM (SELECT *, lag(version) OVER (PARTITION BY id ORDER BY n) AS before FROM seen WHERE n IS NOT NULL) AS s
	WHERE s.version < s.before;
SQL
my $stream = sql($node, <<'SQL');
SELECT sabot.submit_stream('source',
	'INSERT INTO seen (id, version) SELECT id, handle(id, version) FROM batch ORDER BY sabot_seq',
	batch_rows => 100, max_attempts => 2, retry_delay => '5 ms')
SQL

my $script = "$PostgreSQL::Test::Utils::tmp_check/stream_writer.sql";
append_to_file($script, <<'SQL');
\set rows random(1, 40)
\set how random(1, 10)
\set nap random_exponential(0, 60, 5)
\if :how = 1
BEGIN;
CALL write(:rows, 0);
SAVEPOINT a;
CALL write(:rows, 0.001 * :nap);
ROLLBACK TO a;
CALL write(1, 0);
COMMIT;
\elif :how = 2
BEGIN;
CALL write(:rows, 0.001 * :nap);
ROLLBACK;
\else
CALL write(:rows, 0.001 * :nap);
\endif
SQL

# writers(ROUND) - start sessions that write until they are stopped
sub writers
{
	my ($round) = @_;
	my $out = '';
	local $ENV{PGAPPNAME} = 'pgbench';
	my @command = ('pgbench', '-n', '-h', $node->host, '-p', $node->port,
		'-U', 'postgres', '-c', '8', '-j', '2', '-T', '60', '-f', $script, '--max-tries=10',
		'--random-seed=' . ($seed + $round), 'postgres');

	return start(\@command, '>', \$out, '2>&1');
}

# processes(CONDITION) - their pids
sub processes
{
	my ($condition) = @_;

	return split /\n/,
	  sql($node, "SELECT pid FROM pg_stat_activity WHERE $condition");
}

for my $round (1 .. $rounds)
{
	my $writers = writers($round);
	my $how = $round % 6;
	my @pids;

	sleep(0.2 + rand(0.6));
	sql($node,
		'ALTER TABLE source ALTER COLUMN pad TYPE '
		  . ($round % 2 ? 'text' : 'varchar(100)'))
	  if $round % 4 == 1;
	sleep(rand(0.3));
	if ($how == 5)
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		@pids = processes($how % 2
			? "application_name = 'pgbench'"
			: "backend_type = 'sabot agent'");
		my $pid = $pids[ rand(@pids) ];
		if (defined $pid && $how != 0)
		{
			kill_pid($pid);
			server_back($node, "round $round: the server is back");
		}
		elsif (defined $pid)
		{
			sql($node, "SELECT pg_terminate_backend($pid)");
		}
	}
	$writers->kill_kill;
	poll($node,
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'",
		'0', "round $round: nobody writes");
	poll($node,
		"SELECT state || ' ' || lag_rows FROM sabot.stream_status WHERE job_id = $stream",
		'blocked 0', "round $round: everything is handed over");
	is(sql($node, 'SELECT * FROM wrong ORDER BY 2, 3 LIMIT 10'),
		'', "round $round: nothing is wrong");
}

diag(
	sql($node,
		"SELECT format('%s rows, %s batches, %s dead letters', rows, batches, dead_letters)"
		  . " FROM sabot.stream_status"));
is(sql($node,
		'SELECT s.rows + s.dead_letters = (SELECT count(*) FROM written) FROM sabot.stream_status AS s'
	),
	't', 'all rows were counted');
cmp_ok(sql($node, 'SELECT count(*) FROM written'),
	'>', 100 * $rounds, 'rows were written');
cmp_ok(sql($node, 'SELECT dead_letters FROM sabot.stream_status'),
	'>', 0, 'some of them are dead letters');
is(sql($node, "SELECT count(*) FROM sabot.stream_part WHERE job_id = $stream"),
	1, 'no table of captured rows is left over');

$node->stop;
done_testing();
