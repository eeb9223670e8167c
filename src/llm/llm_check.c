/*-------------------------------------------------------------------------
 *
 * llm_check.c
 *		Trying a server and a model, step by step.
 *
 * Each step does what a worker does, with the same requests and the same
 * verdicts, so what works here works there.  The first that fails is the last
 * but for what is known without the server, and says what to change.
 *
 * Requests that make the model work wait in line like everybody's; the small
 * ones before do not, as somebody wants to know why the line does not move.
 *
 * IDENTIFICATION
 *		src/llm/llm_check.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

#include "guc.h"
#include "llm/llm.h"
#include "llm/llm_endpoint.h"
#include "llm/llm_look.h"
#include "pool/pool.h"

PG_FUNCTION_INFO_V1(sabot_check_llm);

#define SHORT_MS 5000			/* for requests that no model is needed for */
#define ANSWER_MS 60000
#define LOOK_AGAIN_MS 1000		/* in line for a permit */
#define LONG_QUEUE_MS 100
#define MAX_SHOWN_ANSWER 60
#define QUESTION "Reply with the word ok."

/* What is being tried. */
typedef struct Check
{
	ReturnSetInfo *rsinfo;
	SabotEndpoint *endpoint;
	SabotLlmSpec spec;			/* of a job with one item */
	char	   *version;		/* or NULL */
} Check;

/* How a request went that had to wait for a permit. */
typedef struct Exchange
{
	SabotGate	gate;			/* CLOSED or BUSY: nothing was sent */
	TimestampTz next_probe;		/* if CLOSED */
	bool		has_permit;
	bool		given_up;		/* the server may still be busy with it */
	SabotHttp  *http;
	const SabotReply *reply;
} Exchange;

/*
 * put - return one row; NULL for no detail or advice.  Returns ok
 */
static bool
put(Check *check, const char *subject, bool ok, const char *detail,
	const char *advice)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {false, false, detail == NULL, advice == NULL};

	values[0] = CStringGetTextDatum(subject);
	values[1] = BoolGetDatum(ok);
	if (detail)
		values[2] = CStringGetTextDatum(detail);
	if (advice)
		values[3] = CStringGetTextDatum(advice);
	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc,
						 values, nulls);
	return ok;
}

/*
 * ms_text - a latency in microseconds as milliseconds
 */
static char *
ms_text(int64 us)
{
	return psprintf("%.*f ms", us < 10000 ? 1 : 0, us / 1000.0);
}

/*
 * try_endpoint - row "endpoint"
 */
static bool
try_endpoint(Check *check, const char *name)
{
	SabotEndpointProblem problem;

	check->endpoint = sabot_endpoint_find(name, GetUserId(), &problem);
	if (check->endpoint == NULL)
		return put(check, "endpoint", false, problem.message, problem.hint);
	return put(check, "endpoint", true,
			   psprintf("\"%s\": %s, api %s, max_in_flight %d", name,
						check->endpoint->url,
						check->endpoint->api == SABOT_API_OLLAMA ? "ollama" : "openai",
						check->endpoint->max_in_flight), NULL);
}

/*
 * unreachable_advice - what to do about a server that sent nothing
 */
static char *
unreachable_advice(const SabotEndpoint *endpoint, const SabotReply *reply)
{
	bool		ollama = endpoint->api == SABOT_API_OLLAMA;

	switch ((CURLcode) reply->curl_code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
			return "The host name in the URL is unknown on this machine: correct it with sabot.add_llm_endpoint().";
		case CURLE_COULDNT_CONNECT:
			return ollama ? "Start the server there with \"ollama serve\"; if it runs, OLLAMA_HOST says on which address and port it listens, by default only for its own machine." :
				"Start the server there, and see on which address and port it listens.";
		case CURLE_SSL_CONNECT_ERROR:
			return "If the server does not speak TLS, its URL begins with http:// instead.";
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
			return "Use a URL with the name in the server's certificate, and add its issuer to the certificates that this machine trusts.";
		default:
			/* One that waits for a line of HTTP says nothing to TLS. */
			if (reply->curl_code == CURLE_OPERATION_TIMEDOUT &&
				strncmp(endpoint->origin, "https:", strlen("https:")) == 0)
				return "If the server does not speak TLS, its URL begins with http:// instead; else see whether a firewall is in between, and whether the server is overloaded.";
			if (reply->timed_out || reply->curl_code == CURLE_OPERATION_TIMEDOUT)
				return "See whether a firewall is in between, and whether the server is overloaded.";
			return "See whether the URL is that of a model server, and the server's own log.";
	}
}

/*
 * refusal_advice - what to do about a server that answered with an error
 */
static char *
refusal_advice(const SabotEndpoint *endpoint, const SabotReply *reply)
{
	switch (reply->status)
	{
		case 401:
			return endpoint->secret ?
				"The server does not accept the secret: give another with sabot.add_llm_endpoint()." :
				"The server wants a token: give it as secret, with sabot.add_llm_endpoint().";
		case 403:
			if (endpoint->api == SABOT_API_OLLAMA && endpoint->secret == NULL)
				return "Ollama refuses host names that it does not know: use its address in the URL, or set OLLAMA_HOST there to 0.0.0.0.";
			return "The secret does not permit this: give another with sabot.add_llm_endpoint().";
		case 429:
		case 503:
			return "The server has too much to do: try again later.";
		default:
			return "See whether the URL is that of a model server, whether api is right, and the server's own log.";
	}
}

/*
 * server_advice - what to do about a server that gave no proper answer
 */
static char *
server_advice(const SabotEndpoint *endpoint, const SabotReply *reply)
{
	return reply->status == 0 ? unreachable_advice(endpoint, reply) :
		refusal_advice(endpoint, reply);
}

/*
 * ask - send a request that no model is needed for
 */
static const SabotReply *
ask(Check *check, const char *path, SabotHttp **http)
{
	const SabotReply *reply = sabot_http_get(check->endpoint, path, NULL,
											 SHORT_MS, http);

	sabot_permit_note_request(check->endpoint->origin, reply->new_connection);
	return reply;
}

/*
 * try_server - row "server"
 */
static bool
try_server(Check *check)
{
	SabotAnswer answer = {0};
	SabotHttp  *http;
	const SabotReply *reply = ask(check,
								  sabot_request_probe_path(check->endpoint),
								  &http);
	bool		ok;

	sabot_answer_read_probe(check->endpoint, reply, &answer);
	ok = answer.fault == SABOT_FAULT_NONE;
	if (ok)
	{
		check->version = sabot_answer_read_version(reply);
		put(check, "server", true,
			psprintf("answered within %s", ms_text(reply->latency_us)), NULL);
	}
	else
		put(check, "server", false,
			answer.error ? answer.error : "does not answer",
			server_advice(check->endpoint, reply));
	sabot_http_end(http);
	return ok;
}

/*
 * try_version - row "version"
 */
static bool
try_version(Check *check)
{
	const char *advice = NULL;
	int			major;
	int			minor;

	if (check->endpoint->api != SABOT_API_OLLAMA)
		return put(check, "version", true, "this api has none", NULL);
	if (check->version == NULL)
		return put(check, "version", true, "the server does not say it",
				   "If it is not Ollama, set api to openai with sabot.add_llm_endpoint().");
	if (sscanf(check->version, "%d.%d", &major, &minor) == 2 &&
		major == 0 && minor < 5 && strcmp(check->version, "0.0.0") != 0)
		advice = "Answers of a given format need Ollama 0.5 or later.";
	return put(check, "version", true, check->version, advice);
}

/*
 * is_listed - is a model among these names, as it is or with Ollama's tag?
 */
static bool
is_listed(List *models, const char *model)
{
	ListCell   *lc;

	foreach(lc, models)
		if (strcmp(lfirst(lc), model) == 0)
		return true;
	return false;
}

/*
 * judge_model - row "model", once the server has said which ones it has
 */
static bool
judge_model(Check *check, List *models, const char *digest)
{
	const char *model = check->spec.model;
	bool		ollama = check->endpoint->api == SABOT_API_OLLAMA;
	char	   *list = models == NIL ? "the server has no models" :
	psprintf("the server has: %s", sabot_model_names(models));

	if (model == NULL)
		return put(check, "model", false,
				   psprintf("no model was given; %s", list),
				   models == NIL && ollama ? "Use \"ollama pull NAME\" on that machine first." :
				   "Give one of them, as model => 'name', or set sabot.llm_model.");
	if (digest || is_listed(models, model))
		return put(check, "model", true,
				   digest ? psprintf("\"%s\", digest %.12s", model, digest) :
				   psprintf("\"%s\"", model), NULL);
	if (ollama)
		return put(check, "model", false,
				   psprintf("\"%s\" is not there; %s", model, list),
				   psprintf("Use \"ollama pull %s\" on that machine, or one of the others.",
							model));
	return put(check, "model", true,
			   psprintf("\"%s\" is not listed; %s", model, list),
			   "If it gets no answer, use one that is listed.");
}

/*
 * try_model - row "model"
 */
static bool
try_model(Check *check)
{
	SabotAnswer answer = {0};
	char	   *digest = NULL;
	SabotHttp  *http;
	const SabotReply *reply = ask(check,
								  sabot_request_models_path(check->endpoint),
								  &http);
	List	   *models = sabot_answer_read_models(check->endpoint, reply,
												  check->spec.model, &digest,
												  &answer);
	bool		ok;

	if (answer.error_class == SABOT_LLM_OK)
		ok = judge_model(check, models, digest);
	else if (!sabot_fault_is_servers(answer.fault) && check->spec.model &&
			 check->endpoint->api == SABOT_API_OPENAI)
		ok = put(check, "model", true,
				 psprintf("\"%s\"; the server does not list its models",
						  check->spec.model), NULL);
	else
		ok = put(check, "model", false,
				 psprintf("the server does not list its models: %s",
						  answer.error),
				 server_advice(check->endpoint, reply));
	sabot_http_end(http);
	return ok;
}

/*
 * take_permit - wait in line for a permit, not longer than a model may load
 *
 * Returns SABOT_GATE_BUSY if there was none all that time, with nobody in
 * line for us.
 */
static SabotGate
take_permit(Check *check, TimestampTz *next_probe)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   sabot_llm_load_timeout);
	SabotGate	gate;

	for (;;)
	{
		gate = sabot_permit_take(check->endpoint, check->spec.model, true,
								 next_probe);
		if (gate != SABOT_GATE_BUSY || GetCurrentTimestamp() >= deadline)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_AGAIN_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (gate == SABOT_GATE_BUSY)
		sabot_permit_leave_line();
	return gate;
}

/*
 * wait_and_send - wait in line for a permit and send a request
 *
 * The permit is the caller's to give back, also if this raises an error.
 */
static void
wait_and_send(Check *check, const char *path, const char *body,
			  int64 timeout_ms, Exchange *exchange)
{
	exchange->gate = take_permit(check, &exchange->next_probe);
	if (exchange->gate != SABOT_GATE_OPEN &&
		exchange->gate != SABOT_GATE_PROBE)
		return;
	exchange->has_permit = true;
	exchange->given_up = true;
	exchange->reply = sabot_http_get(check->endpoint, path, body, timeout_ms,
									 &exchange->http);
	exchange->given_up = exchange->reply->timed_out;
	sabot_permit_note_request(check->endpoint->origin,
							  exchange->reply->new_connection);
}

/*
 * leave_server - give back what wait_and_send() has taken
 *
 * A request that was given up may keep the server busy: the next one to come
 * has to probe.
 */
static void
leave_server(Check *check, const Exchange *exchange)
{
	if (exchange->given_up)
		sabot_permit_suspect(check->endpoint->origin, true);
	if (exchange->has_permit)
		sabot_permit_give(check->endpoint->origin);
	else
		sabot_permit_leave_line();
}

/*
 * send_in_line - send a request with a permit, waited for in line
 */
static void
send_in_line(Check *check, const char *path, const char *body,
			 int64 timeout_ms, Exchange *exchange)
{
	memset(exchange, 0, sizeof(*exchange));
	PG_TRY();
	{
		wait_and_send(check, path, body, timeout_ms, exchange);
	}
	PG_CATCH();
	{
		leave_server(check, exchange);
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave_server(check, exchange);
}

/*
 * put_not_sent - the row of a step whose request could not be sent
 */
static bool
put_not_sent(Check *check, const char *subject, const Exchange *exchange)
{
	char		error[SABOT_FAULT_LEN] = "";

	if (exchange->gate == SABOT_GATE_BUSY)
		return put(check, subject, false,
				   "others have used the server all the time",
				   "Try again later, or, if the server can do more at once, raise max_in_flight with sabot.add_llm_endpoint().");
	(void) sabot_gate_is_closed(check->endpoint, check->spec.model,
								NULL, error);
	return put(check, subject, false,
			   psprintf("nothing is sent until %s: %s",
						timestamptz_to_str(exchange->next_probe),
						error[0] ? error : "somebody else finds out whether the server is back"),
			   "Try again then.");
}

/*
 * load_once - have the model loaded; returns false if nothing could be sent
 */
static bool
load_once(Check *check, Exchange *exchange, SabotAnswer *answer)
{
	const char *path;
	char	   *body;

	memset(answer, 0, sizeof(*answer));
	if (!sabot_request_load(check->endpoint, &check->spec, &path, &body))
		elog(ERROR, "api has no request to load a model");
	send_in_line(check, path, body, sabot_llm_load_timeout, exchange);
	if (exchange->reply == NULL)
		return false;
	sabot_answer_read_load(check->endpoint, &check->spec, exchange->reply,
						   answer);
	return true;
}

/*
 * might_embed - does an answer look like that of a model that only embeds?
 */
static bool
might_embed(const Check *check, const Exchange *exchange,
			const SabotAnswer *answer)
{
	return !check->spec.embedding && exchange->reply->status >= 400 &&
		exchange->reply->status < 500 && answer->error != NULL &&
		!sabot_fault_is_servers(answer->fault);
}

/*
 * load_failed - row "load" of a model that was not loaded
 */
static bool
load_failed(Check *check, const SabotReply *reply, const SabotAnswer *answer)
{
	if (reply->timed_out)
		return put(check, "load", false,
				   psprintf("not within %d s", sabot_llm_load_timeout / 1000),
				   "Raise sabot.llm_load_timeout, or use a smaller model.");
	return put(check, "load", false,
			   answer->error ? answer->error : "the model was not loaded",
			   sabot_fault_is_servers(answer->fault) ?
			   server_advice(check->endpoint, reply) :
			   "See the server's own log; a smaller model needs less memory.");
}

/*
 * try_load - row "load"
 */
static bool
try_load(Check *check)
{
	Exchange	exchange;
	SabotAnswer answer;
	bool		ok;

	if (check->endpoint->api != SABOT_API_OLLAMA)
		return put(check, "load", true, "left to the server", NULL);
	if (!load_once(check, &exchange, &answer))
		return put_not_sent(check, "load", &exchange);
	if (might_embed(check, &exchange, &answer))
	{
		Exchange	other;
		SabotAnswer other_answer;

		check->spec.embedding = true;
		if (load_once(check, &other, &other_answer) &&
			other_answer.fault == SABOT_FAULT_NONE)
		{
			sabot_http_end(exchange.http);
			exchange = other;
			answer = other_answer;
		}
		else
		{
			check->spec.embedding = false;
			if (other.http)
				sabot_http_end(other.http);
		}
	}
	ok = answer.fault == SABOT_FAULT_NONE;
	if (ok)
		put(check, "load", true,
			psprintf("took %s%s", ms_text(exchange.reply->latency_us),
					 check->spec.embedding ? "; the model only embeds" : ""),
			NULL);
	else
		load_failed(check, exchange.reply, &answer);
	sabot_http_end(exchange.http);
	return ok;
}

/*
 * shown_answer - the beginning of an answer, on one line
 */
static char *
shown_answer(const char *text)
{
	int			len = pg_mbcliplen(text, strlen(text), MAX_SHOWN_ANSWER);
	char	   *shown = pnstrdup(text, len);

	for (char *p = shown; *p != '\0'; p++)
		if ((unsigned char) *p < ' ')
			*p = ' ';
	return psprintf("\"%s%s\"", shown, text[len] ? "..." : "");
}

/*
 * answer_detail - what came back, and what it took
 */
static char *
answer_detail(const Check *check, const SabotReply *reply,
			  const SabotAnswer *answer)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (check->spec.embedding)
		appendStringInfo(&buf, "%d dimensions", answer->ndims);
	else
		appendStringInfoString(&buf, shown_answer(answer->text ? answer->text : ""));
	appendStringInfo(&buf, " after %s", ms_text(reply->latency_us));
	if (answer->prompt_tokens >= 0)
		appendStringInfo(&buf, ", %d tokens in", answer->prompt_tokens);
	if (answer->output_tokens >= 0)
		appendStringInfo(&buf, ", %d out", answer->output_tokens);
	if (answer->output_tokens > 0 && answer->output_ms > 0)
		appendStringInfo(&buf, ", %.0f tokens/s",
						 answer->output_tokens * 1000.0 / answer->output_ms);
	return buf.data;
}

/*
 * put_answer - row "answer"
 *
 * An answer that was too long is one, too.
 */
static bool
put_answer(Check *check, const SabotReply *reply, const SabotAnswer *answer)
{
	const char *advice = NULL;

	if (answer->error_class != SABOT_LLM_OK &&
		answer->error_class != SABOT_LLM_TRUNCATED)
		return put(check, "answer", false,
				   psprintf("%s: %s", sabot_error_class_label(answer->error_class),
							answer->error ? answer->error : "no answer"),
				   sabot_fault_is_servers(answer->fault) ?
				   server_advice(check->endpoint, reply) :
				   "See the server's own log, or try another model.");
	if (answer->queue_ms > LONG_QUEUE_MS)
		advice = psprintf("It waited %.0f ms in the server's own queue: somebody else uses the server, too.",
						  answer->queue_ms);
	else if (answer->error_class == SABOT_LLM_TRUNCATED)
		advice = "It was asked for one word and did not stop: other models may do better.";
	(void) sabot_gate_good(check->endpoint, check->spec.model, false);
	(void) sabot_gate_good(check->endpoint, check->spec.model, true);
	sabot_pool_wake_crew(SABOT_LLM_WORKERS);
	return put(check, "answer", true, answer_detail(check, reply, answer),
			   advice);
}

/*
 * ask_model - send the request of a job with one item
 */
static bool
ask_model(Check *check, Exchange *exchange, SabotAnswer *answer)
{
	static const char *const prompts[] = {QUESTION};

	memset(answer, 0, sizeof(*answer));
	send_in_line(check, sabot_request_path(check->endpoint, &check->spec),
				 sabot_request_body(check->endpoint, &check->spec, prompts, 1),
				 ANSWER_MS, exchange);
	if (exchange->reply == NULL)
		return false;
	sabot_answer_read(check->endpoint, &check->spec, exchange->reply, 1,
					  answer);
	return true;
}

/*
 * try_answer - row "answer"
 */
static bool
try_answer(Check *check)
{
	Exchange	exchange;
	SabotAnswer answer;
	bool		ok;

	if (!ask_model(check, &exchange, &answer))
		return put_not_sent(check, "answer", &exchange);
	if (check->endpoint->api == SABOT_API_OPENAI &&
		might_embed(check, &exchange, &answer))
	{
		Exchange	other;
		SabotAnswer other_answer;

		check->spec.embedding = true;
		if (ask_model(check, &other, &other_answer) &&
			other_answer.error_class == SABOT_LLM_OK)
		{
			ok = put_answer(check, other.reply, &other_answer);
			sabot_http_end(other.http);
			sabot_http_end(exchange.http);
			return ok;
		}
		check->spec.embedding = false;
		if (other.http)
			sabot_http_end(other.http);
	}
	ok = put_answer(check, exchange.reply, &answer);
	sabot_http_end(exchange.http);
	return ok;
}

/*
 * try_workers - row "workers"
 */
static bool
try_workers(Check *check)
{
	if (!sabot_enabled)
		return put(check, "workers", false, "sabot.enabled is off",
				   "Set it to on and reload the configuration.");
	if (sabot_llm_workers == 0)
		return put(check, "workers", false, "sabot.llm_workers is 0",
				   "Set it to at least 1 and reload the configuration.");
	return put(check, "workers", true,
			   psprintf("up to %d at once", sabot_llm_workers), NULL);
}

/*
 * try_state - row "state"
 */
static bool
try_state(Check *check)
{
	SabotServerState state;
	TimestampTz next_probe;
	char		error[SABOT_FAULT_LEN];

	if (sabot_gate_is_closed(check->endpoint, check->spec.model,
							 &next_probe, error))
		return put(check, "state", false,
				   psprintf("stopped until %s: %s",
							timestamptz_to_str(next_probe), error),
				   "Jobs wait until then.");
	(void) sabot_server_state(check->endpoint, &state);
	return put(check, "state", true,
			   psprintf("%d requests open, %d processes in line, " INT64_FORMAT " requests over " INT64_FORMAT " connections so far",
						state.in_flight, state.in_line, state.requests,
						state.connections), NULL);
}

/*
 * SQL: sabot.check_llm(endpoint text, model text) RETURNS TABLE (subject text,
 * ok boolean, detail text, advice text) - try a server and a model, step by
 * step, and say what to change
 *
 * Steps after one that failed are left out.  Errors: 22004, 22023 for a name
 * that is too long, 55000 without preload.
 */
Datum
sabot_check_llm(PG_FUNCTION_ARGS)
{
	Check		check = {0};
	char	   *model = PG_ARGISNULL(1) ? sabot_llm_model :
	text_to_cstring(PG_GETARG_TEXT_PP(1));

	sabot_pool_require();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("endpoint must not be null")));
	if (model && strlen(model) >= SABOT_MODEL_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a model is longer than %d bytes",
						SABOT_MODEL_LEN - 1)));
	InitMaterializedSRF(fcinfo, 0);
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	check.spec.model = model && model[0] ? pstrdup(model) : NULL;
	check.spec.timeout_ms = ANSWER_MS;
	check.spec.max_attempts = check.spec.batch_size = 1;
	if (try_endpoint(&check, text_to_cstring(PG_GETARG_TEXT_PP(0))) &&
		try_server(&check) && try_version(&check) && try_model(&check) &&
		try_load(&check) && try_answer(&check) && try_workers(&check))
		(void) try_state(&check);
	sabot_http_forget_connections();
	return (Datum) 0;
}
