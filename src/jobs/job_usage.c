/*-------------------------------------------------------------------------
 *
 * job_usage.c
 *		Grants: what a role needs for submitting jobs and watching its own.
 *
 * CREATE EXTENSION grants nothing to anybody.  A list here, and not in the
 * reader's head, says what belongs together; the views show each role its
 * own jobs, and the functions touch no others.  The other rooms have lists of
 * their own.
 *
 * IDENTIFICATION
 *		src/jobs/job_usage.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "jobs/jobs.h"
#include "pool/pool.h"

PG_FUNCTION_INFO_V1(sabot_grant_usage);
PG_FUNCTION_INFO_V1(sabot_revoke_usage);
PG_FUNCTION_INFO_V1(sabot_warn_unless_preloaded);

#define VIEWS \
	"sabot.job_status, sabot.job_task, sabot.job_progress, sabot.job_attempt," \
	" sabot.queue_status, sabot.schedule_status, sabot.agent_status, sabot.pool_status," \
	" sabot.overhead_profile, sabot.metric, sabot.stream_status," \
	" sabot.stream_dead_letter"

#define ROUTINES \
	"sabot.submit_job, sabot.submit_jobs, sabot.submit_job_each, sabot.run," \
	" sabot.submit_stream, sabot.stream_capture, sabot.stream_lag, sabot.stream_waits," \
	" sabot.submit_graph, sabot.graph_task, sabot.graph_dot, sabot.next_due," \
	" sabot.wait_for_job, sabot.wait_for_jobs, sabot.job_state, sabot.job_rows," \
	" sabot.cancel_job, sabot.retry_job, sabot.pause_job, sabot.resume_job," \
	" sabot.purge, sabot.start_agents, sabot.stop_agents, sabot.check," \
	" sabot.job_findings," \
	" sabot.home, sabot.is_mine, sabot.may_see, sabot.owner_label," \
	" sabot.running_job, sabot.job_counters, sabot.wait_reason," \
	" sabot.agent_slots," \
	" sabot.pool_counters, sabot.profile_rows, sabot.pair_failures"

static const char *more_views = NULL;
static const char *more_routines = NULL;

/*
 * sabot_usage_add - register what a room that jobs know nothing of adds
 *
 * Names with commas between, which are kept as they are.
 */
void
sabot_usage_add(const char *views, const char *routines)
{
	more_views = views;
	more_routines = routines;
}

/*
 * list - a list of objects, with those that other rooms add, or NULL
 */
static char *
list(const char *ours, const char *above, const char *others)
{
	return psprintf("%s%s%s%s%s", ours, above ? ", " : "", above ? above : "",
					others ? ", " : "", others ? others : "");
}

/*
 * change_usage - run a GRANT or REVOKE for each kind of object
 *
 * verb and preposition are GRANT and TO, or REVOKE and FROM.  Raises what
 * these raise: only the extension's owner may.
 */
static void
change_usage(const char *verb, const char *preposition, Oid role)
{
	const char *name = quote_identifier(GetUserNameFromId(role, false));
	const SabotJobExtra *extra = sabot_job_extra();
	const char *const what[] = {
		"USAGE ON SCHEMA sabot",
		list("SELECT ON " VIEWS, extra ? extra->views : NULL, more_views),
		list("EXECUTE ON ROUTINE " ROUTINES, extra ? extra->routines : NULL,
			 more_routines)
	};

	SPI_connect();
	for (int i = 0; i < lengthof(what); i++)
	{
		char	   *sql = psprintf("%s %s %s %s", verb, what[i], preposition, name);
		int			rc = SPI_execute(sql, false, 0);

		if (rc < 0)
			elog(ERROR, "could not execute \"%s\": %s", sql,
				 SPI_result_code_string(rc));
	}
	SPI_finish();
}

/*
 * SQL: sabot.grant_usage(role regrole) RETURNS void - let a role submit jobs
 * and watch its own
 */
Datum
sabot_grant_usage(PG_FUNCTION_ARGS)
{
	change_usage("GRANT", "TO", PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/*
 * SQL: sabot.revoke_usage(role regrole) RETURNS void - take that back
 */
Datum
sabot_revoke_usage(PG_FUNCTION_ARGS)
{
	change_usage("REVOKE", "FROM", PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/*
 * SQL: sabot.warn_unless_preloaded() RETURNS void - for CREATE EXTENSION
 */
Datum
sabot_warn_unless_preloaded(PG_FUNCTION_ARGS)
{
	if (!sabot_pool_attached())
		ereport(WARNING,
				(errmsg("sabot is not loaded: jobs can be neither submitted nor run"),
				 errhint("Add sabot to shared_preload_libraries and restart the server.")));
	PG_RETURN_VOID();
}
