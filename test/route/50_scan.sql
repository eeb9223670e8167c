-- scan: sequential with a filter
SELECT count(*), sum(id) FROM orders WHERE total BETWEEN 1000 AND 2000 AND status <> 'new';

-- scan: all columns (unordered)
SELECT * FROM orders WHERE id % 53 = 0;

-- scan: of system columns
SELECT count(*), count(DISTINCT tableoid), min(tableoid::regclass::text), count(DISTINCT xmin::text) FROM orders;

-- scan: index
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*), sum(total) FROM orders WHERE id BETWEEN 1000 AND 6000;
SELECT count(*), sum(price) FROM item WHERE product_id < 300;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- scan: index, backward and in order
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT id, total FROM orders WHERE id > 2000 ORDER BY id DESC LIMIT 80;
SELECT status, total, id FROM orders WHERE status > 'new' ORDER BY status, total, id LIMIT 60;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- scan: index, with a list
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*), sum(v) FROM skew WHERE k IN (1, 3, 5, 7, 499, 1000);
SELECT count(*) FROM skew WHERE k = ANY (ARRAY[0, NULL, 11]);
RESET enable_seqscan;
RESET enable_bitmapscan;

-- scan: index, row comparison
SET enable_seqscan = off;
SELECT count(*), min(id) FROM orders WHERE (status, total) > ('paid', 5000.00);
RESET enable_seqscan;

-- scan: index only
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*), sum(id) FROM orders WHERE id > 100;
SELECT count(*), count(DISTINCT order_id) FROM item WHERE order_id BETWEEN 10 AND 5000;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- scan: index for IS NULL and IS NOT NULL
SET enable_seqscan = off;
SELECT count(*) FROM hole WHERE a IS NULL;
SELECT count(*), sum(a) FROM hole WHERE a IS NOT NULL;
RESET enable_seqscan;

-- scan: bitmap
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*), sum(total) FROM orders WHERE customer_id < 700;
SELECT count(*), sum(price) FROM item WHERE product_id BETWEEN 100 AND 250 AND qty > 2;
RESET enable_seqscan;
RESET enable_indexscan;

-- scan: bitmap and
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*), sum(id) FROM orders WHERE customer_id < 500 AND status = 'paid' AND total > 100 AND ordered < '2021-10-01';
RESET enable_seqscan;
RESET enable_indexscan;

-- scan: bitmap or
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*), sum(id) FROM orders WHERE customer_id = 14 OR customer_id BETWEEN 100 AND 300 OR id < 50;
RESET enable_seqscan;
RESET enable_indexscan;

-- scan: bitmap that becomes lossy
SET enable_seqscan = off;
SET enable_indexscan = off;
SET work_mem = '64kB';
SELECT count(*), sum(total) FROM orders WHERE customer_id > 5;
SELECT count(*) FROM reading WHERE at > '2024-01-02' AND val > 3;
RESET enable_seqscan;
RESET enable_indexscan;
RESET work_mem;

-- scan: bitmap below a join
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*), sum(i.price) FROM item AS i JOIN orders AS o ON o.id = i.order_id WHERE o.customer_id BETWEEN 10 AND 400;
RESET enable_seqscan;
RESET enable_indexscan;

-- scan: TID
SELECT id, total FROM orders WHERE ctid IN ('(0,1)', '(1,5)', '(3,2)') ORDER BY id;

-- scan: TID range
SELECT count(*), min(id), max(id) FROM orders WHERE ctid >= '(5,0)' AND ctid < '(20,0)';

-- scan: ctid read by all
SELECT count(DISTINCT ctid), min(ctid), max(ctid) FROM orders;

-- scan: join on ctid
SELECT count(*) FROM orders AS a JOIN orders AS b ON a.ctid = b.ctid WHERE a.id % 2 = 0;

-- scan: GIN of words
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM doc WHERE words @@ 'word3 & term7';
SELECT id FROM doc WHERE words @@ 'rare5 | (word1 & term2)' ORDER BY id;
RESET enable_seqscan;

-- scan: GIN with an order that ties break
SELECT id, ts_rank(words, 'word3 | term7') FROM doc WHERE words @@ 'word3 | term7' ORDER BY 2 DESC, id LIMIT 40;

-- scan: text search without an index
SET enable_bitmapscan = off;
SELECT count(*) FROM doc WHERE to_tsvector('simple', body) @@ to_tsquery('simple', 'term5 & !word2');
RESET enable_bitmapscan;

-- scan: GIN of arrays
SET enable_seqscan = off;
SELECT count(*), sum(total) FROM orders WHERE tags @> ARRAY['t3', 'x1'];
SELECT count(*) FROM orders WHERE tags && ARRAY['t7'];
RESET enable_seqscan;

-- scan: GIN of jsonb
SET enable_seqscan = off;
SELECT count(*) FROM customer WHERE attrs @> '{"n": 7}';
SELECT count(*) FROM customer WHERE attrs ? 'tags' AND attrs @> '{"deep": {"k": 2}}';
RESET enable_seqscan;

-- scan: GiST of points
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM place WHERE at <@ box '((10,10),(40,60))';
SELECT id, at <-> point '(50,40)' FROM place ORDER BY 2, id LIMIT 30;
RESET enable_seqscan;

-- scan: GiST of boxes
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM place WHERE area && box '((20,20),(30,30))';
RESET enable_seqscan;

-- scan: SP-GiST, partial index
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM place WHERE kind = 2 AND at <@ box '((0,0),(50,50))';
RESET enable_seqscan;

-- scan: GiST of ranges
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM booking WHERE during && tsrange('2024-02-01', '2024-03-01');
SELECT count(*) FROM product WHERE span @> 45;
RESET enable_seqscan;

-- scan: join by overlap
SELECT count(*) FROM booking AS a JOIN booking AS b ON a.during && b.during AND a.room = b.room AND a.id < b.id WHERE a.id < 200;

-- scan: BRIN
SET enable_seqscan = off;
SELECT count(*), sum(val) FROM reading WHERE at BETWEEN '2024-01-03' AND '2024-01-05 12:00';
RESET enable_seqscan;

-- scan: hash index
SET enable_seqscan = off;
SELECT count(*), sum(val) FROM reading WHERE sensor = 7;
RESET enable_seqscan;

-- scan: one time filter
SELECT count(*) FROM orders WHERE current_setting('server_version_num')::int > 0;

-- scan: false
SELECT count(*) FROM orders WHERE 1 = 0;

-- scan: empty
SELECT * FROM nothing;

-- scan: unlogged
SELECT v, count(*) FROM scratch GROUP BY v ORDER BY v;

-- scan: materialized view
SELECT status, count(*), sum(n), sum(total) FROM status_sum GROUP BY status ORDER BY status;

-- scan: ONLY of a parent
SELECT count(*), sum(id) FROM ONLY vehicle;

-- scan: inheritance
SELECT count(*), sum(id), count(label) FROM vehicle;

-- scan: inheritance, which table
SELECT tableoid::regclass, count(*), min(id) FROM vehicle GROUP BY tableoid ORDER BY 1;

-- scan: inheritance, rows in order
SELECT id, wheels, label FROM vehicle ORDER BY id DESC LIMIT 70;

-- scan: inheritance, one child
SELECT count(*), sum(load) FROM truck WHERE axles = 2;

-- scan: child as whole row
SELECT count(*), max(v.label COLLATE "C"), count(v.*) FROM vehicle AS v WHERE wheels > 3;

-- scan: inheritance, parallel append off
SET enable_parallel_append = off;
SELECT count(*), sum(id), count(label) FROM vehicle;
RESET enable_parallel_append;

-- partition: all
SELECT count(*), sum(amount) FROM event;

-- partition: pruned by constants
SELECT count(*), sum(amount) FROM event WHERE at >= '2022-02-10' AND at < '2022-03-10';

-- partition: pruned to one
SELECT kind, count(*) FROM event WHERE at >= '2022-03-05' AND at < '2022-03-20' GROUP BY kind ORDER BY kind;

-- partition: pruned to none
SELECT count(*) FROM bucket WHERE k = 3 AND k = 4;

-- partition: pruned at start by an init plan
SELECT count(*), sum(amount) FROM event WHERE at >= (SELECT max(at) - interval '20 days' FROM event_3) AND at < '2022-05-01';

-- partition: pruned at run time by a join
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*), sum(b.v) FROM region AS r JOIN bucket AS b ON b.k = r.id * 3;
RESET enable_hashjoin;
RESET enable_mergejoin;

-- partition: in order
SELECT id, at FROM event ORDER BY at, id LIMIT 130;

-- partition: in order, by merging
SET enable_seqscan = off;
SELECT kind, id, amount FROM event ORDER BY kind, id LIMIT 90;
RESET enable_seqscan;

-- partition: which one
SELECT tableoid::regclass, count(*), min(id), max(id) FROM event GROUP BY tableoid ORDER BY tableoid::regclass::text;

-- partition: columns in another order
SELECT id, at, kind, payload, amount FROM event WHERE at >= '2022-04-20' AND at < '2022-04-24' ORDER BY id;

-- partition: list
SELECT region, count(*), sum(val), sum(quality) FROM metric GROUP BY region ORDER BY region;

-- partition: list with NULL
SELECT count(*), sum(val) FROM metric WHERE region IS NULL;

-- partition: two levels
SELECT sensor, count(*), max(taken) FROM metric WHERE region = 'south' GROUP BY sensor ORDER BY sensor;

-- partition: list of lists
SELECT count(*), sum(val) FROM metric WHERE region IN ('arctic', 'west') AND sensor < 20;

-- partition: hash
SELECT count(*), sum(v) FROM bucket WHERE k IN (1, 2, 3, 77, 1400);

-- partition: partitionwise join
SET enable_partitionwise_join = on;
SELECT count(*), sum(b.v) FROM bucket AS b JOIN bucket_info AS i ON b.k = i.k;
SELECT b.k, b.v, i.info FROM bucket AS b JOIN bucket_info AS i ON b.k = i.k WHERE i.info = 'info 4' ORDER BY 1, 2;
RESET enable_partitionwise_join;

-- partition: partitionwise outer join
SET enable_partitionwise_join = on;
SELECT count(*), count(i.k), count(b.k) FROM bucket AS b FULL JOIN bucket_info AS i ON b.k = i.k;
SELECT count(*), count(i.info) FROM bucket AS b LEFT JOIN bucket_info AS i ON b.k = i.k;
RESET enable_partitionwise_join;

-- partition: partitionwise aggregate
SET enable_partitionwise_aggregate = on;
SELECT k, count(*), sum(v) FROM bucket GROUP BY k ORDER BY k LIMIT 100;
SELECT k % 7, count(*) FROM bucket GROUP BY 1 ORDER BY 1;
RESET enable_partitionwise_aggregate;

-- partition: both
SET enable_partitionwise_join = on;
SET enable_partitionwise_aggregate = on;
SELECT b.k, count(*), sum(b.v), min(i.info) FROM bucket AS b JOIN bucket_info AS i ON b.k = i.k GROUP BY b.k ORDER BY b.k LIMIT 60;
RESET enable_partitionwise_join;
RESET enable_partitionwise_aggregate;

-- partition: parallel append off
SET enable_parallel_append = off;
SELECT count(*), sum(amount) FROM event;
SELECT k % 5, count(*) FROM bucket GROUP BY 1 ORDER BY 1;
RESET enable_parallel_append;

-- partition: pruning off
SET enable_partition_pruning = off;
SELECT count(*), sum(amount) FROM event WHERE at >= '2022-02-10' AND at < '2022-03-10';
RESET enable_partition_pruning;

-- partition: whole rows
SELECT count(*), max(m::text) FROM metric AS m WHERE sensor = 3;

-- partition: semi join
SELECT count(*) FROM event AS e WHERE EXISTS (SELECT FROM metric AS m WHERE m.val = e.id);

-- partition: window
SELECT id, sum(amount) OVER (PARTITION BY kind ORDER BY at, id) FROM event WHERE id % 60 = 0 ORDER BY id;

-- partition: distinct
SELECT DISTINCT kind, date_trunc('month', at) FROM event ORDER BY 1, 2;

-- sample: BERNOULLI
SELECT count(*), sum(id) FROM orders TABLESAMPLE BERNOULLI (20) REPEATABLE (7);

-- sample: SYSTEM
SELECT count(*), sum(i.price) FROM item AS i TABLESAMPLE SYSTEM (40) REPEATABLE (3) JOIN orders AS o ON o.id = i.order_id;

-- sample: of partitions
SELECT count(*), sum(amount) FROM event TABLESAMPLE BERNOULLI (35.5) REPEATABLE (0.25);

-- sample: joined to a large one
SELECT count(*), sum(o.total) FROM customer AS c TABLESAMPLE BERNOULLI (50) REPEATABLE (1) JOIN orders AS o ON o.customer_id = c.id;
