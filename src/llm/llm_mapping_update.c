/*-------------------------------------------------------------------------
 *
 * llm_mapping_update.c
 *		The key that finds a row of the target, and the UPDATE that writes it.
 *
 * The statement names everything so that no search_path can change what it
 * means, and takes its values as JSON: what jsonb_to_record() makes of them is
 * what the server itself would make of such a document, so that arrays,
 * domains, enums, lengths and composites need no code here.
 *
 * IDENTIFICATION
 *		src/llm/llm_mapping_update.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "llm/llm_mapping.h"

/*
 * is_unique_index - whether an index lets at most one row have a key
 *
 * key has the numbers of the key's columns.
 */
static bool
is_unique_index(Oid indexid, const Bitmapset *key)
{
	Relation	index = index_open(indexid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	bool		result = form->indisunique && form->indimmediate &&
	form->indisvalid &&
	heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);

	/* Expressions have the number 0, which no key has. */
	for (int i = 0; result && i < form->indnkeyatts; i++)
		result = form->indkey.values[i] > 0 &&
			bms_is_member(form->indkey.values[i], key);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * sabot_key_is_unique - whether at most one row of a table can have a key
 *
 * key has the numbers of the key's columns.
 */
bool
sabot_key_is_unique(Relation rel, const Bitmapset *key)
{
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
		if (is_unique_index(lfirst_oid(lc), key))
		return true;
	return false;
}

/*
 * sabot_mapping_check_key - the key's columns are there, unique, and not output
 *
 * Errors: 42703, 22023.  Views and foreign tables have no indexes; there it
 * shows when a key finds two rows.
 */
void
sabot_mapping_check_key(const SabotMapping *mapping, Relation rel, List *key)
{
	Bitmapset  *numbers = NULL;
	char		kind = rel->rd_rel->relkind;
	ListCell   *lc;

	if (key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("target \"%s\" has no primary key",
						RelationGetRelationName(rel)),
				 errhint("Name columns that are unique there as key.")));
	foreach(lc, key)
	{
		Form_pg_attribute att = sabot_mapping_find_column(rel, lfirst(lc));

		for (int i = 0; i < mapping->ncolumns; i++)
			if (strcmp(mapping->columns[i].name, NameStr(att->attname)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("column \"%s\" is in key and in output",
								NameStr(att->attname))));
		numbers = bms_add_member(numbers, att->attnum);
	}

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		return;
	if (sabot_key_is_unique(rel, numbers))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("key is not unique in target \"%s\"",
					RelationGetRelationName(rel)),
			 errdetail("There is no unique index on its columns."),
			 errhint("Create one, or name other columns as key.")));
}

/*
 * type_text - a column's type as it is written in SQL, for any search_path
 */
static char *
type_text(Oid type, int32 typmod)
{
	return format_type_extended(type, typmod,
								FORMAT_TYPE_TYPEMOD_GIVEN |
								FORMAT_TYPE_FORCE_QUALIFY);
}

/*
 * equality - the operator that compares values of a type, for any search_path
 */
static char *
equality(Oid type)
{
	Oid			opr = lookup_type_cache(getBaseType(type),
										TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple	tuple;
	Form_pg_operator form;
	char	   *result;

	if (!OidIsValid(opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s",
						format_type_be(type))));
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(opr));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", opr);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * append_assignments - append what UPDATE sets: $1 is the value
 *
 * jsonb_to_record() makes values of the columns' very types, so that domains,
 * length limits and enums are checked as if the JSON were a record of them.
 */
static void
append_assignments(StringInfo sql, const SabotMapping *mapping, bool embedding)
{
	if (embedding)
	{
		appendStringInfo(sql, "%s = $1",
						 quote_identifier(mapping->columns[0].name));
		return;
	}
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(sql, "%s%s", i == 0 ? "(" : ", ",
						 quote_identifier(mapping->columns[i].name));
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(sql, "%sr.%s", i == 0 ? ") = (SELECT " : ", ",
						 quote_identifier(mapping->columns[i].name));
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(sql, "%s%s %s",
						 i == 0 ? " FROM pg_catalog.jsonb_to_record($1) AS r (" : ", ",
						 quote_identifier(mapping->columns[i].name),
						 type_text(mapping->columns[i].type,
								   mapping->columns[i].typmod));
	appendStringInfoString(sql, "))");
}

/*
 * sabot_key_append_condition - append the WHERE clause that finds the row "t"
 * with a key, which is a parameter
 *
 * rel has the key's columns.  Each part of the key is a subselect without
 * references, which is run once: to the planner it is a parameter, good for an
 * index, for choosing a partition and for a foreign server.
 */
void
sabot_key_append_condition(StringInfo sql, Relation rel, List *key, int param)
{
	ListCell   *lc;

	foreach(lc, key)
	{
		Form_pg_attribute att = sabot_mapping_find_column(rel, lfirst(lc));
		const char *name = quote_identifier(NameStr(att->attname));

		appendStringInfo(sql,
						 " %s t.%s %s (SELECT k.%s FROM pg_catalog.jsonb_to_record($%d) AS k (%s %s))",
						 lc == list_head(key) ? "WHERE" : "AND", name,
						 equality(att->atttypid), name, param, name,
						 type_text(att->atttypid, att->atttypmod));
	}
}

/*
 * sabot_mapping_build_update - the statement that writes
 *
 * Its $1 is the value, its $2 the key.
 */
char *
sabot_mapping_build_update(const SabotMapping *mapping, Relation rel,
						   const SabotLlmSpec *spec)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS t SET ",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)));
	append_assignments(&sql, mapping, spec->embedding);
	sabot_key_append_condition(&sql, rel, spec->key, 2);
	return sql.data;
}

/*
 * sabot_mapping_default_key - the names of the columns of a target's primary
 * key, NIL if it has none
 */
List *
sabot_mapping_default_key(Oid target)
{
	Relation	rel = relation_open(target, AccessShareLock);
	Oid			indexid = InvalidOid;
	List	   *key = NIL;

	if (rel->rd_rel->relkind == RELKIND_RELATION ||
		rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		indexid = SabotPrimaryKeyIndex(rel);
	if (OidIsValid(indexid))
	{
		Relation	index = index_open(indexid, AccessShareLock);

		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			key = lappend(key, get_attname(target,
										   index->rd_index->indkey.values[i],
										   false));
		index_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	return key;
}
