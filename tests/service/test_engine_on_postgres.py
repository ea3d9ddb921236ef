"""The engine over a real Postgres on a bad day: its connection is cut while it works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from horizon.core import commands as cmd
from horizon.core.model import JobSpec, JobState
from horizon.core.state import digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine, Stopped
from horizon.service.recovery import fold_log
from horizon.store.port import Unavailable
from horizon.store.postgres import PostgresStore
from tests.service.test_engine import ask, until

CUTS = 6
CLIENTS = 8
JOBS_PER_CLIENT = 40


async def test_cut_connections_lose_nothing_and_do_nothing_twice(database: str, tmp_path: Path) -> None:
    clock = SystemClock()
    executor = LocalExecutor(tmp_path, simulated("4xH100"))
    engine = Engine(
        PostgresStore(database), executor, clock, Ids(clock), EngineConfig(unavailable_retry_s=0.02)
    )
    await engine.start()
    answered: list[str] = []

    async def client(number: int) -> None:
        for job in range(JOBS_PER_CLIENT):
            id = engine.ids.new_text()
            command = cmd.Submit(id, JobSpec(f"user-{number}", f"echo {id} >> {tmp_path}/ran"))
            while True:  # with the same key, as a client that is told to come back would
                try:
                    await ask(engine, command, key=f"{number}-{job}", fingerprint=b"f")
                    break
                except (Stopped, Unavailable):
                    await asyncio.sleep(0.02)
            answered.append(id)

    async def cutter() -> None:
        admin = await asyncpg.connect(database)
        for _ in range(CUTS):
            await asyncio.sleep(0.15)
            await admin.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'horizon' AND datname = current_database()"""
            )
        await admin.close()

    await asyncio.gather(cutter(), *(client(number) for number in range(CLIENTS)))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == CLIENTS * JOBS_PER_CLIENT)
    await until(lambda: not engine.state.holding)
    assert engine.state.epoch > 1
    assert sorted(engine.state.jobs) == sorted(answered)
    assert sorted((tmp_path / "ran").read_text().split()) == sorted(answered)
    live = digest(engine.state)
    await engine.stop()
    store = PostgresStore(database)
    assert digest(await fold_log(store, await store.open())) == live
    await store.close()
