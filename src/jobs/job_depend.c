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
 * agent that takes it looks again, when it can wait (job_depend_wait.c).
 * Hence the rule: a blocked job has a dependency that is open for sure, and
 * whose end will look at it; a queued one may have, and then its row says so.
 *
 * Rows are locked in one order (sabot_depend_finish), and who locks a row in
 * another one does not wait for it.
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
#include "lib/pairingheap.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
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
#define MAX_KNOWN 32

/* A job that this transaction has ended. */
typedef struct Ended
{
	int64		job_id;
	int64		graph_id;		/* whose task or run it is, 0 = none */
	bool		siblings_run;	/* tasks of its graph that depend on it */
	bool		others_run;		/* other jobs that do */
	const char *why;			/* if they do not */
} Ended;

/* A job that waits for one that has ended. */
typedef struct Dependent
{
	pairingheap_node node;
	const Ended *ended;
	int64		job_id;
	bool		inside;			/* as the columns say */
	int64		last;
} Dependent;

/* A graph of which tasks have ended. */
typedef struct Graph
{
	int64		job_id;
	bool		goes_on;		/* it has tasks that are open for sure */
	const SabotJob *failed;		/* a task that makes it fail, or NULL */
	const SabotEnd *how;
} Graph;

/* What is being settled. */
struct SabotSettling
{
	Relation	rel;			/* sabot.job */
	SabotRowWriter *writer;		/* for it, or NULL if none is open */
	Relation	dependency;
	pairingheap *tasks;			/* of Dependent: those inside graphs */
	pairingheap *jobs;			/* all others */
	List	   *graphs;			/* of Graph */
	int64		known_open;		/* a job that is open for sure, or 0 */
	int64		gone_first;		/* jobs that are gone for sure, if not 0 */
	int64		gone_last;
	int			nknown;			/* jobs that are not, and how they are */
	int64		known_job[MAX_KNOWN];
	SabotPresence known_presence[MAX_KNOWN];
};

/*
 * is_later - comparison of two Dependents for heaps that begin with the lowest
 * id
 */
static int
is_later(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		x = pairingheap_const_container(Dependent, node, a)->job_id;
	int64		y = pairingheap_const_container(Dependent, node, b)->job_id;

	return x < y ? 1 : x > y ? -1 : 0;
}

/*
 * dependents_of - the jobs that wait for a job, as a list of Dependent
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
		dependent = palloc0(sizeof(Dependent));
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
 * note_graph - see later whether a graph is over
 */
static Graph *
note_graph(SabotSettling *s, int64 graph_id)
{
	Graph	   *graph;
	ListCell   *lc;

	foreach(lc, s->graphs)
	{
		graph = lfirst(lc);
		if (graph->job_id == graph_id)
			return graph;
	}
	graph = palloc0(sizeof(Graph));
	graph->job_id = graph_id;
	s->graphs = lappend(s->graphs, graph);
	return graph;
}

/*
 * note_ended - settle later what the end of a job means
 *
 * Others may have ended since what we know of them, not seeing this one ended.
 */
static void
note_ended(SabotSettling *s, const Ended *ended, bool tells_siblings)
{
	ListCell   *lc;

	s->known_open = 0;
	if (ended->graph_id != 0)
		(void) note_graph(s, ended->graph_id);
	foreach(lc, dependents_of(s->dependency, ended->job_id))
	{
		Dependent  *dependent = lfirst(lc);

		dependent->ended = ended;
		if (!dependent->inside)
			pairingheap_add(s->jobs, &dependent->node);
		else if (tells_siblings)
			pairingheap_add(s->tasks, &dependent->node);
	}
}

/*
 * presence_of - how a job stands that has not ended in this transaction
 *
 * Dependents of one job often have more in common: what is known is not looked
 * for again.
 */
static SabotPresence
presence_of(SabotSettling *s, int64 job_id)
{
	SabotPresence presence;

	if (job_id == s->known_open)
		return SABOT_ROW_OPEN;
	for (int i = 0; i < s->nknown; i++)
		if (s->known_job[i] == job_id)
			return s->known_presence[i];
	presence = sabot_row_presence(s->rel, job_id);
	if (presence == SABOT_ROW_OPEN)
		s->known_open = job_id;
	else if (s->nknown < MAX_KNOWN)
	{
		s->known_job[s->nknown] = job_id;
		s->known_presence[s->nknown++] = presence;
	}
	return presence;
}

/*
 * is_narrow - whether the ids that a job waits for are about as many as there
 * are between the lowest and the highest
 */
static bool
is_narrow(const SabotJob *job)
{
	int			n = job->ndepends_on;

	return n > 1 && job->depends_on[n - 1] - job->depends_on[0] < 2 * n;
}

/*
 * none_left - whether all that a job waits for is gone for sure
 *
 * False if that takes looking at each.  A layer of a graph has neighbouring
 * ids, and its dependents wait for the same ones.
 */
static bool
none_left(SabotSettling *s, const SabotJob *job)
{
	int64		first;
	int64		last;

	if (!is_narrow(job))
		return false;
	first = job->depends_on[0];
	last = job->depends_on[job->ndepends_on - 1];
	if (first >= s->gone_first && last <= s->gone_last)
		return true;
	if (!sabot_row_none_left(s->rel, first, last))
		return false;
	s->gone_first = first;
	s->gone_last = last;
	return true;
}

/*
 * has_open - whether anything is open for sure that a job waits for
 *
 * If not, what may be is appended to *unsure, as ids with commas between.
 */
static bool
has_open(SabotSettling *s, const SabotJob *job, StringInfo unsure)
{
	if (none_left(s, job))
		return false;
	/* From the end: jobs with higher ids are likely to end later. */
	for (int i = job->ndepends_on - 1; i >= 0; i--)
	{
		SabotPresence presence = presence_of(s, job->depends_on[i]);

		if (presence == SABOT_ROW_OPEN)
			return true;
		if (presence != SABOT_ROW_GONE)
			appendStringInfo(unsure, "%s" INT64_FORMAT,
							 unsure->len > 0 ? "," : "", job->depends_on[i]);
	}
	return false;
}

/*
 * starts_at - when a job that has nothing to wait for anymore is to start, 0 if
 * at once
 */
static TimestampTz
starts_at(const SabotJob *job)
{
	/* That of a graph is its deadline. */
	return job->run_after > GetCurrentTimestamp() &&
		(!job->is_graph || job->is_spread) ? job->run_after : 0;
}

/*
 * sabot_depend_make_ready - queue a blocked job, whose row our transaction has
 * locked, or schedule it if its time has not come
 *
 * unsure names what it waits for that may not have ended, as ids with commas
 * between; it is NULL if all has, and empty if that is not known.
 */
void
sabot_depend_make_ready(SabotRowWriter *writer, HeapTuple tuple, const SabotJob *job,
						const char *unsure)
{
	TimestampTz run_after = starts_at(job);

	sabot_row_set_state(writer, tuple, run_after != 0 ? SABOT_JOB_SCHEDULED :
						SABOT_JOB_QUEUED, unsure);
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 run_after, 0);
}

/*
 * try_make_ready - the same for a job whose row was only read
 *
 * Waits for who has it locked; returns false, having done nothing, if it is not
 * as it was read then.
 */
static bool
try_make_ready(SabotRowWriter *writer, HeapTuple tuple, const SabotJob *job,
			   const char *unsure)
{
	TimestampTz run_after = starts_at(job);

	if (!sabot_row_try_set_state(writer, tuple,
								 run_after != 0 ? SABOT_JOB_SCHEDULED :
								 SABOT_JOB_QUEUED, unsure))
		return false;
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 run_after, 0);
	return true;
}

/*
 * is_blocked - whether a row's state is blocked
 */
static bool
is_blocked(Relation rel, HeapTuple tuple)
{
	bool		isnull;
	Datum		state = heap_getattr(tuple, JOB_STATE + 1,
									 RelationGetDescr(rel), &isnull);

	return DatumGetObjectId(state) ==
		sabot_catalog(false)->states[SABOT_JOB_BLOCKED];
}

/*
 * writer_of - what it takes to replace rows, opened at its first use
 */
static SabotRowWriter *
writer_of(SabotSettling *s)
{
	if (s->writer == NULL)
		s->writer = sabot_row_writer_open(s->rel);
	return s->writer;
}

/*
 * release - a job that another one waits for has ended well
 *
 * Returns whether the dependent is still open.  As what a job depends on does
 * not change, its row is touched only if nothing of that is open anymore.
 */
static bool
release(SabotSettling *s, const Dependent *dependent)
{
	StringInfoData unsure;
	SabotJob   *job;
	HeapTuple	tuple;

	/* Most have others to wait for: that is to cost next to nothing. */
	if (presence_of(s, dependent->last) == SABOT_ROW_OPEN)
		return true;
	initStringInfo(&unsure);
	job = sabot_job_read_row(dependent->job_id, &tuple);
	if (job != NULL && has_open(s, job, &unsure))
		return true;
	if (job != NULL && is_blocked(s->rel, tuple) &&
		try_make_ready(writer_of(s), tuple, job,
					   unsure.len > 0 ? unsure.data : NULL))
		return true;
	/* Somebody else is changing it, or has just done so. */
	tuple = sabot_row_lock(s->rel, dependent->job_id, LockTupleNoKeyExclusive);
	if (tuple == NULL)
		return false;
	if (job == NULL)
	{
		job = sabot_job_read(dependent->job_id);
		if (job == NULL || has_open(s, job, &unsure))
			return true;
	}
	if (is_blocked(s->rel, tuple))
		sabot_depend_make_ready(writer_of(s), tuple, job,
								unsure.len > 0 ? unsure.data : NULL);
	return true;
}

/*
 * skip - a job that another one waits for has not ended well: end that too
 */
static void
skip(SabotSettling *s, const Dependent *dependent)
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
	end.reason = dependent->ended->why;
	if (!sabot_job_move(job, &end))
		return;
	CommandCounterIncrement();
	sabot_pending_wakeup(job->job_id);

	ended = palloc0(sizeof(Ended));
	ended->job_id = job->job_id;
	ended->graph_id = job->parent_id;
	ended->why = psprintf("job " INT64_FORMAT " was skipped", job->job_id);
	note_ended(s, ended, true);
}

/*
 * settle_first - settle what the end of a job means for the first of a heap of
 * its dependents
 */
static void
settle_first(SabotSettling *s, pairingheap *heap)
{
	const Dependent *dependent =
	pairingheap_container(Dependent, node, pairingheap_remove_first(heap));
	const Ended *ended = dependent->ended;

	CHECK_FOR_INTERRUPTS();
	if (!(dependent->inside ? ended->siblings_run : ended->others_run))
		skip(s, dependent);
	else if (release(s, dependent) && dependent->inside)
		note_graph(s, ended->graph_id)->goes_on = true;
}

/*
 * end_graph - end a graph without open tasks, whose row is locked
 */
static void
end_graph(SabotSettling *s, const SabotJob *graph)
{
	SabotEnd	end = {.state = SABOT_JOB_COMPLETED};
	ErrorData	error = {0};
	Ended	   *ended = palloc0(sizeof(Ended));

	end.attempt = graph->attempt + 1;
	end.losses = graph->losses;
	if (graph->is_spread)
		end.outcome = sabot_spread_outcome(graph, &error.detail);
	if (graph->error != NULL)
	{
		error.sqlerrcode = MAKE_SQLSTATE(graph->sqlstate[0],
										 graph->sqlstate[1],
										 graph->sqlstate[2],
										 graph->sqlstate[3],
										 graph->sqlstate[4]);
		error.message = graph->error;
		error.hint = psprintf("See sabot.job_task for its %s; sabot.retry_job("
							  INT64_FORMAT ") runs those again that have not completed.",
							  graph->is_spread ? "pieces" : "tasks",
							  graph->job_id);
		end.state = SABOT_JOB_FAILED;
		end.error = &error;
	}
	if (!sabot_job_move(graph, &end))
		return;
	CommandCounterIncrement();
	sabot_pending_wakeup(graph->job_id);

	ended->job_id = graph->job_id;
	ended->graph_id = graph->parent_id;
	ended->others_run = graph->error == NULL;
	ended->why = psprintf("job " INT64_FORMAT " failed", graph->job_id);
	note_ended(s, ended, true);
}

/*
 * note_failure - note in a graph's row that it will fail, and why
 */
static void
note_failure(SabotSettling *s, const SabotJob *task, const SabotEnd *end)
{
	HeapTuple	tuple = sabot_row_lock(s->rel, task->parent_id,
									   LockTupleNoKeyExclusive);
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	const ErrorData *error = end->error;
	const char *who;

	if (tuple == NULL)
		return;
	heap_deform_tuple(tuple, RelationGetDescr(s->rel), v, isnull);
	/* A schedule goes on, whatever comes of its runs. */
	if (!isnull[JOB_ERROR] || sabot_kind_is(v[JOB_KIND], "schedule"))
		return;
	isnull[JOB_ERROR] = isnull[JOB_SQLSTATE] = false;
	v[JOB_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	who = task->is_piece ? task->name : psprintf("task \"%s\"", task->name);
	v[JOB_ERROR] = CStringGetTextDatum(end->state == SABOT_JOB_CANCELED ?
									   psprintf("%s was canceled", who) :
									   psprintf("%s failed: %s", who,
												error->message));
	sabot_row_update(writer_of(s), tuple, v, isnull);
}

/*
 * settle_graph - end a graph if it has no open tasks; or free a schedule whose
 * run, maybe a graph itself, has ended
 *
 * If others are ending its last ones this moment, an agent is to see to it.
 */
static void
settle_graph(SabotSettling *s, const Graph *noted)
{
	HeapTuple	tuple;
	SabotJob   *graph;
	SabotPresence children;

	if (noted->failed != NULL)
		note_failure(s, noted->failed, noted->how);
	if (noted->goes_on)
		return;
	children = sabot_row_children(s->rel, noted->job_id);
	if (children >= SABOT_ROW_OPEN || children == SABOT_ROW_COMING)
		return;
	tuple = sabot_row_lock(s->rel, noted->job_id, LockTupleExclusive);
	graph = tuple ? sabot_job_read(noted->job_id) : NULL;
	if (graph == NULL)
		return;
	/* A schedule waits for its next due time, unless it is paused. */
	if (graph->is_schedule)
	{
		if (is_blocked(s->rel, tuple))
			sabot_depend_make_ready(writer_of(s), tuple, graph, NULL);
	}
	/* Who had it locked may have ended the others. */
	else if (sabot_row_children(s->rel, noted->job_id) == SABOT_ROW_GONE)
		end_graph(s, graph);
	else if (graph->state != sabot_catalog(false)->states[SABOT_JOB_QUEUED])
		sabot_depend_make_ready(writer_of(s), tuple, graph, "");
}

/*
 * fails_graph - whether the end of a job makes its graph fail
 */
static bool
fails_graph(const SabotJob *job, const SabotEnd *end)
{
	return job->parent_id != 0 && end->error != NULL &&
		(job->on_failure == NULL || strcmp(job->on_failure, "fail") == 0);
}

/*
 * sabot_depend_begin - begin to settle what ends of jobs mean
 *
 * Needs an active snapshot until sabot_depend_finish().  Not in a
 * subtransaction: what is settled cannot be taken back in part.
 */
SabotSettling *
sabot_depend_begin(void)
{
	const SabotCatalog *cat = sabot_catalog(false);
	SabotSettling *s = palloc0(sizeof(SabotSettling));

	CommandCounterIncrement();
	s->rel = table_open(cat->job, RowExclusiveLock);
	s->dependency = table_open(cat->dependency, AccessShareLock);
	s->tasks = pairingheap_allocate(is_later, NULL);
	s->jobs = pairingheap_allocate(is_later, NULL);
	return s;
}

/*
 * sabot_depend_add - settle what the end of a job means that this transaction
 * has ended
 *
 * job and end have to be there until sabot_depend_finish().
 */
void
sabot_depend_add(SabotSettling *s, const SabotJob *job, const SabotEnd *end)
{
	Ended	   *ended = palloc0(sizeof(Ended));
	bool		tells_siblings = true;

	ended->job_id = job->job_id;
	ended->graph_id = job->parent_id;
	ended->others_run = ended->siblings_run =
		end->state == SABOT_JOB_COMPLETED;
	if (!ended->others_run)
	{
		ended->why = psprintf("job " INT64_FORMAT " %s%s", job->job_id,
							  end->state == SABOT_JOB_FAILED ? "" : "was ",
							  sabot_state_label(end->state));
		/* A graph that was canceled has ended its tasks itself. */
		tells_siblings = job->parent_id != 0 &&
			sabot_row_presence(s->rel, job->parent_id) != SABOT_ROW_GONE;
		ended->siblings_run = job->on_failure != NULL &&
			strcmp(job->on_failure, "continue") == 0;
	}
	note_ended(s, ended, tells_siblings);
	if (job->is_piece)
		sabot_spread_go_on(s->rel, job);
	if (fails_graph(job, end))
	{
		Graph	   *graph = note_graph(s, job->parent_id);

		graph->failed = job;
		graph->how = end;
	}
}

/*
 * sabot_depend_finish - settle all that was added
 *
 * Rows are locked in the order that all processes keep to: tasks by their ids,
 * then graphs, then jobs that are no tasks by their ids.  What a job depends
 * on has a lower id than the job.
 */
void
sabot_depend_finish(SabotSettling *s)
{
	for (;;)
	{
		if (!pairingheap_is_empty(s->tasks))
			settle_first(s, s->tasks);
		else if (s->graphs != NIL)
		{
			const Graph *graph = linitial(s->graphs);

			s->graphs = list_delete_first(s->graphs);
			settle_graph(s, graph);
		}
		else if (!pairingheap_is_empty(s->jobs))
			settle_first(s, s->jobs);
		else
			break;
	}
	if (s->writer != NULL)
		sabot_row_writer_close(s->writer);
	table_close(s->dependency, AccessShareLock);
	table_close(s->rel, NoLock);
}

/*
 * sabot_depend_settle_graph - end a graph if it has no open tasks
 *
 * Needs an active snapshot.
 */
void
sabot_depend_settle_graph(int64 graph_id)
{
	SabotSettling *s = sabot_depend_begin();

	(void) note_graph(s, graph_id);
	sabot_depend_finish(s);
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
	SabotSettling *s;

	if (!sabot_depend_is_awaited(job))
		return true;
	if (GetCurrentTransactionNestLevel() > 1)
		return false;
	s = sabot_depend_begin();
	sabot_depend_add(s, job, end);
	sabot_depend_finish(s);
	return true;
}
