"""The in-memory twin of the Postgres store: same contract, same bytes, nothing durable.

Several stores on one ``Log`` behave like several connections to one database, so that fencing and unknown
outcomes can be shown without one. It is part of the product: a simulation runs on it.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable

from msgspec import structs

from horizon.core.events import Recorded
from horizon.store import codec
from horizon.store.port import (
    GENESIS_HASH,
    Answer,
    Archivable,
    Batch,
    Candidate,
    Fenced,
    Head,
    Leader,
    Signed,
    Unavailable,
    Wanted,
)


class Log:
    """What stands in for the database."""

    def __init__(self) -> None:
        self.head = Head(os.urandom(16), 0, 0, GENESIS_HASH, 0)
        self.events: list[Recorded] = []
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.checkpoints: dict[int, Signed] = {}
        self.leader: object = None
        self.candidate = Candidate()
        """Who ``leader`` is."""
        self.lease_until_s = 0.0
        """On the clock of ``time.monotonic``."""


class MemoryStore:
    """One writer's or reader's view of a ``Log``."""

    def __init__(self, log: Log | None = None, candidate: Candidate | None = None) -> None:
        self.log = log or Log()
        self._candidate = candidate or Candidate()
        self._head: Head | None = None

    async def open(self) -> Head:
        self._head = self.log.head
        return self._head

    async def elect(self, again: bool = False, over: int | None = None, living: bool = False) -> Head:
        if self.log.leader is not self:
            lives = self.log.lease_until_s > time.monotonic() and not living
            if again or (over is not None and (over != self.log.head.epoch or lives)):
                raise Fenced("another scheduler has been elected")
        self.log.leader, self.log.candidate = self, self._candidate
        self.log.head = self._head = structs.replace(self.log.head, epoch=self.log.head.epoch + 1)
        self._begin_lease()
        return self._head

    def _begin_lease(self) -> None:
        self.log.lease_until_s = time.monotonic() + self._candidate.lease_ttl_s

    async def leader(self) -> Leader:
        log, until_s = self.log, self.log.lease_until_s
        who = log.candidate
        left_s = until_s - time.monotonic()
        return Leader(log.head, who.home, who.name, who.url, int(until_s * 1e6), left_s)

    async def renew(self) -> None:
        if self._head is None:
            raise Unavailable("this scheduler has not been elected")
        if self.log.head.epoch != self._head.epoch:
            raise codec.moved(self._head, self.log.head)
        self._begin_lease()

    async def resign(self) -> None:
        if self._head is not None and self.log.head.epoch == self._head.epoch:
            self.log.lease_until_s = time.monotonic()

    async def append(self, batch: Batch) -> tuple[Recorded, ...]:
        if self._head is None:
            raise Unavailable("the store is not open")
        sealed = codec.seal(self._head, batch.drafts, batch.recorded_at_us)
        if self.log.head != self._head:
            raise codec.moved(self._head, self.log.head)
        for answer in batch.answers:
            assert answer.key not in self.log.answers, "an idempotency key was used twice"
        self.log.events += sealed
        self.log.blobs.update(batch.blobs)
        for digest in batch.erased:
            self.log.blobs.pop(digest, None)
        self.log.answers.update((answer.key, answer) for answer in batch.answers)
        self.log.head = self._head = codec.after(self._head, sealed)
        self._begin_lease()
        return sealed

    async def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        end = self.log.head.position if limit is None else min(self.log.head.position, after + limit)
        if previous is None:
            previous = self.log.events[after - 1].hash if 0 < after <= end else GENESIS_HASH
        for position in range(after + 1, end + 1):
            recorded = self.log.events[position - 1]
            codec.check_link(recorded, position, previous)
            previous = recorded.hash
            yield recorded

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        end = self.log.head.position
        return [self._checked(position) for position in sorted(positions) if 1 <= position <= end]

    def _checked(self, position: int) -> Recorded:
        """That event, which must hang on the one before."""
        before = self.log.events[position - 2].hash if position > 1 else GENESIS_HASH
        codec.check_link(self.log.events[position - 1], position, before)
        return self.log.events[position - 1]

    async def find(self, wanted: Wanted, after: int, end: int, limit: int) -> list[Recorded]:
        events = self.log.events[after:end]
        if wanted.positions is not None:
            events = await self.read_at(one for one in wanted.positions if after < one <= end)
        return [self._checked(one.position) for one in events if wanted.fits(one)][:limit]

    async def position_at(self, moment_us: int) -> int:
        return bisect_right(self.log.events, moment_us, key=lambda one: one.recorded_at_us)

    async def archivable(self, first: int) -> Archivable | None:
        return None  # there are no partitions

    async def blobs(self, digests: Iterable[str]) -> dict[str, bytes]:
        return {digest: self.log.blobs[digest] for digest in digests if digest in self.log.blobs}

    async def answer(self, key: str) -> Answer | None:
        return self.log.answers.get(key)

    async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
        found = []
        for position, stored in enumerate(self.log.events[after : after + limit], after + 1):
            codec.check_link(stored, position, previous)
            previous = stored.hash
            found.append(previous)
        return found

    async def add_checkpoint(self, signed: Signed) -> None:
        self.log.checkpoints.setdefault(signed.size, signed)

    async def newest_checkpoint(self) -> Signed | None:
        return self.log.checkpoints[max(self.log.checkpoints)] if self.log.checkpoints else None

    async def checkpoints(self, after: int = 0) -> AsyncIterator[Signed]:
        for size in sorted(self.log.checkpoints):
            if size > after:
                yield self.log.checkpoints[size]

    async def ping(self) -> None:
        if self._head is None:
            raise Unavailable("the store is not open")

    async def close(self) -> None:
        self._head = None
