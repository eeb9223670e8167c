/*-------------------------------------------------------------------------
 *
 * pool_utility.c
 *		Makes way for commands that agents would stand in the way of.
 *
 * A warm agent is a session connected to a database, and some commands need a
 * database without sessions.  Whoever runs such a command has asked for idle
 * agents to go, so they go before it starts and stay away until its end.  A
 * running job is a user's work, which only DROP DATABASE ... (FORCE) and DROP
 * EXTENSION may interrupt.  The hook also notices what changes the ground
 * agents stand on: settings of roles and databases, and the commit of prepared
 * transactions that leave work.
 *
 * IDENTIFICATION
 *		src/pool/pool_utility.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "pool/pool.h"
#include "pool/pool_shared.h"

/* How long to wait for idle agents to be gone, in ms. */
#define MAKE_WAY_MS 5000

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static bool barred = false;		/* this session has bars */
static Oid	dropped_database = InvalidOid;	/* by this transaction */
static bool settings_changed = false;	/* in this transaction */
static Oid	settings_database = InvalidOid; /* of which database, if one */
static char prepared_gid[GIDSIZE] = ""; /* its name if it is prepared */
static bool prepares_work = false;	/* of which agents are not told */

/*
 * unbar_at_exit - exit callback: lift this session's bars
 */
static void
unbar_at_exit(int code, Datum arg)
{
	if (barred)
		sabot_pool_unbar();
}

/*
 * make_way - have agents and probers leave a database and wait until they have
 *
 * With interrupt_busy, running work is given back and waited for too.
 */
static void
make_way(Oid dbid, bool interrupt_busy)
{
	static bool registered = false;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   MAKE_WAY_MS);

	if (!registered)
		before_shmem_exit(unbar_at_exit, (Datum) 0);
	registered = true;
	if (!sabot_pool_bar(dbid, interrupt_busy))
		return;
	barred = true;

	while ((sabot_pool_agents_in(dbid, interrupt_busy) > 0 ||
			sabot_probe_is_in(dbid)) && GetCurrentTimestamp() < deadline)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 5, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * may_copy - whether the current role, which does not own a database, could
 * use it as a template all the same
 */
static bool
may_copy(Oid dbid)
{
	HeapTuple	tuple;
	bool		result = false;

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dbid));
	if (HeapTupleIsValid(tuple))
	{
		result &= ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * make_way_for_database - as make_way, for a database that may not exist and
 * a user who may not be allowed to do what he is about to try
 */
static void
make_way_for_database(const char *name, bool as_template, bool interrupt_busy)
{
	Oid			dbid = get_database_oid(name, true);

	if (!OidIsValid(dbid))
		return;
	if (!object_ownercheck(DatabaseRelationId, dbid, GetUserId()) &&
		!(as_template && may_copy(dbid)))
		return;
	make_way(dbid, interrupt_busy);
}

/*
 * option_string - the value of a named DefElem, or NULL
 */
static char *
option_string(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return def->arg ? defGetString(def) : pstrdup("");
	}
	return NULL;
}

/*
 * drops_sabot - whether a DROP EXTENSION names sabot, by its owner
 */
static bool
drops_sabot(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
	{
		Oid			extension;

		if (strcmp(strVal(lfirst(lc)), "sabot") != 0)
			continue;
		extension = get_extension_oid("sabot", true);
		if (OidIsValid(extension) &&
			object_ownercheck(ExtensionRelationId, extension, GetUserId()))
			return true;
	}
	return false;
}

/*
 * make_way_for_drop - the extension is about to be dropped in this database
 */
static void
make_way_for_drop(void)
{
	make_way(MyDatabaseId, true);
	for (SabotCrew crew = 0; crew < SABOT_NCREWS; crew++)
		if (sabot_agent_source(crew) && sabot_agent_source(crew)->before_drop)
			sabot_agent_source(crew)->before_drop();
}

/*
 * before_command - make way if a command needs it
 */
static void
before_command(Node *stmt)
{
	char	   *source;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			dropped_database = get_database_oid(((DropdbStmt *) stmt)->dbname,
												true);
			make_way_for_database(((DropdbStmt *) stmt)->dbname, false,
								  option_string(((DropdbStmt *) stmt)->options,
												"force") != NULL);
			break;
		case T_CreatedbStmt:
			source = option_string(((CreatedbStmt *) stmt)->options, "template");
			make_way_for_database(source ? source : "template1", true, false);
			break;
		case T_AlterDatabaseStmt:
			if (option_string(((AlterDatabaseStmt *) stmt)->options, "tablespace"))
				make_way_for_database(((AlterDatabaseStmt *) stmt)->dbname,
									  false, false);
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				make_way_for_database(((RenameStmt *) stmt)->subname,
									  false, false);
			break;
		case T_DropStmt:
			if (drops_sabot((DropStmt *) stmt))
				make_way_for_drop();
			break;
		default:
			break;
	}
}

/*
 * note_settings - settings of a role or a database have been changed
 *
 * sabot.keep_agents of a role in a database is for a prober to find.
 */
static void
note_settings(Node *stmt)
{
	settings_changed = true;
	if (IsA(stmt, AlterRoleSetStmt) && ((AlterRoleSetStmt *) stmt)->database)
		settings_database =
			get_database_oid(((AlterRoleSetStmt *) stmt)->database, true);
}

/*
 * sabot_pool_prepare_work - the transaction that is about to be prepared has
 * work for agents
 */
void
sabot_pool_prepare_work(void)
{
	prepares_work = true;
}

/*
 * before_transaction_command - note what a command does to prepared
 * transactions
 *
 * Returns whether a probe has to look for what it leaves, if it succeeds.  If
 * it does not, an attempt that does will cost a probe, needed or not.
 */
static bool
before_transaction_command(const TransactionStmt *stmt)
{
	switch (stmt->kind)
	{
		case TRANS_STMT_PREPARE:
			strlcpy(prepared_gid, stmt->gid, GIDSIZE);
			return false;
		case TRANS_STMT_COMMIT_PREPARED:
			return sabot_probe_forget_prepared(stmt->gid);
		case TRANS_STMT_ROLLBACK_PREPARED:
			(void) sabot_probe_forget_prepared(stmt->gid);
			return false;
		default:
			return false;
	}
}

/*
 * process_utility - ProcessUtility hook
 */
static void
process_utility(PlannedStmt *pstmt, const char *queryString,
				bool readOnlyTree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *queryEnv,
				DestReceiver *dest, QueryCompletion *qc)
{
	NodeTag		tag = nodeTag(pstmt->utilityStmt);
	Node	   *stmt = pstmt->utilityStmt;
	bool		leaves_work = false;

	if (tag == T_TransactionStmt)
		leaves_work = before_transaction_command((TransactionStmt *) stmt);
	else
		before_command(stmt);
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context,
							params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);

	/* COMMIT may have freed the tree. */
	if (leaves_work)
		sabot_pool_request_probe(MyDatabaseId);
	else if (tag == T_AlterRoleSetStmt || tag == T_AlterDatabaseSetStmt)
		note_settings(stmt);
}

/*
 * end_of_transaction - transaction callback: act on what was noted
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (barred)
		sabot_pool_unbar();
	barred = false;
	if (event == XACT_EVENT_PREPARE && prepared_gid[0] != '\0')
		sabot_probe_note_prepared(prepared_gid,
								  prepares_work || settings_changed);
	prepared_gid[0] = '\0';
	prepares_work = false;
	if (OidIsValid(dropped_database) && event == XACT_EVENT_COMMIT)
		sabot_pair_forget_database(dropped_database);
	dropped_database = InvalidOid;
	if (settings_changed && event != XACT_EVENT_ABORT)
	{
		sabot_pool_settings_changed();
		if (OidIsValid(settings_database))
			sabot_pool_request_probe(settings_database);
	}
	settings_changed = false;
	settings_database = InvalidOid;
}

/*
 * sabot_pool_install_hooks - install the hooks of the pool
 */
void
sabot_pool_install_hooks(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(end_of_transaction, NULL);
}
