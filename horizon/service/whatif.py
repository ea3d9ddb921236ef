"""The history of a log, once more, under another policy, other shares, or on another cluster. Pure.

What came from outside is taken from the log at its recorded moments: submissions with their ids and numbers,
cancels, holds, updates and requeues that people asked for, nodes, devices, bookings, settings. What Horizon
decided is decided anew by the same core.

As long as that decides what is recorded, the log itself is followed, event by event. Every recorded cycle is
decided again, at its moment, on the state that it was decided on; after all else that is recorded, and when
time alone counts, both settings are asked. So settings that are those of the record give the record. From the
first decision that differs on, attempts run as ``scripts`` says of their job, and a cycle runs whenever
something has happened. The course ends where the log does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import EXECUTOR, SCHEDULER, AllocationState, Exit, JobState
from horizon.core.schedule import Cycle, schedule
from horizon.core.state import State
from horizon.service.course import Course
from horizon.service.processes import Processes
from horizon.service.scripts import Scripts
from horizon.service.supposition import BadSupposition, Supposition, nodes_like

PROGRESS_EVENTS: Final = 2_000
"""Events of the log from one call for progress to the next."""

_NO_ID: Final = bytes(16)
_VANISHED: Final = Exit(error="it vanished with its node")


class WhatIf(Struct, frozen=True):
    """How it would have gone."""

    course: Course
    state: State
    """In the end."""
    diverged: int
    """The position of the first recorded event that is not followed; 0 when all were."""
    diverged_us: int
    guessed: tuple[str, ...]
    """Jobs that ran and never did in the record, by name: their run time is a guess."""
    impossible: tuple[str, ...]
    """Jobs that wait in the end and could not start were the cluster empty, by name."""
    refused: int
    """Things that people asked for and that could not be: a job was not, or was no longer, what it was."""
    cycles: int
    wall_s: float


def what_if(
    log: Sequence[ev.Recorded],
    recorded: Course,
    supposition: Supposition,
    since_us: int = 0,
    progress: Callable[[int], None] = lambda events: None,
) -> WhatIf:
    """The course of a log, from its first event on, were things otherwise from a moment on.

    ``recorded`` is the course that it tells. ``progress`` is told how many of its events have been gone
    through. ``BadSupposition`` when it cannot be. O(events + cycles, and what the cycles cost).
    """
    began = time.perf_counter()
    for fault in supposition.faults(log, recorded):
        raise BadSupposition(fault)
    replay = _Replay(log, recorded, supposition, since_us, progress)
    replay.run()
    return replay.result(time.perf_counter() - began)


class _Replay:
    """The state as it would be, and how much of the log it has gone through."""

    def __init__(
        self,
        log: Sequence[ev.Recorded],
        recorded: Course,
        supposition: Supposition,
        since_us: int,
        progress: Callable[[int], None],
    ) -> None:
        self._log = log
        self._recorded = recorded
        self._supposition = supposition
        self._since_us = since_us
        self._progress = progress
        self._state = State()
        self._twin = State() if supposition.policy or supposition.shares else None
        """As it is recorded, to be asked the same; None when there is no difference, or it is known."""
        self._course = Course()
        self._at = 0
        """How many of the log's events have been gone through."""
        self._cycle = Cycle((), 0, False)
        """The last one, recorded or not, and its moment:"""
        self._asked_us = 0
        self._due = False
        """Whether something has happened since by which a job may start that could not before."""
        self._queued = 0
        """How many jobs stood in the queue after the last event."""
        self._cycles = 0
        self._diverged = self._diverged_us = 0
        self._now_us = 0
        self._refused = 0
        self._processes: Processes | None = None
        """None until the course diverges."""

    def run(self) -> None:
        log = self._log
        while self._at < len(log) and log[self._at].recorded_at_us < self._since_us:
            self._follow_event()
        self._begin()
        while not self._diverged and self._at < len(log):
            self._follow_moment()
        if self._processes is not None:
            self._go_on(self._processes)
        self._progress(len(log))

    def result(self, wall_s: float) -> WhatIf:
        state, lives = self._state, self._course.lives
        guessed = {} if self._processes is None else self._processes.guessed
        waiting = (job for job in state.numbered if job.state is JobState.QUEUED and job.id in lives)
        return WhatIf(
            self._course,
            state,
            self._diverged,
            self._diverged_us,
            tuple(life.name for id, life in lives.items() if id in guessed),
            tuple(
                lives[job.id].name
                for job in waiting
                if not state.cluster.nodes_for(state.shapes[job.shape].request)
            ),
            self._refused,
            self._cycles,
            wall_s,
        )

    def _begin(self) -> None:
        """From here on things are otherwise."""
        at_us = max(self._since_us, self._state.recorded_at_us) or self._log[0].recorded_at_us
        self._asked_us, self._due = at_us, True
        self._record(self._supposition.settings(self._state, self._recorded), "what if", at_us)
        if self._supposition.cluster is not None:
            inventories = list(nodes_like(self._supposition.cluster, self._recorded.inventories.values()))
            closed = [ev.NodeCordoned(node=name, by="what if") for name in self._state.nodes]
            self._record(closed, "what if", at_us)
            joined = [ev.NodeRegistered(node=one.name, inventory=one) for one in inventories]
            self._record(joined, "what if", at_us)
            self._diverge(at_us)

    # --- as long as it goes as recorded -----------------------------------------------------------------

    def _follow_moment(self) -> None:
        """All that was recorded at the next moment at which anything was."""
        log, at_us = self._log, self._log[self._at].recorded_at_us
        self._ask_before(at_us)
        while not self._diverged and self._at < len(log) and log[self._at].recorded_at_us == at_us:
            if _cycle_of(log[self._at].event):
                self._follow_cycle()
            else:
                self._follow_event()
        if self._due and not self._diverged:
            self._ask(at_us)

    def _follow_event(self) -> None:
        """Fold the next event, but for what is to be otherwise once that has begun."""
        recorded = self._log[self._at]
        begun = self._asked_us > 0
        event = self._supposition.supposed(recorded.event) if begun else recorded.event
        self._fold(recorded, event)
        self._pass_on()

    def _pass_on(self) -> None:
        """The next event of the log has been gone through."""
        if self._twin is not None:
            evolve(self._twin, self._log[self._at])
        self._at += 1
        if self._at % PROGRESS_EVENTS == 0:
            self._progress(self._at)

    def _follow_cycle(self) -> None:
        """Decide a recorded cycle again; if that gives what is recorded, go on behind it."""
        log, first = self._log, self._at
        number, end = _cycle_of(log[first].event), first + 1
        while end < len(log) and _cycle_of(log[end].event) == number:
            end += 1
        now_us: int = log[first].event.now_us  # type: ignore[attr-defined]
        cycle = self._schedule(now_us)
        if _decisions(cycle.events) != _decisions(one.event for one in log[first:end]):
            self._diverge(max(now_us, self._state.recorded_at_us), cycle)
            return
        self._record(cycle.events, SCHEDULER, log[first].recorded_at_us, log[first])
        while self._at < end:
            self._pass_on()

    def _ask_before(self, at_us: int) -> None:
        """Ask at the moments before this one at which time alone may let something start."""
        while self._twin is not None:
            next_us = self._alone_us()
            if next_us is None or next_us >= at_us:
                return
            self._ask(next_us)

    def _ask(self, at_us: int) -> None:
        """Whether the two settings, asked at this moment, decide the same: then the record goes on, and says
        when it was decided."""
        if self._twin is None:
            return
        cycle = self._schedule(at_us)
        decisions = _decisions(cycle.events)
        if decisions and decisions != _decisions(schedule(self._twin, at_us).events):
            self._diverge(at_us, cycle)

    def _schedule(self, now_us: int) -> Cycle:
        self._cycle = schedule(self._state, now_us)
        self._cycles += 1
        self._asked_us, self._due = now_us, self._cycle.more
        return self._cycle

    # --- once it goes otherwise -------------------------------------------------------------------------

    def _diverge(self, at_us: int, cycle: Cycle | None = None) -> None:
        """From here on nothing that Horizon decided, and no report, is taken from the log."""
        self._twin = None
        self._diverged = self._at + 1
        self._diverged_us = self._now_us = at_us
        self._processes = Processes(self._state, Scripts(self._recorded, self._state.policy))
        for job in self._state.holding.values():
            self._processes.adopt(job, at_us)
        if cycle is not None:
            self._take(cycle.events)

    def _go_on(self, processes: Processes) -> None:
        """From moment to moment, to the end of the log."""
        end_us = self._log[-1].recorded_at_us
        self._decide_all()
        while (moment_us := self._next_moment(processes)) is not None and moment_us <= end_us:
            self._now_us = moment_us
            alone_us = self._alone_us()
            self._due = self._due or (alone_us is not None and alone_us <= moment_us)
            for report in processes.reports(moment_us):
                self._do(report, EXECUTOR)
            while self._at < len(self._log) and self._log[self._at].recorded_at_us <= moment_us:
                self._repeat(self._log[self._at])
                self._pass_on()
            if self._due:
                self._decide_all()

    def _next_moment(self, processes: Processes) -> int | None:
        recorded_us = self._log[self._at].recorded_at_us if self._at < len(self._log) else None
        moments = (processes.next_us, recorded_us, self._alone_us())
        at_us = min((one for one in moments if one is not None), default=None)
        return None if at_us is None else max(self._now_us, at_us)

    def _alone_us(self) -> int | None:
        """When time alone may next let something start, or end."""
        moments = (self._state.next_deadline_us(), self._cycle.again_us)
        return min((one for one in moments if one is not None and one > self._asked_us), default=None)

    def _decide_all(self) -> None:
        """Cycles at this moment until there is nothing more to decide."""
        self._due = True
        while self._due:
            self._take(self._schedule(self._now_us).events)

    def _take(self, events: Iterable[ev.Event]) -> None:
        self._record(events, SCHEDULER, self._now_us)

    def _repeat(self, recorded: ev.Recorded) -> None:
        """Have happen again what came from outside."""
        event = recorded.event
        kind = type(event)
        if isinstance(event, ev.JobEvent) and kind is not ev.JobSubmitted:
            asked = _ASKED.get(kind)
            if asked is not None and not _cycle_of(event):
                self._do(asked(event), recorded.actor)
            elif kind is ev.JobRequeued:
                self._strike(recorded, event)  # type: ignore[arg-type]
        elif self._concerns_us(event):
            self._record((self._supposition.supposed(event),), recorded.actor, self._now_us, recorded)

    def _concerns_us(self, event: ev.Event) -> bool:
        """Whether a fact from outside is one here, too."""
        booking = isinstance(event, ev.BookingMade | ev.BookingEnded)
        if self._supposition.cluster is not None and (
            booking or isinstance(event, ev.NodeEvent | ev.DeviceEvent)
        ):
            return False
        if type(event) is ev.BookingEnded:
            return not event.cycle and event.booking in self._state.bookings
        return True

    def _do(self, command: cmd.Command, actor: str) -> None:
        state = self._state
        try:
            events = decide(state, command, Given(actor, self._now_us, state.next_number))
        except Rejected:
            self._refused += 1
            return
        self._record(events, actor, self._now_us)

    def _strike(self, recorded: ev.Recorded, event: ev.JobRequeued) -> None:
        """An accident befalls whoever has those GPUs at that moment; of a CPU job that job, on that node."""
        if event.cause not in (ev.RequeueCause.LOST, ev.RequeueCause.DEVICE):
            return
        state, life = self._state, self._recorded.lives[event.job_id]
        attempt = next(one for one in life.attempts if one.ended_us == recorded.recorded_at_us)
        holders = [state.devices.holders.get(uuid) for one in attempt.allocation for uuid in one.gpu_ids]
        nodes = [state.nodes[one.node] for one in attempt.allocation if one.node in state.nodes]
        if not life.spec.gpu_count and any(life.id in node.jobs for node in nodes):
            holders = [life.id]
        for id in dict.fromkeys(id for id in holders if id is not None):
            job = state.jobs[id]
            if job.allocation_state is AllocationState.HELD:
                exit, lost = event.exit or _VANISHED, event.cause is ev.RequeueCause.LOST
                started = job.state is JobState.RUNNING
                self._do(cmd.ReportEnded(id, job.attempt, exit, started, lost), EXECUTOR)

    # --- recording --------------------------------------------------------------------------------------

    def _fold(self, recorded: ev.Recorded, event: ev.Event) -> None:
        """Fold a recorded event; in an envelope of its own only where plans that were made otherwise, or
        other settings, have moved its place."""
        state = self._state
        place = state.position + 1, state.stream_version(recorded.stream) + 1
        if event is recorded.event and (recorded.position, recorded.stream_version) == place:
            evolve(state, recorded)
            self._course.see(event, recorded.recorded_at_us)
            self._note(event)
        else:
            self._record((event,), recorded.actor, recorded.recorded_at_us, recorded)

    def _record(
        self, events: Iterable[ev.Event], actor: str, at_us: int, like: ev.Recorded | None = None
    ) -> None:
        """Fold events that no log will hold: their envelopes have no payload and no hash."""
        state = self._state
        for event in events:
            stream = event.stream
            recorded = ev.Recorded(
                state.position + 1,
                at_us,
                like.epoch if like else state.epoch,
                type(event).__name__,
                1,
                stream,
                state.stream_version(stream) + 1,
                actor,
                _NO_ID,
                like.correlation_id if like else _NO_ID,
                0,
                b"",
                b"",
                event,
            )
            evolve(state, recorded)
            self._course.see(event, at_us)
            self._note(event)
            if self._processes is not None:
                self._processes.follow(event, at_us)

    def _note(self, event: ev.Event) -> None:
        """Whether a cycle is to follow; a submission needs none if the last one says why it would wait, and
        what may have let others into the queue needs one if it has."""
        state, queued = self._state, self._queued
        self._queued = len(state.queue)
        if type(event) is ev.JobSubmitted:
            job = state.numbered[event.number - 1]
            self._due = self._due or not self._cycle.settles(state, job)
        elif type(event) not in _QUIET or self._queued > queued or state.doomed:
            self._due = True


def _cycle_of(event: ev.Event) -> int:
    """The number of the cycle that decided it; 0 when none did."""
    number: int = getattr(event, "cycle", 0)
    return number


def _decisions(events: Iterable[ev.Event]) -> list[tuple[Any, ...]]:
    """What a cycle's events do, without what they tell of why: plans, ranks and scores may differ."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case ev.JobReserved():
                continue
            case ev.JobScheduled():
                found.append((event.stream, event.attempt, event.allocation))
            case ev.PreemptionRequested():
                found.append((event.stream, event.attempt, event.by, event.nodes))
            case _:
                found.append((event.stream, type(event)))
    return found


_QUIET: Final = frozenset(
    {
        ev.JobScheduled,
        ev.JobReserved,
        ev.JobStarted,
        ev.CheckpointRecorded,
        ev.PreemptionRequested,
        ev.TimeLimitReached,
        ev.RequeueRequested,
        ev.AllocationOverdue,
        ev.JobPreempted,
        ev.JobCompleted,
        ev.JobFailed,
        ev.BlobsErased,
        ev.CommandRefused,
        ev.LeaderElected,
        ev.SigningKeySet,
        ev.PartitionArchived,
    }
)
"""After these no job may start that could not before, unless it comes to stand in the queue by them: nor does
the engine run a cycle then."""

_ASKED: Final[dict[type[ev.Event], Callable[[Any], cmd.Command]]] = {
    ev.JobHeld: lambda event: cmd.Update(event.job_id, hold=True, reason=event.reason),
    ev.JobReleased: lambda event: cmd.Update(event.job_id, hold=False, reason=event.reason),
    ev.JobUpdated: lambda event: cmd.Update(
        event.job_id, event.priority, event.time_limit_s, reason=event.reason
    ),
    ev.JobCancelled: lambda event: cmd.Cancel(event.job_id, event.reason),
    ev.RequeueRequested: lambda event: cmd.Requeue(event.job_id, event.reason),
}
"""What people asked for, by what came of it."""
