"""The projections: what the log folds into. Only ``core.evolve`` writes here.

Everything is derived: dropping a ``State`` and folding the log again gives the same one, bit for bit
(``digest`` says so in one line).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from horizon._placement import Cluster
from horizon._queue import JobQueue
from horizon.core.model import (
    QUEUED,
    RUNNING,
    Allocation,
    AllocationState,
    DependencyKind,
    Inventory,
    JobSpec,
    JobState,
    Priority,
)
from horizon.core.policy import Policy

COST_PER_GPU: Final = 1_000
"""Cost units a second of holding one GPU of a type the policy does not name; usage is kept in cost units x
seconds."""
SECOND_US: Final = 1_000_000
OVERDUE_AFTER_US: Final = 60 * SECOND_US
"""How long after it was expected back something is waited for before other plans are made."""


class Stop(StrEnum):
    """Why a running attempt was asked to stop while its job goes on."""

    TIME_LIMIT = "time limit"
    PREEMPTION = "preemption"
    REQUEUE = "requeue"


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
    """Jobs of one shape may start, or may not, together."""
    held: bool
    begin_at_us: int
    """Not started before: as it was asked for, or after its wait before a retry."""
    begin_pending: bool
    unmet: int = 0
    """Dependencies that do not hold yet."""
    array: int = 0
    """Of a task: the number of its array."""
    index: int = 0
    """Of a task: its index in the array."""
    state: JobState = JobState.QUEUED
    version: int = 1
    attempt: int = 0
    ran: bool = False
    """Whether any attempt has been running; of an array, any task."""
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
    """While it is being stopped: the id of the job it makes way for, or who asked for its requeue."""
    rate: int = 0
    """Cost units a second of what it holds."""
    expected_us: int = 0
    """When what it holds is expected back."""
    awaited_since_us: int = 0
    """Since when that has been waited for, where no time limit sees to it."""
    saved_at_us: int = 0
    """Of its attempt: the start of what would be lost by a preemption, its start or last checkpoint."""
    preempted: int = 0
    """How often it has been."""
    lost_gpu_us: int = 0
    """GPU-microseconds of work lost by its preemptions."""
    avoid: tuple[str, ...] = ()
    """Nodes where it failed."""
    predicted_us: int = 0
    """When it was first planned to start, since it last entered the queue; 0 when it was not."""
    predicted_at_us: int = 0
    positions: list[int] = []
    """Where its events are in the log."""
    erased: bool = False
    """Whether its environment and its script have been; of an array, also those of its tasks."""

    @property
    def name(self) -> str:
        """What people call it: its number, or for a task that of its array and its index, 12_7."""
        return f"{self.array}_{self.index}" if self.array else str(self.number)

    @property
    def eligible(self) -> bool:
        """Whether it stands in the queue: nothing but its turn and room keeps it from starting."""
        return (
            self.state is QUEUED
            and not self.held
            and not self.begin_pending
            and not self.unmet
            and self.allocation_state is None
        )


class ArrayState(Struct):
    """What became of the tasks of an array, which itself is the job before them, and never runs."""

    job: Job
    counts: dict[JobState, int]
    """Tasks by state."""
    first: int
    """The number of the first task; the others follow."""
    total: int
    active: int = 0
    """Tasks that hold resources."""


class Node(Struct):
    """A node and what is held of it."""

    inventory: Inventory
    index: int
    """Its number in ``State.cluster``."""
    slots: dict[str, int] = {}
    """The place of each of its devices there."""
    cores_held: int = 0
    memory_held_mib: int = 0
    jobs: dict[str, bool] = {}
    """The jobs that hold something here, and whether the job wants the node for itself."""
    lost: bool = False
    lost_reason: str = ""
    cordoned: bool = False
    draining: bool = False
    """Whether it is to be emptied, too."""
    drain_by_us: int = 0
    """What still runs then goes back to the queue; 0 for never."""
    cordon_reason: str = ""
    cordoned_by: str = ""
    version: int = 0

    @property
    def cores_free(self) -> int:
        return self.inventory.cpu_cores - self.cores_held

    @property
    def memory_free_mib(self) -> int:
        return self.inventory.memory_mib - self.memory_held_mib


def node_state(node: Node) -> str:
    """Whether it is there and takes work, in a word."""
    if node.lost:
        return "lost"
    if node.draining:
        return "draining" if node.jobs else "drained"
    return "cordoned" if node.cordoned else "up"


def gpu_state(node: Node, failed: bool, holder: Job | None) -> str:
    """Whether a GPU of a node can be had, in a word."""
    if node.lost:
        return "lost"
    if failed:
        return "failed"
    if holder is None:
        return "free"
    return "releasing" if holder.allocation_state is AllocationState.RELEASING else "held"


class Booking(Struct, frozen=True):
    """Nodes that are kept free of jobs for a span of time."""

    id: str
    number: int
    """In ``State.cluster``."""
    nodes: tuple[str, ...]
    start_us: int
    end_us: int
    by: str
    reason: str


class Fault(Struct, frozen=True):
    """Why a device is not to be used, and who said so."""

    by: str
    reason: str


class Share(Struct):
    """One account or user in the share tree; its usage is in the queue, under its ``id``."""

    id: int
    path: str
    user: bool
    parent: int
    account: str = ""
    user_id: str = ""
    gpus_held: int = 0
    max_gpus: int = -1
    """-1 for no bound."""
    guaranteed_gpus: int = 0


class Request(Struct, frozen=True):
    """What a job asks for: equal requests fit the same nodes. Its number is that in ``State.cluster``."""

    gpu_count: int
    gpu_type: str | None
    gpu_memory_mib: int
    cpu_cores: int
    memory_mib: int
    nodes: int
    exclusive: bool
    constraints: tuple[tuple[str, str], ...]

    def in_terms(
        self, gpu_type: int, labels: list[int]
    ) -> tuple[int, int, int, int, int, int, bool, list[int]]:
        """As the cluster takes it: with the numbers of its type (-1 for any) and of its labels."""
        return (
            self.gpu_count,
            gpu_type,
            self.gpu_memory_mib,
            self.cpu_cores,
            self.memory_mib,
            self.nodes,
            self.exclusive,
            labels,
        )


class Shape(Struct, frozen=True):
    """What makes two waiting jobs interchangeable for a cycle, but for their places in the order."""

    request: int
    """Its number."""
    time_limit_s: int
    account: int
    """The share whose quotas bind it: that of its account."""
    array: int
    """The number of its array, when that limits how many tasks may run at once; else 0."""


class Claim(Struct):
    """A waiting job for which others are being stopped, and where it is to start."""

    nodes: tuple[str, ...]
    victims: dict[str, bool]
    """The ids of those it waits for: asked to stop for it, or on their way out there anyway."""
    freed_cycle: int = -1
    """The number of the last cycle when the last of them was gone."""


class Estimates(Struct):
    """How good planned starts have been: actual against first planned, in whole seconds, by size of error."""

    total: int = 0
    early_s: int = 0
    """Sum over the starts that came before their time."""
    late_s: int = 0
    """Sum over those that came after it."""
    ahead_s: int = 0
    """Sum of how long before the planned start it was planned."""
    early: list[int] = []
    """Starts at or before their time, by bit length of the error in seconds: 0 s, 1 s, 2-3 s, 4-7 s, ..."""
    late: list[int] = []
    """Those after it."""


class Refusals(Struct):
    """The refused commands that the log has, so that it has none of them twice."""

    count: int = 0
    seen: dict[tuple[str, str, str, str], tuple[int, tuple[str, ...]]] = {}
    """By ``CommandRefused.key``, the oldest first: the version of the target's stream then, and ``said`` of
    those that were kept at that version."""


class Terms(Struct):
    """What nodes are and what requests ask for, by number: the cluster knows nothing else of it."""

    gpu_types: dict[str, int] = {}
    """In small letters."""
    kinds: dict[tuple[str, int], int] = {}
    """Kinds of devices, by type and memory in GiB, rounded up."""
    labels: dict[tuple[str, str], int] = {}
    domains: dict[tuple[str, str], int] = {}
    """Labels that name what connects nodes."""


class Devices(Struct):
    """The devices of all nodes by UUID: one that turns up on another node, or a node under another name, is
    still held, and still failed."""

    places: dict[str, list[tuple[str, int]]] = {}
    """Where each is: node and slot. More than one when it turned up elsewhere."""
    homes: dict[str, str] = {}
    """Where each was first."""
    moved: bool = False
    """Whether any has turned up elsewhere since."""
    holders: dict[str, str] = {}
    """Which job holds each GPU that is not free, ``releasing`` ones included."""
    failed: dict[str, Fault] = {}
    """Those that are not to be used."""


class ShapeIndex(Struct):
    """Finds requests and shapes by what they are, and shapes by what they ask for."""

    request_ids: dict[tuple[object, ...], int] = {}
    """By the fields of the request."""
    ids: dict[tuple[object, ...], int] = {}
    """By the fields of its request and its own."""
    rates: list[int] = []
    """What a job of each shape costs, as in the queue."""
    of: list[array[int]] = []
    """By request: the shapes that ask for it."""
    with_gpus: array[int] = field(default_factory=lambda: array("i"))
    """The shapes that ask for GPUs."""


def _queue_under(policy: Policy) -> JobQueue:
    return JobQueue(policy.half_life_s * SECOND_US, policy.charge_ahead_s * SECOND_US)


class State(Struct, eq=False):
    """All projections together. Sizes are those of the log so far; nothing here does I/O."""

    position: int = 0
    recorded_at_us: int = 0
    epoch: int = 0
    cycle: int = 0
    """The number of the last cycle that decided anything."""
    versions: dict[str, int] = {}
    """The version of each stream that is not a job's."""
    signing_keys: dict[int, str] = {}
    """The public halves of the keys that sign the log's checkpoints, by the position from which each does."""
    archived_to: int = 0
    """The position of the last event that is on record as archived."""
    refusals: Refusals = field(default_factory=Refusals)
    policy: Policy = Policy()
    policy_version: int = 0
    """0 before the first was set: then the defaults of this program hold."""
    replaced: dict[int, Policy | int | tuple[int, int]] = {}
    """By the position of an event that set a policy, a weight or a quota: what it took the place of. It is
    for telling the event; nothing is decided by it."""

    jobs: dict[str, Job] = {}
    numbered: list[Job] = []
    """Jobs in order of submission: job number n is at n - 1."""
    counts: dict[JobState, int] = field(default_factory=lambda: dict.fromkeys(JobState, 0))
    arrays: dict[int, ArrayState] = {}
    """By the number of the array."""
    dependents: dict[int, list[tuple[int, DependencyKind]]] = {}
    """By a job's number: the jobs that wait for what becomes of it, and for what."""
    doomed: dict[int, str] = {}
    """Jobs by number whose dependencies can never hold, and why: the next cycle fails them."""
    deadlines: list[tuple[int, int, int]] = []
    """Heap of (time limit reached at, job number, attempt); stale entries leave when they surface."""
    overdue: list[tuple[int, int, int]] = []
    """Heap of (overdue at, job number, attempt): what is held by a job that runs without a time limit, or was
    overdue before. Stale entries leave when they surface. What is ``leaving`` is not here."""
    begins: list[tuple[int, int]] = []
    """Heap of (begin time, job number)."""

    queue: JobQueue = field(default_factory=lambda: _queue_under(Policy()))
    requests: list[Request] = []
    shapes: list[Shape] = []
    shape_index: ShapeIndex = field(default_factory=ShapeIndex)
    shares: list[Share] = field(default_factory=lambda: [Share(id=0, path="", user=False, parent=-1)])
    """Every share by its id in the queue's tree; 0 is the root."""
    accounts: dict[str, Share] = {}
    users: dict[tuple[str, str], Share] = {}
    guarantees: int = 0
    """Accounts with guaranteed GPUs."""

    holding: dict[str, Job] = {}
    """Jobs with an allocation, in the order they got it."""
    leaving: dict[int, Job] = {}
    """By number: those of them that have ended or were asked to stop, and so will hold nothing soon."""
    preemptible: list[dict[str, Job]] = field(default_factory=lambda: [{} for _ in Priority])
    """Those of them that may be preempted, by the rank of their priority, in order."""
    claims: dict[int, Claim] = {}
    """By the number of the waiting job, in the order in which the others were asked to stop."""
    estimates: Estimates = field(default_factory=Estimates)

    cluster: Cluster = field(default_factory=Cluster)
    nodes: dict[str, Node] = {}
    node_names: list[str] = []
    """By the node's number in the cluster."""
    terms: Terms = field(default_factory=Terms)
    devices: Devices = field(default_factory=Devices)
    bookings: dict[str, Booking] = {}
    bookings_made: int = 0
    drains: dict[str, int] = {}
    """Nodes to be emptied by a moment."""

    @property
    def signing_key(self) -> str:
        """The one that signs now; empty when none was ever named."""
        return next(reversed(self.signing_keys.values()), "")

    @property
    def next_number(self) -> int:
        return len(self.numbered) + 1

    def job_numbered(self, number: int) -> Job | None:
        return self.numbered[number - 1] if 1 <= number <= len(self.numbered) else None

    def is_deadline(self, at_us: int, number: int, attempt: int) -> bool:
        """Whether a running job reaches its time limit at this time, as an entry of ``deadlines`` says."""
        job = self.numbered[number - 1]
        runs = job.state is RUNNING and job.attempt == attempt and job.stop is None
        return runs and at_us == job.started_at_us + job.time_limit_s * SECOND_US

    def is_overdue(self, at_us: int, number: int, attempt: int) -> bool:
        """Whether what a job holds is overdue at this time, as an entry of ``overdue`` says."""
        job = self.numbered[number - 1]
        if job.allocation_state is None or job.attempt != attempt:
            return False
        limited = job.time_limit_s and job.stop is None and job.allocation_state is AllocationState.HELD
        return not limited and at_us == job.expected_us + OVERDUE_AFTER_US

    def stream_version(self, stream: str) -> int:
        """How many events the stream has."""
        if stream.startswith("job/"):
            job = self.jobs.get(stream[4:])
            return 0 if job is None else job.version
        return self.versions.get(stream, 0)

    def tasks(self, array: ArrayState) -> list[Job]:
        """The tasks of an array, in their order. O(tasks)."""
        return self.numbered[array.first - 1 : array.first - 1 + array.total]

    def to_be_stopped(self, node: Node) -> list[Job]:
        """What runs on a node that is to be emptied, and has not been asked to stop."""
        jobs = [self.jobs[id] for id in node.jobs]
        return [job for job in jobs if job.allocation_state is AllocationState.HELD and job.stop is None]

    def next_deadline_us(self) -> int | None:
        """When time alone will next change something, for whoever owns the clock."""
        moments = [heap[0][0] for heap in (self.deadlines, self.begins, self.overdue) if heap]
        moments += [job.expected_us + OVERDUE_AFTER_US for job in self.leaving.values()]
        moments += [booking.end_us for booking in self.bookings.values()]
        moments += [at_us for name, at_us in self.drains.items() if self.to_be_stopped(self.nodes[name])]
        return min(moments, default=None)


_DIGESTED_AT_ONCE: Final = 500
_ARRAY_16_MIN: Final = 16
_encode: Final = msgspec.msgpack.Encoder(order="sorted").encode


def digest(state: State) -> str:
    """SHA-256 over everything a decision can depend on: equal digests, equal futures. O(state)."""
    hashing = hashlib.sha256()
    for piece in digested(state):
        hashing.update(piece)
    return hashing.hexdigest()


def digested(state: State) -> Iterator[bytes]:
    """What a digest is over, in pieces of a millisecond or less for most, for whoever has other work beside
    it. Together they are the msgpack of one array."""
    now_us = state.recorded_at_us
    queue = state.queue
    everything: tuple[Any, ...] = (
        (state.position, state.recorded_at_us, state.epoch, state.cycle, state.policy_version),
        (list(state.signing_keys.items()), state.archived_to),
        (state.refusals.count, list(state.refusals.seen.items())),
        state.policy,
        state.numbered,
        [job.id for job in state.holding.values()],
        state.nodes,
        state.devices.holders,
        [
            (share, queue.weight(share.id), queue.rate(share.id), queue.usage(share.id, now_us).hex())
            for share in state.shares
        ],
        state.requests,
        state.shapes,
        [[array.counts, array.active] for array in state.arrays.values()],
        list(state.dependents.items()),
        list(state.doomed.items()),
        state.devices.failed,
        list(state.bookings.values()),
        state.drains,
        list(state.claims.items()),
        [list(jobs) for jobs in state.preemptible],
        state.estimates,
        [(state.cluster.state(node), state.cluster.free(node)) for node in range(len(state.cluster))],
        sorted(state.deadlines),
        sorted(state.begins),
        sorted(state.overdue),
        state.versions,
        queue.order(len(queue), now_us),
    )
    yield _array_of(len(everything))
    for part in everything:
        if not isinstance(part, list) or len(part) < _ARRAY_16_MIN:
            yield _encode(list(part) if isinstance(part, list) else part)
            continue
        yield _array_of(len(part))
        for start in range(0, len(part), _DIGESTED_AT_ONCE):  # decodes jobs that a snapshot keeps encoded
            yield b"".join(map(_encode, part[start : start + _DIGESTED_AT_ONCE]))


def _array_of(count: int) -> bytes:
    """What msgpack writes in front of so many items, from 16 on."""
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")
