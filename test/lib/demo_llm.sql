-- The demo's second part: what kind of thing is each of these packages?  A
-- model answers for one row at a time; its answers go into typed columns.

CREATE TYPE topic AS ENUM ('library', 'development', 'network', 'science',
	'games', 'desktop', 'system', 'data', 'other');
ALTER TABLE package ADD topic topic, ADD for_whom text;

SELECT sabot.submit_llm_job($$
		SELECT name, left(description, 200) AS text FROM package
		WHERE md5(name) < '01' ORDER BY md5(name) LIMIT 40
	$$, 'Say of this Debian package what topic it belongs to, and in three words whom it is for. {name}: {text}',
	model => :'model', target => 'package',
	output => '{"topic": "$.topic", "for_whom": "$.for_whom"}',
	options => '{"num_predict": 100}', name => 'topics') AS job \gset
CALL sabot.wait_for_job(:job);

\pset footer off
\echo
\echo 'Labelled by the model:'
SELECT name, topic, left(for_whom, 50) AS for_whom
FROM package WHERE topic IS NOT NULL ORDER BY name LIMIT 8;

\echo 'How it went:'
SELECT done, fallback, failed, attempts, timeouts,
	round(rate_overall::numeric, 1) AS rows_per_s,
	round(latency_p50_ms) AS p50_ms, round(latency_p95_ms) AS p95_ms, connections
FROM sabot.llm_progress WHERE job_id = :job;
