/*-------------------------------------------------------------------------
 *
 * llm_mapping.h
 *		What the files about writing answers into a target share.
 *
 * IDENTIFICATION
 *		src/llm/llm_mapping.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_MAPPING_H
#define SABOT_LLM_MAPPING_H

#include "catalog/pg_attribute.h"
#include "executor/spi.h"
#include "llm/llm.h"
#include "utils/jsonpath.h"
#include "utils/rel.h"

/* A column of the target that answers are written to. */
typedef struct SabotMappedColumn
{
	char	   *name;
	Oid			type;
	int32		typmod;
	bool		nullable;
	JsonPath   *path;			/* into the answer, NULL = all of it */
	List	   *members;		/* char *: the path, if it is $.a.b; or NIL */
} SabotMappedColumn;

/* The statement that writes, apart as it is made ready when first needed. */
typedef struct SabotMappingPlan
{
	char	   *sql;
	SPIPlanPtr	plan;			/* NULL until then */
	MemoryContextCallback release;
} SabotMappingPlan;

struct SabotMapping
{
	bool		is_object;		/* output is a JSON object */
	int			ncolumns;		/* 0 if nothing is written */
	SabotMappedColumn *columns;
	SabotMappingPlan *update;	/* NULL if nothing is written */
};

/* in llm_mapping.c */
extern Form_pg_attribute sabot_mapping_find_column(Relation rel,
												   const char *name);

/* in llm_mapping_update.c */
extern bool sabot_key_is_unique(Relation rel, const Bitmapset *key);
extern void sabot_key_append_condition(StringInfo sql, Relation rel,
									   List *key, int param);
extern void sabot_mapping_check_key(const SabotMapping *mapping, Relation rel,
									List *key);
extern char *sabot_mapping_build_update(const SabotMapping *mapping,
										Relation rel,
										const SabotLlmSpec *spec);

/* in llm_mapping_write.c */
extern void sabot_mapping_prepare(const SabotMapping *mapping,
								  bool embedding);

#endif							/* SABOT_LLM_MAPPING_H */
