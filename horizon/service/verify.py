"""Checks a whole log in its database: bytes, order, rules, and what was signed of it. It only reads."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import astuple

from horizon.core.audit import fault
from horizon.core.events import Recorded, Stored
from horizon.core.evolve import evolve
from horizon.core.rerun import Difference, Rerun
from horizon.core.state import State, digest
from horizon.service.blobs import Named, WrongBlob, check_blobs
from horizon.service.notefile import NoteFile, kept_notes
from horizon.store import codec
from horizon.store.note import BadNote, Checkpoint, NotSigned, VerifyKey, origin_of, read_note, verified
from horizon.store.port import GENESIS_HASH, Corrupt, Head, LogSource, Signed
from horizon.store.tree import Frontier

TABLE: Final = "the table of checkpoints"
DIFFERENCES_KEPT: Final = 20
"""Of cycles that were decided otherwise; all of them are counted."""

Progress = Callable[[int, int], None]


class Unsound(Exception):
    """What does not hold, and at which position of the log."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(f"position {position}: {message}")
        self.position = position


class Decisions:
    """Has every recorded cycle run again, and keeps where it was decided otherwise than the log says."""

    def __init__(self) -> None:
        self.rerun = Rerun()
        self.differences: list[Difference] = []
        """The first ones; ``rerun`` counts all."""
        self.seconds = 0.0
        """Spent on deciding again."""

    def see(self, state: State, recorded: Recorded) -> None:
        """Look at the next event, on the state before it. Raises ``Unsound`` if its cycle cannot be run."""
        began = time.perf_counter()
        try:
            self._keep(self.rerun.see(state, recorded))
        except Exception as error:
            what = f"its cycle cannot be run again: {type(error).__name__}: {error}"
            raise Unsound(recorded.position, what) from error
        self.seconds += time.perf_counter() - began

    def end(self, state: State) -> None:
        """To be told behind the last event of a log; not where an export was cut off, for a cycle may go on
        there."""
        self._keep(self.rerun.end(state))

    def _keep(self, differences: list[Difference]) -> None:
        self.differences += differences[: DIFFERENCES_KEPT - len(self.differences)]


class Report(NamedTuple):
    """What held."""

    origin: str
    events: int
    epoch: int
    jobs: int
    keys: int
    """That the log has been signed with."""
    in_table: int
    in_files: int
    """Checkpoints."""
    kept: int
    """Those that somebody kept elsewhere, and holds the log to."""
    not_in_table: int
    """Places at which a file has a checkpoint, and the table has none."""
    signed: int
    """Up to which position the log is signed."""
    digest: str
    """Of the state that the log folds to."""
    blobs: int | None
    """Environments and scripts, each as the log says; None where they may not be read."""


class Said(NamedTuple):
    """A checkpoint, and where it stands."""

    size: int
    where: str
    note: str


async def verify(
    log: LogSource,
    files: Iterable[NoteFile],
    keys: Iterable[VerifyKey],
    progress: Progress,
    decisions: Decisions | None = None,
    kept: Iterable[Said] = (),
) -> Report:
    """Check everything there is. Raises ``Unsound`` at the first thing that does not hold, ``StoreError``.

    ``files`` are the scheduler's own, ``kept`` the checkpoints that somebody holds the log to. ``keys`` are
    those that whoever asks trusts; without any, the first that the log names. With ``decisions`` every
    cycle is run again, too; that one is decided otherwise does not end the check.
    """
    files = list(files)
    # What was signed is read before the head is: no honest checkpoint is beyond it then.
    newest = await log.newest_checkpoint()
    ends = [] if newest is None else [Said(newest.size, TABLE, newest.note)]
    ends += [_said(note, str(file.path)) for file in files if (note := file.newest()) is not None]
    kept = sorted(kept, key=lambda said: said.size)
    ends += kept[-1:]
    head = await log.head()
    origin = origin_of(head.log_id)
    for said in kept:
        _check_origin(said, origin)
    for end in ends:
        if end.size > head.position:
            raise Unsound(
                head.position + 1,
                f"events up to {end.size} were signed in {end.where}, and the log ends at {head.position}: "
                "its end was taken away, or an older backup was restored",
            )
    fold, signatures = CheckedFold(decisions), Signatures(origin, keys)
    known_to = max((end.size for end in ends if end.where != TABLE), default=0)
    audit = _Audit(head, fold, signatures, log.checkpoints(), _in_files(files), kept, known_to)
    async for chunk in log.stored(0, head.position):
        for stored in chunk:
            await audit.event(stored)
        progress(audit.state.position, head.position)
    await audit.end(log)
    return audit.report(await _blobs(log, audit.fold))


async def _blobs(log: LogSource, fold: CheckedFold) -> int | None:
    try:
        return await check_blobs(log, fold.named, fold.state.position)
    except WrongBlob as error:
        raise Unsound(error.position, str(error)) from error


async def fold_checked(
    log: StoredEvents, end: int, progress: Progress, decisions: Decisions | None = None
) -> State:
    """The state after so many events, each checked but for signatures. Raises ``Unsound``, ``StoreError``."""
    fold = CheckedFold(decisions)
    async for chunk in log.stored(0, end):
        for stored in chunk:
            fold.take(stored)
        progress(fold.state.position, end)
    if fold.state.position < end:
        raise Unsound(fold.state.position + 1, "it is missing")
    return fold.state


class StoredEvents(Protocol):
    """Events of a log as they are stored, wherever they are."""

    def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]:
        """Those behind a position up to another, in their order, some at a time."""
        ...


class CheckedFold:
    """Folds stored events that somebody else may have written: each is checked before it is believed."""

    def __init__(self, decisions: Decisions | None = None) -> None:
        self.state = State()
        self.tip = GENESIS_HASH
        self.decisions = decisions
        self.named = Named()

    def take(self, stored: Stored) -> Recorded:
        """The next event, as what it says. Raises ``Unsound`` when it cannot be that."""
        position = self.state.position + 1
        try:
            codec.check_link(stored, position, self.tip)
            event = codec.open_payload(position, stored.type, stored.schema_version, stored.payload)
        except Corrupt as error:
            what = str(error).replace(f"event {position} ", "it ", 1)  # whose position is said once
            raise Unsound(position, what) from error
        fields: tuple[Any, ...] = (*astuple(stored), event)
        recorded = Recorded(*fields)
        wrong = fault(self.state, recorded)
        if wrong is not None:
            raise Unsound(position, wrong)
        if self.decisions is not None:
            self.decisions.see(self.state, recorded)
        try:
            evolve(self.state, recorded)
        except Exception as error:
            raise Unsound(position, f"it cannot be folded: {type(error).__name__}: {error}") from error
        self.named.see(recorded)
        self.tip = stored.hash
        return recorded


def _said(note: str, where: str) -> Said:
    try:
        return Said(read_note(note)[0].size, where, note)
    except BadNote as error:
        raise Unsound(0, f"a checkpoint in {where} cannot be read: {error}") from error


def kept_in(path: Path) -> list[Said]:
    """The checkpoints in a file that somebody keeps. Raises ``BadNote``, ``OSError``."""
    return [_said(note, str(path)) for note in kept_notes(path)]


def _check_origin(said: Said, origin: str) -> None:
    found = _said_in(said).origin
    if found != origin:
        raise Unsound(said.size, f"the checkpoint in {said.where} is of {found}, and this is {origin}")


def _in_files(files: Iterable[NoteFile]) -> Iterator[Said]:
    """Those of all files together, the smallest first."""
    each = [(_said(note, str(file.path)) for note in file.notes()) for file in files]
    return heapq.merge(*each, key=lambda said: said.size)


class _Audit:
    """Takes the events in their order, and the checkpoints beside them."""

    def __init__(
        self,
        head: Head,
        fold: CheckedFold,
        signatures: Signatures,
        table: AsyncIterator[Signed],
        files: Iterator[Said],
        kept: Iterable[Said],
        known_to: int,
    ) -> None:
        """``known_to`` is the size of the newest checkpoint in a file when the database was first asked."""
        self.head = head
        self.fold = fold
        self.state = fold.state
        self.frontier = Frontier()
        self.signatures = signatures
        self.in_table = self.in_files = self.kept = 0
        self._table, self._files, self._kept = table, files, deque(kept)
        self._next_in_table: Signed | None = None
        self._next_in_files = next(files, None)
        self._begun = False
        self._known_to = known_to
        self._in_table_at = 0
        """The size of the last one in the table."""
        self._not_in_table: set[int] = set()
        self._matched = 0
        """The size of the last checkpoint that held."""

    async def event(self, stored: Stored) -> None:
        if not self._begun:
            self._begun, self._next_in_table = True, await anext(self._table, None)
        self.fold.take(stored)
        self.frontier.add(stored.hash)
        await self._checkpoints_here()

    async def _checkpoints_here(self) -> None:
        size = self.frontier.size
        while self._next_in_table is not None and self._next_in_table.size <= size:
            signed = self._next_in_table
            self._check(Said(signed.size, TABLE, signed.note))
            if signed.frontier != self.frontier.packed():
                raise Unsound(size, f"the frontier in {TABLE} at {signed.size} is not that of the log")
            self.in_table, self._in_table_at = self.in_table + 1, size
            self._next_in_table = await anext(self._table, None)
        while self._next_in_files is not None and self._next_in_files.size <= size:
            self._check_outside(self._next_in_files)
            self.in_files += 1
            self._next_in_files = next(self._files, None)
        while self._kept and self._kept[0].size <= size:
            self._check_outside(self._kept.popleft())
            self.kept += 1

    def _check_outside(self, said: Said) -> None:
        self._check(said)
        if self._in_table_at < said.size <= self._known_to:  # one made since goes to the table a little later
            self._not_in_table.add(said.size)

    def _check(self, said: Said) -> None:
        size = self.frontier.size
        checkpoint = self.signatures.check(said, self.state)
        if said.size != size or checkpoint.size != size:
            raise Unsound(said.size, f"its checkpoint in {said.where} is out of its order")
        if checkpoint.tip != self.fold.tip or checkpoint.root != self.frontier.root():
            raise Unsound(size, f"{self._differs(size)} signed in {said.where}")
        self._matched = size

    def _differs(self, size: int) -> str:
        """Between which two checkpoints something is not what was signed: nobody can say more."""
        begin = self._matched + 1
        if begin > size:
            return "the events up to it are not those that were"
        return (
            f"{f'one of the events {begin} to {size}' if begin < size else f'event {size}'} is not what was"
        )

    async def end(self, log: LogSource) -> None:
        """What can be asked once all events have been seen."""
        head, state = self.head, self.state
        if state.position != head.position:
            raise Unsound(
                state.position + 1, f"it is missing: the head of the log says that it ends at {head.position}"
            )
        last = (self.fold.tip, state.recorded_at_us)
        if (head.tip, head.recorded_at_us) != last or head.epoch < state.epoch:
            raise Unsound(state.position, "the head of the log does not say what its last event is")
        async for more in log.stored(head.position, head.position + 1):
            if (await log.head()).position == head.position:
                raise Unsound(more[0].position, "it stands behind the head of the log")
        if self._next_in_files is not None:
            for said in (self._next_in_files, *self._files):
                if said.size <= head.position:
                    raise Unsound(said.size, f"its checkpoint in {said.where} is out of its order")
        self.signatures.end(state)
        if self.fold.decisions is not None:
            self.fold.decisions.end(state)

    def report(self, blobs: int | None) -> Report:
        state = self.state
        return Report(
            self.signatures.origin,
            state.position,
            state.epoch,
            len(state.numbered),
            len(state.signing_keys),
            self.in_table,
            self.in_files,
            self.kept,
            len(self._not_in_table),
            self.signatures.signed,
            digest(state),
            blobs,
        )


class Signatures:
    """Which keys are trusted, and up to where the log is signed under one of them.

    A key that is not known is trusted from the checkpoint on that a trusted one signs beside it; a newer one
    that is known vouches for what older ones signed, for its own checkpoint is over all of that.
    """

    def __init__(self, origin: str, keys: Iterable[VerifyKey]) -> None:
        self.origin = origin
        self.signed = 0
        self._trusted = [str(key) for key in keys]
        self._in_force = ""
        self._doubtful = 0
        """The size of the first checkpoint since under a key that is not trusted."""

    def check(self, said: Said, state: State) -> Checkpoint:
        """The checkpoint in a note; ``state`` is the one at its size. Raises ``Unsound``."""
        _check_origin(said, self.origin)
        checkpoint = _said_in(said)
        named = list(state.signing_keys.values())
        if not named:
            raise Unsound(said.size, f"it was signed in {said.where} before the log named a key")
        key = named[-1]
        self._trusted = self._trusted or named[:1]
        if not self._holds(said, key):
            raise Unsound(said.size, f"its checkpoint in {said.where} is not signed by {key}")
        hands_over = len(named) > 1 and key != self._in_force
        if hands_over and key not in self._trusted and not self._holds(said, named[-2]):
            raise Unsound(said.size, f"the key becomes {key} without a signature of the one before")
        self._in_force = key
        if any(self._holds(said, one) for one in self._trusted):
            self._trusted += [] if key in self._trusted else [key]
            self.signed, self._doubtful = said.size, 0
        else:
            self._doubtful = self._doubtful or said.size
        return checkpoint

    def end(self, state: State) -> None:
        if self._doubtful:
            raise Unsound(self._doubtful, "no key that is trusted here vouches for the key of its checkpoint")
        if state.signing_keys and not self.signed:
            position = next(iter(state.signing_keys))
            raise Unsound(position, "it names a key, and nothing is signed: the checkpoints were taken away")

    @staticmethod
    def _holds(said: Said, key: str) -> bool:
        """Whether the key signed it; a signature that claims to be its own must be."""
        try:
            verified(said.note, VerifyKey.read(key))
        except NotSigned:
            return False
        except BadNote as error:
            raise Unsound(said.size, f"in {said.where}: {error}") from error
        return True


def _said_in(said: Said) -> Checkpoint:
    try:
        return read_note(said.note)[0]
    except BadNote as error:
        raise Unsound(said.size, f"its checkpoint in {said.where} cannot be read: {error}") from error
