/*-------------------------------------------------------------------------
 *
 * pool_profile.c
 *		Where the time of a job goes: a histogram per component.
 *
 * Agents and submitters add a sample for every job, so adding must cost next
 * to nothing: no lock, two atomic additions.  Buckets are spaced like the
 * digits of a floating point number, 16 to each power of two, which keeps any
 * percentile within 1/32 of the truth from a microsecond to days, in 5 kB per
 * component and without ever forgetting or resampling anything.
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
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "pool/pool.h"

#define SUB_BITS		4		/* 16 buckets to each power of two */
#define SUB_BUCKETS		(1 << SUB_BITS)
#define MAX_BITS		40		/* 2^41 us, 25 days: longer ones count so */
#define NBUCKETS		((MAX_BITS - SUB_BITS + 2) * SUB_BUCKETS)

/* Everything is atomic: there is no lock. */
typedef struct SabotHistogram
{
	pg_atomic_uint64 first_us;	/* first sample + 1, 0 while there is none */
	pg_atomic_uint64 sum_us;
	pg_atomic_uint64 buckets[NBUCKETS];
} SabotHistogram;

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
	{
		SabotHistogram *histogram = &sabot_profile->components[i];

		pg_atomic_init_u64(&histogram->first_us, 0);
		pg_atomic_init_u64(&histogram->sum_us, 0);
		for (int b = 0; b < NBUCKETS; b++)
			pg_atomic_init_u64(&histogram->buckets[b], 0);
	}
}

/*
 * bucket_of - the bucket that counts a duration, in us
 *
 * Below 2 * SUB_BUCKETS every duration has its own.
 */
static int
bucket_of(uint64 us)
{
	int			bits;

	if (us < SUB_BUCKETS)
		return (int) us;
	bits = pg_leftmost_one_pos64(us);
	if (bits > MAX_BITS)
		return NBUCKETS - 1;
	return (bits - SUB_BITS + 1) * SUB_BUCKETS +
		(int) ((us >> (bits - SUB_BITS)) & (SUB_BUCKETS - 1));
}

/*
 * bucket_middle - the duration, in us, in the middle of a bucket
 */
static double
bucket_middle(int bucket)
{
	int			shift = bucket / SUB_BUCKETS - 1;
	uint64		low;

	if (shift < 0)
		return bucket;
	low = (uint64) (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift;
	return low + (((uint64) 1 << shift) - 1) / 2.0;
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
	SabotHistogram *histogram;
	uint64		us;
	uint64		none = 0;

	if (sabot_profile == NULL || from == 0 || to == 0)
		return;

	/* A clock that was set back must not count as centuries. */
	us = to > from ? (uint64) (to - from) : 0;

	histogram = &sabot_profile->components[component];
	pg_atomic_fetch_add_u64(&histogram->buckets[bucket_of(us)], 1);
	pg_atomic_fetch_add_u64(&histogram->sum_us, us);
	if (pg_atomic_read_u64(&histogram->first_us) == 0)
		pg_atomic_compare_exchange_u64(&histogram->first_us, &none, us + 1);
}

/*
 * percentile - the duration, in us, that a share of the samples stays within
 *
 * counts are the buckets' counts, total their sum, which is not 0.
 */
static double
percentile(const uint64 *counts, uint64 total, double share)
{
	uint64		rank = (uint64) ceil(share * total);
	uint64		seen = 0;
	int			bucket;

	for (bucket = 0; bucket < NBUCKETS - 1; bucket++)
	{
		seen += counts[bucket];
		if (seen >= rank)
			break;
	}
	return bucket_middle(bucket);
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
	uint64		counts[NBUCKETS] = {0};
	uint64		total = 0;
	double		sum = 0;

	if (sabot_profile != NULL)
	{
		SabotHistogram *histogram = &sabot_profile->components[component];

		for (int b = 0; b < NBUCKETS; b++)
		{
			counts[b] = pg_atomic_read_u64(&histogram->buckets[b]);
			total += counts[b];
		}
		sum = (double) pg_atomic_read_u64(&histogram->sum_us);
	}

	values[0] = CStringGetTextDatum(component_names[component]);
	values[2] = Int64GetDatum((int64) total);
	values[6] = ms_datum(sum);
	if (total > 0)
	{
		uint64		first = pg_atomic_read_u64(&sabot_profile->components[component].first_us);

		/* The counter of the first sample may come a moment later. */
		nulls[1] = first == 0;
		values[1] = ms_datum(first == 0 ? 0 : (double) (first - 1));
		nulls[3] = nulls[4] = nulls[5] = false;
		values[3] = ms_datum(sum / total);
		values[4] = ms_datum(percentile(counts, total, 0.50));
		values[5] = ms_datum(percentile(counts, total, 0.95));
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
