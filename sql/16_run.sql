-- sabot.run: now, on a warm agent, in a transaction of its own.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 16000) AS ids \gset
CREATE SCHEMA run;
SET search_path = run;
CREATE TABLE t (a int PRIMARY KEY, b text);
-- Rows of the last row set, notices as they come.
SELECT * FROM sabot.run('SELECT 1 AS one, NULL AS none, ARRAY[1, 2] AS list, date ''2024-01-01'' AS day');
SELECT r->>'g' AS g FROM sabot.run('SELECT g FROM generate_series(1, 3) AS g') AS r;
SELECT * FROM sabot.run('SELECT 1; SELECT 2 AS last WHERE false');
SELECT * FROM sabot.run('SELECT 1; INSERT INTO t VALUES (1, ''one''); CREATE TABLE u ()');
SELECT * FROM sabot.run('INSERT INTO t VALUES (2, ''two''), (3, ''three'') RETURNING a, b');
SELECT count(*), sum((r->>'g')::int) FROM sabot.run('SELECT g, repeat(''x'', 1000) FROM generate_series(1, 10000) AS g') AS r;
SELECT length(r->>'big') FROM sabot.run('SELECT repeat(''x'', 30000000) AS big') AS r;
SELECT * FROM sabot.run($$DO 'BEGIN RAISE NOTICE ''hear this''; RAISE WARNING ''and this''; END'; DROP TABLE IF EXISTS nothing$$);
SET client_min_messages = error;
SELECT * FROM sabot.run($$DO 'BEGIN RAISE NOTICE ''not this''; END'$$);
RESET client_min_messages;
-- Params.
SELECT * FROM sabot.run('SELECT $1::int + $2 AS sum, $3::text[] AS texts, $4::jsonb AS object, $5 IS NULL AS none', '[1, 2, ["a", null], {"k": 1}, null]');
SELECT * FROM sabot.run('INSERT INTO t VALUES ($1, $2) RETURNING *', '[4, "four"]');
-- Its own transaction: the effects stay when the caller rolls back, and what
-- the caller has not committed is not seen.
BEGIN;
INSERT INTO t VALUES (5, 'not committed');
SELECT * FROM sabot.run('SELECT count(*) FROM t WHERE a = 5');
SELECT * FROM sabot.run('INSERT INTO t VALUES (6, ''stays'')');
ROLLBACK;
SELECT * FROM t ORDER BY a;
BEGIN READ ONLY;
SELECT * FROM sabot.run('DELETE FROM t WHERE a = 6 RETURNING a');
COMMIT;
-- Errors are the command's own; what it did is rolled back.
SELECT * FROM sabot.run('INSERT INTO t VALUES (7); SELECT no_such_column FROM t');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM sabot.run($$DO 'BEGIN RAISE EXCEPTION ''mine'' USING ERRCODE = ''P0042'', DETAIL = ''my detail'', HINT = ''my hint''; END'$$);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM sabot.run('INSERT INTO t VALUES (1, ''again'')');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM t WHERE a = 7;
-- An error can be caught like any other.
DO $$BEGIN PERFORM sabot.run('SELECT 1/0'); EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught %', SQLSTATE; END$$;
-- A timeout, and the caller's own, which cancels the command as well.
SELECT * FROM sabot.run('SELECT pg_sleep(60)', timeout => '50 ms');
\echo :LAST_ERROR_SQLSTATE
SET statement_timeout = '50 ms';
SELECT * FROM sabot.run('SELECT pg_sleep(61)');
RESET statement_timeout;
SELECT pg_temp.await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = ''active'' AND query LIKE ''SELECT pg_sleep(6%'' AND backend_type = ''sabot agent'')');
-- Statements that are known not to run inside a transaction block run outside
-- one; others are not tried twice.
SELECT * FROM sabot.run('VACUUM t');
SELECT * FROM sabot.run('DO ''BEGIN INSERT INTO run.t VALUES (8); COMMIT; END''');
SELECT count(*) FROM t WHERE a = 8;
-- The settings that travel, and nothing else of the session's.
SET TimeZone = 'Asia/Tokyo';
SET work_mem = '77kB';
SELECT * FROM sabot.run('SELECT current_setting(''TimeZone'') AS tz, current_setting(''search_path'') AS path, current_setting(''work_mem'') = ''77kB'' AS work_mem');
RESET TimeZone;
RESET work_mem;
-- Nothing is left from call to call.
SELECT * FROM sabot.run('CREATE TEMP TABLE x (); SET work_mem = ''78kB''; SELECT 1 AS ok FROM pg_advisory_lock(16)');
SELECT * FROM sabot.run('SELECT to_regclass(''pg_temp.x'') AS temp_table, current_setting(''work_mem'') = ''78kB'' AS work_mem');
SELECT pg_temp.await('NOT EXISTS (SELECT FROM pg_locks WHERE locktype = ''advisory'' AND objid = 16)');
-- Calls can be nested, and many at once in one query.
SELECT * FROM sabot.run($$SELECT sabot.run('SELECT 42 AS answer') AS inner$$);
SELECT sum((r->>'g')::int) FROM generate_series(1, 50) AS g, sabot.run('SELECT $1::int AS g', jsonb_build_array(g)) AS r;
-- A command that waits for its caller: no wait for ever.
\set VERBOSITY terse
BEGIN;
LOCK TABLE t;
SELECT * FROM sabot.run('INSERT INTO t VALUES (9)');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
\set VERBOSITY default
-- An agent that ends under the command.
SELECT * FROM sabot.run('SELECT pg_terminate_backend(pg_backend_pid())');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM sabot.run('SELECT ''the next one works'' AS so');
-- No job is made of any of this.
SELECT count(*) FROM sabot.job_status WHERE job_id > 16000;
SELECT last_value FROM sabot.job_job_id_seq;
SET client_min_messages = warning;
DROP SCHEMA run CASCADE;
