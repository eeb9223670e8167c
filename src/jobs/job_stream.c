/*-------------------------------------------------------------------------
 *
 * job_stream.c
 *		Streams: jobs that hand the rows written into a table to a command.
 *
 * A stream is one job that does not end by itself.  While there is nothing to
 * do it is blocked and nobody looks at it; a commit with rows for it wakes it
 * (job_stream_wake.c), and an agent takes it as any other job, runs one batch,
 * and puts it back if there are more.  Blocked or queued makes no difference
 * to that agent: writers do not touch the job's row, or they would wait for
 * each other.
 *
 * A batch is an attempt of the job.  When it has succeeded its end, the rows
 * it was given and the row of the job are written in its transaction, so that
 * the attempts and losses counted there are those of the next batch.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_columns.h"
#include "jobs/job_row.h"
#include "jobs/job_stream.h"
#include "jobs/job_submit.h"
#include "jobs/job_wait.h"

/* A part that somebody has locked is looked at again after this, in ms. */
#define PART_RETRY_MS	200

/* Finished batches that are kept of a stream, and how often others go. */
#define KEEP_BATCHES	1000
#define TRIM_EVERY		256

#define MAX_BATCH_ROWS	1000000

PG_FUNCTION_INFO_V1(sabot_submit_stream);

/* The batch of the attempt that our agent makes. */
static int64 taken_job_id = 0;
static int64 taken_to = 0;

/*
 * refuse_source - raise that rows of a table cannot be captured, and why
 */
static void
refuse_source(Relation rel, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot stream \"%s\"", RelationGetRelationName(rel)),
			 errdetail("%s", what)));
}

/*
 * check_source - raise an error for what is no table of the caller's whose
 * rows can be captured; 42501, 42809, 42701
 */
static void
check_source(Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);

	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		refuse_source(rel, "It is no table.");
	if (IsCatalogRelation(rel) ||
		RelationGetNamespace(rel) == sabot_catalog(false)->schema)
		refuse_source(rel, "It is a table of the system or of sabot.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_source(rel, "Agents cannot see temporary tables.");
	for (int i = 0; i < desc->natts; i++)
		if (SabotIsVirtual(TupleDescAttr(desc, i)))
			refuse_source(rel, "It has a virtual generated column, which triggers do not see.");
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			strncmp(NameStr(TupleDescAttr(desc, i)->attname), "sabot_",
					strlen("sabot_")) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" of \"%s\" has a name that batches use",
							NameStr(TupleDescAttr(desc, i)->attname),
							RelationGetRelationName(rel)),
					 errhint("Names that begin with \"sabot_\" are reserved.")));
	relation_close(rel, NoLock);
}

/*
 * check_command - raise what is wrong with the command of a stream
 */
static void
check_command(char *command)
{
	sabot_submission_check_syntax(command);
	if (sabot_params_highest(command) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("command of a stream cannot have parameters"),
				 errhint("Write their values into it; what it needs of a row it reads from \"batch\".")));
	if (sabot_job_needs_singly(sabot_job_parse(command)))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("command of a stream cannot be one that does not run in a transaction block"),
				 errdetail("The effects of a batch and the position in the stream are committed together.")));
}

/*
 * required_batch_rows - the argument batch_rows; raises 22004 and 22023
 */
static int32
required_batch_rows(FunctionCallInfo fcinfo, int argno)
{
	int32		batch_rows;

	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("batch_rows must not be null")));
	batch_rows = PG_GETARG_INT32(argno);
	if (batch_rows < 1 || batch_rows > MAX_BATCH_ROWS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_rows must be from 1 to %d", MAX_BATCH_ROWS)));
	return batch_rows;
}

/*
 * sabot_capture_register - write down what is captured for a job that has been
 * inserted, and begin to capture it
 *
 * Waits for transactions that have written into the table.
 */
void
sabot_capture_register(int64 job_id, Oid source, int32 batch_rows)
{
	Oid			types[] = {INT8OID, REGCLASSOID, TEXTOID, INT4OID};
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(source)),
												  get_rel_name(source));
	Datum		values[] = {Int64GetDatum(job_id), ObjectIdGetDatum(source),
	CStringGetTextDatum(name), Int32GetDatum(batch_rows)};
	SabotOwn	own;

	SPI_connect();
	sabot_own_begin(&own);
	sabot_spi_generic("INSERT INTO sabot.stream (job_id, source, source_name, batch_rows)"
					  " VALUES ($1, $2, $3, $4)",
					  4, types, values, NULL, 0);
	sabot_own_end(&own);
	SPI_finish();
	sabot_capture_create(job_id, source);
}

/*
 * sabot_capture_begin - capture the rows of a table for a new job of the
 * caller, which takes so many of them at a time
 *
 * Waits for transactions that have written into the table.  Errors: 42501 for
 * a table of somebody else, 42809 for what is no table, 42701 for a column
 * whose name is reserved.
 */
void
sabot_capture_begin(int64 job_id, Oid source, int batch_rows)
{
	check_source(source);
	sabot_capture_register(job_id, source, batch_rows);
}

/*
 * SQL: sabot.submit_stream(source_table regclass, command text, name text,
 * batch_rows int, queue text, priority int, max_attempts int, retry_delay
 * interval, timeout interval, notify text) RETURNS bigint - hand the rows of a
 * table to a command, return the stream's job id
 *
 * Waits for transactions that have written into the table.  Errors: as of
 * submit_job(); 42501 for a table of somebody else, 42809 for what is no table,
 * 42701 for a column whose name is reserved, 25001 for a command that cannot
 * run in a transaction block.
 */
Datum
sabot_submit_stream(PG_FUNCTION_ARGS)
{
	SabotSubmission s;
	int32		batch_rows;
	Oid			source;
	char	   *command;
	int64		job_id;

	sabot_submission_begin(&s, "sabot.submit_stream()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null",
						PG_ARGISNULL(0) ? "source_table" : "command")));
	source = PG_GETARG_OID(0);
	command = text_to_cstring(PG_GETARG_TEXT_PP(1));
	sabot_submission_identity(&s, fcinfo, 2, 4, 5);
	batch_rows = required_batch_rows(fcinfo, 3);
	sabot_submission_attempts(&s, fcinfo, 6, 7, 8);
	sabot_submission_channel(&s, fcinfo, 9);
	check_source(source);
	check_command(command);
	sabot_submission_set(&s, P_COMMAND, CStringGetTextDatum(command));
	sabot_submission_set(&s, P_KIND, CStringGetTextDatum("stream"));
	sabot_submission_set(&s, P_ATOMIC, BoolGetDatum(true));
	sabot_submission_state(&s, SABOT_JOB_QUEUED);
	job_id = sabot_submission_insert(&s);
	sabot_capture_register(job_id, source, batch_rows);
	sabot_stream_check(job_id, command);
	PG_RETURN_INT64(job_id);
}

/*
 * sabot_stream_is_runnable - whether the state of a stream is one that agents
 * take it in
 */
bool
sabot_stream_is_runnable(const SabotJob *job)
{
	const Oid  *states = sabot_catalog(false)->states;

	return job->is_stream && (job->state == states[SABOT_JOB_QUEUED] ||
							  job->state == states[SABOT_JOB_BLOCKED]);
}

/*
 * sabot_stream_is_there - whether a job has, or had, a capture
 *
 * In a transaction; leaves no snapshot behind.
 */
bool
sabot_stream_is_there(int64 job_id)
{
	bool		result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = sabot_stream_read(job_id) != NULL;
	PopActiveSnapshot();
	return result;
}

/*
 * sabot_stream_ended - a job has ended that may have had a capture: its
 * trigger, and what waits, go
 *
 * In the transaction that ends it.
 */
void
sabot_stream_ended(int64 job_id)
{
	SabotStream *stream = sabot_stream_read(job_id);

	if (stream != NULL)
		sabot_capture_drop(job_id, stream->source);
	/* If this is rolled back after all, a prober makes it known again. */
	sabot_capture_forget(job_id);
}

/*
 * sabot_stream_end - end a job with a capture that cannot go on, with an error
 *
 * Raises 55P03 in a prober, if somebody has its table locked.  In no
 * transaction.
 */
void
sabot_stream_end(const SabotJob *job, int sqlstate, const char *message,
				 const char *hint)
{
	SabotEnd	end = {.state = SABOT_JOB_FAILED};
	ErrorData	error = {0};
	SabotOwn	own;

	error.sqlerrcode = sqlstate;
	error.message = unconstify(char *, message);
	error.hint = unconstify(char *, hint);
	end.error = &error;
	end.attempt = job->attempt;
	end.losses = job->losses;
	sabot_own_start_transaction(&own);
	(void) sabot_job_finish(job, &end);
	sabot_own_commit_transaction(&own);
}

/*
 * end_stream - end a job that has nothing to read anymore
 *
 * In no transaction.
 */
static void
end_stream(const SabotJob *job, const char *message, const char *hint)
{
	sabot_stream_end(job, ERRCODE_UNDEFINED_OBJECT, message, hint);
}

/*
 * sabot_stream_set - set the state of a stream's row, which our agent works on
 *
 * Attempts, losses and errors begin anew.  Returns false if the row is not as
 * it was read.  In a transaction with an active snapshot.
 */
bool
sabot_stream_set(const SabotJob *job, SabotJobState state, const char *reason)
{
	Relation	rel = table_open(sabot_catalog(false)->job, RowExclusiveLock);
	HeapTuple	tuple = sabot_row_lock(rel, job->job_id,
									   LockTupleNoKeyExclusive);
	SabotRowWriter *writer;
	Datum		v[JOB_NCOLUMNS];
	bool		isnull[JOB_NCOLUMNS];
	bool		ours = false;

	if (tuple != NULL)
	{
		heap_deform_tuple(tuple, RelationGetDescr(rel), v, isnull);
		ours = DatumGetInt32(v[JOB_ATTEMPT]) == job->attempt &&
			DatumGetObjectId(v[JOB_STATE]) == job->state;
	}
	if (ours)
	{
		v[JOB_STATE] = ObjectIdGetDatum(sabot_catalog(false)->states[state]);
		v[JOB_ATTEMPT] = v[JOB_LOSSES] = v[JOB_FREE_RETRIES] = Int32GetDatum(0);
		isnull[JOB_SQLSTATE] = isnull[JOB_ERROR] = isnull[JOB_RUN_AFTER] = true;
		isnull[JOB_REASON] = reason == NULL;
		if (reason != NULL)
			v[JOB_REASON] = CStringGetTextDatum(reason);
		writer = sabot_row_writer_open(rel);
		sabot_row_update(writer, tuple, v, isnull);
		sabot_row_writer_close(writer);
	}
	table_close(rel, NoLock);
	return ours;
}

/*
 * change_state - the same in a transaction of its own
 */
static void
change_state(const SabotJob *job, SabotJobState state, const char *reason)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	(void) sabot_stream_set(job, state, reason);
	sabot_own_commit_transaction(&own);
	if (state == SABOT_JOB_PAUSED)
		ereport(WARNING,
				(errmsg("job " INT64_FORMAT " was paused: %s",
						job->job_id, reason),
				 errhint("Use sabot.resume_job(" INT64_FORMAT ") when the cause is gone.",
						 job->job_id)));
}

/*
 * sabot_stream_pause - pause a stream that cannot go on, and say why
 *
 * In no transaction.
 */
void
sabot_stream_pause(const SabotJob *job, const char *reason)
{
	change_state(job, SABOT_JOB_PAUSED, reason);
}

/*
 * drop_first_part - done with rows written before the source's columns changed
 *
 * If somebody may still be writing some, look again in a moment.
 */
static void
drop_first_part(const SabotJob *job, int part)
{
	TimestampTz again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PART_RETRY_MS);
	Oid			types[] = {INT8OID, TIMESTAMPTZOID};
	Datum		values[] = {Int64GetDatum(job->job_id),
	TimestampTzGetDatum(again)};
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	if (!sabot_capture_drop_part(job->job_id, part))
	{
		sabot_spi_generic("UPDATE sabot.job SET state = 'scheduled', run_after = $2"
						  " WHERE job_id = $1 AND state IN ('queued', 'blocked')",
						  2, types, values, NULL, 0);
		sabot_pending_submit(job->job_id, job->priority, job->queue,
							 job->owner, again, 0);
	}
	sabot_own_commit_transaction(&own);
}

/*
 * skip_piece - the piece of a failed batch that comes next is empty
 */
static void
skip_piece(SabotStream *stream)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	stream->nsuspects--;
	sabot_stream_update(stream, 0, 0, 0);
	sabot_own_commit_transaction(&own);
}

/* What there is to do for a stream. */
typedef struct Look
{
	SabotStream *stream;
	bool		has_rows;
	int			first_part;
	int			nparts;
	bool		owns_source;	/* or did, to its end */
	bool		has_source;
	bool		has_trigger;
} Look;

/*
 * was_taken - whether a table that is gone was not the stream owner's anymore
 *
 * In a transaction, with an active snapshot.
 */
static bool
was_taken(int64 job_id)
{
	Oid			type = INT8OID;
	Datum		value = Int64GetDatum(job_id);
	SabotOwn	own;
	bool		result;

	SPI_connect();
	sabot_own_begin(&own);
	result = sabot_spi_generic("SELECT FROM sabot.stream_event WHERE job_id = $1"
							   " AND event = '" SABOT_STREAM_TAKEN "'",
							   1, &type, &value, NULL, 1) > 0;
	sabot_own_end(&own);
	SPI_finish();
	return result;
}

/*
 * look - see what there is to do for a stream
 *
 * In no transaction; the memory is the caller's.
 */
static void
look(const SabotJob *job, Look *result)
{
	MemoryContext caller = CurrentMemoryContext;
	int		   *parts;

	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);
	memset(result, 0, sizeof(*result));
	result->stream = sabot_stream_read(job->job_id);
	if (result->stream != NULL)
	{
		SabotStream *s = result->stream;

		/* First: who drops it may have written rows in that transaction. */
		result->has_trigger = sabot_capture_is_attached(job->job_id, s->source);
		result->has_rows =
			sabot_capture_has_rows(job->job_id, s->floor, s->nsuspects > 0 ?
								   s->suspects[s->nsuspects - 1] : PG_INT64_MAX,
								   &result->first_part);
		result->nparts = sabot_capture_parts(job->job_id, &parts);
		result->has_source =
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(s->source));
		result->owns_source = result->has_source ?
			object_ownercheck(RelationRelationId, s->source, job->owner) :
			!was_taken(job->job_id);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/*
 * end_without_trigger - end a job whose table is gone, or was freed of the
 * trigger
 */
static void
end_without_trigger(const SabotJob *job, const SabotStream *stream)
{
	if (job->is_stream)
		end_stream(job, psprintf("table %s, or the stream's trigger on it, was dropped",
								 stream->source_name),
				   "All rows written before were handed over. Submit the stream again if the table is there.");
	else
		end_stream(job, psprintf("table %s, or the job's trigger on it, was dropped",
								 stream->source_name),
				   "Submit the job again if the table is there.");
}

/*
 * why_idle - what a job that has taken all rows waits for
 *
 * NULL for a stream, of which everybody knows.
 */
static const char *
why_idle(const SabotJob *job, const SabotStream *stream)
{
	return job->is_stream ? NULL :
		psprintf("waits for changes of table %s", stream->source_name);
}

/*
 * sabot_stream_prepare - do what is to be done for a job with a capture before
 * it takes rows
 *
 * Returns whether there are some now; if not, and if nothing else was to be
 * done, the job is blocked afterwards.  In no transaction.
 */
bool
sabot_stream_prepare(const SabotJob *job)
{
	Look		l;
	bool		is_of_use;		/* what was captured */

	look(job, &l);
	/* Of a table that is gone it is to a stream alone. */
	is_of_use = job->is_stream || l.has_source;
	if (l.stream == NULL || l.nparts == 0)
		end_stream(job, "captured rows of the job are gone",
				   "Submit it again.");
	else if (!l.owns_source && !l.has_source)
		end_stream(job, psprintf("table %s was dropped, and was not its owner's anymore",
								 l.stream->source_name),
				   "What was written since it was another one's is not handed over.");
	else if (!l.owns_source)
		sabot_stream_pause(job, psprintf("its owner does not own table %s anymore",
										 l.stream->source_name));
	else if (l.stream->failed)
		sabot_stream_split(job, l.stream);
	else if (is_of_use && l.has_rows)
		return true;
	else if (is_of_use && l.stream->nsuspects > 0)
		skip_piece(l.stream);
	else if (is_of_use && l.nparts > 1)
		drop_first_part(job, l.first_part);
	else if (!is_of_use || !l.has_trigger)
		end_without_trigger(job, l.stream);
	else if (job->state != sabot_catalog(false)->states[SABOT_JOB_BLOCKED])
		change_state(job, SABOT_JOB_BLOCKED, why_idle(job, l.stream));
	return false;
}

/*
 * sabot_stream_is_ready - whether a stream that our agent has worked on is to
 * be taken again
 *
 * If not, the next commit with rows for it wakes it.  In no transaction.
 */
bool
sabot_stream_is_ready(int64 job_id)
{
	SabotJob   *job;
	Look		l = {0};

	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED; /* waits for no safe snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(CurTransactionContext);
	job = sabot_job_read(job_id);
	if (job != NULL)
		sabot_capture_enter(job, sabot_stream_is_runnable(job));
	PopActiveSnapshot();
	if (job != NULL && sabot_stream_is_runnable(job))
		l.has_rows = sabot_stream_waits(job_id);
	CommitTransactionCommand();
	if (job == NULL)
		sabot_capture_forget(job_id);
	return l.has_rows;
}

/*
 * sabot_stream_waits - whether there is something to do for a stream
 *
 * In a transaction.
 */
bool
sabot_stream_waits(int64 job_id)
{
	SabotStream *stream;
	int		   *parts;
	bool		result = false;

	PushActiveSnapshot(sabot_stream_snapshot());
	stream = sabot_stream_read(job_id);
	if (stream != NULL)
		result = stream->failed || stream->nsuspects > 0 ||
			sabot_capture_may_have_rows(job_id, stream->floor) ||
			sabot_capture_parts(job_id, &parts) > 1 ||
			!sabot_capture_is_attached(job_id, stream->source);
	PopActiveSnapshot();
	return result;
}

/*
 * sabot_stream_take - take the batch of the attempt that begins
 *
 * In the attempt's transaction; the memory is to live as long as that.
 */
SabotBatch *
sabot_stream_take(const SabotJob *job)
{
	SabotBatch *batch = NULL;
	SabotStream *s;

	PushActiveSnapshot(GetLatestSnapshot());
	s = sabot_stream_read(job->job_id);
	if (s != NULL)
		batch = sabot_batch_take(job->job_id, s->floor, s->nsuspects > 0 ?
								 s->suspects[s->nsuspects - 1] : PG_INT64_MAX,
								 s->batch_rows);
	PopActiveSnapshot();
	if (batch == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("captured rows of stream " INT64_FORMAT " are gone",
						job->job_id)));
	taken_job_id = job->job_id;
	taken_to = batch->nrows > 0 ? batch->seqs[batch->nrows - 1] : 0;
	return batch;
}

/*
 * sabot_stream_taken_to - the last number of the batch that our agent's last
 * attempt was given; 0 if that was not for this stream
 */
int64
sabot_stream_taken_to(int64 job_id)
{
	return taken_job_id == job_id ? taken_to : 0;
}

/*
 * sabot_stream_finish - the batch of an attempt has been handled: record that
 * in its transaction
 *
 * Returns false, having done nothing, if the job was taken away meanwhile.
 * Needs an active snapshot.
 */
bool
sabot_stream_finish(const SabotJob *job, const SabotBatch *batch,
					const SabotEnd *end)
{
	SabotStream *s;

	if (!sabot_stream_set(job, batch->all ? SABOT_JOB_BLOCKED :
						  SABOT_JOB_QUEUED, NULL))
		return false;
	s = sabot_stream_read(job->job_id);
	if (s == NULL)
		return false;
	sabot_batch_forget(batch);
	if (s->nsuspects > 0 &&
		(batch->nrows < s->batch_rows || taken_to >= s->suspects[s->nsuspects - 1]))
		s->nsuspects--;
	if (s->nsuspects == 0)
		s->tries = 0;
	s->floor = batch->floor;
	s->tried_to = 0;
	sabot_stream_update(s, batch->nrows, 1, 0);
	sabot_job_record_child(job, end, "batch");
	tuplestore_end(batch->store);
	return true;
}

/*
 * sabot_stream_trim - now and then, forget all but the last batches of a stream
 *
 * In no transaction.
 */
void
sabot_stream_trim(int64 job_id)
{
	static int	count = 0;
	Oid			types[] = {INT8OID, INT4OID};
	Datum		values[] = {Int64GetDatum(job_id), Int32GetDatum(KEEP_BATCHES)};
	SabotOwn	own;

	if (++count % TRIM_EVERY != 0)
		return;
	sabot_own_start_transaction(&own);
	sabot_spi_generic("DELETE FROM sabot.job_history WHERE parent_id = $1"
					  " AND kind = 'batch' AND state = 'completed' AND job_id <"
					  " (SELECT min(l.job_id) FROM (SELECT b.job_id FROM sabot.job_history b"
					  " WHERE b.parent_id = $1 ORDER BY b.job_id DESC LIMIT $2) l)",
					  2, types, values, NULL, 0);
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_stream_refuse_retry - raise 55000 for a job with a capture that has
 * ended; is_stream tells whether it is a stream
 */
void
sabot_stream_refuse_retry(int64 job_id, bool is_stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 is_stream ?
			 errmsg("job " INT64_FORMAT " is a stream that has ended", job_id) :
			 errmsg("job " INT64_FORMAT " has ended, and follows its table no more",
					job_id),
			 errdetail("Its trigger and the rows it had captured are gone."),
			 is_stream ? errhint("Use sabot.submit_stream() again.") :
			 errhint("Submit it again.")));
}
