--
-- jobs: durable jobs
--
-- sabot.job holds what is not finished and stays small; an agent finishes a
-- job by moving its row to sabot.job_history in the job's own transaction.
-- Nobody but the extension's owner has rights on the tables: functions write
-- them, views show each role its own.  What a row may hold is checked there,
-- once and with a message for its user: a CHECK constraint is read anew from
-- the catalog by every INSERT, which is a good part of a submission's time.
--

CREATE TYPE job_state AS ENUM ('scheduled', 'blocked', 'queued', 'running',
	'paused', 'completed', 'failed', 'canceled', 'skipped');

COMMENT ON TYPE job_state IS 'where a job stands';

CREATE SEQUENCE job_job_id_seq AS bigint;

COMMENT ON SEQUENCE job_job_id_seq IS 'ids of jobs';

CREATE TABLE job (
	job_id       bigint      NOT NULL DEFAULT nextval('job_job_id_seq') PRIMARY KEY,
	parent_id    bigint,
	kind         text        NOT NULL DEFAULT 'job',
	name         text,
	owner        oid         NOT NULL,
	owner_name   name        NOT NULL,
	home         bigint      NOT NULL,
	queue        text        NOT NULL DEFAULT 'default',
	priority     integer     NOT NULL DEFAULT 0,
	state        job_state   NOT NULL DEFAULT 'queued',
	attempt      integer     NOT NULL DEFAULT 0,
	max_attempts integer     NOT NULL DEFAULT 1,
	losses       integer     NOT NULL DEFAULT 0,
	free_retries integer     NOT NULL DEFAULT 0,
	atomic       boolean,
	asked_atomic boolean,
	keep_rows    integer     NOT NULL DEFAULT 0,
	submitted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	run_after    timestamptz,
	retry_delay  interval    NOT NULL DEFAULT '1 s',
	timeout      interval,
	command      text        NOT NULL,
	params       jsonb,
	settings     text[],
	dedup_key    text,
	notify       text,
	depends_on   bigint[],
	on_failure   text,
	started_at   timestamptz,
	reason       text,
	sqlstate     text,
	error        text
) USING heap;

COMMENT ON TABLE job IS 'one row per unfinished job';
COMMENT ON COLUMN job.kind IS 'job, or what its children make of it';
COMMENT ON COLUMN job.owner IS 'role the job runs as';
COMMENT ON COLUMN job.owner_name IS 'its name at submit, for adopt_jobs() and for when it is gone';
COMMENT ON COLUMN job.home IS 'identity of the database the job was submitted in: sabot.home()';
COMMENT ON COLUMN job.state IS 'running is not stored: it is what the agents in shared memory say';
COMMENT ON COLUMN job.attempt IS 'attempts counted so far';
COMMENT ON COLUMN job.losses IS 'attempts whose agent was lost under the job';
COMMENT ON COLUMN job.free_retries IS 'attempts that failed for reasons that are not counted';
COMMENT ON COLUMN job.atomic IS 'true or false as asked at submit or found out when run, NULL while unknown';
COMMENT ON COLUMN job.asked_atomic IS 'as asked at submit, which retry_job() goes back to; NULL = either';
COMMENT ON COLUMN job.settings IS 'settings in force at submit that travel with the job: name, value, name, value, …';
COMMENT ON COLUMN job.depends_on IS 'jobs that have to be completed before, in ascending order';
COMMENT ON COLUMN job.on_failure IS 'what it means for the graph if this task fails: fail, skip or continue';
COMMENT ON COLUMN job.started_at IS 'start of an attempt that is not atomic, committed before it runs; NULL again when it has ended or was given back';
COMMENT ON COLUMN job.reason IS 'why the job is paused; of a queued one, which of the jobs it waits for may not have ended';
COMMENT ON COLUMN job.sqlstate IS 'of the last attempt, if it failed';
COMMENT ON COLUMN job.error IS 'message of the last attempt, if it failed';

-- What an agent looks for, in the order it is to run.
CREATE INDEX job_ready_idx ON job (owner, home, queue, (-priority), job_id)
	WHERE state = 'queued';
CREATE INDEX job_due_idx ON job (owner, home, run_after)
	WHERE state = 'scheduled';
CREATE UNIQUE INDEX job_dedup_idx ON job (owner, home, queue, dedup_key)
	WHERE dedup_key IS NOT NULL;
CREATE INDEX job_parent_idx ON job (parent_id, job_id)
	WHERE parent_id IS NOT NULL;

CREATE TABLE job_history (
	job_id       bigint      NOT NULL PRIMARY KEY,
	parent_id    bigint,
	kind         text        NOT NULL,
	name         text,
	owner        oid         NOT NULL,
	owner_name   name        NOT NULL,
	home         bigint      NOT NULL,
	queue        text        NOT NULL,
	priority     integer     NOT NULL,
	state        job_state   NOT NULL,
	attempt      integer     NOT NULL,
	max_attempts integer     NOT NULL,
	losses       integer     NOT NULL,
	free_retries integer     NOT NULL,
	atomic       boolean,
	asked_atomic boolean,
	keep_rows    integer     NOT NULL,
	submitted_at timestamptz NOT NULL,
	run_after    timestamptz,
	retry_delay  interval    NOT NULL,
	timeout      interval,
	command      text        NOT NULL,
	params       jsonb,
	settings     text[],
	dedup_key    text,
	notify       text,
	depends_on   bigint[],
	on_failure   text,
	started_at   timestamptz,
	reason       text,
	sqlstate     text,
	error        text,
	-- as job up to here; what follows is known at the end only
	finished_at  timestamptz NOT NULL,
	pid          integer,
	command_tag  text,
	row_count    bigint,
	notices      text[],
	error_detail text,
	error_hint   text,
	error_context text,
	error_statement integer,
	error_position integer,
	rows         jsonb
) USING heap;

COMMENT ON TABLE job_history IS 'one row per finished job, until purged';
COMMENT ON COLUMN job_history.notices IS 'the first notices, and how many more there were';
COMMENT ON COLUMN job_history.error_statement IS 'number of the statement that failed, from 1';
COMMENT ON COLUMN job_history.error_position IS 'character of the command the error points at, from 1';
COMMENT ON COLUMN job_history.rows IS 'array of the rows kept, NULL if none were to be kept';

CREATE INDEX job_history_finished_idx ON job_history (finished_at);
CREATE INDEX job_history_parent_idx ON job_history (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE job_attempt_log (
	job_id       bigint      NOT NULL,
	attempt      integer     NOT NULL,
	owner        oid         NOT NULL,
	started_at   timestamptz,
	finished_at  timestamptz NOT NULL,
	pid          integer,
	sqlstate     text,
	error        text
) USING heap;

COMMENT ON TABLE job_attempt_log IS 'attempts that did not complete their job';

CREATE INDEX job_attempt_log_idx ON job_attempt_log (job_id, attempt);

CREATE TABLE job_units (
	job_id       bigint      NOT NULL PRIMARY KEY,
	total        bigint,
	done         bigint      NOT NULL,
	failed       bigint      NOT NULL
) USING heap;

COMMENT ON TABLE job_units IS
	'how far jobs are that count units of their own and have no children';

-- Who waits for a job, for those that end it: sabot.job.depends_on the other
-- way round.  A row stays until the job that is waited for is purged.
CREATE TABLE job_dependency (
	depends_on   bigint      NOT NULL,
	job_id       bigint      NOT NULL,
	inside       boolean     NOT NULL,
	last         bigint      NOT NULL,
	PRIMARY KEY (depends_on, job_id)
) USING heap;

COMMENT ON TABLE job_dependency IS 'which jobs wait for a job';
COMMENT ON COLUMN job_dependency.inside IS 'both are tasks of one graph';
COMMENT ON COLUMN job_dependency.last IS
	'the last of all jobs that job_id depends on, which is looked at first';

-- An owner's word to a job that was running when it was given: durable before
-- the agent is interrupted, so that a crash in between does not forget it.
CREATE TABLE job_signal (
	job_id       bigint      NOT NULL PRIMARY KEY,
	action       text        NOT NULL CHECK (action IN ('cancel', 'pause'))
) USING heap;

COMMENT ON TABLE job_signal IS 'cancel and pause requests to running jobs';

CREATE TABLE queue (
	queue        text        NOT NULL PRIMARY KEY,
	paused       boolean     NOT NULL DEFAULT false,
	max_running  integer     CHECK (max_running >= 1)
) USING heap;

COMMENT ON TABLE queue IS 'queues that are paused or limited; any other name is a queue too';
COMMENT ON COLUMN queue.max_running IS 'jobs of the queue that may run at once, NULL = any number';

SELECT pg_catalog.pg_extension_config_dump('job', '');
SELECT pg_catalog.pg_extension_config_dump('job_history', '');
SELECT pg_catalog.pg_extension_config_dump('job_attempt_log', '');
SELECT pg_catalog.pg_extension_config_dump('job_units', '');
SELECT pg_catalog.pg_extension_config_dump('job_dependency', '');
SELECT pg_catalog.pg_extension_config_dump('job_signal', '');
SELECT pg_catalog.pg_extension_config_dump('queue', '');
SELECT pg_catalog.pg_extension_config_dump('job_job_id_seq', '');

-- Submitting.

CREATE FUNCTION submit_job(command text, params jsonb DEFAULT NULL,
		name text DEFAULT NULL, queue text DEFAULT 'default',
		priority int DEFAULT 0, run_after timestamptz DEFAULT NULL,
		depends_on bigint[] DEFAULT NULL, schedule text DEFAULT NULL,
		over regclass DEFAULT NULL, pieces int DEFAULT NULL,
		piece_pause interval DEFAULT NULL, max_attempts int DEFAULT 1,
		retry_delay interval DEFAULT '1 s', timeout interval DEFAULT NULL,
		atomic boolean DEFAULT NULL, dedup_key text DEFAULT NULL,
		keep_rows int DEFAULT 0, notify text DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_job';
REVOKE ALL ON FUNCTION submit_job FROM PUBLIC;
COMMENT ON FUNCTION submit_job IS
	'have a command run in the background once this transaction has committed; returns the job id';

CREATE FUNCTION submit_jobs(commands text[], params jsonb DEFAULT NULL,
		name text DEFAULT NULL,
		queue text DEFAULT 'default', priority int DEFAULT 0,
		run_after timestamptz DEFAULT NULL, depends_on bigint[] DEFAULT NULL,
		max_attempts int DEFAULT 1, retry_delay interval DEFAULT '1 s',
		timeout interval DEFAULT NULL, keep_rows int DEFAULT 0,
		notify text DEFAULT NULL) RETURNS bigint[]
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_jobs';
REVOKE ALL ON FUNCTION submit_jobs FROM PUBLIC;
COMMENT ON FUNCTION submit_jobs IS
	'submit many commands at once; params is an array of arrays, one per command';

CREATE FUNCTION submit_job_each(command text, params jsonb,
		name text DEFAULT NULL,
		queue text DEFAULT 'default', priority int DEFAULT 0,
		run_after timestamptz DEFAULT NULL, depends_on bigint[] DEFAULT NULL,
		max_attempts int DEFAULT 1, retry_delay interval DEFAULT '1 s',
		timeout interval DEFAULT NULL, keep_rows int DEFAULT 0,
		notify text DEFAULT NULL) RETURNS bigint[]
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_job_each';
REVOKE ALL ON FUNCTION submit_job_each FROM PUBLIC;
COMMENT ON FUNCTION submit_job_each IS
	'submit one command for each element of params, an array of arrays';

-- Control.

CREATE FUNCTION cancel_job(job_id bigint) RETURNS boolean
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_cancel_job';
REVOKE ALL ON FUNCTION cancel_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION cancel_job(bigint) IS
	'end an unfinished job, at commit; false if it has finished';

CREATE FUNCTION retry_job(job_id bigint) RETURNS boolean
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_retry_job';
REVOKE ALL ON FUNCTION retry_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION retry_job(bigint) IS
	'queue a failed, canceled or skipped job again; false if it is none of these';

CREATE FUNCTION pause_job(job_id bigint) RETURNS boolean
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_pause_job';
REVOKE ALL ON FUNCTION pause_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION pause_job(bigint) IS
	'do not run a job until it is resumed; if it runs it is rolled back';

CREATE FUNCTION resume_job(job_id bigint) RETURNS boolean
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_resume_job';
REVOKE ALL ON FUNCTION resume_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION resume_job(bigint) IS
	'let a paused job run; false if it is not paused';

CREATE FUNCTION pause_queue(queue text) RETURNS void
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_pause_queue';
REVOKE ALL ON FUNCTION pause_queue(text) FROM PUBLIC;
COMMENT ON FUNCTION pause_queue(text) IS 'start no more jobs of a queue';

CREATE FUNCTION resume_queue(queue text) RETURNS void
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_resume_queue';
REVOKE ALL ON FUNCTION resume_queue(text) FROM PUBLIC;
COMMENT ON FUNCTION resume_queue(text) IS 'start jobs of a paused queue again';

CREATE FUNCTION set_queue_limit(queue text, max_running int) RETURNS void
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_set_queue_limit';
REVOKE ALL ON FUNCTION set_queue_limit(text, int) FROM PUBLIC;
COMMENT ON FUNCTION set_queue_limit(text, int) IS
	'run at most that many jobs of a queue at once, NULL = any number';

CREATE FUNCTION purge(older_than interval DEFAULT '7 days') RETURNS bigint
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_purge';
REVOKE ALL ON FUNCTION purge(interval) FROM PUBLIC;
COMMENT ON FUNCTION purge(interval) IS
	'forget jobs that finished longer ago; returns how many';

CREATE FUNCTION adopt_jobs() RETURNS bigint
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_adopt_jobs';
REVOKE ALL ON FUNCTION adopt_jobs() FROM PUBLIC;
COMMENT ON FUNCTION adopt_jobs() IS
	'let jobs run that were copied here from another database; returns how many';

-- Waiting, looking and running now: nothing here is granted to PUBLIC, see
-- grant_usage().

CREATE PROCEDURE wait_for_job(job_id bigint, timeout interval DEFAULT NULL)
	LANGUAGE C
	AS 'MODULE_PATHNAME', 'sabot_wait_for_job';
REVOKE ALL ON PROCEDURE wait_for_job(bigint, interval) FROM PUBLIC;
COMMENT ON PROCEDURE wait_for_job(bigint, interval) IS
	'return when a job is completed, or raise why it is not; at top level commits first what the CALL did';

CREATE PROCEDURE wait_for_jobs(job_ids bigint[], timeout interval DEFAULT NULL)
	LANGUAGE C
	AS 'MODULE_PATHNAME', 'sabot_wait_for_jobs';
REVOKE ALL ON PROCEDURE wait_for_jobs(bigint[], interval) FROM PUBLIC;
COMMENT ON PROCEDURE wait_for_jobs(bigint[], interval) IS
	'return when all of these jobs are completed, or raise why one is not';

CREATE FUNCTION job_state(job_id bigint) RETURNS job_state
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_job_state';
REVOKE ALL ON FUNCTION job_state(bigint) FROM PUBLIC;
COMMENT ON FUNCTION job_state(bigint) IS 'where a job stands now';

CREATE FUNCTION job_rows(job_id bigint) RETURNS SETOF jsonb
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_job_rows';
REVOKE ALL ON FUNCTION job_rows(bigint) FROM PUBLIC;
COMMENT ON FUNCTION job_rows(bigint) IS 'the rows that a finished job has kept';

CREATE FUNCTION run(command text, params jsonb DEFAULT NULL,
		timeout interval DEFAULT NULL) RETURNS SETOF jsonb
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_run';
REVOKE ALL ON FUNCTION run(text, jsonb, interval) FROM PUBLIC;
COMMENT ON FUNCTION run(text, jsonb, interval) IS
	'run a command now on a warm agent, in a transaction of its own, and return the rows of its last row set';
