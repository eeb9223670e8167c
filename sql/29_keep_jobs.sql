-- sabot.keep_jobs: agents that have nothing to do forget jobs of every kind
-- with all that belongs to them, and nothing of those that are not finished.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 29000) AS ids \gset
-- age(jobs, days): have finished jobs, their children and theirs be that old
CREATE FUNCTION pg_temp.age(jobs bigint[], days int DEFAULT 8) RETURNS void LANGUAGE sql AS $$
	WITH RECURSIVE f AS (SELECT unnest(jobs) AS job_id UNION
		SELECT h.job_id FROM f JOIN sabot.job_history AS h ON h.parent_id = f.job_id)
	UPDATE sabot.job_history SET finished_at = finished_at - make_interval(days => days)
		WHERE job_id IN (SELECT job_id FROM f) $$;
-- leftovers(): rows of sabot's tables whose job is not there
CREATE FUNCTION pg_temp.leftovers(OUT what text, OUT job bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
	c record;
BEGIN
	FOR c IN SELECT a.attrelid::regclass AS t, a.attname AS a FROM pg_attribute AS a JOIN pg_class AS k ON k.oid = a.attrelid
		WHERE k.relnamespace = 'sabot'::regnamespace AND k.relkind = 'r'
			AND a.attname IN ('job_id', 'parent_id', 'depends_on', 'run_id') AND a.atttypid = 'bigint'::regtype
	LOOP
		RETURN QUERY EXECUTE format('SELECT %L || ''.'' || %L, x.%2$I FROM %1$s AS x WHERE x.%2$I > 29000 AND NOT EXISTS
			(SELECT FROM sabot.job AS j WHERE j.job_id = x.%2$I UNION ALL SELECT FROM sabot.job_history AS j WHERE j.job_id = x.%2$I)',
			c.t, c.a);
	END LOOP;
	RETURN QUERY SELECT 'table ' || relname, substring(relname FROM '\d+')::bigint FROM pg_class WHERE relname ~ '^stream_\d+'
		AND NOT EXISTS (SELECT FROM sabot.job AS j WHERE j.job_id = substring(relname FROM '\d+')::bigint);
END $$;
SELECT count(*) AS tables FROM pg_attribute AS a JOIN pg_class AS k ON k.oid = a.attrelid
	WHERE k.relnamespace = 'sabot'::regnamespace AND k.relkind = 'r' AND a.attname = 'job_id';
-- Everything that can be left behind.  Held ones wait in a queue of their own.
CREATE SCHEMA keep;
SET search_path = keep;
CREATE TABLE large AS SELECT i AS id, 0 AS n FROM generate_series(1, 40) AS i;
ALTER TABLE large ADD PRIMARY KEY (id);
CREATE TABLE source (id int PRIMARY KEY, body text);
SELECT sabot.pause_queue('held');
SET client_min_messages = error;	-- nothing listens there
SELECT sabot.add_llm_endpoint('default', 'http://127.0.0.1:9');
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT 1', keep_rows => 1),
	sabot.graph_task('b', 'SELECT 1/0', '{a}', on_failure => 'continue'), sabot.graph_task('c', 'SELECT 3', '{a,b}'))) AS graph,
	sabot.submit_job('UPDATE large SET n = n + 1', over => 'large', pieces => 4) AS spread,
	sabot.submit_stream('source', 'SELECT 1/(id % 3) FROM batch', max_attempts => 1) AS ended,
	sabot.submit_stream('source', 'SELECT FROM batch', batch_rows => 2) AS stream,
	sabot.submit_llm_job('SELECT id, body FROM source', '{body}', model => 'm', follow => true) AS follow,
	sabot.submit_job('SELECT 1', name => 'kept', schedule => '50 ms') AS schedule,
	sabot.submit_graph(jsonb_build_array(sabot.graph_task('x', 'SELECT 1')), name => 'kept graphs', schedule => '50 ms') AS graphs,
	sabot.submit_job('SELECT 1', name => 'over', schedule => '50 ms') AS over \gset
INSERT INTO source SELECT n, 'x' FROM generate_series(1, 6) AS n;
SELECT sabot.submit_job('SELECT 2', depends_on => ARRAY[:graph]) AS after,
	sabot.submit_job('SELECT 2', queue => 'held', depends_on => ARRAY[:graph]) AS waits \gset
SELECT sabot.submit_job('SELECT 1', run_after => 'infinity') AS never \gset
SELECT sabot.submit_job('SELECT 2', depends_on => ARRAY[:never, :graph]) AS dropped \gset
SELECT sabot.cancel_job(:dropped);
SELECT pg_temp.finish(:graph), pg_temp.finish(:spread), pg_temp.finish(:after);
SELECT pg_temp.await(format('(SELECT every(lag_rows = 0) FROM sabot.stream_status WHERE job_id IN (%s, %s))', :ended, :stream));
SELECT dead_letters FROM sabot.stream_status WHERE job_id = :ended;
SELECT pg_temp.await(format('(SELECT every(runs >= 3) FROM sabot.schedule_status WHERE job_id IN (%s, %s, %s))', :schedule, :graphs, :over));
SELECT sabot.cancel_job(:ended), sabot.cancel_job(:follow), sabot.cancel_job(:over), sabot.pause_job(:schedule), sabot.pause_job(:graphs);
SELECT pg_temp.finish(:follow);
SELECT pg_temp.await(format('(SELECT every(finished_at IS NOT NULL) FROM sabot.job_task WHERE parent_id IN (%s, %s, %s))', :schedule, :graphs, :over));
-- Half done: what is left of a graph and of a job with pieces waits for a lock.
CREATE FUNCTION hold(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF id > 20 THEN
		PERFORM pg_advisory_xact_lock(29);
	END IF;
	RETURN 1;
END $$;
SELECT pg_advisory_lock(29);
SELECT sabot.submit_graph(jsonb_build_array(sabot.graph_task('first', 'SELECT 1'), sabot.graph_task('second', 'SELECT pg_advisory_xact_lock(29)', '{first}'),
	sabot.graph_task('third', 'SELECT 3', '{first,second}'))) AS half,
	sabot.submit_job('UPDATE large SET n = n + hold(id)', over => 'large', pieces => 2) AS rest \gset
SELECT pg_temp.await(format('(SELECT count(*) = 2 FROM sabot.job_task WHERE parent_id IN (%s, %s) AND state = ''completed'')', :half, :rest));
SELECT pg_temp.await(format('(SELECT count(*) = 2 FROM sabot.job_task WHERE parent_id IN (%s, %s) AND state = ''running'')', :half, :rest));
-- Some are not old enough.
CALL sabot.wait_for_job(sabot.submit_graph(jsonb_build_array(sabot.graph_task('a', 'SELECT 1')), name => 'young'));
SELECT pg_temp.age(array_agg(job_id), CASE WHEN bool_or(name = 'young') THEN 6 ELSE 8 END) FROM (
	SELECT job_id, name FROM sabot.job WHERE job_id > 29000 AND parent_id IS NULL UNION ALL
	SELECT job_id, name FROM sabot.job_history WHERE job_id > 29000 AND parent_id IS NULL) AS j GROUP BY name IS NOT DISTINCT FROM 'young';
-- purge(): have an agent that has nothing to do look; the job is one it forgets
CREATE PROCEDURE pg_temp.purge() LANGUAGE plpgsql AS $$
DECLARE
	sign bigint;
BEGIN
	sign := sabot.submit_job('SELECT 1');
	COMMIT;
	PERFORM pg_temp.finish(sign);
	UPDATE sabot.job_history SET finished_at = finished_at - interval '8 days' WHERE job_id = sign;
	COMMIT;
	PERFORM sabot.stop_agents(), sabot.submit_job('SELECT 1', name => 'young');
	COMMIT;
	PERFORM pg_temp.await(format('NOT EXISTS (SELECT FROM sabot.job_history WHERE job_id = %s)', sign));
END $$;
SELECT count(*) > 30 AS many FROM sabot.job_history WHERE job_id > 29000;
CALL pg_temp.purge();
-- What is there: nothing of the finished ones; of the others what was done, but
-- for old batches, and runs that are not the last.
SELECT which, state, (SELECT count(*) FROM sabot.job_history AS c WHERE c.parent_id = t.job_id AND c.state = 'completed') AS done,
	(SELECT count(*) FROM sabot.job AS c WHERE c.parent_id = t.job_id) AS open
	FROM (VALUES ('graph', :graph), ('spread', :spread), ('ended', :ended), ('follow', :follow), ('over', :over), ('after', :after), ('dropped', :dropped),
		('stream', :stream), ('schedule', :schedule), ('graphs', :graphs), ('waits', :waits), ('half', :half), ('rest', :rest)) AS t(which, job_id)
	LEFT JOIN sabot.job_status AS s USING (job_id) ORDER BY t.job_id;
SELECT count(*) AS young FROM sabot.job_status WHERE name = 'young';
SELECT count(*) AS tasks FROM sabot.job_task AS t JOIN sabot.schedule_status AS s ON s.run_id = t.parent_id WHERE s.job_id = :graphs;
SELECT * FROM pg_temp.leftovers();
-- What was half done is completed, with all that had been done before.
SELECT pg_advisory_unlock(29);
SELECT pg_temp.finish(:half), pg_temp.finish(:rest);
SELECT name, state FROM sabot.job_task WHERE parent_id = :half ORDER BY job_id;
SELECT total, done, rows FROM sabot.job_progress WHERE job_id = :rest;
SELECT DISTINCT n FROM large;
SELECT sabot.resume_queue('held');
SELECT pg_temp.finish(:waits);
-- And once they are old they are gone, too.
SELECT sabot.cancel_job(:schedule), sabot.cancel_job(:graphs), sabot.cancel_job(:stream), sabot.cancel_job(:never);
SELECT pg_temp.age(array_agg(job_id)) FROM sabot.job_history WHERE job_id > 29000 AND parent_id IS NULL;
CALL pg_temp.purge();
SELECT state, command FROM sabot.job_history WHERE job_id > 29000 AND name IS DISTINCT FROM 'young';
SELECT * FROM pg_temp.leftovers();
SELECT sabot.drop_llm_endpoint('default');
DROP SCHEMA keep CASCADE;
