/*-------------------------------------------------------------------------
 *
 * pool_work.c
 *		The work of agents: who does what, and how it is interrupted.
 *
 * An agent writes down in its slot what it is about to do before it does it,
 * so the slots alone say what runs.  An interrupt names the work it is meant
 * for: one that comes late finds other work there and is none of its
 * business.
 *
 * IDENTIFICATION
 *		src/pool/pool_work.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

/* Of the work that our agent has ended last. */
static SabotInterrupt last_interrupt = SABOT_INTERRUPT_NONE;


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
		sabot_slot_started_locked(slot);
		if (slot->state == SABOT_SLOT_IDLE)
		{
			sabot_slot_set_state_locked(slot, SABOT_SLOT_BUSY);
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
 * sabot_pool_note_start - publish since when our agent's work goes on, if
 * others have worked on it before
 */
void
sabot_pool_note_start(TimestampTz start)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->slots[sabot_my_slot].work_start = start;
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
	last_interrupt = slot->interrupt;
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
 * sabot_pool_last_interrupt - why the work that our agent has ended last was
 * interrupted, if it was, be it in the last moment
 */
SabotInterrupt
sabot_pool_last_interrupt(void)
{
	return last_interrupt;
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
 * sabot_work_interrupt_locked - interrupt what an agent works on
 *
 * It acts on the signal only while it still has this work.
 */
void
sabot_work_interrupt_locked(SabotSlot *slot, SabotInterrupt reason)
{
	/*
	 * What its owner has asked for ends it as well as giving it back, and one
	 * that is canceled is not to be paused.
	 */
	if (slot->interrupt == SABOT_INTERRUPT_NONE ||
		(slot->interrupt != SABOT_INTERRUPT_CANCEL &&
		 reason != SABOT_INTERRUPT_GIVE_BACK))
		slot->interrupt = reason;
	slot->interrupt_work = slot->work_id;
	slot->interrupts_sent++;
	kill(slot->pid, SIGINT);
}

/*
 * sabot_pool_interrupt - interrupt the agent that works on something
 *
 * Returns false if no agent does.
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
		sabot_work_interrupt_locked(slot, reason);
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

		if (slot->state == SABOT_SLOT_FREE || slot->crew != mine->crew)
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
