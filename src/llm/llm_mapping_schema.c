/*-------------------------------------------------------------------------
 *
 * llm_mapping_schema.c
 *		The JSON schema of an answer, derived from the columns it goes into.
 *
 * A model that is told the schema writes what fits, most of the time, so what
 * the columns' types say is said to it: types, lengths, the labels of an
 * enum, whether there may be null.  What JSON Schema has no words for is left
 * out; the column's input function has the last word anyway.
 *
 * Only output whose paths are names ($.label, $.place.city) has a shape that
 * can be told.
 *
 * IDENTIFICATION
 *		src/llm/llm_mapping_schema.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

#include "llm/llm_mapping.h"

/* The schema of a scalar type. */
typedef struct ScalarSchema
{
	Oid			type;
	const char *name;			/* of the JSON type */
	const char *format;			/* or NULL */
} ScalarSchema;

static const ScalarSchema scalars[] = {
	{BOOLOID, "boolean", NULL},
	{INT2OID, "integer", NULL},
	{INT4OID, "integer", NULL},
	{INT8OID, "integer", NULL},
	{FLOAT4OID, "number", NULL},
	{FLOAT8OID, "number", NULL},
	{NUMERICOID, "number", NULL},
	{DATEOID, "string", "date"},
	{TIMEOID, "string", "time"},
	{TIMETZOID, "string", "time"},
	{TIMESTAMPOID, "string", "date-time"},
	{TIMESTAMPTZOID, "string", "date-time"},
	{INTERVALOID, "string", "duration"},
	{UUIDOID, "string", "uuid"},
};

static void push_type_schema(JsonbParseState **state, Oid type, int32 typmod,
							 bool nullable);

/*
 * push_string - append a string
 */
static void
push_string(JsonbParseState **state, JsonbIteratorToken token,
			const char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = (int) strlen(string);
	pushJsonbValue(state, token, &value);
}

/*
 * push_number - append a member that is a number
 */
static void
push_number(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value;

	push_string(state, WJB_KEY, name);
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	pushJsonbValue(state, WJB_VALUE, &value);
}

/*
 * push_type - append keyword "type"
 */
static void
push_type(JsonbParseState **state, const char *name, bool nullable)
{
	push_string(state, WJB_KEY, "type");
	if (!nullable)
	{
		push_string(state, WJB_VALUE, name);
		return;
	}
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	push_string(state, WJB_ELEM, name);
	push_string(state, WJB_ELEM, "null");
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/*
 * compare_labels - the order of an enum's labels, for list_sort()
 */
static int
compare_labels(const ListCell *a, const ListCell *b)
{
	float4		x = ((Form_pg_enum) lfirst(a))->enumsortorder;
	float4		y = ((Form_pg_enum) lfirst(b))->enumsortorder;

	return (x > y) - (x < y);
}

/*
 * push_enum - append keyword "enum" with the labels of an enum type
 */
static void
push_enum(JsonbParseState **state, Oid type, bool nullable)
{
	CatCList   *rows = SearchSysCacheList1(ENUMTYPOIDNAME,
										   ObjectIdGetDatum(type));
	List	   *labels = NIL;
	JsonbValue	null = {.type = jbvNull};
	ListCell   *lc;

	for (int i = 0; i < rows->n_members; i++)
		labels = lappend(labels, GETSTRUCT(&rows->members[i]->tuple));
	list_sort(labels, compare_labels);

	push_string(state, WJB_KEY, "enum");
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, labels)
		push_string(state, WJB_ELEM,
					pstrdup(NameStr(((Form_pg_enum) lfirst(lc))->enumlabel)));
	if (nullable)
		pushJsonbValue(state, WJB_ELEM, &null);
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
	ReleaseSysCacheList(rows);
}

/*
 * push_scalar - append keywords for a type of the list; false if it is not
 * on it
 */
static bool
push_scalar(JsonbParseState **state, Oid type, bool nullable)
{
	for (int i = 0; i < lengthof(scalars); i++)
	{
		if (scalars[i].type != type)
			continue;
		push_type(state, scalars[i].name, nullable);
		if (scalars[i].format)
		{
			push_string(state, WJB_KEY, "format");
			push_string(state, WJB_VALUE, scalars[i].format);
		}
		if (type == INT2OID || type == INT4OID)
		{
			push_number(state, "minimum",
						type == INT2OID ? PG_INT16_MIN : PG_INT32_MIN);
			push_number(state, "maximum",
						type == INT2OID ? PG_INT16_MAX : PG_INT32_MAX);
		}
		return true;
	}
	return false;
}

/*
 * push_array - append keywords for an array
 */
static void
push_array(JsonbParseState **state, Oid element, int32 typmod, bool nullable)
{
	push_type(state, "array", nullable);
	push_string(state, WJB_KEY, "items");
	push_type_schema(state, element, typmod, false);
}

/*
 * push_type_schema - append the schema of a type
 *
 * Anything is left that need not be a string: JSON itself, and composites.
 */
static void
push_type_schema(JsonbParseState **state, Oid type, int32 typmod,
				 bool nullable)
{
	Oid			base = getBaseTypeAndTypmod(type, &typmod);
	Oid			element = get_element_type(base);

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	if (push_scalar(state, base, nullable) || base == JSONOID ||
		base == JSONBOID || type_is_rowtype(base))
		;
	else if (OidIsValid(element))
		push_array(state, element, typmod, nullable);
	else if (type_is_enum(base))
		push_enum(state, base, nullable);
	else
	{
		push_type(state, "string", nullable);
		if ((base == VARCHAROID || base == BPCHAROID) && typmod >= VARHDRSZ)
			push_number(state, "maxLength", typmod - VARHDRSZ);
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * has_prefix - whether a column's path begins with the first depth names of
 * another's
 */
static bool
has_prefix(const SabotMappedColumn *column, const SabotMappedColumn *other,
		   int depth)
{
	if (list_length(column->members) < depth)
		return false;
	for (int i = 0; i < depth; i++)
		if (strcmp(list_nth(column->members, i),
				   list_nth(other->members, i)) != 0)
			return false;
	return true;
}

/*
 * can_derive - whether all paths are names, and none leads through the value
 * of another
 */
static bool
can_derive(const SabotMapping *mapping)
{
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		SabotMappedColumn *column = &mapping->columns[i];

		if (column->members == NIL)
			return false;
		for (int j = 0; j < mapping->ncolumns; j++)
			if (j != i && has_prefix(&mapping->columns[j], column,
									 list_length(column->members)))
				return false;
	}
	return mapping->ncolumns > 0;
}

/*
 * is_first - whether no column before this one has the same names up to depth
 */
static bool
is_first(const SabotMapping *mapping, int number, int depth)
{
	for (int i = 0; i < number; i++)
		if (has_prefix(&mapping->columns[i], &mapping->columns[number], depth))
			return false;
	return true;
}

/*
 * push_object - append the schema of the object that is depth names into the
 * path of a column; returns what the outermost one is
 */
static JsonbValue *
push_object(JsonbParseState **state, const SabotMapping *mapping, int first,
			int depth)
{
	JsonbValue	no = {.type = jbvBool,.val.boolean = false};

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_type(state, "object", false);
	push_string(state, WJB_KEY, "properties");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = first; i < mapping->ncolumns; i++)
	{
		SabotMappedColumn *column = &mapping->columns[i];

		if (!has_prefix(column, &mapping->columns[first], depth) ||
			!is_first(mapping, i, depth + 1))
			continue;
		push_string(state, WJB_KEY, list_nth(column->members, depth));
		if (list_length(column->members) == depth + 1)
			push_type_schema(state, column->type, column->typmod,
							 column->nullable);
		else
			(void) push_object(state, mapping, i, depth + 1);
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);

	push_string(state, WJB_KEY, "required");
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = first; i < mapping->ncolumns; i++)
		if (has_prefix(&mapping->columns[i], &mapping->columns[first],
					   depth) &&
			is_first(mapping, i, depth + 1))
			push_string(state, WJB_ELEM,
						list_nth(mapping->columns[i].members, depth));
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
	push_string(state, WJB_KEY, "additionalProperties");
	pushJsonbValue(state, WJB_VALUE, &no);
	return pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * sabot_mapping_schema - the JSON schema that the mapped columns ask for
 *
 * NULL if the whole answer goes into a column, if nothing is written, or if
 * the paths do not tell the shape of the answer.  palloc'd.
 */
Jsonb *
sabot_mapping_schema(const SabotMapping *mapping)
{
	JsonbParseState *state = NULL;

	if (!mapping->is_object || !can_derive(mapping))
		return NULL;
	return JsonbValueToJsonb(push_object(&state, mapping, 0, 0));
}
