"""``Idempotency-Key``: whatever is sent again takes effect once."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import asyncpg

from horizon.api.routes import API, ROUTES
from tests.api.client import Answer, Client

BODY = {"user_id": "alice", "command": "true", "hold": True}


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


async def test_the_same_key_a_hundred_times_in_parallel_is_one_job(client: Client) -> None:
    answers = await asyncio.gather(
        *(client.ask("POST", "/jobs", BODY, headers=key("k"), status=201) for _ in range(100))
    )
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (await client.get("/jobs"))["total"] == 1


async def test_a_key_gives_the_stored_answer_later_too(client: Client) -> None:
    first = await client.ask("POST", "/jobs", BODY, headers=key("k"), status=201)
    await client.ask("DELETE", "/jobs/1", status=200)
    client.scheduler.engine._inbox._answers.clear()  # as after a restart: only the store knows
    again = await client.ask("POST", "/jobs", BODY, headers=key("k"), status=201)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["ETag"] == '"1"'
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_key_belongs_to_one_request(client: Client) -> None:
    await client.ask("POST", "/jobs", BODY, headers=key("k"), status=201)
    for method, path, body in (
        ("POST", "/jobs", {**BODY, "user_id": "bob"}),
        ("POST", "/jobs/batch", {"jobs": [BODY]}),
        ("DELETE", "/jobs/1", None),
        ("PUT", "/shares/a", {"weight": 1, "kind": "account"}),
    ):
        answer = await client.ask(method, path, body, headers=key("k"), status=422)
        assert answer.json["type"].endswith("idempotency-key-reused")
    assert (await client.get("/jobs"))["total"] == 1


LATER = "2099-01-01T00:00:00Z"
CHANGES: dict[tuple[str, str], list[tuple[str, Any]]] = {
    ("POST", "/jobs"): [("/jobs", BODY)],
    ("POST", "/jobs/batch"): [("/jobs/batch", {"jobs": [BODY] * 3})],
    ("PATCH", "/jobs/{id}"): [("/jobs/1", {"priority": "High"}), ("/jobs/1", {"hold": True})],
    ("POST", "/jobs/{id}/requeue"): [("/jobs/2/requeue?reason=x", None)],
    ("POST", "/jobs/{id}/checkpoint"): [("/jobs/3/checkpoint", None)],
    ("DELETE", "/jobs/{id}"): [("/jobs/1?reason=x", None)],
    ("POST", "/jobs/{id}/erase"): [("/jobs/4/erase?reason=x", None)],
    ("POST", "/nodes/{name}/cordon"): [("/nodes/node-1/cordon", {"reason": "x"})],
    ("POST", "/nodes/{name}/drain"): [("/nodes/node-1/drain", {"deadline_at": LATER})],
    ("POST", "/nodes/{name}/resume"): [("/nodes/node-1/resume", None)],
    ("POST", "/gpus/{uuid}/fail"): [("/gpus/GPU/fail", {"reason": "x"})],
    ("POST", "/gpus/{uuid}/recover"): [("/gpus/GPU/recover", None)],
    ("POST", "/bookings"): [("/bookings", {"nodes": ["node-1"], "end_at": LATER})],
    ("DELETE", "/bookings/{booking}"): [("/bookings/BOOKING", None)],
    ("PUT", "/policy"): [("/policy", {"patience_s": 60})],
    ("PUT", "/shares/{path}"): [
        ("/shares/a", {"weight": 2, "kind": "account"}),
        ("/shares/a", {"guaranteed_gpus": 2}),
    ],
}
"""What to ask of each route that changes anything, in an order in which each can be done."""


def test_every_route_that_changes_anything_is_asked_below() -> None:
    routes = {
        (route.method, re.sub(r":[^}]+}", "}", route.path.removeprefix(API)))
        for route in ROUTES
        if route.changes
    }
    # An archive can be recorded of a full partition only: tests/cli/test_archive.py.
    assert routes == set(CHANGES) | {("POST", "/log/archived")}


async def test_every_change_takes_a_key_and_is_made_once(client: Client) -> None:
    """Each is made, asked for again at once, and asked for again when all others have been made as well."""
    await client.submit(hold=True)
    for job in ("2", "3"):
        await client.submit(command="sleep 60", grace_period_s=0)
        await client.scheduler.until(job, "Running")
    await client.submit(environment={"A": "b"})
    await client.scheduler.until("4", "Completed")
    gpu = (await client.get("/gpus"))["gpus"][7]["uuid"]
    booking = (await client.ask("POST", "/bookings", {"nodes": ["node-1"], "end_at": LATER})).json["id"]
    asked: list[tuple[str, str, Any, Answer]] = []
    for (method, _), bodies in CHANGES.items():
        for path, body in bodies:
            path = path.replace("GPU", gpu).replace("BOOKING", booking)
            first = await client.ask(method, path, body, headers=key(f"change-{len(asked)}"))
            assert first.status < 300, (method, path, first.body)
            assert "Idempotency-Replayed" not in first.headers
            asked.append((method, path, body, first))
            await replayed(client, len(asked) - 1, *asked[-1])
    await client.scheduler.cancel_all()
    await client.scheduler.quiet()
    end = client.scheduler.engine.state.position
    client.scheduler.engine._inbox._answers.clear()  # as after a restart: only the store knows
    for number, one in enumerate(asked):
        await replayed(client, number, *one)
    assert client.scheduler.engine.state.position == end


async def replayed(client: Client, number: int, method: str, path: str, body: Any, first: Answer) -> None:
    again = await client.ask(method, path, body, headers=key(f"change-{number}"))
    assert (again.status, again.body) == (first.status, first.body), (method, path)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = f"{path}{'&' if '?' in path else '?'}other=1"
    await client.ask(method, other, body, headers=key(f"change-{number}"), status=422)


async def test_a_refusal_does_not_use_the_key_up(client: Client) -> None:
    await client.ask("DELETE", "/jobs/1", headers=key("k"), status=404)
    await client.ask("POST", "/jobs", BODY, status=201)
    await client.ask("DELETE", "/jobs/1", headers=key("k"), status=200)


async def test_a_key_is_visible_ascii(client: Client) -> None:
    for text in ("", " ", "a b", "x" * 256, "é", "a\tb"):
        answer = await client.ask("POST", "/jobs", BODY, headers=key(text), status=400)
        assert answer.json["errors"][0]["header"] == "Idempotency-Key"


async def test_a_key_of_255_characters_is_taken(client: Client) -> None:
    await client.ask("POST", "/jobs", BODY, headers=key("~" * 255), status=201)


async def test_a_key_is_given_once(client: Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    async with client.scheduler.http.post("/api/v1/jobs", data=json.dumps(BODY), headers=headers) as response:
        assert response.status == 400


async def test_what_is_stored_under_a_key_holds_no_secret_and_is_answered_with_it(client: Client) -> None:
    secret = {"script": "#!/bin/sh\necho hunter2", "environment": {"PASSWORD": "hunter2"}}
    body = {"user_id": "alice", "hold": True, **secret}
    answers = [await client.ask("POST", "/jobs", body, headers=key("k"), status=201) for _ in range(2)]
    answers.append(await client.ask("PATCH", "/jobs/1", {"priority": "High"}, headers=key("l"), status=200))
    for answer in answers:
        job = json.loads(answer.body)
        assert (job["script"], job["environment"]) == (secret["script"], secret["environment"])
    database = await asyncpg.connect(client.scheduler.dsn)
    stored = await database.fetch("SELECT body FROM answers")
    events = await database.fetch("SELECT payload FROM events")
    await database.close()
    assert len(stored) == 2
    assert not any(b"hunter2" in row[0] for row in [*stored, *events])


async def test_a_reason_in_the_body_of_a_cancel_is_not_lost_without_a_word(client: Client) -> None:
    await client.ask("POST", "/jobs", BODY, status=201)
    await client.ask("DELETE", "/jobs/1", {"reason": "wrong data"}, status=422)
    assert (await client.get("/jobs/1"))["state"] == "Queued"
