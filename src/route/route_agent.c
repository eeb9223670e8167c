/*-------------------------------------------------------------------------
 *
 * route_agent.c
 *		In an agent: takes part in the query of a session.
 *
 * This does what ParallelWorkerMain() does, in its order, with a process that
 * is there before and after.  So what the core leaves to the end of the process
 * is undone here: the lock group, the mapping, the user, the worker number.
 * What can only be empty as long as the session's transaction has not written
 * is left out (combo command ids, relations to sync, indexes being rebuilt,
 * uncommitted enum values, the relation map), and so is the session's registry
 * of row types; see route_state.c for what that rules out.
 *
 * Up to the point where the transaction begins nothing has been taken of the
 * query's work.  If something fails before, the agent declines: it takes part
 * as one that got nothing to do, which is a complete answer.
 *
 * IDENTIFICATION
 *		src/route/route_agent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/execParallel.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "libpq/pqmq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procsignal.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "route/route_task.h"

/* What parallel.c calls them; the self-test finds out if that changes. */
#define PARALLEL_MAGIC						0x50477c7c
#define PARALLEL_KEY_LIBRARY				UINT64CONST(0xFFFFFFFFFFFF0003)
#define PARALLEL_KEY_GUC					UINT64CONST(0xFFFFFFFFFFFF0004)
#define PARALLEL_KEY_TRANSACTION_SNAPSHOT	UINT64CONST(0xFFFFFFFFFFFF0006)
#define PARALLEL_KEY_ACTIVE_SNAPSHOT		UINT64CONST(0xFFFFFFFFFFFF0007)
#define PARALLEL_KEY_TRANSACTION_STATE		UINT64CONST(0xFFFFFFFFFFFF0008)

/* What could not be mapped is tried again after, in ms. */
#define ATTACH_NAP_MS	10

/* The task our agent has, from its beginning to its end. */
static RouteTask *my_task = NULL;
static int64 my_work_id = 0;
static dsm_segment *segment = NULL;
static MemoryContext task_context = NULL;

/* The libraries of the session last helped, which we have since then. */
static char *libraries = NULL;

/*
 * tell_leader - have the session look at its queues
 */
static void
tell_leader(const RouteTask *task)
{
	SendProcSignal(task->leader_pid, PROCSIG_PARALLEL_MESSAGE,
				   task->leader_number);
}

/*
 * leave_lock_group - belong to no lock group
 *
 * There is no function of the core's for it: a worker leaves by exiting.  We
 * hold no lock.  The leader is there, since it waits for us; but if it is not
 * and we were the last of its group, its process entry is ours to give back,
 * which only the end of our process does.  A group of our own, from a job that
 * was a parallel query, has no other members anymore.
 */
static void
leave_lock_group(void)
{
	PGPROC	   *leader = MyProc->lockGroupLeader;
	LWLock	   *lock;
	bool		orphaned;

	if (leader == NULL)
		return;
	lock = LockHashPartitionLockByProc(leader);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	orphaned = leader != MyProc && leader->pid == 0;
	if (!orphaned)
	{
		dlist_delete(&MyProc->lockGroupLink);
		MyProc->lockGroupLeader = NULL;
	}
	LWLockRelease(lock);
	if (orphaned)
		proc_exit(1);
}

/*
 * attach_errors - send errors and notices to the session, through its queue
 */
static void
attach_errors(const RouteTask *task)
{
	shm_mq	   *queue = (shm_mq *) ((char *) dsm_segment_address(segment) +
									task->error_queue);

	shm_mq_set_sender(queue, MyProc);
	pq_redirect_to_shm_mq(segment, shm_mq_attach(queue, segment, NULL));
	pq_set_parallel_leader(task->leader_pid, task->leader_number);
}

/*
 * say_done - tell the session that all is well and there is nothing more
 */
static void
say_done(void)
{
	StringInfoData message;

	pq_beginmessage(&message, 'X');
	pq_endmessage(&message);
}

/*
 * end_task - let go of the segment and of the task
 *
 * The session may use the segment's memory anew, and the place of the task
 * may be given another one, from here on.
 */
static void
end_task(void)
{
	RouteTask  *task = my_task;
	Latch	   *latch = &task->leader->procLatch;

	if (segment)
		dsm_detach(segment);
	segment = NULL;
	my_task = NULL;
	ParallelWorkerNumber = -1;
	InitializingParallelWorker = false;
	(void) sabot_route_task_move(sabot_my_slot, my_work_id,
								 ROUTE_TASK_RUNNING, ROUTE_TASK_FREE);
	SetLatch(latch);
}

/*
 * decline - take part without having done anything
 */
static void
decline(void)
{
	shm_mq	   *queue = (shm_mq *) ((char *) dsm_segment_address(segment) +
									my_task->tuple_queue);

	sabot_route_task_note_decline();
	shm_mq_set_sender(queue, MyProc);
	shm_mq_detach(shm_mq_attach(queue, segment, NULL));
	say_done();
}

/*
 * lookup - a piece of the session's state in the segment
 */
static void *
lookup(shm_toc *toc, uint64 key)
{
	return shm_toc_lookup(toc, key, false);
}

/*
 * libraries_size - bytes of a serialized list of libraries, names one after
 * the other with an empty one at the end
 */
static Size
libraries_size(const char *state)
{
	const char *end = state;

	while (*end)
		end += strlen(end) + 1;
	return end + 1 - state;
}

/*
 * load_libraries - have the libraries that the session has loaded
 *
 * Those of functions, see route_state.c.  They have to be there before the
 * session's settings, some of which may be theirs: one that is loaded within
 * the query does not get its settings anymore.  In no transaction.
 */
static void
load_libraries(char *state)
{
	Size		size = libraries_size(state);

	if (libraries && libraries_size(libraries) == size &&
		memcmp(libraries, state, size) == 0)
		return;
	StartTransactionCommand();
	RestoreLibraryState(state);
	CommitTransactionCommand();
	if (libraries)
		pfree(libraries);
	libraries = NULL;
	libraries = MemoryContextAlloc(TopMemoryContext, size);
	memcpy(libraries, state, size);
}

/*
 * prepare - get ready for the transaction; errors here are no harm
 */
static shm_toc *
prepare(void)
{
	shm_toc    *toc = shm_toc_attach(PARALLEL_MAGIC,
									 dsm_segment_address(segment));

	if (toc == NULL)
		elog(ERROR, "invalid magic number in dynamic shared memory segment");
	(void) SetClientEncoding(GetDatabaseEncoding());
	load_libraries(lookup(toc, PARALLEL_KEY_LIBRARY));
	sabot_route_settings_apply(lookup(toc, PARALLEL_KEY_GUC));
	if (!SabotAdoptSystemUser(my_task->system_user))
		elog(ERROR, "agent has helped a session of another SYSTEM_USER");
	/* Last: settings are applied in a transaction with times of its own. */
	SetParallelStartTimestamps(my_task->xact_start, my_task->stmt_start);
	return toc;
}

/*
 * begin_transaction - begin our part of the session's transaction
 */
static void
begin_transaction(shm_toc *toc)
{
	char	   *snapshot_space;
	Snapshot	active;
	Snapshot	transaction;

	StartParallelWorkerTransaction(lookup(toc, PARALLEL_KEY_TRANSACTION_STATE));
	active = RestoreSnapshot(lookup(toc, PARALLEL_KEY_ACTIVE_SNAPSHOT));
	snapshot_space = shm_toc_lookup(toc, PARALLEL_KEY_TRANSACTION_SNAPSHOT, true);
	transaction = snapshot_space ? RestoreSnapshot(snapshot_space) : active;
	RestoreTransactionSnapshot(transaction, my_task->leader);
	PushActiveSnapshot(active);
	SetCurrentRoleId(my_task->roleid, my_task->is_superuser);
	SetUserIdAndSecContext(my_task->userid, my_task->sec_context);
	InitializingParallelWorker = false;
}

/*
 * run_fragment - do our part of the query
 */
static void
run_fragment(shm_toc *toc)
{
	begin_transaction(toc);
	EnterParallelMode();
	ParallelQueryMain(segment, toc);
	/* It has been made to point into the segment. */
	debug_query_string = NULL;
	ExitParallelMode();
	PopActiveSnapshot();
	EndParallelWorkerTransaction();
}

/*
 * clean_up - be nobody's worker anymore
 *
 * After the transaction; all that is left of it is who we were.
 */
static void
clean_up(void)
{
	debug_query_string = NULL;
	/* The role is that of no security context, so that goes first. */
	SetUserIdAndSecContext(GetSessionUserId(), 0);
	if (OidIsValid(GetCurrentRoleId()))
		SetCurrentRoleId(InvalidOid, false);
	leave_lock_group();
}

/*
 * try_to_prepare - prepare, or decline
 *
 * Returns NULL if our part in the query is over.
 */
static shm_toc *
try_to_prepare(void)
{
	shm_toc    *volatile toc = NULL;

	PG_TRY();
	{
		toc = prepare();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(task_context);
		HOLD_INTERRUPTS();
		whereToSendOutput = DestNone;	/* not the session's business */
		EmitErrorReport();
		whereToSendOutput = DestRemote;
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return toc;
}

/*
 * take_part - do our part of the query; errors are the session's
 */
static void
take_part(void)
{
	shm_toc    *toc;

	InitializingParallelWorker = true;
	ParallelWorkerNumber = my_task->number;
	attach_errors(my_task);
	leave_lock_group();			/* our own, if a job was a parallel query */
	if (!BecomeLockGroupMember(my_task->leader, my_task->leader_pid))
		return;
	toc = try_to_prepare();
	if (toc == NULL)
	{
		clean_up();
		decline();
		return;
	}

	PG_TRY();
	{
		sabot_agent_accept_interrupts(true);
		if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling statement due to user request")));
		run_fragment(toc);
		sabot_agent_accept_interrupts(false);
		clean_up();
		say_done();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(task_context);
		HOLD_INTERRUPTS();
		sabot_agent_accept_interrupts(false);
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		clean_up();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
}

/*
 * try_to_attach - map the segment of a task that we have yet to begin
 *
 * Returns false if that cannot be, for want of file handles, say, which is not
 * the session's business either; it is logged if report says so.
 */
static bool
try_to_attach(dsm_handle handle, bool report)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		segment = dsm_attach(handle);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		HOLD_INTERRUPTS();
		if (report)
			EmitErrorReport();
		FlushErrorState();
		segment = dsm_find_mapping(handle);
		if (segment)
			dsm_detach(segment);
		segment = NULL;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return segment != NULL;
}

/*
 * begin_attached - begin our task, whose segment is mapped
 *
 * Returns false if it has been taken back.
 */
static bool
begin_attached(RouteTask *task, int64 work_id)
{
	if (!sabot_route_task_move(sabot_my_slot, work_id, ROUTE_TASK_ASSIGNED,
							   ROUTE_TASK_RUNNING))
	{
		dsm_detach(segment);
		segment = NULL;
		return false;
	}
	my_task = task;
	my_work_id = work_id;
	return true;
}

/*
 * begin - begin our task, unless it is taken back before
 *
 * As long as we have not begun the session can do without us.
 */
static bool
begin(RouteTask *task, int64 work_id)
{
	bool		report = true;

	while (!try_to_attach(task->segment, report))
	{
		report = false;
		if (!sabot_route_task_is(sabot_my_slot, work_id, ROUTE_TASK_ASSIGNED))
			return false;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ATTACH_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return begin_attached(task, work_id);
}

/*
 * run - our agent has been taken for a query
 *
 * Its task may have been taken back since.
 */
static void
run(void)
{
	RouteTask  *task = &sabot_route_shared->tasks[sabot_my_slot];
	int64		work_id = sabot_pool_my_work();
	MemoryContext old;

	if (!sabot_route_task_is(sabot_my_slot, work_id, ROUTE_TASK_ASSIGNED))
		return;
	if (task_context == NULL)
		task_context = AllocSetContextCreate(TopMemoryContext, "sabot task",
											 ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(task_context);
	if (begin(task, work_id))
	{
		take_part();
		end_task();
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(task_context);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * leave - our agent exits; what it has not begun it declines
 *
 * What it has begun ends with its transaction, and the session has been told
 * of the error, or will find that its queue has nobody at its other end.
 */
static void
leave(int64 work_id)
{
	RouteTask  *task = &sabot_route_shared->tasks[sabot_my_slot];

	/* What cannot be attached now is taken back when the session is done. */
	if (work_id == 0 || my_task != NULL ||
		!sabot_route_task_is(sabot_my_slot, work_id, ROUTE_TASK_ASSIGNED) ||
		!try_to_attach(task->segment, true))
		return;
	if (begin_attached(task, work_id))
	{
		attach_errors(my_task);
		decline();
	}
}

/*
 * gone - our agent exits, its transaction has been aborted
 *
 * The segment has been detached with all others.
 */
static void
gone(void)
{
	RouteTask  *task = my_task;

	if (task == NULL)
		return;
	segment = NULL;
	if (MyProc->lockGroupLeader != MyProc)
		leave_lock_group();
	tell_leader(task);
	end_task();
}

static const SabotQueryServer query_server = {
	.startup = sabot_route_test_startup,
	.prepare = sabot_route_boot_prepare,
	.attach = sabot_route_boot,
	.ready = sabot_route_is_pristine,
	.run = run,
	.come_home = sabot_route_settings_home,
	.settings_changed = sabot_route_settings_changed,
	.leave = leave,
	.gone = gone,
	.probe = sabot_route_test
};

/*
 * sabot_route_query_server - what agents do for queries
 */
const SabotQueryServer *
sabot_route_query_server(void)
{
	return &query_server;
}
