"""A state as bytes, and back, bit for bit: equal digests, equal futures. Pure: whoever keeps it does the I/O.

What ``State`` holds goes in by its type. Where things are one in memory (a job is in several indexes) it goes
in once and the others by number; what is filed under what it is, is filed anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from horizon._placement import Cluster
from horizon._queue import JobQueue
from horizon.core.admission import share_values
from horizon.core.at_rest import (
    AtRest,
    Columns,
    JobsById,
    Numbered,
    Records,
    Writer,
    entries,
    is_at_rest,
    job_of,
    record_of,
)
from horizon.core.model import JobState
from horizon.core.state import ArrayState, Job, ShapeIndex, State

_BY_HAND: Final = frozenset(
    {"jobs", "numbered", "arrays", "queue", "cluster", "shape_index", "accounts", "users",
     "holding", "leaving", "preemptible"}
)  # fmt: skip
"""What is not simply its own content."""
_PLAIN: Final = tuple(name for name in State.__struct_fields__ if name not in _BY_HAND)
_HINTS: Final = get_type_hints(State)
_AT_ONCE: Final = 1_000
_decode_some: Final = msgspec.msgpack.Decoder(list[bytes]).decode


class Parts(Struct, frozen=True):
    """What one snapshot consists of. Its records are those of the snapshot before and, behind them, the new
    ones."""

    contents: bytes | memoryview
    columns: Columns
    before: Records | None
    records: bytes | memoryview


class _Array(Struct, array_like=True):
    """An ``ArrayState``, whose job is that with its number."""

    number: int
    counts: dict[JobState, int]
    first: int
    total: int
    active: int


class _Contents(Struct, array_like=True):
    """All but the jobs at rest."""

    plain: msgspec.Raw
    """What is its own content, field by field."""
    jobs: int
    """How many there are in all."""
    live: list[msgspec.Raw]
    """The records of those that are not at rest: arrays first, then the others, both in order. They are lists
    of so many: whoever loads a million of them beside other work is never long without a pause."""
    arrays: list[_Array]
    queue: tuple[Any, ...]
    cluster: tuple[Any, ...]
    rates: list[int]
    """By shape."""
    holding: list[int]
    leaving: list[int]
    preemptible: list[list[int]]


_PLAIN_DECODER: Final = msgspec.msgpack.Decoder(tuple[tuple(_HINTS[name] for name in _PLAIN)])  # type: ignore[misc]


def dump(state: State) -> Parts:
    """O(what is not at rest, and what has come to rest since the snapshot it came from), and a copy of the
    index of all that is at rest."""
    numbered = state.numbered
    before = numbered.at_rest if isinstance(numbered, Numbered) else None
    rest, live = Writer(before, len(numbered)), []
    for job in entries(numbered):
        if isinstance(job, int):
            continue  # since the snapshot before
        if is_at_rest(state, job):
            rest.add(job)
        elif job.number not in state.arrays:
            live.append(record_of(job))
    plain = [getattr(state, name) for name in _PLAIN]
    contents = _Contents(
        plain=msgspec.Raw(msgspec.msgpack.encode(plain)),
        jobs=len(numbered),
        live=_some_at_a_time([record_of(one.job) for one in state.arrays.values()] + live),
        arrays=[
            _Array(number, one.counts, one.first, one.total, one.active)
            for number, one in state.arrays.items()
        ],
        queue=state.queue.dump(),
        cluster=state.cluster.dump(),
        rates=state.shape_index.rates,
        holding=[job.number for job in state.holding.values()],
        leaving=list(state.leaving),
        preemptible=[[job.number for job in jobs.values()] for jobs in state.preemptible],
    )
    new = memoryview(rest.records).toreadonly()
    return Parts(msgspec.msgpack.encode(contents), rest.columns(), rest.before, new)


def load(contents: bytes | memoryview, columns: Columns, records: Records) -> State:
    """The state that was dumped. Its records are read when somebody asks for one; they and the columns must
    stay as they are for as long as it lives.

    O(what is not at rest), and a word for every job that is. Raises all kinds of things, none of them
    harmful, for bytes that ``dump`` never gave.
    """
    read = msgspec.msgpack.decode(contents, type=_Contents)
    plain = _PLAIN_DECODER.decode(read.plain)
    state = State(**dict(zip(_PLAIN, plain, strict=True)))
    state.queue, state.cluster = JobQueue.load(read.queue), Cluster.load(read.cluster)
    _file_shares(state)
    at_rest = AtRest(columns, records, state.arrays)
    state.numbered = Numbered((), at_rest)
    for first in range(1, read.jobs + 1, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, read.jobs + 1))
        list.extend(state.numbered, numbers)  # type: ignore[misc]
    live = list(_live(state, read))
    for job in live:
        share_values(job.spec, state.shares[job.share])
        state.numbered[job.number - 1] = job
    state.jobs = JobsById(live, state.numbered)
    _file_jobs(state, read)
    _file_shapes(state, read.rates)
    return state


def _live(state: State, read: _Contents) -> Iterable[Job]:
    """The jobs that are not at rest. Arrays come first: their tasks take from them what they ask for."""
    records = (record for some in read.live for record in _decode_some(some))
    for one in read.arrays:
        job = job_of(next(records), state.arrays)
        state.arrays[one.number] = ArrayState(job, one.counts, one.first, one.total, one.active)
        yield job
    for record in records:
        yield job_of(record, state.arrays)


def _some_at_a_time(records: list[bytes]) -> list[msgspec.Raw]:
    pieces = (records[begin : begin + _AT_ONCE] for begin in range(0, len(records), _AT_ONCE))
    return [msgspec.Raw(msgspec.msgpack.encode(piece)) for piece in pieces]


def _file_jobs(state: State, read: _Contents) -> None:
    def jobs(numbers: list[int]) -> list[Job]:
        return [state.numbered[number - 1] for number in numbers]

    state.holding = {job.id: job for job in jobs(read.holding)}
    state.leaving = {job.number: job for job in jobs(read.leaving)}
    state.preemptible = [{job.id: job for job in jobs(numbers)} for numbers in read.preemptible]


def _file_shares(state: State) -> None:
    for share in state.shares[1:]:
        if share.user:
            state.users[share.account, share.user_id] = share
        else:
            state.accounts[share.path] = share


def _file_shapes(state: State, rates: list[int]) -> None:
    shape_index = state.shape_index = ShapeIndex(rates=rates)
    fields = [astuple(request) for request in state.requests]
    for number, asked in enumerate(fields):
        shape_index.request_ids[asked] = number
        shape_index.of.append(array("i"))
    for number, shape in enumerate(state.shapes):
        shape_index.ids[*fields[shape.request], shape.time_limit_s, shape.account, shape.array] = number
        shape_index.of[shape.request].append(number)
        if state.requests[shape.request].gpu_count:
            shape_index.with_gpus.append(number)
