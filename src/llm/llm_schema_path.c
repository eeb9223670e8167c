/*-------------------------------------------------------------------------
 *
 * llm_schema_path.c
 *		Ways through JSON documents, and places in them as people read them.
 *
 * A place is a chain of steps on the stack of who descends: it costs nothing
 * until somebody is to be told of it.
 *
 * IDENTIFICATION
 *		src/llm/llm_schema_path.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "llm/llm_jsonb.h"
#include "llm/llm_schema.h"

#define MAX_PATH_STEPS	20
#define MAX_SHOWN_NAME	60

/*
 * sabot_jsonb_path - a place in a document as text: $.items[3].name
 *
 * Long paths lose their middle, long names their end.
 */
char *
sabot_jsonb_path(const SabotJsonStep *step)
{
	StringInfoData buf;
	const SabotJsonStep *steps[MAX_PATH_STEPS];
	int			n = 0;
	bool		cut = false;

	for (; step != NULL && step->parent != NULL; step = step->parent)
	{
		if (n < MAX_PATH_STEPS)
			steps[n++] = step;
		else
			cut = true;
	}
	initStringInfo(&buf);
	appendStringInfoString(&buf, cut ? "$..." : "$");
	while (n-- > 0)
	{
		if (steps[n]->name)
			appendStringInfo(&buf, ".%s",
							 sabot_clip(pnstrdup(steps[n]->name,
												 steps[n]->name_len),
										MAX_SHOWN_NAME));
		else
			appendStringInfo(&buf, "[%d]", steps[n]->index);
	}
	return buf.data;
}

/*
 * sabot_jsonb_member - the step from an object to one of its members
 */
SabotJsonStep
sabot_jsonb_member(const SabotJsonStep *parent, const char *name, int len)
{
	SabotJsonStep step = {parent, name, len, 0};

	return step;
}

/*
 * sabot_jsonb_element - the step from an array to one of its elements
 */
SabotJsonStep
sabot_jsonb_element(const SabotJsonStep *parent, int index)
{
	SabotJsonStep step = {parent, NULL, 0, index};

	return step;
}

/*
 * sabot_jsonb_is_object - whether a value is an object
 */
bool
sabot_jsonb_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data);
}

/*
 * sabot_jsonb_is_array - whether a value is an array
 */
bool
sabot_jsonb_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsArray(value->val.binary.data);
}

/*
 * sabot_jsonb_get - a member of an object; false if it is not there
 */
bool
sabot_jsonb_get(const JsonbValue *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, name,
										(int) strlen(name), value) != NULL;
}

/*
 * sabot_jsonb_root - a document as a value, which points into it
 */
void
sabot_jsonb_root(Jsonb *json, JsonbValue *value)
{
	if (!JsonbExtractScalar(&json->root, value))
		JsonbToJsonbValue(json, value);
}

/*
 * sabot_schema_is_json - whether a format is "json": any JSON will do
 */
bool
sabot_schema_is_json(Jsonb *schema)
{
	JsonbValue	value;

	return JsonbExtractScalar(&schema->root, &value) &&
		value.type == jbvString && value.val.string.len == 4 &&
		memcmp(value.val.string.val, "json", 4) == 0;
}

/*
 * hex_value - the value of a hexadecimal digit, -1 if it is none
 */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * pointer_token - one part of a JSON pointer in a URI, unescaped
 *
 * *s is moved to what follows it.
 */
static char *
pointer_token(const char **s, const char *end)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *s < end && **s != '/'; (*s)++)
	{
		const char *p = *s;
		char		c = *p;

		if (c == '%' && end - p > 2 &&
			hex_value(p[1]) >= 0 && hex_value(p[2]) >= 0)
		{
			c = (char) (hex_value(p[1]) * 16 + hex_value(p[2]));
			*s += 2;
		}
		else if (c == '~' && end - p > 1 && (p[1] == '0' || p[1] == '1'))
		{
			c = p[1] == '0' ? '~' : '/';
			(*s)++;
		}
		appendStringInfoChar(&buf, c);
	}
	return buf.data;
}

/*
 * enter - replace a value by its member or element; false if there is none
 */
static bool
enter(JsonbValue *value, const char *token)
{
	JsonbValue *element;
	size_t		digits = strspn(token, "0123456789");

	if (sabot_jsonb_is_object(value))
	{
		JsonbValue	member;

		if (!sabot_jsonb_get(value, token, &member))
			return false;
		*value = member;
		return true;
	}
	if (!sabot_jsonb_is_array(value) || digits == 0 || digits > 9 ||
		token[digits] != '\0')
		return false;
	element = getIthJsonbValueFromContainer(value->val.binary.data,
											(uint32) atoi(token));
	if (element == NULL)
		return false;
	*value = *element;
	return true;
}

/*
 * sabot_schema_resolve - the subschema that a $ref names; false if none does
 *
 * Only references into the schema itself lead anywhere.
 */
bool
sabot_schema_resolve(const JsonbValue *root, const JsonbValue *ref,
					 JsonbValue *target)
{
	const char *s = ref->val.string.val;
	const char *end = s + ref->val.string.len;

	if (s == end || *s++ != '#')
		return false;
	*target = *root;
	while (s < end)
	{
		char	   *token;
		bool		found;

		if (*s++ != '/')
			return false;
		token = pointer_token(&s, end);
		found = enter(target, token);
		pfree(token);			/* values by the million come by here */
		if (!found)
			return false;
	}
	return target->type == jbvBool || sabot_jsonb_is_object(target);
}
