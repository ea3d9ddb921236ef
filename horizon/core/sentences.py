"""Every event as a sentence that a person understands: the log, read aloud.

A sentence says what was true at its event, and goes on saying it: of the state, which may be any from the
event on, it takes only what never changes: the numbers and owners of jobs, and what a setting took the place
of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from horizon.core import events as ev
from horizon.core.model import Inventory, JobSpec
from horizon.core.policy import UNLIMITED, Policy
from horizon.core.state import SECOND_US, State
from horizon.core.words import moment, span, text

_GPU_HOUR_US: Final = 3_600 * SECOND_US


def sentence(state: State, recorded: ev.Recorded) -> str:
    """What happened, without a full stop. O(what it names)."""
    setting = _SETTINGS.get(type(recorded.event))
    if setting is not None:
        return setting(recorded.event, recorded.actor, state.replaced.get(recorded.position))
    return told(state, recorded.event, recorded.actor)


def told(state: State, event: ev.Event, actor: str) -> str:
    """The same, of what may not be in the log; of a setting without what it takes the place of."""
    setting = _SETTINGS.get(type(event))
    return setting(event, actor, None) if setting else _SENTENCES[type(event)](state, event, actor)


# --- jobs ---------------------------------------------------------------------------------------------


def _job(state: State, id: str) -> str:
    """``alice's job 7 (train)``; a task by its array's number and its index."""
    job = state.jobs[id]
    if job.array:
        what = f"task {job.array}_{job.index}"
    else:
        what = f"{'job' if job.spec.array is None else 'array'} {job.number}"
    return f"{job.spec.user_id}'s {what}" + (f" ({job.spec.job_name})" if job.spec.job_name else "")


def _other(state: State, id: str) -> str:
    """``job 9 of bob``: whom another makes way for. Its priority may have changed since."""
    job = state.jobs[id]
    what = f"task {job.array}_{job.index}" if job.array else f"job {job.number}"
    return f"{what} of {job.spec.user_id}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _submitted(state: State, event: ev.JobSubmitted, actor: str) -> str:
    spec = event.spec
    named = f" ({spec.job_name})" if spec.job_name else ""
    tasks = "" if spec.array is None else f" of {_count(spec.array.tasks, 'task')}"
    what = f"{'job' if spec.array is None else 'array'} {event.number}{named}{tasks}"
    return f"{spec.user_id} of {spec.account} submitted {what}: {_wish(spec)}, {spec.priority.value}"


def _wish(spec: JobSpec) -> str:
    if not spec.gpu_count:
        return _count(spec.cpu_cores, "core")
    return _count(spec.gpu_count, f"{spec.gpu_type} GPU" if spec.gpu_type else "GPU")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _held(state: State, event: ev.JobHeld, actor: str) -> str:
    return f"{_job(state, event.job_id)} was held by {actor}{_because(event.reason)}"


def _released(state: State, event: ev.JobReleased, actor: str) -> str:
    job = _job(state, event.job_id)
    if event.begin_reached:
        return f"{job} may start from now on: what it waited for has come"
    return f"{job} was released by {actor}{_because(event.reason)}"


def _updated(state: State, event: ev.JobUpdated, actor: str) -> str:
    gets = [] if event.priority is UNSET else [f"priority {event.priority.value}"]
    if event.time_limit_s is not UNSET:
        gets.append(_time_limit(event.time_limit_s))
    return f"{_job(state, event.job_id)} was given {' and '.join(gets)} by {actor}{_because(event.reason)}"


def _time_limit(seconds: int) -> str:
    return f"a time limit of {span(seconds)}" if seconds else "no time limit"


def _reserved(state: State, event: ev.JobReserved, actor: str) -> str:
    where = ", ".join(event.nodes)
    return f"{_job(state, event.job_id)} was planned for {where} from {moment(event.start_us)}"


_CAUSES: Final = {
    ev.Cause.PRIORITY: "its turn had come",
    ev.Cause.BACKFILL: "it filled a gap",
    ev.Cause.PREEMPTION: "others made way",
    ev.Cause.AGE: "it had waited for too long",
}


def _scheduled(state: State, event: ev.JobScheduled, actor: str) -> str:
    gpus = sum(len(one.gpu_ids) for one in event.allocation)
    what = _count(gpus, "GPU") if gpus else _count(sum(one.cpu_cores for one in event.allocation), "core")
    where = ", ".join(one.node for one in event.allocation)
    return f"{_job(state, event.job_id)} was given {what} on {where}: {_CAUSES[event.cause]}"


def _started(state: State, event: ev.JobStarted, actor: str) -> str:
    return f"{_job(state, event.job_id)} started, attempt {event.attempt}"


def _checkpointed(state: State, event: ev.CheckpointRecorded, actor: str) -> str:
    return f"{_job(state, event.job_id)} saved its work"


def _time_limit_reached(state: State, event: ev.TimeLimitReached, actor: str) -> str:
    limit = span(event.time_limit_s)
    return f"{_job(state, event.job_id)} reached its time limit of {limit} and is being stopped"


def _preemption_requested(state: State, event: ev.PreemptionRequested, actor: str) -> str:
    other = _other(state, event.by)
    return f"{_job(state, event.job_id)} was asked to make way for {other}{_because(event.reason)}"


def _overdue(state: State, event: ev.AllocationOverdue, actor: str) -> str:
    job, by = _job(state, event.job_id), moment(event.until_us)
    return f"what {job} holds should have been free by now, and is planned with by {by}"


def _requeue_requested(state: State, event: ev.RequeueRequested, actor: str) -> str:
    job = _job(state, event.job_id)
    return f"{job} is being stopped to go back to the queue, as {event.by} asked{_because(event.reason)}"


def _preempted(state: State, event: ev.JobPreempted, actor: str) -> str:
    job, other = _job(state, event.job_id), _other(state, event.by)
    return f"{job} was preempted by {other}; {_lost(event.lost_gpu_us)} lost"


def _lost(gpu_us: int) -> str:
    if gpu_us < _GPU_HOUR_US:
        return f"{span(gpu_us // SECOND_US)} of GPU time"
    return f"{gpu_us / _GPU_HOUR_US:.1f} GPU-hours"


def _erased(state: State, event: ev.BlobsErased, actor: str) -> str:
    kept = " but for what others need" if event.kept else ""
    gave = f"the environment and script of {_job(state, event.job_id)}"
    return f"{event.by} erased {gave}{kept}{_because(event.reason)}"


def _requeued(state: State, event: ev.JobRequeued, actor: str) -> str:
    later = f"; it waits until {moment(event.not_before_us)}" if event.not_before_us else ""
    return f"{_job(state, event.job_id)} went back to the queue{_because(event.reason)}{later}"


def _completed(state: State, event: ev.JobCompleted, actor: str) -> str:
    return f"{_job(state, event.job_id)} completed"


def _failed(state: State, event: ev.JobFailed, actor: str) -> str:
    return f"{_job(state, event.job_id)} failed{_because(event.reason)}"


def _cancelled(state: State, event: ev.JobCancelled, actor: str) -> str:
    return f"{_job(state, event.job_id)} was cancelled by {event.by}{_because(event.reason)}"


def _allocation_released(state: State, event: ev.AllocationReleased, actor: str) -> str:
    return f"what {_job(state, event.job_id)} held is free again"


# --- nodes, devices, bookings -------------------------------------------------------------------------


def _has(inventory: Inventory) -> str:
    kinds: dict[str, int] = {}
    for device in inventory.devices:
        kinds[device.gpu_type] = kinds.get(device.gpu_type, 0) + 1
    gpus = [f"{count} {kind}" for kind, count in kinds.items()]
    return ", ".join([*gpus, _count(inventory.cpu_cores, "core")])


def _node_registered(state: State, event: ev.NodeRegistered, actor: str) -> str:
    return f"node {event.node} joined with {_has(event.inventory)}"


def _node_changed(state: State, event: ev.NodeChanged, actor: str) -> str:
    return f"node {event.node} came back changed, with {_has(event.inventory)}"


def _node_lost(state: State, event: ev.NodeLost, actor: str) -> str:
    return f"node {event.node} was lost{_because(event.reason)}"


def _node_cordoned(state: State, event: ev.NodeCordoned, actor: str) -> str:
    if event.drain:
        by = f" by {moment(event.deadline_us)}" if event.deadline_us else ""
        return f"node {event.node} is to be emptied{by}, as {event.by} asked{_because(event.reason)}"
    return f"node {event.node} takes no new work, as {event.by} asked{_because(event.reason)}"


def _node_resumed(state: State, event: ev.NodeResumed, actor: str) -> str:
    return f"node {event.node} takes work again, as {event.by} asked{_because(event.reason)}"


def _device_failed(state: State, event: ev.DeviceFailed, actor: str) -> str:
    gpu = f"GPU {event.device} of {event.node}"
    return f"{gpu} is not to be used any more, says {event.by}{_because(event.reason)}"


def _device_recovered(state: State, event: ev.DeviceRecovered, actor: str) -> str:
    gpu = f"GPU {event.device} of {event.node}"
    return f"{gpu} may be used again, says {event.by}{_because(event.reason)}"


def _booking_made(state: State, event: ev.BookingMade, actor: str) -> str:
    when = f"from {moment(event.start_us)} to {moment(event.end_us)}"
    return f"{event.by} booked {', '.join(event.nodes)} {when}{_because(event.reason)}"


def _booking_ended(state: State, event: ev.BookingEnded, actor: str) -> str:
    if event.cycle:
        return f"the time of booking {event.booking} is over"
    return f"booking {event.booking} was ended by {event.by}{_because(event.reason)}"


# --- shares, policy, the system -----------------------------------------------------------------------


def _share_set(event: ev.ShareSet, actor: str, before: int | None) -> str:
    kind = "user" if event.user else "account"
    weight = f"weight {_instead(event.weight, before)}"
    return f"{kind} {event.path} was given {weight} by {actor}{_because(event.reason)}"


def _instead(now: object, before: object | None) -> str:
    """A value, and the one whose place it took, if that is known and was another."""
    return text(now) if before in (None, now) else f"{text(now)} instead of {text(before)}"


def _quota_set(event: ev.QuotaSet, actor: str, before: tuple[int, int] | None) -> str:
    most_before, ours_before = (None, None) if before is None else before
    most = _instead(_most(event.max_gpus), None if most_before is None else _most(most_before))
    ours = ""
    if event.guaranteed_gpus or ours_before:
        ours = f" and is guaranteed {_instead(event.guaranteed_gpus, ours_before)}"
    return f"account {event.path} may hold {most}{ours}, as {actor} set{_because(event.reason)}"


def _most(max_gpus: int) -> str:
    return "any number of GPUs" if max_gpus == UNLIMITED else f"{_count(max_gpus, 'GPU')} at most"


def _policy_set(event: ev.PolicySet, actor: str, before: Policy | None) -> str:
    policy, version = event.policy, f"the policy became version {event.version}"
    changed = ""
    if before is not None:
        differing = [
            f"{name} {_instead(getattr(policy, name), getattr(before, name))}"
            for name in policy.__struct_fields__
            if getattr(policy, name) != getattr(before, name)
        ]
        changed = f" with {', '.join(differing)}" if differing else ", with what holds by default"
    return f"{version}{changed}, set by {event.by}{_because(event.reason)}"


def _leader_elected(state: State, event: ev.LeaderElected, actor: str) -> str:
    who = f"Horizon {event.version} on {event.host} (process {event.pid})"
    return f"{who} leads in epoch {event.epoch}"


def _signing_key_set(state: State, event: ev.SigningKeySet, actor: str) -> str:
    return f"checkpoints of the log are signed with {event.key} from here on"


def _partition_archived(state: State, event: ev.PartitionArchived, actor: str) -> str:
    return f"{event.by} archived events {event.first} to {event.last} in {event.file}{_because(event.reason)}"


_ASKS: Final = {
    "Cancel": "to cancel",
    "Update": "to change",
    "Requeue": "to requeue",
    "Erase": "to erase what was given to",
    "SetPolicy": "to change",
    "SetShare": "to change",
    "CordonNode": "to cordon",
    "ResumeNode": "to resume",
    "FailDevice": "to take out",
    "RecoverDevice": "to use again",
    "Book": "to make",
    "EndBooking": "to end",
    "RecordArchive": "to archive the log of",
}


def _command_refused(state: State, event: ev.CommandRefused, actor: str) -> str:
    kind, _, name = event.target.partition("/")
    target = _job(state, name) if kind == "job" else f"{kind} {name}" if name else f"the {kind}"
    asked = f"{event.by} asked {_ask(event, target)}{_because(event.reason)}"
    return f"{asked}; that was refused: {event.detail}"


def _ask(event: ev.CommandRefused, target: str) -> str:
    """What was asked for: ``to give job 7 priority Low and to hold it``, ``to cordon node a (drain yes)``."""
    asked = event.asked
    if event.command != "Update" or not asked:
        fields = ", ".join(f"{name} {text(value)}" for name, value in asked.items())
        return f"{_ASKS[event.command]} {target}" + (f" ({fields})" if fields else "")
    gets = [f"priority {asked['priority']}"] if "priority" in asked else []
    gets += [_time_limit(int(asked["time_limit_s"]))] if "time_limit_s" in asked else []  # type: ignore[arg-type]
    wishes = [f"to give {target} {' and '.join(gets)}"] if gets else []
    if "hold" in asked:
        wishes.append(f"to {'hold' if asked['hold'] else 'release'} {'it' if gets else target}")
    return " and ".join(wishes)


_SENTENCES: Final[dict[type[ev.Event], Callable[[State, Any, str], str]]] = {
    ev.JobSubmitted: _submitted,
    ev.JobHeld: _held,
    ev.JobReleased: _released,
    ev.JobUpdated: _updated,
    ev.JobReserved: _reserved,
    ev.JobScheduled: _scheduled,
    ev.JobStarted: _started,
    ev.CheckpointRecorded: _checkpointed,
    ev.TimeLimitReached: _time_limit_reached,
    ev.PreemptionRequested: _preemption_requested,
    ev.AllocationOverdue: _overdue,
    ev.RequeueRequested: _requeue_requested,
    ev.JobPreempted: _preempted,
    ev.JobRequeued: _requeued,
    ev.JobCompleted: _completed,
    ev.JobFailed: _failed,
    ev.JobCancelled: _cancelled,
    ev.AllocationReleased: _allocation_released,
    ev.BlobsErased: _erased,
    ev.NodeRegistered: _node_registered,
    ev.NodeChanged: _node_changed,
    ev.NodeLost: _node_lost,
    ev.NodeCordoned: _node_cordoned,
    ev.NodeResumed: _node_resumed,
    ev.DeviceFailed: _device_failed,
    ev.DeviceRecovered: _device_recovered,
    ev.BookingMade: _booking_made,
    ev.BookingEnded: _booking_ended,
    ev.LeaderElected: _leader_elected,
    ev.SigningKeySet: _signing_key_set,
    ev.PartitionArchived: _partition_archived,
    ev.CommandRefused: _command_refused,
}
_SETTINGS: Final[dict[type[ev.Event], Callable[[Any, str, Any], str]]] = {
    ev.ShareSet: _share_set,
    ev.QuotaSet: _quota_set,
    ev.PolicySet: _policy_set,
}
"""Of what takes the place of something: told with that, where it is known."""
