/*-------------------------------------------------------------------------
 *
 * job_group.c
 *		Runs several jobs in one transaction: sabot.group_commit.
 *
 * For small jobs the commit is most of the work, and one commit can serve
 * many: each job has a subtransaction of its own, and all of them become
 * effective, and completed, together.  A job must not notice.  So between two
 * jobs the session is reset as it is between transactions; what outlives a
 * subtransaction and cannot be reset (locks, the transaction's modes,
 * temporary tables that live until commit) makes a job run alone.  Whatever
 * goes wrong in a group is no result either: that job is run again alone, and
 * what happens then counts.
 *
 * IDENTIFICATION
 *		src/jobs/job_group.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "jobs/job_run.h"
#include "jobs/jobs.h"

/* A group ends after this time, in ms: its locks are held that long. */
#define GROUP_MS 10

/* A job of the current group. */
typedef struct Member
{
	SabotReady	entry;
	char		queue[NAMEDATALEN];
	TimestampTz started_at;
	TimestampTz executed_at;
} Member;

/* What became of the last job that was taken into a group. */
typedef enum MemberResult
{
	MEMBER_DONE,				/* it waits for the group's commit */
	MEMBER_GONE,				/* it is not there to be run anymore */
	MEMBER_ALONE				/* it has to be run alone */
} MemberResult;

static bool in_member = false;	/* a job of a group is being executed */
static bool needs_alone = false;	/* it does what cannot be done in a group */
static bool ends_group = false; /* nothing may follow it in its group */

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static ExecutorFinish_hook_type prev_ExecutorFinish = NULL;
static object_access_hook_type prev_object_access = NULL;

/*
 * leave_group - raise 25001: the job must be rolled back, to be run alone
 *
 * That stays so if it catches the error.
 */
static void
leave_group(void)
{
	needs_alone = true;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("job has to be run alone")));
}

/*
 * survives_group - whether a utility statement can be undone, or does not
 * matter, when the next job of the group begins
 */
static bool
survives_group(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CallStmt:
		case T_DoStmt:
		case T_ExecuteStmt:
		case T_ExplainStmt:
		case T_NotifyStmt:
		case T_PrepareStmt:
		case T_VariableShowStmt:
			return true;
		case T_VariableSetStmt:
			return ((VariableSetStmt *) stmt)->kind != VAR_SET_MULTI &&
				((VariableSetStmt *) stmt)->name != NULL &&
				strncmp(((VariableSetStmt *) stmt)->name, "transaction_",
						strlen("transaction_")) != 0;
		default:
			return false;
	}
}

/*
 * watch_utility - ProcessUtility hook of agents: notice what needs a
 * transaction of its own
 */
static void
watch_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *queryEnv, DestReceiver *dest,
			  QueryCompletion *qc)
{
	if (in_member && !survives_group(pstmt->utilityStmt))
		leave_group();
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context,
							params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/*
 * has_deferrable_trigger - whether a relation has triggers that may wait for
 * the commit
 */
static bool
has_deferrable_trigger(Relation rel)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (rel->trigdesc->triggers[i].tgdeferrable)
			return true;
	return false;
}

/*
 * note_deferrable - notice relations of a list of ResultRelInfo that have
 * deferrable triggers
 */
static void
note_deferrable(List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
		ends_group |= has_deferrable_trigger(((ResultRelInfo *) lfirst(lc))->ri_RelationDesc);
}

/*
 * watch_executor - ExecutorFinish hook of agents: notice deferrable triggers
 *
 * They are fired before the job's end is recorded, which changes their mode
 * for the rest of the transaction; so no other job may follow in it.  Which
 * relations took part, partitions among them, is known at the end only.
 */
static void
watch_executor(QueryDesc *queryDesc)
{
	if (in_member && queryDesc->operation != CMD_SELECT)
	{
		EState	   *estate = queryDesc->estate;

		note_deferrable(estate->es_opened_result_relations);
		note_deferrable(estate->es_tuple_routing_result_relations);
		note_deferrable(estate->es_trig_target_relations);
	}
	if (prev_ExecutorFinish)
		prev_ExecutorFinish(queryDesc);
	else
		standard_ExecutorFinish(queryDesc);
}

/*
 * lives_with_transaction - whether a function leaves something behind that
 * only the transaction's end removes
 */
static bool
lives_with_transaction(Oid function)
{
	switch (function)
	{
		case F_PG_ADVISORY_XACT_LOCK_INT8:
		case F_PG_ADVISORY_XACT_LOCK_INT4_INT4:
		case F_PG_ADVISORY_XACT_LOCK_SHARED_INT8:
		case F_PG_ADVISORY_XACT_LOCK_SHARED_INT4_INT4:
		case F_PG_TRY_ADVISORY_XACT_LOCK_INT8:
		case F_PG_TRY_ADVISORY_XACT_LOCK_INT4_INT4:
		case F_PG_TRY_ADVISORY_XACT_LOCK_SHARED_INT8:
		case F_PG_TRY_ADVISORY_XACT_LOCK_SHARED_INT4_INT4:
		case F_LO_OPEN:
		case F_PG_EXPORT_SNAPSHOT:
			return true;
		default:
			return false;
	}
}

/*
 * watch_access - object access hook of agents: notice calls of functions that
 * need a transaction of their own
 */
static void
watch_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			 void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
	if (in_member && access == OAT_FUNCTION_EXECUTE &&
		lives_with_transaction(objectId))
		leave_group();
}

/*
 * sabot_group_applies - whether our agent's jobs are to be run in groups
 *
 * Installs the hooks at the first yes: only agents that need them have them.
 */
bool
sabot_group_applies(void)
{
	static bool installed = false;

	if (sabot_group_commit <= 1 ||
		DefaultXactIsoLevel != XACT_READ_COMMITTED || DefaultXactReadOnly)
		return false;
	if (!installed)
	{
		prev_ProcessUtility = ProcessUtility_hook;
		ProcessUtility_hook = watch_utility;
		prev_ExecutorFinish = ExecutorFinish_hook;
		ExecutorFinish_hook = watch_executor;
		prev_object_access = object_access_hook;
		object_access_hook = watch_access;
	}
	installed = true;
	return true;
}

/*
 * reset_inside_group - make the session as it is at the start of a transaction
 *
 * Like sabot_agent_reset_session(), but inside the group's transaction, and
 * without what makes a job run alone.
 */
static void
reset_inside_group(void)
{
	PortalHashTableDeleteAll();
	sabot_agent_reset_identity();
	ResetAllOptions();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
}

/*
 * handle_group_end - timeout handler: the group's time is up
 */
static void
handle_group_end(void)
{
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/*
 * start_group_timeout - interrupt the current job when its group is to end, or
 * those before it would have to wait for it
 */
static void
start_group_timeout(TimestampTz group_end)
{
	static TimeoutId timeout_id = MAX_TIMEOUTS;

	if (timeout_id == MAX_TIMEOUTS)
		timeout_id = RegisterTimeout(USER_TIMEOUT, handle_group_end);
	enable_timeout_at(timeout_id, group_end);
}

/*
 * complete_member - execute a job and record its end
 *
 * In its subtransaction.  Raises the job's error, or 25001 if it has to be
 * run alone.
 */
static void
complete_member(const SabotJob *job, List *statements, SabotOutcome *outcome,
				const SabotEnd *end, TimestampTz *executed_at)
{
	sabot_agent_accept_interrupts(true);
	sabot_run_raise_if_interrupted();
	sabot_settings_apply(job->settings);
	sabot_job_execute(job->command, statements, job->params, NULL,
					  SABOT_EXEC_ATOMIC, outcome, NULL, NULL, NULL);
	PushActiveSnapshot(GetTransactionSnapshot());
	/* If one fails, it is this job that fails. */
	if (ends_group)
		sabot_run_fire_deferred();
	sabot_run_raise_if_interrupted();
	*executed_at = GetCurrentTimestamp();
	if (needs_alone || !sabot_job_finish(job, end))
		leave_group();
	PopActiveSnapshot();
}

/*
 * execute_member - execute and complete a job in a subtransaction
 *
 * It is interrupted at group_end, unless that is 0.  Returns NULL, or the
 * error, in the current memory context.
 */
static ErrorData *
execute_member(const SabotJob *job, List *statements, Member *member,
			   TimestampTz group_end)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	SabotOutcome *outcome = sabot_outcome_create(caller, job->keep_rows);
	SabotEnd	end = {.state = SABOT_JOB_COMPLETED};
	ErrorData  *volatile error = NULL;

	end.attempt = job->attempt + 1;
	end.losses = job->losses;
	end.atomic = true;
	end.started_at = member->started_at;
	end.outcome = outcome;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	in_member = true;
	sabot_capture_notices_begin(outcome);
	sabot_run_start_timeout(job->timeout_ms);
	if (group_end != 0)
		start_group_timeout(group_end);
	PG_TRY();
	{
		complete_member(job, statements, outcome, &end, &member->executed_at);
		in_member = false;
		reset_inside_group();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		in_member = false;
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		disable_all_timeouts(false);
		sabot_agent_accept_interrupts(false);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	disable_all_timeouts(false);
	sabot_agent_accept_interrupts(false);
	sabot_capture_notices_end();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * can_join - whether a job could be run in a group, as far as one can tell
 */
static bool
can_join(const SabotJob *job, List **statements)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool result = false;

	if (job->has_atomic && !job->atomic)
		return false;
	PG_TRY();
	{
		*statements = sabot_job_parse(job->command);
		sabot_job_check_statements(job->command, *statements);
		result = !sabot_job_needs_singly(*statements);
	}
	PG_CATCH();
	{
		/* Run alone, it will fail the same way and be recorded. */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/*
 * take_member - run the job that is our agent's work as part of the group
 *
 * The group's transaction is open; other jobs wait for it to end at group_end,
 * or none do and it is 0.
 */
static MemberResult
take_member(Member *member, TimestampTz group_end)
{
	SabotJob   *job;
	List	   *statements = NIL;
	ErrorData  *error;

	if (sabot_orphan_exists(member->entry.job_id))
		return MEMBER_GONE;
	PushActiveSnapshot(GetTransactionSnapshot());
	job = sabot_job_read(member->entry.job_id);
	PopActiveSnapshot();
	if (job == NULL || !sabot_run_is_runnable(job))
		return MEMBER_GONE;
	if (job->is_graph || job->is_schedule || job->is_stream ||
		job->parent_id != 0 || job->ndepends_on > 0 ||
		!can_join(job, &statements))
		return MEMBER_ALONE;

	member->started_at = GetCurrentTimestamp();
	sabot_attempt_begin(job, job->attempt + 1);
	sabot_run_report(job);
	error = execute_member(job, statements, member, group_end);
	debug_query_string = NULL;
	return error == NULL ? MEMBER_DONE : MEMBER_ALONE;
}

/*
 * begin_group - begin a group's transaction
 *
 * Returns false if the agent has to be replaced before it works on.
 */
static bool
begin_group(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (sabot_agent_authority_changed())
	{
		CommitTransactionCommand();
		return false;
	}
	BeginImplicitTransactionBlock();
	return true;
}

/*
 * fill_group - run jobs in the open transaction, the first of them being our
 * agent's work already
 *
 * Fills members and *n, and returns whether the job after the last of them is
 * still our agent's work and has to be run alone.
 */
static bool
fill_group(Member *members, int *n, MemoryContext context)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  GROUP_MS);

	for (;;)
	{
		MemberResult result;

		MemoryContextSwitchTo(context);
		needs_alone = ends_group = false;
		result = take_member(&members[*n], *n > 0 ? end : 0);
		if (result == MEMBER_ALONE)
			return true;
		sabot_pool_took_work(sabot_my_pair());
		(void) sabot_pool_end_work();
		*n += result == MEMBER_DONE;
		if (ends_group || *n >= sabot_group_commit ||
			GetCurrentTimestamp() >= end || sabot_agent_must_leave())
			return false;
		MemoryContextReset(context);
		if (sabot_ready_claim(&members[*n].entry,
							  members[*n].queue) != SABOT_CLAIM_TAKEN)
			return false;
	}
}

/*
 * commit_group - commit what a group's n jobs did; false if that failed
 */
static bool
commit_group(int n)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = true;

	sabot_attempt_end();
	sabot_count_finished(SABOT_JOB_COMPLETED, n);
	PG_TRY();
	{
		EndImplicitTransactionBlock();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		sabot_agent_accept_interrupts(false);
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return ok;
}

/*
 * settle_group - tell of jobs that are completed, or run them alone
 */
static void
settle_group(const Member *members, int n, bool committed)
{
	for (int i = 0; i < n; i++)
	{
		const Member *member = &members[i];

		if (committed)
		{
			sabot_run_profile(&member->entry, member->started_at,
							  member->executed_at);
			sabot_wait_wakeup(member->entry.job_id);
			if (sabot_queue_is_limited(MyDatabaseId, member->queue))
				sabot_pool_wake_all(MyDatabaseId);
		}
		else if (sabot_pool_begin_work(member->entry.job_id,
									   sabot_queue_tag(member->queue)))
			sabot_run_taken(&member->entry, member->queue);
	}
}

/*
 * sabot_group_run - run a group of jobs; the first is our agent's work already
 *
 * In no transaction.  Afterwards the agent has no work and its session is
 * reset.  Memory is taken from the given context.
 */
void
sabot_group_run(const SabotReady *first, const char *queue,
				MemoryContext context)
{
	MemoryContext member_context;
	Member	   *members;
	int			n = 0;
	bool		alone;
	bool		committed;

	if (!begin_group())
	{
		sabot_run_put_back(first, queue);
		return;
	}
	member_context = AllocSetContextCreate(context, "sabot group member",
										   ALLOCSET_DEFAULT_SIZES);
	members = MemoryContextAllocHuge(context,
									 sizeof(Member) * (sabot_group_commit + 1));
	members[0].entry = *first;
	strlcpy(members[0].queue, queue, NAMEDATALEN);
	alone = fill_group(members, &n, member_context);
	MemoryContextSwitchTo(context);
	committed = commit_group(n);
	if (alone)
		sabot_run_taken(&members[n].entry, members[n].queue);
	settle_group(members, n, committed);
	sabot_agent_reset_session();
}
