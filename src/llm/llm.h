/*-------------------------------------------------------------------------
 *
 * llm.h
 *		The LLM lane: prompts over the rows of a query, sent to a model server
 *		one at a time, answers written into tables.
 *
 * IDENTIFICATION
 *		src/llm/llm.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_H
#define SABOT_LLM_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"



/* Where the endpoint "default" is, unless it has a row. */
#define SABOT_DEFAULT_URL	"http://127.0.0.1:11434"

#define SABOT_LLM_KIND		"llm"
#define SABOT_EMBEDDING_KIND "embedding"

/* "scheme://host:port", the identity of a server. */
#define SABOT_ORIGIN_LEN	272
#define SABOT_MODEL_LEN		128
#define SABOT_FAULT_LEN		160

typedef enum SabotLlmApi
{
	SABOT_API_OLLAMA,
	SABOT_API_OPENAI
} SabotLlmApi;

/* A row of sabot.llm_endpoint, with its secret. */
typedef struct SabotEndpoint
{
	char	   *name;
	char	   *url;			/* without trailing slash */
	char	   *origin;			/* scheme, host and port of url */
	SabotLlmApi api;
	int			max_in_flight;
	char	   *secret;			/* bearer token, or NULL */
} SabotEndpoint;

/* A row of sabot.llm_job: what a job asks for, constant for all its items. */
typedef struct SabotLlmSpec
{
	int64		job_id;
	bool		embedding;
	char	   *source;
	char	   *prompt;			/* the template */
	char	   *system;			/* or NULL */
	char	   *model;
	Jsonb	   *format;			/* JSON schema, or NULL */
	Jsonb	   *options;		/* a JSON object, or NULL */
	char	   *target;			/* qualified and quoted name, or NULL */
	List	   *key;			/* names of columns, char * */
	char	   *output;			/* as given, or NULL */
	char	   *fallback;		/* as given, or NULL */
	char	   *endpoint;
	int64		timeout_ms;
	int			max_attempts;
	int			batch_size;		/* 1 unless embedding */
	bool		reuse;
	bool		follow;			/* keep going with rows that change */
	int64		total;			/* items, -1 until the source was read */
} SabotLlmSpec;

/* Why an attempt, or an item, has no answer; labels in llm_answer.c. */
typedef enum SabotErrorClass
{
	SABOT_LLM_OK,
	SABOT_LLM_TIMEOUT,
	SABOT_LLM_CONNECT,
	SABOT_LLM_HTTP_4XX,
	SABOT_LLM_HTTP_5XX,
	SABOT_LLM_TRUNCATED,
	SABOT_LLM_BAD_OUTPUT,
	SABOT_LLM_BAD_ENCODING,
	SABOT_LLM_TOO_LARGE,
	SABOT_LLM_INCOMPLETE,
	SABOT_LLM_WRITE_FAILED,
	SABOT_LLM_CANCELED,
	SABOT_LLM_NCLASSES
} SabotErrorClass;

/* Whose fault it is: that decides what is charged and what goes on. */
typedef enum SabotFault
{
	SABOT_FAULT_NONE,
	SABOT_FAULT_ITEM,			/* tried again until max_attempts */
	SABOT_FAULT_ITEM_FINAL,		/* would only come again */
	SABOT_FAULT_MODEL,			/* of this model on this server */
	SABOT_FAULT_ACCESS,			/* of the endpoint: its token is refused */
	SABOT_FAULT_ENDPOINT		/* of the server, whoever asks */
} SabotFault;

/* What came back for one request; strings live as long as the request. */
typedef struct SabotReply
{
	int			curl_code;		/* a CURLcode, 0 if an answer was received */
	int			status;			/* HTTP status, 0 if none was received */
	const char *content_type;	/* or NULL */
	const char *body;			/* NUL-terminated, may contain more NULs */
	size_t		len;
	bool		too_large;		/* cut off: longer than allowed */
	bool		timed_out;		/* the deadline passed */
	bool		sent;			/* a connection was made, the request written */
	bool		stale;			/* kept connection ended before any answer */
	bool		new_connection; /* it was opened for this request */
	int			retry_after_s;	/* Retry-After, 0 if none */
	int64		latency_us;
	char		error[SABOT_FAULT_LEN]; /* libcurl's words, "" if none */
} SabotReply;

/* What a reply means. */
typedef struct SabotAnswer
{
	SabotErrorClass error_class;
	SabotFault	fault;
	char	   *error;			/* message, NULL if there is none */
	char	   *public_error;	/* the same without the server's own words */
	char	   *text;			/* the model's words, kept even if rejected */
	int			nvectors;		/* embeddings: as many as inputs */
	int			ndims;
	float4	   *vectors;		/* nvectors * ndims */
	int			retry_after_s;
	double		load_ms;		/* the server's own account, < 0 unknown */
	double		queue_ms;
	int			prompt_tokens;	/* < 0 unknown */
	int			output_tokens;
	double		output_ms;		/* time spent generating, < 0 unknown */
} SabotAnswer;

/* in llm_endpoint.c: the registry */
extern SabotEndpoint *sabot_endpoint_read(const char *name, Oid role);
extern char *sabot_url_origin(const char *url);
extern uint64 sabot_endpoint_epoch(void);

/* in llm_permit.c: permits to use servers, in shared memory */
typedef enum SabotGate
{
	SABOT_GATE_OPEN,			/* the permit is ours */
	SABOT_GATE_PROBE,			/* it is, but the server must be probed first */
	SABOT_GATE_BUSY,			/* we stand in line; our latch will be set */
	SABOT_GATE_CLOSED			/* stopped until *next_probe */
} SabotGate;

/* A server as others see it. */
typedef struct SabotServerState
{
	char		origin[SABOT_ORIGIN_LEN];
	int			in_flight;
	int			most_in_flight;
	int			limit;			/* smallest in use, 0 if none is */
	int			in_line;		/* processes waiting for a permit */
	bool		suspect;		/* to be probed before the next request */
	TimestampTz next_probe;		/* 0 if it is not stopped */
	int			faults;			/* in a row */
	char		error[SABOT_FAULT_LEN];
	int64		requests;
	int64		connections;
} SabotServerState;

extern Size sabot_permit_shmem_size(void);
extern void sabot_permit_shmem_init(void);
extern SabotGate sabot_permit_take(const SabotEndpoint *endpoint,
								   const char *model, bool wait,
								   TimestampTz *next_probe);
extern void sabot_permit_give(const char *origin);
extern void sabot_permit_give_all(void);
extern void sabot_permit_leave_line(void);
extern void sabot_permit_suspect(const char *origin, bool suspect);
extern void sabot_permit_free_dead(void);
extern void sabot_permit_note_request(const char *origin,
									  bool new_connection);
extern bool sabot_server_state(const SabotEndpoint *endpoint,
							   SabotServerState *state);

/* in llm_gate.c: breakers, in shared memory */
extern void sabot_gate_fault(const SabotEndpoint *endpoint, const char *model,
							 SabotFault fault, const char *error,
							 int retry_after_s);
extern bool sabot_gate_good(const SabotEndpoint *endpoint, const char *model,
							bool for_item);
extern bool sabot_gate_is_closed(const SabotEndpoint *endpoint,
								 const char *model, TimestampTz *next_probe,
								 char *error);
extern bool sabot_gate_forget(void);
extern int	sabot_gate_copy(const char *origin,
							char (**models)[SABOT_MODEL_LEN]);

/* Items under way that are named; more are only counted. */
#define SABOT_SHOWN_ITEMS	64

/*
 * What a worker publishes of the job it runs, for the views.  run_ms, cpu_ms
 * and connections are the job's, by all workers, and at least what its
 * counters say: who reads both takes the larger one.
 */
typedef struct SabotLlmActivity
{
	int64		job_id;			/* 0 = none */
	Oid			dbid;
	Oid			roleid;			/* the job's owner */
	int			running;		/* items whose requests are open now */
	int			nitems;			/* of these, in items */
	int64		items[SABOT_SHOWN_ITEMS];
	int			most_in_flight;
	TimestampTz oldest_start;	/* of the oldest open request, 0 if none */
	TimestampTz counted_at;		/* run_ms goes on from here */
	double		run_ms;
	double		cpu_ms;
	int64		connections;
	int64		rss_bytes;
} SabotLlmActivity;

extern void sabot_activity_set(const SabotLlmActivity *activity);
extern int	sabot_activity_copy(SabotLlmActivity **activities);

/* in llm_http.c: requests over libcurl, waited for together with the latch */
typedef struct SabotHttp SabotHttp;

extern SabotHttp *sabot_http_start(const SabotEndpoint *endpoint,
								   const char *path, const char *body,
								   int64 timeout_ms, size_t max_response);
extern void sabot_http_wait(long timeout_ms);
extern bool sabot_http_is_done(const SabotHttp *http);
extern const SabotReply *sabot_http_reply(const SabotHttp *http);
extern void sabot_http_extend(int64 stalled_us);
extern void sabot_http_end(SabotHttp *http);
extern void sabot_http_forget_connections(void);
extern const SabotReply *sabot_http_get(const SabotEndpoint *endpoint,
										const char *path, const char *body,
										int64 timeout_ms, SabotHttp **http);

/* in llm_request.c: paths and bodies, by api */
extern const char *sabot_request_path(const SabotEndpoint *endpoint,
									  const SabotLlmSpec *spec);
extern char *sabot_request_body(const SabotEndpoint *endpoint,
								const SabotLlmSpec *spec,
								const char *const *prompts, int nprompts);
extern bool sabot_request_load(const SabotEndpoint *endpoint,
							   const SabotLlmSpec *spec, const char **path,
							   char **body);
extern const char *sabot_request_probe_path(const SabotEndpoint *endpoint);
extern const char *sabot_request_models_path(const SabotEndpoint *endpoint);

/* in llm_answer.c: what replies mean */
extern const char *sabot_error_class_label(SabotErrorClass error_class);
extern bool sabot_error_class_find(const char *label,
								   SabotErrorClass *error_class);
extern bool sabot_fault_is_servers(SabotFault fault);
extern void sabot_answer_read(const SabotEndpoint *endpoint,
							  const SabotLlmSpec *spec,
							  const SabotReply *reply, int nprompts,
							  SabotAnswer *answer);
extern void sabot_answer_read_load(const SabotEndpoint *endpoint,
								   const SabotLlmSpec *spec,
								   const SabotReply *reply,
								   SabotAnswer *answer);
extern void sabot_answer_read_probe(const SabotEndpoint *endpoint,
									const SabotReply *reply,
									SabotAnswer *answer);
extern List *sabot_answer_read_models(const SabotEndpoint *endpoint,
									  const SabotReply *reply,
									  const char *model, char **digest,
									  SabotAnswer *answer);
extern char *sabot_answer_read_version(const SabotReply *reply);

/* in llm_template.c: prompts with {column} */
typedef struct SabotTemplate SabotTemplate;

extern SabotTemplate *sabot_template_parse(const char *text,
										   TupleDesc columns);
extern char *sabot_template_render(const SabotTemplate *template,
								   HeapTuple row, TupleDesc columns,
								   bool *all_null);

/* in llm_schema.c: the part of JSON Schema that matters here */
extern void sabot_schema_check(Jsonb *schema);
extern char *sabot_schema_violation(Jsonb *schema, Jsonb *value);

/* in llm_mapping.c: from an answer to the columns of the target */
typedef struct SabotMapping SabotMapping;

extern SabotMapping *sabot_mapping_create(const SabotLlmSpec *spec);
extern List *sabot_mapping_default_key(Oid target);
extern Jsonb *sabot_mapping_schema(const SabotMapping *mapping);
extern Jsonb *sabot_mapping_value(const SabotMapping *mapping,
								  const SabotLlmSpec *spec,
								  const char *answer, char **violation);
extern Jsonb *sabot_mapping_vector(const float4 *vector, int ndims);
extern uint64 sabot_mapping_write(const SabotMapping *mapping,
								  const SabotLlmSpec *spec, Jsonb *key,
								  Jsonb *value);

/* in llm_source.c: the query whose rows are items */
extern struct Query *sabot_source_query(const char *source);
extern TupleDesc sabot_source_columns(const char *source);
extern void sabot_source_check_key(const SabotLlmSpec *spec,
								   TupleDesc columns);
extern int64 sabot_source_read(const SabotLlmSpec *spec);

/* in llm_follow_submit.c: whether the rows of a source can be followed */
extern Oid	sabot_follow_source(SabotLlmSpec *spec);

/* in llm_spec.c: rows of sabot.llm_job */
extern SabotLlmSpec *sabot_spec_read(int64 job_id, MemoryContext context);
extern void sabot_spec_insert(const SabotLlmSpec *spec);

/* in llm_worker.c */
extern const struct SabotWorkSource *sabot_llm_work_source(void);

/* in llm_kind.c: what the room below asks about jobs of the lane */
extern void sabot_llm_register(void);

#endif							/* SABOT_LLM_H */
