"""The only place that asks what time it is, and the only source of chance. Both are handed to the engine."""

from __future__ import annotations

import os
import time
from random import Random
from typing import Protocol


class Clock(Protocol):
    """Gives the time in microseconds since 1970 UTC."""

    def now_us(self) -> int: ...


class SystemClock:
    """This machine's clock. It may go backwards; the engine never records that."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class LogClock:
    """The time of what is appended: never before what is in the log, and while the clock stands behind that,
    time goes on all the same.

    A clock that was set back an hour must not keep a time limit from being reached for an hour; nor one
    that was right before, with an hour too much in the log that we took over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_us = 0
        """The last reading, and when it was taken on a clock that never goes back."""
        self._read_at_us = 0

    def now_us(self, recorded_at_us: int) -> int:
        """Given when the last event was recorded."""
        clock_us, steady_us = self._clock.now_us(), time.monotonic_ns() // 1_000
        if self._read_us < recorded_at_us:
            self._read_us, self._read_at_us = recorded_at_us, steady_us
        if clock_us < self._read_us:
            clock_us = self._read_us + steady_us - self._read_at_us
        self._read_us, self._read_at_us = clock_us, steady_us
        return clock_us


class Ids:
    """Makes UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, a 12-bit counter, 62 random bits.

    Ids of one maker grow: within a millisecond by the counter, and when it overflows, or the clock steps
    back, by running ahead of the clock. An id is a name and no secret, so its random bits come from a
    generator that is only seeded by the system.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tick = 0
        """Milliseconds and counter as one number."""
        self._random = Random(os.urandom(32)).getrandbits

    def _next(self) -> tuple[int, int]:
        """The two halves of the next id."""
        tick = (self._clock.now_us() // 1_000) << 12
        if tick <= self._tick:
            tick = self._tick + 1
        self._tick = tick
        return (tick >> 12) << 16 | 0x7000 | tick & 0xFFF, 1 << 63 | self._random(62)

    def new(self) -> bytes:
        """16 bytes."""
        high, low = self._next()
        return (high << 64 | low).to_bytes(16, "big")

    def new_text(self) -> str:
        """The usual 36 characters, in lower case."""
        high, low = self._next()
        digits = f"{high:016x}{low:016x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
