-- Schedules: when they are due, and what becomes of their runs.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 25000) AS ids \gset
\set await_setting :srcdir /test/lib/await_setting.sql
SET client_min_messages = warning;
CREATE SCHEMA schedule;
SET search_path = schedule, pg_catalog;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = postgres;
-- When cron is due.  17 January 2026 is a Saturday.
SELECT s AS schedule, sabot.next_due(s, '2026-01-17 10:20:30Z', timezone => 'UTC') AS due FROM unnest(ARRAY[
	'* * * * *', '*/15 * * * *', '7-59/20 * * * *', '20 10 * * *', '21 10 * * *', '0,30 8-9 * * *',
	'0 0 1 * *', '0 0 31 * *', '0 0 29 2 *', '0 12 * feb *', '0 12 * * mon', '0 12 * * 0', '0 12 * * 7',
	'0 12 * * SUN', '0 12 * * fri-sun', '0 12 * * mon-fri/2', '0 12 1,15 * mon', '0 12 */10 * mon',
	'0 12 13 * fri', '0 0 29 2 mon', '59 23 31 12 *', ' 5	4 * * * ', '5 4 * * 1-5',
	'@hourly', '@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@ANNUALLY ']) AS s;
-- The next ones of each.
CREATE FUNCTION dues(schedule text, zone text, after timestamptz, n int, first timestamptz DEFAULT NULL)
	RETURNS SETOF timestamptz LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		after := sabot.next_due(schedule, after, first, zone);
		RETURN NEXT after;
	END LOOP;
END $$;
CREATE FUNCTION shown(schedule text, zone text, after timestamptz, n int, first timestamptz DEFAULT NULL)
	RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	t timestamptz;
BEGIN
	PERFORM set_config('TimeZone', zone, true);
	FOR t IN SELECT d FROM schedule.dues(schedule, zone, after, n, first) AS d LOOP
		RETURN NEXT to_char(t, 'YYYY-MM-DD Dy HH24:MI:SS TZH:TZM');
	END LOOP;
	PERFORM set_config('TimeZone', 'UTC', true);
END $$;
-- The clock is set forward: what is left out is had at once, and once; what
-- names no hour goes by elapsed time.
SELECT shown('30 2 * * *', 'Europe/Berlin', '2026-03-27 12:00Z', 4);
SELECT shown('0,20,40 2 * * *', 'Europe/Berlin', '2026-03-28 12:00Z', 4);
SELECT shown('30 2,3 * * *', 'Europe/Berlin', '2026-03-28 12:00Z', 3);
SELECT shown('0 2,3 * * *', 'Europe/Berlin', '2026-03-28 12:00Z', 3);
SELECT shown('30 2 29 3 *', 'Europe/Berlin', '2026-01-01 00:00Z', 2);
SELECT shown('30 * * * *', 'Europe/Berlin', '2026-03-28 23:40Z', 4);
SELECT shown('*/15 * * * *', 'America/New_York', '2026-03-08 06:40Z', 3);
SELECT shown('30 2 * * *', 'America/New_York', '2026-03-07 06:00Z', 3);
SELECT shown('15 2 * * *', 'Australia/Lord_Howe', '2026-10-02 12:00Z', 3);
SELECT shown('*/10 * * * *', 'Australia/Lord_Howe', '2026-10-03 15:15Z', 3);
SELECT shown('0 0 * * *', 'America/Sao_Paulo', '2018-11-03 00:00Z', 3);
SELECT shown('0 6 * * *', 'Pacific/Apia', '2011-12-29 00:00Z', 4);
-- The clock is set back: what comes twice is had once, the first time.
SELECT shown('30 2 * * *', 'Europe/Berlin', '2026-10-24 12:00Z', 2);
SELECT shown('30 2 * * *', 'Europe/Berlin', '2026-10-25 00:45Z', 2);
SELECT shown('*/30 2 * * *', 'Europe/Berlin', '2026-10-24 12:00Z', 3);
SELECT shown('30 * * * *', 'Europe/Berlin', '2026-10-24 23:40Z', 4);
SELECT shown('*/20 1-3 * * *', 'America/New_York', '2026-11-01 04:59Z', 10);
SELECT shown('45 1 * * *', 'Australia/Lord_Howe', '2026-04-03 12:00Z', 3);
SELECT shown('45 * * * *', 'Australia/Lord_Howe', '2026-04-04 13:50Z', 3);
SELECT shown('0 9 * * mon-fri', 'Asia/Kolkata', '2026-10-23 12:00Z', 2);
-- Every day has its run in every zone, at its time or when the clock jumped
-- over it; what names no hour has one an hour.
SELECT z AS zone, count(*) AS runs, count(DISTINCT (d AT TIME ZONE z)::date) AS days,
	count(*) FILTER (WHERE to_char(d AT TIME ZONE z, 'HH24:MI') <> '02:15') AS elsewhere
FROM unnest(ARRAY['UTC', 'Europe/Berlin', 'Europe/Dublin', 'America/New_York', 'America/St_Johns', 'Australia/Lord_Howe', 'Asia/Kolkata', 'Africa/Casablanca']) AS z,
	dues('15 2 * * *', z, '2024-01-01 00:00Z', 1000) AS d
GROUP BY z ORDER BY z;
SELECT z AS zone, count(*) AS runs, min(d), max(d)
FROM unnest(ARRAY['Europe/Berlin', 'America/New_York', 'Asia/Kolkata']) AS z,
	dues('30 * * * *', z, '2026-01-01 00:00Z', 8760) AS d
GROUP BY z ORDER BY z;
-- Intervals: the n-th due time is counted from the first one.
SELECT shown('1 month', 'Europe/Berlin', '2026-01-31 01:30Z', 5, '2026-01-31 01:30Z');
SELECT shown('1 month', 'UTC', '2026-04-30 12:00Z', 2, '2026-01-31 02:30Z');
SELECT shown('1 year', 'UTC', '2024-02-29 00:00Z', 4, '2024-02-29 00:00Z');
SELECT shown('1 day', 'Europe/Berlin', '2026-03-27 12:00Z', 3, '2026-01-01 01:30Z');
SELECT shown('24 hours', 'Europe/Berlin', '2026-03-27 12:00Z', 3, '2026-01-01 01:30Z');
SELECT shown('1 day', 'Europe/Berlin', '2026-10-23 12:00Z', 3, '2026-01-01 01:30Z');
SELECT shown('90 min', 'UTC', '2026-01-01 00:10Z', 3, '2026-01-01 00:00Z');
SELECT shown('1 mon 1 day 1 hour', 'UTC', '2026-01-31 00:00Z', 3, '2026-01-31 00:00Z');
SELECT sabot.next_due('1 hour', '2026-01-01 00:00Z', '2026-02-01 00:00Z', 'UTC') AS first,
	sabot.next_due('1.5 s', '2026-01-01 00:00:02Z', '2026-01-01 00:00:00Z', 'UTC') AS third,
	sabot.next_due('1 ms', '2126-01-01 00:00Z', '2026-01-01 00:00:00.0005Z', 'UTC') AS far,
	sabot.next_due('1 day', '2426-01-01 00:00Z', '1926-01-01 12:00Z', 'Europe/Berlin') AS farther;
SELECT count(DISTINCT d) AS due, count(DISTINCT to_char(d, 'YYYY-MM')) AS months,
	count(*) FILTER (WHERE extract(day FROM d + interval '1 day') = 1) AS ends
FROM dues('1 month', 'UTC', '2000-01-31 00:00Z', 600, '2000-01-31 00:00Z') AS d;
-- What is no schedule, or is never due.
SELECT left(s, 20) AS schedule, code, message, detail FROM unnest(ARRAY[
	'61 * * * *', '-1 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 13 *', '* * * foo *', '* * * * 8',
	'* * * * monday', '*/0 * * * *', '*/60 * * * *', '5/15 * * * *', '30-10 * * * *', '1,,2 * * * *', '1, * * * *',
	'*,* * * * ?', 'x * * * *', '1- * * * *', '99999999999 * * * *', '* * * *', '30 2 * * * *', '30 2', '@never',
	'every day', '', ' ', '0 s', '-1 hour', '1 month -1 day', '2000 years', repeat('1,', 600) || '1 * * * *']) AS s,
	pg_temp.try(format('SELECT sabot.next_due(%L)', s));
SELECT hint FROM unnest(ARRAY['61 * * * *', '* * * *', '@never', 'every day']) AS s,
	pg_temp.try(format('SELECT sabot.next_due(%L)', s));
SELECT s AS schedule, sabot.next_due(s) AS due FROM unnest(ARRAY['0 0 30 2 *', '0 0 31 4,6,9,11 *']) AS s;
SELECT sabot.next_due(NULL) AS none;
SELECT code, message FROM unnest(ARRAY['''1 h'', timezone => ''Nowhere''', '''1 h'', ''infinity''', '''1 h'', now(), ''-infinity''']) AS a,
	pg_temp.try(format('SELECT sabot.next_due(%s)', a));
-- The zone is the server's.
SHOW sabot.timezone;
SELECT sabot.next_due('0 12 * * *', '2026-01-01 00:00Z') =
	sabot.next_due('0 12 * * *', '2026-01-01 00:00Z', timezone => current_setting('log_timezone')) AS of_log;
SET sabot.timezone = 'Asia/Kolkata';
ALTER SYSTEM SET sabot.timezone = 'Nowhere/Land';
ALTER SYSTEM SET sabot.timezone = 'Asia/Kolkata';
SELECT pg_reload_conf();
\set setting sabot.timezone
\set value Asia/Kolkata
\set ECHO none
\i :await_setting
\set ECHO all
SELECT sabot.next_due('0 12 * * *', '2026-01-01 00:00Z') AS kolkata;
ALTER SYSTEM RESET sabot.timezone;
SELECT pg_reload_conf();
\set value ''
\set ECHO none
\i :await_setting
\set ECHO all
-- A schedule is a job, each run of it a child.
CREATE TABLE effect (name text, at timestamptz DEFAULT clock_timestamp());
SELECT sabot.submit_job('INSERT INTO effect VALUES ($1)', '["hourly"]', name => 'hourly', schedule => '1 hour', keep_rows => 3) AS job \gset
-- run(schedule): wait for its first run to finish; the run's id.
CREATE FUNCTION pg_temp.run(schedule bigint, n int DEFAULT 1) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	PERFORM pg_temp.await(format('%s <= (SELECT count(*) FROM sabot.job_task WHERE parent_id = %s AND finished_at IS NOT NULL)', n, schedule));
	SELECT t.job_id INTO id FROM sabot.job_task AS t WHERE t.parent_id = schedule ORDER BY job_id OFFSET n - 1 LIMIT 1;
	RETURN id;
END $$;
SELECT pg_temp.run(:job) AS run \gset
SELECT name FROM effect;
SELECT parent_id = :job AS child, kind, name, state, command, attempt, run_after <= started_at AS due FROM sabot.job_task WHERE job_id = :run;
SELECT s.name, s.kind, s.state, s.wait_reason = 'starts at ' || date_trunc('second', s.run_after)::text AS says_when, s.command,
	s.run_after - t.run_after AS after FROM sabot.job_status AS s, sabot.job_task AS t WHERE s.job_id = :job AND t.job_id = :run;
SELECT name, owner = current_user AS mine, schedule, state, next_run - last_due AS after, run_id = :run AS run, last_run >= last_due AS ran,
	last_finished >= last_run AS finished, last_state, last_sqlstate, last_error, runs, failures FROM sabot.schedule_status;
SELECT job_id = :job AS schedule, total, done, percent FROM sabot.job_progress WHERE job_id = :job;
SELECT scheduled, waiting, running FROM sabot.queue_status WHERE queue = 'default';
-- It never completes.
SELECT code, message, hint FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :job));
CALL sabot.wait_for_job(:run);
SELECT code, message, hint FROM pg_temp.try(format('SELECT sabot.submit_job(''SELECT'', depends_on => ''{%s}'')', :job));
SELECT sabot.retry_job(:job) AS retried;
-- The same name replaces it: the same job, with its runs.
SELECT sabot.submit_job('SELECT 1', name => 'hourly', schedule => '2 hours', run_after => '2000-01-01 00:00Z', queue => 'other', priority => 5) = :job AS same;
SELECT command, queue, priority, state, run_after = date_bin('2 hours', now(), '2000-01-01 00:00Z') + interval '2 hours' AS aligned
	FROM sabot.job_status WHERE job_id = :job;
SELECT schedule, runs, last_state FROM sabot.schedule_status;
-- The same schedule stays due when it was, with whatever else is new.
SELECT next_run FROM sabot.schedule_status \gset
SELECT sabot.submit_job('SELECT 2', name => 'hourly', schedule => '2 hours') = :job AS same;
SELECT command, queue, run_after = :'next_run' AS due_as_before FROM sabot.job_status WHERE job_id = :job;
BEGIN;
SELECT sabot.submit_job('SELECT 3', name => 'hourly', schedule => '3 hours') = :job AS same;
SAVEPOINT s;
SELECT sabot.submit_job('SELECT 4', name => 'hourly', schedule => '4 hours') = :job AS same;
ROLLBACK TO s;
COMMIT;
SELECT command, schedule FROM sabot.job_status JOIN sabot.schedule_status USING (job_id);
BEGIN;
SELECT sabot.submit_job('SELECT 4', name => 'hourly', schedule => '4 hours') = :job AS same;
ROLLBACK;
SELECT command, schedule FROM sabot.job_status JOIN sabot.schedule_status USING (job_id);
BEGIN;
SELECT sabot.submit_job('SELECT 5', name => 'hourly', schedule => '5 hours') = :job AS same;
PREPARE TRANSACTION 'schedule';
BEGIN;
SELECT sabot.submit_job('SELECT 1', name => 'twice', schedule => '0 0 1 1 *') AS twice \gset
SELECT sabot.submit_job('SELECT 2', name => 'twice', schedule => '@daily') = :twice AS same;
COMMIT;
SELECT command, schedule FROM sabot.job_status JOIN sabot.schedule_status USING (job_id) WHERE job_id = :twice;
SELECT sabot.cancel_job(:twice) AS canceled;
-- Other names, no names: schedules of their own.
SELECT sabot.submit_job('SELECT', name => 'other', schedule => '@yearly') <> :job AS other,
	sabot.submit_job('SELECT', schedule => '@yearly') <> sabot.submit_job('SELECT', schedule => '@yearly') AS none;
SELECT count(*) FROM sabot.schedule_status;
-- What makes no sense.
SELECT code, message, hint FROM unnest(ARRAY['depends_on => ''{' || :run || '}''', 'dedup_key => ''x''', 'run_after => ''infinity''', 'timeout => ''-1 s''', 'max_attempts => 0']) AS a,
	pg_temp.try(format('SELECT sabot.submit_job(''SELECT'', schedule => ''1 h'', %s)', a));
SELECT code, message, hint FROM unnest(ARRAY['0 0 30 2 *', '0 25 * * *', 'soon']) AS s, pg_temp.try(format('SELECT sabot.submit_job(''SELECT'', schedule => %L)', s));
SELECT code, message FROM pg_temp.try('SELECT sabot.submit_job(''SELEC'', schedule => ''1 h'')');
SELECT code, message FROM pg_temp.try('SELECT sabot.submit_graph(''[{"name":"a","command":"SELECT"}]'', schedule => ''1 h'', dedup_key => ''x'')');
-- cancel_job ends it; the name is free again.  retry_job has it go on.
SELECT sabot.cancel_job(job_id) FROM sabot.schedule_status ORDER BY job_id;
SELECT state, kind, error FROM sabot.job_status WHERE job_id = :job;
SELECT count(*) FROM sabot.schedule_status;
SELECT code, message FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :job));
SELECT sabot.submit_job('SELECT', name => 'hourly', schedule => '@yearly') <> :job AS other;
SELECT code, replace(message, :job::text, 'N') ~ '^another schedule has the name of job N: job \d+$' AS message FROM pg_temp.try(format('SELECT sabot.retry_job(%s)', :job));
SELECT sabot.cancel_job(job_id) FROM sabot.schedule_status;
SELECT sabot.retry_job(:job) AS retried;
SELECT pg_temp.await(format('sabot.job_state(%s) = ''scheduled''', :job));
SELECT state, schedule, next_run > clock_timestamp() AS ahead, next_run < clock_timestamp() + interval '3 h' AS within, runs FROM sabot.schedule_status;
SELECT sabot.cancel_job(:job) AS canceled, sabot.cancel_job(:job) AS again;
SELECT sabot.cancel_job(:job) AS again;
-- A run that fails does not stop it; attempts are a run's own.
SET client_min_messages = warning;
SELECT sabot.submit_job($$DO 'BEGIN RAISE ''no''; END'$$, name => 'fails', schedule => '50 ms', max_attempts => 3, retry_delay => '0') AS job \gset
SELECT pg_temp.run(:job, 2) > 0 AS ran;
SELECT DISTINCT state, attempt, max_attempts, sqlstate, error FROM sabot.job_task WHERE parent_id = :job AND finished_at IS NOT NULL;
SELECT last_state IN ('failed', 'queued', 'running', 'scheduled') AS failed, runs >= 2 AS ran, failures >= 1 AS failures FROM sabot.schedule_status;
SELECT sabot.pause_job(:job) AS paused;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job_task WHERE parent_id = %s AND finished_at IS NULL)', :job));
SELECT last_state, last_sqlstate, last_error, runs = failures AS all FROM sabot.schedule_status;
SELECT state, wait_reason, sqlstate, error FROM sabot.job_status WHERE job_id = :job;
SELECT code, replace(replace(message, run_id::text, 'N'), :job::text, 'M') AS message, hint FROM sabot.schedule_status, pg_temp.try(format('SELECT sabot.retry_job(%s)', run_id));
-- Paused: no run.  What was missed is one run, for the first of the times.
SELECT count(*) AS before, max(run_after) AS last FROM sabot.job_task WHERE parent_id = :job \gset
SELECT next_run FROM sabot.schedule_status \gset
SELECT pg_temp.await(format('clock_timestamp() > %L::timestamptz + interval ''0.5 s''', :'next_run'));
SELECT count(*) = :before AS none FROM sabot.job_task WHERE parent_id = :job;
SELECT sabot.submit_job('SELECT pg_sleep(60)', name => 'fails', schedule => '50 ms') = :job AS same;
SELECT state, next_run = :'next_run' AS due_as_before FROM sabot.schedule_status;
SELECT sabot.resume_job(:job) AS resumed;
SELECT pg_temp.await(format('(SELECT last_state FROM sabot.schedule_status WHERE job_id = %s) = ''running''', :job));
SELECT s.wait_reason = 'waits for job ' || s.run_id AS waits, s.last_state, s.last_due = :'next_run' AS first_missed, s.next_run > r.submitted_at AS next,
	(extract(epoch FROM s.next_run - :'next_run') * 1000)::numeric % 50 = 0 AS no_drift
FROM (SELECT * FROM sabot.schedule_status) AS s, sabot.job_task AS r WHERE r.job_id = s.run_id;
SELECT count(*) - :before AS one FROM sabot.job_task WHERE parent_id = :job;
-- cancel_job ends its run, too.
SELECT run_id AS run FROM sabot.schedule_status \gset
SELECT sabot.cancel_job(:job) AS canceled;
SELECT pg_temp.finish(:run), pg_temp.finish(:job);
SELECT count(*) = 0 AS nothing_open FROM sabot.job WHERE job_id = :job OR parent_id = :job;
-- Runs that take longer than the interval follow one another.
CREATE TABLE span (began timestamptz DEFAULT clock_timestamp(), ended timestamptz);
SELECT sabot.submit_job('INSERT INTO span DEFAULT VALUES; SELECT pg_sleep(0.05); UPDATE span SET ended = clock_timestamp() WHERE ended IS NULL', schedule => '1 ms') AS job \gset
SELECT pg_temp.run(:job, 5) > 0 AS ran;
SELECT sabot.cancel_job(:job) AS canceled;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
SELECT count(*) FROM span AS a JOIN span AS b ON a.began < b.began AND a.ended > b.began;
SELECT count(*) - (SELECT count(*) FROM sabot.job_task WHERE parent_id = :job AND state = 'completed') AS difference FROM span;
-- A run that is paused holds up the next ones; so does a paused queue.
SELECT sabot.submit_job('SELECT pg_sleep(60)', schedule => '50 ms') AS job \gset
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_task WHERE parent_id = %s AND state = ''running'')', :job));
SELECT run_id AS run FROM sabot.schedule_status \gset
SELECT sabot.pause_job(:run) AS paused;
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :run));
SELECT state, wait_reason = 'waits for job ' || run_id AS waits, last_state FROM sabot.schedule_status;
SELECT sabot.cancel_job(:run) AS canceled;
SELECT pg_temp.await(format('(SELECT runs FROM sabot.schedule_status WHERE job_id = %s) >= 2', :job));
SELECT state, error FROM sabot.job_task WHERE job_id = :run;
SELECT sabot.cancel_job(:job) AS canceled;
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('SELECT', schedule => '1 hour', queue => 'held') AS job \gset
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.resume_queue('held');
SELECT pg_temp.run(:job) > 0 AS ran;
SELECT sabot.cancel_job(:job) AS canceled;
-- Graphs: each run is one, with its tasks.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('b', $$INSERT INTO effect VALUES ('b')$$, after => '{a}'),
	sabot.graph_task('a', $$INSERT INTO effect VALUES ('a')$$)), name => 'graph', schedule => '50 ms', timeout => '1 h') AS job \gset
SELECT pg_temp.run(:job, 2) AS run \gset
SELECT sabot.pause_job(:job) AS paused;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
SELECT kind, name, state, command FROM sabot.job_task WHERE job_id = :run;
SELECT kind, name, state FROM sabot.job_task WHERE parent_id = :run ORDER BY name;
SELECT count(DISTINCT name), count(*) = 2 * (SELECT runs FROM sabot.schedule_status) AS all FROM effect WHERE name IN ('a', 'b');
SELECT schedule, runs >= 2 AS runs, failures, last_state FROM sabot.schedule_status;
-- Job and graph may replace each other; a graph that fails does not stop it.
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('c', 'SELECT 1/0'), sabot.graph_task('d', 'SELECT', after => '{c}')), name => 'graph', schedule => '50 ms') = :job AS same;
SELECT runs AS before FROM sabot.schedule_status \gset
SELECT sabot.resume_job(:job) AS resumed;
SELECT pg_temp.run(:job, :before + 2) AS run \gset
SELECT state, error FROM sabot.job_task WHERE job_id = :run;
SELECT state, regexp_replace(error, '\d+', 'N') AS error FROM sabot.job_task WHERE parent_id = :run ORDER BY name;
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('e', 'SELECT pg_sleep(60)')), name => 'graph', schedule => '50 ms') = :job AS same;
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_task AS t JOIN sabot.job_task AS g ON t.parent_id = g.job_id WHERE g.parent_id = %s AND t.state = ''running'')', :job));
SELECT run_id AS run FROM sabot.schedule_status \gset
SELECT sabot.cancel_job(:job) AS canceled;
SELECT pg_temp.finish(:job), pg_temp.finish(:run);
SELECT pg_temp.await('NOT EXISTS (SELECT FROM sabot.job)');
SELECT sabot.submit_job('SELECT', name => 'graph', schedule => '1 day') AS job \gset
SELECT pg_temp.run(:job) > 0 AS ran;
SELECT sabot.cancel_job(:job) AS canceled;
-- Spread over a table: each run is, with pieces of its own.
CREATE TABLE wide (id int PRIMARY KEY, n int DEFAULT 0);
INSERT INTO wide SELECT i FROM generate_series(1, 100) AS i;
SELECT code, message FROM pg_temp.try($$SELECT sabot.submit_job('SELECT count(*) FROM wide', over => 'wide', schedule => '1 h')$$);
SELECT sabot.submit_job('UPDATE wide SET n = n + 1', name => 'wide', schedule => '50 ms', over => 'wide', pieces => 4, timeout => '1 min') AS job \gset
SELECT pg_temp.run(:job, 2) AS run \gset
SELECT sabot.pause_job(:job) AS paused;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
SELECT kind, name, state, row_count, timeout FROM sabot.job_task AS t JOIN sabot.job_history USING (job_id, kind, name, state, row_count) WHERE t.job_id = :run;
SELECT count(*), min(kind), min(state), sum(row_count), min(timeout) FROM sabot.job_history WHERE parent_id = :run;
SELECT state, total, done, failed, percent, rows, rate > 0 AS rate, eta FROM sabot.job_progress WHERE job_id = :job;
SELECT n = (SELECT runs FROM sabot.schedule_status) AS each_once, count(*) FROM wide GROUP BY 1;
-- Replaced, the next runs are spread otherwise, or not at all.
SELECT sabot.submit_job('UPDATE wide SET n = -1', name => 'wide', schedule => '50 ms', over => 'wide', pieces => 2) = :job AS same;
SELECT runs AS before FROM sabot.schedule_status \gset
SELECT sabot.resume_job(:job) AS resumed;
SELECT pg_temp.run(:job, :before + 1) AS run \gset
SELECT sabot.submit_job('UPDATE wide SET n = 1 / 0', name => 'wide', schedule => '50 ms') = :job AS same;
SELECT count(*), sum(row_count) FROM sabot.job_task WHERE parent_id = :run;
SELECT pg_temp.await(format('(SELECT failures FROM sabot.schedule_status WHERE job_id = %s) > 0', :job));
SELECT DISTINCT kind, state, error FROM sabot.job_task WHERE parent_id = :job AND finished_at IS NOT NULL ORDER BY 1, 2;
-- A piece that fails, or a table that is gone, ends a run and not the schedule; cancel_job ends the run, too.
SELECT sabot.submit_job('UPDATE wide SET n = 1 / (id - 100)', name => 'wide', schedule => '50 ms', over => 'wide', pieces => 4) = :job AS same;
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_task WHERE parent_id = %s AND kind = ''spread'' AND state = ''failed'')', :job));
SELECT DISTINCT error FROM sabot.job_task WHERE parent_id = :job AND kind = 'spread' AND state = 'failed';
DROP TABLE wide;
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_task WHERE parent_id = %s AND kind = ''spread'' AND sqlstate = ''42P01'')', :job));
CREATE TABLE wide AS SELECT i AS id FROM generate_series(1, 100) AS i;
ALTER TABLE wide ADD PRIMARY KEY (id);
SELECT sabot.submit_job('SELECT id, pg_sleep(60) FROM wide', name => 'wide', schedule => '50 ms', over => 'wide', pieces => 4) = :job AS same;
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_task AS t JOIN sabot.job_task AS g ON t.parent_id = g.job_id WHERE g.parent_id = %s AND t.state = ''running'')', :job));
SELECT run_id AS run FROM sabot.schedule_status \gset
SELECT sabot.cancel_job(:job) AS canceled;
SELECT pg_temp.finish(:job), pg_temp.finish(:run);
SELECT pg_temp.await('NOT EXISTS (SELECT FROM sabot.job)');
SELECT DISTINCT state FROM sabot.job_task WHERE parent_id = :run;
SELECT sabot.purge('0') > 10 AS purged;
SELECT (SELECT count(*) FROM sabot.job_history) AS jobs, (SELECT count(*) FROM sabot.job_spread) AS orders, (SELECT count(*) FROM sabot.job_piece) AS pieces;
-- Of an open one the last run stays, with its pieces.
SELECT sabot.submit_job('SELECT id FROM wide', name => 'wide', schedule => '50 ms', over => 'wide', pieces => 4) AS job \gset
SELECT pg_temp.run(:job, 3) > 0 AS ran;
SELECT sabot.pause_job(:job) AS paused;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
SELECT sabot.purge('0') >= 10 AS purged;
SELECT kind, count(*) FROM sabot.job_task GROUP BY 1 ORDER BY 1;
SELECT (SELECT count(*) FROM sabot.job_spread) AS orders, (SELECT count(*) FROM sabot.job_piece) AS pieces;
SELECT sabot.cancel_job(:job) AS canceled;
SELECT sabot.purge('0') AS purged;
-- Old runs go, but for the last one of a schedule that has not ended.
SELECT sabot.submit_job('SELECT', name => 'purged', schedule => '50 ms') AS job \gset
SELECT pg_temp.run(:job, 4) > 0 AS ran;
SELECT sabot.pause_job(:job) AS paused;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
SELECT sabot.purge('0') > 2 AS purged;
SELECT count(*) FROM sabot.job_task;
SELECT last_state, runs >= 3 AS runs, state FROM sabot.schedule_status;
SELECT sabot.cancel_job(:job) AS canceled;
SELECT sabot.purge('0') AS purged;
SELECT (SELECT count(*) FROM sabot.job_history) AS jobs, (SELECT count(*) FROM sabot.job_schedule) AS schedules;
-- Everybody has names of his own, and sees his own.
SET client_min_messages = warning;
CREATE ROLE schedule_other LOGIN;
CREATE ROLE schedule_monitor LOGIN IN ROLE pg_monitor;
RESET client_min_messages;
SELECT sabot.grant_usage('schedule_other'), sabot.grant_usage('schedule_monitor');
SELECT sabot.submit_job('SELECT ''secret''', name => 'mine', schedule => '@yearly') AS job \gset
SET ROLE schedule_other;
SELECT sabot.submit_job('SELECT', name => 'mine', schedule => '@yearly') <> :job AS other;
SELECT owner, name, schedule FROM sabot.schedule_status;
SELECT sabot.next_due('@yearly') > now() AS due;
SELECT code, replace(message, :job::text, 'N') AS message FROM pg_temp.try(format('SELECT sabot.cancel_job(%s)', :job));
SELECT code, message FROM pg_temp.try('SELECT FROM sabot.job_schedule');
SET ROLE schedule_monitor;
SELECT owner = 'schedule_other' AS other, schedule, state FROM sabot.schedule_status ORDER BY 1;
RESET ROLE;
SELECT sabot.cancel_job(job_id) FROM sabot.schedule_status;
-- While no agent can be the role, runs fail with the reason; the schedule goes
-- on.  It ends with the role.
SET ROLE schedule_other;
SELECT sabot.submit_job('SELECT', name => 'barred', schedule => '50 ms') AS job \gset
RESET ROLE;
SELECT pg_temp.run(:job) > 0 AS ran;
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT pg_temp.await(format('(SELECT last_state = ''failed'' FROM sabot.schedule_status WHERE job_id = %s)', :job));
SELECT DISTINCT sqlstate, error, failures > 0 AS failures FROM sabot.job_task AS r, sabot.schedule_status WHERE r.parent_id = :job AND r.state = 'failed';
SELECT format('GRANT CONNECT ON DATABASE %I TO PUBLIC', current_database()) \gexec
SELECT pg_temp.await(format('(SELECT last_state = ''completed'' FROM sabot.schedule_status WHERE job_id = %s)', :job));
SELECT sabot.revoke_usage('schedule_other'), sabot.revoke_usage('schedule_monitor');
DROP ROLE schedule_other;
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.job_history WHERE job_id = %s)', :job));
SELECT state, sqlstate, error FROM sabot.job_status WHERE job_id = :job;
SELECT pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job WHERE parent_id = %s)', :job));
DROP ROLE schedule_monitor;
SELECT pg_temp.await('NOT EXISTS (SELECT FROM sabot.job)');
SELECT sabot.purge('0') > 0 AS purged;
SET client_min_messages = warning;
DROP SCHEMA schedule CASCADE;
