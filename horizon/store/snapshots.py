"""Snapshots in a directory, one file each, named by position. A cache: deleting them changes nothing.

A file is, one behind the other: ``MAGIC``; the length of the header in 8 bytes, big-endian; the header in
msgpack; the parts of ``core.snapshot`` in its order, as long as the header says; and a SHA-256 over all that:
over the SHA-256 of every 8 MiB of it, so that several cores can work it out. It is written under another name
and gets its own when it is on disk, so what has a name is whole. Whatever is wrong with one all the same,
it is passed over.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import astuple

import horizon.core
from horizon.core.at_rest import Columns, Records, Unreadable
from horizon.core.snapshot import dump, load
from horizon.core.state import State
from horizon.store.port import BadSnapshot

log = structlog.get_logger()

MAGIC: Final = b"horizon snapshot 2\n"
KEEP: Final = 3
SUFFIX: Final = ".snapshot"
_FORMS: Final[tuple[Literal["Q", "B", "i"], ...]] = ("Q", "B", "i", "Q", "B")
"""Of the columns."""
_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 256 << 10
"""At a time, to be hashed: that stays in the cache of a core."""
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

    def __init__(self, path: Path, failed: Callable[[Path], None] = lambda path: None) -> None:
        """``failed`` is told if a record cannot be read any more, later on. Raises ``BadSnapshot``."""
        self.path = path
        self._failed = failed
        try:
            self._bytes = _Bytes(path)
            begin = len(MAGIC) + 8
            head = bytes(self._bytes.read(0, begin))
            if head[: len(MAGIC)] != MAGIC:
                raise BadSnapshot("it is no snapshot that this Horizon knows")
            length = int.from_bytes(head[len(MAGIC) :])
            self._begin = begin + length
            if self._begin > len(self._bytes):
                raise BadSnapshot("it is not as long as it says")
            header = self._bytes.read(begin, length)
        except OSError as error:
            raise BadSnapshot(f"it cannot be read: {error}") from error
        try:
            self.header = msgspec.msgpack.decode(header, type=Header)
        except msgspec.MsgspecError as error:
            raise BadSnapshot(f"its header cannot be read: {error}") from error
        if self._begin + sum(self.header.lengths) + _DIGEST_BYTES != len(self._bytes):
            raise BadSnapshot("it is not as long as it says")
        if self.header.program != program():
            raise BadSnapshot("another version of Horizon made it")
        self.log_id, self.position, self.hash = self.header.log_id, self.header.position, self.header.hash
        self.recorded_at_us = self.header.recorded_at_us

    def state(self) -> State:
        """The state, for which every byte is read once, and the records stay where they are. O(bytes), and
        ``core.snapshot.load``."""
        end = len(self._bytes) - _DIGEST_BYTES
        try:
            if _digest(self._bytes, end) != self._bytes.read(end, _DIGEST_BYTES):
                raise BadSnapshot("it has been damaged: its digest does not match")
            parts, begin = [], self._begin
            for length in self.header.lengths[:-1]:
                parts.append(self._bytes.read(begin, length))
                begin += length
            contents, *columns = parts
            formed = [column.cast(form) for column, form in zip(columns, _FORMS, strict=True)]
            records = FileRecords(self.path, self._bytes, begin, self.header.lengths[-1], self._failed)
            state = load(contents, Columns(*formed), records)
        except BadSnapshot:
            raise
        except Exception as error:  # nothing that was written here does; whatever it is, there is the log
            raise BadSnapshot(f"{type(error).__name__}: {error}") from error
        if (state.position, state.recorded_at_us) != (self.position, self.header.recorded_at_us):
            raise BadSnapshot("it holds another state than it says")
        return state


class _Bytes:
    """The bytes of a file, which is open for as long as this lives.

    They are read, never mapped into memory: of a file that is cut off, or a medium that fails, whoever reads
    hears by an ``OSError``, and whoever has it mapped dies by SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._length = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __len__(self) -> int:
        """When it was opened."""
        return self._length

    def read(self, begin: int, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        self.read_into(data, begin)
        return data.toreadonly()

    def read_into(self, data: memoryview, begin: int) -> None:
        """As much as fits, all there; or ``OSError``."""
        done = 0
        while done < len(data):
            read = os.preadv(self._descriptor, [data[done:]], begin + done)
            if not read:
                raise OSError(errno.EIO, f"it ends after {begin + done:,} bytes")
            done += read


class FileRecords:
    """The records in the file of a snapshot."""

    def __init__(
        self, path: Path, data: _Bytes, begin: int, length: int, failed: Callable[[Path], None]
    ) -> None:
        self._path = path
        self._bytes = data
        self._begin = begin
        self._length = length
        self._failed = failed

    def __len__(self) -> int:
        return self._length

    def read(self, begin: int, length: int) -> memoryview:
        try:
            return self._bytes.read(self._begin + begin, length)
        except OSError as error:
            raise self.lost(f"it cannot be read: {error.strerror}") from error

    def lost(self, why: str) -> Unreadable:
        self._failed(self._path)
        return Unreadable(f"the snapshot {self._path} has been damaged since it was loaded: {why}", self)


class Snapshots:
    """The directory of them. Many may read; ``alone`` makes sure that one writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._passed_over: set[Path] = set()
        """Those that were complained of: once is enough."""
        self._failed: set[Path] = set()
        """Those of which a record could not be read, though all was well when they were loaded."""

    def __iter__(self) -> Iterator[SnapshotFile]:
        """Those that there are, the newest first; any that cannot be used is passed over, with a warning.

        So is one for as long as this lives of which a record could not be read any more.
        """
        for path in self._paths():
            if path in self._failed:
                continue
            try:
                yield SnapshotFile(path, self._failed.add)
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
        by one that is ``alone``. O(bytes). Raises ``OSError``, and ``Unreadable`` for the one before."""
        parts = dump(state)
        one_by_one = (parts.contents, *(column.cast("B") for column in astuple(parts.columns)))
        lengths = [*map(len, one_by_one), len(parts.before or b"") + len(parts.records)]
        header = Header(log_id, state.position, hash, state.recorded_at_us, program(), lengths)
        partial, path = self.directory / "partial", self._path(state.position)
        _write(partial, header, chain(one_by_one, _pieces(parts.before), [parts.records]))
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
    with path.open("wb") as file:
        file.write(MAGIC + len(encoded).to_bytes(8) + encoded)
        for piece in pieces:
            for begin in range(0, len(piece), _PIECE_BYTES):
                file.write(piece[begin : begin + _PIECE_BYTES])
                file.flush()
                os.fdatasync(file.fileno())
        written = _Bytes(path)
        file.write(_digest(written, len(written)))
        file.flush()
        os.fsync(file.fileno())


def _pieces(records: Records | None) -> Iterator[bytes | memoryview]:
    for begin in range(0, len(records or b""), _PIECE_BYTES):
        assert records is not None
        yield records.read(begin, min(_PIECE_BYTES, len(records) - begin))


def _digest(data: _Bytes, end: int) -> bytes:
    """Of the bytes up to there."""

    def of_piece(begin: int) -> bytes:
        hashing, piece_end = sha256(), min(begin + _PIECE_BYTES, end)
        room = memoryview(bytearray(_READ_BYTES))
        for at in range(begin, piece_end, _READ_BYTES):
            some = room[: min(_READ_BYTES, piece_end - at)]
            data.read_into(some, at)
            hashing.update(some)
        return hashing.digest()

    with ThreadPoolExecutor() as cores:
        return sha256(b"".join(cores.map(of_piece, range(0, end, _PIECE_BYTES)))).digest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
