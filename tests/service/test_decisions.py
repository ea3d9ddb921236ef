"""Decisions run again by ``horizon verify``, on the log of a real scheduler in a real Postgres: what somebody
changed and hashed anew passes as a log, and is named as no decision of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from horizon.core.schedule import DECISIONS
from horizon.service.verify import Decisions, Report, verify
from horizon.store.reader import LogReader
from tests.cli.house import Finished, run
from tests.store.test_tampering import rechain
from tests.world import start_scheduler


class Tampered(NamedTuple):
    """A log in a database, and a superuser of it who has taken the triggers away."""

    dsn: str
    admin: asyncpg.Connection[Any]
    home: Path
    last: str
    """The id of the job that had the cluster to itself."""

    async def event(self, type: str, at: int = 0) -> tuple[int, dict[str, Any]]:
        """The position and the payload of one of these events."""
        query = "SELECT position, payload FROM events WHERE type = $1 ORDER BY position OFFSET $2"
        row = await self.admin.fetchrow(query, type, at)
        return row["position"], json.loads(row["payload"])

    async def start_of_the_last(self) -> tuple[int, dict[str, Any]]:
        """The same of what gave that job its place."""
        query = "SELECT position, payload FROM events WHERE type = 'JobScheduled' AND stream = $1"
        (row,) = await self.admin.fetch(query, f"job/{self.last}")
        return row["position"], json.loads(row["payload"])

    async def change(self, position: int, payload: dict[str, Any]) -> None:
        """And make all hashes anew."""
        text = json.dumps(payload, separators=(",", ":")).encode()
        await self.admin.execute("UPDATE events SET payload = $1 WHERE position = $2", text, position)
        await rechain(self.admin, position)

    async def verified(self) -> tuple[Report, Decisions]:
        reader, decisions = LogReader(self.dsn), Decisions()
        await reader.open()
        try:
            return await verify(reader, [], [], lambda done, total: None, decisions), decisions
        finally:
            await reader.close()

    def told(self, *arguments: str) -> Finished:
        return run(self.home, "verify", "--decisions", *arguments, DATABASE_URL=self.dsn)


@pytest.fixture
async def log(database: str, admin: asyncpg.Connection[Any], tmp_path: Path) -> Tampered:
    """Five jobs on two GPUs, one of them preempted, through to the end, under two leaders."""
    scheduler = await start_scheduler(database, tmp_path, "2xH100")
    await scheduler.http.put("/api/v1/policy", json={"min_runtime_s": 0})
    low = await scheduler.submit(command="sleep 60", gpu_count=2, preemptible=True, priority="Low")
    await scheduler.until(low["id"], "Running")
    for gpus in (1, 2, 1):
        await scheduler.submit(gpu_count=gpus, time_limit_s=60)
    await scheduler.eventually(lambda: scheduler.engine.state.jobs[low["id"]].preempted > 0, "a preemption")
    await scheduler.cancel(low["id"])  # which may run again by now
    jobs = scheduler.engine.state.jobs.values()
    await scheduler.eventually(lambda: all(job.state.ended for job in jobs), "the end of all jobs")
    await scheduler.quiet()
    await scheduler.stop()
    scheduler = await start_scheduler(database, tmp_path, "2xH100")
    last = await scheduler.submit()
    await scheduler.until(last["id"], "Completed")
    await scheduler.quiet()
    await scheduler.stop()
    for table in ("events", "events_000000", "log_head"):
        await admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    return Tampered(database, admin, tmp_path, last["id"])


async def test_a_placement_that_was_changed_is_found_though_its_log_holds(log: Tampered) -> None:
    report, decisions = await log.verified()
    assert decisions.differences == []
    assert decisions.rerun.others == {}
    assert decisions.rerun.cycles >= 5
    done = log.told()
    assert done.returncode == 0, done.stderr
    assert (
        "warning: the log is not protected against change: triggers are missing or disabled on "
        in done.stderr
    )
    assert re.search(r"decisions \d+ cycles run again, all of them as recorded", done.stdout)

    (position, last) = await log.start_of_the_last()
    (first,) = last["allocation"]
    taken = first["gpu_ids"]
    devices = json.loads(
        await log.admin.fetchval("SELECT payload FROM events WHERE type = 'NodeRegistered' LIMIT 1")
    )["inventory"]["devices"]
    other = [device["uuid"] for device in devices if device["uuid"] not in taken]
    first["gpu_ids"] = other
    await log.change(position, last)

    tampered, decisions = await log.verified()
    assert (tampered.events, tampered.jobs) == (report.events, report.jobs), "as a log it holds"
    (difference,) = decisions.differences
    assert (difference.position, difference.cycle) == (position, last["cycle"])
    done = log.told()
    assert done.returncode == 1
    assert f"cycle {last['cycle']} differs at position {position}" in done.stdout
    for who in ("recorded  ", "run again "):
        assert f"{who}alice's job 5 was given 1 GPU on node-1: its turn had come (by Horizon " in done.stdout
    (allocation,) = [line for line in done.stdout.splitlines() if line.startswith("  allocation: ")]
    assert allocation.index(other[0]) < allocation.index("run again") < allocation.index(taken[0])


async def test_what_other_decision_code_wrote_is_said_and_is_no_fault(log: Tampered) -> None:
    position, elected = await log.event("LeaderElected", at=1)
    await log.change(position, {**elected, "decisions": DECISIONS + 1})
    _, decisions = await log.verified()
    assert (decisions.rerun.differing, list(decisions.rerun.others)) == (0, [DECISIONS + 1])
    cycles = decisions.rerun.others[DECISIONS + 1]
    done = log.told()
    assert done.returncode == 0, done.stderr
    said = f"{cycles} cycle{'s' * (cycles > 1)} decided by other code, not run again: code {DECISIONS + 1}"
    assert said in done.stdout
