/*-------------------------------------------------------------------------
 *
 * pool_hint.c
 *		Remembers over a restart which databases had work.
 *
 * Nothing in the shared catalogs says in which databases work waits, so after
 * a restart every database has to be probed.  The hint file only makes those
 * come first that had work before.  It may be lost, stale or torn: a wrong
 * entry costs one probe.  It lies in pg_stat_tmp, which base backups leave
 * out.
 *
 * IDENTIFICATION
 *		src/pool/pool_hint.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "pgstat.h"
#include "storage/fd.h"

#include "pool/pool.h"
#include "pool/pool_shared.h"

#define HINT_FILE		PG_STAT_TMP_DIR "/sabot.hint"
#define HINT_TMP_FILE	HINT_FILE ".tmp"
#define HINT_MAX		1024

/*
 * sabot_hint_read - list of OIDs of databases that had work, may be empty
 */
List *
sabot_hint_read(void)
{
	List	   *result = NIL;
	FILE	   *file = AllocateFile(HINT_FILE, "r");
	Oid			dbid;

	if (file == NULL)
		return NIL;
	while (list_length(result) < HINT_MAX && fscanf(file, "%u", &dbid) == 1)
		result = list_append_unique_oid(result, dbid);
	FreeFile(file);
	return result;
}

/*
 * sabot_hint_write - write the databases with work, if they have changed
 *
 * Failures are not errors: there is just no hint then.
 */
void
sabot_hint_write(void)
{
	static Oid	written[HINT_MAX];
	static int	nwritten = -1;
	Oid			dbids[HINT_MAX];
	int			n = sabot_pair_databases(dbids, HINT_MAX);
	FILE	   *file;

	if (n == nwritten && memcmp(dbids, written, sizeof(Oid) * n) == 0)
		return;
	memcpy(written, dbids, sizeof(Oid) * n);
	nwritten = n;

	file = AllocateFile(HINT_TMP_FILE, "w");
	if (file == NULL)
		return;
	for (int i = 0; i < n; i++)
		fprintf(file, "%u\n", dbids[i]);
	if (FreeFile(file) == 0)
		(void) rename(HINT_TMP_FILE, HINT_FILE);
}
