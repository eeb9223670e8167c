/*-------------------------------------------------------------------------
 *
 * llm_jsonb.h
 *		Text of unknown origin.
 *
 * IDENTIFICATION
 *		src/llm/llm_jsonb.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_JSONB_H
#define SABOT_LLM_JSONB_H

#include "utils/jsonb.h"

/* in llm_jsonb.c */
extern char *sabot_clip(const char *text, int max);
extern Jsonb *sabot_jsonb_parse(const char *text, char **violation);

#endif							/* SABOT_LLM_JSONB_H */
