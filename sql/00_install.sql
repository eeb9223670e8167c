-- What CREATE EXTENSION leaves: documented, pinned, granted to nobody.
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid, d.classid::regclass::text AS catalog
	FROM pg_depend AS d
		JOIN pg_extension AS e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		AND e.extname = 'sabot';
-- Objects without a comment.  Row types are their tables'.
SELECT pg_describe_object(m.classid, m.objid, 0) AS uncommented
	FROM member AS m
	WHERE obj_description(m.objid, m.catalog) IS NULL
		AND NOT EXISTS (SELECT FROM pg_type AS t
			WHERE m.catalog = 'pg_type' AND t.oid = m.objid
				AND (t.typrelid <> 0 OR t.typelem <> 0))
	ORDER BY 1;
-- Comments are no sentences: they start in lower case and have no full stop.
SELECT pg_describe_object(m.classid, m.objid, 0) AS object,
		obj_description(m.objid, m.catalog) AS comment
	FROM member AS m
	WHERE obj_description(m.objid, m.catalog) ~ '^[A-Z][a-z]|\.$'
	ORDER BY 1;
-- Nothing is granted to PUBLIC, and nothing to anybody but the owner.
SELECT has_schema_privilege('public', 'sabot', 'USAGE') AS schema_usage,
	has_schema_privilege('public', 'sabot', 'CREATE') AS schema_create;
SELECT p.oid::regprocedure AS callable_by_public
	FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid
	WHERE m.catalog = 'pg_proc'
		AND has_function_privilege('public', p.oid, 'EXECUTE')
	ORDER BY p.proname;
SELECT c.oid::regclass AS open_to_public
	FROM member AS m JOIN pg_class AS c ON c.oid = m.objid
	WHERE m.catalog = 'pg_class'
		AND CASE WHEN c.relkind = 'S'
			THEN has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE')
			ELSE has_table_privilege('public', c.oid,
				'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		END
	ORDER BY c.relname;
SELECT count(*) AS granted_to_others
	FROM member AS m
		LEFT JOIN pg_proc AS p ON p.oid = m.objid AND m.catalog = 'pg_proc'
		LEFT JOIN pg_class AS c ON c.oid = m.objid AND m.catalog = 'pg_class',
		aclexplode(COALESCE(p.proacl, c.relacl)) AS a
	WHERE a.grantee <> COALESCE(p.proowner, c.relowner);
-- No function runs with its owner's rights unless its search path is safe.
SELECT p.oid::regprocedure AS unsafe_definer
	FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid
	WHERE m.catalog = 'pg_proc' AND p.prosecdef
		AND NOT (p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'])
	ORDER BY 1;
-- What changes something is volatile and for the leader of a parallel query
-- only; what is parallel safe looks at catalogs and nothing else.
SELECT p.proname, p.provolatile, p.proparallel
	FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid
	WHERE m.catalog = 'pg_proc'
		AND (p.proname ~ '^(submit|cancel|retry|pause|resume|set|purge|adopt|run$|wait_for|start|stop|grant|revoke|preview|add_|drop_|check_)'
				<> (p.provolatile = 'v' AND p.proparallel = 'u')
			AND p.proname NOT IN ('job_state', 'job_rows', 'warn_unless_preloaded', 'stream_capture')
			OR p.proparallel = 's' AND p.provolatile = 'v')
	ORDER BY p.proname;
-- The routines that users call, as pinned.
\pset format unaligned
SELECT format('%s(%s)%s', p.proname, pg_get_function_arguments(p.oid),
		' RETURNS ' || pg_get_function_result(p.oid)) AS routine
	FROM pg_proc AS p
	WHERE p.pronamespace = 'sabot'::regnamespace
		AND p.proname IN ('submit_job', 'submit_jobs', 'submit_job_each', 'run',
			'wait_for_job', 'wait_for_jobs', 'job_state', 'job_rows',
			'cancel_job', 'retry_job', 'pause_job', 'resume_job',
			'pause_queue', 'resume_queue', 'set_queue_limit', 'purge',
			'adopt_jobs', 'start_agents', 'stop_agents', 'grant_usage',
			'revoke_usage', 'check', 'submit_llm_job', 'submit_embedding_job',
			'add_llm_endpoint', 'drop_llm_endpoint', 'check_llm',
			'preview_llm_job', 'retry_llm_items', 'route',
			'submit_graph', 'graph_task', 'graph_dot', 'submit_stream')
	ORDER BY p.proname;
\pset format aligned
SELECT unnest(enum_range(NULL::sabot.job_state)) AS job_state;
-- The columns of the views, as pinned: more may follow, none may differ.
WITH pinned(view, columns) AS (VALUES
	('job_status', '{job_id,parent_id,name,kind,owner,queue,priority,state,wait_reason,attempt,max_attempts,losses,atomic,pid,command,submitted_at,run_after,started_at,finished_at,command_tag,row_count,notices,sqlstate,error,error_detail,error_hint,error_context,error_statement,error_position}'::name[]),
	('job_task', '{job_id,parent_id,name,kind,owner,queue,priority,state,wait_reason,attempt,max_attempts,losses,atomic,pid,command,submitted_at,run_after,started_at,finished_at,command_tag,row_count,notices,sqlstate,error,error_detail,error_hint,error_context,error_statement,error_position}'),
	('job_progress', '{job_id,name,state,total,done,failed,percent,rows,rate,eta,bar}'),
	('job_attempt', '{job_id,attempt,started_at,finished_at,pid,sqlstate,error}'),
	('queue_status', '{queue,paused,max_running,waiting,running,oldest_waiting}'),
	('agent_status', '{slot,pid,database,role,state,job_id,since,jobs_done,queries_done,memory_bytes}'),
	('pool_status', '{agents,busy,idle,starting,slots,waiting_pairs,starts,evictions,losses}'),
	('overhead_profile', '{component,first_ms,count,mean_ms,p50_ms,p95_ms,share}'),
	('metric', '{name,labels,value}'),
	('route_stat', '{database,route,reason,queries,start_p50_us,start_p95_us}'),
	('llm_result', '{job_id,item,key,state,prompt,response,value,error_class,error,attempts,latency_ms,queue_ms,load_ms,prompt_tokens,output_tokens,model,model_digest,answered_by,finished_at}'),
	('llm_progress', '{job_id,name,state,endpoint,model,total,done,fallback,failed,skipped,running,pending,reused,attempts,timeouts,timeout_rate,rate_1m,rate_overall,eta,latency_p50_ms,latency_p95_ms,tokens_per_s,server_queue_ms,item_age,connections,worker_rss_bytes,worker_cpu_ms_per_item,bar}'),
	('llm_health', '{job_id,steady_rate,few_timeouts,predictable_eta,low_resource_use,no_parallel_conflict,detail}'),
	('llm_endpoint_status', '{endpoint,url,api,max_in_flight,in_flight,state,next_probe,error,requests,connections}'))
SELECT p.view,
		(SELECT array_agg(a.attname ORDER BY a.attnum)
			FROM pg_attribute AS a
			WHERE a.attrelid = to_regclass('sabot.' || p.view) AND a.attnum > 0
				AND a.attnum <= cardinality(p.columns)) = p.columns AS as_pinned
	FROM pinned AS p;
-- Jobs and queues are data: a dump has them.
SELECT unnest(extconfig)::regclass AS dumped
	FROM pg_extension WHERE extname = 'sabot' ORDER BY 1;
-- It lives in its own schema, needs a superuser, and goes without a trace.
CREATE TABLE install_streamed (id int);
SELECT FROM sabot.submit_stream('install_streamed', 'SELECT count(*) FROM batch');
DO $$
BEGIN
	FOR i IN 1 .. 2000 LOOP
		EXIT WHEN (SELECT state = 'blocked' FROM sabot.stream_status);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
INSERT INTO install_streamed VALUES (1);
DROP EXTENSION sabot;
SELECT count(*) AS triggers_left FROM pg_trigger WHERE tgrelid = 'install_streamed'::regclass;
DROP TABLE install_streamed;
SELECT count(*) AS left_behind FROM pg_class
	WHERE relnamespace = to_regnamespace('sabot');
CREATE EXTENSION sabot SCHEMA public;
CREATE ROLE regress_sabot_nobody;
SET ROLE regress_sabot_nobody;
CREATE EXTENSION sabot;
RESET ROLE;
DROP ROLE regress_sabot_nobody;
CREATE EXTENSION sabot;
SELECT extversion, nspname FROM pg_extension AS e
	JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE extname = 'sabot';
-- The settings, and who may change them.
SELECT name, setting, unit, context, vartype, min_val, max_val
	FROM pg_settings WHERE name LIKE 'sabot.%' ORDER BY name;
