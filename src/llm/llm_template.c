/*-------------------------------------------------------------------------
 *
 * llm_template.c
 *		Prompts: a text in which {column} stands for a value of the row.
 *
 * A template is parsed once, against the columns of the source, into pieces:
 * literal text, each followed by at most one column.  Rendering a row is then
 * copying, with the output functions looked up beforehand, as there may be
 * millions of rows.
 *
 * What stands between the braces is looked up as it is first, so that any
 * column can be named without thinking about quotes, and then as SQL would
 * read it.  Prompts often show the model an example in JSON, where a brace
 * that was not doubled looks like a placeholder; so every error says how to
 * write a brace.
 *
 * IDENTIFICATION
 *		src/llm/llm_template.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "llm/llm.h"
#include "llm/llm_jsonb.h"
#include "llm/llm_template.h"

/* How many columns an error message names. */
#define MAX_NAMED_COLUMNS	40
#define MAX_SHOWN_NAME		100

#define BRACE_HINT "To write a brace, double it: {{."

/* How a value becomes text. */
typedef enum ColumnForm
{
	FORM_TEXT,					/* its bytes are the text */
	FORM_BOOL,
	FORM_JSON,					/* as to_jsonb() has it */
	FORM_OUTPUT					/* by the type's output function */
} ColumnForm;

/* Literal text, and the column whose value follows it. */
typedef struct TemplatePiece
{
	char	   *text;
	int			len;
	AttrNumber	column;			/* 0 if no value follows */
	ColumnForm	form;
	FmgrInfo	function;		/* output function, or to_jsonb() */
} TemplatePiece;

struct SabotTemplate
{
	List	   *pieces;			/* of TemplatePiece */
	int			ncolumns;		/* placeholders */
	size_t		literal_len;	/* of all pieces */
};

/* A template being parsed. */
typedef struct TemplateParser
{
	const char *start;			/* of the template */
	const char *s;				/* what is to be looked at next */
	TupleDesc	columns;
	SabotTemplate *result;
	StringInfoData literal;		/* of the piece that has begun */
} TemplateParser;

/*
 * sabot_column_list - the names of columns, for a hint: a, b, "C"
 */
char *
sabot_column_list(TupleDesc columns)
{
	StringInfoData buf;
	int			named = 0;

	initStringInfo(&buf);
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);

		if (att->attisdropped)
			continue;
		if (++named > MAX_NAMED_COLUMNS)
			continue;
		appendStringInfo(&buf, "%s%s", named > 1 ? ", " : "",
						 quote_identifier(NameStr(att->attname)));
	}
	if (named > MAX_NAMED_COLUMNS)
		appendStringInfo(&buf, " and %d more", named - MAX_NAMED_COLUMNS);
	return buf.data;
}

/*
 * sabot_column_find - the number of the column with a name, 0 if there is none
 *
 * The name is compared as it is.  Raises 42702 if there are several.
 */
AttrNumber
sabot_column_find(TupleDesc columns, const char *name)
{
	AttrNumber	found = 0;

	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0)
			continue;
		if (found != 0)
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_COLUMN),
					 errmsg("the source has more than one column \"%s\"", name),
					 errhint("Give each a name of its own with AS.")));
		found = i + 1;
	}
	return found;
}

/*
 * invalid_template - raise 22023 for a brace at a place in the template
 */
static void
invalid_template(const TemplateParser *parser, const char *place,
				 const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail("It is character %d of the template.",
					   pg_mbstrlen_with_len(parser->start,
											(int) (place - parser->start)) + 1),
			 errhint(BRACE_HINT)));
}

/*
 * skip_space - the first of the characters from s on that is no white space
 */
static const char *
skip_space(const char *s)
{
	while (scanner_isspace(*s))
		s++;
	return s;
}

/*
 * quoted_identifier - read a quoted identifier and the brace that closes its
 * placeholder
 *
 * s is after the opening brace.  Returns where the closing brace is and sets
 * *name, or returns NULL if this is something else.
 */
static const char *
quoted_identifier(const char *s, char **name)
{
	StringInfoData buf;

	s = skip_space(s);
	if (*s != '"')
		return NULL;
	initStringInfo(&buf);
	for (s++; *s != '\0'; s++)
	{
		if (*s == '"' && *++s != '"')
			break;
		appendStringInfoChar(&buf, *s);
	}
	s = skip_space(s);
	*name = buf.data;
	return *s == '}' ? s : NULL;
}

/*
 * plain_identifier - text between braces as SQL reads a name without quotes
 */
static char *
plain_identifier(const char *start, const char *end)
{
	start = skip_space(start);
	while (end > start && scanner_isspace(end[-1]))
		end--;
	return downcase_truncate_identifier(start, (int) (end - start), false);
}

/*
 * find_column - the column that a placeholder stands for
 *
 * open is where its opening brace is; *close is set to the closing one.
 * Errors: 22023 if that is missing, 42703, 42702.
 */
static AttrNumber
find_column(const TemplateParser *parser, const char *open, const char **close)
{
	const char *start = open + 1;
	const char *brace = strchr(start, '}');
	char	   *quoted;
	const char *quoted_end = quoted_identifier(start, &quoted);
	AttrNumber	column;

	*close = quoted_end;
	if (quoted_end &&
		((column = sabot_column_find(parser->columns,
									 pnstrdup(start, quoted_end - start))) ||
		 (column = sabot_column_find(parser->columns, quoted))))
		return column;
	if (brace == NULL)
		invalid_template(parser, open, "template has an opening brace without a closing one");
	if (skip_space(start) == brace)
		invalid_template(parser, open, "template has braces with nothing between them");

	*close = brace;
	if ((column = sabot_column_find(parser->columns,
									pnstrdup(start, brace - start))) ||
		(column = sabot_column_find(parser->columns,
									plain_identifier(start, brace))))
		return column;

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("the source has no column \"%s\"",
					sabot_clip(quoted_end ? quoted :
							   pnstrdup(start, brace - start),
							   MAX_SHOWN_NAME)),
			 errdetail("The template uses it at character %d.",
					   pg_mbstrlen_with_len(parser->start,
											(int) (open - parser->start)) + 1),
			 errhint("The source has these columns: %s. " BRACE_HINT,
					 sabot_column_list(parser->columns))));
	return 0;					/* keep compiler quiet */
}

/*
 * set_form - find out how values of a piece's column become text
 */
static void
set_form(TemplatePiece *piece, Form_pg_attribute att)
{
	Oid			base = getBaseType(att->atttypid);
	Oid			output;
	bool		is_varlena;

	if (base == TEXTOID || base == VARCHAROID || base == BPCHAROID)
		piece->form = FORM_TEXT;
	else if (base == BOOLOID)
		piece->form = FORM_BOOL;
	else if (OidIsValid(get_element_type(base)) || type_is_rowtype(base))
	{
		/* to_jsonb() asks its call for the type of its argument. */
		Node	   *arg = (Node *) makeNullConst(att->atttypid, att->atttypmod,
												 att->attcollation);

		piece->form = FORM_JSON;
		fmgr_info(F_TO_JSONB, &piece->function);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												 list_make1(arg), InvalidOid,
												 InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &piece->function);
	}
	else
	{
		piece->form = FORM_OUTPUT;
		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		fmgr_info(output, &piece->function);
	}
}

/*
 * end_piece - add the literal text so far, and a column or 0, to the result
 */
static void
end_piece(TemplateParser *parser, AttrNumber column)
{
	TemplatePiece *piece = palloc0(sizeof(TemplatePiece));

	piece->text = pnstrdup(parser->literal.data, parser->literal.len);
	piece->len = parser->literal.len;
	piece->column = column;
	if (column > 0)
	{
		set_form(piece, TupleDescAttr(parser->columns, column - 1));
		parser->result->ncolumns++;
	}
	parser->result->pieces = lappend(parser->result->pieces, piece);
	parser->result->literal_len += piece->len;
	resetStringInfo(&parser->literal);
}

/*
 * sabot_template_parse - make a template ready for rows with these columns
 *
 * Allocated in the current memory context, which may keep growing a little as
 * output functions do.  Errors: 22023 for a brace that opens no placeholder,
 * 42703 for an unknown column, 42702 for one that is there twice.
 */
SabotTemplate *
sabot_template_parse(const char *prompt, TupleDesc columns)
{
	TemplateParser parser;

	parser.columns = columns;
	parser.start = prompt;
	parser.s = parser.start;
	parser.result = palloc0(sizeof(SabotTemplate));
	initStringInfo(&parser.literal);
	while (*parser.s != '\0')
	{
		const char *brace = strchr(parser.s, '{');
		const char *close;

		if (brace == NULL)
			brace = parser.s + strlen(parser.s);
		appendBinaryStringInfo(&parser.literal, parser.s,
							   (int) (brace - parser.s));
		parser.s = brace;
		if (*brace == '\0')
			break;
		if (brace[1] == '{')
		{
			appendStringInfoChar(&parser.literal, '{');
			parser.s += 2;
			continue;
		}
		end_piece(&parser, find_column(&parser, brace, &close));
		parser.s = close + 1;
	}
	end_piece(&parser, 0);
	return parser.result;
}

/*
 * append_value - append a value to a prompt
 */
static void
append_value(StringInfo buf, TemplatePiece *piece, Datum value)
{
	text	   *string;
	char	   *output;
	Jsonb	   *json;

	switch (piece->form)
	{
		case FORM_TEXT:
			string = DatumGetTextPP(value);
			appendBinaryStringInfo(buf, VARDATA_ANY(string),
								   VARSIZE_ANY_EXHDR(string));
			break;
		case FORM_BOOL:
			appendStringInfoString(buf, DatumGetBool(value) ? "true" : "false");
			break;
		case FORM_JSON:
			json = DatumGetJsonbP(FunctionCall1(&piece->function, value));
			(void) JsonbToCString(buf, &json->root, VARSIZE(json));
			break;
		case FORM_OUTPUT:
			output = OutputFunctionCall(&piece->function, value);
			appendStringInfoString(buf, output);
			pfree(output);
			break;
	}
}

/*
 * sabot_template_render - the prompt of a row
 *
 * columns describes the row, and is what the template was parsed with or an
 * equal.  NULL renders as nothing; *all_null is set if there are placeholders
 * and all of them are NULL.  The prompt is palloc'd, and more is left behind
 * in the current memory context.  Raises what output functions raise, and
 * 54000 for a prompt of more than 1 GB.
 */
char *
sabot_template_render(const SabotTemplate *template, HeapTuple row,
					  TupleDesc columns, bool *all_null)
{
	StringInfoData buf;
	ListCell   *lc;

	*all_null = template->ncolumns > 0;
	initStringInfo(&buf);
	enlargeStringInfo(&buf, (int) template->literal_len);
	foreach(lc, template->pieces)
	{
		TemplatePiece *piece = lfirst(lc);
		Datum		value;
		bool		isnull;

		appendBinaryStringInfo(&buf, piece->text, piece->len);
		if (piece->column == 0)
			continue;
		value = heap_getattr(row, piece->column, columns, &isnull);
		if (isnull)
			continue;
		*all_null = false;
		append_value(&buf, piece, value);
	}
	return buf.data;
}
