/*-------------------------------------------------------------------------
 *
 * job_refill.c
 *		Fills the queue of ready jobs from the table.
 *
 * Done when an agent's pair has no other agent yet, when a lane has run out
 * but the table has more, when scheduled jobs are due, and every few seconds
 * of idleness, in case a wake was lost.  Jobs of other crews are left alone.
 *
 * While somebody holds an old snapshot, whoever reads an index from its
 * beginning passes every job that has ended since.  So what need not be read
 * from the beginning is not: lanes that have something in them, and jobs
 * scheduled for a time before the one that has come.  For the rest, which
 * makes up for lost wakes, see job_scan.c.
 *
 * IDENTIFICATION
 *		src/jobs/job_refill.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"

/* Ids to read at a time, and due jobs to queue in one transaction. */
#define FILL_LIMIT		4096
#define DUE_LIMIT		1000

/* An agent that has other work asks this often whether one is due, in ms. */
#define BUSY_CHECK_MS	100

/* A due job whose row somebody has locked is tried again after this, in ms. */
#define LOCKED_RETRY_MS	20

static TimestampTz looked_for_due = 0;	/* when our agent last did */

/*
 * begin_scan - begin a transaction of sabot's own for looking at the table
 *
 * The statements here must use their index however large the table looks;
 * without statistics the planner might think otherwise.
 */
static void
begin_scan(SabotOwn *own)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort"
	};

	sabot_own_start_transaction(own);
	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * pair_values - the first two parameters of statements about our pair
 */
static void
pair_values(Datum *values)
{
	values[0] = ObjectIdGetDatum(GetSessionUserId());
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
}

/*
 * sabot_refill_lane - read the next ready jobs of a queue of our pair
 */
void
sabot_refill_lane(const char *queue)
{
	Oid			types[] = {OIDOID, INT8OID, TEXTOID, INT4OID, INT8OID, INT4OID};
	Datum		values[6];
	SabotOwn	own;
	SabotReady	entry = {0};
	SPITupleTable *rows;
	int32		priority;
	int64		job_id;
	int			limit = sabot_ready_begin_fill(queue, &priority, &job_id);
	int			n;

	if (limit == 0)
		return;
	limit = Min(limit, FILL_LIMIT);
	begin_scan(&own);
	pair_values(values);
	values[2] = CStringGetTextDatum(queue);
	values[3] = Int32GetDatum(-priority);
	values[4] = Int64GetDatum(job_id);
	values[5] = Int32GetDatum(limit);
	n = sabot_spi("SELECT job_id, priority FROM sabot.job"
				  " WHERE owner = $1 AND home = $2 AND queue = $3 AND state = 'queued'"
				  " AND ((-priority), job_id) >= ($4, $5)"
				  " ORDER BY (-priority), job_id LIMIT $6",
				  6, types, values, NULL, 0);
	rows = SPI_tuptable;
	if (n > 0)
		sabot_queue_refresh();
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		entry.job_id = DatumGetInt64(SPI_getbinval(rows->vals[i],
												   rows->tupdesc, 1, &isnull));
		entry.priority = DatumGetInt32(SPI_getbinval(rows->vals[i],
													 rows->tupdesc, 2, &isnull));
		sabot_ready_push(MyDatabaseId, GetSessionUserId(), queue, &entry);
	}
	sabot_own_commit_transaction(&own);
	sabot_ready_end_fill(queue, n == limit, entry.priority,
						 entry.job_id + 1);
	sabot_stream_refill();

	/* Whoever has found nothing meanwhile is not to be believed. */
	sabot_pool_wake(sabot_my_pair(), 0, 0);
}

/*
 * queue_due - make scheduled jobs of our pair that are due ready
 *
 * Those due before *since are left out.  Returns false if there may be more of
 * them, due at *since or later.
 */
static bool
queue_due(TimestampTz *since)
{
	Oid			types[] = {OIDOID, INT8OID, TIMESTAMPTZOID};
	Datum		values[3];
	SabotOwn	own;
	int			n;

	begin_scan(&own);
	pair_values(values);
	values[2] = TimestampTzGetDatum(*since);
	n = sabot_spi("UPDATE sabot.job SET state = 'queued' WHERE job_id IN"
				  " (SELECT j.job_id FROM sabot.job j WHERE j.owner = $1 AND j.home = $2"
				  " AND j.state = 'scheduled' AND j.run_after >= $3"
				  " AND j.run_after <= clock_timestamp()"
				  " AND j.queue <> '" SABOT_LLM_QUEUE "'"
				  " ORDER BY j.run_after LIMIT 1000 FOR UPDATE SKIP LOCKED)"
				  " RETURNING job_id, priority, queue, run_after",
				  3, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		int32		priority = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		TimestampTz run_after = DatumGetTimestampTz(SPI_getbinval(row, desc,
																  4, &isnull));

		sabot_pending_submit(job_id, priority, SPI_getvalue(row, desc, 3),
							 GetSessionUserId(), 0, 0);
		*since = Max(*since, run_after);
	}
	if (n > 0)
		sabot_queue_refresh();
	sabot_own_commit_transaction(&own);
	return n < DUE_LIMIT;
}

/*
 * sabot_refill_next_due - when the next job of a role that agents run is due
 *
 * Those due before "since" are left out.  Returns 0 if there is none.  To be
 * called in no transaction.
 */
TimestampTz
sabot_refill_next_due(Oid owner, TimestampTz since)
{
	Oid			types[] = {OIDOID, INT8OID, TIMESTAMPTZOID};
	Datum		values[3];
	SabotOwn	own;
	TimestampTz due = 0;

	begin_scan(&own);
	values[0] = ObjectIdGetDatum(owner);
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
	values[2] = TimestampTzGetDatum(since);
	if (sabot_spi("SELECT run_after FROM sabot.job WHERE owner = $1 AND home = $2"
				  " AND state = 'scheduled' AND run_after >= $3"
				  " AND queue <> '" SABOT_LLM_QUEUE "'"
				  " ORDER BY run_after LIMIT 1",
				  3, types, values, NULL, 0) > 0)
	{
		bool		isnull;

		due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 1, &isnull));
	}
	sabot_own_commit_transaction(&own);
	return due;
}

/*
 * look_for_due - see to the scheduled jobs of our pair that are due at a time
 * or later
 *
 * A job scheduled meanwhile tells the pool itself when it commits, and may be
 * due before that time.  So what the pool knows is taken from it before the
 * next due job is looked for, and only lowered after.
 */
static void
look_for_due(TimestampTz since)
{
	TimestampTz from = since;
	TimestampTz due;

	looked_for_due = GetCurrentTimestamp();
	while (!queue_due(&from))
		CHECK_FOR_INTERRUPTS();
	/* From "since" again: somebody may have had some of them locked. */
	due = sabot_pool_take_due(sabot_my_pair());
	if (due != 0)
		since = Min(since, due);
	due = sabot_refill_next_due(GetSessionUserId(), since);
	if (due != 0)
		sabot_pool_wake(sabot_my_pair(), 0, due);
}

/*
 * unstocked_queues - names of the queues in which jobs of our pair are ready
 * and whose lanes have nothing in them
 *
 * A loose index scan: one probe per queue, however many jobs each has, and
 * none into the queues that are left out: while somebody holds an old snapshot
 * a probe passes every job of its queue that has ended since.  The list is in
 * the given context.
 */
static List *
unstocked_queues(MemoryContext context)
{
	Oid			types[] = {OIDOID, INT8OID, TEXTARRAYOID};
	Datum		values[3];
	SabotOwn	own;
	List	   *result = NIL;
	int			n;

	begin_scan(&own);
	pair_values(values);
	values[2] = PointerGetDatum(sabot_ready_stocked());
	n = sabot_spi("WITH RECURSIVE q (queue, found) AS ("
				  "SELECT '', false"
				  " UNION ALL"
				  " SELECT coalesce(f.queue, s.queue), f.queue IS NOT NULL FROM q,"
				  " LATERAL (SELECT min(u) FROM unnest($3 || '" SABOT_LLM_QUEUE "'::text) u"
				  " WHERE u > q.queue) s (queue),"
				  " LATERAL (SELECT CASE WHEN s.queue IS NULL THEN"
				  " (SELECT j.queue FROM sabot.job j WHERE j.owner = $1 AND j.home = $2"
				  " AND j.state = 'queued' AND j.queue > q.queue"
				  " ORDER BY j.queue LIMIT 1)"
				  " ELSE"
				  " (SELECT j.queue FROM sabot.job j WHERE j.owner = $1 AND j.home = $2"
				  " AND j.state = 'queued' AND j.queue > q.queue AND j.queue < s.queue"
				  " ORDER BY j.queue LIMIT 1)"
				  " END) f (queue)"
				  " WHERE q.queue IS NOT NULL)"
				  " SELECT queue FROM q WHERE found",
				  3, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend(result, SPI_getvalue(SPI_tuptable->vals[i],
											  SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(old);
	}
	sabot_own_commit_transaction(&own);
	return result;
}

/*
 * next_due - when the next scheduled job of our pair is due, as far as the
 * pool knows; 0 if there is none
 */
static TimestampTz
next_due(void)
{
	SabotPair	pair;

	return sabot_pool_get_pair(sabot_my_pair(), &pair) ? pair.next_due : 0;
}

/*
 * has_due - whether to look for scheduled jobs that are due
 *
 * One that was due when we last looked is there because it was locked.
 */
static bool
has_due(void)
{
	TimestampTz due = next_due();
	TimestampTz now = GetCurrentTimestamp();

	return due != 0 && due <= now &&
		(due > looked_for_due ||
		 TimestampDifferenceExceeds(looked_for_due, now, LOCKED_RETRY_MS));
}

/*
 * sabot_refill_is_due - whether it is time to look at the table, for scheduled
 * jobs that are due or for everything
 */
bool
sabot_refill_is_due(void)
{
	return has_due() || sabot_scan_is_due();
}

/*
 * sabot_refill_is_overdue - as sabot_refill_is_due, cheap enough to be asked
 * before every job
 *
 * Jobs that become due must not wait until all others are done.
 */
bool
sabot_refill_is_overdue(void)
{
	static TimestampTz last_check = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(last_check, now, BUSY_CHECK_MS))
		return false;
	last_check = now;
	return sabot_refill_is_due();
}

/*
 * scan - look for everything our pair could run
 */
static void
scan(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "sabot refill",
												  ALLOCSET_SMALL_SIZES);
	bool		routine = !sabot_scan_is_requested();
	TimestampTz began_at = sabot_scan_begin();
	ListCell   *lc;

	look_for_due(DT_NOBEGIN);
	if (!routine)
		sabot_stream_refill();
	foreach(lc, unstocked_queues(context))
		sabot_refill_lane(lfirst(lc));
	sabot_scan_end(began_at);
	MemoryContextDelete(context);
}

/*
 * sabot_refill - look at the table for what it is time for
 *
 * To be called in no transaction.
 */
void
sabot_refill(void)
{
	TimestampTz due = next_due();

	if (sabot_scan_is_due())
		scan();
	else if (due != 0)
		look_for_due(due);
}
