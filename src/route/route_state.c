/*-------------------------------------------------------------------------
 *
 * route_state.c
 *		What keeps a query from running on agents, when it is about to run.
 *
 * An agent is given the state of the session that a parallel worker of the
 * core would be given, except what is empty as long as the transaction has not
 * written, and what cannot be taken from a process again.  So a session that
 * has any of the latter has workers forked for it.  Every rule stands in
 * README.md.
 *
 * IDENTIFICATION
 *		src/route/route_state.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "tcop/utility.h"

#include "compat.h"
#include "guc.h"
#include "route/route_task.h"

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static bool has_loaded = false; /* LOAD was executed in our session */

/*
 * has_libraries - whether our session may have libraries that its agents have
 * not
 *
 * Those of functions do not count: an agent may have loaded them for a job,
 * and loads them for a query.
 */
static bool
has_libraries(void)
{
	return has_loaded ||
		(MyBackendType == B_BACKEND &&
		 ((session_preload_libraries_string &&
		   session_preload_libraries_string[0]) ||
		  (local_preload_libraries_string &&
		   local_preload_libraries_string[0])));
}

/*
 * sabot_route_is_pristine - whether our agent has no library that a job has
 * loaded; if it has it is none to run other sessions' queries
 */
bool
sabot_route_is_pristine(void)
{
	return !has_loaded;
}

/*
 * has_temporary - whether our session has, or has had, temporary objects
 *
 * Names are looked up in their schema, and it cannot be lent to an agent.
 */
static bool
has_temporary(void)
{
	Oid			namespace;
	Oid			toast_namespace;

	GetTempNamespaceState(&namespace, &toast_namespace);
	return OidIsValid(namespace);
}

/*
 * sabot_route_state_reason - why no query of our session can run on agents
 * now; SABOT_REASON_NONE if it can
 */
SabotReason
sabot_route_state_reason(void)
{
	if (RecoveryInProgress())
		return SABOT_REASON_IN_RECOVERY;
	if (!sabot_enabled ||
		(pg_atomic_read_u32(&sabot_route_shared->trust) != ROUTE_TRUSTED &&
		 !sabot_route_is_test()))
		return SABOT_REASON_TURNED_OFF;
	if (IsInParallelMode())
		return SABOT_REASON_NESTED;
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return SABOT_REASON_HAS_WRITTEN;
	if (IsolationIsSerializable())
		return SABOT_REASON_SERIALIZABLE;
	if (has_temporary())
		return SABOT_REASON_TEMPORARY;
	if (GetSessionUserId() != GetAuthenticatedUserId())
		return SABOT_REASON_AUTHORIZATION;
	if (has_libraries())
		return SABOT_REASON_LIBRARIES;
	return SABOT_REASON_NONE;
}

/*
 * is_record - whether values of a type need the session's registry of row
 * types
 */
static bool
is_record(Oid type)
{
	return type == RECORDOID || type == RECORDARRAYOID;
}

/*
 * makes_records - walker: whether a plan passes anonymous records on
 *
 * Within a fragment, too: participants of a parallel hash join exchange rows.
 */
static bool
makes_records(PlanState *node, void *context)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	foreach(lc, node->plan->targetlist)
		if (is_record(exprType((Node *) ((TargetEntry *) lfirst(lc))->expr)))
		return true;
	return planstate_tree_walker(node, makes_records, context);
}

/*
 * sabot_route_passes_records - whether anonymous records would pass between a
 * session and its agents, as rows of a Gather or as parameters
 *
 * The agents' registry of row types is not the session's.
 */
bool
sabot_route_passes_records(PlanState *gather)
{
	EState	   *estate = gather->state;
	ParamListInfo params = estate->es_param_list_info;
	ListCell   *lc;

	foreach(lc, estate->es_plannedstmt->paramExecTypes)
		if (is_record(lfirst_oid(lc)))
		return true;
	for (int i = 0; params && i < params->numParams; i++)
	{
		ParamExternData data;
		ParamExternData *param = &params->params[i];

		if (params->paramFetch)
			param = params->paramFetch(params, i + 1, false, &data);
		if (is_record(param->ptype))
			return true;
	}
	return makes_records(gather, NULL);
}

/*
 * process_utility - ProcessUtility hook: notice LOAD
 */
static void
process_utility(PlannedStmt *pstmt, const char *queryString,
				bool readOnlyTree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *queryEnv,
				DestReceiver *dest, QueryCompletion *qc)
{
	if (IsA(pstmt->utilityStmt, LoadStmt))
		has_loaded = true;
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context,
							params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/*
 * sabot_route_state_init - install the hook
 */
void
sabot_route_state_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
