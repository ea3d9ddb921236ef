-- Keeping and erasing. The scheduler may take blobs away, one by one: what was erased is an event, and the log, which
-- holds digests only, stays as it is.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_writer') THEN
        GRANT DELETE ON blobs TO horizon_writer;
    END IF;
END $$;
