/*-------------------------------------------------------------------------
 *
 * pool_schedule.c
 *		Whose turn it is: which pair gets the next agent, and who gives way.
 *
 * An agent serves one pair for its whole life, so scheduling is deciding for
 * which pair to start the next one and which idle one gives way for it.  The
 * decision is made from the state as it is (work waiting, agents there), not
 * from events: a wake that came at a bad moment is seen at the next look.
 * Pairs without an agent are served in the order in which they last got one,
 * which is round-robin.
 *
 * IDENTIFICATION
 *		src/pool/pool_schedule.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/* What there is of a pair's agents, counted from the slots. */
typedef struct PairAgents
{
	int			all;			/* that will not leave by themselves */
	int			available;		/* of these, idle or starting */
	int			waiting;		/* of these, whose work waits for other work */
	bool		urgent;			/* there is work that none of them can take */
} PairAgents;

/*
 * sabot_pool_limit_locked - workers of a crew allowed now; *live is how many
 * there are
 *
 * One whose work waits for other work does not count against the setting, or
 * what it waits for might never find an agent.
 */
int
sabot_pool_limit_locked(SabotCrew crew, int *live)
{
	const SabotWorkSource *source = sabot_agent_source(crew);
	int			capacity = crew == SABOT_AGENTS ? sabot_pool->capacity :
	sabot_pool->nslots - sabot_pool->capacity;
	int			waiting = 0;

	*live = 0;
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		if (sabot_pool->slots[i].state == SABOT_SLOT_FREE ||
			sabot_pool->slots[i].crew != crew)
			continue;
		(*live)++;
		if (sabot_pool->slots[i].waiting)
			waiting++;
	}
	return Min(Min(*source->limit, capacity) + waiting, capacity);
}

/*
 * count_leaving_locked - workers of a crew on their way out
 */
static int
count_leaving_locked(SabotCrew crew)
{
	int			n = 0;

	for (int i = 0; i < sabot_pool->nslots; i++)
		n += sabot_pool->slots[i].stop && sabot_pool->slots[i].crew == crew;
	return n;
}

/*
 * sabot_pool_is_overfull_locked - whether more agents mean to stay than may
 *
 * Jobs may have waited for others, or sabot.pool_size may have been lowered.
 */
bool
sabot_pool_is_overfull_locked(SabotCrew crew)
{
	int			live;
	int			limit = sabot_pool_limit_locked(crew, &live);

	return live - count_leaving_locked(crew) > limit;
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

		if (!sabot_slot_is_live(slot) || slot->stop ||
			!sabot_slot_serves(slot, key))
			continue;
		count.all++;
		count.waiting += slot->waiting;
		count.available += slot->state == SABOT_SLOT_IDLE ||
			slot->state == SABOT_SLOT_STARTING;
	}
	return count;
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
			slot->crew != (SabotCrew) for_pair->crew ||
			sabot_slot_serves(slot, for_pair))
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
 * share_locked - how many agents of the pool are the due of each pair that has
 * any, or is to have some
 */
static int
share_locked(const SabotPair *newcomer, int limit)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;
	int			npairs = 0;

	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
		npairs += pair == newcomer ||
			(pair->key.crew == newcomer->key.crew &&
			 count_agents_locked(&pair->key).all > 0);
	return Max(1, limit / Max(1, npairs));
}

/*
 * evict_surplus_locked - ask an idle agent of a pair with more than its share
 * to give way for one with less
 *
 * For queries, which get on without agents.
 */
static void
evict_surplus_locked(SabotPair *pair, int limit)
{
	int			share = share_locked(pair, limit);
	SabotSlot  *oldest = NULL;

	if (count_agents_locked(&pair->key).all >= share)
		return;
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];
		SabotPairKey key = sabot_slot_pair(slot);
		SabotPair  *other;

		if (slot->state != SABOT_SLOT_IDLE || slot->signaled ||
			slot->crew != (SabotCrew) pair->key.crew ||
			(oldest != NULL && slot->since >= oldest->since))
			continue;
		other = sabot_pair_find_locked(key);
		if (count_agents_locked(&key).all > Max(share, other ? other->keep : 0))
			oldest = slot;
	}
	if (oldest == NULL)
		return;
	sabot_slot_leave_locked(oldest);
	sabot_pool->evictions++;
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
			sabot_pair_wake_locked(pair);
		}
	}
	else if (pair->next_due != 0)
		*next_event = Min(*next_event, pair->next_due);

	*agents = count_agents_locked(&pair->key);
	if (agents->all >= pair->wanted)
	{
		pair->wanted = 0;
		pair->wants_share = false;
	}
	agents->urgent = pair->demand > agents->available;
	missing = Max(pair->demand - agents->available,
				  Max(pair->wanted, pair->keep) - agents->all);
	/* What all of them wait for may be there without a wake: one has to look. */
	if (agents->all > 0 && agents->waiting == agents->all)
		missing = Max(missing, 1);
	/* A pair that is given up, but not forgiven, is still tried at times. */
	if (missing <= 0 || sabot_pool_is_barred_locked(pair->key.dbid))
		return 0;
	if (pair->retry_at > now)
	{
		*next_event = Min(*next_event, pair->retry_at);
		return 0;
	}
	return missing;
}

/*
 * note_waiting_locked - note whether a pair has work and no agent to be had
 */
static void
note_waiting_locked(SabotPair *pair, bool waits, TimestampTz now)
{
	TimestampTz *since = &sabot_pool->starved_since[pair->key.crew];

	if (!waits)
	{
		pair->waiting_since = 0;
		return;
	}
	if (pair->waiting_since == 0)
		pair->waiting_since = now;
	if (*since == 0 || pair->waiting_since < *since)
		*since = pair->waiting_since;
}

/*
 * pick_pair_locked - the pair whose turn it is to get an agent of a crew, or
 * NULL
 *
 * Pairs without any come first, then those that waited longest for another,
 * then those whose agents are to be warm before there is work.  *urgent tells
 * that it is not one of the last.
 */
static SabotPair *
pick_pair_locked(SabotCrew crew, TimestampTz *next_event, bool *urgent)
{
	HASH_SEQ_STATUS scan;
	SabotPair  *pair;
	SabotPair  *best = NULL;
	int			best_rank = 0;
	TimestampTz now = GetCurrentTimestamp();
	int			starved = 0;

	sabot_pool->starved_since[crew] = 0;
	hash_seq_init(&scan, sabot_pairs);
	while ((pair = hash_seq_search(&scan)) != NULL)
	{
		PairAgents	count;
		int64		missing;
		int			rank = 0;

		if (pair->key.crew != (int32) crew)
			continue;
		missing = missing_agents_locked(pair, &count, now, next_event);
		/* An agent for which there is no work is for when there is room. */
		if (missing > 0 && count.urgent)
			rank = count.all == 0 ? 2 : 1;
		starved += rank == 2;
		note_waiting_locked(pair, rank == 2, now);
		if (missing <= 0)
			continue;
		if (best != NULL &&
			(rank < best_rank ||
			 (rank == best_rank && pair->last_start >= best->last_start)))
			continue;
		best = pair;
		best_rank = rank;
	}
	sabot_pool->starved[crew] = starved;
	*urgent = best_rank > 0;
	return best;
}

/*
 * sabot_pair_schedule - the launcher's next step for a crew
 *
 * Reserves a slot for the pair whose turn it is and returns it, with the pair
 * in *key; the caller has to start its process.  Or returns SABOT_NO_SLOT:
 * then there is nothing to start before *next_event (which is only lowered)
 * or the next wake; if the pool is full and somebody has to give way, an idle
 * agent has been asked to, or busy ones will at their next boundary.
 */
int
sabot_pair_schedule(SabotCrew crew, SabotPairKey *key, uint64 *generation,
					TimestampTz *next_event)
{
	SabotPair  *pair;
	bool		urgent;
	int			slotno = SABOT_NO_SLOT;
	int			live;
	int			limit;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	pair = pick_pair_locked(crew, next_event, &urgent);
	limit = sabot_pool_limit_locked(crew, &live);
	if (pair != NULL && live < limit)
		slotno = sabot_slot_reserve_locked(pair, generation);
	else if (pair != NULL && urgent &&
			 count_leaving_locked(crew) < Max(1, sabot_pool->starved[crew]))
		evict_idle_locked(&pair->key);
	else if (pair != NULL && pair->wants_share &&
			 count_leaving_locked(crew) == 0)
	{
		evict_surplus_locked(pair, limit);
		/* Whoever still wants one asks again. */
		pair->wants_share = false;
	}
	if (slotno != SABOT_NO_SLOT)
		*key = pair->key;
	LWLockRelease(sabot_pool->lock);
	return slotno;
}

/*
 * must_yield_locked - whether an agent between two units of work is to make
 * room for a pair that has no agent
 *
 * Not before it has served its own pair for a slice, unless its pair has more
 * than its share of the pool; and no more agents leave than pairs wait.
 */
static bool
must_yield_locked(SabotSlot *slot)
{
	SabotPairKey key = sabot_slot_pair(slot);
	int			starved = sabot_pool->starved[slot->crew];
	int			live;
	int			limit = sabot_pool_limit_locked(slot->crew, &live);

	if (live < limit || count_leaving_locked(slot->crew) >= starved)
		return false;
	if (count_agents_locked(&key).all > Max(1, limit / (starved + 1)))
		return true;
	return GetCurrentTimestamp() >=
		TimestampTzPlusMilliseconds(slot->slice_start,
									sabot_agent_source(slot->crew)->slice_ms);
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
	if (!slot->stop && sabot_pool->starved[slot->crew] == 0)
		return false;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	leave = slot->stop;
	/* One that has just come works first, or nobody ever would. */
	if (!leave && slot->state != SABOT_SLOT_STARTING &&
		must_yield_locked(slot))
	{
		leave = true;
		sabot_pool->evictions++;
	}
	if (leave)
	{
		slot->stop = true;
		sabot_slot_set_state_locked(slot, SABOT_SLOT_STOPPING);
	}
	LWLockRelease(sabot_pool->lock);
	return leave;
}
