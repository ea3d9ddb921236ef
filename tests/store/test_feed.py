"""A long part of the log is read and checked by a process of its own: what comes is what comes without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from horizon.core.events import Recorded
from horizon.store import feed
from horizon.store.port import GENESIS_HASH, Archived, Batch, Corrupt, Unavailable
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader
from tests.partitions import make_small
from tests.store.contract import drafts
from tests.store.test_archive import archive

SIZE, EVENTS = 10, 35


@pytest.fixture
async def store(
    database: str, admin: asyncpg.Connection[Any], tmp_path: Path
) -> AsyncIterator[PostgresStore]:
    await make_small(admin, SIZE)
    store = PostgresStore(database, archive=[tmp_path])
    await store.open()
    await store.elect()
    await store.append(Batch(drafts(EVENTS), 1_000))
    yield store
    await store.close()


@pytest.fixture
async def reader(database: str, store: PostgresStore, tmp_path: Path) -> AsyncIterator[LogReader]:
    reader = LogReader(database, [tmp_path])
    await reader.open()
    yield reader
    await reader.close()


async def read(log: PostgresStore | LogReader, after: int, limit: int) -> list[tuple[Any, ...]]:
    return [seen(one) async for one in log.read(after, limit)]


def seen(one: Recorded) -> tuple[Any, ...]:
    return (
        one.position,
        one.type,
        one.stream,
        one.stream_version,
        one.actor,
        one.command_id,
        one.hash,
        one.event,
    )


async def test_what_is_fed_is_what_is_read_without_a_process(
    store: PostgresStore, reader: LogReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive(store, reader, tmp_path, 1)
    parts = ((0, 36), (5, 10), (36, 5), (30, 99))
    directly = [await read(store, *part) for part in parts]
    assert [len(one) for one in directly] == [36, 10, 0, 6]
    monkeypatch.setattr(feed, "FEED_EVENTS", 1)
    begun = count_processes(monkeypatch)
    for log in (store, reader):
        assert [await read(log, *part) for part in parts] == directly
    assert len(begun) == 2 * len(parts)
    assert_gone(begun)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE events SET actor = 'mallory' WHERE position = 20", "event 20 has been changed"),
        ("DELETE FROM events WHERE position = 20", "the log has a gap: after 19 comes 21"),
    ],
)
async def test_events_up_to_a_break_of_the_chain_come_and_then_what_is_wrong(
    store: PostgresStore,
    reader: LogReader,
    admin: asyncpg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    words: str,
) -> None:
    await admin.execute("ALTER TABLE events_000001 DISABLE TRIGGER ALL")
    await admin.execute("ALTER TABLE events_000002 DISABLE TRIGGER ALL")
    await admin.execute(statement)
    monkeypatch.setattr(feed, "FEED_EVENTS", 1)
    for log in (store, reader):
        with pytest.raises(Corrupt, match=words):
            await read(log, 0, EVENTS)


async def test_an_event_that_hangs_on_another_than_it_should_is_not_given(
    database: str, store: PostgresStore
) -> None:
    with pytest.raises(Corrupt, match="event 6 has been changed, or the one before it"):
        [one async for one in feed.fed(database, [], 5, EVENTS, GENESIS_HASH)]


async def test_a_file_that_is_away_is_named_as_ever(
    store: PostgresStore, reader: LogReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await archive(store, reader, tmp_path, 1)).unlink()
    monkeypatch.setattr(feed, "FEED_EVENTS", 1)
    with pytest.raises(Archived, match=r"events 1 to 10 are in the file 1\.jsonl"):
        await read(store, 0, EVENTS)


async def test_whoever_looks_at_no_more_events_leaves_no_process(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = count_processes(monkeypatch)
    monkeypatch.setattr(feed, "FEED_EVENTS", 1)
    events = store.read(0, EVENTS)
    assert isinstance(events, AsyncGenerator)
    async for one in events:
        if one.position == 3:
            break
    assert begun[0].is_running()
    await events.aclose()
    assert_gone(begun)


async def test_a_process_that_is_killed_is_said_to_have_died(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = count_processes(monkeypatch)
    create = asyncio.create_subprocess_exec

    async def killed(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*command, **options)
        process.kill()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", killed)
    with pytest.raises(Unavailable, match="the process that read the log has died"):
        [one async for one in feed.fed(database, [], 0, EVENTS, GENESIS_HASH)]
    assert_gone(begun)


async def test_a_database_that_cannot_be_had_is_said_to_be_without_its_password() -> None:
    nowhere = "postgresql://horizon:canary-5f0e@127.0.0.1:1/horizon"
    with pytest.raises(Unavailable, match="Postgres cannot be reached") as error:
        [one async for one in feed.fed(nowhere, [], 0, EVENTS, GENESIS_HASH)]
    assert "canary" not in str(error.value)


async def test_nobody_sees_the_password_among_the_processes(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = count_processes(monkeypatch)
    events = feed.fed(database, [], 0, EVENTS, GENESIS_HASH)
    await anext(events)
    assert database not in " ".join(begun[0].cmdline())
    assert database not in begun[0].environ().values()
    await events.aclose()


def count_processes(monkeypatch: pytest.MonkeyPatch) -> list[psutil.Process]:
    """Every process that is begun from now on."""
    begun: list[psutil.Process] = []
    create = asyncio.create_subprocess_exec

    async def counted(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*command, **options)
        begun.append(psutil.Process(process.pid))
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
    return begun


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    assert [one for one in processes if one.is_running()] == []
