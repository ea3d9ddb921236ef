from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from horizon.api.app import create_app
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.store.memory import MemoryStore
from tests.api.client import Client
from tests.world import Scheduler

Bare = tuple[Engine, TestClient[web.Request, web.Application]]


@pytest.fixture
def client(scheduler: Scheduler) -> Client:
    """A client of a running scheduler that checks every answer against the description of the API."""
    return Client(scheduler)


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Bare]:
    """An engine in memory that has not been started, without nodes, behind its API and without a token."""
    clock = SystemClock()
    engine = Engine(MemoryStore(), LocalExecutor(tmp_path, ()), clock, Ids(clock))
    async with TestClient(TestServer(create_app(engine, token=None))) as http:
        yield engine, http
