--
-- check: what all rooms have found
--

CREATE FUNCTION "check"() RETURNS TABLE (subject text, ok boolean, detail text,
	advice text)
	LANGUAGE SQL VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 15
BEGIN ATOMIC
	SELECT f.subject, f.ok, f.detail, CASE WHEN NOT f.ok THEN f.advice END
	FROM (
		SELECT place, subject, ok, detail, advice FROM job_findings()
		UNION ALL
		SELECT place, subject, ok, detail, advice FROM route_findings()) AS f
	ORDER BY f.place, f.detail;
END;

COMMENT ON FUNCTION "check"() IS
	'what keeps sabot from working well here, and what to change; jobs counted are those one may see';

REVOKE ALL ON FUNCTION "check"() FROM PUBLIC;
