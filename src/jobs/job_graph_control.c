/*-------------------------------------------------------------------------
 *
 * job_graph_control.c
 *		Cancel, pause, resume, retry and time out graphs.
 *
 * What is done to a graph is done to those of its tasks that are not finished,
 * and then to itself.  All but retry happens when the transaction that asks
 * for it commits, so that agents that end tasks wait for nothing longer than
 * a commit.  Tasks that run are asked as single jobs are, by a signal; whatever
 * these come to, a graph that was canceled has ended with the commit.
 *
 * An agent takes a graph for two reasons: its time is up, or its last tasks
 * ended at the same instant, so that none of them was the last (job_depend.c).
 *
 * IDENTIFICATION
 *		src/jobs/job_graph_control.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_row.h"
#include "jobs/jobs.h"

#define PAUSED_BY_OWNER "paused by its owner"

/*
 * ask_running - if an agent runs a task, ask it to stop when this commits
 */
static bool
ask_running(int64 task_id, SabotInterrupt reason)
{
	SabotSlot	slot;

	if (!sabot_pool_find_work(MyDatabaseId, task_id, &slot))
		return false;
	sabot_job_write_signal(task_id, reason);
	sabot_pending_signal(task_id, reason);
	return true;
}

/*
 * end_open - end an open job, if it is still there; returns it, or NULL
 *
 * Tells nobody yet.
 */
static SabotJob *
end_open(Relation rel, int64 job_id, const SabotEnd *how)
{
	SabotEnd	end = *how;
	SabotJob   *job;

	if (sabot_row_lock(rel, job_id, LockTupleExclusive) == NULL)
		return NULL;
	job = sabot_job_read(job_id);
	if (job == NULL)
		return NULL;
	end.attempt = job->attempt;
	end.losses = job->losses;
	if (!sabot_job_move(job, &end))
		return NULL;
	CommandCounterIncrement();
	sabot_pending_wakeup(job_id);
	return job;
}

/*
 * end_tasks - end the tasks of a graph that do not run, ask the others
 *
 * Returns those that have ended, as a list of SabotJob.
 */
static List *
end_tasks(Relation rel, const SabotJob *graph, const SabotEnd *how)
{
	List	   *ended = NIL;
	int64	   *ids;
	int			n = sabot_row_list_children(rel, graph->job_id, &ids);

	for (int i = 0; i < n; i++)
	{
		SabotJob   *job = ask_running(ids[i], SABOT_INTERRUPT_CANCEL) ? NULL :
		end_open(rel, ids[i], how);

		if (job != NULL)
			ended = lappend(ended, job);
	}
	return ended;
}

/*
 * end_graph - end a graph before its time, and the tasks of it that do not run
 *
 * how tells what becomes of the graph; its tasks are canceled.
 */
static void
end_graph(Relation rel, const SabotJob *graph, const SabotEnd *how)
{
	ErrorData	error = {0};
	SabotEnd	canceled = {.state = SABOT_JOB_CANCELED,.error = &error};
	SabotSettling *settling;
	List	   *ended;
	SabotJob   *job;
	ListCell   *lc;

	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = pstrdup("job was canceled");
	ended = end_tasks(rel, graph, &canceled);
	job = end_open(rel, graph->job_id, how);
	/* While we waited for its row it may have got its pieces. */
	if (graph->is_spread)
		ended = list_concat(ended, end_tasks(rel, graph, &canceled));

	/* Other jobs may wait for any of them. */
	settling = sabot_depend_begin();
	foreach(lc, ended)
		sabot_depend_add(settling, lfirst(lc), &canceled);
	if (job != NULL)
		sabot_depend_add(settling, job, how);
	sabot_depend_finish(settling);
}

/*
 * cancel_graph - end a graph as canceled
 */
static void
cancel_graph(Relation rel, const SabotJob *graph)
{
	ErrorData	error = {0};
	SabotEnd	end = {.state = SABOT_JOB_CANCELED,.error = &error};

	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = pstrdup("job was canceled");
	end_graph(rel, graph, &end);
}

/*
 * time_out - end a graph whose time is up
 */
static void
time_out(Relation rel, const SabotJob *graph)
{
	ErrorData	error = {0};
	SabotEnd	end = {.state = SABOT_JOB_FAILED,.error = &error};

	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = psprintf("job timed out after " INT64_FORMAT " ms",
							 graph->timeout_ms);
	error.hint = pstrdup("Submit it with a longer timeout.");
	end_graph(rel, graph, &end);
}

/*
 * pause_open - pause an open job, if it is still there
 */
static void
pause_open(Relation rel, SabotRowWriter *writer, int64 job_id)
{
	HeapTuple	tuple = sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive);

	if (tuple != NULL)
		sabot_row_set_state(writer, tuple, SABOT_JOB_PAUSED, PAUSED_BY_OWNER);
}

/*
 * pause_tasks - pause the tasks of a graph
 */
static void
pause_tasks(Relation rel, SabotRowWriter *writer, const SabotJob *graph)
{
	int64	   *ids;
	int			n = sabot_row_list_children(rel, graph->job_id, &ids);

	for (int i = 0; i < n; i++)
		if (!ask_running(ids[i], SABOT_INTERRUPT_PAUSE))
			pause_open(rel, writer, ids[i]);
}

/*
 * pause_graph - pause a graph and its tasks
 */
static void
pause_graph(Relation rel, const SabotJob *graph)
{
	SabotRowWriter *writer = sabot_row_writer_open(rel);

	pause_tasks(rel, writer, graph);
	pause_open(rel, writer, graph->job_id);
	/* While we waited for its row it may have got its pieces. */
	if (graph->is_spread)
		pause_tasks(rel, writer, graph);
	sabot_row_writer_close(writer);
}

/*
 * sabot_graph_interrupt - cancel or pause a graph as the transaction that asks
 * for it commits
 *
 * Returns false, having done nothing, if the job is no open graph, or one that
 * is spread and an agent is about to make its pieces (runs).  Between
 * sabot_own_begin() and sabot_own_end(), with an active snapshot.
 */
bool
sabot_graph_interrupt(int64 job_id, SabotInterrupt reason, bool runs)
{
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	SabotJob   *graph = sabot_row_read(rel, job_id);
	bool		is_graph = graph != NULL && graph->is_graph &&
	!(runs && graph->is_spread &&
	  sabot_row_children(rel, job_id) == SABOT_ROW_GONE);

	if (is_graph && reason == SABOT_INTERRUPT_CANCEL)
		cancel_graph(rel, graph);
	else if (is_graph)
		pause_graph(rel, graph);
	table_close(rel, NoLock);
	return is_graph;
}

/*
 * wait_again - a graph that an agent has taken has open tasks: back to waiting
 */
static void
wait_again(Relation rel, const SabotJob *graph)
{
	HeapTuple	tuple = sabot_row_lock(rel, graph->job_id,
									   LockTupleNoKeyExclusive);
	SabotJob   *now = tuple ? sabot_job_read(graph->job_id) : NULL;
	bool		has_deadline = graph->timeout_ms > 0;
	SabotRowWriter *writer;

	if (now == NULL || now->state != graph->state)
		return;
	writer = sabot_row_writer_open(rel);
	sabot_row_set_state(writer, tuple, has_deadline ? SABOT_JOB_SCHEDULED :
						SABOT_JOB_BLOCKED, NULL);
	sabot_row_writer_close(writer);
	if (has_deadline)
		sabot_pending_submit(graph->job_id, graph->priority, graph->queue,
							 graph->owner, graph->run_after, 0);
}

/*
 * is_late - whether a graph's time is up
 */
static bool
is_late(const SabotJob *graph)
{
	return graph->timeout_ms > 0 && graph->run_after <= GetCurrentTimestamp();
}

/*
 * sabot_graph_deadline - when an open graph's time is up, 0 if it is not there
 * or has as much as it likes
 *
 * Asked for each task: that the last graph has no timeout, and so never will,
 * is remembered.  Needs an active snapshot.
 */
TimestampTz
sabot_graph_deadline(int64 graph_id)
{
	static Oid	timeless_table = InvalidOid;	/* ids begin again with it */
	static int64 timeless = 0;
	Oid			table = sabot_catalog(false)->job;
	const SabotJob *graph;
	Relation	rel;

	if (graph_id == timeless && table == timeless_table)
		return 0;
	rel = table_open(table, AccessShareLock);
	graph = sabot_row_read(rel, graph_id);
	table_close(rel, AccessShareLock);
	if (graph == NULL)
		return 0;
	if (graph->is_graph && graph->timeout_ms > 0)
		return graph->run_after;
	timeless_table = table;
	timeless = graph_id;
	return 0;
}

/*
 * sabot_graph_out_of_time - end a graph whose time is up, if it still is there
 *
 * The agent that runs a task of it does that: there may be no other one to be
 * had.  In no transaction.
 */
void
sabot_graph_out_of_time(int64 graph_id)
{
	SabotOwn	own;
	Relation	rel;
	SabotJob   *graph;

	sabot_own_start_transaction(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	graph = sabot_row_read(rel, graph_id);
	if (graph != NULL && graph->is_graph && is_late(graph))
		time_out(rel, graph);
	table_close(rel, NoLock);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_graph_run - see to a graph that an agent has taken
 *
 * In no transaction.
 */
void
sabot_graph_run(const SabotJob *graph)
{
	SabotOwn	own;
	Relation	rel;

	sabot_own_start_transaction(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	if (is_late(graph) &&
		sabot_row_children(rel, graph->job_id) == SABOT_ROW_OPEN)
		time_out(rel, graph);
	else if (sabot_depend_hold_task(graph, true))
		wait_again(rel, graph);
	else
		sabot_depend_settle_graph(graph->job_id);
	table_close(rel, NoLock);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_graph_is_running - whether agents run tasks of a graph now
 *
 * Inside a transaction.
 */
bool
sabot_graph_is_running(int64 job_id)
{
	int			nslots = sabot_pool_nslots();
	SabotSlot  *slots = palloc0(sizeof(SabotSlot) * Max(1, nslots));
	bool		running = false;

	sabot_pool_copy_slots(slots);
	PushActiveSnapshot(GetLatestSnapshot());
	for (int i = 0; i < nslots && !running; i++)
	{
		SabotJob   *job = NULL;

		if (slots[i].work_id > 0 && slots[i].dbid == MyDatabaseId &&
			slots[i].state != SABOT_SLOT_LOST)
			job = sabot_job_read(slots[i].work_id);
		running = job != NULL && job->parent_id == job_id;
	}
	PopActiveSnapshot();
	pfree(slots);
	return running;
}

/*
 * The last of the pieces of job $1 that may be under way at once, among those in
 * the table that is named between; NULL if there is no pause between them.
 */
#define LAST_LANE_IN \
	"(SELECT p.job_id FROM sabot.job_spread s, (SELECT c.job_id," \
	" row_number() OVER (ORDER BY c.job_id) AS n FROM "
#define LAST_LANE_END \
	" c WHERE c.parent_id = $1 AND c.state <> 'completed') p" \
	" WHERE s.job_id = $1 AND p.n = s.lanes)"

/* States of jobs that are to run again: $2 is now. */
#define STATE_TO_RESUME \
	"CASE WHEN j.kind = 'spread' AND EXISTS (SELECT FROM sabot.job c WHERE c.parent_id = j.job_id) THEN 'blocked'" \
	" WHEN j.kind = 'piece' AND j.job_id > " LAST_LANE_IN "sabot.job" LAST_LANE_END " THEN 'blocked'" \
	" WHEN j.kind = 'graph' THEN CASE WHEN j.timeout IS NULL THEN 'blocked' ELSE 'scheduled' END" \
	" WHEN j.depends_on IS NOT NULL AND EXISTS (SELECT FROM sabot.job d WHERE d.job_id = ANY (j.depends_on))" \
	" THEN 'blocked' WHEN j.run_after > $2 THEN 'scheduled' ELSE 'queued' END::sabot.job_state"

/*
 * lock_tasks_to - lock the paused tasks of a graph, up to one
 */
static void
lock_tasks_to(int64 graph_id, int64 last_id)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(graph_id), Int64GetDatum(last_id)};

	(void) sabot_spi("SELECT FROM sabot.job WHERE parent_id = $1 AND state = 'paused'"
					 " AND job_id <= $2 ORDER BY job_id FOR NO KEY UPDATE",
					 2, types, values, NULL, 0);
}

/*
 * lock_paused - lock the paused tasks of a graph, so that they can be resumed;
 * those that agents have not come to pause yet are not to be paused
 *
 * In the order of ids, a task's request before its row, and before the graph.
 */
static void
lock_paused(int64 graph_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(graph_id)};
	int			n = sabot_spi("SELECT s.job_id FROM sabot.job_signal s JOIN sabot.job j"
							  " ON j.job_id = s.job_id WHERE j.parent_id = $1"
							  " AND s.action = 'pause' ORDER BY s.job_id",
							  1, types, values, NULL, 0);
	SPITupleTable *tasks = SPI_tuptable;

	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		int64		task_id = DatumGetInt64(SPI_getbinval(tasks->vals[i],
														  tasks->tupdesc, 1, &isnull));

		lock_tasks_to(graph_id, task_id - 1);
		(void) sabot_job_take_back_pause(task_id);
	}
	lock_tasks_to(graph_id, PG_INT64_MAX);
}

/*
 * sabot_job_resume_waiting - resume a schedule, a graph and its tasks, or a
 * job that waits for others, as the transaction that asks for it commits
 */
void
sabot_job_resume_waiting(int64 job_id)
{
	Oid			types[] = {INT8OID, TIMESTAMPTZOID};
	Datum		values[] = {Int64GetDatum(job_id),
	TimestampTzGetDatum(GetCurrentTimestamp())};
	SabotOwn	own;
	int64	   *ids;
	int			n;

	if (sabot_schedule_resume(job_id))
		return;
	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	/* Our own transaction may have asked for it. */
	(void) sabot_job_take_back_pause(job_id);
	lock_paused(job_id);
	n = sabot_spi("UPDATE sabot.job j SET reason = NULL, state = " STATE_TO_RESUME ","
				  " run_after = CASE WHEN j.kind = 'graph' THEN $2 + j.timeout ELSE j.run_after END"
				  " WHERE (j.job_id = $1 OR j.parent_id = $1) AND j.state = 'paused'"
				  " RETURNING job_id, priority, queue, owner,"
				  " CASE state WHEN 'scheduled' THEN run_after WHEN 'blocked' THEN 'infinity' END",
				  2, types, values, NULL, 0);
	ids = sabot_job_push_rows(n);
	/* Of those that wait, some may have nothing to wait for anymore. */
	for (int i = 0; i < n; i++)
		sabot_depend_settle(ids[i], true);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * refuse_running - raise 55000 if tasks of a graph that has ended still run
 *
 * How these end would be lost: nobody could see yet that tasks which are to
 * run again wait for them.
 */
static void
refuse_running(int64 graph_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(graph_id)};

	if (sabot_spi("SELECT FROM sabot.job WHERE parent_id = $1",
				  1, types, values, NULL, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tasks or pieces of job " INT64_FORMAT " are still running",
						graph_id),
				 errhint("Try again when they have ended, see sabot.job_task.")));
}

/*
 * sabot_graph_requeue - have a finished graph run again, with those of its
 * tasks that have not completed
 *
 * Returns false if it is not there as a finished one.  Takes effect at commit.
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.  Raises 23505
 * if another unfinished job has its dedup_key, 55000 while tasks still run.
 */
bool
sabot_graph_requeue(int64 job_id)
{
	Oid			types[] = {INT8OID, TIMESTAMPTZOID, INT8OID};
	Datum		values[] = {Int64GetDatum(job_id),
		TimestampTzGetDatum(GetCurrentTimestamp()),
	Int64GetDatum(sabot_catalog(false)->home)};
	int64	   *ids;
	int			n;

	if (!sabot_job_requeue(job_id))
		return false;
	refuse_running(job_id);
	/* One that is spread and has no pieces begins with making them. */
	n = sabot_spi("UPDATE sabot.job j SET run_after = $2 + timeout, state ="
				  " CASE WHEN timeout IS NULL THEN 'blocked' ELSE 'scheduled' END::sabot.job_state"
				  " WHERE job_id = $1 AND (kind = 'graph' OR EXISTS"
				  " (SELECT FROM sabot.job_history h WHERE h.parent_id = j.job_id))"
				  " RETURNING job_id, priority, queue, owner,"
				  " CASE WHEN state = 'scheduled' THEN run_after END",
				  2, types, values, NULL, 0);
	(void) sabot_job_push_rows(n);
	sabot_spi("DELETE FROM sabot.job_signal WHERE job_id IN"
			  " (SELECT h.job_id FROM sabot.job_history h WHERE h.parent_id = $1)",
			  1, types, values, NULL, 0);
	n = sabot_spi("INSERT INTO sabot.job (job_id, parent_id, kind, name, owner, owner_name, home,"
				  " queue, priority, max_attempts, atomic, asked_atomic, keep_rows, submitted_at,"
				  " retry_delay, timeout, command, params, settings, depends_on, on_failure, state)"
				  " SELECT job_id, parent_id, kind, name, owner, owner_name, $3,"
				  " queue, priority, max_attempts, asked_atomic, asked_atomic, keep_rows, submitted_at,"
				  " retry_delay, timeout, command, params, settings, depends_on, on_failure,"
				  " CASE WHEN h.kind = 'piece' AND h.job_id > " LAST_LANE_IN "sabot.job_history" LAST_LANE_END
				  " OR EXISTS (SELECT FROM unnest(h.depends_on) AS d WHERE NOT EXISTS"
				  " (SELECT FROM sabot.job_history c WHERE c.job_id = d AND c.state = 'completed'))"
				  " THEN 'blocked' ELSE 'queued' END::sabot.job_state"
				  " FROM sabot.job_history h WHERE h.parent_id = $1 AND h.state <> 'completed'"
				  " RETURNING job_id, priority, queue, owner,"
				  " CASE WHEN state = 'blocked' THEN timestamptz 'infinity' END",
				  3, types, values, NULL, 0);
	ids = sabot_job_push_rows(n);
	sabot_spi("DELETE FROM sabot.job_history WHERE parent_id = $1 AND state <> 'completed'",
			  1, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
		sabot_pending_settle(ids[i]);
	sabot_pending_settle(job_id);
	return true;
}
