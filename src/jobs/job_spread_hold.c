/*-------------------------------------------------------------------------
 *
 * job_spread_hold.c
 *		Spreading a job over a table without a key: one snapshot for all pieces.
 *
 * Without a key a row has no name but its place, and every update gives it
 * another one.  Seen through one snapshot, though, each row is in exactly one
 * place: so pieces are ranges of places, and all of them see what the table
 * was like when the job began.  Hence they can only read it.
 *
 * A snapshot can be had by others for as long as the transaction lasts that
 * took it.  So the agent that has made the pieces opens one more transaction
 * and keeps it until they have ended; it counts as waiting meanwhile, and the
 * pool may start another agent in its place.  What the snapshot is called is
 * in shared memory, where it dies with those who could use it.  If the agent
 * is lost, nobody can see again what the other pieces saw: those that are left
 * fail, and with them the job.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_hold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "jobs/job_row.h"
#include "jobs/job_run.h"
#include "jobs/job_spread.h"
#include "jobs/job_wait.h"
#include "jobs/jobs.h"
#include "pool/pool.h"

/* The holder looks this often, in ms, whether it is needed; a piece, for it. */
#define HOLD_LOOK_MS	100
#define PIECE_LOOK_MS	5

/* A snapshot that the agent in the place of its slot holds. */
typedef struct Hold
{
	Oid			dbid;			/* which the job is of */
	int64		job_id;			/* 0 = it holds none */
	char		snapshot[64];	/* as SET TRANSACTION SNAPSHOT takes it */
} Hold;

typedef struct HoldShared
{
	slock_t		mutex;			/* protects everything */
	Hold		holds[SABOT_MAX_SLOTS];
} HoldShared;

static HoldShared *shared = NULL;

/*
 * sabot_hold_shmem_size - bytes of shared memory the snapshots need
 */
Size
sabot_hold_shmem_size(void)
{
	return MAXALIGN(sizeof(HoldShared));
}

/*
 * sabot_hold_shmem_init - create or attach to them
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_hold_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("sabot snapshots", sabot_hold_shmem_size(), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(HoldShared));
	SpinLockInit(&shared->mutex);
}

/*
 * publish - tell pieces of a job of its snapshot, or of none with job_id 0
 */
static void
publish(int64 job_id, const char *snapshot)
{
	Hold	   *hold = &shared->holds[sabot_my_slot];
	Hold		new = {.dbid = MyDatabaseId,.job_id = job_id};

	strlcpy(new.snapshot, snapshot, sizeof(new.snapshot));
	SpinLockAcquire(&shared->mutex);
	*hold = new;
	SpinLockRelease(&shared->mutex);
}

/*
 * is_over - whether the holder of a job's snapshot is not needed anymore
 *
 * Raises 57014 if it is to go all the same, 53000 if it is in the way of all
 * pieces.  Who pauses the job does that himself, unless he could not see the
 * pieces yet: then the request is left, and a prober sees to it.  *paused tells
 * that one was sent for.
 */
static bool
is_over(Relation rel, int64 job_id, bool *paused)
{
	SabotInterrupt interrupt = sabot_agent_interrupted();

	if (interrupt == SABOT_INTERRUPT_PAUSE && !*paused)
	{
		*paused = true;
		sabot_pool_request_probe(MyDatabaseId);
	}

	if (sabot_row_children(rel, job_id) == SABOT_ROW_GONE ||
		interrupt == SABOT_INTERRUPT_CANCEL)
		return true;
	if (interrupt != SABOT_INTERRUPT_NONE &&
		interrupt != SABOT_INTERRUPT_PAUSE)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to user request")));
	if (sabot_pool_wait_is_hopeless())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no agent is left for the pieces of job " INT64_FORMAT,
						job_id),
				 errhint("Raise max_worker_processes.")));
	return false;
}

/*
 * wait_for_pieces - wait until a job has no pieces left
 */
static void
wait_for_pieces(int64 job_id)
{
	Relation	rel = table_open(sabot_catalog(false)->job, AccessShareLock);
	bool		paused = false;

	sabot_waiter_begin(job_id);
	PG_TRY();
	{
		while (!is_over(rel, job_id, &paused))
		{
			CHECK_FOR_INTERRUPTS();
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 HOLD_LOOK_MS, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
	}
	PG_FINALLY();
	{
		sabot_waiter_end();
		publish(0, "");
	}
	PG_END_TRY();
	table_close(rel, AccessShareLock);
}

/*
 * sabot_hold_snapshot - hold a snapshot for the pieces of a job until they have
 * ended, or the job is canceled
 *
 * In an agent that has the job as its work, in no transaction.  The table is
 * not rewritten meanwhile.
 */
void
sabot_hold_snapshot(int64 job_id, Oid relation)
{
	/* Who pauses the job wants it to go on later. */
	sabot_agent_accept_interrupts(false);
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	(void) find_all_inheritors(relation, AccessShareLock, NULL);
	PushActiveSnapshot(GetTransactionSnapshot());
	publish(job_id, ExportSnapshot(GetActiveSnapshot()));
	PopActiveSnapshot();
	wait_for_pieces(job_id);
	CommitTransactionCommand();
}

/*
 * find_snapshot - what the snapshot of a job is called; false if nobody holds
 * one
 */
static bool
find_snapshot(int64 job_id, char *snapshot)
{
	bool		found = false;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < SABOT_MAX_SLOTS && !found; i++)
	{
		found = shared->holds[i].job_id == job_id &&
			shared->holds[i].dbid == MyDatabaseId;
		if (found)
			memcpy(snapshot, shared->holds[i].snapshot, sizeof(shared->holds[i].snapshot));
	}
	SpinLockRelease(&shared->mutex);
	return found;
}

/*
 * raise_lost - raise 55000: nobody holds the snapshot of a job
 */
pg_noreturn static void
raise_lost(int64 job_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the snapshot that the pieces of job " INT64_FORMAT " read was lost",
					job_id),
			 errdetail("The table has no key, so a piece cannot be run under another one."),
			 errhint("Submit the command again for the rows of the pieces that are not completed, or give the table a primary key.")));
}

/*
 * import - import a snapshot, whose holder may have gone this moment
 */
static void
import(int64 job_id, const char *snapshot)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		ImportSnapshot(snapshot);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		raise_lost(job_id);
	}
	PG_END_TRY();
}

/*
 * sabot_hold_import - have the transaction that has just begun see what all
 * pieces of a job see
 *
 * Waits for the holder, which may be about to begin.  Raises 55000 if there is
 * none.
 */
void
sabot_hold_import(int64 job_id)
{
	char		snapshot[sizeof(((Hold *) 0)->snapshot)];
	SabotSlot	holder;

	XactIsoLevel = XACT_REPEATABLE_READ;
	while (!find_snapshot(job_id, snapshot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!sabot_pool_find_work(MyDatabaseId, job_id, &holder) ||
			holder.state == SABOT_SLOT_LOST)
			raise_lost(job_id);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PIECE_LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	import(job_id, snapshot);
}

/*
 * compare_place - "ctid OPERATOR bound"
 */
static Node *
compare_place(Index rti, Oid operator, const char *bound)
{
	BlockNumber block = (BlockNumber) strtoul(bound, NULL, 10);
	ItemPointer place = palloc(sizeof(ItemPointerData));
	OpExpr	   *result;

	ItemPointerSet(place, block, 0);
	result = (OpExpr *)
		make_opclause(operator, BOOLOID, false,
					  (Expr *) makeVar(rti, SelfItemPointerAttributeNumber,
									   TIDOID, -1, InvalidOid, 0),
					  (Expr *) makeConst(TIDOID, -1, InvalidOid,
										 sizeof(ItemPointerData),
										 PointerGetDatum(place), false, false),
					  InvalidOid, InvalidOid);
	set_opfuncid(result);
	return (Node *) result;
}

/*
 * sabot_place_qual - the condition for the rows of a piece of a table without a
 * key, whose bounds are numbers of blocks; NULL if all rows are
 */
Node *
sabot_place_qual(Index rti, const SabotPiece *piece)
{
	Node	   *result = NULL;

	if (piece->low != NULL)
		result = compare_place(rti, TIDGreaterEqOperator, piece->low[0]);
	if (piece->high != NULL)
		result = make_and_qual(result,
							   compare_place(rti, TIDLessOperator,
											 piece->high[0]));
	return result;
}
