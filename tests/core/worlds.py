"""Seeded random lives of a cluster: everything that may be asked of Horizon, asked at random, under audit.

A life steps the real core through commands, cycles and reports, as an engine would: reports come when the
attempts that it pretends to run would send them, commands whenever chance says. Every event is shown to the
``Checker``; a second state is folded beside the live one, and every cycle is decided again on it.

    python -m tests.core.worlds --seed 7        one life, and the last events of it when a rule breaks
    python -m tests.core.worlds --seeds 10000   as many lives
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from multiprocessing import Pool
from typing import Any, Final

import msgspec
from msgspec import UNSET

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import (
    Array,
    Dependency,
    DependencyKind,
    Device,
    Exit,
    IndexRange,
    Inventory,
    JobSpec,
    JobState,
    Priority,
)
from horizon.core.policy import Order, Policy
from horizon.core.refused import kept
from horizon.core.rerun import Rerun
from horizon.core.schedule import Cycle, Reservation, schedule
from horizon.core.state import Job, State, digest
from horizon.core.why import why
from horizon.service.batch import BatchBuilder
from tests.core.checker import Broken, Checker
from tests.core.snapshots import reloaded
from tests.core.spec import BAD, SECOND, World, job_id

STEPS: Final = 60
"""Steps of a life in the suite; the nightly ones are as long, only more."""
CYCLES_TO_REST: Final = 60
"""Cycles at one moment after which there should be nothing left to decide."""
SNAPSHOTS: Final = 0.006
"""How often the twin goes on from a snapshot, of the times that something was recorded."""
STEPS_TO_END: Final = 2_000
"""Steps after which a world without arrivals should have come to its end."""

ACCOUNTS: Final = ("a", "a/x", "a/x/deep", "b", "b/y", "c")
USERS: Final = ("ann", "bob", "cyd")
LABELS: Final = {"switch": ("s1", "s2"), "rack": ("r1", "r2"), "disk": ("ssd", "hdd")}
KINDS: Final = (("H100", 81_559), ("A100", 40_536), ("A100", 81_251), ("L4", 23_034))
STOPS: Final = (ev.TimeLimitReached, ev.RequeueRequested, ev.PreemptionRequested, ev.JobCancelled)
"""Who was asked to stop may take a grace period longer than was planned."""
RUNNING: Final = (JobState.SCHEDULED, JobState.RUNNING)


class Life:
    """One life: a world, those who watch it, and the processes it pretends to run."""

    def __init__(self, seed: int, steps: int = STEPS) -> None:
        self.seed = seed
        self.steps = steps
        self.rng = random.Random(seed)
        self.world = World()
        self.checker = Checker()
        self.twin = State()
        """Folded from the log, one step behind a cycle, so that the cycle can be decided again on it."""
        self.rerun = Rerun()
        self.seen = 0
        """How much of the log the watchers have been shown."""
        self.reports: list[tuple[int, int, cmd.Command]] = []
        """Heap of (when, a number that breaks ties, what will be reported)."""
        self.told = self.submitted = 0
        self.again_us: int | None = None
        """When time alone may let something start, as the last cycle said."""
        self.stopping: set[tuple[str, int]] = set()
        """Attempts whose end is on its way since they were asked to stop."""
        self.over: set[tuple[str, int]] = set()
        """Attempts whose end has been reported."""
        self.head: Reservation | None = None
        """The first planned start of the last cycle; None when there is no promise."""
        self.quick = self.rng.random() < 0.6
        """Whether attempts start as soon as they are placed and stop as soon as they are asked to."""
        self.refusals: Counter[str] = Counter()
        self.cycles = 0
        """Cycles decided, those that decided nothing included; each was decided twice."""
        self.photographer = random.Random(f"snapshots of {seed}")
        """Decides when the twin goes on from a snapshot of itself."""
        self.snapshots = 0

    # --- the course of a life -----------------------------------------------------------------------------

    def run(self) -> Life:
        """Live, come to an end, and be found in order; ``Broken`` or ``AssertionError`` when not."""
        self._begin()
        for _ in range(self.steps):
            self._step()
        self._settle()
        assert digest(self.world.state) == digest(self.twin), "the log does not fold to the live state"
        assert self.rerun.end(self.twin) == [], "the last cycle decided more when it was decided again"
        return self

    def _begin(self) -> None:
        for number in range(self.rng.choice((1, 1, 2, 2, 3, 4, 6))):
            self.ask(cmd.RegisterNode(self._inventory(f"n{number}")))
        for account in ACCOUNTS:
            if self.rng.random() < 0.3:
                self.ask(cmd.SetShare(account, self.rng.randint(1, 5), user=False))
            if self.rng.random() < 0.3:
                self.ask(self._quota(account))
        if self.rng.random() < 0.8:
            self.ask(cmd.SetPolicy(self._policy()))
        self._cycles()

    def _step(self) -> None:
        """Something happens, or several things at once; then mostly cycles follow until all is quiet."""
        if self.rng.random() < 0.5:
            self._time_passes()
        many = self.rng.choice((1, 1, 1, 2, 4))
        if self.rng.random() < 0.2:
            self._together([self._anything() for _ in range(many)])
        else:
            for _ in range(many):
                self.ask(self._anything())
        if self.rng.random() < 0.85:
            self._cycles()

    def _time_passes(self) -> None:
        """To the next report or deadline, a little or a lot; what falls due on the way is reported late."""
        match self.rng.randrange(4):
            case 0 | 1:
                self._to_the_next_moment()
            case 2:
                self.world.later(self.rng.choice((0.000_001, 0.5, 1, 7)))
            case _:
                self.world.later(self.rng.choice((1, 30, 200)))
        self._report()

    def _to_the_next_moment(self) -> bool:
        """To when something happens by itself; False when nothing ever will."""
        moments = [self.reports[0][0]] if self.reports else []
        alone = (self.world.state.next_deadline_us(), self.again_us)
        moments += [at_us for at_us in alone if at_us is not None]
        self.world.now_us = max(self.world.now_us, min(moments, default=0))
        return bool(moments)

    def _report(self) -> None:
        """Hand in the reports that are due."""
        if self.checker.overrun(self.world.now_us - 1):
            self.head = None  # something took longer than was planned, and nobody looked
        while self.reports and self.reports[0][0] <= self.world.now_us:
            _, _, report = heappop(self.reports)
            self.ask(report)
            if self.rng.random() < 0.05:
                self.ask(report)  # told again: it must change nothing
            if self.rng.random() < 0.3:
                self._cycles()

    def _settle(self) -> None:
        """No new jobs, all nodes open, everything released: every job ends, or has a reason that lasts."""
        self._open_everything()
        for _ in range(STEPS_TO_END):
            self._cycles()
            if not self._to_the_next_moment():
                break
            self._report()
        else:
            raise Broken("the world does not come to its end")
        self._cycles()
        self.checker.at_the_end()

    def _open_everything(self) -> None:
        state = self.world.state
        for name, node in list(state.nodes.items()):
            if node.lost:
                self.ask(cmd.RegisterNode(node.inventory))
            if node.cordoned:
                self.ask(cmd.ResumeNode(name))
        for device in list(state.devices.failed):
            self.ask(cmd.RecoverDevice(device))
        for booking in list(state.bookings):
            self.ask(cmd.EndBooking(booking))
        for job in list(state.numbered):
            if job.held:
                self.ask(cmd.Update(job.id, hold=False))
        policy = msgspec.structs.replace(state.policy, strict=False, examined_max=100_000)
        self.ask(cmd.SetPolicy(policy))

    # --- asking and watching ------------------------------------------------------------------------------

    def ask(self, command: cmd.Command) -> None:
        self.world.when(command, "executor" if isinstance(command, cmd.Report) else "someone")
        if self.world.refused is not None:
            self.refusals[type(command).__name__] += 1
            actor = "executor" if isinstance(command, cmd.Report) else "someone"
            self.world.record(*kept(self.world.state, command, self.world.refused, actor))
        self._watch()

    def _together(self, commands: Sequence[cmd.Command]) -> None:
        """A cycle and commands decided on one state and recorded in one batch, as the engine does when much
        happens at once: nothing in it knows of the rest, but no two are about the same thing."""
        world = self.world
        cycle = self._decided_twice()
        batch = BatchBuilder(world.state)
        batch.add(cycle.events, "scheduler", bytes(16), 0)
        for command in commands:
            stream = cmd.stream_of(command)
            if stream is not None and batch.touches(stream):
                continue
            try:
                decided = decide(world.state, command, Given("someone", world.now_us, batch.next_number))
            except Rejected:
                continue
            batch.add(decided, "someone", bytes(16), 0)
        world.record(*(draft.event for draft in batch.drafts))
        versions = [(one.stream, one.stream_version) for one in world.log[-len(batch.drafts) or None :]]
        assert [(draft.stream, draft.stream_version) for draft in batch.drafts] in (versions, [])
        self._watch()

    def _watch(self) -> None:
        """Show what is new in the log to the watchers, and run what was placed."""
        for recorded in self.world.log[self.seen :]:
            self.checker.see(recorded)
            self._decide_again(recorded)
            evolve(self.twin, recorded)
            self._run(recorded.event)
            self._shake_head(recorded.event)
        self.seen = len(self.world.log)
        if self.photographer.random() < SNAPSHOTS:
            self.twin = reloaded(self.twin)
            self.snapshots += 1
        self._stop_what_is_to_stop()

    def _shake_head(self, event: ev.Event) -> None:
        """Forget the promise to the first blocked job when somebody came before it, or the world is not as
        it was planned: less room, other rules, jobs that may run longer than was said."""
        match event:
            case ev.JobScheduled() if self.head and self._comes_after(event.job_id, self.head):
                return
            case ev.JobScheduled() | ev.JobUpdated() | ev.AllocationOverdue():
                self.head = None
            case ev.PolicySet() | ev.QuotaSet():
                self.head = None
            case ev.JobStarted():
                job = self.world.state.jobs[event.job_id]
                if job.started_at_us != job.scheduled_at_us or not job.time_limit_s:
                    self.head = None  # what is assumed for no time limit may have been changed meanwhile
            case ev.NodeEvent() | ev.DeviceEvent() | ev.BookingMade():
                self.head = None
        if isinstance(event, STOPS):
            self.head = None

    def _comes_after(self, id: str, head: Reservation) -> bool:
        """Whether a job comes after another in the order, and has no right to what is reserved for it: only
        said where that is easily told, of an order by age and of one who comes first for he has waited for
        too long."""
        if self.checker.below_guarantee(self.checker.jobs[id]):
            return False
        state = self.world.state
        one, other = state.jobs[id], state.numbered[head.number - 1]
        by_age = state.policy.order is Order.FIFO or head.rank == 0
        return by_age and (-one.priority.rank, one.number) > (-other.priority.rank, other.number)

    def _check_head(self, cycle: Cycle) -> None:
        """What starts later must not delay the first blocked job: while nothing else happened than was to be
        expected, its planned start never moves back."""
        before = self.head
        ahead = [event.job_id for event in cycle.events if isinstance(event, ev.JobScheduled)]
        ahead += [event.by for event in cycle.events if isinstance(event, ev.PreemptionRequested)]
        if before and not all(self._comes_after(id, before) for id in ahead):
            before = None  # one before it starts, or others are to make way for it
        # What is kept for those for whom others make way is kept from now on, at every now.
        promises = cycle.reservations and not self.checker.claims
        self.head = cycle.reservations[0] if promises else None
        if before and self.head and before.number == self.head.number:
            late_us = self.head.start_us - before.start_us
            on_time = late_us <= 0 or self.checker.overrun(self.world.now_us)
            assert on_time, f"job {before.number} was to start {late_us} us before its new planned start"

    def _cycles(self) -> None:
        """Cycles until one decides nothing, each decided twice."""
        for _ in range(CYCLES_TO_REST):
            cycle = self._cycle()
            if not cycle.events:
                assert not cycle.more, "a cycle that decided nothing wants another"
                self._at_rest(cycle)
                return
        raise Broken("the cycles do not come to rest")

    def _cycle(self) -> Cycle:
        world = self.world
        cycle = self._decided_twice()
        late_us = self.rng.choice((1, 1_000)) if cycle.events and self.rng.random() < 0.1 else 0
        world.now_us += late_us  # it took a while to decide and to record
        world.record(*cycle.events)
        self._watch()
        self.checker.cycle_ended(planned(cycle))
        if late_us:
            self.head = None
        return cycle

    def _decided_twice(self) -> Cycle:
        """A cycle; whoever reads the log decides it again, but for one that leaves nothing there."""
        cycle = schedule(self.world.state, self.world.now_us)
        self.cycles += 1
        if not cycle.events:
            again = schedule(self.twin, self.world.now_us)
            assert not again.events, f"decided otherwise on the folded log: {again.events}"
        self._check_head(cycle)
        return cycle

    def _decide_again(self, recorded: ev.Recorded) -> None:
        otherwise = self.rerun.see(self.twin, recorded)
        assert not otherwise, f"decided otherwise on the folded log: {otherwise}"

    def _at_rest(self, cycle: Cycle) -> None:
        self.again_us = cycle.again_us
        self.checker.at_rest(self.world.now_us, planned(cycle))
        waiting = [job.number for job in self.checker.eligible()]
        queue = self.world.state.queue
        queued = sorted(queue.order(len(queue), self.world.now_us))
        assert queued == waiting, f"these should wait: {waiting}; these do: {queued}"
        if self.rng.random() < 0.05:
            self._ask_why()

    def _ask_why(self) -> None:
        """Whatever job it is, there is something to say of it, and to say it changes nothing."""
        job = self._some_job()
        if job is not None:
            history = [self.world.log[position - 1] for position in job.positions]
            told = why(self.world.state, job, history, self.world.now_us)
            assert told.summary, f"nothing is said of job {job.number}"
            assert (told.start_us or self.world.now_us) >= self.world.now_us, "it is to start in the past"

    # --- what it pretends to run --------------------------------------------------------------------------

    def _run(self, event: ev.Event) -> None:
        if isinstance(event, ev.JobScheduled):
            self._launch(event.job_id, event.attempt)
        elif isinstance(event, ev.NodeLost):
            for job in self.world.state.holding.values():
                if any(one.node == event.node for one in job.allocation):
                    self._vanish(job)

    def _launch(self, id: str, attempt: int) -> None:
        rng, job = self.rng, self.world.state.jobs[id]
        if rng.random() < 0.04:
            self._end(id, attempt, self._soon(), started=False, exit=Exit(error="no such file"))
            return
        start_us = 0 if self.quick else self._soon()
        if rng.random() < 0.95:
            self._tell(start_us, cmd.ReportStarted(id, attempt))
        limit_us = (job.time_limit_s or 300) * SECOND
        run_us = rng.choice((limit_us, limit_us, int(limit_us * rng.random()), int(limit_us * 1.2), SECOND))
        if rng.random() < 0.3:
            self._tell(start_us + int(run_us * rng.random()), cmd.ReportCheckpoint(id, attempt))
        exit = rng.choice((Exit(exit_code=0), Exit(exit_code=0), Exit(exit_code=1), Exit(signal=9)))
        self._end(id, attempt, start_us + run_us, exit=exit, lost=rng.random() < 0.03)

    def _end(self, id: str, attempt: int, in_us: int, **fields: Any) -> None:
        """The attempt ends, and its processes are gone then or, now and then, a while later."""
        released = self.rng.random() < 0.85
        self._tell(in_us, cmd.ReportEnded(id, attempt, released=released, **fields))
        if not released:
            self._tell(in_us + self._soon(), cmd.ReportReleased(id, attempt))

    def _stop_what_is_to_stop(self) -> None:
        for job in self.world.state.holding.values():
            key = (job.id, job.attempt)
            if key not in self.stopping and (job.stop is not None or job.state not in RUNNING):
                self.stopping.add(key)
                exit = self.rng.choice((Exit(signal=15), Exit(signal=9), Exit(exit_code=0), BAD))
                self._end(*key, 0 if self.quick else self._soon(), exit=exit)

    def _vanish(self, job: Job) -> None:
        key = (job.id, job.attempt)
        self.stopping.add(key)
        self._tell(self._soon(), cmd.ReportEnded(*key, Exit(error="the node was lost"), lost=True))

    def _soon(self) -> int:
        return self.rng.choice((0, 1, SECOND, 5 * SECOND, self.rng.randrange(30 * SECOND)))

    def _tell(self, in_us: int, report: cmd.Command) -> None:
        self.told += 1
        heappush(self.reports, (self.world.now_us + in_us, self.told, report))

    # --- what may be asked --------------------------------------------------------------------------------

    def _anything(self) -> cmd.Command:
        while True:
            command = self.rng.choices(_ASKED, _WEIGHTS)[0](self)
            if command is not None:
                return command

    def _submit(self) -> cmd.Command:
        return self._new_job()

    def _submit_batch(self) -> cmd.Command:
        return cmd.SubmitBatch(tuple(self._new_job() for _ in range(self.rng.randint(1, 5))))

    def _new_job(self) -> cmd.Submit:
        self.submitted += 1
        return cmd.Submit(job_id(self.submitted * 1_000), self._spec())

    def _some_job(self) -> Job | None:
        """One of the younger jobs, mostly, since the old ones have ended."""
        jobs = self.world.state.numbered
        if not jobs:
            return None
        return self.rng.choice(jobs[-20:] if self.rng.random() < 0.8 else jobs)

    def _cancel(self) -> cmd.Command | None:
        job = self._some_job()
        return cmd.Cancel(job.id, self.rng.choice(("", "no use"))) if job else None

    def _hold(self) -> cmd.Command | None:
        job = self._some_job()
        return cmd.Update(job.id, hold=self.rng.random() < 0.4) if job else None

    def _update(self) -> cmd.Command | None:
        job = self._some_job()
        if job is None:
            return None
        priority = self.rng.choice((UNSET, *Priority))
        return cmd.Update(job.id, priority=priority, time_limit_s=self.rng.choice((UNSET, 0, 30, 100, 900)))

    def _requeue(self) -> cmd.Command | None:
        job = self._some_job()
        return cmd.Requeue(job.id, "try again") if job else None

    def _checkpoint(self) -> cmd.Command | None:
        job = self._some_job()
        return cmd.Checkpoint(job.id) if job else None

    def _some_node(self) -> str:
        return self.rng.choice(self.world.state.node_names)

    def _cordon(self) -> cmd.Command:
        drain = self.rng.random() < 0.6
        in_s = self.rng.choice((0, 1, 20, 100)) if drain else 0
        deadline_us = self.world.now_us + in_s * SECOND if in_s else 0
        return cmd.CordonNode(self._some_node(), "repair", drain, deadline_us)

    def _resume(self) -> cmd.Command:
        return cmd.ResumeNode(self._some_node())

    def _lose(self) -> cmd.Command:
        return cmd.LoseNode(self._some_node(), "gone")

    def _register(self) -> cmd.Command:
        """A node comes back as it was, or changed, or a new one joins."""
        chance = self.rng.random()
        if chance < 0.6 or len(self.world.state.nodes) > 5:
            return cmd.RegisterNode(self.world.state.nodes[self._some_node()].inventory)
        if chance < 0.8:
            return cmd.RegisterNode(self._inventory(self._some_node()))
        return cmd.RegisterNode(self._inventory(f"n{len(self.world.state.nodes)}"))

    def _some_device(self) -> str:
        devices = [d.uuid for node in self.world.state.nodes.values() for d in node.inventory.devices]
        return self.rng.choice(devices or ["GPU-of-nobody"])

    def _fail_device(self) -> cmd.Command:
        return cmd.FailDevice(self._some_device(), "Xid 79")

    def _recover_device(self) -> cmd.Command:
        failed = list(self.world.state.devices.failed)
        return cmd.RecoverDevice(self.rng.choice(failed) if failed else self._some_device())

    def _book(self) -> cmd.Command:
        names = self.world.state.node_names
        nodes = self.rng.sample(names, self.rng.randint(1, min(2, len(names))))
        start_us = self.world.now_us + self.rng.choice((0, 10, 100, 500)) * SECOND
        end_us = start_us + self.rng.choice((1, 60, 300)) * SECOND
        name = f"booking-{self.world.state.bookings_made + 1}"
        return cmd.Book(name, tuple(nodes), start_us, end_us, "firmware")

    def _end_booking(self) -> cmd.Command | None:
        bookings = list(self.world.state.bookings)
        return cmd.EndBooking(self.rng.choice(bookings)) if bookings else None

    def _set_quota(self) -> cmd.Command:
        return self._quota(self.rng.choice(ACCOUNTS))

    def _quota(self, account: str) -> cmd.SetShare:
        return cmd.SetShare(
            account,
            max_gpus=self.rng.choice((UNSET, -1, -1, 2, 4, 8)),
            guaranteed_gpus=self.rng.choice((UNSET, 0, 1, 2, 4)),
        )

    def _set_share(self) -> cmd.Command:
        account, user = self.rng.choice(ACCOUNTS), self.rng.random() < 0.5
        path = f"{account}/{self.rng.choice(USERS)}" if user else account
        return cmd.SetShare(path, self.rng.randint(1, 9), user)

    def _set_policy(self) -> cmd.Command:
        return cmd.SetPolicy(self._policy())

    # --- what there is ------------------------------------------------------------------------------------

    def _inventory(self, name: str) -> Inventory:
        rng = self.rng
        count, groups = rng.choice((0, 1, 2, 4, 4, 8, 8)), rng.choice((1, 2, 4))
        kinds = [rng.choice(KINDS)] * count
        if rng.random() < 0.1:
            kinds = [rng.choice(KINDS) for _ in range(count)]
        devices = tuple(
            Device(
                f"GPU-{name}-{index}", index, *kind,
                link_group=index * groups // count if groups > 1 else -1,
                numa_node=index * 2 // count,
                pcie_root=f"r{index // 2}" if rng.random() < 0.9 else "",
            )
            for index, kind in enumerate(kinds)
        )  # fmt: skip
        strays = [device for node in self.world.state.nodes.values() for device in node.inventory.devices]
        if count and strays and rng.random() < 0.2:  # one of them turns up here
            moved = msgspec.structs.replace(rng.choice(strays), index=0)
            devices = tuple({device.uuid: device for device in (*devices[1:], moved)}.values())
        labels = {key: rng.choice(values) for key, values in LABELS.items() if rng.random() < 0.8}
        return Inventory(name, rng.choice((4, 16, 64)), rng.choice((8_192, 65_536)), devices, labels)

    def _policy(self) -> Policy:
        rng = self.rng
        return Policy(
            order=rng.choice((Order.FAIR, Order.FIFO)),
            strict=rng.random() < 0.15,
            reservation_depth=rng.choice((-1, 0, 1, 2, 16)),
            examined_max=rng.choice((1, 5, 100_000, 100_000, 100_000)),
            patience_s=rng.choice((86_400, 0, 30, 100, 300)),
            assumed_time_limit_s=rng.choice((100, 1_000, 86_400)),
            half_life_s=rng.choice((60, 3_600, 604_800)),
            charge_ahead_s=rng.choice((0, 60, 3_600)),
            gpu_cost=rng.choice(({}, {"H100": 3_000, "a100": 2_000})),
            cores_per_gpu=rng.choice((4, 16)),
            memory_gb_per_gpu=rng.choice((8, 128)),
            preemption=rng.random() < 0.9,
            min_runtime_s=rng.choice((0, 0, 0, 10, 60)),
            preemption_searches_max=rng.choice((0, 1, 8, 8, 8)),
            retry_backoff_s=rng.choice((0, 1, 10)),
            retry_backoff_max_s=rng.choice((0, 15, 300)),
            topology_labels=rng.choice(((), ("switch",), ("switch", "rack"))),
        )

    def _spec(self) -> JobSpec:
        rng = self.rng
        gpus = rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 4, 4, 6, 8, 12))
        cores = rng.choice((0, 0, 0, 1, 4, 20)) or (rng.randint(1, 8) if not gpus else 0)
        fields: dict[str, Any] = {
            "gpu_count": gpus,
            "cpu_cores": cores,
            "memory_mib": rng.choice((0, 0, 0, 1_000, 40_000)),
            "priority": rng.choice((*Priority, Priority.NORMAL, Priority.NORMAL)),
            "account": rng.choice(ACCOUNTS),
            "time_limit_s": rng.choice((0, 10, 60, 300, 1_000, 1_000)),
            "grace_period_s": rng.choice((0, 5, 60)),
            "max_retries": rng.choice((0, 0, 1, 3)),
            "preemptible": rng.random() < 0.7,
            "exclusive": rng.random() < 0.08,
            "hold": rng.random() < 0.05,
            "depends_on": self._dependencies(),
        }
        if gpus:
            fields["gpu_type"] = rng.choice((None, None, None, "H100", "h100", "A100", "V100"))
            fields["gpu_memory_mib"] = rng.choice((0, 0, 0, 40_960, 81_920))
        if rng.random() < 0.2:
            fields["nodes"] = rng.randint(1, min(4, gpus or cores))
        if rng.random() < 0.1:
            fields["begin_at_us"] = self.world.now_us + rng.choice((-5, 0, 3, 200)) * SECOND
        if rng.random() < 0.1:
            wanted = ({"disk": "ssd"}, {"rack": "r1"}, {"disk": "hdd", "rack": "r2"})
            fields["constraints"] = rng.choice(wanted)
        if rng.random() < 0.08:
            fields["array"] = rng.choice(
                (
                    Array((IndexRange(0, 3),), rng.choice((0, 1, 2))),
                    Array((IndexRange(1, 9, 4), IndexRange(20, 20)), rng.choice((0, 2))),
                )
            )
        return JobSpec(rng.choice(USERS), "true", **fields)

    def _dependencies(self) -> tuple[Dependency, ...]:
        jobs = self.world.state.numbered
        if not jobs or self.rng.random() > 0.15:
            return ()
        chosen = self.rng.sample(jobs[-12:], min(len(jobs), self.rng.choice((1, 1, 2))))
        return tuple(Dependency(job.id, self.rng.choice(list(DependencyKind))) for job in chosen)


_ASKED: Final[tuple[Callable[[Life], cmd.Command | None], ...]] = (
    Life._submit, Life._submit_batch, Life._cancel, Life._hold, Life._update, Life._requeue,
    Life._checkpoint, Life._cordon, Life._resume, Life._lose, Life._register, Life._fail_device,
    Life._recover_device, Life._book, Life._end_booking, Life._set_quota, Life._set_share, Life._set_policy,
)  # fmt: skip
_WEIGHTS: Final = (30, 12, 4, 5, 5, 2, 3, 3, 4, 2, 4, 2, 3, 2, 2, 2, 2, 2)


def planned(cycle: Cycle) -> list[tuple[int, int, tuple[str, ...]]]:
    """The planned starts of a cycle, for those who know no more of it."""
    return [(one.number, one.rank, one.nodes) for one in cycle.reservations]


# --- as a program -------------------------------------------------------------------------------------


def live(seed: int, steps: int = STEPS) -> Life:
    """One whole life; a failure tells the seed and the last events."""
    life = Life(seed, steps)
    try:
        return life.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}\n{story(life)}") from error


def story(life: Life, last: int = 30) -> str:
    """The last events of a life, one a line; jobs by their numbers, since ids are long."""
    lines = []
    for recorded in life.world.log[-last:]:
        subject = recorded.stream
        job = life.world.state.jobs.get(subject.removeprefix("job/"))
        if job is not None:
            subject = f"job {job.number}"
        at_s = (recorded.recorded_at_us - life.world.log[0].recorded_at_us) / SECOND
        payload = recorded.payload.decode()
        lines.append(f"{recorded.position:6} {at_s:12.6f} {subject:10} {recorded.type} {payload}")
    return "\n".join(lines)


def _try(task: tuple[int, int]) -> tuple[str, dict[str, int], int]:
    """What went wrong, if anything; events by kind, and cycles."""
    try:
        life = live(*task)
    except AssertionError as error:
        return str(error), {}, 0
    return "", life.checker.seen, life.cycles


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.core.worlds", description=__doc__)
    parser.add_argument("--seed", type=int, help="live this one life")
    parser.add_argument("--seeds", type=int, default=1_000, help="live as many lives")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each life")
    parser.add_argument("--jobs", type=int, default=None, help="processes; as many as there are cores")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        seeds: Iterable[int] = (chosen.seed,)
    else:
        seeds = range(chosen.start, chosen.start + chosen.seeds)
    return _live_all([(seed, chosen.steps) for seed in seeds], chosen.jobs)


def _live_all(tasks: list[tuple[int, int]], processes: int | None) -> int:
    """Exit status 1 when a rule broke; the rest of the lives are lived all the same."""
    broken, seen, cycles, began = Counter[str](), Counter[str](), 0, time.monotonic()
    with Pool(min(processes or 64, len(tasks)) if processes else None) as pool:
        for done, result in enumerate(pool.imap_unordered(_try, tasks, chunksize=4), start=1):
            trouble, kinds, decided = result
            seen.update(kinds)
            cycles += decided
            if trouble:
                headline = trouble.partition("\n")[0]
                kind = re.sub(r"\d+", "N", headline)
                broken[kind] += 1
                print(trouble if broken[kind] == 1 else headline, flush=True)
            if done % 1_000 == 0:
                print(f"{done} lives, {broken.total()} broken, {time.monotonic() - began:.0f} s", flush=True)
    print(", ".join(f"{kind} {count}" for kind, count in sorted(seen.items())))
    for kind, count in broken.most_common():
        print(f"{count:6} {kind}")
    whole = len(tasks) - broken.total()
    print(f"{whole} lives of {seen.total()} events and {cycles} cycles; {broken.total()} more broke a rule")
    return broken.total() > 0


if __name__ == "__main__":
    sys.exit(main())
