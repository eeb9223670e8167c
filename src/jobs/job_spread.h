/*-------------------------------------------------------------------------
 *
 * job_spread.h
 *		What the files that spread a job over a table have in common.
 *
 * IDENTIFICATION
 *		src/jobs/job_spread.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_SPREAD_H
#define SABOT_JOB_SPREAD_H

#include "access/attnum.h"
#include "jobs/jobs.h"
#include "nodes/parsenodes.h"
#include "utils/relcache.h"

/*
 * The order that a table is split by: that of the columns of a unique btree
 * index without NULLs, or of the first of them.
 */
typedef struct SabotKey
{
	Oid			index;
	int			ncolumns;
	AttrNumber	attnums[INDEX_MAX_KEYS];
	Oid			families[INDEX_MAX_KEYS];	/* of btree operators */
	Oid			types[INDEX_MAX_KEYS];	/* of their operands, and of bounds */
	Oid			collations[INDEX_MAX_KEYS];
} SabotKey;

/* What a piece is restricted to; lives as long as its job was read for. */
typedef struct SabotPiece
{
	Oid			relation;		/* that the job is spread over */
	int			number;			/* from 1 */
	Oid			leaf;			/* the partition it is of, or InvalidOid */
	int			ncolumns;		/* of the key that the bounds have; 0 = the
								 * table has none, they are blocks */
	char	  **columns;
	Oid		   *families;
	Oid		   *collations;
	char	  **low;			/* as text; NULL = from the start */
	char	  **high;			/* not included; NULL = to the end */
} SabotPiece;

/* A range of a key, as planned: bounds are NULL where it is open. */
typedef struct SabotRange
{
	Oid			leaf;			/* InvalidOid if the table has no partitions */
	char	  **low;
	char	  **high;
} SabotRange;

typedef struct SabotRanges
{
	int			n;
	SabotRange *ranges;
	int			ncolumns;		/* of the key that the bounds have, 0 = none */
} SabotRanges;

/* in job_spread_key.c */
extern bool sabot_key_choose(Relation rel, SabotKey *key);
extern bool sabot_key_find(Relation rel, const SabotPiece *piece,
						   SabotKey *key);
extern int	sabot_text_begin(void);
extern void sabot_text_end(int guc_level);
extern Node *sabot_key_qual(Relation rel, Index rti, const SabotKey *key,
							const SabotPiece *piece);

/* in job_spread_bound.c */
extern SabotRanges *sabot_ranges_create(Relation rel, const SabotKey *key,
										int pieces);

extern SabotRanges *sabot_ranges_of_places(Relation rel, int pieces);

/* in job_spread_hold.c */
extern void sabot_hold_snapshot(int64 job_id, Oid relation);
extern Node *sabot_place_qual(Index rti, const SabotPiece *piece);

/* in job_spread_query.c */
extern void sabot_spread_check_command(const char *command, Jsonb *params,
									   Oid relation);
extern void sabot_spread_restrict(List *queries, const SabotPiece *piece);

/* in job_spread_leaf.c */
extern Node *sabot_leaf_qual(Index rti, Oid leaf);

#endif							/* SABOT_JOB_SPREAD_H */
