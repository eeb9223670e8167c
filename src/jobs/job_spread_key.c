/*-------------------------------------------------------------------------
 *
 * job_spread_key.c
 *		The key that a table is split by, and the condition for a range of it.
 *
 * Any unique btree index without NULLs will do, as it puts every row in one
 * place of a total order: the order of its operators and collations, whatever
 * the type.  Bounds are kept as text, as pg_dump writes values, so that they
 * mean the same after a restore; the output and input functions of a type
 * must be inverse, as for pg_dump.
 *
 * The condition is built from the index's own operators, hence the index can
 * be used for it.  If one column is enough it is "k >= low AND k < high", which
 * the planner also estimates well.  With more columns it compares rows, and
 * says again for the first column what follows from that, for the sake of the
 * estimate.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_key.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"

/*
 * operand_type - the type of the operands for a column of an index
 *
 * Not that of the column where it is only coerced to it, as regclass to oid:
 * its text could mean something else tomorrow.
 */
static Oid
operand_type(Relation rel, Relation index, int column)
{
	Oid			type = index->rd_opcintype[column];

	if (IsPolymorphicType(type) || type == RECORDOID)
		type = getBaseType(TupleDescAttr(RelationGetDescr(rel),
										 index->rd_index->indkey.values[column] - 1)->atttypid);
	return type;
}

/*
 * read_key - the key that an index makes; false if it makes none
 */
static bool
read_key(Relation rel, Oid indexid, SabotKey *key)
{
	Relation	index = index_open(indexid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	bool		usable = index->rd_rel->relam == BTREE_AM_OID &&
	form->indisunique && form->indisvalid && form->indisready &&
	RelationGetIndexExpressions(index) == NIL &&
	RelationGetIndexPredicate(index) == NIL;

	key->index = indexid;
	key->ncolumns = form->indnkeyatts;
	for (int i = 0; usable && i < key->ncolumns; i++)
	{
		key->attnums[i] = form->indkey.values[i];
		usable = key->attnums[i] > 0 &&
			SabotIsNotNull(RelationGetDescr(rel), key->attnums[i] - 1);
		if (!usable)
			break;
		key->families[i] = index->rd_opfamily[i];
		key->types[i] = operand_type(rel, index, i);
		key->collations[i] = index->rd_indcollation[i];
	}
	index_close(index, AccessShareLock);
	return usable;
}

/*
 * has_columns - whether a key begins with the columns of a piece's bounds, in
 * the same order
 */
static bool
has_columns(Relation rel, const SabotKey *key, const SabotPiece *piece)
{
	if (piece->ncolumns > key->ncolumns)
		return false;
	for (int i = 0; i < piece->ncolumns; i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel),
												 key->attnums[i] - 1);

		if (strcmp(NameStr(column->attname), piece->columns[i]) != 0 ||
			key->families[i] != piece->families[i] ||
			key->collations[i] != piece->collations[i])
			return false;
	}
	return true;
}

/*
 * sabot_key_find - the key of a table that a piece was made by
 *
 * With piece NULL, any: the primary key, or else the one with the fewest
 * columns.  Returns false if there is none.
 */
bool
sabot_key_find(Relation rel, const SabotPiece *piece, SabotKey *key)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			primary = SabotPrimaryKeyIndex(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		SabotKey	other;
		bool		better;

		if (!read_key(rel, lfirst_oid(lc), &other) ||
			(piece != NULL && !has_columns(rel, &other, piece)))
			continue;
		better = !found || other.index == primary ||
			(key->index != primary && other.ncolumns < key->ncolumns);
		if (better)
			*key = other;
		found = true;
	}
	list_free(indexes);
	return found;
}

/*
 * sabot_key_choose - the key that a table is to be split by; false if it has
 * none
 */
bool
sabot_key_choose(Relation rel, SabotKey *key)
{
	return sabot_key_find(rel, NULL, key);
}

/*
 * sabot_text_begin - have values written and read as pg_dump does it
 *
 * Returns what sabot_text_end() is to be given; an abort undoes it, too.
 */
int
sabot_text_begin(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"}
	};
	int			guc_level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return guc_level;
}

/*
 * sabot_text_end - undo sabot_text_begin()
 */
void
sabot_text_end(int guc_level)
{
	AtEOXact_GUC(true, guc_level);
}

/*
 * key_column - a column of the key, as an operand
 */
static Expr *
key_column(Relation rel, Index rti, const SabotKey *key, int column)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(rel),
												key->attnums[column] - 1);
	Var		   *var = makeVar(rti, key->attnums[column], attribute->atttypid,
							  attribute->atttypmod, attribute->attcollation, 0);

	if (attribute->atttypid == key->types[column])
		return (Expr *) var;
	return (Expr *) makeRelabelType((Expr *) var, key->types[column], -1,
									key->collations[column],
									COERCE_IMPLICIT_CAST);
}

/*
 * key_bound - a bound in a column of the key, as an operand
 */
static Expr *
key_bound(const SabotKey *key, int column, char *text)
{
	Oid			type = key->types[column];
	Oid			input;
	Oid			ioparam;
	int16		len;
	bool		byval;

	getTypeInputInfo(type, &input, &ioparam);
	get_typlenbyval(type, &len, &byval);
	return (Expr *) makeConst(type, -1, get_typcollation(type), len,
							  OidInputFunctionCall(input, text, ioparam, -1),
							  false, byval);
}

/*
 * key_operator - an operator of a column of the key, by its btree strategy
 */
static Oid
key_operator(const SabotKey *key, int column, StrategyNumber strategy)
{
	Oid			type = key->types[column];
	Oid			result = get_opfamily_member(key->families[column], type, type,
											 strategy);

	/* Arrays, enums, ranges and rows have operators of a pseudo-type. */
	if (!OidIsValid(result))
	{
		char		kind = get_typtype(type);
		Oid			pseudo = kind == TYPTYPE_ENUM ? ANYENUMOID :
		kind == TYPTYPE_RANGE ? ANYRANGEOID :
		kind == TYPTYPE_MULTIRANGE ? ANYMULTIRANGEOID :
		kind == TYPTYPE_COMPOSITE ? RECORDOID : ANYARRAYOID;

		result = get_opfamily_member(key->families[column], pseudo, pseudo,
									 strategy);
	}
	if (!OidIsValid(result))
		elog(ERROR, "missing operator %d of type %u in operator family %u",
			 strategy, type, key->families[column]);
	return result;
}

/*
 * compare_column - "column OPERATOR bound"
 */
static Node *
compare_column(Relation rel, Index rti, const SabotKey *key, int column,
			   StrategyNumber strategy, char *bound)
{
	OpExpr	   *result = (OpExpr *)
	make_opclause(key_operator(key, column, strategy), BOOLOID, false,
				  key_column(rel, rti, key, column),
				  key_bound(key, column, bound),
				  InvalidOid, key->collations[column]);

	set_opfuncid(result);
	return (Node *) result;
}

/*
 * compare_row - "(first n columns) OPERATOR bounds"
 */
static Node *
compare_row(Relation rel, Index rti, const SabotKey *key, int n,
			StrategyNumber strategy, char **bounds)
{
	RowCompareExpr *result = makeNode(RowCompareExpr);

	if (strategy == BTLessStrategyNumber)
		SabotSetRowCompare(result, LT);
	else
		SabotSetRowCompare(result, GE);
	for (int i = 0; i < n; i++)
	{
		result->opnos = lappend_oid(result->opnos,
									key_operator(key, i, strategy));
		result->opfamilies = lappend_oid(result->opfamilies, key->families[i]);
		result->inputcollids = lappend_oid(result->inputcollids,
										   key->collations[i]);
		result->largs = lappend(result->largs, key_column(rel, rti, key, i));
		result->rargs = lappend(result->rargs, key_bound(key, i, bounds[i]));
	}
	return (Node *) result;
}

/*
 * sabot_key_qual - the condition for the rows of a piece
 *
 * rti is the number of the table in its query.  NULL if all rows are.
 */
Node *
sabot_key_qual(Relation rel, Index rti, const SabotKey *key,
			   const SabotPiece *piece)
{
	int			guc_level = sabot_text_begin();
	int			n = piece->ncolumns;
	Node	   *result = NULL;

	if (piece->low != NULL)
		result = compare_column(rel, rti, key, 0, BTGreaterEqualStrategyNumber,
								piece->low[0]);
	if (piece->high != NULL)
		result = make_and_qual(result,
							   compare_column(rel, rti, key, 0,
											  n > 1 ? BTLessEqualStrategyNumber :
											  BTLessStrategyNumber,
											  piece->high[0]));
	if (n > 1 && piece->low != NULL)
		result = make_and_qual(result,
							   compare_row(rel, rti, key, n,
										   BTGreaterEqualStrategyNumber,
										   piece->low));
	if (n > 1 && piece->high != NULL)
		result = make_and_qual(result,
							   compare_row(rel, rti, key, n,
										   BTLessStrategyNumber, piece->high));
	sabot_text_end(guc_level);
	return result;
}
