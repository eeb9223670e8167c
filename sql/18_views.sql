-- Views: why a job waits, how far it is, where time goes, what to watch.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 18000) AS ids \gset
\set await_setting :srcdir /test/lib/await_setting.sql
CREATE SCHEMA views;
SET search_path = views;
CREATE VIEW waiting AS SELECT job_id, state, wait_reason FROM sabot.job_status WHERE job_id > 18000 AND finished_at IS NULL;
-- What lies in the job or its queue.
SELECT sabot.submit_job('SELECT 1', run_after => '2199-01-01 00:00:00+00') AS scheduled,
	sabot.submit_job('SELECT 1/0', run_after => '2199-01-01 00:00:00+00') AS paused,
	sabot.submit_job('SELECT 1', queue => 'p') AS in_paused
	FROM sabot.pause_queue('p') \gset
SELECT sabot.pause_job(:paused);
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT state, wait_reason FROM waiting ORDER BY job_id;
-- A queue's limit.
SELECT sabot.set_queue_limit('one', 1);
SELECT sabot.submit_job('SELECT pg_advisory_lock(18)', queue => 'one') AS running FROM pg_advisory_lock(18) \gset
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :running));
SELECT sabot.submit_job('SELECT 1', queue => 'one', run_after => clock_timestamp()) AS next \gset
SELECT state, wait_reason FROM waiting WHERE job_id = :next;
SELECT queue, paused, max_running, waiting, running, oldest_waiting <= clock_timestamp() AS oldest_waiting
	FROM sabot.queue_status WHERE queue IN ('p', 'one') ORDER BY queue;
-- All agents busy.
SELECT sabot.submit_jobs(array_fill('SELECT pg_advisory_lock_shared(18)'::text, '{3}')) AS busy \gset
SELECT pg_temp.await('(SELECT busy = 4 FROM sabot.pool_status)');
SELECT sabot.submit_job('SELECT 1') AS crowded \gset
SELECT state, wait_reason FROM waiting WHERE job_id = :crowded;
SELECT agents, busy, idle, starting, slots, waiting_pairs FROM sabot.pool_status;
SELECT database = current_database() AS here, role = current_user AS mine, state, job_id, since <= clock_timestamp() AS since,
		pid <> pg_backend_pid() AS other_process, jobs_done >= 0 AS jobs_done, queries_done >= 0 AS queries_done
	FROM sabot.agent_status ORDER BY job_id;
SELECT job_id, state, attempt, pid IN (SELECT pid FROM sabot.agent_status) AS pid, started_at <= clock_timestamp() AS started
	FROM sabot.job_status WHERE job_id = :running;
SELECT job_id, state, total, done, failed, percent, rows, rate, eta, bar FROM sabot.job_progress WHERE job_id = :running;
SELECT pg_advisory_unlock(18);
CALL sabot.wait_for_jobs((:'busy'::bigint[] || ARRAY[:running, :next, :crowded]::bigint[]));
SELECT job_id, name, state, total, done, failed, percent, rows, rate > 0 AS rate, eta, bar FROM sabot.job_progress WHERE job_id = :running;
SELECT sabot.submit_job('SELECT 1/0') AS bad \gset
SELECT state FROM pg_temp.outcome(:bad);
SELECT state, total, done, failed, percent, rows, eta, bar FROM sabot.job_progress WHERE job_id = :bad;
-- The server's settings.
\set setting sabot.enabled
\set value off
ALTER SYSTEM SET sabot.enabled = off;
SELECT pg_reload_conf();
\set ECHO none
\i :await_setting
\set ECHO all
SELECT pg_temp.await('(SELECT agents = 0 FROM sabot.pool_status)');
SELECT sabot.submit_job('SELECT 1') AS off \gset
SELECT state, wait_reason FROM waiting WHERE job_id = :off;
SELECT subject, ok, detail, advice FROM sabot.check() WHERE subject = 'enabled';
SELECT * FROM sabot.run('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT sabot.start_agents();
\echo :LAST_ERROR_SQLSTATE
\set setting sabot.pool_size
\set value 0
ALTER SYSTEM SET sabot.pool_size = 0;
ALTER SYSTEM RESET sabot.enabled;
SELECT pg_reload_conf();
\set ECHO none
\i :await_setting
\set ECHO all
SELECT state, wait_reason FROM waiting WHERE job_id = :off;
SELECT ok, advice FROM sabot.check() WHERE subject = 'pool size';
ALTER SYSTEM RESET sabot.pool_size;
SELECT pg_reload_conf();
\set value 4
\set ECHO none
\i :await_setting
\set ECHO all
CALL sabot.wait_for_job(:off);
-- A copied job does not run before it is adopted.
SELECT sabot.submit_job('SELECT 1', run_after => '2199-01-01 00:00:00+00') AS copied \gset
UPDATE sabot.job SET home = home + 1, run_after = NULL, state = 'queued' WHERE job_id = :copied;
SELECT state, wait_reason FROM waiting WHERE job_id = :copied;
SELECT sabot.job_state(:copied);
SELECT sabot.resume_job(:copied);
\echo :LAST_ERROR_SQLSTATE
CALL sabot.wait_for_job(:copied);
\echo :LAST_ERROR_SQLSTATE
SELECT ok, detail, advice FROM sabot.check() WHERE subject = 'copied jobs';
SELECT sabot.adopt_jobs();
CALL sabot.wait_for_job(:copied);
-- Owners that cannot have agents.
CREATE ROLE regress_views LOGIN;
SELECT sabot.grant_usage('regress_views');
SET ROLE regress_views;
SELECT sabot.submit_job('SELECT 1', queue => 'p') AS theirs, sabot.submit_job('SELECT 1', run_after => '2199-01-01') AS far \gset
RESET ROLE;
REVOKE CONNECT ON DATABASE contrib_regression FROM PUBLIC;
SELECT sabot.wait_reason(0, 'queued', 'default', false, NULL, 'regress_views'::regrole, sabot.home(), NULL, NULL, NULL, NULL);
GRANT CONNECT ON DATABASE contrib_regression TO PUBLIC;
SELECT sabot.wait_reason(0, 'queued', 'default', false, NULL, 99999999, sabot.home(), NULL, NULL, NULL, NULL);
SELECT sabot.wait_reason(0, 'blocked', 'default', false, NULL, 'regress_views'::regrole, sabot.home(), NULL, NULL, NULL, ARRAY[17]),
	sabot.wait_reason(0, 'blocked', 'default', false, NULL, 'regress_views'::regrole, sabot.home(), NULL, NULL, NULL, ARRAY[17, 18]),
	sabot.wait_reason(0, 'running', 'default', false, NULL, 'regress_views'::regrole, sabot.home(), NULL, NULL, NULL, NULL);
-- Never NULL while it waits, never given when it does not.
SELECT count(*) FROM sabot.job_status
	WHERE (wait_reason IS NOT NULL) <> (state IN ('scheduled', 'blocked', 'queued', 'paused'));
SELECT sabot.cancel_job(job_id) FROM waiting ORDER BY job_id;
SELECT count(*) FROM waiting;
SELECT sabot.revoke_usage('regress_views');
DROP ROLE regress_views;
-- Where the time of a job goes: the parts add up to the whole.  Not of jobs
-- that agents have read from the table, as new ones do and all after a probe.
CREATE TEMP TABLE profiled AS SELECT component, count FROM sabot.overhead_profile;
DO $$
DECLARE
	ids bigint[];
BEGIN
	FOR i IN 1 .. 100 LOOP
		ids := sabot.submit_jobs(array_fill('SELECT pg_sleep(0.002)'::text, '{50}'));
		COMMIT;
		CALL sabot.wait_for_jobs(ids);
		EXIT WHEN (SELECT n.count >= p.count + 40 FROM sabot.overhead_profile AS n, profiled AS p
			WHERE n.component = 'total' AND p.component = 'total');
	END LOOP;
END $$;
SELECT component, first_ms > 0 AS first, n.count >= p.count + 40 AS count, mean_ms > 0 AS mean, p50_ms > 0 AS p50, p95_ms >= p50_ms AS p95,
		share > 0 AS share
	FROM sabot.overhead_profile AS n JOIN profiled AS p USING (component) WHERE component <> 'agent start' AND component NOT LIKE 'query %';
SELECT count(*) FROM sabot.overhead_profile
	WHERE component = 'agent start' AND first_ms > 0 AND count > 0 AND mean_ms > 0 AND share IS NULL;
SELECT abs(sum(share) FILTER (WHERE component <> 'total') - 1) <= 0.05 AS shares_add_up,
		abs(sum(mean_ms * count) FILTER (WHERE component NOT IN ('total', 'agent start'))
			/ sum(mean_ms * count) FILTER (WHERE component = 'total') - 1) <= 0.05 AS times_add_up
	FROM sabot.overhead_profile WHERE component NOT LIKE 'query %';
-- Names for Prometheus.
SELECT name, count(*) > 0 AS there, bool_and(name ~ '^sabot_[a-z_]+$' AND value >= 0 AND jsonb_typeof(labels) = 'object') AS sane
	FROM sabot.metric GROUP BY name ORDER BY name;
SELECT labels, value FROM sabot.metric WHERE name = 'sabot_jobs' ORDER BY labels;
SELECT name, value FROM sabot.metric WHERE labels->>'queue' = 'one' ORDER BY name;
SELECT value > 0 AS losses_counted FROM sabot.metric WHERE name = 'sabot_agent_starts_total';
-- What has finished is counted once, when that is committed, and only then.
CREATE VIEW finished AS SELECT name, labels, value FROM sabot.metric
	WHERE name IN ('sabot_jobs_finished_total', 'sabot_job_retries_total');
CREATE TEMP TABLE before AS SELECT * FROM finished;
CREATE TABLE once (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
SELECT ARRAY[sabot.submit_job('SELECT 1'),
	sabot.submit_job('VACUUM views.once'),
	sabot.submit_job('SELECT 1/0'),
	sabot.submit_job('INSERT INTO views.once VALUES (1), (1)', max_attempts => 2, retry_delay => '0')] AS ids,
	sabot.submit_job('SELECT pg_sleep(600)') AS running,
	sabot.submit_job('SELECT 1', run_after => 'infinity') AS waiting \gset
SELECT count(pg_temp.finish(id)) FROM unnest(:'ids'::bigint[]) AS id;
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :running));
BEGIN;
SELECT sabot.cancel_job(:waiting), sabot.cancel_job(:running);
ROLLBACK;
SELECT sabot.cancel_job(:waiting), sabot.cancel_job(:running);
SELECT pg_temp.finish(:running);
SELECT pg_temp.await('(SELECT sum(f.value) - sum(b.value) >= 7 FROM finished AS f JOIN before AS b USING (name, labels))');
SELECT name, labels, f.value - b.value AS more FROM finished AS f JOIN before AS b USING (name, labels) ORDER BY name, labels;
-- The doctor: says what is wrong, and what to do.
SELECT subject, ok, detail, advice FROM sabot.check() WHERE subject = 'paused queues';
SELECT sabot.resume_queue('p'), sabot.set_queue_limit('one', NULL);
SELECT pg_temp.await('(SELECT waiting_pairs = 0 FROM sabot.pool_status)');
SELECT subject, ok, advice IS NULL AS no_advice FROM sabot.check() WHERE subject NOT IN ('dynamic shared memory', 'failed jobs', 'paused queues');
SELECT ok, advice FROM sabot.check() WHERE subject = 'dynamic shared memory';
SELECT ok, detail LIKE 'jobs that failed in the last day: %, the latest is job ' || (:'ids'::bigint[])[4] AS detail, advice FROM sabot.check() WHERE subject = 'failed jobs';
SELECT sabot.pause_queue('odd "queue''s" name');
SELECT ok, detail, advice FROM sabot.check() WHERE subject = 'paused queues';
SELECT sabot.resume_queue('odd "queue''s" name');
SET client_min_messages = warning;
DROP SCHEMA views CASCADE;
