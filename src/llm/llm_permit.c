/*-------------------------------------------------------------------------
 *
 * llm_permit.c
 *		Permits to send requests to a server.
 *
 * A model server has so many places, and a request too many only makes all of
 * them slower until they time out; so whoever sends a request first takes a
 * permit, in the whole instance, whatever database, role or name of the
 * endpoint.  Who waits stands in line: after each answer the one who waited
 * longest is next.
 *
 * Nobody gets one for what a breaker stops (llm_gate.c), but for the one
 * process that finds out whether it is back.
 *
 * A permit belongs to a process and goes with it.  If it ended in the middle
 * of a request the server may still be busy with it, so the next one to come
 * has to probe.
 *
 * IDENTIFICATION
 *		src/llm/llm_permit.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "llm/llm_shared.h"

SabotPermitShared *sabot_permits = NULL;
static SabotHolder *mine = NULL;

/*
 * sabot_permit_shmem_size - bytes of shared memory permits need
 */
Size
sabot_permit_shmem_size(void)
{
	return MAXALIGN(sizeof(SabotPermitShared));
}

/*
 * sabot_permit_shmem_init - create or attach to the permits
 *
 * Called with AddinShmemInitLock held.
 */
void
sabot_permit_shmem_init(void)
{
	bool		found;

	sabot_permits = ShmemInitStruct("sabot permits",
									sizeof(SabotPermitShared), &found);
	if (!found)
	{
		memset(sabot_permits, 0, sizeof(SabotPermitShared));
		sabot_permits->lock = &(GetNamedLWLockTranche("sabot")[4].lock);
	}
}

/*
 * is_used_locked - whether a server has requests open, or somebody waits for
 * a permit of it
 */
static bool
is_used_locked(const SabotServer *server)
{
	int			n = server - sabot_permits->servers;

	if (server->in_flight > 0)
		return true;
	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
		if (sabot_permits->holders[i].ticket != 0 &&
			sabot_permits->holders[i].server == n)
			return true;
	return false;
}

/*
 * find_server_locked - the entry of a server; NULL if there is none, or, with
 * enter, no room for one
 *
 * Room is made of what was not used for longest.  After a restart nobody knows
 * what the server is busy with: a new entry is suspect.
 */
static SabotServer *
find_server_locked(const char *origin, bool enter)
{
	SabotServer *oldest = NULL;

	for (int i = 0; i < SABOT_MAX_SERVERS; i++)
		if (strcmp(sabot_permits->servers[i].origin, origin) == 0)
			return &sabot_permits->servers[i];
	for (int i = 0; i < SABOT_MAX_SERVERS && enter; i++)
	{
		SabotServer *server = &sabot_permits->servers[i];

		if ((oldest == NULL || server->used_at < oldest->used_at) &&
			!is_used_locked(server))
			oldest = server;
	}
	if (oldest == NULL)
		return NULL;
	memset(oldest, 0, sizeof(*oldest));
	strlcpy(oldest->origin, origin, SABOT_ORIGIN_LEN);
	oldest->suspect = true;
	return oldest;
}

/*
 * limit_locked - requests a server may have open: the smallest limit in use
 */
static int
limit_locked(const SabotServer *server, int limit)
{
	int			n = server - sabot_permits->servers;

	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
	{
		SabotHolder *holder = &sabot_permits->holders[i];

		if (holder->pid != 0 && holder->server == n &&
			(holder->held > 0 || holder->ticket != 0))
			limit = limit == 0 ? holder->limit : Min(limit, holder->limit);
	}
	return limit;
}

/*
 * first_in_line_locked - who has waited longest for a permit of a server, or
 * NULL; *n counts them all
 */
static SabotHolder *
first_in_line_locked(const SabotServer *server, int *n)
{
	SabotHolder *first = NULL;

	*n = 0;
	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
	{
		SabotHolder *holder = &sabot_permits->holders[i];

		if (holder->ticket == 0 || &sabot_permits->servers[holder->server] != server)
			continue;
		(*n)++;
		if (first == NULL || holder->ticket < first->ticket)
			first = holder;
	}
	return first;
}

/*
 * wake_next_locked - let the next in line try
 */
static void
wake_next_locked(const SabotServer *server)
{
	int			n;
	SabotHolder *next = first_in_line_locked(server, &n);

	if (next)
		SetLatch(next->latch);
}

/*
 * sabot_permit_wake_all_locked - have everybody in line for a server look at
 * it again
 */
void
sabot_permit_wake_all_locked(const char *origin)
{
	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
	{
		SabotHolder *holder = &sabot_permits->holders[i];

		if (holder->ticket != 0 &&
			strcmp(sabot_permits->servers[holder->server].origin, origin) == 0)
			SetLatch(holder->latch);
	}
}

/*
 * free_holder_locked - a process has gone, or wants nothing anymore
 */
static void
free_holder_locked(SabotHolder *holder)
{
	SabotServer *server = &sabot_permits->servers[holder->server];

	sabot_gate_end_probe_locked(holder->pid);
	if (holder->held > 0)
	{
		server->in_flight -= holder->held;
		server->suspect = true;
	}
	memset(holder, 0, sizeof(*holder));
	wake_next_locked(server);
}

/*
 * permit_exit - exit callback: nothing is left of this process
 */
static void
permit_exit(int code, Datum arg)
{
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	if (mine && mine->pid == MyProcPid)
		free_holder_locked(mine);
	mine = NULL;
	LWLockRelease(sabot_permits->lock);
}

/*
 * become_holder - get the entry of this process
 *
 * Raises 53000 if there are too many.
 */
static void
become_holder(void)
{
	static bool registered = false;

	if (mine != NULL)
		return;
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_HOLDERS && mine == NULL; i++)
		if (sabot_permits->holders[i].pid == 0)
			mine = &sabot_permits->holders[i];
	if (mine)
	{
		memset(mine, 0, sizeof(*mine));
		mine->pid = MyProcPid;
		mine->latch = MyLatch;
	}
	LWLockRelease(sabot_permits->lock);
	if (mine == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many processes use model servers"),
				 errdetail("At most %d can at once.", SABOT_MAX_HOLDERS)));
	if (!registered)
		on_shmem_exit(permit_exit, 0);
	registered = true;
}

/*
 * stop_holding_locked - give back the entry of this process if it is not used
 *
 * A session that has asked once must not keep it until its end.
 */
static void
stop_holding_locked(void)
{
	if (mine->held > 0 || mine->ticket != 0 || mine->activity.job_id != 0)
		return;
	memset(mine, 0, sizeof(*mine));
	mine = NULL;
}

/*
 * take_locked - take a permit if there is one and nobody waited longer
 */
static bool
take_locked(SabotServer *server, int limit)
{
	int			n;
	SabotHolder *first = first_in_line_locked(server, &n);

	if (server->in_flight >= limit_locked(server, limit) ||
		(first != NULL && first != mine))
		return false;
	server->in_flight++;
	server->most_in_flight = Max(server->most_in_flight, server->in_flight);
	mine->ticket = 0;
	mine->held++;
	if (n > 1)
		wake_next_locked(server);
	return true;
}

/*
 * uses_other_locked - whether this process has permits of another server, or
 * waits for one
 *
 * A trigger of a worker's target can submit a job to any endpoint.
 */
static bool
uses_other_locked(const SabotServer *server)
{
	return (mine->held > 0 || mine->ticket != 0) &&
		&sabot_permits->servers[mine->server] != server;
}

/*
 * leave_line_locked - this process waits no longer; whoever is first now may
 * have been waiting for us
 */
static void
leave_line_locked(void)
{
	if (mine->ticket == 0)
		return;
	mine->ticket = 0;
	wake_next_locked(&sabot_permits->servers[mine->server]);
}

/*
 * sabot_permit_take - ask for the permit to send one request to the server of
 * an endpoint
 *
 * model is the model it is for, or NULL.  With wait, a caller who gets none
 * stands in line until it gets one or calls sabot_permit_leave_line().  A
 * process uses one server at a time: others are busy as far as it can tell,
 * and it does not stand in their lines.  Raises 53000 if there are too many
 * servers or processes.
 */
SabotGate
sabot_permit_take(const SabotEndpoint *endpoint, const char *model, bool wait,
				  TimestampTz *next_probe)
{
	TimestampTz now = GetCurrentTimestamp();
	SabotGate	result = SABOT_GATE_BUSY;
	SabotServer *server;
	bool		probe = false;
	bool		stopped;

	become_holder();
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	server = find_server_locked(endpoint->origin, true);
	stopped = sabot_gate_stops_locked(endpoint, model, now, next_probe, &probe);
	if (server != NULL && !stopped && !uses_other_locked(server))
	{
		mine->server = server - sabot_permits->servers;
		mine->limit = endpoint->max_in_flight;
		server->used_at = now;
		if (take_locked(server, endpoint->max_in_flight))
			result = probe || server->suspect ? SABOT_GATE_PROBE : SABOT_GATE_OPEN;
		else if (wait && mine->ticket == 0)
			mine->ticket = ++sabot_permits->next_ticket;
		if (result == SABOT_GATE_PROBE)
			sabot_gate_begin_probe_locked(endpoint, model);
	}
	else if (stopped)
	{
		if (server != NULL && !uses_other_locked(server))
			leave_line_locked();
		result = SABOT_GATE_CLOSED;
	}
	stop_holding_locked();
	LWLockRelease(sabot_permits->lock);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many model servers are in use"),
				 errdetail("At most %d can be at once.", SABOT_MAX_SERVERS)));
	return result;
}

/*
 * sabot_permit_give - give back a permit, after the request has ended
 */
void
sabot_permit_give(const char *origin)
{
	SabotServer *server;

	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, false);
	if (server && mine && mine->held > 0)
	{
		mine->held--;
		server->in_flight--;
		sabot_gate_end_probe_locked(mine->pid);
		wake_next_locked(server);
		stop_holding_locked();
	}
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_permit_give_all - give back whatever permits this process has, and
 * its place in the line
 *
 * For who was interrupted and does not know how far it had come.  The server
 * may be busy with what it was asked last.
 */
void
sabot_permit_give_all(void)
{
	SabotServer *server;

	if (mine == NULL)
		return;
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	server = &sabot_permits->servers[mine->server];
	if (mine->held > 0)
	{
		server->in_flight -= mine->held;
		server->suspect = true;
	}
	if (mine->held > 0 || mine->ticket != 0)
	{
		mine->held = 0;
		mine->ticket = 0;
		sabot_gate_end_probe_locked(mine->pid);
		wake_next_locked(server);
	}
	stop_holding_locked();
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_permit_leave_line - stop waiting for a permit
 */
void
sabot_permit_leave_line(void)
{
	if (mine == NULL)
		return;
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	leave_line_locked();
	stop_holding_locked();
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_permit_suspect - the next request to a server is to be preceded by a
 * probe: it may still be busy with one that was given up
 */
void
sabot_permit_suspect(const char *origin, bool suspect)
{
	SabotServer *server;

	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, false);
	if (server)
		server->suspect = suspect;
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_permit_free_dead - free what processes have left that are gone
 */
void
sabot_permit_free_dead(void)
{
	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
	{
		pid_t		pid;

		LWLockAcquire(sabot_permits->lock, LW_SHARED);
		pid = sabot_permits->holders[i].pid;
		LWLockRelease(sabot_permits->lock);
		if (pid == 0 || BackendPidGetProc(pid) != NULL)
			continue;
		LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
		if (sabot_permits->holders[i].pid == pid)
			free_holder_locked(&sabot_permits->holders[i]);
		LWLockRelease(sabot_permits->lock);
	}
}

/*
 * sabot_permit_note_request - count a request that was sent
 */
void
sabot_permit_note_request(const char *origin, bool new_connection)
{
	SabotServer *server;

	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, true);
	if (server)
	{
		server->requests++;
		server->connections += new_connection;
	}
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_server_state - what is known of the server of an endpoint; false if it
 * was not used
 */
bool
sabot_server_state(const SabotEndpoint *endpoint, SabotServerState *state)
{
	SabotServer *server;
	const SabotBreaker *gate;

	memset(state, 0, sizeof(*state));
	if (sabot_permits == NULL)
		return false;
	LWLockAcquire(sabot_permits->lock, LW_SHARED);
	server = find_server_locked(endpoint->origin, false);
	gate = sabot_gate_closed_locked(endpoint, NULL);
	if (server)
	{
		strlcpy(state->origin, server->origin, SABOT_ORIGIN_LEN);
		state->in_flight = server->in_flight;
		state->most_in_flight = server->most_in_flight;
		state->limit = limit_locked(server, 0);
		(void) first_in_line_locked(server, &state->in_line);
		state->suspect = server->suspect;
		state->requests = server->requests;
		state->connections = server->connections;
	}
	if (gate)
	{
		state->next_probe = gate->next_probe;
		state->faults = gate->faults;
		strlcpy(state->error, gate->error, SABOT_FAULT_LEN);
	}
	LWLockRelease(sabot_permits->lock);
	return server != NULL || gate != NULL;
}

/*
 * sabot_activity_set - publish what this process does
 */
void
sabot_activity_set(const SabotLlmActivity *activity)
{
	become_holder();
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	mine->activity = *activity;
	stop_holding_locked();
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_activity_copy - what all processes do; returns how many there are
 *
 * The array is palloc'd.
 */
int
sabot_activity_copy(SabotLlmActivity **activities)
{
	int			n = 0;

	*activities = palloc(sizeof(SabotLlmActivity) * SABOT_MAX_HOLDERS);
	if (sabot_permits == NULL)
		return 0;
	LWLockAcquire(sabot_permits->lock, LW_SHARED);
	for (int i = 0; i < SABOT_MAX_HOLDERS; i++)
		if (sabot_permits->holders[i].pid != 0 &&
			sabot_permits->holders[i].activity.job_id != 0)
			(*activities)[n++] = sabot_permits->holders[i].activity;
	LWLockRelease(sabot_permits->lock);
	return n;
}
