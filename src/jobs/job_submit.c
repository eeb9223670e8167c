/*-------------------------------------------------------------------------
 *
 * job_submit.c
 *		Submitting jobs: one INSERT in the caller's transaction.
 *
 * The row belongs to the role that is current at the call, which is the
 * owner of a SECURITY DEFINER function if it is one that submits.  What is
 * wrong with its options is refused before (job_submission.c).
 *
 * IDENTIFICATION
 *		src/jobs/job_submit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_columns.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

PG_FUNCTION_INFO_V1(sabot_submit_job);
PG_FUNCTION_INFO_V1(sabot_submit_jobs);
PG_FUNCTION_INFO_V1(sabot_submit_job_each);

static const Oid single_types[P_NPARAMS] = {
	TEXTOID, OIDOID, NAMEOID, INT8OID, TEXTOID, INT4OID, TEXTOID, INT4OID,
	BOOLOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID,
	INTERVALOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID,
	INT8ARRAYOID
};
static const Oid batch_types[P_NPARAMS] = {
	TEXTOID, OIDOID, NAMEOID, INT8OID, TEXTOID, INT4OID, TEXTOID, INT4OID,
	BOOLOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID,
	INTERVALOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTARRAYOID, JSONBOID, TEXTOID,
	INT8ARRAYOID
};

#define INSERT_INTO \
	"INSERT INTO sabot.job (name, owner, owner_name, home, queue, priority, state," \
	" max_attempts, atomic, asked_atomic, keep_rows, submitted_at, run_after," \
	" retry_delay, timeout, settings, dedup_key, notify, kind, depends_on," \
	" command, params) "
#define COMMON_VALUES \
	"$1, $2, $3, $4, $5, $6, $7::sabot.job_state, $8, $9, $9, $10, $11, $12," \
	" $13, $14, $15, $16, $17, $20, $21"

static const char insert_unless_there[] =
INSERT_INTO "VALUES (" COMMON_VALUES ", $18, $19)"
" ON CONFLICT (owner, home, queue, dedup_key) WHERE dedup_key IS NOT NULL DO NOTHING"
" RETURNING job_id";
static const char insert_commands[] =
INSERT_INTO "SELECT " COMMON_VALUES ", c.command, $19"
" FROM unnest($18) AS c (command) RETURNING job_id";
static const char insert_commands_params[] =
INSERT_INTO "SELECT " COMMON_VALUES ", c.command, c.params"
" FROM ROWS FROM (unnest($18), jsonb_array_elements($19)) AS c (command, params)"
" RETURNING job_id";
static const char insert_each[] =
INSERT_INTO "SELECT " COMMON_VALUES ", $18, c.params"
" FROM jsonb_array_elements($19) AS c (params) RETURNING job_id";

/*
 * invalid - raise 22023
 */
static void
invalid(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message)));
}

/*
 * required_command - a command that must be there; raises 22004 if it is NULL
 */
static char *
required_command(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("command must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * note_submitted - have the agents told of a new job when this commits
 */
static void
note_submitted(const SabotSubmission *s, int64 job_id)
{
	if (s->state != SABOT_JOB_BLOCKED)
		sabot_pending_submit(job_id, s->priority, s->queue,
							 DatumGetObjectId(s->values[P_OWNER]),
							 s->run_after, s->submitted_at);
}

/*
 * insert_jobs - run the INSERT of a submission
 *
 * Fills *ids, in the caller's memory, and returns how many there are.
 */
static int
insert_jobs(SabotSubmission *s, const char *sql, const Oid *types, int64 **ids)
{
	MemoryContext caller = CurrentMemoryContext;
	SabotOwn	own;
	int			n;

	SPI_connect();
	sabot_own_begin(&own);
	n = sabot_spi(sql, P_NPARAMS, types, s->values, s->nulls, 0);
	*ids = MemoryContextAllocHuge(caller, sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		(*ids)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1, &isnull));
		note_submitted(s, (*ids)[i]);
	}
	sabot_own_end(&own);
	SPI_finish();
	sabot_submission_link(s, *ids, n);
	return n;
}

/*
 * sabot_submission_fill - the columns of sabot.job for a submission, but for
 * the id
 *
 * values and isnull have JOB_NCOLUMNS elements.
 */
void
sabot_submission_fill(const SabotSubmission *s, Datum *values, bool *isnull)
{
	static const int column_of[P_NVALUES] = {
		JOB_NAME, JOB_OWNER, JOB_OWNER_NAME, JOB_HOME, JOB_QUEUE,
		JOB_PRIORITY, JOB_STATE, JOB_MAX_ATTEMPTS, JOB_ATOMIC, JOB_KEEP_ROWS,
		JOB_SUBMITTED_AT, JOB_RUN_AFTER, JOB_RETRY_DELAY, JOB_TIMEOUT,
		JOB_SETTINGS, JOB_DEDUP_KEY, JOB_NOTIFY, JOB_COMMAND, JOB_PARAMS,
		JOB_KIND, JOB_DEPENDS_ON, JOB_PARENT_ID, JOB_ON_FAILURE
	};

	memset(values, 0, sizeof(Datum) * JOB_NCOLUMNS);
	memset(isnull, true, sizeof(bool) * JOB_NCOLUMNS);
	for (int i = 0; i < P_NVALUES; i++)
	{
		values[column_of[i]] = s->values[i];
		isnull[column_of[i]] = s->nulls[i] != ' ';
	}
	values[JOB_ASKED_ATOMIC] = s->values[P_ATOMIC];
	isnull[JOB_ASKED_ATOMIC] = s->nulls[P_ATOMIC] != ' ';
	values[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[s->state]);
	isnull[JOB_STATE] = false;
	isnull[JOB_ATTEMPT] = isnull[JOB_LOSSES] = isnull[JOB_FREE_RETRIES] = false;
}

/*
 * sabot_submission_insert - insert the one job of a submission without SQL;
 * returns its id
 *
 * For a single job, finding its way through SPI and the executor would take
 * longer than all the rest.
 */
int64
sabot_submission_insert(SabotSubmission *s)
{
	const SabotCatalog *cat = sabot_catalog(false);
	Datum		values[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	int64		job_id = nextval_internal(cat->sequence, false);

	sabot_submission_fill(s, values, isnull);
	values[JOB_ID] = Int64GetDatum(job_id);
	isnull[JOB_ID] = false;
	sabot_job_insert_row(cat->job, values, isnull);
	note_submitted(s, job_id);
	return job_id;
}

/*
 * find_duplicate - the unfinished job with the submission's dedup_key, or 0
 */
static int64
find_duplicate(SabotSubmission *s)
{
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID, INT8OID};
	Datum		values[] = {s->values[P_OWNER], s->values[P_QUEUE],
	s->values[P_DEDUP_KEY], s->values[P_HOME]};
	SabotOwn	own;
	int64		job_id = 0;

	SPI_connect();
	sabot_own_begin(&own);
	if (sabot_spi("SELECT job_id FROM sabot.job"
				  " WHERE owner = $1 AND queue = $2 AND dedup_key = $3 AND home = $4",
				  4, types, values, NULL, 1) > 0)
	{
		bool		isnull;

		job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull));
	}
	sabot_own_end(&own);
	SPI_finish();
	return job_id;
}

/*
 * sabot_submission_insert_once - insert one job, or find the unfinished one
 * with its dedup_key
 *
 * *inserted tells which.
 */
int64
sabot_submission_insert_once(SabotSubmission *s, bool *inserted)
{
	int64	   *ids;
	int64		job_id;

	*inserted = true;
	if (s->nulls[P_DEDUP_KEY] != ' ')
	{
		job_id = sabot_submission_insert(s);
		sabot_submission_link(s, &job_id, 1);
		return job_id;
	}
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (insert_jobs(s, insert_unless_there, single_types, &ids) > 0)
			return ids[0];
		job_id = find_duplicate(s);
		if (job_id == 0)
			continue;			/* it has finished this moment */
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " with dedup_key \"%s\" is not finished, nothing submitted",
						job_id,
						TextDatumGetCString(s->values[P_DEDUP_KEY]))));
		*inserted = false;
		return job_id;
	}
}

/*
 * SQL: sabot.submit_job(command text, params jsonb, name text, queue text,
 * priority int, run_after timestamptz, depends_on bigint[], schedule text,
 * over regclass, pieces int, piece_pause interval, max_attempts int,
 * retry_delay interval, timeout interval, atomic boolean, dedup_key text,
 * keep_rows int, notify text) RETURNS bigint - queue a command, return its id
 *
 * Errors: 22023 and 22004 for values out of range, 42601 with its position
 * for a syntax error, 08P01 for too few or too many params, 28000 for a role
 * that no agent can be, 55000 without preload, 0A000 for later features and for
 * commands that cannot be spread.
 */
Datum
sabot_submit_job(PG_FUNCTION_ARGS)
{
	SabotSubmission s;
	Jsonb	   *params = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	bool		inserted;
	SabotSpreadOrder *spread;

	sabot_submission_begin(&s, "sabot.submit_job()");
	sabot_submission_identity(&s, fcinfo, 2, 3, 4);
	sabot_submission_run_after(&s, fcinfo, 5);
	sabot_submission_attempts(&s, fcinfo, 11, 12, 13);
	sabot_submission_set_arg(&s, P_ATOMIC, fcinfo, 14);
	sabot_submission_set_arg(&s, P_DEDUP_KEY, fcinfo, 15);
	sabot_submission_results(&s, fcinfo, 16, 17);

	if (!PG_ARGISNULL(6))
		sabot_submission_depends_on(&s, PG_GETARG_ARRAYTYPE_P(6));
	sabot_submission_check_command(required_command(fcinfo, 0), params);
	sabot_submission_set_arg(&s, P_COMMAND, fcinfo, 0);
	sabot_submission_set_arg(&s, P_PARAMS, fcinfo, 1);
	spread = sabot_submission_spread(&s, fcinfo);
	if (!PG_ARGISNULL(7))
		PG_RETURN_INT64(sabot_schedule_submit(&s, PG_GETARG_TEXT_PP(7), NULL,
											  spread));
	if (spread != NULL)
		PG_RETURN_INT64(sabot_submission_insert_spread(&s, spread));
	PG_RETURN_INT64(sabot_submission_insert_once(&s, &inserted));
}

/*
 * set_batch_options - the options of submit_jobs() and submit_job_each(),
 * which have the same places in both
 */
static void
set_batch_options(SabotSubmission *s, FunctionCallInfo fcinfo, const char *function)
{
	sabot_submission_begin(s, function);
	sabot_submission_identity(s, fcinfo, 2, 3, 4);
	sabot_submission_run_after(s, fcinfo, 5);
	if (!PG_ARGISNULL(6))
		sabot_submission_depends_on(s, PG_GETARG_ARRAYTYPE_P(6));
	sabot_submission_attempts(s, fcinfo, 7, 8, 9);
	sabot_submission_results(s, fcinfo, 10, 11);
}

/*
 * check_elements - raise 22023 unless each element of params is an array, and
 * 08P01 unless each has as many elements as the command has parameters
 *
 * highest is -1 if that is not to be checked.
 */
static void
check_elements(Jsonb *params, int highest)
{
	JsonbIterator *it = JsonbIteratorInit(&params->root);
	JsonbValue	v;

	(void) JsonbIteratorNext(&it, &v, false);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		if (v.type != jbvBinary ||
			!JsonContainerIsArray(v.val.binary.data))
			invalid("each element of params must be a JSON array");
		if (highest >= 0 &&
			JsonContainerSize(v.val.binary.data) != (uint32) highest)
			sabot_params_check(highest, JsonbValueToJsonb(&v));
	}
}

/*
 * check_commands - raise 22023 unless commands is an array of commands
 *
 * Returns how many there are.
 */
static int
check_commands(ArrayType *commands)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(commands) > 1)
		invalid("commands must be a one-dimensional array");
	deconstruct_array(commands, TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (nulls[i] || VARSIZE_ANY_EXHDR(DatumGetPointer(elems[i])) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("command %d is empty", i + 1)));
	return n;
}

/*
 * SQL: sabot.submit_jobs(commands text[], params jsonb, name text, queue text,
 * priority int, run_after timestamptz, depends_on bigint[], max_attempts int,
 * retry_delay interval, timeout interval, keep_rows int, notify text) RETURNS
 * bigint[] - queue many commands at once
 *
 * params is an array of arrays, one per command.  The commands are not
 * parsed here: one with a syntax error is accepted and its job fails.
 *
 * Errors: as of submit_job(), but for those of the commands' syntax.
 */
Datum
sabot_submit_jobs(PG_FUNCTION_ARGS)
{
	SabotSubmission s;
	Jsonb	   *params = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	int64	   *ids;
	int			n;

	set_batch_options(&s, fcinfo, "sabot.submit_jobs()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("commands must not be null")));
	n = check_commands(PG_GETARG_ARRAYTYPE_P(0));
	if (params)
	{
		sabot_submission_require_array(params, "params");
		if (JB_ROOT_COUNT(params) != n)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("params has %d elements for %d commands",
							(int) JB_ROOT_COUNT(params), n)));
		check_elements(params, -1);
	}
	sabot_submission_set_arg(&s, P_COMMAND, fcinfo, 0);
	sabot_submission_set_arg(&s, P_PARAMS, fcinfo, 1);
	n = insert_jobs(&s, params ? insert_commands_params : insert_commands,
					batch_types, &ids);
	PG_RETURN_DATUM(sabot_job_ids(ids, n));
}

/*
 * SQL: sabot.submit_job_each(command text, params jsonb, ...as submit_jobs...)
 * RETURNS bigint[] - queue a job for each element of params
 *
 * Errors: as of submit_job().
 */
Datum
sabot_submit_job_each(PG_FUNCTION_ARGS)
{
	SabotSubmission s;
	Jsonb	   *params;
	char	   *command;
	int64	   *ids;
	int			n;

	set_batch_options(&s, fcinfo, "sabot.submit_job_each()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("params must not be null"),
				 errhint("Give an array of arrays: one element for each job.")));
	params = PG_GETARG_JSONB_P(1);
	sabot_submission_require_array(params, "params");
	command = required_command(fcinfo, 0);
	sabot_submission_check_syntax(command);
	check_elements(params, sabot_params_highest(command));
	sabot_submission_set_arg(&s, P_COMMAND, fcinfo, 0);
	sabot_submission_set_arg(&s, P_PARAMS, fcinfo, 1);
	n = insert_jobs(&s, insert_each, single_types, &ids);
	PG_RETURN_DATUM(sabot_job_ids(ids, n));
}
