"""What travels: every request and every answer as a struct, with its bounds. ``/openapi.json`` shows them.

In a request null means "not given", like leaving the field out. Texts are checked further by ``submission``
where JSON Schema cannot say it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import astuple

from horizon.api import arrays
from horizon.core import limits
from horizon.core.model import AllocationState, DependencyKind, JobState, Priority, StopSignal
from horizon.core.policy import Order, Policy

ACCOUNT_LENGTH_MAX: Final = limits.ACCOUNT_DEPTH_MAX * (limits.NAME_LENGTH_MAX + 1) - 1
MEMORY_GB_MAX: Final = limits.MEMORY_MIB_MAX // 1024
SIGNED_64_MAX: Final = (1 << 63) - 1

_PRIORITIES: Final = [priority.value for priority in Priority]
_SIGNALS: Final = [signal.value for signal in StopSignal]
_DEPENDENCY_KINDS: Final = [kind.value for kind in DependencyKind]
_NAME: Final = r"^[^/\u0000-\u001f\u007f-\u009f]+$"

Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
JobId = Annotated[str, Meta(description="UUIDv7.", extra_json_schema={"format": "uuid"})]
Name = Annotated[
    str,
    Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX, extra_json_schema={"pattern": _NAME}),
]
Account = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ACCOUNT_LENGTH_MAX,
        description=f"1 to {limits.ACCOUNT_DEPTH_MAX} names with / between, such as research/nlp.",
    ),
]
Text = Annotated[str, Meta(max_length=limits.TEXT_LENGTH_MAX)]
Reason = Annotated[str, Meta(max_length=limits.TEXT_LENGTH_MAX, description="Why: it stays in the log.")]
Labels = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)], Text],
    Meta(max_length=limits.LABELS_MAX),
]
Environment = Annotated[dict[str, str], Meta(max_length=limits.ENVIRONMENT_NAMES_MAX)]
TimeLimit = Annotated[int, Meta(ge=1, le=limits.TIME_LIMIT_S_MAX, description="Stopped after this long.")]
Gpus = Annotated[int, Meta(ge=0, le=limits.GPU_COUNT_MAX)]
MemoryGb = Annotated[float, Meta(ge=0, le=MEMORY_GB_MAX)]
PriorityText = Annotated[
    str, Meta(max_length=16, description="In any case.", extra_json_schema={"enum": _PRIORITIES})
]
JobName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A job: its id, its number, or for a task of an array ARRAY_INDEX such as 12_7.",
    ),
]
ShareKind = Annotated[str, Meta(extra_json_schema={"enum": ["account", "user"]})]
Optional = UnsetType | None


class ReasonQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """For what is asked without a body."""

    reason: Reason = ""


# --- asked: jobs --------------------------------------------------------------------------------------


class DependencyAsked(Struct, forbid_unknown_fields=True):
    """What must become of another job before this one may start."""

    job: JobName | Annotated[int, Meta(ge=1)]
    kind: (
        Annotated[
            str,
            Meta(
                max_length=16,
                description="after_ok when not given.",
                extra_json_schema={"enum": _DEPENDENCY_KINDS},
            ),
        ]
        | Optional
    ) = UNSET


class Submission(Struct, forbid_unknown_fields=True, kw_only=True):
    """A job to be run: a command or a script, and what it needs."""

    user_id: Name
    command: (
        Annotated[
            str | list[str],
            Meta(description="A string is run by /bin/sh -c, a list as it is."),
        ]
        | Optional
    ) = UNSET
    script: Annotated[str, Meta(description="Begins with #!; not with a command.")] | Optional = UNSET
    working_dir: Annotated[Text, Meta(description="An absolute path.")] | Optional = UNSET
    environment: Environment | Optional = UNSET
    account: Account | Optional = UNSET
    job_name: Text | Optional = UNSET
    gpu_count: (
        Annotated[Gpus, Meta(description="In all, over every node. 1 when not given; 0 for a CPU job.")]
        | Optional
    ) = UNSET
    gpu_type: Name | Optional = UNSET
    gpu_memory_gb: Annotated[MemoryGb, Meta(description="Of each GPU, at least.")] | Optional = UNSET
    cpu_cores: (
        Annotated[int, Meta(ge=0, le=limits.CPU_CORES_MAX, description="In all; 0 reserves none.")] | Optional
    ) = UNSET
    memory_gb: Annotated[MemoryGb, Meta(description="In all; 0 reserves none.")] | Optional = UNSET
    nodes: Annotated[int, Meta(ge=1, le=limits.NODES_MAX, description="One process on each.")] | Optional = (
        UNSET
    )
    constraints: Annotated[Labels, Meta(description="Labels that every node must have.")] | Optional = UNSET
    exclusive: Annotated[bool, Meta(description="Share no node with other jobs.")] | Optional = UNSET
    priority: PriorityText | Optional = UNSET
    time_limit_s: TimeLimit | Optional = UNSET
    grace_period_s: (
        Annotated[int, Meta(ge=0, le=limits.GRACE_PERIOD_S_MAX, description="From SIGTERM to SIGKILL.")]
        | Optional
    ) = UNSET
    stop_signal: (
        Annotated[
            str,
            Meta(
                max_length=16,
                description="What its processes are sent first when it is stopped; SIGTERM when not given.",
                extra_json_schema={"enum": _SIGNALS},
            ),
        ]
        | Optional
    ) = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] | Optional = UNSET
    preemptible: Annotated[bool, Meta(description="It may be stopped so that others start.")] | Optional = (
        UNSET
    )
    depends_on: (
        Annotated[
            list[DependencyAsked | Annotated[str, Meta(max_length=80, description="KIND:JOB: after_ok:12.")]],
            Meta(max_length=limits.DEPENDENCIES_MAX, description="It may start once all of these hold."),
        ]
        | Optional
    ) = UNSET
    array: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=arrays.TEXT_LENGTH_MAX,
                description="Not one job but one for each index, all alike: 0-99, 1,3,5-9, 0-99:2; with "
                "%10 at the end at most 10 hold resources at once.",
            ),
        ]
        | Optional
    ) = UNSET
    begin_at: (
        Annotated[datetime, Meta(tz=True, description="Not started before; with an offset.")] | Optional
    ) = UNSET
    hold: Annotated[bool, Meta(description="Not started before it is released.")] | Optional = UNSET
    labels: Labels | Optional = UNSET
    comment: Text | Optional = UNSET


class Batch(Struct, forbid_unknown_fields=True):
    """Jobs of which all are taken or none."""

    jobs: Annotated[list[Submission], Meta(min_length=1, max_length=limits.BATCH_JOBS_MAX)]


class Change(Struct, forbid_unknown_fields=True):
    """What may change of a job after submission; what is left out stays as it is."""

    priority: PriorityText | UnsetType = UNSET
    time_limit_s: TimeLimit | Optional = UNSET
    """Null takes the limit away."""
    hold: bool | UnsetType = UNSET
    reason: Reason | Optional = UNSET


# --- asked: the cluster -------------------------------------------------------------------------------


class ShareChange(Struct, forbid_unknown_fields=True):
    """A share's weight among its siblings, an account's bounds; what is left out stays as it is."""

    weight: Annotated[int, Meta(ge=1, le=limits.WEIGHT_MAX)] | UnsetType = UNSET
    max_gpus: Annotated[Gpus, Meta(description="It never holds more; null for no bound.")] | Optional = UNSET
    guaranteed_gpus: (
        Annotated[
            Gpus,
            Meta(description="While it holds less, it may reclaim from accounts that hold more than theirs."),
        ]
        | UnsetType
    ) = UNSET
    kind: Annotated[ShareKind, Meta(description="Needed for a new path.")] | Optional = UNSET
    reason: Reason | Optional = UNSET


class PolicyChange(Struct, forbid_unknown_fields=True):
    """Choices of the policy, each whole, and why; what is left out, or null, keeps its value."""

    order: Order | Optional = UNSET
    strict: bool | Optional = UNSET
    reservation_depth: int | Optional = UNSET
    examined_max: int | Optional = UNSET
    patience_s: int | Optional = UNSET
    assumed_time_limit_s: int | Optional = UNSET
    half_life_s: int | Optional = UNSET
    charge_ahead_s: int | Optional = UNSET
    gpu_cost: dict[Name, int] | Optional = UNSET
    cores_per_gpu: int | Optional = UNSET
    memory_gb_per_gpu: int | Optional = UNSET
    preemption: bool | Optional = UNSET
    min_runtime_s: int | Optional = UNSET
    preemption_searches_max: int | Optional = UNSET
    retry_backoff_s: int | Optional = UNSET
    retry_backoff_max_s: int | Optional = UNSET
    topology_labels: list[Name] | Optional = UNSET
    reason: Reason | Optional = UNSET


class Cordon(Struct, forbid_unknown_fields=True):
    """Why a node is to take no new work."""

    reason: Reason | Optional = UNSET


class Drain(Struct, forbid_unknown_fields=True):
    """Why a node is to be emptied, and by when: without a deadline what runs there may run to its end."""

    reason: Reason | Optional = UNSET
    deadline_s: (
        Annotated[int, Meta(ge=0, le=limits.TIME_LIMIT_S_MAX, description="This long from now.")] | Optional
    ) = UNSET
    deadline_at: (
        Annotated[datetime, Meta(tz=True, description="With an offset; not with deadline_s.")] | Optional
    ) = UNSET


class DeviceFault(Struct, forbid_unknown_fields=True):
    """Why a GPU is not to be used."""

    reason: Reason | Optional = UNSET


class BookingAsked(Struct, forbid_unknown_fields=True):
    """Nodes to be kept free of jobs for a span of time."""

    nodes: Annotated[list[Name], Meta(min_length=1, max_length=limits.BOOKING_NODES_MAX)]
    end_at: Annotated[datetime, Meta(tz=True, description="With an offset.")]
    start_at: (
        Annotated[datetime, Meta(tz=True, description="With an offset; now when not given.")] | Optional
    ) = UNSET
    reason: Reason | Optional = UNSET


def given(request: Struct) -> int:
    """How many fields a request gave; each of our optional fields is UNSET when it did not."""
    values = astuple(request)
    return len(values) - values.count(UNSET)


def names_in_submission(job: Submission) -> int:
    """Distinct names in all objects of a submission."""
    names = given(job) + len(job.environment or ()) + len(job.labels or ()) + len(job.constraints or ())
    if job.depends_on:
        names += sum(given(one) for one in job.depends_on if not isinstance(one, str))
    return names


def names_in_batch(batch: Batch) -> int:
    return 1 + sum(map(names_in_submission, batch.jobs))


def names_in_policy(policy: PolicyChange) -> int:
    return given(policy) + len(policy.gpu_cost or ())


# --- answered: jobs -----------------------------------------------------------------------------------


class Resources(Struct, gc=False):
    """What a job asks for, in all."""

    gpu_count: int
    gpu_type: str | None
    cpu_cores: int
    memory_gb: float


class DependencyAnswer(Struct, gc=False):
    """What must become of another job."""

    job: JobId
    number: int
    kind: DependencyKind


class TaskCounts(Struct, gc=False):
    """How many tasks an array has, and how many of them are in each state."""

    total: int
    queued: int
    scheduled: int
    running: int
    preempted: int
    completed: int
    failed: int
    cancelled: int


ArrayNumber = Annotated[
    int | None, Meta(description="Of a task: its array. It is named ARRAY_INDEX, such as 12_7.")
]
ArrayIndex = Annotated[int | None, Meta(description="Of a task: its index in the array.")]


Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="In hex.")]


class ArchiveAsked(Struct, forbid_unknown_fields=True):
    """A partition of the log that is in a file, which was checked."""

    first: Annotated[int, Meta(ge=1, le=SIGNED_64_MAX, description="The position of its first event.")]
    last: Annotated[int, Meta(ge=1, le=SIGNED_64_MAX)]
    previous: Annotated[Hash, Meta(description="Of the event before the first.")]
    tip: Annotated[Hash, Meta(description="Of the last.")]
    frontier: Annotated[
        str, Meta(pattern="^([0-9a-f]{64}){1,63}$", description="The tree's at the last: its hashes, in hex.")
    ]
    file: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$", description="Its name.")]
    sha256: Annotated[Hash, Meta(description="Of the file.")]
    reason: Reason | Optional = UNSET


class ArchiveAnswer(Struct):
    """What is on record of it."""

    first: int
    last: int
    file: str
    sha256: str


class JobAnswer(Struct, gc=False):
    """A job: what was asked for, and what became of it."""

    id: JobId
    number: int
    state: JobState
    reason: Annotated[str | None, Meta(description="Why it waits, or how it ended; for people.")]
    user_id: str
    account: str
    job_name: str
    command: str | tuple[str, ...] | None
    script: Annotated[
        str | None, Meta(description="Null when there is none, it has been erased, or is not what was given.")
    ]
    working_dir: str | None
    environment: Annotated[
        dict[str, str] | None, Meta(description="Null when it has been erased, or is not what was given.")
    ]
    gpu_count: int
    gpu_type: str | None
    gpu_memory_gb: float
    cpu_cores: int
    memory_gb: float
    nodes: int | None
    constraints: dict[str, str]
    exclusive: bool
    priority: Priority
    time_limit_s: int | None
    grace_period_s: int
    stop_signal: StopSignal
    max_retries: int
    preemptible: bool
    depends_on: list[DependencyAnswer]
    array: Annotated[str | None, Meta(description="Of an array, which itself never runs: its indices.")]
    array_number: ArrayNumber
    array_index: ArrayIndex
    tasks: Annotated[TaskCounts | None, Meta(description="Of an array.")]
    begin_at: Moment | None
    hold: bool
    labels: dict[str, str]
    comment: str
    resources: Resources
    created_at: Moment
    scheduled_at: Moment | None
    started_at: Moment | None
    completed_at: Moment | None
    exit_code: int | None
    signal: int | None
    attempt: Annotated[int, Meta(description="The last one; 0 before the first.")]
    retries_used: int
    preempted: Annotated[int, Meta(description="How often it has been.")]
    lost_gpu_s: Annotated[float, Meta(description="Work lost by its preemptions.")]
    predicted_start: Annotated[
        Moment | None, Meta(description="When it was first planned to start, since it last began to wait.")
    ]
    node_ids: Annotated[list[str], Meta(description="By rank: what it holds now, or held last.")]
    gpu_ids: list[str]
    allocation_state: AllocationState | None
    erased: Annotated[bool, Meta(description="Whether its environment and its script have been.")]
    version: Annotated[int, Meta(description="Grows with every event; also the ETag.")]


class JobPage(Struct):
    """Jobs, newest first."""

    jobs: list[JobAnswer]
    total: Annotated[int, Meta(description="Of all pages, when the first one was asked for.")]
    next_cursor: str | None


class Submitted(Struct, gc=False):
    """What one needs to find a job again."""

    id: JobId
    number: int


class BatchAnswer(Struct):
    """The jobs of a batch, in its order."""

    total: int
    jobs: list[Submitted]


class EventAnswer(Struct):
    """A fact in its envelope, with all that its hash is made of."""

    position: int
    recorded_at: Moment
    epoch: int
    type: str
    schema_version: int
    stream: str
    stream_version: int
    actor: str
    sentence: Annotated[str, Meta(description="What happened, for people; it is not part of the log.")]
    command_id: str
    correlation_id: str
    causation: Annotated[int, Meta(description="Position of the event it followed from; 0 for none.")]
    hash: Annotated[str, Meta(description="SHA-256 in hex over the envelope, the one before included.")]
    payload: Raw


class JobEvents(Struct):
    """The history of one job."""

    events: list[EventAnswer]


class EventPage(Struct):
    """A piece of the log."""

    events: list[EventAnswer]
    next_after: Annotated[int, Meta(description="Give this as `after` to go on.")]
    head: Annotated[int, Meta(description="The last position there is.")]


# --- answered: the cluster ----------------------------------------------------------------------------


class QueueAnswer(Struct):
    """How many jobs wait, and how many are on their way."""

    total: Annotated[int, Meta(description="Waiting for their turn or for room.")]
    urgent_priority: int
    high_priority: int
    normal_priority: int
    low_priority: int
    held: Annotated[
        int, Meta(description="Queued too, but kept out: held, not begun, or not cleaned up yet.")
    ]
    scheduled: int
    running: int
    preempted: int


class Waiting(Struct):
    """A place in the order of starting."""

    position: int
    number: int
    id: JobId
    array_number: ArrayNumber
    array_index: ArrayIndex
    user_id: str
    account: str
    job_name: str
    priority: Priority
    gpu_count: int
    created_at: Moment


class OrderAnswer(Struct):
    """Who would start next, if every job fitted."""

    jobs: list[Waiting]
    total: int


class GpuCounts(Struct):
    """GPUs by state. A failed one is counted as failed even while a job still has it."""

    total: int
    free: int
    held: int
    releasing: int
    failed: int


NODE_STATES: Final = ("up", "cordoned", "draining", "drained", "lost")
GPU_STATES: Final = ("free", "held", "releasing", "failed", "lost")
NodeState = Annotated[str, Meta(extra_json_schema={"enum": NODE_STATES})]
GpuState = Annotated[str, Meta(extra_json_schema={"enum": GPU_STATES})]


class NodeAnswer(Struct):
    """A machine, and how much of it is held."""

    name: str
    state: Annotated[
        NodeState, Meta(description="Drained: it was to be emptied, and nothing is held there any more.")
    ]
    reason: Annotated[str | None, Meta(description="Why it is lost, or takes no new work.")]
    by: Annotated[str | None, Meta(description="Who cordoned or drained it.")]
    drain_by: Annotated[Moment | None, Meta(description="What still runs there then goes back to the queue.")]
    simulated: bool
    labels: dict[str, str]
    gpu_types: list[str]
    gpus: GpuCounts
    cpu_cores: int
    cpu_cores_held: int
    memory_gb: float
    memory_gb_held: float
    jobs: Annotated[list[int], Meta(description="Numbers of the jobs that hold something here.")]
    version: int


class NodesAnswer(Struct):
    nodes: list[NodeAnswer]


class Holder(Struct):
    """The job that has a GPU."""

    id: JobId
    number: int
    array_number: ArrayNumber
    array_index: ArrayIndex
    user_id: str


class GpuAnswer(Struct):
    """A GPU, and who has it."""

    uuid: str
    node: str
    index: int
    gpu_type: str
    memory_gb: float
    link_group: Annotated[
        int | None,
        Meta(description="Those of a node with the same reach each other over NVLink or NVSwitch."),
    ]
    numa_node: Annotated[int | None, Meta(description="Null when it is not known.")]
    pcie_root: Annotated[str | None, Meta(description="The PCIe root port or switch above it.")]
    state: GpuState
    reason: Annotated[str | None, Meta(description="Why it is not to be used.")]
    job: Holder | None


class GpusAnswer(Struct):
    gpus: list[GpuAnswer]


class ShareAnswer(Struct):
    """An account or a user in the share tree. Usage is decayed to this moment and includes all below."""

    path: str
    parent: Annotated[str | None, Meta(description="Null at the top.")]
    kind: ShareKind
    weight: int
    rank: Annotated[
        int, Meta(description="Among its siblings: 1 goes first; those of one score have one rank.")
    ]
    usage_gpu_s: float
    held_gpu: Annotated[float, Meta(description="What is held now, by what it costs, in GPUs.")]
    charged_ahead_gpu_s: Annotated[
        float, Meta(description="What is held now, for as long as the policy charges ahead.")
    ]
    effective_gpu_s: Annotated[float, Meta(description="Usage, and what is charged ahead.")]
    score: Annotated[float, Meta(description="Effective usage over weight: the smallest goes first.")]
    gpus_held: Annotated[int, Meta(description="Whole GPUs, whatever they cost.")]
    max_gpus: Annotated[int | None, Meta(description="It never holds more; null for no bound.")]
    guaranteed_gpus: int
    waiting: int


class SharesAnswer(Struct):
    """The share tree, parents before children."""

    shares: list[ShareAnswer]


class ComparisonAnswer(Struct):
    """Two shares side by side where their ways through the tree part."""

    parent: Annotated[str | None, Meta(description="The share below which they part; null at the top.")]
    first: ShareAnswer
    second: ShareAnswer
    ahead: Annotated[
        str | None, Meta(description="Whose jobs go first; null when the shares do not decide it.")
    ]
    why: str


class BookingAnswer(Struct):
    """Nodes that are kept free of jobs for a span of time."""

    id: JobId
    nodes: list[str]
    start_at: Moment
    end_at: Moment
    by: str
    reason: str


class BookingsAnswer(Struct):
    """Bookings that are not over, in the order in which they were made."""

    bookings: list[BookingAnswer]


class PolicyAnswer(Struct):
    """What an operator chose of how Horizon decides."""

    version: Annotated[int, Meta(description="Every cycle names the one it ran under; also the ETag.")]
    policy: Policy


# --- answered: health ---------------------------------------------------------------------------------


Role = Annotated[str, Meta(extra_json_schema={"enum": ["leader", "standby"]})]


class HealthAnswer(Struct):
    """How Horizon is."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["ok", "unavailable"]})]
    why: str | None
    leading: bool
    role: Role
    lag_events: Annotated[int, Meta(description="That a standby has yet to fold, by its last look.")]
    lag_s: Annotated[float, Meta(description="How old what a standby knows may be.")]
    store: str
    epoch: int
    position: int
    checkpoint: Annotated[int | None, Meta(description="Up to where the log is signed; null: not at all.")]
    jobs: int
    nodes: int
    version: str
    uptime_s: float


class LiveAnswer(Struct):
    """That it runs."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["ok"]})]


class ReadyAnswer(Struct):
    """That requests can be served: by a standby, what is only read by itself, and the rest by the leader."""

    status: Annotated[str, Meta(extra_json_schema={"enum": ["ok"]})]
    role: Role


class RootAnswer(Struct):
    """Where things are."""

    name: str
    version: str
    api: str
    description: str
    health: str
