/*-------------------------------------------------------------------------
 *
 * job_direct.c
 *		sabot.run: a command run now, by an agent, for who waits for it.
 *
 * No job is made, so nothing is written but what the command writes: the
 * request goes to the agent through shared memory, and the answer comes back
 * the same way.  What it costs beyond the command are two process switches.
 *
 * The call and its command end together.  When the caller fails, is canceled
 * or exits, a request that nobody has taken is withdrawn and a command that
 * runs is canceled; when the agent ends, its queue is detached and the caller
 * learns it.
 *
 * Like any wait, this one must not last for ever: a command that waits for a
 * lock the caller holds is found by job_deadlock.c, and as long as no agent
 * has taken the request the pool is asked why.
 *
 * IDENTIFICATION
 *		src/jobs/job_direct.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqmq.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "guc.h"
#include "jobs/job_direct.h"
#include "jobs/job_wait.h"
#include "jobs/jobs.h"

/* How often to ask why no agent has taken the request, in ms. */
#define POSTED_CHECK_MS		100

/* Failed starts of agents after which a call gives up. */
#define MAX_START_FAILURES	5

/* A call of sabot.run. */
typedef struct DirectRun
{
	char	   *command;
	Jsonb	   *params;			/* or NULL */
	ArrayType  *settings;
	bool		singly;
	Oid			roleid;
	int64		seq;
	shm_mq_handle *queue;
	bool		answered;		/* the last message has come */
	ReturnSetInfo *rsinfo;
	int64		timeout_ms;		/* -1 = none */
	TimestampTz deadline;		/* 0 = none */
	TimestampTz next_check;
	TimestampTz deadlock_check; /* not before */
	TimestampTz posted_at;
	int			old_failures;	/* agents that could not start before */
	int			unseen;			/* checks that found no agent at work */
} DirectRun;

/* The session's segment, kept from call to call. */
static dsm_segment *my_segment = NULL;

/* The call in progress, NULL if there is none. */
static DirectRun *current_run = NULL;

PG_FUNCTION_INFO_V1(sabot_run);

/*
 * wait_event - what pg_stat_activity shows of the caller
 */
static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("SabotRun");
	return event;
}

/*
 * drop_segment - let go of our segment
 *
 * An agent that still uses it has it mapped, too.
 */
static void
drop_segment(void)
{
	dsm_segment *segment = my_segment;

	my_segment = NULL;
	if (segment != NULL)
		dsm_detach(segment);
}

/*
 * prepare_segment - our segment, with room for so many bytes
 *
 * A segment that an agent has not let go of since the last call is left to
 * it.  Raises 53000 or 53200 if there is no memory for another one.
 */
static SabotDirectSegment *
prepare_segment(Size size)
{
	/* Rounded up so that the next command will fit, too. */
	size = Max(size, SABOT_DIRECT_QUEUE_SIZE + 16 * 1024);

	if (my_segment != NULL &&
		(dsm_segment_map_length(my_segment) < size ||
		 sabot_direct_state() != SABOT_DIRECT_FREE))
		drop_segment();
	if (my_segment == NULL)
	{
		my_segment = dsm_create(size, 0);
		dsm_pin_mapping(my_segment);
	}
	return dsm_segment_address(my_segment);
}

/*
 * write_request - put the request into our segment and set up its queue
 */
static void
write_request(DirectRun *run)
{
	Size		command_len = strlen(run->command) + 1;
	Size		params_len = run->params ? VARSIZE(run->params) : 0;
	Size		settings_len = VARSIZE(run->settings);
	Size		params = MAXALIGN(command_len);
	Size		settings = params + MAXALIGN(params_len);
	Size		queue = settings + MAXALIGN(settings_len);
	SabotDirectSegment *segment;
	shm_mq	   *mq;

	StaticAssertStmt(offsetof(SabotDirectSegment, data) ==
					 MAXALIGN(offsetof(SabotDirectSegment, data)),
					 "the queue has to be aligned");

	segment = prepare_segment(offsetof(SabotDirectSegment, data) + queue +
							  SABOT_DIRECT_QUEUE_SIZE);
	segment->singly = run->singly;
	segment->command_len = command_len;
	segment->params = params;
	segment->params_len = params_len;
	segment->settings = settings;
	segment->settings_len = settings_len;
	segment->queue = queue;
	memcpy(segment->data, run->command, command_len);
	if (run->params)
		memcpy(segment->data + params, run->params, params_len);
	memcpy(segment->data + settings, run->settings, settings_len);

	mq = shm_mq_create(segment->data + queue, SABOT_DIRECT_QUEUE_SIZE);
	shm_mq_set_receiver(mq, MyProc);
	run->queue = shm_mq_attach(mq, NULL, NULL);
}

/*
 * abandon_run - end a call before its command has ended
 *
 * The agent, if there is one, is told in two ways: it is canceled, and finds
 * nobody at the other end of the queue.
 */
static void
abandon_run(DirectRun *run)
{
	if (sabot_direct_withdraw() == SABOT_DIRECT_POSTED)
		sabot_pool_took_work(sabot_pair(run->roleid, SABOT_AGENTS));
	else
	{
		(void) sabot_pool_interrupt(MyDatabaseId, -run->seq,
									SABOT_INTERRUPT_CANCEL);
		shm_mq_detach(run->queue);
		drop_segment();
	}
}

/*
 * abandon_at_exit - the same when the session ends during a call
 */
static void
abandon_at_exit(int code, Datum arg)
{
	DirectRun  *run = current_run;

	current_run = NULL;
	if (run != NULL && !run->answered)
		abandon_run(run);
}

/*
 * post_request - hand the request to the pool
 */
static void
post_request(DirectRun *run)
{
	static bool registered = false;
	TimestampTz now = GetCurrentTimestamp();
	SabotPair	pair;

	if (!registered)
		before_shmem_exit(abandon_at_exit, (Datum) 0);
	registered = true;

	run->posted_at = now;
	if (run->timeout_ms >= 0)
		run->deadline = TimestampTzPlusMilliseconds(now, run->timeout_ms);
	run->next_check = TimestampTzPlusMilliseconds(now, POSTED_CHECK_MS);
	run->deadlock_check = TimestampTzPlusMilliseconds(now, DeadlockTimeout);

	if (!sabot_pool_prepare_pair(sabot_pair(run->roleid, SABOT_AGENTS), false))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many databases and roles have work at once")));
	if (sabot_pool_get_pair(sabot_pair(run->roleid, SABOT_AGENTS), &pair))
		run->old_failures = pair.failures;
	run->seq = sabot_direct_post(run->roleid,
								 dsm_segment_handle(my_segment));
	current_run = run;
	sabot_pool_wake(sabot_pair(run->roleid, SABOT_AGENTS), 1, 0);
}

/*
 * add_context - error context: say where the message comes from
 */
static void
add_context(void *arg)
{
	errcontext("job command run by sabot.run");
}

/*
 * rethrow - report a message of the command's as if it were our own
 *
 * A position in the command would be taken for one in the caller's query, so
 * it becomes one in an internal query.
 */
static void
rethrow(DirectRun *run, char *data, Size len)
{
	StringInfoData msg = {.data = data,.len = len,.maxlen = len};
	ErrorContextCallback callback = {
		.callback = add_context,
		.previous = error_context_stack
	};
	ErrorData	edata;

	pq_parse_errornotice(&msg, &edata);
	if (edata.cursorpos > 0 && edata.internalquery == NULL)
	{
		edata.internalpos = edata.cursorpos;
		edata.internalquery = run->command;
	}
	edata.cursorpos = 0;

	error_context_stack = &callback;
	ThrowErrorData(&edata);
	error_context_stack = callback.previous;
}

/*
 * take_message - act on a message of the agent's
 */
static void
take_message(DirectRun *run, char *data, Size len)
{
	Tuplestorestate *rows = run->rsinfo->setResult;
	uint64		kind;
	Datum		row;
	bool		isnull = false;

	memcpy(&kind, data, sizeof(kind));
	data += sizeof(kind);
	len -= sizeof(kind);

	switch (kind)
	{
		case SABOT_DIRECT_ROW:
			row = PointerGetDatum(data);
			tuplestore_putvalues(rows, run->rsinfo->setDesc, &row, &isnull);
			break;
		case SABOT_DIRECT_NEW_SET:
			tuplestore_clear(rows);
			break;
		case SABOT_DIRECT_NOTICE:
			rethrow(run, data, len);
			break;
		case SABOT_DIRECT_ERROR:
			run->answered = true;
			rethrow(run, data, len);
			break;
		case SABOT_DIRECT_DONE:
			run->answered = true;
			break;
		default:
			elog(ERROR, "unrecognized message from agent: " UINT64_FORMAT,
				 kind);
	}
}

/*
 * raise_lost - raise the error of a command whose agent has gone
 */
static void
raise_lost(void)
{
	char		error[SABOT_ERROR_LEN];
	int			sqlstate;

	if (sabot_direct_get_error(&sqlstate, error))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the agent was lost while it ran the command"),
				 errdetail("Its last error was %s: %s.",
						   unpack_sql_state(sqlstate), error)));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the agent was lost while it ran the command")));
}

/*
 * has_agent - whether the pair of the request has any agent
 */
static bool
has_agent(const DirectRun *run)
{
	int			nslots = sabot_pool_nslots();
	SabotSlot  *slots = palloc(sizeof(SabotSlot) * Max(1, nslots));
	bool		found = false;

	sabot_pool_copy_slots(slots);
	for (int i = 0; i < nslots && !found; i++)
		found = slots[i].state != SABOT_SLOT_FREE &&
			slots[i].state != SABOT_SLOT_LOST &&
			slots[i].dbid == MyDatabaseId && slots[i].roleid == run->roleid;
	pfree(slots);
	return found;
}

/*
 * start_is_hopeless - whether it makes no sense to wait for another start
 *
 * That is so when the pair has been given up.  It is forgiven soon after, for
 * the sake of later work, and seems never to have failed; but then there is
 * no agent although one was started since the call.  Nor will what is refused
 * for lack of rights (classes 28 and 42) be granted while we wait.
 */
static bool
start_is_hopeless(DirectRun *run, const SabotPair *pair)
{
	int			category = ERRCODE_TO_CATEGORY(pair->sqlstate);

	if (pair->give_up || pair->failures >= MAX_START_FAILURES)
		return true;
	if (pair->failures > run->old_failures &&
		(category == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION ||
		 category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_PRIVILEGE)))
		return true;
	run->old_failures = Min(run->old_failures, pair->failures);
	return pair->failures == 0 && pair->demand == 0 &&
		pair->error[0] != '\0' && pair->last_start >= run->posted_at &&
		!has_agent(run);
}

/*
 * check_agents_start - raise the error that keeps agents from starting
 */
static void
check_agents_start(DirectRun *run)
{
	SabotPair	pair;

	if (!sabot_pool_get_pair(sabot_pair(run->roleid, SABOT_AGENTS), &pair))
		return;
	if (start_is_hopeless(run, &pair))
		ereport(ERROR,
				(errcode(pair.sqlstate ? pair.sqlstate :
						 ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not start an agent"),
				 pair.error[0] ? errdetail_internal("%s", pair.error) : 0));

	/*
	 * Wake another agent, in case the one we woke has left or somebody else
	 * has taken our demand for served; but demand no more than we did.
	 */
	sabot_pool_wake(sabot_pair(run->roleid, SABOT_AGENTS), 1, 0);
	if (pair.demand > 0)
		sabot_pool_took_work(sabot_pair(run->roleid, SABOT_AGENTS));
}

/*
 * check_not_taken - raise the reason why nobody will take our request
 */
static void
check_not_taken(DirectRun *run)
{
	SabotPoolTotals totals;

	if (!sabot_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sabot.enabled is off")));
	sabot_pool_totals(SABOT_AGENTS, &totals);
	if (totals.capacity == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no background worker slot is left for agents"),
				 errhint("Raise max_worker_processes and restart the server.")));
	check_agents_start(run);
	if (sabot_my_slot != SABOT_NO_SLOT && sabot_pool_wait_is_hopeless())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("cannot run the command: every agent waits for another one"),
				 errhint("Raise max_worker_processes, or let fewer jobs wait for others at once.")));
}

/*
 * check_deadlock - raise 55000 if the command waits for us
 */
static void
check_deadlock(DirectRun *run)
{
	char	   *chain = sabot_waiter_find_cycle(-run->seq, NULL);

	if (chain != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot run the command: it waits for this session"),
				 errdetail_internal("%s", chain),
				 errhint("Commit first, or do without what the command needs.")));
}

/*
 * check_run - is there still hope for an answer?
 */
static void
check_run(DirectRun *run, TimestampTz now)
{
	SabotDirectState state = sabot_direct_state();
	SabotSlot	slot;

	run->next_check = TimestampTzPlusMilliseconds(now,
												  state == SABOT_DIRECT_POSTED ?
												  POSTED_CHECK_MS :
												  SABOT_WAIT_CHECK_MS);
	if (state == SABOT_DIRECT_POSTED)
		check_not_taken(run);

	/* An agent that dies between taking and attaching does not hang up. */
	if (state == SABOT_DIRECT_TAKEN &&
		!sabot_pool_find_work(MyDatabaseId, -run->seq, &slot))
	{
		if (++run->unseen > 1)
			raise_lost();
	}
	else
		run->unseen = 0;

	if (now >= run->deadlock_check)
	{
		check_deadlock(run);
		run->deadlock_check =
			TimestampTzPlusMilliseconds(now, SABOT_WAIT_CHECK_MS);
	}
}

/*
 * wait_for_message - sleep until there may be a message
 *
 * Raises 57014 when the call's time is up, or what check_run() finds.
 */
static void
wait_for_message(DirectRun *run)
{
	TimestampTz now = GetCurrentTimestamp();

	if (run->deadline != 0 && now >= run->deadline)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("timeout of sabot.run expired")));
	if (now >= run->next_check)
		check_run(run, now);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 sabot_wait_nap_ms(now, run->deadline, run->next_check),
					 wait_event());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * receive_answer - receive messages until the last one
 *
 * A request that was released without an answer is looked at once more, as
 * the last message may have come in between.
 */
static void
receive_answer(DirectRun *run)
{
	bool		released = false;

	while (!run->answered)
	{
		Size		len;
		void	   *data;
		shm_mq_result result = shm_mq_receive(run->queue, &len, &data, true);

		if (result == SHM_MQ_SUCCESS)
		{
			take_message(run, data, len);
			CHECK_FOR_INTERRUPTS();
		}
		else if (result == SHM_MQ_DETACHED || released)
			raise_lost();
		else if (sabot_direct_state() == SABOT_DIRECT_FREE)
			released = true;
		else
			wait_for_message(run);
	}
}

/*
 * do_run - post the request, receive the answer, leave nothing behind
 */
static void
do_run(DirectRun *run)
{
	write_request(run);
	post_request(run);
	sabot_waiter_begin(-run->seq);
	PG_TRY();
	{
		receive_answer(run);
	}
	PG_FINALLY();
	{
		sabot_waiter_end();
		current_run = NULL;
		if (!run->answered)
			abandon_run(run);
	}
	PG_END_TRY();

	if (dsm_segment_map_length(my_segment) > SABOT_DIRECT_MAX_KEPT)
		drop_segment();
}

/*
 * shift_position - error context: a syntax error's position is one in the
 * command, not in the caller's query
 */
static void
shift_position(void *arg)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((const char *) arg);
}

/*
 * check_command - raise an error for a command that could never run
 *
 * Sets run->singly.
 */
static void
check_command(DirectRun *run)
{
	ErrorContextCallback callback = {
		.callback = shift_position,
		.arg = run->command,
		.previous = error_context_stack
	};
	List	   *statements;

	error_context_stack = &callback;
	statements = sabot_job_parse(run->command);
	sabot_job_check_statements(run->command, statements);
	error_context_stack = callback.previous;
	run->singly = sabot_job_needs_singly(statements);
}

/*
 * SQL: sabot.run(command text, params jsonb, timeout interval)
 *		RETURNS SETOF jsonb
 *
 * Runs the command now, on an agent, as the current role, in a transaction of
 * its own, and returns the rows of its last row set.  Raises the command's
 * error; 57014 when the timeout has passed or the call is canceled; 55000 if
 * the command waits for this session or sabot.enabled is off; 53000 if there
 * can be no agent; 08006 if the agent was lost.
 */
Datum
sabot_run(PG_FUNCTION_ARGS)
{
	DirectRun	run = {0};

	sabot_pool_require();
	PreventCommandDuringRecovery("sabot.run()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("command must not be null")));
	run.command = text_to_cstring(PG_GETARG_TEXT_PP(0));
	run.params = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	run.timeout_ms = sabot_wait_timeout_ms(PG_ARGISNULL(2) ? NULL :
										   PG_GETARG_INTERVAL_P(2));
	if (!sabot_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sabot.enabled is off")));
	run.roleid = GetUserId();
	sabot_check_owner_can_login(run.roleid);
	check_command(&run);
	run.settings = sabot_settings_capture();

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	run.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	do_run(&run);
	return (Datum) 0;
}
