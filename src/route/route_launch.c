/*-------------------------------------------------------------------------
 *
 * route_launch.c
 *		In the session of a query: takes agents, gives them their tasks, takes
 *		back what they have not begun, and sees that they have let go.
 *
 * This stands in for LaunchParallelWorkers(): the ParallelContext, its queues
 * and all that is done with them are the core's.  An agent has no background
 * worker handle.  For the core that means "no news": it never concludes from
 * a NULL handle that a worker is gone, so whoever ends an agent's part in a
 * query says so through its queues.  What the core would do with a handle and
 * must not do without is to terminate the worker when the context is destroyed
 * while its error queue is still there; so on every way out of a query, error
 * and exit included, the queue is let go first, see sabot_route_abandon().
 *
 * IDENTIFICATION
 *		src/route/route_launch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/execParallel.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "storage/shm_mq.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "route/route_task.h"

/* A session asks for more agents no more often than this, in ms. */
#define WANT_EVERY_MS	200

/* Wait this long, in ms, for a signal that an agent has begun or let go. */
#define AGENT_NAP_MS	10

/* An agent that the work is left to has this long, in ms, to begin. */
#define BEGIN_MS		1000

/* The agents a Gather has, in allocated-forever memory until released. */
struct RouteLaunch
{
	RouteLaunch *next;			/* of our session, the youngest first */
	ParallelExecutorInfo **pei; /* of the Gather, which sets it to NULL when
								 * it is done with the agents */
	bool		launched;		/* else they are only reserved */
	shm_mq	  **tuple_queues;	/* of the agents */
	int			nagents;
	SabotTaken	agents[FLEXIBLE_ARRAY_MEMBER];
};

static RouteLaunch *launches = NULL;
static bool exit_registered = false;
static Oid	test_roleid = InvalidOid;

/*
 * sabot_route_launch_size - how many agents a launch has
 */
int
sabot_route_launch_size(const RouteLaunch *launch)
{
	return launch->nagents;
}

/*
 * abandon_all - callback at exit: no agent may outlive our part in a query
 *
 * Runs before the transaction is aborted, and with it the contexts destroyed.
 */
static void
abandon_all(int code, Datum arg)
{
	while (launches)
		sabot_route_abandon(launches);
}

/*
 * my_pair - the pair whose agents may help us
 */
static SabotPairKey
my_pair(void)
{
	return sabot_pair(OidIsValid(test_roleid) ? test_roleid :
					  GetAuthenticatedUserId(), SABOT_AGENTS);
}

/*
 * sabot_route_want_agents - have agents started for our pair, for next time
 *
 * Or have them tested.
 */
void
sabot_route_want_agents(int nagents)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(last, now, WANT_EVERY_MS) ||
		OidIsValid(test_roleid))
		return;
	last = now;
	sabot_pool_want_share(my_pair(), Min(nagents, sabot_query_agents));
	if (pg_atomic_read_u32(&sabot_route_shared->trust) == ROUTE_UNTESTED)
		sabot_pool_request_probe(MyDatabaseId);
}

/*
 * sabot_route_test_begin, sabot_route_test_end - agents of this role may help
 * us, tested or not
 */
void
sabot_route_test_begin(Oid roleid)
{
	test_roleid = roleid;
}

void
sabot_route_test_end(void)
{
	test_roleid = InvalidOid;
}

/*
 * sabot_route_is_test - whether our queries are those of the self-test
 */
bool
sabot_route_is_test(void)
{
	return OidIsValid(test_roleid);
}

/*
 * sabot_route_reserve - take up to so many idle agents for a Gather
 *
 * pei is where the Gather keeps its parallel state.  Returns NULL if there is
 * no agent; then the launcher has been asked for some.
 */
RouteLaunch *
sabot_route_reserve(int nagents, ParallelExecutorInfo **pei)
{
	RouteLaunch *launch;
	int			there;

	if (!exit_registered)
		before_shmem_exit(abandon_all, 0);
	exit_registered = true;

	launch = MemoryContextAlloc(TopMemoryContext,
								offsetof(RouteLaunch, agents) +
								sizeof(SabotTaken) * nagents);
	launch->pei = pei;
	launch->launched = false;
	launch->tuple_queues = NULL;
	launch->nagents = sabot_pool_take_parked(my_pair(), nagents, launch->agents,
											 &there);
	if (there < nagents)
		sabot_route_want_agents(nagents);
	if (launch->nagents == 0)
	{
		pfree(launch);
		return NULL;
	}
	launch->next = launches;
	launches = launch;
	return launch;
}

/*
 * fill_task - write down what all agents of a launch are to know
 */
static void
fill_task(RouteTask *task, ParallelContext *pcxt)
{
	memset(task, 0, sizeof(*task));
	task->segment = dsm_segment_handle(pcxt->seg);
	task->leader = MyProc;
	task->leader_pid = MyProcPid;
	task->leader_number = SabotMyProcSignalNumber;
	task->roleid = GetCurrentRoleId();
	task->is_superuser = superuser_arg(GetOuterUserId());
	GetUserIdAndSecContext(&task->userid, &task->sec_context);
	task->xact_start = GetCurrentTransactionStartTimestamp();
	task->stmt_start = GetCurrentStatementStartTimestamp();
	strlcpy(task->system_user, SabotSystemUser(), ROUTE_SYSTEM_USER_LEN);
}

/*
 * number_task - write down which of them an agent is
 */
static void
number_task(RouteTask *task, int number, ParallelExecutorInfo *pei)
{
	ParallelContext *pcxt = pei->pcxt;
	char	   *base = dsm_segment_address(pcxt->seg);

	task->number = number;
	task->tuple_queue = (char *) shm_mq_get_queue(pei->tqueue[number]) - base;
	task->error_queue = (char *) shm_mq_get_queue(pcxt->worker[number].error_mqh) - base;
}

/*
 * end_queue - make a queue that nobody will send to say so to us, its receiver
 */
static void
end_queue(shm_mq *queue, dsm_segment *segment)
{
	shm_mq_set_sender(queue, MyProc);
	shm_mq_detach(shm_mq_attach(queue, segment, NULL));
}

/*
 * let_go_of_errors - expect no more messages of a worker
 */
static void
let_go_of_errors(ParallelContext *pcxt, int i)
{
	if (pcxt->worker == NULL || pcxt->worker[i].error_mqh == NULL)
		return;
	shm_mq_detach(pcxt->worker[i].error_mqh);
	pcxt->worker[i].error_mqh = NULL;
}

/*
 * expect_nothing - tell the Gather, if it still expects something of an agent,
 * that nothing will come
 */
static void
expect_nothing(RouteLaunch *launch, int i)
{
	ParallelExecutorInfo *pei = *launch->pei;

	sabot_route_task_note_decline();
	if (pei)
	{
		let_go_of_errors(pei->pcxt, i);
		end_queue(launch->tuple_queues[i], pei->pcxt->seg);
	}
}

/*
 * take_back - take a task back from an agent that has not begun
 *
 * Returns false if it has.
 */
static bool
take_back(RouteLaunch *launch, int i)
{
	const SabotTaken *agent = &launch->agents[i];

	if (!sabot_route_task_move(agent->slotno, agent->work_id,
							   ROUTE_TASK_ASSIGNED, ROUTE_TASK_FREE))
		return false;
	sabot_pool_give_back(agent);
	expect_nothing(launch, i);
	return true;
}

/*
 * forget_workers - make the core expect nothing of workers there are no
 * agents for
 */
static void
forget_workers(ParallelContext *pcxt, int first)
{
	for (int i = first; i < pcxt->nworkers; i++)
		let_go_of_errors(pcxt, i);
}

/*
 * sabot_route_launch_none - have nobody help with a Gather
 */
void
sabot_route_launch_none(ParallelExecutorInfo *pei)
{
	pei->pcxt->nworkers_launched = 0;
	forget_workers(pei->pcxt, 0);
}

/*
 * sabot_route_launch - have the agents of a launch begin
 *
 * The Gather's parallel state has been initialized.  If it has room for less,
 * as when there was no shared memory segment, the agents that are left over
 * are given back.  Returns how many begin.
 */
int
sabot_route_launch(RouteLaunch *launch)
{
	ParallelExecutorInfo *pei = *launch->pei;
	ParallelContext *pcxt = pei->pcxt;
	RouteTask	task;

	while (launch->nagents > pcxt->nworkers)
		sabot_pool_give_back(&launch->agents[--launch->nagents]);
	if (launch->nagents == 0)
	{
		sabot_route_launch_none(pei);
		return 0;
	}

	BecomeLockGroupLeader();
	launch->tuple_queues = MemoryContextAlloc(TopMemoryContext,
											  sizeof(shm_mq *) * launch->nagents);
	pcxt->known_attached_workers =
		MemoryContextAllocZero(TopTransactionContext,
							   sizeof(bool) * launch->nagents);
	pcxt->nknown_attached_workers = 0;
	for (int i = 0; i < launch->nagents; i++)
	{
		/* Every worker of the core writes this; one taken back does not. */
		memset(&pei->buffer_usage[i], 0, sizeof(BufferUsage));
		memset(&pei->wal_usage[i], 0, sizeof(WalUsage));
		launch->tuple_queues[i] = shm_mq_get_queue(pei->tqueue[i]);
		pcxt->worker[i].bgwhandle = NULL;
	}
	fill_task(&task, pcxt);
	forget_workers(pcxt, launch->nagents);

	/* Nothing can fail from here on. */
	pcxt->nworkers_launched = launch->nagents;
	launch->launched = true;
	for (int i = 0; i < launch->nagents; i++)
	{
		number_task(&task, i, pei);
		if (!sabot_pool_hand_over(&launch->agents[i], sabot_route_task_assign,
								  &task))
			expect_nothing(launch, i);
	}
	/* The latch of one that has gone meanwhile does no harm. */
	for (int i = 0; i < launch->nagents; i++)
		SetLatch(launch->agents[i].latch);
	return launch->nagents;
}

/*
 * sabot_route_take_back - take back what agents have not begun
 *
 * To be called when there is nothing left for them to do: our own share of the
 * work is done, and that ends only with the whole of it.
 */
void
sabot_route_take_back(RouteLaunch *launch)
{
	for (int i = 0; i < launch->nagents; i++)
		(void) take_back(launch, i);
}

/*
 * has_begun - whether all agents of a launch have begun
 */
static bool
has_begun(const RouteLaunch *launch)
{
	for (int i = 0; i < launch->nagents; i++)
		if (sabot_route_task_is(launch->agents[i].slotno,
								launch->agents[i].work_id,
								ROUTE_TASK_ASSIGNED))
			return false;
	return true;
}

/*
 * sabot_route_await_begun - give agents that the work is left to a moment to
 * begin, and take back what they have not begun then
 *
 * Our own share, which we do not do then, cannot tell when to take it back,
 * and one that cannot begin, for want of file handles, say, would be waited
 * for without end.
 */
void
sabot_route_await_begun(RouteLaunch *launch)
{
	TimestampTz since = GetCurrentTimestamp();

	while (!has_begun(launch) &&
		   !TimestampDifferenceExceeds(since, GetCurrentTimestamp(), BEGIN_MS))
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 AGENT_NAP_MS, WAIT_EVENT_EXECUTE_GATHER);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	sabot_route_take_back(launch);
}

/*
 * is_gone - whether all agents of a launch have let go
 */
static bool
is_gone(const RouteLaunch *launch)
{
	for (int i = 0; i < launch->nagents; i++)
		if (!sabot_route_task_is_over(launch->agents[i].slotno,
									  launch->agents[i].work_id))
			return false;
	return true;
}

/*
 * sabot_route_await_gone - wait until no agent of a launch uses its segment
 *
 * They have sent all they had to; this is about moments.
 */
void
sabot_route_await_gone(RouteLaunch *launch)
{
	while (!is_gone(launch))
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 AGENT_NAP_MS, WAIT_EVENT_PARALLEL_FINISH);
		ResetLatch(MyLatch);
		if (INTERRUPTS_CAN_BE_PROCESSED())
			CHECK_FOR_INTERRUPTS();
	}
}

/*
 * sabot_route_release - forget a launch whose agents have let go
 */
void
sabot_route_release(RouteLaunch *launch)
{
	RouteLaunch **link = &launches;

	while (*link != launch)
		link = &(*link)->next;
	*link = launch->next;
	if (launch->tuple_queues)
		pfree(launch->tuple_queues);
	pfree(launch);
}

/*
 * sabot_route_abandon - end what is left of a launch, after an error
 *
 * Interrupts its agents and waits until they have let go, as the core does
 * with its workers: their locks and snapshots are those of our transaction.
 * The launch is released.
 */
void
sabot_route_abandon(RouteLaunch *launch)
{
	HOLD_INTERRUPTS();
	/* An agent may wait for one, and not for an interrupt. */
	LWLockReleaseAll();
	for (int i = 0; i < launch->nagents; i++)
	{
		SabotTaken *agent = &launch->agents[i];

		if (!launch->launched)
			sabot_pool_give_back(agent);
		else if (!take_back(launch, i) &&
				 !sabot_route_task_is_over(agent->slotno, agent->work_id))
			(void) sabot_pool_interrupt(MyDatabaseId, agent->work_id,
										SABOT_INTERRUPT_CANCEL);
		if (launch->launched && *launch->pei)
			let_go_of_errors((*launch->pei)->pcxt, i);
	}
	if (launch->launched)
		sabot_route_await_gone(launch);
	RESUME_INTERRUPTS();
	sabot_route_release(launch);
}
