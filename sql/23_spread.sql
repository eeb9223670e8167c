-- Jobs that are spread over a table.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 23000) AS ids \gset
CREATE SCHEMA spread;
SET search_path = spread;
-- pieces of a job, and how even they are
CREATE FUNCTION pg_temp.pieces(job bigint, OUT pieces bigint, OUT done bigint, OUT rows numeric, OUT even boolean)
	LANGUAGE sql AS 'SELECT count(*), count(*) FILTER (WHERE state = ''completed''), sum(row_count),
		max(row_count) <= 1.3 * avg(row_count) + 1 FROM sabot.job_task WHERE parent_id = $1 AND kind = ''piece''';
CREATE TABLE t (id int PRIMARY KEY, x int NOT NULL DEFAULT 0, part text);
INSERT INTO t SELECT i, 0, 'part ' || i % 3 FROM generate_series(1, 1000) AS i;
-- UPDATE: every row once.
SELECT sabot.submit_job('UPDATE t SET x = x + $1', '[1]', name => 'all', over => 't', pieces => 7, queue => 'q', priority => 3) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT x, count(*) FROM t GROUP BY 1;
SELECT job_id, parent_id, name, kind, queue, priority, state, attempt, atomic, command_tag FROM sabot.any_job WHERE :job IN (job_id, parent_id) ORDER BY job_id;
SELECT * FROM pg_temp.pieces(:job);
SELECT row_count FROM sabot.job_status WHERE job_id = :job;
SELECT total, done, failed, percent, rows, rate > 0 AS rate, eta, bar FROM sabot.job_progress WHERE job_id = :job;
-- As many pieces as suit the table, if nobody says; one if it is empty.
SELECT sabot.submit_job('DELETE FROM ONLY t WHERE id % 2 = 0', over => 't') AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT pieces <= 2 AS few, rows FROM pg_temp.pieces(:job);
CREATE TABLE empty (id int PRIMARY KEY);
SELECT sabot.submit_job('DELETE FROM empty', over => 'empty', pieces => 10) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT * FROM pg_temp.pieces(:job);
CREATE TABLE large (id int PRIMARY KEY);
INSERT INTO large SELECT generate_series(1, 30000);
SELECT sabot.submit_job('SELECT FROM large', over => 'large') AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT pieces = 4 * current_setting('sabot.pool_size')::int AS pieces, rows, even FROM pg_temp.pieces(:job);
-- SELECT and INSERT ... SELECT; rows are kept in the order of pieces.
SELECT sabot.submit_job('SELECT id FROM t ORDER BY id', over => 't', pieces => 5, keep_rows => 130) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT count(*), min((r->>'id')::int), max((r->>'id')::int) FROM sabot.job_rows(:job) AS r;
SELECT array_agg(r->>'id') = array_agg(r->>'id' ORDER BY (r->>'id')::int) AS in_order FROM sabot.job_rows(:job) AS r;
SELECT count(*) BETWEEN 1 AND 129 AS fewer FROM sabot.job_rows((SELECT min(job_id) FROM sabot.job_task WHERE parent_id = :job));
CREATE TABLE copy (id int, from_part text);
SELECT sabot.submit_job('INSERT INTO copy SELECT id, part FROM t', over => 't', pieces => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT count(*), count(DISTINCT id) FROM copy;
-- Pieces are even whatever the keys are: skewed, text, by several columns.
CREATE TYPE rank AS ENUM ('low', 'middle', 'high');
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE TABLE n (i int);
INSERT INTO n SELECT generate_series(1, 2000);
CREATE PROCEDURE pg_temp.spread_evenly(what text, columns text, key text, value text, pieces int DEFAULT 9) LANGUAGE plpgsql AS $$
DECLARE
	job bigint;
	said text;
BEGIN
	DROP TABLE IF EXISTS spread.keyed;
	EXECUTE format('CREATE TABLE spread.keyed (gone int, %s, x int DEFAULT 0, PRIMARY KEY (%s))', columns, key);
	ALTER TABLE spread.keyed DROP gone;
	EXECUTE format('INSERT INTO spread.keyed SELECT %s FROM spread.n ORDER BY md5(i::text) ON CONFLICT DO NOTHING', value);
	job := sabot.submit_job('UPDATE keyed SET x = x + 1', over => 'spread.keyed', pieces => pieces);
	COMMIT;
	CALL sabot.wait_for_job(job);
	SELECT format('%s: %s pieces, even %s, by %s, second from %s; rows: %s', what, p.pieces, p.even,
		array_to_string(s.key_columns, ', '), (SELECT low FROM sabot.job_piece AS c WHERE c.job_id = job + 2),
		(SELECT string_agg(DISTINCT k.x || ' x ' || k.n, ' ') FROM (SELECT x, count(*) AS n FROM spread.keyed GROUP BY 1) AS k))
		INTO said FROM pg_temp.pieces(job) AS p, sabot.job_spread AS s WHERE s.job_id = job;
	RAISE INFO '%', said;
END $$;
CALL pg_temp.spread_evenly('skewed', 'k bigint', 'k', 'CASE WHEN i <= 1900 THEN i ELSE i::bigint * i * i * i END');
CALL pg_temp.spread_evenly('text', 'k text', 'k', '''user '' || i');
CALL pg_temp.spread_evenly('awkward text', 'k text', 'k', '''{"''''\,NULL} '' || lpad(i::text, 4, ''0'')');
CALL pg_temp.spread_evenly('collated', 'k text COLLATE "C"', 'k', 'chr(64 + i % 64) || i');
CALL pg_temp.spread_evenly('varchar', 'k varchar(20)', 'k', 'md5(i::text)::varchar(20)');
CALL pg_temp.spread_evenly('char', 'k char(8)', 'k', 'lpad(i::text, 5, ''0'')');
CALL pg_temp.spread_evenly('name', 'k name', 'k', '''n'' || lpad(i::text, 4, ''0'')');
CALL pg_temp.spread_evenly('domain', 'k code', 'k', '''c'' || lpad(i::text, 4, ''0'')');
CALL pg_temp.spread_evenly('uuid', 'k uuid', 'k', 'md5(i::text)::uuid');
CALL pg_temp.spread_evenly('numeric', 'k numeric', 'k', '1 / i::numeric');
CALL pg_temp.spread_evenly('float', 'k float8', 'k', 'CASE i WHEN 1 THEN ''NaN'' WHEN 2 THEN ''-Infinity'' ELSE 1 / i::float8 END');
SET DateStyle = 'SQL, DMY';
CALL pg_temp.spread_evenly('timestamptz', 'k timestamptz', 'k', 'CASE i WHEN 1 THEN ''infinity'' ELSE ''epoch''::timestamptz + i * interval ''1 h'' END');
CALL pg_temp.spread_evenly('interval', 'k interval', 'k', 'i * interval ''1 day 1 h''');
RESET DateStyle;
CALL pg_temp.spread_evenly('bytea', 'k bytea', 'k', 'decode(md5(i::text), ''hex'')');
CALL pg_temp.spread_evenly('array', 'k int[]', 'k', 'ARRAY[i / 100, NULL, i]');
CALL pg_temp.spread_evenly('range', 'k int4range', 'k', 'int4range(i, 2 * i)');
CALL pg_temp.spread_evenly('regclass', 'k regclass', 'k', 'i');
CALL pg_temp.spread_evenly('few values', 'k rank', 'k', '(enum_range(NULL::rank))[1 + i % 3]');
CALL pg_temp.spread_evenly('a row', 'k int4range, l boolean', 'k, l', 'int4range(i / 2, NULL), i % 2 = 0');
-- The first columns of several, or as many as it takes.
CALL pg_temp.spread_evenly('many tenants', 'tenant int, id int', 'tenant, id', 'i % 200, i');
CALL pg_temp.spread_evenly('few tenants', 'tenant text, id int', 'tenant, id', '''t'' || i % 3, i');
CALL pg_temp.spread_evenly('one tenant', 'a int, b text, c timestamp', 'a, b, c', '1, ''it''''s'', ''epoch''::timestamp + i * interval ''1 day''');
CALL pg_temp.spread_evenly('one large tenant', 'tenant int, id int', 'tenant, id', 'CASE WHEN i % 10 = 0 THEN i ELSE 1 END, i');
-- Any unique index will do that has no NULLs, whatever its directions.
DROP TABLE keyed;
CREATE TABLE keyed (a int NOT NULL, b int NOT NULL, c int, x int DEFAULT 0);
INSERT INTO keyed SELECT i % 2, i, i FROM n;
SELECT code, message, detail, hint FROM pg_temp.try($$SELECT sabot.submit_job('UPDATE keyed SET x = 1', over => 'keyed')$$);
CREATE UNIQUE INDEX ON keyed (c);
CREATE UNIQUE INDEX ON keyed (b) WHERE b > 0;
CREATE UNIQUE INDEX ON keyed ((b + 0));
CREATE INDEX ON keyed (b);
SELECT code FROM pg_temp.try($$SELECT sabot.submit_job('UPDATE keyed SET x = 1', over => 'keyed')$$);
CREATE UNIQUE INDEX keyed_key ON keyed (a DESC, b) INCLUDE (c);
SELECT sabot.submit_job('UPDATE keyed SET x = x + 1, c = -c', over => 'keyed', pieces => 6) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT * FROM pg_temp.pieces(:job);
SELECT key_columns FROM sabot.job_spread WHERE job_id = :job;
SELECT x, count(*) FROM keyed GROUP BY 1;
-- Partitioned tables: at least one piece for each partition that has rows.
CREATE TABLE parted (id int, kind text, x int DEFAULT 0, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a') PARTITION BY HASH (id);
CREATE TABLE parted_a0 PARTITION OF parted_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_a1 (gone int, x int DEFAULT 0, kind text NOT NULL, id int NOT NULL);
ALTER TABLE parted_a1 DROP gone;
ALTER TABLE parted_a ATTACH PARTITION parted_a1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b', 'c');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, CASE WHEN i <= 1500 THEN 'a' ELSE 'b' END FROM n;
SELECT sabot.submit_job('UPDATE parted SET x = x + 1', over => 'parted', pieces => 8) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT p.leaf, count(*), sum(row_count) FROM sabot.job_piece AS p JOIN sabot.job_task USING (job_id) WHERE parent_id = :job GROUP BY 1 ORDER BY 1;
SELECT x, count(*) FROM parted GROUP BY 1;
SELECT sabot.submit_job('SELECT * FROM parted', over => 'parted', pieces => 1) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT * FROM pg_temp.pieces(:job);
SELECT sabot.submit_job('UPDATE parted_b SET x = x + 1', over => 'parted_b', pieces => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
DELETE FROM parted;
SELECT sabot.submit_job('DELETE FROM parted', over => 'parted') AS job \gset
SELECT * FROM pg_temp.outcome(:job);
-- What the union of the pieces' results is the result of.
CREATE TABLE u (id int PRIMARY KEY, v int);
INSERT INTO u SELECT i, i / 10 FROM generate_series(1, 100) AS i;
CREATE VIEW low AS SELECT id AS key, x, part AS p FROM t WHERE id < 500;
CREATE VIEW low_safe WITH (security_barrier) AS SELECT * FROM low;
CREATE VIEW joined AS SELECT t.id, u.v FROM t LEFT JOIN u USING (id) WHERE EXISTS (SELECT FROM u AS e WHERE e.id = t.id);
-- same(command): run it plainly and spread over a table; whether the rows are the same
CREATE PROCEDURE pg_temp.same(command text, over regclass DEFAULT 't') LANGUAGE plpgsql AS $$
DECLARE
	plain jsonb;
	job bigint;
	pieces jsonb;
BEGIN
	BEGIN
		EXECUTE format('WITH r AS MATERIALIZED (%s) SELECT coalesce(jsonb_agg(to_jsonb(r)), ''[]'') FROM r', command) INTO plain;
	EXCEPTION WHEN feature_not_supported THEN
		RAISE EXCEPTION '%: %', command, SQLERRM;
	END;
	job := sabot.submit_job(command, over => same.over, pieces => 4, keep_rows => 10000);
	COMMIT;
	CALL sabot.wait_for_job(job);
	SELECT coalesce(jsonb_agg(r), '[]') INTO pieces FROM sabot.job_rows(job) AS r;
	RAISE INFO '% rows, the same: %', jsonb_array_length(plain),
		(SELECT array_agg(e ORDER BY e) FROM jsonb_array_elements(plain) AS e) IS NOT DISTINCT FROM
		(SELECT array_agg(e ORDER BY e) FROM jsonb_array_elements(pieces) AS e);
END $$;
CALL pg_temp.same('SELECT * FROM t');
CALL pg_temp.same('SELECT * FROM ONLY t AS a WHERE id > 10');
CALL pg_temp.same('SELECT t.id, u.v FROM t JOIN u ON t.id = u.id, (VALUES (1), (2)) AS w(n)');
CALL pg_temp.same('SELECT t.id, u.v FROM t LEFT JOIN u USING (id)');
CALL pg_temp.same('SELECT u.v, s.id FROM u RIGHT JOIN (SELECT id FROM t WHERE part <> ''part 1'') AS s USING (id)');
CALL pg_temp.same('SELECT id FROM t WHERE id IN (SELECT id FROM u) AND NOT EXISTS (SELECT FROM u WHERE v = t.id)');
CALL pg_temp.same('SELECT id, (SELECT max(v) FROM u WHERE u.id <= t.id), generate_series(1, 2) FROM t');
CALL pg_temp.same('SELECT id FROM t UNION ALL SELECT v FROM u UNION ALL (SELECT count(*) FROM u)');
CALL pg_temp.same('SELECT * FROM ((SELECT v FROM u EXCEPT SELECT 3) UNION ALL (SELECT id FROM t)) AS s(a) JOIN u ON u.id = s.a');
CALL pg_temp.same('WITH a AS (SELECT id, x FROM t), b AS MATERIALIZED (SELECT * FROM a WHERE id < 700), c AS (SELECT count(*) FROM u) SELECT * FROM b, c UNION ALL SELECT 0, 0, 0');
CALL pg_temp.same('SELECT * FROM low');
CALL pg_temp.same('SELECT * FROM low_safe JOIN u ON key = id');
CALL pg_temp.same('SELECT * FROM joined');
CALL pg_temp.same('SELECT t.id, l.* FROM t, LATERAL (SELECT v FROM u WHERE u.id <= t.id ORDER BY v DESC LIMIT 1) AS l');
CALL pg_temp.same('SELECT id FROM t FOR UPDATE NOWAIT');
-- And for what writes: targets, through views too, RETURNING, a WITH query that deletes.
SELECT sabot.submit_job('UPDATE t SET x = v FROM u WHERE u.id = t.id AND u.id < 10 RETURNING t.id', over => 't', pieces => 3, keep_rows => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT sabot.job_rows(:job);
SELECT sabot.submit_job('UPDATE low_safe SET x = -1, p = key', over => 't', pieces => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT count(*) FROM t WHERE x = -1 AND part = id::text;
SELECT sabot.submit_job('WITH gone AS (DELETE FROM t WHERE id > 900 RETURNING id, part) INSERT INTO copy SELECT * FROM gone', over => 't', pieces => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT count(*), count(DISTINCT id) FROM copy WHERE id > 900;
SELECT sabot.submit_job('INSERT INTO u SELECT id, x FROM t ON CONFLICT (id) DO UPDATE SET v = u.v + 1000', over => 't', pieces => 3) AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT count(*), count(*) FILTER (WHERE v >= 1000) FROM u;
-- Everything else is refused, by name.
CREATE VIEW counted AS SELECT part, count(*) FROM t GROUP BY part;
CREATE VIEW tricky AS SELECT id, x FROM t;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER instead INSTEAD OF UPDATE ON tricky FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TABLE ruled (id int PRIMARY KEY);
CREATE RULE also AS ON DELETE TO ruled DO ALSO DELETE FROM u;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE derived (a int NOT NULL, k int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
CREATE TEMP TABLE mine (id int PRIMARY KEY);
SELECT command, code, message FROM (VALUES ('SELECT part, count(*) FROM t GROUP BY part', 't'), ('SELECT count(*) FROM t', 't'),
	('SELECT 1 FROM t HAVING true', 't'), ('SELECT row_number() OVER () FROM t', 't'), ('SELECT DISTINCT part FROM t', 't'),
	('SELECT DISTINCT ON (part) id FROM t', 't'), ('SELECT id FROM t LIMIT 1', 't'), ('SELECT id FROM t OFFSET 1', 't'),
	('SELECT id FROM t ORDER BY id FETCH FIRST ROW WITH TIES', 't'), ('SELECT * FROM (SELECT id FROM t LIMIT 1) AS s', 't'),
	('SELECT id FROM t FOR UPDATE SKIP LOCKED', 't'), ('SELECT id FROM t UNION SELECT id FROM u', 't'),
	('SELECT id FROM u INTERSECT ALL SELECT id FROM t', 't'), ('(SELECT id FROM u EXCEPT SELECT id FROM t) UNION ALL SELECT 1', 't'),
	('SELECT * FROM u LEFT JOIN t USING (id)', 't'), ('SELECT * FROM t FULL JOIN u USING (id)', 't'),
	('SELECT * FROM u WHERE id IN (SELECT id FROM t)', 't'), ('SELECT (SELECT max(id) FROM t)', 't'),
	('SELECT * FROM t AS a, t AS b', 't'), ('UPDATE t SET x = (SELECT max(x) FROM t)', 't'), ('SELECT * FROM u', 't'),
	('WITH w AS (SELECT id FROM t) SELECT * FROM w AS a, w AS b', 't'),
	('WITH RECURSIVE w AS (SELECT id FROM t UNION ALL SELECT id + 1 FROM w WHERE id < 3) SELECT * FROM w', 't'),
	('WITH d AS (DELETE FROM u RETURNING id) SELECT id FROM t', 't'),
	('WITH d AS (DELETE FROM t RETURNING id) SELECT 1', 't'),
	('WITH d AS (DELETE FROM t RETURNING id) SELECT count(*) FROM d', 't'),
	('UPDATE u SET v = 0 FROM t WHERE t.id = u.id', 't'), ('INSERT INTO t SELECT id + 5000 FROM u', 't'),
	('UPDATE tricky SET x = 1', 't'), ('SELECT * FROM counted', 't'), ('DELETE FROM ruled', 'ruled'),
	('SELECT id FROM t TABLESAMPLE SYSTEM (10)', 't'),
	('MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE', 't'), ('UPDATE t SET id = id + 1', 't'),
	('UPDATE low SET key = 1', 't'), ('UPDATE derived SET a = 1', 'derived'), ('DELETE FROM parent', 'parent'),
	('CREATE TABLE c AS SELECT * FROM t', 't'), ('EXPLAIN SELECT * FROM t', 't'), ('VACUUM t', 't'), ('SELECT 1; SELECT id FROM t', 't'),
	('SELECT * FROM low', 'low'), ('SELECT id FROM mine', 'mine'), ('SELECT nothing FROM t', 't'), ('SELECT $1 FROM t', 't')) AS c(command, over),
	LATERAL pg_temp.try(format('SELECT sabot.submit_job(%L, over => %L)', command, over)) AS t;
SELECT code, message, detail, hint FROM pg_temp.try($$SELECT sabot.submit_job('SELECT count(*) FROM t', over => 't')$$);
SELECT code, message FROM unnest(ARRAY['over => ''t'', pieces => 0', 'over => ''t'', pieces => 10001', 'pieces => 2', 'piece_pause => ''1 s''',
	'over => ''t'', piece_pause => ''-1 s''', 'over => ''t'', atomic => false', 'over => ''gone''', 'over => 0']) AS args,
	pg_temp.try(format('SELECT sabot.submit_job(''SELECT * FROM t'', %s)', args));
SELECT count(*) FROM sabot.job_status WHERE finished_at IS NULL;
-- A job that waits is checked when it starts, and so is every piece.
SELECT sabot.submit_job('SELECT max(id) FROM t', over => 't', run_after => clock_timestamp() + '10 ms') AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('CREATE TABLE later (id int)', queue => 'held') AS first \gset
SELECT sabot.submit_job('SELECT t.id FROM t LEFT JOIN later USING (id)', over => 't', pieces => 2, depends_on => ARRAY[:first]) AS job \gset
SELECT state, wait_reason = 'waits for job ' || :first AS waits FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.job_state(:job);
SELECT sabot.resume_queue('held');
CALL sabot.wait_for_job(:job);
SELECT sabot.submit_job('SELECT 1/0') AS first \gset
SELECT sabot.submit_job('SELECT id FROM t', over => 't', depends_on => ARRAY[:first]) AS job \gset
SELECT pg_temp.finish(:job);
-- Policies of row security come after the restriction: nobody sees rows of another piece.
CREATE ROLE spread_user LOGIN;
SELECT sabot.grant_usage('spread_user');
GRANT USAGE ON SCHEMA spread TO spread_user;
CREATE TABLE seen (piece xid8, id int);
CREATE TABLE secret (id int PRIMARY KEY, owner name, x int DEFAULT 0);
INSERT INTO secret SELECT i, CASE WHEN i % 2 = 0 THEN 'spread_user' ELSE 'other' END FROM generate_series(1, 100) AS i;
CREATE FUNCTION look(id int) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
	'BEGIN INSERT INTO spread.seen VALUES (pg_current_xact_id(), id); RETURN true; END';
GRANT ALL ON seen TO spread_user;
GRANT SELECT (id, owner), UPDATE (x) ON secret TO spread_user;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (spread.look(id) AND owner = current_user);
SET ROLE spread_user;
SELECT sabot.submit_job('UPDATE spread.secret SET x = 1', over => 'spread.secret', pieces => 4) AS job \gset
CALL sabot.wait_for_job(:job);
SELECT code, message FROM pg_temp.try($$SELECT sabot.submit_job('SELECT x FROM spread.secret', over => 'spread.secret')$$);
SELECT sabot.submit_job('SELECT x FROM spread.secret', over => 'spread.secret', pieces => 2) AS job2 \gset
SELECT pg_temp.finish(:job2);
SELECT sqlstate, substr(error, 9) AS error FROM sabot.job_status WHERE job_id = :job2;
SELECT code, message FROM pg_temp.try($$SELECT * FROM sabot.job_piece$$);
RESET ROLE;
SELECT owner, x, count(*) FROM secret GROUP BY 1, 2 ORDER BY 1, 2;
SELECT min(id), max(id), count(*) FROM seen GROUP BY piece ORDER BY 1;
DROP OWNED BY spread_user;
SELECT sabot.revoke_usage('spread_user');
DROP ROLE spread_user;
-- Only pieces that have failed run again; the others went on.
CREATE TABLE once (id int PRIMARY KEY, n int DEFAULT 0);
INSERT INTO once SELECT generate_series(1, 100);
CREATE TABLE bad (id int);
INSERT INTO bad VALUES (30), (31), (80);
SELECT sabot.submit_job('UPDATE once SET n = n + 1 / (SELECT count(*) FROM generate_series(1, 1) WHERE once.id NOT IN (SELECT id FROM bad))',
	over => 'once', pieces => 10) AS job \gset
SELECT state, attempt, tag, rows, code, regexp_replace(error, '[0-9]+', 'N') AS error FROM pg_temp.outcome(:job);
SELECT error_hint = format('See sabot.job_task for its pieces; sabot.retry_job(%s) runs those again that have not completed.', :job) AS hint FROM sabot.job_status WHERE job_id = :job;
SELECT total, done, failed, percent, rows FROM sabot.job_progress WHERE job_id = :job;
SELECT error_detail FROM sabot.job_status WHERE job_id = :job;
SELECT name, state, sqlstate, error FROM sabot.job_task WHERE parent_id = :job AND state <> 'completed' ORDER BY job_id;
SELECT code, replace(replace(message, (:job + 3)::text, 'C'), :job::text, 'P') AS message, replace(hint, :job::text, 'P') AS hint FROM pg_temp.try(format('SELECT sabot.retry_job(%s)', :job + 3));
DELETE FROM bad;
SELECT sabot.retry_job(:job);
CALL sabot.wait_for_job(:job);
SELECT * FROM pg_temp.outcome(:job);
SELECT n, count(*) FROM once GROUP BY 1;
-- One whose command cannot be spread has no pieces, and is tried as a whole.
CREATE TABLE shape (id int PRIMARY KEY);
SELECT sabot.submit_job('DELETE FROM shape', over => 'shape', run_after => clock_timestamp() + '1 h') AS job \gset
ALTER TABLE shape DROP CONSTRAINT shape_pkey;
SELECT sabot.cancel_job(:job), sabot.retry_job(:job);
SELECT sabot.retry_job(:job);
SELECT * FROM pg_temp.outcome(:job);
ALTER TABLE shape ADD PRIMARY KEY (id);
SELECT sabot.retry_job(:job);
SELECT * FROM pg_temp.outcome(:job);
SELECT sabot.submit_job('SELECT id FROM shape', over => 'shape', run_after => clock_timestamp() + '1 h') AS job \gset
DROP TABLE shape;
SELECT sabot.cancel_job(:job);
SELECT sabot.retry_job(:job);
SELECT * FROM pg_temp.outcome(:job);
-- Attempts and timeouts are those of each piece.
SELECT sabot.submit_job('SELECT pg_sleep(CASE WHEN id = 50 THEN 60 ELSE 0 END) FROM once', over => 'once', pieces => 4, timeout => '200 ms', max_attempts => 2, retry_delay => '1 ms') AS job \gset
SELECT * FROM pg_temp.outcome(:job);
SELECT name, state, attempt FROM sabot.job_task WHERE parent_id = :job ORDER BY job_id;
-- Cancel, pause and resume.
SELECT sabot.submit_job('SELECT pg_sleep(60) FROM once WHERE id % 20 = 0', over => 'once', pieces => 6, dedup_key => 'k') AS job \gset
SET client_min_messages = warning;
SELECT sabot.submit_job('SELECT 1 FROM once', over => 'once', dedup_key => 'k') = :job AS same;
RESET client_min_messages;
SELECT pg_temp.await(format('(SELECT count(*) >= 2 FROM sabot.job_task WHERE parent_id = %s AND state = ''running'')', :job));
SELECT sabot.job_state(:job), (SELECT state FROM sabot.job_status WHERE job_id = :job);
SELECT sabot.pause_job(:job);
SELECT pg_temp.await(format('(SELECT bool_and(state IN (''paused'', ''completed'')) FROM sabot.job_task WHERE parent_id = %s)', :job));
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.resume_job(:job);
SELECT pg_temp.await(format('(SELECT count(*) >= 2 FROM sabot.job_task WHERE parent_id = %s AND state = ''running'')', :job));
SELECT sabot.cancel_job(:job);
SELECT sabot.job_state(:job);
SELECT pg_temp.await(format('(SELECT bool_and(finished_at IS NOT NULL) FROM sabot.job_task WHERE parent_id = %s)', :job));
SELECT count(*) FILTER (WHERE state = 'canceled') > 0 AS canceled, count(*) FILTER (WHERE state NOT IN ('canceled', 'completed')) AS others FROM sabot.job_task WHERE parent_id = :job;
-- Before it has pieces, too.
SELECT sabot.pause_queue('held');
SELECT sabot.submit_job('UPDATE once SET n = 0', over => 'once', queue => 'held') AS job \gset
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.pause_job(:job);
SELECT sabot.resume_queue('held');
SELECT state, wait_reason FROM sabot.job_status WHERE job_id = :job;
SELECT sabot.resume_job(:job);
CALL sabot.wait_for_job(:job);
-- A pause between pieces: as many lanes as there are agents.
SELECT sabot.submit_job('UPDATE once SET n = n + 1', over => 'once', pieces => 4 * current_setting('sabot.pool_size')::int, piece_pause => '1 h') AS job \gset
SELECT pg_temp.await(format('(SELECT count(*) = current_setting(''sabot.pool_size'')::int FROM sabot.job_task WHERE parent_id = %s AND state = ''completed'')', :job));
SELECT state, count(*) / current_setting('sabot.pool_size')::int AS times, min(run_after) > clock_timestamp() + interval '50 min' AS later FROM sabot.job_task WHERE parent_id = :job GROUP BY 1 ORDER BY 1;
SELECT sabot.pause_job(:job);
SELECT sabot.resume_job(:job);
SELECT state, count(*) / current_setting('sabot.pool_size')::int AS times FROM sabot.job_task WHERE parent_id = :job GROUP BY 1 ORDER BY 1;
SELECT sabot.cancel_job(:job);
SELECT sabot.retry_job(:job);
SELECT pg_temp.await(format('(SELECT count(*) = 2 * current_setting(''sabot.pool_size'')::int FROM sabot.job_task WHERE parent_id = %s AND state = ''completed'')', :job));
SELECT state, count(*) / current_setting('sabot.pool_size')::int AS times FROM sabot.job_task WHERE parent_id = :job GROUP BY 1 ORDER BY 1;
SELECT sabot.cancel_job(:job);
UPDATE once SET n = 0;
SELECT sabot.submit_job('UPDATE once SET n = n + 1', over => 'once', pieces => 20, piece_pause => '1 ms') AS job \gset
CALL sabot.wait_for_job(:job);
SELECT n, count(*) FROM once GROUP BY 1;
-- A table without a key can be read in pieces, all of them under one snapshot.
CREATE TABLE keyless (id int, part text) PARTITION BY LIST (part);
CREATE TABLE keyless_a PARTITION OF keyless FOR VALUES IN ('a');
CREATE TABLE keyless_b (part text, gone int, id int);
ALTER TABLE keyless_b DROP gone;
ALTER TABLE keyless ATTACH PARTITION keyless_b DEFAULT;
INSERT INTO keyless SELECT i, CASE WHEN i > 3000 THEN 'a' ELSE repeat('b', 100) END FROM generate_series(1, 4000) AS i;
CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql VOLATILE AS
	'BEGIN PERFORM pg_advisory_xact_lock_shared(23); RETURN true; END';
TRUNCATE copy;
SELECT pg_advisory_lock(23);
SELECT sabot.submit_job('INSERT INTO copy SELECT id, part FROM keyless WHERE gate()', over => 'keyless', pieces => 6) AS job \gset
SELECT pg_temp.await('(SELECT count(*) >= 2 FROM pg_locks WHERE locktype = ''advisory'' AND NOT granted)');
SELECT state, pid IS NOT NULL AS holder FROM sabot.job_status WHERE job_id = :job;
UPDATE keyless SET id = -id WHERE id % 2 = 0;
UPDATE keyless SET part = 'a' WHERE id % 3 = 0;
DELETE FROM keyless WHERE id % 5 = 0;
INSERT INTO keyless SELECT i, 'b' FROM generate_series(5001, 6000) AS i;
SELECT pg_advisory_unlock(23);
CALL sabot.wait_for_job(:job);
SELECT * FROM pg_temp.outcome(:job);
SELECT count(*), count(DISTINCT id), min(id), max(id) FROM copy;
SELECT p.leaf, count(*), sum(row_count) FROM sabot.job_piece AS p JOIN sabot.job_task USING (job_id) WHERE parent_id = :job GROUP BY 1 ORDER BY 1;
SELECT code, message FROM unnest(ARRAY['UPDATE keyless SET id = 0', 'WITH d AS (DELETE FROM keyless RETURNING id) SELECT * FROM d',
	'SELECT id FROM keyless FOR SHARE', 'SELECT count(*) FROM keyless']) AS c,
	pg_temp.try(format('SELECT sabot.submit_job(%L, over => ''keyless'')', c));
SELECT code, message FROM pg_temp.try($$SELECT sabot.submit_job('INSERT INTO parted_rest SELECT id, kind FROM parted', over => 'parted')$$);
-- If that is lost, so are the pieces that have not begun, and it is said which are done.
SELECT pg_advisory_lock(23);
SELECT sabot.submit_job('SELECT id FROM keyless WHERE gate()', over => 'keyless', pieces => 20) AS job \gset
SELECT pg_temp.await('(SELECT count(*) >= 2 FROM pg_locks WHERE locktype = ''advisory'' AND NOT granted)');
SELECT pg_terminate_backend(pid) FROM sabot.job_status WHERE job_id = :job;
SELECT pg_temp.await(format('(SELECT pid IS NULL FROM sabot.job_status WHERE job_id = %s)', :job));
SELECT pg_advisory_unlock(23);
SELECT pg_temp.finish(:job);
SELECT sqlstate, regexp_replace(error, '[0-9]+', 'N', 'g') AS error, error_detail ~ '^Completed: pieces [-, 0-9]+\.$' AS detail FROM sabot.job_status WHERE job_id = :job;
SELECT total, done > 0 AS done, failed > 0 AS failed, done + failed = total AS ended FROM sabot.job_progress WHERE job_id = :job;
SELECT code, replace(message, :job::text, 'N') AS message FROM pg_temp.try(format('SELECT sabot.retry_job(%s)', :job));
-- It is kept while the job is paused, and goes with a cancel.
SELECT pg_advisory_lock(23);
SELECT sabot.submit_job('SELECT id FROM keyless WHERE gate()', over => 'keyless', pieces => 20) AS job \gset
SELECT pg_temp.await('(SELECT count(*) >= 2 FROM pg_locks WHERE locktype = ''advisory'' AND NOT granted)');
SELECT sabot.pause_job(:job);
SELECT pg_temp.await(format('(SELECT bool_and(state = ''paused'') FROM sabot.job_task WHERE parent_id = %s)', :job));
SELECT pg_advisory_unlock(23);
SELECT sabot.resume_job(:job);
CALL sabot.wait_for_job(:job);
SELECT pg_advisory_lock(23);
SELECT sabot.submit_job('SELECT id FROM keyless WHERE gate()', over => 'keyless', pieces => 20) AS job \gset
SELECT pg_temp.await('(SELECT count(*) >= 2 FROM pg_locks WHERE locktype = ''advisory'' AND NOT granted)');
SELECT code, replace(message, :job::text, 'N') AS message, detail ~ '^Job [0-9]+ runs in process' AS detail FROM pg_temp.try(format('CALL sabot.wait_for_job(%s)', :job));
SELECT sabot.cancel_job(:job);
SELECT pg_temp.await('(SELECT count(*) = 0 FROM sabot.agent_status WHERE job_id IS NOT NULL)');
SELECT pg_advisory_unlock(23);
SELECT sabot.job_state(:job);
-- In one transaction with others, rolled back; purged with its pieces.
BEGIN;
SELECT sabot.submit_job('SELECT id FROM once', over => 'once') AS job \gset
SELECT sabot.submit_job('SELECT', depends_on => ARRAY[:job]) AS after \gset
COMMIT;
CALL sabot.wait_for_job(:after);
BEGIN;
SELECT count(sabot.submit_job('SELECT id FROM once', over => 'once'));
ROLLBACK;
SELECT count(*) FROM sabot.job_spread WHERE job_id > :after;
SELECT sabot.purge('0') > 0 AS purged;
SELECT (SELECT count(*) FROM sabot.job_spread) AS spread, (SELECT count(*) FROM sabot.job_piece) AS pieces, (SELECT count(*) FROM sabot.any_job) AS jobs;
SET client_min_messages = warning;
DROP SCHEMA spread CASCADE;
