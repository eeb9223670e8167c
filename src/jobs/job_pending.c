/*-------------------------------------------------------------------------
 *
 * job_pending.c
 *		What takes effect when the current transaction commits.
 *
 * Submitting a job is a row; that agents hear of it must wait until the row
 * is visible to them, and must then not be able to fail, as there is no way
 * back after the commit record.  So everything that could fail (memory, room
 * in shared memory, writing the rows of a cancel) is done before the commit,
 * and what is left after it only sets fields in shared memory and latches.
 *
 * That is left until the transaction has let go of its locks.  The callback of
 * a commit comes earlier, before others are told which of their catalog caches
 * are out of date: an agent that is quick would not find the function or the
 * privilege that came with the job.
 *
 * What a subtransaction noted goes with it when it is rolled back.  PREPARE
 * TRANSACTION drops the wakes, but not that there were some: COMMIT PREPARED
 * has the database probed then.
 *
 * IDENTIFICATION
 *		src/jobs/job_pending.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "jobs/job_stream.h"
#include "jobs/jobs.h"

typedef enum PendingKind
{
	PENDING_SUBMIT,				/* a job became ready, or will be due */
	PENDING_INTERRUPT,			/* a job is cancelled or paused */
	PENDING_RESUME,				/* a job that waits for others goes on */
	PENDING_SETTLE,				/* a job waits for others from now on */
	PENDING_WAKEUP,				/* a job has ended or changed */
	PENDING_CALL,				/* whatever else is to be done to a job */
	PENDING_SIGNAL,				/* a request is taken back */
	PENDING_QUEUE				/* a queue's settings changed */
} PendingKind;

/* One effect; lives in TopTransactionContext. */
typedef struct Pending
{
	PendingKind kind;
	SubTransactionId subid;
	int64		job_id;
	int32		priority;
	Oid			owner;
	TimestampTz run_after;		/* 0 = ready now */
	TimestampTz submitted_at;
	SabotInterrupt reason;
	bool		signaled;		/* by its row in sabot.job_signal */
	bool		written;		/* the tables say so already */
	bool		paused;
	int			max_running;
	void		(*apply) (int64 job_id, void *arg);
	void	   *arg;
	char		queue[NAMEDATALEN];
} Pending;

static Pending *pending = NULL;
static int	npending = 0;
static int	maxpending = 0;

/* For what is pending, rows of jobs are being written that others look at. */
static bool writing = false;

/* The transaction has committed, and nobody was told yet. */
static bool committed = false;

/*
 * add_pending - room for one more effect of the current subtransaction
 */
static Pending *
add_pending(PendingKind kind)
{
	Pending    *item;

	if (pending == NULL)
	{
		maxpending = 8;
		pending = MemoryContextAlloc(TopTransactionContext,
									 sizeof(Pending) * maxpending);
	}
	else if (npending == maxpending)
	{
		maxpending *= 2;
		pending = repalloc_huge(pending, sizeof(Pending) * maxpending);
	}
	item = &pending[npending++];
	memset(item, 0, sizeof(*item));
	item->kind = kind;
	item->subid = GetCurrentSubTransactionId();
	return item;
}

/*
 * sabot_pending_submit - tell the agents of a job when this commits
 *
 * run_after is 0 if it is ready at once.  submitted_at is 0 if the job is not
 * to be profiled.
 */
void
sabot_pending_submit(int64 job_id, int32 priority, const char *queue,
					 Oid owner, TimestampTz run_after,
					 TimestampTz submitted_at)
{
	Pending    *item = add_pending(PENDING_SUBMIT);

	item->job_id = job_id;
	item->priority = priority;
	item->owner = owner;
	item->run_after = run_after;
	item->submitted_at = submitted_at;
	strlcpy(item->queue, queue, NAMEDATALEN);
}

/*
 * sabot_pending_interrupt - cancel or pause an unfinished job when this
 * commits
 */
void
sabot_pending_interrupt(int64 job_id, SabotInterrupt reason)
{
	Pending    *item = add_pending(PENDING_INTERRUPT);

	item->job_id = job_id;
	item->reason = reason;
}

/*
 * sabot_pending_signal - interrupt a running job when this commits
 *
 * That it is asked is in sabot.job_signal already.
 */
void
sabot_pending_signal(int64 job_id, SabotInterrupt reason)
{
	sabot_pending_interrupt(job_id, reason);
	pending[npending - 1].signaled = true;
	pending[npending - 1].written = true;
}

/*
 * sabot_pending_resume - resume a graph, a job that waits for others, or one
 * that this transaction has asked to be paused, when this commits
 */
void
sabot_pending_resume(int64 job_id)
{
	add_pending(PENDING_RESUME)->job_id = job_id;
}

/*
 * sabot_pending_settle - see when this commits what a job that this
 * transaction has made wait has left to wait for
 */
void
sabot_pending_settle(int64 job_id)
{
	add_pending(PENDING_SETTLE)->job_id = job_id;
}

/*
 * sabot_pending_wakeup - have those look at a job that wait for it, when this
 * commits
 */
void
sabot_pending_wakeup(int64 job_id)
{
	add_pending(PENDING_WAKEUP)->job_id = job_id;
}

/*
 * sabot_pending_take_back - a request to a job is being taken back
 *
 * Who is to obey it passes it over from now on.
 */
void
sabot_pending_take_back(int64 job_id)
{
	add_pending(PENDING_SIGNAL)->job_id = job_id;
}

/*
 * sabot_pending_call - have a function change a job's row when this commits
 *
 * arg must live until then.
 */
void
sabot_pending_call(int64 job_id, void (*apply) (int64 job_id, void *arg),
				   void *arg)
{
	Pending    *item = add_pending(PENDING_CALL);

	item->job_id = job_id;
	item->apply = apply;
	item->arg = arg;
}

/*
 * sabot_pending_queue - put a queue's settings in force when this commits
 */
void
sabot_pending_queue(const char *queue, bool paused, int max_running)
{
	Pending    *item = add_pending(PENDING_QUEUE);

	strlcpy(item->queue, queue, NAMEDATALEN);
	item->paused = paused;
	item->max_running = max_running;
}

/*
 * sabot_submit_is_pending - whether a job was submitted by this transaction
 */
bool
sabot_submit_is_pending(int64 job_id)
{
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_SUBMIT && pending[i].job_id == job_id)
			return true;
	return false;
}

/*
 * sabot_pause_is_pending - whether this transaction has asked for the pause of a
 * job
 */
bool
sabot_pause_is_pending(int64 job_id)
{
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_INTERRUPT && pending[i].job_id == job_id &&
			pending[i].reason == SABOT_INTERRUPT_PAUSE)
			return true;
	return false;
}

/*
 * same_pair - whether two submissions are for the same agents
 */
static bool
same_pair(const Pending *a, const Pending *b)
{
	return a->kind == PENDING_SUBMIT && b->kind == PENDING_SUBMIT &&
		a->owner == b->owner &&
		sabot_queue_crew(a->queue) == sabot_queue_crew(b->queue);
}

/*
 * change_rows - write what is to be written for one effect
 *
 * That may add others, which are then still ahead.
 */
static void
change_rows(int n)
{
	int64		job_id = pending[n].job_id;
	bool		signaled;

	writing |= pending[n].kind == PENDING_RESUME ||
		pending[n].kind == PENDING_CALL ||
		pending[n].kind == PENDING_INTERRUPT;
	if (pending[n].kind == PENDING_RESUME)
		sabot_job_resume_waiting(job_id);
	else if (pending[n].kind == PENDING_CALL)
		pending[n].apply(job_id, pending[n].arg);
	else if (pending[n].kind == PENDING_INTERRUPT && !pending[n].written)
	{
		signaled = sabot_job_interrupt_row(job_id, pending[n].reason);
		pending[n].signaled = signaled;
	}
}

/*
 * before_commit - do everything that can fail
 *
 * Jobs that wait are settled last: until the commit that holds up those that
 * are about to end what they wait for.
 */
static void
before_commit(bool prepare)
{
	for (int i = 0; i < npending; i++)
		change_rows(i);
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_SETTLE)
			sabot_depend_settle(pending[i].job_id, !prepare);
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_SUBMIT &&
			(i == 0 || !same_pair(&pending[i], &pending[i - 1])))
			(void) sabot_pool_prepare_pair(sabot_job_pair(pending[i].owner,
														  pending[i].queue),
										   pending[i].run_after == 0);
}

/*
 * wake_pair - wake agents for all submissions of the pair of one
 */
static void
wake_pair(const Pending *one)
{
	int64		nready = 0;
	TimestampTz next_due = 0;

	for (int i = 0; i < npending; i++)
	{
		if (!same_pair(&pending[i], one))
			continue;
		if (pending[i].run_after == 0)
			nready++;
		else if (next_due == 0 || pending[i].run_after < next_due)
			next_due = pending[i].run_after;
	}
	sabot_pool_wake(sabot_job_pair(one->owner, one->queue), nready, next_due);
}

/*
 * is_first_of_pair - whether no earlier item is for the same agents
 */
static bool
is_first_of_pair(int n)
{
	for (int i = n - 1; i >= 0; i--)
	{
		/* Runs of the same pair are the rule: look no further. */
		if (same_pair(&pending[i], &pending[n]))
			return false;
	}
	return true;
}

/*
 * after_commit - take effect; nothing here can fail
 *
 * Queues first: a job that comes with the pause of its queue is not to start.
 */
static void
after_commit(void)
{
	TimestampTz now = npending > 0 ? GetCurrentTimestamp() : 0;

	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_QUEUE)
			sabot_queue_changed(pending[i].queue, pending[i].paused,
								pending[i].max_running);
	for (int i = 0; i < npending; i++)
	{
		Pending    *item = &pending[i];
		SabotReady	entry = {item->job_id, item->priority,
		item->submitted_at, now};

		if (item->kind == PENDING_SUBMIT && item->run_after == 0)
		{
			/* Other crews look into the table. */
			if (sabot_queue_crew(item->queue) == SABOT_AGENTS)
				sabot_ready_push(MyDatabaseId, item->owner, item->queue, &entry);
		}
		else if (item->kind == PENDING_INTERRUPT)
		{
			/* If its attempt has ended just now, a prober has to see to it. */
			if (!sabot_pool_interrupt(MyDatabaseId, item->job_id, item->reason) &&
				item->signaled)
				sabot_pool_request_probe(MyDatabaseId);
			sabot_wait_wakeup(item->job_id);
		}
		else if (item->kind == PENDING_WAKEUP)
			sabot_wait_wakeup(item->job_id);
	}
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_SUBMIT && is_first_of_pair(i))
			wake_pair(&pending[i]);
}

/*
 * give_up - what is pending from one item on is rolled back
 *
 * Others pass over what somebody is about to change, as he will tell of it.  If
 * he does not change it after all a prober looks for it.  passed_over tells
 * that there may be something, requests aside.
 */
static void
give_up(int first, bool passed_over)
{
	for (int i = first; i < npending && !passed_over; i++)
		passed_over = pending[i].kind == PENDING_SIGNAL;
	if (passed_over && !sabot_jobs_probing())
		sabot_pool_request_probe(MyDatabaseId);
	npending = first;
}

/*
 * refuse_prepare - interrupts cannot wait for COMMIT PREPARED
 */
static void
refuse_prepare(void)
{
	for (int i = 0; i < npending; i++)
		if (pending[i].kind == PENDING_INTERRUPT ||
			pending[i].kind == PENDING_RESUME ||
			pending[i].kind == PENDING_CALL ||
			pending[i].kind == PENDING_SIGNAL ||
			pending[i].kind == PENDING_QUEUE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has cancelled or paused jobs or changed queues or schedules")));
}

/*
 * forget - nothing is pending anymore; the memory goes with the transaction
 */
static void
forget(void)
{
	pending = NULL;
	npending = 0;
	writing = committed = false;
}

/*
 * end_of_transaction - transaction callback
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			before_commit(false);
			return;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			before_commit(true);
			if (npending > 0)
				sabot_pool_prepare_work();
			return;
		case XACT_EVENT_COMMIT:
			sabot_count_end(true);
			committed = true;
			return;
		case XACT_EVENT_ABORT:
			give_up(0, writing);
			sabot_count_end(false);
			break;
		case XACT_EVENT_PREPARE:
			sabot_count_end(false);
			break;
		default:
			return;
	}
	forget();
}

/*
 * end_of_locks - callback for the release of resources: the transaction has
 * let go of everything
 */
static void
end_of_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
			 void *arg)
{
	if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	sabot_capture_committed();
	after_commit();
	forget();
}

/*
 * end_of_subtransaction - subtransaction callback
 *
 * Effects of children that committed have become ours before we end.
 */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		int			first = npending;

		while (first > 0 && pending[first - 1].subid == subid)
			first--;
		give_up(first, false);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = npending - 1; i >= 0 && pending[i].subid == subid; i--)
			pending[i].subid = parent;
	}
}

/*
 * sabot_jobs_install_hooks - install the callbacks of this room
 */
void
sabot_jobs_install_hooks(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
	RegisterResourceReleaseCallback(end_of_locks, NULL);
	/* The last one is the first: no rows are left when jobs are settled. */
	sabot_capture_install_hooks();
}
