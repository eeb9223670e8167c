/*-------------------------------------------------------------------------
 *
 * llm_transfer.h
 *		One HTTP request of libcurl's: what goes in and what comes out.
 *
 * Between llm_http.c, llm_get.c and llm_transfer.c only.
 *
 * IDENTIFICATION
 *		src/llm/llm_transfer.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_TRANSFER_H
#define SABOT_LLM_TRANSFER_H

#include <curl/curl.h>

#include "lib/ilist.h"
#include "llm/llm.h"

/* A request, or the makings of one.  In TopMemoryContext. */
struct SabotHttp
{
	dlist_node	node;			/* in open_requests or unused_requests */
	CURL	   *curl;
	struct curl_slist *headers; /* of the request */
	SabotHttp **holder;			/* set to NULL at the end; or NULL */
	SabotReply	reply;
	bool		running;		/* libcurl is at it */
	int64		start_us;
	int64		deadline_us;
	long		connect_timeout_ms;

	/* set by callbacks */
	char	   *body;			/* malloc'd, or NULL */
	size_t		len;
	size_t		size;
	size_t		max_response;
	size_t		header_bytes;
	bool		too_large;
	bool		out_of_memory;
	bool		refused_resend;
	char		retry_after[64];	/* the header's value */
	char		error[CURL_ERROR_SIZE];
};

/* in llm_transfer.c */
extern bool sabot_transfer_has_written(const SabotHttp *http);
extern CURLcode sabot_transfer_prepare(SabotHttp *http, const char *url,
									   const char *authorization,
									   const char *body,
									   bool new_connection);
extern void sabot_transfer_reply(SabotHttp *http, CURLcode code,
								 bool timed_out);

/* in llm_http.c, for llm_get.c */
extern void sabot_transfer_hold(SabotHttp *http, SabotHttp **holder);
extern void sabot_transfer_waited(void);

#endif							/* SABOT_LLM_TRANSFER_H */
