"""Jobs at rest: those that have ended and hold nothing. One event alone may still speak of them, that what
they were given was erased; then they are among the others again.

A log has millions of them, and nearly nobody asks. So a state that comes from a snapshot keeps them as they
are in it, encoded, and decodes one when somebody does. ``Numbered`` and ``JobsById`` stand for the list and
the dict of a state that was folded from the first event, and give equal jobs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from struct import Struct as Packed
from typing import Any, Final, Protocol
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from horizon.core.model import JobSpec, JobState, Priority
from horizon.core.state import ArrayState, Job, State

DECODED_MAX: Final = 4_096
"""How many are kept decoded: what was asked for once is mostly asked for again soon."""
NUMBER_BITS: Final = 40
_NUMBER: Final = (1 << NUMBER_BITS) - 1
TAG_BITS: Final = 24
_HEAD: Final = Packed(">II")
"""Before each record: its length and its CRC-32, by which one is noticed that is not what was written."""
_READ_BYTES: Final = 1_024
"""At once: most records are shorter."""
_SPEC: Final = Job.__struct_fields__.index("spec")
_ARRAY: Final = Job.__struct_fields__.index("array")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[Any], tuple[Any, ...]]] = msgspec.msgpack.Decoder(
    tuple[  # type: ignore[misc]
        tuple(
            kind | None if kind is JobSpec else kind
            for kind in (one.type for one in msgspec.structs.fields(Job))
        )
    ]
).decode


def record_of(job: Job) -> bytes:
    """A job as one record. A task is asked for what its array is, which is not written down again."""
    values = list(astuple(job))
    if job.array:
        values[_SPEC] = None
    return _encode(values)


def job_of(record: bytes | memoryview, arrays: dict[int, ArrayState]) -> Job:
    """The job of a record; that of its array must be there already. Raises ``msgspec.MsgspecError``."""
    values = _decode(record)
    if values[_SPEC] is None:
        array = arrays[values[_ARRAY]].job
        values = (*values[:_SPEC], array.spec, *values[_SPEC + 1 :])
    return Job(*values)


def is_at_rest(state: State, job: Job) -> bool:
    """Whether it has come to its end.

    What waited for others when it was cancelled is still told of them; an array changes with its tasks.
    """
    return (
        job.state.ended and job.allocation_state is None and not job.unmet and job.number not in state.arrays
    )


def _tag(id: str) -> int:
    return crc32(id.encode()) >> (32 - TAG_BITS)


def mark(state: JobState, priority: Priority) -> int:
    """Both in one byte."""
    return _STATES[state] << 2 | priority.rank


_STATES: Final = {state: number for number, state in enumerate(JobState)}


class Unreadable(Exception):
    """A record of a job at rest cannot be read any more. A state that rests on it is not to be trusted; the
    log is. The message says which file it is in."""

    def __init__(self, message: str, records: Records) -> None:
        super().__init__(message)
        self.records = records


class Records(Protocol):
    """The records of one snapshot, one behind the other. They stay where they are, and never change."""

    def __len__(self) -> int: ...

    def read(self, begin: int, length: int) -> bytes | memoryview:
        """So many bytes of them, all there. Raises ``Unreadable``."""
        ...

    def lost(self, why: str) -> Unreadable:
        """What to raise when they are not what was written; whoever keeps them is told by it."""
        ...


class Columns(Struct, frozen=True):
    """What is known of jobs at rest without decoding any. By number, from 1, where nothing else is said."""

    places: memoryview
    """Where its record begins, and 1; 0 for a job that is not at rest. int64."""
    marks: memoryview
    """Its state and priority. A byte."""
    owners: memoryview
    """Its share. int32."""
    index: memoryview
    """Their numbers, each below the tag of the id, in order. int64."""
    tags: memoryview
    """A bit for every tag: whether any of them has it. Nearly all that are looked up here are new ids."""


class AtRest:
    """The jobs at rest of one snapshot, found by number and by id. It only reads what it was given."""

    def __init__(self, columns: Columns, records: Records, arrays: dict[int, ArrayState]) -> None:
        self.columns = columns
        self.records = records
        self._arrays = arrays
        self._decoded: dict[int, Job] = {}

    def job(self, number: int) -> Job:
        """The one with this number. O(1), and to be read and decoded unless it was asked for lately.

        Raises ``Unreadable``; so does whatever asks for a job in a state that rests on records.
        """
        found = self._decoded.get(number)
        if found is None:
            found = job_of(self.record(number), self._arrays)
            if len(self._decoded) >= DECODED_MAX:
                self._decoded.clear()
            self._decoded[number] = found
        return found

    def record(self, number: int) -> bytes | memoryview:
        begin = self.columns.places[number - 1] - 1
        left = len(self.records) - begin
        some = self.records.read(begin, min(_READ_BYTES, left))
        length, crc = _HEAD.unpack_from(some)
        if 0 < length <= left - _HEAD.size:  # what was never written is often zeros
            end = _HEAD.size + length
            record = (some if end <= len(some) else self.records.read(begin, end))[_HEAD.size : end]
            if crc32(record) == crc:
                return record
        raise self.records.lost(f"the record of job {number} is not what was written")

    def find(self, id: str) -> Job | None:
        """The one with this id. O(log jobs), and O(1) for nearly all that are not here."""
        tag = _tag(id)
        if not self.columns.tags[tag >> 3] >> (tag & 7) & 1:
            return None
        index = self.columns.index
        at = bisect_left(index, tag << NUMBER_BITS)
        while at < len(index) and index[at] >> NUMBER_BITS == tag:
            job = self.job(index[at] & _NUMBER)
            if job.id == id:
                return job
            at += 1
        return None


class Numbered(list[Job]):
    """``State.numbered``. A job at rest stands in it as its number; so do those in its slices."""

    def __init__(self, entries: Iterable[Job | int], at_rest: AtRest) -> None:
        super().__init__(entries)  # type: ignore[arg-type]
        self.at_rest = at_rest

    def __getitem__(self, at: Any) -> Any:
        found: Any = list.__getitem__(self, at)
        if found.__class__ is int:
            return self.at_rest.job(found)
        return Numbered(found, self.at_rest) if found.__class__ is list else found

    def __iter__(self) -> Iterator[Job]:
        return map(self._job, entries(self))

    def __reversed__(self) -> Iterator[Job]:
        return map(self._job, list.__reversed__(self))

    def __iadd__(self, more: Any) -> Any:  # type: ignore[misc]
        """Nothing is decoded for being in another list."""
        list.extend(self, entries(more) if isinstance(more, list) else more)
        return self

    def sifted(self, keep: Callable[[int], bool]) -> Numbered:
        """Without those at rest whose numbers are not to be kept. O(entries); decodes nothing."""
        return Numbered([one for one in entries(self) if not isinstance(one, int) or keep(one)], self.at_rest)

    def _job(self, entry: Any) -> Job:
        job: Job = self.at_rest.job(entry) if entry.__class__ is int else entry
        return job


def entries(numbered: list[Job]) -> Iterator[Job | int]:
    """What stands in the list itself: a number for each job at rest."""
    return list.__iter__(numbered)


class JobsById(dict[str, Job]):
    """``State.jobs``. Those at rest are not in the dict itself, and are found all the same."""

    def __init__(self, jobs: Iterable[Job], numbered: Numbered) -> None:
        super().__init__({job.id: job for job in jobs})
        self._numbered = numbered

    def __missing__(self, id: str) -> Job:
        found = self._numbered.at_rest.find(id)
        if found is None:
            raise KeyError(id)
        return found

    def get(self, id: str, default: Any = None) -> Any:
        found = dict.get(self, id)
        if found is None:
            found = self._numbered.at_rest.find(id)
        return default if found is None else found

    def __contains__(self, id: object) -> bool:
        return dict.__contains__(self, id) or self._numbered.at_rest.find(str(id)) is not None

    def __len__(self) -> int:
        return len(self._numbered)

    def __iter__(self) -> Iterator[str]:
        return (job.id for job in self._numbered)

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return self._numbered

    def items(self) -> Any:
        return [(job.id, job) for job in self._numbered]


def rests_on(state: State, records: Records) -> bool:
    """Whether a state has jobs of which there is no more than these records."""
    numbered = state.numbered
    return isinstance(numbered, Numbered) and numbered.at_rest.records is records


class Writer:
    """Puts those that have come to rest behind those that were before. Amortised O(1) a job."""

    def __init__(self, before: AtRest | None, jobs: int) -> None:
        """Room for the places of so many jobs."""
        columns = before.columns if before else None
        new = jobs - (len(columns.places) if columns else 0)
        self._places = array("Q", columns.places if columns else b"")
        self._places.frombytes(bytes(8 * new))
        self._marks = bytearray(columns.marks if columns else b"") + bytes(new)
        self._owners = array("i", columns.owners if columns else b"")
        self._owners.frombytes(bytes(4 * new))
        self._index = array("Q", columns.index if columns else b"")
        self._tags = bytearray(columns.tags if columns else 1 << (TAG_BITS - 3))
        self.before = before.records if before else None
        """The records that are there already: nothing has happened to them."""
        self._begin = len(before.records) if before else 0
        self.records = bytearray()

    def add(self, job: Job) -> None:
        record, tag = record_of(job), _tag(job.id)
        self._places[job.number - 1] = self._begin + len(self.records) + 1
        self._marks[job.number - 1] = mark(job.state, job.priority)
        self._owners[job.number - 1] = job.share
        self._index.append(tag << NUMBER_BITS | job.number)
        self._tags[tag >> 3] |= 1 << (tag & 7)
        self.records += _HEAD.pack(len(record), crc32(record))
        self.records += record

    def columns(self) -> Columns:
        """O(jobs log jobs), and nearly O(jobs) for an index of which most is in order already."""
        index = array("Q", sorted(self._index))
        columns = (self._places, self._marks, self._owners, index, self._tags)
        return Columns(*(memoryview(column).toreadonly() for column in columns))
