/*-------------------------------------------------------------------------
 *
 * job_direct_request.c
 *		Requests of sabot.run on their way from caller to agent.
 *
 * A request is no job: it is kept nowhere, and ends with its caller.  Every
 * backend can have one at a time, so each has its entry in an array, and
 * those nobody has taken yet are chained in the order they came.
 *
 * Caller and agent may part at any instant.  A sequence number, whose
 * negative is the request's work id in the pool (that of a job is positive),
 * tells a request from the next one in the same entry: what an agent says of
 * a request that is over is ignored.
 *
 * IDENTIFICATION
 *		src/jobs/job_direct_request.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "jobs/job_direct.h"
#include "jobs/jobs.h"

/* Protected by the lock, but for the error. */
typedef struct SabotDirectRequest
{
	dlist_node	node;			/* in the chain while POSTED */
	SabotDirectState state;
	int64		seq;
	Oid			dbid;
	Oid			roleid;
	dsm_handle	handle;
	Latch	   *latch;			/* the caller's */
	bool		withdrawn;		/* the caller has gone */

	/* Why there is no answer: written by who has taken it, before it goes. */
	int			sqlstate;		/* 0 if nothing was written */
	char		error[SABOT_ERROR_LEN];
} SabotDirectRequest;

typedef struct SabotDirect
{
	LWLock	   *lock;
	pg_atomic_uint32 nposted;	/* length of the chain; read without lock */
	int64		last_seq;
	dlist_head	posted;
	SabotDirectRequest requests[FLEXIBLE_ARRAY_MEMBER]; /* by process number */
} SabotDirect;

static SabotDirect *sabot_direct = NULL;

/*
 * sabot_direct_shmem_size - bytes of shared memory requests need
 */
Size
sabot_direct_shmem_size(void)
{
	return add_size(offsetof(SabotDirect, requests),
					mul_size(sizeof(SabotDirectRequest), MaxBackends));
}

/*
 * sabot_direct_shmem_init - create or attach to the requests
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_direct_shmem_init(void)
{
	bool		found;

	sabot_direct = ShmemInitStruct("sabot direct", sabot_direct_shmem_size(),
								   &found);
	if (found)
		return;
	memset(sabot_direct, 0, sabot_direct_shmem_size());
	sabot_direct->lock = &(GetNamedLWLockTranche("sabot")[2].lock);
	pg_atomic_init_u32(&sabot_direct->nposted, 0);
	dlist_init(&sabot_direct->posted);
}

/*
 * unchain_locked - take a posted request out of the chain
 */
static void
unchain_locked(SabotDirectRequest *request, SabotDirectState state)
{
	Assert(request->state == SABOT_DIRECT_POSTED);
	dlist_delete(&request->node);
	request->state = state;
	pg_atomic_fetch_sub_u32(&sabot_direct->nposted, 1);
}

/*
 * sabot_direct_post - post our request, to be run as a role
 *
 * handle is that of a SabotDirectSegment.  Returns its sequence number.  The
 * one before must be over or withdrawn.
 */
int64
sabot_direct_post(Oid roleid, dsm_handle handle)
{
	SabotDirectRequest *request = &sabot_direct->requests[MyProcNumber];
	int64		seq;

	LWLockAcquire(sabot_direct->lock, LW_EXCLUSIVE);
	Assert(request->state != SABOT_DIRECT_POSTED);
	seq = ++sabot_direct->last_seq;
	request->state = SABOT_DIRECT_POSTED;
	request->seq = seq;
	request->dbid = MyDatabaseId;
	request->roleid = roleid;
	request->handle = handle;
	request->latch = MyLatch;
	request->withdrawn = false;
	request->sqlstate = 0;
	dlist_push_tail(&sabot_direct->posted, &request->node);
	pg_atomic_fetch_add_u32(&sabot_direct->nposted, 1);
	LWLockRelease(sabot_direct->lock);
	return seq;
}

/*
 * sabot_direct_state - the state of our request
 */
SabotDirectState
sabot_direct_state(void)
{
	SabotDirectState state;

	LWLockAcquire(sabot_direct->lock, LW_SHARED);
	state = sabot_direct->requests[MyProcNumber].state;
	LWLockRelease(sabot_direct->lock);
	return state;
}

/*
 * sabot_direct_withdraw - give up our request, whatever its state
 *
 * Returns the state it was in.  If TAKEN, an agent may be using its segment.
 */
SabotDirectState
sabot_direct_withdraw(void)
{
	SabotDirectRequest *request = &sabot_direct->requests[MyProcNumber];
	SabotDirectState state;

	LWLockAcquire(sabot_direct->lock, LW_EXCLUSIVE);
	state = request->state;
	request->withdrawn = true;
	if (state == SABOT_DIRECT_POSTED)
		unchain_locked(request, SABOT_DIRECT_FREE);
	LWLockRelease(sabot_direct->lock);
	return state;
}

/*
 * sabot_direct_get_error - why our request was not answered, if that is known
 *
 * message has room for SABOT_ERROR_LEN bytes.  Returns false if it is not.
 */
bool
sabot_direct_get_error(int *sqlstate, char *message)
{
	SabotDirectRequest *request = &sabot_direct->requests[MyProcNumber];

	*sqlstate = request->sqlstate;
	pg_read_barrier();
	strlcpy(message, request->error, SABOT_ERROR_LEN);
	return *sqlstate != 0;
}

/*
 * sabot_direct_any - whether any request waits, in any database
 */
bool
sabot_direct_any(void)
{
	return sabot_direct != NULL &&
		pg_atomic_read_u32(&sabot_direct->nposted) > 0;
}

/*
 * find_posted_locked - the oldest request of a pair, or NULL
 */
static SabotDirectRequest *
find_posted_locked(Oid dbid, Oid roleid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &sabot_direct->posted)
	{
		SabotDirectRequest *request = dlist_container(SabotDirectRequest, node,
													  iter.cur);

		if (request->dbid == dbid && request->roleid == roleid)
			return request;
	}
	return NULL;
}

/*
 * sabot_direct_is_waiting - whether a request of a pair waits for an agent
 */
bool
sabot_direct_is_waiting(Oid dbid, Oid roleid)
{
	bool		waiting;

	if (!sabot_direct_any())
		return false;
	LWLockAcquire(sabot_direct->lock, LW_SHARED);
	waiting = find_posted_locked(dbid, roleid) != NULL;
	LWLockRelease(sabot_direct->lock);
	return waiting;
}

/*
 * sabot_direct_take - take the oldest request for our agent's role
 *
 * Returns false if there is none.
 */
bool
sabot_direct_take(Oid roleid, SabotDirectTicket *ticket)
{
	SabotDirectRequest *request;

	LWLockAcquire(sabot_direct->lock, LW_EXCLUSIVE);
	request = find_posted_locked(MyDatabaseId, roleid);
	if (request != NULL)
	{
		unchain_locked(request, SABOT_DIRECT_TAKEN);
		ticket->index = request - sabot_direct->requests;
		ticket->seq = request->seq;
		ticket->handle = request->handle;
	}
	LWLockRelease(sabot_direct->lock);
	return request != NULL;
}

/*
 * sabot_direct_withdrawn - whether the caller of a request has gone
 */
bool
sabot_direct_withdrawn(const SabotDirectTicket *ticket)
{
	SabotDirectRequest *request = &sabot_direct->requests[ticket->index];
	bool		withdrawn;

	LWLockAcquire(sabot_direct->lock, LW_SHARED);
	withdrawn = request->seq != ticket->seq || request->withdrawn;
	LWLockRelease(sabot_direct->lock);
	return withdrawn;
}

/*
 * sabot_direct_note_error - say why a request will not be answered
 *
 * Called from error reporting too, so it takes no lock.  Should the caller
 * post another request at just this instant, it might find the wrong reason,
 * but only if that one is not answered either.
 */
void
sabot_direct_note_error(const SabotDirectTicket *ticket, int sqlstate,
						const char *message)
{
	SabotDirectRequest *request = &sabot_direct->requests[ticket->index];

	if (request->seq != ticket->seq)
		return;
	sabot_pool_copy_error(request->error, message);
	pg_write_barrier();
	request->sqlstate = sqlstate;
}

/*
 * sabot_direct_release - our agent has let go of a request and its segment
 *
 * Unless the request was answered its caller is woken: it will get none.
 */
void
sabot_direct_release(const SabotDirectTicket *ticket, bool answered)
{
	SabotDirectRequest *request = &sabot_direct->requests[ticket->index];

	LWLockAcquire(sabot_direct->lock, LW_EXCLUSIVE);
	if (request->seq == ticket->seq)
	{
		request->state = SABOT_DIRECT_FREE;
		if (!answered && !request->withdrawn)
			SetLatch(request->latch);
	}
	LWLockRelease(sabot_direct->lock);
}
