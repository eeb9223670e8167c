/*-------------------------------------------------------------------------
 *
 * route_stat.c
 *		How many queries ran where, and why, since the server started.
 *
 * Most queries are small and run where they were sent, so that counting them
 * must not be felt: a session counts on its own, and adds what it has to the
 * shared counters when there is much of it or some time has passed.  Those
 * are atomic and have no lock.  Queries that were meant for agents are rarer
 * and larger, and are counted at once.
 *
 * Each database has an entry, which it takes when a query of it is counted
 * first and keeps.  When all are taken, the others share the last one.
 *
 * IDENTIFICATION
 *		src/route/route_stat.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "pool/pool.h"
#include "route/route.h"

#define MAX_DATABASES	64
#define FLUSH_QUERIES	64		/* a session keeps no more to itself, */
#define FLUSH_US		100000	/* and not for longer while it is busy */

typedef struct Entry
{
	pg_atomic_uint32 dbid;		/* InvalidOid: nobody's, or the last one */
	pg_atomic_uint64 queries[SABOT_NROUTES][SABOT_NREASONS];
	SabotHistogram start;		/* of distributed ones */
} Entry;

static Entry *entries = NULL;	/* MAX_DATABASES, in shared memory */
static Entry *my_entry = NULL;	/* of this database, once it is known */

/* What this session has counted and not yet added. */
static uint32 pending[SABOT_NROUTES][SABOT_NREASONS];
static int	npending = 0;
static TimestampTz last_flush = 0;

PG_FUNCTION_INFO_V1(sabot_route_counters);
PG_FUNCTION_INFO_V1(sabot_processors);

/*
 * sabot_route_stat_shmem_size - bytes of shared memory the counters need
 */
Size
sabot_route_stat_shmem_size(void)
{
	return MAXALIGN(mul_size(sizeof(Entry), MAX_DATABASES));
}

/*
 * sabot_route_stat_shmem_init - create or attach to the counters
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_route_stat_shmem_init(void)
{
	bool		found;

	entries = ShmemInitStruct("sabot routes", sabot_route_stat_shmem_size(),
							  &found);
	if (found)
		return;

	for (int i = 0; i < MAX_DATABASES; i++)
	{
		pg_atomic_init_u32(&entries[i].dbid, InvalidOid);
		for (int route = 0; route < SABOT_NROUTES; route++)
			for (int reason = 0; reason < SABOT_NREASONS; reason++)
				pg_atomic_init_u64(&entries[i].queries[route][reason], 0);
		sabot_histogram_init(&entries[i].start);
	}
}

/*
 * find_entry - the entry of this database, made if there is none
 */
static Entry *
find_entry(void)
{
	for (int i = 0; i < MAX_DATABASES - 1; i++)
	{
		uint32		dbid = InvalidOid;

		/* On failure, this says who has the entry. */
		if (pg_atomic_compare_exchange_u32(&entries[i].dbid, &dbid,
										   MyDatabaseId) ||
			dbid == MyDatabaseId)
			return &entries[i];
	}
	return &entries[MAX_DATABASES - 1];
}

/*
 * flush - add what this session has counted to the shared counters
 */
static void
flush(void)
{
	if (npending == 0)
		return;

	for (int route = 0; route < SABOT_NROUTES; route++)
	{
		for (int reason = 0; reason < SABOT_NREASONS; reason++)
		{
			uint32		n = pending[route][reason];

			if (n > 0)
				pg_atomic_fetch_add_u64(&my_entry->queries[route][reason], n);
		}
	}
	memset(pending, 0, sizeof(pending));
	npending = 0;
}

/*
 * flush_at_exit - before_shmem_exit callback
 */
static void
flush_at_exit(int code, Datum arg)
{
	flush();
}

/*
 * begin_counting - find out where this session counts; once
 */
static void
begin_counting(void)
{
	my_entry = find_entry();
	before_shmem_exit(flush_at_exit, (Datum) 0);
}

/*
 * sabot_route_count - count that a query has run
 *
 * start_us is how long its agents took to have their work, for distributed
 * ones.  Does nothing without shared memory.
 */
void
sabot_route_count(SabotRoute route, SabotReason reason, int64 start_us)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	if (entries == NULL || !OidIsValid(MyDatabaseId))
		return;
	if (my_entry == NULL)
		begin_counting();

	pending[route][reason]++;
	npending++;
	if (route == SABOT_ROUTE_DISTRIBUTED)
		sabot_histogram_add(&my_entry->start, (uint64) Max(start_us, 0));
	if (route == SABOT_ROUTE_LOCAL && npending < FLUSH_QUERIES &&
		now - last_flush < FLUSH_US)
		return;
	last_flush = now;
	flush();
}

/*
 * put_counter - add a row, unless it would say 0
 */
static void
put_counter(ReturnSetInfo *rsinfo, Entry *entry, SabotRoute route,
			SabotReason reason, const char *database)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {false, false, false, false, true, true, false};
	uint64		queries;
	SabotHistogramSummary start;

	queries = pg_atomic_read_u64(&entry->queries[route][reason]);
	if (queries == 0)
		return;

	nulls[0] = database == NULL;
	if (database != NULL)
		values[0] = DirectFunctionCall1(namein, CStringGetDatum(database));
	values[1] = CStringGetTextDatum(sabot_route_name(route));
	values[2] = CStringGetTextDatum(sabot_route_reason_text(reason));
	values[3] = Int64GetDatum((int64) queries);
	values[6] = BoolGetDatum(route != SABOT_ROUTE_LOCAL ||
							 reason >= SABOT_REASON_IN_RECOVERY);
	if (route == SABOT_ROUTE_DISTRIBUTED)
	{
		sabot_histogram_read(&entry->start, &start);
		nulls[4] = nulls[5] = start.count == 0;
		values[4] = Float8GetDatum(rint(start.p50_us));
		values[5] = Float8GetDatum(rint(start.p95_us));
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * put_entry - add the rows of one database
 */
static void
put_entry(ReturnSetInfo *rsinfo, Entry *entry, const char *database)
{
	for (int route = 0; route < SABOT_NROUTES; route++)
		for (int reason = 0; reason < SABOT_NREASONS; reason++)
			put_counter(rsinfo, entry, (SabotRoute) route,
						(SabotReason) reason, database);
}

/*
 * SQL: sabot.route_counters() RETURNS SETOF record
 *
 * Queries of this database, or of all of them for pg_monitor, by route and
 * reason; none without preload.
 */
Datum
sabot_route_counters(PG_FUNCTION_ARGS)
{
	bool		sees_all = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);

	InitMaterializedSRF(fcinfo, 0);
	flush();
	for (int i = 0; entries != NULL && i < MAX_DATABASES; i++)
	{
		Oid			dbid = pg_atomic_read_u32(&entries[i].dbid);
		const char *name = NULL;

		if (!sees_all && dbid != MyDatabaseId)
			continue;
		if (OidIsValid(dbid))
			name = get_database_name(dbid);
		put_entry((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], name);
	}
	return (Datum) 0;
}

/*
 * SQL: sabot.processors() RETURNS int
 *
 * Processors that are online, NULL if the system does not say.
 */
Datum
sabot_processors(PG_FUNCTION_ARGS)
{
	long		n = sysconf(_SC_NPROCESSORS_ONLN);

	if (n <= 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) n);
}
