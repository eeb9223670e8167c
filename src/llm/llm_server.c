/*-------------------------------------------------------------------------
 *
 * llm_server.c
 *		Makes sure that a server can be sent a request: probe, look up the
 *		model, have it loaded.
 *
 * None of this is any item's business, so none of it counts against one.  A
 * server that does not answer a probe, or cannot load the model, is stopped
 * (llm_permit.c), and the job goes on when it is back.  Loading a model is
 * asked for apart, with a deadline of its own: a request that gave up in the
 * middle of it would make the server give up too, and never get further.
 *
 * IDENTIFICATION
 *		src/llm/llm_server.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "llm/llm_run.h"

/*
 * exchange - send a request that is not for an item, and wait for its answer
 *
 * Raises what interrupts raise; then the request is ended.
 */
static const SabotReply *
exchange(SabotLlmRun *run, const char *path, const char *body,
		 int64 timeout_ms, SabotHttp **http)
{
	const SabotReply *reply = sabot_http_get(run->endpoint, path, body,
											 timeout_ms, http);

	sabot_permit_note_request(run->endpoint->origin, reply->new_connection);
	run->connections += reply->new_connection;
	return reply;
}

/*
 * stop - stop the server, the model on it, or the endpoint, for what an
 * answer says
 */
static void
stop(SabotLlmRun *run, const SabotAnswer *answer)
{
	sabot_gate_fault(run->endpoint, run->spec->model, answer->fault,
					 answer->error ? answer->error : "does not answer",
					 answer->retry_after_s);
	run->warm = false;
	run->stopped = true;
}

/*
 * probe - find out whether the server answers
 *
 * After a request that was given up it may be busy with that for a while: it
 * gets as long as a request has.  If it still does not answer then, that is
 * its fault only if it was stopped before.
 */
static bool
probe(SabotLlmRun *run, bool was_stopped)
{
	const char *path = sabot_request_probe_path(run->endpoint);
	SabotAnswer answer = {0};
	SabotHttp  *http;
	const SabotReply *reply = exchange(run, path, NULL, run->spec->timeout_ms,
									   &http);
	bool		timed_out = reply->timed_out;

	sabot_answer_read_probe(run->endpoint, reply, &answer);
	sabot_http_end(http);
	if (answer.fault == SABOT_FAULT_NONE)
		return true;
	if (timed_out && run->settle && !was_stopped)
		return true;
	stop(run, &answer);
	return false;
}

/*
 * look_up_model - find out which version of the model the server has
 *
 * One that the server does not have stops that model.
 */
static bool
look_up_model(SabotLlmRun *run)
{
	SabotAnswer answer = {0};
	SabotHttp  *http;
	const SabotReply *reply = exchange(run,
									   sabot_request_models_path(run->endpoint),
									   NULL, run->spec->timeout_ms, &http);
	char	   *digest = NULL;
	List	   *models = sabot_answer_read_models(run->endpoint, reply,
												  run->spec->model, &digest,
												  &answer);

	sabot_http_end(http);
	if (sabot_fault_is_servers(answer.fault))
	{
		stop(run, &answer);
		return false;
	}
	if (answer.fault == SABOT_FAULT_NONE && digest == NULL &&
		run->endpoint->api == SABOT_API_OLLAMA)
	{
		answer.fault = SABOT_FAULT_MODEL;
		answer.error = psprintf("model \"%s\" not found, the server has %d others",
								run->spec->model, list_length(models));
		stop(run, &answer);
		return false;
	}
	if (digest)
		run->digest = MemoryContextStrdup(run->context, digest);
	return true;
}

/*
 * load - have the model loaded
 */
static bool
load(SabotLlmRun *run)
{
	const char *path;
	char	   *body;
	SabotAnswer answer = {0};
	SabotHttp  *http;
	const SabotReply *reply;

	if (!sabot_request_load(run->endpoint, run->spec, &path, &body))
		return true;
	reply = exchange(run, path, body, sabot_llm_load_timeout, &http);
	sabot_answer_read_load(run->endpoint, run->spec, reply, &answer);
	/* What it was asked is the job's, and what it says may repeat that. */
	answer.error = answer.public_error;
	if (reply->timed_out)
		answer.error = psprintf("model \"%s\" was not loaded within %d s (sabot.llm_load_timeout)",
								run->spec->model, sabot_llm_load_timeout / 1000);
	sabot_http_end(http);
	if (answer.fault == SABOT_FAULT_NONE)
		return true;
	stop(run, &answer);
	return false;
}

/*
 * sabot_llm_make_ready - do what has to come before the next item's request
 *
 * The caller has a permit.  was_stopped says that the server is to be probed
 * first, as others know that it was stopped or left in the middle of a
 * request.  Returns false if it is stopped now.
 */
bool
sabot_llm_make_ready(SabotLlmRun *run, bool was_stopped)
{
	MemoryContext caller = MemoryContextSwitchTo(run->answer_context);
	bool		ready = true;
	bool		news = false;

	if (was_stopped || run->settle)
	{
		ready = probe(run, was_stopped);
		if (ready)
			news = sabot_gate_good(run->endpoint, NULL, false);
	}
	if (ready && !run->looked_up)
		ready = run->looked_up = look_up_model(run);
	if (ready && !run->warm)
		ready = run->warm = load(run);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(run->answer_context);
	if (ready)
	{
		news |= sabot_gate_good(run->endpoint, run->spec->model, false);
		run->settle = false;
		run->unproven = true;
	}
	if (news)
		sabot_pool_wake_crew(SABOT_LLM_WORKERS);
	return ready;
}
