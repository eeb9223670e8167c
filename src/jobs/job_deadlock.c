/*-------------------------------------------------------------------------
 *
 * job_deadlock.c
 *		Does what we wait for wait for us?
 *
 * A session that waits for a job holds no lock for it, so PostgreSQL's own
 * deadlock detector does not see that wait.  It does see all others, and
 * tells them by pg_blocking_pids() (locks, among them the virtual transaction
 * ids that CREATE INDEX CONCURRENTLY waits for) and
 * pg_safe_snapshot_blocking_pids().  What is missing are the waits for work:
 * every session that waits for a job or for sabot.run notes in shared memory
 * what for, and the slots of the pool say which process does that work.  From
 * these edges a breadth-first search, made by the waiter itself once it has
 * waited for deadlock_timeout, finds out whether it waits for itself.
 *
 * The edges are not taken at one instant, so that a cycle must be found twice
 * before it counts; as we stay in our wait, a real one cannot go away.
 *
 * IDENTIFICATION
 *		src/jobs/job_deadlock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "jobs/job_wait.h"
#include "jobs/jobs.h"

/* A session that waits for work; protected by the lock. */
typedef struct SabotWaiter
{
	pid_t		pid;			/* 0 if it does not wait */
	Oid			dbid;
	int64		work_id;		/* job, or negative for sabot.run */
} SabotWaiter;

typedef struct SabotWaiters
{
	LWLock	   *lock;
	SabotWaiter waiters[FLEXIBLE_ARRAY_MEMBER]; /* by process number */
} SabotWaiters;

/* A process that the search has reached. */
typedef struct WaitNode
{
	int			pid;
	int			parent;			/* index of the node that waits for it */
	int64		work_id;		/* what it does for the parent, 0 = lock */
} WaitNode;

/* A search and the state of the pool it goes by. */
typedef struct WaitGraph
{
	SabotSlot  *slots;
	int			nslots;
	SabotWaiter *waiters;
	WaitNode   *nodes;
	int			nnodes;
	int			maxnodes;
} WaitGraph;

static SabotWaiters *sabot_waiters = NULL;

/*
 * sabot_waiter_shmem_size - bytes of shared memory the waiters need
 */
Size
sabot_waiter_shmem_size(void)
{
	return add_size(offsetof(SabotWaiters, waiters),
					mul_size(sizeof(SabotWaiter), MaxBackends));
}

/*
 * sabot_waiter_shmem_init - create or attach to the waiters
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_waiter_shmem_init(void)
{
	bool		found;

	sabot_waiters = ShmemInitStruct("sabot waiters",
									sabot_waiter_shmem_size(), &found);
	if (found)
		return;
	memset(sabot_waiters, 0, sabot_waiter_shmem_size());
	sabot_waiters->lock = &(GetNamedLWLockTranche("sabot")[2].lock);
}

/*
 * clear_waiter - note that our session does not wait
 */
static void
clear_waiter(void)
{
	LWLockAcquire(sabot_waiters->lock, LW_EXCLUSIVE);
	sabot_waiters->waiters[MyProcNumber].pid = 0;
	LWLockRelease(sabot_waiters->lock);
}

/*
 * clear_waiter_at_exit - the same when the process ends in its wait
 */
static void
clear_waiter_at_exit(int code, Datum arg)
{
	clear_waiter();
}

/*
 * sabot_waiter_begin - note that our session waits for work
 *
 * In an agent the pool is told too, so that it can start another one.  The
 * caller must make sure that sabot_waiter_end() is called, on error too.
 */
void
sabot_waiter_begin(int64 work_id)
{
	static bool registered = false;
	SabotWaiter *mine = &sabot_waiters->waiters[MyProcNumber];

	if (!registered)
		before_shmem_exit(clear_waiter_at_exit, (Datum) 0);
	registered = true;

	LWLockAcquire(sabot_waiters->lock, LW_EXCLUSIVE);
	mine->pid = MyProcPid;
	mine->dbid = MyDatabaseId;
	mine->work_id = work_id;
	LWLockRelease(sabot_waiters->lock);

	if (sabot_my_slot != SABOT_NO_SLOT)
		sabot_pool_begin_wait(work_id);
}

/*
 * sabot_waiter_end - note that our session waits no longer
 */
void
sabot_waiter_end(void)
{
	clear_waiter();
	if (sabot_my_slot != SABOT_NO_SLOT)
		sabot_pool_end_wait();
}

/*
 * create_graph - start a search from the present state of the pool
 */
static WaitGraph *
create_graph(void)
{
	WaitGraph  *graph = palloc0(sizeof(WaitGraph));
	Size		size = sizeof(SabotWaiter) * MaxBackends;

	graph->nslots = sabot_pool_nslots();
	graph->slots = palloc0(sizeof(SabotSlot) * Max(1, graph->nslots));
	graph->waiters = palloc(size);
	graph->maxnodes = 16;
	graph->nodes = palloc(sizeof(WaitNode) * graph->maxnodes);

	sabot_pool_copy_slots(graph->slots);
	LWLockAcquire(sabot_waiters->lock, LW_SHARED);
	memcpy(graph->waiters, sabot_waiters->waiters, size);
	LWLockRelease(sabot_waiters->lock);
	return graph;
}

/*
 * add_node - note that a process is waited for, unless that is known
 */
static void
add_node(WaitGraph *graph, int pid, int parent, int64 work_id)
{
	WaitNode   *node;

	/* A prepared transaction has no process. */
	if (pid == 0)
		return;
	for (int i = 0; i < graph->nnodes; i++)
		if (graph->nodes[i].pid == pid)
			return;

	if (graph->nnodes == graph->maxnodes)
	{
		graph->maxnodes *= 2;
		graph->nodes = repalloc(graph->nodes,
								sizeof(WaitNode) * graph->maxnodes);
	}
	node = &graph->nodes[graph->nnodes++];
	node->pid = pid;
	node->parent = parent;
	node->work_id = work_id;
}

/*
 * add_blockers - follow a process to those that block it
 *
 * function is one of the server's that tell them, as an array of int4.
 */
static void
add_blockers(WaitGraph *graph, int parent, PGFunction function)
{
	Datum		pid = Int32GetDatum(graph->nodes[parent].pid);
	ArrayType  *pids = DatumGetArrayTypeP(DirectFunctionCall1(function, pid));
	int32	   *elements = (int32 *) ARR_DATA_PTR(pids);
	int			n = ArrayGetNItems(ARR_NDIM(pids), ARR_DIMS(pids));

	for (int i = 0; i < n; i++)
		add_node(graph, elements[i], parent, 0);
}

/*
 * find_worker - the slot that does a piece of work, or NULL
 */
static const SabotSlot *
find_worker(const WaitGraph *graph, Oid dbid, int64 work_id)
{
	for (int i = 0; i < graph->nslots; i++)
	{
		const SabotSlot *slot = &graph->slots[i];

		if (slot->work_id == work_id && slot->dbid == dbid && slot->pid != 0 &&
			slot->state != SABOT_SLOT_FREE && slot->state != SABOT_SLOT_LOST)
			return slot;
	}
	return NULL;
}

/*
 * is_needed - whether an agent's job is one of some jobs, or a task of one
 */
static bool
is_needed(HTAB *needed, const SabotJob *done)
{
	return hash_search(needed, &done->job_id, HASH_FIND, NULL) != NULL ||
		(done->parent_id != 0 &&
		 hash_search(needed, &done->parent_id, HASH_FIND, NULL) != NULL);
}

/*
 * needed_by - a job and those that it waits for, directly or through others
 *
 * Tasks of a graph that is among them are not.
 */
static HTAB *
needed_by(const SabotJob *waiting)
{
	HASHCTL		info = {.keysize = sizeof(int64),.entrysize = sizeof(int64),
	.hcxt = CurrentMemoryContext};
	HTAB	   *needed = hash_create("sabot needed jobs", 64, &info,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	List	   *todo = list_make1(unconstify(SabotJob *, waiting));

	hash_search(needed, &waiting->job_id, HASH_ENTER, NULL);
	while (todo != NIL)
	{
		const SabotJob *job = llast(todo);

		CHECK_FOR_INTERRUPTS();
		todo = list_delete_last(todo);
		for (int i = 0; i < job->ndepends_on; i++)
		{
			SabotJob   *next;
			bool		found;

			hash_search(needed, &job->depends_on[i], HASH_ENTER, &found);
			next = found ? NULL : sabot_job_read(job->depends_on[i]);
			if (next != NULL)
				todo = lappend(todo, next);
		}
	}
	return needed;
}

/*
 * add_indirect - follow a wait for a job that nobody runs, as it waits itself,
 * to the agents that do what it waits for
 */
static void
add_indirect(WaitGraph *graph, int parent, int64 work_id)
{
	SabotJob   *waiting;

	if (work_id <= 0)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	waiting = sabot_job_read(work_id);
	if (waiting != NULL && (waiting->is_graph || waiting->ndepends_on > 0))
	{
		HTAB	   *needed = needed_by(waiting);

		for (int i = 0; i < graph->nslots; i++)
		{
			const SabotSlot *slot = &graph->slots[i];
			SabotJob   *done;

			if (slot->work_id <= 0 || slot->dbid != MyDatabaseId ||
				slot->pid == 0)
				continue;
			done = sabot_job_read(slot->work_id);
			if (done != NULL && is_needed(needed, done))
				add_node(graph, slot->pid, parent, slot->work_id);
		}
		hash_destroy(needed);
	}
	PopActiveSnapshot();
}

/*
 * add_worker - follow a process to the agent whose work it waits for
 */
static void
add_worker(WaitGraph *graph, int parent)
{
	int			pid = graph->nodes[parent].pid;

	for (int i = 0; i < MaxBackends; i++)
	{
		const SabotWaiter *waiter = &graph->waiters[i];
		const SabotSlot *slot;

		if (waiter->pid != pid)
			continue;
		slot = find_worker(graph, waiter->dbid, waiter->work_id);
		/* Who waits for its own work waits for children of that. */
		if (slot != NULL && slot->pid != pid)
			add_node(graph, slot->pid, parent, waiter->work_id);
		else if (waiter->dbid == MyDatabaseId)
			add_indirect(graph, parent, waiter->work_id);
	}
}

/*
 * walk - the node of our own process as reached from the nodes there are, or
 * -1
 */
static int
walk(WaitGraph *graph)
{
	for (int i = 0; i < graph->nnodes; i++)
	{
		if (graph->nodes[i].pid == MyProcPid)
			return i;
		add_blockers(graph, i, pg_blocking_pids);
		add_blockers(graph, i, pg_safe_snapshot_blocking_pids);
		add_worker(graph, i);
	}
	return -1;
}

/*
 * search - the node of our own process as reached from an agent, or -1
 */
static int
search(WaitGraph *graph, const SabotSlot *start)
{
	graph->nnodes = 0;
	add_node(graph, start->pid, -1, start->work_id);
	return walk(graph);
}

/*
 * append_work - name a piece of work, at the start of a sentence or within
 */
static void
append_work(StringInfo buf, int64 work_id, bool start)
{
	if (work_id > 0)
		appendStringInfo(buf, "%s %lld", start ? "Job" : "job",
						 (long long) work_id);
	else
		appendStringInfo(buf, "%s command of sabot.run",
						 start ? "The" : "the");
}

/*
 * append_chain - describe the way from the first node to one node
 */
static void
append_chain(StringInfo buf, const WaitGraph *graph, int index)
{
	const WaitNode *node = &graph->nodes[index];

	if (node->parent >= 0)
	{
		append_chain(buf, graph, node->parent);
		if (node->work_id != 0)
		{
			appendStringInfoString(buf, ", which waits for ");
			append_work(buf, node->work_id, false);
			appendStringInfoString(buf, " in ");
		}
		else
			appendStringInfoString(buf, ", which is blocked by ");
	}
	else
	{
		append_work(buf, node->work_id, true);
		appendStringInfoString(buf, " runs in ");
	}
	if (node->pid == MyProcPid)
		appendStringInfo(buf, "this session, process %d", node->pid);
	else
		appendStringInfo(buf, "process %d", node->pid);
}

/*
 * describe - the chain to a node as an error detail
 */
static char *
describe(const WaitGraph *graph, int index, const char *intro)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, intro);
	append_chain(&buf, graph, index);
	appendStringInfoChar(&buf, '.');
	return buf.data;
}

/*
 * all_wait_for_us - whether every agent that is in the way waits for us
 *
 * With a tag: the agents working on it, of which there are "limit" or more.
 * Without: all agents there are, of which none is idle.  Agents whose work
 * waits for other work take no place in the pool, and so are not in the way.
 * Returns the chain from one of them, or NULL.
 */
static char *
all_wait_for_us(WaitGraph *graph, uint64 tag, int limit)
{
	char	   *chain = NULL;
	int			n = 0;

	for (int i = 0; i < graph->nslots; i++)
	{
		const SabotSlot *slot = &graph->slots[i];
		int			index;

		if (slot->state == SABOT_SLOT_FREE ||
			(tag == 0 && slot->waiting) ||
			(tag != 0 && (slot->dbid != MyDatabaseId || slot->work_id == 0 ||
						  slot->work_tag != tag)))
			continue;
		n++;
		if (slot->state != SABOT_SLOT_BUSY || slot->work_id == 0)
			return NULL;
		index = search(graph, slot);
		if (index < 0)
			return NULL;
		if (chain == NULL)
			chain = describe(graph, index, tag != 0 ?
							 "It waits for its queue.  " :
							 "It waits for an agent.  ");
	}
	return n >= limit ? chain : NULL;
}

/*
 * find_cycle_once - one search for a way from a piece of work to us
 */
static char *
find_cycle_once(int64 work_id, const char *queue)
{
	WaitGraph  *graph = create_graph();
	const SabotSlot *slot = find_worker(graph, MyDatabaseId, work_id);
	SabotPoolTotals totals;
	int			limit;
	char	   *chain = NULL;

	if (slot != NULL)
	{
		int			index = search(graph, slot);

		return index < 0 ? NULL : describe(graph, index, "");
	}

	/* It may wait for other jobs, as we do. */
	add_indirect(graph, -1, work_id);
	if (graph->nnodes > 0)
	{
		int			index = walk(graph);

		if (index >= 0)
			return describe(graph, index, "It waits for other jobs.  ");
	}

	/* Nobody does it: is everybody who could kept from it by us? */
	limit = queue ? sabot_job_queue_limit(queue) : 0;
	if (limit > 0)
		chain = all_wait_for_us(graph, sabot_queue_tag(queue), limit);
	if (chain == NULL)
	{
		sabot_pool_totals(SABOT_AGENTS, &totals);
		if (totals.agents >= totals.limit || totals.no_worker_slot)
			chain = all_wait_for_us(graph, 0, 1);
	}
	return chain;
}

/*
 * sabot_waiter_find_cycle - whether a piece of work waits for our session
 *
 * Returns NULL if it does not, else a description of how it does, in the
 * current memory context.  queue is that of a job nobody runs yet, or NULL.
 */
char *
sabot_waiter_find_cycle(int64 work_id, const char *queue)
{
	if (find_cycle_once(work_id, queue) == NULL)
		return NULL;
	return find_cycle_once(work_id, queue);
}
