-- The LLM lane without a server: endpoints and who may use them, templates,
-- and what is refused when a job is submitted.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 20000) AS ids \gset
-- Nothing listens there, and nobody needs to hear of it.
SET client_min_messages = error;
SELECT sabot.add_llm_endpoint('default', 'http://127.0.0.1:9');
SET client_min_messages = notice;
CREATE SCHEMA llm;
SET search_path = llm;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE item (id int PRIMARY KEY, title text, info jsonb, tags text[],
	mood mood, score int, note varchar(5), vec real[],
	always int GENERATED ALWAYS AS (1) STORED);
CREATE TABLE keyless (id int, answer text);
INSERT INTO item (id, title, info, tags) VALUES
	(1, 'one {x}', '{"a": [1, "zwei"]}', '{p,"q r"}'),
	(2, NULL, NULL, NULL), (3, E'three\nlines', '"text"', '{}');
-- Prompts, as they would be sent.
SELECT * FROM sabot.preview_llm_job('TABLE item', 'Title: {title}, number {id}.');
SELECT * FROM sabot.preview_llm_job('SELECT * FROM item ORDER BY id',
	'{{title}} {info} {tags}', system => 'Be brief.', rows => 1);
SELECT * FROM sabot.preview_llm_job('VALUES (1, ''x'')', '{column1}{column2}', rows => 9);
SELECT * FROM sabot.preview_llm_job('SELECT i, 1 AS "a b", 2 AS "Ä" FROM item i WHERE id = 1',
	'{i} {a b} {Ä}');
SELECT * FROM sabot.preview_llm_job('SELECT 1 AS a WHERE false', '{a}');
-- What is wrong with a template, and where.
SELECT (pg_temp.try(format('SELECT sabot.preview_llm_job(''TABLE llm.item'', %L)', prompt))).*
	FROM unnest(ARRAY['{titel}', 'x {', '{}', 'x } {id}', '{id', '{Title}', '{id} }}']) AS prompt \gx
SELECT (pg_temp.try(format('SELECT sabot.preview_llm_job(%s)', args))).*
	FROM unnest(ARRAY['NULL, ''x''', '''TABLE llm.item'', NULL',
	'''TABLE llm.item'', ''x'', rows => 0', '''TABLE llm.item'', ''x'', rows => NULL',
	'''SELECT 1 AS a, 2 AS a'', ''{a}''']) AS args \gx
-- Sources that are none.
SELECT (pg_temp.try(format('SELECT sabot.preview_llm_job(%L, ''x'')', source))).*
	FROM unnest(ARRAY['', 'SELECT 1; SELECT 2', 'DELETE FROM llm.item',
	'SELECT * FROM llm.item FOR UPDATE', 'SELECT FORM', 'SELECT $1', 'SELECT nothing',
	'INSERT INTO llm.item VALUES (9) RETURNING id', 'BEGIN', 'EXPLAIN SELECT 1',
	'SELECT 1/0']) AS source \gx
CREATE TEMP TABLE mine (id int);
SELECT (pg_temp.try('SELECT sabot.preview_llm_job(''TABLE mine'', ''{id}'')')).* \gx
SELECT sabot.preview_llm_job('SELECT id FROM item FORM x', '{id}');
-- Jobs that can never work.
SELECT args, (pg_temp.try(format('SELECT sabot.submit_llm_job(%s)', args))).*
	FROM unnest(ARRAY[
	'NULL, ''x''', '''TABLE llm.item'', NULL', ''''', ''x''', '''TABLE llm.item'', '' ''',
	'''TABLE llm.item'', ''{nothing}''',
	'''TABLE llm.item'', ''{id}'', model => repeat(''m'', 200)']) AS args \gx
SELECT code, message, hint
	FROM pg_temp.try('SELECT sabot.submit_llm_job(''TABLE llm.item'', ''{id}'')') \gx
-- With everything else in order.
CREATE FUNCTION pg_temp.job(args text) RETURNS text LANGUAGE sql AS
	'SELECT format(''SELECT sabot.submit_llm_job(''''TABLE llm.item'''', ''''{title}'''', model => ''''m'''', %s)'', args)';
SELECT args, (pg_temp.try(pg_temp.job(args))).* FROM unnest(ARRAY[
	'endpoint => ''nowhere''', 'endpoint => NULL',
	'format => ''[]''', 'format => ''true''', 'format => ''{"type": "strnig"}''',
	'options => ''[]''', 'options => ''{"stream": true}''', 'options => ''{"model": "x"}''',
	'timeout => NULL', 'timeout => ''0''', 'timeout => ''-1 s''', 'timeout => ''2 days''',
	'max_attempts => 0', 'max_attempts => NULL', 'reuse => NULL',
	'priority => NULL', 'priority => 5000', 'name => repeat(''n'', 256)',
	'notify => ''''', 'depends_on => ''{1}''', 'follow => NULL']) AS args \gx
-- Targets, keys, outputs and fallbacks that do not fit.
SELECT args, (pg_temp.try(pg_temp.job(args))).* FROM unnest(ARRAY[
	'target => ''llm.item''', 'output => ''title''',
	'target => ''llm.item'', output => ''nothing''',
	'target => ''llm.item'', output => ''always''',
	'target => ''llm.item'', output => ''id''',
	'target => ''llm.item'', output => ''{"title"''',
	'target => ''llm.item'', output => ''{}''',
	'target => ''llm.item'', output => ''{"title": 1}''',
	'target => ''llm.item'', output => ''{"title": "title"}''',
	'target => ''llm.item'', output => ''{"nothing": "$.x"}''',
	'target => ''llm.keyless'', output => ''answer''',
	'target => ''llm.keyless'', output => ''answer'', key => ''{id}''',
	'target => ''llm.item'', output => ''title'', key => ''{}''',
	'target => ''llm.item'', output => ''title'', key => ''{NULL}''',
	'target => ''llm.item'', output => ''title'', key => ''{score}''',
	'target => ''llm.item'', output => ''title'', key => ''{id,id}''',
	'target => ''llm.item'', output => ''title'', key => ''{nothing}''',
	'target => ''llm.mood_no'', output => ''id''',
	'target => ''llm.item_pkey'', output => ''id''',
	'target => ''llm.item'', output => ''score'', fallback => ''many''',
	'target => ''llm.item'', output => ''mood'', fallback => ''so so''',
	'target => ''llm.item'', output => ''note'', fallback => ''too long''',
	'target => ''llm.item'', output => ''{"mood": "$.mood"}'', fallback => ''good''',
	'target => ''llm.item'', output => ''{"mood": "$.mood"}'', fallback => ''{"mood": "so so"}'''
	]) AS args \gx
SELECT code, regexp_replace(message, '_\d+', '_N') AS message, detail
	FROM pg_temp.try(pg_temp.job('target => ''mine'', output => ''id'', key => ''{id}''')) \gx
SELECT args, (pg_temp.try(format('SELECT sabot.submit_embedding_job(''TABLE llm.item'', ''{title}'', %s)', args))).*
	FROM unnest(ARRAY['model => ''m'', batch_size => 0', 'model => ''m'', batch_size => 5000',
	'model => ''m'', batch_size => NULL',
	'model => ''m'', target => ''llm.item'', output => ''score''',
	'model => ''m'', follow => NULL', 'model => ''m'', depends_on => ''{1}''']) AS args \gx
SELECT (pg_temp.try('SELECT sabot.submit_embedding_job(''TABLE llm.item'', NULL)')).* \gx
-- The queue is the lane's own.
SELECT (pg_temp.try('SELECT sabot.submit_job(''SELECT 1'', queue => ''llm'')')).* \gx
-- Asking again.
SELECT (pg_temp.try(format('SELECT sabot.retry_llm_items(%s)', args))).* FROM unnest(ARRAY[
	'NULL', '-1']) AS args \gx
-- The schema for an answer is made from the columns it goes to.
SET client_min_messages = error;
SELECT sabot.submit_llm_job('TABLE item', '{title}', model => 'm', target => 'item',
	output => '{"mood": "$.mood", "score": "$.score", "tags": "$.tags", "note": "$.note"}',
	fallback => '{"mood": "bad", "score": 0, "tags": [], "note": null}',
	run_after => 'infinity', name => 'labels') AS labels \gset
SELECT sabot.submit_llm_job('TABLE item', '{title}', model => 'm', target => 'item',
	output => 'note', fallback => 'none', run_after => 'infinity') AS whole \gset
SELECT sabot.submit_embedding_job('TABLE item', '{title}', model => 'm', target => 'item',
	output => 'vec', run_after => 'infinity') AS vectors \gset
RESET client_min_messages;
SELECT job_id, jsonb_pretty(format) AS format, target, key, output, fallback,
		timeout, max_attempts, batch_size, reuse
	FROM sabot.llm_job ORDER BY job_id \gx
SELECT job_id, name, kind, queue, state FROM sabot.job_status
	WHERE queue = 'llm' ORDER BY job_id;
SELECT (pg_temp.try(format('SELECT sabot.retry_llm_items(%s)', args))).* FROM unnest(ARRAY[
	format('%s, ''bad''', :labels)]) AS args \gx
SELECT sabot.retry_llm_items(:labels);
-- Endpoints: what is none.
SELECT args, (pg_temp.try(format('SELECT sabot.add_llm_endpoint(%s)', args))).* FROM unnest(ARRAY[
	'NULL, ''http://h''', '''e'', NULL', ''''', ''http://h''', 'repeat(''e'', 64), ''http://h''',
	'''e'', ''h:80''', '''e'', ''file:///etc/passwd''', '''e'', ''ftp://h''', '''e'', ''http://''',
	'''e'', ''http://user:pass@h''', '''e'', ''http://h?key=1''', '''e'', ''http://h#x''',
	'''e'', ''http://h:99999''', '''e'', ''http://h'', api => ''other''',
	'''e'', ''http://h'', api => NULL', '''e'', ''http://h'', max_in_flight => 0',
	'''e'', ''http://h'', max_in_flight => 65', '''e'', ''http://h'', max_in_flight => NULL',
	'''e'', ''http://h'', secret => E''a\nb''', '''e'', ''http://h'', secret => ''file:x''',
	'''e'', ''http://h'', roles => ''{nobody_at_all}''', '''e'', ''http://h'', roles => ''{NULL}'''
	]) AS args \gx
-- Adding, changing, dropping.
CREATE ROLE regress_sabot_anna;
CREATE ROLE regress_sabot_ben LOGIN;
CREATE ROLE regress_sabot_team;
GRANT regress_sabot_team TO regress_sabot_ben;
SELECT sabot.add_llm_endpoint('big', 'HTTPS://Big.Example/v1/', api => 'openai',
	max_in_flight => 8, secret => 'hush', roles => '{regress_sabot_team}');
SELECT endpoint, url, api, max_in_flight, in_flight FROM sabot.llm_endpoint_status
	ORDER BY endpoint;
SELECT endpoint FROM sabot.llm_secret;
-- A secret stays with its server.
SELECT sabot.add_llm_endpoint('big', 'https://big.example/other', api => 'openai');
SELECT endpoint, secret FROM sabot.llm_secret;
SELECT sabot.add_llm_endpoint('big', 'http://127.0.0.1:8', roles => '{regress_sabot_team}');
SELECT count(*) FROM sabot.llm_secret;
SELECT sabot.drop_llm_endpoint('nowhere');
SELECT sabot.drop_llm_endpoint(NULL);
SELECT sabot.drop_llm_endpoint('default');
\echo :LAST_ERROR_SQLSTATE
-- An ordinary role: what it may do, and what not.
SELECT sabot.grant_usage('regress_sabot_ben');
GRANT USAGE ON SCHEMA llm TO PUBLIC;
GRANT SELECT, UPDATE (title) ON item TO regress_sabot_ben;
GRANT USAGE ON SCHEMA sabot TO regress_sabot_anna;
SET ROLE regress_sabot_anna;
SELECT sabot.preview_llm_job('VALUES (1)', 'x');
SELECT sabot.submit_llm_job('VALUES (1)', 'x');
SELECT sabot.check_llm();
SET ROLE regress_sabot_ben;
SET client_min_messages = error;
SELECT (pg_temp.try('SELECT sabot.add_llm_endpoint(''e'', ''http://h'')')).* \gx
SELECT (pg_temp.try('SELECT sabot.drop_llm_endpoint(''big'')')).* \gx
SELECT (pg_temp.try(format('SELECT * FROM sabot.%I', t))).* FROM
	unnest('{llm_secret,llm_endpoint,llm_job,llm_item,llm_answer}'::text[]) AS t;
SELECT args, (pg_temp.try(format('SELECT sabot.submit_llm_job(''SELECT id, title FROM llm.item'', ''{title}'', model => ''m'', %s)', args))).*
	FROM unnest(ARRAY['target => ''llm.item'', output => ''score''',
	'target => ''llm.keyless'', output => ''answer''', 'endpoint => ''none''']) AS args \gx
SELECT sabot.submit_llm_job('SELECT id, title FROM item', '{title}', model => 'm',
	target => 'item', output => 'title', endpoint => 'big', run_after => 'infinity') AS bens \gset
SELECT endpoint FROM sabot.llm_endpoint_status ORDER BY endpoint;
SELECT job_id = :bens AS his FROM sabot.llm_progress;
SELECT (pg_temp.try(format('SELECT sabot.retry_llm_items(%s)', :labels))).* \gx
RESET ROLE;
-- Its right to the endpoint is taken away.
SELECT sabot.add_llm_endpoint('big', 'http://127.0.0.1:8', roles => '{regress_sabot_anna}');
SET ROLE regress_sabot_ben;
SELECT (pg_temp.try('SELECT sabot.submit_llm_job(''SELECT 1 AS a'', ''{a}'', model => ''m'', endpoint => ''big'')')).* \gx
RESET ROLE;
-- An endpoint that is in use.
SELECT (pg_temp.try('SELECT sabot.drop_llm_endpoint(''big'')')).* \gx
SELECT sabot.cancel_job(job_id) FROM sabot.job_status WHERE queue = 'llm' ORDER BY job_id;
SELECT sabot.drop_llm_endpoint('big');
SELECT sabot.drop_llm_endpoint('default');
SELECT endpoint, url FROM sabot.llm_endpoint_status;
SELECT sabot.revoke_usage('regress_sabot_ben');
DROP TABLE mine;
RESET search_path;
DROP SCHEMA llm CASCADE;
REVOKE USAGE ON SCHEMA sabot FROM regress_sabot_anna;
DROP ROLE regress_sabot_anna, regress_sabot_ben, regress_sabot_team;
