"""Old shapes of events, made into those of today. What is stored stays as it was written; so does its hash.

A payload is upcast one version at a time, by a pure function for each step; only then is it decoded, as
strictly as one written today. What a step adds must say that it was not known then, never guess at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Payload = dict[str, Any]
"""The JSON object of an event."""


def gains(**fields: object) -> Callable[[Payload], Payload]:
    """A step to a version that has these fields, too, with what they hold for events of before."""

    def step(payload: Payload) -> Payload:
        early = [name for name in fields if name in payload]
        if early:
            raise ValueError(f"it has the field {early[0]!r}, which came with the next version")
        return {**payload, **fields}

    return step


UPCASTERS: Final[Mapping[tuple[str, int], Callable[[Payload], Payload]]] = {
    ("JobHeld", 1): gains(reason=""),
    ("JobReleased", 1): gains(reason=""),
    ("JobUpdated", 1): gains(reason=""),
    ("NodeResumed", 1): gains(reason=""),
    ("DeviceRecovered", 1): gains(reason=""),
    ("BookingEnded", 1): gains(reason=""),
    ("ShareSet", 1): gains(reason=""),
    ("QuotaSet", 1): gains(reason=""),
    ("PolicySet", 1): gains(reason=""),
    ("LeaderElected", 1): gains(decisions=0),
    ("CommandRefused", 1): gains(asked={}),
}
"""By type and version, the step to the next version: one for every version before that of today."""


def upcast(type: str, version: int, today: int, payload: bytes) -> bytes:
    """A payload of an older version as one of today's; ``ValueError`` if it is none. O(bytes)."""
    made = msgspec.json.decode(payload, type=Payload)
    if made.get("type") != type:
        return payload  # it is filed wrongly, which is for whoever decodes it to find
    for step in range(version, today):
        made = UPCASTERS[type, step](made)
    return msgspec.json.encode(made)
