"""A Postgres that can be ill-treated, and schedulers on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cli.house import fresh_directory
from tests.faults.house import House
from tests.faults.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all tests of a file; each has a database of its own on it."""
    with fresh_directory() as directory:
        server = Server(directory)
        asyncio.run(server.start())
        yield server
        asyncio.run(server.stop())


@pytest.fixture
async def house(server: Server) -> AsyncIterator[House]:
    with fresh_directory() as directory:
        async with server.database() as dsn:
            house = House(directory, dsn, server)
            yield house
            await house.end()
