/*-------------------------------------------------------------------------
 *
 * route_plan.c
 *		The decision: which plans are made for agents.
 *
 * A query is planned once, and nothing is known about the size of what it
 * reads before that.  The planner asks for the size of every relation before
 * it makes paths, so the decision is taken in between: when a relation turns
 * out to be large, what parallel workers cost is changed for the rest of that
 * planner run, and the planner itself finds out whether they are worth it.  A
 * query over little data is planned as if sabot were not there; watching it
 * costs a few instructions for each relation and allocates nothing.
 *
 * The costs are put back when the planner returns, when it fails, and when it
 * calls a function that has something planned itself.
 *
 * IDENTIFICATION
 *		src/route/route_plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"

#include "guc.h"
#include "pool/pool.h"
#include "route/route.h"
#include "route/route_cost.h"

/* A planner run.  Runs nest: planning may call functions that plan. */
typedef struct Planning
{
	struct Planning *outer;
	PlannerGlobal *glob;		/* whose relations count; NULL before any */
	SabotReason reason;			/* why it is not for agents, whatever comes */
	bool		watched;
	bool		parallel_ok;	/* the planner may make parallel paths */
	bool		switched;		/* costs are those of agents */

	double		threshold;		/* rows */
	Oid			relid;			/* the largest relation so far */
	double		rows;			/* of it */

	/* members of one partitioned relation, which come one after the other */
	PlannerInfo *sum_root;
	Index		sum_relid;
	double		sum_rows;

	SabotCosts	costs;			/* for putting them back, when switched */
} Planning;

static planner_hook_type prev_planner_hook = NULL;
static get_relation_info_hook_type prev_get_relation_info_hook = NULL;
static set_rel_pathlist_hook_type prev_set_rel_pathlist_hook = NULL;

static Planning *current = NULL;

/* A plan that was made, and what was decided about it. */
typedef struct Planned
{
	const PlannedStmt *stmt;	/* for comparing only; NULL = none yet */
	SabotDecision decision;
} Planned;

static Planned last;			/* by the planner run that has ended last */
static Planned watched;			/* asked for by sabot_route_watch() */
static bool watch_next = false;

/*
 * reason_at_once - why a query is not for agents, whatever it reads
 *
 * SABOT_REASON_NONE if nothing speaks against it.
 */
static SabotReason
reason_at_once(const Query *parse, int cursorOptions)
{
	if (sabot_execution == SABOT_EXECUTION_LOCAL)
		return SABOT_REASON_EXECUTION_LOCAL;
	if (!sabot_pool_attached())
		return SABOT_REASON_NOT_LOADED;
	if (parse->commandType != CMD_SELECT || parse->hasModifyingCTE ||
		parse->rowMarks != NIL)
		return SABOT_REASON_NOT_SELECT;
	if (!sabot_enabled || max_parallel_workers == 0 ||
		max_parallel_workers_per_gather == 0 || sabot_query_agents == 0)
		return SABOT_REASON_NO_WORKERS;
	if (IsParallelWorker())
		return SABOT_REASON_NESTED;
	if ((cursorOptions & CURSOR_OPT_PARALLEL_OK) == 0)
		return SABOT_REASON_CURSOR;
	return SABOT_REASON_NONE;
}

/*
 * switch_if_possible - plan for agents from now on, if there is an extension
 */
static void
switch_if_possible(Planning *planning)
{
	if (sabot_route_extension_exists())
	{
		sabot_costs_switch(&planning->costs);
		planning->switched = true;
	}
	else
		planning->reason = SABOT_REASON_NO_EXTENSION;
}

/*
 * begin_planning - enter a planner run
 *
 * It starts with the user's own costs, also within another one.
 */
static void
begin_planning(Planning *planning, const Query *parse, int cursorOptions)
{
	memset(planning, 0, offsetof(Planning, costs));
	planning->outer = current;
	planning->watched = watch_next;
	watch_next = false;
	if (current != NULL && current->switched)
		sabot_costs_restore(&current->costs);
	planning->reason = reason_at_once(parse, cursorOptions);
	planning->threshold = sabot_execution == SABOT_EXECUTION_DISTRIBUTED ?
		0 : sabot_distribute_threshold;
	current = planning;
}

/*
 * end_planning - leave a planner run, also after an error
 *
 * The one around it, if any, goes on with the costs it had.
 */
static void
end_planning(Planning *planning)
{
	if (planning->switched)
		sabot_costs_restore(&planning->costs);
	current = planning->outer;
	if (current != NULL && current->switched)
		sabot_costs_switch(&current->costs);
}

/*
 * top_of - the relation that a member of an inheritance tree is part of
 *
 * The arms of a UNION ALL are relations of their own.
 */
static Index
top_of(PlannerInfo *root, Index relid)
{
	while (root->append_rel_array != NULL &&
		   root->append_rel_array[relid] != NULL)
	{
		Index		parent = root->append_rel_array[relid]->parent_relid;

		if (planner_rt_fetch(parent, root)->rtekind != RTE_RELATION)
			break;
		relid = parent;
	}
	return relid;
}

/*
 * note_relation - take the size of a relation into account
 */
static void
note_relation(Planning *planning, PlannerInfo *root, const RelOptInfo *rel)
{
	Index		top = top_of(root, rel->relid);
	double		rows = Max(rel->tuples, 0);

	if (top != rel->relid && root == planning->sum_root &&
		top == planning->sum_relid)
		rows += planning->sum_rows;
	planning->sum_root = root;
	planning->sum_relid = top;
	planning->sum_rows = rows;

	if (rows <= planning->rows && OidIsValid(planning->relid))
		return;
	planning->rows = rows;
	planning->relid = planner_rt_fetch(top, root)->relid;
}

/*
 * sabot_get_relation_info - get_relation_info_hook: the planner has found out
 * how large a relation is
 *
 * CLUSTER and CREATE INDEX ask the planner too, without planning a query.
 */
static void
sabot_get_relation_info(PlannerInfo *root, Oid relationObjectId,
						bool inhparent, RelOptInfo *rel)
{
	Planning   *planning = current;

	if (prev_get_relation_info_hook)
		prev_get_relation_info_hook(root, relationObjectId, inhparent, rel);
	if (planning == NULL || inhparent)
		return;

	if (planning->glob == NULL)
	{
		planning->glob = root->glob;
		planning->parallel_ok = root->glob->parallelModeOK;
	}
	else if (planning->glob != root->glob)
		return;

	note_relation(planning, root, rel);
	if (planning->rows >= planning->threshold && !planning->switched &&
		planning->reason == SABOT_REASON_NONE)
		switch_if_possible(planning);
}

/*
 * sabot_set_rel_pathlist - set_rel_pathlist_hook: the planner knows the ways
 * to read a relation
 *
 * One row that is found for less than it takes to start an agent is not
 * shared.  The planner would find that out itself, but only at the end of what
 * it does with parallel paths, and a key lookup would feel that.
 */
static void
sabot_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
					   RangeTblEntry *rte)
{
	if (prev_set_rel_pathlist_hook)
		prev_set_rel_pathlist_hook(root, rel, rti, rte);
	if (current == NULL || !current->switched)
		return;

	/* The list is kept in the order of total cost. */
	if (rel->partial_pathlist != NIL && rel->pathlist != NIL &&
		rel->rows <= 1 &&
		((Path *) linitial(rel->pathlist))->total_cost < parallel_setup_cost)
		rel->partial_pathlist = NIL;
}

/*
 * decide - what has become of a planner run
 */
static SabotDecision
decide(const Planning *planning, const PlannedStmt *stmt)
{
	SabotDecision decision = {
		.reason = planning->reason,
		.relid = planning->relid,
		.rows = planning->rows,
		.threshold = planning->threshold
	};

	if (decision.reason == SABOT_REASON_EXECUTION_LOCAL)
		return decision;
	if (!OidIsValid(planning->relid) || planning->rows < planning->threshold)
		decision.reason = SABOT_REASON_BELOW_THRESHOLD;
	if (decision.reason != SABOT_REASON_NONE)
		return decision;

	if (!planning->parallel_ok)
		decision.reason = SABOT_REASON_NOT_PARALLEL;
	else
	{
		decision.agents = sabot_route_plan_agents(stmt);
		if (decision.agents == 0)
			decision.reason = SABOT_REASON_NO_GAIN;
	}
	return decision;
}

/*
 * leaves_mark - whether a plan is to tell what was decided about it
 *
 * Where there is no routing, and below the threshold, it is left untouched.
 */
static bool
leaves_mark(SabotReason reason)
{
	return reason != SABOT_REASON_EXECUTION_LOCAL &&
		reason != SABOT_REASON_NOT_LOADED &&
		reason != SABOT_REASON_NO_EXTENSION &&
		reason != SABOT_REASON_BELOW_THRESHOLD;
}

/*
 * announce - write a decision where others find it
 */
static void
announce(const Planning *planning, PlannedStmt *stmt)
{
	SabotDecision decision = decide(planning, stmt);

	if (leaves_mark(decision.reason))
		sabot_route_mark(stmt, &decision);
	last.stmt = stmt;
	last.decision = decision;
	if (planning->watched)
		watched = last;
	if (sabot_log_routing)
		sabot_route_log_decision(&decision);
}

/*
 * plan_as_before - what the planner does without sabot
 */
static PlannedStmt *
plan_as_before(Query *parse, const char *query_string, int cursorOptions,
			   ParamListInfo boundParams)
{
	if (prev_planner_hook)
		return prev_planner_hook(parse, query_string, cursorOptions,
								 boundParams);
	return standard_planner(parse, query_string, cursorOptions, boundParams);
}

/*
 * sabot_planner - planner_hook: plan a query once, for agents if it is large
 *
 * With sabot.execution = distributed it is planned for agents from the start,
 * as it may have subqueries that are planned before its relations are seen.
 */
static PlannedStmt *
sabot_planner(Query *parse, const char *query_string, int cursorOptions,
			  ParamListInfo boundParams)
{
	Planning	planning;
	PlannedStmt *volatile stmt = NULL;

	if (sabot_execution == SABOT_EXECUTION_LOCAL && current == NULL &&
		!watch_next && !sabot_log_routing)
		return plan_as_before(parse, query_string, cursorOptions, boundParams);

	begin_planning(&planning, parse, cursorOptions);
	PG_TRY();
	{
		if (sabot_execution == SABOT_EXECUTION_DISTRIBUTED &&
			planning.reason == SABOT_REASON_NONE && parse->rtable != NIL)
			switch_if_possible(&planning);
		stmt = plan_as_before(parse, query_string, cursorOptions, boundParams);
	}
	PG_FINALLY();
	{
		end_planning(&planning);
	}
	PG_END_TRY();

	announce(&planning, stmt);
	return stmt;
}

/*
 * sabot_route_watch - remember the decision about the query planned next
 */
void
sabot_route_watch(void)
{
	watch_next = true;
	watched.stmt = NULL;
}

/*
 * sabot_route_watched - what was decided about the first query that was
 * planned since sabot_route_watch()
 *
 * Returns its plan, which is for comparing only, as it may be gone; NULL, and
 * decides nothing, if none was planned.
 */
const PlannedStmt *
sabot_route_watched(SabotDecision *decision)
{
	watch_next = false;
	*decision = watched.decision;
	return watched.stmt;
}

/*
 * sabot_route_last_planned - the same for the query that was planned last
 *
 * Queries that sabot.execution has kept local are not looked at.
 */
const PlannedStmt *
sabot_route_last_planned(SabotDecision *decision)
{
	*decision = last.decision;
	return last.stmt;
}

/*
 * sabot_route_plan_init - install the hooks; once, when the server starts
 */
void
sabot_route_plan_init(void)
{
	prev_planner_hook = planner_hook;
	planner_hook = sabot_planner;
	prev_get_relation_info_hook = get_relation_info_hook;
	get_relation_info_hook = sabot_get_relation_info;
	prev_set_rel_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = sabot_set_rel_pathlist;
}
