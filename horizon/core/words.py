"""Times and settings in sentences. Imports nothing of weight: the command line shows them the same way."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def moment(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).isoformat()


def span(seconds: int) -> str:
    """A length of time in two units at most: ``42s``, ``3m05s``, ``2h07m``, ``5d03h``."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3_600}h{seconds % 3_600 // 60:02}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3_600:02}h"


def text(value: Any) -> str:
    """The value of a setting."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)
