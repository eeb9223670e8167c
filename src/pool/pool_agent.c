/*-------------------------------------------------------------------------
 *
 * pool_agent.c
 *		An agent's process: connect, then work, reset, wait, again.
 *
 * An agent is connected as the role whose work it does, so that nothing the
 * work does can give it more rights than a login of that role would have.
 * Between two units of work the session is reset as DISCARD ALL does it, but
 * for cached plans, which cannot carry anything over.  When the role, its
 * right to connect or settings made for it have changed since, the agent is
 * not repaired but replaced.
 *
 * IDENTIFICATION
 *		src/pool/pool_agent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/s_lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/*
 * An idle agent looks for work at least this often, in ms, in case a wake was
 * lost.
 */
#define AGENT_NAP_MS		2000

/* How long to stay awake for a commit that has been announced, in us. */
#define ANNOUNCED_US		250

/* Memory in use is published when idle, and after this many units of work. */
#define MEMORY_REPORT_EVERY 256

static const SabotWorkSource *sources[SABOT_NCREWS];
static const SabotWorkSource *work_source = NULL;	/* this process's */
static emit_log_hook_type prev_emit_log_hook = NULL;

/* Memory in use is published after this many queries. */
#define QUERIES_PER_REPORT	64

static SabotSlot *my_slot = NULL;
static const SabotQueryServer *query_server = NULL; /* if we serve queries */
static uint32 interrupts_seen = 0;
static volatile sig_atomic_t admin_cancel = false;
static volatile sig_atomic_t accepts_interrupts = false;

static bool authority_changed = false;
static uint32 my_role_hash;
static uint32 my_database_hash;
static uint64 my_settings_epoch;

/*
 * sabot_agent_set_source - register what the agents of a crew work on
 */
void
sabot_agent_set_source(SabotCrew crew, const SabotWorkSource *source)
{
	sources[crew] = source;
}

/*
 * sabot_agent_source - what the agents of a crew work on
 */
const SabotWorkSource *
sabot_agent_source(SabotCrew crew)
{
	return sources[crew];
}

/*
 * sabot_my_pair - the pair our agent serves
 */
SabotPairKey
sabot_my_pair(void)
{
	return sabot_slot_pair(my_slot);
}

/*
 * handle_sigint - interrupt the current work, if that is what is meant
 *
 * A signal sent through the pool names its work in the slot; one that comes
 * late, when we have gone on to other work, is none of ours.  Any other
 * SIGINT is pg_cancel_backend() and meant for whatever we do.  What comes
 * before the work itself begins is found by sabot_agent_interrupted().
 */
static void
handle_sigint(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (my_slot->interrupts_sent != interrupts_seen)
	{
		interrupts_seen = my_slot->interrupts_sent;
		if (accepts_interrupts && my_slot->interrupt_work != 0 &&
			my_slot->interrupt_work == my_slot->work_id)
			StatementCancelHandler(postgres_signal_arg);
	}
	else if (my_slot->work_id != 0)
	{
		admin_cancel = true;
		if (accepts_interrupts)
			StatementCancelHandler(postgres_signal_arg);
	}
	errno = save_errno;
}

/*
 * sabot_agent_accept_interrupts - whether interrupts raise errors from now on
 *
 * That is to be so while the work itself is done and its errors are caught,
 * and not while it is read before or recorded after: there an error would be
 * our agent's end.  One that came too late is dropped.
 */
void
sabot_agent_accept_interrupts(bool accept)
{
	accepts_interrupts = accept;
	if (!accept)
		QueryCancelPending = false;
}

/*
 * sabot_agent_interrupted - why the current work was interrupted, if it was
 */
SabotInterrupt
sabot_agent_interrupted(void)
{
	if (my_slot->interrupt != SABOT_INTERRUPT_NONE &&
		my_slot->interrupt_work == my_slot->work_id)
		return my_slot->interrupt;
	return admin_cancel ? SABOT_INTERRUPT_ADMIN : SABOT_INTERRUPT_NONE;
}

/*
 * keep_last_error - log hook: remember the error that ends this process
 */
static void
keep_last_error(ErrorData *edata)
{
	if (edata->elevel == FATAL && sabot_my_slot != SABOT_NO_SLOT)
		sabot_slot_note_error(edata->sqlerrcode, edata->message);
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}

/*
 * read_stopping - whether the postmaster is shutting down
 *
 * It says so in its pid file before it signals anybody.
 */
static bool
read_stopping(void)
{
	char		buf[1024];
	FILE	   *file = fopen("postmaster.pid", "r");
	int			line = 0;
	bool		stopping = false;

	if (file == NULL)
		return true;
	while (fgets(buf, sizeof(buf), file))
	{
		if (++line == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(buf, "stopping", strlen("stopping")) == 0;
	}
	fclose(file);
	return stopping;
}

/*
 * sabot_agent_server_stops - whether our agent, which exits, does so because
 * the server stops
 *
 * The answer stays the same from one exit callback to the next.
 */
bool
sabot_agent_server_stops(void)
{
	static bool known = false;
	static bool stopping;

	if (!known)
		stopping = read_stopping();
	known = true;
	return stopping;
}

/*
 * agent_exit - give back the slot
 *
 * Runs after the transaction, if there was one, has ended.
 */
static void
agent_exit(int code, Datum arg)
{
	bool		lost = true;

	if (sabot_my_slot == SABOT_NO_SLOT)
		return;
	if (query_server)
		query_server->gone();
	if (work_source->stopping)
		lost = work_source->stopping(sabot_agent_server_stops());
	sabot_slot_release(lost);
}

/*
 * agent_before_exit - let the room above leave shared memory of its own
 */
static void
agent_before_exit(int code, Datum arg)
{
	if (query_server)
		query_server->leave(sabot_slot_retire());
	if (work_source->detach)
		work_source->detach(code != 0);
}

/*
 * note_invalidation - syscache callback: our role or database has changed
 *
 * As long as we do not know our hash values (0) it may be any that has.
 */
static void
note_invalidation(Datum arg, int cacheid, uint32 hashvalue)
{
	uint32		mine = cacheid == AUTHOID ? my_role_hash : my_database_hash;

	if (hashvalue == 0 || mine == 0 || hashvalue == mine)
		authority_changed = true;
}

/*
 * sabot_agent_authority_changed - whether our agent must be replaced
 *
 * Only exact after invalidation messages were accepted, as starting a
 * transaction does.
 */
bool
sabot_agent_authority_changed(void)
{
	return authority_changed ||
		my_settings_epoch != sabot_pool_settings_epoch();
}

/*
 * learn_hashes - find out which changes are of our role and database
 */
static void
learn_hashes(void)
{
	my_role_hash = GetSysCacheHashValue1(AUTHOID,
										 ObjectIdGetDatum(my_slot->roleid));
	my_database_hash = GetSysCacheHashValue1(DATABASEOID,
											 ObjectIdGetDatum(my_slot->dbid));
}

/*
 * sabot_agent_reset_identity - become our agent's role again
 *
 * Whatever SET ROLE and SET SESSION AUTHORIZATION have made of it.
 */
void
sabot_agent_reset_identity(void)
{
	if (GetSessionUserId() != my_slot->roleid ||
		OidIsValid(GetCurrentRoleId()))
	{
		SetPGVariable("session_authorization", NIL, false);
		SetPGVariable("role", NIL, false);
	}
}

/*
 * drop_temporary - drop what the session has created in its temporary schema
 *
 * Catalogs may keep parts of their rows outside of them: to delete those takes
 * a snapshot.  Most sessions have no such schema, and need none.
 */
static void
drop_temporary(void)
{
	Oid			temporary;
	Oid			toast;

	GetTempNamespaceState(&temporary, &toast);
	if (!OidIsValid(temporary))
		return;
	XactIsoLevel = XACT_READ_COMMITTED; /* waits for no safe snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	ResetTempTableNamespace();
	PopActiveSnapshot();
}

/*
 * sabot_agent_reset_session - make the session as clean as after its start
 *
 * Does what DISCARD ALL does but for cached plans.  To be called outside of a
 * transaction; errors here are the caller's to turn into the agent's end.
 */
void
sabot_agent_reset_session(void)
{
	StartTransactionCommand();
	PortalHashTableDeleteAll();
	sabot_agent_reset_identity();
	ResetAllOptions();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	drop_temporary();
	ResetSequenceCaches();
	CommitTransactionCommand();
}

/*
 * report_idle - publish what others see of an agent that has nothing to do
 */
static void
report_idle(void)
{
	pgstat_report_stat(true);
	pgstat_report_appname(work_source->type);
	pgstat_report_activity(STATE_IDLE, NULL);
	sabot_slot_note_memory(MemoryContextMemAllocated(TopMemoryContext, true));
}

/*
 * idle_too_long - whether our agent has been idle for too long to stay
 */
static bool
idle_too_long(void)
{
	SabotPairKey key = sabot_my_pair();
	SabotPair	pair;
	SabotSlot  *slots;
	int			n = 0;

	if (*work_source->idle_timeout < 0 ||
		!TimestampDifferenceExceeds(my_slot->since, GetCurrentTimestamp(),
									*work_source->idle_timeout * 1000))
		return false;
	if (!sabot_pool_get_pair(sabot_my_pair(), &pair) ||
		pair.keep == 0)
		return true;

	slots = palloc(sizeof(SabotSlot) * sabot_pool_nslots());
	sabot_pool_copy_slots(slots);
	for (int i = 0; i < sabot_pool_nslots(); i++)
		n += slots[i].state != SABOT_SLOT_FREE && !slots[i].stop &&
			sabot_slot_serves(&slots[i], &key);
	pfree(slots);
	return n > pair.keep;
}

/*
 * nap_ms - how long an idle agent may sleep before it looks again, in ms
 */
static long
nap_ms(void)
{
	SabotPair	pair;
	TimestampTz now = GetCurrentTimestamp();
	long		nap = AGENT_NAP_MS;

	if (*work_source->idle_timeout >= 0 &&
		*work_source->idle_timeout * 1000L < nap)
		nap = Max(1, *work_source->idle_timeout * 1000L);
	if (sabot_pool_get_pair(sabot_my_pair(), &pair) &&
		pair.next_due != 0)
		nap = Min(nap, TimestampDifferenceMilliseconds(now, pair.next_due) + 1);
	return nap;
}

/*
 * sabot_agent_service_requests - what a waiting backend has to do when it is
 * woken
 *
 * Signal barriers among them: an agent that did not take part would make
 * DROP DATABASE of any database hang.  In no transaction.
 */
void
sabot_agent_service_requests(void)
{
	CHECK_FOR_INTERRUPTS();
	ProcessCatchupInterruptIfPending();
	if (ConfigReloadPending)
	{
		if (query_server)
			query_server->come_home();
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		if (query_server)
			query_server->settings_changed();
	}
}

/*
 * serve_query - take part in the query our agent has been taken for
 */
static void
serve_query(void)
{
	static int	done = 0;

	admin_cancel = false;
	query_server->run();
	(void) sabot_pool_end_work();
	pgstat_report_stat(false);
	if (++done % QUERIES_PER_REPORT == 0)
		sabot_slot_note_memory(MemoryContextMemAllocated(TopMemoryContext,
														 true));
}

/*
 * await_announced - if a commit has been announced, wait for it awake
 *
 * That is for the time a fast disk takes to write a commit; what takes longer
 * sets the latch.  On a machine with one processor it would keep the commit
 * itself from running.
 */
static void
await_announced(void)
{
	volatile SabotSlot *slot = my_slot;
	instr_time	start;
	instr_time	now;

	if (!slot->announced)
		return;
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
	{
		INSTR_TIME_SET_CURRENT(start);
		do
		{
			SPIN_DELAY();
			INSTR_TIME_SET_CURRENT(now);
			INSTR_TIME_SUBTRACT(now, start);
		} while (!slot->signaled &&
				 INSTR_TIME_GET_MICROSEC(now) < ANNOUNCED_US);
	}
	slot->announced = false;
}

/*
 * sleep_parked - sleep until our agent is woken, or it is time to look for work
 *
 * Returns how it stands then.
 */
static SabotParking
sleep_parked(TimestampTz look_at)
{
	SabotParking parking;
	int			events;

	do
	{
		TimestampTz now = GetCurrentTimestamp();
		long		nap = TimestampDifferenceMilliseconds(now, look_at);

		events = WaitLatch(MyLatch,
						   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   Min(nap, nap_ms()), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		await_announced();
		sabot_agent_service_requests();
		parking = sabot_slot_unpark();
		/* Whoever has taken us hands us something, or gives us back. */
		if (parking == SABOT_PARKED_RESERVED)
			look_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  AGENT_NAP_MS);
	} while (parking == SABOT_PARKED_RESERVED);
	if (parking == SABOT_PARKED_UNTOLD && (events & WL_TIMEOUT))
		parking = SABOT_PARKED_FREE;
	return parking;
}

/*
 * wait_for_work - sleep until there may be something to do, and serve queries
 *
 * After a query, and when one is taken back, the session lets go of queues that
 * it shares with us, and each time wakes us though we are told nothing.  To
 * look for work then would be to come home, and to put the settings of that
 * session in force anew for its next query.
 *
 * Returns false if the agent is to leave.
 */
static bool
wait_for_work(void)
{
	TimestampTz look_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  AGENT_NAP_MS);
	bool		served = false;

	while (sabot_slot_set_idle(query_server && query_server->ready()))
	{
		bool		leave = idle_too_long() || !sabot_enabled;
		SabotParking parking;

		if (!served)
			report_idle();
		parking = leave ? sabot_slot_unpark() : SABOT_PARKED_RESERVED;
		if (parking == SABOT_PARKED_RESERVED)
			parking = sleep_parked(look_at);
		if (parking == SABOT_PARKED_TAKEN)
			serve_query();
		else if (leave)
			return false;
		served = parking == SABOT_PARKED_TAKEN ||
			(parking == SABOT_PARKED_UNTOLD &&
			 !sabot_agent_authority_changed());
		if (!served || GetCurrentTimestamp() >= look_at)
		{
			AcceptInvalidationMessages();
			if (sabot_agent_authority_changed())
				return false;
			break;
		}
	}
	return !sabot_agent_must_leave();
}

/*
 * work_until_idle - do all the work there is
 *
 * Returns false if the agent is to leave.
 */
static bool
work_until_idle(void)
{
	int			done = 0;

	sabot_slot_look();
	if (query_server)
		query_server->come_home();
	for (;;)
	{
		sabot_agent_service_requests();
		if (sabot_agent_must_leave() || !sabot_enabled ||
			sabot_agent_authority_changed())
			return false;
		admin_cancel = false;
		if (!work_source->run_next())
			return true;
		pgstat_report_stat(false);
		if (++done % MEMORY_REPORT_EVERY == 0)
			sabot_slot_note_memory(MemoryContextMemAllocated(TopMemoryContext,
															 true));
	}
}

/*
 * agent_connect - become the agent of a slot, connected as its role
 */
static void
agent_connect(int slotno)
{
	uint64		generation;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	my_slot = &sabot_pool->slots[slotno];
	work_source = sources[my_slot->crew];
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, handle_sigint);

	sabot_slot_attach(slotno, generation);
	interrupts_seen = my_slot->interrupts_sent;
	on_shmem_exit(agent_exit, 0);
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = keep_last_error;
	BackgroundWorkerUnblockSignals();

	whereToSendOutput = DestNone;

	/* Watched from before they are looked at: no change may slip through. */
	my_settings_epoch = sabot_pool_settings_epoch();
	CacheRegisterSyscacheCallback(AUTHOID, note_invalidation, (Datum) 0);
	CacheRegisterSyscacheCallback(DATABASEOID, note_invalidation, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(my_slot->dbid, my_slot->roleid,
											  SABOT_BGWORKER_FLAGS);
	before_shmem_exit(agent_before_exit, 0);
	if (my_slot->crew == SABOT_AGENTS && sabot_pool_query_server() &&
		sabot_pool_query_server()->attach())
		query_server = sabot_pool_query_server();
	StartTransactionCommand();
	learn_hashes();
	CommitTransactionCommand();
	sabot_profile_add(SABOT_AGENT_START, my_slot->started_at,
					  GetCurrentTimestamp());
}

/*
 * sabot_agent_main - an agent's process; arg is the number of its slot
 */
void
sabot_agent_main(Datum arg)
{
	agent_connect(DatumGetInt32(arg));
	if (work_source->attach)
		work_source->attach();
	while (work_until_idle() && wait_for_work())
		 /* nothing else */ ;
	proc_exit(0);
}
