/*-------------------------------------------------------------------------
 *
 * pool.h
 *		The agent pool: background workers that stay connected between jobs.
 *
 * The pool knows agents, (database, role) pairs and how much work waits for
 * each pair.  It does not know what the work is: the room above registers a
 * SabotWorkSource, whose callbacks run inside agents, probers and the
 * launcher.
 *
 * IDENTIFICATION
 *		src/pool/pool.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_POOL_H
#define SABOT_POOL_H

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* The bare name is not looked up in $libdir by every way to load it. */
#define SABOT_LIBRARY	"$libdir/sabot"

#define SABOT_NO_SLOT	(-1)
#define SABOT_MAX_SLOTS 1024
#define SABOT_ERROR_LEN 256

typedef enum SabotSlotState
{
	SABOT_SLOT_FREE,			/* no process */
	SABOT_SLOT_STARTING,		/* registered, not yet connected */
	SABOT_SLOT_IDLE,			/* connected, waiting for work */
	SABOT_SLOT_BUSY,			/* working */
	SABOT_SLOT_STOPPING,		/* will exit without taking more work */
	SABOT_SLOT_LOST				/* died at work; the launcher buries it */
} SabotSlotState;

/* Why the work of an agent is to be interrupted. */
typedef enum SabotInterrupt
{
	SABOT_INTERRUPT_NONE,
	SABOT_INTERRUPT_CANCEL,		/* the owner cancelled it */
	SABOT_INTERRUPT_PAUSE,		/* the owner paused it */
	SABOT_INTERRUPT_GIVE_BACK,	/* it is to run again later, elsewhere */
	SABOT_INTERRUPT_ADMIN		/* pg_cancel_backend() */
} SabotInterrupt;

/*
 * Kinds of workers: each has its own limit and its own work.  "Agent" stands
 * for a worker of any kind where the difference does not matter.
 */
typedef enum SabotCrew
{
	SABOT_AGENTS,				/* run jobs and queries */
	SABOT_LLM_WORKERS,			/* send requests to model servers */
	SABOT_NCREWS
} SabotCrew;

/* A (database, role) that has, had or will have work for a crew. */
typedef struct SabotPairKey
{
	Oid			dbid;
	Oid			roleid;
	int32		crew;			/* a SabotCrew; no padding in a hash key */
} SabotPairKey;

/*
 * One agent.  Protected by the pool's lock, except that the agent itself may
 * read without it what only it writes.
 */
typedef struct SabotSlot
{
	SabotSlotState state;
	uint64		generation;		/* of the process, unique within the slot */
	Oid			dbid;
	Oid			roleid;
	SabotCrew	crew;
	pid_t		pid;			/* 0 until the process has attached */
	Latch	   *latch;			/* of the process, NULL until attached */
	TimestampTz since;			/* when state last changed */
	TimestampTz started_at;		/* when the launcher asked for the process */
	TimestampTz slice_start;	/* when it last began serving its pair */
	bool		signaled;		/* latch set since it last looked for work */
	bool		announced;		/* a commit that will wake it is under way */
	bool		stop;			/* asked to leave at the next boundary */
	bool		parked;			/* asleep, may be taken for a query */
	bool		handed;			/* has been taken, and told what for */
	bool		leaving;		/* exits: will do nothing anymore */

	/* current work */
	int64		work_id;		/* job id, negative for sabot.run and queries,
								 * 0 if none */
	uint64		work_tag;		/* what limits count by: the queue's hash */
	int32		work_attempt;
	TimestampTz work_start;
	SabotInterrupt interrupt;	/* meant for interrupt_work only */
	int64		interrupt_work;
	uint32		interrupts_sent;	/* SIGINTs sent through the pool */
	bool		waiting;		/* its work waits for other work */
	bool		again;			/* its work was to be begun by another agent */
	int64		waits_for;		/* which, when waiting */
	TimestampTz waiting_since;

	/* counters */
	int64		jobs_done;
	int64		queries_done;
	int64		memory_bytes;

	/* the last FATAL error, kept for who has to explain the loss */
	int			sqlstate;
	char		error[SABOT_ERROR_LEN];
} SabotSlot;

typedef struct SabotPair
{
	SabotPairKey key;			/* hash key, must be first */
	int64		demand;			/* units of work known to wait */
	uint64		wake_seq;		/* counts wakes, see sabot_pool_no_work() */
	TimestampTz next_due;		/* when scheduled work is due, 0 = never */
	TimestampTz waiting_since;	/* demand without an agent since, or 0 */
	TimestampTz last_start;		/* when an agent was last started for it */
	int			wanted;			/* start_agents: start up to this many */
	bool		wants_share;	/* for queries: others are to give way */
	int			keep;			/* sabot.keep_agents of this pair */
	int			failures;		/* agents that could not start, in a row */
	TimestampTz retry_at;		/* not before, after failures */
	bool		give_up;		/* its waiting work is to fail */
	bool		held;			/* has work that waits for something else */
	int			sqlstate;		/* why agents cannot start */
	char		error[SABOT_ERROR_LEN];
} SabotPair;

/* Counters of the whole pool. */
typedef struct SabotPoolTotals
{
	int64		starts;
	int64		evictions;
	int64		losses;
	int			limit;			/* agents allowed now */
	int			capacity;		/* slots usable at all */
	int			agents;			/* slots with a process */
	int			busy;
	int			idle;
	int			starting;
	int			waiting;		/* busy agents waiting for other work */
	int			waiting_pairs;	/* pairs with work and no agent */
	TimestampTz waiting_since;	/* the first of them, 0 if there is none */
	bool		no_worker_slot; /* last start failed for lack of a worker */
	bool		launcher_running;
} SabotPoolTotals;

/*
 * What a room above does inside the pool's processes, for one crew.  type is
 * what its processes are called, limit how many there may be at once,
 * idle_timeout how long one stays without work, in s, -1 for ever, slice_ms
 * how long it serves its pair while another one waits.  run_next: agent, in
 * no transaction; true if it did something.  attach/detach: agent, once;
 * detach may end the transaction it finds, and use others.  probe: prober, in
 * no transaction.  startup and bury: launcher, no transaction, no database;
 * bury gets a copy of a slot in state LOST.  stopping: in a dying agent, must
 * not ereport; returns whether the slot's work is lost (true) or was given
 * back (false).  before_drop: session that may drop the extension and is about
 * to, in its transaction.
 */
typedef struct SabotWorkSource
{
	const char *type;
	const int  *limit;
	const int  *idle_timeout;
	int			slice_ms;
	void		(*attach) (void);
	bool		(*run_next) (void);
	void		(*detach) (bool interrupted);
	void		(*probe) (void);
	void		(*startup) (void);
	void		(*bury) (int slotno, const SabotSlot *slot);
	bool		(*stopping) (bool server_stops);
	void		(*before_drop) (void);
} SabotWorkSource;

/* Work ids of queries begin here; those of sabot.run count down from -1. */
#define SABOT_QUERY_WORK	PG_INT64_MIN

/* An agent that a session has taken for its query. */
typedef struct SabotTaken
{
	int			slotno;
	int64		work_id;		/* unique */
	Latch	   *latch;
} SabotTaken;

/*
 * What agents do for queries.  startup: launcher, once.  prepare: launcher,
 * before it registers an agent for a slot.  attach: agent, once it is
 * connected; whether it can serve queries.  ready: agent, about to be idle;
 * whether it still can.  run: agent, in no transaction, taken for a query; must
 * not raise errors.  come_home: agent, in no transaction, before it does
 * anything but serving queries.  settings_changed: agent, its settings have
 * been read anew.  leave: agent that exits, its process still whole, and the
 * query it had been taken for, or 0.  gone: the same, when its transaction has
 * been aborted and its locks are released.  probe: prober, in no transaction.
 */
typedef struct SabotQueryServer
{
	void		(*startup) (void);
	void		(*prepare) (int slotno);
	bool		(*attach) (void);
	bool		(*ready) (void);
	void		(*run) (void);
	void		(*come_home) (void);
	void		(*settings_changed) (void);
	void		(*leave) (int64 work_id);
	void		(*gone) (void);
	void		(*probe) (void);
} SabotQueryServer;

/* What overhead_profile reports; the parts of a job add up to SABOT_TOTAL. */
typedef enum SabotComponent
{
	SABOT_AGENT_START,			/* launcher's decision to connected agent */
	SABOT_SUBMISSION,			/* submit call to the submitter's commit */
	SABOT_DISPATCH,				/* commit to claimed by an agent */
	SABOT_EXECUTION,			/* claimed to last statement done */
	SABOT_COMPLETION,			/* last statement done to committed */
	SABOT_TOTAL,				/* submit call to completion committed */

	/* and those of a query that agents take part in, to SABOT_QUERY_TOTAL */
	SABOT_QUERY_SETUP,			/* Gather reached to ready for agents */
	SABOT_QUERY_LAUNCH,			/* ready to agents have their work */
	SABOT_QUERY_EXECUTION,		/* that to the end of the query */
	SABOT_QUERY_TOTAL,			/* Gather reached to the end of the query */
	SABOT_NCOMPONENTS
} SabotComponent;

/*
 * Durations counted in shared memory, see pool_histogram.c.  Everything is
 * atomic: there is no lock.
 */
#define SABOT_HISTOGRAM_SUB_BITS 4	/* 16 buckets to each power of two */
#define SABOT_HISTOGRAM_MAX_BITS 40 /* 2^41 us, 25 days: longer ones count so */
#define SABOT_HISTOGRAM_BUCKETS \
	((SABOT_HISTOGRAM_MAX_BITS - SABOT_HISTOGRAM_SUB_BITS + 2) << \
	 SABOT_HISTOGRAM_SUB_BITS)

typedef struct SabotHistogram
{
	pg_atomic_uint64 first_us;	/* first sample + 1, 0 while there is none */
	pg_atomic_uint64 sum_us;
	pg_atomic_uint64 buckets[SABOT_HISTOGRAM_BUCKETS];
} SabotHistogram;

/* What a histogram says, in us. */
typedef struct SabotHistogramSummary
{
	uint64		count;
	bool		has_first;
	double		first_us;
	double		sum_us;
	double		p50_us;
	double		p95_us;
} SabotHistogramSummary;

/*
 * Whether work is taking part in a query.
 */
static inline bool
sabot_work_is_query(int64 work_id)
{
	return work_id < PG_INT64_MIN / 2;
}

/*
 * The pair of this database and a role.
 */
static inline SabotPairKey
sabot_pair(Oid roleid, SabotCrew crew)
{
	SabotPairKey key = {MyDatabaseId, roleid, crew};

	return key;
}

/* in pool_shared.c */
extern Size sabot_pool_shmem_size(void);
extern void sabot_pool_shmem_init(void);
extern bool sabot_pool_attached(void);
extern void sabot_pool_require(void);
extern void sabot_pool_totals(SabotCrew crew, SabotPoolTotals *totals);
extern void sabot_pool_settings_changed(void);
extern uint64 sabot_pool_settings_epoch(void);

/* in pool_slot.c */
extern int	sabot_my_slot;		/* SABOT_NO_SLOT outside agents */
extern int	sabot_pool_nslots(void);
extern void sabot_pool_copy_slots(SabotSlot *slots);
extern void sabot_pool_copy_error(char *dest, const char *message);
extern bool sabot_pool_is_alive(int slotno, uint64 generation);
extern uint64 sabot_pool_generation(int slotno);
extern int	sabot_pool_stop_agents(SabotPairKey key);

/* in pool_work.c */
extern bool sabot_pool_begin_work(int64 work_id, uint64 work_tag);
extern void sabot_pool_note_attempt(int32 attempt);
extern void sabot_pool_note_start(TimestampTz start);
extern bool sabot_pool_end_work(void);
extern SabotInterrupt sabot_pool_last_interrupt(void);
extern int	sabot_pool_running_with_tag(Oid dbid, uint64 work_tag);
extern bool sabot_pool_find_work(Oid dbid, int64 work_id, SabotSlot *slot);
extern bool sabot_pool_interrupt(Oid dbid, int64 work_id,
								 SabotInterrupt reason);
extern void sabot_pool_begin_wait(int64 waits_for);
extern void sabot_pool_end_wait(void);
extern bool sabot_pool_wait_is_hopeless(void);

/* in pool_query.c */
extern void sabot_pool_set_query_server(const SabotQueryServer *server);
extern const SabotQueryServer *sabot_pool_query_server(void);
extern int	sabot_pool_take_parked(SabotPairKey key, int n, SabotTaken *taken,
								   int *there);
extern bool sabot_pool_hand_over(const SabotTaken *taken,
								 void (*write) (const SabotTaken *taken,
												const void *work),
								 const void *work);
extern void sabot_pool_give_back(const SabotTaken *taken);
extern int64 sabot_pool_my_work(void);

/* in pool_bar.c */
extern bool sabot_pool_bar(Oid dbid, bool interrupt_busy);
extern void sabot_pool_unbar(void);
extern int	sabot_pool_agents_in(Oid dbid, bool busy_too);

/* in pool_probe.c */
extern void sabot_pool_request_probe(Oid dbid);

/* in pool_pair.c */
extern bool sabot_pool_get_pair(SabotPairKey key, SabotPair *pair);
extern int	sabot_pool_copy_pairs(SabotPair *pairs, int maxpairs);
extern void sabot_pool_took_work(SabotPairKey key);
extern void sabot_pool_more_work(SabotPairKey key, int n);
extern void sabot_pool_hold(SabotPairKey key);
extern void sabot_pool_no_work(SabotPairKey key, uint64 wake_seq);
extern TimestampTz sabot_pool_take_due(SabotPairKey key);
extern void sabot_pool_note_due(SabotPairKey key, TimestampTz due);
extern void sabot_pool_want_agents(SabotPairKey key, int n);
extern void sabot_pool_want_share(SabotPairKey key, int n);
extern void sabot_pool_want_no_more(SabotPairKey key, int n);
extern bool sabot_pool_forgive_pair(SabotPairKey key, uint64 wake_seq);

/* in pool_wake.c */
extern bool sabot_pool_prepare_pair(SabotPairKey key, bool announce);
extern void sabot_pool_wake(SabotPairKey key, int64 nunits,
							TimestampTz next_due);
extern void sabot_pool_wake_all(Oid dbid);
extern void sabot_pool_wake_crew(SabotCrew crew);
extern uint64 sabot_pool_wake_seq(SabotPairKey key);

/* in pool_schedule.c */
extern bool sabot_agent_must_leave(void);
extern bool sabot_agent_server_stops(void);

/* in pool_launcher.c */
extern void sabot_pool_register_launcher(void);
extern PGDLLEXPORT void sabot_launcher_main(Datum arg);

/* in pool_agent.c */
extern void sabot_agent_set_source(SabotCrew crew,
								   const SabotWorkSource *source);
extern const SabotWorkSource *sabot_agent_source(SabotCrew crew);
extern SabotPairKey sabot_my_pair(void);
extern SabotInterrupt sabot_agent_interrupted(void);
extern void sabot_agent_accept_interrupts(bool accept);
extern bool sabot_agent_authority_changed(void);
extern void sabot_agent_service_requests(void);
extern void sabot_agent_reset_identity(void);
extern void sabot_agent_reset_session(void);
extern PGDLLEXPORT void sabot_agent_main(Datum arg);

/* in pool_prober.c */
extern void sabot_prober_read_keep_agents(void);
extern PGDLLEXPORT void sabot_prober_main(Datum arg);

/* in pool_utility.c */
extern void sabot_pool_prepare_work(void);
extern void sabot_pool_install_hooks(void);

/* in pool_histogram.c */
extern void sabot_histogram_init(SabotHistogram *histogram);
extern void sabot_histogram_add(SabotHistogram *histogram, uint64 us);
extern void sabot_histogram_read(SabotHistogram *histogram,
								 SabotHistogramSummary *summary);

/* in pool_profile.c */
extern Size sabot_profile_shmem_size(void);
extern void sabot_profile_shmem_init(void);
extern void sabot_profile_add(SabotComponent component, TimestampTz from,
							  TimestampTz to);

#endif							/* SABOT_POOL_H */
