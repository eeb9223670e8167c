/*-------------------------------------------------------------------------
 *
 * job_depend.c
 *		Jobs that wait for jobs: what the end of one means for others.
 *
 * Whoever ends a job settles that in the transaction that ends it: those that
 * waited for this job alone become ready with it, those that cannot run
 * anymore end with it, and the last task of a graph ends the graph.  Nobody
 * polls, and a crash undoes or keeps all of it.
 *
 * Two jobs that end at the same instant do not see each other's end.  Each
 * deletes its own row before it looks at others', so at least one of the two
 * finds that the other is ending.  It cannot wait for that, as the other may
 * be about to do the same; so it queues the dependent in advance, and the
 * agent that takes a job with dependencies looks again, when it can wait
 * (sabot_depend_verify).  Hence the rule: a blocked job has a dependency that
 * is open for sure, and whose end will look at it; a queued one may have.
 *
 * A transaction that makes a job wait, other than by submitting both, cannot
 * be seen by who ends the other job meanwhile.  It therefore locks, at its
 * commit and not before, the row of one open job that is waited for, against
 * deletion: who ends that has to wait out the rest of the commit, and sees
 * the dependency then.  Nobody waits for anything longer than a commit.
 *
 * Rows are locked in the order of ids, graphs after their tasks.
 *
 * IDENTIFICATION
 *		src/jobs/job_depend.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_columns.h"
#include "jobs/job_row.h"
#include "jobs/jobs.h"

/* Columns of sabot.job_dependency, from 1. */
enum
{
	DEPENDENCY_DEPENDS_ON = 1,
	DEPENDENCY_JOB_ID,
	DEPENDENCY_INSIDE,
	DEPENDENCY_LAST
};

/* Jobs that are remembered while ends are settled. */
#define MAX_KNOWN_ENDED 32

/* A job that waits for the one that has ended. */
typedef struct Dependent
{
	int64		job_id;
	bool		inside;			/* as the columns say */
	int64		last;
} Dependent;

/* A job that this transaction has ended. */
typedef struct Ended
{
	int64		job_id;
	int64		parent_id;
	bool		siblings_run;	/* tasks of its graph that depend on it */
	bool		others_run;		/* other jobs that do */
	bool		leaves_siblings;	/* says nothing to tasks of its graph */
	const char *why;			/* if they do not */
} Ended;

/* What is being settled. */
typedef struct Settling
{
	Relation	rel;			/* sabot.job */
	List	   *ended;			/* of Ended, in ascending order of ids */
	List	   *graphs;			/* of int64 *: graphs that may be over */
	int64		known_open;		/* a job that is open for sure, or 0 */
	int64		known_ended[MAX_KNOWN_ENDED];	/* jobs that are not */
	int			nknown_ended;
} Settling;

/*
 * dependents_of - the jobs that wait for a job, in ascending order
 *
 * What others have not committed yet they will settle at their commit, as
 * they find that the job is gone.
 */
static List *
dependents_of(Relation dependency, int64 job_id)
{
	Relation	index = index_open(sabot_catalog(false)->dependency_pkey,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(dependency, NULL);
	SnapshotData dirty;
	ScanKeyData key;
	IndexScanDesc scan;
	List	   *result = NIL;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = SabotIndexBeginScan(dependency, index, &dirty, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		Dependent  *dependent;

		if (TransactionIdIsValid(dirty.xmin))
			continue;
		dependent = palloc(sizeof(Dependent));
		slot_getallattrs(slot);
		dependent->job_id =
			DatumGetInt64(slot->tts_values[DEPENDENCY_JOB_ID - 1]);
		dependent->inside =
			DatumGetBool(slot->tts_values[DEPENDENCY_INSIDE - 1]);
		dependent->last =
			DatumGetInt64(slot->tts_values[DEPENDENCY_LAST - 1]);
		result = lappend(result, dependent);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * has_dependents - whether jobs wait for a job
 *
 * That nobody does is the rule, and is to cost nothing.
 */
static bool
has_dependents(Relation dependency, int64 job_id)
{
	return RelationGetNumberOfBlocks(dependency) > 0 &&
		dependents_of(dependency, job_id) != NIL;
}

/*
 * sabot_depend_is_awaited - whether the end of a job is to be told to anybody
 */
bool
sabot_depend_is_awaited(const SabotJob *job)
{
	Relation	dependency;
	bool		result;

	if (job->parent_id != 0)
		return true;
	dependency = table_open(sabot_catalog(false)->dependency, AccessShareLock);
	result = has_dependents(dependency, job->job_id);
	table_close(dependency, AccessShareLock);
	return result;
}

/*
 * note_ended - settle later what the end of a job means
 */
static void
note_ended(Settling *s, Ended *ended)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, s->ended)
	{
		if (((Ended *) lfirst(lc))->job_id > ended->job_id)
			break;
		n++;
	}
	s->ended = list_insert_nth(s->ended, n, ended);
}

/*
 * note_graph - see later whether a graph is over
 */
static void
note_graph(Settling *s, int64 graph_id)
{
	int64	   *id;
	ListCell   *lc;

	foreach(lc, s->graphs)
		if (*(int64 *) lfirst(lc) == graph_id)
		return;
	id = palloc(sizeof(int64));
	*id = graph_id;
	s->graphs = lappend(s->graphs, id);
}

/*
 * is_open - whether a job that has not ended in this transaction is open for
 * sure
 *
 * Dependents of one job often have more in common: what is known is not looked
 * for again.
 */
static bool
is_open(Settling *s, int64 job_id)
{
	if (job_id == s->known_open)
		return true;
	for (int i = 0; i < s->nknown_ended; i++)
		if (s->known_ended[i] == job_id)
			return false;
	if (sabot_row_presence(s->rel, job_id) == SABOT_ROW_OPEN)
	{
		s->known_open = job_id;
		return true;
	}
	if (s->nknown_ended < MAX_KNOWN_ENDED)
		s->known_ended[s->nknown_ended++] = job_id;
	return false;
}

/*
 * make_ready - queue a blocked job, whose row our transaction has locked, or
 * schedule it if its time has not come
 */
static void
make_ready(Relation rel, HeapTuple tuple, const SabotJob *job)
{
	TimestampTz run_after = job->run_after > GetCurrentTimestamp() &&
	!job->is_graph ? job->run_after : 0;

	sabot_row_set_state(rel, tuple, run_after != 0 ? SABOT_JOB_SCHEDULED :
						SABOT_JOB_QUEUED, NULL);
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 run_after, 0);
}

/*
 * release - a job that another one waits for has ended well
 *
 * Returns whether the dependent is still open.
 */
static bool
release(Settling *s, const Dependent *dependent)
{
	SabotJob   *job;
	HeapTuple	tuple;

	/* Most have others to wait for: that is to cost next to nothing. */
	if (is_open(s, dependent->last))
		return true;
	tuple = sabot_row_lock(s->rel, dependent->job_id, LockTupleNoKeyExclusive);
	if (tuple == NULL)
		return false;
	job = sabot_job_read(dependent->job_id);
	if (job == NULL ||
		job->state != sabot_catalog(false)->states[SABOT_JOB_BLOCKED])
		return true;
	for (int i = job->ndepends_on - 1; i >= 0; i--)
		if (is_open(s, job->depends_on[i]))
			return true;
	make_ready(s->rel, tuple, job);
	return true;
}

/*
 * skip - a job that another one waits for has not ended well: end that too
 */
static void
skip(Settling *s, const Dependent *dependent, const char *why)
{
	SabotEnd	end = {.state = SABOT_JOB_SKIPPED};
	SabotJob   *job;
	Ended	   *ended;

	if (sabot_row_lock(s->rel, dependent->job_id, LockTupleExclusive) == NULL)
		return;
	job = sabot_job_read(dependent->job_id);
	if (job == NULL)
		return;
	end.attempt = job->attempt;
	end.losses = job->losses;
	end.reason = why;
	if (!sabot_job_move(job, &end))
		return;
	CommandCounterIncrement();
	sabot_pending_wakeup(job->job_id);

	ended = palloc0(sizeof(Ended));
	ended->job_id = job->job_id;
	ended->parent_id = job->parent_id;
	ended->why = psprintf("job " INT64_FORMAT " was skipped", job->job_id);
	note_ended(s, ended);
}

/*
 * settle_ended - settle what the end of one job means
 */
static void
settle_ended(Settling *s, Relation dependency, const Ended *ended)
{
	bool		graph_goes_on = false;
	ListCell   *lc;

	foreach(lc, dependents_of(dependency, ended->job_id))
	{
		const Dependent *dependent = lfirst(lc);
		bool		runs = dependent->inside ? ended->siblings_run :
		ended->others_run;

		if (dependent->inside && ended->leaves_siblings)
			continue;
		if (!runs)
			skip(s, dependent, ended->why);
		else if (release(s, dependent))
			graph_goes_on |= dependent->inside;
	}
	if (ended->parent_id != 0 && !graph_goes_on)
		note_graph(s, ended->parent_id);
}

/*
 * end_graph - end a graph without open tasks, whose row is locked
 */
static void
end_graph(Settling *s, const SabotJob *graph)
{
	SabotEnd	end = {.state = SABOT_JOB_COMPLETED};
	ErrorData	error = {0};
	Ended	   *ended = palloc0(sizeof(Ended));

	end.attempt = graph->attempt + 1;
	end.losses = graph->losses;
	if (graph->error != NULL)
	{
		error.sqlerrcode = MAKE_SQLSTATE(graph->sqlstate[0],
										 graph->sqlstate[1],
										 graph->sqlstate[2],
										 graph->sqlstate[3],
										 graph->sqlstate[4]);
		error.message = graph->error;
		error.hint = psprintf("See sabot.job_task for its tasks; sabot.retry_job("
							  INT64_FORMAT ") runs those again that have not completed.",
							  graph->job_id);
		end.state = SABOT_JOB_FAILED;
		end.error = &error;
	}
	if (!sabot_job_move(graph, &end))
		return;
	CommandCounterIncrement();
	sabot_pending_wakeup(graph->job_id);

	ended->job_id = graph->job_id;
	ended->others_run = graph->error == NULL;
	ended->why = psprintf("job " INT64_FORMAT " failed", graph->job_id);
	note_ended(s, ended);
}

/*
 * settle_graph - end a graph if it has no open tasks
 *
 * If others are ending its last ones this moment, an agent is to see to it.
 */
static void
settle_graph(Settling *s, int64 graph_id)
{
	HeapTuple	tuple;
	SabotJob   *graph;
	SabotPresence children = sabot_row_children(s->rel, graph_id);

	if (children >= SABOT_ROW_OPEN || children == SABOT_ROW_COMING)
		return;
	tuple = sabot_row_lock(s->rel, graph_id, LockTupleExclusive);
	graph = tuple ? sabot_job_read(graph_id) : NULL;
	if (graph == NULL)
		return;
	/* Who had it locked may have ended the others. */
	if (sabot_row_children(s->rel, graph_id) == SABOT_ROW_GONE)
		end_graph(s, graph);
	else if (graph->state != sabot_catalog(false)->states[SABOT_JOB_QUEUED])
		make_ready(s->rel, tuple, graph);
}

/*
 * note_failure - note in a graph's row that it will fail, and why
 */
static void
note_failure(Relation rel, const SabotJob *task, const SabotEnd *end)
{
	HeapTuple	tuple = sabot_row_lock(rel, task->parent_id,
									   LockTupleNoKeyExclusive);
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	const ErrorData *error = end->error;

	if (tuple == NULL)
		return;
	heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
	if (!isnull[JOB_ERROR])
		return;
	isnull[JOB_ERROR] = isnull[JOB_SQLSTATE] = false;
	v[JOB_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	v[JOB_ERROR] = CStringGetTextDatum(end->state == SABOT_JOB_CANCELED ?
									   psprintf("task \"%s\" was canceled",
												task->name) :
									   psprintf("task \"%s\" failed: %s",
												task->name, error->message));
	sabot_row_update(rel, tuple, v, isnull);
}

/*
 * first_ended - what the end of a job says to those that wait for it
 */
static Ended *
first_ended(Relation rel, const SabotJob *job, const SabotEnd *end)
{
	Ended	   *ended = palloc0(sizeof(Ended));
	const char *on_failure = job->on_failure ? job->on_failure : "fail";

	ended->job_id = job->job_id;
	ended->parent_id = job->parent_id;
	ended->others_run = ended->siblings_run =
		end->state == SABOT_JOB_COMPLETED;
	if (ended->others_run)
		return ended;
	ended->why = psprintf("job " INT64_FORMAT " %s%s", job->job_id,
						  end->state == SABOT_JOB_FAILED ? "" : "was ",
						  sabot_state_label(end->state));
	/* A graph that was canceled has ended its tasks itself. */
	if (job->parent_id == 0 ||
		sabot_row_presence(rel, job->parent_id) == SABOT_ROW_GONE)
		ended->leaves_siblings = true;
	else if (strcmp(on_failure, "continue") == 0)
		ended->siblings_run = true;
	return ended;
}

/*
 * settle_all - settle all there is to settle
 *
 * job is what has ended first and how, or NULL.
 */
static void
settle_all(Settling *s, Relation dependency, const SabotJob *job,
		   const SabotEnd *end)
{
	bool		fails_graph = job != NULL && job->parent_id != 0 &&
	end->error != NULL &&
	(job->on_failure == NULL || strcmp(job->on_failure, "fail") == 0);

	while (s->ended != NIL || s->graphs != NIL)
	{
		if (s->ended != NIL)
		{
			Ended	   *ended = linitial(s->ended);

			s->ended = list_delete_first(s->ended);
			settle_ended(s, dependency, ended);
			continue;
		}
		if (fails_graph)
			note_failure(s->rel, job, end);
		fails_graph = false;
		settle_graph(s, *(int64 *) linitial(s->graphs));
		s->graphs = list_delete_first(s->graphs);
	}
}

/*
 * sabot_depend_settle_graph - end a graph if it has no open tasks
 *
 * Needs an active snapshot.
 */
void
sabot_depend_settle_graph(int64 graph_id)
{
	const SabotCatalog *cat = sabot_catalog(false);
	Relation	dependency = table_open(cat->dependency, AccessShareLock);
	Settling	s = {.rel = table_open(cat->job, RowExclusiveLock)};

	note_graph(&s, graph_id);
	settle_all(&s, dependency, NULL, NULL);
	table_close(s.rel, NoLock);
	table_close(dependency, AccessShareLock);
}

/*
 * sabot_depend_ended - settle what the end of a job means for those that wait
 * for it, and for its graph, in the transaction that has ended it
 *
 * Needs an active snapshot.  Returns false, having done nothing, if there is
 * something to settle and we are in a subtransaction.
 */
bool
sabot_depend_ended(const SabotJob *job, const SabotEnd *end)
{
	const SabotCatalog *cat = sabot_catalog(false);
	Relation	dependency = table_open(cat->dependency, AccessShareLock);
	Settling	s = {0};
	bool		nested = GetCurrentTransactionNestLevel() > 1;
	bool		done = true;

	if (job->parent_id == 0 && !has_dependents(dependency, job->job_id))
		 /* Nobody waits. */ ;
	else if (nested)
		done = false;
	else
	{
		CommandCounterIncrement();
		s.rel = table_open(cat->job, RowExclusiveLock);
		note_ended(&s, first_ended(s.rel, job, end));
		settle_all(&s, dependency, job, end);
		table_close(s.rel, NoLock);
	}
	table_close(dependency, AccessShareLock);
	return done;
}

/*
 * sabot_depend_is_met - whether a task that an agent has taken has nothing to
 * wait for, for sure
 */
bool
sabot_depend_is_met(const SabotJob *job)
{
	Relation	rel;
	bool		met = job->parent_id != 0;

	if (job->ndepends_on == 0)
		return true;
	rel = table_open(sabot_catalog(false)->job, AccessShareLock);
	for (int i = job->ndepends_on - 1; i >= 0 && met; i--)
		met = sabot_row_presence(rel, job->depends_on[i]) <= SABOT_ROW_COMING;
	table_close(rel, AccessShareLock);
	return met;
}

/*
 * hold_dependency - lock, against deletion, one job that a job waits for
 *
 * With "patient" that waits for those that are ending this moment.  Returns
 * false if there is none.
 */
static bool
hold_dependency(Relation rel, const SabotJob *job, bool patient)
{
	SabotPresence least = patient ? SABOT_ROW_ENDING : SABOT_ROW_OPEN;

	for (int i = job->ndepends_on - 1; i >= 0; i--)
		if (sabot_row_presence(rel, job->depends_on[i]) >= least &&
			sabot_row_lock(rel, job->depends_on[i], LockTupleKeyShare) != NULL)
			return true;
	return false;
}

/*
 * sabot_depend_hold_task - the same for a task of a graph
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
bool
sabot_depend_hold_task(const SabotJob *graph)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(graph->job_id)};

	return sabot_spi_generic("SELECT FROM sabot.job WHERE parent_id = $1"
							 " ORDER BY job_id DESC LIMIT 1 FOR KEY SHARE",
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
					  " WHERE j.job_id = $1 ON CONFLICT DO NOTHING",
					  1, types, values, NULL, 0);
}

/*
 * why_not - why a job whose dependencies have all ended is not to run, or NULL
 */
static char *
why_not(const SabotJob *job)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job->job_id)};

	/* A task would have been skipped with the end of what it waits for. */
	if (job->parent_id != 0 ||
		sabot_spi_generic("SELECT format('job %s %s%s', h.job_id,"
						  " CASE WHEN h.state <> 'failed' THEN 'was ' END, h.state)"
						  " FROM sabot.job j JOIN sabot.job_history h"
						  " ON h.job_id = ANY (j.depends_on)"
						  " WHERE j.job_id = $1 AND h.state <> 'completed'"
						  " ORDER BY h.job_id LIMIT 1",
						  1, types, values, NULL, 1) == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
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
	HeapTuple	tuple;
	SabotJob   *now = NULL;
	bool		runs = true;

	sabot_own_start_transaction(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	if (job->parent_id == 0)
		link_dependencies(job);
	if (hold_dependency(rel, job, true))
	{
		tuple = sabot_row_lock(rel, job->job_id, LockTupleNoKeyExclusive);
		now = tuple ? sabot_job_read(job->job_id) : NULL;
		if (now != NULL && now->state == job->state)
			sabot_row_set_state(rel, tuple, SABOT_JOB_BLOCKED, NULL);
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
	SabotJob   *job;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	job = sabot_job_read(job_id);
	if (job != NULL && is_waiting(job) &&
		!(can_lock && (job->is_graph ? sabot_depend_hold_task(job) :
					   hold_dependency(rel, job, false))))
	{
		tuple = sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive);
		if (tuple != NULL)
			make_ready(rel, tuple, job);
	}
	table_close(rel, NoLock);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}
