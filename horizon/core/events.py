"""What happened. One struct a fact, one sentence each: read this file first to audit a Horizon.

An event is never refused and never changed. A field that has its default is left out of the stored bytes,
so a default may never change; a new field or a new meaning is a higher schema version and an upcaster, or a
new type. Who did it is in the envelope; why, as far as they said, is the event's ``reason``.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from horizon.core.model import Allocation, Exit, Inventory, JobSpec, Priority
from horizon.core.policy import Policy


class Cause(StrEnum):
    """Why a job was given its place now: its turn had come, it filled a gap, others made way, or it had
    waited for too long."""

    PRIORITY = "priority"
    BACKFILL = "backfill"
    PREEMPTION = "preemption"
    AGE = "age"


class RequeueCause(StrEnum):
    """Why a job went back to the queue; only a retry spends one of the job's retries."""

    RETRY = "retry"
    LOST = "lost"
    PREEMPTION = "preemption"
    DEVICE = "device"
    """A device that it held had failed."""
    REQUEST = "request"
    """Someone asked for it, or its node was to be emptied."""


class Event(
    Struct, frozen=True, gc=False, tag=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of all facts."""

    @property
    def stream(self) -> str:
        """What the fact is about: its history in the log."""
        raise NotImplementedError


class JobEvent(Event, frozen=True):
    """A fact about one job."""

    job_id: str

    @property
    def stream(self) -> str:
        return "job/" + self.job_id


class CycleEvent(JobEvent, frozen=True, kw_only=True):
    """A fact about one job that a scheduling cycle may have decided; then it says which, to be run again."""

    cycle: int = 0
    """The number of the cycle; 0 when no cycle decided it."""
    now_us: int = 0
    """The cycle's only notion of time."""
    policy_version: int = 0


class JobSubmitted(JobEvent, frozen=True):
    """A user asked for a job to be run and Horizon took it.

    An array takes this number and, for its tasks, as many that follow.
    """

    number: int
    spec: JobSpec


class JobHeld(JobEvent, frozen=True):
    """Someone asked that a waiting job not be started until it is released."""

    reason: str = ""


class JobReleased(CycleEvent, frozen=True):
    """A waiting job may be started from now on."""

    begin_reached: bool = False
    """Whether its begin time came, or its wait before a retry ended, rather than someone releasing it."""
    reason: str = ""


class JobUpdated(JobEvent, frozen=True):
    """Someone changed what may change of a job after submission."""

    priority: Priority | UnsetType = UNSET
    time_limit_s: int | UnsetType = UNSET
    reason: str = ""


class JobReserved(CycleEvent, frozen=True):
    """A cycle planned for the first time when and where a blocked job can start."""

    start_us: int
    nodes: tuple[str, ...]


class JobScheduled(JobEvent, frozen=True):
    """A cycle gave a waiting job exactly these devices, cores and memory."""

    attempt: int
    allocation: Allocation
    cycle: int
    now_us: int
    """The cycle's only notion of time."""
    rank: int
    """Its place in the order the cycle walked, from 1; 0 out of that order, by age or preemption."""
    score: float
    """Effective usage over weight of its owner's leaf in the share tree as the cycle began (GPU-seconds)."""
    policy_version: int = 0
    cause: Cause = Cause.PRIORITY


class JobStarted(JobEvent, frozen=True):
    """Every process of the attempt has been started."""

    attempt: int


class CheckpointRecorded(JobEvent, frozen=True):
    """A running job saved its work: what it did before this is not lost when it is preempted."""

    attempt: int


class TimeLimitReached(CycleEvent, frozen=True):
    """A running job used up its time limit and is being stopped."""

    attempt: int
    time_limit_s: int


class PreemptionRequested(CycleEvent, frozen=True):
    """A running job is being stopped so that another may have its devices."""

    attempt: int
    by: str
    """The id of the job that is to have them."""
    reason: str
    nodes: tuple[str, ...] = ()
    """Where that job is to start: kept for it until it does."""
    lost_gpu_us: int = 0
    """GPU-microseconds of work that stopping it then would lose, since its start or last checkpoint."""


class AllocationOverdue(CycleEvent, frozen=True):
    """What the job holds should have been free by now.

    Plans count on it by a later time, and it is no longer taken to be on its way out.
    """

    attempt: int
    until_us: int
    """As much later as it has taken until now."""


class RequeueRequested(CycleEvent, frozen=True):
    """A running job is being stopped to go back to the queue."""

    attempt: int
    by: str
    """Who asked for it."""
    reason: str = ""


class JobPreempted(JobEvent, frozen=True):
    """A running job made way for another; it goes back to the queue."""

    attempt: int
    by: str
    lost_gpu_us: int
    """GPU-microseconds of work lost, since its start or last checkpoint."""


class JobRequeued(JobEvent, frozen=True):
    """A job went back to the queue, at the place its submission gives it."""

    cause: RequeueCause
    reason: str
    exit: Exit | None = None
    not_before_us: int = 0
    """It waits until then before it stands in the queue."""
    avoid: tuple[str, ...] = ()
    """Nodes where it failed: its next attempts go elsewhere if they ever can."""


class JobCompleted(JobEvent, frozen=True):
    """A job's command ended well."""

    attempt: int
    exit: Exit


class JobFailed(CycleEvent, frozen=True):
    """A job's command ended badly, could not be started, ran out of time, or what it depends on cannot be."""

    reason: str
    attempt: int = 0
    exit: Exit | None = None


class JobCancelled(JobEvent, frozen=True):
    """Someone ended a job before its command had."""

    by: str
    reason: str = ""


class AllocationReleased(JobEvent, frozen=True):
    """Every process of the attempt is confirmed gone: what it held is free again."""

    attempt: int
    exit: Exit | None = None
    """How the processes ended, where the job had ended before them."""


class BlobsErased(JobEvent, frozen=True):
    """The environment values and the script of a job that has ended were erased from the database."""

    digests: tuple[str, ...]
    """Of the blobs that are gone."""
    by: str
    kept: tuple[str, ...] = ()
    """Of those that are not, since a job that has not ended needs them, too."""
    reason: str = ""


class NodeEvent(Event, frozen=True):
    """A fact about one node."""

    node: str

    @property
    def stream(self) -> str:
        return "node/" + self.node


class NodeRegistered(NodeEvent, frozen=True):
    """A node joined with this inventory, or came back with the same."""

    inventory: Inventory


class NodeChanged(NodeEvent, frozen=True):
    """A known node came back with another inventory."""

    inventory: Inventory


class NodeLost(NodeEvent, frozen=True):
    """A node is not there any more; nothing is placed on it until it is registered again."""

    reason: str


class NodeCordoned(NodeEvent, frozen=True):
    """A node takes no new work any more; one to be drained is to be emptied, too."""

    by: str
    reason: str = ""
    drain: bool = False
    deadline_us: int = 0
    """What still runs there then goes back to the queue; 0 lets it run to its end."""


class NodeResumed(NodeEvent, frozen=True):
    """A cordoned node takes new work again."""

    by: str
    reason: str = ""


class DeviceEvent(Event, frozen=True):
    """A fact about one device."""

    node: str
    device: str
    by: str

    @property
    def stream(self) -> str:
        return "device/" + self.device


class DeviceFailed(DeviceEvent, frozen=True):
    """A device is not to be used; whoever has it keeps it until it ends."""

    reason: str = ""


class DeviceRecovered(DeviceEvent, frozen=True):
    """A device that had failed may be used again."""

    reason: str = ""


class BookingMade(Event, frozen=True):
    """Nodes are kept free of jobs for a span of time, for maintenance."""

    booking: str
    nodes: tuple[str, ...]
    start_us: int
    end_us: int
    by: str
    reason: str = ""

    @property
    def stream(self) -> str:
        return "booking/" + self.booking


class BookingEnded(Event, frozen=True):
    """A booking's time is over, or someone ended it before."""

    booking: str
    by: str
    cycle: int = 0
    now_us: int = 0
    policy_version: int = 0
    reason: str = ""

    @property
    def stream(self) -> str:
        return "booking/" + self.booking


class ShareSet(Event, frozen=True):
    """An account or a user got this weight among its siblings."""

    path: str
    weight: int
    user: bool = False
    """Whether the last segment of the path is a user under the account before it."""
    reason: str = ""

    @property
    def stream(self) -> str:
        return "share/" + self.path


class QuotaSet(Event, frozen=True):
    """An account got bounds on the GPUs that it holds, all below it included."""

    path: str
    max_gpus: int = -1
    """It never holds more; -1 for no bound."""
    guaranteed_gpus: int = 0
    """While it holds less, it may reclaim from accounts that hold more than theirs."""
    reason: str = ""

    @property
    def stream(self) -> str:
        return "share/" + self.path


class PolicySet(Event, frozen=True):
    """The policy of all decisions from here on."""

    version: int
    policy: Policy
    by: str
    reason: str = ""

    @property
    def stream(self) -> str:
        return "policy"


class LeaderElected(Event, frozen=True):
    """A scheduler became the only writer of the log, for the term that this epoch names."""

    epoch: int
    host: str
    pid: int
    version: str
    config_digest: str
    decisions: int
    """Which code decides (``core.schedule.DECISIONS``); 0 where it was not recorded."""

    @property
    def stream(self) -> str:
        return "system"


class SigningKeySet(Event, frozen=True):
    """The checkpoints of the log are signed with this key from here on."""

    key: str
    """Its public half: ``NAME+ID+BASE64``."""
    by: str

    @property
    def stream(self) -> str:
        return "system"


Asked = bool | int | str | tuple[str, ...] | dict[str, int]
"""A value that someone asked for."""


class CommandRefused(Event, frozen=True):
    """Someone asked for a change of what is another's, or everybody's, and it was refused: nothing changed.

    Kept once for as long as nothing happens to what it is about (``core.refused``).
    """

    command: str
    """What was asked for: the name of a command."""
    target: str
    """The stream that it would have changed."""
    kind: str
    """``conflict``: as things are it cannot be; ``stale``: whoever asked had not seen what they are."""
    detail: str
    """What was answered."""
    by: str
    reason: str = ""
    asked: dict[str, Asked] = {}
    """What it would have set, field by field."""

    @property
    def stream(self) -> str:
        return "system"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for refusals that are alike, whatever was asked in detail."""
        return self.by, self.command, self.target, self.kind

    @property
    def said(self) -> str:
        """A digest, equal among those for refusals of the same, asked for with the same reason."""
        return hashlib.sha256(encode((self.asked, self.reason))).hexdigest()


class PartitionArchived(Event, frozen=True):
    """The oldest events in the database are in a file, which was checked, and so may leave the database.

    Said of the same events again it takes the place of what was said before: of another file of theirs.
    """

    first: int
    """The positions of the first and the last of them."""
    last: int
    previous: str
    """The hash of the event before the first, in hex."""
    tip: str
    """The hash of the last, in hex."""
    frontier: str
    """The hashes of the tree's frontier there, one behind the other, in hex: where the next event goes on."""
    keys: tuple[str, ...]
    """The keys that the log had named up to there to sign it with."""
    file: str
    """The name of the file. It goes on to the next checkpoint, so that all of them are signed in it."""
    sha256: str
    by: str
    reason: str = ""

    @property
    def stream(self) -> str:
        return "system"


AnyEvent = (
    JobSubmitted
    | JobHeld
    | JobReleased
    | JobUpdated
    | JobReserved
    | JobScheduled
    | JobStarted
    | CheckpointRecorded
    | TimeLimitReached
    | PreemptionRequested
    | AllocationOverdue
    | RequeueRequested
    | JobPreempted
    | JobRequeued
    | JobCompleted
    | JobFailed
    | JobCancelled
    | AllocationReleased
    | BlobsErased
    | NodeRegistered
    | NodeChanged
    | NodeLost
    | NodeCordoned
    | NodeResumed
    | DeviceFailed
    | DeviceRecovered
    | BookingMade
    | BookingEnded
    | ShareSet
    | QuotaSet
    | PolicySet
    | LeaderElected
    | SigningKeySet
    | PartitionArchived
    | CommandRefused
)
EVENT_TYPES: Final[tuple[type[Event], ...]] = get_args(AnyEvent)

SCHEMA_VERSIONS: Final[dict[str, int]] = dict.fromkeys((cls.__name__ for cls in EVENT_TYPES), 1) | {
    "JobHeld": 2,
    "JobReleased": 2,
    "JobUpdated": 2,
    "NodeResumed": 2,
    "DeviceRecovered": 2,
    "BookingEnded": 2,
    "ShareSet": 2,
    "QuotaSet": 2,
    "PolicySet": 2,
    "LeaderElected": 2,
    "CommandRefused": 2,
}
"""The version of each type that this program writes. It reads older ones, too (``core.upcast``), and refuses
to fold a newer one."""


class Stored(Struct, frozen=True, gc=False):
    """An envelope and the bytes in it, as the log holds them: its place and where it came from."""

    position: int
    """Its place in the whole log, from 1, without gaps."""
    recorded_at_us: int
    """When it was recorded; never decreases along the log."""
    epoch: int
    type: str
    schema_version: int
    stream: str
    stream_version: int
    """Its place in its stream, from 1."""
    actor: str
    command_id: bytes
    """16 bytes: the command it came from."""
    correlation_id: bytes
    """16 bytes: the command that began the story it belongs to."""
    causation: int
    """Position of the event that led to it, 0 when the cause is outside the log."""
    payload: bytes
    """The exact JSON that was hashed."""
    hash: bytes
    """SHA-256 over the header, which holds the hash of the event before."""


class Recorded(Stored, frozen=True, gc=False):
    """An event in its envelope."""

    event: Event


class Draft(Struct, frozen=True, gc=False):
    """An event that has been decided but is not in the log yet."""

    event: Event
    stream: str
    stream_version: int
    actor: str
    command_id: bytes
    correlation_id: bytes
    causation: int


_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_DECODER: Final = msgspec.json.Decoder(AnyEvent)

encode = _ENCODER.encode


def decode(payload: bytes) -> Event:
    """The event in a stored payload; ``msgspec.ValidationError`` for a type or field this program lacks."""
    event: Event = _DECODER.decode(payload)
    return event
