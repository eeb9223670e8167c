/*-------------------------------------------------------------------------
 *
 * llm_source.c
 *		The query whose rows are the items of a job.
 *
 * At submit the query is analysed and not run: that tells its columns, and
 * refuses what is no query, while there is somebody to tell.  When the job
 * starts it is run once, through a cursor, as the job's owner: what it reads
 * is one snapshot, and what it costs in memory is one batch of rows, however
 * many there are.  How many rows make a batch follows from their size.
 *
 * IDENTIFICATION
 *		src/llm/llm_source.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_source.h"
#include "llm/llm_template.h"

/* A fetch is to be about so large. */
#define FETCH_BYTES		(4 * 1024 * 1024)
#define FIRST_FETCH		10
#define MAX_FETCH		1000

/*
 * point_into_source - error callback: a position is one in the source, not in
 * the statement that submits it
 */
static void
point_into_source(void *arg)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((char *) arg);
}

/*
 * invalid_source - raise an error for a source that is no query
 */
static void
invalid_source(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errhint("Give one SELECT, VALUES or TABLE statement, each row of which is an item.")));
}

/*
 * the_select - the statement of a source, parsed
 *
 * Errors: syntax errors, 22023 if it is not exactly one query.
 */
static RawStmt *
the_select(const char *source)
{
	List	   *statements = sabot_job_parse(source);
	RawStmt    *raw;

	if (statements == NIL)
		invalid_source("source contains no statement");
	if (list_length(statements) > 1)
		invalid_source("source contains more than one statement");
	raw = linitial_node(RawStmt, statements);
	if (!IsA(raw->stmt, SelectStmt))
		invalid_source(psprintf("source cannot be %s",
								CreateCommandName(raw->stmt)));
	return raw;
}

/*
 * locks_rows - query tree walker: whether there is FOR UPDATE or its like
 */
static bool
locks_rows(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return ((Query *) node)->rowMarks != NIL ||
			query_tree_walker((Query *) node, locks_rows, context, 0);
	return expression_tree_walker(node, locks_rows, context);
}

/*
 * check_query - raise an error if an analysed source is more than a query
 */
static void
check_query(Query *query)
{
	if (query->commandType != CMD_SELECT || query->utilityStmt != NULL)
		invalid_source("source cannot be SELECT INTO");
	if (query->hasModifyingCTE)
		invalid_source("source cannot modify data");
	if (locks_rows((Node *) query, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("source cannot lock rows"),
				 errdetail("Locks would be gone long before the answers are there."),
				 errhint("Leave out FOR UPDATE or FOR SHARE.")));
	if (isQueryUsingTempRelation(query))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("source cannot use temporary tables"),
				 errdetail("It is run by another session, which cannot see them.")));
}

/*
 * sabot_source_query - a source, analysed as the current user; it is not run
 *
 * Errors: those of the parser and of parse analysis, with their position in
 * the source; 22023 if it is not exactly one query that only reads; 0A000 for
 * row locks and temporary tables.
 */
Query *
sabot_source_query(const char *source)
{
	ErrorContextCallback callback;
	bool		push = !ActiveSnapshotSet();
	Query	   *query;

	callback.callback = point_into_source;
	callback.arg = unconstify(char *, source);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (push)
		PushActiveSnapshot(GetTransactionSnapshot());
	query = parse_analyze_fixedparams(the_select(source), source, NULL, 0,
									  NULL);
	if (push)
		PopActiveSnapshot();
	check_query(query);
	error_context_stack = callback.previous;
	return query;
}

/*
 * sabot_source_columns - what columns a source has; it is not run
 *
 * The result is allocated in the current memory context.  Errors: those of
 * sabot_source_query(), and 22023 if there are none.
 */
TupleDesc
sabot_source_columns(const char *source)
{
	TupleDesc	columns = ExecCleanTypeFromTL(sabot_source_query(source)->targetList);

	if (columns->natts == 0)
		invalid_source("source has no columns");
	return columns;
}

/*
 * sabot_source_check_key - raise 42703 unless the columns of the key are
 * columns of the source, 42702 if one is there twice, 42701 if it is named
 * twice
 */
void
sabot_source_check_key(const SabotLlmSpec *spec, TupleDesc columns)
{
	ListCell   *lc;

	foreach(lc, spec->key)
	{
		char	   *name = lfirst(lc);
		ListCell   *other;

		if (sabot_column_find(columns, name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the source has no column \"%s\", which is in key",
							name),
					 errhint("The source has these columns: %s.",
							 sabot_column_list(columns))));
		foreach(other, spec->key)
			if (other != lc && strcmp(lfirst(other), name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("key names column \"%s\" more than once",
							name)));
	}
}

/*
 * sabot_source_as_table - a source as what may stand in FROM
 *
 * A comment at its end may go to the end of the line.
 */
char *
sabot_source_as_table(const char *source)
{
	RawStmt    *raw = the_select(source);
	const char *start = source + raw->stmt_location;
	int			len = raw->stmt_len > 0 ? raw->stmt_len : (int) strlen(start);

	return psprintf("(%.*s\n)", len, start);
}

/*
 * sabot_source_open - begin to run a source as the current user
 *
 * The caller is connected to SPI.  What it reads is as of now.
 */
void
sabot_source_open(SabotSourceScan *scan, const char *source)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(source, 0, NULL,
										  CURSOR_OPT_NO_SCROLL);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", source,
			 SPI_result_code_string(SPI_result));
	scan->portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	scan->columns = scan->portal->tupDesc;
	scan->next_fetch = FIRST_FETCH;
}

/*
 * sabot_source_fetch - the next rows of a source, at most limit of them
 *
 * NULL if there are no more.  To be freed with SPI_freetuptable().  Rows that
 * turn out to be large are fetched in smaller numbers the next time.
 */
SPITupleTable *
sabot_source_fetch(SabotSourceScan *scan, int limit)
{
	int64		bytes = 0;
	uint64		rows;
	SPITupleTable *table;

	CHECK_FOR_INTERRUPTS();
	SPI_cursor_fetch(scan->portal, true, Min(limit, scan->next_fetch));
	table = SPI_tuptable;
	rows = SPI_processed;
	if (rows == 0)
	{
		SPI_freetuptable(table);
		return NULL;
	}
	for (uint64 i = 0; i < rows; i++)
		bytes += table->vals[i]->t_len;
	scan->next_fetch = (int) (FETCH_BYTES / Max(bytes / (int64) rows, 1));
	scan->next_fetch = Max(Min(scan->next_fetch, MAX_FETCH), 1);
	return table;
}

/*
 * sabot_source_close - end a source
 */
void
sabot_source_close(SabotSourceScan *scan)
{
	SPI_cursor_close(scan->portal);
}
