# shellcheck shell=bash
#
# What the rows of the benchmark share: sessions, agents, clocks, arithmetic.
# To be sourced by run, which sets dir and results.

# sql ROLE ARGUMENT... - psql as that role; prints bare values, tab between them
sql()
{
	local role=$1
	shift

	"$dir/bin/psql" -X -q -At -F $'\t' -h "$dir" -U "$role" -d bench \
		-v ON_ERROR_STOP=1 "$@"
}

# timed SQL... - milliseconds until the client has the result of these
# statements, one after the other in one session that is open already
timed()
{
	local statement args=(-c '\timing on')

	for statement; do
		args+=(-c "$statement")
	done
	sql bench "${args[@]}" | awk '/^Time:/ { ms += $2 } END { print ms }'
}

# stopwatch COMMAND... - milliseconds that the command takes
stopwatch()
{
	local from=$EPOCHREALTIME

	"$@" >/dev/null
	awk "BEGIN { print ($EPOCHREALTIME - $from) * 1000 }"
}

# pgbench_with SCRIPT ARGUMENT... - pgbench as role bench with that script
pgbench_with()
{
	local script=$1
	shift

	echo "$script" > "$dir/script"
	"$dir/bin/pgbench" -n -h "$dir" -U bench -M prepared -f "$dir/script" "$@" \
		bench 2>"$dir/pgbench.err" || { cat "$dir/pgbench.err" >&2; return 1; }
}

# latency TRANSACTIONS SCRIPT [ARGUMENT...] - p50 and p95, in milliseconds, of a
# transaction of one client
latency()
{
	rm -f "$dir"/latency.*
	pgbench_with "$2" -l --log-prefix="$dir/latency" -t "$1" "${@:3}" >/dev/null
	awk '{ print $3 / 1000 }' "$dir"/latency.* | sort -g |
		awk '{ v[NR] = $1 }
			END { print v[int(NR * 0.5 + 0.5)], v[int(NR * 0.95 + 0.5)] }'
}

# agents POOL_SIZE GROUP_COMMIT [SETTING...] - start as many agents anew for
# role bench, with these settings of the role, and have them work a little, so
# that their caches are warm
agents()
{
	local size=$1 group=$2 setting args=()
	shift 2

	for setting in sabot.group_commit="$group" "$@"; do
		args+=(-c "ALTER ROLE bench SET ${setting/=/ = }")
	done
	sql postgres -c 'ALTER ROLE bench RESET ALL' "${args[@]}" \
		-c "ALTER SYSTEM SET sabot.pool_size = $size" \
		-c 'SELECT pg_reload_conf()' >/dev/null
	sql bench -c 'SELECT sabot.stop_agents()' >/dev/null
	[ "$(sql bench -c "SELECT sabot.start_agents($size)")" = "$size" ] ||
		die "could not start $size agents"
	sql bench -c "CALL sabot.wait_for_jobs(sabot.submit_jobs(array_fill(
		'INSERT INTO effect VALUES (0)'::text, ARRAY[200])))" \
		-c 'TRUNCATE effect'
}

# calc EXPRESSION - its value; it is in parentheses because ">" after printf
# would write to a file
calc()
{
	awk "BEGIN { printf \"%.6g\n\", ($1) }"
}

# short RATIO... - ratios for the reader, to two places
short()
{
	printf '%.2f ' "$@" | sed 's/ $//'
}

# median, least VALUE... - of values
median()
{
	printf '%s\n' "$@" | sort -g |
		awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
least()
{
	printf '%s\n' "$@" | sort -g | head -n 1
}

# ms, per_s VALUE - a value with its unit
ms()
{
	awk "BEGIN { v = $1; printf v < 10 ? \"%.2f ms\" : v < 100 ? \"%.1f ms\" : \"%.0f ms\", v }"
}
per_s()
{
	awk "BEGIN { printf \"%.0f\", $1 }" | sed -E ':a; s/^([0-9]+)([0-9]{3})/\1,\2/; ta; s,$,/s,'
}

# progress MESSAGE... - tell whoever waits what was just measured
progress()
{
	echo "[$((SECONDS - began)) s] $*"
}

# record ROW WHAT MEASURED COMPARED RATIO TARGET VALUE OPERATOR LIMIT - add a
# line to the table; the target, unless it is –, is met if "VALUE OPERATOR LIMIT"
# is true
record()
{
	local met=missed

	[ "$(awk "BEGIN { print ($7 $8 $9) }")" = 0 ] || met=met
	[ "$6" != – ] || met=–
	printf '| %s | %s | %s | %s | %s | %s | %s |\n' \
		"$1" "$2" "$3" "$4" "$5" "$6" $met | tee -a "$results"
}
