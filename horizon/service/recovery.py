"""Folds the log into a state: at start, whenever memory can no longer be trusted, and for whoever asks about
the past. It begins at the nearest snapshot that the log bears out, and at nothing when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import structlog

from horizon.core.at_rest import Unreadable, entries
from horizon.core.evolve import evolve
from horizon.core.state import Job, State
from horizon.store.port import GENESIS_HASH, BadSnapshot, Corrupt, EventSource, Head, Snapshot

log = structlog.get_logger()

PROGRESS_EVENTS: Final = 50_000
SLICE_EVENTS: Final = 100
"""Of a fold beside other work: about half a millisecond."""
SLICE_JOBS: Final = 250
"""Of a state that is let go of: about as long."""
Progress = Callable[[int, int], None]
"""Told of events folded, and of how many there are."""


class GivenUp(Exception):
    """Nobody waits any more for what was being folded."""


class Begun(NamedTuple):
    """Where a fold begins."""

    state: State
    hash: bytes
    """Of the last event that is in the state."""


async def nearest(
    store: EventSource, snapshots: Iterable[Snapshot], end: int, log_id: bytes | None = None
) -> Begun:
    """The state of the first snapshot that the log, which ends there, bears out; with none, of no event."""
    for one in snapshots:
        try:
            if log_id not in (None, one.log_id):
                raise BadSnapshot("it is of another log")
            await _check(store, one, end)
            # In a thread: a scheduler that leads goes on while somebody asks about the past.
            return Begun(await asyncio.to_thread(one.state), one.hash)
        except BadSnapshot as error:
            log.warning("a snapshot is not used", position=one.position, why=str(error))
    return Begun(State(), GENESIS_HASH)


async def fold_nearest(
    store: EventSource, snapshots: Iterable[Snapshot], head: Head, progress: Progress
) -> tuple[State, int]:
    """The state as of ``head``, and the position of the snapshot from which it was folded, or 0.

    A snapshot that loads well and cannot be read afterwards is not among ``snapshots`` any more then. Raises
    what ``fold_log`` does.
    """
    while True:
        progress(0, head.position)
        begun = await nearest(store, snapshots, head.position, head.log_id)
        position = begun.state.position
        try:
            return await fold_log(store, head, progress, begun), position
        except Unreadable as error:
            log.warning("a snapshot is not used", position=position, why=str(error))


async def _check(store: EventSource, one: Snapshot, end: int) -> None:
    if one.position > end:
        raise BadSnapshot(f"the log ends at {end}, before its position")
    found = await store.read_at([one.position])
    if not found or found[0].hash != one.hash:
        raise BadSnapshot("the log has another event at its position")


async def fold_log(
    store: EventSource,
    head: Head,
    progress: Progress = lambda done, total: None,
    begun: Begun | None = None,
) -> State:
    """The state as of ``head``, folded on from where it has ``begun``, whose state it is. Raises ``Corrupt``
    when the log does not lead there. O(events since)."""
    state, tip = begun or Begun(State(), GENESIS_HASH)
    progress(state.position, head.position)
    async for recorded in store.read(state.position, head.position - state.position, tip):
        evolve(state, recorded)
        tip = recorded.hash
        if recorded.position % PROGRESS_EVENTS == 0:
            progress(recorded.position, head.position)
    if (state.position, tip) != (head.position, head.tip):
        raise Corrupt(
            f"the log ends at {state.position}, but its head says {head.position}: events are missing"
        )
    return state


async def fold_until(
    store: EventSource,
    head: int,
    position: int,
    snapshots: Iterable[Snapshot] = (),
    wanted: Callable[[], bool] = lambda: True,
) -> State:
    """The state as of a position of the log, which ends at ``head``. O(events up to there since the nearest
    of the ``snapshots``, which come newest first).

    Whoever leads goes on meanwhile: every so many events everything else gets its turn. Raises ``GivenUp``
    soon after it is not ``wanted`` any more.
    """
    before = (one for one in snapshots if one.position <= position)
    state, hash = await nearest(store, before, head)
    async for recorded in store.read(state.position, position - state.position, hash):
        evolve(state, recorded)
        if recorded.position % SLICE_EVENTS == 0:
            await asyncio.sleep(0)
            if not wanted():
                jobs = jobs_in(state)
                del state
                await let_go(jobs)
                raise GivenUp
    return state


def jobs_in(state: State) -> list[Job | int]:
    """What a large state mostly consists of, for ``let_go``."""
    return list(entries(state.numbered))


async def let_go(jobs: list[Job | int]) -> None:
    """Free the jobs of a state that nobody else has any more, some at a time.

    All at once, as they would be with the state itself, they keep everybody waiting: a million of them for
    half a second.
    """
    while jobs:
        del jobs[-SLICE_JOBS:]
        await asyncio.sleep(0)
