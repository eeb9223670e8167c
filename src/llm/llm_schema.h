/*-------------------------------------------------------------------------
 *
 * llm_schema.h
 *		What checking a JSON schema and matching values against it share.
 *
 * IDENTIFICATION
 *		src/llm/llm_schema.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_SCHEMA_H
#define SABOT_LLM_SCHEMA_H

#include "lib/stringinfo.h"
#include "regex/regex.h"
#include "utils/jsonb.h"

/* Where in a document we are; the outermost step has no parent. */
typedef struct SabotJsonStep
{
	const struct SabotJsonStep *parent;
	const char *name;			/* of a member, or NULL */
	int			name_len;
	int			index;			/* of an element, if there is no name */
} SabotJsonStep;

/* A value being matched. */
typedef struct SabotMatch
{
	JsonbValue	root;			/* the whole schema */
	int64		steps;			/* left, until it has taken too long */
	int			depth;
	bool		gave_up;		/* the answer is no, whatever else */
	int			quiet;			/* > 0: a failure needs no words */
	char	   *violation;		/* the first, NULL if there is none */
} SabotMatch;

typedef bool (*SabotMatchKeyword) (SabotMatch *match, const JsonbValue *schema,
								   const JsonbValue *value,
								   const SabotJsonStep *step);

/* in llm_schema_path.c */
extern char *sabot_jsonb_path(const SabotJsonStep *step);
extern SabotJsonStep sabot_jsonb_member(const SabotJsonStep *parent,
										const char *name, int len);
extern SabotJsonStep sabot_jsonb_element(const SabotJsonStep *parent,
										 int index);
extern bool sabot_jsonb_get(const JsonbValue *object, const char *name,
							JsonbValue *value);
extern bool sabot_jsonb_is_object(const JsonbValue *value);
extern bool sabot_jsonb_is_array(const JsonbValue *value);
extern void sabot_jsonb_root(Jsonb *json, JsonbValue *value);
extern bool sabot_schema_resolve(const JsonbValue *root,
								 const JsonbValue *ref, JsonbValue *target);
extern bool sabot_schema_is_json(Jsonb *schema);

/*
 * Note why a value does not fit, and return false.  The words are only put
 * together if somebody will read them.
 */
#define sabot_schema_misfit(match, step, ...) \
	((match)->violation == NULL && ((match)->quiet == 0 || (match)->gave_up) ? \
	 sabot_schema_note(match, step, psprintf(__VA_ARGS__)) : false)

/* in llm_schema_keyword.c */
extern bool sabot_schema_note(SabotMatch *match, const SabotJsonStep *step,
							  const char *why);
extern char *sabot_schema_name_shown(const JsonbValue *name);
extern bool sabot_schema_match_keywords(SabotMatch *match,
										const JsonbValue *schema,
										const JsonbValue *value,
										const SabotJsonStep *step);

#endif							/* SABOT_LLM_SCHEMA_H */
