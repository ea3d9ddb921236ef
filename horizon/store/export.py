"""The log as lines of JSON, for whoever does not trust Horizon: ``horizon/auditor.py``, or their own program.

What is written is what is stored, right or wrong.

A header says which log it is, which events follow, and what stands before them: the frontier of the tree and
the hash of the event before. Then each event on a line, its payload a string of the exact bytes that were
hashed; behind the event at its size each signed checkpoint; and a last line with the number of events, so
that one can see that none is missing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct

from horizon.core.events import Stored
from horizon.store.port import GENESIS_HASH, Corrupt, Head, Signed
from horizon.store.reader import LogReader
from horizon.store.tree import Frontier

VERSION: Final = 1

_encode: Final = msgspec.json.Encoder().encode


class Header(Struct, rename={"from_": "from"}):
    horizon_export: int
    log_id: str
    from_: int
    to: int
    frontier: list[str]
    tip: str


class Line(Struct):
    """An event; bytes in hex, but for the payload."""

    position: int
    recorded_at_us: int
    epoch: int
    type: str
    schema_version: int
    stream: str
    stream_version: int
    actor: str
    command_id: str
    correlation_id: str
    causation: int
    payload: str
    hash: str


def line_of(stored: Stored, payload: str) -> Line:
    return Line(
        stored.position,
        stored.recorded_at_us,
        stored.epoch,
        stored.type,
        stored.schema_version,
        stored.stream,
        stored.stream_version,
        stored.actor,
        stored.command_id.hex(),
        stored.correlation_id.hex(),
        stored.causation,
        payload,
        stored.hash.hex(),
    )


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
    if not 1 <= first <= end + 1 or end > head.position:
        raise ValueError(f"the log has the events 1 to {head.position}")
    signed_to = end if last is not None or newest is None else max(end, newest.size)
    return Export(reader, head, first, end, signed_to)


async def frontier_at(reader: LogReader, size: int) -> tuple[Frontier, bytes]:
    """The tree's frontier over so many events, and the hash of the last of them.

    It begins from what was filed with a checkpoint, and is as right as that; whoever checks finds out.
    """
    near = await reader.newest_checkpoint(size)
    frontier, tip = Frontier(), GENESIS_HASH
    if near is not None:
        with suppress(ValueError):  # somebody has spoilt it: then from the beginning
            frontier = Frontier.unpacked(near.size, near.frontier)
            rows: list[Any] = await reader.fetch("SELECT hash FROM events WHERE position = $1", near.size)
            tip = rows[0]["hash"] if rows else GENESIS_HASH
    async for tip in reader.hashes(frontier.size, size):
        frontier.add(tip)
    if frontier.size != size:
        raise Corrupt(f"the log has {frontier.size} events where it should have {size}")
    return frontier, tip
