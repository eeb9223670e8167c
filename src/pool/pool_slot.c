/*-------------------------------------------------------------------------
 *
 * pool_slot.c
 *		The slots of the pool: which agent exists and for whom, from the
 *		launcher's decision to start it to its end.
 *
 * The array of slots is the only record of who runs what.  There are no
 * heartbeats and no leases: a process that ends says so itself in its exit
 * callback, which runs after its transaction has ended, and one that cannot
 * (SIGKILL) makes the postmaster restart the server and this array with it.
 * A slot's generation tells one process from the next in the same place, so
 * that nothing meant for one can hit its successor.
 *
 * IDENTIFICATION
 *		src/pool/pool_slot.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

int			sabot_my_slot = SABOT_NO_SLOT;

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
 * sabot_slot_set_state_locked - change a slot's state and note when
 */
void
sabot_slot_set_state_locked(SabotSlot *slot, SabotSlotState state)
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
 * sabot_slot_reserve_locked - give a free slot to a pair
 *
 * Agents have the first slots, as many as may be, and the other crews the
 * rest.  Returns its number and generation, or SABOT_NO_SLOT if there is none.
 */
int
sabot_slot_reserve_locked(SabotPair *pair, uint64 *generation)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		for_agent = pair->key.crew == SABOT_AGENTS;
	int			first = for_agent ? 0 : sabot_pool->capacity;
	int			end = for_agent ? sabot_pool->capacity : sabot_pool->nslots;

	for (int i = first; i < end; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state != SABOT_SLOT_FREE)
			continue;
		slot->state = SABOT_SLOT_STARTING;
		slot->generation = ++sabot_pool->next_generation;
		slot->dbid = pair->key.dbid;
		slot->roleid = pair->key.roleid;
		slot->crew = pair->key.crew;
		slot->since = slot->started_at = now;
		pair->last_start = now;
		*generation = slot->generation;
		return i;
	}
	return SABOT_NO_SLOT;
}

/*
 * sabot_slot_leave_locked - ask an agent to leave at its next boundary
 */
void
sabot_slot_leave_locked(SabotSlot *slot)
{
	slot->stop = true;
	if (slot->state == SABOT_SLOT_IDLE)
		sabot_slot_set_state_locked(slot, SABOT_SLOT_STOPPING);
	if (slot->latch)
		SetLatch(slot->latch);
}

/*
 * awaits_process_locked - whether a slot is still reserved for a process that
 * has not come
 */
static bool
awaits_process_locked(const SabotSlot *slot, uint64 generation)
{
	return slot->state == SABOT_SLOT_STARTING &&
		slot->generation == generation && slot->pid == 0;
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
	ours = awaits_process_locked(slot, generation);
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
 * sabot_slot_started_locked - an agent has begun to serve its pair
 *
 * Not before it has looked for work: one that dies on the way there counts as
 * one that could not start, and is not replaced at once.
 */
void
sabot_slot_started_locked(SabotSlot *slot)
{
	SabotPairKey key = sabot_slot_pair(slot);

	if (slot->state != SABOT_SLOT_STARTING)
		return;
	sabot_pool->starts++;
	sabot_pair_started_locked(&key, slot->crew == SABOT_AGENTS ?
							  sabot_keep_agents : 0);
	sabot_slot_set_state_locked(slot, SABOT_SLOT_IDLE);
	slot->slice_start = slot->since;
}

/*
 * sabot_slot_set_idle - our agent has nothing to do
 *
 * With "park" it may be taken for a query from now on, until
 * sabot_slot_unpark().  Returns false, and changes nothing, if it was asked to
 * leave or woken since it last looked for work; or if it is to leave because
 * there are too many.
 */
bool
sabot_slot_set_idle(bool park)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	bool		idle;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_slot_started_locked(slot);
	idle = !slot->stop && !slot->signaled;
	if (idle && sabot_pool_is_overfull_locked(slot->crew))
	{
		slot->stop = true;
		idle = false;
	}
	if (slot->state == SABOT_SLOT_BUSY)
		sabot_slot_set_state_locked(slot, SABOT_SLOT_IDLE);
	slot->parked = park && idle;
	/* Somebody may be waiting for our place. */
	if (idle && sabot_pool->starved[slot->crew] > 0)
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
 * sabot_pool_copy_error - copy the text of an error, which may be NULL, to a
 * place of SABOT_ERROR_LEN bytes, cut between two characters if need be
 */
void
sabot_pool_copy_error(char *dest, const char *message)
{
	int			len = 0;

	if (message)
		len = pg_mbcliplen(message, strlen(message), SABOT_ERROR_LEN - 1);
	if (len > 0)
		memcpy(dest, message, len);
	dest[len] = '\0';
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

	slot->sqlstate = sqlstate;
	sabot_pool_copy_error(slot->error, message);
}

/*
 * sabot_slot_release - our agent ends; called from its exit callback
 *
 * "lost" says that its work, if it has any, was lost and not given back: the
 * slot then stays until the launcher has buried it.
 */
void
sabot_slot_release(bool lost)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	SabotPairKey key = sabot_slot_pair(slot);
	bool		pass_on;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pass_on = slot->signaled;
	if (slot->state == SABOT_SLOT_STARTING)
		sabot_pair_start_failed_locked(&key, slot->sqlstate,
									   slot->error[0] ? slot->error :
									   "agent stopped while starting");
	if (lost && slot->work_id > 0)
	{
		sabot_slot_set_state_locked(slot, SABOT_SLOT_LOST);
		slot->latch = NULL;
		slot->waiting = false;
		sabot_pool->losses++;
	}
	else
		free_slot_locked(slot);
	sabot_my_slot = SABOT_NO_SLOT;
	if (pass_on)
		sabot_pair_pass_on_locked(&key);
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
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
	if (awaits_process_locked(slot, generation))
	{
		SabotPairKey key = sabot_slot_pair(slot);

		if (no_worker)
			sabot_pool->no_worker_slot = true;
		else
			sabot_pair_start_failed_locked(&key, 0, message);
		free_slot_locked(slot);
	}
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
	result = awaits_process_locked(slot, generation);
	LWLockRelease(sabot_pool->lock);
	return result;
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
	alive = slot->generation == generation && sabot_slot_is_live(slot);
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
 * sabot_pool_stop_agents - ask all agents of a pair to leave
 *
 * Idle ones leave at once, others after their work.  Those that were wanted
 * are so no longer: the launcher may not have seen yet that they were there.
 * Returns how many were asked.
 */
int
sabot_pool_stop_agents(SabotPairKey key)
{
	int			n = 0;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pair_want_none_locked(key);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (!sabot_slot_is_live(slot) || slot->stop ||
			!sabot_slot_serves(slot, &key))
			continue;
		sabot_slot_leave_locked(slot);
		n++;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}
