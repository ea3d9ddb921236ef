"""The nouns: what a job asks for, what an attempt holds, what a node has.

Everything here is a value. What changes over time is in ``core.state``; what happened is in ``core.events``.
Times are integer microseconds since 1970 UTC (``_us``), memory is MiB, resources are integers.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final, Self

from msgspec import Struct

from horizon.core import limits


class Priority(str, Enum):  # noqa: UP042 - StrEnum allows no second value
    """How soon a job wants to start. A higher ``rank`` goes first."""

    rank: int

    def __new__(cls, label: str, rank: int) -> Self:
        member = str.__new__(cls, label)
        member._value_ = label
        member.rank = rank
        return member

    LOW = "Low", 0
    NORMAL = "Normal", 1
    HIGH = "High", 2
    URGENT = "Urgent", 3


class JobState(StrEnum):
    """Where a job is in its life. What it holds is a matter of its allocation, not of its state."""

    QUEUED = "Queued"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    PREEMPTED = "Preempted"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    __hash__ = str.__hash__  # Enum's own is a Python function, and states are keys on hot paths

    @property
    def ended(self) -> bool:
        return not LEGAL_MOVES[self]


QUEUED, SCHEDULED, RUNNING, PREEMPTED, COMPLETED, FAILED, CANCELLED = JobState
"""For hot paths: Python 3.11 finds a member by way of its Enum ten times as slowly as a global."""

LEGAL_MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    QUEUED: frozenset({SCHEDULED, CANCELLED, FAILED}),
    SCHEDULED: frozenset({RUNNING, QUEUED, FAILED, CANCELLED}),
    RUNNING: frozenset(
        {
            COMPLETED,
            FAILED,
            PREEMPTED,
            QUEUED,
            CANCELLED,
        }
    ),
    PREEMPTED: frozenset({QUEUED, CANCELLED}),
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}
"""Every legal move; any other is refused by ``decide``."""


SCHEDULER: Final = "scheduler"
EXECUTOR: Final = "executor"
"""Actors of the house itself; all others are people or programs that ask."""


class AllocationState(StrEnum):
    """``held`` while an attempt may run, ``releasing`` from then until its processes are confirmed gone."""

    HELD = "held"
    RELEASING = "releasing"


HELD, RELEASING = AllocationState


class StopSignal(StrEnum):
    """What a job's processes are sent before SIGKILL when the job is stopped."""

    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"
    SIGQUIT = "SIGQUIT"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"


class DependencyKind(StrEnum):
    """What must become of another job before this one may start."""

    AFTER_OK = "after_ok"
    """It completed."""
    AFTER_ANY = "after_any"
    """It ended, however."""
    AFTER_NOT_OK = "after_not_ok"
    """It failed or was cancelled."""
    AFTER_START = "after_start"
    """It has been running."""


class Dependency(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One condition on another job; on an array it is one on all of its tasks together."""

    job_id: str
    kind: DependencyKind = DependencyKind.AFTER_OK


class IndexRange(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """``first``, ``first + step``, ... up to ``last``."""

    first: int
    last: int
    step: int = 1

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def indices(self) -> range:
        return range(self.first, self.last + 1, self.step)


class Array(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """The tasks of an array: their indices, in growing order, and how many may hold resources at once."""

    ranges: tuple[IndexRange, ...]
    limit: int = 0
    """0 for no limit."""

    @property
    def tasks(self) -> int:
        return sum(map(len, self.ranges))

    def index_of(self, task: int) -> int:
        """The index of the task that comes at this place, from 0."""
        for one in self.ranges:
            if task < len(one):
                return one.indices[task]
            task -= len(one)
        raise IndexError(task)

    def task_of(self, index: int) -> int | None:
        """The place of an index, from 0; None when the array has no such task."""
        before = 0
        for one in self.ranges:
            if index in one.indices:
                return before + one.indices.index(index)
            before += len(one)
        return None

    def __str__(self) -> str:
        """As it is written: ``0-99:2,200%10``."""
        texts = [
            str(one.first)
            if one.first == one.last
            else f"{one.first}-{one.last}" + (f":{one.step}" if one.step != 1 else "")
            for one in self.ranges
        ]
        return ",".join(texts) + (f"%{self.limit}" if self.limit else "")


class JobSpec(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What a user asked for, as it is recorded for ever.

    A field that has its default is left out of the record, so a default may never change: a new meaning
    needs a new field. Environment values and scripts are secrets: the log holds their SHA-256, the bytes
    are blobs beside it.
    """

    user_id: str
    command: str | tuple[str, ...] = ""
    """A string is run by ``/bin/sh -c``, a list as it is; empty when there is a script."""
    gpu_count: int = 1
    """GPUs in all, over every node of a gang; 0 for a CPU job."""
    priority: Priority = Priority.NORMAL
    account: str = limits.DEFAULT_ACCOUNT
    job_name: str = ""
    gpu_type: str | None = None
    gpu_memory_mib: int = 0
    """Each GPU has at least this much."""
    cpu_cores: int = 0
    """Cores in all; 0 reserves none."""
    memory_mib: int = 0
    """Memory in all; 0 reserves none."""
    nodes: int = 0
    """Gang size; 0 lets Horizon take one node, or as few as can ever hold the job."""
    exclusive: bool = False
    time_limit_s: int = 0
    """0 for none."""
    grace_period_s: int = limits.DEFAULT_GRACE_PERIOD_S
    """From the stop signal to SIGKILL when the job is stopped."""
    max_retries: int = 0
    preemptible: bool = False
    hold: bool = False
    begin_at_us: int = 0
    constraints: dict[str, str] = {}
    labels: dict[str, str] = {}
    comment: str = ""
    working_dir: str | None = None
    environment_names: tuple[str, ...] = ()
    environment_digest: str | None = None
    script_digest: str | None = None
    stop_signal: StopSignal = StopSignal.SIGTERM
    depends_on: tuple[Dependency, ...] = ()
    """It may start once all of these hold."""
    array: Array | None = None
    """Not one job but as many as this says, all alike."""


class Placement(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What an attempt holds on one node."""

    node: str
    gpu_ids: tuple[str, ...] = ()
    cpu_cores: int = 0
    memory_mib: int = 0


Allocation = tuple[Placement, ...]
"""What an attempt holds: one placement a node, in the order of the gang's ranks."""


class Device(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One GPU (or MIG slice), named by its UUID."""

    uuid: str
    index: int
    gpu_type: str
    memory_mib: int
    link_group: int = -1
    """Devices of a node with the same number reach each other over NVLink or NVSwitch; -1 for none."""
    numa_node: int = -1
    """-1 when it is not known."""
    pcie_root: str = ""
    """The PCIe root port or switch above it; empty when it is not known."""


class Inventory(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a node has, as its runner found it."""

    name: str
    cpu_cores: int
    memory_mib: int
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = {}
    simulated: bool = False


class Exit(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How an attempt's processes ended.

    Exactly one of ``exit_code`` and ``signal`` is set when the process ran and its status was read;
    neither when it never ran or its status is lost, and then ``error`` says why.
    """

    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0 and self.error is None
