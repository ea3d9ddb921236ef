"""How arrays are written: ``0-99:2,200%10``."""

from __future__ import annotations

import re
from typing import Final

from horizon.api.faults import clipped
from horizon.core import limits
from horizon.core.model import Array, IndexRange

TEXT_LENGTH_MAX: Final = limits.ARRAY_RANGES_MAX * len("1000000000-1000000000:1000000000,") + len("%100000")

_RANGE: Final = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?", re.ASCII)
_LIMIT: Final = re.compile(r"\d{1,10}", re.ASCII)


def parse(text: str) -> Array:
    """The array that a text says; ``ValueError`` tells what is wrong with it, and where."""
    body, percent, limit = text.partition("%")
    pieces = body.split(",")
    if len(pieces) > limits.ARRAY_RANGES_MAX:
        raise ValueError(f"has {len(pieces):,} ranges; there may be {limits.ARRAY_RANGES_MAX:,}")
    ranges: list[IndexRange] = []
    at, last = 1, -1
    for piece in pieces:
        one = _range(piece, f"at character {at}")
        if one.first <= last:
            raise ValueError(f"at character {at}: {one.first} comes after {last}; indices must grow")
        ranges.append(one)
        at, last = at + len(piece) + 1, one.indices[-1]
    array = Array(tuple(ranges), _limit(limit, f"at character {at}") if percent else 0)
    if array.tasks > limits.ARRAY_TASKS_MAX:
        raise ValueError(f"has {array.tasks:,} tasks; there may be {limits.ARRAY_TASKS_MAX:,}")
    return array


def _range(piece: str, where: str) -> IndexRange:
    match = _RANGE.fullmatch(piece)
    if match is None:
        raise ValueError(f"{where}: {clipped(piece)!r} is no index and no range such as 0-99 or 0-99:2")
    first = int(match[1])
    last, step = int(match[2] or first), int(match[3] or 1)
    if max(first, last) > limits.ARRAY_INDEX_MAX:
        raise ValueError(f"{where}: an index may be {limits.ARRAY_INDEX_MAX:,} at most")
    if last < first:
        raise ValueError(f"{where}: {clipped(piece)!r} ends before it begins")
    if not 1 <= step <= limits.ARRAY_INDEX_MAX:
        raise ValueError(f"{where}: a step must be 1 or more")
    return IndexRange(first, last, step)


def _limit(text: str, where: str) -> int:
    if _LIMIT.fullmatch(text) is None or not 1 <= int(text) <= limits.ARRAY_TASKS_MAX:
        raise ValueError(
            f"{where}: after % stands how many tasks may run at once, 1 to {limits.ARRAY_TASKS_MAX:,}"
        )
    return int(text)
