# When a query that is meant for agents runs on them, and when not: each rule
# is seen in what EXPLAIN ANALYZE says, in what is counted, and in an answer
# that is right all the same.  Then what agents are to a session: its settings,
# its messages, its locks, its end.
#
# Sessions let agents do all the work, so that an answer is what they found.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IO::Socket::UNIX;
use IPC::Run;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';

my $node = new_node('rules', <<'CONF');
sabot.pool_size = 6
sabot.agent_idle_timeout = 1h
sabot.query_agents = 2
max_connections = 20
max_worker_processes = 12
autovacuum_max_workers = 1
max_wal_senders = 0
max_parallel_workers = 8
max_parallel_workers_per_gather = 2
jit = off
deadlock_timeout = 200ms
sabot.log_routing = on
CONF
my $nrows = 6000;

sql($node, <<"SQL");
CREATE ROLE alice LOGIN;
CREATE ROLE bob LOGIN;
CREATE ROLE carol LOGIN;
CREATE ROLE dora LOGIN;
CREATE ROLE root LOGIN SUPERUSER;
GRANT bob TO alice;
GRANT alice TO carol;
SELECT sabot.grant_usage(r) FROM unnest('{alice,bob,carol,dora}'::regrole[]) AS r;
GRANT CREATE ON SCHEMA public TO alice;
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE FUNCTION one.which() RETURNS text LANGUAGE sql AS \$\$ SELECT 'one' \$\$;
CREATE FUNCTION two.which() RETURNS text LANGUAGE sql AS \$\$ SELECT 'two' \$\$;
GRANT USAGE ON SCHEMA one, two TO PUBLIC;
SET ROLE alice;
CREATE TABLE big (id int PRIMARY KEY, v int, pad text);
INSERT INTO big SELECT i, i % 10, 'row ' || i FROM generate_series(1, $nrows) AS i;
CREATE TABLE small AS SELECT i AS id, i % 3 AS k FROM generate_series(1, 50) AS i;
CREATE TABLE other AS SELECT 1 AS i;
CREATE TABLE part (id int, v int) PARTITION BY LIST (v);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (0, 1, 2, 3, 4);
CREATE TABLE part_2 PARTITION OF part DEFAULT;
INSERT INTO part SELECT id, v FROM big;
CREATE TABLE guarded AS SELECT i AS id, CASE WHEN i % 3 = 0 THEN 'bob' ELSE 'alice' END AS owner
	FROM generate_series(1, $nrows) AS i;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (owner = current_user);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bob, carol, dora;

-- What is parallel safe as far as these tests are concerned
CREATE FUNCTION pid() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN pg_backend_pid(); END';
CREATE FUNCTION setting_of(text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN current_setting(\$1, true); END';
CREATE FUNCTION call_which() RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS
	\$\$ DECLARE t text; BEGIN EXECUTE 'SELECT which()' INTO t; RETURN t; END \$\$;
CREATE FUNCTION who() RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS
	\$\$ BEGIN RETURN current_user || ' ' || session_user; END \$\$;
CREATE FUNCTION doubt(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN ASSERT \$1 < 0; RETURN \$1; END';
CREATE FUNCTION tell(level text, id int, at int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS \$\$
BEGIN
	IF id = at AND level = 'notice' THEN RAISE NOTICE 'here is %', id USING HINT = 'Look.'; END IF;
	IF id = at AND level = 'warning' THEN RAISE WARNING 'beware of %', id USING ERRCODE = '01ABC'; END IF;
	IF id = at AND level = 'error' THEN RAISE EXCEPTION 'no % f%r you', id, chr(252) USING ERRCODE = 'AB123', DETAIL = 'It is so.'; END IF;
	RETURN id;
END \$\$;
CREATE FUNCTION slow(id int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
	'BEGIN PERFORM pg_sleep(0.01) WHERE id % 20 = 0; RETURN id; END';
CREATE FUNCTION restricted(int) RETURNS int LANGUAGE plpgsql PARALLEL RESTRICTED AS 'BEGIN RETURN \$1; END';
CREATE FUNCTION unsafe(int) RETURNS int LANGUAGE plpgsql PARALLEL UNSAFE AS 'BEGIN RETURN \$1; END';
CREATE FUNCTION read_other() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT max(i) FROM other); END';
CREATE FUNCTION count_part(bigint) RETURNS bigint LANGUAGE plpgsql PARALLEL RESTRICTED AS
	'BEGIN RETURN (SELECT count(*) FROM part); END';
CREATE FUNCTION tuple_of(int, int) RETURNS record LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN ROW(\$1, \$2); END';

CREATE FUNCTION by_loop() RETURNS bigint LANGUAGE plpgsql AS \$\$
DECLARE r int; n bigint = 0;
BEGIN
	FOR r IN SELECT id FROM big LOOP n := n + r; END LOOP;
	RETURN n;
END \$\$;
CREATE FUNCTION by_record() RETURNS bigint LANGUAGE plpgsql AS \$\$
DECLARE r record;
BEGIN
	SELECT 3, 4 INTO r;
	RETURN (SELECT count(*) FROM big WHERE ROW(id, v) < r);
END \$\$;
CREATE FUNCTION caught() RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE state text; message text;
BEGIN
	BEGIN
		PERFORM sum(10 / (id - 500)) FROM big;
	EXCEPTION WHEN division_by_zero THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
	END;
	RETURN concat_ws(', ', state, message, (SELECT count(pad) FROM big));
END \$\$;
RESET ROLE;
CREATE FUNCTION as_bob() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = two, public SET work_mem = '777kB' AS
	\$\$ BEGIN RETURN (SELECT min(who()) || ' ' || max(call_which()) || ' ' || min(setting_of('work_mem')) || ' ' || count(*) FROM guarded); END \$\$;
ALTER FUNCTION as_bob() OWNER TO bob;
CREATE TABLE seen (n serial, pid int, state text);
GRANT ALL ON seen, seen_n_seq TO dora;
ANALYZE;

-- idle() - the role's agents that can be taken
CREATE FUNCTION idle(name) RETURNS bigint LANGUAGE sql AS
	\$\$ SELECT count(*) FROM sabot.agent_status WHERE role = \$1 AND state = 'idle' \$\$;
SQL

# Sessions

my $all_on_agents =
    '-c sabot.execution=distributed -c parallel_setup_cost=0'
  . ' -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0'
  . ' -c min_parallel_index_scan_size=0 -c parallel_leader_participation=off';

# session(ROLE, OPTIONS) - one whose queries are planned for agents
sub session
{
	my ($role, $options) = @_;
	local $ENV{PGOPTIONS} = "$all_on_agents " . ($options // '');

	return timed(user_session($node, user => $role));
}

# timed(SESSION) - the same; its time limit is one for each query
sub timed
{
	my ($session) = @_;

	$session->set_query_timer_restart;
	return $session;
}

# What we ask ourselves has nothing to do with agents.
my $watch = do
{
	local $ENV{PGOPTIONS} =
	  '-c sabot.execution=local -c max_parallel_workers_per_gather=0';
	timed(user_session($node));
};

# seen_by(SESSION, SQL) - what it returns, and what it says besides
sub seen_by
{
	my ($session, $sql) = @_;

	$session->{stderr} = '';
	my ($out) = $session->query($sql);
	my $said = $session->{stderr};
	$session->{stderr} = '';
	return ($out, $said);
}

# await_agents(ROLE, N) - until that many are idle
sub await_agents
{
	my ($role, $n) = @_;

	wait_until(sub { $watch->query_safe("SELECT idle('$role')") >= $n })
	  or die "no $n idle agents of $role: "
	  . $watch->query_safe('TABLE sabot.agent_status');
	return;
}

# have_agents(SESSION, ROLE, N) - have them started, by asking for them
sub have_agents
{
	my ($session, $role, $n) = @_;

	wait_until(
		sub {
			$session->query_safe('SELECT count(*) FROM big');
			return $watch->query_safe("SELECT idle('$role')") >= $n;
		}) or die "there never are $n agents of $role";
	return;
}

# counted() - queries that were meant for agents, or said not to be: a hash of
# "route: reason"
sub counted
{
	my $rows = $watch->query_safe(
		"SELECT route || ': ' || reason, queries FROM sabot.route_stat"
		  . " WHERE database = 'postgres'"
		  . " AND reason NOT IN ('below the threshold', 'sabot.execution is local')");

	return map { split /\|/ } split /\n/, $rows;
}

# counted_since(BEFORE) - what has been counted since then, as text
sub counted_since
{
	my (%before) = @_;
	my %now = counted();
	my %more;

	foreach my $key (keys %now)
	{
		my $n = $now{$key} - ($before{$key} // 0);
		$more{$key} = $n if $n > 0;
	}
	return join ', ', map { "$more{$_} $_" } sort keys %more;
}

my $on_agents = 'planned for 2 agents, ran on 2';

# line_of(SESSION, QUERY) - what EXPLAIN ANALYZE says of its route
sub line_of
{
	my ($session, $query) = @_;
	my ($out, $said) = seen_by($session,
		"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $query");
	my @lines = $out =~ /^Sabot: (.*)$/mg;

	return @lines ? $lines[-1] : "no line: $out$said";
}

# logged_of(SESSION, QUERY) - its answer, and what sabot.log_routing says of
# those that are run, as well within functions
sub logged_of
{
	my ($session, $query) = @_;
	my ($out, $said) = seen_by($session,
		    "SET client_min_messages = log; $query; RESET client_min_messages");
	my %lines = map { $_ => 1 } $said =~ /route: (planned for .*)/g;
	my @errors = $said =~ /(ERROR: .*)/g;

	return ($out, join(', ', (sort keys %lines), @errors));
}

my $alice = session('alice');

is( line_of($alice, 'SELECT count(*) FROM big'),
	'planned for 2 agents, ran on 0 (native: self-test not passed)',
	'before the self-test');
have_agents($alice, 'alice', 2);
wait_until(sub { line_of($alice, 'SELECT count(*) FROM big') !~ /self-test/ });

# A table of rules.  "ran" is what EXPLAIN ANALYZE says, or only its reason for
# native; "logged" instead is for what EXPLAIN does not show.

# test_rule(SESSION, RULE) - test one
sub test_rule
{
	my ($session, $rule) = @_;
	my $name = $rule->{name};
	my $ran = $rule->{ran} // $rule->{logged} // $on_agents;
	my $native =
	  $ran =~ /^[a-z ]+$/ ? "planned for 2 agents, ran on 0 (native: $ran)" : $ran;
	my ($got, $said, $answer, %before);

	seen_by($session, $rule->{before}) if $rule->{before};
	# An idle agent that just looks for work is not to be had.
	foreach my $try (1 .. 20)
	{
		await_agents('alice', 2);
		%before = counted();
		if (defined $rule->{logged})
		{
			($answer, $got) = logged_of($session, $rule->{query});
		}
		else
		{
			$got = line_of($session, $rule->{query});
			await_agents('alice', 2);
			($answer, $said) = seen_by($session, $rule->{query});
		}
		last unless $native eq $on_agents && $got =~ /no idle agent|ran on 1/;
	}
	is($got, $native, "$name: how it ran");
	like($answer . ($said // ''), qr/^\Q$rule->{answer}\E$/, "$name: the answer");

	my $key =
	    $native =~ /, $on_agents/ ? 'native: within another parallel query'
	  : $ran eq $on_agents ? 'distributed: large enough'
	  : $native =~ /\((\w+: .*)\)/ ? $1
	  : $native =~ /^local \((.*)\)/ ? "local: $1"
	  : undef;
	# A session keeps its local ones to itself, but not if it goes on.
	foreach my $try (1 .. ($key ? 100 : 0))
	{
		last if counted_since(%before) =~ /\Q$key\E/;
		seen_by($session, 'SELECT 1');
		sleep(0.02);
	}
	like(counted_since(%before), qr/^\d+ \Q$key\E$|, \d+ \Q$key\E$|^\d+ \Q$key\E, /,
		"$name: what is counted") if $key;
	seen_by($session, $rule->{after}) if $rule->{after};
	return;
}

my $count = 'SELECT count(*), sum(id) FROM big';
my $sum = $nrows * ($nrows + 1) / 2;
my $full = "$nrows|$sum";

# setting(SET, EXPRESSION, VALUE, ...) - a rule: it is so in agents, too
sub setting
{
	my ($before, $expression, $value, %more) = @_;

	return {
		name => "agents know: $before",
		before => $before,
		query => "SELECT min($expression), max($expression), count(*) FROM big",
		answer => "$value|$value|$nrows",
		%more
	};
}

my @rules = (
	{ name => 'nothing speaks against it', query => $count, answer => $full },

	# A transaction that has written
	{
		name => 'own rows',
		before => "BEGIN; INSERT INTO big VALUES (0, 0, 'new')",
		query => $count,
		ran => 'transaction has written',
		answer => $nrows + 1 . "|$sum",
		after => 'ROLLBACK'
	},
	{ name => 'after that', query => $count, answer => $full },
	{
		name => 'own rows of a subtransaction',
		before => 'BEGIN; SAVEPOINT a; DELETE FROM big WHERE id <= 10',
		query => $count,
		ran => 'transaction has written',
		answer => $nrows - 10 . '|' . ($sum - 55),
		after => 'ROLLBACK'
	},
	{
		name => 'rows of a subtransaction that is released',
		before =>
		  'BEGIN; SAVEPOINT a; UPDATE big SET id = -1 WHERE id = 1; RELEASE a',
		query => $count,
		ran => 'transaction has written',
		answer => "$nrows|" . ($sum - 2),
		after => 'ROLLBACK'
	},
	{
		name => 'rows of a subtransaction that was rolled back',
		before => 'BEGIN; SAVEPOINT a; DELETE FROM big; ROLLBACK TO a',
		query => $count,
		ran => 'transaction has written',
		answer => $full,
		after => 'ROLLBACK'
	},
	{
		name => 'a transaction id alone',
		before => 'BEGIN; SELECT pg_current_xact_id()',
		query => $count,
		ran => 'transaction has written',
		answer => $full,
		after => 'COMMIT'
	},
	{
		name => 'a table of its own',
		before => 'BEGIN; CREATE TABLE fresh AS SELECT id, v FROM big; ANALYZE fresh',
		query => 'SELECT count(*), sum(id) FROM fresh',
		ran => 'transaction has written',
		answer => $full,
		after => 'ROLLBACK'
	},
	{
		name => 'a column of its own',
		before => 'BEGIN; ALTER TABLE big ADD w int DEFAULT 7',
		query => 'SELECT count(*), sum(w) FROM big',
		ran => 'transaction has written',
		answer => "$nrows|" . 7 * $nrows,
		after => 'ROLLBACK'
	},
	{
		name => 'without workers worth forking for',
		before => "BEGIN; SELECT pg_current_xact_id(); SET LOCAL parallel_setup_cost = 1e9",
		query => $count,
		ran => 'planned for 2 agents, ran on 0 (local: transaction has written)',
		answer => $full,
		after => 'COMMIT'
	},
	{
		name => 'savepoints without a write',
		before => 'BEGIN; SAVEPOINT a; SAVEPOINT b; RELEASE b; SAVEPOINT c; ROLLBACK TO c',
		query => $count,
		answer => $full,
		after => 'COMMIT'
	},

	# Isolation
	{
		name => 'serializable',
		before => 'BEGIN ISOLATION LEVEL SERIALIZABLE',
		query => $count,
		ran => 'serializable transaction',
		answer => $full,
		after => 'COMMIT'
	},
	{
		name => 'serializable and read only',
		before => 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE',
		query => $count,
		ran => 'serializable transaction',
		answer => $full,
		after => 'COMMIT'
	},
	{
		name => 'read only',
		before => 'BEGIN READ ONLY',
		query => $count,
		answer => $full,
		after => 'COMMIT'
	},

	# Who it is
	{
		name => 'SET ROLE',
		before => 'SET ROLE bob',
		query => 'SELECT count(*), min(owner), max(who()) FROM guarded',
		answer => int($nrows / 3) . '|bob|bob alice',
		after => 'RESET ROLE'
	},
	{
		name => 'RESET ROLE',
		query => 'SELECT count(*), max(owner), max(who()) FROM guarded',
		answer => $nrows - int($nrows / 3) . '|alice|alice alice'
	},
	{
		name => 'SECURITY DEFINER with SET',
		query => 'SELECT as_bob()',
		logged => $on_agents,
		answer => 'bob alice two 777kB ' . int($nrows / 3)
	},
	{
		name => 'after that, too',
		query => "SELECT count(*), max(owner), max(who()), max(setting_of('work_mem')) FROM guarded",
		answer => $nrows - int($nrows / 3) . '|alice|alice alice|4MB'
	},

	# Records
	{
		name => 'records as rows',
		query => 'SELECT ROW(id, v) FROM big WHERE id % 3000 = 0 ORDER BY id',
		ran => 'anonymous records',
		answer => "(3000,0)\n(6000,0)"
	},
	{
		name => 'records in an array',
		query => 'SELECT ARRAY[ROW(id, v)] FROM big WHERE id = 3000',
		before => 'SET enable_indexscan = off; SET enable_bitmapscan = off',
		after => 'RESET enable_indexscan; RESET enable_bitmapscan',
		ran => 'anonymous records',
		answer => '{"(3000,0)"}'
	},
	{
		name => 'records below an aggregate',
		query => 'SELECT max(r::text), count(*) FROM (SELECT ROW(id, v) AS r, id FROM big'
		  . ' UNION ALL SELECT tuple_of(id, v), id FROM part) AS s WHERE id = 3000',
		before => 'SET enable_indexscan = off; SET enable_bitmapscan = off',
		after => 'RESET enable_indexscan; RESET enable_bitmapscan',
		ran => 'anonymous records',
		answer => '(3000,0)|2'
	},
	{
		name => 'records of an init plan',
		query => 'SELECT count(*) FROM big WHERE tuple_of(id, v) < (SELECT tuple_of(4, max(k)) FROM small)',
		ran => 'anonymous records',
		answer => '3'
	},
	{
		name => 'records of a subplan',
		query => "SELECT count(*) FROM big AS b WHERE id IN (SELECT id FROM small) OR tuple_of(id, v) IN (SELECT tuple_of(id + 50, 1) FROM small)",
		ran => 'anonymous records',
		answer => '55'
	},
	{
		name => 'records of partitions',
		query => 'SELECT ROW(id, v) FROM part WHERE id % 3000 = 0 ORDER BY id',
		ran => 'anonymous records',
		answer => "(3000,0)\n(6000,0)"
	},
	{
		name => 'records as parameters',
		query => 'SELECT by_record()',
		logged => 'planned for 2 agents, ran on 0 (native: anonymous records)',
		answer => '3'
	},
	{
		name => 'records that stay where they are made',
		query => 'SELECT count(*), max(ROW(id, v)::text) FROM big WHERE id < 6',
		before => 'SET enable_indexscan = off; SET enable_bitmapscan = off',
		after => 'RESET enable_indexscan; RESET enable_bitmapscan',
		answer => '5|(5,5)'
	},
	{
		name => 'rows of a named type',
		query => 'SELECT b FROM big AS b WHERE id % 6000 = 0',
		answer => '(6000,0,"row 6000")'
	},

	# Rows that are not fetched all at once
	{
		name => 'DECLARE CURSOR',
		before => "BEGIN; DECLARE c CURSOR FOR $count",
		query => 'FETCH ALL FROM c',
		logged => '',
		answer => $full,
		after => 'COMMIT'
	},
	{
		name => 'FOR loop of PL/pgSQL',
		query => 'SELECT by_loop()',
		logged => '',
		answer => $sum
	},

	# Functions
	{
		name => 'PARALLEL RESTRICTED in the query',
		query => 'SELECT restricted(count(*)::int) FROM big',
		answer => $nrows
	},
	{
		name => 'PARALLEL RESTRICTED in its condition',
		query => 'SELECT count(*) FROM big WHERE restricted(id) > 10',
		ran => 'local (no gain from workers)',
		answer => $nrows - 10
	},
	{
		name => 'PARALLEL UNSAFE',
		query => 'SELECT count(*) FROM big WHERE unsafe(id) > 10',
		ran => 'local (not parallel safe)',
		answer => $nrows - 10
	},
	{
		name => 'a query within one',
		query => 'SELECT count_part(count(*)) FROM big',
		logged => "planned for 2 agents, ran on 0 (native: within another parallel query), $on_agents",
		answer => $nrows
	},

	# Settings
	setting("SET LOCAL work_mem = '1234kB'", "setting_of('work_mem')", '4MB'),
	setting("BEGIN; SET LOCAL work_mem = '1234kB'",
		"setting_of('work_mem')", '1234kB', after => 'COMMIT'),
	setting("BEGIN; SET work_mem = '2345kB'; SAVEPOINT a; SET work_mem = '3456kB'; ROLLBACK TO a",
		"setting_of('work_mem')", '2345kB', after => 'ROLLBACK'),
	setting('SELECT 1', "setting_of('work_mem')", '4MB'),
	setting("SET DateStyle = 'German'",
		"(date '2024-03-01' + id % 1)::text", '01.03.2024'),
	setting("SET DateStyle = 'SQL, MDY'",
		"(date '2024-03-01' + id % 1)::text", '03/01/2024',
		after => 'RESET DateStyle'),
	setting("SET TimeZone = 'Asia/Tokyo'",
		"(timestamptz '2024-03-01 00:00+00' + id % 1 * interval '1 s')::text",
		'2024-03-01 09:00:00+09'),
	setting("SET TimeZone = '-3'",
		"(timestamptz '2024-03-01 00:00+00' + id % 1 * interval '1 s')::text",
		'2024-02-29 21:00:00-03', after => 'RESET TimeZone'),
	setting("SET search_path = one, public", 'call_which()', 'one'),
	setting("SET search_path = two, public", 'call_which()', 'two',
		after => 'RESET search_path'),
	setting("SET my.own = 'a value'", "setting_of('my.own')", 'a value'),
	setting("SET my.own = 'another one'",
		"setting_of('my.own')", 'another one', after => 'RESET my.own'),
	setting('SELECT 1', "setting_of('my.own')", ''),
	setting('SET plpgsql.check_asserts = off',
		'(doubt(id) * 0)', '0', after => 'RESET plpgsql.check_asserts'),
	setting("SET application_name = 'mine'",
		"setting_of('application_name')", 'mine',
		after => 'RESET application_name'),
	setting("SET bytea_output = 'escape'",
		"('\\x4142'::bytea || substr('\\x43'::bytea, 1, 1 + id % 1))::text", 'ABC',
		after => 'RESET bytea_output'),
	{
		name => 'agents know what was reset',
		query => 'SELECT max(doubt(id)) FROM big',
		logged => 'ERROR:  P0004: assertion failed',
		answer => ''
	},

	# Prepared
	{
		name => 'prepared, with a plan of its own',
		before => "PREPARE p (int) AS SELECT count(*) FROM big WHERE id > \$1; SET plan_cache_mode = force_custom_plan",
		query => 'EXECUTE p (10)',
		logged => $on_agents,
		answer => $nrows - 10
	},
	{
		name => 'prepared, with a generic plan',
		before => 'SET plan_cache_mode = force_generic_plan',
		query => 'EXECUTE p (100)',
		logged => $on_agents,
		answer => $nrows - 100,
		after => 'DEALLOCATE p; RESET plan_cache_mode'
	},
	{
		name => 'an error that is caught, and another query',
		query => 'SELECT caught()',
		logged => $on_agents,
		answer => "22012, division by zero, $nrows"
	},

	# What there may be
	{
		name => 'max_parallel_workers = 1',
		before => 'SET max_parallel_workers = 1; SET parallel_leader_participation = on',
		query => $count,
		ran => 'planned for 1 agent, ran on 1',
		answer => $full
	},
	{
		name => 'max_parallel_workers = 0',
		before => 'SET max_parallel_workers = 0',
		query => $count,
		ran => 'local (settings allow no workers)',
		answer => $full,
		after => 'RESET max_parallel_workers'
	},
	{
		name => 'sabot.query_agents = 1',
		before => 'SET sabot.query_agents = 1; SET parallel_leader_participation = on',
		query => $count,
		ran => 'planned for 1 agent, ran on 1',
		answer => $full,
		after => 'RESET sabot.query_agents; RESET parallel_leader_participation'
	});
test_rule($alice, $_) foreach @rules;

# What a session has for good

my $session = session('alice');
$session->query_safe('CREATE TEMP TABLE mine AS SELECT 1 AS i');
my %temporary = (query => $count, ran => 'session has temporary objects', answer => $full);
test_rule($session, { name => 'a temporary table', %temporary });
$session->query_safe('DROP TABLE mine');
test_rule($session, { name => 'once there was one', %temporary });
$session->quit;

$session = session('root');
test_rule($session,
	{
		name => 'SET SESSION AUTHORIZATION',
		before => 'SET SESSION AUTHORIZATION alice',
		query => 'SELECT count(*), max(who()) FROM big',
		ran => 'session authorization was set',
		answer => "$nrows|alice alice",
		after => 'RESET SESSION AUTHORIZATION'
	});
have_agents($session, 'root', 2);
test_rule($session,
	{
		name => 'RESET SESSION AUTHORIZATION',
		query => 'SELECT count(*), max(who()) FROM big',
		answer => "$nrows|root root"
	});
test_rule($session,
	{
		name => 'LOAD',
		before => "LOAD 'auto_explain'",
		query => $count,
		ran => 'session has loaded libraries',
		answer => $full
	});
$session->quit;

# An agent in which a job has executed LOAD is none for queries.
$session = session('root');
have_agents($session, 'root', 2);
$session->query_safe("SELECT sabot.run('LOAD ''auto_explain''; INSERT INTO seen (pid) SELECT pg_backend_pid()')");
my $loaded = $watch->query_safe('DELETE FROM seen RETURNING pid');
my ($on_one, $on_loaded) = (0, 0);
foreach my $try (1 .. 20)
{
	await_agents('root', 2);
	my $line = line_of($session, $count);
	$on_one++ if $line eq 'planned for 2 agents, ran on 1';
	await_agents('root', 2);
	my ($pids) = seen_by($session, 'SELECT DISTINCT pid() FROM big');
	$on_loaded++ if $line eq $on_agents || $pids =~ /\b$loaded\b/;
}
cmp_ok($on_one, '>', 0, 'one agent of two has loaded a library: queries are run on the other');
is($on_loaded, 0, '... and on no one else');
is( $watch->query_safe("SELECT count(*) FROM sabot.agent_status WHERE pid = $loaded"),
	'1', '... while it is there for jobs');
$session->quit;
$session = session('root', '-c session_preload_libraries=auto_explain');
test_rule($session,
	{
		name => 'session_preload_libraries',
		query => $count,
		ran => 'session has loaded libraries',
		answer => $full
	});
$session->quit;


# Snapshots

$alice->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; $count");
$watch->query_safe("INSERT INTO big VALUES (0, 0, 'new')");
test_rule($alice,
	{ name => 'repeatable read', query => $count, answer => $full,
		after => 'COMMIT' });
test_rule($alice,
	{ name => 'a row of another session', query => $count,
		answer => $nrows + 1 . "|$sum" });
$watch->query_safe('DELETE FROM big WHERE id = 0');
test_rule($alice, { name => 'one deleted', query => $count, answer => $full });

# The extended protocol, with a limit of rows

# rows_by_portal(QUERY, LIMIT, ...) - how many rows come with each Execute
sub rows_by_portal
{
	my ($query, @limits) = @_;
	my $socket = IO::Socket::UNIX->new(
		Peer => $node->host . '/.s.PGSQL.' . $node->port) or die $!;
	my $send = sub {
		my ($type, $body) = @_;
		$socket->syswrite($type . pack('N', 4 + length $body) . $body);
	};
	my ($buffer, @rows, $reply) = ('');
	my $await = sub {
		my $n = 0;
		for (;;)
		{
			$socket->sysread($buffer, 65536, length $buffer) or die 'closed'
			  while length $buffer < 5
			  || length $buffer < 1 + unpack('N', substr($buffer, 1, 4));
			my ($type, $length) = unpack('aN', $buffer);
			my $body = substr($buffer, 5, $length - 4);
			substr($buffer, 0, 1 + $length) = '';
			die $body if $type eq 'E';
			$n++ if $type eq 'D';
			return $n if $type =~ /[$_[0]]/;
		}
	};

	$send->('', pack('N', 196608)
		  . join("\0", 'user', 'alice', 'database', 'postgres',
			'options', $all_on_agents, '', ''));
	$await->('Z');
	$send->('P', "\0$query\0" . pack('n', 0));
	$send->('B', "\0\0" . pack('nnn', 0, 0, 0));
	foreach my $limit (@limits)
	{
		$send->('E', "\0" . pack('N', $limit));
		$send->('H', '');
		push @rows, $await->('sC');
	}
	$send->('S', '');
	$await->('Z');
	$send->('X', '');
	$socket->close;
	return "@rows";
}

my %before = counted();
is(rows_by_portal('SELECT id FROM big', 10, 20, 0),
	'10 20 ' . ($nrows - 30), 'a limit of rows: all of them come');
wait_until(sub { counted_since(%before) });
unlike(counted_since(%before), qr/distributed|native/,
	'a limit of rows: nobody helps');
%before = counted();
await_agents('alice', 2);
is(rows_by_portal('SELECT id FROM big', 0), $nrows, 'no limit: all rows come');
is(counted_since(%before), '1 distributed: large enough', 'no limit: from agents');

# What agents have to say

seen_by($alice, '\\set SHOW_CONTEXT always');
my ($out, $said) = seen_by($alice, "SELECT max(tell('notice', id, 4711)) FROM big");
is($out, $nrows, 'a notice does not end a query');
like($said, qr/NOTICE:  00000: here is 4711\nHINT:  Look\.\nCONTEXT:  .*parallel worker/s,
	'it comes from an agent');
($out, $said) = seen_by($alice, "SELECT max(tell('warning', id, 17)) FROM big");
like($said, qr/WARNING:  01ABC: beware of 17\nCONTEXT:  .*parallel worker/s, 'a warning');
seen_by($alice, 'SET client_min_messages = error');
is(join(', ', seen_by($alice, "SELECT max(tell('warning', id, 17)) FROM big")),
	"$nrows, ", 'one that nobody wants to hear');
seen_by($alice, 'RESET client_min_messages');
await_agents('alice', 2);
($out, $said) = seen_by($alice, "SELECT max(tell('error', id, 4711)) FROM big");
like($said,
	qr/ERROR:  AB123: no 4711 f\xc3\xbcr you\nDETAIL:  It is so\.\nCONTEXT:  .*parallel worker/s,
	'an error');
seen_by($alice, "SET client_encoding = 'LATIN1'");
await_agents('alice', 2);
($out, $said) = seen_by($alice, "SELECT max(tell('error', id, 4711)) FROM big");
like($said, qr/ERROR:  AB123: no 4711 f\xfcr you\n.*parallel worker/s,
	'in the encoding of the client');
seen_by($alice, 'RESET client_encoding');
test_rule($alice, { name => 'after errors', query => $count, answer => $full });

# In the middle of a query

my $slow = 'SELECT sum(slow(id)) FROM big';

# begin_slow(SESSION, QUERY) - have it begin; the pids of its agents
sub begin_slow
{
	my ($who, $query) = @_;
	my $pids;

	await_agents('alice', 2);
	$who->{stdin} .= "$query;\n";
	wait_until(
		sub {
			$who->{run}->pump_nb;
			$pids = $watch->query_safe(
				"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity"
				  . " WHERE backend_type = 'sabot agent' AND usename = 'alice'"
				  . " AND wait_event = 'PgSleep' HAVING count(*) = 2");
		}) or die 'it does not begin';
	return split / /, $pids;
}

# end_slow(SESSION) - what it returned, and said
sub end_slow
{
	my ($who) = @_;
	my ($rows) = $who->query('\\echo');
	my $errors = $who->{stderr};

	$who->{stderr} = '';
	$rows =~ s/\n+$//;
	return ($rows, $errors);
}

# goes_on(MESSAGE) - test that alice's agents are there and work
sub goes_on
{
	my ($message) = @_;

	have_agents($alice, 'alice', 2);
	is( $watch->query_safe(
			"SELECT count(*) FROM pg_locks WHERE relation = 'big'::regclass"),
		'0', "$message: no lock is left");
	test_rule($alice, { name => $message, query => $count, answer => $full });
	return;
}

my $leader = $alice->query_safe('SELECT pg_backend_pid()');
await_agents('alice', 2);
($out, $said) = seen_by($alice, "SET statement_timeout = '200ms'; $slow; RESET statement_timeout");
like($said, qr/ERROR:  57014: canceling statement due to statement timeout/, 'a timeout');
goes_on('after a timeout');

begin_slow($alice, $slow);
$watch->query_safe("SELECT pg_cancel_backend($leader)");
($out, $said) = end_slow($alice);
like($said, qr/ERROR:  57014: canceling statement due to user request/, 'the leader is canceled');
goes_on('after the leader was canceled');

my ($agent) = begin_slow($alice, $slow);
$watch->query_safe("SELECT pg_cancel_backend($agent)");
($out, $said) = end_slow($alice);
like($said, qr/ERROR:  57014: canceling statement due to user request/, 'an agent is canceled');
goes_on('after an agent was canceled');

($agent) = begin_slow($alice, $slow);
$watch->query_safe("SELECT pg_terminate_backend($agent)");
($out, $said) = end_slow($alice);
like($said, qr/(?:ERROR|FATAL):  (?:57P01|55000): (?:terminating|lost connection to parallel worker)/,
	'an agent is terminated');
goes_on('after an agent was terminated');

$session = session('alice');
$leader = $session->query_safe('SELECT pg_backend_pid()');
my @agents = begin_slow($session, $slow);
$watch->query_safe("SELECT pg_terminate_backend($leader)");
await_agents('alice', 2);
is($watch->query_safe("SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM sabot.agent_status WHERE role = 'alice'"),
	join(' ', sort { $a <=> $b } @agents), 'the leader is terminated: its agents are still there');
eval { $session->{run}->finish };
goes_on('after the leader was terminated');

# Others who want the table

# waits(PID) - until that process waits for a lock
sub waits
{
	my ($pid) = @_;

	wait_until(sub { $watch->query_safe("SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted") })
	  or die "process $pid does not wait";
	return;
}

my $third = timed(user_session($node));
my $third_pid = $third->query_safe('SET log_min_messages = fatal; SELECT pg_backend_pid()');
begin_slow($alice, $slow);
$third->{stdin} .= "ALTER TABLE big ADD w int DEFAULT 5;\n";
$third->{run}->pump_nb;
waits($third_pid);
is(join(', ', end_slow($alice)), "$sum, ", 'ALTER TABLE waits for a query');
is(join(', ', end_slow($third)), ', ', 'and comes after it');
test_rule($alice,
	{ name => 'after ALTER TABLE', query => 'SELECT sum(w), count(*) FROM big',
		answer => 5 * $nrows . "|$nrows" });
$watch->query_safe('ALTER TABLE big DROP w');
$watch->query_safe('CREATE TABLE emptied AS SELECT * FROM big; GRANT SELECT ON emptied TO alice; ANALYZE emptied');
test_rule($alice, { name => 'before TRUNCATE', query => 'SELECT count(*) FROM emptied', answer => $nrows });
$watch->query_safe("TRUNCATE emptied; INSERT INTO emptied SELECT 1, 1 FROM generate_series(1, $nrows + 1)");
test_rule($alice, { name => 'after TRUNCATE', query => 'SELECT count(*) FROM emptied', answer => $nrows + 1 });

# The third session stands in line for the table before the agents do: they
# may pass, as they are one with the leader, who has its lock.
await_agents('alice', 2);
$alice->{stdin} .= "SELECT count(*) FROM big WHERE id <> (SELECT 0 FROM pg_sleep(1));\n";
wait_until(
	sub {
		$alice->{run}->pump_nb;
		$watch->query_safe("SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'"
			  . " AND backend_type = 'client backend' AND wait_event = 'PgSleep'");
	}) or die 'it does not begin';
%before = counted();
$third->{stdin} .= "BEGIN; LOCK TABLE big IN ACCESS EXCLUSIVE MODE; COMMIT;\n";
$third->{run}->pump_nb;
waits($third_pid);
is(join(', ', end_slow($alice)), "$nrows, ", 'agents pass one who waits for their leader');
is(counted_since(%before), '1 distributed: large enough', 'they were agents');
is(join(', ', end_slow($third)), ', ', 'and who waited has its turn');

# Here nobody can pass: the agents want what the third session has.
$third->query_safe('BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE');
await_agents('alice', 2);
$alice->{stdin} .= "SELECT max(read_other()) FROM big;\n";
wait_until(
	sub {
		$alice->{run}->pump_nb;
		$watch->query_safe("SELECT count(*) FROM pg_locks WHERE relation = 'other'::regclass AND NOT granted");
	}) or die 'nobody wants the table';
$third->{stdin} .= "LOCK TABLE big IN ACCESS EXCLUSIVE MODE; COMMIT;\n";
$third->{run}->pump_nb;
my ($rows, $errors) = end_slow($third);
($out, $said) = end_slow($alice);
like("$errors$said", qr/ERROR:  40P01: deadlock detected/, 'a deadlock is found');
ok(($errors eq '' ? $said =~ /40P01/ : $out eq '1'), 'and one of the two goes on');
goes_on('after a deadlock');
$third->quit;

# No segment of shared memory is left

my $hog = timed(user_session($node));
my $hog_pid = $hog->query_safe('SELECT pg_backend_pid()');
$hog->query_safe('SET sabot.execution = local; SET max_parallel_workers = 0; SET parallel_setup_cost = 0;'
	  . ' SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET jit = off');
$hog->{stdin} .= 'SELECT '
  . join(', ', map { "(SELECT count(*) FROM part_1 WHERE id <> $_)" } 1 .. 400)
  . ", (SELECT 0 FROM pg_sleep(600));\n";
wait_until(
	sub {
		$hog->{run}->pump_nb;
		$watch->query_safe("SELECT count(*) FROM pg_stat_activity WHERE pid = $hog_pid AND wait_event = 'PgSleep'");
	}) or die 'it does not take all segments';
test_rule($alice,
	{ name => 'no segment is left', query => $count, answer => $full,
		ran => 'planned for 2 agents, ran on 0 (local: no dynamic shared memory)' });
$watch->query_safe("SELECT pg_cancel_backend($hog_pid)");
end_slow($hog);
$hog->quit;
goes_on('after there are segments again');

# More leaders than agents

%before = counted();
my $script = $node->basedir . '/leader.sql';
append_to_file($script, "$count;\nSELECT max(tell('none', id, 1)) FROM big;\n" x 25);
my @leaders = map {
	local $ENV{PGOPTIONS} = $all_on_agents;
	my $answers = '';
	my @run = (
		[ $node->installed_command('psql'), '-XAtq', '-U', 'alice', '-f', $script,
			'-d', $node->connstr('postgres') ],
		'>', \$answers, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	{ run => IPC::Run::start(@run), answers => \$answers };
} 1 .. 5;
$_->{run}->finish foreach @leaders;
is(${ $_->{answers} }, "$full\n$nrows\n" x 25, 'one of many leaders') foreach @leaders;
my $counted = counted_since(%before);
like($counted, qr/distributed: large enough/, 'some of their queries have agents');
like($counted, qr/native: no idle agent/, 'and some have none');

# As many large queries as there are processors

my $auto = 'SET sabot.execution = auto; SET sabot.distribute_threshold = 100';
my ($processors) = run_command([ 'getconf', '_NPROCESSORS_ONLN' ]);
SKIP:
{
	skip 'too many processors to keep them busy', 9 if $processors > 12;
	my @busy = map { session('alice') } 2 .. ($processors > 1 ? $processors : 2);

	foreach my $busy (@busy)
	{
		$busy->query_safe($auto);
		$busy->{stdin} .= "SELECT count(*) FROM big WHERE id <> (SELECT 0 FROM pg_sleep(600));\n";
	}
	my $asleep = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice' AND wait_event = 'PgSleep'";
	wait_until(
		sub {
			$_->{run}->pump_nb foreach @busy;
			$watch->query_safe($asleep) == @busy;
		}) or die 'they are not busy';
	test_rule($alice,
		{
			name => 'no processor is idle',
			before => $auto,
			query => $count,
			ran => 'planned for 2 agents, ran on 0 (local: no idle processor)',
			answer => $full
		});
	test_rule($alice,
		{
			name => 'which does not matter to distributed',
			before => 'SET sabot.execution = distributed',
			query => $count,
			answer => $full
		});
	$watch->query_safe("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'alice' AND wait_event = 'PgSleep'");
	foreach my $busy (@busy)
	{
		end_slow($busy);
		$busy->quit;
	}
	test_rule($alice,
		{
			name => 'processors are idle again',
			before => 'SET sabot.execution = auto',
			query => $count,
			answer => $full,
			after => 'RESET sabot.execution; RESET sabot.distribute_threshold'
		});
}

# Whose agents

# pids(ROLE) - those of its agents, in order
sub pids
{
	my ($role) = @_;

	return $watch->query_safe("SELECT string_agg(pid::text, ' ' ORDER BY pid)"
		  . " FROM sabot.agent_status WHERE role = '$role' AND state = 'idle'");
}

my $carol = session('carol');
my $places = $watch->query_safe('SELECT slots - agents FROM sabot.pool_status');
is($places, '2', 'there are so many free places');
$watch->query_safe("SELECT sabot.run('SELECT 1')");
wait_until(sub { pids($watch->query_safe('SELECT current_user')) });
my $evictions = $watch->query_safe('SELECT evictions FROM sabot.pool_status');
is(line_of($carol, $count), 'planned for 2 agents, ran on 0 (native: no idle agent)',
	'agents of others are not for us');
await_agents('carol', 1);
line_of($carol, $count) foreach 1 .. 5;
is( $watch->query_safe('SELECT agents, evictions FROM sabot.pool_status'),
	"6|$evictions", 'nobody gives way for agents that only might be of use');
is( $watch->query_safe("SELECT count(*) FROM sabot.agent_status WHERE role = 'carol'"),
	'1', 'there was room for one');
set_conf($node, 'sabot.pool_size' => 8);
have_agents($carol, 'carol', 2);
is( $watch->query_safe("SELECT count(*) FROM sabot.agent_status WHERE role = 'carol'"),
	'2', 'then for as many as a query may have');
my $pids = pids('carol');
foreach my $role ('carol', 'alice')
{
	seen_by($carol, "SET ROLE $role");
	await_agents('carol', 2);
	($out) = seen_by($carol, 'SELECT max(who()), min(pid()), max(pid()) FROM big');
	my ($who, @who) = split /\|/, $out;
	is($who, "$role carol", "as $role: who it is in agents");
	like($pids, qr/\b$_\b/, "as $role: agents of the role that logged in")
	  foreach @who;
}
$carol->quit;

# What a query leaves behind in its agent, and what a job does

my $state = <<'SQL';
INSERT INTO seen (pid, state) SELECT pg_backend_pid(), concat_ws(E'\n', current_user, session_user, coalesce(current_setting('my.own', true), ''),
	pg_my_temp_schema()::text, (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors),
	(SELECT string_agg(concat_ws(' ', locktype, relation::regclass, mode), ', ' ORDER BY locktype, relation::regclass::text, mode)
		FROM pg_locks WHERE pid = pg_backend_pid()),
	(SELECT string_agg(name || '=' || setting, E'\n' ORDER BY name) FROM pg_settings WHERE name NOT LIKE 'plpgsql.%'))
SQL
# A pool of one: she has one agent, whatever she would like.
set_conf($node, 'sabot.pool_size' => 1);
my $dora = session('dora');
# A job has some settings of who submits it, so that is somebody else.
my $plain = session('dora');
# note_state() - have a job do that; the pid of its agent
sub note_state
{
	$plain->query_safe("SELECT sabot.run(\$job\$$state\$job\$)");
	await_agents('dora', 1);
	return $watch->query_safe('SELECT pid FROM seen ORDER BY n DESC LIMIT 1');
}
note_state();
poll($node, "SELECT string_agg(role, ' ') FROM sabot.agent_status", 'dora', 'there is one agent');
$agent = note_state();
$dora->query_safe("SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; SET search_path = two, public; SET work_mem = '3MB';"
	  . " SET my.own = 'hers'; SET statement_timeout = '1h'; SET client_encoding = 'LATIN1'; SET application_name = 'hers';"
	  . " SET row_security = off; SET extra_float_digits = 0; SET plpgsql.check_asserts = off;"
	  . ' SET default_transaction_isolation = \'repeatable read\'; SET transform_null_equals = on; PREPARE hers AS SELECT 1');
await_agents('dora', 1);
# Its agent has not heard of PL/pgSQL yet, and its settings count all the same.
is(join(', ', seen_by($dora, "DO 'BEGIN END'; SELECT max(doubt(id)) FROM big")),
	"$nrows, ", 'a setting of a library that the agent has yet to load');
await_agents('dora', 1);
is($dora->query_safe('SELECT max(pid()), max(call_which()), max(setting_of(\'my.own\')) FROM big'),
	"$agent|two|hers", 'a query on the agent of jobs');
await_agents('dora', 1);
seen_by($dora, 'SELECT max(tell(\'error\', id, 9)) FROM big');
await_agents('dora', 1);
is($dora->query_safe('SELECT max(pid()) FROM big'), $agent, 'and one after an error');
is(note_state(), $agent, 'then a job, on the same one');
is( $watch->query_safe('SELECT a.line, b.line FROM'
		  . ' (SELECT l.* FROM (SELECT state FROM seen ORDER BY n DESC LIMIT 1) AS s, string_to_table(state, E\'\n\') WITH ORDINALITY AS l(line, n)) AS a'
		  . ' FULL JOIN'
		  . ' (SELECT l.* FROM (SELECT state FROM seen ORDER BY n OFFSET 1 LIMIT 1) AS s, string_to_table(state, E\'\n\') WITH ORDINALITY AS l(line, n)) AS b'
		  . ' USING (n) WHERE a.line IS DISTINCT FROM b.line'),
	'', 'finds nothing of the query');
$dora->query_safe('RESET ALL; DEALLOCATE ALL');
$dora->query_safe("SELECT sabot.run(\$job\$SET DateStyle = 'German'; SET search_path = two, public; SET my.own = 'the job''s';"
	  . ' PREPARE q AS SELECT 1; CREATE TEMP TABLE big AS SELECT 99 AS id; SELECT pg_advisory_lock(1); SET work_mem = \'5MB\'$job$)');
await_agents('dora', 1);
is( $dora->query_safe('SELECT max(pid()), max(setting_of(\'DateStyle\')), max(setting_of(\'search_path\')), max(setting_of(\'work_mem\')), coalesce(max(setting_of(\'my.own\')), \'\') FROM big'),
	"$agent|ISO, MDY|\"\$user\", public|4MB|", 'after a job, a query finds nothing of it');
await_agents('dora', 1);
is($dora->query_safe('SELECT max(id), max(pid()) FROM big'), "$nrows|$agent", 'nor its tables');
is($watch->query_safe("SELECT count(*) FROM pg_locks WHERE pid = $agent AND locktype <> 'virtualxid'"),
	'0', 'nor are its locks there');

# Many queries on one agent

# done_by(PID) - queries that agent has done, and the memory it uses then
sub done_by
{
	my ($pid) = @_;

	await_agents('dora', 1);
	return split /\|/, $watch->query_safe("SELECT queries_done, memory_bytes FROM sabot.agent_status WHERE pid = $pid");
}

my $many = $long ? 30000 : 10000;
my $some = <<'SQL';
DO $$
DECLARE n bigint;
BEGIN
	PERFORM set_config('parallel_setup_cost', '1e9', true);
	FOR i IN 1 .. 500 LOOP
		EXECUTE 'SELECT count(*) FROM big WHERE id <> ' || i INTO n;
		PERFORM v, count(*) FROM big GROUP BY v ORDER BY v;
		PERFORM set_config('work_mem', (64 + i % 7) || 'kB', true) WHERE i % 50 = 0;
		BEGIN
			PERFORM sum(1 / (id - 7)) FROM big WHERE i % 25 = 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	END LOOP;
END $$
SQL
my $until = time() + $PostgreSQL::Test::Utils::timeout_default;
my ($begin) = done_by($agent);
my @memory;
# Caches grow in steps, the last of which may come late: then go on for a while.
my $is_flat = sub { $memory[-1] == $memory[ @memory / 2 ] };
for (my $done = $begin;
	($done < $begin + $many || ($done < $begin + 2 * $many && !$is_flat->()))
	&& time() < $until;)
{
	$dora->query_safe($some);
	($done, $memory[@memory]) = done_by($agent);
}
cmp_ok((done_by($agent))[0] - $begin, '>=', $many, 'many queries on one agent');
is($memory[-1], $memory[ @memory / 2 ], 'do not need more and more memory')
  or diag("bytes: @memory");

# An agent that was told so much that it has to forget all it knows

kill('STOP', $agent) or die $!;
$watch->query_safe('DO $$ BEGIN FOR i IN 1 .. 2000 LOOP ALTER TABLE other ALTER i SET STATISTICS 1; ALTER TABLE other ALTER i SET STATISTICS 2; COMMIT; END LOOP; END $$');
$watch->query_safe("ALTER TABLE part ADD w int DEFAULT 3; CREATE OR REPLACE FUNCTION two.which() RETURNS text LANGUAGE sql AS \$\$ SELECT 'new' \$\$");
kill('CONT', $agent) or die $!;
$leader = $dora->query_safe('SET search_path = two, public; SELECT pg_backend_pid()');
$out = wait_until(
	sub {
		my ($answer, $pid) = $dora->query_safe('SELECT sum(w) || max(call_which()), max(pid()) FROM part') =~ /(.*)\|(.*)/;
		return $answer if $answer ne '18000new' || $pid == $agent
			|| $watch->query_safe("SELECT count(*) FROM sabot.agent_status WHERE pid = $pid") > 0;
	});
is($out, '18000new', 'an agent that missed a lot, or the one in its place');

# Whatever was done to them, they are as they were

poll($node, "SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'", '0', 'all agents are idle');
$_->quit foreach $dora, $plain;
$alice->quit;
$watch->quit;
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|leak/,
	'the log has no complaint');
$node->stop;
done_testing();
