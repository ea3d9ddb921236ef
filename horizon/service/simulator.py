"""Runs a trace through the very core that schedules real jobs, on a clock of its own and without a database.

Every job of the trace is a ``Submit`` to ``decide``, every start and end a report, and ``schedule`` says who
starts: what is simulated is what Horizon would do, not a model of it. Time stands still within an instant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, decide
from horizon.core.evolve import evolve
from horizon.core.model import Device, Exit, Inventory, JobSpec
from horizon.core.policy import Policy
from horizon.core.schedule import schedule
from horizon.core.state import SECOND_US, Estimates, State
from horizon.service.traces import TraceJob

BEGIN_US: Final = 1_000_000_000 * SECOND_US
"""When the first job is submitted. Not at 0, which in many places stands for never."""
PROGRESS_JOBS: Final = 250
"""Ended jobs from one call for progress to the next."""

ANY_TYPE: Final = "GPU"
"""The type of the GPUs where it makes no difference."""

_WORLD: Final = "trace"
"""The actor of all that does not come from a cycle."""
_CYCLE: Final = "scheduler"
_NO_ID: Final = bytes(16)
_DONE: Final = Exit(exit_code=0)


class Limits(StrEnum):
    """What is taken for a job's time limit, by which all planning is done."""

    USER = "user"
    """What its user said."""
    PERFECT = "perfect"
    """What it really takes."""


class Instants(StrEnum):
    """In which order things happen that happen at one instant."""

    BATCH = "batch"
    """All ends, then all submissions, then one cycle: as when they reach the scheduler together."""
    EACH = "each"
    """One by one, a cycle after each: the submissions, then the ends, as they began. What is held by jobs
    that were expected to end at this instant is free from its beginning."""


class Hardware(Struct, frozen=True):
    """A cluster of nodes that are all alike."""

    nodes: int
    gpus_per_node: int
    gpu_type: str = ANY_TYPE

    @property
    def gpus_total(self) -> int:
        return self.nodes * self.gpus_per_node

    def inventories(self) -> Iterable[Inventory]:
        for node in range(1, self.nodes + 1):
            devices = tuple(
                Device(f"{node}-{index}", index, self.gpu_type, memory_mib=1024)
                for index in range(self.gpus_per_node)
            )
            yield Inventory(f"node-{node}", 0, 0, devices, simulated=True)


class Ran(Struct, frozen=True, gc=False):
    """A job and when it started, in seconds from the zero of its trace."""

    job: TraceJob
    start_s: int

    @property
    def end_s(self) -> int:
        return self.start_s + self.job.run_s

    @property
    def wait_s(self) -> int:
        return self.start_s - self.job.submit_s


class Simulation(Struct, frozen=True):
    """What became of the jobs of a trace."""

    zero_s: int
    """The first submission, in seconds from the zero of the trace."""
    ran: tuple[Ran, ...]
    """By submission."""
    too_large: tuple[TraceJob, ...]
    """Jobs that this hardware can never hold: cancelled as soon as they were submitted."""
    left: tuple[TraceJob, ...]
    """Jobs that still waited when nothing more could happen."""
    estimates: Estimates
    events: int
    cycles: int
    wall_s: float


def simulate(
    jobs: tuple[TraceJob, ...],
    hardware: Hardware,
    policy: Policy,
    limits: Limits = Limits.USER,
    instants: Instants = Instants.BATCH,
    progress: Callable[[int], None] = lambda ended: None,
) -> Simulation:
    """Run these jobs, in order of submission, to their ends; ``progress`` is told how many have ended.

    ``Rejected`` when the policy is not valid. O(cycles), and what the cycles cost.
    """
    began = time.perf_counter()
    simulator = _Simulator(jobs, limits, progress)
    simulator.prepare(hardware, policy)
    simulator.run(instants)
    return simulator.result(time.perf_counter() - began)


class _Simulator:
    """The state of the core, the events of the trace to come, and the clock between them."""

    def __init__(self, jobs: tuple[TraceJob, ...], limits: Limits, progress: Callable[[int], None]) -> None:
        self._jobs = jobs
        self._estimates_s = [job.run_s if limits is Limits.PERFECT else job.estimate_s for job in jobs]
        self._progress = progress
        self._state = State()
        self._zero_s = jobs[0].submit_s if jobs else 0
        self._now_s = self._zero_s
        self._now_us = BEGIN_US
        self._submitted = 0
        """How many of the jobs; the next is the one at this place."""
        self._starts_s: dict[int, int] = {}
        """By the job's place."""
        self._ends: list[tuple[int, int, int]] = []
        """Heap of (end, how many had started before, the job's place)."""
        self._too_large: list[int] = []
        """By their places."""
        self._cycles = 0
        self._ended = 0

    def prepare(self, hardware: Hardware, policy: Policy) -> None:
        self._do(cmd.SetPolicy(policy))
        for inventory in hardware.inventories():
            self._do(cmd.RegisterNode(inventory))

    def run(self, instants: Instants) -> None:
        instant = self._together if instants is Instants.BATCH else self._one_by_one
        while self._move_on():
            instant()

    def result(self, wall_s: float) -> Simulation:
        jobs, starts_s = self._jobs, self._starts_s
        gone = {*starts_s, *self._too_large}
        return Simulation(
            self._zero_s,
            tuple(Ran(jobs[place], start_s) for place, start_s in sorted(starts_s.items())),
            tuple(jobs[place] for place in self._too_large),
            tuple(job for place, job in enumerate(jobs) if place not in gone),
            self._state.estimates,
            self._state.position,
            self._cycles,
            wall_s,
        )

    # --- the clock ------------------------------------------------------------------------------------

    def _move_on(self) -> bool:
        """To the next instant at which anything happens; False when nothing more will."""
        moments = [self._ends[0][0]] if self._ends else []
        if self._submitted < len(self._jobs):
            moments.append(self._jobs[self._submitted].submit_s)
        if not moments:
            return False
        self._now_s = min(moments)
        self._now_us = BEGIN_US + (self._now_s - self._zero_s) * SECOND_US
        return True

    def _together(self) -> None:
        for place in self._ending():
            self._end(place)
        while self._submitting():
            self._submit()
        self._cycle()

    def _one_by_one(self) -> None:
        ending = self._ending()
        expected = {place for place in ending if self._estimates_s[place] == self._jobs[place].run_s}
        for place in ending:
            if place in expected:
                self._end(place)
        while self._submitting():
            self._submit()
            self._cycle()
        for place in ending:
            if place not in expected:
                self._end(place)
            self._cycle()

    def _submitting(self) -> bool:
        """Whether there is one more job to submit at this instant."""
        return self._submitted < len(self._jobs) and self._jobs[self._submitted].submit_s == self._now_s

    def _ending(self) -> list[int]:
        """The places of the jobs that end at this instant, as they started."""
        ending = []
        while self._ends and self._ends[0][0] == self._now_s:
            ending.append(heappop(self._ends)[2])
        return ending

    # --- what happens ---------------------------------------------------------------------------------

    def _submit(self) -> None:
        place = self._submitted
        self._submitted += 1
        job = self._jobs[place]
        id = str(place)
        limit_s = self._estimates_s[place]
        spec = JobSpec(job.user, "true", job.gpus, account=job.account, time_limit_s=limit_s)
        self._do(cmd.Submit(id, spec))
        state = self._state
        if not state.cluster.nodes_for(state.shapes[state.jobs[id].shape].request):
            # It would wait for ever, and under a strict policy all that comes after it, too.
            self._do(cmd.Cancel(id, "this cluster can never hold it"))
            self._too_large.append(place)

    def _cycle(self) -> None:
        """What the scheduler decides now, until it has nothing more to decide."""
        more = True
        while more:
            cycle = schedule(self._state, self._now_us)
            self._cycles += 1
            self._record(cycle.events, _CYCLE)
            for event in cycle.events:
                if type(event) is ev.JobScheduled:
                    self._start(int(event.job_id), event.attempt)
                else:
                    assert type(event) is ev.JobReserved, "jobs of a trace end by themselves"
            more = cycle.more

    def _start(self, place: int, attempt: int) -> None:
        self._do(cmd.ReportStarted(str(place), attempt))
        heappush(self._ends, (self._now_s + self._jobs[place].run_s, len(self._starts_s), place))
        self._starts_s[place] = self._now_s

    def _end(self, place: int) -> None:
        id = str(place)
        self._do(cmd.ReportEnded(id, self._state.jobs[id].attempt, _DONE))
        self._ended += 1
        if self._ended % PROGRESS_JOBS == 0:
            self._progress(self._ended)

    def _do(self, command: cmd.Command) -> None:
        given = Given(_WORLD, self._now_us, self._state.next_number)
        self._record(decide(self._state, command, given), _WORLD)

    def _record(self, events: Iterable[ev.Event], actor: str) -> None:
        """Fold events that no log will hold: their envelopes have no payload and no hash."""
        state, now_us = self._state, self._now_us
        for event in events:
            stream = event.stream
            version = state.stream_version(stream) + 1
            name = type(event).__name__
            position = state.position + 1
            evolve(
                state,
                ev.Recorded(
                    position, now_us, 1, name, 1, stream, version, actor, _NO_ID, _NO_ID, 0, b"", b"", event
                ),
            )
