"""The queue, nodes, GPUs, shares and the log, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.client import Client

# --- the queue ----------------------------------------------------------------------------------------


async def test_an_empty_queue_has_nobody_waiting(client: Client) -> None:
    assert set((await client.get("/queue")).values()) == {0}
    assert await client.get("/queue/order") == {"jobs": [], "total": 0}
    assert await client.get("/jobs") == {"jobs": [], "total": 0, "next_cursor": None}


async def test_the_queue_says_who_waits(client: Client) -> None:
    await client.gate()
    for priority in ("Urgent", "High", "High", "Normal", "Low", "Low", "Low"):
        await client.submit(priority=priority)
    await client.submit(hold=True)
    assert await client.get("/queue") == {
        "total": 7, "urgent_priority": 1, "high_priority": 2, "normal_priority": 1, "low_priority": 3,
        "held": 1, "scheduled": 0, "running": 1, "preempted": 0,
    }  # fmt: skip


async def test_the_order_is_told(client: Client) -> None:
    await client.gate()
    low = await client.submit(priority="Low", job_name="later")
    high = await client.submit(priority="High", user_id="bob", account="research")
    order = await client.get("/queue/order")
    assert [(job["position"], job["id"]) for job in order["jobs"]] == [(1, high["id"]), (2, low["id"])]
    assert order["total"] == 2
    assert order["jobs"][0]["account"] == "research"
    assert [job["number"] for job in (await client.get("/queue/order?limit=1"))["jobs"]] == [high["number"]]


async def test_twenty_jobs_with_ten_reads_of_the_counts(client: Client) -> None:
    async def read() -> None:
        queue = await client.get("/queue")
        assert 0 <= queue["total"] <= 20

    stories: list[Any] = [client.submit(user_id=f"user-{n % 4}") for n in range(20)]
    stories += [read() for _ in range(10)]
    await asyncio.gather(*stories)
    for number in range(1, 21):
        await client.scheduler.until(str(number), "Completed")


# --- nodes and GPUs -----------------------------------------------------------------------------------


async def test_nodes_and_gpus_say_who_has_them(client: Client) -> None:
    job = await client.submit(command="sleep 60", gpu_count=3, cpu_cores=2, memory_gb=4, grace_period_s=0)
    job = await client.scheduler.until(job["id"], "Running")
    (node,) = (await client.get("/nodes"))["nodes"]
    assert node == await client.get("/nodes/node-1")
    assert node["gpus"] == {"total": 8, "free": 5, "held": 3, "releasing": 0, "failed": 0}
    assert (node["state"], node["gpu_types"], node["simulated"]) == ("up", ["H100"], True)
    assert (node["cpu_cores_held"], node["memory_gb_held"], node["jobs"]) == (2, 4, [1])
    gpus = (await client.get("/gpus?node=node-1"))["gpus"]
    held = [gpu for gpu in gpus if gpu["state"] == "held"]
    assert [gpu["uuid"] for gpu in held] == job["gpu_ids"]
    nobodys = {"array_number": None, "array_index": None}
    assert held[0]["job"] == {"id": job["id"], "number": 1, "user_id": "alice", **nobodys}
    assert [gpu["job"] for gpu in gpus if gpu["state"] == "free"] == [None] * 5
    assert (await client.get("/gpus?node=other"))["gpus"] == []
    await client.get("/nodes/other", 404)


async def test_gpus_are_releasing_until_their_processes_are_gone(client: Client) -> None:
    command = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    job = await client.submit(command=command, gpu_count=2, grace_period_s=1)
    await client.scheduler.until(job["id"], "Running")
    async with client.scheduler.http.get(f"/api/v1/jobs/{job['id']}/logs?follow=1") as output:
        assert await output.content.readline() == b"ready\n"
    await client.scheduler.cancel(job["id"])
    states = [gpu["state"] for gpu in (await client.get("/gpus"))["gpus"]]
    assert states == ["releasing"] * 2 + ["free"] * 6
    assert (await client.get("/nodes/node-1"))["gpus"]["releasing"] == 2
    await client.scheduler.quiet()
    assert {gpu["state"] for gpu in (await client.get("/gpus"))["gpus"]} == {"free"}


# --- shares -------------------------------------------------------------------------------------------


async def test_weights_are_set_and_told(client: Client) -> None:
    await client.submit(account="research/nlp", hold=True)
    answer = (await client.ask("PUT", "/shares/research/nlp", {"weight": 3}, status=200)).json
    assert (answer["path"], answer["parent"]) == ("research/nlp", "research")
    assert (answer["kind"], answer["weight"]) == ("account", 3)
    assert await client.get("/shares/research/nlp") == answer
    user = (await client.ask("PUT", "/shares/research/nlp/alice", {"weight": 2}, status=200)).json
    assert (user["kind"], user["weight"], user["waiting"]) == ("user", 2, 0)
    shares = (await client.get("/shares"))["shares"]
    assert [share["path"] for share in shares] == ["research", "research/nlp", "research/nlp/alice"]


async def test_a_share_may_be_set_before_anybody_uses_it(client: Client) -> None:
    await client.ask("PUT", "/shares/new", {"weight": 3}, status=404)
    account = (await client.ask("PUT", "/shares/new", {"weight": 3, "kind": "account"}, status=200)).json
    assert account == await client.get("/shares/new")
    user = (await client.ask("PUT", "/shares/new/bob", {"weight": 4, "kind": "user"}, status=200)).json
    assert user == await client.get("/shares/new/bob")
    (first, second) = (await client.get("/shares"))["shares"]
    assert (first, second) == (account, user)


async def test_usage_and_holdings_are_told(client: Client) -> None:
    job = await client.submit(account="research", command="sleep 60", gpu_count=4, grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    share = await client.get("/shares/research/alice?kind=user")
    assert share["gpus_held"] == 4
    assert share["effective_gpu_s"] == pytest.approx(4 * 3_600 + share["usage_gpu_s"])
    answer = (await client.ask("PUT", "/shares/research/alice", {"weight": 10})).json
    assert answer["score"] == pytest.approx(answer["effective_gpu_s"] / 10)
    await client.get("/shares/nobody", 404)
    await client.get("/shares/research?kind=user", 404)


NO_SHARES: list[tuple[str, Any, str]] = [
    ("a", {"weight": 0}, "/weight"),
    ("a", {"weight": 1_000_001}, "/weight"),
    ("a", {"weight": 1.5}, "/weight"),
    ("a", {}, ""),
    ("a", {"kind": "account"}, ""),
    ("a", {"max_gpus": -1, "kind": "account"}, "/max_gpus"),
    ("a", {"max_gpus": 1_000_001, "kind": "account"}, "/max_gpus"),
    ("a", {"guaranteed_gpus": None, "kind": "account"}, "/guaranteed_gpus"),
    ("a", {"max_gpus": 2, "guaranteed_gpus": 3, "kind": "account"}, "/guaranteed_gpus"),
    ("a/b", {"max_gpus": 2, "kind": "user"}, "/max_gpus"),
    ("a", {"weight": 1, "kind": "group"}, "/kind"),
    ("a", {"weight": 1, "wait": 1}, "/wait"),
    ("a//b", {"weight": 1, "kind": "account"}, "path"),
    ("a/", {"weight": 1, "kind": "account"}, "path"),
    ("a%00b", {"weight": 1, "kind": "account"}, "path"),
    ("x" * 129, {"weight": 1, "kind": "account"}, "path"),
    ("a/b/c/d/e/f/g/h/i", {"weight": 1, "kind": "account"}, "path"),
    ("a/b/c/d/e/f/g/h/i/j", {"weight": 1, "kind": "user"}, "path"),
    ("alone", {"weight": 1, "kind": "user"}, "/path"),
]


async def test_a_share_that_cannot_be_is_refused(client: Client) -> None:
    for path, body, where in NO_SHARES:
        answer = await client.ask("PUT", f"/shares/{path}", body, status=422)
        (fault,) = answer.json["errors"]
        assert where in (fault.get("pointer"), fault.get("parameter")), (path, body)
    assert (await client.get("/shares"))["shares"] == []


async def test_an_account_is_given_bounds(client: Client) -> None:
    await client.ask("PUT", "/shares/research", {"max_gpus": 4}, status=404)
    body = {"max_gpus": 4, "guaranteed_gpus": 2, "weight": 3, "kind": "account"}
    answer = (await client.ask("PUT", "/shares/research", body, status=200)).json
    assert (answer["max_gpus"], answer["guaranteed_gpus"], answer["weight"]) == (4, 2, 3)
    assert answer == await client.get("/shares/research")
    answer = (await client.ask("PUT", "/shares/research", {"guaranteed_gpus": 4}, status=200)).json
    assert (answer["max_gpus"], answer["guaranteed_gpus"], answer["weight"]) == (4, 4, 3)
    answer = (await client.ask("PUT", "/shares/research", {"max_gpus": None}, status=200)).json
    assert answer["max_gpus"] is None
    assert answer == await client.get("/shares/research")
    job = await client.submit(account="research", gpu_count=6)
    await client.scheduler.until(job["id"], "Completed")


async def test_a_bound_keeps_an_account_from_more(client: Client) -> None:
    await client.ask("PUT", "/shares/research", {"max_gpus": 4, "kind": "account"}, status=200)
    job = await client.submit(account="research", gpu_count=5)
    assert "at most 4 GPUs" in (await client.get(f"/jobs/{job['id']}"))["reason"]


async def test_a_weight_and_bounds_are_set_together_or_not_at_all(client: Client) -> None:
    await client.submit(account="research", hold=True)
    await client.ask("PUT", "/shares/research", {"max_gpus": 4, "weight": 2}, status=200)
    before = await client.get("/shares/research")
    for path, body, pointer in (
        ("research", {"weight": 9, "guaranteed_gpus": 5}, "/guaranteed_gpus"),
        ("research/alice", {"weight": 9, "max_gpus": 5}, "/max_gpus"),
    ):
        answer = await client.ask("PUT", f"/shares/{path}", body, status=422)
        assert answer.pointers == [pointer]
    assert await client.get("/shares/research") == before
    assert (await client.get("/shares/research/alice"))["weight"] == 1


async def test_a_key_makes_a_weight_and_bounds_safe_to_send_again(client: Client) -> None:
    body = {"weight": 2, "max_gpus": 4, "kind": "account"}
    headers = {"Idempotency-Key": "k"}
    first = await client.ask("PUT", "/shares/research", body, headers=headers, status=200)
    await client.ask("PUT", "/shares/research", {"weight": 5, "max_gpus": 5}, status=200)
    again = await client.ask("PUT", "/shares/research", body, headers=headers, status=200)
    assert again.body == first.body
    assert (await client.get("/shares/research"))["max_gpus"] == 5
    await client.ask("PUT", "/shares/research", {**body, "max_gpus": 3}, headers=headers, status=422)


async def test_siblings_are_ranked_and_compared(client: Client) -> None:
    job = await client.submit(account="research", command="sleep 60", gpu_count=4, grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    await client.submit(account="ads", user_id="bob", hold=True)
    shares = {share["path"]: share for share in (await client.get("/shares"))["shares"]}
    assert {path: share["rank"] for path, share in shares.items()} == {
        "research": 2,
        "research/alice": 1,
        "ads": 1,
        "ads/bob": 1,
    }
    research = shares["research"]
    assert (research["held_gpu"], research["charged_ahead_gpu_s"]) == (4, 4 * 3_600)
    found = await client.get("/shares/compare?first=research/alice&second=ads")
    assert (found["parent"], found["first"]["path"], found["second"]["path"]) == (None, "research", "ads")
    assert found["ahead"] == "ads"
    assert found["why"].startswith("ads goes before research")
    assert found["first"]["rank"] == 2


async def test_what_cannot_be_compared_is_refused(client: Client) -> None:
    await client.submit(account="research", hold=True)
    for query, parameter in (
        ("", "first"),
        ("?first=research", "second"),
        ("?first=research&second=", "second"),
        ("?first=research&second=research/alice", "second"),
        ("?first=research&second=research", "second"),
    ):
        fault = (await client.ask("GET", f"/shares/compare{query}", status=422)).json["errors"][0]
        assert fault["parameter"] == parameter
    await client.get("/shares/compare?first=research&second=nobody", 404)


async def test_a_user_may_stand_under_the_deepest_account(client: Client) -> None:
    await client.ask("PUT", "/shares/a/b/c/d/e/f/g/h/bob", {"weight": 1, "kind": "user"}, status=200)


# --- the log ------------------------------------------------------------------------------------------


async def test_the_log_is_read_page_by_page(client: Client) -> None:
    job = await client.submit()
    await client.scheduler.until(job["id"], "Completed")
    await client.scheduler.quiet()
    seen, after = [], 0
    while True:
        page = await client.get(f"/events?after={after}&limit=3")
        assert page["head"] == client.scheduler.engine.state.position
        if not page["events"]:
            break
        seen += [event["position"] for event in page["events"]]
        assert page["next_after"] == seen[-1]
        after = page["next_after"]
    assert seen == list(range(1, page["head"] + 1))
    assert (await client.get("/events?after=9223372036854775807"))["events"] == []


async def test_payloads_are_the_very_bytes_that_were_hashed(client: Client) -> None:
    await client.submit(hold=True, comment='é 😀 \\ " \n')
    body = (await client.ask("GET", "/events")).body
    stored = [recorded async for recorded in client.scheduler.engine.store.read(0)]
    for recorded in stored:
        assert recorded.payload in body
    events = json.loads(body)["events"]
    assert [event["hash"] for event in events] == [recorded.hash.hex() for recorded in stored]
