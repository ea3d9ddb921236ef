"""What of the cluster takes work: cordons and drains, failed GPUs, bookings, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.api.client import UNKNOWN, Client


def at(**fields: float) -> str:
    return (datetime.now(UTC) + timedelta(**fields)).isoformat()


async def events(client: Client, kind: str) -> list[dict[str, Any]]:
    return [one for one in (await client.get("/events?limit=10000"))["events"] if one["type"] == kind]


# --- nodes --------------------------------------------------------------------------------------------


async def test_a_cordoned_node_takes_no_work_until_it_is_resumed(client: Client) -> None:
    node = (await client.ask("POST", "/nodes/node-1/cordon", {"reason": "new disk"}, status=200)).json
    assert (node["state"], node["reason"], node["by"]) == ("cordoned", "new disk", "owner")
    assert node["drain_by"] is None
    assert await client.get("/nodes/node-1") == node
    await client.submit()
    assert "take no work" in (await client.get("/jobs/1"))["reason"]
    node = (await client.ask("POST", "/nodes/node-1/resume", status=200)).json
    assert (node["state"], node["reason"], node["by"]) == ("up", None, None)
    await client.scheduler.until("1", "Completed")
    assert [one["actor"] for one in await events(client, "NodeCordoned")] == ["owner"]


async def test_a_draining_node_is_drained_once_nothing_is_held_there(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    node = (await client.ask("POST", "/nodes/node-1/drain", status=200)).json
    assert (node["state"], node["reason"], node["drain_by"]) == ("draining", None, None)
    await client.ask("DELETE", "/jobs/1", status=200)
    await client.scheduler.quiet()
    assert (await client.get("/nodes/node-1"))["state"] == "drained"


async def test_a_drain_with_a_deadline_sends_what_runs_back_to_the_queue(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    node = (await client.ask("POST", "/nodes/node-1/drain", {"deadline_s": 0}, status=200)).json
    assert node["state"] == "draining"
    assert datetime.fromisoformat(node["drain_by"]) <= datetime.now(UTC)
    await client.scheduler.until(job["id"], "Queued")
    await client.scheduler.quiet()
    node = await client.get("/nodes/node-1")
    assert node["state"] == "drained"
    deadline = {"deadline_at": "2099-01-01T01:00:00+01:00"}
    later = (await client.ask("POST", "/nodes/node-1/drain", deadline, status=200)).json
    assert later["drain_by"] == "2099-01-01T00:00:00.000000Z"


async def test_a_node_that_is_not_there_cannot_be_changed(client: Client) -> None:
    for verb in ("cordon", "drain", "resume"):
        await client.ask("POST", f"/nodes/other/{verb}", status=404)


NO_DRAINS: list[tuple[str, Any, str]] = [
    ("cordon", {"reason": 1}, "/reason"),
    ("cordon", {"reason": "x" * 4_097}, "/reason"),
    ("cordon", {"deadline_s": 1}, "/deadline_s"),
    ("drain", {"deadline_s": -1}, "/deadline_s"),
    ("drain", {"deadline_s": 1.5}, "/deadline_s"),
    ("drain", {"deadline_at": "2030-01-01T00:00:00"}, "/deadline_at"),
    ("drain", {"deadline_at": "1960-01-01T00:00:00Z"}, "/deadline_at"),
    ("drain", {"deadline_s": 1, "deadline_at": "2030-01-01T00:00:00Z"}, "/deadline_at"),
    ("resume", {}, ""),
]


async def test_a_drain_that_cannot_be_is_refused(client: Client) -> None:
    for verb, body, pointer in NO_DRAINS:
        answer = await client.ask("POST", f"/nodes/node-1/{verb}", body, status=422)
        assert answer.pointers == [pointer], (verb, body)
    assert (await client.get("/nodes/node-1"))["state"] == "up"


async def test_a_body_that_may_be_left_out_must_be_json_if_there_is_one(client: Client) -> None:
    path = "/nodes/node-1/cordon"
    await client.ask("POST", path, raw=b"reason", status=400)
    await client.ask("POST", path, raw=b"{}", headers={"Content-Type": "text/plain"}, status=415)
    await client.ask("POST", path, raw=b"", headers={"Content-Type": "text/plain"}, status=200)


# --- GPUs ---------------------------------------------------------------------------------------------


async def test_a_gpu_says_where_in_its_node_it_is(client: Client) -> None:
    gpus = (await client.get("/gpus"))["gpus"]
    assert [gpu["link_group"] for gpu in gpus] == [0] * 8
    assert {gpu["numa_node"] for gpu in gpus} == {0, 1}
    assert all(gpu["pcie_root"] for gpu in gpus)


async def test_a_failed_gpu_is_not_used_until_it_has_recovered(client: Client) -> None:
    uuid = (await client.get("/gpus"))["gpus"][2]["uuid"]
    gpu = (await client.ask("POST", f"/gpus/{uuid}/fail", {"reason": "XID 79"}, status=200)).json
    assert (gpu["uuid"], gpu["state"], gpu["reason"], gpu["job"]) == (uuid, "failed", "XID 79", None)
    assert (await client.get("/gpus"))["gpus"][2] == gpu
    counts = {"total": 8, "free": 7, "held": 0, "releasing": 0, "failed": 1}
    assert (await client.get("/nodes/node-1"))["gpus"] == counts
    job = await client.submit(gpu_count=8)
    assert (await client.get(f"/jobs/{job['id']}"))["state"] == "Queued"
    gpu = (await client.ask("POST", f"/gpus/{uuid}/recover", status=200)).json
    assert (gpu["state"], gpu["reason"]) == ("free", None)
    await client.scheduler.until(job["id"], "Completed")
    assert [one["actor"] for one in await events(client, "DeviceFailed")] == ["owner"]


async def test_whoever_has_a_failed_gpu_keeps_it(client: Client) -> None:
    await client.gate()
    uuid = (await client.get("/gpus"))["gpus"][0]["uuid"]
    gpu = (await client.ask("POST", f"/gpus/{uuid}/fail", status=200)).json
    assert (gpu["state"], gpu["job"]["number"]) == ("failed", 1)
    assert (await client.get("/nodes/node-1"))["gpus"]["held"] == 7


async def test_a_gpu_that_is_not_there_cannot_fail(client: Client) -> None:
    for verb in ("fail", "recover"):
        await client.ask("POST", f"/gpus/GPU-nope/{verb}", status=404)


# --- bookings -----------------------------------------------------------------------------------------


async def test_a_booked_node_is_kept_free(client: Client) -> None:
    asked = {"nodes": ["node-1"], "start_at": at(minutes=10), "end_at": at(hours=1), "reason": "firmware"}
    answer = await client.ask("POST", "/bookings", asked, status=201)
    booking = answer.json
    assert (booking["nodes"], booking["by"], booking["reason"]) == (["node-1"], "owner", "firmware")
    assert datetime.fromisoformat(booking["start_at"]) == datetime.fromisoformat(asked["start_at"])
    assert (await client.get("/bookings"))["bookings"] == [booking]
    assert await client.get(answer.headers["Location"].removeprefix("/api/v1")) == booking
    long = await client.submit(time_limit_s=3_600)
    short = await client.submit(time_limit_s=60)
    await client.scheduler.until(short["id"], "Completed")
    assert (await client.get(f"/jobs/{long['id']}"))["state"] == "Queued"
    ended = await client.ask("DELETE", f"/bookings/{booking['id'].upper()}", status=200)
    assert ended.json == booking
    await client.scheduler.until(long["id"], "Completed")
    assert (await client.get("/bookings"))["bookings"] == []
    await client.get(f"/bookings/{booking['id']}", 404)
    await client.ask("DELETE", f"/bookings/{booking['id']}", status=404)


async def test_a_booking_begins_now_unless_it_says_when(client: Client) -> None:
    booking = (await client.ask("POST", "/bookings", {"nodes": ["node-1"], "end_at": at(hours=1)})).json
    assert datetime.fromisoformat(booking["start_at"]) <= datetime.now(UTC)
    assert booking["reason"] == ""


async def test_bookings_take_keys(client: Client) -> None:
    asked = {"nodes": ["node-1"], "start_at": at(minutes=10), "end_at": at(hours=1)}
    first, again = [
        await client.ask("POST", "/bookings", asked, headers={"Idempotency-Key": "k"}, status=201)
        for _ in range(2)
    ]
    assert first.body == again.body
    assert first.headers["Location"] == again.headers["Location"]
    path = f"/bookings/{first.json['id']}"
    first, again = [
        await client.ask("DELETE", path, headers={"Idempotency-Key": "l"}, status=200) for _ in range(2)
    ]
    assert first.body == again.body


NOW, LATER = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
NO_BOOKINGS: list[tuple[Any, str]] = [
    ({"end_at": NOW}, "/nodes"),
    ({"nodes": [], "end_at": NOW}, "/nodes"),
    ({"nodes": "node-1", "end_at": NOW}, "/nodes"),
    ({"nodes": ["node-1"]}, "/end_at"),
    ({"nodes": ["node-1"], "end_at": "tomorrow"}, "/end_at"),
    ({"nodes": ["node-1"], "end_at": "2030-01-01T00:00:00"}, "/end_at"),
    ({"nodes": ["node-1"], "end_at": "2020-01-01T00:00:00Z"}, "/end_at"),
    ({"nodes": ["node-1"], "start_at": LATER, "end_at": NOW}, "/end_at"),
    ({"nodes": ["node-1"], "start_at": "1960-01-01T00:00:00Z", "end_at": NOW}, "/start_at"),
    ({"nodes": ["node-1", "other"], "end_at": NOW}, "/nodes/1"),
    ({"nodes": ["node-1", "node-1"], "end_at": NOW}, "/nodes/1"),
    ({"nodes": ["node-1"], "end_at": NOW, "by": "me"}, "/by"),
]


async def test_a_booking_that_cannot_be_is_refused(client: Client) -> None:
    for body, pointer in NO_BOOKINGS:
        answer = await client.ask("POST", "/bookings", body, status=422)
        assert answer.pointers == [pointer], body
    assert (await client.get("/bookings"))["bookings"] == []
    await client.ask("DELETE", f"/bookings/{UNKNOWN}", status=404)


# --- all of it ----------------------------------------------------------------------------------------


async def test_every_change_takes_a_key(client: Client) -> None:
    uuid = (await client.get("/gpus"))["gpus"][0]["uuid"]
    for path, body in (
        ("/nodes/node-1/cordon", {"reason": "a"}),
        ("/nodes/node-1/drain", {"deadline_s": 600}),
        ("/nodes/node-1/resume", None),
        (f"/gpus/{uuid}/fail", {"reason": "b"}),
        (f"/gpus/{uuid}/recover", None),
    ):
        headers = {"Idempotency-Key": path}
        first = await client.ask("POST", path, body, headers=headers, status=200)
        again = await client.ask("POST", path, body, headers=headers, status=200)
        assert first.body == again.body
        assert again.headers["Idempotency-Replayed"] == "true"
