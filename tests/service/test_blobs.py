"""What jobs were given is what the log names, or it is found out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon.core.blobs import digest_of
from horizon.service.verify import Report, Unsound, verify
from horizon.store.reader import LogReader
from tests.world import Scheduler, start_scheduler

SCRIPT = "#!/bin/sh\nexit 0\n"
GIVEN = {"command": None, "script": SCRIPT, "environment": {"SECRET": "hunter2"}}


@pytest.fixture
async def scheduler(database: str, tmp_path: Path) -> AsyncIterator[Scheduler]:
    """One whose log need not hold in the end."""
    running = await start_scheduler(database, tmp_path, "1xH100")
    yield running
    await running.stop()


async def verified(scheduler: Scheduler, role: str = "") -> Report:
    reader = LogReader(scheduler.dsn)
    await reader.open()
    try:
        if role:
            await reader.fetch(f"SET ROLE {role}")
        return await verify(reader, [], [], lambda done, total: None)
    finally:
        await reader.close()


async def position_of(scheduler: Scheduler, type: str) -> int:
    [event] = (await scheduler.get(f"/events?type={type}"))["events"]
    position: int = event["position"]
    return position


async def test_blobs_that_are_what_the_log_names_are_counted(scheduler: Scheduler) -> None:
    for _ in range(3):
        await scheduler.submit(**GIVEN, hold=True)
    assert (await verified(scheduler)).blobs == 4, "a script, and three environments with a salt each"


async def test_an_auditor_may_read_no_blobs_and_is_told_that_they_were_not_checked(
    scheduler: Scheduler, admin: asyncpg.Connection[Any]
) -> None:
    await scheduler.submit(**GIVEN, hold=True)
    await admin.execute("DELETE FROM blobs")
    assert (await verified(scheduler, "horizon_auditor")).blobs is None


@pytest.mark.parametrize(
    ("done", "found"),
    [
        ("UPDATE blobs SET data = '#!/bin/sh echo EVIL'", "was changed in the database"),
        ("DELETE FROM blobs", "is missing from the database, and the log does not say that it was erased"),
    ],
)
async def test_a_blob_that_was_changed_or_taken_away_is_found(
    scheduler: Scheduler, admin: asyncpg.Connection[Any], done: str, found: str
) -> None:
    job = await scheduler.submit(**GIVEN, hold=True)
    await admin.execute(f"{done} WHERE digest = $1", digest_of(SCRIPT.encode()))
    at = await position_of(scheduler, "JobSubmitted")
    with pytest.raises(Unsound, match=f"position {at}: the environment or script .* {found}"):
        await verified(scheduler)
    answered = await scheduler.get(f"/jobs/{job['number']}")
    assert (answered["script"], answered["environment"]) == (None, GIVEN["environment"])
    [listed] = (await scheduler.get("/jobs"))["jobs"]
    assert listed["script"] is None


async def test_a_blob_that_is_there_though_it_was_erased_is_found(
    scheduler: Scheduler, admin: asyncpg.Connection[Any]
) -> None:
    job = await scheduler.submit(**GIVEN)
    await scheduler.until(job["id"], "Completed")
    await scheduler.quiet()
    filed = [tuple(row) for row in await admin.fetch("SELECT * FROM blobs")]
    async with scheduler.http.post(f"/api/v1/jobs/{job['id']}/erase") as response:
        assert response.status == 200
    assert (await verified(scheduler)).blobs == 0
    await admin.executemany("INSERT INTO blobs VALUES ($1, $2)", filed)
    at = await position_of(scheduler, "BlobsErased")
    with pytest.raises(Unsound, match=f"position {at}: .* was erased, and is there again"):
        await verified(scheduler)


async def test_what_is_filed_and_erased_while_blobs_are_checked_is_no_fault(scheduler: Scheduler) -> None:
    first = await scheduler.submit(**GIVEN)
    await scheduler.until(first["id"], "Completed")
    await scheduler.quiet()

    class Slow(LogReader):
        """Meanwhile the log goes on."""

        async def may_read_blobs(self) -> bool:
            async with scheduler.http.post(f"/api/v1/jobs/{first['id']}/erase") as response:
                assert response.status == 200
            await scheduler.submit(**GIVEN, hold=True)
            return await super().may_read_blobs()

    reader = Slow(scheduler.dsn)
    await reader.open()
    try:
        assert (await verify(reader, [], [], lambda done, total: None)).blobs == 2
    finally:
        await reader.close()
