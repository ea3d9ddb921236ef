"""Watches for transactions of others that stay open in the database of the log.

Each append leaves a dead row of the head behind, and Postgres can clear away none that somebody's transaction
might still look at. One that was forgotten makes every append a little slower than the one before, and nobody
sees why: so it is said, once for each, and how old the oldest is stands in the metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from horizon.service.engine import Engine
from horizon.store.port import OpenTransaction, StoreError

log = structlog.get_logger()

LOOK_S: Final = 30.0
OPEN_S_MAX: Final = 300.0
"""One that has been open for longer is told of: what reads the log for a report is done by then."""


class TransactionWatch:
    """Looks now and then, while one scheduler leads.

    How long one has been open is counted from when it was first seen here, for since when it really is
    Postgres tells only its owner, superusers and members of ``pg_read_all_stats``; which it is, everybody.
    """

    def __init__(self, engine: Engine, look: Callable[[], Awaitable[list[OpenTransaction]]]) -> None:
        """``look`` gives those that there are just now."""
        self._engine = engine
        self._look = look
        self._since: dict[OpenTransaction, float] = {}
        self._told: set[OpenTransaction] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on. The engine must lead."""
        self._task = asyncio.create_task(self._run(), name="transactions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with suppress(StoreError):  # whoever appends says so
                self._note(await self._look(), time.monotonic())
            await asyncio.sleep(LOOK_S)

    def _note(self, found: list[OpenTransaction], now: float) -> None:
        self._since = {one: self._since.get(one, now) for one in found}
        self._told &= self._since.keys()
        for one, since in self._since.items():
            if now - since >= OPEN_S_MAX and one not in self._told:
                self._told.add(one)
                _tell(one, now - since)
        self._engine.metrics.oldest_transaction(now - min(self._since.values(), default=now))


def _tell(one: OpenTransaction, open_s: float) -> None:
    log.warning(
        "a transaction stays open in the database and keeps vacuum from clearing away what appends leave "
        "behind: have whoever began it end it, or end it with SELECT pg_terminate_backend(pid)",
        pid=one.pid,
        application=one.application,
        user=one.user,
        open_s=round(open_s),
    )
