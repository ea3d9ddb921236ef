"""What may be asked of Horizon. A command may be refused; what it leads to is in ``core.events``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType

from horizon.core.model import Exit, Inventory, JobSpec, Priority
from horizon.core.policy import Policy


class Submit(Struct, frozen=True):
    """Run this job. The id is made outside the core, by whoever asks."""

    job_id: str
    spec: JobSpec


class SubmitBatch(Struct, frozen=True):
    """Run these jobs: all are taken or none is."""

    jobs: tuple[Submit, ...]


class Cancel(Struct, frozen=True):
    """End this job, whatever it is doing."""

    job_id: str
    reason: str = ""
    version: int | None = None
    """Only if the job is still at this version."""


class Update(Struct, frozen=True):
    """Change what may change after submission; a field left unset stays as it is."""

    job_id: str
    priority: Priority | UnsetType = UNSET
    time_limit_s: int | UnsetType = UNSET
    hold: bool | UnsetType = UNSET
    version: int | None = None
    """Only if the job is still at this version."""
    reason: str = ""


class Requeue(Struct, frozen=True):
    """Stop this job's attempt; the job goes back to its place in the queue."""

    job_id: str
    reason: str = ""
    version: int | None = None
    """Only if the job is still at this version."""


class Erase(Struct, frozen=True):
    """Erase the environment values and the script of this job, which has ended; of an array, those of all
    its tasks."""

    job_id: str
    reason: str = ""
    version: int | None = None
    """Only if the job is still at this version."""


class Checkpoint(Struct, frozen=True):
    """The job's running attempt has saved its work."""

    job_id: str
    attempt: int | None = None
    """None for the one that runs now."""


class SetPolicy(Struct, frozen=True):
    """Decide by this policy from now on."""

    policy: Policy
    version: int | None = None
    """Only if the policy is still at this version."""
    reason: str = ""
    amends: bool = False
    """Whether it was made from the policy of that version, and is made anew from a newer one when refused."""


class CordonNode(Struct, frozen=True):
    """Start nothing on this node any more; to drain it, see it emptied, too."""

    name: str
    reason: str = ""
    drain: bool = False
    deadline_us: int = 0
    """What still runs there then goes back to the queue; 0 lets it run to its end."""


class ResumeNode(Struct, frozen=True):
    """Let this node take work again."""

    name: str
    reason: str = ""


class FailDevice(Struct, frozen=True):
    """Use this device no more."""

    device: str
    reason: str = ""


class RecoverDevice(Struct, frozen=True):
    """Use this device again."""

    device: str
    reason: str = ""


class Book(Struct, frozen=True):
    """Keep these nodes free of jobs from start to end. The id is made by whoever asks."""

    booking_id: str
    nodes: tuple[str, ...]
    start_us: int
    end_us: int
    reason: str = ""


class EndBooking(Struct, frozen=True):
    """Give the nodes of a booking back before its time is over."""

    booking_id: str
    reason: str = ""


class RecordArchive(Struct, frozen=True):
    """Put on record that a partition of the log is in a file; what these say is in ``PartitionArchived``."""

    first: int
    last: int
    previous: str
    tip: str
    frontier: str
    file: str
    sha256: str
    reason: str = ""


class SetShare(Struct, frozen=True):
    """Give an account or a user this weight among its siblings, and an account these bounds; a field left
    unset stays as it is."""

    path: str
    weight: int | UnsetType = UNSET
    user: bool | None = None
    """Whether the path names a user rather than an account; needed only for one not seen before."""
    max_gpus: int | UnsetType = UNSET
    """-1 takes the bound away."""
    guaranteed_gpus: int | UnsetType = UNSET
    reason: str = ""


class RegisterNode(Struct, frozen=True):
    """A node is there, with this inventory."""

    inventory: Inventory


class LoseNode(Struct, frozen=True):
    """A node that was registered is not there any more."""

    name: str
    reason: str


class ReportStarted(Struct, frozen=True):
    """Every process of the attempt has been started."""

    job_id: str
    attempt: int


class ReportEnded(Struct, frozen=True):
    """The attempt's own processes have ended with this result.

    ``started`` is false when the launch itself failed. ``lost`` is true when nothing is known of how the
    attempt ended (its keeper was killed, the node went down). ``released`` is true when every process it
    ever started is confirmed gone; otherwise a ``ReportReleased`` follows.
    """

    job_id: str
    attempt: int
    exit: Exit
    started: bool = True
    lost: bool = False
    released: bool = True
    rank: int = 0
    """The process of the gang whose exit this is."""


class ReportCheckpoint(Struct, frozen=True):
    """The attempt has touched its checkpoint file."""

    job_id: str
    attempt: int


class ReportReleased(Struct, frozen=True):
    """Every process of the attempt is confirmed gone."""

    job_id: str
    attempt: int


Report = ReportStarted | ReportEnded | ReportCheckpoint | ReportReleased | FailDevice | RecoverDevice
Command = (
    Submit
    | SubmitBatch
    | Cancel
    | Update
    | Requeue
    | Erase
    | Checkpoint
    | RecordArchive
    | SetShare
    | SetPolicy
    | RegisterNode
    | LoseNode
    | CordonNode
    | ResumeNode
    | Book
    | EndBooking
    | Report
)


def stream_of(command: Command) -> str | None:
    """The stream whose state the command is decided on; None for one that only begins new streams."""
    return _STREAM_OF[type(command)](command)


def _job_stream(command: Any) -> str:
    return f"job/{command.job_id}"


# By type: a match on classes asks each Struct's metaclass in turn, which costs more than the answer.
_STREAM_OF: Final[dict[type, Callable[[Any], str | None]]] = {
    Submit: lambda command: None,
    SubmitBatch: lambda command: None,
    Cancel: _job_stream,
    Update: _job_stream,
    Requeue: _job_stream,
    Erase: _job_stream,
    Checkpoint: _job_stream,
    ReportStarted: _job_stream,
    ReportEnded: _job_stream,
    ReportCheckpoint: _job_stream,
    ReportReleased: _job_stream,
    SetShare: lambda command: f"share/{command.path}",
    SetPolicy: lambda command: "policy",
    RecordArchive: lambda command: "system",
    RegisterNode: lambda command: f"node/{command.inventory.name}",
    LoseNode: lambda command: f"node/{command.name}",
    CordonNode: lambda command: f"node/{command.name}",
    ResumeNode: lambda command: f"node/{command.name}",
    FailDevice: lambda command: f"device/{command.device}",
    RecoverDevice: lambda command: f"device/{command.device}",
    Book: lambda command: f"booking/{command.booking_id}",
    EndBooking: lambda command: f"booking/{command.booking_id}",
}
