-- Routing: which queries are planned for agents, and what is said about it.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
CREATE SCHEMA route;
SET search_path = route;
CREATE TABLE small AS SELECT g AS id, g % 10 AS v FROM generate_series(1, 9999) AS g;
CREATE TABLE big AS SELECT g AS id, g % 10 AS v FROM generate_series(1, 10000) AS g;
CREATE UNIQUE INDEX ON big (id);
CREATE TABLE parts (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (4001);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (4001) TO (20001) PARTITION BY RANGE (id);
CREATE TABLE parts_2_1 PARTITION OF parts_2 FOR VALUES FROM (4001) TO (8001);
CREATE TABLE parts_2_2 PARTITION OF parts_2 FOR VALUES FROM (8001) TO (20001);
INSERT INTO parts SELECT * FROM big;
CREATE TABLE parent AS SELECT * FROM big WHERE id <= 5000;
CREATE TABLE child () INHERITS (parent);
INSERT INTO child SELECT * FROM big WHERE id > 5000;
ANALYZE small, big, parts, parent, child;
-- What sabot.route() says, for many at once.
CREATE FUNCTION pg_temp.routes(VARIADIC queries text[])
	RETURNS TABLE (query text, route text, largest_relation regclass, estimated_rows bigint, threshold bigint, agents int, reason text)
	LANGUAGE sql AS $$ SELECT q.query, r.* FROM unnest(queries) WITH ORDINALITY AS q(query, n), sabot.route(q.query) AS r ORDER BY q.n $$;
-- EXPLAIN's own line: of the text, or of a structured format by its place there.
CREATE FUNCTION pg_temp.line(query text, options text = '') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE l text;
BEGIN
	FOR l IN EXECUTE format('EXPLAIN (COSTS OFF%s) %s', options, query) LOOP
		IF l LIKE 'Sabot:%' THEN RETURN NEXT l; END IF;
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.explained(query text, options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE t text;
BEGIN
	EXECUTE format('EXPLAIN (COSTS OFF, %s) %s', options, query) INTO t;
	RETURN t;
END $$;
-- The threshold is that of the largest relation, before restriction.
SELECT * FROM pg_temp.routes('SELECT count(*) FROM small', 'SELECT count(*) FROM big', 'SELECT count(*) FROM big WHERE v = 3 AND id % 7 = 1',
	'SELECT count(*) FROM small JOIN big USING (id)', 'SELECT 1', 'SELECT count(*) FROM generate_series(1, 100000)', 'VALUES (1)');
EXPLAIN (COSTS OFF) SELECT count(*) FROM small;
EXPLAIN (COSTS OFF) SELECT count(*) FROM big;
-- Partitions are summed, as far as they are read; the arms of a UNION ALL are not.
SELECT * FROM pg_temp.routes('SELECT count(*) FROM parts', 'SELECT count(*) FROM parts_2', 'SELECT count(*) FROM parts WHERE id > 4000',
	'SELECT count(*) FROM parent', 'SELECT count(*) FROM ONLY parent',
	'SELECT count(*) FROM (SELECT * FROM small UNION ALL SELECT * FROM parent UNION ALL SELECT * FROM parts_2) AS u',
	'SELECT count(*) FROM (SELECT * FROM small UNION ALL SELECT * FROM parts) AS u');
-- Everywhere in a query.
CREATE VIEW above AS SELECT * FROM big WHERE v > 5;
SELECT * FROM pg_temp.routes('SELECT count(*) FROM above', 'SELECT (SELECT max(v) FROM big)', 'WITH x AS MATERIALIZED (SELECT sum(v) FROM big) SELECT * FROM x',
	'SELECT * FROM (SELECT count(*) FROM big) AS s, (SELECT count(*) FROM small) AS t');
-- Modes and the threshold.
SET sabot.execution = distributed;
SELECT * FROM pg_temp.routes('SELECT count(*) FROM small', 'SELECT (SELECT count(*) FROM small) FROM big LIMIT 1', 'SELECT 1');
SET sabot.execution = local;
SELECT * FROM pg_temp.routes('SELECT count(*) FROM big');
EXPLAIN (COSTS OFF) SELECT count(*) FROM big;
RESET sabot.execution;
SET sabot.distribute_threshold = 10001;
SELECT * FROM pg_temp.routes('SELECT count(*) FROM big');
SET sabot.distribute_threshold = 0;
SELECT * FROM pg_temp.routes('SELECT count(*) FROM small', 'SELECT 1');
RESET sabot.distribute_threshold;
-- What stays local, and why.
CREATE FUNCTION unsafe(int) RETURNS int LANGUAGE sql VOLATILE PARALLEL UNSAFE AS 'SELECT $1';
SELECT * FROM pg_temp.routes('SELECT * FROM big WHERE id = 17', 'SELECT * FROM big', 'SELECT * FROM big FOR UPDATE',
	'WITH d AS (DELETE FROM small RETURNING 1) SELECT count(*) FROM big', 'SELECT count(*) FROM big WHERE unsafe(id) = 1');
SELECT pg_temp.line('DELETE FROM big WHERE v = 1'), pg_temp.line('DECLARE c CURSOR FOR SELECT count(*) FROM big'),
	pg_temp.line('CREATE TABLE x AS SELECT count(*) FROM big');
SELECT pg_temp.line('INSERT INTO small VALUES (1)') AS nothing;
CREATE FUNCTION pg_temp.with_setting(name text, value text) RETURNS TABLE (agents int, route text, reason text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config($1, $2, true);
	RETURN QUERY SELECT r.agents, r.route, r.reason FROM sabot.route('SELECT count(*) FROM big') AS r;
	PERFORM set_config($1, (SELECT p.reset_val FROM pg_settings AS p WHERE p.name = $1), true);
END $$;
SELECT s.*, r.* FROM (VALUES ('max_parallel_workers', '0'), ('max_parallel_workers', '1'), ('max_parallel_workers_per_gather', '0'),
		('max_parallel_workers_per_gather', '1'), ('max_parallel_workers_per_gather', '8'), ('sabot.query_agents', '0'), ('sabot.query_agents', '1')) AS s(setting, value),
	pg_temp.with_setting(s.setting, s.value) AS r;
-- EXPLAIN in all formats: the line is the query's, and the rest is as it should be.
SELECT pg_temp.explained('SELECT count(*) FROM big', 'FORMAT JSON')::json->0->>'Sabot' AS json;
SELECT json_array_length(pg_temp.explained('SELECT count(*) FROM big', 'FORMAT JSON, SUMMARY')::json) AS length,
	(SELECT array_agg(k) FROM json_object_keys(pg_temp.explained('SELECT count(*) FROM big', 'FORMAT JSON')::json->0) AS k) AS keys;
SELECT pg_temp.explained('SELECT count(*) FROM big', 'FORMAT XML') ~ '\n    </Plan>\n    <Sabot>distributed over 2 agents \(largest relation 10000 rows, threshold 10000\)</Sabot>\n  </Query>\n</explain>$' AS xml;
SELECT pg_temp.explained('SELECT count(*) FROM big', 'FORMAT YAML') ~ '^- Plan: *\n    .*\n  Sabot: "distributed over 2 agents \(largest relation 10000 rows, threshold 10000\)"$' AS yaml;
CREATE RULE also AS ON INSERT TO small DO ALSO SELECT count(*) FROM big;
SELECT j->0->'Sabot' IS NULL AS first, j->1->>'Sabot' AS second FROM pg_temp.explained('INSERT INTO small VALUES (1)', 'FORMAT JSON') AS t, CAST(t AS json) AS j;
SELECT regexp_count(t, '  <Query>\n') AS begun, regexp_count(t, '  </Query>\n') AS ended, regexp_count(t, '    <Sabot>') AS sabot
	FROM pg_temp.explained('INSERT INTO small VALUES (1)', 'FORMAT XML') AS t;
SELECT regexp_count(t, '(^|\n)- Plan: ') AS begun, regexp_count(t, '\n  Sabot: ') AS sabot FROM pg_temp.explained('INSERT INTO small VALUES (1)', 'FORMAT YAML') AS t;
DROP RULE also ON small;
-- VERBOSE has the line for all.
SELECT pg_temp.line('SELECT count(*) FROM small', ', VERBOSE'), pg_temp.line('SELECT 1', ', VERBOSE'), pg_temp.line('SELECT count(*) FROM big', ', VERBOSE');
SET sabot.execution = local;
SELECT pg_temp.line('SELECT count(*) FROM big') AS nothing;
SELECT pg_temp.line('SELECT count(*) FROM big', ', VERBOSE');
RESET sabot.execution;
SET sabot.query_agents = 1;
SELECT pg_temp.line('SELECT count(*) FROM big');
RESET sabot.query_agents;
-- Plans that are kept: each is run right, whatever was decided about it.
SET plan_cache_mode = force_generic_plan;
PREPARE q(int) AS SELECT count(*), sum(v) FROM big WHERE id > $1;
EXECUTE q(0);
EXECUTE q(5000);
SET sabot.execution = local;
EXECUTE q(0);
RESET sabot.execution;
ALTER TABLE big ADD COLUMN w int;
EXECUTE q(0);
DEALLOCATE q;
RESET plan_cache_mode;
CREATE FUNCTION counted(low int) RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM big WHERE id >= low); END $$;
SELECT counted(g) FROM generate_series(1, 8) AS g;
BEGIN;
DECLARE c CURSOR FOR SELECT count(*) FROM big;
FETCH c;
COMMIT;
-- A planner run within another one: its own decision, with the user's costs.
CREATE FUNCTION plan_of(query text, OUT lines text) LANGUAGE plpgsql VOLATILE PARALLEL SAFE SET sabot.execution = auto AS $$
DECLARE l text;
BEGIN
	lines := '';
	FOR l IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		lines := lines || l || E'\n';
	END LOOP;
END $$;
CREATE FUNCTION nested(query text) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RAISE INFO '%', plan_of(query);
	RETURN 0;
END $$;
SET sabot.execution = distributed;
SELECT lines FROM plan_of('SELECT count(*) FROM route.big WHERE id > route.nested(''SELECT count(*) FROM route.small'')');
EXPLAIN (COSTS OFF) SELECT count(*) FROM small WHERE id > nested('SELECT count(*) FROM small');
EXPLAIN (COSTS OFF) SELECT count(*) FROM small WHERE id > nested('SELECT count(*) FROM big');
-- The settings that were changed are the user's again, also after an error and whatever a function has done to them.
CREATE VIEW costs AS SELECT name, setting FROM pg_settings
	WHERE name IN ('parallel_setup_cost', 'min_parallel_table_scan_size', 'min_parallel_index_scan_size', 'max_parallel_workers_per_gather');
SELECT * FROM costs ORDER BY name;
CREATE FUNCTION fails(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN RETURN $1 / 0; END $$;
SELECT count(*) FROM small WHERE id > fails(1);
CREATE FUNCTION fails_with_cost(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET parallel_setup_cost = 7 SET min_parallel_table_scan_size = 3 AS $$ BEGIN RETURN $1 / 0; END $$;
SELECT count(*) FROM small WHERE id > fails_with_cost(1);
SELECT * FROM costs ORDER BY name;
CREATE FUNCTION sets_cost(value text) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN PERFORM set_config('parallel_setup_cost', value, false); RETURN 0; END $$;
BEGIN;
SELECT count(*) FROM small WHERE id > sets_cost('9');
SHOW parallel_setup_cost;
ROLLBACK;
SHOW parallel_setup_cost;
SELECT count(*) FROM small WHERE id > sets_cost('9');
SELECT * FROM costs ORDER BY name;
RESET parallel_setup_cost;
CREATE FUNCTION catches(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN (SELECT count(*) FROM small WHERE id > fails($1));
EXCEPTION WHEN division_by_zero THEN
	RETURN 0;
END $$;
EXPLAIN (COSTS OFF) SELECT count(*) FROM small WHERE id > catches(1);
SELECT * FROM costs ORDER BY name;
RESET sabot.execution;
-- sabot.log_routing logs each decision with its estimate.
SET client_min_messages = log;
SET sabot.log_routing = on;
EXPLAIN (COSTS OFF) SELECT count(*) FROM big WHERE v = 1;
EXPLAIN (COSTS OFF) SELECT count(*) FROM small WHERE v = 1;
SELECT 1 AS one;
SET sabot.execution = local;
EXPLAIN (COSTS OFF) SELECT count(*) FROM big WHERE v = 1;
RESET sabot.execution;
SET sabot.log_routing = off;
RESET client_min_messages;
-- Without the extension nothing is different; with it everything is again.
DROP FUNCTION pg_temp.outcome, pg_temp.finish;
BEGIN;
DROP EXTENSION sabot;
EXPLAIN (COSTS OFF) SELECT count(*) FROM big;
SELECT pg_temp.line('SELECT count(*) FROM big', ', VERBOSE');
ROLLBACK;
SELECT pg_temp.line('SELECT count(*) FROM big');
-- sabot.route() takes one SELECT and runs nothing.
SELECT q, t.* FROM unnest(ARRAY['', 'SELECT 1; SELECT 2', 'DELETE FROM small', 'VACUUM small', 'SELECT 1 INTO x', 'EXPLAIN SELECT 1', 'SELEC 1', 'SELECT nope', 'SELECT $1']) AS q,
	pg_temp.try(format('SELECT * FROM sabot.route(%L)', q)) AS t;
SELECT * FROM sabot.route('SELECT nope');
SELECT * FROM sabot.route('SELECT 1 / (v - v) FROM big');
SELECT count(*) AS none FROM sabot.route(NULL);
-- Who may ask; queries themselves need no grant.
CREATE ROLE regress_route;
GRANT USAGE ON SCHEMA route TO regress_route;
GRANT SELECT ON big TO regress_route;
SET ROLE regress_route;
SELECT pg_temp.line('SELECT count(*) FROM route.big');
SELECT t.code, t.message FROM unnest(ARRAY['sabot.route(''SELECT 1'')', 'sabot.route_stat', 'sabot.route_counters()']) AS q, pg_temp.try('SELECT * FROM ' || q) AS t;
RESET ROLE;
SELECT sabot.grant_usage('regress_route');
SET ROLE regress_route;
SELECT * FROM sabot.route('SELECT count(*) FROM route.big');
SELECT count(*) FILTER (WHERE database <> current_database()) AS others FROM sabot.route_stat;
SELECT count(*) AS findings FROM sabot.check() WHERE subject IN ('parallel limits', 'query agents', 'distributed queries');
RESET ROLE;
SELECT sabot.revoke_usage('regress_route');
-- What sabot.check() finds.
SELECT subject, ok, detail, advice FROM sabot.check() WHERE subject = 'parallel limits';
SET max_parallel_workers = 0;
SET sabot.query_agents = 0;
SELECT subject, ok, detail, advice FROM sabot.check() WHERE subject = 'parallel limits';
SET sabot.execution = local;
SELECT subject, ok, detail, advice FROM sabot.check() WHERE subject = 'parallel limits';
RESET sabot.execution;
RESET max_parallel_workers;
SET sabot.query_agents = 1000;
SELECT subject, ok, advice FROM sabot.check() WHERE subject = 'query agents';
RESET sabot.query_agents;
DROP OWNED BY regress_route;
DROP ROLE regress_route;
\set VERBOSITY terse
DROP SCHEMA route CASCADE;
