/*-------------------------------------------------------------------------
 *
 * job_agent.c
 *		What agents, probers and the launcher do for jobs.
 *
 * The callbacks of the pool's work source.  An agent serves sabot.run first,
 * as somebody waits for that, then jobs.
 *
 * IDENTIFICATION
 *		src/jobs/job_agent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "guc.h"
#include "jobs/job_stream.h"

/* A pair is served this long, in ms, before another one's turn may come. */
#define AGENT_SLICE_MS	250

/*
 * attach - an agent has connected
 *
 * In a database without the extension there is nothing to do for it.
 */
static void
attach(void)
{
	uint64		wake_seq = sabot_pool_wake_seq(sabot_my_pair());
	bool		exists;

	StartTransactionCommand();
	exists = sabot_catalog(true) != NULL;
	CommitTransactionCommand();
	if (!exists)
	{
		/* If there is work now, it was created since: somebody else will see. */
		(void) sabot_pool_forgive_pair(sabot_my_pair(), wake_seq);
		proc_exit(0);
	}
	/* From here on pushes reach us, so that the scan after it misses none. */
	sabot_scan_join();
	sabot_ready_join();
	sabot_queue_load();
}

/*
 * detach - an agent is about to exit, maybe in the middle of something
 *
 * When the server is stopped cleanly the work is given back: its attempt is
 * not counted.
 */
static void
detach(bool interrupted)
{
	sabot_scan_leave();
	sabot_ready_leave(interrupted);
	if (sabot_agent_server_stops() && sabot_run_give_back())
		sabot_attempt_end();
}

/*
 * found_nothing - our agent has looked for work and there is none
 *
 * wake_seq is the pair's from before it looked.
 */
static void
found_nothing(uint64 wake_seq)
{
	sabot_pool_no_work(sabot_my_pair(), wake_seq);
	if (sabot_ready_is_held())
		sabot_pool_hold(sabot_my_pair());
	sabot_purge_if_due();
}

/*
 * run_next - do the next thing there is to do; false if there is none
 */
static bool
run_next(void)
{
	uint64		wake_seq = sabot_pool_wake_seq(sabot_my_pair());
	SabotReady	entry;
	char		queue[NAMEDATALEN];

	if (sabot_direct_run_next())
		return true;
	if (sabot_refill_is_overdue())
		sabot_refill();
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		switch (sabot_ready_claim(&entry, queue))
		{
			case SABOT_CLAIM_TAKEN:
				sabot_job_run(&entry, queue);
				return true;
			case SABOT_CLAIM_REFILL:
				if (sabot_ready_lane_to_fill(queue))
					sabot_refill_lane(queue);
				break;
			case SABOT_CLAIM_NONE:
				if (!sabot_refill_is_due())
				{
					found_nothing(wake_seq);
					return false;
				}
				sabot_refill();
				break;
		}
	}
}

/*
 * stopping - an agent is dying; whether its work is lost
 */
static bool
stopping(bool server_stops)
{
	return !server_stops;
}

static const SabotWorkSource jobs_work_source = {
	.type = "sabot agent",
	.limit = &sabot_pool_size,
	.idle_timeout = &sabot_agent_idle_timeout,
	.slice_ms = AGENT_SLICE_MS,
	.attach = attach,
	.run_next = run_next,
	.detach = detach,
	.probe = sabot_jobs_probe,
	.startup = sabot_attempt_startup,
	.bury = sabot_attempt_bury,
	.stopping = stopping,
	.before_drop = sabot_capture_before_drop
};

/*
 * sabot_jobs_work_source - what the pool's processes do for this room
 */
const SabotWorkSource *
sabot_jobs_work_source(void)
{
	return &jobs_work_source;
}
