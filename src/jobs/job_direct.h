/*-------------------------------------------------------------------------
 *
 * job_direct.h
 *		What the two sides of sabot.run share.
 *
 * IDENTIFICATION
 *		src/jobs/job_direct.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_DIRECT_H
#define SABOT_JOB_DIRECT_H

#include "pool/pool.h"
#include "storage/dsm.h"

/* Kinds of messages an agent sends back, each in front of its payload. */
#define SABOT_DIRECT_ROW		UINT64CONST(1)	/* a Jsonb */
#define SABOT_DIRECT_NEW_SET	UINT64CONST(2)	/* forget the rows so far */
#define SABOT_DIRECT_NOTICE		UINT64CONST(3)	/* in NoticeResponse format */
#define SABOT_DIRECT_ERROR		UINT64CONST(4)	/* in ErrorResponse format */
#define SABOT_DIRECT_DONE		UINT64CONST(5)	/* committed */

/* Segments larger than this, in bytes, are not kept for the next call. */
#define SABOT_DIRECT_MAX_KEPT	(1024 * 1024)

/* Size of the queue for the answer, in bytes. */
#define SABOT_DIRECT_QUEUE_SIZE (64 * 1024)

/*
 * A request and the queue for its answer, in a segment of dynamic shared
 * memory.  Written by the caller before it posts the request; offsets are in
 * bytes from the start of data, lengths 0 where a part is absent.
 */
typedef struct SabotDirectSegment
{
	bool		singly;			/* the command cannot run in a block */
	Size		command_len;	/* a C string */
	Size		params;			/* a Jsonb */
	Size		params_len;
	Size		settings;		/* a text[] */
	Size		settings_len;
	Size		queue;			/* a shm_mq */
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* the command comes first */
} SabotDirectSegment;

typedef enum SabotDirectState
{
	SABOT_DIRECT_FREE,			/* nothing asked for, or all is over */
	SABOT_DIRECT_POSTED,		/* waits for an agent */
	SABOT_DIRECT_TAKEN			/* an agent has it, and its segment */
} SabotDirectState;

/* What an agent has taken. */
typedef struct SabotDirectTicket
{
	int			index;			/* of the request */
	int64		seq;
	dsm_handle	handle;
} SabotDirectTicket;

/* in job_direct_request.c: the caller's side ... */
extern int64 sabot_direct_post(Oid roleid, dsm_handle handle);
extern SabotDirectState sabot_direct_state(void);
extern SabotDirectState sabot_direct_withdraw(void);
extern bool sabot_direct_get_error(int *sqlstate, char *message);

/* ... and the agent's */
extern bool sabot_direct_any(void);
extern bool sabot_direct_take(Oid roleid, SabotDirectTicket *ticket);
extern bool sabot_direct_withdrawn(const SabotDirectTicket *ticket);
extern void sabot_direct_note_error(const SabotDirectTicket *ticket,
									int sqlstate, const char *message);
extern void sabot_direct_release(const SabotDirectTicket *ticket,
								 bool answered);

#endif							/* SABOT_JOB_DIRECT_H */
