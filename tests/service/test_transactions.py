"""An alarm on transactions of others that keep vacuum from the database of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from horizon.service import transactions
from horizon.service.transactions import TransactionWatch
from horizon.store.postgres import PostgresStore
from tests.world import Scheduler

READING = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM log_head"


@pytest.fixture
async def watch(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TransactionWatch]:
    monkeypatch.setattr(transactions, "LOOK_S", 0.02)
    monkeypatch.setattr(transactions, "OPEN_S_MAX", 0.2)
    assert isinstance(scheduler.engine.store, PostgresStore)
    watch = TransactionWatch(scheduler.engine, scheduler.engine.store.open_transactions)
    yield watch
    await watch.stop()


@asynccontextmanager
async def transaction(dsn: str, statement: str) -> AsyncIterator[int]:
    """One of somebody else, as for as long as the block; the process that Postgres has for it."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "report"})
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield connection.get_server_pid()
    finally:
        await connection.close()


async def oldest_s(scheduler: Scheduler) -> float:
    async with scheduler.http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    [found] = [line for line in lines if line.startswith("horizon_oldest_transaction_seconds ")]
    return float(found.split()[1])


Logs = list[MutableMapping[str, Any]]


def told(logs: Logs) -> list[tuple[Any, ...]]:
    return [(one["pid"], one["application"], one["user"]) for one in logs if "stays open" in one["event"]]


@pytest.mark.parametrize("statement", [READING, "CREATE TEMPORARY TABLE written (a int)"])
async def test_a_transaction_that_stays_open_is_told_of_once_and_is_in_the_metrics(
    scheduler: Scheduler, watch: TransactionWatch, statement: str
) -> None:
    with capture_logs() as logs:
        watch.start()
        async with transaction(scheduler.dsn, statement) as pid:
            user = "postgres"
            await scheduler.eventually(lambda: told(logs) == [(pid, "report", user)], "a warning")
            assert await oldest_s(scheduler) >= 0.2
            for _ in range(3):  # appends go on, and so do the looks
                await scheduler.submit(hold=True)
                await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            while await oldest_s(scheduler):
                await asyncio.sleep(0.02)
        async with transaction(scheduler.dsn, statement) as other:
            await scheduler.eventually(lambda: len(told(logs)) == 2, "a warning of another")
    assert told(logs) == [(pid, "report", user), (other, "report", user)]
    assert "pg_terminate_backend" in logs[0]["event"]


async def test_one_that_waits_and_keeps_vacuum_from_nothing_is_not_told_of(
    scheduler: Scheduler, watch: TransactionWatch
) -> None:
    store = scheduler.engine.store
    assert isinstance(store, PostgresStore)
    async with transaction(scheduler.dsn, "SELECT count(*) FROM log_head") as pid:
        assert pid not in [one.pid for one in await store.open_transactions()]
    async with transaction(scheduler.dsn, READING) as pid:
        assert pid in [one.pid for one in await store.open_transactions()]
