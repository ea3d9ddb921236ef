-- Partitions of the log that are full, signed and on record as archived may be set apart: the log goes on in their
-- files.

CREATE TABLE archives (
    first    bigint NOT NULL PRIMARY KEY,        -- the position of the first event of the partition,
    last     bigint NOT NULL,                    -- and of the last
    frontier bytea  NOT NULL,                    -- of the tree there: where the next event goes on
    tip      bytea  NOT NULL,                    -- the hash of the last event
    file     text   NOT NULL,                    -- the name of the file that has them
    sha256   bytea  NOT NULL,                    -- of that file
    position bigint NOT NULL                     -- of the event PartitionArchived, which says all of this
);
SELECT protect('archives');

CREATE FUNCTION partition_size() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 5000000::bigint';

-- The first position that has no partition yet. Those before may have been set apart, so nobody counts them.
CREATE FUNCTION partitions_end() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(substring(pg_get_expr(relpartbound, oid) FROM 'TO \(''(\d+)''\)')::bigint), 1)
    FROM pg_class WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)
$$;

-- And the first that still has one in the table.
CREATE FUNCTION partitions_begin() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(min(substring(pg_get_expr(relpartbound, oid) FROM 'FROM \(''(\d+)''\)')::bigint), 1)
    FROM pg_class WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)
$$;

CREATE FUNCTION partition_name(first bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'events_' || lpad(((first - 1) / partition_size())::text, 6, '0')
$$;

CREATE OR REPLACE FUNCTION add_partition() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first CONSTANT bigint := partitions_end();
    after CONSTANT bigint := first + partition_size();
    name  CONSTANT text   := partition_name(first);
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    -- Insert-only tables are vacuumed too: to freeze, and to set the visibility map.
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.05,
                                        autovacuum_freeze_min_age = 0)', name);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, first, after);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER refuse_change', name);
    PERFORM protect_truncate(name::regclass);
    RETURN after;
END $$;

-- Take an archived partition out of the log; its table stays, protected as before, until it is dropped.
CREATE FUNCTION set_apart(first_position bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name CONSTANT text := partition_name(first_position);
BEGIN
    IF NOT EXISTS (SELECT FROM archives WHERE first = first_position) THEN
        RAISE EXCEPTION 'the log does not say that the events from % on are archived', first_position;
    END IF;
    EXECUTE format('ALTER TABLE events DETACH PARTITION %I', name);
    -- The trigger that it had from its parent has gone with it; the one against TRUNCATE is its own.
    EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %I
                    FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER refuse_change', name);
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_writer') THEN
        GRANT SELECT, INSERT ON archives TO horizon_writer;
        GRANT SELECT ON archives TO horizon_auditor;
    END IF;
END $$;
