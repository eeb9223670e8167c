-- Running a command: statements, parameters, what is kept, transactions.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 12000) AS ids \gset
CREATE SCHEMA exec;
SET search_path = exec;
CREATE TABLE t (id int PRIMARY KEY, v text);
-- Statements see each other's effects, DDL too.
SELECT sabot.submit_job($$
	INSERT INTO t VALUES (1, 'one');
	UPDATE t SET v = v || '!' WHERE id = 1;
	CREATE TABLE u AS SELECT * FROM t;
	ALTER TABLE u ADD COLUMN extra int DEFAULT 7;
	INSERT INTO u VALUES (2, 'two');
	CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
	SELECT u.*, twice(id) FROM u ORDER BY id$$, keep_rows => 10) AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- Each has a snapshot of its own: what others commit meanwhile is seen.
SELECT sabot.submit_job($$
	SELECT count(*) FROM t;
	DO 'BEGIN PERFORM sabot.run(''INSERT INTO exec.t VALUES (3, NULL)''); END';
	SELECT count(*) FROM t$$, keep_rows => 1) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- An error takes back everything; which statement it was, and where.
SELECT sabot.submit_job($$INSERT INTO t VALUES (4, 'lost');
SELECT 'ä', no_such_column FROM t; SELECT 1$$) AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT error_statement, error_position,
		substr(command, error_position, 14) AS points_at, error_detail, error_hint
	FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.submit_job($$CREATE FUNCTION complain() RETURNS void LANGUAGE plpgsql AS
	'BEGIN RAISE EXCEPTION ''no'' USING DETAIL = ''a detail'', HINT = ''a hint'', ERRCODE = ''P0042''; END';
	SELECT complain()$$) AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT error_detail, error_hint, error_context, error_statement, error_position
	FROM sabot.job_status WHERE job_id = :id;
SELECT count(*) AS lost FROM t WHERE id = 4;
-- Command tags, counts and notices.
SELECT sabot.submit_jobs(ARRAY[
	'INSERT INTO t SELECT g, ''x'' FROM generate_series(11, 15) AS g',
	'UPDATE t SET v = ''y'' WHERE id > 12', 'DELETE FROM t WHERE id = 11',
	'SELECT * FROM t WHERE false', 'CREATE TABLE v ()', 'TABLE v',
	'VALUES (1), (2)', 'DO ''BEGIN END''', 'INSERT INTO t VALUES (20); CREATE TABLE w ()',
	'SET work_mem = 64; SHOW work_mem', 'EXPLAIN (COSTS off) SELECT 1'],
	queue => 'exec', keep_rows => 1) AS ids FROM sabot.set_queue_limit('exec', 1) \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT j.command, j.command_tag, j.row_count, r AS last_row
	FROM sabot.job_status AS j
		LEFT JOIN LATERAL sabot.job_rows(j.job_id) AS r ON true
	WHERE job_id = ANY (:'ids') ORDER BY job_id;
SELECT sabot.submit_job($$DO 'BEGIN RAISE INFO ''i''; RAISE NOTICE ''n'' USING DETAIL = ''d'', HINT = ''h'';
	RAISE WARNING ''w''; RAISE LOG ''l''; RAISE DEBUG ''d''; END'; DROP TABLE IF EXISTS nothing$$) AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT unnest(notices) AS notice FROM sabot.job_status WHERE job_id = :id;
-- Notices of a job that fails are kept as well.
SELECT sabot.submit_job($$DO 'BEGIN RAISE NOTICE ''before''; PERFORM 1/0; END'$$) AS id \gset
SELECT state, code FROM pg_temp.outcome(:id);
SELECT notices FROM sabot.job_status WHERE job_id = :id;
-- Parameters of many types, typed by the parser.
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TABLE p (i int, b bigint, s text, ts timestamptz, n numeric, f float8, x boolean,
	a int[], aa text[], c pair, ca pair[], j jsonb, js json, d date, u uuid, iv interval,
	po positive, co colour, by bytea, nothing text, none int[]);
SELECT sabot.submit_job('INSERT INTO p VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)',
	$$[1, 9007199254740993, "a \"text\"", "2024-02-29T12:00:00Z", 1.230000000000000000001, 1.5e300, true,
	[1, null, 3], ["x", "y,z"], {"a": 5, "b": "five"}, [{"a": 6}, null], {"k": [1, null]}, [1, {"z": null}],
	"2024-02-29", "00000000-0000-0000-0000-00000000abcd", "1 day 2 hours", 3, "green", "\\x00ff", null, null]$$) AS id \gset
CALL sabot.wait_for_job(:id);
SELECT * FROM p \gx
SELECT sabot.submit_jobs(ARRAY['INSERT INTO p (po) VALUES ($1)', 'INSERT INTO p (co) VALUES ($1)',
	'INSERT INTO p (a) VALUES ($1)', 'INSERT INTO p (i) VALUES ($1)', 'INSERT INTO p (x) VALUES ($1)',
	'SELECT $1', 'SELECT $1 IS NULL', 'SELECT * FROM generate_series(1, $1::int) LIMIT $2',
	'SELECT $1::jsonb, $2::text, $2'], '[[-1], ["blue"], ["no array"], [1.5], ["perhaps"], ["unknown"], [null], [9, 2], [null, {"a": [1]}]]',
	keep_rows => 3) AS ids \gset
SELECT j.id - 12000 AS job, o.state, o.code, o.error FROM unnest(:'ids'::bigint[]) AS j(id), pg_temp.outcome(j.id) AS o;
SELECT r FROM unnest((:'ids'::bigint[])[6:9]) AS id, sabot.job_rows(id) AS r;
-- A parameter has one type in all statements; those of utility statements
-- and function bodies are not the job's.
SELECT sabot.submit_job('CREATE FUNCTION add1(int) RETURNS int LANGUAGE sql AS $_$ SELECT $1 + 1 $_$;
	PREPARE q AS SELECT $1::int + 10; EXECUTE q(1); SELECT add1($1), ''$2'' AS "$3" -- $4', '[5]', keep_rows => 1) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- What cannot run inside a transaction block runs statement by statement.
SELECT sabot.submit_jobs(ARRAY['VACUUM t', 'CREATE INDEX CONCURRENTLY t_v ON t (v)', 'REINDEX INDEX CONCURRENTLY t_v',
	'DO ''BEGIN INSERT INTO exec.t VALUES (30); COMMIT; INSERT INTO exec.t VALUES (31); END''',
	'VACUUM ANALYZE t', 'DROP INDEX CONCURRENTLY t_v'], queue => 'exec') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT command, state, atomic, attempt, command_tag FROM sabot.job_status WHERE job_id = ANY (:'ids') ORDER BY job_id;
SELECT id FROM t WHERE id >= 30 ORDER BY id;
CREATE PROCEDURE steps(first int) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t VALUES (first);
	COMMIT;
	INSERT INTO t VALUES (first + 1);
	ROLLBACK;
	INSERT INTO t VALUES (first + 2);
END $$;
SELECT sabot.submit_job('CALL steps($1)', '[40]') AS id \gset
SELECT state, attempt, tag, error FROM pg_temp.outcome(:id);
SELECT atomic FROM sabot.job_status WHERE job_id = :id;
SELECT id FROM t WHERE id >= 40 ORDER BY id;
-- What ran before the error stays then, and it is said which statement failed.
SELECT sabot.submit_job('INSERT INTO t VALUES (50); VACUUM t; SELECT 1/0; INSERT INTO t VALUES (51)', max_attempts => 2) AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT atomic, error_statement FROM sabot.job_status WHERE job_id = :id;
SELECT id FROM t WHERE id >= 50 ORDER BY id;
-- An atomic one is rolled back first: nothing is done twice.
SELECT sabot.submit_job('INSERT INTO t VALUES (60); CALL steps(61)') AS id \gset
SELECT state, attempt, error FROM pg_temp.outcome(:id);
SELECT id FROM t WHERE id >= 60 ORDER BY id;
-- atomic => true refuses that.
SELECT sabot.submit_job('VACUUM t', atomic => true) AS vacuum,
	sabot.submit_job('CALL steps(70)', atomic => true) AS call \gset
SELECT * FROM pg_temp.outcome(:vacuum);
SELECT * FROM pg_temp.outcome(:call);
SELECT atomic FROM sabot.job_status WHERE job_id IN (:vacuum, :call);
SELECT count(*) FROM t WHERE id >= 70;
-- atomic => false asks for it: each statement is a transaction.
SELECT sabot.submit_job('INSERT INTO t VALUES (80); INSERT INTO t VALUES (80)', atomic => false) AS id \gset
SELECT state, code FROM pg_temp.outcome(:id);
SELECT sabot.submit_job('SELECT pg_current_xact_id() AS x INTO x1; SELECT pg_current_xact_id() = x AS same FROM x1',
	atomic => false, keep_rows => 1) AS id \gset
SELECT state, error FROM pg_temp.outcome(:id);
SELECT r FROM sabot.job_rows(:id) AS r;
SELECT atomic FROM sabot.job_status WHERE job_id = :id;
SELECT id FROM t WHERE id >= 80 ORDER BY id;
-- Whatever a job does to its transaction, it completes once and with its effects.
CREATE TABLE once (who text);
SELECT sabot.submit_jobs(ARRAY[
	'INSERT INTO once VALUES (''read only''); SET TRANSACTION READ ONLY',
	'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; INSERT INTO once VALUES (''serializable'')',
	'SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; INSERT INTO once VALUES (''repeatable read'')',
	'INSERT INTO once VALUES (''replica''); SET session_replication_role = replica',
	'INSERT INTO once VALUES (''row security''); SET row_security = off',
	'INSERT INTO once VALUES (''read only default''); SET default_transaction_read_only = on',
	'INSERT INTO once VALUES (''search path''); SET search_path = ''''',
	'INSERT INTO once VALUES (''constraints''); SET CONSTRAINTS ALL IMMEDIATE',
	'INSERT INTO once VALUES (''timeout''); SET statement_timeout = 1',
	'INSERT INTO once VALUES (''lock timeout''); SET lock_timeout = 1',
	'INSERT INTO once VALUES (''role''); CREATE ROLE regress_exec; SET ROLE regress_exec',
	'INSERT INTO once VALUES (''authorization''); CREATE ROLE regress_exec2; SET SESSION AUTHORIZATION regress_exec2',
	'INSERT INTO once VALUES (''local''); SET LOCAL synchronous_commit = off; SET LOCAL client_min_messages = error',
	'INSERT INTO once VALUES (''lock''); LOCK once',
	'INSERT INTO once VALUES (''encoding''); SET client_encoding = latin1',
	'INSERT INTO once VALUES (''scans''); SET enable_indexscan = off; SET enable_seqscan = off'])
	AS ids \gset
SELECT o.*, j.command FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id) AS o, sabot.job_status AS j
	WHERE j.job_id = id AND (o.state <> 'completed' OR o.attempt <> 1);
SELECT who, count(*) FROM once GROUP BY who ORDER BY who;
DROP ROLE regress_exec, regress_exec2;
-- A constraint that fails only at commit fails the job, which has no effects.
CREATE TABLE child (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
SELECT sabot.submit_job('INSERT INTO once VALUES (''deferred''); INSERT INTO child VALUES (-1)') AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT count(*) AS effects FROM once WHERE who = 'deferred';
SELECT sabot.submit_job('INSERT INTO child VALUES (-2); INSERT INTO t VALUES (-2)') AS id \gset
SELECT state FROM pg_temp.outcome(:id);
-- So does a deferred trigger, which runs as whom the job has become.
CREATE FUNCTION deny() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'denied at commit'; END$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON once DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deny();
SELECT sabot.submit_job('INSERT INTO once VALUES (''trigger'')') AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT count(*) AS effects FROM once WHERE who = 'trigger';
-- A timeout is for one attempt, and ends it.
SELECT sabot.submit_job('SELECT pg_sleep(60)', timeout => '0.1 s') AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT error_hint FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.submit_job($$DO 'BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60); END'$$,
	timeout => '0.1 s') AS id \gset
SELECT state, code FROM pg_temp.outcome(:id);
-- A job's own statement timeout is its own error.
SELECT sabot.submit_job('SET statement_timeout = 50; SELECT pg_sleep(60)') AS id \gset
SELECT state, code, error FROM pg_temp.outcome(:id);
-- Jobs run as anybody's session does.
SELECT sabot.submit_job('SELECT application_name, query LIKE ''SELECT app%'' AS shows_command, state, backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()', keep_rows => 1) AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- A job may submit jobs; they exist once it is completed.
DROP TRIGGER late ON once;
SELECT sabot.submit_job('SELECT sabot.submit_job(''INSERT INTO once SELECT 1'') AS child', keep_rows => 1) AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT state FROM sabot.job_rows(:id) AS r, pg_temp.outcome((r->>'child')::bigint);
SELECT sabot.set_queue_limit('exec', NULL);
SET client_min_messages = warning;
DROP SCHEMA exec CASCADE;
