# shellcheck shell=bash
#
# Rows 14 to 20: from which size on queries gain by running on agents, and that
# smaller ones lose nothing.
#
# They have servers of their own, with all they read in memory and nothing else
# to do; the other rows' server is stopped meanwhile.  Rows 15 to 20 compare
# sessions of one server that differ in settings only, see options_of, and the
# plans of agents and of stock parallel query are one and the same.  Queries
# are sent as text and planned each time, unless a line says otherwise.

route_rounds=${BENCH_ROUNDS:-7}
route_times=${BENCH_QUICK:+3}	# how often a query is run is divided by this
route_times=${route_times:-1}
[ -z "${BENCH_QUICK:-}" ] || route_rounds=${BENCH_ROUNDS:-3}
queries='count sum join sort'
declare -A ran				# medians, in ms, of the rounds of a query and variant

# route_conf - settings of the servers
route_conf()
{
	cat "$dir/stage/sabot.conf" - <<-END
		min_dynamic_shared_memory = 64MB
		shared_buffers = 1GB
		jit = off
		autovacuum = off
		checkpoint_timeout = 1h
		wal_level = minimal
		max_wal_senders = 0
		max_worker_processes = 20
		max_parallel_workers = 8
	END
}

# server_of NAME COMMAND... - run a function of ours against that server
server_of()
{
	local dir=$dir/$1
	shift

	"$@"
}

# control ACTION - start or stop the server in dir
control()
{
	"${as_server[@]}" sh -c "cd '$dir' &&
		bin/pg_ctl -D data -l server.log -w -m fast $1 >/dev/null"
}

# load_keyed - a table for key lookups
load_keyed()
{
	"$dir/bin/psql" -X -q -h "$dir" -U postgres -d postgres \
		-v ON_ERROR_STOP=1 -c 'CREATE ROLE bench LOGIN' \
		-c 'CREATE DATABASE bench OWNER bench'
	sql postgres -c 'CREATE EXTENSION sabot' \
		-c 'ALTER ROLE bench IN DATABASE bench SET sabot.keep_agents = 2'
	sql bench -c 'CREATE TABLE keyed AS
			SELECT g AS id, g % 100 AS v FROM generate_series(1, 1000000) AS g' \
		-c 'ALTER TABLE keyed ADD PRIMARY KEY (id)'
	sql postgres -c 'VACUUM (FREEZE, ANALYZE) keyed' -c CHECKPOINT
}

# equal_server NAME - a server with the data of the server "route", which is
# stopped, that has never heard of sabot
equal_server()
{
	"${as_server[@]}" mkdir "$dir/$1"
	"${as_server[@]}" cp -a "$dir/route/data" "$dir/route/bin" "$dir/$1/"
	sed "/^shared_preload_libraries/d" "$dir/route/route.conf" \
		> "$dir/$1/route.conf"
	sed -i "s,$dir/route,$dir/$1,g" "$dir/$1/data/postgresql.conf"
	server_of "$1" control start
}

# route_servers - make the server "route" and its equals without sabot, unless
# they are there
route_servers()
{
	[ ! -d "$dir/route" ] || return 0
	"${as_server[@]}" mkdir "$dir/route"
	route_conf > "$dir/route/route.conf"
	start_server "$dir/route"
	server_of route load_keyed
	server_of route control stop
	equal_server off
	equal_server other
	server_of route control start
}

# alone ROW FUNCTION... - have a row measured on the server "route", while the
# other rows' server is stopped
alone()
{
	route_servers
	control stop
	server_of route "$@"
	control start
}

# options_of VARIANT - how a session differs: with agents where that is the
# default (auto) or in any case, by its process alone, or with parallel workers
# of PostgreSQL's in any case
options_of()
{
	local free='-c parallel_setup_cost=0 -c parallel_tuple_cost=0
		-c min_parallel_table_scan_size=0 -c min_parallel_index_scan_size=0'

	case $1 in
		auto) echo '-c sabot.execution=auto' ;;
		forced) echo "-c sabot.execution=distributed $free" ;;
		local) echo '-c sabot.execution=local -c max_parallel_workers_per_gather=0' ;;
		stock) echo "-c sabot.execution=local $free" ;;
	esac | tr -s '\n\t' ' '
}

# as_variant VARIANT COMMAND... - run it with the settings of a variant
as_variant()
{
	local options
	options=$(options_of "$1")
	shift

	PGOPTIONS=$options "$@"
}

# query_of NAME ROWS - one of the queries, over a table of as many rows
query_of()
{
	case $1 in
		count) echo "SELECT count(*) FROM fact_$2;" ;;
		sum) echo "SELECT grp, sum(v) FROM fact_$2 WHERE v < 500000 GROUP BY grp;" ;;
		join) echo "SELECT count(*), sum(f.v + d.w) FROM fact_$2 AS f
			JOIN dim_$2 AS d ON d.id = f.ref;" ;;
		sort) echo "SELECT id, v FROM fact_$2 ORDER BY v, id LIMIT 100;" ;;
	esac
}

# with_commas NUMBER - a number for the reader
with_commas()
{
	sed -E ':a; s/^([0-9]+)([0-9]{3})/\1,\2/; ta' <<<"$1"
}

# title_of NAME - the same for the reader
title_of()
{
	case $1 in
		count) echo 'count(*)' ;;
		sum) echo 'filtered sum, GROUP BY' ;;
		join) echo 'hash join' ;;
		sort) echo 'ORDER BY … LIMIT 100' ;;
	esac
}

# load_fact ROWS - a table of as many rows, and one to join with; unless they
# are there
load_fact()
{
	local dims=$(($1 < 100000 ? $1 / 10 : 10000))

	[ "$(sql bench -c "SELECT to_regclass('fact_$1') IS NULL")" = t ] || return 0
	sql bench -c "CREATE TABLE fact_$1 AS SELECT g AS id, g % 100 AS grp,
				1 + g * 7::bigint % $dims AS ref,
				(g * 7919::bigint % 1000003)::integer AS v
			FROM generate_series(1, $1) AS g" \
		-c "CREATE TABLE dim_$1 AS SELECT g::bigint AS id, g % 13 AS w
			FROM generate_series(1, $dims) AS g"
	sql postgres -c "VACUUM (FREEZE, ANALYZE) fact_$1, dim_$1" -c CHECKPOINT
}

# on_agents - queries that have run on agents so far
on_agents()
{
	sql postgres -c "SELECT COALESCE(sum(queries), 0) FROM sabot.route_stat
		WHERE route = 'distributed'"
}

# await_agents QUERY VARIANT - run a query until it does so on agents
await_agents()
{
	local before

	for _ in {1..200}; do
		before=$(on_agents)
		as_variant "$2" sql bench -c "$1" >/dev/null
		[ "$(on_agents)" = "$before" ] || return 0
		sleep 0.1
	done
	die "this does not run on agents: $1"
}

# plan_of VARIANT QUERY - the plan, without what sabot says of it
plan_of()
{
	as_variant "$1" sql bench -c "EXPLAIN (COSTS off) $2" |
		sed '/^ *Sabot: /d'
}

# check_query QUERY VARIANT - its result must be the same wherever it runs, and
# its plan that of stock parallel query, if the variant runs on agents
check_query()
{
	local variant expected got

	expected=$(as_variant local sql bench -c "$1" | sort)
	[ -n "$expected" ] || die "no result: $1"
	for variant in stock "$2"; do
		got=$(as_variant "$variant" sql bench -c "$1" | sort)
		[ "$got" = "$expected" ] || die "$variant has another result: $1"
	done
	[ "${3:-}" != local ] || return 0
	await_agents "$1" "$2"
	[ "$(plan_of stock "$1")" = "$(plan_of "$2" "$1")" ] ||
		die "$2 and stock have different plans: $1"
}

# prepare_fact ROWS - load it, and check the queries
prepare_fact()
{
	local query where=

	load_fact "$1"
	[ "$1" -ge 10000 ] || where=local
	for query in $queries; do
		check_query "$(query_of "$query" "$1")" auto $where
	done
}

# time_queries ROWS TIMES VARIANT... - run each query as often in each round;
# ran[query,variant] has the medians of the rounds, in ms
time_queries()
{
	local rows=$1 times=$(($2 / route_times + 1)) i query variant p50 before meant=0
	shift 2

	ran=()
	before=$(on_agents)
	for ((i = 0; i < route_rounds; i++)); do
		for query in $queries; do
			for variant; do
				read -r p50 _ < <(as_variant "$variant" latency "$times" \
					"$(query_of "$query" "$rows")" -M simple)
				ran[$query,$variant]+=" $p50"
				[ "$variant" != auto ] || meant=$((meant + times))
			done
			progress "$rows rows: $query$(for variant; do
				echo -n ", $variant ${ran[$query,$variant]##* } ms"
			done)"
		done
	done
	[ "$rows" -ge 10000 ] || return 0
	[ $((($(on_agents) - before) * 10)) -ge $((meant * 9)) ] ||
		die "of $meant queries over $rows rows $(($(on_agents) - before)) ran on agents"
}

# median_of QUERY VARIANT - the median of the rounds, in ms
median_of()
{
	# shellcheck disable=SC2086 # a list
	median ${ran[$1,$2]}
}

# ratio LIST LIST - the median of the ratios of two lists' values, round by round:
# a machine that is slow for seconds is so for both of them
ratio()
{
	local ratios

	mapfile -t ratios < <(paste <(xargs -n 1 <<<"$1") <(xargs -n 1 <<<"$2") |
		awk '{ print $1 / $2 }')
	median "${ratios[@]}"
}

# time_pair ROWS TIMES - the same for count(*) by two sessions at once, each by
# its process alone: what that takes longer is the machine's
time_pair()
{
	local i sessions rate

	for ((i = 0; i < route_rounds; i++)); do
		for sessions in 1 2; do
			rate=$(as_variant local pgbench_with "$(query_of count "$1")" -M simple \
				-c $sessions -j $sessions -t $(($2 / route_times + 1)) |
				awk '/^tps/ { print $3 }')
			ran[pair,$sessions]+=" $rate"
		done
	done
}

# record_pair ROW ROWS - how many times the work two processes do; no more than
# that can be gained with two processors
record_pair()
{
	record "$1" "count(*), $(with_commas "$2") rows, by two sessions at once" \
		"$(per_s "$(median_of pair 2)")" "one session $(per_s "$(median_of pair 1)")" \
		"$(short "$(ratio "${ran[pair,2]}" "${ran[pair,1]}")")" – 0 '==' 0
}

# record_gain ROW ROWS QUERY VARIANT NAME TARGET - how many times as fast as the
# variant a query is on agents
record_gain()
{
	local ours theirs gain

	ours=$(median_of "$3" auto)
	theirs=$(median_of "$3" "$4")
	gain=$(ratio "${ran[$3,$4]}" "${ran[$3,auto]}")
	record "$1" "$(title_of "$3"), $(with_commas "$2") rows" "$(ms "$ours")" "$5 $(ms "$theirs")" "$(short "$gain")" \
		"≥ $6 ×" "$gain" '>=' "$6"
}

# us MS - milliseconds as microseconds for the reader
us()
{
	awk "BEGIN { printf \"%.1f µs\", $1 * 1000 }"
}

# mean_ms SEED SCRIPT ARGUMENT... - the mean of some thousand transactions
mean_ms()
{
	local seed=$1 script=$2
	shift 2

	pgbench_with "$script" -t $((6000 / route_times)) --random-seed="$seed" "$@" |
		awk '/^tps/ { print 1000 / $3 }'
}

# compare_small NAME SCRIPT PROTOCOL - a query that stays as it is, with and
# without the extension; the noise is how servers without it differ
compare_small()
{
	local i with off other ratio noise limit withs=() offs=() ratios=() noises=()

	for ((i = 0; i < 2 * route_rounds; i++)); do
		off=$(server_of off mean_ms "$i" "$2" -M "$3")
		with=$(server_of route mean_ms "$i" "$2" -M "$3")
		other=$(server_of other mean_ms "$i" "$2" -M "$3")
		withs+=("$with")
		offs+=("$(calc "($off + $other) / 2")")
		ratios+=("$(calc "2 * $with / ($off + $other)")")
		noises+=("$(calc "$off > $other ? $off / $other : $other / $off")")
		progress "row 14: $1, $3: sabot $with ms, without $off and $other ms"
	done
	ratio=$(median "${ratios[@]}")
	noise=$(median "${noises[@]}")
	limit=$(calc "$noise > 1.02 ? $noise : 1.02")
	record 14 "$1, $3 protocol" "$(us "$(median "${withs[@]}")")" \
		"without sabot $(us "$(median "${offs[@]}")"); two such servers differ by $(calc "int(1000 * $noise - 999.5) / 10") %" \
		"$(printf %.3f "$ratio")" '≤ 1.02, or the noise' "$ratio" '<=' "$limit"
}

# instructions_of TIMES LIBRARIES STATEMENT - what a single-user server executes
# to run the statement that often, start and stop included
instructions_of()
{
	seq "$1" | awk -v statement="$3" '{ print statement }' > "$dir/statements"
	"${as_server[@]}" sh -c "cd '$dir' && valgrind --tool=callgrind \
		--callgrind-out-file=/dev/null bin/postgres --single -D data \
		-c shared_preload_libraries='$2' bench < statements 2>&1 >/dev/null" |
		awk '/Collected/ { print $4 }'
}

# compare_instructions STATEMENT - the same, counted: no noise of the machine is
# in that
compare_instructions()
{
	local libraries few many counts=() ratio

	# shellcheck disable=SC2016 # for the server
	for libraries in '$libdir/sabot' ''; do
		few=$(instructions_of 100 "$libraries" "$1")
		many=$(instructions_of 600 "$libraries" "$1")
		counts+=($(((many - few) / 500)))
		progress "row 14: $1: ${counts[-1]} instructions"
	done
	ratio=$(calc "${counts[0]} / ${counts[1]}")
	record 14 "$1, instructions in a single-user server" "${counts[0]}" \
		"without sabot ${counts[1]}" "$(printf %.3f "$ratio")" '≤ 1.02' \
		"$ratio" '<=' 1.02
}

# small_queries - row 14, with the row's directory still the top one
small_queries()
{
	local lookup server protocol

	lookup=$(printf '\\set id random(1, 1000000)\nSELECT v FROM keyed WHERE id = :id;')
	for server in route off other; do
		server_of $server sql bench -c 'SELECT sum(v) FROM keyed' \
			-c 'SET enable_seqscan = off' \
			-c 'SELECT sum(id) FROM keyed WHERE id > 0' >/dev/null
	done
	for protocol in simple prepared; do
		compare_small 'SELECT 1' 'SELECT 1;' $protocol
		compare_small 'key lookup in 1,000,000 rows' "$lookup" $protocol
	done
	if [ -n "$(command -v valgrind)" ]; then
		server_of route control stop
		server_of route compare_instructions 'SELECT 1'
		server_of route compare_instructions 'SELECT v FROM keyed WHERE id = 4711'
		server_of route control start
	fi
}

row_14()
{
	route_servers
	control stop
	small_queries
	control start
}

# compare_start PROTOCOL - how much longer than alone a query over next to no
# data takes with agents, and with workers that are forked
compare_start()
{
	local i query alone_ms agents_ms stock_ms ours=() theirs=() share before
	local times=$((600 / route_times))

	query=$(query_of count 1000)
	before=$(on_agents)
	for ((i = 0; i < route_rounds; i++)); do
		read -r alone_ms _ < <(as_variant local latency $times "$query" -M "$1")
		read -r agents_ms _ < <(as_variant forced latency $times "$query" -M "$1")
		read -r stock_ms _ < <(as_variant stock latency $((times / 5)) "$query" -M "$1")
		ours+=("$(calc "$agents_ms - $alone_ms")")
		theirs+=("$(calc "$stock_ms - $alone_ms")")
		progress "row 15: $1: alone $alone_ms ms, agents $agents_ms ms, stock $stock_ms ms"
	done
	[ $((($(on_agents) - before) * 10)) -ge $((route_rounds * times * 9)) ] ||
		die "of $((route_rounds * times)) queries $(($(on_agents) - before)) ran on agents"
	share=$(calc "$(median "${ours[@]}") / $(median "${theirs[@]}")")
	record 15 "start-up of a query over 1,000 rows, $1 protocol" \
		"$(us "$(median "${ours[@]}")")" \
		"stock parallel query $(us "$(median "${theirs[@]}")")" \
		"1/$(calc "int(1 / $share + 0.5)")" '≤ 1/20' "$share" '<=' 0.05
}

# start_up - row 15
start_up()
{
	load_fact 1000
	check_query "$(query_of count 1000)" forced
	compare_start simple
	compare_start prepared
}

row_15()
{
	alone start_up
}

# compare_small_table ROWS TIMES - no query over it may become slower
compare_small_table()
{
	local query ratio ratios=() worst measured='' compared=''
	local route_rounds=$((2 * route_rounds))

	prepare_fact "$1"
	time_queries "$1" "$2" auto local
	for query in $queries; do
		ratio=$(calc "$(median_of "$query" auto) / $(median_of "$query" local)")
		ratios+=("$ratio")
		measured+="${measured:+, }$(ms "$(median_of "$query" auto)")"
		compared+="${compared:+, }$(ms "$(median_of "$query" local)")"
	done
	worst=$(printf '%s\n' "${ratios[@]}" | sort -g | tail -n 1)
	record 16 "these four queries, $(with_commas "$1") rows" \
		"$measured" "local $compared" "$(short "${ratios[@]}")" '≤ 1.05 ×' \
		"$worst" '<=' 1.05
}

# small_tables - row 16
small_tables()
{
	compare_small_table 1000 600
	compare_small_table 9999 80
	compare_small_table 10000 80
}

row_16()
{
	alone small_tables
}

# compare_table ROW ROWS TIMES COUNT_LOCAL COUNT_STOCK - the queries on agents
# against local ones, and count(*) against stock parallel query
compare_table()
{
	prepare_fact "$2"
	time_queries "$2" "$3" auto local stock
	time_pair "$2" "$3"
	record_gain "$1" "$2" count local local "$4"
	record_gain "$1" "$2" count stock 'stock parallel query' "$5"
	record_gain "$1" "$2" sum local local 1.6
	record_gain "$1" "$2" join local local 1.3
	record_gain "$1" "$2" sort local local 1.3
	record_pair "$1" "$2"
}

row_17()
{
	alone compare_table 17 100000 25 1.8 2.5
}

row_18()
{
	alone compare_table 18 1000000 4 1.7 1.3
}

# large_table - row 19
large_table()
{
	local query

	prepare_fact 5000000
	time_queries 5000000 1 auto stock
	for query in $queries; do
		record_gain 19 5000000 "$query" stock 'stock parallel query' 1
	done
}

row_19()
{
	alone large_table
}

# mixed_script - what each of several clients does over and over
mixed_script()
{
	local rows query

	for rows in 1000 10000 1000 10000 1000 100000; do
		for query in $queries; do
			query_of "$query" "$rows"
		done
	done
	query_of count 1000000
}

# mixed_rate VARIANT - queries per second of eight clients
mixed_rate()
{
	as_variant "$1" pgbench_with "$(mixed_script)" -M simple -c 8 -j 2 \
		-T $((4 / route_times + 1)) | awk '/^tps/ { print $3 * 25 }'
}

# compare_mixed - row 20
compare_mixed()
{
	local i rows ours own stock auto=() alone=() forked=() share

	for rows in 1000 10000 100000 1000000; do
		prepare_fact $rows
	done
	for ((i = 0; i < route_rounds; i++)); do
		ours=$(mixed_rate auto)
		own=$(mixed_rate local)
		stock=$(mixed_rate stock)
		auto+=("$ours")
		alone+=("$own")
		forked+=("$stock")
		progress "row 20: auto $ours/s, local $own/s, stock $stock/s"
	done
	share=$(ratio "${auto[*]}" "${alone[*]}")
	record 20 '8 clients, 1,000 to 1,000,000 rows' \
		"$(per_s "$(median "${auto[@]}")")" "local $(per_s "$(median "${alone[@]}")")" \
		"$(short "$share")" '≥ 0.95 ×' "$share" '>=' 0.95
	share=$(ratio "${auto[*]}" "${forked[*]}")
	record 20 'the same' "$(per_s "$(median "${auto[@]}")")" \
		"stock parallel query $(per_s "$(median "${forked[@]}")")" \
		"$(short "$share")" '≥ 1.5 ×' "$share" '>=' 1.5
}

row_20()
{
	alone compare_mixed
}
