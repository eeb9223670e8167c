/*-------------------------------------------------------------------------
 *
 * llm_registry.c
 *		Adding, changing and dropping endpoints.
 *
 * Whoever may execute these functions decides where prompts go, so they are
 * granted to nobody.  A secret goes where it was given for and nowhere else:
 * when the server changes it does not come along.
 *
 * An endpoint that is stopped as its secret was refused is tried again when
 * the change is committed: that is mostly why it is made.
 *
 * IDENTIFICATION
 *		src/llm/llm_registry.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_endpoint.h"
#include "llm/llm_run.h"
#include "llm/llm_url.h"

PG_FUNCTION_INFO_V1(sabot_add_llm_endpoint);
PG_FUNCTION_INFO_V1(sabot_drop_llm_endpoint);

/* This transaction has changed the registry. */
static bool changed = false;

/* An endpoint as it is to be. */
typedef struct NewEndpoint
{
	char	   *name;
	char	   *url;
	char	   *api;
	int32		max_in_flight;
	char	   *secret;			/* as to be kept, "" = none, or NULL = as is */
	ArrayType  *roles;			/* name[], or NULL */
} NewEndpoint;

/*
 * invalid - raise 22023
 */
static void
invalid(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * required_text - a text argument; raises 22004 if it is NULL
 */
static char *
required_text(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * check_name - raise 22023 unless an endpoint can have that name
 */
static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of an LLM endpoint"),
				 errdetail("The name of an endpoint has 1 to %d bytes.",
						   NAMEDATALEN - 1)));
}

/*
 * check_secret - raise 22023 for what is no secret, 42501 for a file that the
 * caller may not have the server read
 */
static void
check_secret(const char *secret)
{
	const size_t prefix = strlen(SABOT_SECRET_FILE);

	if (strlen(secret) > SABOT_MAX_SECRET_LEN)
		invalid("secret is too long", NULL);
	for (const char *p = secret; *p != '\0'; p++)
		if ((unsigned char) *p < ' ' || *p == '\x7f')
			invalid("secret must not contain control characters", NULL);
	if (strncmp(secret, SABOT_SECRET_FILE, prefix) != 0)
		return;
	if (!is_absolute_path(secret + prefix))
		invalid("file of a secret must be an absolute path",
				"Give the secret as file:/path.");
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to have a secret read from a file"),
				 errdetail("Only superusers and members of role pg_read_server_files may.")));
}

/*
 * role_names - regrole[] as name[]
 *
 * Raises 22023 for a NULL among them, 42704 for what is no role.
 */
static ArrayType *
role_names(ArrayType *roles)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(roles) > 1)
		invalid("roles must be a one-dimensional array", NULL);
	deconstruct_array(roles, REGROLEOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			invalid("roles must not contain nulls", NULL);
		elems[i] = DirectFunctionCall1(namein,
									   CStringGetDatum(GetUserNameFromId(DatumGetObjectId(elems[i]),
																		 false)));
	}
	return construct_array(elems, n, NAMEOID, NAMEDATALEN, false,
						   TYPALIGN_CHAR);
}

/*
 * read_arguments - what the arguments of add_llm_endpoint() say, checked
 */
static void
read_arguments(NewEndpoint *new, FunctionCallInfo fcinfo)
{
	new->name = required_text(fcinfo, 0, "name");
	check_name(new->name);
	new->url = sabot_url_checked(required_text(fcinfo, 1, "url"));
	new->api = required_text(fcinfo, 2, "api");
	if (strcmp(new->api, "ollama") != 0 && strcmp(new->api, "openai") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown api: \"%s\"", new->api),
				 errhint("Use \"ollama\", or \"openai\" for servers with its API.")));
	if (PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("max_in_flight must not be null")));
	new->max_in_flight = PG_GETARG_INT32(3);
	if (new->max_in_flight < 1 || new->max_in_flight > SABOT_MAX_FLIGHTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_in_flight must be from 1 to %d",
						SABOT_MAX_FLIGHTS)));
	if (!PG_ARGISNULL(4))
	{
		new->secret = text_to_cstring(PG_GETARG_TEXT_PP(4));
		check_secret(new->secret);
	}
	if (!PG_ARGISNULL(5))
		new->roles = role_names(PG_GETARG_ARRAYTYPE_P(5));
}

/*
 * registry_changed - transaction callback: what stopped an endpoint may be put
 * right
 */
static void
registry_changed(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (changed && event == XACT_EVENT_COMMIT && sabot_gate_forget())
		sabot_pool_wake_crew(SABOT_LLM_WORKERS);
	changed = false;
}

/*
 * begin_change - begin to change the registry, alone
 *
 * Others may go on using it.  SPI is connected from here on.
 */
static void
begin_change(SabotOwn *own)
{
	SPI_connect();
	sabot_own_begin(own);
	sabot_spi("LOCK TABLE sabot.llm_endpoint IN SHARE ROW EXCLUSIVE MODE",
			  0, NULL, NULL, NULL, 0);
}

/*
 * end_change - have workers notice, at commit
 */
static void
end_change(SabotOwn *own)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(registry_changed, NULL);
	registered = true;
	changed = true;
	CacheInvalidateRelcacheByRelid(sabot_endpoint_table());
	sabot_own_end(own);
	SPI_finish();
}

/*
 * secret_may_stay - may an endpoint keep its secret, with the URL it is to
 * have?
 *
 * Only if the same server gets it.
 */
static bool
secret_may_stay(const NewEndpoint *new)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(new->name)};
	char	   *old_url;

	if (sabot_spi("SELECT url FROM sabot.llm_endpoint WHERE name = $1 FOR UPDATE",
				  1, types, values, NULL, 0) == 0)
		return false;
	old_url = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return strcmp(sabot_url_origin(old_url), sabot_url_origin(new->url)) == 0;
}

/*
 * change_secret - keep, set or drop the secret of an endpoint
 */
static void
change_secret(const NewEndpoint *new)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(new->name), 0};

	if (new->secret != NULL && new->secret[0] != '\0')
	{
		values[1] = CStringGetTextDatum(new->secret);
		sabot_spi("INSERT INTO sabot.llm_secret (endpoint, secret) VALUES ($1, $2)"
				  " ON CONFLICT (endpoint) DO UPDATE SET secret = $2",
				  2, types, values, NULL, 0);
		return;
	}
	if (new->secret == NULL && secret_may_stay(new))
		return;
	if (sabot_spi("DELETE FROM sabot.llm_secret WHERE endpoint = $1",
				  1, types, values, NULL, 0) > 0 && new->secret == NULL)
		ereport(NOTICE,
				(errmsg("LLM endpoint \"%s\" has no secret anymore",
						new->name),
				 errdetail("It was given for another server."),
				 errhint("Give it again, as secret, if the new server may have it.")));
}

/*
 * SQL: sabot.add_llm_endpoint(name text, url text, api text, max_in_flight
 * int, secret text, roles regrole[]) RETURNS void - add a server that LLM jobs
 * may name, or change it
 *
 * With secret NULL an endpoint keeps the one it has as long as its server is
 * the same; with an empty one it has none.  With roles NULL it keeps those it
 * has; with an empty array it is for every role.  Errors: 22004 and 22023 for
 * arguments, 42501 for a secret in a file.
 */
Datum
sabot_add_llm_endpoint(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, NAMEARRAYOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "     ";
	NewEndpoint new = {0};
	SabotOwn	own;

	PreventCommandIfReadOnly("sabot.add_llm_endpoint()");
	read_arguments(&new, fcinfo);
	values[0] = CStringGetTextDatum(new.name);
	values[1] = CStringGetTextDatum(new.url);
	values[2] = CStringGetTextDatum(new.api);
	values[3] = Int32GetDatum(new.max_in_flight);
	values[4] = PointerGetDatum(new.roles);
	nulls[4] = new.roles ? ' ' : 'n';
	begin_change(&own);
	change_secret(&new);
	sabot_spi("INSERT INTO sabot.llm_endpoint (name, url, api, max_in_flight, roles)"
			  " VALUES ($1, $2, $3, $4, NULLIF($5, '{}')) ON CONFLICT (name) DO UPDATE"
			  " SET url = $2, api = $3, max_in_flight = $4,"
			  " roles = NULLIF(COALESCE($5, llm_endpoint.roles), '{}')",
			  5, types, values, nulls, 0);
	end_change(&own);
	PG_RETURN_VOID();
}

/*
 * refuse_in_use - raise 55006 if unfinished jobs name an endpoint
 *
 * Submitters lock its row, so it is known after this who they are.
 */
static void
refuse_in_use(const char *name)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	int			n;

	n = sabot_spi("SELECT FROM sabot.job j JOIN sabot.llm_job l USING (job_id)"
				  " WHERE l.endpoint = $1",
				  1, types, values, NULL, 0);
	if (n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("LLM endpoint \"%s\" is used by unfinished jobs", name),
				 errdetail_plural("There is %d such job.",
								  "There are %d such jobs.", n, n),
				 errhint("Wait for them, or use sabot.cancel_job() for those in sabot.llm_progress with this endpoint.")));
}

/*
 * SQL: sabot.drop_llm_endpoint(name text) RETURNS void - remove a server that
 * no unfinished job names
 *
 * Errors: 22004, 42704 if there is none, 55006 if there are such jobs.
 */
Datum
sabot_drop_llm_endpoint(PG_FUNCTION_ARGS)
{
	char	   *name = required_text(fcinfo, 0, "name");
	bool		is_default = strcmp(name, SABOT_DEFAULT_ENDPOINT) == 0;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	SabotOwn	own;

	PreventCommandIfReadOnly("sabot.drop_llm_endpoint()");
	begin_change(&own);
	if (sabot_spi("SELECT FROM sabot.llm_endpoint WHERE name = $1 FOR UPDATE",
				  1, types, values, NULL, 0) > 0)
	{
		refuse_in_use(name);
		sabot_spi("DELETE FROM sabot.llm_endpoint WHERE name = $1",
				  1, types, values, NULL, 0);
		sabot_spi("DELETE FROM sabot.llm_secret WHERE endpoint = $1",
				  1, types, values, NULL, 0);
	}
	else if (!is_default)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("LLM endpoint \"%s\" does not exist", name)));
	end_change(&own);
	if (is_default)
		ereport(NOTICE,
				(errmsg("LLM endpoint \"default\" is the built-in one: %s",
						SABOT_DEFAULT_URL)));
	PG_RETURN_VOID();
}
