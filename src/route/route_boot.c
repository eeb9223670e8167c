/*-------------------------------------------------------------------------
 *
 * route_boot.c
 *		Makes an agent a process that can be a parallel worker.
 *
 * Ending the transaction of a parallel worker reads a pointer that is private
 * to parallel.c and set by ParallelWorkerMain() alone, which also goes on to
 * connect the process for good.  But first it joins the lock group of its
 * leader, and if that leads none it takes it for gone and returns.  So the
 * launcher, which never leads a group, makes a parallel context for each agent
 * it starts and the agent, when it is connected, calls ParallelWorkerMain()
 * with it, once.  The segment stays mapped as long as the agent lives; what
 * the pointer leads to is written (the end of its WAL) and never read.
 *
 * That is nothing the core promises, so nothing runs on agents before the
 * self-test has seen a query give the right result with an agent.  A file
 * tells the next server if this one did not survive its self-test.
 *
 * IDENTIFICATION
 *		src/route/route_boot.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/parallel.h"
#include "access/session.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "route/route_task.h"

/*
 * make_context - make a parallel context of one worker and keep its segment
 *
 * Returns its handle, DSM_HANDLE_INVALID if there is no segment to be had.  In
 * a transaction.
 */
static dsm_handle
make_context(void)
{
	dsm_handle	handle = DSM_HANDLE_INVALID;
	ParallelContext *pcxt;

	PushActiveSnapshot(GetTransactionSnapshot());
	EnterParallelMode();
	pcxt = CreateParallelContext("postgres", "ParallelQueryMain", 1);
	InitializeParallelDSM(pcxt);
	if (pcxt->seg)
	{
		dsm_pin_segment(pcxt->seg);
		handle = dsm_segment_handle(pcxt->seg);
	}
	DestroyParallelContext(pcxt);
	ExitParallelMode();
	PopActiveSnapshot();
	return handle;
}

/*
 * forget_segment - drop a segment that no agent has come for
 */
static void
forget_segment(RouteTask *task)
{
	if (task->boot_segment != DSM_HANDLE_INVALID)
		dsm_unpin_segment(task->boot_segment);
	task->boot_segment = DSM_HANDLE_INVALID;
}

/*
 * sabot_route_boot_prepare - make what the agent to come in a slot boots from
 *
 * In the launcher.  If it cannot be made the agent will do jobs only.
 */
void
sabot_route_boot_prepare(int slotno)
{
	RouteTask  *task = &sabot_route_shared->tasks[slotno];
	MemoryContext old = CurrentMemoryContext;

	PG_TRY();
	{
		StartTransactionCommand();
		if (CurrentSession == NULL)
			InitializeSession();
		forget_segment(task);
		task->boot_segment = make_context();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

/*
 * boot - have ParallelWorkerMain() do as much of its work as we need
 */
static void
boot(dsm_handle segment)
{
	MemoryContext old = CurrentMemoryContext;
	int			number = 0;

	/* It reads its number here; ours of the slot's process has been read. */
	memcpy(MyBgworkerEntry->bgw_extra, &number, sizeof(number));
	PG_TRY();
	{
		ParallelWorkerMain(UInt32GetDatum(segment));
	}
	PG_FINALLY();
	{
		ParallelWorkerNumber = -1;
		InitializingParallelWorker = false;
		whereToSendOutput = DestNone;
		MemoryContextSwitchTo(old);
	}
	PG_END_TRY();
}

/*
 * sabot_route_boot - make our agent able to take part in queries
 *
 * In no transaction; once.  Returns false if that cannot be.
 */
bool
sabot_route_boot(void)
{
	RouteTask  *task = &sabot_route_shared->tasks[sabot_my_slot];
	volatile bool booted = false;

	if (task->boot_segment == DSM_HANDLE_INVALID ||
		pg_atomic_read_u32(&sabot_route_shared->trust) == ROUTE_BROKEN)
		return false;
	PG_TRY();
	{
		boot(task->boot_segment);
		booted = true;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	/* From now on it lives as long as it is mapped here. */
	forget_segment(task);
	return booted;
}
