/*-------------------------------------------------------------------------
 *
 * llm_follow.h
 *		Jobs that follow a table: what the files about them share.
 *
 * IDENTIFICATION
 *		src/llm/llm_follow.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_FOLLOW_H
#define SABOT_LLM_FOLLOW_H

#include "llm/llm_run.h"

/* An item, found by the key of its row. */
typedef struct SabotFollowed
{
	int64		item;
	char	   *prompt;			/* it was asked, or is to be */
	char	   *settled;		/* it had once the answer was written, or NULL */
	char	   *state;			/* NULL if it has no answer */
} SabotFollowed;

/* in llm_follow_item.c */
extern bool sabot_follow_find(int64 job_id, Jsonb *key, SabotFollowed *found);
extern bool sabot_follow_add(const SabotLlmSpec *spec, int64 item, Jsonb *key,
							 const char *prompt);
extern bool sabot_follow_again(const SabotLlmSpec *spec, int64 item,
							   const char *prompt);
extern void sabot_follow_skip(const SabotLlmSpec *spec, int64 item,
							  const char *prompt, const char *why);
extern void sabot_follow_finished(const SabotLlmSpec *spec,
								  const SabotLlmItem *item,
								  const char *settled);
extern void sabot_follow_total(int64 job_id, int64 total);
extern void sabot_follow_list(int64 job_id);
extern bool sabot_follow_has_waiting(int64 job_id);

#endif							/* SABOT_LLM_FOLLOW_H */
