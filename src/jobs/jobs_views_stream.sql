--
-- jobs: streams
--

CREATE VIEW stream_status WITH (security_barrier) AS
	SELECT j.job_id, j.name, j.state, j.wait_reason, s.source_name AS source,
		l.capturing, l.lag_rows, l.lag, s.batches, s.rows,
		s.dead AS dead_letters, e.event AS last_event, e.at AS last_event_at,
		e.detail AS last_event_detail
	FROM job_status AS j
		JOIN stream AS s ON s.job_id = j.job_id
		LEFT JOIN LATERAL stream_lag(s.job_id) AS l ON true
		LEFT JOIN LATERAL (
			SELECT v.event, v.at, v.detail
			FROM stream_event AS v
			WHERE v.job_id = s.job_id
			ORDER BY v.at DESC LIMIT 1) AS e ON true;

COMMENT ON VIEW stream_status IS
	'one row per stream: what it reads, how far behind it is, and what happened to its table';
COMMENT ON COLUMN stream_status.capturing IS
	'whether its trigger is there and enabled; NULL once it has ended';
COMMENT ON COLUMN stream_status.lag_rows IS
	'rows that were captured and not handed over yet; NULL while a type of theirs is being changed';
COMMENT ON COLUMN stream_status.lag IS
	'for how long the oldest of these has been waiting';
COMMENT ON COLUMN stream_status.last_event IS
	'truncated, columns changed, trigger dropped (with its table, perhaps), or dropped by another owner';

CREATE VIEW stream_dead_letter WITH (security_barrier) AS
	SELECT d.job_id, d.sabot_seq, d.sabot_op, d."row", d.attempts, d.sqlstate,
		d.error, d.failed_at
	FROM stream_dead_row AS d
		LEFT JOIN job AS j ON j.job_id = d.job_id
		LEFT JOIN job_history AS h ON h.job_id = d.job_id
	WHERE is_mine(COALESCE(j.owner, h.owner),
				  COALESCE(j.owner_name, h.owner_name),
				  COALESCE(j.home, h.home));

COMMENT ON VIEW stream_dead_letter IS
	'rows that the commands of one''s own streams could not handle, each with its error; kept until the stream is purged';
COMMENT ON COLUMN stream_dead_letter.sabot_op IS 'INSERT or UPDATE';
COMMENT ON COLUMN stream_dead_letter."row" IS
	'the row as it was written';
COMMENT ON COLUMN stream_dead_letter.attempts IS
	'failed attempts of the batch it was in, and of the pieces that was cut into';
