--
-- llm: the LLM lane
--
-- A job of the lane is a row of sabot.job like any other, with what it asks
-- for in sabot.llm_job.  Its items are written once, when the source is read;
-- what became of them is added beside them and never updated, so that an item
-- costs one insertion, and a crash finds either all of an answer or nothing.
-- The counters in sabot.llm_count are brought up to date about once a second;
-- views add what came since, in the same snapshot, so their numbers agree.
--

CREATE TABLE llm_endpoint (
	name          text    NOT NULL PRIMARY KEY,
	url           text    NOT NULL,
	api           text    NOT NULL CHECK (api IN ('ollama', 'openai')),
	max_in_flight integer NOT NULL CHECK (max_in_flight >= 1),
	roles         name[]
) USING heap;

COMMENT ON TABLE llm_endpoint IS
	'servers that LLM jobs may name; "default" is there even without a row';
COMMENT ON COLUMN llm_endpoint.max_in_flight IS
	'requests open at once, in the whole instance';
COMMENT ON COLUMN llm_endpoint.roles IS
	'roles whose members may use it, NULL = every role';

-- Apart, so that no dump contains it.
CREATE TABLE llm_secret (
	endpoint      text    NOT NULL PRIMARY KEY,
	secret        text    NOT NULL
) USING heap;

COMMENT ON TABLE llm_secret IS
	'bearer tokens of endpoints, or file:/path to read them from';

CREATE TABLE llm_job (
	job_id        bigint  NOT NULL PRIMARY KEY,
	embedding     boolean NOT NULL,
	source        text    NOT NULL,
	prompt        text    NOT NULL,
	system        text,
	model         text    NOT NULL,
	format        jsonb,
	options       jsonb,
	target        text,
	key           text[],
	output        text,
	fallback      text,
	endpoint      text    NOT NULL,
	timeout       interval NOT NULL,
	max_attempts  integer NOT NULL,
	batch_size    integer NOT NULL,
	reuse         boolean NOT NULL,
	follow        boolean NOT NULL DEFAULT false,
	total         bigint,
	started_at    timestamptz,
	retry_at      timestamptz
) USING heap;

COMMENT ON TABLE llm_job IS 'what LLM and embedding jobs ask for';
COMMENT ON COLUMN llm_job.prompt IS 'template: {column} stands for that column of the source';
COMMENT ON COLUMN llm_job.target IS 'table answers are written to, qualified and quoted';
COMMENT ON COLUMN llm_job.key IS 'columns of source and target that find the row';
COMMENT ON COLUMN llm_job.total IS 'number of items, NULL until the source was read';
COMMENT ON COLUMN llm_job.retry_at IS
	'when one item is tried, of a job that paused because none got an answer';

CREATE TABLE llm_item (
	job_id        bigint  NOT NULL,
	item          bigint  NOT NULL,
	key           jsonb,
	prompt        text,
	same_as       bigint,
	followed      boolean NOT NULL DEFAULT false,
	settled       text,
	PRIMARY KEY (job_id, item)
) USING heap;

COMMENT ON TABLE llm_item IS 'rows of sources, with their prompts';
COMMENT ON COLUMN llm_item.item IS 'number within the job, from 1';
COMMENT ON COLUMN llm_item.same_as IS 'the first item with the same prompt, whose answer is reused';
COMMENT ON COLUMN llm_item.followed IS 'its row is asked for again when it changes';
COMMENT ON COLUMN llm_item.settled IS
	'the prompt of its row once the answer was written, if that has changed it';

CREATE INDEX llm_item_same_idx ON llm_item (job_id, same_as, item)
	WHERE same_as IS NOT NULL;

-- Hashes, as neither keys nor prompts need fit into an index.
CREATE INDEX llm_item_key_idx ON llm_item (job_id, jsonb_hash_extended(key, 0))
	WHERE followed;
CREATE INDEX llm_item_prompt_idx
	ON llm_item (job_id, hashtextextended(prompt COLLATE "C", 0))
	WHERE followed AND same_as IS NULL;

-- Jobs that follow a table have ever more answers, and now and then an item.
CREATE TABLE llm_waiting (
	job_id        bigint  NOT NULL,
	item          bigint  NOT NULL,
	PRIMARY KEY (job_id, item)
) USING heap;

COMMENT ON TABLE llm_waiting IS 'items without an answer, of jobs that follow a table';

CREATE TABLE llm_answer (
	job_id        bigint  NOT NULL,
	item          bigint  NOT NULL,
	state         text    NOT NULL,
	answered_by   text,
	error_class   text,
	error         text,
	attempts      integer NOT NULL,
	latency_ms    double precision,
	queue_ms      double precision,
	load_ms       double precision,
	output_ms     double precision,
	prompt_tokens integer,
	output_tokens integer,
	model         text,
	model_digest  text,
	finished_at   timestamptz NOT NULL,
	response      text,
	value         jsonb,
	PRIMARY KEY (job_id, item)
) USING heap;

COMMENT ON TABLE llm_answer IS 'what became of items; those not here wait';
COMMENT ON COLUMN llm_answer.finished_at IS 'later for each item of a job than for all before it';

CREATE INDEX llm_answer_finished_idx ON llm_answer (job_id, finished_at);

CREATE TABLE llm_failure (
	job_id        bigint  NOT NULL,
	item          bigint  NOT NULL,
	error_class   text    NOT NULL,
	error         text,
	latency_ms    double precision,
	finished_at   timestamptz NOT NULL,
	lost          boolean NOT NULL DEFAULT false
) USING heap;

COMMENT ON TABLE llm_failure IS 'attempts that did not answer their item';
COMMENT ON COLUMN llm_failure.lost IS
	'noted beforehand, and still there because the worker did not survive it';

CREATE INDEX llm_failure_idx ON llm_failure (job_id, item);

-- For the worker only, and of no use in a copy, so that no dump contains it.
CREATE TABLE llm_refusal (
	job_id        bigint  NOT NULL,
	item          bigint  NOT NULL,
	times         integer NOT NULL,
	PRIMARY KEY (job_id, item)
) USING heap;

COMMENT ON TABLE llm_refusal IS
	'how often the server refused items that wait (403, 429, 503), which may be its fault or theirs';

CREATE TABLE llm_count (
	job_id        bigint  NOT NULL PRIMARY KEY,
	done          bigint  NOT NULL DEFAULT 0,
	fallback      bigint  NOT NULL DEFAULT 0,
	failed        bigint  NOT NULL DEFAULT 0,
	skipped       bigint  NOT NULL DEFAULT 0,
	reused        bigint  NOT NULL DEFAULT 0,
	answered      bigint  NOT NULL DEFAULT 0,
	attempts      bigint  NOT NULL DEFAULT 0,
	counted_at    timestamptz NOT NULL DEFAULT '-infinity',
	run_ms        double precision NOT NULL DEFAULT 0,
	cpu_ms        double precision NOT NULL DEFAULT 0,
	connections   bigint  NOT NULL DEFAULT 0,
	most_in_flight integer NOT NULL DEFAULT 0,
	rss_bytes     bigint
) USING heap;

COMMENT ON TABLE llm_count IS
	'answers counted so far, and what the worker has used';
COMMENT ON COLUMN llm_count.answered IS 'items that the model has answered';
COMMENT ON COLUMN llm_count.attempts IS 'requests made for the items counted';
COMMENT ON COLUMN llm_count.counted_at IS 'finished_at of the last answer counted';
COMMENT ON COLUMN llm_count.run_ms IS 'time a worker has had the job, in ms';

SELECT pg_catalog.pg_extension_config_dump('llm_endpoint', '');
SELECT pg_catalog.pg_extension_config_dump('llm_job', '');
SELECT pg_catalog.pg_extension_config_dump('llm_item', '');
SELECT pg_catalog.pg_extension_config_dump('llm_waiting', '');
SELECT pg_catalog.pg_extension_config_dump('llm_answer', '');
SELECT pg_catalog.pg_extension_config_dump('llm_failure', '');
SELECT pg_catalog.pg_extension_config_dump('llm_count', '');

CREATE FUNCTION submit_llm_job(source text, prompt text,
		model text DEFAULT NULL, system text DEFAULT NULL,
		format jsonb DEFAULT NULL, options jsonb DEFAULT NULL,
		target regclass DEFAULT NULL, key text[] DEFAULT NULL,
		output text DEFAULT NULL, fallback text DEFAULT NULL,
		endpoint text DEFAULT 'default', timeout interval DEFAULT '30 s',
		max_attempts int DEFAULT 2, name text DEFAULT NULL,
		priority int DEFAULT 0, run_after timestamptz DEFAULT NULL,
		depends_on bigint[] DEFAULT NULL, follow boolean DEFAULT false,
		reuse boolean DEFAULT true, notify text DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_llm_job';
REVOKE ALL ON FUNCTION submit_llm_job FROM PUBLIC;
COMMENT ON FUNCTION submit_llm_job IS
	'have a model answer a prompt for each row of a query, in the background; returns the job id';

CREATE FUNCTION submit_embedding_job(source text, input text,
		model text DEFAULT NULL, target regclass DEFAULT NULL,
		key text[] DEFAULT NULL, output text DEFAULT NULL,
		batch_size int DEFAULT 32, endpoint text DEFAULT 'default',
		timeout interval DEFAULT '30 s', max_attempts int DEFAULT 2,
		name text DEFAULT NULL, priority int DEFAULT 0,
		run_after timestamptz DEFAULT NULL, depends_on bigint[] DEFAULT NULL,
		follow boolean DEFAULT false, reuse boolean DEFAULT true,
		notify text DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_submit_embedding_job';
REVOKE ALL ON FUNCTION submit_embedding_job FROM PUBLIC;
COMMENT ON FUNCTION submit_embedding_job IS
	'have a model embed a text for each row of a query, in the background; returns the job id';

CREATE FUNCTION preview_llm_job(source text, prompt text,
		system text DEFAULT NULL, rows int DEFAULT 3) RETURNS SETOF text
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_preview_llm_job';
REVOKE ALL ON FUNCTION preview_llm_job FROM PUBLIC;
COMMENT ON FUNCTION preview_llm_job IS
	'the prompts of the first rows of a query; sends nothing';

CREATE FUNCTION retry_llm_items(job_id bigint, error_class text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_retry_llm_items';
REVOKE ALL ON FUNCTION retry_llm_items FROM PUBLIC;
COMMENT ON FUNCTION retry_llm_items IS
	'ask again for items without an answer of the model, all or those of one error class; returns how many';

CREATE FUNCTION add_llm_endpoint(name text, url text,
		api text DEFAULT 'ollama', max_in_flight int DEFAULT 1,
		secret text DEFAULT NULL, roles regrole[] DEFAULT NULL) RETURNS void
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_add_llm_endpoint';
REVOKE ALL ON FUNCTION add_llm_endpoint FROM PUBLIC;
COMMENT ON FUNCTION add_llm_endpoint IS
	'add a server that LLM jobs may name, or change it; roles and secret stay as they are if not given, empty ones remove them';

CREATE FUNCTION drop_llm_endpoint(name text) RETURNS void
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_drop_llm_endpoint';
REVOKE ALL ON FUNCTION drop_llm_endpoint FROM PUBLIC;
COMMENT ON FUNCTION drop_llm_endpoint IS
	'remove a server that no unfinished job names';

CREATE FUNCTION check_llm(endpoint text DEFAULT 'default',
		model text DEFAULT NULL)
	RETURNS TABLE (subject text, ok boolean, detail text, advice text)
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_check_llm';
REVOKE ALL ON FUNCTION check_llm FROM PUBLIC;
COMMENT ON FUNCTION check_llm IS
	'try a server and a model, step by step, and say what to change';
