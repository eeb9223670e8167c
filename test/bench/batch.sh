# shellcheck shell=bash
#
# Rows 6 and 7: many jobs at once.

# forked_jobs - 100 times 100 ms, each in a session of its own, four at a time
forked_jobs()
{
	seq 100 | xargs -P 4 -I{} "$dir/bin/psql" -X -q -At -h "$dir" -U bench \
		-d bench -c 'SELECT pg_sleep(0.1)'
}

row_6()
{
	local i took forked ours=() theirs=() share

	agents 4 1
	for ((i = 0; i < rounds; i++)); do
		took=$(timed "CALL sabot.wait_for_jobs(sabot.submit_jobs(array_fill(
			'SELECT pg_sleep(0.1)'::text, ARRAY[100])))")
		forked=$(stopwatch forked_jobs)
		ours+=("$took")
		theirs+=("$forked")
		progress "row 6: jobs $took ms, sessions $forked ms"
	done
	took=$(median "${ours[@]}")
	record 6 '100 jobs of 100 ms, 4 agents' "$(ms "$took")" 'ideal 2500 ms' \
		"$(short "$(calc "$took / 2500")")" '≤ 1.1 ×' "$took" '<=' 2750
	share=$(calc "$(median "${ours[@]}") / $(median "${theirs[@]}")")
	record 6 'the same' "$(ms "$took")" \
		"psql and a backend forked per job, 4 at a time, $(ms "$(median "${theirs[@]}")")" \
		"$(short "$share")" '< 1 ×' "$share" '<' 1
}

# compare_submission NAME STATEMENT - time a statement that submits 10,000 jobs
# to a paused queue, and an INSERT of the very same rows into an equal table
compare_submission()
{
	local i submit insert ours=() plain=() share

	for ((i = 0; i < rounds; i++)); do
		empty_tables
		sql postgres -c CHECKPOINT
		submit=$(timed "$2")
		sql postgres -c 'CREATE TABLE sample AS SELECT * FROM sabot.job' \
			-c 'GRANT SELECT ON sample TO bench' -c CHECKPOINT
		insert=$(timed 'INSERT INTO equal_job SELECT * FROM sample')
		sql postgres -c 'DROP TABLE sample'
		ours+=("$submit")
		plain+=("$insert")
		progress "row 7: $1 $submit ms, INSERT $insert ms"
	done
	share=$(calc "$(median "${ours[@]}") / $(median "${plain[@]}")")
	record 7 "$1 of 10,000" "$(ms "$(median "${ours[@]}")")" \
		"INSERT … SELECT of the same rows, $(ms "$(median "${plain[@]}")")" \
		"$(short "$share")" '≤ 1.5 ×' "$share" '<=' 1.5
}

row_7()
{
	agents 4 1
	sql postgres -c "SELECT sabot.pause_queue('bench')" >/dev/null
	compare_submission submit_jobs "SELECT cardinality(sabot.submit_jobs(
		(SELECT array_agg(format('INSERT INTO effect VALUES (%s)', g))
			FROM generate_series(1, 10000) AS g), queue => 'bench'))"
	compare_submission submit_job_each "SELECT cardinality(sabot.submit_job_each(
		'$command', (SELECT jsonb_agg(jsonb_build_array(g))
			FROM generate_series(1, 10000) AS g), queue => 'bench'))"
	empty_tables
}
