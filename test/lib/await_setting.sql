-- Included with :setting and :value: come back once this session has reloaded
-- its configuration, which it does between two statements only.  Includes
-- itself until then; the number of open files is the end of that.
SELECT current_setting(:'setting') = :'value' AS reached, pg_sleep(0.01) AS slept \gset
\if :reached
\else
	\i :await_setting
\endif
