-- How far the demo is: a bar for the jobs submitted last, then what the pool
-- is doing.  One line of text each.
SELECT format('%s [%s] %s of %s jobs done, %s running, %s waiting, %s failed',
	rpad(name, 10), rpad(repeat('#', 30 * done / total), 30, '.'),
	done, total, running, total - done - running - failed, failed)
FROM (
	SELECT name, count(*)::int AS total,
		count(*) FILTER (WHERE state = 'completed')::int AS done,
		count(*) FILTER (WHERE state = 'running') AS running,
		count(*) FILTER (WHERE state = 'failed') AS failed
	FROM sabot.job_status
	WHERE name = (SELECT name FROM sabot.job_status ORDER BY job_id DESC LIMIT 1)
	GROUP BY name
) j;

SELECT format('  queue "%s": %s waiting, %s running', queue, waiting, running)
FROM sabot.queue_status ORDER BY queue;

SELECT format('  pool: %s of %s agents, %s busy, %s idle, %s started so far',
	agents, slots, busy, idle, starts)
FROM sabot.pool_status;

SELECT format('  agent %s, pid %s: %s%s, %s jobs done', slot, pid, state,
	' job ' || job_id, jobs_done)
FROM sabot.agent_status ORDER BY slot;
