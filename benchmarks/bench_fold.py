"""How fast does the log fold into state?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import astuple

from benchmarks.measure import per_call, size
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, decide
from horizon.core.evolve import evolve
from horizon.core.model import Device, Exit, Inventory, JobSpec
from horizon.core.schedule import DECISIONS, schedule
from horizon.core.state import State, digest
from horizon.service.verify import Decisions, fold_checked
from horizon.store import codec
from horizon.store.port import GENESIS_HASH, Head

JOBS = size(40_000, 400)


def history(jobs: int) -> list[ev.Recorded]:
    """The log of jobs of fifty users that all ran to their end on one node: five events a job."""
    state, head, log = State(), Head(bytes(16), 1, 0, GENESIS_HASH, 0), []
    now_us = 1_700_000_000_000_000

    def record(events: tuple[ev.Event, ...]) -> None:
        nonlocal head
        for event in events:
            version = state.stream_version(event.stream) + 1
            draft = ev.Draft(event, event.stream, version, "bench", bytes(16), bytes(16), 0)
            [sealed] = codec.seal(head, (draft,), now_us)
            head = codec.after(head, (sealed,))
            log.append(sealed)
            evolve(state, sealed)

    def do(command: cmd.Command) -> None:
        record(decide(state, command, Given("bench", now_us, state.next_number)))

    elected = ev.LeaderElected(
        epoch=1, host="bench", pid=1, version="", config_digest="", decisions=DECISIONS
    )
    record((elected,))
    devices = tuple(Device(f"GPU-{index}", index, "H100", 81_559) for index in range(8))
    do(cmd.RegisterNode(Inventory("node-1", 128, 1 << 20, devices)))
    for number in range(1, jobs + 1):
        spec = JobSpec(f"user-{number % 50}", "python train.py", job_name=f"job-{number}", cpu_cores=4)
        do(cmd.Submit(f"00000000-0000-7000-8000-{number:012d}", spec))
        if number % 8 == 0 or number == jobs:
            now_us += 1_000_000
            record(schedule(state, now_us).events)
            for job in list(state.holding.values()):
                do(cmd.ReportStarted(job.id, job.attempt))
                do(cmd.ReportEnded(job.id, job.attempt, Exit(exit_code=0)))
    return log


def test_fold(benchmark: Any) -> None:
    log = history(JOBS)

    def fold() -> str:
        state = State()
        for recorded in log:
            evolve(state, recorded)
        return state.numbered[-1].state

    per_call(
        benchmark, fold, len(log), question="fold the log into state", input=f"{len(log):,} events", rounds=3
    )
    state = State()
    for recorded in log:
        evolve(state, recorded)
    benchmark.extra_info["result"] = digest(state)[:12]


def test_decode_verify_and_fold(benchmark: Any) -> None:
    log = history(JOBS // 4)

    def fold() -> int:
        state, previous = State(), GENESIS_HASH
        for recorded in log:
            codec.open_payload(recorded.position, recorded.type, recorded.schema_version, recorded.payload)
            codec.check_link(recorded, recorded.position, previous)
            previous = recorded.hash
            evolve(state, recorded)
        return state.position

    question = "decode, check the hash chain and fold"
    per_call(benchmark, fold, len(log), question=question, input=f"{len(log):,} events", rounds=3)


class Kept:
    """A log in memory, as it is stored."""

    def __init__(self, log: list[ev.Recorded]) -> None:
        self._events = [ev.Stored(*astuple(recorded)[:-1]) for recorded in log]

    async def stored(self, after: int, end: int) -> AsyncIterator[list[ev.Stored]]:
        yield self._events[after:end]


@pytest.mark.parametrize("decisions", [False, True], ids=["rules", "decisions"])
def test_verify(benchmark: Any, decisions: bool) -> None:
    """As ``horizon verify`` does, but for reading Postgres and for signatures."""
    log = history(JOBS // 4)
    kept = Kept(log)

    async def checked() -> int:
        again = Decisions() if decisions else None
        state = await fold_checked(kept, len(log), lambda done, total: None, again)
        assert again is None or not again.rerun.differing
        return state.position

    def verify() -> int:
        return asyncio.run(checked())

    question = "verify: chain, order and rules" + (", every cycle run again" if decisions else "")
    per_call(benchmark, verify, len(log), question=question, input=f"{len(log):,} events", rounds=3)
