/*-------------------------------------------------------------------------
 *
 * llm_schema.c
 *		JSON schemas: what is none is refused, before anything is asked.
 *
 * Model servers take a schema to steer what the model writes, each of them a
 * part of JSON Schema and each another part, and none promises that the
 * answer fits.  So answers are matched here again, with the keywords that say
 * something about the values a column could get.  Keywords that are not known
 * are annotations, as the standard has it; those that are known must be well
 * formed, since a misspelt type would make every answer a bad one.
 *
 * A reference is followed wherever it leads inside the schema.  One that
 * leads back to itself without descending into the value has no end, and is
 * refused here, so that matching only recurses as deep as values do.
 *
 * Patterns are PostgreSQL's regular expressions; those of JSON Schema's own
 * dialect that people use mean the same there.
 *
 * IDENTIFICATION
 *		src/llm/llm_schema.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation_d.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "llm/llm.h"
#include "llm/llm_jsonb.h"
#include "llm/llm_schema.h"

#define MAX_SHOWN_NAME	60

/* A schema being checked. */
typedef struct SchemaCheck
{
	JsonbValue	root;
	List	   *checked;		/* containers of schemas, checked or begun */
	List	   *followed;		/* those known to come to an end */
	List	   *open;			/* those being followed */
} SchemaCheck;

typedef void (*CheckKeyword) (SchemaCheck *check, const JsonbValue *value,
							  const SabotJsonStep *step);

static void check_schema(SchemaCheck *check, const JsonbValue *schema,
						 const SabotJsonStep *step);

/*
 * invalid_schema - raise 22023 for a place in the schema
 */
static void
invalid_schema(const SabotJsonStep *step, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("format is not a JSON schema"),
			 errdetail("At %s: %s.", sabot_jsonb_path(step), problem)));
}

/*
 * shown - a JSON string for a message
 */
static char *
shown(const JsonbValue *string)
{
	return sabot_clip(pnstrdup(string->val.string.val, string->val.string.len),
					  MAX_SHOWN_NAME);
}

/*
 * check_type_name - the value of "type", or one of several
 */
static void
check_type_name(const JsonbValue *value, const SabotJsonStep *step)
{
	static const char *const names[] = {
		"string", "number", "integer", "boolean", "null", "object", "array"
	};

	if (value->type != jbvString)
		invalid_schema(step, "a type must be a string");
	for (int i = 0; i < lengthof(names); i++)
		if (value->val.string.len == strlen(names[i]) &&
			memcmp(value->val.string.val, names[i], strlen(names[i])) == 0)
			return;
	invalid_schema(step,
				   psprintf("\"%s\" is none of the types string, number, integer, boolean, null, object and array",
							shown(value)));
}

/*
 * check_type - keyword "type"
 */
static void
check_type(SchemaCheck *check, const JsonbValue *value,
		   const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;
	int			n = 0;

	if (!sabot_jsonb_is_array(value))
	{
		check_type_name(value, step);
		return;
	}
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		SabotJsonStep element = sabot_jsonb_element(step, n++);

		check_type_name(&v, &element);
	}
	if (n == 0)
		invalid_schema(step, "there must be at least one type");
}

/*
 * check_list - a keyword whose value is any array that is not empty
 */
static void
check_list(SchemaCheck *check, const JsonbValue *value,
		   const SabotJsonStep *step)
{
	if (!sabot_jsonb_is_array(value))
		invalid_schema(step, "it must be an array");
	if (JsonContainerSize(value->val.binary.data) == 0)
		invalid_schema(step, "it must not be empty");
}

/*
 * check_names - keyword "required"
 */
static void
check_names(SchemaCheck *check, const JsonbValue *value,
			const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (!sabot_jsonb_is_array(value))
		invalid_schema(step, "it must be an array of names");
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		if (v.type != jbvString)
			invalid_schema(step, "it must be an array of names");
}

/*
 * check_schema_list - a keyword whose value is an array of schemas
 */
static void
check_schema_list(SchemaCheck *check, const JsonbValue *value,
				  const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;
	int			n = 0;

	check_list(check, value, step);
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		SabotJsonStep element = sabot_jsonb_element(step, n++);

		check_schema(check, &v, &element);
	}
}

/*
 * check_items - keyword "items": a schema, or as once was a list of them
 */
static void
check_items(SchemaCheck *check, const JsonbValue *value,
			const SabotJsonStep *step)
{
	if (sabot_jsonb_is_array(value))
		check_schema_list(check, value, step);
	else
		check_schema(check, value, step);
}

/*
 * check_schema_members - a keyword whose value is an object of schemas
 */
static void
check_schema_members(SchemaCheck *check, const JsonbValue *value,
					 const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	name;
	JsonbValue	v;

	if (!sabot_jsonb_is_object(value))
		invalid_schema(step, "it must be an object");
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
	{
		SabotJsonStep member = sabot_jsonb_member(step, name.val.string.val,
												  name.val.string.len);

		(void) JsonbIteratorNext(&it, &v, true);
		check_schema(check, &v, &member);
	}
}

/*
 * check_number - a keyword whose value is a number
 */
static void
check_number(SchemaCheck *check, const JsonbValue *value,
			 const SabotJsonStep *step)
{
	if (value->type != jbvNumeric)
		invalid_schema(step, "it must be a number");
}

/*
 * sign_of - -1, 0 or 1, as a number is less than, equal to or above zero
 */
static int
sign_of(Numeric number)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp,
											 NumericGetDatum(number),
											 NumericGetDatum(int64_to_numeric(0))));
}

/*
 * check_divisor - keyword "multipleOf"
 */
static void
check_divisor(SchemaCheck *check, const JsonbValue *value,
			  const SabotJsonStep *step)
{
	check_number(check, value, step);
	if (sign_of(value->val.numeric) <= 0)
		invalid_schema(step, "it must be greater than 0");
}

/*
 * check_count - a keyword whose value is a number of things
 */
static void
check_count(SchemaCheck *check, const JsonbValue *value,
			const SabotJsonStep *step)
{
	check_number(check, value, step);
	if (sign_of(value->val.numeric) < 0)
		invalid_schema(step, "it must not be negative");
}

/*
 * check_boolean - keyword "uniqueItems"
 */
static void
check_boolean(SchemaCheck *check, const JsonbValue *value,
			  const SabotJsonStep *step)
{
	if (value->type != jbvBool)
		invalid_schema(step, "it must be true or false");
}

/*
 * check_pattern - keyword "pattern"
 *
 * Compiled without the server's cache, which would raise its own error.
 */
static void
check_pattern(SchemaCheck *check, const JsonbValue *value,
			  const SabotJsonStep *step)
{
	regex_t		re;
	pg_wchar   *wide;
	int			len;
	int			result;
	char		message[100];

	if (value->type != jbvString)
		invalid_schema(step, "it must be a string");
	wide = palloc((value->val.string.len + 1) * sizeof(pg_wchar));
	len = pg_mb2wchar_with_len(value->val.string.val, wide,
							   value->val.string.len);
	result = pg_regcomp(&re, wide, len, REG_ADVANCED | REG_NOSUB,
						C_COLLATION_OID);
	pfree(wide);
	if (result == REG_OKAY)
	{
		pg_regfree(&re);
		return;
	}
	CHECK_FOR_INTERRUPTS();
	(void) pg_regerror(result, &re, message, sizeof(message));
	invalid_schema(step, psprintf("\"%s\" is no regular expression: %s",
								  shown(value), message));
}

/*
 * check_ref - keyword "$ref"
 */
static void
check_ref(SchemaCheck *check, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	JsonbValue	target;

	if (value->type != jbvString)
		invalid_schema(step, "it must be a string");
	if (!sabot_schema_resolve(&check->root, value, &target))
		invalid_schema(step, psprintf("\"%s\" is no schema in this document",
									  shown(value)));
	check_schema(check, &target, step);
}

/* The keywords that are looked at, and what their values must be. */
static const struct
{
	const char *name;
	CheckKeyword check;
}			keywords[] = {
	{"type", check_type},
	{"enum", check_list},
	{"properties", check_schema_members},
	{"patternProperties", check_schema_members},
	{"additionalProperties", check_schema},
	{"required", check_names},
	{"items", check_items},
	{"prefixItems", check_schema_list},
	{"minItems", check_count},
	{"maxItems", check_count},
	{"uniqueItems", check_boolean},
	{"minLength", check_count},
	{"maxLength", check_count},
	{"pattern", check_pattern},
	{"minimum", check_number},
	{"maximum", check_number},
	{"exclusiveMinimum", check_number},
	{"exclusiveMaximum", check_number},
	{"multipleOf", check_divisor},
	{"anyOf", check_schema_list},
	{"oneOf", check_schema_list},
	{"allOf", check_schema_list},
	{"not", check_schema},
	{"$ref", check_ref},
	{"$defs", check_schema_members},
	{"definitions", check_schema_members},
};

static void follow(SchemaCheck *check, const JsonbValue *schema,
				   const SabotJsonStep *step);

/*
 * follow_list - follow the schemas of anyOf and its like
 */
static void
follow_list(SchemaCheck *check, const JsonbValue *list,
			const SabotJsonStep *step)
{
	JsonbIterator *it = JsonbIteratorInit(list->val.binary.data);
	JsonbValue	v;

	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		follow(check, &v, step);
}

/*
 * follow - raise an error if a schema applies itself to the value it is for
 *
 * Everything in it has been found well formed.
 */
static void
follow(SchemaCheck *check, const JsonbValue *schema, const SabotJsonStep *step)
{
	static const char *const lists[] = {"anyOf", "oneOf", "allOf"};
	void	   *id;
	JsonbValue	v;
	JsonbValue	target;

	check_stack_depth();
	if (!sabot_jsonb_is_object(schema))
		return;
	id = schema->val.binary.data;
	if (list_member_ptr(check->open, id))
		invalid_schema(step, "\"$ref\" leads back to itself without end");
	if (list_member_ptr(check->followed, id))
		return;

	check->open = lappend(check->open, id);
	for (int i = 0; i < lengthof(lists); i++)
		if (sabot_jsonb_get(schema, lists[i], &v))
			follow_list(check, &v, step);
	if (sabot_jsonb_get(schema, "not", &v))
		follow(check, &v, step);
	if (sabot_jsonb_get(schema, "$ref", &v) &&
		sabot_schema_resolve(&check->root, &v, &target))
		follow(check, &target, step);
	check->open = list_delete_last(check->open);
	check->followed = lappend(check->followed, id);
}

/*
 * check_schema - raise 22023 unless a value is a schema
 *
 * One that has been seen already is not looked at again: references may lead
 * to the schema they are in.
 */
static void
check_schema(SchemaCheck *check, const JsonbValue *schema,
			 const SabotJsonStep *step)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (schema->type == jbvBool)
		return;
	if (!sabot_jsonb_is_object(schema))
		invalid_schema(step, "a schema must be an object, true or false");
	if (list_member_ptr(check->checked, schema->val.binary.data))
		return;
	check->checked = lappend(check->checked, schema->val.binary.data);

	for (int i = 0; i < lengthof(keywords); i++)
	{
		SabotJsonStep member = sabot_jsonb_member(step, keywords[i].name,
												  (int) strlen(keywords[i].name));
		JsonbValue	v;

		if (sabot_jsonb_get(schema, keywords[i].name, &v))
			keywords[i].check(check, &v, &member);
	}
	follow(check, schema, step);
}

/*
 * sabot_schema_check - raise 22023 for what can be no JSON schema
 *
 * The string "json" is no schema but a format: any JSON.
 */
void
sabot_schema_check(Jsonb *schema)
{
	SchemaCheck check = {0};
	SabotJsonStep root = {0};

	if (sabot_schema_is_json(schema))
		return;
	sabot_jsonb_root(schema, &check.root);
	check_schema(&check, &check.root, &root);
}
