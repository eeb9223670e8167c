--
-- jobs: views
--
-- A view shows each role its own jobs, and members of pg_monitor the rows of
-- all jobs without what was said in them.  Functions in a view run with its
-- reader's rights, so the helpers below are safe to call directly;
-- grant_usage() grants both.
--

CREATE FUNCTION home() RETURNS bigint
	AS 'MODULE_PATHNAME', 'sabot_home'
	LANGUAGE C STRICT STABLE PARALLEL SAFE;

COMMENT ON FUNCTION home() IS
	'identity of this database, which its jobs carry';

REVOKE ALL ON FUNCTION home() FROM PUBLIC;

CREATE FUNCTION is_mine(owner oid, owner_name name, home bigint)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'sabot_is_mine'
	LANGUAGE C STRICT STABLE PARALLEL SAFE;

COMMENT ON FUNCTION is_mine(oid, name, bigint) IS
	'whether a job is one''s own, by the privileges of its owner';

REVOKE ALL ON FUNCTION is_mine(oid, name, bigint) FROM PUBLIC;

CREATE FUNCTION may_see(owner oid, owner_name name, home bigint)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'sabot_may_see'
	LANGUAGE C STRICT STABLE PARALLEL SAFE;

COMMENT ON FUNCTION may_see(oid, name, bigint) IS
	'whether one may know of a job: it is one''s own, or one is in pg_monitor';

REVOKE ALL ON FUNCTION may_see(oid, name, bigint) FROM PUBLIC;

CREATE FUNCTION owner_label(owner oid, owner_name name, home bigint)
	RETURNS name
	AS 'MODULE_PATHNAME', 'sabot_owner_label'
	LANGUAGE C STRICT STABLE PARALLEL SAFE;

COMMENT ON FUNCTION owner_label(oid, name, bigint) IS
	'present name of a job''s owner, or the one at submit if it has none';

REVOKE ALL ON FUNCTION owner_label(oid, name, bigint) FROM PUBLIC;

CREATE FUNCTION running_job(OUT job_id bigint, OUT pid integer,
	OUT attempt integer, OUT started_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_running_job'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 4;

COMMENT ON FUNCTION running_job() IS
	'jobs of this database that agents run now, of those one may see';

REVOKE ALL ON FUNCTION running_job() FROM PUBLIC;

CREATE FUNCTION job_counters(OUT completed bigint, OUT failed bigint,
	OUT canceled bigint, OUT skipped bigint, OUT retries bigint)
	RETURNS record
	AS 'MODULE_PATHNAME', 'sabot_job_counters'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION job_counters() IS
	'jobs of all databases that have finished since server start, by state, and attempts made again';

REVOKE ALL ON FUNCTION job_counters() FROM PUBLIC;

CREATE FUNCTION wait_reason(job_id bigint, state text, queue text,
	queue_paused boolean, queue_limit integer, owner oid, home bigint, run_after timestamptz,
	reason text, sqlstate text, waits_for bigint[]) RETURNS text
	AS 'MODULE_PATHNAME', 'sabot_wait_reason'
	LANGUAGE C CALLED ON NULL INPUT STABLE PARALLEL RESTRICTED COST 100;

COMMENT ON FUNCTION wait_reason(bigint, text, text, boolean, integer, oid, bigint,
	timestamptz, text, text, bigint[]) IS
	'why a job waits, NULL if it does not';

REVOKE ALL ON FUNCTION wait_reason(bigint, text, text, boolean, integer, oid, bigint,
	timestamptz, text, text, bigint[]) FROM PUBLIC;

-- An unfinished job as it is now, which is more than its row says; for views
-- only, as it hides nothing.
CREATE VIEW open_job AS
	SELECT j.job_id, j.parent_id, j.name, j.kind, j.owner, j.owner_name,
		j.home, j.queue, j.priority,
		CASE WHEN j.kind IN ('graph', 'spread') AND j.home = home()
				AND j.state <> 'paused'
				AND EXISTS (SELECT FROM running_job() AS c
					JOIN job AS t ON t.job_id = c.job_id
					WHERE t.parent_id = j.job_id)
			THEN 'running'
			WHEN j.kind = 'graph' AND j.home = home() AND j.state <> 'paused'
			THEN 'blocked'
			WHEN r.job_id IS NOT NULL THEN 'running'
			WHEN j.home <> home() THEN 'paused'
			WHEN j.state = 'scheduled' AND j.run_after <= statement_timestamp()
				THEN 'queued'
			WHEN j.state = 'blocked' AND (j.kind = 'stream' OR j.reason IS NOT NULL)
				AND stream_waits(j.job_id)
				THEN 'queued'
			ELSE j.state
		END AS state,
		COALESCE(r.attempt, j.attempt) AS attempt, j.max_attempts, j.losses,
		j.atomic, r.pid, j.command, j.submitted_at,
		-- That of a graph with a timeout is its deadline.
		CASE WHEN j.kind = 'graph' AND j.timeout IS NOT NULL
			THEN j.run_after - j.timeout ELSE j.run_after END AS run_after,
		COALESCE(r.started_at, j.started_at) AS started_at,
		CASE WHEN j.kind = 'stream' AND j.state = 'blocked'
				THEN 'waits for rows of its table'
			WHEN j.reason IS NULL OR is_mine(j.owner, j.owner_name, j.home)
				THEN j.reason
			-- One that has a reason while it is blocked has taken all rows.
			WHEN j.state = 'blocked' THEN 'waits for changes of its table'
			ELSE 'paused' END AS reason,
		j.sqlstate, j.error, q.paused AS queue_paused,
		q.max_running AS queue_limit,
		CASE WHEN j.kind IN ('graph', 'schedule') OR (j.kind = 'spread' AND
				EXISTS (SELECT FROM job AS t WHERE t.parent_id = j.job_id)) THEN
			ARRAY(SELECT t.job_id FROM job AS t
				WHERE t.parent_id = j.job_id ORDER BY t.job_id)
			WHEN j.state = 'blocked' THEN
			ARRAY(SELECT d FROM unnest(j.depends_on) AS d
				WHERE EXISTS (SELECT FROM job AS b WHERE b.job_id = d)
				ORDER BY d)
		END AS waits_for
	FROM job AS j
		LEFT JOIN running_job() AS r ON r.job_id = j.job_id
		LEFT JOIN queue AS q ON q.queue = j.queue;

COMMENT ON VIEW open_job IS
	'unfinished jobs as they are now, of every role: the base of the views';

-- The barrier keeps functions in a reader's WHERE from seeing others' rows.
-- History stays a plain member of the UNION ALL, with the filter above it:
-- then the planner leaves it out where finished_at IS NULL is asked for.
CREATE VIEW any_job WITH (security_barrier) AS
	SELECT x.job_id, x.parent_id, x.name, x.kind,
		owner_label(x.owner, x.owner_name, x.home) AS owner,
		x.queue, x.priority, x.state, x.wait_reason, x.attempt,
		x.max_attempts, x.losses, x.atomic, x.pid,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.command END
			AS command,
		x.submitted_at, x.run_after, x.started_at, x.finished_at,
		x.command_tag, x.row_count,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.notices END
			AS notices,
		x.sqlstate,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.error END
			AS error,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.error_detail
		END AS error_detail,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.error_hint END
			AS error_hint,
		CASE WHEN is_mine(x.owner, x.owner_name, x.home) THEN x.error_context
		END AS error_context,
		x.error_statement, x.error_position
	FROM (
		SELECT j.job_id, j.parent_id, j.name, j.kind, j.owner, j.owner_name,
			j.home, j.queue, j.priority, j.state,
			wait_reason(j.job_id, j.state::text, j.queue, j.queue_paused, j.queue_limit,
				j.owner, j.home, j.run_after, j.reason, j.sqlstate,
				j.waits_for) AS wait_reason,
			j.attempt, j.max_attempts, j.losses, j.atomic, j.pid, j.command,
			j.submitted_at, j.run_after, j.started_at,
			NULL::timestamptz AS finished_at, NULL::text AS command_tag,
			NULL::bigint AS row_count, NULL::text[] AS notices,
			CASE WHEN j.kind = 'schedule' THEN (SELECT h.sqlstate
				FROM job_schedule AS s JOIN job_history AS h ON h.job_id = s.run_id
				WHERE s.job_id = j.job_id) ELSE j.sqlstate END AS sqlstate,
			CASE WHEN j.kind = 'schedule' THEN (SELECT h.error
				FROM job_schedule AS s JOIN job_history AS h ON h.job_id = s.run_id
				WHERE s.job_id = j.job_id) ELSE j.error END AS error,
			NULL::text AS error_detail, NULL::text AS error_hint,
			NULL::text AS error_context, NULL::integer AS error_statement,
			NULL::integer AS error_position
		FROM open_job AS j
		UNION ALL
		SELECT h.job_id, h.parent_id, h.name, h.kind, h.owner, h.owner_name,
			h.home, h.queue, h.priority, h.state, NULL::text,
			h.attempt, h.max_attempts, h.losses, h.atomic, h.pid, h.command,
			h.submitted_at, h.run_after, h.started_at,
			h.finished_at, h.command_tag,
			h.row_count, h.notices, h.sqlstate,
			COALESCE(h.error, CASE WHEN h.state = 'skipped' THEN h.reason END),
			h.error_detail, h.error_hint,
			h.error_context, h.error_statement,
			h.error_position
		FROM job_history AS h) AS x
	WHERE may_see(x.owner, x.owner_name, x.home);

COMMENT ON VIEW any_job IS
	'every job one may see, the base of sabot.job_status and sabot.job_task';

CREATE VIEW job_status AS
	SELECT job_id, parent_id, name, kind, owner, queue, priority, state,
		wait_reason, attempt, max_attempts, losses, atomic, pid, command,
		submitted_at, run_after, started_at, finished_at, command_tag,
		row_count, notices, sqlstate, error, error_detail, error_hint,
		error_context, error_statement, error_position
	FROM any_job
	WHERE parent_id IS NULL;

COMMENT ON VIEW job_status IS
	'one row per top-level job; fast by job_id, and for unfinished jobs with WHERE finished_at IS NULL';
COMMENT ON COLUMN job_status.kind IS 'job, or what its children make of it';
COMMENT ON COLUMN job_status.owner IS 'role the job runs as';
COMMENT ON COLUMN job_status.wait_reason IS
	'why it does not run; never NULL while scheduled, blocked, queued or paused';
COMMENT ON COLUMN job_status.attempt IS
	'attempts counted so far, with the one that runs';
COMMENT ON COLUMN job_status.losses IS
	'attempts whose agent was lost under the job';
COMMENT ON COLUMN job_status.atomic IS
	'whether its effects and its completion are one transaction; NULL while unknown';
COMMENT ON COLUMN job_status.pid IS 'process of the agent that runs or ran it';
COMMENT ON COLUMN job_status.command IS
	'NULL, like notices and errors, for who may only watch the job';
COMMENT ON COLUMN job_status.sqlstate IS 
	'of its last attempt, or of a schedule''s last run, if that failed';
COMMENT ON COLUMN job_status.error_statement IS
	'number of the statement that failed, from 1';
COMMENT ON COLUMN job_status.error_position IS
	'character of the command the error points at, from 1';

CREATE VIEW job_task AS
	SELECT job_id, parent_id, name, kind, owner, queue, priority, state,
		wait_reason, attempt, max_attempts, losses, atomic, pid, command,
		submitted_at, run_after, started_at, finished_at, command_tag,
		row_count, notices, sqlstate, error, error_detail, error_hint,
		error_context, error_statement, error_position
	FROM any_job
	WHERE parent_id IS NOT NULL;

COMMENT ON VIEW job_task IS
	'one row per child of a job, with the columns of sabot.job_status; fast by job_id and by parent_id';

CREATE VIEW job_progress AS
	SELECT p.job_id, p.name, p.state, p.total, p.done, p.failed, p.percent,
		p.rows,
		p.done / NULLIF(p.seconds, 0) AS rate,
		CASE WHEN p.finished_at IS NOT NULL THEN interval '0'
			WHEN p.done > 0 THEN
				make_interval(secs => round((p.total - p.done - p.failed)
											* p.seconds / p.done))
		END AS eta,
		format('[%s%s] %s %%', repeat('#', (p.percent / 5)::integer),
			repeat('-', 20 - (p.percent / 5)::integer), p.percent) AS bar,
		p.lag_rows, p.lag
	FROM (
		SELECT j.job_id, j.name, j.state, j.finished_at, n.total, n.done,
			n.failed, n.rows, l.lag_rows, l.lag,
			CASE WHEN n.total > 0 THEN (100 * n.done / n.total)::integer
				ELSE 100 END AS percent,
			EXTRACT(epoch FROM COALESCE(j.finished_at, n.finished_at, clock_timestamp()) -
					COALESCE(j.started_at, n.started_at))::double precision
				AS seconds
		FROM job_status AS j
			LEFT JOIN job_units AS u ON u.job_id = j.job_id
			LEFT JOIN job_schedule AS c ON c.job_id = j.job_id
			LEFT JOIN stream AS s ON s.job_id = j.job_id
			LEFT JOIN LATERAL stream_lag(s.job_id) AS l ON s.job_id IS NOT NULL,
			-- A value for the scan of an index, which an expression is not.
			LATERAL (SELECT COALESCE(c.run_id, j.job_id) AS parent_id OFFSET 0) AS o,
			LATERAL (
				-- A stream keeps its last batches only, and counts them all.
				SELECT s.batches + s.dead +
						ceil(COALESCE(l.lag_rows, 0)::numeric / s.batch_rows)::bigint
						AS total, s.batches AS done, s.dead AS failed, s.rows,
					j.submitted_at AS started_at, NULL::timestamptz AS finished_at
				WHERE j.kind = 'stream' AND s.job_id IS NOT NULL
				UNION ALL
				SELECT CASE WHEN u.job_id IS NOT NULL THEN u.total
						WHEN count(*) = 0 THEN 1 ELSE count(*) END AS total,
					CASE WHEN u.job_id IS NOT NULL THEN u.done
						WHEN count(*) > 0
						THEN count(*) FILTER (WHERE t.state = 'completed')
						WHEN j.state = 'completed' THEN 1 ELSE 0
					END AS done,
					CASE WHEN u.job_id IS NOT NULL THEN u.failed
						WHEN count(*) > 0 THEN
						count(*) FILTER (WHERE t.state IN
							('failed', 'canceled', 'skipped'))
						WHEN j.state IN ('failed', 'canceled', 'skipped')
						THEN 1 ELSE 0
					END AS failed,
					CASE WHEN count(*) > 0 THEN sum(t.row_count)::bigint
						ELSE j.row_count
					END AS rows,
					min(t.started_at) AS started_at,
					CASE WHEN count(*) = count(t.finished_at)
						THEN max(t.finished_at)
					END AS finished_at
				FROM job_task AS t
				WHERE t.parent_id = o.parent_id
					AND j.kind NOT IN ('job', 'stream')
				HAVING j.kind <> 'stream' OR s.job_id IS NULL) AS n) AS p;

COMMENT ON VIEW job_progress IS
	'how far each job is, counted in its children, its items, or as one unit if it has neither; of a schedule, its last run';
COMMENT ON COLUMN job_progress.done IS 'units completed';
COMMENT ON COLUMN job_progress.failed IS
	'units that ended otherwise: failed, canceled or skipped';
COMMENT ON COLUMN job_progress.percent IS 'of the units, those completed';
COMMENT ON COLUMN job_progress.rows IS 'rows the units reported so far';
COMMENT ON COLUMN job_progress.rate IS 'units completed per second of run time';
COMMENT ON COLUMN job_progress.lag_rows IS
	'of a stream, or of a job that follows a table: rows that were captured and not handed over yet';
COMMENT ON COLUMN job_progress.lag IS
	'for how long the oldest of these has been waiting';
COMMENT ON COLUMN job_progress.eta IS
	'time left at that rate, NULL before the first unit is completed';

CREATE VIEW job_attempt WITH (security_barrier) AS
	SELECT a.job_id, a.attempt, a.started_at, a.finished_at, a.pid,
		a.sqlstate,
		CASE WHEN is_mine(COALESCE(j.owner, h.owner),
						  COALESCE(j.owner_name, h.owner_name),
						  COALESCE(j.home, h.home))
			THEN a.error
		END AS error
	FROM job_attempt_log AS a
		LEFT JOIN job AS j ON j.job_id = a.job_id
		LEFT JOIN job_history AS h ON h.job_id = a.job_id
	WHERE may_see(COALESCE(j.owner, h.owner),
				  COALESCE(j.owner_name, h.owner_name),
				  COALESCE(j.home, h.home));

COMMENT ON VIEW job_attempt IS
	'earlier attempts of jobs, each of which failed or was lost; the last one is in sabot.job_status';

CREATE VIEW queue_status AS
	SELECT COALESCE(q.queue, c.queue) AS queue,
		COALESCE(q.paused, false) AS paused, q.max_running,
		COALESCE(c.waiting, 0) AS waiting, COALESCE(c.running, 0) AS running,
		c.oldest_waiting, COALESCE(c.scheduled, 0) AS scheduled,
		COALESCE(c.blocked, 0) AS blocked,
		COALESCE(c.paused_jobs, 0) AS paused_jobs,
		COALESCE(c.copied, 0) AS copied
	FROM queue AS q
		FULL JOIN (
			SELECT j.queue,
				count(*) FILTER (WHERE j.state = 'queued') AS waiting,
				count(*) FILTER (WHERE j.state = 'running') AS running,
				min(GREATEST(j.submitted_at, j.run_after))
					FILTER (WHERE j.state = 'queued') AS oldest_waiting,
				count(*) FILTER (WHERE j.state = 'scheduled') AS scheduled,
				count(*) FILTER (WHERE j.state = 'blocked') AS blocked,
				count(*) FILTER (WHERE j.state = 'paused') AS paused_jobs,
				count(*) FILTER (WHERE j.home <> home()) AS copied
			FROM open_job AS j
			WHERE may_see(j.owner, j.owner_name, j.home)
			GROUP BY j.queue) AS c ON c.queue = q.queue;

COMMENT ON VIEW queue_status IS
	'one row per queue that has settings or unfinished jobs; counts are of the jobs one may see';
COMMENT ON COLUMN queue_status.max_running IS
	'jobs that may run at once, NULL = any number';
COMMENT ON COLUMN queue_status.waiting IS 'jobs that could run now';
COMMENT ON COLUMN queue_status.oldest_waiting IS
	'since when the one that waits longest could run';
COMMENT ON COLUMN queue_status.paused_jobs IS
	'jobs paused one by one, and copied ones';
COMMENT ON COLUMN queue_status.copied IS
	'jobs copied from another database, for sabot.adopt_jobs()';

CREATE VIEW metric AS
	WITH q AS MATERIALIZED (SELECT * FROM queue_status),
		p AS MATERIALIZED (SELECT * FROM pool_counters()),
		c AS MATERIALIZED (SELECT * FROM profile_rows())
	SELECT 'sabot_jobs' AS name, jsonb_build_object('state', s.state) AS labels,
		s.jobs::double precision AS value
	FROM (SELECT sum(waiting) AS queued, sum(running) AS running,
			sum(scheduled) AS scheduled, sum(blocked) AS blocked,
			sum(paused_jobs) AS paused, sum(copied) AS copied FROM q) AS n,
		LATERAL (VALUES ('queued', COALESCE(n.queued, 0)),
			('running', COALESCE(n.running, 0)),
			('scheduled', COALESCE(n.scheduled, 0)),
			('blocked', COALESCE(n.blocked, 0)),
			('paused', COALESCE(n.paused, 0))) AS s(state, jobs)
	UNION ALL
	SELECT m.name, m.labels, m.value
	FROM job_counters() AS n, LATERAL (VALUES
		('sabot_jobs_finished_total', '{"state": "completed"}'::jsonb,
			n.completed),
		('sabot_jobs_finished_total', '{"state": "failed"}', n.failed),
		('sabot_jobs_finished_total', '{"state": "canceled"}', n.canceled),
		('sabot_jobs_finished_total', '{"state": "skipped"}', n.skipped),
		('sabot_job_retries_total', '{}', n.retries))
			AS m(name, labels, value)
	UNION ALL
	SELECT m.name, jsonb_build_object('queue', q.queue), m.value
	FROM q, LATERAL (VALUES
		('sabot_queue_waiting', q.waiting::double precision),
		('sabot_queue_running', q.running),
		('sabot_queue_paused', q.paused::integer),
		('sabot_queue_limit', q.max_running),
		('sabot_queue_oldest_waiting_seconds',
			EXTRACT(epoch FROM clock_timestamp() - q.oldest_waiting)))
			AS m(name, value)
	WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'sabot_agents', jsonb_build_object('state', s.state), s.agents
	FROM p, LATERAL (VALUES ('starting', p.starting), ('idle', p.idle),
		('busy', p.busy - p.waiting), ('waiting', p.waiting),
		('stopping', p.agents - p.starting - p.idle - p.busy))
			AS s(state, agents)
	UNION ALL
	SELECT m.name, '{}', m.value
	FROM p, LATERAL (VALUES ('sabot_agent_slots', p.slots::double precision),
		('sabot_agent_starts_total', p.starts),
		('sabot_agent_evictions_total', p.evictions),
		('sabot_agent_losses_total', p.losses),
		('sabot_waiting_pairs', p.waiting_pairs),
		('sabot_launcher_running', p.launcher_running::integer))
			AS m(name, value)
	UNION ALL
	SELECT m.name, jsonb_build_object('component', c.component), m.value
	FROM c, LATERAL (VALUES ('sabot_component_seconds_sum', c.sum_ms / 1000),
		('sabot_component_seconds_count', c.count)) AS m(name, value);

COMMENT ON VIEW metric IS
	'everything worth watching under names for Prometheus; jobs and queues of this database, finished jobs, agents and components of the server, _total and seconds since server start';

CREATE FUNCTION job_findings() RETURNS TABLE (place integer, subject text,
	ok boolean, detail text, advice text)
	LANGUAGE SQL VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 12
BEGIN ATOMIC
	WITH p AS MATERIALIZED (
		SELECT *, current_setting('max_worker_processes')::integer AS workers,
			pg_size_bytes(current_setting('min_dynamic_shared_memory')) AS dsm,
			pg_is_in_recovery() AS in_recovery
		FROM pool_counters()),
	q AS MATERIALIZED (SELECT * FROM queue_status),
	-- A role or database that is gone has no name, and needs no agents.
	unable AS MATERIALIZED (
		SELECT * FROM pair_failures()
		WHERE role IS NOT NULL AND database IS NOT NULL),
	other AS MATERIALIZED (
		SELECT count(*)::integer AS taken
		FROM pg_stat_activity
		WHERE backend_type NOT IN ('client backend', 'autovacuum launcher',
			'autovacuum worker', 'background writer', 'checkpointer',
			'startup', 'walwriter', 'walsender', 'walreceiver', 'archiver',
			'slotsync worker', 'walsummarizer', 'io worker')
			AND backend_type NOT LIKE 'sabot %'),
	failed AS MATERIALIZED (
		SELECT count(*) AS jobs, max(job_id) AS last
		FROM job_status
		WHERE finished_at > clock_timestamp() - interval '1 day'
			AND state = 'failed')
	SELECT 1, 'preload', preloaded,
		CASE WHEN preloaded THEN 'sabot is preloaded'
			ELSE 'sabot is not in shared_preload_libraries' END,
		'Add sabot to shared_preload_libraries and restart the server.'
	FROM p
	UNION ALL
	SELECT 2, 'enabled', enabled,
		'sabot.enabled is ' || CASE WHEN enabled THEN 'on' ELSE 'off' END,
		'Set sabot.enabled to on and reload the configuration.'
	FROM p
	UNION ALL
	SELECT 3, 'launcher', launcher_running,
		CASE WHEN launcher_running THEN 'the launcher is running'
			WHEN NOT preloaded THEN 'there is no launcher without preload'
			WHEN in_recovery THEN 'the launcher starts when recovery ends'
			ELSE 'the launcher is not running' END,
		CASE WHEN NOT preloaded
			THEN 'Add sabot to shared_preload_libraries and restart the server.'
			WHEN in_recovery
			THEN 'Promote this server, or submit jobs on the primary.'
			ELSE 'Look for "sabot launcher" in the server log.' END
	FROM p
	UNION ALL
	SELECT 4, 'worker processes',
		workers >= pool_size + 4 AND NOT no_worker_slot,
		format('max_worker_processes is %s: %s for agents of the %s that sabot.pool_size asks for%s%s',
			workers, LEAST(GREATEST(workers - 4, 0), pool_size), pool_size,
			CASE WHEN other.taken > 0
				THEN format(', %s in use by others', other.taken)
				ELSE '' END,
			CASE WHEN no_worker_slot
				THEN '; the last agent found none free' ELSE '' END),
		format('Set max_worker_processes to at least %s and restart the server.',
			GREATEST(pool_size + 4, CASE WHEN no_worker_slot
				THEN workers + 4 ELSE 0 END))
	FROM p, other
	UNION ALL
	-- Until idle agents have given way all places are taken, too.
	SELECT 5, 'pool size', pool_size > 0
		AND NOT (waiting_pairs > 0 AND agents >= slots
			AND (busy >= agents
				OR waiting_since < clock_timestamp() - interval '1 s')),
		format('sabot.pool_size is %s: %s agents, %s of them busy; %s (database, role) pairs with work have none',
			pool_size, agents, busy, waiting_pairs),
		'Raise sabot.pool_size and reload the configuration.'
	FROM p
	UNION ALL
	SELECT 6, 'dynamic shared memory', dsm > 0,
		'min_dynamic_shared_memory is ' ||
			CASE WHEN dsm > 0 THEN pg_size_pretty(dsm) ELSE '0' END,
		'Set min_dynamic_shared_memory to 64MB and restart the server: sabot.run and queries on agents, which start twice as fast then, need no new segment each time.'
	FROM p
	UNION ALL
	SELECT 7, 'agents', false,
		format('agents of role %I cannot start in database %I: %s',
			f.role, f.database, f.error),
		'Correct the cause; waiting jobs fail with this error after 5 tries.'
	FROM unable AS f
	UNION ALL
	SELECT 7, 'agents', true, 'no agent failed to start', NULL
	WHERE NOT EXISTS (SELECT FROM unable)
	UNION ALL
	SELECT 8, 'copied jobs', sum(copied) IS NULL OR sum(copied) = 0,
		format('jobs copied from another database: %s',
			COALESCE(sum(copied), 0)),
		'Call sabot.adopt_jobs() if they are to run here.'
	FROM q
	UNION ALL
	SELECT 9, 'paused queues', NOT COALESCE(bool_or(paused), false),
		COALESCE('paused: ' || string_agg(format('%I', queue), ', '
			ORDER BY queue) FILTER (WHERE paused), 'no queue is paused'),
		COALESCE('Call ' || string_agg(format('sabot.resume_queue(%L)',
			queue), ', ' ORDER BY queue) FILTER (WHERE paused) || '.', '')
	FROM q
	UNION ALL
	SELECT 10, 'waiting jobs',
		COALESCE(min(oldest_waiting) > clock_timestamp() - interval '10 min',
			true),
		format('jobs that could run now: %s%s', COALESCE(sum(waiting), 0),
			', the oldest since ' ||
			date_trunc('second', min(oldest_waiting))),
		'See wait_reason in sabot.job_status.'
	FROM q
	UNION ALL
	SELECT 11, 'failed jobs', jobs = 0,
		format('jobs that failed in the last day: %s%s', jobs,
			', the latest is job ' || last),
		'See sqlstate and error in sabot.job_status.'
	FROM failed;
END;

COMMENT ON FUNCTION job_findings() IS
	'what sabot.check() says of the pool and of jobs; advice is for where something is not ok';

REVOKE ALL ON FUNCTION job_findings() FROM PUBLIC;
