/*-------------------------------------------------------------------------
 *
 * llm_source.h
 *		Reading a source, for jobs and for previews.
 *
 * IDENTIFICATION
 *		src/llm/llm_source.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_SOURCE_H
#define SABOT_LLM_SOURCE_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "llm/llm.h"
#include "utils/portal.h"

/* A source being read. */
typedef struct SabotSourceScan
{
	Portal		portal;
	TupleDesc	columns;		/* lives as long as the portal */
	int			next_fetch;		/* rows */
} SabotSourceScan;

/* How to make keys of rows. */
typedef struct SabotSourceKey
{
	int			n;				/* 0 if rows have none */
	struct SabotKeyColumn *columns;
} SabotSourceKey;

/* What a row of a source is like now, by its key. */
typedef enum SabotRowNow
{
	SABOT_ROW_NONE,				/* the source does not have it */
	SABOT_ROW_EMPTY,			/* every placeholder is NULL */
	SABOT_ROW_PROMPT
} SabotRowNow;

typedef struct SabotRowReader SabotRowReader;

/* in llm_source.c */
extern char *sabot_source_as_table(const char *source);
extern void sabot_source_open(SabotSourceScan *scan, const char *source);
extern SPITupleTable *sabot_source_fetch(SabotSourceScan *scan, int limit);
extern void sabot_source_close(SabotSourceScan *scan);

/* in llm_source_key.c */
extern SabotSourceKey *sabot_source_key(const SabotLlmSpec *spec,
										TupleDesc columns);
extern Jsonb *sabot_source_key_of(SabotSourceKey *key, HeapTuple row,
								  TupleDesc columns, int64 number);

/* in llm_source_row.c: one row again */
extern SabotRowReader *sabot_source_row(const SabotLlmSpec *spec, Oid table,
										bool locks);
extern bool sabot_source_row_lock(SabotRowReader *reader, Jsonb *key);
extern SabotRowNow sabot_source_row_read(SabotRowReader *reader, Jsonb *key,
										 char **prompt);

#endif							/* SABOT_LLM_SOURCE_H */
