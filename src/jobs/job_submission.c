/*-------------------------------------------------------------------------
 *
 * job_submission.c
 *		What a call submits: the options that all ways to submit share.
 *
 * Everything that can be known to be wrong is refused here, while there is
 * somebody to tell, and not hours later in the background.
 *
 * IDENTIFICATION
 *		src/jobs/job_submission.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

#define MAX_NAME_BYTES 255

/*
 * sabot_check_owner_can_login - raise 28000 if no agent could be the role
 *
 * Before PostgreSQL 17 a background worker can only connect as a role that
 * may log in.
 */
void
sabot_check_owner_can_login(Oid roleid)
{
	HeapTuple	tuple;
	bool		can_login;

	if (!SABOT_NEEDS_LOGIN)
		return;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(roleid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", roleid);
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("role \"%s\" is not permitted to log in",
						GetUserNameFromId(roleid, false)),
				 errdetail("Jobs run on agents that are connected as the job's owner."),
				 errhint("Use ALTER ROLE ... LOGIN, or submit as a role that may log in.")));
}

/*
 * sabot_submission_set - set a parameter of the INSERT
 */
void
sabot_submission_set(SabotSubmission *s, SabotSubmitParam p, Datum value)
{
	s->values[p] = value;
	s->nulls[p] = ' ';
}

/*
 * sabot_submission_set_arg - set a parameter of the INSERT to an argument,
 * unless it is NULL
 */
void
sabot_submission_set_arg(SabotSubmission *s, SabotSubmitParam p, FunctionCallInfo fcinfo, int argno)
{
	if (!PG_ARGISNULL(argno))
		sabot_submission_set(s, p, PG_GETARG_DATUM(argno));
}

/*
 * required_int - an integer argument that must not be NULL
 */
static int32
required_int(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_INT32(argno);
}

/*
 * check_interval - raise 22023 for an interval below the minimum, in ms
 */
static void
check_interval(FunctionCallInfo fcinfo, int argno, const char *name,
			   int64 minimum)
{
	if (PG_ARGISNULL(argno))
		return;
	if (sabot_interval_ms(PG_GETARG_INTERVAL_P(argno)) < minimum)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must %s", name,
						minimum > 0 ? "be at least 1 ms" : "not be negative")));
}

/*
 * sabot_submission_begin - who submits, from where, when
 */
void
sabot_submission_begin(SabotSubmission *s, const char *function)
{
	Oid			owner = GetUserId();

	sabot_pool_require();
	PreventCommandIfReadOnly(function);
	sabot_check_owner_can_login(owner);
	memset(s, 0, sizeof(*s));
	memset(s->nulls, 'n', P_NVALUES);
	s->submitted_at = GetCurrentTimestamp();
	sabot_submission_set(s, P_OWNER, ObjectIdGetDatum(owner));
	sabot_submission_set(s, P_OWNER_NAME,
						 DirectFunctionCall1(namein,
											 CStringGetDatum(GetUserNameFromId(owner, false))));
	sabot_submission_set(s, P_HOME, Int64GetDatum(sabot_catalog(false)->home));
	sabot_submission_set(s, P_SUBMITTED_AT, TimestampTzGetDatum(s->submitted_at));
	sabot_submission_set(s, P_SETTINGS, PointerGetDatum(sabot_settings_capture()));
	sabot_submission_set(s, P_RETRY_DELAY,
						 DirectFunctionCall3(interval_in, CStringGetDatum("1 s"),
											 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	sabot_submission_set(s, P_KEEP_ROWS, Int32GetDatum(0));
	sabot_submission_set(s, P_KIND, CStringGetTextDatum("job"));
}

/*
 * sabot_submission_check_name - raise 22001 for a name that is too long; NULL
 * is none
 */
void
sabot_submission_check_name(const char *name)
{
	if (name && strlen(name) > MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("name of a job is longer than %d bytes", MAX_NAME_BYTES)));
}

/*
 * check_channel - raise 22023 for what can be no channel to notify
 */
static void
check_channel(const char *channel)
{
	if (channel[0] == '\0' || strlen(channel) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid channel name: \"%s\"", channel)));
}

/*
 * check_priority - raise 22023 for a priority that is out of range
 */
static void
check_priority(int32 priority)
{
	if (priority < SABOT_MIN_PRIORITY || priority > SABOT_MAX_PRIORITY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("priority %d is out of range", priority),
				 errdetail("Priorities go from %d to %d.",
						   SABOT_MIN_PRIORITY, SABOT_MAX_PRIORITY)));
}

/*
 * sabot_submission_identity - name, queue and priority, arguments name to priority
 */
void
sabot_submission_identity(SabotSubmission *s, FunctionCallInfo fcinfo, int name, int queue,
						  int priority)
{
	sabot_submission_set_arg(s, P_NAME, fcinfo, name);
	if (!PG_ARGISNULL(name))
		sabot_submission_check_name(text_to_cstring(PG_GETARG_TEXT_PP(name)));

	if (PG_ARGISNULL(queue))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("queue must not be null")));
	s->queue = text_to_cstring(PG_GETARG_TEXT_PP(queue));
	sabot_check_queue_name(s->queue);
	if (sabot_queue_crew(s->queue) != SABOT_AGENTS)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("queue \"%s\" is reserved for LLM jobs", s->queue),
				 errhint("Choose another queue, or use sabot.submit_llm_job().")));
	sabot_submission_set_arg(s, P_QUEUE, fcinfo, queue);

	s->priority = required_int(fcinfo, priority, "priority");
	check_priority(s->priority);
	sabot_submission_set_arg(s, P_PRIORITY, fcinfo, priority);
}

/*
 * sabot_submission_state - the state the new rows begin in
 */
void
sabot_submission_state(SabotSubmission *s, SabotJobState state)
{
	s->state = state;
	sabot_submission_set(s, P_STATE,
						 CStringGetTextDatum(sabot_state_label(state)));
}

/*
 * sabot_submission_run_after - when the job may start
 */
void
sabot_submission_run_after(SabotSubmission *s, FunctionCallInfo fcinfo, int run_after)
{
	sabot_submission_set_arg(s, P_RUN_AFTER, fcinfo, run_after);
	if (!PG_ARGISNULL(run_after) &&
		PG_GETARG_TIMESTAMPTZ(run_after) > s->submitted_at)
		s->run_after = PG_GETARG_TIMESTAMPTZ(run_after);
	sabot_submission_state(s, s->run_after ? SABOT_JOB_SCHEDULED :
						   SABOT_JOB_QUEUED);
}

/*
 * sabot_submission_timeout - how long it may take; raises 22023 if below 1 ms
 */
void
sabot_submission_timeout(SabotSubmission *s, FunctionCallInfo fcinfo,
						 int timeout)
{
	check_interval(fcinfo, timeout, "timeout", 1);
	sabot_submission_set_arg(s, P_TIMEOUT, fcinfo, timeout);
}

/*
 * sabot_submission_attempts - attempts, the delay between them and the timeout
 * of each
 */
void
sabot_submission_attempts(SabotSubmission *s, FunctionCallInfo fcinfo, int max_attempts,
						  int retry_delay, int timeout)
{
	if (required_int(fcinfo, max_attempts, "max_attempts") < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_attempts must be at least 1")));
	sabot_submission_set_arg(s, P_MAX_ATTEMPTS, fcinfo, max_attempts);
	check_interval(fcinfo, retry_delay, "retry_delay", 0);
	sabot_submission_set_arg(s, P_RETRY_DELAY, fcinfo, retry_delay);
	sabot_submission_timeout(s, fcinfo, timeout);
}

/*
 * sabot_submission_channel - the channel to notify, if there is one
 */
void
sabot_submission_channel(SabotSubmission *s, FunctionCallInfo fcinfo,
						 int notify)
{
	if (!PG_ARGISNULL(notify))
		check_channel(text_to_cstring(PG_GETARG_TEXT_PP(notify)));
	sabot_submission_set_arg(s, P_NOTIFY, fcinfo, notify);
}

/*
 * sabot_submission_results - rows to keep, and the channel to notify
 */
void
sabot_submission_results(SabotSubmission *s, FunctionCallInfo fcinfo, int keep_rows, int notify)
{
	if (required_int(fcinfo, keep_rows, "keep_rows") < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_rows must not be negative")));
	sabot_submission_set_arg(s, P_KEEP_ROWS, fcinfo, keep_rows);
	sabot_submission_channel(s, fcinfo, notify);
}

/*
 * sabot_submission_point - error callback: a position is one in the command that
 * is submitted (arg), not in the statement that submits it
 */
void
sabot_submission_point(void *arg)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((char *) arg);
}

/*
 * sabot_submission_check_syntax - raise a command's syntax error if it has
 * one, and what sabot_job_check_statements() raises
 */
void
sabot_submission_check_syntax(char *command)
{
	ErrorContextCallback callback;

	callback.callback = sabot_submission_point;
	callback.arg = command;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sabot_job_check_statements(command, sabot_job_parse(command));
	error_context_stack = callback.previous;
}

/*
 * sabot_submission_require_array - raise 22023 unless a jsonb value is an array
 */
void
sabot_submission_require_array(Jsonb *params, const char *what)
{
	if (JB_ROOT_IS_SCALAR(params) || !JB_ROOT_IS_ARRAY(params))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON array", what),
				 strcmp(what, "params") == 0 ?
				 errhint("Give one element for each of $1, $2 and so on.") : 0));
}

/*
 * sabot_submission_check_command - raise what is wrong with a command and its
 * params, which are NULL if there are none
 */
void
sabot_submission_check_command(char *command, Jsonb *params)
{
	sabot_submission_check_syntax(command);
	if (params)
		sabot_submission_require_array(params, "params");
	sabot_params_check(sabot_params_highest(command), params);
}

/*
 * sabot_job_submit - insert a job of the room above; returns its id
 *
 * Raises what submit_job() raises for the same values, for a role that no
 * worker can be, and without preload.
 */
int64
sabot_job_submit(const SabotNewJob *job, const char *function)
{
	SabotSubmission s;
	int64		job_id;

	sabot_submission_begin(&s, function);
	sabot_submission_check_name(job->name);
	check_priority(job->priority);
	s.queue = pstrdup(job->queue);
	s.priority = job->priority;
	if (job->run_after > s.submitted_at)
		s.run_after = job->run_after;
	if (job->name)
		sabot_submission_set(&s, P_NAME, CStringGetTextDatum(job->name));
	sabot_submission_set(&s, P_QUEUE, CStringGetTextDatum(job->queue));
	sabot_submission_set(&s, P_PRIORITY, Int32GetDatum(job->priority));
	sabot_submission_set(&s, P_MAX_ATTEMPTS, Int32GetDatum(1));
	if (job->run_after != 0)
		sabot_submission_set(&s, P_RUN_AFTER, TimestampTzGetDatum(job->run_after));
	if (job->notify)
		check_channel(job->notify);
	if (job->notify)
		sabot_submission_set(&s, P_NOTIFY, CStringGetTextDatum(job->notify));
	sabot_submission_set(&s, P_COMMAND, CStringGetTextDatum(job->command));
	sabot_submission_set(&s, P_KIND, CStringGetTextDatum(job->kind));
	s.state = s.run_after ? SABOT_JOB_SCHEDULED : SABOT_JOB_QUEUED;
	if (job->depends_on)
		sabot_submission_depends_on(&s, job->depends_on);
	job_id = sabot_submission_insert(&s);
	sabot_submission_link(&s, &job_id, 1);
	return job_id;
}
