/*-------------------------------------------------------------------------
 *
 * pool_query.c
 *		Agents that take part in queries of sessions.
 *
 * A session that runs a query takes agents that are parked: idle, asleep and
 * told of no job.  It never waits for one.  Taking is done here, under the
 * pool's lock, and makes the agent busy; what it is to do is the business of
 * the room above, a SabotQueryServer.  Between being taken and being handed its
 * work, which is no longer than it takes to make that up, an agent sleeps on.
 * One that wakes up finds out with sabot_slot_unpark() how it stands; from then
 * on until it is parked again nobody can take it.
 *
 * IDENTIFICATION
 *		src/pool/pool_query.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

static const SabotQueryServer *query_server = NULL;

/*
 * sabot_pool_set_query_server - register what agents do for queries
 */
void
sabot_pool_set_query_server(const SabotQueryServer *server)
{
	query_server = server;
}

/*
 * sabot_pool_query_server - what agents do for queries, or NULL
 */
const SabotQueryServer *
sabot_pool_query_server(void)
{
	return query_server;
}

/*
 * serving_queries_locked - agents of the server that take part in queries now
 */
static int
serving_queries_locked(void)
{
	int			n = 0;

	for (int i = 0; i < sabot_pool->capacity; i++)
		n += sabot_work_is_query(sabot_pool->slots[i].work_id);
	return n;
}

/*
 * sabot_pool_take_parked - take up to n parked agents of a pair for a query
 *
 * No more than max_parallel_workers take part in queries at once.  Returns how
 * many, described in taken; *there is how many agents the pair has at all.
 * Each has to be given work and woken, or given back, at once.
 */
int
sabot_pool_take_parked(SabotPairKey key, int n, SabotTaken *taken, int *there)
{
	TimestampTz now = GetCurrentTimestamp();
	int			ntaken = 0;

	*there = 0;
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	n = Min(n, max_parallel_workers - serving_queries_locked());
	for (int i = 0; i < sabot_pool->capacity; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (!sabot_slot_is_live(slot) || !sabot_slot_serves(slot, &key))
			continue;
		(*there)++;
		if (ntaken >= n || !slot->parked || slot->state != SABOT_SLOT_IDLE ||
			slot->signaled || slot->stop)
			continue;
		slot->state = SABOT_SLOT_BUSY;
		slot->since = slot->work_start = slot->slice_start = now;
		slot->work_id = SABOT_QUERY_WORK + sabot_pool->next_query++;
		slot->work_tag = 0;
		slot->handed = false;
		slot->interrupt = SABOT_INTERRUPT_NONE;
		slot->interrupt_work = 0;
		taken[ntaken].slotno = i;
		taken[ntaken].work_id = slot->work_id;
		taken[ntaken].latch = slot->latch;
		ntaken++;
	}
	LWLockRelease(sabot_pool->lock);
	return ntaken;
}

/*
 * sabot_pool_hand_over - give an agent that was taken its work
 *
 * "write" puts the work where the agent finds it, under the pool's lock.
 * Returns false, and gives it nothing, if the agent is about to exit or gone;
 * its slot may be another one's then.  Waking it, by its latch, is left to the
 * caller: it needs the lock at once, and may need our processor.
 */
bool
sabot_pool_hand_over(const SabotTaken *taken,
					 void (*write) (const SabotTaken *taken,
									const void *work),
					 const void *work)
{
	SabotSlot  *slot = &sabot_pool->slots[taken->slotno];
	bool		there;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	there = slot->work_id == taken->work_id && !slot->leaving;
	if (there)
	{
		write(taken, work);
		slot->handed = true;
	}
	LWLockRelease(sabot_pool->lock);
	return there;
}

/*
 * sabot_pool_give_back - an agent that was taken is not needed after all
 *
 * To be called only when it is certain that the agent does not begin.  If it
 * has woken up for its work already it gives itself back.
 */
void
sabot_pool_give_back(const SabotTaken *taken)
{
	SabotSlot  *slot = &sabot_pool->slots[taken->slotno];
	Latch	   *latch = NULL;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	if (slot->work_id == taken->work_id && slot->parked)
	{
		slot->work_id = 0;
		sabot_slot_set_state_locked(slot, slot->stop ? SABOT_SLOT_STOPPING :
									SABOT_SLOT_IDLE);
		if (slot->stop || slot->signaled)
			latch = slot->latch;
	}
	LWLockRelease(sabot_pool->lock);
	if (latch)
		SetLatch(latch);
}

/*
 * sabot_slot_unpark - how our agent stands when it has woken up
 *
 * Unless it is reserved nobody can take it after this.
 */
SabotParking
sabot_slot_unpark(void)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	SabotParking result;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	if (slot->work_id != 0)
		result = slot->handed ? SABOT_PARKED_TAKEN : SABOT_PARKED_RESERVED;
	else
		result = slot->signaled || slot->stop ? SABOT_PARKED_FREE :
			SABOT_PARKED_UNTOLD;
	slot->parked = result == SABOT_PARKED_RESERVED;
	LWLockRelease(sabot_pool->lock);
	return result;
}

/*
 * sabot_slot_retire - our agent exits, and cannot be handed work anymore
 *
 * Returns the id of the query it has been taken for, 0 if none.
 */
int64
sabot_slot_retire(void)
{
	SabotSlot  *slot = &sabot_pool->slots[sabot_my_slot];
	int64		work_id;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	slot->leaving = true;
	slot->parked = false;
	work_id = slot->work_id;
	LWLockRelease(sabot_pool->lock);
	return sabot_work_is_query(work_id) ? work_id : 0;
}

/*
 * sabot_pool_my_work - the id of our agent's work, 0 if none
 */
int64
sabot_pool_my_work(void)
{
	return sabot_pool->slots[sabot_my_slot].work_id;
}
