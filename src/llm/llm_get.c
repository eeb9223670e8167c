/*-------------------------------------------------------------------------
 *
 * llm_get.c
 *		A request that is waited for where it is made.
 *
 * Requests of llm_http.c know nothing of transactions, as a worker's outlive
 * many.  One that is part of a statement has to end with it, whether its
 * reply is still to come or being read when an error is raised.  It belongs to
 * the memory context it was made in, and so ends with the statement, the
 * subtransaction or the worker's step whose context that is.
 *
 * IDENTIFICATION
 *		src/llm/llm_get.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "llm/llm_transfer.h"

#define MAX_RESPONSE (4 * 1024 * 1024)

/* Ends a request when the memory context it was made in goes away. */
typedef struct RequestGuard
{
	MemoryContextCallback callback;
	SabotHttp  *http;			/* NULL once it was ended */
} RequestGuard;

/*
 * end_guarded - memory context callback: end a request that was left open
 */
static void
end_guarded(void *arg)
{
	RequestGuard *guard = arg;

	if (guard->http != NULL)
		sabot_http_end(guard->http);
}

/*
 * get_once - one request, from the beginning to the reply
 */
static SabotHttp *
get_once(const SabotEndpoint *endpoint, const char *path, const char *body,
		 int64 timeout_ms)
{
	RequestGuard *guard = palloc0(sizeof(RequestGuard));
	SabotHttp  *http;

	guard->callback.func = end_guarded;
	guard->callback.arg = guard;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &guard->callback);
	http = sabot_http_start(endpoint, path, body, timeout_ms,
							MAX_RESPONSE);
	sabot_transfer_hold(http, &guard->http);
	PG_TRY();
	{
		while (!sabot_http_is_done(http))
		{
			CHECK_FOR_INTERRUPTS();
			sabot_http_wait(-1);
		}
	}
	PG_CATCH();
	{
		sabot_http_end(http);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sabot_transfer_waited();
	return http;
}

/*
 * sabot_http_get - a request, waited for here
 *
 * Parameters as those of sabot_http_start().  The reply lives until *http is
 * ended.  The caller does that; if an error is raised before, the request
 * ends with the current memory context.  Sends again, once, if a kept
 * connection turned out dead.  Raises what sabot_http_start() and interrupts
 * raise.
 */
const SabotReply *
sabot_http_get(const SabotEndpoint *endpoint, const char *path,
			   const char *body, int64 timeout_ms, SabotHttp **http)
{
	*http = get_once(endpoint, path, body, timeout_ms);
	if ((*http)->reply.stale)
	{
		sabot_http_end(*http);
		*http = get_once(endpoint, path, body, timeout_ms);
	}
	return sabot_http_reply(*http);
}
