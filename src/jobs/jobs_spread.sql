--
-- jobs: spread over a table
--

CREATE TABLE job_spread (
	job_id       bigint      NOT NULL PRIMARY KEY,
	relation     regclass    NOT NULL,
	pieces       integer,
	piece_pause  interval,
	timeout      interval,
	lanes        integer,
	key_columns  text[],
	key_families oid[],
	key_collations oid[]
) USING heap;

COMMENT ON TABLE job_spread IS 'jobs that are spread over a table';
COMMENT ON COLUMN job_spread.pieces IS 'as asked at submit, NULL = as suits the table';
COMMENT ON COLUMN job_spread.timeout IS 'of each piece';
COMMENT ON COLUMN job_spread.lanes IS
	'pieces that may be under way at once if there is a pause between them, NULL = any number';
COMMENT ON COLUMN job_spread.key_columns IS
	'what the table was split by; NULL until there are pieces';
COMMENT ON COLUMN job_spread.key_families IS 'operator families of the index on them';
COMMENT ON COLUMN job_spread.key_collations IS 'collations of the index on them';

CREATE TABLE job_piece (
	job_id       bigint      NOT NULL PRIMARY KEY,
	piece        integer     NOT NULL,
	leaf         regclass,
	low          text[],
	high         text[]
) USING heap;

COMMENT ON TABLE job_piece IS 'which rows each piece of a job has that is spread over a table';
COMMENT ON COLUMN job_piece.piece IS 'its number, from 1';
COMMENT ON COLUMN job_piece.leaf IS 'the partition they are in, NULL = the table has none';
COMMENT ON COLUMN job_piece.low IS 'the key they start with, NULL = from the first';
COMMENT ON COLUMN job_piece.high IS 'the key they end before, NULL = to the last';

SELECT pg_catalog.pg_extension_config_dump('job_spread', '');
SELECT pg_catalog.pg_extension_config_dump('job_piece', '');
