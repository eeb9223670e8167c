--
-- route: where queries run
--
-- A view runs the functions below it with its reader's rights, so each of
-- them shows only what its caller may see; grant_usage() grants both.
--

CREATE FUNCTION route_counters(OUT database name, OUT route text,
	OUT reason text, OUT queries bigint, OUT start_p50_us double precision,
	OUT start_p95_us double precision, OUT meant boolean)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_route_counters'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION route_counters() IS
	'queries of the databases the caller may see, and whether they were planned for agents, for sabot.route_stat and sabot.check()';

REVOKE ALL ON FUNCTION route_counters() FROM PUBLIC;

CREATE VIEW route_stat AS
	SELECT database, route, reason, queries, start_p50_us, start_p95_us
	FROM route_counters();

COMMENT ON VIEW route_stat IS
	'queries by where they ran and why, since server start: of this database, of all databases for pg_monitor';
COMMENT ON COLUMN route_stat.database IS
	'NULL for databases that are gone, and for those beyond the first 63';
COMMENT ON COLUMN route_stat.route IS
	'local, native (with workers that PostgreSQL forked for it) or distributed';
COMMENT ON COLUMN route_stat.reason IS
	'why it ran there, as EXPLAIN says it';
COMMENT ON COLUMN route_stat.queries IS
	'a session adds its local queries within 100 ms while it is busy, and when it ends';
COMMENT ON COLUMN route_stat.start_p50_us IS
	'median of the time until agents had their work, within 4 %';
COMMENT ON COLUMN route_stat.start_p95_us IS
	'95th percentile of the time until agents had their work, within 4 %';

CREATE FUNCTION route(query text) RETURNS TABLE (route text,
	largest_relation regclass, estimated_rows bigint, threshold bigint,
	agents integer, reason text)
	AS 'MODULE_PATHNAME', 'sabot_route'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 1 COST 1000;

COMMENT ON FUNCTION route(text) IS
	'where a SELECT would run, and why; it is planned and not executed';

REVOKE ALL ON FUNCTION route(text) FROM PUBLIC;

CREATE FUNCTION processors() RETURNS integer
	AS 'MODULE_PATHNAME', 'sabot_processors'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION processors() IS
	'processors of the server''s machine, NULL if unknown; for sabot.check()';

REVOKE ALL ON FUNCTION processors() FROM PUBLIC;

CREATE FUNCTION route_findings() RETURNS TABLE (place integer, subject text,
	ok boolean, detail text, advice text)
	LANGUAGE SQL VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 3
BEGIN ATOMIC
	WITH s AS MATERIALIZED (
		SELECT pool_size, processors() AS processors,
			current_setting('max_parallel_workers')::integer AS workers,
			current_setting('max_parallel_workers_per_gather')::integer
				AS per_gather,
			current_setting('sabot.query_agents')::integer AS query_agents,
			current_setting('sabot.execution') AS execution
		FROM pool_counters()),
	meant AS MATERIALIZED (
		SELECT COALESCE(sum(queries), 0) AS queries,
			COALESCE(sum(queries) FILTER (WHERE route = 'distributed'), 0)
				AS distributed,
			(array_agg(reason ORDER BY queries DESC)
				FILTER (WHERE route <> 'distributed'))[1] AS most
		FROM route_counters()
		WHERE database = current_database() AND meant)
	SELECT 12, 'parallel limits',
		execution = 'local' OR LEAST(workers, per_gather, query_agents) > 0,
		CASE WHEN execution = 'local' THEN 'sabot.execution is local'
			ELSE format('max_parallel_workers is %s, max_parallel_workers_per_gather %s, sabot.query_agents %s',
				workers, per_gather, query_agents)
		END,
		format('Set %s to at least 1, or no query runs on agents.',
			concat_ws(' and ',
				CASE WHEN workers = 0 THEN 'max_parallel_workers' END,
				CASE WHEN per_gather = 0
					THEN 'max_parallel_workers_per_gather' END,
				CASE WHEN query_agents = 0 THEN 'sabot.query_agents' END))
	FROM s
	UNION ALL
	SELECT 13, 'query agents',
		query_agents <= LEAST(pool_size, processors),
		format('sabot.query_agents is %s, sabot.pool_size %s%s',
			query_agents, pool_size, ', processors ' || processors),
		CASE WHEN query_agents > pool_size
			THEN 'Raise sabot.pool_size or lower sabot.query_agents: no query finds that many.'
			ELSE 'Lower sabot.query_agents: more processes than processors make no query faster.' END
	FROM s
	UNION ALL
	SELECT 14, 'distributed queries',
		queries < 20 OR distributed * 2 >= queries,
		format('of %s queries planned for agents %s ran on them%s', queries,
			distributed, '; the most frequent reason for others: ' || most),
		CASE most
			WHEN 'no idle agent'
			THEN 'Raise sabot.pool_size, or set sabot.keep_agents for the role: agents are busy or not started yet.'
			WHEN 'no dynamic shared memory'
			THEN 'Raise min_dynamic_shared_memory or max_connections, or look for what uses so many segments.'
			ELSE 'These queries cannot gain from agents: set sabot.execution to local for the role, or change what stands in the way.' END
	FROM meant;
END;

COMMENT ON FUNCTION route_findings() IS
	'what sabot.check() says of routing; advice is for where something is not ok';

REVOKE ALL ON FUNCTION route_findings() FROM PUBLIC;
