-- One query per paragraph: the first line is its name, and "(unordered)" says
-- that SQL defines no order of its rows.  A statement begins in the first
-- column, and nothing else does: what begins with SELECT, WITH, VALUES, TABLE
-- or EXECUTE is also given to EXPLAIN.

-- join: inner, count
SELECT count(*), sum(i.qty) FROM orders AS o JOIN item AS i ON i.order_id = o.id;

-- join: inner, rows (unordered)
SELECT o.id, i.line, i.price FROM orders AS o JOIN item AS i ON i.order_id = o.id WHERE o.total < 400;

-- join: inner, rows in order
SELECT o.id, i.line, i.price FROM orders AS o JOIN item AS i ON i.order_id = o.id WHERE o.total < 900
	ORDER BY o.id, i.line;

-- join: three tables
SELECT c.region_id, count(*), sum(i.price) FROM customer AS c
	JOIN orders AS o ON o.customer_id = c.id JOIN item AS i ON i.order_id = o.id
	GROUP BY c.region_id ORDER BY c.region_id;

-- join: five tables
SELECT r.name, g.name, count(*), sum(i.qty * i.price) FROM region AS r
	JOIN customer AS c ON c.region_id = r.id JOIN orders AS o ON o.customer_id = c.id
	JOIN item AS i ON i.order_id = o.id JOIN product AS p ON p.id = i.product_id
	JOIN category AS g ON g.id = p.category_id
	WHERE g.id % 5 = 1 GROUP BY 1, 2 ORDER BY 1, 2;

-- join: left
SELECT count(*), count(c.id), sum(o.total) FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id;

-- join: left, rows without a match (unordered)
SELECT o.id, o.customer_id, c.name FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id
	WHERE c.id IS NULL AND o.id < 3000;

-- join: right
SELECT count(*), count(o.id), count(c.id) FROM orders AS o RIGHT JOIN customer AS c ON c.id = o.customer_id;

-- join: full
SELECT count(*), count(o.id), count(c.id), sum(o.total) FROM orders AS o FULL JOIN customer AS c ON c.id = o.customer_id;

-- join: full, rows (unordered)
SELECT a.k, b.k, count(*) FROM bucket AS a FULL JOIN bucket_info AS b ON a.k = b.k GROUP BY 1, 2;

-- join: left with a condition on the outer side
SELECT count(*), count(i.line) FROM orders AS o LEFT JOIN item AS i ON i.order_id = o.id AND o.status = 'paid';

-- join: left with a filter above
SELECT o.status, count(*) FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id
	WHERE c.tier IS DISTINCT FROM 'gold' GROUP BY o.status ORDER BY o.status;

-- join: left of left
SELECT count(*), count(c.id), count(r.id) FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id
	LEFT JOIN region AS r ON r.id = c.region_id;

-- join: left of inner
SELECT count(*), count(x.id) FROM customer AS c LEFT JOIN
	(orders AS x JOIN item AS i ON i.order_id = x.id AND i.qty > 5) ON x.customer_id = c.id;

-- join: outer joins nested in full
SELECT count(*), sum(coalesce(s.v, 0)), count(i.info) FROM (SELECT k, sum(v) AS v FROM bucket GROUP BY k) AS s
	FULL JOIN bucket_info AS i USING (k) LEFT JOIN region AS r ON r.id = k;

-- join: semi by EXISTS
SELECT count(*), sum(c.id) FROM customer AS c WHERE EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id AND o.total > 9000);

-- join: semi by IN
SELECT count(*), sum(total) FROM orders WHERE customer_id IN (SELECT id FROM customer WHERE tier = 'gold');

-- join: semi, rows (unordered)
SELECT id, name FROM product AS p WHERE EXISTS (SELECT FROM item AS i WHERE i.product_id = p.id AND i.qty = 9);

-- join: anti by NOT EXISTS
SELECT count(*), sum(c.id) FROM customer AS c WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id);

-- join: anti by left join
SELECT count(*) FROM item AS i LEFT JOIN product AS p ON p.id = i.product_id WHERE p.id IS NULL;

-- join: anti with another condition
SELECT count(*) FROM orders AS o WHERE NOT EXISTS (SELECT FROM item AS i WHERE i.order_id = o.id AND i.price > o.total);

-- join: NOT IN with NULLs
SELECT count(*) FROM region WHERE id NOT IN (SELECT region_id FROM customer);

-- join: NOT IN without NULLs
SELECT count(*), sum(id) FROM orders WHERE customer_id NOT IN (SELECT id FROM customer WHERE id % 2 = 0);

-- join: cross
SELECT count(*), sum(a.id * b.id) FROM region AS a, category AS b;

-- join: cross of a large one
SELECT r.id, count(*), sum(s.v) FROM skew AS s CROSS JOIN region AS r GROUP BY r.id ORDER BY r.id;

-- join: inequality
SELECT count(*) FROM category AS a JOIN skew AS s ON s.v < a.id;

-- join: range of another table
SELECT p.id % 10, count(*) FROM product AS p JOIN skew AS s ON s.v BETWEEN lower(p.span) AND upper(p.span)
	WHERE p.active GROUP BY 1 ORDER BY 1;

-- join: self
SELECT count(*) FROM orders AS a JOIN orders AS b ON a.id = b.id + 1 AND a.status = b.status;

-- join: self on a skewed key
SELECT count(*), sum(a.v) FROM skew AS a JOIN skew AS b ON a.k = b.k AND b.id < 40;

-- join: USING
SELECT k, count(*), min(info) FROM bucket JOIN bucket_info USING (k) WHERE k < 50 GROUP BY k ORDER BY k;

-- join: NATURAL (unordered)
SELECT * FROM bucket NATURAL JOIN bucket_info WHERE v < 500;

-- join: keys of different types
SELECT count(*), sum(o.total) FROM orders AS o JOIN vals AS v ON v.i4 = o.id;

-- join: on an expression
SELECT count(*) FROM customer AS c JOIN orders AS o ON o.customer_id % 100 = c.id % 100 AND c.id <= 100;

-- join: on two columns
SELECT count(*), sum(a.qty) FROM item AS a JOIN item AS b ON a.order_id = b.order_id AND a.line = b.line;

-- join: on text
SELECT count(*) FROM doc AS d JOIN product AS p ON split_part(d.body, ' ', 3) = 'rare' || p.id;

-- join: IS NOT DISTINCT FROM
SELECT count(*) FROM region AS r FULL JOIN (SELECT DISTINCT region_id FROM customer) AS c ON c.region_id = r.id;

-- join: with OR
SELECT count(*) FROM region AS r JOIN customer AS c ON c.region_id = r.id OR c.id = r.id;

-- join: empty inner side
SELECT count(*), count(n.id) FROM orders AS o LEFT JOIN nothing AS n ON n.id = o.id;

-- join: empty outer side
SELECT count(*) FROM nothing AS n JOIN orders AS o ON n.id = o.id;

-- join: single row
SELECT s.v, count(*), max(o.total) FROM single AS s JOIN orders AS o ON o.id >= s.id GROUP BY s.v;

-- join: enum and NULL keys
SELECT c.tier, count(*) FROM customer AS c JOIN vals AS v ON v.e = c.tier AND v.id = c.id GROUP BY 1 ORDER BY 1;

-- join: merge
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), sum(i.price) FROM orders AS o JOIN item AS i ON i.order_id = o.id;
SELECT o.id, i.line FROM orders AS o JOIN item AS i ON i.order_id = o.id WHERE i.qty = 3 ORDER BY 1, 2 LIMIT 40;
RESET enable_hashjoin;
RESET enable_nestloop;

-- join: merge, left and full
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), count(c.id) FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id;
SELECT count(*), count(o.id), count(c.id) FROM orders AS o FULL JOIN customer AS c ON c.id = o.customer_id;
RESET enable_hashjoin;
RESET enable_nestloop;

-- join: merge, semi and anti
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*) FROM customer AS c WHERE EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id);
SELECT count(*) FROM customer AS c WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.customer_id = c.id);
RESET enable_hashjoin;
RESET enable_nestloop;

-- join: nested loop over an index
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*), sum(i.price) FROM orders AS o JOIN item AS i ON i.order_id = o.id WHERE o.status = 'new';
RESET enable_hashjoin;
RESET enable_mergejoin;

-- join: nested loop, left
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*), count(i.line), sum(i.price) FROM orders AS o LEFT JOIN item AS i ON i.order_id = o.id AND i.qty > 4;
RESET enable_hashjoin;
RESET enable_mergejoin;

-- join: nested loop, semi and anti
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*) FROM orders AS o WHERE EXISTS (SELECT FROM item AS i WHERE i.order_id = o.id AND i.qty > 7);
SELECT count(*) FROM orders AS o WHERE NOT EXISTS (SELECT FROM item AS i WHERE i.order_id = o.id AND i.qty > 3);
RESET enable_hashjoin;
RESET enable_mergejoin;

-- join: memoize
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*), count(DISTINCT p.name) FROM item AS i JOIN product AS p ON p.id = i.product_id;
RESET enable_hashjoin;
RESET enable_mergejoin;

-- join: parallel hash off
SET enable_parallel_hash = off;
SELECT count(*), sum(i.price) FROM orders AS o JOIN item AS i ON i.order_id = o.id;
SELECT count(*), sum(i.price) FROM orders AS o LEFT JOIN item AS i ON i.order_id = o.id AND i.qty = 2;
RESET enable_parallel_hash;

-- join: hash in batches
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*), sum(i.price), count(o.ship_to) FROM orders AS o JOIN item AS i ON i.order_id = o.id;
SELECT count(*), count(o.id), count(i.line) FROM item AS i LEFT JOIN orders AS o ON i.order_id = o.id AND o.total > 5000;
RESET work_mem;
RESET hash_mem_multiplier;

-- join: hash in batches, skewed key
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*), sum(a.v), sum(b.v) FROM skew AS a JOIN skew AS b ON a.k = b.k AND a.id > b.id AND b.id % 100 = 3;
SELECT count(*) FROM skew AS a LEFT JOIN skew AS b ON a.id = b.k;
RESET work_mem;
RESET hash_mem_multiplier;

-- join: hash in batches, full
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*), count(a.id), count(b.id) FROM orders AS a FULL JOIN skew AS b ON a.id = b.id + 4000;
RESET work_mem;
RESET hash_mem_multiplier;

-- join: subquery with aggregate
SELECT count(*), sum(s.n) FROM customer AS c JOIN (SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id) AS s
	ON s.customer_id = c.id WHERE c.tier = 'silver';

-- join: subquery with LIMIT
SELECT count(*), sum(i.price) FROM (SELECT id FROM orders ORDER BY total DESC, id LIMIT 500) AS o JOIN item AS i ON i.order_id = o.id;

-- join: VALUES
SELECT v.label, count(*), sum(o.total) FROM orders AS o JOIN (VALUES ('new'::status, 'fresh'), ('paid', 'done')) AS v (s, label)
	ON v.s = o.status GROUP BY v.label ORDER BY v.label;

-- join: generate_series
SELECT g, count(s.id) FROM generate_series(0, 20) AS g LEFT JOIN skew AS s ON s.k = g GROUP BY g ORDER BY g;

-- join: unnest of an array
SELECT t, count(*), sum(o.total) FROM orders AS o, unnest(o.tags) AS t GROUP BY t ORDER BY t;

-- join: whole rows
SELECT count(*), max(c::text) FROM customer AS c JOIN orders AS o ON o.customer_id = c.id WHERE o.id < 300;

-- join: order by a column of either side
SELECT c.name, o.id FROM customer AS c JOIN orders AS o ON o.customer_id = c.id
	WHERE c.region_id = 4 ORDER BY c.name COLLATE "C", o.id DESC;

-- join: order by an expression, with LIMIT
SELECT i.order_id, i.line, i.qty * i.price AS amount FROM item AS i JOIN product AS p ON p.id = i.product_id
	WHERE p.active ORDER BY i.qty * i.price DESC, i.order_id, i.line LIMIT 50;

-- join: inheritance and partitions
SELECT count(*), sum(e.amount) FROM vehicle AS v JOIN event AS e ON e.id = v.id;

-- join: JOIN with false condition
SELECT count(*), count(b.id) FROM orders AS a LEFT JOIN item AS i ON false LEFT JOIN skew AS b ON b.id = a.id;

-- join: many rows per key
SELECT a.kind, count(*) FROM place AS a JOIN place AS b ON a.kind = b.kind AND b.id < 100 GROUP BY a.kind ORDER BY a.kind;

-- join: null-extended expressions
SELECT count(*), count(coalesce(c.name, 'none')), count(c.note || 'x') FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id;

-- join: sort keys with NULLs first and last
SELECT o.id, o.customer_id, c.note FROM orders AS o LEFT JOIN customer AS c ON c.id = o.customer_id
	WHERE o.id % 40 = 0 ORDER BY c.note COLLATE "C" NULLS FIRST, o.customer_id DESC NULLS LAST, o.id;
