--
-- pool: the warm agents
--
-- A view runs the functions below it with its reader's rights, so each of
-- them shows only what its caller may see; grant_usage() grants both.
--

CREATE FUNCTION agent_slots(OUT slot integer, OUT pid integer,
	OUT database name, OUT role name, OUT state text, OUT job_id bigint,
	OUT since timestamptz, OUT jobs_done bigint, OUT queries_done bigint,
	OUT memory_bytes bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_agent_slots'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION agent_slots() IS
	'agents the caller may see, for sabot.agent_status';

REVOKE ALL ON FUNCTION agent_slots() FROM PUBLIC;

CREATE VIEW agent_status AS
	SELECT slot, pid, database, role, state, job_id, since, jobs_done,
		queries_done, memory_bytes
	FROM agent_slots();

COMMENT ON VIEW agent_status IS
	'one row per agent: of roles whose privileges one has, of all roles for pg_monitor';
COMMENT ON COLUMN agent_status.state IS
	'starting, idle, busy, waiting (its job waits for another job) or stopping';
COMMENT ON COLUMN agent_status.job_id IS
	'job it runs, NULL if none; sabot.run() is none';
COMMENT ON COLUMN agent_status.since IS 'when it entered its state';
COMMENT ON COLUMN agent_status.memory_bytes IS
	'memory in use after its last job';

CREATE FUNCTION pool_counters(OUT agents integer, OUT busy integer,
	OUT idle integer, OUT starting integer, OUT slots integer,
	OUT waiting_pairs integer, OUT starts bigint, OUT evictions bigint,
	OUT losses bigint, OUT waiting integer, OUT capacity integer,
	OUT pool_size integer, OUT no_worker_slot boolean,
	OUT launcher_running boolean, OUT preloaded boolean, OUT enabled boolean,
	OUT waiting_since timestamptz)
	RETURNS record
	AS 'MODULE_PATHNAME', 'sabot_pool_counters'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION pool_counters() IS
	'totals of the pool and what they depend on, for sabot.pool_status';

REVOKE ALL ON FUNCTION pool_counters() FROM PUBLIC;

CREATE VIEW pool_status AS
	SELECT agents, busy, idle, starting, slots, waiting_pairs, starts,
		evictions, losses, waiting, capacity
	FROM pool_counters();

COMMENT ON VIEW pool_status IS
	'the whole pool in one row; counters are since server start';
COMMENT ON COLUMN pool_status.slots IS
	'agents allowed now: sabot.pool_size, as far as max_worker_processes has room, and one more for each agent that waits';
COMMENT ON COLUMN pool_status.waiting_pairs IS
	'(database, role) pairs that have work and no agent';
COMMENT ON COLUMN pool_status.evictions IS
	'agents that had to leave for another pair';
COMMENT ON COLUMN pool_status.losses IS 'agents that died at work';
COMMENT ON COLUMN pool_status.waiting IS
	'busy agents whose job waits for another job';
COMMENT ON COLUMN pool_status.capacity IS
	'agents that max_worker_processes has room for';

CREATE FUNCTION pair_failures(OUT database name, OUT role name,
	OUT failures integer, OUT retry_at timestamptz, OUT sqlstate text,
	OUT error text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_pair_failures'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 1;

COMMENT ON FUNCTION pair_failures() IS
	'(database, role) pairs whose agents cannot start, and why, for sabot.check()';

REVOKE ALL ON FUNCTION pair_failures() FROM PUBLIC;

CREATE FUNCTION profile_rows(OUT component text,
	OUT first_ms double precision, OUT count bigint,
	OUT mean_ms double precision, OUT p50_ms double precision,
	OUT p95_ms double precision, OUT sum_ms double precision)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_profile_rows'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION profile_rows() IS
	'time spent in each component of jobs and queries, for sabot.overhead_profile';

REVOKE ALL ON FUNCTION profile_rows() FROM PUBLIC;

CREATE VIEW overhead_profile AS
	SELECT component, first_ms, count, mean_ms, p50_ms, p95_ms,
		CASE WHEN component LIKE 'query %' THEN
			sum_ms / NULLIF(max(sum_ms) FILTER
							(WHERE component = 'query total') OVER (), 0)
		WHEN component <> 'agent start' THEN
			sum_ms / NULLIF(max(sum_ms) FILTER (WHERE component = 'total')
							OVER (), 0)
		END AS share
	FROM profile_rows();

COMMENT ON VIEW overhead_profile IS
	'where time went, in all databases since server start: submission, dispatch, execution and completion of jobs add up to total; set-up, launch and execution of queries that agents took part in to query total';
COMMENT ON COLUMN overhead_profile.first_ms IS
	'the first one since server start: in a cold pool';
COMMENT ON COLUMN overhead_profile.p50_ms IS 'median, within 4 %';
COMMENT ON COLUMN overhead_profile.p95_ms IS '95th percentile, within 4 %';
COMMENT ON COLUMN overhead_profile.share IS
	'share of the total, or of query total; NULL for what is a part of neither';

CREATE FUNCTION start_agents(n integer DEFAULT NULL) RETURNS integer
	AS 'MODULE_PATHNAME', 'sabot_start_agents'
	LANGUAGE C CALLED ON NULL INPUT VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION start_agents(integer) IS
	'start agents for oneself in this database, up to n or as many as the pool allows; returns how many there are';

REVOKE ALL ON FUNCTION start_agents(integer) FROM PUBLIC;

CREATE FUNCTION stop_agents() RETURNS integer
	AS 'MODULE_PATHNAME', 'sabot_stop_agents'
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION stop_agents() IS
	'have one''s own agents in this database leave, busy ones after their job; returns how many were asked to';

REVOKE ALL ON FUNCTION stop_agents() FROM PUBLIC;
