"""Folds the log into a fresh state: at start, and whenever memory can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from horizon.core.evolve import evolve
from horizon.core.state import State
from horizon.store.port import Corrupt, EventStore, Head

PROGRESS_EVENTS = 50_000
SLICE_EVENTS = 100
"""Of a fold beside other work: about half a millisecond."""


async def fold_log(
    store: EventStore, head: Head, progress: Callable[[int, int], None] = lambda done, total: None
) -> State:
    """The state as of ``head``. Raises ``Corrupt`` when the log does not lead there. O(events)."""
    state = State()
    tip = None
    async for recorded in store.read(0, head.position):
        evolve(state, recorded)
        tip = recorded.hash
        if recorded.position % PROGRESS_EVENTS == 0:
            progress(recorded.position, head.position)
    if state.position != head.position or (tip is not None and tip != head.tip):
        raise Corrupt(
            f"the log ends at {state.position}, but its head says {head.position}: events are missing"
        )
    return state


async def fold_until(
    store: EventStore, head: int, position: int | None = None, moment_us: int | None = None
) -> State:
    """The state as of a position, or as of the last event recorded up to a moment. O(events up to there).

    Whoever leads goes on meanwhile: every so many events everything else gets its turn.
    """
    state = State()
    async for recorded in store.read(0, head if position is None else position):
        if moment_us is not None and recorded.recorded_at_us > moment_us:
            break
        evolve(state, recorded)
        if recorded.position % SLICE_EVENTS == 0:
            await asyncio.sleep(0)
    return state
