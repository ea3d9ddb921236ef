"""How long jobs run and how their attempts go, by what a log says of them: to be asked once its course is
another. (Not the scripts that users submit.) Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import TypeVar

from msgspec import Struct

from horizon.core.model import Exit, JobSpec
from horizon.core.policy import Policy
from horizon.core.state import SECOND_US, Job
from horizon.service.course import Attempt, Course, End, Life

T = TypeVar("T")


class Trial(Struct, frozen=True):
    """A run of a job's command to an end of its own, however often it was interrupted."""

    work_us: int | None
    """From start to end; None if the log does not know, since something else ended it, or nothing has yet:
    then it runs until something stops it."""
    saves_us: tuple[int, ...] = ()
    """When it saves its work, by the work done."""
    exit: Exit = Exit(exit_code=0)
    started: bool = True
    """Or its launch failed."""
    release_us: int = 0
    """From its end until every process was gone."""
    guessed: bool = False
    """Whether the job never ran in the record."""


Stopping = tuple[int, int]
Place = tuple[int, int]
"""Which trial of a job comes next, and from what work on."""


class Script(Struct, frozen=True):
    """How the attempts of a job go, by what is recorded of it.

    A job's own ends come in their order and after the same work. What is done between a start, or a saved
    moment, and an interruption is done again. What the log does not know of a job:

    * how long it would have run, had nobody cancelled it, no time limit stopped it, or the log not ended: it
      runs until something stops it, and the cancel comes when it came;
    * how long it runs, if it never did: a guess (``Scripts``).
    """

    trials: tuple[Trial, ...]
    places: tuple[Place, ...]
    """Before each recorded attempt, and after the last."""
    launches_us: tuple[int, ...]
    """For each recorded attempt, and for those that may follow: how long it takes from being placed until its
    processes run."""
    stops_us: tuple[Stopping, ...]
    """The same from being asked to stop until it has ended, and from then until its processes are gone."""

    def trial(self, place: Place) -> Trial:
        """The last one is repeated should there be more."""
        return self.trials[min(place[0], len(self.trials) - 1)]

    def launch_us(self, attempt: int) -> int:
        return self.launches_us[min(attempt, len(self.launches_us)) - 1]

    def stop_us(self, attempt: int) -> Stopping:
        return self.stops_us[min(attempt, len(self.stops_us)) - 1]


class Scripts:
    """Those of all jobs of a recorded course; each is written when it is first asked for."""

    def __init__(self, course: Course, policy: Policy) -> None:
        self._lives = course.lives
        self._policy = policy
        self._known: dict[str, Script] = {}
        launches_us: list[int] = []
        stops_us: list[int] = []
        self._works_us: dict[tuple[object, ...], list[int]] = {}
        for life in course.lives.values():
            launches_us += [one for one in map(_launch_us, life.attempts) if one is not None]
            stops_us += [sum(one) for one in map(_stop_us, life.attempts) if one is not None]
            for trial in _trials(life)[0]:
                if trial.work_us is not None and trial.started:
                    for key in _keys(life.spec):
                        self._works_us.setdefault(key, []).append(trial.work_us)
        self._launch_us = median_low(launches_us) if launches_us else 0
        self._stop_us = median_low(stops_us) if stops_us else 0

    def of(self, id: str) -> Script:
        script = self._known.get(id)
        if script is None:
            script = self._known[id] = self._written(self._lives[id])
        return script

    def attempt(self, job: Job) -> Attempt:
        """The recorded attempt that the job, as recorded, is at."""
        return self._lives[job.id].attempts[job.attempt - 1]

    def _written(self, life: Life) -> Script:
        trials, places, unfinished = _trials(life)
        if unfinished is not None:
            trials.append(unfinished)
        elif not trials:
            trials.append(self._guess(life.spec))
        launches_us = _filled(map(_launch_us, life.attempts), self._launch_us)
        by_median: Stopping = min(self._stop_us, life.spec.grace_period_s * SECOND_US), 0
        stops_us = _filled(map(_stop_us, life.attempts), by_median)
        return Script(tuple(trials), tuple(places), launches_us, stops_us)

    def _guess(self, spec: JobSpec) -> Trial:
        """For a job that never ran: the median of its user's jobs that ask for the same, else of all of its
        user's, else its time limit, else what planning assumes."""
        for key in _keys(spec):
            if key in self._works_us:
                return Trial(median_low(self._works_us[key]), guessed=True)
        return Trial((spec.time_limit_s or self._policy.assumed_time_limit_s) * SECOND_US, guessed=True)


def _keys(spec: JobSpec) -> tuple[tuple[object, ...], ...]:
    owner = (spec.account, spec.user_id)
    asked = (spec.gpu_count, spec.gpu_type, spec.cpu_cores, spec.memory_mib, spec.nodes)
    return (*owner, *asked), owner


def _launch_us(attempt: Attempt) -> int | None:
    """Of a launch that failed: until that was known. None for what is not in the log."""
    if attempt.started_us or attempt.end is End.OWN:
        return (attempt.started_us or attempt.ended_us) - attempt.scheduled_us
    return None


def _stop_us(attempt: Attempt) -> Stopping | None:
    """None when it was not asked to stop, or is not gone yet."""
    stop_us, ended_us, gone_us = attempt.stop_us, attempt.ended_us, attempt.released_us
    if not (stop_us and gone_us):
        return None
    # A cancel ends the job at once, and its processes follow.
    return (ended_us - stop_us, gone_us - ended_us) if ended_us > stop_us else (gone_us - stop_us, 0)


def _filled(known: Iterable[T | None], otherwise: T) -> tuple[T, ...]:
    """Each as it is known, else as the last one that is; and one more for all that follow."""
    filled: list[T] = []
    last = otherwise
    for one in known:
        last = last if one is None else one
        filled.append(last)
    return (*filled, last)


def _trials(life: Life) -> tuple[list[Trial], list[Place], Trial | None]:
    """The trials that came to an end of their own, the places before each attempt and after the last, and the
    trial that was begun and has no such end."""
    trials: list[Trial] = []
    places: list[Place] = []
    place, saves_us, begun = (0, 0), list[int](), False
    for attempt in life.attempts:
        places.append(place)
        saves_us += [place[1] + at_us - attempt.started_us for at_us in attempt.saved_us]
        if attempt.end is End.OWN:
            trials.append(_ended_trial(attempt, place[1], saves_us))
            place, saves_us, begun = (len(trials), 0), [], False
        else:
            begun = begun or attempt.started_us > 0
            place = (len(trials), saves_us[-1] if saves_us else 0)
    places.append(place)
    return trials, places, Trial(None, tuple(saves_us)) if begun else None


def _ended_trial(attempt: Attempt, base_us: int, saves_us: Sequence[int]) -> Trial:
    started = attempt.started_us > 0
    work_us = base_us + attempt.ended_us - attempt.started_us if started else 0
    release_us = max(0, (attempt.released_us or attempt.ended_us) - attempt.ended_us)
    return Trial(work_us, tuple(saves_us), attempt.exit or Exit(), started, release_us)
