/*-------------------------------------------------------------------------
 *
 * job_signal.c
 *		Requests to running jobs, in their table.
 *
 * Who asks an agent to cancel or pause its job writes that down first, so that
 * it is known whatever becomes of the agent, of who asks, and of the signal in
 * between.  It holds until somebody obeys it or its owner takes it back: what
 * was heard of it, or read there a moment ago, is no reason to act.  So
 * everybody who acts takes the request first, and the job's row after that.
 *
 * IDENTIFICATION
 *		src/jobs/job_signal.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "jobs/jobs.h"

/*
 * sabot_job_write_signal - put a request to a running job into its table
 *
 * One to cancel it stays, whatever comes after it.  Between sabot_own_begin()
 * and sabot_own_end(), SPI connected.
 */
void
sabot_job_write_signal(int64 job_id, SabotInterrupt reason)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job_id),
	CStringGetTextDatum(reason == SABOT_INTERRUPT_CANCEL ? "cancel" : "pause")};

	sabot_spi("INSERT INTO sabot.job_signal (job_id, action) VALUES ($1, $2)"
			  " ON CONFLICT (job_id) DO UPDATE SET action = excluded.action"
			  " WHERE job_signal.action <> 'cancel'",
			  2, types, values, NULL, 0);
}

/*
 * signal_of_row - what the first row of SPI's result, an action, asks for
 */
static SabotInterrupt
signal_of_row(void)
{
	const char *action = SPI_getvalue(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, 1);

	return strcmp(action, "cancel") == 0 ? SABOT_INTERRUPT_CANCEL :
		SABOT_INTERRUPT_PAUSE;
}

/*
 * sabot_job_take_signal - take the request to a job out of its table, as it is
 * about to be obeyed
 *
 * SABOT_INTERRUPT_NONE if there is none (anymore), or somebody has it locked:
 * whoever takes it back or makes it another one sees to it, even if that is
 * rolled back.  To be called before the job's row is locked, which is the order
 * of sabot.resume_job(), too.  Between sabot_own_begin() and sabot_own_end(),
 * SPI connected.
 */
SabotInterrupt
sabot_job_take_signal(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	if (sabot_spi("DELETE FROM sabot.job_signal WHERE job_id ="
				  " (SELECT s.job_id FROM sabot.job_signal s WHERE s.job_id = $1"
				  "  FOR UPDATE SKIP LOCKED) RETURNING action",
				  1, types, values, NULL, 0) == 0)
		return SABOT_INTERRUPT_NONE;
	return signal_of_row();
}

/*
 * sabot_job_take_back_pause - a job is not to be paused after all; whether it
 * was to be
 *
 * An agent that obeys just now is waited for.  As above.
 */
bool
sabot_job_take_back_pause(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};

	return sabot_spi("DELETE FROM sabot.job_signal WHERE job_id = $1 AND action = 'pause'",
					 1, types, values, NULL, 0) > 0;
}

/*
 * sabot_job_obey_signal - cancel or pause a job that does not run (anymore), as
 * asked; interrupt it if it runs all the same
 *
 * Returns false if there is no such request, as above.  In no transaction.
 */
bool
sabot_job_obey_signal(int64 job_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotInterrupt reason;
	SabotOwn	own;
	bool		asked;

	sabot_own_start_transaction(&own);
	asked = sabot_spi("SELECT action FROM sabot.job_signal WHERE job_id = $1"
					  " FOR UPDATE SKIP LOCKED",
					  1, types, values, NULL, 0) > 0;
	if (asked)
	{
		reason = signal_of_row();
		if (!sabot_job_interrupt_row(job_id, reason))
			(void) sabot_job_take_signal(job_id);
		/* It runs, begun before the request could be seen. */
		else if (!sabot_pool_interrupt(MyDatabaseId, job_id, reason))
			sabot_pool_request_probe(MyDatabaseId);
	}
	sabot_own_commit_transaction(&own);
	return asked;
}
