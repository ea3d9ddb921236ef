"""Folds a log anew to look at it as it was: at one moment, or at several on one way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from typing import NamedTuple

from horizon.core.events import Recorded, Stored
from horizon.core.state import State
from horizon.service.recovery import Begun
from horizon.service.verify import CheckedFold, Progress, StoredEvents, Unsound
from horizon.store.port import GENESIS_HASH, Snapshot


class Moment(NamedTuple):
    """When: a position of the log, or else a time."""

    position: int | None
    at_us: int | None

    def is_before(self, stored: Stored) -> bool:
        """Whether the event comes after it."""
        if self.position is not None:
            return stored.position > self.position
        assert self.at_us is not None
        return stored.recorded_at_us > self.at_us

    def is_after(self, snapshot: Snapshot) -> bool:
        """Whether a fold from there on comes to it."""
        if self.position is not None:
            return snapshot.position <= self.position
        assert self.at_us is not None
        return snapshot.recorded_at_us <= self.at_us

    def now_us(self, state: State) -> int:
        """The time that it stands for, in the state as of it."""
        return state.recorded_at_us if self.at_us is None else max(self.at_us, state.recorded_at_us)


Look = Callable[[State, int], None]
"""What is done with the state as of a moment, and that moment's time. The state goes on afterwards."""


async def replay(
    log: StoredEvents,
    end: int,
    looks: Iterable[tuple[Moment, Look]],
    progress: Progress,
    begun: Begun | None = None,
) -> None:
    """Fold a log of so many events, and look at it at each moment when it is reached; not further.

    Every event is checked on the way, but for signatures, and but for those before where the fold has
    ``begun``. Raises ``Unsound``, ``StoreError``.
    """
    fold, open_looks = CheckedFold(), list(looks)
    fold.state, fold.tip = begun or Begun(State(), GENESIS_HASH)
    async for chunk in log.stored(fold.state.position, end):
        for stored in chunk:
            for one in [one for one in open_looks if one[0].is_before(stored)]:
                open_looks.remove(one)
                one[1](fold.state, one[0].now_us(fold.state))
            if not open_looks:
                return
            fold.take(stored)
        progress(fold.state.position, end)
    if fold.state.position < end:
        raise Unsound(fold.state.position + 1, "it is missing")
    for moment, look in open_looks:
        look(fold.state, moment.now_us(fold.state))


async def checked(
    log: StoredEvents, end: int, progress: Progress
) -> AsyncGenerator[tuple[State, Recorded], None]:
    """The events of a log of so many, each with the state as of it, which goes on afterwards.

    Every event is checked, but for signatures. Raises ``Unsound``, ``StoreError``.
    """
    fold = CheckedFold()
    async for chunk in log.stored(0, end):
        for stored in chunk:
            recorded = fold.take(stored)
            yield fold.state, recorded
        progress(fold.state.position, end)
    if fold.state.position < end:
        raise Unsound(fold.state.position + 1, "it is missing")
