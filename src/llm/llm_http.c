/*-------------------------------------------------------------------------
 *
 * llm_http.c
 *		HTTP requests over libcurl, waited for together with the latch.
 *
 * A process has one multi handle, made when it is first needed (so after
 * fork, and never in shared memory).  It keeps connections, so that N
 * requests to a server use one; easy handles are used again, too.  Nothing
 * here blocks but sabot_http_wait(), which sleeps on libcurl's sockets and
 * the latch in one wait; aborting a request is a matter of microseconds.
 * Callbacks never raise errors and never use palloc.
 *
 * Deadlines are our own.  libcurl looks at its own before it looks at its
 * sockets, so an answer that arrived while the process was writing to the
 * database would count as a timeout.  Here a request is late only if its
 * deadline has passed and everything that had arrived by then is read, and
 * sabot_http_extend() forgives the time in which nobody read.
 *
 * libcurl runs getaddrinfo() in a thread for names other than localhost.
 * Threads inherit the signal mask, and handlers of PostgreSQL must not run in
 * them, so all signals are blocked around calls that may start one.  Before
 * libcurl 7.87 aborting a request waits for that thread.
 *
 * IDENTIFICATION
 *		src/llm/llm_http.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "llm/llm_poll.h"
#include "llm/llm_transfer.h"

#define CONNECT_TIMEOUT_MS 2000
#define MAX_KEPT_BODY (64 * 1024)	/* a larger buffer is not kept */
#define MAX_KEPT_REQUESTS 8		/* unused SabotHttp kept */
#define EVENTS_AT_ONCE 16

static CURLM *multi = NULL;
static dlist_head open_requests = DLIST_STATIC_INIT(open_requests);
static dlist_head unused_requests = DLIST_STATIC_INIT(unused_requests);
static int	nopen = 0;
static int	nunused = 0;

/* When libcurl wants to be called, -1 = it does not. */
static int64 curl_timer_us = -1;

/* Some request has ended since sabot_http_wait() last returned. */
static bool has_news = false;

/* Requests still to be given a new connection, as kept ones turned out dead. */
static int	distrust = 0;

/* Kept connections are to be closed as soon as no request is open. */
static bool forget_later = false;

/* File descriptors reserved for connections. */
static int	reserved_fds = 0;

/* Most requests that were open at once, which is how many to keep room for. */
static int	most_open = 0;

/*
 * now_us - monotonic time in microseconds
 */
static int64
now_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

/*
 * watch_socket - CURLMOPT_SOCKETFUNCTION: what libcurl waits for
 */
static int
watch_socket(CURL *curl, curl_socket_t sock, int what, void *arg,
			 void *socket_arg)
{
	uint32		events = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_READABLE;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_WRITEABLE;
	return sabot_poll_watch(sock, events) ? 0 : -1;
}

/*
 * set_timer - CURLMOPT_TIMERFUNCTION: when libcurl wants to be called
 */
static int
set_timer(CURLM *handle, long timeout_ms, void *arg)
{
	curl_timer_us = timeout_ms < 0 ? -1 : now_us() + timeout_ms * INT64CONST(1000);
	return 0;
}

/*
 * block_signals - block them all, so that a thread begins with none
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

/*
 * unblock_signals - undo block_signals()
 */
static void
unblock_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * finish - libcurl is done with a request, or we are done waiting
 */
static void
finish(SabotHttp *http, CURLcode code, bool timed_out)
{
	sabot_transfer_reply(http, code, timed_out);
	http->reply.latency_us = now_us() - http->start_us;
	if (http->reply.stale)
		distrust++;
	curl_multi_remove_handle(multi, http->curl);
	http->running = false;
	has_news = true;
}

/*
 * collect - finish the requests libcurl is done with
 */
static void
collect(void)
{
	CURLMsg    *message;
	int			nleft;

	while ((message = curl_multi_info_read(multi, &nleft)) != NULL)
	{
		CURLcode	code = message->data.result;
		char	   *private;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
		finish((SabotHttp *) private, code, false);
	}
}

/*
 * drive - have libcurl act on a socket, or on the time
 *
 * action is of CURL_CSELECT_*, 0 to have libcurl look itself.  Raises no
 * error.
 */
static CURLMcode
drive(curl_socket_t sock, int action)
{
	sigset_t	saved;
	CURLMcode	code;
	int			nrunning;

	block_signals(&saved);
	code = curl_multi_socket_action(multi, sock, action, &nrunning);
	unblock_signals(&saved);
	collect();
	return code;
}

/*
 * check_multi - raise an error if the multi handle does not work
 *
 * ERRCODE_OUT_OF_MEMORY or ERRCODE_CONNECTION_FAILURE.
 */
static void
check_multi(CURLMcode code)
{
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(code == CURLM_OUT_OF_MEMORY ?
						 ERRCODE_OUT_OF_MEMORY : ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not run HTTP requests: %s",
						curl_multi_strerror(code))));
}

/*
 * bytes_received - number of bytes all open requests have received
 */
static size_t
bytes_received(void)
{
	size_t		nbytes = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &open_requests)
	{
		SabotHttp  *http = dlist_container(SabotHttp, node, iter.cur);

		nbytes += http->header_bytes + http->len;
	}
	return nbytes;
}

/*
 * drive_all - have libcurl look at every socket
 */
static CURLMcode
drive_all(void)
{
	pgsocket	sock = PGINVALID_SOCKET;
	CURLMcode	code = CURLM_OK;

	while (code == CURLM_OK &&
		   (sock = sabot_poll_next(sock)) != PGINVALID_SOCKET)
		code = drive(sock, 0);
	return code;
}

/*
 * drain - read everything that has arrived
 *
 * libcurl reads a piece at a time.  Ends, as what may be received is limited.
 * Raises the errors of check_multi().
 */
static void
drain(void)
{
	size_t		before;

	do
	{
		before = bytes_received();
		check_multi(drive_all());
	} while (bytes_received() > before);
}

/*
 * next_deadline - when the first open request is late, -1 if none is open
 */
static int64
next_deadline(void)
{
	int64		first = -1;
	dlist_iter	iter;

	dlist_foreach(iter, &open_requests)
	{
		SabotHttp  *http = dlist_container(SabotHttp, node, iter.cur);

		if (http->running && (first < 0 || http->deadline_us < first))
			first = http->deadline_us;
	}
	return first;
}

/*
 * expire - give up the requests that are late
 */
static void
expire(void)
{
	int64		first = next_deadline();
	int64		now;
	dlist_iter	iter;

	if (first < 0 || first > now_us())
		return;
	now = now_us();
	drain();
	dlist_foreach(iter, &open_requests)
	{
		SabotHttp  *http = dlist_container(SabotHttp, node, iter.cur);

		if (http->running && http->deadline_us <= now)
			finish(http, CURLE_OPERATION_TIMEDOUT, true);
	}
}

/*
 * abort_request - stop a request that is under way
 *
 * Closes its connection.
 */
static void
abort_request(SabotHttp *http)
{
	if (!http->running)
		return;
	http->running = false;
	curl_multi_remove_handle(multi, http->curl);
}

/*
 * close_connections - close all kept connections
 *
 * No request may be under way.
 */
static void
close_connections(void)
{
	forget_later = false;
	distrust = 0;
	most_open = 0;
	if (multi == NULL)
		return;
	curl_multi_cleanup(multi);
	multi = NULL;
	curl_timer_us = -1;
	for (; reserved_fds > 0; reserved_fds--)
		ReleaseExternalFD();
}

/*
 * abort_at_exit - before_shmem_exit callback
 *
 * The system would close the connections anyway, but only after the process
 * has given back its permit, with which others may begin.
 */
static void
abort_at_exit(int code, Datum arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, &open_requests)
		abort_request(dlist_container(SabotHttp, node, iter.cur));
}

/*
 * prepare_multi - have a multi handle
 *
 * Raises ERRCODE_OUT_OF_MEMORY or ERRCODE_CONNECTION_FAILURE.
 */
static void
prepare_multi(void)
{
	static bool initialized = false;

	if (!initialized)
	{
		CURLcode	code = curl_global_init(CURL_GLOBAL_DEFAULT);

		if (code != CURLE_OK)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not initialize libcurl: %s",
							curl_easy_strerror(code))));
		before_shmem_exit(abort_at_exit, (Datum) 0);
		initialized = true;
	}
	if (multi != NULL)
		return;
	multi = curl_multi_init();
	if (multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not create a libcurl multi handle")));
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
}

/*
 * reserve_fds - have PostgreSQL spare descriptors for one more connection
 *
 * Raises ERRCODE_INSUFFICIENT_RESOURCES.
 */
static void
reserve_fds(void)
{
	while (reserved_fds < sabot_poll_connections() + 1)
	{
		if (!AcquireExternalFD())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not reserve a file descriptor for an HTTP connection: %m")));
		reserved_fds++;
	}
}

/*
 * unused_request - a request to fill in
 *
 * It is in no list.  Raises ERRCODE_OUT_OF_MEMORY.
 */
static SabotHttp *
unused_request(void)
{
	SabotHttp  *http;
	CURL	   *curl;

	if (!dlist_is_empty(&unused_requests))
	{
		nunused--;
		return dlist_container(SabotHttp, node,
							   dlist_pop_head_node(&unused_requests));
	}
	http = MemoryContextAllocZero(TopMemoryContext, sizeof(SabotHttp));
	curl = curl_easy_init();
	if (curl == NULL)
	{
		pfree(http);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not create a libcurl easy handle")));
	}
	http->curl = curl;
	return http;
}

/*
 * put_away - keep a request that is in no list for later use, or free it
 */
static void
put_away(SabotHttp *http)
{
	CURL	   *curl = http->curl;
	char	   *body = http->body;
	size_t		size = http->size;

	curl_slist_free_all(http->headers);
	if (size > MAX_KEPT_BODY)
	{
		free(body);
		body = NULL;
		size = 0;
	}
	if (nunused >= MAX_KEPT_REQUESTS)
	{
		curl_easy_cleanup(curl);
		free(body);
		pfree(http);
		return;
	}
	curl_easy_reset(curl);
	memset(http, 0, sizeof(*http));
	http->curl = curl;
	http->body = body;
	http->size = size;
	dlist_push_head(&unused_requests, &http->node);
	nunused++;
}

/*
 * keep_room - have libcurl keep as many connections as requests use
 *
 * Left to itself it keeps four for each request that is open when one ends,
 * so it would close most after a burst.  Some more are for other servers.
 */
static void
keep_room(void)
{
	if (nopen <= most_open)
		return;
	most_open = nopen;
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) most_open + 4);
}

/*
 * hand_over - have libcurl begin with a request
 *
 * Over a kept connection that is as far as sending it.  A new connection to
 * this machine is there as soon as it was begun, so it takes a second look.
 * Raises the errors of check_multi(); then the request is put away.
 */
static void
hand_over(SabotHttp *http)
{
	sigset_t	saved;
	CURLMcode	code;

	block_signals(&saved);
	code = curl_multi_add_handle(multi, http->curl);
	unblock_signals(&saved);
	if (code != CURLM_OK)
	{
		put_away(http);
		check_multi(code);
	}
	if (distrust > 0)
		distrust--;
	http->running = true;
	dlist_push_tail(&open_requests, &http->node);
	nopen++;
	keep_room();
	code = drive(CURL_SOCKET_TIMEOUT, 0);
	if (code == CURLM_OK && !sabot_transfer_has_written(http))
		code = drive_all();
	if (code != CURLM_OK)
	{
		sabot_http_end(http);
		check_multi(code);
	}
}

/*
 * authorization_line - the header that carries the secret, NULL if there is
 * none
 *
 * Raises ERRCODE_CONNECTION_FAILURE if it would be more than one line.
 */
static char *
authorization_line(const SabotEndpoint *endpoint)
{
	const char *secret = endpoint->secret;

	if (secret == NULL || secret[0] == '\0')
		return NULL;
	if (strpbrk(secret, "\r\n") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("secret of LLM endpoint \"%s\" contains a line break",
						endpoint->name)));
	return psprintf("Authorization: Bearer %s", secret);
}

/*
 * sabot_http_start - begin a request
 *
 * GET if body is NULL, else POST of that JSON text.  timeout_ms is for the
 * whole request; a connection has to be there after 2 s.  At most
 * max_response bytes of a body are received.  The arguments need not outlive
 * the call.  The request is to be ended with sabot_http_end(), whatever
 * becomes of it; transactions do not matter to it.
 *
 * A request that fails gives a reply that says so.  Raises
 * ERRCODE_OUT_OF_MEMORY, ERRCODE_CONNECTION_FAILURE or
 * ERRCODE_INSUFFICIENT_RESOURCES if there is no way to begin it.
 */
SabotHttp *
sabot_http_start(const SabotEndpoint *endpoint, const char *path,
				 const char *body, int64 timeout_ms, size_t max_response)
{
	char	   *url = psprintf("%s%s", endpoint->url, path);
	char	   *authorization = authorization_line(endpoint);
	SabotHttp  *http;
	CURLcode	code;

	prepare_multi();
	reserve_fds();
	http = unused_request();
	http->max_response = max_response;
	http->connect_timeout_ms = CONNECT_TIMEOUT_MS;
	code = sabot_transfer_prepare(http, url, authorization, body, distrust > 0);
	if (authorization != NULL)
		pfree(authorization);
	pfree(url);
	if (code != CURLE_OK)
	{
		put_away(http);
		ereport(ERROR,
				(errcode(code == CURLE_OUT_OF_MEMORY ?
						 ERRCODE_OUT_OF_MEMORY : ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not set up an HTTP request: %s",
						curl_easy_strerror(code))));
	}
	http->start_us = now_us();
	http->deadline_us = http->start_us +
		Min(Max(timeout_ms, 1), PG_INT64_MAX / 4000) * 1000;
	hand_over(http);
	return http;
}

/*
 * nap_ms - how long sabot_http_wait() may sleep, -1 for ever
 */
static long
nap_ms(long timeout_ms)
{
	int64		first = next_deadline();
	int64		nap = timeout_ms < 0 ? -1 : timeout_ms;
	int64		left;

	if (has_news)
		return 0;
	if (curl_timer_us >= 0 && (first < 0 || curl_timer_us < first))
		first = curl_timer_us;
	if (first >= 0)
	{
		/* rounded up, or it would be too early and at once again */
		left = Max((first - now_us() + 999) / 1000, 0);
		nap = nap < 0 ? left : Min(nap, left);
	}
	return (long) Min(nap, INT_MAX);
}

/*
 * sabot_http_wait - wait until anything happens
 *
 * That is: the latch is set (it is reset), something arrives, a request is
 * late, or timeout_ms have passed (-1: no such limit).  Returns at once if a
 * request has ended since the last call.  The caller does
 * CHECK_FOR_INTERRUPTS() and looks at its requests.
 *
 * May raise ERRCODE_OUT_OF_MEMORY or errors of the functions for
 * WaitEventSets; the requests stay open.
 */
void
sabot_http_wait(long timeout_ms)
{
	WaitEvent	occurred[EVENTS_AT_ONCE];
	int			n = sabot_poll_wait(nap_ms(timeout_ms), occurred,
									EVENTS_AT_ONCE);

	for (int i = 0; i < n; i++)
	{
		int			action = 0;

		if (occurred[i].events & WL_SOCKET_READABLE)
			action |= CURL_CSELECT_IN;
		if (occurred[i].events & WL_SOCKET_WRITEABLE)
			action |= CURL_CSELECT_OUT;
		check_multi(drive(occurred[i].fd, action));
	}
	if (curl_timer_us >= 0 && curl_timer_us <= now_us())
	{
		curl_timer_us = -1;
		check_multi(drive(CURL_SOCKET_TIMEOUT, 0));
	}
	expire();
	has_news = false;
}

/*
 * sabot_http_is_done - is there a reply?
 */
bool
sabot_http_is_done(const SabotHttp *http)
{
	return !http->running;
}

/*
 * sabot_http_reply - the reply of a request that is done
 *
 * It lives until sabot_http_end().
 */
const SabotReply *
sabot_http_reply(const SabotHttp *http)
{
	Assert(!http->running);
	return &http->reply;
}

/*
 * sabot_http_extend - forgive the time in which nobody could wait
 *
 * Moves the deadlines of all open requests by stalled_us microseconds.
 */
void
sabot_http_extend(int64 stalled_us)
{
	dlist_iter	iter;

	dlist_foreach(iter, &open_requests)
	{
		SabotHttp  *http = dlist_container(SabotHttp, node, iter.cur);

		if (!http->running)
			continue;
		http->deadline_us += stalled_us;
		if (sabot_transfer_has_written(http))
			continue;
		http->connect_timeout_ms += (stalled_us + 999) / 1000;
		curl_easy_setopt(http->curl, CURLOPT_CONNECTTIMEOUT_MS,
						 http->connect_timeout_ms);
	}
}

/*
 * sabot_http_end - be done with a request, under way or not
 *
 * One under way is aborted at once, and its connection closed.  Raises no
 * error.
 */
void
sabot_http_end(SabotHttp *http)
{
	abort_request(http);
	if (http->holder != NULL)
		*http->holder = NULL;
	dlist_delete(&http->node);
	nopen--;
	put_away(http);
	if (nopen == 0 && forget_later)
		close_connections();
}

/*
 * sabot_transfer_hold - have *holder set to NULL when the request ends
 */
void
sabot_transfer_hold(SabotHttp *http, SabotHttp **holder)
{
	*holder = http;
	http->holder = holder;
}

/*
 * sabot_transfer_waited - a wait for one request is over
 *
 * Others may have ended meanwhile: the next sabot_http_wait() is not to sleep.
 */
void
sabot_transfer_waited(void)
{
	has_news = true;
}

/*
 * sabot_http_forget_connections - close kept connections
 *
 * If requests are open, once they have ended.
 */
void
sabot_http_forget_connections(void)
{
	if (nopen == 0)
		close_connections();
	else
		forget_later = true;
}
