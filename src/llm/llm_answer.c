/*-------------------------------------------------------------------------
 *
 * llm_answer.c
 *		What replies of servers mean.
 *
 * An answer is an answer only if everything says so: the transfer, the
 * status, the content type, the encoding, one complete JSON object, the
 * server's word that the model is done and that it stopped by itself, and
 * text.  Status 200 alone means little: Ollama sends it with `done` false when
 * a model repeats itself, and before an error that comes late.
 *
 * `done_reason` must be there.  Ollama leaves it out when the answer ended in
 * another way than by the model's stop or by the limit on its length, as when
 * the connection to the model was closed.
 *
 * What an answer said is kept even if it is rejected.
 *
 * IDENTIFICATION
 *		src/llm/llm_answer.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>

#include "utils/memutils.h"

#include "llm/llm.h"
#include "llm/llm_json.h"
#include "llm/llm_verdict.h"

static const char *const class_labels[] = {
	[SABOT_LLM_OK] = "ok",
	[SABOT_LLM_TIMEOUT] = "timeout",
	[SABOT_LLM_CONNECT] = "connect",
	[SABOT_LLM_HTTP_4XX] = "http_4xx",
	[SABOT_LLM_HTTP_5XX] = "http_5xx",
	[SABOT_LLM_TRUNCATED] = "truncated",
	[SABOT_LLM_BAD_OUTPUT] = "bad_output",
	[SABOT_LLM_BAD_ENCODING] = "bad_encoding",
	[SABOT_LLM_TOO_LARGE] = "too_large",
	[SABOT_LLM_INCOMPLETE] = "incomplete",
	[SABOT_LLM_WRITE_FAILED] = "write_failed",
	[SABOT_LLM_CANCELED] = "canceled"
};

StaticAssertDecl(lengthof(class_labels) == SABOT_LLM_NCLASSES,
				 "every class has a label");

/* What to do with the JSON of an answer. */
typedef struct Reading
{
	const SabotEndpoint *endpoint;
	const SabotLlmSpec *spec;	/* or NULL */
	int			nprompts;
	SabotAnswer *answer;

	/* for the list of models */
	const char *model;			/* or NULL */
	List	   *names;
	char	   *digest;
} Reading;

typedef void (*Reader) (const cJSON *json, Reading *reading);

/*
 * sabot_error_class_label - what SQL calls a class; a constant
 */
const char *
sabot_error_class_label(SabotErrorClass error_class)
{
	return class_labels[error_class];
}

/*
 * sabot_error_class_find - the class with this label; false if there is none
 *
 * "ok" is no class of errors.
 */
bool
sabot_error_class_find(const char *label, SabotErrorClass *error_class)
{
	for (int i = SABOT_LLM_OK + 1; i < SABOT_LLM_NCLASSES; i++)
	{
		if (strcmp(label, class_labels[i]) == 0)
		{
			*error_class = (SabotErrorClass) i;
			return true;
		}
	}
	return false;
}

/*
 * sabot_fault_is_servers - whether a fault is neither an item's nor a model's:
 * whatever is asked through the endpoint, it would be the same
 */
bool
sabot_fault_is_servers(SabotFault fault)
{
	return fault == SABOT_FAULT_ENDPOINT || fault == SABOT_FAULT_ACCESS;
}

/*
 * bad_output - the item's answer is of no use, for this reason
 */
static void
bad_output(SabotAnswer *answer, const char *error)
{
	sabot_verdict_fail(answer, SABOT_LLM_BAD_OUTPUT, SABOT_FAULT_ITEM, error);
}

/*
 * bad_encoding - the answer has characters that text here cannot have
 */
static void
bad_encoding(SabotAnswer *answer, const char *error)
{
	sabot_verdict_fail(answer, SABOT_LLM_BAD_ENCODING, SABOT_FAULT_ITEM,
					   error);
}

/*
 * incomplete - the answer is not whole, for this reason
 */
static void
incomplete(SabotAnswer *answer, const char *error)
{
	sabot_verdict_fail(answer, SABOT_LLM_INCOMPLETE, SABOT_FAULT_ITEM, error);
}

/*
 * truncated - the answer is as long as it may be, and goes on
 */
static void
truncated(SabotAnswer *answer)
{
	char	   *length = answer->output_tokens < 0 ? pstrdup("") :
	psprintf(" after %d tokens", answer->output_tokens);

	sabot_verdict_fail(answer, SABOT_LLM_TRUNCATED, SABOT_FAULT_ITEM,
					   psprintf("answer was cut off%s (raise num_predict in options, or num_ctx if prompt and answer together exceed it)",
								length));
}

/*
 * is_json_type - is this the content type of JSON?
 *
 * That of JSON lines is taken as well, for servers that always stream: one
 * line is an object.
 */
static bool
is_json_type(const char *content_type)
{
	static const char *const types[] = {"application/json",
	"application/x-ndjson"};

	if (content_type == NULL)
		return false;
	for (int i = 0; i < lengthof(types); i++)
	{
		size_t		len = strlen(types[i]);

		if (pg_strncasecmp(content_type, types[i], len) == 0 &&
			(content_type[len] == '\0' || content_type[len] == ';' ||
			 content_type[len] == ' '))
			return true;
	}
	return false;
}

/*
 * unreadable - the body is not one JSON object, for this reason
 */
static void
unreadable(SabotAnswer *answer, SabotJsonFault fault, const char *problem)
{
	char	   *error = psprintf("answer cannot be read: %s", problem);

	if (fault == SABOT_JSON_BAD_ENCODING)
		bad_encoding(answer, error);
	else if (fault == SABOT_JSON_CUT_OFF)
		incomplete(answer, error);
	else
		bad_output(answer, error);
}

/*
 * parse_reply - the JSON of a reply that was delivered
 *
 * Returns NULL if it has none; then the verdict is in the answer.
 */
static cJSON *
parse_reply(const SabotReply *reply, SabotAnswer *answer)
{
	const char *problem;
	SabotJsonFault fault;
	cJSON	   *json;

	if (!is_json_type(reply->content_type))
	{
		bad_output(answer, psprintf("answer is of type \"%s\", not application/json",
									reply->content_type == NULL ? "" :
									reply->content_type));
		return NULL;
	}
	json = sabot_json_parse(reply->body, reply->len, &problem, &fault);
	if (json == NULL)
		unreadable(answer, fault, problem);
	return json;
}

/*
 * model_of - the model that was asked, or NULL
 */
static const char *
model_of(const Reading *reading)
{
	return reading->spec ? reading->spec->model : reading->model;
}

/*
 * read_reply - the verdict on a reply; a whole one is read by reader
 */
static void
read_reply(const SabotReply *reply, Reading *reading, Reader reader)
{
	SabotAnswer *answer = reading->answer;
	cJSON	   *json;

	memset(answer, 0, sizeof(*answer));
	answer->retry_after_s = reply->retry_after_s;
	answer->load_ms = answer->queue_ms = answer->output_ms = -1;
	answer->prompt_tokens = answer->output_tokens = -1;

	if (!sabot_verdict_delivered(reading->endpoint, model_of(reading),
								 reply, answer))
		return;
	json = parse_reply(reply, answer);
	if (json == NULL)
		return;
	PG_TRY();
	{
		const cJSON *error = sabot_json_member(json, "error");
		const char *words = cJSON_IsObject(error) ?
		sabot_json_string(error, "message") : cJSON_GetStringValue(error);

		if (error != NULL && !cJSON_IsNull(error))
			sabot_verdict_words(reading->endpoint, model_of(reading),
								words == NULL ? "unknown" : words, answer);
		else
			reader(json, reading);
	}
	PG_FINALLY();
	{
		cJSON_Delete(json);
	}
	PG_END_TRY();
}

/*
 * count_of - a member that is a number of things, -1 if it is not there
 */
static int
count_of(const cJSON *object, const char *key)
{
	double		value = sabot_json_number(object, key, -1);

	return value >= 0 && value <= INT_MAX ? (int) value : -1;
}

/*
 * take_content - keep what the model said, and look at it
 *
 * content is in UTF-8, or NULL.  Returns false if it is no answer; then the
 * verdict is in the answer.
 */
static bool
take_content(const char *content, Reading *reading)
{
	SabotAnswer *answer = reading->answer;
	const char *p = content;

	if (content == NULL)
	{
		bad_output(answer, "answer has no text");
		return false;
	}
	while (isspace((unsigned char) *p))
		p++;
	if (*p == '\0')
	{
		bad_output(answer, "answer is empty");
		return false;
	}
	if (answer->text == NULL)
	{
		bad_encoding(answer, "answer has characters that the database's encoding does not have");
		return false;
	}
	/* JSON in a string has its escapes escaped */
	if (reading->spec->format != NULL)
	{
		const char *problem = sabot_json_bad_escape(content, strlen(content));

		if (problem != NULL)
		{
			bad_encoding(answer, psprintf("answer cannot be read: %s",
										  problem));
			return false;
		}
	}
	return true;
}

/*
 * read_ollama_account - what the server says it did
 *
 * Durations are in ns, and left out when 0.  What is left of the total is
 * the time the request waited for others.
 */
static void
read_ollama_account(const cJSON *json, SabotAnswer *answer)
{
	double		total = sabot_json_number(json, "total_duration", -1);
	double		load = sabot_json_number(json, "load_duration", 0);
	double		prompt = sabot_json_number(json, "prompt_eval_duration", 0);
	double		output = sabot_json_number(json, "eval_duration", 0);

	answer->prompt_tokens = count_of(json, "prompt_eval_count");
	answer->output_tokens = count_of(json, "eval_count");
	if (total < 0)
		return;
	answer->load_ms = Max(load, 0) / 1e6;
	answer->output_ms = Max(output, 0) / 1e6;
	answer->queue_ms = Max(total - load - prompt - output, 0) / 1e6;
}

/*
 * read_ollama_chat - Reader: an answer of /api/chat
 */
static void
read_ollama_chat(const cJSON *json, Reading *reading)
{
	SabotAnswer *answer = reading->answer;
	const cJSON *message = sabot_json_member(json, "message");
	const char *content = sabot_json_string(message, "content");
	const char *reason = sabot_json_string(json, "done_reason");

	read_ollama_account(json, answer);
	if (content != NULL)
		answer->text = sabot_text_from_utf8(content, false);
	if (!cJSON_IsTrue(sabot_json_member(json, "done")))
		incomplete(answer, "server ended the answer before the model was done");
	else if (reason != NULL && strcmp(reason, "length") == 0)
		truncated(answer);
	else if (reason == NULL || strcmp(reason, "stop") != 0)
		incomplete(answer, psprintf("done_reason of the answer is \"%s\", not \"stop\"",
									reason == NULL ? "" :
									sabot_text_from_utf8(reason, true)));
	else
		take_content(content, reading);
}

/*
 * read_openai_account - what the server says it did
 *
 * llama-server adds the time.
 */
static void
read_openai_account(const cJSON *json, SabotAnswer *answer)
{
	const cJSON *usage = sabot_json_member(json, "usage");

	answer->prompt_tokens = count_of(usage, "prompt_tokens");
	answer->output_tokens = count_of(usage, "completion_tokens");
	answer->output_ms = sabot_json_number(sabot_json_member(json, "timings"),
										  "predicted_ms", -1);
}

/*
 * read_openai_chat - Reader: an answer of /v1/chat/completions
 */
static void
read_openai_chat(const cJSON *json, Reading *reading)
{
	SabotAnswer *answer = reading->answer;
	const cJSON *choices = sabot_json_member(json, "choices");
	const cJSON *choice = cJSON_GetArrayItem(choices, 0);
	const cJSON *message = sabot_json_member(choice, "message");
	const char *content = sabot_json_string(message, "content");
	const char *refusal = sabot_json_string(message, "refusal");
	const char *reason = sabot_json_string(choice, "finish_reason");

	read_openai_account(json, answer);
	if (content != NULL)
		answer->text = sabot_text_from_utf8(content, false);
	if (choice == NULL)
		bad_output(answer, "answer has no choices");
	else if (refusal != NULL && refusal[0] != '\0')
		bad_output(answer, psprintf("model refused to answer: %s",
									sabot_text_from_utf8(refusal, true)));
	else if (reason == NULL)
		incomplete(answer, "server ended the answer before the model was done");
	else if (strcmp(reason, "length") == 0)
		truncated(answer);
	else if (strcmp(reason, "stop") != 0)
		bad_output(answer, psprintf("finish_reason of the answer is \"%s\", not \"stop\"",
									sabot_text_from_utf8(reason, true)));
	else
		take_content(content, reading);
}

/*
 * take_vector - the numbers of one embedding
 *
 * The first one decides how many there are in each.  Returns false if it is
 * not an array of finite numbers of that length.
 */
static bool
take_vector(const cJSON *numbers, int position, Reading *reading)
{
	SabotAnswer *answer = reading->answer;
	const cJSON *number;
	float4	   *target;
	int			n = 0;

	if (answer->vectors == NULL)
	{
		answer->ndims = cJSON_GetArraySize(numbers);
		answer->nvectors = reading->nprompts;
		answer->vectors = palloc_extended((Size) answer->nvectors *
										  answer->ndims * sizeof(float4) + 1,
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	}
	if (!cJSON_IsArray(numbers) || answer->ndims == 0)
		return false;
	target = answer->vectors + (Size) position * answer->ndims;
	cJSON_ArrayForEach(number, numbers)
	{
		float4		value = (float4) number->valuedouble;

		if (n == answer->ndims || !cJSON_IsNumber(number) || !isfinite(value))
			return false;
		target[n++] = value;
	}
	return n == answer->ndims;
}

/*
 * vector_place - which input a member of a list of embeddings is for
 *
 * The OpenAI api numbers them.
 */
static int
vector_place(const cJSON *member, int position)
{
	return (int) Min(Max(sabot_json_number(member, "index", position), -1),
					 INT_MAX);
}

/*
 * read_vectors - Reader: an answer of /api/embed or /v1/embeddings
 */
static void
read_vectors(const cJSON *json, Reading *reading)
{
	SabotAnswer *answer = reading->answer;
	bool		openai = reading->endpoint->api == SABOT_API_OPENAI;
	const cJSON *list = sabot_json_member(json,
										  openai ? "data" : "embeddings");
	bool	   *taken = palloc0(reading->nprompts + 1);
	const cJSON *member;
	int			n = 0;

	if (openai)
		read_openai_account(json, answer);
	else
		read_ollama_account(json, answer);
	if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != reading->nprompts)
	{
		bad_output(answer, psprintf("answer has %d embeddings for %d texts",
									cJSON_GetArraySize(list),
									reading->nprompts));
		return;
	}
	cJSON_ArrayForEach(member, list)
	{
		int			place = openai ? vector_place(member, n) : n;
		const cJSON *vector = openai ?
		sabot_json_member(member, "embedding") : member;

		if (place < 0 || place >= reading->nprompts || taken[place] ||
			!take_vector(vector, place, reading))
			break;
		taken[place] = true;
		n++;
	}
	if (n == reading->nprompts)
		return;
	answer->nvectors = answer->ndims = 0;
	answer->vectors = NULL;
	bad_output(answer, psprintf("embedding %d is not an array of finite numbers as long as the others",
								n + 1));
}

/*
 * sabot_answer_read - the verdict on a reply to sabot_request_body()
 *
 * nprompts as given there.  Everything in *answer is palloc'd.  Raises errors
 * of memory; in a database whose encoding is not UTF8 may read the catalog, if
 * need be in a transaction of its own.
 */
void
sabot_answer_read(const SabotEndpoint *endpoint, const SabotLlmSpec *spec,
				  const SabotReply *reply, int nprompts, SabotAnswer *answer)
{
	Reading		reading = {endpoint, spec, nprompts, answer};
	Reader		reader = read_ollama_chat;

	if (spec->embedding)
		reader = read_vectors;
	else if (endpoint->api == SABOT_API_OPENAI)
		reader = read_openai_chat;
	read_reply(reply, &reading, reader);
}

/*
 * read_loaded - Reader: the answer to a request without a prompt
 *
 * One for embeddings does not say that it is done.
 */
static void
read_loaded(const cJSON *json, Reading *reading)
{
	bool		embeds = reading->spec != NULL && reading->spec->embedding;

	read_ollama_account(json, reading->answer);
	if (!embeds && !cJSON_IsTrue(sabot_json_member(json, "done")))
		incomplete(reading->answer, "server did not say that the model is loaded");
}

/*
 * sabot_answer_read_load - the verdict on a reply to sabot_request_load()
 *
 * No item is at fault: what is not the server's fault is the model's.  Memory
 * and errors as for sabot_answer_read().
 */
void
sabot_answer_read_load(const SabotEndpoint *endpoint,
					   const SabotLlmSpec *spec, const SabotReply *reply,
					   SabotAnswer *answer)
{
	Reading		reading = {endpoint, spec, 0, answer};

	read_reply(reply, &reading, read_loaded);
	if (answer->fault != SABOT_FAULT_NONE &&
		!sabot_fault_is_servers(answer->fault))
		answer->fault = SABOT_FAULT_MODEL;
}

/*
 * read_nothing - Reader: any object will do
 */
static void
read_nothing(const cJSON *json, Reading *reading)
{
}

/*
 * sabot_answer_read_probe - is the server there?
 *
 * It is if it answers the probe, and also if it answers that it does not know
 * what that is, as servers with a part of an api do.  What is wrong is the
 * endpoint's fault.  Memory and errors as for sabot_answer_read().
 */
void
sabot_answer_read_probe(const SabotEndpoint *endpoint, const SabotReply *reply,
						SabotAnswer *answer)
{
	Reading		reading = {endpoint, NULL, 0, answer};

	read_reply(reply, &reading, read_nothing);
	if (reply->status == 404 || reply->status == 405)
	{
		answer->error_class = SABOT_LLM_OK;
		answer->fault = SABOT_FAULT_NONE;
		answer->error = answer->public_error = NULL;
	}
	if (answer->fault != SABOT_FAULT_NONE &&
		answer->fault != SABOT_FAULT_ACCESS)
		answer->fault = SABOT_FAULT_ENDPOINT;
}

/*
 * base_length - length of a model's name without the tag it has by default
 */
static size_t
base_length(const char *name)
{
	static const char tag[] = ":latest";
	const size_t taglen = sizeof(tag) - 1;
	size_t		len = strlen(name);

	if (len > taglen && strcmp(name + len - taglen, tag) == 0)
		return len - taglen;
	return len;
}

/*
 * is_same_model - are these names of one model?  Case does not matter
 */
static bool
is_same_model(const char *a, const char *b)
{
	size_t		len = base_length(a);

	return len == base_length(b) && pg_strncasecmp(a, b, len) == 0;
}

/*
 * read_models - Reader: the list of a server's models
 */
static void
read_models(const cJSON *json, Reading *reading)
{
	bool		openai = reading->endpoint->api == SABOT_API_OPENAI;
	const cJSON *list = sabot_json_member(json, openai ? "data" : "models");
	const cJSON *member;

	if (!cJSON_IsArray(list))
	{
		bad_output(reading->answer, "answer has no list of models");
		return;
	}
	cJSON_ArrayForEach(member, list)
	{
		const char *id = sabot_json_string(member, openai ? "id" : "name");
		const char *digest = sabot_json_string(member, "digest");
		char	   *name = id == NULL ? NULL : sabot_text_from_utf8(id, false);

		if (name == NULL)
			continue;
		reading->names = lappend(reading->names, name);
		if (reading->model != NULL && digest != NULL &&
			is_same_model(name, reading->model))
			reading->digest = sabot_text_from_utf8(digest, true);
	}
}

/*
 * sabot_answer_read_models - names of a server's models
 *
 * Returns a list of char *.  If model is among them, *digest is its digest;
 * else, and if the server has none, NULL.  digest may be NULL.  The verdict is
 * in *answer.  Memory and errors as for sabot_answer_read().
 */
List *
sabot_answer_read_models(const SabotEndpoint *endpoint,
						 const SabotReply *reply, const char *model,
						 char **digest, SabotAnswer *answer)
{
	Reading		reading = {endpoint, NULL, 0, answer, model};

	read_reply(reply, &reading, read_models);
	if (digest != NULL)
		*digest = reading.digest;
	return reading.names;
}

/*
 * read_version - the version in the JSON of a reply, or NULL
 */
static char *
read_version(const cJSON *json)
{
	const char *version = sabot_json_string(json, "version");

	return version == NULL ? NULL : sabot_text_from_utf8(version, true);
}

/*
 * sabot_answer_read_version - the server's version, NULL if it does not say
 *
 * Of a reply to the probe.  Memory and errors as for sabot_answer_read().
 */
char *
sabot_answer_read_version(const SabotReply *reply)
{
	const char *problem;
	SabotJsonFault fault;
	char	   *volatile version = NULL;
	cJSON	   *json;

	if (reply->curl_code != 0 || reply->status != 200)
		return NULL;
	json = sabot_json_parse(reply->body, reply->len, &problem, &fault);
	PG_TRY();
	{
		version = read_version(json);
	}
	PG_FINALLY();
	{
		cJSON_Delete(json);
	}
	PG_END_TRY();
	return version;
}
