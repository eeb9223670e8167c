/*-------------------------------------------------------------------------
 *
 * llm_gate.c
 *		Breakers: what stops a server, an endpoint, or a model on a server.
 *
 * A server that refuses connections is no fault of the rows: it is stopped
 * for a time that doubles, and then one process, alone, finds out whether it
 * is back.  The same for one model of a server, and for an endpoint whose
 * token is refused: others have tokens of their own for the same server.
 *
 * What a breaker says is for everybody who uses the server, so it has nothing
 * of anybody's rows in it.
 *
 * IDENTIFICATION
 *		src/llm/llm_gate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "llm/llm.h"
#include "llm/llm_shared.h"

/* How long a server is stopped at first and at most, in ms. */
#define FIRST_STOP_MS	INT64CONST(5000)
#define LONGEST_STOP_MS INT64CONST(300000)

/* While another process probes, look again after this, in ms. */
#define PROBING_MS		1000

/*
 * is_gate - whether this is the breaker of that kind for an endpoint and a
 * model
 */
static bool
is_gate(const SabotBreaker *gate, SabotGateKind kind,
		const SabotEndpoint *endpoint, const char *model)
{
	if (gate->kind != kind)
		return false;
	if (kind == SABOT_GATE_OF_ENDPOINT)
		return gate->dbid == MyDatabaseId &&
			strcmp(gate->name, endpoint->name) == 0;
	return strcmp(gate->origin, endpoint->origin) == 0 &&
		(kind == SABOT_GATE_OF_SERVER ||
		 strncmp(gate->name, model, SABOT_MODEL_LEN - 1) == 0);
}

/*
 * find_gate_locked - the breaker of that kind for an endpoint and a model, or
 * NULL
 *
 * There is none of a server as long as that is not known, nor of a model if
 * there is no model.
 */
static SabotBreaker *
find_gate_locked(SabotGateKind kind, const SabotEndpoint *endpoint,
				 const char *model)
{
	if (kind == SABOT_GATE_FREE ||
		(kind == SABOT_GATE_OF_MODEL && model == NULL) ||
		(kind != SABOT_GATE_OF_ENDPOINT && endpoint->origin == NULL))
		return NULL;
	for (int i = 0; i < SABOT_MAX_GATES; i++)
		if (is_gate(&sabot_permits->gates[i], kind, endpoint, model))
			return &sabot_permits->gates[i];
	return NULL;
}

/*
 * enter_gate_locked - as find_gate_locked(), but make one if there is none
 *
 * If all are in use, of the one that is to be probed soonest.
 */
static SabotBreaker *
enter_gate_locked(SabotGateKind kind, const SabotEndpoint *endpoint,
				  const char *model)
{
	SabotBreaker *gate = find_gate_locked(kind, endpoint, model);

	if (gate != NULL)
		return gate;
	gate = &sabot_permits->gates[0];
	for (int i = 1; i < SABOT_MAX_GATES; i++)
		if (sabot_permits->gates[i].next_probe < gate->next_probe)
			gate = &sabot_permits->gates[i];
	memset(gate, 0, sizeof(*gate));
	gate->kind = kind;
	if (kind == SABOT_GATE_OF_ENDPOINT)
	{
		gate->dbid = MyDatabaseId;
		strlcpy(gate->name, endpoint->name, sizeof(gate->name));
		return gate;
	}
	strlcpy(gate->origin, endpoint->origin, sizeof(gate->origin));
	if (kind == SABOT_GATE_OF_MODEL)
		strlcpy(gate->name, model, sizeof(gate->name));
	return gate;
}

/*
 * gate_stops_locked - whether a breaker keeps the calling process out
 *
 * Sets *next_probe if so, and *probe if the caller is the one to find out
 * whether it can be closed.
 */
static bool
gate_stops_locked(const SabotBreaker *gate, TimestampTz now,
				  TimestampTz *next_probe, bool *probe)
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
 * sabot_gate_stops_locked - whether any breaker keeps the calling process out
 *
 * model may be NULL.  Sets *next_probe if so; else *probe, if the caller is the
 * one to find out whether one can be closed.
 */
bool
sabot_gate_stops_locked(const SabotEndpoint *endpoint, const char *model,
						TimestampTz now, TimestampTz *next_probe, bool *probe)
{
	for (SabotGateKind kind = 0; kind < SABOT_NGATE_KINDS; kind++)
		if (gate_stops_locked(find_gate_locked(kind, endpoint, model), now,
							  next_probe, probe))
			return true;
	return false;
}

/*
 * sabot_gate_closed_locked - a breaker that stops an endpoint or a model of
 * its server, be its time over; NULL if there is none
 */
const SabotBreaker *
sabot_gate_closed_locked(const SabotEndpoint *endpoint, const char *model)
{
	for (SabotGateKind kind = 0; kind < SABOT_NGATE_KINDS; kind++)
	{
		SabotBreaker *gate = find_gate_locked(kind, endpoint, model);

		if (gate && gate->next_probe != 0)
			return gate;
	}
	return NULL;
}

/*
 * sabot_gate_begin_probe_locked - the calling process finds out whether what
 * is stopped is back
 */
void
sabot_gate_begin_probe_locked(const SabotEndpoint *endpoint, const char *model)
{
	for (SabotGateKind kind = 0; kind < SABOT_NGATE_KINDS; kind++)
	{
		SabotBreaker *gate = find_gate_locked(kind, endpoint, model);

		if (gate && gate->next_probe != 0)
			gate->prober = MyProcPid;
	}
}

/*
 * sabot_gate_end_probe_locked - a process no longer finds out about any
 * breaker
 */
void
sabot_gate_end_probe_locked(pid_t pid)
{
	for (int i = 0; i < SABOT_MAX_GATES; i++)
		if (sabot_permits->gates[i].prober == pid)
			sabot_permits->gates[i].prober = 0;
}

/*
 * kind_of_fault - what a fault stops
 */
static SabotGateKind
kind_of_fault(SabotFault fault)
{
	switch (fault)
	{
		case SABOT_FAULT_MODEL:
			return SABOT_GATE_OF_MODEL;
		case SABOT_FAULT_ACCESS:
			return SABOT_GATE_OF_ENDPOINT;
		default:
			return SABOT_GATE_OF_SERVER;
	}
}

/*
 * sabot_gate_fault - stop a server, a model on it, or an endpoint, as the
 * fault is
 *
 * For longer each time; for as long as the server has asked for, in s, if it
 * has.  Of an endpoint whose token cannot be read the origin may be NULL.
 */
void
sabot_gate_fault(const SabotEndpoint *endpoint, const char *model,
				 SabotFault fault, const char *error, int retry_after_s)
{
	TimestampTz now = GetCurrentTimestamp();
	char		clipped[SABOT_FAULT_LEN];
	int			len = pg_mbcliplen(error, strlen(error), SABOT_FAULT_LEN - 1);
	int64		stop_ms;
	SabotBreaker *gate;

	memcpy(clipped, error, len);
	clipped[len] = '\0';
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	gate = enter_gate_locked(kind_of_fault(fault), endpoint, model);
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
	if (endpoint->origin)
		sabot_permit_wake_all_locked(endpoint->origin);
	LWLockRelease(sabot_permits->lock);
}

/*
 * sabot_gate_good - a server has answered an endpoint, and with model the
 * model on it has
 *
 * If that was not for an item it is only not stopped anymore: should the next
 * request fail it is stopped for longer than before, as many servers answer a
 * probe and refuse all else.  Returns whether others may go on since.
 */
bool
sabot_gate_good(const SabotEndpoint *endpoint, const char *model, bool for_item)
{
	bool		news = false;

	if (!for_item)
		sabot_permit_suspect(endpoint->origin, false);
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	for (SabotGateKind kind = 0; kind < SABOT_NGATE_KINDS; kind++)
	{
		SabotBreaker *gate = find_gate_locked(kind, endpoint, model);

		if (gate == NULL || (gate->next_probe != 0) == for_item)
			continue;
		if (for_item)
			memset(gate, 0, sizeof(*gate));
		else
			gate->next_probe = gate->prober = 0;
		news |= !for_item;
	}
	if (news)
		sabot_permit_wake_all_locked(endpoint->origin);
	LWLockRelease(sabot_permits->lock);
	return news;
}

/*
 * sabot_gate_is_closed - whether an endpoint, its server or a model on that is
 * stopped, or somebody else is finding out whether it still is
 *
 * model may be NULL.  Then *next_probe says until when and error, of
 * SABOT_FAULT_LEN bytes, why.  Both may be NULL.
 */
bool
sabot_gate_is_closed(const SabotEndpoint *endpoint, const char *model,
					 TimestampTz *next_probe, char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = 0;
	bool		probe;
	bool		closed = false;

	if (sabot_permits == NULL)
		return false;
	LWLockAcquire(sabot_permits->lock, LW_SHARED);
	for (SabotGateKind kind = 0; kind < SABOT_NGATE_KINDS && !closed; kind++)
	{
		SabotBreaker *gate = find_gate_locked(kind, endpoint, model);

		closed = gate_stops_locked(gate, now, &until, &probe);
		if (closed && next_probe)
			*next_probe = until;
		if (closed && error)
			strlcpy(error, gate->error, SABOT_FAULT_LEN);
	}
	LWLockRelease(sabot_permits->lock);
	return closed;
}

/*
 * sabot_gate_forget - nothing is known of the endpoints of this database:
 * their tokens may be others now
 *
 * Returns whether any of them was stopped.
 */
bool
sabot_gate_forget(void)
{
	bool		stopped = false;

	if (sabot_permits == NULL)
		return false;
	LWLockAcquire(sabot_permits->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SABOT_MAX_GATES; i++)
	{
		SabotBreaker *gate = &sabot_permits->gates[i];

		if (gate->kind != SABOT_GATE_OF_ENDPOINT ||
			gate->dbid != MyDatabaseId)
			continue;
		stopped |= gate->next_probe != 0;
		memset(gate, 0, sizeof(*gate));
	}
	LWLockRelease(sabot_permits->lock);
	return stopped;
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

	*models = palloc(SABOT_MAX_GATES * sizeof(**models));
	if (sabot_permits == NULL)
		return 0;
	LWLockAcquire(sabot_permits->lock, LW_SHARED);
	for (int i = 0; i < SABOT_MAX_GATES; i++)
	{
		const SabotBreaker *gate = &sabot_permits->gates[i];

		if (gate->kind == SABOT_GATE_OF_MODEL && gate->next_probe != 0 &&
			strcmp(gate->origin, origin) == 0)
			strlcpy((*models)[n++], gate->name, SABOT_MODEL_LEN);
	}
	LWLockRelease(sabot_permits->lock);
	return n;
}
