"""Why a job is where it is: now, then, and at moments that nobody can mean."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.api.client import Client


async def test_a_job_that_waits_says_what_for(client: Client) -> None:
    await client.gate()
    job = await client.submit(gpu_count=2, time_limit_s=60)
    told = await client.get(f"/jobs/{job['number']}/why")
    assert (told["id"], told["state"], told["position"], told["waiting"]) == (job["id"], "Queued", 1, 1)
    assert "waits for 2 GPUs" in told["summary"]
    assert told["nodes"] == {"devices": 1}
    assert told["ahead"] == []


async def test_every_position_and_every_moment_since_it_was_submitted_can_be_asked_about(
    client: Client,
) -> None:
    gate = await client.gate()
    job = await client.submit(user_id="bob", gpu_count=8)
    await client.ask("DELETE", f"/jobs/{gate['id']}", status=200)
    await client.scheduler.until(job["id"], "Completed")
    (submitted, *_) = (await client.get(f"/jobs/{job['id']}/events"))["events"]
    head = client.scheduler.engine.state.position
    states = [
        (await client.get(f"/jobs/{job['id']}/why?at={position}"))["state"]
        for position in range(submitted["position"], head + 1)
    ]
    assert list(dict.fromkeys(states)) == ["Queued", "Scheduled", "Running", "Completed"]
    then = await client.get(f"/jobs/{job['id']}/why?at={quote(submitted['recorded_at'])}")
    assert then["state"] == "Queued"
    assert then["at"] == submitted["recorded_at"]
    later = await client.get(f"/jobs/{job['id']}/why?at=2999-01-01T00:00:00Z")
    assert (later["state"], later["at"]) == ("Completed", "2999-01-01T00:00:00.000000Z")


@pytest.mark.parametrize(
    "at",
    ["0", "99999", "-1", "now", "", "2030-01-01", "1969-12-31T00:00:00Z", "9999-12-31T23:00:00-14:00"],
)
async def test_when_cannot_be_asked_about_is_refused(client: Client, at: str) -> None:
    job = await client.submit()
    refused = await client.ask("GET", f"/jobs/{job['id']}/why?at={quote(at)}", status=422)
    assert [fault["parameter"] for fault in refused.json["errors"]] == ["at"]


async def test_a_job_that_was_not_there_yet(client: Client) -> None:
    job = await client.submit()
    await client.get(f"/jobs/{job['id']}/why?at=1", status=404)
