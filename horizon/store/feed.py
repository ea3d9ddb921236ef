"""A long part of the log, read and checked by a process of its own.

Nearly half of what an event costs from Postgres to the state is to receive it and to work out its two hashes.
That half is done by another process, ahead of whoever folds: it reads as a ``LogReader`` does, checks every
link of the chain, and writes what held to a pipe, some thousand events at a time. It dies with the pipe.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeGuard

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from horizon.core.events import Recorded
from horizon.store import codec
from horizon.store.port import Archived, Corrupt, Unavailable

FEED_EVENTS: Final = 200_000
"""So many are folded in 1.4 s without such a process, and in 1.1 with it, with 0.2 for it to begin."""
TURN_EVENTS: Final = 500
"""Events after which others get their turn, among them what takes in the next ones."""
_PIPE_BYTES: Final = 1 << 20
"""As many as come in while others have no turn, and more; most systems allow it to anybody."""
_BUFFER_BYTES: Final = 8 << 20
_LENGTH_BYTES: Final = 4


class Part(Struct, frozen=True, array_like=True):
    """What is to be read, and where: it goes to the process on stdin, for others can see an argument."""

    dsn: str
    archive: tuple[str, ...]
    after: int
    end: int
    previous: bytes
    """The hash of the event that the first one hangs on."""


Row = tuple[int, int, int, str, int, str, int, str, bytes, bytes, int, bytes, bytes]
"""The fields of ``Stored``."""


class Some(Struct, frozen=True, array_like=True, tag="some"):
    """Events that held, in their order."""

    rows: list[Row]


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """Why there are no more."""

    error: str
    """The class of it."""
    message: str


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """That there are no more."""


_ERRORS: Final = {error.__name__: error for error in (Archived, Corrupt, Unavailable)}
_DECODER: Final = msgspec.msgpack.Decoder(Some | Failed | Done)
_ENCODER: Final = msgspec.msgpack.Encoder()


# --- whoever folds ------------------------------------------------------------------------------------


def is_long(events: int | None) -> TypeGuard[int]:
    """Whether so many are worth a process; of None it is not known how many there are."""
    return events is not None and events >= FEED_EVENTS


async def fed(
    dsn: str, archive: Sequence[Path], after: int, end: int, previous: bytes
) -> AsyncGenerator[Recorded, None]:
    """The events behind a position up to another, checked and decoded, without the bytes that they were.

    ``archive`` are the directories where the files of archived partitions may be. Raises ``Corrupt`` where
    the chain breaks, ``Archived``, ``Unavailable``.
    """
    part = Part(dsn, tuple(map(str, archive)), after, end, previous)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "horizon.store.feed"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_BUFFER_BYTES,
        start_new_session=True,  # ctrl-C is for whoever reads, and it dies with that
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(_ENCODER.encode(part))
        process.stdin.close()
        async for rows in _frames(process.stdout):
            for row in rows:
                yield _opened(row)
                if row[0] % TURN_EVENTS == 0:
                    await asyncio.sleep(0)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _frames(pipe: asyncio.StreamReader) -> AsyncIterator[list[Row]]:
    while True:
        try:
            length = int.from_bytes(await pipe.readexactly(_LENGTH_BYTES))
            frame = _DECODER.decode(await pipe.readexactly(length))
        except asyncio.IncompleteReadError:
            raise Unavailable("the process that read the log has died; what it said of it is above") from None
        match frame:
            case Some(rows):
                yield rows
            case Failed(error, message):
                raise _ERRORS[error](message)
            case Done():
                return


def _opened(row: Row) -> Recorded:
    """Without the payload, which nobody needs who has the event."""
    event = codec.open_payload(row[0], row[3], row[4], row[11])
    return Recorded(*row[:11], b"", row[12], event)


# --- the process that reads ---------------------------------------------------------------------------


async def _feed(part: Part) -> None:
    from horizon.store.reader import LogReader

    reader = LogReader(part.dsn, [Path(name) for name in part.archive])
    await reader.open()
    try:
        position, previous = part.after, part.previous
        async for chunk in reader.stored(part.after, part.end):
            for stored in chunk:
                position += 1
                codec.check_link(stored, position, previous)
                previous = stored.hash
            _write(Some([astuple(stored) for stored in chunk]))
    finally:
        await reader.close()


def _write(frame: Some | Failed | Done) -> None:
    encoded = _ENCODER.encode(frame)
    sys.stdout.buffer.write(len(encoded).to_bytes(_LENGTH_BYTES) + encoded)
    sys.stdout.buffer.flush()


def main() -> None:
    import gc

    with suppress(OSError, AttributeError):  # where it may not be larger, or there is no such thing
        fcntl.fcntl(sys.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    gc.disable()  # there are no cycles in what is read
    part = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Part)
    with suppress(BrokenPipeError):
        try:
            asyncio.run(_feed(part))
            _write(Done())
        except tuple(_ERRORS.values()) as error:
            _write(Failed(type(error).__name__, str(error)))


if __name__ == "__main__":
    main()
