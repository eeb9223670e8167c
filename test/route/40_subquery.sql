-- subquery: init plan
SELECT count(*), sum(total) FROM orders WHERE total > (SELECT avg(total) FROM orders);

-- subquery: two init plans
SELECT count(*) FROM item WHERE price BETWEEN (SELECT avg(price) / 2 FROM item) AND (SELECT avg(price) FROM item WHERE qty > 3);

-- subquery: init plan of an init plan
SELECT count(*) FROM skew WHERE v > (SELECT avg(v) FROM skew WHERE v < (SELECT max(v) / 2 FROM skew));

-- subquery: init plan in the target list
SELECT id, (SELECT max(total) FROM orders) - total FROM orders ORDER BY id LIMIT 60;

-- subquery: init plan that is NULL
SELECT count(*) FROM orders WHERE id > (SELECT max(id) FROM nothing);

-- subquery: init plan in an index condition
SELECT count(*), sum(price) FROM item WHERE order_id = (SELECT max(id) / 2 FROM orders);

-- subquery: init plan for a LIMIT and an OFFSET
SELECT id FROM orders ORDER BY id LIMIT (SELECT count(*) / 200 FROM skew) OFFSET (SELECT min(id) FROM region);

-- subquery: init plan with EXISTS
SELECT count(*) FROM orders WHERE EXISTS (SELECT FROM nothing) OR id % 3 = 0;

-- subquery: correlated
SELECT id, (SELECT sum(price) FROM item AS i WHERE i.order_id = o.id) FROM orders AS o WHERE id % 30 = 0 ORDER BY id;

-- subquery: correlated, in a filter
SELECT count(*), sum(id) FROM orders AS o WHERE total > (SELECT avg(price) * 20 FROM item AS i WHERE i.order_id = o.id);

-- subquery: correlated and aggregated
SELECT sum((SELECT count(*) FROM item AS i WHERE i.order_id = o.id)) FROM orders AS o WHERE o.status = 'new';

-- subquery: correlated through two levels
SELECT count(*) FROM customer AS c WHERE c.id < 300 AND (SELECT count(*) FROM orders AS o WHERE o.customer_id = c.id
	AND EXISTS (SELECT FROM item AS i WHERE i.order_id = o.id AND i.qty > c.id % 9)) > 1;

-- subquery: hashed
SELECT count(*) FROM orders WHERE (customer_id IN (SELECT id FROM customer WHERE tier = 'gold')) IS NOT TRUE;

-- subquery: hashed NOT IN
SELECT count(*) FROM item WHERE product_id NOT IN (SELECT id FROM product WHERE active);

-- subquery: hashed in the target list
SELECT id, customer_id IN (SELECT id FROM customer WHERE id % 2 = 0) FROM orders ORDER BY id LIMIT 80;

-- subquery: EXISTS in the target list
SELECT count(*) FILTER (WHERE e) FROM (SELECT EXISTS (SELECT FROM item AS i WHERE i.order_id = o.id AND qty = 9) AS e FROM orders AS o WHERE id < 2000) AS s;

-- subquery: ANY and ALL
SELECT count(*) FROM skew WHERE v > ALL (SELECT id * 10 FROM region) AND k = ANY (SELECT id * 7 FROM category);

-- subquery: ARRAY
SELECT c.id, ARRAY(SELECT o.id FROM orders AS o WHERE o.customer_id = c.id ORDER BY o.id) FROM customer AS c WHERE c.id < 60 ORDER BY c.id;

-- subquery: ARRAY as init plan
SELECT count(*) FROM orders WHERE customer_id = ANY (ARRAY(SELECT id FROM customer WHERE region_id = 3));

-- subquery: row comparison
SELECT count(*) FROM item WHERE (order_id, line) IN (SELECT id, id % 2 FROM orders WHERE status = 'shipped');

-- subquery: row of a subquery
SELECT (s).id, (s).total FROM (SELECT (SELECT o FROM orders AS o WHERE o.id = r.id * 100) AS s FROM region AS r) AS x ORDER BY 1;

-- subquery: in HAVING
SELECT status, sum(total) FROM orders GROUP BY status HAVING sum(total) > (SELECT sum(total) / 5 FROM orders) ORDER BY status;

-- subquery: in ORDER BY
SELECT id FROM region AS r ORDER BY (SELECT count(*) FROM customer AS c WHERE c.region_id = r.id), id;

-- subquery: in CASE
SELECT sum(CASE WHEN qty > 8 THEN (SELECT max(id) FROM region) ELSE (SELECT min(id) FROM category) END) FROM item;

-- subquery: in a join condition
SELECT count(*) FROM orders AS o JOIN customer AS c ON c.id = o.customer_id AND c.credit > (SELECT avg(credit) FROM customer);

-- subquery: FROM only
SELECT count(*), sum(x) FROM (SELECT total * 2 AS x FROM orders WHERE status = 'new') AS s WHERE x > 1000;

-- subquery: OFFSET 0 keeps it apart
SELECT count(*), sum(total) FROM (SELECT * FROM orders WHERE id > 500 OFFSET 0) AS s WHERE total > 100;

-- lateral: top of each
SELECT c.id, t.id, t.total FROM customer AS c, LATERAL (SELECT o.id, o.total FROM orders AS o WHERE o.customer_id = c.id
	ORDER BY o.total DESC, o.id LIMIT 2) AS t WHERE c.id < 120 ORDER BY c.id, t.total DESC, t.id;

-- lateral: left, aggregated
SELECT count(*), count(t.n), sum(t.n) FROM customer AS c LEFT JOIN LATERAL
	(SELECT count(*) AS n FROM orders AS o WHERE o.customer_id = c.id HAVING count(*) > 4) AS t ON true WHERE c.id < 500;

-- lateral: function
SELECT count(*), sum(g) FROM product AS p, LATERAL generate_series(lower(p.span), upper(p.span)) AS g;

-- lateral: unnest WITH ORDINALITY
SELECT o.id, u.t, u.n FROM orders AS o, LATERAL unnest(o.tags) WITH ORDINALITY AS u (t, n) WHERE o.id < 150 ORDER BY o.id, u.n;

-- lateral: jsonb elements
SELECT e, count(*) FROM customer AS c, jsonb_array_elements_text(c.attrs -> 'tags') AS e GROUP BY e ORDER BY e;

-- lateral: chain
SELECT count(*), sum(z) FROM orders AS o, LATERAL (SELECT o.id * 2 AS y) AS a, LATERAL (SELECT a.y + o.total AS z) AS b;

-- lateral: VALUES
SELECT v.k, count(*), sum(v.x) FROM item AS i, LATERAL (VALUES ('q', i.qty), ('l', i.line)) AS v (k, x) GROUP BY v.k ORDER BY v.k;

-- lateral: subquery that refers to two
SELECT count(*), sum(s.n) FROM orders AS o JOIN customer AS c ON c.id = o.customer_id,
	LATERAL (SELECT count(*) AS n FROM item AS i WHERE i.order_id = o.id AND i.qty > c.id % 5) AS s WHERE c.id < 100;

-- cte: inlined
WITH o AS (SELECT * FROM orders WHERE status = 'paid') SELECT count(*), sum(total) FROM o WHERE total > 1000;

-- cte: materialized
WITH o AS MATERIALIZED (SELECT * FROM orders WHERE status = 'paid') SELECT count(*), sum(total) FROM o WHERE total > 1000;

-- cte: not materialized, read twice
WITH o AS NOT MATERIALIZED (SELECT customer_id, total FROM orders) SELECT count(*) FROM o AS a JOIN o AS b ON a.customer_id = b.customer_id
	AND a.total < b.total WHERE a.customer_id < 300;

-- cte: materialized, read twice
WITH s AS MATERIALIZED (SELECT customer_id, sum(total) AS t FROM orders GROUP BY customer_id)
	SELECT count(*), sum(a.t) FROM s AS a JOIN s AS b ON a.customer_id = b.customer_id + 1 WHERE a.t > b.t;

-- cte: two, one from the other
WITH a AS (SELECT order_id, sum(price) AS p FROM item GROUP BY order_id), b AS (SELECT avg(p) AS m FROM a)
	SELECT count(*), sum(p) FROM a, b WHERE a.p > b.m;

-- cte: materialized and joined to a large table
WITH few AS MATERIALIZED (SELECT id FROM customer WHERE region_id = 5) SELECT count(*), sum(total) FROM orders JOIN few ON few.id = customer_id;

-- cte: recursive over a tree
WITH RECURSIVE t AS (SELECT id, parent_id, 1 AS depth FROM category WHERE parent_id IS NULL
	UNION ALL SELECT c.id, c.parent_id, depth + 1 FROM category AS c JOIN t ON c.parent_id = t.id)
	SELECT depth, count(*), sum(id) FROM t GROUP BY depth ORDER BY depth;

-- cte: recursive over a graph
WITH RECURSIVE r AS (SELECT 1 AS n UNION SELECT e.dst FROM edge AS e JOIN r ON e.src = r.n) SELECT count(*), sum(n), max(n) FROM r;

-- cte: recursive, then joined
WITH RECURSIVE t AS (SELECT id FROM category WHERE id = 2 UNION ALL SELECT c.id FROM category AS c JOIN t ON c.parent_id = t.id)
	SELECT count(*), sum(i.price) FROM item AS i JOIN product AS p ON p.id = i.product_id JOIN t ON t.id = p.category_id;

-- cte: recursive counter
WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT count(*), sum(s.v) FROM n JOIN skew AS s ON s.id = n.i;

-- cte: recursive with CYCLE
WITH RECURSIVE r AS (SELECT src, dst, 1 AS depth FROM edge WHERE src = 1 UNION ALL SELECT e.src, e.dst, r.depth + 1 FROM edge AS e JOIN r ON e.src = r.dst AND r.depth < 12)
	CYCLE src SET looped USING path SELECT count(*), count(*) FILTER (WHERE looped) FROM r;

-- cte: recursive with an aggregate beside it
WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 20), s AS (SELECT k, count(*) AS c FROM skew GROUP BY k)
	SELECT n.i, s.c FROM n JOIN s ON s.k = n.i ORDER BY n.i;

-- cte: in a subquery
SELECT count(*) FROM orders WHERE customer_id IN (WITH g AS (SELECT id FROM customer WHERE tier = 'gold') SELECT id FROM g WHERE id % 3 = 1);

-- cte: unused
WITH unused AS (SELECT 1 / 0) SELECT count(*) FROM orders;

-- values: alone
VALUES (1, 'a'), (2, NULL), (3, 'c');

-- values: with subqueries
VALUES ((SELECT count(*) FROM orders)), ((SELECT count(*) FROM item)), ((SELECT sum(v) FROM skew));

-- series: alone
SELECT count(*), sum(g) FROM generate_series(1, 5000) AS g;

-- series: of timestamps, joined
SELECT g, count(e.id) FROM generate_series(timestamp '2022-01-01', '2022-03-01', '7 days') AS g
	LEFT JOIN event AS e ON e.at >= g AND e.at < g + interval '7 days' GROUP BY g ORDER BY g;

-- series: in the target list
SELECT id, generate_series(1, id % 3) FROM region ORDER BY 1, 2;

-- series: many rows in the target list
SELECT count(*), sum(g) FROM (SELECT unnest(tags) AS t, generate_series(1, 2) AS g FROM orders) AS s;

-- series: ROWS FROM
SELECT a, b, c FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY['x', 'y'])) WITH ORDINALITY AS f (a, b, c) ORDER BY c;

-- table: TABLE
TABLE region ORDER BY id;

-- table: no FROM
SELECT 1 + 1, current_setting('search_path'), NULL::int;

-- table: no columns
SELECT count(*) FROM (SELECT FROM orders) AS s;
