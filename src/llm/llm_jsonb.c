/*-------------------------------------------------------------------------
 *
 * llm_jsonb.c
 *		Text of unknown origin as jsonb, without errors being raised.
 *
 * What a model writes is input from a stranger.  jsonb's input function
 * raises an error for text that is no JSON, for numbers that numeric cannot
 * hold and for nesting that needs too much stack; inside the worker each of
 * these would cost a subtransaction, or the transaction.  So the text is
 * looked at first: one pass of our own bounds its size, its nesting and its
 * numbers, then the server's parser, which returns its verdict, decides
 * whether it is JSON.  What is left cannot fail.
 *
 * IDENTIFICATION
 *		src/llm/llm_jsonb.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "llm/llm.h"
#include "llm/llm_jsonb.h"

/*
 * A document of this size cannot outgrow the 256 MB of a jsonb container,
 * whatever is in it: no byte of text takes more than 6 of jsonb.
 */
#define MAX_JSON_BYTES		(16 * 1024 * 1024)
#define MAX_JSON_DEPTH		256

/* What numeric can hold. */
#define MAX_DIGITS_BEFORE	131072
#define MAX_DIGITS_AFTER	16383

/*
 * sabot_clip - a copy of a text, cut to at most max bytes with "..." for the
 * rest; never in the middle of a character
 */
char *
sabot_clip(const char *text, int max)
{
	size_t		len = strlen(text);

	if (len <= max)
		return pstrdup(text);
	len = pg_mbcliplen(text, Min(len, max + MAX_MULTIBYTE_CHAR_LEN), max - 3);
	return psprintf("%.*s...", (int) len, text);
}

/*
 * skip_digits - skip the digits at *s, return how many there are
 */
static int64
skip_digits(const char **s)
{
	const char *start = *s;

	while (isdigit((unsigned char) **s))
		(*s)++;
	return *s - start;
}

/*
 * number_fits - whether numeric can hold the number at *s; skips it
 *
 * It need not be one as JSON has them: the parser says so later.
 */
static bool
number_fits(const char **s)
{
	int64		before;
	int64		after = 0;
	int64		exponent = 0;

	if (**s == '-')
		(*s)++;
	before = skip_digits(s);
	if (**s == '.')
	{
		(*s)++;
		after = skip_digits(s);
	}
	if (**s == 'e' || **s == 'E')
	{
		bool		negative;

		(*s)++;
		negative = (**s == '-');
		if (**s == '-' || **s == '+')
			(*s)++;
		for (; isdigit((unsigned char) **s); (*s)++)
			exponent = Min(exponent * 10 + (**s - '0'), PG_INT32_MAX);
		if (negative)
			exponent = -exponent;
	}
	return before + exponent <= MAX_DIGITS_BEFORE &&
		after - exponent <= MAX_DIGITS_AFTER &&
		before <= MAX_DIGITS_BEFORE && after <= MAX_DIGITS_AFTER;
}

/*
 * can_represent - whether the database's encoding has the character that the
 * four hexadecimal digits at s stand for
 *
 * Only asked if that encoding is not UTF-8.  Surrogates are not looked at in
 * pairs: such characters are taken not to be there.
 */
static bool
can_represent(const char *s)
{
	unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1];
	unsigned char converted[MAX_UNICODE_EQUIVALENT_STRING + 1];
	char		digits[5];
	unsigned long code;
	Oid			proc;
	int			len;

	strlcpy(digits, s, sizeof(digits));
	if (strspn(digits, "0123456789abcdefABCDEF") != 4)
		return true;			/* the parser's to refuse */
	code = strtoul(digits, NULL, 16);
	if (code <= 0x7F)
		return true;
	proc = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	if (code >= 0xD800 && code <= 0xDFFF)
		return false;
	if (!OidIsValid(proc))
		return false;
	unicode_to_utf8((pg_wchar) code, utf8);
	len = pg_utf_mblen(utf8);
	utf8[len] = '\0';
	return pg_do_encoding_conversion_buf(proc, PG_UTF8, GetDatabaseEncoding(),
										 utf8, len, converted,
										 sizeof(converted), true) == len;
}

/*
 * skip_string - skip the string at *s; false if it contains an escape that
 * the database's encoding has no character for
 */
static bool
skip_string(const char **s)
{
	bool		is_utf8 = (GetDatabaseEncoding() == PG_UTF8);

	for ((*s)++; **s != '\0' && **s != '"'; (*s)++)
	{
		if (**s != '\\' || (*s)[1] == '\0')
			continue;
		(*s)++;
		if (**s == 'u' && !is_utf8 && !can_represent(*s + 1))
			return false;
	}
	if (**s == '"')
		(*s)++;
	return true;
}

/*
 * bounds_violation - what a text exceeds of our bounds, NULL if nothing
 */
static const char *
bounds_violation(const char *text)
{
	const char *s = text;
	int			depth = 0;

	while (*s != '\0')
	{
		if (*s == '"')
		{
			if (!skip_string(&s))
				return "it has a character that the database's encoding has not";
			continue;
		}
		if (*s == '-' || isdigit((unsigned char) *s))
		{
			if (!number_fits(&s))
				return "it has a number that is out of range";
			continue;
		}
		if (*s == '{' || *s == '[')
			depth++;
		else if (*s == '}' || *s == ']')
			depth--;
		if (depth > MAX_JSON_DEPTH)
			return "it is nested too deeply";
		s++;
	}
	return NULL;
}

/*
 * sabot_jsonb_parse - a text as jsonb, or NULL with *violation set
 *
 * The text must be exactly one JSON value, with nothing but white space
 * around it, and valid in the database's encoding.  Raises no error for
 * anything that the text could be.  Both results are palloc'd; the violation
 * is short and continues a sentence ("not JSON: ...").
 */
Jsonb *
sabot_jsonb_parse(const char *text, char **violation)
{
	size_t		len = strlen(text);
	const char *bound;
	JsonLexContext *lex;
	JsonParseErrorType result;

	*violation = NULL;
	if (len > MAX_JSON_BYTES)
		bound = "it is longer than 16 MB";
	else if (strspn(text, " \t\n\r") == len)
		bound = "it is empty";
	else
		bound = bounds_violation(text);
	if (bound)
	{
		*violation = psprintf("not JSON: %s", bound);
		return NULL;
	}

	/* With escapes, or lone surrogates and \u0000 would pass. */
	lex = makeJsonLexContextCstringLen(NULL, text, (int) len,
									   GetDatabaseEncoding(), true);
	result = pg_parse_json(lex, &nullSemAction);
	if (result != JSON_SUCCESS)
	{
		char	   *detail = sabot_clip(json_errdetail(result, lex), 200);
		size_t		detail_len = strlen(detail);

		/* A sentence that goes on in others, unless it was cut off. */
		if (detail_len > 3 && detail[detail_len - 1] == '.' &&
			detail[detail_len - 2] != '.')
			detail[detail_len - 1] = '\0';
		*violation = psprintf("not JSON: %s", detail);
		return NULL;
	}
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(text)));
}
