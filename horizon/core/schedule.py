"""The scheduling cycle: which jobs start now, and where. A pure function of the state and one moment.

Order: priority, then the share tree, then submission (``JobQueue.walk``). A job that does not fit is passed
over and smaller ones behind it may start. Work per cycle is bounded by counts, never by a clock.
"""

from __future__ import annotations

from functools import cached_property
from heapq import heappop, heappush
from typing import TypeVar

from msgspec import Struct

from horizon.core import events as ev
from horizon.core import limits
from horizon.core.model import Allocation, JobState
from horizon.core.placement import Room, empty_room, nodes_for, place, room_on, take
from horizon.core.state import COST_PER_GPU, Job, Shape, State

E = TypeVar("E", tuple[int, int], tuple[int, int, int])


class Cycle(Struct, frozen=True):
    """What a cycle decided."""

    events: tuple[ev.Event, ...]
    examined: int
    """How many jobs it looked at."""
    more: bool
    """Whether it stopped at its bound, so that another cycle should follow at once."""


def schedule(state: State, now_us: int) -> Cycle:
    """The events of one cycle. Reads the state, writes nothing.

    O(active shares + jobs examined + placements x nodes).
    """
    events = _due(state, now_us)
    placed, examined = _place_waiting(state, now_us)
    bounded = max(len(events), len(placed)) >= limits.CYCLE_STARTS_MAX
    return Cycle((*events, *placed), examined, bounded)


def _due(state: State, now_us: int) -> list[ev.Event]:
    """What time alone brings, as it fell due: begin times that came, time limits that were reached."""
    events: list[ev.Event] = []
    for at_us, number in _fallen_due(state.begins, now_us):
        job = state.numbered[number - 1]
        if job.begin_pending and job.spec.begin_at_us == at_us:
            events.append(ev.JobReleased(job_id=job.id, begin_reached=True))
    for at_us, number, attempt in _fallen_due(state.deadlines, now_us):
        job = state.numbered[number - 1]
        if _limit_reached(job, attempt, at_us):
            events.append(ev.TimeLimitReached(job_id=job.id, attempt=attempt, time_limit_s=job.time_limit_s))
    return events


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


def _limit_reached(job: Job, attempt: int, at_us: int) -> bool:
    return (
        job.state is JobState.RUNNING
        and job.attempt == attempt
        and job.stop is None
        and job.started_at_us + job.time_limit_s * 1_000_000 == at_us
    )


def _place_waiting(state: State, now_us: int) -> tuple[list[ev.Event], int]:
    placed: list[ev.Event] = []
    if not len(state.queue):
        return placed, 0
    rooms = Rooms(state)
    walk = state.queue.walk(now_us)
    while len(placed) < limits.CYCLE_STARTS_MAX:
        number = walk.next()
        if not number:
            break
        job = state.numbered[number - 1]
        allocation = rooms.place(state.shapes[job.shape])
        if allocation is None:
            walk.block(job.shape)  # nothing frees up within a cycle: its like need not be tried again
            continue
        score = state.queue.score(job.share, now_us) / COST_PER_GPU
        walk.take()
        placed.append(
            ev.JobScheduled(
                job_id=job.id,
                attempt=job.attempt + 1,
                allocation=allocation,
                cycle=state.cycle + 1,
                now_us=now_us,
                rank=walk.examined,
                score=score,
            )
        )
    return placed, walk.examined


class Rooms:
    """The resources of all nodes within one cycle, looked up when first needed."""

    def __init__(self, state: State) -> None:
        self._nodes = state.nodes
        self._holders = state.holders

    @cached_property
    def free(self) -> dict[str, Room]:
        """What is free now, less what the cycle gave away."""
        return {name: room_on(name, node, self._holders) for name, node in self._nodes.items()}

    @cached_property
    def empty(self) -> list[Room]:
        """What there would be if nothing ran. A lost node does not count: it may never come back."""
        return [empty_room(name, node) for name, node in self._nodes.items() if not node.lost]

    def place(self, shape: Shape) -> Allocation | None:
        """Place a request and take what it was given; None when it does not fit now."""
        nodes = self.nodes_for(shape)
        allocation = place(shape, nodes, self.free.values()) if nodes else None
        if allocation is not None:
            take(self.free, allocation, shape.exclusive)
        return allocation

    def nodes_for(self, shape: Shape) -> int:
        """How many nodes the request takes; 0 when this cluster can never hold it."""
        return nodes_for(shape, self.empty)
