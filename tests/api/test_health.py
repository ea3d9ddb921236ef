"""Health, readiness, metrics and the description of the API."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import horizon
from horizon.api.routes import OPEN_PATHS, OPENAPI_PATH, ROUTES
from horizon.service.engine import Stopped
from horizon.service.inbox import Busy
from horizon.service.keys import KeyFile
from horizon.service.notary import Notary
from horizon.service.notefile import NoteFile
from horizon.store.note import verified
from horizon.store.port import Unavailable
from tests.api.client import Client
from tests.api.conftest import Bare


async def test_health_tells_how_horizon_is(client: Client) -> None:
    health = await client.get("//health")
    assert (health["status"], health["leading"], health["store"], health["epoch"]) == ("ok", True, "ok", 1)
    assert health["version"] == horizon.__version__
    assert health["position"] == client.scheduler.engine.state.position
    assert health["nodes"] == 1
    assert 0 <= health["uptime_s"] < 60
    assert await client.get("//livez") == {"status": "ok"}
    assert await client.get("//readyz") == {"status": "ok", "role": "leader"}
    assert (await client.get("//"))["description"] == "/openapi.json"


async def test_the_newest_checkpoint_is_given_as_it_was_signed(bare: Bare, tmp_path: Path) -> None:
    engine, http = bare
    await engine.start()
    assert (await http.get("/api/v1/checkpoint")).status == 404
    assert (await (await http.get("/health")).json())["checkpoint"] is None
    await engine.stop()
    keys = KeyFile(tmp_path / "signing.key")
    engine.notary = Notary(keys, NoteFile(tmp_path / "checkpoints"))
    await engine.store.open()
    await engine._lead()
    await engine.notary.stop()
    response = await http.get("/api/v1/checkpoint")
    assert response.content_type == "text/plain"
    public = keys.public()
    assert public is not None
    assert verified(await response.text(), public).size == engine.state.position
    assert (await (await http.get("/health")).json())["checkpoint"] == engine.state.position
    samples = (await (await http.get("/metrics")).text()).splitlines()
    assert f"horizon_log_signed {engine.state.position}.0" in samples


# --- bad days -----------------------------------------------------------------------------------------


async def test_before_it_leads_it_is_alive_and_not_ready(bare: Bare) -> None:
    engine, http = bare
    assert (await http.get("/livez")).status == 200
    assert (await http.get("/health")).status == 503
    for path in ("/readyz", "/api/v1/jobs", "/api/v1/queue"):
        response = await http.get(path)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    response = await http.post("/api/v1/jobs", json={"user_id": "a", "command": "true"})
    assert response.status == 503
    await engine.start()
    assert (await http.get("/readyz")).status == 200
    assert (await http.post("/api/v1/jobs", json={"user_id": "a", "command": "true"})).status == 201
    await engine.stop()
    assert (await http.get("/readyz")).status == 503


@pytest.mark.parametrize(
    "error",
    [
        Busy("too many requests wait"),
        Stopped("another leads"),
        Unavailable("Postgres does not answer"),
    ],
)
async def test_what_cannot_be_done_now_may_be_tried_again(
    bare: Bare, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine, http = bare

    async def ask(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(engine, "ask", ask)
    response = await http.post("/api/v1/jobs", json={"user_id": "a", "command": "true"})
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert (await response.json(content_type=None))["detail"] == str(error)


async def test_a_store_that_does_not_answer_is_not_ready(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, http = bare
    await engine.start()

    async def ping() -> None:
        raise Unavailable("Postgres does not answer")

    monkeypatch.setattr(engine.store, "ping", ping)
    response = await http.get("/readyz")
    assert response.status == 503
    assert "Postgres does not answer" in (await response.json(content_type=None))["detail"]
    health = await (await http.get("/health")).json()
    assert (health["status"], health["leading"]) == ("unavailable", True)
    await engine.stop()


async def test_a_bug_is_named_and_not_shown(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, http = bare

    async def ask(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(engine, "ask", ask)
    response = await http.post("/api/v1/jobs", json={"user_id": "a", "command": "true"})
    problem = await response.json(content_type=None)
    assert (response.status, problem["status"]) == (500, 500)
    assert problem["instance"].startswith("urn:uuid:")
    assert "secret" not in json.dumps(problem)


# --- metrics ------------------------------------------------------------------------------------------


async def metrics(client: Client) -> dict[tuple[str, ...], float]:
    text = (await client.ask("GET", "//metrics", status=200)).body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_tell_what_is_there(client: Client) -> None:
    await client.gate()
    await client.submit(priority="High")
    await client.submit(hold=True)
    found = await metrics(client)
    assert found["horizon_jobs", "Running"] == 1
    assert found["horizon_jobs", "Queued"] == 2
    assert found["horizon_queue_depth", "High"] == 1
    assert found["horizon_queue_depth", "Normal"] == 0
    assert found["horizon_gpus", "H100", "held"] == 8
    assert found["horizon_gpus", "H100", "free"] == 0
    assert found["horizon_nodes", "up"] == 1
    assert found["horizon_epoch",] == 1
    assert found["horizon_leading",] == 1
    assert found["horizon_inbox_depth",] == 0
    assert found["horizon_log_position",] == client.scheduler.engine.state.position
    assert found["horizon_events_appended_total",] == found["horizon_log_position",]
    assert found["horizon_wait_seconds_count",] == 1
    assert found["horizon_policy_version",] == 1
    assert found["horizon_claims",] == found["horizon_bookings",] == 0


async def test_metrics_tell_what_takes_no_work(client: Client) -> None:
    uuid = (await client.get("/gpus"))["gpus"][0]["uuid"]
    await client.ask("POST", f"/gpus/{uuid}/fail", status=200)
    await client.ask("POST", "/nodes/node-1/drain", status=200)
    found = await metrics(client)
    assert found["horizon_gpus", "H100", "failed"] == 1
    assert found["horizon_gpus", "H100", "free"] == 7
    assert {state: found["horizon_nodes", state] for state in ("up", "cordoned", "draining", "drained")} == {
        "up": 0,
        "cordoned": 0,
        "draining": 0,
        "drained": 1,
    }


async def test_metrics_tell_how_good_planned_starts_were(client: Client) -> None:
    first = await client.submit(command="sleep 0.5", gpu_count=8, time_limit_s=3_600)
    await client.scheduler.until(first["id"], "Running")
    second = await client.submit(gpu_count=8)
    await client.scheduler.until(second["id"], "Completed")
    found = await metrics(client)
    assert found["horizon_start_error_seconds_count", "early"] == 1
    assert found["horizon_start_error_seconds_count", "late"] == 0
    assert 3_500 < found["horizon_start_error_seconds_sum", "early"] <= 3_600
    assert found["horizon_start_error_seconds_bucket", "2047.0", "early"] == 0
    assert found["horizon_start_error_seconds_bucket", "4095.0", "early"] == 1
    assert found["horizon_start_planned_ahead_seconds_total",] > 3_500


# --- the description ----------------------------------------------------------------------------------


async def test_the_description_has_every_route_and_every_reference(client: Client) -> None:
    document = await client.get("//openapi.json")
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {(route.method, re.sub(r":[^}]+", "", route.path)) for route in ROUTES}
    assert described == routed | {("GET", OPENAPI_PATH)}
    open_paths = {
        path
        for path, methods in document["paths"].items()
        if any(operation.get("security") == [] for operation in methods.values())
    }
    assert open_paths == OPEN_PATHS
    schemas = document["components"]["schemas"]
    names = set(_references(document))
    assert names <= schemas.keys()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
        return found + [name for value in node.values() for name in _references(value)]
    return [name for value in node for name in _references(value)] if isinstance(node, list) else []


async def test_the_description_knows_what_a_submission_is(client: Client) -> None:
    schemas = (await client.get("//openapi.json"))["components"]["schemas"]
    submission = schemas["Submission"]
    assert submission["required"] == ["user_id"]
    assert submission["additionalProperties"] is False
    assert set(schemas["JobAnswer"]["properties"]) >= set(submission["properties"])


# --- nobody waits for a long list ---------------------------------------------------------------------


async def test_a_long_list_does_not_keep_others_waiting(bare: Bare) -> None:
    engine, http = bare
    await engine.start()
    jobs = [{"user_id": "alice", "command": "true"}] * 10_000
    for _ in range(3):
        assert (await http.post("/api/v1/jobs/batch", json={"jobs": jobs})).status == 201
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.create_task(count_turns())
    before = turns
    assert (await (await http.get("/api/v1/jobs?user_id=bob")).json())["total"] == 0
    assert turns - before >= 7  # 30,000 jobs are looked at in at least that many slices
    counter.cancel()
    await engine.stop()


async def test_while_the_log_is_read_it_says_how_far_it_is(bare: Bare) -> None:
    engine, http = bare
    engine.folded = (150_000, 400_000)
    response = await http.get("/readyz")
    assert response.status == 503
    assert "the log is being read: 150,000 of 400,000 events" in (await response.json())["detail"]
    await engine.start()
    assert engine.folded is None
    assert (await http.get("/readyz")).status == 200
