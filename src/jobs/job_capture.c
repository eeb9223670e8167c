/*-------------------------------------------------------------------------
 *
 * job_capture.c
 *		What a job says while it runs: rows and notices.
 *
 * An agent has no client.  Rows go to a receiver of our own, which keeps the
 * first of them as JSON objects and lets the rest pass at the cost of a
 * function call.  A row's size is looked at before anything is done with it:
 * a value of 1 GB is refused while it still is a pointer to its TOAST table.
 *
 * Notices have no hook that sees them all: emit_log_hook is only called for
 * what goes to the server's log.  So the server is told that it has a client
 * (whereToSendOutput), and the functions that would write to its socket are
 * replaced, as pq_redirect_to_shm_mq() does in a parallel worker.  Nothing
 * else of a client exists, and nothing else asks for one: COPY with the
 * client and LISTEN are refused before (in functions, by the server itself),
 * results never go through whereToSendOutput in an agent, and the checks
 * whether the client is still there need MyProcPort.  Our functions run
 * inside errfinish(), possibly while memory is short or a transaction is
 * being aborted.  They parse in place, allocate little and within limits,
 * and raise no error of their own.  Once the limits are reached a notice
 * costs no more than being counted.
 *
 * IDENTIFICATION
 *		src/jobs/job_capture.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

/*
 * Without this libpq-be.h wants the headers of Kerberos, for members at the
 * end of a struct that is not used here.
 */
#undef ENABLE_GSS

#include "access/detoast.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "libpq/libpq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "jobs/jobs.h"

/* Receives the rows of a command. */
typedef struct RowReceiver
{
	DestReceiver pub;			/* must be first */
	SabotOutcome *outcome;
	SabotRowConsumer consumer;	/* or NULL */
	void	   *consumer_arg;
	MemoryContext context;		/* holds this */

	/* the row set being received */
	TupleDesc	tupdesc;
	MemoryContext set_context;	/* holds what follows, NULL before any row */
	MemoryContext row_context;	/* reset after each row */
	FmgrInfo   *to_jsonb;		/* for each column */
} RowReceiver;

/* Parts of a message in NoticeResponse format, NULL if absent. */
typedef struct NoticeParts
{
	const char *severity;		/* not translated */
	const char *message;
	const char *detail;
	const char *hint;
} NoticeParts;

/* Where notices go, NULL while not capturing, and what was before. */
static SabotOutcome *capturing = NULL;
static const PQcommMethods *saved_methods;
static CommandDest saved_dest;
static ProtocolVersion saved_protocol;

static void start_rows(DestReceiver *self, int operation, TupleDesc typeinfo);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);
static void end_rows(DestReceiver *self);
static void destroy_receiver(DestReceiver *self);
static void prepare_columns(RowReceiver *receiver);
static void check_row_size(RowReceiver *receiver, TupleTableSlot *slot);
static Jsonb *row_to_jsonb(RowReceiver *receiver, TupleTableSlot *slot);
static void column_to_value(RowReceiver *receiver, TupleTableSlot *slot,
							int column, JsonbValue *value);
static void keep_row(SabotOutcome *outcome, Jsonb *row);
static void count_kept_bytes(SabotOutcome *outcome, Size nbytes);

static void ignore_reset(void);
static int	ignore_flush(void);
static bool is_send_pending(void);
static int	take_message(char msgtype, const char *s, size_t len);
static void take_message_noblock(char msgtype, const char *s, size_t len);
static bool parse_message(const char *s, size_t len, NoticeParts *parts);
static void keep_notice(SabotOutcome *outcome, const NoticeParts *parts);
static int	append_part(char *buf, int len, int maxlen, const char *part);

static const PQcommMethods capture_methods = {
	.comm_reset = ignore_reset,
	.flush = ignore_flush,
	.flush_if_writable = ignore_flush,
	.is_send_pending = is_send_pending,
	.putmessage = take_message,
	.putmessage_noblock = take_message_noblock
};

/*
 * sabot_outcome_create - an empty outcome, allocated in the context given
 *
 * keep_rows is how many rows of the last row set to keep.  context has to
 * survive the transactions of the command.
 */
SabotOutcome *
sabot_outcome_create(MemoryContext context, int keep_rows)
{
	SabotOutcome *outcome = MemoryContextAllocZero(context,
												   sizeof(SabotOutcome));

	outcome->context = context;
	outcome->keep_rows = keep_rows;
	return outcome;
}

/*
 * sabot_capture_receiver - receiver that puts rows into an outcome
 *
 * Serves any number of row sets, one after the other: outcome->rows are those
 * of the last one.  consumer, if not NULL, is called with every row.
 * Allocated in the current memory context; the caller calls rDestroy, or
 * deletes the context.  Raises 54000 when rows kept exceed
 * SABOT_MAX_KEPT_BYTES.
 *
 * It says it were a tuplestore: only DestNone and the destinations of clients
 * are treated specially by portals.
 */
DestReceiver *
sabot_capture_receiver(SabotOutcome *outcome, SabotRowConsumer consumer,
					   void *consumer_arg)
{
	RowReceiver *receiver = palloc0(sizeof(RowReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_rows;
	receiver->pub.rShutdown = end_rows;
	receiver->pub.rDestroy = destroy_receiver;
	receiver->pub.mydest = DestTuplestore;
	receiver->outcome = outcome;
	receiver->consumer = consumer;
	receiver->consumer_arg = consumer_arg;
	receiver->context = CurrentMemoryContext;
	return (DestReceiver *) receiver;
}

/*
 * start_rows - a statement starts to return rows: forget the last one's
 */
static void
start_rows(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	RowReceiver *receiver = (RowReceiver *) self;
	SabotOutcome *outcome = receiver->outcome;

	for (int i = 0; i < outcome->nrows; i++)
		pfree(outcome->rows[i]);
	outcome->nrows = 0;
	outcome->kept_bytes = 0;
	outcome->rows_returned = true;
	receiver->tupdesc = typeinfo;
}

/*
 * receive_row - take a row, if anybody wants it
 *
 * Always returns true: the statement is to be run to its end.
 */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	SabotOutcome *outcome = receiver->outcome;
	bool		keep = outcome->nrows < outcome->keep_rows;
	MemoryContext oldcontext;
	Jsonb	   *row;

	if (!keep && receiver->consumer == NULL)
		return true;

	if (receiver->set_context == NULL)
		prepare_columns(receiver);
	oldcontext = MemoryContextSwitchTo(receiver->row_context);

	slot_getallattrs(slot);
	if (keep)
		check_row_size(receiver, slot);
	row = row_to_jsonb(receiver, slot);
	if (keep)
		keep_row(outcome, row);
	if (receiver->consumer)
		receiver->consumer(row, receiver->consumer_arg);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(receiver->row_context);
	return true;
}

/*
 * end_rows - the statement has returned its last row
 */
static void
end_rows(DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;

	if (receiver->set_context)
		MemoryContextDelete(receiver->set_context);
	receiver->set_context = NULL;
	receiver->tupdesc = NULL;
}

/*
 * destroy_receiver - free the receiver; the outcome stays
 */
static void
destroy_receiver(DestReceiver *self)
{
	end_rows(self);
	pfree(self);
}

/*
 * prepare_columns - set up what converting the rows of a row set takes
 *
 * to_jsonb(anyelement) learns its argument's type from the expression it is
 * called by, so each column gets a call of its own to be called by.
 */
static void
prepare_columns(RowReceiver *receiver)
{
	TupleDesc	tupdesc = receiver->tupdesc;
	MemoryContext oldcontext;

	receiver->set_context = AllocSetContextCreate(receiver->context,
												  "sabot row set",
												  ALLOCSET_SMALL_SIZES);
	receiver->row_context = AllocSetContextCreate(receiver->set_context,
												  "sabot row",
												  ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(receiver->set_context);

	receiver->to_jsonb = palloc0(tupdesc->natts * sizeof(FmgrInfo));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		CaseTestExpr *arg = makeNode(CaseTestExpr);

		arg->typeId = TupleDescAttr(tupdesc, i)->atttypid;
		arg->typeMod = -1;
		fmgr_info(F_TO_JSONB, &receiver->to_jsonb[i]);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												 list_make1(arg),
												 InvalidOid, InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &receiver->to_jsonb[i]);
	}

	MemoryContextSwitchTo(oldcontext);
}

/*
 * check_row_size - refuse a row that could not be kept, from its raw size
 *
 * Reads the lengths only: nothing is fetched from a TOAST table or
 * decompressed.
 */
static void
check_row_size(RowReceiver *receiver, TupleTableSlot *slot)
{
	Size		nbytes = 0;

	for (int i = 0; i < receiver->tupdesc->natts; i++)
	{
		int			attlen = TupleDescAttr(receiver->tupdesc, i)->attlen;

		if (slot->tts_isnull[i])
			continue;
		if (attlen == -1)
			nbytes += toast_raw_datum_size(slot->tts_values[i]) - VARHDRSZ;
		else if (attlen == -2)
			nbytes += strlen(DatumGetCString(slot->tts_values[i]));
	}
	count_kept_bytes(receiver->outcome, nbytes);
}

/*
 * row_to_jsonb - a row as a JSON object keyed by column name
 *
 * slot is deformed.  Of columns of the same name the last one wins, as in
 * jsonb generally.  The result and all garbage are in the current context.
 */
static Jsonb *
row_to_jsonb(RowReceiver *receiver, TupleTableSlot *slot)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < receiver->tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(receiver->tupdesc, i);
		JsonbValue	key;
		JsonbValue	value;

		if (att->attisdropped)
			continue;
		key.type = jbvString;
		key.val.string.val = NameStr(att->attname);
		key.val.string.len = strlen(NameStr(att->attname));
		pushJsonbValue(&state, WJB_KEY, &key);
		column_to_value(receiver, slot, i, &value);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(object);
}

/*
 * column_to_value - fill *value with what to_jsonb() makes of a column
 */
static void
column_to_value(RowReceiver *receiver, TupleTableSlot *slot, int column,
				JsonbValue *value)
{
	Jsonb	   *jsonb;

	if (slot->tts_isnull[column])
	{
		value->type = jbvNull;
		return;
	}
	jsonb = DatumGetJsonbP(FunctionCall1(&receiver->to_jsonb[column],
										 slot->tts_values[column]));
	if (!JsonbExtractScalar(&jsonb->root, value))
		JsonbToJsonbValue(jsonb, value);
}

/*
 * keep_row - copy a row into the outcome
 */
static void
keep_row(SabotOutcome *outcome, Jsonb *row)
{
	int			nrows = outcome->nrows;
	MemoryContext oldcontext;

	count_kept_bytes(outcome, VARSIZE(row));
	outcome->kept_bytes += VARSIZE(row);

	oldcontext = MemoryContextSwitchTo(outcome->context);
	/* Room for 16, then whenever a power of two has filled up. */
	if (outcome->rows == NULL)
		outcome->rows = palloc(16 * sizeof(Jsonb *));
	else if (nrows >= 16 && (nrows & (nrows - 1)) == 0)
		outcome->rows = repalloc_huge(outcome->rows,
									  2 * sizeof(Jsonb *) * nrows);
	outcome->rows[nrows] = palloc(VARSIZE(row));
	memcpy(outcome->rows[nrows], row, VARSIZE(row));
	outcome->nrows++;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * count_kept_bytes - raise 54000 if so many bytes more are too many
 */
static void
count_kept_bytes(SabotOutcome *outcome, Size nbytes)
{
	if (nbytes > SABOT_MAX_KEPT_BYTES - outcome->kept_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rows kept by the job exceed %d MB",
						SABOT_MAX_KEPT_BYTES / (1024 * 1024)),
				 errhint("Lower keep_rows, or write the rows into a table.")));
}

/*
 * sabot_capture_notices_begin - collect what the server would tell a client
 *
 * The caller makes sure that sabot_capture_notices_end() is called, also
 * after an error.  Beginning while one has begun only changes the outcome.
 */
void
sabot_capture_notices_begin(SabotOutcome *outcome)
{
	if (capturing == NULL)
	{
		saved_methods = PqCommMethods;
		saved_dest = whereToSendOutput;
		saved_protocol = FrontendProtocol;
	}
	capturing = outcome;
	PqCommMethods = &capture_methods;
	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;
}

/*
 * sabot_capture_notices_end - stop collecting; nothing if it has not begun
 */
void
sabot_capture_notices_end(void)
{
	if (capturing == NULL)
		return;
	PqCommMethods = saved_methods;
	whereToSendOutput = saved_dest;
	FrontendProtocol = saved_protocol;
	capturing = NULL;
}

/*
 * ignore_reset - there is no connection to reset
 */
static void
ignore_reset(void)
{
}

/*
 * ignore_flush - there is no connection to flush; returns success
 */
static int
ignore_flush(void)
{
	return 0;
}

/*
 * is_send_pending - nothing ever is
 */
static bool
is_send_pending(void)
{
	return false;
}

/*
 * take_message - take a message to the client; always returns success
 *
 * Notices are kept; errors are the business of who catches them, and nothing
 * else is of interest.
 */
static int
take_message(char msgtype, const char *s, size_t len)
{
	SabotOutcome *outcome = capturing;
	NoticeParts parts;

	if (outcome == NULL || msgtype != 'N')
		return 0;

	outcome->nnotices++;
	if (list_length(outcome->notices) < SABOT_MAX_KEPT_NOTICES &&
		outcome->notice_bytes < SABOT_MAX_NOTICE_BYTES &&
		CritSectionCount == 0 &&
		parse_message(s, len, &parts))
		keep_notice(outcome, &parts);
	return 0;
}

/*
 * take_message_noblock - the same for who must not wait
 */
static void
take_message_noblock(char msgtype, const char *s, size_t len)
{
	(void) take_message(msgtype, s, len);
}

/*
 * parse_message - find the parts of an ErrorResponse or NoticeResponse
 *
 * The message is a sequence of a code byte and a string each, ended by a zero
 * byte.  Returns false if it is not.
 */
static bool
parse_message(const char *s, size_t len, NoticeParts *parts)
{
	const char *end = s + len;

	memset(parts, 0, sizeof(NoticeParts));
	while (s < end && *s != '\0')
	{
		const char *value = s + 1;
		const char *next = memchr(value, '\0', end - value);

		if (next == NULL)
			return false;
		switch (*s)
		{
			case PG_DIAG_SEVERITY_NONLOCALIZED:
				parts->severity = value;
				break;
			case PG_DIAG_MESSAGE_PRIMARY:
				parts->message = value;
				break;
			case PG_DIAG_MESSAGE_DETAIL:
				parts->detail = value;
				break;
			case PG_DIAG_MESSAGE_HINT:
				parts->hint = value;
				break;
			default:
				break;
		}
		s = next + 1;
	}
	return parts->severity && parts->message;
}

/*
 * keep_notice - add a notice to the outcome, as psql would show it
 *
 * What exceeds the limit of bytes is cut off.  If there is no memory it is
 * not kept.
 *
 * The text is in the client encoding.  That is the database's unless the job
 * changed it; then characters that would be wrong become question marks,
 * since a conversion could raise an error.
 */
static void
keep_notice(SabotOutcome *outcome, const NoticeParts *parts)
{
	int			room = SABOT_MAX_NOTICE_BYTES - outcome->notice_bytes;
	Size		size = strlen(parts->severity) + strlen(parts->message) + 32;
	MemoryContext oldcontext;
	char	   *buf;
	int			len;

	size += parts->detail ? strlen(parts->detail) : 0;
	size += parts->hint ? strlen(parts->hint) : 0;
	size = Min(size, (Size) room + 1);
	buf = MemoryContextAllocExtended(outcome->context, size,
									 MCXT_ALLOC_NO_OOM);
	if (buf == NULL)
		return;

	len = append_part(buf, 0, size, parts->severity);
	len = append_part(buf, len, size, ":  ");
	len = append_part(buf, len, size, parts->message);
	if (parts->detail)
	{
		len = append_part(buf, len, size, "\nDETAIL:  ");
		len = append_part(buf, len, size, parts->detail);
	}
	if (parts->hint)
	{
		len = append_part(buf, len, size, "\nHINT:  ");
		len = append_part(buf, len, size, parts->hint);
	}

	if (pg_get_client_encoding() != GetDatabaseEncoding())
	{
		for (int i = 0; i < len; i++)
			buf[i] = IS_HIGHBIT_SET(buf[i]) ? '?' : buf[i];
	}
	else
		len = pg_mbcliplen(buf, len, len);
	buf[len] = '\0';

	oldcontext = MemoryContextSwitchTo(outcome->context);
	outcome->notices = lappend(outcome->notices, buf);
	MemoryContextSwitchTo(oldcontext);
	outcome->notice_bytes += Max(len, 1);
	/* A cut one has reached the limit, wherever its last character ended. */
	if (size == (Size) room + 1)
		outcome->notice_bytes = SABOT_MAX_NOTICE_BYTES;
}

/*
 * append_part - append to buf of maxlen bytes, as much as it can take
 *
 * Returns the new length; there is no zero at the end, but room for it.
 */
static int
append_part(char *buf, int len, int maxlen, const char *part)
{
	int			n = Min((Size) (maxlen - 1 - len), strlen(part));

	strlcpy(buf + len, part, n + 1);
	return len + n;
}
