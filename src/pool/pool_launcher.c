/*-------------------------------------------------------------------------
 *
 * pool_launcher.c
 *		Starts agents and probers, and buries lost ones.
 *
 * One launcher runs per server, connected to no database so that it stands
 * in nobody's way.  It is the only process that registers agents, so nobody
 * else has to reason about max_worker_processes.  It reconciles: each round
 * compares what there is with what should be, whatever woke it, so a missed
 * event costs time and nothing else.
 *
 * IDENTIFICATION
 *		src/pool/pool_launcher.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/* The launcher looks around at least this often, in ms. */
#define LAUNCHER_NAP_MS		10000

/* After a registration that failed, the next try comes in, in ms. */
#define NO_WORKER_NAP_MS	1000

/* An agent nobody knows the handle of has this long to come, in ms. */
#define START_MS		10000

/* Every database is looked at this often, for what nobody asked for, in ms. */
#define SWEEP_EVERY_MS	(6 * 3600 * 1000)

/* What the launcher knows of an agent it registered, by slot. */
typedef struct LauncherHandle
{
	BackgroundWorkerHandle *handle;
	uint64		generation;
} LauncherHandle;

static LauncherHandle *handles;
static bool warned_no_worker = false;

/*
 * sabot_pool_register_launcher - have the postmaster run the launcher
 *
 * To be called while shared_preload_libraries are loaded.
 */
void
sabot_pool_register_launcher(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, SABOT_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sabot_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "sabot launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "sabot launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * register_agent - register the background worker of a reserved slot
 *
 * Returns false if there is no background worker slot.
 */
static bool
register_agent(int slotno, uint64 generation, const char *type)
{
	BackgroundWorker worker = {0};
	LauncherHandle *h = &handles[slotno];

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;	/* the launcher decides */
	worker.bgw_main_arg = Int32GetDatum(slotno);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &generation, sizeof(generation));
	strlcpy(worker.bgw_library_name, SABOT_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sabot_agent_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s %d", type, slotno);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);

	if (h->handle)
		pfree(h->handle);
	h->handle = NULL;
	h->generation = generation;
	return RegisterDynamicBackgroundWorker(&worker, &h->handle);
}

/*
 * warn_no_worker - say once what to raise when there is no worker process
 */
static void
warn_no_worker(void)
{
	if (warned_no_worker)
		return;
	warned_no_worker = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("sabot could not start an agent: no background worker slot"),
			 errhint("Increase max_worker_processes (now %d); sabot leaves %d of them to others.",
					 max_worker_processes, SABOT_SPARE_WORKERS)));
}

/*
 * start_agents - start what agents of a crew should be started now
 *
 * Lowers *next_event to when to look again at the latest.
 */
static void
start_agents(SabotCrew crew, TimestampTz *next_event)
{
	const char *type = sabot_agent_source(crew)->type;
	SabotPairKey key;
	uint64		generation;
	int			slotno;
	SabotPoolTotals totals;

	while ((slotno = sabot_pair_schedule(crew, &key, &generation,
										 next_event)) != SABOT_NO_SLOT)
	{
		if (crew == SABOT_AGENTS && sabot_pool_query_server())
			sabot_pool_query_server()->prepare(slotno);
		if (register_agent(slotno, generation, type))
		{
			sabot_pool_note_worker_slot();
			warned_no_worker = false;
			continue;
		}
		sabot_slot_start_failed(slotno, generation, true, NULL);
		warn_no_worker();
		*next_event = Min(*next_event,
						  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  NO_WORKER_NAP_MS));
		return;
	}

	sabot_pool_totals(crew, &totals);
	if (totals.capacity == 0 && totals.waiting_pairs > 0)
		warn_no_worker();
}

/*
 * reap_unknown - give up agents that an earlier launcher asked for and that
 * have not come
 */
static void
reap_unknown(void)
{
	SabotSlot  *slots = palloc(sizeof(SabotSlot) * sabot_pool_nslots());
	TimestampTz now = GetCurrentTimestamp();

	sabot_pool_copy_slots(slots);
	for (int i = 0; i < sabot_pool_nslots(); i++)
		if (slots[i].state == SABOT_SLOT_STARTING && slots[i].pid == 0 &&
			handles[i].generation != slots[i].generation &&
			TimestampDifferenceExceeds(slots[i].started_at, now, START_MS))
			sabot_slot_start_failed(i, slots[i].generation, false,
									"its process has not come");
	pfree(slots);
}

/*
 * reap_starting - notice agents whose process ended before it attached
 *
 * The postmaster could not fork, say.  Ones that attached release their slot
 * themselves.
 */
static void
reap_starting(void)
{
	reap_unknown();
	for (int i = 0; i < sabot_pool_nslots(); i++)
	{
		pid_t		pid;

		if (handles[i].handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(handles[i].handle, &pid) != BGWH_STOPPED)
			continue;
		if (sabot_slot_is_starting(i, handles[i].generation))
			sabot_slot_start_failed(i, handles[i].generation, false,
									"its process could not be started");
		pfree(handles[i].handle);
		handles[i].handle = NULL;
	}
}

/*
 * bury_lost - hand the work of agents that died to the room above
 */
static void
bury_lost(void)
{
	SabotSlot	slot;
	int			slotno;

	while (sabot_slot_next_lost(&slotno, &slot))
	{
		if (sabot_agent_source(slot.crew)->bury)
			sabot_agent_source(slot.crew)->bury(slotno, &slot);
		sabot_slot_bury(slotno);
		sabot_pool_request_probe(slot.dbid);
	}
}

/*
 * launcher_exit - nobody is the launcher anymore
 */
static void
launcher_exit(int code, Datum arg)
{
	sabot_launcher_set(NULL);
}

/*
 * launcher_start - what comes once, before the first round
 *
 * What was running when the server went down is sorted out first, then the
 * databases that had work are probed, then all others.
 */
static void
launcher_start(void)
{
	List	   *hinted;
	ListCell   *lc;

	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(LauncherHandle) *
									 Max(1, sabot_pool_nslots()));
	sabot_launcher_set(MyLatch);
	on_shmem_exit(launcher_exit, 0);

	for (SabotCrew crew = 0; crew < SABOT_NCREWS; crew++)
		if (sabot_agent_source(crew) && sabot_agent_source(crew)->startup)
			sabot_agent_source(crew)->startup();
	if (sabot_pool_query_server())
		sabot_pool_query_server()->startup();
	hinted = sabot_hint_read();
	foreach(lc, hinted)
		sabot_prober_queue(lfirst_oid(lc), true);
}

/*
 * launcher_round - compare what there is with what should be, and act
 *
 * Returns how long to sleep at most, in ms.
 */
static long
launcher_round(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next_event = TimestampTzPlusMilliseconds(now, LAUNCHER_NAP_MS);
	static TimestampTz last_sweep = 0;
	bool		sweep;
	Oid			dbid;

	bury_lost();
	reap_starting();
	while (OidIsValid(dbid = sabot_pool_take_probe(&sweep)) || sweep)
	{
		if (OidIsValid(dbid))
			sabot_prober_queue(dbid, true);
		if (sweep)
			sabot_prober_sweep();
	}
	/* The first one was asked for when shared memory was made. */
	if (last_sweep == 0)
		last_sweep = now;
	else if (TimestampDifferenceExceeds(last_sweep, now, SWEEP_EVERY_MS))
	{
		sabot_prober_sweep();
		last_sweep = now;
	}
	if (sabot_enabled)
	{
		if (!sabot_prober_advance())
			next_event = Min(next_event,
							 TimestampTzPlusMilliseconds(now, NO_WORKER_NAP_MS));
		for (SabotCrew crew = 0; crew < SABOT_NCREWS; crew++)
			if (sabot_agent_source(crew))
				start_agents(crew, &next_event);
	}
	sabot_hint_write();
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_event) + 1;
}

/*
 * sabot_launcher_main - the launcher's process
 */
void
sabot_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("sabot launcher");
	launcher_start();

	for (;;)
	{
		long		nap;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		ProcessCatchupInterruptIfPending();
		nap = launcher_round();
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 nap, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
