"""Has snapshots of a long log written, by a process of its own: the scheduler does nothing but start it.

That process reads the database as anybody may, and leaves a file. It may be killed at any moment, or fail:
the next start of Horizon takes longer then, and that is all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from horizon.service.engine import Engine

log = structlog.get_logger()

EVENTS_MIN: Final = 100_000
"""A tail as long as that is folded in half a second: shorter ones are not worth a file."""
PART: Final = 50
"""Nor is one that is shorter than this part of the log, for a snapshot is written whole each time."""
LOOK_S: Final = 10.0
_SAID_BYTES: Final = 2_000


def is_due(position: int, newest: int) -> bool:
    """Whether so much has come since the newest snapshot that another is worth its while."""
    return position - newest >= max(EVENTS_MIN, position // PART)


class SnapshotKeeper:
    """Watches how the log of one scheduler grows."""

    def __init__(self, engine: Engine, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """``command`` is what writes one, to be run in this environment."""
        self._engine = engine
        self._command = command
        self._environment = dict(environment)
        self._newest = 0
        """The position of the newest one, or where the last attempt at one was made."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on. The engine must lead."""
        self._newest = self._engine.begun_at
        self._task = asyncio.create_task(self._run(), name="snapshots")

    async def stop(self) -> None:
        """Watch no more; one that is being written is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            position = self._engine.state.position
            if self._engine.ready and is_due(position, self._newest):
                self._newest = position  # also if it fails: it is tried again when as much has come again
                await self._write()
            await asyncio.sleep(LOOK_S)

    async def _write(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except Exception as error:  # no memory for it, no descriptor, a program that was moved away
            log.warning("what writes snapshots could not be started", error=str(error))
            return
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            text = said[-_SAID_BYTES:].decode(errors="replace").strip()
            log.warning("a snapshot could not be written", code=process.returncode, said=text)
