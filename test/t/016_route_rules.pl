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
	IF id = at AND level = 'error' THEN RAISE EXCEPTION 'no % f\\u00fcr you', id USING ERRCODE = 'AB123', DETAIL = 'It is so.'; END IF;
	RETURN id;
END \$\$;
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
$session = session('root', '-c session_preload_libraries=auto_explain');
test_rule($session,
	{
		name => 'session_preload_libraries',
		query => $count,
		ran => 'session has loaded libraries',
		answer => $full
	});
$session->quit;

$alice->quit;
$watch->quit;
$node->stop;
done_testing();
