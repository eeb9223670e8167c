/*-------------------------------------------------------------------------
 *
 * route_extension.c
 *		Whether the database has the extension, without asking each time.
 *
 * The hooks are there in every database of the server, but route queries only
 * where somebody has said CREATE EXTENSION.  Planning must read no catalog
 * that it would not read anyway, so that is looked up once per process.  A
 * row of pg_extension that comes or goes tells nobody, in most versions; the
 * extension's functions that come and go with it do, and so does the abort of
 * a transaction that made or dropped them.
 *
 * IDENTIFICATION
 *		src/route/route_extension.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/extension.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "route/route.h"

static bool known = false;
static bool exists = false;

/*
 * forget - syscache callback: functions have been made, changed or dropped
 */
static void
forget(Datum arg, int cacheid, uint32 hashvalue)
{
	known = false;
}

/*
 * sabot_route_extension_exists - whether this database has the extension
 *
 * Must be called inside a transaction.  Reads pg_extension when it is called
 * first, and again after functions have changed.
 */
bool
sabot_route_extension_exists(void)
{
	static bool registered = false;

	if (known)
		return exists;

	if (!registered)
		CacheRegisterSyscacheCallback(PROCOID, forget, (Datum) 0);
	registered = true;

	/* What is forgotten while it is being read is read again next time. */
	known = true;
	exists = OidIsValid(get_extension_oid("sabot", true));
	return exists;
}
