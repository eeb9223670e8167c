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

#include "utils/guc.h"

#include "guc.h"

int			sabot_agent_idle_timeout = 600;
bool		sabot_enabled = true;
int			sabot_group_commit = 1;
int			sabot_keep_agents = 0;
int			sabot_keep_jobs = 7 * 24 * 60;
int			sabot_max_crashes = 3;
int			sabot_pool_size = 4;

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
 * Define every setting of jobs.  Kept in alphabetical order by name.
 */
static void
define_job_settings(void)
{
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
}

/*
 * Define every setting and reserve the prefix.
 */
void
sabot_guc_init(void)
{
	define_pool_settings();
	define_job_settings();
	MarkGUCPrefixReserved("sabot");
}
