/*-------------------------------------------------------------------------
 *
 * pool_profile.c
 *		Where the time of a job or a query goes: a histogram per component.
 *
 * Agents and submitters add a sample for every job, and sessions for every
 * query that agents take part in.
 *
 * IDENTIFICATION
 *		src/pool/pool_profile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "pool/pool.h"

typedef struct SabotProfile
{
	SabotHistogram components[SABOT_NCOMPONENTS];
} SabotProfile;

static SabotProfile *sabot_profile = NULL;

static const char *const component_names[SABOT_NCOMPONENTS] = {
	[SABOT_AGENT_START] = "agent start",
	[SABOT_SUBMISSION] = "submission",
	[SABOT_DISPATCH] = "dispatch",
	[SABOT_EXECUTION] = "execution",
	[SABOT_COMPLETION] = "completion",
	[SABOT_TOTAL] = "total",
	[SABOT_QUERY_SETUP] = "query set-up",
	[SABOT_QUERY_LAUNCH] = "query launch",
	[SABOT_QUERY_EXECUTION] = "query execution",
	[SABOT_QUERY_TOTAL] = "query total",
};

PG_FUNCTION_INFO_V1(sabot_profile_rows);

/*
 * sabot_profile_shmem_size - bytes of shared memory the histograms need
 */
Size
sabot_profile_shmem_size(void)
{
	return MAXALIGN(sizeof(SabotProfile));
}

/*
 * sabot_profile_shmem_init - create or attach to the histograms
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_profile_shmem_init(void)
{
	bool		found;

	sabot_profile = ShmemInitStruct("sabot profile",
									sabot_profile_shmem_size(), &found);
	if (found)
		return;

	for (int i = 0; i < SABOT_NCOMPONENTS; i++)
		sabot_histogram_init(&sabot_profile->components[i]);
}

/*
 * sabot_profile_add - count that a component took from "from" to "to"
 *
 * Does nothing without shared memory or if either time is 0, that is unknown.
 * Takes no lock and cannot fail.
 */
void
sabot_profile_add(SabotComponent component, TimestampTz from, TimestampTz to)
{
	if (sabot_profile == NULL || from == 0 || to == 0)
		return;

	/* A clock that was set back must not count as centuries. */
	sabot_histogram_add(&sabot_profile->components[component],
						to > from ? (uint64) (to - from) : 0);
}

/*
 * ms_datum - microseconds as milliseconds in SQL, to the microsecond
 */
static Datum
ms_datum(double us)
{
	return Float8GetDatum(rint(us) / 1000.0);
}

/*
 * put_component - add the row of one component
 *
 * A component without samples has count 0 and NULL durations.
 */
static void
put_component(ReturnSetInfo *rsinfo, SabotComponent component)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {false, true, false, true, true, true, false};
	SabotHistogramSummary summary;

	sabot_histogram_read(sabot_profile == NULL ? NULL :
						 &sabot_profile->components[component], &summary);
	values[0] = CStringGetTextDatum(component_names[component]);
	values[2] = Int64GetDatum((int64) summary.count);
	values[6] = ms_datum(summary.sum_us);
	if (summary.count > 0)
	{
		nulls[1] = !summary.has_first;
		values[1] = ms_datum(summary.first_us);
		nulls[3] = nulls[4] = nulls[5] = false;
		values[3] = ms_datum(summary.sum_us / summary.count);
		values[4] = ms_datum(summary.p50_us);
		values[5] = ms_datum(summary.p95_us);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.profile_rows() RETURNS SETOF record
 *
 * One row per component, durations in ms; all empty without preload.
 */
Datum
sabot_profile_rows(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < SABOT_NCOMPONENTS; i++)
		put_component((ReturnSetInfo *) fcinfo->resultinfo, (SabotComponent) i);
	return (Datum) 0;
}
