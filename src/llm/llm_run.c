/*-------------------------------------------------------------------------
 *
 * llm_run.c
 *		Runs an LLM job in a worker: takes items in their order, sends each,
 *		and sees to what comes back.
 *
 * A worker has a job until it is done, or until somebody else's turn has
 * come; between two items it can leave without a trace, as what is done is
 * in the tables.  No transaction is open while it waits for a server.  With
 * every request goes a permit (llm_permit.c), so that a server never has more
 * open than it has places.
 *
 * A fault is charged to whom it belongs: an item is tried again and then has
 * its fallback, a server or a model is stopped and the item waits, and what
 * is wrong with the job itself is raised and fails the job.
 *
 * IDENTIFICATION
 *		src/llm/llm_run.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/job_run.h"
#include "llm/llm_run.h"

/* Items are fetched so many at a time. */
#define FETCH_ITEMS		64

/* The worker looks around at least this often, in ms. */
#define NAP_MS			1000

/* It looks for a job that goes before its own so often, in ms. */
#define LOOK_AHEAD_MS	1000

/*
 * fetch_more - get the next items after those fetched last; false if there are
 * none
 */
static bool
fetch_more(SabotLlmRun *run)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);
	int			limit = Max(FETCH_ITEMS, run->spec->batch_size);
	List	   *items = sabot_items_fetch(run->spec, run->position, limit,
										  run->context);
	bool		found = items != NIL;
	List	   *batch = NIL;
	ListCell   *lc;

	run->more = list_length(items) == limit;
	foreach(lc, items)
	{
		SabotLlmItem *item = lfirst(lc);

		run->position = item->item;
		batch = lappend(batch, item);
		if (list_length(batch) == run->spec->batch_size || run->only_one)
		{
			run->waiting = lappend(run->waiting, batch);
			batch = NIL;
		}
	}
	if (batch != NIL)
		run->waiting = lappend(run->waiting, batch);
	list_free(items);
	MemoryContextSwitchTo(caller);
	return found;
}

/*
 * fetch - get items if none wait to be sent; false if there are none
 *
 * From the first one again when the end was reached: some may have been given
 * back, or become free, behind our back.
 */
static bool
fetch(SabotLlmRun *run)
{
	if (run->waiting != NIL || fetch_more(run))
		return true;
	if (run->from_start || run->nflights > 0)
		return false;
	run->position = 0;
	run->from_start = true;
	return fetch_more(run);
}

/*
 * put_back - have items sent next but those that have changed; how many
 */
static int
put_back(SabotLlmRun *run, List *items)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);

	if (run->follow)
		items = sabot_follow_drop(items);
	if (items != NIL)
		run->waiting = lcons(items, run->waiting);
	MemoryContextSwitchTo(caller);
	return list_length(items);
}

/*
 * send_items - send the request for some items, in a free place
 */
static void
send_items(SabotLlmRun *run, List *items, bool again)
{
	MemoryContext caller = MemoryContextSwitchTo(run->answer_context);
	const char **prompts = palloc(sizeof(char *) * list_length(items));
	SabotFlight *flight = run->flights;
	char	   *body;

	for (int i = 0; i < list_length(items); i++)
		prompts[i] = ((SabotLlmItem *) list_nth(items, i))->prompt;
	while (flight->http != NULL)
		flight++;
	body = sabot_request_body(run->endpoint, run->spec, prompts,
							  list_length(items));
	MemoryContextSwitchTo(run->context);
	flight->http = sabot_http_start(run->endpoint,
									sabot_request_path(run->endpoint, run->spec),
									body, run->spec->timeout_ms,
									(size_t) sabot_llm_max_response * 1024);
	flight->items = items;
	flight->started_at = GetCurrentTimestamp();
	flight->resent = again;
	run->nflights++;
	run->most_in_flight = Max(run->most_in_flight, run->nflights);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(run->answer_context);
	sabot_usage_publish(run);
}

/*
 * take_permit - get the permit for one request, and the server ready for it
 *
 * False if there is none to be had now: others have them all (then we stand
 * in line), or the server is stopped.
 */
static bool
take_permit(SabotLlmRun *run)
{
	TimestampTz next_probe;
	SabotGate	gate = sabot_permit_take(run->endpoint, run->spec->model,
										 true, &next_probe);

	if (gate == SABOT_GATE_CLOSED)
		run->stopped = true;
	if (gate == SABOT_GATE_CLOSED || gate == SABOT_GATE_BUSY)
		return false;
	if ((gate == SABOT_GATE_PROBE || run->settle || !run->warm) &&
		!sabot_llm_make_ready(run, gate == SABOT_GATE_PROBE))
	{
		sabot_permit_give(run->endpoint->origin);
		return false;
	}
	return true;
}

/*
 * give_up_lost - an item that a worker did not survive twice is not asked for
 * again; true if it is one
 */
static bool
give_up_lost(SabotLlmRun *run, List *items)
{
	SabotLlmItem *item = linitial(items);
	SabotAnswer answer = {
		.error_class = SABOT_LLM_WRITE_FAILED,
	};

	if (list_length(items) > 1 || !item->lost)
		return false;
	answer.error = pstrdup("the worker did not survive this item");
	sabot_llm_unanswered(run, item, NULL, &answer, false);
	return true;
}

/*
 * fill_flights - send requests for as many items as may be under way
 */
static void
fill_flights(SabotLlmRun *run)
{
	int			most = Min(run->endpoint->max_in_flight, SABOT_MAX_FLIGHTS);

	if (run->careful || run->only_one)
		most = 1;
	while (!run->leaving && !run->stopped && run->nflights < most)
	{
		List	   *items;

		CHECK_FOR_INTERRUPTS();
		if (!fetch(run))
			return;
		/* As long as nobody was served nobody knows whose fault it was. */
		if (!run->served && !sabot_refusal_let_others_first(run) &&
			fetch_more(run))
			continue;
		items = linitial(run->waiting);
		if (list_length(items) > 1 &&
			(run->careful || run->only_one ||
			 sabot_refusal_is_doubtful(run, items)))
		{
			sabot_llm_split(run);
			continue;
		}
		if (give_up_lost(run, items))
		{
			run->waiting = list_delete_first(run->waiting);
			run->from_start = false;
			continue;
		}
		if (!take_permit(run))
			return;
		run->waiting = list_delete_first(run->waiting);
		send_items(run, items, false);
	}
	if (run->leaving || run->stopped)
		sabot_permit_leave_line();
}

/*
 * sabot_llm_split - have the items that are next sent in two requests
 */
void
sabot_llm_split(SabotLlmRun *run)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);
	List	   *items = linitial(run->waiting);
	int			half = list_length(items) / 2;
	List	   *second = list_copy_tail(items, half);

	linitial(run->waiting) = list_truncate(items, half);
	run->waiting = list_insert_nth(run->waiting, 1, second);
	MemoryContextSwitchTo(caller);
}

/*
 * values_of - the values of an answer, one for each item; NULL if the answer
 * is none after all, and says so then
 */
static Jsonb **
values_of(SabotLlmRun *run, int n, SabotAnswer *answer)
{
	Jsonb	  **values = palloc0(sizeof(Jsonb *) * n);
	char	   *violation;

	if (!run->spec->embedding)
	{
		values[0] = sabot_llm_value(run, answer->text, &violation);
		if (values[0] != NULL)
			return values;
		answer->error = psprintf("answer does not fit: %s", violation);
	}
	else if (run->ndims != 0 && answer->ndims != run->ndims)
		answer->error = psprintf("embedding has %d dimensions, others had %d",
								 answer->ndims, run->ndims);
	else
	{
		run->ndims = answer->ndims;
		for (int i = 0; i < n; i++)
			values[i] = sabot_mapping_vector(answer->vectors +
											 (size_t) i * answer->ndims,
											 answer->ndims);
		return values;
	}
	answer->error_class = SABOT_LLM_BAD_OUTPUT;
	answer->fault = SABOT_FAULT_ITEM;
	return NULL;
}

/*
 * item_failed - an attempt has failed: another one, or the end of the item
 *
 * A batch is split first: which of its items it was is not known.
 */
static void
item_failed(SabotLlmRun *run, List *items, const SabotReply *reply,
			const SabotAnswer *answer)
{
	SabotLlmItem *item = linitial(items);

	if (reply->timed_out || answer->error_class == SABOT_LLM_CONNECT)
	{
		/* It may go on with what we do not wait for anymore. */
		run->settle = true;
		run->warm = false;
	}
	if (list_length(items) > 1)
	{
		if (put_back(run, items) > 1)
			sabot_llm_split(run);
		return;
	}
	if (answer->fault == SABOT_FAULT_ITEM &&
		item->attempts + 1 < run->spec->max_attempts)
	{
		sabot_llm_failed(run, item, reply, answer);
		(void) put_back(run, items);
		return;
	}
	sabot_llm_unanswered(run, item, reply, answer, true);
	list_free(items);
}

/*
 * server_failed - a request has failed for no fault of its item: stop the
 * server, or its model, and keep the item
 *
 * Everybody is told why, so nothing of what the server says of the item.
 */
static void
server_failed(SabotLlmRun *run, List *items, const SabotAnswer *answer)
{
	sabot_gate_fault(run->endpoint, run->spec->model, answer->fault,
					 answer->public_error ? answer->public_error :
					 "does not answer",
					 answer->retry_after_s);
	run->stopped = true;
	(void) put_back(run, items);
}

/*
 * note_reply - an item has had a reply, whatever it was: the server works
 */
static void
note_reply(SabotLlmRun *run, const SabotReply *reply)
{
	if (reply->curl_code != 0 || reply->timed_out)
		return;
	run->served = true;
	if (!run->unproven)
		return;
	(void) sabot_gate_good(run->endpoint, run->spec->model, true);
	run->unproven = false;
}

/*
 * land - see to a request that is done
 */
static void
land(SabotLlmRun *run, SabotFlight *flight)
{
	MemoryContext caller = MemoryContextSwitchTo(run->answer_context);
	const SabotReply *reply = sabot_http_reply(flight->http);
	SabotHttp  *http = flight->http;
	List	   *items = flight->items;
	SabotAnswer answer = {0};
	Jsonb	  **values = NULL;

	sabot_permit_note_request(run->endpoint->origin, reply->new_connection);
	run->connections += reply->new_connection;
	if (reply->stale && !flight->resent)
	{
		/* The permit is still ours, and it is no attempt. */
		sabot_http_end(http);
		flight->http = NULL;
		run->nflights--;
		MemoryContextSwitchTo(caller);
		send_items(run, items, true);
		return;
	}
	if (reply->timed_out || (reply->curl_code != 0 && !reply->too_large))
		sabot_permit_suspect(run->endpoint->origin, true);
	sabot_permit_give(run->endpoint->origin);
	sabot_answer_read(run->endpoint, run->spec, reply, list_length(items),
					  &answer);
	run->landing = http;
	flight->http = NULL;
	flight->items = NIL;
	run->nflights--;
	sabot_usage_publish(run);
	run->from_start = false;
	if (answer.fault == SABOT_FAULT_NONE)
		values = values_of(run, list_length(items), &answer);
	if (sabot_refusal_is_items(run, items, reply, &answer))
		answer.fault = SABOT_FAULT_ITEM_FINAL;
	if (answer.fault == SABOT_FAULT_NONE)
	{
		sabot_llm_answered(run, items, reply, &answer, values);
		list_free(items);
	}
	else if (answer.fault == SABOT_FAULT_MODEL ||
			 sabot_fault_is_servers(answer.fault))
		server_failed(run, items, &answer);
	else
		item_failed(run, items, reply, &answer);
	if (!run->stopped)
		note_reply(run, reply);
	run->landing = NULL;
	sabot_http_end(http);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(run->answer_context);
}

/*
 * land_all - see to all requests that are done
 *
 * Those still under way cannot be watched meanwhile, which is not their fault.
 */
static void
land_all(SabotLlmRun *run)
{
	for (int i = 0; i < SABOT_MAX_FLIGHTS && run->nflights > 0; i++)
	{
		TimestampTz begin = GetCurrentTimestamp();

		if (run->flights[i].http == NULL ||
			!sabot_http_is_done(run->flights[i].http))
			continue;
		land(run, &run->flights[i]);
		if (run->nflights > 0)
			sabot_http_extend(GetCurrentTimestamp() - begin);
	}
}

/*
 * give_up_flights - drop all requests that are under way
 *
 * Permits go back whether they were for one of these or for one that was yet
 * to come: what raised an error may have been a probe, or loading the model.
 */
static void
give_up_flights(SabotLlmRun *run)
{
	for (int i = 0; i < SABOT_MAX_FLIGHTS; i++)
	{
		if (run->flights[i].http == NULL)
			continue;
		sabot_http_end(run->flights[i].http);
		run->flights[i].http = NULL;
	}
	run->nflights = 0;
	if (run->landing)
		sabot_http_end(run->landing);
	run->landing = NULL;
	sabot_permit_give_all();
}

/*
 * look_around - what is to be looked at now and then, between two items
 */
static void
look_around(SabotLlmRun *run)
{
	sabot_agent_service_requests();
	/* A trigger of the target may have caught what was meant for us. */
	if (sabot_agent_interrupted() != SABOT_INTERRUPT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to user request")));
	if (sabot_agent_must_leave() || !sabot_enabled ||
		sabot_agent_authority_changed() ||
		run->endpoint_epoch != sabot_endpoint_epoch())
		run->leaving = true;
}

/*
 * look_ahead - look for a job that goes before ours, and for more items
 *
 * In transactions: not while the one request of an endpoint that takes one at
 * a time is under way.
 */
static void
look_ahead(SabotLlmRun *run)
{
	if (run->waiting == NIL && run->more && run->nflights > 0 && !run->leaving)
		(void) fetch_more(run);
	if (!TimestampDifferenceExceeds(run->looked_at, GetCurrentTimestamp(),
									LOOK_AHEAD_MS))
		return;
	if (!run->only_one && sabot_llm_better_job(run->job))
		run->leaving = true;
	run->looked_at = GetCurrentTimestamp();
	sabot_usage_publish(run);
	/* Autovacuum is to hear of a long job before its end. */
	pgstat_report_stat(false);
}

/*
 * is_failing - whether so many items in a row had no answer that the job is
 * to pause
 */
static bool
is_failing(const SabotLlmRun *run)
{
	return (sabot_llm_max_consecutive_failures > 0 &&
			run->unanswered >= sabot_llm_max_consecutive_failures) ||
		(run->only_one && run->unanswered > 0);
}

/*
 * run_items - send items until there are none, or another one's turn has come
 *
 * Returns true if there are none left.
 */
static bool
run_items(SabotLlmRun *run)
{
	run->looked_at = GetCurrentTimestamp();
	for (;;)
	{
		look_around(run);
		if (is_failing(run))
			run->leaving = true;
		if (run->only_one && run->answered)
			sabot_llm_resume(run);
		if (run->nflights == 0 || run->endpoint->max_in_flight > 1)
		{
			sabot_follow_take(run);
			look_ahead(run);
		}
		fill_flights(run);
		if (run->nflights == 0)
		{
			if (run->leaving || run->stopped)
				return false;
			if (run->waiting == NIL && sabot_follow_has_more(run))
				continue;
			if (run->waiting == NIL)
				return true;
		}
		/* Nothing under way: in line, and our latch will be set. */
		sabot_http_wait(NAP_MS);
		CHECK_FOR_INTERRUPTS();
		land_all(run);
	}
}

/*
 * The job that this worker has left last, between two items: every answer of
 * it was given to all who have the same prompt, so that it need not look
 * through them when it has its next turn.  Should another worker have left
 * some behind, they are found when all else is done.
 */
static int64 left_job = 0;

/*
 * run_job - run a job until it is done or is to be left
 */
static void
run_job(SabotLlmRun *run)
{
	bool		done;

	sabot_usage_begin(run);
	if (!sabot_llm_prepare(run))
		return;
	if (run->has_same && (run->careful || left_job != run->job->job_id))
		sabot_llm_reuse(run, 0);
	left_job = 0;
	done = run_items(run);
	if (done && run->has_same)
		sabot_llm_reuse(run, 0);
	if (done && run->follow)
		sabot_follow_rest(run);
	else if (done)
		sabot_llm_complete(run);
	else if (is_failing(run))
		sabot_llm_pause(run);
	else
		sabot_llm_leave(run);
	if (!done)
		left_job = run->job->job_id;
}

/*
 * follow_state - take note of who has paused or resumed the job meanwhile
 *
 * We may have done so ourselves, or have it wait for changes, and its owner can
 * resume one that paused by itself: what is asked for then is not void.
 */
static void
follow_state(SabotLlmRun *run)
{
	const SabotCatalog *cat;
	SabotOwn	own;
	SabotJob   *now;

	sabot_own_start_transaction(&own);
	cat = sabot_catalog(false);
	now = sabot_job_read(run->job->job_id);
	if (now && (now->state == cat->states[SABOT_JOB_QUEUED] ||
				now->state == cat->states[SABOT_JOB_PAUSED] ||
				now->state == cat->states[SABOT_JOB_BLOCKED]))
		run->job->state = now->state;
	sabot_own_commit_transaction(&own);
}

/*
 * ended_badly - what becomes of a job whose worker was interrupted, or that
 * has an error of its own
 */
static void
ended_badly(SabotLlmRun *run, ErrorData *error)
{
	SabotInterrupt interrupt = sabot_agent_interrupted();
	SabotEnd	end = {
		.attempt = run->job->attempt + 1,
		.losses = run->job->losses,
		.atomic = false,
		.started_at = run->started_at,
		.error = error
	};

	follow_state(run);
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		interrupt != SABOT_INTERRUPT_NONE && interrupt != SABOT_INTERRUPT_ADMIN)
	{
		sabot_llm_leave(run);
		sabot_job_set_aside(run->job, interrupt, &end);
	}
	else
		sabot_job_attempt_failed(run->job, &end);
}

/*
 * obey_late_interrupt - act on a request that came while the job was left
 */
static void
obey_late_interrupt(SabotLlmRun *run)
{
	SabotInterrupt interrupt = sabot_agent_interrupted();
	SabotEnd	end = {
		.attempt = run->job->attempt + 1,
		.losses = run->job->losses,
		.started_at = run->started_at
	};

	if (interrupt != SABOT_INTERRUPT_CANCEL &&
		interrupt != SABOT_INTERRUPT_PAUSE)
		return;
	follow_state(run);
	sabot_job_set_aside(run->job, interrupt, &end);
}

/*
 * attempt - run a job, whatever comes of it
 *
 * Returns its error in run->context, or NULL.  No transaction and no request
 * is open afterwards.
 */
static ErrorData *
attempt(SabotLlmRun *run)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		sabot_agent_accept_interrupts(true);
		sabot_run_raise_if_interrupted();
		run_job(run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(run->context);
		error = CopyErrorData();
		disable_all_timeouts(false);
		sabot_agent_accept_interrupts(false);
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	sabot_agent_accept_interrupts(false);
	MemoryContextSwitchTo(run->context);
	give_up_flights(run);
	return error;
}

/*
 * load_job - read the job our worker has taken; NULL if it is not to run
 *
 * Its losses are of this moment's, as finished items forgive them.  What its
 * owner asked for when the worker before us was about to leave is for a prober
 * to find, who is sent for.  *has_begun tells that another worker has had it.
 */
static SabotJob *
load_job(int64 job_id, bool only_one, MemoryContext context,
		 TimestampTz *started_at, bool *has_begun)
{
	const SabotCatalog *cat;
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	SabotOwn	own;
	SabotJob   *job;
	MemoryContext old;

	sabot_own_start_transaction(&own);
	cat = sabot_catalog(false);
	old = MemoryContextSwitchTo(context);
	job = sabot_orphan_exists(job_id) ? NULL : sabot_job_read(job_id);
	MemoryContextSwitchTo(old);
	if (job && (job->owner != GetSessionUserId() || job->home != cat->home ||
				job->state != cat->states[only_one ? SABOT_JOB_PAUSED :
										  SABOT_JOB_QUEUED]))
		job = NULL;
	if (job && sabot_spi("SELECT FROM sabot.job_signal WHERE job_id = $1",
						 1, types, values, NULL, 0) > 0)
	{
		sabot_pool_request_probe(MyDatabaseId);
		job = NULL;
	}
	*started_at = GetCurrentTimestamp();
	*has_begun = job && sabot_spi("SELECT started_at FROM sabot.llm_job"
								  " WHERE job_id = $1 AND started_at IS NOT NULL",
								  1, types, values, NULL, 0) > 0;
	if (*has_begun)
	{
		bool		isnull;

		*started_at = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
														SPI_tuptable->tupdesc, 1, &isnull));
	}
	sabot_own_commit_transaction(&own);
	return job;
}

/*
 * run_loaded - run a job that was read
 */
static void
run_loaded(SabotLlmRun *run)
{
	ErrorData  *error;

	run->careful = run->job->losses > 0;
	run->answer_context = AllocSetContextCreate(run->context,
												"sabot LLM answer",
												ALLOCSET_DEFAULT_SIZES);
	sabot_attempt_begin(run->job, run->job->attempt + 1);
	sabot_pool_note_start(run->started_at);
	sabot_run_report(run->job);
	error = attempt(run);
	if (error)
		ended_badly(run, error);
	else
		obey_late_interrupt(run);
	debug_query_string = NULL;
	sabot_usage_end();
	sabot_attempt_end();
}

/*
 * sabot_llm_run - run the job that our worker has taken, until it is done or
 * is to be left
 *
 * only_one: it paused by itself, and one item is to be tried.  Afterwards the
 * worker has no work and the session is reset.  In no transaction.  Returns
 * false if the job is not to run now after all.
 */
bool
sabot_llm_run(int64 job_id, bool only_one)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "sabot LLM job",
												  ALLOCSET_DEFAULT_SIZES);
	SabotLlmRun *run = MemoryContextAllocZero(context, sizeof(SabotLlmRun));
	bool		has_begun;
	bool		ran;

	run->context = context;
	run->only_one = only_one;
	run->job = load_job(job_id, only_one, context, &run->started_at,
						&has_begun);
	/* What it depends on does not matter once it has begun. */
	if (run->job && run->job->ndepends_on > 0 && !has_begun &&
		!sabot_depend_verify(run->job))
		run->job = NULL;
	MemoryContextSwitchTo(context);
	if (run->job)
		run_loaded(run);
	(void) sabot_pool_end_work();
	if (run->follow)
		sabot_follow_left(job_id);
	sabot_wait_wakeup(job_id);
	ran = run->job != NULL;
	if (ran)
		sabot_agent_reset_session();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return ran;
}
