-- LLM jobs that depend on jobs, and jobs that depend on them, without a server.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 26000) AS ids \gset
-- Nothing listens there, and nobody needs to hear of it.
SET client_min_messages = error;
SELECT sabot.add_llm_endpoint('default', 'http://127.0.0.1:9');
CREATE SCHEMA llm_depends;
SELECT sabot.purge('0') >= 0 AS purged;
SET search_path = llm_depends;
CREATE TABLE item (id int PRIMARY KEY, title text, vec real[]);
-- They wait for what they depend on, as other jobs do.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('INSERT INTO llm_depends.item VALUES (1, ''one'')', queue => 'held') AS first \gset
SELECT sabot.submit_llm_job('TABLE item', '{title}', model => 'm', depends_on => ARRAY[:first], name => 'labels') AS labels,
	sabot.submit_embedding_job('TABLE item', '{title}', model => 'm', target => 'item', output => 'vec',
		depends_on => ARRAY[:first], name => 'vectors', run_after => 'infinity') AS vectors \gset
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:labels, :vectors], name => 'last') AS last \gset
SELECT name, kind, state, wait_reason FROM sabot.job_status WHERE finished_at IS NULL AND job_id > :first ORDER BY job_id;
SELECT name, state, total, pending FROM sabot.llm_progress ORDER BY job_id;
-- What cannot be depended on is refused, and nothing is left of it.
SELECT jobs, code, message FROM unnest(ARRAY['{1}', '{NULL}', '{{1}}']) AS jobs,
	pg_temp.try(format('SELECT sabot.submit_llm_job(''SELECT 1 AS a'', ''{a}'', model => ''m'', depends_on => %L)', jobs));
SELECT count(*) FROM sabot.llm_job;
-- Ready when that has completed: the source is read then, and not before.
SELECT sabot.resume_queue('held');
CALL sabot.wait_for_job(:first);
SELECT pg_temp.await(format('(SELECT p.total = 1 AND j.wait_reason ~ ''endpoint'' FROM sabot.llm_progress p JOIN sabot.job_status j USING (job_id) WHERE job_id = %s)', :labels));
SELECT name, state, wait_reason ~ 'endpoint' AS endpoint, wait_reason ~ 'starts at' AS starts
	FROM sabot.job_status WHERE job_id IN (:labels, :vectors) ORDER BY job_id;
SELECT name, state, wait_reason FROM sabot.job_status WHERE job_id = :last;
-- Canceled, and what depends on it is skipped.
SELECT sabot.cancel_job(:labels);
SELECT state, error FROM pg_temp.outcome(:labels);
SELECT pg_temp.outcome(:last);
SELECT name, state, error FROM sabot.job_status WHERE job_id = :last;
SELECT sabot.cancel_job(:vectors);
-- What they depend on fails, or has failed: they are skipped, and say so.
SELECT sabot.submit_job('SELECT 1/0', queue => 'held') AS first \gset
SELECT sabot.submit_llm_job('TABLE item', '{title}', model => 'm', depends_on => ARRAY[:first], name => 'before') AS before \gset
SELECT pg_temp.outcome(:first);
SELECT sabot.submit_embedding_job('TABLE item', '{title}', model => 'm', depends_on => ARRAY[:first], name => 'after') AS after \gset
SELECT pg_temp.finish(:before);
SELECT name, state, error FROM sabot.job_status WHERE job_id IN (:before, :after) ORDER BY job_id;
SELECT name, state, total, eta FROM sabot.llm_progress WHERE job_id IN (:before, :after) ORDER BY job_id;
SELECT count(*) FROM sabot.llm_result WHERE job_id IN (:before, :after);
SELECT code, message, detail FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :after));
-- Tried again, they find the same.
SELECT sabot.retry_job(:after);
SELECT pg_temp.finish(:after);
SELECT sabot.purge('0') > 0 AS purged;
SELECT count(*) FROM sabot.llm_job;
SELECT sabot.drop_llm_endpoint('default');
DROP SCHEMA llm_depends CASCADE;
