/*-------------------------------------------------------------------------
 *
 * pool_histogram.c
 *		Histograms of durations in shared memory.
 *
 * Adding a sample must cost next to nothing: no lock, two atomic additions.
 * Buckets are spaced like the digits of a floating point number, 16 to each
 * power of two, which keeps any percentile within 1/32 of the truth from a
 * microsecond to days, in 5 kB per histogram and without ever forgetting or
 * resampling anything.
 *
 * IDENTIFICATION
 *		src/pool/pool_histogram.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "port/pg_bitutils.h"

#include "pool/pool.h"

#define SUB_BITS		SABOT_HISTOGRAM_SUB_BITS
#define SUB_BUCKETS		(1 << SUB_BITS)
#define MAX_BITS		SABOT_HISTOGRAM_MAX_BITS
#define NBUCKETS		SABOT_HISTOGRAM_BUCKETS

/*
 * sabot_histogram_init - make an empty histogram
 */
void
sabot_histogram_init(SabotHistogram *histogram)
{
	pg_atomic_init_u64(&histogram->first_us, 0);
	pg_atomic_init_u64(&histogram->sum_us, 0);
	for (int b = 0; b < NBUCKETS; b++)
		pg_atomic_init_u64(&histogram->buckets[b], 0);
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
 * sabot_histogram_add - count a duration, in us
 *
 * Takes no lock and cannot fail.
 */
void
sabot_histogram_add(SabotHistogram *histogram, uint64 us)
{
	uint64		none = 0;

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
 * sabot_histogram_read - what a histogram says now
 *
 * Without samples everything is 0, and without shared memory (NULL) too.
 */
void
sabot_histogram_read(SabotHistogram *histogram, SabotHistogramSummary *summary)
{
	uint64		counts[NBUCKETS];
	uint64		first;

	memset(summary, 0, sizeof(*summary));
	if (histogram == NULL)
		return;

	for (int b = 0; b < NBUCKETS; b++)
	{
		counts[b] = pg_atomic_read_u64(&histogram->buckets[b]);
		summary->count += counts[b];
	}
	summary->sum_us = (double) pg_atomic_read_u64(&histogram->sum_us);
	if (summary->count == 0)
		return;

	/* The counter of the first sample may come a moment later. */
	first = pg_atomic_read_u64(&histogram->first_us);
	summary->has_first = first != 0;
	summary->first_us = first != 0 ? (double) (first - 1) : 0;
	summary->p50_us = percentile(counts, summary->count, 0.50);
	summary->p95_us = percentile(counts, summary->count, 0.95);
}
