/*-------------------------------------------------------------------------
 *
 * job_stream_scan.c
 *		Finds streams that have rows and were not woken; ends those whose role
 *		is gone.
 *
 * They were not woken after a restart, after COMMIT PREPARED, or when there was
 * no room in shared memory.  Agents look when they have a reason to think that
 * they were not told of something, and probers in any case; nobody does so
 * again and again.
 *
 * Nobody will take what is captured for a role that is gone, and nobody of that
 * role will end it: so the trigger would keep for ever what is written into a
 * table that is another one's now.  Whatever state such a job is in, and
 * whichever crew it is for, a prober ends it.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "jobs/job_stream.h"

/*
 * A capture of a role that is gone whose table somebody has locked is looked at
 * again after this, in ms.
 */
#define ABANDONED_RETRY_MS 5000

/*
 * list_streams - ids of the jobs of a role, or of all with InvalidOid, that
 * have a capture; returns how many
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static int
list_streams(Oid owner, int64 **ids)
{
	Oid			types[] = {INT8OID, OIDOID};
	Datum		values[] = {Int64GetDatum(sabot_catalog(false)->home),
	ObjectIdGetDatum(owner)};
	int			n;

	/* However many other jobs there are, and whatever statistics say. */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	n = sabot_spi_generic("SELECT j.job_id FROM sabot.stream s,"
						  " LATERAL (SELECT o.job_id, o.owner FROM sabot.job o"
						  " WHERE o.job_id = s.job_id AND o.home = $1 OFFSET 0) j"
						  " WHERE $2 = 0::oid OR j.owner = $2",
						  2, types, values, NULL, 0);
	*ids = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		(*ids)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1, &isnull));
	}
	return n;
}

/*
 * find_waiting - the streams of a role, or of all with InvalidOid, that there
 * is something to do for; the others wait to be woken from now on
 *
 * Captures of other rooms' jobs are only made known: whoever takes their rows
 * looks by himself, and arms them again.  Those whose role is gone are added to
 * *abandoned.
 *
 * Lists of SabotJob in the given context.
 */
static List *
find_waiting(Oid owner, List **abandoned, MemoryContext context)
{
	SabotOwn	own;
	List	   *result = NIL;
	int64	   *ids;
	int			n;

	sabot_own_start_transaction(&own);
	/* In the order in which DROP EXTENSION locks tables. */
	LockRelationOid(sabot_catalog(false)->job, AccessShareLock);
	n = list_streams(owner, &ids);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		SabotJob   *job = sabot_job_read(ids[i]);
		bool		runnable = job != NULL && sabot_stream_is_runnable(job);
		bool		is_abandoned = job != NULL &&
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(job->owner));

		CHECK_FOR_INTERRUPTS();
		if (job != NULL)
			sabot_capture_enter(job, runnable || !job->is_stream);
		if (is_abandoned)
			*abandoned = lappend(*abandoned, job);
		else if (runnable && sabot_stream_waits(ids[i]))
			result = lappend(result, job);
		MemoryContextSwitchTo(old);
	}
	sabot_own_commit_transaction(&own);
	return result;
}

/*
 * sabot_stream_refill - push those streams of our agent's pair that there is
 * something to do for
 *
 * In no transaction.
 */
void
sabot_stream_refill(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "sabot streams",
												  ALLOCSET_SMALL_SIZES);
	List	   *abandoned = NIL;
	ListCell   *lc;

	foreach(lc, find_waiting(GetSessionUserId(), &abandoned, context))
	{
		SabotJob   *job = lfirst(lc);
		SabotReady	entry = {.job_id = job->job_id,.priority = job->priority};

		if (sabot_queue_crew(job->queue) == SABOT_AGENTS)
			sabot_ready_push(MyDatabaseId, job->owner, job->queue, &entry);
	}
	MemoryContextDelete(context);
}

/*
 * look_again - have a prober come again in a while, for jobs of a role that is
 * gone
 *
 * It comes when it turns out that no agent can be that role.
 */
static void
look_again(Oid owner)
{
	SabotPairKey key = sabot_pair(owner, SABOT_AGENTS);

	(void) sabot_pool_forgive_pair(key, sabot_pool_wake_seq(key));
	if (sabot_pool_prepare_pair(key, false))
		sabot_pool_wake(key, 0,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													ABANDONED_RETRY_MS));
}

/*
 * end_abandoned - end jobs with a capture whose role is gone
 *
 * One that makes trouble does not keep the others from it.
 */
static void
end_abandoned(List *jobs)
{
	ListCell   *lc;

	foreach(lc, jobs)
	{
		const SabotJob *job = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		PG_TRY();
		{
			sabot_stream_end(job,
							 ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
							 "the job's owner was dropped",
							 "Submit the job again as a role that may connect.");
			sabot_wait_wakeup(job->job_id);
		}
		PG_CATCH();
		{
			sabot_probe_go_on();
			look_again(job->owner);
		}
		PG_END_TRY();
	}
}

/*
 * sabot_stream_probe - owners of streams in this database that there is
 * something to do for, in the given context; captures of roles that are gone
 * are ended
 *
 * In a prober, in no transaction.
 */
List *
sabot_stream_probe(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *abandoned = NIL;
	List	   *waiting = find_waiting(InvalidOid, &abandoned, context);
	List	   *owners = NIL;
	ListCell   *lc;

	end_abandoned(abandoned);
	MemoryContextSwitchTo(context);
	foreach(lc, waiting)
		owners = list_append_unique_oid(owners,
										((SabotJob *) lfirst(lc))->owner);
	MemoryContextSwitchTo(old);
	return owners;
}
