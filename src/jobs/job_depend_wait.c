/*-------------------------------------------------------------------------
 *
 * job_depend_wait.c
 *		Jobs that wait for jobs: is there anything left to wait for?
 *
 * Who ends a job looks for those that wait for it (job_depend.c).  A
 * transaction that makes a job wait, other than by submitting both, cannot be
 * seen by who ends the other job meanwhile.  It therefore locks, at its commit
 * and not before, the row of one open job that is waited for, against
 * deletion: who ends that has to wait out the rest of the commit, and sees the
 * dependency then.  If no row can be locked at once the job is queued, and the
 * agent that takes it does the same with more patience, as it holds nothing
 * that others wait for.  Nobody waits for anything longer than a commit.
 *
 * IDENTIFICATION
 *		src/jobs/job_depend_wait.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "jobs/job_row.h"
#include "jobs/jobs.h"

/*
 * sabot_depend_is_met - whether a job that an agent has taken has nothing to
 * wait for, for sure
 *
 * That can be told of tasks, whose rows say what had not ended for sure when
 * they were queued.  What other jobs depend on may have ended badly before it
 * was known that they do, and may be tried again.
 */
bool
sabot_depend_is_met(const SabotJob *job)
{
	Relation	rel;
	char	   *next = job->reason;
	bool		met = true;

	if (job->ndepends_on == 0 || (job->parent_id != 0 && job->reason == NULL))
		return true;
	if (job->parent_id == 0)
		return false;
	rel = table_open(sabot_catalog(false)->job, AccessShareLock);
	do
	{
		int64		job_id = strtoi64(next, &next, 10);

		met = job_id != 0 &&
			sabot_row_presence(rel, job_id) == SABOT_ROW_GONE;
	} while (met && *next++ == ',');
	table_close(rel, AccessShareLock);
	return met;
}

/*
 * hold_dependency - lock, against deletion, one job that a job waits for
 *
 * With "patient" that waits for those that are ending this moment, and the
 * transaction must not have locked anything yet; without, it does not wait.
 * Returns false if there is none.
 */
static bool
hold_dependency(Relation rel, const SabotJob *job, bool patient)
{
	for (int i = job->ndepends_on - 1; i >= 0; i--)
	{
		int64		job_id = job->depends_on[i];
		SabotPresence presence = sabot_row_presence(rel, job_id);

		if (patient && presence >= SABOT_ROW_ENDING &&
			sabot_row_lock(rel, job_id, LockTupleKeyShare) != NULL)
			return true;
		if (!patient && presence == SABOT_ROW_OPEN &&
			sabot_row_try_lock(rel, job_id, LockTupleKeyShare))
			return true;
	}
	return false;
}

/*
 * sabot_depend_hold_task - the same for a task of a graph, or a run of a
 * schedule
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
bool
sabot_depend_hold_task(const SabotJob *graph, bool patient)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(graph->job_id)};

	return sabot_spi_generic(patient ?
							 "SELECT FROM sabot.job WHERE parent_id = $1"
							 " ORDER BY job_id DESC LIMIT 1 FOR KEY SHARE" :
							 "SELECT FROM sabot.job WHERE parent_id = $1"
							 " ORDER BY job_id DESC LIMIT 1 FOR KEY SHARE SKIP LOCKED",
							 1, types, values, NULL, 0) > 0;
}

/*
 * link_dependencies - have the ends of all that a job waits for look at it
 */
static void
link_dependencies(const SabotJob *job)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job->job_id)};

	sabot_spi_generic("INSERT INTO sabot.job_dependency"
					  " SELECT d, j.job_id, false, j.depends_on[cardinality(j.depends_on)]"
					  " FROM sabot.job j, unnest(j.depends_on) AS d"
					  " WHERE j.job_id = $1 AND EXISTS (SELECT FROM sabot.job o WHERE o.job_id = d)"
					  " ON CONFLICT DO NOTHING",
					  1, types, values, NULL, 0);
}

/*
 * why_not - why a job whose dependencies have all ended is not to run, or NULL
 *
 * One that was purged before the job was there to be seen, with what it came
 * to, counts as failed.
 */
static char *
why_not(const SabotJob *job)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job->job_id)};

	/* A task would have been skipped with the end of what it waits for. */
	if (job->parent_id != 0 ||
		sabot_spi_generic("SELECT format('job %s %s%s', d,"
						  " CASE WHEN h.state IS DISTINCT FROM 'failed' THEN 'was ' END,"
						  " COALESCE(h.state::text, 'purged'))"
						  " FROM sabot.job j CROSS JOIN unnest(j.depends_on) AS d"
						  " LEFT JOIN sabot.job_history h ON h.job_id = d"
						  " WHERE j.job_id = $1 AND CASE WHEN h.job_id IS NULL"
						  " THEN EXISTS (SELECT FROM sabot.job_dependency w"
						  " WHERE w.depends_on = d AND w.job_id = $1)"
						  " ELSE h.state <> 'completed' END"
						  " ORDER BY d LIMIT 1",
						  1, types, values, NULL, 1) == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/*
 * block_again - have a job that an agent has taken wait again, if it still is
 * as it was read
 */
static void
block_again(Relation rel, const SabotJob *job)
{
	HeapTuple	tuple = sabot_row_lock(rel, job->job_id,
									   LockTupleNoKeyExclusive);
	SabotJob   *now = tuple ? sabot_job_read(job->job_id) : NULL;
	SabotRowWriter *writer;

	if (now == NULL || now->state != job->state)
		return;
	writer = sabot_row_writer_open(rel);
	sabot_row_set_state(writer, tuple, SABOT_JOB_BLOCKED, NULL);
	sabot_row_writer_close(writer);
}

/*
 * sabot_depend_verify - whether a job with dependencies that an agent has
 * taken is to run
 *
 * If not, it is blocked again, or skipped.  In no transaction.
 */
bool
sabot_depend_verify(const SabotJob *job)
{
	SabotEnd	end = {.state = SABOT_JOB_SKIPPED};
	SabotOwn	own;
	Relation	rel;
	bool		runs = true;

	sabot_own_start_transaction(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	if (job->parent_id == 0)
		link_dependencies(job);
	if (hold_dependency(rel, job, true))
	{
		block_again(rel, job);
		runs = false;
	}
	else if ((end.reason = why_not(job)) != NULL)
	{
		end.attempt = job->attempt;
		end.losses = job->losses;
		if (sabot_row_lock(rel, job->job_id, LockTupleExclusive) != NULL)
			(void) sabot_job_finish(job, &end);
		runs = false;
	}
	table_close(rel, NoLock);
	sabot_own_commit_transaction(&own);
	return runs;
}

/*
 * is_waiting - whether a job's row says that it waits for others
 *
 * That of a graph with a timeout is scheduled for its deadline.
 */
static bool
is_waiting(const SabotJob *job)
{
	const Oid  *states = sabot_catalog(false)->states;

	/* The end of another piece schedules one that is blocked. */
	if (job->is_piece)
		return false;
	return job->state == states[SABOT_JOB_BLOCKED] ||
		(job->is_graph && job->state == states[SABOT_JOB_SCHEDULED]);
}

/*
 * sabot_depend_settle - see at the commit of the transaction that has made a
 * job wait whether it has anything to wait for
 *
 * If it cannot hold that, be it that it is ending this moment, an agent is to
 * find out.  can_lock is false if this transaction will be prepared, and so
 * must not hold anything.
 */
void
sabot_depend_settle(int64 job_id, bool can_lock)
{
	SabotOwn	own;
	Relation	rel;
	HeapTuple	tuple;
	SabotRowWriter *writer;
	SabotJob   *job;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	job = sabot_job_read(job_id);
	if (job != NULL && is_waiting(job) &&
		!(can_lock &&
		  (((job->is_graph || job->is_schedule) &&
			sabot_depend_hold_task(job, false)) ||
		   hold_dependency(rel, job, false))))
	{
		tuple = sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive);
		if (tuple != NULL)
		{
			writer = sabot_row_writer_open(rel);
			sabot_depend_make_ready(writer, tuple, job, "");
			sabot_row_writer_close(writer);
		}
	}
	table_close(rel, NoLock);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}
