/*-------------------------------------------------------------------------
 *
 * job_catalog.c
 *		Where sabot's objects are in this database, and how its own SQL runs.
 *
 * sabot's own statements run as the owner of its tables, within the security
 * context that neither SET ROLE nor SET SESSION AUTHORIZATION can leave, and
 * with a search path that nobody can put objects in front of.  Their plans
 * are kept for the life of the process.
 *
 * IDENTIFICATION
 *		src/jobs/job_catalog.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "jobs/jobs.h"

static const char *const state_labels[SABOT_JOB_NSTATES] = {
	"scheduled", "blocked", "queued", "running", "paused",
	"completed", "failed", "canceled", "skipped"
};

static SabotCatalog catalog;
static bool catalog_valid = false;
static bool catalog_invalidated;	/* since loading it began */

/*
 * forget_catalog - relcache callback: our tables may have changed
 */
static void
forget_catalog(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != catalog.job &&
		relid != catalog.dependency)
		return;
	catalog_valid = false;
	catalog_invalidated = true;
}

/*
 * compute_home - the identity that job rows of this database carry
 *
 * A copy of a database, however it was made, differs from its original in one
 * of the three: CREATE EXTENSION gives the extension a new OID, so that even
 * rows restored into the database they were dumped from are copies.
 */
static int64
compute_home(Oid extension)
{
	struct
	{
		uint64		system;
		Oid			database;
		Oid			extension;
	}			identity = {GetSystemIdentifier(), MyDatabaseId, extension};

	return (int64) hash_bytes_extended((unsigned char *) &identity,
									   sizeof(identity), 0);
}

/*
 * load_states - look up the values of sabot.job_state
 */
static void
load_states(void)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									   CStringGetDatum("job_state"),
									   ObjectIdGetDatum(catalog.schema));

	for (int i = 0; i < SABOT_JOB_NSTATES; i++)
	{
		catalog.states[i] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
											ObjectIdGetDatum(type),
											CStringGetDatum(state_labels[i]));
		if (!OidIsValid(catalog.states[i]))
			elog(ERROR, "sabot.job_state has no value \"%s\"", state_labels[i]);
	}
}

/*
 * sabot_state_label - the label of a state
 */
const char *
sabot_state_label(SabotJobState state)
{
	return state_labels[state];
}

/*
 * load_catalog - look up the extension's objects; false if it is not there
 */
static bool
load_catalog(void)
{
	Relation	rel;

	catalog.extension = get_extension_oid("sabot", true);
	if (!OidIsValid(catalog.extension))
		return false;
	catalog.schema = get_namespace_oid("sabot", true);
	catalog.job = get_relname_relid("job", catalog.schema);
	catalog.history = get_relname_relid("job_history", catalog.schema);
	catalog.sequence = get_relname_relid("job_job_id_seq", catalog.schema);
	catalog.job_parent = get_relname_relid("job_parent_idx", catalog.schema);
	catalog.dependency = get_relname_relid("job_dependency", catalog.schema);
	if (!OidIsValid(catalog.job) || !OidIsValid(catalog.history) ||
		!OidIsValid(catalog.sequence) || !OidIsValid(catalog.job_parent) ||
		!OidIsValid(catalog.dependency) ||
		getExtensionOfObject(RelationRelationId, catalog.job) != catalog.extension)
		return false;

	rel = table_open(catalog.job, AccessShareLock);
	catalog.owner = rel->rd_rel->relowner;
	catalog.job_pkey = SabotPrimaryKeyIndex(rel);
	table_close(rel, AccessShareLock);
	rel = table_open(catalog.dependency, AccessShareLock);
	catalog.dependency_pkey = SabotPrimaryKeyIndex(rel);
	table_close(rel, AccessShareLock);
	catalog.home = compute_home(catalog.extension);
	load_states();
	return true;
}

/*
 * sabot_catalog - OIDs of the extension's objects in this database
 *
 * If there is no extension, raises 55000, or returns NULL if missing_ok.
 * Must be called inside a transaction.
 */
const SabotCatalog *
sabot_catalog(bool missing_ok)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(forget_catalog, (Datum) 0);
	registered = true;

	AcceptInvalidationMessages();
	if (!catalog_valid)
	{
		bool		loaded;

		do
		{
			catalog_invalidated = false;
			loaded = load_catalog();
		} while (loaded && catalog_invalidated);
		catalog_valid = loaded;
	}
	if (catalog_valid)
		return &catalog;
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"sabot\" does not exist in this database"),
				 errhint("Use CREATE EXTENSION sabot.")));
	return NULL;
}

/*
 * sabot_own_begin - become the extension's owner for sabot's own statements
 *
 * Nothing the statements call can find its way back to more rights or to
 * other objects.  They read few rows, so that compiling them never pays; but
 * where one has no index to use in spite of enable_seqscan = off, 15 to 17
 * think that it costs so much that it would.  A transaction's or
 * subtransaction's abort undoes this too.
 */
void
sabot_own_begin(SabotOwn *own)
{
	const SabotCatalog *cat = sabot_catalog(false);

	GetUserIdAndSecContext(&own->userid, &own->sec_context);
	SetUserIdAndSecContext(cat->owner,
						   own->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	own->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	if (jit_enabled)
		(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * sabot_own_end - undo sabot_own_begin()
 */
void
sabot_own_end(SabotOwn *own)
{
	AtEOXact_GUC(false, own->guc_level);
	SetUserIdAndSecContext(own->userid, own->sec_context);
}

/*
 * sabot_own_start_transaction - begin a transaction of sabot's own
 *
 * It is READ COMMITTED and READ WRITE whatever the role's settings say; SPI
 * is connected and a snapshot active in it.
 */
void
sabot_own_start_transaction(SabotOwn *own)
{
	own->context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	sabot_own_begin(own);
	/* Nobody could do anything about a lock that sabot does not get. */
	if (LockTimeout != 0)
		(void) set_config_option("lock_timeout", "0", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * sabot_own_commit_transaction - commit what the above began
 *
 * The memory context is what it was before: the server would leave us in one
 * that lives as long as the process.
 */
void
sabot_own_commit_transaction(SabotOwn *own)
{
	sabot_own_end(own);
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
	MemoryContextSwitchTo(own->context);
}

/*
 * sabot_own_commit_locally - the same, without waiting for standbys
 */
void
sabot_own_commit_locally(SabotOwn *own)
{
	sabot_own_end(own);
	PopActiveSnapshot();
	SPI_finish();
	if (synchronous_commit > SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(own->context);
}

/*
 * saved_plan - the plan of a statement, prepared at its first use
 *
 * Plans are found again by the address of the text, so it must be a constant.
 * options are of CURSOR_OPT_*, the same at each use.
 */
static SPIPlanPtr
saved_plan(const char *sql, int nargs, const Oid *types, int options)
{
	typedef struct PlanEntry
	{
		const char *sql;		/* hash key: the pointer */
		SPIPlanPtr	plan;
	} PlanEntry;
	static HTAB *plans = NULL;
	PlanEntry  *entry;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		info;

		info.keysize = sizeof(const char *);
		info.entrysize = sizeof(PlanEntry);
		plans = hash_create("sabot plans", 64, &info, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &sql, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	if (entry->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs,
											  unconstify(Oid *, types),
											  options);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		entry->plan = plan;
	}
	return entry->plan;
}

/*
 * execute_saved - run a statement, returns the rows processed
 */
static int
execute_saved(SPIPlanPtr plan, const char *sql, Datum *values,
			  const char *nulls, int64 limit)
{
	int			rc = SPI_execute_plan(plan, values, nulls, false, limit);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(rc));
	return (int) SPI_processed;
}

/*
 * sabot_spi - run one of sabot's own statements, returns the rows processed
 *
 * sql must be a constant.  limit is the most rows to fetch, 0 = all; rows are
 * in SPI_tuptable.  To be called with SPI connected, after sabot_own_begin().
 */
int
sabot_spi(const char *sql, int nargs, const Oid *types, Datum *values,
		  const char *nulls, int64 limit)
{
	return execute_saved(saved_plan(sql, nargs, types, 0), sql, values, nulls,
						 limit);
}

/*
 * sabot_spi_generic - as sabot_spi(), for a statement whose plan does not
 * depend on its parameters
 *
 * It is planned once.  Otherwise the server plans a statement for each of its
 * first five uses, which counts where somebody waits for a statement that is
 * not used often.
 */
int
sabot_spi_generic(const char *sql, int nargs, const Oid *types, Datum *values,
				  const char *nulls, int64 limit)
{
	return execute_saved(saved_plan(sql, nargs, types,
									CURSOR_OPT_GENERIC_PLAN),
						 sql, values, nulls, limit);
}
