/*-------------------------------------------------------------------------
 *
 * route_query.c
 *		sabot.route(): where a query would run, without running it.
 *
 * The query is planned by the planner that would plan it, hooks and all, so
 * that the answer cannot differ from what happens.  Whether agents are idle,
 * and what else is known only when it runs, is not looked at.
 *
 * IDENTIFICATION
 *		src/route/route_query.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"

#include "compat.h"
#include "guc.h"
#include "pool/pool.h"
#include "route/route.h"

PG_FUNCTION_INFO_V1(sabot_route);

/*
 * refuse - raise 0A000 for what has no route
 */
pg_noreturn static void
refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("only a single SELECT can be routed"),
			 errhint("Other statements run in the session that sends them.")));
}

/*
 * analyze_query - the one SELECT that an SQL text consists of
 *
 * Raises 42601 for a text that has no statement or several, 0A000 if it is no
 * SELECT, and what parsing and analyzing it raise.
 */
static Query *
analyze_query(const char *sql)
{
	List	   *statements = pg_parse_query(sql);
	List	   *queries;
	Query	   *query;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 statements == NIL ?
				 errmsg("query is empty") :
				 errmsg("cannot route several statements at once")));

	queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, statements),
												 sql, NULL, 0, NULL);
	if (list_length(queries) != 1)
		refuse();
	query = linitial_node(Query, queries);
	if (query->commandType != CMD_SELECT)
		refuse();
	return query;
}

/*
 * point_into_query - error callback: a position is one in the query that is
 * asked about, not in the statement that asks
 */
static void
point_into_query(void *arg)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((const char *) arg);
}

/*
 * decide_on - plan a query and return what is decided about it
 */
static SabotDecision
decide_on(Query *query, const char *sql)
{
	SabotDecision decision = {
		.reason = SABOT_REASON_NOT_LOADED,
		.threshold = sabot_distribute_threshold
	};

	if (!sabot_pool_attached())
		return decision;
	sabot_route_watch();
	(void) pg_plan_query(query, sql, CURSOR_OPT_PARALLEL_OK, NULL);
	(void) sabot_route_watched(&decision);
	return decision;
}

/*
 * SQL: sabot.route(query text) RETURNS TABLE (route text,
 *		largest_relation regclass, estimated_rows bigint, threshold bigint,
 *		agents int, reason text)
 *
 * Where a SELECT would run, and why.  Raises 42601 and 0A000 as above, and
 * what planning the query raises.
 */
Datum
sabot_route(PG_FUNCTION_ARGS)
{
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[6];
	bool		nulls[6] = {0};
	SabotDecision decision;
	SabotRoute	route;
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = point_into_query,
		.arg = sql
	};

	InitMaterializedSRF(fcinfo, 0);
	error_context_stack = &context;
	decision = decide_on(analyze_query(sql), sql);
	error_context_stack = context.previous;
	route = decision.reason == SABOT_REASON_NONE ?
		SABOT_ROUTE_DISTRIBUTED : SABOT_ROUTE_LOCAL;

	values[0] = CStringGetTextDatum(sabot_route_name(route));
	values[1] = ObjectIdGetDatum(decision.relid);
	values[2] = Int64GetDatum((int64) rint(Min(decision.rows, 1e18)));
	nulls[1] = nulls[2] = !OidIsValid(decision.relid);
	values[3] = Int64GetDatum((int64) decision.threshold);
	values[4] = Int32GetDatum(decision.agents);
	values[5] = CStringGetTextDatum(sabot_route_reason_text(decision.reason));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}
