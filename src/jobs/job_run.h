/*-------------------------------------------------------------------------
 *
 * job_run.h
 *		What running one job and running a group of them have in common.
 *
 * IDENTIFICATION
 *		src/jobs/job_run.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_RUN_H
#define SABOT_JOB_RUN_H

#include "jobs/jobs.h"

/* in job_run.c */
extern void sabot_run_start_timeout(int64 timeout_ms);
extern bool sabot_run_timed_out(void);
extern void sabot_run_raise_if_interrupted(void);
extern void sabot_run_fire_deferred(void);
extern void sabot_run_report(const SabotJob *job);
extern bool sabot_run_is_runnable(const SabotJob *job);
extern void sabot_run_taken(const SabotReady *entry, const char *queue);
extern void sabot_run_put_back(const SabotReady *entry, const char *queue);
extern void sabot_run_profile(const SabotReady *entry, TimestampTz started_at,
							  TimestampTz executed_at);

/* in job_group.c */
extern bool sabot_group_applies(void);
extern void sabot_group_run(const SabotReady *first, const char *queue,
							MemoryContext context);

#endif							/* SABOT_JOB_RUN_H */
