/*-------------------------------------------------------------------------
 *
 * job_stream_capture.c
 *		The trigger of streams: keeps the rows that a transaction writes.
 *
 * The trigger puts rows into memory, and they go into the capture's table all
 * together, as the transaction is about to commit, or before if they become
 * too many.  That costs one record of WAL for many rows, and rows of a
 * subtransaction that is rolled back cost nothing.  It needs no rights: tables
 * are written below SQL, where nobody's rights are asked for and nobody's
 * code is run.
 *
 * Rows are numbered when all locks that their transaction will ever hold on
 * them are held, and before it commits: so of two changes of a row the later
 * one has the higher number.  Within a transaction they are numbered in the
 * order in which they were written; triggers may fire in another one.
 *
 * Numbers do not become visible in their order.  Who takes rows needs to know
 * below which number none can come anymore, or would have to look at all that
 * have ever been taken.  So a transaction takes a number first and holds, by
 * its end, a lock that tells this number, and those of its rows are higher;
 * PREPARE TRANSACTION keeps it, and no crash can leave it behind.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_capture.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_stream.h"

/* Rows, and bytes of rows, after which they are written before the commit. */
#define MAX_ROWS		1000
#define MAX_BYTES		(1024 * 1024)

/* Rows that are written at once. */
#define WRITE_ROWS		100

/* What tells our locks from others that are of no type of the server's. */
#define GUARD_MAGIC		0x5AB0

/* Where the rows of a table go, for one capture. */
typedef struct Target
{
	struct
	{
		Oid			relid;		/* of the table that fires the trigger */
		Oid			padding;
		int64		job_id;
	}			key;			/* hash key, must be first */
	bool		valid;
	bool		filling;		/* somebody is finding out what follows */
	Oid			table;			/* of captured rows, InvalidOid if none */
	TupleDesc	desc;			/* its columns */
	AttrNumber *source;			/* where in the row each comes from, from 0 */
} Target;

/* A row that is not in its table yet. */
typedef struct Row
{
	HeapTuple	tuple;
	Oid			table;
	int64		job_id;
	SubTransactionId subid;
	CommandId	cid;			/* that wrote it */
} Row;

/*
 * Rows of the transaction, in the order in which they were written, and so
 * those of the current subtransaction last.  Those before "numbered" have
 * their numbers.
 */
static MemoryContext row_context = NULL;
static Row *rows = NULL;
static int	nrows = 0;
static int	maxrows = 0;
static int	numbered = 0;
static Size nbytes = 0;

static bool guarded = false;	/* the transaction holds its lock */
static bool ending = false;		/* it is about to commit */

/* Captures of which the transaction has written rows. */
static int64 *touched = NULL;
static int	ntouched = 0;
static int	maxtouched = 0;

static HTAB *targets = NULL;

PG_FUNCTION_INFO_V1(sabot_stream_capture);

/*
 * forget_targets - relcache callback: columns may have changed
 */
static void
forget_targets(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	Target	   *target;

	hash_seq_init(&scan, targets);
	while ((target = hash_seq_search(&scan)) != NULL)
		if (relid == InvalidOid || relid == target->key.relid ||
			relid == target->table)
			target->valid = false;
}

/*
 * find_source - the column of a table with the name of a captured one, from 0
 */
static AttrNumber
find_source(TupleDesc source, Form_pg_attribute captured)
{
	for (int i = 0; i < source->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(source, i);

		if (!att->attisdropped &&
			strcmp(NameStr(att->attname), NameStr(captured->attname)) == 0)
			return i;
	}
	elog(ERROR, "column \"%s\" is not there", NameStr(captured->attname));
	return 0;					/* keep compiler quiet */
}

/*
 * warn_missing - say, once per session, that nobody takes the rows of a table
 */
static void
warn_missing(Relation rel, int64 job_id)
{
	ereport(WARNING,
			(errmsg("stream " INT64_FORMAT " does not read \"%s\": its rows are not captured",
					job_id, RelationGetRelationName(rel)),
			 errhint("Drop the trigger, which was copied without its stream.")));
}

/*
 * sabot_capture_reads - whether a capture is of a table, or of one whose
 * partition it is
 *
 * Whoever may submit streams may attach the trigger to tables of his own: that
 * must not bring rows, or columns, into streams of others.
 */
bool
sabot_capture_reads(int64 job_id, Relation rel)
{
	SabotStream *stream = sabot_stream_read(job_id);

	return stream != NULL &&
		(stream->source == RelationGetRelid(rel) ||
		 (rel->rd_rel->relispartition &&
		  list_member_oid(get_partition_ancestors(RelationGetRelid(rel)),
						  stream->source)));
}

/*
 * clear_target - forget where the rows of a table went
 */
static void
clear_target(Target *target)
{
	if (target->desc != NULL)
		FreeTupleDesc(target->desc);
	if (target->source != NULL)
		pfree(target->source);
	target->table = InvalidOid;
	target->desc = NULL;
	target->source = NULL;
}

/*
 * fill_target - find out where the rows of a table go
 */
static void
fill_target(Target *target, Relation rel)
{
	Relation	capture;
	MemoryContext old;
	bool		was_missing = target->desc == NULL && target->source != NULL;
	Oid			table = sabot_capture_reads(target->key.job_id, rel) ?
	sabot_capture_follow(target->key.job_id, rel) : InvalidOid;

	clear_target(target);
	target->table = table;
	if (!OidIsValid(table))
	{
		if (!was_missing)
			warn_missing(rel, target->key.job_id);
		target->source = MemoryContextAllocZero(CacheMemoryContext,
												sizeof(AttrNumber));
		return;
	}
	capture = table_open(target->table, AccessShareLock);
	old = MemoryContextSwitchTo(CacheMemoryContext);
	target->desc = CreateTupleDescCopy(RelationGetDescr(capture));
	target->source = palloc0(sizeof(AttrNumber) * target->desc->natts);
	MemoryContextSwitchTo(old);
	for (int i = CAPTURE_NCOLUMNS; i < target->desc->natts; i++)
		target->source[i] = find_source(RelationGetDescr(rel),
										TupleDescAttr(target->desc, i));
	table_close(capture, AccessShareLock);
}

/*
 * find_target - where the rows of a table go
 *
 * To find that out may take a new table, and an event trigger that sees this
 * created may come here in the middle of it.  What is known then is of columns
 * that are no more: it has to find out for itself.
 */
static Target *
find_target(Relation rel, const Trigger *trigger)
{
	Target		key = {0};
	Target	   *target;
	bool		found;
	bool		nested;
	bool		done;

	if (targets == NULL)
	{
		HASHCTL		info = {0};

		info.keysize = sizeof(key.key);
		info.entrysize = sizeof(Target);
		info.hcxt = CacheMemoryContext;
		targets = hash_create("sabot captures", 16, &info,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(forget_targets, (Datum) 0);
	}
	key.key.relid = RelationGetRelid(rel);
	key.key.job_id = strtoi64(trigger->tgargs[0], NULL, 10);
	target = hash_search(targets, &key.key, HASH_ENTER, &found);
	if (!found)
	{
		target->valid = target->filling = false;
		target->table = InvalidOid;
		target->desc = NULL;
		target->source = NULL;
	}
	nested = target->filling;
	for (done = target->valid && !nested; !done; done = target->valid)
	{
		/* What happens meanwhile makes it invalid again. */
		target->valid = target->filling = true;
		PG_TRY();
		{
			fill_target(target, rel);
		}
		PG_CATCH();
		{
			target->valid = false;
			target->filling = nested;
			PG_RE_THROW();
		}
		PG_END_TRY();
		target->filling = nested;
	}
	return target;
}

/*
 * form_tuple - a row as its capture's table has it, but for its number
 *
 * In the current memory context.  What lies outside of the row is fetched: it
 * may be gone by the time the row is written.
 */
static HeapTuple
form_tuple(const Target *target, TupleTableSlot *slot, const char *op)
{
	int			natts = target->desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *isnull = palloc(sizeof(bool) * natts);
	Pointer    *fetched = palloc(sizeof(Pointer) * natts);
	int			nfetched = 0;
	HeapTuple	tuple;

	slot_getallattrs(slot);
	memset(isnull, false, sizeof(bool) * CAPTURE_NCOLUMNS);
	values[CAPTURE_SEQ] = Int64GetDatum(0);
	values[CAPTURE_AT] = TimestampTzGetDatum(0);
	values[CAPTURE_OP] = CStringGetTextDatum(op);
	for (int i = CAPTURE_NCOLUMNS; i < natts; i++)
	{
		values[i] = slot->tts_values[target->source[i]];
		isnull[i] = slot->tts_isnull[target->source[i]];
		if (!isnull[i] && TupleDescAttr(target->desc, i)->attlen == -1 &&
			VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
		{
			fetched[nfetched] = (Pointer)
				detoast_external_attr((struct varlena *) DatumGetPointer(values[i]));
			values[i] = PointerGetDatum(fetched[nfetched++]);
		}
	}
	tuple = heap_form_tuple(target->desc, values, isnull);
	/* The context lives as long as the transaction, whatever is written. */
	for (int i = 0; i < nfetched; i++)
		pfree(fetched[i]);
	pfree(fetched);
	pfree(DatumGetPointer(values[CAPTURE_OP]));
	pfree(values);
	pfree(isnull);
	return tuple;
}

/*
 * command_of - the command that wrote the row in a slot
 */
static CommandId
command_of(TupleTableSlot *slot)
{
	HeapTuple	tuple;
	bool		should_free;

	if (!TTS_IS_BUFFERTUPLE(slot))
		return GetCurrentCommandId(false);
	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
		return GetCurrentCommandId(false);
	return HeapTupleHeaderGetCmin(tuple->t_data);
}

/*
 * sabot_capture_is_touched - whether rows of a capture were written in this
 * transaction
 */
bool
sabot_capture_is_touched(int64 job_id)
{
	for (int i = 0; i < ntouched; i++)
		if (touched[i] == job_id)
			return true;
	return false;
}

/*
 * sabot_capture_touch - those that read a capture are to be told at commit
 */
void
sabot_capture_touch(int64 job_id)
{
	if (sabot_capture_is_touched(job_id))
		return;
	if (ntouched == maxtouched)
	{
		maxtouched = Max(4, maxtouched * 2);
		touched = touched == NULL ?
			MemoryContextAlloc(TopTransactionContext, sizeof(int64) * maxtouched) :
			repalloc(touched, sizeof(int64) * maxtouched);
	}
	touched[ntouched++] = job_id;
}

/*
 * add_row - keep a row; it is in row_context
 */
static void
add_row(HeapTuple tuple, const Target *target, CommandId cid)
{
	Row		   *row;

	if (nrows == maxrows)
	{
		maxrows = Max(16, maxrows * 2);
		rows = rows == NULL ?
			MemoryContextAlloc(row_context, sizeof(Row) * maxrows) :
			repalloc_huge(rows, sizeof(Row) * maxrows);
	}
	row = &rows[nrows++];
	row->tuple = tuple;
	row->table = target->table;
	row->job_id = target->key.job_id;
	row->subid = GetCurrentSubTransactionId();
	row->cid = cid;
	nbytes += tuple->t_len;
	sabot_capture_touch(row->job_id);
}

/*
 * sabot_capture_guard_tag - the lock of a transaction whose numbers come after
 * a block
 */
void
sabot_capture_guard_tag(LOCKTAG *tag, int64 block)
{
	memset(tag, 0, sizeof(*tag));
	tag->locktag_field1 = MyDatabaseId;
	tag->locktag_field2 = (uint32) ((uint64) block >> 32);
	tag->locktag_field3 = (uint32) block;
	tag->locktag_field4 = GUARD_MAGIC;
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = DEFAULT_LOCKMETHOD;
}

/*
 * sabot_capture_guarded - whether a lock is such a one of this database, and
 * of which block
 */
bool
sabot_capture_guarded(const LOCKTAG *tag, int64 *block)
{
	*block = (int64) (((uint64) tag->locktag_field2 << 32) |
					  tag->locktag_field3);
	return tag->locktag_type == LOCKTAG_USERLOCK &&
		tag->locktag_lockmethodid == DEFAULT_LOCKMETHOD &&
		tag->locktag_field1 == MyDatabaseId &&
		tag->locktag_field4 == GUARD_MAGIC;
}

/*
 * guard - tell, to the end of the transaction, from where its numbers begin
 *
 * The lock is the whole transaction's, whatever becomes of the subtransaction
 * we are in.
 */
static void
guard(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;

	if (guarded)
		return;
	sabot_capture_guard_tag(&tag, sabot_capture_next_block());
	CurrentResourceOwner = TopTransactionResourceOwner;
	(void) LockAcquire(&tag, AccessShareLock, false, false);
	CurrentResourceOwner = owner;
	guarded = true;
}

/*
 * order_rows - bring rows that have no number yet into the order in which they
 * were written
 *
 * They nearly always are.
 */
static void
order_rows(void)
{
	for (int i = numbered + 1; i < nrows; i++)
	{
		Row			row = rows[i];
		int			j = i;

		for (; j > numbered && rows[j - 1].cid > row.cid; j--)
			rows[j] = rows[j - 1];
		rows[j] = row;
	}
}

/*
 * number_rows - give rows their numbers, and the time
 *
 * Both are the first columns of their tuples and never NULL.
 */
static void
number_rows(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		seq = 0;

	if (numbered == nrows)
		return;
	guard();
	order_rows();
	for (int i = numbered; i < nrows; i++)
	{
		HeapTupleHeader header = rows[i].tuple->t_data;
		char	   *data = (char *) header + header->t_hoff;

		if ((i - numbered) % SABOT_SEQ_BLOCK == 0)
			seq = sabot_capture_next_block() * SABOT_SEQ_BLOCK;
		memcpy(data, &seq, sizeof(int64));
		memcpy(data + sizeof(int64), &now, sizeof(TimestampTz));
		seq++;
	}
	numbered = nrows;
}

/*
 * write_some - write rows into a capture's table
 */
static void
write_some(Relation rel, Relation index, struct IndexInfo *info,
		   HeapTuple *tuples, int n)
{
	TupleTableSlot *slots[WRITE_ROWS];

	for (int i = 0; i < n; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(rel),
											&TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuples[i], slots[i], false);
	}
	if (n == 1)
		table_tuple_insert(rel, slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(rel, slots, n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < n; i++)
	{
		bool		isnull = false;
		Datum		seq = slot_getattr(slots[i], CAPTURE_SEQ + 1, &isnull);

		(void) index_insert(index, &seq, &isnull, &slots[i]->tts_tid, rel,
							UNIQUE_CHECK_NO, false, info);
		ExecDropSingleTupleTableSlot(slots[i]);
	}
}

/*
 * write_table - write the rows from one on that go into one table
 */
static void
write_table(Oid table, int first)
{
	Relation	rel = try_table_open(table, RowExclusiveLock);
	Relation	index;
	struct IndexInfo *info;
	HeapTuple	tuples[WRITE_ROWS];
	int			n = 0;

	/* The transaction itself may have ended the capture. */
	if (rel == NULL)
		return;
	index = index_open(linitial_oid(RelationGetIndexList(rel)),
					   RowExclusiveLock);
	info = BuildIndexInfo(index);
	for (int i = first; i < nrows; i++)
	{
		if (rows[i].table != table)
			continue;
		tuples[n++] = rows[i].tuple;
		if (n == WRITE_ROWS)
		{
			write_some(rel, index, info, tuples, n);
			n = 0;
		}
	}
	if (n > 0)
		write_some(rel, index, info, tuples, n);
	index_close(index, NoLock);
	table_close(rel, NoLock);
}

/*
 * write_rows - write the rows of the current subtransaction
 *
 * Those of the ones around it have to wait for these: what is written now is
 * rolled back with it.
 */
static void
write_rows(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	MemoryContext context;
	MemoryContext old;
	int			first = nrows;
	bool		needs_snapshot = !HaveRegisteredOrActiveSnapshot();

	while (first > 0 && rows[first - 1].subid == subid)
		first--;
	if (first == nrows)
		return;
	number_rows();
	/* What is too long for a row is not to be put aside without one. */
	if (needs_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	context = AllocSetContextCreate(CurrentMemoryContext, "sabot write",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	for (int i = first; i < nrows; i++)
	{
		Oid			table = rows[i].table;
		bool		done = false;

		for (int j = first; j < i && !done; j++)
			done = rows[j].table == table;
		if (!done)
			write_table(table, first);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (needs_snapshot)
		PopActiveSnapshot();
	for (int i = first; i < nrows; i++)
	{
		nbytes -= rows[i].tuple->t_len;
		heap_freetuple(rows[i].tuple);
	}
	nrows = numbered = first;
}

/*
 * SQL: sabot.stream_capture() RETURNS trigger - keep a row that was inserted
 * or updated for the stream whose id is the trigger's argument
 *
 * 39P01 if it is called otherwise than by such a trigger.
 */
Datum
sabot_stream_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	bool		is_update;
	TupleTableSlot *slot;
	Target	   *target;
	MemoryContext old;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(data->tg_event) ||
		data->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is for triggers of streams only",
						"sabot.stream_capture")));
	is_update = TRIGGER_FIRED_BY_UPDATE(data->tg_event);
	slot = is_update ? data->tg_newslot : data->tg_trigslot;
	target = find_target(data->tg_relation, data->tg_trigger);
	if (!OidIsValid(target->table))
		return PointerGetDatum(NULL);

	if (row_context == NULL)
		row_context = AllocSetContextCreate(TopTransactionContext,
											"sabot captured rows",
											ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(row_context);
	add_row(form_tuple(target, slot, is_update ? "UPDATE" : "INSERT"), target,
			command_of(slot));
	MemoryContextSwitchTo(old);
	if (nrows >= MAX_ROWS || nbytes >= MAX_BYTES || ending)
		write_rows();
	return PointerGetDatum(NULL);
}

/*
 * forget - the transaction has ended, and the memory with it
 */
static void
forget(void)
{
	row_context = NULL;
	rows = NULL;
	touched = NULL;
	nrows = maxrows = numbered = ntouched = maxtouched = 0;
	nbytes = 0;
	guarded = ending = false;
}

/*
 * end_of_transaction - transaction callback
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			ending = true;
			write_rows();
			sabot_capture_watch_end(event);
			for (int i = 0; i < ntouched; i++)
				sabot_capture_wake_begin(touched[i]);
			if (ntouched > 0 && event == XACT_EVENT_PRE_PREPARE)
				sabot_pool_prepare_work();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			sabot_capture_watch_end(event);
			forget();
			break;
		default:
			break;
	}
}

/*
 * sabot_capture_committed - a transaction has committed: tell those that read
 * its rows
 *
 * Cannot fail.  Its locks have been released.
 */
void
sabot_capture_committed(void)
{
	for (int i = 0; i < ntouched; i++)
		sabot_capture_wake(touched[i]);
	sabot_capture_watch_end(XACT_EVENT_COMMIT);
	forget();
}

/*
 * end_of_subtransaction - subtransaction callback
 *
 * Rows of one that is rolled back are forgotten, those of others become its
 * parent's.
 */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	sabot_capture_watch_subend(event, subid, parent);
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (nrows > 0 && rows[nrows - 1].subid == subid)
		{
			nbytes -= rows[--nrows].tuple->t_len;
			heap_freetuple(rows[nrows].tuple);
		}
		numbered = Min(numbered, nrows);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = nrows - 1; i >= 0 && rows[i].subid == subid; i--)
			rows[i].subid = parent;
	}
}

/*
 * sabot_capture_install_hooks - install the callbacks of captures
 */
void
sabot_capture_install_hooks(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
	sabot_capture_watch();
}
