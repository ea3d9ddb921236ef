"""The system as it was: ``at=`` of every route that takes it."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from horizon.api import times
from horizon.api.problems import Fault, invalid
from horizon.core.state import State
from horizon.service.engine import Engine
from horizon.service.recovery import fold_until

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
_POSITION: Final = re.compile(r"[0-9]{1,18}")


class Past:
    """Folds the log anew for questions about the past, one at a time; the last one answers what follows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._folding = asyncio.Lock()
        self._state: State | None = None
        """Never changed once it is here: whoever was given it may go on reading it."""
        self._drop: asyncio.TimerHandle | None = None

    async def at(self, at: str) -> tuple[State, int]:
        """The state as of a position or a moment, and that moment. O(events up to there), in slices.

        Raises ``Problem`` when that cannot be asked about.
        """
        position, moment_us = self._asked(at)
        async with self._folding:
            state = self._state
            if state is None or not await self._is_as_of(state, position, moment_us):
                store, head = self._engine.store, self._engine.state.position
                self._state = None  # two of them need not be in memory
                self._state = state = await fold_until(store, head, position, moment_us)
            self._keep_for_a_while()
        return state, state.recorded_at_us if moment_us is None else max(moment_us, state.recorded_at_us)

    def _asked(self, at: str) -> tuple[int | None, int | None]:
        if not _POSITION.fullmatch(at):
            return None, _moment(at)
        head = self._engine.state.position
        if not 1 <= int(at) <= head:
            raise invalid([Fault(f"the log has positions 1 to {head}", parameter="at")])
        return int(at), None

    async def _is_as_of(self, state: State, position: int | None, moment_us: int | None) -> bool:
        if moment_us is None:
            return state.position == position
        if state.recorded_at_us > moment_us:
            return False
        following = await self._engine.store.read_at([state.position + 1])
        return not following or following[0].recorded_at_us > moment_us

    def _keep_for_a_while(self) -> None:
        if self._drop is not None:
            self._drop.cancel()
        self._drop = asyncio.get_running_loop().call_later(KEPT_S, self._forget)

    def _forget(self) -> None:
        if not self._folding.locked():
            self._state = None


def _moment(at: str) -> int:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        what = "must be a position of the log, or a moment with an offset such as 2030-01-31T08:00:00Z"
        raise invalid([Fault(what, parameter="at")])
    return times.checked(moment, parameter="at")
