"""Archives: the oldest events of the log, in files that take the place of partitions of the table.

A file is an export (``store.export``), so whoever checks those checks it. It is not packed: its lines are in
the order of their positions, so any event is found by bisection, without an index.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from horizon.core.events import Stored
from horizon.store.codec import check_link
from horizon.store.line import Line, stored_in
from horizon.store.port import GENESIS_HASH, Archive, Archived, Corrupt, Wanted

CHUNK_EVENTS: Final = 1_000
_EVENT: Final = b'{"position":'
_SCAN_BYTES: Final = 64 * 1024
"""Where bisection ends: so much is read line by line."""


class Archives:
    """The files of a log, wherever they are; ``directories`` are looked through in their order."""

    def __init__(self, known: Sequence[Archive], directories: Sequence[Path]) -> None:
        self.known = known
        """In the order of their events, without a gap."""
        self._directories = directories

    @property
    def end(self) -> int:
        """The position of the last event that is archived; 0 when none is."""
        return self.known[-1].last if self.known else 0

    def holding(self, position: int) -> Archive | None:
        return next((one for one in self.known if one.first <= position <= one.last), None)

    def ending_at(self, size: int) -> Archive | None:
        """The newest that has no more than so many events of the log."""
        return next((one for one in reversed(self.known) if one.last <= size), None)

    def away(self) -> list[Archive]:
        """Those whose files are not there."""
        return [one for one in self.known if self._find(one) is None]

    def path(self, archive: Archive) -> Path:
        """Its file. Raises ``Archived`` when it is not there."""
        found = self._find(archive)
        if found is None:
            places = " or ".join(str(one) for one in self._directories) or "no directory"
            raise Archived(
                f"events {archive.first:,} to {archive.last:,} are in the file {archive.file} (SHA-256 "
                f"{archive.sha256.hex()}), which is not in {places}: bring it there, or name its directory "
                "in HORIZON_ARCHIVE"
            )
        return found

    def _find(self, archive: Archive) -> Path | None:
        paths = (directory / archive.file for directory in self._directories)
        return next((path for path in paths if path.is_file()), None)

    def stored(self, after: int, end: int) -> Iterator[list[Stored]]:
        """The events behind a position up to another that are archived, some at a time; the first is."""
        while (archive := self.holding(after + 1)) is not None and after < end:
            for chunk in events_in(self.path(archive), after, min(end, archive.last)):
                yield chunk
                after = chunk[-1].position
            if after < min(end, archive.last):
                raise Corrupt(f"event {after + 1} is missing in {self.path(archive)}")

    def find(self, wanted: Wanted, after: int, end: int, limit: int) -> list[Stored]:
        """The first so many that are archived of what ``EventStore.find`` gives."""
        end = min(end, self.end)
        if wanted.positions is None:
            events = self._fitting(wanted, after, end)
        else:
            at = (one for one in wanted.positions if after < one <= end)
            events = chain.from_iterable(self._fitting(wanted, one - 1, one) for one in at)
        return list(islice(events, limit))

    def _fitting(self, wanted: Wanted, after: int, end: int) -> Iterator[Stored]:
        """Each is checked to hang on the one before; of that, only what it says its hash is."""
        previous = self._hash_at(after)
        for chunk in self.stored(after, end):
            for one in chunk:
                if wanted.fits(one):
                    check_link(one, one.position, previous)
                    yield one
                previous = one.hash

    def _hash_at(self, position: int) -> bytes:
        archive = self.ending_at(position)
        if archive is not None and archive.last == position:
            return archive.tip
        return self.some(position - 1, position)[0].hash if position else GENESIS_HASH

    def position_at(self, moment_us: int) -> int:
        """The position of the last of them that was recorded up to a moment; 0 for none. O(log of all)."""
        places = range(1, self.end + 1)
        return bisect_right(places, moment_us, key=lambda at: self.some(at - 1, at)[0].recorded_at_us)

    def some(self, after: int, end: int) -> list[Stored]:
        """The same up to another position, at once; the first is archived."""
        return [one for chunk in self.stored(after, end) for one in chunk]


def events_in(path: Path, after: int, end: int) -> Iterator[list[Stored]]:
    """The events in an export that is not packed, behind a position up to another. Nothing is believed."""
    read = after
    try:
        with path.open("rb") as file:
            _go_to(file, after)
            chunk: list[Stored] = []
            for text in file:
                if not text.startswith(_EVENT):
                    continue
                stored = stored_in(msgspec.json.decode(text, type=Line))
                if stored.position > end:
                    break
                if stored.position > after:
                    chunk.append(stored)
                    read = stored.position
                if len(chunk) == CHUNK_EVENTS:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk
    except (OSError, ValueError) as error:  # of which msgspec's are
        raise Corrupt(f"{path} cannot be read behind event {read}: {error}") from error


def _go_to(file: BinaryIO, after: int) -> None:
    """To the beginning of some line, not far before the first event behind this position."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > _SCAN_BYTES:
        middle = (low + high) // 2
        at = _line_behind(file, middle)
        if at is None or at[1] > after:
            high = middle
        else:
            low = at[0]
    file.seek(low)


def _line_behind(file: BinaryIO, offset: int) -> tuple[int, int] | None:
    """Where the first event begins that begins behind an offset, and its position."""
    file.seek(offset)
    file.readline()
    while True:
        begin = file.tell()
        text = file.readline()
        if not text:
            return None
        if text.startswith(_EVENT):
            return begin, int(text[len(_EVENT) : text.index(b",")])
