"""The lease: how long a leader may act without a word from the store, and whose turn it is to lead.

It gives liveness and no more. What keeps an old leader from writing is the epoch in every append, and from
starting processes the epoch that the nodes have seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec import Struct

from horizon.store.port import EventStore, Fenced, Leader, SetBack, StoreError

log = structlog.get_logger()

BEATS: Final = 4
"""An idle leader renews its lease so many times in the time that it lasts."""
MARGIN: Final = 0.1
"""A leader takes its lease for this much shorter than it is: clocks do not run alike."""
LOOK_S: Final = 0.1
"""How often a scheduler that waits for its turn looks at the head."""


def steady_s() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps, where there is one."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Lease:
    """What a leader knows of its own lease, and the beat that renews it while nothing is appended.

    It counts from when the renewal was asked for, not from when the answer came: so the leader's end of the
    lease comes before the store's, however long the way was.
    """

    def __init__(self, ttl_s: float, renew: Callable[[], Awaitable[None]], lost: Callable[[], None]) -> None:
        self._ttl_s = ttl_s
        self._renew = renew
        self._lost = lost
        self._asked_at = self._until = 0.0
        self._task: asyncio.Task[None] | None = None
        self.appending = False
        """Whether an append is under way: that renews the lease or, if it hangs, lets it end."""
        self.failure: Fenced | SetBack | None = None
        """Why there is no lease any more: another scheduler leads, or nobody can."""

    @property
    def holds(self) -> bool:
        """Whether nobody else can lead yet."""
        return steady_s() < self._until

    def granted(self, asked_at: float) -> None:
        """The store has begun it anew, as was asked of it at that time (``steady_s``)."""
        self._asked_at, self._until = asked_at, asked_at + self._ttl_s * (1 - MARGIN)

    def keep(self) -> None:
        """Renew it from now on, whatever else goes on."""
        self.failure = None
        if self._task is None:
            self._task = asyncio.create_task(self._beat(), name="lease")

    async def drop(self) -> None:
        """Renew it no more."""
        self._until = 0.0
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def renew(self) -> None:
        """Raises ``Fenced`` when another leads, ``SetBack``, ``Unavailable``."""
        asked_at = steady_s()
        try:
            await self._renew()
        except (Fenced, SetBack) as error:
            self.failure = error
            self._lost()
            raise
        self.granted(asked_at)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / BEATS)
            if self.appending or steady_s() < self._asked_at + self._ttl_s / BEATS / 2:
                continue
            try:
                await self.renew()
            except (Fenced, SetBack):
                return
            except StoreError as error:
                log.warning("the lease is not renewed", error=str(error))


class Turn(Struct, frozen=True):
    """Whose term an election is to end; it fails when there was another one meanwhile."""

    over: int
    """The epoch."""
    living: bool = False
    """Its lease may hold yet: it is known to have ended otherwise."""


class Led(Exception):
    """Another scheduler leads this log, and goes on leading it."""

    def __init__(self, leader: Leader) -> None:
        super().__init__(f"{describe(leader)} leads this log")
        self.leader = leader


def describe(leader: Leader) -> str:
    """Whoever leads or led last, for people."""
    if not leader.head.epoch:
        return "nobody"
    who = f"the scheduler {leader.name}" if leader.name else "another scheduler"
    return f"{who} at {leader.url}" if leader.url else who


async def await_turn(store: EventStore, home: str, waits: Callable[[Leader], None]) -> Turn:
    """Wait until whoever led last has been silent for as long as its lease lasts; ``waits`` is told of it.

    ``home`` is the id of the data directory whose lock the caller holds: whoever led from there before has
    ended, so that is not waited for. Raises ``Led`` when the lease is renewed meanwhile, and ``StoreError``.
    """
    first = leader = await store.leader()
    if home and leader.home == home:
        return Turn(leader.head.epoch, living=True)
    if leader.lease_left_s > 0:
        waits(leader)
    while leader.lease_left_s > 0:
        await asyncio.sleep(min(LOOK_S, leader.lease_left_s))
        leader = await store.leader()
        if leader.head.epoch != first.head.epoch or leader.lease_until_us > first.lease_until_us:
            raise Led(leader)
    return Turn(leader.head.epoch)
