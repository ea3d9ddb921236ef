"""What does the engine do without HTTP in front: durable in Postgres, fsync on, in this process?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks.measure import note_service, per_call, size
from horizon.core import commands as cmd
from horizon.core.decide import Events
from horizon.core.model import JobSpec, JobState
from horizon.core.state import State
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.store.embedded import EmbeddedPostgres
from horizon.store.postgres import PostgresStore


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="horizon-bench-") as path:
        yield Path(path)


def answer(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    return 201, b"{}"


def submission(engine: Engine) -> cmd.Submit:
    return cmd.Submit(engine.ids.new_text(), JobSpec("alice", "python train.py", job_name="train"))


def on_engine(directory: Path, use: Callable[[Engine], Awaitable[Any]]) -> Any:
    """Run ``use`` on an engine whose one GPU is taken."""

    async def main() -> Any:
        postgres = EmbeddedPostgres(directory / "postgres")
        clock = SystemClock()
        engine = Engine(
            PostgresStore(await postgres.start()),
            LocalExecutor(directory, simulated("1xH100")),
            clock,
            Ids(clock),
        )
        await engine.start()
        holder = cmd.Submit(engine.ids.new_text(), JobSpec("holder", "sleep 600", grace_period_s=0))
        await engine.ask(holder, "bench", answer)
        while engine.state.jobs[holder.job_id].state is not JobState.RUNNING:
            await asyncio.sleep(0.01)
        result = await use(engine)
        await engine.ask(cmd.Cancel(holder.job_id), "bench", answer)
        await engine.stop()
        await postgres.stop()
        return result

    return uvloop.run(main())


def test_submit_one_by_one(benchmark: Any, directory: Path) -> None:
    jobs = size(3_000, 30)

    async def use(engine: Engine) -> list[float]:
        latencies = []
        for _ in range(jobs):
            began = time.perf_counter()
            await engine.ask(submission(engine), "bench", answer)
            latencies.append(time.perf_counter() - began)
        return latencies

    latencies = benchmark.pedantic(lambda: on_engine(directory, use), rounds=1, iterations=1)
    note_service(
        benchmark, "durable submit in process", f"{jobs:,} jobs one by one", sum(latencies), jobs, latencies
    )


def test_submit_together(benchmark: Any, directory: Path) -> None:
    jobs = size(20_000, 100)

    async def use(engine: Engine) -> float:
        asks = [engine.ask(submission(engine), "bench", answer) for _ in range(jobs)]
        began = time.perf_counter()
        await asyncio.gather(*asks)
        return time.perf_counter() - began

    seconds = benchmark.pedantic(lambda: on_engine(directory, use), rounds=1, iterations=1)
    note_service(benchmark, "durable submit in process, all at once", f"{jobs:,} jobs", seconds, jobs)


def test_get_in_process(benchmark: Any) -> None:
    jobs = size(100_000, 1_000)
    state, ids = _waiting(jobs)
    from horizon.api.answers import job_answer

    def get() -> int:
        return sum(len(job_answer(state.jobs[id], state)) for id in ids)

    per_call(benchmark, get, jobs, question="get a job in process, as JSON", input=f"{jobs:,} waiting jobs")


def _waiting(jobs: int) -> tuple[State, list[str]]:
    from tests.core.spec import World, job_id  # the same short cuts that the tests use

    world = World()
    for _ in range(jobs):
        world.submit()
    return world.state, [job_id(number) for number in range(1, jobs + 1)]


def test_queue_stats(benchmark: Any) -> None:
    state, _ = _waiting(size(100_000, 1_000))
    calls = size(100_000, 1_000)

    def stats() -> int:
        return sum(len(state.queue.counts()) for _ in range(calls))

    per_call(
        benchmark, stats, calls, question="queue stats in process", input=f"{len(state.queue):,} waiting jobs"
    )
