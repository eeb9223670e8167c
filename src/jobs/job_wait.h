/*-------------------------------------------------------------------------
 *
 * job_wait.h
 *		What the files that wait for work share.
 *
 * IDENTIFICATION
 *		src/jobs/job_wait.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_WAIT_H
#define SABOT_JOB_WAIT_H

#include "compat.h"
#include "fmgr.h"
#include "jobs/jobs.h"

/* Between two checks of a wait that lasts, in ms. */
#define SABOT_WAIT_CHECK_MS		1000

/*
 * How a job stands, as the latest snapshot shows it.  Strings are in the
 * memory context that was current when it was looked at.
 */
typedef struct SabotJobLook
{
	bool		found;			/* exists and is the caller's to see */
	bool		finished;		/* it is in sabot.job_history */
	SabotJobState state;

	/* unfinished jobs only */
	bool		copied;			/* it belongs to another database */
	bool		ours;			/* this transaction has put it there */
	bool		is_graph;		/* or spread */
	bool		is_spread;
	bool		is_schedule;
	bool		is_stream;
	TimestampTz run_after;		/* 0 if none */
	char	   *queue;

	/* jobs that are not completed only; each may be NULL */
	char	   *reason;
	char	   *sqlstate;
	char	   *error;
	char	   *error_detail;
	char	   *error_hint;
	char	   *error_context;

	/* finished jobs only, and only if asked for */
	Jsonb	   *rows;			/* array of the rows kept, or NULL */
	int			keep_rows;
} SabotJobLook;

/* in job_look.c */
extern void sabot_job_look(int64 job_id, bool want_rows, SabotJobLook *look);
extern SabotJobState sabot_job_current_state(const SabotJobLook *look,
											 bool running);
extern int	sabot_job_queue_limit(const char *queue);
pg_noreturn extern void sabot_job_missing(int64 job_id);

/* in job_status.c, callable from SQL */
extern Datum sabot_is_mine(PG_FUNCTION_ARGS);

/* in job_deadlock.c */
extern Size sabot_waiter_shmem_size(void);
extern void sabot_waiter_shmem_init(void);
extern void sabot_waiter_begin(int64 work_id);
extern void sabot_waiter_end(void);
extern char *sabot_waiter_find_cycle(int64 work_id, const char *queue);

/* in job_wait.c */
extern int64 sabot_wait_timeout_ms(const Interval *timeout);
extern long sabot_wait_nap_ms(TimestampTz now, TimestampTz deadline,
							  TimestampTz next_check);

#endif							/* SABOT_JOB_WAIT_H */
