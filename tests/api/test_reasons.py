"""Whoever changes something may say why, and the log keeps who it was and what they said."""

from __future__ import annotations

import asyncio
from typing import Any

from horizon.api import jobs
from horizon.api.routes import ROUTES, Route
from tests.api.client import Client

OF_ONES_OWN = (jobs.submit, jobs.submit_batch, jobs.checkpoint)
"""A job that is new, or that says of itself how far it is: this overrides nobody."""


def asked(route: Route) -> tuple[str, ...]:
    """The fields of what is asked."""
    fields: tuple[str, ...] = ()
    for one in (route.body, route.query):
        fields += () if one is None else one.expected.__struct_fields__
    return fields


def test_every_change_takes_a_reason() -> None:
    changes = [route for route in ROUTES if route.changes and route.handler not in OF_ONES_OWN]
    assert changes
    assert [route.path for route in changes if "reason" not in asked(route)] == []


async def test_the_log_keeps_who_changed_what_and_why(client: Client) -> None:
    because = {"reason": "wrong data"}
    gate = await client.gate()
    await client.submit(gpu_count=8)
    gpu = (await client.get("/gpus"))["gpus"][0]["uuid"]
    changes: list[tuple[str, str, dict[str, Any] | None, list[str]]] = [
        ("PATCH", "/jobs/2", {"hold": True}, ["JobHeld"]),
        ("PATCH", "/jobs/2", {"hold": False, "priority": "High"}, ["JobUpdated", "JobReleased"]),
        ("DELETE", "/jobs/2", None, ["JobCancelled"]),
        ("POST", f"/jobs/{gate['id']}/requeue", None, ["RequeueRequested"]),
        ("POST", "/nodes/node-1/cordon", {}, ["NodeCordoned"]),
        ("POST", "/nodes/node-1/drain", {}, ["NodeCordoned"]),
        ("POST", "/nodes/node-1/resume", None, ["NodeResumed"]),
        ("POST", f"/gpus/{gpu}/fail", {}, ["DeviceFailed"]),
        ("POST", f"/gpus/{gpu}/recover", None, ["DeviceRecovered"]),
        ("POST", "/bookings", {"nodes": ["node-1"], "end_at": "2099-01-01T00:00:00Z"}, ["BookingMade"]),
        ("PUT", "/policy", {"min_runtime_s": 7}, ["PolicySet"]),
        ("PUT", "/shares/default", {"weight": 2, "max_gpus": 9}, ["ShareSet", "QuotaSet"]),
    ]
    since = client.scheduler.engine.state.position
    expected: list[str] = []
    for method, path, body, kinds in changes:
        at = f"{path}?reason=wrong+data" if body is None else path
        answer = await client.ask(method, at, None if body is None else {**body, **because})
        assert answer.status in (200, 201), (path, answer.body)
        expected += kinds
        if path == "/bookings":
            await client.ask("DELETE", f"/bookings/{answer.json['id']}?reason=wrong+data", status=200)
            expected.append("BookingEnded")
    said = (await client.get(f"/events?after={since}&limit=10000"))["events"]
    owners = [one for one in said if one["actor"] == "owner"]
    assert [one["type"] for one in owners] == expected
    assert {one["payload"]["reason"] for one in owners} == {"wrong data"}


async def test_a_change_without_a_reason_is_made(client: Client) -> None:
    await client.gate()
    await client.submit(gpu_count=8)
    await client.ask("PATCH", "/jobs/2", {"hold": True, "reason": None}, status=200)
    await client.ask("DELETE", "/jobs/2", status=200)
    events = (await client.get("/jobs/2/events"))["events"]
    assert [one["payload"].get("reason") for one in events[-2:]] == [None, None]
    await client.ask("PATCH", "/jobs/1", {"reason": "nothing to change"}, status=422)


async def test_a_change_that_was_refused_is_in_the_log_once(client: Client) -> None:
    await client.submit()
    await client.scheduler.until("1", "Completed")
    since = client.scheduler.engine.state.position
    for _ in range(3):
        refused = await client.ask("DELETE", "/jobs/1?reason=I+need+them", status=409)
    await client.ask("PUT", "/policy", {"strict": True}, headers={"If-Match": '"9"'}, status=412)
    await client.ask("DELETE", "/jobs/9", status=404)
    await client.ask("PUT", "/policy", {"min_runtime_s": -1}, status=422)
    said = (await client.get(f"/events?after={since}"))["events"]
    kept = [one["payload"] for one in said if one["type"] == "CommandRefused"]
    assert [(one["command"], one["kind"], one["by"]) for one in kept] == [
        ("Cancel", "conflict", "owner"),
        ("SetPolicy", "stale", "owner"),
    ]
    assert kept[0]["detail"] == refused.json["detail"]
    assert kept[0]["reason"] == "I need them"


async def test_each_thing_that_was_asked_and_refused_is_in_the_log_with_why(client: Client) -> None:
    await client.submit()
    await client.scheduler.until("1", "Completed")
    await client.scheduler.quiet()
    since = client.scheduler.engine.state.position
    for _ in range(2):
        for body in ({"hold": True}, {"priority": "High"}, {"priority": "High", "reason": "be nice"}):
            await client.ask("PATCH", "/jobs/1", body, status=409)
    await client.ask("PUT", "/policy", {"strict": True}, headers={"If-Match": '"9"'}, status=412)
    said = (await client.get(f"/events?after={since}"))["events"]
    assert [(one["payload"].get("asked"), one["payload"].get("reason")) for one in said] == [
        ({"hold": True}, None),
        ({"priority": "High"}, None),
        ({"priority": "High"}, "be nice"),
        ({"strict": True}, None),
    ]
    assert said[2]["sentence"] == (
        "owner asked to give alice's job 1 priority High: be nice; that was refused: "
        "job 1 has already ended: Completed"
    )


async def test_who_is_made_anew_behind_another_change_is_not_refused(client: Client) -> None:
    fields = ({"min_runtime_s": number} for number in range(5))
    answers = await asyncio.gather(*(client.ask("PUT", "/policy", body) for body in fields))
    assert [answer.status for answer in answers] == [200] * 5
    types = [one["type"] for one in (await client.get("/events"))["events"]]
    assert types.count("PolicySet") == 6
    assert "CommandRefused" not in types
