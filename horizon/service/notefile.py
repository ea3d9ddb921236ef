"""Files of signed checkpoints: the scheduler's own, which is only ever added to, and those that others keep.

Its own stands outside the database, for whoever owns that can rewrite the table of checkpoints together with
the log. The file itself is no secret: copy it, or what ``GET /api/v1/checkpoint`` says, to where others keep
it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from horizon.service.keys import sync_directory
from horizon.store.note import BadNote, read_note

_SIGNATURE: Final = "\u2014 ".encode()
_TAIL_BYTES: Final = 64 * 1024
"""More than any note has."""


class Piece(NamedTuple):
    """What stands where a note should; whether it is one, ``read_note`` says."""

    data: bytes
    closed: bool
    """An empty line or the next note stands behind it: it was written to its end."""
    end: int
    """Where what follows begins."""


def pieces(lines: Iterable[bytes]) -> Iterator[Piece]:
    """The notes of a file, one behind the other, with empty lines between them or without."""
    piece: list[bytes] = []
    behind_body, end = False, 0
    for line in lines:
        # A line that a crash cut short may yet be the next signature.
        other = line.endswith(b"\n") and not line.startswith(_SIGNATURE)
        if behind_body and (line == b"\n" or (other and piece[-1].startswith(_SIGNATURE))):
            yield Piece(b"".join(piece), True, end + len(line) * (line == b"\n"))
            piece, behind_body = [], False
        end += len(line)
        if piece or line != b"\n":
            piece.append(line)
            behind_body = behind_body or line == b"\n"
    if piece:
        yield Piece(b"".join(piece), False, end)


def kept_notes(path: Path) -> list[str]:
    """Every note in a file that somebody keeps to hold the log to it. Raises ``BadNote``, ``OSError``.

    Nothing in it is passed over, and a file without any is refused: what its keeper relies on must be seen.
    """
    found: list[str] = []
    with path.open("rb") as file:
        for piece in pieces(file):
            note = piece.data.decode(errors="replace")
            try:
                read_note(note)
            except BadNote as error:
                raise BadNote(f"checkpoint {len(found) + 1} in {path} cannot be read: {error}") from error
            found.append(note)
    if not found:
        raise BadNote(f"there is no checkpoint in {path}")
    return found


class NoteFile:
    """Adds to the scheduler's own file, and reads it: a note is whole if something stands behind it."""

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
            for piece in pieces(file):
                if piece.closed:
                    yield piece.data.decode(errors="replace")


def _last_whole(descriptor: int) -> tuple[bytes | None, int]:
    """The last note that is whole, and where what follows it begins."""
    begin = max(0, os.fstat(descriptor).st_size - _TAIL_BYTES)
    note, end = None, begin
    for piece in pieces(BytesIO(os.pread(descriptor, _TAIL_BYTES, begin))):
        if piece.closed and b"\n\n" + _SIGNATURE in piece.data:
            note, end = piece.data, begin + piece.end
    return note, end


def _drop_torn(descriptor: int) -> None:
    """Nobody has been told of a note that was not written to its end."""
    note, end = _last_whole(descriptor)
    if (note is not None or end == 0) and end < os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, end)
