/*-------------------------------------------------------------------------
 *
 * llm_submit.c
 *		Submitting LLM jobs.
 *
 * A job of the lane is written down in the caller's transaction, in two rows:
 * the job, as any other, and what it asks for.  What can never work is
 * refused here, while there is somebody to tell: a source that is no query, a
 * template that names no column of it, an answer that fits no column.  The
 * server is looked at last, when nothing else is left to be refused.
 *
 * IDENTIFICATION
 *		src/llm/llm_submit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/job_stream.h"
#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_endpoint.h"
#include "llm/llm_look.h"
#include "llm/llm_mapping.h"

#define MAX_TIMEOUT_MS (24 * 3600 * INT64CONST(1000))
#define MAX_BATCH_SIZE 2048

/* Changes of rows that are seen to in one transaction. */
#define FOLLOW_ROWS 1000

PG_FUNCTION_INFO_V1(sabot_submit_llm_job);
PG_FUNCTION_INFO_V1(sabot_submit_embedding_job);

/* Where the arguments of a function are; -1 for those it does not have. */
typedef struct ArgPlaces
{
	const char *function;
	const char *prompt_name;
	int			system;
	int			format;
	int			options;
	int			target;
	int			key;
	int			output;
	int			fallback;
	int			batch_size;
	int			endpoint;		/* timeout and max_attempts follow */
	int			name;			/* priority, run_after, depends_on, follow,
								 * reuse and notify follow */
} ArgPlaces;

static const ArgPlaces llm_places = {
	.function = "sabot.submit_llm_job()",
	.prompt_name = "prompt",
	.system = 3,
	.format = 4,
	.options = 5,
	.target = 6,
	.key = 7,
	.output = 8,
	.fallback = 9,
	.batch_size = -1,
	.endpoint = 10,
	.name = 13
};

static const ArgPlaces embedding_places = {
	.function = "sabot.submit_embedding_job()",
	.prompt_name = "input",
	.system = -1,
	.format = -1,
	.options = -1,
	.target = 3,
	.key = 4,
	.output = 5,
	.fallback = -1,
	.batch_size = 6,
	.endpoint = 7,
	.name = 10
};

/*
 * invalid - raise 22023
 */
static void
invalid(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message)));
}

/*
 * require - raise 22004 if an argument is NULL
 */
static void
require(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/*
 * optional_text - a text argument, NULL if it is not given
 */
static char *
optional_text(FunctionCallInfo fcinfo, int argno)
{
	if (argno < 0 || PG_ARGISNULL(argno))
		return NULL;
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * optional_jsonb - a jsonb argument, NULL if it is not given
 */
static Jsonb *
optional_jsonb(FunctionCallInfo fcinfo, int argno)
{
	if (argno < 0 || PG_ARGISNULL(argno))
		return NULL;
	return PG_GETARG_JSONB_P(argno);
}

/*
 * filled_text - a text argument; raises 22004 if it is NULL, 22023 if empty
 */
static char *
filled_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	char	   *value;

	require(fcinfo, argno, name);
	value = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (value[strspn(value, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	return value;
}

/*
 * check_format - raise 22023 unless format is a JSON schema that an api takes
 */
static void
check_format(Jsonb *format)
{
	JsonbValue	value;

	sabot_schema_check(format);
	if (JsonbExtractScalar(&format->root, &value) && value.type == jbvBool)
		invalid("format must be a JSON object");
}

/*
 * check_options - raise 22023 unless options is an object without the keys
 * that the lane sets itself
 */
static void
check_options(Jsonb *options)
{
	static const struct
	{
		const char *key;
		const char *hint;
	}			reserved[] = {
		{"stream", "Answers are always received whole."},
		{"model", "Give it as model."},
		{"messages", "Give prompt and system."},
		{"prompt", "Give it as prompt."},
		{"format", "Give it as format."}
	};

	if (!JB_ROOT_IS_OBJECT(options))
		invalid("options must be a JSON object");
	for (int i = 0; i < lengthof(reserved); i++)
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&options->root, reserved[i].key,
										 strlen(reserved[i].key), &value))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("options must not contain \"%s\"",
							reserved[i].key),
					 errhint("%s", reserved[i].hint)));
	}
}

/*
 * key_names - the columns of a key
 *
 * Raises 22023 for none and for a NULL among them.
 */
static List *
key_names(ArrayType *key)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	List	   *names = NIL;

	if (ARR_NDIM(key) > 1)
		invalid("key must be a one-dimensional array");
	deconstruct_array(key, TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	if (n == 0)
		invalid("key must name at least one column");
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			invalid("key must not contain nulls");
		names = lappend(names, TextDatumGetCString(elems[i]));
	}
	return names;
}

/*
 * timeout_ms - how long an attempt may take; raises 22004 or 22023
 */
static int64
timeout_ms(FunctionCallInfo fcinfo, int argno)
{
	int64		ms;

	require(fcinfo, argno, "timeout");
	ms = sabot_interval_ms(PG_GETARG_INTERVAL_P(argno));
	if (ms < 1 || ms > MAX_TIMEOUT_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must be from 1 ms to 1 day"),
				 errdetail("It is for one attempt at one item.")));
	return ms;
}

/*
 * int_within - an integer argument of a range; raises 22004 or 22023
 */
static int32
int_within(FunctionCallInfo fcinfo, int argno, const char *name, int32 lowest,
		   int32 highest)
{
	int32		value;

	require(fcinfo, argno, name);
	value = PG_GETARG_INT32(argno);
	if (value >= lowest && value <= highest)
		return value;
	if (highest == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at least %d", name, lowest)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s must be from %d to %d", name, lowest, highest)));
	return 0;
}

/*
 * read_arguments - what the arguments say, each by itself checked
 *
 * target and model are for later.
 */
static SabotLlmSpec *
read_arguments(FunctionCallInfo fcinfo, const ArgPlaces *at)
{
	SabotLlmSpec *spec = palloc0(sizeof(SabotLlmSpec));

	spec->source = filled_text(fcinfo, 0, "source");
	spec->prompt = filled_text(fcinfo, 1, at->prompt_name);
	spec->system = optional_text(fcinfo, at->system);
	spec->format = optional_jsonb(fcinfo, at->format);
	if (spec->format)
		check_format(spec->format);
	spec->options = optional_jsonb(fcinfo, at->options);
	if (spec->options)
		check_options(spec->options);
	if (!PG_ARGISNULL(at->key))
		spec->key = key_names(PG_GETARG_ARRAYTYPE_P(at->key));
	spec->output = optional_text(fcinfo, at->output);
	spec->fallback = optional_text(fcinfo, at->fallback);
	spec->batch_size = 1;
	if (at->batch_size >= 0)
		spec->batch_size = int_within(fcinfo, at->batch_size, "batch_size", 1,
									  MAX_BATCH_SIZE);
	require(fcinfo, at->endpoint, "endpoint");
	spec->endpoint = optional_text(fcinfo, at->endpoint);
	spec->timeout_ms = timeout_ms(fcinfo, at->endpoint + 1);
	spec->max_attempts = int_within(fcinfo, at->endpoint + 2, "max_attempts",
									1, PG_INT32_MAX);
	require(fcinfo, at->name + 4, "follow");
	spec->follow = PG_GETARG_BOOL(at->name + 4);
	require(fcinfo, at->name + 5, "reuse");
	spec->reuse = PG_GETARG_BOOL(at->name + 5);
	spec->total = -1;
	return spec;
}

/*
 * read_model - the model that is to be asked, NULL if none is named anywhere
 *
 * Raises 22023 for a name that is too long.
 */
static char *
read_model(FunctionCallInfo fcinfo)
{
	char	   *model = optional_text(fcinfo, 2);

	if (model == NULL && sabot_llm_model != NULL)
		model = pstrdup(sabot_llm_model);
	if (model == NULL || model[0] == '\0')
		return NULL;
	if (strlen(model) >= SABOT_MODEL_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a model is longer than %d bytes",
						SABOT_MODEL_LEN - 1)));
	return model;
}

/*
 * set_target - name the table answers are written to, and the key that finds
 * its rows
 *
 * Raises 42P01, 22023 for what has no rows to update and if there is no key,
 * 42501 for a table the caller may not update.
 */
static void
set_target(SabotLlmSpec *spec, Oid target)
{
	char	   *name = get_rel_name(target);
	char		kind = get_rel_relkind(target);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("target does not exist")));
	spec->target = quote_qualified_identifier(get_namespace_name(get_rel_namespace(target)),
											  name);
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		kind != RELKIND_VIEW && kind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target %s cannot be updated", spec->target),
				 errhint("Give a table, or a view that can be updated.")));
	if (pg_class_aclcheck(target, GetUserId(), ACL_UPDATE) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(target, GetUserId(), ACL_UPDATE,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV,
					   get_relkind_objtype(kind), name);
	if (spec->key == NIL)
		spec->key = sabot_mapping_default_key(target);
	if (spec->key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target %s has no primary key", spec->target),
				 errhint("Give the columns that find a row of it, as key.")));
}

/*
 * check_columns - raise 42501 if the caller may not update a column that
 * answers are to go to
 */
static void
check_columns(Oid target, const SabotMapping *mapping)
{
	if (pg_class_aclcheck(target, GetUserId(), ACL_UPDATE) == ACLCHECK_OK)
		return;
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		const char *name = mapping->columns[i].name;

		if (pg_attribute_aclcheck(target, get_attnum(target, name),
								  GetUserId(), ACL_UPDATE) != ACLCHECK_OK)
			aclcheck_error_col(ACLCHECK_NO_PRIV, OBJECT_COLUMN,
							   get_rel_name(target), name);
	}
}

/*
 * check_conversion - raise what converting the fallback raises, if all of it
 * goes into a column that no JSON is made into
 */
static void
check_conversion(const SabotLlmSpec *spec, const SabotMapping *mapping)
{
	SabotMappedColumn *column = mapping->columns;
	Oid			base;
	Oid			input;
	Oid			ioparam;

	if (mapping->is_object || mapping->ncolumns != 1 || spec->format)
		return;
	base = getBaseType(column->type);
	if (base == JSONOID || base == JSONBOID || type_is_array(base) ||
		get_typtype(base) == TYPTYPE_COMPOSITE)
		return;
	getTypeInputInfo(column->type, &input, &ioparam);
	(void) OidInputFunctionCall(input, spec->fallback, ioparam,
								column->typmod);
}

/*
 * check_together - whether source, prompt, target, key, output, format and
 * fallback fit each other; completes the format
 *
 * target is InvalidOid if there is none.  Raises what is wrong.
 */
static void
check_together(SabotLlmSpec *spec, Oid target)
{
	TupleDesc	columns = sabot_source_columns(spec->source);
	SabotMapping *mapping;
	char	   *violation;

	(void) sabot_template_parse(spec->prompt, columns);
	sabot_source_check_key(spec, columns);
	mapping = sabot_mapping_create(spec);
	if (OidIsValid(target))
		check_columns(target, mapping);
	if (spec->format == NULL && !spec->embedding)
		spec->format = sabot_mapping_schema(mapping);
	if (spec->fallback == NULL)
		return;
	if (sabot_mapping_value(mapping, spec, spec->fallback, &violation) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fallback is no answer that fits: %s", violation)));
	check_conversion(spec, mapping);
}

/*
 * keep_endpoint - have the endpoint stay until the caller's transaction ends
 *
 * Raises 42704 if it was dropped since it was read.  Between
 * sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
keep_endpoint(const char *name)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};

	if (sabot_spi("SELECT FROM sabot.llm_endpoint WHERE name = $1 FOR KEY SHARE",
				  1, types, values, NULL, 0) == 0 &&
		strcmp(name, SABOT_DEFAULT_ENDPOINT) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("LLM endpoint \"%s\" does not exist", name)));
}

/*
 * insert_job - insert a job and what it asks for; returns its id
 *
 * Raises what sabot_job_submit() raises.
 */
static int64
insert_job(FunctionCallInfo fcinfo, const ArgPlaces *at, SabotLlmSpec *spec)
{
	SabotNewJob job = {
		.kind = spec->embedding ? SABOT_EMBEDDING_KIND : SABOT_LLM_KIND,
		.queue = SABOT_LLM_QUEUE,
		.name = optional_text(fcinfo, at->name),
		.command = spec->source,
		.notify = optional_text(fcinfo, at->name + 6)
	};
	SabotOwn	own;

	require(fcinfo, at->name + 1, "priority");
	job.priority = PG_GETARG_INT32(at->name + 1);
	if (!PG_ARGISNULL(at->name + 2))
		job.run_after = PG_GETARG_TIMESTAMPTZ(at->name + 2);
	if (!PG_ARGISNULL(at->name + 3))
		job.depends_on = PG_GETARG_ARRAYTYPE_P(at->name + 3);
	spec->job_id = sabot_job_submit(&job, at->function);
	SPI_connect();
	sabot_own_begin(&own);
	keep_endpoint(spec->endpoint);
	sabot_spec_insert(spec);
	sabot_own_end(&own);
	SPI_finish();
	return spec->job_id;
}

/*
 * refuse_without_model - raise 22023, with the models that there are
 */
static void
refuse_without_model(const SabotEndpoint *endpoint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("no model was given"),
			 errdetail("%s", sabot_look_for_names(endpoint)),
			 errhint("Give one, as model => 'name', or set sabot.llm_model.")));
}

/*
 * capture - have the rows of a table captured for a job, last of all: the
 * table is locked from then on
 *
 * Unless the job has ended already, as one does that it depends on.
 */
static void
capture(int64 job_id, Oid table)
{
	if (sabot_job_read(job_id) != NULL)
		sabot_capture_begin(job_id, table, FOLLOW_ROWS);
}

/*
 * submit - submit an LLM or an embedding job
 */
static int64
submit(FunctionCallInfo fcinfo, const ArgPlaces *at)
{
	SabotLlmSpec *spec;
	SabotEndpoint *endpoint;
	Oid			followed = InvalidOid;
	int64		job_id;

	sabot_pool_require();
	PreventCommandIfReadOnly(at->function);
	sabot_check_owner_can_login(GetUserId());
	spec = read_arguments(fcinfo, at);
	spec->embedding = at->batch_size >= 0;
	spec->model = read_model(fcinfo);
	endpoint = sabot_endpoint_read(spec->endpoint, GetUserId());
	if (!PG_ARGISNULL(at->target))
		set_target(spec, PG_GETARG_OID(at->target));
	if (spec->follow)
		followed = sabot_follow_source(spec);
	check_together(spec, PG_ARGISNULL(at->target) ? InvalidOid :
				   PG_GETARG_OID(at->target));
	if (spec->model == NULL)
		refuse_without_model(endpoint);
	job_id = insert_job(fcinfo, at, spec);
	sabot_look_for_model(endpoint, spec->model);
	if (spec->follow)
		capture(job_id, followed);
	return job_id;
}

/*
 * SQL: sabot.submit_llm_job(source text, prompt text, model text, system text,
 * format jsonb, options jsonb, target regclass, key text[], output text,
 * fallback text, endpoint text, timeout interval, max_attempts int, name text,
 * priority int, run_after timestamptz, depends_on bigint[], follow boolean,
 * reuse boolean, notify text) RETURNS bigint - have a model answer a prompt
 * for each row of a query; returns the job id
 *
 * Errors: 22004 and 22023 for arguments, those of the source and the prompt
 * (42601, 42703 and others, with their position), of what target, key and
 * output name (42P01, 42703, 42501), 42704 and 42501 for the endpoint, 0A000
 * for temporary tables and a source that cannot be followed, and those of
 * submit_job(), or of submit_stream() to follow.
 */
Datum
sabot_submit_llm_job(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(submit(fcinfo, &llm_places));
}

/*
 * SQL: sabot.submit_embedding_job(source text, input text, model text, target
 * regclass, key text[], output text, batch_size int, endpoint text, timeout
 * interval, max_attempts int, name text, priority int, run_after timestamptz,
 * depends_on bigint[], follow boolean, reuse boolean, notify text) RETURNS
 * bigint - have a model embed a text for each row of a query; returns the job
 * id
 *
 * Errors as those of submit_llm_job().
 */
Datum
sabot_submit_embedding_job(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(submit(fcinfo, &embedding_places));
}
