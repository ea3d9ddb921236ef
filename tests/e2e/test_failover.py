"""Real schedulers on one real log: one leads, another takes over when it is killed, stops or stands still."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import asyncpg
import psutil
import pytest

from tests.cli.house import HORIZON, PATIENCE_S, environment, eventually, fresh_directory, lines_in, run

TOKEN = "a-token-for-two"
TTL_S = "3"
"""Longer than a busy machine keeps a process waiting, and short enough to wait for."""


class Serve:
    """A ``horizon serve --standby`` as a process of its own."""

    def __init__(self, database: str, data_dir: Path, ttl_s: str, *options: str, token: str = TOKEN) -> None:
        self.log = data_dir.parent / f"{time.monotonic_ns()}.log"
        env = {"DATABASE_URL": database, "HORIZON_TOKEN": token, "HORIZON_LEASE_TTL_S": ttl_s}
        command = [*HORIZON, "serve", "--standby", "--host", "127.0.0.1", "--port", "0", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment(data_dir, **env), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert "stands by at" in said, f"{said}{self.log.read_text()}"
        self.url = said.split()[-1]

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """The answer; tried again for as long as it is 503, as clients are told to."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.try_once(method, path, body, key)
            except (HTTPError, URLError, ConnectionError) as error:
                if time.monotonic() > deadline or (isinstance(error, HTTPError) and error.code != 503):
                    raise
                time.sleep(0.05)

    def try_once(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=PATIENCE_S) as response:
            return json.loads(response.read())

    def leads(self) -> bool:
        return bool(self.ask("GET", "/readyz")["role"] == "leader")

    def state(self, job: str) -> Any:
        return self.ask("GET", f"/api/v1/jobs/{job}")["state"]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


Start = Callable[..., Serve]


@pytest.fixture
def home() -> Iterator[Path]:
    with fresh_directory() as directory:
        yield directory


@pytest.fixture
def start(database: str, home: Path) -> Iterator[Start]:
    """Starts standbys that share a data directory; the first one leads at once."""
    started: list[Serve] = []

    def start(ttl_s: str = TTL_S) -> Serve:
        serve = Serve(database, home / "data", ttl_s, "--simulate-gpus", "4xH100")
        started.append(serve)
        eventually(started[0].leads, "the first one to lead")
        return serve

    yield start
    alive = [serve for serve in started if serve.process.poll() is None]
    for job in alive[-1].ask("GET", "/api/v1/jobs?state=Running")["jobs"] if alive else []:
        alive[-1].ask("DELETE", f"/api/v1/jobs/{job['id']}")
    for serve in started:
        serve.stop()


async def events_in(database: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database)
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT position, epoch, type, stream FROM events ORDER BY position"
    )
    await connection.close()
    return rows


class Load:
    """Clients that submit jobs with keys, each one again until it is acknowledged."""

    def __init__(self, serve: Serve, traces: Path, clients: int = 3) -> None:
        self.acknowledged: dict[str, str] = {}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(serve, traces, client)) for client in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, serve: Serve, traces: Path, client: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            key = f"{client}-{count}"
            command = f"echo ran >> {traces}/{key}; exit {count % 7}"
            body = {"user_id": f"user-{client}", "command": command, "max_retries": 0}
            self.acknowledged[key] = serve.ask("POST", "/api/v1/jobs", body, key)["id"]

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


async def test_a_leader_is_killed_under_load(start: Start, database: str, home: Path) -> None:
    """Nothing that was acknowledged is lost or done twice, and what ran goes on and is known to its end."""
    traces = home / "traces"
    traces.mkdir()
    first, second = start(), start()
    body = {"user_id": "alice", "command": f"echo ran >> {traces}/long; sleep 8; exit 9"}
    long = second.ask("POST", "/api/v1/jobs", body)["id"]
    eventually(lambda: second.state(long) == "Running", "a job that runs")
    load = Load(second, traces)
    eventually(lambda: len(load.acknowledged) > 20, "some load")
    before = dict(load.acknowledged)
    first.process.kill()
    eventually(second.leads, "another leader")
    eventually(lambda: len(load.acknowledged) > len(before) + 20, "more load")
    load.stop()
    jobs = load.acknowledged
    for key in list(before)[-3:]:
        client, count = key.split("-")
        command = f"echo ran >> {traces}/{key}; exit {int(count) % 7}"
        body = {"user_id": f"user-{client}", "command": command, "max_retries": 0}
        assert second.ask("POST", "/api/v1/jobs", body, key)["id"] == jobs[key]
    eventually(lambda: all(second.state(id) in ("Completed", "Failed") for id in jobs.values()), "their ends")
    eventually(lambda: second.state(long) == "Failed", "the end of the long one")
    assert second.ask("GET", f"/api/v1/jobs/{long}")["exit_code"] == 9
    assert second.ask("GET", "/api/v1/jobs?limit=1")["total"] == len(jobs) + 1
    for key, id in jobs.items():
        assert lines_in(traces / key) == ["ran"]
        assert second.ask("GET", f"/api/v1/jobs/{id}")["exit_code"] == int(key.split("-")[1]) % 7
    rows = await events_in(database)
    submitted = [row["stream"] for row in rows if row["type"] == "JobSubmitted"]
    assert sorted(submitted) == sorted(f"job/{id}" for id in [*jobs.values(), long])
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    assert second.stop() == 0
    assert first.process.wait() == -signal.SIGKILL


async def test_a_leader_that_stood_still_writes_nothing_starts_nothing_and_ends(
    start: Start, database: str, home: Path
) -> None:
    """It holds the lock of the data directory of both, and has given an order that nobody has taken."""
    first, second = start(), start()
    ran = home / "ran"
    for _ in range(3):
        body = {"user_id": "alice", "command": f"sleep 1; echo ran >> {ran}"}
        job = second.ask("POST", "/api/v1/jobs", body)["id"]
        eventually(lambda job=job: second.state(job) == "Running", "a job that runs")  # type: ignore[misc]
    [zygote] = [one for one in psutil.Process(first.process.pid).children() if "zygote" in str(one.cmdline())]
    zygote.suspend()
    body = {"user_id": "alice", "command": f"echo ordered >> {ran}"}
    ordered = second.ask("POST", "/api/v1/jobs", body)["id"]
    eventually(lambda: second.state(ordered) == "Scheduled", "a launch that is ordered")
    first.process.send_signal(signal.SIGSTOP)
    eventually(second.leads, "another leader")
    eventually(lambda: second.state(ordered) == "Completed", "what was ordered")
    zygote.resume()
    [elected] = [
        row for row in await events_in(database) if row["type"] == "LeaderElected" and row["epoch"] == 2
    ]
    later = second.ask("POST", "/api/v1/jobs", {"user_id": "alice", "command": f"echo later >> {ran}"})["id"]
    eventually(lambda: second.state(later) == "Completed", "a job after it")
    assert not _is_held_by(home / "data" / "lock", second.process.pid)
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(PATIENCE_S) == 1
    assert "another scheduler leads this log now" in first.log.read_text()
    eventually(lambda: _is_held_by(home / "data" / "lock", second.process.pid), "the lock to be taken over")
    eventually(lambda: len(lines_in(ran)) >= 5, "all jobs to have run")
    rows = await events_in(database)
    assert {row["epoch"] for row in rows if row["position"] >= elected["position"]} == {2}
    assert sorted(lines_in(ran)) == ["later", "ordered", "ran", "ran", "ran"]
    assert json.loads((home / "data" / "endpoint.json").read_text())["url"] == second.url


def _is_held_by(lock: Path, pid: int) -> bool:
    return lock.read_text().strip() == str(pid)


def test_a_leader_that_stops_cleanly_hands_over_at_once(start: Start, home: Path) -> None:
    """Its lease would have lasted for ten minutes. Of two standbys one leads, the other follows that one."""
    first, second, third = (start("600") for _ in range(3))
    job = first.ask("POST", "/api/v1/jobs", {"user_id": "alice", "command": "sleep 3; exit 4"})["id"]
    eventually(lambda: first.state(job) == "Running", "a job that runs")
    command = ("submit", "--workdir", "/tmp", "--follow", "--", "sh", "-c", "echo through a standby; exit 6")
    done = run(home / "data", *command, HORIZON_URL=third.url, HORIZON_TOKEN=TOKEN)
    assert (done.returncode, done.stdout) == (6, "through a standby\n")
    assert first.stop() == 0
    eventually(lambda: second.leads() or third.leads(), "another leader")
    led, follows = (second, third) if second.leads() else (third, second)
    eventually(lambda: follows.state(job) == "Failed", "its end, as the follower knows it")
    assert follows.ask("GET", f"/api/v1/jobs/{job}")["exit_code"] == 4
    assert not follows.leads()
    assert follows.ask("POST", "/api/v1/jobs", {"user_id": "bob", "command": "true"})["number"] == 3
    assert led.ask("GET", "/api/v1/jobs?limit=1")["total"] == 3


def test_a_standby_whose_nodes_are_named_like_the_leaders_and_are_others_is_turned_away(
    start: Start, database: str, home: Path
) -> None:
    start()
    env = {"DATABASE_URL": database, "HORIZON_TOKEN": TOKEN, "HORIZON_SIMULATE_GPUS": "1xA100"}
    done = subprocess.run(
        [*HORIZON, "serve", "--standby", "--host", "127.0.0.1", "--port", "0"],
        env=environment(home / "other", **env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 5
    assert "node-1 is a node of" in done.stderr
    assert "--data-dir" in done.stderr
    assert "the key that signs the log is not here" not in done.stderr


def test_a_standby_with_another_key_is_warned(start: Start, database: str, home: Path) -> None:
    start()
    other = Serve(database, home / "other", TTL_S, "--no-gpus")
    try:
        assert "HORIZON_SIGNING_KEY" in other.log.read_text()
    finally:
        other.stop()


def test_a_standby_with_another_token_is_warned(start: Start, database: str, home: Path) -> None:
    start()
    other = Serve(database, home / "data", TTL_S, "--simulate-gpus", "4xH100", token="another-token")
    try:
        eventually(lambda: "give both the same HORIZON_TOKEN" in other.log.read_text(), "a warning")
        assert "another-token" not in other.log.read_text()
        assert TOKEN not in other.log.read_text()
        same = start()
        assert "HORIZON_TOKEN" not in same.log.read_text()
    finally:
        other.stop()


def test_a_standby_with_other_pretended_gpus_on_the_same_directory_is_turned_away(
    start: Start, database: str, home: Path
) -> None:
    start()
    env = {"DATABASE_URL": database, "HORIZON_TOKEN": TOKEN}
    for gpus in ("2xA100", "4xA100", "2*4xH100"):
        done = subprocess.run(
            [*HORIZON, "serve", "--standby", "--host", "127.0.0.1", "--port", "0", "--simulate-gpus", gpus],
            env=environment(home / "data", **env),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 5, done.stderr
        assert "Give both the same --simulate-gpus" in done.stderr


def test_whoever_leads_without_the_devices_that_jobs_hold_says_so(
    start: Start, database: str, home: Path
) -> None:
    first = start("600")
    body = {"user_id": "alice", "command": "sleep 600", "gpu_count": 4, "grace_period_s": 0}
    job = first.ask("POST", "/api/v1/jobs", body)["id"]
    eventually(lambda: first.state(job) == "Running", "a job that runs")
    first.stop()
    other = Serve(database, home / "data", TTL_S, "--simulate-gpus", "2xA100")
    try:
        eventually(other.leads, "it to lead")
        assert "devices that a job holds are gone" in other.log.read_text()
        other.ask("DELETE", f"/api/v1/jobs/{job}")
        eventually(lambda: other.state(job) == "Cancelled", "the end of it")
    finally:
        other.stop()
