-- type: every column (unordered)
SELECT * FROM vals WHERE id % 20 = 0;

-- type: every column in order
SELECT * FROM vals ORDER BY id DESC LIMIT 60;

-- type: counts of values that are not NULL
SELECT count(b), count(i2), count(i4), count(i8), count(f4), count(f8), count(n), count(t), count(vc), count(c), count(ba), count(d),
	count(tm), count(ts), count(tz), count(iv), count(u), count(ip), count(net), count(mac), count(bt), count(vb), count(m), count(js),
	count(jb), count(pt), count(r4), count(r8), count(dom), count(e), count(comp), count(ai), count(at), count(ac), count(ad) FROM vals;

-- type: integers at their ends
SELECT max(i8) + (9223372036854775807 - max(i8)), min(-i8), sum(i2::int8 << 40) FROM vals;

-- type: integers mixed
SELECT count(*), sum(i2 * i4), sum(i4 % nullif(i2, 0)), sum(i8 / 1000000007) FROM vals WHERE i2 <> 0;

-- type: floats, text and special values
SELECT f8, f8 / 8, CASE WHEN id % 2 = 0 THEN 'NaN'::float8 WHEN id % 3 = 0 THEN '-Infinity' ELSE f8 END FROM vals WHERE id < 120 ORDER BY id;

-- type: floats to text
SELECT max(f4::text COLLATE "C"), max((f8 * 0.1)::text COLLATE "C"), min((f4 / 3)::text COLLATE "C") FROM vals;

-- type: NaN and infinity in aggregates
SELECT sum(x), max(x), min(x) FROM (SELECT CASE WHEN id = 400 THEN 'Infinity'::float8 ELSE f8 END AS x FROM vals) AS s;

-- type: numeric scales
SELECT sum(n * 1.000), max(round(n, 2)), sum(trunc(n)), min(n / 3) FROM vals;

-- type: numeric NaN
SELECT sum(x), max(x), min(x), count(x) FROM (SELECT CASE WHEN id % 400 = 1 THEN 'NaN' ELSE n END AS x FROM vals) AS s;

-- type: text functions
SELECT count(*), sum(length(t)), max(upper(vc) COLLATE "C"), min(lpad(c, 8, '-') COLLATE "C"), count(DISTINCT left(t, 1)) FROM vals;

-- type: char and its blanks
SELECT c, count(*), max(octet_length(c)) FROM vals WHERE c = 'c3' OR c < 'c2 ' GROUP BY c ORDER BY c;

-- type: LIKE, ILIKE and regular expressions
SELECT count(*) FILTER (WHERE t LIKE 'a%'), count(*) FILTER (WHERE t ILIKE '%FF%'), count(*) FILTER (WHERE t ~ '^[0-9]{3}'), count(*) FILTER (WHERE t SIMILAR TO '(0|1)%') FROM vals;

-- type: bytea
SELECT count(*), sum(get_byte(ba, 3)), max(ba::text COLLATE "C"), count(DISTINCT ba) FROM vals;

-- type: bytea escaped
SET bytea_output = escape;
SELECT id, ba FROM vals WHERE id < 40 ORDER BY id;
SELECT max(ba::text COLLATE "C") FROM vals;
RESET bytea_output;

-- type: dates in another style
SET DateStyle = 'SQL, DMY';
SELECT id, d, ts, tz FROM vals WHERE id % 30 = 1 ORDER BY id;
SELECT max(d::text COLLATE "C"), min(ts::text COLLATE "C") FROM vals;
SELECT count(*) FROM vals WHERE d = '03/12/2000'::text::date;
RESET DateStyle;

-- type: dates in a style from a function's worker
SET DateStyle = 'Postgres, MDY';
SELECT count(*), max(setting_of('DateStyle')), max(day_text(d) COLLATE "C"), max(d::text COLLATE "C") FROM vals;
RESET DateStyle;

-- type: time zones
SET TimeZone = 'Europe/Berlin';
SELECT id, tz, tz::timestamp, date_trunc('day', tz) FROM vals WHERE tz BETWEEN '2001-03-24' AND '2001-03-27' ORDER BY id;
SELECT date_trunc('month', tz), count(*) FROM vals GROUP BY 1 ORDER BY 1;
SELECT max(tz::text COLLATE "C"), count(*) FILTER (WHERE extract(hour FROM tz) < 3) FROM vals;
RESET TimeZone;

-- type: another time zone
SET TimeZone = 'America/St_Johns';
SELECT min(tz), max(tz::timestamp), max(tz::text COLLATE "C"), count(DISTINCT tz::date) FROM vals;
SELECT max(setting_in_plpgsql('TimeZone')), min(setting_of('TimeZone')) FROM vals;
RESET TimeZone;

-- type: intervals in another style
SET IntervalStyle = 'iso_8601';
SELECT id, iv FROM vals WHERE id % 50 = 3 ORDER BY id;
SELECT max(iv::text COLLATE "C"), sum(iv) FROM vals;
RESET IntervalStyle;

-- type: extra_float_digits
SET extra_float_digits = -5;
SELECT id, f8 / 7, f4 / 3 FROM vals WHERE id % 60 = 1 ORDER BY id;
SELECT max((f8 / 7)::text COLLATE "C"), count(DISTINCT (f8 / 7)::text) FROM vals;
RESET extra_float_digits;

-- type: settings that are set locally
BEGIN;
SET LOCAL DateStyle = 'German';
SET LOCAL TimeZone = 'Asia/Kathmandu';
SELECT max(d::text COLLATE "C"), max(tz::text COLLATE "C"), max(setting_of('TimeZone')) FROM vals;
COMMIT;
SELECT max(d::text COLLATE "C"), max(setting_of('DateStyle')) FROM vals;

-- type: settings that a rollback takes back
BEGIN;
SET TimeZone = 'Asia/Tokyo';
SELECT max(tz::text COLLATE "C") FROM vals;
ROLLBACK;
SELECT max(setting_of('TimeZone')), max(tz::text COLLATE "C") FROM vals;

-- type: settings within a savepoint
BEGIN;
SAVEPOINT a;
SET LOCAL IntervalStyle = 'sql_standard';
SELECT max(iv::text COLLATE "C") FROM vals;
ROLLBACK TO a;
SELECT max(iv::text COLLATE "C") FROM vals;
COMMIT;

-- type: dates and arithmetic
SELECT count(*), max(d + 30), min(ts - interval '1 month'), max(age(ts, timestamp '2001-01-01')), sum(d - date '2000-01-01') FROM vals;

-- type: extract
SELECT extract(dow FROM ts), count(*), min(extract(epoch FROM ts)) FROM vals GROUP BY 1 ORDER BY 1;

-- type: now is the same everywhere
SELECT count(DISTINCT now()), count(DISTINCT statement_timestamp()), count(DISTINCT transaction_timestamp()), bool_and(now() <= clock_timestamp()) FROM orders;

-- type: uuid and network
SELECT count(DISTINCT u), max(u::text), count(*) FILTER (WHERE ip << '10.5.0.0/16'), max(host(ip)::inet), max(net), count(DISTINCT mac) FROM vals;

-- type: bits
SELECT bt & B'10101010', count(*) FROM vals GROUP BY 1 ORDER BY 1;

-- type: money
SELECT sum(m), max(m), count(*) FILTER (WHERE m > 100::money) FROM vals;

-- type: json
SELECT js ->> 'x', count(*), sum((js ->> 'id')::int) FROM vals GROUP BY 1 ORDER BY 1;

-- type: jsonb paths
SELECT jb #>> '{arr,2}', count(*), count(*) FILTER (WHERE jb @? '$.arr[*] ? (@ == 1)') FROM vals GROUP BY 1 ORDER BY 1;

-- type: jsonb values
SELECT jb -> 'arr', count(*), max((jb -> 'id')::int) FROM vals GROUP BY 1 ORDER BY 1;

-- type: jsonb of rows
SELECT count(*), max(to_jsonb(o)::text COLLATE "C"), sum((to_jsonb(o) ->> 'total')::numeric) FROM orders AS o WHERE id % 4 = 0;

-- type: jsonb changed
SELECT id, attrs || '{"n": 0}', attrs - 'tags', jsonb_set(attrs, '{deep,k}', '"x"') FROM customer WHERE id % 100 = 1 ORDER BY id;

-- type: geometry
SELECT count(*), sum(pt[0]), max(pt <-> point '(0,0)'), count(*) FILTER (WHERE pt <@ circle '((5,5),3)') FROM vals;

-- type: ranges
SELECT count(*) FILTER (WHERE r4 @> 7), count(*) FILTER (WHERE isempty(r4)), sum(upper(r4) - lower(r4)), count(DISTINCT r4) FROM vals;

-- type: multiranges
SELECT r8, count(*) FROM vals GROUP BY r8 ORDER BY r8 NULLS FIRST;

-- type: multirange operators
SELECT count(*) FILTER (WHERE parts @> 12), count(*) FILTER (WHERE parts && int4range(48, 52)), count(DISTINCT parts) FROM booking;

-- type: domains
SELECT dom, count(*), sum(dom + 1) FROM vals GROUP BY dom ORDER BY dom;

-- type: domain over text and its arrays
SELECT count(*), max(code COLLATE "C") FROM customer WHERE code::text LIKE 'B%';
SELECT parts[2], count(*), sum(cardinality(parts)) FROM product GROUP BY 1 ORDER BY 1;

-- type: casts to a domain
SELECT sum(qty::int::positive), count((price::int % 9 + 1)::positive) FROM item;

-- type: composites
SELECT (comp).label, count(*), sum((comp).w), count(DISTINCT comp) FROM vals GROUP BY 1 ORDER BY 1;

-- type: composites compared
SELECT count(*) FROM product WHERE size < ROW(10, 5, 'l2')::dims AND size IS NOT NULL;

-- type: composites made
SELECT id, ROW(id, id + 1, 'm')::dims AS made FROM skew WHERE k = 7 ORDER BY id;

-- type: arrays of composites
SELECT ac, count(*), max((ac[1]).w) FROM vals GROUP BY ac ORDER BY ac;

-- type: arrays
SELECT count(*) FILTER (WHERE 2 = ANY (ai)), sum(ai[1]), max(array_length(at, 1)), count(*) FILTER (WHERE at[1:2] = ARRAY['a1', NULL]) FROM vals;

-- type: arrays made and taken apart
SELECT x, count(*) FROM (SELECT unnest(ai || i2::int) AS x FROM vals WHERE id % 3 = 0) AS s GROUP BY x ORDER BY x;

-- type: arrays, positions and texts
SELECT count(*), max(array_to_string(tags, '-', '*') COLLATE "C"), sum(array_position(tags, 'x1')) FROM orders;

-- type: enums
SELECT e, count(*), max(e::text COLLATE "C") FROM vals WHERE e > 'basic' GROUP BY e ORDER BY e DESC;

-- type: enums by their range
SELECT status, enum_last(status), count(*) FROM orders WHERE status = ANY (enum_range('new'::status, 'shipped')) GROUP BY status ORDER BY status;

-- type: anonymous records (unordered)
SELECT ROW(id, status) FROM orders WHERE id % 400 = 0;

-- type: anonymous records, counted
SELECT count(r), count(DISTINCT r) FROM (SELECT ROW(qty, line) AS r FROM item) AS s;

-- type: anonymous records in order
SELECT r FROM (SELECT ROW(qty, line, product_id) AS r FROM item WHERE order_id < 100) AS s ORDER BY r;

-- type: anonymous records of different types
SELECT CASE WHEN id % 2 = 0 THEN ROW(id, 'x'::text) ELSE ROW(id, 'y'::text) END FROM skew WHERE id < 40 ORDER BY id;

-- type: records in arrays
SELECT max(ARRAY[ROW(qty, line)]), min(ROW(product_id, order_id, line)::text) FROM (SELECT * FROM item OFFSET 0) AS s;

-- type: records out of a function
SELECT count(*), sum((j).value::int) FROM (SELECT jsonb_each_text('{"a": 1, "b": 2}') AS j FROM orders) AS s;

-- type: regclass and names
SELECT tableoid::regclass::text, 'orders'::regclass::oid = tableoid, count(*) FROM orders GROUP BY 1, 2;

-- type: bpchar and varchar as keys
SELECT count(*), count(DISTINCT a.vc) FROM vals AS a JOIN vals AS b ON a.vc = b.vc AND b.id < 60;

-- collation: "C"
SELECT c, count(*) FROM word WHERE c > 'a' GROUP BY c ORDER BY c LIMIT 150;

-- collation: of another provider
SELECT icu, count(*), min(id) FROM word WHERE icu BETWEEN 'apple' AND 'été5' GROUP BY icu ORDER BY icu;

-- collation: minimum and maximum
SELECT min(c), max(c), min(icu), max(icu), min(plain), max(plain) FROM word;

-- collation: ignoring case
SELECT count(*) FROM word WHERE ci = 'APPLE12' OR ci = 'Ete7';

-- collation: ignoring case, grouped
SELECT count(*), sum(n), max(n) FROM (SELECT count(*) AS n FROM word GROUP BY ci) AS s;

-- collation: ignoring case, joined
SELECT count(*) FROM word AS a JOIN word AS b ON a.ci = b.ci AND b.id < 200;

-- collation: join by merging
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), min(a.icu) FROM word AS a JOIN word AS b ON a.icu = b.icu AND b.id % 10 = 1;
RESET enable_hashjoin;
RESET enable_nestloop;

-- collation: given in the query
SELECT plain, lower(plain COLLATE words), initcap(plain COLLATE "C") FROM word WHERE id < 400 ORDER BY plain COLLATE words DESC, id LIMIT 70;

-- collation: index
SET enable_seqscan = off;
SELECT id, c FROM word WHERE c >= 'co' AND c < 'd' ORDER BY c, id LIMIT 80;
SELECT id, icu FROM word WHERE icu >= 'z' ORDER BY icu, id LIMIT 80;
RESET enable_seqscan;

-- wide: lengths
SELECT count(*), sum(length(big)), sum(octet_length(raw)), sum(octet_length(bytes)) FROM wide;

-- wide: parts
SELECT count(*), max(substr(big, 5000, 20)), max(substr(raw, 3100, 9) COLLATE "C"), max(substr(bytes, 2000, 8)::text COLLATE "C") FROM wide;

-- wide: whole values (unordered)
SELECT id, big FROM wide WHERE id % 60 = 0;

-- wide: whole values in order
SELECT id, raw, bytes FROM wide WHERE id % 50 < 2 ORDER BY raw COLLATE "C", id;

-- wide: as keys
SELECT count(*), count(DISTINCT big), count(DISTINCT bytes) FROM wide;

-- wide: sorted and hashed
SELECT id, md5(big), md5(bytes) FROM wide ORDER BY big COLLATE "C", id LIMIT 50;

-- wide: joined by value
SELECT count(*) FROM wide AS a JOIN wide AS b ON a.raw = b.raw;

-- wide: minimum and maximum
SELECT md5(min(big COLLATE "C")), md5(max(raw COLLATE "C")), md5(max(bytes::text COLLATE "C")) FROM wide;

-- wide: columns added later
SELECT late, later, count(*) FROM wide GROUP BY 1, 2;

-- wide: aggregated to one value
SELECT md5(string_agg(big, '' ORDER BY id)), length(string_agg(raw, '')) FROM wide WHERE id <= 60;

-- null: comparisons
SELECT count(*) FILTER (WHERE a > 5), count(*) FILTER (WHERE NOT a > 5), count(*) FILTER (WHERE (a > 5) IS UNKNOWN), count(*) FILTER (WHERE a IS DISTINCT FROM 100) FROM hole;

-- null: coalesce and nullif
SELECT sum(coalesce(a, -1)), count(nullif(a, 100)), sum(greatest(a, id)), max(least(b, 'b3')) FROM hole;

-- null: everywhere in a row (unordered)
SELECT id, a, b, c, d FROM hole WHERE id % 70 = 0;

-- null: rows that are NULL
SELECT count(*) FILTER (WHERE h IS NULL), count(*) FILTER (WHERE h IS NOT NULL), count(*) FILTER (WHERE ROW(a, b) IS NULL) FROM hole AS h;

-- null: in IN
SELECT count(*) FILTER (WHERE a IN (10, NULL)), count(*) FILTER (WHERE (a NOT IN (10, NULL)) IS NULL) FROM hole;

-- null: grouped
SELECT a IS NULL, b, count(*) FROM hole GROUP BY 1, 2 ORDER BY 1, 2;

-- generated: columns
SELECT y, z, count(*) FROM derived WHERE y > 100 GROUP BY 1, 2 ORDER BY 1;

-- generated: join
SELECT count(*), sum(d.y) FROM derived AS d JOIN skew AS s ON s.k = d.y;
