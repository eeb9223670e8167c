/*-------------------------------------------------------------------------
 *
 * llm_poll.c
 *		Waiting for sockets of requests and for the process latch together.
 *
 * libcurl says which sockets it wants to hear of, and takes each one back
 * when its request ends.  Building a WaitEventSet costs five system calls,
 * and the usual socket is that of one kept connection, wanted again by the
 * next request.  So a socket that is taken back stays in the set, parked,
 * until it makes a noise nobody asked for (its server closed it) or is
 * closed.  As its number may then be given to another file, that works only
 * for sockets whose closing is reported: connections, but not what libcurl's
 * resolver uses, which leave the set at once.
 *
 * What libcurl's callbacks call does not raise errors and allocates with
 * malloc: an error may not leave libcurl by a jump.
 *
 * IDENTIFICATION
 *		src/llm/llm_poll.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "llm/llm_poll.h"

/* A socket of libcurl's. */
typedef struct WatchedSocket
{
	pgsocket	sock;
	bool		connection;		/* its closing will be reported */
	uint32		wanted;			/* events libcurl waits for, 0 = parked */
	uint32		registered;		/* events in the set */
	int			position;		/* in the set, -1 = it is not there */
} WatchedSocket;

static WatchedSocket *sockets = NULL;
static int	nsockets = 0;
static int	maxsockets = 0;

/* The set, and whether it has to be built again. */
static WaitEventSet *wait_set = NULL;
static bool must_rebuild = true;

/*
 * find_socket - what is known of a socket, or NULL
 */
static WatchedSocket *
find_socket(pgsocket sock)
{
	for (int i = 0; i < nsockets; i++)
	{
		if (sockets[i].sock == sock)
			return &sockets[i];
	}
	return NULL;
}

/*
 * add_socket - know of a socket from now on; NULL if there is no memory
 */
static WatchedSocket *
add_socket(pgsocket sock)
{
	WatchedSocket *added;

	if (nsockets == maxsockets)
	{
		int			newmax = Max(8, maxsockets * 2);
		WatchedSocket *grown = realloc(sockets, newmax * sizeof(*sockets));

		if (grown == NULL)
			return NULL;
		sockets = grown;
		maxsockets = newmax;
	}
	added = &sockets[nsockets++];
	memset(added, 0, sizeof(*added));
	added->sock = sock;
	added->position = -1;
	return added;
}

/*
 * remove_socket - forget a socket
 */
static void
remove_socket(WatchedSocket *socket)
{
	if (socket->position >= 0)
		must_rebuild = true;
	*socket = sockets[--nsockets];
}

/*
 * sabot_poll_opened - a connection's socket was opened
 *
 * Whoever calls this calls sabot_poll_closed() before the socket is closed.
 * Returns false if there is no memory.  Raises no error.
 */
bool
sabot_poll_opened(pgsocket sock)
{
	WatchedSocket *socket;

	sabot_poll_closed(sock);
	socket = add_socket(sock);
	if (socket == NULL)
		return false;
	socket->connection = true;
	return true;
}

/*
 * sabot_poll_closed - a socket is about to be closed
 *
 * Raises no error.
 */
void
sabot_poll_closed(pgsocket sock)
{
	WatchedSocket *socket = find_socket(sock);

	if (socket != NULL)
		remove_socket(socket);
}

/*
 * sabot_poll_watch - wait for these events of a socket, 0 for none any more
 *
 * events are WL_SOCKET_READABLE and WL_SOCKET_WRITEABLE.  Returns false if
 * there is no memory.  Raises no error.
 */
bool
sabot_poll_watch(pgsocket sock, uint32 events)
{
	WatchedSocket *socket = find_socket(sock);

	if (socket == NULL)
	{
		if (events == 0)
			return true;
		socket = add_socket(sock);
		if (socket == NULL)
			return false;
	}
	socket->wanted = events;
	if (events == 0 && !socket->connection)
		remove_socket(socket);
	else if (events != 0 && socket->position < 0)
		must_rebuild = true;
	return true;
}

/*
 * rebuild_set - a set of the latch, the postmaster and all wanted sockets
 *
 * May raise errors of CreateWaitEventSet() and AddWaitEventToSet(); then the
 * next call begins anew.
 */
static void
rebuild_set(void)
{
	if (wait_set != NULL)
	{
		WaitEventSet *old = wait_set;

		wait_set = NULL;
		FreeWaitEventSet(old);
	}
	must_rebuild = true;
	wait_set = CreateWaitEventSet(NULL, nsockets + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
					  NULL);
	for (int i = 0; i < nsockets; i++)
	{
		WatchedSocket *socket = &sockets[i];

		socket->position = -1;
		if (socket->wanted == 0)
			continue;
		socket->position = AddWaitEventToSet(wait_set, socket->wanted,
											 socket->sock, NULL, NULL);
		socket->registered = socket->wanted;
	}
	must_rebuild = false;
}

/*
 * update_set - have the set wait for what is wanted now
 */
static void
update_set(void)
{
	if (must_rebuild)
	{
		rebuild_set();
		return;
	}
	for (int i = 0; i < nsockets; i++)
	{
		WatchedSocket *socket = &sockets[i];

		if (socket->wanted == 0 || socket->wanted == socket->registered)
			continue;
		ModifyWaitEvent(wait_set, socket->position, socket->wanted, NULL);
		socket->registered = socket->wanted;
	}
}

/*
 * is_wanted - was this event asked for?  Drops a parked socket that was heard
 */
static bool
is_wanted(const WaitEvent *event)
{
	WatchedSocket *socket = find_socket(event->fd);

	if (socket != NULL && socket->wanted != 0)
		return true;
	must_rebuild = true;
	return false;
}

/*
 * sabot_poll_wait - wait for the latch, a socket or the time to pass
 *
 * timeout_ms may be -1 for no end.  Returns how many events of sockets are in
 * *occurred, at most maxoccurred; resets the latch if it was set.  Exits if
 * the postmaster is gone.  May raise errors of the functions for
 * WaitEventSets.
 */
int
sabot_poll_wait(long timeout_ms, WaitEvent *occurred, int maxoccurred)
{
	static uint32 wait_event = 0;
	int			noccurred;
	int			nwanted = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("SabotHttp");
	update_set();
	noccurred = WaitEventSetWait(wait_set, timeout_ms, occurred, maxoccurred,
								 wait_event);
	for (int i = 0; i < noccurred; i++)
	{
		if (occurred[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (is_wanted(&occurred[i]))
			occurred[nwanted++] = occurred[i];
	}
	return nwanted;
}

/*
 * sabot_poll_next - the wanted socket with the next higher number
 *
 * Begin with PGINVALID_SOCKET; it is returned after the last one.  Sockets
 * may come and go in between.
 */
pgsocket
sabot_poll_next(pgsocket after)
{
	pgsocket	next = PGINVALID_SOCKET;

	for (int i = 0; i < nsockets; i++)
	{
		pgsocket	sock = sockets[i].sock;

		if (sockets[i].wanted == 0 || sock <= after)
			continue;
		if (next == PGINVALID_SOCKET || sock < next)
			next = sock;
	}
	return next;
}

/*
 * sabot_poll_connections - number of sockets of connections that are open
 */
int
sabot_poll_connections(void)
{
	int			n = 0;

	for (int i = 0; i < nsockets; i++)
		n += sockets[i].connection;
	return n;
}
