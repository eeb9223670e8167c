/*-------------------------------------------------------------------------
 *
 * job_params.c
 *		Binding a job's params, a JSON array, to $1, $2 ... of its command.
 *
 * Types are found as in a prepared statement: the parser deduces them from
 * where a parameter stands, so that params need no types of their own.  A
 * command has several statements, and a type found in one of them holds for
 * those after it; a value is converted once, when its type is first known.
 *
 * How many parameters a command uses is counted before anything is run,
 * because a job that runs statement by statement cannot take back the ones
 * before the mismatch.  The parse trees cannot be asked (the raw tree walker
 * knows no utility statements), so the core's scanner is run over the text.
 * Only statements that parse analysis looks into count: the $1 in the body of
 * a function or in PREPARE is not the job's.
 *
 * Values are converted as jsonb_populate_record() does.  The server exports
 * no function that does that for a single value, so arrays, composites and
 * domains go through jsonb_to_record() with a row type of one column; the
 * types that are mostly used are given to their input function directly.
 *
 * IDENTIFICATION
 *		src/jobs/job_params.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"
#include "parser/analyze.h"
#include "parser/scanner.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "jobs/jobs.h"

struct SabotParams
{
	MemoryContext context;		/* holds all of it */
	Jsonb	   *json;			/* the array */
	Oid		   *types;			/* as the parser found them so far */
	int			ntypes;
	ParamListInfo list;			/* ptype is InvalidOid until converted */
};

static int	highest_param(const char *command, List *raw_statements);
static void convert_params(SabotParams *params);
static void describe_param(void *arg);
static Datum convert_value(int number, JsonbValue *value, Oid type,
						   bool *isnull);
static bool is_plain_type(Oid type);
static char *value_to_cstring(JsonbValue *value);
static Datum populate_value(int number, JsonbValue *value, Oid type,
							bool *isnull);

/*
 * sabot_params_highest - the highest n of the $n a command uses, 0 if none
 *
 * Raises a syntax error, with its position, only if there is a $ in it: the
 * rest is not looked at.  Leaves its garbage in the current memory context.
 */
int
sabot_params_highest(const char *command)
{
	if (strchr(command, '$') == NULL)
		return 0;
	return highest_param(command, sabot_job_parse(command));
}

/*
 * sabot_params_check - raise an error unless params fit a command
 *
 * highest is what sabot_params_highest() returned, params may be NULL.
 * Errors: 22023 if params is not an array, 08P01 if it has too few or too
 * many elements.
 */
void
sabot_params_check(int highest, Jsonb *params)
{
	int			nelems;

	if (params == NULL)
	{
		if (highest > 0)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("command uses %d parameter%s, but params is NULL",
							highest, highest == 1 ? "" : "s"),
					 errhint("Give params as a JSON array with one element for each of $1, $2 and so on.")));
		return;
	}
	if (!JB_ROOT_IS_ARRAY(params) || JB_ROOT_IS_SCALAR(params))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("params must be a JSON array"),
				 errhint("Give one element for each of $1, $2 and so on.")));

	nelems = JB_ROOT_COUNT(params);
	if (nelems != highest)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("command uses %d parameter%s, but params has %d element%s",
						highest, highest == 1 ? "" : "s",
						nelems, nelems == 1 ? "" : "s")));
}

/*
 * sabot_params_create - make a command's params ready for its statements
 *
 * raw_statements is the parsed command.  Everything is allocated in the
 * current memory context, which has to live until the last statement has
 * ended.  Returns NULL if there are none.  Errors: those of
 * sabot_params_check().
 */
SabotParams *
sabot_params_create(const char *command, List *raw_statements, Jsonb *params)
{
	SabotParams *result;
	int			highest = 0;

	if (strchr(command, '$') != NULL)
		highest = highest_param(command, raw_statements);
	sabot_params_check(highest, params);
	if (highest == 0)
		return NULL;

	result = palloc(sizeof(SabotParams));
	result->context = CurrentMemoryContext;
	result->json = params;
	result->ntypes = highest;
	result->types = palloc0(highest * sizeof(Oid));
	result->list = makeParamList(highest);
	memset(result->list->params, 0, highest * sizeof(ParamExternData));
	return result;
}

/*
 * sabot_params_analyze - parse analysis of one statement of a command
 *
 * source is the whole command, env what knows relations that are not in the
 * catalog, or NULL.  The statement's parameters get their types
 * and are converted, for which a snapshot is set if the statement needs one.
 * params may be NULL.  Errors are those of parse analysis and of the types'
 * input functions, with "parameter $n of the job" as context.
 */
Query *
sabot_params_analyze(SabotParams *params, RawStmt *stmt, const char *source,
					 QueryEnvironment *env)
{
	Query	   *query;

	if (params == NULL)
		return parse_analyze_fixedparams(stmt, source, NULL, 0, env);

	query = parse_analyze_varparams(stmt, source, &params->types,
									&params->ntypes, env);
	convert_params(params);
	return query;
}

/*
 * sabot_params_list - params as planner and executor take them
 *
 * Valid as long as params; NULL if those are.
 */
ParamListInfo
sabot_params_list(SabotParams *params)
{
	return params ? params->list : NULL;
}

/*
 * highest_param - the highest n of the $n in statements that take parameters
 *
 * The command has been parsed without an error.
 */
static int
highest_param(const char *command, List *raw_statements)
{
	core_yy_extra_type extra;
	core_YYSTYPE value;
	YYLTYPE		location;
	int			current = -1;
	bool		counts = false;
	long		highest = 0;
	core_yyscan_t scanner = scanner_init(command, &extra, &ScanKeywords,
										 ScanKeywordTokens);

	/* The parser has warned already. */
	extra.escape_string_warning = false;

	while (core_yylex(&value, &location, scanner) != 0)
	{
		while (current + 1 < list_length(raw_statements))
		{
			RawStmt    *next = list_nth_node(RawStmt, raw_statements,
											 current + 1);

			if (next->stmt_location > location)
				break;
			counts = analyze_requires_snapshot(next);
			current++;
		}

		/* Nothing but a parameter starts so; token numbers are not public. */
		if (counts && command[location] == '$' &&
			isdigit((unsigned char) command[location + 1]))
			highest = Max(highest, strtol(command + location + 1, NULL, 10));
	}
	scanner_finish(scanner);

	return (int) Min(highest, INT_MAX);
}

/*
 * convert_params - convert the params whose type has just been found
 *
 * The values live as long as the params.
 */
static void
convert_params(SabotParams *params)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(params->context);
	ErrorContextCallback callback;
	int			number;

	callback.callback = describe_param;
	callback.arg = &number;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	for (number = 1; number <= params->list->numParams; number++)
	{
		ParamExternData *param = &params->list->params[number - 1];
		Oid			type = params->types[number - 1];

		if (!OidIsValid(type) || type == param->ptype)
			continue;
		param->value =
			convert_value(number,
						  getIthJsonbValueFromContainer(&params->json->root,
														number - 1),
						  type, &param->isnull);
		param->ptype = type;
		param->pflags = PARAM_FLAG_CONST;
	}

	error_context_stack = callback.previous;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * describe_param - error context callback: which parameter it is about
 */
static void
describe_param(void *arg)
{
	errcontext("parameter $%d of the job", *(int *) arg);
}

/*
 * convert_value - a JSON value as a value of a type
 *
 * A type the parser could not determine is that of a string literal.
 */
static Datum
convert_value(int number, JsonbValue *value, Oid type, bool *isnull)
{
	Oid			input;
	Oid			ioparam;

	*isnull = (value->type == jbvNull);

	if (type == UNKNOWNOID)
		return *isnull ? (Datum) 0 : CStringGetDatum(value_to_cstring(value));
	if (type == JSONBOID)
		return *isnull ? (Datum) 0 : JsonbPGetDatum(JsonbValueToJsonb(value));
	if (!is_plain_type(type))
		return populate_value(number, value, type, isnull);
	if (*isnull)
		return (Datum) 0;

	getTypeInputInfo(type, &input, &ioparam);
	return OidInputFunctionCall(input, value_to_cstring(value), ioparam, -1);
}

/*
 * is_plain_type - is a value of the type made of one string, always?
 *
 * True only for types that are no array, composite, domain or JSON type, and
 * not for all of those: the others take a longer way to the same value.
 */
static bool
is_plain_type(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case UUIDOID:
		case OIDOID:
			return true;
		default:
			return false;
	}
}

/*
 * value_to_cstring - what the input function of a plain type is given
 */
static char *
value_to_cstring(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data,
								  value->val.binary.len);
		default:
			elog(ERROR, "unexpected type of JSON value: %d",
				 (int) value->type);
			return NULL;		/* keep compiler quiet */
	}
}

/*
 * populate_value - a JSON value as a value of any type
 *
 * What jsonb_to_record('{"$1": value}') AS r("$1" type) returns: the name is
 * what its hints speak of.  The result points into memory of the current
 * context.
 */
static Datum
populate_value(int number, JsonbValue *value, Oid type, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	ReturnSetInfo rsinfo;
	HeapTupleData tuple;
	JsonbParseState *state = NULL;
	JsonbValue	key;
	char		name[16];

	snprintf(name, sizeof(name), "$%d", number);
	key.type = jbvString;
	key.val.string.val = name;
	key.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, value);
	value = pushJsonbValue(&state, WJB_END_OBJECT, NULL);

	memset(&rsinfo, 0, sizeof(rsinfo));
	rsinfo.type = T_ReturnSetInfo;
	rsinfo.allowedModes = SFRM_ValuePerCall;
	rsinfo.expectedDesc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(rsinfo.expectedDesc, 1, name, type, -1, 0);

	fmgr_info(F_JSONB_TO_RECORD, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL,
							 (Node *) &rsinfo);
	fcinfo->args[0].value = JsonbPGetDatum(JsonbValueToJsonb(value));
	fcinfo->args[0].isnull = false;

	tuple.t_data = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	return heap_getattr(&tuple, 1, rsinfo.expectedDesc, isnull);
}
