"""Real schedulers on a Postgres that is cut off, stopped in the middle, filled up, set back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.house import fresh_directory
from tests.faults.house import House, eventually
from tests.faults.server import Server

pytestmark = pytest.mark.slow


async def test_an_append_that_is_cut_at_any_stage_is_settled_rightly(house: House, server: Server) -> None:
    assert await house.start()
    async with house.load(clients=8, pause_s=0.005):
        server.proxy.badness = 0.2
        await eventually(lambda: min(server.proxy.counts()) >= 2, "two of each fault")
        server.proxy.badness = 0.0
    await house.quiet()
    findings = await house.checked()
    assert findings.epochs > len(server.proxy.FAULTS)


async def test_a_server_that_is_stopped_at_once_keeps_what_was_acknowledged(
    house: House, server: Server
) -> None:
    assert await house.start()
    async with house.load(clients=8, pause_s=0.005):
        for how in (signal.SIGQUIT, signal.SIGKILL):
            await asyncio.sleep(0.7)
            await server.crash(how)
            await server.start()
            assert house.up, house.last.said
    await house.quiet()
    await house.checked()


async def test_a_connection_that_was_cut_where_neither_end_is_told_is_given_up(
    house: House, server: Server
) -> None:
    assert await house.start(HORIZON_ANSWER_S="0.5")
    async with house.load():
        for _ in range(2):
            await asyncio.sleep(0.5)
            epoch = await server.epoch(house.dsn)
            server.proxy.hold()
            await eventually(lambda epoch=epoch: server.is_past(epoch, house.dsn), "another election")
    await house.quiet()
    await house.checked()


async def test_while_somebody_locks_the_head_nothing_is_lost(house: House, server: Server) -> None:
    assert await house.start(HORIZON_ANSWER_S="0.5")
    async with house.load():
        await asyncio.sleep(0.3)
        async with server.transaction(house.dsn, "SELECT FROM log_head FOR UPDATE"):
            await asyncio.sleep(1.5)
    await house.quiet()
    await house.checked()


async def test_whoever_stays_in_a_transaction_that_reads_the_log_is_named_and_keeps_nobody_from_adding_to_it(
    house: House, server: Server
) -> None:
    reading = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events"
    assert await house.start(HORIZON_OPEN_S="0.2")
    async with house.load(), server.transaction(house.dsn, reading):
        before = await server.position(house.dsn)
        await eventually(lambda: server.has_grown(before + 500, house.dsn), "500 more events")
        await eventually(lambda: "stays open" in house.last.said, "a warning")
    await house.quiet()
    findings = await house.checked()
    assert findings.epochs == 1
    assert house.last.said.count("stays open") == 1


async def test_while_the_database_is_read_only_nothing_is_lost(house: House, server: Server) -> None:
    assert await house.start()
    async with house.load():
        await asyncio.sleep(0.3)
        await server.read_only(house.dsn, True)
        epoch = await server.epoch(house.dsn)
        await asyncio.sleep(1.0)
        assert await server.epoch(house.dsn) == epoch
        await server.read_only(house.dsn, False)
        await eventually(lambda: server.is_past(epoch, house.dsn), "another election")
    await house.quiet()
    await house.checked()


async def test_a_clock_that_is_set_under_load_changes_no_order(house: House, server: Server) -> None:
    assert await house.start(HORIZON_CLOCK=house.set_clock(0))
    async with house.load():
        for ahead_s in (3_600, -3_600, 0.5, 0):
            await asyncio.sleep(0.3)
            house.set_clock(ahead_s)
    await house.quiet()
    await house.checked()


async def test_an_older_copy_of_the_database_is_not_led(house: House, server: Server) -> None:
    assert await house.start()
    async with house.load():
        await asyncio.sleep(0.3)
    await house.end(signal.SIGTERM)
    async with server.copy_of(house.dsn) as backup:
        assert await house.start()
        async with house.load():
            await asyncio.sleep(0.3)
        await house.checked()
        newer, house.dsn = house.dsn, backup
        assert not await house.start()
        assert "an older backup was restored" in house.last.said
        house.dsn = newer
    assert await house.start()
    await house.quiet()
    await house.checked()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with fresh_directory() as directory:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(directory)])
        if mounted.returncode:
            pytest.skip("no right to mount a small disk here")
        directory.chmod(0o755)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def test_a_disk_that_is_full_costs_nothing_that_was_acknowledged(small_disk: Path) -> None:
    server = Server(small_disk)
    await server.start()
    try:
        with fresh_directory() as directory:
            async with server.database() as dsn:
                house = House(directory, dsn, server)
                try:
                    await fill_and_make_room(house, server)
                finally:
                    await house.end()
    finally:
        await server.stop()


async def fill_and_make_room(house: House, server: Server) -> None:
    assert await house.start()
    async with house.load(clients=8, pause_s=0.0):
        await asyncio.sleep(0.5)
        server.fill_disk()
        await eventually(lambda: house.troubles > 50 or not server.running, "trouble")
        server.make_room()
        if not server.running:
            await server.start()
    await house.quiet()
    await house.checked()
