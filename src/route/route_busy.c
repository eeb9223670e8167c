/*-------------------------------------------------------------------------
 *
 * route_busy.c
 *		How many large queries run at once, and what that leaves for each.
 *
 * Spreading a query over agents makes it faster where there are processors
 * that have nothing to do.  Where as many large queries run as there are
 * processors it only adds work: each is best off alone.  So sessions count
 * themselves while they run one, and with others there a query takes no more
 * agents than there are processors left.
 *
 * IDENTIFICATION
 *		src/route/route_busy.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "storage/ipc.h"

#include "guc.h"
#include "route/route_task.h"

static int	depth = 0;			/* of our session's large queries */
static bool exit_registered = false;

/*
 * leave_at_exit - callback: a session that exits runs nothing anymore
 */
static void
leave_at_exit(int code, Datum arg)
{
	if (depth > 0)
		pg_atomic_fetch_sub_u32(&sabot_route_shared->running, 1);
	depth = 0;
}

/*
 * sabot_route_enter, sabot_route_leave - our session begins to run a large
 * query, and has done so, also after an error
 *
 * Those that it calls in turn do not count.
 */
void
sabot_route_enter(void)
{
	if (!exit_registered)
		before_shmem_exit(leave_at_exit, 0);
	exit_registered = true;
	if (depth++ == 0)
		pg_atomic_fetch_add_u32(&sabot_route_shared->running, 1);
}

void
sabot_route_leave(void)
{
	if (--depth == 0)
		pg_atomic_fetch_sub_u32(&sabot_route_shared->running, 1);
}

/*
 * processors - how many the machine has
 */
static int
processors(void)
{
	static int	n = 0;

	if (n == 0)
		n = Max(1, (int) sysconf(_SC_NPROCESSORS_ONLN));
	return n;
}

/*
 * sabot_route_fair_agents - how many of the agents a query is planned for it
 * may take now
 *
 * A query that is alone has all of them; so has one that shall be distributed
 * whatever it costs.
 */
int
sabot_route_fair_agents(int nplanned)
{
	int			others = (int) pg_atomic_read_u32(&sabot_route_shared->running) - 1;

	if (others <= 0 || sabot_execution == SABOT_EXECUTION_DISTRIBUTED)
		return nplanned;
	return Max(0, Min(nplanned, processors() - 1 - others));
}
