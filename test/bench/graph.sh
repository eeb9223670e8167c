# shellcheck shell=bash
#
# Row 21: a graph of tasks, against as many single jobs.

graph_width=10
graph_depth=100

# layered_graph NAME - submit a graph of empty tasks to the queue "bench", each
# after all of the layer before
layered_graph()
{
	sql bench -c "SELECT FROM sabot.submit_graph((
		SELECT jsonb_agg(sabot.graph_task(format('%s.%s', d, w), 'SELECT',
			after => CASE WHEN d > 1 THEN ARRAY(SELECT format('%s.%s', d - 1, n)
				FROM generate_series(1, $graph_width) AS n) END))
		FROM generate_series(1, $graph_depth) AS d,
			generate_series(1, $graph_width) AS w), queue => 'bench')"
}

# single_jobs - submit as many empty jobs to the queue "bench"
single_jobs()
{
	sql bench -c "SELECT FROM sabot.submit_jobs(array_fill('SELECT'::text,
		ARRAY[$((graph_width * graph_depth))]), queue => 'bench')"
}

# drain_ms COMMAND - submit what the command does to the queue "bench", which is
# paused; prints the milliseconds it then takes until everything has ended
drain_ms()
{
	empty_tables
	sql postgres -c "SELECT sabot.pause_queue('bench')" >/dev/null
	"$1"
	settle sabot.job sabot.job_dependency
	sql postgres -c 'CALL drain_all(NULL)'
}

# dispatch_ms TIMES - median time from the commit of a job to its start by an
# idle agent, of as many jobs one after the other
dispatch_ms()
{
	local since

	since=$(sql postgres -c 'SELECT clock_timestamp()')
	pgbench_with "CALL sabot.wait_for_job(sabot.submit_job('SELECT'));" \
		-t "$1" >/dev/null
	sql postgres -c "SELECT 1000 * percentile_cont(0.5) WITHIN GROUP
			(ORDER BY extract(epoch FROM started_at - submitted_at))
		FROM sabot.job_history WHERE submitted_at > '$since'"
}

row_21()
{
	local i graph single dispatch share
	local graphs=() singles=() dispatches=() shares=()

	agents 2 1
	for ((i = 0; i < rounds; i++)); do
		single=$(drain_ms single_jobs)
		graph=$(drain_ms layered_graph)
		dispatch=$(dispatch_ms 200)
		singles+=("$single")
		graphs+=("$graph")
		dispatches+=("$dispatch")
		shares+=("$(calc "($graph - $graph_depth * $dispatch) / $single")")
		progress "row 21: single jobs $single ms, graph $graph ms," \
			"dispatch $dispatch ms"
	done
	single=$(median "${singles[@]}")
	dispatch=$(median "${dispatches[@]}")
	share=$(median "${shares[@]}")
	record 21 "graph of $((graph_width * graph_depth)) empty tasks, $graph_width wide, $graph_depth deep, 2 agents" \
		"$(ms "$(median "${graphs[@]}")")" \
		"as many waiting single jobs $(ms "$single"), beside $graph_depth × submit → start, p50 $(ms "$dispatch")" \
		"$(short "$share")" '≤ 1.3 ×' "$share" '<=' 1.3
}
