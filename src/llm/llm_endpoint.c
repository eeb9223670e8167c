/*-------------------------------------------------------------------------
 *
 * llm_endpoint.c
 *		The registry of endpoints, for those who use one.
 *
 * Users name an endpoint and never a URL: where requests may go, with which
 * token and for whom is its admin's decision.  It is looked at both when a
 * job is submitted and when it runs, as the job's owner, so that a right that
 * was taken away is gone.
 *
 * Roles are kept by name: the row is dumped with the database, and OIDs mean
 * nothing in another one.
 *
 * IDENTIFICATION
 *		src/llm/llm_endpoint.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_endpoint.h"

#define MAX_NAMED_ENDPOINTS 20

/* sabot.llm_endpoint, as last looked up; InvalidOid = never. */
static Oid	endpoint_table = InvalidOid;
static uint64 epoch = 0;

/*
 * endpoint_changed - relcache callback: some endpoint may have changed
 */
static void
endpoint_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == endpoint_table)
		epoch++;
}

/*
 * members_changed - syscache callback: some role is, or is no longer, a
 * member of one that may use an endpoint
 */
static void
members_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	epoch++;
}

/*
 * watch - have endpoint_changed() and members_changed() called
 */
static void
watch(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(endpoint_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, members_changed,
									  (Datum) 0);
	}
	registered = true;
}

/*
 * sabot_endpoint_table - the OID of sabot.llm_endpoint
 *
 * In a transaction.  Raises 55000 if there is no extension.
 */
Oid
sabot_endpoint_table(void)
{
	watch();
	endpoint_table = get_relname_relid("llm_endpoint",
									   sabot_catalog(false)->schema);
	return endpoint_table;
}

/*
 * sabot_endpoint_epoch - a number that is another one once endpoints have
 * changed, as far as this process has heard
 *
 * Relevant is what AcceptInvalidationMessages() has seen; in a transaction or
 * not.
 */
uint64
sabot_endpoint_epoch(void)
{
	watch();
	return epoch;
}

/*
 * may_use - may a role use an endpoint with these roles (name[], or NULL)?
 *
 * A name that no longer is a role's counts as none.
 */
static bool
may_use(Oid role, ArrayType *roles)
{
	Datum	   *names;
	bool	   *nulls;
	int			n;

	if (roles == NULL || superuser_arg(role))
		return true;
	deconstruct_array(roles, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Oid			member_of = nulls[i] ? InvalidOid :
		get_role_oid(NameStr(*DatumGetName(names[i])), true);

		if (OidIsValid(member_of) && has_privs_of_role(role, member_of))
			return true;
	}
	return false;
}

/*
 * column_roles - the roles in a column of a row of SPI's result, or NULL
 */
static ArrayType *
column_roles(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? NULL : DatumGetArrayTypeP(value);
}

/*
 * usable_endpoints - names of the endpoints that a role may use, for a hint
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static char *
usable_endpoints(Oid role)
{
	StringInfoData names;
	int			n = sabot_spi("SELECT name, roles FROM sabot.llm_endpoint"
							  " UNION ALL SELECT 'default', NULL WHERE NOT EXISTS"
							  "  (SELECT FROM sabot.llm_endpoint WHERE name = 'default')"
							  " ORDER BY 1",
							  0, NULL, NULL, NULL, 0);
	int			named = 0;

	initStringInfo(&names);
	for (int i = 0; i < n && named <= MAX_NAMED_ENDPOINTS; i++)
	{
		if (!may_use(role, column_roles(i, 2)))
			continue;
		if (++named > MAX_NAMED_ENDPOINTS)
			appendStringInfoString(&names, " and more");
		else
			appendStringInfo(&names, "%s\"%s\"", named > 1 ? ", " : "",
							 SPI_getvalue(SPI_tuptable->vals[i],
										  SPI_tuptable->tupdesc, 1));
	}
	return named > 0 ? names.data : NULL;
}

/*
 * hint_usable - the hint that names the endpoints which a role may use
 */
static char *
hint_usable(Oid role)
{
	char	   *names = usable_endpoints(role);

	if (names == NULL)
		return pstrdup("Endpoints are added by sabot.add_llm_endpoint().");
	return psprintf("Endpoints that role \"%s\" may use: %s.",
					GetUserNameFromId(role, false), names);
}

/*
 * file_problem - say what is wrong with the file that has a secret
 *
 * error is an errno, or 0 for what detail says.
 */
static void
file_problem(SabotEndpointProblem *problem, const char *name,
			 const char *path, int error, const char *detail)
{
	problem->sqlerrcode = error == 0 ? ERRCODE_CONFIG_FILE_ERROR :
		error == ENOENT || error == ENOTDIR ? ERRCODE_UNDEFINED_FILE :
		error == EACCES || error == EPERM ? ERRCODE_INSUFFICIENT_PRIVILEGE :
		ERRCODE_IO_ERROR;
	problem->message = psprintf("could not read the secret of LLM endpoint \"%s\" from file \"%s\": %s",
								name, path, error ? strerror(error) : detail);
	problem->hint = "Make the file readable for the server's user, or give the secret again with sabot.add_llm_endpoint().";
	problem->no_secret = psprintf("its secret cannot be read: %s",
								  error ? strerror(error) : detail);
}

/*
 * read_start - the first bytes of a file; returns how many, -1 if it cannot
 * be read, with errno set or 0 if it is no file
 *
 * It is not waited for anybody who writes to it, in case it is no file.
 */
static ssize_t
read_start(const char *path, char *buf, size_t size)
{
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK);
	struct stat st;
	ssize_t		len = 0;
	ssize_t		n = -1;
	int			error;

	if (fd < 0)
		return -1;
	errno = 0;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		do
		{
			n = read(fd, buf + len, size - len);
			len += Max(n, 0);
		} while (n > 0 && len < size);
	error = errno;
	CloseTransientFile(fd);
	errno = error;
	return n < 0 ? -1 : len;
}

/*
 * read_secret_file - the first line of a file, without blanks around it
 *
 * NULL with what is wrong with the file, and without what is in it, if that
 * is no secret.
 */
static char *
read_secret_file(const char *name, const char *path,
				 SabotEndpointProblem *problem)
{
	char	   *line = palloc(SABOT_MAX_SECRET_LEN + 2);
	ssize_t		len = read_start(path, line, SABOT_MAX_SECRET_LEN + 1);
	const char *wrong = NULL;

	if (len < 0)
	{
		file_problem(problem, name, path, errno, "it is not a regular file");
		return NULL;
	}
	line[len] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	len = strlen(line);
	if (len > SABOT_MAX_SECRET_LEN)
		wrong = "its first line is too long";
	while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t'))
		line[--len] = '\0';
	line += strspn(line, " \t");
	if (line[0] == '\0')
		wrong = "its first line is empty";
	for (const char *p = line; *p != '\0' && wrong == NULL; p++)
		if ((unsigned char) *p < ' ' || *p == '\x7f')
			wrong = "its first line has control characters";
	if (wrong == NULL)
		return line;
	file_problem(problem, name, path, 0, wrong);
	return NULL;
}

/*
 * fill_secret - set the token that a row of sabot.llm_secret stands for
 *
 * Returns false with what is wrong with its file, if it is kept in one.
 */
static bool
fill_secret(SabotEndpoint *endpoint, const char *secret,
			SabotEndpointProblem *problem)
{
	const size_t prefix = strlen(SABOT_SECRET_FILE);

	if (secret == NULL)
		return true;
	if (strncmp(secret, SABOT_SECRET_FILE, prefix) == 0)
		endpoint->secret = read_secret_file(endpoint->name, secret + prefix,
											problem);
	else
		endpoint->secret = pstrdup(secret);
	return endpoint->secret != NULL;
}

/*
 * fill_endpoint - an endpoint from the row that SPI has read, or, if it has
 * none, the one that is there without
 *
 * NULL with what is wrong with its secret.
 */
static SabotEndpoint *
fill_endpoint(const char *name, bool has_row, SabotEndpointProblem *problem)
{
	SabotEndpoint *endpoint = palloc0(sizeof(SabotEndpoint));
	const char *value[5] = {SABOT_DEFAULT_URL, "ollama", "1", NULL, NULL};

	for (int i = 0; i < lengthof(value) && has_row; i++)
		value[i] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								i + 1);
	endpoint->name = pstrdup(name);
	endpoint->url = pstrdup(value[0]);
	endpoint->origin = sabot_url_origin(value[0]);
	endpoint->api = strcmp(value[1], "openai") == 0 ? SABOT_API_OPENAI :
		SABOT_API_OLLAMA;
	endpoint->max_in_flight = pg_strtoint32(value[2]);
	return fill_secret(endpoint, value[4], problem) ? endpoint : NULL;
}

/*
 * find_row - read the row of an endpoint that a role is to use
 *
 * Returns false with what is wrong.  *has_row says whether there is a row; it
 * is SPI's result then: url, api, max_in_flight, roles and secret.
 */
static bool
find_row(const char *name, Oid role, bool *has_row,
		 SabotEndpointProblem *problem)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	*has_row = sabot_spi("SELECT e.url, e.api, e.max_in_flight, e.roles, s.secret"
						 " FROM sabot.llm_endpoint e"
						 " LEFT JOIN sabot.llm_secret s ON s.endpoint = e.name"
						 " WHERE e.name = $1",
						 1, types, values, NULL, 0) > 0;
	if (*has_row ? may_use(role, column_roles(0, 4)) :
		strcmp(name, SABOT_DEFAULT_ENDPOINT) == 0)
		return true;
	problem->sqlerrcode = *has_row ? ERRCODE_INSUFFICIENT_PRIVILEGE :
		ERRCODE_UNDEFINED_OBJECT;
	problem->message = *has_row ?
		psprintf("permission denied for LLM endpoint \"%s\"", name) :
		psprintf("LLM endpoint \"%s\" does not exist", name);
	problem->hint = hint_usable(role);
	problem->no_secret = NULL;
	return false;
}

/*
 * sabot_endpoint_find - the endpoint with this name, for a role; or NULL with
 * what is wrong
 *
 * In a transaction, with SPI connected or not.  Palloc'd.  Wrong can be that
 * there is none (42704), that the role may not use it (42501), or the file
 * that has its secret.
 */
SabotEndpoint *
sabot_endpoint_find(const char *name, Oid role, SabotEndpointProblem *problem)
{
	MemoryContext caller = CurrentMemoryContext;
	SabotEndpoint *endpoint = NULL;
	SabotOwn	own;
	bool		has_row;

	(void) sabot_endpoint_table();
	SPI_connect();
	sabot_own_begin(&own);
	if (find_row(name, role, &has_row, problem))
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		endpoint = fill_endpoint(name, has_row, problem);
		MemoryContextSwitchTo(old);
	}
	if (endpoint == NULL)
	{
		problem->message = MemoryContextStrdup(caller, problem->message);
		problem->hint = MemoryContextStrdup(caller, problem->hint);
		if (problem->no_secret)
			problem->no_secret = MemoryContextStrdup(caller,
													 problem->no_secret);
	}
	sabot_own_end(&own);
	SPI_finish();
	return endpoint;
}

/*
 * sabot_endpoint_raise - raise what is wrong with an endpoint
 */
void
sabot_endpoint_raise(const SabotEndpointProblem *problem)
{
	ereport(ERROR,
			(errcode(problem->sqlerrcode),
			 errmsg("%s", problem->message),
			 errhint("%s", problem->hint)));
}

/*
 * sabot_endpoint_read - the endpoint with this name, for a role
 *
 * As sabot_endpoint_find(), but raises what is wrong.
 */
SabotEndpoint *
sabot_endpoint_read(const char *name, Oid role)
{
	SabotEndpointProblem problem;
	SabotEndpoint *endpoint = sabot_endpoint_find(name, role, &problem);

	if (endpoint == NULL)
		sabot_endpoint_raise(&problem);
	return endpoint;
}
