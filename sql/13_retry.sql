-- Retries: which errors are tried again, how often, and what is recorded.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 13000) AS ids \gset
CREATE SCHEMA retry;
SET search_path = retry;
-- A sequence counts attempts, as it is not rolled back.
CREATE SEQUENCE tries;
CREATE TABLE effects (n int);
-- fail_until(n, code): raise an error in every try before the nth.
CREATE FUNCTION fail_until(n bigint, code text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	try bigint := nextval('tries');
BEGIN
	INSERT INTO effects VALUES (try);
	IF try < n THEN
		RAISE EXCEPTION 'try %', try USING ERRCODE = code;
	END IF;
	RETURN try;
END $$;
-- This one takes a while: see below.
SELECT sabot.submit_job($$DO 'BEGIN RAISE EXCEPTION ''unlucky'' USING ERRCODE = ''40P01''; END'$$,
	max_attempts => 2, retry_delay => '0') AS unlucky \gset
-- Succeeds in its third attempt.
SELECT sabot.submit_job('SELECT fail_until(3, ''P0001'')', max_attempts => 5, retry_delay => '10 ms') AS id \gset
SELECT state, attempt, code, error FROM pg_temp.outcome(:id);
SELECT attempt, sqlstate, error, started_at <= finished_at AS in_order, pid IS NOT NULL AS has_pid
	FROM sabot.job_attempt WHERE job_id = :id ORDER BY attempt;
SELECT * FROM effects;
-- Fails when its attempts are used up.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(9, ''P0001'')', max_attempts => 3, retry_delay => '0') AS id \gset
SELECT state, attempt, code, error FROM pg_temp.outcome(:id);
SELECT attempt, sqlstate, error FROM sabot.job_attempt WHERE job_id = :id ORDER BY attempt;
-- By default there is one attempt.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(9, ''P0001'')') AS id \gset
SELECT state, attempt, code, error FROM pg_temp.outcome(:id);
-- While it waits it says when and why, and then it can be canceled.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(9, ''P0042'')', max_attempts => 9, retry_delay => '1 hour') AS id \gset
SELECT pg_temp.await(format('(SELECT state = ''scheduled'' FROM sabot.job_status WHERE job_id = %s)', :id));
SELECT state, attempt, sqlstate, error, wait_reason ~ '^retry at .* after SQLSTATE P0042$' AS says_when,
		run_after - clock_timestamp() BETWEEN '30 min' AND '90 min' AS delayed
	FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.cancel_job(:id);
SELECT sabot.job_state(:id);
-- The delay doubles, with jitter: of 100 ms, the third is 300 to 500 ms.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(4, ''P0001'')', max_attempts => 4, retry_delay => '100 ms') AS id \gset
SELECT state, attempt FROM pg_temp.outcome(:id);
SELECT attempt, lead(started_at) OVER w - finished_at >= 0.075 * 2 ^ (attempt - 1) * interval '1 s' AS late_enough
	FROM (SELECT attempt, started_at, finished_at FROM sabot.job_attempt WHERE job_id = :id
		UNION ALL SELECT 4, started_at, finished_at FROM sabot.job_status WHERE job_id = :id) AS a
	WINDOW w AS (ORDER BY attempt) ORDER BY attempt;
-- Classes 40 and 55P03 are tried again without being counted,
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(4, ''40001'')') AS id \gset
SELECT state, attempt, code FROM pg_temp.outcome(:id);
SELECT sqlstate, count(*) FROM sabot.job_attempt WHERE job_id = :id GROUP BY sqlstate;
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(3, ''55P03'')') AS id \gset
SELECT state, attempt, code FROM pg_temp.outcome(:id);
-- ten times, with a delay that doubles: the job submitted first.
SELECT state, attempt, code FROM pg_temp.outcome(:unlucky);
SELECT attempt, count(*) FROM sabot.job_attempt WHERE job_id = :unlucky GROUP BY attempt ORDER BY attempt;
-- Classes 42, 0A, 22 and 28 would fail again: they are never tried again.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_jobs(ARRAY['SELECT fail_until(99, ''42P01'')', 'SELECT fail_until(99, ''0A000'')',
	'SELECT fail_until(99, ''22012'')', 'SELECT fail_until(99, ''28000'')', 'SELEC', 'SELECT 1/0'],
	max_attempts => 9, retry_delay => '0') AS ids \gset
SELECT o.state, o.attempt, o.code FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id) AS o;
-- Others are: a constraint may be met next time.
SELECT sabot.submit_job('CREATE TEMP TABLE u (a int UNIQUE); INSERT INTO u VALUES (1), (1)', max_attempts => 2, retry_delay => '0') AS id \gset
SELECT state, attempt, code FROM pg_temp.outcome(:id);
-- A timeout counts as an attempt.
SELECT sabot.submit_job('SELECT pg_sleep(60)', max_attempts => 2, retry_delay => '0', timeout => '50 ms') AS id \gset
SELECT state, attempt, code, error FROM pg_temp.outcome(:id);
-- A job that is not atomic is tried again if it may be, its effects with it.
TRUNCATE effects;
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('INSERT INTO effects VALUES (0); SELECT fail_until(2, ''P0001'')', atomic => false,
	max_attempts => 2, retry_delay => '0') AS id \gset
SELECT state, attempt, code FROM pg_temp.outcome(:id);
SELECT * FROM effects;
-- Not for free, as it may have had effects.
SELECT setval('tries', 1, false) AS reset \gset
SELECT sabot.submit_job('SELECT fail_until(2, ''40001'')', atomic => false) AS id \gset
SELECT state, attempt, code FROM pg_temp.outcome(:id);
-- retry_job starts over: the same id, all its attempts again.
SELECT sabot.retry_job(:id);
SELECT state, attempt, code FROM pg_temp.outcome(:id);
SELECT sabot.retry_job(:id) AS completed_already;
-- Whether it is atomic is as was asked at submit, not as it ran or did not.
SELECT ARRAY[sabot.submit_job('VACUUM retry.effects', atomic => true), sabot.submit_job('SELECT 1/0', atomic => false),
	sabot.submit_job('SELECT 1/0'), sabot.submit_job('VACUUM retry.effects', atomic => true, run_after => 'infinity',
		dedup_key => 'once')] AS ids \gset
SELECT sabot.cancel_job((:'ids'::bigint[])[4]);
SELECT count(pg_temp.finish(id)) FROM unnest(:'ids'::bigint[]) AS id;
SELECT state, sqlstate, atomic FROM sabot.job_status WHERE job_id = ANY (:'ids') ORDER BY job_id;
SELECT count(sabot.retry_job(id)) FROM unnest(:'ids'::bigint[]) AS id;
SELECT count(pg_temp.finish(id)) FROM unnest(:'ids'::bigint[]) AS id;
SELECT state, sqlstate, atomic FROM sabot.job_status WHERE job_id = ANY (:'ids') ORDER BY job_id;
SET client_min_messages = warning;
DROP SCHEMA retry CASCADE;
