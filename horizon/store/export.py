"""The log as lines of JSON, for whoever does not trust Horizon: ``horizon/auditor.py``, or their own program.

What is written is what is stored, right or wrong.

A header says which log it is, which events follow, and what stands before them: the frontier of the tree and
the hash of the event before. Then each event on a line, its payload a string of the exact bytes that were
hashed; behind the event at its size each signed checkpoint; and a last line with the number of events, so
that one can see that none is missing.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from horizon.core.events import Stored
from horizon.store.feed import TURN_EVENTS
from horizon.store.line import Line, line_of, stored_in
from horizon.store.port import GENESIS_HASH, Corrupt, Head, Signed
from horizon.store.reader import LogReader
from horizon.store.tree import Frontier

VERSION: Final = 1

CHUNK_EVENTS: Final = 1_000

_encode: Final = msgspec.json.Encoder().encode


class Header(Struct, rename={"from_": "from"}):
    horizon_export: int
    log_id: str
    from_: int
    to: int
    frontier: list[str]
    tip: str


def event_line(stored: Stored) -> bytes:
    """The line of an event, without its end."""
    try:
        return _encode(line_of(stored, stored.payload.decode()))
    except UnicodeDecodeError:  # nothing Horizon ever wrote, so somebody else did: it must be seen as it is
        payload = stored.payload.decode("utf-8", "surrogateescape")
        return json.dumps(msgspec.to_builtins(line_of(stored, payload)), separators=(",", ":")).encode()


def checkpoint_line(signed: Signed) -> bytes:
    return _encode({"checkpoint": signed.note})


class Export:
    """Events from one position to another, or to where the log ends now. Made by ``plan_export``."""

    def __init__(self, reader: LogReader, head: Head, first: int, last: int, signed_to: int) -> None:
        self._reader = reader
        self._head = head
        self.first = first
        self.last = last
        self._signed_to = signed_to
        """Checkpoints up to this size belong to it, even if the log is shorter: then that is to be seen."""

    async def lines(self) -> AsyncIterator[tuple[int, bytes]]:
        """Some lines at a time, each with the position up to which they go."""
        yield self.first - 1, _encode(await self._header()) + b"\n"
        checkpoints = self._reader.checkpoints(self.first - 2)
        waiting = await anext(checkpoints, None)
        events = 0
        async for chunk in self._reader.stored(self.first - 1, self.last):
            lines: list[bytes] = []
            for stored in chunk:
                while waiting is not None and waiting.size < stored.position:
                    lines.append(checkpoint_line(waiting))
                    waiting = await anext(checkpoints, None)
                lines.append(event_line(stored))
            events += len(chunk)
            yield chunk[-1].position, b"\n".join(lines) + b"\n"
        while waiting is not None and waiting.size <= self._signed_to:
            yield self.last, checkpoint_line(waiting) + b"\n"
            waiting = await anext(checkpoints, None)
        yield self.last, _encode({"end": True, "events": events}) + b"\n"

    async def _header(self) -> Header:
        before = self.first - 1
        frontier, tip = await frontier_at(self._reader, before)
        hashes = [hash.hex() for hash in frontier.hashes]
        return Header(VERSION, self._head.log_id.hex(), self.first, self.last, hashes, tip.hex())


async def plan_export(reader: LogReader, first: int, last: int | None) -> Export:
    """Raises ``ValueError`` when the log has no such events."""
    newest = await reader.newest_checkpoint()  # before the head, which no honest checkpoint is beyond
    head = await reader.head()
    end = head.position if last is None else last
    if last is not None and first > last:
        raise ValueError(f"from {first} to {last} there is no event: the first one comes before the last")
    if not 1 <= first <= max(end, 1) or end > head.position:
        raise ValueError(f"the log has the events 1 to {head.position}, and no {max(first, end)}")
    signed_to = end if last is not None or newest is None else max(end, newest.size)
    return Export(reader, head, first, end, signed_to)


async def frontier_at(reader: LogReader, size: int) -> tuple[Frontier, bytes]:
    """The tree's frontier over so many events, and the hash of the last of them.

    It begins from what was filed with a checkpoint, and is as right as that; whoever checks finds out.
    """
    near = await reader.newest_checkpoint(size)
    archive = (await reader.archives()).ending_at(size)
    frontier, tip = Frontier(), GENESIS_HASH
    if archive is not None and (near is None or near.size <= archive.last):
        with suppress(ValueError):
            frontier, tip = Frontier.unpacked(archive.last, archive.frontier), archive.tip
    elif near is not None:
        with suppress(ValueError):  # somebody has spoilt it: then from the beginning
            frontier = Frontier.unpacked(near.size, near.frontier)
            tip = await reader.hash_at(near.size)
    async for tip in reader.hashes(frontier.size, size):
        frontier.add(tip)
        if frontier.size % TURN_EVENTS == 0:
            await asyncio.sleep(0)
    if frontier.size != size:
        raise Corrupt(f"the log has {frontier.size} events where it should have {size}")
    return frontier, tip


class ExportFile:
    """An export, to be folded again: its events, in the form in which a reader of the database gives them.

    Nothing in it is believed, and its checkpoints are left to the auditor. Raises ``Corrupt`` for what cannot
    be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def header(self) -> Header:
        """Which events of which log it has."""
        for line in self._lines():
            try:
                header = msgspec.json.decode(line, type=Header)
            except msgspec.MsgspecError as error:
                raise Corrupt(f"{self._path} is no export of a log: {error}") from error
            if header.horizon_export != VERSION:
                raise Corrupt(f"{self._path} is an export of version {header.horizon_export}, not {VERSION}")
            return header
        raise Corrupt(f"{self._path} is empty")

    async def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]:
        """The events behind a position up to another, in their order, some at a time."""
        self.header()
        chunk: list[Stored] = []
        whole = False
        for number, line in enumerate(self._lines(), start=1):
            whole = line.startswith(b'{"end":')
            if number == 1 or whole or line.startswith(b'{"checkpoint":'):
                continue
            try:
                stored = stored_in(msgspec.json.decode(line, type=Line))
            except (msgspec.MsgspecError, ValueError) as error:
                raise Corrupt(f"line {number} of {self._path} is no event: {error}") from error
            if after < stored.position <= end:
                chunk.append(stored)
            if len(chunk) == CHUNK_EVENTS:
                yield chunk
                chunk = []
        if not whole:
            raise Corrupt(f"{self._path} is cut off: its last line is missing")
        if chunk:
            yield chunk

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                yield from gzip.GzipFile(fileobj=raw) if packed else raw
        except (OSError, EOFError, zlib.error) as error:
            raise Corrupt(f"{self._path} cannot be read: {error}") from error
