/*-------------------------------------------------------------------------
 *
 * llm_prepare.c
 *		What comes before the first item: read what the job asks for, find
 *		its endpoint, read its source once, understand its target.
 *
 * All of it is the job's own business: an error here fails the job, as an
 * error of its command would.  But for one: the file with the endpoint's
 * secret is its admin's, and may be about to be replaced.
 *
 * IDENTIFICATION
 *		src/llm/llm_prepare.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "llm/llm_endpoint.h"
#include "llm/llm_follow.h"
#include "llm/llm_run.h"

/*
 * find_endpoint - find out where the job's requests are to be sent
 *
 * If the endpoint's secret is in a file that cannot be read the endpoint is
 * stopped, as if the server had refused it, and the job waits.  Raises what
 * else is wrong.  In a transaction.
 */
static void
find_endpoint(SabotLlmRun *run)
{
	SabotEndpoint unread = {.name = run->spec->endpoint};
	SabotEndpointProblem problem;
	MemoryContext old = MemoryContextSwitchTo(run->context);

	run->endpoint_epoch = sabot_endpoint_epoch();
	run->endpoint = sabot_endpoint_find(run->spec->endpoint, run->job->owner,
										&problem);
	MemoryContextSwitchTo(old);
	if (run->endpoint != NULL)
		return;
	if (problem.no_secret == NULL)
		sabot_endpoint_raise(&problem);
	sabot_gate_fault(&unread, NULL, SABOT_FAULT_ACCESS, problem.no_secret, 0);
	ereport(LOG,
			(errmsg("%s", problem.message),
			 errdetail("LLM job " INT64_FORMAT " waits for it.",
					   run->job->job_id)));
}

/*
 * read_spec - read what the job asks for and where it is to be sent
 *
 * Returns false if the job cannot begin now, or has nothing to ask for, which
 * can be only if its row was made by hand.
 */
static bool
read_spec(SabotLlmRun *run)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(run->job->job_id)};
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	run->spec = sabot_spec_read(run->job->job_id, run->context);
	if (run->spec != NULL)
	{
		find_endpoint(run);
		if (run->endpoint && !run->only_one)
			sabot_spi("UPDATE sabot.llm_job SET retry_at = NULL"
					  " WHERE job_id = $1 AND retry_at IS NOT NULL",
					  1, types, values, NULL, 0);
	}
	sabot_own_commit_transaction(&own);
	return run->endpoint != NULL;
}

/*
 * sabot_llm_begin_as_owner - begin a transaction in which the job's own SQL runs
 *
 * READ COMMITTED and READ WRITE whatever the role's settings say, as sabot
 * writes in it too.
 */
void
sabot_llm_begin_as_owner(SabotLlmRun *run)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	sabot_settings_apply(run->job->settings);
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * read_source - read the source of the job and write its items
 */
static void
read_source(SabotLlmRun *run)
{
	Oid			types[] = {INT8OID, INT8OID, TIMESTAMPTZOID};
	Datum		values[3];
	SabotOwn	own;

	sabot_llm_begin_as_owner(run);
	run->spec->total = sabot_source_read(run->spec);
	values[0] = Int64GetDatum(run->job->job_id);
	values[1] = Int64GetDatum(run->spec->total);
	values[2] = TimestampTzGetDatum(run->started_at);
	SPI_connect();
	sabot_own_begin(&own);
	sabot_spi("UPDATE sabot.llm_job SET total = $2, started_at = $3 WHERE job_id = $1",
			  3, types, values, NULL, 0);
	if (run->spec->follow)
		sabot_follow_list(run->job->job_id);
	sabot_own_end(&own);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * understand_target - find out what becomes of answers, and of the fallback
 */
static void
understand_target(SabotLlmRun *run)
{
	MemoryContext old;
	char	   *violation;

	sabot_llm_begin_as_owner(run);
	old = MemoryContextSwitchTo(run->context);
	run->mapping = sabot_mapping_create(run->spec);
	if (run->spec->fallback)
	{
		run->fallback = sabot_mapping_value(run->mapping, run->spec,
											run->spec->fallback, &violation);
		if (run->fallback == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("fallback is no answer that fits: %s", violation)));
	}
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * find_position - find out what other workers have done
 */
static void
find_position(SabotLlmRun *run)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	run->has_same = sabot_items_begin(run->job->job_id);
	sabot_refusals_read(run);
	(void) sabot_usage_count(run, false);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_llm_prepare - do everything that comes before the first item
 *
 * In no transaction.  Returns false if there is nothing to run.  Raises what
 * is wrong with the job.
 */
bool
sabot_llm_prepare(SabotLlmRun *run)
{
	if (!read_spec(run))
		return false;
	if (run->spec->total < 0)
		read_source(run);
	understand_target(run);
	find_position(run);
	if (run->spec->follow)
		run->follow = sabot_follow_begin();
	return true;
}
