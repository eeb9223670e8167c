/*-------------------------------------------------------------------------
 *
 * pool_bar.c
 *		Keeps agents out of a database for a while.
 *
 * A command that needs a database without sessions asks its agents to leave
 * and bars it, or the launcher would start others at once.  Bars name the
 * process that set them and end with its command, however that ends.
 *
 * IDENTIFICATION
 *		src/pool/pool_bar.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"


/*
 * sabot_pool_is_barred_locked - true if agents are to keep out of a database
 */
bool
sabot_pool_is_barred_locked(Oid dbid)
{
	for (int i = 0; i < SABOT_MAX_BARS; i++)
		if (sabot_pool->bars[i].dbid == dbid)
			return true;
	return false;
}

/*
 * sabot_pool_is_barred - the same, for who does not hold the lock
 */
bool
sabot_pool_is_barred(Oid dbid)
{
	bool		barred;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	barred = sabot_pool_is_barred_locked(dbid);
	LWLockRelease(sabot_pool->lock);
	return barred;
}

/*
 * is_other_agent_locked - whether an agent of a database has a slot
 *
 * An agent that bars its own database does not stand in its own way.
 */
static bool
is_other_agent_locked(const SabotSlot *slot, Oid dbid)
{
	return sabot_slot_is_live(slot) && slot->dbid == dbid &&
		slot->pid != MyProcPid;
}

/*
 * clear_database_locked - ask the agents of a database to leave, and end the
 * prober that is there: it comes again
 *
 * With interrupt_busy, running work is given back, else it goes on.
 */
static void
clear_database_locked(Oid dbid, bool interrupt_busy)
{
	sabot_probe_give_way_locked(dbid);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (!is_other_agent_locked(slot, dbid))
			continue;
		sabot_slot_leave_locked(slot);
		/* A query is its session's, which may be in the way itself. */
		if (interrupt_busy && slot->work_id != 0 &&
			!sabot_work_is_query(slot->work_id))
			sabot_work_interrupt_locked(slot, SABOT_INTERRUPT_GIVE_BACK);
	}
}

/*
 * sabot_pool_bar - keep agents and probers out of a database until sabot_pool_unbar()
 *
 * Asks those that are there to leave; with interrupt_busy, running work is
 * given back, else it goes on.  Returns false if there are too many bars
 * already, and then nothing has happened.
 */
bool
sabot_pool_bar(Oid dbid, bool interrupt_busy)
{
	SabotBar   *bar = NULL;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_BARS && bar == NULL; i++)
		if (!OidIsValid(sabot_pool->bars[i].dbid))
			bar = &sabot_pool->bars[i];
	if (bar)
	{
		bar->dbid = dbid;
		bar->pid = MyProcPid;
		clear_database_locked(dbid, interrupt_busy);
	}
	LWLockRelease(sabot_pool->lock);
	return bar != NULL;
}

/*
 * sabot_pool_agents_in - other agents of a database, without busy ones unless
 * busy_too
 */
int
sabot_pool_agents_in(Oid dbid, bool busy_too)
{
	int			n = 0;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	for (int i = 0; i < sabot_pool->nslots; i++)
	{
		SabotSlot  *slot = &sabot_pool->slots[i];

		if (is_other_agent_locked(slot, dbid) &&
			(busy_too || slot->work_id == 0))
			n++;
	}
	LWLockRelease(sabot_pool->lock);
	return n;
}

/*
 * sabot_pool_unbar - lift every bar of this session
 */
void
sabot_pool_unbar(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_BARS; i++)
		if (sabot_pool->bars[i].pid == MyProcPid)
			memset(&sabot_pool->bars[i], 0, sizeof(SabotBar));
	sabot_pool_wake_launcher_locked();
	LWLockRelease(sabot_pool->lock);
}
