# shellcheck shell=bash
#
# Rows 1 to 3: how long one job takes, and an agent to start.

# cold_job_ms TIMES - as often: have the agents leave, then time a job for
# which one has to be started; prints one value per line
cold_job_ms()
{
	local args=() i

	for ((i = 0; i < $1; i++)); do
		args+=(-c 'SELECT sabot.stop_agents()' -c '\timing on'
			-c "CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'))"
			-c '\timing off')
	done
	sql bench "${args[@]}" | awk '/^Time:/ { print $2 }'
}

# connection_ms TIMES - mean time of a connection and a SELECT 1 by it
connection_ms()
{
	pgbench_with 'SELECT 1;' -C -t "$1" |
		awk '/^tps/ { print 1000 / $3 }'
}

row_1()
{
	local insert one two p50 p95 script i
	local inserts=() ones=() twos=() colds=() connections=()
	local insert_spreads=() one_spreads=() two_spreads=()

	agents 4 1
	for ((i = 0; i < rounds; i++)); do
		script="INSERT INTO entry (note) VALUES ('x');"
		read -r insert p95 < <(latency 1000 "$script")
		inserts+=("$insert")
		insert_spreads+=("$(calc "$p95 / $insert")")

		script="SELECT sabot.submit_job('SELECT 1') AS id \\gset
			CALL sabot.wait_for_job(:id);"
		read -r two p95 < <(latency 1000 "$script")
		twos+=("$two")
		two_spreads+=("$(calc "$p95 / $two")")

		script="CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'));"
		read -r one p95 < <(latency 1000 "$script")
		ones+=("$one")
		one_spreads+=("$(calc "$p95 / $one")")
		progress "row 1: INSERT $insert ms, job in two statements $two ms, in one $one ms"

		mapfile -t p50 < <(cold_job_ms 20)
		colds+=("$(median "${p50[@]}")")
		connections+=("$(connection_ms 100)")
	done
	latency_rows
}

# latency_rows - the lines of row 1, of what row_1 has measured
latency_rows()
{
	local p50 spread

	p50=$(calc "$(median "${twos[@]}") / $(median "${inserts[@]}")")
	record 1 'submit → wait returns, two statements, p50' \
		"$(ms "$(median "${twos[@]}")")" "committed INSERT, p50 $(ms "$(median "${inserts[@]}")")" \
		"$(short "$p50")" '≤ 4 ×' "$p50" '<=' 4
	p50=$(calc "$(median "${ones[@]}") / $(median "${inserts[@]}")")
	record 1 'the same in one CALL, p50' \
		"$(ms "$(median "${ones[@]}")")" 'that INSERT' \
		"$(short "$p50")" '≤ 4 ×' "$p50" '<=' 4
	spread=$(least "${two_spreads[@]}")
	record 1 'two statements, p95 ÷ p50, best round' "$(short "${two_spreads[@]}")" \
		"that INSERT $(short "$(least "${insert_spreads[@]}")")" \
		"$(short "$spread")" '≤ 3 ×' "$spread" '<=' 3
	spread=$(least "${one_spreads[@]}")
	record 1 'one CALL, p95 ÷ p50, best round' "$(short "${one_spreads[@]}")" \
		"that INSERT $(short "$(least "${insert_spreads[@]}")")" \
		"$(short "$spread")" '≤ 3 ×' "$spread" '<=' 3
	p50=$(calc "$(median "${ones[@]}") / $(median "${colds[@]}")")
	record 1 'one CALL, p50' "$(ms "$(median "${ones[@]}")")" \
		"a worker forked per job, p50 $(ms "$(median "${colds[@]}")")" \
		"$(short "$p50")" '< 1 ×' "$p50" '<' 1
	p50=$(calc "$(median "${ones[@]}") / $(median "${connections[@]}")")
	record 1 'one CALL, p50' "$(ms "$(median "${ones[@]}")")" \
		"a connection and SELECT 1 per job, mean $(ms "$(median "${connections[@]}")")" \
		"$(short "$p50")" '< 1 ×' "$p50" '<' 1
}

row_2()
{
	local select run i over
	local selects=() runs=()

	agents 4 1
	for ((i = 0; i < rounds; i++)); do
		read -r select _ < <(latency 3000 'SELECT 1;')
		read -r run _ < <(latency 3000 "SELECT sabot.run('SELECT 1');")
		selects+=("$select")
		runs+=("$run")
		progress "row 2: SELECT 1 $select ms, sabot.run('SELECT 1') $run ms"
	done
	over=$(calc "$(median "${runs[@]}") - $(median "${selects[@]}")")
	record 2 "sabot.run('SELECT 1'), p50" "$(ms "$(median "${runs[@]}")")" \
		"SELECT 1 on an open session, p50 $(ms "$(median "${selects[@]}")")" \
		"+ $(ms "$over")" '≤ 0.3 ms over' "$over" '<=' 0.3
}

row_3()
{
	local first start i j
	local firsts=() starts=() args=()

	sql postgres -c 'ALTER ROLE bench RESET ALL'
	for ((j = 0; j < 10; j++)); do
		args+=(-c 'SELECT sabot.stop_agents()' -c 'SELECT sabot.start_agents(1)')
	done
	for ((i = 0; i < rounds; i++)); do
		"${as_server[@]}" sh -c "cd '$dir' &&
			bin/pg_ctl -D data -l server.log -w -m fast restart >/dev/null"
		first=$(timed "CALL sabot.wait_for_job(sabot.submit_job('SELECT 1'))")
		sql bench "${args[@]}" >/dev/null
		start=$(sql bench -c "SELECT p50_ms FROM sabot.overhead_profile
			WHERE component = 'agent start'")
		firsts+=("$first")
		starts+=("$start")
		progress "row 3: first job $first ms, agent start $start ms"
	done
	start=$(median "${starts[@]}")
	record 3 'agent start, p50' "$(ms "$start")" 'published 120 ms' \
		"$(short "$(calc "$start / 120")")" '≤ 20 ms' "$start" '<=' 20
	first=$(median "${firsts[@]}")
	record 3 'first job after server start' "$(ms "$first")" 'published 300 ms' \
		"$(short "$(calc "$first / 300")")" '≤ 50 ms' "$first" '<=' 50
}
