"""Folds events into state. ``evolve`` never refuses: what is in the log has happened.

Each job event is two small steps: what it does to the job itself (``_JOB``, also used to foresee the answer
to a command before it is durable) and what it does to everything that is indexed by jobs (``_AROUND``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Final

from msgspec import UNSET

from horizon.core import events as ev
from horizon.core.model import AllocationState, Exit, JobSpec, JobState
from horizon.core.state import Job, Node, Shape, Share, State, Stop


def evolve(state: State, recorded: ev.Recorded) -> None:
    """Fold one event. Amortised O(1), but for the queue's and the share tree's O(log)."""
    assert recorded.position == state.position + 1, "the log has a gap"
    event = recorded.event
    state.position = recorded.position
    state.recorded_at_us = recorded.recorded_at_us
    state.epoch = recorded.epoch
    kind = type(event)
    if kind is ev.JobSubmitted:
        _submitted(state, recorded, event)  # type: ignore[arg-type]
        return
    step = _JOB.get(kind)
    if step is None:
        state.versions[recorded.stream] = recorded.stream_version
        _ELSE[kind](state, event)
        return
    job = state.jobs[event.job_id]  # type: ignore[attr-defined]
    was = job.state
    step(job, event, recorded.recorded_at_us)
    job.version = recorded.stream_version
    job.positions.append(recorded.position)
    if job.state is not was:
        state.counts[was] -= 1
        state.counts[job.state] += 1
    _AROUND[kind](state, job, event)
    if state.deadlines or state.begins:
        _drop_stale(state)


def foresee(job: Job, events: Iterable[ev.Event], now_us: int) -> Job:
    """The job as it will be once these events of its own are in the log, recorded at ``now_us``."""
    job = copy.copy(job)
    for event in events:
        _JOB[type(event)](job, event, now_us)
        job.version += 1
    return job


def new_job(
    event: ev.JobSubmitted, correlation_id: bytes, at_us: int, share: int = -1, shape: int = -1
) -> Job:
    """The job that a submission makes."""
    spec = event.spec
    return Job(
        event.job_id,
        event.number,
        spec,
        correlation_id,
        at_us,
        spec.priority,
        spec.time_limit_s,
        share,
        shape,
        spec.hold,
        spec.begin_at_us > at_us,
    )


# --- submission ---------------------------------------------------------------------------------------


def _submitted(state: State, recorded: ev.Recorded, event: ev.JobSubmitted) -> None:
    spec = event.spec
    share = state.users.get((spec.account, spec.user_id)) or _add_user(state, spec.account, spec.user_id)
    job = new_job(event, recorded.correlation_id, recorded.recorded_at_us, share.id, _shape(state, spec))
    job.positions = [recorded.position]
    assert event.number == len(state.numbered) + 1, "job numbers have a gap"
    state.jobs[job.id] = job
    state.numbered.append(job)
    state.counts[JobState.QUEUED] += 1
    if job.begin_pending:
        heappush(state.begins, (spec.begin_at_us, job.number))
    elif not job.held:
        state.queue.enqueue(job.number, job.priority.rank, job.share, job.shape)


def _shape(state: State, spec: JobSpec) -> int:
    fields = (
        spec.gpu_count,
        spec.gpu_type,
        spec.gpu_memory_mib,
        spec.cpu_cores,
        spec.memory_mib,
        spec.nodes,
        spec.exclusive,
        tuple(sorted(spec.constraints.items())) if spec.constraints else (),
    )
    found = state.shape_ids.get(fields)
    if found is None:
        shape = Shape(*fields)
        found = state.shape_ids[fields] = state.queue.add_shape(shape.rate)
        state.shapes.append(shape)
    return found


def _add_share(state: State, path: str, user: bool, parent: int) -> Share:
    share = Share(id=state.queue.add_share(parent), path=path, user=user, parent=parent)
    state.shares.append(share)
    return share


def _account(state: State, path: str) -> Share:
    share = state.accounts.get(path)
    if share is None:
        above, _, _ = path.rpartition("/")
        parent = _account(state, above).id if above else 0
        share = state.accounts[path] = _add_share(state, path, False, parent)
    return share


def _add_user(state: State, account: str, user_id: str) -> Share:
    parent = _account(state, account)
    share = state.users[account, user_id] = _add_share(state, f"{account}/{user_id}", True, parent.id)
    return share


# --- what an event does to the job itself -------------------------------------------------------------


def _held(job: Job, event: ev.JobHeld, at_us: int) -> None:
    job.held = True


def _released(job: Job, event: ev.JobReleased, at_us: int) -> None:
    if event.begin_reached:
        job.begin_pending = False
    else:
        job.held = False


def _updated(job: Job, event: ev.JobUpdated, at_us: int) -> None:
    if event.priority is not UNSET:
        job.priority = event.priority
    if event.time_limit_s is not UNSET:
        job.time_limit_s = event.time_limit_s


def _scheduled(job: Job, event: ev.JobScheduled, at_us: int) -> None:
    job.state = JobState.SCHEDULED
    job.attempt = event.attempt
    job.allocation = event.allocation
    job.allocation_state = AllocationState.HELD
    job.scheduled_at_us = at_us
    job.started_at_us = 0
    job.exit_code = job.signal = None
    job.reason = ""


def _started(job: Job, event: ev.JobStarted, at_us: int) -> None:
    job.state = JobState.RUNNING
    job.started_at_us = at_us


def _time_limit_reached(job: Job, event: ev.TimeLimitReached, at_us: int) -> None:
    job.stop = Stop.TIME_LIMIT


def _preemption_requested(job: Job, event: ev.PreemptionRequested, at_us: int) -> None:
    job.stop = Stop.PREEMPTION
    job.stopped_by = event.by


def _preempted(job: Job, event: ev.JobPreempted, at_us: int) -> None:
    job.state = JobState.PREEMPTED
    job.reason = f"preempted by {event.by}"
    job.allocation_state = AllocationState.RELEASING


def _requeued(job: Job, event: ev.JobRequeued, at_us: int) -> None:
    job.state = JobState.QUEUED
    job.reason = event.reason
    job.stop = None
    job.stopped_by = ""
    job.retries_used += event.cause is ev.RequeueCause.RETRY
    job.attempts_lost += event.cause is ev.RequeueCause.LOST
    _take_exit(job, event.exit)
    if job.allocation_state is not None:
        job.allocation_state = AllocationState.RELEASING


def _ended(job: Job, state: JobState, exit: Exit | None, reason: str, at_us: int) -> None:
    job.state = state
    job.completed_at_us = at_us
    job.reason = reason
    job.held = job.begin_pending = False
    _take_exit(job, exit)
    if job.allocation_state is not None:
        job.allocation_state = AllocationState.RELEASING


def _take_exit(job: Job, exit: Exit | None) -> None:
    if exit is not None:
        job.exit_code, job.signal = exit.exit_code, exit.signal


def _completed(job: Job, event: ev.JobCompleted, at_us: int) -> None:
    _ended(job, JobState.COMPLETED, event.exit, "", at_us)


def _failed(job: Job, event: ev.JobFailed, at_us: int) -> None:
    _ended(job, JobState.FAILED, event.exit, event.reason, at_us)


def _cancelled(job: Job, event: ev.JobCancelled, at_us: int) -> None:
    reason = f"cancelled by {event.by}" + (f": {event.reason}" if event.reason else "")
    _ended(job, JobState.CANCELLED, None, reason, at_us)


def _allocation_released(job: Job, event: ev.AllocationReleased, at_us: int) -> None:
    job.allocation_state = None
    _take_exit(job, event.exit)


# --- what it does to everything around it -------------------------------------------------------------


def _nothing_around(state: State, job: Job, event: Any) -> None:
    pass


def _enter_queue(state: State, job: Job, event: Any) -> None:
    if job.eligible and job.number not in state.queue:
        state.queue.enqueue(job.number, job.priority.rank, job.share, job.shape)


def _leave_queue(state: State, job: Job, event: Any) -> None:
    state.queue.remove(job.number)


def _updated_around(state: State, job: Job, event: ev.JobUpdated) -> None:
    if event.priority is not UNSET and job.number in state.queue:
        state.queue.set_priority(job.number, job.priority.rank)
    if event.time_limit_s is not UNSET and job.state is JobState.RUNNING:
        _set_deadline(state, job, event)


def _set_deadline(state: State, job: Job, event: Any) -> None:
    if job.time_limit_s:
        at_us = job.started_at_us + job.time_limit_s * 1_000_000
        heappush(state.deadlines, (at_us, job.number, job.attempt))


def _drop_stale(state: State) -> None:
    """Keep the next deadline and the next begin true: what has been overtaken leaves when it surfaces."""
    while state.deadlines:
        at_us, number, attempt = state.deadlines[0]
        job = state.numbered[number - 1]
        if (
            job.state is JobState.RUNNING
            and job.attempt == attempt
            and job.stop is None
            and at_us == job.started_at_us + job.time_limit_s * 1_000_000
        ):
            break
        heappop(state.deadlines)
    while state.begins and not state.numbered[state.begins[0][1] - 1].begin_pending:
        heappop(state.begins)


def _scheduled_around(state: State, job: Job, event: ev.JobScheduled) -> None:
    state.cycle = event.cycle
    state.queue.remove(job.number)
    state.holding[job.id] = job
    _charge(state, job, 1)
    for placement in event.allocation:
        node = state.nodes[placement.node]
        node.jobs[job.id] = job.spec.exclusive
        node.cores_held += placement.cpu_cores
        node.memory_held_mib += placement.memory_mib
        for gpu_id in placement.gpu_ids:
            state.holders[gpu_id] = job.id


def _released_around(state: State, job: Job, event: ev.AllocationReleased) -> None:
    del state.holding[job.id]
    _charge(state, job, -1)
    for placement in job.allocation:
        node = state.nodes[placement.node]
        del node.jobs[job.id]
        node.cores_held -= placement.cpu_cores
        node.memory_held_mib -= placement.memory_mib
        for gpu_id in placement.gpu_ids:
            del state.holders[gpu_id]
    _enter_queue(state, job, event)


def _charge(state: State, job: Job, sign: int) -> None:
    """Begin (+1) or end (-1) charging the job's owner for what it holds, as of the last recorded event."""
    rate = state.shapes[job.shape].rate
    if sign > 0:
        state.queue.hold(job.share, rate, state.recorded_at_us)
    else:
        state.queue.release(job.share, rate, state.recorded_at_us)
    share = state.shares[job.share]
    while True:
        share.gpus_held += sign * job.spec.gpu_count
        if share.parent < 0:
            return
        share = state.shares[share.parent]


# --- nodes, shares, the system ------------------------------------------------------------------------


def _node_registered(state: State, event: ev.NodeRegistered | ev.NodeChanged) -> None:
    node = state.nodes.get(event.node)
    if node is None:
        node = state.nodes[event.node] = Node(inventory=event.inventory)
    node.inventory = event.inventory
    node.lost, node.lost_reason = False, ""
    node.version += 1


def _node_lost(state: State, event: ev.NodeLost) -> None:
    node = state.nodes[event.node]
    node.lost, node.lost_reason = True, event.reason
    node.version += 1


def _share_set(state: State, event: ev.ShareSet) -> None:
    if event.user:
        account, _, user_id = event.path.rpartition("/")
        share = state.users.get((account, user_id)) or _add_user(state, account, user_id)
    else:
        share = _account(state, event.path)
    state.queue.set_weight(share.id, event.weight)


def _leader_elected(state: State, event: ev.LeaderElected) -> None:
    pass  # the envelope's epoch says it all


_JOB: Final[dict[type[ev.Event], Callable[[Job, Any, int], None]]] = {
    ev.JobHeld: _held,
    ev.JobReleased: _released,
    ev.JobUpdated: _updated,
    ev.JobScheduled: _scheduled,
    ev.JobStarted: _started,
    ev.TimeLimitReached: _time_limit_reached,
    ev.PreemptionRequested: _preemption_requested,
    ev.JobPreempted: _preempted,
    ev.JobRequeued: _requeued,
    ev.JobCompleted: _completed,
    ev.JobFailed: _failed,
    ev.JobCancelled: _cancelled,
    ev.AllocationReleased: _allocation_released,
}
_AROUND: Final[dict[type[ev.Event], Callable[[State, Job, Any], None]]] = {
    ev.JobHeld: _leave_queue,
    ev.JobReleased: _enter_queue,
    ev.JobUpdated: _updated_around,
    ev.JobScheduled: _scheduled_around,
    ev.JobStarted: _set_deadline,
    ev.TimeLimitReached: _nothing_around,
    ev.PreemptionRequested: _nothing_around,
    ev.JobPreempted: _nothing_around,
    ev.JobRequeued: _enter_queue,
    ev.JobCompleted: _nothing_around,
    ev.JobFailed: _leave_queue,
    ev.JobCancelled: _leave_queue,
    ev.AllocationReleased: _released_around,
}
_ELSE: Final[dict[type[ev.Event], Callable[[State, Any], None]]] = {
    ev.NodeRegistered: _node_registered,
    ev.NodeChanged: _node_registered,
    ev.NodeLost: _node_lost,
    ev.ShareSet: _share_set,
    ev.LeaderElected: _leader_elected,
}
