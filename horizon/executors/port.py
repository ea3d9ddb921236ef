"""The door to whatever runs processes.

An executor is told what to launch and what to stop, and reports what happened as ``core.commands``. It
decides nothing. Launching and stopping are idempotent by attempt: saying the same thing twice is the same
as saying it once, and an attempt that was stopped is never launched afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from msgspec import Struct

from horizon.core.commands import Report
from horizon.core.model import Allocation, Inventory, StopSignal


class ExecutorError(Exception):
    """Jobs cannot be run here; the message is for the operator."""


class AttemptKey(Struct, frozen=True, order=True):
    """One attempt of one job."""

    job_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}"


class Launch(Struct, frozen=True):
    """All that is needed to start an attempt: one process group a placement, rank 0 first."""

    key: AttemptKey
    number: int
    epoch: int
    user_id: str
    job_name: str
    allocation: Allocation
    command: str | tuple[str, ...]
    script: bytes | None
    environment: dict[str, str]
    working_dir: str | None
    grace_period_s: int
    """For the rest of a gang, when one of its processes fails."""
    stop_signal: StopSignal
    """What the processes get before SIGKILL, whoever stops them and whenever."""
    array: int
    """Of a task: the number of its array; else 0."""
    index: int
    """Of a task: its index there."""


class Held(Struct, frozen=True):
    """An attempt that the log says holds an allocation, for ``Executor.adopt``."""

    key: AttemptKey
    ranks: int
    started: bool
    """Whether its start is in the log."""
    stopping: bool
    """Whether it was asked to stop: the executor carries on with stopping it."""
    grace_period_s: int
    elsewhere: bool = False
    """Whether a node of it is not among the executor's: unless there is a trace of it here, it may run where
    that cannot be seen, and is neither reported nor stopped."""


class LogChunk(Struct, frozen=True):
    """Some bytes of an attempt's output, with the offset that follows them."""

    data: bytes
    next_offset: int


class Executor(Protocol):
    """What the engine needs of any executor. All methods are called from the engine's event loop."""

    async def open(self, log_id: str, epoch: int, report: Callable[[Report], None]) -> tuple[Inventory, ...]:
        """Find the nodes and begin to report; ``epoch`` is carried by every launch from now on. Devices are
        reported on once ``adopt`` is done.

        Raises ``ExecutorError``, also when what runs here belongs to another log, or to a later epoch of it:
        then the log was replaced or went back in time, and its jobs must not be run over those.
        """
        ...

    async def adopt(self, held: Iterable[Held], failed: Iterable[str] = ()) -> frozenset[AttemptKey]:
        """Take over the attempts of an earlier scheduler, and what it was told of the devices.

        Those that ended meanwhile are reported with their true exit, those still running are watched, those
        to be stopped are stopped. Gives the attempts this executor has never launched: their launch was
        lost with the scheduler that ordered it, so launching them now cannot run anything twice.
        Whatever runs on the nodes and is not in ``held`` is an orphan and is killed. ``failed`` are the
        devices that failed by an executor's word: each is reported when it is well again.
        """
        ...

    def launch(self, launch: Launch) -> None:
        """Start an attempt; returns at once, the outcome is reported."""
        ...

    def stop(self, key: AttemptKey, grace_period_s: int) -> None:
        """Its stop signal to every process of the attempt, SIGKILL after the grace period; reported when all
        are gone.

        A second stop can only shorten the grace period.
        """
        ...

    async def read_log(self, key: AttemptKey, rank: int, stream: str, offset: int, limit: int) -> LogChunk:
        """Up to ``limit`` bytes of ``stdout`` or ``stderr`` from ``offset``; none when there are none yet."""
        ...

    def follow_log(self, key: AttemptKey, rank: int, stream: str, offset: int) -> AsyncIterator[LogChunk]:
        """The output from ``offset`` as it comes, ending when the attempt's processes are gone."""
        ...

    async def close(self) -> None:
        """Stop reporting. Running processes go on running."""
        ...
