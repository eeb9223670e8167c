/*-------------------------------------------------------------------------
 *
 * job_kind.c
 *		Jobs that another crew than the agents runs.
 *
 * A job is a row, whoever runs it: it is submitted, waited for, paused,
 * cancelled and kept in the same ways.  Its queue says which crew it is for.
 * What only the room of that crew knows, it says when it is asked.
 *
 * IDENTIFICATION
 *		src/jobs/job_kind.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "jobs/jobs.h"

static const SabotJobExtra *extra_of_llm = NULL;

/*
 * sabot_queue_crew - which crew runs the jobs of a queue
 */
SabotCrew
sabot_queue_crew(const char *queue)
{
	return strcmp(queue, SABOT_LLM_QUEUE) == 0 ? SABOT_LLM_WORKERS :
		SABOT_AGENTS;
}

/*
 * sabot_job_pair - the pair of this database that runs a job
 */
SabotPairKey
sabot_job_pair(Oid owner, const char *queue)
{
	return sabot_pair(owner, sabot_queue_crew(queue));
}

/*
 * sabot_job_set_kind - note what kind of job one is, as its row says
 */
void
sabot_job_set_kind(SabotJob *job, Datum kind)
{
	job->is_spread = sabot_kind_is(kind, "spread");
	job->is_graph = job->is_spread || sabot_kind_is(kind, "graph");
	job->is_piece = sabot_kind_is(kind, "piece");
	job->is_schedule = sabot_kind_is(kind, "schedule");
	job->is_stream = sabot_kind_is(kind, "stream");
}

/*
 * sabot_job_set_extra - register what the room above adds to its jobs
 */
void
sabot_job_set_extra(const SabotJobExtra *extra)
{
	extra_of_llm = extra;
}

/*
 * sabot_job_extra - what the room above adds to jobs of its queue
 */
const SabotJobExtra *
sabot_job_extra(void)
{
	return extra_of_llm;
}

/*
 * sabot_job_note_units - keep how far a job is that counts units of its own
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
void
sabot_job_note_units(int64 job_id, int64 total, int64 done, int64 failed)
{
	Oid			types[] = {INT8OID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id), Int64GetDatum(total),
	Int64GetDatum(done), Int64GetDatum(failed)};

	sabot_spi_generic("INSERT INTO sabot.job_units (job_id, total, done, failed)"
					  " VALUES ($1, $2, $3, $4) ON CONFLICT (job_id) DO UPDATE"
					  " SET total = $2, done = $3, failed = $4",
					  4, types, values, NULL, 0);
}
