/*-------------------------------------------------------------------------
 *
 * pool_wake.c
 *		Wakes agents for work that has come.
 *
 * Called after commits, where nothing may fail, and by every submitter, so it
 * has to be cheap: the agents are chosen under the pool's lock and their
 * latches set after it is released, as who is woken takes the lock at once.
 * What nobody could be woken for is the launcher's: it compares demand with
 * agents, see pool_schedule.c.
 *
 * IDENTIFICATION
 *		src/pool/pool_wake.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/latch.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

/* Agents that one call wakes at most; more are woken by the launcher. */
#define WAKE_MAX 64


/*
 * announce_locked - the latch of an idle agent of a pair that is told of a
 * commit to come, or NULL
 *
 * Waking up takes about as long as the commit's write to disk, so it begins
 * before; see pool_agent.c.
 */
static Latch *
announce_locked(SabotPairKey key)
{
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state != SABOT_SLOT_IDLE || slot->signaled ||
			slot->announced || !sabot_slot_serves(slot, &key))
			continue;
		slot->announced = true;
		return slot->latch;
	}
	return NULL;
}

/*
 * sabot_pool_prepare_pair - make sure that a later wake finds its pair
 *
 * To be called before the commit that wakes; announce tells that there is
 * work for an agent at once.  Returns false if there is no room; such work is
 * found by the probers, later.
 */
bool
sabot_pool_prepare_pair(SabotPairKey key, bool announce)
{
	Latch	   *latch = NULL;
	bool		ok;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	ok = sabot_pair_enter_locked(key) != NULL;
	if (ok && announce)
		latch = announce_locked(key);
	LWLockRelease(sabot_pool->lock);
	if (latch)
		SetLatch(latch);
	return ok;
}

/*
 * signal_idle_locked - choose up to n idle agents of a pair to be woken
 *
 * Busy ones are to look once more before they go to sleep: they may have seen
 * already that there is nothing.
 *
 * Returns how many, with their latches in latches: an agent that is woken
 * takes the lock at once, so who can sets them after releasing it.
 */
static int
signal_idle_locked(SabotPairKey key, int n, Latch **latches)
{
	int			chosen = 0;

	for (int i = 0; i < sabot_pool->nslots && chosen < n; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->signaled || slot->stop || !sabot_slot_serves(slot, &key))
			continue;
		slot->signaled = true;
		if (slot->state == SABOT_SLOT_IDLE)
			latches[chosen++] = slot->latch;
	}
	return chosen;
}

/*
 * sabot_pair_pass_on_locked - wake another agent in the place of one that was
 * woken and leaves without having looked for work
 *
 * If there is no idle one the launcher sees to it.
 */
void
sabot_pair_pass_on_locked(const SabotPairKey *key)
{
	Latch	   *latch;

	if (signal_idle_locked(*key, 1, &latch) > 0)
		SetLatch(latch);
}

/*
 * sabot_pair_wake_locked - wake the idle agents of a pair, WAKE_MAX at most
 *
 * With the lock held, unlike sabot_pool_wake(): for rare occasions.
 */
void
sabot_pair_wake_locked(SabotPair *pair)
{
	Latch	   *latches[WAKE_MAX];
	int			n = signal_idle_locked(pair->key,
									   WAKE_MAX, latches);

	for (int i = 0; i < n; i++)
		SetLatch(latches[i]);
}

/*
 * add_work_locked - note work of a pair and choose the agents to be woken
 *
 * Returns how many, with their latches in latches, at most WAKE_MAX.
 */
static int
add_work_locked(SabotPair *pair, int64 nunits, TimestampTz next_due,
				Latch **latches)
{
	int64		wanted = nunits + (next_due != 0);
	int			chosen;

	pair->demand += nunits;
	pair->wake_seq++;
	chosen = signal_idle_locked(pair->key,
								(int) Min(wanted, WAKE_MAX), latches);
	if (next_due != 0 && (pair->next_due == 0 || next_due < pair->next_due))
		pair->next_due = next_due;
	if (chosen < wanted)
		sabot_pool_wake_launcher_locked();
	return chosen;
}

/*
 * sabot_pool_wake - tell that nunits of work wait for a pair, or will be due
 *
 * next_due is when scheduled work becomes due, 0 if none was added.  Cannot
 * fail: it is called after commits.
 */
void
sabot_pool_wake(SabotPairKey key, int64 nunits, TimestampTz next_due)
{
	Latch	   *latches[WAKE_MAX];
	int			nlatches = 0;
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = sabot_pair_find_locked(key);
	if (pair != NULL)
		nlatches = add_work_locked(pair, nunits, next_due, latches);
	else
		sabot_probe_sweep_locked();
	LWLockRelease(sabot_pool->lock);

	/* Latches of processes that have gone meanwhile do no harm. */
	for (int i = 0; i < nlatches; i++)
		SetLatch(latches[i]);
}

/*
 * look_again_locked - have every agent of a pair look for work, and start one
 * if some was held back
 */
static void
look_again_locked(SabotPair *pair)
{
	pair->wake_seq++;
	if (pair->held)
		pair->demand = Max(pair->demand, 1);
	pair->held = false;
	sabot_pair_wake_locked(pair);
}

/*
 * sabot_pool_wake_all - have every agent of a database look for work
 */
void
sabot_pool_wake_all(Oid dbid)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
		if (pair->key.dbid == dbid)
			look_again_locked(pair);
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_wake_crew - have every agent of a crew look for work
 */
void
sabot_pool_wake_crew(SabotCrew crew)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
		if (pair->key.crew == (int32) crew)
			look_again_locked(pair);
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_wake_seq - counts the wakes of a pair, see sabot_pool_no_work()
 */
uint64
sabot_pool_wake_seq(SabotPairKey key)
{
	SabotPair  *pair;
	uint64		seq;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	pair = sabot_pair_find_locked(key);
	seq = pair ? pair->wake_seq : 0;
	LWLockRelease(sabot_pool->lock);
	return seq;
}
