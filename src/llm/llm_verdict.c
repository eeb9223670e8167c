/*-------------------------------------------------------------------------
 *
 * llm_verdict.c
 *		Whose fault it is that there is no answer.
 *
 * A fault of the server stops the endpoint, one of a model stops that model
 * there, and both leave the items alone; what is left is the item's.  When in
 * doubt it is the item's: an item has few attempts, so a mistake costs one
 * answer, while an item that stops a server would do so for ever.
 *
 * Status codes do not say it all.  Ollama answers 500 when a model does not
 * load, and 400 on /api/embed whatever happened, so the words are looked at
 * as well.  They begin with text of the server's own: words of the prompt,
 * which some errors repeat, decide nothing.
 *
 * For the same reason there is a second text for what stops a server, as that
 * is shown to everybody who uses it: it has none of the server's words but
 * those that are known beforehand.  check_llm() shows them all, to a prompt
 * that is nobody's.
 *
 * IDENTIFICATION
 *		src/llm/llm_verdict.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "llm/llm_json.h"
#include "llm/llm_verdict.h"

#define MAX_ERROR 512
#define MAX_ERROR_NESTING 3
#define MAX_PLAIN_ERROR 200

/* What the words of an error mean. */
typedef enum Meaning
{
	MEANS_NOTHING,
	MEANS_NO_MODEL,				/* the server does not have it */
	MEANS_NO_LOAD,				/* it could not load it */
	MEANS_CRASH,				/* it died of the request, or beside it */
	MEANS_TOO_LONG,				/* prompt and answer exceed the context */
	MEANS_BAD_FORMAT			/* the schema is none */
} Meaning;

/* Words, and where they are looked for. */
typedef struct Phrase
{
	Meaning		meaning;
	bool		at_start;
	const char *words;
} Phrase;

/*
 * As Ollama and its runners, llama-server, vLLM and OpenAI have them.  The
 * first that fits counts.
 */
static const Phrase phrases[] = {
	{MEANS_TOO_LONG, false, "exceed_context_size"},
	{MEANS_TOO_LONG, false, "context_length_exceeded"},
	{MEANS_TOO_LONG, false, "exceeds the context length"},
	{MEANS_TOO_LONG, false, "exceeds the available context size"},
	{MEANS_TOO_LONG, false, "exceeds maximum context length"},
	{MEANS_TOO_LONG, false, "longer than the context length"},
	{MEANS_TOO_LONG, false, "maximum context length is"},
	{MEANS_BAD_FORMAT, true, "invalid format:"},
	{MEANS_NO_LOAD, true, "llama-server process has terminated"},
	{MEANS_NO_LOAD, true, "llama runner process has terminated"},
	{MEANS_NO_LOAD, true, "timed out waiting for llama"},
	{MEANS_NO_LOAD, true, "model requires more system memory"},
	{MEANS_NO_LOAD, true, "unable to load model"},
	{MEANS_NO_LOAD, true, "failed to load model"},
	{MEANS_NO_LOAD, true, "error loading model"},
	{MEANS_NO_LOAD, true, "error starting llama"},
	{MEANS_NO_LOAD, true, "unable to allocate"},
	{MEANS_NO_LOAD, true, "model is too large"},
	{MEANS_CRASH, true, "model runner has unexpectedly stopped"},
	{MEANS_CRASH, true, "an error was encountered while running the model"},
	{MEANS_CRASH, true, "do embedding request"},
	{MEANS_CRASH, true, "health resp"},
	{MEANS_NO_MODEL, false, "(model_not_found)"}
};

/*
 * clean_text - one valid line of at most MAX_ERROR bytes, in place
 *
 * Words of libcurl, and headers it passes on, may be in any encoding.
 */
static char *
clean_text(char *text)
{
	int			len = strlen(text);
	bool		valid = pg_verifymbstr(text, len, true);

	for (char *p = text; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == '\x7f')
			*p = ' ';
		else if (!valid && IS_HIGHBIT_SET(*p))
			*p = '?';
	}
	if (len > MAX_ERROR)
		text[		pg_mbcliplen(text, len, MAX_ERROR)] = '\0';
	return text;
}

/*
 * sabot_verdict_fail - there is no answer, for this reason
 *
 * error is copied.
 */
void
sabot_verdict_fail(SabotAnswer *answer, SabotErrorClass error_class,
				   SabotFault fault, const char *error)
{
	answer->error_class = error_class;
	answer->fault = fault;
	answer->error = clean_text(pstrdup(error));
	answer->public_error = answer->error;
}

/*
 * replace_all - text with every occurrence of what replaced, palloc'd
 */
static char *
replace_all(const char *text, const char *what, const char *with)
{
	StringInfoData result;
	const char *found;

	initStringInfo(&result);
	while ((found = strstr(text, what)) != NULL)
	{
		appendBinaryStringInfo(&result, text, found - text);
		appendStringInfoString(&result, with);
		text = found + strlen(what);
	}
	appendStringInfoString(&result, text);
	return result.data;
}

/*
 * readable - a server's words in our encoding, without the endpoint's secret
 *
 * Servers have been seen that repeat the key they refuse.
 */
static char *
readable(const SabotEndpoint *endpoint, const char *words)
{
	char	   *text = sabot_text_from_utf8(words, true);

	if (endpoint->secret != NULL && endpoint->secret[0] != '\0')
		text = replace_all(text, endpoint->secret, "***");
	return text;
}

/*
 * find_words - the message in an error's JSON, or NULL
 *
 * Ollama: {"error": "..."}; OpenAI: {"error": {"message": "...", "code":
 * "..."}}; others put the message at the top.
 */
static char *
find_words(const cJSON *json)
{
	const cJSON *error = sabot_json_member(json, "error");
	const char *message = cJSON_GetStringValue(error);
	const char *code;

	if (message != NULL)
		return pstrdup(message);
	if (!cJSON_IsObject(error))
		error = json;
	message = sabot_json_string(error, "message");
	if (message == NULL)
		message = sabot_json_string(error, "detail");
	if (message == NULL)
		return NULL;
	code = sabot_json_string(error, "code");
	if (code == NULL)
		code = sabot_json_string(error, "type");
	return code == NULL ? pstrdup(message) :
		psprintf("%s (%s)", message, code);
}

/*
 * error_words - the message in an error's body, in UTF-8, or NULL
 *
 * A server that passes on another's error may have it as JSON in a string.
 */
static char *
error_words(const char *text, size_t len, int depth)
{
	const char *problem;
	SabotJsonFault fault;
	cJSON	   *json = sabot_json_parse(text, len, &problem, &fault);
	char	   *volatile words = NULL;
	char	   *inner = NULL;

	if (json == NULL)
		return NULL;
	PG_TRY();
	{
		words = find_words(json);
	}
	PG_FINALLY();
	{
		cJSON_Delete(json);
	}
	PG_END_TRY();
	if (words != NULL && words[0] == '{' && depth < MAX_ERROR_NESTING)
		inner = error_words(words, strlen(words), depth + 1);
	return inner != NULL ? inner : words;
}

/*
 * body_words - what the body of an error says, in UTF-8, or NULL
 *
 * Short plain text is taken as it is; a page of HTML is not worth reading.
 */
static char *
body_words(const SabotReply *reply)
{
	char	   *words = error_words(reply->body, reply->len, 1);

	if (words != NULL || reply->len == 0 || reply->len > MAX_PLAIN_ERROR ||
		reply->content_type == NULL ||
		pg_strncasecmp(reply->content_type, "text/plain", 10) != 0 ||
		!pg_verify_mbstr(PG_UTF8, reply->body, reply->len, true))
		return words;
	return pnstrdup(reply->body, reply->len);
}

/*
 * is_missing_model - do the words say that there is no such model?
 */
static bool
is_missing_model(const char *words)
{
	return (pg_strncasecmp(words, "model ", 6) == 0 ||
			pg_strncasecmp(words, "the model ", 10) == 0) &&
		(strstr(words, "not found") != NULL ||
		 strstr(words, "does not exist") != NULL);
}

/*
 * meaning_of - what a server's words mean; words may be NULL
 *
 * *known is the part of them that says so, a constant, or NULL.
 */
static Meaning
meaning_of(const char *words, const char **known)
{
	*known = NULL;
	if (words == NULL)
		return MEANS_NOTHING;
	for (int i = 0; i < lengthof(phrases); i++)
	{
		const Phrase *phrase = &phrases[i];

		if (phrase->at_start ?
			pg_strncasecmp(words, phrase->words, strlen(phrase->words)) == 0 :
			strcasestr(words, phrase->words) != NULL)
		{
			*known = phrase->words;
			return phrase->meaning;
		}
	}
	return is_missing_model(words) ? MEANS_NO_MODEL : MEANS_NOTHING;
}

/*
 * fault_of_status - whose fault a status is, given what the words mean
 */
static SabotFault
fault_of_status(int status, Meaning meaning)
{
	if (status == 401 || status == 403)
		return SABOT_FAULT_ACCESS;
	if (status == 429 || status == 503)
		return SABOT_FAULT_ENDPOINT;
	if (status == 404 || meaning == MEANS_NO_MODEL || meaning == MEANS_NO_LOAD)
		return SABOT_FAULT_MODEL;
	if (meaning == MEANS_TOO_LONG || meaning == MEANS_BAD_FORMAT)
		return SABOT_FAULT_ITEM_FINAL;
	if (meaning == MEANS_CRASH || status < 300 || status >= 500)
		return SABOT_FAULT_ITEM;
	return SABOT_FAULT_ITEM_FINAL;
}

/*
 * status_hint - what may help, or ""
 */
static const char *
status_hint(const SabotEndpoint *endpoint, int status, Meaning meaning,
			bool has_words)
{
	if (meaning == MEANS_TOO_LONG)
		return " (raise num_ctx in options, or shorten the prompt)";
	if (status >= 300 && status < 400)
		return " (redirects are not followed)";
	if (status == 404 && !has_words)
		return endpoint->api == SABOT_API_OLLAMA ?
			" (is this an Ollama server?)" :
			" (is this a server with the OpenAI API?)";
	if ((status == 401 || status == 403) && endpoint->secret == NULL)
		return " (the endpoint has no secret)";
	return "";
}

/*
 * public_words - what may be said of a fault to everybody; known are words of
 * the server that mean something, or NULL
 */
static char *
public_words(int status, Meaning meaning, const char *known, const char *model)
{
	if (meaning == MEANS_NO_MODEL && model != NULL)
		return psprintf("model '%s' not found", model);
	if (meaning != MEANS_NOTHING && known != NULL)
		return pstrdup(known);
	switch (status)
	{
		case 401:
			return pstrdup("unauthorized");
		case 403:
			return pstrdup("forbidden");
		case 429:
			return pstrdup("too many requests");
		case 503:
			return pstrdup("server busy");
		default:
			return pstrdup("error");
	}
}

/*
 * judge_status - the verdict on a status that is not 200
 */
static void
judge_status(const SabotEndpoint *endpoint, const char *model,
			 const SabotReply *reply, SabotAnswer *answer)
{
	int			status = reply->status;
	char	   *words = body_words(reply);
	const char *known;
	Meaning		meaning = meaning_of(words, &known);
	const char *hint = status_hint(endpoint, status, meaning, words != NULL);
	SabotErrorClass error_class = SABOT_LLM_HTTP_4XX;
	char	   *readable_words = words == NULL ? NULL :
	readable(endpoint, words);
	int			room = MAX_ERROR - (int) strlen(hint) - 24;

	if (status >= 500)
		error_class = SABOT_LLM_HTTP_5XX;
	else if (status < 300)
		error_class = SABOT_LLM_BAD_OUTPUT;
	if (readable_words != NULL && strlen(readable_words) > room)
		readable_words[pg_mbcliplen(readable_words, strlen(readable_words),
									room)] = '\0';
	sabot_verdict_fail(answer, error_class, fault_of_status(status, meaning),
					   readable_words == NULL ?
					   psprintf("HTTP status %d%s", status, hint) :
					   psprintf("HTTP status %d: %s%s", status,
								readable_words, hint));
	if (readable_words != NULL)
		answer->public_error =
			clean_text(psprintf("HTTP status %d: %s%s", status,
								public_words(status, meaning, known, model),
								hint));
}

/*
 * was_connected - can this go wrong only once a connection is there?
 */
static bool
was_connected(int curl_code)
{
	switch (curl_code)
	{
		case CURLE_COULDNT_RESOLVE_PROXY:
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_CONNECT:
		case CURLE_OPERATION_TIMEDOUT:	/* libcurl's, for connecting */
		case CURLE_URL_MALFORMAT:
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
			return false;
		default:
			return true;
	}
}

/*
 * judge_transfer - the verdict on an answer that did not arrive
 */
static void
judge_transfer(const SabotReply *reply, SabotAnswer *answer)
{
	bool		may_be_item = reply->sent && was_connected(reply->curl_code);

	/* something answered, but not in HTTP */
	if (reply->sent && reply->curl_code == CURLE_UNSUPPORTED_PROTOCOL)
		may_be_item = true;
	if (reply->timed_out && reply->sent)
		sabot_verdict_fail(answer, SABOT_LLM_TIMEOUT, SABOT_FAULT_ITEM,
						   reply->error);
	else
		sabot_verdict_fail(answer, SABOT_LLM_CONNECT,
						   may_be_item ? SABOT_FAULT_ITEM :
						   SABOT_FAULT_ENDPOINT,
						   reply->error);
}

/*
 * sabot_verdict_delivered - did a complete answer with status 200 arrive?
 *
 * If not, the verdict is in *answer.  A status that is not 200 says more than
 * how its body ended.  model is the one that was asked, or NULL.
 */
bool
sabot_verdict_delivered(const SabotEndpoint *endpoint, const char *model,
						const SabotReply *reply, SabotAnswer *answer)
{
	bool		arrived = reply->curl_code == 0 && !reply->too_large;

	if (reply->status >= 300 || (arrived && reply->status != 200))
		judge_status(endpoint, model, reply, answer);
	else if (reply->too_large)
		sabot_verdict_fail(answer, SABOT_LLM_TOO_LARGE,
						   SABOT_FAULT_ITEM_FINAL,
						   "answer is longer than sabot.llm_max_response allows");
	else if (!arrived)
		judge_transfer(reply, answer);
	else
		return true;
	return false;
}

/*
 * sabot_verdict_words - the verdict on an error under status 200
 *
 * That is how Ollama ends an answer it has begun.  words are in UTF-8; model
 * is the one that was asked, or NULL.
 */
void
sabot_verdict_words(const SabotEndpoint *endpoint, const char *model,
					const char *words, SabotAnswer *answer)
{
	const char *known;
	Meaning		meaning = meaning_of(words, &known);
	SabotFault	fault = SABOT_FAULT_ITEM;

	if (meaning == MEANS_NO_MODEL || meaning == MEANS_NO_LOAD)
		fault = SABOT_FAULT_MODEL;
	else if (meaning == MEANS_TOO_LONG)
		fault = SABOT_FAULT_ITEM_FINAL;
	sabot_verdict_fail(answer, SABOT_LLM_INCOMPLETE, fault,
					   psprintf("error instead of an answer: %s",
								readable(endpoint, words)));
	answer->public_error =
		psprintf("error instead of an answer: %s",
				 public_words(200, meaning, known, model));
}
