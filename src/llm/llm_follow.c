/*-------------------------------------------------------------------------
 *
 * llm_follow.c
 *		Jobs that follow a table: rows that change are asked for again.
 *
 * What tells that a row may have changed is the capture that streams have,
 * which costs the job nothing while nothing happens.  Whether there is anything
 * to do is for the source to say: it is asked again for the row, and only if
 * that makes another prompt than the one answered last is there a request.  So
 * it does no harm that the job's own writes are captured too, and the same row
 * may be looked at as often as one likes.
 *
 * Changes are seen to before a request is sent, in transactions of their own.
 * What changes while a request is under way is found out in the transaction
 * that would write its answer.
 *
 * IDENTIFICATION
 *		src/llm/llm_follow.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "compat.h"
#include "jobs/job_stream.h"
#include "llm/llm_follow.h"
#include "llm/llm_source.h"

/* Rows that we have written ourselves are seen to so many at a time. */
#define OWN_ROWS 100

/* Captured rows that are being seen to. */
typedef struct Take
{
	SabotLlmRun *run;
	MemoryContext context;		/* reset after each row */
	int64		total;			/* items, with those that are new */
	bool		is_counted;		/* the counters are locked and up to date */
	bool		has_same;		/* some item waits for another one's answer */
	bool		table_is_gone;	/* so nothing was taken */
	bool		more;			/* there are captured rows left */
	List	   *changed;		/* int64 *: items that are not what they were */
	MemoryContext list_context; /* of this list */
} Take;

/* What is kept of a run between two looks. */
struct SabotFollow
{
	SabotRowReader *reader;
	Oid			table;
	bool		more;			/* there are changes, or may be */
	int			own;			/* rows we have written since we looked */
};

/*
 * sabot_follow_begin - begin to follow the table of a job
 *
 * In the run's memory context.
 */
struct SabotFollow *
sabot_follow_begin(void)
{
	struct SabotFollow *follow = palloc0(sizeof(struct SabotFollow));

	follow->more = true;
	return follow;
}

/*
 * sabot_follow_has_more - whether there are changes that were not seen to, now
 * that there is nothing else to do
 */
bool
sabot_follow_has_more(SabotLlmRun *run)
{
	if (run->follow == NULL || run->only_one)
		return false;
	run->follow->more |= run->follow->own > 0;
	return run->follow->more;
}

/*
 * reader_of - what reads rows again
 *
 * Rows are locked if answers go into the same table: who is about to change
 * the row would else make our UPDATE wait, and what he has changed be
 * overlooked.  As the job's owner, in a transaction.
 */
static SabotRowReader *
reader_of(SabotLlmRun *run)
{
	struct SabotFollow *follow = run->follow;
	SabotStream *stream;
	MemoryContext caller;
	Oid			target = InvalidOid;

	if (follow->reader != NULL)
		return follow->reader;
	stream = sabot_stream_read(run->job->job_id);
	if (stream == NULL)
		elog(ERROR, "job " INT64_FORMAT " has no capture", run->job->job_id);
	if (run->spec->target != NULL)
		target = DatumGetObjectId(DirectFunctionCall1(regclassin,
													  CStringGetDatum(run->spec->target)));
	caller = MemoryContextSwitchTo(run->context);
	follow->table = stream->source;
	follow->reader = sabot_source_row(run->spec, stream->source,
									  target == stream->source);
	MemoryContextSwitchTo(caller);
	return follow->reader;
}

/*
 * note_changed - an item is not what it was when it was fetched
 */
static void
note_changed(Take *take, int64 item)
{
	MemoryContext caller = MemoryContextSwitchTo(take->list_context);
	int64	   *number = palloc(sizeof(int64));

	*number = item;
	take->changed = lappend(take->changed, number);
	MemoryContextSwitchTo(caller);
}

/*
 * get_counted - have all answers there are counted, and nobody else count
 */
static void
get_counted(Take *take)
{
	if (take->is_counted)
		return;
	(void) sabot_usage_count(take->run, true);
	take->is_counted = true;
}

/*
 * skip - an item that waits is not to be asked; why may be NULL
 *
 * That is not counted yet, should the row come again.
 */
static void
skip(Take *take, int64 item, const char *prompt, const char *why)
{
	sabot_follow_skip(take->run->spec, item, prompt, why);
	take->is_counted = false;
}

/*
 * see_to_new - a row that has no item
 */
static void
see_to_new(Take *take, Jsonb *key, SabotRowNow now, const char *prompt)
{
	const SabotLlmSpec *spec = take->run->spec;

	if (now == SABOT_ROW_NONE)
		return;
	take->has_same |= sabot_follow_add(spec, ++take->total, key, prompt);
	if (now == SABOT_ROW_EMPTY)
		skip(take, take->total, prompt, NULL);
}

/*
 * see_to_item - a row that has an item: is there anything to do?
 */
static void
see_to_item(Take *take, const SabotFollowed *item, SabotRowNow now,
			const char *prompt)
{
	const SabotLlmSpec *spec = take->run->spec;
	const char *known = item->settled ? item->settled : item->prompt;
	bool		skipped = item->state && strcmp(item->state, "skipped") == 0;

	if (now == SABOT_ROW_NONE)
	{
		if (item->state != NULL)
			return;
		skip(take, item->item, item->prompt,
			 "the row is not in the source anymore");
		note_changed(take, item->item);
		return;
	}
	if (skipped ? now == SABOT_ROW_EMPTY : strcmp(prompt, known) == 0)
		return;
	if (item->state != NULL)
		get_counted(take);
	take->has_same |= sabot_follow_again(spec, item->item, prompt);
	if (now == SABOT_ROW_EMPTY)
		skip(take, item->item, prompt, NULL);
	note_changed(take, item->item);
}

/*
 * see_to_key - see to a row that was captured
 */
static void
see_to_key(Take *take, Jsonb *key)
{
	SabotRowReader *reader = reader_of(take->run);
	SabotFollowed item;
	SabotRowNow now;
	char	   *prompt;
	SabotOwn	own;

	now = sabot_source_row_read(reader, key, &prompt);
	sabot_own_begin(&own);
	sabot_items_use_indexes();
	if (sabot_follow_find(take->run->job->job_id, key, &item))
		see_to_item(take, &item, now, prompt);
	else
		see_to_new(take, key, now, prompt);
	sabot_own_end(&own);
}

/*
 * see_to_rows - see to the rows of a batch
 */
static void
see_to_rows(Take *take, SabotBatch *batch)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc,
													&TTSOpsMinimalTuple);
	SabotSourceKey *columns = sabot_source_key(take->run->spec, batch->desc);
	MemoryContext caller = MemoryContextSwitchTo(take->context);
	int64		number = 0;

	while (tuplestore_gettupleslot(batch->store, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		see_to_key(take, sabot_source_key_of(columns,
											 ExecCopySlotHeapTuple(slot),
											 batch->desc, ++number));
		MemoryContextSwitchTo(take->context);
		MemoryContextReset(take->context);
	}
	MemoryContextSwitchTo(caller);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * finish_take - note what was seen to, and forget the captured rows
 */
static void
finish_take(Take *take, SabotStream *stream, SabotBatch *batch)
{
	SabotOwn	own;

	if (take->total != take->run->spec->total)
	{
		sabot_own_begin(&own);
		sabot_follow_total(take->run->job->job_id, take->total);
		sabot_own_end(&own);
	}
	if (batch->nrows > 0)
	{
		sabot_batch_forget(batch);
		stream->floor = batch->floor;
		sabot_stream_update(stream, batch->nrows, 1, 0);
	}
	take->more = batch->nrows > 0 && !batch->all;
	tuplestore_end(batch->store);
}

/*
 * check_owner - raise 42501 if the table is not the job owner's anymore
 *
 * Its rows are read without asking for anybody's rights.
 */
static void
check_owner(const SabotJob *job, const SabotStream *stream)
{
	if (!object_ownercheck(RelationRelationId, stream->source, job->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, stream->source_name);
}

/*
 * has_table - whether the table that is followed is there, as far as we have
 * heard; in a transaction
 */
static bool
has_table(const SabotStream *stream)
{
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(stream->source));
}

/*
 * take_rows - take some captured rows, and see to them, in one transaction
 */
static void
take_rows(Take *take)
{
	SabotLlmRun *run = take->run;
	SabotStream *stream;
	SabotBatch *batch = NULL;

	sabot_llm_begin_as_owner(run);
	SPI_connect();
	take->context = AllocSetContextCreate(CurrentMemoryContext,
										  "sabot LLM change",
										  ALLOCSET_DEFAULT_SIZES);
	stream = sabot_stream_read(run->job->job_id);
	if (stream != NULL)
	{
		take->table_is_gone = !has_table(stream);
		if (!take->table_is_gone)
		{
			check_owner(run->job, stream);
			batch = sabot_batch_take(run->job->job_id, stream->floor,
									 PG_INT64_MAX, stream->batch_rows);
		}
	}
	if (batch != NULL)
	{
		see_to_rows(take, batch);
		finish_take(take, stream, batch);
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * try_take - as take_rows(), but return its error, or NULL
 *
 * In no transaction afterwards.  Raises interrupts.
 */
static ErrorData *
try_take(Take *take)
{
	MemoryContext volatile caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		take_rows(take);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(caller);
	}
	PG_END_TRY();
	return error;
}

/*
 * lost_table - whether changes could not be read because their table was
 * dropped
 *
 * The commit that drops it wakes us before it tells others of that: only who
 * has waited for its lock, and failed, is sure to have heard.  In no
 * transaction.
 */
static bool
lost_table(SabotLlmRun *run)
{
	MemoryContext caller = CurrentMemoryContext;
	SabotStream *stream;
	SabotOwn	own;
	bool		result;

	sabot_own_start_transaction(&own);
	stream = sabot_stream_read(run->job->job_id);
	result = stream != NULL && !has_table(stream);
	sabot_own_commit_transaction(&own);
	MemoryContextSwitchTo(caller);
	return result;
}

/*
 * is_changed - whether an item is among those that are not what they were
 */
static bool
is_changed(const List *changed, const SabotLlmItem *item)
{
	ListCell   *lc;

	foreach(lc, changed)
		if (*(int64 *) lfirst(lc) == item->item)
		return true;
	return false;
}

/*
 * sabot_follow_drop - leave items out of a list that are not what they were
 * when they were fetched; they are fetched again
 */
List *
sabot_follow_drop(List *items)
{
	ListCell   *lc;

	foreach(lc, items)
	{
		SabotLlmItem *item = lfirst(lc);

		if (!item->changed)
			continue;
		items = foreach_delete_current(items, lc);
		MemoryContextDelete(item->context);
	}
	return items;
}

/*
 * mark_changed - items that were fetched before they changed: those not sent
 * yet are left out, the others are marked
 */
static void
mark_changed(SabotLlmRun *run, const List *changed)
{
	ListCell   *lc;
	ListCell   *lc2;

	for (int i = 0; i < SABOT_MAX_FLIGHTS && run->nflights > 0; i++)
		foreach(lc, run->flights[i].items)
	{
		SabotLlmItem *item = lfirst(lc);

		item->changed |= is_changed(changed, item);
	}
	foreach(lc, run->waiting)
	{
		foreach(lc2, (List *) lfirst(lc))
		{
			SabotLlmItem *item = lfirst(lc2);

			item->changed = is_changed(changed, item);
		}
		lfirst(lc) = sabot_follow_drop(lfirst(lc));
		if (lfirst(lc) == NIL)
			run->waiting = foreach_delete_current(run->waiting, lc);
	}
}

/*
 * after_take - act on what was seen to
 */
static void
after_take(SabotLlmRun *run, Take *take)
{
	run->follow->more = take->more;
	run->spec->total = take->total;
	/* Items that have become free are found from the first one on. */
	run->from_start = false;
	mark_changed(run, take->changed);
	if (!take->has_same)
		return;
	run->has_same = true;
	sabot_llm_reuse(run, 0);
}

/*
 * stop - changes cannot be read, by this error: the job pauses
 *
 * Unless others were in the way: then it is left, and tries again.
 */
static void
stop(SabotLlmRun *run, const ErrorData *error)
{
	run->leaving = true;
	if (sabot_llm_is_passing(error->sqlerrcode))
		return;
	sabot_stream_pause(run->job, psprintf("changes cannot be read: %s",
										  error->message));
	run->job->state = sabot_catalog(false)->states[SABOT_JOB_PAUSED];
}

/*
 * sabot_follow_take - see to rows that have changed, if the job follows a table
 * and there may be some
 *
 * In no transaction.
 */
void
sabot_follow_take(SabotLlmRun *run)
{
	MemoryContext context;
	MemoryContext caller;
	ErrorData  *error;
	Take		take = {.run = run,.total = run->spec->total};

	if (run->follow == NULL || run->only_one || run->leaving)
		return;
	if (!run->follow->more && !sabot_capture_has_heard(run->job->job_id))
		return;
	context = AllocSetContextCreate(run->context, "sabot LLM changes",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	take.list_context = context;
	sabot_capture_listen(run->job);
	run->follow->own = 0;
	error = try_take(&take);
	if (error != NULL)
		take.table_is_gone = lost_table(run);
	if (error != NULL && !take.table_is_gone)
		stop(run, error);
	else if (take.table_is_gone)
	{
		(void) sabot_stream_prepare(run->job);
		run->leaving = true;
	}
	else
		after_take(run, &take);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/*
 * is_captured - whether a change of the row with a key waits to be seen to
 *
 * If there are too many to look through, so it is.
 */
static bool
is_captured(SabotLlmRun *run, Jsonb *key)
{
	SabotStream *stream = sabot_stream_read(run->job->job_id);
	SabotBatch *batch = NULL;
	SabotSourceKey *columns;
	TupleTableSlot *slot;
	bool		found;

	if (stream != NULL)
		batch = sabot_batch_take(run->job->job_id, stream->floor, PG_INT64_MAX,
								 stream->batch_rows);
	if (batch == NULL)
		return false;
	found = batch->nrows > 0 && !batch->all;
	columns = sabot_source_key(run->spec, batch->desc);
	slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	while (!found && tuplestore_gettupleslot(batch->store, true, false, slot))
	{
		Jsonb	   *other = sabot_source_key_of(columns,
												ExecCopySlotHeapTuple(slot),
												batch->desc, 0);

		found = compareJsonbContainers(&key->root, &other->root) == 0;
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(batch->store);
	return found;
}

/*
 * sabot_follow_is_stale - whether the row of an item has changed since the
 * item was sent, so that its answer is to nothing that is there
 *
 * What is known of it is that another change waits to be seen to, or was: a
 * source may make another prompt each time it is asked, as the time goes by.
 * In the transaction that would write the answer, SPI connected.
 */
bool
sabot_follow_is_stale(SabotLlmRun *run, const SabotLlmItem *item)
{
	SabotRowReader *reader = reader_of(run);
	char	   *prompt;

	(void) sabot_source_row_lock(reader, item->key);
	(void) sabot_source_row_read(reader, item->key, &prompt);
	if (prompt != NULL && strcmp(prompt, item->prompt) == 0)
		return false;
	if (!item->changed && !is_captured(run, item->key))
		return false;
	run->follow->more = true;
	return true;
}

/*
 * sabot_follow_settled - the prompt that the row of an item has once its answer
 * was written, if that has changed it; else NULL
 *
 * What was captured of that can wait: it is not to be looked at for each item.
 *
 * In the transaction that has written the answer, SPI connected.
 */
char *
sabot_follow_settled(SabotLlmRun *run, const SabotLlmItem *item)
{
	char	   *prompt;

	if (!sabot_capture_is_touched(run->job->job_id))
		return NULL;
	sabot_capture_hush(run->job->job_id);
	if (++run->follow->own >= OWN_ROWS)
		run->follow->more = true;
	(void) sabot_source_row_read(reader_of(run), item->key, &prompt);
	if (prompt != NULL && strcmp(prompt, item->prompt) == 0)
		return NULL;
	return prompt;
}

/*
 * sabot_follow_rest - there is nothing left to ask: wait for changes
 *
 * Should items wait all the same, they are listed anew, and the job goes on.
 */
void
sabot_follow_rest(SabotLlmRun *run)
{
	SabotOwn	own;
	int64		finished;

	sabot_own_start_transaction(&own);
	finished = sabot_usage_count(run, true);
	if (finished != run->spec->total)
		finished = sabot_items_recount(run->spec);
	if (finished != run->spec->total)
		sabot_follow_list(run->job->job_id);
	sabot_own_commit_transaction(&own);
	if (finished == run->spec->total)
		(void) sabot_stream_prepare(run->job);
}

/*
 * sabot_follow_left - a job is left, and may not be looked at for long: if its
 * owner has asked for something in the last moment, send for a prober
 *
 * In no transaction.
 */
void
sabot_follow_left(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	if (sabot_spi("SELECT FROM sabot.job_signal WHERE job_id = $1",
				  1, types, values, NULL, 0) > 0)
		sabot_pool_request_probe(MyDatabaseId);
	sabot_own_commit_transaction(&own);
}
