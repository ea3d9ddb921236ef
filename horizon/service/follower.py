"""Folds a log that another scheduler writes, as it grows; believes only what hangs on what it has.

It polls the head, one row by its key, ten times a second, and at once when somebody waits for a position.
There is no LISTEN: a NOTIFY in every append costs the leader up to a quarter of its rate and takes a lock of
the whole database at commit, is lost with its connection, passes no pooler, and needs the poll beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from horizon.core.at_rest import Unreadable, rests_on
from horizon.core.evolve import evolve
from horizon.core.state import State
from horizon.service.leadership import steady_s
from horizon.service.recovery import Progress, fold_nearest
from horizon.store.port import Corrupt, EventStore, Head, Leader, Snapshot

log = structlog.get_logger()

POLL_S: Final = 0.1
FOLD_SLICE: Final = 200
"""Events folded before others get their turn; about a millisecond."""


class Follower:
    """``state`` is always that of a prefix of the log, and may be read at any time."""

    def __init__(self, store: EventStore, snapshots: Iterable[Snapshot] = ()) -> None:
        """``snapshots`` come newest first; the first fold begins at one."""
        self.state = State()
        self.events_behind = 0
        """By the last look."""
        self._store = store
        self._snapshots = snapshots
        self._head: Head | None = None
        """Where what was folded ends; its epoch is the highest that was seen."""
        self._anew = False
        """Whether it must be folded from the beginning: what it rested on cannot be read any more."""
        self._level_at = steady_s()
        """When what was folded was last all there was."""
        self._hurried = asyncio.Event()

    @property
    def seconds_behind(self) -> float:
        """For how long there may have been more than what is folded; up to a poll when all is well."""
        return steady_s() - self._level_at

    async def look(self, progress: Progress = lambda done, total: None) -> Leader:
        """Fold what is new; who leads.

        Raises ``Corrupt`` when it does not follow from what was folded: this is another log than before, or
        it went back in time, was changed, or is of a newer program. Then what was folded cannot be trusted
        either. O(events that are new).
        """
        looked_at = steady_s()
        leader = await self._store.leader()
        await self._fold(leader.head, progress)
        self._level_at = looked_at
        return leader

    async def recover(self, store: EventStore, head: Head, progress: Progress) -> State:
        """What ``fold_log`` gives, from what is folded already: for an engine that has just been elected."""
        await self._fold(head, progress)
        return self.state

    async def pause(self, seconds: float) -> None:
        """Let so much time pass, or less when somebody waits for news."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
            self._hurried.clear()
        except TimeoutError:
            pass

    def hurry(self) -> None:
        """Somebody waits for what is not folded yet."""
        self._hurried.set()

    def doubt(self, error: Unreadable) -> None:
        """What the state rests on cannot be read any more: nobody reads it, and it is folded anew, if it is
        ours."""
        if rests_on(self.state, error.records):
            log.error("the log is folded anew", why=str(error))
            self.state, self._anew = State(), True
            self.hurry()

    async def _fold(self, head: Head, progress: Progress) -> None:
        if self._head is not None:
            _check_goes_on(self._head, head)
        if self._head is not None and not self._anew:
            try:
                await self._fold_on(self._head, head)
                return
            except Unreadable as error:
                self.doubt(error)
        self.state, _ = await fold_nearest(self._store, self._snapshots, head, progress)
        self._head, self._anew, self.events_behind = head, False, 0

    async def _fold_on(self, seen: Head, head: Head) -> None:
        self.events_behind = head.position - seen.position
        await self._fold_tail(seen, head)
        assert self._head is not None
        if self._head.position != head.position or self._head.tip != head.tip:
            raise Corrupt(f"the log ends at {self._head.position}, but its head says {head.position}")
        self._head = head

    async def _fold_tail(self, seen: Head, head: Head) -> None:
        if not self.events_behind:
            return
        epoch = self.state.epoch
        async for recorded in self._store.read(seen.position, self.events_behind, previous=seen.tip):
            if recorded.epoch < epoch:
                raise Corrupt(f"event {recorded.position} is of epoch {recorded.epoch}, after {epoch}")
            evolve(self.state, recorded)
            epoch, at = recorded.epoch, recorded.position
            # One by one, so that whatever breaks off in between is gone on from there.
            self._head = Head(head.log_id, seen.epoch, at, recorded.hash, recorded.recorded_at_us)
            self.events_behind = head.position - at
            if at % FOLD_SLICE == 0:
                await asyncio.sleep(0)


def _check_goes_on(seen: Head, head: Head) -> None:
    """That a head may come after another one of the same log."""
    if head.log_id != seen.log_id:
        raise Corrupt("this database holds another log than it did before")
    if (head.epoch, head.position) < (seen.epoch, seen.position) or head.position < seen.position:
        raise Corrupt(
            f"the log went back in time: it was at epoch {seen.epoch}, event {seen.position}, and is at "
            f"epoch {head.epoch}, event {head.position}; perhaps an older backup was restored"
        )
    if head.position == seen.position and head.tip != seen.tip:
        raise Corrupt(f"event {head.position} is not the one that it was: the log has been rewritten")
