/*-------------------------------------------------------------------------
 *
 * llm_worker.c
 *		What LLM workers, probers and the launcher do for the lane.
 *
 * The callbacks of the pool's work source for LLM workers.  A worker looks
 * for a job of its pair in the table, as there are few of them and each has
 * many items: by priority, then those that ask the same of the same server
 * as the last one, so that no model is loaded in vain, then by id.
 *
 * IDENTIFICATION
 *		src/llm/llm_worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/job_stream.h"
#include "llm/llm_follow.h"

/* A worker without work stays so long, in s: the next job may come soon. */
static const int idle_timeout = 5;

/* A pair is served this long, in ms, before another one's turn may come. */
#define LLM_SLICE_MS	1000

/* A job that cannot be run this moment is looked at again after so long. */
#define LOOK_AGAIN_MS	1000

/* Pairs that are looked at; the pool has no more. */
#define MAX_PAIRS		4096

/* Jobs looked at, in the order in which they are to run. */
#define CANDIDATES		100

/* A job that could be run. */
typedef struct Candidate
{
	int64		job_id;
	int32		priority;
	bool		only_one;
} Candidate;

static int64 last_job = 0;

/* Jobs were there when our worker looked last. */
static bool may_have_work = false;

/*
 * attach - a worker has connected
 */
static void
attach(void)
{
	uint64		wake_seq = sabot_pool_wake_seq(sabot_my_pair());
	bool		exists;

	StartTransactionCommand();
	exists = sabot_catalog(true) != NULL;
	CommitTransactionCommand();
	if (!exists)
	{
		(void) sabot_pool_forgive_pair(sabot_my_pair(), wake_seq);
		proc_exit(0);
	}
	sabot_queue_load();
}

/*
 * pair_values - the first two parameters of every statement here
 */
static void
pair_values(Datum *values)
{
	values[0] = ObjectIdGetDatum(GetSessionUserId());
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
}

/*
 * queue_due - make scheduled jobs of our pair ready that are due
 */
static void
queue_due(void)
{
	Oid			types[] = {OIDOID, INT8OID};
	Datum		values[2];

	pair_values(values);
	sabot_spi_generic("UPDATE sabot.job SET state = 'queued' WHERE job_id IN"
					  " (SELECT j.job_id FROM sabot.llm_job l JOIN sabot.job j ON j.job_id = l.job_id"
					  " WHERE j.owner = $1 AND j.home = $2 AND j.state = 'scheduled'"
					  " AND j.run_after <= clock_timestamp() FOR UPDATE OF j SKIP LOCKED)",
					  2, types, values, NULL, 0);
}

/*
 * queue_followers - make jobs ready that follow a table, of a role or of all
 * with InvalidOid, for which there is something to do; the others are woken by
 * the next commit with changes from now on
 *
 * Those that have not begun wait for other jobs.  Between sabot_own_begin()
 * and sabot_own_end(), SPI connected.
 */
static void
queue_followers(Oid owner)
{
	Oid			types[] = {OIDOID, INT8OID};
	Datum		values[] = {ObjectIdGetDatum(owner),
	Int64GetDatum(sabot_catalog(false)->home)};
	int			n = sabot_spi_generic("SELECT j.job_id FROM sabot.llm_job l"
									  " JOIN sabot.job j ON j.job_id = l.job_id"
									  " WHERE (j.owner = $1 OR $1 = 0) AND j.home = $2"
									  " AND j.state = 'blocked' AND l.follow AND l.total IS NOT NULL",
									  2, types, values, NULL, 0);
	SPITupleTable *rows = SPI_tuptable;

	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(rows->vals[i],
														 rows->tupdesc, 1, &isnull));
		Datum		value = Int64GetDatum(job_id);
		SabotJob   *job = sabot_job_read(job_id);

		if (job == NULL)
			continue;
		sabot_capture_enter(job, true);
		if (sabot_stream_waits(job_id) || sabot_follow_has_waiting(job_id))
			sabot_spi_generic("UPDATE sabot.job SET state = 'queued', reason = NULL"
							  " WHERE job_id IN (SELECT job_id FROM sabot.job"
							  "  WHERE job_id = $1 AND state = 'blocked'"
							  "  FOR UPDATE SKIP LOCKED)",
							  1, &types[1], &value, NULL, 0);
	}
}

/*
 * next_due - when a job of our pair will be ready that is not yet, 0 = none
 *
 * One whose time has come already could not be had: it is looked at again in
 * a while.
 */
static TimestampTz
next_due(void)
{
	Oid			types[] = {OIDOID, INT8OID};
	Datum		values[2];
	TimestampTz now = GetCurrentTimestamp();
	bool		isnull;
	Datum		due;

	pair_values(values);
	sabot_spi_generic("SELECT min(CASE j.state WHEN 'scheduled' THEN j.run_after ELSE l.retry_at END)"
					  " FROM sabot.llm_job l JOIN sabot.job j ON j.job_id = l.job_id"
					  " WHERE j.owner = $1 AND j.home = $2 AND (j.state = 'scheduled'"
					  " OR (j.state = 'paused' AND l.retry_at IS NOT NULL"
					  " AND j.reason IS DISTINCT FROM 'paused by its owner'))",
					  2, types, values, NULL, 0);
	due = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						&isnull);
	if (isnull)
		return 0;
	if (DatumGetTimestampTz(due) <= now)
		return TimestampTzPlusMilliseconds(now, LOOK_AGAIN_MS);
	return DatumGetTimestampTz(due);
}

/*
 * is_open - whether the server and model of a candidate are not stopped
 *
 * From the columns url, model and endpoint of SPI's result; lowers *due to
 * when they are to be probed.
 */
static bool
is_open(int row, TimestampTz *due)
{
	HeapTuple	tuple = SPI_tuptable->vals[row];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	char	   *url = SPI_getvalue(tuple, desc, 4);
	char	   *model = SPI_getvalue(tuple, desc, 5);
	SabotEndpoint endpoint = {.name = SPI_getvalue(tuple, desc, 6)};
	TimestampTz next_probe;

	if (url == NULL)
		return true;			/* it is for the job to fail */
	endpoint.origin = sabot_url_origin(url);
	if (!sabot_gate_is_closed(&endpoint, model, &next_probe, NULL))
		return true;
	if (*due == 0 || next_probe < *due)
		*due = next_probe;
	return false;
}

/*
 * find_candidates - the jobs of our pair that could be run now, in order
 *
 * Fills up to CANDIDATES; returns how many.  *due is when there may be more,
 * 0 if that is not known.  In no transaction.
 */
static int
find_candidates(Candidate *candidates, TimestampTz *due)
{
	Oid			types[] = {OIDOID, INT8OID, INT8OID, TEXTOID};
	Datum		values[4];
	SabotOwn	own;
	int			nrows;
	int			n = 0;

	sabot_own_start_transaction(&own);
	queue_due();
	queue_followers(GetSessionUserId());
	*due = next_due();
	pair_values(values);
	values[2] = Int64GetDatum(last_job);
	values[3] = CStringGetTextDatum(SABOT_DEFAULT_URL);
	nrows = sabot_spi_generic("SELECT j.job_id, j.priority, j.state = 'paused',"
							  " COALESCE(e.url, CASE l.endpoint WHEN 'default' THEN $4 END), l.model,"
							  " l.endpoint FROM sabot.llm_job l JOIN sabot.job j ON j.job_id = l.job_id"
							  " LEFT JOIN sabot.llm_endpoint e ON e.name = l.endpoint"
							  " LEFT JOIN sabot.llm_job p ON p.job_id = $3"
							  " WHERE j.owner = $1 AND j.home = $2 AND (j.state = 'queued'"
							  " OR (j.state = 'paused' AND l.retry_at <= clock_timestamp()"
							  " AND j.reason IS DISTINCT FROM 'paused by its owner'))"
							  " ORDER BY j.priority DESC, j.job_id <> $3,"
							  " (l.endpoint, l.model) IS DISTINCT FROM (p.endpoint, p.model)"
							  " OR l.options IS DISTINCT FROM p.options, j.job_id LIMIT 100",
							  4, types, values, NULL, 0);
	for (int i = 0; i < nrows; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		if (!is_open(i, due))
			continue;
		candidates[n].job_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		candidates[n].priority = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
		candidates[n].only_one = DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
		n++;
	}
	sabot_own_commit_transaction(&own);
	return n;
}

/*
 * sabot_llm_better_job - whether a job waits that goes before ours
 *
 * In no transaction.
 */
bool
sabot_llm_better_job(const SabotJob *job)
{
	Candidate	candidates[CANDIDATES];
	SabotSlot	slot;
	TimestampTz due;
	int			n = find_candidates(candidates, &due);

	for (int i = 0; i < n; i++)
	{
		if (candidates[i].priority <= job->priority)
			return false;
		if (!sabot_pool_find_work(MyDatabaseId, candidates[i].job_id, &slot))
			return true;
	}
	return false;
}

/*
 * run_first - run the first of some jobs that is free and still to run
 *
 * False if none is; lowers *due if one may be in a while: its row is just
 * being changed, or its last worker was lost and that is not yet dealt with.
 */
static bool
run_first(const Candidate *candidates, int n, TimestampTz *due)
{
	for (int i = 0; i < n; i++)
	{
		TimestampTz again;

		CHECK_FOR_INTERRUPTS();
		if (!sabot_pool_begin_work(candidates[i].job_id,
								   sabot_queue_tag(SABOT_LLM_QUEUE)))
			continue;
		sabot_pool_took_work(sabot_my_pair());
		last_job = candidates[i].job_id;
		if (sabot_llm_run(candidates[i].job_id, candidates[i].only_one))
			return true;
		again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											LOOK_AGAIN_MS);
		if (*due == 0 || again < *due)
			*due = again;
	}
	return false;
}

/*
 * run_next - run the next job there is to run; false if there is none
 */
static bool
run_next(void)
{
	uint64		wake_seq = sabot_pool_wake_seq(sabot_my_pair());
	Candidate	candidates[CANDIDATES];
	TimestampTz due = 0;
	bool		blocked = sabot_queue_is_blocked(SABOT_LLM_QUEUE);
	int			n = 0;

	(void) sabot_pool_take_due(sabot_my_pair());
	if (!blocked)
		n = find_candidates(candidates, &due);
	may_have_work = true;
	if (run_first(candidates, n, &due))
		return true;
	may_have_work = false;
	if (due != 0)
		sabot_pool_note_due(sabot_my_pair(), due);
	sabot_pool_no_work(sabot_my_pair(), wake_seq);
	if (blocked || due != 0)
		sabot_pool_hold(sabot_my_pair());
	return false;
}

/*
 * detach - a worker is about to exit
 *
 * If it has not seen that there is nothing left, as another pair's turn has
 * come or its settings have changed, somebody has to go on.
 */
static void
detach(bool interrupted)
{
	if (may_have_work)
		sabot_pool_more_work(sabot_my_pair(), 1);
}

/*
 * owners_of_jobs - the roles that have LLM jobs here to be run
 *
 * In the current memory context, in no transaction.
 */
static List *
owners_of_jobs(void)
{
	Oid			types[] = {INT8OID};
	Datum		values[1];
	MemoryContext context = CurrentMemoryContext;
	List	   *owners = NIL;
	SabotOwn	own;
	int			n;

	sabot_own_start_transaction(&own);
	queue_followers(InvalidOid);
	values[0] = Int64GetDatum(sabot_catalog(false)->home);
	n = sabot_spi("SELECT DISTINCT j.owner FROM sabot.llm_job l"
				  " JOIN sabot.job j ON j.job_id = l.job_id WHERE j.home = $1"
				  " AND (j.state IN ('queued', 'scheduled') OR (l.retry_at IS NOT NULL"
				  " AND j.reason IS DISTINCT FROM 'paused by its owner'))",
				  1, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;

		owners = lappend_oid(owners,
							 DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
															SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	sabot_own_commit_transaction(&own);
	MemoryContextSwitchTo(context);
	return owners;
}

/*
 * forgive_pairs - forget that workers of roles without LLM jobs here failed:
 * the next job of theirs is to find out anew
 *
 * pairs are the n pairs there were before the owners of jobs were looked for.
 */
static void
forgive_pairs(const SabotPair *pairs, int n, List *owners)
{
	for (int i = 0; i < n; i++)
		if (pairs[i].key.dbid == MyDatabaseId && pairs[i].failures > 0 &&
			pairs[i].key.crew == SABOT_LLM_WORKERS &&
			!list_member_oid(owners, pairs[i].key.roleid))
			(void) sabot_pool_forgive_pair(pairs[i].key, pairs[i].wake_seq);
}

/*
 * probe - have workers started for the roles that have LLM jobs here
 */
static void
probe(void)
{
	SabotPair  *pairs = palloc(sizeof(SabotPair) * MAX_PAIRS);
	int			npairs = sabot_pool_copy_pairs(pairs, MAX_PAIRS);
	List	   *owners = NIL;
	ListCell   *lc;
	MemoryContext context = CurrentMemoryContext;
	bool		exists;

	StartTransactionCommand();
	exists = sabot_catalog(true) != NULL;
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (exists)
		owners = owners_of_jobs();
	foreach(lc, owners)
		sabot_jobs_probe_owner(lfirst_oid(lc), SABOT_LLM_WORKERS);
	forgive_pairs(pairs, npairs, owners);
}

/*
 * bury - a worker died at work: its job is an orphan, its permits are free
 */
static void
bury(int slotno, const SabotSlot *slot)
{
	sabot_attempt_bury(slotno, slot);
	sabot_permit_free_dead();
}

/*
 * stopping - a worker is dying; whether its work is lost
 */
static bool
stopping(bool server_stops)
{
	if (server_stops)
		sabot_attempt_end();
	return !server_stops;
}

static const SabotWorkSource llm_work_source = {
	.type = "sabot llm",
	.limit = &sabot_llm_workers,
	.idle_timeout = &idle_timeout,
	.slice_ms = LLM_SLICE_MS,
	.attach = attach,
	.run_next = run_next,
	.detach = detach,
	.probe = probe,
	.bury = bury,
	.stopping = stopping
};

/*
 * sabot_llm_work_source - what the pool's processes do for this room
 */
const SabotWorkSource *
sabot_llm_work_source(void)
{
	return &llm_work_source;
}
