/*-------------------------------------------------------------------------
 *
 * job_scan.c
 *		When an agent reads the table from the beginning.
 *
 * Agents are told of jobs, and look into the table for what they may not have
 * been told of.  While somebody holds an old snapshot such a scan passes every
 * job that has ended since, so it takes the longer the more these are.  An
 * agent scans every two seconds, as long as that costs its pair next to
 * nothing, and less often when it takes long; unless there is a reason to
 * think that something is missing, then it scans at once.
 *
 * IDENTIFICATION
 *		src/jobs/job_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"

/* An agent scans no more often than this, in ms. */
#define SCAN_EVERY_MS	2000

/*
 * After a scan no agent of the pair begins one for so many times as long as it
 * took, but for so many ms at most.
 */
#define REST_FACTOR		20
#define REST_MAX_MS		2000

/* The last scan of the agent in the place of its slot. */
typedef struct Scan
{
	Oid			dbid;			/* InvalidOid if there is no such agent */
	Oid			roleid;
	TimestampTz began_at;		/* 0 = has to scan */
	int64		took_ms;		/* while it lasts: the pair's longest before */
} Scan;

/* Everything is protected by the lock of the ready jobs. */
typedef struct ScanShared
{
	LWLock	   *lock;
	Scan		scans[SABOT_MAX_SLOTS];
} ScanShared;

static ScanShared *shared = NULL;

/*
 * sabot_scan_shmem_size - bytes of shared memory the scans need
 */
Size
sabot_scan_shmem_size(void)
{
	return MAXALIGN(sizeof(ScanShared));
}

/*
 * sabot_scan_shmem_init - create or attach to the scans
 *
 * Called with AddinShmemInitLock held.  lock is that of the ready jobs.
 */
void
sabot_scan_shmem_init(LWLock *lock)
{
	bool		found;

	shared = ShmemInitStruct("sabot scans", sizeof(ScanShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(ScanShared));
		shared->lock = lock;
	}
}

/*
 * sabot_scan_join - our agent has joined its pair, and has yet to scan
 */
void
sabot_scan_join(void)
{
	Scan		scan = {MyDatabaseId, GetSessionUserId()};

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->scans[sabot_my_slot] = scan;
	LWLockRelease(shared->lock);
}

/*
 * sabot_scan_leave - our agent scans no more; nobody is to rest on that
 */
void
sabot_scan_leave(void)
{
	Scan		none = {0};

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->scans[sabot_my_slot] = none;
	LWLockRelease(shared->lock);
}

/*
 * sabot_scan_request - jobs of a pair may be ready that its agents do not know
 * of, be it that their lanes lack them or that there is no lane
 *
 * The agents read the table before they go on; they have yet to be woken.
 */
void
sabot_scan_request(Oid dbid, Oid roleid)
{
	sabot_ready_distrust(dbid, roleid);
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sabot_pool_nslots(); i++)
		if (shared->scans[i].dbid == dbid && shared->scans[i].roleid == roleid)
			shared->scans[i].began_at = 0;
	LWLockRelease(shared->lock);
}

/*
 * is_my_pair_locked - whether a scan was one of our agent's pair
 */
static bool
is_my_pair_locked(const Scan *scan)
{
	return scan->dbid == MyDatabaseId &&
		scan->roleid == shared->scans[sabot_my_slot].roleid;
}

/*
 * sabot_scan_is_due - whether it is time for our agent to scan
 */
bool
sabot_scan_is_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		due;

	LWLockAcquire(shared->lock, LW_SHARED);
	due = TimestampDifferenceExceeds(shared->scans[sabot_my_slot].began_at,
									 now, SCAN_EVERY_MS);
	for (int i = 0; i < sabot_pool_nslots() && due; i++)
	{
		Scan	   *scan = &shared->scans[i];
		int64		rest = Min(scan->took_ms * REST_FACTOR, REST_MAX_MS);

		if (is_my_pair_locked(scan))
			due = TimestampDifferenceExceeds(scan->began_at, now, (int) rest);
	}
	LWLockRelease(shared->lock);
	return due;
}

/*
 * sabot_scan_is_requested - whether our agent has a reason to scan, and does
 * not do so just because it is time
 */
bool
sabot_scan_is_requested(void)
{
	bool		requested;

	LWLockAcquire(shared->lock, LW_SHARED);
	requested = shared->scans[sabot_my_slot].began_at == 0;
	LWLockRelease(shared->lock);
	return requested;
}

/*
 * sabot_scan_begin - our agent begins to scan; returns when that was
 *
 * It is expected to take as long as the scans of the pair did before.
 */
TimestampTz
sabot_scan_begin(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Scan	   *mine = &shared->scans[sabot_my_slot];

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	mine->began_at = now;
	for (int i = 0; i < sabot_pool_nslots(); i++)
		if (is_my_pair_locked(&shared->scans[i]))
			mine->took_ms = Max(mine->took_ms, shared->scans[i].took_ms);
	LWLockRelease(shared->lock);
	return now;
}

/*
 * sabot_scan_end - our agent has done the scan that it began at that time
 *
 * One that was requested meanwhile remains to be done.
 */
void
sabot_scan_end(TimestampTz began_at)
{
	int64		took_ms = TimestampDifferenceMilliseconds(began_at,
														  GetCurrentTimestamp());

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->scans[sabot_my_slot].took_ms = took_ms;
	LWLockRelease(shared->lock);
	sabot_ready_has_read();
}
