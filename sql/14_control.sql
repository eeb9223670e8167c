-- Control: cancel, pause, resume, retry, queues, purge, and what waiting says.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 14000) AS ids \gset
CREATE SCHEMA control;
SET search_path = control;
CREATE TABLE effects (n int);
-- Cancel what is queued, scheduled, running, paused; and what has finished.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('SELECT 1', queue => 'held') AS queued,
	sabot.submit_job('SELECT 1', run_after => 'infinity') AS scheduled,
	sabot.submit_job('INSERT INTO effects VALUES (1); SELECT pg_sleep(60)') AS running,
	sabot.submit_job('SELECT 1') AS finished \gset
SELECT pg_temp.finish(:finished);
SELECT pg_temp.await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity JOIN sabot.agent_status USING (pid) WHERE job_id = %s)', :running));
SELECT sabot.cancel_job(:queued) AS queued, sabot.cancel_job(:scheduled) AS scheduled,
	sabot.cancel_job(:running) AS running, sabot.cancel_job(:finished) AS finished;
SELECT (pg_temp.outcome(id)).* FROM unnest(ARRAY[:queued, :scheduled, :running, :finished]) AS id;
SELECT sabot.cancel_job(:running) AS again;
SELECT sabot.resume_queue('held');
SELECT count(*) AS effects FROM effects;
-- One that catches everything is canceled all the same, before it commits.
SELECT sabot.submit_job($$DO 'BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN INSERT INTO control.effects VALUES (2); END'$$) AS id \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :id));
SELECT sabot.cancel_job(:id);
SELECT state, code, error FROM pg_temp.outcome(:id);
SELECT count(*) AS effects FROM effects;
-- Nothing happens before the commit, and nothing at all after a rollback.
SELECT sabot.submit_job('SELECT 1', run_after => 'infinity') AS id \gset
BEGIN;
SELECT sabot.cancel_job(:id);
SELECT sabot.job_state(:id);
ROLLBACK;
SELECT sabot.job_state(:id);
BEGIN;
SAVEPOINT s;
SELECT sabot.cancel_job(:id);
ROLLBACK TO s;
SELECT sabot.pause_job(:id);
COMMIT;
SELECT sabot.job_state(:id);
BEGIN;
SELECT sabot.cancel_job(:id);
COMMIT;
SELECT sabot.job_state(:id);
-- A job can be canceled in the transaction that submits it.
BEGIN;
SELECT sabot.submit_job('INSERT INTO effects VALUES (3)') AS id \gset
SELECT sabot.cancel_job(:id);
COMMIT;
SELECT sabot.job_state(:id);
SELECT count(*) AS effects FROM effects;
-- Pause and resume; a running job is rolled back and starts over.
CREATE TABLE go ();
SELECT sabot.submit_job($$INSERT INTO effects VALUES (4);
	DO 'BEGIN IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(''control.go'')) THEN PERFORM pg_sleep(60); END IF; END'$$) AS id \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :id));
SELECT sabot.resume_job(:id) AS not_paused;
SELECT sabot.pause_job(:id);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :id));
SELECT state, wait_reason, attempt FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.pause_job(:id) AS again;
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
DROP TABLE go;
SELECT sabot.resume_job(:id);
SELECT state, attempt FROM pg_temp.outcome(:id);
SELECT sabot.pause_job(:id) AS finished, sabot.resume_job(:id) AS finished;
SELECT * FROM effects;
-- A scheduled job that is resumed waits for its time again.
SELECT sabot.submit_job('SELECT 1', run_after => 'infinity') AS id \gset
SELECT sabot.pause_job(:id);
SELECT sabot.job_state(:id);
SELECT sabot.resume_job(:id);
SELECT sabot.job_state(:id);
SELECT sabot.pause_job(:id);
SELECT sabot.cancel_job(:id) AS paused;
SELECT sabot.job_state(:id);
-- retry_job: failed, canceled; not those unfinished or completed.
SELECT sabot.retry_job(:id);
SELECT state, attempt, code FROM pg_temp.outcome(:id);
SELECT sabot.submit_job('INSERT INTO effects SELECT 1 / (SELECT count(*) FROM effects WHERE n = 5)', dedup_key => 'd') AS id \gset
SELECT state, code FROM pg_temp.outcome(:id);
INSERT INTO effects VALUES (5);
SELECT sabot.retry_job(:id);
SELECT state, attempt, code, error FROM pg_temp.outcome(:id);
SELECT sabot.retry_job(:id) AS completed;
SELECT sabot.submit_job('SELECT 1/0', dedup_key => 'd') AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT sabot.submit_job('SELECT 1', dedup_key => 'd', run_after => 'infinity') AS other \gset
SELECT sabot.retry_job(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT sabot.retry_job(:other) AS unfinished;
SELECT sabot.cancel_job(:other);
-- A paused queue starts nothing; its running jobs go on.
SELECT sabot.submit_job('SELECT pg_advisory_lock(14); INSERT INTO effects VALUES (6)', queue => 'q') AS running
	FROM pg_advisory_lock(14) \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :running));
SELECT sabot.pause_queue('q');
SELECT sabot.submit_job('INSERT INTO effects VALUES (7)', queue => 'q', priority => 1000) AS waiting \gset
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :waiting;
SELECT paused, max_running, waiting, running FROM sabot.queue_status WHERE queue = 'q';
SELECT pg_advisory_unlock(14);
SELECT pg_temp.finish(:running);
SELECT state FROM sabot.job_status WHERE job_id = :waiting;
BEGIN;
SELECT sabot.resume_queue('q');
ROLLBACK;
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :waiting;
SELECT sabot.resume_queue('q');
SELECT pg_temp.finish(:waiting);
-- A job that comes with the pause of its queue waits, in whatever order.
BEGIN;
SELECT sabot.submit_job('SELECT 1', queue => 'q') AS id \gset
SELECT sabot.pause_queue('q');
COMMIT;
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.cancel_job(:id);
SELECT sabot.resume_queue('q');
-- Also if an agent finds it in the table before it hears of the pause: here
-- nobody is told of anything, until a job that is due makes agents look.
SELECT sabot.submit_job('SELECT 1', queue => 'early', run_after => 'infinity') AS paused,
	sabot.submit_job('SELECT 1', queue => 'late', run_after => 'infinity') AS other \gset
BEGIN;
INSERT INTO sabot.queue (queue, paused) VALUES ('early', true);
UPDATE sabot.job SET state = 'queued' WHERE job_id IN (:paused, :other);
COMMIT;
SELECT sabot.submit_job('SELECT 1', run_after => clock_timestamp() + '20 ms') AS due \gset
SELECT pg_temp.finish(:other);
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :paused;
SELECT sabot.cancel_job(:paused);
SELECT sabot.resume_queue('early');
SELECT pg_temp.finish(:due);
-- A limit: never more at once, and none needed twice.
CREATE TABLE running_now (id int, n bigint);
SELECT sabot.set_queue_limit('q', 1);
SELECT sabot.submit_job_each('INSERT INTO running_now SELECT $1, count(*) FROM sabot.job_status, pg_sleep(0.02) WHERE queue = ''q'' AND state = ''running'' AND finished_at IS NULL',
	'[[1], [2], [3], [4], [5], [6]]', queue => 'q') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT count(*), max(n) FROM running_now;
SELECT paused, max_running, waiting, running FROM sabot.queue_status WHERE queue = 'q';
SELECT sabot.set_queue_limit('q', NULL);
-- What waiting says: nothing if all went well, else the job's own error.
CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'));
CALL sabot.wait_for_jobs(ARRAY[sabot.submit_job('SELECT 1'), sabot.submit_job('SELECT 2')], '1 min');
SELECT sabot.submit_job($$DO 'BEGIN RAISE EXCEPTION ''my error'' USING ERRCODE = ''P0042'', DETAIL = ''my detail'', HINT = ''my hint''; END'$$) AS id \gset
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT sabot.submit_job('SELECT 1', run_after => 'infinity') AS other \gset
-- One that failed is reported although another goes on.
CALL sabot.wait_for_jobs(ARRAY[:other, :id]);
\echo :LAST_ERROR_SQLSTATE
CALL sabot.wait_for_job(:other, '20 ms');
\echo :LAST_ERROR_SQLSTATE
CALL sabot.wait_for_job(:other, '0');
SELECT sabot.pause_job(:other);
CALL sabot.wait_for_job(:other);
SELECT sabot.cancel_job(:other);
CALL sabot.wait_for_job(:other);
\echo :LAST_ERROR_SQLSTATE
-- Waiting inside a transaction: of others' jobs yes, of its own no.
BEGIN;
SELECT sabot.submit_job('SELECT 1') AS id \gset
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT sabot.submit_job('SELECT pg_sleep(0.05)') AS id \gset
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) > 0 AS has_snapshot FROM pg_class;
CALL sabot.wait_for_job(:id);
COMMIT;
SELECT sabot.job_state(:id);
-- A call in a function cannot commit: it says so rather than hang.
CREATE FUNCTION submit_and_hang() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'));
END $$;
SELECT submit_and_hang();
\echo :LAST_ERROR_SQLSTATE
-- Where it can, it does.
DO $$BEGIN CALL sabot.wait_for_job(sabot.submit_job('SELECT 1')); END$$;
CREATE PROCEDURE submit_and_wait() LANGUAGE plpgsql AS $$
DECLARE
	id bigint := sabot.submit_job('SELECT 1');
BEGIN
	COMMIT;
	CALL sabot.wait_for_job(id);
	RAISE NOTICE 'it is %', sabot.job_state(id);
END $$;
CALL submit_and_wait();
-- A job that waits for a lock of the waiter's: no wait for ever.
\set VERBOSITY terse
SELECT sabot.submit_job('INSERT INTO effects VALUES (8)') AS id \gset
CALL sabot.wait_for_job(:id);
BEGIN;
LOCK TABLE effects;
SELECT sabot.run($$SELECT sabot.submit_job('INSERT INTO control.effects VALUES (9)') AS id$$)->>'id' AS id \gset
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
CALL sabot.wait_for_job(:id);
-- A job that waits for itself.
CREATE FUNCTION self() RETURNS bigint LANGUAGE sql AS $$
	SELECT job_id FROM sabot.agent_status WHERE pid = pg_backend_pid() $$;
SELECT sabot.submit_job('CALL sabot.wait_for_job(control.self())') AS id \gset
SELECT state, code, error FROM pg_temp.outcome(:id);
-- Jobs that wait for jobs: even more of them than agents.
SELECT sabot.submit_job('INSERT INTO effects VALUES (10)', queue => 'last') AS last FROM sabot.pause_queue('last') \gset
SELECT sabot.submit_job_each('CALL sabot.wait_for_job($1)', jsonb_agg(jsonb_build_array(:last))) AS ids
	FROM generate_series(1, 6) \gset
SELECT pg_temp.await('(SELECT waiting = 6 FROM sabot.pool_status)');
SELECT sabot.resume_queue('last');
CALL sabot.wait_for_jobs(:'ids');
SELECT count(*) FROM effects WHERE n = 10;
\set VERBOSITY default
-- purge: finished jobs only, and their attempts with them.
SELECT sabot.purge() AS too_young;
SELECT sabot.submit_job('SELECT 1', run_after => 'infinity') AS id \gset
SELECT count(*) > 0 AS some FROM sabot.job_status WHERE finished_at IS NOT NULL;
SELECT sabot.purge('0') > 0 AS purged;
SELECT count(*) FROM sabot.job_status WHERE finished_at IS NOT NULL;
SELECT count(*) AS attempts FROM sabot.job_attempt;
SELECT sabot.cancel_job(:id);
-- Agents that have nothing to do forget jobs after sabot.keep_jobs, if ever.
SELECT sabot.submit_jobs('{SELECT 1,SELECT 2}') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
UPDATE sabot.job_history SET finished_at = finished_at - CASE command WHEN 'SELECT 1' THEN interval '8 days' ELSE '6 days' END
	WHERE job_id = ANY (:'ids');
\set await_setting :srcdir /test/lib/await_setting.sql
\set setting sabot.keep_jobs
\set value -1
ALTER SYSTEM SET sabot.keep_jobs = -1;
SELECT pg_reload_conf();
\set ECHO none
\i :await_setting
\set ECHO all
SELECT sabot.stop_agents() > 0 AS stopped;
CALL sabot.wait_for_job(sabot.submit_job('SELECT 3'));
SELECT pg_temp.await('(SELECT every(state = ''idle'') FROM sabot.agent_status)');
SELECT command FROM sabot.job_status WHERE job_id = ANY (:'ids') ORDER BY job_id;
\set value 7d
ALTER SYSTEM RESET sabot.keep_jobs;
SELECT pg_reload_conf();
\set ECHO none
\i :await_setting
\set ECHO all
SELECT sabot.stop_agents() > 0 AS stopped;
CALL sabot.wait_for_job(sabot.submit_job('SELECT 3'));
SELECT pg_temp.await(format('(SELECT count(*) < 2 FROM sabot.job_status WHERE job_id = ANY (%L))', :'ids'));
SELECT command FROM sabot.job_status WHERE job_id = ANY (:'ids') ORDER BY job_id;
-- Agents by hand.
SELECT sabot.start_agents(2) >= 2 AS started;
SELECT pg_temp.await('(SELECT count(*) >= 2 FROM sabot.agent_status WHERE database = current_database() AND state = ''idle'')');
SELECT sabot.stop_agents() >= 2 AS stopped;
SELECT count(*) AS agents FROM sabot.agent_status WHERE database = current_database();
CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'));
-- An attempt that is paused is not counted, outside a transaction block neither.
SELECT sabot.submit_job($$SELECT pg_advisory_lock(15)$$, atomic => false) AS id
	FROM pg_advisory_lock(15) \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :id));
SELECT sabot.pause_job(:id);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :id));
SELECT attempt, losses, atomic, started_at FROM sabot.job_status WHERE job_id = :id;
SELECT pg_advisory_unlock(15);
SELECT sabot.resume_job(:id);
SELECT state, attempt FROM pg_temp.outcome(:id);
-- A pause that is taken back before the agent has come to it is none.
SELECT sabot.submit_job($$SELECT pg_advisory_lock(16)$$) AS id FROM pg_advisory_lock(16) \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :id));
SELECT sabot.pause_job(:id);
SELECT sabot.resume_job(:id);
SELECT pg_advisory_unlock(16);
SELECT state, attempt FROM pg_temp.outcome(:id);
SET client_min_messages = warning;
DROP SCHEMA control CASCADE;
