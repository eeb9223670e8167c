-- How far the model is.
SELECT format('%s %s  %s of %s, %s/s, ETA %s, timeouts %s %%',
	rpad(name, 10), bar, done + fallback + failed, COALESCE(total::text, '?'),
	COALESCE(round(rate_1m::numeric, 1)::text, '-'),
	COALESCE(date_trunc('second', eta)::text, '-'),
	round(100 * COALESCE(timeout_rate, 0)::numeric))
FROM sabot.llm_progress ORDER BY job_id DESC LIMIT 1;
