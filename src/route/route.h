/*-------------------------------------------------------------------------
 *
 * route.h
 *		Routing: queries over little data stay local, others run on agents.
 *
 * The planner hook decides and leaves a mark in the plan (route_plan.c).  When
 * a marked plan is run, its Gather nodes find idle agents and have them run
 * what PostgreSQL would fork parallel workers for (route_gather.c and
 * route_launch.c in the query's session, route_agent.c in the agent).
 *
 * IDENTIFICATION
 *		src/route/route.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_ROUTE_H
#define SABOT_ROUTE_H

#include "executor/execdesc.h"
#include "nodes/plannodes.h"
#include "portability/instr_time.h"

/* Where a query ran. */
typedef enum SabotRoute
{
	SABOT_ROUTE_LOCAL,			/* in its session alone */
	SABOT_ROUTE_NATIVE,			/* with PostgreSQL's own parallel workers */
	SABOT_ROUTE_DISTRIBUTED,	/* with agents */
	SABOT_NROUTES
} SabotRoute;

/*
 * Why a query did not, or would not, run on agents; in the order in which
 * they are found out.  sabot_route_reason_text() has the words.
 */
typedef enum SabotReason
{
	SABOT_REASON_NONE,			/* it runs on agents */

	/* known when it is planned */
	SABOT_REASON_EXECUTION_LOCAL,	/* sabot.execution is local */
	SABOT_REASON_NOT_LOADED,	/* not in shared_preload_libraries */
	SABOT_REASON_NO_EXTENSION,	/* no CREATE EXTENSION in the database */
	SABOT_REASON_NOT_SELECT,	/* it writes, or locks rows */
	SABOT_REASON_NO_WORKERS,	/* a setting allows no workers or agents */
	SABOT_REASON_NOT_PARALLEL,	/* something in it is not parallel safe */
	SABOT_REASON_BELOW_THRESHOLD,	/* its largest relation is small */
	SABOT_REASON_NO_GAIN,		/* the best plan has no parallel part */

	/* known when it is run */
	SABOT_REASON_IN_RECOVERY,
	SABOT_REASON_TURNED_OFF,	/* the self-test failed or has yet to come */
	SABOT_REASON_CURSOR,		/* its rows are not fetched all at once */
	SABOT_REASON_NESTED,		/* within another parallel query */
	SABOT_REASON_HAS_WRITTEN,	/* its transaction has */
	SABOT_REASON_SERIALIZABLE,
	SABOT_REASON_TEMPORARY,		/* its session has temporary objects */
	SABOT_REASON_AUTHORIZATION, /* SET SESSION AUTHORIZATION */
	SABOT_REASON_LIBRARIES,		/* its session has libraries of its own */
	SABOT_REASON_RECORD,		/* anonymous records pass between processes */
	SABOT_REASON_NO_PROCESSOR,	/* as many large queries as processors */
	SABOT_REASON_NO_AGENT,		/* no idle agent */
	SABOT_REASON_NO_MEMORY,		/* no dynamic shared memory segment */
	SABOT_NREASONS
} SabotReason;

/* What the planner hook has decided about a plan. */
typedef struct SabotDecision
{
	SabotReason reason;			/* NONE: meant for agents */
	int			agents;			/* of its largest Gather, 0 if not for agents */
	Oid			relid;			/* the largest relation, or InvalidOid */
	double		rows;			/* its estimated rows, before restriction */
	double		threshold;		/* as it was then */
} SabotDecision;

/* How the execution of a plan that was meant for agents went. */
typedef struct SabotRun
{
	const PlannedStmt *stmt;
	SabotRoute	route;
	SabotReason reason;			/* unless route is DISTRIBUTED */
	int			planned;		/* agents of its largest Gather */
	int			ran;			/* the most that any Gather got */
	int64		start_us;		/* until agents had their work, 0 if none */
} SabotRun;

/* What grant_usage() gives of ours: names with commas between. */
#define SABOT_ROUTE_VIEWS "sabot.route_stat"
#define SABOT_ROUTE_ROUTINES \
	"sabot.route, sabot.route_counters, sabot.route_findings, sabot.processors"

/* in route_plan.c */
extern void sabot_route_plan_init(void);
extern void sabot_route_watch(void);
extern const PlannedStmt *sabot_route_watched(SabotDecision *decision);
extern const PlannedStmt *sabot_route_last_planned(SabotDecision *decision);

/* in route_mark.c */
extern void sabot_route_mark(PlannedStmt *stmt, const SabotDecision *decision);
extern bool sabot_route_decision(const PlannedStmt *stmt,
								 SabotDecision *decision);
extern int	sabot_route_plan_agents(const PlannedStmt *stmt);

/* in route_extension.c */
extern bool sabot_route_extension_exists(void);

/* in route_gather.c */
extern void sabot_route_gather_init(void);
extern bool sabot_route_last_run(SabotRun *run);

/* in route_stat.c */
extern Size sabot_route_stat_shmem_size(void);
extern void sabot_route_stat_shmem_init(void);
extern void sabot_route_count(SabotRoute route, SabotReason reason,
							  int64 start_us);

/* in route_text.c */
extern const char *sabot_route_name(SabotRoute route);
extern const char *sabot_route_reason_text(SabotReason reason);
extern char *sabot_route_decision_text(const SabotDecision *decision);
extern char *sabot_route_run_text(const SabotRun *run);
extern void sabot_route_log_decision(const SabotDecision *decision);
extern void sabot_route_log_run(const SabotRun *run);

/* in route_explain.c */
extern void sabot_route_explain_init(void);

#endif							/* SABOT_ROUTE_H */
