-- Signed checkpoints: what was said of the log, and under which key. A copy of each stands in a file outside, for
-- whoever owns this database can take triggers away.

CREATE TABLE checkpoints (
    size      bigint NOT NULL PRIMARY KEY,       -- events, and so the position of the last one
    frontier  bytea  NOT NULL,                   -- hashes of the tree's right edge there: where the next goes on
    note      text   NOT NULL,                   -- the signed note, the very text
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

SELECT protect('checkpoints');

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_writer') THEN
        GRANT SELECT, INSERT ON checkpoints TO horizon_writer;
        GRANT SELECT ON checkpoints TO horizon_auditor;
    END IF;
END $$;
