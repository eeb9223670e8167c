/*-------------------------------------------------------------------------
 *
 * llm_endpoint.h
 *		The registry of endpoints, beyond what llm.h has of it.
 *
 * IDENTIFICATION
 *		src/llm/llm_endpoint.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_ENDPOINT_H
#define SABOT_LLM_ENDPOINT_H

#include "llm/llm.h"

/* The endpoint that is there without a row. */
#define SABOT_DEFAULT_ENDPOINT "default"

/* Secrets are tokens; this begins the ones that name a file instead. */
#define SABOT_SECRET_FILE "file:"
#define SABOT_MAX_SECRET_LEN (8 * 1024)

/* Why a role cannot use an endpoint; palloc'd. */
typedef struct SabotEndpointProblem
{
	int			sqlerrcode;
	const char *message;
	const char *hint;
	const char *no_secret;		/* the file of its secret cannot be read now:
								 * why; or NULL */
} SabotEndpointProblem;

extern Oid	sabot_endpoint_table(void);
extern SabotEndpoint *sabot_endpoint_find(const char *name, Oid role,
										  SabotEndpointProblem *problem);
extern void sabot_endpoint_raise(const SabotEndpointProblem *problem);

#endif							/* SABOT_LLM_ENDPOINT_H */
