-- What the queries here are asked of: small tables without anything random in
-- them, so that a wrong answer is the same one tomorrow.  All of it belongs to
-- role corpus.
--
-- Sums of floats are exact, as these are multiples of 1/4 or 1/8 and small;
-- numerics of one column have one scale: equal values have equal texts.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE ROLE corpus LOGIN;
CREATE ROLE tenant_a;
CREATE ROLE tenant_b;
GRANT tenant_a, tenant_b TO corpus;
CREATE SCHEMA corpus AUTHORIZATION corpus;
GRANT USAGE ON SCHEMA corpus TO tenant_a, tenant_b;
SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'en-x-icu') AS icu \gset
SET ROLE corpus;
SET search_path = corpus;
SET timezone = 'UTC';

\if :icu
CREATE COLLATION words (provider = icu, locale = 'en');
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
\else
CREATE COLLATION words FROM "C";
CREATE COLLATION nocase FROM "C";
\endif
CREATE TYPE tier AS ENUM ('basic', 'silver', 'gold');
CREATE TYPE status AS ENUM ('returned', 'new', 'paid', 'shipped');
CREATE TYPE dims AS (w int, h int, label text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]{2}-[0-9]+$');
CREATE DOMAIN codes AS code[];

-- A shop

CREATE TABLE region (id int PRIMARY KEY, name text NOT NULL, code code);
INSERT INTO region SELECT i, 'region ' || i, 'RG-' || i FROM generate_series(1, 12) AS i;

CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, region_id int,
	tier tier, credit numeric(12,2), note text, joined date, attrs jsonb, code code);
INSERT INTO customer
SELECT i, 'customer ' || md5(i::text), nullif(i % 14, 0), (enum_range(NULL::tier))[1 + i % 3],
	CASE WHEN i % 11 > 0 THEN (i * 37 % 9973) / 4.0 END, CASE WHEN i % 5 = 0 THEN 'note ' || i % 40 END,
	date '2020-01-01' + i % 1000,
	CASE WHEN i % 9 > 0 THEN jsonb_build_object('n', i % 50, 'tags', jsonb_build_array('a' || i % 3, 'b' || i % 7), 'deep', jsonb_build_object('k', i % 4)) END,
	chr(65 + i % 26) || 'X-' || i
FROM generate_series(1, 2000) AS i;
CREATE INDEX ON customer (region_id);
CREATE INDEX ON customer (joined, id);
CREATE INDEX customer_attrs ON customer USING gin (attrs);

CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int, ordered timestamptz NOT NULL,
	status status NOT NULL, total numeric(12,2), tags text[], ship_to text);
INSERT INTO orders
SELECT i, CASE WHEN i % 13 > 0 THEN i * 7 % 2100 END,
	timestamptz '2021-01-01 00:00+00' + i * interval '1 hour 7 minutes',
	(enum_range(NULL::status))[1 + i * 3 % 4], (i * 101 % 50021) / 4.0,
	CASE WHEN i % 6 > 0 THEN ARRAY['t' || i % 5, 't' || i % 8, 'x' || i % 2] END,
	CASE WHEN i % 3 = 0 THEN 'street ' || i % 100 END
FROM generate_series(1, 8000) AS i;
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (ordered);
CREATE INDEX ON orders (status, total);
CREATE INDEX orders_tags ON orders USING gin (tags);

CREATE TABLE category (id int PRIMARY KEY, parent_id int, name text);
INSERT INTO category SELECT i, nullif(i / 3, 0), 'category ' || i FROM generate_series(1, 80) AS i;

CREATE TABLE product (id int PRIMARY KEY, name text, category_id int, size dims,
	price numeric(10,2), span int4range, active bool, parts codes);
INSERT INTO product
SELECT i, 'product ' || i % 97, i % 90, CASE WHEN i % 7 > 0 THEN ROW(i % 20, i % 30, 'l' || i % 4)::dims END,
	(i * 13 % 997) / 4.0, int4range(i % 100, i % 100 + i % 40), i % 3 > 0,
	CASE WHEN i % 4 > 0 THEN ARRAY['AA-' || i, 'BB-' || i % 5]::codes END
FROM generate_series(1, 600) AS i;
CREATE INDEX ON product USING gist (span);
CREATE INDEX ON product (category_id);

CREATE TABLE item (order_id bigint, line int, product_id int, qty positive, price numeric(10,2),
	weight float8, discount float4, PRIMARY KEY (order_id, line));
INSERT INTO item
SELECT 1 + i / 2, i % 2, i * 11 % 650, 1 + i % 9, (i * 17 % 4001) / 4.0,
	CASE WHEN i % 10 > 0 THEN (i % 400) * 0.25 END, (i % 8) * 0.125
FROM generate_series(0, 15999) AS i;
CREATE INDEX ON item (product_id);

-- One key that has half of the rows, and one that nobody else has

CREATE TABLE skew (id int PRIMARY KEY, k int, v int);
INSERT INTO skew SELECT i, CASE WHEN i % 2 = 0 THEN 0 ELSE i % 500 END, i % 1000
FROM generate_series(1, 6000) AS i;
CREATE INDEX ON skew (k);

-- Partitions

CREATE TABLE event (id int, at timestamp NOT NULL, kind text, payload jsonb, amount bigint)
	PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (MINVALUE) TO ('2022-02-01');
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2022-02-01') TO ('2022-03-01');
CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM ('2022-03-01') TO ('2022-04-01');
CREATE TABLE event_4 (amount bigint, kind text, dropped int, payload jsonb, id int, at timestamp NOT NULL);
ALTER TABLE event_4 DROP dropped;
ALTER TABLE event ATTACH PARTITION event_4 FOR VALUES FROM ('2022-04-01') TO ('2022-05-01');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
INSERT INTO event
SELECT i, timestamp '2022-01-01' + i * interval '29 minutes', 'kind ' || i % 6,
	CASE WHEN i % 4 > 0 THEN jsonb_build_object('a', i % 10, 'b', 'x' || i % 3) END, i * 1000003::bigint % 99991
FROM generate_series(1, 8000) AS i;
CREATE INDEX ON event (at);
CREATE INDEX ON event (kind, id);

CREATE TABLE metric (region text, sensor int, taken date, val int, quality float8)
	PARTITION BY LIST (region);
CREATE TABLE metric_north PARTITION OF metric FOR VALUES IN ('north', 'arctic');
CREATE TABLE metric_south PARTITION OF metric FOR VALUES IN ('south') PARTITION BY HASH (sensor);
CREATE TABLE metric_south_0 PARTITION OF metric_south FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE metric_south_1 PARTITION OF metric_south FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE metric_none PARTITION OF metric FOR VALUES IN (NULL);
CREATE TABLE metric_rest PARTITION OF metric DEFAULT;
INSERT INTO metric
SELECT (ARRAY['north', 'south', 'arctic', 'east', NULL, 'west'])[1 + i % 6], i % 40,
	date '2023-01-01' + i % 200, i * 7 % 1009, (i % 64) * 0.25
FROM generate_series(1, 6000) AS i;
CREATE INDEX ON metric (sensor, taken);

CREATE TABLE bucket (k int, v int, t text) PARTITION BY HASH (k);
CREATE TABLE bucket_0 PARTITION OF bucket FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE bucket_1 PARTITION OF bucket FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE bucket_2 PARTITION OF bucket FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE bucket_3 PARTITION OF bucket FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO bucket SELECT i % 1500, i, 't' || i % 70 FROM generate_series(1, 6000) AS i;

CREATE TABLE bucket_info (k int, info text) PARTITION BY HASH (k);
CREATE TABLE bucket_info_0 PARTITION OF bucket_info FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE bucket_info_1 PARTITION OF bucket_info FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE bucket_info_2 PARTITION OF bucket_info FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE bucket_info_3 PARTITION OF bucket_info FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO bucket_info SELECT i, 'info ' || i % 31 FROM generate_series(0, 2000, 2) AS i;
CREATE UNIQUE INDEX ON bucket_info (k);

-- Inheritance

CREATE TABLE vehicle (id int PRIMARY KEY, wheels int, label text);
CREATE TABLE car (doors int) INHERITS (vehicle);
CREATE TABLE truck (load numeric(8,1), axles int) INHERITS (vehicle);
INSERT INTO vehicle SELECT i, i % 3, 'v' || i FROM generate_series(1, 1000) AS i;
INSERT INTO car SELECT i, 4, 'c' || i, i % 5 FROM generate_series(1001, 2500) AS i;
INSERT INTO truck SELECT i, 6, NULL, i / 10.0, i % 4 FROM generate_series(2501, 3500) AS i;
CREATE INDEX ON car (id);
CREATE INDEX ON truck (id);

-- Kinds of index

CREATE TABLE doc (id int PRIMARY KEY, body text,
	words tsvector GENERATED ALWAYS AS (to_tsvector('pg_catalog.simple', body)) STORED);
INSERT INTO doc
SELECT i, 'word' || i % 10 || ' term' || i % 33 || ' rare' || i % 700 || ' ' || md5(i::text)
FROM generate_series(1, 3000) AS i;
CREATE INDEX ON doc USING gin (words);

CREATE TABLE place (id int PRIMARY KEY, at point, area box, kind int);
INSERT INTO place
SELECT i, point(i % 100, i * 7 % 83), box(point(i % 100, i % 50), point(i % 100 + i % 9, i % 50 + i % 5)), i % 5
FROM generate_series(1, 3000) AS i;
CREATE INDEX ON place USING gist (at);
CREATE INDEX ON place USING gist (area);
CREATE INDEX ON place USING spgist (at) WHERE kind = 2;

CREATE TABLE reading (at timestamp, sensor int, val float8);
INSERT INTO reading
SELECT timestamp '2024-01-01' + i * interval '1 minute', i % 25, (i % 1000) * 0.25
FROM generate_series(1, 12000) AS i;
CREATE INDEX ON reading USING brin (at) WITH (pages_per_range = 4);
CREATE INDEX ON reading USING hash (sensor);

CREATE TABLE booking (id int PRIMARY KEY, room int, during tsrange, parts int4multirange);
INSERT INTO booking
SELECT i, i % 30, tsrange(timestamp '2024-01-01' + i * interval '90 minutes', timestamp '2024-01-01' + (i + i % 12) * interval '2 hours'),
	CASE WHEN i % 3 > 0 THEN int4multirange(int4range(i % 50, i % 50 + 5), int4range(i % 50 + 10, i % 50 + 12)) END
FROM generate_series(1, 2000) AS i;
CREATE INDEX ON booking USING gist (during);

-- Types

CREATE TABLE vals (id int PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric(20,4),
	t text, vc varchar(12), c char(6), ba bytea, d date, tm time, ts timestamp, tz timestamptz, iv interval,
	u uuid, ip inet, net cidr, mac macaddr, bt bit(8), vb varbit, m money, js json, jb jsonb, pt point,
	r4 int4range, r8 int8multirange, dom positive, e tier, comp dims, ai int[], at text[], ac dims[], ad code[]);
INSERT INTO vals
SELECT i,
	CASE WHEN i % 3 > 0 THEN i % 2 = 0 END, nullif(i % 101, 7), nullif(i * 31 % 5003, 17), CASE WHEN i % 4 > 0 THEN i * 1000000007::int8 END,
	CASE WHEN i % 5 > 0 THEN (i % 256) * 0.125 END, CASE WHEN i % 6 > 0 THEN (i % 4096) * 0.25 - 500 END, CASE WHEN i % 7 > 0 THEN (i * 123457 % 1000003) / 10000.0 END,
	CASE WHEN i % 3 > 0 THEN md5(i::text) END, CASE WHEN i % 4 > 0 THEN 'v' || i % 50 END, CASE WHEN i % 5 > 0 THEN 'c' || i % 9 END,
	CASE WHEN i % 6 > 0 THEN decode(md5(i::text), 'hex') END,
	CASE WHEN i % 7 > 0 THEN date '1999-12-01' + i % 800 END, CASE WHEN i % 8 > 0 THEN time '00:00' + i * interval '37 s' END,
	CASE WHEN i % 3 > 0 THEN timestamp '2001-01-01' + i * interval '11 hours 13 minutes' END,
	CASE WHEN i % 4 > 0 THEN timestamptz '2001-03-20 00:00+00' + i * interval '3 hours 1 s' END,
	CASE WHEN i % 5 > 0 THEN make_interval(months => i % 14, days => i % 40, secs => i % 3600) END,
	CASE WHEN i % 6 > 0 THEN md5(i::text)::uuid END, CASE WHEN i % 7 > 0 THEN ('10.' || i % 200 || '.3.' || i % 250)::inet END,
	CASE WHEN i % 8 > 0 THEN ('10.' || i % 30 || '.0.0/16')::cidr END, CASE WHEN i % 3 > 0 THEN ('08:00:2b:01:02:' || lpad(to_hex(i % 256), 2, '0'))::macaddr END,
	CASE WHEN i % 4 > 0 THEN (i % 256)::bit(8) END, CASE WHEN i % 5 > 0 THEN (i % 64)::bit(6)::varbit END, CASE WHEN i % 6 > 0 THEN (i % 700)::money END,
	CASE WHEN i % 7 > 0 THEN json_build_object('id', i, 'x', i % 3) END, CASE WHEN i % 8 > 0 THEN jsonb_build_object('id', i, 'arr', jsonb_build_array(i % 3, NULL, 's' || i % 4)) END,
	CASE WHEN i % 3 > 0 THEN point(i % 10, i % 12) END, CASE WHEN i % 4 > 0 THEN int4range(i % 20, i % 20 + i % 5) END,
	CASE WHEN i % 5 > 0 THEN int8multirange(int8range(i % 9, i % 9 + 2), int8range(20, 20 + i % 6)) END,
	CASE WHEN i % 6 > 0 THEN 1 + i % 12 END, CASE WHEN i % 7 > 0 THEN (enum_range(NULL::tier))[1 + i % 3] END,
	CASE WHEN i % 8 > 0 THEN ROW(i % 6, nullif(i % 5, 0), 'k' || i % 3)::dims END,
	CASE WHEN i % 3 > 0 THEN ARRAY[i % 4, NULL, i % 7] END, CASE WHEN i % 4 > 0 THEN ARRAY['a' || i % 5, NULL, ''] END,
	CASE WHEN i % 5 > 0 THEN ARRAY[ROW(i % 3, NULL, 'z')::dims, NULL] END, CASE WHEN i % 6 > 0 THEN ARRAY['AA-' || i % 20]::code[] END
FROM generate_series(1, 2500) AS i;

CREATE TABLE word (id int PRIMARY KEY, plain text, c text COLLATE "C", icu text COLLATE words, ci text COLLATE nocase);
INSERT INTO word
SELECT i, w, w, w, w
FROM (SELECT i, CASE WHEN i % 17 > 0 THEN (ARRAY['Apple', 'apple', 'Äpfel', 'zebra', 'Zürich', 'été', 'ETE', 'co-op', 'coop', 'ñandú', '_x', ''])[1 + i % 12] || i % 61 END AS w
	FROM generate_series(1, 3000) AS i) AS s;
CREATE INDEX ON word (c);
CREATE INDEX ON word (icu);

-- Values out of line, some compressed; and columns that are added later

CREATE TABLE wide (id int PRIMARY KEY, big text, raw text, bytes bytea);
ALTER TABLE wide ALTER raw SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL;
INSERT INTO wide
SELECT i, repeat(md5(i::text), 400), CASE WHEN i % 4 > 0 THEN repeat(md5(i::text) || chr(233), 100) END,
	CASE WHEN i % 5 > 0 THEN decode(repeat(md5((i * 3)::text), 150), 'hex') END
FROM generate_series(1, 240) AS i;
ALTER TABLE wide ADD late int DEFAULT 42, ADD later text DEFAULT 'later';

CREATE TABLE hole (id int, a int, b text, c numeric(8,2), d timestamp);
INSERT INTO hole
SELECT i, CASE WHEN i % 10 = 0 THEN i END, CASE WHEN i % 100 = 0 THEN 'b' || i END, NULL, NULL
FROM generate_series(1, 2000) AS i;
CREATE INDEX ON hole (a);

CREATE TABLE derived (id int PRIMARY KEY, x int, y int GENERATED ALWAYS AS (x * 2 + 1) STORED,
	z text GENERATED ALWAYS AS (upper('n' || x)) STORED);
INSERT INTO derived (id, x) SELECT i, i % 77 FROM generate_series(1, 2000) AS i;

CREATE TABLE edge (src int, dst int);
INSERT INTO edge SELECT i, i * 2 % 1001 FROM generate_series(1, 1000) AS i
UNION ALL SELECT i, i + 1 FROM generate_series(1, 999, 3) AS i;
CREATE INDEX ON edge (src);

CREATE TABLE nothing (id int, v text);
CREATE TABLE single (id int PRIMARY KEY, v text);
INSERT INTO single VALUES (1, 'the one');
CREATE UNLOGGED TABLE scratch (id int, v int);
INSERT INTO scratch SELECT i, i % 10 FROM generate_series(1, 3000) AS i;

-- Rows that not everybody sees

CREATE TABLE secret (id int PRIMARY KEY, owner name, level int, payload text);
INSERT INTO secret
SELECT i, (ARRAY['tenant_a', 'tenant_b', 'corpus'])[1 + i % 3], i % 7, md5(i::text)
FROM generate_series(1, 3000) AS i;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
CREATE POLICY low ON secret FOR SELECT TO tenant_b USING (level = 0);

CREATE TABLE account (id int PRIMARY KEY, tenant text, balance numeric(12,2));
INSERT INTO account SELECT i, 't' || i % 5, i * 3 % 1000 / 4.0 FROM generate_series(1, 3000) AS i;
ALTER TABLE account ENABLE ROW LEVEL SECURITY;
ALTER TABLE account FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account USING (tenant = current_setting('corpus.tenant', true));
CREATE POLICY strict ON account AS RESTRICTIVE USING (id > 10);

CREATE TABLE grants (id int PRIMARY KEY, shown text, hidden text);
INSERT INTO grants SELECT i, 's' || i % 9, 'h' || i FROM generate_series(1, 2000) AS i;

CREATE VIEW order_line AS
SELECT o.id, o.customer_id, o.status, i.line, i.qty * i.price AS amount
FROM orders AS o JOIN item AS i ON i.order_id = o.id;
CREATE VIEW customer_sum AS
SELECT c.id, c.region_id, count(l.id) AS lines, sum(l.amount) AS amount
FROM customer AS c LEFT JOIN order_line AS l ON l.customer_id = c.id GROUP BY c.id;
CREATE VIEW own_secret WITH (security_barrier) AS
SELECT id, level, payload FROM secret WHERE level < 5;
CREATE VIEW secret_as_reader WITH (security_invoker, security_barrier) AS
SELECT id, owner, level FROM secret;
CREATE VIEW secret_as_owner AS SELECT id, owner, level FROM secret;
CREATE VIEW hidden_few WITH (security_barrier) AS SELECT id, shown FROM grants WHERE id % 3 = 0;
CREATE MATERIALIZED VIEW status_sum AS
SELECT status, date_trunc('month', ordered AT TIME ZONE 'UTC') AS month, count(*) AS n, sum(total) AS total
FROM orders GROUP BY 1, 2;
GRANT SELECT ON secret, account, own_secret, secret_as_reader, secret_as_owner, hidden_few, orders, item, customer, skew
	TO tenant_a, tenant_b;
GRANT SELECT (id, shown) ON grants TO tenant_a;

-- Functions that may run in a worker

CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT $1 * 2';
CREATE FUNCTION plus_one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
'BEGIN RETURN $1 + 1; END';
CREATE FUNCTION category_name(int) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
	found_name text;
BEGIN
	SELECT c.name INTO found_name FROM corpus.category AS c WHERE c.id = $1;
	RETURN coalesce(found_name, '-');
END $$;
CREATE FUNCTION category_name_sql(int) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
'SELECT coalesce(max(name), ''-'') FROM corpus.category WHERE id = $1';
CREATE FUNCTION category_dynamic(int) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
	found_name text;
BEGIN
	EXECUTE format('SELECT name FROM %I WHERE id = $1', 'category') INTO found_name USING $1;
	RETURN found_name;
END $$;
CREATE FUNCTION caught(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE AS $$
BEGIN
	RETURN 100 / ($1 % 5);
EXCEPTION WHEN division_by_zero THEN
	RETURN -1;
END $$;
CREATE FUNCTION setting_of(text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
'SELECT current_setting($1, true)';
CREATE FUNCTION setting_in_plpgsql(text) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
'BEGIN RETURN current_setting($1, true); END';
CREATE FUNCTION day_text(date) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET DateStyle = 'German' AS 'BEGIN RETURN $1::text; END';
CREATE FUNCTION who() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
'BEGIN RETURN current_user::text; END';
CREATE FUNCTION who_defines() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE
	SECURITY DEFINER AS 'BEGIN RETURN current_user::text; END';
CREATE FUNCTION notice_of(int, int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
	IF $1 % $2 = 0 THEN
		RAISE NOTICE 'row % of every %', $1, $2
			USING DETAIL = format('Detail of row %s.', $1), HINT = 'There is none.';
	END IF;
	RETURN $1;
END $$;
CREATE FUNCTION warn_of(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
	IF $1 = 77 THEN
		RAISE WARNING 'only one' USING ERRCODE = '01ABC';
	END IF;
	RETURN $1;
END $$;
CREATE FUNCTION fail_at(int, int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
	IF $1 = $2 THEN
		RAISE EXCEPTION 'failed at row %', $1 USING ERRCODE = 'FA123',
			DETAIL = 'A detail.', HINT = 'A hint.';
	END IF;
	RETURN $1;
END $$;

-- Functions that may not, and such as the leader runs queries in

CREATE FUNCTION restricted(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL RESTRICTED AS
'BEGIN RETURN $1 + 1; END';
CREATE FUNCTION unsafe(int) RETURNS int LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS
'BEGIN RETURN $1 + 1; END';
CREATE FUNCTION count_items(min_qty int) RETURNS bigint LANGUAGE sql STABLE AS
'SELECT count(*) FROM item WHERE qty >= min_qty';
CREATE FUNCTION assign_count(min_qty int) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	n bigint;
BEGIN
	n := (SELECT count(*) FROM item WHERE qty >= min_qty);
	RETURN n;
END $$;
CREATE FUNCTION into_count(min_qty int) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	n bigint;
BEGIN
	SELECT count(*) INTO n FROM item WHERE qty >= min_qty;
	RETURN n;
END $$;
CREATE FUNCTION execute_count(tab text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %I', tab) INTO n;
	RETURN n;
END $$;
CREATE FUNCTION returned(min_total numeric) RETURNS TABLE (st status, n bigint, total numeric) LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN QUERY SELECT o.status, count(*), sum(o.total) FROM orders AS o
		WHERE o.total > min_total GROUP BY o.status ORDER BY o.status;
	RETURN QUERY EXECUTE 'SELECT NULL::status, count(*), sum(o.total) FROM orders AS o WHERE o.total > $1'
		USING min_total;
END $$;
CREATE FUNCTION looped(lim int) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	r record;
	total numeric := 0;
	n int := 0;
BEGIN
	FOR r IN SELECT order_id, sum(price) AS price FROM item GROUP BY order_id ORDER BY order_id LOOP
		n := n + 1;
		total := total + r.price;
		EXIT WHEN n = lim;
	END LOOP;
	RETURN n || ' ' || total;
END $$;
CREATE FUNCTION nested(depth int) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	n bigint := 0;
BEGIN
	IF depth > 0 THEN
		n := nested(depth - 1);
	END IF;
	n := n + (SELECT count(*) FROM skew WHERE k = depth);
	RETURN n;
END $$;
CREATE FUNCTION recovered() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	said text := '';
	n bigint;
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			n := (SELECT sum(100 / (v - 500)) FROM skew);
			said := said || 'no error ';
		EXCEPTION WHEN division_by_zero THEN
			said := said || SQLSTATE || ' ' || SQLERRM || ' ';
			n := (SELECT count(*) FROM skew WHERE v <> 500);
			said := said || n || ' ';
		END;
	END LOOP;
	RETURN said;
END $$;
CREATE FUNCTION secret_count() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = corpus, pg_temp AS 'SELECT count(*) FROM secret';
CREATE FUNCTION secret_count_as_caller() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	n bigint;
BEGIN
	n := (SELECT count(*) FROM corpus.secret);
	RETURN n;
END $$;
CREATE FUNCTION with_settings() RETURNS text LANGUAGE plpgsql STABLE
	SET DateStyle = 'SQL, DMY' SET search_path = corpus SET extra_float_digits = -3 AS $$
DECLARE
	r text;
BEGIN
	r := (SELECT max(d)::text || ' ' || (sum(f8) / 3)::text || ' ' || min(setting_of('DateStyle'))
		FROM vals WHERE setting_of('extra_float_digits') = '-3');
	RETURN r;
END $$;
CREATE FUNCTION opened() RETURNS refcursor LANGUAGE plpgsql AS $$
DECLARE
	c refcursor := 'opened_cursor';
BEGIN
	OPEN c FOR SELECT id, total FROM orders WHERE total > 12000 ORDER BY id;
	RETURN c;
END $$;
CREATE PROCEDURE in_procedure(INOUT n bigint) LANGUAGE plpgsql AS $$
BEGIN
	n := n + (SELECT count(*) FROM orders);
	COMMIT;
	n := n + (SELECT count(*) FROM item);
	ROLLBACK;
	n := n + (SELECT count(*) FROM customer);
END $$;

-- Aggregates: one that goes partial through its state's own type, one through
-- bytes of the server's, one that cannot

CREATE FUNCTION spread_step(int[], int) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
'SELECT CASE WHEN $2 IS NULL THEN $1 ELSE ARRAY[least($1[1], $2), greatest($1[2], $2)] END';
CREATE FUNCTION spread_join(int[], int[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
'SELECT ARRAY[least($1[1], $2[1]), greatest($1[2], $2[2])]';
CREATE FUNCTION spread_end(int[]) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
'SELECT $1[2] - $1[1]';
CREATE AGGREGATE spread(int) (sfunc = spread_step, stype = int[], initcond = '{}',
	combinefunc = spread_join, finalfunc = spread_end, parallel = safe);
CREATE AGGREGATE whole_spread(int) (sfunc = spread_step, stype = int[], initcond = '{}',
	finalfunc = spread_end, parallel = safe);

-- A state of type internal is for superusers.
RESET ROLE;
CREATE AGGREGATE total(numeric) (sfunc = numeric_avg_accum, stype = internal, finalfunc = numeric_sum,
	combinefunc = numeric_avg_combine, serialfunc = numeric_avg_serialize,
	deserialfunc = numeric_avg_deserialize, parallel = safe);
VACUUM ANALYZE;
