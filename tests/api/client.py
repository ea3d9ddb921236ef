"""A client that believes nothing: every answer is held against the description of the API."""

from __future__ import annotations

import io
import json
import re
from typing import Any, NamedTuple

import msgspec
from aiohttp import hdrs
from msgspec import Struct
from multidict import CIMultiDictProxy

from horizon.api.problems import CONTENT_TYPE, CORRUPT, ProblemAnswer
from horizon.api.routes import JSON, ROUTES, Route
from tests.world import Scheduler

API = "/api/v1"
GATE = {"user_id": "gatekeeper", "command": "sleep 60", "gpu_count": 8, "grace_period_s": 0}
"""A job that holds every GPU, so that what is submitted behind it waits."""
UNKNOWN = "0192a3b4-0000-7000-8000-000000000000"


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pointers(self) -> list[str]:
        """Where the faults are."""
        return [fault.get("pointer", "") for fault in self.json.get("errors", [])]


class Client:
    """Asks a scheduler and checks the shape of what it says."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        status: int | None = None,
    ) -> Answer:
        """``body`` goes as JSON, ``raw`` as it is; ``path`` is below /api/v1 unless it says otherwise."""
        given = dict(headers or {})
        data: bytes | io.BytesIO | None = raw if body is None else json.dumps(body).encode()
        if data is not None:
            given.setdefault("Content-Type", JSON)
        url = path if path.startswith("//") else API + path
        url = url.removeprefix("/") if path.startswith("//") else url
        if isinstance(data, bytes) and len(data) >= 1 << 20:
            data = io.BytesIO(data)  # aiohttp warns of sending this much in one piece
        skip = [] if "Content-Type" in given else ["Content-Type"]
        async with self.scheduler.http.request(
            method, url, data=data, headers=given, skip_auto_headers=skip
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        check(method, url, answer)
        if status is not None:
            assert answer.status == status, answer.body
        return answer

    async def get(self, path: str, status: int = 200, **more: Any) -> Any:
        return (await self.ask("GET", path, status=status, **more)).json

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job; what is not said is alice's one-GPU ``true``."""
        body = {"user_id": "alice", "command": "true", **fields}
        job: dict[str, Any] = (await self.ask("POST", "/jobs", body, status=201)).json
        return job

    async def gate(self) -> dict[str, Any]:
        """Close the cluster: what comes now waits."""
        job = await self.submit(**GATE)
        await self.scheduler.until(job["id"], "Running")
        return job


# --- the description ----------------------------------------------------------------------------------


def check(method: str, url: str, answer: Answer) -> None:
    """That an answer is one the description of the API allows."""
    assert answer.status != 500 or answer.json["type"] == CORRUPT.uri, answer.body
    assert b"Traceback" not in answer.body
    content_type = answer.headers.get(hdrs.CONTENT_TYPE, "")
    if method == "HEAD" or answer.status == 304:
        assert answer.body == b""
        return
    route = route_of(method, url.partition("?")[0])
    if answer.status >= 400 and not (route and route.path == "/health"):
        assert content_type == CONTENT_TYPE
        conforms(answer.body, ProblemAnswer)
        assert answer.json["status"] == answer.status
        return
    if route is None:
        return
    if isinstance(route.answer, str):
        assert content_type.startswith(route.answer)
        return
    assert answer.status == route.status or route.path == "/health"
    assert content_type == JSON
    conforms(answer.body, route.answer)
    assert ("ETag" in answer.headers) == route.versioned


def conforms(body: bytes, expected: type[Struct]) -> None:
    """That a body is such a struct, and has no field that a reader of the description does not know."""
    value = msgspec.json.decode(body, type=expected)
    again = json.loads(msgspec.json.encode(value))
    assert again == json.loads(body)


def route_of(method: str, path: str) -> Route | None:
    for route in ROUTES:
        pattern = re.sub(r"\{\w+:([^}]+)\}", r"\1", route.path)
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None
