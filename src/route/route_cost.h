/*-------------------------------------------------------------------------
 *
 * route_cost.h
 *		What parallel workers cost the planner, for as long as it plans.
 *
 * IDENTIFICATION
 *		src/route/route_cost.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_ROUTE_COST_H
#define SABOT_ROUTE_COST_H

typedef enum SabotCost
{
	SABOT_COST_SETUP,
	SABOT_COST_TABLE_PAGES,
	SABOT_COST_INDEX_PAGES,
	SABOT_COST_WORKERS,
	SABOT_NCOSTS
} SabotCost;

/* One switch of the costs, filled by sabot_costs_switch(). */
typedef struct SabotCosts
{
	double		own[SABOT_NCOSTS];	/* what they were */
	double		warm[SABOT_NCOSTS]; /* what they are */
	const void *saved[SABOT_NCOSTS];	/* the newest value saved before */
} SabotCosts;

/* in route_cost.c */
extern void sabot_costs_switch(SabotCosts *costs);
extern void sabot_costs_restore(const SabotCosts *costs);

#endif							/* SABOT_ROUTE_COST_H */
