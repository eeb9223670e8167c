/*-------------------------------------------------------------------------
 *
 * llm_usage.c
 *		What a worker uses for a job: time, CPU, memory and connections.
 *
 * Published in shared memory while it goes on, and added to the job's
 * counters about once a second, together with an item.
 *
 * IDENTIFICATION
 *		src/llm/llm_usage.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "llm/llm_run.h"

/* Counters are brought up to date so often, in ms. */
#define COUNT_EVERY_MS	1000

/*
 * cpu_us - CPU time this process has used, in us
 */
static int64
cpu_us(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage) != 0)
		return 0;
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * USECS_PER_SEC +
		usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/*
 * rss_bytes - resident memory of this process, in bytes; 0 if unknown
 *
 * Its own: pages of the server's buffers would be counted too, as the process
 * comes to touch them.
 */
static int64
rss_bytes(void)
{
	FILE	   *file = fopen("/proc/self/statm", "r");
	long		size;
	long		resident;
	long		shared;
	int			n;

	if (file == NULL)
		return 0;
	n = fscanf(file, "%ld %ld %ld", &size, &resident, &shared);
	fclose(file);
	return n == 3 ? (int64) (resident - shared) * sysconf(_SC_PAGESIZE) : 0;
}

/*
 * sabot_usage_begin - begin to account for a job
 */
void
sabot_usage_begin(SabotLlmRun *run)
{
	run->counted_at = GetCurrentTimestamp();
	run->cpu_us = cpu_us();
	run->rss_bytes = rss_bytes();
	run->connections = 0;
	run->most_in_flight = 0;
	sabot_usage_publish(run);
}

/*
 * add_items - items whose request is open
 */
static void
add_items(SabotLlmActivity *activity, List *items)
{
	ListCell   *lc;

	activity->running += list_length(items);
	foreach(lc, items)
	{
		if (activity->nitems == SABOT_SHOWN_ITEMS)
			return;
		activity->items[activity->nitems++] = ((SabotLlmItem *) lfirst(lc))->item;
	}
}

/*
 * sabot_usage_publish - tell others what is under way now
 */
void
sabot_usage_publish(SabotLlmRun *run)
{
	SabotLlmActivity activity = {
		.job_id = run->job->job_id,
		.dbid = MyDatabaseId,
		.roleid = run->job->owner,
		.most_in_flight = run->most_in_flight,
		.counted_at = run->counted_at,
		.run_ms = run->used.run_ms,
		.cpu_ms = run->used.cpu_ms + (cpu_us() - run->cpu_us) / 1000.0,
		.connections = run->used.connections + run->connections,
		.rss_bytes = run->rss_bytes
	};

	for (int i = 0; i < SABOT_MAX_FLIGHTS && run->nflights > 0; i++)
	{
		SabotFlight *flight = &run->flights[i];

		if (flight->http == NULL)
			continue;
		add_items(&activity, flight->items);
		if (activity.oldest_start == 0 ||
			flight->started_at < activity.oldest_start)
			activity.oldest_start = flight->started_at;
	}
	sabot_activity_set(&activity);
}

/*
 * sabot_usage_end - there is nothing under way anymore
 */
void
sabot_usage_end(void)
{
	SabotLlmActivity none = {0};

	sabot_activity_set(&none);
}

/*
 * sabot_usage_is_due - whether to bring the counters of the job up to date
 */
bool
sabot_usage_is_due(const SabotLlmRun *run)
{
	return TimestampDifferenceExceeds(run->counted_at, GetCurrentTimestamp(),
									  COUNT_EVERY_MS);
}

/*
 * sabot_usage_count - bring the counters of the job up to date
 *
 * Returns how many items are finished; -1, without wait, if somebody else has
 * locked them, and then nothing has happened.  Between sabot_own_begin() and
 * sabot_own_end().
 */
int64
sabot_usage_count(SabotLlmRun *run, bool wait)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		cpu = cpu_us();
	SabotLlmUsage usage;
	int64		finished;

	if (!sabot_items_lock_count(run->spec->job_id, wait))
		return -1;
	run->rss_bytes = rss_bytes();
	usage.run_ms = (now - run->counted_at) / 1000.0;
	usage.cpu_ms = (cpu - run->cpu_us) / 1000.0;
	usage.connections = run->connections;
	usage.most_in_flight = run->most_in_flight;
	usage.rss_bytes = run->rss_bytes;
	run->counted_at = now;
	run->cpu_us = cpu;
	run->connections = 0;
	finished = sabot_items_count(run->spec, &usage);
	run->used = usage;
	return finished;
}
