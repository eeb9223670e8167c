/*-------------------------------------------------------------------------
 *
 * job_stream.h
 *		Streams: what the files that capture and hand over rows share.
 *
 * A capture belongs to a job and is all that another room needs that wants to
 * know which rows of a table have changed: it creates one for its job, is
 * woken through the job's pair, takes rows and forgets those it has taken.
 * A stream is a job with a capture whose rows agents hand to its command.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_STREAM_H
#define SABOT_JOB_STREAM_H

#include "access/tupdesc.h"
#include "access/xact.h"
#include "jobs/jobs.h"
#include "storage/itemptr.h"
#include "storage/lock.h"
#include "utils/queryenvironment.h"
#include "utils/reltrigger.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

/*
 * Columns of a capture table, from 0, in front of those of the source.  The
 * first two are set in place when the row gets its number.
 */
typedef enum SabotCaptureColumn
{
	CAPTURE_SEQ,
	CAPTURE_AT,
	CAPTURE_OP,
	CAPTURE_NCOLUMNS
} SabotCaptureColumn;

/* In sabot.stream_event: whose owner dropped the trigger, or the table. */
#define SABOT_STREAM_TAKEN "dropped by another owner"

/* Numbers that one value of sabot.stream_seq stands for. */
#define SABOT_SEQ_BLOCK 256

/* Columns of sabot.stream, from 0. */
typedef enum SabotStreamColumn
{
	STREAM_JOB_ID,
	STREAM_SOURCE,
	STREAM_SOURCE_NAME,
	STREAM_BATCH_ROWS,
	STREAM_FLOOR,
	STREAM_SUSPECTS,
	STREAM_FAILED,
	STREAM_TRIED_TO,
	STREAM_TRIES,
	STREAM_BATCHES,
	STREAM_ROWS,
	STREAM_DEAD,
	STREAM_NCOLUMNS
} SabotStreamColumn;

/* A row of sabot.stream, in the memory context it was read in. */
typedef struct SabotStream
{
	int64		job_id;
	Oid			source;
	char	   *source_name;
	int			batch_rows;
	int64		floor;			/* no row below it is there, or to come */
	int64	   *suspects;		/* last numbers of the pieces of a batch that
								 * has failed, from the last piece to the
								 * first */
	int			nsuspects;
	bool		failed;			/* the last batch has, for good */
	int64		tried_to;		/* its last number, 0 if unknown */
	int			tries;			/* attempts of its rows so far */
} SabotStream;

/* Rows that are taken from a capture, in order. */
typedef struct SabotBatch
{
	Tuplestorestate *store;
	TupleDesc	desc;			/* source's columns, sabot_op, sabot_seq */
	QueryEnvironment *env;		/* where "batch" is the store */
	Oid			table;			/* they are still in */
	ItemPointerData *tids;
	int64	   *seqs;
	int			nrows;
	int64		floor;			/* once they are forgotten */
	bool		all;			/* there are no more that could be taken */
} SabotBatch;

/*
 * The snapshot of what is committed now; a view may be read by the leader of a
 * parallel query, which must not take one, and then has to do with its own.
 */
static inline Snapshot
sabot_stream_snapshot(void)
{
	return IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot();
}

/* in job_stream_table.c: capture tables and triggers */
extern void sabot_capture_create(int64 job_id, Oid source);
extern void sabot_capture_drop(int64 job_id, Oid source);
extern void sabot_capture_before_drop(void);
extern Oid	sabot_capture_function(void);
extern int	sabot_capture_parts(int64 job_id, int **parts);
extern Oid	sabot_capture_table(int64 job_id, int part);
extern bool sabot_capture_fits(TupleDesc capture, TupleDesc source);
extern Oid	sabot_capture_follow(int64 job_id, Relation source);
extern bool sabot_capture_drop_part(int64 job_id, int part);
extern bool sabot_capture_is_attached(int64 job_id, Oid source);
extern void sabot_capture_note(int64 job_id, const char *event,
							   const char *detail);
extern int64 sabot_capture_next_block(void);
extern bool sabot_capture_trigger(const Trigger *trigger,
								  int64 *job_id);

/* in job_stream_watch.c: what becomes of the tables that are captured */
extern void sabot_capture_watch(void);
extern void sabot_capture_watch_end(XactEvent event);
extern void sabot_capture_watch_subend(SubXactEvent event,
									   SubTransactionId subid,
									   SubTransactionId parent);

/* in job_stream_capture.c */
extern bool sabot_capture_reads(int64 job_id, Relation rel);
extern void sabot_capture_guard_tag(LOCKTAG *tag, int64 block);
extern bool sabot_capture_guarded(const LOCKTAG *tag, int64 *block);
extern void sabot_capture_touch(int64 job_id);
extern bool sabot_capture_is_touched(int64 job_id);
extern void sabot_capture_committed(void);
extern void sabot_capture_install_hooks(void);

/* in job_stream_wake.c */
extern void sabot_capture_enter(const SabotJob *job, bool armed);
extern void sabot_capture_listen(const SabotJob *job);
extern bool sabot_capture_has_heard(int64 job_id);
extern void sabot_capture_hush(int64 job_id);
extern void sabot_capture_forget(int64 job_id);
extern void sabot_capture_forget_all(Oid dbid);
extern void sabot_capture_wake_begin(int64 job_id);
extern void sabot_capture_wake(int64 job_id);
extern void sabot_capture_owner_gone(Oid owner);

/* in job_stream_batch.c */
extern QueryEnvironment *sabot_batch_env_of(TupleDesc captured);
extern SabotBatch *sabot_batch_take(int64 job_id, int64 floor, int64 until,
									int limit);
extern void sabot_batch_forget(const SabotBatch *batch);
extern bool sabot_capture_has_rows(int64 job_id, int64 floor, int64 until,
								   int *part);
extern bool sabot_capture_may_have_rows(int64 job_id, int64 floor);
extern SabotStream *sabot_stream_read(int64 job_id);
extern void sabot_stream_update(const SabotStream *stream, int rows,
								int batches, int dead);

/* in job_stream.c; sabot_stream_ended() ends any capture */
extern void sabot_capture_register(int64 job_id, Oid source,
								   int32 batch_rows);
extern void sabot_capture_begin(int64 job_id, Oid source, int batch_rows);
extern bool sabot_stream_set(const SabotJob *job, SabotJobState state,
							 const char *reason);
extern void sabot_stream_end(const SabotJob *job, int sqlstate,
							 const char *message, const char *hint);
extern void sabot_stream_pause(const SabotJob *job, const char *reason);
extern int64 sabot_stream_taken_to(int64 job_id);

/* in job_stream_fail.c */
extern void sabot_stream_split(const SabotJob *job, SabotStream *stream);

/* in job_stream_check.c */
extern void sabot_stream_check(int64 job_id, const char *command);

#endif							/* SABOT_JOB_STREAM_H */
