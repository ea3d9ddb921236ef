"""What became of the jobs of a log, attempt by attempt: read from its events, of a recorded log or one that
might have been. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from itertools import pairwise
from math import fsum
from typing import Any, Final

from msgspec import Struct

from horizon.core import events as ev
from horizon.core.admission import task_ids
from horizon.core.model import Allocation, Exit, Inventory, JobSpec, JobState
from horizon.core.state import SECOND_US, Estimates
from horizon.service.outcomes import BSLD_THRESHOLD_S, Fairness, Measures, UserOutcome, jain, spread
from horizon.service.simulator import Ran, Simulation
from horizon.service.traces import TraceJob

HOUR_US: Final = 3_600 * SECOND_US


class End(Enum):
    """Whose doing it was that an attempt ended."""

    OWN = auto()
    """Its command's: it ended well or badly, or could not be started."""
    STOPPED = auto()
    """Horizon's or a person's: preempted, requeued, cancelled, over its time limit."""
    ACCIDENT = auto()
    """Its place's: a device had failed, or the attempt vanished with its node."""


class Attempt(Struct):
    """One try at running a job. Moments are 0 while they have not come."""

    allocation: Allocation
    scheduled_us: int
    started_us: int = 0
    saved_us: list[int] = []
    """When it saved its work."""
    stop_us: int = 0
    """When it was first asked to stop."""
    over_limit: bool = False
    ended_us: int = 0
    released_us: int = 0
    end: End | None = None
    exit: Exit | None = None

    def held_us(self, end_us: int) -> int:
        """For how long it held its allocation up to a moment."""
        return max(0, min(self.released_us or end_us, end_us) - self.scheduled_us)

    def useful_us(self, end_us: int) -> int:
        """How much of its run counts: of one that was interrupted what it had saved."""
        if not self.started_us:
            return 0
        if self.end in (None, End.OWN):
            return (self.ended_us or end_us) - self.started_us
        return self.saved_us[-1] - self.started_us if self.saved_us else 0


class Life(Struct):
    """A job, from its submission on. Tasks of arrays are jobs of their own; the array itself is none here."""

    id: str
    name: str
    """Its number, or ``NUMBER_INDEX``."""
    spec: JobSpec
    submitted_us: int
    attempts: list[Attempt] = []
    ended_us: int = 0
    state: JobState = JobState.QUEUED
    preempted: int = 0
    lost_gpu_us: int = 0
    """GPU-microseconds of work lost by its preemptions."""

    def wait_us(self, end_us: int) -> int:
        """Until it was first placed; of one that never was, until it or the log ended."""
        placed_us = self.attempts[0].scheduled_us if self.attempts else self.ended_us or end_us
        return placed_us - self.submitted_us

    def useful_us(self, end_us: int) -> int:
        return sum(attempt.useful_us(end_us) for attempt in self.attempts)


class Course:
    """All jobs of a log. ``see`` every event of it, in order."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        """By id, in order of submission."""
        self.inventories: dict[str, Inventory] = {}
        """What each node last had, lost ones included."""
        self.accounts: dict[str, bool] = {}
        """Paths of accounts that were used or set."""
        self.users: dict[str, bool] = {}
        """Paths of users."""
        self.capacity: list[tuple[int, int]] = []
        """From when on there were so many GPUs, on nodes that were not lost."""
        self.first_us = 0
        self.last_us = 0
        self._tasks: dict[str, list[Life]] = {}
        """By the id of an array."""
        self._gpus: dict[str, int] = {}
        """By node."""

    def see(self, event: ev.Event, at_us: int) -> None:
        self.first_us = self.first_us or at_us
        self.last_us = at_us
        step = _STEPS.get(type(event))
        if step is not None:
            step(self, event, at_us)

    def concerned(self, id: str) -> list[Life]:
        """The job, or the tasks of the array."""
        return self._tasks.get(id) or [self.lives[id]]

    def counted(self, since_us: int, until_us: int) -> list[Life]:
        """The jobs submitted from one moment on and before another."""
        return [life for life in self.lives.values() if since_us <= life.submitted_us < until_us]

    def attempt(self, event: Any) -> Attempt:
        return self.lives[event.job_id].attempts[-1]

    # --- what an event says -----------------------------------------------------------------------------

    def _submitted(self, event: ev.JobSubmitted, at_us: int) -> None:
        spec = event.spec
        self.users[f"{spec.account}/{spec.user_id}"] = True
        self._knows_account(spec.account)
        if spec.array is None:
            self.lives[event.job_id] = Life(event.job_id, str(event.number), spec, at_us)
            return
        id_of = task_ids(event.job_id)
        indices = [index for one in spec.array.ranges for index in one.indices]
        tasks = [
            Life(id_of(place), f"{event.number}_{index}", spec, at_us) for place, index in enumerate(indices)
        ]
        self._tasks[event.job_id] = tasks
        self.lives.update((life.id, life) for life in tasks)

    def _knows_account(self, path: str) -> None:
        while path and path not in self.accounts:
            self.accounts[path] = True
            path = path.rpartition("/")[0]

    def _share_set(self, event: ev.ShareSet, at_us: int) -> None:
        if event.user:
            self.users[event.path] = True
        self._knows_account(event.path.rpartition("/")[0] if event.user else event.path)

    def _quota_set(self, event: ev.QuotaSet, at_us: int) -> None:
        self._knows_account(event.path)

    def _scheduled(self, event: ev.JobScheduled, at_us: int) -> None:
        life = self.lives[event.job_id]
        life.state = JobState.SCHEDULED
        life.attempts.append(Attempt(event.allocation, at_us))

    def _started(self, event: ev.JobStarted, at_us: int) -> None:
        self.lives[event.job_id].state = JobState.RUNNING
        self.attempt(event).started_us = at_us

    def _saved(self, event: ev.CheckpointRecorded, at_us: int) -> None:
        self.attempt(event).saved_us.append(at_us)

    def _stopping(self, event: Any, at_us: int) -> None:
        attempt = self.attempt(event)
        attempt.stop_us = attempt.stop_us or at_us
        attempt.over_limit = attempt.over_limit or type(event) is ev.TimeLimitReached

    def _preempted(self, event: ev.JobPreempted, at_us: int) -> None:
        life = self.lives[event.job_id]
        life.preempted += 1
        life.lost_gpu_us += event.lost_gpu_us
        _end(life, JobState.PREEMPTED, End.STOPPED, None, at_us)

    def _requeued(self, event: ev.JobRequeued, at_us: int) -> None:
        _end(self.lives[event.job_id], JobState.QUEUED, _REQUEUED[event.cause], event.exit, at_us)

    def _completed(self, event: ev.JobCompleted, at_us: int) -> None:
        life = self.lives[event.job_id]
        life.ended_us = at_us
        _end(life, JobState.COMPLETED, End.OWN, event.exit, at_us)

    def _failed(self, event: ev.JobFailed, at_us: int) -> None:
        for life in self._alive(event.job_id):
            stopped = bool(life.attempts) and life.attempts[-1].over_limit
            life.ended_us = at_us
            _end(life, JobState.FAILED, End.STOPPED if stopped else End.OWN, event.exit, at_us)

    def _cancelled(self, event: ev.JobCancelled, at_us: int) -> None:
        for life in self._alive(event.job_id):
            life.ended_us = at_us
            if life.attempts and life.attempts[-1].end is None:
                life.attempts[-1].stop_us = life.attempts[-1].stop_us or at_us
            _end(life, JobState.CANCELLED, End.STOPPED, None, at_us)

    def _alive(self, id: str) -> Iterator[Life]:
        return (life for life in self.concerned(id) if not life.ended_us)

    def _released(self, event: ev.AllocationReleased, at_us: int) -> None:
        attempt = self.attempt(event)
        attempt.released_us = at_us
        attempt.exit = event.exit or attempt.exit

    def _node_is_there(self, event: ev.NodeRegistered | ev.NodeChanged, at_us: int) -> None:
        self.inventories[event.node] = event.inventory
        self._has(event.node, len(event.inventory.devices), at_us)

    def _node_lost(self, event: ev.NodeLost, at_us: int) -> None:
        self._has(event.node, 0, at_us)

    def _has(self, node: str, gpus: int, at_us: int) -> None:
        self._gpus[node] = gpus
        self.capacity.append((at_us, sum(self._gpus.values())))


def _end(life: Life, state: JobState, end: End, exit: Exit | None, at_us: int) -> None:
    """The job is in this state now, and its attempt, if one was going on, is over."""
    life.state = state
    if life.attempts and life.attempts[-1].end is None:
        attempt = life.attempts[-1]
        attempt.end, attempt.exit, attempt.ended_us = end, exit, at_us


_REQUEUED: Final = {
    ev.RequeueCause.RETRY: End.OWN,
    ev.RequeueCause.LOST: End.ACCIDENT,
    ev.RequeueCause.DEVICE: End.ACCIDENT,
    ev.RequeueCause.PREEMPTION: End.STOPPED,
    ev.RequeueCause.REQUEST: End.STOPPED,
}
_STEPS: Final[dict[type[ev.Event], Callable[[Course, Any, int], None]]] = {
    ev.JobSubmitted: Course._submitted,
    ev.ShareSet: Course._share_set,
    ev.QuotaSet: Course._quota_set,
    ev.JobScheduled: Course._scheduled,
    ev.JobStarted: Course._started,
    ev.CheckpointRecorded: Course._saved,
    ev.TimeLimitReached: Course._stopping,
    ev.PreemptionRequested: Course._stopping,
    ev.RequeueRequested: Course._stopping,
    ev.JobPreempted: Course._preempted,
    ev.JobRequeued: Course._requeued,
    ev.JobCompleted: Course._completed,
    ev.JobFailed: Course._failed,
    ev.JobCancelled: Course._cancelled,
    ev.AllocationReleased: Course._released,
    ev.NodeRegistered: Course._node_is_there,
    ev.NodeChanged: Course._node_is_there,
    ev.NodeLost: Course._node_lost,
}


def course_of(log: Iterable[ev.Recorded]) -> Course:
    """The course that a log tells. O(events)."""
    course = Course()
    for recorded in log:
        course.see(recorded.event, recorded.recorded_at_us)
    return course


# --- what it says of a policy ---------------------------------------------------------------------------


class Bounds(Struct, frozen=True):
    """Which jobs count, and when a course is cut off."""

    since_us: int
    """Jobs count that were submitted from here on,"""
    until_us: int
    """and before this."""
    end_us: int
    """What is not over by then is taken as it is."""


class Fared(Measures, frozen=True, kw_only=True):
    """How the jobs of a course fared. Waits are those of all of them, the others' numbers of those that ran;
    utilisation is what all jobs held between the bounds."""

    counted: int
    """All of them."""
    preemptions: int
    lost_gpu_h: float
    """GPU-hours of work that they lost by them."""
    gpu_h: float
    """GPU-hours that they held."""


def fared(course: Course, bounds: Bounds) -> Fared:
    """The numbers of the jobs that count, of which there is one at least. O(jobs log jobs)."""
    end_us = bounds.end_us
    lives = course.counted(bounds.since_us, bounds.until_us)
    ran = [life for life in lives if life.attempts]
    users = _users(lives, end_us)
    return Fared(
        jobs=len(ran),
        wait_s=spread([life.wait_us(end_us) / SECOND_US for life in lives]),
        bounded_slowdown=spread([_slowdown(life, end_us) for life in ran] or [1.0]),
        utilisation=_utilisation(course, bounds),
        fairness=Fairness(jain([user.progress for user in users]), users),
        counted=len(lives),
        preemptions=sum(life.preempted for life in lives),
        lost_gpu_h=sum(life.lost_gpu_us for life in lives) / HOUR_US,
        gpu_h=sum(_gpu_us(life, end_us) for life in lives) / HOUR_US,
    )


def _slowdown(life: Life, end_us: int) -> float:
    """How many times longer than its run a job took, as of traces: from submission to end, at least 1. What
    was lost on the way is no part of its run."""
    took_s = ((life.ended_us or end_us) - life.submitted_us) / SECOND_US
    return max(1.0, took_s / max(life.useful_us(end_us) / SECOND_US, BSLD_THRESHOLD_S))


def _gpu_us(life: Life, end_us: int) -> int:
    return life.spec.gpu_count * sum(attempt.held_us(end_us) for attempt in life.attempts)


def _users(lives: Iterable[Life], end_us: int) -> list[UserOutcome]:
    by_user: dict[tuple[str, str], list[Life]] = {}
    for life in lives:
        by_user.setdefault((life.spec.account, life.spec.user_id), []).append(life)
    users = [_user(account, user, theirs, end_us) for (account, user), theirs in by_user.items()]
    users.sort(key=lambda one: (-one.gpu_s, one.account, one.user))
    return users


def _user(account: str, user: str, lives: list[Life], end_us: int) -> UserOutcome:
    """A CPU job counts in progress as if it had one GPU."""
    held_us = waited_us = 0
    for life in lives:
        weight = max(1, life.spec.gpu_count)
        held_us += weight * sum(attempt.held_us(end_us) for attempt in life.attempts)
        waited_us += weight * life.wait_us(end_us)
    slowdowns = [_slowdown(life, end_us) for life in lives if life.attempts]
    return UserOutcome(
        account,
        user,
        jobs=len(lives),
        gpu_s=sum(_gpu_us(life, end_us) for life in lives) // SECOND_US,
        mean_wait_s=fsum(life.wait_us(end_us) for life in lives) / len(lives) / SECOND_US,
        mean_bounded_slowdown=fsum(slowdowns) / len(slowdowns) if slowdowns else 1.0,
        progress=held_us / (held_us + waited_us) if held_us + waited_us else 1.0,
    )


def _utilisation(course: Course, bounds: Bounds) -> float:
    """Of the GPU time there was between the bounds, on nodes that were not lost, what jobs held."""
    first_us, last_us = max(bounds.since_us, course.first_us), min(bounds.until_us, bounds.end_us)

    def inside(begin_us: int, end_us: int) -> int:
        return max(0, min(end_us, last_us) - max(begin_us, first_us))

    steps = [*course.capacity, (last_us, 0)]
    there = sum(gpus * inside(at_us, next_us) for (at_us, gpus), (next_us, _) in pairwise(steps))
    held = sum(
        life.spec.gpu_count * inside(attempt.scheduled_us, attempt.released_us or bounds.end_us)
        for life in course.lives.values()
        for attempt in life.attempts
    )
    return held / there if there else 0.0


def gpus_most(course: Course) -> int:
    """The most GPUs that there ever were."""
    return max((gpus for _, gpus in course.capacity), default=0)


def simulation_of(course: Course, bounds: Bounds) -> Simulation:
    """For pictures, in whole seconds: every attempt of the jobs that count, from when it began to wait."""
    lives = course.counted(bounds.since_us, bounds.until_us)
    zero_s = min(life.submitted_us for life in lives) // SECOND_US
    ran = tuple(one for life in lives for one in _attempts_drawn(life, bounds.end_us))
    return Simulation(zero_s, ran, (), (), Estimates(), 0, 0, 0.0)


def _attempts_drawn(life: Life, end_us: int) -> Iterator[Ran]:
    since_us, spec = life.submitted_us, life.spec
    for attempt in life.attempts:
        start_s = attempt.scheduled_us // SECOND_US
        run_s = max(1, attempt.held_us(end_us) // SECOND_US)
        job = TraceJob(
            life.name, since_us // SECOND_US, run_s, spec.gpu_count, run_s, spec.user_id, spec.account
        )
        yield Ran(job, start_s)
        since_us = attempt.ended_us
