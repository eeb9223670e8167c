/*-------------------------------------------------------------------------
 *
 * route_test.c
 *		The self-test: do the server's internals behave as agents expect?
 *
 * What agents do to be parallel workers is nothing the core promises, and a
 * minor version may change it.  So before the first query runs on agents a
 * prober runs one with an agent of its database and compares the result with
 * its own.  If it is another one, or an error, or never comes, queries run as
 * without sabot until the server is restarted; and if the server does not
 * survive it, a file that is there only meanwhile tells the next one.
 *
 * IDENTIFICATION
 *		src/route/route_test.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "compat.h"
#include "route/route_task.h"

#define TEST_FILE		"pg_stat_tmp/sabot.self_test"

/* An agent has this long, in ms, to be idle, and then to do its part. */
#define TEST_WAIT_MS	1000
#define TEST_NAP_MS		10
#define TEST_TIMEOUT_MS	10000

/* How often an agent may be busy when it is to take part. */
#define TEST_TRIES		10

#define TEST_QUERY \
	"SELECT pg_catalog.count(*), pg_catalog.sum(c.oid::pg_catalog.int8)" \
	" FROM pg_catalog.pg_class AS c"

/*
 * set_trust - say what the self-test has found
 */
static void
set_trust(RouteTrust trust)
{
	pg_atomic_write_u32(&sabot_route_shared->trust, trust);
}

/*
 * sabot_route_test_startup - in the launcher: see whether the server before
 * this one died of its self-test
 */
void
sabot_route_test_startup(void)
{
	if (access(TEST_FILE, F_OK) != 0)
		return;
	set_trust(ROUTE_BROKEN);
	(void) unlink(TEST_FILE);
	ereport(WARNING,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("sabot will not run queries on agents"),
			 errdetail("The server stopped during the self-test."),
			 errhint("A restart tests it again.")));
}

/*
 * leave_note - make the file that tells of a self-test, or remove it
 */
static void
leave_note(bool testing)
{
	int			fd;

	if (!testing)
	{
		(void) unlink(TEST_FILE);
		return;
	}
	fd = OpenTransientFile(TEST_FILE, O_WRONLY | O_CREAT | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", TEST_FILE)));
	(void) pg_fsync(fd);
	CloseTransientFile(fd);
}

/*
 * set - set a setting until the end of the transaction
 */
static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * run - run the query of the self-test; returns its result as text
 */
static char *
run(SPIPlanPtr plan)
{
	char	   *result;

	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "query of the self-test has failed");
	result = psprintf("%s, %s",
					  SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
					  SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * prepare - prepare the query of the self-test
 */
static SPIPlanPtr
prepare(void)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(TEST_QUERY, 0, NULL,
										  CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		elog(ERROR, "query of the self-test could not be prepared");
	return plan;
}

/*
 * find_agent - an agent of our database that can take part in a query
 *
 * Of any role if *roleid is InvalidOid, else of that one.  Returns whether
 * there is one at all, with the role of one that is idle, or InvalidOid, in
 * *roleid.
 */
static bool
find_agent(Oid *roleid)
{
	SabotSlot  *slots = palloc(sizeof(SabotSlot) * sabot_pool_nslots());
	Oid			wanted = *roleid;
	bool		found = false;

	*roleid = InvalidOid;
	sabot_pool_copy_slots(slots);
	for (int i = 0; i < sabot_pool_nslots(); i++)
	{
		if (slots[i].dbid != MyDatabaseId || slots[i].crew != SABOT_AGENTS ||
			slots[i].stop ||
			(OidIsValid(wanted) && slots[i].roleid != wanted))
			continue;
		found = true;
		if (slots[i].parked)
			*roleid = slots[i].roleid;
	}
	pfree(slots);
	return found;
}

/*
 * await_agent - wait for an agent of our database to be idle, but not long
 *
 * Of any role if wanted is InvalidOid, else of that one.  Returns its role,
 * InvalidOid if there is none.
 */
static Oid
await_agent(Oid wanted)
{
	for (int ms = 0; ms < TEST_WAIT_MS; ms += TEST_NAP_MS)
	{
		Oid			roleid = wanted;

		if (!find_agent(&roleid) || OidIsValid(roleid))
			return roleid;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TEST_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return InvalidOid;
}

/*
 * run_together - run the query of the self-test with an agent of a role
 *
 * The agent may not yet be back from what it did last.  Returns NULL if none
 * took part for that or another reason.
 */
static char *
run_together(SPIPlanPtr plan, Oid roleid)
{
	for (int i = 0; i < TEST_TRIES; i++)
	{
		SabotRun	last;
		char	   *result;

		if (!OidIsValid(await_agent(roleid)))
			return NULL;
		result = run(plan);
		if (!sabot_route_last_run(&last))
			return NULL;
		if (last.route == SABOT_ROUTE_DISTRIBUTED)
			return result;
		if (last.reason != SABOT_REASON_NO_AGENT)
			return NULL;
	}
	return NULL;
}

/*
 * compare - run the query alone and with an agent of a role
 *
 * Settings that keep the server's queries from running on agents do not count:
 * a session may have others.  Returns false if no agent took part.  Raises an
 * error if the results differ.
 */
static bool
compare(Oid roleid)
{
	SPIPlanPtr	plan;
	char	   *alone;
	char	   *together;

	set("sabot.execution", "local");
	set("max_parallel_workers_per_gather", "0");
	alone = run(prepare());
	set("sabot.execution", "distributed");
	set("sabot.query_agents", "1");
	set("max_parallel_workers", "1024");
	set("max_parallel_workers_per_gather", "1");
	set("parallel_setup_cost", "0");
	set("parallel_tuple_cost", "0");
	set("parallel_leader_participation", "on");
	plan = prepare();
	(void) run(plan);

	/* We might be done before the agent begins: the same plan without us. */
	set("parallel_leader_participation", "off");
	together = run_together(plan, roleid);
	if (together == NULL)
		return false;
	if (strcmp(alone, together) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("an agent's result is not that of its session"),
				 errdetail("Result is %s instead of %s.", together, alone)));
	return true;
}

/*
 * test_with - run the self-test with an agent of a role, as that role
 *
 * Returns false if no agent took part.
 */
static bool
test_with(Oid roleid)
{
	Oid			userid;
	int			sec_context;
	bool		took_part;

	StartTransactionCommand();
	/* Whatever default_transaction_isolation says. */
	XactIsoLevel = XACT_READ_COMMITTED;
	PushActiveSnapshot(GetTransactionSnapshot());
	enable_timeout_after(STATEMENT_TIMEOUT, TEST_TIMEOUT_MS);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(roleid, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	sabot_route_test_begin(roleid);
	took_part = compare(roleid);
	sabot_route_test_end();
	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);
	disable_timeout(STATEMENT_TIMEOUT, false);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return took_part;
}

static bool testing = false;	/* our note says so */

/*
 * remove_note - callback at exit: a prober that is told to exit is no failure
 */
static void
remove_note(int code, Datum arg)
{
	if (testing)
		leave_note(false);
}

/*
 * set_testing - note that the test is under way, or is not anymore
 *
 * The callback stays: what the test runs has registered its own after it.
 */
static void
set_testing(bool on)
{
	static bool exit_registered = false;

	if (!exit_registered)
		before_shmem_exit(remove_note, 0);
	exit_registered = true;
	testing = on;
	leave_note(on);
}

/*
 * report_failure - turn off what the self-test has found not to work
 *
 * An agent that somebody has ended or canceled meanwhile tells nothing; the
 * self-test is left to a later prober then.
 */
static void
report_failure(MemoryContext context, TimestampTz began_at)
{
	ErrorData  *error;
	bool		by_somebody;

	MemoryContextSwitchTo(context);
	HOLD_INTERRUPTS();
	error = CopyErrorData();
	sabot_route_test_end();
	AbortCurrentTransaction();
	FlushErrorState();
	by_somebody = ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_OPERATOR_INTERVENTION &&
		!TimestampDifferenceExceeds(began_at, GetCurrentTimestamp(),
									TEST_TIMEOUT_MS);
	if (!by_somebody)
		set_trust(ROUTE_BROKEN);
	RESUME_INTERRUPTS();
	if (by_somebody)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("sabot will not run queries on agents"),
			 errdetail("The self-test failed: %s", error->message),
			 errhint("A restart tests it again.")));
}

/*
 * sabot_route_test - in a prober: run the self-test, if it has yet to be run
 *
 * In no transaction.  Without an idle agent it is left to a later prober.
 */
void
sabot_route_test(void)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz began_at = GetCurrentTimestamp();
	Oid			roleid = InvalidOid;

	if (pg_atomic_read_u32(&sabot_route_shared->trust) == ROUTE_UNTESTED &&
		!RecoveryInProgress())
		roleid = await_agent(InvalidOid);
	if (!OidIsValid(roleid))
		return;
	PG_TRY();
	{
		set_testing(true);
		if (test_with(roleid))
			set_trust(ROUTE_TRUSTED);
	}
	PG_CATCH();
	{
		report_failure(context, began_at);
	}
	PG_END_TRY();
	set_testing(false);
}
