/*-------------------------------------------------------------------------
 *
 * pool_pair.c
 *		The (database, role) pairs of the pool: for whom work waits, and how
 *		starting their agents has gone.
 *
 * Demand is a hint that is put right by looking: it is raised by who adds
 * work and set to 0 by the agent that found none, unless more has come since
 * it began to look.  An entry is made before the commit that needs it, as
 * after it nothing may fail.
 *
 * IDENTIFICATION
 *		src/pool/pool_pair.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

/*
 * After a start that failed the next try waits this long, in ms, after each
 * further one 4 times as long, up to 102 s.
 */
#define FIRST_DELAY_MS	100L

HTAB	   *sabot_pairs = NULL;

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
 * sabot_pair_find_locked - the entry of a pair, or NULL
 */
SabotPair *
sabot_pair_find_locked(SabotPairKey key)
{

	return hash_search(sabot_pairs, &key, HASH_FIND, NULL);
}

/*
 * has_agents_locked - whether a pair has agents, be they about to leave
 */
static bool
has_agents_locked(const SabotPairKey *key)
{
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (sabot_slot_is_live(slot) &&
			sabot_slot_serves(slot, key))
			return true;
	}
	return false;
}

/*
 * pair_is_dead_locked - true if nothing would be lost by forgetting a pair
 */
static bool
pair_is_dead_locked(SabotPair *pair)
{
	return pair->demand <= 0 && pair->next_due == 0 && pair->wanted <= 0 &&
		pair->keep <= 0 && pair->failures <= 0 && !pair->held &&
		!has_agents_locked(&pair->key);
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
 * sabot_pair_enter_locked - the entry of a pair, made if need be; NULL if full
 */
SabotPair *
sabot_pair_enter_locked(SabotPairKey key)
{
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
 * lock_pair - take the pool's lock and find the entry of a pair, or NULL
 *
 * The caller may change the entry, and releases the lock.
 */
static SabotPair *
lock_pair(SabotPairKey key)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	return sabot_pair_find_locked(key);
}

/*
 * lock_new_pair - as lock_pair, but make the entry if need be; NULL if there
 * is no room
 */
static SabotPair *
lock_new_pair(SabotPairKey key)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	return sabot_pair_enter_locked(key);
}

/*
 * forget_failures_locked - have agents of a pair started without back-off
 */
static void
forget_failures_locked(SabotPair *pair)
{
	pair->failures = 0;
	pair->give_up = false;
	pair->retry_at = 0;
}

/*
 * sabot_pool_took_work - one unit of a pair's work waits no longer
 */
void
sabot_pool_took_work(SabotPairKey key)
{
	SabotPair  *pair = lock_pair(key);

	if (pair && pair->demand > 0)
		pair->demand--;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_more_work - at least n units of a pair's work are there to be
 * done, whatever was said before
 */
void
sabot_pool_more_work(SabotPairKey key, int n)
{
	SabotPair  *pair;
	int64		missing;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	pair = sabot_pair_find_locked(key);
	missing = pair ? n - pair->demand : 0;
	LWLockRelease(sabot_pool->lock);
	if (missing > 0)
		sabot_pool_wake(key, missing, 0);
}

/*
 * sabot_pool_hold - a pair has work that no agent may take now; when that has
 * changed, sabot_pool_wake_all() is to start one
 */
void
sabot_pool_hold(SabotPairKey key)
{
	SabotPair  *pair = lock_new_pair(key);

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
sabot_pool_no_work(SabotPairKey key, uint64 wake_seq)
{
	SabotPair  *pair = lock_pair(key);

	if (pair && pair->wake_seq == wake_seq)
		pair->demand = 0;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_take_due - when a pair's next scheduled work is due, which the
 * pool forgets; 0 if it knows of none
 *
 * For who looks what is due, and then tells when the next is.
 */
TimestampTz
sabot_pool_take_due(SabotPairKey key)
{
	SabotPair  *pair = lock_new_pair(key);
	TimestampTz next_due = pair ? pair->next_due : 0;

	if (pair)
		pair->next_due = 0;
	LWLockRelease(sabot_pool->lock);
	return next_due;
}

/*
 * sabot_pool_note_due - a pair's scheduled work is due at a time, or earlier if
 * that is known already
 *
 * For the agent that has just looked: unlike sabot_pool_wake() it wakes nobody,
 * least of all that agent, which would look again at once and for ever.  It
 * sleeps no longer than until then; if it leaves, the launcher sees to it.
 */
void
sabot_pool_note_due(SabotPairKey key, TimestampTz due)
{
	SabotPair  *pair = lock_new_pair(key);

	if (pair && (pair->next_due == 0 || due < pair->next_due))
		pair->next_due = due;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_want_agents - have up to n agents of a pair started, as far as
 * there is room
 */
void
sabot_pool_want_agents(SabotPairKey key, int n)
{
	SabotPair  *pair = lock_new_pair(key);

	if (pair)
	{
		pair->wanted = n;
		forget_failures_locked(pair);
		sabot_pool_wake_launcher_locked();
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_want_share - have up to n agents of a pair started for queries
 *
 * They may take the places of idle agents of pairs that have more than their
 * share of the pool.
 */
void
sabot_pool_want_share(SabotPairKey key, int n)
{
	SabotPair  *pair = lock_new_pair(key);

	if (pair)
	{
		pair->wanted = Max(pair->wanted, n);
		pair->wants_share = true;
		sabot_pool_wake_launcher_locked();
	}
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pair_want_none_locked - forget what sabot_pool_want_agents() was told
 */
void
sabot_pair_want_none_locked(SabotPairKey key)
{
	SabotPair  *pair = sabot_pair_find_locked(key);

	if (pair)
		pair->wanted = 0;
}

/*
 * sabot_pool_want_no_more - whoever wanted n agents of a pair waits for them
 * no longer
 */
void
sabot_pool_want_no_more(SabotPairKey key, int n)
{
	SabotPair  *pair = lock_pair(key);

	/* Unless somebody else wants them meanwhile. */
	if (pair && pair->wanted == n)
		pair->wanted = 0;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pair_set_keep - keep that many agents of a pair warm
 */
void
sabot_pair_set_keep(SabotPairKey key, int keep)
{
	SabotPair  *pair;

	pair = keep > 0 ? lock_new_pair(key) : lock_pair(key);
	if (pair)
		pair->keep = keep;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_pool_forgive_pair - forget that agents of a pair could not start
 *
 * Its waiting work has been dealt with.  wake_seq is what
 * sabot_pool_wake_seq() said before that was looked for: if work came since,
 * returns false, and nothing has happened.
 */
bool
sabot_pool_forgive_pair(SabotPairKey key, uint64 wake_seq)
{
	SabotPair  *pair = lock_pair(key);
	bool		ok = pair == NULL || pair->wake_seq == wake_seq;

	if (pair && ok)
	{
		pair->demand = 0;
		pair->next_due = 0;
		pair->wanted = 0;
		forget_failures_locked(pair);
	}
	LWLockRelease(sabot_pool->lock);
	return ok;
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
	SabotPair  *pair = sabot_pair_find_locked(*key);
	long		delay_ms;

	if (pair == NULL)
		return;
	pair->failures++;
	pair->sqlstate = sqlstate;
	strlcpy(pair->error, message, SABOT_ERROR_LEN);
	delay_ms = FIRST_DELAY_MS << (2 * Min(pair->failures - 1, 5));
	pair->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 delay_ms);
	if (pair->failures >= SABOT_MAX_START_FAILURES)
	{
		pair->give_up = true;
		pair->wanted = 0;
	}
	if (pair->failures == 1 || pair->give_up)
		sabot_probe_request_locked(key->dbid);
}

/*
 * sabot_pair_started_locked - an agent of a pair has connected
 *
 * keep is its sabot.keep_agents.
 */
void
sabot_pair_started_locked(const SabotPairKey *key, int keep)
{
	SabotPair  *pair = sabot_pair_enter_locked(*key);

	if (pair == NULL)
		return;
	forget_failures_locked(pair);
	pair->keep = keep;
}

/*
 * sabot_pool_get_pair - copy the entry of a pair; false if there is none
 */
bool
sabot_pool_get_pair(SabotPairKey key, SabotPair *pair)
{
	SabotPair  *found;

	if (sabot_pool == NULL)
		return false;
	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	found = sabot_pair_find_locked(key);
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
