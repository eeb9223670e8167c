/*-------------------------------------------------------------------------
 *
 * job_spread_bound.c
 *		Where to cut a table so that its pieces have as many rows each.
 *
 * The keys are in the leaf pages of an index, so these are read as they lie on
 * the disk, all of them or a part that is spread evenly over the file; of
 * the keys in them every so manieth is kept, and sorted.  That needs neither
 * statistics nor an even distribution, costs a fraction of a pass over the
 * table, and for tables of up to some 10,000 rows is exact.  Versions of rows
 * that are dead count as long as the index has them.
 *
 * No more columns of the key are used than it takes for even pieces: the
 * fewer, the better the planner knows what to do.
 *
 * Bounds that turn out uneven, or old, cost nothing but time: the first and
 * the last piece are open, so every row is in one piece.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread_bound.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/itup.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "guc.h"
#include "jobs/job_spread.h"
#include "jobs/jobs.h"
#include "pool/pool.h"

/* Pages of an index that are read at most, and to find out its size. */
#define MAX_PAGES			20000
#define MAX_PAGES_TO_COUNT	64

/* Keys that are kept of a table, and for each of its pieces. */
#define MIN_KEYS			20000
#define KEYS_PER_PIECE		200

/* Rows of a piece, if nobody says how many pieces there are to be. */
#define ROWS_PER_PIECE		50000
#define MIN_ROWS_PER_PIECE	1000
#define PIECES_PER_AGENT	4

/* A piece may have so much more than its share for the sake of fewer columns. */
#define MAX_UNEVEN			1.25

/* Blocks of a piece of a table without a key, at most and at least. */
#define BLOCKS_PER_PIECE	640
#define MIN_BLOCKS_PER_PIECE 16

/* A table without partitions, or one of its partitions. */
typedef struct Leaf
{
	Oid			relid;			/* InvalidOid if there are no partitions */
	Relation	index;
	double		entries;		/* of the index, about */
	int			pieces;
	IndexTuple *keys;			/* sorted */
	int			nkeys;
} Leaf;

/* Keys that are being collected. */
typedef struct Collection
{
	IndexTuple *keys;
	int			nkeys;
	int			maxkeys;		/* once there are as many, half of them go */
	int64		stride;			/* every so manieth is kept */
	int64		nseen;
} Collection;

/*
 * add_key - keep one more key if it is its turn
 */
static void
add_key(Collection *c, IndexTuple key)
{
	if (c->maxkeys == 0 || c->nseen++ % c->stride != 0)
		return;
	if (c->nkeys == c->maxkeys)
	{
		for (int i = 0; i < c->nkeys; i++)
			if (i % 2 == 0)
				c->keys[i / 2] = c->keys[i];
			else
				pfree(c->keys[i]);
		c->nkeys = (c->nkeys + 1) / 2;
		c->stride *= 2;
		if ((c->nseen - 1) % c->stride != 0)
			return;
	}
	c->keys[c->nkeys++] = CopyIndexTuple(key);
}

/*
 * read_page - the keys of a page, if it is a leaf page; returns how many
 */
static int
read_page(Relation index, BlockNumber block, BufferAccessStrategy strategy,
		  Collection *collection)
{
	Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block,
											RBM_NORMAL, strategy);
	PGAlignedBlock copy;
	Page		page = copy.data;
	int			n = 0;

	LockBuffer(buffer, BT_READ);
	memcpy(page, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	if (!PageIsNew(page) && P_ISLEAF(BTPageGetOpaque(page)) &&
		!P_IGNORE(BTPageGetOpaque(page)))
	{
		OffsetNumber last = PageGetMaxOffsetNumber(page);

		for (OffsetNumber i = P_FIRSTDATAKEY(BTPageGetOpaque(page)); i <= last; i++)
		{
			ItemId		item = PageGetItemId(page, i);

			if (ItemIdIsDead(item))
				continue;
			add_key(collection, (IndexTuple) PageGetItem(page, item));
			n++;
		}
	}
	return n;
}

/*
 * read_pages - the keys of up to so many pages of an index, evenly spread
 *
 * Returns how many entries the whole index has, about.
 */
static double
read_pages(Relation index, int maxpages, Collection *collection)
{
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	BlockNumber nblocks = RelationGetNumberOfBlocks(index);
	BlockNumber npages = nblocks - 1;	/* the first one is no page of keys */
	double		entries = 0;
	int			nread;

	if (nblocks <= 1)
		return 0;
	nread = (int) Min(npages, (BlockNumber) maxpages);
	for (int i = 0; i < nread; i++)
	{
		CHECK_FOR_INTERRUPTS();
		entries += read_page(index, 1 + (BlockNumber) ((uint64) i * npages / nread),
							 strategy, collection);
	}
	FreeAccessStrategy(strategy);
	return entries * npages / nread;
}

/*
 * add_leaf - note a table without partitions, or a partition that has rows
 */
static List *
add_leaf(List *leaves, Oid relid, Oid index)
{
	Leaf	   *leaf = palloc0(sizeof(Leaf));
	Collection	none = {0};

	leaf->relid = relid;
	leaf->index = index_open(index, AccessShareLock);
	leaf->entries = read_pages(leaf->index, MAX_PAGES_TO_COUNT, &none);
	if (leaf->entries > 0 || !OidIsValid(relid))
		return lappend(leaves, leaf);
	index_close(leaf->index, NoLock);
	return leaves;
}

/*
 * leaf_index - the part of a partitioned index that belongs to a partition
 */
static Oid
leaf_index(Relation leaf, Oid index)
{
	List	   *indexes = RelationGetIndexList(leaf);
	Oid			result = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
		if (get_rel_relispartition(lfirst_oid(lc)) &&
			list_member_oid(get_partition_ancestors(lfirst_oid(lc)), index))
		result = lfirst_oid(lc);
	list_free(indexes);
	return result;
}

/*
 * list_leaves - the partitions of a table that have rows, or the table itself
 */
static List *
list_leaves(Relation rel, const SabotKey *key)
{
	List	   *leaves = NIL;
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return add_leaf(NIL, InvalidOid, key->index);
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		Relation	leaf = relation_open(lfirst_oid(lc), NoLock);

		if (leaf->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
			leaves = add_leaf(leaves, RelationGetRelid(leaf),
							  leaf_index(leaf, key->index));
		relation_close(leaf, NoLock);
	}
	return leaves;
}

/*
 * default_pieces - how many pieces a table with so many rows is cut into
 */
static int
default_pieces(double rows)
{
	double		pieces = Max(rows / ROWS_PER_PIECE,
							 PIECES_PER_AGENT * sabot_pool_size);

	pieces = Min(pieces, rows / MIN_ROWS_PER_PIECE);
	return (int) Min(Max(ceil(pieces), 1), sabot_graph_max_tasks);
}

/*
 * deal_pieces - how many pieces each leaf gets; returns how many in all
 *
 * Raises 54000 if there are too many, as each leaf gets one.
 */
static int
deal_pieces(List *leaves, int pieces)
{
	double		entries = 0;
	int			total = 0;
	ListCell   *lc;

	foreach(lc, leaves)
		entries += ((Leaf *) lfirst(lc))->entries;
	if (pieces == 0)
		pieces = default_pieces(entries);
	foreach(lc, leaves)
	{
		Leaf	   *leaf = lfirst(lc);
		double		share = entries > 0 ? pieces * leaf->entries / entries : 1;

		leaf->pieces = (int) Max(Min(rint(share), leaf->entries), 1);
		total += leaf->pieces;
	}
	if (list_length(leaves) > sabot_graph_max_tasks)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("job would have %d pieces, more than %d",
						list_length(leaves), sabot_graph_max_tasks),
				 errdetail("Each partition is at least one piece."),
				 errhint("Raise sabot.graph_max_tasks, or spread a job over each of some partitions.")));
	return total;
}

/* What compare_keys() is told. */
typedef struct Comparison
{
	Relation	index;
	int			ncolumns;
} Comparison;

/*
 * compare_keys - order of two keys, by some of their columns
 */
static int
compare_keys(const void *a, const void *b, void *arg)
{
	const Comparison *how = arg;
	TupleDesc	desc = RelationGetDescr(how->index);

	for (int i = 0; i < how->ncolumns; i++)
	{
		bool		isnull;
		Datum		x = index_getattr(*(const IndexTuple *) a, i + 1, desc, &isnull);
		Datum		y = index_getattr(*(const IndexTuple *) b, i + 1, desc, &isnull);
		int32		order = DatumGetInt32(FunctionCall2Coll(index_getprocinfo(how->index, i + 1,
																			  BTORDER_PROC),
															how->index->rd_indcollation[i],
															x, y));

		if (order != 0)
			return order;
	}
	return 0;
}

/*
 * collect_keys - the keys of a leaf, or so many of them, in order
 */
static void
collect_keys(Leaf *leaf, int nleaves)
{
	Comparison	how = {leaf->index, IndexRelationGetNumberOfKeyAttributes(leaf->index)};
	Collection	c = {.maxkeys = Max(MIN_KEYS / nleaves,
									2 * KEYS_PER_PIECE * leaf->pieces),
	.stride = 1};

	if (leaf->pieces <= 1)
		return;
	c.keys = MemoryContextAllocHuge(CurrentMemoryContext,
									sizeof(IndexTuple) * c.maxkeys);
	(void) read_pages(leaf->index, MAX_PAGES, &c);
	CHECK_FOR_INTERRUPTS();
	qsort_arg(c.keys, c.nkeys, sizeof(IndexTuple), compare_keys, &how);
	leaf->keys = c.keys;
	leaf->nkeys = c.nkeys;
}

/*
 * first_of - the first of the keys of a leaf that equals one of them in some
 * columns
 */
static int
first_of(const Leaf *leaf, int at, Comparison *how)
{
	int			low = 0;
	int			high = at;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (compare_keys(&leaf->keys[middle], &leaf->keys[at], how) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * cut - where the pieces of a leaf but the first begin, as places in its keys
 *
 * Each begins with a key that differs from that before it in the columns that
 * are used.  Returns how many there are.
 */
static int
cut(const Leaf *leaf, int ncolumns, int *cuts)
{
	Comparison	how = {leaf->index, ncolumns};
	int			n = 0;

	for (int i = 1; i < leaf->pieces && leaf->nkeys > 0; i++)
	{
		int			at = first_of(leaf,
								  (int) ((int64) i * leaf->nkeys / leaf->pieces),
								  &how);

		if (at > (n > 0 ? cuts[n - 1] : 0))
			cuts[n++] = at;
	}
	return n;
}

/*
 * is_even - whether the pieces of a leaf are about even if it is cut by its
 * first columns only
 */
static bool
is_even(const Leaf *leaf, int ncolumns)
{
	int		   *cuts = palloc(sizeof(int) * leaf->pieces);
	int			n = cut(leaf, ncolumns, cuts);
	int			largest = leaf->nkeys - (n > 0 ? cuts[n - 1] : 0);

	for (int i = 0; i < n; i++)
		largest = Max(largest, cuts[i] - (i > 0 ? cuts[i - 1] : 0));
	pfree(cuts);
	return largest <= 1 + MAX_UNEVEN * leaf->nkeys / leaf->pieces;
}

/*
 * columns_needed - the number of columns it takes to cut leaves into pieces
 */
static int
columns_needed(List *leaves, const SabotKey *key)
{
	int			ncolumns = 1;
	ListCell   *lc;

	foreach(lc, leaves)
		while (ncolumns < key->ncolumns && !is_even(lfirst(lc), ncolumns))
		ncolumns++;
	return ncolumns;
}

/*
 * value_text - a value of a key, as text
 *
 * Raises 0A000 if that does not say exactly which value it is: the pieces to
 * both sides of it would have rows in common.
 */
static char *
value_text(Relation index, const SabotKey *key, int column, Datum value)
{
	Oid			type = key->types[column];
	Oid			function;
	Oid			ioparam;
	bool		is_varlena;
	char	   *text;

	getTypeOutputInfo(type, &function, &is_varlena);
	text = OidOutputFunctionCall(function, value);

	getTypeInputInfo(type, &function, &ioparam);
	if (DatumGetInt32(FunctionCall2Coll(index_getprocinfo(index, column + 1,
														  BTORDER_PROC),
										key->collations[column], value,
										OidInputFunctionCall(function, text,
															 ioparam, -1))) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot split a table by values of type %s",
						format_type_be(type)),
				 errdetail("\"%s\" is not exactly the value that it was written for.",
						   text)));
	return text;
}

/*
 * bound_text - the first columns of a key, as text
 */
static char **
bound_text(Relation index, const SabotKey *key, IndexTuple tuple, int ncolumns)
{
	char	  **result = palloc(sizeof(char *) * ncolumns);

	for (int i = 0; i < ncolumns; i++)
	{
		TupleDesc	desc = RelationGetDescr(index);
		bool		isnull;
		Datum		value = index_getattr(tuple, i + 1, desc, &isnull);

		/* An index has names without the room behind them. */
		result[i] = TupleDescAttr(desc, i)->atttypid == CSTRINGOID ?
			pstrdup(DatumGetCString(value)) : value_text(index, key, i, value);
	}
	return result;
}

/*
 * add_ranges - the pieces of a leaf
 */
static void
add_ranges(SabotRanges *result, const Leaf *leaf, const SabotKey *key)
{
	int		   *cuts = palloc(sizeof(int) * leaf->pieces);
	int			n = cut(leaf, result->ncolumns, cuts);
	char	  **low = NULL;

	for (int i = 0; i <= n; i++)
	{
		SabotRange *range = &result->ranges[result->n++];

		CHECK_FOR_INTERRUPTS();
		range->leaf = leaf->relid;
		range->low = low;
		range->high = i == n ? NULL :
			bound_text(leaf->index, key, leaf->keys[cuts[i]], result->ncolumns);
		low = range->high;
	}
	pfree(cuts);
}

/*
 * sabot_ranges_create - cut a table into pieces
 *
 * About so many, or with 0 as many as suit its size and the pool; at least one,
 * and one for each partition with rows.  Inside a transaction, with an active
 * snapshot.  The result is in the current memory context.
 */
SabotRanges *
sabot_ranges_create(Relation rel, const SabotKey *key, int pieces)
{
	SabotRanges *result = palloc0(sizeof(SabotRanges));
	List	   *leaves = list_leaves(rel, key);
	int			guc_level;
	ListCell   *lc;

	result->ranges = palloc0(sizeof(SabotRange) *
							 (deal_pieces(leaves, pieces) + 1));
	foreach(lc, leaves)
		collect_keys(lfirst(lc), list_length(leaves));
	result->ncolumns = columns_needed(leaves, key);
	guc_level = sabot_text_begin();
	foreach(lc, leaves)
	{
		add_ranges(result, lfirst(lc), key);
		index_close(((Leaf *) lfirst(lc))->index, NoLock);
	}
	sabot_text_end(guc_level);
	if (result->n == 0)
		result->n = 1;			/* no partition has rows: all of them at once */
	return result;
}

/*
 * list_places - the blocks of a table, or of its partitions
 *
 * entries are blocks here.  Raises 0A000 for what has none of its own.
 */
static List *
list_places(Relation rel)
{
	List	   *leaves = NIL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		Relation	part = relation_open(lfirst_oid(lc), NoLock);
		Leaf	   *leaf = palloc0(sizeof(Leaf));

		if (part->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot spread a command over foreign table \"%s\"",
							RelationGetRelationName(part))));
		if (part->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		{
			leaf->relid = part == rel ? InvalidOid : RelationGetRelid(part);
			leaf->entries = RelationGetNumberOfBlocks(part);
			if (leaf->entries > 0)
				leaves = lappend(leaves, leaf);
		}
		relation_close(part, NoLock);
	}
	return leaves;
}

/*
 * default_places - how many pieces a table with so many blocks is cut into
 */
static int
default_places(List *leaves)
{
	double		blocks = 0;
	double		pieces;
	ListCell   *lc;

	foreach(lc, leaves)
		blocks += ((Leaf *) lfirst(lc))->entries;
	pieces = Max(blocks / BLOCKS_PER_PIECE, PIECES_PER_AGENT * sabot_pool_size);
	pieces = Min(pieces, blocks / MIN_BLOCKS_PER_PIECE);
	return (int) Min(Max(ceil(pieces), 1), sabot_graph_max_tasks);
}

/*
 * place - the bound after so many of the pieces of a leaf
 */
static char **
place(const Leaf *leaf, int n)
{
	char	  **result = palloc(sizeof(char *));

	result[0] = psprintf("%.0f", floor(leaf->entries * n / leaf->pieces));
	return result;
}

/*
 * sabot_ranges_of_places - cut a table without a key into pieces, by blocks
 *
 * As sabot_ranges_create().
 */
SabotRanges *
sabot_ranges_of_places(Relation rel, int pieces)
{
	SabotRanges *result = palloc0(sizeof(SabotRanges));
	List	   *leaves = list_places(rel);
	ListCell   *lc;

	if (pieces == 0)
		pieces = default_places(leaves);
	result->ranges = palloc0(sizeof(SabotRange) *
							 (deal_pieces(leaves, pieces) + 1));
	foreach(lc, leaves)
	{
		const Leaf *leaf = lfirst(lc);

		for (int i = 0; i < leaf->pieces; i++)
		{
			SabotRange *range = &result->ranges[result->n++];

			range->leaf = leaf->relid;
			range->low = i > 0 ? place(leaf, i) : NULL;
			range->high = i + 1 < leaf->pieces ? place(leaf, i + 1) : NULL;
		}
	}
	if (result->n == 0)
		result->n = 1;			/* there are no rows */
	return result;
}
