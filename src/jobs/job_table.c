/*-------------------------------------------------------------------------
 *
 * job_table.c
 *		Reads and moves rows of sabot's tables.
 *
 * Two ways lead to the tables.  What happens inside a job's own transaction
 * (reading the job, finishing it) goes straight to the table access method:
 * the job may have made its transaction read only, serializable or anything
 * else, and its effects and its completion must commit together all the same.
 * Everything else is SQL, see job_catalog.c.
 *
 * IDENTIFICATION
 *		src/jobs/job_table.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "jobs/job_columns.h"
#include "jobs/jobs.h"

/*
 * fetch_job_tuple - copy the row of an open job
 *
 * Returns NULL if there is none, or if a transaction in progress is about to
 * delete or update it: then the job is somebody else's business.
 */
static HeapTuple
fetch_job_tuple(Relation rel, int64 job_id)
{
	Relation	index = index_open(sabot_catalog(false)->job_pkey,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	ScanKeyData key;
	IndexScanDesc scan;
	HeapTuple	result = NULL;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = SabotIndexBeginScan(rel, index, &dirty, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (result == NULL && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
			break;
		result = ExecCopySlotHeapTuple(slot);
		result->t_self = slot->tts_tid;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * fill_depends_on - what a job depends on, from a bigint[] without NULLs
 */
static void
fill_depends_on(SabotJob *job, ArrayType *ids)
{
	job->ndepends_on = ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
	job->depends_on = palloc(sizeof(int64) * Max(job->ndepends_on, 1));
	memcpy(job->depends_on, ARR_DATA_PTR(ids),
		   sizeof(int64) * job->ndepends_on);
}

/*
 * sabot_kind_is - whether a value of the column "kind" is that one
 */
bool
sabot_kind_is(Datum kind, const char *name)
{
	const void *value = DatumGetPointer(kind);

	return VARSIZE_ANY_EXHDR(value) == strlen(name) &&
		memcmp(VARDATA_ANY(value), name, strlen(name)) == 0;
}

/*
 * fill_job - a SabotJob from the values of a row
 */
static SabotJob *
fill_job(Datum *v, bool *isnull)
{
	SabotJob   *job = palloc0(sizeof(SabotJob));

#define text_or_null(n) (isnull[n] ? NULL : TextDatumGetCString(v[n]))
	job->job_id = DatumGetInt64(v[JOB_ID]);
	job->name = text_or_null(JOB_NAME);
	job->owner = DatumGetObjectId(v[JOB_OWNER]);
	job->owner_name = pstrdup(NameStr(*DatumGetName(v[JOB_OWNER_NAME])));
	job->home = DatumGetInt64(v[JOB_HOME]);
	job->queue = TextDatumGetCString(v[JOB_QUEUE]);
	job->priority = DatumGetInt32(v[JOB_PRIORITY]);
	job->state = DatumGetObjectId(v[JOB_STATE]);
	job->attempt = DatumGetInt32(v[JOB_ATTEMPT]);
	job->max_attempts = DatumGetInt32(v[JOB_MAX_ATTEMPTS]);
	job->losses = DatumGetInt32(v[JOB_LOSSES]);
	job->free_retries = DatumGetInt32(v[JOB_FREE_RETRIES]);
	job->has_atomic = !isnull[JOB_ATOMIC];
	job->atomic = job->has_atomic && DatumGetBool(v[JOB_ATOMIC]);
	job->keep_rows = DatumGetInt32(v[JOB_KEEP_ROWS]);
	job->submitted_at = DatumGetTimestampTz(v[JOB_SUBMITTED_AT]);
	job->run_after = isnull[JOB_RUN_AFTER] ? 0 :
		DatumGetTimestampTz(v[JOB_RUN_AFTER]);
	job->started_at = isnull[JOB_STARTED_AT] ? 0 :
		DatumGetTimestampTz(v[JOB_STARTED_AT]);
	job->retry_delay_ms = sabot_interval_ms(DatumGetIntervalP(v[JOB_RETRY_DELAY]));
	job->timeout_ms = isnull[JOB_TIMEOUT] ? 0 :
		sabot_interval_ms(DatumGetIntervalP(v[JOB_TIMEOUT]));
	job->command = TextDatumGetCString(v[JOB_COMMAND]);
	job->params = isnull[JOB_PARAMS] ? NULL :
		DatumGetJsonbPCopy(v[JOB_PARAMS]);
	job->settings = isnull[JOB_SETTINGS] ? NULL :
		DatumGetArrayTypePCopy(v[JOB_SETTINGS]);
	job->notify = text_or_null(JOB_NOTIFY);
	job->parent_id = isnull[JOB_PARENT_ID] ? 0 :
		DatumGetInt64(v[JOB_PARENT_ID]);
	sabot_job_set_kind(job, v[JOB_KIND]);
	job->on_failure = text_or_null(JOB_ON_FAILURE);
	job->reason = text_or_null(JOB_REASON);
	job->sqlstate = text_or_null(JOB_SQLSTATE);
	job->error = text_or_null(JOB_ERROR);
	if (!isnull[JOB_DEPENDS_ON])
		fill_depends_on(job, DatumGetArrayTypeP(v[JOB_DEPENDS_ON]));
#undef text_or_null
	return job;
}

/*
 * sabot_job_read_row - read an open job and a copy of its row, or NULL if it
 * is not there
 *
 * Both are in the current memory context.  Must be called inside a
 * transaction with an active snapshot (values may be toasted), and sees what
 * is committed now, not what the snapshot sees.
 */
SabotJob *
sabot_job_read_row(int64 job_id, HeapTuple *row)
{
	Relation	rel = table_open(sabot_catalog(false)->job, AccessShareLock);
	HeapTuple	tuple = fetch_job_tuple(rel, job_id);
	SabotJob   *job = NULL;

	if (tuple != NULL)
	{
		Datum		values[JOB_NCOLUMNS];
		bool		isnull[JOB_NCOLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		job = fill_job(values, isnull);
		job->version = HeapTupleHeaderGetRawXmin(tuple->t_data);
	}
	table_close(rel, AccessShareLock);
	*row = tuple;
	return job;
}

/*
 * sabot_job_read - the same without the row
 */
SabotJob *
sabot_job_read(int64 job_id)
{
	HeapTuple	row;
	SabotJob   *job = sabot_job_read_row(job_id, &row);

	if (row != NULL)
		heap_freetuple(row);
	return job;
}

/*
 * notices_array - the notices of an outcome as text[], 0 if there are none
 */
static Datum
notices_array(const SabotOutcome *outcome)
{
	int			kept = list_length(outcome->notices);
	Datum	   *elems = palloc(sizeof(Datum) * (kept + 1));
	int			n = 0;
	ListCell   *lc;

	if (outcome->nnotices == 0)
		return (Datum) 0;
	foreach(lc, outcome->notices)
		elems[n++] = CStringGetTextDatum((char *) lfirst(lc));
	if (outcome->nnotices > kept)
		elems[n++] = CStringGetTextDatum(psprintf("and " INT64_FORMAT " more, not kept",
												  outcome->nnotices - kept));
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * rows_array - the kept rows of an outcome as a JSON array
 */
static Datum
rows_array(const SabotOutcome *outcome)
{
	JsonbParseState *state = NULL;
	JsonbValue *result;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < outcome->nrows; i++)
	{
		JsonbValue	row;

		row.type = jbvBinary;
		row.val.binary.data = &outcome->rows[i]->root;
		row.val.binary.len = VARSIZE(outcome->rows[i]) - VARHDRSZ;
		pushJsonbValue(&state, WJB_ELEM, &row);
	}
	result = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(result));
}

/*
 * set_text - fill a column from a C string that may be NULL
 */
static void
set_text(Datum *v, bool *isnull, int column, const char *value)
{
	isnull[column] = value == NULL;
	if (value)
		v[column] = CStringGetTextDatum(value);
}

/*
 * fill_error - fill the columns of a row of history that tell of an error
 */
static void
fill_error(Datum *v, bool *isnull, const ErrorData *error,
		   const SabotOutcome *outcome)
{
	set_text(v, isnull, JOB_SQLSTATE, unpack_sql_state(error->sqlerrcode));
	set_text(v, isnull, JOB_ERROR, error->message);
	set_text(v, isnull, HISTORY_ERROR_DETAIL, error->detail);
	set_text(v, isnull, HISTORY_ERROR_HINT, error->hint);
	set_text(v, isnull, HISTORY_ERROR_CONTEXT, error->context);
	if (outcome && outcome->in_statement)
	{
		v[HISTORY_ERROR_STATEMENT] = Int32GetDatum(outcome->statement);
		isnull[HISTORY_ERROR_STATEMENT] = false;
	}
	if (error->cursorpos > 0)
	{
		v[HISTORY_ERROR_POSITION] = Int32GetDatum(error->cursorpos);
		isnull[HISTORY_ERROR_POSITION] = false;
	}
}

/*
 * fill_outcome - fill the columns of a row of history that tell what was said
 */
static void
fill_outcome(Datum *v, bool *isnull, const SabotJob *job,
			 const SabotOutcome *outcome, bool completed)
{
	set_text(v, isnull, HISTORY_COMMAND_TAG, outcome->command_tag);
	v[HISTORY_ROW_COUNT] = Int64GetDatum(outcome->row_count);
	isnull[HISTORY_ROW_COUNT] = !outcome->has_row_count;
	v[HISTORY_NOTICES] = notices_array(outcome);
	isnull[HISTORY_NOTICES] = outcome->nnotices == 0;
	if (completed && job->keep_rows > 0)
	{
		v[HISTORY_ROWS] = rows_array(outcome);
		isnull[HISTORY_ROWS] = false;
	}
}

/*
 * sabot_job_insert_row - insert a row into one of sabot's tables
 *
 * values and isnull have an element for each column.  Maintains the indexes;
 * there are no constraints to check and no triggers to fire.
 */
void
sabot_job_insert_row(Oid table, const Datum *values, const bool *isnull)
{
	Relation	rel = table_open(table, RowExclusiveLock);
	int			natts = RelationGetDescr(rel)->natts;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *result = makeNode(ResultRelInfo);

	InitResultRelInfo(result, rel, 1, NULL, 0);
	ExecOpenIndices(result, false);
	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
	table_tuple_insert(rel, slot, GetCurrentCommandId(true), 0, NULL);
	if (result->ri_NumIndices > 0)
		SabotExecInsertIndexTuples(result, slot, estate);
	ExecCloseIndices(result);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, RowExclusiveLock);
}

/*
 * fill_end - fill the columns of a row of history that tell of a job's end
 *
 * The first ones are filled from the job's row.
 */
static void
fill_end(Datum *v, bool *isnull, const SabotJob *job, const SabotEnd *end)
{
	v[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[end->state]);
	v[JOB_ATTEMPT] = Int32GetDatum(end->attempt);
	v[JOB_LOSSES] = Int32GetDatum(end->losses);
	v[JOB_ATOMIC] = BoolGetDatum(end->atomic);
	isnull[JOB_ATOMIC] = end->started_at == 0;
	v[JOB_STARTED_AT] = TimestampTzGetDatum(end->started_at);
	isnull[JOB_STARTED_AT] = end->started_at == 0;
	v[HISTORY_FINISHED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	isnull[HISTORY_FINISHED_AT] = false;
	v[HISTORY_PID] = Int32GetDatum(end->pid ? end->pid : MyProcPid);
	isnull[HISTORY_PID] = end->started_at == 0;
	set_text(v, isnull, JOB_REASON, end->reason);
	set_text(v, isnull, JOB_SQLSTATE, NULL);
	set_text(v, isnull, JOB_ERROR, NULL);
	if (end->error)
		fill_error(v, isnull, end->error, end->outcome);
	if (end->outcome)
		fill_outcome(v, isnull, job, end->outcome, end->error == NULL);
}

/*
 * sabot_job_record_child - put a child into history that has never been a row
 * of its own: a part of what its parent, which goes on, has done
 *
 * It is as its parent is, but for its kind, its end and its id.  As
 * sabot_job_move() otherwise.
 */
void
sabot_job_record_child(const SabotJob *job, const SabotEnd *end,
					   const char *kind)
{
	const SabotCatalog *cat = sabot_catalog(false);
	Relation	rel = table_open(cat->job, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Datum		v[HISTORY_NCOLUMNS] = {0};
	bool		isnull[HISTORY_NCOLUMNS];
	bool		read_only = XactReadOnly;

	memset(isnull, true, sizeof(isnull));
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job->job_id));
	scan = systable_beginscan(rel, cat->job_pkey, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "job " INT64_FORMAT " is gone", job->job_id);
	heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
	fill_end(v, isnull, job, end);
	XactReadOnly = false;
	v[JOB_ID] = Int64GetDatum(nextval_internal(cat->sequence, false));
	XactReadOnly = read_only;
	v[JOB_PARENT_ID] = Int64GetDatum(job->job_id);
	isnull[JOB_PARENT_ID] = false;
	v[JOB_KIND] = CStringGetTextDatum(kind);
	isnull[JOB_NOTIFY] = isnull[JOB_DEDUP_KEY] = true;
	sabot_job_insert_row(cat->history, v, isnull);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

/*
 * sabot_job_move - end a job in the current transaction, without a word to
 * those that wait for it
 *
 * Moves the row to history with what is known of the end.  attempt is what
 * the row counts then; atomic tells how the last attempt ran; error is NULL
 * if there was none.  Returns false, having done nothing, if the row is not
 * as the job was read anymore: the job has been cancelled, paused or
 * recovered meanwhile, and the caller must not commit its effects.  If that
 * happens this very moment, raises an error instead.
 *
 * Needs an active snapshot.  Does not care about the transaction's isolation
 * level nor whether it is read only, and fires no trigger.  In a subtransaction
 * the job is not counted as finished: that is left to the caller.
 */
bool
sabot_job_move(const SabotJob *job, const SabotEnd *end)
{
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	HeapTuple	tuple = fetch_job_tuple(rel, job->job_id);
	Datum		v[HISTORY_NCOLUMNS] = {0};
	bool		isnull[HISTORY_NCOLUMNS];
	bool		ours = false;

	memset(isnull, true, sizeof(isnull));
	if (tuple != NULL)
	{
		heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
		ours = DatumGetInt32(v[JOB_ATTEMPT]) == job->attempt &&
			DatumGetObjectId(v[JOB_STATE]) == job->state;
		if (ours)
			simple_heap_delete(rel, &tuple->t_self);
	}
	table_close(rel, NoLock);
	if (!ours)
		return false;

	fill_end(v, isnull, job, end);
	sabot_job_insert_row(sabot_catalog(false)->history, v, isnull);
	/* Jobs of another crew may have a capture, too. */
	if (job->is_stream || sabot_queue_crew(job->queue) != SABOT_AGENTS)
		sabot_stream_ended(job->job_id);
	sabot_job_notify(job, end->state);
	/* Whether a subtransaction's work stays, its caller knows. */
	if (GetCurrentTransactionNestLevel() == 1)
		sabot_count_finished(end->state, 1);
	return true;
}

/*
 * sabot_job_finish - end a job in the current transaction, and settle what
 * that means for those that wait for it
 *
 * As sabot_job_move().  In a subtransaction it returns false, too, if there
 * is anybody to tell: that cannot be taken back in part.
 */
bool
sabot_job_finish(const SabotJob *job, const SabotEnd *end)
{
	return sabot_job_move(job, end) && sabot_depend_ended(job, end);
}

/*
 * sabot_job_notify - send a job's notification in the current transaction
 */
void
sabot_job_notify(const SabotJob *job, SabotJobState state)
{
	StringInfoData buf;

	if (job->notify == NULL)
		return;
	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"job_id\":" INT64_FORMAT ",\"name\":", job->job_id);
	if (job->name)
		escape_json(&buf, job->name);
	else
		appendStringInfoString(&buf, "null");
	appendStringInfo(&buf, ",\"state\":\"%s\"}",
					 sabot_state_label(state));
	Async_Notify(job->notify, buf.data);
	pfree(buf.data);
}

/*
 * sabot_interval_ms - an interval in milliseconds, months as 30 days
 */
int64
sabot_interval_ms(const Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;

	return days * SECS_PER_DAY * 1000 + interval->time / 1000;
}

/*
 * sabot_job_ids - ids as a bigint[]
 */
Datum
sabot_job_ids(const int64 *ids, int n)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(elems, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * sabot_compare_job_ids - order of ids, for qsort()
 */
int
sabot_compare_job_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}
