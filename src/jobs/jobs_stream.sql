--
-- jobs: streams
--
-- What is captured of a stream's source waits in a table of its own,
-- sabot.stream_<job id>, with the columns the source had when the rows were
-- written; where these change a new table, sabot.stream_<job id>_<part>, takes
-- over, so that each row keeps the types it was written with.
--

CREATE SEQUENCE stream_seq AS bigint;

COMMENT ON SEQUENCE stream_seq IS 'blocks of 256 numbers for captured rows';

CREATE TABLE stream (
	job_id       bigint      NOT NULL PRIMARY KEY,
	source       regclass    NOT NULL,
	source_name  text        NOT NULL,
	batch_rows   integer     NOT NULL,
	floor        bigint      NOT NULL DEFAULT 0,
	suspects     bigint[]    NOT NULL DEFAULT '{}',
	failed       boolean     NOT NULL DEFAULT false,
	tried_to     bigint      NOT NULL DEFAULT 0,
	tries        integer     NOT NULL DEFAULT 0,
	batches      bigint      NOT NULL DEFAULT 0,
	rows         bigint      NOT NULL DEFAULT 0,
	dead         bigint      NOT NULL DEFAULT 0
) USING heap WITH (fillfactor = 50);

COMMENT ON TABLE stream IS 'one row per job that captures the rows of a table';
COMMENT ON COLUMN stream.floor IS 'no captured row has, or will ever have, a number below it';
COMMENT ON COLUMN stream.suspects IS
	'last numbers of the pieces a failed batch is cut into, the next piece last';
COMMENT ON COLUMN stream.failed IS 'the last batch has failed for good, and is to be cut';
COMMENT ON COLUMN stream.tried_to IS 'the last number in it, 0 if nobody knows';
COMMENT ON COLUMN stream.tries IS 'attempts of it so far';
COMMENT ON COLUMN stream.dead IS 'rows in sabot.stream_dead_row';

CREATE TABLE stream_part (
	job_id       bigint      NOT NULL,
	part         integer     NOT NULL,
	PRIMARY KEY (job_id, part)
) USING heap;

COMMENT ON TABLE stream_part IS
	'tables of captured rows: the one with the highest number takes what is written now';

CREATE TABLE stream_dead_row (
	job_id       bigint      NOT NULL,
	sabot_seq    bigint      NOT NULL,
	sabot_op     text        NOT NULL,
	"row"        jsonb,
	attempts     integer     NOT NULL,
	sqlstate     text,
	error        text,
	failed_at    timestamptz NOT NULL DEFAULT clock_timestamp()
) USING heap;

COMMENT ON TABLE stream_dead_row IS 'rows that no attempt of their stream could handle';

CREATE INDEX stream_dead_row_idx ON stream_dead_row (job_id, sabot_seq);

CREATE TABLE stream_event (
	job_id       bigint      NOT NULL,
	at           timestamptz NOT NULL DEFAULT clock_timestamp(),
	event        text        NOT NULL,
	detail       text
) USING heap;

COMMENT ON TABLE stream_event IS 'what happened to the sources of streams';

CREATE INDEX stream_event_idx ON stream_event (job_id, at);

SELECT pg_catalog.pg_extension_config_dump('stream', '');
SELECT pg_catalog.pg_extension_config_dump('stream_part', '');
SELECT pg_catalog.pg_extension_config_dump('stream_dead_row', '');
SELECT pg_catalog.pg_extension_config_dump('stream_event', '');
SELECT pg_catalog.pg_extension_config_dump('stream_seq', '');

CREATE FUNCTION submit_stream(source_table regclass, command text,
		name text DEFAULT NULL, batch_rows int DEFAULT 1000,
		queue text DEFAULT 'default', priority int DEFAULT 0,
		max_attempts int DEFAULT 3, retry_delay interval DEFAULT '1 s',
		timeout interval DEFAULT NULL, notify text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_stream';
REVOKE ALL ON FUNCTION submit_stream FROM PUBLIC;
COMMENT ON FUNCTION submit_stream IS
	'hand every row inserted or updated in a table from now on to a command, as the relation batch; returns the job id';

-- Who may submit streams may execute it, so that he can attach partitions to
-- their tables; it does nothing for a table that is not its stream's.
CREATE FUNCTION stream_capture() RETURNS trigger
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_stream_capture';
REVOKE ALL ON FUNCTION stream_capture() FROM PUBLIC;
COMMENT ON FUNCTION stream_capture() IS
	'the trigger of streams: keeps a row for the stream named in its argument';

CREATE FUNCTION stream_lag(job_id bigint, OUT lag_rows bigint,
		OUT lag interval, OUT capturing boolean)
	RETURNS record
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 1000
	AS 'MODULE_PATHNAME', 'sabot_stream_lag';
REVOKE ALL ON FUNCTION stream_lag(bigint) FROM PUBLIC;
COMMENT ON FUNCTION stream_lag(bigint) IS
	'how many captured rows wait, since when the oldest does, and whether the trigger is there and fires; NULLs for what one may not see';

CREATE FUNCTION stream_waits(job_id bigint) RETURNS boolean
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100
	AS 'MODULE_PATHNAME', 'sabot_sql_stream_waits';
REVOKE ALL ON FUNCTION stream_waits(bigint) FROM PUBLIC;
COMMENT ON FUNCTION stream_waits(bigint) IS
	'whether a stream has captured rows to hand over';
