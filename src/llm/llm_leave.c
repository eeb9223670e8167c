/*-------------------------------------------------------------------------
 *
 * llm_leave.c
 *		How a worker is done with a job: it is complete, it pauses, or
 *		somebody else's turn has come.
 *
 * IDENTIFICATION
 *		src/llm/llm_leave.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "llm/llm_run.h"

/*
 * sabot_llm_complete - all items are finished: so is the job
 *
 * If some have become free again meanwhile it is left for another turn.  Who
 * made them so has changed the counters too; should these be wrong for any
 * reason, they are made anew, or the job would never end.
 */
void
sabot_llm_complete(SabotLlmRun *run)
{
	SabotEnd	end = {
		.state = SABOT_JOB_COMPLETED,
		.attempt = run->job->attempt + 1,
		.losses = run->job->losses,
		.started_at = run->started_at
	};
	SabotOutcome *outcome = sabot_outcome_create(run->context, 0);
	SabotOwn	own;
	int64		finished;

	sabot_own_start_transaction(&own);
	finished = sabot_usage_count(run, true);
	if (finished != run->spec->total)
		finished = sabot_items_recount(run->spec);
	outcome->has_row_count = true;
	outcome->row_count = finished;
	end.outcome = outcome;
	if (finished == run->spec->total)
		(void) sabot_job_finish(run->job, &end);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_llm_leave - leave a job that is not done, with its counters up to date
 */
void
sabot_llm_leave(SabotLlmRun *run)
{
	SabotOwn	own;

	if (run->spec == NULL || run->spec->total < 0)
		return;
	sabot_own_start_transaction(&own);
	(void) sabot_usage_count(run, false);
	sabot_own_commit_transaction(&own);
}

/* How the job's row is as long as nobody has paused or resumed it meanwhile. */
#define AS_QUEUED	"state = 'queued'"
#define AS_TRIED	"state = 'paused' AND reason IS DISTINCT FROM 'paused by its owner'"

/*
 * sabot_llm_pause - too many items in a row had no answer: pause the job, and
 * say when one is tried
 *
 * What the job's owner has asked for in the meantime goes before that: one
 * that he has resumed is left to run.
 */
void
sabot_llm_pause(SabotLlmRun *run)
{
	Oid			types[] = {INT8OID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[3];
	char		nulls[4] = "   ";
	TimestampTz retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   sabot_llm_pause_retry);
	char	   *reason;
	SabotOwn	own;
	bool		paused;

	if (run->only_one)
		reason = psprintf("items get no answer, the last try was at %s",
						  timestamptz_to_str(GetCurrentTimestamp()));
	else
		reason = psprintf("%d items in a row got no answer", run->unanswered);
	values[0] = Int64GetDatum(run->job->job_id);
	values[1] = CStringGetTextDatum(reason);
	values[2] = TimestampTzGetDatum(retry_at);
	if (sabot_llm_pause_retry == 0)
		nulls[2] = 'n';

	sabot_own_start_transaction(&own);
	(void) sabot_usage_count(run, false);
	paused = sabot_spi(run->only_one ?
					   "UPDATE sabot.job SET reason = $2 WHERE job_id = $1 AND " AS_TRIED :
					   "UPDATE sabot.job SET state = 'paused', reason = $2"
					   " WHERE job_id = $1 AND " AS_QUEUED,
					   2, types, values, nulls, 0) > 0;
	if (paused)
	{
		sabot_spi("UPDATE sabot.llm_job SET retry_at = $3 WHERE job_id = $1",
				  3, types, values, nulls, 0);
		run->job->state = sabot_catalog(false)->states[SABOT_JOB_PAUSED];
		if (!run->only_one)
			sabot_job_notify(run->job, SABOT_JOB_PAUSED);
	}
	sabot_own_commit_transaction(&own);
	if (paused && !run->only_one)
		ereport(WARNING,
				(errmsg("LLM job " INT64_FORMAT " was paused: %s",
						run->job->job_id, reason),
				 errhint("See error_class and error in sabot.llm_result, then use sabot.resume_job().")));
}

/*
 * sabot_llm_resume - the item that was tried has an answer: the job goes on
 *
 * Unless its owner has paused it meanwhile: then it is left.
 */
void
sabot_llm_resume(SabotLlmRun *run)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(run->job->job_id)};
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	sabot_spi("UPDATE sabot.llm_job SET retry_at = NULL WHERE job_id = $1",
			  1, types, values, NULL, 0);
	sabot_spi("UPDATE sabot.job SET state = 'queued', reason = NULL"
			  " WHERE job_id = $1 AND " AS_TRIED,
			  1, types, values, NULL, 0);
	if (sabot_spi("SELECT FROM sabot.job WHERE job_id = $1 AND " AS_QUEUED,
				  1, types, values, NULL, 0) == 0)
		run->leaving = true;
	else
		run->job->state = sabot_catalog(false)->states[SABOT_JOB_QUEUED];
	sabot_own_commit_transaction(&own);
	sabot_attempt_renew(run->job);
	run->only_one = false;
}
