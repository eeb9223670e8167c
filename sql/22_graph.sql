-- Graphs, and jobs that depend on jobs.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 22000) AS ids \gset
CREATE SCHEMA graph;
SET search_path = graph;
CREATE TABLE effect (name text, at timestamptz DEFAULT clock_timestamp());
-- state, reason and error of the tasks of a graph
CREATE FUNCTION pg_temp.tasks(graph bigint, OUT name text, OUT state sabot.job_state, OUT wait_reason text, OUT error text)
	RETURNS SETOF record LANGUAGE sql AS
	'SELECT name, state, wait_reason, error FROM sabot.job_task WHERE parent_id = $1 ORDER BY job_id';
-- A task is what graph_task() says, or what one writes by hand.
SELECT jsonb_pretty(sabot.graph_task('b', 'SELECT $1', after => '{a}', params => '[null, 1]',
	max_attempts => 3, timeout => '10 s', on_failure => 'skip', keep_rows => 10));
SELECT sabot.graph_task('a', 'SELECT');
-- Tasks run once those have completed that they come after.
SELECT sabot.submit_graph('[
	{"name": "last", "command": "INSERT INTO graph.effect VALUES (''last'')", "after": ["left", "right", "left"]},
	{"name": "left", "command": "INSERT INTO graph.effect VALUES ($1)", "params": ["left"], "after": ["first"]},
	{"name": "right", "command": "SELECT 1 AS r UNION ALL SELECT 2", "keep_rows": 1, "after": ["first"]},
	{"name": "first", "command": "INSERT INTO effect VALUES (''first'')"}]',
	name => 'diamond', queue => 'q', priority => 7) AS graph \gset
CALL sabot.wait_for_job(:graph);
SELECT name FROM effect ORDER BY at;
SELECT job_id, parent_id, name, kind, queue, priority, state, attempt, command_tag, row_count
	FROM sabot.any_job WHERE :graph IN (job_id, parent_id) ORDER BY job_id;
SELECT total, done, failed, percent, rows, bar FROM sabot.job_progress WHERE job_id = :graph;
SELECT sabot.job_rows(job_id) FROM sabot.job_task WHERE parent_id = :graph AND name = 'right';
SELECT sabot.graph_dot(:graph);
SELECT code, message FROM pg_temp.try('SELECT sabot.graph_dot(22002)');
-- What is wrong with a graph is said at submit.
SELECT code, message, hint FROM unnest(ARRAY['{}', '[]', '[1]', '[{"command": "SELECT"}]',
	'[{"name": "a"}]', '[{"name": "", "command": "SELECT"}]', '[{"name": 1, "command": "SELECT"}]',
	'[{"name": "a", "command": "SELECT", "before": ["b"]}]',
	'[{"name": "a", "command": "SELECT", "after": "b"}]',
	'[{"name": "a", "command": "SELECT", "after": ["b"]}]',
	'[{"name": "a", "command": "SELECT", "after": ["a"]}]',
	'[{"name": "a", "command": "SELECT"}, {"name": "a", "command": "SELECT"}]',
	'[{"name": "a", "command": "SELECT", "on_failure": "ignore"}]',
	'[{"name": "a", "command": "SELECT", "max_attempts": 0}]',
	'[{"name": "a", "command": "SELECT", "max_attempts": 1.5}]',
	'[{"name": "a", "command": "SELECT", "keep_rows": -1}]',
	'[{"name": "a", "command": "SELECT", "timeout": "0 s"}]',
	'[{"name": "a", "command": "SELECT", "timeout": "soon"}]',
	'[{"name": "a", "command": "SELECT", "params": {}}]',
	'[{"name": "a", "command": "SELECT $1", "params": []}]',
	'[{"name": "a", "command": "SELEC"}]']) AS g,
	pg_temp.try(format('SELECT sabot.submit_graph(%L)', g));
SELECT code, message FROM unnest(ARRAY['NULL']) AS args,
	pg_temp.try(format('SELECT sabot.submit_graph(%s)', args));
SELECT code, message, hint FROM pg_temp.try($$SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('start', 'SELECT'), sabot.graph_task('x', 'SELECT', '{start,z}'),
	sabot.graph_task('y', 'SELECT', '{x}'), sabot.graph_task('z', 'SELECT', '{y}'),
	sabot.graph_task('end', 'SELECT', '{z}')))$$);
SET sabot.graph_max_tasks = 2;
SELECT code, message, hint FROM pg_temp.try($$SELECT sabot.submit_graph((SELECT
	jsonb_agg(sabot.graph_task('t' || n, 'SELECT')) FROM generate_series(1, 3) AS n))$$);
RESET sabot.graph_max_tasks;
SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL;
-- What the failure of a task means.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('bad', 'SELECT 1/0'),
	sabot.graph_task('next', 'SELECT', '{bad}'), sabot.graph_task('after it', 'SELECT', '{next}'),
	sabot.graph_task('apart', 'SELECT'))) AS graph \gset
CALL sabot.wait_for_job(:graph);
SELECT * FROM pg_temp.tasks(:graph);
SELECT total, done, failed, percent, eta FROM sabot.job_progress WHERE job_id = :graph;
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('bad', 'SELECT 1/0', on_failure => 'skip'),
	sabot.graph_task('next', 'SELECT', '{bad}'),
	sabot.graph_task('as bad', 'SELECT 1/0', on_failure => 'continue'),
	sabot.graph_task('goes on', 'SELECT', '{as bad}'))) AS graph \gset
CALL sabot.wait_for_job(:graph);
SELECT * FROM pg_temp.tasks(:graph);
-- Retry runs again what has not completed.
CREATE TABLE open ();
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('done', 'INSERT INTO effect VALUES (''once'')'),
	sabot.graph_task('bad', 'DO ''BEGIN IF to_regclass(''''graph.open'''') IS NOT NULL THEN RAISE ''''not yet''''; END IF; END''', '{done}'),
	sabot.graph_task('next', 'INSERT INTO effect VALUES (''next'')', '{bad}')), name => 'again') AS graph \gset
SELECT * FROM pg_temp.outcome(:graph);
SELECT code, message, hint FROM pg_temp.try('SELECT sabot.retry_job(' || :graph + 2 || ')');
DROP TABLE open;
SELECT sabot.retry_job(:graph), sabot.retry_job(:graph + 1) AS completed;
CALL sabot.wait_for_job(:graph);
SELECT * FROM pg_temp.tasks(:graph);
SELECT name, count(*) FROM effect WHERE name IN ('once', 'next') GROUP BY 1;
-- Pause, resume and cancel.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('sleep', 'SELECT pg_sleep(60)'),
	sabot.graph_task('next', 'SELECT', '{sleep}'), sabot.graph_task('done', 'SELECT'))) AS graph \gset
SELECT pg_temp.await(format('(SELECT bool_and(state = ''running'' OR name <> ''sleep'') AND bool_or(state = ''completed'') FROM sabot.job_task WHERE parent_id = %s)', :graph));
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :graph;
SELECT sabot.job_state(:graph);
SELECT * FROM pg_temp.tasks(:graph);
SELECT sabot.pause_job(:graph);
SELECT pg_temp.await(format('(SELECT state = ''paused'' FROM sabot.job_task WHERE name = ''sleep'' AND parent_id = %s)', :graph));
SELECT * FROM pg_temp.tasks(:graph);
SELECT sabot.job_state(:graph), sabot.pause_job(:graph) AS again;
SELECT code, message FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :graph));
SELECT sabot.resume_job(:graph);
SELECT pg_temp.await(format('(SELECT state = ''running'' FROM sabot.job_task WHERE name = ''sleep'' AND parent_id = %s)', :graph));
SELECT * FROM pg_temp.tasks(:graph);
SELECT sabot.cancel_job(:graph);
SELECT sabot.job_state(:graph);
SELECT pg_temp.await(format('(SELECT bool_and(finished_at IS NOT NULL) FROM sabot.job_task WHERE parent_id = %s)', :graph));
SELECT * FROM pg_temp.tasks(:graph);
SELECT sabot.cancel_job(:graph) AS again;
CALL sabot.wait_for_job(:graph);
-- One task of a graph is canceled.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT pg_sleep(60)'),
	sabot.graph_task('b', 'SELECT', '{a}'))) AS graph \gset
SELECT sabot.cancel_job(:graph + 1);
SELECT state, error FROM pg_temp.outcome(:graph);
SELECT * FROM pg_temp.tasks(:graph);
-- A timeout is for all of it.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT pg_sleep(60)'),
	sabot.graph_task('b', 'SELECT', '{a}')), timeout => '100 ms') AS graph \gset
SELECT state, code, error FROM pg_temp.outcome(:graph);
SELECT pg_temp.finish(:graph + 1);
SELECT * FROM pg_temp.tasks(:graph);
-- One that is in time, with a key of which there is only one; run_after.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT')), dedup_key => 'k',
	timeout => '1 h', run_after => 'tomorrow') AS graph \gset
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT')), dedup_key => 'k') = :graph AS same;
SELECT state, wait_reason = 'waits for job ' || :graph + 1 AS reason, run_after = 'tomorrow' AS run_after FROM sabot.job_status WHERE job_id = :graph;
SELECT state FROM sabot.job_task WHERE parent_id = :graph;
SELECT sabot.cancel_job(:graph);
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT')), dedup_key => 'k', timeout => '1 h') AS graph \gset
CALL sabot.wait_for_job(:graph);
-- Jobs that depend on jobs.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('SELECT', queue => 'held') AS first,
	sabot.submit_job('SELECT', queue => 'held') AS second \gset
SELECT sabot.submit_job('INSERT INTO effect VALUES (''dependent'')', depends_on => ARRAY[:second, :first, :second]) AS job \gset
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.submit_jobs('{SELECT,SELECT}', depends_on => ARRAY[:job]) AS many,
	sabot.submit_job_each('SELECT $1', '[[1],[2]]', depends_on => ARRAY[:job]) AS each \gset
SELECT DISTINCT state, wait_reason FROM sabot.job_status WHERE job_id = ANY (:'many' || :'each'::bigint[]);
SELECT blocked FROM sabot.queue_status WHERE queue = 'default';
SELECT sabot.cancel_job(:first) \gset
SELECT pg_temp.outcome(:job);
SELECT reason FROM sabot.job_history WHERE job_id = :job;
CALL sabot.wait_for_job(:job);
-- A skipped job can be had again, after what it depends on.
SELECT sabot.retry_job(:first), sabot.retry_job(:job);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''blocked''', :job));
SELECT sabot.resume_queue('held');
CALL sabot.wait_for_job(:job);
SELECT name FROM effect WHERE name = 'dependent';
-- Finished ones, ones of this statement and of this transaction.
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[sabot.submit_job('SELECT 1')]) AS job \gset
CALL sabot.wait_for_job(:job);
BEGIN;
SELECT sabot.submit_job('SELECT 1/0') AS first \gset
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS job \gset
SELECT code, message FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :job));
COMMIT;
SELECT pg_temp.finish(:job);
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS job \gset
SELECT sabot.job_state(:job);
-- Savepoints: what is rolled back leaves nothing, what is not waits.
SELECT sabot.submit_job('SELECT 1/0', queue => 'held', run_after => clock_timestamp() + interval '0.2 s') AS first \gset
BEGIN;
SAVEPOINT s;
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS gone \gset
ROLLBACK TO s;
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS job \gset
RELEASE s;
COMMIT;
SELECT count(*) FROM sabot.job_dependency WHERE job_id = :gone;
SELECT pg_temp.finish(:job);
-- On a graph, and on a task that has failed though its graph went on.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT 1/0', on_failure => 'continue'))) AS graph \gset
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:graph]) AS job,
	sabot.submit_job('SELECT', depends_on => ARRAY[:graph + 1]) AS other \gset
SELECT pg_temp.finish(:job), pg_temp.finish(:other);
-- Prepared transactions.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('SELECT', queue => 'held') AS first \gset
BEGIN;
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:first]) AS job \gset
PREPARE TRANSACTION 'graph';
SELECT sabot.resume_queue('held');
CALL sabot.wait_for_job(:first);
COMMIT PREPARED 'graph';
CALL sabot.wait_for_job(:job);
-- What cannot be depended on.
CREATE ROLE graph_other LOGIN;
SELECT sabot.grant_usage('graph_other');
SET ROLE graph_other;
SELECT code, message FROM unnest(ARRAY[format('{%s}', :job), '{1}', '{NULL}', '{{1}}']) AS jobs,
	pg_temp.try(format('SELECT sabot.submit_job(''SELECT'', depends_on => %L)', jobs));
SELECT code, message FROM pg_temp.try(format('SELECT sabot.graph_dot(%s)', :graph));
RESET ROLE;
SELECT sabot.revoke_usage('graph_other');
DROP ROLE graph_other;
-- A job that waits for what waits for it.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', format($$DO 'BEGIN CALL sabot.wait_for_job(%s); END'$$, last_value + 1)))) AS graph FROM sabot.job_job_id_seq \gset
SELECT pg_temp.finish(:graph);
SELECT sqlstate, error FROM sabot.job_task WHERE parent_id = :graph;
-- A deadline is kept by the agent that runs a task, also as the graph's row is
-- about to be changed by another one.
DO $$
BEGIN
	FOR i IN 1..12 LOOP
		PERFORM sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT pg_sleep(60)')),
			name => 'late', timeout => '50 ms') FROM generate_series(1, 3);
		COMMIT;
		PERFORM pg_sleep(0.06);
	END LOOP;
END
$$;
SELECT count(pg_temp.finish(job_id)) FROM sabot.job_status WHERE name = 'late';
SELECT state, error, count(*) FROM sabot.job_status WHERE name = 'late' GROUP BY 1, 2;
-- What an agent makes of a command does not outlive the job, also if it had to
-- see first whether what that depends on has ended.
SELECT sabot.submit_job('SELECT') AS first \gset
SELECT count(sabot.submit_job('SELECT FROM (VALUES (1)' || repeat(', (1)', 5000) || ') AS v', name => 'long',
	depends_on => ARRAY[:first])) FROM generate_series(1, 200);
SELECT count(pg_temp.finish(job_id)) FROM sabot.job_status WHERE name = 'long';
SELECT pg_temp.await($$(SELECT every(state = 'idle') FROM sabot.agent_status)$$);
SELECT max(memory_bytes) < 10000000 AS small FROM sabot.agent_status;
-- Tasks go with their graph.
SELECT sabot.purge('0') > 0 AS purged;
SELECT count(*) FROM sabot.job_history;
SELECT count(*) FROM sabot.job_dependency;
DROP SCHEMA graph CASCADE;
