"""Signs the log: how long it is, what its root is. Off the append path, and only what it has read back.

What a checkpoint states is worked out from the bytes that the store holds and not from what the engine
remembers, and the two must agree: whoever changes an event on its way to the disk, or there, is found out
before anything is signed. Then the scheduler stops leading, for the log is not what was decided any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from horizon.core import events as ev
from horizon.core.model import SCHEDULER
from horizon.core.state import State
from horizon.service.keys import BadKey, KeyFile
from horizon.service.notefile import NoteFile
from horizon.store.note import (
    BadNote,
    Checkpoint,
    SigningKey,
    VerifyKey,
    origin_of,
    read_note,
    signed,
    verified,
)
from horizon.store.port import GENESIS_HASH, Corrupt, EventStore, Head, Signed, StoreError, Unavailable
from horizon.store.tree import Frontier

log = structlog.get_logger()

SIGN_EVENTS: Final = 1_000
SIGN_S: Final = 10.0
"""A checkpoint is made after so many events, or so long after the last one when there is anything new."""
CHECKPOINT_EVENTS_MAX: Final = 10_000
"""A checkpoint comes after so many events even when more are there, unless one append had more."""
CHUNK_EVENTS: Final = 200
"""Events read back at once; about a millisecond, then others get their turn."""
REST: Final = 10
"""Between chunks it rests so many times as long as one took, half of which is waiting for Postgres: so it has
a twentieth of the loop's time at most. Under a load that lasts, or over a log that was never signed,
checkpoints come later, and appends do not."""
RETRY_S: Final = 1.0
STOP_S_MAX: Final = 10.0
"""How long the last checkpoint may take when the scheduler stops."""
STOP_TRIES_MAX: Final = 5
"""How often the store is asked for it: more often than a store has connections that may have broken."""


class Distrust(Exception):
    """The log is not the one that was signed: this scheduler must not lead it. The message says why."""


class Mark(NamedTuple):
    """Where an append ended."""

    position: int
    hash: bytes


class Notary:
    """Signs the log of one scheduler, with one key, for as long as that leads."""

    def __init__(self, keys: KeyFile, notes: NoteFile) -> None:
        self._keys = keys
        self._notes = notes
        self._store: EventStore | None = None
        """None while there is nothing to sign for."""
        self._origin = ""
        self._signers: list[SigningKey] = []
        self._frontier = Frontier()
        self._tip = GENESIS_HASH
        """The hash of the event at the frontier."""
        self._marks: deque[Mark] = deque()
        """Appends that have not been read back yet."""
        self._unfiled: Signed | None = None
        """Signed, and not known to be in the table yet."""
        self._noted = 0
        """The size of the last one known to be in the file."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._again_at = 0.0
        """When a checkpoint is due for whatever is new; monotonic."""
        self._failed: Callable[[], None] = lambda: None
        self._trouble = ""
        self.size = 0
        """How many events the newest checkpoint is over."""
        self.failure = ""
        """Why it refuses to sign."""

    # --- following one leader -------------------------------------------------------------------------

    async def begin(
        self, store: EventStore, head: Head, state: State, failed: Callable[[], None]
    ) -> tuple[ev.Event, ...]:
        """Check the folded log against what was signed, and sign what comes; the events to begin with.

        ``failed`` is called when it refuses to sign later. Raises ``Distrust``, ``StoreError``.
        """
        await self.halt()
        self._origin = origin_of(head.log_id)
        if not self._signers:  # once: a rotation counts from the next start on
            self._signers = self._load()
        newest = await store.newest_checkpoint()
        filed = self._notes.newest()
        own = [one.public for one in self._signers]
        if filed is not None:
            await _check(store, head, state, own, filed, str(self._notes.path))
        self._frontier, self._tip = Frontier(), GENESIS_HASH
        if newest is not None:
            where = "the table of checkpoints"
            checkpoint = await _check(store, head, state, own, newest.note, where)
            self._frontier, self._tip = _frontier(newest, checkpoint), checkpoint.tip
        self.size, self._again_at = self._frontier.size, 0.0
        # What was appended before a new election was appended all the same.
        self._marks = deque(mark for mark in self._marks if mark.position > self.size)
        self._unfiled, self._store, self._failed = None, store, failed
        self._task = asyncio.create_task(self._run(), name="notary")
        return self._announce(state)

    def _load(self) -> list[SigningKey]:
        """The key, behind the one before while that has not handed over."""
        try:
            key, outgoing = self._keys.key(self._origin), self._keys.outgoing()
        except BadKey as error:
            raise Distrust(str(error)) from error
        return [key] if outgoing is None else [outgoing, key]

    def _announce(self, state: State) -> tuple[ev.SigningKeySet, ...]:
        """Have the log name the key, if it names another or none."""
        *outgoing, key = (str(one.public) for one in self._signers)
        if state.signing_key == key:
            return ()
        if state.signing_key and state.signing_key not in outgoing:
            log.warning(
                "the log's signing key is not here to hand over to the new one: whoever checks the log must "
                "be given both",
                old=state.signing_key,
                new=key,
            )
        return (ev.SigningKeySet(key=key, by=SCHEDULER),)

    def follow(self, last: ev.Recorded) -> None:
        """An append ended with this event. O(1): everything else happens later."""
        first = not self._marks
        self._marks.append(Mark(last.position, last.hash))
        if first or last.position - self._frontier.size >= SIGN_EVENTS:
            self._wake.set()

    def sign_soon(self) -> None:
        """Whoever looks wants what there is to be signed: a checkpoint is due for whatever is new."""
        self._again_at = 0.0
        self._wake.set()

    async def halt(self) -> None:
        """Sign no more: who leads now is for others to say."""
        self._store = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def stop(self) -> None:
        """Sign what is left, and no more. The store must still be open."""
        store = self._store
        await self.halt()
        if store is None or self.failure:
            return
        self._store = store
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._sign_the_rest()
        except (StoreError, OSError, TimeoutError) as error:
            log.warning("the end of the log is not signed", error=str(error) or "it took too long")
        finally:
            self._store = None

    async def _sign_the_rest(self) -> None:
        tries = 0
        while self._marks or self._unfiled is not None:
            try:
                await self._sign(rest=0)
                tries = 0
            except Unavailable:  # a connection that broke while nobody used it says so once
                tries += 1
                if tries == STOP_TRIES_MAX:
                    raise

    # --- when -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._until_due()
                try:
                    await self._sign(REST)
                    self._trouble = ""
                except (Unavailable, OSError) as error:
                    self._note_trouble(str(error))
                    await asyncio.sleep(RETRY_S)
        except StoreError as error:
            self._refuse(f"what the database holds is not what was appended, and is not signed: {error}")
        except Exception as error:
            log.exception("the notary failed")
            self._refuse(f"internal error: {type(error).__name__}: {error}")

    async def _until_due(self) -> None:
        while self._unfiled is None:
            self._wake.clear()
            wait_s = None
            if self._marks:
                wait_s = self._again_at - time.monotonic()
                if wait_s <= 0 or self._marks[-1].position - self._frontier.size >= SIGN_EVENTS:
                    return
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _refuse(self, why: str) -> None:
        self.failure = why
        self._failed()

    def _note_trouble(self, error: str) -> None:
        """Log it once, not at every try."""
        if error != self._trouble:
            log.warning("a checkpoint cannot be made just now", error=error)
        self._trouble = error

    # --- what -----------------------------------------------------------------------------------------

    async def _sign(self, rest: int) -> None:
        """Make the next checkpoint, and file it."""
        if self._unfiled is None:
            await self._read_back(self._target(), rest)
            frontier = self._frontier
            checkpoint = Checkpoint(self._origin, frontier.size, frontier.root(), self._tip)
            note = signed(checkpoint, self._signers)
            self._unfiled = Signed(frontier.size, frontier.packed(), note)
        if self._noted < self._unfiled.size:
            await asyncio.to_thread(self._notes.append, self._unfiled.note)
            self._noted = self._unfiled.size
        assert self._store is not None
        await self._store.add_checkpoint(self._unfiled)
        self.size, self._unfiled = self._unfiled.size, None
        self._again_at = time.monotonic() + SIGN_S
        if len(self._signers) > 1:
            await asyncio.to_thread(self._keys.forget_outgoing)
            del self._signers[0]

    def _target(self) -> int:
        """The position where the next checkpoint is to be made: always where an append ended."""
        target, end = self._marks[0].position, self._frontier.size + CHECKPOINT_EVENTS_MAX
        for mark in self._marks:
            if mark.position > end:
                break
            target = mark.position
        return target

    async def _read_back(self, target: int, rest: int) -> None:
        """Grow the tree up to a position, from the bytes in the store. Raises ``Corrupt``.

        Nothing is awaited once it has come there: what has been read back is signed, or still to be read.
        """
        frontier = self._frontier
        while frontier.size < target:
            assert self._store is not None
            began = time.monotonic()
            limit = min(CHUNK_EVENTS, target - frontier.size)
            hashes = await self._store.hashes(frontier.size, self._tip, limit)
            if not hashes:
                raise Corrupt(f"the log ends at {frontier.size}, and {target} events were appended")
            for hash in hashes:
                frontier.add(hash)
                if frontier.size == self._marks[0].position:
                    if hash != self._marks[0].hash:
                        raise Corrupt(f"event {frontier.size} is not the one that was appended")
                    self._marks.popleft()
            self._tip = hashes[-1]
            if frontier.size < target:
                await asyncio.sleep(rest * (time.monotonic() - began))


async def _check(
    store: EventStore, head: Head, state: State, own: list[VerifyKey], note: str, where: str
) -> Checkpoint:
    """That a checkpoint was signed for this log, and that the log still leads to it. Raises ``Distrust``."""
    try:
        checkpoint, _ = read_note(note)
    except BadNote as error:
        raise Distrust(f"the newest checkpoint in {where} cannot be read: {error}") from error
    size, origin = checkpoint.size, origin_of(head.log_id)
    if checkpoint.origin != origin:
        raise Distrust(
            f"{where} holds a checkpoint of the log {checkpoint.origin}, and this database holds {origin}: "
            "it is another database than before; give it a data directory of its own"
        )
    if size > head.position:
        raise Distrust(
            f"events up to {size} were signed, the log ends at {head.position}: an older backup was "
            f"restored, or its end was taken away; bring the newer log back (the checkpoint is in {where})"
        )
    found = await store.read_at([size])
    if not found or found[0].hash != checkpoint.tip:
        raise Distrust(f"event {size} is not the one that was signed in {where}: the log has been rewritten")
    refused: BadNote | None = None
    for text in (*_in_force(state, size), *map(str, own)):
        try:
            return verified(note, VerifyKey.read(text))
        except BadNote as error:
            refused = refused or error
    raise Distrust(f"the newest checkpoint in {where} does not hold: {refused}")


def _in_force(state: State, size: int) -> list[str]:
    """The key that the log says signs at this size, if it names any."""
    return [key for position, key in state.signing_keys.items() if position <= size][-1:]


def _frontier(newest: Signed, checkpoint: Checkpoint) -> Frontier:
    """Where the tree of a checkpoint goes on. Raises ``Distrust`` when it is not of that tree."""
    try:
        frontier = Frontier.unpacked(newest.size, newest.frontier)
    except ValueError:
        frontier = Frontier()
    if newest.size != checkpoint.size or frontier.root() != checkpoint.root:
        raise Distrust(
            f"the table of checkpoints was changed: what it holds at {newest.size} is not what was signed"
        )
    return frontier
