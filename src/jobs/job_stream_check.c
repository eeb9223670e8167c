/*-------------------------------------------------------------------------
 *
 * job_stream_check.c
 *		What can be told of a stream at its submission that is not wrong yet.
 *
 * A stream runs for the first time when a row comes, which may be long after
 * its submitter has gone; what he has mistyped is better told at once.  But its
 * command may use what will only be there by then, and an earlier statement may
 * make what a later one needs: so nothing is refused, and the submitter warned.
 * Nothing is executed for that, the command is only analyzed, as its owner.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_check.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "jobs/job_stream.h"

/*
 * mentions_batch - whether "batch" occurs in a command, in whatever letters
 */
static bool
mentions_batch(const char *command)
{
	for (; *command != '\0'; command++)
		if (pg_strncasecmp(command, "batch", strlen("batch")) == 0)
			return true;
	return false;
}

/*
 * leaves_catalog - whether a statement is one that leaves the catalog as it
 * was, as far as one can see, so that the next one can be analyzed, too
 */
static bool
leaves_catalog(const RawStmt *raw)
{
	switch (nodeTag(raw->stmt))
	{
		case T_SelectStmt:
			return ((const SelectStmt *) raw->stmt)->intoClause == NULL;
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
			return true;
		default:
			return false;
	}
}

/*
 * analyze - analyze the statements of a command up to one that may change what
 * the next one means
 *
 * Raises what is wrong with them.
 */
static void
analyze(const char *command, QueryEnvironment *env)
{
	ListCell   *lc;

	foreach(lc, sabot_job_parse(command))
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);

		if (!leaves_catalog(raw))
			return;
		CHECK_FOR_INTERRUPTS();
		PushActiveSnapshot(GetTransactionSnapshot());
		(void) parse_analyze_fixedparams(raw, command, NULL, 0, env);
		PopActiveSnapshot();
	}
}

/*
 * try_analyze - as analyze(), but return the error, or NULL
 *
 * It is undone, so that no lock stays.  Raises errors that say nothing of the
 * command.
 */
static ErrorData *
try_analyze(const char *command, QueryEnvironment *env)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		analyze(command, env);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (error != NULL &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_FEATURE_NOT_SUPPORTED)
		ReThrowError(error);
	return error;
}

/*
 * sabot_stream_check - tell the submitter of a stream what will keep it from
 * handling rows, as it looks now
 *
 * Its capture has begun.
 */
void
sabot_stream_check(int64 job_id, const char *command)
{
	Relation	rel;
	ErrorData  *error;

	if (!mentions_batch(command))
		ereport(NOTICE,
				(errmsg("command of stream " INT64_FORMAT " does not mention \"batch\"",
						job_id),
				 errdetail("That is the relation with the rows that it is to handle.")));
	rel = table_open(sabot_capture_table(job_id, 0), AccessShareLock);
	error = try_analyze(command, sabot_batch_env_of(RelationGetDescr(rel)));
	table_close(rel, NoLock);
	if (error == NULL)
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("stream " INT64_FORMAT " will pause at its first row: %s",
					job_id, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) :
			 error->hint ? errdetail_internal("%s", error->hint) : 0,
			 errhint("Unless that is put right before, cancel the stream and submit it again."),
			 internalerrquery(command),
			 error->cursorpos > 0 ? internalerrposition(error->cursorpos) : 0));
}
