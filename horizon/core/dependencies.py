"""Whether what a job depends on holds. Pure."""

from __future__ import annotations

from horizon.core.model import DependencyKind, JobState
from horizon.core.state import Job


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
