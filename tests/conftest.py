"""A real Postgres for every test that needs one: a template made once, cloned per test."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from horizon.store.embedded import EmbeddedPostgres
from horizon.store.postgres import PostgresStore

if TYPE_CHECKING:
    from tests.world import Scheduler

_TEMPLATE = f"horizon_template_{os.getpid()}"
_numbers = itertools.count(1)


def with_database(dsn: str, name: str) -> str:
    return re.sub(r"(//[^/]*)/[^?]*", rf"\1/{name}", dsn, count=1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a server: ``HORIZON_TEST_DSN``, else an embedded one for this run."""
    given = os.environ.get("HORIZON_TEST_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="horizon-test-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        dsn = asyncio.run(server.start())
        yield dsn
        asyncio.run(server.stop())


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a database that is migrated and empty."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres)
        await admin.execute(f'CREATE DATABASE "{_TEMPLATE}"')
        await admin.close()
        store = PostgresStore(with_database(postgres, _TEMPLATE))
        await store.open()
        await store.close()

    asyncio.run(make())
    yield _TEMPLATE
    asyncio.run(drop(postgres, _TEMPLATE))


async def drop(dsn: str, name: str) -> None:
    admin = await asyncpg.connect(dsn)
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def database(postgres: str, template: str) -> AsyncIterator[str]:
    """The DSN of a fresh, migrated database."""
    name = f"horizon_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await admin.close()
    yield with_database(postgres, name)
    await drop(postgres, name)


@pytest.fixture
async def scheduler(database: str, tmp_path: Path) -> AsyncIterator[Scheduler]:
    """A whole scheduler on ``8xH100`` pretend GPUs, over real HTTP; its log is folded at the end."""
    from tests.world import start_scheduler

    running = await start_scheduler(database, tmp_path, "8xH100")
    yield running
    await running.stop_checked()


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A superuser's connection to the same database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()
