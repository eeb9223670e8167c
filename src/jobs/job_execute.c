/*-------------------------------------------------------------------------
 *
 * job_execute.c
 *		Running a job's command: parsing, checking, one portal per statement.
 *
 * A job's command is run as a client's simple query would be, through portals
 * at top level, and not through SPI: SPI knows neither VACUUM nor procedures
 * that commit, and reports no positions in the command.  This is the loop of
 * exec_simple_query() without a client, with these differences:
 *
 * - A command id and, under READ COMMITTED, a snapshot for each statement, so
 *	 that a statement sees what those before it did.
 * - Transactions are the caller's in atomic mode: the command becomes part of
 *	 the transaction that also records that it has been run.  The caller's
 *	 implicit transaction block is what makes the server refuse statements
 *	 that would commit (25001, and 2D000 in procedures).  A command that is
 *	 refused so, or is known to be, is run singly: each statement in a
 *	 transaction of its own, outside any block.
 * - Parameters take values, from the job's params.
 *
 * Parse trees, plans and params live in a context below the outcome's, since
 * VACUUM and CALL end transactions in the middle of a statement.
 *
 * IDENTIFICATION
 *		src/jobs/job_execute.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/defrem.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/scanner.h"
#include "storage/proc.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "compat.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"

/* A command being run. */
typedef struct Execution
{
	const char *command;
	List	   *statements;		/* of RawStmt */
	SabotExecMode mode;
	SabotParams *params;		/* or NULL */
	QueryEnvironment *env;		/* relations of this job alone, or NULL */
	const struct SabotPiece *piece; /* or NULL */
	SabotOutcome *outcome;
	DestReceiver *receiver;
	MemoryContext statement_context;	/* of one statement's trees */
} Execution;

static void check_statement(const char *command, RawStmt *raw);
static void refuse_statement(const char *command, RawStmt *raw, int sqlstate,
							 const char *name, const char *hint);
static int	first_token(const char *command, int location);
static bool needs_no_block(Node *stmt);
static bool option_is_on(List *options, const char *name, bool missing);
static bool detaches_concurrently(AlterTableStmt *stmt);
static bool creates_slot(CreateSubscriptionStmt *stmt);
static void execute_statements(Execution *execution);
static void execute_statement(Execution *execution, RawStmt *raw);
static List *plan_statement(Execution *execution, RawStmt *raw);
static void run_portal(Execution *execution, RawStmt *raw, List *plans,
					   QueryCompletion *qc);
static void note_completion(SabotOutcome *outcome, const QueryCompletion *qc);
static void stop_statement_timeout(void);

/*
 * sabot_job_parse - the raw parse trees of a command: a list of RawStmt
 *
 * Needs no transaction.  Allocated in the current memory context.  A syntax
 * error propagates with its position in the command.
 */
List *
sabot_job_parse(const char *command)
{
	return pg_parse_query(command);
}

/*
 * sabot_job_check_statements - raise an error for what never runs in a job
 *
 * Errors: 22023 if there is no statement; and with the statement's position
 * 2D000 for transaction commands, 0A000 for what needs a client.  Does not
 * change the parse trees.
 */
void
sabot_job_check_statements(const char *command, List *raw_statements)
{
	ListCell   *lc;

	if (raw_statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("command contains no statement")));

	foreach(lc, raw_statements)
		check_statement(command, lfirst_node(RawStmt, lc));
}

/*
 * check_statement - raise an error if a statement never runs in a job
 */
static void
check_statement(const char *command, RawStmt *raw)
{
	switch (nodeTag(raw->stmt))
	{
		case T_TransactionStmt:
			refuse_statement(command, raw,
							 ERRCODE_INVALID_TRANSACTION_TERMINATION,
							 CreateCommandName(raw->stmt),
							 "A job is one transaction; with atomic => false, each of its statements is one.");
			break;
		case T_CopyStmt:
			if (((CopyStmt *) raw->stmt)->filename != NULL)
				break;
			refuse_statement(command, raw, ERRCODE_FEATURE_NOT_SUPPORTED,
							 ((CopyStmt *) raw->stmt)->is_from ?
							 "COPY FROM STDIN" : "COPY TO STDOUT",
							 "Use params, a file or a table.");
			break;
		case T_ListenStmt:
		case T_UnlistenStmt:
			refuse_statement(command, raw, ERRCODE_FEATURE_NOT_SUPPORTED,
							 CreateCommandName(raw->stmt),
							 "A job has no client that could be notified.");
			break;
		default:
			break;
	}
}

/*
 * refuse_statement - raise an error that points at a statement
 */
static void
refuse_statement(const char *command, RawStmt *raw, int sqlstate,
				 const char *name, const char *hint)
{
	int			location = first_token(command, raw->stmt_location);

	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s is not allowed in a job", name),
			 errhint("%s", hint),
			 errposition(pg_mbstrlen_with_len(command, location) + 1)));
}

/*
 * first_token - byte offset of the first token at or after a byte offset
 *
 * The location of a raw statement includes the comments before it.
 */
static int
first_token(const char *command, int location)
{
	core_yy_extra_type extra;
	core_YYSTYPE value;
	YYLTYPE		offset = 0;
	core_yyscan_t scanner = scanner_init(command + location, &extra,
										 &ScanKeywords, ScanKeywordTokens);

	extra.escape_string_warning = false;
	(void) core_yylex(&value, &offset, scanner);
	scanner_finish(scanner);
	return location + offset;
}

/*
 * sabot_job_needs_singly - is a statement known not to run inside a block?
 *
 * Only statements that PostgreSQL refuses whatever they are applied to: to
 * run a command singly costs its atomicity, so the others have to be refused
 * by PostgreSQL first.
 */
bool
sabot_job_needs_singly(List *raw_statements)
{
	ListCell   *lc;

	foreach(lc, raw_statements)
	{
		if (needs_no_block(lfirst_node(RawStmt, lc)->stmt))
			return true;
	}
	return false;
}

/*
 * needs_no_block - does PostgreSQL refuse the statement inside a block?
 *
 * The callers of PreventInTransactionBlock(), as far as the statement alone
 * tells.
 */
static bool
needs_no_block(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_AlterSystemStmt:
			return true;
		case T_AlterDatabaseStmt:
			return option_is_on(((AlterDatabaseStmt *) stmt)->options,
								"tablespace", false);
		case T_VacuumStmt:
			return ((VacuumStmt *) stmt)->is_vacuumcmd;
		case T_ClusterStmt:
			return ((ClusterStmt *) stmt)->relation == NULL;
		case T_DiscardStmt:
			return ((DiscardStmt *) stmt)->target == DISCARD_ALL;
		case T_IndexStmt:
			return ((IndexStmt *) stmt)->concurrent;
		case T_DropStmt:
			return ((DropStmt *) stmt)->concurrent;
		case T_ReindexStmt:
			return ((ReindexStmt *) stmt)->relation == NULL ||
				option_is_on(((ReindexStmt *) stmt)->params,
							 "concurrently", false);
		case T_AlterTableStmt:
			return detaches_concurrently((AlterTableStmt *) stmt);
		case T_CreateSubscriptionStmt:
			return creates_slot((CreateSubscriptionStmt *) stmt);
		case T_AlterSubscriptionStmt:
			return ((AlterSubscriptionStmt *) stmt)->kind ==
				ALTER_SUBSCRIPTION_REFRESH;
		default:
			return false;
	}
}

/*
 * option_is_on - does a list of options contain one that is not switched off?
 *
 * Returns missing if it is not in the list.  An option whose value is no
 * boolean counts as on: the statement itself judges it.
 */
static bool
option_is_on(List *options, const char *name, bool missing)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		bool		on;

		if (strcmp(option->defname, name) != 0)
			continue;
		if (option->arg == NULL)
			return true;
		return !parse_bool(defGetString(option), &on) || on;
	}
	return missing;
}

/*
 * detaches_concurrently - is it ALTER TABLE ... DETACH PARTITION CONCURRENTLY?
 */
static bool
detaches_concurrently(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DetachPartition &&
			((PartitionCmd *) cmd->def)->concurrent)
			return true;
	}
	return false;
}

/*
 * creates_slot - does CREATE SUBSCRIPTION create a replication slot?
 */
static bool
creates_slot(CreateSubscriptionStmt *stmt)
{
	return option_is_on(stmt->options, "connect", true) &&
		option_is_on(stmt->options, "create_slot", true);
}

/*
 * sabot_job_execute - run a command and fill outcome with what it said
 *
 * raw_statements is what sabot_job_parse() made of the command, in memory
 * that survives transactions, or NIL to have it parsed here; it is used up.
 * params is the job's, or NULL; so is piece, what it is restricted to, and env,
 * which knows relations that are not in the catalog; consumer, or NULL, gets
 * every row.
 *
 * SABOT_EXEC_ATOMIC: the caller has started a transaction and an implicit
 * transaction block, or a subtransaction inside one, and holds no active
 * snapshot.  SABOT_EXEC_SINGLY: the caller is in no transaction, and is in
 * none afterwards.
 *
 * Errors are the command's, those of sabot_job_check_statements() and
 * sabot_params_create() before any statement, and 54000 for too many bytes of
 * rows.  After an error the caller aborts the transaction, before it deletes
 * outcome->context; outcome tells in which statement it was.
 */
void
sabot_job_execute(const char *command, List *raw_statements, Jsonb *params,
				  const struct SabotPiece *piece, SabotExecMode mode,
				  SabotOutcome *outcome, QueryEnvironment *env,
				  SabotRowConsumer consumer, void *consumer_arg)
{
	MemoryContext context = AllocSetContextCreate(outcome->context,
												  "sabot job command",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Execution	execution = {
		.command = command,
		.statements = raw_statements,
		.mode = mode,
		.env = env,
		.piece = piece,
		.outcome = outcome,
		.statement_context = context
	};

	if (execution.statements == NIL)
		execution.statements = sabot_job_parse(command);
	sabot_job_check_statements(command, execution.statements);
	execution.params = sabot_params_create(command, execution.statements,
										   params);
	execution.receiver = sabot_capture_receiver(outcome, consumer,
												consumer_arg);
	if (list_length(execution.statements) > 1)
		execution.statement_context =
			AllocSetContextCreate(context, "sabot job statement",
								  ALLOCSET_DEFAULT_SIZES);

	execute_statements(&execution);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/*
 * execute_statements - run the statements of a command one after the other
 *
 * An error leaves no statement timeout behind either.
 */
static void
execute_statements(Execution *execution)
{
	PG_TRY();
	{
		ListCell   *lc;

		foreach(lc, execution->statements)
		{
			execute_statement(execution, lfirst_node(RawStmt, lc));
			if (lnext(execution->statements, lc) != NULL)
				MemoryContextReset(execution->statement_context);
		}
	}
	PG_CATCH();
	{
		stop_statement_timeout();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * execute_statement - run one statement, in its own transaction if singly
 */
static void
execute_statement(Execution *execution, RawStmt *raw)
{
	SabotOutcome *outcome = execution->outcome;
	bool		singly = execution->mode == SABOT_EXEC_SINGLY;
	QueryCompletion qc;
	List	   *plans;

	outcome->statement++;
	outcome->statement_location = raw->stmt_location;
	outcome->statement_len = raw->stmt_len;
	outcome->in_statement = true;
	pgstat_report_query_id(0, true);

	if (singly)
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
	}
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
	CHECK_FOR_INTERRUPTS();

	MemoryContextSwitchTo(execution->statement_context);
	plans = plan_statement(execution, raw);
	CHECK_FOR_INTERRUPTS();
	run_portal(execution, raw, plans, &qc);

	stop_statement_timeout();
	if (singly)
		CommitTransactionCommand();
	else
		CommandCounterIncrement();
	MemoryContextSwitchTo(execution->statement_context);

	note_completion(outcome, &qc);
	outcome->in_statement = false;
}

/*
 * plan_piece - plan a command that is restricted to a piece of a table
 *
 * Not by pg_plan_queries(), as debug_print_plan would show the bounds: keys of
 * rows that policies may hide from the owner of the job.
 */
static List *
plan_piece(Execution *execution, List *queries)
{
	sabot_spread_restrict(queries, execution->piece);
	return list_make1(planner(linitial_node(Query, queries),
							  execution->command, CURSOR_OPT_PARALLEL_OK,
							  sabot_params_list(execution->params)));
}

/*
 * plan_statement - analyze, rewrite and plan a statement
 *
 * The snapshot for it is not that of the execution, which has to be taken
 * after the tables have been locked.
 */
static List *
plan_statement(Execution *execution, RawStmt *raw)
{
	bool		has_snapshot = analyze_requires_snapshot(raw);
	Query	   *query;
	List	   *queries;
	List	   *plans;

	if (has_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());

	query = sabot_params_analyze(execution->params, raw, execution->command,
								 execution->env);
	queries = pg_rewrite_query(query);
	plans = execution->piece != NULL ?
		plan_piece(execution, queries) :
		pg_plan_queries(queries, execution->command, CURSOR_OPT_PARALLEL_OK,
						sabot_params_list(execution->params));

	if (has_snapshot)
		PopActiveSnapshot();
	return plans;
}

/*
 * run_portal - execute a planned statement to its end, at top level
 *
 * The portal is the unnamed one and invisible, as for a client's query; an
 * aborted transaction drops it.
 */
static void
run_portal(Execution *execution, RawStmt *raw, List *plans,
		   QueryCompletion *qc)
{
	Portal		portal = CreatePortal("", true, true);

	portal->visible = false;
	PortalDefineQuery(portal, NULL, execution->command,
					  CreateCommandTag(raw->stmt), plans, NULL);
	portal->queryEnv = execution->env;
	PortalStart(portal, sabot_params_list(execution->params), 0,
				InvalidSnapshot);
	(void) PortalRun(portal, FETCH_ALL, true, execution->receiver,
					 execution->receiver, qc);
	PortalDrop(portal, false);
}

/*
 * note_completion - put a statement's command tag and count into the outcome
 */
static void
note_completion(SabotOutcome *outcome, const QueryCompletion *qc)
{
	char		tag[COMPLETION_TAG_BUFSIZE];

	BuildQueryCompletionString(tag, qc, false);
	if (outcome->command_tag)
		pfree(outcome->command_tag);
	outcome->command_tag = MemoryContextStrdup(outcome->context, tag);

	if (command_tag_display_rowcount(qc->commandTag))
	{
		outcome->has_row_count = true;
		outcome->row_count = qc->nprocessed;
	}
}

/*
 * stop_statement_timeout - a statement has ended: its timeout must not fire
 */
static void
stop_statement_timeout(void)
{
	if (get_timeout_active(STATEMENT_TIMEOUT))
		disable_timeout(STATEMENT_TIMEOUT, false);
}
