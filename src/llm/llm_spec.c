/*-------------------------------------------------------------------------
 *
 * llm_spec.c
 *		What an LLM job asks for: rows of sabot.llm_job.
 *
 * IDENTIFICATION
 *		src/llm/llm_spec.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"
#include "llm/llm.h"

/* Columns of sabot.llm_job, in the order in which they are selected here. */
typedef enum SpecColumn
{
	C_JOB_ID,
	C_EMBEDDING,
	C_SOURCE,
	C_PROMPT,
	C_SYSTEM,
	C_MODEL,
	C_FORMAT,
	C_OPTIONS,
	C_TARGET,
	C_KEY,
	C_OUTPUT,
	C_FALLBACK,
	C_ENDPOINT,
	C_TIMEOUT,
	C_MAX_ATTEMPTS,
	C_BATCH_SIZE,
	C_REUSE,
	C_FOLLOW,
	C_TOTAL,
	NCOLUMNS
} SpecColumn;

/*
 * names_list - a text[] as a list of C strings
 */
static List *
names_list(ArrayType *array)
{
	Datum	   *elems;
	int			n;
	List	   *names = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, &n);
	for (int i = 0; i < n; i++)
		names = lappend(names, TextDatumGetCString(elems[i]));
	return names;
}

/*
 * fill_spec - a spec from the values of a row
 */
static SabotLlmSpec *
fill_spec(const Datum *v, const bool *isnull)
{
	SabotLlmSpec *spec = palloc0(sizeof(SabotLlmSpec));

#define text_or_null(n) (isnull[n] ? NULL : TextDatumGetCString(v[n]))
#define jsonb_or_null(n) (isnull[n] ? NULL : DatumGetJsonbPCopy(v[n]))
	spec->job_id = DatumGetInt64(v[C_JOB_ID]);
	spec->embedding = DatumGetBool(v[C_EMBEDDING]);
	spec->source = text_or_null(C_SOURCE);
	spec->prompt = text_or_null(C_PROMPT);
	spec->system = text_or_null(C_SYSTEM);
	spec->model = text_or_null(C_MODEL);
	spec->format = jsonb_or_null(C_FORMAT);
	spec->options = jsonb_or_null(C_OPTIONS);
	spec->target = text_or_null(C_TARGET);
	spec->key = isnull[C_KEY] ? NIL : names_list(DatumGetArrayTypeP(v[C_KEY]));
	spec->output = text_or_null(C_OUTPUT);
	spec->fallback = text_or_null(C_FALLBACK);
	spec->endpoint = text_or_null(C_ENDPOINT);
	spec->timeout_ms = sabot_interval_ms(DatumGetIntervalP(v[C_TIMEOUT]));
	spec->max_attempts = DatumGetInt32(v[C_MAX_ATTEMPTS]);
	spec->batch_size = DatumGetInt32(v[C_BATCH_SIZE]);
	spec->reuse = DatumGetBool(v[C_REUSE]);
	spec->follow = DatumGetBool(v[C_FOLLOW]);
	spec->total = isnull[C_TOTAL] ? -1 : DatumGetInt64(v[C_TOTAL]);
#undef text_or_null
#undef jsonb_or_null
	return spec;
}

/*
 * sabot_spec_read - what a job asks for, or NULL if it has no row
 *
 * In a transaction of sabot's own.  The result is in the given context.
 */
SabotLlmSpec *
sabot_spec_read(int64 job_id, MemoryContext context)
{
	Oid			types[] = {INT8OID};
	Datum		args[] = {Int64GetDatum(job_id)};
	Datum		values[NCOLUMNS];
	bool		isnull[NCOLUMNS];
	MemoryContext old;
	SabotLlmSpec *spec;

	if (sabot_spi("SELECT job_id, embedding, source, prompt, system, model, format,"
				  " options, target, key, output, fallback, endpoint, timeout,"
				  " max_attempts, batch_size, reuse, follow, total"
				  " FROM sabot.llm_job WHERE job_id = $1",
				  1, types, args, NULL, 0) == 0)
		return NULL;
	for (int i = 0; i < NCOLUMNS; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								  i + 1, &isnull[i]);
	old = MemoryContextSwitchTo(context);
	spec = fill_spec(values, isnull);
	MemoryContextSwitchTo(old);
	return spec;
}

/*
 * names_array - a list of C strings as text[]
 */
static Datum
names_array(List *names)
{
	Datum	   *elems = palloc(sizeof(Datum) * (list_length(names) + 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
		elems[n++] = CStringGetTextDatum((char *) lfirst(lc));
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * sabot_spec_insert - keep what a job asks for
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
void
sabot_spec_insert(const SabotLlmSpec *spec)
{
	static const Oid types[NCOLUMNS] = {
		INT8OID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		JSONBOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, INT8OID,
		INT4OID, INT4OID, BOOLOID, BOOLOID
	};
	Datum		v[NCOLUMNS] = {0};
	char		nulls[NCOLUMNS + 1];
	const char *const texts[] = {
		[C_SOURCE] = spec->source,[C_PROMPT] = spec->prompt,
		[C_SYSTEM] = spec->system,[C_MODEL] = spec->model,
		[C_TARGET] = spec->target,[C_OUTPUT] = spec->output,
		[C_FALLBACK] = spec->fallback,[C_ENDPOINT] = spec->endpoint
	};

	memset(nulls, ' ', sizeof(nulls));
	for (int i = 0; i < NCOLUMNS; i++)
	{
		if (types[i] != TEXTOID)
			continue;
		if (texts[i])
			v[i] = CStringGetTextDatum(texts[i]);
		else
			nulls[i] = 'n';
	}
	v[C_JOB_ID] = Int64GetDatum(spec->job_id);
	v[C_EMBEDDING] = BoolGetDatum(spec->embedding);
	v[C_FORMAT] = JsonbPGetDatum(spec->format);
	nulls[C_FORMAT] = spec->format ? ' ' : 'n';
	v[C_OPTIONS] = JsonbPGetDatum(spec->options);
	nulls[C_OPTIONS] = spec->options ? ' ' : 'n';
	v[C_KEY] = names_array(spec->key);
	nulls[C_KEY] = spec->key ? ' ' : 'n';
	v[C_TIMEOUT] = Int64GetDatum(spec->timeout_ms);
	v[C_MAX_ATTEMPTS] = Int32GetDatum(spec->max_attempts);
	v[C_BATCH_SIZE] = Int32GetDatum(spec->batch_size);
	v[C_REUSE] = BoolGetDatum(spec->reuse);
	v[C_FOLLOW] = BoolGetDatum(spec->follow);
	sabot_spi("INSERT INTO sabot.llm_job (job_id, embedding, source, prompt, system,"
			  " model, format, options, target, key, output, fallback, endpoint,"
			  " timeout, max_attempts, batch_size, reuse, follow)"
			  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
			  " $14 * interval '1 ms', $15, $16, $17, $18)",
			  C_TOTAL, types, v, nulls, 0);
	sabot_spi("INSERT INTO sabot.llm_count (job_id) VALUES ($1)",
			  1, types, v, NULL, 0);
}
