/*-------------------------------------------------------------------------
 *
 * llm_source_read.c
 *		The rows of a source become the items of a job.
 *
 * Everything happens in one transaction: a job whose source was read only in
 * part has no items.  Rows come as the job's owner and items are written as
 * the extension's, in turns, a batch at a time.
 *
 * Equal prompts are found by their digests alone.  The prompts themselves
 * may be far more than fits into memory, and who can choose a row's text
 * must not be able to choose another row's answer, so the digest is a
 * cryptographic one.
 *
 * IDENTIFICATION
 *		src/llm/llm_source_read.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "jobs/jobs.h"
#include "llm/llm.h"
#include "llm/llm_jsonb.h"
#include "llm/llm_source.h"
#include "llm/llm_template.h"

/* Items are written when there are so many, or when they take so much room. */
#define BATCH_ITEMS		1000
#define BATCH_BYTES		(8 * 1024 * 1024)

#define MAX_SHOWN_KEY	200

/* 128 bits that stand for a prompt or a key, and the first item with it. */
typedef struct Digest
{
	uint64		bits[2];
} Digest;

typedef struct DigestEntry
{
	Digest		digest;
	int64		item;
	char		status;
} DigestEntry;

#define SH_PREFIX digests
#define SH_ELEMENT_TYPE DigestEntry
#define SH_KEY_TYPE Digest
#define SH_KEY digest
#define SH_HASH_KEY(tb, key) ((uint32) (key).bits[0])
#define SH_EQUAL(tb, a, b) \
	((a).bits[0] == (b).bits[0] && (a).bits[1] == (b).bits[1])
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Items on their way into the table, in a context of their own. */
typedef struct Batch
{
	MemoryContext context;
	int64		first;			/* number of the first item */
	int			n;
	int64		bytes;
	Datum		keys[BATCH_ITEMS];
	Datum		prompts[BATCH_ITEMS];
	Datum		same_as[BATCH_ITEMS];
	bool		no_key[BATCH_ITEMS];
	bool		no_same[BATCH_ITEMS];
	Datum		skipped[BATCH_ITEMS];	/* numbers of items */
	int			nskipped;
} Batch;

/* A source being read. */
typedef struct Reading
{
	const SabotLlmSpec *spec;
	SabotTemplate *template;
	TupleDesc	columns;
	SabotSourceKey *key;
	int64		items;			/* so far */
	TimestampTz finished_at;	/* of the last item skipped */
	digests_hash *prompts;		/* NULL if nothing is reused */
	digests_hash *keys;			/* NULL if there is no key */
	pg_cryptohash_ctx *sha;
	Batch	   *batch;
} Reading;

static const char insert_items[] =
"INSERT INTO sabot.llm_item (job_id, item, key, prompt, same_as, followed)"
" SELECT $1, $2 + u.n - 1, u.key, u.prompt, u.same_as, $6"
" FROM ROWS FROM (unnest($3), unnest($4), unnest($5)) WITH ORDINALITY"
" AS u (key, prompt, same_as, n)";
static const char insert_skipped[] =
"INSERT INTO sabot.llm_answer (job_id, item, state, attempts, finished_at)"
" SELECT $1, u.item, 'skipped', 0, $2 + u.n * interval '1 microsecond'"
" FROM unnest($3) WITH ORDINALITY AS u (item, n)";

/*
 * start_reading - allocate what is needed to read, and open the source
 *
 * In a memory context that is the current one then, and is returned.
 */
static MemoryContext
start_reading(Reading *reading, SabotSourceScan *scan,
			  const SabotLlmSpec *spec)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sabot source",
												  ALLOCSET_DEFAULT_SIZES);

	sabot_source_open(scan, spec->source);
	MemoryContextSwitchTo(context);
	reading->spec = spec;
	reading->columns = scan->columns;
	reading->template = sabot_template_parse(spec->prompt, scan->columns);
	reading->key = sabot_source_key(spec, scan->columns);
	if (spec->reuse)
		reading->prompts = digests_create(context, 1024, NULL);
	if (reading->key->n > 0)
		reading->keys = digests_create(context, 1024, NULL);
	reading->sha = pg_cryptohash_create(PG_SHA256);
	reading->batch = palloc0(sizeof(Batch));
	reading->batch->context = AllocSetContextCreate(context,
													"sabot source batch",
													ALLOCSET_DEFAULT_SIZES);
	reading->batch->first = 1;
	return context;
}

/*
 * digest_of - the digest of a prompt
 */
static Digest
digest_of(Reading *reading, const char *data, size_t len)
{
	uint8		sha[PG_SHA256_DIGEST_LENGTH];
	Digest		digest;

	if (reading->sha == NULL ||
		pg_cryptohash_init(reading->sha) < 0 ||
		pg_cryptohash_update(reading->sha, (const uint8 *) data, len) < 0 ||
		pg_cryptohash_final(reading->sha, sha, sizeof(sha)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a SHA-256 digest")));
	memcpy(&digest, sha, sizeof(digest));
	return digest;
}

/*
 * check_key_is_new - raise 21000 if the source had a row with this key before
 *
 * The server's hash of jsonb takes 1 and 1.0 for the same, as indexes do.
 */
static void
check_key_is_new(Reading *reading, Jsonb *key)
{
	DigestEntry *entry;
	Digest		digest;
	bool		found;

	for (int i = 0; i < 2; i++)
		digest.bits[i] =
			DatumGetUInt64(DirectFunctionCall2(jsonb_hash_extended,
											   JsonbPGetDatum(key),
											   Int64GetDatum(i + 1)));
	entry = digests_insert(reading->keys, digest, &found);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the source has more than one row with key %s",
						sabot_clip(JsonbToCString(NULL, &key->root, 64),
								   MAX_SHOWN_KEY)),
				 errdetail("They are rows " INT64_FORMAT " and " INT64_FORMAT ".",
						   entry->item, reading->items)));
	entry->item = reading->items;
}

/*
 * first_with - the first item with the same prompt, 0 if this is the first
 */
static int64
first_with(Reading *reading, const char *prompt)
{
	DigestEntry *entry;
	bool		found;

	if (reading->prompts == NULL)
		return 0;
	entry = digests_insert(reading->prompts,
						   digest_of(reading, prompt, strlen(prompt)), &found);
	if (found)
		return entry->item;
	entry->item = reading->items;
	return 0;
}

/*
 * array_of - an array parameter
 */
static Datum
array_of(Datum *elems, bool *nulls, int n, Oid type)
{
	int			lb = 1;
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lb, type,
											  len, byval, align));
}

/*
 * write_items - insert the items of the batch
 */
static void
write_items(Reading *reading)
{
	static const Oid types[] = {INT8OID, INT8OID, JSONBARRAYOID, TEXTARRAYOID,
		INT8ARRAYOID, BOOLOID
	};
	Batch	   *batch = reading->batch;
	Datum		values[lengthof(types)];

	values[0] = Int64GetDatum(reading->spec->job_id);
	values[5] = BoolGetDatum(reading->spec->follow);
	values[1] = Int64GetDatum(batch->first);
	values[2] = array_of(batch->keys, batch->no_key, batch->n, JSONBOID);
	values[3] = array_of(batch->prompts, NULL, batch->n, TEXTOID);
	values[4] = array_of(batch->same_as, batch->no_same, batch->n, INT8OID);
	(void) sabot_spi(insert_items, lengthof(types), types, values, NULL, 0);
}

/*
 * write_skipped - insert the answers of items that are not asked
 *
 * Each of them gets a time of its own, later than all before.
 */
static void
write_skipped(Reading *reading)
{
	static const Oid types[] = {INT8OID, TIMESTAMPTZOID, INT8ARRAYOID};
	Batch	   *batch = reading->batch;
	Datum		values[lengthof(types)];

	if (batch->nskipped == 0)
		return;
	reading->finished_at = Max(reading->finished_at, GetCurrentTimestamp());
	values[0] = Int64GetDatum(reading->spec->job_id);
	values[1] = TimestampTzGetDatum(reading->finished_at);
	values[2] = array_of(batch->skipped, NULL, batch->nskipped, INT8OID);
	(void) sabot_spi(insert_skipped, lengthof(types), types, values, NULL, 0);
	reading->finished_at += batch->nskipped;
}

/*
 * flush - write the batch and begin a new one
 */
static void
flush(Reading *reading)
{
	Batch	   *batch = reading->batch;
	MemoryContext caller;
	SabotOwn	own;

	if (batch->n == 0)
		return;
	caller = MemoryContextSwitchTo(batch->context);
	sabot_own_begin(&own);
	write_items(reading);
	MemoryContextSwitchTo(batch->context);	/* SPI has left it */
	write_skipped(reading);
	sabot_own_end(&own);
	MemoryContextSwitchTo(caller);

	MemoryContextReset(batch->context);
	batch->first += batch->n;
	batch->n = 0;
	batch->nskipped = 0;
	batch->bytes = 0;
}

/*
 * add_row - make a row of the source an item
 */
static void
add_row(Reading *reading, HeapTuple row)
{
	Batch	   *batch = reading->batch;
	MemoryContext caller = MemoryContextSwitchTo(batch->context);
	bool		skip;
	char	   *prompt;
	int64		same_as;

	reading->items++;
	batch->no_key[batch->n] = (reading->key->n == 0);
	if (reading->key->n > 0)
	{
		Jsonb	   *key = sabot_source_key_of(reading->key, row,
											  reading->columns,
											  reading->items);

		check_key_is_new(reading, key);
		batch->keys[batch->n] = JsonbPGetDatum(key);
	}

	prompt = sabot_template_render(reading->template, row, reading->columns,
								   &skip);
	same_as = skip ? 0 : first_with(reading, prompt);
	batch->prompts[batch->n] = CStringGetTextDatum(prompt);
	batch->same_as[batch->n] = Int64GetDatum(same_as);
	batch->no_same[batch->n] = (same_as == 0);
	if (skip)
		batch->skipped[batch->nskipped++] = Int64GetDatum(reading->items);
	batch->n++;
	batch->bytes += strlen(prompt) + row->t_len;
	pfree(prompt);
	MemoryContextSwitchTo(caller);

	if (batch->n == BATCH_ITEMS || batch->bytes > BATCH_BYTES)
		flush(reading);
}

/*
 * sabot_source_read - run the source of a job and write its items
 *
 * In the caller's transaction, as the job's owner, with the job's settings in
 * force.  Returns how many items there are.  Items whose placeholders are all
 * NULL are finished at once, as skipped.  Errors: those of the source and of
 * its template, 23502 if the key of a row is NULL, 21000 if two rows have the
 * same.
 */
int64
sabot_source_read(const SabotLlmSpec *spec)
{
	Reading		reading = {0};
	SabotSourceScan scan;
	SPITupleTable *rows;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;

	SPI_connect();
	context = start_reading(&reading, &scan, spec);
	while ((rows = sabot_source_fetch(&scan, BATCH_ITEMS)) != NULL)
	{
		for (uint64 i = 0; i < rows->numvals; i++)
			add_row(&reading, rows->vals[i]);
		SPI_freetuptable(rows);
	}
	flush(&reading);
	pg_cryptohash_free(reading.sha);
	sabot_source_close(&scan);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	SPI_finish();
	return reading.items;
}
