/*-------------------------------------------------------------------------
 *
 * route_mark.c
 *		What has been decided about a plan, written into the plan itself.
 *
 * A plan is copied into the plan cache and out of it, and may be run long
 * after it was made, so that what the planner hook knows must travel inside
 * it.  The core has a list in every plan that is copied with it, is not sent
 * to parallel workers, and is read by nothing but the plan cache, which looks
 * in it for the number of a system cache: items with numbers that no system
 * cache has are never found there, and carry 32 bits each.
 *
 * IDENTIFICATION
 *		src/route/route_mark.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/plannodes.h"

#include "route/route.h"

/* Numbers of items that are ours; those of system caches are small and >= 0. */
#define FIRST_MARK	(-1935765001)

/* What our items hold. */
typedef enum Mark
{
	MARK_ROUTE,					/* agents << 16 | reason */
	MARK_RELID,
	MARK_ROWS_HIGH,				/* the bits of a double */
	MARK_ROWS_LOW,
	MARK_THRESHOLD,				/* rows; the setting is an int */
	NMARKS
} Mark;

/*
 * sabot_route_mark - write a decision into a plan
 */
void
sabot_route_mark(PlannedStmt *stmt, const SabotDecision *decision)
{
	uint32		values[NMARKS];
	int			nmarks = NMARKS;
	uint64		rows;

	StaticAssertStmt(sizeof(rows) == sizeof(decision->rows),
					 "a number of rows must have 64 bits");
	memcpy(&rows, &decision->rows, sizeof(rows));
	values[MARK_ROUTE] = (uint32) decision->agents << 16 | decision->reason;
	values[MARK_RELID] = decision->relid;
	values[MARK_ROWS_HIGH] = (uint32) (rows >> 32);
	values[MARK_ROWS_LOW] = (uint32) rows;
	values[MARK_THRESHOLD] = (uint32) decision->threshold;

	/* Of a plan that is not for agents, nobody asks how large it is. */
	if (decision->reason != SABOT_REASON_NONE)
		nmarks = MARK_ROUTE + 1;
	for (int i = 0; i < nmarks; i++)
	{
		PlanInvalItem *item = makeNode(PlanInvalItem);

		item->cacheId = FIRST_MARK + i;
		item->hashValue = values[i];
		stmt->invalItems = lappend(stmt->invalItems, item);
	}
}

/*
 * sabot_route_decision - read what was decided about a plan
 *
 * Returns false, and says BELOW_THRESHOLD, for a plan that is not marked: one
 * without a large relation, or one that was made where there is no routing.
 * Only plans for agents tell the estimate.
 */
bool
sabot_route_decision(const PlannedStmt *stmt, SabotDecision *decision)
{
	uint32		values[NMARKS] = {0};
	bool		found = false;
	uint64		rows;
	ListCell   *lc;

	memset(decision, 0, sizeof(*decision));
	decision->reason = SABOT_REASON_BELOW_THRESHOLD;
	foreach(lc, stmt->invalItems)
	{
		PlanInvalItem *item = (PlanInvalItem *) lfirst(lc);
		int			mark = item->cacheId - FIRST_MARK;

		if (item->cacheId >= 0 || mark < 0 || mark >= NMARKS)
			continue;
		values[mark] = item->hashValue;
		found = true;
	}
	if (!found)
		return false;

	rows = (uint64) values[MARK_ROWS_HIGH] << 32 | values[MARK_ROWS_LOW];
	decision->reason = (SabotReason) (values[MARK_ROUTE] & 0xFFFF);
	decision->agents = (int) (values[MARK_ROUTE] >> 16);
	decision->relid = values[MARK_RELID];
	memcpy(&decision->rows, &rows, sizeof(rows));
	decision->threshold = values[MARK_THRESHOLD];
	return true;
}

static int	most_agents(const Plan *plan);

/*
 * most_agents_of - the same for a list of plans
 */
static int
most_agents_of(const List *plans)
{
	int			most = 0;
	ListCell   *lc;

	foreach(lc, plans)
		most = Max(most, most_agents((const Plan *) lfirst(lc)));
	return most;
}

/*
 * most_agents - workers of the largest Gather or Gather Merge in a plan
 *
 * plan may be NULL.  A Gather that debug_parallel_query has put on top, which
 * only moves the query to another process, does not count.
 */
static int
most_agents(const Plan *plan)
{
	int			most = 0;

	if (plan == NULL)
		return 0;
	check_stack_depth();

	switch (nodeTag(plan))
	{
		case T_Gather:
			if (!((const Gather *) plan)->single_copy)
				most = ((const Gather *) plan)->num_workers;
			break;
		case T_GatherMerge:
			most = ((const GatherMerge *) plan)->num_workers;
			break;
		case T_Append:
			most = most_agents_of(((const Append *) plan)->appendplans);
			break;
		case T_MergeAppend:
			most = most_agents_of(((const MergeAppend *) plan)->mergeplans);
			break;
		case T_SubqueryScan:
			most = most_agents(((const SubqueryScan *) plan)->subplan);
			break;
		case T_CustomScan:
			most = most_agents_of(((const CustomScan *) plan)->custom_plans);
			break;
		default:
			break;
	}
	most = Max(most, most_agents(plan->lefttree));
	return Max(most, most_agents(plan->righttree));
}

/*
 * sabot_route_plan_agents - workers that a plan's largest Gather asks for
 *
 * 0 if it has none, in the main plan or in init plans and subplans.
 */
int
sabot_route_plan_agents(const PlannedStmt *stmt)
{
	if (!stmt->parallelModeNeeded)
		return 0;
	return Max(most_agents(stmt->planTree), most_agents_of(stmt->subplans));
}
