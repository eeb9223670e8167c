/*-------------------------------------------------------------------------
 *
 * jobs.h
 *		Durable jobs: SQL commands that agents of the pool run exactly once.
 *
 * IDENTIFICATION
 *		src/jobs/jobs.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOBS_H
#define SABOT_JOBS_H

#include "access/htup.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "pool/pool.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/queryenvironment.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

/* Limits of what is kept of a job; more is counted but not kept. */
#define SABOT_MAX_KEPT_NOTICES		100
#define SABOT_MAX_NOTICE_BYTES		(64 * 1024)
#define SABOT_MAX_KEPT_BYTES		(16 * 1024 * 1024)

/* Attempts after class 40 and 55P03 errors that are not counted. */
#define SABOT_MAX_FREE_RETRIES		10

/*
 * The queue of the jobs that workers of the LLM crew run; the room above
 * submits to it, and nobody else.
 */
#define SABOT_LLM_QUEUE				"llm"

/* A longer timeout is none, in ms: a thousand years, which cannot overflow. */
#define SABOT_FOREVER_MS	(INT64CONST(1000) * 365 * SECS_PER_DAY * 1000)

#define SABOT_MIN_PRIORITY			(-1000)
#define SABOT_MAX_PRIORITY			1000

/*
 * An open job as an agent needs it: a copy of its row in sabot.job, in the
 * memory context that was current when it was read.
 */
typedef struct SabotJob
{
	int64		job_id;
	int64		parent_id;		/* 0 if none */
	bool		is_graph;		/* its children end it: graph or spread */
	bool		is_spread;		/* over a table */
	bool		is_piece;		/* of one that is spread */
	bool		is_schedule;
	bool		is_stream;
	Oid			owner;
	char	   *owner_name;
	char	   *name;			/* or NULL */
	char	   *queue;
	int			priority;
	Oid			state;			/* one of SabotCatalog.states */
	int			attempt;		/* attempts counted so far */
	int			max_attempts;
	int			losses;			/* agents lost under it so far */
	int			free_retries;	/* uncounted retries so far */
	bool		has_atomic;		/* atomic was asked for or found out */
	bool		atomic;			/* valid if has_atomic */
	char	   *command;
	Jsonb	   *params;			/* a JSON array, or NULL */
	ArrayType  *settings;		/* text[]: name, value, name, value, ... */
	int64		timeout_ms;		/* of one attempt, 0 = none */
	TimestampTz deadline;		/* of its graph, 0 = none or not looked for */
	int64		retry_delay_ms;
	int			keep_rows;
	char	   *notify;			/* channel, or NULL */
	TimestampTz submitted_at;
	TimestampTz run_after;		/* 0 if none */
	TimestampTz started_at;		/* of an attempt outside a transaction block
								 * that has begun and not ended, else 0 */
	int64		home;			/* identity of the database it belongs to */
	int64	   *depends_on;		/* ids in ascending order */
	int			ndepends_on;
	char	   *on_failure;		/* what a task's failure means, or NULL */
	char	   *reason;			/* why it is paused; of a queued one, see
								 * sabot_depend_make_ready(); or NULL */
	char	   *sqlstate;		/* of the last attempt, or of what makes a */
	char	   *error;			/* graph fail; each may be NULL */
	TransactionId version;		/* transaction that wrote the row as it is */
	struct SabotPiece *piece;	/* what it is restricted to, in its attempt */
} SabotJob;

/*
 * What a command said, filled by sabot_job_execute() in the memory context
 * given there; on error everything up to the error is there.
 */
typedef struct SabotOutcome
{
	MemoryContext context;		/* holds everything below */
	char	   *command_tag;	/* of the last statement, or NULL */
	int64		row_count;		/* of the last statement that has one */
	bool		has_row_count;
	int			keep_rows;		/* rows to keep of the last row set */
	int			nrows;			/* rows kept */
	Jsonb	  **rows;			/* each row as a JSON object */
	int64		kept_bytes;
	bool		rows_returned;	/* some statement returned rows */
	List	   *notices;		/* char *, "NOTICE:  ..." */
	int64		nnotices;		/* how many there were, kept or not */
	int64		notice_bytes;
	int			statement;		/* number, from 1, of the last one begun */
	int			statement_location; /* its byte offset in the command */
	int			statement_len;	/* its length, 0 = to the end */
	bool		in_statement;	/* it has begun and not ended */
} SabotOutcome;

/* How sabot_job_execute() runs the statements of a command. */
typedef enum SabotExecMode
{
	SABOT_EXEC_ATOMIC,			/* all inside the caller's transaction block */
	SABOT_EXEC_SINGLY			/* each in a transaction of its own */
} SabotExecMode;

/*
 * Receives each row of the command's result, already converted to a JSON
 * object in short-lived memory; used by sabot.run to send rows on.
 */
typedef void (*SabotRowConsumer) (Jsonb *row, void *arg);

/* in job_execute.c */
extern List *sabot_job_parse(const char *command);
extern void sabot_job_check_statements(const char *command,
									   List *raw_statements);
extern bool sabot_job_needs_singly(List *raw_statements);
extern void sabot_job_execute(const char *command, List *raw_statements,
							  Jsonb *params, const struct SabotPiece *piece,
							  SabotExecMode mode, SabotOutcome *outcome,
							  QueryEnvironment *env,
							  SabotRowConsumer consumer, void *consumer_arg);

/* in job_params.c */
typedef struct SabotParams SabotParams;
extern int	sabot_params_highest(const char *command);
extern void sabot_params_check(int highest, Jsonb *params);
extern SabotParams *sabot_params_create(const char *command,
										List *raw_statements, Jsonb *params);
extern Query *sabot_params_analyze(SabotParams *params, RawStmt *stmt,
								   const char *source,
								   QueryEnvironment *env);
extern struct ParamListInfoData *sabot_params_list(SabotParams *params);

/* in job_capture.c */
extern SabotOutcome *sabot_outcome_create(MemoryContext context,
										  int keep_rows);
extern struct _DestReceiver *sabot_capture_receiver(SabotOutcome *outcome,
													SabotRowConsumer consumer,
													void *consumer_arg);
extern void sabot_capture_notices_begin(SabotOutcome *outcome);
extern void sabot_capture_notices_end(void);

/* The values of sabot.job_state that are stored, in the order of labels. */
typedef enum SabotJobState
{
	SABOT_JOB_SCHEDULED,
	SABOT_JOB_BLOCKED,
	SABOT_JOB_QUEUED,
	SABOT_JOB_RUNNING,
	SABOT_JOB_PAUSED,
	SABOT_JOB_COMPLETED,
	SABOT_JOB_FAILED,
	SABOT_JOB_CANCELED,
	SABOT_JOB_SKIPPED,
	SABOT_JOB_NSTATES
} SabotJobState;

/* in job_catalog.c */
typedef struct SabotCatalog
{
	Oid			schema;
	Oid			extension;
	Oid			owner;			/* of the extension's tables */
	Oid			job;			/* sabot.job ... */
	Oid			job_pkey;
	Oid			job_parent;		/* its index on parent_id */
	Oid			dependency;		/* sabot.job_dependency and its index */
	Oid			dependency_pkey;
	Oid			history;
	Oid			sequence;		/* of job ids */
	int64		home;			/* identity of this database's jobs */
	Oid			states[SABOT_JOB_NSTATES];	/* enum values' OIDs */
} SabotCatalog;

/* State saved by sabot_own_begin(), for its end. */
typedef struct SabotOwn
{
	Oid			userid;
	int			sec_context;
	int			guc_level;
	MemoryContext context;		/* outside of sabot's own transaction */
} SabotOwn;

extern const SabotCatalog *sabot_catalog(bool missing_ok);
extern const char *sabot_state_label(SabotJobState state);
extern void sabot_own_begin(SabotOwn *own);
extern void sabot_own_end(SabotOwn *own);
extern void sabot_own_start_transaction(SabotOwn *own);
extern void sabot_own_commit_transaction(SabotOwn *own);
extern void sabot_own_commit_locally(SabotOwn *own);
extern int	sabot_spi(const char *sql, int nargs, const Oid *types,
					  Datum *values, const char *nulls, int64 limit);
extern int	sabot_spi_generic(const char *sql, int nargs, const Oid *types,
							  Datum *values, const char *nulls, int64 limit);

/* How a job ended, for sabot_job_finish(). */
typedef struct SabotEnd
{
	SabotJobState state;
	int			attempt;		/* what the row counts from now on */
	int			losses;
	bool		atomic;			/* how the last attempt ran, if any did */
	TimestampTz started_at;		/* of the last attempt, 0 if none ran */
	int			pid;			/* its process, 0 if it is ours */
	const char *reason;			/* or NULL */
	const SabotOutcome *outcome;	/* or NULL */
	const ErrorData *error;		/* or NULL */
} SabotEnd;

/* in job_table.c */
extern SabotJob *sabot_job_read_row(int64 job_id, HeapTuple *row);
extern SabotJob *sabot_job_read(int64 job_id);
extern void sabot_job_insert_row(Oid table, const Datum *values,
								 const bool *isnull);
extern bool sabot_job_move(const SabotJob *job, const SabotEnd *end);
extern bool sabot_job_finish(const SabotJob *job, const SabotEnd *end);
extern void sabot_job_record_child(const SabotJob *job, const SabotEnd *end,
								   const char *kind);
extern void sabot_job_notify(const SabotJob *job, SabotJobState state);
extern int64 sabot_interval_ms(const Interval *interval);
extern Datum sabot_job_ids(const int64 *ids, int n);
extern int	sabot_compare_job_ids(const void *a, const void *b);
extern bool sabot_kind_is(Datum kind, const char *name);

/* in job_settings.c */
extern ArrayType *sabot_settings_capture(void);
extern void sabot_settings_apply(ArrayType *settings);

/* A job that is ready to run, as the queue in shared memory holds it. */
typedef struct SabotReady
{
	int64		job_id;
	int32		priority;
	TimestampTz submitted_at;	/* 0 if unknown: not profiled */
	TimestampTz pushed_at;
} SabotReady;

typedef enum SabotClaim
{
	SABOT_CLAIM_NONE,			/* nothing that could run now */
	SABOT_CLAIM_REFILL,			/* there is more in the table: load it */
	SABOT_CLAIM_TAKEN			/* the job is this agent's work now */
} SabotClaim;

/* in job_ready.c */
extern Size sabot_ready_shmem_size(void);
extern void sabot_ready_shmem_init(void);
extern void sabot_ready_join(void);
extern void sabot_ready_has_read(void);
extern bool sabot_ready_is_held(void);
extern void sabot_ready_distrust(Oid dbid, Oid roleid);
extern void sabot_ready_leave(bool interrupted);
extern void sabot_ready_push(Oid dbid, Oid roleid, const char *queue,
							 const SabotReady *entry);
extern SabotClaim sabot_ready_claim(SabotReady *entry, char *queue);
extern int	sabot_ready_begin_fill(const char *queue, int32 *priority,
								   int64 *job_id);
extern void sabot_ready_end_fill(const char *queue, bool more, int32 priority,
								 int64 job_id);
extern bool sabot_ready_lane_to_fill(char *queue);
extern ArrayType *sabot_ready_stocked(void);

/* What the room above adds to jobs of its queue, and to grant_usage(). */
typedef struct SabotJobExtra
{
	char	   *(*wait_reason) (int64 job_id);	/* or NULL, in a transaction */
	void		(*forget) (Datum job_ids);	/* bigint[]: they were purged */
	const char *views;			/* for GRANT: names with commas between */
	const char *routines;
} SabotJobExtra;

/* in job_kind.c: which crew runs a job, and what it knows of it */
extern SabotCrew sabot_queue_crew(const char *queue);
extern SabotPairKey sabot_job_pair(Oid owner, const char *queue);
extern void sabot_job_set_extra(const SabotJobExtra *extra);
extern const SabotJobExtra *sabot_job_extra(void);
extern void sabot_job_set_kind(SabotJob *job, Datum kind);
extern void sabot_job_note_units(int64 job_id, int64 total, int64 done,
								 int64 failed);

/* in job_status.c */
extern bool sabot_sees_all_jobs(void);

/* in job_queue.c: pause and limits of queues, in shared memory */
extern Size sabot_queue_shmem_size(void);
extern void sabot_queue_shmem_init(LWLock *lock);
extern uint64 sabot_queue_tag(const char *queue);
extern bool sabot_queue_blocked_locked(Oid dbid, const char *queue);
extern bool sabot_queue_is_blocked(const char *queue);
extern bool sabot_queue_is_limited(Oid dbid, const char *queue);
extern int	sabot_queue_room_locked(Oid dbid, const char *queue);
extern void sabot_queue_load(void);
extern void sabot_queue_refresh(void);
extern void sabot_queue_changed(const char *queue, bool paused,
								int max_running);
extern void sabot_check_queue_name(const char *queue);

/* in job_scan.c */
extern Size sabot_scan_shmem_size(void);
extern void sabot_scan_shmem_init(LWLock *lock);
extern void sabot_scan_join(void);
extern void sabot_scan_leave(void);
extern void sabot_scan_request(Oid dbid, Oid roleid);
extern bool sabot_scan_is_due(void);
extern bool sabot_scan_is_requested(void);
extern TimestampTz sabot_scan_begin(void);
extern void sabot_scan_end(TimestampTz began_at);

/* in job_refill.c */
extern void sabot_refill_lane(const char *queue);
extern void sabot_refill(void);
extern TimestampTz sabot_refill_next_due(Oid owner, TimestampTz since);
extern bool sabot_refill_is_due(void);
extern bool sabot_refill_is_overdue(void);

/* in job_attempt.c */
typedef struct SabotOrphan
{
	Oid			dbid;
	int32		attempt;
	int64		job_id;
	int32		pid;
	TransactionId version;		/* of the row when the attempt began */
	int			sqlstate;
	TimestampTz started_at;
	char		error[SABOT_ERROR_LEN];
} SabotOrphan;

extern Size sabot_orphan_shmem_size(void);
extern void sabot_orphan_shmem_init(void);
extern void sabot_attempt_startup(void);
extern void sabot_attempt_begin(const SabotJob *job, int attempt);
extern void sabot_attempt_renew(SabotJob *job);
extern void sabot_attempt_end(void);
extern void sabot_attempt_bury(int slotno, const SabotSlot *slot);
extern int	sabot_orphan_copy(SabotOrphan **orphans);
extern bool sabot_orphan_exists(int64 job_id);
extern void sabot_orphan_done(const SabotOrphan *orphan);

/* in job_agent.c */
extern const SabotWorkSource *sabot_jobs_work_source(void);

/* in job_run.c */
extern void sabot_job_run(const SabotReady *entry, const char *queue);
extern bool sabot_run_give_back(void);

/* in job_fail.c */
extern void sabot_job_attempt_failed(const SabotJob *job, SabotEnd *end);
extern void sabot_job_set_aside(const SabotJob *job, SabotInterrupt reason,
								SabotEnd *end);
extern bool sabot_job_give_back(int64 job_id, int attempt);
extern bool sabot_job_lost(const SabotOrphan *orphan);

/* in job_recover.c */
extern void sabot_jobs_probe(void);
extern bool sabot_jobs_probing(void);
extern void sabot_probe_go_on(void);
extern void sabot_jobs_probe_owner(Oid owner, SabotCrew crew);

/* in job_counter.c */
extern Size sabot_counter_shmem_size(void);
extern void sabot_counter_shmem_init(void);
extern void sabot_count_finished(SabotJobState state, int n);
extern void sabot_count_retry(void);
extern void sabot_count_end(bool committed);

/* in job_purge.c */
extern void sabot_purge_if_due(void);

/* in job_pending.c: what takes effect at commit */
extern void sabot_jobs_install_hooks(void);
extern void sabot_pending_submit(int64 job_id, int32 priority,
								 const char *queue, Oid owner,
								 TimestampTz run_after,
								 TimestampTz submitted_at);
extern void sabot_pending_interrupt(int64 job_id, SabotInterrupt reason);
extern void sabot_pending_queue(const char *queue, bool paused,
								int max_running);
extern void sabot_pending_settle(int64 job_id);
extern void sabot_pending_signal(int64 job_id, SabotInterrupt reason);
extern void sabot_pending_resume(int64 job_id);
extern void sabot_pending_take_back(int64 job_id);
extern void sabot_pending_wakeup(int64 job_id);
extern void sabot_pending_call(int64 job_id,
							   void (*apply) (int64 job_id, void *arg),
							   void *arg);
extern bool sabot_submit_is_pending(int64 job_id);
extern bool sabot_pause_is_pending(int64 job_id);

/* in job_depend.c: jobs that wait for jobs */
typedef struct SabotSettling SabotSettling;
extern SabotSettling *sabot_depend_begin(void);
extern void sabot_depend_add(SabotSettling *s, const SabotJob *job,
							 const SabotEnd *end);
extern void sabot_depend_finish(SabotSettling *s);
extern bool sabot_depend_ended(const SabotJob *job, const SabotEnd *end);
extern bool sabot_depend_is_awaited(const SabotJob *job);
extern void sabot_depend_settle_graph(int64 graph_id);

/* in job_depend_wait.c */
extern bool sabot_depend_is_met(const SabotJob *job);
extern bool sabot_depend_verify(const SabotJob *job);
extern void sabot_depend_settle(int64 job_id, bool can_lock);
extern bool sabot_depend_hold_task(const SabotJob *graph, bool patient);

/* in job_graph_control.c */
extern void sabot_graph_run(const SabotJob *graph);
extern bool sabot_graph_interrupt(int64 job_id, SabotInterrupt reason,
								  bool runs);
extern TimestampTz sabot_graph_deadline(int64 graph_id);
extern void sabot_graph_out_of_time(int64 graph_id);
extern bool sabot_graph_is_running(int64 job_id);
extern void sabot_job_resume_waiting(int64 job_id);
extern bool sabot_graph_requeue(int64 job_id);

/* in job_schedule.c, job_schedule_submit.c */
extern void sabot_schedule_run(const SabotJob *job);
extern bool sabot_schedule_interrupt(int64 job_id, SabotInterrupt reason);
extern bool sabot_schedule_resume(int64 job_id);
extern bool sabot_schedule_requeue(int64 job_id);
extern Datum sabot_schedule_copied_names(void);
extern int	sabot_spi_latest(const char *sql, int nargs, const Oid *types,
							 Datum *values);
extern int	sabot_spi_change_latest(const char *sql, int nargs,
									const Oid *types, Datum *values,
									const char *nulls);

/*
 * in job_stream.c and job_stream_fail.c: rows of a table, batch by batch; what
 * is of use to other jobs that want to know them is in job_stream.h
 */
struct SabotBatch;
extern bool sabot_stream_is_runnable(const SabotJob *job);
extern bool sabot_stream_prepare(const SabotJob *job);
extern bool sabot_stream_is_ready(int64 job_id);
extern bool sabot_stream_waits(int64 job_id);
extern struct SabotBatch *sabot_stream_take(const SabotJob *job);
extern QueryEnvironment *sabot_batch_env(const struct SabotBatch *batch);
extern bool sabot_stream_finish(const SabotJob *job,
								const struct SabotBatch *batch,
								const SabotEnd *end);
extern bool sabot_stream_is_there(int64 job_id);
extern void sabot_stream_trim(int64 job_id);
extern void sabot_stream_ended(int64 job_id);
extern void sabot_stream_refuse_retry(int64 job_id, bool is_stream);
extern bool sabot_stream_is_cut(int64 job_id);
extern void sabot_stream_give_up(const SabotJob *job, const SabotEnd *end);

/* in job_stream_wake.c */
extern Size sabot_stream_shmem_size(void);
extern void sabot_stream_shmem_init(void);

/* in job_stream_scan.c: streams that have rows and were not woken */
extern void sabot_stream_refill(void);
extern List *sabot_stream_probe(MemoryContext context);

/* in job_spread.c, job_spread_end.c: jobs that are spread over a table */
extern struct SabotPiece *sabot_piece_read(const SabotJob *job);
extern bool sabot_spread_is_planned(int64 job_id);
extern bool sabot_spread_plan(const SabotJob *job);
extern void sabot_spread_refill(void);
extern void sabot_spread_refuse_retry(int64 job_id);
extern void sabot_spread_go_on(Relation rel, const SabotJob *ended);
extern SabotOutcome *sabot_spread_outcome(const SabotJob *job,
										  char **done);

/* in job_spread_hold.c: one snapshot for all pieces of a job */
extern Size sabot_hold_shmem_size(void);
extern void sabot_hold_shmem_init(void);
extern void sabot_hold_import(int64 job_id);

/* in job_wait.c */
extern Size sabot_wait_shmem_size(void);
extern void sabot_wait_shmem_init(void);
extern void sabot_wait_wakeup(int64 job_id);

/* in job_direct_request.c, job_direct_agent.c: sabot.run */
extern Size sabot_direct_shmem_size(void);
extern void sabot_direct_shmem_init(void);
extern bool sabot_direct_is_waiting(Oid dbid, Oid roleid);
extern bool sabot_direct_run_next(void);

/* A job as sabot_job_of_caller() finds it. */
typedef struct SabotFoundJob
{
	bool		open;			/* in sabot.job, not in history */
	bool		is_graph;		/* or spread */
	bool		is_schedule;
	bool		is_stream;
	bool		is_piece;
	bool		captures;		/* rows of a table, or has done so */
	bool		waits;			/* it depends on others */
	int64		graph_id;		/* whose child it is, 0 = none */
	bool		is_run;			/* of a schedule, and no task */
	bool		paused_by_owner;	/* and not by itself */
	int64		home;
	char	   *state;
} SabotFoundJob;

/* in job_control.c */
extern SabotFoundJob sabot_job_of_caller(int64 job_id);
extern void sabot_job_refuse_copied(int64 job_id, const SabotFoundJob *found);
extern bool sabot_job_requeue(int64 job_id);
extern int64 *sabot_job_push_rows(int n);
extern bool sabot_job_interrupt_row(int64 job_id, SabotInterrupt reason);

/* in job_signal.c: requests to running jobs */
extern void sabot_job_write_signal(int64 job_id, SabotInterrupt reason);
extern SabotInterrupt sabot_job_take_signal(int64 job_id);
extern bool sabot_job_take_back_pause(int64 job_id);
extern bool sabot_job_obey_signal(int64 job_id);

/* A job the room above submits; what is not here is as by default. */
typedef struct SabotNewJob
{
	const char *kind;
	const char *queue;
	const char *name;			/* or NULL */
	const char *command;
	int			priority;
	TimestampTz run_after;		/* 0 if none */
	ArrayType  *depends_on;		/* bigint[], or NULL */
	const char *notify;			/* or NULL */
} SabotNewJob;

/* in job_submission.c */
extern int64 sabot_job_submit(const SabotNewJob *job, const char *function);
extern void sabot_check_owner_can_login(Oid roleid);

/* in job_usage.c */
extern void sabot_usage_add(const char *views, const char *routines);

#endif							/* SABOT_JOBS_H */
