/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Settings of sabot, all under the "sabot." prefix.
 *
 * None of them needs a restart: shared memory is sized by
 * max_worker_processes, so even the size of the pool can follow a reload.
 *
 * IDENTIFICATION
 *		src/guc.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "pgtime.h"
#include "postmaster/bgworker_internals.h"
#include "utils/guc.h"

#include "guc.h"

int			sabot_agent_idle_timeout = 600;
int			sabot_distribute_threshold = 10000;
bool		sabot_enabled = true;
int			sabot_execution = SABOT_EXECUTION_AUTO;
int			sabot_graph_max_tasks = 10000;
int			sabot_group_commit = 1;
int			sabot_keep_agents = 0;
int			sabot_keep_jobs = 7 * 24 * 60;
int			sabot_llm_load_timeout = 300000;
int			sabot_llm_max_consecutive_failures = 10;
int			sabot_llm_max_response = 1024;
char	   *sabot_llm_model = NULL;
int			sabot_llm_pause_retry = 300000;
int			sabot_llm_workers = 2;
bool		sabot_log_routing = false;
int			sabot_max_crashes = 3;
int			sabot_pool_size = 4;
int			sabot_query_agents = 2;
char	   *sabot_timezone = NULL;

static const struct config_enum_entry execution_options[] = {
	{"auto", SABOT_EXECUTION_AUTO, false},
	{"local", SABOT_EXECUTION_LOCAL, false},
	{"distributed", SABOT_EXECUTION_DISTRIBUTED, false},
	{NULL, 0, false}
};

/*
 * Define every setting of the pool.  Kept in alphabetical order by name.
 */
static void
define_pool_settings(void)
{
	DefineCustomIntVariable("sabot.agent_idle_timeout",
							"Sets how long an idle agent stays connected.",
							"-1 means for ever.",
							&sabot_agent_idle_timeout,
							600, -1, INT_MAX / 1000,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("sabot.enabled",
							 "Starts agents for waiting work.",
							 "When off, running work ends and nothing is started.",
							 &sabot_enabled,
							 true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.keep_agents",
							"Sets how many agents are kept connected while idle.",
							"Meant for ALTER ROLE ... IN DATABASE ... SET, which keeps them from server start on.",
							&sabot_keep_agents,
							0, 0, 1024,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.pool_size",
							"Sets the number of agents.",
							"Agents never take more than max_worker_processes - 4.",
							&sabot_pool_size,
							4, 0, 1024,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * Whether a value of sabot.timezone is a time zone; empty is none.
 */
static bool
check_timezone(char **newval, void **extra, GucSource source)
{
	pg_tz	   *zone;

	if ((*newval)[0] == '\0')
		return true;
	zone = pg_tzset(*newval);
	if (zone == NULL)
		return false;
	if (!pg_tz_acceptable(zone))
	{
		GUC_check_errmsg("time zone \"%s\" appears to use leap seconds",
						 *newval);
		GUC_check_errdetail("PostgreSQL does not support leap seconds.");
		return false;
	}
	return true;
}

/*
 * Define every setting of jobs.  Kept in alphabetical order by name.
 */
static void
define_job_settings(void)
{
	DefineCustomIntVariable("sabot.graph_max_tasks",
							"Sets how many tasks a graph may have.",
							"As many jobs may be named in depends_on.",
							&sabot_graph_max_tasks,
							10000, 1, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.group_commit",
							"Sets how many jobs an agent may commit together.",
							"1 commits each job alone.",
							&sabot_group_commit,
							1, 1, 10000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.keep_jobs",
							"Sets how long finished jobs are kept.",
							"-1 means for ever.",
							&sabot_keep_jobs,
							7 * 24 * 60, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.max_crashes",
							"Sets how many agents a job may lose before it fails.",
							NULL,
							&sabot_max_crashes,
							3, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("sabot.timezone",
							   "Sets the time zone of schedules.",
							   "Empty means that of log_timezone.",
							   &sabot_timezone,
							   "",
							   PGC_SIGHUP, 0, check_timezone, NULL, NULL);
}

/*
 * Define every setting of the LLM lane.  Kept in alphabetical order by name.
 */
static void
define_llm_settings(void)
{
	DefineCustomIntVariable("sabot.llm_load_timeout",
							"Sets how long a model server may take to load a model.",
							"That time counts against no item.",
							&sabot_llm_load_timeout,
							300000, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.llm_max_consecutive_failures",
							"Sets after how many items in a row without an answer an LLM job pauses.",
							"0 means never.",
							&sabot_llm_max_consecutive_failures,
							10, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.llm_max_response",
							"Sets the largest answer that is taken from a model server.",
							NULL,
							&sabot_llm_max_response,
							1024, 1, MAX_KILOBYTES / 2,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomStringVariable("sabot.llm_model",
							   "Sets the model of LLM jobs that name none.",
							   NULL,
							   &sabot_llm_model,
							   "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.llm_pause_retry",
							"Sets how often an LLM job that paused by itself tries one item.",
							"0 means never.",
							&sabot_llm_pause_retry,
							300000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.llm_workers",
							"Sets the number of workers that send requests to model servers.",
							NULL,
							&sabot_llm_workers,
							2, 0, 16,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * Define every setting of routing.  Kept in alphabetical order by name.
 */
static void
define_routing_settings(void)
{
	DefineCustomIntVariable("sabot.distribute_threshold",
							"Sets from how many rows of its largest relation on a query may run on agents.",
							NULL,
							&sabot_distribute_threshold,
							10000, 0, INT_MAX,
							PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomEnumVariable("sabot.execution",
							 "Sets whether queries run on agents.",
							 "\"auto\" leaves queries over little data as they are, \"distributed\" none, \"local\" all.",
							 &sabot_execution,
							 SABOT_EXECUTION_AUTO, execution_options,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("sabot.log_routing",
							 "Logs how each query is routed, and why.",
							 NULL,
							 &sabot_log_routing,
							 false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("sabot.query_agents",
							"Sets how many agents one query may use.",
							NULL,
							&sabot_query_agents,
							2, 0, MAX_PARALLEL_WORKER_LIMIT,
							PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
}

/*
 * Define every setting and reserve the prefix.
 */
void
sabot_guc_init(void)
{
	define_pool_settings();
	define_job_settings();
	define_llm_settings();
	define_routing_settings();
	MarkGUCPrefixReserved("sabot");
}
