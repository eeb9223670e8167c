/*-------------------------------------------------------------------------
 *
 * pool_probe.c
 *		Which databases are to be probed, and which probes got to their end.
 *
 * Any process can ask for a probe; the launcher takes the requests and has
 * probers do them, see pool_prober.c.  The list is short and may overflow:
 * then every database is probed, which is always right and only slower.
 *
 * COMMIT PREPARED asks for a probe, as the wakes of the prepared transaction
 * are lost.  Noted here is of which transactions nothing was lost, rather than
 * of which something was: a note that is missing, as after a restart, costs a
 * probe and no more.
 *
 * IDENTIFICATION
 *		src/pool/pool_probe.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/twophase.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

/* Prepared transactions that leave nothing to look for: a set of their gids. */
static HTAB *workless = NULL;

/*
 * sabot_probe_shmem_size - bytes of shared memory the notes need
 */
Size
sabot_probe_shmem_size(void)
{
	return hash_estimate_size(Max(max_prepared_xacts, 1), GIDSIZE);
}

/*
 * sabot_probe_shmem_init - create or attach to the notes
 */
void
sabot_probe_shmem_init(void)
{
	HASHCTL		info;
	long		size = Max(max_prepared_xacts, 1);

	info.keysize = GIDSIZE;
	info.entrysize = GIDSIZE;
	workless = ShmemInitHash("sabot prepared transactions", size, size, &info,
							 HASH_ELEM | HASH_STRINGS | HASH_FIXED_SIZE);
}

/*
 * sabot_probe_sweep_locked - have every database probed
 */
void
sabot_probe_sweep_locked(void)
{
	sabot_pool->sweep = true;
	sabot_pool_wake_launcher_locked();
}

/*
 * sabot_probe_request_locked - have a database probed, or all if there is no
 * room to say which
 */
void
sabot_probe_request_locked(Oid dbid)
{
	bool		known = false;

	for (int i = 0; i < sabot_pool->nprobes && !known; i++)
		known = sabot_pool->probes[i] == dbid;
	if (!known && sabot_pool->nprobes < SABOT_MAX_PROBES)
		sabot_pool->probes[sabot_pool->nprobes++] = dbid;
	else if (!known)
		sabot_pool->sweep = true;
	sabot_pool_wake_launcher_locked();
}

/*
 * sabot_pool_request_probe - have a prober look at a database soon
 *
 * Does nothing without preload.
 */
void
sabot_pool_request_probe(Oid dbid)
{
	if (sabot_pool == NULL)
		return;
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_probe_request_locked(dbid);
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_note_prepared - a transaction was prepared under a name; whether
 * its commit leaves work that nobody is told of
 *
 * Cannot fail.  Nobody can commit it yet.
 */
void
sabot_probe_note_prepared(const char *gid, bool has_work)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	(void) hash_search(workless, gid, has_work ? HASH_REMOVE : HASH_ENTER_NULL,
					   NULL);
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_forget_prepared - a prepared transaction is about to end
 *
 * Returns whether its commit may leave work that nobody is told of.
 */
bool
sabot_probe_forget_prepared(const char *gid)
{
	bool		noted;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	noted = hash_search(workless, gid, HASH_REMOVE, NULL) != NULL;
	LWLockRelease(sabot_pool->lock);
	return !noted;
}

/*
 * sabot_pool_take_probe - the launcher takes a database to probe
 *
 * Returns InvalidOid if none is asked for; *sweep tells that all are.
 */
Oid
sabot_pool_take_probe(bool *sweep)
{
	Oid			dbid = InvalidOid;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	*sweep = sabot_pool->sweep;
	sabot_pool->sweep = false;
	if (sabot_pool->nprobes > 0)
		dbid = sabot_pool->probes[--sabot_pool->nprobes];
	LWLockRelease(sabot_pool->lock);
	return dbid;
}

/*
 * sabot_probe_begin - the launcher starts its n-th prober
 */
void
sabot_probe_begin(int n, Oid dbid)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->probing[n] = dbid;
	LWLockRelease(sabot_pool->lock);
}

/*
 * prober_exit - exit callback of a prober; its transaction has ended
 */
static void
prober_exit(int code, Datum arg)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	sabot_pool->probers[DatumGetInt32(arg)].pid = 0;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_attach - the calling process is the prober of a database, which
 * it has not connected to yet
 *
 * Returns false if it must not.
 */
bool
sabot_probe_attach(Oid dbid)
{
	int			n = 0;
	bool		barred;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	while (n < SABOT_MAX_PROBERS - 1 && sabot_pool->probing[n] != dbid)
		n++;
	barred = sabot_pool_is_barred_locked(dbid);
	sabot_pool->probers[n].dbid = dbid;
	sabot_pool->probers[n].pid = MyProcPid;
	sabot_pool->probers[n].gave_way = barred;
	LWLockRelease(sabot_pool->lock);
	on_shmem_exit(prober_exit, Int32GetDatum(n));
	return !barred;
}

/*
 * sabot_probe_give_way_locked - end the prober that is in a database
 *
 * It may hold locks that whoever bars the database is about to ask for, or
 * wait for some of his.
 */
void
sabot_probe_give_way_locked(Oid dbid)
{
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
	{
		SabotProberProcess *prober = &sabot_pool->probers[i];

		if (prober->pid == 0 || prober->dbid != dbid)
			continue;
		prober->gave_way = true;
		kill(prober->pid, SIGTERM);
	}
}

/*
 * sabot_probe_is_in - whether there is a prober in a database
 */
bool
sabot_probe_is_in(Oid dbid)
{
	bool		found = false;

	LWLockAcquire(sabot_pool->lock, LW_SHARED);
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
		found |= sabot_pool->probers[i].pid != 0 &&
			sabot_pool->probers[i].dbid == dbid;
	LWLockRelease(sabot_pool->lock);
	return found;
}

/*
 * sabot_probe_gave_way - whether the n-th prober, which has ended, did because
 * it was in the way
 */
bool
sabot_probe_gave_way(int n)
{
	bool		gave_way;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	gave_way = sabot_pool->probers[n].gave_way;
	sabot_pool->probers[n].gave_way = false;
	LWLockRelease(sabot_pool->lock);
	return gave_way;
}

/*
 * sabot_probe_done - the calling prober has done all there was to do
 */
void
sabot_probe_done(void)
{
	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_PROBERS; i++)
		if (sabot_pool->probing[i] == MyDatabaseId)
			sabot_pool->probing[i] = InvalidOid;
	LWLockRelease(sabot_pool->lock);
}

/*
 * sabot_probe_failed - whether the n-th prober, which has ended, did not get
 * to its end
 */
bool
sabot_probe_failed(int n)
{
	bool		failed;

	LWLockAcquire(sabot_pool->lock, LW_EXCLUSIVE);
	failed = OidIsValid(sabot_pool->probing[n]);
	sabot_pool->probing[n] = InvalidOid;
	LWLockRelease(sabot_pool->lock);
	return failed;
}
