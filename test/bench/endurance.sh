# shellcheck shell=bash
#
# Rows 8 and 9: whether all stays as it was, however much there is to do, has
# been done, or cannot be cleaned up.

# load_waiting JOBS - fill the queue "bench", paused, with other jobs of low
# priority; their effects are negative numbers
load_waiting()
{
	sql postgres -c "SELECT sabot.pause_queue('bench')" >/dev/null
	sql bench -c "SELECT sabot.submit_job_each('$command', '[[-1]]',
		queue => 'bench', priority => -1)" >/dev/null
	sql postgres -c "INSERT INTO sabot.job (owner, owner_name, home, queue,
			priority, retry_delay, command, params, settings)
		SELECT j.owner, j.owner_name, j.home, j.queue, j.priority,
			j.retry_delay, j.command, jsonb_build_array(-g), j.settings
		FROM sabot.job AS j, generate_series(2, $1) AS g"
}

# load_history JOBS - have as many jobs finished in the last six days, all
# like one that has
load_history()
{
	sabot_rate 1 >/dev/null
	sql postgres -c "INSERT INTO sabot.job_history (job_id, kind, owner,
			owner_name, home, queue, priority, state, attempt, max_attempts,
			losses, free_retries, keep_rows, submitted_at, retry_delay,
			command, params, settings, started_at, finished_at, pid,
			command_tag, row_count)
		SELECT nextval('sabot.job_job_id_seq'), kind, owner, owner_name, home,
			queue, priority, state, attempt, max_attempts, losses,
			free_retries, keep_rows, at, retry_delay, command, params,
			settings, at, at, pid, command_tag, row_count
		FROM (SELECT * FROM sabot.job_history LIMIT 1) AS h,
			generate_series(1, $1) AS g,
			LATERAL (SELECT now() - interval '6 days' * (1 - g / $1.0)) AS t (at)" \
		-c 'VACUUM ANALYZE sabot.job_history'
}

# hold_snapshot - begin a transaction elsewhere that sees all as it is now;
# release_snapshot ends it
hold_snapshot()
{
	sql postgres -c 'BEGIN ISOLATION LEVEL REPEATABLE READ' \
		-c "SET application_name = 'holds a snapshot'" \
		-c 'SELECT txid_current()' -c 'SELECT count(*) FROM entry' \
		-c 'SELECT pg_sleep(3600)' >/dev/null 2>&1 &
	sql postgres -c "DO \$\$ BEGIN
		FOR i IN 1..500 LOOP
			PERFORM pg_stat_clear_snapshot();
			IF EXISTS (SELECT FROM pg_stat_activity
					WHERE application_name = 'holds a snapshot'
						AND wait_event = 'PgSleep') THEN
				RETURN;
			END IF;
			PERFORM pg_sleep(0.01);
		END LOOP;
		RAISE 'no session holds a snapshot';
	END \$\$"
}
release_snapshot()
{
	sql postgres -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'holds a snapshot'" >/dev/null
	wait
}

# head_rate JOBS - the rate at which the first of the loaded jobs are done
head_rate()
{
	local last taken seen

	sql postgres -c 'TRUNCATE effect, sabot.job_history'
	settle sabot.job
	last=$(sql postgres -c "SELECT job_id FROM sabot.job ORDER BY job_id
		OFFSET $1 - 1 LIMIT 1")
	taken=$(drain "$last")
	seen=$(sql postgres -c "SELECT j >= $1 AND j = e AND j = d, j, e, d FROM
		(SELECT (SELECT count(*) FROM sabot.job_history) AS j,
			count(*) AS e, count(DISTINCT n) AS d FROM effect) AS s")
	[[ $seen = t* ]] || die "jobs, effects and distinct effects are: $seen"
	calc "$1 / $taken"
}

# held_rates JOBS - while a snapshot is held, drain ten times as many jobs, that
# wait all at once; prints the rates of the first tenth, the last, and of all
held_rates()
{
	local id ids=() i at

	hold_snapshot
	for ((i = 0; i < 10; i++)); do
		read -r _ id < <(enqueue "$1")
		ids+=("$id")
	done
	read -r -a at < <(drain "${ids[0]}" "${ids[8]}" "${ids[9]}")
	release_snapshot
	echo "$(calc "$1 / ${at[0]}") $(calc "$1 / (${at[2]} - ${at[1]})")" \
		"$(calc "10 * $1 / ${at[2]}")"
}

# held_again_rate JOBS - while a snapshot is held, submit and drain as many jobs
# ten times; prints the last rate
held_again_rate()
{
	local id i at

	empty_tables
	hold_snapshot
	for ((i = 0; i < 10; i++)); do
		read -r _ id < <(enqueue "$1")
		at=$(drain "$id")
	done
	release_snapshot
	calc "$1 / $at"
}

# repeat COMMAND... - its output, a value, for every round
repeat()
{
	local i values=()

	for ((i = 0; i < rounds; i++)); do
		values+=("$("$@")")
	done
	echo "${values[*]}"
}

# compare_rates WHAT RATES EMPTY - a line of row 8: rates against those on an
# empty queue, measured before and after them
compare_rates()
{
	local share

	share=$(calc "$(median $2) / $(median $3)")
	record 8 "drain, group_commit = $group, $1" "$(per_s "$(median $2)")" \
		"on an empty queue $(per_s "$(median $3)")" "$(short "$share")" \
		'≥ 0.8' "$share" '>=' 0.8
}

# drain_beside_waiting, drain_beside_history, drain_beside_snapshot - what is
# measured between two measurements of an empty queue; set the variables that
# are local to drain_under_load
drain_beside_waiting()
{
	load_waiting "$waiting"
	others=$(repeat sabot_rate "$jobs")
	progress "row 8: $waiting others wait: $others"
	heads=$(repeat head_rate "$jobs")
	progress "row 8: the first of these: $heads"
}
drain_beside_history()
{
	load_history "$history"
	finished=$(repeat sabot_rate "$jobs")
	progress "row 8: $history finished: $finished"
}
drain_beside_snapshot()
{
	local i last whole

	for ((i = 0; i < rounds; i++)); do
		empty_tables
		read -r _ last whole < <(held_rates "$jobs")
		lasts+=" $last"
		wholes+=" $whole"
		progress "row 8: snapshot held: $whole, in the end $last"
	done
	again=$(repeat held_again_rate "$jobs")
	progress "row 8: snapshot held, the tenth time: $again"
}

# drain_under_load GROUP_COMMIT - row 8 with that many jobs per commit
drain_under_load()
{
	local group=$1 others heads finished lasts='' wholes='' again
	local empty=() kind

	agents 2 "$group"
	for kind in '' waiting history snapshot; do
		[ -z "$kind" ] || "drain_beside_$kind"
		empty_tables
		empty+=("$(repeat sabot_rate "$jobs")")
		progress "row 8: empty queue: ${empty[-1]}"
	done
	compare_rates "$waiting others waiting" "$others" "${empty[*]:0:2}"
	compare_rates "the first of $waiting" "$heads" "${empty[*]:0:2}"
	compare_rates "$history finished" "$finished" "${empty[*]:1:2}"
	compare_rates "snapshot held, all of $((10 * jobs)) waiting jobs" "$wholes" \
		"${empty[*]:2:2}"
	compare_rates 'their last tenth' "$lasts" "${empty[*]:2:2}"
	compare_rates "snapshot held, the tenth time $jobs" "$again" "${empty[*]:2:2}"
	empty_tables
}

row_8()
{
	drain_under_load 100
	[ -z "$full" ] || drain_under_load 1
}

# agent_memory - bytes in use by role bench's only agent, by its own count and
# as anonymous memory of its process
agent_memory()
{
	local pid own jobs_done

	read -r pid own jobs_done < <(sql bench -c 'SELECT pid, memory_bytes, jobs_done
		FROM sabot.agent_status')
	echo "$own $(awk '/^RssAnon/ { print $2 * 1024 }' "/proc/$pid/status") $pid $jobs_done"
}

# memory_growth GROUP_COMMIT - row 9 with that many jobs per commit
memory_growth()
{
	local before after after_rss before_rss pid same id first i grown

	agents 1 "$1" synchronous_commit=off		# faster, and nothing else
	empty_tables
	read -r _ id < <(enqueue 1000)
	drain "$id" >/dev/null
	read -r before before_rss pid first < <(agent_memory)
	for ((i = 0; i < 5; i++)); do
		read -r _ id < <(enqueue "$jobs")
		drain "$id" >/dev/null
	done
	read -r after after_rss same i < <(agent_memory)
	[ "$same" = "$pid" ] || die "the agent has been replaced"
	progress "row 9: $before bytes after $first jobs, $after after $i;" \
		"anonymous memory $before_rss, then $after_rss"
	grown=$((after - before))
	record 9 "memory of an agent after $i jobs, group_commit = $1" \
		"$((after / 1024)) kB" "after $first jobs $((before / 1024)) kB" \
		"+ $((grown / 1024)) kB (process: + $(((after_rss - before_rss) / 1024)) kB)" \
		'< 1 MB' "$grown" '<' 1048576
	empty_tables
}

row_9()
{
	memory_growth 1
	memory_growth 100
}
