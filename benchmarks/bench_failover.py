"""How long is nobody there when a leader ends, and how old is what its standby knows?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks.measure import note_service, size
from horizon.store.embedded import EmbeddedPostgres

TTL_S = 2.0
"""What a takeover takes beyond the lease does not depend on how long that is."""
TOKEN = "a-token-for-two"
HELD = {"user_id": "alice", "command": "true", "hold": True}


class Scheduler:
    """A ``horizon serve --standby`` as a process; the first of a pair leads."""

    def __init__(self, dsn: str, directory: Path) -> None:
        env = {**os.environ, "DATABASE_URL": dsn, "HORIZON_TOKEN": TOKEN, "HORIZON_LEASE_TTL_S": str(TTL_S)}
        command = [sys.executable, "-m", "horizon.cli.main", "serve", "--standby", "--host", "127.0.0.1"]
        command += ["--port", "0", "--data-dir", str(directory), "--simulate-gpus", "8xH100"]
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer and the position it was given at; None while it is 503 or 404."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(request, timeout=30) as answer,
        ):
            return json.loads(answer.read()), answer.headers["Horizon-As-Of"]

    def until(self, method: str, path: str, body: object = None) -> Any:
        """The first answer, asked for again and again."""
        deadline = time.monotonic() + 60
        while (answer := self.call(method, path, body)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return answer

    def end(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.communicate(timeout=60)


class Pair:
    """One that leads, and one that stands by, on a Postgres of their own with fsync on."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.directory = dsn, directory
        self.leader, self.standby = self._start(), self._start()

    def _start(self) -> Scheduler:
        scheduler = Scheduler(self.dsn, self.directory)
        scheduler.until("POST", "/api/v1/jobs", HELD)
        return scheduler

    def fail_over(self, how: signal.Signals) -> tuple[float, float]:
        """Seconds from the end of the leader, and of its lease, to the first change that was acknowledged."""
        ended = time.time()
        self.leader.process.send_signal(how)
        lease_ended = asyncio.run(_lease_end(self.dsn)) if how is signal.SIGKILL else ended
        while self.standby.until("GET", "/readyz")[0]["role"] != "leader":
            time.sleep(0.002)
        self.standby.until("POST", "/api/v1/jobs", HELD)
        now = time.time()
        self.leader.end(how)
        self.leader, self.standby = self.standby, self._start()
        return now - ended, now - lease_ended

    def end(self) -> None:
        for scheduler in (self.standby, self.leader):
            scheduler.end(signal.SIGTERM)


async def _lease_end(dsn: str) -> float:
    connection = await asyncpg.connect(dsn)
    found: float = await connection.fetchval("SELECT extract(epoch FROM lease_until)::float8 FROM log_head")
    await connection.close()
    return found


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="horizon-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        pair = Pair(asyncio.run(server.start()), Path(directory) / "data")
        yield pair
        pair.end()
        asyncio.run(server.stop())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_takeover(benchmark: Any, pair: Pair, how: signal.Signals) -> None:
    runs = size(10, 1)
    took = benchmark.pedantic(lambda: [pair.fail_over(how) for _ in range(runs)], rounds=1, iterations=1)
    if how is signal.SIGKILL:
        question = "takeover from a killed leader, from the end of its lease"
        whole = f"{runs} runs; from the kill, lease {TTL_S:g} s: {max(one for one, _ in took):.2f} s at most"
    else:
        question, whole = "takeover from a leader that stops, from its signal", f"{runs} runs"
    seconds = [beyond for _, beyond in took]
    note_service(benchmark, question, whole, sum(seconds), runs, seconds)


@pytest.mark.parametrize("asked", ["", "min_position"])
def test_how_soon_a_standby_knows_what_its_leader_does(benchmark: Any, pair: Pair, asked: str) -> None:
    changes = size(200, 5)

    def change() -> float:
        job, position = pair.leader.until("POST", "/api/v1/jobs", HELD)
        began = time.perf_counter()
        query = f"?min_position={position}" if asked else ""
        pair.standby.until("GET", f"/api/v1/jobs/{job['id']}{query}")
        return time.perf_counter() - began

    seconds = benchmark.pedantic(lambda: [change() for _ in range(changes)], rounds=1, iterations=1)
    question = f"read from a standby what was just acknowledged{', by min_position' if asked else ''}"
    note_service(benchmark, question, f"{changes} changes", sum(seconds), changes, seconds)
