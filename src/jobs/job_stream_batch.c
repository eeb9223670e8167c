/*-------------------------------------------------------------------------
 *
 * job_stream_batch.c
 *		Takes captured rows, and forgets those that were handed over.
 *
 * The position of a stream is what is still in its table: a batch's rows are
 * deleted in the transaction that has their effects.  So in whatever order
 * transactions commit, no row can be passed over, and none comes twice.
 *
 * Rows are taken in the order of their numbers, from the stream's floor on:
 * the deleted ones below it need not be passed again, and while somebody holds
 * an old snapshot they stay there.  The floor is how far the numbers of all
 * transactions that are under way have come, see job_stream_capture.c.
 *
 * All this happens in the transaction of the command, below SQL, as this may
 * have made it read only or anything else.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_batch.c
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
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "jobs/job_row.h"
#include "jobs/job_stream.h"

/* A scan of a part's rows, in the order of their numbers. */
typedef struct PartScan
{
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	int64		until;
} PartScan;

/*
 * begin_locked_scan - scan the committed rows of a table from a number to
 * another; it is locked
 *
 * Returns false if the table is gone: its capture has ended, or it was empty.
 */
static bool
begin_locked_scan(PartScan *s, Oid table, int64 from, int64 until)
{
	ScanKeyData key;

	s->rel = try_table_open(table, NoLock);
	if (s->rel == NULL)
	{
		UnlockRelationOid(table, AccessShareLock);
		return false;
	}
	s->index = index_open(linitial_oid(RelationGetIndexList(s->rel)),
						  AccessShareLock);
	s->snapshot = RegisterSnapshot(sabot_stream_snapshot());
	s->slot = table_slot_create(s->rel, NULL);
	s->until = until;
	ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(from));
	s->scan = SabotIndexBeginScan(s->rel, s->index, s->snapshot, 1);
	index_rescan(s->scan, &key, 1, NULL, 0);
	return true;
}

/*
 * begin_scan - the same, of a table that is not locked yet, or not there
 */
static bool
begin_scan(PartScan *s, Oid table, int64 from, int64 until)
{
	if (!OidIsValid(table))
		return false;
	LockRelationOid(table, AccessShareLock);
	return begin_locked_scan(s, table, from, until);
}

/*
 * next_row - whether there is one more row; it is in the slot
 */
static bool
next_row(PartScan *s)
{
	bool		isnull;

	CHECK_FOR_INTERRUPTS();
	return index_getnext_slot(s->scan, ForwardScanDirection, s->slot) &&
		DatumGetInt64(slot_getattr(s->slot, CAPTURE_SEQ + 1, &isnull)) <= s->until;
}

/*
 * end_scan - end a scan
 */
static void
end_scan(PartScan *s)
{
	index_endscan(s->scan);
	ExecDropSingleTupleTableSlot(s->slot);
	UnregisterSnapshot(s->snapshot);
	index_close(s->index, AccessShareLock);
	table_close(s->rel, AccessShareLock);
}

/*
 * sabot_capture_has_rows - whether a capture has committed rows with numbers
 * from floor to until
 *
 * *part is the one that has them, else the first; -1 if there is none.
 */
bool
sabot_capture_has_rows(int64 job_id, int64 floor, int64 until, int *part)
{
	int		   *parts;
	int			nparts = sabot_capture_parts(job_id, &parts);

	*part = nparts > 0 ? parts[0] : -1;
	for (int i = 0; i < nparts; i++)
	{
		PartScan	s;
		bool		found;

		if (!begin_scan(&s, sabot_capture_table(job_id, parts[i]), floor,
						until))
			continue;
		found = next_row(&s);
		end_scan(&s);
		if (!found)
			continue;
		*part = parts[i];
		return true;
	}
	return false;
}

/*
 * sabot_capture_may_have_rows - whether a capture has, or may have, committed
 * rows with numbers from floor on
 *
 * Does not wait for who has changed the types of their columns and not
 * committed that: so somebody's open transaction does not keep a prober from
 * the jobs of all others.
 */
bool
sabot_capture_may_have_rows(int64 job_id, int64 floor)
{
	int		   *parts;
	int			nparts = sabot_capture_parts(job_id, &parts);
	bool		found = false;

	for (int i = 0; i < nparts && !found; i++)
	{
		Oid			table = sabot_capture_table(job_id, parts[i]);
		PartScan	s;

		if (!OidIsValid(table))
			continue;
		if (!ConditionalLockRelationOid(table, AccessShareLock))
			return true;
		if (!begin_locked_scan(&s, table, floor, PG_INT64_MAX))
			continue;
		found = next_row(&s);
		end_scan(&s);
	}
	return found;
}

/*
 * find_floor - a number that none of the rows which are not committed yet is
 * below
 *
 * Who begins to give out numbers after we have taken ours gets higher ones;
 * who has begun before holds its lock, or has ended, and then its rows are
 * seen by who looks after this.
 */
static int64
find_floor(void)
{
	int64		block = sabot_capture_next_block();
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		int64		guarded;

		if (sabot_capture_guarded(&locks->locks[i].locktag, &guarded))
			block = Min(block, guarded);
	}
	pfree(locks->locks);
	pfree(locks);
	return block * SABOT_SEQ_BLOCK;
}

/*
 * batch_desc - the columns of "batch": those of the source, sabot_op, sabot_seq
 */
static TupleDesc
batch_desc(TupleDesc captured)
{
	int			natts = captured->natts - 1;
	TupleDesc	desc = CreateTemplateTupleDesc(natts);
	AttrNumber	n = 0;

	for (int i = CAPTURE_NCOLUMNS; i < captured->natts; i++)
	{
		TupleDescCopyEntry(desc, ++n, captured, i + 1);
		/* It may have been dropped, as the type of a column was. */
		if (TupleDescAttr(captured, i)->attisdropped)
			TupleDescInitEntry(desc, n, NULL, INT4OID, -1, 0);
	}
	TupleDescCopyEntry(desc, ++n, captured, CAPTURE_OP + 1);
	TupleDescCopyEntry(desc, ++n, captured, CAPTURE_SEQ + 1);
	return desc;
}

/*
 * put_row - put the row in a scan's slot into a batch
 */
static void
put_row(SabotBatch *batch, TupleTableSlot *slot)
{
	int			natts = batch->desc->natts;
	int			ncolumns = natts - 2;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *isnull = palloc(sizeof(bool) * natts);

	slot_getallattrs(slot);
	memcpy(values, slot->tts_values + CAPTURE_NCOLUMNS,
		   sizeof(Datum) * ncolumns);
	memcpy(isnull, slot->tts_isnull + CAPTURE_NCOLUMNS,
		   sizeof(bool) * ncolumns);
	values[ncolumns] = slot->tts_values[CAPTURE_OP];
	values[ncolumns + 1] = slot->tts_values[CAPTURE_SEQ];
	isnull[ncolumns] = isnull[ncolumns + 1] = false;
	tuplestore_putvalues(batch->store, batch->desc, values, isnull);
	batch->tids[batch->nrows] = slot->tts_tid;
	batch->seqs[batch->nrows++] = DatumGetInt64(values[ncolumns + 1]);
	pfree(values);
	pfree(isnull);
}

/*
 * make_env - what makes "batch" known to the command
 */
static QueryEnvironment *
make_env(TupleDesc desc, Tuplestorestate *store, int nrows)
{
	QueryEnvironment *env = create_queryEnv();
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));

	enr->md.name = "batch";
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = nrows;
	enr->reldata = store;
	register_ENR(env, enr);
	return env;
}

/*
 * sabot_batch_env_of - where "batch" is known as it would be taken from a
 * table of captured rows; nothing can be executed there
 */
QueryEnvironment *
sabot_batch_env_of(TupleDesc captured)
{
	return make_env(batch_desc(captured), NULL, 0);
}

/*
 * sabot_batch_env - where "batch" is known
 */
QueryEnvironment *
sabot_batch_env(const SabotBatch *batch)
{
	return batch->env;
}

/*
 * sabot_batch_take - the first rows of a capture, at most limit, with numbers
 * from floor to until
 *
 * They are all of one part, so that they have the same columns, and NULL is
 * returned only if there is no part at all.  They stay where they are until
 * they are forgotten.  In the current memory context, which must not outlive
 * the transaction.
 */
SabotBatch *
sabot_batch_take(int64 job_id, int64 floor, int64 until, int limit)
{
	SabotBatch *batch = palloc0(sizeof(SabotBatch));
	int64		lowest = find_floor();
	PartScan	s;
	int			part;
	int		   *parts;
	int			nparts;
	bool		more;

	(void) sabot_capture_has_rows(job_id, floor, until, &part);
	if (part < 0)
		return NULL;
	batch->table = sabot_capture_table(job_id, part);
	if (!begin_scan(&s, batch->table, floor, until))
		return NULL;
	batch->store = tuplestore_begin_heap(false, false, work_mem);
	batch->tids = MemoryContextAllocHuge(CurrentMemoryContext,
										 sizeof(ItemPointerData) * limit);
	batch->seqs = MemoryContextAllocHuge(CurrentMemoryContext,
										 sizeof(int64) * limit);
	batch->desc = batch_desc(RelationGetDescr(s.rel));
	while ((more = next_row(&s)) && batch->nrows < limit)
		put_row(batch, s.slot);
	end_scan(&s);

	nparts = sabot_capture_parts(job_id, &parts);
	batch->all = !more && parts[nparts - 1] == part;
	batch->floor = floor;
	if (batch->all && until == PG_INT64_MAX)
		batch->floor = Max(floor, lowest);
	else if (parts[nparts - 1] == part && batch->nrows > 0)
		batch->floor = Max(floor, Min(lowest,
									  batch->seqs[batch->nrows - 1] + 1));
	batch->env = make_env(batch->desc, batch->store, batch->nrows);
	return batch;
}

/*
 * sabot_batch_forget - delete the rows of a batch: they were handed over
 */
void
sabot_batch_forget(const SabotBatch *batch)
{
	Relation	rel = table_open(batch->table, RowExclusiveLock);

	for (int i = 0; i < batch->nrows; i++)
	{
		ItemPointerData tid = batch->tids[i];

		simple_heap_delete(rel, &tid);
	}
	table_close(rel, NoLock);
}

/*
 * find_stream - copy the row of a stream as it is now, NULL if it is gone
 */
static HeapTuple
find_stream(Relation rel, int64 job_id)
{
	Snapshot	snapshot = RegisterSnapshot(sabot_stream_snapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(rel, SabotPrimaryKeyIndex(rel), true, snapshot,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return tuple;
}

/*
 * open_streams - open sabot.stream
 */
static Relation
open_streams(LOCKMODE lockmode)
{
	return table_open(get_relname_relid("stream",
										sabot_catalog(false)->schema),
					  lockmode);
}

/*
 * sabot_stream_read - read a stream, or NULL if there is none
 */
SabotStream *
sabot_stream_read(int64 job_id)
{
	Relation	rel = open_streams(AccessShareLock);
	HeapTuple	tuple = find_stream(rel, job_id);
	SabotStream *stream = NULL;

	if (tuple != NULL)
	{
		Datum		v[STREAM_NCOLUMNS];
		bool		isnull[STREAM_NCOLUMNS];
		ArrayType  *suspects;

		heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
		stream = palloc0(sizeof(SabotStream));
		stream->job_id = job_id;
		stream->source = DatumGetObjectId(v[STREAM_SOURCE]);
		stream->source_name = TextDatumGetCString(v[STREAM_SOURCE_NAME]);
		stream->batch_rows = DatumGetInt32(v[STREAM_BATCH_ROWS]);
		stream->floor = DatumGetInt64(v[STREAM_FLOOR]);
		stream->failed = DatumGetBool(v[STREAM_FAILED]);
		stream->tried_to = DatumGetInt64(v[STREAM_TRIED_TO]);
		stream->tries = DatumGetInt32(v[STREAM_TRIES]);
		suspects = DatumGetArrayTypePCopy(v[STREAM_SUSPECTS]);
		stream->nsuspects = ArrayGetNItems(ARR_NDIM(suspects),
										   ARR_DIMS(suspects));
		stream->suspects = palloc(sizeof(int64) * (stream->nsuspects + 2));
		memcpy(stream->suspects, ARR_DATA_PTR(suspects),
			   sizeof(int64) * stream->nsuspects);
	}
	table_close(rel, AccessShareLock);
	return stream;
}

/*
 * suspects_array - the pieces of a failed batch as bigint[]
 */
static Datum
suspects_array(const SabotStream *stream)
{
	Datum	   *elems = palloc(sizeof(Datum) * (stream->nsuspects + 1));

	for (int i = 0; i < stream->nsuspects; i++)
		elems[i] = Int64GetDatum(stream->suspects[i]);
	return PointerGetDatum(construct_array(elems, stream->nsuspects, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/*
 * sabot_stream_update - write down where a stream stands, and add to what it
 * has counted
 *
 * Only its agent does that.
 */
void
sabot_stream_update(const SabotStream *stream, int rows, int batches, int dead)
{
	Relation	rel = open_streams(RowExclusiveLock);
	HeapTuple	tuple = find_stream(rel, stream->job_id);
	SabotRowWriter *writer;
	Datum		v[STREAM_NCOLUMNS];
	bool		isnull[STREAM_NCOLUMNS];

	if (tuple == NULL)
		elog(ERROR, "stream " INT64_FORMAT " is gone", stream->job_id);
	heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
	v[STREAM_FLOOR] = Int64GetDatum(stream->floor);
	v[STREAM_SUSPECTS] = suspects_array(stream);
	v[STREAM_FAILED] = BoolGetDatum(stream->failed);
	v[STREAM_TRIED_TO] = Int64GetDatum(stream->tried_to);
	v[STREAM_TRIES] = Int32GetDatum(stream->tries);
	v[STREAM_BATCHES] = Int64GetDatum(DatumGetInt64(v[STREAM_BATCHES]) + batches);
	v[STREAM_ROWS] = Int64GetDatum(DatumGetInt64(v[STREAM_ROWS]) + rows);
	v[STREAM_DEAD] = Int64GetDatum(DatumGetInt64(v[STREAM_DEAD]) + dead);
	writer = sabot_row_writer_open(rel);
	sabot_row_update(writer, tuple, v, isnull);
	sabot_row_writer_close(writer);
	table_close(rel, NoLock);
}
