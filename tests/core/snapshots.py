"""A state by way of a snapshot of it, which must be the same in everything that is in it."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from horizon._placement import Cluster
from horizon._queue import JobQueue
from horizon.core.at_rest import Unreadable
from horizon.core.snapshot import Parts, dump, load
from horizon.core.state import Job, State, digest


class RecordsInMemory(bytes):
    """Records as they are in no file."""

    def read(self, begin: int, length: int) -> bytes:
        return self[begin : begin + length]

    def lost(self, why: str) -> Unreadable:
        return Unreadable(why, self)


def records_of(parts: Parts) -> RecordsInMemory:
    before = b"" if parts.before is None else parts.before.read(0, len(parts.before))
    return RecordsInMemory(bytes(before) + parts.records)


def loaded(parts: Parts) -> State:
    return load(parts.contents, parts.columns, records_of(parts))


def reloaded(state: State) -> State:
    """The state that a snapshot of this one gives."""
    again = loaded(dump(state))
    assert_same(state, again)
    return again


def assert_same(state: State, again: State) -> None:
    """Nothing tells them apart: no value, no order of anything, nor what is one in memory."""
    for field in State.__struct_fields__:
        was, came = told(getattr(state, field)), told(getattr(again, field))
        assert was == came, f"State.{field} came back otherwise"
    assert digest(again) == digest(state)
    for job in _jobs_in_indexes(again):
        assert job is again.numbered[job.number - 1], f"there are two of job {job.number}"
        assert job is again.jobs[job.id], f"there are two of job {job.id}"
    for share in again.shares[1:]:
        index: Any = again.users if share.user else again.accounts
        assert index[(share.account, share.user_id) if share.user else share.path] is share


def _jobs_in_indexes(state: State) -> list[Job]:
    jobs = [*state.holding.values(), *state.leaving.values(), *(one.job for one in state.arrays.values())]
    return jobs + [job for some in state.preemptible for job in some.values()]


def told(value: Any) -> Any:
    """All of a value, with the order of its dicts."""
    if isinstance(value, JobQueue | Cluster):
        return value.dump()
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [told(getattr(value, field)) for field in value.__struct_fields__]
    if isinstance(value, dict):
        return [(told(key), told(one)) for key, one in value.items()]
    if isinstance(value, list | tuple | array):
        return [told(one) for one in value]
    return value
