/*-------------------------------------------------------------------------
 *
 * llm_follow_submit.c
 *		Whether the rows of a source can be followed.
 *
 * A job that follows is told which rows of a table have changed and asks its
 * source for these rows again.  That is right if each row of the source is
 * made from one row of that table and from nothing else, and if the key tells
 * which: then what did not change in the table did not change in the source.
 *
 * IDENTIFICATION
 *		src/llm/llm_follow_submit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "llm/llm.h"
#include "llm/llm_mapping.h"

/*
 * why_not_rows - why rows of a query are not each made from one row of what it
 * reads, or NULL
 */
static const char *
why_not_rows(const Query *query)
{
	if (query->setOperations)
		return "It combines queries.";
	if (query->cteList)
		return "It has a WITH clause.";
	if (query->hasAggs || query->groupClause || query->groupingSets ||
		query->havingQual)
		return "It groups rows.";
	if (query->hasWindowFuncs)
		return "It calls a window function.";
	if (query->distinctClause)
		return "It has DISTINCT.";
	if (query->limitCount || query->limitOffset)
		return "It has LIMIT or OFFSET.";
	if (query->hasTargetSRFs)
		return "It calls a function that returns a set.";
	if (query->hasSubLinks)
		return "It has a subquery.";
	if (contain_volatile_functions(unconstify(Node *, (const Node *) query)))
		return "It calls a volatile function.";
	return NULL;
}

/*
 * the_table - the one table that a query reads; NULL with *why if it is none
 */
static const RangeTblEntry *
the_table(const Query *query, const char **why)
{
	const RangeTblEntry *rte = NULL;

	if (list_length(query->jointree->fromlist) == 1 &&
		IsA(linitial(query->jointree->fromlist), RangeTblRef))
		rte = rt_fetch(linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex,
					   query->rtable);
	*why = NULL;
	if (rte == NULL)
		*why = query->jointree->fromlist ? "It joins." : "It reads no table.";
	else if (rte->rtekind != RTE_RELATION ||
			 (rte->relkind != RELKIND_RELATION &&
			  rte->relkind != RELKIND_PARTITIONED_TABLE))
		*why = "What it reads is no table.";
	else if (rte->tablesample)
		*why = "It reads a sample.";
	else if (rte->inh && rte->relkind == RELKIND_RELATION &&
			 has_subclass(rte->relid))
		*why = "Other tables inherit from the one it reads.";
	return *why ? NULL : rte;
}

/*
 * is_column - whether a column of a query is the column of that name of a table
 */
static bool
is_column(const Query *query, Oid table, const char *name)
{
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk && strcmp(tle->resname, name) == 0)
			return tle->resorigtbl == table &&
				tle->resorigcol == get_attnum(table, name);
	}
	return false;
}

/*
 * check_key - raise 22023 unless the key tells rows of a table apart
 */
static void
check_key(const SabotLlmSpec *spec, const Query *query, Oid table)
{
	Relation	rel = relation_open(table, AccessShareLock);
	Bitmapset  *numbers = NULL;
	ListCell   *lc;

	if (spec->key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" has no primary key",
						RelationGetRelationName(rel)),
				 errhint("Name columns that are unique there as key.")));
	sabot_source_check_key(spec, ExecCleanTypeFromTL(query->targetList));
	foreach(lc, spec->key)
	{
		const char *name = lfirst(lc);

		if (!is_column(query, table, name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of the source is not that of table \"%s\"",
							name, RelationGetRelationName(rel)),
					 errdetail("It is in key, which finds the rows that change."),
					 errhint("Select the column as it is.")));
		numbers = bms_add_member(numbers, get_attnum(table, name));
	}
	if (!sabot_key_is_unique(rel, numbers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key is not unique in table \"%s\"",
						RelationGetRelationName(rel)),
				 errdetail("It finds the rows that change, and there is no unique index on its columns."),
				 errhint("Create one, or name other columns as key.")));
	relation_close(rel, NoLock);
}

/*
 * sabot_follow_source - the table whose rows a job is to follow
 *
 * The key is that of the table unless there is one.  Errors: those of the
 * source, 0A000 if its rows are not each made from one row of one table,
 * 22023, 42703 and 42702 for a key that does not find these.
 */
Oid
sabot_follow_source(SabotLlmSpec *spec)
{
	Query	   *query = sabot_source_query(spec->source);
	const char *why;
	const RangeTblEntry *rte = the_table(query, &why);

	if (why_not_rows(query) != NULL)
		why = why_not_rows(query);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot follow this source"),
				 errdetail("%s", why),
				 errhint("Give a SELECT from one table, with its key and WHERE at most, or leave out follow.")));
	if (spec->key == NIL)
		spec->key = sabot_mapping_default_key(rte->relid);
	check_key(spec, query, rte->relid);
	return rte->relid;
}
