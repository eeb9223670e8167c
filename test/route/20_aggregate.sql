-- aggregate: count
SELECT count(*) FROM item;

-- aggregate: many at once
SELECT count(*), count(weight), sum(qty), min(price), max(price), sum(price), avg(price), sum(weight), avg(weight), sum(discount) FROM item;

-- aggregate: of no rows
SELECT count(*), sum(qty), min(price), avg(weight), bool_and(qty > 1), string_agg(line::text, ',') FROM item WHERE qty > 100;

-- aggregate: of an empty table
SELECT count(*), count(v), max(id), sum(id) FROM nothing;

-- aggregate: of NULLs only
SELECT count(*), count(c), sum(c), max(d), min(c), bool_or(c > 0) FROM hole;

-- aggregate: all integer types
SELECT sum(i2), sum(i4), sum(i8), avg(i2), avg(i4), avg(i8), min(i2), max(i8) FROM vals;

-- aggregate: numeric
SELECT sum(n), avg(n), min(n), max(n), variance(n), stddev_pop(n), count(DISTINCT n) FROM vals;

-- aggregate: variance of integers
SELECT variance(i4), stddev(i4), var_pop(i2), stddev_samp(i8), var_samp(i4) FROM vals;

-- aggregate: floats that sum exactly
SELECT sum(f4), sum(f8), avg(f4), avg(f8), min(f4), max(f8) FROM vals;

-- aggregate: dates and times
SELECT min(d), max(d), min(tm), max(tm), min(ts), max(ts), min(tz), max(tz), min(iv), max(iv), sum(iv), avg(iv) FROM vals;

-- aggregate: other types
SELECT min(t), max(t), min(vc), max(c), min(ip), max(ip), min(m), max(m), sum(m), min(e), max(e) FROM vals;

-- aggregate: bits and booleans
SELECT bit_and(i4), bit_or(i4), bool_and(b), bool_or(b), every(b), bit_or(bt), bit_and(bt) FROM vals WHERE id % 2 = 1;

-- aggregate: bit_xor
SELECT bit_xor(i4), bit_xor(i8) FROM vals;

-- aggregate: ranges
SELECT range_agg(r4), range_intersect_agg(int4range(0, 100) * coalesce(r4, '(,)')) FROM vals WHERE id % 100 = 1;

-- aggregate: min and max of arrays
SELECT min(ai), max(ai), min(at COLLATE "C"), max(at COLLATE "C") FROM vals;

-- aggregate: grouped by integer
SELECT qty, count(*), sum(price), avg(weight) FROM item GROUP BY qty ORDER BY qty;

-- aggregate: grouped, no order (unordered)
SELECT product_id, count(*), sum(qty), max(price) FROM item GROUP BY product_id;

-- aggregate: many groups
SELECT count(*), sum(n), max(s) FROM (SELECT order_id, count(*) AS n, sum(price) AS s FROM item GROUP BY order_id) AS g;

-- aggregate: many groups, rows in order
SELECT order_id, count(*), sum(price) FROM item GROUP BY order_id ORDER BY order_id LIMIT 300;

-- aggregate: grouped by two
SELECT status, customer_id % 3, count(*), sum(total) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;

-- aggregate: grouped by text
SELECT kind, count(*), sum(amount) FROM event GROUP BY kind ORDER BY kind;

-- aggregate: grouped by an expression
SELECT date_trunc('month', at), count(*), min(id), max(id) FROM event GROUP BY 1 ORDER BY 1;

-- aggregate: grouped by a boolean and NULL
SELECT b, count(*), sum(i4) FROM vals GROUP BY b ORDER BY b NULLS FIRST;

-- aggregate: grouped by an enum
SELECT e, count(*), avg(i2) FROM vals GROUP BY e ORDER BY e;

-- aggregate: grouped by numeric
SELECT n, count(*) FROM vals WHERE n < 3 GROUP BY n ORDER BY n;

-- aggregate: grouped by array
SELECT ai, count(*) FROM vals GROUP BY ai ORDER BY ai NULLS FIRST;

-- aggregate: grouped by composite
SELECT comp, count(*) FROM vals GROUP BY comp ORDER BY comp;

-- aggregate: grouped by jsonb
SELECT attrs -> 'deep', count(*), sum(credit) FROM customer GROUP BY 1 ORDER BY 1;

-- aggregate: grouped by interval
SELECT iv, count(*) FROM vals WHERE id % 9 = 0 GROUP BY iv ORDER BY iv NULLS FIRST;

-- aggregate: grouped by range
SELECT r4, count(*) FROM vals GROUP BY r4 ORDER BY r4;

-- aggregate: grouped by uuid (unordered)
SELECT u, count(*) FROM vals WHERE id < 300 GROUP BY u;

-- aggregate: grouped by a key and what depends on it
SELECT c.id, c.name, c.joined, count(o.id) FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id
	WHERE c.id < 200 GROUP BY c.id ORDER BY c.id;

-- aggregate: HAVING
SELECT customer_id, count(*), sum(total) FROM orders GROUP BY customer_id HAVING count(*) > 7 ORDER BY customer_id;

-- aggregate: HAVING without GROUP BY
SELECT sum(total) FROM orders HAVING count(*) > 100;

-- aggregate: HAVING that is false
SELECT sum(total) FROM orders HAVING count(*) > 100000;

-- aggregate: FILTER
SELECT count(*) FILTER (WHERE qty > 5), sum(price) FILTER (WHERE line = 0), max(weight) FILTER (WHERE qty = 100) FROM item;

-- aggregate: FILTER, grouped
SELECT status, count(*) FILTER (WHERE total > 5000), count(*) FILTER (WHERE ship_to IS NULL) FROM orders GROUP BY status ORDER BY status;

-- aggregate: DISTINCT inside
SELECT count(DISTINCT customer_id), sum(DISTINCT customer_id), count(DISTINCT status) FROM orders;

-- aggregate: DISTINCT inside, grouped
SELECT qty, count(DISTINCT product_id), count(DISTINCT price) FROM item GROUP BY qty ORDER BY qty;

-- aggregate: array_agg in order
SELECT customer_id, array_agg(id ORDER BY id) FROM orders WHERE customer_id < 100 GROUP BY customer_id ORDER BY customer_id;

-- aggregate: array_agg, sorted afterwards
SELECT status, (SELECT array_agg(x ORDER BY x) FROM unnest(a) AS x) FROM
	(SELECT status, array_agg(id) AS a FROM orders WHERE id % 50 = 0 GROUP BY status) AS s ORDER BY status;

-- aggregate: array_agg, lengths
SELECT qty, cardinality(array_agg(price)), cardinality(array_agg(weight)) FROM item GROUP BY qty ORDER BY qty;

-- aggregate: array_agg of arrays
SELECT cardinality(array_agg(tags)), array_ndims(array_agg(tags)) FROM orders WHERE tags IS NOT NULL;

-- aggregate: string_agg in order
SELECT status, string_agg(id::text, ',' ORDER BY id DESC) FROM orders WHERE id % 97 = 0 GROUP BY status ORDER BY status;

-- aggregate: string_agg, length
SELECT length(string_agg(name, ';')), length(string_agg(note, '')) FROM customer;

-- aggregate: string_agg of bytea, length
SELECT octet_length(string_agg(ba, '\x00')) FROM vals;

-- aggregate: string_agg DISTINCT
SELECT string_agg(DISTINCT kind, '/' ORDER BY kind) FROM event;

-- aggregate: json_agg in order
SELECT status, json_agg(id ORDER BY id) FROM orders WHERE id < 60 GROUP BY status ORDER BY status;

-- aggregate: jsonb_object_agg
SELECT jsonb_object_agg(id, name) FROM category;

-- aggregate: jsonb_agg of rows
SELECT jsonb_agg(to_jsonb(r) ORDER BY r.id) FROM region AS r;

-- aggregate: ordered-set percentile
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY weight), percentile_disc(0.25) WITHIN GROUP (ORDER BY price),
	percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY qty) FROM item;

-- aggregate: ordered-set, grouped
SELECT status, percentile_disc(0.5) WITHIN GROUP (ORDER BY total) FROM orders GROUP BY status ORDER BY status;

-- aggregate: mode of one winner
SELECT mode() WITHIN GROUP (ORDER BY k) FROM skew;

-- aggregate: hypothetical set
SELECT rank(500) WITHIN GROUP (ORDER BY v), dense_rank(500) WITHIN GROUP (ORDER BY v), cume_dist(500) WITHIN GROUP (ORDER BY v) FROM skew;

-- aggregate: own, partial
SELECT spread(v), total(v) FROM skew;

-- aggregate: own, partial and grouped
SELECT k % 10, spread(v), total(v::numeric / 4) FROM skew GROUP BY 1 ORDER BY 1;

-- aggregate: own, not partial
SELECT whole_spread(v), count(*) FROM skew WHERE k > 0;

-- aggregate: own, not partial and grouped
SELECT k % 7, whole_spread(v) FROM skew GROUP BY 1 ORDER BY 1;

-- aggregate: arguments in order
SELECT spread(v ORDER BY id), sum(v ORDER BY v DESC) FROM skew;

-- aggregate: same one twice
SELECT sum(v), sum(v) + 1, sum(v) * 2, count(*), count(*) FROM skew;

-- aggregate: states shared by two
SELECT sum(n), avg(n), sum(n) FILTER (WHERE b) FROM vals;

-- aggregate: of a case
SELECT sum(CASE WHEN qty > 5 THEN price ELSE 0 END), count(CASE WHEN qty = 1 THEN 1 END) FROM item;

-- aggregate: of an aggregate
SELECT max(n), min(n), avg(n) FROM (SELECT count(*) AS n FROM item GROUP BY product_id) AS s;

-- aggregate: three levels
SELECT avg(s) FROM (SELECT qty, sum(n) AS s FROM (SELECT qty, line, count(*) AS n FROM item GROUP BY qty, line) AS a GROUP BY qty) AS b;

-- aggregate: by hash only
SET enable_sort = off;
SELECT product_id, count(*) FROM item GROUP BY product_id ORDER BY product_id LIMIT 30;
SELECT count(*) FROM (SELECT DISTINCT product_id, qty FROM item) AS s;
RESET enable_sort;

-- aggregate: by sorting only
SET enable_hashagg = off;
SELECT product_id, count(*), sum(price) FROM item GROUP BY product_id ORDER BY product_id LIMIT 30;
SELECT order_id % 50, line, max(price) FROM item GROUP BY 1, 2 ORDER BY 1, 2;
RESET enable_hashagg;

-- aggregate: hash that spills
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SELECT count(*), sum(s), sum(n) FROM (SELECT order_id, sum(price) AS s, count(*) AS n FROM item GROUP BY order_id) AS g;
SELECT count(*) FROM (SELECT DISTINCT order_id, price FROM item) AS g;
RESET work_mem;
RESET hash_mem_multiplier;

-- aggregate: GROUPING SETS
SELECT status, customer_id % 2 AS odd, count(*), sum(total), grouping(status, customer_id % 2)
	FROM orders GROUP BY GROUPING SETS ((status), (customer_id % 2), (status, customer_id % 2), ())
	ORDER BY 5, 1, 2;

-- aggregate: ROLLUP
SELECT qty, line, count(*), sum(price) FROM item GROUP BY ROLLUP (qty, line) ORDER BY qty NULLS FIRST, line NULLS FIRST;

-- aggregate: CUBE
SELECT active, category_id % 3 AS c, count(*), sum(price) FROM product GROUP BY CUBE (1, 2) ORDER BY 1 NULLS FIRST, 2 NULLS FIRST, 3;

-- aggregate: GROUPING SETS of many rows
SELECT count(*), sum(n) FROM (SELECT product_id, qty, count(*) AS n FROM item GROUP BY GROUPING SETS (product_id, qty, ())) AS s;

-- aggregate: GROUP BY DISTINCT
SELECT qty, line, count(*) FROM item GROUP BY DISTINCT ROLLUP (qty), ROLLUP (qty, line) ORDER BY 1, 2, 3;

-- aggregate: empty grouping set of no rows
SELECT qty, count(*) FROM item WHERE qty > 50 GROUP BY GROUPING SETS ((qty), ());

-- aggregate: ordered by aggregate
SELECT product_id, sum(qty * price) AS s FROM item GROUP BY product_id ORDER BY s DESC, product_id LIMIT 25;

-- aggregate: min and max by index
SELECT min(ordered), max(ordered) FROM orders;

-- aggregate: min by index, with a filter
SELECT min(total) FROM orders WHERE status = 'paid' AND total > 100;

-- aggregate: over a join, grouped on the inner side
SELECT p.name, count(*), sum(i.qty) FROM item AS i JOIN product AS p ON p.id = i.product_id GROUP BY p.name ORDER BY p.name COLLATE "C";

-- aggregate: partial, of wide states
SELECT sum(i8 * 1000000000000::numeric), avg(i8 * 99999999999999999999::numeric) FROM vals;

-- aggregate: any row of a group is the same
SELECT order_id, min(s), max(s) FROM (SELECT order_id, sum(price) OVER (PARTITION BY order_id) AS s FROM item WHERE order_id < 50) AS w GROUP BY order_id ORDER BY order_id;

-- aggregate: of two arguments
SELECT regr_count(qty, price), regr_avgx(qty, line), regr_avgy(qty, line) FROM item;
