/*-------------------------------------------------------------------------
 *
 * llm_source_key.c
 *		The key of a row, as a JSON object.
 *
 * So it is kept with the item, whatever its columns' types, and finds a row of
 * the target.  Rows of a source have one, and captured rows of the table that
 * a source reads.
 *
 * IDENTIFICATION
 *		src/llm/llm_source_key.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "llm/llm.h"
#include "llm/llm_source.h"
#include "llm/llm_template.h"

/* A column of the key. */
typedef struct SabotKeyColumn
{
	char	   *name;
	AttrNumber	column;
	Oid			type;
	FmgrInfo	to_jsonb;		/* of this type */
} KeyColumn;

/*
 * prepare_column - get ready for a column of a key
 */
static void
prepare_column(KeyColumn *key, const char *name, TupleDesc columns)
{
	Form_pg_attribute att;
	Node	   *arg;

	key->name = pstrdup(name);
	key->column = sabot_column_find(columns, name);
	att = TupleDescAttr(columns, key->column - 1);
	key->type = getBaseType(att->atttypid);

	/* to_jsonb() asks its call for the type of its argument. */
	arg = (Node *) makeNullConst(att->atttypid, att->atttypmod,
								 att->attcollation);
	fmgr_info(F_TO_JSONB, &key->to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(arg), InvalidOid,
											 InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &key->to_jsonb);
}

/*
 * sabot_source_key - get ready to make keys of rows with these columns
 *
 * In the current memory context.  Raises what sabot_source_check_key() raises.
 */
SabotSourceKey *
sabot_source_key(const SabotLlmSpec *spec, TupleDesc columns)
{
	SabotSourceKey *key = palloc0(sizeof(SabotSourceKey));
	ListCell   *lc;

	sabot_source_check_key(spec, columns);
	key->columns = palloc0(sizeof(KeyColumn) * Max(list_length(spec->key), 1));
	foreach(lc, spec->key)
		prepare_column(&key->columns[key->n++], lfirst(lc), columns);
	return key;
}

/*
 * push_key_value - append a value of the key to the object of its values
 */
static void
push_key_value(JsonbParseState **state, KeyColumn *key, Datum value)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = key->name;
	v.val.string.len = (int) strlen(key->name);
	pushJsonbValue(state, WJB_KEY, &v);

	if (key->type == INT4OID || key->type == INT8OID)
	{
		v.type = jbvNumeric;
		v.val.numeric = int64_to_numeric(key->type == INT4OID ?
										 DatumGetInt32(value) :
										 DatumGetInt64(value));
	}
	else
	{
		Jsonb	   *json = DatumGetJsonbP(FunctionCall1(&key->to_jsonb,
														value));

		if (!JsonbExtractScalar(&json->root, &v))
			JsonbToJsonbValue(json, &v);
	}
	pushJsonbValue(state, WJB_VALUE, &v);
}

/*
 * sabot_source_key_of - the key of a row, as a JSON object
 *
 * number is the row's, for the error: 23502 if one of the columns is NULL.
 */
Jsonb *
sabot_source_key_of(SabotSourceKey *key, HeapTuple row, TupleDesc columns,
					int64 number)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < key->n; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(row, key->columns[i].column, columns,
										 &isnull);

		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of the source is null, but is in key",
							key->columns[i].name),
					 errdetail("It is so in row " INT64_FORMAT " of the source.",
							   number)));
		push_key_value(&state, &key->columns[i], value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
