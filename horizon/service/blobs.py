"""Holds what stands beside the log against it: environments and scripts, of which events name the digests.

The log proves nothing of them but their names, and their names say what they are. It only reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Protocol

from horizon.core import events as ev
from horizon.core.blobs import digests_of, fault_in
from horizon.core.events import Recorded, Stored
from horizon.store import codec
from horizon.store.port import Head


class BlobSource(Protocol):
    """What is needed of a store."""

    async def may_read_blobs(self) -> bool: ...

    def filed(self) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All blobs under their digests, some at a time."""
        ...

    async def head(self) -> Head: ...

    def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]: ...


class WrongBlob(Exception):
    """A blob is not what the log says of it; ``position`` is that of the event that says so."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


class Named:
    """Which blobs are there, by what the log says, and which were erased."""

    def __init__(self) -> None:
        self.there: dict[str, int] = {}
        """The position of the last event that filed them; by digest, as the others."""
        self.erased: dict[str, int] = {}

    def see(self, recorded: Recorded) -> None:
        """The next event. Who files what was erased before has it there again."""
        event = recorded.event
        if type(event) is ev.JobSubmitted:
            for digest in digests_of(event.spec):
                self.there[digest] = recorded.position
                self.erased.pop(digest, None)
        elif type(event) is ev.BlobsErased:
            for digest in event.digests:
                self.there.pop(digest, None)
                self.erased[digest] = recorded.position


async def check_blobs(log: BlobSource, named: Named, position: int) -> int | None:
    """How many there are, each as the log says that ends at this position; None when they may not be read.

    A log that is led goes on meanwhile: what its newer events speak of is left to whoever checks those.
    Raises ``WrongBlob``, ``StoreError``. It takes what it has seen out of ``named``.
    """
    if not await log.may_read_blobs():
        return None
    count = 0
    doubtful: dict[str, WrongBlob] = {}
    async for some in log.filed():
        for digest, data in some:
            count += 1
            at = named.there.pop(digest, 0)
            if wrong := fault_in(digest, data):
                raise WrongBlob(at or named.erased.get(digest, position), _sentence(digest, wrong))
            if erased_at := named.erased.get(digest, 0):
                doubtful[digest] = WrongBlob(erased_at, _sentence(digest, "was erased, and is there again"))
    for digest, at in named.there.items():
        doubtful[digest] = WrongBlob(at, _sentence(digest, fault_in(digest, None)))
    if doubtful:
        async for chunk in log.stored(position, (await log.head()).position):
            for digest in _spoken_of(chunk):
                doubtful.pop(digest, None)
    for wrong_blob in doubtful.values():
        raise wrong_blob
    return count


def _spoken_of(events: Iterable[Stored]) -> Iterator[str]:
    for stored in events:
        event = codec.open_payload(stored.position, stored.type, stored.schema_version, stored.payload)
        if isinstance(event, ev.JobSubmitted):
            yield from digests_of(event.spec)
        elif isinstance(event, ev.BlobsErased):
            yield from event.digests


def _sentence(digest: str, wrong: str) -> str:
    return f"the environment or script with the SHA-256 {digest} {wrong}"
