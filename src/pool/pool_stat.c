/*-------------------------------------------------------------------------
 *
 * pool_stat.c
 *		What SQL sees of the pool, and the two functions that size it by hand.
 *
 * The views run with the rights of who reads them, and so do the functions
 * below them: whoever may use a view may call its function directly.  Each
 * function therefore decides itself which agents the caller may see: those of
 * roles whose privileges he has, or all of them for pg_monitor.
 *
 * Starting agents is the launcher's work.  A session that asks for some polls
 * the slots instead of being woken: it happens rarely, takes milliseconds, and
 * needs no list of waiters that the launcher would have to look after.
 *
 * IDENTIFICATION
 *		src/pool/pool_stat.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "guc.h"
#include "pool/pool.h"

#define POLL_MS				10
#define START_TIMEOUT_MS	30000
#define STALL_TIMEOUT_MS	5000	/* no agent starting for so long */
#define NO_WORKER_GRACE_MS	1000	/* what others have seen may be over */
#define STOP_TIMEOUT_MS		10000
#define MAX_SHOWN_PAIRS		4096

/* The agents of one pair, and whether more can be had at all. */
typedef struct PairCount
{
	int			ready;			/* idle or busy, and to stay */
	int			starting;
	int			leaving;		/* asked to leave and without work */
	int			others_leaving; /* of other pairs, or dead */
} PairCount;

PG_FUNCTION_INFO_V1(sabot_agent_slots);
PG_FUNCTION_INFO_V1(sabot_pool_counters);
PG_FUNCTION_INFO_V1(sabot_pair_failures);
PG_FUNCTION_INFO_V1(sabot_start_agents);
PG_FUNCTION_INFO_V1(sabot_stop_agents);

/*
 * may_see_role - whether the caller may see what agents of a role do
 */
static bool
may_see_role(Oid roleid)
{
	return has_privs_of_role(GetUserId(), roleid) ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/*
 * copy_slots - the slots, in the caller's memory context; *nslots of them
 */
static SabotSlot *
copy_slots(int *nslots)
{
	SabotSlot  *slots;

	*nslots = sabot_pool_nslots();
	slots = palloc0(sizeof(SabotSlot) * Max(*nslots, 1));
	sabot_pool_copy_slots(slots);
	return slots;
}

/*
 * slot_state_name - how agent_status calls the state of a slot, NULL for
 * slots it does not show because they have no process
 */
static const char *
slot_state_name(const SabotSlot *slot)
{
	switch (slot->state)
	{
		case SABOT_SLOT_STARTING:
			return "starting";
		case SABOT_SLOT_IDLE:
			return slot->stop ? "stopping" : "idle";
		case SABOT_SLOT_BUSY:
			return slot->waiting ? "waiting" : "busy";
		case SABOT_SLOT_STOPPING:
			return "stopping";
		case SABOT_SLOT_FREE:
		case SABOT_SLOT_LOST:
			break;
	}
	return NULL;
}

/*
 * put_name - fill a column of type name, NULL if there is none
 */
static void
put_name(Datum *value, bool *isnull, const char *name)
{
	*isnull = name == NULL;
	if (name != NULL)
		*value = DirectFunctionCall1(namein, CStringGetDatum(name));
}

/*
 * put_slot - add the row of one slot
 *
 * Work that is no job, such as sabot.run, has no job_id to show.
 */
static void
put_slot(ReturnSetInfo *rsinfo, int slotno, const SabotSlot *slot)
{
	Datum		values[10] = {0};
	bool		nulls[10] = {0};

	values[0] = Int32GetDatum(slotno);
	values[1] = Int32GetDatum((int32) slot->pid);
	nulls[1] = slot->pid == 0;
	put_name(&values[2], &nulls[2], get_database_name(slot->dbid));
	put_name(&values[3], &nulls[3], GetUserNameFromId(slot->roleid, true));
	values[4] = CStringGetTextDatum(slot_state_name(slot));
	values[5] = Int64GetDatum(slot->work_id);
	nulls[5] = slot->work_id <= 0;
	values[6] = TimestampTzGetDatum(slot->since);
	nulls[6] = slot->since == 0;
	values[7] = Int64GetDatum(slot->jobs_done);
	values[8] = Int64GetDatum(slot->queries_done);
	values[9] = Int64GetDatum(slot->memory_bytes);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.agent_slots() RETURNS SETOF record
 *
 * The agents the caller may see; none without preload.
 */
Datum
sabot_agent_slots(PG_FUNCTION_ARGS)
{
	SabotSlot  *slots;
	int			nslots;

	InitMaterializedSRF(fcinfo, 0);
	slots = copy_slots(&nslots);
	for (int i = 0; i < nslots; i++)
	{
		if (slots[i].crew == SABOT_AGENTS &&
			slot_state_name(&slots[i]) != NULL &&
			may_see_role(slots[i].roleid))
			put_slot((ReturnSetInfo *) fcinfo->resultinfo, i, &slots[i]);
	}
	return (Datum) 0;
}

/*
 * SQL: sabot.pool_counters() RETURNS record
 *
 * Totals of the pool and what they depend on; zeros without preload.
 */
Datum
sabot_pool_counters(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	SabotPoolTotals totals = {0};
	Datum		values[17];
	bool		nulls[17] = {0};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	sabot_pool_totals(SABOT_AGENTS, &totals);
	values[0] = Int32GetDatum(totals.agents);
	values[1] = Int32GetDatum(totals.busy);
	values[2] = Int32GetDatum(totals.idle);
	values[3] = Int32GetDatum(totals.starting);
	values[4] = Int32GetDatum(totals.limit);
	values[5] = Int32GetDatum(totals.waiting_pairs);
	values[6] = Int64GetDatum(totals.starts);
	values[7] = Int64GetDatum(totals.evictions);
	values[8] = Int64GetDatum(totals.losses);
	values[9] = Int32GetDatum(totals.waiting);
	values[10] = Int32GetDatum(totals.capacity);
	values[11] = Int32GetDatum(sabot_pool_size);
	values[12] = BoolGetDatum(totals.no_worker_slot);
	values[13] = BoolGetDatum(totals.launcher_running);
	values[14] = BoolGetDatum(sabot_pool_attached());
	values[15] = BoolGetDatum(sabot_enabled);
	values[16] = TimestampTzGetDatum(totals.waiting_since);
	nulls[16] = totals.waiting_since == 0;

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}

/*
 * put_failures - add the row of one pair whose agents cannot start
 */
static void
put_failures(ReturnSetInfo *rsinfo, const SabotPair *pair)
{
	Datum		values[6] = {0};
	bool		nulls[6] = {0};

	put_name(&values[0], &nulls[0], get_database_name(pair->key.dbid));
	put_name(&values[1], &nulls[1], GetUserNameFromId(pair->key.roleid, true));
	values[2] = Int32GetDatum(pair->failures);
	values[3] = TimestampTzGetDatum(pair->retry_at);
	nulls[3] = pair->give_up || pair->retry_at == 0;
	nulls[4] = pair->sqlstate == 0;
	if (pair->sqlstate != 0)
		values[4] = CStringGetTextDatum(unpack_sql_state(pair->sqlstate));
	values[5] = CStringGetTextDatum(pair->error);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.pair_failures() RETURNS SETOF record
 *
 * The (database, role) pairs, of those the caller may see, whose agents could
 * not start lately; none without preload.
 */
Datum
sabot_pair_failures(PG_FUNCTION_ARGS)
{
	SabotPair  *pairs;
	int			npairs;

	InitMaterializedSRF(fcinfo, 0);
	pairs = palloc(sizeof(SabotPair) * MAX_SHOWN_PAIRS);
	npairs = sabot_pool_copy_pairs(pairs, MAX_SHOWN_PAIRS);
	for (int i = 0; i < npairs; i++)
	{
		if ((pairs[i].failures > 0 || pairs[i].give_up) &&
			may_see_role(pairs[i].key.roleid))
			put_failures((ReturnSetInfo *) fcinfo->resultinfo, &pairs[i]);
	}
	return (Datum) 0;
}

/*
 * count_my_agents - count the agents of the caller's pair
 *
 * "slots" is room for all slots, so that polling allocates nothing.
 */
static PairCount
count_my_agents(SabotSlot *slots, int nslots)
{
	PairCount	count = {0};

	sabot_pool_copy_slots(slots);
	for (int i = 0; i < nslots; i++)
	{
		const SabotSlot *slot = &slots[i];

		if (slot->state == SABOT_SLOT_FREE || slot->crew != SABOT_AGENTS)
			continue;
		if (slot->state == SABOT_SLOT_LOST ||
			slot->dbid != MyDatabaseId || slot->roleid != GetUserId())
			count.others_leaving += slot->state == SABOT_SLOT_LOST ||
				(slot->stop && slot->work_id == 0);
		else if (slot->stop && slot->work_id == 0)
			count.leaving++;
		else if (slot->state == SABOT_SLOT_STARTING)
			count.starting++;
		else if (!slot->stop)
			count.ready++;
	}
	return count;
}

/*
 * poll_pause - sleep until the pool is to be looked at again
 *
 * Interruptible; exits with the postmaster.
 */
static void
poll_pause(void)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("SabotPoolPoll");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 POLL_MS, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * require_startable - raise 55000 if the launcher would not start anything
 */
static void
require_startable(void)
{
	sabot_pool_require();
	if (!sabot_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start agents while sabot.enabled is off"),
				 errhint("Set sabot.enabled to on and reload the configuration.")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start agents during recovery")));
}

/*
 * raise_start_failure - raise what kept agents of the caller from starting
 *
 * Returns if nothing has since "failures" starts had failed.
 */
static void
raise_start_failure(int failures)
{
	SabotPair	pair;

	if (!sabot_pool_get_pair(sabot_pair(GetUserId(), SABOT_AGENTS), &pair) ||
		(pair.failures <= failures && !pair.give_up))
		return;
	ereport(ERROR,
			(errcode(pair.sqlstate != 0 ? pair.sqlstate :
					 ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("agents cannot start: %s", pair.error)));
}

/*
 * out_of_agents - whether waiting longer will not bring more agents
 *
 * waited_ms is since the request, stalled_ms since an agent was last seen
 * starting.
 */
static bool
out_of_agents(const PairCount *count, long waited_ms, long stalled_ms)
{
	SabotPoolTotals totals;

	if (count->starting > 0)
		return waited_ms >= START_TIMEOUT_MS;
	if (waited_ms >= START_TIMEOUT_MS || stalled_ms >= STALL_TIMEOUT_MS)
		return true;
	sabot_pool_totals(SABOT_AGENTS, &totals);
	if (totals.no_worker_slot)
		return stalled_ms >= NO_WORKER_GRACE_MS;
	return totals.agents >= totals.limit &&
		count->leaving + count->others_leaving == 0;
}

/*
 * wait_for_agents - wait until the caller's pair has n agents
 *
 * Returns how many it has: fewer if the pool has no room for more.  Raises the
 * error that kept one from starting, if more than "failures" have failed.
 */
static int
wait_for_agents(int n, int failures)
{
	int			nslots = sabot_pool_nslots();
	SabotSlot  *slots = palloc(sizeof(SabotSlot) * nslots);
	TimestampTz begin = GetCurrentTimestamp();
	TimestampTz progress = begin;
	PairCount	count;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		count = count_my_agents(slots, nslots);
		if (count.ready >= n)
			break;
		raise_start_failure(failures);
		if (count.starting > 0)
			progress = now;
		if (out_of_agents(&count, TimestampDifferenceMilliseconds(begin, now),
						  TimestampDifferenceMilliseconds(progress, now)))
			break;
		poll_pause();
	}
	pfree(slots);
	return count.ready;
}

/*
 * SQL: sabot.start_agents(n int = NULL) RETURNS int
 *
 * Starts agents for the caller in this database until it has n of them, by
 * default as many as the pool allows, and waits until they are connected, 30 s
 * at most.  They take free places only: idle agents of others make way for
 * work, and not for this.  Returns how many there are.  Raises 22023 for a
 * negative n, 55000 if nothing can be started, or the error that an agent
 * failed with.
 */
Datum
sabot_start_agents(PG_FUNCTION_ARGS)
{
	SabotPairKey key = sabot_pair(GetUserId(), SABOT_AGENTS);
	SabotPoolTotals totals;
	SabotPair	pair;
	int			n;
	int			ready = 0;
	int			failures = 0;

	if (!PG_ARGISNULL(0) && PG_GETARG_INT32(0) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of agents must not be negative")));
	require_startable();

	sabot_pool_totals(SABOT_AGENTS, &totals);
	n = PG_ARGISNULL(0) ? totals.limit : Min(PG_GETARG_INT32(0), totals.limit);
	sabot_pool_want_agents(key, n);
	if (sabot_pool_get_pair(key, &pair))
		failures = pair.failures;
	PG_TRY();
	{
		ready = wait_for_agents(n, failures);
	}
	PG_FINALLY();
	{
		sabot_pool_want_no_more(key, n);
	}
	PG_END_TRY();
	PG_RETURN_INT32(ready);
}

/*
 * SQL: sabot.stop_agents() RETURNS int
 *
 * Asks the caller's agents in this database to leave: idle ones do at once,
 * and are waited for (10 s at most), busy ones after their job.  Returns how
 * many were asked.  Raises 55000 without preload.
 */
Datum
sabot_stop_agents(PG_FUNCTION_ARGS)
{
	TimestampTz begin = GetCurrentTimestamp();
	SabotSlot  *slots;
	int			nslots;
	int			asked;

	sabot_pool_require();
	slots = copy_slots(&nslots);
	asked = sabot_pool_stop_agents(sabot_pair(GetUserId(), SABOT_AGENTS));
	while (count_my_agents(slots, nslots).leaving > 0 &&
		   !TimestampDifferenceExceeds(begin, GetCurrentTimestamp(),
									   STOP_TIMEOUT_MS))
		poll_pause();
	PG_RETURN_INT32(asked);
}
