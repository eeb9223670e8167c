-- Security: jobs of ordinary roles gain nothing, see nothing of others', and
-- touch nothing of sabot's.
\getenv srcdir PG_ABS_SRCDIR
\set helpers :srcdir /test/lib/helpers.sql
\set ECHO none
\i :helpers
\set ECHO all
SELECT setval('sabot.job_job_id_seq', 17000) AS ids \gset
SELECT current_user AS super \gset
CREATE ROLE regress_alice LOGIN;
CREATE ROLE regress_bob LOGIN;
CREATE ROLE regress_bobs_boss LOGIN IN ROLE regress_bob;
CREATE ROLE regress_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE regress_nologin NOLOGIN;
CREATE SCHEMA alice AUTHORIZATION regress_alice;
CREATE SCHEMA bob AUTHORIZATION regress_bob;
-- Without a grant there is nothing to be had.
SET SESSION AUTHORIZATION regress_alice;
SELECT sabot.submit_job('SELECT 1');
SELECT * FROM sabot.job_status;
SELECT sabot.grant_usage('regress_alice');
RESET SESSION AUTHORIZATION;
SELECT sabot.grant_usage(r) FROM unnest('{regress_alice,regress_bob,regress_bobs_boss,regress_monitor,regress_nologin}'::regrole[]) AS r;
-- What that gives, and what it does not.
SET SESSION AUTHORIZATION regress_alice;
CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'));
SELECT code, message FROM unnest(ARRAY[
	'SELECT * FROM %s.job', 'SELECT * FROM %s.job_history', 'SELECT * FROM %s.job_attempt_log',
	'SELECT * FROM %s.job_signal', 'SELECT * FROM %s.queue', 'SELECT * FROM %s.any_job', 'SELECT * FROM %s.open_job',
	'INSERT INTO %s.job (owner, owner_name, home, command) VALUES (10, ''x'', 0, ''SELECT'')',
	'UPDATE %s.job SET owner = 10', 'DELETE FROM %s.job', 'TRUNCATE %s.job_history',
	'UPDATE %s.job_status SET command = ''x''', 'DELETE FROM %s.job_status',
	'SELECT nextval(''%s.job_job_id_seq'')', 'CREATE TABLE %s.t ()',
	'SELECT %s.pause_queue(''default'')', 'SELECT %s.resume_queue(''default'')', 'SELECT %s.set_queue_limit(''default'', 1)',
	'SELECT %s.adopt_jobs()', 'SELECT %s.grant_usage(''regress_alice'')', 'SELECT %s.revoke_usage(''regress_bob'')']) AS sql,
	pg_temp.try(format(sql, 'sabot'));
-- A job is its owner's session, and there is no way up from it.
SELECT sabot.submit_job('SELECT session_user, current_user', keep_rows => 1) AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
SELECT sabot.submit_jobs(ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
	'DISCARD ALL', 'RESET ALL']) AS ids \gset
SELECT state, code FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id);
SELECT sabot.submit_jobs(ARRAY(SELECT format(c, :'super', 'regress_bob') FROM unnest(ARRAY[
	'SET ROLE %I', 'SET SESSION AUTHORIZATION %I', 'SET LOCAL ROLE %I', 'SET LOCAL SESSION AUTHORIZATION %I',
	'SELECT set_config(''role'', %L, false)', 'RESET SESSION AUTHORIZATION; SET ROLE %I', 'RESET ROLE; SET ROLE %2$I',
	'CREATE FUNCTION alice.up() RETURNS void LANGUAGE sql SET role = %I AS ''SELECT''',
	'ALTER ROLE %I RENAME TO regress_mine', 'GRANT %I TO regress_alice', 'ALTER ROLE regress_alice SUPERUSER',
	'ALTER SYSTEM SET sabot.pool_size = 1', 'SET session_preload_libraries = ''x''', 'COPY pg_class TO PROGRAM ''true''',
	'SET session_replication_role = replica', 'UPDATE pg_authid SET rolsuper = true']) AS c)) AS ids \gset
SELECT state, code, count(*) FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id) GROUP BY state, code;
-- Whatever a job leaves behind, sabot's statements in the same process are not
-- fooled by it: these operators and functions tell who called them.
CREATE TABLE alice.caller (who name, what text);
GRANT INSERT ON alice.caller TO PUBLIC;
GRANT USAGE ON SCHEMA alice TO PUBLIC;
CREATE FUNCTION alice.tell(what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO alice.caller VALUES (current_user, what); RETURN true; END $$;
CREATE FUNCTION alice.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT alice.tell('=') $$;
CREATE OPERATOR alice.= (FUNCTION = alice.eq, LEFTARG = bigint, RIGHTARG = bigint);
CREATE FUNCTION alice.eqo(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT alice.tell('=') $$;
CREATE OPERATOR alice.= (FUNCTION = alice.eqo, LEFTARG = oid, RIGHTARG = oid);
CREATE FUNCTION alice.le(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT alice.tell('<=') $$;
CREATE OPERATOR alice.<= (FUNCTION = alice.le, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE FUNCTION alice.pg_has_role(oid, oid, text) RETURNS boolean LANGUAGE sql AS $$ SELECT alice.tell('pg_has_role') $$;
CREATE FUNCTION alice.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT alice.tell('clock'); SELECT pg_catalog.now() $$;
CREATE FUNCTION alice.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT alice.tell('unnest'); SELECT pg_catalog.unnest($1) $$;
CREATE FUNCTION alice.jsonb_array_elements(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT alice.tell('elements'); SELECT pg_catalog.jsonb_array_elements($1) $$;
SET search_path = alice, pg_catalog;
SELECT 1::bigint = 2::bigint AS they_work;
SELECT sabot.submit_job($$
	CREATE TEMP TABLE job (job_id bigint); CREATE TEMP TABLE job_history (job_id bigint); CREATE TEMP TABLE pg_roles (a int);
	CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT alice.tell(''temp clock''); SELECT pg_catalog.now()';
	SET search_path = pg_temp, alice, pg_catalog;
	SELECT sabot.cancel_job(sabot.submit_job('SELECT 1', dedup_key => 'x', run_after => 'infinity'));
	SELECT sabot.submit_job('SELECT 1', dedup_key => 'y', run_after => '-infinity'), sabot.submit_jobs(ARRAY['SELECT 1']), sabot.submit_job_each('SELECT $1::int', '[[1]]');
	SELECT count(*) FROM sabot.job_status, sabot.queue_status, sabot.job_progress, sabot.metric, sabot.check();
	SELECT sabot.purge()$$) AS good,
	sabot.submit_job('SET search_path = pg_temp, alice, pg_catalog; SELECT 1/0; SELECT', max_attempts => 2, retry_delay => '0') AS bad,
	sabot.submit_job('SET search_path = pg_temp, alice, pg_catalog; DO ''BEGIN COMMIT; END''') AS singly \gset
SELECT state, error FROM pg_temp.outcome(:good);
SELECT state, code FROM pg_temp.outcome(:bad);
SELECT state, code FROM pg_temp.outcome(:singly);
SELECT sabot.cancel_job(id), sabot.pause_job(id), sabot.retry_job(:bad) FROM sabot.submit_job('SELECT 1', run_after => 'infinity') AS id;
SELECT sabot.resume_job(job_id) FROM sabot.job_status WHERE state OPERATOR(pg_catalog.=) 'paused';
SELECT count(*) > 0 AS rows FROM sabot.job_status, sabot.metric, sabot.check();
RESET search_path;
SELECT DISTINCT who FROM alice.caller;
TRUNCATE alice.caller;
-- What fires at commit runs as the job's owner, too.
CREATE TABLE alice.t (a int);
CREATE FUNCTION alice.late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM alice.tell('deferred'); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON alice.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alice.late();
SELECT sabot.submit_jobs(ARRAY['INSERT INTO alice.t VALUES (1)',
	'DECLARE c CURSOR WITH HOLD FOR SELECT alice.tell(''cursor'')',
	'INSERT INTO alice.t VALUES (2); VACUUM alice.t']) AS ids \gset
SELECT state, error FROM unnest(:'ids'::bigint[]) AS id, pg_temp.outcome(id);
SELECT what, who, count(*) FROM alice.caller GROUP BY what, who ORDER BY what;
TRUNCATE alice.caller;
-- A function that others own: SET role needs the caller's membership, SECURITY
-- DEFINER gives its owner's rights for its duration only.
SET SESSION AUTHORIZATION regress_bob;
GRANT USAGE ON SCHEMA bob TO regress_alice;
CREATE FUNCTION bob.as_bob() RETURNS name LANGUAGE sql SET role = regress_bob AS 'SELECT current_user::name';
CREATE FUNCTION bob.definer() RETURNS name LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::name';
CREATE FUNCTION bob.submit(command text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT sabot.submit_job(command)';
CREATE FUNCTION bob.run(command text) RETURNS SETOF jsonb LANGUAGE sql SECURITY DEFINER AS 'SELECT sabot.run(command)';
SET SESSION AUTHORIZATION regress_alice;
SELECT sabot.submit_job('SELECT bob.as_bob()') AS id \gset
SELECT state, code, error FROM pg_temp.outcome(:id);
SELECT sabot.submit_job('SELECT bob.definer(), current_user', keep_rows => 1) AS id \gset
SELECT state FROM pg_temp.outcome(:id);
SELECT * FROM sabot.job_rows(:id);
-- What it submits is its owner's, and no longer the caller's business.
SELECT bob.submit('SELECT current_user') AS id \gset
SELECT sabot.job_state(:id);
SELECT * FROM bob.run('SELECT current_user, session_user');
SET SESSION AUTHORIZATION regress_bob;
SELECT pg_temp.finish(:id);
SELECT owner FROM sabot.job_status WHERE job_id = :id;
-- A superuser's event trigger sees the job's owner, and no superuser.
RESET SESSION AUTHORIZATION;
CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN PERFORM alice.tell('ddl'); END$$;
CREATE EVENT TRIGGER regress_on_ddl ON ddl_command_end EXECUTE FUNCTION public.on_ddl();
SET SESSION AUTHORIZATION regress_alice;
CALL sabot.wait_for_job(sabot.submit_job('CREATE TABLE alice.u (); DROP TABLE alice.u; CREATE TEMP TABLE v ()'));
SELECT DISTINCT who, what FROM alice.caller;
RESET SESSION AUTHORIZATION;
DROP EVENT TRIGGER regress_on_ddl;
-- Others' jobs: what Bob does is no business of Alice's, in any view or function.
SET SESSION AUTHORIZATION regress_bob;
SELECT sabot.submit_job($$DO 'BEGIN RAISE NOTICE ''secret notice''; END'; SELECT 'secret row', $1$$, '["secret param"]',
	name => 'secret name', queue => 'bobs', keep_rows => 9) AS done \gset
SELECT sabot.submit_job($$DO 'BEGIN RAISE EXCEPTION ''secret error''; END'$$, max_attempts => 2, retry_delay => '0', queue => 'bobs') AS failed \gset
SELECT sabot.submit_job('SELECT ''secret''', run_after => 'infinity', dedup_key => 'key', queue => 'bobs') AS waiting \gset
SELECT sabot.submit_job('SELECT pg_sleep(60)', queue => 'bobs') AS running \gset
SELECT pg_temp.finish(:done), pg_temp.finish(:failed);
SELECT pg_temp.await(format('sabot.job_state(%s) = ''running''', :running));
SELECT count(*) FROM sabot.job_rows(:done);
SET SESSION AUTHORIZATION regress_alice;
SELECT count(*) FROM sabot.job_status WHERE job_id IN (:done, :failed, :waiting, :running) OR owner <> current_user;
SELECT count(*) FROM sabot.job_task;
SELECT count(*) FROM sabot.job_progress WHERE job_id IN (:done, :failed, :waiting, :running);
SELECT count(*) FROM sabot.job_attempt WHERE job_id IN (:done, :failed, :waiting, :running);
SELECT count(*) FROM sabot.agent_status WHERE role <> current_user OR job_id IS NOT NULL;
SELECT count(*) FROM sabot.running_job();
SELECT count(*) FROM sabot.queue_status WHERE queue = 'bobs';
SELECT count(*) FROM sabot.metric WHERE labels->>'queue' = 'bobs';
SELECT DISTINCT (pg_temp.try(format(call, id))).code FROM unnest(ARRAY[
	'SELECT sabot.job_state(%s)', 'SELECT * FROM sabot.job_rows(%s)', 'SELECT sabot.cancel_job(%s)', 'SELECT sabot.pause_job(%s)',
	'SELECT sabot.resume_job(%s)', 'SELECT sabot.retry_job(%s)', 'CALL sabot.wait_for_job(%s, ''0'')', 'CALL sabot.wait_for_jobs(ARRAY[%s], ''0'')']) AS call,
	unnest(ARRAY[:done, :failed, :waiting, :running]) AS id;
SELECT sabot.submit_job('SELECT 1', dedup_key => 'key', queue => 'bobs') = :waiting AS same_key_same_job;
-- Not even with a function that leaks what it is shown.
CREATE FUNCTION alice.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN IF $1 LIKE '%secret%' THEN RAISE WARNING 'leaked: %', $1; END IF; RETURN true; END $$;
SELECT count(*) FROM sabot.job_status WHERE alice.leak(job_status::text) AND alice.leak(command) AND owner <> current_user;
SELECT count(*) > 0 AS some FROM sabot.job_attempt WHERE alice.leak(job_attempt::text) AND alice.leak(error);
SELECT count(*) FROM sabot.job_progress WHERE alice.leak(name) AND alice.leak(job_progress::text) AND false;
-- Purge takes one's own jobs.
SELECT sabot.purge('0') > 0 AS purged;
SET SESSION AUTHORIZATION regress_bob;
SELECT count(*) AS still_there FROM sabot.job_status WHERE job_id IN (:done, :failed);
-- Members of a role have its rights.
SET SESSION AUTHORIZATION regress_bobs_boss;
SELECT name, owner, command IS NOT NULL AS command, notices FROM sabot.job_status WHERE job_id = :done;
SELECT count(*) FROM sabot.job_rows(:done);
SELECT sabot.cancel_job(:waiting);
-- pg_monitor sees that there are jobs, and how they do; not what they say.
SET SESSION AUTHORIZATION regress_monitor;
SELECT owner, queue, state, attempt, row_count, command, notices, sqlstate, error, error_detail, error_hint, error_context
	FROM sabot.job_status WHERE job_id IN (:done, :failed, :running) ORDER BY job_id;
SELECT sqlstate, error FROM sabot.job_attempt WHERE job_id = :failed;
SELECT count(*) FROM sabot.agent_status WHERE job_id = :running;
SELECT running FROM sabot.queue_status WHERE queue = 'bobs';
SELECT (pg_temp.try(format(call, :done))).code FROM unnest(ARRAY['SELECT * FROM sabot.job_rows(%s)', 'SELECT sabot.cancel_job(%s)',
	'SELECT sabot.retry_job(%s)', 'CALL sabot.wait_for_job(%s, ''0'')']) AS call;
RESET SESSION AUTHORIZATION;
SELECT sabot.cancel_job(:running);
-- A role that may not log in cannot have an agent, before PostgreSQL 17.
SET ROLE regress_nologin;
SELECT code IS NOT DISTINCT FROM CASE WHEN current_setting('server_version_num')::int < 170000 THEN '28000' END AS as_expected
	FROM pg_temp.try('SELECT sabot.submit_job(''SELECT 1'')');
SELECT code IS NOT DISTINCT FROM CASE WHEN current_setting('server_version_num')::int < 170000 THEN '28000' END AS as_expected
	FROM pg_temp.try('SELECT sabot.run(''SELECT 1'')');
RESET ROLE;
-- Roles that change between submit and run.
SELECT sabot.pause_queue('later');
CREATE ROLE regress_renamed LOGIN;
CREATE ROLE regress_dropped LOGIN;
CREATE ROLE regress_demoted LOGIN SUPERUSER;
CREATE ROLE regress_barred LOGIN;
CREATE ROLE regress_locked LOGIN;
CREATE ROLE regress_no_login LOGIN;
SELECT sabot.grant_usage(r) FROM unnest('{regress_renamed,regress_dropped,regress_barred,regress_locked,regress_no_login}'::regrole[]) AS r;
SET SESSION AUTHORIZATION regress_renamed;
SELECT sabot.submit_job('SELECT current_user', queue => 'later', keep_rows => 1) AS renamed \gset
SET SESSION AUTHORIZATION regress_dropped;
SELECT sabot.submit_job('SELECT current_user', queue => 'later') AS dropped \gset
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_demoted;
SELECT sabot.submit_job('SELECT count(*) FROM pg_authid', queue => 'later') AS demoted \gset
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_barred;
SELECT sabot.submit_job('SELECT current_user', queue => 'later') AS barred \gset
SET SESSION AUTHORIZATION regress_locked;
SELECT sabot.submit_job('SELECT current_user', queue => 'later') AS locked \gset
SET SESSION AUTHORIZATION regress_no_login;
SELECT sabot.submit_job('SELECT current_user', queue => 'later') AS no_login \gset
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_no_login NOLOGIN;
ALTER ROLE regress_renamed RENAME TO regress_new_name;
SELECT sabot.revoke_usage('regress_dropped');
DROP ROLE regress_dropped;
ALTER ROLE regress_demoted NOSUPERUSER;
GRANT CONNECT ON DATABASE contrib_regression TO regress_new_name, regress_demoted, regress_locked, regress_no_login;
REVOKE CONNECT ON DATABASE contrib_regression FROM PUBLIC;
SELECT sabot.resume_queue('later');
SELECT * FROM pg_temp.outcome(:renamed);
SELECT owner, r FROM sabot.job_status, sabot.job_rows(:renamed) AS r WHERE job_id = :renamed;
SELECT * FROM pg_temp.outcome(:dropped);
SELECT owner FROM sabot.job_status WHERE job_id = :dropped;
SELECT * FROM pg_temp.outcome(:demoted);
SELECT * FROM pg_temp.outcome(:barred);
SELECT * FROM pg_temp.outcome(:locked);
SELECT state || COALESCE(' ' || code, '') = CASE WHEN current_setting('server_version_num')::int < 170000
		THEN 'failed 28000' ELSE 'completed' END AS as_expected
	FROM pg_temp.outcome(:no_login);
GRANT CONNECT ON DATABASE contrib_regression TO PUBLIC;
-- A warm agent is not used for a role that has lost its rights.
SET SESSION AUTHORIZATION regress_locked;
SELECT count(*) = 1 AS warm FROM sabot.run('SELECT 1');
BEGIN;
SELECT sabot.submit_job('SELECT 1') AS locked \gset
RESET SESSION AUTHORIZATION;
REVOKE CONNECT ON DATABASE contrib_regression FROM PUBLIC, regress_locked;
COMMIT;
SELECT * FROM pg_temp.outcome(:locked);
GRANT CONNECT ON DATABASE contrib_regression TO PUBLIC;
-- revoke_usage takes it all back.
SELECT sabot.revoke_usage('regress_alice');
SET SESSION AUTHORIZATION regress_alice;
SELECT sabot.submit_job('SELECT 1');
RESET SESSION AUTHORIZATION;
SELECT count(*) AS left_over FROM pg_shdepend AS s JOIN pg_depend AS d USING (classid, objid)
	WHERE s.refobjid = 'regress_alice'::regrole AND s.deptype = 'a' AND d.deptype = 'e'
		AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
SET client_min_messages = warning;
DROP OWNED BY regress_alice, regress_bob, regress_bobs_boss, regress_monitor, regress_nologin, regress_new_name, regress_demoted, regress_barred, regress_locked, regress_no_login CASCADE;
DROP FUNCTION public.on_ddl;
DROP ROLE regress_alice, regress_bob, regress_bobs_boss, regress_monitor, regress_nologin, regress_new_name, regress_demoted, regress_barred, regress_locked, regress_no_login;
