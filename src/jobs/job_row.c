/*-------------------------------------------------------------------------
 *
 * job_row.c
 *		Looks at rows of open jobs, locks and updates them, below SQL.
 *
 * What a job waits for and what waits for it is settled inside the
 * transactions that end jobs, whatever these have done to their transaction:
 * so no snapshot of theirs and no isolation level may have a say.  A look
 * tells apart what is open for sure, what somebody is ending this moment, and
 * what is gone.
 *
 * Without a snapshot a row that is being replaced by a new version can be
 * missed, if the new one comes into the index behind the scan, or is not yet
 * committed when the scan comes by, and the old one goes before it is fetched.
 * So what is not found is looked for twice.
 *
 * IDENTIFICATION
 *		src/jobs/job_row.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "jobs/job_columns.h"
#include "jobs/job_row.h"

/* What it takes to replace rows of a relation. */
struct SabotRowWriter
{
	Relation	rel;
	TupleTableSlot *slot;
	EState	   *estate;
	ResultRelInfo *result;
};

/*
 * scan_begin - begin a scan of an index for bigints from first to last, seeing
 * what is not committed yet
 */
static IndexScanDesc
scan_begin(Relation rel, Relation index, int64 first, int64 last,
		   SnapshotData *dirty)
{
	ScanKeyData keys[2];
	int			nkeys = first == last ? 1 : 2;
	IndexScanDesc scan;

	InitDirtySnapshot(*dirty);
	if (nkeys == 1)
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(first));
	else
	{
		ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(first));
		ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE,
					Int64GetDatum(last));
	}
	scan = SabotIndexBeginScan(rel, index, dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	return scan;
}

/*
 * version_presence - what one version of a row tells, as a dirty scan found it
 *
 * A version that another transaction has inserted is of a job that is new, or
 * finished and about to be retried, or it replaces one that was there before.
 */
static SabotPresence
version_presence(TupleTableSlot *slot, const SnapshotData *dirty)
{
	bool		should_free;
	HeapTuple	tuple;
	bool		deleted;

	if (TransactionIdIsValid(dirty->xmin))
		return SABOT_ROW_COMING;
	if (!TransactionIdIsValid(dirty->xmax))
		return SABOT_ROW_OPEN;
	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	deleted = ItemPointerEquals(&tuple->t_data->t_ctid, &slot->tts_tid);
	if (should_free)
		heap_freetuple(tuple);
	return deleted ? SABOT_ROW_ENDING : SABOT_ROW_OPEN;
}

/*
 * strongest_presence - the most that the rows with values from first to last
 * tell
 *
 * Values of SabotPresence are in the order of what they tell.
 */
static SabotPresence
strongest_presence(Relation rel, Oid indexid, int64 first, int64 last)
{
	Relation	index = index_open(indexid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan = scan_begin(rel, index, first, last, &dirty);
	SabotPresence result = SABOT_ROW_GONE;

	/* From the end: jobs with higher ids are likely to end later. */
	while (result != SABOT_ROW_OPEN &&
		   index_getnext_slot(scan, BackwardScanDirection, slot))
		result = Max(result, version_presence(slot, &dirty));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * sabot_row_presence - whether a job is open
 *
 * rel is sabot.job.
 */
SabotPresence
sabot_row_presence(Relation rel, int64 job_id)
{
	Oid			index = sabot_catalog(false)->job_pkey;
	SabotPresence result = strongest_presence(rel, index, job_id, job_id);

	return result >= SABOT_ROW_ENDING ? result :
		strongest_presence(rel, index, job_id, job_id);
}

/*
 * sabot_row_none_left - whether all jobs with ids from first to last are gone
 * for sure
 *
 * rel is sabot.job.
 */
bool
sabot_row_none_left(Relation rel, int64 first, int64 last)
{
	Oid			index = sabot_catalog(false)->job_pkey;

	for (int i = 0; i < 2; i++)
		if (strongest_presence(rel, index, first, last) != SABOT_ROW_GONE)
			return false;
	return true;
}

/*
 * sabot_row_children - whether a job has open children, and how open these are
 */
SabotPresence
sabot_row_children(Relation rel, int64 job_id)
{
	Oid			index = sabot_catalog(false)->job_parent;
	SabotPresence result = strongest_presence(rel, index, job_id, job_id);

	return result == SABOT_ROW_OPEN ? result :
		strongest_presence(rel, index, job_id, job_id);
}

/*
 * is_written_briefly - whether who writes the row of a job of this kind does so
 * for a moment
 *
 * Other rows are written by agents in the transactions of the jobs' commands.
 */
static bool
is_written_briefly(int64 job_id, Datum kind)
{
	SabotSlot	slot;

	return sabot_kind_is(kind, "graph") || sabot_kind_is(kind, "schedule") ||
		(sabot_kind_is(kind, "spread") &&
		 !sabot_pool_find_work(MyDatabaseId, job_id, &slot));
}

/*
 * brief_writer - a transaction that is about to insert, replace or delete a
 * job's row and can be waited for, or InvalidTransactionId
 */
static TransactionId
brief_writer(Relation rel, int64 job_id)
{
	Relation	index = index_open(sabot_catalog(false)->job_pkey,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan = scan_begin(rel, index, job_id, job_id, &dirty);
	TransactionId xid = InvalidTransactionId;
	bool		isnull;

	while (!TransactionIdIsValid(xid) &&
		   index_getnext_slot(scan, ForwardScanDirection, slot))
		if (is_written_briefly(job_id, slot_getattr(slot, JOB_KIND + 1, &isnull)))
			xid = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return xid;
}

/*
 * sabot_row_read - sabot_job_read() for who needs to know of a graph or a
 * schedule: waits for those that are about to change its row
 *
 * Locks nothing, so that what is to be locked before the row can be.
 */
SabotJob *
sabot_row_read(Relation rel, int64 job_id)
{
	for (;;)
	{
		SabotJob   *job = sabot_job_read(job_id);
		TransactionId xid;

		if (job != NULL)
			return job;
		xid = brief_writer(rel, job_id);
		if (!TransactionIdIsValid(xid))
			return sabot_job_read(job_id);
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	}
}

/*
 * sabot_row_list_children - ids of the open children of a job, ascending;
 * returns how many
 *
 * As it is now, whatever the transaction's snapshot.
 */
int
sabot_row_list_children(Relation rel, int64 parent_id, int64 **ids)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			n = 0;
	int			room = 64;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	*ids = palloc(sizeof(int64) * room);
	ScanKeyInit(&key, JOB_PARENT_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(parent_id));
	scan = systable_beginscan(rel, sabot_catalog(false)->job_parent, true,
							  snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		if (n == room)
			*ids = repalloc_huge(*ids, sizeof(int64) * (room *= 2));
		(*ids)[n++] = DatumGetInt64(heap_getattr(tuple, JOB_ID + 1,
												 RelationGetDescr(rel),
												 &isnull));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return n;
}

/*
 * find_version - find a version of a job's row, the newest if there are more
 * than one
 */
static bool
find_version(Relation rel, int64 job_id, ItemPointer tid)
{
	Relation	index = index_open(sabot_catalog(false)->job_pkey,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan = scan_begin(rel, index, job_id, job_id, &dirty);
	bool		found = false;

	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		/* The one that others are about to replace leads to the new one. */
		if (TransactionIdIsValid(dirty.xmin))
			continue;
		*tid = slot->tts_tid;
		found = true;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return found;
}

/*
 * lock_row - lock the row of an open job until our transaction ends
 *
 * Returns a copy of the row as it is then, or NULL if it is gone or somebody
 * has it locked whom the policy says not to wait for.
 */
static HeapTuple
lock_row(Relation rel, int64 job_id, LockTupleMode mode,
		 LockWaitPolicy policy)
{
	ItemPointerData tid;
	TupleTableSlot *slot;
	TM_FailureData failure;
	TM_Result	result;
	HeapTuple	tuple = NULL;
	bool		found = false;

	/* Again, as a new version may come to the index behind the first scan. */
	for (int i = 0; i < 2 && !found; i++)
		found = find_version(rel, job_id, &tid);
	if (!found)
		return NULL;
	slot = table_slot_create(rel, NULL);
	result = table_tuple_lock(rel, &tid, SnapshotSelf, slot,
							  GetCurrentCommandId(false), mode, policy,
							  TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
	if (result == TM_Ok)
	{
		tuple = ExecCopySlotHeapTuple(slot);
		tuple->t_self = slot->tts_tid;
	}
	else if (result != TM_Deleted && result != TM_WouldBlock)
		elog(ERROR, "unexpected result of locking a job: %d", (int) result);
	ExecDropSingleTupleTableSlot(slot);
	return tuple;
}

/*
 * sabot_row_lock - lock the row of an open job until our transaction ends
 *
 * Waits for who has it locked.  Returns a copy of the row as it is then, or
 * NULL if it is gone.
 */
HeapTuple
sabot_row_lock(Relation rel, int64 job_id, LockTupleMode mode)
{
	return lock_row(rel, job_id, mode, LockWaitBlock);
}

/*
 * sabot_row_try_lock - the same without waiting for anybody; whether it is
 * locked now
 */
bool
sabot_row_try_lock(Relation rel, int64 job_id, LockTupleMode mode)
{
	return lock_row(rel, job_id, mode, LockWaitSkip) != NULL;
}

/*
 * sabot_row_writer_open - get ready to replace rows
 *
 * In the current memory context, and for no longer than that or the
 * transaction lasts.
 */
SabotRowWriter *
sabot_row_writer_open(Relation rel)
{
	SabotRowWriter *writer = palloc0(sizeof(SabotRowWriter));

	writer->rel = rel;
	writer->slot = table_slot_create(rel, NULL);
	writer->estate = CreateExecutorState();
	writer->result = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->result, rel, 1, NULL, 0);
	ExecOpenIndices(writer->result, false);
	return writer;
}

/*
 * sabot_row_writer_close - give back what that takes
 */
void
sabot_row_writer_close(SabotRowWriter *writer)
{
	ExecCloseIndices(writer->result);
	ExecDropSingleTupleTableSlot(writer->slot);
	FreeExecutorState(writer->estate);
	pfree(writer);
}

/*
 * sabot_row_next_blocked - the first blocked child of a job whose id is higher
 * than one, 0 if there is none
 *
 * What others are changing this moment does not count.
 */
int64
sabot_row_next_blocked(Relation rel, int64 parent_id, int64 after)
{
	Relation	index = index_open(sabot_catalog(false)->job_parent,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Oid			blocked = sabot_catalog(false)->states[SABOT_JOB_BLOCKED];
	int64		result = 0;
	SnapshotData dirty;
	ScanKeyData keys[2];
	IndexScanDesc scan;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(parent_id));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	scan = SabotIndexBeginScan(rel, index, &dirty, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	while (result == 0 && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		if (!TransactionIdIsValid(dirty.xmin) &&
			!TransactionIdIsValid(dirty.xmax) &&
			DatumGetObjectId(slot_getattr(slot, JOB_STATE + 1, &isnull)) == blocked)
			result = DatumGetInt64(slot_getattr(slot, JOB_ID + 1, &isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * replace_row - replace a version of a row
 *
 * values and isnull are all columns of the new one.  Waits for who has the row
 * locked; returns false, having done nothing, if that was to replace it.
 */
static bool
replace_row(SabotRowWriter *writer, HeapTuple old, const Datum *values,
			const bool *isnull)
{
	int			natts = RelationGetDescr(writer->rel)->natts;
	TupleTableSlot *slot = writer->slot;
	SabotUpdateIndexes indexes;
	TM_FailureData failure;
	LockTupleMode mode;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
	if (table_tuple_update(writer->rel, &old->t_self, slot,
						   GetCurrentCommandId(true), SnapshotSelf,
						   InvalidSnapshot, true, &failure, &mode,
						   &indexes) != TM_Ok)
		return false;
	if (SabotMustUpdateIndexes(indexes) && writer->result->ri_NumIndices > 0)
		SabotExecInsertIndexTuples(writer->result, slot, writer->estate);
	ResetPerTupleExprContext(writer->estate);
	CommandCounterIncrement();
	return true;
}

/*
 * sabot_row_update - replace a row that our transaction has locked
 *
 * values and isnull are all of its columns.  The new version is to be seen by
 * what follows in this transaction.
 */
void
sabot_row_update(SabotRowWriter *writer, HeapTuple old, const Datum *values,
				 const bool *isnull)
{
	if (!replace_row(writer, old, values, isnull))
		elog(ERROR, "row of a job was replaced though it was locked");
}

/*
 * sabot_row_try_set_state - set the state of a row that was only read, and why
 * it is so
 *
 * reason may be NULL.  Waits for who has the row locked; returns false, having
 * done nothing, if it is not as it was read then.
 */
bool
sabot_row_try_set_state(SabotRowWriter *writer, HeapTuple old,
						SabotJobState state, const char *reason)
{
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];

	heap_deform_tuple(old, RelationGetDescr(writer->rel), v, isnull);
	v[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[state]);
	isnull[JOB_REASON] = reason == NULL;
	if (reason)
		v[JOB_REASON] = CStringGetTextDatum(reason);
	return replace_row(writer, old, v, isnull);
}

/*
 * sabot_row_set_state - the same for a row that our transaction has locked
 */
void
sabot_row_set_state(SabotRowWriter *writer, HeapTuple old,
					SabotJobState state, const char *reason)
{
	if (!sabot_row_try_set_state(writer, old, state, reason))
		elog(ERROR, "row of a job was replaced though it was locked");
}
