"""A whole scheduler in the test's own process: real store, real executor, real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from horizon.api.app import create_app
from horizon.core.state import digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.service.verify import Decisions, verify
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader

TOKEN = "a-token-for-tests"
PATIENCE_S = 20.0
"""How long a test waits for what must come; only a failing test waits that long."""


@dataclass
class Scheduler:
    """A running scheduler and a client for it."""

    url: str
    token: str
    engine: Engine
    data_dir: Path
    dsn: str
    http: aiohttp.ClientSession
    runner: web.AppRunner

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job; what is not said is alice's one-GPU ``true``."""
        body = {"user_id": "alice", "command": "true", **fields}
        async with self.http.post("/api/v1/jobs", json=body) as response:
            assert response.status == 201, await response.text()
            job: dict[str, Any] = await response.json()
            return job

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.http.get(f"/api/v1{path}") as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def cancel(self, id: str, status: int = 200) -> Any:
        async with self.http.delete(f"/api/v1/jobs/{id}") as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def patch(self, id: str, status: int = 200, **fields: Any) -> Any:
        async with self.http.patch(f"/api/v1/jobs/{id}", json=fields) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def until(self, id: str, *states: str) -> dict[str, Any]:
        """Wait for a job to be in one of the states."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            job: dict[str, Any] = await self.get(f"/jobs/{id}")
            if job["state"] in states:
                return job
            assert time.monotonic() < deadline, f"job {id} is {job['state']}, not {states}: {job['reason']}"
            await asyncio.sleep(0.01)

    async def eventually(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"never came: {what}"
            await asyncio.sleep(0.01)

    async def quiet(self) -> None:
        """Wait until nothing runs and nothing is being released."""
        await self.eventually(lambda: not self.engine.state.holding, "all allocations released")

    async def stop(self) -> None:
        await self.http.close()
        await self.engine.stop()
        await self.runner.cleanup()

    async def stop_checked(self) -> None:
        """Stop, and prove that folding the log gives the state that was lived in, and that every cycle is
        decided again as it was."""
        await self.cancel_all()
        await self.quiet()
        live = digest(self.engine.state)
        await self.stop()
        reader, decisions = LogReader(self.dsn), Decisions()
        await reader.open()
        try:
            found = await verify(reader, [], [], lambda done, total: None, decisions)
        finally:
            await reader.close()
        assert found.digest == live, "fold(log) is not the live state"
        assert decisions.differences == [], "decided otherwise on the folded log"

    async def cancel_all(self) -> None:
        for job in list(self.engine.state.jobs.values()):
            if not job.state.ended:
                async with self.http.delete(f"/api/v1/jobs/{job.id}") as response:
                    assert response.status in (200, 409)


async def start_scheduler(dsn: str, data_dir: Path, spec: str, **parts: Any) -> Scheduler:
    """Start one on this database and data directory."""
    clock = parts.pop("clock", None) or SystemClock()
    engine = Engine(PostgresStore(dsn), LocalExecutor(data_dir, simulated(spec)), clock, Ids(clock), **parts)
    await engine.start()
    runner = web.AppRunner(create_app(engine, token=TOKEN, clock=clock))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    http = aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"})
    return Scheduler(url, TOKEN, engine, data_dir, dsn, http, runner)
