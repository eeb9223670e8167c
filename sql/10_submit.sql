-- Submitting: every parameter, its defaults, and what is refused until later.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
-- Each file has ids of its own, so that they may be shown.
SELECT setval('sabot.job_job_id_seq', 10000) AS ids \gset
CREATE SCHEMA submit;
SET search_path = submit, public;
CREATE TABLE done (n int, said text);
-- The shortest way.
CALL sabot.wait_for_job(sabot.submit_job('INSERT INTO done VALUES (1, ''hello'')'));
SELECT * FROM done;
SELECT job_id, name, kind, owner = current_user AS mine, queue, priority,
		state, wait_reason, attempt, max_attempts, losses, atomic, command,
		run_after, command_tag, row_count, notices, sqlstate, error
	FROM sabot.job_status WHERE job_id = 10001 \gx
SELECT submitted_at <= started_at AND started_at <= finished_at AS in_order
	FROM sabot.job_status WHERE job_id = 10001;
-- All of it, by name.
SELECT sabot.submit_job(command => 'INSERT INTO done VALUES ($1, $2) RETURNING n',
	params => '[2, "all"]', name => 'all of it', queue => 'submit',
	priority => 7, run_after => '2001-02-03 04:05:06+00', max_attempts => 3,
	retry_delay => '2 s', timeout => '1 min', atomic => true,
	dedup_key => 'key', keep_rows => 5, notify => 'done') AS id \gset
SELECT * FROM pg_temp.outcome(:id);
SELECT name, queue, priority, max_attempts, atomic, run_after AT TIME ZONE 'UTC' AS run_after_utc
	FROM sabot.job_status WHERE job_id = :id;
SELECT * FROM sabot.job_rows(:id);
-- Nothing of a rolled back submission is left, and nothing of a savepoint's.
BEGIN;
SELECT sabot.submit_job('INSERT INTO done VALUES (3, ''rolled back'')');
ROLLBACK;
BEGIN;
SELECT sabot.submit_job('INSERT INTO done VALUES (4, ''kept'')') AS kept \gset
SAVEPOINT s;
SELECT sabot.submit_job('INSERT INTO done VALUES (5, ''rolled back'')') AS lost \gset
ROLLBACK TO s;
SELECT sabot.job_state(:kept) AS before_commit;
COMMIT;
SELECT pg_temp.finish(:kept);
SELECT sabot.job_state(:lost);
SELECT * FROM done ORDER BY n;
-- Not before its time.
SELECT sabot.submit_job('INSERT INTO done VALUES (6, ''later'')',
	run_after => now() + interval '1 hour') AS id \gset
SELECT state, run_after > submitted_at AS ahead,
		wait_reason LIKE 'starts at %' AS says_when
	FROM sabot.job_status WHERE job_id = :id;
SELECT sabot.cancel_job(:id);
SELECT sabot.submit_job('SELECT clock_timestamp() >= $1 AS due', jsonb_build_array(t),
	run_after => t, keep_rows => 1) AS id
	FROM (SELECT clock_timestamp() + interval '0.3 s' AS t) AS soon \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- Higher priority first, then the lower id.
CREATE SEQUENCE turn;
SELECT sabot.pause_queue('submit');
SELECT sabot.set_queue_limit('submit', 1);
SELECT sabot.submit_job_each('INSERT INTO done VALUES (nextval(''turn'') + 100, $1)',
	'[["third"], ["fourth"]]', queue => 'submit');
SELECT sabot.submit_job('INSERT INTO done VALUES (nextval(''turn'') + 100, ''last'')',
	queue => 'submit', priority => -1000) AS id \gset
SELECT sabot.submit_job('INSERT INTO done VALUES (nextval(''turn'') + 100, ''first'')',
	queue => 'submit', priority => 1000);
SELECT sabot.submit_job('INSERT INTO done VALUES (nextval(''turn'') + 100, ''second'')',
	queue => 'submit', priority => 1);
SELECT sabot.resume_queue('submit');
SELECT pg_temp.finish(:id);
SELECT said FROM done WHERE n > 100 ORDER BY n;
SELECT sabot.set_queue_limit('submit', NULL);
-- The same key, queue and owner: one unfinished job.
SELECT sabot.submit_job('SELECT 1', dedup_key => 'k', run_after => 'infinity') AS first \gset
SELECT sabot.submit_job('SELECT 2', dedup_key => 'k', priority => 9) = :first AS same;
SELECT command, priority FROM sabot.job_status WHERE job_id = :first;
SELECT sabot.submit_job('SELECT 3', dedup_key => 'k', queue => 'other') = :first AS same;
SELECT sabot.cancel_job(:first);
SELECT sabot.submit_job('SELECT 4', dedup_key => 'k') = :first AS same;
-- Rows kept: the first ones of the last row set.
SELECT sabot.submit_job('SELECT 1 AS a; SELECT g, g * 0.5 AS half, NULL AS nothing, ARRAY[g] AS list FROM generate_series(1, 5) AS g',
	keep_rows => 2) AS id \gset
SELECT state, rows FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
SELECT sabot.submit_job('SELECT 1 WHERE false', keep_rows => 2) AS id \gset
SELECT state, rows FROM pg_temp.outcome(:id);
SELECT count(*) FROM sabot.job_rows(:id);
SELECT sabot.submit_job('SELECT 1') AS id \gset
SELECT state, rows FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- Notifications come with the end, whichever it is.
\getenv builddir PG_ABS_BUILDDIR
\set heard :builddir /results/10_submit.heard
LISTEN done;
\o :heard
SELECT sabot.submit_job('SELECT 1', name => 'good "one"', notify => 'done') AS good \gset
SELECT sabot.submit_job('SELECT 1/0', notify => 'done') AS bad \gset
SELECT sabot.submit_job('SELECT 1', notify => 'done', run_after => 'infinity') AS canceled \gset
SELECT pg_temp.finish(:good), pg_temp.finish(:bad);
SELECT sabot.cancel_job(:canceled);
SELECT pg_temp.finish(:canceled);
SELECT pg_temp.await($$NOT EXISTS (SELECT FROM sabot.agent_status WHERE job_id > 10000)$$);
SELECT 'the last of them has been read';
\o
\setenv heard :heard
\! sed -n 's/^Asynchronous notification \(.*\) received from.*/\1/p' "$heard" | sort
\! rm "$heard"
UNLISTEN done;
-- Batches.
SELECT sabot.submit_jobs(ARRAY['INSERT INTO done VALUES (201, ''a'')',
	'INSERT INTO done VALUES (202, ''b'')'], name => 'batch', queue => 'submit') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT sabot.submit_jobs(ARRAY['INSERT INTO done VALUES ($1, $2)',
	'INSERT INTO done VALUES ($2, $1)', 'SELECT'], '[[203, "c"], ["d", 204], []]',
	max_attempts => 2, retry_delay => '1 ms', timeout => '1 min', keep_rows => 1,
	notify => 'nobody') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT sabot.submit_job_each('INSERT INTO done VALUES ($1, $2)',
	(SELECT jsonb_agg(jsonb_build_array(n, 'each')) FROM generate_series(205, 207) AS n),
	priority => 3, run_after => '-infinity') AS ids \gset
CALL sabot.wait_for_jobs(:'ids');
SELECT * FROM done WHERE n BETWEEN 201 AND 300 ORDER BY n;
SELECT job_id, name, queue, priority FROM sabot.job_status
	WHERE name = 'batch' OR priority = 3 ORDER BY job_id;
SELECT sabot.submit_jobs('{}') AS none, sabot.submit_job_each('SELECT', '[]') AS none_each;
-- A syntax error is refused by submit_job and submit_job_each; submit_jobs
-- does not parse: the job fails.
SELECT sabot.submit_jobs('{SELEC 1}') AS ids \gset
SELECT state, code, error FROM pg_temp.outcome((:'ids'::bigint[])[1]);
-- A read-only transaction cannot submit.
BEGIN READ ONLY;
SELECT sabot.submit_job('SELECT 1');
ROLLBACK;
SET client_min_messages = warning;
DROP SCHEMA submit CASCADE;
