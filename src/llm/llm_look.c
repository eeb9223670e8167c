/*-------------------------------------------------------------------------
 *
 * llm_look.c
 *		A short look at a model server, for somebody who submits a job.
 *
 * Whether the server is there and has the model is not submit's business: it
 * may be when the job runs.  But a mistyped name is found here by the one who
 * can correct it, so it is worth a look: a short one, and only if nobody uses
 * the server, since it would count as one request too many.
 *
 * The connection is not kept: a session may never look again.
 *
 * IDENTIFICATION
 *		src/llm/llm_look.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "llm/llm_look.h"

#define LOOK_MS 2000
#define MAX_NAMED_MODELS 20

/* What a look at a server has shown. */
typedef struct Look
{
	List	   *models;			/* char * */
	char	   *digest;			/* of the model looked for, or NULL */
	SabotAnswer answer;			/* the verdict */
	bool		silent;			/* it did not answer at all */
} Look;

/*
 * sabot_model_names - names of models for a message: a, b and 3 more
 */
char *
sabot_model_names(List *models)
{
	StringInfoData buf;
	int			left = list_length(models) - MAX_NAMED_MODELS;
	int			named = 0;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, models)
	{
		if (named++ == MAX_NAMED_MODELS)
			break;
		appendStringInfo(&buf, "%s%s", named > 1 ? ", " : "",
						 (char *) lfirst(lc));
	}
	if (left > 0)
		appendStringInfo(&buf, " and %d more", left);
	return buf.data;
}

/*
 * read_models - ask a server for its models; the caller has a permit
 */
static void
read_models(const SabotEndpoint *endpoint, const char *model, Look *look)
{
	SabotHttp  *http;
	const SabotReply *reply = sabot_http_get(endpoint,
											 sabot_request_models_path(endpoint),
											 NULL, LOOK_MS, &http);

	sabot_permit_note_request(endpoint->origin, reply->new_connection);
	look->silent = reply->status == 0;
	look->models = sabot_answer_read_models(endpoint, reply, model,
											&look->digest, &look->answer);
	sabot_http_end(http);
	sabot_http_forget_connections();
}

/*
 * look_at - ask a server for its models, unless it is busy or stopped
 *
 * model is the one looked for, or NULL.  Returns false if it was not asked.
 * Takes at most LOOK_MS; raises what interrupts raise.
 */
static bool
look_at(const SabotEndpoint *endpoint, const char *model, Look *look)
{
	TimestampTz next_probe;
	SabotGate	gate = sabot_permit_take(endpoint, NULL, false, &next_probe);

	memset(look, 0, sizeof(*look));
	if (gate != SABOT_GATE_OPEN && gate != SABOT_GATE_PROBE)
		return false;
	PG_TRY();
	{
		read_models(endpoint, model, look);
	}
	PG_FINALLY();
	{
		sabot_permit_give(endpoint->origin);
	}
	PG_END_TRY();
	return true;
}

/*
 * sabot_look_for_names - a sentence about the models that a server has
 */
char *
sabot_look_for_names(const SabotEndpoint *endpoint)
{
	Look		look;

	if (!look_at(endpoint, NULL, &look))
		return psprintf("The model server at %s is busy or stopped and was not asked for its models.",
						endpoint->url);
	if (look.answer.error_class != SABOT_LLM_OK)
		return psprintf("The model server at %s could not be asked for its models: %s.",
						endpoint->url, look.answer.error);
	if (look.models == NIL)
		return psprintf("The model server at %s has no models.",
						endpoint->url);
	return psprintf("The model server at %s has: %s.", endpoint->url,
					sabot_model_names(look.models));
}

/*
 * sabot_look_for_model - WARNING if a server does not answer or does not have
 * a model
 *
 * Servers of the other api may have models that they do not list.
 */
void
sabot_look_for_model(const SabotEndpoint *endpoint, const char *model)
{
	Look		look;

	if (!look_at(endpoint, model, &look))
		return;
	if (look.answer.error_class != SABOT_LLM_OK)
		ereport(WARNING,
				(errmsg(look.silent ? "model server at %s does not answer" :
						"model server at %s does not list its models",
						endpoint->url),
				 look.answer.error ? errdetail("%s", look.answer.error) : 0,
				 errhint("The job waits for it. Use sabot.check_llm('%s') to see what is wrong.",
						 endpoint->name)));
	else if (endpoint->api == SABOT_API_OLLAMA && look.digest == NULL)
		ereport(WARNING,
				(errmsg("model server at %s does not have model \"%s\"",
						endpoint->url, model),
				 look.models == NIL ? errdetail("It has no models.") :
				 errdetail("It has: %s.", sabot_model_names(look.models)),
				 errhint("The job waits for it. Use \"ollama pull %s\" on that machine, or cancel the job.",
						 model)));
}
