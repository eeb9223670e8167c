/*-------------------------------------------------------------------------
 *
 * job_row.h
 *		Rows of open jobs, below SQL.
 *
 * IDENTIFICATION
 *		src/jobs/job_row.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_ROW_H
#define SABOT_JOB_ROW_H

#include "access/htup.h"
#include "jobs/jobs.h"
#include "nodes/lockoptions.h"
#include "utils/relcache.h"

/* How a row, or the most open of several, stands; each tells more. */
typedef enum SabotPresence
{
	SABOT_ROW_GONE,				/* there is none */
	SABOT_ROW_COMING,			/* another transaction has inserted it */
	SABOT_ROW_ENDING,			/* another transaction has deleted it */
	SABOT_ROW_OPEN				/* there for sure */
} SabotPresence;

extern SabotPresence sabot_row_presence(Relation rel, int64 job_id);
extern bool sabot_row_none_left(Relation rel, int64 first, int64 last);
extern SabotPresence sabot_row_children(Relation rel, int64 job_id);
extern SabotJob *sabot_row_read(Relation rel, int64 job_id);
extern int	sabot_row_list_children(Relation rel, int64 parent_id,
									int64 **ids);
extern HeapTuple sabot_row_lock(Relation rel, int64 job_id,
								LockTupleMode mode);
extern bool sabot_row_try_lock(Relation rel, int64 job_id,
							   LockTupleMode mode);
extern int64 sabot_row_next_blocked(Relation rel, int64 parent_id,
									int64 after);

typedef struct SabotRowWriter SabotRowWriter;

extern SabotRowWriter *sabot_row_writer_open(Relation rel);
extern void sabot_row_writer_close(SabotRowWriter *writer);
extern void sabot_row_update(SabotRowWriter *writer, HeapTuple old,
							 const Datum *values, const bool *isnull);
extern void sabot_row_set_state(SabotRowWriter *writer, HeapTuple old,
								SabotJobState state, const char *reason);
extern bool sabot_row_try_set_state(SabotRowWriter *writer, HeapTuple old,
									SabotJobState state, const char *reason);

/* in job_depend.c */
extern void sabot_depend_make_ready(SabotRowWriter *writer, HeapTuple tuple,
									const SabotJob *job, const char *unsure);

#endif							/* SABOT_JOB_ROW_H */
