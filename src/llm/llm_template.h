/*-------------------------------------------------------------------------
 *
 * llm_template.h
 *		Columns by their names.
 *
 * IDENTIFICATION
 *		src/llm/llm_template.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_LLM_TEMPLATE_H
#define SABOT_LLM_TEMPLATE_H

#include "access/tupdesc.h"

/* in llm_template.c */
extern AttrNumber sabot_column_find(TupleDesc columns, const char *name);
extern char *sabot_column_list(TupleDesc columns);

#endif							/* SABOT_LLM_TEMPLATE_H */
