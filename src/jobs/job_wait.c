/*-------------------------------------------------------------------------
 *
 * job_wait.c
 *		Waiting for jobs: CALL sabot.wait_for_job(...).
 *
 * These are procedures because waiting inside a snapshot is a trap: the job
 * may need what the waiter's transaction holds, and a job that the waiter has
 * just submitted does not even exist for others before the commit.  At top
 * level a CALL therefore first commits what it did itself, and then sleeps
 * without any snapshot.  Where it cannot commit it waits all the same, but
 * looks out for work that waits for it in turn (job_deadlock.c), so that no
 * wait lasts for ever.
 *
 * An agent that has ended a job broadcasts on one of a few condition
 * variables, picked by the job's number.  Being woken proves nothing: the
 * waiter looks at the job's row (job_look.c), as it does once a second in any
 * case.
 *
 * IDENTIFICATION
 *		src/jobs/job_wait.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_wait.h"
#include "jobs/jobs.h"

#define WAIT_CHANNELS		64

/* Each condition variable protects itself. */
typedef struct SabotWait
{
	ConditionVariable channels[WAIT_CHANNELS];
} SabotWait;

/* One call of a wait procedure. */
typedef struct WaitCall
{
	bool		commits;		/* stands at top level and may commit */
	int64		timeout_ms;		/* -1 = none */
	TimestampTz deadline;		/* 0 = none */
	MemoryContext context;		/* reset before each look */
	TimestampTz next_check;
} WaitCall;

static SabotWait *sabot_wait = NULL;

PG_FUNCTION_INFO_V1(sabot_wait_for_job);
PG_FUNCTION_INFO_V1(sabot_wait_for_jobs);

/*
 * sabot_wait_shmem_size - bytes of shared memory waiting needs
 */
Size
sabot_wait_shmem_size(void)
{
	return add_size(MAXALIGN(sizeof(SabotWait)), sabot_waiter_shmem_size());
}

/*
 * sabot_wait_shmem_init - create or attach to it
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_wait_shmem_init(void)
{
	bool		found;

	sabot_wait = ShmemInitStruct("sabot wait", sizeof(SabotWait), &found);
	if (!found)
	{
		for (int i = 0; i < WAIT_CHANNELS; i++)
			ConditionVariableInit(&sabot_wait->channels[i]);
	}
	sabot_waiter_shmem_init();
}

/*
 * channel_of - the condition variable a job's waiters sleep on
 */
static ConditionVariable *
channel_of(int64 job_id)
{
	return &sabot_wait->channels[(uint64) job_id % WAIT_CHANNELS];
}

/*
 * sabot_wait_wakeup - have the waiters of a job look at it
 *
 * To be called after the commit that ended or paused it.  Cannot fail.
 */
void
sabot_wait_wakeup(int64 job_id)
{
	if (sabot_wait != NULL)
		ConditionVariableBroadcast(channel_of(job_id));
}

/*
 * wait_event - what pg_stat_activity shows of a waiter
 */
static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("SabotWaitForJob");
	return event;
}

/*
 * sabot_wait_timeout_ms - an interval as milliseconds, for a timeout
 *
 * NULL gives -1: no timeout.  Raises 22023 for a negative one.
 */
int64
sabot_wait_timeout_ms(const Interval *timeout)
{
	int64		ms;

	if (timeout == NULL)
		return -1;
	ms = sabot_interval_ms(timeout);
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return ms > SABOT_FOREVER_MS ? -1 : ms;
}

/*
 * sabot_wait_nap_ms - how long to sleep before there is something to check
 *
 * deadline is 0 if there is none.  At least 1 ms, so that it is a sleep.
 */
long
sabot_wait_nap_ms(TimestampTz now, TimestampTz deadline,
				  TimestampTz next_check)
{
	TimestampTz until = next_check;

	if (deadline != 0 && deadline < until)
		until = deadline;
	return Max(1, TimestampDifferenceMilliseconds(now, until));
}

/*
 * error_code - the SQLSTATE of a five-character text
 */
static int
error_code(const char *sqlstate)
{
	if (sqlstate == NULL || strlen(sqlstate) != 5)
		return ERRCODE_RAISE_EXCEPTION;
	return MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2],
						 sqlstate[3], sqlstate[4]);
}

/*
 * raise_failure - raise the error a job has failed with
 */
static void
raise_failure(int64 job_id, const SabotJobLook *look)
{
	ereport(ERROR,
			(errcode(error_code(look->sqlstate)),
			 errmsg_internal("%s", look->error ? look->error : "job failed"),
			 look->error_detail ?
			 errdetail_internal("%s", look->error_detail) : 0,
			 look->error_hint ? errhint("%s", look->error_hint) : 0,
			 look->error_context ? errcontext("%s", look->error_context) : 0,
			 errcontext("job %lld", (long long) job_id)));
}

/*
 * reason_of - why a job was ended or stopped before its time, or NULL
 */
static const char *
reason_of(const SabotJobLook *look)
{
	if (look->copied)
		return "copied from another database";
	return look->reason ? look->reason : look->error;
}

/*
 * raise_end - raise what a job that did not complete came to
 */
static void
raise_end(int64 job_id, const SabotJobLook *look)
{
	const char *reason = reason_of(look);
	bool		canceled = look->state == SABOT_JOB_CANCELED;

	if (look->state == SABOT_JOB_FAILED)
		raise_failure(job_id, look);
	if (canceled || look->state == SABOT_JOB_SKIPPED)
		ereport(ERROR,
				(errcode(canceled ? ERRCODE_QUERY_CANCELED :
						 ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job %lld was %s", (long long) job_id,
						sabot_state_label(look->state)),
				 reason ? errdetail_internal("%s", reason) : 0));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("job %lld is paused", (long long) job_id),
			 reason ? errdetail_internal("%s", reason) : 0,
			 look->copied ? errhint("Call sabot.adopt_jobs().") :
			 errhint("Call sabot.resume_job(%lld).", (long long) job_id)));
}

/*
 * raise_schedule - raise 55000: a schedule never completes
 */
static void
raise_schedule(int64 job_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot wait for job %lld: it is a schedule, which never completes",
					(long long) job_id),
			 errhint("Wait for one of its runs, which are in sabot.job_task.")));
}

/*
 * tell_endless - tell who begins to wait for a job that it never completes, if
 * it reads a table as long as it is there
 *
 * That is no error: he may wait for its end, as sabot.cancel_job() brings it.
 */
static void
tell_endless(int64 job_id, const SabotJobLook *look)
{
	bool		follows = !look->is_stream &&
	sabot_queue_crew(look->queue) != SABOT_AGENTS &&
	sabot_stream_is_there(job_id);

	if (look->is_stream || follows)
		ereport(NOTICE,
				(follows ? errmsg("job %lld follows a table, and never completes",
								  (long long) job_id) :
				 errmsg("job %lld is a stream, which never completes",
						(long long) job_id),
				 errdetail("The wait ends when it is canceled or fails."),
				 errhint("How far behind it is says lag_rows in sabot.stream_status.")));
}

/*
 * is_completed - look at a job; true if it is completed
 *
 * Raises its end if it came to another one, 55000 if it is paused, 42704 if
 * it does not exist for the caller.
 */
static bool
is_completed(int64 job_id, SabotJobLook *look)
{
	sabot_job_look(job_id, false, look);
	if (!look->found)
		sabot_job_missing(job_id);
	if (look->finished && look->state == SABOT_JOB_COMPLETED)
		return true;
	if (look->finished || look->copied || look->state == SABOT_JOB_PAUSED)
		raise_end(job_id, look);
	if (look->is_schedule)
		raise_schedule(job_id);
	return false;
}

/*
 * raise_own - raise 55000: nobody else can see a job yet
 */
static void
raise_own(int64 job_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot wait for job %lld, which this transaction has submitted",
					(long long) job_id),
			 errhint("Commit first, or call sabot.wait_for_job outside a transaction block.")));
}

/*
 * check_not_own - raise 55000 if nobody else can see a job yet, or if it is
 * the one that is waiting
 */
static void
check_not_own(int64 job_id)
{
	SabotSlot	slot;

	if (sabot_submit_is_pending(job_id))
		raise_own(job_id);
	if (sabot_my_slot != SABOT_NO_SLOT &&
		sabot_pool_find_work(MyDatabaseId, job_id, &slot) &&
		slot.pid == MyProcPid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for job %lld: it waits for this session",
						(long long) job_id),
				 errdetail("The job waits for itself.")));
}

/*
 * check_wait - raise 55000 if the job waits for us, 53000 if no agent can be
 * had for it
 */
static void
check_wait(int64 job_id, const SabotJobLook *look)
{
	char	   *chain = sabot_waiter_find_cycle(job_id, look->queue);

	if (chain != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for job %lld: it waits for this session",
						(long long) job_id),
				 errdetail_internal("%s", chain),
				 errhint("Commit first, or call sabot.wait_for_job outside a transaction block.")));
	if (sabot_my_slot != SABOT_NO_SLOT && sabot_pool_wait_is_hopeless())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("cannot wait for job %lld: every agent waits for another job",
						(long long) job_id),
				 errhint("Raise max_worker_processes, or let fewer jobs wait for jobs at once.")));
}

/*
 * raise_timeout - raise 57014: the call's time is up
 */
static void
raise_timeout(int64 job_id, const SabotJobLook *look)
{
	SabotSlot	slot;
	bool		running = sabot_pool_find_work(MyDatabaseId, job_id, &slot);

	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("timeout while waiting for job %lld", (long long) job_id),
			 errdetail("It is %s.",
					   sabot_state_label(sabot_job_current_state(look,
																 running)))));
}

/*
 * commit_call - commit what the CALL has done so far
 *
 * The wait's own transaction needs READ COMMITTED: any other level would keep
 * its first snapshot to the end, and with it what the job may wait for.
 */
static void
commit_call(void)
{
	SPI_commit();
	if (IsolationUsesXactSnapshot())
		XactIsoLevel = XACT_READ_COMMITTED;
}

/*
 * leave_snapshot - have nobody wait for the snapshot of our last look
 *
 * It is gone, but who saw it may wait for the end of its transaction, as
 * CREATE INDEX CONCURRENTLY does.
 */
static void
leave_snapshot(WaitCall *call)
{
	if (call->commits)
		commit_call();
	else
		InvalidateCatalogSnapshotConditionally();
}

/*
 * wait_once - sleep until there is a reason to look at a job again
 *
 * Raises 57014 when the call's time is up.
 */
static void
wait_once(WaitCall *call, int64 job_id, const SabotJobLook *look)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next_look;

	if (call->deadline != 0 && now >= call->deadline)
		raise_timeout(job_id, look);
	leave_snapshot(call);
	if (now >= call->next_check)
	{
		check_wait(job_id, look);
		leave_snapshot(call);
		call->next_check = TimestampTzPlusMilliseconds(now,
													   SABOT_WAIT_CHECK_MS);
	}
	/* However long deadlock_timeout is, look at the job once a second. */
	next_look = TimestampTzPlusMilliseconds(now, SABOT_WAIT_CHECK_MS);
	ConditionVariableTimedSleep(channel_of(job_id),
								sabot_wait_nap_ms(now, call->deadline,
												  Min(next_look, call->next_check)),
								wait_event());
}

/*
 * wait_until_completed - wait for one job
 *
 * Raises whatever keeps it from completing.
 */
static void
wait_until_completed(WaitCall *call, int64 job_id)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);
	SabotJobLook look;
	bool		begins = true;

	call->next_check = TimestampTzPlusMilliseconds(now, DeadlockTimeout);
	sabot_waiter_begin(job_id);
	PG_TRY();
	{
		/* Get ready for the wake-up before the look that may make it due. */
		ConditionVariablePrepareToSleep(channel_of(job_id));
		while (!is_completed(job_id, &look))
		{
			if (begins)
				tell_endless(job_id, &look);
			begins = false;
			wait_once(call, job_id, &look);
			MemoryContextReset(call->context);
		}
	}
	PG_FINALLY();
	{
		ConditionVariableCancelSleep();
		sabot_waiter_end();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
}

/*
 * wait_for_all - wait until all of the jobs are completed
 *
 * First all are looked at once, so that one that has failed already is not
 * found out only after the others.
 */
static void
wait_for_all(WaitCall *call, int64 *job_ids, int njobs)
{
	int			nopen = 0;

	for (int i = 0; i < njobs; i++)
	{
		SabotJobLook look;
		bool		completed;
		MemoryContext oldcontext;

		check_not_own(job_ids[i]);
		oldcontext = MemoryContextSwitchTo(call->context);
		completed = is_completed(job_ids[i], &look);
		if (!completed && look.ours)
			raise_own(job_ids[i]);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(call->context);
		if (!completed)
			job_ids[nopen++] = job_ids[i];
	}
	for (int i = 0; i < nopen; i++)
		wait_until_completed(call, job_ids[i]);
}

/*
 * run_call - what both procedures do
 *
 * job_ids is overwritten.
 */
static void
run_call(FunctionCallInfo fcinfo, int64 *job_ids, int njobs)
{
	const Interval *timeout = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	WaitCall	call = {0};

	sabot_pool_require();
	call.timeout_ms = sabot_wait_timeout_ms(timeout);
	if (call.timeout_ms >= 0)
		call.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													call.timeout_ms);
	call.commits = fcinfo->context != NULL &&
		IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic &&
		!IsSubTransaction();
	if (call.commits)
	{
		SPI_connect_ext(SPI_OPT_NONATOMIC);
		commit_call();
	}
	call.context = AllocSetContextCreate(CurrentMemoryContext, "sabot wait",
										 ALLOCSET_SMALL_SIZES);
	wait_for_all(&call, job_ids, njobs);

	MemoryContextDelete(call.context);

	/* What follows is to have the isolation level its session asked for. */
	if (call.commits)
	{
		SPI_commit();
		SPI_finish();
	}
}

/*
 * SQL: sabot.wait_for_job(job_id bigint, timeout interval) (a procedure)
 *
 * Returns when the job is completed.  Raises the job's own error if it failed;
 * 57014 if it was canceled or the timeout has passed; 55000 if it was skipped
 * or is paused, is a schedule, is one of this transaction, or waits for this
 * session; 53000 if all agents wait; 42704 if there is none for the caller.
 */
Datum
sabot_wait_for_job(PG_FUNCTION_ARGS)
{
	int64		job_id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job_id must not be null")));
	job_id = PG_GETARG_INT64(0);
	run_call(fcinfo, &job_id, 1);
	PG_RETURN_VOID();
}

/*
 * SQL: sabot.wait_for_jobs(job_ids bigint[], timeout interval) (a procedure)
 *
 * Returns when all of the jobs are completed; raises what wait_for_job would
 * as soon as it finds one that will not be.
 */
Datum
sabot_wait_for_jobs(PG_FUNCTION_ARGS)
{
	ArrayType  *array;
	int64	   *job_ids;
	int			njobs;

	if (PG_ARGISNULL(0) || array_contains_nulls(PG_GETARG_ARRAYTYPE_P(0)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job_ids must not be null or contain nulls")));
	array = PG_GETARG_ARRAYTYPE_P_COPY(0);
	njobs = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	job_ids = (int64 *) ARR_DATA_PTR(array);
	run_call(fcinfo, job_ids, njobs);
	PG_RETURN_VOID();
}
