--
-- jobs: how schedules fare
--

CREATE VIEW schedule_status AS
	SELECT j.job_id, j.name, j.owner, s.schedule, j.state, j.wait_reason,
		j.run_after AS next_run, r.job_id AS run_id,
		r.run_after AS last_due,
		COALESCE(r.started_at, (SELECT min(t.started_at) FROM any_job AS t
			WHERE t.parent_id = r.job_id)) AS last_run,
		r.finished_at AS last_finished, r.state AS last_state,
		r.sqlstate AS last_sqlstate, r.error AS last_error, s.runs,
		s.failures + CASE WHEN r.state = 'failed' THEN 1 ELSE 0 END AS failures
	FROM job_schedule AS s,
		LATERAL (SELECT * FROM any_job AS a
			WHERE a.job_id = s.job_id AND a.finished_at IS NULL) AS j
		LEFT JOIN LATERAL (SELECT * FROM any_job AS a
			WHERE a.job_id = s.run_id) AS r ON true;

COMMENT ON VIEW schedule_status IS
	'one row per schedule that has not ended; all runs that are kept are in sabot.job_task';
COMMENT ON COLUMN schedule_status.next_run IS
	'when it is due next; a run that is open then is waited for first';
COMMENT ON COLUMN schedule_status.run_id IS 'the last run, which may be open';
COMMENT ON COLUMN schedule_status.last_due IS
	'when the last run was due: the first time, if it made up for several';
COMMENT ON COLUMN schedule_status.last_run IS
	'when the last run started, NULL if it has not';
COMMENT ON COLUMN schedule_status.runs IS 'runs so far, with one that is open';
COMMENT ON COLUMN schedule_status.failures IS 'those of them that failed';
