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
 * What says "it is not your fault, try again", as a deadlock does, is no
 * item's error at once: the answer has been paid for, so it is written again,
 * a few times, in a transaction of its own.
 *
 * IDENTIFICATION
 *		src/llm/llm_finish.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "jobs/job_run.h"
#include "jobs/job_stream.h"
#include "llm/llm_follow.h"
#include "llm/llm_run.h"

/* So often is something written again that others were in the way of ... */
#define WRITE_RETRIES 3

/* ... and first after so long, in ms, then twice as long each time. */
#define WRITE_RETRY_MS 20

/*
 * sabot_llm_is_passing - whether an error may be gone when the same is tried again
 */
bool
sabot_llm_is_passing(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TRANSACTION_ROLLBACK ||
		sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
}

/*
 * update_target - write a value into the target's row
 *
 * Settings that triggers change are theirs only while they run.  Returns an
 * error text if not exactly one row was hit, which the caller has to undo.
 */
static const char *
update_target(SabotLlmRun *run, SabotEnding *ending)
{
	int			guc_level = NewGUCNestLevel();
	uint64		nrows = sabot_mapping_write(run->mapping, run->spec,
											ending->item->key, ending->write);

	sabot_run_fire_deferred();
	AtEOXact_GUC(false, guc_level);
	if (nrows == 0)
		return "no row of the target has this key, or none that its owner may see";
	if (nrows > 1)
		return psprintf(UINT64_FORMAT " rows of the target have this key", nrows);
	return NULL;
}

/*
 * update_unless_stale - as update_target(), unless the row has changed since
 * the item was sent
 */
static const char *
update_unless_stale(SabotLlmRun *run, SabotEnding *ending)
{
	MemoryContext caller = CurrentMemoryContext;
	const char *why = NULL;

	if (run->follow)
		ending->stale = sabot_follow_is_stale(run, ending->item);
	MemoryContextSwitchTo(caller);
	if (ending->stale || ending->write == NULL)
		return NULL;
	why = update_target(run, ending);
	MemoryContextSwitchTo(caller);
	if (run->follow && why == NULL)
		ending->settled = sabot_follow_settled(run, ending->item);
	return why;
}

/*
 * write_target - write a value into the target, or say why that failed
 *
 * In a subtransaction.  Cancel and the like are raised again, and so is what
 * may pass: with the locks of other items nobody gets out of a deadlock.
 */
static const char *
write_target(SabotLlmRun *run, SabotEnding *ending)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const char *volatile why = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		why = update_unless_stale(run, ending);
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
		if (sabot_llm_is_passing(error->sqlerrcode) ||
			(error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			 sabot_agent_interrupted() != SABOT_INTERRUPT_NONE))
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
write_in_time(SabotLlmRun *run, SabotEnding *ending)
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
note_write_failed(SabotEnding *ending, const char *why)
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
record(SabotLlmRun *run, SabotEnding *endings, int n)
{
	SabotOwn	own;
	bool		ours = true;

	sabot_own_begin(&own);
	if (run->follow)
		sabot_items_use_indexes();
	for (int i = 0; i < n && ours; i++)
	{
		SabotEnding *ending = &endings[i];

		if (ending->item->lost || run->careful)
			sabot_item_survived(run->spec, ending->item);
		if (ending->stale)
			continue;
		if (ending->failed_attempt)
			sabot_item_note_failure(run->spec, ending->item,
									ending->end.error_class,
									ending->end.error,
									ending->end.latency_ms, false);
		ours = sabot_item_finish(run->spec, ending->item, &ending->end);
		if (ours && run->follow)
			sabot_follow_finished(run->spec, ending->item, ending->settled);
	}
	if (ours && sabot_usage_is_due(run))
		(void) sabot_usage_count(run, false);
	sabot_own_end(&own);
	return ours;
}

/*
 * commit_endings - write and record what became of items in one transaction
 *
 * Sets recorded in all of them but those that are stale, or in none if it is
 * known already what became of one, and says that.
 */
static void
commit_endings(SabotLlmRun *run, SabotEnding *endings, int n, bool *known)
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
		endings[i].stale = false;
		endings[i].settled = NULL;
		if (endings[i].write == NULL && !run->follow)
			continue;
		MemoryContextSwitchTo(caller);
		why = write_in_time(run, &endings[i]);
		if (why && endings[i].write)
			note_write_failed(&endings[i], why);
	}
	ours = record(run, endings, n);
	PopActiveSnapshot();
	SPI_finish();
	if (ours)
		CommitTransactionCommand();
	else
		AbortOutOfAnyTransaction();
	sabot_capture_hush(0);
	for (int i = 0; i < n; i++)
	{
		endings[i].settled = NULL;
		endings[i].recorded = ours && !endings[i].stale;
	}
	*known = !ours;
	/* Our losses were forgiven in the job's row. */
	if (ours && forgives)
		sabot_attempt_renew(run->job);
	MemoryContextSwitchTo(caller);
}

/*
 * try_endings - as commit_endings(), but return its error, or NULL
 *
 * In no transaction afterwards.  Raises interrupts.
 */
static ErrorData *
try_endings(SabotLlmRun *run, SabotEnding *endings, int n, bool *known)
{
	MemoryContext volatile caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		commit_endings(run, endings, n, known);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		disable_all_timeouts(false);
		sabot_capture_hush(0);
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
 * rest - leave others the time to get out of the way, after so many tries
 */
static void
rest(int tries)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 WRITE_RETRY_MS << (tries - 1), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * finish_one - write and record what became of an item, whatever happens
 *
 * If that fails again and again it is recorded as that item's error.
 */
static void
finish_one(SabotLlmRun *run, SabotEnding *ending)
{
	ErrorData  *error;
	int			tries = 0;
	bool		known;

	while ((error = try_endings(run, ending, 1, &known)) != NULL)
	{
		if (sabot_llm_is_passing(error->sqlerrcode) && tries < WRITE_RETRIES)
			rest(++tries);
		else if (ending->write == NULL)
			ReThrowError(error);
		else
			note_write_failed(ending, error->message);
	}
}

/*
 * sabot_llm_finish - write and record what became of items, whatever happens
 *
 * If the transaction fails as a whole the items are done one by one, and
 * then without their targets.  Raises interrupts only, and what keeps sabot's
 * own tables from being written.  In no transaction.
 */
void
sabot_llm_finish(SabotLlmRun *run, SabotEnding *endings, int n)
{
	bool		known;

	if (n > 1 && try_endings(run, endings, n, &known) == NULL && !known)
		return;
	for (int i = 0; i < n; i++)
		finish_one(run, &endings[i]);
}

/*
 * after_items - what follows when items have ended
 */
static void
after_items(SabotLlmRun *run, SabotEnding *endings, int n)
{
	run->careful = false;
	for (int i = 0; i < n; i++)
	{
		if (!endings[i].recorded)
			 /* somebody else has done that, whatever it was */ ;
		else if (strcmp(endings[i].end.state, "done") == 0)
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
 * sabot_llm_note_careful - after the loss of a worker, note whose answers are
 * about to be written, as one of them may be why it was lost
 *
 * That is all that may be an item's fault: while a request is under way there
 * is nothing of an item that could harm the worker.
 */
void
sabot_llm_note_careful(SabotLlmRun *run, const SabotEnding *endings,
					   int n)
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
	SabotEnding *endings = palloc0(sizeof(SabotEnding) * n);

	for (int i = 0; i < n; i++)
	{
		SabotEnding *ending = &endings[i];

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
	sabot_llm_note_careful(run, endings, n);
	sabot_llm_finish(run, endings, n);
	after_items(run, endings, n);
}

/*
 * sabot_llm_unanswered - an item gets no answer: use the fallback, or fail
 *
 * Nothing is written for an item that took a worker with it: that may be what
 * did it.  failed_attempt says that this was an attempt.  The item is gone
 * afterwards.
 */
void
sabot_llm_unanswered(SabotLlmRun *run, SabotLlmItem *item,
					 const SabotReply *reply, const SabotAnswer *answer,
					 bool failed_attempt)
{
	Jsonb	   *fallback = item->lost ? NULL : run->fallback;
	SabotEnding ending = {0};

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
	sabot_llm_note_careful(run, &ending, 1);
	sabot_llm_finish(run, &ending, 1);
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
