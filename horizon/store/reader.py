"""The log for whoever only looks at it: an auditor, an export. Nothing is migrated, nothing can be changed.

It gives the bytes as they are stored, and believes none of them; any role that may SELECT will do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import asyncpg

from horizon.core.events import Recorded, Stored
from horizon.store import codec, guards
from horizon.store.archive import Archives
from horizon.store.feed import fed, is_long
from horizon.store.guards import Guard
from horizon.store.migrate import SCHEMA_REVISION, current_revision
from horizon.store.port import GENESIS_HASH, Archive, Head, Signed, Unavailable
from horizon.store.postgres import (
    COLUMNS,
    READ_EVENTS,
    SELECT_ARCHIVES,
    SELECT_EVENTS,
    SELECT_HEAD,
    SELECT_RECORDED,
    TROUBLE,
    checkpoints_by,
    connect,
    head_of,
)

READ_HASHES: Final = 20_000
READ_BLOBS: Final = 100
"""A script may have a MiB."""
NO_END: Final = 1 << 62
_SETTINGS: Final = {"application_name": "horizon audit", "default_transaction_read_only": "on"}


class LogReader:
    """One read-only connection to the database of a log. Every read is short: none holds a snapshot."""

    def __init__(self, dsn: str, archive: Sequence[Path] = ()) -> None:
        """``archive`` are the directories where the files of archived partitions may be."""
        self.dsn = dsn
        self._archive = archive
        self._connection: asyncpg.Connection[Any] | None = None

    async def open(self) -> None:
        """Connect, and see that this is a log in a form that is known. Raises ``Unavailable``."""
        self._connection = await connect(self.dsn, _SETTINGS)
        try:
            await self._check_schema(self._connection)
        except BaseException:
            await self.close()
            raise

    async def _check_schema(self, connection: asyncpg.Connection[Any]) -> None:
        try:
            revision = await current_revision(connection)
        except TROUBLE as error:
            raise Unavailable(f"the log cannot be read: {error}") from error
        if revision is None:
            raise Unavailable("there is no log of Horizon in this database")
        if revision != SCHEMA_REVISION:
            hint = "use a newer Horizon" if revision > SCHEMA_REVISION else "`horizon migrate` updates it"
            raise Unavailable(
                f"the database is at schema {revision}, this Horizon reads {SCHEMA_REVISION}: {hint}"
            )

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def head(self) -> Head:
        rows = await self.fetch(SELECT_HEAD)
        return head_of(rows[0] if rows else None)

    async def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        """The events behind a position, checked and decoded, without the bytes that they were; ``Corrupt``
        where the chain breaks."""
        position = after
        if previous is None:
            previous = await self.hash_at(after)
        if is_long(limit):
            async with aclosing(fed(self.dsn, self._archive, after, after + limit, previous)) as events:
                async for recorded in events:
                    yield recorded
            return
        async for some in self.stored(after, NO_END if limit is None else after + limit):
            for stored in some:
                position += 1
                yield codec.open_stored(stored, position, previous)
                previous = stored.hash

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        return [one for position in sorted(positions) async for one in self.read(position - 1, 1)]

    async def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]:
        """The events behind a position up to another, in their order, some thousands at a time."""
        while after < end:
            rows = await self.fetch(SELECT_EVENTS, after, min(READ_EVENTS, end - after))
            if rows and rows[0]["position"] > after + 1:
                archives = await self.archives()
                if archives.holding(after + 1) is not None:
                    for chunk in archives.stored(after, end):
                        yield chunk
                        after = chunk[-1].position
                    continue
            events = [Stored(*row) for row in rows if row["position"] <= end]
            if not events:
                return
            yield events
            after = events[-1].position

    async def hashes(self, after: int, end: int) -> AsyncIterator[bytes]:
        """The hashes of these events, as they are written beside them."""
        query = """SELECT position, hash FROM events WHERE position > $1 AND position <= $2
                   ORDER BY position LIMIT $3"""
        while after < end:
            rows = await self.fetch(query, after, end, READ_HASHES)
            if not rows or rows[0]["position"] > after + 1:  # a partition may go at any time
                archives = await self.archives()
                if archives.holding(after + 1) is not None:
                    for chunk in archives.stored(after, end):
                        for one in chunk:
                            yield one.hash
                        after = chunk[-1].position
                    continue
            if not rows:
                return
            for row in rows:
                yield row["hash"]
            after = rows[-1]["position"]

    async def hash_at(self, position: int) -> bytes:
        """The hash of an event, as it is written beside it; that of none when there is none."""
        archive = (await self.archives()).ending_at(position)
        if archive is not None and archive.last == position:
            return archive.tip
        found = [one async for one in self.hashes(position - 1, position)]
        return found[0] if found else GENESIS_HASH

    async def unguarded(self) -> list[Guard]:
        """The triggers that do not guard the log any more."""
        return await guards.missing(self.fetch)

    async def archives(self) -> Archives:
        """The partitions that are in files and not in the table any more."""
        return Archives([Archive(*row) for row in await self.fetch(SELECT_ARCHIVES)], self._archive)

    async def recorded_archives(self) -> Archives:
        """Those that are on record, taken out of the table or not."""
        return Archives([Archive(*row) for row in await self.fetch(SELECT_RECORDED)], self._archive)

    def checkpoints(self, after: int = 0) -> AsyncIterator[Signed]:
        """Those over more than so many events, the smallest first."""
        return checkpoints_by(self.fetch, after)

    async def newest_checkpoint(self, size_max: int = 2**63 - 1) -> Signed | None:
        """The largest of those over at most so many events."""
        query = "SELECT size, frontier, note FROM checkpoints WHERE size <= $1 ORDER BY size DESC LIMIT 1"
        rows = await self.fetch(query, size_max)
        return Signed(*rows[0]) if rows else None

    async def may_read_blobs(self) -> bool:
        """An auditor may not."""
        [row] = await self.fetch("SELECT has_table_privilege('blobs', 'SELECT')")
        return bool(row[0])

    async def filed(self) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All blobs, under their digests, in short reads."""
        query, digest = "SELECT digest, data FROM blobs WHERE digest > $1 ORDER BY digest LIMIT $2", ""
        while rows := await self.fetch(query, digest, READ_BLOBS):
            yield [tuple(row) for row in rows]
            digest = rows[-1]["digest"]

    async def where(self, condition: str, *arguments: object) -> list[Stored]:
        """The events for which this holds. Without an index that takes a read of the whole log."""
        rows = await self.fetch(f"SELECT {COLUMNS} FROM events WHERE {condition}", *arguments)
        return [Stored(*row) for row in rows]

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        if self._connection is None:
            raise Unavailable("the log is not open")
        try:
            return list(await self._connection.fetch(query, *arguments))
        except TROUBLE as error:
            raise Unavailable(f"the log cannot be read: {error}") from error
