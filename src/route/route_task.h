/*-------------------------------------------------------------------------
 *
 * route_task.h
 *		Tasks: what the session of a query hands to an agent.
 *
 * There is a place for one task per slot of the pool.  The session that has
 * taken the agent fills it and sets its word; from then on the word says whose
 * it is, and only compare-and-exchange changes it:
 *
 *		FREE --> ASSIGNED --> RUNNING --> FREE
 *		             |
 *		             +--> FREE		taken back, or declined
 *
 * The word carries the work id besides, so nobody takes one task for another.
 *
 * IDENTIFICATION
 *		src/route/route_task.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_ROUTE_TASK_H
#define SABOT_ROUTE_TASK_H

#include "pool/pool.h"
#include "port/atomics.h"
#include "route/route.h"
#include "storage/dsm.h"
#include "storage/proc.h"

/* Bytes for a SYSTEM_USER, which 16 has. */
#define ROUTE_SYSTEM_USER_LEN	256

typedef enum RouteTaskState
{
	ROUTE_TASK_FREE,
	ROUTE_TASK_ASSIGNED,		/* the agent has yet to begin */
	ROUTE_TASK_RUNNING
} RouteTaskState;

/*
 * Written by the session under the pool's lock while the word is FREE, read by
 * the agent.
 */
typedef struct RouteTask
{
	pg_atomic_uint64 word;		/* work id and state */

	dsm_handle	segment;		/* of the ParallelContext */
	int			number;			/* of the worker in it */
	Size		tuple_queue;	/* offset in the segment */
	Size		error_queue;	/* offset in the segment */
	PGPROC	   *leader;
	pid_t		leader_pid;
	int			leader_number;	/* for SendProcSignal() */
	Oid			roleid;			/* SET ROLE, or InvalidOid */
	bool		is_superuser;
	Oid			userid;
	int			sec_context;
	TimestampTz xact_start;
	TimestampTz stmt_start;
	char		system_user[ROUTE_SYSTEM_USER_LEN]; /* "" if none */

	/* written by the launcher before there is an agent */
	dsm_handle	boot_segment;	/* see route_boot.c */
} RouteTask;

/* What went wrong, if anything, with the way agents take part. */
typedef enum RouteTrust
{
	ROUTE_UNTESTED,
	ROUTE_TRUSTED,
	ROUTE_BROKEN
} RouteTrust;

typedef struct RouteShared
{
	pg_atomic_uint32 trust;		/* a RouteTrust */
	pg_atomic_uint32 running;	/* sessions that run a large query */
	pg_atomic_uint64 declines;	/* agents that did nothing, so far */
	RouteTask	tasks[FLEXIBLE_ARRAY_MEMBER];
} RouteShared;

extern RouteShared *sabot_route_shared;

/* in route_task.c */
extern Size sabot_route_task_shmem_size(void);
extern void sabot_route_task_shmem_init(void);
extern void sabot_route_task_assign(const SabotTaken *taken, const void *work);
extern bool sabot_route_task_move(int slotno, int64 work_id,
								  RouteTaskState from, RouteTaskState to);
extern bool sabot_route_task_is(int slotno, int64 work_id,
								RouteTaskState state);
extern bool sabot_route_task_is_over(int slotno, int64 work_id);
extern void sabot_route_task_note_decline(void);
extern uint64 sabot_route_task_declines(void);

/* in route_launch.c */
typedef struct RouteLaunch RouteLaunch;
struct ParallelExecutorInfo;

extern RouteLaunch *sabot_route_reserve(int nagents,
										struct ParallelExecutorInfo **pei);
extern int	sabot_route_launch_size(const RouteLaunch *launch);
extern void sabot_route_launch_none(struct ParallelExecutorInfo *pei);
extern int	sabot_route_launch(RouteLaunch *launch);
extern void sabot_route_take_back(RouteLaunch *launch);
extern void sabot_route_await_begun(RouteLaunch *launch);
extern void sabot_route_await_gone(RouteLaunch *launch);
extern void sabot_route_release(RouteLaunch *launch);
extern void sabot_route_abandon(RouteLaunch *launch);
extern void sabot_route_want_agents(int nagents);
extern void sabot_route_test_begin(Oid roleid);
extern void sabot_route_test_end(void);
extern bool sabot_route_is_test(void);

/* in route_busy.c */
extern void sabot_route_enter(void);
extern void sabot_route_leave(void);
extern int	sabot_route_fair_agents(int nplanned);

/* in route_state.c */
extern void sabot_route_state_init(void);
extern SabotReason sabot_route_state_reason(void);
extern bool sabot_route_is_pristine(void);
extern bool sabot_route_passes_records(PlanState *gather);

/* in route_boot.c */
extern void sabot_route_boot_prepare(int slotno);
extern bool sabot_route_boot(void);

/* in route_test.c */
extern void sabot_route_test_startup(void);
extern void sabot_route_test(void);

/* in route_settings.c */
extern void sabot_route_settings_apply(char *state);
extern void sabot_route_settings_home(void);
extern void sabot_route_settings_changed(void);

/* in route_agent.c */
extern const SabotQueryServer *sabot_route_query_server(void);

#endif							/* SABOT_ROUTE_TASK_H */
