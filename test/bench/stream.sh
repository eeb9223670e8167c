# shellcheck shell=bash
#
# Row 23: streams: what capture costs those who write, and how far behind the
# stream is.

# stream_tables - equal tables: one with a stream, one with a trigger such as
# one writes by hand, one with neither
stream_tables()
{
	local table

	sql bench -c 'CREATE SCHEMA streams'
	for table in streamed triggered plain; do
		sql bench -c "CREATE TABLE streams.$table (
			id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			customer int, amount numeric, note text)"
	done
	sql bench -c 'CREATE TABLE streams.total (customer int PRIMARY KEY, amount numeric)' \
		-c 'CREATE TABLE streams.change (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			op text, at timestamptz, LIKE streams.plain)' \
		-c "CREATE FUNCTION streams.keep() RETURNS trigger LANGUAGE plpgsql AS
			\$\$BEGIN
				INSERT INTO streams.change (op, at, id, customer, amount, note)
					SELECT TG_OP, clock_timestamp(), id, customer, amount, note FROM new_rows;
				RETURN NULL;
			END\$\$" \
		-c 'CREATE TRIGGER keep AFTER INSERT ON streams.triggered
			REFERENCING NEW TABLE AS new_rows
			FOR EACH STATEMENT EXECUTE FUNCTION streams.keep()'
	stream=$(sql bench -c "SELECT sabot.submit_stream('streams.streamed',
		'INSERT INTO streams.total AS t SELECT customer, sum(amount) FROM batch GROUP BY 1
			ORDER BY 1 ON CONFLICT (customer) DO UPDATE SET amount = t.amount + excluded.amount')")
}

# empty_stream_tables - begin with nothing, and nothing that is waiting
empty_stream_tables()
{
	sql bench -c "SELECT sabot.resume_job($stream)" >/dev/null
	await_stream
	sql bench -c "SELECT sabot.pause_job($stream)" \
		-c 'TRUNCATE streams.streamed, streams.triggered, streams.plain, streams.change' >/dev/null
	sql postgres -c 'VACUUM' -c 'CHECKPOINT'
}

# await_stream - return once the stream has handed over everything
await_stream()
{
	local i

	for i in {1..3000}; do
		[ "$(sql bench -c "SELECT lag_rows FROM sabot.stream_status
			WHERE job_id = $stream")" != 0 ] || return 0
		sleep 0.1
	done
	die "the stream has not handed over its rows ($i looks)"
}

# write_rate TABLE ROWS [ARGUMENT...] - transactions per second of one client
# that inserts so many rows in each
write_rate()
{
	pgbench_with "INSERT INTO streams.$1 (customer, amount, note)
		SELECT i % 100, 1, 'a row of ordinary length' FROM generate_series(1, $2) AS i;" \
		-T 5 "${@:3}" | sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

# most_lag - the longest that a row had been waiting, in ms, looked at ten times
# a second until the pgbench with that pid ends
most_lag()
{
	local ms most=0

	while kill -0 "$1" 2>/dev/null; do
		ms=$(sql bench -c "SELECT EXTRACT(epoch FROM lag) * 1000
			FROM sabot.stream_status WHERE job_id = $stream")
		most=$(calc "$ms > $most ? $ms : $most")
		sleep 0.1
	done
	echo "$most"
}

# capture_rows ROWS OTHER WHAT COMPARED LIMIT - compare inserting into the table
# with the stream, which is paused, with inserting into another one; leaves the
# rate in saturated
capture_rows()
{
	local i ours theirs all_ours=() all_theirs=() ratios=() ratio

	for ((i = 0; i < rounds; i++)); do
		empty_stream_tables
		ours=$(write_rate streamed "$1")
		theirs=$(write_rate "$2" "$1")
		all_ours+=("$ours")
		all_theirs+=("$theirs")
		ratios+=("$(calc "$ours / $theirs")")
		progress "row 23: $1 rows per commit, captured $ours/s, $2 $theirs/s"
	done
	ratio=$(median "${ratios[@]}")
	saturated=$(median "${all_ours[@]}")
	record 23 "$3" "$(per_s "$saturated")" "$4, $(per_s "$(median "${all_theirs[@]}")")" \
		"$(short "$ratio")" "≥ $5 ×" "$ratio" '>=' "$5"
}

# lag_row ROWS WHAT - how far behind the stream comes at half of saturated
lag_row()
{
	local i lag lags=() rate

	for ((i = 0; i < rounds; i++)); do
		empty_stream_tables
		sql bench -c "SELECT sabot.resume_job($stream)" >/dev/null
		write_rate streamed "$1" -T 10 -R "$(calc "int($saturated / 2)")" > "$dir/rate" &
		lag=$(most_lag $!)
		wait $!
		rate=$(cat "$dir/rate")
		lags+=("$lag")
		progress "row 23: $1 rows per commit at $rate/s, lag at most $lag ms"
	done
	lag=$(median "${lags[@]}")
	record 23 "$2" "$(ms "$lag")" "stream on, load at half of that rate" \
		'' '< 2000 ms' "$lag" '<' 2000
}

row_23()
{
	local stream saturated

	agents 2 1
	stream_tables
	capture_rows 100 triggered 'INSERTs of 100 rows, a commit each, captured' \
		'a statement-level trigger with a transition table' 0.9
	lag_row 100 'the most that a captured row waits'
	capture_rows 1 plain 'INSERTs of one row, a commit each, captured' \
		'no trigger' 0.8
	lag_row 1 'the most that a captured row waits'
	sql bench -c "SELECT sabot.cancel_job($stream)" >/dev/null
}
