/*-------------------------------------------------------------------------
 *
 * route_settings.c
 *		The settings of an agent: its own, and those of sessions it helps.
 *
 * Restoring the settings of a session takes an agent about as long as all else
 * that comes before its part of a query, so they stay until those of another
 * session are needed, or the agent is to do something else: then it comes
 * home, to the settings it had of its own.  What a session's are is told by
 * the bytes they are sent as.
 *
 * IDENTIFICATION
 *		src/route/route_settings.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "route/route_task.h"

static char *home = NULL;		/* our own settings, NULL if not yet known */
static char *guest = NULL;		/* those of the session last helped, or NULL */
static bool is_home = true;

/*
 * size_of - bytes of serialized settings: they begin with how many follow
 */
static Size
size_of(const char *state)
{
	Size		len;

	memcpy(&len, state, sizeof(len));
	return sizeof(len) + len;
}

/*
 * is_same - whether two serialized states are of the same settings
 */
static bool
is_same(const char *a, const char *b)
{
	return a != NULL && size_of(a) == size_of(b) &&
		memcmp(a, b, size_of(a)) == 0;
}

/*
 * serialize - our settings as they are now, in memory that stays
 */
static char *
serialize(void)
{
	Size		size = EstimateGUCStateSpace();
	char	   *state = MemoryContextAlloc(TopMemoryContext, size);

	SerializeGUCState(size, state);
	return state;
}

/*
 * restore - make our settings those of a serialized state
 *
 * As a parallel worker does it while it starts: checks that look into catalogs
 * are left out, as they have been done where the settings were made.  In no
 * transaction; leaves the start times of a parallel worker's at now.
 */
static void
restore(char *state)
{
	int			number = ParallelWorkerNumber;

	ParallelWorkerNumber = Max(number, 0);
	InitializingParallelWorker = true;
	SetParallelStartTimestamps(GetCurrentTimestamp(), GetCurrentTimestamp());
	PG_TRY();
	{
		StartTransactionCommand();
		RestoreGUCState(state);
		CommitTransactionCommand();
	}
	PG_FINALLY();
	{
		InitializingParallelWorker = false;
		ParallelWorkerNumber = number;
	}
	PG_END_TRY();
}

/*
 * sabot_route_settings_apply - take over the settings of a session
 *
 * In no transaction.  Raises an error if one of them does not exist here; then
 * our settings are as good as none until we come home.
 */
void
sabot_route_settings_apply(char *state)
{
	char	   *copy;

	if (!is_home && is_same(guest, state))
		return;
	if (home == NULL)
		home = serialize();
	if (guest)
		pfree(guest);
	guest = NULL;
	is_home = false;
	restore(state);
	copy = MemoryContextAlloc(TopMemoryContext, size_of(state));
	memcpy(copy, state, size_of(state));
	guest = copy;
}

/*
 * sabot_route_settings_home - return to our own settings
 *
 * In no transaction.
 */
void
sabot_route_settings_home(void)
{
	int			encoding;

	if (is_home)
		return;
	restore(home);
	is_home = true;
	/* A worker has no say in the encoding: what is set must be put in force. */
	encoding = pg_char_to_encoding(GetConfigOption("client_encoding", false,
												   false));
	if (encoding >= 0 && PrepareClientEncoding(encoding) >= 0)
		(void) SetClientEncoding(encoding);
}

/*
 * sabot_route_settings_changed - our own settings have been read anew
 */
void
sabot_route_settings_changed(void)
{
	if (home)
		pfree(home);
	home = NULL;
}
