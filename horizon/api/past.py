"""The system as it was: ``at=`` of every route that takes it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import times
from horizon.api.problems import Fault, invalid, unavailable
from horizon.api.reading import is_gone
from horizon.core.at_rest import Unreadable, rests_on
from horizon.core.state import State
from horizon.service.recovery import GivenUp, fold_until, jobs_in, let_go
from horizon.store.port import EventStore, Snapshot

At = (
    Annotated[
        str, Meta(description="As of this position of the log, or of this moment, in RFC 3339; else now.")
    ]
    | None
)


class AtQuery(Struct, frozen=True, forbid_unknown_fields=True):
    at: At = None


KEPT_S: Final = 60.0
"""A past state is as large as the present one: for so long after it was last asked about it is kept."""
ASKING_MAX: Final = 16
"""So many may wait for a past state; the log is folded for one position after the other."""
_POSITION: Final = re.compile(r"[0-9]{1,18}")


class Past:
    """Folds the log anew for questions about the past, one at a time; the last one answers what follows."""

    def __init__(self, store: EventStore, head: Callable[[], int], snapshots: Iterable[Snapshot]) -> None:
        """``head`` says up to which position the log is known here; ``snapshots`` come newest first."""
        self._store = store
        self._snapshots = snapshots
        self._head = head
        self._folding = asyncio.Lock()
        self._asking: list[tuple[int, web.Request]] = []
        """Those that wait, and for which position."""
        self._state: State | None = None
        """Never changed once it is here: whoever was given it may go on reading it."""
        self._drop: asyncio.TimerHandle | None = None
        self._dropping: asyncio.Task[None] | None = None

    async def at(self, request: web.Request, at: str) -> tuple[State, int]:
        """The state as of a position or a moment, and that moment. O(events up to there), in slices.

        Raises ``Problem`` when that cannot be asked about, or too many ask.
        """
        if _POSITION.fullmatch(at):
            state = await self._as_of(request, self._checked(int(at)))
            return state, state.recorded_at_us
        moment_us = _moment(at)
        # The store may be a batch ahead of what is known here.
        position = min(await self._store.position_at(moment_us), self._head())
        state = await self._as_of(request, position)
        return state, max(moment_us, state.recorded_at_us)

    def _checked(self, position: int) -> int:
        head = self._head()
        if not 1 <= position <= head:
            raise invalid([Fault(f"the log has positions 1 to {head}", parameter="at")])
        return position

    async def _as_of(self, request: web.Request, position: int) -> State:
        # Whoever has gone is still among them until it is his turn, and does not count.
        if sum(not is_gone(one) for _, one in self._asking) >= ASKING_MAX:
            raise unavailable("too many ask about the past just now: ask again when they are answered", 5)
        asking = position, request
        self._asking.append(asking)
        try:
            async with self._folding:
                state = await self._folded(position)
                self._keep_for_a_while()
                return state
        except GivenUp:
            raise unavailable("whoever asked has gone", 1) from None
        finally:
            self._asking.remove(asking)

    async def _folded(self, position: int) -> State:
        def wanted() -> bool:
            return any(at == position and not is_gone(request) for at, request in self._asking)

        if self._state is None or self._state.position != position:
            if not wanted():
                raise GivenUp
            await self._forget()  # two of them need not be in memory
            self._state = await fold_until(self._store, self._head(), position, self._snapshots, wanted)
        return self._state

    def doubt(self, error: Unreadable) -> None:
        """What the kept state rests on cannot be read any more."""
        if self._state is not None and rests_on(self._state, error.records):
            self._state = None

    def _keep_for_a_while(self) -> None:
        if self._drop is not None:
            self._drop.cancel()
        self._drop = asyncio.get_running_loop().call_later(KEPT_S, self._drop_it)

    def _drop_it(self) -> None:
        if not self._folding.locked():
            self._dropping = asyncio.ensure_future(self._forget())

    async def _forget(self) -> None:
        if self._state is not None:
            jobs, self._state = jobs_in(self._state), None
            await let_go(jobs)


def _moment(at: str) -> int:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        what = "must be a position of the log, or a moment with an offset such as 2030-01-31T08:00:00Z"
        raise invalid([Fault(what, parameter="at")])
    return times.checked(moment, parameter="at")
