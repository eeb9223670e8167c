/*-------------------------------------------------------------------------
 *
 * pool_pair.c
 *		The (database, role) pairs of the pool: for whom work waits, and whose
 *		turn it is.
 *
 * An agent serves one pair for its whole life, so scheduling is deciding for
 * which pair to start the next one and which idle one gives way for it.  The
 * decision is made from the state as it is (work waiting, agents there), not
 * from events: a wake that came at a bad moment is seen at the next look.
 * Pairs without an agent are served in the order in which they last got one,
 * which is round-robin.
 *
 * IDENTIFICATION
 *		src/pool/pool_pair.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/* Agents that one call wakes at most; more are woken by the launcher. */
#define WAKE_MAX 64

HTAB	   *sabot_pairs = NULL;

/* What there is of a pair's agents, counted from the slots. */
typedef struct PairAgents
{
	int			all;			/* that will not leave by themselves */
	int			available;		/* of these, idle or starting */
	int			waiting;		/* of these, whose work waits for other work */
	int			stopping;		/* on their way out */
} PairAgents;

/*
 * sabot_pair_shmem_size - bytes of shared memory the pairs need
 */
Size
sabot_pair_shmem_size(void)
{
	return hash_estimate_size(SABOT_MAX_PAIRS, sizeof(SabotPair));
}

/*
 * sabot_pair_shmem_init - create or attach to the pairs
 *
 * All entries are allocated here, so that entering one later cannot fail
 * otherwise than by the table being full.
 */
void
sabot_pair_shmem_init(void)
{
	HASHCTL		info;

	info.keysize = sizeof(SabotPairKey);
	info.entrysize = sizeof(SabotPair);
	sabot_pairs = ShmemInitHash("sabot pairs", SABOT_MAX_PAIRS,
								SABOT_MAX_PAIRS, &info,
								HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

/*
 * find_pair_locked - the entry of a pair, or NULL
 */
static SabotPair *
find_pair_locked(Oid dbid, Oid roleid)
{
	SabotPairKey key = {dbid, roleid};

	return hash_search(sabot_pairs, &key, HASH_FIND, NULL);
}

/*
 * count_agents_locked - count the agents of a pair
 */
static PairAgents
count_agents_locked(const SabotPairKey *key)
{
	PairAgents	count = {0};

	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->dbid != key->dbid || slot->roleid != key->roleid ||
			slot->state == SABOT_SLOT_FREE || slot->state == SABOT_SLOT_LOST)
			continue;
		if (slot->stop)
			count.stopping++;
		else
			count.all++;
		count.waiting += !slot->stop && slot->waiting;
		if (!slot->stop && (slot->state == SABOT_SLOT_IDLE ||
							slot->state == SABOT_SLOT_STARTING))
			count.available++;
	}
	return count;
}

/*
 * pair_is_dead_locked - true if nothing would be lost by forgetting a pair
 */
static bool
pair_is_dead_locked(SabotPair *pair)
{
	PairAgents	agents;

	if (pair->demand > 0 || pair->next_due != 0 || pair->wanted > 0 ||
		pair->keep > 0 || pair->failures > 0 || pair->held)
		return false;
	agents = count_agents_locked(&pair->key);
	return agents.all + agents.stopping == 0;
}

/*
 * forget_dead_pairs_locked - make room in the table of pairs
 */
static void
forget_dead_pairs_locked(void)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;

	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
		if (pair_is_dead_locked(pair))
			hash_search(sabot_pairs, &pair->key, HASH_REMOVE, NULL);
}

/*
 * enter_pair_locked - the entry of a pair, made if need be; NULL if full
 */
static SabotPair *
enter_pair_locked(Oid dbid, Oid roleid)
{
	SabotPairKey key = {dbid, roleid};
	SabotPair  *pair;
	bool		found;

	pair = hash_search(sabot_pairs, &key, HASH_ENTER_NULL, &found);
	if (pair == NULL)
	{
		forget_dead_pairs_locked();
		pair = hash_search(sabot_pairs, &key, HASH_ENTER_NULL, &found);
	}
	if (pair != NULL && !found)
	{
		memset(pair, 0, sizeof(*pair));
		pair->key = key;
	}
	return pair;
}

/*
 * announce_locked - the latch of an idle agent of a pair that is told of a
 * commit to come, or NULL
 *
 * Waking up takes about as long as the commit's write to disk, so it begins
 * before; see pool_agent.c.
 */
static Latch *
announce_locked(Oid dbid, Oid roleid)
{
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state != SABOT_SLOT_IDLE || slot->signaled ||
			slot->announced || slot->dbid != dbid || slot->roleid != roleid)
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
sabot_pool_prepare_pair(Oid dbid, Oid roleid, bool announce)
{
	Latch	   *latch = NULL;
	bool		ok;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	ok = enter_pair_locked(dbid, roleid) != NULL;
	if (ok && announce)
		latch = announce_locked(dbid, roleid);
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
signal_idle_locked(Oid dbid, Oid roleid, int n, Latch **latches)
{
	int			chosen = 0;

	for (int i = 0; i < sabot_pool->nslots && chosen < n; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->signaled || slot->dbid != dbid || slot->roleid != roleid)
			continue;
		slot->signaled = true;
		if (slot->state == SABOT_SLOT_IDLE)
			latches[chosen++] = slot->latch;
	}
	return chosen;
}

/*
 * wake_now_locked - wake idle agents of a pair, as many as have a place here
 */
static void
wake_now_locked(SabotPair *pair)
{
	Latch	   *latches[WAKE_MAX];
	int			n = signal_idle_locked(pair->key.dbid, pair->key.roleid,
									   WAKE_MAX, latches);

	for (int i = 0; i < n; i++)
		SetLatch(latches[i]);
}

/*
 * wake_pair_locked - note work of a pair and choose the agents to be woken
 *
 * Returns how many, with their latches in latches, at most WAKE_MAX.
 */
static int
wake_pair_locked(SabotPair *pair, int64 nunits, TimestampTz next_due,
				 Latch **latches)
{
	int64		wanted = nunits + (next_due != 0);
	int			chosen;

	pair->demand += nunits;
	pair->wake_seq++;
	chosen = signal_idle_locked(pair->key.dbid, pair->key.roleid,
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
sabot_pool_wake(Oid dbid, Oid roleid, int64 nunits, TimestampTz next_due)
{
	Latch	   *latches[WAKE_MAX];
	int			nlatches = 0;
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = find_pair_locked(dbid, roleid);
	if (pair != NULL)
		nlatches = wake_pair_locked(pair, nunits, next_due, latches);
	else
	{
		sabot_pool->sweep = true;
		sabot_pool_wake_launcher_locked();
	}
	LWLockRelease(sabot_pool->lock);

	/* Latches of processes that have gone meanwhile do no harm. */
	for (int i = 0; i < nlatches; i++)
		SetLatch(latches[i]);
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
	{
		if (pair->key.dbid != dbid)
			continue;
		pair->wake_seq++;
		if (pair->held)
			pair->demand = Max(pair->demand, 1);
		pair->held = false;
		wake_now_locked(pair);
	}
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_wake_seq - counts the wakes of a pair, see sabot_pool_no_work()
 */
uint64
sabot_pool_wake_seq(Oid dbid, Oid roleid)
{
	SabotPair  *pair;
	uint64		seq;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	pair = find_pair_locked(dbid, roleid);
	seq = pair ? pair->wake_seq : 0;
	LWLockRelease(sabot_pool->lock);
	return seq;
}

/*
 * sabot_pool_took_work - one unit of a pair's work waits no longer
 */
void
sabot_pool_took_work(Oid dbid, Oid roleid)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = find_pair_locked(dbid, roleid);
	if (pair && pair->demand > 0)
		pair->demand--;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_more_work - at least n units of a pair's work are there to be
 * done, whatever was said before
 */
void
sabot_pool_more_work(Oid dbid, Oid roleid, int n)
{
	SabotPair  *pair;
	int64		missing;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	pair = find_pair_locked(dbid, roleid);
	missing = pair ? n - pair->demand : 0;
	LWLockRelease(sabot_pool->lock);
	if (missing > 0)
		sabot_pool_wake(dbid, roleid, missing, 0);
}

/*
 * sabot_pool_hold - a pair has work that no agent may take now; when that has
 * changed, sabot_pool_wake_all() is to start one
 */
void
sabot_pool_hold(Oid dbid, Oid roleid)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = enter_pair_locked(dbid, roleid);
	if (pair)
		pair->held = true;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_no_work - an agent looked for work of its pair and found none
 *
 * wake_seq is what sabot_pool_wake_seq() said before it looked: if work came
 * meanwhile the pair keeps its demand.
 */
void
sabot_pool_no_work(Oid dbid, Oid roleid, uint64 wake_seq)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = find_pair_locked(dbid, roleid);
	if (pair && pair->wake_seq == wake_seq)
		pair->demand = 0;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_set_due - say when a pair's next scheduled work is due
 *
 * 0 means that there is none.
 */
void
sabot_pool_set_due(Oid dbid, Oid roleid, TimestampTz next_due)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = enter_pair_locked(dbid, roleid);
	if (pair)
		pair->next_due = next_due;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_want_agents - have up to n agents of a pair started
 */
void
sabot_pool_want_agents(Oid dbid, Oid roleid, int n)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = enter_pair_locked(dbid, roleid);
	if (pair)
	{
		pair->wanted = n;
		pair->failures = 0;
		pair->give_up = false;
		pair->retry_at = 0;
		sabot_pool_wake_launcher_locked();
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pair_set_keep - keep that many agents of a pair warm
 */
void
sabot_pair_set_keep(Oid dbid, Oid roleid, int keep)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = keep > 0 ? enter_pair_locked(dbid, roleid) :
		find_pair_locked(dbid, roleid);
	if (pair)
		pair->keep = keep;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_forgive_pair - forget that agents of a pair could not start
 *
 * Its waiting work has been dealt with.
 */
void
sabot_pool_forgive_pair(Oid dbid, Oid roleid)
{
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = find_pair_locked(dbid, roleid);
	if (pair)
	{
		pair->demand = 0;
		pair->next_due = 0;
		pair->wanted = 0;
		pair->failures = 0;
		pair->give_up = false;
		pair->retry_at = 0;
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_get_pair - copy the entry of a pair; false if there is none
 */
bool
sabot_pool_get_pair(Oid dbid, Oid roleid, SabotPair *pair)
{
	SabotPair  *found;

	if (sabot_pool == NULL)
		return false;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	found = find_pair_locked(dbid, roleid);
	if (found)
		*pair = *found;
	LWLockRelease(sabot_pool->lock);
	return found != NULL;
}

/*
 * sabot_pool_copy_pairs - copy up to maxpairs entries; returns how many
 */
int
sabot_pool_copy_pairs(SabotPair *pairs, int maxpairs)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;
	int			n = 0;

	if (sabot_pool == NULL)
		return 0;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
	{
		if (n < maxpairs)
			pairs[n++] = *pair;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pair_forget_database - forget the pairs of a database that is gone
 */
void
sabot_pair_forget_database(Oid dbid)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
		if (pair->key.dbid == dbid)
			hash_search(sabot_pairs, &pair->key, HASH_REMOVE, NULL);
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pair_databases - databases with work waiting or scheduled
 *
 * Fills up to maxdbs, each once; returns how many.
 */
int
sabot_pair_databases(Oid *dbids, int maxdbs)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;
	int			n = 0;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
	{
		bool		known = pair_is_dead_locked(pair);

		for (int i = 0; i < n && !known; i++)
			known = dbids[i] == pair->key.dbid;
		if (!known && n < maxdbs)
			dbids[n++] = pair->key.dbid;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pair_start_failed_locked - an agent of a pair could not start
 *
 * The next try waits, longer each time; after SABOT_MAX_START_FAILURES the
 * pair is given up, and a prober fails what waits for it.
 */
void
sabot_pair_start_failed_locked(const SabotPairKey *key, int sqlstate,
							   const char *message)
{
	SabotPair  *pair = find_pair_locked(key->dbid, key->roleid);
	TimestampTz now = GetCurrentTimestamp();

	if (pair == NULL)
		return;
	pair->failures++;
	pair->sqlstate = sqlstate;
	strlcpy(pair->error, message, SABOT_ERROR_LEN);
	pair->retry_at = TimestampTzPlusMilliseconds(now, 100 << (2 * Min(pair->failures - 1, 5)));
	if (pair->failures >= SABOT_MAX_START_FAILURES)
	{
		pair->give_up = true;
		pair->wanted = 0;
	}
	if (pair->failures == 1 || pair->give_up)
	{
		if (sabot_pool->nprobes < SABOT_MAX_PROBES)
			sabot_pool->probes[sabot_pool->nprobes++] = key->dbid;
		else
			sabot_pool->sweep = true;
	}
}

/*
 * sabot_pair_started_locked - an agent of a pair has connected
 *
 * keep is its sabot.keep_agents.
 */
void
sabot_pair_started_locked(const SabotPairKey *key, int keep)
{
	SabotPair  *pair = enter_pair_locked(key->dbid, key->roleid);

	sabot_pool->starts++;
	if (pair == NULL)
		return;
	pair->failures = 0;
	pair->give_up = false;
	pair->retry_at = 0;
	pair->keep = keep;
}

/*
 * is_barred_locked - true if agents are to keep out of a database
 */
static bool
is_barred_locked(Oid dbid)
{
	for (int i = 0; i < SABOT_MAX_BARS; i++)
		if (sabot_pool->bars[i].dbid == dbid)
			return true;
	return false;
}

/*
 * evict_idle_locked - ask the least recently used idle agent to give way
 *
 * Agents of the given pair are no help.  Returns false if there is none.
 */
static bool
evict_idle_locked(const SabotPairKey *for_pair)
{
	SabotSlot  *oldest = NULL;

	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state != SABOT_SLOT_IDLE || slot->signaled ||
			(slot->dbid == for_pair->dbid && slot->roleid == for_pair->roleid))
			continue;
		if (oldest == NULL || slot->since < oldest->since)
			oldest = slot;
	}
	if (oldest == NULL)
		return false;
	sabot_slot_leave_locked(oldest);
	sabot_pool->evictions++;
	return true;
}

/*
 * missing_agents_locked - how many agents a pair should have in addition
 *
 * Also makes due work count as waiting.  *next_event is lowered to when the
 * pair has to be looked at again, if it has not to be now.
 */
static int64
missing_agents_locked(SabotPair *pair, PairAgents *agents, TimestampTz now,
					  TimestampTz *next_event)
{
	int64		missing;

	if (pair->next_due != 0 && pair->next_due <= now)
	{
		/* The time stays: by it the agent knows that it has to look. */
		if (pair->demand == 0)
		{
			pair->demand = 1;
			pair->wake_seq++;
			wake_now_locked(pair);
		}
	}
	else if (pair->next_due != 0)
		*next_event = Min(*next_event, pair->next_due);

	*agents = count_agents_locked(&pair->key);
	if (agents->all >= pair->wanted)
		pair->wanted = 0;
	missing = Max(pair->demand - agents->available,
				  Max(pair->wanted, pair->keep) - agents->all);
	/* What all of them wait for may be there without a wake: one has to look. */
	if (agents->all > 0 && agents->waiting == agents->all)
		missing = Max(missing, 1);
	/* A pair that is given up, but not forgiven, is still tried at times. */
	if (missing <= 0 || is_barred_locked(pair->key.dbid))
		return 0;
	if (pair->retry_at > now)
	{
		*next_event = Min(*next_event, pair->retry_at);
		return 0;
	}
	return missing;
}

/*
 * pick_pair_locked - the pair whose turn it is to get an agent, or NULL
 *
 * Pairs without any come first, then those that waited longest for another.
 */
static SabotPair *
pick_pair_locked(PairAgents *agents, TimestampTz *next_event)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;
	SabotPair  *best = NULL;
	int			best_rank = 0;
	TimestampTz now = GetCurrentTimestamp();
	int			starved = 0;

	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
	{
		PairAgents	count;
		int			rank = 0;

		if (missing_agents_locked(pair, &count, now, next_event) <= 0)
			continue;
		/* An agent that is only to be kept is for when there is room. */
		if (pair->demand + pair->wanted > 0)
			rank = count.all == 0 ? 2 : 1;
		starved += rank == 2;
		if (best != NULL &&
			(rank < best_rank ||
			 (rank == best_rank && pair->last_start >= best->last_start)))
			continue;
		best = pair;
		best_rank = rank;
		*agents = count;
	}
	sabot_pool->starved = starved;
	return best;
}

/*
 * reserve_slot_locked - give a free slot to a pair
 *
 * Returns SABOT_NO_SLOT if there is none.
 */
static int
reserve_slot_locked(SabotPair *pair, uint64 *generation)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < Min(sabot_pool->nslots, sabot_pool->capacity); i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (slot->state != SABOT_SLOT_FREE)
			continue;
		slot->state = SABOT_SLOT_STARTING;
		slot->generation = ++sabot_pool->next_generation;
		slot->dbid = pair->key.dbid;
		slot->roleid = pair->key.roleid;
		slot->since = slot->started_at = now;
		pair->last_start = now;
		*generation = slot->generation;
		return i;
	}
	return SABOT_NO_SLOT;
}

/*
 * count_leaving_locked - agents on their way out
 */
static int
count_leaving_locked(void)
{
	int			n = 0;

	for (int i = 0; i < sabot_pool->nslots; i++)
		n += sabot_pool->slots[i].stop;
	return n;
}

/*
 * sabot_pair_schedule - the launcher's next step
 *
 * Reserves a slot for the pair whose turn it is and returns it, with the pair
 * in *key; the caller has to start its process.  Or returns SABOT_NO_SLOT:
 * then there is nothing to start before *next_event (which is only lowered)
 * or the next wake; if the pool is full and somebody has to give way, an idle
 * agent has been asked to, or busy ones will at their next boundary.
 */
int
sabot_pair_schedule(SabotPairKey *key, uint64 *generation,
					TimestampTz *next_event)
{
	SabotPair  *pair;
	PairAgents	agents = {0};
	int			slotno = SABOT_NO_SLOT;
	int			live;
	int			limit;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = pick_pair_locked(&agents, next_event);
	limit = sabot_pool_limit_locked(&live);
	if (pair != NULL && live < limit)
		slotno = reserve_slot_locked(pair, generation);
	else if (pair != NULL && pair->demand + pair->wanted > 0 &&
			 count_leaving_locked() < Max(1, sabot_pool->starved))
		evict_idle_locked(&pair->key);
	if (slotno != SABOT_NO_SLOT)
		*key = pair->key;
	LWLockRelease(sabot_pool->lock);
	return slotno;
}

/*
 * sabot_pair_must_yield_locked - whether an agent between two units of work
 * is to make room for a pair that has no agent
 *
 * Not before it has served its own pair for a slice, unless its pair has more
 * than its share of the pool; and no more agents leave than pairs wait.
 */
bool
sabot_pair_must_yield_locked(SabotSlot *slot)
{
	SabotPairKey key = {slot->dbid, slot->roleid};
	int			live;
	int			limit = sabot_pool_limit_locked(&live);

	if (live < limit || count_leaving_locked() >= sabot_pool->starved)
		return false;
	if (count_agents_locked(&key).all > Max(1, limit / (sabot_pool->starved + 1)))
		return true;
	return GetCurrentTimestamp() >=
		TimestampTzPlusMilliseconds(slot->slice_start, SABOT_SLICE_MS);
}
