"""The only place that asks what time it is, and the only source of chance. Both are handed to the engine."""

from __future__ import annotations

import os
import time
from typing import Final, Protocol


class Clock(Protocol):
    """Gives the time in microseconds since 1970 UTC."""

    def now_us(self) -> int: ...


class SystemClock:
    """This machine's clock. It may go backwards; the engine never records that."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


_RANDOM_IDS: Final = 256


class Ids:
    """Makes UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, a 12-bit counter, 62 random bits.

    Ids of one maker grow: within a millisecond by the counter, and when it overflows, or the clock steps
    back, by running ahead of the clock. Random bits are drawn for many ids at a time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tick = 0
        """Milliseconds and counter as one number."""
        self._random = b""
        self._used = 0

    def new(self) -> bytes:
        """16 bytes."""
        tick = (self._clock.now_us() // 1_000) << 12
        self._tick = tick = tick if tick > self._tick else self._tick + 1
        if self._used == len(self._random):
            self._random, self._used = os.urandom(8 * _RANDOM_IDS), 0
        random = int.from_bytes(self._random[self._used : self._used + 8], "big")
        self._used += 8
        high = (tick >> 12) << 16 | 0x7000 | tick & 0xFFF
        low = 1 << 63 | random & 0x3FFF_FFFF_FFFF_FFFF
        return (high << 64 | low).to_bytes(16, "big")

    def new_text(self) -> str:
        """The usual 36 characters, in lower case."""
        digits = self.new().hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
