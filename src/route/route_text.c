/*-------------------------------------------------------------------------
 *
 * route_text.c
 *		How decisions are put into words, the same ones everywhere.
 *
 * EXPLAIN, sabot.route(), sabot.route_stat and the server's log all say why a
 * query ran where it did.
 *
 * IDENTIFICATION
 *		src/route/route_text.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "route/route.h"

static const char *const route_names[SABOT_NROUTES] = {
	[SABOT_ROUTE_LOCAL] = "local",
	[SABOT_ROUTE_NATIVE] = "native",
	[SABOT_ROUTE_DISTRIBUTED] = "distributed"
};

static const char *const reason_texts[SABOT_NREASONS] = {
	[SABOT_REASON_NONE] = "large enough",
	[SABOT_REASON_EXECUTION_LOCAL] = "sabot.execution is local",
	[SABOT_REASON_NOT_LOADED] = "sabot is not in shared_preload_libraries",
	[SABOT_REASON_NO_EXTENSION] = "no extension in this database",
	[SABOT_REASON_NOT_SELECT] = "writes or locks rows",
	[SABOT_REASON_NO_WORKERS] = "settings allow no workers",
	[SABOT_REASON_NOT_PARALLEL] = "not parallel safe",
	[SABOT_REASON_BELOW_THRESHOLD] = "below the threshold",
	[SABOT_REASON_NO_GAIN] = "no gain from workers",
	[SABOT_REASON_IN_RECOVERY] = "in recovery",
	[SABOT_REASON_TURNED_OFF] = "self-test not passed",
	[SABOT_REASON_CURSOR] = "rows not fetched all at once",
	[SABOT_REASON_NESTED] = "within another parallel query",
	[SABOT_REASON_HAS_WRITTEN] = "transaction has written",
	[SABOT_REASON_SERIALIZABLE] = "serializable transaction",
	[SABOT_REASON_TEMPORARY] = "session has temporary objects",
	[SABOT_REASON_AUTHORIZATION] = "session authorization was set",
	[SABOT_REASON_LIBRARIES] = "session has loaded libraries",
	[SABOT_REASON_RECORD] = "anonymous records",
	[SABOT_REASON_NO_PROCESSOR] = "no idle processor",
	[SABOT_REASON_NO_AGENT] = "no idle agent",
	[SABOT_REASON_NO_MEMORY] = "no dynamic shared memory"
};

/*
 * sabot_route_name - what a route is called
 */
const char *
sabot_route_name(SabotRoute route)
{
	return route_names[route];
}

/*
 * sabot_route_reason_text - a reason in words
 */
const char *
sabot_route_reason_text(SabotReason reason)
{
	return reason_texts[reason];
}

/*
 * agents_text - a number of agents in words, allocated
 */
static char *
agents_text(int agents)
{
	return psprintf("%d %s", agents, agents == 1 ? "agent" : "agents");
}

/*
 * sabot_route_decision_text - a decision as EXPLAIN shows it, allocated
 */
char *
sabot_route_decision_text(const SabotDecision *decision)
{
	char	   *sizes;

	if (decision->reason != SABOT_REASON_NONE &&
		decision->reason != SABOT_REASON_BELOW_THRESHOLD)
		return psprintf("local (%s)", reason_texts[decision->reason]);

	if (!OidIsValid(decision->relid))
		sizes = pstrdup("no large relation");
	else
		sizes = psprintf("largest relation %.0f rows, threshold %.0f",
						 decision->rows, decision->threshold);
	if (decision->reason == SABOT_REASON_BELOW_THRESHOLD)
		return psprintf("local (%s)", sizes);
	return psprintf("distributed over %s (%s)",
					agents_text(decision->agents), sizes);
}

/*
 * sabot_route_run_text - how a run went, as EXPLAIN ANALYZE shows it,
 * allocated
 */
char *
sabot_route_run_text(const SabotRun *run)
{
	const char *planned = agents_text(run->planned);

	if (run->route == SABOT_ROUTE_DISTRIBUTED)
		return psprintf("planned for %s, ran on %d", planned, run->ran);
	return psprintf("planned for %s, ran on %d (%s: %s)", planned, run->ran,
					route_names[run->route], reason_texts[run->reason]);
}

/*
 * sabot_route_log_decision - log how a query is planned, with the estimate
 *
 * For sabot.log_routing.  Inside a transaction.
 */
void
sabot_route_log_decision(const SabotDecision *decision)
{
	char	   *name = NULL;

	if (OidIsValid(decision->relid))
		name = get_rel_name(decision->relid);
	ereport(LOG,
			(errmsg("route: %s", sabot_route_decision_text(decision)),
			 name == NULL ? 0 :
			 errdetail("The largest relation is \"%s\" with an estimated %.0f rows, the threshold %.0f.",
					   name, decision->rows, decision->threshold)));
}

/*
 * sabot_route_log_run - log where a query that was meant for agents ran
 *
 * For sabot.log_routing.
 */
void
sabot_route_log_run(const SabotRun *run)
{
	ereport(LOG,
			(errmsg("route: %s", sabot_route_run_text(run))));
}
