/*-------------------------------------------------------------------------
 *
 * job_columns.h
 *		Numbers of the columns of sabot.job and sabot.job_history, from 0.
 *
 * They follow the order in jobs.sql.  sabot.job_history begins with the
 * columns of sabot.job.
 *
 * IDENTIFICATION
 *		src/jobs/job_columns.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_COLUMNS_H
#define SABOT_JOB_COLUMNS_H

typedef enum SabotJobColumn
{
	JOB_ID,
	JOB_PARENT_ID,
	JOB_KIND,
	JOB_NAME,
	JOB_OWNER,
	JOB_OWNER_NAME,
	JOB_HOME,
	JOB_QUEUE,
	JOB_PRIORITY,
	JOB_STATE,
	JOB_ATTEMPT,
	JOB_MAX_ATTEMPTS,
	JOB_LOSSES,
	JOB_FREE_RETRIES,
	JOB_ATOMIC,
	JOB_ASKED_ATOMIC,
	JOB_KEEP_ROWS,
	JOB_SUBMITTED_AT,
	JOB_RUN_AFTER,
	JOB_RETRY_DELAY,
	JOB_TIMEOUT,
	JOB_COMMAND,
	JOB_PARAMS,
	JOB_SETTINGS,
	JOB_DEDUP_KEY,
	JOB_NOTIFY,
	JOB_DEPENDS_ON,
	JOB_ON_FAILURE,
	JOB_STARTED_AT,
	JOB_REASON,
	JOB_SQLSTATE,
	JOB_ERROR,
	JOB_NCOLUMNS,
	HISTORY_FINISHED_AT = JOB_NCOLUMNS,
	HISTORY_PID,
	HISTORY_COMMAND_TAG,
	HISTORY_ROW_COUNT,
	HISTORY_NOTICES,
	HISTORY_ERROR_DETAIL,
	HISTORY_ERROR_HINT,
	HISTORY_ERROR_CONTEXT,
	HISTORY_ERROR_STATEMENT,
	HISTORY_ERROR_POSITION,
	HISTORY_ROWS,
	HISTORY_NCOLUMNS
} SabotJobColumn;

#endif							/* SABOT_JOB_COLUMNS_H */
