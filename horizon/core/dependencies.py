"""What a job waits for before it stands in the queue: what becomes of others. ``verdict`` is pure; the rest
is for ``evolve`` only."""

from __future__ import annotations

from horizon.core.model import DependencyKind, JobState
from horizon.core.state import Job, State


def verdict(job: Job, kind: DependencyKind) -> bool | None:
    """Whether a condition on this job, or on this array as a whole, holds; None while it may yet."""
    if kind is DependencyKind.AFTER_START:
        if job.ran:
            return True
        return False if job.state.ended else None
    if not job.state.ended:
        return None
    if kind is DependencyKind.AFTER_ANY:
        return True
    return (job.state is JobState.COMPLETED) == (kind is DependencyKind.AFTER_OK)


def enter_queue(state: State, job: Job) -> None:
    """Has the job stand in the queue if nothing keeps it out any more."""
    if job.eligible and job.number not in state.queue:
        state.queue.enqueue(job.number, job.priority.rank, job.share, job.shape)


def wait_for(state: State, job: Job) -> None:
    """Has a new job wait for what it depends on, as far as that is open."""
    for dependency in job.spec.depends_on:
        other = state.jobs[dependency.job_id]
        holds = verdict(other, dependency.kind)
        if holds is None:
            job.unmet += 1
            state.dependents.setdefault(other.number, []).append((job.number, dependency.kind))
        elif not holds:
            _doom(state, job, other, dependency.kind)


def _doom(state: State, job: Job, other: Job, kind: str) -> None:
    if not job.state.ended:
        job.unmet += 1  # it must not start before the next cycle fails it
        state.doomed.setdefault(
            job.number, f"{kind} of job {other.number} can never hold: it {_became(other)}"
        )


def _became(job: Job) -> str:
    if job.state is JobState.CANCELLED:
        return "was cancelled"
    return "has failed" if job.state is JobState.FAILED else "completed"


def tell_dependents(state: State, job: Job) -> None:
    """A job has started or ended: those who waited for that may go on, or never will. O(dependents)."""
    waiting = state.dependents.pop(job.number, None)
    if waiting is None:
        return
    still = []
    for number, kind in waiting:
        holds = verdict(job, kind)
        if holds is None:
            still.append((number, kind))
            continue
        dependent = state.numbered[number - 1]
        if not holds:
            _doom(state, dependent, job, kind)
            continue
        array = state.arrays.get(number)
        for one in [dependent] if array is None else [dependent, *state.tasks(array)]:
            one.unmet -= 1
            if one is not dependent or array is None:
                enter_queue(state, one)
    if still:
        state.dependents[job.number] = still
