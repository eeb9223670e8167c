--
-- jobs: schedules
--

-- What sabot.job has no column for.  The row of a schedule that has ended
-- stays until that is purged.
CREATE TABLE job_schedule (
	job_id       bigint      NOT NULL PRIMARY KEY,
	schedule     text        NOT NULL,
	first_due    timestamptz NOT NULL,
	graph        jsonb,
	run_id       bigint,
	runs         bigint      NOT NULL DEFAULT 0,
	failures     bigint      NOT NULL DEFAULT 0
) USING heap;

COMMENT ON TABLE job_schedule IS 'schedules: when jobs of kind schedule are due, and how their runs went';
COMMENT ON COLUMN job_schedule.first_due IS 'the first due time, which those of an interval are counted from';
COMMENT ON COLUMN job_schedule.graph IS 'the tasks of each run, if these are graphs';
COMMENT ON COLUMN job_schedule.run_id IS 'the last run';
COMMENT ON COLUMN job_schedule.failures IS 'runs before the last one that failed';

SELECT pg_catalog.pg_extension_config_dump('job_schedule', '');

CREATE FUNCTION next_due(schedule text, after timestamptz DEFAULT NULL,
		first_due timestamptz DEFAULT NULL, timezone text DEFAULT NULL)
	RETURNS timestamptz
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sabot_next_due';
REVOKE ALL ON FUNCTION next_due(text, timestamptz, timestamptz, text) FROM PUBLIC;
COMMENT ON FUNCTION next_due(text, timestamptz, timestamptz, text) IS
	'when a schedule is due next after a time, by default now, in sabot.timezone or another one';
