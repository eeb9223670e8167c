-- order: by a key
SELECT id, total FROM orders ORDER BY id LIMIT 100;

-- order: by a key, descending, with OFFSET
SELECT id, total FROM orders ORDER BY id DESC LIMIT 50 OFFSET 3000;

-- order: top of many
SELECT id, total FROM orders ORDER BY total DESC, id LIMIT 100;

-- order: all rows
SELECT order_id, line, price FROM item ORDER BY price, order_id, line;

-- order: not by an index
SELECT id, v FROM skew ORDER BY v, k, id LIMIT 200;

-- order: incremental
SET enable_seqscan = off;
SELECT status, total, id FROM orders ORDER BY status, total, id LIMIT 150;
RESET enable_seqscan;

-- order: incremental below a Gather Merge
SELECT joined, id, name FROM customer ORDER BY joined, id, name LIMIT 120;

-- order: LIMIT 0
SELECT id FROM orders ORDER BY id LIMIT 0;

-- order: LIMIT NULL
SELECT count(*) FROM (SELECT id FROM orders ORDER BY id LIMIT NULL) AS s;

-- order: LIMIT from a subquery
SELECT id FROM orders ORDER BY total, id LIMIT (SELECT max(id) FROM region);

-- order: FETCH FIRST WITH TIES (unordered)
SELECT v, id FROM skew ORDER BY v FETCH FIRST 7 ROWS WITH TIES;

-- order: FETCH FIRST WITH TIES, sorted outside
SELECT * FROM (SELECT v, id FROM skew ORDER BY v DESC FETCH FIRST 10 ROWS WITH TIES) AS s ORDER BY v, id;

-- order: LIMIT without an order
SELECT count(*) FROM (SELECT id FROM orders LIMIT 700) AS s;

-- order: NULLS FIRST
SELECT id, credit FROM customer ORDER BY credit NULLS FIRST, id LIMIT 300;

-- order: text under "C"
SELECT id, plain FROM word ORDER BY plain COLLATE "C", id LIMIT 200;

-- order: text under another collation
SELECT id, icu FROM word ORDER BY icu, id LIMIT 300;

-- order: text under the default
SELECT id, plain FROM word ORDER BY plain DESC NULLS LAST, id LIMIT 200;

-- order: by a function
SELECT id FROM doc ORDER BY md5(body), id LIMIT 60;

-- order: by position and expression
SELECT id % 10 AS r, id FROM orders WHERE id < 2000 ORDER BY 1 DESC, id + 1 LIMIT 120;

-- order: external sort
SET work_mem = '64kB';
SELECT id, big FROM (SELECT order_id AS id, line, md5(order_id::text || line) AS big FROM item) AS s ORDER BY big, id, line LIMIT 60;
SELECT count(*), max(rn) FROM (SELECT row_number() OVER (ORDER BY price, order_id, line) AS rn FROM item) AS s;
RESET work_mem;

-- order: in an aggregate over a sorted subquery
SELECT array_agg(id ORDER BY total, id) FROM (SELECT id, total FROM orders WHERE total > 12300 ORDER BY total, id) AS s;

-- order: by interval, time and bits
SELECT id, iv, tm, bt FROM vals ORDER BY iv, tm, bt, id LIMIT 80;

-- distinct: of one column (unordered)
SELECT DISTINCT status FROM orders;

-- distinct: in order
SELECT DISTINCT product_id FROM item ORDER BY product_id;

-- distinct: of rows (unordered)
SELECT DISTINCT qty, line, discount FROM item;

-- distinct: with LIMIT
SELECT DISTINCT customer_id FROM orders ORDER BY customer_id LIMIT 30;

-- distinct: many
SELECT count(*) FROM (SELECT DISTINCT order_id, qty FROM item) AS s;

-- distinct: of an aggregate
SELECT DISTINCT count(*) FROM item GROUP BY product_id ORDER BY 1;

-- distinct: under a collation that ignores case
SELECT count(DISTINCT ci), count(DISTINCT plain) FROM word;

-- distinct: NULLs
SELECT DISTINCT a FROM hole ORDER BY a NULLS FIRST LIMIT 20;

-- distinct on: one row of each
SELECT DISTINCT ON (customer_id) customer_id, id, total FROM orders ORDER BY customer_id, total DESC, id;

-- distinct on: two keys
SELECT DISTINCT ON (qty, line) qty, line, order_id, price FROM item ORDER BY qty, line, price DESC, order_id;

-- distinct on: in a subquery
SELECT count(*), sum(total) FROM (SELECT DISTINCT ON (status) status, total FROM orders ORDER BY status, total DESC, id) AS s;

-- window: row_number
SELECT id, row_number() OVER (ORDER BY total, id) FROM orders ORDER BY id LIMIT 100;

-- window: by partition
SELECT status, id, rank() OVER (PARTITION BY status ORDER BY total DESC) FROM orders WHERE id % 20 = 0 ORDER BY status, 3, id;

-- window: running sum
SELECT id, sum(total) OVER (PARTITION BY customer_id ORDER BY id) FROM orders WHERE customer_id < 60 ORDER BY id;

-- window: lag and lead
SELECT id, lag(total) OVER w, lead(total, 2, 0) OVER w FROM orders WHERE status = 'paid' WINDOW w AS (ORDER BY id) ORDER BY id LIMIT 120;

-- window: first, last and nth
SELECT id, first_value(id) OVER w, last_value(id) OVER w, nth_value(id, 3) OVER w FROM skew WHERE k BETWEEN 1 AND 60
	WINDOW w AS (PARTITION BY k ORDER BY v, id ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING) ORDER BY id;

-- window: RANGE and GROUPS
SELECT id, count(*) OVER (ORDER BY v RANGE BETWEEN 5 PRECEDING AND 5 FOLLOWING), sum(v) OVER (ORDER BY v GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)
	FROM skew WHERE k > 0 ORDER BY id LIMIT 150;

-- window: EXCLUDE
SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW)
	FROM skew WHERE k BETWEEN 1 AND 40 ORDER BY id;

-- window: ntile and distributions
SELECT id, ntile(7) OVER w, percent_rank() OVER w, cume_dist() OVER w FROM product WINDOW w AS (ORDER BY price, id) ORDER BY id;

-- window: over groups
SELECT product_id, sum(qty), rank() OVER (ORDER BY sum(qty) DESC, product_id) FROM item GROUP BY product_id ORDER BY 3 LIMIT 40;

-- window: two windows
SELECT id, row_number() OVER (ORDER BY total, id) - row_number() OVER (ORDER BY id) FROM orders WHERE id % 11 = 0 ORDER BY id;

-- window: filtered outside
SELECT * FROM (SELECT customer_id, id, row_number() OVER (PARTITION BY customer_id ORDER BY total DESC, id) AS r FROM orders) AS s
	WHERE r <= 2 AND customer_id % 10 = 1 ORDER BY 1, 3;

-- window: run condition
SELECT * FROM (SELECT id, row_number() OVER (ORDER BY id) AS r FROM orders) AS s WHERE r < 20 ORDER BY id;

-- window: whole table as frame
SELECT count(*), sum(share) FROM (SELECT total - (sum(total) OVER ()) / 8 AS share FROM orders) AS s;

-- window: aggregate with FILTER
SELECT id, count(*) FILTER (WHERE status = 'new') OVER (ORDER BY id ROWS 9 PRECEDING) FROM orders ORDER BY id LIMIT 90;

-- set: UNION (unordered)
SELECT customer_id FROM orders WHERE total < 300 UNION SELECT id FROM customer WHERE id < 40;

-- set: UNION ALL
SELECT count(*), sum(x) FROM (SELECT id AS x FROM orders UNION ALL SELECT order_id FROM item UNION ALL SELECT id FROM skew) AS s;

-- set: UNION ALL, rows (unordered)
SELECT id, 'o' FROM orders WHERE id % 40 = 0 UNION ALL SELECT id, 'c' FROM customer WHERE id % 40 = 0;

-- set: UNION ALL in order
SELECT id, total FROM orders WHERE total > 12000 UNION ALL SELECT id, credit FROM customer WHERE credit > 2000 ORDER BY 2 DESC, 1 LIMIT 50;

-- set: INTERSECT
SELECT customer_id FROM orders INTERSECT SELECT id FROM customer WHERE tier = 'basic' ORDER BY 1 LIMIT 60;

-- set: INTERSECT ALL
SELECT k FROM skew INTERSECT ALL SELECT k FROM bucket ORDER BY 1 LIMIT 80;

-- set: EXCEPT
SELECT id FROM customer EXCEPT SELECT customer_id FROM orders ORDER BY 1;

-- set: EXCEPT ALL
SELECT count(*), sum(k) FROM (SELECT k FROM bucket EXCEPT ALL SELECT k FROM skew) AS s;

-- set: nested
SELECT count(*) FROM ((SELECT id FROM customer UNION SELECT id FROM product) INTERSECT (SELECT id FROM skew EXCEPT SELECT id FROM region)) AS s;

-- set: of aggregates
SELECT 'orders', count(*), sum(total) FROM orders UNION ALL SELECT 'customers', count(*), sum(credit) FROM customer
	UNION ALL SELECT 'items', count(*), sum(price) FROM item ORDER BY 1;

-- set: types made equal
SELECT sum(x) FROM (SELECT i2 AS x FROM vals UNION ALL SELECT i8 FROM vals UNION ALL SELECT n FROM vals) AS s;

-- set: UNION with NULLs and collations
SELECT count(*), count(w) FROM (SELECT c AS w FROM word UNION SELECT plain COLLATE "C" FROM word) AS s;

-- set: UNION ALL of differently cheap parts
SELECT count(*), sum(n) FROM (SELECT 1 AS n FROM nothing UNION ALL SELECT v FROM skew UNION ALL SELECT id FROM single UNION ALL SELECT qty FROM item) AS s;

-- set: UNION ALL with a join and a partitioned table
SELECT kind, count(*) FROM (SELECT kind FROM event UNION ALL SELECT 'o' || status FROM orders JOIN customer AS c ON c.id = customer_id) AS s
	GROUP BY kind ORDER BY kind;
