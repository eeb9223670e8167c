/*-------------------------------------------------------------------------
 *
 * llm_poll.h
 *		Waiting for sockets of requests and for the process latch together.
 *
 * Between llm_http.c and llm_poll.c only.
 *
 * IDENTIFICATION
 *		src/llm/llm_poll.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_POLL_H
#define SABOT_LLM_POLL_H

#include "storage/latch.h"

extern bool sabot_poll_opened(pgsocket sock);
extern void sabot_poll_closed(pgsocket sock);
extern bool sabot_poll_watch(pgsocket sock, uint32 events);
extern int	sabot_poll_wait(long timeout_ms, WaitEvent *occurred,
							int maxoccurred);
extern pgsocket sabot_poll_next(pgsocket after);
extern int	sabot_poll_connections(void);

#endif							/* SABOT_LLM_POLL_H */
