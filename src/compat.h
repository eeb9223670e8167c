/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between the PostgreSQL major versions sabot supports.
 *
 * New code is written against the newest version's API; this file makes it
 * compile on the older ones.  No other file tests PG_VERSION_NUM.
 *
 * IDENTIFICATION
 *		src/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_COMPAT_H
#define SABOT_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "sabot supports PostgreSQL 15 to 18"
#endif

#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

/* 18 lets a module state its name and version. */
#if PG_VERSION_NUM < 180000
#define PG_MODULE_MAGIC_EXT(...) PG_MODULE_MAGIC
#endif

/* 18 marks functions that never return in front of their declaration. */
#ifndef pg_noreturn
#define pg_noreturn __attribute__((noreturn))
#endif

/* 18 has generated columns that are not stored. */
#if PG_VERSION_NUM >= 180000
#define SabotIsVirtual(attr) ((attr)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define SabotIsVirtual(attr) false
#endif

/* 17 lets an extension name its wait events. */
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) ((uint32) PG_WAIT_EXTENSION)
#endif

/* 16 replaced the pg_xxx_aclcheck() and _ownercheck() families. */
#if PG_VERSION_NUM < 160000
static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	Assert(classid == DatabaseRelationId);
	return pg_database_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == ExtensionRelationId)
		return pg_extension_ownercheck(objectid, roleid);
	if (classid == RelationRelationId)
		return pg_class_ownercheck(objectid, roleid);
	Assert(classid == DatabaseRelationId);
	return pg_database_ownercheck(objectid, roleid);
}
#endif

/* 17 lets roles that cannot log in have background workers. */
#if PG_VERSION_NUM >= 170000
#define SABOT_BGWORKER_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#define SABOT_NEEDS_LOGIN false
#else
#define SABOT_BGWORKER_FLAGS 0
#define SABOT_NEEDS_LOGIN true
#endif

/* 18 removed run_once from PortalRun(); a portal of sabot's runs once. */
#if PG_VERSION_NUM < 180000
#define PortalRun(portal, count, top, dest, altdest, qc) \
	PortalRun(portal, count, top, true, dest, altdest, qc)
#endif

/* 16 moved this out of EndCommand(). */
#if PG_VERSION_NUM < 160000
static inline Size
BuildQueryCompletionString(char *buff, const QueryCompletion *qc,
						   bool nameonly)
{
	const char *name = GetCommandTagName(qc->commandTag);

	if (nameonly || !command_tag_display_rowcount(qc->commandTag))
		return snprintf(buff, COMPLETION_TAG_BUFSIZE, "%s", name);
	return snprintf(buff, COMPLETION_TAG_BUFSIZE, "%s%s " UINT64_FORMAT, name,
					qc->commandTag == CMDTAG_INSERT ? " 0" : "",
					qc->nprocessed);
}
#endif

/* 17 moved a process's number out of its PGPROC. */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#endif

/* 16 added onlySummarizing to ExecInsertIndexTuples(). */
#if PG_VERSION_NUM >= 160000
#define SabotExecInsertIndexTuples(resultRelInfo, slot, estate) \
	list_free(ExecInsertIndexTuples(resultRelInfo, slot, estate, \
									false, false, NULL, NIL, false))
#else
#define SabotExecInsertIndexTuples(resultRelInfo, slot, estate) \
	list_free(ExecInsertIndexTuples(resultRelInfo, slot, estate, \
									false, false, NULL, NIL))
#endif

/* 16 tells which indexes an update concerns. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes SabotUpdateIndexes;
#define SabotMustUpdateIndexes(indexes) ((indexes) == TU_All)
#else
typedef bool SabotUpdateIndexes;
#define SabotMustUpdateIndexes(indexes) (indexes)
#endif

/* 18 added parameters that sabot has no use for. */
#if PG_VERSION_NUM >= 180000
#define SabotPrimaryKeyIndex(rel) RelationGetPrimaryKeyIndex(rel, false)
#define SabotIndexBeginScan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define SabotPrimaryKeyIndex(rel) RelationGetPrimaryKeyIndex(rel)
#define SabotIndexBeginScan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

/* 17 can fill a struct of the caller's. */
#if PG_VERSION_NUM < 170000
#define makeJsonLexContextCstringLen(lex, json, len, encoding, need_escapes) \
	makeJsonLexContextCstringLen(unconstify(char *, json), len, encoding, \
								 need_escapes)
#endif

/* 18 removed execute_once, which late minor versions before it ignore. */
#if PG_VERSION_NUM >= 180000
#define SABOT_EXECUTOR_RUN_PARAMS \
	QueryDesc *queryDesc, ScanDirection direction, uint64 count
#define SABOT_EXECUTOR_RUN_ARGS queryDesc, direction, count
#else
#define SABOT_EXECUTOR_RUN_PARAMS \
	QueryDesc *queryDesc, ScanDirection direction, uint64 count, \
	bool execute_once
#define SABOT_EXECUTOR_RUN_ARGS queryDesc, direction, count, execute_once
#endif

/* 18 counts a query's parallel workers. */
#if PG_VERSION_NUM >= 180000
#define SabotNoteWorkers(estate, planned, launched) \
	((estate)->es_parallel_workers_to_launch += (planned), \
	 (estate)->es_parallel_workers_launched += (launched))
#else
#define SabotNoteWorkers(estate, planned, launched) ((void) 0)
#endif

/* 17 knows processes by their numbers, signals included. */
#if PG_VERSION_NUM >= 170000
#define SabotMyProcSignalNumber MyProcNumber
#else
#define SabotMyProcSignalNumber MyBackendId
#endif

/*
 * 16 has SYSTEM_USER, which is "method:name".  A process takes one for good;
 * returns false if ours has taken another.
 */
#if PG_VERSION_NUM >= 160000
#define SabotSystemUser() (GetSystemUser() ? GetSystemUser() : "")
static inline bool
SabotAdoptSystemUser(const char *system_user)
{
	const char *colon = strchr(system_user, ':');
	char	   *method;

	if (colon == NULL || GetSystemUser() != NULL)
		return strcmp(system_user, SabotSystemUser()) == 0;
	method = pnstrdup(system_user, colon - system_user);
	InitializeSystemUser(colon + 1, method);
	pfree(method);
	return true;
}
#else
#define SabotSystemUser() ""
#define SabotAdoptSystemUser(system_user) true
#endif

/*
 * 17 has a WaitEventSet belong to a resource owner, or to nobody, instead of a
 * memory context; sabot's belong to nobody.
 */
#if PG_VERSION_NUM < 170000
#define CreateWaitEventSet(resowner, nevents) \
	CreateWaitEventSet(TopMemoryContext, nevents)
#endif

/*
 * 18 lets an extension add to what EXPLAIN says about a plan; before that it
 * can only come after the core.
 */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#define SABOT_EXPLAINS_EACH_PLAN 1
#else
#define SABOT_EXPLAINS_EACH_PLAN 0
#endif

/*
 * 16 can find a setting by its name.  The setting must exist.
 */
#if PG_VERSION_NUM >= 160000
static inline struct config_generic *
SabotFindSetting(const char *name)
{
	return find_option(name, false, false, ERROR);
}
#else
static inline struct config_generic *
SabotFindSetting(const char *name)
{
	struct config_generic **setting = get_guc_variables();

	while (strcmp((*setting)->name, name) != 0)
		setting++;
	return *setting;
}
#endif

/* 17 exports what EXPLAIN does for a query, if no extension does it. */
#if PG_VERSION_NUM < 170000
static inline void
standard_ExplainOneQuery(Query *query, int cursorOptions, IntoClause *into,
						 ExplainState *es, const char *queryString,
						 ParamListInfo params, QueryEnvironment *queryEnv)
{
	BufferUsage before = pgBufferUsage;
	BufferUsage used = {0};
	instr_time	start;
	instr_time	duration;
	PlannedStmt *stmt;

	INSTR_TIME_SET_CURRENT(start);
	stmt = pg_plan_query(query, queryString, cursorOptions, params);
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	BufferUsageAccumDiff(&used, &pgBufferUsage, &before);
	ExplainOnePlan(stmt, into, es, queryString, params, queryEnv, &duration,
				   es->buffers ? &used : NULL);
}
#endif

/*
 * 18 has NOT NULL constraints that rows may break which were there before, and
 * shares the names of comparisons with access methods.
 */
#if PG_VERSION_NUM >= 180000
#define SabotIsNotNull(desc, i) \
	(TupleDescAttr(desc, i)->attnotnull && \
	 TupleDescCompactAttr(desc, i)->attnullability != ATTNULLABLE_INVALID)
#define SabotSetRowCompare(expr, which) ((expr)->cmptype = COMPARE_##which)
#else
#define SabotIsNotNull(desc, i) (TupleDescAttr(desc, i)->attnotnull)
#define SabotSetRowCompare(expr, which) ((expr)->rctype = ROWCOMPARE_##which)
#endif

#endif							/* SABOT_COMPAT_H */
