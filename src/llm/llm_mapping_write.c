/*-------------------------------------------------------------------------
 *
 * llm_mapping_write.c
 *		From an answer to a value, and from a value to a row of the target.
 *
 * An answer is a stranger's text.  It becomes a value only if it is what was
 * asked for; otherwise there is a violation in words, and no error, so that
 * the item can be asked again without a transaction being lost.  Writing is
 * the target's business: its types, constraints and triggers may raise what
 * they like, and that is caught by who calls.
 *
 * IDENTIFICATION
 *		src/llm/llm_mapping_write.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "llm/llm_jsonb.h"
#include "llm/llm_mapping.h"

/*
 * release_plan - memory context callback: the mapping is going
 */
static void
release_plan(void *arg)
{
	SabotMappingPlan *update = arg;

	if (update->plan)
		SPI_freeplan(update->plan);
	update->plan = NULL;
}

/*
 * sabot_mapping_prepare - prepare the statement that writes
 *
 * The mapping is allocated in the current memory context, with which the
 * plan goes.  Raises what the server has against the statement.
 */
void
sabot_mapping_prepare(const SabotMapping *mapping, bool embedding)
{
	MemoryContext caller = CurrentMemoryContext;
	SabotMappingPlan *update = mapping->update;
	Oid			types[] = {embedding ? FLOAT4ARRAYOID : JSONBOID, JSONBOID};
	SPIPlanPtr	plan;

	/* What the parameters will be does not matter to the plan. */
	SPI_connect();
	plan = SPI_prepare_cursor(update->sql, lengthof(types), types,
							  CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", update->sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	SPI_finish();

	update->plan = plan;
	update->release.func = release_plan;
	update->release.arg = update;
	MemoryContextRegisterResetCallback(caller, &update->release);
}

/*
 * push_value - append a document to one that is being built
 */
static void
push_value(JsonbParseState **state, JsonbIteratorToken token, Jsonb *json)
{
	JsonbValue	value;

	if (!JsonbExtractScalar(&json->root, &value))
		JsonbToJsonbValue(json, &value);
	pushJsonbValue(state, token, &value);
}

/*
 * push_key - append the name of a member to an object that is being built
 */
static void
push_key(JsonbParseState **state, const char *name)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = (int) strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
}

/*
 * value_at - the first value that a path finds, NULL if it finds none
 *
 * Silent: what a path may raise because of a value counts as nothing found.
 */
static Jsonb *
value_at(JsonPath *path, Jsonb *json)
{
	LOCAL_FCINFO(fcinfo, 4);
	JsonbParseState *state = NULL;
	Jsonb	   *variables;
	Datum		result;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	variables = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT,
												 NULL));

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(json);
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[2].value = JsonbPGetDatum(variables);
	fcinfo->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;
	/* The other variant raises errors about time zones even if silent. */
	result = jsonb_path_query_first_tz(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(result);
}

/*
 * is_null - whether a document is null, or not there
 */
static bool
is_null(Jsonb *json)
{
	JsonbValue	value;

	return json == NULL ||
		(JsonbExtractScalar(&json->root, &value) && value.type == jbvNull);
}

/*
 * columns_of - an object with the value of each column
 *
 * NULL with *violation set if there is none for one that must have one, or
 * none at all: an answer about something else is no row of NULLs.
 */
static Jsonb *
columns_of(const SabotMapping *mapping, Jsonb *answer, char **violation)
{
	JsonbParseState *state = NULL;
	JsonbValue	null = {.type = jbvNull};
	bool		found = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		SabotMappedColumn *column = &mapping->columns[i];
		Jsonb	   *value = value_at(column->path, answer);

		if (is_null(value) && !column->nullable)
		{
			*violation = psprintf("has no value for column \"%s\"",
								  column->name);
			return NULL;
		}
		push_key(&state, column->name);
		found |= (value != NULL);
		if (value)
			push_value(&state, WJB_VALUE, value);
		else
			pushJsonbValue(&state, WJB_VALUE, &null);
	}
	if (!found)
	{
		*violation = pstrdup("has no value for any column");
		return NULL;
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * string_of - an answer as a JSON string
 */
static Jsonb *
string_of(const char *answer, char **violation)
{
	JsonbValue	value;
	size_t		len = strlen(answer);

	if (len > JENTRY_OFFLENMASK / 2)
	{
		*violation = pstrdup("too long");
		return NULL;
	}
	value.type = jbvString;
	value.val.string.val = unconstify(char *, answer);
	value.val.string.len = (int) len;
	return JsonbValueToJsonb(&value);
}

/*
 * sabot_mapping_value - the value of an answer
 *
 * An object of columns if the output is one; else the JSON that the answer is
 * if there is a format, or the answer as a JSON string.  Returns NULL with
 * *violation set, in a few palloc'd words, if it is not what was asked for.
 * No answer that is valid in the database's encoding raises an error.
 */
Jsonb *
sabot_mapping_value(const SabotMapping *mapping, const SabotLlmSpec *spec,
					const char *answer, char **violation)
{
	Jsonb	   *json;

	*violation = NULL;
	if (spec->format == NULL && !mapping->is_object)
		return string_of(answer, violation);

	json = sabot_jsonb_parse(answer, violation);
	if (json == NULL)
		return NULL;
	if (spec->format)
		*violation = sabot_schema_violation(spec->format, json);
	if (*violation)
		return NULL;
	if (mapping->is_object)
		return columns_of(mapping, json, violation);
	if (mapping->ncolumns > 0 && !mapping->columns[0].nullable &&
		is_null(json))
	{
		*violation = psprintf("has no value for column \"%s\"",
							  mapping->columns[0].name);
		return NULL;
	}
	return json;
}

/*
 * sabot_mapping_vector - an embedding as a JSON array
 *
 * Each number is the shortest that reads back as the same float4; there must
 * be no infinities and no NaN among them.
 */
Jsonb *
sabot_mapping_vector(const float4 *vector, int ndims)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < ndims; i++)
	{
		char		buf[FLOAT_SHORTEST_DECIMAL_LEN];
		JsonbValue	value;

		if (!isfinite(vector[i]))
			elog(ERROR, "element %d of an embedding is not finite", i + 1);
		(void) float_to_shortest_decimal_buf(vector[i], buf);
		value.type = jbvNumeric;
		value.val.numeric =
			DatumGetNumeric(DirectFunctionCall3(numeric_in,
												CStringGetDatum(buf),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1)));
		pushJsonbValue(&state, WJB_ELEM, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

/*
 * vector_array - real[] of an embedding as sabot_mapping_vector() made it
 */
static Datum
vector_array(Jsonb *value)
{
	JsonbIterator *it = JsonbIteratorInit(&value->root);
	int			size = JB_ROOT_COUNT(value);
	Datum	   *elems = palloc(sizeof(Datum) * Max(size, 1));
	JsonbValue	v;
	int			n = 0;

	(void) JsonbIteratorNext(&it, &v, true);
	while (n < size && JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		if (v.type != jbvNumeric)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an embedding must be an array of numbers")));
		elems[n++] = DirectFunctionCall1(numeric_float4,
										 NumericGetDatum(v.val.numeric));
	}
	return PointerGetDatum(construct_array(elems, n, FLOAT4OID, sizeof(float4),
										   true, TYPALIGN_INT));
}

/*
 * record_of - the value of a whole answer as an object with its one column
 */
static Jsonb *
record_of(const SabotMapping *mapping, Jsonb *value)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, mapping->columns[0].name);
	push_value(&state, WJB_VALUE, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * sabot_mapping_write - write a value into the row of the target with a key
 *
 * Returns how many rows were hit; 1 if the mapping writes nothing.  The
 * caller is connected to SPI, has a snapshot set, and is the job's owner.
 * Raises what the UPDATE raises.
 */
uint64
sabot_mapping_write(const SabotMapping *mapping, const SabotLlmSpec *spec,
					Jsonb *key, Jsonb *value)
{
	Datum		values[2];
	int			result;

	if (mapping->update == NULL)
		return 1;
	if (key == NULL)
		elog(ERROR, "item has no key");
	if (spec->embedding)
		values[0] = vector_array(value);
	else if (mapping->is_object)
		values[0] = JsonbPGetDatum(value);
	else
		values[0] = JsonbPGetDatum(record_of(mapping, value));
	values[1] = JsonbPGetDatum(key);

	result = SPI_execute_plan(mapping->update->plan, values, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", mapping->update->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}
