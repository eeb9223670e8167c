/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings of sabot, all under the "sabot." prefix.
 *
 * IDENTIFICATION
 *		src/guc.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_GUC_H
#define SABOT_GUC_H

/* Values of sabot.execution. */
typedef enum SabotExecution
{
	SABOT_EXECUTION_AUTO,
	SABOT_EXECUTION_LOCAL,
	SABOT_EXECUTION_DISTRIBUTED
} SabotExecution;

extern int	sabot_agent_idle_timeout;	/* seconds, -1 = never */
extern int	sabot_distribute_threshold; /* rows */
extern bool sabot_enabled;
extern int	sabot_execution;	/* a SabotExecution */
extern int	sabot_graph_max_tasks;
extern int	sabot_group_commit; /* jobs per commit */
extern int	sabot_keep_agents;
extern int	sabot_keep_jobs;	/* minutes, -1 = for ever */
extern int	sabot_llm_load_timeout; /* ms */
extern int	sabot_llm_max_consecutive_failures; /* items, 0 = any number */
extern int	sabot_llm_max_response; /* kB */
extern char *sabot_llm_model;	/* "" = none */
extern int	sabot_llm_pause_retry;	/* ms, 0 = never */
extern int	sabot_llm_workers;
extern bool sabot_log_routing;
extern int	sabot_max_crashes;
extern int	sabot_pool_size;
extern int	sabot_query_agents;
extern char *sabot_timezone;	/* of schedules, "" = log_timezone */

extern void sabot_guc_init(void);

#endif							/* SABOT_GUC_H */
