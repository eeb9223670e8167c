/*-------------------------------------------------------------------------
 *
 * llm_url.c
 *		URLs of model servers: what they may be, and which server they mean.
 *
 * URLs are read by libcurl, which uses them in the end: a parser of our own
 * could take another part of one for the host than it does.  libcurl's parser
 * allocates with malloc, so it is asked for everything at once, into a struct
 * of fixed size, before anything can raise an error.
 *
 * IDENTIFICATION
 *		src/llm/llm_url.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include "llm/llm.h"
#include "llm/llm_url.h"

#define MAX_URL_LEN 2000
#define MAX_HOST_LEN 253

/* The parts of a URL that say which server it means; "" if they do not fit. */
typedef struct UrlParts
{
	char		scheme[16];
	char		host[MAX_HOST_LEN + 1];
	char		port[8];
} UrlParts;

/*
 * invalid_url - raise 22023
 *
 * The message does not repeat the URL: what is wrong with it may be a secret.
 */
static void
invalid_url(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid URL of an LLM endpoint"),
			 errdetail("%s", detail),
			 errhint("Give it as http://host:port or https://host/path.")));
}

/*
 * get_part - one part of a URL, in lower case, "" if it is too long
 *
 * Raises no error.  Returns false if there is no such part.
 */
static bool
get_part(CURLU * handle, CURLUPart part, unsigned int flags, char *buf,
		 size_t size)
{
	char	   *text = NULL;

	buf[0] = '\0';
	if (curl_url_get(handle, part, &text, flags) != CURLUE_OK || text == NULL)
		return false;
	if (strlen(text) < size)
	{
		size_t		len = strlen(text);

		for (size_t i = 0; i <= len; i++)
			buf[i] = pg_ascii_tolower((unsigned char) text[i]);
	}
	curl_free(text);
	return true;
}

/*
 * split_url - the parts of a URL; false if it is none
 *
 * Raises no error.
 */
static bool
split_url(const char *url, UrlParts *parts)
{
	CURLU	   *handle = curl_url();
	bool		ok;

	memset(parts, 0, sizeof(*parts));
	if (handle == NULL)
		return false;
	ok = curl_url_set(handle, CURLUPART_URL, url,
					  CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
		get_part(handle, CURLUPART_SCHEME, 0, parts->scheme,
				 sizeof(parts->scheme)) &&
		get_part(handle, CURLUPART_HOST, 0, parts->host, sizeof(parts->host));
	if (ok)
		(void) get_part(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT,
						parts->port, sizeof(parts->port));
	curl_url_cleanup(handle);
	return ok;
}

/*
 * is_web - is it http or https?
 */
static bool
is_web(const UrlParts *parts)
{
	return strcmp(parts->scheme, "http") == 0 ||
		strcmp(parts->scheme, "https") == 0;
}

/*
 * check_characters - raise 22023 for characters that no URL has, and for
 * parts that the URL of a server cannot have
 */
static void
check_characters(const char *url)
{
	const char *host = strstr(url, "://");

	for (const char *p = url; *p != '\0'; p++)
		if ((unsigned char) *p <= ' ' || *p == '\x7f' || *p == '\\')
			invalid_url("It contains white space, a backslash or a control character.");
	host = host ? host + strlen("://") : url;
	if (memchr(host, '@', strcspn(host, "/?#")) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("URL of an LLM endpoint must not contain credentials"),
				 errhint("Give a token as secret, and no user or password in the URL.")));
	if (strpbrk(url, "?#") != NULL)
		invalid_url("It has a query or a fragment; paths of requests are added to its end.");
}

/*
 * sabot_url_checked - a URL that an endpoint may have, without slashes at its
 * end
 *
 * Palloc'd.  Raises 22023 for any other.
 */
char *
sabot_url_checked(const char *url)
{
	char	   *result = pstrdup(url);
	size_t		len = strlen(result);
	UrlParts	parts;

	check_characters(url);
	if (len > MAX_URL_LEN)
		invalid_url("It is too long.");
	while (len > 0 && result[len - 1] == '/')
		result[--len] = '\0';
	if (strstr(result, "://") == NULL || !split_url(result, &parts))
		invalid_url("It has no scheme or no host, or cannot be understood.");
	if (!is_web(&parts))
		invalid_url("Its scheme is neither http nor https.");
	if (parts.host[0] == '\0' || atoi(parts.port) == 0)
		invalid_url("Its host is too long, or its port is none.");
	return result;
}

/*
 * is_local - does an address of this family, in binary, mean this machine?
 *
 * The address that means any address does when it is connected to.
 */
static bool
is_local(int family, const unsigned char *address)
{
	static const unsigned char mapped[12] = {[10] = 0xff,[11] = 0xff};
	static const unsigned char v4[2][4] = {{127, 0, 0, 1}, {0}};
	static const unsigned char v6[2][16] = {{[15] = 1}, {0}};

	if (family == AF_INET6 && memcmp(address, mapped, sizeof(mapped)) == 0)
		return is_local(AF_INET, address + sizeof(mapped));
	for (int i = 0; i < 2; i++)
		if (family == AF_INET ? memcmp(address, v4[i], 4) == 0 :
			memcmp(address, v6[i], 16) == 0)
			return true;
	return false;
}

/*
 * normalize_host - one spelling for each host, in place
 *
 * The names and addresses that mean this machine become 127.0.0.1.
 */
static void
normalize_host(char *host)
{
	size_t		len = strlen(host);
	unsigned char address[16];

	if (len > 1 && host[len - 1] == '.')
		host[--len] = '\0';
	if (host[0] == '[' && host[len - 1] == ']')
	{
		host[len - 1] = '\0';
		if (inet_pton(AF_INET6, host + 1, address) == 1)
		{
			if (is_local(AF_INET6, address))
			{
				strlcpy(host, "127.0.0.1", MAX_HOST_LEN);
				return;
			}
			(void) inet_ntop(AF_INET6, address, host + 1, MAX_HOST_LEN - 2);
		}
		strlcat(host, "]", MAX_HOST_LEN);
	}
	else if (strcmp(host, "localhost") == 0 ||
			 (inet_pton(AF_INET, host, address) == 1 &&
			  is_local(AF_INET, address)))
		strlcpy(host, "127.0.0.1", MAX_HOST_LEN);
}

/*
 * sabot_url_origin - scheme, host and port of a URL: which server it means
 *
 * "http://127.0.0.1:11434", in lower case and with the port filled in, fewer
 * than SABOT_ORIGIN_LEN bytes; localhost, 127.0.0.1, ::1 and the addresses
 * that mean any address are one host.  Palloc'd.  Of what is no URL, which
 * only a row made by hand can have, it is the text itself.
 */
char *
sabot_url_origin(const char *url)
{
	UrlParts	parts;

	if (!split_url(url, &parts) || parts.host[0] == '\0')
		return pnstrdup(url, SABOT_ORIGIN_LEN - 1);
	normalize_host(parts.host);
	return psprintf("%s://%s:%s", parts.scheme, parts.host, parts.port);
}
