/*-------------------------------------------------------------------------
 *
 * job_spread_leaf.c
 *		Restricting a command to one partition of a table.
 *
 * A piece of a partitioned table is a range of the key in one partition:
 * "tableoid = partition" beside the range.  The reference stays one to the
 * whole table, so that columns, privileges, policies and the way of a row to
 * another partition are as ever.  The planner does not take such a condition
 * for one that excludes partitions, so it is told here; there is no way to say
 * that in terms of the partition key where that is hashed.
 *
 * What the hook concludes is true of any query, not only of a piece: a table
 * has no rows of another one.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_leaf.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/sysattr.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/paths.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "jobs/job_spread.h"

static set_rel_pathlist_hook_type prev_set_rel_pathlist = NULL;

/*
 * is_of_other_table - whether a condition is "tableoid = constant", of another
 * table
 */
static bool
is_of_other_table(const RestrictInfo *condition, Oid relid)
{
	OpExpr	   *op = (OpExpr *) condition->clause;
	Var		   *var;
	Const	   *value;

	if (!IsA(op, OpExpr) || op->opfuncid != F_OIDEQ ||
		!IsA(linitial(op->args), Var) || !IsA(lsecond(op->args), Const))
		return false;
	var = linitial_node(Var, op->args);
	value = lsecond_node(Const, op->args);
	return var->varattno == TableOidAttributeNumber && !value->constisnull &&
		DatumGetObjectId(value->constvalue) != relid;
}

/*
 * exclude_other_leaves - set_rel_pathlist_hook: partitions that a piece is not
 * of are empty
 */
static void
exclude_other_leaves(PlannerInfo *root, RelOptInfo *rel, Index rti,
					 RangeTblEntry *rte)
{
	ListCell   *lc;

	if (prev_set_rel_pathlist)
		prev_set_rel_pathlist(root, rel, rti, rte);
	if (rel->reloptkind != RELOPT_OTHER_MEMBER_REL || rte->inh ||
		rte->rtekind != RTE_RELATION)
		return;
	foreach(lc, rel->baserestrictinfo)
		if (is_of_other_table(lfirst_node(RestrictInfo, lc), rte->relid))
	{
		mark_dummy_rel(rel);
		return;
	}
}

/*
 * sabot_leaf_qual - the condition for the rows of one partition
 *
 * rti is the number of the partitioned table in its query.
 */
Node *
sabot_leaf_qual(Index rti, Oid leaf)
{
	static bool installed = false;
	OpExpr	   *result = (OpExpr *)
	make_opclause(get_opfamily_member(OID_BTREE_FAM_OID, OIDOID, OIDOID,
									  BTEqualStrategyNumber),
				  BOOLOID, false,
				  (Expr *) makeVar(rti, TableOidAttributeNumber, OIDOID, -1,
								   InvalidOid, 0),
				  (Expr *) makeConst(OIDOID, -1, InvalidOid, sizeof(Oid),
									 ObjectIdGetDatum(leaf), false, true),
				  InvalidOid, InvalidOid);

	result->opfuncid = F_OIDEQ;
	if (!installed)
	{
		prev_set_rel_pathlist = set_rel_pathlist_hook;
		set_rel_pathlist_hook = exclude_other_leaves;
	}
	installed = true;
	return (Node *) result;
}
