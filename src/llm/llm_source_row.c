/*-------------------------------------------------------------------------
 *
 * llm_source_row.c
 *		One row of a source, as it is now, by its key.
 *
 * The source is asked again, as a table of which only one key is wanted.  It
 * reads one table, so that the planner brings the condition down to that
 * table's index; the statement is prepared once and asked for every row that
 * changes.  What a row's prompt is, and whether the source has it at all, so
 * has one meaning only: that of the source.
 *
 * IDENTIFICATION
 *		src/llm/llm_source_row.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "llm/llm_mapping.h"
#include "llm/llm_source.h"

struct SabotRowReader
{
	MemoryContext context;		/* of this and all it points to */
	const SabotLlmSpec *spec;
	SPIPlanPtr	read;
	SPIPlanPtr	lock;			/* or NULL */
	TupleDesc	columns;		/* of the rows read last, NULL = none was */
	SabotTemplate *template;	/* for these, in template_context */
	MemoryContext template_context;
	MemoryContextCallback release;
};

/*
 * release_plans - memory context callback: the reader is going
 */
static void
release_plans(void *arg)
{
	SabotRowReader *reader = arg;

	if (reader->read)
		SPI_freeplan(reader->read);
	if (reader->lock)
		SPI_freeplan(reader->lock);
	reader->read = reader->lock = NULL;
}

/*
 * prepare - prepare a statement for good whose $1 is a key
 *
 * SPI is connected.
 */
static SPIPlanPtr
prepare(const char *sql)
{
	Oid			types[] = {JSONBOID};
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, lengthof(types), types,
										  CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

/*
 * sabot_source_row - get ready to read rows of a source again, which reads
 * this table; with locks, to lock rows of it too
 *
 * As the job's owner, with the job's settings in force.  In the current memory
 * context.  Raises what preparing the statement raises, and 42P01 if the table
 * is gone.
 */
SabotRowReader *
sabot_source_row(const SabotLlmSpec *spec, Oid table, bool locks)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sabot LLM row",
												  ALLOCSET_SMALL_SIZES);
	SabotRowReader *reader = MemoryContextAllocZero(context,
													sizeof(SabotRowReader));
	Relation	rel = relation_open(table, AccessShareLock);
	StringInfoData read;
	StringInfoData lock;

	reader->context = context;
	reader->spec = spec;
	reader->template_context = AllocSetContextCreate(context,
													 "sabot LLM row template",
													 ALLOCSET_SMALL_SIZES);
	reader->release.func = release_plans;
	reader->release.arg = reader;
	MemoryContextRegisterResetCallback(context, &reader->release);

	initStringInfo(&read);
	appendStringInfo(&read, "SELECT * FROM %s AS t",
					 sabot_source_as_table(spec->source));
	sabot_key_append_condition(&read, rel, spec->key, 1);
	initStringInfo(&lock);
	appendStringInfo(&lock, "SELECT FROM %s AS t",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)));
	sabot_key_append_condition(&lock, rel, spec->key, 1);
	appendStringInfoString(&lock, " FOR NO KEY UPDATE");
	relation_close(rel, NoLock);

	SPI_connect();
	reader->read = prepare(read.data);
	if (locks)
		reader->lock = prepare(lock.data);
	SPI_finish();
	return reader;
}

/*
 * execute - execute one of the statements for a key; returns the rows
 */
static uint64
execute(SPIPlanPtr plan, Jsonb *key)
{
	Datum		values[] = {JsonbPGetDatum(key)};
	int			result = SPI_execute_plan(plan, values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "could not read a row again: %s",
			 SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * sabot_source_row_lock - lock the row of the table with a key until the
 * transaction ends; false if there is none
 *
 * Returns true if the reader does not lock.  SPI is connected.
 */
bool
sabot_source_row_lock(SabotRowReader *reader, Jsonb *key)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		found = reader->lock == NULL || execute(reader->lock, key) > 0;

	MemoryContextSwitchTo(caller);
	return found;
}

/*
 * template_for - the template for rows with these columns
 */
static SabotTemplate *
template_for(SabotRowReader *reader, TupleDesc columns)
{
	MemoryContext caller;

	if (reader->columns != NULL && equalTupleDescs(reader->columns, columns))
		return reader->template;
	reader->columns = NULL;
	MemoryContextReset(reader->template_context);
	caller = MemoryContextSwitchTo(reader->template_context);
	reader->template = sabot_template_parse(reader->spec->prompt, columns);
	reader->columns = CreateTupleDescCopy(columns);
	MemoryContextSwitchTo(caller);
	return reader->template;
}

/*
 * sabot_source_row_read - read the row of a source with a key, as of now
 *
 * *prompt is its prompt in the current memory context, NULL if there is no
 * such row.  As the job's owner, SPI connected.  Raises what the source raises
 * and what rendering the prompt does.
 */
SabotRowNow
sabot_source_row_read(SabotRowReader *reader, Jsonb *key, char **prompt)
{
	MemoryContext caller = CurrentMemoryContext;
	uint64		n = execute(reader->read, key);
	SPITupleTable *rows = SPI_tuptable;
	bool		all_null = false;

	MemoryContextSwitchTo(caller);
	*prompt = NULL;
	if (n > 0)
		*prompt = sabot_template_render(template_for(reader, rows->tupdesc),
										rows->vals[0], rows->tupdesc,
										&all_null);
	SPI_freetuptable(rows);
	if (n == 0)
		return SABOT_ROW_NONE;
	return all_null ? SABOT_ROW_EMPTY : SABOT_ROW_PROMPT;
}
