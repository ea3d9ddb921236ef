"""The partitions of the log's table: which there are, and taking one out, as the owner of the database."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import asyncpg

from horizon.store.port import Unavailable
from horizon.store.postgres import TROUBLE, connect
from horizon.store.reader import LogReader

LOCK_TRIES_MAX: Final = 20
LOCK_WAIT_S: Final = 0.5
"""Appends wait behind whoever waits for the lock, so not for long at a time."""

_ATTACHED: Final = """
    SELECT substring(bound FROM 'FROM \\(''(\\d+)''\\)')::bigint AS first,
           substring(bound FROM 'TO \\(''(\\d+)''\\)')::bigint - 1 AS last
    FROM (SELECT pg_get_expr(relpartbound, oid) AS bound FROM pg_class
          WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)) AS partitions
    ORDER BY first"""
_APART: Final = """
    SELECT first, last FROM archives
    WHERE to_regclass(partition_name(first)) IS NOT NULL
      AND to_regclass(partition_name(first)) NOT IN
          (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)
    ORDER BY first"""


class Partition(NamedTuple):
    """The positions of its first and its last event."""

    first: int
    last: int


async def attached(reader: LogReader) -> list[Partition]:
    """Those that the table of events consists of, in their order."""
    return [Partition(*row) for row in await reader.fetch(_ATTACHED)]


async def apart(reader: LogReader) -> list[Partition]:
    """Those that were taken out of it and are still there."""
    return [Partition(*row) for row in await reader.fetch(_APART)]


async def set_apart(dsn: str, first: int) -> None:
    """Take an archived partition out of the log. Raises ``Unavailable``."""
    await _as_owner(dsn, "SELECT set_apart($1)", first)


async def drop(dsn: str, partition: Partition) -> None:
    """Delete the table of one that was taken out. Raises ``Unavailable``."""
    # Its name is made of digits by the database itself; a name cannot be a parameter.
    name = await _as_owner(dsn, "SELECT partition_name($1)", partition.first)
    await _as_owner(dsn, f"DROP TABLE {name}")


async def _as_owner(dsn: str, statement: str, *arguments: object) -> Any:
    connection = await connect(
        dsn, {"application_name": "horizon archive", "lock_timeout": f"{LOCK_WAIT_S}s"}
    )
    try:
        for _ in range(LOCK_TRIES_MAX):
            try:
                return await connection.fetchval(statement, *arguments)
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(LOCK_WAIT_S)
        raise Unavailable("somebody has read or written the log without a pause: try again later")
    except TROUBLE as error:
        raise Unavailable(f"the partition cannot be taken out of the log: {error}") from error
    finally:
        await connection.close()
