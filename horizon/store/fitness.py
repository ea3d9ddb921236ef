"""Whether a Postgres is fit to keep the log: what is refused at start, and what is warned of."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import structlog

from horizon.store.port import Unavailable

log = structlog.get_logger()

VERSION_MIN: Final = 140_000
POOLER_HINT: Final = "point DATABASE_URL at Postgres itself, and at no pooler such as PgBouncer"


async def check_server(connection: asyncpg.Connection[Any]) -> None:
    """Refuse a server that could lose or hide what it acknowledged."""
    row = await connection.fetchrow(
        """SELECT current_setting('server_version_num')::int AS version,
                  current_setting('server_version') AS version_text,
                  pg_is_in_recovery() AS standby,
                  current_setting('transaction_read_only') = 'on' AS read_only,
                  current_setting('synchronous_commit') AS synchronous_commit,
                  current_setting('fsync') AS fsync,
                  current_setting('full_page_writes') AS full_page_writes,
                  current_setting('data_checksums') AS data_checksums"""
    )
    assert row is not None
    if row["version"] < VERSION_MIN:
        raise Unavailable(f"this is Postgres {row['version_text']}; Horizon needs 14 or newer")
    if row["standby"]:
        raise Unavailable(
            "this Postgres is a standby and cannot be written to: point DATABASE_URL at the primary"
        )
    if row["read_only"]:
        raise Unavailable(
            "this Postgres is read-only (default_transaction_read_only): Horizon must write to it"
        )
    if row["synchronous_commit"] == "off":
        raise Unavailable(
            "synchronous_commit is off, so Postgres may forget what it acknowledged: set it to on; "
            "Horizon commits in groups and loses little by it"
        )
    if row["fsync"] == "off":
        log.warning("fsync is off in this Postgres: a crash of its machine can destroy the log")
    if row["full_page_writes"] == "off":
        log.warning("full_page_writes is off in this Postgres: a crash of its machine can tear the log")
    if row["data_checksums"] == "off":
        log.warning(
            "data_checksums are off in this Postgres: what its disk spoils is found by `horizon verify` and "
            "not before; `pg_checksums --enable` turns them on"
        )


async def check_sessions(
    one: asyncpg.Connection[Any], other: asyncpg.Connection[Any], role: str | None
) -> None:
    """Refuse a pooler that lends its connections out for a transaction at a time.

    A setting made on such a connection is somebody else's a moment later, a prepared statement is gone, and
    the backend that the head names is not the one that appends. A pool that rests gives the same one back, so
    the other connection takes one away in between. ``role`` is what the other one is to be.
    """
    try:
        before = await one.fetchval("SELECT pg_backend_pid()")
        async with other.transaction():
            between = await other.fetchval("SELECT pg_backend_pid()")
            after = await one.fetchval("SELECT pg_backend_pid()")
        user = await other.fetchval("SELECT current_user")
    except asyncpg.PostgresError as error:
        first_line = str(error).partition("\n")[0]
        raise Unavailable(f"this Postgres forgets what it was told ({first_line}): {POOLER_HINT}") from error
    if before == between or before != after:
        raise Unavailable(
            f"two connections to this Postgres are one, for there is a pooler in between: {POOLER_HINT}"
        )
    if role is not None and user != role:
        raise Unavailable(f"a connection that is to be of the role {role} is of {user}: {POOLER_HINT}")
