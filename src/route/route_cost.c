/*-------------------------------------------------------------------------
 *
 * route_cost.c
 *		What parallel workers cost the planner, for as long as it plans.
 *
 * The planner reads its costs from the variables behind settings.  Setting
 * them by SET's own means takes microseconds, which a key lookup in a large
 * table would feel, so the variables are changed directly and put back when
 * the planner returns or fails.
 *
 * Whatever runs in between takes what it finds for the user's: a function
 * that the planner calls, with a setting of its own attached to it, has the
 * value saved, and restored when the function ends or its transaction fails,
 * which may be after we are gone.  What was saved in between is therefore
 * corrected too.
 *
 * IDENTIFICATION
 *		src/route/route_cost.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "compat.h"
#include "guc.h"
#include "route/route_cost.h"

/*
 * What starting a fragment on agents costs.  PostgreSQL's default of 1000
 * stands for 4.9 to 6.5 ms; on agents it was measured to be 0.11 to 0.26 ms,
 * that is 17 to 40.  The upper end has queries spread from some 6,000 rows
 * on: those that break even at the threshold, at 10,000 rows, do so with
 * something to spare, and those over a lower threshold that would lose do not
 * run on agents.
 */
#define WARM_SETUP_COST		40.0

/*
 * Pages of a table or index below which its scan is not worth sharing.  There
 * is nothing to share in one page, which is what a key lookup reads; it is
 * planned as fast as ever because fewer parallel paths are made for it.
 */
#define WARM_PAGES			2

static const char *const names[SABOT_NCOSTS] = {
	[SABOT_COST_SETUP] = "parallel_setup_cost",
	[SABOT_COST_TABLE_PAGES] = "min_parallel_table_scan_size",
	[SABOT_COST_INDEX_PAGES] = "min_parallel_index_scan_size",
	[SABOT_COST_WORKERS] = "max_parallel_workers_per_gather"
};

static struct config_generic *settings[SABOT_NCOSTS];

/*
 * read_costs - the costs in force
 */
static void
read_costs(double *costs)
{
	costs[SABOT_COST_SETUP] = parallel_setup_cost;
	costs[SABOT_COST_TABLE_PAGES] = min_parallel_table_scan_size;
	costs[SABOT_COST_INDEX_PAGES] = min_parallel_index_scan_size;
	costs[SABOT_COST_WORKERS] = max_parallel_workers_per_gather;
}

/*
 * write_costs - put costs in force
 */
static void
write_costs(const double *costs)
{
	parallel_setup_cost = costs[SABOT_COST_SETUP];
	min_parallel_table_scan_size = (int) costs[SABOT_COST_TABLE_PAGES];
	min_parallel_index_scan_size = (int) costs[SABOT_COST_INDEX_PAGES];
	max_parallel_workers_per_gather = (int) costs[SABOT_COST_WORKERS];
}

/*
 * sabot_costs_switch - have the planner plan for agents from now on
 *
 * The user's own values hold where they are more eager than ours.
 */
void
sabot_costs_switch(SabotCosts *costs)
{
	double	   *warm = costs->warm;

	read_costs(costs->own);
	memcpy(warm, costs->own, sizeof(costs->own));
	warm[SABOT_COST_SETUP] = Min(parallel_setup_cost, WARM_SETUP_COST);
	warm[SABOT_COST_TABLE_PAGES] = Min(min_parallel_table_scan_size,
									   WARM_PAGES);
	warm[SABOT_COST_INDEX_PAGES] = Min(min_parallel_index_scan_size,
									   WARM_PAGES);
	warm[SABOT_COST_WORKERS] = Min(max_parallel_workers_per_gather,
								   Min(max_parallel_workers,
									   sabot_query_agents));

	for (int i = 0; i < SABOT_NCOSTS; i++)
	{
		if (settings[i] == NULL)
			settings[i] = SabotFindSetting(names[i]);
		costs->saved[i] = settings[i]->stack;
	}
	write_costs(warm);
}

/*
 * correct_saved - correct what was saved of one cost since it was switched
 */
static void
correct_saved(const SabotCosts *costs, SabotCost cost)
{
	struct config_generic *setting = settings[cost];
	double		own = costs->own[cost];
	double		warm = costs->warm[cost];

	for (GucStack *saved = setting->stack;
		 saved != NULL && saved != costs->saved[cost]; saved = saved->prev)
	{
		if (setting->vartype == PGC_REAL && saved->prior.val.realval == warm)
			saved->prior.val.realval = own;
		else if (setting->vartype == PGC_INT &&
				 saved->prior.val.intval == (int) warm)
			saved->prior.val.intval = (int) own;
	}
}

/*
 * sabot_costs_restore - undo sabot_costs_switch(); cannot fail
 *
 * What a function called by the planner has SET meanwhile stays.
 */
void
sabot_costs_restore(const SabotCosts *costs)
{
	double		now[SABOT_NCOSTS];

	read_costs(now);
	for (int i = 0; i < SABOT_NCOSTS; i++)
	{
		if (now[i] == costs->warm[i])
			now[i] = costs->own[i];
		correct_saved(costs, (SabotCost) i);
	}
	write_costs(now);
}
