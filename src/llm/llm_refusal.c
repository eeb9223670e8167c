/*-------------------------------------------------------------------------
 *
 * llm_refusal.c
 *		Items that a server refuses: is it the server's fault, or the item's?
 *
 * A server that answers 429 or 503 has too much to do, and 403 is about a
 * token; but there are filters in front of servers that answer the same to a
 * text they do not like.  Taken for the server's fault, such an item would
 * stop it for everybody, again and again.
 *
 * What tells them apart is what becomes of others.  An item that was refused
 * twice lets others go first; if one of them is served and the item is not,
 * it is the item.  If there is no other, a request without a prompt that was
 * served on the same route says as much; with an api that has none it takes
 * more refusals, and so it does if the server has said when to come again.
 *
 * Refusals are kept in a table, as each of them makes the worker leave the
 * job.  They are no attempts.
 *
 * IDENTIFICATION
 *		src/llm/llm_refusal.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"

#include "llm/llm_run.h"

/* An item that was refused so often lets others go first. */
#define DOUBTFUL		2

/* So many refusals are the item's own, with good and with little evidence. */
#define PROVEN			3
#define LIKELY			6

/* How often an item was refused. */
typedef struct Refused
{
	int64		item;
	int			times;
} Refused;

/*
 * sabot_refusals_read - read which items of the job were refused before
 *
 * Between sabot_own_begin() and sabot_own_end().
 */
void
sabot_refusals_read(SabotLlmRun *run)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(run->job->job_id)};
	int			n = sabot_spi("SELECT r.item, r.times FROM sabot.llm_refusal r"
							  " WHERE r.job_id = $1 AND NOT EXISTS"
							  " (SELECT FROM sabot.llm_answer a"
							  "  WHERE a.job_id = r.job_id AND a.item = r.item)",
							  1, types, values, NULL, 0);
	MemoryContext old = MemoryContextSwitchTo(run->context);

	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Refused    *refused = palloc(sizeof(Refused));
		bool		isnull;

		refused->item = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		refused->times = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		run->refused = lappend(run->refused, refused);
	}
	MemoryContextSwitchTo(old);
}

/*
 * times_refused - how often any of some items was refused, at most
 */
static int
times_refused(const SabotLlmRun *run, const List *items)
{
	int			times = 0;
	ListCell   *lc;

	foreach(lc, run->refused)
	{
		const Refused *refused = lfirst(lc);
		ListCell   *lc2;

		foreach(lc2, items)
			if (((SabotLlmItem *) lfirst(lc2))->item == refused->item)
			times = Max(times, refused->times);
	}
	return times;
}

/*
 * sabot_refusal_is_doubtful - whether one of these items may be what a server
 * refuses
 */
bool
sabot_refusal_is_doubtful(const SabotLlmRun *run, const List *items)
{
	return run->refused != NIL && times_refused(run, items) >= DOUBTFUL;
}

/*
 * sabot_refusal_let_others_first - if the items that are next are doubtful,
 * have others that wait sent before them
 *
 * False if there are none.
 */
bool
sabot_refusal_let_others_first(SabotLlmRun *run)
{
	MemoryContext caller;
	List	   *items;

	for (int i = 0; i < list_length(run->waiting); i++)
	{
		items = list_nth(run->waiting, i);
		if (sabot_refusal_is_doubtful(run, items))
			continue;
		caller = MemoryContextSwitchTo(run->context);
		run->waiting = list_delete_nth_cell(run->waiting, i);
		run->waiting = lcons(items, run->waiting);
		MemoryContextSwitchTo(caller);
		return true;
	}
	return false;
}

/*
 * note_refusals - keep that items were refused once more
 */
static void
note_refusals(SabotLlmRun *run, const List *items)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(run->job->job_id), 0};
	SabotOwn	own;
	ListCell   *lc;

	sabot_own_start_transaction(&own);
	foreach(lc, items)
	{
		values[1] = Int64GetDatum(((SabotLlmItem *) lfirst(lc))->item);
		sabot_spi("INSERT INTO sabot.llm_refusal AS r (job_id, item, times)"
				  " VALUES ($1, $2, 1) ON CONFLICT (job_id, item)"
				  " DO UPDATE SET times = r.times + 1",
				  2, types, values, NULL, 0);
	}
	sabot_own_commit_transaction(&own);
}

/*
 * is_chargeable - whether a reply with this status may be about the text
 *
 * 401 is not: it is about the token and nothing else.
 */
static bool
is_chargeable(const SabotReply *reply)
{
	return reply->status == 403 || reply->status == 429 ||
		reply->status == 503;
}

/*
 * sabot_refusal_is_items - whether that a request was refused is the fault of
 * its item after all
 *
 * If not, the refusal is kept.  In no transaction.
 */
bool
sabot_refusal_is_items(SabotLlmRun *run, const List *items,
					   const SabotReply *reply, const SabotAnswer *answer)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		proven = run->served ||
	run->endpoint->api == SABOT_API_OLLAMA;
	int			enough = proven && answer->retry_after_s == 0 ? PROVEN : LIKELY;

	if (!sabot_fault_is_servers(answer->fault) || !is_chargeable(reply))
		return false;
	if (list_length(items) == 1 && times_refused(run, items) + 1 >= enough)
		return true;
	note_refusals(run, items);
	MemoryContextSwitchTo(caller);
	return false;
}
