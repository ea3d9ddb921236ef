"""Folds events into state. ``evolve`` never refuses: what is in the log has happened.

Each job event is two small steps: what it does to the job itself, also used to foresee the answer to a
command before it is durable, and what it does to everything that is indexed by jobs. An event on an array is
one on each of its tasks that it can concern.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Final

from msgspec import UNSET

from horizon.core import events as ev
from horizon.core import limits
from horizon.core.admission import account_share, admit, shape_of, user_share
from horizon.core.charges import rate_of
from horizon.core.dependencies import enter_queue, tell_dependents
from horizon.core.inventory import (
    book_nodes,
    expect_end,
    free_what_it_held,
    hold_what_it_got,
    join,
    rejoin_all,
    set_device,
    set_node_state,
    unbook_nodes,
)
from horizon.core.model import (
    CANCELLED,
    COMPLETED,
    FAILED,
    HELD,
    PREEMPTED,
    QUEUED,
    RELEASING,
    RUNNING,
    SCHEDULED,
    Exit,
    JobState,
)
from horizon.core.state import (
    OVERDUE_AFTER_US,
    SECOND_US,
    ArrayState,
    Booking,
    Claim,
    Fault,
    Job,
    Node,
    State,
    Stop,
)

Moment = tuple[int, int, int]
"""A time, a job's number, an attempt."""
STALE_MAX: Final = 1_024
"""Entries of a heap that may be stale beyond as many as there are jobs that hold something, twice over."""


def evolve(state: State, recorded: ev.Recorded) -> None:
    """Fold one event. Amortised O(1), but for the O(log) of queue and share tree, and an array's tasks."""
    assert recorded.position == state.position + 1, "the log has a gap"
    event = recorded.event
    state.position = recorded.position
    state.recorded_at_us = recorded.recorded_at_us
    state.epoch = recorded.epoch
    kind = type(event)
    if kind is ev.JobSubmitted:
        admit(state, recorded, event)  # type: ignore[arg-type]
        return
    steps = _JOB.get(kind)
    if steps is None:
        state.versions[recorded.stream] = recorded.stream_version
        _ELSE[kind](state, event)
        return
    job = state.jobs[event.job_id]  # type: ignore[attr-defined]
    job.version = recorded.stream_version
    job.positions.append(recorded.position)
    array = state.arrays.get(job.number) if state.arrays else None
    step, around = steps
    for one in (job,) if array is None else _concerned(state, array, event, step):
        was = one.state
        step(one, event, recorded.recorded_at_us)
        if one.state is not was:
            state.counts[was] -= 1
            state.counts[one.state] += 1
            if one.array:
                _count_task(state, state.arrays[one.array], one, was)
        if around is not None:
            around(state, one, event)
    if state.deadlines or state.begins:
        _drop_stale(state)


ToJob = Callable[[Job, Any, int], None]
Around = Callable[[State, Job, Any], None]
Steps = tuple[ToJob, Around | None]


def _concerned(state: State, array: ArrayState, event: ev.Event, step: ToJob) -> Iterator[Job]:
    """What is said of an array holds for its tasks: a hold for those that wait, all else for those alive."""
    waiting_only = type(event) in (ev.JobHeld, ev.JobReleased)
    step(array.job, event, state.recorded_at_us)
    for task in state.tasks(array):
        if task.state is QUEUED if waiting_only else not task.state.ended:
            task.version += 1
            task.positions.append(state.position)
            yield task


def foresee(job: Job, events: Iterable[ev.Event], now_us: int) -> Job:
    """The job as it will be once these events of its own are in the log, recorded at ``now_us``."""
    job = copy.copy(job)
    for event in events:
        _JOB[type(event)][0](job, event, now_us)
        job.version += 1
    return job


# --- the state of an array, by what became of its tasks -----------------------------------------------


def _count_task(state: State, array: ArrayState, task: Job, was: JobState) -> None:
    counts, job = array.counts, array.job
    counts[was] -= 1
    counts[task.state] += 1
    at_us = state.recorded_at_us
    job.scheduled_at_us = job.scheduled_at_us or task.scheduled_at_us
    started = task.state is RUNNING and not job.ran
    if started:
        job.started_at_us, job.ran = at_us, True
    ended = sum(counts[one] for one in _ENDS) == array.total
    if ended:
        job.state = next(one for one in _ENDS if counts[one])
        job.completed_at_us = at_us
        job.held = job.begin_pending = False
    else:
        job.state = QUEUED if not any(counts[one] for one in _ALIVE) else RUNNING
    if started or ended:
        tell_dependents(state, job)
    if ended:
        state.doomed.pop(job.number, None)


_ENDS: Final = (CANCELLED, FAILED, COMPLETED)
"""How an array ended: as the worst of its tasks."""
_ALIVE: Final = (SCHEDULED, RUNNING, PREEMPTED)


# --- what an event does to the job itself -------------------------------------------------------------


def _held(job: Job, event: ev.JobHeld, at_us: int) -> None:
    job.held = True
    job.predicted_us = 0  # what keeps it now is no delay of what was planned


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


def _reserved(job: Job, event: ev.JobReserved, at_us: int) -> None:
    job.predicted_us = event.start_us
    job.predicted_at_us = at_us


def _scheduled(job: Job, event: ev.JobScheduled, at_us: int) -> None:
    job.state = SCHEDULED
    job.attempt = event.attempt
    job.allocation = event.allocation
    job.allocation_state = HELD
    job.scheduled_at_us = at_us
    job.started_at_us = 0
    job.exit_code = job.signal = None
    job.reason = ""


def _started(job: Job, event: ev.JobStarted, at_us: int) -> None:
    job.state = RUNNING
    job.ran = True
    job.started_at_us = job.saved_at_us = at_us


def _checkpointed(job: Job, event: ev.CheckpointRecorded, at_us: int) -> None:
    job.saved_at_us = at_us


def _overdue(job: Job, event: ev.AllocationOverdue, at_us: int) -> None:
    pass  # it goes on as before; only plans change


def _time_limit_reached(job: Job, event: ev.TimeLimitReached, at_us: int) -> None:
    job.stop = Stop.TIME_LIMIT


def _preemption_requested(job: Job, event: ev.PreemptionRequested, at_us: int) -> None:
    job.stop = Stop.PREEMPTION
    job.stopped_by = event.by


def _requeue_requested(job: Job, event: ev.RequeueRequested, at_us: int) -> None:
    job.stop = Stop.REQUEUE
    job.stopped_by = event.by


def _preempted(job: Job, event: ev.JobPreempted, at_us: int) -> None:
    job.state = PREEMPTED
    job.preempted += 1
    job.lost_gpu_us += event.lost_gpu_us
    job.allocation_state = RELEASING


def _requeued(job: Job, event: ev.JobRequeued, at_us: int) -> None:
    job.state = QUEUED
    job.reason = event.reason
    job.stop = None
    job.stopped_by = ""
    job.retries_used += event.cause is ev.RequeueCause.RETRY
    job.attempts_lost += event.cause in (ev.RequeueCause.LOST, ev.RequeueCause.DEVICE)
    job.avoid = tuple(dict.fromkeys((*job.avoid, *event.avoid)))
    if event.not_before_us > at_us:
        job.begin_at_us, job.begin_pending = event.not_before_us, True
    _take_exit(job, event.exit)
    if job.allocation_state is not None:
        job.allocation_state = RELEASING


def _ended(job: Job, state: JobState, exit: Exit | None, reason: str, at_us: int) -> None:
    job.state = state
    job.completed_at_us = at_us
    job.reason = reason
    job.held = job.begin_pending = False
    _take_exit(job, exit)
    if job.allocation_state is not None:
        job.allocation_state = RELEASING


def _take_exit(job: Job, exit: Exit | None) -> None:
    if exit is not None:
        job.exit_code, job.signal = exit.exit_code, exit.signal


def _completed(job: Job, event: ev.JobCompleted, at_us: int) -> None:
    _ended(job, COMPLETED, event.exit, "", at_us)


def _failed(job: Job, event: ev.JobFailed, at_us: int) -> None:
    _ended(job, FAILED, event.exit, event.reason, at_us)


def _cancelled(job: Job, event: ev.JobCancelled, at_us: int) -> None:
    reason = f"cancelled by {event.by}" + (f": {event.reason}" if event.reason else "")
    _ended(job, CANCELLED, None, reason, at_us)


def _allocation_released(job: Job, event: ev.AllocationReleased, at_us: int) -> None:
    job.allocation_state = None
    _take_exit(job, event.exit)


def _erased(job: Job, event: ev.BlobsErased, at_us: int) -> None:
    job.erased = True


# --- what it does to everything around it -------------------------------------------------------------


def _enter_queue(state: State, job: Job, event: Any) -> None:
    enter_queue(state, job)


def _leave_queue(state: State, job: Job, event: Any) -> None:
    state.queue.remove(job.number)
    state.claims.pop(job.number, None)


def _released_around_begin(state: State, job: Job, event: ev.JobReleased) -> None:
    state.cycle = event.cycle or state.cycle
    _enter_queue(state, job, event)


def _updated_around(state: State, job: Job, event: ev.JobUpdated) -> None:
    waits = job.number in state.queue
    if event.priority is not UNSET and waits:
        state.queue.set_priority(job.number, job.priority.rank)
    elif event.priority is not UNSET and job.spec.preemptible and job.allocation_state is not None:
        for jobs in state.preemptible:
            jobs.pop(job.id, None)
        state.preemptible[job.priority.rank][job.id] = job
    if event.time_limit_s is UNSET:
        return
    array = job.array if state.shapes[job.shape].array else 0
    job.shape = shape_of(state, job.spec, job.time_limit_s, state.shares[job.share].parent, array)
    if waits:
        state.queue.remove(job.number)
        state.queue.enqueue(job.number, job.priority.rank, job.share, job.shape)
    if job.allocation_state is HELD and job.stop is None:
        _expect_planned_end(state, job)
        _drop_what_came_back(state, job)
        if job.state is RUNNING:
            _set_deadline(state, job)


def _planned_end_us(state: State, job: Job) -> int:
    """When what it holds is expected back, if it goes on as planned."""
    limit_s = job.time_limit_s or state.policy.assumed_time_limit_s
    return (job.started_at_us or job.scheduled_at_us) + limit_s * SECOND_US


def _expect_planned_end(state: State, job: Job) -> None:
    end_us = _planned_end_us(state, job)
    if job.time_limit_s or not job.started_at_us:
        expect_end(state, job, end_us)
    else:
        _expect_back(state, job, end_us, job.started_at_us)


def _erased_around(state: State, job: Job, event: ev.BlobsErased) -> None:
    # A job at rest may be one of a snapshot that was decoded to be looked at: now it stands for itself again.
    state.jobs[job.id] = state.numbered[job.number - 1] = job


def _reserved_around(state: State, job: Job, event: ev.JobReserved) -> None:
    state.cycle = event.cycle or state.cycle


def _started_around(state: State, job: Job, event: ev.JobStarted) -> None:
    if job.stop is None:
        _expect_planned_end(state, job)
    _set_deadline(state, job)
    if state.dependents:
        tell_dependents(state, job)


def _set_deadline(state: State, job: Job) -> None:
    if job.time_limit_s:
        at_us = job.started_at_us + job.time_limit_s * SECOND_US
        heappush(state.deadlines, (at_us, job.number, job.attempt))
        if len(state.deadlines) > 2 * len(state.holding) + STALE_MAX:
            _compact(state.deadlines, state.is_deadline)


def _stopping_around(state: State, job: Job, event: Any) -> None:
    """It was asked to stop: by the end of its grace period it is gone."""
    state.cycle = event.cycle or state.cycle
    _leaves(state, job, state.recorded_at_us + job.spec.grace_period_s * SECOND_US)


def _leaves(state: State, job: Job, by_us: int) -> None:
    """What it holds, if anything, is free by then."""
    if job.allocation_state is not None:
        state.leaving[job.number] = job
        job.awaited_since_us = state.recorded_at_us
        expect_end(state, job, by_us)
        _drop_what_came_back(state, job)


def _expect_back(state: State, job: Job, by_us: int, since_us: int) -> None:
    """What it holds is expected back by then, and no time limit sees to it; a minute later it is overdue."""
    expect_end(state, job, by_us)
    job.awaited_since_us = since_us
    _drop_what_came_back(state, job)
    heappush(state.overdue, (by_us + OVERDUE_AFTER_US, job.number, job.attempt))
    if len(state.overdue) > 2 * len(state.holding) + STALE_MAX:
        _compact(state.overdue, state.is_overdue)


def _drop_what_came_back(state: State, job: Job) -> None:
    """Keep the next moment when something is overdue true, now that other things are expected of this job."""
    overdue = state.overdue
    if overdue and overdue[0][1] == job.number:
        while overdue and not state.is_overdue(*overdue[0]):
            heappop(overdue)


def _compact(heap: list[Moment], holds: Callable[[int, int, int], bool]) -> None:
    """Without stale entries, which would surface only when their time comes: there are never many more of
    them than of those that hold. Amortised O(1)."""
    heap[:] = [entry for entry in heap if holds(*entry)]
    heapify(heap)


def _overdue_around(state: State, job: Job, event: ev.AllocationOverdue) -> None:
    state.cycle = event.cycle or state.cycle
    state.leaving.pop(job.number, None)
    _await_no_longer(state, job)
    _expect_back(state, job, event.until_us, job.awaited_since_us)


def _await_no_longer(state: State, job: Job) -> None:
    """Nobody waits for this one to make way any more."""
    for claim in state.claims.values() if state.claims else ():
        if claim.victims.pop(job.id, None) and not claim.victims:
            claim.freed_cycle = state.cycle


def _preemption_around(state: State, job: Job, event: ev.PreemptionRequested) -> None:
    _stopping_around(state, job, event)
    other = state.jobs.get(event.by)
    if other is not None and event.nodes:
        claim = state.claims.setdefault(other.number, Claim(event.nodes, {}))
        claim.nodes = event.nodes
        claim.victims[job.id] = True
        for name in event.nodes:
            for id in state.nodes[name].jobs:
                if state.jobs[id].number in state.leaving:
                    claim.victims[id] = True


def _drop_stale(state: State) -> None:
    """Keep the next deadline and the next begin true: what has been overtaken leaves when it surfaces."""
    while state.deadlines and not state.is_deadline(*state.deadlines[0]):
        heappop(state.deadlines)
    while state.begins:
        at_us, number = state.begins[0]
        job = state.numbered[number - 1]
        if job.begin_pending and job.begin_at_us == at_us:
            break
        heappop(state.begins)


def _requeued_around(state: State, job: Job, event: ev.JobRequeued) -> None:
    if job.begin_pending:
        heappush(state.begins, (job.begin_at_us, job.number))
    if job.array:
        job.held = state.arrays[job.array].job.held
    _leaves(state, job, state.recorded_at_us)
    _enter_queue(state, job, event)


def _preempted_around(state: State, job: Job, event: Any) -> None:
    _leaves(state, job, state.recorded_at_us)


def _ended_around(state: State, job: Job, event: Any) -> None:
    """Its own processes have ended; what it holds is free when all are gone, any moment now."""
    _leaves(state, job, state.recorded_at_us)
    if state.dependents:
        tell_dependents(state, job)
    if state.doomed:
        state.doomed.pop(job.number, None)


def _dropped_around(state: State, job: Job, event: Any) -> None:
    if type(event) is ev.JobFailed:
        state.cycle = event.cycle or state.cycle
    _leave_queue(state, job, event)
    _ended_around(state, job, event)
    if type(event) is ev.JobCancelled:
        _leaves(state, job, state.recorded_at_us + job.spec.grace_period_s * SECOND_US)


def _scheduled_around(state: State, job: Job, event: ev.JobScheduled) -> None:
    state.cycle = event.cycle
    _leave_queue(state, job, event)
    state.holding[job.id] = job
    if job.spec.preemptible:
        state.preemptible[job.priority.rank][job.id] = job
    if job.array:
        state.arrays[job.array].active += 1
    if job.predicted_us:
        _score_estimate(state, job)
    hold_what_it_got(state, job, _planned_end_us(state, job))
    job.rate = _rate(state, job)
    state.queue.hold(job.share, job.rate, state.recorded_at_us)
    _count_gpus(state, job, 1)


def _rate(state: State, job: Job) -> int:
    """What the attempt costs, by the devices that it got."""
    spec = job.spec
    if not (spec.gpu_count and state.policy.gpu_cost):
        return state.shape_index.rates[job.shape]
    node = state.nodes[job.allocation[0].node]
    gpu_type = node.inventory.devices[node.slots[job.allocation[0].gpu_ids[0]]].gpu_type
    return rate_of(state.policy, spec.gpu_count, gpu_type, spec.cpu_cores, spec.memory_mib)


def _released_around(state: State, job: Job, event: ev.AllocationReleased) -> None:
    del state.holding[job.id]
    state.leaving.pop(job.number, None)
    if job.spec.preemptible:
        state.preemptible[job.priority.rank].pop(job.id, None)
    if job.array:
        state.arrays[job.array].active -= 1
    _await_no_longer(state, job)
    _drop_what_came_back(state, job)
    free_what_it_held(state, job)
    state.queue.release(job.share, job.rate, state.recorded_at_us)
    _count_gpus(state, job, -1)
    _enter_queue(state, job, event)


def _count_gpus(state: State, job: Job, sign: int) -> None:
    shares, change = state.shares, sign * job.spec.gpu_count
    share = shares[job.share]
    while change:
        share.gpus_held += change
        if share.parent < 0:
            return
        share = shares[share.parent]


def _score_estimate(state: State, job: Job) -> None:
    """Counts how far the first planned start was from the actual one."""
    estimates = state.estimates
    error_s = (job.scheduled_at_us - job.predicted_us) // SECOND_US
    late = job.scheduled_at_us > job.predicted_us
    size = abs(job.scheduled_at_us - job.predicted_us) // SECOND_US
    counts = estimates.late if late else estimates.early
    counts.extend([0] * (size.bit_length() + 1 - len(counts)))
    counts[size.bit_length()] += 1
    estimates.total += 1
    estimates.ahead_s += max(0, job.predicted_us - job.predicted_at_us) // SECOND_US
    if late:
        estimates.late_s += error_s
    else:
        estimates.early_s += size
    job.predicted_us = 0


# --- nodes, shares, the system ------------------------------------------------------------------------


def _node_registered(state: State, event: ev.NodeRegistered | ev.NodeChanged) -> None:
    node = state.nodes.get(event.node)
    if node is None:
        node = state.nodes[event.node] = Node(inventory=event.inventory, index=state.cluster.add_node())
        state.node_names.append(event.node)
    node.lost, node.lost_reason = False, ""
    node.version += 1
    join(state, node, event.inventory)


def _node_lost(state: State, event: ev.NodeLost) -> None:
    node = state.nodes[event.node]
    node.lost, node.lost_reason = True, event.reason
    node.version += 1
    set_node_state(state, node)


def _node_cordoned(state: State, event: ev.NodeCordoned) -> None:
    node = state.nodes[event.node]
    node.cordoned, node.draining, node.drain_by_us = True, event.drain, event.deadline_us
    node.cordoned_by, node.cordon_reason = event.by, event.reason
    node.version += 1
    state.drains.pop(event.node, None)
    if event.drain and event.deadline_us:
        state.drains[event.node] = event.deadline_us
    set_node_state(state, node)


def _node_resumed(state: State, event: ev.NodeResumed) -> None:
    node = state.nodes[event.node]
    node.cordoned, node.draining, node.drain_by_us = False, False, 0
    node.cordoned_by = node.cordon_reason = ""
    node.version += 1
    state.drains.pop(event.node, None)
    set_node_state(state, node)


def _device_failed(state: State, event: ev.DeviceFailed) -> None:
    state.devices.failed[event.device] = Fault(event.by, event.reason)
    set_device(state, event.device, usable=False)


def _device_recovered(state: State, event: ev.DeviceRecovered) -> None:
    state.devices.failed.pop(event.device, None)
    set_device(state, event.device, usable=True)


def _booking_made(state: State, event: ev.BookingMade) -> None:
    state.bookings_made += 1
    booking = Booking(
        event.booking,
        state.bookings_made,
        event.nodes,
        event.start_us,
        event.end_us,
        event.by,
        event.reason,
    )
    state.bookings[event.booking] = booking
    book_nodes(state, booking)


def _booking_ended(state: State, event: ev.BookingEnded) -> None:
    state.cycle = event.cycle or state.cycle
    unbook_nodes(state, state.bookings.pop(event.booking))


def _share_set(state: State, event: ev.ShareSet) -> None:
    if event.user:
        account, _, user_id = event.path.rpartition("/")
        share = user_share(state, account, user_id)
    else:
        share = account_share(state, event.path)
    state.replaced[state.position] = state.queue.weight(share.id)
    state.queue.set_weight(share.id, event.weight)


def _quota_set(state: State, event: ev.QuotaSet) -> None:
    share = account_share(state, event.path)
    state.replaced[state.position] = share.max_gpus, share.guaranteed_gpus
    state.guarantees += (event.guaranteed_gpus > 0) - (share.guaranteed_gpus > 0)
    share.max_gpus, share.guaranteed_gpus = event.max_gpus, event.guaranteed_gpus


def _policy_set(state: State, event: ev.PolicySet) -> None:
    before, policy = state.policy, event.policy
    state.replaced[state.position] = before
    state.policy, state.policy_version = policy, event.version
    if (before.half_life_s, before.charge_ahead_s) != (policy.half_life_s, policy.charge_ahead_s):
        state.queue.set_decay(
            policy.half_life_s * SECOND_US, policy.charge_ahead_s * SECOND_US, state.recorded_at_us
        )
    for number, shape in enumerate(state.shapes):
        request = state.requests[shape.request]
        rate = rate_of(policy, request.gpu_count, request.gpu_type, request.cpu_cores, request.memory_mib)
        state.shape_index.rates[number] = rate
        state.queue.set_shape_rate(number, rate)
    if before.topology_labels != policy.topology_labels:
        rejoin_all(state)
    if before.assumed_time_limit_s != policy.assumed_time_limit_s:
        for job in state.holding.values():
            if job.allocation_state is HELD and job.stop is None and not job.time_limit_s:
                _expect_planned_end(state, job)


def _signing_key_set(state: State, event: ev.SigningKeySet) -> None:
    state.signing_keys[state.position] = event.key


def _command_refused(state: State, event: ev.CommandRefused) -> None:
    refusals = state.refusals
    refusals.count += 1
    version = state.stream_version(event.target)
    at, said = refusals.seen.pop(event.key, (version, ()))  # to be the youngest again
    refusals.seen[event.key] = version, (*(said if at == version else ()), event.said)
    if len(refusals.seen) > limits.REFUSALS_REMEMBERED:
        del refusals.seen[next(iter(refusals.seen))]


def _partition_archived(state: State, event: ev.PartitionArchived) -> None:
    state.archived_to = max(state.archived_to, event.last)


def _leader_elected(state: State, event: ev.LeaderElected) -> None:
    pass  # the envelope's epoch says it all


_JOB: Final[dict[type[ev.Event], Steps]] = {
    ev.JobHeld: (_held, _leave_queue),
    ev.JobReleased: (_released, _released_around_begin),
    ev.JobUpdated: (_updated, _updated_around),
    ev.JobReserved: (_reserved, _reserved_around),
    ev.JobScheduled: (_scheduled, _scheduled_around),
    ev.JobStarted: (_started, _started_around),
    ev.CheckpointRecorded: (_checkpointed, None),
    ev.AllocationOverdue: (_overdue, _overdue_around),
    ev.TimeLimitReached: (_time_limit_reached, _stopping_around),
    ev.PreemptionRequested: (_preemption_requested, _preemption_around),
    ev.RequeueRequested: (_requeue_requested, _stopping_around),
    ev.JobPreempted: (_preempted, _preempted_around),
    ev.JobRequeued: (_requeued, _requeued_around),
    ev.JobCompleted: (_completed, _ended_around),
    ev.JobFailed: (_failed, _dropped_around),
    ev.JobCancelled: (_cancelled, _dropped_around),
    ev.AllocationReleased: (_allocation_released, _released_around),
    ev.BlobsErased: (_erased, _erased_around),
}
_ELSE: Final[dict[type[ev.Event], Callable[[State, Any], None]]] = {
    ev.NodeRegistered: _node_registered,
    ev.NodeChanged: _node_registered,
    ev.NodeLost: _node_lost,
    ev.NodeCordoned: _node_cordoned,
    ev.NodeResumed: _node_resumed,
    ev.DeviceFailed: _device_failed,
    ev.DeviceRecovered: _device_recovered,
    ev.BookingMade: _booking_made,
    ev.BookingEnded: _booking_ended,
    ev.ShareSet: _share_set,
    ev.QuotaSet: _quota_set,
    ev.PolicySet: _policy_set,
    ev.LeaderElected: _leader_elected,
    ev.SigningKeySet: _signing_key_set,
    ev.PartitionArchived: _partition_archived,
    ev.CommandRefused: _command_refused,
}
