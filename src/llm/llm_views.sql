--
-- llm: views
--
-- Security is that of sabot.job_status: each role sees its own jobs, members
-- of pg_monitor all of them, with states and counts but without what was asked
-- and answered.
--
-- The counters of a job are those of its row in llm_count with the answers
-- that came since, seen in one snapshot, so they add up at any instant.  What
-- is costly is a scalar subquery behind OFFSET 0, so that the planner leaves
-- out what is not asked for and works out once what is.  An upper bound of
-- infinity has it expect few rows above the lower one, and use the index.
--
-- A job is mostly younger than the statistics, and to a planner that expects
-- one row of it, reading all its answers for each of its items is as good as
-- looking up one.  So in llm_result that is a subselect too, with a range and
-- an order that only the answers' primary key has.
--

CREATE FUNCTION llm_activity(OUT job_id bigint, OUT running integer,
	OUT items bigint[], OUT oldest_start timestamptz,
	OUT most_in_flight integer, OUT connections bigint,
	OUT run_ms double precision, OUT cpu_ms double precision,
	OUT rss_bytes bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_llm_activity'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 2;

COMMENT ON FUNCTION llm_activity() IS
	'LLM jobs of this database that workers have now, of those one may see';

REVOKE ALL ON FUNCTION llm_activity() FROM PUBLIC;

CREATE FUNCTION llm_endpoints(OUT endpoint text, OUT url text, OUT api text,
	OUT max_in_flight integer, OUT in_flight integer, OUT state text,
	OUT next_probe timestamptz, OUT error text, OUT requests bigint,
	OUT connections bigint, OUT stopped_models text[])
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'sabot_llm_endpoints'
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 4;

COMMENT ON FUNCTION llm_endpoints() IS
	'endpoints one may use and how their servers are';

REVOKE ALL ON FUNCTION llm_endpoints() FROM PUBLIC;

CREATE VIEW llm_result WITH (security_barrier) AS
	SELECT l.job_id, i.item, CASE WHEN p.mine THEN i.key END AS key,
		CASE WHEN a.item IS NOT NULL THEN a.state
			WHEN h.job_id IS NOT NULL THEN 'canceled'
			WHEN i.item = ANY (r.items) THEN 'running'
			ELSE 'pending'
		END AS state,
		CASE WHEN p.mine THEN i.prompt END AS prompt,
		CASE WHEN p.mine THEN a.response END AS response,
		CASE WHEN p.mine THEN a.value END AS value,
		a.error_class, CASE WHEN p.mine THEN a.error END AS error,
		COALESCE(a.attempts, (
			SELECT count(*)::integer
			FROM llm_failure AS f
			WHERE f.job_id = i.job_id AND f.item = i.item)) AS attempts,
		a.latency_ms, a.queue_ms, a.load_ms, a.prompt_tokens, a.output_tokens,
		a.model, a.model_digest, a.answered_by, a.finished_at
	FROM llm_job AS l
		LEFT JOIN job AS j ON j.job_id = l.job_id
		LEFT JOIN job_history AS h ON h.job_id = l.job_id
		CROSS JOIN LATERAL (
			SELECT is_mine(COALESCE(j.owner, h.owner),
					COALESCE(j.owner_name, h.owner_name),
					COALESCE(j.home, h.home)) AS mine,
				may_see(COALESCE(j.owner, h.owner),
					COALESCE(j.owner_name, h.owner_name),
					COALESCE(j.home, h.home)) AS seen
			OFFSET 0) AS p
		LEFT JOIN llm_activity() AS r ON r.job_id = l.job_id
		JOIN llm_item AS i ON i.job_id = l.job_id
		LEFT JOIN LATERAL (
			SELECT *
			FROM llm_answer
			WHERE job_id = i.job_id AND item BETWEEN i.item AND i.item
			ORDER BY item
			OFFSET 0) AS a ON true
	WHERE p.seen;

COMMENT ON VIEW llm_result IS
	'one row per item of an LLM job, whatever became of it; fast by job_id, and by job_id and item';
COMMENT ON COLUMN llm_result.item IS 'number within the job, from 1';
COMMENT ON COLUMN llm_result.key IS
	'finds the row of the target; NULL, like prompt, response, value and error, for who may only watch the job';
COMMENT ON COLUMN llm_result.state IS
	'pending, running, done, fallback, failed, skipped or canceled';
COMMENT ON COLUMN llm_result.prompt IS
	'the template with the values of the row';
COMMENT ON COLUMN llm_result.response IS
	'the words of the model, kept even if they were rejected';
COMMENT ON COLUMN llm_result.value IS
	'what was written to the target; NULL if nothing was';
COMMENT ON COLUMN llm_result.error_class IS
	'timeout, connect, http_4xx, http_5xx, truncated, bad_output, bad_encoding, too_large, incomplete or write_failed; for sabot.retry_llm_items()';
COMMENT ON COLUMN llm_result.attempts IS
	'requests made for it so far, 0 if it reused an answer';
COMMENT ON COLUMN llm_result.latency_ms IS 'of the last request, to its answer';
COMMENT ON COLUMN llm_result.queue_ms IS
	'of this, waiting in the server, by its own account';
COMMENT ON COLUMN llm_result.load_ms IS
	'of this, loading the model, by the server''s own account';
COMMENT ON COLUMN llm_result.answered_by IS
	'model, reuse of the answer to the same prompt, or fallback';

-- What llm_progress and llm_health are made of; for views only, as it hides
-- nothing.
CREATE VIEW llm_work AS
	SELECT l.job_id, COALESCE(j.name, h.name) AS name,
		COALESCE(j.state, h.state) AS state,
		COALESCE(j.owner, h.owner) AS owner,
		COALESCE(j.owner_name, h.owner_name) AS owner_name,
		COALESCE(j.home, h.home) AS home, l.endpoint, l.model, l.follow,
		l.total,
		l.started_at, h.finished_at, COALESCE(h.finished_at, t.now) AS until,
		n.done, n.fallback, n.failed, n.skipped, n.reused,
		n.done + n.fallback + n.failed AS processed,
		n.done + n.fallback + n.failed + n.skipped AS finished,
		LEAST(COALESCE(r.running, 0), COALESCE(l.total, 0)
			- n.done - n.fallback - n.failed - n.skipped) AS running,
		x.attempts, x.timeouts,
		t.now - r.oldest_start AS item_age,
		GREATEST(c.most_in_flight, r.most_in_flight) AS most_in_flight,
		GREATEST(c.connections, r.connections, 0) AS connections,
		GREATEST(c.run_ms, r.run_ms) AS run_ms,
		GREATEST(c.cpu_ms, r.cpu_ms) AS cpu_ms,
		COALESCE(r.rss_bytes, c.rss_bytes) AS rss_bytes
	FROM llm_job AS l
		LEFT JOIN open_job AS j ON j.job_id = l.job_id
		LEFT JOIN job_history AS h ON h.job_id = l.job_id
		LEFT JOIN llm_count AS c ON c.job_id = l.job_id
		LEFT JOIN llm_activity() AS r
			ON r.job_id = l.job_id AND h.job_id IS NULL
		CROSS JOIN clock_timestamp() AS t(now)
		CROSS JOIN LATERAL (
			SELECT COALESCE(c.done, 0)
					+ count(*) FILTER (WHERE a.state = 'done') AS done,
				COALESCE(c.fallback, 0)
					+ count(*) FILTER (WHERE a.state = 'fallback') AS fallback,
				COALESCE(c.failed, 0)
					+ count(*) FILTER (WHERE a.state = 'failed') AS failed,
				COALESCE(c.skipped, 0)
					+ count(*) FILTER (WHERE a.state = 'skipped') AS skipped,
				COALESCE(c.reused, 0)
					+ count(*) FILTER (WHERE a.answered_by = 'reuse') AS reused,
				COALESCE(c.attempts, 0)
					+ COALESCE(sum(a.attempts), 0)::bigint AS attempts
			FROM llm_answer AS a
			WHERE a.job_id = l.job_id
				AND a.finished_at > COALESCE(c.counted_at, '-infinity')
				AND a.finished_at <= 'infinity') AS n
		CROSS JOIN LATERAL (
			SELECT n.attempts + (
					SELECT count(*) FROM llm_failure AS f
					WHERE f.job_id = l.job_id AND NOT EXISTS (
						SELECT FROM llm_answer AS a
						WHERE a.job_id = f.job_id AND a.item = f.item))
					AS attempts,
				(SELECT count(*) FROM llm_failure AS f
					WHERE f.job_id = l.job_id AND f.error_class = 'timeout')
					AS timeouts
			OFFSET 0) AS x;

COMMENT ON VIEW llm_work IS
	'what is known of LLM jobs of every role: the base of sabot.llm_progress and sabot.llm_health';

CREATE VIEW llm_progress WITH (security_barrier) AS
	SELECT w.job_id, w.name, w.state, w.endpoint, w.model, w.total, w.done,
		w.fallback, w.failed, w.skipped, w.running,
		w.total - w.finished - w.running AS pending, w.reused, w.attempts,
		w.timeouts,
		w.timeouts::double precision / NULLIF(w.attempts, 0) AS timeout_rate,
		y.rate_1m, y.rate_overall,
		CASE WHEN w.finished_at IS NOT NULL THEN interval '0'
			WHEN w.processed > 0 THEN
				make_interval(secs => LEAST(1e9,
					round((w.total - w.finished) / NULLIF(
						CASE WHEN x.last_minute >= 10 THEN y.rate_1m
							ELSE y.rate_overall END, 0))))
		END AS eta,
		x.latency_ms[1] AS latency_p50_ms, x.latency_ms[2] AS latency_p95_ms,
		x.tokens_per_s, x.server_queue_ms, w.item_age, w.connections,
		w.rss_bytes AS worker_rss_bytes,
		w.cpu_ms / NULLIF(w.processed, 0) AS worker_cpu_ms_per_item,
		format('[%s%s] %s %%', repeat('#', (y.percent / 5)::integer),
			repeat('-', 20 - (y.percent / 5)::integer), y.percent) AS bar
	FROM llm_work AS w
		CROSS JOIN LATERAL (
			SELECT (
				SELECT count(*) FROM llm_answer AS a
				WHERE a.job_id = w.job_id
					AND a.finished_at > w.until - interval '1 min'
					AND a.finished_at <= 'infinity'
					AND a.state <> 'skipped') AS last_minute,
			(
				SELECT percentile_cont(ARRAY[0.5, 0.95])
					WITHIN GROUP (ORDER BY s.latency_ms)
				FROM (
					SELECT a.latency_ms FROM llm_answer AS a
					WHERE a.job_id = w.job_id AND a.answered_by = 'model'
					ORDER BY a.finished_at DESC LIMIT 10000) AS s)
				AS latency_ms,
			(
				SELECT 1000 * sum(s.output_tokens) / NULLIF(sum(s.output_ms), 0)
				FROM (
					SELECT a.output_tokens, a.output_ms FROM llm_answer AS a
					WHERE a.job_id = w.job_id AND a.answered_by = 'model'
						AND a.output_tokens IS NOT NULL
						AND a.output_ms IS NOT NULL
					ORDER BY a.finished_at DESC LIMIT 1000) AS s)
				AS tokens_per_s,
			(
				SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s.queue_ms)
				FROM (
					SELECT a.queue_ms FROM llm_answer AS a
					WHERE a.job_id = w.job_id AND a.answered_by = 'model'
					ORDER BY a.finished_at DESC LIMIT 1000) AS s)
				AS server_queue_ms
			OFFSET 0) AS x
		CROSS JOIN LATERAL (
			SELECT CASE WHEN w.until > w.started_at THEN
				x.last_minute / LEAST(60, EXTRACT(epoch
					FROM w.until - w.started_at))::double precision
			END AS rate_1m,
			w.processed * 1000 / NULLIF(w.run_ms, 0) AS rate_overall,
			CASE WHEN w.total > 0
				THEN 100 * (w.finished - w.failed) / w.total
				WHEN w.total = 0 THEN 100
				ELSE 0
			END AS percent) AS y
	WHERE may_see(w.owner, w.owner_name, w.home);

COMMENT ON VIEW llm_progress IS
	'one row per LLM job; total = done + fallback + failed + skipped + running + pending at any instant; fast by job_id';
COMMENT ON COLUMN llm_progress.total IS
	'number of items, NULL until the source was read';
COMMENT ON COLUMN llm_progress.fallback IS
	'items that got the fallback instead of an answer';
COMMENT ON COLUMN llm_progress.failed IS
	'items without an answer and without a fallback; their target is untouched';
COMMENT ON COLUMN llm_progress.skipped IS
	'items that were not asked, as every placeholder was NULL';
COMMENT ON COLUMN llm_progress.running IS 'items whose request is open now';
COMMENT ON COLUMN llm_progress.pending IS
	'all others; those of a finished job are canceled';
COMMENT ON COLUMN llm_progress.reused IS
	'of those done, items that took over the answer to the same prompt';
COMMENT ON COLUMN llm_progress.attempts IS 'requests that came to an end';
COMMENT ON COLUMN llm_progress.timeouts IS 'of these, those that timed out';
COMMENT ON COLUMN llm_progress.timeout_rate IS
	'timeouts / attempts, from 0 to 1; NULL before the first';
COMMENT ON COLUMN llm_progress.rate_1m IS
	'items per second in the last minute of the run, without those skipped';
COMMENT ON COLUMN llm_progress.rate_overall IS
	'items per second of the time that workers have had the job, without those skipped';
COMMENT ON COLUMN llm_progress.eta IS
	'time left at the rate of the last minute, or overall while that has fewer than 10 items; NULL before the first';
COMMENT ON COLUMN llm_progress.latency_p50_ms IS
	'of the last 10000 requests that the model has answered';
COMMENT ON COLUMN llm_progress.tokens_per_s IS
	'tokens the server has generated per second of doing so, in the last 1000 answers';
COMMENT ON COLUMN llm_progress.server_queue_ms IS
	'half of the last 1000 answered requests waited longer than this in the server: it serves others too, or max_in_flight is too high';
COMMENT ON COLUMN llm_progress.item_age IS
	'how long the oldest open request has been open';
COMMENT ON COLUMN llm_progress.connections IS
	'connections opened for the job so far';
COMMENT ON COLUMN llm_progress.worker_rss_bytes IS
	'resident memory of the worker that has the job, or had it last';
COMMENT ON COLUMN llm_progress.worker_cpu_ms_per_item IS
	'CPU time of workers for each item, without those skipped';
COMMENT ON COLUMN llm_progress.bar IS
	'items finished but for those failed, as in sabot.job_progress';

-- Minutes are counted from the first item's end, so that loading the model is
-- in none of them, and to the last one's, unless the job runs.  The predictions compared are of the length of the run.
CREATE VIEW llm_health WITH (security_barrier) AS
	SELECT w.job_id, z.steady_rate, z.few_timeouts, z.predictable_eta,
		z.low_resource_use, z.no_parallel_conflict,
		COALESCE(NULLIF(concat_ws('; ',
			CASE WHEN NOT z.steady_rate THEN
				format('rates of one minute vary by %s %%',
					round(100 * y.spread)) END,
			CASE WHEN NOT z.few_timeouts THEN
				format('%s %% of the attempts timed out',
					round(100.0 * w.timeouts / w.attempts)) END,
			CASE WHEN NOT z.predictable_eta THEN
				format('the expected length of the run has changed by %s %% within a tenth of it',
					round(100 * y.change)) END,
			CASE WHEN NOT z.low_resource_use THEN
				format('the worker''s CPU time is %s %% of the latency',
					round((100 * y.cpu_share)::numeric, 1)) END,
			CASE WHEN NOT z.no_parallel_conflict THEN
				format('%s requests were open at a limit of %s',
					w.most_in_flight, x.max_in_flight) END), ''),
			'all is well') AS detail
	FROM llm_work AS w
		LEFT JOIN llm_endpoint AS e ON e.name = w.endpoint
		CROSS JOIN LATERAL (
			SELECT COALESCE(e.max_in_flight,
				CASE w.endpoint WHEN 'default' THEN 1 END) AS max_in_flight,
			(
				SELECT a.finished_at FROM llm_answer AS a
				WHERE a.job_id = w.job_id AND a.state <> 'skipped'
				ORDER BY a.finished_at LIMIT 1) AS first_end,
			(
				SELECT a.finished_at FROM llm_answer AS a
				WHERE a.job_id = w.job_id AND a.state <> 'skipped'
				ORDER BY a.finished_at DESC LIMIT 1) AS last_end,
			(w.total - w.skipped) / 10 AS tenth,
			(
				SELECT a.finished_at FROM llm_answer AS a
				WHERE a.job_id = w.job_id AND a.state <> 'skipped'
				ORDER BY a.finished_at DESC
				OFFSET (w.total - w.skipped) / 10 LIMIT 1) AS earlier_end,
			(
				SELECT avg(s.latency_ms)
				FROM (
					SELECT a.latency_ms FROM llm_answer AS a
					WHERE a.job_id = w.job_id AND a.answered_by = 'model'
					ORDER BY a.finished_at DESC LIMIT 10000) AS s) AS latency_ms
			OFFSET 0) AS x
		CROSS JOIN LATERAL (
			SELECT floor(EXTRACT(epoch FROM CASE WHEN w.state = 'running'
				THEN w.until ELSE x.last_end END - x.first_end) / 60)::integer
				AS minutes
			OFFSET 0) AS m
		CROSS JOIN LATERAL (
			SELECT (
				SELECT (max(g.items) - CASE WHEN count(*) < m.minutes THEN 0
						ELSE min(g.items) END) * m.minutes
					/ NULLIF(sum(g.items), 0)
				FROM (
					SELECT count(*) AS items FROM llm_answer AS a
					WHERE a.job_id = w.job_id AND a.state <> 'skipped'
						AND m.minutes >= 2 AND a.finished_at <
							x.first_end + make_interval(mins => m.minutes)
					GROUP BY floor(EXTRACT(epoch
						FROM a.finished_at - x.first_end) / 60)) AS g)
				AS spread,
			CASE WHEN x.tenth > 0 AND w.processed >= 2 * x.tenth THEN
				abs(1 - (EXTRACT(epoch FROM x.earlier_end - w.started_at)
						/ (w.processed - x.tenth))
					/ NULLIF(EXTRACT(epoch FROM x.last_end - w.started_at)
						/ w.processed, 0))
			END AS change,
			w.cpu_ms / NULLIF(w.processed, 0) / NULLIF(x.latency_ms, 0)
				AS cpu_share
			OFFSET 0) AS y
		CROSS JOIN LATERAL (
			-- A job that follows a table goes as that is written.
			SELECT CASE WHEN NOT w.follow THEN y.spread <= 0.25 END
					AS steady_rate,
				w.timeouts <= 0.1 * NULLIF(w.attempts, 0) AS few_timeouts,
				CASE WHEN NOT w.follow THEN y.change <= 0.15 END
					AS predictable_eta,
				y.cpu_share <= 0.01 AS low_resource_use,
				NULLIF(w.most_in_flight, 0) <= x.max_in_flight
					AS no_parallel_conflict) AS z
	WHERE may_see(w.owner, w.owner_name, w.home);

COMMENT ON VIEW llm_health IS
	'whether LLM jobs run as they should; each is NULL while there is not enough to say so';
COMMENT ON COLUMN llm_health.steady_rate IS
	'the rates of the full minutes of the run vary by 25 % of their mean at most';
COMMENT ON COLUMN llm_health.few_timeouts IS
	'10 % of the attempts timed out at most';
COMMENT ON COLUMN llm_health.predictable_eta IS
	'the expected length of the run is within 15 % of what it was a tenth of the items earlier';
COMMENT ON COLUMN llm_health.low_resource_use IS
	'the worker''s CPU time for an item is 1 % of the mean latency at most';
COMMENT ON COLUMN llm_health.no_parallel_conflict IS
	'never more requests of the job were open than its endpoint allows';
COMMENT ON COLUMN llm_health.detail IS 'words for each that is false';

CREATE VIEW llm_endpoint_status AS
	SELECT endpoint, url, api, max_in_flight, in_flight, state, next_probe,
		error, requests, connections, stopped_models
	FROM llm_endpoints();

COMMENT ON VIEW llm_endpoint_status IS
	'endpoints one may use; what is known of a server is shared by all endpoints on its host and port, and begins with the start of this one';
COMMENT ON COLUMN llm_endpoint_status.max_in_flight IS
	'requests open at once, in the whole instance; the smallest limit in use holds';
COMMENT ON COLUMN llm_endpoint_status.state IS
	'stopped until next_probe, probing whether it is back, busy, ready, or unused so far';
COMMENT ON COLUMN llm_endpoint_status.error IS
	'why it was stopped, NULL if it is not';
COMMENT ON COLUMN llm_endpoint_status.requests IS
	'requests sent to it, probes too';
COMMENT ON COLUMN llm_endpoint_status.stopped_models IS
	'models on it that are stopped, as they are missing or could not be loaded';

-- The metrics of the rooms below, and this one's.
ALTER VIEW metric RENAME TO job_metric;

COMMENT ON VIEW job_metric IS 'metrics without those of the LLM lane';

CREATE VIEW metric AS
	SELECT name, labels, value FROM job_metric
	UNION ALL
	SELECT 'sabot_llm_items', jsonb_build_object('state', s.state), s.items
	FROM (
		SELECT sum(done) AS done, sum(fallback) AS fallback,
			sum(failed) AS failed, sum(skipped) AS skipped,
			sum(running) AS running, sum(pending) AS pending
		FROM llm_progress) AS n,
		LATERAL (VALUES ('done', COALESCE(n.done, 0)),
			('fallback', COALESCE(n.fallback, 0)),
			('failed', COALESCE(n.failed, 0)),
			('skipped', COALESCE(n.skipped, 0)),
			('running', COALESCE(n.running, 0)),
			('pending', COALESCE(n.pending, 0))) AS s(state, items)
	UNION ALL
	SELECT m.name, jsonb_build_object('endpoint', e.endpoint), m.value
	FROM llm_endpoints() AS e,
		LATERAL (VALUES ('sabot_llm_requests_total', e.requests),
			('sabot_llm_connections_total', e.connections),
			('sabot_llm_in_flight', e.in_flight),
			('sabot_llm_stopped', (e.next_probe IS NOT NULL)::integer))
			AS m(name, value);

COMMENT ON VIEW metric IS
	'everything worth watching under names for Prometheus; jobs, queues and LLM items of this database, agents, components and model servers of the server, _total and seconds since server start';
