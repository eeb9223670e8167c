/*-------------------------------------------------------------------------
 *
 * pool_shared.h
 *		The pool's shared memory, for the files of the pool that keep it.
 *
 * Slots and pairs change together (a slot is given to a pair because work
 * waits for it), so one lock protects everything.  Only pool_shared.c,
 * pool_slot.c, pool_work.c, pool_query.c, pool_bar.c, pool_probe.c,
 * pool_pair.c, pool_wake.c and pool_schedule.c take it; everybody else calls
 * their functions.
 *
 * IDENTIFICATION
 *		src/pool/pool_shared.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_POOL_SHARED_H
#define SABOT_POOL_SHARED_H

#include "nodes/pg_list.h"
#include "pool/pool.h"
#include "storage/sinval.h"
#include "utils/hsearch.h"

#define SABOT_MAX_PAIRS		4096
#define SABOT_MAX_PROBES	64
#define SABOT_MAX_PROBERS	2
#define SABOT_MAX_BARS		16

/* Worker processes left to everybody else, see max_worker_processes. */
#define SABOT_SPARE_WORKERS 4

/* Slots for crews other than agents; they take of the spare processes. */
#define SABOT_EXTRA_SLOTS	16

/* Agents that could not start, in a row, before a pair is given up. */
#define SABOT_MAX_START_FAILURES 5

/* A database that agents must keep out of until its session ends the bar. */
typedef struct SabotBar
{
	Oid			dbid;			/* InvalidOid if the entry is free */
	pid_t		pid;
} SabotBar;

/* A prober that has started. */
typedef struct SabotProberProcess
{
	Oid			dbid;
	pid_t		pid;			/* 0 if there is none */
	bool		gave_way;		/* it was told to, or did of its own accord */
} SabotProberProcess;

/*
 * Everything is protected by lock.  Slots have their life from pool_slot.c
 * and their work from pool_work.c.
 */
typedef struct SabotPool
{
	LWLock	   *lock;
	int			nslots;			/* length of slots[] */
	int			capacity;		/* how many of them may be used */

	/* changed in pool_shared.c and pool_slot.c */
	Latch	   *launcher_latch; /* NULL while it does not run */
	pid_t		launcher_pid;
	uint64		settings_epoch; /* ALTER ROLE or DATABASE ... SET so far */
	bool		no_worker_slot; /* last registration failed */
	uint64		next_generation;
	int64		starts;
	int64		losses;

	/* changed in pool_query.c */
	int64		next_query;		/* counts agents taken for queries */

	/* changed in pool_schedule.c */
	int64		evictions;
	int			starved[SABOT_NCREWS];	/* pairs that wait for an agent to
										 * leave */
	TimestampTz starved_since[SABOT_NCREWS];	/* the first of them, or 0 */

	/* changed in pool_probe.c */
	bool		sweep;			/* probe every database */
	int			nprobes;
	Oid			probes[SABOT_MAX_PROBES];
	Oid			probing[SABOT_MAX_PROBERS]; /* what probers have not done */
	SabotProberProcess probers[SABOT_MAX_PROBERS];

	/* changed in pool_bar.c */
	SabotBar	bars[SABOT_MAX_BARS];

	SabotSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SabotPool;

/* How an agent stands that was parked. */
typedef enum SabotParking
{
	SABOT_PARKED_FREE,			/* has been told of a job, or to leave */
	SABOT_PARKED_RESERVED,		/* taken for a query, has yet to be told */
	SABOT_PARKED_TAKEN,
	SABOT_PARKED_UNTOLD			/* has been told nothing */
} SabotParking;

/* Every process of the pool catches up with invalidations while idle. */
#define ProcessCatchupInterruptIfPending() \
	do { \
		if (catchupInterruptPending) \
			ProcessCatchupInterrupt(); \
	} while (0)

extern SabotPool *sabot_pool;
extern HTAB *sabot_pairs;

/*
 * Whether a slot has, or is about to have, a process.
 */
static inline bool
sabot_slot_is_live(const SabotSlot *slot)
{
	return slot->state != SABOT_SLOT_FREE && slot->state != SABOT_SLOT_LOST;
}

/*
 * Whether a slot is, or was when its agent died, that of an agent of a pair.
 */
static inline bool
sabot_slot_serves(const SabotSlot *slot, const SabotPairKey *key)
{
	return slot->dbid == key->dbid && slot->roleid == key->roleid &&
		slot->crew == (SabotCrew) key->crew;
}

/*
 * The pair a slot's agent serves.
 */
static inline SabotPairKey
sabot_slot_pair(const SabotSlot *slot)
{
	SabotPairKey key = {slot->dbid, slot->roleid, slot->crew};

	return key;
}

/* Callers of what ends in _locked hold the lock, exclusively to change. */

/* in pool_shared.c */
extern void sabot_pool_wake_launcher_locked(void);
extern void sabot_launcher_set(Latch *latch);
extern void sabot_pool_note_worker_slot(void);

/* in pool_slot.c */
extern void sabot_slot_set_state_locked(SabotSlot *slot,
										SabotSlotState state);
extern int	sabot_slot_reserve_locked(SabotPair *pair, uint64 *generation);
extern void sabot_slot_started_locked(SabotSlot *slot);
extern void sabot_slot_leave_locked(SabotSlot *slot);
extern void sabot_slot_attach(int slotno, uint64 generation);
extern bool sabot_slot_set_idle(bool park);
extern void sabot_slot_look(void);
extern void sabot_slot_note_memory(int64 bytes);
extern void sabot_slot_note_error(int sqlstate, const char *message);
extern void sabot_slot_release(bool lost);
extern bool sabot_slot_next_lost(int *slotno, SabotSlot *slot);
extern void sabot_slot_bury(int slotno);
extern void sabot_slot_start_failed(int slotno, uint64 generation,
									bool no_worker, const char *message);
extern bool sabot_slot_is_starting(int slotno, uint64 generation);

/* in pool_work.c */
extern void sabot_work_interrupt_locked(SabotSlot *slot,
										SabotInterrupt reason);

/* in pool_query.c */
extern SabotParking sabot_slot_unpark(void);
extern int64 sabot_slot_retire(void);

/* in pool_bar.c */
extern bool sabot_pool_is_barred_locked(Oid dbid);
extern bool sabot_pool_is_barred(Oid dbid);

/* in pool_probe.c */
extern Size sabot_probe_shmem_size(void);
extern void sabot_probe_shmem_init(void);
extern void sabot_probe_note_prepared(const char *gid, bool has_work);
extern bool sabot_probe_forget_prepared(const char *gid);
extern void sabot_probe_sweep_locked(void);
extern void sabot_probe_request_locked(Oid dbid);
extern Oid	sabot_pool_take_probe(bool *sweep);
extern void sabot_probe_begin(int n, Oid dbid);
extern bool sabot_probe_attach(Oid dbid);
extern void sabot_probe_give_way_locked(Oid dbid);
extern bool sabot_probe_is_in(Oid dbid);
extern bool sabot_probe_gave_way(int n);
extern void sabot_probe_done(void);
extern bool sabot_probe_failed(int n);

/* in pool_pair.c */
extern Size sabot_pair_shmem_size(void);
extern void sabot_pair_shmem_init(void);
extern SabotPair *sabot_pair_find_locked(SabotPairKey key);
extern SabotPair *sabot_pair_enter_locked(SabotPairKey key);
extern void sabot_pair_start_failed_locked(const SabotPairKey *key,
										   int sqlstate, const char *message);
extern void sabot_pair_want_none_locked(SabotPairKey key);
extern void sabot_pair_started_locked(const SabotPairKey *key, int keep);
extern void sabot_pair_forget_database(Oid dbid);
extern int	sabot_pair_databases(Oid *dbids, int maxdbs);
extern void sabot_pair_set_keep(SabotPairKey key, int keep);

/* in pool_wake.c */
extern void sabot_pair_wake_locked(SabotPair *pair);
extern void sabot_pair_pass_on_locked(const SabotPairKey *key);

/* in pool_schedule.c */
extern int	sabot_pool_limit_locked(SabotCrew crew, int *live);
extern bool sabot_pool_is_overfull_locked(SabotCrew crew);
extern int	sabot_pair_schedule(SabotCrew crew, SabotPairKey *key, uint64 *generation,
								TimestampTz *next_event);

/* in pool_hint.c */
extern List *sabot_hint_read(void);
extern void sabot_hint_write(void);

/* in pool_prober.c */
extern void sabot_prober_queue(Oid dbid, bool first);
extern void sabot_prober_sweep(void);
extern bool sabot_prober_advance(void);
#endif							/* SABOT_POOL_SHARED_H */
