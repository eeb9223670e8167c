/*-------------------------------------------------------------------------
 *
 * job_stream_watch.c
 *		Notices what happens to tables that streams read, and to roles.
 *
 * TRUNCATE, DROP and changes of columns fire no trigger that would be of use
 * here, but every session's object access hook sees them.  What it sees is
 * noted, and acted upon when the transaction commits: catalogs are in the
 * middle of something when the hook is called.
 *
 * Whoever changes columns has the table locked against everybody else until
 * then, so that the new columns get their own table of captured rows before
 * the first row with them is written.
 *
 * IDENTIFICATION
 *		src/jobs/job_stream_watch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "jobs/job_stream.h"

typedef enum NoteKind
{
	NOTE_COLUMNS,				/* of table relid */
	NOTE_TRUNCATED,				/* the source of stream job_id */
	NOTE_DETACHED,				/* it has lost its trigger */
	NOTE_ROLE_GONE,				/* owner, whose captures are to end */
	NOTE_ALL_GONE				/* of database relid, with it or with sabot */
} NoteKind;

/* Something that has happened; lives in TopTransactionContext. */
typedef struct Note
{
	NoteKind	kind;
	SubTransactionId subid;
	Oid			relid;
	int64		job_id;
	Oid			owner;			/* of the table that loses its trigger, or the
								 * role that is gone */
	bool		wakes;			/* the commit is to wake the stream */
	struct Note *next;			/* noted before */
} Note;

static Note *notes = NULL;
static object_access_hook_type prev_object_access = NULL;

/*
 * add_note - note something of the current subtransaction, once
 */
static void
add_note(NoteKind kind, Oid relid, int64 job_id, Oid owner)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Note	   *note;

	for (note = notes; note != NULL; note = note->next)
		if (note->kind == kind && note->subid == subid &&
			note->relid == relid && note->job_id == job_id &&
			note->owner == owner)
			return;
	note = MemoryContextAlloc(TopTransactionContext, sizeof(Note));
	note->kind = kind;
	note->subid = subid;
	note->relid = relid;
	note->job_id = job_id;
	note->owner = owner;
	note->wakes = false;
	note->next = notes;
	notes = note;
}

/*
 * note_truncated - a table is about to be truncated
 *
 * It may not be locked yet; then what happens to it until it is does not
 * matter, as the note is only for the reader.
 */
static void
note_truncated(Oid relid)
{
	Relation	rel = RelationIdGetRelation(relid);
	int64		job_id;

	if (rel == NULL)
		return;
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (!rel->trigdesc->triggers[i].tgisclone &&
			sabot_capture_trigger(&rel->trigdesc->triggers[i], &job_id))
			add_note(NOTE_TRUNCATED, relid, job_id, InvalidOid);
	RelationClose(rel);
}

/*
 * job_of_trigger - the stream whose trigger a row of pg_trigger is, 0 if none
 *
 * The triggers of partitions come and go with these.
 */
static int64
job_of_trigger(HeapTuple tuple)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	const char *name = NameStr(trigger->tgname);

	if (OidIsValid(trigger->tgparentid) ||
		strncmp(name, "sabot_stream_", strlen("sabot_stream_")) != 0 ||
		trigger->tgfoid != sabot_capture_function())
		return 0;
	return strtoi64(name + strlen("sabot_stream_"), NULL, 10);
}

/*
 * owner_of - the owner of a table
 */
static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/*
 * note_detached - a trigger is being dropped, alone or with its table
 */
static void
note_detached(Oid triggerid)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		job_id = 0;
	Oid			relid = InvalidOid;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(triggerid));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		job_id = job_of_trigger(tuple);
		relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (job_id != 0)
		add_note(NOTE_DETACHED, relid, job_id, owner_of(relid));
}

/*
 * note_extension - an extension is being dropped
 */
static void
note_extension(Oid extension)
{
	const char *name = get_extension_name(extension);

	if (name != NULL && strcmp(name, "sabot") == 0)
		add_note(NOTE_ALL_GONE, MyDatabaseId, 0, InvalidOid);
}

/*
 * watch_access - object access hook: notice what concerns captures
 */
static void
watch_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			 void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
	if (IsBootstrapProcessingMode() || !IsTransactionState())
		return;
	if (classId == RelationRelationId && access == OAT_TRUNCATE)
		note_truncated(objectId);
	else if (classId == RelationRelationId && subId > 0 &&
			 (access == OAT_POST_ALTER || access == OAT_POST_CREATE ||
			  access == OAT_DROP))
		add_note(NOTE_COLUMNS, objectId, 0, InvalidOid);
	else if (classId == TriggerRelationId && access == OAT_DROP)
		note_detached(objectId);
	else if (classId == AuthIdRelationId && access == OAT_DROP)
		add_note(NOTE_ROLE_GONE, InvalidOid, 0, objectId);
	else if (classId == DatabaseRelationId && access == OAT_DROP)
		add_note(NOTE_ALL_GONE, objectId, 0, InvalidOid);
	else if (classId == ExtensionRelationId && access == OAT_DROP)
		note_extension(objectId);
}

/*
 * follow_columns - see whether captures of a table need new columns
 */
static void
follow_columns(Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	int64	   *jobs;
	int			n = 0;

	if (rel == NULL)
		return;
	jobs = palloc(sizeof(int64) * (rel->trigdesc ? rel->trigdesc->numtriggers : 1));
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (sabot_capture_trigger(&rel->trigdesc->triggers[i], &jobs[n]))
			n++;
	for (int i = 0; i < n; i++)
		if (sabot_capture_reads(jobs[i], rel))
			(void) sabot_capture_follow(jobs[i], rel);
	relation_close(rel, NoLock);
}

/*
 * record_detached - write down that a stream's source has lost its trigger
 *
 * As record().  When the table is gone nobody can see anymore whose it was, and
 * it is not for its former owner to be given what others wrote.
 */
static void
record_detached(const Note *note)
{
	SabotJob   *job = sabot_job_read(note->job_id);

	if (job != NULL && !superuser_arg(job->owner) &&
		!has_privs_of_role(job->owner, note->owner))
		sabot_capture_note(note->job_id, SABOT_STREAM_TAKEN,
						   "Rows written before are handed over only if the table is there, and becomes the stream owner's again.");
	else
		sabot_capture_note(note->job_id, "trigger dropped",
						   "Rows written before are handed over, then the stream ends.");
}

/*
 * record - write down what has happened to a stream's source, and whether that
 * wakes the stream
 *
 * Anybody can attach such a trigger to a table of his own: that is none of the
 * stream's business.
 */
static void
record(Note *note)
{
	SabotStream *stream;
	SabotOwn	own;

	SPI_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	sabot_own_begin(&own);
	stream = sabot_stream_read(note->job_id);
	if (stream != NULL && stream->source == note->relid)
	{
		if (note->kind == NOTE_DETACHED)
			record_detached(note);
		else
			sabot_capture_note(note->job_id, "truncated",
							   "Rows written before are handed over.");
		note->wakes = note->kind == NOTE_DETACHED;
	}
	sabot_own_end(&own);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * act - do what is to be done before the transaction commits
 *
 * What the commit is to wake is only noted.
 */
static void
act(void)
{
	if (notes == NULL || sabot_catalog(true) == NULL)
		return;
	for (Note *note = notes; note != NULL; note = note->next)
	{
		if (note->kind == NOTE_ROLE_GONE || note->kind == NOTE_ALL_GONE)
			continue;
		if (note->kind == NOTE_COLUMNS)
		{
			PushActiveSnapshot(GetLatestSnapshot());
			follow_columns(note->relid);
			PopActiveSnapshot();
			continue;
		}
		record(note);
		if (note->wakes)
			sabot_capture_wake_begin(note->job_id);
	}
}

/*
 * sabot_capture_watch_end - the transaction ends, or is about to commit
 */
void
sabot_capture_watch_end(XactEvent event)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			act();
			if (notes != NULL && event == XACT_EVENT_PRE_PREPARE)
				sabot_pool_prepare_work();
			break;
		case XACT_EVENT_COMMIT:
			for (Note *note = notes; note != NULL; note = note->next)
				if (note->wakes)
					sabot_capture_wake(note->job_id);
				else if (note->kind == NOTE_ROLE_GONE)
					sabot_capture_owner_gone(note->owner);
				else if (note->kind == NOTE_ALL_GONE)
					sabot_capture_forget_all(note->relid);
			notes = NULL;
			break;
		default:
			notes = NULL;
			break;
	}
}

/*
 * sabot_capture_watch_subend - a subtransaction ends
 */
void
sabot_capture_watch_subend(SubXactEvent event, SubTransactionId subid,
						   SubTransactionId parent)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (notes != NULL && notes->subid == subid)
			notes = notes->next;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (Note *note = notes; note != NULL && note->subid == subid;
			 note = note->next)
			note->subid = parent;
	}
}

/*
 * sabot_capture_watch - install the hook
 */
void
sabot_capture_watch(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = watch_access;
}
