"""The processes of a course that might have been: nothing runs, but what they would do is reported at its
moment, as their jobs' scripts say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import AllocationState, Exit, JobState
from horizon.core.state import Job, State
from horizon.service.scripts import Place, Scripts, Trial

_STOPPED: Final = Exit(signal=15)


class Processes:
    """Those of the attempts that hold something in this state."""

    def __init__(self, state: State, scripts: Scripts) -> None:
        self._state = state
        self._scripts = scripts
        self._now_us = 0
        self._places: dict[str, Place] = {}
        """Of every job that has run here."""
        self._reports: list[tuple[int, int, Callable[[Job], cmd.Report], Job, int]] = []
        """Heap of (when, how many came before, what is reported, of which job and attempt)."""
        self._reports_made = 0
        self.guessed: dict[str, bool] = {}
        """Jobs by id that ran here and never did in the record: their run time is a guess."""

    def adopt(self, job: Job, now_us: int) -> None:
        """See an attempt on that was recorded until now."""
        self._now_us = now_us
        attempt, script = self._scripts.attempt(job), self._scripts.of(job.id)
        if job.allocation_state is AllocationState.RELEASING:
            self._report(attempt.released_us, job, _released)
            return
        self._places[job.id] = script.places[job.attempt - 1]
        if job.state is JobState.RUNNING:
            self._run(job, job.started_at_us)
        else:
            self._launch(job, job.scheduled_at_us)
        if job.stop is not None:
            self._stop(job, attempt.stop_us)

    def follow(self, event: ev.Event, now_us: int) -> None:
        """Do what follows from an event that is in the state."""
        self._now_us = now_us
        if not isinstance(event, ev.JobEvent):
            return
        job = self._state.jobs[event.job_id]
        match event:
            case ev.JobScheduled():
                if job.id not in self._places:  # it has run as recorded so far
                    self._places[job.id] = self._scripts.of(job.id).places[job.attempt - 1]
                self._launch(job, now_us)
            case ev.JobStarted():
                self._run(job, now_us)
            case ev.PreemptionRequested() | ev.TimeLimitReached() | ev.RequeueRequested():
                self._stop(job, now_us)
            case ev.JobCancelled():
                array = self._state.arrays.get(job.number)
                for one in [job] if array is None else self._state.tasks(array):
                    if one.allocation_state is not None:
                        self._stop(one, now_us)
            case ev.JobRequeued():
                self._places[job.id] = self._place_after(job, event)

    @property
    def next_us(self) -> int | None:
        """When there is something to report next."""
        return self._reports[0][0] if self._reports else None

    def reports(self, until_us: int) -> Iterator[cmd.Report]:
        """All that is to be reported by then, in order: also what follows until then from reports before it,
        if each is acted on before the next is asked for."""
        while self._reports and self._reports[0][0] <= until_us:
            _, _, report, job, attempt = heappop(self._reports)
            if job.attempt == attempt and job.allocation_state is not None:
                yield report(job)

    def _place_after(self, job: Job, event: ev.JobRequeued) -> Place:
        trial, base_us = self._places[job.id]
        if event.cause is ev.RequeueCause.RETRY:
            return trial + 1, 0
        return trial, base_us + (job.saved_at_us - job.started_at_us if job.started_at_us else 0)

    def _launch(self, job: Job, placed_us: int) -> None:
        trial = self._trial(job)
        ready_us = placed_us + self._scripts.of(job.id).launch_us(job.attempt)
        self._report(ready_us, job, _started if trial.started else _ended(trial))

    def _run(self, job: Job, started_us: int) -> None:
        """An attempt has been started: it saves its work, and comes to its end."""
        trial = self._trial(job)
        zero_us = started_us - self._places[job.id][1]
        if trial.guessed:
            self.guessed[job.id] = True
        for save_us in trial.saves_us:
            if zero_us + save_us > self._now_us:
                self._report(zero_us + save_us, job, _saved)
        if trial.work_us is not None:
            end_us = max(started_us, zero_us + trial.work_us)
            self._report(end_us, job, _ended(trial))
            if trial.release_us:
                self._report(end_us + trial.release_us, job, _released)

    def _stop(self, job: Job, asked_us: int) -> None:
        """An attempt has been asked to stop. If it comes to an end of its own before, that counts."""
        until_us, linger_us = self._scripts.of(job.id).stop_us(job.attempt)
        self._report(asked_us + until_us, job, _stopped(linger_us))
        if linger_us:
            self._report(asked_us + until_us + linger_us, job, _released)

    def _trial(self, job: Job) -> Trial:
        return self._scripts.of(job.id).trial(self._places[job.id])

    def _report(self, at_us: int, job: Job, report: Callable[[Job], cmd.Report]) -> None:
        self._reports_made += 1
        heappush(self._reports, (max(at_us, self._now_us), self._reports_made, report, job, job.attempt))


def _started(job: Job) -> cmd.Report:
    return cmd.ReportStarted(job.id, job.attempt)


def _saved(job: Job) -> cmd.Report:
    return cmd.ReportCheckpoint(job.id, job.attempt)


def _ended(trial: Trial) -> Callable[[Job], cmd.Report]:
    return lambda job: cmd.ReportEnded(
        job.id, job.attempt, trial.exit, trial.started, released=not trial.release_us
    )


def _released(job: Job) -> cmd.Report:
    return cmd.ReportReleased(job.id, job.attempt)


def _stopped(linger_us: int) -> Callable[[Job], cmd.Report]:
    return lambda job: cmd.ReportEnded(
        job.id, job.attempt, _STOPPED, started=job.state is JobState.RUNNING, released=not linger_us
    )
