# Streams across restarts and copies: a row that waits is not lost, a copy
# does nothing before it is adopted, and what a subscription brings is captured.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;

my $node = new_node('stream_copies',
	"wal_level = logical\nmax_wal_senders = 4\nmax_replication_slots = 4\nsabot.agent_idle_timeout = 1\n");

sql($node, 'CREATE DATABASE app');

# app(SQL) - run it in the database with the stream
sub app { return sql($node, $_[0], db => 'app') }

# handed_over(DB, IDS, MESSAGE) - test that these rows are handed over, once
sub handed_over
{
	my ($db, $ids, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node, "SELECT string_agg(id::text, ' ' ORDER BY n) FROM seen",
		$ids, $message, db => $db);
}

app(<<'SQL');
CREATE EXTENSION sabot;
CREATE TABLE source (id int PRIMARY KEY, note text);
CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id int);
SQL
my $stream = app(
	q{SELECT sabot.submit_stream('source', 'INSERT INTO seen (id) SELECT id FROM batch ORDER BY sabot_seq')}
);
app(q{INSERT INTO source VALUES (1, 'first')});
handed_over('app', '1', 'a row');

# Nobody is there while there is nothing to do.

poll($node, 'SELECT agents FROM sabot.pool_status', '0',
	'an idle stream holds no agent');
app(q{INSERT INTO source VALUES (2, 'wakes')});
handed_over('app', '1 2', 'a row wakes it');

# A restart, clean or not, between the commit and the batch

foreach my $mode ('fast', 'immediate')
{
	my $id = $mode eq 'fast' ? 3 : 4;

	set_conf($node, 'sabot.enabled' => 'off');
	poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
	app("INSERT INTO source VALUES ($id, '$mode')");
	is(app('SELECT lag_rows FROM sabot.stream_status'), '1', "$mode: a row waits");
	$node->append_conf('postgresql.conf', 'sabot.enabled = on');
	$node->stop($mode);
	$node->start;
	handed_over('app', join(' ', 1 .. $id), "$mode: it is handed over");
}

# Copies: rows wait in them, too, and are captured further on

app("SELECT sabot.pause_job($stream)");
app(q{INSERT INTO source VALUES (5, 'waits')});
poll($node, 'SELECT agents FROM sabot.pool_status', '0', 'agents have left');
sql($node, 'CREATE DATABASE twin TEMPLATE app');
sql($node, 'CREATE DATABASE restored');
my $dump = "$PostgreSQL::Test::Utils::tmp_check/stream.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, 'app' ], 'pg_dump');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ],
	'restore');
app("SELECT sabot.resume_job($stream)");
handed_over('app', '1 2 3 4 5', 'the original goes on');
foreach my $db ('twin', 'restored')
{
	is( sql($node,
			'SELECT state, wait_reason, capturing, lag_rows FROM sabot.stream_status',
			db => $db),
		'paused|copied from another database|t|1',
		"$db: it is a copy");
	sql($node, q{INSERT INTO source VALUES (6, 'copy')}, db => $db);
	sql($node, q{SELECT sabot.adopt_jobs()}, db => $db);
	sql($node, "SELECT sabot.resume_job($stream)", db => $db);
	handed_over($db, '1 2 3 4 5 6', "$db: once it is adopted it goes on");
	sql($node, q{INSERT INTO source VALUES (7, 'further')}, db => $db);
	handed_over($db, '1 2 3 4 5 6 7', "$db: further on");
	sql($node, "SELECT sabot.cancel_job($stream)", db => $db);
	is( sql($node,
			"SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot_stream%'",
			db => $db),
		'0',
		"$db: and leaves nothing behind");
}
is(app('SELECT count(*) FROM seen'), '5', 'the original does not notice');

# What a subscription writes fires row-level triggers only, and none that are
# not for replicas.

sql($node, 'CREATE TABLE source (id int PRIMARY KEY, note text)');
sql($node, 'CREATE PUBLICATION pub FOR TABLE source');
sql($node, q{SELECT pg_create_logical_replication_slot('sub', 'pgoutput')});
my $connstr = $node->connstr('postgres');
app("CREATE SUBSCRIPTION sub CONNECTION \$c\$$connstr\$c\$ PUBLICATION pub WITH (create_slot = false, copy_data = false)");
sql($node, q{INSERT INTO source VALUES (10, 'replicated')});
sql($node, q{UPDATE source SET note = 'again'});
handed_over('app', '1 2 3 4 5 10 10', 'rows of a subscription');
app('DROP SUBSCRIPTION sub');

# Without the extension there is no stream, nor its trigger and its tables; nor
# in a copy, adopted or not, where the columns have changed, too.

sql($node, 'CREATE DATABASE again');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'again' ],
	'restore again');
sql($node, q{ALTER TABLE source ADD COLUMN more int}, db => 'again');
sql($node, q{INSERT INTO source VALUES (10, 'more', 1)}, db => 'again');
foreach my $db ('app', 'again', 'restored')
{
	sql($node, "SELECT sabot.submit_stream('source', 'SELECT FROM batch')", db => $db);
	cmp_ok(
		sql($node, "SELECT count(*) FROM pg_class WHERE relname ~ '^stream_[0-9_]+\$'", db => $db),
		'>', 0, "$db: there are tables of captured rows");
	sql($node, 'DROP EXTENSION sabot', db => $db);
	is( sql($node, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot_stream%'", db => $db),
		'0', "$db: DROP EXTENSION takes the trigger along");
	is( sql($node, "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'sabot'::regnamespace", db => $db),
		'', "$db: and all tables");
	sql($node, q{INSERT INTO source VALUES (11, 'alone')}, db => $db);
}

$node->stop;
done_testing();
