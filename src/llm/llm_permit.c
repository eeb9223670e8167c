/*-------------------------------------------------------------------------
 *
 * llm_permit.c
 *		Permits to send requests to a server, and breakers that stop it.
 *
 * A model server has so many places, and a request too many only makes all of
 * them slower until they time out; so whoever sends a request first takes a
 * permit, in the whole instance, whatever database, role or name of the
 * endpoint.  Who waits stands in line: after each answer the one who waited
 * longest is next.
 *
 * A server that refuses connections is no fault of the rows: it is stopped
 * for a time that doubles, and then one process, alone, finds out whether it
 * is back.  The same for one model of a server.
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

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "llm/llm.h"

#define MAX_SERVERS		64
#define MAX_GATES		128
#define MAX_HOLDERS		128

/* How long a server is stopped at first and at most, in ms. */
#define FIRST_STOP_MS	INT64CONST(5000)
#define LONGEST_STOP_MS INT64CONST(300000)

/* While another process probes, look again after this, in ms. */
#define PROBING_MS		1000

/* A server that is or was in use. */
typedef struct Server
{
	char		origin[SABOT_ORIGIN_LEN];	/* "" = free */
	int			in_flight;
	int			most_in_flight;
	bool		suspect;		/* somebody left in the middle of a request */
	int64		requests;
	int64		connections;
	TimestampTz used_at;
} Server;

/* A breaker: of a server, or of a model on it. */
typedef struct Gate
{
	char		origin[SABOT_ORIGIN_LEN];	/* "" = free */
	char		model[SABOT_MODEL_LEN]; /* "" = the server itself */
	int			faults;			/* in a row */
	TimestampTz fault_at;		/* the last of them */
	TimestampTz next_probe;		/* 0 = not stopped */
	pid_t		prober;			/* who finds out, 0 = nobody */
	char		error[SABOT_FAULT_LEN];
} Gate;

/* A process that has permits or waits for one, of one server at a time. */
typedef struct Holder
{
	pid_t		pid;			/* 0 = free */
	Latch	   *latch;
	int			server;			/* index, valid if held or ticket */
	int			held;
	int			limit;			/* the process's own */
	uint64		ticket;			/* place in the line, 0 = not in it */
	SabotLlmActivity activity;
} Holder;

/* Everything is protected by lock. */
typedef struct PermitShared
{
	LWLock	   *lock;
	uint64		next_ticket;
	Server		servers[MAX_SERVERS];
	Gate		gates[MAX_GATES];
	Holder		holders[MAX_HOLDERS];
} PermitShared;

static PermitShared *shared = NULL;
static Holder *mine = NULL;

/*
 * sabot_permit_shmem_size - bytes of shared memory permits need
 */
Size
sabot_permit_shmem_size(void)
{
	return MAXALIGN(sizeof(PermitShared));
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

	shared = ShmemInitStruct("sabot permits", sizeof(PermitShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(PermitShared));
		shared->lock = &(GetNamedLWLockTranche("sabot")[4].lock);
	}
}

/*
 * find_server_locked - the entry of a server; NULL if there is none, or, with
 * enter, no room for one
 *
 * After a restart nobody knows what the server is busy with: a new entry is
 * suspect.
 */
static Server *
find_server_locked(const char *origin, bool enter)
{
	Server	   *oldest = NULL;

	for (int i = 0; i < MAX_SERVERS; i++)
	{
		Server	   *server = &shared->servers[i];

		if (strcmp(server->origin, origin) == 0)
			return server;
		if (server->in_flight == 0 &&
			(oldest == NULL || server->used_at < oldest->used_at))
			oldest = server;
	}
	if (!enter || oldest == NULL)
		return NULL;
	for (int i = 0; i < MAX_HOLDERS; i++)
		if (shared->holders[i].ticket != 0 &&
			&shared->servers[shared->holders[i].server] == oldest)
			return NULL;
	memset(oldest, 0, sizeof(*oldest));
	strlcpy(oldest->origin, origin, SABOT_ORIGIN_LEN);
	oldest->suspect = true;
	return oldest;
}

/*
 * find_gate_locked - the breaker of a server, or of a model on it; NULL if it
 * has none, or, with enter, if all are in use
 */
static Gate *
find_gate_locked(const char *origin, const char *model, bool enter)
{
	Gate	   *soonest = NULL;
	char		name[SABOT_MODEL_LEN];

	strlcpy(name, model ? model : "", sizeof(name));
	for (int i = 0; i < MAX_GATES; i++)
	{
		Gate	   *gate = &shared->gates[i];

		if (strcmp(gate->origin, origin) == 0 && strcmp(gate->model, name) == 0)
			return gate;
		if (soonest == NULL || gate->next_probe < soonest->next_probe)
			soonest = gate;
	}
	if (!enter)
		return NULL;
	memset(soonest, 0, sizeof(*soonest));
	strlcpy(soonest->origin, origin, SABOT_ORIGIN_LEN);
	strlcpy(soonest->model, name, SABOT_MODEL_LEN);
	return soonest;
}

/*
 * limit_locked - requests a server may have open: the smallest limit in use
 */
static int
limit_locked(const Server *server, int limit)
{
	int			n = server - shared->servers;

	for (int i = 0; i < MAX_HOLDERS; i++)
	{
		Holder	   *holder = &shared->holders[i];

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
static Holder *
first_in_line_locked(const Server *server, int *n)
{
	Holder	   *first = NULL;

	*n = 0;
	for (int i = 0; i < MAX_HOLDERS; i++)
	{
		Holder	   *holder = &shared->holders[i];

		if (holder->ticket == 0 || &shared->servers[holder->server] != server)
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
wake_next_locked(const Server *server)
{
	int			n;
	Holder	   *next = first_in_line_locked(server, &n);

	if (next)
		SetLatch(next->latch);
}

/*
 * wake_all_locked - have everybody in line for a server look at it again
 */
static void
wake_all_locked(const char *origin)
{
	for (int i = 0; i < MAX_HOLDERS; i++)
	{
		Holder	   *holder = &shared->holders[i];

		if (holder->ticket != 0 &&
			strcmp(shared->servers[holder->server].origin, origin) == 0)
			SetLatch(holder->latch);
	}
}

/*
 * stop_probing_locked - a process no longer finds out about any breaker
 */
static void
stop_probing_locked(pid_t pid)
{
	for (int i = 0; i < MAX_GATES; i++)
		if (shared->gates[i].prober == pid)
			shared->gates[i].prober = 0;
}

/*
 * free_holder_locked - a process has gone, or wants nothing anymore
 */
static void
free_holder_locked(Holder *holder)
{
	Server	   *server = &shared->servers[holder->server];

	stop_probing_locked(holder->pid);
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
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (mine && mine->pid == MyProcPid)
		free_holder_locked(mine);
	mine = NULL;
	LWLockRelease(shared->lock);
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
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_HOLDERS && mine == NULL; i++)
		if (shared->holders[i].pid == 0)
			mine = &shared->holders[i];
	if (mine)
	{
		memset(mine, 0, sizeof(*mine));
		mine->pid = MyProcPid;
		mine->latch = MyLatch;
	}
	LWLockRelease(shared->lock);
	if (mine == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many processes use model servers"),
				 errdetail("At most %d can at once.", MAX_HOLDERS)));
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
 * gate_stops_locked - whether a breaker keeps the calling process out
 *
 * Sets *next_probe if so, and *probe if the caller is the one to find out
 * whether it can be closed.
 */
static bool
gate_stops_locked(Gate *gate, TimestampTz now, TimestampTz *next_probe,
				  bool *probe)
{
	if (gate == NULL || gate->next_probe == 0)
		return false;
	if (gate->next_probe > now)
	{
		*next_probe = gate->next_probe;
		return true;
	}
	if (gate->prober != 0 && gate->prober != MyProcPid)
	{
		*next_probe = TimestampTzPlusMilliseconds(now, PROBING_MS);
		return true;
	}
	*probe = true;
	return false;
}

/*
 * take_locked - take a permit if there is one and nobody waited longer
 */
static bool
take_locked(Server *server, int limit)
{
	int			n;
	Holder	   *first = first_in_line_locked(server, &n);

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
uses_other_locked(const Server *server)
{
	return (mine->held > 0 || mine->ticket != 0) &&
		&shared->servers[mine->server] != server;
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
	wake_next_locked(&shared->servers[mine->server]);
}

/*
 * sabot_permit_take - ask for the permit to send one request to a server
 *
 * model is the model it is for, or NULL; limit how many requests may be open
 * as far as the caller's endpoint says.  With wait, a caller who gets none
 * stands in line until it gets one or calls sabot_permit_leave_line().  A
 * process uses one server at a time: others are busy as far as it can tell,
 * and it does not stand in their lines.
 */
SabotGate
sabot_permit_take(const char *origin, const char *model, int limit,
				  bool wait, TimestampTz *next_probe)
{
	TimestampTz now = GetCurrentTimestamp();
	SabotGate	result = SABOT_GATE_BUSY;
	Server	   *server;
	Gate	   *gates[2];
	bool		probe = false;
	bool		stopped = false;

	become_holder();
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, true);
	gates[0] = find_gate_locked(origin, NULL, false);
	gates[1] = model ? find_gate_locked(origin, model, false) : NULL;
	for (int i = 0; i < lengthof(gates) && !stopped; i++)
		stopped = gate_stops_locked(gates[i], now, next_probe, &probe);
	if (server != NULL && !stopped && !uses_other_locked(server))
	{
		mine->server = server - shared->servers;
		mine->limit = limit;
		server->used_at = now;
		if (take_locked(server, limit))
			result = probe || server->suspect ? SABOT_GATE_PROBE : SABOT_GATE_OPEN;
		else if (wait && mine->ticket == 0)
			mine->ticket = ++shared->next_ticket;
		for (int i = 0; i < lengthof(gates) && result == SABOT_GATE_PROBE; i++)
			if (gates[i] && gates[i]->next_probe != 0)
				gates[i]->prober = MyProcPid;
	}
	else if (stopped)
	{
		if (server != NULL && !uses_other_locked(server))
			leave_line_locked();
		result = SABOT_GATE_CLOSED;
	}
	stop_holding_locked();
	LWLockRelease(shared->lock);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many model servers are in use"),
				 errdetail("At most %d can be at once.", MAX_SERVERS)));
	return result;
}

/*
 * sabot_permit_give - give back a permit, after the request has ended
 */
void
sabot_permit_give(const char *origin)
{
	Server	   *server;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, false);
	if (server && mine && mine->held > 0)
	{
		mine->held--;
		server->in_flight--;
		stop_probing_locked(mine->pid);
		wake_next_locked(server);
		stop_holding_locked();
	}
	LWLockRelease(shared->lock);
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
	Server	   *server;

	if (mine == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = &shared->servers[mine->server];
	if (mine->held > 0)
	{
		server->in_flight -= mine->held;
		server->suspect = true;
	}
	if (mine->held > 0 || mine->ticket != 0)
	{
		mine->held = 0;
		mine->ticket = 0;
		stop_probing_locked(mine->pid);
		wake_next_locked(server);
	}
	stop_holding_locked();
	LWLockRelease(shared->lock);
}

/*
 * sabot_permit_leave_line - stop waiting for a permit
 */
void
sabot_permit_leave_line(void)
{
	if (mine == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	leave_line_locked();
	stop_holding_locked();
	LWLockRelease(shared->lock);
}

/*
 * sabot_permit_suspect - the next request to a server is to be preceded by a
 * probe: it may still be busy with one that was given up
 */
void
sabot_permit_suspect(const char *origin, bool suspect)
{
	Server	   *server;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, false);
	if (server)
		server->suspect = suspect;
	LWLockRelease(shared->lock);
}

/*
 * sabot_permit_free_dead - free what processes have left that are gone
 */
void
sabot_permit_free_dead(void)
{
	for (int i = 0; i < MAX_HOLDERS; i++)
	{
		pid_t		pid;

		LWLockAcquire(shared->lock, LW_SHARED);
		pid = shared->holders[i].pid;
		LWLockRelease(shared->lock);
		if (pid == 0 || BackendPidGetProc(pid) != NULL)
			continue;
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		if (shared->holders[i].pid == pid)
			free_holder_locked(&shared->holders[i]);
		LWLockRelease(shared->lock);
	}
}

/*
 * sabot_gate_fault - stop a server, or with model a model on it
 *
 * For longer each time; for as long as the server has asked for, if it has.
 */
void
sabot_gate_fault(const char *origin, const char *model, const char *error,
				 int retry_after_s)
{
	TimestampTz now = GetCurrentTimestamp();
	char		clipped[SABOT_FAULT_LEN];
	int			len = pg_mbcliplen(error, strlen(error), SABOT_FAULT_LEN - 1);
	int64		stop_ms;
	Gate	   *gate;

	memcpy(clipped, error, len);
	clipped[len] = '\0';
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	gate = find_gate_locked(origin, model, true);
	if (gate->next_probe == 0 &&
		TimestampDifferenceExceeds(gate->fault_at, now, 2 * LONGEST_STOP_MS))
		gate->faults = 0;
	gate->faults++;
	gate->fault_at = now;
	stop_ms = Min(FIRST_STOP_MS << Min(gate->faults - 1, 10), LONGEST_STOP_MS);
	stop_ms = Max(stop_ms, Min(retry_after_s * INT64CONST(1000), LONGEST_STOP_MS));
	gate->next_probe = TimestampTzPlusMilliseconds(now, stop_ms);
	gate->prober = 0;
	memcpy(gate->error, clipped, len + 1);
	wake_all_locked(origin);
	LWLockRelease(shared->lock);
}

/*
 * sabot_gate_good - a server has answered, and with model the model on it has
 *
 * If that was not for an item it is only not stopped anymore: should the next
 * request fail it is stopped for longer than before, as many servers answer a
 * probe and refuse all else.  Returns whether others may go on since.
 */
bool
sabot_gate_good(const char *origin, const char *model, bool for_item)
{
	const char *const models[] = {NULL, model};
	Server	   *server;
	bool		news = false;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, false);
	if (server && !for_item)
		server->suspect = false;
	for (int i = 0; i < (model ? 2 : 1); i++)
	{
		Gate	   *gate = find_gate_locked(origin, models[i], false);

		if (gate == NULL || (gate->next_probe != 0) == for_item)
			continue;
		if (for_item)
			memset(gate, 0, sizeof(Gate));
		else
			gate->next_probe = gate->prober = 0;
		news |= !for_item;
	}
	if (news)
		wake_all_locked(origin);
	LWLockRelease(shared->lock);
	return news;
}

/*
 * sabot_gate_is_closed - whether a server, or a model on it, is stopped, or
 * somebody else is finding out whether it still is
 *
 * Then *next_probe says until when and error, of SABOT_FAULT_LEN bytes, why.
 * Both may be NULL.
 */
bool
sabot_gate_is_closed(const char *origin, const char *model,
					 TimestampTz *next_probe, char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *const models[] = {NULL, model};
	TimestampTz until = 0;
	bool		probe;
	bool		closed = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < (model ? 2 : 1) && !closed; i++)
	{
		Gate	   *gate = find_gate_locked(origin, models[i], false);

		closed = gate_stops_locked(gate, now, &until, &probe);
		if (closed && next_probe)
			*next_probe = until;
		if (closed && error)
			strlcpy(error, gate->error, SABOT_FAULT_LEN);
	}
	LWLockRelease(shared->lock);
	return closed;
}

/*
 * sabot_permit_note_request - count a request that was sent
 */
void
sabot_permit_note_request(const char *origin, bool new_connection)
{
	Server	   *server;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	server = find_server_locked(origin, true);
	if (server)
	{
		server->requests++;
		server->connections += new_connection;
	}
	LWLockRelease(shared->lock);
}

/*
 * sabot_server_state - what is known of a server; false if it was not used
 */
bool
sabot_server_state(const char *origin, SabotServerState *state)
{
	Server	   *server;
	Gate	   *gate;

	memset(state, 0, sizeof(*state));
	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	server = find_server_locked(origin, false);
	gate = find_gate_locked(origin, NULL, false);
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
	if (gate && gate->next_probe != 0)
	{
		state->next_probe = gate->next_probe;
		state->faults = gate->faults;
		strlcpy(state->error, gate->error, SABOT_FAULT_LEN);
	}
	LWLockRelease(shared->lock);
	return server != NULL || gate != NULL;
}

/*
 * sabot_gate_copy - the models of a server that are stopped; returns how many
 *
 * The array is palloc'd.
 */
int
sabot_gate_copy(const char *origin, char (**models)[SABOT_MODEL_LEN])
{
	int			n = 0;

	*models = palloc(MAX_GATES * sizeof(**models));
	if (shared == NULL)
		return 0;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_GATES; i++)
	{
		const Gate *gate = &shared->gates[i];

		if (gate->next_probe != 0 && gate->model[0] != '\0' &&
			strcmp(gate->origin, origin) == 0)
			strlcpy((*models)[n++], gate->model, SABOT_MODEL_LEN);
	}
	LWLockRelease(shared->lock);
	return n;
}

/*
 * sabot_activity_set - publish what this process does
 */
void
sabot_activity_set(const SabotLlmActivity *activity)
{
	become_holder();
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	mine->activity = *activity;
	stop_holding_locked();
	LWLockRelease(shared->lock);
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

	*activities = palloc(sizeof(SabotLlmActivity) * MAX_HOLDERS);
	if (shared == NULL)
		return 0;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_HOLDERS; i++)
		if (shared->holders[i].pid != 0 &&
			shared->holders[i].activity.job_id != 0)
			(*activities)[n++] = shared->holders[i].activity;
	LWLockRelease(shared->lock);
	return n;
}
