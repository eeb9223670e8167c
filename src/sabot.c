/*-------------------------------------------------------------------------
 *
 * sabot.c
 *		Module entry point: settings, shared memory, hooks, workers.
 *
 * Nothing here does any work of its own; each capability lives in its own
 * folder (pool, jobs, llm, route) and this file wires them together.
 *
 * Without shared_preload_libraries there is no shared memory and there are no
 * workers.  The library can be loaded all the same, because a dump that has
 * the extension must be restorable anywhere; what needs the pool says so when
 * it is called.
 *
 * IDENTIFICATION
 *		src/sabot.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "compat.h"
#include "guc.h"
#include "jobs/jobs.h"
#include "llm/llm.h"
#include "pool/pool.h"
#include "route/route.h"
#include "route/route_task.h"

/*
 * Locks in the tranche "sabot": of the pool, of ready jobs, of waits and
 * requests, of attempts, of permits, of streams.
 */
#define SABOT_NLOCKS 6

PG_MODULE_MAGIC_EXT(
					.name = "sabot",
					.version = SABOT_VERSION
);

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * Reserve shared memory and locks for every capability.
 */
static void
sabot_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(sabot_pool_shmem_size());
	RequestAddinShmemSpace(sabot_profile_shmem_size());
	RequestAddinShmemSpace(sabot_ready_shmem_size());
	RequestAddinShmemSpace(sabot_orphan_shmem_size());
	RequestAddinShmemSpace(sabot_counter_shmem_size());
	RequestAddinShmemSpace(sabot_wait_shmem_size());
	RequestAddinShmemSpace(sabot_hold_shmem_size());
	RequestAddinShmemSpace(sabot_direct_shmem_size());
	RequestAddinShmemSpace(sabot_stream_shmem_size());
	RequestAddinShmemSpace(sabot_permit_shmem_size());
	RequestAddinShmemSpace(sabot_route_stat_shmem_size());
	RequestAddinShmemSpace(sabot_route_task_shmem_size());
	RequestNamedLWLockTranche("sabot", SABOT_NLOCKS);
}

/*
 * Create or attach to the shared structures.
 */
static void
sabot_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sabot_pool_shmem_init();
	sabot_profile_shmem_init();
	sabot_ready_shmem_init();
	sabot_orphan_shmem_init();
	sabot_counter_shmem_init();
	sabot_wait_shmem_init();
	sabot_hold_shmem_init();
	sabot_direct_shmem_init();
	sabot_stream_shmem_init();
	sabot_permit_shmem_init();
	sabot_route_stat_shmem_init();
	sabot_route_task_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Module load callback.
 */
void
_PG_init(void)
{
	sabot_guc_init();
	sabot_llm_register();
	sabot_usage_add(SABOT_ROUTE_VIEWS, SABOT_ROUTE_ROUTINES);
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = sabot_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = sabot_shmem_startup;

	sabot_pool_install_hooks();
	sabot_jobs_install_hooks();
	sabot_route_plan_init();
	sabot_route_explain_init();
	sabot_route_gather_init();
	sabot_route_state_init();
	sabot_pool_set_query_server(sabot_route_query_server());
	sabot_agent_set_source(SABOT_AGENTS, sabot_jobs_work_source());
	sabot_agent_set_source(SABOT_LLM_WORKERS, sabot_llm_work_source());
	if (!IsBinaryUpgrade)
		sabot_pool_register_launcher();
}
