# shellcheck shell=bash
#
# Row 22: an UPDATE of a whole table, plain and in pieces.

# fill_account - a table anew, as large as asked for, nothing of it dirty
fill_account()
{
	sql bench -c 'DROP TABLE IF EXISTS account' \
		-c 'CREATE TABLE account (id bigint, x int NOT NULL DEFAULT 0, note text)' \
		-c "INSERT INTO account SELECT i, 0, 'account ' || i FROM generate_series(1, $1) AS i" \
		-c 'ALTER TABLE account ADD PRIMARY KEY (id)' -c 'VACUUM ANALYZE account'
	sql postgres -c CHECKPOINT
}

# plain_update - milliseconds of the plain UPDATE, and the share of a core that
# it used
plain_update()
{
	sql bench <<'SQL' | awk '/^cpu/ { cpu[n++] = $2 } /^Time:/ { ms = $2 }
		END { print ms, (cpu[1] - cpu[0]) * 1000 / hz / ms }' hz="$(getconf CLK_TCK)"
SELECT pg_backend_pid() AS pid \gset
\setenv PID :pid
\! awk '{ print "cpu", $14 + $15 }' /proc/$PID/stat
\timing on
UPDATE account SET x = x + 1;
\timing off
\! awk '{ print "cpu", $14 + $15 }' /proc/$PID/stat
SQL
}

row_22()
{
	local i rows=${BENCH_ROWS:-5000000} plain spread cpu longest ratio
	local ours=() theirs=() cores=() pieces=()

	agents 2 1
	for ((i = 0; i < rounds; i++)); do
		fill_account "$rows"
		read -r plain cpu <<<"$(plain_update)"
		fill_account "$rows"
		spread=$(timed "CALL sabot.wait_for_job(sabot.submit_job(
			'UPDATE account SET x = x + 1', over => 'account'))")
		[ "$(sql bench -c 'SELECT DISTINCT x FROM account')" = 1 ] ||
			die 'a row was not updated exactly once'
		longest=$(sql bench -c "SELECT EXTRACT(epoch FROM max(finished_at - started_at)) * 1000
			FROM sabot.job_task WHERE parent_id = (SELECT max(job_id) FROM sabot.job_status WHERE kind = 'spread')")
		ours+=("$spread")
		theirs+=("$plain")
		cores+=("$cpu")
		pieces+=("$longest")
		progress "row 22: plain $plain ms ($cpu of a core), in pieces $spread ms, longest transaction $longest ms"
	done
	sql bench -c 'DROP TABLE account'
	ratio=$(calc "$(median "${theirs[@]}") / $(median "${ours[@]}")")
	record 22 "UPDATE of $rows rows in pieces, 2 agents; the longest transaction $(ms "$(median "${pieces[@]}")")" \
		"$(ms "$(median "${ours[@]}")")" \
		"one plain UPDATE, $(short "$(median "${cores[@]}")") of a core, $(ms "$(median "${theirs[@]}")")" \
		"$(short "$ratio")" '≥ 1.5 × faster' "$ratio" '>=' 1.5
}
