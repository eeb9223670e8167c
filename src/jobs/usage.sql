--
-- usage: what a role needs for submitting jobs and watching its own
--

CREATE FUNCTION grant_usage(role regrole) RETURNS void
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_grant_usage';
REVOKE ALL ON FUNCTION grant_usage(regrole) FROM PUBLIC;
COMMENT ON FUNCTION grant_usage(regrole) IS
	'let a role submit jobs and watch its own';

CREATE FUNCTION revoke_usage(role regrole) RETURNS void
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_revoke_usage';
REVOKE ALL ON FUNCTION revoke_usage(regrole) FROM PUBLIC;
COMMENT ON FUNCTION revoke_usage(regrole) IS
	'take back what grant_usage() gave';

CREATE FUNCTION warn_unless_preloaded() RETURNS void
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'sabot_warn_unless_preloaded';
REVOKE ALL ON FUNCTION warn_unless_preloaded() FROM PUBLIC;
COMMENT ON FUNCTION warn_unless_preloaded() IS
	'warn if sabot is not in shared_preload_libraries';

SELECT warn_unless_preloaded();
