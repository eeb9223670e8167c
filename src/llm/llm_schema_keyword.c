/*-------------------------------------------------------------------------
 *
 * llm_schema_keyword.c
 *		The keywords of JSON Schema that say something about one value.
 *
 * Each has a function that looks at the value and, if it does not fit, says
 * why in words that name the bound.  A keyword for another type of value, or
 * one whose own value is not as it should be, says nothing.
 *
 * IDENTIFICATION
 *		src/llm/llm_schema_keyword.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation_d.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "llm/llm.h"
#include "llm/llm_jsonb.h"
#include "llm/llm_schema.h"

#define MAX_SHOWN_VALUE 80

/*
 * sabot_schema_note - what sabot_schema_misfit() does with the words
 */
bool
sabot_schema_note(SabotMatch *match, const SabotJsonStep *step,
				  const char *why)
{
	match->violation = psprintf("%s: %s", sabot_jsonb_path(step), why);
	return false;
}

/*
 * shown - a JSON value for a message
 */
static char *
shown(const JsonbValue *value)
{
	JsonbValue	copy = *value;
	Jsonb	   *json = JsonbValueToJsonb(&copy);

	return sabot_clip(JsonbToCString(NULL, &json->root, 64), MAX_SHOWN_VALUE);
}

/*
 * sabot_schema_name_shown - a name for a message
 */
char *
sabot_schema_name_shown(const JsonbValue *name)
{
	return sabot_clip(pnstrdup(name->val.string.val, name->val.string.len),
					  MAX_SHOWN_VALUE);
}

/*
 * compare_numbers - as strcmp()
 */
static int
compare_numbers(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a),
											 NumericGetDatum(b)));
}

/*
 * compare_values - an order of JSON values in which equal ones are equal
 *
 * For qsort() too.
 */
static int
compare_values(const void *x, const void *y)
{
	const JsonbValue *a = x;
	const JsonbValue *b = y;

	CHECK_FOR_INTERRUPTS();
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	switch (a->type)
	{
		case jbvNumeric:
			return compare_numbers(a->val.numeric, b->val.numeric);
		case jbvBool:
			return (int) a->val.boolean - (int) b->val.boolean;
		case jbvString:
			if (a->val.string.len != b->val.string.len)
				return a->val.string.len < b->val.string.len ? -1 : 1;
			return memcmp(a->val.string.val, b->val.string.val,
						  a->val.string.len);
		case jbvBinary:
			return compareJsonbContainers(a->val.binary.data,
										  b->val.binary.data);
		default:
			return 0;
	}
}

/*
 * is_integer - whether a number is whole; 1.0 is
 */
static bool
is_integer(Numeric number)
{
	Datum		whole = DirectFunctionCall2(numeric_trunc,
											NumericGetDatum(number),
											Int32GetDatum(0));

	return compare_numbers(number, DatumGetNumeric(whole)) == 0;
}

/*
 * type_name - the type of a value, as schemas call it
 */
static const char *
type_name(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "null";
		case jbvBool:
			return "boolean";
		case jbvNumeric:
			return "number";
		case jbvString:
			return "string";
		default:
			return sabot_jsonb_is_array(value) ? "array" : "object";
	}
}

/*
 * has_type - whether a value is of the type that a schema names
 */
static bool
has_type(const JsonbValue *name, const JsonbValue *value)
{
	const char *type = type_name(value);

	if (name->type != jbvString)
		return false;
	if (name->val.string.len == strlen(type) &&
		memcmp(name->val.string.val, type, strlen(type)) == 0)
		return true;
	return value->type == jbvNumeric &&
		name->val.string.len == strlen("integer") &&
		memcmp(name->val.string.val, "integer", strlen("integer")) == 0 &&
		is_integer(value->val.numeric);
}

/*
 * type_names - the types a schema names, for a message
 */
static char *
type_names(const JsonbValue *schema)
{
	StringInfoData names;
	JsonbIterator *it;
	JsonbValue	v;

	if (schema->type == jbvString)
		return sabot_schema_name_shown(schema);
	initStringInfo(&names);
	it = JsonbIteratorInit(schema->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		if (v.type == jbvString && names.len < MAX_SHOWN_VALUE)
			appendStringInfo(&names, "%s%s", names.len > 0 ? " or " : "",
							 sabot_schema_name_shown(&v));
	return names.data;
}

/*
 * match_type - keyword "type"
 */
static bool
match_type(SabotMatch *match, const JsonbValue *schema,
		   const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (schema->type == jbvString ? has_type(schema, value) :
		!sabot_jsonb_is_array(schema))
		return true;
	if (schema->type != jbvString)
	{
		it = JsonbIteratorInit(schema->val.binary.data);
		(void) JsonbIteratorNext(&it, &v, true);
		while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
			if (has_type(&v, value))
				return true;
	}
	return sabot_schema_misfit(match, step, "must be of type %s, is %s%s%s",
							   type_names(schema), type_name(value),
							   value->type == jbvNumeric ? " " : "",
							   value->type == jbvNumeric ? shown(value) : "");
}

/*
 * match_enum - keyword "enum"
 */
static bool
match_enum(SabotMatch *match, const JsonbValue *schema,
		   const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (!sabot_jsonb_is_array(schema))
		return true;
	it = JsonbIteratorInit(schema->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		match->steps--;
		if (compare_values(&v, value) == 0)
			return true;
	}
	return sabot_schema_misfit(match, step, "must be one of %s", shown(schema));
}

/*
 * match_const - keyword "const"
 */
static bool
match_const(SabotMatch *match, const JsonbValue *schema,
			const JsonbValue *value, const SabotJsonStep *step)
{
	if (compare_values(schema, value) == 0)
		return true;
	return sabot_schema_misfit(match, step, "must be %s", shown(schema));
}

/*
 * compare_bound - how a value compares with a number in a schema
 *
 * False if they cannot be compared, as one of them is no number.
 */
static bool
compare_bound(const JsonbValue *schema, const JsonbValue *value, int *result)
{
	if (schema->type != jbvNumeric || value->type != jbvNumeric)
		return false;
	*result = compare_numbers(value->val.numeric, schema->val.numeric);
	return true;
}

/*
 * match_minimum - keyword "minimum"
 */
static bool
match_minimum(SabotMatch *match, const JsonbValue *schema,
			  const JsonbValue *value, const SabotJsonStep *step)
{
	int			cmp;

	if (!compare_bound(schema, value, &cmp) || cmp >= 0)
		return true;
	return sabot_schema_misfit(match, step, "must be at least %s",
							   shown(schema));
}

/*
 * match_maximum - keyword "maximum"
 */
static bool
match_maximum(SabotMatch *match, const JsonbValue *schema,
			  const JsonbValue *value, const SabotJsonStep *step)
{
	int			cmp;

	if (!compare_bound(schema, value, &cmp) || cmp <= 0)
		return true;
	return sabot_schema_misfit(match, step, "must be at most %s",
							   shown(schema));
}

/*
 * match_above - keyword "exclusiveMinimum"
 */
static bool
match_above(SabotMatch *match, const JsonbValue *schema,
			const JsonbValue *value, const SabotJsonStep *step)
{
	int			cmp;

	if (!compare_bound(schema, value, &cmp) || cmp > 0)
		return true;
	return sabot_schema_misfit(match, step, "must be greater than %s",
							   shown(schema));
}

/*
 * match_below - keyword "exclusiveMaximum"
 */
static bool
match_below(SabotMatch *match, const JsonbValue *schema,
			const JsonbValue *value, const SabotJsonStep *step)
{
	int			cmp;

	if (!compare_bound(schema, value, &cmp) || cmp < 0)
		return true;
	return sabot_schema_misfit(match, step, "must be less than %s",
							   shown(schema));
}

/*
 * match_multiple - keyword "multipleOf"
 */
static bool
match_multiple(SabotMatch *match, const JsonbValue *schema,
			   const JsonbValue *value, const SabotJsonStep *step)
{
	Numeric		zero = int64_to_numeric(0);
	Datum		rest;

	if (schema->type != jbvNumeric || value->type != jbvNumeric ||
		compare_numbers(schema->val.numeric, zero) <= 0)
		return true;
	rest = DirectFunctionCall2(numeric_mod,
							   NumericGetDatum(value->val.numeric),
							   NumericGetDatum(schema->val.numeric));
	if (compare_numbers(DatumGetNumeric(rest), zero) == 0)
		return true;
	return sabot_schema_misfit(match, step, "must be a multiple of %s",
							   shown(schema));
}

/*
 * match_count - compare how many there are with a bound of the schema
 */
static bool
match_count(SabotMatch *match, const JsonbValue *schema, int64 count,
			bool at_most, const char *what, const SabotJsonStep *step)
{
	int			cmp;

	if (schema->type != jbvNumeric)
		return true;
	cmp = compare_numbers(int64_to_numeric(count), schema->val.numeric);
	if (at_most ? cmp <= 0 : cmp >= 0)
		return true;
	return sabot_schema_misfit(match, step,
							   "must have at %s %s %s, has " INT64_FORMAT,
							   at_most ? "most" : "least", shown(schema), what,
							   count);
}

/*
 * characters - the length of a string, in characters
 */
static int64
characters(const JsonbValue *string)
{
	return pg_mbstrlen_with_len(string->val.string.val,
								string->val.string.len);
}

/*
 * match_min_length - keyword "minLength"
 */
static bool
match_min_length(SabotMatch *match, const JsonbValue *schema,
				 const JsonbValue *value, const SabotJsonStep *step)
{
	return value->type != jbvString ||
		match_count(match, schema, characters(value), false, "characters",
					step);
}

/*
 * match_max_length - keyword "maxLength"
 */
static bool
match_max_length(SabotMatch *match, const JsonbValue *schema,
				 const JsonbValue *value, const SabotJsonStep *step)
{
	return value->type != jbvString ||
		match_count(match, schema, characters(value), true, "characters",
					step);
}

/*
 * match_min_items - keyword "minItems"
 */
static bool
match_min_items(SabotMatch *match, const JsonbValue *schema,
				const JsonbValue *value, const SabotJsonStep *step)
{
	return !sabot_jsonb_is_array(value) ||
		match_count(match, schema, JsonContainerSize(value->val.binary.data),
					false, "elements", step);
}

/*
 * match_max_items - keyword "maxItems"
 */
static bool
match_max_items(SabotMatch *match, const JsonbValue *schema,
				const JsonbValue *value, const SabotJsonStep *step)
{
	return !sabot_jsonb_is_array(value) ||
		match_count(match, schema, JsonContainerSize(value->val.binary.data),
					true, "elements", step);
}

/*
 * match_unique - keyword "uniqueItems"
 */
static bool
match_unique(SabotMatch *match, const JsonbValue *schema,
			 const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue *elements;
	JsonbValue	v;
	int			n = 0;

	if (schema->type != jbvBool || !schema->val.boolean ||
		!sabot_jsonb_is_array(value) ||
		JsonContainerSize(value->val.binary.data) < 2)
		return true;
	elements = MemoryContextAllocHuge(CurrentMemoryContext,
									  sizeof(JsonbValue) *
									  JsonContainerSize(value->val.binary.data));
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		elements[n++] = v;
	match->steps -= n;
	qsort(elements, n, sizeof(JsonbValue), compare_values);
	for (int i = 1; i < n; i++)
		if (compare_values(&elements[i - 1], &elements[i]) == 0)
			return sabot_schema_misfit(match, step,
									   "must not contain %s twice",
									   shown(&elements[i]));
	pfree(elements);
	return true;
}

/* What looks at one keyword; in this order, the plainest reasons first. */
static const struct
{
	const char *name;
	SabotMatchKeyword match;
}			keywords[] = {
	{"type", match_type},
	{"enum", match_enum},
	{"const", match_const},
	{"minimum", match_minimum},
	{"maximum", match_maximum},
	{"exclusiveMinimum", match_above},
	{"exclusiveMaximum", match_below},
	{"multipleOf", match_multiple},
	{"minLength", match_min_length},
	{"maxLength", match_max_length},
	{"minItems", match_min_items},
	{"maxItems", match_max_items},
	{"uniqueItems", match_unique},
};

/*
 * sabot_schema_match_keywords - match a value against these keywords
 */
bool
sabot_schema_match_keywords(SabotMatch *match, const JsonbValue *schema,
							const JsonbValue *value,
							const SabotJsonStep *step)
{
	JsonbValue	v;

	for (int i = 0; i < lengthof(keywords); i++)
		if (sabot_jsonb_get(schema, keywords[i].name, &v) &&
			!keywords[i].match(match, &v, value, step))
			return false;
	return true;
}
