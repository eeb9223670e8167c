/*-------------------------------------------------------------------------
 *
 * job_look.c
 *		Looking at one job: where does it stand, what did it leave?
 *
 * Whoever waits for a job looks at it at every wake-up, and how long that
 * takes is part of every wait.  Hence no query: the row is fetched by its
 * primary key straight from the index.  That needs no change of user either,
 * since nothing of it is checked by the executor; the one rule there is, that
 * a job is seen by members of its owner, is applied here.
 *
 * The look is always taken with the latest snapshot.  A wait under REPEATABLE
 * READ would otherwise never see what it waits for.
 *
 * IDENTIFICATION
 *		src/jobs/job_look.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "jobs/job_columns.h"
#include "jobs/job_wait.h"
#include "jobs/jobs.h"

PG_FUNCTION_INFO_V1(sabot_job_state);
PG_FUNCTION_INFO_V1(sabot_job_rows);

/*
 * get_column - a column of a row
 */
static Datum
get_column(Relation rel, HeapTuple tuple, int column, bool *isnull)
{
	return heap_getattr(tuple, column + 1, RelationGetDescr(rel), isnull);
}

/*
 * get_text - a column of type text as a C string, NULL if it is NULL
 */
static char *
get_text(Relation rel, HeapTuple tuple, int column)
{
	bool		isnull;
	Datum		value = get_column(rel, tuple, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * state_of - the state whose enum value has an OID
 */
static SabotJobState
state_of(Oid value)
{
	const SabotCatalog *catalog = sabot_catalog(false);

	for (int state = 0; state < SABOT_JOB_NSTATES; state++)
		if (catalog->states[state] == value)
			return state;
	elog(ERROR, "unrecognized job state: %u", value);
}

/*
 * fill_open - what only unfinished jobs have
 */
static void
fill_open(Relation rel, HeapTuple tuple, SabotJobLook *look)
{
	bool		isnull;
	Datum		value;

	value = get_column(rel, tuple, JOB_HOME, &isnull);
	look->copied = DatumGetInt64(value) != sabot_catalog(false)->home;
	value = get_column(rel, tuple, JOB_RUN_AFTER, &isnull);
	look->run_after = isnull ? 0 : DatumGetTimestampTz(value);
	look->queue = get_text(rel, tuple, JOB_QUEUE);
	look->reason = get_text(rel, tuple, JOB_REASON);
	look->error = get_text(rel, tuple, JOB_ERROR);
	value = get_column(rel, tuple, JOB_KIND, &isnull);
	look->is_spread = sabot_kind_is(value, "spread");
	look->is_graph = look->is_spread || sabot_kind_is(value, "graph");
	look->is_schedule = sabot_kind_is(value, "schedule");
	look->is_stream = sabot_kind_is(value, "stream");
	look->ours = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
}

/*
 * fill_end - how a job that did not complete came to its end
 */
static void
fill_end(Relation rel, HeapTuple tuple, SabotJobLook *look)
{
	look->reason = get_text(rel, tuple, JOB_REASON);
	look->sqlstate = get_text(rel, tuple, JOB_SQLSTATE);
	look->error = get_text(rel, tuple, JOB_ERROR);
	look->error_detail = get_text(rel, tuple, HISTORY_ERROR_DETAIL);
	look->error_hint = get_text(rel, tuple, HISTORY_ERROR_HINT);
	look->error_context = get_text(rel, tuple, HISTORY_ERROR_CONTEXT);
}

/*
 * fill_rows - the rows a finished job has kept
 */
static void
fill_rows(Relation rel, HeapTuple tuple, SabotJobLook *look)
{
	bool		isnull;
	Datum		value;

	value = get_column(rel, tuple, JOB_KEEP_ROWS, &isnull);
	look->keep_rows = DatumGetInt32(value);
	value = get_column(rel, tuple, HISTORY_ROWS, &isnull);
	look->rows = isnull ? NULL : DatumGetJsonbPCopy(value);
}

/*
 * fill_look - fill a look from the row of a job, if the caller may see it
 */
static void
fill_look(Relation rel, HeapTuple tuple, bool want_rows, SabotJobLook *look)
{
	bool		isnull;
	Datum		mine;

	/* The views' rule: copied rows go by the name of the owner. */
	mine = DirectFunctionCall3(sabot_is_mine,
							   get_column(rel, tuple, JOB_OWNER, &isnull),
							   get_column(rel, tuple, JOB_OWNER_NAME, &isnull),
							   get_column(rel, tuple, JOB_HOME, &isnull));
	if (!DatumGetBool(mine))
		return;

	look->found = true;
	look->state = state_of(DatumGetObjectId(get_column(rel, tuple, JOB_STATE,
													   &isnull)));
	if (!look->finished)
		fill_open(rel, tuple, look);
	else if (look->state != SABOT_JOB_COMPLETED)
		fill_end(rel, tuple, look);
	if (look->finished && want_rows)
		fill_rows(rel, tuple, look);
}

/*
 * look_in - look for a job in one of the two tables, by its primary key
 *
 * Returns whether its row is there; look->found tells whether the caller may
 * know.
 */
static bool
look_in(Oid relid, Oid indexid, int64 job_id, Snapshot snapshot,
		bool want_rows, SabotJobLook *look)
{
	Relation	rel = table_open(relid, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		there;

	ScanKeyInit(&key, JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(rel, indexid, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	there = HeapTupleIsValid(tuple);
	if (there)
		fill_look(rel, tuple, want_rows, look);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return there;
}

/*
 * sabot_job_look - see how a job stands now
 *
 * look->found is false when there is no such job or it is not the caller's to
 * see.  want_rows asks for the rows it has kept.  Must be called in a
 * transaction; leaves no snapshot behind.
 */
void
sabot_job_look(int64 job_id, bool want_rows, SabotJobLook *look)
{
	const SabotCatalog *catalog = sabot_catalog(false);
	Snapshot	snapshot;
	Oid			history_pkey;

	memset(look, 0, sizeof(*look));
	history_pkey = get_relname_relid("job_history_pkey", catalog->schema);
	PushActiveSnapshot(GetLatestSnapshot());
	snapshot = GetActiveSnapshot();

	/* One snapshot for both: a job is always in exactly one of them. */
	look->finished = true;
	if (!look_in(catalog->history, history_pkey, job_id, snapshot, want_rows,
				 look))
	{
		look->finished = false;
		(void) look_in(catalog->job, catalog->job_pkey, job_id, snapshot,
					   want_rows, look);
	}
	PopActiveSnapshot();
}

/*
 * sabot_job_queue_limit - how many jobs of a queue may run at once, 0 = any
 *
 * Must be called in a transaction.
 */
int
sabot_job_queue_limit(const char *queue)
{
	const SabotCatalog *catalog = sabot_catalog(false);
	Oid			relid = get_relname_relid("queue", catalog->schema);
	Relation	rel = table_open(relid, AccessShareLock);
	Datum		name = CStringGetTextDatum(queue);
	int			limit = 0;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	PushActiveSnapshot(GetLatestSnapshot());
	ScanKeyEntryInitialize(&key, 0, get_attnum(relid, "queue"),
						   BTEqualStrategyNumber, InvalidOid,
						   DEFAULT_COLLATION_OID, F_TEXTEQ, name);
	scan = systable_beginscan(rel, get_relname_relid("queue_pkey",
													 catalog->schema),
							  true, GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple,
										 get_attnum(relid, "max_running"),
										 RelationGetDescr(rel), &isnull);

		limit = isnull ? 0 : DatumGetInt32(value);
	}
	systable_endscan(scan);
	PopActiveSnapshot();
	table_close(rel, AccessShareLock);
	return limit;
}

/*
 * sabot_job_missing - raise 42704 for a job that is not there or not seen
 */
void
sabot_job_missing(int64 job_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("job %lld does not exist", (long long) job_id)));
	pg_unreachable();
}

/*
 * sabot_job_current_state - the state to show, which the row does not tell
 *
 * running is whether an agent works on it.
 */
SabotJobState
sabot_job_current_state(const SabotJobLook *look, bool running)
{
	if (look->finished)
		return look->state;
	if (look->copied)
		return SABOT_JOB_PAUSED;
	if (running)
		return SABOT_JOB_RUNNING;
	if (look->is_graph && !look->is_spread && look->state != SABOT_JOB_PAUSED)
		return SABOT_JOB_BLOCKED;
	if (look->state == SABOT_JOB_SCHEDULED &&
		look->run_after <= GetCurrentTimestamp())
		return SABOT_JOB_QUEUED;
	return look->state;
}

/*
 * SQL: sabot.job_state(job_id bigint) RETURNS sabot.job_state
 *
 * Where a job stands now, whatever the transaction's snapshot.  Raises 42704
 * if there is no such job for the caller.
 */
Datum
sabot_job_state(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	SabotJobLook look;
	SabotJobState state;
	SabotSlot	slot;
	bool		running;

	/*
	 * In this order: a job that ends in between is seen as finished, and one
	 * that begins in between was queued a moment ago.
	 */
	running = sabot_pool_find_work(MyDatabaseId, job_id, &slot);
	sabot_job_look(job_id, false, &look);
	if (!look.found)
		sabot_job_missing(job_id);
	if (look.is_graph && look.state != SABOT_JOB_PAUSED)
		running |= sabot_graph_is_running(job_id);
	state = sabot_job_current_state(&look, running);
	PG_RETURN_OID(sabot_catalog(false)->states[state]);
}

/*
 * check_rows - raise 55000 unless a job has rows to return
 */
static void
check_rows(int64 job_id, const SabotJobLook *look)
{
	if (!look->found)
		sabot_job_missing(job_id);
	if (!look->finished)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job %lld is not finished", (long long) job_id),
				 errhint("Call sabot.wait_for_job first.")));
	if (look->keep_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job %lld kept none of its rows", (long long) job_id),
				 errhint("Submit it with keep_rows.")));
	if (look->rows == NULL && look->state != SABOT_JOB_COMPLETED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job %lld kept none of its rows", (long long) job_id),
				 errdetail("It ended in state \"%s\".",
						   sabot_state_label(look->state))));
}

/*
 * SQL: sabot.job_rows(job_id bigint) RETURNS SETOF jsonb
 *
 * The rows a finished job has kept, in their order.  Raises 42704 if there is
 * no such job for the caller, 55000 if it is not finished or has kept none.
 */
Datum
sabot_job_rows(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SabotJobLook look;
	uint32		nrows;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	sabot_job_look(job_id, true, &look);
	check_rows(job_id, &look);

	nrows = look.rows ? JsonContainerSize(&look.rows->root) : 0;
	for (uint32 i = 0; i < nrows; i++)
	{
		JsonbValue *element;
		Datum		row;
		bool		isnull = false;

		CHECK_FOR_INTERRUPTS();
		element = getIthJsonbValueFromContainer(&look.rows->root, i);
		row = JsonbPGetDatum(JsonbValueToJsonb(element));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &row,
							 &isnull);
		pfree(DatumGetPointer(row));
		pfree(element);
	}
	return (Datum) 0;
}
