/*-------------------------------------------------------------------------
 *
 * job_stream_fail.c
 *		What becomes of a batch that fails, and of the row it fails for.
 *
 * A batch that has failed max_attempts times, or with an error that would only
 * come again, is cut in two, and so are the halves that fail, until one row
 * fails alone: that becomes a dead letter, and the stream goes on.  The pieces
 * are tried in order and once each.  They are known by their last numbers; as
 * rows are found by number, one that is committed late falls into the piece it
 * belongs to.
 *
 * A command that fails without any rows fails because of no row: then none is
 * given up, and the stream pauses until somebody has seen to it.  To know
 * that, the command is run with an empty batch and rolled back.
 *
 * Whoever finds that the attempts are used up, a prober perhaps, only notes
 * that.  The rest is done by the next agent, as it is the owner: to show a row
 * as JSON calls functions of its types.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_fail.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "jobs/job_run.h"
#include "jobs/job_stream.h"

/*
 * sabot_stream_is_cut - whether the batch that was tried last is a piece of one
 * that has failed, and so is not tried again
 *
 * Inside a transaction of sabot's own.
 */
bool
sabot_stream_is_cut(int64 job_id)
{
	SabotStream *stream = sabot_stream_read(job_id);

	return stream != NULL && stream->nsuspects > 0;
}

/*
 * sabot_stream_give_up - a batch has failed for good: have it cut
 *
 * end tells of its last attempt, with its error.  An agent that is lost once
 * more while it cuts means that the command needs no rows for that.  Inside a
 * transaction of sabot's own.
 */
void
sabot_stream_give_up(const SabotJob *job, const SabotEnd *end)
{
	SabotStream *stream = sabot_stream_read(job->job_id);
	bool		again = stream == NULL || stream->failed;
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int64GetDatum(job->job_id),
		CStringGetTextDatum(unpack_sql_state(end->error->sqlerrcode)),
		CStringGetTextDatum(end->error->message),
		CStringGetTextDatum(psprintf("its command fails without rows, too: %s",
									 end->error->message))
	};

	sabot_spi_generic(again ?
					  "UPDATE sabot.job SET state = 'paused', reason = $4, attempt = 0, losses = 0,"
					  " free_retries = 0, run_after = NULL, sqlstate = $2, error = $3 WHERE job_id = $1" :
					  "UPDATE sabot.job SET state = 'queued', attempt = 0, losses = 0,"
					  " free_retries = 0, run_after = NULL, sqlstate = $2, error = $3 WHERE job_id = $1",
					  4, types, values, NULL, 0);
	if (again)
		return;
	stream->failed = true;
	stream->tried_to = end->pid == 0 ? sabot_stream_taken_to(job->job_id) : 0;
	stream->tries += Max(end->attempt, 1);
	sabot_stream_update(stream, 0, 0, 0);
	sabot_pending_submit(job->job_id, job->priority, job->queue, job->owner,
						 0, 0);
}

/*
 * run_without_rows - run a stream's command with an empty batch
 *
 * In no transaction; leaves one that must be rolled back.
 */
static void
run_without_rows(const SabotJob *job, const SabotStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	SabotBatch *batch;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	BeginImplicitTransactionBlock();
	sabot_settings_apply(job->settings);
	PushActiveSnapshot(GetTransactionSnapshot());
	batch = sabot_batch_take(job->job_id, stream->floor, PG_INT64_MAX, 0);
	PopActiveSnapshot();
	sabot_job_execute(job->command, NIL, NULL, NULL, SABOT_EXEC_ATOMIC,
					  sabot_outcome_create(context, 0),
					  batch ? batch->env : NULL, NULL, NULL);
	sabot_run_raise_if_interrupted();
}

/*
 * try_without_rows - whether a stream's command fails with an empty batch, too
 *
 * Returns the error, in the current memory context, or NULL.  In no
 * transaction.
 */
static ErrorData *
try_without_rows(const SabotJob *job, const SabotStream *stream)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	sabot_attempt_begin(job, job->attempt + 1);
	sabot_run_report(job);
	sabot_run_start_timeout(job->timeout_ms);
	PG_TRY();
	{
		sabot_agent_accept_interrupts(true);
		run_without_rows(job, stream);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	disable_all_timeouts(false);
	sabot_agent_accept_interrupts(false);
	AbortOutOfAnyTransaction();
	sabot_attempt_end();
	sabot_agent_reset_session();
	MemoryContextSwitchTo(caller);
	return error;
}

/*
 * piece_end - the last number of the rows that have failed
 */
static int64
piece_end(const SabotStream *stream)
{
	if (stream->nsuspects > 0)
		return stream->suspects[stream->nsuspects - 1];
	return stream->tried_to > 0 ? stream->tried_to : PG_INT64_MAX;
}

/*
 * row_as_json - the only row of a batch as jsonb; its columns as they were
 * written
 *
 * As the stream's owner, SPI connected.  Types may have functions that fail, or
 * do not end within the timeout of a batch: then it is text that says so.  So it
 * is, too, if the owner cannot wait for them (sabot_agent_interrupted()).
 */
static Datum
row_as_json(const SabotJob *job, SabotBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile Datum result = 0;

	BeginInternalSubTransaction(NULL);
	sabot_run_start_timeout(job->timeout_ms);
	PG_TRY();
	{
		bool		isnull;

		sabot_agent_accept_interrupts(true);
		sabot_run_raise_if_interrupted();
		SPI_connect();
		SPI_register_relation(get_ENR(batch->env, "batch"));
		if (SPI_execute("SELECT pg_catalog.to_jsonb(b) OPERATOR(pg_catalog.-)"
						" ARRAY['sabot_op', 'sabot_seq']::pg_catalog.text[] FROM batch AS b",
						false, 1) != SPI_OK_SELECT || SPI_processed != 1)
			elog(ERROR, "row was not found");
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							   &isnull);
		MemoryContextSwitchTo(caller);
		result = JsonbPGetDatum(DatumGetJsonbPCopy(result));
		SPI_finish();
		disable_all_timeouts(false);
		sabot_agent_accept_interrupts(false);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		JsonbValue	v;

		disable_all_timeouts(false);
		sabot_agent_accept_interrupts(false);
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		v.type = jbvString;
		v.val.string.val = psprintf("row cannot be shown: %s",
									sabot_run_timed_out() ?
									"that takes longer than the timeout of a batch" :
									error->message);
		v.val.string.len = strlen(v.val.string.val);
		result = JsonbPGetDatum(JsonbValueToJsonb(&v));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return result;
}

/*
 * keep_dead - put the row of a batch among the dead letters
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
keep_dead(const SabotJob *job, const SabotStream *stream,
		  const SabotBatch *batch, Datum row)
{
	Oid			types[] = {INT8OID, INT8OID, JSONBOID, INT4OID, TEXTOID, TEXTOID, TEXTOID};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc,
													&TTSOpsMinimalTuple);
	Datum		values[7];
	bool		isnull;

	tuplestore_rescan(batch->store);
	(void) tuplestore_gettupleslot(batch->store, true, false, slot);
	values[0] = Int64GetDatum(job->job_id);
	values[1] = Int64GetDatum(batch->seqs[0]);
	values[2] = row;
	values[3] = Int32GetDatum(stream->tries);
	values[4] = CStringGetTextDatum(job->sqlstate ? job->sqlstate : "XX000");
	values[5] = CStringGetTextDatum(job->error ? job->error : "unknown error");
	values[6] = slot_getattr(slot, batch->desc->natts - 1, &isnull);
	sabot_spi_generic("INSERT INTO sabot.stream_dead_row"
					  " (job_id, sabot_seq, \"row\", attempts, sqlstate, error, sabot_op)"
					  " VALUES ($1, $2, $3, $4, $5, $6, $7)",
					  7, types, values, NULL, 0);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * bury - give up the one row that fails alone
 *
 * In a transaction, SPI connected; needs an active snapshot.
 */
static void
bury(const SabotJob *job, SabotStream *stream, SabotBatch *batch)
{
	Datum		row = row_as_json(job, batch);
	SabotEnd	end = {.state = SABOT_JOB_FAILED};
	ErrorData	error = {0};
	const char *code = job->sqlstate ? job->sqlstate : "XX000";
	SabotOwn	own;

	sabot_own_begin(&own);
	keep_dead(job, stream, batch, row);
	sabot_batch_forget(batch);
	error.sqlerrcode = MAKE_SQLSTATE(code[0], code[1], code[2], code[3],
									 code[4]);
	error.message = job->error ? job->error : pstrdup("unknown error");
	error.detail = psprintf("It was the row with sabot_seq " INT64_FORMAT
							", which is in sabot.stream_dead_letter now.",
							batch->seqs[0]);
	end.error = &error;
	end.attempt = stream->tries;
	end.atomic = true;
	sabot_job_record_child(job, &end, "batch");
	sabot_own_end(&own);
}

/*
 * cut - cut the rows that have failed in two, or give the only one up
 *
 * Returns whether one was.  In a transaction, as bury().
 */
static bool
cut(const SabotJob *job, SabotStream *stream)
{
	int64		until = piece_end(stream);
	bool		known = until != PG_INT64_MAX;
	SabotBatch *batch = sabot_batch_take(job->job_id, stream->floor, until,
										 stream->batch_rows);
	int			n = batch ? batch->nrows : 0;

	stream->failed = false;
	stream->tried_to = 0;
	if (known && n <= 1)
	{
		stream->nsuspects = Max(0, stream->nsuspects - 1);
		if (n == 1)
			bury(job, stream, batch);
		if (stream->nsuspects == 0)
			stream->tries = 0;
		return n == 1;
	}
	if (n > 0 && stream->nsuspects == 0)
		stream->suspects[stream->nsuspects++] = batch->seqs[n - 1];
	if (n > 1)
		stream->suspects[stream->nsuspects++] = batch->seqs[n / 2 - 1];
	return false;
}

/*
 * settle_interrupted - the owner has cancelled or paused the stream meanwhile
 */
static void
settle_interrupted(const SabotJob *job)
{
	SabotEnd	end = {0};

	end.attempt = job->attempt + 1;
	end.losses = job->losses;
	sabot_job_set_aside(job, sabot_agent_interrupted(), &end);
}

/*
 * pause_for_command - pause a stream because of its command
 */
static void
pause_for_command(const SabotJob *job, SabotStream *stream,
				  const ErrorData *error)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	stream->failed = false;
	stream->tried_to = 0;
	sabot_stream_update(stream, 0, 0, 0);
	sabot_own_commit_transaction(&own);
	sabot_stream_pause(job, psprintf("its command fails without rows, too: %s",
									 error->message));
}

/*
 * sabot_stream_split - see to the rows of a stream that have failed for good
 *
 * In no transaction, as the owner's agent.
 */
void
sabot_stream_split(const SabotJob *job, SabotStream *stream)
{
	ErrorData  *error = try_without_rows(job, stream);
	bool		buried;

	if (error != NULL && sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
	{
		settle_interrupted(job);
		return;
	}
	if (error != NULL)
	{
		pause_for_command(job, stream, error);
		return;
	}
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	buried = cut(job, stream);
	if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
	{
		AbortOutOfAnyTransaction();
		settle_interrupted(job);
		return;
	}
	sabot_stream_update(stream, 0, 0, buried);
	if (!sabot_stream_set(job, SABOT_JOB_QUEUED, NULL))
		elog(ERROR, "stream " INT64_FORMAT " was changed meanwhile",
			 job->job_id);
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
}
