-- function: SQL, inlined
SELECT sum(twice(v)) FROM skew WHERE twice(id) < 9000;

-- function: plpgsql in a filter and in the target list
SELECT sum(plus_one(v)), count(*) FROM skew WHERE plus_one(k) > 3;

-- function: rows through one
SELECT id, plus_one(v) FROM skew WHERE k = 9 ORDER BY id;

-- function: with a query in it
SELECT category_name(category_id), count(*) FROM product GROUP BY 1 ORDER BY 1;

-- function: SQL, with a query in it
SELECT category_name_sql(category_id), count(*) FROM product GROUP BY 1 ORDER BY 1;

-- function: with a dynamic query in it
SELECT category_dynamic(category_id % 9), count(*) FROM product GROUP BY 1 ORDER BY 1;

-- function: in a join condition
SELECT count(*) FROM product AS p JOIN category AS c ON category_name(p.category_id) = c.name WHERE c.id BETWEEN 3 AND 5;

-- function: restricted, above a Gather
SELECT count(*), sum(restricted(v)) FROM skew;

-- function: restricted, in a filter
SELECT count(*) FROM skew WHERE restricted(k) = 1;

-- function: restricted, in the target list
SELECT restricted(id), v FROM skew WHERE k = 21 ORDER BY id;

-- function: unsafe, as it has an exception block
SELECT caught(id), count(*) FROM skew GROUP BY 1 ORDER BY 1;

-- function: unsafe
SELECT count(*), sum(unsafe(v)) FROM skew;

-- function: volatile sequence is unsafe
SELECT count(*) FROM skew WHERE currval('pg_catalog.no_such_sequence') > 0;

-- function: set by SET
SELECT max(day_text(d) COLLATE "C"), min(day_text(d) COLLATE "C"), max(d::text COLLATE "C") FROM vals;

-- function: with several SETs and queries in it
SELECT with_settings();

-- function: of settings in a worker
SET corpus.anything = 'some thing';
SELECT setting_of('corpus.anything'), count(*) FROM skew WHERE setting_in_plpgsql('corpus.anything') = 'some thing' GROUP BY 1;
SELECT max(setting_of('work_mem')) = current_setting('work_mem'), max(setting_of('enable_hashjoin')) = current_setting('enable_hashjoin') FROM skew;
RESET corpus.anything;
SELECT count(*) FROM skew WHERE coalesce(setting_in_plpgsql('corpus.anything'), '') = '';

-- function: of settings that a worker finds as they are
SET work_mem = '1234kB';
SET statement_timeout = '1h';
SET lock_timeout = '11min';
SET application_name = 'corpus of queries';
SELECT DISTINCT setting_of('work_mem'), setting_in_plpgsql('statement_timeout'), setting_of('lock_timeout'), setting_of('application_name'), setting_of('search_path') FROM skew;
RESET work_mem;
RESET statement_timeout;
RESET lock_timeout;
RESET application_name;

-- function: client_encoding
SET client_encoding = 'LATIN1';
SELECT max(setting_of('client_encoding')), count(*) FROM skew;
SELECT count(*) FROM word WHERE plain LIKE convert_from('\xe974', 'LATIN1') || '%';
RESET client_encoding;

-- function: checks of encodings and names
SELECT max(current_database()::text) = current_database(), max(current_schema()::text), count(DISTINCT pg_backend_pid()) > 0 FROM skew;

-- function: query inside, SQL
SELECT count_items(3), count_items(8);

-- function: query inside, assigned
SELECT assign_count(3), assign_count(9);

-- function: query inside, INTO
SELECT into_count(3), into_count(9);

-- function: query inside, EXECUTE
SELECT execute_count('orders'), execute_count('item'), execute_count('event');

-- function: RETURN QUERY
SELECT * FROM returned(6000);

-- function: RETURN QUERY, joined
SELECT r.st, r.n, count(o.id) FROM returned(100) AS r LEFT JOIN orders AS o ON o.status = r.st GROUP BY 1, 2 ORDER BY 1, 2;

-- function: loop over a query
SELECT looped(10), looped(100000);

-- function: recursive
SELECT nested(4);

-- function: per row of another query
SELECT id, assign_count(id) FROM region WHERE id < 4 ORDER BY id;

-- function: errors caught, again and again
SELECT recovered();

-- function: DO
DO $$ DECLARE n bigint; BEGIN n := (SELECT sum(qty) FROM item); RAISE NOTICE 'sum %', n; END $$;

-- function: DO with EXECUTE and a loop
DO $$ DECLARE t text; n bigint; BEGIN FOREACH t IN ARRAY '{orders,item,skew,event,metric}'::text[] LOOP EXECUTE 'SELECT count(*) FROM ' || t INTO n; RAISE NOTICE '% %', t, n; END LOOP; END $$;

-- function: procedure that commits
CALL in_procedure(5);

-- notice: from rows
SELECT count(notice_of(id, 500)) FROM skew;

-- notice: from rows that are returned
SELECT notice_of(id, 300), k FROM skew WHERE id % 100 = 0 ORDER BY id;

-- notice: below a join
SELECT count(*) FROM (SELECT notice_of(id::int, 1000) AS n FROM orders OFFSET 0) AS o LEFT JOIN skew AS s ON s.id = o.n;

-- notice: warning
SELECT sum(warn_of(v)) FROM skew WHERE id < 1000 AND v = 77;

-- notice: not wanted
SET client_min_messages = error;
SELECT count(notice_of(id, 500)) FROM skew;
RESET client_min_messages;

-- notice: and then an error
SELECT count(warn_of(v) / (v - 77)) FROM skew WHERE v = 77 AND id < 1000;

-- error: division by zero
SELECT sum(100 / (v - 500)) FROM skew;

-- error: division by zero in a filter
SELECT count(*) FROM item WHERE 10 / (qty - 4) > 1;

-- error: in a join's condition
SELECT count(*) FROM orders AS o JOIN item AS i ON o.id = i.order_id AND 1 / (o.id - 700) >= 0;

-- error: in the leader's part
SELECT 1 / (count(*) - 6000) FROM skew;

-- error: in an init plan
SELECT count(*) FROM orders WHERE id > (SELECT sum(1 / (v - 3)) FROM skew);

-- error: in a group
SELECT k, sum(1 / (v - k)) FROM skew WHERE k = 33 AND v = 33 GROUP BY k;

-- error: out of range
SELECT sum((id * 1000000)::int4) FROM orders WHERE id = 7777;

-- error: overflow of a sum
SELECT sum(x) FROM (SELECT 9223372036854775807 AS x FROM skew) AS s WHERE x::int4 > 0;

-- error: invalid input
SELECT count(*) FROM customer WHERE name::int > 3 AND id = 1500;

-- error: own, with detail and hint
SELECT count(fail_at(id::int, 4321)) FROM orders;

-- error: own, in a sorted query
SELECT fail_at(id::int, 4321) FROM orders WHERE id > 4000 ORDER BY total, id;

-- error: own, when caught
DO $$ BEGIN PERFORM count(fail_at(id::int, 3000)) FROM orders; EXCEPTION WHEN SQLSTATE 'FA123' THEN RAISE NOTICE '% %', SQLSTATE, SQLERRM; END $$;

-- error: of a domain
SELECT count((v - 500)::positive) FROM skew WHERE v = 10 AND id < 1500;

-- error: of a subquery with two rows
SELECT count(*) FROM orders WHERE id = (SELECT id FROM region WHERE id > 3);

-- error: of jsonb
SELECT count(*) FROM customer WHERE id = 100 AND (attrs ->> 'tags')::int > 0;

-- error: in a transaction
BEGIN;
SELECT sum(100 / (v - 500)) FROM skew;
SELECT count(*) FROM skew;
ROLLBACK;
SELECT count(*) FROM skew;

-- error: after a savepoint
BEGIN;
SAVEPOINT a;
SELECT sum(100 / (v - 500)) FROM skew;
ROLLBACK TO a;
SELECT count(*) FROM skew;
COMMIT;

-- error: unknown table and column
SELECT count(*) FROM no_such_table;
SELECT no_such_column FROM orders;

-- error: syntax
SELECT count(*) FORM orders;

-- error: statement timeout
SET statement_timeout = '30ms';
SELECT count(pg_sleep(0.01)) FROM skew;
RESET statement_timeout;

-- cursor: fetched in steps
BEGIN;
DECLARE c CURSOR FOR SELECT id, total FROM orders WHERE total > 11000 ORDER BY id;
FETCH 5 FROM c;
FETCH 20 FROM c;
MOVE 10 IN c;
FETCH ALL FROM c;
CLOSE c;
COMMIT;

-- cursor: scrolled
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT status, count(*) FROM orders GROUP BY status ORDER BY status;
FETCH LAST FROM c;
FETCH BACKWARD 2 FROM c;
FETCH FIRST FROM c;
FETCH ABSOLUTE 3 FROM c;
COMMIT;

-- cursor: held
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT order_id, sum(price) FROM item WHERE order_id < 40 GROUP BY order_id ORDER BY order_id;
FETCH 3 FROM c;
COMMIT;
FETCH 3 FROM c;
CLOSE c;

-- cursor: while other queries run
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM skew WHERE k = 0 ORDER BY id;
FETCH 4 FROM c;
SELECT count(*), sum(total) FROM orders;
FETCH 4 FROM c;
SELECT count(*), sum(price) FROM item;
FETCH 4 FROM c;
COMMIT;

-- cursor: two at once
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM orders ORDER BY id;
DECLARE b CURSOR FOR SELECT id FROM skew ORDER BY id DESC;
FETCH 3 FROM a;
FETCH 3 FROM b;
FETCH 3 FROM a;
FETCH 3 FROM b;
COMMIT;

-- cursor: out of a function
BEGIN;
SELECT opened();
FETCH 10 FROM opened_cursor;
FETCH ALL FROM opened_cursor;
COMMIT;

-- prepared: custom plans
PREPARE p (int) AS SELECT count(*), sum(total) FROM orders WHERE customer_id < $1;
EXECUTE p (10);
EXECUTE p (1000);
EXECUTE p (NULL);
DEALLOCATE p;

-- prepared: a generic plan
SET plan_cache_mode = force_generic_plan;
PREPARE p (int) AS SELECT count(*), sum(total) FROM orders WHERE customer_id < $1;
EXECUTE p (10);
EXECUTE p (1000);
EXECUTE p (NULL);
DEALLOCATE p;
RESET plan_cache_mode;

-- prepared: a custom plan each time
SET plan_cache_mode = force_custom_plan;
PREPARE p (text, numeric) AS SELECT status, count(*) FROM orders WHERE ship_to = $1 OR total > $2 GROUP BY status ORDER BY status;
EXECUTE p ('street 3', 12000);
EXECUTE p (NULL, 100);
DEALLOCATE p;
RESET plan_cache_mode;

-- prepared: many times
PREPARE p (int) AS SELECT k, count(*) FROM skew WHERE v > $1 GROUP BY k ORDER BY 2 DESC, 1 LIMIT 3;
EXECUTE p (1);
EXECUTE p (2);
EXECUTE p (3);
EXECUTE p (4);
EXECUTE p (5);
EXECUTE p (600);
EXECUTE p (700);
DEALLOCATE p;

-- prepared: generic, over partitions
SET plan_cache_mode = force_generic_plan;
PREPARE p (timestamp, timestamp) AS SELECT count(*), sum(amount) FROM event WHERE at >= $1 AND at < $2;
EXECUTE p ('2022-01-10', '2022-01-20');
EXECUTE p ('2022-02-20', '2022-04-20');
EXECUTE p ('2021-01-01', '2021-02-01');
DEALLOCATE p;
RESET plan_cache_mode;

-- prepared: parameters of many types
SET plan_cache_mode = force_generic_plan;
PREPARE p (text, date, numeric, int[], dims, jsonb, tier) AS SELECT count(*), count($6), max($1) FROM vals
	WHERE t > $1 OR d = $2 OR n < $3 OR i4 = ANY ($4) OR comp = $5 OR jb = $6 OR e = $7;
EXECUTE p ('ff', '2000-02-03', 5.5, '{1,2,31}', ROW(1, 2, 'k1'), '{"id": 9}', 'gold');
EXECUTE p (NULL, NULL, NULL, NULL, NULL, NULL, NULL);
EXECUTE p (repeat('f', 5000), NULL, 1, '{}', NULL, jsonb_build_object('x', repeat('y', 3000)), NULL);
DEALLOCATE p;
RESET plan_cache_mode;

-- prepared: parameter in a LIMIT
PREPARE p (int, int) AS SELECT id, total FROM orders ORDER BY total DESC, id LIMIT $1 OFFSET $2;
EXECUTE p (5, 0);
EXECUTE p (3, 100);
EXECUTE p (NULL, 7990);
DEALLOCATE p;

-- prepared: then an index is made and dropped
PREPARE p AS SELECT count(*), sum(v) FROM scratch WHERE v = 3;
EXECUTE p;
CREATE INDEX scratch_v ON scratch (v);
EXECUTE p;
DROP INDEX scratch_v;
EXECUTE p;
DEALLOCATE p;

-- psql: bound parameters, again and again
SELECT format('SELECT count(*), sum(v) FROM skew WHERE k = %s', id) FROM region WHERE id < 6 ORDER BY id \gexec

-- explain: plan and results of the same
PREPARE p AS SELECT count(*) FROM item;
EXECUTE p;
EXECUTE p;
DEALLOCATE p;

-- target: CREATE TABLE AS
BEGIN;
CREATE TABLE made AS SELECT customer_id, count(*) AS n, sum(total) AS t FROM orders GROUP BY customer_id;
SELECT count(*), sum(n), sum(t) FROM made;
ROLLBACK;

-- target: INSERT SELECT
BEGIN;
INSERT INTO nothing SELECT qty, count(*) FROM item GROUP BY qty;
SELECT id, v FROM nothing ORDER BY id;
ROLLBACK;

-- target: UPDATE and DELETE
BEGIN;
UPDATE scratch SET v = (SELECT count(*) FROM orders) WHERE id <= 3;
DELETE FROM scratch WHERE id IN (SELECT k FROM skew WHERE k > 100);
SELECT count(*), sum(v) FROM scratch;
ROLLBACK;
SELECT count(*), sum(v) FROM scratch;

-- target: WITH that writes
BEGIN;
WITH d AS (DELETE FROM scratch WHERE id < 100 RETURNING id) SELECT count(*), sum(id) FROM d;
SELECT count(*) FROM scratch;
ROLLBACK;

-- target: refreshed view
REFRESH MATERIALIZED VIEW status_sum;
SELECT count(*), sum(n), sum(total) FROM status_sum;

-- target: COPY
COPY (SELECT status, count(*), sum(total) FROM orders GROUP BY status ORDER BY status) TO STDOUT;
COPY (SELECT id, d, iv, jb FROM vals WHERE id % 100 = 0 ORDER BY id) TO STDOUT (FORMAT csv, HEADER);

-- target: FOR UPDATE
SELECT id FROM orders WHERE total > 12400 ORDER BY id FOR UPDATE;

-- target: FOR SHARE in a subquery
SELECT count(*) FROM (SELECT id FROM scratch WHERE v = 3 FOR SHARE) AS s JOIN orders AS o ON o.id = s.id;
