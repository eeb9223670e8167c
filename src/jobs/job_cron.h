/*-------------------------------------------------------------------------
 *
 * job_cron.h
 *		When schedules are due: pure functions of a text, times and a zone.
 *
 * IDENTIFICATION
 *		src/jobs/job_cron.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef SABOT_JOB_CRON_H
#define SABOT_JOB_CRON_H

#include "datatype/timestamp.h"
#include "pgtime.h"

/* Five fields of cron, as bits. */
typedef struct SabotCron
{
	uint64		minutes;		/* bit 0 = minute 0, and so on */
	uint64		hours;
	uint64		days;			/* bit 1 = first of the month */
	uint64		months;			/* bit 1 = January */
	uint64		weekdays;		/* bit 0 = Sunday */
	bool		any_hour;		/* the field begins with an asterisk */
	bool		any_day;
	bool		any_weekday;
} SabotCron;

/* A schedule as its text tells it. */
typedef struct SabotDue
{
	bool		is_cron;
	SabotCron	cron;
	Interval	interval;		/* if it is not cron */
} SabotDue;

/* in job_cron.c */
extern void sabot_cron_parse(const char *schedule, SabotCron *cron);
extern TimestampTz sabot_cron_next(const SabotCron *cron, TimestampTz after,
								   const pg_tz *zone);
extern TimestampTz sabot_zone_instant(Timestamp local, const pg_tz *zone);

/* in job_due.c */
extern pg_tz *sabot_due_zone(void);
extern void sabot_due_parse(const char *schedule, SabotDue *due);
extern TimestampTz sabot_due_next(const SabotDue *due, TimestampTz first,
								  TimestampTz after, const pg_tz *zone);

#endif							/* SABOT_JOB_CRON_H */
