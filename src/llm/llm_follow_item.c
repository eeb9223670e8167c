/*-------------------------------------------------------------------------
 *
 * llm_follow_item.c
 *		Items of jobs that follow a table, in sabot's tables.
 *
 * A row has one item for as long as the job lives.  When it is to be asked
 * again its answer is taken away, and what that was counted for; its prompt is
 * replaced, so that the item is what it would be had the row been so from the
 * start.  Items that wait are in a table of their own, as looking for those
 * without an answer would pass all that have one, each time a row changes.
 *
 * An item whose prompt another one has waits for that one's answer only as
 * long as both have this prompt: it has same_as until it is finished, and if
 * the other one's prompt changes before, one of those that wait is asked.
 *
 * All of this is between sabot_own_begin() and sabot_own_end(), SPI connected.
 *
 * IDENTIFICATION
 *		src/llm/llm_follow_item.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "llm/llm_follow.h"

/*
 * text_column - a column of the first row of SPI's result, in a context
 */
static char *
text_column(int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/*
 * int8_column - a column of the first row of SPI's result; 0 if it is NULL
 */
static int64
int8_column(int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * sabot_follow_find - the item with a key; false if there is none
 *
 * Its strings are in the current memory context.
 */
bool
sabot_follow_find(int64 job_id, Jsonb *key, SabotFollowed *found)
{
	Oid			types[] = {INT8OID, JSONBOID};
	Datum		values[] = {Int64GetDatum(job_id), JsonbPGetDatum(key)};
	MemoryContext caller = CurrentMemoryContext;
	int			n;

	n = sabot_spi_generic("SELECT i.item, i.prompt, i.settled, a.state"
						  " FROM sabot.llm_item i LEFT JOIN LATERAL"
						  "  (SELECT state FROM sabot.llm_answer"
						  "   WHERE job_id = i.job_id AND item BETWEEN i.item AND i.item"
						  "   ORDER BY item OFFSET 0) a ON true"
						  " WHERE i.job_id = $1 AND jsonb_hash_extended(i.key, 0) ="
						  "  jsonb_hash_extended($2, 0) AND i.followed AND i.key = $2",
						  2, types, values, NULL, 0);
	MemoryContextSwitchTo(caller);
	if (n == 0)
		return false;
	found->item = int8_column(1);
	found->prompt = text_column(2, caller);
	found->settled = text_column(3, caller);
	found->state = text_column(4, caller);
	return true;
}

/*
 * find_same - an item with this prompt whose answer will do for another one, 0
 * if there is none
 *
 * One that has no answer of the model will not.
 */
static int64
find_same(const SabotLlmSpec *spec, int64 item, const char *prompt)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(spec->job_id), Int64GetDatum(item),
	CStringGetTextDatum(prompt)};

	if (!spec->reuse ||
		sabot_spi_generic("SELECT i.item FROM sabot.llm_item i WHERE i.job_id = $1"
						  " AND hashtextextended(i.prompt COLLATE \"C\", 0) ="
						  "  hashtextextended($3 COLLATE \"C\", 0)"
						  " AND i.followed AND i.same_as IS NULL"
						  " AND i.prompt = $3 COLLATE \"C\" AND i.item <> $2"
						  " AND (EXISTS (SELECT FROM sabot.llm_answer a WHERE a.job_id = i.job_id"
						  "   AND a.item BETWEEN i.item AND i.item AND a.state = 'done'"
						  "   ORDER BY a.item OFFSET 0)"
						  "  OR EXISTS (SELECT FROM sabot.llm_waiting w"
						  "   WHERE w.job_id = i.job_id AND w.item = i.item)) LIMIT 1",
						  3, types, values, NULL, 1) == 0)
		return 0;
	return int8_column(1);
}

/*
 * wait_for_answer - an item waits for the model, or for the answer to the same
 * prompt; returns whether for the latter
 */
static bool
wait_for_answer(const SabotLlmSpec *spec, int64 item, const char *prompt)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTOID, INT8OID};
	int64		same_as = find_same(spec, item, prompt);
	Datum		values[] = {Int64GetDatum(spec->job_id), Int64GetDatum(item),
	CStringGetTextDatum(prompt), Int64GetDatum(same_as)};

	sabot_spi_generic("UPDATE sabot.llm_item SET prompt = $3, settled = NULL,"
					  " same_as = NULLIF($4, 0) WHERE job_id = $1 AND item = $2",
					  4, types, values, NULL, 0);
	sabot_spi_generic("INSERT INTO sabot.llm_waiting (job_id, item) VALUES ($1, $2)"
					  " ON CONFLICT DO NOTHING",
					  2, types, values, NULL, 0);
	return same_as != 0;
}

/*
 * sabot_follow_add - a row is new: the next item, which waits; returns whether
 * for the answer to the same prompt
 */
bool
sabot_follow_add(const SabotLlmSpec *spec, int64 item, Jsonb *key,
				 const char *prompt)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTOID, JSONBOID};
	Datum		values[] = {Int64GetDatum(spec->job_id), Int64GetDatum(item),
	CStringGetTextDatum(prompt), JsonbPGetDatum(key)};

	sabot_spi_generic("INSERT INTO sabot.llm_item (job_id, item, prompt, key, followed)"
					  " VALUES ($1, $2, $3, $4, true)",
					  4, types, values, NULL, 0);
	return wait_for_answer(spec, item, prompt);
}

/*
 * release_same - the prompt of an item is another one: if some wait for the
 * answer to the old one, the first of them is asked
 */
static void
release_same(int64 job_id, int64 item)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id), Int64GetDatum(item)};

	sabot_spi_generic("UPDATE sabot.llm_item SET same_as = NULLIF(f.item, llm_item.item)"
					  " FROM (SELECT item FROM sabot.llm_item WHERE job_id = $1"
					  "  AND same_as = $2 ORDER BY item LIMIT 1) f"
					  " WHERE job_id = $1 AND same_as = $2",
					  2, types, values, NULL, 0);
}

/*
 * uncount - forget an answer that was counted
 */
static void
uncount(int64 job_id, int64 item)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id), Int64GetDatum(item)};

	sabot_spi_generic("WITH a AS (DELETE FROM sabot.llm_answer"
					  "  WHERE job_id = $1 AND item = $2"
					  "  RETURNING state, answered_by, attempts)"
					  " UPDATE sabot.llm_count c SET done = done - (a.state = 'done')::integer,"
					  " fallback = fallback - (a.state = 'fallback')::integer,"
					  " failed = failed - (a.state = 'failed')::integer,"
					  " skipped = skipped - (a.state = 'skipped')::integer,"
					  " reused = reused - (a.answered_by IS NOT DISTINCT FROM 'reuse')::integer,"
					  " answered = answered - (a.answered_by IS NOT DISTINCT FROM 'model')::integer,"
					  " attempts = c.attempts - a.attempts FROM a WHERE c.job_id = $1",
					  2, types, values, NULL, 0);
}

/*
 * sabot_follow_again - the row of an item has another prompt: the item waits
 * anew; returns whether for the answer to the same prompt
 *
 * If it has an answer, that is counted already, see sabot_items_count().
 */
bool
sabot_follow_again(const SabotLlmSpec *spec, int64 item, const char *prompt)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(spec->job_id), Int64GetDatum(item)};

	uncount(spec->job_id, item);
	sabot_spi_generic("DELETE FROM sabot.llm_failure WHERE job_id = $1 AND item = $2",
					  2, types, values, NULL, 0);
	sabot_spi_generic("DELETE FROM sabot.llm_refusal WHERE job_id = $1 AND item = $2",
					  2, types, values, NULL, 0);
	release_same(spec->job_id, item);
	return wait_for_answer(spec, item, prompt);
}

/*
 * sabot_follow_skip - an item that waits is not to be asked; why may be NULL
 */
void
sabot_follow_skip(const SabotLlmSpec *spec, int64 item, const char *prompt,
				  const char *why)
{
	SabotLlmItem skipped = {.item = item,.prompt = unconstify(char *, prompt)};
	SabotItemEnd end = {.state = "skipped",.error = why,.latency_ms = -1};

	if (!sabot_item_finish(spec, &skipped, &end))
		elog(ERROR, "item " INT64_FORMAT " has an answer", item);
	release_same(spec->job_id, item);
	sabot_follow_finished(spec, &skipped, NULL);
}

/*
 * sabot_follow_finished - an item has an answer to the prompt it was asked
 *
 * settled is the one it has now if writing the answer has changed it, or NULL.
 */
void
sabot_follow_finished(const SabotLlmSpec *spec, const SabotLlmItem *item,
					  const char *settled)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[] = {Int64GetDatum(spec->job_id),
		Int64GetDatum(item->item), CStringGetTextDatum(item->prompt),
	settled ? CStringGetTextDatum(settled) : (Datum) 0};

	sabot_spi_generic("UPDATE sabot.llm_item SET prompt = $3, same_as = NULL, settled = $4"
					  " WHERE job_id = $1 AND item = $2 AND (same_as IS NOT NULL"
					  " OR prompt IS DISTINCT FROM $3 OR settled IS DISTINCT FROM $4)",
					  4, types, values, settled ? "    " : "   n", 0);
	sabot_spi_generic("DELETE FROM sabot.llm_waiting WHERE job_id = $1 AND item = $2",
					  2, types, values, NULL, 0);
}

/*
 * sabot_follow_total - note how many items there are now
 */
void
sabot_follow_total(int64 job_id, int64 total)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id), Int64GetDatum(total)};

	sabot_spi("UPDATE sabot.llm_job SET total = $2 WHERE job_id = $1",
			  2, types, values, NULL, 0);
}

/*
 * sabot_follow_list - put all items without an answer among those that wait
 */
void
sabot_follow_list(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	sabot_spi_generic("INSERT INTO sabot.llm_waiting (job_id, item)"
					  " SELECT i.job_id, i.item FROM sabot.llm_item i WHERE i.job_id = $1"
					  " AND NOT EXISTS (SELECT FROM sabot.llm_answer a"
					  "  WHERE a.job_id = i.job_id AND a.item = i.item)"
					  " ON CONFLICT DO NOTHING",
					  1, types, values, NULL, 0);
}

/*
 * sabot_follow_has_waiting - whether some items of a job wait
 */
bool
sabot_follow_has_waiting(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	return sabot_spi_generic("SELECT FROM sabot.llm_waiting WHERE job_id = $1 LIMIT 1",
							 1, types, values, NULL, 1) > 0;
}
