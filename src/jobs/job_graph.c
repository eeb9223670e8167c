/*-------------------------------------------------------------------------
 *
 * job_graph.c
 *		Submitting graphs of tasks, and drawing them.
 *
 * A graph is a job of its own, which waits for its tasks; a task is a job
 * whose parent is the graph.  All of it is inserted in the caller's
 * transaction, so that nothing runs before everything is there.  Tasks get
 * their ids in an order in which they could run, so that ids are in ascending
 * order along all dependencies: agents begin with the lowest, and whoever
 * locks rows of several tasks does it in that order.
 *
 * IDENTIFICATION
 *		src/jobs/job_graph.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "jobs/job_columns.h"
#include "jobs/job_submit.h"
#include "jobs/jobs.h"

PG_FUNCTION_INFO_V1(sabot_submit_graph);
PG_FUNCTION_INFO_V1(sabot_graph_dot);

/* A task as the JSON tells it. */
typedef struct Task
{
	char	   *name;
	char	   *command;
	Jsonb	   *params;			/* or NULL */
	int			max_attempts;
	Interval   *timeout;		/* or NULL */
	const char *on_failure;
	int			keep_rows;
	char	  **after;			/* names */
	int			nafter;

	int		   *parents;		/* the same as numbers of tasks */
	int		   *children;		/* the other way round */
	int			nchildren;
	int			nwaiting;		/* parents that are not in order yet */
	int64		job_id;
} Task;

typedef struct Graph
{
	Task	   *tasks;
	int			ntasks;
	int		   *order;			/* numbers of tasks, parents first */
	int			nordered;
} Graph;

/* Tasks by name. */
typedef struct TaskName
{
	char		name[NAMEDATALEN * 4];	/* hash key */
	int			number;
} TaskName;

/*
 * invalid_task - raise 22023 for something about a task, by its number from 0
 */
pg_attribute_printf(3, 4)
static void
invalid_task(const Task *task, int number, const char *format,...)
{
	StringInfoData buf;
	va_list		args;

	initStringInfo(&buf);
	if (task->name)
		appendStringInfo(&buf, "task \"%s\": ", task->name);
	else
		appendStringInfo(&buf, "task %d: ", number + 1);
	va_start(args, format);
	(void) appendStringInfoVA(&buf, format, args);
	va_end(args);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", buf.data),
			 errhint("sabot.graph_task() makes tasks. They have name, command, after (an array of names), params (an array), max_attempts, timeout, on_failure and keep_rows.")));
}

/*
 * string_of - a value that must be a string
 */
static char *
string_of(const Task *task, int number, const char *key, const JsonbValue *v)
{
	if (v->type != jbvString)
		invalid_task(task, number, "\"%s\" must be a string", key);
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/*
 * int_of - a value that must be an integer, and not below a minimum
 */
static int
int_of(const Task *task, int number, const char *key, const JsonbValue *v,
	   int minimum)
{
	bool		failed = true;
	int32		result = 0;

	if (v->type == jbvNumeric)
	{
		Datum		rounded = DirectFunctionCall2(numeric_trunc,
												  NumericGetDatum(v->val.numeric),
												  Int32GetDatum(0));

		failed = !DatumGetBool(DirectFunctionCall2(numeric_eq, rounded,
												   NumericGetDatum(v->val.numeric)));
		if (!failed)
			result = numeric_int4_opt_error(v->val.numeric, &failed);
	}
	if (failed || result < minimum)
		invalid_task(task, number, "\"%s\" must be an integer from %d", key,
					 minimum);
	return result;
}

/*
 * read_after - the names of a value that must be an array of strings
 */
static void
read_after(Task *task, int number, const JsonbValue *v)
{
	JsonbIterator *it;
	JsonbValue	element;

	if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data))
		invalid_task(task, number, "\"after\" must be an array of names");
	task->after = palloc(sizeof(char *) *
						 Max(JsonContainerSize(v->val.binary.data), 1));
	it = JsonbIteratorInit(v->val.binary.data);
	(void) JsonbIteratorNext(&it, &element, false);
	while (JsonbIteratorNext(&it, &element, true) == WJB_ELEM)
		task->after[task->nafter++] = string_of(task, number, "after", &element);
}

/*
 * read_timeout - a value that must be an interval of at least 1 ms
 */
static void
read_timeout(Task *task, int number, const JsonbValue *v)
{
	char	   *text = string_of(task, number, "timeout", v);

	task->timeout = DatumGetIntervalP(DirectFunctionCall3(interval_in,
														  CStringGetDatum(text),
														  ObjectIdGetDatum(InvalidOid),
														  Int32GetDatum(-1)));
	if (sabot_interval_ms(task->timeout) < 1)
		invalid_task(task, number, "\"timeout\" must be at least 1 ms");
}

/*
 * read_on_failure - a value that must be one of three words
 */
static void
read_on_failure(Task *task, int number, const JsonbValue *v)
{
	task->on_failure = string_of(task, number, "on_failure", v);
	if (strcmp(task->on_failure, "fail") != 0 &&
		strcmp(task->on_failure, "skip") != 0 &&
		strcmp(task->on_failure, "continue") != 0)
		invalid_task(task, number,
					 "\"on_failure\" must be fail, skip or continue");
}

/*
 * read_key - one key of a task's object and its value, which is not null
 */
static void
read_key(Task *task, int number, const char *key, const JsonbValue *v)
{
	if (strcmp(key, "name") == 0)
		task->name = string_of(task, number, key, v);
	else if (strcmp(key, "command") == 0)
		task->command = string_of(task, number, key, v);
	else if (strcmp(key, "after") == 0)
		read_after(task, number, v);
	else if (strcmp(key, "max_attempts") == 0)
		task->max_attempts = int_of(task, number, key, v, 1);
	else if (strcmp(key, "keep_rows") == 0)
		task->keep_rows = int_of(task, number, key, v, 0);
	else if (strcmp(key, "timeout") == 0)
		read_timeout(task, number, v);
	else if (strcmp(key, "on_failure") == 0)
		read_on_failure(task, number, v);
	else if (strcmp(key, "params") != 0)
		invalid_task(task, number, "there is no option \"%s\"", key);
	else if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data))
		invalid_task(task, number, "\"params\" must be a JSON array");
	else
		task->params = JsonbValueToJsonb(unconstify(JsonbValue *, v));
}

/*
 * read_task - a task from its JSON object
 *
 * What it is called is read first, for the messages about the rest.
 */
static void
read_task(Task *task, int number, JsonbValue *object)
{
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	value;
	JsonbValue *name;

	task->max_attempts = 1;
	task->on_failure = "fail";
	if (object->type != jbvBinary ||
		!JsonContainerIsObject(object->val.binary.data))
		invalid_task(task, number, "must be a JSON object");
	name = getKeyJsonValueFromContainer(object->val.binary.data, "name",
										strlen("name"), NULL);
	if (name != NULL)
		read_key(task, number, "name", name);
	it = JsonbIteratorInit(object->val.binary.data);
	(void) JsonbIteratorNext(&it, &key, false);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvNull)
			read_key(task, number,
					 pnstrdup(key.val.string.val, key.val.string.len), &value);
	}
	if (task->name == NULL || task->name[0] == '\0')
		invalid_task(task, number, "has no name");
	sabot_submission_check_name(task->name);
	if (task->command == NULL)
		invalid_task(task, number, "has no command");
}

/*
 * read_graph - the tasks of a graph from its JSON array
 *
 * Raises 54000 if there are more than max_tasks.
 */
static Graph *
read_graph(Jsonb *json, int max_tasks)
{
	Graph	   *graph = palloc0(sizeof(Graph));
	JsonbIterator *it;
	JsonbValue	element;
	int			n;

	if (JB_ROOT_IS_SCALAR(json) || !JB_ROOT_IS_ARRAY(json) ||
		JB_ROOT_COUNT(json) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("graph must be a JSON array of tasks"),
				 errhint("Use jsonb_build_array(sabot.graph_task(...), ...).")));
	n = JB_ROOT_COUNT(json);
	if (n > max_tasks)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("graph has %d tasks, more than %d", n, max_tasks),
				 errhint("Raise sabot.graph_max_tasks.")));
	graph->tasks = palloc0(sizeof(Task) * n);
	it = JsonbIteratorInit(&json->root);
	(void) JsonbIteratorNext(&it, &element, false);
	while (JsonbIteratorNext(&it, &element, true) == WJB_ELEM)
	{
		CHECK_FOR_INTERRUPTS();
		read_task(&graph->tasks[graph->ntasks], graph->ntasks, &element);
		graph->ntasks++;
	}
	return graph;
}

/*
 * index_names - the tasks of a graph by their names
 *
 * Raises 42710 for a name that is there twice.
 */
static HTAB *
index_names(const Graph *graph)
{
	HASHCTL		info = {.keysize = sizeof(((TaskName *) 0)->name),
	.entrysize = sizeof(TaskName),.hcxt = CurrentMemoryContext};
	HTAB	   *names = hash_create("sabot task names", graph->ntasks, &info,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	for (int i = 0; i < graph->ntasks; i++)
	{
		bool		found;
		TaskName   *entry = hash_search(names, graph->tasks[i].name,
										HASH_ENTER, &found);

		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("two tasks are named \"%s\"", graph->tasks[i].name),
					 errhint("Give each task of a graph a name of its own.")));
		entry->number = i;
	}
	return names;
}

/*
 * add_parent - have a task come after another one, unless it does already
 *
 * Raises 42704 for a name that no task has, 22023 for the task's own.
 */
static void
add_parent(const Graph *graph, HTAB *names, int number, const char *name)
{
	Task	   *task = &graph->tasks[number];
	TaskName   *entry = strlen(name) >= sizeof(entry->name) ? NULL :
	hash_search(names, name, HASH_FIND, NULL);

	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task \"%s\" comes after \"%s\", which is no task of the graph",
						task->name, name),
				 errhint("Every name in \"after\" must be the name of a task of the same graph.")));
	if (entry->number == number)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("task \"%s\" comes after itself", task->name),
				 errhint("Remove its name from its \"after\".")));
	for (int i = 0; i < task->nwaiting; i++)
		if (task->parents[i] == entry->number)
			return;
	task->parents[task->nwaiting++] = entry->number;
	graph->tasks[entry->number].nchildren++;
}

/*
 * connect_tasks - find the tasks that others come after
 */
static void
connect_tasks(const Graph *graph)
{
	HTAB	   *names = index_names(graph);

	for (int i = 0; i < graph->ntasks; i++)
	{
		Task	   *task = &graph->tasks[i];

		CHECK_FOR_INTERRUPTS();
		task->parents = palloc(sizeof(int) * Max(task->nafter, 1));
		for (int j = 0; j < task->nafter; j++)
			add_parent(graph, names, i, task->after[j]);
		task->nafter = task->nwaiting;
	}
	for (int i = 0; i < graph->ntasks; i++)
	{
		graph->tasks[i].children = palloc(sizeof(int) *
										  Max(graph->tasks[i].nchildren, 1));
		graph->tasks[i].nchildren = 0;
	}
	for (int i = 0; i < graph->ntasks; i++)
		for (int j = 0; j < graph->tasks[i].nafter; j++)
		{
			Task	   *parent = &graph->tasks[graph->tasks[i].parents[j]];

			parent->children[parent->nchildren++] = i;
		}
	hash_destroy(names);
}

/*
 * first_unordered_parent - a task that one comes after and that cannot be put
 * in order either
 */
static int
first_unordered_parent(const Graph *graph, int number)
{
	const Task *task = &graph->tasks[number];

	for (int i = 0; i < task->nafter; i++)
		if (graph->tasks[task->parents[i]].nwaiting > 0)
			return task->parents[i];
	elog(ERROR, "task without a reason to wait");
}

/*
 * raise_cycle - raise 22023: name the tasks of a cycle, in the order they
 * would have to run
 *
 * Whatever cannot be put in order comes after something that cannot either;
 * going that way we must come to a task twice.
 */
static void
raise_cycle(const Graph *graph)
{
	bool	   *seen = palloc0(sizeof(bool) * graph->ntasks);
	StringInfoData buf;
	int			start = 0;
	int			at;

	while (graph->tasks[start].nwaiting == 0)
		start++;
	for (at = start; !seen[at]; at = first_unordered_parent(graph, at))
		seen[at] = true;
	start = at;

	/* From the end: what comes after comes first on this way. */
	initStringInfo(&buf);
	appendStringInfo(&buf, "\"%s\"", graph->tasks[start].name);
	do
	{
		StringInfoData longer;

		at = first_unordered_parent(graph, at);
		initStringInfo(&longer);
		appendStringInfo(&longer, "\"%s\" -> %s", graph->tasks[at].name,
						 buf.data);
		pfree(buf.data);
		buf = longer;
	} while (at != start && buf.len < 8192);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("graph has a cycle: %s", buf.data),
			 errhint("Remove one of these names from the \"after\" of the task that follows it.")));
}

/*
 * order_tasks - put the tasks in an order in which they could run
 *
 * Raises 22023 if there is none.
 */
static void
order_tasks(Graph *graph)
{
	graph->order = palloc(sizeof(int) * graph->ntasks);
	for (int i = 0; i < graph->ntasks; i++)
		if (graph->tasks[i].nwaiting == 0)
			graph->order[graph->nordered++] = i;
	for (int i = 0; i < graph->nordered; i++)
	{
		const Task *task = &graph->tasks[graph->order[i]];

		for (int j = 0; j < task->nchildren; j++)
			if (--graph->tasks[task->children[j]].nwaiting == 0)
				graph->order[graph->nordered++] = task->children[j];
	}
	if (graph->nordered < graph->ntasks)
		raise_cycle(graph);
}

/*
 * name_task - error callback: tell which task's command is wrong
 */
static void
name_task(void *arg)
{
	errcontext("task \"%s\" of the graph", ((const Task *) arg)->name);
}

/*
 * check_commands - raise what is wrong with the commands of a graph
 */
static void
check_commands(const Graph *graph)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sabot check",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < graph->ntasks; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		ErrorContextCallback callback = {
			.previous = error_context_stack,
			.callback = name_task,
			.arg = &graph->tasks[i]
		};

		CHECK_FOR_INTERRUPTS();
		error_context_stack = &callback;
		sabot_submission_check_command(graph->tasks[i].command,
									   graph->tasks[i].params);
		error_context_stack = callback.previous;
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/*
 * set_or_null - set a parameter, or set it to NULL
 */
static void
set_or_null(SabotSubmission *s, SabotSubmitParam p, Datum value, bool isnull)
{
	s->nulls[p] = isnull ? 'n' : ' ';
	s->values[p] = value;
}

/*
 * parents_of - the ids of the tasks that a task comes after, ascending
 */
static int64 *
parents_of(const Graph *graph, const Task *task)
{
	int64	   *ids = palloc(sizeof(int64) * Max(task->nafter, 1));

	for (int i = 0; i < task->nafter; i++)
		ids[i] = graph->tasks[task->parents[i]].job_id;
	qsort(ids, task->nafter, sizeof(int64), sabot_compare_job_ids);
	return ids;
}

/*
 * insert_task - insert a task; those it comes after are inserted
 */
static void
insert_task(SabotSubmission *s, const Graph *graph, Task *task)
{
	int64	   *parents = parents_of(graph, task);
	bool		waits = task->nafter > 0;
	Datum		dependency[4];
	bool		nulls[4] = {0};

	sabot_submission_set(s, P_NAME, CStringGetTextDatum(task->name));
	sabot_submission_set(s, P_COMMAND, CStringGetTextDatum(task->command));
	sabot_submission_set(s, P_MAX_ATTEMPTS, Int32GetDatum(task->max_attempts));
	sabot_submission_set(s, P_KEEP_ROWS, Int32GetDatum(task->keep_rows));
	sabot_submission_set(s, P_ON_FAILURE, CStringGetTextDatum(task->on_failure));
	set_or_null(s, P_PARAMS, JsonbPGetDatum(task->params), task->params == NULL);
	set_or_null(s, P_TIMEOUT, IntervalPGetDatum(task->timeout),
				task->timeout == NULL);
	set_or_null(s, P_DEPENDS_ON, sabot_job_ids(parents, task->nafter), !waits);
	s->state = waits ? SABOT_JOB_BLOCKED : s->run_after != 0 ?
		SABOT_JOB_SCHEDULED : SABOT_JOB_QUEUED;
	task->job_id = sabot_submission_insert(s);

	dependency[1] = Int64GetDatum(task->job_id);
	dependency[2] = BoolGetDatum(true);
	for (int i = 0; i < task->nafter; i++)
	{
		dependency[0] = Int64GetDatum(parents[i]);
		dependency[3] = Int64GetDatum(parents[task->nafter - 1]);
		sabot_job_insert_row(sabot_catalog(false)->dependency, dependency,
							 nulls);
	}
}

/*
 * insert_tasks - insert the tasks of a graph
 */
static void
insert_tasks(SabotSubmission *s, const Graph *graph, int64 graph_id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "sabot task",
												  ALLOCSET_DEFAULT_SIZES);

	sabot_submission_set(s, P_KIND, CStringGetTextDatum("task"));
	sabot_submission_set(s, P_PARENT_ID, Int64GetDatum(graph_id));
	s->nulls[P_DEDUP_KEY] = s->nulls[P_NOTIFY] = 'n';
	for (int i = 0; i < graph->ntasks; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		insert_task(s, graph, &graph->tasks[graph->order[i]]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/*
 * insert_graph - insert the job of a graph, or find the unfinished one with
 * its dedup_key
 *
 * With a timeout it is scheduled for its deadline, and blocked otherwise.
 */
static int64
insert_graph(SabotSubmission *s, bool *inserted)
{
	TimestampTz run_after = s->run_after;
	Datum		user_value = s->values[P_RUN_AFTER];
	char		user_null = s->nulls[P_RUN_AFTER];
	int64		graph_id;

	sabot_submission_set(s, P_KIND, CStringGetTextDatum("graph"));
	sabot_submission_set(s, P_COMMAND, CStringGetTextDatum(""));
	sabot_submission_set(s, P_MAX_ATTEMPTS, Int32GetDatum(1));
	sabot_submission_state(s, SABOT_JOB_BLOCKED);
	if (s->nulls[P_TIMEOUT] == ' ')
	{
		TimestampTz start = run_after != 0 ? run_after : s->submitted_at;
		Datum		deadline = DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(start),
												   s->values[P_TIMEOUT]);

		s->run_after = DatumGetTimestampTz(deadline);
		sabot_submission_set(s, P_RUN_AFTER, deadline);
		sabot_submission_state(s, SABOT_JOB_SCHEDULED);
	}
	graph_id = sabot_submission_insert_once(s, inserted);
	s->run_after = run_after;
	s->values[P_RUN_AFTER] = user_value;
	s->nulls[P_RUN_AFTER] = user_null;
	return graph_id;
}

/*
 * sabot_graph_insert_run - insert a graph that was submitted before, with its
 * tasks; returns its id
 *
 * s tells of the graph, json of its tasks.  Inside a transaction of sabot's
 * own.
 */
int64
sabot_graph_insert_run(SabotSubmission *s, Jsonb *json)
{
	Graph	   *graph = read_graph(json, INT_MAX);
	bool		inserted;
	int64		graph_id;

	connect_tasks(graph);
	order_tasks(graph);
	graph_id = insert_graph(s, &inserted);
	insert_tasks(s, graph, graph_id);
	return graph_id;
}

/*
 * SQL: sabot.submit_graph(graph jsonb, name text, queue text, priority int,
 * run_after timestamptz, schedule text, timeout interval, dedup_key text,
 * notify text) RETURNS bigint - queue the tasks of a graph, return its id
 *
 * timeout is for all of it, from when its first task may start.  With a
 * schedule, each run is such a graph.  Errors: as of
 * submit_job(); 22023 for what is no graph, a task after itself and a cycle,
 * 42704 for a task after one that is not there, 42710 for a name that is
 * there twice, 54000 for too many tasks.
 */
Datum
sabot_submit_graph(PG_FUNCTION_ARGS)
{
	SabotSubmission s;
	Graph	   *graph;
	int64		graph_id;
	bool		inserted;

	sabot_submission_begin(&s, "sabot.submit_graph()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("graph must not be null")));
	sabot_submission_identity(&s, fcinfo, 1, 2, 3);
	sabot_submission_run_after(&s, fcinfo, 4);
	sabot_submission_timeout(&s, fcinfo, 6);
	if (!PG_ARGISNULL(7))
		sabot_submission_set(&s, P_DEDUP_KEY, PG_GETARG_DATUM(7));
	sabot_submission_channel(&s, fcinfo, 8);

	graph = read_graph(PG_GETARG_JSONB_P(0), sabot_graph_max_tasks);
	connect_tasks(graph);
	order_tasks(graph);
	check_commands(graph);
	if (!PG_ARGISNULL(5))
		PG_RETURN_INT64(sabot_schedule_submit(&s, PG_GETARG_TEXT_PP(5),
											  PG_GETARG_JSONB_P(0), NULL));
	graph_id = insert_graph(&s, &inserted);
	if (inserted)
		insert_tasks(&s, graph, graph_id);
	PG_RETURN_INT64(graph_id);
}

/*
 * SQL: sabot.graph_dot(job_id bigint) RETURNS text - a graph as Graphviz text,
 * with the states of its tasks as colours
 *
 * 42704 if there is no such job, 22023 if it is no graph.
 */
Datum
sabot_graph_dot(PG_FUNCTION_ARGS)
{
	int64		job_id = PG_GETARG_INT64(0);
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(job_id)};
	MemoryContext caller = CurrentMemoryContext;
	SabotOwn	own;
	char	   *dot = NULL;

	(void) sabot_job_of_caller(job_id);
	SPI_connect();
	sabot_own_begin(&own);
	if (sabot_spi("SELECT sabot.graph_text($1)", 1, types, values, NULL, 1) > 0)
		dot = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (dot != NULL)
		dot = MemoryContextStrdup(caller, dot);
	sabot_own_end(&own);
	SPI_finish();
	if (dot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job " INT64_FORMAT " is no graph", job_id)));
	PG_RETURN_TEXT_P(cstring_to_text(dot));
}
