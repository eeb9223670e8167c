/*-------------------------------------------------------------------------
 *
 * job_spread_query.c
 *		Which commands can be spread over a table, and how one is restricted to
 *		a piece of it.
 *
 * A command can be spread if the results of its pieces together are its
 * result.  That is decided on the rewritten query, in which views have become
 * subqueries and row security is in place, by following the way from the
 * top of the command down to its one reference to the table: everything on
 * that way has to pass rows on one by one.  What is beside the way does not
 * matter, as it is the same for each piece; but for the other branches of a
 * UNION ALL, which are left to the first piece.
 *
 * The restriction becomes the first of the reference's security quals: it is
 * applied before the policies of row security and before the command's own
 * conditions, so that nobody's function sees rows of another piece, and the
 * planner can use the index whatever else the command asks for.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_query.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"

/* The search for the reference to the table. */
typedef struct Search
{
	Oid			relation;
	const char *name;			/* its name, for messages */
	List	   *levels;			/* of Query: where we are, innermost first */
	int			nreferences;
	bool		locks;			/* rows are locked on the way */
	List	   *others;			/* of Query: other branches of UNION ALLs */
	Query	   *query;			/* what was found: the query, and */
	Index		rti;			/* the number of the reference in it */
} Search;

static void find_in_query(Search *search, Query *query);

/*
 * refuse - raise 0A000: a command with this construct cannot be spread
 */
pg_noreturn static void
refuse(const Search *search, const char *construct)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot spread over table \"%s\" a command that has %s",
					search->name, construct),
			 errdetail("The results of its pieces together would not be its result."),
			 errhint("Submit it without \"over\", or write it so that it handles the rows of the table one by one.")));
}

/*
 * count_references - count the references to the table in a tree
 */
static bool
count_references(Node *node, void *context)
{
	Search	   *search = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		search->nreferences +=
			((RangeTblEntry *) node)->rtekind == RTE_RELATION &&
			((RangeTblEntry *) node)->relid == search->relation;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_references, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_references, context);
}

/*
 * enter_cte - the WITH query that a reference stands for; its level is made the
 * current one
 *
 * The caller restores search->levels.
 */
static CommonTableExpr *
enter_cte(Search *search, const RangeTblEntry *rte)
{
	ListCell   *lc;

	search->levels = list_copy_tail(search->levels, rte->ctelevelsup);
	foreach(lc, ((Query *) linitial(search->levels))->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (strcmp(cte->ctename, rte->ctename) == 0)
			return cte;
	}
	elog(ERROR, "WITH query \"%s\" not found", rte->ctename);
}

/*
 * reaches - whether the way to the table leads through a tree
 *
 * WITH queries count where they are referenced.
 */
static bool
reaches(Node *node, void *context)
{
	Search	   *search = context;
	List	   *levels = search->levels;
	bool		result = false;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION)
			return rte->relid == search->relation;
		if (rte->rtekind == RTE_CTE && !rte->self_reference)
			result = reaches(enter_cte(search, rte)->ctequery, search);
	}
	else if (IsA(node, Query))
	{
		search->levels = lcons(node, list_copy(levels));
		result = query_tree_walker((Query *) node, reaches, context,
								   QTW_EXAMINE_RTES_BEFORE |
								   QTW_IGNORE_CTE_SUBQUERIES);
	}
	else
		return expression_tree_walker(node, reaches, context);
	search->levels = levels;
	return result;
}

/*
 * check_level - refuse what does not pass rows on one by one
 */
static void
check_level(Search *search, const Query *query)
{
	ListCell   *lc;

	if (query->groupClause != NIL || query->groupingSets != NIL)
		refuse(search, "GROUP BY");
	if (query->hasAggs)
		refuse(search, "an aggregate");
	if (query->havingQual != NULL)
		refuse(search, "HAVING");
	if (query->hasWindowFuncs)
		refuse(search, "a window function");
	if (query->distinctClause != NIL)
		refuse(search, "DISTINCT");
	if (query->limitCount != NULL)
		refuse(search, "LIMIT");
	if (query->limitOffset != NULL)
		refuse(search, "OFFSET");
	search->locks |= query->rowMarks != NIL;
	foreach(lc, query->rowMarks)
		if (lfirst_node(RowMarkClause, lc)->waitPolicy == LockWaitSkip)
		refuse(search, "FOR UPDATE SKIP LOCKED");
	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);
		Query	   *inner = castNode(Query, cte->ctequery);

		if (inner->commandType != CMD_SELECT &&
			(inner->resultRelation == 0 ||
			 rt_fetch(inner->resultRelation, inner->rtable)->relid != search->relation))
			refuse(search, "a data-modifying WITH query for another table");
	}
}

/*
 * check_reference - refuse what cannot be restricted to a piece, and remember
 * the reference
 */
static void
check_reference(Search *search, Query *query, Index rti)
{
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);

	if (rte->tablesample != NULL)
		refuse(search, "TABLESAMPLE");
	if (rte->inh && rte->relkind != RELKIND_PARTITIONED_TABLE &&
		find_inheritance_children(rte->relid, NoLock) != NIL)
		refuse(search, "the table with its inheritance children");
	search->query = query;
	search->rti = rti;
}

/*
 * find_in_cte - follow the way into a WITH query
 */
static void
find_in_cte(Search *search, const RangeTblEntry *rte)
{
	List	   *levels = search->levels;
	CommonTableExpr *cte = enter_cte(search, rte);

	if (cte->cterecursive)
		refuse(search, "WITH RECURSIVE");
	if (cte->cterefcount > 1)
		refuse(search, "a WITH query that is used more than once");
	find_in_query(search, castNode(Query, cte->ctequery));
	search->levels = levels;
}

/*
 * find_in_jointree - follow the way into a part of a FROM clause
 *
 * Returns whether it leads there.
 */
static bool
find_in_jointree(Search *search, Query *query, Node *node)
{
	if (IsA(node, RangeTblRef))
	{
		Index		rti = ((RangeTblRef *) node)->rtindex;
		RangeTblEntry *rte = rt_fetch(rti, query->rtable);

		if (rte->rtekind == RTE_RELATION && rte->relid == search->relation)
			check_reference(search, query, rti);
		else if (rte->rtekind == RTE_SUBQUERY &&
				 reaches((Node *) rte->subquery, search))
			find_in_query(search, rte->subquery);
		else if (rte->rtekind == RTE_CTE && reaches((Node *) rte, search))
			find_in_cte(search, rte);
		else
			return false;
		return true;
	}
	if (IsA(node, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) node)->fromlist)
			if (find_in_jointree(search, query, lfirst(lc)))
			return true;
		return false;
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		bool		left = find_in_jointree(search, query, join->larg);

		if (!left && !find_in_jointree(search, query, join->rarg))
			return false;
		if (join->jointype == JOIN_FULL)
			refuse(search, "FULL JOIN");
		if (join->jointype == (left ? JOIN_RIGHT : JOIN_LEFT))
			refuse(search, "the table on the nullable side of an outer join");
		return true;
	}
}

/*
 * find_in_setop - follow the way into a tree of set operations
 *
 * Returns whether it leads there; what it does not lead to is noted.
 */
static bool
find_in_setop(Search *search, Query *query, Node *node)
{
	static const char *const names[] = {"no set operation", "UNION",
	"INTERSECT", "EXCEPT"};
	SetOperationStmt *setop;
	bool		left;

	if (IsA(node, RangeTblRef))
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) node)->rtindex,
									  query->rtable);

		if (reaches((Node *) rte->subquery, search))
		{
			find_in_query(search, rte->subquery);
			return true;
		}
		search->others = lappend(search->others, rte->subquery);
		return false;
	}
	setop = castNode(SetOperationStmt, node);
	left = find_in_setop(search, query, setop->larg);
	if (!find_in_setop(search, query, setop->rarg) && !left)
		return false;
	if (setop->op != SETOP_UNION || !setop->all)
		refuse(search, names[setop->op]);
	return true;
}

/*
 * find_in_select - follow the way into a SELECT
 */
static void
find_in_select(Search *search, Query *query)
{
	ListCell   *lc;

	if (query->setOperations != NULL ?
		find_in_setop(search, query, query->setOperations) :
		find_in_jointree(search, query, (Node *) query->jointree))
		return;
	foreach(lc, query->cteList)
		if (lfirst_node(CommonTableExpr, lc)->cterefcount == 0 &&
			reaches(lfirst_node(CommonTableExpr, lc)->ctequery, search))
		refuse(search, "the table in a WITH query that is not used");
	refuse(search, "the table in a subquery of an expression");
}

/*
 * is_part_of - whether a table is another one, or a partition of that
 */
static bool
is_part_of(Oid part, Oid whole)
{
	return part == whole ||
		(get_rel_relispartition(part) &&
		 list_member_oid(get_partition_ancestors(part), whole));
}

/*
 * find_in_query - follow the way into a query
 */
static void
find_in_query(Search *search, Query *query)
{
	List	   *levels = search->levels;
	Oid			target = query->resultRelation == 0 ? InvalidOid :
	rt_fetch(query->resultRelation, query->rtable)->relid;

	search->levels = lcons(query, list_copy(levels));
	check_level(search, query);
	switch (query->commandType)
	{
		case CMD_UPDATE:
		case CMD_DELETE:
			if (target != search->relation)
				refuse(search, "another table as its target");
			check_reference(search, query, query->resultRelation);
			break;
		case CMD_INSERT:
			if (is_part_of(target, search->relation) ||
				is_part_of(search->relation, target))
				refuse(search, "the table as the target of INSERT");
			find_in_select(search, query);
			break;
		case CMD_SELECT:
			find_in_select(search, query);
			break;
		default:
			refuse(search, "MERGE");
	}
	search->levels = levels;
}

/*
 * find_reference - find the one reference to the table that a command is
 * spread over
 *
 * queries is the rewritten command.  Raises 0A000, naming the construct, if it
 * cannot be spread.
 */
static void
find_reference(Search *search, List *queries)
{
	Query	   *query = linitial_node(Query, queries);

	if (query->commandType == CMD_UTILITY)
		refuse(search, CreateCommandName(query->utilityStmt));
	if (list_length(queries) != 1)
		refuse(search, "rules to be rewritten by");
	(void) count_references((Node *) query, search);
	if (search->nreferences == 0)
		refuse(search, "no reference to the table");
	if (search->nreferences > 1)
		refuse(search, "more than one reference to the table");
	find_in_query(search, query);
}

/*
 * check_assignments - raise 0A000 for an UPDATE that changes the key
 */
static void
check_assignments(const Search *search, Relation rel, const SabotKey *key)
{
	ListCell   *lc;

	if (search->query->commandType != CMD_UPDATE)
		return;
	for (int i = 0; i < key->ncolumns; i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel),
												 key->attnums[i] - 1);
		bool		assigned = column->attgenerated != '\0';

		foreach(lc, search->query->targetList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, lc);

			assigned |= !entry->resjunk && entry->resno == key->attnums[i];
		}
		if (assigned)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot spread over table \"%s\" a command that assigns to key column \"%s\"",
							search->name, NameStr(column->attname)),
					 errdetail("A row whose key changes could be handled by two pieces, or by none.")));
	}
}

/*
 * check_reads_only - raise 0A000 for what cannot be done piece by piece to a
 * table without a key
 */
static void
check_reads_only(const Search *search)
{
	if (search->query->commandType == CMD_SELECT && !search->locks)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot spread over table \"%s\", which has no key, a command that has %s",
					search->name, search->locks ? "FOR UPDATE or FOR SHARE" :
					search->query->commandType == CMD_UPDATE ? "UPDATE" : "DELETE"),
			 errdetail("It has neither a primary key nor a unique btree index on columns that are not null, so it can only be read in pieces."),
			 errhint("Create such an index.")));
}

/*
 * check_rights - raise 42501 if the role that is current may do nothing with a
 * table
 *
 * Cutting it into pieces would tell how large it is.
 */
static void
check_rights(Relation rel)
{
	const AclMode useful = ACL_SELECT | ACL_UPDATE | ACL_DELETE;
	Oid			relid = RelationGetRelid(rel);

	if (pg_class_aclmask(relid, GetUserId(), useful, ACLMASK_ANY) == 0 &&
		pg_attribute_aclcheck_all(relid, GetUserId(), useful,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV,
					   get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
}

/*
 * open_table - open the table that a job is spread over
 *
 * Raises 42P01 if it is gone, 42501, 42809 or 0A000 for what no job can be
 * spread over.
 */
static Relation
open_table(Oid relation)
{
	Relation	rel = try_relation_open(relation, AccessShareLock);
	char		kind;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table that the job is spread over does not exist")));
	kind = rel->rd_rel->relkind;
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		kind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel)),
				 errhint("Spread the command over the table that it reads.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot spread a command over temporary table \"%s\"",
						RelationGetRelationName(rel)),
				 errdetail("Agents do not see it.")));
	check_rights(rel);
	return rel;
}

/*
 * sabot_spread_check_command - raise what is wrong with spreading a command
 * over a table, as the role that is current
 *
 * params may be NULL.  Inside a transaction, with an active snapshot.  Takes
 * the locks that analyzing the command takes.  Errors: those of parse analysis
 * and of params, 42809 for what is no table, 0A000 for the rest.
 */
void
sabot_spread_check_command(const char *command, Jsonb *params, Oid relation)
{
	Relation	rel = open_table(relation);
	Search		search = {.relation = relation,
	.name = RelationGetRelationName(rel)};
	List	   *statements = sabot_job_parse(command);
	SabotKey	key;
	SabotParams *bound;

	sabot_job_check_statements(command, statements);
	if (list_length(statements) != 1)
		refuse(&search, "more than one statement");
	bound = sabot_params_create(command, statements, params);
	find_reference(&search,
				   pg_rewrite_query(sabot_params_analyze(bound,
														 linitial_node(RawStmt, statements),
														 command, NULL)));
	if (sabot_key_choose(rel, &key))
		check_assignments(&search, rel, &key);
	else
		check_reads_only(&search);
	relation_close(rel, NoLock);
}

/*
 * empty - have a branch of a UNION ALL return no rows
 */
static void
empty(Query *query)
{
	query->limitCount = (Node *) makeConst(INT8OID, -1, InvalidOid,
										   sizeof(int64), Int64GetDatum(0),
										   false, FLOAT8PASSBYVAL);
	query->limitOption = LIMIT_OPTION_COUNT;
}

/*
 * range_of_key - the condition for a piece of a table with a key
 */
static Node *
range_of_key(const Search *search, Relation rel, const SabotPiece *piece)
{
	SabotKey	key;

	if (!sabot_key_find(rel, piece, &key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no longer the key that the job was split by",
						search->name),
				 errhint("Create a unique btree index on the same columns, then use sabot.retry_job().")));
	check_assignments(search, rel, &key);
	return sabot_key_qual(rel, search->rti, &key, piece);
}

/*
 * range_of_places - the condition for a piece of a table without one
 */
static Node *
range_of_places(const Search *search, const SabotPiece *piece)
{
	check_reads_only(search);
	return sabot_place_qual(search->rti, piece);
}

/*
 * sabot_spread_restrict - restrict a command to a piece of the table it is
 * spread over
 *
 * queries is the rewritten command, which is changed.  Raises what
 * sabot_spread_check_command() raises, as things may have changed, and 55000
 * if the table has lost the key that the pieces were made by.
 */
void
sabot_spread_restrict(List *queries, const SabotPiece *piece)
{
	Relation	rel = open_table(piece->relation);
	Search		search = {.relation = piece->relation,
	.name = RelationGetRelationName(rel)};
	RangeTblEntry *rte;
	Node	   *qual;
	ListCell   *lc;

	find_reference(&search, queries);
	rte = rt_fetch(search.rti, search.query->rtable);
	qual = piece->ncolumns > 0 ? range_of_key(&search, rel, piece) :
		range_of_places(&search, piece);
	if (OidIsValid(piece->leaf))
		qual = make_and_qual(sabot_leaf_qual(search.rti, piece->leaf), qual);
	if (qual != NULL)
		rte->securityQuals = lcons(qual, rte->securityQuals);
	if (piece->number > 1)
		foreach(lc, search.others)
			empty(lfirst_node(Query, lc));
	relation_close(rel, NoLock);
}
