-- Streams: every row written into a table is handed to a command, once.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
\set VERBOSITY terse
SELECT setval('sabot.job_job_id_seq', 24000) AS ids \gset
CREATE ROLE stream_owner LOGIN;
CREATE ROLE stream_other LOGIN;
CREATE ROLE stream_writer LOGIN;
SELECT FROM sabot.grant_usage('stream_owner');
SELECT FROM sabot.grant_usage('stream_other');
CREATE SCHEMA st AUTHORIZATION stream_owner;
GRANT USAGE ON SCHEMA st TO stream_writer, stream_other;
SET SESSION AUTHORIZATION stream_owner;
CREATE TABLE st.orders (id int PRIMARY KEY, customer text, amount numeric(10,2),
	tags text[] DEFAULT '{}', doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
CREATE TABLE st.totals (customer text PRIMARY KEY, total numeric, orders int);
CREATE TABLE st.seen (n bigint GENERATED ALWAYS AS IDENTITY, id int, what text, op text, seq bigint);
GRANT INSERT, UPDATE, SELECT ON st.orders TO stream_writer;

-- idle(stream): return once it has handed over everything
CREATE FUNCTION pg_temp.idle(job bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_temp.await(format('(SELECT state <> ''running'' AND state <> ''queued'' AND lag_rows = 0 FROM sabot.stream_status WHERE job_id = %s)', job));
	RETURN (SELECT format('%s: %s rows', state, rows) FROM sabot.stream_status WHERE job_id = job);
END $$;
-- seen(): what a stream's command has seen since the last call
CREATE FUNCTION pg_temp.seen() RETURNS TABLE (id int, what text, op text) LANGUAGE sql AS $$
	WITH d AS (DELETE FROM st.seen RETURNING *) SELECT d.id, d.what, d.op FROM d ORDER BY seq, id
$$;

-- the recipe
SELECT sabot.submit_stream('st.orders', $$
	INSERT INTO st.totals SELECT customer, sum(amount), count(*) FROM batch WHERE sabot_op = 'INSERT' GROUP BY 1
		ON CONFLICT (customer) DO UPDATE SET total = totals.total + excluded.total, orders = totals.orders + excluded.orders;
	INSERT INTO st.seen (id, what, op, seq) SELECT id, concat_ws(' ', customer, amount, tags, doubled), sabot_op, sabot_seq FROM batch ORDER BY sabot_seq
	$$, 'totals') AS totals \gset
SELECT tgname = 'sabot_stream_' || :totals AS name, tgenabled, tgtype FROM pg_trigger WHERE tgrelid = 'st.orders'::regclass;
SELECT pg_temp.idle(:totals);
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :totals;
INSERT INTO st.orders (id, customer, amount) VALUES (1, 'a', 10), (2, 'b', 20), (3, 'a', 5);
UPDATE st.orders SET tags = '{x,y}' WHERE id = 1;
SELECT pg_temp.idle(:totals);
TABLE st.totals ORDER BY 1;
SELECT * FROM pg_temp.seen();
-- two changes of a row, in one transaction and in two
UPDATE st.orders SET amount = amount + 1 WHERE id < 3;
BEGIN;
UPDATE st.orders SET amount = 1 WHERE id = 1;
UPDATE st.orders SET amount = 2 WHERE id = 1;
COMMIT;
INSERT INTO st.orders VALUES (1, 'c', 7) ON CONFLICT (id) DO UPDATE SET customer = excluded.customer;
MERGE INTO st.orders AS o USING (VALUES (2), (4)) AS n(id) ON o.id = n.id
	WHEN MATCHED THEN UPDATE SET tags = '{merged}' WHEN NOT MATCHED THEN INSERT VALUES (n.id, 'm', 1);
COPY st.orders (id, customer, amount) FROM STDIN;
5	copied	3
6	copied	4
\.
DELETE FROM st.orders WHERE id = 6;
SELECT pg_temp.idle(:totals);
SELECT * FROM pg_temp.seen();
-- subtransactions: what is rolled back is not captured
BEGIN;
INSERT INTO st.orders VALUES (10, 'top', 1);
SAVEPOINT a;
INSERT INTO st.orders VALUES (11, 'a', 1);
SAVEPOINT b;
INSERT INTO st.orders VALUES (12, 'b', 1);
ROLLBACK TO a;
UPDATE st.orders SET customer = 'again' WHERE id = 10;
SAVEPOINT c;
INSERT INTO st.orders VALUES (13, 'c', 1);
RELEASE c;
COMMIT;
BEGIN;
INSERT INTO st.orders VALUES (14, 'rolled back', 1);
ROLLBACK;
SELECT pg_temp.idle(:totals);
SELECT * FROM pg_temp.seen();
-- more rows than are kept in memory, in a subtransaction inside rows that wait
BEGIN;
UPDATE st.orders SET customer = 'first' WHERE id = 1;
SAVEPOINT a;
INSERT INTO st.orders SELECT i, 'many', 1 FROM generate_series(100, 2599) AS i;
UPDATE st.orders SET customer = 'second' WHERE id = 1;
SAVEPOINT b;
INSERT INTO st.orders SELECT i, 'never', 1 FROM generate_series(5000, 7999) AS i;
ROLLBACK TO b;
RELEASE a;
UPDATE st.orders SET customer = 'third' WHERE id = 1;
COMMIT;
SELECT pg_temp.idle(:totals);
SELECT count(*), count(DISTINCT id), min(id), max(id), min(seq) FILTER (WHERE id = 1) < min(seq) FILTER (WHERE id > 1) AS first_is_first FROM st.seen;
SELECT id, what FROM pg_temp.seen() WHERE id = 1;
-- a trigger of the table that writes into it: in the order of the changes
CREATE FUNCTION st.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.customer LIKE 'w%' THEN
		UPDATE st.orders SET customer = 'x' || NEW.customer WHERE id = NEW.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER again AFTER INSERT ON st.orders FOR EACH ROW EXECUTE FUNCTION st.again();
INSERT INTO st.orders VALUES (20, 'w', 1), (21, 'w', 1);
SELECT pg_temp.idle(:totals);
SELECT * FROM pg_temp.seen();
DROP TRIGGER again ON st.orders;
-- who writes needs no rights on sabot; nor does a replica escape
SET SESSION AUTHORIZATION stream_writer;
INSERT INTO st.orders VALUES (30, 'writer', 1);
RESET SESSION AUTHORIZATION;
SET session_replication_role = replica;
INSERT INTO st.orders VALUES (31, 'replica', 1);
RESET session_replication_role;
SET SESSION AUTHORIZATION stream_owner;
-- large values
INSERT INTO st.orders VALUES (32, 'large', 1, (SELECT array_agg(md5(i::text)) FROM generate_series(1, 4000) AS i));
SELECT pg_temp.idle(:totals);
SELECT id, length(what), md5(what) FROM st.seen ORDER BY seq;
SELECT FROM pg_temp.seen();
-- progress
SELECT name, state, total = done AS all_done, failed, rows, lag_rows, lag FROM sabot.job_progress WHERE job_id = :totals;
SELECT DISTINCT kind, state FROM sabot.job_task WHERE parent_id = :totals ORDER BY 1, 2;

-- paused: rows wait, and count as lag
SELECT sabot.pause_job(:totals);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :totals));
INSERT INTO st.orders SELECT i, 'paused', 1 FROM generate_series(40, 42) AS i;
SELECT state, wait_reason, lag_rows, lag > '0', capturing FROM sabot.stream_status WHERE job_id = :totals;
SELECT total - done AS batches, lag_rows FROM sabot.job_progress WHERE job_id = :totals;
SELECT sabot.resume_job(:totals);
SELECT pg_temp.idle(:totals);
SELECT id, op FROM pg_temp.seen();

-- TRUNCATE: what was written is handed over, and it is said
SELECT sabot.pause_job(:totals);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :totals));
INSERT INTO st.orders VALUES (50, 'before', 1);
TRUNCATE st.orders;
INSERT INTO st.orders VALUES (51, 'after', 1);
SELECT sabot.resume_job(:totals);
SELECT pg_temp.idle(:totals);
SELECT id, op FROM pg_temp.seen();
SELECT last_event, last_event_detail FROM sabot.stream_status WHERE job_id = :totals;

-- columns that change: rows keep those they were written with
RESET SESSION AUTHORIZATION;
SELECT setval('sabot.job_job_id_seq', 24200) AS ids \gset
SET SESSION AUTHORIZATION stream_owner;
SELECT sabot.submit_stream('st.orders', $$
	INSERT INTO st.seen (id, what, op, seq) SELECT (to_jsonb(b) ->> 'id')::int, (to_jsonb(b) - 'sabot_seq')::text, pg_typeof(b.id), sabot_seq FROM batch AS b
	$$, 'columns') AS columns \gset
SELECT sabot.pause_job(:totals), sabot.pause_job(:columns);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :totals));
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :columns));
INSERT INTO st.orders VALUES (60, 'int', 1);
ALTER TABLE st.orders DROP COLUMN doubled, ALTER COLUMN id TYPE bigint, ALTER COLUMN amount TYPE text, ADD COLUMN extra date DEFAULT '2024-02-29';
INSERT INTO st.orders VALUES (61, 'bigint', 1);
BEGIN;
INSERT INTO st.orders VALUES (62, 'bigint', 1);
ALTER TABLE st.orders RENAME COLUMN customer TO client;
INSERT INTO st.orders VALUES (63, 'renamed', 1);
COMMIT;
SELECT lag_rows, last_event FROM sabot.stream_status WHERE job_id = :columns;
SELECT sabot.resume_job(:columns);
SELECT pg_temp.idle(:columns);
SELECT * FROM pg_temp.seen();
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM sabot.stream_part WHERE job_id = :columns;
SET SESSION AUTHORIZATION stream_owner;
-- the other one's command has lost its column: that is no row's fault
SELECT sabot.resume_job(:totals);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :totals));
SELECT state, wait_reason, lag_rows, dead_letters FROM sabot.stream_status WHERE job_id = :totals;
SELECT sabot.cancel_job(:totals);
SELECT pg_temp.finish(:totals);
\set VERBOSITY default
SELECT sabot.retry_job(:totals);
\set VERBOSITY terse
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'st.orders'::regclass;
SELECT relname FROM pg_class WHERE relname ~ ('^stream_' || :totals || '(_\d+)?$');

SELECT FROM pg_temp.seen();
-- the trigger is dropped: what was written is handed over, then the stream ends
INSERT INTO st.orders VALUES (70, 'last', 1);
SELECT format('DROP TRIGGER sabot_stream_%s ON st.orders', :columns) \gexec
INSERT INTO st.orders VALUES (71, 'unseen', 1);
SELECT pg_temp.finish(:columns);
SELECT id FROM pg_temp.seen();
SELECT replace(error, 'job ' || :columns, 'job') AS error, sqlstate, error_hint FROM sabot.job_status WHERE job_id = :columns;
SELECT last_event FROM sabot.stream_status WHERE job_id = :columns;
-- and so is the table
CREATE TABLE st.short (id int);
SELECT sabot.submit_stream('st.short', 'INSERT INTO st.seen (id, op, seq) SELECT id, sabot_op, sabot_seq FROM batch') AS short \gset
SELECT sabot.pause_job(:short);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :short));
INSERT INTO st.short VALUES (1), (2);
DROP TABLE st.short;
SELECT sabot.resume_job(:short);
SELECT pg_temp.finish(:short);
SELECT id FROM pg_temp.seen();
SELECT error FROM sabot.job_status WHERE job_id = :short;

-- dead letters
CREATE TABLE st.input (id int, divisor int);
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.seen (id, what, op, seq) SELECT id, 100 / divisor, sabot_op, sabot_seq FROM batch',
	'poison', batch_rows => 50) AS poison \gset
SELECT pg_temp.idle(:poison);
INSERT INTO st.input SELECT i, CASE WHEN i IN (7, 8, 60, 120) THEN 0 ELSE i END FROM generate_series(1, 120) AS i;
SELECT pg_temp.idle(:poison);
SELECT count(*), count(DISTINCT id), sum(id) FROM st.seen;
SELECT bool_and(n = id - (id > 7)::int - (id > 8)::int - (id > 60)::int) AS in_order FROM (SELECT id, row_number() OVER (ORDER BY n) AS n FROM st.seen) AS s;
SELECT FROM pg_temp.seen();
SELECT sabot_op, "row", attempts, sqlstate, error, failed_at > now() - interval '1 h' AS recent FROM sabot.stream_dead_letter WHERE job_id = :poison ORDER BY sabot_seq;
SELECT state, rows, dead_letters FROM sabot.stream_status WHERE job_id = :poison;
SELECT rows, failed FROM sabot.job_progress WHERE job_id = :poison;
SELECT count(*), min(sqlstate), min(error) FROM sabot.job_task WHERE parent_id = :poison AND state = 'failed';
SELECT sabot.cancel_job(:poison);
-- errors that may pass are tried max_attempts times, in all of the batch
CREATE FUNCTION st.refuse(int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF $1 = 3 THEN RAISE 'not 3' USING ERRCODE = 'P0123'; END IF;
	RETURN $1;
END $$;
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.seen (id, op, seq) SELECT st.refuse(id), sabot_op, sabot_seq FROM batch',
	max_attempts => 3, retry_delay => '1 ms') AS tries \gset
INSERT INTO st.input VALUES (1, 1), (2, 1), (3, 1), (4, 1);
SELECT pg_temp.idle(:tries);
SELECT id FROM pg_temp.seen();
SELECT "row", attempts, sqlstate, error FROM sabot.stream_dead_letter WHERE job_id = :tries;
SELECT attempt, sqlstate FROM sabot.job_attempt WHERE job_id = :tries ORDER BY finished_at LIMIT 3;
-- one row per batch
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.seen (id, op, seq) SELECT st.refuse(id), sabot_op, sabot_seq FROM batch',
	batch_rows => 1, max_attempts => 1) AS single \gset
SELECT sabot.cancel_job(:tries);
INSERT INTO st.input VALUES (2, 1), (3, 1), (3, 2), (4, 1);
SELECT pg_temp.idle(:single);
SELECT id FROM pg_temp.seen();
SELECT "row", attempts FROM sabot.stream_dead_letter WHERE job_id = :single ORDER BY sabot_seq;
SELECT sabot.cancel_job(:single);
-- a batch that has taken the last rows leaves the stream at rest, if it is full, too
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.seen (id, op, seq) SELECT id, sabot_op, sabot_seq FROM batch',
	batch_rows => 2) AS exact \gset
SELECT pg_temp.idle(:exact);
INSERT INTO st.input VALUES (1, 1), (2, 1);
SELECT pg_temp.await('(SELECT count(*) = 2 FROM st.seen)');
RESET SESSION AUTHORIZATION;
SELECT state FROM sabot.job WHERE job_id = :exact;
SET SESSION AUTHORIZATION stream_owner;
SELECT id FROM pg_temp.seen();
SELECT sabot.cancel_job(:exact);
-- errors that come with the commit, and settings of the owner
CREATE TABLE st.known (id int PRIMARY KEY);
INSERT INTO st.known SELECT generate_series(1, 10);
CREATE TABLE st.checked (id int REFERENCES st.known DEFERRABLE INITIALLY DEFERRED);
ALTER ROLE stream_owner SET sabot.group_commit = 100;
ALTER ROLE stream_owner SET default_transaction_isolation = 'serializable';
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.checked SELECT id FROM batch', max_attempts => 1) AS checked \gset
INSERT INTO st.input VALUES (1, 1), (11, 1), (2, 1);
SELECT pg_temp.idle(:checked);
TABLE st.checked;
SELECT "row", sqlstate FROM sabot.stream_dead_letter WHERE job_id = :checked;
SELECT sabot.cancel_job(:checked);
ALTER ROLE stream_owner RESET ALL;
-- a batch that does nothing with its rows, one that looks at them twice, and what else "batch" can be
SELECT sabot.submit_stream('st.input', $$
	WITH deleted AS (DELETE FROM st.checked USING batch AS b WHERE checked.id = b.id RETURNING checked.id)
		INSERT INTO st.seen (id, what, op, seq) SELECT id, 'deleted', 'none', 0 FROM deleted;
	CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM batch;
	UPDATE st.known SET id = b.id + 100 FROM batch AS b WHERE known.id = b.id AND b.id = 3;
	MERGE INTO st.known AS k USING batch AS b ON k.id = b.id WHEN NOT MATCHED THEN INSERT VALUES (b.id);
	INSERT INTO st.seen (id, what, op, seq) SELECT k.id, to_jsonb(b) ->> 'divisor', b.sabot_op, b.sabot_seq
		FROM kept AS k JOIN batch AS b USING (sabot_seq) WHERE k.id <> 2
	$$) AS several \gset
INSERT INTO st.input VALUES (1, 7), (2, 8), (3, 9), (12, 10);
SELECT pg_temp.idle(:several);
SELECT * FROM pg_temp.seen();
SELECT id FROM st.known WHERE id > 10 ORDER BY id;
SELECT sabot.cancel_job(:several);
-- nobody else sees any of it
SET SESSION AUTHORIZATION stream_other;
SELECT count(*) FROM sabot.stream_dead_letter;
SELECT count(*) FROM sabot.stream_status;
SELECT * FROM sabot.stream_lag(:single);
SET SESSION AUTHORIZATION stream_owner;

RESET SESSION AUTHORIZATION;
SELECT setval('sabot.job_job_id_seq', 24500) AS ids \gset
SET SESSION AUTHORIZATION stream_owner;
-- partitions: rows that come to them directly, or move, or had other columns
CREATE TABLE st.parted (id int, place text, note text) PARTITION BY LIST (place);
CREATE TABLE st.parted_a PARTITION OF st.parted FOR VALUES IN ('a');
CREATE TABLE st.parted_b (note text, junk int, place text, id int);
ALTER TABLE st.parted_b DROP COLUMN junk;
SELECT sabot.submit_stream('st.parted', 'INSERT INTO st.seen (id, what, op, seq) SELECT id, place || note, sabot_op, sabot_seq FROM batch') AS parted \gset
ALTER TABLE st.parted ATTACH PARTITION st.parted_b FOR VALUES IN ('b');
INSERT INTO st.parted VALUES (1, 'a', '1'), (2, 'b', '2');
INSERT INTO st.parted_a VALUES (3, 'a', '3');
INSERT INTO st.parted_b VALUES ('4', 'b', 4);
UPDATE st.parted SET place = 'b' WHERE id = 1;
SELECT pg_temp.idle(:parted);
SELECT * FROM pg_temp.seen();
ALTER TABLE st.parted ALTER COLUMN note TYPE varchar(5);
INSERT INTO st.parted_b VALUES ('5', 'b', 5);
SELECT pg_temp.idle(:parted);
SELECT * FROM pg_temp.seen();
SELECT sabot.cancel_job(:parted);
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sabot_stream%';

-- rows cannot be brought into streams of others
RESET SESSION AUTHORIZATION;
SELECT setval('sabot.job_job_id_seq', 24600) AS ids \gset
SET SESSION AUTHORIZATION stream_owner;
CREATE TABLE st.guarded (id int);
SELECT sabot.submit_stream('st.guarded', 'INSERT INTO st.seen (id, op, seq) SELECT id, sabot_op, sabot_seq FROM batch') AS guarded \gset
SET SESSION AUTHORIZATION stream_other;
CREATE TEMP TABLE forged (id int);
SELECT format('CREATE TRIGGER forged AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION sabot.stream_capture(%L)', :guarded) \gexec
INSERT INTO forged VALUES (1);
SET SESSION AUTHORIZATION stream_owner;
SELECT pg_temp.idle(:guarded);
SELECT sabot.cancel_job(:guarded);
-- what is refused
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream(NULL, 'SELECT')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', NULL)$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELEC')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELECT $1')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'VACUUM')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELECT', batch_rows => 0)$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELECT', batch_rows => NULL)$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELECT', max_attempts => 0)$$);
CREATE VIEW st.v AS SELECT 1 AS a;
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.v', 'SELECT')$$);
CREATE TEMP TABLE tt (a int);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('tt', 'SELECT')$$);
CREATE TABLE st.named (sabot_op int);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.named', 'SELECT')$$);
SET SESSION AUTHORIZATION stream_other;
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('st.input', 'SELECT')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('pg_class', 'SELECT')$$);
RESET SESSION AUTHORIZATION;
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('pg_class', 'SELECT')$$);
SELECT * FROM pg_temp.try($$SELECT sabot.submit_stream('sabot.job', 'SELECT')$$);

-- the table gets another owner: its rows are his
SET SESSION AUTHORIZATION stream_owner;
SELECT sabot.submit_stream('st.input', 'INSERT INTO st.seen (id, op, seq) SELECT id, sabot_op, sabot_seq FROM batch') AS given \gset
SELECT pg_temp.idle(:given);
RESET SESSION AUTHORIZATION;
ALTER TABLE st.input OWNER TO stream_other;
INSERT INTO st.input VALUES (1, 1);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''paused''', :given));
SELECT wait_reason FROM sabot.job_status WHERE job_id = :given;
ALTER TABLE st.input OWNER TO stream_owner;
SELECT sabot.resume_job(:given);
SELECT pg_temp.idle(:given);
-- a copied trigger without its stream only warns
CREATE TABLE st.copied (id int);
CREATE TRIGGER sabot_stream_0 AFTER INSERT ON st.copied FOR EACH ROW EXECUTE FUNCTION sabot.stream_capture('0');
INSERT INTO st.copied VALUES (1);
INSERT INTO st.copied VALUES (2);
-- prepared transactions
BEGIN;
INSERT INTO st.input VALUES (80, 1);
PREPARE TRANSACTION 'stream';
INSERT INTO st.input VALUES (81, 1);
SELECT pg_temp.await($$EXISTS (SELECT FROM st.seen WHERE id = 81)$$);
COMMIT PREPARED 'stream';
SELECT pg_temp.await($$EXISTS (SELECT FROM st.seen WHERE id = 80)$$);
SELECT pg_temp.idle(:given);
-- an event trigger writes into a table whose columns change, also when sabot creates the table for the new ones
CREATE TABLE st.audit (tag text);
SELECT sabot.submit_stream('st.audit', 'INSERT INTO st.seen (id, op) SELECT tag::int, sabot_op FROM batch') AS audit \gset
TRUNCATE st.seen;
CREATE FUNCTION st.note_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'INSERT INTO st.audit VALUES (''101'')';
END $$;
CREATE EVENT TRIGGER stream_note_command ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE') EXECUTE FUNCTION st.note_command();
SELECT * FROM pg_temp.try('ALTER TABLE st.audit ALTER tag TYPE int USING tag::int');
CREATE OR REPLACE FUNCTION st.note_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name = 'sabot') THEN
		EXECUTE 'INSERT INTO st.audit VALUES (''102'')';
	END IF;
END $$;
SET client_min_messages = warning;
ALTER TABLE st.audit ALTER tag TYPE int USING tag::int;
RESET client_min_messages;
DROP EVENT TRIGGER stream_note_command;
INSERT INTO st.audit VALUES (103);
SELECT pg_temp.idle(:audit);
SELECT id, op FROM st.seen ORDER BY id;
-- what a session knows of a table is replaced, not added to, when that changes
CREATE PROCEDURE st.write_and_change(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO st.audit VALUES (i);
		ALTER TABLE st.audit SET (fillfactor = 90);
		COMMIT;
	END LOOP;
END $$;
CREATE FUNCTION st.cache_bytes() RETURNS bigint LANGUAGE sql AS
	'SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts WHERE name = ''CacheMemoryContext''';
CALL st.write_and_change(20);
SELECT st.cache_bytes() > 0 AS warm;
SELECT st.cache_bytes() AS before \gset
CALL st.write_and_change(300);
SELECT st.cache_bytes() - :before < 50000 AS flat;
SELECT sabot.cancel_job(:audit);
-- What is told at once of commands that would not do what they are to do, and to
-- those who wait for the end of a stream.
SELECT setval('sabot.job_job_id_seq', 24900) AS ids \gset
BEGIN;
SELECT sabot.submit_stream('st.input', c) > 0 AS submitted FROM unnest(ARRAY['INSERT INTO st.seen SELECT idd FROM batch',
	'INSERT INTO st.seen (id) SELECT id FROM rows', 'INSERT INTO st.seen VALUES (''x'') ; SELECT FROM batch', 'SELECT pg_notify(''x'', '''')']) AS c;
-- what cannot be told: what is made by the command itself, or in functions
SELECT sabot.submit_stream('st.input', c) > 0 AS submitted FROM unnest(ARRAY['SELECT sabot_op, sabot_seq + id FROM BATCH',
	'CREATE TEMP TABLE t ON COMMIT DROP AS SELECT * FROM batch; SELECT nothing FROM t', 'DO $$BEGIN PERFORM FROM nothing; END$$ -- batch']) AS c;
SELECT count(*) AS locks FROM pg_locks WHERE relation = 'st.seen'::regclass AND pid = pg_backend_pid();
ROLLBACK;
SELECT setval('sabot.job_job_id_seq', 24920) AS ids \gset
SELECT sabot.submit_stream('st.input', 'SELECT FROM batch') AS awaited \gset
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:awaited]) AS dependent \gset
CALL sabot.wait_for_job(:awaited, '10 ms');
SELECT sabot.cancel_job(:awaited);
SELECT pg_temp.finish(:dependent);
-- everything goes with the owner's things
SELECT sabot.cancel_job(:given);
DROP SCHEMA st CASCADE;
DROP OWNED BY stream_owner, stream_other, stream_writer;
DROP ROLE stream_owner, stream_other, stream_writer;
SELECT count(*) FROM sabot.stream_part;
