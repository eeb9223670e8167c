/*-------------------------------------------------------------------------
 *
 * job_queue.c
 *		Pause and limits of queues.
 *
 * A queue is only a name, and most need no more than that.  Those that are
 * paused or limited have a row in sabot.queue and, for the agents, an entry
 * in shared memory, changed when the change of the row commits and read again
 * whenever an agent connects.  How many jobs of a queue run is not counted
 * but seen from the slots, so that it cannot be wrong after a crash.
 *
 * The entry changes a moment after the row does, and in that moment an agent
 * may read from the table a job that was submitted together with its queue's
 * pause.  So whoever reads ids from the table reads the queues after them,
 * before anybody can take the jobs.
 *
 * IDENTIFICATION
 *		src/jobs/job_queue.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "jobs/jobs.h"

/* Queues that can be paused or limited, in all databases together. */
#define MAX_QUEUES 1024

/* A queue that is paused or limited. */
typedef struct QueueEntry
{
	Oid			dbid;			/* InvalidOid if the entry is free */
	char		queue[NAMEDATALEN];
	bool		paused;
	int			max_running;	/* 0 = no limit */
} QueueEntry;

/* Everything is protected by the lock of the ready jobs. */
typedef struct QueueShared
{
	LWLock	   *lock;
	uint64		changes;		/* counts them */
	int			nentries;		/* entries in use are among the first ones */
	QueueEntry	entries[MAX_QUEUES];
} QueueShared;

static QueueShared *queues = NULL;

PG_FUNCTION_INFO_V1(sabot_pause_queue);
PG_FUNCTION_INFO_V1(sabot_resume_queue);
PG_FUNCTION_INFO_V1(sabot_set_queue_limit);

/*
 * sabot_queue_shmem_size - bytes of shared memory the queues need
 */
Size
sabot_queue_shmem_size(void)
{
	return MAXALIGN(sizeof(QueueShared));
}

/*
 * sabot_queue_shmem_init - create or attach to the queues
 *
 * Called with AddinShmemInitLock held.  lock is that of the ready jobs.
 */
void
sabot_queue_shmem_init(LWLock *lock)
{
	bool		found;

	queues = ShmemInitStruct("sabot queues", sizeof(QueueShared), &found);
	if (!found)
	{
		memset(queues, 0, sizeof(QueueShared));
		queues->lock = lock;
	}
}

/*
 * sabot_queue_tag - what agents that work for a queue are counted by
 */
uint64
sabot_queue_tag(const char *queue)
{
	return hash_bytes_extended((const unsigned char *) queue,
							   strlen(queue), 0) | 1;
}

/*
 * find_queue_locked - the entry of a queue, or NULL
 */
static QueueEntry *
find_queue_locked(Oid dbid, const char *queue)
{
	for (int i = 0; i < queues->nentries; i++)
		if (queues->entries[i].dbid == dbid &&
			strcmp(queues->entries[i].queue, queue) == 0)
			return &queues->entries[i];
	return NULL;
}

/*
 * set_queue_locked - enter, change or remove the entry of a queue
 *
 * If there is no room the queue is not limited until an agent connects when
 * there is; sabot.set_queue_limit() has refused that case before.
 */
static void
set_queue_locked(Oid dbid, const char *queue, bool paused, int max_running)
{
	QueueEntry *entry = find_queue_locked(dbid, queue);

	for (int i = 0; i < queues->nentries && entry == NULL; i++)
		if (!OidIsValid(queues->entries[i].dbid))
			entry = &queues->entries[i];
	if (entry == NULL && queues->nentries < MAX_QUEUES)
		entry = &queues->entries[queues->nentries++];
	if (entry == NULL)
		return;
	entry->dbid = paused || max_running > 0 ? dbid : InvalidOid;
	strlcpy(entry->queue, queue, NAMEDATALEN);
	entry->paused = paused;
	entry->max_running = max_running;
}

/*
 * sabot_queue_room_locked - how many jobs of a queue may start now at most
 *
 * The lock of the ready jobs must be held; takes the pool's.
 */
int
sabot_queue_room_locked(Oid dbid, const char *queue)
{
	QueueEntry *entry = find_queue_locked(dbid, queue);

	if (entry == NULL)
		return INT_MAX;
	if (entry->paused)
		return 0;
	if (entry->max_running <= 0)
		return INT_MAX;
	return Max(0, entry->max_running -
			   sabot_pool_running_with_tag(dbid, sabot_queue_tag(queue)));
}

/*
 * sabot_queue_blocked_locked - whether no job of a queue may start now
 *
 * The lock of the ready jobs must be held; takes the pool's.
 */
bool
sabot_queue_blocked_locked(Oid dbid, const char *queue)
{
	return sabot_queue_room_locked(dbid, queue) == 0;
}

/*
 * sabot_queue_is_blocked - whether no job of a queue of this database may
 * start now
 */
bool
sabot_queue_is_blocked(const char *queue)
{
	bool		blocked;

	LWLockAcquire(queues->lock, LW_SHARED);
	blocked = sabot_queue_blocked_locked(MyDatabaseId, queue);
	LWLockRelease(queues->lock);
	return blocked;
}

/*
 * sabot_queue_is_limited - whether a queue has a limit
 */
bool
sabot_queue_is_limited(Oid dbid, const char *queue)
{
	QueueEntry *entry;
	bool		limited;

	/* Asked after every job: where no queue has settings it costs no lock. */
	if (queues->nentries == 0)
		return false;
	LWLockAcquire(queues->lock, LW_SHARED);
	entry = find_queue_locked(dbid, queue);
	limited = entry != NULL && entry->max_running > 0;
	LWLockRelease(queues->lock);
	return limited;
}

/*
 * sabot_queue_changed - a change of a queue has been committed
 *
 * Cannot fail: it is called after commits.
 */
void
sabot_queue_changed(const char *queue, bool paused, int max_running)
{
	LWLockAcquire(queues->lock, LW_EXCLUSIVE);
	set_queue_locked(MyDatabaseId, queue, paused, max_running);
	queues->changes++;
	LWLockRelease(queues->lock);
	sabot_pool_wake_all(MyDatabaseId);
}

/*
 * is_in_force_locked - whether this database's entries are just the given ones
 */
static bool
is_in_force_locked(const QueueEntry *entries, uint64 n)
{
	uint64		ours = 0;

	for (int i = 0; i < queues->nentries; i++)
		ours += queues->entries[i].dbid == MyDatabaseId;
	for (uint64 i = 0; i < n; i++)
	{
		QueueEntry *entry = find_queue_locked(MyDatabaseId, entries[i].queue);

		if (entry == NULL || entry->paused != entries[i].paused ||
			entry->max_running != entries[i].max_running)
			return false;
	}
	return ours == n;
}

/*
 * replace_locked - put the given entries in place of this database's
 *
 * That is a change like any other: somebody else may be about to put in place
 * what he has read before us.
 */
static void
replace_locked(const QueueEntry *entries, uint64 n)
{
	for (int i = 0; i < queues->nentries; i++)
		if (queues->entries[i].dbid == MyDatabaseId)
			queues->entries[i].dbid = InvalidOid;
	for (uint64 i = 0; i < n; i++)
		set_queue_locked(MyDatabaseId, entries[i].queue, entries[i].paused,
						 entries[i].max_running);
	queues->changes++;
}

/*
 * replace_queues - put rows of sabot.queue in force, unless there were changes
 * since
 *
 * Returns whether they are.
 */
static bool
replace_queues(SPITupleTable *rows, uint64 nrows, uint64 changes)
{
	QueueEntry *entries = palloc0(sizeof(QueueEntry) * Max(nrows, 1));
	bool		isnull;
	bool		ok;

	for (uint64 i = 0; i < nrows; i++)
	{
		strlcpy(entries[i].queue,
				SPI_getvalue(rows->vals[i], rows->tupdesc, 1), NAMEDATALEN);
		entries[i].paused = DatumGetBool(SPI_getbinval(rows->vals[i],
													   rows->tupdesc, 2, &isnull));
		entries[i].max_running = DatumGetInt32(SPI_getbinval(rows->vals[i],
															 rows->tupdesc, 3, &isnull));
	}

	LWLockAcquire(queues->lock, LW_EXCLUSIVE);
	ok = queues->changes == changes;
	if (ok && !is_in_force_locked(entries, nrows))
		replace_locked(entries, nrows);
	LWLockRelease(queues->lock);
	pfree(entries);
	return ok;
}

/*
 * sabot_queue_refresh - read this database's queues into shared memory
 *
 * Inside a transaction of sabot's own; SPI's result is another one afterwards.
 * What is committed when it is called is in force when it returns, so that
 * jobs that were read before may then be made known.
 */
void
sabot_queue_refresh(void)
{
	bool		done = false;

	while (!done)
	{
		uint64		changes;
		uint64		n;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(queues->lock, LW_SHARED);
		changes = queues->changes;
		LWLockRelease(queues->lock);

		n = sabot_spi("SELECT queue, paused, coalesce(max_running, 0) FROM sabot.queue"
					  " WHERE paused OR max_running IS NOT NULL",
					  0, NULL, NULL, NULL, 0);
		done = replace_queues(SPI_tuptable, n, changes);
		SPI_freetuptable(SPI_tuptable);
	}
}

/*
 * sabot_queue_load - the same in no transaction
 */
void
sabot_queue_load(void)
{
	SabotOwn	own;

	sabot_own_start_transaction(&own);
	sabot_queue_refresh();
	sabot_own_commit_transaction(&own);
}

/*
 * sabot_check_queue_name - raise 22023 unless a queue can have that name
 */
void
sabot_check_queue_name(const char *queue)
{
	if (queue[0] == '\0' || strlen(queue) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid queue name: \"%s\"", queue),
				 errdetail("The name of a queue has 1 to %d bytes.",
						   NAMEDATALEN - 1)));
}

/*
 * check_room - raise 54000 if no more queues can have settings
 */
static void
check_room(const char *queue)
{
	int			n = 0;
	bool		known;

	LWLockAcquire(queues->lock, LW_SHARED);
	known = find_queue_locked(MyDatabaseId, queue) != NULL;
	for (int i = 0; i < queues->nentries; i++)
		n += OidIsValid(queues->entries[i].dbid);
	LWLockRelease(queues->lock);
	if (!known && n >= MAX_QUEUES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many queues are paused or limited"),
				 errdetail("At most %d can be, in all databases together.",
						   MAX_QUEUES)));
}

/*
 * lock_queue - have changes of a queue follow one another
 *
 * The lock is held until the change is in force, a little longer than that of
 * the row.  Without it the change of a session that is slow there could come
 * after a later one, and the queue stay paused for good.
 */
static void
lock_queue(const char *queue)
{
	Oid			relid;

	if (RecoveryInProgress())
		return;					/* the row cannot be changed */
	relid = get_relname_relid("queue", sabot_catalog(false)->schema);
	LockDatabaseObject(relid, (Oid) sabot_queue_tag(queue), 0, ExclusiveLock);
}

/*
 * change_queue - change the row of a queue, and its entry at commit
 *
 * sql takes the queue's name and one value, of the given type, and returns
 * what the row says then.  Raises 22023 for a name no queue can have, 54000 if
 * too many queues have settings, 55000 without preload.
 */
static void
change_queue(const char *sql, text *queue_text, Datum value, Oid type,
			 bool isnull)
{
	char	   *queue = text_to_cstring(queue_text);
	Oid			types[2] = {TEXTOID, type};
	Datum		values[2] = {PointerGetDatum(queue_text), value};
	char		nulls[3] = {' ', isnull ? 'n' : ' ', '\0'};
	SabotOwn	own;
	bool		null;
	bool		paused;
	int			max_running;

	sabot_pool_require();
	sabot_check_queue_name(queue);
	check_room(queue);
	lock_queue(queue);
	SPI_connect();
	sabot_own_begin(&own);
	sabot_spi(sql, 2, types, values, nulls, 0);
	paused = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &null));
	max_running = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 2, &null));
	sabot_own_end(&own);
	SPI_finish();
	sabot_pending_queue(queue, paused, max_running);
}

static const char set_paused[] =
"INSERT INTO sabot.queue AS q (queue, paused) VALUES ($1, $2)"
" ON CONFLICT (queue) DO UPDATE SET paused = excluded.paused"
" RETURNING paused, coalesce(max_running, 0)";

static const char set_limit[] =
"INSERT INTO sabot.queue AS q (queue, max_running) VALUES ($1, $2)"
" ON CONFLICT (queue) DO UPDATE SET max_running = excluded.max_running"
" RETURNING paused, coalesce(max_running, 0)";

/*
 * SQL: sabot.pause_queue(queue text) RETURNS void - start no more of its jobs
 */
Datum
sabot_pause_queue(PG_FUNCTION_ARGS)
{
	change_queue(set_paused, PG_GETARG_TEXT_PP(0), BoolGetDatum(true),
				 BOOLOID, false);
	PG_RETURN_VOID();
}

/*
 * SQL: sabot.resume_queue(queue text) RETURNS void - start its jobs again
 */
Datum
sabot_resume_queue(PG_FUNCTION_ARGS)
{
	change_queue(set_paused, PG_GETARG_TEXT_PP(0), BoolGetDatum(false),
				 BOOLOID, false);
	PG_RETURN_VOID();
}

/*
 * SQL: sabot.set_queue_limit(queue text, max_running int) RETURNS void -
 * run at most that many of its jobs at once; NULL: any number
 *
 * Raises 22023 for a limit below 1 or a name no queue can have, 22004 for a
 * NULL queue, 54000 if too many queues have settings, 55000 without preload.
 */
Datum
sabot_set_queue_limit(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("queue must not be null")));
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit of a queue must be at least 1"),
				 errhint("Use sabot.pause_queue() to start none of its jobs, or NULL for no limit.")));
	change_queue(set_limit, PG_GETARG_TEXT_PP(0),
				 PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
				 INT4OID, PG_ARGISNULL(1));
	PG_RETURN_VOID();
}
