/*-------------------------------------------------------------------------
 *
 * llm_json.c
 *		JSON of servers, read strictly, and text in its encoding.
 *
 * cJSON takes bytes that are no UTF-8 as they come, ends a string at the
 * escape \u0000 without a word, takes \uzzzz for the same, and says no more of
 * a lone surrogate than that the text is no JSON.  So a text is looked through
 * before cJSON sees it.  Of duplicate keys the first one counts.
 *
 * Texts are converted without raising errors and, as answers are read outside
 * of transactions, without looking at the catalog: conversion functions are
 * looked up once, in a transaction of our own if there is none.
 *
 * IDENTIFICATION
 *		src/llm/llm_json.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/string.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "llm/llm_json.h"

#define MAX_NESTING 500

/* A conversion function. */
typedef struct Conversion
{
	int			from;
	int			to;
	bool		looked_up;
	FmgrInfo	function;		/* fn_oid is 0 if there is none */
} Conversion;

/*
 * hex_value - four hexadecimal digits as a number, -1 if they are none
 */
static int
hex_value(const char *digits, size_t len)
{
	int			value = 0;

	if (len < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char		c = digits[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + c - '0';
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/*
 * sabot_json_bad_escape - what is wrong with the \u escapes in a JSON text
 *
 * Returns NULL if each stands for a character that text can have.  Backslashes
 * are only found in strings, so there is no need to know where those begin.
 */
const char *
sabot_json_bad_escape(const char *text, size_t len)
{
	const char *end = text +len;
	const char *p = text;

	while ((p = memchr(p, '\\', end - p)) != NULL)
	{
		int			code;

		if (end - p < 2 || p[1] != 'u')
		{
			p += Min(2, end - p);
			continue;
		}
		code = hex_value(p + 2, end - p - 2);
		if (code < 0)
			return "invalid \\u escape";
		if (code == 0)
			return "escape \\u0000";
		p += 6;
		if (code >= 0xDC00 && code <= 0xDFFF)
			return "lone surrogate";
		if (code < 0xD800 || code > 0xDFFF)
			continue;
		if (end - p < 2 || p[0] != '\\' || p[1] != 'u')
			return "lone surrogate";
		code = hex_value(p + 2, end - p - 2);
		if (code < 0xDC00 || code > 0xDFFF)
			return "lone surrogate";
		p += 6;
	}
	return NULL;
}

/*
 * nesting - how deep arrays and objects are in each other, at most
 *
 * *is_open is set if one of them, or a string, is not closed at the end, and
 * for an empty text.  cJSON calls itself for each level; its own limit was
 * chosen when it was built.
 */
static int
nesting(const char *text, size_t len, bool *is_open)
{
	bool		in_string = false;
	bool		is_empty = true;
	int			depth = 0;
	int			deepest = 0;

	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		if (in_string && c == '\\')
			i++;
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '[' || c == '{'))
		{
			depth++;
			deepest = Max(deepest, depth);
		}
		else if (!in_string && (c == ']' || c == '}'))
			depth--;
		is_empty = is_empty && (unsigned char) c <= ' ';
	}
	*is_open = in_string || depth > 0 || is_empty;
	return deepest;
}

/*
 * check_text - look through a text before cJSON does
 *
 * Returns what is wrong with it, NULL if nothing is.
 */
static const char *
check_text(const char *text, size_t len, SabotJsonFault *fault)
{
	const char *problem = NULL;
	bool		is_open;

	if (memchr(text, '\0', len) != NULL)
		problem = "NUL byte";
	else if (!pg_verify_mbstr(PG_UTF8, text, len, true))
		problem = "not valid UTF-8";
	else
		problem = sabot_json_bad_escape(text, len);
	if (problem != NULL)
	{
		*fault = SABOT_JSON_BAD_ENCODING;
		return problem;
	}
	if (nesting(text, len, &is_open) > MAX_NESTING)
	{
		*fault = SABOT_JSON_MALFORMED;
		return "JSON nested too deeply";
	}
	*fault = is_open ? SABOT_JSON_CUT_OFF : SABOT_JSON_OK;
	return is_open ? "it ends too early" : NULL;
}

/*
 * sabot_json_parse - exactly one JSON object, with nothing after it
 *
 * text is followed by a NUL byte.  Returns NULL if it is something else, with
 * the reason in *problem and *fault.  The caller frees the result with
 * cJSON_Delete(), also if an error is raised.  Raises no error.
 */
cJSON *
sabot_json_parse(const char *text, size_t len, const char **problem,
				 SabotJsonFault *fault)
{
	cJSON	   *json;

	*problem = check_text(text, len, fault);
	if (*problem != NULL)
		return NULL;
	json = cJSON_ParseWithLengthOpts(text, len + 1, NULL, true);
	if (!cJSON_IsObject(json))
	{
		*fault = SABOT_JSON_MALFORMED;
		*problem = json == NULL ? "not one JSON object" :
			"JSON, but not an object";
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

/*
 * sabot_json_member - a member of an object, or NULL
 *
 * object may be anything, also NULL.
 */
const cJSON *
sabot_json_member(const cJSON *object, const char *key)
{
	if (!cJSON_IsObject(object))
		return NULL;
	return cJSON_GetObjectItemCaseSensitive(object, key);
}

/*
 * sabot_json_string - a member of an object if it is a string, or NULL
 *
 * In UTF-8; lives as long as the object.
 */
const char *
sabot_json_string(const cJSON *object, const char *key)
{
	return cJSON_GetStringValue(sabot_json_member(object, key));
}

/*
 * sabot_json_number - a member of an object if it is a number
 */
double
sabot_json_number(const cJSON *object, const char *key, double otherwise)
{
	const cJSON *member = sabot_json_member(object, key);

	return cJSON_IsNumber(member) ? member->valuedouble : otherwise;
}

/*
 * look_up - find the conversion's function
 *
 * Has a transaction of its own if there is none.  May raise errors of reading
 * the catalog.
 */
static void
look_up(Conversion *conversion)
{
	bool		own_transaction = !IsTransactionState();
	MemoryContext context = CurrentMemoryContext;
	Oid			function;

	if (own_transaction)
		StartTransactionCommand();
	function = FindDefaultConversionProc(conversion->from, conversion->to);
	if (OidIsValid(function))
		fmgr_info_cxt(function, &conversion->function, TopMemoryContext);
	if (own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	conversion->looked_up = true;
}

/*
 * convert_part - convert as much of a text as can be; returns how much
 *
 * Of the result, a NUL-terminated text, *converted is a palloc'd copy.
 */
static int
convert_part(Conversion *conversion, const char *text, int len,
			 char **converted)
{
	*converted = palloc_extended((Size) len * MAX_CONVERSION_GROWTH + 1,
								 MCXT_ALLOC_HUGE);
	**converted = '\0';
	if (!OidIsValid(conversion->function.fn_oid))
		return 0;
	return DatumGetInt32(FunctionCall6(&conversion->function,
									   Int32GetDatum(conversion->from),
									   Int32GetDatum(conversion->to),
									   CStringGetDatum(text),
									   CStringGetDatum(*converted),
									   Int32GetDatum(len),
									   BoolGetDatum(true)));
}

/*
 * convert - a text in the other encoding, palloc'd
 *
 * What has no equivalent is replaced; if replacement is NULL the result is.
 */
static char *
convert(Conversion *conversion, const char *text, const char *replacement)
{
	int			len = strlen(text);
	StringInfoData result;

	if (!conversion->looked_up)
		look_up(conversion);
	initStringInfo(&result);
	while (len > 0)
	{
		char	   *part;
		int			n = convert_part(conversion, text, len, &part);

		appendStringInfoString(&result, part);
		pfree(part);
		if (n == len)
			break;
		if (replacement == NULL)
			return NULL;
		appendStringInfoString(&result, replacement);
		n += Min(pg_encoding_mblen(conversion->from, text +n), len - n);
		text	  +=n;

		len -= n;
	}
	return result.data;
}

/*
 * scrub - a text of unknown encoding as UTF-8, palloc'd
 */
static char *
scrub(const char *text)
{
	int			len = strlen(text);
	StringInfoData result;

	initStringInfo(&result);
	while (len > 0)
	{
		int			n = pg_encoding_verifymbstr(PG_UTF8, text, len);

		appendBinaryStringInfo(&result, text, n);
		if (n == len)
			break;
		appendStringInfoString(&result, "\xEF\xBF\xBD");
		text	  +=n + 1;

		len -= n + 1;
	}
	return result.data;
}

/*
 * sabot_text_to_utf8 - a text in the server's encoding as UTF-8, palloc'd
 *
 * What cannot be represented is replaced by U+FFFD, as servers do themselves.
 * May raise errors of memory, and of reading the catalog when called first.
 */
char *
sabot_text_to_utf8(const char *text)
{
	static Conversion conversion;
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8 || pg_is_ascii(text))
		return pstrdup(text);
	if (encoding == PG_SQL_ASCII)
		return scrub(text);
	conversion.from = encoding;
	conversion.to = PG_UTF8;
	return convert(&conversion, text, "\xEF\xBF\xBD");
}

/*
 * sabot_text_from_utf8 - valid UTF-8 in the server's encoding, palloc'd
 *
 * If there are characters the server's encoding does not have, returns NULL
 * or, if lossy, has question marks for them.  May raise errors of memory, and
 * of reading the catalog when called first.
 */
char *
sabot_text_from_utf8(const char *text, bool lossy)
{
	static Conversion conversion;
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || pg_is_ascii(text))
		return pstrdup(text);
	conversion.from = PG_UTF8;
	conversion.to = encoding;
	return convert(&conversion, text, lossy ? "?" : NULL);
}
