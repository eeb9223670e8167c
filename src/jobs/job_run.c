/*-------------------------------------------------------------------------
 *
 * job_run.c
 *		Runs one job in an agent, once.
 *
 * The job's effects and its end are one transaction: the row moves to history
 * in the transaction the command ran in, or the command is rolled back.  So
 * whatever kills the agent, the server or the machine, and whenever, either
 * both have happened or neither, and a job whose row is still there has had
 * no effect.
 *
 * A command that PostgreSQL refuses inside a transaction block cannot be had
 * that way.  It runs statement by statement, after its start was committed,
 * so that nobody takes it for one that can simply be run again.  That record
 * stays in the row until what came of the attempt is recorded too: who reads
 * it there and knows of no agent that makes the attempt, as after the
 * promotion of a standby, knows that the agent was lost.
 *
 * IDENTIFICATION
 *		src/jobs/job_run.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_run.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"

/* A job that ignores its timeout is interrupted again so often, in ms. */
#define TIMEOUT_REPEAT_MS 1000

static MemoryContext job_context = NULL;
static volatile sig_atomic_t timed_out = false;

/* The attempt of our agent whose start is recorded; job_id 0 = none. */
static int64 begun_job_id = 0;
static int	begun_attempt;

/*
 * handle_job_timeout - timeout handler: interrupt what the job is doing
 */
static void
handle_job_timeout(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/*
 * sabot_run_start_timeout - begin to count the timeout of an attempt, in ms
 *
 * 0 means that it has none.
 */
void
sabot_run_start_timeout(int64 timeout_ms)
{
	static TimeoutId timeout_id = MAX_TIMEOUTS;

	timed_out = false;
	if (timeout_ms <= 0 || timeout_ms > SABOT_FOREVER_MS)
		return;
	if (timeout_id == MAX_TIMEOUTS)
		timeout_id = RegisterTimeout(USER_TIMEOUT, handle_job_timeout);
	enable_timeout_every(timeout_id,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 timeout_ms),
						 TIMEOUT_REPEAT_MS);
}

/*
 * sabot_run_timed_out - whether the current timeout has passed
 */
bool
sabot_run_timed_out(void)
{
	return timed_out;
}

/*
 * sabot_run_raise_if_interrupted - raise 57014 if the job was interrupted
 *
 * The interrupt itself is an error already, but the job may have caught that.
 */
void
sabot_run_raise_if_interrupted(void)
{
	CHECK_FOR_INTERRUPTS();
	if (timed_out || sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to user request")));
}

/*
 * sabot_run_is_runnable - whether a job that was read is to run, here and now
 */
bool
sabot_run_is_runnable(const SabotJob *job)
{
	const SabotCatalog *cat = sabot_catalog(false);

	return job->owner == GetSessionUserId() && job->home == cat->home &&
		(job->state == cat->states[SABOT_JOB_QUEUED] ||
		 sabot_stream_is_runnable(job));
}

/*
 * load_job - read the job an agent has taken, or NULL if it is not to run
 *
 * It may have been cancelled, paused, finished or lost since its id was
 * queued.  *must_leave tells that the agent has to be replaced first, *is_met
 * that the job has nothing to wait for, for sure.
 */
static SabotJob *
load_job(int64 job_id, bool *must_leave, bool *is_met)
{
	MemoryContext old;
	SabotJob   *job;

	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED; /* waits for no safe snapshot */
	*must_leave = sabot_agent_authority_changed();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(job_context);
	job = sabot_orphan_exists(job_id) ? NULL : sabot_job_read(job_id);
	MemoryContextSwitchTo(old);
	if (job != NULL && !sabot_run_is_runnable(job))
		job = NULL;
	*is_met = job != NULL && sabot_depend_is_met(job);
	if (job != NULL && job->parent_id != 0)
		job->deadline = sabot_graph_deadline(job->parent_id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(job_context);
	return job;
}

/*
 * sabot_run_report - show in pg_stat_activity what the agent runs
 */
void
sabot_run_report(const SabotJob *job)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "sabot job " INT64_FORMAT, job->job_id);
	pgstat_report_appname(name);
	debug_query_string = job->command;
	pgstat_report_activity(STATE_RUNNING, job->command);
}

/*
 * sabot_run_fire_deferred - run the triggers that would else wait for the
 * commit
 */
void
sabot_run_fire_deferred(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * run_atomic - run a job, or a batch of a stream, and complete it in one
 * transaction
 *
 * Returns false if the job was taken away meanwhile: then the transaction is
 * still open and must be rolled back.
 */
static bool
run_atomic(const SabotJob *job, List *statements, SabotEnd *end,
		   SabotOutcome *outcome, TimestampTz *executed_at)
{
	struct SabotBatch *batch = NULL;
	bool		ours;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	BeginImplicitTransactionBlock();
	if (job->piece != NULL && job->piece->ncolumns == 0)
		sabot_hold_import(job->parent_id);
	sabot_settings_apply(job->settings);
	if (job->is_stream)
		batch = sabot_stream_take(job);
	sabot_job_execute(job->command, statements, job->params, job->piece,
					  SABOT_EXEC_ATOMIC, outcome,
					  batch ? sabot_batch_env(batch) : NULL, NULL, NULL);
	/* Not when those that wait for the job are locked, by its end. */
	if (sabot_depend_is_awaited(job))
		sabot_run_fire_deferred();
	sabot_run_raise_if_interrupted();
	*executed_at = GetCurrentTimestamp();

	PushActiveSnapshot(GetTransactionSnapshot());
	ours = batch ? sabot_stream_finish(job, batch, end) :
		sabot_job_finish(job, end);
	PopActiveSnapshot();
	if (!ours)
		return false;
	EndImplicitTransactionBlock();
	CommitTransactionCommand();
	return true;
}

/*
 * record_start - commit that an attempt begins whose effects cannot be undone
 *
 * Returns false if the job was taken away meanwhile.
 */
static bool
record_start(SabotJob *job, SabotEnd *end)
{
	Oid			types[] = {INT8OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {Int64GetDatum(job->job_id),
		Int32GetDatum(job->attempt),
	TimestampTzGetDatum(end->started_at)};
	SabotOwn	own;
	bool		ours;

	sabot_own_start_transaction(&own);
	ours = sabot_spi("UPDATE sabot.job SET attempt = attempt + 1, atomic = false,"
					 " started_at = $3 WHERE job_id = $1 AND attempt = $2"
					 " AND state = 'queued'",
					 3, types, values, NULL, 0) == 1;
	if (ours)
		job->version = GetCurrentTransactionId();
	sabot_own_commit_transaction(&own);
	if (ours)
	{
		job->attempt++;
		job->has_atomic = true;
		job->atomic = false;
		job->started_at = end->started_at;
		end->atomic = false;
		begun_job_id = job->job_id;
		begun_attempt = job->attempt;
		sabot_attempt_begin(job, job->attempt);
	}
	return ours;
}

/*
 * run_singly - run a job statement by statement, and complete it
 *
 * Returns false if the job was taken away meanwhile.
 */
static bool
run_singly(SabotJob *job, List *statements, SabotEnd *end,
		   SabotOutcome *outcome, TimestampTz *executed_at)
{
	SabotOwn	own;
	bool		ours;

	if (!record_start(job, end))
		return false;
	StartTransactionCommand();
	sabot_settings_apply(job->settings);
	CommitTransactionCommand();
	sabot_job_execute(job->command, statements, job->params, NULL,
					  SABOT_EXEC_SINGLY, outcome, NULL, NULL, NULL);
	sabot_run_raise_if_interrupted();
	*executed_at = GetCurrentTimestamp();

	/* From here on nothing is the job's anymore, whoever it has become. */
	sabot_agent_reset_session();
	sabot_own_start_transaction(&own);
	ours = sabot_job_finish(job, end);
	sabot_own_commit_transaction(&own);
	return ours;
}

/*
 * refused_in_block - whether an error says that a command cannot run inside a
 * transaction block, and the job allows to run it outside one
 */
static bool
refused_in_block(const SabotJob *job, const ErrorData *error)
{
	return !job->has_atomic &&
		(error->sqlerrcode == ERRCODE_ACTIVE_SQL_TRANSACTION ||
		 error->sqlerrcode == ERRCODE_INVALID_TRANSACTION_TERMINATION);
}

/*
 * time_left - how long an attempt may take, in ms, 0 = as long as it likes
 */
static int64
time_left(const SabotJob *job)
{
	int64		left;

	if (job->deadline == 0)
		return job->timeout_ms;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   job->deadline) + 1;
	return job->timeout_ms > 0 ? Min(left, job->timeout_ms) : left;
}

/*
 * attempt - make one attempt, atomic or not
 *
 * Returns NULL if the job was completed or taken away, else the error, in
 * job_context.  No transaction is open afterwards.
 */
static ErrorData *
attempt(SabotJob *job, bool ask_singly, SabotEnd *end,
		TimestampTz *executed_at)
{
	SabotOutcome *outcome = sabot_outcome_create(job_context, job->keep_rows);
	ErrorData  *volatile error = NULL;

	end->outcome = outcome;
	sabot_capture_notices_begin(outcome);
	sabot_run_start_timeout(time_left(job));
	PG_TRY();
	{
		List	   *statements;
		bool		singly;
		bool		ours;

		/* It may have been interrupted between claim and here. */
		sabot_agent_accept_interrupts(true);
		sabot_run_raise_if_interrupted();
		statements = sabot_job_parse(job->command);
		sabot_job_check_statements(job->command, statements);
		singly = ask_singly ||
			(sabot_job_needs_singly(statements) && !job->has_atomic);
		job->piece = sabot_piece_read(job);
		ours = job->is_spread ? sabot_spread_plan(job) : singly ?
			run_singly(job, statements, end, outcome, executed_at) :
			run_atomic(job, statements, end, outcome, executed_at);
		if (!ours)
			AbortOutOfAnyTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(job_context);
		error = CopyErrorData();
		disable_all_timeouts(false);
		sabot_agent_accept_interrupts(false);
		/* While capturing: the error was made for a client to be told. */
		if (!refused_in_block(job, error))
			EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	disable_all_timeouts(false);
	sabot_agent_accept_interrupts(false);
	sabot_capture_notices_end();
	/* Ending a transaction leaves us in TopMemoryContext. */
	MemoryContextSwitchTo(job_context);
	return error;
}

/*
 * say_timed_out - make the error of an interrupted attempt tell of the timeout
 */
static void
say_timed_out(const SabotJob *job, ErrorData *error)
{
	error->message = psprintf("job timed out after " INT64_FORMAT " ms",
							  job->timeout_ms);
	error->hint = pstrdup("Submit it with a longer timeout.");
}

/*
 * ended_badly - record an attempt that did not complete the job
 */
static void
ended_badly(const SabotJob *job, SabotEnd *end, ErrorData *error)
{
	SabotInterrupt interrupt = sabot_agent_interrupted();

	end->error = error;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && timed_out &&
		job->deadline != 0 && job->deadline <= GetCurrentTimestamp())
	{
		sabot_graph_out_of_time(job->parent_id);
		sabot_job_set_aside(job, SABOT_INTERRUPT_CANCEL, end);
		return;
	}
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && timed_out)
		say_timed_out(job, error);
	else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			 (interrupt == SABOT_INTERRUPT_CANCEL ||
			  interrupt == SABOT_INTERRUPT_PAUSE ||
			  interrupt == SABOT_INTERRUPT_GIVE_BACK))
	{
		sabot_job_set_aside(job, interrupt, end);
		return;
	}
	sabot_job_attempt_failed(job, end);
}

/*
 * sabot_run_profile - account for the time a job took, part by part
 */
void
sabot_run_profile(const SabotReady *entry, TimestampTz started_at,
				  TimestampTz executed_at)
{
	TimestampTz now = GetCurrentTimestamp();

	if (entry->submitted_at == 0)
		return;
	sabot_profile_add(SABOT_SUBMISSION, entry->submitted_at, entry->pushed_at);
	sabot_profile_add(SABOT_DISPATCH, entry->pushed_at, started_at);
	sabot_profile_add(SABOT_EXECUTION, started_at, executed_at);
	sabot_profile_add(SABOT_COMPLETION, executed_at, now);
	sabot_profile_add(SABOT_TOTAL, entry->submitted_at, now);
}

/*
 * run_loaded - run a job that was read, whatever comes of it
 *
 * In no transaction.
 */
static void
run_loaded(SabotJob *job, const SabotReady *entry)
{
	SabotEnd	end = {.state = SABOT_JOB_COMPLETED};
	TimestampTz executed_at = 0;
	ErrorData  *error;

	end.attempt = job->attempt + 1;
	end.losses = job->losses;
	end.atomic = true;
	end.started_at = GetCurrentTimestamp();
	sabot_attempt_begin(job, end.attempt);
	sabot_run_report(job);

	error = attempt(job, job->has_atomic && !job->atomic, &end, &executed_at);
	if (error != NULL && end.atomic && refused_in_block(job, error))
		error = attempt(job, true, &end, &executed_at);
	if (error != NULL)
		ended_badly(job, &end, error);
	else
	{
		sabot_wait_wakeup(job->job_id); /* as soon as can be */
		if (executed_at != 0)
			sabot_run_profile(entry, end.started_at, executed_at);
	}
	debug_query_string = NULL;
	begun_job_id = 0;
	sabot_attempt_end();
}

/*
 * run_stream - run the next batch of a stream that was read, or do what else
 * there is to do for it
 *
 * Returns whether there is more.  In no transaction.
 */
static bool
run_stream(SabotJob *job, const SabotReady *entry)
{
	int64		job_id = job->job_id;

	if (sabot_stream_prepare(job))
	{
		run_loaded(job, entry);
		sabot_stream_trim(job_id);
	}
	return sabot_stream_is_ready(job_id);
}

/*
 * sabot_run_give_back - give back what our agent does: it exits, as the server
 * stops
 *
 * Returns false if its attempt has begun outside a transaction block and that
 * it is given back could not be recorded.  Ends whatever transaction is open.
 */
bool
sabot_run_give_back(void)
{
	if (begun_job_id == 0)
		return true;
	AbortOutOfAnyTransaction();
	return sabot_job_give_back(begun_job_id, begun_attempt);
}

/*
 * settle_cut_off - deal with a job that was read, whose last attempt has begun
 * outside a transaction block, and of whose end nobody knows
 *
 * In no transaction.
 */
static void
settle_cut_off(const SabotJob *job)
{
	SabotOrphan orphan = {
		.dbid = MyDatabaseId,
		.attempt = job->attempt,
		.job_id = job->job_id,
		.version = job->version,
		.started_at = job->started_at
	};

	(void) sabot_job_lost(&orphan);
}

/*
 * sabot_run_put_back - do not run the job that our agent has taken after all
 *
 * It may have been cancelled or paused since, which we were told and now
 * forget; a prober will find the request.
 */
void
sabot_run_put_back(const SabotReady *entry, const char *queue)
{
	(void) sabot_pool_end_work();
	sabot_ready_push(MyDatabaseId, GetSessionUserId(), queue, entry);
	sabot_pool_wake(sabot_my_pair(), 1, 0);
	sabot_pool_request_probe(MyDatabaseId);
}

/*
 * run_kind - do with the job that our agent has taken what its kind asks for
 *
 * Returns whether it has to be queued again at once.
 */
static bool
run_kind(SabotJob *job, const SabotReady *entry, bool is_met)
{
	if (job->started_at != 0)
		settle_cut_off(job);
	else if (job->is_graph &&
			 (!job->is_spread || sabot_spread_is_planned(job->job_id)))
		sabot_graph_run(job);
	else if (job->is_schedule)
		sabot_schedule_run(job);
	else if (job->is_stream)
		return run_stream(job, entry);
	else if (is_met || sabot_depend_verify(job))
		run_loaded(job, entry);
	return false;
}

/*
 * obey_late - cancel or pause a job that our agent has just let go of, if it
 * was asked for that when there was no attempt to interrupt
 *
 * Whoever asks from now on sees that it does not run.  Returns whether it was:
 * what an attempt has obeyed, or its owner has taken back since, is not asked
 * for anymore.  In no transaction.
 */
static bool
obey_late(int64 job_id)
{
	SabotInterrupt reason = sabot_pool_last_interrupt();

	return (reason == SABOT_INTERRUPT_CANCEL ||
			reason == SABOT_INTERRUPT_PAUSE) && sabot_job_obey_signal(job_id);
}

/*
 * run_and_tell - run the job that our agent has taken, and tell who waits for it
 *
 * It is NULL if it is not to run.
 */
static void
run_and_tell(SabotJob *job, const SabotReady *entry, const char *queue,
			 bool is_met)
{
	SabotReady	again = {entry->job_id, entry->priority};
	bool		more = job != NULL && run_kind(job, entry, is_met);

	more |= sabot_pool_end_work();
	if (obey_late(entry->job_id))
		more = false;
	if (more)
		sabot_ready_push(MyDatabaseId, GetSessionUserId(), queue, &again);
	sabot_wait_wakeup(entry->job_id);
	if (job != NULL)
		sabot_agent_reset_session();
	if (sabot_queue_is_limited(MyDatabaseId, queue))
		sabot_pool_wake_all(MyDatabaseId);
}

/*
 * sabot_run_taken - run the job that our agent has taken, alone
 *
 * Afterwards the agent has no work, the session is reset, and whoever waits
 * for the job knows.
 */
void
sabot_run_taken(const SabotReady *entry, const char *queue)
{
	MemoryContext caller = MemoryContextSwitchTo(job_context);
	bool		must_leave;
	bool		is_met;
	SabotJob   *job = load_job(entry->job_id, &must_leave, &is_met);

	if (must_leave)
		sabot_run_put_back(entry, queue);
	else
	{
		sabot_pool_took_work(sabot_my_pair());
		run_and_tell(job, entry, queue, is_met);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(job_context);
}

/*
 * sabot_job_run - run the job that our agent has taken, and perhaps others
 * with it
 */
void
sabot_job_run(const SabotReady *entry, const char *queue)
{
	static MemoryContext group_context = NULL;

	if (job_context == NULL)
	{
		job_context = AllocSetContextCreate(TopMemoryContext, "sabot job",
											ALLOCSET_DEFAULT_SIZES);
		group_context = AllocSetContextCreate(TopMemoryContext, "sabot group",
											  ALLOCSET_DEFAULT_SIZES);
	}
	if (sabot_group_applies())
	{
		sabot_group_run(entry, queue, group_context);
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(group_context);
	}
	else
		sabot_run_taken(entry, queue);
}
