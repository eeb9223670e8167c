/*-------------------------------------------------------------------------
 *
 * pool_shared.h
 *		The pool's shared memory, for the files of the pool that keep it.
 *
 * Slots and pairs change together (a slot is given to a pair because work
 * waits for it), so one lock protects both; pool_slot.c and pool_pair.c are
 * the only files that take it.  Everybody else calls their functions.
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

/* A pair is served this long, in ms, before another one's turn may come. */
#define SABOT_SLICE_MS		250

/* Agents that could not start, in a row, before a pair is given up. */
#define SABOT_MAX_START_FAILURES 5

/* A database that agents must keep out of until its session ends the bar. */
typedef struct SabotBar
{
	Oid			dbid;			/* InvalidOid if the entry is free */
	pid_t		pid;
} SabotBar;

/* Everything is protected by lock. */
typedef struct SabotPool
{
	LWLock	   *lock;
	int			nslots;			/* length of slots[] */
	int			capacity;		/* how many of them may be used */
	Latch	   *launcher_latch; /* NULL while it does not run */
	pid_t		launcher_pid;
	int64		starts;
	int64		evictions;
	int64		losses;
	bool		no_worker_slot; /* last registration failed */
	int			starved;		/* pairs that wait for an agent to leave */
	uint64		settings_epoch; /* ALTER ROLE or DATABASE ... SET so far */
	uint64		next_generation;
	bool		sweep;			/* probe every database */
	int			nprobes;
	Oid			probes[SABOT_MAX_PROBES];
	Oid			probing[SABOT_MAX_PROBERS]; /* what probers have not done */
	SabotBar	bars[SABOT_MAX_BARS];
	SabotSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SabotPool;

/* Every process of the pool catches up with invalidations while idle. */
#define ProcessCatchupInterruptIfPending() \
	do { \
		if (catchupInterruptPending) \
			ProcessCatchupInterrupt(); \
	} while (0)

extern SabotPool *sabot_pool;
extern HTAB *sabot_pairs;

/* in pool_slot.c; callers hold the lock where "locked" says so */
extern int	sabot_pool_limit_locked(int *live);
extern void sabot_slot_leave_locked(SabotSlot *slot);
extern void sabot_pool_wake_launcher_locked(void);
extern void sabot_slot_attach(int slotno, uint64 generation);
extern bool sabot_slot_set_idle(void);
extern void sabot_slot_look(void);
extern void sabot_slot_note_memory(int64 bytes);
extern void sabot_slot_note_error(int sqlstate, const char *message);
extern bool sabot_slot_release(bool lost);
extern bool sabot_slot_next_lost(int *slotno, SabotSlot *slot);
extern void sabot_slot_bury(int slotno);
extern void sabot_slot_start_failed(int slotno, uint64 generation,
									bool no_worker, const char *message);
extern bool sabot_slot_is_starting(int slotno, uint64 generation);
extern void sabot_launcher_set(Latch *latch);
extern Oid	sabot_pool_take_probe(bool *sweep);
extern void sabot_pool_note_worker_slot(void);
extern void sabot_probe_begin(int n, Oid dbid);
extern void sabot_probe_done(void);
extern bool sabot_probe_failed(int n);

/* in pool_hint.c */
extern List *sabot_hint_read(void);
extern void sabot_hint_write(void);

/* in pool_prober.c */
extern void sabot_prober_queue(Oid dbid, bool first);
extern void sabot_prober_sweep(void);
extern bool sabot_prober_advance(void);

/* in pool_pair.c */
extern Size sabot_pair_shmem_size(void);
extern void sabot_pair_shmem_init(void);
extern void sabot_pair_start_failed_locked(const SabotPairKey *key,
										   int sqlstate, const char *message);
extern void sabot_pair_started_locked(const SabotPairKey *key, int keep);
extern int	sabot_pair_schedule(SabotPairKey *key, uint64 *generation,
								TimestampTz *next_event);
extern bool sabot_pair_must_yield_locked(SabotSlot *slot);
extern void sabot_pair_forget_database(Oid dbid);
extern int	sabot_pair_databases(Oid *dbids, int maxdbs);
extern void sabot_pair_set_keep(Oid dbid, Oid roleid, int keep);


#endif							/* SABOT_POOL_SHARED_H */
