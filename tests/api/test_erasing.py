"""Erasing over HTTP: the blobs are gone, nobody is answered with them, and the log still holds."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from horizon.service.verify import verify
from horizon.store.reader import LogReader
from tests.api.client import Client

SCRIPT = "#!/bin/sh\necho $SECRET\n"
GIVEN = {"command": None, "script": SCRIPT, "environment": {"SECRET": "hunter2"}}


async def ended(client: Client, number: str, **fields: Any) -> dict[str, Any]:
    await client.submit(**{**GIVEN, **fields})
    await client.scheduler.until(number, "Completed")
    await client.scheduler.quiet()
    job: dict[str, Any] = await client.get(f"/jobs/{number}")
    return job


async def test_what_was_erased_is_in_no_table_no_file_and_no_answer(
    client: Client, admin: asyncpg.Connection[Any]
) -> None:
    job = await ended(client, "1")
    assert (job["script"], job["environment"], job["erased"]) == (SCRIPT, GIVEN["environment"], False)
    gone = (await client.ask("POST", "/jobs/1/erase?reason=asked to", status=200)).json
    assert (gone["script"], gone["environment"], gone["erased"]) == (None, None, True)
    assert gone["version"] == job["version"] + 1
    assert await client.get("/jobs/1") == gone
    [listed] = (await client.get("/jobs"))["jobs"]
    assert (listed["script"], listed["environment"]) == (None, None)
    assert await admin.fetchval("SELECT count(*) FROM blobs") == 0
    for file in client.scheduler.data_dir.rglob("*"):
        if file.is_file() and file.name != "0.stdout":
            assert b"$SECRET" not in file.read_bytes(), file
    [event] = [e for e in (await client.get("/jobs/1/events"))["events"] if e["type"] == "BlobsErased"]
    assert (event["payload"]["by"], event["payload"]["reason"]) == ("owner", "asked to")
    assert len(event["payload"]["digests"]) == 2
    refused = await client.ask("POST", "/jobs/1/requeue", status=409)
    assert "has been erased: submit it anew" in refused.json["detail"]
    reader = LogReader(client.scheduler.dsn)
    await reader.open()
    assert (await verify(reader, [], [], lambda done, total: None)).jobs == 1
    await reader.close()


async def test_a_script_that_another_job_needs_is_kept_for_that_one(client: Client) -> None:
    await ended(client, "1")
    await client.submit(**GIVEN, hold=True)
    await client.ask("POST", "/jobs/1/erase", status=200)
    erased, other = await client.get("/jobs/1"), await client.get("/jobs/2")
    assert (erased["script"], erased["environment"]) == (None, None)
    assert (other["script"], other["environment"]) == (SCRIPT, GIVEN["environment"])
    await client.ask("PATCH", "/jobs/2", {"hold": False}, status=200)
    await client.scheduler.until("2", "Completed")


async def test_a_task_is_erased_with_its_array(client: Client) -> None:
    await client.submit(**GIVEN, array="0-1")
    await client.scheduler.until("1", "Completed")
    await client.ask("POST", "/jobs/1_0/erase", status=409)
    await client.ask("POST", "/jobs/1/erase", status=200)
    task = await client.get("/jobs/1_0")
    assert (task["script"], task["environment"], task["erased"]) == (None, None, True)


async def test_the_same_script_may_be_filed_again_while_it_is_erased(client: Client) -> None:
    """Neither takes the other's away, in whichever order they come."""
    await ended(client, "1")
    asks = [client.submit(**GIVEN) for _ in range(20)]
    asks.insert(10, client.ask("POST", "/jobs/1/erase", status=200))  # type: ignore[arg-type]
    await asyncio.gather(*asks)
    for number in range(2, 22):
        job = await client.scheduler.until(str(number), "Completed", "Failed")
        assert (job["state"], job["script"]) == ("Completed", SCRIPT)
