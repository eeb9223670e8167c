-- isolation: repeatable read
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*), sum(total) FROM orders;
SELECT count(*), sum(price) FROM item;
SELECT setting_of('transaction_isolation'), count(*) FROM skew GROUP BY 1;
COMMIT;

-- isolation: serializable
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*), sum(total) FROM orders;
SELECT max(setting_of('transaction_isolation')), count(*) FROM skew;
COMMIT;

-- isolation: serializable, read only, deferrable
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT count(*), sum(total) FROM orders;
SELECT max(setting_of('transaction_deferrable')), count(*) FROM skew;
COMMIT;

-- isolation: read only
BEGIN READ ONLY;
SELECT count(*), sum(total), current_setting('transaction_read_only') FROM orders;
COMMIT;
SELECT count(*), sum(total), current_setting('transaction_read_only') FROM orders;

-- isolation: of the session
SET default_transaction_isolation = 'repeatable read';
SELECT count(*), max(setting_of('transaction_isolation')) FROM orders;
SET default_transaction_isolation = 'serializable';
SELECT count(*), max(setting_of('transaction_isolation')) FROM orders;
RESET default_transaction_isolation;
SELECT count(*), max(setting_of('transaction_isolation')) FROM orders;

-- isolation: an exported snapshot is not needed
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_export_snapshot() IS NOT NULL, count(*) FROM orders;
SELECT count(*), sum(qty) FROM item;
COMMIT;

-- savepoint: without a write
BEGIN;
SAVEPOINT a;
SELECT count(*), sum(total) FROM orders;
SAVEPOINT b;
SELECT count(*), sum(price) FROM item;
RELEASE b;
ROLLBACK TO a;
SELECT count(*) FROM skew;
COMMIT;

-- savepoint: many
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
SELECT count(*), sum(v) FROM skew;
RELEASE a;
SELECT count(*), sum(v) FROM skew;
COMMIT;

-- written: own rows are seen
BEGIN;
INSERT INTO scratch SELECT g, 1000 FROM generate_series(1, 500) AS g;
SELECT count(*), sum(v) FROM scratch;
ROLLBACK;
SELECT count(*), sum(v) FROM scratch;

-- written: own updates are seen once
BEGIN;
UPDATE scratch SET v = v + 1;
SELECT count(*), sum(v) FROM scratch;
UPDATE scratch SET v = v + 1 WHERE id % 2 = 0;
SELECT count(*), sum(v) FROM scratch;
ROLLBACK;
SELECT count(*), sum(v) FROM scratch;

-- written: in a subtransaction
BEGIN;
SAVEPOINT a;
DELETE FROM scratch WHERE id % 3 = 0;
SELECT count(*), sum(v) FROM scratch;
ROLLBACK TO a;
SELECT count(*), sum(v) FROM scratch;
COMMIT;

-- written: a table of this transaction
BEGIN;
CREATE TABLE fresh AS SELECT g AS id, g % 7 AS v FROM generate_series(1, 4000) AS g;
ANALYZE fresh;
SELECT v, count(*) FROM fresh GROUP BY v ORDER BY v;
CREATE INDEX ON fresh (v);
SELECT count(*) FROM fresh WHERE v = 2;
ROLLBACK;

-- written: a column of this transaction
BEGIN;
ALTER TABLE scratch ADD w int DEFAULT 9;
SELECT count(*), sum(v + w) FROM scratch;
ROLLBACK;
SELECT count(*), sum(v) FROM scratch;

-- written: an enum value of this transaction
BEGIN;
ALTER TYPE tier ADD VALUE 'platinum';
SELECT count(*) FROM customer WHERE tier = 'gold';
ROLLBACK;
SELECT count(*), max(tier) FROM customer;

-- written: truncated
BEGIN;
TRUNCATE scratch;
SELECT count(*) FROM scratch;
ROLLBACK;
SELECT count(*) FROM scratch;

-- written: a function changed
BEGIN;
CREATE OR REPLACE FUNCTION plus_one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
	'BEGIN RETURN $1 + 1000; END';
SELECT sum(plus_one(v)) FROM skew;
ROLLBACK;
SELECT sum(plus_one(v)) FROM skew;

-- changed: a function, committed
CREATE FUNCTION fickle(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN $1; END';
SELECT sum(fickle(v)) FROM skew;
CREATE OR REPLACE FUNCTION fickle(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN $1 * 3; END';
SELECT sum(fickle(v)) FROM skew;
DROP FUNCTION fickle;

-- changed: a table between two queries
CREATE TABLE changing AS SELECT g AS id, g % 5 AS v FROM generate_series(1, 3000) AS g;
SELECT count(*), sum(v) FROM changing;
ALTER TABLE changing ADD w text DEFAULT 'w', ALTER v TYPE numeric;
SELECT count(*), sum(v), max(w) FROM changing;
ALTER TABLE changing DROP id;
SELECT count(*), max(c::text) FROM changing AS c;
TRUNCATE changing;
SELECT count(*) FROM changing;
INSERT INTO changing SELECT g, 'x' FROM generate_series(1, 1000) AS g;
SELECT count(*), sum(v), max(w) FROM changing;
DROP TABLE changing;

-- changed: a policy and a privilege
CREATE TABLE guarded AS SELECT g AS id FROM generate_series(1, 2000) AS g;
GRANT SELECT ON guarded TO tenant_a;
SET ROLE tenant_a;
SELECT count(*) FROM guarded;
RESET ROLE;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON guarded USING (id % 2 = 1);
SET ROLE tenant_a;
SELECT count(*) FROM guarded;
RESET ROLE;
REVOKE SELECT ON guarded FROM tenant_a;
SET ROLE tenant_a;
SELECT count(*) FROM guarded;
RESET ROLE;
DROP TABLE guarded;

-- changed: an enum
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE moods AS SELECT g AS id, (enum_range(NULL::mood))[1 + g % 2] AS m FROM generate_series(1, 2000) AS g;
SELECT m, count(*) FROM moods GROUP BY m ORDER BY m;
ALTER TYPE mood ADD VALUE 'middle' BEFORE 'high';
SELECT m, count(*) FROM moods WHERE m < 'middle' GROUP BY m ORDER BY m;
ALTER TYPE mood RENAME VALUE 'low' TO 'lowest';
SELECT m, count(*) FROM moods GROUP BY m ORDER BY m;
DROP TABLE moods;
DROP TYPE mood;

-- changed: a composite type
CREATE TYPE pair AS (a int, b int);
CREATE TABLE pairs AS SELECT g AS id, ROW(g, g % 9)::pair AS p FROM generate_series(1, 2000) AS g;
SELECT count(*), sum((p).b), max(p::text COLLATE "C") FROM pairs;
DROP TABLE pairs;
ALTER TYPE pair ADD ATTRIBUTE c text;
CREATE TABLE pairs AS SELECT g AS id, ROW(g, g % 9, 'c' || g % 3)::pair AS p FROM generate_series(1, 2000) AS g;
SELECT (p).c, count(*), max(p::text COLLATE "C") FROM pairs GROUP BY 1 ORDER BY 1;
DROP TABLE pairs;
DROP TYPE pair;

-- changed: another partition
CREATE TABLE grown (k int, v int) PARTITION BY LIST (k);
CREATE TABLE grown_1 PARTITION OF grown FOR VALUES IN (1);
INSERT INTO grown SELECT 1, g FROM generate_series(1, 1500) AS g;
SELECT k, count(*) FROM grown GROUP BY k ORDER BY k;
CREATE TABLE grown_2 PARTITION OF grown FOR VALUES IN (2);
INSERT INTO grown SELECT 2, g FROM generate_series(1, 1500) AS g;
SELECT k, count(*) FROM grown GROUP BY k ORDER BY k;
ALTER TABLE grown DETACH PARTITION grown_1;
SELECT k, count(*) FROM grown GROUP BY k ORDER BY k;
DROP TABLE grown, grown_1;

-- changed: rows, committed one after the other
CREATE TABLE counted AS SELECT g AS id FROM generate_series(1, 1000) AS g;
SELECT count(*), sum(id) FROM counted;
INSERT INTO counted VALUES (5000);
SELECT count(*), sum(id) FROM counted;
DELETE FROM counted WHERE id <= 10;
SELECT count(*), sum(id) FROM counted;
UPDATE counted SET id = id + 1;
SELECT count(*), sum(id) FROM counted;
DROP TABLE counted;

-- lock: held by this session
BEGIN;
LOCK TABLE scratch IN ACCESS EXCLUSIVE MODE;
SELECT count(*), sum(v) FROM scratch;
COMMIT;

-- lock: advisory
BEGIN;
SELECT pg_advisory_xact_lock(42);
SELECT count(*), sum(v) FROM scratch;
COMMIT;

-- authorization: of the session
SET SESSION AUTHORIZATION DEFAULT;
SELECT count(*), max(session_user), max(who()) FROM orders;

-- authorization: another one
SET SESSION AUTHORIZATION tenant_a;
SELECT count(*), max(session_user), max(current_user), max(who()) FROM secret;
RESET SESSION AUTHORIZATION;
SELECT count(*), max(session_user) FROM secret;

-- temporary: table
CREATE TEMP TABLE temporary AS SELECT g AS id, g % 4 AS v FROM generate_series(1, 3000) AS g;
SELECT v, count(*) FROM temporary GROUP BY v ORDER BY v;
SELECT count(*), sum(o.total) FROM orders AS o JOIN temporary AS t ON t.id = o.id;
DROP TABLE temporary;

-- temporary: namespace that is not used anymore
SELECT count(*), sum(total) FROM orders;
SELECT status, count(*) FROM orders GROUP BY status ORDER BY status;

-- temporary: view and function
CREATE TEMP VIEW temporary_view AS SELECT id, total FROM orders WHERE status = 'paid';
SELECT count(*), sum(total) FROM temporary_view;
DROP VIEW temporary_view;
