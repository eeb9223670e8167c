-- What the SQL tests share; each of them includes it without echo.  Everything
-- here is temporary and ends with the session.

-- try(sql): run a statement that is to fail; how it did.
CREATE FUNCTION pg_temp.try(sql text, OUT code text, OUT message text,
	OUT detail text, OUT hint text)
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	message := 'there was no error';
EXCEPTION WHEN OTHERS OR query_canceled THEN
	GET STACKED DIAGNOSTICS
		code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	detail := NULLIF(detail, '');
	hint := NULLIF(hint, '');
END $$;

-- await(condition): return once an SQL condition is true, or give up.
CREATE FUNCTION pg_temp.await(condition text) RETURNS void
	LANGUAGE plpgsql AS $$
DECLARE
	give_up timestamptz := clock_timestamp() + interval '60 s';
	met boolean;
BEGIN
	LOOP
		PERFORM pg_stat_clear_snapshot();
		EXECUTE 'SELECT ' || condition INTO met;
		EXIT WHEN met;
		IF clock_timestamp() > give_up THEN
			RAISE EXCEPTION 'still not true: %', condition;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

-- finish(job): return once a job has finished, however; in which state.
CREATE FUNCTION pg_temp.finish(id bigint) RETURNS sabot.job_state
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_temp.await(format(
		'sabot.job_state(%s) IN (''completed'', ''failed'', ''canceled'', ''skipped'')',
		id));
	RETURN sabot.job_state(id);
END $$;

-- outcome(job): what became of a job, once it has finished.
CREATE FUNCTION pg_temp.outcome(id bigint, OUT state sabot.job_state,
	OUT attempt integer, OUT tag text, OUT rows bigint, OUT code text,
	OUT error text)
	LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	PERFORM pg_temp.finish(id);
	SELECT j.state, j.attempt, j.command_tag, j.row_count, j.sqlstate, j.error
		INTO state, attempt, tag, rows, code, error
		FROM sabot.job_status AS j WHERE j.job_id = id;
END $$;
