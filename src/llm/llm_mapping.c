/*-------------------------------------------------------------------------
 *
 * llm_mapping.c
 *		Which part of an answer goes into which column of the target.
 *
 * Everything that can be known to be wrong is refused when the mapping is
 * made, which is at submit: a column that is not there, a key that finds more
 * than one row, a path that is none.  The statement that will write is
 * prepared at once for the same reason: the server then says what else it
 * would refuse.
 *
 * A mapping outlives the transaction it was made in, so it is copied from the
 * catalogs.  If the target changes afterwards, the statement is analysed
 * again by the server, and at worst its execution fails for that item.
 *
 * IDENTIFICATION
 *		src/llm/llm_mapping.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/bitmapset.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "llm/llm_jsonb.h"
#include "llm/llm_mapping.h"
#include "llm/llm_template.h"

#define MAX_SHOWN_OUTPUT 200

/*
 * invalid_output - raise 22023 for an output that is none
 */
static void
invalid_output(const char *output, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("output is not valid: %s",
					sabot_clip(output, MAX_SHOWN_OUTPUT)),
			 errdetail("%s", why),
			 errhint("Give the name of a column of the target, or a JSON object such as {\"label\": \"$.label\"}.")));
}

/*
 * open_target - the table or view that answers are written to, locked
 *
 * The name is looked up as the current user.  Errors: 42P01 if there is no
 * such relation, 22023 if it is nothing to update, 0A000 if it is temporary.
 */
static Relation
open_target(const char *name)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		oid;
	Relation	rel;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(name);
	fcinfo->args[0].isnull = false;
	oid = to_regclass(fcinfo);
	rel = fcinfo->isnull ? NULL :
		try_relation_open(DatumGetObjectId(oid), AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("target \"%s\" does not exist", name)));

	if ((relation_is_updatable(RelationGetRelid(rel), NIL, true, NULL) &
		 (1 << CMD_UPDATE)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target \"%s\" cannot be updated", name),
				 errhint("Give a table, or a view that can be updated.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("target \"%s\" is a temporary table", name),
				 errdetail("Answers are written by another session, which cannot see it.")));
	return rel;
}

/*
 * sabot_mapping_find_column - a column of the target
 *
 * Raises 42703 if it has none with this name.
 */
Form_pg_attribute
sabot_mapping_find_column(Relation rel, const char *name)
{
	TupleDesc	columns = RelationGetDescr(rel);
	AttrNumber	attno = sabot_column_find(columns, name);

	if (attno == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("target \"%s\" has no column \"%s\"",
						RelationGetRelationName(rel), name),
				 errhint("It has these columns: %s.",
						 sabot_column_list(columns))));
	return TupleDescAttr(columns, attno - 1);
}

/*
 * check_writable - raise 22023 for a column that no UPDATE may set
 */
static void
check_writable(Relation rel, Form_pg_attribute att)
{
	Bitmapset  *column =
	bms_make_singleton(att->attnum - FirstLowInvalidHeapAttributeNumber);

	if (att->attgenerated != '\0' ||
		att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of target \"%s\" is generated always",
						NameStr(att->attname), RelationGetRelationName(rel))));
	if ((relation_is_updatable(RelationGetRelid(rel), NIL, true, column) &
		 (1 << CMD_UPDATE)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of target \"%s\" cannot be updated",
						NameStr(att->attname), RelationGetRelationName(rel))));
}

/*
 * is_not_null_type - whether a type is a domain that refuses NULL
 */
static bool
is_not_null_type(Oid type)
{
	while (get_typtype(type) == TYPTYPE_DOMAIN)
	{
		HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		Form_pg_type form;
		bool		not_null;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for type %u", type);
		form = (Form_pg_type) GETSTRUCT(tuple);
		not_null = form->typnotnull;
		type = form->typbasetype;
		ReleaseSysCache(tuple);
		if (not_null)
			return true;
	}
	return false;
}

/*
 * map_column - add a column to a mapping; path is NULL for the whole answer
 */
static void
map_column(SabotMapping *mapping, Relation rel, const char *name,
		   JsonPath *path)
{
	Form_pg_attribute att = sabot_mapping_find_column(rel, name);
	SabotMappedColumn *column = &mapping->columns[mapping->ncolumns++];

	check_writable(rel, att);
	column->name = pstrdup(NameStr(att->attname));
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->nullable = !att->attnotnull && !is_not_null_type(att->atttypid);
	column->path = path;
}

/*
 * members_of_path - the names in a path that is nothing but names, or NIL
 *
 * canonical is the path as the server writes it: $."a"."b".
 */
static List *
members_of_path(const char *canonical)
{
	List	   *members = NIL;
	const char *s = canonical;

	if (strncmp(s, "strict ", strlen("strict ")) == 0)
		s += strlen("strict ");
	if (*s++ != '$')
		return NIL;
	while (s[0] == '.' && s[1] == '"')
	{
		const char *start = ++s;
		char	   *ignored;
		Jsonb	   *json;
		JsonbValue	name;

		for (s++; *s != '"' && *s != '\0'; s++)
			if (*s == '\\' && s[1] != '\0')
				s++;
		if (*s++ == '\0')
			return NIL;
		json = sabot_jsonb_parse(pnstrdup(start, s - start), &ignored);
		if (json == NULL || !JsonbExtractScalar(&json->root, &name) ||
			name.type != jbvString)
			return NIL;
		members = lappend(members, pnstrdup(name.val.string.val,
											name.val.string.len));
	}
	return *s == '\0' ? members : NIL;
}

/*
 * uses_variable - whether a path refers to a variable, which nobody could set
 *
 * canonical is the path as the server writes it: a dollar sign and a quoted
 * name, which stand next to each other nowhere else but in strings.
 */
static bool
uses_variable(const char *canonical)
{
	bool		in_string = false;

	for (const char *s = canonical; *s != '\0'; s++)
	{
		if (in_string && *s == '\\' && s[1] != '\0')
			s++;
		else if (*s == '"')
			in_string = !in_string;
		else if (!in_string && *s == '$' && s[1] == '"')
			return true;
	}
	return false;
}

/*
 * jsonpath_of - a path from its text
 *
 * Raises 22023 for what is none: to the caller that is an argument like any
 * other, and there may be many paths in it.
 */
static Datum
jsonpath_of(const char *output, const char *column, char *text)
{
	MemoryContext volatile caller = CurrentMemoryContext;
	volatile Datum path = (Datum) 0;

	PG_TRY();
	{
		path = DirectFunctionCall1(jsonpath_in, CStringGetDatum(text));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_SYNTAX_ERROR &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		invalid_output(output, psprintf("The path of column \"%s\" is not valid: %s.",
										column, error->message));
	}
	PG_END_TRY();
	return path;
}

/*
 * parse_path - the path that a column's values come from
 *
 * Raises 22023 if it is no string, no path, or uses variables.
 */
static JsonPath *
parse_path(const char *output, const char *column, JsonbValue *value,
		   List **members)
{
	Datum		path;
	char	   *canonical;

	if (value->type != jbvString)
		invalid_output(output, psprintf("The path of column \"%s\" is not a string.",
										column));
	path = jsonpath_of(output, column,
					   pnstrdup(value->val.string.val, value->val.string.len));
	canonical = DatumGetCString(DirectFunctionCall1(jsonpath_out, path));
	if (uses_variable(canonical))
		invalid_output(output, psprintf("The path of column \"%s\" uses a variable.",
										column));
	*members = members_of_path(canonical);
	return DatumGetJsonPathP(path);
}

/*
 * map_object - map the columns of an output that is a JSON object
 */
static void
map_object(SabotMapping *mapping, Relation rel, const char *output)
{
	char	   *violation;
	Jsonb	   *json = sabot_jsonb_parse(output, &violation);
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	value;

	if (json == NULL)
		invalid_output(output, psprintf("It is %s.", violation));
	if (JB_ROOT_COUNT(json) == 0)
		invalid_output(output, "It names no column.");
	mapping->is_object = true;
	mapping->columns = palloc0(sizeof(SabotMappedColumn) *
							   JB_ROOT_COUNT(json));

	it = JsonbIteratorInit(&json->root);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		char	   *name = pnstrdup(key.val.string.val, key.val.string.len);
		List	   *members;
		JsonPath   *path;

		(void) JsonbIteratorNext(&it, &value, true);
		path = parse_path(output, name, &value, &members);
		map_column(mapping, rel, name, path);
		mapping->columns[mapping->ncolumns - 1].members = members;
	}
}

/*
 * map_whole - map the one column of an output that is a column's name
 */
static void
map_whole(SabotMapping *mapping, Relation rel, const char *output)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(output), '.', &names) ||
		list_length(names) != 1)
		invalid_output(output, "It is neither a column's name nor a JSON object.");
	mapping->columns = palloc0(sizeof(SabotMappedColumn));
	map_column(mapping, rel, linitial(names), NULL);
}

/*
 * map_output - map the columns that the output names
 */
static void
map_output(SabotMapping *mapping, Relation rel, const SabotLlmSpec *spec)
{
	const char *s = spec->output + strspn(spec->output, " \t\r\n");
	SabotMappedColumn *column;
	Oid			function;

	if (*s != '{')
		map_whole(mapping, rel, spec->output);
	else if (spec->embedding)
		invalid_output(spec->output, "An embedding goes into one column.");
	else
		map_object(mapping, rel, spec->output);
	if (!spec->embedding)
		return;

	column = &mapping->columns[0];
	if (find_coercion_pathway(getBaseType(column->type), FLOAT4ARRAYOID,
							  COERCION_ASSIGNMENT, &function) ==
		COERCION_PATH_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of target \"%s\" cannot hold an embedding",
						column->name, RelationGetRelationName(rel)),
				 errdetail("There is no assignment cast from real[] to %s.",
						   format_type_be(column->type)),
				 errhint("Use a column of type real[], or of a type such as vector that casts from it.")));
}

/*
 * sabot_mapping_create - what a job's target, key and output mean
 *
 * Allocated in the current memory context, and good until that is reset, in
 * other transactions too.  A job without a target has a mapping that writes
 * nothing.  spec->key must be there if spec->target is.
 *
 * Errors: 42P01 and 42703 for what is not there; 22023 for an output that is
 * neither name nor object, columns that cannot be set, a key that is not
 * unique or is written to; 42804 for a column that no embedding fits; 0A000
 * for temporary tables; and what preparing the UPDATE raises.
 */
SabotMapping *
sabot_mapping_create(const SabotLlmSpec *spec)
{
	SabotMapping *mapping = palloc0(sizeof(SabotMapping));
	Relation	rel;

	if (spec->target == NULL)
	{
		if (spec->output != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("output needs a target"),
					 errhint("Give the table whose columns answers are to be written to as target.")));
		return mapping;
	}
	if (spec->output == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target needs an output"),
				 errhint("Give the column that answers are to be written to as output.")));

	rel = open_target(spec->target);
	map_output(mapping, rel, spec);
	sabot_mapping_check_key(mapping, rel, spec->key);
	mapping->update = palloc0(sizeof(SabotMappingPlan));
	mapping->update->sql = sabot_mapping_build_update(mapping, rel, spec);
	relation_close(rel, NoLock);
	sabot_mapping_prepare(mapping, spec->embedding);
	return mapping;
}
