/*-------------------------------------------------------------------------
 *
 * job_counter.c
 *		Counts jobs that have finished, and attempts that are made again.
 *
 * For monitoring, which wants counters that only grow: the tables forget
 * finished jobs.  What a transaction has done is counted in its process, and
 * added to what everybody sees when it has committed, so nothing is counted
 * that was rolled back.  The counters are of the server, and start at zero
 * with it; they are atomic and have no lock.
 *
 * IDENTIFICATION
 *		src/jobs/job_counter.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "jobs/jobs.h"

PG_FUNCTION_INFO_V1(sabot_job_counters);

typedef struct JobCounters
{
	pg_atomic_uint64 finished[SABOT_JOB_NSTATES];	/* by final state */
	pg_atomic_uint64 retries;
} JobCounters;

static JobCounters *counters = NULL;

/* What the current transaction adds to them if it commits. */
static int	finished[SABOT_JOB_NSTATES];
static int	retries = 0;
static bool any = false;

/*
 * sabot_counter_shmem_size - bytes of shared memory the counters need
 */
Size
sabot_counter_shmem_size(void)
{
	return MAXALIGN(sizeof(JobCounters));
}

/*
 * sabot_counter_shmem_init - create or attach to the counters
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_counter_shmem_init(void)
{
	bool		found;

	counters = ShmemInitStruct("sabot job counters",
							   sabot_counter_shmem_size(), &found);
	if (found)
		return;
	for (int i = 0; i < SABOT_JOB_NSTATES; i++)
		pg_atomic_init_u64(&counters->finished[i], 0);
	pg_atomic_init_u64(&counters->retries, 0);
}

/*
 * sabot_count_finished - count n jobs as finished in a state when the current
 * transaction commits
 */
void
sabot_count_finished(SabotJobState state, int n)
{
	finished[state] += n;
	any = true;
}

/*
 * sabot_count_retry - count an attempt that is to be made again when the
 * current transaction commits
 */
void
sabot_count_retry(void)
{
	retries++;
	any = true;
}

/*
 * sabot_count_end - the current transaction has ended
 *
 * Cannot fail: it is called after commits.
 */
void
sabot_count_end(bool committed)
{
	if (!any)
		return;
	for (int i = 0; i < SABOT_JOB_NSTATES && committed; i++)
		if (finished[i] > 0)
			pg_atomic_fetch_add_u64(&counters->finished[i], finished[i]);
	if (retries > 0 && committed)
		pg_atomic_fetch_add_u64(&counters->retries, retries);
	memset(finished, 0, sizeof(finished));
	retries = 0;
	any = false;
}

/*
 * SQL: sabot.job_counters() RETURNS record
 *
 * Jobs of all databases that have finished since the server's start, by state,
 * and attempts that were made again; zeros without preload.
 */
Datum
sabot_job_counters(PG_FUNCTION_ARGS)
{
	static const SabotJobState states[] = {
		SABOT_JOB_COMPLETED, SABOT_JOB_FAILED, SABOT_JOB_CANCELED,
		SABOT_JOB_SKIPPED
	};
	TupleDesc	tupdesc;
	Datum		values[lengthof(states) + 1] = {0};
	bool		nulls[lengthof(states) + 1] = {0};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < lengthof(states) && counters != NULL; i++)
		values[i] =
			Int64GetDatum(pg_atomic_read_u64(&counters->finished[states[i]]));
	if (counters != NULL)
		values[lengthof(states)] =
			Int64GetDatum(pg_atomic_read_u64(&counters->retries));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}
