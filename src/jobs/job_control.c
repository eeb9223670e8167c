/*-------------------------------------------------------------------------
 *
 * job_control.c
 *		Cancel, pause, resume and retry jobs; adopt copied ones.
 *
 * A running job's row belongs to its agent, which deletes it in the job's own
 * transaction: whoever locked it here would stand in the job's way, or wait
 * for its end.  So cancel and pause note what they are asked for and act at
 * the caller's commit: on the row if the job does not run, else by a request
 * in a table of its own and a signal to the agent.
 *
 * IDENTIFICATION
 *		src/jobs/job_control.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_wait.h"
#include "jobs/jobs.h"

PG_FUNCTION_INFO_V1(sabot_cancel_job);
PG_FUNCTION_INFO_V1(sabot_pause_job);
PG_FUNCTION_INFO_V1(sabot_resume_job);
PG_FUNCTION_INFO_V1(sabot_retry_job);
PG_FUNCTION_INFO_V1(sabot_adopt_jobs);

/*
 * sabot_job_of_caller - look up a job that the current role may touch
 *
 * Raises 42704 if there is none: one of somebody else is as good as none.
 */
SabotFoundJob
sabot_job_of_caller(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	MemoryContext caller = CurrentMemoryContext;
	SabotFoundJob found = {0};
	Datum		owner = 0;
	NameData	owner_name;
	SabotOwn	own;
	bool		exists;

	sabot_pool_require();
	SPI_connect();
	sabot_own_begin(&own);
	exists = sabot_spi("SELECT true, home, state::text, owner, owner_name,"
					   " state = 'paused' AND reason IS NOT DISTINCT FROM 'paused by its owner',"
					   " kind IN ('graph', 'spread'), depends_on IS NOT NULL, parent_id, kind,"
					   " EXISTS (SELECT FROM sabot.stream s WHERE s.job_id = $1)"
					   " FROM sabot.job WHERE job_id = $1"
					   " UNION ALL"
					   " SELECT false, home, state::text, owner, owner_name, false,"
					   " kind IN ('graph', 'spread'), depends_on IS NOT NULL, parent_id, kind,"
					   " EXISTS (SELECT FROM sabot.stream s WHERE s.job_id = $1)"
					   " FROM sabot.job_history WHERE job_id = $1",
					   1, types, values, NULL, 1) > 0;
	if (exists)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		kind;

		found.open = DatumGetBool(SPI_getbinval(row, desc, 1, &isnull));
		found.home = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		found.state = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 3));
		owner = SPI_getbinval(row, desc, 4, &isnull);
		owner_name = *DatumGetName(SPI_getbinval(row, desc, 5, &isnull));
		found.paused_by_owner = DatumGetBool(SPI_getbinval(row, desc, 6, &isnull));
		found.is_graph = DatumGetBool(SPI_getbinval(row, desc, 7, &isnull));
		found.waits = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
		found.graph_id = DatumGetInt64(SPI_getbinval(row, desc, 9, &isnull));
		if (isnull)
			found.graph_id = 0;
		kind = SPI_getbinval(row, desc, 10, &isnull);
		found.is_schedule = sabot_kind_is(kind, "schedule");
		found.is_stream = sabot_kind_is(kind, "stream");
		found.is_piece = sabot_kind_is(kind, "piece");
		found.is_run = found.graph_id != 0 &&
			(found.is_graph || sabot_kind_is(kind, "run"));
		found.captures = DatumGetBool(SPI_getbinval(row, desc, 11, &isnull));
	}
	sabot_own_end(&own);
	SPI_finish();

	/* The views' rule: copied rows go by the name of the owner. */
	if (!exists ||
		!DatumGetBool(DirectFunctionCall3(sabot_is_mine, owner,
										  NameGetDatum(&owner_name),
										  Int64GetDatum(found.home))))
		sabot_job_missing(job_id);
	return found;
}

/*
 * sabot_job_refuse_copied - raise 55000 for a job of another database
 */
void
sabot_job_refuse_copied(int64 job_id, const SabotFoundJob *found)
{
	if (found->home != sabot_catalog(false)->home)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " was copied from another database", job_id),
				 errhint("Use sabot.adopt_jobs() to have copied jobs run here.")));
}

/*
 * cancel_open - end a job that does not run as canceled
 *
 * The row is locked first: whoever else is about to end it is let go first.
 */
static void
cancel_open(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotJob   *job;
	SabotEnd	end = {.state = SABOT_JOB_CANCELED};
	ErrorData	error = {0};

	if (sabot_spi("SELECT FROM sabot.job WHERE job_id = $1 FOR UPDATE",
				  1, types, values, NULL, 0) == 0)
		return;
	job = sabot_job_read(job_id);
	if (job == NULL)
		return;
	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = pstrdup("job was canceled");
	end.attempt = job->attempt;
	end.losses = job->losses;
	end.error = &error;
	(void) sabot_job_finish(job, &end);
}

/*
 * sabot_job_interrupt_row - write what cancelling or pausing a job means for
 * the tables
 *
 * Called when the transaction that asks for it is about to commit.  Returns
 * true if it is a request to an agent.
 */
bool
sabot_job_interrupt_row(int64 job_id, SabotInterrupt reason)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotSlot	slot;
	SabotOwn	own;
	bool		runs = sabot_pool_find_work(MyDatabaseId, job_id, &slot);

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	if (sabot_graph_interrupt(job_id, reason, runs) ||
		sabot_schedule_interrupt(job_id, reason))
		runs = false;
	else if (runs)
		sabot_job_write_signal(job_id, reason);
	else if (reason == SABOT_INTERRUPT_CANCEL)
		cancel_open(job_id);
	else
		sabot_spi("UPDATE sabot.job SET state = 'paused', reason = 'paused by its owner'"
				  " WHERE job_id = $1 AND (state <> 'paused'"
				  "  OR reason IS DISTINCT FROM 'paused by its owner')",
				  1, types, values, NULL, 0);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
	return runs;
}

/*
 * SQL: sabot.cancel_job(job_id bigint) RETURNS boolean - end an unfinished job
 *
 * True if it was unfinished.  Takes effect at commit.  42704 if there is no
 * such job.
 */
Datum
sabot_cancel_job(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);

	if (!sabot_job_of_caller(job_id).open)
		PG_RETURN_BOOL(false);
	PreventCommandIfReadOnly("sabot.cancel_job()");
	sabot_pending_interrupt(job_id, SABOT_INTERRUPT_CANCEL);
	PG_RETURN_BOOL(true);
}

/*
 * SQL: sabot.pause_job(job_id bigint) RETURNS boolean - do not run a job until
 * it is resumed; one that runs is rolled back first
 *
 * True if it was unfinished and not paused by its owner: one that had paused
 * by itself stays so, whatever becomes of the cause.  Takes effect at commit.
 */
Datum
sabot_pause_job(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	SabotFoundJob found = sabot_job_of_caller(job_id);

	if (!found.open || found.paused_by_owner)
		PG_RETURN_BOOL(false);
	PreventCommandIfReadOnly("sabot.pause_job()");
	sabot_pending_interrupt(job_id, SABOT_INTERRUPT_PAUSE);
	PG_RETURN_BOOL(true);
}

/*
 * sabot_job_push_rows - have the n jobs in SPI's result (job_id, priority,
 * queue, owner, run_after) run when this commits
 *
 * Not those that are to run at infinity: they wait for others.  Blocked ones
 * do no harm, but agents would take them for a look.  Returns the ids of all.
 */
int64 *
sabot_job_push_rows(int n)
{
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		int32		priority = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		Oid			owner = DatumGetObjectId(SPI_getbinval(row, desc, 4, &isnull));
		Datum		value = SPI_getbinval(row, desc, 5, &isnull);
		TimestampTz run_after = isnull ? 0 : DatumGetTimestampTz(value);

		if (!TIMESTAMP_IS_NOEND(run_after))
			sabot_pending_submit(job_id, priority, SPI_getvalue(row, desc, 3),
								 owner, run_after, 0);
		ids[i] = job_id;
	}
	return ids;
}

/*
 * SQL: sabot.resume_job(job_id bigint) RETURNS boolean - let a paused job run
 *
 * True if it was paused, or was to be.  55000 for a copied job.
 */
Datum
sabot_resume_job(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	SabotFoundJob found = sabot_job_of_caller(job_id);
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotOwn	own;
	bool		taken_back;
	int			n;

	if (!found.open)
		PG_RETURN_BOOL(false);
	PreventCommandIfReadOnly("sabot.resume_job()");
	sabot_job_refuse_copied(job_id, &found);
	if (sabot_pause_is_pending(job_id))
	{
		sabot_pending_resume(job_id);
		PG_RETURN_BOOL(true);
	}
	SPI_connect();
	sabot_own_begin(&own);
	/* In the order of an agent that obeys: if one does just now, it pauses. */
	taken_back = sabot_job_take_back_pause(job_id);
	if (taken_back)
		sabot_pending_take_back(job_id);
	if (found.is_graph || found.is_schedule || found.waits)
	{
		/* Who ends what it waits for must not have to wait for us. */
		n = sabot_spi("SELECT FROM sabot.job WHERE job_id = $1 AND state = 'paused'",
					  1, types, values, NULL, 0);
		if (n > 0)
			sabot_pending_resume(job_id);
	}
	else
	{
		n = sabot_spi("UPDATE sabot.job SET reason = NULL, state ="
					  " CASE WHEN run_after > clock_timestamp() THEN 'scheduled'"
					  " ELSE 'queued' END::sabot.job_state"
					  " WHERE job_id = $1 AND state = 'paused'"
					  " RETURNING job_id, priority, queue, owner,"
					  " CASE WHEN state = 'scheduled' THEN run_after END",
					  1, types, values, NULL, 0);
		(void) sabot_job_push_rows(n);
	}
	sabot_own_end(&own);
	SPI_finish();
	PG_RETURN_BOOL(taken_back || n > 0);
}

/*
 * sabot_job_requeue - queue a finished job again, under its id, with all its
 * attempts
 *
 * Returns false if it is not there as a finished one: somebody else has done
 * that.  Takes effect at commit.  Between sabot_own_begin() and
 * sabot_own_end(), SPI connected.  Raises 23505 if another unfinished job has
 * its dedup_key.
 */
bool
sabot_job_requeue(int64 job_id)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id),
	Int64GetDatum(sabot_catalog(false)->home)};
	int			n;

	sabot_spi("DELETE FROM sabot.job_signal WHERE job_id = $1",
			  1, types, values, NULL, 0);
	if (sabot_spi("SELECT FROM sabot.job_history WHERE job_id = $1 FOR UPDATE",
				  1, types, values, NULL, 0) == 0)
		return false;
	n = sabot_spi("INSERT INTO sabot.job (job_id, parent_id, kind, name, owner, owner_name, home,"
				  " queue, priority, max_attempts, atomic, asked_atomic, keep_rows, submitted_at,"
				  " retry_delay, timeout, command, params, settings, dedup_key, notify, depends_on,"
				  " on_failure)"
				  " SELECT job_id, parent_id, kind, name, owner, owner_name, $2,"
				  " queue, priority, max_attempts, asked_atomic, asked_atomic, keep_rows, submitted_at,"
				  " retry_delay, timeout, command, params, settings,"
				  " dedup_key, notify, depends_on, on_failure"
				  " FROM sabot.job_history WHERE job_id = $1"
				  " ON CONFLICT (owner, home, queue, dedup_key) WHERE dedup_key IS NOT NULL DO NOTHING"
				  " RETURNING job_id, priority, queue, owner, NULL::timestamptz",
				  2, types, values, NULL, 0);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("another unfinished job has the dedup_key of job " INT64_FORMAT,
						job_id)));
	(void) sabot_job_push_rows(n);
	sabot_spi("DELETE FROM sabot.job_history WHERE job_id = $1",
			  1, types, values, NULL, 0);
	return true;
}

/*
 * refuse_child - raise 55000 for a job that is only run again with its parent
 */
static void
refuse_child(int64 job_id, const SabotFoundJob *found)
{
	int64		parent_id = found->graph_id;

	if (found->is_run)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is a run of schedule " INT64_FORMAT,
						job_id, parent_id),
				 errhint("Its next run comes when it is due. For one more, submit the command as a job of its own.")));
	if (found->is_piece)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is a piece of job " INT64_FORMAT,
						job_id, parent_id),
				 errhint("Once that has ended, sabot.retry_job(" INT64_FORMAT
						 ") runs those of its pieces again that have not completed.",
						 parent_id)));
	if (parent_id != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is a task of graph " INT64_FORMAT,
						job_id, parent_id),
				 errhint("Once the graph has ended, sabot.retry_job(" INT64_FORMAT
						 ") runs those of its tasks again that have not completed.",
						 parent_id)));
}

/*
 * SQL: sabot.retry_job(job_id bigint) RETURNS boolean - queue a job again that
 * failed or was canceled or skipped, under its id, with all its attempts
 *
 * Of a graph, those of its tasks run again that have not completed; so do
 * pieces.  23505 if another unfinished job has its dedup_key, or schedule its
 * name; 55000 for a task, a piece, a run and a copied job.
 */
Datum
sabot_retry_job(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	SabotFoundJob found = sabot_job_of_caller(job_id);
	SabotOwn	own;
	bool		queued;

	if (found.open || strcmp(found.state, "completed") == 0)
		PG_RETURN_BOOL(false);
	PreventCommandIfReadOnly("sabot.retry_job()");
	sabot_job_refuse_copied(job_id, &found);
	if (found.captures)
		sabot_stream_refuse_retry(job_id, found.is_stream);
	refuse_child(job_id, &found);
	SPI_connect();
	sabot_own_begin(&own);
	if (found.is_graph)
		sabot_spread_refuse_retry(job_id);
	queued = found.is_graph ? sabot_graph_requeue(job_id) :
		found.is_schedule ? sabot_schedule_requeue(job_id) :
		sabot_job_requeue(job_id);
	sabot_own_end(&own);
	SPI_finish();
	PG_RETURN_BOOL(queued);
}

/*
 * SQL: sabot.adopt_jobs() RETURNS bigint - let jobs run here that were copied
 * from another database; returns how many
 *
 * Their owners are looked up by name.  The time of graphs is counted anew, as
 * that of resumed ones.  Jobs of roles that do not exist here, and those whose
 * dedup_key or, of a schedule, name an unfinished job has here, stay as they
 * are with their children, with a WARNING.  Only for the extension's owner and
 * roles with EXECUTE.
 */
Datum
sabot_adopt_jobs(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT8OID, INT8ARRAYOID};
	Datum		values[2];
	SabotOwn	own;
	int64	   *ids;
	int			adopted;
	int			left;

	sabot_pool_require();
	SPI_connect();
	sabot_own_begin(&own);
	values[0] = Int64GetDatum(sabot_catalog(false)->home);
	sabot_spi("UPDATE sabot.job_history h SET home = $1, owner = r.oid"
			  " FROM pg_roles r WHERE r.rolname = h.owner_name AND h.home <> $1",
			  1, types, values, NULL, 0);
	values[1] = sabot_schedule_copied_names();
	adopted = sabot_spi("WITH RECURSIVE stays AS (SELECT j.job_id FROM sabot.job j"
						" JOIN pg_roles r ON r.rolname = j.owner_name WHERE j.home <> $1"
						" AND (j.job_id = ANY ($2) OR EXISTS (SELECT FROM sabot.job o WHERE o.owner = r.oid"
						" AND o.home = $1 AND o.queue = j.queue AND o.dedup_key = j.dedup_key))"
						" UNION SELECT c.job_id FROM stays s JOIN sabot.job c ON c.parent_id = s.job_id)"
						" UPDATE sabot.job j SET home = $1, owner = r.oid,"
						" run_after = CASE WHEN j.kind = 'graph' THEN clock_timestamp() + j.timeout"
						" ELSE j.run_after END,"
						" state = CASE WHEN j.state IN ('paused', 'blocked') THEN j.state"
						" WHEN j.run_after > clock_timestamp()"
						" OR (j.kind = 'graph' AND j.timeout IS NOT NULL) THEN 'scheduled'::sabot.job_state"
						" ELSE 'queued'::sabot.job_state END"
						" FROM pg_roles r WHERE r.rolname = j.owner_name AND j.home <> $1"
						" AND j.job_id NOT IN (SELECT job_id FROM stays)"
						" RETURNING j.job_id, j.priority, j.queue, j.owner,"
						" CASE WHEN j.state = 'scheduled' THEN j.run_after END",
						2, types, values, NULL, 0);
	ids = sabot_job_push_rows(adopted);
	for (int i = 0; i < adopted; i++)
		sabot_pending_settle(ids[i]);
	left = sabot_spi("SELECT FROM sabot.job WHERE home <> $1",
					 1, types, values, NULL, 0);
	sabot_own_end(&own);
	SPI_finish();
	if (left > 0)
		ereport(WARNING,
				(errmsg("%d copied jobs were left as they are", left),
				 errdetail("Their owners do not exist here, or have an unfinished job with the same dedup_key, or a schedule with the same name."),
				 errhint("Create the roles, or wait for these jobs, or cancel them, and use sabot.adopt_jobs() again.")));
	PG_RETURN_INT64(adopted);
}
