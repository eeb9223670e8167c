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
#include "utils/portal.h"

/* A source being read. */
typedef struct SabotSourceScan
{
	Portal		portal;
	TupleDesc	columns;		/* lives as long as the portal */
	int			next_fetch;		/* rows */
} SabotSourceScan;

/* in llm_source.c */
extern void sabot_source_open(SabotSourceScan *scan, const char *source);
extern SPITupleTable *sabot_source_fetch(SabotSourceScan *scan, int limit);
extern void sabot_source_close(SabotSourceScan *scan);

#endif							/* SABOT_LLM_SOURCE_H */
