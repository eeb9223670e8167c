-- Settings that travel with a job, and a session that is clean for each.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 15000) AS ids \gset
CREATE SCHEMA settings;
CREATE SCHEMA "Odd, schema";
SET search_path = settings;
CREATE TABLE t (who text DEFAULT 'settings');
CREATE TABLE "Odd, schema".t (who text DEFAULT 'odd');
-- All jobs of this file run in one agent, one after the other.
\set await_setting :srcdir /test/lib/await_setting.sql
\set setting sabot.pool_size
\set value 1
ALTER SYSTEM SET sabot.pool_size = 1;
SELECT pg_reload_conf();
\set ECHO none
\i :await_setting
\set ECHO all
SELECT sabot.stop_agents() >= 0 AS ok;
SELECT sabot.start_agents();
-- show(): what a job submitted now says of settings.
CREATE PROCEDURE pg_temp.show(VARIADIC names text[]) LANGUAGE plpgsql AS $$
DECLARE
	id bigint := sabot.submit_job('SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name',
		jsonb_build_array(to_jsonb(names)), queue => 'settings', keep_rows => 100);
	line text;
BEGIN
	COMMIT;
	CALL sabot.wait_for_job(id);
	FOR line IN SELECT (r->>'name') || ' = ' || (r->>'value') FROM sabot.job_rows(id) AS r LOOP
		RAISE INFO '%', line;
	END LOOP;
END $$;
SET search_path = "Odd, schema", pg_temp, "$user", settings;
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German, DMY';
SET IntervalStyle = 'iso_8601';
CALL pg_temp.show('search_path', 'TimeZone', 'DateStyle', 'IntervalStyle');
CALL sabot.wait_for_job(sabot.submit_job('INSERT INTO t DEFAULT VALUES', queue => 'settings'));
SELECT * FROM "Odd, schema".t;
SELECT sabot.submit_job('SELECT timestamptz ''2024-01-02 00:00+00'' AS t, interval ''1 day 2 h'' AS i, t::text AS tt, i::text AS it FROM (VALUES (timestamptz ''2024-01-02 00:00+00'', interval ''1 day 2 h'')) AS x(t, i)',
	queue => 'settings', keep_rows => 1) AS id \gset
CALL sabot.wait_for_job(:id);
SELECT r->'tt' AS time, r->'it' AS interval FROM sabot.job_rows(:id) AS r;
-- Those of the submitter at that time, also with SET LOCAL and in a function.
RESET ALL;
SET search_path = settings;
BEGIN;
SET LOCAL TimeZone = 'UTC';
SET LOCAL search_path = '';
SELECT sabot.submit_job('SELECT current_setting(''TimeZone'') AS tz, current_setting(''search_path'') AS path',
	queue => 'settings', keep_rows => 1) AS id \gset
COMMIT;
CALL sabot.wait_for_job(:id);
SELECT * FROM sabot.job_rows(:id);
CREATE FUNCTION elsewhere() RETURNS bigint LANGUAGE sql SET search_path = public SET TimeZone = 'Europe/Berlin'
	AS $$ SELECT sabot.submit_job('SELECT current_setting(''TimeZone'') AS tz, current_setting(''search_path'') AS path',
	queue => 'settings', keep_rows => 1) $$;
SELECT elsewhere() AS id \gset
CALL sabot.wait_for_job(:id);
SELECT * FROM sabot.job_rows(:id);
SET TimeZone = 'Asia/Kolkata';
SELECT sabot.submit_jobs('{"SELECT current_setting(''TimeZone'') AS tz"}', queue => 'settings', keep_rows => 1) AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT r FROM unnest(:'ids'::bigint[]) AS id, sabot.job_rows(id) AS r;
-- No other setting travels: a job has those of a new login.
SET work_mem = '77kB';
SET statement_timeout = '1h';
SET default_transaction_isolation = serializable;
SET client_min_messages = error;
SET custom.setting = 'mine';
SELECT sabot.submit_job('SELECT current_setting(''work_mem'') <> ''77kB'' AS a, current_setting(''statement_timeout'') = ''0'' AS b,
	current_setting(''transaction_isolation'') = ''read committed'' AS c, current_setting(''client_min_messages'') = ''notice'' AS d,
	current_setting(''custom.setting'', true) IS NULL AS e', queue => 'settings', keep_rows => 1) AS id \gset
CALL sabot.wait_for_job(:id);
SELECT * FROM sabot.job_rows(:id);
RESET ALL;
SET search_path = settings;
SET TimeZone = 'Asia/Kolkata';
-- Nothing of a job is left for the next one in the same session.
SELECT sabot.submit_job($$
	SET work_mem = '78kB'; SET custom.rest = 'over'; SET search_path = public; SET TimeZone = 'UTC';
	CREATE TEMP TABLE left_over (a int); CREATE TEMP SEQUENCE left_seq;
	PREPARE left_plan AS SELECT 1;
	SELECT pg_advisory_lock(15001), pg_advisory_lock_shared(15002), pg_advisory_lock(15001);
	DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1;
	CREATE SEQUENCE settings.counter; SELECT nextval('settings.counter'), setseed(0.5);
	CREATE ROLE regress_settings; SET ROLE regress_settings;
	SELECT pg_backend_pid() AS pid $$, queue => 'settings', keep_rows => 1) AS dirty \gset
SELECT state, error FROM pg_temp.outcome(:dirty);
SELECT sabot.submit_job($$
	SELECT pg_backend_pid() AS pid, current_setting('work_mem') = '78kB' AS work_mem,
		NULLIF(current_setting('custom.rest', true), '') AS custom, current_setting('search_path') AS path,
		current_setting('TimeZone') AS zone, to_regclass('pg_temp.left_over') AS temp_table,
		(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS temp_objects,
		(SELECT count(*) FROM pg_prepared_statements) AS plans, (SELECT count(*) FROM pg_cursors) AS cursors,
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
		current_user = session_user AS same_user, current_setting('role') AS role $$,
	queue => 'settings', keep_rows => 1) AS clean \gset
SELECT state, error FROM pg_temp.outcome(:clean);
SELECT r - 'pid' AS found, r->'pid' = (SELECT r->'pid' FROM sabot.job_rows(:dirty) AS r) AS same_session
	FROM sabot.job_rows(:clean) AS r;
SELECT sabot.submit_jobs(ARRAY['SELECT currval(''settings.counter'')', 'SELECT lastval()', 'EXECUTE left_plan', 'FETCH left_cursor'],
	queue => 'settings') AS ids \gset
SELECT state, code, error FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id);
-- The same after a job that failed, and one that ran statement by statement.
SELECT sabot.submit_jobs(ARRAY[
	'SET work_mem = ''79kB''; CREATE TEMP TABLE x (); SELECT pg_advisory_lock(15003); SELECT 1/0',
	'SET work_mem = ''79kB''; CREATE TEMP TABLE x (); SELECT pg_advisory_lock(15004); SET ROLE regress_settings; VACUUM settings.t',
	'SET SESSION AUTHORIZATION regress_settings'], queue => 'settings') AS ids \gset
SELECT state, code FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id);
SELECT sabot.submit_job($$
	SELECT current_setting('work_mem') = '79kB' AS work_mem, to_regclass('pg_temp.x') AS temp_table,
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
		current_user = session_user AND current_user <> 'regress_settings' AS same_user $$,
	queue => 'settings', keep_rows => 1) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- Settings of the role and the database are those of now: the agent is replaced.
ALTER ROLE CURRENT_USER SET work_mem = '80kB';
CALL pg_temp.show('work_mem');
ALTER ROLE CURRENT_USER IN DATABASE contrib_regression SET work_mem = '81kB';
CALL pg_temp.show('work_mem');
ALTER ROLE CURRENT_USER IN DATABASE contrib_regression RESET work_mem;
ALTER ROLE CURRENT_USER RESET work_mem;
ALTER DATABASE contrib_regression SET work_mem = '82kB';
CALL pg_temp.show('work_mem');
ALTER DATABASE contrib_regression RESET work_mem;
ALTER SYSTEM RESET sabot.pool_size;
SELECT pg_reload_conf();
SET client_min_messages = warning;
DROP ROLE regress_settings;
DROP SCHEMA settings, "Odd, schema" CASCADE;
