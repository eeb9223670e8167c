-- Security of streams: what is captured is handled by nobody but its owner,
-- and nobody reaches into the streams, or holds up the jobs, of others.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
\set VERBOSITY terse
SELECT setval('sabot.job_job_id_seq', 28000) AS ids \gset
CREATE ROLE shape_alice LOGIN;
CREATE ROLE shape_bob LOGIN;
CREATE ROLE shape_carol LOGIN;
CREATE ROLE shape_monitor LOGIN IN ROLE pg_monitor;
SELECT FROM unnest('{shape_alice,shape_bob,shape_carol,shape_monitor}'::regrole[]) AS r, sabot.grant_usage(r);
CREATE SCHEMA al AUTHORIZATION shape_alice;
CREATE SCHEMA bo AUTHORIZATION shape_bob;
GRANT USAGE, CREATE ON SCHEMA al, bo TO PUBLIC;

-- Types of columns: the functions of those are never called in the name of the
-- extension's owner, not even by ANALYZE.
SET SESSION AUTHORIZATION shape_alice;
CREATE TABLE al.caller (who name);
GRANT INSERT ON al.caller TO PUBLIC;
CREATE FUNCTION al.tell() RETURNS void LANGUAGE sql AS 'INSERT INTO al.caller VALUES (current_user)';
CREATE FUNCTION al.diff(a int, b int) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS
	$$BEGIN PERFORM al.tell(); RETURN a - b; END$$;
CREATE TYPE al.evil AS RANGE (subtype = int, subtype_diff = al.diff);
CREATE TABLE al.typed (r al.evil, m al.evil_multirange, a al.evil[], "Quoted, name" int);
SELECT sabot.submit_stream('al.typed', 'SELECT FROM batch') AS typed \gset
SELECT sabot.pause_job(:typed);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :typed));
INSERT INTO al.typed SELECT al.evil(i, i + 5), al.evil_multirange(al.evil(i, i + 5)), ARRAY[al.evil(i, i + 5)], i FROM generate_series(1, 300) AS i;
ALTER TABLE al.typed ADD COLUMN other al.evil;
INSERT INTO al.typed SELECT al.evil(i, i + 5), NULL, NULL, i, al.evil(i, i + 5) FROM generate_series(1, 300) AS i;
RESET SESSION AUTHORIZATION;
SELECT string_agg(format('sabot.%I', relname), ', ') AS tables, count(*) FROM pg_class WHERE relname ~ ('^stream_' || :typed || '(_1)?$') \gset
SELECT :count AS tables;
ANALYZE :tables;
SELECT DISTINCT who FROM al.caller;
SELECT sabot.cancel_job(:typed);

-- The trigger on a table of one's own, in the name of somebody else's stream
SET SESSION AUTHORIZATION shape_bob;
CREATE TABLE bo.source (id int, what text);
CREATE TABLE bo.seen (id int, what text);
SELECT sabot.submit_stream('bo.source', 'INSERT INTO bo.seen SELECT id, what FROM batch') AS bobs \gset
SET SESSION AUTHORIZATION shape_alice;
CREATE TABLE al.lure (id int);
SELECT format('CREATE TRIGGER sabot_stream_%s AFTER INSERT ON al.lure FOR EACH ROW EXECUTE FUNCTION sabot.stream_capture(%1$s)', :bobs) \gexec
TRUNCATE al.lure;
ALTER TABLE al.lure ADD COLUMN other text;
SELECT format('DROP TRIGGER sabot_stream_%s ON al.lure', :bobs) \gexec
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM sabot.stream_part WHERE job_id = :bobs;
SELECT event FROM sabot.stream_event WHERE job_id = :bobs;
-- and what else is to be had of it
SET SESSION AUTHORIZATION shape_alice;
SELECT count(*) FROM sabot.stream_status WHERE job_id = :bobs;
SELECT lag_rows, lag, capturing FROM sabot.stream_lag(:bobs);
SELECT sabot.stream_waits(:bobs);
SELECT code FROM unnest(ARRAY['TABLE %s.stream', 'TABLE %s.stream_part', 'TABLE %s.stream_event', 'TABLE %s.stream_dead_row',
	'TABLE %s.stream_' || :bobs, 'INSERT INTO %s.stream_' || :bobs || ' DEFAULT VALUES', 'LOCK %s.stream_' || :bobs,
	'SELECT nextval(''%s.stream_seq'')', 'SELECT %s.pause_job(' || :bobs || ')', 'SELECT %s.cancel_job(' || :bobs || ')',
	'SELECT %s.submit_stream(''bo.source'', ''SELECT'')', 'SELECT %s.submit_stream(''sabot.stream_' || :bobs || ''', ''SELECT'')']) AS sql, pg_temp.try(format(sql, 'sabot'));

-- A table that has another owner now, and is dropped: what he wrote was his.
CREATE TABLE al.given (id int, what text);
CREATE TABLE al.got (what text);
SELECT sabot.submit_stream('al.given', 'INSERT INTO al.got SELECT what FROM batch') AS given,
	sabot.submit_stream('al.given', 'INSERT INTO al.got SELECT what FROM batch') AS waits \gset
SELECT sabot.pause_job(:waits);
RESET SESSION AUTHORIZATION;
ALTER TABLE al.given OWNER TO shape_bob;
SET SESSION AUTHORIZATION shape_bob;
INSERT INTO al.given VALUES (1, 'secret');
RESET SESSION AUTHORIZATION;
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :given));
SET SESSION AUTHORIZATION shape_bob;
DROP TABLE al.given;
SET SESSION AUTHORIZATION shape_alice;
SELECT sabot.resume_job(:given), sabot.resume_job(:waits);
SELECT pg_temp.finish(:given), pg_temp.finish(:waits);
SELECT count(*) FROM al.got;
SELECT last_event FROM sabot.stream_status WHERE job_id = :given;
SELECT sqlstate, error FROM sabot.job_status WHERE job_id = :waits;

-- Who has a type of the columns locked does not hold up those who look after
-- the jobs of all.
CREATE DOMAIN al.dom AS int;
CREATE TABLE al.domained (id int, d al.dom);
SELECT sabot.submit_stream('al.domained', 'SELECT FROM batch') AS domained \gset
BEGIN;
DROP DOMAIN al.dom CASCADE;
\! psql -XAtq -U shape_monitor -d contrib_regression -c "SET statement_timeout = '20 s'" -c "SELECT count(*) > 0, count(*) FILTER (WHERE lag_rows IS NULL AND state NOT IN ('failed', 'canceled')) FROM sabot.stream_status"
COMMIT;
SELECT pg_temp.await(format('(SELECT lag_rows = 0 FROM sabot.stream_status WHERE job_id = %s)', :domained));
SELECT sabot.cancel_job(:domained);

-- The tablespace of captured rows is not for the caller to choose.
RESET SESSION AUTHORIZATION;
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE shape_space LOCATION '';
SET SESSION AUTHORIZATION shape_alice;
CREATE TABLE al.placed (id int);
SET default_tablespace = shape_space;
SELECT sabot.submit_stream('al.placed', 'SELECT FROM batch') AS placed \gset
RESET default_tablespace;
SELECT reltablespace FROM pg_class WHERE relname = 'stream_' || :placed;
SELECT sabot.cancel_job(:placed);
RESET SESSION AUTHORIZATION;
DROP TABLESPACE shape_space;

-- A dead letter whose row takes for ever to be shown, by a function of the owner,
-- ends with the timeout, and is no obstacle to cancel_job.
SET SESSION AUTHORIZATION shape_alice;
CREATE TYPE al.slow AS ENUM ('a');
CREATE FUNCTION al.to_json(al.slow) RETURNS json LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(1000); RETURN '1'; END$$;
CREATE CAST (al.slow AS json) WITH FUNCTION al.to_json(al.slow);
CREATE TABLE al.letter (id int, s al.slow);
SELECT sabot.submit_stream('al.letter', 'SELECT 1 / id FROM batch', max_attempts => 1, timeout => '300 ms') AS timed \gset
INSERT INTO al.letter VALUES (0, 'a');
SELECT pg_temp.await(format('EXISTS (SELECT FROM sabot.stream_dead_letter WHERE job_id = %s)', :timed));
SELECT "row", sqlstate FROM sabot.stream_dead_letter WHERE job_id = :timed;
SELECT sabot.cancel_job(:timed);
SELECT sabot.submit_stream('al.letter', 'SELECT 1 / id FROM batch', max_attempts => 1) AS timeless \gset
INSERT INTO al.letter VALUES (0, 'a');
SELECT pg_temp.await(format('EXISTS (SELECT FROM pg_stat_activity AS a JOIN sabot.agent_status AS s USING (pid) WHERE s.job_id = %s AND a.wait_event = ''PgSleep'')', :timeless));
SELECT sabot.cancel_job(:timeless);
SELECT pg_temp.finish(:timeless);
SELECT count(*) FROM sabot.stream_dead_letter WHERE job_id = :timeless;
RESET SESSION AUTHORIZATION;

-- What the extension's owner gives others of his tables does not hold for those.
CREATE ROLE "shape reader";
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO "shape reader";
SET SESSION AUTHORIZATION shape_alice;
SELECT sabot.submit_stream('al.placed', 'SELECT FROM batch') AS placed \gset
SELECT has_table_privilege('shape_bob', oid, 'SELECT') AS bob, has_table_privilege('shape reader', oid, 'SELECT, INSERT') AS reader
	FROM pg_class WHERE relname = 'stream_' || :placed;
SELECT sabot.cancel_job(:placed);
RESET SESSION AUTHORIZATION;
ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM "shape reader";
DROP ROLE "shape reader";

-- Rows that were written are not kept in memory to the end of the transaction,
-- nor are their large values.
CREATE TABLE al.large (id int, n int, v text);
ALTER TABLE al.large ALTER v SET STORAGE EXTERNAL;
INSERT INTO al.large SELECT i, 0, repeat('x', 500000) FROM generate_series(1, 40) AS i;
CREATE TABLE al.many (id int);
SELECT sabot.submit_stream('al.large', 'SELECT FROM batch') AS large, sabot.submit_stream('al.many', 'SELECT FROM batch') AS many \gset
BEGIN;
UPDATE al.large SET n = 1;
SELECT sum(total_bytes) < 5000000 AS few FROM pg_backend_memory_contexts WHERE name = 'sabot captured rows';
ROLLBACK;
BEGIN;
INSERT INTO al.many SELECT generate_series(1, 100000);
SELECT sum(total_bytes) < 2000000 AS few FROM pg_backend_memory_contexts WHERE name = 'sabot captured rows';
ROLLBACK;
SELECT sabot.cancel_job(:large), sabot.cancel_job(:many);

-- What reads a table for a role that is gone ends with the role, paused or not,
-- though nobody writes.
SET client_min_messages = error;	-- nothing listens there
SELECT sabot.add_llm_endpoint('default', 'http://127.0.0.1:9');
SET SESSION AUTHORIZATION shape_carol;
SET client_min_messages = error;
CREATE TABLE bo.carols (id int PRIMARY KEY, body text);
SELECT sabot.submit_stream('bo.carols', 'SELECT FROM batch') AS carols,
	sabot.submit_stream('bo.carols', 'SELECT FROM batch') AS paused,
	sabot.submit_llm_job('TABLE bo.carols', '{body}', model => 'm', follow => true) AS follows \gset
SELECT sabot.pause_job(:paused);
SELECT pg_temp.await(format('(SELECT state = ''blocked'' FROM sabot.job_status WHERE job_id = %s)', :follows));
RESET SESSION AUTHORIZATION;
SELECT pg_temp.await(format('sabot.job_state(%s) = ''blocked''', :carols));
REASSIGN OWNED BY shape_carol TO shape_bob;
SET SESSION AUTHORIZATION shape_bob;
INSERT INTO bo.carols VALUES (1);
RESET SESSION AUTHORIZATION;
SELECT pg_temp.await(format('(SELECT bool_and(state = ''paused'') FROM sabot.job_status WHERE job_id IN (%s, %s))', :carols, :follows));
SELECT wait_reason FROM sabot.job_status WHERE job_id IN (:carols, :paused, :follows) ORDER BY job_id;
DROP OWNED BY shape_carol;
DROP ROLE shape_carol;
SELECT pg_temp.finish(:carols), pg_temp.finish(:paused), pg_temp.finish(:follows);
SELECT DISTINCT sqlstate, error FROM sabot.job_status WHERE job_id IN (:carols, :paused, :follows);
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'bo.carols'::regclass;
SELECT count(*) FROM sabot.stream_part WHERE job_id IN (:carols, :paused, :follows);
SELECT sabot.drop_llm_endpoint('default');
RESET client_min_messages;

-- Jobs spread over a table tell nothing of it that one may not know: neither
-- its size, nor keys of rows that its policies hide: "secret" in a plan's numbers.
SET SESSION AUTHORIZATION shape_bob;
CREATE TABLE bo.hidden AS SELECT 'secret-' || i AS id, CASE i % 100 WHEN 0 THEN 'shape_alice' ELSE 'shape_bob' END AS who FROM generate_series(1, 5000) AS i;
ALTER TABLE bo.hidden ADD PRIMARY KEY (id);
ALTER TABLE bo.hidden ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bo.hidden USING (who = current_user);
RESET SESSION AUTHORIZATION;
ALTER ROLE shape_alice SET debug_print_plan = on;
ALTER ROLE shape_alice SET client_min_messages = log;
SET SESSION AUTHORIZATION shape_alice;
SELECT code, message FROM pg_temp.try($$SELECT sabot.submit_job('SELECT id FROM bo.hidden', over => 'bo.hidden')$$);
RESET SESSION AUTHORIZATION;
GRANT SELECT ON bo.hidden TO shape_alice;
SELECT sabot.stop_agents() >= 0 AS stopped;
SET SESSION AUTHORIZATION shape_alice;
SELECT sabot.submit_job('SELECT id FROM bo.hidden', over => 'bo.hidden', pieces => 5) AS spread \gset
RESET SESSION AUTHORIZATION;
SELECT pg_temp.finish(:spread);
SELECT count(*) AS pieces, sum(row_count) AS rows, bool_or(notices::text ~ '115 101 99 114 101 116') AS tells
	FROM sabot.job_task WHERE parent_id = :spread;

SELECT sabot.cancel_job(:bobs);
SELECT pg_temp.finish(:bobs);
SET client_min_messages = warning;
DROP SCHEMA al, bo CASCADE;
DROP OWNED BY shape_alice, shape_bob, shape_monitor;
DROP ROLE shape_alice, shape_bob, shape_monitor;
SELECT count(*) FROM sabot.stream_part;
