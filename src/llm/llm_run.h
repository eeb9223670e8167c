/*-------------------------------------------------------------------------
 *
 * llm_run.h
 *		What the files that run LLM jobs in a worker have in common.
 *
 * IDENTIFICATION
 *		src/llm/llm_run.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_RUN_H
#define SABOT_LLM_RUN_H

#include "jobs/jobs.h"
#include "llm/llm.h"

/* Requests that one worker can have open. */
#define SABOT_MAX_FLIGHTS	64

/* An item on its way. */
typedef struct SabotLlmItem
{
	int64		item;
	Jsonb	   *key;			/* or NULL */
	char	   *prompt;
	int			attempts;		/* that have failed so far */
	bool		lost;			/* a worker did not survive it */
	bool		changed;		/* its row has, since it was fetched */
	MemoryContext context;		/* of this and all it points to */
} SabotLlmItem;

/* An item whose prompt has been answered for another one. */
typedef struct SabotLlmSame
{
	SabotLlmItem item;
	char	   *state;			/* of the other one, as all that follows */
	char	   *response;
	Jsonb	   *value;
	SabotErrorClass error_class;
	char	   *error;
	char	   *digest;
	bool		fell_back;		/* to the fallback, written or not */
} SabotLlmSame;

/* Where one is in the order of such items. */
typedef struct SabotSamePlace
{
	int64		same_as;
	int64		item;
} SabotSamePlace;

/* What became of an item. */
typedef struct SabotItemEnd
{
	const char *state;			/* done, fallback, failed or skipped */
	const char *answered_by;	/* model, reuse, fallback, or NULL */
	SabotErrorClass error_class;
	const char *error;			/* or NULL */
	const char *response;		/* or NULL */
	Jsonb	   *value;			/* or NULL */
	int			attempts;
	double		latency_ms;		/* < 0 unknown */
	const SabotAnswer *answer;	/* the server's account, or NULL */
	const char *digest;			/* of the model, or NULL */
} SabotItemEnd;

/* An item and what becomes of it. */
typedef struct SabotEnding
{
	const SabotLlmItem *item;
	Jsonb	   *write;			/* value for the target, or NULL */
	char	   *settled;		/* the row's prompt now, if writing changed it */
	SabotItemEnd end;
	bool		failed_attempt; /* an attempt that failed is to be counted */
	bool		stale;			/* the row has changed: discarded */
	bool		recorded;		/* this is what became of it, by us */
} SabotEnding;

/* What was used for a job: by one worker since it last said so, or in all. */
typedef struct SabotLlmUsage
{
	double		run_ms;
	double		cpu_ms;
	int64		connections;
	int			most_in_flight;
	int64		rss_bytes;
} SabotLlmUsage;

/* A request that is open. */
typedef struct SabotFlight
{
	SabotHttp  *http;			/* NULL = this place is free */
	List	   *items;			/* SabotLlmItem *, of embeddings maybe many */
	TimestampTz started_at;
	bool		resent;			/* on a new connection, the old was stale */
} SabotFlight;

/* A job while a worker has it. */
typedef struct SabotLlmRun
{
	MemoryContext context;		/* lives as long as this */
	MemoryContext answer_context;	/* of one answer */
	SabotJob   *job;
	SabotLlmSpec *spec;
	SabotEndpoint *endpoint;
	uint64		endpoint_epoch; /* when that was read */
	SabotMapping *mapping;		/* or NULL: answers are only kept */
	Jsonb	   *fallback;		/* its value, or NULL */
	char	   *digest;			/* of the model, or NULL */
	TimestampTz started_at;		/* first of all workers */
	TimestampTz looked_at;		/* for a job that goes before this one */
	struct SabotFollow *follow; /* of a job that follows a table, else NULL */

	List	   *waiting;		/* lists of items to send, in order */
	int64		position;		/* last item fetched */
	bool		more;			/* there may be some behind it */
	bool		from_start;		/* nothing was finished since the first item */
	bool		has_same;		/* some items have the same prompt */
	List	   *refused;		/* items that were, private to llm_refusal.c */
	int			ndims;			/* of embeddings, 0 = none seen */

	SabotFlight flights[SABOT_MAX_FLIGHTS];
	int			nflights;
	SabotHttp  *landing;		/* done and being seen to, or NULL */
	bool		looked_up;		/* the server has the model */
	bool		warm;			/* the model was loaded */
	bool		unproven;		/* no item has had a reply since */
	bool		served;			/* some item has had one */
	bool		settle;			/* a request was given up: probe first */
	bool		careful;		/* a worker was lost: note what is written */
	bool		only_one;		/* paused by itself: try one item */
	bool		answered;		/* some item has had an answer */
	bool		leaving;		/* send nothing more */
	bool		stopped;		/* server or model is stopped */
	int			unanswered;		/* items in a row without an answer */

	SabotLlmUsage used;			/* for the job, by all workers, so far ... */
	TimestampTz counted_at;		/* ... when usage was last added */
	int64		cpu_us;			/* this process's at that time */
	int64		connections;	/* since that time */
	int			most_in_flight;
	int64		rss_bytes;
} SabotLlmRun;

/* in llm_item.c: items and their answers in sabot's tables */
extern void sabot_items_use_indexes(void);
extern bool sabot_items_begin(int64 job_id);
extern List *sabot_items_fetch(const SabotLlmSpec *spec, int64 after,
							   int limit, MemoryContext context);
extern List *sabot_items_same(int64 job_id, int64 same_as,
							  SabotSamePlace *place, int limit,
							  MemoryContext context);
extern bool sabot_item_finish(const SabotLlmSpec *spec,
							  const SabotLlmItem *item,
							  const SabotItemEnd *end);
extern void sabot_item_note_failure(const SabotLlmSpec *spec,
									const SabotLlmItem *item,
									SabotErrorClass error_class,
									const char *error, double latency_ms,
									bool lost);
extern void sabot_item_survived(const SabotLlmSpec *spec,
								const SabotLlmItem *item);
extern bool sabot_items_lock_count(int64 job_id, bool wait);
extern int64 sabot_items_recount(const SabotLlmSpec *spec);
extern int64 sabot_items_count(const SabotLlmSpec *spec,
							   SabotLlmUsage *usage);

/* in llm_prepare.c: before the first item */
extern void sabot_llm_begin_as_owner(SabotLlmRun *run);
extern bool sabot_llm_prepare(SabotLlmRun *run);

/* in llm_follow.c: rows that change */
extern struct SabotFollow *sabot_follow_begin(void);
extern void sabot_follow_take(SabotLlmRun *run);
extern bool sabot_follow_has_more(SabotLlmRun *run);
extern List *sabot_follow_drop(List *items);
extern bool sabot_follow_is_stale(SabotLlmRun *run,
								  const SabotLlmItem *item);
extern char *sabot_follow_settled(SabotLlmRun *run,
								  const SabotLlmItem *item);
extern void sabot_follow_rest(SabotLlmRun *run);
extern void sabot_follow_left(int64 job_id);

/* in llm_server.c: probe, load, look up the model */
extern bool sabot_llm_make_ready(SabotLlmRun *run, bool was_stopped);

/* in llm_finish.c: what becomes of items */
extern bool sabot_llm_is_passing(int sqlstate);
extern Jsonb *sabot_llm_value(SabotLlmRun *run, const char *text,
							  char **violation);
extern void sabot_llm_answered(SabotLlmRun *run, List *items,
							   const SabotReply *reply,
							   const SabotAnswer *answer, Jsonb **values);
extern void sabot_llm_unanswered(SabotLlmRun *run, SabotLlmItem *item,
								 const SabotReply *reply,
								 const SabotAnswer *answer,
								 bool failed_attempt);
extern void sabot_llm_failed(SabotLlmRun *run, SabotLlmItem *item,
							 const SabotReply *reply,
							 const SabotAnswer *answer);
extern void sabot_llm_finish(SabotLlmRun *run, SabotEnding *endings, int n);
extern void sabot_llm_note_careful(SabotLlmRun *run,
								   const SabotEnding *endings, int n);

/* in llm_same.c: items with the same prompt as another one */
extern void sabot_llm_reuse(SabotLlmRun *run, int64 same_as);

/* in llm_refusal.c: items that a server refuses */
extern void sabot_refusals_read(SabotLlmRun *run);
extern bool sabot_refusal_is_doubtful(const SabotLlmRun *run,
									  const List *items);
extern bool sabot_refusal_let_others_first(SabotLlmRun *run);
extern bool sabot_refusal_is_items(SabotLlmRun *run, const List *items,
								   const SabotReply *reply,
								   const SabotAnswer *answer);

/* in llm_usage.c: what a worker uses */
extern void sabot_usage_begin(SabotLlmRun *run);
extern void sabot_usage_publish(SabotLlmRun *run);
extern void sabot_usage_end(void);
extern int64 sabot_usage_count(SabotLlmRun *run, bool wait);
extern bool sabot_usage_is_due(const SabotLlmRun *run);

/* in llm_leave.c: how a worker is done with a job */
extern void sabot_llm_complete(SabotLlmRun *run);
extern void sabot_llm_leave(SabotLlmRun *run);
extern void sabot_llm_pause(SabotLlmRun *run);
extern void sabot_llm_resume(SabotLlmRun *run);

/* in llm_run.c */
extern void sabot_llm_split(SabotLlmRun *run);
extern bool sabot_llm_run(int64 job_id, bool only_one);

/* in llm_worker.c */
extern bool sabot_llm_better_job(const SabotJob *job);

#endif							/* SABOT_LLM_RUN_H */
