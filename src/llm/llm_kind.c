/*-------------------------------------------------------------------------
 *
 * llm_kind.c
 *		What the room below asks about jobs of the lane.
 *
 * IDENTIFICATION
 *		src/llm/llm_kind.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"
#include "llm/llm.h"

/*
 * why_server - why the server or the model a job needs is stopped, or NULL
 */
static char *
why_server(char *name, const char *url, const char *model)
{
	SabotEndpoint endpoint = {.name = name,.origin = sabot_url_origin(url)};
	SabotServerState state;
	TimestampTz next_probe;
	char		error[SABOT_FAULT_LEN];
	int64		wait_us;

	if (sabot_gate_is_closed(&endpoint, model, &next_probe, error))
	{
		wait_us = next_probe - GetCurrentTimestamp();
		return psprintf("endpoint \"%s\" %s, next probe in " INT64_FORMAT " s",
						name, error,
						(Max(wait_us, 0) + USECS_PER_SEC - 1) / USECS_PER_SEC);
	}
	if (sabot_server_state(&endpoint, &state) && state.limit > 0 &&
		state.in_flight >= state.limit)
		return psprintf("endpoint \"%s\" is busy, %d requests are open",
						name, state.in_flight);
	return NULL;
}

/*
 * wait_reason - why a job waits as far as its server is concerned, or NULL
 */
static char *
wait_reason(int64 job_id)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job_id),
	CStringGetTextDatum(SABOT_DEFAULT_URL)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *why = NULL;
	SabotOwn	own;

	SPI_connect();
	sabot_own_begin(&own);
	if (sabot_spi("SELECT l.endpoint, COALESCE(e.url, CASE l.endpoint"
				  "  WHEN 'default' THEN $2 END), l.model FROM sabot.llm_job l"
				  " LEFT JOIN sabot.llm_endpoint e ON e.name = l.endpoint"
				  " WHERE l.job_id = $1",
				  2, types, values, NULL, 0) > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *url = SPI_getvalue(row, desc, 2);

		if (url != NULL)
			why = why_server(SPI_getvalue(row, desc, 1), url,
							 SPI_getvalue(row, desc, 3));
		if (why != NULL)
			why = MemoryContextStrdup(caller, why);
	}
	sabot_own_end(&own);
	SPI_finish();
	return why;
}

/*
 * forget - delete what belongs to jobs that were purged
 */
static void
forget(Datum job_ids)
{
	Oid			types[] = {INT8ARRAYOID};
	Datum		values[] = {job_ids};
	static const char *const statements[] = {
		"DELETE FROM sabot.llm_job WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_item WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_waiting WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_answer WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_failure WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_refusal WHERE job_id = ANY ($1)",
		"DELETE FROM sabot.llm_count WHERE job_id = ANY ($1)"
	};

	for (int i = 0; i < lengthof(statements); i++)
		sabot_spi(statements[i], 1, types, values, NULL, 0);
}

static const SabotJobExtra extra = {
	.wait_reason = wait_reason,
	.forget = forget,
	.views = "sabot.llm_result, sabot.llm_progress, sabot.llm_health,"
	" sabot.llm_endpoint_status",
	.routines = "sabot.submit_llm_job, sabot.submit_embedding_job,"
	" sabot.preview_llm_job, sabot.retry_llm_items, sabot.check_llm,"
	" sabot.llm_activity, sabot.llm_endpoints"
};

/*
 * sabot_llm_register - tell the room below of this one
 *
 * To be called while the library is loaded.
 */
void
sabot_llm_register(void)
{
	sabot_job_set_extra(&extra);
}
