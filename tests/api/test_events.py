"""The log over HTTP: whole, by who did what to which job and when, and in sentences."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from horizon.api import events
from tests.api.client import UNKNOWN, Client


async def found(client: Client, query: str) -> list[int]:
    """The positions of all that is found, page by page."""
    positions: list[int] = []
    after, head = 0, 1
    while after < head:
        page = await client.get(f"/events?limit=3&after={after}&{query}")
        positions += [one["position"] for one in page["events"]]
        assert page["next_after"] > after
        after, head = page["next_after"], page["head"]
    return positions


@pytest.fixture
async def log(client: Client) -> list[dict[str, Any]]:
    """Everything that there is: two jobs came and went, and one was held."""
    for user in ("alice", "bob"):
        job = await client.submit(user_id=user, job_name="train")
        await client.scheduler.until(job["id"], "Completed")
    await client.scheduler.quiet()
    await client.submit(hold=True)
    everything: list[dict[str, Any]] = (await client.get("/events"))["events"]
    return everything


async def test_each_event_comes_with_a_sentence(client: Client, log: list[dict[str, Any]]) -> None:
    told = [one["sentence"] for one in log if one["type"] in ("JobSubmitted", "JobCompleted")]
    assert told[:2] == ["alice of default submitted job 1 (train): 1 GPU, Normal",
                        "alice's job 1 (train) completed"]  # fmt: skip
    of_job = (await client.get("/jobs/1/events"))["events"]
    assert [one["sentence"] for one in of_job if one["type"] == "JobCompleted"] == [told[1]]


@pytest.mark.parametrize("at_once", [2, 100])
async def test_what_is_asked_for_is_found_and_nothing_else(
    client: Client, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    for bound in ("SCANNED_MAX", "SCANNED_AT_ONCE", "FOUND_AT_ONCE"):
        monkeypatch.setattr(events, bound, at_once)
    id, middle = log[-1]["payload"]["job_id"], log[len(log) // 2]["recorded_at"]

    def those(**fields: str) -> list[int]:
        return [one["position"] for one in log if all(one[name] == value for name, value in fields.items())]

    assert await found(client, "") == those()
    assert await found(client, "actor=executor") == those(actor="executor")
    assert await found(client, "type=JobStarted&type=JobCompleted") == sorted(
        those(type="JobStarted") + those(type="JobCompleted")
    )
    assert await found(client, "job=1&actor=owner") == those(actor="owner")[:1]
    assert await found(client, f"job={id}") == those(stream=f"job/{id}")
    before = [one["position"] for one in log if one["recorded_at"] <= middle]
    since = [one["position"] for one in log if one["recorded_at"] >= middle]
    assert await found(client, f"until={middle}") == before
    assert await found(client, f"since={middle}") == since
    both = await found(client, f"since={middle}&until={middle}&type={log[len(log) // 2]['type']}")
    assert log[len(log) // 2]["position"] in both
    assert set(both) <= set(before) & set(since)
    assert await found(client, "actor=nobody") == []
    assert await found(client, "until=1980-01-01T00:00:00Z") == []
    assert await found(client, "since=2100-01-01T00:00:00Z") == []


async def test_what_cannot_be_asked_for_is_said(client: Client) -> None:
    unknown = await client.ask("GET", "/events?type=JobTeleported", status=422)
    assert "JobSubmitted" in unknown.json["errors"][0]["detail"]
    await client.ask("GET", f"/events?job={UNKNOWN}", status=404)
    await client.ask("GET", "/events?since=yesterday", status=422)
    await client.ask("GET", "/events?since=2030-01-01T00:00:00", status=422)


@pytest.mark.parametrize("path", ["/events", "/events?actor=eve", "/events?job=1", "/jobs/1/events"])
async def test_what_was_changed_is_not_answered_and_the_servers_log_says_so(
    client: Client, log: list[dict[str, Any]], admin: asyncpg.Connection[Any], path: str
) -> None:
    at = next(one["position"] for one in log if one["type"] == "JobSubmitted")
    change = "UPDATE events SET actor = $2 WHERE position = $1"
    await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
    await admin.execute(change, at, "eve")
    with capture_logs() as logs:
        answer = await client.ask("GET", path, status=500)
    await admin.execute(change, at, "owner")
    assert answer.json["type"] == "urn:horizon:problem:corrupt"
    assert f"event {at} has been changed" in answer.json["detail"]
    [said] = [one for one in logs if one["log_level"] == "error"]
    assert said["event"] == "the log does not hold"
    assert said["instance"] == answer.json["instance"]
    assert f"event {at} has been changed" in said["reason"]
