"""The Merkle tree of RFC 6962 over the log: one root stands for every event up to it.

The hash of an event is its leaf; inner nodes are ``SHA-256(0x01 || left || right)``. A frontier grows by a
leaf in O(1) amortised and knows the root of all leaves so far, holding no more than one hash per bit of their
number. Proofs are what C2SP and certificate logs use: RFC 6962, sections 2.1.1 and 2.1.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


def inner(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the complete trees that the leaves so far fall into, the largest first."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(f"a frontier of {size} leaves has {size.bit_count()} hashes")

    @classmethod
    def unpacked(cls, size: int, packed: bytes) -> Frontier:
        """From what ``packed`` gave. Raises ``ValueError`` when it is no frontier of so many leaves."""
        if len(packed) % HASH_BYTES:
            raise ValueError(f"{len(packed)} bytes are no whole number of hashes")
        return cls(size, (packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)))

    def packed(self) -> bytes:
        """The hashes in one, to be kept."""
        return b"".join(self.hashes)

    def add(self, leaf: bytes) -> None:
        """One more leaf, at the end. O(1) amortised."""
        full = self.size
        while full & 1:
            leaf = inner(self.hashes.pop(), leaf)
            full >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of all leaves. O(log size)."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = inner(left, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaves. O(leaves)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def split(size: int) -> int:
    """How many leaves the left half of a tree has: the largest power of two below its size."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_ranges(place: int, size: int) -> list[tuple[int, int]]:
    """The parts of the tree whose roots prove that the leaf at a place, from 0, is in it; leaf first."""
    ranges, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + split(end - begin)
        if place < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """The parts whose roots prove that a tree of ``old`` leaves begins one of ``new``; RFC 6962, 2.1.2."""
    ranges, begin, end, whole = [], 0, new, True
    while old != end:
        middle = begin + split(end - begin)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin, whole = middle, False
    return ([] if whole else [(begin, end)]) + ranges[::-1]


async def roots(
    leaves: AsyncIterator[bytes], size: int, places: Iterable[int]
) -> dict[tuple[int, int], bytes]:
    """The roots of the whole tree and of all parts on the paths of these leaves, by where they begin and end.

    Takes every leaf once, in order. Raises ``ValueError`` when there are fewer than ``size``.
    """
    wanted, found = sorted(places), {}

    async def leaf() -> bytes:
        hash = await anext(leaves, None)
        if hash is None:
            raise ValueError(f"there are fewer than {size} leaves")
        return hash

    async def root(begin: int, end: int) -> bytes:
        at = bisect_left(wanted, begin)
        if at == len(wanted) or wanted[at] >= end:  # nothing in it is looked for, so it is taken as a whole
            frontier = Frontier()
            for _ in range(end - begin):
                frontier.add(await leaf())
            made = frontier.root()
        elif end - begin == 1:
            made = await leaf()
        else:
            middle = begin + split(end - begin)
            left = await root(begin, middle)
            made = inner(left, await root(middle, end))
        found[begin, end] = made
        return made

    await root(0, size)
    return found
