/*-------------------------------------------------------------------------
 *
 * llm_retry.c
 *		Asking again for items that the model has not answered.
 *
 * Answers are added and never updated; an item whose answer is deleted waits
 * again, and nothing else says so.  Counting them is the worker's business,
 * which adds what came since it last counted: what is taken away is counted
 * here, under the lock of the row with the counters.
 *
 * IDENTIFICATION
 *		src/llm/llm_retry.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "jobs/jobs.h"
#include "llm/llm.h"

PG_FUNCTION_INFO_V1(sabot_retry_llm_items);

/*
 * check_error_class - raise 22023 for what is no class of errors
 */
static void
check_error_class(const char *label)
{
	SabotErrorClass error_class;
	StringInfoData classes;

	if (sabot_error_class_find(label, &error_class))
		return;
	initStringInfo(&classes);
	for (int i = SABOT_LLM_OK + 1; i < SABOT_LLM_NCLASSES; i++)
		appendStringInfo(&classes, "%s%s", i > SABOT_LLM_OK + 1 ? ", " : "",
						 sabot_error_class_label(i));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown error class: \"%s\"", label),
			 errhint("There are: %s.", classes.data)));
}

/*
 * lock_counters - keep everybody else from counting the items of a job, and
 * the job from being completed
 *
 * Raises 22023 if it is no LLM job.
 */
static void
lock_counters(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	if (sabot_spi("SELECT FROM sabot.llm_count WHERE job_id = $1 FOR UPDATE",
				  1, types, values, NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job " INT64_FORMAT " is not an LLM job", job_id)));
}

/*
 * delete_answers - forget what became of items without an answer of the
 * model, and of those that reused what they have; returns how many
 *
 * error_class is NULL for all classes.
 */
static int
delete_answers(int64 job_id, const char *error_class)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job_id), 0};
	char		nulls[] = {' ', error_class ? ' ' : 'n', '\0'};

	if (error_class)
		values[1] = CStringGetTextDatum(error_class);
	return sabot_spi("WITH own AS MATERIALIZED (SELECT item FROM sabot.llm_answer"
					 "  WHERE job_id = $1 AND state IN ('failed', 'fallback')"
					 "  AND ($2 IS NULL OR error_class = $2)),"
					 " again AS MATERIALIZED (SELECT item FROM own"
					 "  UNION SELECT i.item FROM sabot.llm_item i"
					 "  JOIN own ON i.same_as = own.item WHERE i.job_id = $1),"
					 " failures AS (DELETE FROM sabot.llm_failure f USING again"
					 "  WHERE f.job_id = $1 AND f.item = again.item),"
					 " refusals AS (DELETE FROM sabot.llm_refusal r USING again"
					 "  WHERE r.job_id = $1 AND r.item = again.item),"
					 " waiting AS (INSERT INTO sabot.llm_waiting (job_id, item)"
					 "  SELECT $1, again.item FROM again JOIN sabot.llm_job l ON l.job_id = $1"
					 "  WHERE l.follow ON CONFLICT DO NOTHING)"
					 " DELETE FROM sabot.llm_answer a USING again"
					 " WHERE a.job_id = $1 AND a.item = again.item",
					 2, types, values, nulls, 0);
}

/*
 * count_again - set the counters of a job to what is left
 */
static void
count_again(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	int64		n[3];

	sabot_spi("UPDATE sabot.llm_count c SET done = n.done, fallback = n.fallback,"
			  " failed = n.failed, skipped = n.skipped, reused = n.reused,"
			  " answered = n.answered, attempts = n.attempts,"
			  " counted_at = COALESCE(n.upto, '-infinity')"
			  " FROM (SELECT count(*) FILTER (WHERE state = 'done') AS done,"
			  "  count(*) FILTER (WHERE state = 'fallback') AS fallback,"
			  "  count(*) FILTER (WHERE state = 'failed') AS failed,"
			  "  count(*) FILTER (WHERE state = 'skipped') AS skipped,"
			  "  count(*) FILTER (WHERE answered_by = 'reuse') AS reused,"
			  "  count(*) FILTER (WHERE answered_by = 'model') AS answered,"
			  "  COALESCE(sum(attempts), 0) AS attempts,"
			  "  max(finished_at) AS upto"
			  "  FROM sabot.llm_answer WHERE job_id = $1) n"
			  " WHERE c.job_id = $1"
			  " RETURNING c.done + c.fallback + c.skipped, c.failed,"
			  "  COALESCE((SELECT total FROM sabot.llm_job WHERE job_id = $1), 0)",
			  1, types, values, NULL, 0);
	for (int i = 0; i < lengthof(n); i++)
	{
		bool		isnull;

		n[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, i + 1, &isnull));
	}
	sabot_job_note_units(job_id, n[2], n[0], n[1]);
}

/*
 * see_that_it_runs - queue a job again if it is finished, and have a worker
 * look if it is not
 *
 * It may have been finished while the lock of its counters was waited for; and
 * one that has nothing left to ask may come to wait for changes before this
 * commits.
 */
static void
see_that_it_runs(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	int			n;

	if (sabot_spi("SELECT FROM sabot.job WHERE job_id = $1",
				  1, types, values, NULL, 0) == 0)
	{
		(void) sabot_job_requeue(job_id);
		return;
	}
	n = sabot_spi("SELECT job_id, priority, queue, owner, NULL::timestamptz"
				  " FROM sabot.job WHERE job_id = $1",
				  1, types, values, NULL, 0);
	(void) sabot_job_push_rows(n);
}

/*
 * SQL: sabot.retry_llm_items(job_id bigint, error_class text) RETURNS bigint -
 * ask again for items without an answer of the model, all or those of one
 * class; returns how many
 *
 * A finished job is queued again if there are any.  Errors: 42704 if the
 * caller has no such job, 22023 if it is no LLM job and for an unknown class,
 * 55000 for a copied job, and for one that has ended and followed a table.
 */
Datum
sabot_retry_llm_items(PG_FUNCTION_ARGS)
{
	char	   *error_class = PG_ARGISNULL(1) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(1));
	SabotFoundJob found;
	SabotOwn	own;
	int64		job_id;
	int			n;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job_id must not be null")));
	job_id = PG_GETARG_INT64(0);
	found = sabot_job_of_caller(job_id);
	PreventCommandIfReadOnly("sabot.retry_llm_items()");
	if (error_class)
		check_error_class(error_class);
	sabot_job_refuse_copied(job_id, &found);
	if (!found.open && found.captures)
		sabot_stream_refuse_retry(job_id, found.is_stream);
	SPI_connect();
	sabot_own_begin(&own);
	lock_counters(job_id);
	n = delete_answers(job_id, error_class);
	if (n > 0)
	{
		count_again(job_id);
		see_that_it_runs(job_id);
	}
	sabot_own_end(&own);
	SPI_finish();
	PG_RETURN_INT64(n);
}
