/*-------------------------------------------------------------------------
 *
 * llm_item.c
 *		Items of LLM jobs and what became of them, in sabot's tables.
 *
 * An item is written once and its answer is inserted beside it, once: the
 * primary key of the answers is what keeps an item from having two results,
 * whatever crashed.  Items that wait are those without an answer.  The worker
 * goes through them in their order and remembers where it is, so that it
 * does not read again what is done.  Jobs that follow a table have no end that
 * it could come to; those of their items that wait are listed.
 *
 * IDENTIFICATION
 *		src/llm/llm_item.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_run.h"

/* finished_at of the last answer of the job that this process works on. */
static TimestampTz last_finished = 0;

/*
 * column_int8 - a column of SPI's result that is not NULL
 */
static int64
column_int8(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * column_float8 - a column of SPI's result that is not NULL
 */
static double
column_float8(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetFloat8(value);
}

/*
 * column_jsonb - a column of SPI's result, copied, or NULL
 */
static Jsonb *
column_jsonb(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

/*
 * column_text - a column of SPI's result as a C string, or NULL
 */
static char *
column_text(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/*
 * sabot_items_use_indexes - have the statements of this transaction use their
 * indexes, whatever the planner thinks of tables that were just filled
 *
 * That is not enough where two tables meet.  To a planner that has seen an
 * empty table, reading all answers of a job once for each fetch is as good as
 * looking up one for each item, so that is in a subselect with OFFSET 0, which
 * is never made a join.  And an index that finds the answers of a job is as
 * good as one that finds the answer of an item, so the item is a range, in an
 * order that only the latter has.
 */
void
sabot_items_use_indexes(void)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_hashjoin",
		"enable_mergejoin", "enable_sort"
	};

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * fill_item - an item from the first five columns of SPI's result
 *
 * In the current memory context.
 */
static void
fill_item(SabotLlmItem *item, int row)
{
	item->context = CurrentMemoryContext;
	item->item = column_int8(row, 1);
	item->key = column_jsonb(row, 2);
	item->prompt = column_text(row, 3);
	item->attempts = (int) column_int8(row, 4);
	item->lost = column_int8(row, 5) > 0;
}

/* The columns of an item that waits. */
#define ITEM_COLUMNS "SELECT i.item, i.key, i.prompt," \
	" (SELECT count(*) FROM sabot.llm_failure f" \
	"  WHERE f.job_id = i.job_id AND f.item = i.item)," \
	" (SELECT count(*) FROM sabot.llm_failure f" \
	"  WHERE f.job_id = i.job_id AND f.item = i.item AND f.lost)"

/* That it has no answer. */
#define NO_ANSWER "NOT EXISTS (SELECT FROM sabot.llm_answer a" \
	"  WHERE a.job_id = i.job_id AND a.item BETWEEN i.item AND i.item" \
	"  ORDER BY a.item OFFSET 0)"

static const char fetch_unanswered[] =
ITEM_COLUMNS " FROM sabot.llm_item i"
" WHERE i.job_id = $1 AND i.item > $2 AND i.same_as IS NULL AND " NO_ANSWER
" ORDER BY i.job_id, i.item LIMIT $3";

static const char fetch_listed[] =
ITEM_COLUMNS " FROM sabot.llm_waiting w CROSS JOIN LATERAL"
" (SELECT t.* FROM sabot.llm_item t WHERE t.job_id = w.job_id"
"  AND t.item BETWEEN w.item AND w.item ORDER BY t.item OFFSET 0) i"
" WHERE w.job_id = $1 AND w.item > $2 AND i.same_as IS NULL AND " NO_ANSWER
" ORDER BY w.job_id, w.item LIMIT $3";

/*
 * sabot_items_fetch - up to limit items after one of that number that wait
 * for the model
 *
 * Returns a list of SabotLlmItem in the given context, each item in a child of
 * its own.  In no transaction.
 */
List *
sabot_items_fetch(const SabotLlmSpec *spec, int64 after, int limit,
				  MemoryContext context)
{
	Oid			types[] = {INT8OID, INT8OID, INT4OID};
	Datum		values[] = {Int64GetDatum(spec->job_id), Int64GetDatum(after),
	Int32GetDatum(limit)};
	List	   *items = NIL;
	SabotOwn	own;
	MemoryContext old;
	int			n;

	sabot_own_start_transaction(&own);
	sabot_items_use_indexes();
	n = sabot_spi_generic(spec->follow ? fetch_listed : fetch_unanswered,
						  3, types, values, NULL, 0);
	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
	{
		MemoryContext own_context = AllocSetContextCreate(context,
														  "sabot LLM item",
														  ALLOCSET_SMALL_SIZES);
		SabotLlmItem *item;

		MemoryContextSwitchTo(own_context);
		item = palloc0(sizeof(SabotLlmItem));
		fill_item(item, i);
		MemoryContextSwitchTo(context);
		items = lappend(items, item);
	}
	MemoryContextSwitchTo(old);
	sabot_own_commit_transaction(&own);
	return items;
}

/*
 * sabot_items_same - up to limit items that wait and have the same prompt as
 * an item that is finished; as that item, or with 0 as any
 *
 * Those after *place, in the order of their index, and *place is that of the
 * last one then: who goes on from the start each time passes by all that are
 * done already.  Returns a list of SabotLlmSame in the given context.  In no
 * transaction.
 */
List *
sabot_items_same(int64 job_id, int64 same_as, SabotSamePlace *place,
				 int limit, MemoryContext context)
{
	Oid			types[] = {INT8OID, INT8OID, INT8OID, INT4OID, INT8OID, INT8OID};
	Datum		values[] = {
		Int64GetDatum(job_id), Int64GetDatum(same_as),
		Int64GetDatum(same_as == 0 ? PG_INT64_MAX : same_as),
		Int32GetDatum(limit), Int64GetDatum(place->same_as),
		Int64GetDatum(place->item)
	};
	List	   *items = NIL;
	SabotOwn	own;
	MemoryContext old;
	int			n;

	sabot_own_start_transaction(&own);
	sabot_items_use_indexes();
	n = sabot_spi("SELECT i.item, i.key, i.prompt, 0::bigint,"
				  " (SELECT count(*) FROM sabot.llm_failure l"
				  "  WHERE l.job_id = i.job_id AND l.item = i.item AND l.lost),"
				  " f.state, f.response, f.value, f.error_class, f.error, f.model_digest,"
				  " COALESCE(f.answered_by, ''), i.same_as"
				  " FROM sabot.llm_item i CROSS JOIN LATERAL"
				  "  (SELECT a.* FROM sabot.llm_answer a"
				  "  WHERE a.job_id = i.job_id AND a.item BETWEEN i.same_as AND i.same_as"
				  "  ORDER BY a.item OFFSET 0) f"
				  " WHERE i.job_id = $1 AND i.same_as BETWEEN $2 AND $3"
				  " AND (i.same_as, i.item) > ($5, $6)"
				  " AND NOT EXISTS (SELECT FROM sabot.llm_answer a"
				  "  WHERE a.job_id = i.job_id AND a.item BETWEEN i.item AND i.item"
				  "  ORDER BY a.item OFFSET 0)"
				  " ORDER BY i.job_id, i.same_as, i.item LIMIT $4",
				  6, types, values, NULL, 0);
	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
	{
		SabotLlmSame *same = palloc0(sizeof(SabotLlmSame));
		char	   *label = column_text(i, 9);

		fill_item(&same->item, i);
		same->state = column_text(i, 6);
		same->response = column_text(i, 7);
		same->value = column_jsonb(i, 8);
		if (label == NULL ||
			!sabot_error_class_find(label, &same->error_class))
			same->error_class = SABOT_LLM_OK;
		same->error = column_text(i, 10);
		same->digest = column_text(i, 11);
		same->fell_back = strcmp(column_text(i, 12), "fallback") == 0;
		place->same_as = column_int8(i, 13);
		place->item = same->item.item;
		items = lappend(items, same);
	}
	MemoryContextSwitchTo(old);
	sabot_own_commit_transaction(&own);
	return items;
}

/*
 * sabot_items_begin - begin to work on the items of a job
 *
 * Returns whether some of them have the same prompt.  In a transaction of
 * sabot's own.
 */
bool
sabot_items_begin(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	last_finished = 0;
	/* The last one may have been counted, and taken away since. */
	if (sabot_spi("SELECT GREATEST((SELECT max(finished_at) FROM sabot.llm_answer"
				  "  WHERE job_id = $1), (SELECT NULLIF(counted_at, '-infinity')"
				  "  FROM sabot.llm_count WHERE job_id = $1))",
				  1, types, values, NULL, 0) > 0)
		last_finished = (TimestampTz) column_int8(0, 1);
	return sabot_spi("SELECT FROM sabot.llm_item"
					 " WHERE job_id = $1 AND same_as IS NOT NULL LIMIT 1",
					 1, types, values, NULL, 0) > 0;
}

/*
 * next_finished_at - the time to write for an answer: now, but later than for
 * every one before, as counting relies on their order
 */
static TimestampTz
next_finished_at(void)
{
	last_finished = Max(GetCurrentTimestamp(), last_finished + 1);
	return last_finished;
}

/*
 * set_text, set_float, set_int - parameters that may be unknown
 */
static void
set_text(Datum *value, char *isnull, const char *text)
{
	*isnull = text ? ' ' : 'n';

	if (text)
		*value = CStringGetTextDatum(text);
}

static void
set_float(Datum *value, char *isnull, double number)
{
	*isnull = number >= 0 ? ' ' : 'n';
	*value = Float8GetDatum(number);
}

static void
set_int(Datum *value, char *isnull, int number)
{
	*isnull = number >= 0 ? ' ' : 'n';
	*value = Int32GetDatum(number);
}

/*
 * sabot_item_finish - keep what became of an item
 *
 * Returns false if that is known already: then the caller must roll back.
 * Between sabot_own_begin() and sabot_own_end().
 */
bool
sabot_item_finish(const SabotLlmSpec *spec, const SabotLlmItem *item,
				  const SabotItemEnd *end)
{
	static const Oid types[] = {
		INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID,
		FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, INT4OID, INT4OID,
		TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, JSONBOID
	};
	Datum		v[lengthof(types)] = {0};
	char		nulls[lengthof(types) + 1];
	const SabotAnswer *answer = end->answer;

	memset(nulls, ' ', sizeof(nulls));
	v[0] = Int64GetDatum(spec->job_id);
	v[1] = Int64GetDatum(item->item);
	set_text(&v[2], &nulls[2], end->state);
	set_text(&v[3], &nulls[3], end->answered_by);
	set_text(&v[4], &nulls[4], end->error_class == SABOT_LLM_OK ? NULL :
			 sabot_error_class_label(end->error_class));
	set_text(&v[5], &nulls[5], end->error);
	v[6] = Int32GetDatum(end->attempts);
	set_float(&v[7], &nulls[7], end->latency_ms);
	set_float(&v[8], &nulls[8], answer ? answer->queue_ms : -1);
	set_float(&v[9], &nulls[9], answer ? answer->load_ms : -1);
	set_float(&v[10], &nulls[10], answer ? answer->output_ms : -1);
	set_int(&v[11], &nulls[11], answer ? answer->prompt_tokens : -1);
	set_int(&v[12], &nulls[12], answer ? answer->output_tokens : -1);
	set_text(&v[13], &nulls[13], spec->model);
	set_text(&v[14], &nulls[14], end->digest);
	v[15] = TimestampTzGetDatum(next_finished_at());
	set_text(&v[16], &nulls[16], end->response);
	v[17] = JsonbPGetDatum(end->value);
	nulls[17] = end->value ? ' ' : 'n';
	return sabot_spi_generic("INSERT INTO sabot.llm_answer (job_id, item, state, answered_by,"
							 " error_class, error, attempts, latency_ms, queue_ms, load_ms,"
							 " output_ms, prompt_tokens, output_tokens, model, model_digest,"
							 " finished_at, response, value)"
							 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
							 " $13, $14, $15, $16, $17, $18)"
							 " ON CONFLICT (job_id, item) DO NOTHING",
							 lengthof(types), types, v, nulls, 0) == 1;
}

/*
 * sabot_item_note_failure - keep an attempt that did not answer its item
 *
 * lost says that it is noted beforehand, in case the worker does not survive
 * it.  Between sabot_own_begin() and sabot_own_end().
 */
void
sabot_item_note_failure(const SabotLlmSpec *spec, const SabotLlmItem *item,
						SabotErrorClass error_class, const char *error,
						double latency_ms, bool lost)
{
	static const Oid types[] = {
		INT8OID, INT8OID, TEXTOID, TEXTOID, FLOAT8OID, BOOLOID
	};
	Datum		v[lengthof(types)];
	char		nulls[lengthof(types) + 1];

	memset(nulls, ' ', sizeof(nulls));
	v[0] = Int64GetDatum(spec->job_id);
	v[1] = Int64GetDatum(item->item);
	v[2] = CStringGetTextDatum(sabot_error_class_label(error_class));
	set_text(&v[3], &nulls[3], error);
	set_float(&v[4], &nulls[4], latency_ms);
	v[5] = BoolGetDatum(lost);
	sabot_spi("INSERT INTO sabot.llm_failure (job_id, item, error_class, error,"
			  " latency_ms, finished_at, lost)"
			  " VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6)",
			  lengthof(types), types, v, nulls, 0);
}

/*
 * sabot_item_survived - forget what was noted in case the worker would not
 * survive an item, and the workers that were lost before it
 *
 * Between sabot_own_begin() and sabot_own_end().
 */
void
sabot_item_survived(const SabotLlmSpec *spec, const SabotLlmItem *item)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(spec->job_id),
	Int64GetDatum(item->item)};

	sabot_spi("DELETE FROM sabot.llm_failure WHERE job_id = $1 AND item = $2"
			  " AND lost",
			  2, types, values, NULL, 0);
	sabot_spi("UPDATE sabot.job SET losses = 0 WHERE job_id = $1",
			  1, types, values, NULL, 0);
}

/*
 * sabot_items_lock_count - lock the counters of a job
 *
 * Before they are read: a statement that follows sees who had them before.
 * Without wait, returns false if somebody else has them, as a session can that
 * asks for items again and has not committed yet.  Between sabot_own_begin()
 * and sabot_own_end().
 */
bool
sabot_items_lock_count(int64 job_id, bool wait)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	if (wait)
		return sabot_spi("SELECT FROM sabot.llm_count WHERE job_id = $1 FOR UPDATE",
						 1, types, values, NULL, 0) > 0;
	return sabot_spi_generic("SELECT FROM sabot.llm_count WHERE job_id = $1"
							 " FOR UPDATE SKIP LOCKED",
							 1, types, values, NULL, 0) > 0;
}

/*
 * sabot_items_recount - count all answers of a job anew
 *
 * They are locked.  Returns how many items are finished.  Between
 * sabot_own_begin() and sabot_own_end().
 */
int64
sabot_items_recount(const SabotLlmSpec *spec)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(spec->job_id)};
	SabotLlmUsage none = {0};

	sabot_spi("UPDATE sabot.llm_count SET done = 0, fallback = 0, failed = 0,"
			  " skipped = 0, reused = 0, answered = 0, attempts = 0,"
			  " counted_at = '-infinity' WHERE job_id = $1",
			  1, types, values, NULL, 0);
	return sabot_items_count(spec, &none);
}

/*
 * sabot_items_count - bring the counters of a job up to date
 *
 * Adds what the worker has used since it last did, usage, which is what the
 * job has used in all afterwards.  Returns how many items are finished.
 * Between sabot_own_begin() and sabot_own_end().
 */
int64
sabot_items_count(const SabotLlmSpec *spec, SabotLlmUsage *usage)
{
	Oid			types[] = {INT8OID, FLOAT8OID, FLOAT8OID, INT8OID, INT4OID, INT8OID};
	Datum		values[] = {
		Int64GetDatum(spec->job_id), Float8GetDatum(usage->run_ms),
		Float8GetDatum(usage->cpu_ms), Int64GetDatum(usage->connections),
		Int32GetDatum(usage->most_in_flight), Int64GetDatum(usage->rss_bytes)
	};
	int64		finished = 0;

	sabot_items_use_indexes();
	if (sabot_spi_generic("WITH n AS (SELECT count(*) FILTER (WHERE a.state = 'done') AS done,"
						  " count(*) FILTER (WHERE a.state = 'fallback') AS fallback,"
						  " count(*) FILTER (WHERE a.state = 'failed') AS failed,"
						  " count(*) FILTER (WHERE a.state = 'skipped') AS skipped,"
						  " count(*) FILTER (WHERE a.answered_by = 'reuse') AS reused,"
						  " count(*) FILTER (WHERE a.answered_by = 'model') AS answered,"
						  " COALESCE(sum(a.attempts), 0) AS attempts,"
						  " max(a.finished_at) AS upto FROM sabot.llm_answer a"
						  " WHERE a.job_id = $1 AND a.finished_at >"
						  "  (SELECT counted_at FROM sabot.llm_count WHERE job_id = $1))"
						  " UPDATE sabot.llm_count c SET done = c.done + n.done,"
						  " fallback = c.fallback + n.fallback, failed = c.failed + n.failed,"
						  " skipped = c.skipped + n.skipped, reused = c.reused + n.reused,"
						  " answered = c.answered + n.answered,"
						  " attempts = c.attempts + n.attempts,"
						  " counted_at = COALESCE(n.upto, c.counted_at),"
						  " run_ms = run_ms + $2, cpu_ms = cpu_ms + $3,"
						  " connections = connections + $4,"
						  " most_in_flight = GREATEST(most_in_flight, $5),"
						  " rss_bytes = COALESCE(NULLIF($6, 0), rss_bytes) FROM n WHERE c.job_id = $1"
						  " RETURNING c.done, c.fallback + c.skipped, c.failed,"
						  " c.connections, c.run_ms, c.cpu_ms",
						  6, types, values, NULL, 0) > 0)
	{
		int64		done = column_int8(0, 1) + column_int8(0, 2);
		int64		failed = column_int8(0, 3);

		finished = done + failed;
		usage->connections = column_int8(0, 4);
		usage->run_ms = column_float8(0, 5);
		usage->cpu_ms = column_float8(0, 6);
		sabot_job_note_units(spec->job_id, spec->total, done, failed);
	}
	return finished;
}
