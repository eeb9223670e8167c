/*-------------------------------------------------------------------------
 *
 * job_spread_end.c
 *		What the end of a piece means for the others, and what the last one
 *		leaves of all of them.
 *
 * Runs in the transaction that ends a piece, whatever that has done to it: so
 * it is below SQL, and looks with a snapshot of its own (job_depend.c).
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_end.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_columns.h"
#include "jobs/job_row.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"

/* Columns of sabot.job_spread, from 1. */
#define SPREAD_JOB_ID		1
#define SPREAD_PIECE_PAUSE	4

/* A piece that has completed. */
typedef struct Done
{
	int64		job_id;
	char	   *name;
	int64		row_count;
	char	   *tag;
} Done;

/*
 * own_relid - one of sabot's tables or indexes
 */
static Oid
own_relid(const char *name)
{
	return get_relname_relid(name, sabot_catalog(false)->schema);
}

/*
 * read_pause - the pause between pieces of a job; NULL if there is none
 *
 * Needs an active snapshot.
 */
static Interval *
read_pause(int64 job_id)
{
	Relation	rel = table_open(own_relid("job_spread"), AccessShareLock);
	Interval   *pause = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, SPREAD_JOB_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(rel, own_relid("job_spread_pkey"), true,
							  GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, SPREAD_PIECE_PAUSE,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
		{
			pause = palloc(sizeof(Interval));
			*pause = *DatumGetIntervalP(value);
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return pause;
}

/*
 * schedule - schedule a piece that was blocked, whose row is locked
 */
static void
schedule(Relation rel, HeapTuple tuple, const SabotJob *piece,
		 const Interval *pause)
{
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	Datum		run_after = DirectFunctionCall2(timestamptz_pl_interval,
												TimestampTzGetDatum(GetCurrentTimestamp()),
												PointerGetDatum(pause));
	SabotRowWriter *writer;

	heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
	v[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[SABOT_JOB_SCHEDULED]);
	v[JOB_RUN_AFTER] = run_after;
	isnull[JOB_RUN_AFTER] = false;
	writer = sabot_row_writer_open(rel);
	sabot_row_update(writer, tuple, v, isnull);
	sabot_row_writer_close(writer);
	sabot_pending_submit(piece->job_id, piece->priority, piece->queue,
						 piece->owner, DatumGetTimestampTz(run_after), 0);
}

/*
 * schedule_next - schedule the next blocked piece after one; returns whether
 * there was one
 *
 * Those that others have locked are theirs to schedule, or to end.
 */
static bool
schedule_next(Relation rel, int64 parent_id, int64 after,
			  const Interval *pause)
{
	while ((after = sabot_row_next_blocked(rel, parent_id, after)) != 0)
	{
		HeapTuple	tuple;
		SabotJob   *piece;

		if (!sabot_row_try_lock(rel, after, LockTupleNoKeyExclusive))
			continue;
		tuple = sabot_row_lock(rel, after, LockTupleNoKeyExclusive);
		piece = tuple != NULL ? sabot_job_read(after) : NULL;
		if (piece != NULL && piece->state ==
			sabot_catalog(false)->states[SABOT_JOB_BLOCKED])
		{
			schedule(rel, tuple, piece, pause);
			return true;
		}
	}
	return false;
}

/*
 * sabot_spread_go_on - a piece has ended that was not blocked: if there is to
 * be a pause between pieces, the next one runs after it
 *
 * rel is sabot.job, in the transaction that has ended the piece.
 */
void
sabot_spread_go_on(Relation rel, const SabotJob *ended)
{
	Interval   *pause;

	if (ended->state == sabot_catalog(false)->states[SABOT_JOB_BLOCKED])
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	pause = read_pause(ended->parent_id);
	if (pause != NULL &&
		!schedule_next(rel, ended->parent_id, ended->job_id, pause))
		(void) schedule_next(rel, ended->parent_id, 0, pause);
	PopActiveSnapshot();
}

/*
 * read_done - a piece from its row of history
 */
static Done *
read_done(Relation history, HeapTuple tuple)
{
	Done	   *done = palloc0(sizeof(Done));
	Datum		v[HISTORY_NCOLUMNS];
	bool		isnull[HISTORY_NCOLUMNS];

	heap_deform_tuple(tuple, RelationGetDescr(history), v, isnull);
	done->job_id = DatumGetInt64(v[JOB_ID]);
	done->name = TextDatumGetCString(v[JOB_NAME]);
	if (!isnull[HISTORY_ROW_COUNT])
		done->row_count = DatumGetInt64(v[HISTORY_ROW_COUNT]);
	if (!isnull[HISTORY_COMMAND_TAG])
		done->tag = TextDatumGetCString(v[HISTORY_COMMAND_TAG]);
	return done;
}

/*
 * compare_done - order of pieces
 */
static int
compare_done(const ListCell *a, const ListCell *b)
{
	int64		x = ((Done *) lfirst(a))->job_id;
	int64		y = ((Done *) lfirst(b))->job_id;

	return x < y ? -1 : x > y;
}

/*
 * read_all_done - the completed pieces of a job, in their order
 */
static List *
read_all_done(const SabotJob *job)
{
	Relation	history = table_open(sabot_catalog(false)->history,
									 AccessShareLock);
	Oid			completed = sabot_catalog(false)->states[SABOT_JOB_COMPLETED];
	List	   *result = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, JOB_PARENT_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job->job_id));
	scan = systable_beginscan(history, own_relid("job_history_parent_idx"),
							  true, GetActiveSnapshot(), 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		if (DatumGetObjectId(heap_getattr(tuple, JOB_STATE + 1,
										  RelationGetDescr(history),
										  &isnull)) == completed)
			result = lappend(result, read_done(history, tuple));
	}
	systable_endscan(scan);
	table_close(history, AccessShareLock);
	list_sort(result, compare_done);
	return result;
}

/*
 * add_rows - add rows that a piece has kept to those of the whole job, as many
 * as that is to keep
 */
static void
add_rows(SabotOutcome *outcome, Jsonb *rows)
{
	JsonbIterator *it = JsonbIteratorInit(&rows->root);
	JsonbValue	v;
	int			room = Min(outcome->keep_rows,
						   outcome->nrows + (int) JB_ROOT_COUNT(rows));

	if (room == outcome->nrows)
		return;
	outcome->rows = outcome->rows == NULL ? palloc(sizeof(Jsonb *) * room) :
		repalloc_huge(outcome->rows, sizeof(Jsonb *) * room);
	(void) JsonbIteratorNext(&it, &v, false);
	while (outcome->nrows < room && JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		Jsonb	   *row = JsonbValueToJsonb(&v);

		outcome->kept_bytes += VARSIZE(row);
		if (outcome->kept_bytes > SABOT_MAX_KEPT_BYTES)
			return;
		outcome->rows[outcome->nrows++] = row;
	}
}

/*
 * read_rows - the rows that a finished job has kept, or NULL
 */
static Jsonb *
read_rows(Relation history, int64 job_id)
{
	Jsonb	   *rows = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, JOB_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan(history, own_relid("job_history_pkey"), true,
							  GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, HISTORY_ROWS + 1,
										 RelationGetDescr(history), &isnull);

		if (!isnull)
			rows = DatumGetJsonbPCopy(value);
	}
	systable_endscan(scan);
	return rows;
}

/*
 * keep_rows - the first of the rows that pieces have kept
 */
static void
keep_rows(SabotOutcome *outcome, List *pieces)
{
	Relation	history = table_open(sabot_catalog(false)->history,
									 AccessShareLock);
	ListCell   *lc;

	foreach(lc, pieces)
	{
		Jsonb	   *rows;

		if (outcome->nrows >= outcome->keep_rows ||
			outcome->kept_bytes > SABOT_MAX_KEPT_BYTES)
			break;
		rows = read_rows(history, ((Done *) lfirst(lc))->job_id);
		if (rows != NULL)
			add_rows(outcome, rows);
	}
	table_close(history, AccessShareLock);
}

/*
 * tag_of_all - the command tag of the whole job, from that of a piece: the same
 * with the sum of rows
 */
static char *
tag_of_all(const char *tag, int64 row_count)
{
	size_t		len = strlen(tag);

	while (len > 0 && tag[len - 1] >= '0' && tag[len - 1] <= '9')
		len--;
	return psprintf("%.*s" INT64_FORMAT, (int) len, tag, row_count);
}

/*
 * piece_number - the number in a piece's name
 */
static int
piece_number(const Done *done)
{
	return atoi(done->name + strlen("piece "));
}

/*
 * name_done - "Completed: pieces 1-3, 5."
 */
static char *
name_done(List *pieces)
{
	StringInfoData text;
	int			n = list_length(pieces);

	if (n == 0)
		return pstrdup("No piece was completed.");
	initStringInfo(&text);
	for (int i = 0; i < n; i++)
	{
		int			first = piece_number(list_nth(pieces, i));
		int			last = first;

		while (i + 1 < n && piece_number(list_nth(pieces, i + 1)) == last + 1)
		{
			last++;
			i++;
		}
		appendStringInfo(&text, "%s%d", text.len > 0 ? ", " : "", first);
		if (last > first)
			appendStringInfo(&text, "-%d", last);
	}
	return psprintf("Completed: %s %s.", n == 1 ? "piece" : "pieces", text.data);
}

/*
 * sabot_spread_outcome - what the completed pieces of a job come to together
 *
 * In the transaction that ends the last one.  *done_pieces names them.
 */
SabotOutcome *
sabot_spread_outcome(const SabotJob *job, char **done_pieces)
{
	SabotOutcome *outcome = sabot_outcome_create(CurrentMemoryContext,
												 job->keep_rows);
	const char *tag = NULL;
	List	   *all;
	ListCell   *lc;

	PushActiveSnapshot(GetLatestSnapshot());
	all = read_all_done(job);
	foreach(lc, all)
	{
		const Done *done = lfirst(lc);

		outcome->row_count += done->row_count;
		outcome->has_row_count = true;
		tag = done->tag ? done->tag : tag;
	}
	keep_rows(outcome, all);
	*done_pieces = name_done(all);
	if (tag != NULL)
		outcome->command_tag = tag_of_all(tag, outcome->row_count);
	PopActiveSnapshot();
	return outcome;
}
