/*-------------------------------------------------------------------------
 *
 * job_depend_submit.c
 *		depends_on: submitting jobs that wait for jobs.
 *
 * The jobs that are named must be the submitter's own, which is checked once,
 * here; they may be finished or of this transaction.  Whether they end between
 * now and the commit is seen to at the commit (job_depend.c).
 *
 * IDENTIFICATION
 *		src/jobs/job_depend_submit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "guc.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

/*
 * unique_ids - the ids of a bigint[] in ascending order, each once
 *
 * Raises 22004 for NULLs, 22023 for more than one dimension, and 54000 if there
 * are too many.
 */
static int
unique_ids(ArrayType *array, int64 **ids)
{
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	int			kept = 0;

	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("depends_on must not contain nulls")));
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("depends_on must be a one-dimensional array")));
	if (n > sabot_graph_max_tasks)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("depends_on names %d jobs, more than %d", n,
						sabot_graph_max_tasks),
				 errhint("Raise sabot.graph_max_tasks, or depend on a job that waits for a part of them.")));
	*ids = palloc(sizeof(int64) * Max(n, 1));
	memcpy(*ids, ARR_DATA_PTR(array), sizeof(int64) * n);
	qsort(*ids, n, sizeof(int64), sabot_compare_job_ids);
	for (int i = 0; i < n; i++)
		if (kept == 0 || (*ids)[kept - 1] != (*ids)[i])
			(*ids)[kept++] = (*ids)[i];
	return kept;
}

/*
 * note_dependency - note what it means to depend on a job
 */
static void
note_dependency(SabotSubmission *s, int64 job_id)
{
	SabotFoundJob found = sabot_job_of_caller(job_id);

	sabot_job_refuse_copied(job_id, &found);
	if (found.is_schedule)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is a schedule, which never completes",
						job_id),
				 errhint("Depend on one of its runs, which are in sabot.job_task.")));
	if (found.open && found.captures)
		ereport(NOTICE,
				(found.is_stream ?
				 errmsg("job " INT64_FORMAT " is a stream, which never completes",
						job_id) :
				 errmsg("job " INT64_FORMAT " follows a table, and never completes",
						job_id),
				 errdetail("What depends on it is skipped when it is canceled or fails.")));
	if (found.open)
		s->blockers[s->nblockers++] = job_id;
	else if (strcmp(found.state, "completed") != 0 && s->skip_reason == NULL)
		s->skip_reason = psprintf("job " INT64_FORMAT " %s%s", job_id,
								  strcmp(found.state, "failed") == 0 ? "" : "was ",
								  found.state);
}

/*
 * sabot_submission_depends_on - the jobs, a bigint[], that the new ones wait
 * for
 *
 * Raises 42704 for one that the caller has not got, 55000 for a copied one and
 * for a schedule, and what unique_ids() raises.
 */
void
sabot_submission_depends_on(SabotSubmission *s, ArrayType *jobs)
{
	int64	   *ids;
	int			n = unique_ids(jobs, &ids);

	if (n == 0)
		return;
	/* What this very statement has submitted counts, too. */
	CommandCounterIncrement();
	s->blockers = palloc(sizeof(int64) * n);
	for (int i = 0; i < n; i++)
		note_dependency(s, ids[i]);
	sabot_submission_set(s, P_DEPENDS_ON, sabot_job_ids(ids, n));
	if (s->nblockers > 0 || s->skip_reason != NULL)
		sabot_submission_state(s, SABOT_JOB_BLOCKED);
}

/*
 * skip_new - end a new job that is not to run
 */
static void
skip_new(const SabotSubmission *s, int64 job_id)
{
	SabotEnd	end = {.state = SABOT_JOB_SKIPPED,.reason = s->skip_reason};
	SabotJob   *job;

	PushActiveSnapshot(GetLatestSnapshot());
	job = sabot_job_read(job_id);
	if (job != NULL)
		(void) sabot_job_move(job, &end);
	PopActiveSnapshot();
}

/*
 * sabot_submission_link - have new jobs wait for what they depend on
 *
 * Or skip them, if that cannot complete anymore.
 */
void
sabot_submission_link(SabotSubmission *s, const int64 *ids, int n)
{
	Oid			types[] = {INT8ARRAYOID, INT8ARRAYOID, INT8OID};
	Datum		values[3];
	SabotOwn	own;

	if (n == 0 || (s->nblockers == 0 && s->skip_reason == NULL))
		return;
	CommandCounterIncrement();
	if (s->skip_reason != NULL)
	{
		for (int i = 0; i < n; i++)
			skip_new(s, ids[i]);
		return;
	}
	values[0] = sabot_job_ids(s->blockers, s->nblockers);
	values[1] = sabot_job_ids(ids, n);
	values[2] = Int64GetDatum(s->blockers[s->nblockers - 1]);
	SPI_connect();
	sabot_own_begin(&own);
	sabot_spi("INSERT INTO sabot.job_dependency SELECT d, j, false, $3"
			  " FROM unnest($1) AS d, unnest($2) AS j",
			  3, types, values, NULL, 0);
	sabot_own_end(&own);
	SPI_finish();
	for (int i = 0; i < n; i++)
		sabot_pending_settle(ids[i]);
}
