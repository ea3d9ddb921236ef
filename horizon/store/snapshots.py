"""Snapshots in a directory, one file each, named by position. A cache: deleting them changes nothing.

A file is, one behind the other: ``MAGIC``; the length of the header in 8 bytes, big-endian; the header in
msgpack; the parts of ``core.snapshot`` in its order, as long as the header says; and a SHA-256 over all that:
over the SHA-256 of every 8 MiB of it, so that several cores can work it out. It is written under another name
and gets its own when it is on disk, so what has a name is whole. Whatever is wrong with one all the same,
it is passed over.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import astuple

import horizon.core
from horizon.core.at_rest import Columns
from horizon.core.snapshot import dump, load
from horizon.core.state import State
from horizon.store.port import BadSnapshot

log = structlog.get_logger()

MAGIC: Final = b"horizon snapshot 1\n"
KEEP: Final = 3
SUFFIX: Final = ".snapshot"
_FORMS: Final[tuple[Literal["Q", "B", "i"], ...]] = ("Q", "B", "i", "Q", "B")
"""Of the columns."""
_DIGEST_BYTES: Final = 32
_PIECE_BYTES: Final = 8 << 20
"""Hashed by one core at a time; and written at a time, each on disk before the next: whoever else waits for
the disk, the log above all, never waits for more than that."""


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot is of, and who can read it."""

    log_id: bytes
    position: int
    hash: bytes
    """Of the event at the position."""
    recorded_at_us: int
    program: bytes
    """Which code folded it: another may fold otherwise, or keep something else in its state."""
    lengths: list[int]
    """Of the contents, the columns and the records."""


@cache
def program() -> bytes:
    """A digest of the code that folds: all of ``core`` and the compiled foundation."""
    core = Path(horizon.core.__file__).parent
    files = sorted((*core.glob("*.py"), *core.parent.glob("_*.so")))
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).digest()


class SnapshotFile:
    """One that was found. Its header has been read, and nothing else."""

    def __init__(self, path: Path) -> None:
        """Raises ``BadSnapshot``."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise BadSnapshot(f"it cannot be read: {error}") from error
        begin = len(MAGIC) + 8
        if bytes(self._data[: len(MAGIC)]) != MAGIC:
            raise BadSnapshot("it is no snapshot that this Horizon knows")
        self._begin = begin + int.from_bytes(self._data[len(MAGIC) : begin])
        try:
            self.header = msgspec.msgpack.decode(self._data[begin : self._begin], type=Header)
        except msgspec.MsgspecError as error:
            raise BadSnapshot(f"its header cannot be read: {error}") from error
        if self._begin + sum(self.header.lengths) + _DIGEST_BYTES != len(self._data):
            raise BadSnapshot("it is not as long as it says")
        if self.header.program != program():
            raise BadSnapshot("another version of Horizon made it")
        self.log_id, self.position, self.hash = self.header.log_id, self.header.position, self.header.hash

    def state(self) -> State:
        """The state, for which every byte is read once. O(bytes), and ``core.snapshot.load``."""
        if _digest(self._data[:-_DIGEST_BYTES]) != self._data[-_DIGEST_BYTES:]:
            raise BadSnapshot("it has been damaged: its digest does not match")
        parts, begin = [], self._begin
        for length in self.header.lengths:
            parts.append(self._data[begin : begin + length])
            begin += length
        try:
            contents, *columns, records = parts
            formed = [column.cast(form) for column, form in zip(columns, _FORMS, strict=True)]
            state = load(contents, Columns(*formed), records)
        except Exception as error:  # nothing that was written here does; whatever it is, there is the log
            raise BadSnapshot(f"{type(error).__name__}: {error}") from error
        if (state.position, state.recorded_at_us) != (self.position, self.header.recorded_at_us):
            raise BadSnapshot("it holds another state than it says")
        return state


class Snapshots:
    """The directory of them. Many may read; ``alone`` makes sure that one writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._passed_over: set[Path] = set()
        """Those that were complained of: once is enough."""

    def __iter__(self) -> Iterator[SnapshotFile]:
        """Those that there are, the newest first; any that cannot be used is passed over, with a warning."""
        for path in self._paths():
            try:
                yield SnapshotFile(path)
            except BadSnapshot as error:
                if path not in self._passed_over:
                    log.warning("a snapshot is not used", file=str(path), why=str(error))
                self._passed_over.add(path)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else writes here, nor will while this lasts. Makes the directory if need be."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)

    def write(self, state: State, log_id: bytes, hash: bytes) -> Path:
        """Keep a state, that of the log up to the event with this hash, and few of those before. To be called
        by one that is ``alone``. O(bytes). Raises ``OSError``."""
        parts = dump(state)
        one_by_one = (parts.contents, *(column.cast("B") for column in astuple(parts.columns)))
        lengths = [*map(len, one_by_one), sum(map(len, parts.records))]
        header = Header(log_id, state.position, hash, state.recorded_at_us, program(), lengths)
        partial, path = self.directory / "partial", self._path(state.position)
        _write(partial, header, (*one_by_one, *parts.records))
        partial.replace(path)
        _sync(self.directory)
        self._prune(path, log_id)
        return path

    def _path(self, position: int) -> Path:
        return self.directory / f"{position:020}{SUFFIX}"

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{SUFFIX}"), reverse=True)

    def _prune(self, newest: Path, log_id: bytes) -> None:
        """What is neither among the newest of this log nor of any use is only in the way."""
        older = [one.path for one in self if one.log_id == log_id and one.path.name < newest.name]
        good = [newest, *older][:KEEP]
        for path in self._paths():
            if path not in good:
                path.unlink(missing_ok=True)


def _write(path: Path, header: Header, pieces: Iterable[bytes | memoryview]) -> None:
    encoded = msgspec.msgpack.encode(header)
    with path.open("wb+") as file:
        file.write(MAGIC + len(encoded).to_bytes(8) + encoded)
        for piece in pieces:
            for begin in range(0, len(piece), _PIECE_BYTES):
                file.write(piece[begin : begin + _PIECE_BYTES])
                file.flush()
                os.fdatasync(file.fileno())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as whole:
            digest = _digest(whole)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _digest(data: memoryview) -> bytes:
    def of_piece(begin: int) -> bytes:
        return sha256(data[begin : begin + _PIECE_BYTES]).digest()

    with ThreadPoolExecutor() as cores:
        return sha256(b"".join(cores.map(of_piece, range(0, len(data), _PIECE_BYTES)))).digest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
