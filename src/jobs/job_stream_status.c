/*-------------------------------------------------------------------------
 *
 * job_stream_status.c
 *		What the views need to know of streams beyond the tables.
 *
 * Each capture has tables of its own, which no view can name; so they are
 * read here, below SQL, by who may see the stream.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_status.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_columns.h"
#include "jobs/job_stream.h"

PG_FUNCTION_INFO_V1(sabot_stream_lag);
PG_FUNCTION_INFO_V1(sabot_sql_stream_waits);

/* Rows that wait. */
typedef struct Waiting
{
	int64		rows;
	TimestampTz since;			/* when the first was written, 0 if none */
} Waiting;

/*
 * may_see - whether the caller may know of a stream, and it has not ended
 */
static bool
may_see(int64 job_id)
{
	const SabotCatalog *cat = sabot_catalog(false);
	Relation	rel = table_open(cat->job, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(sabot_stream_snapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	bool		result;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(rel, cat->job_pkey, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	result = HeapTupleIsValid(tuple) &&
		(sabot_sees_all_jobs() ||
		 has_privs_of_role(GetUserId(),
						   DatumGetObjectId(heap_getattr(tuple, JOB_OWNER + 1,
														 RelationGetDescr(rel),
														 &isnull))));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * count_part - count the committed rows of a table of captured rows; false if
 * it is locked
 *
 * Who looks at the streams of all is not to wait for one of their owners.
 */
static bool
count_part(Oid table, Waiting *waiting)
{
	Relation	rel;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;

	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return false;
	rel = try_table_open(table, NoLock);
	/* It is dropped when it has become empty. */
	if (rel == NULL)
	{
		UnlockRelationOid(table, AccessShareLock);
		return true;
	}
	snapshot = RegisterSnapshot(sabot_stream_snapshot());
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		TimestampTz at = DatumGetTimestampTz(slot_getattr(slot, CAPTURE_AT + 1,
														  &isnull));

		CHECK_FOR_INTERRUPTS();
		waiting->rows++;
		if (waiting->since == 0 || at < waiting->since)
			waiting->since = at;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return true;
}

/*
 * count_waiting - count what waits of a stream; false if that cannot be told
 * now
 */
static bool
count_waiting(int64 job_id, Waiting *waiting)
{
	int		   *parts;
	int			nparts = sabot_capture_parts(job_id, &parts);

	for (int i = 0; i < nparts; i++)
	{
		Oid			table = sabot_capture_table(job_id, parts[i]);

		if (OidIsValid(table) && !count_part(table, waiting))
			return false;
	}
	return true;
}

/*
 * is_capturing - whether a stream's trigger is there and fires
 */
static bool
is_capturing(int64 job_id, Oid source)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	Oid			oid = get_trigger_oid(source, psprintf("sabot_stream_" INT64_FORMAT,
													   job_id), true);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		result;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	result = HeapTupleIsValid(tuple) &&
		((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled == TRIGGER_FIRES_ALWAYS;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * SQL: sabot.stream_lag(job_id bigint, OUT lag_rows bigint, OUT lag interval,
 * OUT capturing boolean) - how many captured rows wait, since when the oldest
 * does, and whether the trigger is there and fires
 *
 * NULLs for what is no unfinished stream that the caller may see; the first two
 * while a transaction that changes the types of its columns has it locked.
 */
Datum
sabot_stream_lag(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	Waiting		waiting = {0};
	SabotStream *stream = NULL;
	Datum		values[3] = {0};
	bool		nulls[3] = {true, true, true};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (may_see(job_id))
		stream = sabot_stream_read(job_id);
	if (stream != NULL)
	{
		nulls[0] = nulls[1] = !count_waiting(job_id, &waiting);
		values[0] = Int64GetDatum(waiting.rows);
		values[1] = DirectFunctionCall2(timestamp_mi,
										TimestampTzGetDatum(waiting.rows > 0 ? GetCurrentTimestamp() : 0),
										TimestampTzGetDatum(waiting.since));
		values[2] = BoolGetDatum(is_capturing(job_id, stream->source));
		nulls[2] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/*
 * SQL: sabot.stream_waits(job_id bigint) RETURNS boolean - whether there is
 * something to do for a stream; false if the caller may not see it
 */
Datum
sabot_sql_stream_waits(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);

	PG_RETURN_BOOL(may_see(job_id) && sabot_stream_waits(job_id));
}
