/*-------------------------------------------------------------------------
 *
 * job_settings.c
 *		The settings that travel with a job.
 *
 * A job starts with the settings a login of its owner would have, but these
 * four decide what a command means: which objects its names stand for and
 * what its dates are.  They are taken from the submitting session.  Temporary
 * schemas do not travel, as the session they belong to does not.
 *
 * IDENTIFICATION
 *		src/jobs/job_settings.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "jobs/jobs.h"

static const char *const travelling[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle"
};

/*
 * path_without_temp - a search path without the alias of temporary schemas
 */
static char *
path_without_temp(const char *path)
{
	StringInfoData buf;
	List	   *names;
	ListCell   *lc;

	if (strstr(path, "pg_temp") == NULL)
		return pstrdup(path);
	if (!SplitIdentifierString(pstrdup(path), ',', &names))
		return pstrdup(path);
	initStringInfo(&buf);
	foreach(lc, names)
	{
		char	   *name = lfirst(lc);

		if (strncmp(name, "pg_temp", strlen("pg_temp")) == 0)
			continue;
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 quote_identifier(name));
	}
	return buf.len > 0 ? buf.data : pstrdup("\"\"");
}

/*
 * sabot_settings_capture - the travelling settings in force now
 *
 * Returns text[]: name, value, name, value, ...
 */
ArrayType *
sabot_settings_capture(void)
{
	Datum		elems[2 * lengthof(travelling)];

	for (int i = 0; i < lengthof(travelling); i++)
	{
		const char *value = GetConfigOption(travelling[i], false, false);

		elems[2 * i] = CStringGetTextDatum(travelling[i]);
		elems[2 * i + 1] = CStringGetTextDatum(i == 0 ?
											   path_without_temp(value) : value);
	}
	return construct_array(elems, lengthof(elems), TEXTOID, -1, false,
						   TYPALIGN_INT);
}

/*
 * is_travelling - whether a setting is one that jobs may bring along
 */
static bool
is_travelling(const char *name)
{
	for (int i = 0; i < lengthof(travelling); i++)
		if (strcmp(name, travelling[i]) == 0)
			return true;
	return false;
}

/*
 * sabot_settings_apply - put captured settings in force in this session
 *
 * Those that are so already are left alone, which spares caches.  Raises what
 * SET raises if a value is not valid (anymore).  settings may be NULL.
 */
void
sabot_settings_apply(ArrayType *settings)
{
	Datum	   *elems;
	int			nelems;

	if (settings == NULL)
		return;
	deconstruct_array(settings, TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, &nelems);
	for (int i = 0; i + 1 < nelems; i += 2)
	{
		char	   *name = TextDatumGetCString(elems[i]);
		char	   *value = TextDatumGetCString(elems[i + 1]);
		const char *current;

		if (!is_travelling(name))
			continue;
		current = GetConfigOption(name, true, false);
		if (current == NULL || strcmp(current, value) != 0)
			(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SET, true, 0, false);
	}
}
