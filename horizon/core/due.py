"""What time alone brings, and what can no longer be: the part of a cycle that needs no room. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, TypedDict, TypeVar

from horizon.core import events as ev
from horizon.core import limits
from horizon.core.state import OVERDUE_AFTER_US, State

E = TypeVar("E", tuple[int, int], tuple[int, int, int])

DRAIN: Final = "drain of node "


class Mark(TypedDict):
    """What tells the events of a cycle."""

    cycle: int
    now_us: int
    policy_version: int


def mark(state: State, now_us: int) -> Mark:
    """That of the next cycle, at this moment."""
    return Mark(cycle=state.cycle + 1, now_us=now_us, policy_version=state.policy_version)


def due(state: State, now_us: int, mark: Mark) -> list[ev.Event]:
    """What has fallen due: begin times that came, allocations that are overdue,
    time limits that were reached, drains and bookings that
    are over; and jobs whose dependencies can never hold. At most ``CYCLE_STARTS_MAX`` of each."""
    over = list(_over_their_limit(state, now_us, mark))
    return [
        *_begun(state, now_us, mark),
        *_overdue(state, now_us, mark),
        *over,
        *_drained(state, now_us, mark, {event.job_id for event in over}),
        *_unbooked(state, now_us, mark),
        *_doomed(state, mark),
    ]


def _begun(state: State, now_us: int, mark: Mark) -> Iterator[ev.Event]:
    for at_us, number in _fallen_due(state.begins, now_us):
        job = state.numbered[number - 1]
        if job.begin_pending and job.begin_at_us == at_us:
            yield ev.JobReleased(job_id=job.id, begin_reached=True, **mark)


def _overdue(state: State, now_us: int, mark: Mark) -> Iterator[ev.Event]:
    """O(what is on its way out)."""
    jobs = {job.number: job for job in state.leaving.values() if job.expected_us + OVERDUE_AFTER_US <= now_us}
    for at_us, number, attempt in _fallen_due(state.overdue, now_us):
        if state.is_overdue(at_us, number, attempt):
            jobs[number] = state.numbered[number - 1]
    for job in jobs.values():
        until_us = now_us + (now_us - job.awaited_since_us)
        yield ev.AllocationOverdue(job_id=job.id, attempt=job.attempt, until_us=until_us, **mark)


def _over_their_limit(state: State, now_us: int, mark: Mark) -> Iterator[ev.TimeLimitReached]:
    # A limit that was changed and changed back is there twice.
    for at_us, number, attempt in dict.fromkeys(_fallen_due(state.deadlines, now_us)):
        job = state.numbered[number - 1]
        if state.is_deadline(at_us, number, attempt):
            yield ev.TimeLimitReached(job_id=job.id, attempt=attempt, time_limit_s=job.time_limit_s, **mark)


def _drained(state: State, now_us: int, mark: Mark, asked: set[str]) -> Iterator[ev.Event]:
    """Who is to leave the nodes to be emptied by now, without those asked to stop already."""
    for name, at_us in state.drains.items():
        if at_us > now_us:
            continue
        for job in state.to_be_stopped(state.nodes[name]):
            if job.id not in asked:
                asked.add(job.id)
                yield ev.RequeueRequested(job_id=job.id, attempt=job.attempt, by=DRAIN + name, **mark)


def _unbooked(state: State, now_us: int, mark: Mark) -> Iterator[ev.Event]:
    for booking in state.bookings.values():
        if booking.end_us <= now_us:
            yield ev.BookingEnded(booking=booking.id, by="its end", **mark)


def _doomed(state: State, mark: Mark) -> Iterator[ev.Event]:
    for number, reason in list(state.doomed.items())[: limits.CYCLE_STARTS_MAX]:
        yield ev.JobFailed(job_id=state.numbered[number - 1].id, reason=reason, **mark)


def _fallen_due(heap: list[E], now_us: int) -> list[E]:
    """The entries of a heap up to ``now_us`` in order, at most ``CYCLE_STARTS_MAX``. O(entries given)."""
    due: list[E] = []
    seen = [(heap[0], 0)] if heap else []
    while seen and seen[0][0][0] <= now_us and len(due) < limits.CYCLE_STARTS_MAX:
        entry, at = heappop(seen)
        due.append(entry)
        for below in (2 * at + 1, 2 * at + 2):
            if below < len(heap):
                heappush(seen, (heap[below], below))
    return due
