"""The policy over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import asdict

from horizon.api import wire
from horizon.core.policy import Policy
from tests.api.client import Client


async def test_the_first_policy_is_the_programs_own(client: Client) -> None:
    answer = await client.ask("GET", "/policy", status=200)
    assert answer.json["version"] == 1
    assert answer.headers["ETag"] == '"1"'
    expected = {**asdict(Policy()), "topology_labels": ["switch", "rack"]}
    assert answer.json["policy"] == expected
    unchanged = await client.ask("GET", "/policy", headers={"If-None-Match": '"1"'}, status=304)
    assert unchanged.headers["ETag"] == '"1"'


def test_every_choice_can_be_asked_for() -> None:
    assert wire.PolicyChange.__struct_fields__ == (*Policy.__struct_fields__, "reason")


async def test_what_is_left_out_keeps_its_value(client: Client) -> None:
    answer = await client.ask("PUT", "/policy", {"strict": True, "min_runtime_s": 0}, status=200)
    assert answer.json["version"] == 2
    assert answer.headers["ETag"] == '"2"'
    answer = await client.ask("PUT", "/policy", {"gpu_cost": {"H100": 2_000}, "strict": None}, status=200)
    policy = answer.json["policy"]
    assert (policy["strict"], policy["min_runtime_s"], policy["gpu_cost"]) == (True, 0, {"H100": 2_000})
    answer = await client.ask("PUT", "/policy", {"gpu_cost": {}, "topology_labels": []}, status=200)
    assert (answer.json["policy"]["gpu_cost"], answer.json["policy"]["topology_labels"]) == ({}, [])
    assert await client.get("/policy") == answer.json
    (first, second, *_) = [
        event for event in (await client.get("/events"))["events"] if event["type"] == "PolicySet"
    ]
    assert (first["actor"], second["actor"], second["payload"]["by"]) == ("scheduler", "owner", "owner")


async def test_the_whole_policy_may_be_put_back(client: Client) -> None:
    before = await client.get("/policy")
    await client.ask("PUT", "/policy", {"order": "fifo", "reservation_depth": -1}, status=200)
    after = (await client.ask("PUT", "/policy", before["policy"], status=200)).json
    assert after == {"version": 3, "policy": before["policy"]}
    same = (await client.ask("PUT", "/policy", before["policy"], status=200)).json
    assert same == after


async def test_a_change_may_depend_on_the_version(client: Client) -> None:
    await client.ask("PUT", "/policy", {"strict": True}, headers={"If-Match": '"1"'}, status=200)
    stale = await client.ask("PUT", "/policy", {"strict": False}, headers={"If-Match": '"1"'}, status=412)
    assert "version 2, not 1" in stale.json["detail"]
    assert (await client.get("/policy"))["policy"]["strict"] is True
    await client.ask("PUT", "/policy", {"strict": False}, headers={"If-Match": '"2"'}, status=200)


async def test_changes_at_the_same_moment_are_all_made(client: Client) -> None:
    fields = (
        "min_runtime_s",
        "charge_ahead_s",
        "retry_backoff_s",
        "cores_per_gpu",
        "preemption_searches_max",
    )
    changes: list[dict[str, Any]] = [{field: 7} for field in fields]
    await asyncio.gather(*(client.ask("PUT", "/policy", change, status=200) for change in changes))
    answer = await client.get("/policy")
    assert answer["version"] == 6
    assert [answer["policy"][field] for field in fields] == [7] * 5


async def test_a_key_makes_a_change_once(client: Client) -> None:
    headers = {"Idempotency-Key": "k", "If-Match": '"1"'}
    first = await client.ask("PUT", "/policy", {"strict": True}, headers=headers, status=200)
    await client.ask("PUT", "/policy", {"strict": False}, status=200)
    again = await client.ask("PUT", "/policy", {"strict": True}, headers=headers, status=200)
    assert again.body == first.body
    assert again.headers["ETag"] == '"2"'
    assert (await client.get("/policy"))["policy"]["strict"] is False


NO_POLICIES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [""]),
    ({"strict": None}, [""]),
    ({"order": "random"}, ["/order"]),
    ({"strict": "yes"}, ["/strict"]),
    ({"reservation_depth": -2}, ["/reservation_depth"]),
    ({"reservation_depth": "easy"}, ["/reservation_depth"]),
    ({"half_life_s": 0, "examined_max": 0}, ["/examined_max", "/half_life_s"]),
    ({"half_life_s": 10**30}, ["/half_life_s"]),
    ({"charge_ahead_s": 1.5}, ["/charge_ahead_s"]),
    ({"gpu_cost": {"H100": 0}}, ["/gpu_cost"]),
    ({"gpu_cost": {"H100": "1"}}, ["/gpu_cost/H100"]),
    ({"gpu_cost": {"H100": 1, "h100": 2}}, ["/gpu_cost"]),
    ({"gpu_cost": {str(n): 1 for n in range(1_001)}}, ["/gpu_cost"]),
    ({"topology_labels": ["a", "b", "c", "d", "e"]}, ["/topology_labels"]),
    ({"topology_labels": [""]}, ["/topology_labels/0"]),
    ({"version": 1}, ["/version"]),
]


async def test_a_policy_that_cannot_be_is_refused(client: Client) -> None:
    for body, pointers in NO_POLICIES:
        answer = await client.ask("PUT", "/policy", body, status=422)
        assert answer.pointers == pointers, body
    answer = await client.ask("PUT", "/policy", {"order": "random"}, status=422)
    assert answer.json["detail"] == "Invalid enum value 'random'; there are fair, fifo"
    assert (await client.get("/policy"))["version"] == 1


async def test_a_name_given_twice_is_refused(client: Client) -> None:
    for raw in (b'{"strict":true,"strict":false}', b'{"gpu_cost":{"A":1,"A":2}}'):
        assert "twice" in (await client.ask("PUT", "/policy", raw=raw, status=422)).json["detail"]
