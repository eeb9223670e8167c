/*-------------------------------------------------------------------------
 *
 * llm_same.c
 *		Items with the same prompt as another one take over its answer.
 *
 * Many of them are written in one transaction.  Should one of these kill the
 * worker it is not known which, so after the loss of a worker the first ones
 * are written one by one, and each is noted before: what was in the
 * transaction that was lost is what comes first again.
 *
 * IDENTIFICATION
 *		src/llm/llm_same.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "llm/llm_run.h"

/* So many are written at a time. */
#define REUSE_ITEMS 100

/*
 * give_up_lost - an item whose writing a worker did not survive is not written
 */
static void
give_up_lost(SabotEnding *ending)
{
	ending->end.state = "failed";
	ending->end.error_class = SABOT_LLM_WRITE_FAILED;
	ending->end.error = "the worker did not survive this item";
	ending->end.value = NULL;
}

/*
 * take_unwritten - an item takes over an answer that could not be written for
 * the one it was given to: that was that row's trouble
 */
static void
take_unwritten(SabotLlmRun *run, const SabotLlmSame *same, SabotEnding *ending)
{
	char	   *violation;

	ending->end.value = sabot_llm_value(run, same->response, &violation);
	if (ending->end.value == NULL)
	{
		/* The target is not what it was when the answer came. */
		ending->end.error_class = SABOT_LLM_BAD_OUTPUT;
		ending->end.error = psprintf("answer does not fit: %s", violation);
		return;
	}
	ending->end.state = "done";
	ending->end.answered_by = "reuse";
	ending->end.error_class = SABOT_LLM_OK;
	ending->end.error = NULL;
}

/*
 * same_ending - what becomes of an item whose prompt another one had
 */
static void
same_ending(SabotLlmRun *run, SabotLlmSame *same, SabotEnding *ending)
{
	ending->item = &same->item;
	ending->end.state = same->state;
	ending->end.response = same->response;
	ending->end.value = same->value;
	ending->end.error_class = same->error_class;
	ending->end.error = same->error;
	ending->end.latency_ms = -1;
	ending->end.digest = same->digest;
	if (same->item.lost)
		give_up_lost(ending);
	else if (same->fell_back && run->fallback)
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
		take_unwritten(run, same, ending);
	ending->write = ending->end.value;
}

/*
 * finish_carefully - finish items one by one, each noted before
 */
static void
finish_carefully(SabotLlmRun *run, SabotEnding *endings, int n)
{
	for (int i = 0; i < n; i++)
	{
		sabot_llm_note_careful(run, &endings[i], 1);
		sabot_llm_finish(run, &endings[i], 1);
	}
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
	SabotSamePlace place = {0};
	bool		careful = run->careful;
	int			n;

	do
	{
		SabotEnding endings[REUSE_ITEMS] = {0};
		List	   *items;
		TimestampTz begin;

		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
		begin = GetCurrentTimestamp();
		items = sabot_items_same(run->spec->job_id, same_as, &place,
								 REUSE_ITEMS, context);
		n = list_length(items);
		MemoryContextSwitchTo(context);
		for (int i = 0; i < n; i++)
			same_ending(run, list_nth(items, i), &endings[i]);
		if (careful)
			finish_carefully(run, endings, n);
		else if (n > 0)
			sabot_llm_finish(run, endings, n);
		careful = false;
		sabot_http_extend(GetCurrentTimestamp() - begin);
	} while (n == REUSE_ITEMS);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}
