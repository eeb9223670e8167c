/*-------------------------------------------------------------------------
 *
 * job_schedule_submit.c
 *		Submitting schedules, and replacing them by name.
 *
 * A schedule that is submitted again under its name keeps its id, its runs
 * and its counts: scripts that set things up can be run again, and whoever
 * looks at the job finds all of it in one place.  Its row is changed when the
 * submitter commits and not before, so that the end of a run, which needs the
 * row too, waits for no longer than the rest of a commit.
 *
 * IDENTIFICATION
 *		src/jobs/job_schedule_submit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "jobs/job_columns.h"
#include "jobs/job_cron.h"
#include "jobs/job_row.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

/* What a schedule is to become when its transaction commits. */
typedef struct Replacement
{
	HeapTuple	row;			/* as of a new one */
	text	   *schedule;
	Jsonb	   *graph;			/* or NULL */
	SabotSpreadOrder *order;	/* or NULL */
	TimestampTz first_due;
	bool		has_first_due;	/* it was asked for */
} Replacement;

/*
 * refuse_with - raise 22023 for an option that makes no sense with a schedule
 */
static void
refuse_with(const SabotSubmission *s, SabotSubmitParam p, const char *name,
			const char *hint)
{
	if (s->nulls[p] == ' ')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" cannot be combined with \"schedule\"", name),
				 errhint("%s", hint)));
}

/*
 * first_due_of - the time that due times are counted from, or not before
 *
 * Raises 22023 if it is infinite.
 */
static TimestampTz
first_due_of(const SabotSubmission *s)
{
	TimestampTz result = s->submitted_at;

	if (s->nulls[P_RUN_AFTER] == ' ')
		result = DatumGetTimestampTz(s->values[P_RUN_AFTER]);
	if (TIMESTAMP_NOT_FINITE(result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("run_after of a schedule must be finite")));
	return result;
}

/*
 * set_first_due - have a submission wait until it is due first
 *
 * Raises 22023 for a schedule that is never due.
 */
static void
set_first_due(SabotSubmission *s, text *schedule, TimestampTz first_due)
{
	SabotDue	due;
	TimestampTz next;

	sabot_due_parse(text_to_cstring(schedule), &due);
	next = sabot_due_next(&due, first_due, s->submitted_at - 1,
						  sabot_due_zone());
	if (next == DT_NOEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schedule \"%s\" is never due",
						text_to_cstring(schedule)),
				 errhint("See whether its months have the days that it names.")));
	s->run_after = next > s->submitted_at ? next : 0;
	sabot_submission_set(s, P_RUN_AFTER, TimestampTzGetDatum(next));
	sabot_submission_state(s, s->run_after != 0 ? SABOT_JOB_SCHEDULED :
						   SABOT_JOB_QUEUED);
}

/*
 * find_named - the open schedule of an owner with a name, or 0
 *
 * From now on until our transaction ends nobody else makes one.
 */
static int64
find_named(Oid owner, const char *name)
{
	const SabotCatalog *cat = sabot_catalog(false);
	uint64		hash = hash_bytes_extended((const unsigned char *) name,
										   strlen(name), owner);
	Oid			types[] = {OIDOID, INT8OID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), Int64GetDatum(cat->home),
	CStringGetTextDatum(name)};
	SabotOwn	own;
	int64		job_id = 0;
	bool		isnull;

	LockDatabaseObject(cat->job, (Oid) hash, (uint16) (hash >> 32),
					   ExclusiveLock);
	SPI_connect();
	sabot_own_begin(&own);
	/* From the schedules to the jobs, which may be many more. */
	if (sabot_spi_latest("SELECT s.job_id FROM sabot.job_schedule s,"
						 " LATERAL (SELECT * FROM sabot.job j WHERE j.job_id = s.job_id OFFSET 0) j"
						 " WHERE j.owner = $1 AND j.home = $2 AND j.name = $3"
						 " ORDER BY 1 DESC LIMIT 1",
						 3, types, values) > 0)
		job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull));
	sabot_own_end(&own);
	SPI_finish();
	return job_id;
}

/*
 * insert_schedule - insert what sabot.job has no column for
 */
static void
insert_schedule(int64 job_id, text *schedule, TimestampTz first_due,
				Jsonb *graph, SabotSpreadOrder *order)
{
	Oid			types[] = {INT8OID, TEXTOID, TIMESTAMPTZOID, JSONBOID};
	Datum		values[] = {Int64GetDatum(job_id), PointerGetDatum(schedule),
	TimestampTzGetDatum(first_due), JsonbPGetDatum(graph)};
	SabotOwn	own;

	SPI_connect();
	sabot_own_begin(&own);
	sabot_spi("INSERT INTO sabot.job_schedule (job_id, schedule, first_due, graph)"
			  " VALUES ($1, $2, $3, $4)",
			  4, types, values, graph == NULL ? "   n" : NULL, 0);
	if (order != NULL)
		sabot_spread_write_order(job_id, order);
	sabot_own_end(&own);
	SPI_finish();
}

/*
 * keeps_due - whether a schedule's due times stay as they are when it is
 * replaced: the same schedule, of which nothing else was asked
 */
static bool
keeps_due(int64 job_id, const Replacement *r)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job_id), PointerGetDatum(r->schedule)};

	return !r->has_first_due &&
		sabot_spi_latest("SELECT FROM sabot.job_schedule"
						 " WHERE job_id = $1 AND schedule = $2",
						 2, types, values) > 0;
}

/*
 * update_schedule - the same for sabot.job_schedule
 *
 * first_due is 0 if it stays as it is.  Whoever changes it has the schedule's
 * row of sabot.job locked.
 */
static void
update_schedule(int64 job_id, const Replacement *r, TimestampTz first_due)
{
	Oid			types[] = {INT8OID, TEXTOID, TIMESTAMPTZOID, JSONBOID};
	Datum		values[] = {Int64GetDatum(job_id), PointerGetDatum(r->schedule),
	TimestampTzGetDatum(first_due), JsonbPGetDatum(r->graph)};
	char		nulls[] = "    ";

	nulls[2] = first_due == 0 ? 'n' : ' ';
	nulls[3] = r->graph == NULL ? 'n' : ' ';
	sabot_spi_change_latest("UPDATE sabot.job_schedule SET schedule = $2,"
							" first_due = coalesce($3, first_due), graph = $4"
							" WHERE job_id = $1",
							4, types, values, nulls);
	sabot_spread_write_order(job_id, r->order);
}

/*
 * replace_row - put what a replacement says into a schedule's row, which is
 * locked
 *
 * What is paused stays so, and what waits for its run.
 */
static void
replace_row(Relation rel, HeapTuple tuple, const Replacement *r, bool keep_due)
{
	static const int kept[] = {
		JOB_ID, JOB_PARENT_ID, JOB_KIND, JOB_NAME, JOB_OWNER, JOB_OWNER_NAME,
		JOB_HOME, JOB_REASON
	};
	const Oid  *states = sabot_catalog(false)->states;
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		old[JOB_NCOLUMNS];
	bool		old_null[JOB_NCOLUMNS];
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	SabotRowWriter *writer;
	Oid			state;
	TimestampTz due;

	heap_deform_tuple(tuple, desc, old, old_null);
	heap_deform_tuple(r->row, desc, v, isnull);
	for (int i = 0; i < lengthof(kept); i++)
	{
		v[kept[i]] = old[kept[i]];
		isnull[kept[i]] = old_null[kept[i]];
	}
	if (keep_due && !old_null[JOB_RUN_AFTER])
		v[JOB_RUN_AFTER] = old[JOB_RUN_AFTER];
	due = DatumGetTimestampTz(v[JOB_RUN_AFTER]);
	due = due > GetCurrentTimestamp() ? due : 0;
	state = DatumGetObjectId(old[JOB_STATE]);
	if (state != states[SABOT_JOB_PAUSED] && state != states[SABOT_JOB_BLOCKED])
	{
		state = states[due != 0 ? SABOT_JOB_SCHEDULED : SABOT_JOB_QUEUED];
		sabot_pending_submit(DatumGetInt64(v[JOB_ID]),
							 DatumGetInt32(v[JOB_PRIORITY]),
							 TextDatumGetCString(v[JOB_QUEUE]),
							 DatumGetObjectId(v[JOB_OWNER]), due, 0);
	}
	v[JOB_STATE] = ObjectIdGetDatum(state);
	writer = sabot_row_writer_open(rel);
	sabot_row_update(writer, tuple, v, isnull);
	sabot_row_writer_close(writer);
}

/*
 * apply_replacement - replace a schedule as the transaction that asks for it
 * commits
 *
 * Raises 40001 if it has ended meanwhile.
 */
static void
apply_replacement(int64 job_id, void *arg)
{
	const Replacement *r = arg;
	SabotOwn	own;
	Relation	rel;
	HeapTuple	tuple;
	bool		keep_due;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	tuple = sabot_row_lock(rel, job_id, LockTupleNoKeyExclusive);
	if (tuple == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("schedule " INT64_FORMAT " has ended while it was being replaced",
						job_id),
				 errhint("Submit it again.")));
	keep_due = keeps_due(job_id, r);
	replace_row(rel, tuple, r, keep_due);
	update_schedule(job_id, r, keep_due ? 0 : r->first_due);
	table_close(rel, NoLock);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * replace_at_commit - replace a schedule when this commits
 */
static void
replace_at_commit(int64 job_id, const SabotSubmission *s, text *schedule,
				  TimestampTz first_due, bool has_first_due, Jsonb *graph,
				  const SabotSpreadOrder *order)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Replacement *r = palloc0(sizeof(Replacement));
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	Datum		values[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];

	sabot_submission_fill(s, values, isnull);
	values[JOB_ID] = Int64GetDatum(job_id);
	isnull[JOB_ID] = false;
	r->row = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	r->schedule = DatumGetTextPCopy(PointerGetDatum(schedule));
	r->graph = graph ? DatumGetJsonbPCopy(JsonbPGetDatum(graph)) : NULL;
	if (order != NULL)
	{
		r->order = palloc(sizeof(SabotSpreadOrder));
		*r->order = *order;
	}
	r->first_due = first_due;
	r->has_first_due = has_first_due;
	table_close(rel, NoLock);
	MemoryContextSwitchTo(old);
	sabot_pending_call(job_id, apply_replacement, r);
}

/*
 * sabot_schedule_submit - submit a schedule, or replace the one with its name;
 * returns its id
 *
 * s tells of its runs; graph are their tasks if they are graphs, order what
 * they are spread over if they are, else NULL.
 * Raises 22023 for a schedule that makes no sense, or never has a run, and for
 * options that cannot be combined with one.
 */
int64
sabot_schedule_submit(SabotSubmission *s, text *schedule, Jsonb *graph,
					  SabotSpreadOrder *order)
{
	bool		has_first_due = s->nulls[P_RUN_AFTER] == ' ';
	TimestampTz first_due = first_due_of(s);
	int64		job_id = 0;

	refuse_with(s, P_DEPENDS_ON, "depends_on",
				"Use sabot.submit_graph() for runs in which one job comes after another.");
	refuse_with(s, P_DEDUP_KEY, "dedup_key",
				"A schedule has one run at a time, and one submitted under the same name replaces it.");
	set_first_due(s, schedule, first_due);
	sabot_submission_set(s, P_KIND, CStringGetTextDatum("schedule"));
	if (graph != NULL)
	{
		sabot_submission_set(s, P_COMMAND, CStringGetTextDatum(""));
		sabot_submission_set(s, P_MAX_ATTEMPTS, Int32GetDatum(1));
	}
	if (s->nulls[P_NAME] == ' ')
		job_id = find_named(DatumGetObjectId(s->values[P_OWNER]),
							TextDatumGetCString(s->values[P_NAME]));
	if (job_id != 0)
	{
		replace_at_commit(job_id, s, schedule, first_due, has_first_due, graph,
						  order);
		ereport(NOTICE,
				(errmsg("schedule \"%s\" exists and is replaced: job " INT64_FORMAT,
						TextDatumGetCString(s->values[P_NAME]), job_id)));
		return job_id;
	}
	job_id = sabot_submission_insert(s);
	insert_schedule(job_id, schedule, first_due, graph, order);
	return job_id;
}

/*
 * refuse_taken_name - raise 23505 if another open schedule has the name of one
 * that has ended
 */
static void
refuse_taken_name(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	char	   *name;
	Oid			owner;
	bool		isnull;
	int64		other;

	if (sabot_spi("SELECT owner, name FROM sabot.job_history WHERE job_id = $1"
				  " AND name IS NOT NULL", 1, types, values, NULL, 1) == 0)
		return;
	owner = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1, &isnull));
	name = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	other = find_named(owner, name);
	if (other != 0 && other != job_id)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("another schedule has the name of job " INT64_FORMAT ": job " INT64_FORMAT,
						job_id, other)));
}

/*
 * sabot_schedule_copied_names - ids, a bigint[], of copied schedules whose
 * owners here have schedules with the same names
 *
 * From now on until our transaction ends nobody makes one with such a name.
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
Datum
sabot_schedule_copied_names(void)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(sabot_catalog(false)->home)};
	int			n = sabot_spi("SELECT j.job_id, r.oid, j.name FROM sabot.job j"
							  " JOIN pg_roles r ON r.rolname = j.owner_name"
							  " WHERE j.home <> $1 AND j.kind = 'schedule' AND j.name IS NOT NULL"
							  " ORDER BY 2, 3",
							  1, types, values, NULL, 0);
	SPITupleTable *rows = SPI_tuptable;
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	int			taken = 0;

	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = rows->vals[i];
		bool		isnull;
		Oid			owner = DatumGetObjectId(SPI_getbinval(row, rows->tupdesc, 2,
														   &isnull));

		ids[taken] = DatumGetInt64(SPI_getbinval(row, rows->tupdesc, 1, &isnull));
		if (find_named(owner, SPI_getvalue(row, rows->tupdesc, 3)) != 0)
			taken++;
	}
	return sabot_job_ids(ids, taken);
}

/*
 * sabot_schedule_requeue - have a schedule that has ended go on, from its next
 * due time
 *
 * Returns false if it is not there as one that has ended.  Takes effect at
 * commit.  Between sabot_own_begin() and sabot_own_end(), SPI connected.
 * Raises 23505 if another open schedule has its name.
 */
bool
sabot_schedule_requeue(int64 job_id)
{
	refuse_taken_name(job_id);
	return sabot_job_requeue(job_id);
}
