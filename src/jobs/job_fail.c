/*-------------------------------------------------------------------------
 *
 * job_fail.c
 *		What becomes of a job whose attempt did not complete it.
 *
 * An attempt's transaction has been rolled back when we come here; what is
 * decided is written in another one.  If the server goes down in between, the
 * attempt counts as lost, which it was; if it goes down after it, the row's
 * version tells that the attempt has ended.
 *
 * IDENTIFICATION
 *		src/jobs/job_fail.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/jobs.h"

/* The first delay of retries that are not counted, in ms. */
#define FREE_RETRY_MS 20

/* SQLSTATE of the FATAL error that transaction_timeout raises since 17. */
#define TRANSACTION_TIMEOUT MAKE_SQLSTATE('2', '5', 'P', '0', '4')

/* No delay is longer, in ms: a day. */
#define MAX_DELAY_MS (INT64CONST(24) * 3600 * 1000)

/*
 * in_class - whether an encoded SQLSTATE is of a class
 */
static bool
in_class(int sqlstate, const char *class)
{
	return strncmp(unpack_sql_state(sqlstate), class, 2) == 0;
}

/*
 * is_free - whether an error is tried again without being counted
 *
 * Those are the errors that say "it is not your fault, try again".  A job
 * that has had effects already cannot be run again for free.
 */
static bool
is_free(const SabotJob *job, const SabotEnd *end)
{
	int			sqlstate = end->error->sqlerrcode;

	return end->atomic && job->free_retries < SABOT_MAX_FREE_RETRIES &&
		(in_class(sqlstate, "40") || sqlstate == ERRCODE_LOCK_NOT_AVAILABLE);
}

/*
 * is_final - whether an error would only come again
 */
static bool
is_final(int sqlstate)
{
	return in_class(sqlstate, "42") || in_class(sqlstate, "0A") ||
		in_class(sqlstate, "22") || in_class(sqlstate, "28");
}

/*
 * backoff_ms - the delay before try n + 1, doubling, with jitter, in ms
 */
static int64
backoff_ms(int64 first_ms, int n)
{
	double		delay = (double) first_ms * (INT64CONST(1) << Min(n - 1, 30));

	delay = Min(delay, (double) MAX_DELAY_MS);
	return (int64) (delay * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/*
 * log_attempt - keep an attempt that did not complete its job
 *
 * pid is 0 if nobody knows it anymore.  Inside a transaction of sabot's own.
 */
static void
log_attempt(const SabotJob *job, int attempt, TimestampTz started_at, int pid,
			int sqlstate, const char *message)
{
	Oid			types[] = {INT8OID, INT4OID, OIDOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int64GetDatum(job->job_id), Int32GetDatum(attempt),
		ObjectIdGetDatum(job->owner), TimestampTzGetDatum(started_at),
		Int32GetDatum(pid), CStringGetTextDatum(unpack_sql_state(sqlstate)),
		CStringGetTextDatum(message)
	};

	sabot_spi("INSERT INTO sabot.job_attempt_log"
			  " (job_id, attempt, owner, started_at, finished_at, pid, sqlstate, error)"
			  " VALUES ($1, $2, $3, $4, clock_timestamp(), NULLIF($5, 0), $6, $7)",
			  7, types, values, NULL, 0);
}

/*
 * still_ours - whether a job's row is as the job was read
 *
 * Inside a transaction of sabot's own, with an active snapshot.
 */
static bool
still_ours(const SabotJob *job)
{
	SabotJob   *now = sabot_job_read(job->job_id);

	return now != NULL && now->attempt == job->attempt &&
		now->state == job->state;
}

/*
 * schedule_retry - have a job tried again after a delay
 *
 * Inside a transaction of sabot's own.
 */
static void
schedule_retry(const SabotJob *job, const SabotEnd *end, bool is_free_retry)
{
	int			attempt = is_free_retry ? job->attempt : end->attempt;
	int			free_retries = job->free_retries + is_free_retry;
	int64		delay = is_free_retry ?
	backoff_ms(FREE_RETRY_MS, free_retries) :
	backoff_ms(job->retry_delay_ms, end->attempt - job->losses);
	TimestampTz run_after = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														delay);
	Oid			types[] = {INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int64GetDatum(job->job_id), Int32GetDatum(attempt),
		Int32GetDatum(free_retries), TimestampTzGetDatum(run_after),
		CStringGetTextDatum(unpack_sql_state(end->error->sqlerrcode)),
		CStringGetTextDatum(end->error->message)
	};

	sabot_spi("UPDATE sabot.job SET state = 'scheduled', attempt = $2,"
			  " free_retries = $3, run_after = $4, started_at = NULL,"
			  " sqlstate = $5, error = $6"
			  " WHERE job_id = $1",
			  6, types, values, NULL, 0);
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 run_after, 0);
	sabot_count_retry();
}

/*
 * pause_row - set a job's row to paused
 *
 * attempt and losses are what it counts from now on.
 */
static void
pause_row(int64 job_id, int attempt, int losses)
{
	Oid			types[] = {INT8OID, INT4OID, INT4OID};
	Datum		values[] = {Int64GetDatum(job_id), Int32GetDatum(attempt),
	Int32GetDatum(losses)};

	sabot_spi("UPDATE sabot.job SET state = 'paused', reason = 'paused by its owner',"
			  " attempt = $2, losses = $3, started_at = NULL WHERE job_id = $1",
			  3, types, values, NULL, 0);
}

/*
 * cancel_row - end a job as canceled
 */
static void
cancel_row(const SabotJob *job, SabotEnd *end)
{
	ErrorData	error = {0};

	error.sqlerrcode = ERRCODE_QUERY_CANCELED;
	error.message = pstrdup("job was canceled");
	end->state = SABOT_JOB_CANCELED;
	end->error = &error;
	(void) sabot_job_finish(job, end);
	end->error = NULL;
}

/*
 * obey_signal - cancel or pause a job whose attempt has ended otherwise if its
 * owner had asked for that
 *
 * is_over tells that the job has ended with this attempt, so that there is
 * nothing left to pause.  Inside a transaction of sabot's own; returns false
 * if there was nothing to obey.
 */
static bool
obey_signal(const SabotJob *job, SabotEnd *end, bool is_over)
{
	SabotInterrupt asked = sabot_job_take_signal(job->job_id);

	if (asked == SABOT_INTERRUPT_NONE)
		return false;
	if (asked == SABOT_INTERRUPT_CANCEL)
		cancel_row(job, end);
	else if (is_over)
		return false;
	else
		pause_row(job->job_id, end->attempt, end->losses);
	return true;
}

/*
 * settle_failed - decide about a job whose attempt ended with its own error
 *
 * Inside a transaction of sabot's own.
 */
static void
settle_failed(const SabotJob *job, SabotEnd *end)
{
	bool		retry_free = is_free(job, end);

	log_attempt(job, end->attempt, end->started_at,
				end->pid ? end->pid : MyProcPid,
				end->error->sqlerrcode, end->error->message);
	if (obey_signal(job, end, false))
		 /* it came too late to interrupt the attempt, or was caught */ ;
	else if (retry_free ||
			 (!is_final(end->error->sqlerrcode) &&
			  end->attempt - job->losses < job->max_attempts &&
			  !(job->is_stream && sabot_stream_is_cut(job->job_id))))
		schedule_retry(job, end, retry_free);
	else if (job->is_stream)
		sabot_stream_give_up(job, end);
	else
	{
		end->state = SABOT_JOB_FAILED;
		(void) sabot_job_finish(job, end);
	}
}

/*
 * sabot_job_attempt_failed - a job's own error: try again later, or fail it
 *
 * end tells of the attempt, with its error.  In no transaction.
 */
void
sabot_job_attempt_failed(const SabotJob *job, SabotEnd *end)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	if (still_ours(job))
		settle_failed(job, end);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_job_give_back - record that an attempt has ended whose start was
 * recorded, and is not to be counted
 *
 * Returns whether it was: for as long as it is not, the attempt counts as lost.
 * Also used in agents that exit because the server stops, where nobody could
 * interrupt a wait: so it waits neither for locks nor for standbys.  In no
 * transaction.
 */
bool
sabot_job_give_back(int64 job_id, int attempt)
{
	Oid			types[] = {INT8OID, INT4OID};
	Datum		values[] = {Int64GetDatum(job_id), Int32GetDatum(attempt)};
	SabotOwn	own;
	bool		recorded = false;

	sabot_own_start_transaction(&own);
	if (ConditionalLockRelationOid(sabot_catalog(false)->job, RowExclusiveLock))
		recorded = sabot_spi("UPDATE sabot.job SET attempt = attempt - 1, started_at = NULL"
							 " WHERE job_id = (SELECT j.job_id FROM sabot.job j"
							 " WHERE j.job_id = $1 AND j.attempt = $2 AND j.state = 'queued'"
							 " AND j.started_at IS NOT NULL FOR UPDATE SKIP LOCKED)",
							 2, types, values, NULL, 0) == 1;
	sabot_own_commit_locally(&own);
	return recorded;
}

/*
 * run_again - queue a job whose attempt did not count
 */
static void
run_again(const SabotJob *job, const SabotEnd *end)
{
	Oid			types[] = {INT8OID, INT4OID, INT4OID};
	Datum		values[] = {Int64GetDatum(job->job_id),
	Int32GetDatum(end->attempt), Int32GetDatum(end->losses)};

	sabot_spi("UPDATE sabot.job SET attempt = $2, losses = $3, started_at = NULL"
			  " WHERE job_id = $1",
			  3, types, values, NULL, 0);
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 0, 0);
}

/*
 * sabot_job_set_aside - cancel, pause or give back a job that was interrupted
 *
 * end tells of the attempt, which is not counted.  In no transaction.
 */
void
sabot_job_set_aside(const SabotJob *job, SabotInterrupt reason, SabotEnd *end)
{
	SabotEnd	again = {.attempt = end->attempt - 1};
	SabotInterrupt asked;
	SabotOwn	own;

	again.losses = job->losses;
	if (reason == SABOT_INTERRUPT_GIVE_BACK)
	{
		/* Else the row is as it was: whoever looks next will find it. */
		if (job->started_at != 0)
			(void) sabot_job_give_back(job->job_id, job->attempt);
		sabot_scan_request(MyDatabaseId, job->owner);
		sabot_pool_wake(sabot_job_pair(job->owner, job->queue), 1,
						GetCurrentTimestamp());
		return;
	}
	sabot_own_start_transaction(&own);
	asked = sabot_job_take_signal(job->job_id);
	if (still_ours(job))
	{
		if (reason == SABOT_INTERRUPT_CANCEL || asked == SABOT_INTERRUPT_CANCEL)
			cancel_row(job, end);
		else if (asked == SABOT_INTERRUPT_PAUSE)
			pause_row(job->job_id, end->attempt - 1, job->losses);
		else					/* resumed before we have come to that */
			run_again(job, &again);
	}
	sabot_own_commit_transaction(&own);
}

/*
 * fail_lost - end a job that has lost too many agents
 */
static void
fail_lost(const SabotJob *job, SabotEnd *end, const SabotOrphan *orphan)
{
	ErrorData	error = {0};

	error.sqlerrcode = orphan->sqlstate ? orphan->sqlstate : ERRCODE_CRASH_SHUTDOWN;
	error.message = psprintf(end->losses == 1 ?
							 "agent was lost while it ran the job" :
							 "agent was lost while it ran the job, %d times",
							 end->losses);
	if (orphan->error[0])
		error.detail = psprintf("The last one ended with: %s", orphan->error);
	else
		error.detail = pstrdup("The server log may say why.");
	if (job->started_at != 0)
		error.hint = pstrdup("Part of its effects may be there. Raise max_attempts if the job may run again.");
	end->state = SABOT_JOB_FAILED;
	end->error = &error;
	if (job->is_stream)
		sabot_stream_give_up(job, end);
	else
		(void) sabot_job_finish(job, end);
	end->error = NULL;
}

/*
 * settle_lost - decide about a job whose agent was lost
 *
 * One that had begun outside a transaction block may have had effects.  Inside
 * a transaction of sabot's own.
 */
static void
settle_lost(const SabotJob *job, const SabotOrphan *orphan, SabotEnd *end)
{
	bool		is_over;

	end->losses++;
	is_over = end->losses >= sabot_max_crashes ||
		(job->started_at != 0 && orphan->attempt >= job->max_attempts);

	log_attempt(job, orphan->attempt, orphan->started_at, orphan->pid,
				orphan->sqlstate ? orphan->sqlstate : ERRCODE_CRASH_SHUTDOWN,
				orphan->error[0] ? psprintf("agent was lost: %s", orphan->error) :
				"agent was lost");
	if (obey_signal(job, end, is_over))
		return;
	if (is_over)
		fail_lost(job, end, orphan);
	else
		run_again(job, end);
}

/*
 * settle_timed_out - decide about a job whose transaction lasted longer than
 * transaction_timeout, of which its agent dies
 *
 * It is the job that is to blame, and it would be so again, so this is its own
 * error and no loss.  Inside a transaction of sabot's own.
 */
static void
settle_timed_out(const SabotJob *job, const SabotOrphan *orphan, SabotEnd *end)
{
	ErrorData	error = {0};

	error.sqlerrcode = orphan->sqlstate;
	error.message = pstrdup(orphan->error);
	error.hint = pstrdup("Raise transaction_timeout, in the command or for its role or database.");
	end->error = &error;
	settle_failed(job, end);
	end->error = NULL;
}

/*
 * sabot_job_lost - deal with the job of an agent that was lost
 *
 * Does nothing if the attempt ended before its agent did, or was dealt with:
 * the row has changed then.  In no transaction.  Returns whether anything was
 * done.
 */
bool
sabot_job_lost(const SabotOrphan *orphan)
{
	SabotEnd	end = {0};
	SabotOwn	own;
	SabotJob   *job;
	bool		ours;

	sabot_own_start_transaction(&own);
	job = sabot_job_read(orphan->job_id);
	end.atomic = job == NULL || !job->has_atomic || job->atomic;
	ours = job != NULL && job->version == orphan->version;
	if (ours)
	{
		end.attempt = orphan->attempt;
		end.losses = job->losses;
		end.started_at = orphan->started_at;
		end.pid = orphan->pid;
		if (orphan->sqlstate == TRANSACTION_TIMEOUT)
			settle_timed_out(job, orphan, &end);
		else
			settle_lost(job, orphan, &end);
	}
	sabot_own_commit_transaction(&own);
	sabot_wait_wakeup(orphan->job_id);
	return ours;
}
