/*-------------------------------------------------------------------------
 *
 * llm_preview.c
 *		The prompts of a job that nobody has submitted yet.
 *
 * The source is run as it would be, but no further than the rows asked for,
 * and by who calls: there is nothing to be seen that they could not see.
 *
 * IDENTIFICATION
 *		src/llm/llm_preview.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "llm/llm.h"
#include "llm/llm_source.h"

PG_FUNCTION_INFO_V1(sabot_preview_llm_job);

/*
 * required_text - a text argument; raises 22004 if it is NULL
 */
static char *
required_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * required_rows - how many rows to show; raises 22004 for NULL, 22023 below 1
 */
static int32
required_rows(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("rows must not be null")));
	if (PG_GETARG_INT32(argno) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rows must be at least 1")));
	return PG_GETARG_INT32(argno);
}

/*
 * put_prompt - return one row: the system text, an empty line, the prompt
 */
static void
put_prompt(ReturnSetInfo *rsinfo, const char *system, const char *prompt)
{
	bool		isnull = false;
	Datum		value = system ?
	CStringGetTextDatum(psprintf("%s\n\n%s", system, prompt)) :
	CStringGetTextDatum(prompt);

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
}

/*
 * put_prompts - return the prompts of the first rows of a source
 */
static void
put_prompts(ReturnSetInfo *rsinfo, const char *source, const char *prompt,
			const char *system, int32 limit)
{
	SabotSourceScan scan;
	SPITupleTable *rows;
	SabotTemplate *template;
	MemoryContext row_context;
	MemoryContext caller;

	sabot_source_open(&scan, source);
	template = sabot_template_parse(prompt, scan.columns);
	row_context = AllocSetContextCreate(CurrentMemoryContext,
										"sabot preview",
										ALLOCSET_DEFAULT_SIZES);
	while (limit > 0 && (rows = sabot_source_fetch(&scan, limit)) != NULL)
	{
		caller = MemoryContextSwitchTo(row_context);
		for (uint64 i = 0; i < rows->numvals; i++)
		{
			bool		all_null;

			put_prompt(rsinfo, system,
					   sabot_template_render(template, rows->vals[i],
											 scan.columns, &all_null));
			MemoryContextReset(row_context);
		}
		MemoryContextSwitchTo(caller);
		limit -= (int32) rows->numvals;
		SPI_freetuptable(rows);
	}
	sabot_source_close(&scan);
}

/*
 * SQL: sabot.preview_llm_job(source text, prompt text, system text, rows int)
 *		RETURNS SETOF text - the prompts of the first rows; sends nothing
 *
 * Errors: 22004 and 22023 for arguments, and what submit_llm_job() and the
 * source itself raise.
 */
Datum
sabot_preview_llm_job(PG_FUNCTION_ARGS)
{
	char	   *source = required_text(fcinfo, 0, "source");
	char	   *prompt = required_text(fcinfo, 1, "prompt");
	char	   *system = PG_ARGISNULL(2) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(2));
	int32		limit = required_rows(fcinfo, 3);

	/* What is wrong with them is known before anything is run. */
	(void) sabot_template_parse(prompt, sabot_source_columns(source));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	SPI_connect();
	put_prompts((ReturnSetInfo *) fcinfo->resultinfo, source, prompt, system,
				limit);
	SPI_finish();
	return (Datum) 0;
}
