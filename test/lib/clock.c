/*-------------------------------------------------------------------------
 *
 * clock.c
 *		A library to preload into a server whose clock tests set.
 *
 * It adds an offset, which is the content of a mapped file, to the time of
 * day.  Waits and time-outs, which go by other clocks, are as without it.  It
 * has no state, so a signal handler may come at any time, and may fork, as the
 * postmaster's did before PostgreSQL 16: libfaketime leaves such processes
 * with the real time.
 *
 * IDENTIFICATION
 *		test/lib/clock.c
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset;	/* in s */

/*
 * open_clock - map the file that the environment names
 */
__attribute__((constructor))
static void
open_clock(void)
{
	const char *path = getenv("SABOT_TEST_CLOCK");
	int			fd = path ? open(path, O_RDONLY) : -1;
	void	   *map;

	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		offset = map;
	close(fd);
}

/*
 * clock_gettime - as that of libc, with the offset if it is the time of day
 */
int
clock_gettime(clockid_t id, struct timespec *now)
{
	int			result = (int) syscall(SYS_clock_gettime, id, now);

	if (result == 0 && offset &&
		(id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		now->tv_sec += *offset;
	return result;
}

/*
 * gettimeofday - the same in microseconds
 */
int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec t;

	(void) zone;
	(void) clock_gettime(CLOCK_REALTIME, &t);
	now->tv_sec = t.tv_sec;
	now->tv_usec = t.tv_nsec / 1000;
	return 0;
}

/*
 * time - the same in seconds
 */
time_t
time(time_t *now)
{
	struct timespec t;

	(void) clock_gettime(CLOCK_REALTIME, &t);
	if (now)
		*now = t.tv_sec;
	return t.tv_sec;
}
