/*-------------------------------------------------------------------------
 *
 * pool_prober.c
 *		Short-lived workers that look into one database each.
 *
 * Agents connect as the role whose work they do, so they cannot look for the
 * work of others; and the launcher is connected to no database.  A prober
 * finds out which roles have work in a database and puts right what was lost
 * there, as the owner of the extension, and goes.  A few run at a time, in
 * the order of the launcher's list.
 *
 * IDENTIFICATION
 *		src/pool/pool_prober.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/* A prober that did not get to its end is tried again, so often and after. */
#define MAX_FAILURES	5
#define RETRY_MS		1000

/* One prober the launcher has started. */
typedef struct Prober
{
	Oid			dbid;			/* InvalidOid if there is none */
	BackgroundWorkerHandle *handle;
} Prober;

/* A database whose prober failed. */
typedef struct FailedProbe
{
	Oid			dbid;
	int			failures;
	TimestampTz retry_at;		/* 0 = being tried again */
} FailedProbe;

static Prober probers[SABOT_MAX_PROBERS];
static List *todo = NIL;		/* OIDs of databases, in TopMemoryContext */
static List *failed = NIL;		/* FailedProbe, in TopMemoryContext */

/*
 * sabot_prober_queue - note a database to be probed, first or last
 *
 * Launcher only.
 */
void
sabot_prober_queue(Oid dbid, bool first)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (!list_member_oid(todo, dbid))
		todo = first ? lcons_oid(dbid, todo) : lappend_oid(todo, dbid);
	MemoryContextSwitchTo(old);
}

/*
 * sabot_prober_sweep - note every database that can be connected to
 *
 * Launcher only.
 */
void
sabot_prober_sweep(void)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);

		if (db->datallowconn && db->datconnlimit != DATCONNLIMIT_INVALID_DB)
			sabot_prober_queue(db->oid, false);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/*
 * start_prober - start a prober for a database
 *
 * Returns false if there is no background worker slot.
 */
static bool
start_prober(Prober *prober, Oid dbid)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(dbid);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, SABOT_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sabot_prober_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "sabot prober %u", dbid);
	strlcpy(worker.bgw_type, "sabot prober", BGW_MAXLEN);

	sabot_probe_begin(prober - probers, dbid);
	if (!RegisterDynamicBackgroundWorker(&worker, &prober->handle))
		return false;
	prober->dbid = dbid;
	return true;
}

/*
 * find_failure - what is noted of failed probes of a database, or NULL
 */
static FailedProbe *
find_failure(Oid dbid)
{
	ListCell   *lc;

	foreach(lc, failed)
	{
		FailedProbe *entry = lfirst(lc);

		if (entry->dbid == dbid)
			return entry;
	}
	return NULL;
}

/*
 * note_result - a prober of a database has ended
 *
 * One that failed is tried again a few times; then the database has to wait
 * until somebody asks for it, or the next sweep.
 */
static void
note_result(Oid dbid, bool has_failed)
{
	FailedProbe *entry = find_failure(dbid);

	if (has_failed && entry == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		entry = palloc0(sizeof(FailedProbe));
		entry->dbid = dbid;
		failed = lappend(failed, entry);
		MemoryContextSwitchTo(old);
	}
	if (has_failed && ++entry->failures < MAX_FAILURES)
		entry->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  RETRY_MS * entry->failures);
	else if (entry != NULL)
	{
		failed = list_delete_ptr(failed, entry);
		pfree(entry);
	}
}

/*
 * queue_failed - note databases again whose probers failed a while ago
 *
 * Returns whether there are others that have to wait longer.
 */
static bool
queue_failed(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		waiting = false;
	ListCell   *lc;

	foreach(lc, failed)
	{
		FailedProbe *entry = lfirst(lc);

		if (entry->retry_at != 0 && entry->retry_at <= now)
		{
			entry->retry_at = 0;
			sabot_prober_queue(entry->dbid, false);
		}
		waiting |= entry->retry_at != 0;
	}
	return waiting;
}

/*
 * is_being_probed - whether a prober is in a database just now
 */
static bool
is_being_probed(Oid dbid)
{
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
		if (probers[i].dbid == dbid)
			return true;
	return false;
}

/*
 * reap - note how a prober has come that has ended
 *
 * One that has given way is to come again, whatever it has done.
 */
static void
reap(int n)
{
	Prober	   *prober = &probers[n];
	bool		has_failed = sabot_probe_failed(n);

	if (sabot_probe_gave_way(n))
		sabot_prober_queue(prober->dbid, false);
	else
		note_result(prober->dbid, has_failed);
	pfree(prober->handle);
	prober->dbid = InvalidOid;
}

/*
 * next_database - the first database on the list that a prober may go to now,
 * or InvalidOid
 *
 * There is one at a time in a database, so that they need no locks, and none in
 * one that is barred: whoever lifts the bar wakes us.
 */
static Oid
next_database(void)
{
	ListCell   *lc;

	foreach(lc, todo)
		if (!is_being_probed(lfirst_oid(lc)) &&
			!sabot_pool_is_barred(lfirst_oid(lc)))
		return lfirst_oid(lc);
	return InvalidOid;
}

/*
 * sabot_prober_advance - reap probers that ended and start the next ones
 *
 * Launcher only.  Returns false if something is left to do that no event
 * will tell of.
 */
bool
sabot_prober_advance(void)
{
	bool		waiting;

	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
	{
		Prober	   *prober = &probers[i];
		pid_t		pid;

		if (!OidIsValid(prober->dbid) ||
			GetBackgroundWorkerPid(prober->handle, &pid) != BGWH_STOPPED)
			continue;
		reap(i);
	}
	waiting = queue_failed();
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
	{
		Prober	   *prober = &probers[i];
		Oid			dbid;

		if (OidIsValid(prober->dbid) || !OidIsValid(dbid = next_database()))
			continue;
		if (!start_prober(prober, dbid))
			return false;
		todo = list_delete_oid(todo, dbid);
	}
	return !waiting;
}

/*
 * keep_agents_setting - sabot.keep_agents in a pg_db_role_setting array
 *
 * Returns -1 if it is not there.
 */
static int
keep_agents_setting(Datum config)
{
	static const char prefix[] = "sabot.keep_agents=";
	Datum	   *elems;
	int			nelems;
	int			result = -1;

	deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, NULL, &nelems);
	for (int i = 0; i < nelems; i++)
	{
		char	   *setting = TextDatumGetCString(elems[i]);

		if (pg_strncasecmp(setting, prefix, strlen(prefix)) == 0)
			result = atoi(setting + strlen(prefix));
	}
	return result;
}

/*
 * sabot_prober_read_keep_agents - find the pairs of this database whose agents
 * are kept from the start on
 *
 * Those are the ones that ALTER ROLE ... IN DATABASE ... SET names; other ways
 * to set sabot.keep_agents count from a pair's first agent on.
 */
void
sabot_prober_read_keep_agents(void)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_db_role_setting form =
		(Form_pg_db_role_setting) GETSTRUCT(tuple);
		bool		isnull;
		Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										  RelationGetDescr(rel), &isnull);
		int			keep;

		if (isnull || form->setdatabase != MyDatabaseId ||
			!OidIsValid(form->setrole))
			continue;
		keep = keep_agents_setting(config);
		if (keep >= 0)
			sabot_pair_set_keep(sabot_pair(form->setrole, SABOT_AGENTS), keep);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/*
 * sabot_prober_main - a prober's process; arg is the database's OID
 *
 * Connects as the bootstrap superuser, as the extension's owner is not known
 * before; the room above becomes that role for its statements.
 */
void
sabot_prober_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	if (!sabot_probe_attach(DatumGetObjectId(arg)))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	pgstat_report_appname("sabot prober");
	for (SabotCrew crew = 0; crew < SABOT_NCREWS; crew++)
		if (sabot_agent_source(crew) && sabot_agent_source(crew)->probe)
			sabot_agent_source(crew)->probe();
	sabot_probe_done();
	if (sabot_pool_query_server())
		sabot_pool_query_server()->probe();
	proc_exit(0);
}
