-- Jobs that are committed together do not notice it.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA grouped;
SET search_path = grouped, public;
CREATE TABLE effect (n int, xid xid8 DEFAULT pg_current_xact_id(), work_mem text DEFAULT current_setting('work_mem'),
	who name DEFAULT current_user, temp regclass DEFAULT to_regclass('pg_temp.leftover'),
	locks bigint);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE ROLE grouped_other;
SELECT current_user AS me, current_setting('work_mem') AS my_work_mem \gset
ALTER ROLE :"me" SET sabot.group_commit = 100;
SELECT sabot.set_queue_limit('grouped', 1), sabot.pause_queue('grouped');
CREATE TEMP TABLE before AS SELECT labels->>'state' AS state, value FROM sabot.metric
	WHERE name = 'sabot_jobs_finished_total';
-- Each job tries to leave something to the next one, which records what it finds.
SELECT sabot.submit_jobs(ARRAY[
	'INSERT INTO effect VALUES (1); SET work_mem = ''77kB''',
	'INSERT INTO effect VALUES (2); SET LOCAL work_mem = ''78kB''',
	'INSERT INTO effect VALUES (3); SET ROLE grouped_other',
	'INSERT INTO effect VALUES (4); SELECT pg_advisory_lock(4)',
	'INSERT INTO effect (n, locks) SELECT 5, count(*) FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid(); SELECT pg_advisory_xact_lock(5)',
	'INSERT INTO effect (n, locks) SELECT 6, count(*) FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid(); CREATE TEMP TABLE leftover (a int) ON COMMIT DROP',
	'INSERT INTO effect VALUES (7); LOCK TABLE parent IN ACCESS EXCLUSIVE MODE',
	'INSERT INTO effect (n, locks) SELECT 8, count(*) FROM pg_locks WHERE relation = ''parent''::regclass AND mode = ''AccessExclusiveLock''; DECLARE c CURSOR WITH HOLD FOR SELECT 1; PREPARE p AS SELECT 1',
	'INSERT INTO effect (n, locks) SELECT 9, (SELECT count(*) FROM pg_cursors WHERE name = ''c'') + (SELECT count(*) FROM pg_prepared_statements WHERE name = ''p'')',
	-- a deferred constraint that is satisfied in time, and one that is not
	'INSERT INTO effect VALUES (10); INSERT INTO child VALUES (10); INSERT INTO parent VALUES (10)',
	'INSERT INTO effect VALUES (11); INSERT INTO child VALUES (11)',
	'INSERT INTO effect VALUES (12); INSERT INTO child VALUES (12); INSERT INTO parent VALUES (12)',
	-- errors, of which only the last leaves anything
	'INSERT INTO effect VALUES (13); SELECT 1/0',
	'INSERT INTO effect VALUES (14); SET TRANSACTION ISOLATION LEVEL SERIALIZABLE',
	'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; INSERT INTO effect VALUES (15)',
	'DO $d$ BEGIN INSERT INTO effect VALUES (16); LOCK TABLE parent; EXCEPTION WHEN OTHERS THEN INSERT INTO effect VALUES (-16); END $d$',
	'INSERT INTO effect VALUES (17); VACUUM parent',
	'VACUUM parent',
	'INSERT INTO effect VALUES (18)'], queue => 'grouped') AS ids \gset
-- and enough ordinary ones for a group
SELECT sabot.submit_job_each('INSERT INTO effect VALUES ($1)', (SELECT jsonb_agg(jsonb_build_array(i)) FROM generate_series(101, 200) AS i),
	queue => 'grouped') AS more \gset
SELECT sabot.resume_queue('grouped');
CALL sabot.wait_for_jobs(:'more');
SELECT job_id - (:'ids'::bigint[])[1] + 1 AS job, state, sqlstate, attempt, atomic FROM sabot.job_status
	WHERE job_id = ANY (:'ids') ORDER BY job_id;
SELECT n, work_mem = :'my_work_mem' AS work_mem, who = :'me' AS who, temp, locks FROM effect WHERE n < 100 ORDER BY n;
SELECT count(*), count(DISTINCT n), count(DISTINCT xid) < count(*) AS together FROM effect WHERE n > 100;
SELECT count(*) FROM child;
-- Of a job that times out, those before and after it do not notice either.
SELECT sabot.pause_queue('grouped');
SELECT sabot.submit_job('INSERT INTO effect VALUES (301)', queue => 'grouped') AS first,
	sabot.submit_job('INSERT INTO effect VALUES (302); SELECT pg_sleep(60)', queue => 'grouped', timeout => '100 ms') AS slow,
	sabot.submit_job('INSERT INTO effect VALUES (303)', queue => 'grouped') AS last \gset
SELECT sabot.resume_queue('grouped');
CALL sabot.wait_for_jobs(ARRAY[:first, :last]);
CALL sabot.wait_for_job(:slow);
SELECT n FROM effect WHERE n > 300 ORDER BY n;
-- Each is counted once, however often it was tried.
SELECT state, m.value - b.value = (SELECT count(*) FROM sabot.job_status AS j
		WHERE j.job_id >= (:'ids'::bigint[])[1] AND j.state::text = b.state) AS counted
	FROM before AS b JOIN sabot.metric AS m ON m.labels->>'state' = b.state AND m.name = 'sabot_jobs_finished_total'
	ORDER BY state;
ALTER ROLE :"me" RESET sabot.group_commit;
DROP SCHEMA grouped CASCADE;
DROP ROLE grouped_other;
SELECT sabot.set_queue_limit('grouped', NULL);
