"""The history of a log, once more, under another policy, other shares, or on another cluster. Pure.

What came from outside is taken from the log at its recorded moments: submissions with their ids and numbers,
cancels, holds, updates and requeues that people asked for, nodes, devices, bookings, settings. What Horizon
decided is decided anew by the same core.

As long as that decides what is recorded, the log itself is followed, event by event. Every recorded cycle is
decided again, at its moment, on the state that it was decided on; after all else that is recorded, and when
time alone counts, both settings are asked. So settings that are those of the record give the record. From the
first decision that differs on, attempts run as ``Script`` says of their job, and a cycle runs whenever
something has happened. The course ends where the log does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from statistics import median_low
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import (
    EXECUTOR,
    SCHEDULER,
    AllocationState,
    Device,
    Exit,
    Inventory,
    JobSpec,
    JobState,
)
from horizon.core.policy import Policy
from horizon.core.schedule import Cycle, schedule
from horizon.core.state import SECOND_US, Job, State
from horizon.service.course import Attempt, Course, End, Life
from horizon.service.simulator import ANY_TYPE, Hardware

PROGRESS_EVENTS: Final = 2_000
"""Events of the log from one call for progress to the next."""

T = TypeVar("T")

_NO_ID: Final = bytes(16)
_STOPPED: Final = Exit(signal=15)
_VANISHED: Final = Exit(error="it vanished with its node")


# --- what is supposed to be otherwise -------------------------------------------------------------------


class BadSupposition(Exception):
    """What is asked for cannot be, of this log. One sentence."""


class SupposedShare(Struct, frozen=True):
    """What is to be otherwise of an account or a user; None leaves it as it is recorded."""

    weight: int | None = None
    max_gpus: int | None = None
    guaranteed_gpus: int | None = None


class Supposition(Struct, frozen=True):
    """What is to be otherwise, from the beginning on or from some moment; all else is as it is recorded."""

    policy: dict[str, Any] = {}
    """Fields of ``Policy``: they hold whatever else of the policy is changed meanwhile."""
    shares: dict[str, SupposedShare] = {}
    """By path."""
    cluster: Hardware | None = None

    def policy_after(self, policy: Policy) -> Policy:
        return replace(policy, **self.policy)

    def supposed(self, event: ev.Event) -> ev.Event:
        """A recorded setting with this in it; any other event as it is."""
        if type(event) is ev.PolicySet:
            return replace(event, policy=self.policy_after(event.policy))
        share = self.shares.get(event.path) if isinstance(event, ev.ShareSet | ev.QuotaSet) else None
        if share is None:
            return event
        if type(event) is ev.ShareSet:
            return event if share.weight is None else replace(event, weight=share.weight)
        assert type(event) is ev.QuotaSet
        return _bounds(event, share)

    def faults(self, log: Sequence[ev.Recorded], course: Course) -> Iterator[str]:
        """What cannot be of it, under what this log says at any time."""
        for path, share in self.shares.items():
            bounds = share.max_gpus is not None or share.guaranteed_gpus is not None
            if path not in course.accounts and path not in course.users:
                yield f"nobody in this log has run under {path}, and nobody set its share"
            elif bounds and path not in course.accounts:
                yield f"{path} is a user: quotas are for accounts"
            for quota in [ev.QuotaSet(path=path), *_quotas(log, path)] if bounds else []:
                after = _bounds(quota, share)
                if 0 <= after.max_gpus < after.guaranteed_gpus:
                    yield (
                        f"{path} cannot be guaranteed {after.guaranteed_gpus} GPUs and hold "
                        f"{after.max_gpus} at most"
                    )
                    break

    def settings(self, state: State, course: Course) -> Iterator[ev.Event]:
        """What makes it hold in a state."""
        policy = self.policy_after(state.policy)
        if policy != state.policy:
            yield ev.PolicySet(version=state.policy_version, policy=policy, by="what if")
        for path, share in self.shares.items():
            user = path not in course.accounts
            if share.weight is not None:
                yield ev.ShareSet(path=path, weight=share.weight, user=user)
            known = state.accounts.get(path)
            before = (-1, 0) if known is None else (known.max_gpus, known.guaranteed_gpus)
            after = _bounds(ev.QuotaSet(path=path, max_gpus=before[0], guaranteed_gpus=before[1]), share)
            if (after.max_gpus, after.guaranteed_gpus) != before:
                yield after


def _bounds(event: ev.QuotaSet, share: SupposedShare) -> ev.QuotaSet:
    max_gpus, guaranteed_gpus = share.max_gpus, share.guaranteed_gpus
    return replace(
        event,
        max_gpus=event.max_gpus if max_gpus is None else max_gpus,
        guaranteed_gpus=event.guaranteed_gpus if guaranteed_gpus is None else guaranteed_gpus,
    )


def _quotas(log: Iterable[ev.Recorded], path: str) -> Iterator[ev.QuotaSet]:
    events = (recorded.event for recorded in log)
    return (event for event in events if type(event) is ev.QuotaSet and event.path == path)


def nodes_like(hardware: Hardware, recorded: Iterable[Inventory]) -> Iterator[Inventory]:
    """Nodes for another cluster: their GPUs, and cores and memory for each GPU, as on the largest recorded
    node that has GPUs of this type, else of any; the labels that all recorded nodes share.
    ``BadSupposition`` if no recorded node has a GPU."""
    nodes = list(recorded)
    with_gpus = sorted((node for node in nodes if node.devices), key=lambda node: -len(node.devices))
    if not with_gpus:
        raise BadSupposition(
            "no node in this log has a GPU: nothing says what another cluster's would be like"
        )
    wanted = hardware.gpu_type.lower()
    alike = [node for node in with_gpus if node.devices[0].gpu_type.lower() == wanted]
    model = (alike or with_gpus)[0]
    gpus, had, device = hardware.gpus_per_node, len(model.devices), model.devices[0]
    gpu_type = device.gpu_type if hardware.gpu_type == ANY_TYPE else hardware.gpu_type
    linked = len({one.link_group for one in model.devices}) == 1
    common = set.intersection(*(set(node.labels.items()) for node in nodes))
    labels = {key: value for key, value in model.labels.items() if (key, value) in common}
    for number in range(1, hardware.nodes + 1):
        name = f"what-if-{number}"
        devices = tuple(
            Device(f"{name}-{index}", index, gpu_type, device.memory_mib, device.link_group if linked else -1)
            for index in range(gpus)
        )
        cores, memory_mib = model.cpu_cores * gpus // had, model.memory_mib * gpus // had
        yield Inventory(name, cores, memory_mib, devices, labels, simulated=True)


# --- how long jobs run ----------------------------------------------------------------------------------


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


# --- the course that might have been --------------------------------------------------------------------


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
        self._scripts: Scripts | None = None
        self._places: dict[str, Place] = {}
        """Those of jobs that have run since the course diverged."""
        self._reports: list[tuple[int, int, Callable[[Job], cmd.Report], Job, int]] = []
        """Heap of (when, how many came before, what is reported, of which job and attempt)."""
        self._reports_made = 0
        self._guessed: dict[str, bool] = {}

    def run(self) -> None:
        log = self._log
        while self._at < len(log) and log[self._at].recorded_at_us < self._since_us:
            self._follow_event()
        self._begin()
        while not self._diverged and self._at < len(log):
            self._follow_moment()
        if self._diverged:
            self._go_on()
        self._progress(len(log))

    def result(self, wall_s: float) -> WhatIf:
        state, lives = self._state, self._course.lives
        waiting = (job for job in state.numbered if job.state is JobState.QUEUED and job.id in lives)
        return WhatIf(
            self._course,
            state,
            self._diverged,
            self._diverged_us,
            tuple(life.name for id, life in lives.items() if id in self._guessed),
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
        self._scripts = Scripts(self._recorded, self._state.policy)
        for job in self._state.holding.values():
            self._adopt(job)
        if cycle is not None:
            self._take(cycle.events)

    def _adopt(self, job: Job) -> None:
        """See an attempt on that was recorded until now."""
        assert self._scripts is not None
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

    def _go_on(self) -> None:
        """From moment to moment, to the end of the log."""
        end_us = self._log[-1].recorded_at_us
        self._decide_all()
        while (moment_us := self._next_moment()) is not None and moment_us <= end_us:
            self._now_us = moment_us
            alone_us = self._alone_us()
            self._due = self._due or (alone_us is not None and alone_us <= moment_us)
            while self._reports and self._reports[0][0] <= moment_us:
                self._hand_in()
            while self._at < len(self._log) and self._log[self._at].recorded_at_us <= moment_us:
                self._repeat(self._log[self._at])
                self._pass_on()
            if self._due:
                self._decide_all()

    def _next_moment(self) -> int | None:
        moments = [self._reports[0][0]] if self._reports else []
        if self._at < len(self._log):
            moments.append(self._log[self._at].recorded_at_us)
        alone_us = self._alone_us()
        moments += [] if alone_us is None else [alone_us]
        return max(self._now_us, min(moments)) if moments else None

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

    # --- the processes that might have been -------------------------------------------------------------

    def _watch(self, event: ev.Event) -> None:
        """What follows from an event for the processes."""
        assert self._scripts is not None
        if not isinstance(event, ev.JobEvent):
            return
        job = self._state.jobs[event.job_id]
        match event:
            case ev.JobScheduled():
                if job.id not in self._places:  # it has run as recorded so far
                    self._places[job.id] = self._scripts.of(job.id).places[job.attempt - 1]
                self._launch(job, self._now_us)
            case ev.JobStarted():
                self._run(job, self._now_us)
            case ev.PreemptionRequested() | ev.TimeLimitReached() | ev.RequeueRequested():
                self._stop(job, self._now_us)
            case ev.JobCancelled():
                array = self._state.arrays.get(job.number)
                for one in [job] if array is None else self._state.tasks(array):
                    if one.allocation_state is not None:
                        self._stop(one, self._now_us)
            case ev.JobRequeued():
                self._places[job.id] = self._place_after(job, event)

    def _place_after(self, job: Job, event: ev.JobRequeued) -> Place:
        trial, base_us = self._places[job.id]
        if event.cause is ev.RequeueCause.RETRY:
            return trial + 1, 0
        return trial, base_us + (job.saved_at_us - job.started_at_us if job.started_at_us else 0)

    def _launch(self, job: Job, placed_us: int) -> None:
        trial, script = self._trial(job)
        ready_us = placed_us + script.launch_us(job.attempt)
        self._report(ready_us, job, _started if trial.started else _ended(trial))

    def _run(self, job: Job, started_us: int) -> None:
        """An attempt has been started: it saves its work, and comes to its end."""
        trial, _ = self._trial(job)
        zero_us = started_us - self._places[job.id][1]
        if trial.guessed:
            self._guessed[job.id] = True
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
        assert self._scripts is not None
        until_us, linger_us = self._scripts.of(job.id).stop_us(job.attempt)
        self._report(asked_us + until_us, job, _stopped(linger_us))
        if linger_us:
            self._report(asked_us + until_us + linger_us, job, _released)

    def _trial(self, job: Job) -> tuple[Trial, Script]:
        assert self._scripts is not None
        script = self._scripts.of(job.id)
        return script.trial(self._places[job.id]), script

    def _report(self, at_us: int, job: Job, report: Callable[[Job], cmd.Report]) -> None:
        self._reports_made += 1
        heappush(self._reports, (max(at_us, self._now_us), self._reports_made, report, job, job.attempt))

    def _hand_in(self) -> None:
        _, _, report, job, attempt = heappop(self._reports)
        if job.attempt == attempt and job.allocation_state is not None:
            self._do(report(job), EXECUTOR)

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
            if self._diverged:
                self._watch(event)

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
