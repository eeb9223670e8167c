# shellcheck shell=bash
#
# Rows 4 and 5: how fast waiting jobs are worked off.

command='INSERT INTO effect VALUES ($1)'

# empty_tables - as in a new database, for both sides
empty_tables()
{
	sql postgres -c "SET client_min_messages = warning;
		TRUNCATE sabot.job, sabot.job_history, sabot.job_attempt_log,
			sabot.job_dependency,
			equal_job, equal_history, effect"
}

# enqueue JOBS [OPTIONS] - submit as many jobs to the queue "bench", which is
# paused first; prints the ids of the first and the last
enqueue()
{
	sql postgres -c "SELECT sabot.pause_queue('bench')" >/dev/null
	sql bench -c "SELECT ids[1], ids[cardinality(ids)] FROM
		(SELECT sabot.submit_job_each('$command',
			(SELECT jsonb_agg(jsonb_build_array(g)) FROM generate_series(1, $1) AS g),
			queue => 'bench' ${2:+, $2}) AS ids) AS s"
}

# drain JOB... - let the queue "bench" run; prints the seconds until each of
# these jobs was gone
drain()
{
	sql postgres -c "CALL drain('{$(tr ' ' ',' <<<"$*")}', NULL)" | tr -d '{}' | tr ',' ' '
}

# check_effects JOBS - each job must have had its effect, and once
check_effects()
{
	local seen

	seen=$(sql bench -c 'SELECT count(*), count(DISTINCT n) FROM effect
		WHERE n > 0')
	[ "$seen" = "$1"$'\t'"$1" ] ||
		die "$1 jobs, but effects and distinct effects are: $seen"
}

# settle TABLE... - no housekeeping of either side may fall into the other's time
settle()
{
	local table args=()

	for table; do
		args+=(-c "VACUUM ANALYZE $table")
	done
	sql postgres "${args[@]}" -c CHECKPOINT
}

# sabot_rate JOBS - enqueue and drain as many jobs; prints jobs per second
sabot_rate()
{
	local first last taken

	sql bench -c 'TRUNCATE effect'
	read -r first last < <(enqueue "$1")
	settle sabot.job
	taken=$(drain "$last")
	check_effects "$1"
	calc "$1 / $taken"
}

# claim N - the WITH items by which a script takes the next N waiting jobs
claim()
{
	local pair

	pair=$(sql postgres -c "SELECT format('owner = %s AND home = %s',
		'bench'::regrole::oid, sabot.home())")
	echo "next AS (SELECT job_id, params FROM equal_job
		WHERE $pair AND queue = 'bench' AND state = 'queued'
		ORDER BY owner, home, queue, (-priority), job_id
		LIMIT $1 FOR UPDATE SKIP LOCKED)"
}

# script_marking N, script_moving N - claim N jobs, have their effects and
# complete them, in one statement: by a new state, or by moving them to history
script_marking()
{
	echo "WITH $(claim "$1"),
		done AS (INSERT INTO effect SELECT (params ->> 0)::bigint FROM next)
		UPDATE equal_job SET state = 'completed', attempt = 1
		WHERE job_id = ANY (ARRAY(SELECT job_id FROM next));"
}
script_moving()
{
	echo "WITH $(claim "$1"),
		done AS (INSERT INTO effect SELECT (params ->> 0)::bigint FROM next),
		gone AS (DELETE FROM equal_job
			WHERE job_id = ANY (ARRAY(SELECT job_id FROM next)) RETURNING *)
		INSERT INTO equal_history SELECT gone.*, clock_timestamp(),
			pg_backend_pid(), 'INSERT 0 1', 1 FROM gone;"
}

# script_rate JOBS N SCRIPT - have two pgbench clients do as many jobs with a
# script that does N at a time; prints jobs per second
script_rate()
{
	local tps

	sql bench -c 'TRUNCATE effect, equal_job, equal_history'
	read -r _ < <(enqueue "$1")
	sql postgres -c 'INSERT INTO equal_job SELECT * FROM sabot.job' \
		-c 'TRUNCATE sabot.job'
	settle equal_job
	# One more than enough for each client: the last find nothing.
	tps=$(pgbench_with "$3" -c 2 -j 2 -t $(($1 / $2 / 2 + 1)) |
		awk '/^tps/ { print $3 }')
	check_effects "$1"
	calc "$tps * $2 * $1 / ($1 + 2 * $2)"
}

# compare_drains ROW WHAT N SHARE - sabot's agents, with sabot.group_commit = N,
# against the scripts that do N at a time
compare_drains()
{
	local i sabot marking moving ours=() marked=() moved=() best name share

	agents 2 "$3"
	for ((i = 0; i < rounds; i++)); do
		empty_tables
		sabot=$(sabot_rate "$jobs")
		marking=$(script_rate "$jobs" "$3" "$(script_marking "$3")")
		moving=$(script_rate "$jobs" "$3" "$(script_moving "$3")")
		ours+=("$sabot")
		marked+=("$marking")
		moved+=("$moving")
		progress "row $1: sabot $sabot/s, script $marking/s, with history $moving/s"
	done
	best=("${marked[@]}")
	name='pgbench, UPDATE'
	if [ "$(calc "$(median "${moved[@]}") > $(median "${marked[@]}")")" = 1 ]; then
		best=("${moved[@]}")
		name='pgbench, moving to history'
	fi
	share=$(calc "$(median "${ours[@]}") / $(median "${best[@]}")")
	record "$1" "$2" "$(per_s "$(median "${ours[@]}")")" \
		"$name $(per_s "$(median "${best[@]}")")" "$(short "$share")" \
		"≥ $4" "$share" '>=' "$4"
}

row_4()
{
	compare_drains 4 "$jobs waiting jobs, an INSERT each, 2 agents, own commits" 1 0.7
}

row_5()
{
	compare_drains 5 'the same with sabot.group_commit = 100' 100 0.25
}
