-- LLM jobs that follow a table: which sources can be followed, and what a job
-- leaves in the database, without a server.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 27000) AS ids \gset
-- Nothing listens there, and nobody needs to hear of it.
SET client_min_messages = error;
SELECT sabot.add_llm_endpoint('default', 'http://127.0.0.1:9');
CREATE SCHEMA llm_follow;
GRANT ALL ON SCHEMA llm_follow TO PUBLIC;
SET search_path = llm_follow;
CREATE TABLE item (id int PRIMARY KEY, a int, b int, title text, label text, vec real[], UNIQUE (a, b));
CREATE TABLE other (id int PRIMARY KEY, label text);
CREATE TABLE keyless (id int, title text);
CREATE TABLE parent (id int PRIMARY KEY, title text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE parted (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE reserved (id int PRIMARY KEY, sabot_op text);
CREATE VIEW item_view AS TABLE item;
CREATE FUNCTION moody(int) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT ''x''';
-- follow(source, arguments): the statement that submits a job that follows
CREATE FUNCTION pg_temp.follow(source text, args text DEFAULT '') RETURNS text LANGUAGE sql AS
	'SELECT format(''SELECT sabot.submit_llm_job(%L, ''''x'''', model => ''''m'''', follow => true %s)'', source, args)';
-- Sources whose rows are not each made from one row of one table.
SELECT source, code, message, detail FROM unnest(ARRAY[
	'SELECT 1 AS id', 'VALUES (1)', 'SELECT * FROM llm_follow.item_view',
	'SELECT * FROM generate_series(1, 3) AS id',
	'SELECT i.id FROM llm_follow.item i JOIN llm_follow.other o USING (id)',
	'SELECT i.id FROM llm_follow.item i, llm_follow.other o',
	'SELECT * FROM (SELECT * FROM llm_follow.item) s',
	'SELECT id FROM llm_follow.item UNION SELECT id FROM llm_follow.other',
	'WITH w AS (SELECT 1) SELECT id FROM llm_follow.item',
	'SELECT max(id) AS id FROM llm_follow.item', 'SELECT id FROM llm_follow.item GROUP BY id',
	'SELECT id, row_number() OVER () FROM llm_follow.item', 'SELECT DISTINCT id FROM llm_follow.item',
	'SELECT id FROM llm_follow.item LIMIT 1', 'SELECT id FROM llm_follow.item OFFSET 1',
	'SELECT id, generate_series(1, 2) FROM llm_follow.item',
	'SELECT id, (SELECT label FROM llm_follow.other o WHERE o.id = i.id) FROM llm_follow.item i',
	'SELECT id FROM llm_follow.item WHERE id IN (SELECT id FROM llm_follow.other)',
	'SELECT id, random() FROM llm_follow.item', 'SELECT id FROM llm_follow.item WHERE llm_follow.moody(id) = ''x''',
	'SELECT id FROM llm_follow.item TABLESAMPLE system (50)',
	'TABLE llm_follow.parent', 'DELETE FROM llm_follow.item']) AS source,
	pg_temp.try(pg_temp.follow(source)) \gx
-- Keys that do not find the rows that change.
SELECT source, args, code, message, detail, hint FROM (VALUES
	('TABLE llm_follow.keyless', ''), ('TABLE llm_follow.keyless', ', key => ''{id}'''),
	('SELECT title FROM llm_follow.item', ''), ('SELECT id + 1 AS id FROM llm_follow.item', ''),
	('SELECT a AS id, id AS a FROM llm_follow.item', ''),
	('SELECT *, id AS id FROM llm_follow.item', ''),
	('TABLE llm_follow.item', ', key => ''{a}'''),
	('TABLE llm_follow.item', ', key => ''{title}''')) AS v(source, args),
	pg_temp.try(pg_temp.follow(source, args)) \gx
-- Tables whose rows are not captured for the caller.
CREATE TEMP TABLE mine (id int PRIMARY KEY);
CREATE ROLE follow_other LOGIN;
SELECT sabot.grant_usage('follow_other');
GRANT ALL ON ALL TABLES IN SCHEMA llm_follow TO follow_other;
SELECT code, message FROM pg_temp.try(pg_temp.follow('TABLE mine'));
SELECT code, message, detail FROM pg_temp.try(pg_temp.follow('TABLE pg_catalog.pg_class', ', key => ''{oid}'''));
SELECT code, message FROM pg_temp.try(pg_temp.follow('TABLE llm_follow.reserved'));
SET ROLE follow_other;
SELECT code, message FROM pg_temp.try(pg_temp.follow('TABLE llm_follow.item'));
RESET ROLE;
SELECT code, message FROM pg_temp.try($$SELECT sabot.submit_embedding_job('SELECT max(id) AS id FROM llm_follow.item', '{id}',
	model => 'm', follow => true)$$);
-- Nothing is left of these, nor of one that is rolled back.
BEGIN;
SELECT sabot.submit_llm_job('TABLE item', '{title}', model => 'm', follow => true) > 0 AS submitted;
ROLLBACK;
SELECT (SELECT count(*) FROM sabot.llm_job WHERE job_id > 27000) AS jobs, (SELECT count(*) FROM sabot.stream WHERE job_id > 27000) AS captures,
	(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot%') AS triggers;
-- Some that can.
INSERT INTO item (id, a, b, title) SELECT n, n, 1, 'item ' || n FROM generate_series(1, 3) AS n;
INSERT INTO parted VALUES (1, 'one');
SELECT sabot.submit_llm_job('SELECT id, upper(title) AS title FROM item WHERE id > 0 ORDER BY title; -- all', '{title}', model => 'm', follow => true, name => 'plain') AS plain,
	sabot.submit_llm_job('TABLE item', '{title}', model => 'm', key => '{a,b}', follow => true, name => 'unique') AS unique,
	sabot.submit_llm_job('TABLE parted', '{title}', model => 'm', follow => true, name => 'parted') AS parted,
	sabot.submit_embedding_job('TABLE item', '{title}', model => 'm', target => 'item', output => 'vec', follow => true, name => 'vectors') AS vectors \gset
SELECT l.follow, l.key, s.source, count(t.oid) AS triggers, (t.tgrelid::regclass) AS "on"
	FROM sabot.llm_job AS l JOIN sabot.stream_status AS s USING (job_id)
	JOIN pg_trigger AS t ON t.tgname = 'sabot_stream_' || l.job_id
	GROUP BY l.job_id, l.follow, l.key, s.source, t.tgrelid ORDER BY l.job_id, t.tgrelid;
SELECT pg_temp.await(format('(SELECT total > 0 FROM sabot.llm_progress WHERE job_id = %s)', :plain));
SELECT name, total, pending, finished_at IS NULL AS open FROM sabot.llm_progress JOIN sabot.job_status USING (job_id, name)
	WHERE job_id = :plain;
-- Before one has begun it waits as others do, and captures.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('SELECT 1/0', queue => 'held') AS first \gset
SELECT sabot.submit_llm_job('TABLE other', '{label}', model => 'm', follow => true, depends_on => ARRAY[:first]) AS later \gset
INSERT INTO other VALUES (1, 'x');
SELECT state, wait_reason = format('waits for job %s', :first) AS waits FROM sabot.job_status WHERE job_id = :later;
SELECT lag_rows FROM sabot.stream_status WHERE job_id = :later;
-- What it depends on fails: it is skipped, and its capture is gone.
SELECT sabot.resume_queue('held');
SELECT pg_temp.finish(:later);
SELECT sabot.submit_llm_job('TABLE other', '{label}', model => 'm', follow => true, depends_on => ARRAY[:first]) AS never \gset
SELECT pg_temp.finish(:never);
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'other'::regclass;
-- Pause, resume and cancel without a worker.
SELECT sabot.pause_job(:plain), sabot.pause_job(:vectors);
SELECT pg_temp.await(format('(SELECT bool_and(state = ''paused'') FROM sabot.job_status WHERE job_id IN (%s, %s))', :plain, :vectors));
SELECT sabot.resume_job(:plain);
SELECT sabot.cancel_job(job_id) FROM sabot.llm_job WHERE follow AND job_id IN (:plain, :unique, :parted, :vectors);
SELECT pg_temp.finish(:plain), pg_temp.finish(:unique), pg_temp.finish(:parted), pg_temp.finish(:vectors);
SELECT code, message, detail, hint FROM pg_temp.try(format('SELECT sabot.retry_job(%s)', :plain)) \gx
SELECT code FROM pg_temp.try(format('SELECT sabot.retry_llm_items(%s)', :plain));
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'sabot%';
SELECT count(*) AS tables FROM pg_class WHERE relname ~ '^stream_[0-9]';
SELECT sabot.purge('0') > 0 AS purged;
SELECT (SELECT count(*) FROM sabot.llm_job WHERE job_id > 27000) AS jobs, (SELECT count(*) FROM sabot.stream WHERE job_id > 27000) AS captures,
	(SELECT count(*) FROM sabot.llm_waiting) AS waiting;
SELECT sabot.drop_llm_endpoint('default');
SELECT sabot.revoke_usage('follow_other');
DROP SCHEMA llm_follow CASCADE;
DROP ROLE follow_other;
