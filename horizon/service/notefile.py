"""The file of signed checkpoints, each note followed by an empty line. It is only ever added to.

It stands outside the database, for whoever owns that can rewrite the table of checkpoints together with the
log. The file itself is no secret: copy it to where others keep it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from horizon.service.keys import sync_directory

_WHOLE: Final = re.compile(rb"((?:[^\n]+\n)+\n(?:\xe2\x80\x94 [^\n]+\n)+)\n")
"""A body, an empty line, signatures; and the empty line behind them."""
_TAIL_BYTES: Final = 64 * 1024
"""More than any note has."""


class NoteFile:
    """Adds to the file, and reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        """A write that was given up on may still go on in its thread."""

    def append(self, note: str) -> None:
        """Add a note; it is on disk when this returns. What a crash left unfinished at the end goes first."""
        with self._lock:
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _drop_torn(descriptor)
                data = f"{note}\n".encode()
                if os.write(descriptor, data) != len(data):
                    raise OSError(f"a checkpoint could not be written whole to {self.path}")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_directory(self.path.parent)

    def newest(self) -> str | None:
        """The last whole note."""
        try:
            with self.path.open("rb") as file:
                note, _ = _last_whole(file.fileno())
        except FileNotFoundError:
            return None
        return None if note is None else note.decode(errors="replace")

    def notes(self) -> Iterator[str]:
        """Every whole note, from the first on."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            lines: list[bytes] = []
            for line in file:
                lines.append(line)
                if line == b"\n" and any(one == b"\n" for one in lines[:-1]):
                    yield b"".join(lines[:-1]).decode(errors="replace")
                    lines = []


def _last_whole(descriptor: int) -> tuple[bytes | None, int]:
    """The last note that is whole, and where what follows it begins."""
    begin = max(0, os.fstat(descriptor).st_size - _TAIL_BYTES)
    note, end = None, begin
    for found in _WHOLE.finditer(os.pread(descriptor, _TAIL_BYTES, begin)):
        note, end = found[1], begin + found.end()
    return note, end


def _drop_torn(descriptor: int) -> None:
    """Nobody has been told of a note that was not written to its end."""
    note, end = _last_whole(descriptor)
    if (note is not None or end == 0) and end < os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, end)
