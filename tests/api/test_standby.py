"""A standby beside a leader, over real HTTP on one real log: reads are its own, the rest is the leader's."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from horizon.api.app import create_app
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.service.follower import Follower
from horizon.service.standby import Standby
from horizon.store.postgres import PostgresStore
from tests.api.client import Answer, Client, check
from tests.world import TOKEN, Scheduler

Sending = dict[str, Any]


@pytest.fixture
async def standby(
    scheduler: Scheduler, admin: asyncpg.Connection[Any], tmp_path: Path
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a standby that follows the scheduler, which says where it is."""
    await admin.execute("UPDATE log_head SET leader_url = $1", scheduler.url)
    clock = SystemClock()
    executor = LocalExecutor(tmp_path, simulated("8xH100"))
    engine = Engine(PostgresStore(scheduler.dsn), executor, clock, Ids(clock))
    follows = Standby(engine, Follower(engine.store), lambda led, state: None)
    await follows.start(lambda done, total: None)
    running = asyncio.create_task(follows.run())
    runner = web.AppRunner(create_app(engine, token=TOKEN, standby=follows))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        yield http
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await runner.cleanup()
    await engine.stop()


async def ask(http: aiohttp.ClientSession, method: str, path: str, status: int = 200, **more: Any) -> Any:
    """The answer, checked against the description, and its headers."""
    async with http.request(method, path, **more) as response:
        answer = Answer(response.status, response.headers.copy(), await response.read())
        assert answer.status == status, answer.body
        check(method, path, answer)
        return answer


JOB = {"user_id": "alice", "command": "echo hello; exit 3"}


async def test_what_is_changed_through_a_standby_is_read_back_from_it(
    standby: aiohttp.ClientSession, scheduler: Scheduler
) -> None:
    submitted = await ask(standby, "POST", "/api/v1/jobs", 201, json=JOB)
    position = submitted.headers["Horizon-As-Of"]
    path = f"/api/v1/jobs/{submitted.json['id']}"
    read = await ask(standby, "GET", path)
    assert read.json["number"] == 1
    assert int(read.headers["Horizon-As-Of"]) >= int(position)
    assert submitted.headers["Location"] == path
    await scheduler.until(submitted.json["id"], "Failed")
    position = (await ask(scheduler.http, "GET", path)).headers["Horizon-As-Of"]
    read = await ask(standby, "GET", f"{path}?min_position={position}")
    assert (read.json["state"], read.json["exit_code"]) == ("Failed", 3)


async def test_every_read_is_as_the_leaders(standby: aiohttp.ClientSession, scheduler: Scheduler) -> None:
    job = await scheduler.submit(command="sleep 60", gpu_count=8, grace_period_s=0)
    await scheduler.until(job["id"], "Running")
    waits = await scheduler.submit()
    await asyncio.sleep(0.1)
    position = (await ask(scheduler.http, "GET", "/api/v1/queue")).headers["Horizon-As-Of"]
    for path in (
        f"/jobs/{waits['id']}", f"/jobs/{job['id']}/events", "/jobs", "/queue", "/queue/order", "/nodes",
        "/gpus", "/policy", "/bookings", "/events",
    ):  # fmt: skip
        own = await ask(standby, "GET", f"/api/v1{path}", params={"min_position": position})
        assert own.headers["Horizon-As-Of"] == position
        assert own.json == (await ask(scheduler.http, "GET", f"/api/v1{path}")).json
    for path in ("/state", "/queue/order", "/shares", f"/jobs/{waits['id']}/why"):
        then = {"at": position}
        own = await ask(standby, "GET", f"/api/v1{path}", params={**then, "min_position": position})
        assert own.json == (await ask(scheduler.http, "GET", f"/api/v1{path}", params=then)).json
    why = (await ask(standby, "GET", f"/api/v1/jobs/{waits['id']}/why")).json
    assert (why["waiting"], why["position"]) == (1, 1)


async def test_an_idempotency_key_counts_through_a_standby_as_with_the_leader(
    standby: aiohttp.ClientSession, scheduler: Scheduler
) -> None:
    sending: Sending = {"json": JOB, "headers": {"Idempotency-Key": "k"}}
    first = await ask(standby, "POST", "/api/v1/jobs", 201, **sending)
    again = await ask(scheduler.http, "POST", "/api/v1/jobs", 201, **sending)
    through = await ask(standby, "POST", "/api/v1/jobs", 201, **sending)
    assert first.json == again.json == through.json
    assert through.headers["Idempotency-Replayed"] == "true"
    other = {"json": {**JOB, "gpu_count": 2}, "headers": {"Idempotency-Key": "k"}}
    await ask(standby, "POST", "/api/v1/jobs", 422, **other)


async def test_conditions_and_refusals_pass_through(standby: aiohttp.ClientSession) -> None:
    job = (await ask(standby, "POST", "/api/v1/jobs", 201, json={**JOB, "hold": True})).json
    path = f"/api/v1/jobs/{job['id']}"
    changed = await ask(
        standby, "PATCH", path, json={"priority": "High"}, headers={"If-Match": f'"{job["version"]}"'}
    )
    assert changed.headers["ETag"] == f'"{job["version"] + 1}"'
    await ask(standby, "PATCH", path, 412, json={"priority": "Low"}, headers={"If-Match": '"1"'})
    assert (await ask(standby, "DELETE", f"{path}?reason=why+not")).json["reason"].endswith("why not")
    refused = await ask(standby, "POST", "/api/v1/jobs", 422, json={**JOB, "gpu_count": -1})
    assert refused.pointers == ["/gpu_count"]


async def test_a_large_batch_passes_through(standby: aiohttp.ClientSession) -> None:
    jobs = [{**JOB, "hold": True, "comment": "x" * 500}] * 4_000
    body = io.BytesIO(json.dumps({"jobs": jobs}).encode())
    headers = {"Content-Type": "application/json"}
    answer = await ask(standby, "POST", "/api/v1/jobs/batch", 201, data=body, headers=headers)
    assert len(answer.json["jobs"]) == 4_000


async def test_output_is_streamed_through_a_standby(
    standby: aiohttp.ClientSession, scheduler: Scheduler
) -> None:
    job = await scheduler.submit(command="echo one; sleep 0.5; echo two")
    await ask(standby, "GET", f"/api/v1/jobs/{job['id']}", params={"min_position": 4})
    async with standby.get(f"/api/v1/jobs/{job['id']}/logs?follow=1") as response:
        assert await response.content.readline() == b"one\n"
        assert not response.content.at_eof()
        assert await response.content.read() == b"two\n"


async def test_health_tells_a_standby_from_a_leader(
    standby: aiohttp.ClientSession, scheduler: Scheduler
) -> None:
    assert (await ask(standby, "GET", "/readyz")).json == {"status": "ok", "role": "standby"}
    assert (await ask(scheduler.http, "GET", "/readyz")).json == {"status": "ok", "role": "leader"}
    health = (await ask(standby, "GET", "/health")).json
    assert (health["status"], health["leading"], health["role"]) == ("ok", False, "standby")
    assert (health["lag_events"], health["epoch"]) == (0, 1)
    assert 0 <= health["lag_s"] < 5
    samples = (await ask(standby, "GET", "/metrics")).body.decode().splitlines()
    assert {"horizon_standby 1.0", "horizon_leading 0.0", "horizon_lag_events 0.0"} <= set(samples)


async def test_without_a_token_a_standby_says_no_itself(standby: aiohttp.ClientSession) -> None:
    await ask(standby, "POST", "/api/v1/jobs", 401, json=JOB, headers={"Authorization": "Bearer other"})


async def test_a_leader_that_cannot_be_reached_is_said_to_be(
    standby: aiohttp.ClientSession, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("UPDATE log_head SET leader_url = 'http://127.0.0.1:9'")
    await asyncio.sleep(0.3)
    refused = await ask(standby, "POST", "/api/v1/jobs", 503, json=JOB)
    assert "http://127.0.0.1:9 cannot be reached" in refused.json["detail"]
    assert int(refused.headers["Retry-After"]) > 0


async def test_what_was_forwarded_is_not_forwarded_again(
    standby: aiohttp.ClientSession, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("UPDATE log_head SET leader_url = $1", str(standby._base_url))
    await asyncio.sleep(0.3)
    refused = await ask(standby, "POST", "/api/v1/jobs", 503, json=JOB)
    assert "took this one for the leader" in refused.json["detail"]


async def test_a_change_that_a_silent_leader_was_asked_for_is_not_said_to_be_lost(
    standby: aiohttp.ClientSession, scheduler: Scheduler, admin: asyncpg.Connection[Any]
) -> None:
    """It takes the request and says nothing; then another one is elected."""
    taken: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: taken.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    await admin.execute("UPDATE log_head SET leader_url = $1", f"http://127.0.0.1:{port}")
    await asyncio.sleep(0.3)
    asked = asyncio.create_task(ask(standby, "POST", "/api/v1/jobs", 503, json=JOB))
    await asyncio.sleep(0.3)
    assert not asked.done()
    await admin.execute("UPDATE log_head SET epoch = epoch + 1")
    assert "may have been done all the same" in (await asked).json["detail"]
    await scheduler.engine.stopped
    await admin.execute("UPDATE log_head SET epoch = epoch - 1")
    for writer in taken:
        writer.close()
        await writer.wait_closed()
    silent.close()


# --- reading what one has written ---------------------------------------------------------------------


async def test_a_position_that_does_not_come_is_not_waited_for_for_ever(client: Client) -> None:
    answer = await client.ask("GET", "/queue?min_position=1000000", status=503)
    assert "not yet at 1000000" in answer.json["detail"]
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("value", ["x", "-1", "", "1&min_position=2", "9" * 30])
async def test_what_is_no_position_is_refused(client: Client, value: str) -> None:
    answer = await client.ask("GET", f"/queue?min_position={value}", status=422)
    assert answer.json["errors"][0]["parameter"] == "min_position"


async def test_every_answer_says_up_to_where_it_knows_the_log(client: Client) -> None:
    answer = await client.ask("POST", "/jobs", JOB, status=201)
    first = int(answer.headers["Horizon-As-Of"])
    answer = await client.ask("GET", f"/jobs?limit=1&min_position={first}", status=200)
    assert int(answer.headers["Horizon-As-Of"]) >= first
    assert answer.json["total"] == 1
