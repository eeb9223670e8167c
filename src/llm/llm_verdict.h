/*-------------------------------------------------------------------------
 *
 * llm_verdict.h
 *		Whose fault it is that there is no answer.
 *
 * Between llm_answer.c and llm_verdict.c only.
 *
 * IDENTIFICATION
 *		src/llm/llm_verdict.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_VERDICT_H
#define SABOT_LLM_VERDICT_H

#include "llm/llm.h"

extern void sabot_verdict_fail(SabotAnswer *answer,
							   SabotErrorClass error_class,
							   SabotFault fault, const char *error);
extern bool sabot_verdict_delivered(const SabotEndpoint *endpoint,
									const char *model,
									const SabotReply *reply,
									SabotAnswer *answer);
extern void sabot_verdict_words(const SabotEndpoint *endpoint,
								const char *model, const char *words,
								SabotAnswer *answer);

#endif							/* SABOT_LLM_VERDICT_H */
