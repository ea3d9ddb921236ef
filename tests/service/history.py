"""Logs of a cluster on which all goes as planned: every job has a work of its own, and every cycle is decided
at the very moment of what led to it. Seeded."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Exit, JobState, Priority
from horizon.core.policy import Policy
from horizon.service.engine import _WORTH_A_CYCLE
from tests.core.spec import OK, SECOND, World, given, job_id, node, spec

NODES = 2
GPUS = 4
STOPPED = Exit(signal=15)


class Plan:
    """How one job behaves."""

    def __init__(self, chance: random.Random) -> None:
        self.work_us = chance.randrange(1, 300 * SECOND)
        self.saves_us = sorted(chance.randrange(1, 300 * SECOND) for _ in range(chance.choice((0, 0, 2))))
        self.failures = chance.choice((0, 0, 0, 1, 2))
        """Of its trials the first so many end badly."""
        self.launch_us = chance.randrange(1, 2 * SECOND)
        self.stop_us = chance.randrange(1, 5 * SECOND)
        self.release_us = chance.choice((0, chance.randrange(1, SECOND)))
        self.base_us = 0
        """Work that is saved."""


class History:
    """Submissions, a few holds, cancels and updates among them, and the reports that follow."""

    def __init__(self, seed: int, jobs: int = 40, policy: Policy | None = None, nodes: int = NODES) -> None:
        self.chance = random.Random(seed)
        self.world = given(*(node(f"node-{number}", GPUS) for number in range(1, nodes + 1)))
        self.plans: dict[str, Plan] = {}
        self.heap: list[tuple[int, int, Callable[[], object]]] = []
        self.made = 0
        self._asked: dict[tuple[str, int], bool] = {}
        self.again_us: int | None = None
        self.due = False
        self.world.when(cmd.SetPolicy(policy or self._policy()))
        for _ in range(jobs):
            self.at(self.chance.randrange(1, jobs * 25 * SECOND), self._submit)
        self.end_us = self.world.now_us + jobs * 40 * SECOND

    def run(self) -> World:
        """To its end, which some jobs may not live to see."""
        world = self.world
        while (moment_us := self._next()) is not None and moment_us < self.end_us:
            world.now_us = moment_us
            if self.again_us is not None and self.again_us <= moment_us:
                self.due = True
            while self.heap and self.heap[0][0] <= moment_us:
                seen = len(world.log)
                heappop(self.heap)[2]()
                self._note(seen)
            deadline_us = world.state.next_deadline_us()
            if self.due or (deadline_us is not None and deadline_us <= moment_us):
                self._cycles()
        return world

    def _note(self, seen: int) -> None:
        """A cycle is due when it is for an engine."""
        state = self.world.state
        for recorded in self.world.log[seen:]:
            if isinstance(recorded.event, ev.JobSubmitted):
                self.due |= not self.world.last_cycle.settles(state, state.numbered[-1])
            else:
                self.due |= type(recorded.event) in _WORTH_A_CYCLE

    def at(self, after_us: int, action: Callable[[], object]) -> None:
        self.made += 1
        heappush(self.heap, (self.world.now_us + after_us, self.made, action))

    def _next(self) -> int | None:
        alone = (self.world.state.next_deadline_us(), self.again_us)
        moments = [at_us for at_us in alone if at_us is not None and at_us > self.world.now_us]
        moments += [self.heap[0][0]] if self.heap else []
        return min(moments, default=None)

    def _policy(self) -> Policy:
        chance = self.chance
        return Policy(
            reservation_depth=chance.choice((0, 1, 16)),
            patience_s=chance.choice((200, 86_400)),
            min_runtime_s=0,
        )

    def _submit(self) -> None:
        chance, id = self.chance, job_id(self.world.state.next_number)
        self.plans[id] = Plan(chance)
        self.world.when(
            cmd.Submit(
                id,
                spec(
                    chance.choice(("ann", "bob", "cyd")),
                    account=chance.choice(("a", "b")),
                    gpu_count=chance.choice((1, 1, 2, 4, 8)),
                    priority=chance.choice((Priority.LOW, Priority.NORMAL, Priority.NORMAL, Priority.HIGH)),
                    preemptible=chance.random() < 0.6,
                    time_limit_s=chance.choice((100, 200, 300, 0)),
                    max_retries=chance.choice((0, 1, 3)),
                    grace_period_s=5,
                    hold=chance.random() < 0.05,
                ),
            )
        )
        if self.world.state.jobs[id].held:
            self.at(chance.randrange(1, 90 * SECOND), lambda: self.world.when(cmd.Update(id, hold=False)))
        if chance.random() < 0.08:
            self.at(chance.randrange(1, 90 * SECOND), lambda: self._ask(cmd.Cancel(id)))
        if chance.random() < 0.08:
            update = cmd.Update(id, priority=Priority.URGENT)
            self.at(chance.randrange(1, 90 * SECOND), lambda: self._ask(update))

    def _ask(self, command: cmd.Command) -> None:
        self.world.when(command)
        self._stop_what_is_to_stop()

    def _cycles(self) -> None:
        self.due = True
        while self.due:
            seen = len(self.world.log)
            self.world.cycle()
            self.again_us, self.due = self.world.last_cycle.again_us, self.world.last_cycle.more
            self._note(seen)
            for event in self.world.happened:
                if isinstance(event, ev.JobScheduled):
                    self._launch(event.job_id, event.attempt)
            self._stop_what_is_to_stop()

    def _launch(self, id: str, attempt: int) -> None:
        plan = self.plans[id]
        self.at(plan.launch_us, lambda: self._start(id, attempt))

    def _start(self, id: str, attempt: int) -> None:
        job, plan = self.world.state.jobs[id], self.plans[id]
        if job.attempt != attempt or job.state is not JobState.SCHEDULED:
            return
        self.world.when(cmd.ReportStarted(id, attempt), "executor")
        for save_us in plan.saves_us:
            if plan.base_us < save_us < plan.work_us:
                self.at(save_us - plan.base_us, lambda save_us=save_us: self._save(id, attempt, save_us))  # type: ignore[misc]
        self.at(plan.work_us - plan.base_us, lambda: self._end(id, attempt))

    def _save(self, id: str, attempt: int, save_us: int) -> None:
        job = self.world.state.jobs[id]
        if job.attempt == attempt and job.state is JobState.RUNNING:
            self.world.when(cmd.ReportCheckpoint(id, attempt), "executor")
            self.plans[id].base_us = save_us

    def _end(self, id: str, attempt: int) -> None:
        job, plan = self.world.state.jobs[id], self.plans[id]
        if job.attempt != attempt or job.state is not JobState.RUNNING:
            return
        exit = Exit(exit_code=3) if plan.failures else OK
        if job.stop is None:  # else it makes way, and will fail in its next attempt
            plan.failures, plan.base_us = max(0, plan.failures - 1), 0
        report = cmd.ReportEnded(id, attempt, exit, released=not plan.release_us)
        self.world.when(report, "executor")
        if plan.release_us:
            self.at(plan.release_us, lambda: self.world.when(cmd.ReportReleased(id, attempt), "executor"))

    def _stop_what_is_to_stop(self) -> None:
        for job in self.world.state.holding.values():
            plan = self.plans[job.id]
            key = (job.id, job.attempt)
            if (job.stop is not None or job.state is JobState.CANCELLED) and key not in self._asked:
                self._asked[key] = True
                self.at(plan.stop_us, lambda id=job.id, attempt=job.attempt: self._gone(id, attempt))  # type: ignore[misc]

    def _gone(self, id: str, attempt: int) -> None:
        job = self.world.state.jobs[id]
        if job.attempt == attempt and job.allocation_state is not None:
            started = job.state is JobState.RUNNING
            self.world.when(cmd.ReportEnded(id, attempt, STOPPED, started=started), "executor")
