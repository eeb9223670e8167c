# shellcheck shell=bash
#
# Rows 10 to 13: what an item of an LLM job costs beside the model.
#
# The model is the stand-in for Ollama (test/lib/ollama_stand_in): what a model
# would take is added by it, or is nothing.  Everything that a job is compared
# with asks the same stand-in and writes to the same table.

# llm_server OPTION... - have the stand-in run with these options; the model is
# loaded
llm_server()
{
	stop_ollama "$dir"
	start_ollama "$dir" "$@"
	url=http://127.0.0.1:$(cat "$dir/ollama.port")
	curl -sf -o /dev/null -d "$(llm_body 0)" "$url/api/chat"
	sql postgres -c "SELECT sabot.add_llm_endpoint('default', '$url')" >/dev/null
}

# llm_body ROW - the request for a row, as sabot writes it
llm_body()
{
	echo '{"model":"stand-in","messages":[{"role":"user","content":"Label this:' \
		"text number $1"'"}],"stream":false,"think":false,"truncate":false,' \
		'"options":{"seed":0,"temperature":0,"num_predict":512},"keep_alive":"10m"}'
}

# llm_rows ROWS - have as many rows to label
llm_rows()
{
	sql bench -c 'TRUNCATE ticket' \
		-c "INSERT INTO ticket SELECT g, 'text number ' || g FROM generate_series(1, $1) AS g" \
		-c 'VACUUM ANALYZE ticket'
	sql postgres -c CHECKPOINT
}

# llm_submit [OPTIONS] - submit the job that labels all rows; prints its id
llm_submit()
{
	sql bench -c "SELECT sabot.submit_llm_job('SELECT id, body FROM ticket ORDER BY id',
		'Label this: {body}', model => 'stand-in', target => 'ticket',
		output => 'label' ${1:+, $1})"
}

# llm_wait JOB - until it has ended; each row must have become an item, each
# item must have ended, and its answer or fallback must be in the table
llm_wait()
{
	local without unfinished lost

	sql bench -c "CALL sabot.wait_for_job($1)"
	read -r without unfinished lost < <(sql postgres -c "SELECT
			count(*) FILTER (WHERE r.item IS NULL),
			count(*) FILTER (WHERE r.state NOT IN ('done', 'fallback', 'failed')),
			count(*) FILTER (WHERE t.label IS DISTINCT FROM CASE
				WHEN r.state IN ('done', 'fallback') THEN r.value #>> '{}' END)
		FROM ticket AS t FULL JOIN
			(SELECT * FROM sabot.llm_result WHERE job_id = $1) AS r
			ON t.id = (r.key ->> 'id')::bigint")
	[ "$without $unfinished $lost" = '0 0 0' ] ||
		die "$without rows are no items, $unfinished items have not ended," \
			"$lost answers are not in the table"
}

# llm_job [OPTIONS] - have all rows labelled; prints the job's id
llm_job()
{
	local job

	job=$(llm_submit "$@")
	llm_wait "$job"
	echo "$job"
}

# llm_item_ms JOB - the median time from one item's commit to the next's
llm_item_ms()
{
	sql postgres -c "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY
			EXTRACT(epoch FROM gap) * 1000)
		FROM (SELECT finished_at - lag(finished_at) OVER (ORDER BY finished_at)
			FROM sabot.llm_answer WHERE job_id = $1) AS g (gap)"
}

# llm_busy - seconds the stand-in has been busy, and requests it has answered
llm_busy()
{
	echo "$(curl -s "$url/_stats" | sed -E \
		's/.*"answers":([0-9]+).*"busy_seconds":([0-9.e-]+).*/\2 \1/')"
}

# posts TIMES - the ms of each request of a plain libcurl loop
posts()
{
	[ -x "$dir/post_loop" ] ||
		gcc -O2 -o "$dir/post_loop" test/bench/post_loop.c -lcurl
	"$dir/post_loop" "$url/api/chat" "$(llm_body 1)" "$1"
}

# python_client ROWS OPTION... - see llm_client.py
python_client()
{
	local count=$1
	shift

	python3 test/bench/llm_client.py "$@" "$url" "$count" "$dir/bin/psql" -X -q \
		-At -h "$dir" -U bench -d bench -v ON_ERROR_STOP=1
}

# shell_loop ROWS - curl and psql for each
shell_loop()
{
	local i answer

	for ((i = 1; i <= $1; i++)); do
		answer=$(curl -s -d "$(llm_body "$i")" "$url/api/chat" |
			sed -E 's/.*"content":"([^"]*)".*/\1/')
		sql bench -c "UPDATE ticket SET label = '$answer' WHERE id = $i"
	done
}

row_10()
{
	local update post ours python shell job i share sum loop=20
	local updates=() posts=() items=() pythons=() shells=()

	llm_server --service fixed:0
	for ((i = 0; i < rounds; i++)); do
		llm_rows "$items_each"
		read -r update _ < <(latency "$items_each" "\\set id random(1, $items_each)
			UPDATE ticket SET label = 'Label this: text number 1' WHERE id = :id;")
		# shellcheck disable=SC2046 # numbers
		post=$(median $(posts "$items_each"))
		llm_rows "$items_each"
		job=$(llm_job)
		ours=$(llm_item_ms "$job")
		llm_rows "$items_each"
		read -r _ _ _ _ _ _ python < <(python_client "$items_each")
		shell=$(calc "$(stopwatch shell_loop $loop) / $loop")
		updates+=("$update")
		posts+=("$post")
		items+=("$ours")
		pythons+=("$python")
		shells+=("$shell")
		progress "row 10: UPDATE $update ms, POST $post ms, item $ours ms," \
			"in Python $python ms, in a shell $shell ms"
	done
	ours=$(median "${items[@]}")
	sum=$(calc "$(median "${updates[@]}") + $(median "${posts[@]}")")
	share=$(calc "$ours / $sum")
	record 10 'LLM item, answered at once, own commit, p50' "$(ms "$ours")" \
		"committed UPDATE $(ms "$(median "${updates[@]}")") + POST by a libcurl loop $(ms "$(median "${posts[@]}")")" \
		"$(short "$share")" '≤ 1.5 ×' "$share" '<=' 1.5
	share=$(calc "$ours / $(median "${pythons[@]}")")
	record 10 'the same' "$(ms "$ours")" \
		"a Python loop, connections kept, a commit per row, p50 $(ms "$(median "${pythons[@]}")")" \
		"$(short "$share")" '< 1 ×' "$share" '<' 1
	share=$(calc "$(median "${shells[@]}") / $ours")
	record 10 'the same' "$(ms "$ours")" \
		"curl and psql per row, mean $(ms "$(median "${shells[@]}")")" \
		"$(short "$share")" '≥ 10 × faster' "$share" '>=' 10
}

# idle_share ITEM_MS BEFORE AFTER - time of an item for which the server was
# not busy, as a share of 100 ms; what llm_busy said before and after
idle_share()
{
	awk '{ print (ms - 1000 * ($3 - $1) / ($4 - $2)) / 100 }' ms="$1" <<<"$2 $3"
}

# paced_update TIMES - the mean ms of an UPDATE that comes every 100 ms, as
# rarely as an item's
paced_update()
{
	pgbench_with "\\set id random(1, $1)
		\\sleep 100 ms
		UPDATE ticket SET label = 'Label this: text number 1' WHERE id = :id;" \
		-t "$1" -r | awk '/UPDATE/ { print $1 }'
}

# item_ms JOB - the mean time from one item's commit to the next's
item_ms()
{
	sql postgres -c "SELECT EXTRACT(epoch FROM max(finished_at) - min(finished_at))
		* 1000 / (count(*) - 1) FROM sabot.llm_answer WHERE job_id = $1"
}

row_11()
{
	local job i before between after update ours=() plain=() updates=()

	llm_server --service fixed:100ms
	for ((i = 0; i < rounds; i++)); do
		llm_rows 50
		update=$(paced_update 50)
		updates+=("$update")
		before=$(llm_busy)
		job=$(llm_job)
		between=$(llm_busy)
		ours+=("$(item_ms "$job")")
		ours[-1]=$(idle_share "${ours[-1]}" "$before" "$between")
		plain+=("$(posts 50 | awk '{ ms += $1 } END { print ms / NR }')")
		after=$(llm_busy)
		plain[-1]=$(idle_share "${plain[-1]}" "$between" "$after")
		progress "row 11: overhead ${ours[-1]}, of a plain loop ${plain[-1]};" \
			"UPDATE $update ms"
	done
	before=$(median "${ours[@]}")
	after=$(ms "$(calc "100 * $(median "${plain[@]}")")")
	record 11 'LLM item, service time 100 ms: what comes on top' \
		"$(ms "$(calc "100 * $before")")" \
		"the server's own busy time (a libcurl loop that only asks: $after on top; an UPDATE as seldom: $(ms "$(median "${updates[@]}")"))" \
		"+ $(short "$(calc "100 * $before")") %" '≤ 1 %' "$before" '<=' 0.01
}

# good_rows JOB - items answered by the model per second, and the share of
# attempts that timed out
good_rows()
{
	sql postgres -c "SELECT count(*) FILTER (WHERE state = 'done') /
			EXTRACT(epoch FROM max(finished_at) - min(finished_at))::float8,
		(SELECT count(*) FROM sabot.llm_failure
			WHERE job_id = $1 AND error_class = 'timeout') / sum(attempts)::float8
		FROM sabot.llm_answer WHERE job_id = $1"
}

row_12()
{
	local job i rate share good requests timeouts seconds
	local rates=() shares=() theirs=() their_shares=()

	for ((i = 0; i < rounds; i++)); do
		llm_server --service lognormal:140ms,0.4 --seed "$i"
		llm_rows 200
		job=$(llm_job "timeout => '300 ms', fallback => '-'")
		read -r rate share < <(good_rows "$job")
		llm_server --service lognormal:140ms,0.4 --seed "$i"
		llm_rows 200
		read -r good requests timeouts seconds _ < <(python_client 200 \
			--processes 4 --timeout 0.4 --attempts 3 --seconds 40)
		rates+=("$rate")
		shares+=("$share")
		theirs+=("$(calc "$good / $seconds")")
		their_shares+=("$(calc "$timeouts / $requests")")
		progress "row 12: $rate/s, timeouts $share; client ${theirs[-1]}/s," \
			"timeouts ${their_shares[-1]}"
	done
	comparison_rows
}

# percent SHARE - a share for the reader
percent()
{
	awk "BEGIN { printf \"%.1f %%\", 100 * $1 }"
}

# comparison_rows - the lines of row 12, of what row_12 has measured
comparison_rows()
{
	local rate share

	rate=$(calc "$(median "${rates[@]}") / $(median "${theirs[@]}")")
	record 12 'rows/s, lognormal 140 ms, one at a time, 300 ms, 2 attempts' \
		"$(short "$(median "${rates[@]}")")/s" \
		"4 at a time, 400 ms, 3 attempts $(short "$(median "${theirs[@]}")")/s" \
		"$(short "$rate")" '≥ 2 ×' "$rate" '>=' 2
	share=$(median "${shares[@]}")
	record 12 'requests that time out' "$(percent "$share")" \
		"that client $(percent "$(median "${their_shares[@]}")")" \
		"$(short "$(calc "$share / $(median "${their_shares[@]}")")")" \
		'≤ 10 %' "$share" '<=' 0.1
	share=$(median "${their_shares[@]}")
	record 12 'requests of that client that time out' "$(percent "$share")" \
		'published ~ 75 %' "$(short "$(calc "$share / 0.75")")" '≥ 60 %' "$share" '>=' 0.6
}

# watch_job JOB FILE - look at a job until it has ended: finished items, memory
# in bytes, ETA and now in seconds, a line each
watch_job()
{
	local line

	while [ "$(sql bench -c "SELECT sabot.job_state($1)")" != completed ]; do
		line=$(sql postgres -c "SELECT done + fallback + failed, worker_rss_bytes,
				EXTRACT(epoch FROM eta), EXTRACT(epoch FROM clock_timestamp())
			FROM sabot.llm_progress WHERE job_id = $1")
		echo "$line" >> "$2"
		sleep 0.5
	done
}

# after_share SHARE COLUMN... - of the first line that watch_job wrote when that
# share of the items had ended; zeros if all had before it looked
after_share()
{
	local share=$1
	shift

	awk -v least="$(calc "$share * $many")" -F '\t' -v columns="$*" \
		'$1 >= least && $3 != "" { n = split(columns, c, " ")
			for (i = 1; i <= n; i++) printf "%s ", $c[i]
			seen = 1
			exit }
		END { print seen ? "" : "0 0" }' "$dir/watched"
}

# slowdown JOB - how much longer the last tenth took than the first
slowdown()
{
	sql postgres -c "WITH a AS (SELECT finished_at,
			row_number() OVER (ORDER BY finished_at) AS n
			FROM sabot.llm_answer WHERE job_id = $1)
		SELECT (SELECT EXTRACT(epoch FROM max(finished_at) - min(finished_at)) FROM a
				WHERE n > $many * 0.9)
			/ (SELECT EXTRACT(epoch FROM max(finished_at) - min(finished_at)) FROM a
				WHERE n <= $many * 0.1)"
}

row_13()
{
	local job end cpu slow seconds their_cpu their_memory good

	llm_server --service fixed:0
	llm_rows "$many"
	: > "$dir/watched"
	job=$(llm_submit)
	watch_job "$job" "$dir/watched"
	llm_wait "$job"
	read -r end cpu seconds < <(sql postgres -c "SELECT
			EXTRACT(epoch FROM max(a.finished_at)),
			(SELECT cpu_ms FROM sabot.llm_count WHERE job_id = $job) / count(*),
			EXTRACT(epoch FROM max(a.finished_at) - min(a.finished_at))
		FROM sabot.llm_answer AS a WHERE a.job_id = $job")
	slow=$(slowdown "$job")
	progress "row 13: $many items in $seconds s, $cpu ms of CPU each"
	llm_rows "$many"
	read -r good _ _ _ their_cpu their_memory _ < <(python_client "$many" --processes 4)
	[ "$good" = "$many" ] || die "the client has answered $good rows"
	many_rows
}

# many_rows - the lines of row 13, of what row_13 has measured
many_rows()
{
	local rss last eta at

	record 13 "$many LLM items: the last tenth" "$(ms "$(calc "1000 * $seconds / $many")") an item" \
		'the first tenth' "$(short "$slow")" '≤ 1.1 ×' "$slow" '<=' 1.1
	read -r rss < <(after_share 0.1 2)
	read -r last < <(tail -n 1 "$dir/watched" | cut -f 2)
	record 13 'memory of the worker in the end' "$((last / 1024)) kB" \
		"after a tenth $((rss / 1024)) kB" "+ $(((last - rss) / 1024)) kB" \
		'< 1 MB' "$((last - rss))" '<' 1048576
	read -r eta at < <(after_share 0.2 3 4)
	eta=$(calc "$eta / ($end - $at)")
	record 13 'ETA after a fifth' "$(short "$eta")" 'the truth' \
		"$(short "$eta")" '0.85 to 1.15 ×' "($eta - 1) ^ 2" '<=' '0.15 ^ 2'
	their_cpu=$(calc "1000 * $their_cpu / $many")
	record 13 'CPU of the worker per item' "$(ms "$cpu")" \
		"four processes in Python, with psql and its sessions $(ms "$their_cpu")" \
		"$(short "$(calc "$cpu / $their_cpu")")" 'reported' 0 '<' 1
	record 13 'memory of the worker' "$((last / 1024)) kB" \
		"these four, with psql $their_memory kB" \
		"$(short "$(calc "$last / 1024 / $their_memory")")" 'reported' 0 '<' 1
}
