"""Moments as they are written on the wire: RFC 3339, UTC, microseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from horizon.api.problems import Fault, invalid

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
LAST_US: Final = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The last moment that RFC 3339 can write."""
OUT_OF_RANGE: Final = "must be after 1970 and before the year 10000, in UTC"
_DIGITS: Final = [f"{number:03d}" for number in range(1_000)]
"""Three digits are looked up in half the time that formatting them takes, and a job has up to six moments."""


@lru_cache(maxsize=4_096)
def _second(second: int) -> str:
    """All of the text that changes once a second, and so is made once a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def rfc3339(us: int) -> str:
    """``2026-01-31T14:05:09.000250Z``."""
    ms = us // 1_000
    return f"{_second(ms // 1_000)}{_DIGITS[ms % 1_000]}{_DIGITS[us % 1_000]}Z"


def rfc3339_or_null(us: int) -> str | None:
    """The same; None for 0, which stands for a moment that has not come."""
    return rfc3339(us) if us else None


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC of a moment with an offset; exact."""
    return (moment - _EPOCH) // _MICROSECOND


def checked(moment: datetime, pointer: str | None = None, parameter: str | None = None) -> int:
    """The same, for a moment that was asked for at this place. Raises ``Problem``."""
    us = microseconds(moment)
    if not 0 < us <= LAST_US:
        raise invalid([Fault(OUT_OF_RANGE, pointer, parameter)])
    return us
