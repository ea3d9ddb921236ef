"""The in-memory twin of the Postgres store: same contract, same bytes, nothing durable.

Several stores on one ``Log`` behave like several connections to one database, so that fencing and unknown
outcomes can be shown without one. It is part of the product: a simulation runs on it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable

from msgspec import structs

from horizon.core.events import Recorded
from horizon.store import codec
from horizon.store.port import GENESIS_HASH, Answer, Batch, Fenced, Head, Signed, Unavailable


class Log:
    """What stands in for the database."""

    def __init__(self) -> None:
        self.head = Head(os.urandom(16), 0, 0, GENESIS_HASH, 0)
        self.events: list[Recorded] = []
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.checkpoints: dict[int, Signed] = {}
        self.leader: object = None


class MemoryStore:
    """One writer's or reader's view of a ``Log``."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or Log()
        self._head: Head | None = None

    async def open(self) -> Head:
        self._head = self.log.head
        return self._head

    async def elect(self, again: bool = False) -> Head:
        if again and self.log.leader is not self:
            raise Fenced("another scheduler has been elected")
        self.log.leader = self
        self.log.head = self._head = structs.replace(self.log.head, epoch=self.log.head.epoch + 1)
        return self._head

    async def append(self, batch: Batch) -> tuple[Recorded, ...]:
        if self._head is None:
            raise Unavailable("the store is not open")
        sealed = codec.seal(self._head, batch.drafts, batch.recorded_at_us)
        if self.log.head != self._head:
            raise Fenced(f"the log is at epoch {self.log.head.epoch}, this leader at {self._head.epoch}")
        for answer in batch.answers:
            assert answer.key not in self.log.answers, "an idempotency key was used twice"
        self.log.events += sealed
        self.log.blobs.update(batch.blobs)
        self.log.answers.update((answer.key, answer) for answer in batch.answers)
        self.log.head = self._head = codec.after(self._head, sealed)
        return sealed

    async def read(self, after: int, limit: int | None = None) -> AsyncIterator[Recorded]:
        end = self.log.head.position if limit is None else min(self.log.head.position, after + limit)
        previous = self.log.events[after - 1].hash if 0 < after <= end else GENESIS_HASH
        for position in range(after + 1, end + 1):
            recorded = self.log.events[position - 1]
            codec.check_link(recorded, position, previous)
            previous = recorded.hash
            yield recorded

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        end = self.log.head.position
        return [self.log.events[position - 1] for position in sorted(positions) if 1 <= position <= end]

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
