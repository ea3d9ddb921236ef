"""Real schedulers that are killed: at every named point of an append, a launch, a checkpoint, a recovery."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from horizon.cli import places
from horizon.store.snapshots import Snapshots
from tests.cli.house import fresh_directory
from tests.conftest import with_database
from tests.faults.checker import Kind
from tests.faults.house import House, eventually
from tests.faults.scheduler import BEHIND_MIGRATION, IN_MIGRATION
from tests.faults.server import with_small_partitions

pytestmark = pytest.mark.slow

IN_RECOVERY = ("elected", "folded", "trusted", "announced", "adopted")
UNDER_LOAD = {
    "before encode": 9,
    "before send": 14,
    "after send": 11,
    "after commit": 12,
    "before acknowledge": 13,
    "after acknowledge": 10,
    "before launch": 3,
    "mid launch": 3,
    "before a partition": 3,
    "after a partition": 2,
    "before checkpoint": 1,
    "mid checkpoint": 1,
    "after checkpoint": 1,
}
"""How often each is passed before the scheduler dies there."""
IN_SNAPSHOT = {
    "before snapshot": 0,
    "mid snapshot": 0,
    "snapshot without a name": 0,
    "snapshot with a name": 1,
    "before older snapshots go": 1,
}
"""Whether there is one more snapshot once the process that writes it has died there."""


@pytest.fixture
async def house(database: str) -> AsyncIterator[House]:
    with fresh_directory() as directory:
        house = House(directory, database)
        yield house
        await house.end()


@pytest.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """The DSN of a database in which there is nothing yet."""
    admin = await asyncpg.connect(postgres)
    await admin.execute("CREATE DATABASE horizon_crashes")
    yield with_database(postgres, "horizon_crashes")
    await admin.execute("DROP DATABASE horizon_crashes WITH (FORCE)")
    await admin.close()


async def dies_at(house: House, point: str, passes: int = 1) -> None:
    await house.start(HORIZON_KILL_AT=f"{point}:{passes}")
    assert await house.last.until_dead() == -signal.SIGKILL, (point, house.last.said)


async def test_a_scheduler_killed_at_any_point_loses_nothing_and_does_nothing_twice(
    house: House, empty_database: str
) -> None:
    house.dsn = empty_database
    for point in (*IN_MIGRATION, *BEHIND_MIGRATION):
        await dies_at(house, point)
    await with_small_partitions(empty_database, 100)
    async with house.load():
        for point, passes in UNDER_LOAD.items():
            await dies_at(house, point, passes)
        for point in IN_RECOVERY:  # a loop of crashes: each of them while the one before is being mended
            await dies_at(house, point)
        assert await house.start()
    await house.quiet()
    findings = await house.checked()
    assert findings.epochs > len(UNDER_LOAD) + len(IN_RECOVERY)


async def test_a_leader_that_stands_still_past_its_lease_does_nothing_more(house: House) -> None:
    lease = ("--lease-ttl", "1")
    assert await house.start(*lease)
    leader, standby = house.last, house.begin("--standby", *lease)
    assert await standby.until_up()
    async with house.load():
        await asyncio.sleep(0.3)
        leader.send(signal.SIGSTOP)
        await eventually(lambda: standby.leads, "another leader")
        await asyncio.sleep(0.3)
        leader.send(signal.SIGCONT)
        assert await leader.until_dead() == 1
    await house.quiet()
    findings = await house.checked()
    assert findings.epochs == 2


async def test_one_key_a_hundred_times_in_parallel_across_a_crash_is_one_job(house: House) -> None:
    assert await house.start()
    async with house.load(), house.client() as http:
        asking = asyncio.create_task(house.insist(http, Kind.SUBMIT, "the same", together=100))
        await asyncio.sleep(0.02)
        await house.last.end()
        assert await house.start()
        answer = await asking
        assert answer == await house.insist(http, Kind.SUBMIT, "the same", together=100)
    await house.quiet()
    await house.checked()


async def test_a_snapshot_whose_writer_is_killed_is_whole_or_none(house: House) -> None:
    snapshots = Snapshots(places.snapshots(house.data_dir))
    assert await house.start()
    async with house.load():
        for point, more in IN_SNAPSHOT.items():
            await asyncio.sleep(0.1)  # something happens
            before = len(list(snapshots))
            assert await house.snapshot(HORIZON_KILL_AT=point) == -signal.SIGKILL
            assert len(list(snapshots)) == before + more, point
        assert await house.start()
        newest = next(iter(snapshots)).position
        assert await house.snapshot() == 0
        assert next(iter(snapshots)).position > newest
        assert await house.start()
    await house.quiet()
    await house.checked()


async def test_what_schedulers_have_in_memory_is_what_the_whole_log_folds_to(house: House) -> None:
    assert await house.start()
    leader, standby = house.last, house.begin("--standby")
    assert await standby.until_up()
    async with house.load():
        await asyncio.sleep(0.3)
        assert await house.snapshot() == 0
        await leader.end()
        assert await house.begin().until_up()  # from the snapshot on; the other one has folded all of it
        await asyncio.sleep(0.3)
    await house.quiet()
    findings = await house.checked()
    assert findings.states == 2
