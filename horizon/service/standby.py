"""A scheduler in waiting: it follows the log of another one, and leads once that one's lease has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from horizon.core.state import State
from horizon.service.engine import Engine
from horizon.service.follower import POLL_S, Follower
from horizon.service.leadership import Turn, describe
from horizon.service.recovery import Progress
from horizon.store.port import Fenced, Leader, StoreError, Unavailable, UnknownOutcome

log = structlog.get_logger()

RETRY_S = 0.5
"""Between two tries to reach a store that does not answer."""


class Standby:
    """An engine that does not lead yet, and the follower whose state it will go on from."""

    def __init__(self, engine: Engine, follower: Follower, before: Callable[[Leader, State], None]) -> None:
        """``before`` is told whom it would follow, and the state, before each try to lead; it may raise."""
        self._engine = engine
        self._before = before
        self.follower = follower
        self.following = True
        """Until the engine leads."""
        self.leader: Leader | None = None
        """Who leads; None when nobody is known to."""
        self.term = asyncio.Event()
        """Set once ``leader`` leads no more; another one then stands here for the next."""
        self.trouble = "the log is still being read"
        """Why what is folded may be old."""

    async def start(self, progress: Progress) -> None:
        """Fold the log as it is. Raises ``StoreError``."""
        await self._engine.store.open()
        self._note_leader(await self.follower.look(progress))
        self.trouble = ""

    async def run(self) -> None:
        """Follow until it is our turn, then lead.

        Raises ``Corrupt`` when the log is not the one that was followed, and what an engine's start does.
        """
        while self.following:
            wait_s = POLL_S
            try:
                leader = await self.follower.look()
                self._note_leader(leader)
                self.trouble = ""
                if leader.lease_left_s <= 0:
                    await self._take_over(leader)
                    continue
                wait_s = min(POLL_S, leader.lease_left_s)
            except Unavailable as error:
                self._note_trouble(error)
            await self.follower.pause(wait_s)

    async def _take_over(self, led: Leader) -> None:
        """Lead, unless another standby is elected first, or whoever led is heard of again."""
        log.info("taking over", led=describe(led), epoch=led.head.epoch, position=led.head.position)
        self._note_leader(None)
        while True:
            self._before(led, self.follower.state)
            try:
                await self._engine.start(turn=Turn(led.head.epoch), recover=self.follower.recover)
                self.following = False
                return
            except Fenced:
                log.info("another scheduler was elected; following on")
                return
            except (Unavailable, UnknownOutcome) as error:
                self._note_trouble(error)
                await asyncio.sleep(RETRY_S)

    def _note_leader(self, leader: Leader | None) -> None:
        """Keep who leads; whoever waits for an answer of the one before is told that none will come."""
        if leader is not None and leader.lease_left_s <= 0:
            leader = None
        known = self.leader
        if known is not None and (leader is None or leader.head.epoch != known.head.epoch):
            self.term.set()
            self.term = asyncio.Event()
        self.leader = leader

    def _note_trouble(self, error: StoreError) -> None:
        """Keep it for whoever asks after our health, and log it once, not at every try."""
        if str(error) != self.trouble:
            log.warning("the log cannot be followed just now", error=str(error))
        self.trouble = str(error)
