-- rls: as the role that logged in
SELECT owner, count(*), sum(level), max(payload) FROM secret GROUP BY owner ORDER BY owner;

-- rls: as another role
SET ROLE tenant_a;
SELECT owner, count(*), sum(level), max(payload) FROM secret GROUP BY owner ORDER BY owner;
SELECT count(*) FROM secret WHERE level = 0;
RESET ROLE;

-- rls: as a role with another policy
SET ROLE tenant_b;
SELECT owner, count(*), sum(level), max(payload) FROM secret GROUP BY owner ORDER BY owner;
RESET ROLE;

-- rls: one role after the other
SET ROLE tenant_a;
SELECT count(*), min(owner), max(owner) FROM secret;
SET ROLE tenant_b;
SELECT count(*), min(owner), max(owner) FROM secret;
RESET ROLE;
SELECT count(*), min(owner), max(owner) FROM secret;

-- rls: rows (unordered)
SET ROLE tenant_a;
SELECT * FROM secret WHERE id % 40 = 0;
RESET ROLE;

-- rls: joined
SET ROLE tenant_b;
SELECT a.level, count(*) FROM secret AS a JOIN secret AS b ON a.id = b.id + 3 GROUP BY a.level ORDER BY a.level;
RESET ROLE;

-- rls: local role
BEGIN;
SET LOCAL ROLE tenant_a;
SELECT count(*), max(who()), min(current_user) FROM secret;
COMMIT;
SELECT count(*) FROM secret;

-- rls: a role that a rollback takes back
BEGIN;
SAVEPOINT s;
SET LOCAL ROLE tenant_a;
SELECT count(*), max(who()) FROM secret;
ROLLBACK TO s;
SELECT count(*) FROM secret;
COMMIT;

-- rls: by a setting
SET ROLE tenant_a;
SET corpus.tenant = 't1';
SELECT tenant, count(*), sum(balance), min(id) FROM account GROUP BY tenant;
SET corpus.tenant = 't3';
SELECT tenant, count(*), sum(balance), min(id) FROM account GROUP BY tenant;
RESET corpus.tenant;
RESET ROLE;

-- rls: by a setting that is not set
SET ROLE tenant_b;
SELECT count(*) FROM account;
RESET ROLE;

-- rls: row_security off
SET ROLE tenant_a;
SET row_security = off;
SELECT count(*) FROM secret;
RESET row_security;
RESET ROLE;

-- rls: prepared by one role, run by another
PREPARE own_rows AS SELECT count(*), min(owner), max(owner) FROM secret;
EXECUTE own_rows;
SET ROLE tenant_a;
EXECUTE own_rows;
SET ROLE tenant_b;
EXECUTE own_rows;
RESET ROLE;
EXECUTE own_rows;
DEALLOCATE own_rows;

-- role: who runs it
SELECT count(DISTINCT current_user), max(current_user), max(session_user), max(who()) FROM orders;

-- role: who runs it after SET ROLE
SET ROLE tenant_b;
SELECT count(DISTINCT current_user), max(current_user), max(session_user), max(corpus.who()), max(corpus.who_defines()) FROM orders;
RESET ROLE;

-- role: no privilege
SET ROLE tenant_a;
SELECT count(*) FROM product;
RESET ROLE;

-- role: privilege for columns
SET ROLE tenant_a;
SELECT shown, count(*) FROM grants GROUP BY shown ORDER BY shown;
SELECT count(hidden) FROM grants;
RESET ROLE;

-- role: privileges as seen from a worker
SET ROLE tenant_a;
SELECT count(*) FILTER (WHERE has_table_privilege('corpus.product', 'SELECT')), count(*) FILTER (WHERE has_table_privilege('corpus.orders', 'SELECT')), bool_or(pg_has_role('tenant_b', 'MEMBER')) FROM orders;
RESET ROLE;

-- definer: function over RLS
SET ROLE tenant_a;
SELECT secret_count(), secret_count_as_caller();
RESET ROLE;

-- definer: in a worker
SET ROLE tenant_a;
SELECT count(*), count(DISTINCT who_defines() || who()), max(who_defines()) FROM orders WHERE who_defines() = 'corpus' AND who() = 'tenant_a';
RESET ROLE;

-- view: join
SELECT status, count(*), sum(amount) FROM order_line GROUP BY status ORDER BY status;

-- view: filter pushed down
SELECT * FROM order_line WHERE customer_id = 21 ORDER BY id, line;

-- view: aggregate in it
SELECT region_id, count(*), sum(lines), sum(amount) FROM customer_sum GROUP BY region_id ORDER BY region_id;

-- view: joined to itself
SELECT count(*) FROM customer_sum AS a JOIN customer_sum AS b ON a.lines = b.lines AND a.id < b.id WHERE a.region_id = 2 AND b.region_id = 3;

-- view: security barrier
SELECT count(*), count(DISTINCT shown) FROM hidden_few WHERE shown <> 's3';

-- view: security barrier and a leaky function
SELECT count(*) FROM hidden_few WHERE fail_at(id, 2) > 0;

-- view: security barrier over RLS
SET ROLE tenant_a;
SELECT level, count(*) FROM own_secret GROUP BY level ORDER BY level;
RESET ROLE;

-- view: as its reader
SET ROLE tenant_b;
SELECT owner, count(*) FROM secret_as_reader GROUP BY owner ORDER BY owner;
RESET ROLE;

-- view: as its owner
SET ROLE tenant_b;
SELECT owner, count(*) FROM secret_as_owner GROUP BY owner ORDER BY owner;
RESET ROLE;

-- view: of the catalogue
SELECT count(*) > 20 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'corpus' AND c.relkind = 'r';

-- view: of the information schema
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'corpus' AND table_name IN ('orders', 'item') ORDER BY 1, ordinal_position;

-- path: another search_path
SET search_path = pg_catalog;
SELECT count(*), max(corpus.twice(id)), max(current_setting('search_path')) FROM corpus.skew;
SELECT count(*), max(corpus.setting_in_plpgsql('search_path')) FROM corpus.skew;
SET search_path = corpus;
