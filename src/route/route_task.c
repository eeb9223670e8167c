/*-------------------------------------------------------------------------
 *
 * route_task.c
 *		The places for tasks in shared memory, and who may change them.
 *
 * IDENTIFICATION
 *		src/route/route_task.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/shmem.h"

#include "route/route_task.h"

/* Bits of a task's word for its state. */
#define STATE_BITS	2

RouteShared *sabot_route_shared = NULL;

/*
 * sabot_route_task_shmem_size - bytes of shared memory tasks need
 *
 * There are never more slots than worker processes.
 */
Size
sabot_route_task_shmem_size(void)
{
	return add_size(offsetof(RouteShared, tasks),
					mul_size(sizeof(RouteTask), SABOT_MAX_SLOTS));
}

/*
 * sabot_route_task_shmem_init - create or attach to the tasks
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_route_task_shmem_init(void)
{
	bool		found;

	sabot_route_shared = ShmemInitStruct("sabot tasks",
										 sabot_route_task_shmem_size(), &found);
	if (found)
		return;
	memset(sabot_route_shared, 0, sabot_route_task_shmem_size());
	pg_atomic_init_u32(&sabot_route_shared->trust, ROUTE_UNTESTED);
	pg_atomic_init_u32(&sabot_route_shared->running, 0);
	pg_atomic_init_u64(&sabot_route_shared->declines, 0);
	for (int i = 0; i < SABOT_MAX_SLOTS; i++)
	{
		RouteTask  *task = &sabot_route_shared->tasks[i];

		pg_atomic_init_u64(&task->word, ROUTE_TASK_FREE);
		task->boot_segment = DSM_HANDLE_INVALID;
	}
}

/*
 * word_of - the word of a task in a state
 */
static uint64
word_of(int64 work_id, RouteTaskState state)
{
	return (uint64) work_id << STATE_BITS | state;
}

/*
 * sabot_route_task_assign - make a task, which is a RouteTask, that of an agent
 *
 * For sabot_pool_hand_over(), which has the place be ours: had the agent died
 * since we took it, the place could be that of another one, and of its task.
 */
void
sabot_route_task_assign(const SabotTaken *taken, const void *work)
{
	RouteTask  *task = &sabot_route_shared->tasks[taken->slotno];
	Size		begin = offsetof(RouteTask, segment);

	memcpy((char *) task + begin, (const char *) work + begin,
		   offsetof(RouteTask, boot_segment) - begin);
	pg_write_barrier();
	pg_atomic_write_u64(&task->word,
						word_of(taken->work_id, ROUTE_TASK_ASSIGNED));
}

/*
 * sabot_route_task_move - change the state of a task, if it is what we think
 *
 * Returns false if it is not.
 */
bool
sabot_route_task_move(int slotno, int64 work_id, RouteTaskState from,
					  RouteTaskState to)
{
	uint64		expected = word_of(work_id, from);

	return pg_atomic_compare_exchange_u64(&sabot_route_shared->tasks[slotno].word,
										  &expected, word_of(work_id, to));
}

/*
 * sabot_route_task_is - whether a task is in a state
 */
bool
sabot_route_task_is(int slotno, int64 work_id, RouteTaskState state)
{
	return pg_atomic_read_u64(&sabot_route_shared->tasks[slotno].word) ==
		word_of(work_id, state);
}

/*
 * sabot_route_task_is_over - whether an agent is done with a task, or never
 * was to begin it
 */
bool
sabot_route_task_is_over(int slotno, int64 work_id)
{
	return !sabot_route_task_is(slotno, work_id, ROUTE_TASK_ASSIGNED) &&
		!sabot_route_task_is(slotno, work_id, ROUTE_TASK_RUNNING);
}

/*
 * sabot_route_task_note_decline - count an agent that does nothing for a query
 * it was to take part in
 */
void
sabot_route_task_note_decline(void)
{
	(void) pg_atomic_fetch_add_u64(&sabot_route_shared->declines, 1);
}

/*
 * sabot_route_task_declines - how many there were, in the whole server
 */
uint64
sabot_route_task_declines(void)
{
	return pg_atomic_read_u64(&sabot_route_shared->declines);
}
