"""The door to the log: append to it, read it, look up what stands beside it.

A store remembers and decides nothing. One engine holds it for one epoch; an append says whether the log
took the batch, and nothing is true before it did.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from msgspec import Struct

from horizon.core.events import Draft, Recorded, Stored
from horizon.core.state import State

GENESIS_HASH = bytes(32)
"""What stands for the hash of the event before the first."""


class Head(Struct, frozen=True):
    """Where the log ends."""

    log_id: bytes
    """16 random bytes made with the log; they tell two logs apart."""
    epoch: int
    position: int
    tip: bytes
    """The hash of the last event."""
    recorded_at_us: int


class Candidate(Struct, frozen=True):
    """What the head will say of a scheduler once it leads."""

    home: str = ""
    """The id of the data directory it leads from: an attempt's files are there and nowhere else."""
    name: str = ""
    """Host and process, for people."""
    url: str = ""
    """Where standbys reach it."""
    lease_ttl_s: float = 10.0
    """How long it may be silent before another leads."""


class Leader(Struct, frozen=True):
    """Who leads, or led last, by the head of the log."""

    head: Head
    home: str
    name: str
    url: str
    lease_until_us: int
    """By the clock of the store; of use only beside another reading of it."""
    lease_left_s: float
    """How long its lease holds yet, by the clock of the store; not above 0 when it has ended."""


class Answer(Struct, frozen=True):
    """What was answered to a mutation that carried an idempotency key."""

    key: str
    fingerprint: bytes
    """SHA-256 over what was asked: the same key with another fingerprint is a mistake of the caller."""
    status: int
    body: bytes


class Batch(Struct, frozen=True):
    """What one append makes durable, all of it or none."""

    drafts: tuple[Draft, ...]
    recorded_at_us: int
    blobs: dict[str, bytes] = {}
    """By SHA-256 in hex; content-addressed, so writing one twice changes nothing."""
    answers: tuple[Answer, ...] = ()
    erased: tuple[str, ...] = ()
    """Digests of blobs that are gone with it; none of those that it has itself."""
    archive: Archive | None = None
    """What its last event says of a partition, to be found by whoever looks for those events."""


class Wanted(Struct, frozen=True):
    """Which events are looked for; what is not said does not matter."""

    actor: str | None = None
    types: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    """Only those at these, in their order."""

    def fits(self, stored: Stored) -> bool:
        """Whether an event is one of them, its position aside."""
        return self.actor in (None, stored.actor) and (not self.types or stored.type in self.types)


class Signed(Struct, frozen=True):
    """A signed checkpoint, as it is filed."""

    size: int
    """How many events it is over, and so the position of the last one."""
    frontier: bytes
    """The hashes of the tree's frontier there, one behind the other: the next one goes on from them."""
    note: str


class Archivable(Struct, frozen=True):
    """A partition of the table, as the log has it: what may be put on record of its archive."""

    first: int
    last: int
    previous: bytes
    """The hash of the event before the first."""
    tip: bytes
    """That of the last."""
    frontier: bytes
    """Of the tree at the last, as in ``Signed``."""
    signed: int
    """Up to which position the log has been signed."""


class Archive(Struct, frozen=True):
    """A partition of the log that is in a file; the event ``PartitionArchived`` says the same."""

    first: int
    last: int
    frontier: bytes
    """Of the tree at its last event, as in ``Signed``."""
    tip: bytes
    file: str
    sha256: bytes
    position: int = 0
    """Of that event; 0 before it has one."""


class OpenTransaction(Struct, frozen=True):
    """One of somebody else in the database that the log is in, which looks at the database as it was once."""

    pid: int
    """Of the process that Postgres has for whoever began it."""
    application: str
    user: str
    horizon: str
    """What it can still see begins with the transaction of this number: with the process, it tells it from
    any other."""


class StoreError(Exception):
    """The base of what a store may raise; the message says what to do."""


class Unavailable(StoreError):
    """The store cannot be used: unreachable, refused, unfit. Nothing was appended."""


class Archived(StoreError):
    """The events that were asked for are in a file, which is not here. The message names it."""


class Fenced(StoreError):
    """Another leader has a newer epoch: this one must stop at once and drop its memory."""


class UnknownOutcome(StoreError):
    """The connection broke around the commit: the batch is in the log or will never be.

    ``elect`` settles which. The engine then rebuilds its memory from the log; it never appends again blindly.
    """

    def __init__(self, message: str, position: int, hash: bytes) -> None:
        super().__init__(message)
        self.position = position
        """Where the last event of the batch would be."""
        self.hash = hash
        """What its hash would be."""


class Corrupt(StoreError):
    """What is in the log is not what was written, or is newer than this program knows."""


class SetBack(Corrupt):
    """The log was changed under its leader: nobody else leads it, and it does not end where it did.

    Whoever finds that out must stop: what it has answered to is not in the log any more.
    """


class EventStore(Protocol):
    """What the engine needs of any store. Used by one task at a time, but for reads, which may overlap."""

    async def open(self) -> Head:
        """Connect, bring the schema up to date, check that the store is fit; where the log ends."""
        ...

    async def elect(self, again: bool = False, over: int | None = None, living: bool = False) -> Head:
        """Become the only writer: raise the epoch by one, and begin a lease.

        Returns only when the fate of every earlier append is sealed. ``again`` is for whoever leads already
        and must settle a doubt: it raises ``Fenced`` when somebody else has been elected since. ``over``
        raises it when that epoch is not the last, or its lease holds yet and it is not said to be ``living``.
        """
        ...

    async def leader(self) -> Leader:
        """Who leads, and for how long it may be silent yet."""
        ...

    async def renew(self) -> None:
        """Begin the lease anew, as every append does too. Raises ``Fenced``, ``SetBack``, ``Unavailable``."""
        ...

    async def resign(self) -> None:
        """End the lease, so that nobody has to wait for it. Does nothing when somebody else leads."""
        ...

    async def append(self, batch: Batch) -> tuple[Recorded, ...]:
        """Add the batch to the end of the log, in one statement. It may hold answers and no events.

        Raises ``Fenced``, ``SetBack``, ``UnknownOutcome``, or ``Unavailable`` when it surely did not happen.
        """
        ...

    def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        """The events after this position, in order, in short reads; ``Corrupt`` where the chain breaks.

        ``previous`` is the hash that the event at ``after`` must have; without it, it has what it has.
        """
        ...

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        """The events at those of these positions that the log has, in order of position.

        Raises ``Corrupt`` for one that does not hang on what the event before says its hash is.
        """
        ...

    async def find(self, wanted: Wanted, after: int, end: int, limit: int) -> list[Recorded]:
        """The first so many of these behind a position up to another. O(end - after), or O(positions).

        Raises ``Corrupt`` as ``read_at`` does.
        """
        ...

    async def position_at(self, moment_us: int) -> int:
        """The position of the last event recorded up to a moment; 0 for none. O(log of the log)."""
        ...

    async def archivable(self, first: int) -> Archivable | None:
        """The partition that begins there; None when none does, or that of its end is not in the log yet.

        O(events since a checkpoint), in short reads. Raises ``Corrupt`` where what was filed of the tree is
        not that of the log.
        """
        ...

    async def blobs(self, digests: Iterable[str]) -> dict[str, bytes]:
        """The blobs that are there, by digest."""
        ...

    async def answer(self, key: str) -> Answer | None:
        """The stored answer under this idempotency key."""
        ...

    async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
        """The hashes of so many events after this position, made anew from the bytes that are stored.

        ``previous`` is the hash that the event at ``after`` must have. ``Corrupt`` where the chain breaks.
        """
        ...

    async def add_checkpoint(self, signed: Signed) -> None:
        """File a checkpoint; one of a size that is there already changes nothing."""
        ...

    async def newest_checkpoint(self) -> Signed | None: ...

    def checkpoints(self, after: int = 0) -> AsyncIterator[Signed]:
        """Those over more than so many events, the smallest first, in short reads."""
        ...

    async def ping(self) -> None:
        """Whether the store answers: raises ``Unavailable`` when it does not."""
        ...

    async def close(self) -> None: ...


class BadSnapshot(Exception):
    """A snapshot cannot be used. The message says why; nothing is lost by it but time."""


class Snapshot(Protocol):
    """What the log folds to at a position, as somebody kept it: to be believed only if the log has an event
    of this hash there."""

    log_id: bytes
    position: int
    hash: bytes
    recorded_at_us: int

    def state(self) -> State:
        """Raises ``BadSnapshot``."""
        ...


class EventSource(Protocol):
    """What a fold needs of a store: its ``read`` and its ``read_at``."""

    def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]: ...

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]: ...


class LogSource(Protocol):
    """What an audit needs of a store: what is in it, as it is, and nothing believed."""

    async def head(self) -> Head: ...

    def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]:
        """The events behind a position up to another, in their order, some at a time."""
        ...

    async def newest_checkpoint(self) -> Signed | None: ...

    def checkpoints(self) -> AsyncIterator[Signed]:
        """The smallest first."""
        ...

    async def may_read_blobs(self) -> bool:
        """An auditor may not."""
        ...

    def filed(self) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All blobs, under their digests, some at a time."""
        ...
