-- The demo: ordinary SQL by an ordinary user.  Which words describe Debian's
-- packages, and which two packages are described most alike?

CREATE TABLE word (package text, word text, hits int);
CREATE TABLE relative (package text, relative text, score real);

-- One UPDATE of the whole table, spread over the agents in pieces of its key,
-- each of which commits alone.
ALTER TABLE package ADD document tsvector;
SELECT sabot.submit_job($$
		UPDATE package SET document = to_tsvector('english', left(description, 300))
	$$, over => 'package', name => 'documents') AS spread \gset
CALL sabot.wait_for_job(:spread);

-- The packages in 200 ranges of names, an array of two parameters for each.
SELECT jsonb_agg(jsonb_build_array(first, last)) AS ranges
FROM (
	SELECT min(name) AS first, max(name) AS last
	FROM (SELECT name, ntile(200) OVER (ORDER BY name) AS part FROM package) p
	GROUP BY part
	ORDER BY part
) r \gset

-- One job for each range: the words of its packages.
SELECT sabot.submit_job_each($$
		INSERT INTO word
		SELECT name, lexeme, cardinality(positions)
		FROM package, unnest(document)
		WHERE name BETWEEN $1 AND $2
	$$, :'ranges', name => 'words') AS jobs \gset
CALL sabot.wait_for_jobs(:'jobs');

-- A graph of tasks: words that few packages share, and what is to be done
-- before others read them.
SELECT sabot.submit_graph(jsonb_build_array(
	sabot.graph_task('find', $$
		CREATE TABLE rare AS
		SELECT package, word, packages
		FROM (SELECT package, word, count(*) OVER (PARTITION BY word) AS packages
			  FROM word) w
		WHERE packages BETWEEN 2 AND 25
	$$),
	sabot.graph_task('by package', 'CREATE INDEX ON rare (package)', after => '{find}'),
	sabot.graph_task('by word', 'CREATE INDEX ON rare (word)', after => '{find}'),
	sabot.graph_task('statistics', 'ANALYZE rare', after => '{by package,by word}')),
	name => 'rare words') AS graph \gset

-- Again one job for each range, once that is there: the package that shares
-- most of these words.
SELECT sabot.submit_job_each($$
		INSERT INTO relative
		SELECT DISTINCT ON (a.package) a.package, b.package, sum(1.0 / a.packages)
		FROM rare a JOIN rare b USING (word)
		WHERE a.package BETWEEN $1 AND $2 AND a.package <> b.package
		GROUP BY a.package, b.package
		ORDER BY a.package, sum(1.0 / a.packages) DESC, b.package
	$$, :'ranges', name => 'relatives', depends_on => ARRAY[:graph]) AS jobs \gset
CALL sabot.wait_for_jobs(:'jobs');

\pset footer off
\echo
\echo 'The words most packages use:'
SELECT word, count(*) AS packages, sum(hits) AS times
FROM word GROUP BY word ORDER BY packages DESC LIMIT 8;

\echo 'The packages described most alike:'
SELECT package, relative, round(score::numeric, 1) AS score
FROM relative WHERE package < relative ORDER BY relative.score DESC LIMIT 8;

\echo 'The job that was spread over the table:'
SELECT p.name, p.state, p.total AS pieces, p.rows, count(DISTINCT t.pid) AS agents,
	round(1000 * extract(epoch FROM max(t.finished_at - t.started_at))) AS longest_ms,
	round(extract(epoch FROM max(t.finished_at) - min(t.submitted_at)), 1) AS seconds
FROM sabot.job_progress p JOIN sabot.job_task t ON t.parent_id = p.job_id
WHERE p.job_id = :spread GROUP BY p.name, p.state, p.total, p.rows;

\echo 'The tasks of the graph (sabot.graph_dot() draws it):'
SELECT t.name, t.state, t.pid, t.command_tag, t.row_count,
	round(1000 * extract(epoch FROM t.started_at - g.submitted_at)) AS began_ms,
	round(1000 * extract(epoch FROM t.finished_at - g.submitted_at)) AS ended_ms
FROM sabot.job_task t JOIN sabot.job_status g ON g.job_id = t.parent_id
WHERE t.parent_id = :graph ORDER BY t.job_id;

\echo 'What the single jobs did:'
SELECT name, count(*) AS jobs, count(DISTINCT pid) AS agents,
	sum(row_count) AS rows,
	round(extract(epoch FROM max(finished_at) - min(submitted_at)), 1) AS seconds
FROM sabot.job_status WHERE kind = 'job' GROUP BY name ORDER BY min(job_id);

\echo 'The slowest of them:'
SELECT job_id, name, state, pid, row_count,
	round(1000 * extract(epoch FROM finished_at - started_at)) AS ms
FROM sabot.job_status WHERE kind = 'job'
ORDER BY finished_at - started_at DESC LIMIT 5;
