/*-------------------------------------------------------------------------
 *
 * llm_status.c
 *		What the views of the lane need to know beyond the tables: what workers
 *		do now, and how servers are.
 *
 * Both are in shared memory only.  Functions in a view run with its reader's
 * rights and may be called directly, so each shows only what its caller may
 * see: the jobs of roles whose privileges he has and the endpoints he may use,
 * or everything for members of pg_monitor.
 *
 * IDENTIFICATION
 *		src/llm/llm_status.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"
#include "llm/llm.h"

PG_FUNCTION_INFO_V1(sabot_llm_activity);
PG_FUNCTION_INFO_V1(sabot_llm_endpoints);

/*
 * items_array - the items of an activity as bigint[]
 */
static Datum
items_array(const SabotLlmActivity *activity)
{
	Datum		elems[SABOT_SHOWN_ITEMS];

	for (int i = 0; i < activity->nitems; i++)
		elems[i] = Int64GetDatum(activity->items[i]);
	return PointerGetDatum(construct_array(elems, activity->nitems, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/*
 * put_activity - add the row of a worker that has a job
 */
static void
put_activity(ReturnSetInfo *rsinfo, const SabotLlmActivity *activity,
			 TimestampTz now)
{
	Datum		values[9];
	bool		nulls[9] = {0};
	double		turn_ms = Max(now - activity->counted_at, 0) / 1000.0;

	values[0] = Int64GetDatum(activity->job_id);
	values[1] = Int32GetDatum(activity->running);
	values[2] = items_array(activity);
	values[3] = TimestampTzGetDatum(activity->oldest_start);
	nulls[3] = activity->oldest_start == 0;
	values[4] = Int32GetDatum(activity->most_in_flight);
	values[5] = Int64GetDatum(activity->connections);
	values[6] = Float8GetDatum(activity->run_ms + turn_ms);
	values[7] = Float8GetDatum(activity->cpu_ms);
	values[8] = Int64GetDatum(activity->rss_bytes);
	nulls[8] = activity->rss_bytes == 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.llm_activity() RETURNS SETOF record
 *
 * The LLM jobs of this database that workers have now, of those the caller
 * may see; times in ms.  None without preload.
 */
Datum
sabot_llm_activity(PG_FUNCTION_ARGS)
{
	SabotLlmActivity *activities;
	int			n = sabot_activity_copy(&activities);
	bool		all = sabot_sees_all_jobs();
	TimestampTz now = GetCurrentTimestamp();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		if (activities[i].dbid == MyDatabaseId &&
			(all || has_privs_of_role(GetUserId(), activities[i].roleid)))
			put_activity((ReturnSetInfo *) fcinfo->resultinfo, &activities[i],
						 now);
	}
	return (Datum) 0;
}

/*
 * shown_url - a URL without user and password, which have no business there
 */
static char *
shown_url(const char *url)
{
	const char *host = strstr(url, "://");
	const char *at = NULL;

	if (host == NULL)
		return pstrdup(url);
	host += 3;
	for (const char *p = host; *p != '\0' && strchr("/?#", *p) == NULL; p++)
		if (*p == '@')
			at = p;
	return at ? psprintf("%.*s%s", (int) (host - url), url, at + 1) :
		pstrdup(url);
}

/*
 * server_state_name - the state of a server as llm_endpoint_status calls it
 */
static const char *
server_state_name(const SabotServerState *server, bool used, int limit)
{
	if (!used)
		return "unused";
	if (server->next_probe > GetCurrentTimestamp())
		return "stopped";
	if (server->next_probe != 0)
		return "probing";
	if (server->limit > 0)
		limit = Min(limit, server->limit);
	return server->in_flight >= limit ? "busy" : "ready";
}

/*
 * stopped_models - models of a server that are stopped, as text[]; NULL if
 * there are none
 */
static ArrayType *
stopped_models(const char *origin)
{
	char		(*models)[SABOT_MODEL_LEN];
	int			n = sabot_gate_copy(origin, &models);
	Datum	   *elems = palloc(sizeof(Datum) * (n + 1));

	if (n == 0)
		return NULL;
	for (int i = 0; i < n; i++)
		elems[i] = CStringGetTextDatum(models[i]);
	return construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * put_endpoint - add the row of an endpoint
 *
 * From the columns name, url, api and max_in_flight of SPI's result.
 */
static void
put_endpoint(ReturnSetInfo *rsinfo, uint64 row)
{
	HeapTuple	tuple = SPI_tuptable->vals[row];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	char	   *url = SPI_getvalue(tuple, desc, 2);
	SabotEndpoint endpoint = {
		.name = SPI_getvalue(tuple, desc, 1),
		.origin = sabot_url_origin(url)
	};
	SabotServerState server;
	bool		used = sabot_server_state(&endpoint, &server);
	ArrayType  *stopped = stopped_models(endpoint.origin);
	Datum		values[11] = {0};
	bool		nulls[11] = {0};

	values[0] = SPI_getbinval(tuple, desc, 1, &nulls[0]);
	values[1] = CStringGetTextDatum(shown_url(url));
	values[2] = SPI_getbinval(tuple, desc, 3, &nulls[2]);
	values[3] = SPI_getbinval(tuple, desc, 4, &nulls[3]);
	values[4] = Int32GetDatum(server.in_flight);
	values[5] = CStringGetTextDatum(server_state_name(&server, used,
													  DatumGetInt32(values[3])));
	values[6] = TimestampTzGetDatum(server.next_probe);
	nulls[6] = server.next_probe == 0;
	values[7] = CStringGetTextDatum(server.error);
	nulls[7] = server.error[0] == '\0';
	values[8] = Int64GetDatum(server.requests);
	values[9] = Int64GetDatum(server.connections);
	values[10] = PointerGetDatum(stopped);
	nulls[10] = stopped == NULL;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: sabot.llm_endpoints() RETURNS SETOF record
 *
 * The endpoints the caller may use, or all of them for who may see all jobs,
 * with what is known of their servers since this one was started.
 */
Datum
sabot_llm_endpoints(PG_FUNCTION_ARGS)
{
	Oid			types[] = {OIDOID, BOOLOID, TEXTOID};
	Datum		values[] = {
		ObjectIdGetDatum(GetUserId()),
		BoolGetDatum(sabot_sees_all_jobs()),
		CStringGetTextDatum(SABOT_DEFAULT_URL)
	};
	SabotOwn	own;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	sabot_own_begin(&own);
	n = sabot_spi("SELECT e.name, e.url, e.api, e.max_in_flight FROM"
				  " (SELECT name, url, api, max_in_flight, roles FROM sabot.llm_endpoint"
				  "  UNION ALL SELECT 'default', $3, 'ollama', 1, NULL WHERE NOT EXISTS"
				  "   (SELECT FROM sabot.llm_endpoint WHERE name = 'default')) e"
				  " WHERE $2 OR e.roles IS NULL OR EXISTS (SELECT FROM pg_roles r"
				  "  WHERE r.rolname = ANY (e.roles) AND pg_has_role($1, r.oid, 'USAGE'))"
				  " ORDER BY e.name",
				  lengthof(types), types, values, NULL, 0);
	for (int i = 0; i < n; i++)
		put_endpoint((ReturnSetInfo *) fcinfo->resultinfo, i);
	sabot_own_end(&own);
	SPI_finish();
	return (Datum) 0;
}
