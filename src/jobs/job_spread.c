/*-------------------------------------------------------------------------
 *
 * job_spread.c
 *		Jobs that are spread over a table: submitting them, making their pieces.
 *
 * Such a job is run twice, so to say.  The agent that takes it first cuts the
 * table into pieces, and inserts them as children of the job, which waits for
 * them from then on like a graph for its tasks.  A piece is a job like any
 * other: whoever is free takes it, it commits alone, is tried again alone, and
 * its row tells what came of it.  Whatever ends, pauses or repeats a graph does
 * so with a job and its pieces.
 *
 * With a pause between pieces only as many are queued as there are agents; the
 * others are blocked, and the end of each piece schedules the next one
 * (job_spread_end.c).
 *
 * IDENTIFICATION
 *		src/jobs/job_spread.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "guc.h"
#include "jobs/job_row.h"
#include "jobs/job_run.h"
#include "jobs/job_spread.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

/* Arguments of submit_job() */
enum
{
	ARG_OVER = 8,
	ARG_PIECES,
	ARG_PIECE_PAUSE
};

/*
 * check_options - raise 22023, 54000 or 0A000 for options that do not fit
 */
static void
check_options(const SabotSubmission *s, FunctionCallInfo fcinfo)
{
	int			pieces = PG_ARGISNULL(ARG_PIECES) ? 1 : PG_GETARG_INT32(ARG_PIECES);

	if (PG_ARGISNULL(ARG_OVER))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is for jobs that are spread over a table",
						PG_ARGISNULL(ARG_PIECES) ? "piece_pause" : "pieces"),
				 errhint("Name the table in \"over\".")));
	if (pieces < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pieces must be at least 1")));
	if (pieces > sabot_graph_max_tasks)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("job would have %d pieces, more than %d", pieces,
						sabot_graph_max_tasks),
				 errhint("Raise sabot.graph_max_tasks.")));
	if (!PG_ARGISNULL(ARG_PIECE_PAUSE) &&
		sabot_interval_ms(PG_GETARG_INTERVAL_P(ARG_PIECE_PAUSE)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("piece_pause must not be negative")));
	if (s->nulls[P_ATOMIC] == ' ' && !DatumGetBool(s->values[P_ATOMIC]))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a job that is spread over a table must be atomic"),
				 errhint("Each of its pieces is one transaction.")));
}

/*
 * check_command - raise what is wrong with the command of a submission
 */
static void
check_command(const SabotSubmission *s, Oid relation)
{
	char	   *command = TextDatumGetCString(s->values[P_COMMAND]);
	ErrorContextCallback callback = {
		.callback = sabot_submission_point,
		.arg = command,
		.previous = error_context_stack
	};

	error_context_stack = &callback;
	sabot_spread_check_command(command, s->nulls[P_PARAMS] == ' ' ?
							   DatumGetJsonbP(s->values[P_PARAMS]) : NULL,
							   relation);
	error_context_stack = callback.previous;
}

/*
 * sabot_submission_spread - what a call of submit_job() says of a table that
 * the job, or each run of the schedule, is to be spread over; NULL if nothing
 *
 * Checks the options and the command.  A job that waits for others, or for its
 * time, is checked when it starts: what it needs may not be there yet.  The
 * other options and the command are in the submission, where the timeout,
 * which is that of a piece, is taken out.  Raises what check_options() and
 * sabot_spread_check_command() raise.
 */
SabotSpreadOrder *
sabot_submission_spread(SabotSubmission *s, FunctionCallInfo fcinfo)
{
	SabotSpreadOrder *order;

	if (PG_ARGISNULL(ARG_OVER) && PG_ARGISNULL(ARG_PIECES) &&
		PG_ARGISNULL(ARG_PIECE_PAUSE))
		return NULL;
	check_options(s, fcinfo);
	if (s->state == SABOT_JOB_QUEUED)
		check_command(s, PG_GETARG_OID(ARG_OVER));
	order = palloc0(sizeof(SabotSpreadOrder));
	order->relation = PG_GETARG_OID(ARG_OVER);
	order->pieces = PG_ARGISNULL(ARG_PIECES) ? 0 : PG_GETARG_INT32(ARG_PIECES);
	order->has_pause = !PG_ARGISNULL(ARG_PIECE_PAUSE);
	if (order->has_pause)
		order->piece_pause = *PG_GETARG_INTERVAL_P(ARG_PIECE_PAUSE);
	order->has_timeout = s->nulls[P_TIMEOUT] == ' ';
	if (order->has_timeout)
		order->timeout = *DatumGetIntervalP(s->values[P_TIMEOUT]);
	s->nulls[P_TIMEOUT] = 'n';
	sabot_submission_set(s, P_ATOMIC, BoolGetDatum(true));
	return order;
}

/*
 * sabot_spread_write_order - write what a job, or each run of a schedule, is to
 * be spread over, in the place of what was said before; with NULL there is
 * none
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
void
sabot_spread_write_order(int64 job_id, SabotSpreadOrder *order)
{
	Oid			types[] = {INT8OID, REGCLASSOID, INT4OID, INTERVALOID, INTERVALOID};
	Datum		values[] = {Int64GetDatum(job_id), 0, 0, 0, 0};
	char		nulls[] = "     ";

	if (order == NULL)
	{
		sabot_spi_change_latest("DELETE FROM sabot.job_spread WHERE job_id = $1",
								1, types, values, NULL);
		return;
	}
	values[1] = ObjectIdGetDatum(order->relation);
	values[2] = Int32GetDatum(order->pieces);
	nulls[2] = order->pieces > 0 ? ' ' : 'n';
	values[3] = IntervalPGetDatum(&order->piece_pause);
	nulls[3] = order->has_pause ? ' ' : 'n';
	values[4] = IntervalPGetDatum(&order->timeout);
	nulls[4] = order->has_timeout ? ' ' : 'n';
	sabot_spi_change_latest("INSERT INTO sabot.job_spread (job_id, relation, pieces, piece_pause, timeout)"
							" VALUES ($1, $2, $3, $4, $5) ON CONFLICT (job_id) DO UPDATE"
							" SET relation = $2, pieces = $3, piece_pause = $4, timeout = $5",
							5, types, values, nulls);
}

/*
 * sabot_spread_copy_order - have a run be spread as its schedule says, if that
 * says anything of it
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
void
sabot_spread_copy_order(int64 schedule_id, int64 run_id)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(schedule_id), Int64GetDatum(run_id)};

	sabot_spi("INSERT INTO sabot.job_spread (job_id, relation, pieces, piece_pause, timeout)"
			  " SELECT $2, relation, pieces, piece_pause, timeout"
			  " FROM sabot.job_spread WHERE job_id = $1",
			  2, types, values, NULL, 0);
}

/*
 * sabot_submission_insert_spread - insert a job that is spread over a table, or
 * find the unfinished one with its dedup_key; returns its id
 */
int64
sabot_submission_insert_spread(SabotSubmission *s, SabotSpreadOrder *order)
{
	SabotOwn	own;
	bool		inserted;
	int64		job_id;

	sabot_submission_set(s, P_KIND, CStringGetTextDatum("spread"));
	job_id = sabot_submission_insert_once(s, &inserted);
	if (!inserted)
		return job_id;
	SPI_connect();
	sabot_own_begin(&own);
	sabot_spread_write_order(job_id, order);
	sabot_own_end(&own);
	SPI_finish();
	return job_id;
}

/*
 * text_values - the elements of a text[] that is a column of SPI's first row;
 * NULL if it is NULL
 */
static char **
text_values(int column, MemoryContext context, int *n)
{
	bool		isnull;
	Datum		array = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column, &isnull);
	Datum	   *elems;
	char	  **result;

	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, NULL, n);
	result = MemoryContextAlloc(context, sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		result[i] = MemoryContextStrdup(context, TextDatumGetCString(elems[i]));
	return result;
}

/*
 * oid_values - the same for an oid[], which is not NULL
 */
static Oid *
oid_values(int column, MemoryContext context)
{
	bool		isnull;
	ArrayType  *array = DatumGetArrayTypeP(SPI_getbinval(SPI_tuptable->vals[0],
														 SPI_tuptable->tupdesc,
														 column, &isnull));
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	Oid		   *result = MemoryContextAlloc(context, sizeof(Oid) * Max(n, 1));

	memcpy(result, ARR_DATA_PTR(array), sizeof(Oid) * n);
	return result;
}

/*
 * fill_piece - a piece from SPI's first row
 */
static void
fill_piece(SabotPiece *piece, MemoryContext context)
{
	HeapTuple	row = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	int			n;

	piece->relation = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
	piece->number = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
	piece->leaf = DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull));
	if (isnull)
		piece->leaf = InvalidOid;
	piece->low = text_values(4, context, &n);
	piece->high = text_values(5, context, &n);
	piece->columns = text_values(6, context, &piece->ncolumns);
	piece->families = oid_values(7, context);
	piece->collations = oid_values(8, context);
}

/*
 * sabot_piece_read - what the piece is that a job is, in the current memory
 * context; NULL if it is none
 *
 * In no transaction.
 */
SabotPiece *
sabot_piece_read(const SabotJob *job)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job->job_id)};
	MemoryContext context = CurrentMemoryContext;
	SabotPiece *piece;
	SabotOwn	own;

	if (!job->is_piece)
		return NULL;
	piece = palloc0(sizeof(SabotPiece));
	sabot_own_start_transaction(&own);
	if (sabot_spi("SELECT s.relation, p.piece, p.leaf, p.low, p.high, s.key_columns,"
				  " s.key_families, s.key_collations"
				  " FROM sabot.job_piece p, sabot.job j, sabot.job_spread s"
				  " WHERE p.job_id = $1 AND j.job_id = $1 AND s.job_id = j.parent_id"
				  " AND s.key_columns IS NOT NULL",
				  1, types, values, NULL, 1) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("nothing is known of the rows of this piece")));
	fill_piece(piece, context);
	sabot_own_commit_transaction(&own);
	return piece;
}

/*
 * sabot_spread_is_planned - whether a job that is spread over a table has its
 * pieces
 *
 * In no transaction.
 */
bool
sabot_spread_is_planned(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotOwn	own;
	bool		result;

	sabot_own_start_transaction(&own);
	result = sabot_spi("SELECT FROM sabot.job_spread WHERE job_id = $1"
					   " AND key_columns IS NOT NULL",
					   1, types, values, NULL, 1) > 0;
	sabot_own_commit_transaction(&own);
	return result;
}

/* What is planned: lives in the context of the job. */
typedef struct SpreadPlan
{
	Oid			relation;
	int			pieces;			/* asked for, or 0 */
	SabotKey	key;
	List	   *columns;		/* of char *: names of its columns */
	SabotRanges *ranges;
} SpreadPlan;

/*
 * read_order - what a job is to be spread over, and how
 *
 * In no transaction.
 */
static void
read_order(const SabotJob *job, SpreadPlan *plan)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job->job_id)};
	SabotOwn	own;
	bool		isnull;

	sabot_own_start_transaction(&own);
	if (sabot_spi("SELECT relation, coalesce(pieces, 0) FROM sabot.job_spread"
				  " WHERE job_id = $1", 1, types, values, NULL, 1) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("nothing is known of the table that the job is spread over")));
	plan->relation = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
													SPI_tuptable->tupdesc, 1, &isnull));
	plan->pieces = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											   SPI_tuptable->tupdesc, 2, &isnull));
	sabot_own_commit_transaction(&own);
}

/*
 * make_plan - check a job's command and cut the table into pieces, as its owner
 *
 * In no transaction.
 */
static void
make_plan(const SabotJob *job, SpreadPlan *plan, MemoryContext context)
{
	Relation	rel;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	sabot_settings_apply(job->settings);
	PushActiveSnapshot(GetTransactionSnapshot());
	sabot_spread_check_command(job->command, job->params, plan->relation);
	rel = relation_open(plan->relation, AccessShareLock);
	MemoryContextSwitchTo(context);
	plan->ranges = sabot_key_choose(rel, &plan->key) ?
		sabot_ranges_create(rel, &plan->key, plan->pieces) :
		sabot_ranges_of_places(rel, plan->pieces);
	for (int i = 0; i < plan->ranges->ncolumns; i++)
		plan->columns = lappend(plan->columns,
								get_attname(plan->relation,
											plan->key.attnums[i], false));
	relation_close(rel, NoLock);
	PopActiveSnapshot();
	sabot_run_raise_if_interrupted();
	CommitTransactionCommand();
}

/*
 * append_bound - add a bound to the pieces as JSON
 */
static void
append_bound(StringInfo json, const char *name, char **bound, int ncolumns)
{
	if (bound == NULL)
		return;
	appendStringInfo(json, ",\"%s\":[", name);
	for (int i = 0; i < ncolumns; i++)
	{
		if (i > 0)
			appendStringInfoChar(json, ',');
		escape_json(json, bound[i]);
	}
	appendStringInfoChar(json, ']');
}

/*
 * ranges_as_json - the pieces as a JSON array, for SQL
 */
static Datum
ranges_as_json(const SabotRanges *ranges)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (int i = 0; i < ranges->n; i++)
	{
		const SabotRange *range = &ranges->ranges[i];

		appendStringInfo(&json, "%s{\"leaf\":%u", i > 0 ? "," : "", range->leaf);
		append_bound(&json, "low", range->low, Max(ranges->ncolumns, 1));
		append_bound(&json, "high", range->high, Max(ranges->ncolumns, 1));
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/*
 * oid_array - an oid[]
 */
static Datum
oid_array(const Oid *oids, int n)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		elems[i] = ObjectIdGetDatum(oids[i]);
	return PointerGetDatum(construct_array(elems, n, OIDOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

/*
 * write_plan - note how a job is spread, in its row too, which waits for its
 * pieces from now on
 */
static void
write_plan(const SabotJob *job, const SpreadPlan *plan)
{
	int			n = list_length(plan->columns);
	Oid			types[] = {INT8OID, TEXTARRAYOID, OIDARRAYOID, OIDARRAYOID, INT4OID};
	Datum	   *names = palloc(sizeof(Datum) * Max(n, 1));
	Datum		values[5];

	for (int i = 0; i < n; i++)
		names[i] = CStringGetTextDatum(list_nth(plan->columns, i));
	values[0] = Int64GetDatum(job->job_id);
	values[1] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false,
												TYPALIGN_INT));
	values[2] = oid_array(plan->key.families, n);
	values[3] = oid_array(plan->key.collations, n);
	values[4] = Int32GetDatum(Max(sabot_pool_size, 1));
	sabot_spi("UPDATE sabot.job_spread SET key_columns = $2, key_families = $3,"
			  " key_collations = $4, lanes = CASE WHEN piece_pause IS NOT NULL THEN $5 END"
			  " WHERE job_id = $1", 5, types, values, NULL, 0);
	sabot_spi("UPDATE sabot.job SET state = 'blocked', sqlstate = NULL, error = NULL"
			  " WHERE job_id = $1", 1, types, values, NULL, 0);
}

/*
 * insert_pieces - insert the pieces of a job, and have those run that may
 */
static void
insert_pieces(const SabotJob *job, const SpreadPlan *plan)
{
	Oid			types[] = {INT8OID, JSONBOID};
	Datum		values[] = {Int64GetDatum(job->job_id),
	ranges_as_json(plan->ranges)};
	int			n;

	n = sabot_spi("WITH n AS MATERIALIZED (SELECT e.range, e.piece,"
				  " nextval('sabot.job_job_id_seq') AS id"
				  " FROM jsonb_array_elements($2) WITH ORDINALITY AS e(range, piece)), p AS ("
				  "INSERT INTO sabot.job_piece (job_id, piece, leaf, low, high)"
				  " SELECT id, piece, nullif(range->>'leaf', '0')::oid::regclass,"
				  " CASE WHEN range ? 'low' THEN ARRAY(SELECT jsonb_array_elements_text(range->'low')) END,"
				  " CASE WHEN range ? 'high' THEN ARRAY(SELECT jsonb_array_elements_text(range->'high')) END"
				  " FROM n), j AS ("
				  "INSERT INTO sabot.job (job_id, parent_id, kind, name, owner, owner_name, home,"
				  " queue, priority, max_attempts, atomic, asked_atomic, keep_rows, submitted_at,"
				  " retry_delay, timeout, command, params, settings, state)"
				  " SELECT n.id, j.job_id, 'piece', 'piece ' || n.piece, j.owner, j.owner_name,"
				  " j.home, j.queue, j.priority, j.max_attempts, true, true, j.keep_rows,"
				  " j.submitted_at, j.retry_delay, s.timeout, j.command, j.params, j.settings,"
				  " CASE WHEN n.piece > s.lanes THEN 'blocked' ELSE 'queued' END::sabot.job_state"
				  " FROM n, sabot.job j, sabot.job_spread s"
				  " WHERE j.job_id = $1 AND s.job_id = $1 ORDER BY n.id"
				  " RETURNING job_id, priority, queue, owner, state)"
				  " SELECT job_id, priority, queue, owner, NULL::timestamptz FROM j"
				  " WHERE state = 'queued'",
				  2, types, values, NULL, 0);
	(void) sabot_job_push_rows(n);
}

/*
 * is_ours - whether a job's row, which is locked now, is as the job was read
 */
static bool
is_ours(const SabotJob *job)
{
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	HeapTuple	tuple = sabot_row_lock(rel, job->job_id, LockTupleNoKeyExclusive);
	SabotJob   *now = tuple != NULL ? sabot_job_read(job->job_id) : NULL;

	table_close(rel, NoLock);
	return now != NULL && now->attempt == job->attempt &&
		now->state == job->state;
}

/*
 * obey_interrupt - cancel or pause a job that has just got its pieces, if it was
 * to be while these were made; returns whether it is canceled
 *
 * Who asked for that could not see them.  In no transaction.
 */
static bool
obey_interrupt(int64 job_id)
{
	SabotInterrupt interrupt = sabot_agent_interrupted();
	SabotInterrupt asked;
	SabotOwn	own;

	if (interrupt != SABOT_INTERRUPT_CANCEL &&
		interrupt != SABOT_INTERRUPT_PAUSE)
		return false;
	sabot_own_start_transaction(&own);
	asked = sabot_job_take_signal(job_id);
	if (asked != SABOT_INTERRUPT_NONE)
		(void) sabot_graph_interrupt(job_id, asked, false);
	sabot_own_commit_transaction(&own);
	return interrupt == SABOT_INTERRUPT_CANCEL || asked == SABOT_INTERRUPT_CANCEL;
}

/*
 * sabot_spread_plan - make the pieces of a job that our agent has taken
 *
 * If the table has no key it also holds the snapshot that they need, until they
 * have ended.  In no transaction.  Returns false, having done nothing, if the
 * job was taken away meanwhile.  Raises what is wrong with the command.
 */
bool
sabot_spread_plan(const SabotJob *job)
{
	MemoryContext context = CurrentMemoryContext;
	SpreadPlan	plan = {0};
	SabotOwn	own;
	bool		ours;

	read_order(job, &plan);
	make_plan(job, &plan, context);

	/* Nothing of the owner's settings is to have a say in what follows. */
	sabot_agent_reset_session();
	sabot_own_start_transaction(&own);
	ours = is_ours(job);
	if (ours)
	{
		write_plan(job, &plan);
		insert_pieces(job, &plan);
	}
	sabot_own_commit_transaction(&own);
	if (ours && !obey_interrupt(job->job_id) && plan.ranges->ncolumns == 0)
	{
		sabot_hold_snapshot(job->job_id, plan.relation);
		(void) obey_interrupt(job->job_id);
	}
	return ours;
}

/*
 * sabot_spread_refill - have pieces run in the place of some that have ended
 * and could not have others run after them, as these were locked
 *
 * With a pause between pieces as many are open and not blocked as there are
 * lanes, in every snapshot: who ends one schedules another one then.  In a
 * prober, in no transaction.
 */
void
sabot_spread_refill(void)
{
	SabotOwn	own;
	int			n;

	sabot_own_start_transaction(&own);
	n = sabot_spi("UPDATE sabot.job SET state = 'queued' WHERE job_id IN"
				  " (SELECT c.job_id FROM sabot.job_spread s"
				  "  JOIN sabot.job p ON p.job_id = s.job_id AND p.state = 'blocked',"
				  "  LATERAL (SELECT o.job_id FROM sabot.job o"
				  "   WHERE o.parent_id = s.job_id AND o.state = 'blocked' ORDER BY o.job_id"
				  "   LIMIT greatest(0, s.lanes - (SELECT count(*) FROM sabot.job r"
				  "    WHERE r.parent_id = s.job_id AND r.state <> 'blocked'))) l"
				  "  JOIN sabot.job c ON c.job_id = l.job_id"
				  "  WHERE s.lanes IS NOT NULL FOR UPDATE OF c SKIP LOCKED)"
				  " AND state = 'blocked'"
				  " RETURNING job_id, priority, queue, owner, NULL::timestamptz",
				  0, NULL, NULL, NULL, 0);
	(void) sabot_job_push_rows(n);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_spread_refuse_retry - raise 55000 for a finished job whose pieces
 * cannot run again, as the snapshot is gone that they had in common
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
void
sabot_spread_refuse_retry(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	if (sabot_spi("SELECT FROM sabot.job_spread WHERE job_id = $1 AND key_columns = '{}'",
				  1, types, values, NULL, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot go on: the snapshot that its pieces read is gone",
						job_id),
				 errhint("Submit the command again for the rows of the pieces that are not completed.")));
}
