/*-------------------------------------------------------------------------
 *
 * job_stream_table.c
 *		The tables that captured rows wait in, and the trigger that fills them.
 *
 * A capture has a table of its own with the columns of its source, so a row
 * waits with the types it was written with, and needs no description.  It is
 * no member of the extension, as those are not dumped one by one; but it and
 * the trigger go with the extension.  Its rows are only added and deleted, and
 * found by their number.
 *
 * When the source's columns change the table is not altered: what waits in it
 * was written before.  A new part begins, and is read when there is nothing
 * left in the one before and nobody who might still write into it.
 *
 * The table is the extension owner's, and the types of its columns anybody's:
 * nothing may ever be done with the values in his name.  So no statistics are
 * gathered of them, as ANALYZE, which works as the table's owner, calls the
 * function subtype_diff of a range type, whoever has written that.
 *
 * There is one row-level trigger and none for statements, although these are
 * a little faster: a row that comes to a partition directly, by way of its
 * partitioned table, or from a subscription fires no other kind.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_table.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "jobs/job_stream.h"

/* How long a prober waits for locks on tables that are not sabot's. */
#define PROBER_LOCK_TIMEOUT "200ms"

/*
 * capture_name - name of a table of captured rows, in schema sabot
 */
static char *
capture_name(int64 job_id, int part)
{
	return part == 0 ? psprintf("stream_" INT64_FORMAT, job_id) :
		psprintf("stream_" INT64_FORMAT "_%d", job_id, part);
}

/*
 * trigger_name - name of the trigger of a capture
 */
static char *
trigger_name(int64 job_id)
{
	return psprintf("sabot_stream_" INT64_FORMAT, job_id);
}

/*
 * sabot_capture_table - OID of a table of captured rows, InvalidOid if it is
 * not there
 */
Oid
sabot_capture_table(int64 job_id, int part)
{
	return get_relname_relid(capture_name(job_id, part),
							 sabot_catalog(false)->schema);
}

/*
 * sabot_capture_function - OID of sabot.stream_capture(), or InvalidOid
 */
Oid
sabot_capture_function(void)
{
	const SabotCatalog *cat = sabot_catalog(true);
	oidvector  *none;

	if (cat == NULL)
		return InvalidOid;
	none = buildoidvector(NULL, 0);
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum("stream_capture"),
						   PointerGetDatum(none),
						   ObjectIdGetDatum(cat->schema));
}

/*
 * sabot_capture_trigger - whether a trigger is one of ours, and of which job
 */
bool
sabot_capture_trigger(const Trigger *trigger, int64 *job_id)
{
	if (trigger->tgfoid != sabot_capture_function() || trigger->tgnargs != 1)
		return false;
	*job_id = strtoi64(trigger->tgargs[0], NULL, 10);
	return true;
}

/*
 * sabot_capture_next_block - a number that is higher than all given out before
 *
 * Even if the transaction has become read only since it has written.
 */
int64
sabot_capture_next_block(void)
{
	bool		read_only = XactReadOnly;
	int64		block;

	XactReadOnly = false;
	block = nextval_internal(get_relname_relid("stream_seq",
											   sabot_catalog(false)->schema),
							 false);
	XactReadOnly = read_only;
	return block;
}

/*
 * sabot_capture_parts - numbers of the parts of a capture, in ascending order,
 * as they are now; returns how many
 */
int
sabot_capture_parts(int64 job_id, int **parts)
{
	Relation	rel = table_open(get_relname_relid("stream_part",
												   sabot_catalog(false)->schema),
								 AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(sabot_stream_snapshot());
	Relation	index = index_open(SabotPrimaryKeyIndex(rel), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			n = 0;

	*parts = palloc(sizeof(int));
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(job_id));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		*parts = repalloc(*parts, sizeof(int) * (n + 1));
		(*parts)[n++] = DatumGetInt32(heap_getattr(tuple, 2,
												   RelationGetDescr(rel),
												   &isnull));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return n;
}

/*
 * execute - run a statement of sabot's own that is used once
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
execute(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(rc));
}

/*
 * add_columns - the columns of a source, as for CREATE TABLE
 */
static void
add_columns(StringInfo sql, TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		appendStringInfo(sql, ", %s %s", quote_identifier(NameStr(att->attname)),
						 format_type_extended(att->atttypid, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(att->attcollation) &&
			att->attcollation != get_typcollation(att->atttypid))
			appendStringInfo(sql, " COLLATE %s",
							 generate_collation_name(att->attcollation));
	}
}

/*
 * keep_from_analyze - have ANALYZE pass over the columns of a source
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
keep_from_analyze(const char *name, TupleDesc desc)
{
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE sabot.%s", name);
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		appendStringInfo(&sql, "%s ALTER COLUMN %s SET STATISTICS 0", separator,
						 quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
		separator = ",";
	}
	if (separator[0] != '\0')
		execute(sql.data);
}

/*
 * keep_to_owner - take away what default privileges have given others
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
keep_to_owner(Oid table)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(table);
	int			n = sabot_spi_generic("SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', c.oid::regclass,"
									  " CASE a.grantee WHEN 0 THEN 'PUBLIC'"
									  " ELSE quote_ident(pg_get_userbyid(a.grantee)) END)"
									  " FROM pg_class c, aclexplode(c.relacl) a"
									  " WHERE c.oid = $1 AND a.grantee <> c.relowner",
									  1, &type, &value, NULL, 0);
	SPITupleTable *rows = SPI_tuptable;

	for (int i = 0; i < n; i++)
		execute(SPI_getvalue(rows->vals[i], rows->tupdesc, 1));
}

/*
 * go_with_extension - have an object dropped with the extension
 */
static void
go_with_extension(Oid classid, Oid objectid, DependencyType type)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, classid, objectid);
	ObjectAddressSet(extension, ExtensionRelationId,
					 sabot_catalog(false)->extension);
	recordDependencyOn(&object, &extension, type);
}

/*
 * sabot_capture_before_drop - the extension is about to be dropped: have tables
 * of captured rows dropped with it that were restored from a dump
 *
 * Dumps tell of triggers that they go with an extension, and not of tables.
 * Needs the extension, if there is one, to be the caller's to drop.
 */
void
sabot_capture_before_drop(void)
{
	const SabotCatalog *cat = sabot_catalog(true);
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[2];
	SPITupleTable *rows;
	SabotOwn	own;
	int			n;

	if (cat == NULL)
		return;
	values[0] = ObjectIdGetDatum(cat->schema);
	values[1] = ObjectIdGetDatum(cat->extension);
	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	n = sabot_spi_generic("SELECT c.oid FROM sabot.stream_part p JOIN pg_class c ON c.relnamespace = $1"
						  " AND c.relname = concat('stream_', p.job_id, '_' || NULLIF(p.part, 0))"
						  " WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
						  " AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = $2)",
						  2, types, values, NULL, 0);
	rows = SPI_tuptable;
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		go_with_extension(RelationRelationId,
						  DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc,
														 1, &isnull)),
						  DEPENDENCY_AUTO);
	}
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
	CommandCounterIncrement();
}

/*
 * create_part - create a table for rows with the columns that the source has
 * now; returns its OID
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static Oid
create_part(int64 job_id, int part, TupleDesc desc)
{
	StringInfoData sql;
	char	   *name = capture_name(job_id, part);
	Oid			table;

	initStringInfo(&sql);
	/* Which of the server's disks it is on is not for the caller to say. */
	(void) set_config_option("default_tablespace", "", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	appendStringInfo(&sql, "CREATE TABLE sabot.%s (sabot_seq bigint NOT NULL,"
					 " sabot_at timestamptz NOT NULL, sabot_op text NOT NULL",
					 name);
	add_columns(&sql, desc);
	appendStringInfoString(&sql, ") USING heap WITH (autovacuum_vacuum_scale_factor = 0,"
						   " autovacuum_vacuum_threshold = 20000)");
	execute(sql.data);
	keep_from_analyze(name, desc);
	execute(psprintf("CREATE INDEX ON sabot.%s (sabot_seq)", name));
	execute(psprintf("INSERT INTO sabot.stream_part VALUES (" INT64_FORMAT ", %d)",
					 job_id, part));
	CommandCounterIncrement();
	table = sabot_capture_table(job_id, part);
	keep_to_owner(table);
	go_with_extension(RelationRelationId, table, DEPENDENCY_AUTO);
	return table;
}

/*
 * create_trigger - have the rows of a table captured
 *
 * As the extension's owner: nobody else may execute its function.
 */
static void
create_trigger(int64 job_id, Relation source)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
	ObjectAddress trigger;

	stmt->trigname = trigger_name(job_id);
	stmt->relation = makeRangeVar(get_namespace_name(RelationGetNamespace(source)),
								  pstrdup(RelationGetRelationName(source)), -1);
	stmt->funcname = list_make2(makeString(pstrdup("sabot")),
								makeString(pstrdup("stream_capture")));
	stmt->args = list_make1(makeString(psprintf(INT64_FORMAT, job_id)));
	stmt->row = true;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE;
	trigger = CreateTriggerFiringOn(stmt, NULL, RelationGetRelid(source),
									InvalidOid, InvalidOid, InvalidOid,
									InvalidOid, InvalidOid, NULL, false,
									false, TRIGGER_FIRES_ALWAYS);
	go_with_extension(TriggerRelationId, trigger.objectId,
					  DEPENDENCY_AUTO_EXTENSION);
	CommandCounterIncrement();
}

/*
 * sabot_capture_create - capture the rows that are written into a table by
 * transactions that have not begun to write into it yet
 *
 * Waits for those that have.  The caller has checked that the table is one
 * that can be captured, and whose.
 */
void
sabot_capture_create(int64 job_id, Oid source)
{
	Relation	rel = table_open(source, ShareRowExclusiveLock);
	SabotOwn	own;

	SPI_connect();
	sabot_own_begin(&own);
	(void) create_part(job_id, 0, RelationGetDescr(rel));
	create_trigger(job_id, rel);
	sabot_own_end(&own);
	SPI_finish();
	table_close(rel, NoLock);
}

/*
 * sabot_capture_is_attached - whether the trigger of a capture is there
 *
 * Locks nothing.
 */
bool
sabot_capture_is_attached(int64 job_id, Oid source)
{
	return OidIsValid(get_trigger_oid(source, trigger_name(job_id), true));
}

/*
 * drop_trigger - capture no more
 *
 * Waits for transactions that have written into the table.
 */
static void
drop_trigger(int64 job_id, Oid source)
{
	ObjectAddress trigger;
	Oid			oid;

	if (!sabot_capture_is_attached(job_id, source))
		return;
	LockRelationOid(source, AccessExclusiveLock);
	oid = get_trigger_oid(source, trigger_name(job_id), true);
	if (!OidIsValid(oid))
		return;
	ObjectAddressSet(trigger, TriggerRelationId, oid);
	performDeletion(&trigger, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
}

/*
 * drop_part - drop a table of captured rows
 *
 * Between sabot_own_begin() and sabot_own_end(), SPI connected.
 */
static void
drop_part(int64 job_id, int part)
{
	Oid			types[] = {INT8OID, INT4OID};
	Datum		values[] = {Int64GetDatum(job_id), Int32GetDatum(part)};

	sabot_spi_change_latest("DELETE FROM sabot.stream_part WHERE job_id = $1 AND part = $2",
							2, types, values, NULL);
	if (OidIsValid(sabot_capture_table(job_id, part)))
		execute(psprintf("DROP TABLE sabot.%s", capture_name(job_id, part)));
}

/*
 * sabot_capture_drop - end a capture: its trigger and what waits are gone
 *
 * Waits for who has written into the table, or locked it; in a prober only so
 * long, then raises 55P03.
 */
void
sabot_capture_drop(int64 job_id, Oid source)
{
	SabotOwn	own;
	int		   *parts;
	int			nparts;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	if (sabot_jobs_probing())
		(void) set_config_option("lock_timeout", PROBER_LOCK_TIMEOUT,
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	drop_trigger(job_id, source);
	nparts = sabot_capture_parts(job_id, &parts);
	for (int i = 0; i < nparts; i++)
		drop_part(job_id, parts[i]);
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * sabot_capture_drop_part - drop a part that nobody writes into anymore, if it
 * has become empty
 *
 * Returns false if somebody may be writing into it, or reads it.  Between
 * sabot_own_begin() and sabot_own_end(), SPI connected.
 */
bool
sabot_capture_drop_part(int64 job_id, int part)
{
	Oid			table = sabot_capture_table(job_id, part);
	int			first;

	if (OidIsValid(table) &&
		!ConditionalLockRelationOid(table, AccessExclusiveLock))
		return false;
	/* Who had it locked may have left something. */
	if (!sabot_capture_has_rows(job_id, 0, PG_INT64_MAX, &first) ||
		first != part)
		drop_part(job_id, part);
	return true;
}

/*
 * fits - whether a column of a source is as one of captured rows
 */
static bool
fits(Form_pg_attribute captured, Form_pg_attribute att)
{
	return !att->attisdropped &&
		strcmp(NameStr(captured->attname), NameStr(att->attname)) == 0 &&
		captured->atttypid == att->atttypid &&
		captured->atttypmod == att->atttypmod &&
		captured->attcollation == att->attcollation;
}

/*
 * sabot_capture_fits - whether a table of captured rows has the columns of a
 * source, or of a partition of it, which may have them in another order
 */
bool
sabot_capture_fits(TupleDesc capture, TupleDesc source)
{
	int			columns = 0;

	for (int i = 0; i < source->natts; i++)
		columns += !TupleDescAttr(source, i)->attisdropped;
	if (columns != capture->natts - CAPTURE_NCOLUMNS)
		return false;
	for (int i = CAPTURE_NCOLUMNS; i < capture->natts; i++)
	{
		bool		found = false;

		for (int j = 0; j < source->natts && !found; j++)
			found = fits(TupleDescAttr(capture, i), TupleDescAttr(source, j));
		if (!found)
			return false;
	}
	return true;
}

/*
 * last_part_fits - the last part of a capture, and whether it has the columns
 * of a source
 *
 * *table is InvalidOid if there is none.
 */
static bool
last_part_fits(int64 job_id, Relation source, int *part, Oid *table)
{
	int		   *parts;
	int			nparts = sabot_capture_parts(job_id, &parts);
	Relation	capture;
	bool		result;

	*table = InvalidOid;
	if (nparts == 0)
		return false;
	*part = parts[nparts - 1];
	*table = sabot_capture_table(job_id, *part);
	if (!OidIsValid(*table))
		return false;
	capture = table_open(*table, AccessShareLock);
	result = sabot_capture_fits(RelationGetDescr(capture),
								RelationGetDescr(source));
	table_close(capture, AccessShareLock);
	return result;
}

/*
 * create_next_part - create the table for rows with the columns that a source
 * has now, after a part; returns its OID
 *
 * The server tells event triggers of it.  One that writes into the source on
 * that occasion writes a row for which there is no table yet: 55006.
 */
static Oid
create_next_part(int64 job_id, int part, Relation source)
{
	static int64 creating_for = 0;
	int64		outer = creating_for;
	Oid			table = InvalidOid;
	SabotOwn	own;

	if (creating_for == job_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot write into \"%s\" while the table for its captured rows is created",
						RelationGetRelationName(source)),
				 errhint("Have event triggers pass over commands in schema \"sabot\".")));
	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	creating_for = job_id;
	PG_TRY();
	{
		table = create_part(job_id, part + 1, RelationGetDescr(source));
	}
	PG_FINALLY();
	{
		creating_for = outer;
	}
	PG_END_TRY();
	sabot_capture_note(job_id, "columns changed",
					   "Rows written before keep the columns they were written with, and are handed over first.");
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
	return table;
}

/*
 * sabot_capture_follow - the table that takes the rows of a source now, or
 * InvalidOid if there is no such capture
 *
 * A new one if the source's columns have changed: as a rule who has changed
 * them comes here, before others can write again.
 */
Oid
sabot_capture_follow(int64 job_id, Relation source)
{
	int			part;
	Oid			table;

	if (last_part_fits(job_id, source, &part, &table) || !OidIsValid(table))
		return table;
	/* One after the other, and everybody looks again. */
	LockRelationOid(table, ShareUpdateExclusiveLock);
	if (last_part_fits(job_id, source, &part, &table) || !OidIsValid(table))
		return table;

	table = create_next_part(job_id, part, source);
	/* The old one is to be dropped when it is empty. */
	sabot_capture_touch(job_id);
	ereport(NOTICE,
			(errmsg("columns of \"%s\" changed under stream " INT64_FORMAT,
					RelationGetRelationName(source), job_id),
			 errdetail("Rows written before keep the columns they were written with, and are handed over first.")));
	return table;
}

/*
 * sabot_capture_note - note what happened to a source
 *
 * detail may be NULL.  Between sabot_own_begin() and sabot_own_end(), SPI
 * connected, with an active snapshot.
 */
void
sabot_capture_note(int64 job_id, const char *event, const char *detail)
{
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job_id), CStringGetTextDatum(event),
	detail ? CStringGetTextDatum(detail) : (Datum) 0};

	sabot_spi_generic("INSERT INTO sabot.stream_event (job_id, event, detail)"
					  " VALUES ($1, $2, $3)",
					  3, types, values, detail ? "   " : "  n", 0);
}
