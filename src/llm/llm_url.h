/*-------------------------------------------------------------------------
 *
 * llm_url.h
 *		URLs of model servers.
 *
 * Between llm_url.c and the files of the registry only.
 *
 * IDENTIFICATION
 *		src/llm/llm_url.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_URL_H
#define SABOT_LLM_URL_H

extern char *sabot_url_checked(const char *url);

#endif							/* SABOT_LLM_URL_H */
