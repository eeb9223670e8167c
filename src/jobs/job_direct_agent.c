/*-------------------------------------------------------------------------
 *
 * job_direct_agent.c
 *		The agent's side of sabot.run: run a command, send the answer back.
 *
 * The answer goes through a shm_mq in the caller's segment while the command
 * runs: rows as they come, notices as they are raised.  For the latter the
 * functions that would write to a client's socket are replaced, as in
 * job_capture.c; the server's own pq_redirect_to_shm_mq() is made for workers
 * that serve one leader and end, and leaves callbacks on the segment, which
 * here is used again.
 *
 * For that reason, too, the queue is not tied to the segment: whoever is done
 * with it normally just stops using it.  The agent then releases the request,
 * and only after that the caller uses its segment again.  On any other way out
 * the queue is detached explicitly, which tells the caller.
 *
 * The segment stays mapped for the next request, which often is by the same
 * session: mapping it would take longer than all the rest.
 *
 * IDENTIFICATION
 *		src/jobs/job_direct_agent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

/* Without this libpq-be.h wants the headers of Kerberos. */
#undef ENABLE_GSS

#include "access/xact.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "compat.h"
#include "jobs/job_direct.h"
#include "jobs/jobs.h"

/* The request our agent works on. */
typedef struct DirectWork
{
	SabotDirectTicket ticket;
	MemoryContext context;		/* for the time of the request */
	dsm_segment *segment;		/* mapped, maybe since the last request */
	dsm_handle	handle;			/* of segment */
	shm_mq_handle *queue;		/* NULL if there is nobody to talk to */
	bool		sending;		/* in the middle of a message */
	bool		answered;		/* the last message has been sent */
	SabotOutcome *outcome;
	const PQcommMethods *saved_methods;
	CommandDest saved_dest;
	ProtocolVersion saved_protocol;
} DirectWork;

static DirectWork work;

static int	put_message(char msgtype, const char *s, size_t len);
static void put_message_noblock(char msgtype, const char *s, size_t len);
static void reset_nothing(void);
static int	flush_nothing(void);
static bool nothing_pending(void);

static const PQcommMethods direct_methods = {
	.comm_reset = reset_nothing,
	.flush = flush_nothing,
	.flush_if_writable = flush_nothing,
	.is_send_pending = nothing_pending,
	.putmessage = put_message,
	.putmessage_noblock = put_message_noblock
};

/*
 * hang_up - detach from the queue, which tells the caller
 */
static void
hang_up(void)
{
	shm_mq_handle *queue = work.queue;

	work.queue = NULL;
	if (queue != NULL)
		shm_mq_detach(queue);
}

/*
 * hang_up_at_exit - the same when our agent ends in the middle
 *
 * The error it dies of has been noted in its slot.
 */
static void
hang_up_at_exit(int code, Datum arg)
{
	SabotSlot	slot;

	if (work.queue == NULL)
		return;
	if (sabot_pool_find_work(MyDatabaseId, -work.ticket.seq, &slot) &&
		slot.sqlstate != 0)
		sabot_direct_note_error(&work.ticket, slot.sqlstate, slot.error);
	hang_up();
}

/*
 * send_message - send a message to the caller; false if it cannot be
 *
 * Waits while the queue is full; an interrupt may raise an error then.  The
 * message it cut off can never be completed, so there will be no other.
 */
static bool
send_message(uint64 kind, const void *data, Size len, bool flush)
{
	shm_mq_iovec iov[2] = {
		{.data = (const char *) &kind,.len = sizeof(kind)},
		{.data = data,.len = len}
	};
	shm_mq_result result;

	if (work.queue == NULL || work.sending)
		return false;
	work.sending = true;
	result = shm_mq_sendv(work.queue, iov, 2, false, flush);
	work.sending = false;
	return result == SHM_MQ_SUCCESS;
}

/*
 * put_message - a message for the client of which we have none
 *
 * Notices are passed on.  Errors are the business of who catches them, or of
 * hang_up_at_exit().
 */
static int
put_message(char msgtype, const char *s, size_t len)
{
	if (msgtype == 'N')
		(void) send_message(SABOT_DIRECT_NOTICE, s, len, true);
	return 0;
}

/*
 * put_message_noblock - the same for who must not wait: nobody, so far
 */
static void
put_message_noblock(char msgtype, const char *s, size_t len)
{
}

/*
 * reset_nothing - there is no connection to reset
 */
static void
reset_nothing(void)
{
}

/*
 * flush_nothing - there is no connection to flush; returns success
 */
static int
flush_nothing(void)
{
	return 0;
}

/*
 * nothing_pending - nothing ever is
 */
static bool
nothing_pending(void)
{
	return false;
}

/*
 * begin_redirect - pass on what the server would tell a client
 */
static void
begin_redirect(void)
{
	work.saved_methods = PqCommMethods;
	work.saved_dest = whereToSendOutput;
	work.saved_protocol = FrontendProtocol;
	PqCommMethods = &direct_methods;
	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;
}

/*
 * end_redirect - undo the above
 */
static void
end_redirect(void)
{
	PqCommMethods = work.saved_methods;
	whereToSendOutput = work.saved_dest;
	FrontendProtocol = work.saved_protocol;
}

/*
 * send_row - row consumer: send a row on
 *
 * The outcome keeps no rows, so its count of kept bytes is ours to use: it is
 * set to zero at the start of each row set, and 1 means that the caller has
 * begun with this one.
 */
static void
send_row(Jsonb *row, void *arg)
{
	bool		sent = true;

	if (work.outcome->kept_bytes == 0)
		sent = send_message(SABOT_DIRECT_NEW_SET, NULL, 0, false);
	work.outcome->kept_bytes = 1;
	if (!sent || !send_message(SABOT_DIRECT_ROW, row, VARSIZE(row), false))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the session that called sabot.run has gone")));
}

/*
 * append_field - append a field to a message in ErrorResponse format
 */
static void
append_field(StringInfo buf, char code, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfoChar(buf, code);
	appendBinaryStringInfo(buf, value, strlen(value) + 1);
}

/*
 * append_number - append a field that is a number, unless it is zero
 */
static void
append_number(StringInfo buf, char code, int value)
{
	char		digits[16];

	if (value == 0)
		return;
	snprintf(digits, sizeof(digits), "%d", value);
	append_field(buf, code, digits);
}

/*
 * send_error - send the error that ended the command
 *
 * If that is impossible it is noted in the request.  Raises no error itself:
 * nothing waits for the interrupts that are off here longer than the caller
 * takes to read on or to go.
 */
static void
send_error(const ErrorData *edata)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_field(&buf, PG_DIAG_SEVERITY_NONLOCALIZED, "ERROR");
	append_field(&buf, PG_DIAG_SQLSTATE, unpack_sql_state(edata->sqlerrcode));
	append_field(&buf, PG_DIAG_MESSAGE_PRIMARY,
				 edata->message ? edata->message : "missing error text");
	append_field(&buf, PG_DIAG_MESSAGE_DETAIL, edata->detail);
	append_field(&buf, PG_DIAG_MESSAGE_HINT, edata->hint);
	append_field(&buf, PG_DIAG_CONTEXT, edata->context);
	append_field(&buf, PG_DIAG_SCHEMA_NAME, edata->schema_name);
	append_field(&buf, PG_DIAG_TABLE_NAME, edata->table_name);
	append_field(&buf, PG_DIAG_COLUMN_NAME, edata->column_name);
	append_field(&buf, PG_DIAG_DATATYPE_NAME, edata->datatype_name);
	append_field(&buf, PG_DIAG_CONSTRAINT_NAME, edata->constraint_name);
	append_number(&buf, PG_DIAG_STATEMENT_POSITION, edata->cursorpos);
	append_number(&buf, PG_DIAG_INTERNAL_POSITION, edata->internalpos);
	append_field(&buf, PG_DIAG_INTERNAL_QUERY, edata->internalquery);
	appendStringInfoChar(&buf, '\0');

	HOLD_INTERRUPTS();
	work.answered = send_message(SABOT_DIRECT_ERROR, buf.data, buf.len, true);
	RESUME_INTERRUPTS();
	if (!work.answered)
		sabot_direct_note_error(&work.ticket, edata->sqlerrcode,
								edata->message);
}

/*
 * map_segment - map the segment of the request
 *
 * Returns NULL if it is gone, as it is when its caller has.
 */
static SabotDirectSegment *
map_segment(void)
{
	if (work.segment != NULL && work.handle != work.ticket.handle)
	{
		dsm_segment *old = work.segment;

		work.segment = NULL;
		dsm_detach(old);
	}
	if (work.segment == NULL)
	{
		work.segment = dsm_attach(work.ticket.handle);
		if (work.segment == NULL)
			return NULL;
		work.handle = work.ticket.handle;
		dsm_pin_mapping(work.segment);
	}
	return dsm_segment_address(work.segment);
}

/*
 * copy_part - copy a part of the request out of the segment, NULL if absent
 */
static void *
copy_part(const SabotDirectSegment *segment, Size offset, Size len)
{
	void	   *copy;

	if (len == 0)
		return NULL;
	copy = palloc(len);
	memcpy(copy, segment->data + offset, len);
	return copy;
}

/*
 * run_command - run the command in transactions of its own
 */
static void
run_command(const char *command, Jsonb *params, ArrayType *settings,
			bool singly)
{
	debug_query_string = command;
	pgstat_report_appname("sabot run");
	pgstat_report_activity(STATE_RUNNING, command);
	SetCurrentStatementStartTimestamp();

	StartTransactionCommand();
	sabot_settings_apply(settings);
	if (singly)
		CommitTransactionCommand();
	else
		BeginImplicitTransactionBlock();

	work.outcome = sabot_outcome_create(work.context, 0);
	MemoryContextSwitchTo(work.context);
	sabot_job_execute(command, NIL, params, NULL,
					  singly ? SABOT_EXEC_SINGLY : SABOT_EXEC_ATOMIC,
					  work.outcome, NULL, send_row, NULL);
	if (!singly)
	{
		EndImplicitTransactionBlock();
		CommitTransactionCommand();
	}
}

/*
 * answer_request - read the request, run its command, send the end
 */
static void
answer_request(void)
{
	SabotDirectSegment *segment = map_segment();
	shm_mq	   *queue;
	char	   *command;
	Jsonb	   *params;
	ArrayType  *settings;
	bool		singly;

	if (segment == NULL)
		return;
	queue = (shm_mq *) (segment->data + segment->queue);
	shm_mq_set_sender(queue, MyProc);
	work.queue = shm_mq_attach(queue, NULL, NULL);

	command = copy_part(segment, 0, segment->command_len);
	params = copy_part(segment, segment->params, segment->params_len);
	settings = copy_part(segment, segment->settings, segment->settings_len);
	singly = segment->singly;
	run_command(command, params, settings, singly);

	/* An empty row set has left no trace yet. */
	if (work.outcome->rows_returned && work.outcome->kept_bytes == 0)
		(void) send_message(SABOT_DIRECT_NEW_SET, NULL, 0, false);
	HOLD_INTERRUPTS();
	work.answered = send_message(SABOT_DIRECT_DONE, NULL, 0, true);
	RESUME_INTERRUPTS();
}

/*
 * report_failure - after an error: undo the command, tell the caller
 */
static void
report_failure(void)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(work.context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(work.context);
	send_error(edata);
}

/*
 * serve_request - answer a request, whatever happens
 */
static void
serve_request(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(hang_up_at_exit, (Datum) 0);
	registered = true;

	work.context = AllocSetContextCreate(TopMemoryContext, "sabot run",
										 ALLOCSET_DEFAULT_SIZES);
	work.sending = false;
	work.answered = false;
	MemoryContextSwitchTo(work.context);
	begin_redirect();
	PG_TRY();
	{
		sabot_agent_accept_interrupts(true);
		if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling statement due to user request")));
		answer_request();
	}
	PG_CATCH();
	{
		sabot_agent_accept_interrupts(false);
		report_failure();
	}
	PG_END_TRY();
	sabot_agent_accept_interrupts(false);
	end_redirect();

	if (!work.answered)
		hang_up();
	work.queue = NULL;
	work.outcome = NULL;
	debug_query_string = NULL;
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(work.context);
}

/*
 * drop_large_segment - do not keep a large segment mapped
 */
static void
drop_large_segment(void)
{
	dsm_segment *segment = work.segment;

	if (segment == NULL ||
		dsm_segment_map_length(segment) <= SABOT_DIRECT_MAX_KEPT)
		return;
	work.segment = NULL;
	dsm_detach(segment);
}

/*
 * sabot_direct_run_next - run the oldest request that waits for our agent
 *
 * Called in no transaction.  Returns false if there is none, or our agent is
 * not fit for another one.  Raises no error of the command's; one that is
 * raised all the same is to end the agent.
 */
bool
sabot_direct_run_next(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	Oid			roleid = GetSessionUserId();

	if (!sabot_direct_any())
		return false;
	AcceptInvalidationMessages();
	if (sabot_agent_authority_changed() ||
		!sabot_direct_take(roleid, &work.ticket))
		return false;

	sabot_pool_took_work(sabot_my_pair());
	(void) sabot_pool_begin_work(-work.ticket.seq, 0);

	/* From now on an interrupt finds us; did the caller go before that? */
	work.answered = false;
	if (!sabot_direct_withdrawn(&work.ticket))
		serve_request();
	drop_large_segment();
	sabot_direct_release(&work.ticket, work.answered);

	(void) sabot_pool_end_work();
	MemoryContextSwitchTo(oldcontext);
	sabot_agent_reset_session();
	MemoryContextSwitchTo(oldcontext);
	return true;
}
