/*-------------------------------------------------------------------------
 *
 * job_attempt.c
 *		Remembers which attempts are under way, over the death of any process.
 *
 * An attempt must be counted before it runs, or a job that crashes its agent
 * or the server would be run for ever; but a commit for each would halve the
 * rate of small jobs.  So the count is a record in a file, written without
 * being forced to disk: it survives the death of every process, though not of
 * the machine.  After a restart the launcher turns what it finds there into
 * orphans, which a prober looks up in the table: a job whose row is still as
 * the attempt found it was not completed.  As whatever comes of an attempt is
 * written there, a record that was left behind after that does no harm.  Which
 * is why it tells the row's version, and not only the attempt's number: not
 * all that comes of an attempt is counted.  Who changes the row of a job that
 * runs, and goes on, has to renew the record.
 *
 * The file lies in pg_stat_tmp, which base backups leave out: a copy of the
 * server has no attempts under way.
 *
 * IDENTIFICATION
 *		src/jobs/job_attempt.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"

#define ATTEMPT_FILE	PG_STAT_TMP_DIR "/sabot.attempts"
#define MAX_ORPHANS		SABOT_MAX_SLOTS

/*
 * The file: an array of records, one for each slot and then one for each
 * orphan.  The layout is only read by the same server on the same machine.
 */
typedef struct AttemptRecord
{
	uint32		magic;			/* ATTEMPT_MAGIC if the record is in use */
	Oid			dbid;
	int64		job_id;
	int32		attempt;
	int32		pid;
	TransactionId version;		/* of the row that the attempt found */
	uint32		unused;			/* what would be padding: all is written */
	TimestampTz started_at;
} AttemptRecord;

#define ATTEMPT_MAGIC	0x5ab07002

/* Everything is protected by lock. */
typedef struct OrphanShared
{
	LWLock	   *lock;
	int			norphans;
	SabotOrphan orphans[MAX_ORPHANS];	/* job_id 0 = free */
} OrphanShared;

static OrphanShared *shared = NULL;
static int	attempt_fd = -1;

/*
 * sabot_orphan_shmem_size - bytes of shared memory the orphans need
 */
Size
sabot_orphan_shmem_size(void)
{
	return MAXALIGN(sizeof(OrphanShared));
}

/*
 * sabot_orphan_shmem_init - create or attach to the orphans
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_orphan_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("sabot orphans", sizeof(OrphanShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(OrphanShared));
		shared->lock = &(GetNamedLWLockTranche("sabot")[3].lock);
	}
}

/*
 * open_file - open the file, once per process
 *
 * It is not one of fd.c's virtual files, as it must be usable in a process
 * that is about to exit.
 */
static void
open_file(void)
{
	if (attempt_fd >= 0)
		return;
	attempt_fd = BasicOpenFile(ATTEMPT_FILE, O_RDWR | O_CREAT | PG_BINARY);
	if (attempt_fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", ATTEMPT_FILE)));
	ReserveExternalFD();
}

/*
 * write_record - write the record with that number; false if it failed
 */
static bool
write_record(int n, const AttemptRecord *record)
{
	return pg_pwrite(attempt_fd, record, sizeof(*record),
					 (off_t) n * sizeof(*record)) == sizeof(*record);
}

/*
 * read_record - read the record with that number; false if it is not in use
 */
static bool
read_record(int n, AttemptRecord *record)
{
	return pg_pread(attempt_fd, record, sizeof(*record),
					(off_t) n * sizeof(*record)) == sizeof(*record) &&
		record->magic == ATTEMPT_MAGIC;
}

/*
 * sabot_attempt_begin - count an attempt of our agent, before it runs
 *
 * Raises an error if that is not possible: what is not counted must not run.
 */
void
sabot_attempt_begin(const SabotJob *job, int attempt)
{
	AttemptRecord record = {ATTEMPT_MAGIC, MyDatabaseId, job->job_id, attempt,
	MyProcPid, job->version, 0, GetCurrentTimestamp()};

	open_file();
	if (!write_record(sabot_my_slot, &record))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", ATTEMPT_FILE)));
	sabot_pool_note_attempt(attempt);
}

/*
 * sabot_attempt_renew - our agent's attempt goes on, though its job's row has
 * been changed: by a transaction that is committed, of our agent's
 *
 * Updates what job says of the row.  Raises an error if the attempt cannot be
 * counted anymore.  In no transaction.
 */
void
sabot_attempt_renew(SabotJob *job)
{
	AttemptRecord record;
	SabotOwn	own;
	SabotJob   *now;

	sabot_own_start_transaction(&own);
	now = sabot_job_read(job->job_id);
	if (now != NULL)
	{
		job->version = now->version;
		job->losses = now->losses;
	}
	sabot_own_commit_transaction(&own);
	if (!read_record(sabot_my_slot, &record))
		return;
	record.version = job->version;
	if (!write_record(sabot_my_slot, &record))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", ATTEMPT_FILE)));
}

/*
 * sabot_attempt_end - our agent's attempt has ended, and what came of it is
 * committed, or it is given back
 *
 * A record that could not be removed does no harm: its job's row tells that
 * the attempt ended.  Must not raise errors: used in processes that exit.
 */
void
sabot_attempt_end(void)
{
	AttemptRecord record = {0};

	if (attempt_fd >= 0)
		(void) write_record(sabot_my_slot, &record);
}

/*
 * fill_orphan_locked - make an orphan of a record
 */
static void
fill_orphan_locked(int n, const AttemptRecord *record, int sqlstate,
				   const char *error)
{
	SabotOrphan *orphan = &shared->orphans[n];

	Assert(orphan->job_id == 0);
	shared->norphans++;
	orphan->dbid = record->dbid;
	orphan->attempt = record->attempt;
	orphan->job_id = record->job_id;
	orphan->pid = record->pid;
	orphan->version = record->version;
	orphan->started_at = record->started_at;
	orphan->sqlstate = sqlstate;
	strlcpy(orphan->error, error, SABOT_ERROR_LEN);
}

/*
 * add_orphan - note an attempt that ended without a word, in memory and file
 *
 * There are no more orphans than slots but after several crashes in a row
 * that nobody had time to recover from; what finds no room then is tried
 * again without being counted.
 */
static void
add_orphan(const AttemptRecord *record, int sqlstate, const char *error)
{
	int			n = -1;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ORPHANS && n < 0; i++)
		if (shared->orphans[i].job_id == 0)
			n = i;
	if (n >= 0)
		fill_orphan_locked(n, record, sqlstate, error);
	LWLockRelease(shared->lock);
	if (n >= 0)
		(void) write_record(SABOT_MAX_SLOTS + n, record);
	sabot_pool_request_probe(record->dbid);
}

/*
 * load_orphans - take up the orphans that were not dealt with before a crash
 */
static void
load_orphans(void)
{
	for (int i = 0; i < MAX_ORPHANS; i++)
	{
		AttemptRecord record;

		if (!read_record(SABOT_MAX_SLOTS + i, &record))
			continue;
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		if (shared->orphans[i].job_id == 0)
			fill_orphan_locked(i, &record, 0, "");
		LWLockRelease(shared->lock);
		sabot_pool_request_probe(record.dbid);
	}
}

/*
 * sabot_attempt_startup - make orphans of what ran when the server went down
 *
 * Called by the launcher before anything runs.  If it is the launcher alone
 * that was restarted, agents are at work, and their records are left alone.
 */
void
sabot_attempt_startup(void)
{
	AttemptRecord record;
	AttemptRecord none = {0};
	SabotSlot  *slots = palloc(sizeof(SabotSlot) * Max(1, sabot_pool_nslots()));

	open_file();
	load_orphans();
	sabot_pool_copy_slots(slots);
	for (int i = 0; i < SABOT_MAX_SLOTS; i++)
	{
		if (i < sabot_pool_nslots() && slots[i].state != SABOT_SLOT_FREE)
			continue;
		if (!read_record(i, &record))
			continue;
		add_orphan(&record, 0, "");
		(void) write_record(i, &none);
	}
	pfree(slots);
}

/*
 * sabot_attempt_bury - make an orphan of what an agent did that died
 *
 * Called by the launcher, in the place of the agent's slot.  If there is no
 * record, the attempt had not begun or has ended.
 */
void
sabot_attempt_bury(int slotno, const SabotSlot *slot)
{
	AttemptRecord record;
	AttemptRecord none = {0};
	SabotPairKey key = {slot->dbid, slot->roleid, slot->crew};

	open_file();
	if (read_record(slotno, &record) && record.pid == slot->pid &&
		record.dbid == slot->dbid && record.job_id == slot->work_id)
		add_orphan(&record, slot->sqlstate, slot->error);
	else
	{
		sabot_scan_request(slot->dbid, slot->roleid);
		sabot_pool_wake(key, 1, GetCurrentTimestamp());
	}
	(void) write_record(slotno, &none);
}

/*
 * sabot_orphan_copy - the orphans of this database; returns how many
 */
int
sabot_orphan_copy(SabotOrphan **orphans)
{
	int			n = 0;

	*orphans = palloc(sizeof(SabotOrphan) * MAX_ORPHANS);
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_ORPHANS; i++)
		if (shared->orphans[i].job_id != 0 &&
			shared->orphans[i].dbid == MyDatabaseId)
			(*orphans)[n++] = shared->orphans[i];
	LWLockRelease(shared->lock);
	return n;
}

/*
 * sabot_orphan_exists - whether a job of this database was lost and nobody has
 * dealt with that yet
 *
 * Such a job is not to be run, though its row looks ready.  To be asked by the
 * agent that has taken the job and before it reads the row: its predecessor
 * gave up the job after becoming an orphan, and an orphan goes after its row
 * was written.
 */
bool
sabot_orphan_exists(int64 job_id)
{
	bool		found = false;

	/* Unlocked: taking the job from the slots has shown us what came before. */
	if (shared->norphans == 0)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_ORPHANS && !found; i++)
		found = shared->orphans[i].job_id == job_id &&
			shared->orphans[i].dbid == MyDatabaseId;
	LWLockRelease(shared->lock);
	return found;
}

/*
 * sabot_orphan_done - an orphan has been dealt with
 */
void
sabot_orphan_done(const SabotOrphan *orphan)
{
	AttemptRecord none = {0};
	int			n = -1;

	open_file();
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ORPHANS && n < 0; i++)
		if (shared->orphans[i].job_id == orphan->job_id &&
			shared->orphans[i].attempt == orphan->attempt &&
			shared->orphans[i].dbid == orphan->dbid)
			n = i;
	if (n >= 0)
	{
		memset(&shared->orphans[n], 0, sizeof(SabotOrphan));
		shared->norphans--;
	}
	LWLockRelease(shared->lock);
	if (n >= 0)
		(void) write_record(SABOT_MAX_SLOTS + n, &none);
}
