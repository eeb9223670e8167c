/*-------------------------------------------------------------------------
 *
 * job_status.c
 *		What the views of jobs need to know beyond the tables: who may see a
 *		job, which agent runs it, and why it does not run yet.
 *
 * That a job runs is not stored anywhere but in the slots of the pool, so
 * that no crash can leave a job "running" for ever; the views join the slots
 * to the tables.  Why a job waits is worked out when somebody asks, from the
 * same facts the launcher and the agents act upon, in the order in which they
 * would stop the job: stored reasons would be wrong as soon as anything
 * changed.
 *
 * A role's oid means nothing in another cluster, so a row that was copied from
 * elsewhere (home differs) belongs to the role of its owner's name.
 *
 * IDENTIFICATION
 *		src/jobs/job_status.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "jobs/jobs.h"

#define MAX_NAMED_JOBS	10		/* "waits for jobs 1, 2, ... and 5 more" */

/* What sabot.wait_reason() is told of a job. */
typedef struct WaitFacts
{
	const char *state;			/* as job_status shows it */
	int64		job_id;
	const char *queue;
	bool		queue_paused;
	int			queue_limit;	/* 0 = none */
	Oid			owner;
	int64		home;
	TimestampTz run_after;		/* 0 if none */
	const char *reason;			/* why it is paused, or NULL */
	const char *sqlstate;		/* of the attempt before, or NULL */
	ArrayType  *waits_for;		/* bigint[]: unfinished jobs, or NULL */
} WaitFacts;

PG_FUNCTION_INFO_V1(sabot_home);
PG_FUNCTION_INFO_V1(sabot_is_mine);
PG_FUNCTION_INFO_V1(sabot_may_see);
PG_FUNCTION_INFO_V1(sabot_owner_label);
PG_FUNCTION_INFO_V1(sabot_running_job);
PG_FUNCTION_INFO_V1(sabot_wait_reason);

/*
 * SQL: sabot.home() RETURNS bigint
 *
 * Identity of this database, as new jobs carry it.
 */
Datum
sabot_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(sabot_catalog(false)->home);
}

/*
 * effective_owner - the role a job belongs to here, InvalidOid if it is gone
 */
static Oid
effective_owner(Oid owner, Name owner_name, int64 home)
{
	if (home == sabot_catalog(false)->home)
		return owner;
	return get_role_oid(NameStr(*owner_name), true);
}

/*
 * is_privileged - whether the caller has the privileges of a job's owner
 *
 * A job whose owner is gone is the superusers'.
 */
static bool
is_privileged(Oid owner)
{
	if (!OidIsValid(owner))
		return superuser();
	return has_privs_of_role(GetUserId(), owner);
}

/*
 * sabot_sees_all_jobs - whether the caller may know of every role's jobs
 */
bool
sabot_sees_all_jobs(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		has_privs_of_role(GetUserId(), sabot_catalog(false)->owner);
}

/*
 * SQL: sabot.is_mine(owner oid, owner_name name, home bigint) RETURNS boolean
 *
 * Whether a job is one's own, so that one may read everything of it.
 */
Datum
sabot_is_mine(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_privileged(effective_owner(PG_GETARG_OID(0),
												 PG_GETARG_NAME(1),
												 PG_GETARG_INT64(2))));
}

/*
 * SQL: sabot.may_see(owner oid, owner_name name, home bigint) RETURNS boolean
 *
 * Whether one may know of a job: it is one's own, or one is a member of
 * pg_monitor or the extension's owner.
 */
Datum
sabot_may_see(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_privileged(effective_owner(PG_GETARG_OID(0),
												 PG_GETARG_NAME(1),
												 PG_GETARG_INT64(2))) ||
				   sabot_sees_all_jobs());
}

/*
 * SQL: sabot.owner_label(owner oid, owner_name name, home bigint) RETURNS name
 *
 * The owner's present name, or the one at submit if the role is gone or the
 * job was copied from another database.
 */
Datum
sabot_owner_label(PG_FUNCTION_ARGS)
{
	char	   *name = NULL;

	if (PG_GETARG_INT64(2) == sabot_catalog(false)->home)
		name = GetUserNameFromId(PG_GETARG_OID(0), true);
	if (name == NULL)
		PG_RETURN_DATUM(PG_GETARG_DATUM(1));
	return DirectFunctionCall1(namein, CStringGetDatum(name));
}

/*
 * put_running - add the row of a slot that runs a job
 */
static void
put_running(ReturnSetInfo *rsinfo, const SabotSlot *slot)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	values[0] = Int64GetDatum(slot->work_id);
	values[1] = Int32GetDatum((int32) slot->pid);
	values[2] = Int32GetDatum(slot->work_attempt);
	nulls[2] = slot->work_attempt == 0;
	values[3] = TimestampTzGetDatum(slot->work_start);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.running_job() RETURNS SETOF record
 *
 * The jobs of this database that agents run now, of those the caller may see.
 * A slot whose agent was lost runs nothing: its job is about to be recovered.
 */
Datum
sabot_running_job(PG_FUNCTION_ARGS)
{
	SabotSlot  *slots;
	int			nslots = sabot_pool_nslots();
	bool		all = sabot_sees_all_jobs();

	InitMaterializedSRF(fcinfo, 0);
	slots = palloc0(sizeof(SabotSlot) * Max(nslots, 1));
	sabot_pool_copy_slots(slots);
	for (int i = 0; i < nslots; i++)
	{
		if (slots[i].work_id > 0 && slots[i].dbid == MyDatabaseId &&
			slots[i].state != SABOT_SLOT_LOST &&
			(all || is_privileged(slots[i].roleid)))
			put_running((ReturnSetInfo *) fcinfo->resultinfo, &slots[i]);
	}
	return (Datum) 0;
}

/*
 * time_to_text - a time as the session shows it, to the second
 */
static char *
time_to_text(TimestampTz t)
{
	t -= t % USECS_PER_SEC;
	return DatumGetCString(DirectFunctionCall1(timestamptz_out,
											   TimestampTzGetDatum(t)));
}

/*
 * name_waited_for - "waits for job 17", from a bigint[] of jobs
 */
static char *
name_waited_for(ArrayType *jobs)
{
	StringInfoData text;
	Datum	   *ids;
	bool	   *nulls;
	int			n = 0;

	if (jobs != NULL)
		deconstruct_array(jobs, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, &ids, &nulls, &n);
	if (n == 0)
		return pstrdup("waits for other work");

	initStringInfo(&text);
	appendStringInfoString(&text, n == 1 ? "waits for job " : "waits for jobs ");
	for (int i = 0; i < n && i < MAX_NAMED_JOBS; i++)
		appendStringInfo(&text, "%s" INT64_FORMAT, i > 0 ? ", " : "",
						 nulls[i] ? 0 : DatumGetInt64(ids[i]));
	if (n > MAX_NAMED_JOBS)
		appendStringInfo(&text, " and %d more", n - MAX_NAMED_JOBS);
	return text.data;
}

/*
 * why_held - the reason that lies in the job itself or in its queue, or NULL
 */
static char *
why_held(const WaitFacts *job)
{
	if (job->home != sabot_catalog(false)->home)
		return pstrdup("copied from another database");
	if (strcmp(job->state, "paused") == 0)
		return pstrdup(job->reason ? job->reason : "paused by its owner");
	if (job->queue_paused)
		return psprintf("queue \"%s\" is paused", job->queue);
	if (strcmp(job->state, "blocked") == 0)
		return job->reason ? pstrdup(job->reason) :
			name_waited_for(job->waits_for);
	if (strcmp(job->state, "scheduled") != 0 || job->run_after == 0)
		return NULL;
	if (job->sqlstate != NULL)
		return psprintf("retry at %s after SQLSTATE %s",
						time_to_text(job->run_after), job->sqlstate);
	return psprintf("starts at %s", time_to_text(job->run_after));
}

/*
 * why_server - the reason that lies in the server, or NULL
 */
static char *
why_server(void)
{
	if (!sabot_pool_attached())
		return pstrdup("sabot is not in shared_preload_libraries");
	if (!sabot_enabled)
		return pstrdup("sabot.enabled is off");
	if (RecoveryInProgress())
		return pstrdup("the server is in recovery");
	return NULL;
}

/*
 * why_owner - the reason that lies in the job's owner, or NULL
 */
static char *
why_owner(Oid owner)
{
	HeapTuple	tuple;
	bool		can_login;
	char	   *name;

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	if (!HeapTupleIsValid(tuple))
		return pstrdup("its owner has been dropped");
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	name = pstrdup(NameStr(((Form_pg_authid) GETSTRUCT(tuple))->rolname));
	ReleaseSysCache(tuple);

	if (SABOT_NEEDS_LOGIN && !can_login)
		return psprintf("role \"%s\" is not permitted to log in", name);
	if (object_aclcheck(DatabaseRelationId, MyDatabaseId, owner,
						ACL_CONNECT) != ACLCHECK_OK)
		return psprintf("role \"%s\" has no CONNECT privilege on database \"%s\"",
						name, get_database_name(MyDatabaseId));
	return NULL;
}

/*
 * why_pair - the reason that agents of the owner cannot start, or NULL
 */
static char *
why_pair(const WaitFacts *job)
{
	SabotPair	pair;
	int64		wait_us;

	if (!sabot_pool_get_pair(sabot_job_pair(job->owner, job->queue), &pair) ||
		(pair.failures == 0 && !pair.give_up))
		return NULL;
	wait_us = pair.retry_at - GetCurrentTimestamp();
	if (pair.give_up || wait_us <= 0)
		return psprintf("agents cannot start: %s", pair.error);
	return psprintf("agents cannot start: %s, next try in " INT64_FORMAT " s",
					pair.error, (wait_us + USECS_PER_SEC - 1) / USECS_PER_SEC);
}

/*
 * why_room - the reason that the room of the job's crew knows of, or NULL
 */
static char *
why_room(const WaitFacts *job)
{
	if (sabot_queue_crew(job->queue) != SABOT_LLM_WORKERS ||
		sabot_job_extra() == NULL)
		return NULL;
	return sabot_job_extra()->wait_reason(job->job_id);
}

/*
 * why_queue_limit - the reason that its queue runs enough jobs, or NULL
 */
static char *
why_queue_limit(const WaitFacts *job)
{
	if (job->queue_limit == 0 ||
		sabot_pool_running_with_tag(MyDatabaseId,
									sabot_queue_tag(job->queue)) < job->queue_limit)
		return NULL;
	return psprintf("queue \"%s\" is at its limit of %d",
					job->queue, job->queue_limit);
}

/*
 * why_pool - the reason that there is no agent to be had, or NULL
 */
static char *
why_pool(SabotCrew crew)
{
	SabotPoolTotals totals;
	bool		agents = crew == SABOT_AGENTS;

	sabot_pool_totals(crew, &totals);
	if (agents && totals.capacity <= 0)
		return pstrdup("no background worker slot: raise max_worker_processes");
	if (totals.limit <= 0)
		return psprintf("sabot.%s is 0", agents ? "pool_size" : "llm_workers");
	if (totals.idle == 0 && totals.starting == 0)
	{
		if (totals.agents >= totals.limit)
			return psprintf("all %d %s are busy", totals.agents,
							agents ? "agents" : "LLM workers");
		if (totals.no_worker_slot)
			return pstrdup("no background worker slot: raise max_worker_processes");
	}
	if (!totals.launcher_running)
		return pstrdup("the launcher is not running");
	return NULL;
}

/*
 * explain_wait - why a job that is not running does not run
 *
 * The first thing that stops it, in the order in which removing one reason
 * uncovers the next; never NULL.
 */
static char *
explain_wait(const WaitFacts *job)
{
	char	   *why;

	if ((why = why_held(job)) != NULL ||
		(why = why_server()) != NULL ||
		(why = why_owner(job->owner)) != NULL ||
		(why = why_pair(job)) != NULL ||
		(why = why_room(job)) != NULL ||
		(why = why_queue_limit(job)) != NULL ||
		(why = why_pool(sabot_queue_crew(job->queue))) != NULL)
		return why;
	return pstrdup("about to start");
}

/*
 * is_waiting_state - whether a job in a state has a reason to wait
 */
static bool
is_waiting_state(const char *state)
{
	return strcmp(state, "queued") == 0 || strcmp(state, "scheduled") == 0 ||
		strcmp(state, "blocked") == 0 || strcmp(state, "paused") == 0;
}

/*
 * text_arg - an argument of type text as a C string, NULL if it is NULL
 */
static char *
text_arg(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		return NULL;
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * SQL: sabot.wait_reason(job_id bigint, state text, queue text,
 *		queue_paused boolean, queue_limit int, owner oid, home bigint, run_after timestamptz,
 *		reason text, sqlstate text, waits_for bigint[]) RETURNS text
 *
 * Why a job waits; NULL if it does not, or is none of the caller's business.
 */
Datum
sabot_wait_reason(PG_FUNCTION_ARGS)
{
	WaitFacts	job = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) ||
		PG_ARGISNULL(5) || PG_ARGISNULL(6))
		PG_RETURN_NULL();

	job.job_id = PG_GETARG_INT64(0);
	job.state = text_arg(fcinfo, 1);
	job.owner = PG_GETARG_OID(5);
	job.home = PG_GETARG_INT64(6);
	if (!is_waiting_state(job.state))
		PG_RETURN_NULL();
	if (job.home == sabot_catalog(false)->home &&
		!is_privileged(job.owner) && !sabot_sees_all_jobs())
		PG_RETURN_NULL();

	job.queue = text_arg(fcinfo, 2);
	job.queue_paused = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	job.queue_limit = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4);
	job.run_after = PG_ARGISNULL(7) ? 0 : PG_GETARG_TIMESTAMPTZ(7);
	job.reason = text_arg(fcinfo, 8);
	job.sqlstate = text_arg(fcinfo, 9);
	job.waits_for = PG_ARGISNULL(10) ? NULL : PG_GETARG_ARRAYTYPE_P(10);

	PG_RETURN_TEXT_P(cstring_to_text(explain_wait(&job)));
}
