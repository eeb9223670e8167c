-- What the benchmark needs in its database; run by the superuser.

CREATE EXTENSION sabot;
SELECT sabot.grant_usage('bench');

-- What jobs do: insert a row.
CREATE TABLE effect (n bigint);

-- The single-row INSERT that a job is compared with.
CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);

-- The queue of the scripts that jobs are compared with: equal tables.
CREATE TABLE equal_job (LIKE sabot.job INCLUDING ALL);
CREATE TABLE equal_history (LIKE sabot.job_history INCLUDING ALL);

-- What LLM jobs, and the scripts they are compared with, read and write.
CREATE TABLE ticket (id bigint PRIMARY KEY, body text, label text);

ALTER TABLE ticket OWNER TO bench;
ALTER TABLE effect OWNER TO bench;
ALTER TABLE entry OWNER TO bench;
ALTER TABLE equal_job OWNER TO bench;
ALTER TABLE equal_history OWNER TO bench;

-- drain(jobs) - resume the queue "bench", wait until these jobs, the last of
-- which ends last, are gone one after the other, and return the seconds that
-- each of them took; then pause the queue again
--
-- Commits before each look, so that it holds no snapshot while it waits.
CREATE PROCEDURE drain(jobs bigint[], INOUT seconds float8[])
	LANGUAGE plpgsql
	AS $$
DECLARE
	began timestamptz;
	job bigint;
BEGIN
	seconds := '{}';
	PERFORM sabot.resume_queue('bench');
	began := clock_timestamp();
	COMMIT;
	FOREACH job IN ARRAY jobs LOOP
		WHILE EXISTS (SELECT FROM sabot.job AS j WHERE j.job_id = job) LOOP
			COMMIT;
			PERFORM pg_sleep(0.005);
			IF clock_timestamp() > began + interval '5 min' THEN
				RAISE 'job % did not end', job;
			END IF;
		END LOOP;
		seconds := seconds || EXTRACT(epoch FROM clock_timestamp() - began)::float8;
	END LOOP;
	PERFORM sabot.pause_queue('bench');
	COMMIT;
END $$;

-- drain_all(ms) - resume the queue "bench", wait until no job is left at all,
-- and return the milliseconds until the last one had finished; then pause the
-- queue again
CREATE PROCEDURE drain_all(INOUT ms float8)
	LANGUAGE plpgsql
	AS $$
DECLARE
	began timestamptz;
BEGIN
	PERFORM sabot.resume_queue('bench');
	began := clock_timestamp();
	COMMIT;
	WHILE EXISTS (SELECT FROM sabot.job) LOOP
		COMMIT;
		PERFORM pg_sleep(0.005);
		IF clock_timestamp() > began + interval '5 min' THEN
			RAISE 'not all jobs have ended';
		END IF;
	END LOOP;
	SELECT 1000 * extract(epoch FROM max(finished_at) - began) INTO ms
		FROM sabot.job_history;
	PERFORM sabot.pause_queue('bench');
	COMMIT;
END $$;
