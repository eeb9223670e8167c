/*-------------------------------------------------------------------------
 *
 * llm_shared.h
 *		What the lane has in shared memory: servers, breakers, processes.
 *
 * Between llm_permit.c and llm_gate.c only: whoever asks for a permit looks
 * at the breakers in the same breath, so one lock is for both.
 *
 * IDENTIFICATION
 *		src/llm/llm_shared.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_SHARED_H
#define SABOT_LLM_SHARED_H

#include "storage/latch.h"
#include "storage/lwlock.h"

#include "llm/llm.h"

#define SABOT_MAX_SERVERS	64
#define SABOT_MAX_GATES		128
#define SABOT_MAX_HOLDERS	128

/* A server that is or was in use. */
typedef struct SabotServer
{
	char		origin[SABOT_ORIGIN_LEN];	/* "" = free */
	int			in_flight;
	int			most_in_flight;
	bool		suspect;		/* somebody left in the middle of a request */
	int64		requests;
	int64		connections;
	TimestampTz used_at;
} SabotServer;

/* What a breaker stops. */
typedef enum SabotGateKind
{
	SABOT_GATE_FREE,
	SABOT_GATE_OF_SERVER,
	SABOT_GATE_OF_ENDPOINT,		/* its token is refused, or cannot be read */
	SABOT_GATE_OF_MODEL			/* on one server */
} SabotGateKind;

#define SABOT_NGATE_KINDS	4

/* A breaker. */
typedef struct SabotBreaker
{
	SabotGateKind kind;
	char		origin[SABOT_ORIGIN_LEN];	/* of a server or a model on it */
	Oid			dbid;			/* of an endpoint */
	char		name[SABOT_MODEL_LEN];	/* of a model or an endpoint */
	int			faults;			/* in a row */
	TimestampTz fault_at;		/* the last of them */
	TimestampTz next_probe;		/* 0 = not stopped */
	pid_t		prober;			/* who finds out, 0 = nobody */
	char		error[SABOT_FAULT_LEN];
} SabotBreaker;

/* A process that has permits or waits for one, of one server at a time. */
typedef struct SabotHolder
{
	pid_t		pid;			/* 0 = free */
	Latch	   *latch;
	int			server;			/* index, valid if held or ticket */
	int			held;
	int			limit;			/* the process's own */
	uint64		ticket;			/* place in the line, 0 = not in it */
	SabotLlmActivity activity;
} SabotHolder;

/* Everything is protected by lock. */
typedef struct SabotPermitShared
{
	LWLock	   *lock;
	uint64		next_ticket;
	SabotServer servers[SABOT_MAX_SERVERS];
	SabotBreaker gates[SABOT_MAX_GATES];
	SabotHolder holders[SABOT_MAX_HOLDERS];
} SabotPermitShared;

/* in llm_permit.c; NULL without preload */
extern SabotPermitShared *sabot_permits;
extern void sabot_permit_wake_all_locked(const char *origin);

/* in llm_gate.c */
extern const SabotBreaker *sabot_gate_closed_locked(const SabotEndpoint *endpoint,
													const char *model);
extern bool sabot_gate_stops_locked(const SabotEndpoint *endpoint,
									const char *model, TimestampTz now,
									TimestampTz *next_probe, bool *probe);
extern void sabot_gate_begin_probe_locked(const SabotEndpoint *endpoint,
										  const char *model);
extern void sabot_gate_end_probe_locked(pid_t pid);

#endif							/* SABOT_LLM_SHARED_H */
