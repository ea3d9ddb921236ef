"""A local executor with what it reported, and helpers to launch real processes on it."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from horizon.core.commands import Report, ReportEnded, ReportReleased, ReportStarted
from horizon.core.model import Placement, StopSignal
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.executors.port import AttemptKey, Held, Launch
from horizon.executors.records import inspect

PATIENCE_S = 15.0
LOOKS_EVERY_S = 0.2
"""How often an executor looks at what runs and at the file of failed devices, so that no test waits long."""


async def until(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for something to become true; fails with the source line of the caller when it does not."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def new_key() -> AttemptKey:
    return AttemptKey(str(uuid.uuid4()), 1)


def a_launch(
    command: str | tuple[str, ...] = "true",
    *,
    key: AttemptKey | None = None,
    nodes: int = 1,
    gpu_ids: tuple[str, ...] = (),
    script: bytes | None = None,
    environment: dict[str, str] | None = None,
    working_dir: Path | str | None = None,
    epoch: int = 1,
    grace_s: int = 5,
    stop_signal: StopSignal = StopSignal.SIGTERM,
) -> Launch:
    return Launch(
        key=key or new_key(),
        number=7,
        epoch=epoch,
        user_id="alice",
        job_name="a job",
        allocation=tuple(Placement(f"node-{place}", gpu_ids) for place in range(1, nodes + 1)),
        command=command,
        script=script,
        environment=environment or {},
        working_dir=None if working_dir is None else str(working_dir),
        grace_period_s=grace_s,
        stop_signal=stop_signal,
        array=0,
        index=0,
    )


def held(launch: Launch, *, started: bool = True, stopping: bool = False, grace_s: int = 5) -> Held:
    return Held(launch.key, len(launch.allocation), started, stopping, grace_s)


def carriers(*keys: AttemptKey) -> list[psutil.Process]:
    """The processes of this machine whose environment names one of these attempts."""
    found, names = [], set(map(str, keys))
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("HORIZON_ATTEMPT_ID") in names
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Box:
    """Everything a test asks of one executor."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.attempts = str(data_dir / "attempts")
        self.executor = LocalExecutor(data_dir, simulated("2*4xH100"))
        self.reports: list[Report] = []
        self.launched: list[AttemptKey] = []

    async def open(self, epoch: int = 1, *entries: Held) -> frozenset[AttemptKey]:
        await self.executor.open("a log", epoch, self.reports.append)
        self.launched += [entry.key for entry in entries]
        return await self.executor.adopt(entries)

    def launch(self, launch: Launch) -> AttemptKey:
        self.launched.append(launch.key)
        self.executor.launch(launch)
        return launch.key

    def of(self, key: AttemptKey) -> list[Report]:
        """What was reported of an attempt, in this order."""
        return [report for report in self.reports if getattr(report, "job_id", None) == key.job_id]

    def ended(self, key: AttemptKey) -> ReportEnded | None:
        return next((report for report in self.of(key) if isinstance(report, ReportEnded)), None)

    async def started(self, key: AttemptKey) -> None:
        await until(lambda: ReportStarted(key.job_id, key.attempt) in self.of(key))

    async def released(self, key: AttemptKey) -> ReportEnded:
        """How the attempt ended, once every process of it is reported gone."""
        await until(
            lambda: any(
                isinstance(report, ReportReleased) or (isinstance(report, ReportEnded) and report.released)
                for report in self.of(key)
            )
        )
        ended = self.ended(key)
        assert ended is not None
        return ended

    async def run(self, launch: Launch) -> ReportEnded:
        return await self.released(self.launch(launch))

    def path(self, *parts: object) -> Path:
        """A file or directory of the executor's."""
        return Path(self.attempts, *map(str, parts))

    def output(self, key: AttemptKey, stream: str = "stdout", rank: int = 0) -> bytes:
        return self.path(key, f"{rank}.{stream}").read_bytes()

    def keeper_pid(self, key: AttemptKey, rank: int = 0) -> int:
        record = inspect(self.attempts, str(key), rank).record
        assert record is not None
        return record.keeper

    async def printed(self, key: AttemptKey, text: bytes, rank: int = 0) -> None:
        await until(lambda: self._has_printed(key, text, rank))

    def _has_printed(self, key: AttemptKey, text: bytes, rank: int) -> bool:
        try:
            return text in self.output(key, rank=rank)
        except FileNotFoundError:
            return False

    async def close(self) -> None:
        """Leave nothing running behind."""
        for key in self.launched:
            if self.executor._attempts.get(str(key)):
                self.executor.stop(key, 0)
        await until(lambda: not any(str(key) in self.executor._attempts for key in self.launched))
        await self.executor.close()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
