/*-------------------------------------------------------------------------
 *
 * pool_shared.c
 *		The pool as a whole: its shared memory, and who looks after it.
 *
 * One block holds the slots and what belongs to none of them.  How many slots
 * there are is settled when the server starts, by max_worker_processes;
 * sabot.pool_size may change, so it only limits how many are used.
 *
 * IDENTIFICATION
 *		src/pool/pool_shared.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

SabotPool  *sabot_pool = NULL;

/*
 * pool_capacity - agents that max_worker_processes leaves room for
 */
static int
pool_capacity(void)
{
	return Max(0, Min(max_worker_processes - SABOT_SPARE_WORKERS,
					  SABOT_MAX_SLOTS - SABOT_EXTRA_SLOTS));
}

/*
 * pool_nslots - slots for agents and for workers of other crews
 */
static int
pool_nslots(void)
{
	return pool_capacity() + SABOT_EXTRA_SLOTS;
}

/*
 * sabot_pool_shmem_size - bytes of shared memory the pool needs
 *
 * max_worker_processes is final when shared memory is requested.
 */
Size
sabot_pool_shmem_size(void)
{
	Size		size;

	size = add_size(offsetof(SabotPool, slots),
					mul_size(sizeof(SabotSlot), pool_nslots()));
	return add_size(MAXALIGN(size), add_size(sabot_pair_shmem_size(),
											 sabot_probe_shmem_size()));
}

/*
 * sabot_pool_shmem_init - create or attach to the pool
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_pool_shmem_init(void)
{
	bool		found;
	int			nslots = pool_nslots();
	Size		size = offsetof(SabotPool, slots) + sizeof(SabotSlot) * nslots;

	sabot_pool = ShmemInitStruct("sabot pool", size, &found);
	if (!found)
	{
		memset(sabot_pool, 0, size);
		sabot_pool->lock = &(GetNamedLWLockTranche("sabot")[0].lock);
		sabot_pool->nslots = nslots;
		sabot_pool->capacity = pool_capacity();
		sabot_pool->sweep = true;
	}
	sabot_pair_shmem_init();
	sabot_probe_shmem_init();
}

/*
 * sabot_pool_attached - true if the pool exists, that is, sabot was preloaded
 */
bool
sabot_pool_attached(void)
{
	return sabot_pool != NULL;
}

/*
 * sabot_pool_require - raise 55000 unless the pool exists
 */
void
sabot_pool_require(void)
{
	if (sabot_pool == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sabot is not loaded"),
				 errhint("Add sabot to shared_preload_libraries and restart the server.")));
}

/*
 * sabot_pool_totals - counters of a crew, all zero without preload
 */
void
sabot_pool_totals(SabotCrew crew, SabotPoolTotals *totals)
{
	memset(totals, 0, sizeof(*totals));
	if (sabot_pool == NULL)
		return;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	totals->starts = sabot_pool->starts;
	totals->evictions = sabot_pool->evictions;
	totals->losses = sabot_pool->losses;
	totals->capacity = sabot_pool->capacity;
	totals->limit = sabot_pool_limit_locked(crew, &totals->agents);
	totals->waiting_pairs = sabot_pool->starved[crew];
	totals->waiting_since = sabot_pool->starved_since[crew];
	totals->no_worker_slot = sabot_pool->no_worker_slot;
	totals->launcher_running = sabot_pool->launcher_latch != NULL;
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->crew != crew)
			continue;
		totals->busy += slot->state == SABOT_SLOT_BUSY;
		totals->idle += slot->state == SABOT_SLOT_IDLE;
		totals->starting += slot->state == SABOT_SLOT_STARTING;
		totals->waiting += slot->waiting;
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_wake_launcher_locked - have the launcher look at the pool
 */
void
sabot_pool_wake_launcher_locked(void)
{
	if (sabot_pool->launcher_latch)
		SetLatch(sabot_pool->launcher_latch);
}

/*
 * sabot_launcher_set - make the caller the launcher, or nobody with NULL
 */
void
sabot_launcher_set(Latch *latch)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	if (latch != NULL || sabot_pool->launcher_pid == MyProcPid)
	{
		sabot_pool->launcher_latch = latch;
		sabot_pool->launcher_pid = latch ? MyProcPid : 0;
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_note_worker_slot - a background worker could be registered again
 */
void
sabot_pool_note_worker_slot(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->no_worker_slot = false;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_settings_changed - settings of roles or databases were changed
 *
 * Idle agents leave, others do before their next work: whose settings they
 * are is not worth finding out.
 */
void
sabot_pool_settings_changed(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->settings_epoch++;
	for (int i = 0; i < sabot_pool->nslots; i++)
		if (sabot_pool->slots[i].state == SABOT_SLOT_IDLE)
			SetLatch(sabot_pool->slots[i].latch);
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_settings_epoch - counts the calls of the above
 */
uint64
sabot_pool_settings_epoch(void)
{
	uint64		epoch;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	epoch = sabot_pool->settings_epoch;
	LWLockRelease(sabot_pool->lock);
	return epoch;
}
