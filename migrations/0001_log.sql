-- The log. One head row, fenced by the epoch and moved by compare-and-swap in the very statement that inserts
-- the events: so positions have no gaps, and their order is the order of commits.

CREATE TABLE log_head (
    id             smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    log_id         bytea  NOT NULL,
    epoch          bigint NOT NULL,
    position       bigint NOT NULL,
    tip            bytea  NOT NULL,              -- hash of the last event
    recorded_at_us bigint NOT NULL,              -- when it was recorded
    leader         bytea  NOT NULL DEFAULT ''    -- who raised the epoch last: a random name of that scheduler
) WITH (fillfactor = 50);                        -- the only row ever updated: room for HOT updates

INSERT INTO log_head (log_id, epoch, position, tip, recorded_at_us)
VALUES (decode(replace(gen_random_uuid()::text, '-', ''), 'hex'), 0, 0, decode(repeat('00', 32), 'hex'), 0);

CREATE TABLE events (
    position       bigint   NOT NULL PRIMARY KEY,
    recorded_at_us bigint   NOT NULL,
    epoch          bigint   NOT NULL,
    type           text     NOT NULL,
    schema_version smallint NOT NULL,
    stream         text     NOT NULL,
    stream_version bigint   NOT NULL,
    actor          text     NOT NULL,
    command_id     bytea    NOT NULL,
    correlation_id bytea    NOT NULL,
    causation      bigint   NOT NULL,
    payload        bytea    NOT NULL,            -- the exact JSON that was hashed
    hash           bytea    NOT NULL,
    db_at          timestamptz NOT NULL DEFAULT clock_timestamp()  -- not hashed: the database as a witness of time
) PARTITION BY RANGE (position);

CREATE TABLE blobs (
    digest   text  PRIMARY KEY,                  -- SHA-256 in hex
    data     bytea NOT NULL
);

CREATE TABLE answers (
    key         text     PRIMARY KEY,            -- the Idempotency-Key
    fingerprint bytea    NOT NULL,               -- SHA-256 over what was asked
    status      smallint NOT NULL,
    body        bytea    NOT NULL,
    position    bigint   NOT NULL                -- the end of the log when it was given
);

-- Append-only, for owners too. ENABLE ALWAYS holds under session_replication_role = replica; row triggers do not
-- see TRUNCATE, so that has its own.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION protect(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %s
                    FOR EACH ROW EXECUTE FUNCTION refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_change', target);
    PERFORM protect_truncate(target);
END $$;

CREATE FUNCTION protect_truncate(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_truncate', target);
END $$;

SELECT protect('events');
SELECT protect('answers');
SELECT protect_truncate('blobs');                -- a blob may be erased, one by one; the log stays valid
SELECT protect_truncate('log_head');
CREATE TRIGGER refuse_delete BEFORE DELETE ON log_head FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE log_head ENABLE ALWAYS TRIGGER refuse_delete;

-- One partition holds five million positions; there is no default partition, so a missing one is an error and
-- not a slow surprise. Gives the first position that has no partition yet.
CREATE FUNCTION add_partition() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    size  CONSTANT bigint := 5000000;
    index bigint;
    name  text;
BEGIN
    SELECT count(*) INTO index FROM pg_inherits WHERE inhparent = 'events'::regclass;
    name := format('events_%s', lpad(index::text, 6, '0'));
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    -- Insert-only tables are vacuumed too: to freeze, and to set the visibility map.
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.05,
                                        autovacuum_freeze_min_age = 0)', name);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                   name, index * size + 1, (index + 1) * size + 1);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER refuse_change', name);
    PERFORM protect_truncate(name::regclass);
    RETURN (index + 1) * size + 1;
END $$;

SELECT add_partition(), add_partition();

-- For people with psql: the payload as JSON, the time as a time.
CREATE VIEW log AS
SELECT position, to_timestamp(recorded_at_us / 1e6) AS recorded_at, epoch, type, schema_version, stream,
       stream_version, actor, encode(command_id, 'hex')::uuid AS command_id,
       encode(correlation_id, 'hex')::uuid AS correlation_id, causation,
       convert_from(payload, 'UTF8')::jsonb AS event, encode(hash, 'hex') AS hash, db_at
FROM events;

-- Who may do what. Roles belong to the whole server, and a hosted one may not let us make any: then the
-- scheduler runs as the owner, and says so.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_writer') THEN
        CREATE ROLE horizon_writer NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_auditor') THEN
        CREATE ROLE horizon_auditor NOLOGIN;
    END IF;
    EXECUTE format('GRANT horizon_writer TO %I', current_user);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'no right to make the roles horizon_writer and horizon_auditor; the scheduler will run as the owner';
    WHEN duplicate_object OR unique_violation THEN
        NULL;  -- made by another database's migration in this very moment
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'horizon_writer') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO horizon_writer, horizon_auditor', current_schema());
        GRANT SELECT ON log_head, events, blobs, answers, log, schema_revision TO horizon_writer;
        GRANT INSERT ON events, blobs, answers TO horizon_writer;
        GRANT UPDATE ON log_head TO horizon_writer;
        GRANT SELECT ON log_head, events, log, schema_revision TO horizon_auditor;
    END IF;
END $$;
