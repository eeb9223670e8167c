-- Bad input: a clear error, and nothing lost.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 11000) AS ids \gset
CREATE SCHEMA bad;
SET search_path = bad;
-- Commands.
SELECT (pg_temp.try(format('SELECT sabot.%s', call))).* FROM unnest(ARRAY[
	'submit_job(NULL)', 'submit_job('''')', 'submit_job('' ; -- nothing'')',
	'submit_job_each(NULL, ''[[]]'')', 'submit_job_each('''', ''[[]]'')',
	'submit_jobs(NULL)', 'submit_jobs(''{NULL}'')', 'submit_jobs(''{SELECT 1,""}'')',
	'submit_jobs(''{{SELECT,SELECT}}'')',
	'run(NULL)', 'run('''')']) AS call \gx
-- A syntax error points into the command.
SELECT sabot.submit_job('SELECT 1; SELECT 2 FORM t');
SELECT sabot.submit_job_each('SELECT $1 +', '[[1]]');
SELECT sabot.run('SELECT 1 +* 2x');
\echo :LAST_ERROR_SQLSTATE
-- Statements that are nothing for a job, and where.
SELECT sabot.submit_job('SELECT 1; COMMIT');
SELECT sabot.submit_job('/* first */ BEGIN; SELECT 1');
SELECT (pg_temp.try(format('SELECT sabot.submit_job(%L)', command))).* FROM unnest(ARRAY[
	'BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT s', 'PREPARE TRANSACTION ''x''',
	'COPY t FROM STDIN', 'COPY t TO STDOUT', 'LISTEN c', 'UNLISTEN c']) AS command \gx
SELECT (pg_temp.try(format('SELECT sabot.run(%L)', command))).* FROM unnest(ARRAY[
	'COMMIT', 'COPY t FROM STDIN', 'LISTEN c']) AS command \gx
-- The same where submit cannot see it: the job fails.
SELECT sabot.submit_jobs(ARRAY['SELECT 1; COMMIT',
	$$DO 'BEGIN EXECUTE ''LISTEN c''; END'$$,
	$$DO 'BEGIN EXECUTE ''COPY bad.t FROM STDIN''; END'$$,
	$$CREATE TABLE bad.t (a int); DO 'BEGIN EXECUTE ''COPY bad.t FROM STDIN''; END'$$]) AS ids \gset
SELECT (pg_temp.outcome(id)).* FROM unnest(:'ids'::bigint[]) AS id;
SELECT to_regclass('bad.t') AS rolled_back;
-- Params.
SELECT (pg_temp.try(format('SELECT sabot.submit_job(''SELECT $1::int + $2'', %L)', params))).*
	FROM unnest(ARRAY['{"a": 1}', '1', '"text"', 'null', '[]', '[1]', '[1, 2, 3]']) AS params;
SELECT (pg_temp.try(format('SELECT sabot.%s', call))).* FROM unnest(ARRAY[
	'submit_job(''SELECT $1'')', 'submit_job(''SELECT 1'', ''[1]'')',
	'submit_job(''SELECT $0'', ''[]'')',
	'submit_job(''SELECT 1'', ''{'')',
	'submit_jobs(''{SELECT}'', ''[]'')', 'submit_jobs(''{SELECT}'', ''[1]'')',
	'submit_jobs(''{SELECT}'', ''{}'')',
	'submit_job_each(''SELECT $1'', NULL)', 'submit_job_each(''SELECT $1'', ''{}'')',
	'submit_job_each(''SELECT $1'', ''[[1], 2]'')', 'submit_job_each(''SELECT $1'', ''[[1], []]'')',
	'run(''SELECT $1'')', 'run(''SELECT $1'', ''[]'')', 'run(''SELECT $1'', ''7'')',
	'run(''SELECT $1::int'', ''["one"]'')']) AS call \gx
SELECT sabot.submit_job('SELECT $2::int, $1::date', '["2001-02-30", "one"]') AS id \gset
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
-- Options.
SELECT (pg_temp.try(format('SELECT sabot.submit_job(''SELECT 1'', %s)', option))).* FROM unnest(ARRAY[
	'priority => -1001', 'priority => 1001', 'priority => NULL',
	'timeout => ''-1 s''', 'timeout => ''0''',
	'retry_delay => ''-1 s''', 'max_attempts => 0', 'max_attempts => NULL',
	'keep_rows => -1', 'keep_rows => NULL', 'queue => ''''', 'queue => NULL',
	'queue => repeat(''q'', 64)', 'name => repeat(''n'', 256)',
	'notify => ''''', 'notify => repeat(''c'', 64)']) AS option \gx
SELECT (pg_temp.try(format('SELECT sabot.%s', call))).* FROM unnest(ARRAY[
	'submit_jobs(''{SELECT}'', timeout => ''-1 s'')', 'submit_job_each(''SELECT'', ''[[]]'', priority => 2000)',
	'run(''SELECT 1'', timeout => ''-1 s'')',
	'set_queue_limit(''q'', 0)', 'set_queue_limit(''q'', -1)', 'set_queue_limit('''', 1)',
	'set_queue_limit(NULL, 1)', 'pause_queue('''')', 'purge(''-1 day'')',
	'start_agents(-1)']) AS call \gx
-- Unknown jobs.
SELECT (pg_temp.try(format('%s(999999999)', call))).* FROM unnest(ARRAY[
	'SELECT sabot.job_state', 'SELECT sabot.job_rows', 'SELECT sabot.cancel_job',
	'SELECT sabot.retry_job', 'SELECT sabot.pause_job', 'SELECT sabot.resume_job',
	'CALL sabot.wait_for_job']) AS call;
SELECT (pg_temp.try(call)).* FROM unnest(ARRAY['CALL sabot.wait_for_jobs(''{999999999}'')',
	'CALL sabot.wait_for_job(NULL)', 'CALL sabot.wait_for_jobs(NULL)', 'CALL sabot.wait_for_jobs(''{NULL}'')',
	'CALL sabot.wait_for_job(11001, ''-1 s'')']) AS call;
-- Nothing to wait for is no error.
CALL sabot.wait_for_jobs('{}');
-- A job that exhausts memory ends as any other that fails.
SELECT sabot.submit_job('SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) AS n') AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT sabot.submit_job($$SELECT repeat('x', 1073741823)$$) AS id \gset
SELECT * FROM pg_temp.outcome(:id);
-- A job that ends its own process is tried again, but not for ever; it has no
-- effects.
CREATE TABLE effects (n int);
SELECT sabot.submit_job('INSERT INTO effects VALUES (1); SELECT pg_terminate_backend(pg_backend_pid())') AS id \gset
CALL sabot.wait_for_job(:id);
\echo :LAST_ERROR_SQLSTATE
SELECT state, attempt, losses, sqlstate FROM sabot.job_status WHERE job_id = :id;
SELECT attempt, sqlstate, error FROM sabot.job_attempt WHERE job_id = :id ORDER BY attempt;
SELECT count(*) AS effects FROM effects;
-- What is kept has a limit, also for a row of nearly 1 GB.
SELECT sabot.submit_jobs(ARRAY[
	$$SELECT repeat('x', 20000000) AS big$$,
	$$SELECT repeat('x', 1000000) AS big FROM generate_series(1, 20)$$,
	$$SELECT repeat(repeat('x', 1000), 900000) AS big$$], keep_rows => 100) AS ids \gset
SELECT (pg_temp.outcome(id)).* FROM unnest(:'ids'::bigint[]) AS id;
SELECT DISTINCT error_hint FROM sabot.job_status WHERE job_id = ANY (:'ids');
-- Unless nobody wants to keep it.
CALL sabot.wait_for_job(sabot.submit_job($$SELECT repeat('x', 20000000)$$));
-- 100,000 notices: the first are kept, all are counted.
SELECT sabot.submit_job($$DO 'BEGIN FOR i IN 1..100000 LOOP RAISE NOTICE ''this is %'', i; END LOOP; END'$$) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT cardinality(notices), notices[1], notices[100], notices[101]
	FROM sabot.job_status WHERE job_id = :id;
-- A long one is cut.
SELECT sabot.submit_job($$DO 'BEGIN RAISE NOTICE ''%'', repeat(''é'', 1000000); RAISE NOTICE ''another''; END'$$) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT octet_length(notices[1]) BETWEEN 65000 AND 65536 AS cut, left(notices[1], 12), notices[2]
	FROM sabot.job_status WHERE job_id = :id;
SET client_min_messages = warning;
DROP SCHEMA bad CASCADE;
