/*-------------------------------------------------------------------------
 *
 * route_explain.c
 *		The lines that EXPLAIN has about routing.
 *
 * PostgreSQL 18 asks extensions what they have to say about a plan.  Before
 * it, EXPLAIN can only be wrapped as a whole, and when the core returns, the
 * group that describes the query is closed: what closing it did is undone, so
 * that in JSON, XML and YAML too our lines stand where they belong.
 *
 * A plan below the threshold has no mark, but VERBOSE is to show the estimate
 * that was too low: it is the one of the query that was planned first after
 * the hook was called, or in 18 last.
 *
 * IDENTIFICATION
 *		src/route/route_explain.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "guc.h"
#include "route/route.h"

/*
 * is_worth_a_line - whether EXPLAIN is to say more than PostgreSQL does
 */
static bool
is_worth_a_line(const ExplainState *es, const SabotDecision *decision)
{
	switch (decision->reason)
	{
		case SABOT_REASON_EXECUTION_LOCAL:
		case SABOT_REASON_NOT_LOADED:
		case SABOT_REASON_NO_EXTENSION:
		case SABOT_REASON_BELOW_THRESHOLD:
			return es->verbose;
		default:
			return true;
	}
}

/*
 * show_routing - add our lines to the group that describes a query
 *
 * Where lines have names that must be unique, the second has its own.
 */
static void
show_routing(ExplainState *es, const PlannedStmt *stmt,
			 const SabotDecision *decision)
{
	SabotRun	run;

	ExplainPropertyText("Sabot", sabot_route_decision_text(decision), es);
	if (es->analyze && decision->reason == SABOT_REASON_NONE &&
		sabot_route_last_run(&run) && run.stmt == stmt)
		ExplainPropertyText(es->format == EXPLAIN_FORMAT_TEXT ?
							"Sabot" : "Sabot Run",
							sabot_route_run_text(&run), es);
}

#if SABOT_EXPLAINS_EACH_PLAN

static explain_per_plan_hook_type prev_explain_per_plan_hook = NULL;

/*
 * sabot_explain_per_plan - explain_per_plan_hook: say how a plan is routed
 */
static void
sabot_explain_per_plan(PlannedStmt *stmt, IntoClause *into, ExplainState *es,
					   const char *queryString, ParamListInfo params,
					   QueryEnvironment *queryEnv)
{
	SabotDecision decision;
	SabotDecision unmarked;

	if (prev_explain_per_plan_hook)
		prev_explain_per_plan_hook(stmt, into, es, queryString, params,
								   queryEnv);

	if (!sabot_route_decision(stmt, &decision))
	{
		if (sabot_route_last_planned(&unmarked) == stmt)
			decision = unmarked;
		else if (sabot_execution == SABOT_EXECUTION_LOCAL)
			decision.reason = SABOT_REASON_EXECUTION_LOCAL;
	}
	if (is_worth_a_line(es, &decision))
		show_routing(es, stmt, &decision);
}

/*
 * sabot_route_explain_init - install the hook; once, when the server starts
 */
void
sabot_route_explain_init(void)
{
	prev_explain_per_plan_hook = explain_per_plan_hook;
	explain_per_plan_hook = sabot_explain_per_plan;
}

#else

static ExplainOneQuery_hook_type prev_ExplainOneQuery_hook = NULL;

/*
 * cut_end - take a text off the end of EXPLAIN's output, behind 2 * es->indent
 * spaces
 *
 * Returns false, and takes nothing, if something else stands there.
 */
static bool
cut_end(ExplainState *es, const char *text)
{
	int			length = (int) strlen(text);
	int			rest = es->str->len - length - 2 * es->indent;

	if (rest < 0 || strcmp(es->str->data + es->str->len - length, text) != 0)
		return false;
	es->str->len = rest;
	es->str->data[rest] = '\0';
	return true;
}

/*
 * reopen_group - undo what ExplainCloseGroup() did for a group "Query"
 *
 * Returns false if something has been added behind the group.
 */
static bool
reopen_group(ExplainState *es)
{
	switch (es->format)
	{
		case EXPLAIN_FORMAT_TEXT:
			return true;
		case EXPLAIN_FORMAT_XML:
			if (!cut_end(es, "</Query>\n"))
				return false;
			break;
		case EXPLAIN_FORMAT_JSON:
			if (!cut_end(es, "}"))
				return false;
			/* The line that the bracket was on is gone with it. */
			es->str->data[--es->str->len] = '\0';
			es->grouping_stack = lcons_int(1, es->grouping_stack);
			break;
		case EXPLAIN_FORMAT_YAML:
			es->grouping_stack = lcons_int(1, es->grouping_stack);
			break;
	}
	es->indent++;
	return true;
}

/*
 * sabot_explain_one_query - ExplainOneQuery_hook: explain a query and say how
 * it is routed
 */
static void
sabot_explain_one_query(Query *query, int cursorOptions, IntoClause *into,
						ExplainState *es, const char *queryString,
						ParamListInfo params, QueryEnvironment *queryEnv)
{
	SabotDecision decision;
	const PlannedStmt *stmt;

	sabot_route_watch();
	if (prev_ExplainOneQuery_hook)
		prev_ExplainOneQuery_hook(query, cursorOptions, into, es, queryString,
								  params, queryEnv);
	else
		standard_ExplainOneQuery(query, cursorOptions, into, es, queryString,
								 params, queryEnv);
	stmt = sabot_route_watched(&decision);

	if (stmt == NULL || !is_worth_a_line(es, &decision) || !reopen_group(es))
		return;
	show_routing(es, stmt, &decision);
	ExplainCloseGroup("Query", NULL, true, es);
}

/*
 * sabot_route_explain_init - install the hook; once, when the server starts
 */
void
sabot_route_explain_init(void)
{
	prev_ExplainOneQuery_hook = ExplainOneQuery_hook;
	ExplainOneQuery_hook = sabot_explain_one_query;
}

#endif
