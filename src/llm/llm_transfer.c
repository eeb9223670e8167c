/*-------------------------------------------------------------------------
 *
 * llm_transfer.c
 *		One HTTP request of libcurl's: what goes in and what comes out.
 *
 * What may be asked of a server is limited here, for every request: HTTP only,
 * no redirects, no proxy and no password file from the environment, TLS
 * verified, header and body of bounded size.
 *
 * Callbacks never raise errors, which would leave libcurl by a jump, and use
 * malloc, as palloc may raise one.
 *
 * Who sends again: libcurl does so by itself, up to five times, if a kept
 * connection ends before a complete line of an answer (Curl_retry_request()
 * and the state MSTATE_PERFORMING in 7.88; never on a connection opened for
 * the request, never after a line of an answer).  A server that has read the
 * request and dies from it looks just the same.  So libcurl is not allowed
 * to: once bytes of a request were written, no second socket is opened for
 * it (open_socket()) and no other kept connection is used for it
 * (allow_request(), with libcurl 7.80; older ones may try other kept
 * connections, if there are more than one).  The reply says `stale`, and the
 * caller, who counts requests, sends again, once.  If a kept connection
 * refuses even the first byte then libcurl takes another one, which nobody
 * needs to know.
 *
 * IDENTIFICATION
 *		src/llm/llm_transfer.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "llm/llm_poll.h"
#include "llm/llm_transfer.h"

#define MAX_HEADER_BYTES (64 * 1024)
#define MAX_RETRY_AFTER_S (24 * 60 * 60)

/*
 * sabot_transfer_has_written - were any bytes of this request written?
 */
bool
sabot_transfer_has_written(const SabotHttp *http)
{
	long		nbytes = 0;

	curl_easy_getinfo(http->curl, CURLINFO_REQUEST_SIZE, &nbytes);
	return nbytes > 0;
}

/*
 * take_body - CURLOPT_WRITEFUNCTION: keep a part of the body
 *
 * Returns less than it was given to end the request: the body is longer than
 * allowed, or memory is short.
 */
static size_t
take_body(char *data, size_t size, size_t nmemb, void *arg)
{
	SabotHttp  *http = arg;
	size_t		n = size * nmemb;

	if (n > http->max_response - http->len)
	{
		http->too_large = true;
		return 0;
	}
	if (http->len + n + 1 > http->size)
	{
		size_t		newsize = Max(http->len + n + 1, http->size * 2);
		char	   *grown;

		newsize = Min(Max(newsize, 4096), http->max_response + 1);
		grown = realloc(http->body, newsize);
		if (grown == NULL)
		{
			http->out_of_memory = true;
			return 0;
		}
		http->body = grown;
		http->size = newsize;
	}
	memcpy(http->body + http->len, data, n);
	http->len += n;
	http->body[http->len] = '\0';
	return n;
}

/*
 * take_header - CURLOPT_HEADERFUNCTION: a line of the header
 *
 * Counts bytes, and keeps the value of Retry-After.  CURLINFO_RETRY_AFTER
 * would do, but for old versions of libcurl.
 */
static size_t
take_header(char *data, size_t size, size_t nmemb, void *arg)
{
	static const char name[] = "retry-after:";
	const size_t namelen = sizeof(name) - 1;
	SabotHttp  *http = arg;
	size_t		n = size * nmemb;

	http->header_bytes += n;
	if (http->header_bytes > MAX_HEADER_BYTES)
	{
		http->too_large = true;
		return 0;
	}
	if (n > namelen && pg_strncasecmp(data, name, namelen) == 0)
	{
		size_t		len = Min(n - namelen, sizeof(http->retry_after) - 1);

		memcpy(http->retry_after, data + namelen, len);
		http->retry_after[len] = '\0';
	}
	return n;
}

/*
 * open_socket - CURLOPT_OPENSOCKETFUNCTION: a connection's socket
 *
 * Programs the process may start must not inherit it.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	SabotHttp  *http = arg;
	int			sock;

	if (sabot_transfer_has_written(http))
	{
		http->refused_resend = true;
		return CURL_SOCKET_BAD;
	}
	sock = socket(address->family, address->socktype | SOCK_CLOEXEC,
				  address->protocol);
	if (sock < 0)
		return CURL_SOCKET_BAD;
	if (!sabot_poll_opened(sock))
	{
		close(sock);
		return CURL_SOCKET_BAD;
	}
	return sock;
}

/*
 * close_socket - CURLOPT_CLOSESOCKETFUNCTION
 *
 * Called long after the request a connection was opened for, so without it.
 */
static int
close_socket(void *arg, curl_socket_t sock)
{
	sabot_poll_closed(sock);
	return close(sock);
}

#if LIBCURL_VERSION_NUM >= 0x075000
/*
 * allow_request - CURLOPT_PREREQFUNCTION: may the request go out?
 *
 * Not for the second time.
 */
static int
allow_request(void *arg, char *primary_ip, char *local_ip, int primary_port,
			  int local_port)
{
	SabotHttp  *http = arg;

	if (!sabot_transfer_has_written(http))
		return CURL_PREREQFUNC_OK;
	http->refused_resend = true;
	return CURL_PREREQFUNC_ABORT;
}
#endif

/*
 * retry_after_s - the value of a Retry-After header, in seconds
 *
 * It is a number of seconds or a date; 0 if it is neither.
 */
static int
retry_after_s(const char *value)
{
	double		seconds;

	while (*value == ' ' || *value == '\t')
		value++;
	if (*value >= '0' && *value <= '9')
		seconds = strtod(value, NULL);
	else
	{
		time_t		date = curl_getdate(value, NULL);

		if (date == (time_t) -1)
			return 0;
		seconds = difftime(date, time(NULL));
	}
	return (int) ceil(Min(Max(seconds, 0), MAX_RETRY_AFTER_S));
}

/*
 * say_error - libcurl's words for what went wrong
 *
 * They do not contain headers, but nobody promises that: words with the
 * secret in them are not passed on.
 */
static void
say_error(SabotHttp *http, CURLcode code)
{
	SabotReply *reply = &http->reply;
	const char *error = http->error;
	const struct curl_slist *header;

	if (code == CURLE_OK)
		return;
	if (reply->stale)
		error = "kept connection ended before an answer came";
	else if (reply->too_large)
		error = "answer is longer than allowed";
	else if (http->out_of_memory)
		error = "out of memory";
	else if (reply->timed_out)
		error = reply->sent ? "no complete answer in time" :
			"no connection in time";
	else if (error[0] == '\0')
		error = curl_easy_strerror(code);
	for (header = http->headers; header != NULL; header = header->next)
	{
		static const char prefix[] = "Authorization: Bearer ";

		if (strncmp(header->data, prefix, sizeof(prefix) - 1) == 0 &&
			strstr(error, header->data + sizeof(prefix) - 1) != NULL)
			error = curl_easy_strerror(code);
	}
	strlcpy(reply->error, error, sizeof(reply->error));
}

/*
 * sabot_transfer_reply - what became of a request
 *
 * code is libcurl's; timed_out if we did not wait for it.  All but the time it
 * took.
 */
void
sabot_transfer_reply(SabotHttp *http, CURLcode code, bool timed_out)
{
	SabotReply *reply = &http->reply;
	char	   *content_type = NULL;
	long		status = 0;
	long		nconnects = 0;
	double		connect_s = 0;

	curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(http->curl, CURLINFO_CONTENT_TYPE, &content_type);
	curl_easy_getinfo(http->curl, CURLINFO_NUM_CONNECTS, &nconnects);
	curl_easy_getinfo(http->curl, CURLINFO_CONNECT_TIME, &connect_s);

	reply->status = (int) status;
	reply->content_type = content_type;
	reply->body = http->len > 0 ? http->body : "";
	reply->len = http->len;
	reply->too_large = http->too_large;
	reply->timed_out = timed_out;
	reply->sent = sabot_transfer_has_written(http);
	reply->stale = http->refused_resend ||
		((code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR ||
		  code == CURLE_GOT_NOTHING) &&
		 nconnects == 0 && http->header_bytes == 0);
	/* that no second connection was made is our doing */
	reply->curl_code = http->refused_resend ? CURLE_RECV_ERROR : code;
	reply->new_connection = !reply->stale && nconnects > 0 && connect_s > 0;
	reply->retry_after_s = retry_after_s(http->retry_after);
	say_error(http, code);
}

/*
 * add_header - add a line to the request's header; false if out of memory
 */
static bool
add_header(SabotHttp *http, const char *line)
{
	struct curl_slist *longer = curl_slist_append(http->headers, line);

	if (longer == NULL)
		return false;
	http->headers = longer;
	return true;
}

/*
 * set_header - the request's header
 *
 * An empty "Expect:" keeps libcurl from asking before it sends a long body.
 */
static CURLcode
set_header(SabotHttp *http, const char *authorization, bool has_body)
{
	if (!add_header(http, "Accept: application/json") ||
		!add_header(http, "Expect:") ||
		(has_body && !add_header(http, "Content-Type: application/json")) ||
		(authorization != NULL && !add_header(http, authorization)))
		return CURLE_OUT_OF_MEMORY;
	return curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, http->headers);
}

/* Set an option unless an earlier one failed. */
#define SET(option, value) \
	(code = code != CURLE_OK ? code : \
	 curl_easy_setopt(http->curl, option, value))

/*
 * set_limits - where a request may go, and how
 */
static CURLcode
set_limits(SabotHttp *http, bool new_connection)
{
	CURLcode	code = CURLE_OK;

#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_NOPROGRESS, 1L);
	SET(CURLOPT_TCP_NODELAY, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, http->connect_timeout_ms);
	SET(CURLOPT_FRESH_CONNECT, new_connection ? 1L : 0L);
	SET(CURLOPT_USERAGENT, "sabot/" SABOT_VERSION);
	return code;
}

/*
 * set_callbacks - what libcurl calls for a request
 */
static CURLcode
set_callbacks(SabotHttp *http)
{
	CURLcode	code = CURLE_OK;

	SET(CURLOPT_PRIVATE, http);
	SET(CURLOPT_ERRORBUFFER, http->error);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, http);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, http);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, http);
	SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
#if LIBCURL_VERSION_NUM >= 0x075000
	SET(CURLOPT_PREREQFUNCTION, allow_request);
	SET(CURLOPT_PREREQDATA, http);
#endif
	return code;
}

/*
 * sabot_transfer_prepare - everything libcurl has to know of a request
 *
 * authorization is a line of the header, or NULL; body is NULL for a GET.
 * new_connection: do not use a kept one.  Copies what it is given.  Raises no
 * error.
 */
CURLcode
sabot_transfer_prepare(SabotHttp *http, const char *url,
					   const char *authorization, const char *body,
					   bool new_connection)
{
	CURLcode	code = CURLE_OK;

	SET(CURLOPT_URL, url);
	if (body != NULL)
	{
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(body));
		SET(CURLOPT_COPYPOSTFIELDS, body);
	}
	if (code == CURLE_OK)
		code = set_limits(http, new_connection);
	if (code == CURLE_OK)
		code = set_callbacks(http);
	if (code == CURLE_OK)
		code = set_header(http, authorization, body != NULL);
	return code;
}
