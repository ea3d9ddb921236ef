"""A whole Horizon as a process of its own, to be measured from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S_MAX = 60.0


@dataclass
class Service:
    """Where it listens and how to be let in."""

    url: str
    port: int
    token: str
    occupied_by: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())


@contextmanager
def running(gpus: str) -> Iterator[Service]:
    """``horizon up`` on a fresh data directory with embedded Postgres, fsync on."""
    with tempfile.TemporaryDirectory(prefix="horizon-bench-") as directory:
        data_dir = Path(directory) / "data"
        command = [sys.executable, "-m", "horizon.cli.main", "up", "--data-dir", str(data_dir), "--port", "0"]
        with open(Path(directory) / "log", "wb") as log:
            process = subprocess.Popen([*command, "--simulate-gpus", gpus], stdout=log, stderr=log)
        try:
            service = _wait(process, data_dir, Path(directory) / "log")
            yield service
            for id in service.occupied_by:
                _release(service, id)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _release(service: Service, id: str) -> None:
    """A stopped scheduler leaves its jobs running, and nobody would ever come back for this one."""
    service.call("DELETE", f"/api/v1/jobs/{id}")
    deadline = time.monotonic() + 10
    while service.call("GET", f"/api/v1/jobs/{id}")["allocation_state"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _wait(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> Service:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            url = json.loads((data_dir / "endpoint.json").read_text())["url"]
            with urllib.request.urlopen(f"{url}/readyz", timeout=1):
                token = (data_dir / "token").read_text().strip()
                return Service(url, int(url.rsplit(":", 1)[1]), token)
        except (OSError, ValueError, KeyError):
            time.sleep(0.05)
    raise RuntimeError(f"horizon up did not become ready:\n{log.read_text()[-2_000:]}")


def occupy(service: Service, gpus: int) -> None:
    """Have one job hold every GPU, so that what is submitted next waits."""
    holder = {"user_id": "holder", "command": "sleep 600", "gpu_count": gpus, "grace_period_s": 0}
    job = service.call("POST", "/api/v1/jobs", holder)
    deadline = time.monotonic() + 30
    while service.call("GET", f"/api/v1/jobs/{job['id']}")["state"] != "Running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.occupied_by.append(job["id"])
