/*-------------------------------------------------------------------------
 *
 * job_schedule.c
 *		Runs of schedules: fired when due, one at a time.
 *
 * A schedule is a row of sabot.job that never completes.  Until it is due the
 * row is scheduled for that time, and found then like that of any job that
 * is to run later.  The agent that takes it inserts the run, a child, and
 * blocks the row with the next due time in it, in one transaction: so a due
 * time has one run, whatever is killed when.  Times that pass while the run
 * is open are not noted anywhere, which makes one of them.  The end of the
 * run, in its own transaction, sets the row free again (job_depend.c).
 *
 * That there is one run at a time rests on the row's lock and on a look at
 * its children behind that.  Rows are locked in the order of graphs: runs
 * before their schedule.
 *
 * IDENTIFICATION
 *		src/jobs/job_schedule.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_columns.h"
#include "jobs/job_cron.h"
#include "jobs/job_row.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

/* A row of sabot.job_schedule. */
typedef struct Schedule
{
	SabotDue	due;
	TimestampTz first_due;
	Jsonb	   *graph;			/* or NULL */
} Schedule;

/*
 * read_schedule - read what a schedule is about
 *
 * Inside a transaction of sabot's own.
 */
static void
read_schedule(int64 job_id, Schedule *schedule)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;
	Datum		graph;

	if (sabot_spi("SELECT schedule, first_due, graph FROM sabot.job_schedule"
				  " WHERE job_id = $1", 1, types, values, NULL, 1) == 0)
		elog(ERROR, "schedule " INT64_FORMAT " has no row", job_id);
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	sabot_due_parse(SPI_getvalue(row, desc, 1), &schedule->due);
	schedule->first_due = DatumGetTimestampTz(SPI_getbinval(row, desc, 2,
															&isnull));
	graph = SPI_getbinval(row, desc, 3, &isnull);
	schedule->graph = isnull ? NULL : DatumGetJsonbPCopy(graph);
}

/*
 * insert_run - insert a run of a schedule that is fired now; returns its id
 *
 * If the schedule says so, the run is spread over a table.
 */
static int64
insert_run(int64 job_id, TimestampTz now)
{
	Oid			types[] = {INT8OID, TIMESTAMPTZOID};
	Datum		values[] = {Int64GetDatum(job_id), TimestampTzGetDatum(now)};
	int64		run_id;
	int			n;

	n = sabot_spi("INSERT INTO sabot.job (parent_id, kind, name, owner, owner_name, home,"
				  " queue, priority, max_attempts, atomic, asked_atomic, keep_rows, submitted_at,"
				  " run_after, retry_delay, timeout, command, params, settings, notify)"
				  " SELECT job_id, CASE WHEN EXISTS (SELECT FROM sabot.job_spread p WHERE p.job_id = $1)"
				  " THEN 'spread' ELSE 'run' END, name, owner, owner_name, home,"
				  " queue, priority, max_attempts, asked_atomic, asked_atomic, keep_rows, $2,"
				  " run_after, retry_delay, timeout, command, params, settings, notify"
				  " FROM sabot.job WHERE job_id = $1"
				  " RETURNING job_id, priority, queue, owner, NULL::timestamptz",
				  2, types, values, NULL, 0);
	if (n != 1)
		elog(ERROR, "schedule " INT64_FORMAT " is gone", job_id);
	run_id = sabot_job_push_rows(n)[0];
	sabot_spread_copy_order(job_id, run_id);
	return run_id;
}

/*
 * insert_graph_run - the same for a schedule of graphs
 */
static int64
insert_graph_run(const SabotJob *job, Jsonb *graph, TimestampTz now)
{
	SabotSubmission s = {.submitted_at = now};
	Interval	second = {.time = USECS_PER_SEC};
	Interval	timeout = {.time = job->timeout_ms * 1000};
	NameData	owner_name;

	memset(s.nulls, 'n', P_NVALUES);
	namestrcpy(&owner_name, job->owner_name);
	s.queue = job->queue;
	s.priority = job->priority;
	if (job->name != NULL)
		sabot_submission_set(&s, P_NAME, CStringGetTextDatum(job->name));
	sabot_submission_set(&s, P_OWNER, ObjectIdGetDatum(job->owner));
	sabot_submission_set(&s, P_OWNER_NAME, NameGetDatum(&owner_name));
	sabot_submission_set(&s, P_HOME, Int64GetDatum(job->home));
	sabot_submission_set(&s, P_QUEUE, CStringGetTextDatum(job->queue));
	sabot_submission_set(&s, P_PRIORITY, Int32GetDatum(job->priority));
	sabot_submission_set(&s, P_KEEP_ROWS, Int32GetDatum(0));
	sabot_submission_set(&s, P_SUBMITTED_AT, TimestampTzGetDatum(s.submitted_at));
	sabot_submission_set(&s, P_RUN_AFTER, TimestampTzGetDatum(job->run_after));
	sabot_submission_set(&s, P_RETRY_DELAY, IntervalPGetDatum(&second));
	sabot_submission_set(&s, P_PARENT_ID, Int64GetDatum(job->job_id));
	if (job->timeout_ms > 0)
		sabot_submission_set(&s, P_TIMEOUT, IntervalPGetDatum(&timeout));
	if (job->settings != NULL)
		sabot_submission_set(&s, P_SETTINGS, PointerGetDatum(job->settings));
	if (job->notify != NULL)
		sabot_submission_set(&s, P_NOTIFY, CStringGetTextDatum(job->notify));
	return sabot_graph_insert_run(&s, graph);
}

/*
 * count_run - note a new run, and how the one before it ended
 */
static void
count_run(int64 job_id, int64 run_id)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id), Int64GetDatum(run_id)};

	sabot_spi("UPDATE sabot.job_schedule s SET runs = runs + 1, run_id = $2,"
			  " failures = failures + (SELECT count(*) FROM sabot.job_history h"
			  " WHERE h.job_id = s.run_id AND h.state = 'failed')"
			  " WHERE s.job_id = $1",
			  2, types, values, NULL, 0);
}

/*
 * set_due - set when a schedule, whose row is locked, is due next
 *
 * state is blocked, or scheduled; then agents are told.
 */
static void
set_due(Relation rel, HeapTuple tuple, const SabotJob *job,
		SabotJobState state, TimestampTz next)
{
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	SabotRowWriter *writer;

	heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
	v[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[state]);
	v[JOB_RUN_AFTER] = TimestampTzGetDatum(next);
	isnull[JOB_RUN_AFTER] = false;
	writer = sabot_row_writer_open(rel);
	sabot_row_update(writer, tuple, v, isnull);
	sabot_row_writer_close(writer);
	if (state == SABOT_JOB_SCHEDULED)
		sabot_pending_submit(job->job_id, job->priority, job->queue,
							 job->owner, next, 0);
}

/*
 * set_state - set the state of a schedule whose row is locked
 */
static void
set_state(Relation rel, HeapTuple tuple, SabotJobState state,
		  const char *reason)
{
	SabotRowWriter *writer = sabot_row_writer_open(rel);

	sabot_row_set_state(writer, tuple, state, reason);
	sabot_row_writer_close(writer);
}

/*
 * fire_if_due - begin a run of a schedule without one, whose row is locked,
 * or have it wait for its time
 *
 * However many times have passed since it was due, this is one run.
 */
static void
fire_if_due(Relation rel, HeapTuple tuple, const SabotJob *job)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		is_due = job->run_after != 0 && job->run_after <= now;
	TimestampTz next = job->run_after;
	Schedule	schedule;

	read_schedule(job->job_id, &schedule);
	if (next == 0 || is_due)
		next = sabot_due_next(&schedule.due, schedule.first_due, now,
							  sabot_due_zone());
	if (is_due)
		count_run(job->job_id, schedule.graph != NULL ?
				  insert_graph_run(job, schedule.graph, now) :
				  insert_run(job->job_id, now));
	set_due(rel, tuple, job, is_due ? SABOT_JOB_BLOCKED : SABOT_JOB_SCHEDULED,
			next);
}

/*
 * run_once - see to a schedule that an agent has taken
 *
 * Returns false if that has to be done again, as a run has come in between.
 * Inside a transaction of sabot's own.
 */
static bool
run_once(Relation rel, const SabotJob *job)
{
	bool		has_run = sabot_depend_hold_task(job, true);
	HeapTuple	tuple = sabot_row_lock(rel, job->job_id,
									   LockTupleNoKeyExclusive);
	SabotJob   *now = tuple ? sabot_job_read(job->job_id) : NULL;

	if (now == NULL || now->state != job->state)
		return true;
	if (has_run)
		set_state(rel, tuple, SABOT_JOB_BLOCKED, NULL);
	else if (sabot_row_children(rel, job->job_id) != SABOT_ROW_GONE)
		return false;
	else
		fire_if_due(rel, tuple, now);
	return true;
}

/*
 * sabot_schedule_run - see to a schedule that an agent, or a prober, has taken
 *
 * In no transaction.
 */
void
sabot_schedule_run(const SabotJob *job)
{
	bool		done;

	do
	{
		SabotOwn	own;
		Relation	rel;

		CHECK_FOR_INTERRUPTS();
		sabot_own_start_transaction(&own);
		rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
		done = run_once(rel, job);
		table_close(rel, NoLock);
		sabot_own_commit_transaction(&own);
	} while (!done);
}

/*
 * execute_latest - run a statement of sabot's own that sees what is committed
 * now, whatever the transaction's snapshot; returns the rows processed
 */
static int
execute_latest(const char *sql, int nargs, const Oid *types, Datum *values,
			   const char *nulls, bool read_only)
{
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, unconstify(Oid *, types));
	Snapshot	snapshot;
	int			rc;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	rc = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot,
							  read_only, false, 0);
	UnregisterSnapshot(snapshot);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(rc));
	return (int) SPI_processed;
}

/*
 * sabot_spi_latest - run a query of sabot's own that sees what is committed
 * now, whatever the transaction's snapshot; returns the rows found
 *
 * SPI connected, after sabot_own_begin().
 */
int
sabot_spi_latest(const char *sql, int nargs, const Oid *types, Datum *values)
{
	return execute_latest(sql, nargs, types, values, NULL, true);
}

/*
 * sabot_spi_change_latest - the same for a statement that changes rows, which
 * nobody else changes at this time
 */
int
sabot_spi_change_latest(const char *sql, int nargs, const Oid *types,
						Datum *values, const char *nulls)
{
	return execute_latest(sql, nargs, types, values, nulls, false);
}

/*
 * open_run - the open run of a schedule, or 0
 */
static int64
open_run(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	bool		isnull;

	if (sabot_spi_latest("SELECT job_id FROM sabot.job WHERE parent_id = $1",
						 1, types, values) == 0)
		return 0;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * cancel_schedule - end a schedule and its run
 *
 * A run that comes in between is asked to end only, as it must not be locked
 * after its schedule.
 */
static void
cancel_schedule(Relation rel, int64 job_id)
{
	SabotEnd	end = {.state = SABOT_JOB_CANCELED};
	ErrorData	error = {0};
	int64		run_id = open_run(job_id);
	SabotJob   *job;

	if (run_id != 0 && sabot_job_interrupt_row(run_id, SABOT_INTERRUPT_CANCEL))
		sabot_pending_signal(run_id, SABOT_INTERRUPT_CANCEL);
	CommandCounterIncrement();
	if (sabot_row_lock(rel, job_id, LockTupleExclusive) == NULL)
		return;
	job = sabot_job_read(job_id);
	if (job == NULL)
		return;
	run_id = open_run(job_id);
	if (run_id != 0)
	{
		sabot_job_write_signal(run_id, SABOT_INTERRUPT_CANCEL);
		sabot_pending_signal(run_id, SABOT_INTERRUPT_CANCEL);
	}
	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = pstrdup("job was canceled");
	end.error = &error;
	(void) sabot_job_finish(job, &end);
}

/*
 * sabot_schedule_interrupt - cancel or pause a schedule as the transaction
 * that asks for it commits
 *
 * One that is paused begins no runs; the one that is open goes on.  Returns
 * false, having done nothing, if the job is no open schedule.  Between
 * sabot_own_begin() and sabot_own_end(), with an active snapshot.
 */
bool
sabot_schedule_interrupt(int64 job_id, SabotInterrupt reason)
{
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	SabotJob   *job = sabot_row_read(rel, job_id);
	bool		is_schedule = job != NULL && job->is_schedule;
	HeapTuple	tuple;

	if (is_schedule && reason == SABOT_INTERRUPT_CANCEL)
		cancel_schedule(rel, job_id);
	else if (is_schedule)
	{
		tuple = sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive);
		if (tuple != NULL)
			set_state(rel, tuple, SABOT_JOB_PAUSED, "paused by its owner");
	}
	table_close(rel, NoLock);
	return is_schedule;
}

/*
 * sabot_schedule_resume - resume a paused schedule as the transaction that
 * asks for it commits
 *
 * An agent finds out what it has missed, and whether a run is open.  Returns
 * false, having done nothing, if the job is no open schedule.
 */
bool
sabot_schedule_resume(int64 job_id)
{
	SabotOwn	own;
	Relation	rel;
	SabotJob   *job;
	HeapTuple	tuple;
	bool		is_schedule;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	job = sabot_row_read(rel, job_id);
	is_schedule = job != NULL && job->is_schedule;
	tuple = is_schedule ?
		sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive) : NULL;
	job = tuple ? sabot_job_read(job_id) : NULL;
	if (job != NULL &&
		job->state == sabot_catalog(false)->states[SABOT_JOB_PAUSED])
	{
		set_state(rel, tuple, SABOT_JOB_QUEUED, NULL);
		sabot_pending_submit(job_id, job->priority, job->queue, job->owner,
							 0, 0);
	}
	table_close(rel, NoLock);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
	return is_schedule;
}
