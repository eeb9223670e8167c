/*-------------------------------------------------------------------------
 *
 * llm_schema_match.c
 *		Does a value fit a JSON schema, and if not, why?
 *
 * Nothing here raises an error because of what a value is: a model wrote it.
 * The first thing that does not fit ends the search and is told with its
 * place, short, as it is stored with the item and shown to people.
 *
 * The work is bounded too.  Schemas can be built that double it with every
 * level; after so many steps a value is taken not to fit, and says so.
 *
 * IDENTIFICATION
 *		src/llm/llm_schema_match.c
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
#include "llm/llm_schema.h"

/*
 * Steps to take for any value; a large one gets more of them, as many as it
 * can have elements.
 */
#define MIN_STEPS		500000
#define BYTES_PER_STEP	4

#define MAX_DEPTH		1000

static bool fits(SabotMatch *match, const JsonbValue *schema,
				 const JsonbValue *value, const SabotJsonStep *step);

/*
 * give_up - end the search; returns false
 */
static bool
give_up(SabotMatch *match, const SabotJsonStep *step, const char *why)
{
	match->gave_up = true;
	return sabot_schema_misfit(match, step, "%s", why);
}

/*
 * matches_pattern - whether a string matches a regular expression
 *
 * Not through the server's operator: it raises an error if the search needs
 * too much memory, which is taken for no match here.
 */
static bool
matches_pattern(const JsonbValue *pattern, const JsonbValue *string)
{
	text	   *re_text = cstring_to_text_with_len(pattern->val.string.val,
												   pattern->val.string.len);
	regex_t    *re;
	pg_wchar   *wide;
	int			len;
	int			result;

	wide = MemoryContextAllocHuge(CurrentMemoryContext,
								  sizeof(pg_wchar) *
								  ((Size) string->val.string.len + 1));
	len = pg_mb2wchar_with_len(string->val.string.val, wide,
							   string->val.string.len);
	re = RE_compile_and_cache(re_text, REG_ADVANCED | REG_NOSUB,
							  C_COLLATION_OID);
	result = pg_regexec(re, wide, len, 0, NULL, 0, NULL, 0);
	CHECK_FOR_INTERRUPTS();
	pfree(wide);
	return result == REG_OKAY;
}

/*
 * match_pattern - keyword "pattern"
 */
static bool
match_pattern(SabotMatch *match, const JsonbValue *schema,
			  const JsonbValue *value, const SabotJsonStep *step)
{
	if (schema->type != jbvString || value->type != jbvString ||
		matches_pattern(schema, value))
		return true;
	return sabot_schema_misfit(match, step, "must match \"%s\"",
							   sabot_schema_name_shown(schema));
}

/*
 * match_required - keyword "required"
 */
static bool
match_required(SabotMatch *match, const JsonbValue *schema,
			   const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	name;
	JsonbValue	v;

	if (!sabot_jsonb_is_array(schema) || !sabot_jsonb_is_object(value))
		return true;
	it = JsonbIteratorInit(schema->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &name, true) == WJB_ELEM)
	{
		if (name.type != jbvString ||
			getKeyJsonValueFromContainer(value->val.binary.data,
										 name.val.string.val,
										 name.val.string.len, &v))
			continue;
		return sabot_schema_misfit(match, step,
								   "\"%s\" is missing", sabot_schema_name_shown(&name));
	}
	return true;
}

/*
 * match_all - keyword "allOf"
 */
static bool
match_all(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (!sabot_jsonb_is_array(schema))
		return true;
	it = JsonbIteratorInit(schema->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		if (!fits(match, &v, value, step))
			return false;
	return true;
}

/*
 * count_fitting - how many of a list of schemas a value fits, at most enough
 */
static int
count_fitting(SabotMatch *match, const JsonbValue *schemas,
			  const JsonbValue *value, const SabotJsonStep *step, int enough)
{
	JsonbIterator *it = JsonbIteratorInit(schemas->val.binary.data);
	JsonbValue	v;
	int			n = 0;

	match->quiet++;
	(void) JsonbIteratorNext(&it, &v, true);
	while (n < enough && JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		n += fits(match, &v, value, step);
	match->quiet--;
	return n;
}

/*
 * match_any - keyword "anyOf"
 */
static bool
match_any(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	if (!sabot_jsonb_is_array(schema) ||
		count_fitting(match, schema, value, step, 1) > 0)
		return true;
	return sabot_schema_misfit(match, step, "fits none of the schemas of \"anyOf\"");
}

/*
 * match_one - keyword "oneOf"
 */
static bool
match_one(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	int			n;

	if (!sabot_jsonb_is_array(schema))
		return true;
	n = count_fitting(match, schema, value, step, 2);
	if (n == 1)
		return true;
	return sabot_schema_misfit(match, step, n == 0 ?
							   "fits none of the schemas of \"oneOf\"" :
							   "fits more than one of the schemas of \"oneOf\"");
}

/*
 * match_not - keyword "not"
 */
static bool
match_not(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	bool		fitting;

	match->quiet++;
	fitting = fits(match, schema, value, step);
	match->quiet--;
	if (!fitting)
		return true;
	return sabot_schema_misfit(match, step, "fits the schema of \"not\"");
}

/*
 * match_ref - keyword "$ref"
 */
static bool
match_ref(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
		  const SabotJsonStep *step)
{
	JsonbValue	target;

	if (schema->type != jbvString ||
		!sabot_schema_resolve(&match->root, schema, &target))
		return true;
	return fits(match, &target, value, step);
}

/* The rest of the keywords about a value itself, the dearer ones last. */
static const struct
{
	const char *name;
	SabotMatchKeyword match;
}			keywords[] = {
	{"required", match_required},
	{"pattern", match_pattern},
	{"$ref", match_ref},
	{"allOf", match_all},
	{"anyOf", match_any},
	{"oneOf", match_one},
	{"not", match_not},
};

/*
 * fits_patterns - match a member against the patternProperties it matches
 *
 * *known is set if there is such a pattern.
 */
static bool
fits_patterns(SabotMatch *match, const JsonbValue *patterns,
			  const JsonbValue *name, const JsonbValue *value,
			  const SabotJsonStep *step, bool *known)
{
	JsonbIterator *it;
	JsonbValue	pattern;
	JsonbValue	v;

	if (!sabot_jsonb_is_object(patterns))
		return true;
	it = JsonbIteratorInit(patterns->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &pattern, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &v, true);
		if (!matches_pattern(&pattern, name))
			continue;
		*known = true;
		if (!fits(match, &v, value, step))
			return false;
	}
	return true;
}

/*
 * fits_member - match one member of an object
 */
static bool
fits_member(SabotMatch *match, const JsonbValue *schema,
			const JsonbValue *name, const JsonbValue *value,
			const SabotJsonStep *parent)
{
	SabotJsonStep step = sabot_jsonb_member(parent, name->val.string.val,
											name->val.string.len);
	JsonbValue	v;
	JsonbValue	member;
	bool		known = false;

	if (sabot_jsonb_get(schema, "properties", &v) && sabot_jsonb_is_object(&v) &&
		getKeyJsonValueFromContainer(v.val.binary.data, name->val.string.val,
									 name->val.string.len, &member))
	{
		known = true;
		if (!fits(match, &member, value, &step))
			return false;
	}
	if (sabot_jsonb_get(schema, "patternProperties", &v) &&
		!fits_patterns(match, &v, name, value, &step, &known))
		return false;
	if (known || !sabot_jsonb_get(schema, "additionalProperties", &v))
		return true;
	if (v.type == jbvBool && !v.val.boolean)
		return sabot_schema_misfit(match, parent,
								   "\"%s\" is not expected", sabot_schema_name_shown(name));
	return fits(match, &v, value, &step);
}

/*
 * fits_members - match the members of an object
 */
static bool
fits_members(SabotMatch *match, const JsonbValue *schema,
			 const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbIterator *it = JsonbIteratorInit(value->val.binary.data);
	JsonbValue	name;
	JsonbValue	v;

	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &v, true);
		if (!fits_member(match, schema, &name, &v, step))
			return false;
	}
	return true;
}

/*
 * fits_elements - match the elements of an array
 */
static bool
fits_elements(SabotMatch *match, const JsonbValue *schema,
			  const JsonbValue *value, const SabotJsonStep *parent)
{
	JsonbValue	prefix;
	JsonbValue	items;
	bool		has_items = sabot_jsonb_get(schema, "items", &items);
	bool		has_prefix = sabot_jsonb_get(schema, "prefixItems", &prefix);
	JsonbIterator *it;
	JsonbValue	v;
	int			nprefix;

	if (!has_prefix && has_items && sabot_jsonb_is_array(&items))
	{
		/* As it was written before there was prefixItems. */
		prefix = items;
		has_prefix = true;
		has_items = false;
	}
	if (!has_prefix && !has_items)
		return true;
	has_prefix = has_prefix && sabot_jsonb_is_array(&prefix);
	nprefix = has_prefix ? JsonContainerSize(prefix.val.binary.data) : 0;

	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	for (int i = 0; JsonbIteratorNext(&it, &v, true) == WJB_ELEM; i++)
	{
		SabotJsonStep step = sabot_jsonb_element(parent, i);

		if (i < nprefix)
		{
			JsonbValue *schema_i =
			getIthJsonbValueFromContainer(prefix.val.binary.data, i);

			if (!fits(match, schema_i, &v, &step))
				return false;
		}
		else if (has_items && !fits(match, &items, &v, &step))
			return false;
	}
	return true;
}

/*
 * fits_keywords - match a value against a schema that is an object
 */
static bool
fits_keywords(SabotMatch *match, const JsonbValue *schema,
			  const JsonbValue *value, const SabotJsonStep *step)
{
	JsonbValue	v;

	if (!sabot_schema_match_keywords(match, schema, value, step))
		return false;
	for (int i = 0; i < lengthof(keywords); i++)
	{
		if (!sabot_jsonb_get(schema, keywords[i].name, &v))
			continue;
		if (!keywords[i].match(match, &v, value, step) || match->gave_up)
			return false;
	}
	if (sabot_jsonb_is_object(value))
		return fits_members(match, schema, value, step);
	if (sabot_jsonb_is_array(value))
		return fits_elements(match, schema, value, step);
	return true;
}

/*
 * fits - match a value against a schema
 */
static bool
fits(SabotMatch *match, const JsonbValue *schema, const JsonbValue *value,
	 const SabotJsonStep *step)
{
	bool		result;

	CHECK_FOR_INTERRUPTS();
	if (match->gave_up)
		return false;
	if (--match->steps < 0)
		return give_up(match, step, "the schema takes too long to match");
	if (match->depth >= MAX_DEPTH)
		return give_up(match, step, "is nested too deeply");
	if (schema->type == jbvBool)
		return schema->val.boolean ||
			sabot_schema_misfit(match, step, "must not be there");
	if (!sabot_jsonb_is_object(schema))
		return true;

	match->depth++;
	result = fits_keywords(match, schema, value, step);
	match->depth--;
	return result;
}

/*
 * sabot_schema_violation - why a value does not fit a schema, NULL if it does
 *
 * The schema has passed sabot_schema_check(); keywords that would not have
 * are ignored.  No value makes this raise an error, other than that memory is
 * out or that an interrupt is pending.  The text is palloc'd and short, such
 * as "$.score: must be at most 1".
 */
char *
sabot_schema_violation(Jsonb *schema, Jsonb *value)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	SabotMatch	match = {0};
	SabotJsonStep step = {0};
	JsonbValue	v;
	char	   *violation = NULL;

	if (sabot_schema_is_json(schema))
		return NULL;
	context = AllocSetContextCreate(caller, "sabot schema",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	match.steps = MIN_STEPS + VARSIZE(value) / BYTES_PER_STEP;
	sabot_jsonb_root(schema, &match.root);
	sabot_jsonb_root(value, &v);
	if (!fits(&match, &match.root, &v, &step))
		violation = MemoryContextStrdup(caller, match.violation ?
										match.violation : "does not fit");
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return violation;
}
