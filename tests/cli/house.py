"""A real ``horizon up`` as a process, and real commands against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

HORIZON = [sys.executable, "-m", "horizon.cli.main"]
PATIENCE_S = 60.0

Finished = subprocess.CompletedProcess[str]


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """This process's, without anything that would lead a client elsewhere."""
    ours = ("HORIZON_", "DATABASE_URL", "NO_COLOR", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**env, "HORIZON_DATA_DIR": str(data_dir), **more}


def run(
    data_dir: Path, *arguments: str, stdin: str = "", timeout_s: float = PATIENCE_S, **env: str
) -> Finished:
    """One command, to its end."""
    return subprocess.run(
        [*HORIZON, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(data_dir, **env),
    )


class Up:
    """A running ``horizon up`` on its own data directory."""

    def __init__(self, data_dir: Path, *arguments: str, horizon: list[str] = HORIZON, **env: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*horizon, "up", "--data-dir", str(data_dir), "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(data_dir, **env),
                start_new_session=True,
            )
        self.greeting = self._await_ready()

    def _await_ready(self) -> str:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                return "".join(lines)
        raise AssertionError(f"horizon up ended with {self.process.wait()}:\n{self.log.read_text()}")

    @property
    def url(self) -> str:
        return self.greeting.split("\n")[0].rsplit(" ", 1)[1]

    def run(self, *arguments: str, stdin: str = "", **env: str) -> Finished:
        return run(self.data_dir, *arguments, stdin=stdin, **env)

    def ok(self, *arguments: str, **env: str) -> str:
        """A command that must succeed; what it printed."""
        done = self.run(*arguments, **env)
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def look(self, path: str) -> Any:
        """What the API says at once; a command takes its time to start, and waiting asks again and again."""
        token = (self.data_dir / "token").read_text().strip()
        request = Request(f"{self.url}/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=PATIENCE_S) as response:
            return json.loads(response.read())

    def submit(self, *arguments: str) -> str:
        """The number of a new job."""
        return self.ok("submit", "--workdir", "/tmp", *arguments).strip()

    def until(self, job: str, *states: str) -> dict[str, Any]:
        """Wait for a job to be in one of the states."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found: dict[str, Any] = self.look(f"/jobs/{job}")
            if found["state"] in states:
                return found
            assert time.monotonic() < deadline, (
                f"job {job} is {found['state']}, not {states}: {found['reason']}"
            )
            time.sleep(0.02)

    def stop(self, signal_number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to stop; its exit code, and what it said last."""
        self.process.send_signal(signal_number)
        said, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def clear(self) -> None:
        """Leave nothing behind: no job, no process, no Postgres."""
        if self.process.poll() is None:
            for job in self.json("ps")["jobs"]:
                self.run("cancel", str(job["number"]))
            eventually(lambda: all(gpu["state"] == "free" for gpu in self.look("/gpus")["gpus"]), "free GPUs")
            self.stop()


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """A directory that stays open to the user that the embedded Postgres runs as when we are root: pytest
    closes its own to everybody else whenever one more session begins."""
    with tempfile.TemporaryDirectory(prefix="horizon-cli-") as name:
        yield Path(name)


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def lines_in(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
