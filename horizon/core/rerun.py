"""Runs recorded cycles again: whether what the log says was decided is what this code decides. Pure.

The events of a cycle stand side by side in the log, in front of whatever else one append recorded, and each
names the cycle and its moment. So the state just before the first of them is the one that the cycle saw. What
a command decided names no cycle, and a cycle that decided nothing leaves no event to compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

from horizon.core import events as ev
from horizon.core.model import SCHEDULER
from horizon.core.schedule import DECISIONS, schedule
from horizon.core.sentences import told
from horizon.core.state import State
from horizon.core.words import moment

NOTHING: Final = "nothing more"


class Difference(Struct, frozen=True):
    """The first place where a recorded cycle is not what it is when it is run again."""

    cycle: int
    position: int
    """Of the event that is another, or that stands where one is missing."""
    recorded: str
    """What the log says was decided, in words,"""
    decided: str
    """and what is decided when it is run again."""
    fields: dict[str, tuple[Any, Any]]
    """Where both are about the same thing: what of it differs, as recorded and as decided."""
    version: str
    """Of the program that recorded it; empty when the log does not say."""


class Rerun:
    """Goes along with a fold from the beginning, and decides every cycle again on the way.

    A stretch that a leader with other decision code wrote is not run again, only counted.
    """

    def __init__(self, decisions: int = DECISIONS) -> None:
        """``decisions`` is the number of the decision code that runs here, and that of a log until the first
        leader in it says otherwise."""
        self.decisions = decisions
        self.cycles = 0
        """Run again."""
        self.events = 0
        """That were compared."""
        self.differing = 0
        """Of those cycles."""
        self.others: dict[int, int] = {}
        """Cycles that were not run again, by the number of the code that decided them."""
        self._code = decisions
        self._version = ""
        self._cycle = 0
        """The one whose events are coming; 0 between two."""
        self._due: Iterator[ev.Event] | None = None
        """What is left of it as it is decided here; None when there is nothing (more) to compare."""

    def see(self, state: State, recorded: ev.Recorded) -> list[Difference]:
        """Look at the next event, on the state before it. O(a cycle) for the first event of one."""
        event = recorded.event
        cycle: int = getattr(event, "cycle", 0)
        found: list[Difference] = []
        if cycle != self._cycle:
            found += self._close(state, recorded.position)
            self._cycle = cycle
            if cycle:
                found += self._open(state, recorded, event.now_us)  # type: ignore[attr-defined]
        if cycle:
            found += self._compare(state, recorded.position, event)
        elif type(event) is ev.LeaderElected:
            self._code, self._version = event.decisions, event.version
        return found

    def end(self, state: State) -> list[Difference]:
        """To be asked behind the last event of a log that ends where an append did."""
        found = self._close(state, state.position + 1)
        self._cycle = 0
        return found

    def _open(self, state: State, recorded: ev.Recorded, now_us: int) -> list[Difference]:
        if self._code != self.decisions:
            self.others[self._code] = self.others.get(self._code, 0) + 1
            return []
        self.cycles += 1
        if not state.recorded_at_us <= now_us <= recorded.recorded_at_us:
            between = f"{moment(state.recorded_at_us)} and {moment(recorded.recorded_at_us)}"
            return [self._differs(recorded.position, f"as of {moment(now_us)}", f"between {between}")]
        self._due = iter(schedule(state, now_us).events)
        return []

    def _compare(self, state: State, position: int, event: ev.Event) -> list[Difference]:
        if self._due is None:
            return []
        expected = next(self._due, None)
        if expected == event:
            self.events += 1
            return []
        decided = NOTHING if expected is None else told(state, expected, SCHEDULER)
        fields = {} if expected is None else _differing(event, expected)
        return [self._differs(position, told(state, event, SCHEDULER), decided, fields)]

    def _close(self, state: State, position: int) -> list[Difference]:
        missing = None if self._due is None else next(self._due, None)
        self._due = None
        return [] if missing is None else [self._differs(position, NOTHING, told(state, missing, SCHEDULER))]

    def _differs(
        self, position: int, recorded: str, decided: str, fields: dict[str, tuple[Any, Any]] | None = None
    ) -> Difference:
        """What follows in the cycle hangs on what came before: it is not compared any more."""
        self._due = None
        self.differing += 1
        return Difference(self._cycle, position, recorded, decided, fields or {}, self._version)


def _differing(one: ev.Event, other: ev.Event) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two events about the same; none for events that are not."""
    if type(one) is not type(other) or one.stream != other.stream:
        return {}
    pairs = zip(one.__struct_fields__, astuple(one), astuple(other), strict=True)
    return {name: (mine, theirs) for name, mine, theirs in pairs if mine != theirs}
