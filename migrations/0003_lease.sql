-- Who leads, and until when nobody else may. The epoch in every append is what keeps an old leader out; the lease says
-- when somebody else is wanted. Only this database's clock sets it and tests it.

ALTER TABLE log_head
    ADD COLUMN leader_home text        NOT NULL DEFAULT '',      -- the data directory it leads from, by its id
    ADD COLUMN leader_name text        NOT NULL DEFAULT '',      -- for people: host and process
    ADD COLUMN leader_url  text        NOT NULL DEFAULT '',      -- where standbys send what they are asked to change
    ADD COLUMN leader_pid  integer     NOT NULL DEFAULT 0,       -- the backend it writes through
    ADD COLUMN lease_ttl   interval    NOT NULL DEFAULT '10 s',  -- how long it asks for at a time
    ADD COLUMN lease_until timestamptz NOT NULL DEFAULT 'epoch'; -- put off by every append, and by a beat when idle
