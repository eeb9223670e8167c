/*-------------------------------------------------------------------------
 *
 * job_due.c
 *		When a schedule is due next: cron or an interval, in one time zone.
 *
 * The zone is the server's and no session's, as whoever computes a due time
 * has to come to the same one.  The n-th due time of an interval is counted
 * from the first one and not from the last, so that nothing adds up: neither
 * the delays of runs nor the days that short months lack.
 *
 * IDENTIFICATION
 *		src/jobs/job_due.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/job_cron.h"

/* The longest interval, in months, days and microseconds: 1000 years. */
#define MAX_MONTHS	(1000 * MONTHS_PER_YEAR)
#define MAX_DAYS	(1000 * 366)
#define MAX_USECS	((int64) MAX_DAYS * USECS_PER_DAY)

/* The longest text of a schedule. */
#define MAX_TEXT	1000

PG_FUNCTION_INFO_V1(sabot_next_due);

/*
 * sabot_due_zone - the time zone of schedules
 */
pg_tz *
sabot_due_zone(void)
{
	pg_tz	   *zone = NULL;

	if (sabot_timezone != NULL && sabot_timezone[0] != '\0')
		zone = pg_tzset(sabot_timezone);
	return zone != NULL ? zone : log_timezone;
}

/*
 * is_cron - whether a text is meant as five fields of cron, or a short form
 *
 * What has an asterisk is, and what begins with two words of digits and
 * punctuation, which no interval does.
 */
static bool
is_cron(const char *text)
{
	int			nwords = 0;

	if (text[0] == '@')
		return isalpha((unsigned char) text[1]);
	if (strchr(text, '*') != NULL)
		return true;
	while (*text !='\0' && nwords < 2)
	{
		size_t		length = strspn(text, "0123456789,-/");

		if (length == 0 || (text[length] != '\0' &&
							!isspace((unsigned char) text[length])))
			return false;
		text	  +=length;
		text	  +=strspn(text, " \t\n\r");

		nwords++;
	}
	return nwords == 2;
}

/*
 * explain_interval - error callback: what a schedule may be, for one that is
 * no interval
 */
static void
explain_interval(void *arg)
{
	errcode(ERRCODE_INVALID_PARAMETER_VALUE);
	errhint("A schedule is an interval, such as \"1 hour\", or five fields of cron, such as \"30 2 * * *\".");
}

/*
 * read_interval - an interval from its text
 *
 * Raises 22023 if it is none.
 */
static Interval
read_interval(const char *text)
{
	Interval   *result;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = explain_interval
	};

	error_context_stack = &callback;
	result = DatumGetIntervalP(DirectFunctionCall3(interval_in,
												   CStringGetDatum(text),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
	error_context_stack = callback.previous;
	return *result;
}

/*
 * check_interval - raise 22023 for an interval in which nothing can be due
 */
static void
check_interval(const char *text, const Interval *i)
{
	if (i->month < 0 || i->day < 0 || i->time < 0 ||
		(i->month == 0 && i->day == 0 && i->time < 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid interval in schedule \"%s\"", text),
				 errdetail("It must be at least 1 ms, and no part of it negative.")));
	if (i->month > MAX_MONTHS || i->day > MAX_DAYS || i->time > MAX_USECS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid interval in schedule \"%s\"", text),
				 errdetail("It must not be longer than 1000 years.")));
}

/*
 * sabot_due_parse - what the text of a schedule says
 *
 * Raises 22023 for one that says nothing, or is too long.
 */
void
sabot_due_parse(const char *schedule, SabotDue *due)
{
	const char *text = schedule + strspn(schedule, " \t\n\r");

	memset(due, 0, sizeof(*due));
	if (strlen(schedule) > MAX_TEXT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schedule is longer than %d bytes", MAX_TEXT)));
	due->is_cron = is_cron(text);
	if (due->is_cron)
		sabot_cron_parse(text, &due->cron);
	else
	{
		due->interval = read_interval(text);
		check_interval(text, &due->interval);
	}
}

/*
 * average_usecs - how long an interval is on average
 */
static double
average_usecs(const Interval *i)
{
	return (i->month * (DAYS_PER_YEAR / MONTHS_PER_YEAR) + i->day) *
		(double) USECS_PER_DAY + (double) i->time;
}

/*
 * due_number - the n-th due time of an interval, from 0
 *
 * Must be in the range of timestamps, about.
 */
static TimestampTz
due_number(const Interval *i, TimestampTz first, int64 n, const pg_tz *zone)
{
	Interval	days = {.month = (int32) (i->month * n),.day = (int32) (i->day * n)};
	int			tz;
	struct pg_tm tm;
	fsec_t		fsec;
	Timestamp	local;

	if (i->month == 0 && i->day == 0)
		return first + n * i->time;
	if (timestamp2tm(first, &tz, &tm, &fsec, NULL,
					 unconstify(pg_tz *, zone)) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &local) != 0)
		return DT_NOEND;
	local = DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
												  TimestampGetDatum(local),
												  IntervalPGetDatum(&days)));
	return sabot_zone_instant(local, zone) + n * i->time;
}

/*
 * next_of_interval - the next due time of an interval after another time
 */
static TimestampTz
next_of_interval(const Interval *i, TimestampTz first, TimestampTz after,
				 const pg_tz *zone)
{
	double		average = average_usecs(i);
	int64		n;
	TimestampTz due;

	if (after < first)
		return first;
	if ((double) after + 3 * average > (double) (END_TIMESTAMP - USECS_PER_DAY * 366))
		return DT_NOEND;
	/* Months and days differ in length: near it, and then step by step. */
	n = (int64) (((double) after - (double) first) / average);
	while (n > 0 && due_number(i, first, n, zone) > after)
		n--;
	for (;; n++)
	{
		due = due_number(i, first, n, zone);
		if (due > after)
			return due;
	}
}

/*
 * sabot_due_next - when a schedule is due next after a time, and not before
 * its first due time
 *
 * Returns DT_NOEND if it is never due.
 */
TimestampTz
sabot_due_next(const SabotDue *due, TimestampTz first, TimestampTz after,
			   const pg_tz *zone)
{
	if (due->is_cron)
		return sabot_cron_next(&due->cron, Max(after, first - 1), zone);
	return next_of_interval(&due->interval, first, after, zone);
}

/*
 * zone_argument - a time zone by its name; raises 22023 if there is none
 */
static pg_tz *
zone_argument(text *name)
{
	pg_tz	   *zone = pg_tzset(text_to_cstring(name));

	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", text_to_cstring(name))));
	return zone;
}

/*
 * checked_time - a time; raises 22008 if it is infinite
 */
static TimestampTz
checked_time(TimestampTz t)
{
	if (TIMESTAMP_NOT_FINITE(t))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return t;
}

/*
 * SQL: sabot.next_due(schedule text, after timestamptz, first_due timestamptz,
 * timezone text) RETURNS timestamptz - when a schedule is due next
 *
 * first_due is where an interval is counted from, by default "after".  NULL if
 * it is never due.  22023 for a schedule or zone that says nothing, 22008 for
 * infinite times.
 */
Datum
sabot_next_due(PG_FUNCTION_ARGS)
{
	TimestampTz after;
	TimestampTz first;
	TimestampTz next;
	SabotDue	due;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	after = PG_ARGISNULL(1) ? GetCurrentTimestamp() :
		checked_time(PG_GETARG_TIMESTAMPTZ(1));
	first = PG_ARGISNULL(2) ? after : checked_time(PG_GETARG_TIMESTAMPTZ(2));
	sabot_due_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &due);
	next = sabot_due_next(&due, first, after, PG_ARGISNULL(3) ?
						  sabot_due_zone() :
						  zone_argument(PG_GETARG_TEXT_PP(3)));
	if (next == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}
