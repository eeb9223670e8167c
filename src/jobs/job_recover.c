/*-------------------------------------------------------------------------
 *
 * job_recover.c
 *		A prober's look at the jobs of its database.
 *
 * Puts right what nobody else can: jobs whose agent was lost, jobs whose
 * owner no agent can be (the role is gone, may not log in or not connect),
 * jobs of pairs whose agents cannot start for any other reason.  And tells
 * the pool which roles have work here.  All of it can be done again without
 * harm, so a prober that dies is simply replaced.
 *
 * IDENTIFICATION
 *		src/jobs/job_recover.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/jobs.h"

/* Pairs that are looked at; the pool has no more. */
#define MAX_PAIRS	4096

/*
 * A schedule whose role no agent can be is tried again no sooner than after
 * this, in ms, however often it is due.
 */
#define SCHEDULE_RETRY_MS 2000

static MemoryContext probe_context = NULL;

/*
 * sabot_jobs_probing - whether this process is a prober, which waits for no
 * user's lock: the jobs of all others would wait with it
 */
bool
sabot_jobs_probing(void)
{
	return probe_context != NULL;
}

/*
 * sabot_probe_go_on - report the error of one job, and go on with the others
 *
 * In a prober, from a PG_CATCH block.
 */
void
sabot_probe_go_on(void)
{
	EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(probe_context);
}

/*
 * recover_orphans - deal with the jobs of agents that were lost here
 *
 * One that makes trouble does not keep the others from it; returns false if
 * there was one.
 */
static bool
recover_orphans(void)
{
	SabotOrphan *orphans;
	int			n = sabot_orphan_copy(&orphans);
	volatile bool ok = true;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		PG_TRY();
		{
			(void) sabot_job_lost(&orphans[i]);
			sabot_orphan_done(&orphans[i]);
		}
		PG_CATCH();
		{
			sabot_probe_go_on();
			ok = false;
		}
		PG_END_TRY();
	}
	return ok;
}

/*
 * read_signals - the jobs there are requests to, in probe_context; returns how
 * many
 *
 * Requests to jobs that have ended are deleted.
 */
static int
read_signals(int64 **ids)
{
	SabotOwn	own;
	int			n;

	sabot_own_start_transaction(&own);
	sabot_spi("DELETE FROM sabot.job_signal WHERE job_id IN"
			  " (SELECT s.job_id FROM sabot.job_signal s WHERE NOT EXISTS"
			  "  (SELECT FROM sabot.job j WHERE j.job_id = s.job_id)"
			  "  FOR UPDATE SKIP LOCKED)",
			  0, NULL, NULL, NULL, 0);
	n = sabot_spi("SELECT s.job_id FROM sabot.job_signal s",
				  0, NULL, NULL, NULL, 0);
	*ids = MemoryContextAlloc(probe_context, sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		(*ids)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1, &isnull));
	}
	sabot_own_commit_transaction(&own);
	return n;
}

/*
 * recover_signals - apply requests to jobs that do not run (anymore)
 *
 * Their session or the server may have ended between commit and signal.  One
 * that makes trouble does not keep the others from it, as in
 * recover_orphans().
 */
static bool
recover_signals(void)
{
	int64	   *ids;
	int			n = read_signals(&ids);
	volatile bool ok = true;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		PG_TRY();
		{
			(void) sabot_job_obey_signal(ids[i]);
		}
		PG_CATCH();
		{
			sabot_probe_go_on();
			ok = false;
		}
		PG_END_TRY();
	}
	return ok;
}

/*
 * open_owners - roles with open jobs for agents here
 *
 * A loose index scan over each of the two indexes.  The list of OIDs and the
 * array of times are in probe_context.
 */
static List *
open_owners(void)
{
	Oid			types[] = {INT8OID};
	Datum		values[1];
	SabotOwn	own;
	List	   *owners = NIL;
	int			n;

	sabot_own_start_transaction(&own);
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	values[0] = Int64GetDatum(sabot_catalog(false)->home);
	n = sabot_spi("WITH RECURSIVE q AS ("
				  "(SELECT owner FROM sabot.job WHERE state = 'queued' ORDER BY owner LIMIT 1)"
				  " UNION ALL"
				  " SELECT (SELECT j.owner FROM sabot.job j WHERE j.state = 'queued'"
				  " AND j.owner > q.owner ORDER BY j.owner LIMIT 1)"
				  " FROM q WHERE q.owner IS NOT NULL), s AS ("
				  "(SELECT owner FROM sabot.job WHERE state = 'scheduled' ORDER BY owner LIMIT 1)"
				  " UNION ALL"
				  " SELECT (SELECT j.owner FROM sabot.job j WHERE j.state = 'scheduled'"
				  " AND j.owner > s.owner ORDER BY j.owner LIMIT 1)"
				  " FROM s WHERE s.owner IS NOT NULL)"
				  " SELECT o.owner FROM (SELECT owner FROM q UNION SELECT owner FROM s) o"
				  " WHERE o.owner IS NOT NULL AND ("
				  " EXISTS (SELECT FROM sabot.job j WHERE j.owner = o.owner AND j.home = $1"
				  " AND j.queue <> '" SABOT_LLM_QUEUE "' AND j.state = 'queued') OR"
				  " EXISTS (SELECT FROM sabot.job j WHERE j.owner = o.owner AND j.home = $1"
				  " AND j.queue <> '" SABOT_LLM_QUEUE "' AND j.state = 'scheduled'))",
				  1, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(probe_context);
		bool		isnull;

		owners = lappend_oid(owners,
							 DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
															SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	sabot_own_commit_transaction(&own);
	return owners;
}

/*
 * why_no_agent - why no agent can be a role here, or NULL
 *
 * Inside a transaction.
 */
static const char *
why_no_agent(Oid roleid)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(roleid));
	bool		can_login;

	if (!HeapTupleIsValid(tuple))
		return "the job's owner was dropped";
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (SABOT_NEEDS_LOGIN && !can_login)
		return "the job's owner is not permitted to log in";
	if (!superuser_arg(roleid) &&
		object_aclcheck(DatabaseRelationId, MyDatabaseId, roleid,
						ACL_CONNECT) != ACLCHECK_OK)
		return "the job's owner may not connect to the database";
	return NULL;
}

/*
 * fail_some - fail up to 1000 open jobs of a role that wait for a crew
 *
 * Schedules only if the role is gone for good.  Returns how many there were.
 */
static int
fail_some(Oid owner, SabotCrew crew, bool is_gone, const char *sqlstate,
		  const char *message, const char *hint)
{
	Oid			types[] = {OIDOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID};
	Datum		values[] = {ObjectIdGetDatum(owner), 0,
		CStringGetTextDatum(sqlstate), CStringGetTextDatum(message),
		CStringGetTextDatum(hint),
	BoolGetDatum(crew == SABOT_LLM_WORKERS), BoolGetDatum(is_gone)};
	SabotOwn	own;
	ErrorData	error = {.message = unconstify(char *, message)};
	SabotEnd	end = {.state = SABOT_JOB_FAILED,.error = &error};
	SPITupleTable *rows;
	int64	   *ids;
	int			n;

	error.sqlerrcode = MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2],
									 sqlstate[3], sqlstate[4]);
	sabot_own_start_transaction(&own);
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
	n = sabot_spi("WITH d AS (DELETE FROM sabot.job WHERE job_id IN"
				  " (SELECT j.job_id FROM sabot.job j WHERE j.owner = $1 AND j.home = $2"
				  " AND (j.queue = '" SABOT_LLM_QUEUE "') = $6"
				  " AND j.kind <> 'graph' AND (j.kind <> 'schedule' OR $7)"
				  " AND NOT EXISTS (SELECT FROM sabot.stream s WHERE s.job_id = j.job_id)"
				  " AND NOT (j.kind = 'spread' AND EXISTS (SELECT FROM sabot.job_spread s"
				  " WHERE s.job_id = j.job_id AND s.key_columns IS NOT NULL))"
				  " AND (j.state = 'queued' OR (j.state = 'scheduled' AND j.run_after <= clock_timestamp()))"
				  " LIMIT 1000 FOR UPDATE SKIP LOCKED) RETURNING *)"
				  " INSERT INTO sabot.job_history (job_id, parent_id, kind, name, owner, owner_name,"
				  " home, queue, priority, state, attempt, max_attempts, losses, free_retries, atomic,"
				  " asked_atomic, keep_rows, submitted_at, run_after, retry_delay, timeout, command, params, settings,"
				  " dedup_key, notify, depends_on, on_failure, started_at, sqlstate, error, error_hint,"
				  " finished_at)"
				  " SELECT job_id, parent_id, kind, name, owner, owner_name,"
				  " home, queue, priority, 'failed', attempt, max_attempts, losses, free_retries, atomic,"
				  " asked_atomic, keep_rows, submitted_at, run_after, retry_delay, timeout, command, params, settings,"
				  " dedup_key, notify, depends_on, on_failure, started_at, $3, $4, $5,"
				  " clock_timestamp() FROM d RETURNING job_id, name, notify, parent_id, on_failure, kind",
				  7, types, values, NULL, 0);
	rows = SPI_tuptable;
	ids = MemoryContextAlloc(probe_context, sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		SabotJob	job = {0};
		bool		isnull;

		job.job_id = DatumGetInt64(SPI_getbinval(rows->vals[i], rows->tupdesc,
												 1, &isnull));
		job.name = SPI_getvalue(rows->vals[i], rows->tupdesc, 2);
		job.notify = SPI_getvalue(rows->vals[i], rows->tupdesc, 3);
		job.parent_id = DatumGetInt64(SPI_getbinval(rows->vals[i],
													rows->tupdesc, 4, &isnull));
		if (isnull)
			job.parent_id = 0;
		job.on_failure = SPI_getvalue(rows->vals[i], rows->tupdesc, 5);
		sabot_job_set_kind(&job, SPI_getbinval(rows->vals[i], rows->tupdesc,
											   6, &isnull));
		sabot_job_notify(&job, SABOT_JOB_FAILED);
		(void) sabot_depend_ended(&job, &end);
		ids[i] = job.job_id;
	}
	sabot_count_finished(SABOT_JOB_FAILED, n);
	sabot_own_commit_transaction(&own);
	for (int i = 0; i < n; i++)
		sabot_wait_wakeup(ids[i]);
	return n;
}

/*
 * see_to_all - see to the graphs, schedules or jobs with pieces of a role that
 * wait for an agent, of which there will be none
 */
static void
see_to_all(Oid owner, const char *kind)
{
	Oid			types[] = {OIDOID, INT8OID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), 0, CStringGetTextDatum(kind)};
	List	   *jobs = NIL;
	SabotOwn	own;
	ListCell   *lc;
	int			n;

	sabot_own_start_transaction(&own);
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
	n = sabot_spi("SELECT job_id FROM sabot.job WHERE owner = $1 AND home = $2"
				  " AND kind = $3 AND (kind <> 'spread' OR EXISTS (SELECT FROM sabot.job_spread s"
				  " WHERE s.job_id = job.job_id AND s.key_columns IS NOT NULL)) AND (state = 'queued'"
				  " OR (state = 'scheduled' AND run_after <= clock_timestamp()))",
				  3, types, values, NULL, 0);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
														 SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(probe_context);
		SabotJob   *job = sabot_job_read(job_id);

		if (job != NULL)
			jobs = lappend(jobs, job);
		MemoryContextSwitchTo(old);
	}
	sabot_own_commit_transaction(&own);
	foreach(lc, jobs)
	{
		const SabotJob *job = lfirst(lc);

		if (job->is_graph)
			sabot_graph_run(job);
		else
			sabot_schedule_run(job);
	}
}

/*
 * role_exists - whether there is a role
 *
 * In no transaction.
 */
static bool
role_exists(Oid roleid)
{
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(roleid));
	CommitTransactionCommand();
	return exists;
}

/*
 * fail_all - fail all open jobs of a role that wait for a crew
 *
 * Until none has come while we looked for them: nobody else would.  A schedule
 * goes on, unless its role is gone: it begins its run, which fails.
 */
static void
fail_all(SabotPairKey key, int sqlstate, const char *message,
		 const char *hint)
{
	bool		is_gone = !role_exists(key.roleid);
	uint64		wake_seq;

	if (!is_gone && key.crew == SABOT_AGENTS)
		see_to_all(key.roleid, "schedule");
	do
	{
		wake_seq = sabot_pool_wake_seq(key);
		while (fail_some(key.roleid, key.crew, is_gone,
						 unpack_sql_state(sqlstate), message, hint) > 0)
			CHECK_FOR_INTERRUPTS();
		if (key.crew == SABOT_AGENTS)
		{
			see_to_all(key.roleid, "graph");
			see_to_all(key.roleid, "spread");
		}
		CHECK_FOR_INTERRUPTS();
	} while (!sabot_pool_forgive_pair(key, wake_seq));
}

/*
 * put_off_schedules - have schedules of a role that are due again wait like
 * those that are not
 */
static void
put_off_schedules(Oid owner)
{
	Oid			types[] = {OIDOID, INT8OID};
	Datum		values[2];
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	values[0] = ObjectIdGetDatum(owner);
	values[1] = Int64GetDatum(sabot_catalog(false)->home);
	sabot_spi("UPDATE sabot.job SET state = 'scheduled' WHERE state = 'queued'"
			  " AND owner = $1 AND home = $2 AND run_after IS NOT NULL"
			  " AND kind = 'schedule'",
			  2, types, values, NULL, 0);
	sabot_own_commit_transaction(&own);
}

/*
 * remember_due - have the jobs of a role looked at when the next one is due,
 * or some time from now if one is
 *
 * Those that wait for their time were spared: the reason may be gone by then.
 */
static void
remember_due(Oid owner)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;

	put_off_schedules(owner);
	due = sabot_refill_next_due(owner, DT_NOBEGIN);
	if (due != 0 && due <= now)
		due = TimestampTzPlusMilliseconds(now, SCHEDULE_RETRY_MS);
	if (due != 0 &&
		sabot_pool_prepare_pair(sabot_pair(owner, SABOT_AGENTS), false))
		sabot_pool_wake(sabot_pair(owner, SABOT_AGENTS), 0, due);
}

/*
 * sabot_jobs_probe_owner - have the open jobs of a role that wait for a crew
 * run, or fail them
 *
 * In a prober, in no transaction.
 */
void
sabot_jobs_probe_owner(Oid owner, SabotCrew crew)
{
	SabotPairKey key = sabot_pair(owner, crew);
	SabotPair	pair;
	const char *why;
	bool		known = sabot_pool_get_pair(key, &pair);

	StartTransactionCommand();
	why = why_no_agent(owner);
	CommitTransactionCommand();

	if (why != NULL)
		fail_all(key, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, why,
				 "Submit the job again as a role that may connect.");
	else if (known && pair.give_up)
		fail_all(key, pair.sqlstate ? pair.sqlstate :
				 ERRCODE_CONNECTION_FAILURE,
				 psprintf("agents cannot start: %s", pair.error),
				 "The server log says more. Use sabot.retry_job() when the cause is gone.");
	else
	{
		/* "Due now" has agents look, beside whatever else they have to do. */
		if (crew == SABOT_AGENTS)
			sabot_scan_request(MyDatabaseId, owner);
		(void) sabot_pool_prepare_pair(key, false);
		sabot_pool_wake(key, 1, GetCurrentTimestamp());
		return;
	}
	if (crew == SABOT_AGENTS)
		remember_due(owner);
}

/*
 * forgive_pairs - forget that agents of pairs without open jobs failed
 *
 * pairs are the n pairs there were before the owners of jobs were looked for.
 */
static void
forgive_pairs(const SabotPair *pairs, int n, List *owners)
{
	for (int i = 0; i < n; i++)
		if (pairs[i].key.dbid == MyDatabaseId && pairs[i].failures > 0 &&
			pairs[i].key.crew == SABOT_AGENTS &&
			!list_member_oid(owners, pairs[i].key.roleid))
			(void) sabot_pool_forgive_pair(pairs[i].key, pairs[i].wake_seq);
}

/*
 * sabot_jobs_probe - everything a prober does in its database
 */
void
sabot_jobs_probe(void)
{
	List	   *owners = NIL;
	ListCell   *lc;
	bool		exists;
	SabotPair  *pairs;
	int			npairs;
	bool		ok = true;

	probe_context = AllocSetContextCreate(TopMemoryContext, "sabot probe",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(probe_context);
	pairs = palloc(sizeof(SabotPair) * MAX_PAIRS);
	npairs = sabot_pool_copy_pairs(pairs, MAX_PAIRS);
	StartTransactionCommand();
	exists = sabot_catalog(true) != NULL;
	CommitTransactionCommand();
	if (exists)
	{
		sabot_prober_read_keep_agents();
		sabot_queue_load();
		ok = recover_orphans();
		ok = recover_signals() && ok;
		sabot_spread_refill();
		owners = list_concat_unique_oid(open_owners(),
										sabot_stream_probe(probe_context));
		foreach(lc, owners)
			sabot_jobs_probe_owner(lfirst_oid(lc), SABOT_AGENTS);
		sabot_purge_if_due();
	}
	forgive_pairs(pairs, npairs, owners);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not recover all jobs whose agents were lost or did not hear of a request")));
}
