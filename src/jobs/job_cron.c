/*-------------------------------------------------------------------------
 *
 * job_cron.c
 *		Five fields of cron: what they say, and when that is next.
 *
 * Times are looked for on the wall clock of a zone and then turned into
 * instants, since that is what the fields are about.  Where the clock is set
 * forward or back, the two differ, and a person's intent decides.  Who names
 * an hour means once a day: a time that the clock leaves out is had at the
 * moment it does so, and of one that comes twice the first counts.  Who does
 * not name one means a pace: the fields are compared with the clock as it
 * goes.  Vixie's cron makes the same distinction.
 *
 * Everything here depends on its arguments alone.
 *
 * IDENTIFICATION
 *		src/jobs/job_cron.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "jobs/job_cron.h"

#define NFIELDS 5

/* Days in which every schedule that is ever due is due: 60 years. */
#define HORIZON_DAYS (60 * 366)

/* No time on the wall clock is found. */
#define NEVER PG_INT64_MIN

/* From the epoch of Unix to that of PostgreSQL, in s. */
#define EPOCH_SHIFT \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* What a field may hold. */
typedef struct Field
{
	const char *name;
	int			min;
	int			max;
	const char *const *names;	/* of the values from min on, or NULL */
	int			nnames;
	const char *allowed;		/* for messages */
} Field;

static const char *const month_names[] = {
	"jan", "feb", "mar", "apr", "may", "jun",
	"jul", "aug", "sep", "oct", "nov", "dec"
};
static const char *const weekday_names[] = {
	"sun", "mon", "tue", "wed", "thu", "fri", "sat"
};

static const Field fields[NFIELDS] = {
	{"minute", 0, 59, NULL, 0, "a number from 0 to 59"},
	{"hour", 0, 23, NULL, 0, "a number from 0 to 23"},
	{"day of the month", 1, 31, NULL, 0, "a number from 1 to 31"},
	{"month", 1, 12, month_names, lengthof(month_names),
	"a number from 1 to 12 or a name from jan to dec"},
	{"day of the week", 0, 7, weekday_names, lengthof(weekday_names),
	"a number from 0 to 7, where 0 and 7 are Sunday, or a name from sun to sat"}
};

/* Short forms, and what they stand for. */
static const struct
{
	const char *name;
	const char *cron;
}			macros[] = {
	{"@hourly", "0 * * * *"},
	{"@daily", "0 0 * * *"},
	{"@midnight", "0 0 * * *"},
	{"@weekly", "0 0 * * 0"},
	{"@monthly", "0 0 1 * *"},
	{"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"}
};

/* A field that is being read. */
typedef struct Reader
{
	const char *schedule;		/* all of it, for messages */
	const char *text;			/* the field */
	const Field *field;
	const char *at;				/* what has not been read */
} Reader;

/*
 * invalid_field - raise 22023: a field is not as it may be
 */
pg_noreturn static void
invalid_field(const Reader *r)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid %s \"%s\" in schedule \"%s\"", r->field->name,
					r->text, r->schedule),
			 errdetail("The %s is %s.", r->field->name, r->field->allowed),
			 errhint("It may be a list (1,15), a range (10-20), an asterisk, and of the latter two every n-th value (10-20/5, */5). A range goes upwards, and n is at least 1.")));
}

/*
 * read_number - read digits; raises 22023 unless they are from min to max
 */
static int
read_number(Reader *r, int min, int max)
{
	int			value = 0;
	int			ndigits = 0;

	for (; isdigit((unsigned char) *r->at); r->at++)
	{
		value = Min(value * 10 + (*r->at - '0'), 1000);
		ndigits++;
	}
	if (ndigits == 0 || value < min || value > max)
		invalid_field(r);
	return value;
}

/*
 * read_value - read a number or a name of the field
 */
static int
read_value(Reader *r)
{
	const Field *field = r->field;

	if (!isalpha((unsigned char) *r->at))
		return read_number(r, field->min, field->max);
	for (int i = 0; i < field->nnames; i++)
		if (pg_strncasecmp(r->at, field->names[i], 3) == 0 &&
			!isalnum((unsigned char) r->at[3]))
		{
			r->at += 3;
			return field->min + i;
		}
	invalid_field(r);
}

/*
 * read_element - read one element of a list; returns its values as bits
 */
static uint64
read_element(Reader *r)
{
	const Field *field = r->field;
	bool		is_range = true;
	int			first = field->min;
	int			last = field->max;
	int			step = 1;
	uint64		bits = 0;

	if (*r->at == '*')
		r->at++;
	else
	{
		first = last = read_value(r);
		is_range = *r->at == '-';
		if (is_range)
		{
			r->at++;
			last = read_value(r);
		}
	}
	/* A week may end with its Sunday. */
	if (field->max == 7 && last == 0 && first > 0)
		last = 7;
	if (first > last)
		invalid_field(r);
	if (is_range && *r->at == '/')
	{
		r->at++;
		step = read_number(r, 1, field->max);
	}
	for (int value = first; value <= last; value += step)
		bits |= UINT64CONST(1) << value;
	return bits;
}

/*
 * read_field - read a field; returns its values as bits
 *
 * *any tells whether it begins with an asterisk.
 */
static uint64
read_field(Reader *r, bool *any)
{
	uint64		bits = 0;

	r->at = r->text;
	*any = *r->at == '*';
	for (;;)
	{
		bits |= read_element(r);
		if (*r->at == '\0')
			return bits;
		if (*r->at++ != ',')
			invalid_field(r);
	}
}

/*
 * split_fields - the fields of a schedule
 *
 * Raises 22023 unless there are five.
 */
static void
split_fields(const char *schedule, const char *text, char **words)
{
	char	   *copy = pstrdup(text);
	char	   *rest;
	int			n = 0;

	for (char *word = strtok_r(copy, " \t\n\r", &rest); word != NULL;
		 word = strtok_r(NULL, " \t\n\r", &rest))
	{
		if (n < NFIELDS)
			words[n] = word;
		n++;
	}
	if (n != NFIELDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schedule \"%s\" has %d fields instead of 5", schedule, n),
				 errdetail("The fields are minute, hour, day of the month, month and day of the week."),
				 errhint("For example, \"30 2 * * mon-fri\" is half past two on workdays.")));
}

/*
 * expand_macro - what a short form stands for; other text is returned as it is
 *
 * Raises 22023 for one that there is not.
 */
static const char *
expand_macro(const char *schedule)
{
	StringInfoData known;
	char	   *name;

	if (schedule[0] != '@')
		return schedule;
	name = pnstrdup(schedule, strcspn(schedule, " \t\n\r"));
	initStringInfo(&known);
	for (int i = 0; i < lengthof(macros); i++)
	{
		if (pg_strcasecmp(name, macros[i].name) == 0)
			return macros[i].cron;
		appendStringInfo(&known, "%s%s", i > 0 ? ", " : "", macros[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("there is no schedule \"%s\"", schedule),
			 errdetail("There are %s.", known.data)));
}

/*
 * sabot_cron_parse - what five fields of cron, or a short form, say
 *
 * Raises 22023 for what is neither, naming the field.
 */
void
sabot_cron_parse(const char *schedule, SabotCron *cron)
{
	char	   *words[NFIELDS] = {0};
	uint64		bits[NFIELDS];
	bool		any[NFIELDS];

	split_fields(schedule, expand_macro(schedule), words);
	for (int i = 0; i < NFIELDS; i++)
	{
		Reader		reader = {schedule, words[i], &fields[i]};

		bits[i] = read_field(&reader, &any[i]);
	}
	cron->minutes = bits[0];
	cron->hours = bits[1];
	cron->days = bits[2];
	cron->months = bits[3];
	cron->weekdays = (bits[4] & 0x7f) | (bits[4] >> 7);
	cron->any_hour = any[1];
	cron->any_day = any[2];
	cron->any_weekday = any[4];
}

/*
 * has - whether a value is among those of a field
 */
static inline bool
has(uint64 bits, int value)
{
	return (bits >> value) & 1;
}

/*
 * is_day - whether a schedule has times on a day
 *
 * If both kinds of days are restricted, either will do.
 */
static bool
is_day(const SabotCron *cron, int day, int weekday)
{
	bool		by_day = has(cron->days, day);
	bool		by_weekday = has(cron->weekdays, weekday);

	return cron->any_day || cron->any_weekday ? by_day && by_weekday :
		by_day || by_weekday;
}

/*
 * next_in_day - the first time of a day at or after a minute of it, or -1
 */
static int
next_in_day(const SabotCron *cron, int minute)
{
	for (; minute < MINS_PER_HOUR * HOURS_PER_DAY; minute++)
	{
		if (!has(cron->hours, minute / MINS_PER_HOUR))
			minute += MINS_PER_HOUR - 1 - minute % MINS_PER_HOUR;
		else if (has(cron->minutes, minute % MINS_PER_HOUR))
			return minute;
	}
	return -1;
}

/*
 * next_local - the first time on the wall clock that the fields name, at or
 * after one, or NEVER
 *
 * Both in minutes since 1970 began on that clock.
 */
static int64
next_local(const SabotCron *cron, int64 from)
{
	const int	per_day = MINS_PER_HOUR * HOURS_PER_DAY;
	int			minute = (int) (((from % per_day) + per_day) % per_day);
	int			day = (int) ((from - minute) / per_day) + UNIX_EPOCH_JDATE;
	int			end = day + HORIZON_DAYS;

	while (day < end)
	{
		int			y,
					m,
					d;
		int			found;

		j2date(day, &y, &m, &d);
		if (!has(cron->months, m))
		{
			day = date2j(m < 12 ? y : y + 1, m % 12 + 1, 1);
			minute = 0;
			continue;
		}
		found = is_day(cron, d, j2day(day)) ? next_in_day(cron, minute) : -1;
		if (found >= 0)
			return (int64) (day - UNIX_EPOCH_JDATE) * per_day + found;
		day++;
		minute = 0;
	}
	return NEVER;
}

/*
 * floor_div - a quotient, rounded down
 */
static int64
floor_div(int64 a, int64 b)
{
	return a / b - (a % b < 0);
}

/*
 * boundary_after - when the offset of a zone changes next after a time
 *
 * *offset is that at the time, *offset_then that from the change on, in s east
 * of Greenwich.  Returns PG_INT64_MAX if it does not change anymore.
 */
static pg_time_t
boundary_after(pg_time_t t, const pg_tz *zone, long *offset, long *offset_then)
{
	pg_time_t	boundary;
	int			is_dst;
	int			found = pg_next_dst_boundary(&t, offset, &is_dst, &boundary,
											 offset_then, &is_dst, zone);

	if (found < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("time is out of range for time zone \"%s\"",
						pg_get_timezone_name(unconstify(pg_tz *, zone)))));
	return found > 0 ? boundary : PG_INT64_MAX;
}

/*
 * sabot_zone_instant - when a time on the wall clock of a zone is
 *
 * The first time if it is there twice; the moment at which the clock leaves it
 * out if it is not there.
 */
TimestampTz
sabot_zone_instant(Timestamp local, const pg_tz *zone)
{
	int64		seconds = floor_div(local, USECS_PER_SEC) + EPOCH_SHIFT;
	int64		fraction = local - floor_div(local, USECS_PER_SEC) * USECS_PER_SEC;

	/* No offset, and no change of one, is more than a day. */
	pg_time_t	t = seconds - 2 * SECS_PER_DAY;

	for (;;)
	{
		long		offset = 0;
		long		offset_then = 0;
		pg_time_t	boundary = boundary_after(t, zone, &offset, &offset_then);

		if (seconds - offset < boundary)
			return (seconds - offset - EPOCH_SHIFT) * USECS_PER_SEC + fraction;
		if (seconds - offset_then < boundary)
			return (boundary - EPOCH_SHIFT) * USECS_PER_SEC;
		t = boundary;
	}
}

/*
 * next_of_pace - the next time of fields that do not name an hour
 */
static TimestampTz
next_of_pace(const SabotCron *cron, TimestampTz after, const pg_tz *zone)
{
	pg_time_t	t = floor_div(after, USECS_PER_SEC) + EPOCH_SHIFT + 1;

	for (;;)
	{
		long		offset = 0;
		long		offset_then = 0;
		pg_time_t	boundary = boundary_after(t, zone, &offset, &offset_then);
		int64		from = -floor_div(-(t + offset), SECS_PER_MINUTE);
		int64		local = next_local(cron, from);

		if (local == NEVER)
			return DT_NOEND;
		if (local * SECS_PER_MINUTE - offset < boundary)
			return (local * SECS_PER_MINUTE - offset - EPOCH_SHIFT) *
				USECS_PER_SEC;
		t = boundary;
	}
}

/*
 * next_of_hours - the next time of fields that name hours
 */
static TimestampTz
next_of_hours(const SabotCron *cron, TimestampTz after, const pg_tz *zone)
{
	pg_time_t	t = floor_div(after, USECS_PER_SEC) + EPOCH_SHIFT;
	long		offset = 0;
	long		offset_then = 0;
	int64		from;

	(void) boundary_after(t, zone, &offset, &offset_then);
	from = floor_div(t + offset, SECS_PER_MINUTE);
	for (;;)
	{
		int64		local = next_local(cron, from);
		TimestampTz instant;

		if (local == NEVER)
			return DT_NOEND;
		instant = sabot_zone_instant((local * SECS_PER_MINUTE - EPOCH_SHIFT) *
									 USECS_PER_SEC, zone);
		if (instant > after)
			return instant;
		from = local + 1;
	}
}

/*
 * sabot_cron_next - the next time after another one, or DT_NOEND if there is
 * none
 */
TimestampTz
sabot_cron_next(const SabotCron *cron, TimestampTz after, const pg_tz *zone)
{
	TimestampTz next = cron->any_hour ? next_of_pace(cron, after, zone) :
	next_of_hours(cron, after, zone);

	return IS_VALID_TIMESTAMP(next) ? next : DT_NOEND;
}
