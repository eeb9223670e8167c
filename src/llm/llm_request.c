/*-------------------------------------------------------------------------
 *
 * llm_request.c
 *		Paths and bodies of requests, by api.
 *
 * All requests of a job have the same shape, and the same keys in the same
 * order: an option that comes and goes may make the server load the model
 * again.  What does not change comes before what does, so that the server can
 * use the start of the prompt again: the system's words are a message of
 * their own, the first one.
 *
 * Ollama is asked over /api/chat, not /api/generate: a final object of the
 * latter carries all tokens of the prompt and the answer back, which costs the
 * server a turn of tokenizing, and /api/chat has the same shape as the other
 * api's request.  `think` is always said, since models that can think do
 * unless told otherwise; so is `truncate`, or too long a prompt would be cut
 * in silence.
 *
 * Trees of cJSON are malloc'd.  What is palloc'd is made before a tree is, so
 * that no error is raised while there is one.
 *
 * IDENTIFICATION
 *		src/llm/llm_request.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "llm/llm.h"
#include "llm/llm_json.h"

/* How long the server keeps the model after a request. */
#define KEEP_ALIVE "10m"

/* Unless given in the job's options. */
#define DEFAULT_SEED 0
#define DEFAULT_TEMPERATURE 0
#define DEFAULT_NUM_PREDICT 512

/* What a body is made of, in UTF-8, palloc'd. */
typedef struct RequestParts
{
	const char *model;
	const char *system;			/* or NULL */
	const char *format;			/* JSON text, or NULL */
	const char *options;		/* JSON text, or NULL */
	const char **prompts;
	int			nprompts;
} RequestParts;

/*
 * json_text - a jsonb value as JSON in UTF-8; NULL if it is NULL
 */
static char *
json_text(Jsonb *value)
{
	if (value == NULL)
		return NULL;
	return sabot_text_to_utf8(JsonbToCString(NULL, &value->root,
											 VARSIZE(value)));
}

/*
 * gather_parts - what goes into a body, in UTF-8
 */
static RequestParts *
gather_parts(const SabotLlmSpec *spec, const char *const *prompts,
			 int nprompts)
{
	RequestParts *parts = palloc0(sizeof(RequestParts));

	parts->model = sabot_text_to_utf8(spec->model);
	if (spec->system != NULL)
		parts->system = sabot_text_to_utf8(spec->system);
	parts->format = json_text(spec->format);
	parts->options = json_text(spec->options);
	parts->nprompts = nprompts;
	parts->prompts = palloc(Max(nprompts, 1) * sizeof(char *));
	for (int i = 0; i < nprompts; i++)
		parts->prompts[i] = sabot_text_to_utf8(prompts[i]);
	return parts;
}

/*
 * add - put an item into an object or array
 *
 * key is NULL for arrays.  Returns false if memory is short, also that of
 * whoever made the item, which then is NULL.
 */
static bool
add(cJSON *container, const char *key, cJSON *item)
{
	if (item == NULL)
		return false;
	if (key == NULL ? cJSON_AddItemToArray(container, item) :
		cJSON_AddItemToObject(container, key, item))
		return true;
	cJSON_Delete(item);
	return false;
}

/*
 * add_default - put a number into an object that has no such key
 */
static bool
add_default(cJSON *object, const char *key, double value)
{
	if (cJSON_GetObjectItemCaseSensitive(object, key) != NULL)
		return true;
	return add(object, key, cJSON_CreateNumber(value));
}

/*
 * add_message - put a message into a conversation
 */
static bool
add_message(cJSON *messages, const char *role, const char *content)
{
	cJSON	   *message = cJSON_CreateObject();

	return add(messages, NULL, message) &&
		add(message, "role", cJSON_CreateString(role)) &&
		add(message, "content", cJSON_CreateString(content));
}

/*
 * add_messages - the conversation: the system's words and the prompt
 *
 * Without a prompt it is empty.
 */
static bool
add_messages(cJSON *body, const RequestParts *parts)
{
	cJSON	   *messages = cJSON_CreateArray();

	if (!add(body, "messages", messages))
		return false;
	if (parts->nprompts == 0)
		return true;
	if (parts->system != NULL &&
		!add_message(messages, "system", parts->system))
		return false;
	return add_message(messages, "user", parts->prompts[0]);
}

/*
 * add_input - the texts to embed
 */
static bool
add_input(cJSON *body, const RequestParts *parts)
{
	cJSON	   *input = cJSON_CreateArray();

	if (!add(body, "input", input))
		return false;
	for (int i = 0; i < parts->nprompts; i++)
	{
		if (!add(input, NULL, cJSON_CreateString(parts->prompts[i])))
			return false;
	}
	return true;
}

/*
 * user_options - the job's own options; NULL if memory is short
 *
 * An option that is null is as good as none, but for our default, which it
 * takes away: merge_options() drops it.
 */
static cJSON *
user_options(const RequestParts *parts)
{
	cJSON	   *options = NULL;

	if (parts->options == NULL)
		return cJSON_CreateObject();
	options = cJSON_Parse(parts->options);
	if (options != NULL && !cJSON_IsObject(options))
	{
		cJSON_Delete(options);
		return cJSON_CreateObject();
	}
	return options;
}

/*
 * drop_nulls - take the members that are null out of an object
 */
static void
drop_nulls(cJSON *object)
{
	cJSON	   *member = object->child;

	while (member != NULL)
	{
		cJSON	   *next = member->next;

		if (cJSON_IsNull(member))
			cJSON_Delete(cJSON_DetachItemViaPointer(object, member));
		member = next;
	}
}

/*
 * add_options - Ollama's options: the job's over our defaults
 */
static bool
add_options(cJSON *body, const RequestParts *parts, bool with_defaults)
{
	cJSON	   *options = user_options(parts);

	if (!add(body, "options", options))
		return false;
	if (with_defaults &&
		(!add_default(options, "seed", DEFAULT_SEED) ||
		 !add_default(options, "temperature", DEFAULT_TEMPERATURE) ||
		 !add_default(options, "num_predict", DEFAULT_NUM_PREDICT)))
		return false;
	drop_nulls(options);
	return true;
}

/*
 * fill_ollama_chat - the body of /api/chat
 */
static bool
fill_ollama_chat(cJSON *body, const RequestParts *parts)
{
	return add_messages(body, parts) &&
		add(body, "stream", cJSON_CreateFalse()) &&
		add(body, "think", cJSON_CreateFalse()) &&
		add(body, "truncate", cJSON_CreateFalse()) &&
		(parts->format == NULL ||
		 add(body, "format", cJSON_CreateRaw(parts->format))) &&
		add_options(body, parts, true) &&
		add(body, "keep_alive", cJSON_CreateString(KEEP_ALIVE));
}

/*
 * fill_ollama_embed - the body of /api/embed
 */
static bool
fill_ollama_embed(cJSON *body, const RequestParts *parts)
{
	return add_input(body, parts) &&
		add(body, "truncate", cJSON_CreateFalse()) &&
		(parts->options == NULL || add_options(body, parts, false)) &&
		add(body, "keep_alive", cJSON_CreateString(KEEP_ALIVE));
}

/*
 * add_response_format - what the OpenAI api calls format
 *
 * Not "strict", which refuses most schemas: answers are checked here anyway.
 */
static bool
add_response_format(cJSON *body, const RequestParts *parts)
{
	cJSON	   *format = cJSON_CreateObject();
	cJSON	   *schema;

	if (!add(body, "response_format", format))
		return false;
	if (strcmp(parts->format, "\"json\"") == 0)
		return add(format, "type", cJSON_CreateString("json_object"));
	schema = cJSON_CreateObject();
	return add(format, "type", cJSON_CreateString("json_schema")) &&
		add(format, "json_schema", schema) &&
		add(schema, "name", cJSON_CreateString("answer")) &&
		add(schema, "schema", cJSON_CreateRaw(parts->format));
}

/*
 * add_openai_options - options as members of the body
 *
 * They have Ollama's names where those are known, or whatever names the server
 * knows; members that are already there are not theirs to change.
 */
static bool
add_openai_options(cJSON *body, cJSON *options)
{
	cJSON	   *limit;
	bool		has_limit =
	cJSON_GetObjectItemCaseSensitive(options, "max_tokens") != NULL ||
	cJSON_GetObjectItemCaseSensitive(options,
									 "max_completion_tokens") != NULL;

	if (!add_default(options, "temperature", DEFAULT_TEMPERATURE) ||
		!add_default(options, "seed", DEFAULT_SEED) ||
		!add_default(options, "num_predict", DEFAULT_NUM_PREDICT))
		return false;
	limit = cJSON_DetachItemFromObjectCaseSensitive(options, "num_predict");
	/* Ollama's negative numbers mean no limit */
	if (has_limit || (cJSON_IsNumber(limit) && limit->valuedouble < 0))
		cJSON_Delete(limit);
	else if (!add(options, "max_tokens", limit))
		return false;
	drop_nulls(options);
	while (options->child != NULL)
	{
		cJSON	   *option = cJSON_DetachItemViaPointer(options,
														options->child);
		cJSON	   *there = cJSON_GetObjectItemCaseSensitive(body,
															 option->string);

		if (there != NULL)
			cJSON_Delete(option);
		else if (!add(body, option->string, option))
			return false;
	}
	return true;
}

/*
 * fill_openai_chat - the body of /v1/chat/completions
 */
static bool
fill_openai_chat(cJSON *body, const RequestParts *parts)
{
	cJSON	   *options = user_options(parts);
	bool		ok = options != NULL &&
	add_messages(body, parts) &&
	add(body, "stream", cJSON_CreateFalse()) &&
	(parts->format == NULL || add_response_format(body, parts)) &&
	add_openai_options(body, options);

	cJSON_Delete(options);
	return ok;
}

/*
 * print_body - the text of a body; NULL if memory is short
 *
 * Returns malloc'd text.
 */
static char *
print_body(SabotLlmApi api, bool embedding, const RequestParts *parts)
{
	cJSON	   *body = cJSON_CreateObject();
	char	   *text = NULL;
	bool		ok = body != NULL &&
	add(body, "model", cJSON_CreateString(parts->model));

	if (!ok)
		 /* nothing to fill */ ;
	else if (api == SABOT_API_OLLAMA)
		ok = embedding ? fill_ollama_embed(body, parts) :
			fill_ollama_chat(body, parts);
	else
		ok = embedding ? add_input(body, parts) :
			fill_openai_chat(body, parts);
	if (ok)
		text = cJSON_PrintUnformatted(body);

	cJSON_Delete(body);
	return text;
}

/*
 * copy_and_free - a palloc'd copy of a malloc'd text, which is freed
 *
 * NULL if memory is short, or if text is NULL.
 */
static char *
copy_and_free(char *text)
{
	size_t		size;
	char	   *copy;

	if (text == NULL)
		return NULL;
	size = strlen(text) + 1;
	copy = palloc_extended(size, MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE);
	if (copy != NULL)
		memcpy(copy, text, size);
	cJSON_free(text);
	return copy;
}

/*
 * make_body - the body of a request, palloc'd
 *
 * Raises ERRCODE_OUT_OF_MEMORY.
 */
static char *
make_body(const SabotEndpoint *endpoint, const SabotLlmSpec *spec,
		  const char *const *prompts, int nprompts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sabot request",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	char	   *text = print_body(endpoint->api, spec->embedding,
								  gather_parts(spec, prompts, nprompts));

	MemoryContextSwitchTo(caller);
	text = copy_and_free(text);

	MemoryContextDelete(context);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while writing a request to LLM endpoint \"%s\".",
						   endpoint->name)));
	return text;
}

/*
 * openai_path - a path of the OpenAI api
 *
 * Many give the URL of such a server with its "/v1".
 */
static const char *
openai_path(const SabotEndpoint *endpoint, const char *path)
{
	size_t		len = strlen(endpoint->url);

	if (len >= 3 && strcmp(endpoint->url + len - 3, "/v1") == 0)
		return path + strlen("/v1");
	return path;
}

/*
 * sabot_request_path - where a job's requests go; a constant
 */
const char *
sabot_request_path(const SabotEndpoint *endpoint, const SabotLlmSpec *spec)
{
	if (endpoint->api == SABOT_API_OLLAMA)
		return spec->embedding ? "/api/embed" : "/api/chat";
	return openai_path(endpoint, spec->embedding ? "/v1/embeddings" :
					   "/v1/chat/completions");
}

/*
 * sabot_request_body - the body of a request for these prompts, palloc'd
 *
 * There is one prompt, or up to batch_size texts to embed; they are in the
 * server's encoding.  Characters that cannot be UTF-8 are replaced by U+FFFD.
 * Raises ERRCODE_OUT_OF_MEMORY; when called first, in a database whose
 * encoding is not UTF8, may read the catalog, if need be in a transaction of
 * its own.
 */
char *
sabot_request_body(const SabotEndpoint *endpoint, const SabotLlmSpec *spec,
				   const char *const *prompts, int nprompts)
{
	Assert(nprompts > 0 && (nprompts == 1 || spec->embedding));
	return make_body(endpoint, spec, prompts, nprompts);
}

/*
 * sabot_request_load - the request that has the server load the model
 *
 * It is the job's request without a prompt: Ollama loads a model with the
 * options and keep_alive of such a request and answers when that is done.
 * For embeddings that is an empty list of texts, which Ollama answers with an
 * empty list; the empty string would do the same there, but other servers
 * take it for a text.
 *
 * Returns false if the api has no such request.  *body is palloc'd.  Raises
 * what sabot_request_body() raises.
 */
bool
sabot_request_load(const SabotEndpoint *endpoint, const SabotLlmSpec *spec,
				   const char **path, char **body)
{
	if (endpoint->api != SABOT_API_OLLAMA)
		return false;
	*path = sabot_request_path(endpoint, spec);
	*body = make_body(endpoint, spec, NULL, 0);
	return true;
}

/*
 * sabot_request_probe_path - what a server answers at once; a constant
 */
const char *
sabot_request_probe_path(const SabotEndpoint *endpoint)
{
	if (endpoint->api == SABOT_API_OLLAMA)
		return "/api/version";
	return openai_path(endpoint, "/v1/models");
}

/*
 * sabot_request_models_path - the list of a server's models; a constant
 */
const char *
sabot_request_models_path(const SabotEndpoint *endpoint)
{
	if (endpoint->api == SABOT_API_OLLAMA)
		return "/api/tags";
	return openai_path(endpoint, "/v1/models");
}
