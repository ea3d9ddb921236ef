"""A Horizon older than its log says so, wherever it meets what it does not know, and touches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon import auditor
from horizon.core import events as ev
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.service.verify import Unsound, verify
from horizon.store.export import plan_export
from horizon.store.note import SigningKey, origin_of
from horizon.store.port import Batch, Corrupt
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader

NEWER = ev.SCHEMA_VERSIONS["ShareSet"] + 1
ELECTED = ev.LeaderElected(epoch=1, host="h", pid=7, version="9.0.0", config_digest="", decisions=9)


def draft(event: ev.Event) -> ev.Draft:
    return ev.Draft(event, event.stream, 1, "owner", bytes(16), bytes(16), 0)


@pytest.fixture
async def log(database: str, monkeypatch: pytest.MonkeyPatch) -> LogReader:
    """Written by a Horizon for which weights mean something that this one does not know."""
    store = PostgresStore(database)
    await store.open()
    await store.elect()
    with monkeypatch.context() as newer:
        newer.setitem(ev.SCHEMA_VERSIONS, "ShareSet", NEWER)
        await store.append(Batch((draft(ELECTED), draft(ev.ShareSet(path="a", weight=3))), 1_000_000))
    await store.close()
    reader = LogReader(database)
    await reader.open()
    return reader


async def test_it_does_not_start(
    log: LogReader, database: str, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    clock = SystemClock()
    executor = LocalExecutor(tmp_path, simulated("1xH100"))
    engine = Engine(PostgresStore(database), executor, clock, Ids(clock))
    with pytest.raises(Corrupt, match=f"event 2 is a ShareSet of schema version {NEWER}; .* a newer one"):
        await engine.start()
    await engine.stop()
    assert await admin.fetchval("SELECT max(position) FROM events") == 2
    await log.close()


async def test_it_does_not_say_that_the_log_holds(log: LogReader) -> None:
    with pytest.raises(Unsound, match=f"position 2: .* knows it up to version {NEWER - 1}") as found:
        await verify(log, [], [], lambda done, total: None)
    assert found.value.position == 2
    await log.close()


async def test_nor_does_the_auditor(
    log: LogReader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = await plan_export(log, 1, None)
    key = SigningKey.new(origin_of((await log.head()).log_id)).public
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"".join([lines async for _, lines in plan.lines()]))
    assert auditor.main([str(path), f"--key={key}"]) == 1
    assert f"position 2: it is a ShareSet of version {NEWER}: a newer auditor may know it" in (
        capsys.readouterr().err
    )
    await log.close()
