/*-------------------------------------------------------------------------
 *
 * llm_json.h
 *		JSON of servers, read strictly, and text in its encoding.
 *
 * Between llm_request.c, llm_answer.c, llm_verdict.c and llm_json.c only.
 *
 * IDENTIFICATION
 *		src/llm/llm_json.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_JSON_H
#define SABOT_LLM_JSON_H

#include <cjson/cJSON.h>

/* Why a text is no JSON object. */
typedef enum SabotJsonFault
{
	SABOT_JSON_OK,
	SABOT_JSON_BAD_ENCODING,	/* characters that text cannot have */
	SABOT_JSON_CUT_OFF,			/* it ends too early */
	SABOT_JSON_MALFORMED
} SabotJsonFault;

extern const char *sabot_json_bad_escape(const char *text, size_t len);
extern cJSON *sabot_json_parse(const char *text, size_t len,
							   const char **problem, SabotJsonFault *fault);
extern const cJSON *sabot_json_member(const cJSON *object, const char *key);
extern const char *sabot_json_string(const cJSON *object, const char *key);
extern double sabot_json_number(const cJSON *object, const char *key,
								double otherwise);
extern char *sabot_text_to_utf8(const char *text);
extern char *sabot_text_from_utf8(const char *text, bool lossy);

#endif							/* SABOT_LLM_JSON_H */
