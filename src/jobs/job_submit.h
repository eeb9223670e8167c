/*-------------------------------------------------------------------------
 *
 * job_submit.h
 *		What submitting single jobs and submitting graphs have in common.
 *
 * IDENTIFICATION
 *		src/jobs/job_submit.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_SUBMIT_H
#define SABOT_JOB_SUBMIT_H

#include "fmgr.h"
#include "jobs/jobs.h"

/* Parameters of the INSERT that all ways to submit have in common. */
typedef enum SabotSubmitParam
{
	P_NAME,
	P_OWNER,
	P_OWNER_NAME,
	P_HOME,
	P_QUEUE,
	P_PRIORITY,
	P_STATE,
	P_MAX_ATTEMPTS,
	P_ATOMIC,
	P_KEEP_ROWS,
	P_SUBMITTED_AT,
	P_RUN_AFTER,
	P_RETRY_DELAY,
	P_TIMEOUT,
	P_SETTINGS,
	P_DEDUP_KEY,
	P_NOTIFY,
	P_COMMAND,					/* text or text[] */
	P_PARAMS,					/* jsonb */
	P_KIND,
	P_DEPENDS_ON,
	P_PARENT_ID,				/* not in SQL, as P_ON_FAILURE */
	P_ON_FAILURE,
	P_NVALUES,
	P_NPARAMS = P_PARENT_ID
} SabotSubmitParam;

/* What a call submits, with its options checked. */
typedef struct SabotSubmission
{
	Datum		values[P_NVALUES];
	char		nulls[P_NVALUES + 1];
	int32		priority;
	char	   *queue;
	SabotJobState state;		/* of the new rows */
	TimestampTz submitted_at;
	TimestampTz run_after;		/* 0 = ready at once */
	int64	   *blockers;		/* unfinished jobs that these depend on */
	int			nblockers;
	char	   *skip_reason;	/* why they are not to run at all, or NULL */
} SabotSubmission;

/* What a job, or each run of a schedule, is to be spread over. */
typedef struct SabotSpreadOrder
{
	Oid			relation;
	int			pieces;			/* 0 = as suits the table */
	bool		has_pause;
	Interval	piece_pause;
	bool		has_timeout;
	Interval	timeout;		/* of each piece */
} SabotSpreadOrder;

/* in job_submission.c */
extern void sabot_submission_begin(SabotSubmission *s, const char *function);
extern void sabot_submission_set(SabotSubmission *s, SabotSubmitParam p,
								 Datum value);
extern void sabot_submission_set_arg(SabotSubmission *s, SabotSubmitParam p,
									 FunctionCallInfo fcinfo, int argno);
extern void sabot_submission_identity(SabotSubmission *s,
									  FunctionCallInfo fcinfo, int name,
									  int queue, int priority);
extern void sabot_submission_run_after(SabotSubmission *s,
									   FunctionCallInfo fcinfo,
									   int run_after);
extern void sabot_submission_state(SabotSubmission *s, SabotJobState state);
extern void sabot_submission_timeout(SabotSubmission *s,
									 FunctionCallInfo fcinfo, int timeout);
extern void sabot_submission_attempts(SabotSubmission *s,
									  FunctionCallInfo fcinfo,
									  int max_attempts, int retry_delay,
									  int timeout);
extern void sabot_submission_channel(SabotSubmission *s,
									 FunctionCallInfo fcinfo, int notify);
extern void sabot_submission_results(SabotSubmission *s,
									 FunctionCallInfo fcinfo, int keep_rows,
									 int notify);
extern void sabot_submission_check_name(const char *name);
extern void sabot_submission_check_syntax(char *command);
extern void sabot_submission_point(void *arg);
extern void sabot_submission_check_command(char *command, Jsonb *params);
extern void sabot_submission_require_array(Jsonb *params, const char *what);

/* in job_submit.c */
extern void sabot_submission_fill(const SabotSubmission *s, Datum *values,
								  bool *isnull);
extern int64 sabot_submission_insert(SabotSubmission *s);
extern int64 sabot_submission_insert_once(SabotSubmission *s, bool *inserted);

/* in job_schedule_submit.c, job_graph.c */
extern int64 sabot_schedule_submit(SabotSubmission *s, text *schedule,
								   Jsonb *graph, SabotSpreadOrder *order);
extern int64 sabot_graph_insert_run(SabotSubmission *s, Jsonb *json);

/* in job_spread.c */
extern SabotSpreadOrder *sabot_submission_spread(SabotSubmission *s,
												 FunctionCallInfo fcinfo);
extern int64 sabot_submission_insert_spread(SabotSubmission *s,
											SabotSpreadOrder *order);
extern void sabot_spread_write_order(int64 job_id, SabotSpreadOrder *order);
extern void sabot_spread_copy_order(int64 schedule_id, int64 run_id);

/* in job_depend_submit.c */
extern void sabot_submission_depends_on(SabotSubmission *s, ArrayType *jobs);
extern void sabot_submission_link(SabotSubmission *s, const int64 *ids,
								  int n);

#endif							/* SABOT_JOB_SUBMIT_H */
