/*-------------------------------------------------------------------------
 *
 * pool_slot.c
 *		The slots of the pool: which agent exists, for whom, doing what.
 *
 * The array of slots is the only record of who runs what.  There are no
 * heartbeats and no leases: a process that ends says so itself in its exit
 * callback, which runs after its transaction has ended, and one that cannot
 * (SIGKILL) makes the postmaster restart the server and this array with it.
 * A slot's generation tells one process from the next in the same place, and
 * an interrupt names the work it is meant for, so that neither can hit a
 * successor.
 *
 * IDENTIFICATION
 *		src/pool/pool_slot.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

SabotPool  *sabot_pool = NULL;
int			sabot_my_slot = SABOT_NO_SLOT;

/*
 * pool_capacity - agents that max_worker_processes leaves room for
 */
static int
pool_capacity(void)
{
	return Max(0, Min(max_worker_processes - SABOT_SPARE_WORKERS,
					  SABOT_MAX_SLOTS));
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
					mul_size(sizeof(SabotSlot), Max(1, pool_capacity())));
	return add_size(MAXALIGN(size), sabot_pair_shmem_size());
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
	int			nslots = Max(1, pool_capacity());
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
 * sabot_pool_nslots - length of the array sabot_pool_copy_slots() fills
 */
int
sabot_pool_nslots(void)
{
	return sabot_pool ? sabot_pool->nslots : 0;
}

/*
 * sabot_pool_copy_slots - copy all slots, sabot_pool_nslots() of them
 */
void
sabot_pool_copy_slots(SabotSlot *slots)
{
	if (sabot_pool == NULL)
		return;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	memcpy(slots, sabot_pool->slots, sizeof(SabotSlot) * sabot_pool->nslots);
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_limit_locked - agents allowed now; *live is how many there are
 *
 * An agent whose work waits for other work does not count against
 * sabot.pool_size, or what it waits for might never find an agent.
 */
int
sabot_pool_limit_locked(int *live)
{
	int			waiting = 0;

	*live = 0;
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		if (sabot_pool->slots[i].state == SABOT_SLOT_FREE)
			continue;
		(*live)++;
		if (sabot_pool->slots[i].waiting)
			waiting++;
	}
	return Min(Min(sabot_pool_size, sabot_pool->capacity) + waiting,
			   sabot_pool->capacity);
}

/*
 * sabot_pool_totals - counters of the whole pool, all zero without preload
 */
void
sabot_pool_totals(SabotPoolTotals *totals)
{
	memset(totals, 0, sizeof(*totals));
	if (sabot_pool == NULL)
		return;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	totals->starts = sabot_pool->starts;
	totals->evictions = sabot_pool->evictions;
	totals->losses = sabot_pool->losses;
	totals->capacity = sabot_pool->capacity;
	totals->limit = sabot_pool_limit_locked(&totals->agents);
	totals->waiting_pairs = sabot_pool->starved;
	totals->no_worker_slot = sabot_pool->no_worker_slot;
	totals->launcher_running = sabot_pool->launcher_latch != NULL;
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

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
 * set_state_locked - change a slot's state and note when
 */
static void
set_state_locked(SabotSlot *slot, SabotSlotState state)
{
	slot->state = state;
	slot->since = GetCurrentTimestamp();
}

/*
 * free_slot_locked - make a slot that has no process anymore free
 */
static void
free_slot_locked(SabotSlot *slot)
{
	memset(slot, 0, sizeof(*slot));
	slot->state = SABOT_SLOT_FREE;
}

/*
 * sabot_slot_leave_locked - ask an agent to leave at its next boundary
 */
void
sabot_slot_leave_locked(SabotSlot *slot)
{
	slot->stop = true;
	if (slot->state == SABOT_SLOT_IDLE)
		set_state_locked(slot, SABOT_SLOT_STOPPING);
	if (slot->latch)
		SetLatch(slot->latch);
}

/*
 * sabot_slot_attach - make the calling process the agent of a slot
 *
 * The slot was reserved by the launcher.  If it has been taken from us
 * meanwhile there is nothing to do for us: exits quietly.
 */
void
sabot_slot_attach(int slotno, uint64 generation)
{
	SabotSlot  *slot = &sabot_pool->slots[slotno];
	bool		ours;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	ours = slot->state == SABOT_SLOT_STARTING &&
		slot->generation == generation && slot->pid == 0;
	if (ours)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
	}
	LWLockRelease(sabot_pool->lock);

	if (!ours)
		proc_exit(0);
	sabot_my_slot = slotno;
}

/*
 * note_started_locked - an agent has begun to serve its pair
 *
 * Not before it has looked for work: one that dies on the way there counts as
 * one that could not start, and is not replaced at once.
 */
static void
note_started_locked(SabotSlot *slot)
{
	SabotPairKey key = {slot->dbid, slot->roleid};

	if (slot->state != SABOT_SLOT_STARTING)
		return;
	sabot_pair_started_locked(&key, sabot_keep_agents);
	set_state_locked(slot, SABOT_SLOT_IDLE);
	slot->slice_start = slot->since;
}

/*
 * is_one_too_many_locked - whether the pool has more agents than it may have
 *
 * Jobs may have waited for others, or sabot.pool_size may have been lowered.
 */
static bool
is_one_too_many_locked(void)
{
	int			live;
	int			limit = sabot_pool_limit_locked(&live);

	for (int i = 0; i < sabot_pool->nslots; i++)
		live -= sabot_pool->slots[i].stop;
	return live > limit;
}

/*
 * sabot_slot_set_idle - our agent has nothing to do
 *
 * Returns false, and changes nothing, if it was asked to leave or woken since
 * it last looked for work; or if it is to leave because there are too many.
 */
bool
sabot_slot_set_idle(void)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	bool		idle;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	note_started_locked(slot);
	idle = !slot->stop && !slot->signaled;
	if (idle && is_one_too_many_locked())
	{
		slot->stop = true;
		idle = false;
	}
	if (slot->state == SABOT_SLOT_BUSY)
		set_state_locked(slot, SABOT_SLOT_IDLE);
	/* Somebody may be waiting for our place. */
	if (idle && sabot_pool->starved > 0)
		sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
	return idle;
}

/*
 * sabot_slot_look - our agent looks for work now: later wakes count anew
 */
void
sabot_slot_look(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->slots[sabot_my_slot].signaled = false;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_slot_note_memory - publish our agent's memory in use, in bytes
 */
void
sabot_slot_note_memory(int64 bytes)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->slots[sabot_my_slot].memory_bytes = bytes;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_slot_note_error - keep the error our agent dies of
 *
 * Called from an error hook: takes no lock.  Only we write the field, and
 * who reads it does so after we have gone.
 */
void
sabot_slot_note_error(int sqlstate, const char *message)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	int			len = 0;

	if (message)
		len = pg_mbcliplen(message, strlen(message), SABOT_ERROR_LEN - 1);
	slot->sqlstate = sqlstate;
	if (len > 0)
		memcpy(slot->error, message, len);
	slot->error[len] = '\0';
}

/*
 * sabot_slot_release - our agent ends; called from its exit callback
 *
 * "lost" says that its work, if it has any, was lost and not given back: the
 * slot then stays until the launcher has buried it.  Returns whether it was
 * the last agent of its pair.
 */
bool
sabot_slot_release(bool lost)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	SabotPairKey key = {slot->dbid, slot->roleid};
	bool		last = true;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *other = &sabot_pool->slots[i];

		if (i != sabot_my_slot && other->state != SABOT_SLOT_FREE &&
			other->state != SABOT_SLOT_LOST && other->pid != 0 &&
			other->dbid == key.dbid && other->roleid == key.roleid)
			last = false;
	}
	if (slot->state == SABOT_SLOT_STARTING)
		sabot_pair_start_failed_locked(&key, slot->sqlstate,
									   slot->error[0] ? slot->error :
									   "agent stopped while starting");
	if (lost && slot->work_id > 0)
	{
		set_state_locked(slot, SABOT_SLOT_LOST);
		slot->latch = NULL;
		slot->waiting = false;
		sabot_pool->losses++;
	}
	else
		free_slot_locked(slot);
	sabot_my_slot = SABOT_NO_SLOT;
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
	return last;
}

/*
 * sabot_slot_next_lost - find a slot whose work is to be buried
 */
bool
sabot_slot_next_lost(int *slotno, SabotSlot *slot)
{
	bool		found = false;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	for (int i = 0; i < sabot_pool->nslots && !found; i++)
	{
		if (sabot_pool->slots[i].state != SABOT_SLOT_LOST)
			continue;
		*slotno = i;
		*slot = sabot_pool->slots[i];
		found = true;
	}
	LWLockRelease(sabot_pool->lock);
	return found;
}

/*
 * sabot_slot_bury - free a slot in state LOST
 */
void
sabot_slot_bury(int slotno)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	Assert(sabot_pool->slots[slotno].state == SABOT_SLOT_LOST);
	free_slot_locked(&sabot_pool->slots[slotno]);
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_slot_start_failed - a reserved slot will get no process
 *
 * "no_worker" tells that there was no background worker slot: the pair is not
 * to blame then.  Nothing happens if a process has attached meanwhile.
 */
void
sabot_slot_start_failed(int slotno, uint64 generation, bool no_worker,
						const char *message)
{
	SabotSlot  *slot = &sabot_pool->slots[slotno];

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	if (slot->state == SABOT_SLOT_STARTING &&
		slot->generation == generation && slot->pid == 0)
	{
		SabotPairKey key = {slot->dbid, slot->roleid};

		if (no_worker)
			sabot_pool->no_worker_slot = true;
		else
			sabot_pair_start_failed_locked(&key, 0, message);
		free_slot_locked(slot);
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
 * sabot_slot_is_starting - true while a reserved slot waits for its process
 */
bool
sabot_slot_is_starting(int slotno, uint64 generation)
{
	SabotSlot  *slot = &sabot_pool->slots[slotno];
	bool		result;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	result = slot->state == SABOT_SLOT_STARTING &&
		slot->generation == generation && slot->pid == 0;
	LWLockRelease(sabot_pool->lock);
	return result;
}

/*
 * sabot_pool_begin_work - our agent begins a unit of work
 *
 * Returns false if another agent of the database has the same work already;
 * that can be when an id was handed out twice, and is no error.
 */
bool
sabot_pool_begin_work(int64 work_id, uint64 work_tag)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	TimestampTz now = GetCurrentTimestamp();
	bool		taken = false;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sabot_pool->nslots && !taken; i++)
	{
		taken = sabot_pool->slots[i].work_id == work_id &&
			sabot_pool->slots[i].dbid == slot->dbid;
		if (taken)
			sabot_pool->slots[i].again = true;
	}
	if (!taken)
	{
		note_started_locked(slot);
		if (slot->state == SABOT_SLOT_IDLE)
		{
			set_state_locked(slot, SABOT_SLOT_BUSY);
			slot->slice_start = now;
		}
		slot->work_id = work_id;
		slot->again = false;
		slot->work_tag = work_tag;
		slot->work_attempt = 0;
		slot->work_start = now;
		slot->interrupt = SABOT_INTERRUPT_NONE;
		slot->interrupt_work = 0;
	}
	LWLockRelease(sabot_pool->lock);
	return !taken;
}

/*
 * sabot_pool_note_attempt - publish which attempt of its work our agent makes
 */
void
sabot_pool_note_attempt(int32 attempt)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->slots[sabot_my_slot].work_attempt = attempt;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_end_work - our agent's unit of work has ended, however it did
 *
 * Returns whether another agent was refused it meanwhile, and may have been
 * right: it can have become ready again before it ended here.
 */
bool
sabot_pool_end_work(void)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	bool		again;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	again = slot->again;
	if (slot->work_id > 0)
		slot->jobs_done++;
	else if (slot->work_id < 0)
		slot->queries_done++;
	slot->work_id = 0;
	slot->again = false;
	slot->work_tag = 0;
	slot->interrupt = SABOT_INTERRUPT_NONE;
	slot->interrupt_work = 0;
	LWLockRelease(sabot_pool->lock);
	return again;
}

/*
 * sabot_pool_running_with_tag - how many agents of a database work on a tag
 */
int
sabot_pool_running_with_tag(Oid dbid, uint64 work_tag)
{
	int			n = 0;

	if (sabot_pool == NULL)
		return 0;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	for (int i = 0; i < sabot_pool->nslots; i++)
		n += sabot_pool->slots[i].work_id != 0 &&
			sabot_pool->slots[i].dbid == dbid &&
			sabot_pool->slots[i].work_tag == work_tag;
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pool_is_alive - whether a process still has its slot
 */
bool
sabot_pool_is_alive(int slotno, uint64 generation)
{
	SabotSlot  *slot = &sabot_pool->slots[slotno];
	bool		alive;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	alive = slot->generation == generation &&
		slot->state != SABOT_SLOT_FREE && slot->state != SABOT_SLOT_LOST;
	LWLockRelease(sabot_pool->lock);
	return alive;
}

/*
 * sabot_pool_generation - the generation of a slot's process
 */
uint64
sabot_pool_generation(int slotno)
{
	uint64		generation;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	generation = sabot_pool->slots[slotno].generation;
	LWLockRelease(sabot_pool->lock);
	return generation;
}

/*
 * find_work_locked - the slot working on something, or NULL
 */
static SabotSlot *
find_work_locked(Oid dbid, int64 work_id)
{
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->work_id == work_id && slot->dbid == dbid)
			return slot;
	}
	return NULL;
}

/*
 * sabot_pool_find_work - copy the slot that works on something
 *
 * Returns false if no agent does.
 */
bool
sabot_pool_find_work(Oid dbid, int64 work_id, SabotSlot *slot)
{
	SabotSlot  *found;

	if (sabot_pool == NULL || work_id == 0)
		return false;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	found = find_work_locked(dbid, work_id);
	if (found)
		*slot = *found;
	LWLockRelease(sabot_pool->lock);
	return found != NULL;
}

/*
 * sabot_pool_interrupt - interrupt the agent that works on something
 *
 * Returns false if no agent does.  The agent acts on the signal only while it
 * still has this work.
 */
bool
sabot_pool_interrupt(Oid dbid, int64 work_id, SabotInterrupt reason)
{
	SabotSlot  *slot;

	if (sabot_pool == NULL || work_id == 0)
		return false;
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	slot = find_work_locked(dbid, work_id);
	if (slot && slot->state != SABOT_SLOT_LOST)
	{
		slot->interrupt = reason;
		slot->interrupt_work = work_id;
		slot->interrupts_sent++;
		kill(slot->pid, SIGINT);
	}
	LWLockRelease(sabot_pool->lock);
	return slot != NULL;
}

/*
 * sabot_pool_begin_wait - our agent's work waits for other work
 *
 * The launcher may start one agent more than sabot.pool_size meanwhile.
 */
void
sabot_pool_begin_wait(int64 waits_for)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	slot->waiting = true;
	slot->waits_for = waits_for;
	slot->waiting_since = now;
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_end_wait - our agent's work goes on
 */
void
sabot_pool_end_wait(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->slots[sabot_my_slot].waiting = false;
	sabot_pool->slots[sabot_my_slot].waits_for = 0;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_wait_is_hopeless - true if every agent waits, none can be added,
 * and ours was the last to begin
 */
bool
sabot_pool_wait_is_hopeless(void)
{
	SabotSlot  *mine = &sabot_pool->slots[sabot_my_slot];
	bool		hopeless;
	int			live = 0;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	hopeless = mine->waiting;
	for (int i = 0; i < sabot_pool->nslots && hopeless; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state == SABOT_SLOT_FREE)
			continue;
		live++;
		if (!slot->waiting || slot->waiting_since > mine->waiting_since)
			hopeless = false;
	}
	if (live < sabot_pool->capacity && !sabot_pool->no_worker_slot)
		hopeless = false;
	LWLockRelease(sabot_pool->lock);
	return hopeless;
}

/*
 * sabot_pool_stop_agents - ask all agents of a pair to leave
 *
 * Idle ones leave at once, others after their work.  Returns how many.
 */
int
sabot_pool_stop_agents(Oid dbid, Oid roleid)
{
	int			n = 0;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state == SABOT_SLOT_FREE || slot->state == SABOT_SLOT_LOST ||
			slot->stop || slot->dbid != dbid || slot->roleid != roleid)
			continue;
		sabot_slot_leave_locked(slot);
		n++;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pool_agents_in - other agents of a database, without busy ones unless
 * busy_too
 */
int
sabot_pool_agents_in(Oid dbid, bool busy_too)
{
	int			n = 0;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->dbid != dbid || slot->state == SABOT_SLOT_FREE ||
			slot->state == SABOT_SLOT_LOST || slot->pid == MyProcPid)
			continue;
		if (busy_too || slot->work_id == 0)
			n++;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pool_bar - keep agents out of a database until sabot_pool_unbar()
 *
 * Asks those that are there to leave; with interrupt_busy, running work is
 * given back, else it goes on.  Returns false if there are too many bars
 * already, and then nothing has happened.
 */
bool
sabot_pool_bar(Oid dbid, bool interrupt_busy)
{
	SabotBar   *bar = NULL;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_BARS && bar == NULL; i++)
		if (!OidIsValid(sabot_pool->bars[i].dbid))
			bar = &sabot_pool->bars[i];
	if (bar)
	{
		bar->dbid = dbid;
		bar->pid = MyProcPid;
		for (int i = 0; i < sabot_pool->nslots; i++)
		{
			SabotSlot  *slot = &sabot_pool->slots[i];

			if (slot->dbid != dbid || slot->state == SABOT_SLOT_FREE ||
				slot->state == SABOT_SLOT_LOST || slot->pid == MyProcPid)
				continue;
			sabot_slot_leave_locked(slot);
			if (!interrupt_busy || slot->work_id == 0)
				continue;
			slot->interrupt = SABOT_INTERRUPT_GIVE_BACK;
			slot->interrupt_work = slot->work_id;
			slot->interrupts_sent++;
			kill(slot->pid, SIGINT);
		}
	}
	LWLockRelease(sabot_pool->lock);
	return bar != NULL;
}

/*
 * sabot_pool_unbar - lift every bar of this session
 */
void
sabot_pool_unbar(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_BARS; i++)
		if (sabot_pool->bars[i].pid == MyProcPid)
			memset(&sabot_pool->bars[i], 0, sizeof(SabotBar));
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_request_probe - have a prober look at a database soon
 */
void
sabot_pool_request_probe(Oid dbid)
{
	bool		known = false;

	if (sabot_pool == NULL)
		return;
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sabot_pool->nprobes && !known; i++)
		known = sabot_pool->probes[i] == dbid;
	if (!known && sabot_pool->nprobes < SABOT_MAX_PROBES)
		sabot_pool->probes[sabot_pool->nprobes++] = dbid;
	else if (!known)
		sabot_pool->sweep = true;
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_take_probe - the launcher takes a database to probe
 *
 * Returns InvalidOid if none is asked for; *sweep tells that all are.
 */
Oid
sabot_pool_take_probe(bool *sweep)
{
	Oid			dbid = InvalidOid;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	*sweep = sabot_pool->sweep;
	sabot_pool->sweep = false;
	if (sabot_pool->nprobes > 0)
		dbid = sabot_pool->probes[--sabot_pool->nprobes];
	LWLockRelease(sabot_pool->lock);
	return dbid;
}

/*
 * sabot_probe_begin - the launcher starts its n-th prober
 */
void
sabot_probe_begin(int n, Oid dbid)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->probing[n] = dbid;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_done - the calling prober has done all there was to do
 */
void
sabot_probe_done(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
		if (sabot_pool->probing[i] == MyDatabaseId)
			sabot_pool->probing[i] = InvalidOid;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_failed - whether the n-th prober, which has ended, did not get
 * to its end
 */
bool
sabot_probe_failed(int n)
{
	bool		failed;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	failed = OidIsValid(sabot_pool->probing[n]);
	sabot_pool->probing[n] = InvalidOid;
	LWLockRelease(sabot_pool->lock);
	return failed;
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

/*
 * sabot_agent_must_leave - whether our agent is to exit now, between two
 * units of work: it was asked to, or another pair's turn has come
 */
bool
sabot_agent_must_leave(void)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	bool		leave;

	/* Unlocked: a change that we miss now is seen at the next boundary. */
	if (!slot->stop && sabot_pool->starved == 0)
		return false;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	leave = slot->stop;
	/* One that has just come works first, or nobody ever would. */
	if (!leave && slot->state != SABOT_SLOT_STARTING &&
		sabot_pair_must_yield_locked(slot))
	{
		leave = true;
		sabot_pool->evictions++;
	}
	if (leave)
	{
		slot->stop = true;
		set_state_locked(slot, SABOT_SLOT_STOPPING);
	}
	LWLockRelease(sabot_pool->lock);
	return leave;
}
