/*-------------------------------------------------------------------------
 *
 * route_gather.c
 *		Runs the Gather nodes of plans that are meant for agents.
 *
 * The nodes are the core's.  What is replaced is their first execution, where
 * they would have parallel workers forked: if the state of the session allows
 * it and there are idle agents, these take the place of the workers; the rest,
 * reading tuples, keeping their order, early ends, EXPLAIN, is left to the
 * core.  The whole life of a parallel context lies within ExecutorRun(), so
 * that is where errors are caught.
 *
 * Without an agent a query does what it would have done without sabot: have
 * workers forked if that is what the planner would have chosen at its own
 * price for that, else run the plan in its session alone.
 *
 * IDENTIFICATION
 *		src/route/route_gather.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/execParallel.h"
#include "executor/executor.h"
#include "executor/nodeSubplan.h"
#include "executor/tqueue.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "route/route_task.h"

/*
 * What is common to Gather and Gather Merge, which have it in different
 * places.
 */
typedef struct Funnel
{
	struct Funnel *next;		/* of the same query */
	PlanState  *node;
	bool		is_merge;
	bool		initialized;
	bool		core_does_it;	/* has got workers of the core's */
	RouteLaunch *launch;		/* agents of its last execution, or NULL */
	bool		is_theirs;		/* we leave the work to them alone */
	uint64		declines;		/* of agents, before that execution */
	ExecProcNodeMtd share;		/* how our share of its input is made */
	bool		share_is_watched;
} Funnel;

/* A query that is being run, on the stack of ExecutorRun(). */
typedef struct Execution
{
	struct Execution *outer;	/* which this one was called from */
	Funnel	   *funnels;
	SabotRun	run;
	TimestampTz began_at;		/* with the first funnel that has agents */
	TimestampTz launched_at;
} Execution;

static ExecutorRun_hook_type prev_ExecutorRun = NULL;
static ExecProcNodeMtd core_gather = NULL;
static ExecProcNodeMtd core_gather_merge = NULL;
static Execution *current = NULL;
static SabotRun last_run;

/*
 * sabot_route_last_run - how the last plan meant for agents has been run in
 * this session; false if there was none
 */
bool
sabot_route_last_run(SabotRun *run)
{
	*run = last_run;
	return last_run.stmt != NULL;
}

/*
 * pei_of - where a funnel keeps its parallel state
 */
static ParallelExecutorInfo **
pei_of(Funnel *funnel)
{
	return funnel->is_merge ? &((GatherMergeState *) funnel->node)->pei :
		&((GatherState *) funnel->node)->pei;
}

/*
 * workers_of - how many workers a funnel is planned for
 */
static int
workers_of(const PlanState *node)
{
	return IsA(node, GatherMergeState) ?
		((GatherMerge *) node->plan)->num_workers :
		((Gather *) node->plan)->num_workers;
}

/*
 * is_worth_forking - whether a plan would have been chosen if workers had to
 * be forked for it
 *
 * What is saved of the cost of its input is to be more than that of forking.
 * The planner compares with the best plan that is not parallel, which is not
 * there anymore; the estimate leaves out that input from disk is not faster by
 * being read in parallel.
 */
static bool
is_worth_forking(const PlanState *node)
{
	double		participants = workers_of(node) + 1;

	if (parallel_leader_participation)
		participants -= Min(1.0, 0.3 * workers_of(node));
	return outerPlan(node->plan)->total_cost * (participants - 1) >
		parallel_setup_cost;
}

/*
 * find_funnel - the funnel of a node, or of the input of one
 */
static Funnel *
find_funnel(const PlanState *node, bool is_input)
{
	for (Funnel *funnel = current->funnels; funnel; funnel = funnel->next)
		if ((is_input ? outerPlanState(funnel->node) : funnel->node) == node)
			return funnel;
	elog(ERROR, "plan node is not being watched");
}

/*
 * exec_share - make a tuple of our own share of a funnel's input
 *
 * The last one tells that there is nothing left to do for agents that have
 * yet to begin; and so does the first one that has been sorted.
 */
static TupleTableSlot *
exec_share(PlanState *node)
{
	Funnel	   *funnel = find_funnel(node, true);
	TupleTableSlot *slot = funnel->share(node);

	if (TupIsNull(slot) || IsA(node, SortState))
	{
		/* None, if our share was left early and found no agent again. */
		if (funnel->launch)
			sabot_route_take_back(funnel->launch);
		funnel->share_is_watched = false;
		ExecSetExecProcNode(node, funnel->share);
	}
	return slot;
}

/*
 * watch_share - notice when our own share of a funnel's input is exhausted
 */
static void
watch_share(Funnel *funnel)
{
	PlanState  *input = outerPlanState(funnel->node);

	if (funnel->share_is_watched)
		return;
	funnel->share = input->ExecProcNodeReal;
	funnel->share_is_watched = true;
	ExecSetExecProcNode(input, exec_share);
}

/*
 * forget_launch - be done with the agents of a funnel's last execution
 */
static void
forget_launch(Funnel *funnel, bool await_gone)
{
	if (funnel->launch == NULL)
		return;
	if (await_gone)
		sabot_route_await_gone(funnel->launch);
	sabot_route_release(funnel->launch);
	funnel->launch = NULL;
}

/*
 * params_of - the init plans whose results a funnel's input needs
 */
static Bitmapset *
params_of(const Funnel *funnel)
{
	return funnel->is_merge ?
		((GatherMerge *) funnel->node->plan)->initParam :
		((Gather *) funnel->node->plan)->initParam;
}

/*
 * init_parallel_state - make or renew a funnel's parallel state
 */
static void
init_parallel_state(Funnel *funnel, int nworkers)
{
	ParallelExecutorInfo **pei = pei_of(funnel);
	PlanState  *input = outerPlanState(funnel->node);
	Bitmapset  *params = params_of(funnel);
	int64		tuples_needed = funnel->is_merge ?
	((GatherMergeState *) funnel->node)->tuples_needed :
	((GatherState *) funnel->node)->tuples_needed;

	if (*pei == NULL)
		*pei = ExecInitParallelPlan(input, funnel->node->state, params,
									nworkers, tuples_needed);
	else
		ExecParallelReinitialize(input, *pei, params);
}

/*
 * make_readers - readers of the tuples of the agents that have been launched
 */
static TupleQueueReader **
make_readers(ParallelExecutorInfo *pei, int nreaders)
{
	TupleQueueReader **readers;

	if (nreaders == 0)
		return NULL;
	ExecParallelCreateReaders(pei);
	readers = palloc(nreaders * sizeof(TupleQueueReader *));
	memcpy(readers, pei->reader, nreaders * sizeof(TupleQueueReader *));
	return readers;
}

/*
 * set_readers - tell a funnel how many workers it has, as its own first
 * execution would have
 */
static void
set_readers(Funnel *funnel, int nreaders, TupleQueueReader **readers)
{
	if (funnel->is_merge)
	{
		GatherMergeState *node = (GatherMergeState *) funnel->node;

		node->nworkers_launched = nreaders;
		node->nreaders = nreaders;
		node->reader = readers;
		if (parallel_leader_participation || nreaders == 0)
			node->need_to_scan_locally = true;
		node->initialized = true;
	}
	else
	{
		GatherState *node = (GatherState *) funnel->node;

		node->nworkers_launched = nreaders;
		node->nreaders = nreaders;
		node->reader = readers;
		node->nextreader = 0;
		node->need_to_scan_locally = nreaders == 0 ||
			parallel_leader_participation;
		node->initialized = true;
	}
}

/*
 * launch - have agents help with a funnel; returns how many do
 */
static int
launch(Funnel *funnel, int nplanned)
{
	int			nlaunched;
	TimestampTz ready_at;

	funnel->declines = sabot_route_task_declines();
	init_parallel_state(funnel, sabot_route_launch_size(funnel->launch));
	ready_at = GetCurrentTimestamp();
	nlaunched = sabot_route_launch(funnel->launch);
	if (nlaunched == 0)
	{
		current->run.reason = SABOT_REASON_NO_MEMORY;
		forget_launch(funnel, false);
	}
	else if (current->run.ran == 0)
	{
		current->launched_at = GetCurrentTimestamp();
		current->run.start_us = current->launched_at - current->began_at;
		sabot_profile_add(SABOT_QUERY_SETUP, current->began_at, ready_at);
		sabot_profile_add(SABOT_QUERY_LAUNCH, ready_at, current->launched_at);
	}
	SabotNoteWorkers(funnel->node->state, nplanned, nlaunched);
	current->run.ran = Max(current->run.ran, nlaunched);
	return nlaunched;
}

/*
 * reserve - take agents for a funnel, if it may have some, and there are any
 */
static void
reserve(Funnel *funnel, int nplanned)
{
	ParallelExecutorInfo **pei = pei_of(funnel);

	/* CREATE TABLE AS makes its table after the state was looked at. */
	if (current->run.reason == SABOT_REASON_NONE &&
		TransactionIdIsValid(GetTopTransactionIdIfAny()))
		current->run.reason = SABOT_REASON_HAS_WRITTEN;

	/* Nor can a node that has run alone begin to share its state. */
	if (current->run.reason == SABOT_REASON_NONE && nplanned > 0 &&
		(*pei || !funnel->initialized))
		funnel->launch = sabot_route_reserve(nplanned, pei);
}

/*
 * go_without - have a funnel begin without agents
 *
 * Returns false if the core is to see to it, with workers of its own.
 */
static bool
go_without(Funnel *funnel, int nplanned)
{
	ParallelExecutorInfo **pei = pei_of(funnel);

	if (current->run.reason == SABOT_REASON_NONE)
		current->run.reason = SABOT_REASON_NO_AGENT;
	else if (current->run.reason == SABOT_REASON_TURNED_OFF)
		sabot_route_want_agents(nplanned);

	if (*pei)
	{
		init_parallel_state(funnel, 0);
		sabot_route_launch_none(*pei);
	}
	else if (!funnel->initialized &&
			 current->run.reason != SABOT_REASON_NO_PROCESSOR &&
			 is_worth_forking(funnel->node))
		funnel->core_does_it = true;
	return !funnel->core_does_it;
}

/*
 * begin_funnel - the first execution of a funnel, or the first after a rescan
 *
 * Returns false if the core is to see to it, with workers of its own.
 */
static bool
begin_funnel(Funnel *funnel)
{
	ParallelExecutorInfo **pei = pei_of(funnel);
	int			nplanned = workers_of(funnel->node);
	int			nlaunched = 0;

	if (funnel->core_does_it || !funnel->node->state->es_use_parallel_mode)
		return false;
	/* That may take long, and nobody shall wait for it. */
	ExecSetParamPlanMulti(params_of(funnel),
						  GetPerTupleExprContext(funnel->node->state));
	/* What is to be used again must not be in use anymore. */
	forget_launch(funnel, true);
	if (*pei)
		nplanned = Min(nplanned, (*pei)->pcxt->nworkers);

	if (current->run.ran == 0)
		current->began_at = GetCurrentTimestamp();
	if (current->run.reason == SABOT_REASON_NONE &&
		(nplanned = sabot_route_fair_agents(nplanned)) == 0)
		current->run.reason = SABOT_REASON_NO_PROCESSOR;
	reserve(funnel, nplanned);
	if (funnel->launch)
		nlaunched = launch(funnel, nplanned);
	else if (!go_without(funnel, nplanned))
		return false;
	funnel->initialized = true;
	funnel->is_theirs = nlaunched > 0 && !parallel_leader_participation;
	set_readers(funnel, nlaunched,
				nlaunched > 0 ? make_readers(*pei, nlaunched) : NULL);
	if (nlaunched > 0)
		watch_share(funnel);
	if (funnel->is_theirs)
		sabot_route_await_begun(funnel->launch);
	return true;
}

/*
 * nobody_took_part - whether agents that the work was left to may all have
 * done nothing
 *
 * True once.  Our session may take part late, too: what others have done it
 * finds done.
 */
static bool
nobody_took_part(PlanState *node)
{
	Funnel	   *funnel = find_funnel(node, false);

	if (!funnel->is_theirs ||
		funnel->declines == sabot_route_task_declines())
		return false;
	funnel->is_theirs = false;
	current->run.ran = 0;
	current->run.reason = SABOT_REASON_NO_AGENT;
	return true;
}

/*
 * exec_gather, exec_gather_merge - make a tuple of a Gather (Merge)
 */
static TupleTableSlot *
exec_gather(PlanState *node)
{
	GatherState *gather = (GatherState *) node;
	TupleTableSlot *slot;

	if (!gather->initialized)
		(void) begin_funnel(find_funnel(node, false));
	slot = core_gather(node);
	if (TupIsNull(slot) && nobody_took_part(node))
	{
		gather->need_to_scan_locally = true;
		slot = core_gather(node);
	}
	return slot;
}

static TupleTableSlot *
exec_gather_merge(PlanState *node)
{
	GatherMergeState *gather = (GatherMergeState *) node;
	TupleTableSlot *slot;

	if (!gather->initialized)
		(void) begin_funnel(find_funnel(node, false));
	slot = core_gather_merge(node);
	if (TupIsNull(slot) && nobody_took_part(node))
	{
		gather->need_to_scan_locally = true;
		gather->gm_initialized = false;
		slot = core_gather_merge(node);
	}
	return slot;
}

/*
 * watch_funnel - replace the execution of a Gather (Merge)
 */
static void
watch_funnel(Execution *execution, PlanState *node)
{
	Funnel	   *funnel = palloc0(sizeof(Funnel));

	funnel->node = node;
	funnel->is_merge = IsA(node, GatherMergeState);
	funnel->next = execution->funnels;
	execution->funnels = funnel;
	execution->run.planned = Max(execution->run.planned, workers_of(node));
	if (execution->run.reason == SABOT_REASON_NONE &&
		sabot_route_passes_records(node))
		execution->run.reason = SABOT_REASON_RECORD;

	if (funnel->is_merge)
	{
		core_gather_merge = node->ExecProcNodeReal;
		ExecSetExecProcNode(node, exec_gather_merge);
	}
	else
	{
		core_gather = node->ExecProcNodeReal;
		ExecSetExecProcNode(node, exec_gather);
	}
}

/*
 * watch_funnels - walker: replace the execution of all funnels in a plan
 *
 * Init plans can be reached in two ways.  A Gather that runs its plan once is
 * none of ours.
 */
static bool
watch_funnels(PlanState *node, void *context)
{
	if ((IsA(node, GatherState) && node->ExecProcNodeReal != exec_gather &&
		 !((Gather *) node->plan)->single_copy) ||
		(IsA(node, GatherMergeState) &&
		 node->ExecProcNodeReal != exec_gather_merge))
		watch_funnel(context, node);
	return planstate_tree_walker(node, watch_funnels, context);
}

/*
 * end_funnels - be done with the funnels of a query
 *
 * After an error, or if its end has left them as they are, agents are
 * interrupted.
 */
static void
end_funnels(Execution *execution, bool failed)
{
	for (Funnel *funnel = execution->funnels; funnel; funnel = funnel->next)
	{
		if (funnel->launch && (failed || *pei_of(funnel)))
			sabot_route_abandon(funnel->launch);
		else
			forget_launch(funnel, false);
		funnel->launch = NULL;
		if (failed)
			continue;
		ExecSetExecProcNode(funnel->node, funnel->is_merge ?
							core_gather_merge : core_gather);
		if (funnel->share_is_watched)
			ExecSetExecProcNode(outerPlanState(funnel->node), funnel->share);
	}
}

/*
 * note_run - remember and count how a query was run
 */
static void
note_run(Execution *execution)
{
	SabotRun   *run = &execution->run;

	run->route = SABOT_ROUTE_LOCAL;
	for (Funnel *funnel = execution->funnels; funnel; funnel = funnel->next)
		if (funnel->core_does_it)
			run->route = SABOT_ROUTE_NATIVE;
	if (run->ran > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		run->route = SABOT_ROUTE_DISTRIBUTED;
		run->reason = SABOT_REASON_NONE;
		sabot_profile_add(SABOT_QUERY_EXECUTION, execution->launched_at, now);
		sabot_profile_add(SABOT_QUERY_TOTAL, execution->began_at, now);
	}
	last_run = *run;
	if (sabot_log_routing)
		sabot_route_log_run(run);
	sabot_route_count(run->route, run->reason, run->start_us);
}

/*
 * run_core - run a query as it would be run without us
 */
static void
run_core(SABOT_EXECUTOR_RUN_PARAMS)
{
	if (prev_ExecutorRun)
		prev_ExecutorRun(SABOT_EXECUTOR_RUN_ARGS);
	else
		standard_ExecutorRun(SABOT_EXECUTOR_RUN_ARGS);
}

/*
 * run_meant_for_agents - run a query whose plan is meant for agents
 *
 * Whether rows are wanted in portions is for the core to say when it begins:
 * for early minor versions a limit on them alone is none.
 */
static void
run_meant_for_agents(SABOT_EXECUTOR_RUN_PARAMS)
{
	MemoryContext old = MemoryContextSwitchTo(queryDesc->estate->es_query_cxt);
	Execution	execution = {.outer = current};
	ListCell   *lc;

	execution.run.stmt = queryDesc->plannedstmt;
	execution.run.reason = sabot_route_state_reason();
	watch_funnels(queryDesc->planstate, &execution);
	foreach(lc, queryDesc->estate->es_subplanstates)
	{
		if (lfirst(lc))
			watch_funnels(lfirst(lc), &execution);
	}
	MemoryContextSwitchTo(old);

	sabot_route_enter();
	current = &execution;
	PG_TRY();
	{
		run_core(SABOT_EXECUTOR_RUN_ARGS);
	}
	PG_CATCH();
	{
		current = execution.outer;
		sabot_route_leave();
		end_funnels(&execution, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	current = execution.outer;
	sabot_route_leave();
	end_funnels(&execution, false);
	if (queryDesc->plannedstmt->parallelModeNeeded &&
		!queryDesc->estate->es_use_parallel_mode)
		execution.run.reason = SABOT_REASON_CURSOR;
	note_run(&execution);
}

/*
 * executor_run - ExecutorRun hook
 */
static void
executor_run(SABOT_EXECUTOR_RUN_PARAMS)
{
	PlannedStmt *stmt = queryDesc->plannedstmt;
	SabotDecision decision;
	SabotReason reason;

	if (IsParallelWorker() || queryDesc->operation != CMD_SELECT ||
		!sabot_pool_attached())
	{
		run_core(SABOT_EXECUTOR_RUN_ARGS);
		return;
	}
	reason = sabot_execution == SABOT_EXECUTION_LOCAL ?
		SABOT_REASON_EXECUTION_LOCAL : SABOT_REASON_BELOW_THRESHOLD;
	if (stmt->invalItems && sabot_route_decision(stmt, &decision))
		reason = decision.reason;

	if (reason == SABOT_REASON_NONE && stmt->parallelModeNeeded &&
		(queryDesc->already_executed ||
		 (queryDesc->estate->es_top_eflags & EXEC_FLAG_BACKWARD)))
		reason = SABOT_REASON_CURSOR;
	if (reason == SABOT_REASON_NONE)
		run_meant_for_agents(SABOT_EXECUTOR_RUN_ARGS);
	else
	{
		run_core(SABOT_EXECUTOR_RUN_ARGS);
		sabot_route_count(stmt->parallelModeNeeded &&
						  max_parallel_workers > 0 &&
						  reason != SABOT_REASON_CURSOR ?
						  SABOT_ROUTE_NATIVE : SABOT_ROUTE_LOCAL, reason, 0);
	}
}

/*
 * sabot_route_gather_init - install the hook
 */
void
sabot_route_gather_init(void)
{
	prev_ExecutorRun = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
}
