--
-- jobs: graphs of tasks
--

CREATE FUNCTION submit_graph(graph jsonb, name text DEFAULT NULL,
		queue text DEFAULT 'default', priority int DEFAULT 0,
		run_after timestamptz DEFAULT NULL, schedule text DEFAULT NULL,
		timeout interval DEFAULT NULL, dedup_key text DEFAULT NULL,
		notify text DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_graph';
REVOKE ALL ON FUNCTION submit_graph FROM PUBLIC;
COMMENT ON FUNCTION submit_graph IS
	'have the tasks of a graph run, each once those have completed that it comes after; returns the job id of the graph';

CREATE FUNCTION graph_task(name text, command text, after text[] DEFAULT NULL,
		params jsonb DEFAULT NULL, max_attempts int DEFAULT 1,
		timeout interval DEFAULT NULL, on_failure text DEFAULT 'fail',
		keep_rows int DEFAULT 0) RETURNS jsonb
	LANGUAGE SQL STABLE CALLED ON NULL INPUT PARALLEL SAFE
RETURN pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
		'name', name, 'command', command, 'after', after,
		'max_attempts', max_attempts, 'timeout', timeout::text,
		'on_failure', on_failure, 'keep_rows', keep_rows))
	|| CASE WHEN params IS NULL THEN '{}'::jsonb
		ELSE pg_catalog.jsonb_build_object('params', params) END;
REVOKE ALL ON FUNCTION graph_task FROM PUBLIC;
COMMENT ON FUNCTION graph_task IS 'a task, as an element of the array for submit_graph()';

CREATE FUNCTION graph_dot(job_id bigint) RETURNS text
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sabot_graph_dot';
REVOKE ALL ON FUNCTION graph_dot(bigint) FROM PUBLIC;
COMMENT ON FUNCTION graph_dot(bigint) IS
	'a graph as text for Graphviz, with the states of its tasks as colours';

-- What graph_dot() returns; it hides nothing, and is for the owner only.
CREATE FUNCTION graph_text(graph bigint) RETURNS text
	LANGUAGE SQL STABLE STRICT PARALLEL RESTRICTED
BEGIN ATOMIC
	WITH g AS (
		SELECT j.name FROM job AS j WHERE j.job_id = graph AND j.kind = 'graph'
		UNION ALL
		SELECT h.name FROM job_history AS h
		WHERE h.job_id = graph AND h.kind = 'graph'),
	t AS MATERIALIZED (
		SELECT o.job_id, o.state::text, j.depends_on, label.name
		FROM open_job AS o JOIN job AS j ON j.job_id = o.job_id,
			LATERAL (SELECT replace(replace(o.name, '\', '\\'), '"', '\"'))
				AS label(name)
		WHERE o.parent_id = graph
		UNION ALL
		SELECT h.job_id, h.state::text, h.depends_on, label.name
		FROM job_history AS h,
			LATERAL (SELECT replace(replace(h.name, '\', '\\'), '"', '\"'))
				AS label(name)
		WHERE h.parent_id = graph)
	SELECT format(E'digraph "%s" {\n\tnode [shape=box, style=filled];\n%s%s}\n',
		COALESCE(replace(replace(g.name, '\', '\\'), '"', '\"'),
			'job ' || graph),
		(SELECT string_agg(format(E'\t"%s" [fillcolor=%s, tooltip="job %s: %s"];\n',
				t.name, c.color, t.job_id, t.state), '' ORDER BY t.job_id)
			FROM t LEFT JOIN (VALUES ('scheduled', 'lightyellow'),
				('blocked', 'lightgrey'), ('queued', 'lightblue'),
				('running', 'gold'), ('paused', 'orange'),
				('completed', 'palegreen'), ('failed', 'tomato'),
				('canceled', 'plum'), ('skipped', 'white'))
				AS c(state, color) ON c.state = t.state),
		(SELECT string_agg(format(E'\t"%s" -> "%s";\n', p.name, t.name), ''
				ORDER BY t.job_id, p.job_id)
			FROM t, unnest(t.depends_on) AS d JOIN t AS p ON p.job_id = d))
	FROM g;
END;
REVOKE ALL ON FUNCTION graph_text(bigint) FROM PUBLIC;
COMMENT ON FUNCTION graph_text(bigint) IS 'what graph_dot() returns';
