"""given(events).when(command).then(events): how the rules of the core are told."""

from __future__ import annotations

from typing import Any

import msgspec

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Events, Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import LEGAL_MOVES, Device, Exit, Inventory, JobSpec, JobState, Placement
from horizon.core.schedule import Cycle, schedule
from horizon.core.state import Job, State, digest
from horizon.store import codec
from horizon.store.port import GENESIS_HASH, Head

T0 = 1_700_000_000_000_000
SECOND = 1_000_000
OK = Exit(exit_code=0)
BAD = Exit(exit_code=3)


def job_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"


def spec(user_id: str = "alice", **fields: Any) -> JobSpec:
    return JobSpec(**{"user_id": user_id, "command": "true", **fields})


def node(name: str = "node-1", gpus: int = 8, gpu_type: str = "H100", **fields: Any) -> Inventory:
    devices = tuple(Device(f"GPU-{name}-{index}", index, gpu_type, 81_559) for index in range(gpus))
    return Inventory(**{"name": name, "cpu_cores": 128, "memory_mib": 1 << 20, "devices": devices, **fields})


class World:
    """A state and the log it was folded from, driven by commands and cycles at moments the test names."""

    def __init__(self) -> None:
        self.state = State()
        self.log: list[ev.Recorded] = []
        self.head = Head(bytes(16), 1, 0, GENESIS_HASH, 0)
        self.now_us = T0
        self.happened: Events = ()
        self.refused: Rejected | None = None
        self.last_cycle = Cycle((), 0, False)
        self.moves: set[tuple[JobState, JobState]] = set()
        """The moves made so far; an illegal one fails the test at once."""

    def record(self, *events: ev.Event) -> World:
        """Put events into the log as facts."""
        for event in events:
            version = self.state.stream_version(event.stream) + 1
            draft = ev.Draft(event, event.stream, version, "test", bytes(16), bytes(16), 0)
            sealed = codec.seal(self.head, (draft,), self.now_us)
            self.head = codec.after(self.head, sealed)
            self.log += sealed
            job = self.state.jobs.get(event.job_id) if isinstance(event, ev.JobEvent) else None
            was = job.state if job else None
            evolve(self.state, sealed[0])
            if job is not None and was is not None and job.state is not was:
                assert job.state in LEGAL_MOVES[was], f"illegal move from {was} to {job.state}"
                self.moves.add((was, job.state))
        self.happened = events
        return self

    def when(self, command: cmd.Command, actor: str = "owner") -> World:
        """Have a command decided and recorded."""
        self.refused = None
        try:
            events = decide(self.state, command, Given(actor, self.now_us, self.state.next_number))
        except Rejected as refusal:
            self.refused, self.happened = refusal, ()
            return self
        return self.record(*events)

    def cycle(self) -> World:
        self.last_cycle = schedule(self.state, self.now_us)
        return self.record(*self.last_cycle.events)

    def policy(self, **fields: Any) -> World:
        """Change these fields of the policy."""
        return self.when(cmd.SetPolicy(msgspec.structs.replace(self.state.policy, **fields)))

    def later(self, seconds: float) -> World:
        self.now_us += int(seconds * SECOND)
        return self

    def then(self, *expected: ev.Event | type[ev.Event]) -> World:
        """Exactly these happened, and nothing else; a type stands for any of its kind."""
        assert self.refused is None, f"refused: {self.refused}"
        assert len(self.happened) == len(expected), self.happened
        for got, want in zip(self.happened, expected, strict=True):
            assert (type(got) is want) if isinstance(want, type) else (got == want), (got, want)
        return self

    def then_nothing(self) -> World:
        return self.then()

    def then_no_start(self) -> World:
        """Nothing was placed; what was planned for the blocked does not matter."""
        assert not self.starts(), self.happened
        return self

    def then_refused(self, *words: str) -> World:
        assert self.refused is not None, f"was not refused: {self.happened}"
        assert self.happened == ()
        for word in words:
            assert word in self.refused.message, self.refused.message
        return self

    # --- short cuts -----------------------------------------------------------------------------------

    def submit(self, user_id: str = "alice", **fields: Any) -> World:
        return self.when(cmd.Submit(job_id(self.state.next_number), spec(user_id, **fields)))

    def started(self, number: int = 1) -> World:
        return self.when(cmd.ReportStarted(self.job(number).id, self.job(number).attempt))

    def ended(self, number: int = 1, exit: Exit = OK, **fields: Any) -> World:
        return self.when(cmd.ReportEnded(self.job(number).id, self.job(number).attempt, exit, **fields))

    def job(self, number: int = 1) -> Job:
        found = self.state.job_numbered(number)
        assert found is not None
        return found

    def is_(self, state: JobState, number: int = 1) -> World:
        assert self.job(number).state is state, self.job(number).state
        return self

    def starts(self) -> list[int]:
        """The numbers of the jobs that the last cycle placed, in order."""
        return [self.state.jobs[e.job_id].number for e in self.happened if isinstance(e, ev.JobScheduled)]

    def stops(self) -> list[tuple[int, int]]:
        """The numbers of the jobs that the last cycle asked to make way, each with that of the other."""
        return [
            (self.state.jobs[e.job_id].number, self.state.jobs[e.by].number)
            for e in self.happened
            if isinstance(e, ev.PreemptionRequested)
        ]

    def placements(self) -> tuple[Placement, ...]:
        [scheduled] = [e for e in self.happened if isinstance(e, ev.JobScheduled)]
        return scheduled.allocation

    def refolded(self) -> State:
        """The state that the log alone gives."""
        state = State()
        for recorded in self.log:
            evolve(state, recorded)
        return state

    def check(self) -> World:
        """fold(log) is the live state, and no device is given out twice."""
        assert digest(self.refolded()) == digest(self.state)
        held = [gpu for job in self.state.holding.values() for one in job.allocation for gpu in one.gpu_ids]
        assert len(held) == len(set(held)), "a device is held twice"
        assert sorted(self.state.devices.holders) == sorted(held)
        return self


def given(*inventories: Inventory) -> World:
    """A world with these nodes; one of eight H100 when none is named."""
    world = World()
    for inventory in inventories or (node(),):
        world.when(cmd.RegisterNode(inventory))
    return world
