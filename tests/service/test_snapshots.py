"""Snapshots of a running scheduler: written by a process of their own, harmless whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from horizon.api.app import create_app
from horizon.core import commands as cmd
from horizon.core.at_rest import Unreadable
from horizon.core.decide import Rejected
from horizon.core.model import JobSpec, JobState
from horizon.core.state import digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service import snapshots as keeping
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.service.follower import Follower
from horizon.service.recovery import fold_log
from horizon.service.snapshots import EVENTS_MIN, SnapshotKeeper, is_due
from horizon.store.postgres import PostgresStore
from horizon.store.snapshots import SnapshotFile, Snapshots
from tests.service.test_engine import ask, until


@pytest.mark.parametrize(
    ("position", "newest", "due"),
    [
        (0, 0, False),
        (EVENTS_MIN - 1, 0, False),
        (EVENTS_MIN, 0, True),
        (5_000_000, 4_900_001, False),
        (5_000_000, 4_900_000, True),
        (10_000_000, 9_800_001, False),
        (10_000_000, 9_800_000, True),
    ],
)
def test_one_is_due_when_much_has_come_since_the_last(position: int, newest: int, due: bool) -> None:
    assert is_due(position, newest) is due


class House:
    """A data directory and a database, on which schedulers are started one after the other."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.directory = dsn, directory
        self.snapshots = Snapshots(directory / "snapshots")

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        clock = SystemClock()
        executor = LocalExecutor(self.directory, simulated("4xH100"))
        engine = Engine(PostgresStore(self.dsn), executor, clock, Ids(clock), snapshots=self.snapshots)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()

    async def run_jobs(self, engine: Engine, jobs: int) -> None:
        completed = engine.state.counts[JobState.COMPLETED]
        for number in range(jobs):
            spec = JobSpec(f"user-{number % 3}", "true", job_name=f"job-{number}")
            await ask(engine, cmd.Submit(engine.ids.new_text(), spec))
        await until(lambda: engine.state.counts[JobState.COMPLETED] == completed + jobs)
        await until(lambda: not engine.state.holding)

    def writer(self, *more: str, dsn: str = "") -> subprocess.Popen[str]:
        """The process that writes one."""
        return subprocess.Popen(
            [sys.executable, "-m", "horizon.cli.main", "--data-dir", str(self.directory), "snapshot"],
            env={**os.environ, "DATABASE_URL": dsn or self.dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def keeper(self, engine: Engine, *command: str) -> SnapshotKeeper:
        usual = (sys.executable, "-m", "horizon.cli.main", "--data-dir", str(self.directory), "snapshot")
        return SnapshotKeeper(engine, command or usual, {**os.environ, "DATABASE_URL": self.dsn})

    async def from_zero(self) -> str:
        store = PostgresStore(self.dsn)
        try:
            return digest(await fold_log(store, await store.open()))
        finally:
            await store.close()


@pytest.fixture
async def house(database: str, tmp_path: Path) -> House:
    return House(database, tmp_path)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is due after any event, and that is looked at all the time."""
    monkeypatch.setattr(keeping, "EVENTS_MIN", 1)
    monkeypatch.setattr(keeping, "PART", 10**9)
    monkeypatch.setattr(keeping, "LOOK_S", 0.02)


async def test_a_restart_begins_at_the_snapshot_and_goes_on(house: House, eager: None) -> None:
    async with house.engine() as engine:
        assert engine.begun_at == 0
        await house.run_jobs(engine, 12)
        keeper = house.keeper(engine)
        keeper.start()
        position = engine.state.position
        await until(lambda: any(one.position >= position for one in house.snapshots))
        await keeper.stop()
        await house.run_jobs(engine, 3)
    async with house.engine() as engine:
        assert engine.begun_at == position
        assert engine.folded is None
        await house.run_jobs(engine, 4)
        ids = [job.id for job in engine.state.numbered]
        assert [engine.state.jobs[id].state for id in ids] == [JobState.COMPLETED] * 19
        live = digest(engine.state)
    assert await house.from_zero() == live


async def test_a_standby_begins_at_the_snapshot_too(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 3)
        live = digest(engine.state)
    writer = house.writer()
    await asyncio.to_thread(writer.communicate)
    store = PostgresStore(house.dsn)
    await store.open()
    told: list[int] = []
    follower = Follower(store, house.snapshots)
    await follower.look(lambda done, total: told.append(done))
    await store.close()
    assert told == [0, follower.state.position]
    assert digest(follower.state) == live


async def damaged(house: House) -> None:
    """The last snapshot, in place, while it is in use."""
    path = max(house.snapshots.directory.glob("*.snapshot"))
    await asyncio.to_thread(os.truncate, path, 100)


async def test_a_leader_whose_snapshot_is_damaged_folds_the_log_anew_and_leads_on(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 4)
        first = engine.state.numbered[0].id
    writer = house.writer()
    await asyncio.to_thread(writer.communicate)
    async with house.engine() as engine:
        assert engine.begun_at > 0
        epoch = engine.state.epoch
        await damaged(house)
        # Who asks for a change finds out that something is wrong, and never hears of it.
        with pytest.raises(Rejected, match="job 1 has already ended"):
            await ask(engine, cmd.Cancel(first))
        assert (engine.begun_at, engine.state.epoch, engine.ready) == (0, epoch + 1, True)
        assert [job.state for job in engine.state.numbered] == [JobState.COMPLETED] * 4
        await house.run_jobs(engine, 2)
        live = digest(engine.state)
    assert await house.from_zero() == live


async def test_whoever_reads_what_was_damaged_has_the_log_folded_anew(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 4)
        live = engine.state.numbered[0]
    writer = house.writer()
    await asyncio.to_thread(writer.communicate)
    async with house.engine() as engine, TestClient(TestServer(create_app(engine, token=None))) as http:
        await damaged(house)
        async with http.get("/api/v1/jobs/1") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert "has been damaged since it was loaded" in (await response.json())["detail"]
        await until(lambda: engine.ready and engine.begun_at == 0)
        assert engine.state.numbered[0] == live
        async with http.get("/api/v1/jobs/1") as response:
            assert response.status == 200


async def test_a_standby_whose_snapshot_is_damaged_folds_the_log_anew(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 3)
        live = digest(engine.state)
    writer = house.writer()
    await asyncio.to_thread(writer.communicate)
    store = PostgresStore(house.dsn)
    await store.open()
    follower = Follower(store, house.snapshots)
    await follower.look()
    await damaged(house)
    with pytest.raises(Unreadable) as raised:
        follower.state.numbered[0]
    follower.doubt(raised.value)
    assert not follower.state.epoch, "nobody is answered from it"
    await follower.look()
    await store.close()
    assert digest(follower.state) == live


async def test_the_readers_rights_are_enough(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 2)
    separator = "&" if "?" in house.dsn else "?"
    writer = house.writer(dsn=f"{house.dsn}{separator}role=horizon_auditor")
    said, trouble = await asyncio.to_thread(writer.communicate)
    assert (writer.returncode, trouble) == (0, "")
    assert "holds the state as of" in said
    async with house.engine() as engine:
        assert engine.begun_at > 0


async def test_two_do_not_write_at_once(house: House) -> None:
    async with house.engine():
        pass
    with house.snapshots.alone():
        writer = house.writer()
        _, trouble = await asyncio.to_thread(writer.communicate)
    assert writer.returncode == 1
    assert "another process is writing a snapshot" in trouble


async def test_a_log_that_was_tampered_with_gets_none(house: House) -> None:
    async with house.engine() as engine:
        await house.run_jobs(engine, 2)
    admin = await asyncpg.connect(house.dsn)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await admin.execute("UPDATE events SET actor = 'mallory' WHERE position = 3")
    await admin.close()
    writer = house.writer()
    _, trouble = await asyncio.to_thread(writer.communicate)
    assert writer.returncode == 1
    assert "event 3 has been changed" in trouble
    assert not list(house.snapshots.directory.glob("*.snapshot"))


async def test_one_that_fails_is_said_and_tried_again_later(house: House, eager: None) -> None:
    async with house.engine() as engine:
        keeper = house.keeper(engine, "/bin/sh", "-c", "echo the disk is full >&2; exit 3")
        with capture_logs() as logs:
            keeper.start()
            await until(lambda: len(logs) == 1)
            await house.run_jobs(engine, 1)
            await until(lambda: len(logs) >= 2)
            await keeper.stop()
        assert (logs[0]["code"], logs[0]["said"]) == (3, "the disk is full")


async def test_what_cannot_be_started_is_said_and_tried_again_later(
    house: House, eager: None, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    async with house.engine() as engine:
        keeper = house.keeper(engine, str(program))
        with capture_logs() as logs:
            keeper.start()
            await until(lambda: len(logs) == 1)
            program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
            program.chmod(0o700)
            await house.run_jobs(engine, 1)
            await until((tmp_path / "started").exists)
            await keeper.stop()
        assert "No such file or directory" in logs[0]["error"]


async def test_one_that_is_being_written_is_given_up_at_stop(
    house: House, eager: None, tmp_path: Path
) -> None:
    async with house.engine() as engine:
        keeper = house.keeper(engine, "/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600")
        keeper.start()
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        await keeper.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


KILLS = 8
WRITING = """
import sys
from pathlib import Path
from tests.store.test_snapshots import House
house = House(Path(sys.argv[1]))
states = [(house.state_at(position), house.log.events[position - 1].hash) for position in range(5, 25)]
print("begun", flush=True)
while True:
    for state, hash in states:
        with house.snapshots.alone():
            house.snapshots.write(state, bytes(16), hash)
"""


def test_killed_at_any_moment_it_leaves_nothing_that_misleads(tmp_path: Path) -> None:
    rng = random.Random(11)
    for _ in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        time.sleep(rng.random() * 0.1)
        writer.kill()
        writer.communicate()
        for path in tmp_path.glob("*.snapshot"):
            assert SnapshotFile(path).state().position == SnapshotFile(path).position
    assert len(list(tmp_path.iterdir())) <= 3 + len({"lock", "partial", "the one that was to go"})
