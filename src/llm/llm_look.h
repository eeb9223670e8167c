/*-------------------------------------------------------------------------
 *
 * llm_look.h
 *		Looking at a model server while somebody waits for it: from submitting
 *		and checking only.
 *
 * IDENTIFICATION
 *		src/llm/llm_look.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_LOOK_H
#define SABOT_LLM_LOOK_H

#include "llm/llm.h"

extern char *sabot_model_names(List *models);
extern char *sabot_look_for_names(const SabotEndpoint *endpoint);
extern void sabot_look_for_model(const SabotEndpoint *endpoint,
								 const char *model);

#endif							/* SABOT_LLM_LOOK_H */
