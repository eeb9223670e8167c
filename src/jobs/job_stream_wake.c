/*-------------------------------------------------------------------------
 *
 * job_stream_wake.c
 *		Wakes who takes the rows of a capture, when there are some.
 *
 * A stream with nothing to do has no agent, and is not to be polled; and those
 * that write must not wait for each other to have it woken, as they would if
 * each updated its row.  So it waits here, armed: the first commit with rows
 * for it disarms it and pushes its id to its pair, as a submission does; those
 * after it find it disarmed, and do nothing.  Who takes rows arms it before it
 * looks whether there are some left.  So either it sees them, or their commit
 * sees that it is armed.
 *
 * The table remains the truth: a stream that is not here is made known by a
 * prober, which then looks for rows of it.  One that does not find room is
 * woken by probers only.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_wake.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "jobs/job_stream.h"

/* Streams that can be known, in all databases. */
#define MAX_ENTRIES 1024

/* A stream; everything is protected by the lock. */
typedef struct Entry
{
	struct
	{
		Oid			dbid;
		Oid			padding;
		int64		job_id;
	}			key;			/* hash key, must be first */
	Oid			owner;
	int32		priority;
	bool		armed;			/* the next commit with rows wakes it */
	bool		listens;		/* there was none since it began to */
	char		queue[NAMEDATALEN];
} Entry;

static LWLock *lock = NULL;
static HTAB *entries = NULL;

/* A job whose rows we write ourselves, 0 = none. */
static int64 hushed_job = 0;

/*
 * sabot_stream_shmem_size - bytes of shared memory the streams need
 */
Size
sabot_stream_shmem_size(void)
{
	return hash_estimate_size(MAX_ENTRIES, sizeof(Entry));
}

/*
 * sabot_stream_shmem_init - create or attach to the streams
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_stream_shmem_init(void)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(((Entry *) NULL)->key);
	info.entrysize = sizeof(Entry);
	entries = ShmemInitHash("sabot streams", MAX_ENTRIES, MAX_ENTRIES, &info,
							HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	lock = &(GetNamedLWLockTranche("sabot")[5].lock);
}

/*
 * find_locked - the entry of a stream of this database, or NULL
 */
static Entry *
find_locked(int64 job_id, HASHACTION action)
{
	Entry		key = {0};

	key.key.dbid = MyDatabaseId;
	key.key.job_id = job_id;
	return hash_search(entries, &key.key, action, NULL);
}

/*
 * enter - make a capture known, as it is to be
 */
static void
enter(const SabotJob *job, bool armed, bool listens)
{
	Entry	   *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_locked(job->job_id, HASH_ENTER_NULL);
	if (entry != NULL)
	{
		entry->owner = job->owner;
		entry->priority = job->priority;
		entry->armed = armed;
		entry->listens = listens;
		strlcpy(entry->queue, job->queue, NAMEDATALEN);
	}
	LWLockRelease(lock);
}

/*
 * sabot_capture_enter - make a capture known, armed or not
 *
 * Who arms it looks for rows after this.
 */
void
sabot_capture_enter(const SabotJob *job, bool armed)
{
	enter(job, armed, false);
}

/*
 * sabot_capture_listen - from now on, remember whether there was a commit with
 * rows of a capture; nobody is woken
 *
 * For who works on the job anyway.  He looks for rows after this.
 */
void
sabot_capture_listen(const SabotJob *job)
{
	enter(job, false, true);
}

/*
 * sabot_capture_has_heard - whether there may have been such a commit since
 */
bool
sabot_capture_has_heard(int64 job_id)
{
	Entry	   *entry;
	bool		listens;

	LWLockAcquire(lock, LW_SHARED);
	entry = find_locked(job_id, HASH_FIND);
	listens = entry != NULL && entry->listens;
	LWLockRelease(lock);
	return !listens;
}

/*
 * sabot_capture_forget - a capture of this database has ended
 */
void
sabot_capture_forget(int64 job_id)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	(void) find_locked(job_id, HASH_REMOVE);
	LWLockRelease(lock);
}

/*
 * sabot_capture_forget_all - the captures of a database are gone with it, or
 * with the extension
 *
 * Cannot fail: it is called after commits.
 */
void
sabot_capture_forget_all(Oid dbid)
{
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	if (lock == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->key.dbid == dbid)
			(void) hash_search(entries, &entry->key, HASH_REMOVE, NULL);
	LWLockRelease(lock);
}

/*
 * look_up - a copy of the entry of a capture; false if it is not known
 */
static bool
look_up(int64 job_id, Entry *copy)
{
	Entry	   *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = find_locked(job_id, HASH_FIND);
	if (entry != NULL)
		*copy = *entry;
	LWLockRelease(lock);
	return entry != NULL;
}

/*
 * sabot_capture_wake_begin - rows of a capture are about to be committed
 *
 * Does what could fail after the commit.
 */
void
sabot_capture_wake_begin(int64 job_id)
{
	Entry		entry;

	if (lock != NULL && look_up(job_id, &entry) && entry.armed)
		(void) sabot_pool_prepare_pair(sabot_job_pair(entry.owner, entry.queue),
									   true);
}

/*
 * disarm - disarm a capture; false if somebody else has
 */
static bool
disarm(int64 job_id)
{
	Entry	   *entry;
	bool		was_armed;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_locked(job_id, HASH_FIND);
	was_armed = entry != NULL && entry->armed;
	if (entry != NULL)
		entry->armed = entry->listens = false;
	LWLockRelease(lock);
	return was_armed;
}

/*
 * sabot_capture_hush - the transaction that is about to commit is of who takes
 * the rows of a capture anyway: it is to wake nobody for that
 */
void
sabot_capture_hush(int64 job_id)
{
	hushed_job = job_id;
}

/*
 * sabot_capture_wake - rows of a capture were committed
 *
 * Cannot fail: it is called after commits.
 */
void
sabot_capture_wake(int64 job_id)
{
	Entry		entry;
	SabotReady	ready = {.job_id = job_id};

	if (lock == NULL || job_id == hushed_job)
		return;
	if (!look_up(job_id, &entry))
	{
		sabot_pool_request_probe(MyDatabaseId);
		return;
	}
	if ((!entry.armed && !entry.listens) || !disarm(job_id))
		return;
	ready.priority = entry.priority;
	ready.pushed_at = GetCurrentTimestamp();
	/* Other crews look into the table. */
	if (sabot_queue_crew(entry.queue) == SABOT_AGENTS)
		sabot_ready_push(MyDatabaseId, entry.owner, entry.queue, &ready);
	sabot_pool_wake(sabot_job_pair(entry.owner, entry.queue), 1, 0);
}

/*
 * next_database - the database with the lowest OID above one that captures for
 * a role are known in, or InvalidOid
 */
static Oid
next_database(Oid owner, Oid after)
{
	Oid			next = InvalidOid;
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	LWLockAcquire(lock, LW_SHARED);
	hash_seq_init(&scan, entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->owner == owner && entry->key.dbid > after &&
			(!OidIsValid(next) || entry->key.dbid < next))
			next = entry->key.dbid;
	LWLockRelease(lock);
	return next;
}

/*
 * sabot_capture_owner_gone - a role was dropped: have what is captured for it
 * ended, in whichever database
 *
 * Called after commits, so that it must not fail.
 */
void
sabot_capture_owner_gone(Oid owner)
{
	Oid			dbid = InvalidOid;

	if (lock == NULL)
		return;
	while (OidIsValid(dbid = next_database(owner, dbid)))
		sabot_pool_request_probe(dbid);
}
