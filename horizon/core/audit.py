"""Whether an event may follow from the state before it: the rules of the log, asked of every event again.

``decide`` and ``schedule`` never write anything else; this is for a log that somebody else may have written.
It asks whether a thing can be, not whether it was the best choice: that is what running a cycle again is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from horizon.core import events as ev
from horizon.core.admission import task_ids
from horizon.core.model import (
    CANCELLED,
    COMPLETED,
    FAILED,
    LEGAL_MOVES,
    PREEMPTED,
    QUEUED,
    RUNNING,
    SCHEDULED,
    JobState,
)
from horizon.core.state import Job, State

_MOVES_TO: Final[dict[type[ev.Event], JobState]] = {
    ev.JobScheduled: SCHEDULED,
    ev.JobStarted: RUNNING,
    ev.JobPreempted: PREEMPTED,
    ev.JobRequeued: QUEUED,
    ev.JobCompleted: COMPLETED,
    ev.JobFailed: FAILED,
    ev.JobCancelled: CANCELLED,
}
_ENDED: Final = frozenset({COMPLETED, FAILED, CANCELLED})
_ALIVE: Final = frozenset(state for state, moves in LEGAL_MOVES.items() if moves)
_HAPPENS_WHILE: Final[dict[type[ev.Event], frozenset[JobState]]] = {
    ev.JobHeld: frozenset({QUEUED}),
    ev.JobReleased: frozenset({QUEUED}),
    ev.JobUpdated: _ALIVE,
    ev.JobReserved: frozenset({QUEUED}),
    ev.CheckpointRecorded: frozenset({RUNNING}),
    ev.AllocationOverdue: frozenset(LEGAL_MOVES),
    ev.TimeLimitReached: frozenset({RUNNING}),
    ev.PreemptionRequested: frozenset({RUNNING}),
    ev.RequeueRequested: frozenset({SCHEDULED, RUNNING}),
    ev.AllocationReleased: frozenset({QUEUED, PREEMPTED, *_ENDED}),
    ev.BlobsErased: _ENDED,
}
"""Of what leaves a job in the state that it is in."""
_OF_ARRAYS: Final = (
    ev.JobHeld,
    ev.JobReleased,
    ev.JobUpdated,
    ev.JobFailed,
    ev.JobCancelled,
    ev.BlobsErased,
)


def fault(state: State, recorded: ev.Recorded) -> str | None:
    """What is wrong with this event as the next one, in a sentence; None for a lawful one. O(1), or O(what it
    names)."""
    return next(_faults(state, recorded), None)


def _faults(state: State, recorded: ev.Recorded) -> Iterator[str]:
    event = recorded.event
    if recorded.recorded_at_us < state.recorded_at_us:
        yield "time goes back"
    if not 0 <= recorded.causation <= state.position:
        yield f"its cause, {recorded.causation}, comes after it"
    yield from _epoch_faults(state, recorded)
    if event.stream != recorded.stream:
        yield f"it belongs to {event.stream} and is filed under {recorded.stream}"
    version = 0 if type(event) is ev.JobSubmitted else state.stream_version(recorded.stream)
    if recorded.stream_version != version + 1:
        yield f"{recorded.stream} goes from version {version} to {recorded.stream_version}"
    if type(event) is ev.JobSubmitted:
        yield from _submission_faults(state, event)
    elif isinstance(event, ev.JobEvent):
        yield from _job_faults(state, recorded, event)
    else:
        look = _ELSE.get(type(event))
        if look is not None:
            yield from look(state, event)


def _epoch_faults(state: State, recorded: ev.Recorded) -> Iterator[str]:
    event, epoch = recorded.event, recorded.epoch
    if epoch < state.epoch:
        yield f"epoch {epoch} comes after epoch {state.epoch}"
    elif type(event) is ev.LeaderElected:
        if event.epoch != epoch or epoch == state.epoch:
            yield f"the leader of epoch {event.epoch} is elected in epoch {epoch}, after epoch {state.epoch}"
    elif epoch != state.epoch:
        yield f"epoch {epoch} begins without the election of its leader"


# --- jobs ---------------------------------------------------------------------------------------------


def _submission_faults(state: State, event: ev.JobSubmitted) -> Iterator[str]:
    if event.number != state.next_number:
        yield f"job {event.number} comes where job {state.next_number} is due"
    ids = [event.job_id]
    if event.spec.array is not None:
        id_of = task_ids(event.job_id)
        ids += [id_of(place) for place in range(event.spec.array.tasks)]
    if any(id in state.jobs for id in ids):
        yield f"the id of job {event.number} is taken"
    for dependency in event.spec.depends_on:
        if dependency.job_id not in state.jobs:
            yield f"job {event.number} depends on {dependency.job_id}, which was never submitted"


def _job_faults(state: State, recorded: ev.Recorded, event: ev.JobEvent) -> Iterator[str]:
    job, kind = state.jobs.get(event.job_id), type(event)
    if job is None:
        yield f"job {event.job_id} was never submitted"
        return
    if recorded.correlation_id != job.correlation_id:
        yield f"it does not belong to the story of job {job.number}"
    array = state.arrays.get(job.number)
    if array is not None:
        if kind not in _OF_ARRAYS:
            yield f"{kind.__name__} cannot happen to job {job.number}, an array"
        ended = all(task.state.ended for task in state.tasks(array))
        if ended is not (kind is ev.BlobsErased):
            has = "has" if ended else "has not"
            yield f"{kind.__name__} happens to job {job.number}, an array that {has} ended"
        return  # its tasks are asked which of them it concerns
    after = _MOVES_TO.get(kind)
    legal = after in LEGAL_MOVES[job.state] if after else job.state in _HAPPENS_WHILE[kind]
    if not legal:
        yield f"{kind.__name__} cannot happen to job {job.number}, which is {job.state}"
    yield from _attempt_faults(job, event)
    if isinstance(event, ev.JobScheduled):
        yield from _placement_faults(state, job, event)
    elif isinstance(event, ev.AllocationReleased | ev.AllocationOverdue) and job.allocation_state is None:
        yield f"{kind.__name__} is said of job {job.number}, which holds nothing"
    elif isinstance(event, ev.PreemptionRequested) and not (
        event.by in state.jobs and all(name in state.nodes for name in event.nodes)
    ):
        yield f"job {job.number} makes way for a job, or on a node, that is not there"


def _attempt_faults(job: Job, event: ev.JobEvent) -> Iterator[str]:
    attempt = getattr(event, "attempt", None)
    if attempt is None or (isinstance(event, ev.JobFailed) and job.state is QUEUED):
        return
    expected = job.attempt + isinstance(event, ev.JobScheduled)
    if attempt != expected:
        yield f"it is about attempt {attempt} of job {job.number}, where {expected} is due"


def _placement_faults(state: State, job: Job, event: ev.JobScheduled) -> Iterator[str]:
    if job.allocation_state is not None:
        yield f"job {job.number} gets an allocation while it has one"
    if not job.eligible:
        yield f"job {job.number} is given a place while something keeps it from starting"
    gpu_ids = [uuid for placement in event.allocation for uuid in placement.gpu_ids]
    if len(set(gpu_ids)) != len(gpu_ids) or len(gpu_ids) != job.spec.gpu_count:
        yield f"job {job.number} asks for {job.spec.gpu_count} GPUs and is given {len(set(gpu_ids))}"
    names = [placement.node for placement in event.allocation]
    if not names or len(set(names)) != len(names):
        yield f"job {job.number} is given nothing, or two places on one node"
    for placement in event.allocation:
        node = state.nodes.get(placement.node)
        if node is None or node.lost:
            yield f"job {job.number} is placed on {placement.node}, which is not there"
            continue
        # A node that came back with less may have less than none free; who asks for none still fits there.
        cores, memory_mib = max(0, node.cores_free), max(0, node.memory_free_mib)
        if placement.cpu_cores > cores or placement.memory_mib > memory_mib:
            yield f"job {job.number} is given more cores or memory than are free on {placement.node}"
        for uuid in placement.gpu_ids:
            if uuid not in node.slots:
                yield f"job {job.number} is given {uuid}, which is not on {placement.node}"
            elif uuid in state.devices.holders:
                holder = state.jobs[state.devices.holders[uuid]].number
                yield f"job {job.number} is given {uuid}, which job {holder} holds"


# --- everything else ----------------------------------------------------------------------------------


def _node_faults(state: State, event: Any) -> Iterator[str]:
    if event.node not in state.nodes:
        yield f"node {event.node} was never registered"


def _inventory_faults(state: State, event: ev.NodeRegistered | ev.NodeChanged) -> Iterator[str]:
    if event.inventory.name != event.node:
        yield f"node {event.node} has the inventory of {event.inventory.name}"


def _booking_faults(state: State, event: ev.BookingMade) -> Iterator[str]:
    if event.booking in state.bookings or any(name not in state.nodes for name in event.nodes):
        yield f"booking {event.booking} is made twice, or of a node that was never registered"


def _end_faults(state: State, event: ev.BookingEnded) -> Iterator[str]:
    if event.booking not in state.bookings:
        yield f"booking {event.booking} ends, and is not there"


def _policy_faults(state: State, event: ev.PolicySet) -> Iterator[str]:
    if event.version != state.policy_version + 1:
        yield f"the policy goes from version {state.policy_version} to {event.version}"


def _refusal_faults(state: State, event: ev.CommandRefused) -> Iterator[str]:
    if not state.stream_version(event.target):
        yield f"it refuses a change of {event.target}, of which nothing is known"


def _archive_faults(state: State, event: ev.PartitionArchived) -> Iterator[str]:
    if event.first > state.archived_to + 1 or not event.first <= event.last <= state.position:
        yield f"events {event.first} to {event.last} are archived, behind {state.archived_to}"


_ELSE: Final[dict[type[ev.Event], Callable[[State, Any], Iterator[str]]]] = {
    ev.NodeRegistered: _inventory_faults,
    ev.NodeChanged: _inventory_faults,
    ev.NodeLost: _node_faults,
    ev.NodeCordoned: _node_faults,
    ev.NodeResumed: _node_faults,
    ev.BookingMade: _booking_faults,
    ev.BookingEnded: _end_faults,
    ev.PolicySet: _policy_faults,
    ev.PartitionArchived: _archive_faults,
    ev.CommandRefused: _refusal_faults,
}
