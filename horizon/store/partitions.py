"""The partitions of the log's table: which there are, and taking one out, as the owner of the database."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import asyncpg

from horizon.store.export import frontier_at
from horizon.store.feed import TURN_EVENTS
from horizon.store.port import GENESIS_HASH, Archivable, Corrupt, Unavailable
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
    SELECT DISTINCT first, last FROM archives
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


async def archivable(reader: LogReader, first: int) -> Archivable | None:
    """What ``EventStore.archivable`` gives. The tree is grown from what was filed with the checkpoint before
    the partition's end, and on to the next one: it must come out as that has it."""
    partition = next((one for one in await attached(reader) if one.first == first), None)
    if partition is None or (await reader.head()).position < partition.last:
        return None
    last = partition.last
    newest = await reader.newest_checkpoint()
    frontier, tip = await frontier_at(reader, last)
    packed = frontier.packed()
    async for behind in reader.checkpoints(last):
        async for hash in reader.hashes(last, behind.size):
            frontier.add(hash)
            if frontier.size % TURN_EVENTS == 0:
                await asyncio.sleep(0)
        if frontier.packed() != behind.frontier:
            raise Corrupt(
                f"the tree over the {behind.size:,} events up to the checkpoint behind event {last:,} is not "
                "the one that is filed with it: `horizon verify` says what does not hold"
            )
        break
    previous = await reader.hash_at(first - 1) if first > 1 else GENESIS_HASH
    return Archivable(first, last, previous, tip, packed, 0 if newest is None else newest.size)


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
