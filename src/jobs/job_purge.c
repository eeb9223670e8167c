/*-------------------------------------------------------------------------
 *
 * job_purge.c
 *		Deletes finished jobs when they have been kept long enough.
 *
 * In small steps, each its own transaction, by agents that have nothing else
 * to do and by probers; so there is no process for it, and no long one.
 *
 * IDENTIFICATION
 *		src/jobs/job_purge.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/jobs.h"

/* Time between looks for jobs to purge, in ms, and steps per look. */
#define PURGE_EVERY_MS	60000
#define PURGE_STEPS		10
#define PURGE_STEP_JOBS 1000

/* Who waits for a job, or has it keep rows, is to find it: in min. */
#define KEEP_AT_LEAST	1

PG_FUNCTION_INFO_V1(sabot_purge);

/*
 * purge_step - delete up to 1000 jobs that finished before a time
 *
 * Those of a role and roles it is a member of, or all with InvalidOid.  What
 * finished before *since is left out, and *since moved on: the rows that steps
 * before deleted are still in the way while somebody holds an old snapshot.
 * What has a parent is kept as long as that is, and goes with it; so does what
 * is noted of the jobs that it waited for, be they there or not.  Of the runs of
 * a schedule the former holds for the last one, as it says how that fares, and
 * of the batches of a stream for none.
 * Inside a transaction of sabot's own.  Returns how many.
 */
static int
purge_step(TimestampTz before, TimestampTz *since, Oid role)
{
	Oid			types[] = {TIMESTAMPTZOID, OIDOID, BOOLOID, INT8OID, TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(before),
		ObjectIdGetDatum(role), BoolGetDatum(!OidIsValid(role)),
		Int64GetDatum(sabot_catalog(false)->home),
	TimestampTzGetDatum(*since)};
	Datum		purged;
	bool		isnull;

	sabot_spi("WITH d AS (DELETE FROM sabot.job_history WHERE job_id IN"
			  " (SELECT h.job_id FROM sabot.job_history h WHERE h.finished_at < $1"
			  " AND h.finished_at >= $5"
			  " AND (h.parent_id IS NULL OR h.kind = 'batch' OR NOT EXISTS"
			  "  (SELECT FROM sabot.job p WHERE p.job_id = h.parent_id UNION ALL"
			  "   SELECT FROM sabot.job_history p WHERE p.job_id = h.parent_id)"
			  "  OR (h.kind IN ('run', 'graph', 'spread') AND NOT EXISTS"
			  "   (SELECT FROM sabot.job_schedule s WHERE s.run_id = h.job_id)))"
			  " AND ($3 OR (h.home = $4 AND pg_has_role($2, h.owner, 'USAGE')))"
			  " ORDER BY h.finished_at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
			  " RETURNING job_id, finished_at, depends_on), c AS ("
			  "DELETE FROM sabot.job_history WHERE parent_id IN (SELECT job_id FROM d"
			  " UNION ALL SELECT g.job_id FROM sabot.job_history g"
			  "  WHERE g.kind IN ('graph', 'spread') AND g.parent_id IN (SELECT job_id FROM d))"
			  " RETURNING job_id, depends_on), a AS ("
			  "SELECT job_id FROM d UNION SELECT job_id FROM c), l AS ("
			  "DELETE FROM sabot.job_attempt_log WHERE job_id IN (SELECT job_id FROM a)), w AS ("
			  "DELETE FROM sabot.job_dependency WHERE depends_on IN (SELECT job_id FROM a)), v AS ("
			  "DELETE FROM sabot.job_dependency WHERE (depends_on, job_id) IN"
			  " (SELECT unnest(depends_on), job_id FROM d UNION ALL"
			  "  SELECT unnest(depends_on), job_id FROM c)), u AS ("
			  "DELETE FROM sabot.job_units WHERE job_id IN (SELECT job_id FROM a)), s AS ("
			  "DELETE FROM sabot.job_schedule WHERE job_id IN (SELECT job_id FROM a)), r AS ("
			  "DELETE FROM sabot.job_spread WHERE job_id IN (SELECT job_id FROM a)), p AS ("
			  "DELETE FROM sabot.job_piece WHERE job_id IN (SELECT job_id FROM a)), b AS ("
			  "DELETE FROM sabot.stream WHERE job_id IN (SELECT job_id FROM a)), x AS ("
			  "DELETE FROM sabot.stream_dead_row WHERE job_id IN (SELECT job_id FROM a)), e AS ("
			  "DELETE FROM sabot.stream_event WHERE job_id IN (SELECT job_id FROM a))"
			  " SELECT (SELECT array_agg(job_id) FROM a), max(finished_at) FROM d",
			  5, types, values, NULL, 0);
	purged = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	if (isnull)
		return 0;
	*since = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
											   SPI_tuptable->tupdesc, 2, &isnull));
	if (sabot_job_extra())
		sabot_job_extra()->forget(purged);
	return ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(purged)),
						  ARR_DIMS(DatumGetArrayTypeP(purged)));
}

/*
 * sabot_purge_if_due - purge some jobs older than sabot.keep_jobs, now and
 * then
 *
 * In no transaction.
 */
void
sabot_purge_if_due(void)
{
	static TimestampTz last = 0;
	static TimestampTz since = DT_NOBEGIN;
	TimestampTz now = GetCurrentTimestamp();

	if (sabot_keep_jobs < 0 ||
		!TimestampDifferenceExceeds(last, now, PURGE_EVERY_MS))
		return;
	last = now;
	for (int i = 0; i < PURGE_STEPS; i++)
	{
		TimestampTz before = now - (int64) Max(sabot_keep_jobs, KEEP_AT_LEAST) *
		60 * USECS_PER_SEC;
		SabotOwn	own;
		int			n;

		CHECK_FOR_INTERRUPTS();
		sabot_own_start_transaction(&own);
		n = purge_step(before, &since, InvalidOid);
		sabot_own_commit_transaction(&own);
		if (n < PURGE_STEP_JOBS)
		{
			since = DT_NOBEGIN;
			return;
		}
	}
	last = 0;					/* there is more: go on when idle again */
}

/*
 * SQL: sabot.purge(older_than interval) RETURNS bigint - delete jobs that
 * finished longer ago; returns how many
 *
 * One's own ones, or all if the caller has the rights of the extension's
 * owner.  22023 for a negative interval.
 */
Datum
sabot_purge(PG_FUNCTION_ARGS)
{
	Interval   *older_than = PG_GETARG_INTERVAL_P(0);
	Oid			caller = GetUserId();
	TimestampTz before;
	TimestampTz since = DT_NOBEGIN;
	SabotOwn	own;
	int64		total = 0;
	int			n;

	PreventCommandIfReadOnly("sabot.purge()");
	if (sabot_interval_ms(older_than) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must not be negative")));
	before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
													 TimestampTzGetDatum(GetCurrentTimestamp()),
													 IntervalPGetDatum(older_than)));
	if (has_privs_of_role(caller, sabot_catalog(false)->owner))
		caller = InvalidOid;
	SPI_connect();
	sabot_own_begin(&own);
	do
	{
		CHECK_FOR_INTERRUPTS();
		n = purge_step(before, &since, caller);
		total += n;
	} while (n > 0);
	sabot_own_end(&own);
	SPI_finish();
	PG_RETURN_INT64(total);
}
