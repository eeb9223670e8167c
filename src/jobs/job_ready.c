/*-------------------------------------------------------------------------
 *
 * job_ready.c
 *		The ids of jobs that are ready to run, in shared memory.
 *
 * Looking for the next job in the table costs more the more dead row versions
 * lie before it, and while somebody holds an old snapshot they stay.  So the
 * ids of ready jobs are fed to this queue when their transactions commit, and
 * agents take them from here.  The table remains the truth: an id taken from
 * the queue is read there before it runs, an id that is there twice or stale
 * does no harm, and one that is missing is found by a scan.
 *
 * There is a lane for each (database, role, queue) whose pair has agents.
 * What does not fit is left out, and the lane notes from which place in the
 * order on it is incomplete, its horizon: the lane is good for everything
 * before the horizon; reaching it, an agent refills the lane from the table,
 * starting there and not at the beginning.
 *
 * IDENTIFICATION
 *		src/jobs/job_ready.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "jobs/jobs.h"

/* Ids the queue can hold, all lanes together. */
#define READY_NODES		32768
#define READY_LANES		1024

/*
 * Ids that every lane has room for, and lanes that one pair may have, however
 * much work waits for others.
 */
#define LANE_RESERVE	8
#define PAIR_LANES		256

/* One id in a lane. */
typedef struct ReadyNode
{
	union
	{
		pairingheap_node heap;	/* in a lane */
		slist_node	free;		/* or not */
	}			link;
	SabotReady	entry;
} ReadyNode;

/* A place in the order of a lane. */
typedef struct ReadyPlace
{
	int32		priority;
	int64		job_id;
} ReadyPlace;

/* The ready jobs of one queue of one pair. */
typedef struct ReadyLane
{
	Oid			dbid;			/* InvalidOid if the lane is not in use */
	Oid			roleid;
	char		queue[NAMEDATALEN];
	int			nentries;
	pairingheap heap;
	bool		has_horizon;
	ReadyPlace	horizon;		/* first place that may be missing here */
	int			filler;			/* slot of the agent refilling it, or none */
	uint64		filler_generation;
	ReadyPlace	filled_from;	/* where it began */
} ReadyLane;

/* The pair an agent takes jobs of, in the place of its slot. */
typedef struct ReadyMember
{
	Oid			dbid;
	Oid			roleid;
	bool		has_read;		/* has read the table since it joined */
} ReadyMember;

/* Everything is protected by lock; the pool's lock may be taken inside. */
typedef struct ReadyShared
{
	LWLock	   *lock;
	int			nlanes;			/* lanes in use are among the first nlanes */
	int			nfree;			/* length of free */
	slist_head	free;
	ReadyLane	lanes[READY_LANES];
	ReadyMember members[SABOT_MAX_SLOTS];
	ReadyNode	nodes[READY_NODES];
} ReadyShared;

static ReadyShared *ready = NULL;
static Oid	my_roleid = InvalidOid; /* of the pair joined by this agent */

/*
 * compare_nodes - order of the jobs of a lane: priority, then id
 */
static int
compare_nodes(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const SabotReady *x = &((const ReadyNode *) a)->entry;
	const SabotReady *y = &((const ReadyNode *) b)->entry;

	if (x->priority != y->priority)
		return x->priority > y->priority ? 1 : -1;
	if (x->job_id != y->job_id)
		return x->job_id < y->job_id ? 1 : -1;
	return 0;
}

/*
 * before - whether an entry comes before a place in the order
 */
static bool
before(const SabotReady *entry, const ReadyPlace *place)
{
	if (entry->priority != place->priority)
		return entry->priority > place->priority;
	return entry->job_id < place->job_id;
}

/*
 * sabot_ready_shmem_size - bytes of shared memory the queue needs
 */
Size
sabot_ready_shmem_size(void)
{
	return add_size(MAXALIGN(sizeof(ReadyShared)),
					add_size(sabot_queue_shmem_size(), sabot_scan_shmem_size()));
}

/*
 * sabot_ready_shmem_init - create or attach to the queue
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_ready_shmem_init(void)
{
	bool		found;

	ready = ShmemInitStruct("sabot ready jobs", sizeof(ReadyShared), &found);
	if (!found)
	{
		memset(ready, 0, sizeof(ReadyShared));
		ready->lock = &(GetNamedLWLockTranche("sabot")[1].lock);
		slist_init(&ready->free);
		for (int i = 0; i < READY_NODES; i++)
			slist_push_head(&ready->free, &ready->nodes[i].link.free);
		ready->nfree = READY_NODES;
	}
	sabot_queue_shmem_init(ready->lock);
	sabot_scan_shmem_init(ready->lock);
}

/*
 * has_members_locked - whether a pair has agents that take from its lanes
 */
static bool
has_members_locked(Oid dbid, Oid roleid)
{
	for (int i = 0; i < sabot_pool_nslots(); i++)
		if (ready->members[i].dbid == dbid && ready->members[i].roleid == roleid)
			return true;
	return false;
}

/*
 * has_reader_locked - whether an agent of a pair has read the table
 *
 * Until then a lane that does not exist may be missing everything, after it
 * nothing.
 */
static bool
has_reader_locked(Oid dbid, Oid roleid)
{
	for (int i = 0; i < sabot_pool_nslots(); i++)
		if (ready->members[i].has_read && ready->members[i].dbid == dbid &&
			ready->members[i].roleid == roleid)
			return true;
	return false;
}

/*
 * find_lane_locked - the lane of a queue of a pair, or NULL
 */
static ReadyLane *
find_lane_locked(Oid dbid, Oid roleid, const char *queue)
{
	for (int i = 0; i < ready->nlanes; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		if (lane->dbid == dbid && lane->roleid == roleid &&
			strcmp(lane->queue, queue) == 0)
			return lane;
	}
	return NULL;
}

/*
 * pop_locked - take the first id out of a lane, which has one
 */
static SabotReady
pop_locked(ReadyLane *lane)
{
	ReadyNode  *node = (ReadyNode *) pairingheap_remove_first(&lane->heap);
	SabotReady	entry = node->entry;

	lane->nentries--;
	slist_push_head(&ready->free, &node->link.free);
	ready->nfree++;
	return entry;
}

/*
 * room_locked - how many ids more a lane can take
 */
static int
room_locked(const ReadyLane *lane)
{
	return Max(ready->nfree - READY_LANES * LANE_RESERVE,
			   LANE_RESERVE - lane->nentries);
}

/*
 * is_empty_locked - whether a lane has nothing in it, and lacks nothing
 */
static bool
is_empty_locked(const ReadyLane *lane)
{
	return lane->nentries == 0 && !lane->has_horizon &&
		lane->filler == SABOT_NO_SLOT;
}

/*
 * make_lane_locked - a new lane for a queue of a pair
 *
 * Takes the place of an empty lane if need be.  Returns NULL if there is none;
 * then the queue's jobs wait in the table until there is.
 */
static ReadyLane *
make_lane_locked(Oid dbid, Oid roleid, const char *queue)
{
	ReadyLane  *lane = NULL;
	ReadyLane  *empty = NULL;	/* a lane to take the place of */
	ReadyLane  *my_empty = NULL;
	int			mine = 0;

	for (int i = 0; i < ready->nlanes; i++)
	{
		ReadyLane  *other = &ready->lanes[i];
		bool		is_mine = other->dbid == dbid && other->roleid == roleid;

		mine += is_mine;
		if (!OidIsValid(other->dbid))
			lane = other;
		else if (is_empty_locked(other))
		{
			empty = other;
			my_empty = is_mine ? other : my_empty;
		}
	}
	if (mine >= PAIR_LANES)
		lane = my_empty;
	else if (lane == NULL && ready->nlanes < READY_LANES)
		lane = &ready->lanes[ready->nlanes++];
	else if (lane == NULL)
		lane = empty;
	if (lane == NULL)
		return NULL;

	memset(lane, 0, sizeof(*lane));
	lane->dbid = dbid;
	lane->roleid = roleid;
	strlcpy(lane->queue, queue, NAMEDATALEN);
	lane->heap.ph_compare = compare_nodes;
	lane->filler = SABOT_NO_SLOT;
	return lane;
}

/*
 * note_missing_locked - a lane lacks an entry from now on
 */
static void
note_missing_locked(ReadyLane *lane, int32 priority, int64 job_id)
{
	SabotReady	entry = {.job_id = job_id,.priority = priority};

	if (lane->has_horizon && !before(&entry, &lane->horizon))
		return;
	lane->has_horizon = true;
	lane->horizon.priority = priority;
	lane->horizon.job_id = job_id;
}

/*
 * lane_to_push_locked - the lane for a job that has become ready, or NULL
 */
static ReadyLane *
lane_to_push_locked(Oid dbid, Oid roleid, const char *queue)
{
	ReadyLane  *lane = find_lane_locked(dbid, roleid, queue);

	if (lane != NULL)
		return lane;
	lane = make_lane_locked(dbid, roleid, queue);
	if (lane != NULL && !has_reader_locked(dbid, roleid))
		note_missing_locked(lane, SABOT_MAX_PRIORITY, 0);
	return lane;
}

/*
 * push_locked - put an id into a lane, or note that it is missing there
 */
static void
push_locked(ReadyLane *lane, const SabotReady *entry)
{
	ReadyNode  *node;

	if (room_locked(lane) <= 0)
	{
		note_missing_locked(lane, entry->priority, entry->job_id);
		return;
	}
	node = (ReadyNode *) slist_pop_head_node(&ready->free);
	ready->nfree--;
	node->entry = *entry;
	pairingheap_add(&lane->heap, &node->link.heap);
	lane->nentries++;
}

/*
 * sabot_ready_push - a job has become ready
 *
 * Does nothing if its pair has no agents: the first one reads the table.
 * Cannot fail: it is called after commits.
 */
void
sabot_ready_push(Oid dbid, Oid roleid, const char *queue,
				 const SabotReady *entry)
{
	ReadyLane  *lane = NULL;

	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	if (has_members_locked(dbid, roleid))
		lane = lane_to_push_locked(dbid, roleid, queue);
	if (lane != NULL)
		push_locked(lane, entry);
	LWLockRelease(ready->lock);
}

/*
 * sabot_ready_join - our agent takes jobs of its pair from now on
 *
 * What becomes ready from now on is pushed; what was ready before has to be
 * read from the table after this.
 */
void
sabot_ready_join(void)
{
	my_roleid = GetSessionUserId();
	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	ready->members[sabot_my_slot].dbid = MyDatabaseId;
	ready->members[sabot_my_slot].roleid = my_roleid;
	LWLockRelease(ready->lock);
}

/*
 * is_my_lane_locked - whether our agent might take jobs from a lane now
 */
static bool
is_my_lane_locked(const ReadyLane *lane)
{
	return lane->dbid == MyDatabaseId && lane->roleid == my_roleid &&
		(lane->nentries > 0 || lane->has_horizon) &&
		!sabot_queue_blocked_locked(lane->dbid, lane->queue);
}

/*
 * clear_lane_locked - take all ids out of a lane
 */
static void
clear_lane_locked(ReadyLane *lane)
{
	while (lane->nentries > 0)
		(void) pop_locked(lane);
	lane->has_horizon = false;
	lane->filler = SABOT_NO_SLOT;
}

/*
 * drop_lane_locked - drop a lane whose pair has no agents anymore
 *
 * Returns whether it has something in it that could be run now.  What waits
 * for its queue is reported to the pool; that is done before the queue is
 * looked at for the last time, so that the end of its pause or the end of a
 * job cannot fall in between and go unnoticed.
 */
static bool
drop_lane_locked(ReadyLane *lane)
{
	bool		waiting = false;

	if (!is_empty_locked(lane))
	{
		if (sabot_queue_blocked_locked(lane->dbid, lane->queue))
			sabot_pool_hold(sabot_my_pair());
		waiting = !sabot_queue_blocked_locked(lane->dbid, lane->queue);
	}
	clear_lane_locked(lane);
	lane->dbid = InvalidOid;
	return waiting;
}

/*
 * sabot_ready_has_read - our agent has read all of the table since it joined
 */
void
sabot_ready_has_read(void)
{
	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	ready->members[sabot_my_slot].has_read = true;
	LWLockRelease(ready->lock);
}

/*
 * sabot_ready_distrust - a pair's lanes may be missing anything
 *
 * Its agents, if there are any, read the table before they go on.
 */
void
sabot_ready_distrust(Oid dbid, Oid roleid)
{
	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ready->nlanes; i++)
		if (ready->lanes[i].dbid == dbid && ready->lanes[i].roleid == roleid)
			note_missing_locked(&ready->lanes[i], SABOT_MAX_PRIORITY, 0);
	LWLockRelease(ready->lock);
}

/*
 * sabot_ready_leave - our agent takes no more jobs
 *
 * After the last agent of a pair its lanes are dropped.  If there is something
 * in them that could be run, the pool is told of work that waits; if others
 * stay, too, as all of them may be busy and we may have said that there is
 * nothing.  An agent that was interrupted may have taken ids with it: then
 * all of its pair's lanes have to be filled anew.
 */
void
sabot_ready_leave(bool interrupted)
{
	bool		waiting = false;
	bool		last;

	if (!OidIsValid(my_roleid))
		return;
	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	memset(&ready->members[sabot_my_slot], 0, sizeof(ReadyMember));
	last = !has_members_locked(MyDatabaseId, my_roleid);
	for (int i = 0; i < ready->nlanes; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		if (lane->dbid != MyDatabaseId || lane->roleid != my_roleid)
			continue;
		if (!last && interrupted)
			note_missing_locked(lane, SABOT_MAX_PRIORITY, 0);
		waiting |= last ? drop_lane_locked(lane) : is_my_lane_locked(lane);
	}
	LWLockRelease(ready->lock);
	if (interrupted || (last && waiting))
		sabot_pool_wake(sabot_my_pair(), 1, 0);
	else if (waiting)
		sabot_pool_more_work(sabot_my_pair(), 1);
	my_roleid = InvalidOid;
}

/*
 * filler_is_alive_locked - whether an agent is refilling a lane just now
 */
static bool
filler_is_alive_locked(const ReadyLane *lane)
{
	return lane->filler != SABOT_NO_SLOT &&
		sabot_pool_is_alive(lane->filler, lane->filler_generation);
}

/*
 * first_locked - the first entry of a lane, NULL if it is empty
 */
static SabotReady *
first_locked(ReadyLane *lane)
{
	if (pairingheap_is_empty(&lane->heap))
		return NULL;
	return &((ReadyNode *) pairingheap_first(&lane->heap))->entry;
}

/*
 * lacks_first_locked - whether the next job of a lane may be missing in it,
 * and nobody is about to change that
 */
static bool
lacks_first_locked(ReadyLane *lane)
{
	SabotReady *first = first_locked(lane);

	return lane->has_horizon &&
		(first == NULL || !before(first, &lane->horizon)) &&
		!filler_is_alive_locked(lane);
}

/*
 * forget_dead_filler_locked - what an agent that is gone has not refilled is
 * missing
 */
static void
forget_dead_filler_locked(ReadyLane *lane)
{
	if (lane->filler == SABOT_NO_SLOT || filler_is_alive_locked(lane))
		return;
	lane->filler = SABOT_NO_SLOT;
	note_missing_locked(lane, lane->filled_from.priority,
						lane->filled_from.job_id);
}

/*
 * best_lane_locked - the lane of our pair with the next job to run
 *
 * NULL if there is none.  *refill is set if a lane has to be refilled first.
 */
static ReadyLane *
best_lane_locked(bool *refill)
{
	ReadyLane  *best = NULL;

	for (int i = 0; i < ready->nlanes; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		if (lane->dbid != MyDatabaseId || lane->roleid != my_roleid)
			continue;
		forget_dead_filler_locked(lane);
		if (!is_my_lane_locked(lane))
			continue;
		if (lacks_first_locked(lane))
			*refill = true;
		else if (lane->nentries > 0 &&
				 (best == NULL ||
				  compare_nodes(pairingheap_first(&lane->heap),
								pairingheap_first(&best->heap), NULL) > 0))
			best = lane;
	}
	return best;
}

/*
 * sabot_ready_claim - take the next job of our pair and begin it as our work
 *
 * On SABOT_CLAIM_TAKEN, entry and queue (NAMEDATALEN bytes) tell which.  Jobs
 * that another agent has already are dropped on the way; that agent puts them
 * back when it is done with them.  If more jobs can be run now than the pool
 * knows of, it is told.
 */
SabotClaim
sabot_ready_claim(SabotReady *entry, char *queue)
{
	SabotClaim	result = SABOT_CLAIM_NONE;
	int			more = 0;

	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	for (;;)
	{
		bool		refill = false;
		ReadyLane  *lane = best_lane_locked(&refill);

		if (refill)
			result = SABOT_CLAIM_REFILL;
		if (lane == NULL || refill)
			break;
		*entry = pop_locked(lane);
		if (!sabot_pool_begin_work(entry->job_id, sabot_queue_tag(lane->queue)))
			continue;
		strlcpy(queue, lane->queue, NAMEDATALEN);
		if (lane->nentries > 0)
			more = Min(lane->nentries,
					   sabot_queue_room_locked(lane->dbid, queue));
		result = SABOT_CLAIM_TAKEN;
		break;
	}
	LWLockRelease(ready->lock);
	/* What has been taken is still part of the demand. */
	if (more > 0)
		sabot_pool_more_work(sabot_my_pair(), more + 1);
	return result;
}

/*
 * sabot_ready_is_held - whether our pair has jobs that wait for their queue
 */
bool
sabot_ready_is_held(void)
{
	bool		held = false;

	LWLockAcquire(ready->lock, LW_SHARED);
	for (int i = 0; i < ready->nlanes && !held; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		held = lane->dbid == MyDatabaseId && lane->roleid == my_roleid &&
			!is_empty_locked(lane) &&
			sabot_queue_blocked_locked(lane->dbid, lane->queue);
	}
	LWLockRelease(ready->lock);
	return held;
}

/*
 * sabot_ready_lane_to_fill - a queue whose lane has to be refilled
 *
 * Fills queue (NAMEDATALEN bytes); false if there is none.
 */
bool
sabot_ready_lane_to_fill(char *queue)
{
	bool		found = false;

	LWLockAcquire(ready->lock, LW_SHARED);
	for (int i = 0; i < ready->nlanes && !found; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		found = is_my_lane_locked(lane) && lacks_first_locked(lane);
		if (found)
			strlcpy(queue, lane->queue, NAMEDATALEN);
	}
	LWLockRelease(ready->lock);
	return found;
}

/*
 * is_good_locked - whether a lane has the next job to run, and knows it
 */
static bool
is_good_locked(ReadyLane *lane)
{
	SabotReady *first = first_locked(lane);

	return first != NULL &&
		(!lane->has_horizon || before(first, &lane->horizon));
}

/*
 * sabot_ready_begin_fill - begin to refill the lane of a queue
 *
 * *priority and *job_id tell the place in the order to read the table from.
 * Returns how many ids there is room for: 0 if another agent is at it or has
 * been since the caller looked, or no lane can be had.  What becomes ready
 * meanwhile goes into the lane at once.
 */
int
sabot_ready_begin_fill(const char *queue, int32 *priority, int64 *job_id)
{
	uint64		generation = sabot_pool_generation(sabot_my_slot);
	ReadyLane  *lane;
	int			room = 0;

	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	lane = find_lane_locked(MyDatabaseId, my_roleid, queue);
	if (lane == NULL)
		lane = make_lane_locked(MyDatabaseId, my_roleid, queue);
	if (lane != NULL)
		forget_dead_filler_locked(lane);
	/* To read on from the horizon must not lose what comes before it. */
	if (lane != NULL && lane->filler == SABOT_NO_SLOT && !is_good_locked(lane))
	{
		*priority = lane->has_horizon ? lane->horizon.priority : SABOT_MAX_PRIORITY;
		*job_id = lane->has_horizon ? lane->horizon.job_id : 0;
		clear_lane_locked(lane);
		lane->filler = sabot_my_slot;
		lane->filler_generation = generation;
		lane->filled_from.priority = *priority;
		lane->filled_from.job_id = *job_id;
		room = room_locked(lane);
	}
	LWLockRelease(ready->lock);
	return room;
}

/*
 * sabot_ready_end_fill - our agent has refilled the lane of a queue
 *
 * "more" tells that the table has more, from the given place on.
 */
void
sabot_ready_end_fill(const char *queue, bool more, int32 priority,
					 int64 job_id)
{
	ReadyLane  *lane;

	LWLockAcquire(ready->lock, LW_EXCLUSIVE);
	lane = find_lane_locked(MyDatabaseId, my_roleid, queue);
	if (lane != NULL)
	{
		lane->filler = SABOT_NO_SLOT;
		if (more)
			note_missing_locked(lane, priority, job_id);
	}
	LWLockRelease(ready->lock);
}

/*
 * sabot_ready_stocked - queues of our pair whose lanes have something in them,
 * are known to lack something, or are being filled, as text[]
 */
ArrayType *
sabot_ready_stocked(void)
{
	NameData   *names = palloc(sizeof(NameData) * PAIR_LANES);
	Datum	   *elems = palloc(sizeof(Datum) * PAIR_LANES);
	int			n = 0;

	LWLockAcquire(ready->lock, LW_SHARED);
	for (int i = 0; i < ready->nlanes && n < PAIR_LANES; i++)
	{
		ReadyLane  *lane = &ready->lanes[i];

		if (lane->dbid == MyDatabaseId && lane->roleid == my_roleid &&
			!is_empty_locked(lane))
			strlcpy(NameStr(names[n++]), lane->queue, NAMEDATALEN);
	}
	LWLockRelease(ready->lock);
	for (int i = 0; i < n; i++)
		elems[i] = CStringGetTextDatum(NameStr(names[i]));
	return construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT);
}
