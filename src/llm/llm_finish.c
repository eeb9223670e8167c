/*-------------------------------------------------------------------------
 *
 * llm_finish.c
 *		What becomes of items: answers are written, failures are counted.
 *
 * The target's columns, the answer and the counters commit together.  The
 * target is written in a subtransaction: whatever its types, constraints,
 * triggers and policies have against an answer is that item's error, and
 * recorded in the same transaction.  Deferred triggers run there too; should
 * the commit itself fail all the same, the item is recorded as failed in
 * another one.
 *
 * IDENTIFICATION
 *		src/llm/llm_finish.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/guc.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "jobs/job_run.h"
#include "llm/llm_run.h"

/* Items that take over another one's answer are written so many at a time. */
#define REUSE_ITEMS 100

/* An item and what becomes of it. */
typedef struct Ending
{
	const SabotLlmItem *item;
	SabotItemEnd end;
	Jsonb	   *write;			/* value for the target, or NULL */
	bool		failed_attempt; /* an attempt that failed is to be counted */
} Ending;

/*
 * fire_deferred - run the triggers that wait for the commit
 */
static void
fire_deferred(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * update_target - write a value into the target's row
 *
 * Settings that triggers change are theirs only while they run.  Returns an
 * error text if not exactly one row was hit, which the caller has to undo.
 */
static const char *
update_target(SabotLlmRun *run, const Ending *ending)
{
	int			guc_level = NewGUCNestLevel();
	uint64		nrows = sabot_mapping_write(run->mapping, run->spec,
											ending->item->key, ending->write);

	fire_deferred();
	AtEOXact_GUC(false, guc_level);
	if (nrows == 0)
		return "no row of the target has this key, or none that its owner may see";
	if (nrows > 1)
		return psprintf(UINT64_FORMAT " rows of the target have this key", nrows);
	return NULL;
}

/*
 * write_target - write a value into the target, or say why that failed
 *
 * In a subtransaction.  Cancel and the like are raised again.
 */
static const char *
write_target(SabotLlmRun *run, const Ending *ending)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const char *volatile why = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		why = update_target(run, ending);
		if (why == NULL)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		why = sabot_run_timed_out() ?
			psprintf("could not be written within " INT64_FORMAT " ms",
					 run->spec->timeout_ms) : error->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return why;
}

/*
 * write_in_time - as write_target(), for no longer than an attempt may take
 *
 * Each item has its own time, or the first that takes too long would leave
 * none for those after it.  A timeout that comes when it is over is nobody's.
 */
static const char *
write_in_time(SabotLlmRun *run, const Ending *ending)
{
	const char *why;

	sabot_run_start_timeout(run->spec->timeout_ms);
	why = write_target(run, ending);
	disable_all_timeouts(false);
	if (sabot_run_timed_out() &&
		sabot_agent_interrupted() == SABOT_INTERRUPT_NONE)
		QueryCancelPending = false;
	return why;
}

/*
 * note_write_failed - an answer could not be written
 */
static void
note_write_failed(Ending *ending, const char *why)
{
	/* The value is kept as the answer's text, which others may reuse. */
	if (ending->end.response == NULL && ending->write)
		ending->end.response = JsonbToCString(NULL, &ending->write->root,
											  VARSIZE(ending->write));
	ending->end.state = "failed";
	ending->end.error_class = SABOT_LLM_WRITE_FAILED;
	ending->end.error = why;
	ending->end.value = NULL;
	ending->write = NULL;
}

/*
 * record - keep what became of items; false if that is known already
 *
 * In the transaction that wrote the target, with SPI connected.
 */
static bool
record(SabotLlmRun *run, Ending *endings, int n)
{
	SabotOwn	own;
	bool		ours = true;

	sabot_own_begin(&own);
	for (int i = 0; i < n && ours; i++)
	{
		Ending	   *ending = &endings[i];

		if (ending->item->lost || run->careful)
			sabot_item_survived(run->spec, ending->item);
		if (ending->failed_attempt)
			sabot_item_note_failure(run->spec, ending->item,
									ending->end.error_class,
									ending->end.error,
									ending->end.latency_ms, false);
		ours = sabot_item_finish(run->spec, ending->item, &ending->end);
	}
	if (ours && sabot_usage_is_due(run))
		(void) sabot_usage_count(run, false);
	sabot_own_end(&own);
	return ours;
}

/*
 * commit_endings - write and record what became of items in one transaction
 */
static void
commit_endings(SabotLlmRun *run, Ending *endings, int n)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		forgives = run->careful;
	bool		ours;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	MemoryContextSwitchTo(caller);
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < n; i++)
	{
		const char *why;

		CHECK_FOR_INTERRUPTS();
		forgives |= endings[i].item->lost;
		if (endings[i].write == NULL)
			continue;
		MemoryContextSwitchTo(caller);
		why = write_in_time(run, &endings[i]);
		if (why)
			note_write_failed(&endings[i], why);
	}
	ours = record(run, endings, n);
	PopActiveSnapshot();
	SPI_finish();
	if (ours)
		CommitTransactionCommand();
	else
		AbortOutOfAnyTransaction();
	/* Our losses were forgiven in the job's row. */
	if (ours && forgives)
		sabot_attempt_renew(run->job);
	MemoryContextSwitchTo(caller);
}

/*
 * finish_items - write and record what became of items, whatever happens
 *
 * If the transaction fails as a whole the items are done one by one, and
 * then without their targets.  Raises interrupts only, and what keeps sabot's
 * own tables from being written.
 */
static void
finish_items(SabotLlmRun *run, Ending *endings, int n)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *volatile why = NULL;

	PG_TRY();
	{
		commit_endings(run, endings, n);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		write = false;

		for (int i = 0; i < n; i++)
			write |= endings[i].write != NULL;
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		disable_all_timeouts(false);
		if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE || !write)
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(caller);
		why = error->message;
	}
	PG_END_TRY();
	if (why == NULL)
		return;
	for (int i = 0; i < n; i++)
	{
		if (n == 1)
			note_write_failed(&endings[i], why);
		finish_items(run, &endings[i], 1);
	}
}

/*
 * after_items - what follows when items have ended
 */
static void
after_items(SabotLlmRun *run, Ending *endings, int n)
{
	run->careful = false;
	for (int i = 0; i < n; i++)
	{
		if (strcmp(endings[i].end.state, "done") == 0)
		{
			run->unanswered = 0;
			run->answered = true;
		}
		else
			run->unanswered++;
		if (run->has_same)
			sabot_llm_reuse(run, endings[i].item->item);
		MemoryContextDelete(endings[i].item->context);
	}
}

/*
 * note_careful - after the loss of a worker, note whose answers are about to
 * be written, as one of them may be why it was lost
 *
 * That is all that may be an item's fault: while a request is under way there
 * is nothing of an item that could harm the worker.
 */
static void
note_careful(SabotLlmRun *run, const Ending *endings, int n)
{
	MemoryContext caller = CurrentMemoryContext;
	SabotOwn	own;

	if (!run->careful)
		return;
	sabot_own_start_transaction(&own);
	for (int i = 0; i < n; i++)
		if (endings[i].write)
			sabot_item_note_failure(run->spec, endings[i].item,
									SABOT_LLM_WRITE_FAILED,
									"the worker did not survive this item",
									-1, true);
	sabot_own_commit_transaction(&own);
	MemoryContextSwitchTo(caller);
}

/*
 * sabot_llm_answered - items have an answer: write it
 *
 * One item, or as many as there are vectors in the answer.  The items are
 * gone afterwards.
 */
void
sabot_llm_answered(SabotLlmRun *run, List *items, const SabotReply *reply,
				   const SabotAnswer *answer, Jsonb **values)
{
	int			n = list_length(items);
	Ending	   *endings = palloc0(sizeof(Ending) * n);

	for (int i = 0; i < n; i++)
	{
		Ending	   *ending = &endings[i];

		ending->item = list_nth(items, i);
		ending->write = values[i];
		ending->end.state = "done";
		ending->end.answered_by = "model";
		ending->end.response = answer->text;
		ending->end.value = values[i];
		ending->end.attempts = ending->item->attempts + 1;
		ending->end.latency_ms = reply->latency_us / 1000.0;
		ending->end.answer = answer;
		ending->end.digest = run->digest;
	}
	note_careful(run, endings, n);
	finish_items(run, endings, n);
	after_items(run, endings, n);
}

/*
 * sabot_llm_unanswered - an item gets no answer: use the fallback, or fail
 *
 * Nothing is written for an item that took a worker with it: that may be what
 * did it.  failed_attempt says that this was an attempt.  The item is gone afterwards.
 */
void
sabot_llm_unanswered(SabotLlmRun *run, SabotLlmItem *item,
					 const SabotReply *reply, const SabotAnswer *answer,
					 bool failed_attempt)
{
	Jsonb	   *fallback = item->lost ? NULL : run->fallback;
	Ending		ending = {0};

	ending.item = item;
	ending.write = fallback;
	ending.failed_attempt = failed_attempt;
	ending.end.state = fallback ? "fallback" : "failed";
	ending.end.answered_by = fallback ? "fallback" : NULL;
	ending.end.value = fallback;
	ending.end.error_class = answer->error_class;
	ending.end.error = answer->error;
	ending.end.response = answer->text;
	ending.end.attempts = item->attempts + failed_attempt;
	ending.end.latency_ms = reply ? reply->latency_us / 1000.0 : -1;
	ending.end.answer = reply ? answer : NULL;
	ending.end.digest = run->digest;
	note_careful(run, &ending, 1);
	finish_items(run, &ending, 1);
	after_items(run, &ending, 1);
}

/*
 * sabot_llm_failed - an attempt has failed, and there will be another
 */
void
sabot_llm_failed(SabotLlmRun *run, SabotLlmItem *item,
				 const SabotReply *reply, const SabotAnswer *answer)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	sabot_item_note_failure(run->spec, item, answer->error_class,
							answer->error, reply->latency_us / 1000.0, false);
	sabot_own_commit_transaction(&own);
	item->attempts++;
}

/*
 * same_ending - what becomes of an item whose prompt another one had
 */
static void
same_ending(SabotLlmRun *run, SabotLlmSame *same, Ending *ending)
{
	char	   *violation;

	ending->item = &same->item;
	ending->end.state = same->state;
	ending->end.response = same->response;
	ending->end.value = same->value;
	ending->end.error_class = same->error_class;
	ending->end.error = same->error;
	ending->end.latency_ms = -1;
	ending->end.digest = same->digest;
	if (same->fell_back && run->fallback)
	{
		/* Its response was rejected, also if the fallback was not written. */
		ending->end.state = "fallback";
		ending->end.answered_by = "fallback";
		ending->end.value = run->fallback;
	}
	else if (strcmp(same->state, "done") == 0)
		ending->end.answered_by = "reuse";
	else if (same->error_class == SABOT_LLM_WRITE_FAILED && same->response &&
			 !same->fell_back)
	{
		/* It was that row's trouble: this one may take the answer. */
		ending->end.state = "done";
		ending->end.answered_by = "reuse";
		ending->end.error_class = SABOT_LLM_OK;
		ending->end.error = NULL;
		ending->end.value = sabot_llm_value(run, same->response, &violation);
	}
	ending->write = ending->end.value;
}

/*
 * sabot_llm_value - the value of an answer's text, or NULL with *violation
 *
 * Of an embedding that could not be written the text is its vector.
 */
Jsonb *
sabot_llm_value(SabotLlmRun *run, const char *text, char **violation)
{
	if (run->spec->embedding)
		return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												  CStringGetDatum(text)));
	return sabot_mapping_value(run->mapping, run->spec, text, violation);
}

/*
 * sabot_llm_reuse - give the answer of an item to all others with the same
 * prompt, or with 0 do so for all items that have been answered
 */
void
sabot_llm_reuse(SabotLlmRun *run, int64 same_as)
{
	MemoryContext context = AllocSetContextCreate(run->context,
												  "sabot LLM reuse",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int			n;

	do
	{
		Ending		endings[REUSE_ITEMS] = {0};
		List	   *items;
		TimestampTz begin;

		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
		begin = GetCurrentTimestamp();
		items = sabot_items_same(run->spec->job_id, same_as, REUSE_ITEMS,
								 context);
		n = list_length(items);
		MemoryContextSwitchTo(context);
		for (int i = 0; i < n; i++)
			same_ending(run, list_nth(items, i), &endings[i]);
		if (n > 0)
			finish_items(run, endings, n);
		sabot_http_extend(GetCurrentTimestamp() - begin);
	} while (n == REUSE_ITEMS);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}
