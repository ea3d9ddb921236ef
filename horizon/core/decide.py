"""Turns a command into events, or refuses it. Refusals live here and nowhere else in the core."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from msgspec import UNSET, Struct

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.model import Exit, JobSpec, JobState
from horizon.core.state import Job, State, Stop

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

    Raises ``Rejected``. O(1), but for a batch of jobs: O(jobs).
    """
    return _DECIDE[type(command)](state, command, given)


# --- jobs ---------------------------------------------------------------------------------------------


def _submit(state: State, c: cmd.Submit, given: Given) -> Events:
    return (_submitted(state, c, given.next_number),)


def _submit_batch(state: State, c: cmd.SubmitBatch, given: Given) -> Events:
    submitted: list[ev.Event] = []
    for index, job in enumerate(c.jobs):
        try:
            submitted.append(_submitted(state, job, given.next_number + index))
        except Rejected as refusal:
            raise Rejected(refusal.kind, refusal.message, f"/jobs/{index}{refusal.pointer}") from None
    return tuple(submitted)


def _submitted(state: State, c: cmd.Submit, number: int) -> ev.JobSubmitted:
    _check_spec(c.spec)
    if c.job_id in state.jobs:
        raise Rejected(Refusal.CONFLICT, f"job id {c.job_id} is taken")
    return ev.JobSubmitted(job_id=c.job_id, number=number, spec=c.spec)


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
    priority = UNSET if c.priority is job.priority else c.priority
    time_limit_s = UNSET if c.time_limit_s == job.time_limit_s else c.time_limit_s
    if priority is not UNSET or time_limit_s is not UNSET:
        events.append(ev.JobUpdated(job_id=job.id, priority=priority, time_limit_s=time_limit_s))
    if c.hold is not UNSET and c.hold is not job.held:
        if job.state is not JobState.QUEUED:
            message = f"only a waiting job can be held or released; job {job.number} is {job.state}"
            raise Rejected(Refusal.CONFLICT, message, "/hold")
        events.append(ev.JobHeld(job_id=job.id) if c.hold else ev.JobReleased(job_id=job.id))
    return tuple(events)


def _preempt(state: State, c: cmd.Preempt, given: Given) -> Events:
    job = _job(state, c.job_id, None)
    if job.state is not JobState.RUNNING:
        raise Rejected(
            Refusal.CONFLICT, f"only a running job can be preempted; job {job.number} is {job.state}"
        )
    if job.stop is not None:
        return ()
    return (ev.PreemptionRequested(job_id=job.id, attempt=job.attempt, by=c.by, reason=c.reason),)


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
        events += _attempt_ended(job, c, given)
        late_exit = None
    else:
        late_exit = c.exit
    if c.released:
        events.append(ev.AllocationReleased(job_id=job.id, attempt=job.attempt, exit=late_exit))
    return tuple(events)


def _attempt_ended(job: Job, c: cmd.ReportEnded, given: Given) -> Events:
    """What becomes of a job whose running attempt is over."""
    if job.stop is Stop.TIME_LIMIT:
        reason = f"its time limit of {job.time_limit_s} s was reached"
        return (ev.JobFailed(job_id=job.id, attempt=job.attempt, reason=reason, exit=c.exit),)
    if c.started and not c.lost and c.exit.succeeded:
        return (ev.JobCompleted(job_id=job.id, attempt=job.attempt, exit=c.exit),)
    if job.stop is Stop.PREEMPTION:
        lost_gpu_us = (given.now_us - job.started_at_us) * job.spec.gpu_count
        return (
            ev.JobPreempted(
                job_id=job.id, attempt=job.attempt, by=job.stopped_by, lost_gpu_us=max(0, lost_gpu_us)
            ),
            ev.JobRequeued(
                job_id=job.id, cause=ev.RequeueCause.PREEMPTION, reason=f"preempted by {job.stopped_by}"
            ),
        )
    reason = failure(c.exit)
    if c.lost and job.attempts_lost < limits.ATTEMPTS_LOST_MAX:
        return (ev.JobRequeued(job_id=job.id, cause=ev.RequeueCause.LOST, reason=reason, exit=c.exit),)
    if c.started and not c.lost and job.retries_used < job.spec.max_retries:
        return (ev.JobRequeued(job_id=job.id, cause=ev.RequeueCause.RETRY, reason=reason, exit=c.exit),)
    return (ev.JobFailed(job_id=job.id, attempt=job.attempt, reason=reason, exit=c.exit),)


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


def _set_share(state: State, c: cmd.SetShare, given: Given) -> Events:
    account, _, user_id = c.path.rpartition("/")
    is_account = c.path in state.accounts
    is_user = (account, user_id) in state.users
    if c.user is None and not is_account and not is_user:
        message = f"nothing has run under {c.path} yet: say which kind it is, a user or an account"
        raise Rejected(Refusal.NOT_FOUND, message)
    user = c.user if c.user is not None else not is_account
    if user and not account:
        raise Rejected(Refusal.INVALID, f"a user stands under an account: account/{c.path}", "/path")
    return (ev.ShareSet(path=c.path, weight=c.weight, user=user),)


_DECIDE: Final[dict[type[Any], Callable[[State, Any, Given], Events]]] = {
    cmd.Submit: _submit,
    cmd.SubmitBatch: _submit_batch,
    cmd.Cancel: _cancel,
    cmd.Update: _update,
    cmd.Preempt: _preempt,
    cmd.ReportStarted: _report_started,
    cmd.ReportEnded: _report_ended,
    cmd.ReportReleased: _report_released,
    cmd.RegisterNode: _register_node,
    cmd.LoseNode: _lose_node,
    cmd.SetShare: _set_share,
}
