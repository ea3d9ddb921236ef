"""Turns a command into events, or refuses it. Refusals live here and nowhere else in the core."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from msgspec import UNSET, Struct

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.admission import task_ids
from horizon.core.at_rest import entries
from horizon.core.blobs import digests_of
from horizon.core.dependencies import verdict
from horizon.core.model import EXECUTOR, AllocationState, Exit, JobSpec, JobState
from horizon.core.policy import Policy
from horizon.core.state import SECOND_US, Job, Node, State, Stop
from horizon.core.words import moment

Events = tuple[ev.Event, ...]


class Refusal(StrEnum):
    """The kinds of no."""

    INVALID = "invalid"
    NOT_FOUND = "not found"
    CONFLICT = "conflict"
    STALE = "stale"


class Rejected(Exception):
    """A command was refused and nothing changed. The message says why and what to do instead."""

    def __init__(self, kind: Refusal, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.pointer = pointer
        """RFC 6901 pointer to the fault in what was asked, when there is one."""


class Given(Struct, frozen=True):
    """What the world adds to a command."""

    actor: str
    now_us: int
    next_number: int
    """The number for the next job: the log's, and what the same batch has given out already."""


def decide(state: State, command: cmd.Command, given: Given) -> Events:
    """The events that the command leads to; none when it changes nothing.

    Raises ``Rejected``. O(1), but for a batch of jobs: O(jobs), and for a policy: O(its size).
    """
    return _DECIDE[type(command)](state, command, given)


# --- jobs ---------------------------------------------------------------------------------------------


def _submit(state: State, c: cmd.Submit, given: Given) -> Events:
    return (_submitted(state, c, given.next_number),)


def _submit_batch(state: State, c: cmd.SubmitBatch, given: Given) -> Events:
    submitted: list[ev.Event] = []
    number, tasks = given.next_number, 0
    for index, job in enumerate(c.jobs):
        try:
            submitted.append(_submitted(state, job, number))
        except Rejected as refusal:
            raise Rejected(refusal.kind, refusal.message, f"/jobs/{index}{refusal.pointer}") from None
        number += numbers_taken(job.spec)
        tasks += 0 if job.spec.array is None else job.spec.array.tasks
    if tasks > limits.BATCH_TASKS_MAX:
        message = f"the arrays have {tasks:,} tasks in all; one batch may have {limits.BATCH_TASKS_MAX:,}"
        raise Rejected(Refusal.INVALID, message, "/jobs")
    return tuple(submitted)


def numbers_taken(spec: JobSpec) -> int:
    """How many job numbers a submission takes: its own, and one for each task of an array."""
    return 1 if spec.array is None else 1 + spec.array.tasks


def _submitted(state: State, c: cmd.Submit, number: int) -> ev.JobSubmitted:
    _check_spec(c.spec)
    if c.spec.depends_on:
        _check_dependencies(state, c.spec)
    if c.job_id in state.jobs or (c.spec.array is not None and task_ids(c.job_id)(0) in state.jobs):
        raise Rejected(Refusal.CONFLICT, f"job id {c.job_id} is taken")
    return ev.JobSubmitted(job_id=c.job_id, number=number, spec=c.spec)


def _check_dependencies(state: State, spec: JobSpec) -> None:
    """Only on jobs that are there, so that no two can ever wait for each other; and only on what can be."""
    for index, dependency in enumerate(spec.depends_on):
        pointer = f"/depends_on/{index}"
        job = state.jobs.get(dependency.job_id)
        if job is None:
            raise Rejected(Refusal.INVALID, f"there is no job {dependency.job_id} to depend on", pointer)
        if verdict(job, dependency.kind) is False:
            message = f"{dependency.kind} can never hold: job {job.number} has ended as {job.state}"
            raise Rejected(Refusal.INVALID, message, pointer)


def _check_spec(spec: JobSpec) -> None:
    """What no single field can tell; the fields' own bounds are checked where the request is decoded."""
    if not spec.command and spec.script_digest is None:
        raise Rejected(Refusal.INVALID, "there is nothing to run: give a command or a script", "/command")
    if spec.command and spec.script_digest is not None:
        raise Rejected(Refusal.INVALID, "give a command or a script, not both", "/script")
    if spec.gpu_count == 0 and spec.cpu_cores == 0:
        message = "the job asks for nothing: give gpu_count of 1 or more, or cpu_cores for a CPU job"
        raise Rejected(Refusal.INVALID, message, "/gpu_count")
    if spec.gpu_count == 0 and (spec.gpu_type is not None or spec.gpu_memory_mib):
        raise Rejected(Refusal.INVALID, "a CPU job cannot ask for a kind of GPU", "/gpu_count")
    if spec.nodes > max(spec.gpu_count, spec.cpu_cores):
        message = f"{spec.nodes} nodes cannot share {spec.gpu_count} GPUs and {spec.cpu_cores} cores"
        raise Rejected(Refusal.INVALID, message, "/nodes")
    if spec.nodes > 1 and spec.gpu_count and spec.gpu_count < spec.nodes:
        message = f"a gang of {spec.nodes} nodes needs a GPU on each: gpu_count is {spec.gpu_count} in all"
        raise Rejected(Refusal.INVALID, message, "/gpu_count")


def _cancel(state: State, c: cmd.Cancel, given: Given) -> Events:
    job = _job(state, c.job_id, c.version)
    if job.state.ended:
        raise Rejected(Refusal.CONFLICT, f"job {job.number} has already ended: {job.state}")
    return (ev.JobCancelled(job_id=job.id, by=given.actor, reason=c.reason),)


def _update(state: State, c: cmd.Update, given: Given) -> Events:
    job = _job(state, c.job_id, c.version)
    if job.state.ended:
        raise Rejected(Refusal.CONFLICT, f"job {job.number} has already ended: {job.state}")
    events: list[ev.Event] = []
    array = state.arrays.get(job.number)
    alive = [job] if array is None else [job, *(one for one in state.tasks(array) if not one.state.ended)]
    priority = UNSET if all(one.priority is c.priority for one in alive) else c.priority
    time_limit_s = UNSET if all(one.time_limit_s == c.time_limit_s for one in alive) else c.time_limit_s
    if time_limit_s is not UNSET and job.stop is Stop.TIME_LIMIT:
        message = f"job {job.number} has reached its time limit of {job.time_limit_s} s and is being stopped"
        raise Rejected(Refusal.CONFLICT, message, "/time_limit_s")
    for one in alive if time_limit_s is not UNSET else ():
        _check_bookings(state, one, time_limit_s)  # type: ignore[arg-type]
    if priority is not UNSET or time_limit_s is not UNSET:
        events.append(
            ev.JobUpdated(job_id=job.id, priority=priority, time_limit_s=time_limit_s, reason=c.reason)
        )
    if c.hold is not UNSET and _differs_in_hold(state, job, c.hold):
        if job.state is not JobState.QUEUED and job.number not in state.arrays:
            message = f"only a waiting job can be held or released; job {job.number} is {job.state}"
            raise Rejected(Refusal.CONFLICT, message, "/hold")
        events.append((ev.JobHeld if c.hold else ev.JobReleased)(job_id=job.id, reason=c.reason))
    return tuple(events)


def _check_bookings(state: State, job: Job, time_limit_s: int) -> None:
    """What runs may not be given more time than until its nodes are booked. O(bookings)."""
    if job.allocation_state is not AllocationState.HELD:
        return
    limit_s = time_limit_s or state.policy.assumed_time_limit_s
    end_us = (job.started_at_us or job.scheduled_at_us) + limit_s * SECOND_US
    for booking in state.bookings.values():
        if job.expected_us <= booking.start_us < end_us:
            booked = [placement.node for placement in job.allocation if placement.node in booking.nodes]
            if booked:
                message = (
                    f"job {job.number} would run into booking {booking.id} of {booked[0]}, from "
                    f"{moment(booking.start_us)}: give it less time, or end the booking"
                )
                raise Rejected(Refusal.CONFLICT, message, "/time_limit_s")


def _differs_in_hold(state: State, job: Job, hold: bool) -> bool:
    """Whether the job, or a waiting task of the array, is not held as is asked for."""
    array = state.arrays.get(job.number)
    if array is None or job.held is not hold:
        return job.held is not hold
    return any(task.held is not hold for task in state.tasks(array) if task.state is JobState.QUEUED)


def _requeue(state: State, c: cmd.Requeue, given: Given) -> Events:
    job = _one_that_runs(state, c.job_id, c.version, "requeued")
    if job.stop is not None:
        raise Rejected(Refusal.CONFLICT, f"job {job.number} is being stopped already: {job.stop}")
    return (ev.RequeueRequested(job_id=job.id, attempt=job.attempt, by=given.actor, reason=c.reason),)


def _erase(state: State, c: cmd.Erase, given: Given) -> Events:
    """O(jobs): others that have not ended may need the same script."""
    job = _job(state, c.job_id, c.version)
    if job.array:
        message = f"job {job.array}_{job.index} shares what it was given with its array: name job {job.array}"
        raise Rejected(Refusal.CONFLICT, message)
    if not job.state.ended:
        message = f"only what has ended can be erased; job {job.number} is {job.state}: cancel it first"
        raise Rejected(Refusal.CONFLICT, message)
    if job.erased:
        return ()
    digests = digests_of(job.spec)
    if not digests:
        message = f"job {job.number} was given neither an environment nor a script: there is nothing to erase"
        raise Rejected(Refusal.CONFLICT, message)
    needed = {
        digest
        for other in entries(state.numbered)  # those at rest need nothing, and stay undecoded
        if not isinstance(other, int) and not other.state.ended
        for digest in digests_of(other.spec)
    }
    return (
        ev.BlobsErased(
            job_id=job.id,
            digests=tuple(one for one in digests if one not in needed),
            kept=tuple(one for one in digests if one in needed),
            by=given.actor,
            reason=c.reason,
        ),
    )


def _checkpoint(state: State, c: cmd.Checkpoint, given: Given) -> Events:
    job = _one_that_runs(state, c.job_id, None, "saved")
    if job.state is JobState.SCHEDULED:
        raise Rejected(Refusal.CONFLICT, f"job {job.number} is being started: it has nothing to save yet")
    if c.attempt is not None and c.attempt != job.attempt:
        message = f"attempt {c.attempt} of job {job.number} is over; attempt {job.attempt} runs now"
        raise Rejected(Refusal.CONFLICT, message, "/attempt")
    return (ev.CheckpointRecorded(job_id=job.id, attempt=job.attempt),)


def _one_that_runs(state: State, job_id: str, version: int | None, done: str) -> Job:
    job = _job(state, job_id, version)
    if job.number in state.arrays:
        message = f"job {job.number} is an array: name one of its tasks, such as {job.number}_INDEX"
        raise Rejected(Refusal.CONFLICT, message)
    if job.state not in (JobState.SCHEDULED, JobState.RUNNING):
        erased = ", and what it ran has been erased: submit it anew" if job.erased else ""
        message = f"only a running job can be {done}; job {job.number} is {job.state}{erased}"
        raise Rejected(Refusal.CONFLICT, message)
    return job


def _job(state: State, job_id: str, version: int | None) -> Job:
    job = state.jobs.get(job_id)
    if job is None:
        raise Rejected(Refusal.NOT_FOUND, f"there is no job {job_id}")
    if version is not None and version != job.version:
        message = (
            f"job {job.number} is at version {job.version}, not {version}: read it again and decide anew"
        )
        raise Rejected(Refusal.STALE, message)
    return job


# --- what executors report ----------------------------------------------------------------------------


def _report_started(state: State, c: cmd.ReportStarted, given: Given) -> Events:
    job = state.jobs.get(c.job_id)
    if job is None or job.attempt != c.attempt or job.state is not JobState.SCHEDULED:
        return ()  # told again, or overtaken by a cancel: it changes nothing
    return (ev.JobStarted(job_id=job.id, attempt=job.attempt),)


def _report_ended(state: State, c: cmd.ReportEnded, given: Given) -> Events:
    job = state.jobs.get(c.job_id)
    if job is None or job.attempt != c.attempt or job.allocation_state is None:
        return ()
    events: list[ev.Event] = []
    if job.state is JobState.SCHEDULED and c.started and not c.lost:
        events.append(ev.JobStarted(job_id=job.id, attempt=job.attempt))
    if job.state in (JobState.SCHEDULED, JobState.RUNNING):
        events += _attempt_ended(state, job, c, given)
        late_exit = None
    else:
        late_exit = c.exit
    if c.released:
        events.append(ev.AllocationReleased(job_id=job.id, attempt=job.attempt, exit=late_exit))
    return tuple(events)


def _attempt_ended(state: State, job: Job, c: cmd.ReportEnded, given: Given) -> Events:
    """What becomes of a job whose running attempt is over."""
    if job.stop is Stop.TIME_LIMIT:
        reason = f"its time limit of {job.time_limit_s} s was reached"
        return (ev.JobFailed(job_id=job.id, attempt=job.attempt, reason=reason, exit=c.exit),)
    if c.started and not c.lost and c.exit.succeeded:
        return (ev.JobCompleted(job_id=job.id, attempt=job.attempt, exit=c.exit),)
    if job.stop is Stop.PREEMPTION:
        return _made_way(state, job, given)
    if job.stop is Stop.REQUEUE:
        return _requeued(job, ev.RequeueCause.REQUEST, f"requeued by {job.stopped_by}")
    reason = failure(c.exit)
    again = job.attempts_lost < limits.ATTEMPTS_LOST_MAX
    if again and any(gpu_id in state.devices.failed for one in job.allocation for gpu_id in one.gpu_ids):
        return _requeued(job, ev.RequeueCause.DEVICE, f"a GPU that it held has failed: {reason}", c.exit)
    where = job.allocation[min(c.rank, len(job.allocation) - 1)].node
    if c.lost and again:
        back_us = given.now_us + backoff_us(state.policy, job.attempts_lost)
        return _requeued(job, ev.RequeueCause.LOST, reason, c.exit, back_us, (where,))
    if c.started and not c.lost and job.retries_used < job.spec.max_retries:
        back_us = given.now_us + backoff_us(state.policy, job.retries_used)
        return _requeued(job, ev.RequeueCause.RETRY, reason, c.exit, back_us, (where,))
    return (ev.JobFailed(job_id=job.id, attempt=job.attempt, reason=reason, exit=c.exit),)


def _made_way(state: State, job: Job, given: Given) -> Events:
    by = state.jobs[job.stopped_by]
    lost_gpu_us = max(0, given.now_us - job.saved_at_us) * job.spec.gpu_count
    reason = f"preempted by job {by.number} of {by.spec.user_id} ({by.priority.value})"
    return (
        ev.JobPreempted(job_id=job.id, attempt=job.attempt, by=by.id, lost_gpu_us=lost_gpu_us),
        *_requeued(job, ev.RequeueCause.PREEMPTION, reason),
    )


def _requeued(
    job: Job,
    cause: ev.RequeueCause,
    reason: str,
    exit: Exit | None = None,
    not_before_us: int = 0,
    avoid: tuple[str, ...] = (),
) -> Events:
    return (
        ev.JobRequeued(
            job_id=job.id, cause=cause, reason=reason, exit=exit, not_before_us=not_before_us, avoid=avoid
        ),
    )


def backoff_us(policy: Policy, tries: int) -> int:
    """How long a job waits after it failed, having been tried again so often before."""
    wait_s = policy.retry_backoff_s << min(tries, 32)
    return min(wait_s, policy.retry_backoff_max_s) * SECOND_US


def failure(exit: Exit) -> str:
    """A sentence for how an attempt ended badly."""
    if exit.signal is not None:
        how = f"killed by signal {exit.signal}"
    elif exit.exit_code is not None:
        how = f"exit code {exit.exit_code}"
    else:
        return exit.error or "unknown"
    return f"{how}: {exit.error}" if exit.error else how


def _report_released(state: State, c: cmd.ReportReleased, given: Given) -> Events:
    job = state.jobs.get(c.job_id)
    if job is None or job.attempt != c.attempt or job.allocation_state is None:
        return ()
    assert job.state not in (JobState.SCHEDULED, JobState.RUNNING), "released before it ended"
    return (ev.AllocationReleased(job_id=job.id, attempt=job.attempt),)


def _report_checkpoint(state: State, c: cmd.ReportCheckpoint, given: Given) -> Events:
    job = state.jobs.get(c.job_id)
    if job is None or job.attempt != c.attempt or job.state is not JobState.RUNNING:
        return ()
    return (ev.CheckpointRecorded(job_id=job.id, attempt=job.attempt),)


# --- nodes and shares ---------------------------------------------------------------------------------


def _register_node(state: State, c: cmd.RegisterNode, given: Given) -> Events:
    node = state.nodes.get(c.inventory.name)
    if node is None:
        return (ev.NodeRegistered(node=c.inventory.name, inventory=c.inventory),)
    if node.inventory != c.inventory:
        return (ev.NodeChanged(node=c.inventory.name, inventory=c.inventory),)
    if node.lost:
        return (ev.NodeRegistered(node=c.inventory.name, inventory=c.inventory),)
    return ()


def _lose_node(state: State, c: cmd.LoseNode, given: Given) -> Events:
    node = state.nodes.get(c.name)
    if node is None or node.lost:
        return ()
    return (ev.NodeLost(node=c.name, reason=c.reason),)


def _cordon_node(state: State, c: cmd.CordonNode, given: Given) -> Events:
    node = _node(state, c.name)
    if c.deadline_us and not c.drain:
        raise Rejected(Refusal.INVALID, "only a drain has a deadline", "/deadline_at")
    asked = (True, c.drain, c.deadline_us, c.reason or node.cordon_reason)  # no reason takes none back
    if (node.cordoned, node.draining, node.drain_by_us, node.cordon_reason) == asked:
        return ()
    return (
        ev.NodeCordoned(
            node=c.name, by=given.actor, reason=c.reason, drain=c.drain, deadline_us=c.deadline_us
        ),
    )


def _resume_node(state: State, c: cmd.ResumeNode, given: Given) -> Events:
    if not _node(state, c.name).cordoned:
        return ()
    return (ev.NodeResumed(node=c.name, by=given.actor, reason=c.reason),)


def _node(state: State, name: str) -> Node:
    node = state.nodes.get(name)
    if node is None:
        raise Rejected(Refusal.NOT_FOUND, f"there is no node {name!r}")
    return node


def _fail_device(state: State, c: cmd.FailDevice, given: Given) -> Events:
    node, known = _node_of(state, c.device), state.devices.failed.get(c.device)
    said = known is not None and known.by != EXECUTOR and c.reason in ("", known.reason)
    if said or (known is not None and given.actor == EXECUTOR):
        return ()  # what a person said of it is not for the executor to say anew
    return (ev.DeviceFailed(node=node, device=c.device, by=given.actor, reason=c.reason),)


def _recover_device(state: State, c: cmd.RecoverDevice, given: Given) -> Events:
    node, known = _node_of(state, c.device), state.devices.failed.get(c.device)
    if known is None or (given.actor == EXECUTOR and known.by != EXECUTOR):
        return ()
    return (ev.DeviceRecovered(node=node, device=c.device, by=given.actor, reason=c.reason),)


def _node_of(state: State, device: str) -> str:
    places = state.devices.places.get(device)
    if not places:
        raise Rejected(Refusal.NOT_FOUND, f"there is no GPU {device!r}")
    return places[-1][0]


def _book(state: State, c: cmd.Book, given: Given) -> Events:
    if c.booking_id in state.bookings:
        raise Rejected(Refusal.CONFLICT, f"booking id {c.booking_id} is taken")
    if not c.nodes:
        raise Rejected(Refusal.INVALID, "names no node", "/nodes")
    first: dict[str, int] = {}
    for index, name in enumerate(c.nodes):
        if name not in state.nodes:
            raise Rejected(Refusal.INVALID, f"there is no node {name!r}", f"/nodes/{index}")
        if first.setdefault(name, index) != index:
            raise Rejected(Refusal.INVALID, f"names node {name!r} twice", f"/nodes/{index}")
    if c.end_us <= max(c.start_us, given.now_us):
        raise Rejected(Refusal.INVALID, "the end must be after the start, and not over yet", "/end_at")
    return (
        ev.BookingMade(
            booking=c.booking_id,
            nodes=c.nodes,
            start_us=c.start_us,
            end_us=c.end_us,
            by=given.actor,
            reason=c.reason,
        ),
    )


def _end_booking(state: State, c: cmd.EndBooking, given: Given) -> Events:
    if c.booking_id not in state.bookings:
        raise Rejected(Refusal.NOT_FOUND, f"there is no booking {c.booking_id}, or its time is over")
    return (ev.BookingEnded(booking=c.booking_id, by=given.actor, reason=c.reason),)


def _set_policy(state: State, c: cmd.SetPolicy, given: Given) -> Events:
    if c.version is not None and c.version != state.policy_version:
        message = (
            f"the policy is at version {state.policy_version}, not {c.version}: read it again and decide anew"
        )
        raise Rejected(Refusal.STALE, message)
    for field, fault in c.policy.faults():
        raise Rejected(Refusal.INVALID, f"{field} {fault}", f"/{field}")
    if c.policy == state.policy and state.policy_version:
        return ()
    version = state.policy_version + 1
    return (ev.PolicySet(version=version, policy=c.policy, by=given.actor, reason=c.reason),)


def _set_share(state: State, c: cmd.SetShare, given: Given) -> Events:
    account, _, user_id = c.path.rpartition("/")
    is_account = c.path in state.accounts
    bounds = c.max_gpus is not UNSET or c.guaranteed_gpus is not UNSET
    if c.user is None and not is_account and (account, user_id) not in state.users and not bounds:
        message = f"nothing has run under {c.path} yet: say which kind it is, a user or an account"
        raise Rejected(Refusal.NOT_FOUND, message)
    user = c.user if c.user is not None else not is_account and (account, user_id) in state.users
    if user and not account:
        raise Rejected(Refusal.INVALID, f"a user stands under an account: account/{c.path}", "/path")
    events: list[ev.Event] = []
    if c.weight is not UNSET:
        events.append(ev.ShareSet(path=c.path, weight=c.weight, user=user, reason=c.reason))
    if bounds:
        events += _bounds(state, c, user)
    return tuple(events)


def _bounds(state: State, c: cmd.SetShare, user: bool) -> Events:
    if user:
        raise Rejected(Refusal.INVALID, f"{c.path} is a user: quotas are for accounts", "/max_gpus")
    share = state.accounts.get(c.path)
    before = (-1, 0) if share is None else (share.max_gpus, share.guaranteed_gpus)
    max_gpus = before[0] if c.max_gpus is UNSET else c.max_gpus
    guaranteed_gpus = before[1] if c.guaranteed_gpus is UNSET else c.guaranteed_gpus
    if 0 <= max_gpus < guaranteed_gpus:
        message = f"an account cannot be guaranteed {guaranteed_gpus} GPUs and hold {max_gpus} at most"
        raise Rejected(Refusal.INVALID, message, "/guaranteed_gpus")
    if (max_gpus, guaranteed_gpus) == before:
        return ()
    return (ev.QuotaSet(path=c.path, max_gpus=max_gpus, guaranteed_gpus=guaranteed_gpus, reason=c.reason),)


def _record_archive(state: State, c: cmd.RecordArchive, given: Given) -> Events:
    if c.first > state.archived_to + 1:  # one that is on record already may be archived again
        message = (
            f"the log is archived to {state.archived_to}: the next file begins at {state.archived_to + 1}"
        )
        raise Rejected(Refusal.CONFLICT, message, "/first")
    if not c.first <= c.last < state.position:
        message = f"what is archived ends before the last event, which is {state.position}"
        raise Rejected(Refusal.CONFLICT, message, "/last")
    return (
        ev.PartitionArchived(
            first=c.first,
            last=c.last,
            previous=c.previous,
            tip=c.tip,
            frontier=c.frontier,
            keys=tuple(key for position, key in state.signing_keys.items() if position <= c.last),
            file=c.file,
            sha256=c.sha256,
            by=given.actor,
            reason=c.reason,
        ),
    )


_DECIDE: Final[dict[type[Any], Callable[[State, Any, Given], Events]]] = {
    cmd.Submit: _submit,
    cmd.SubmitBatch: _submit_batch,
    cmd.Cancel: _cancel,
    cmd.Update: _update,
    cmd.Requeue: _requeue,
    cmd.Erase: _erase,
    cmd.Checkpoint: _checkpoint,
    cmd.ReportStarted: _report_started,
    cmd.ReportEnded: _report_ended,
    cmd.ReportCheckpoint: _report_checkpoint,
    cmd.ReportReleased: _report_released,
    cmd.RegisterNode: _register_node,
    cmd.LoseNode: _lose_node,
    cmd.CordonNode: _cordon_node,
    cmd.ResumeNode: _resume_node,
    cmd.FailDevice: _fail_device,
    cmd.RecoverDevice: _recover_device,
    cmd.Book: _book,
    cmd.EndBooking: _end_booking,
    cmd.SetPolicy: _set_policy,
    cmd.SetShare: _set_share,
    cmd.RecordArchive: _record_archive,
}
