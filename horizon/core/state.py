"""The projections: what the log folds into. Only ``core.evolve`` writes here.

Everything is derived: dropping a ``State`` and folding the log again gives the same one, bit for bit
(``digest`` says so in one line).
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from horizon._queue import JobQueue
from horizon.core.model import (
    Allocation,
    AllocationState,
    Inventory,
    JobSpec,
    JobState,
    Priority,
)

HALF_LIFE_US: Final = 7 * 86_400 * 1_000_000
CHARGE_AHEAD_US: Final = 3_600 * 1_000_000
COST_PER_GPU: Final = 1_000
"""Cost units a second of holding one GPU; usage is kept in cost units x seconds."""
CORES_PER_GPU: Final = 16
MEMORY_MIB_PER_GPU: Final = 128 * 1024
"""A job is charged for its dominant resource: holding this many cores, or this much memory, costs a GPU."""


class Stop(StrEnum):
    """Why a running attempt was asked to stop while its job goes on."""

    TIME_LIMIT = "time limit"
    PREEMPTION = "preemption"


class Job(Struct, gc=False):
    """A job as the log tells it so far. ``spec`` is what was asked for, the rest is what became of it."""

    id: str
    number: int
    spec: JobSpec
    correlation_id: bytes
    created_at_us: int
    priority: Priority
    time_limit_s: int
    share: int
    """Its owner's leaf in the share tree."""
    shape: int
    """Its request class: jobs of one shape fit, or do not fit, together."""
    held: bool
    begin_pending: bool
    state: JobState = JobState.QUEUED
    version: int = 1
    attempt: int = 0
    allocation: Allocation = ()
    allocation_state: AllocationState | None = None
    """None when it holds nothing; an allocation outlives the state of the job that had it."""
    scheduled_at_us: int = 0
    started_at_us: int = 0
    completed_at_us: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    retries_used: int = 0
    attempts_lost: int = 0
    stop: Stop | None = None
    stopped_by: str = ""
    positions: list[int] = []
    """Where its events are in the log."""

    @property
    def eligible(self) -> bool:
        """Whether it stands in the queue: nothing but its turn and room keeps it from starting."""
        return (
            self.state is JobState.QUEUED
            and not self.held
            and not self.begin_pending
            and self.allocation_state is None
        )


class Node(Struct):
    """A node and what is free on it."""

    inventory: Inventory
    cores_held: int = 0
    memory_held_mib: int = 0
    jobs: dict[str, bool] = {}
    """The jobs that hold something here, and whether the job wants the node for itself."""
    lost: bool = False
    lost_reason: str = ""
    version: int = 0

    @property
    def cores_free(self) -> int:
        return self.inventory.cpu_cores - self.cores_held

    @property
    def memory_free_mib(self) -> int:
        return self.inventory.memory_mib - self.memory_held_mib


class Share(Struct):
    """One account or user in the share tree; its usage is in the queue, under its ``id``."""

    id: int
    path: str
    user: bool
    parent: int
    gpus_held: int = 0


class Shape(Struct, frozen=True):
    """What makes two requests interchangeable for the scheduler."""

    gpu_count: int
    gpu_type: str | None
    gpu_memory_mib: int
    cpu_cores: int
    memory_mib: int
    nodes: int
    exclusive: bool
    constraints: tuple[tuple[str, str], ...]

    @property
    def rate(self) -> int:
        """Cost units a second: the dominant of GPUs, cores and memory, in thousandths of a GPU."""
        return max(
            self.gpu_count * COST_PER_GPU,
            self.cpu_cores * COST_PER_GPU // CORES_PER_GPU,
            self.memory_mib * COST_PER_GPU // MEMORY_MIB_PER_GPU,
        )


class State:
    """All projections together. Sizes are those of the log so far; nothing here does I/O."""

    def __init__(self) -> None:
        self.position = 0
        self.recorded_at_us = 0
        self.epoch = 0
        self.cycle = 0
        """The number of the last cycle that decided anything."""
        self.jobs: dict[str, Job] = {}
        self.numbered: list[Job] = []
        """Jobs in order of submission: job number n is at n - 1."""
        self.counts: dict[JobState, int] = dict.fromkeys(JobState, 0)
        self.holding: dict[str, Job] = {}
        """Jobs with an allocation, in the order they got it."""
        self.queue = JobQueue(HALF_LIFE_US, CHARGE_AHEAD_US)
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, str] = {}
        """Which job holds each GPU that is not free, ``releasing`` ones included. For all nodes together: a
        device that turns up on another node, or a node under another name, is still held."""
        self.accounts: dict[str, Share] = {}
        self.users: dict[tuple[str, str], Share] = {}
        self.shares: list[Share] = [Share(id=0, path="", user=False, parent=-1)]
        """Every share by its id in the queue's tree; 0 is the root."""
        self.shape_ids: dict[tuple[object, ...], int] = {}
        """By the fields of the shape."""
        self.shapes: list[Shape] = []
        self.deadlines: list[tuple[int, int, int]] = []
        """Heap of (time limit reached at, job number, attempt); stale entries leave when they surface."""
        self.begins: list[tuple[int, int]] = []
        """Heap of (begin time, job number)."""
        self.versions: dict[str, int] = {}
        """The version of each stream that is not a job's."""

    @property
    def next_number(self) -> int:
        return len(self.numbered) + 1

    def job_numbered(self, number: int) -> Job | None:
        return self.numbered[number - 1] if 1 <= number <= len(self.numbered) else None

    def stream_version(self, stream: str) -> int:
        """How many events the stream has."""
        if stream.startswith("job/"):
            job = self.jobs.get(stream[4:])
            return 0 if job is None else job.version
        return self.versions.get(stream, 0)

    def next_deadline_us(self) -> int | None:
        """When time alone will next change something, for whoever owns the clock."""
        moments = [heap[0][0] for heap in (self.deadlines, self.begins) if heap]
        return min(moments, default=None)


def digest(state: State) -> str:
    """SHA-256 over everything a decision can depend on: equal digests, equal futures. O(state)."""
    now_us = state.recorded_at_us
    queue = state.queue
    everything: tuple[Any, ...] = (
        (state.position, state.recorded_at_us, state.epoch, state.cycle),
        state.numbered,
        [job.id for job in state.holding.values()],
        state.nodes,
        state.holders,
        [
            (share, queue.weight(share.id), queue.rate(share.id), queue.usage(share.id, now_us).hex())
            for share in state.shares
        ],
        state.shapes,
        sorted(state.deadlines),
        sorted(state.begins),
        state.versions,
        queue.order(len(queue), now_us),
    )
    return hashlib.sha256(msgspec.msgpack.encode(everything, order="sorted")).hexdigest()
