"""The Merkle tree against RFC 6962's own definition of it, written out once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from hashlib import sha256

import pytest

from horizon.store.tree import (
    EMPTY_ROOT,
    Frontier,
    consistency_ranges,
    inclusion_ranges,
    inner,
    root_of,
    roots,
)

LEAVES = [sha256(bytes([0, place])).digest() for place in range(70)]


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, over hashes of leaves."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + defined(leaves[:half]) + defined(leaves[half:])).digest()


def test_every_root_is_what_the_rfc_defines() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == defined([])
    for size, leaf in enumerate(LEAVES, 1):
        frontier.add(leaf)
        assert frontier.root() == defined(LEAVES[:size])
        assert Frontier(size, frontier.hashes).root() == frontier.root()


def test_a_frontier_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="3 leaves has 2 hashes"):
        Frontier(3, LEAVES[:1])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 70])
def test_every_leaf_leads_to_the_root_by_its_path(size: int) -> None:
    for place in range(size):
        root = LEAVES[place]
        for begin, end in inclusion_ranges(place, size):
            sibling = root_of(LEAVES[begin:end])
            root = inner(root, sibling) if begin > place else inner(sibling, root)
        assert root == defined(LEAVES[:size])


@pytest.mark.parametrize(
    ("old", "new", "ranges"),
    [
        (3, 7, [(2, 3), (3, 4), (0, 2), (4, 7)]),
        (4, 7, [(4, 7)]),
        (6, 7, [(4, 6), (6, 7), (0, 4)]),
        (7, 7, []),
    ],
)
def test_the_consistency_proofs_of_the_rfc(old: int, new: int, ranges: list[tuple[int, int]]) -> None:
    """The examples of RFC 6962, 2.1.3."""
    assert consistency_ranges(old, new) == ranges


async def one_by_one(leaves: Iterable[bytes]) -> AsyncIterator[bytes]:
    for leaf in leaves:
        yield leaf


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33, 70])
async def test_one_pass_gives_all_that_paths_need(size: int) -> None:
    places = sorted({0, size // 3, size // 2, size - 1})
    found = await roots(one_by_one(LEAVES), size, places)
    assert found[0, size] == defined(LEAVES[:size])
    for place in places:
        for begin, end in inclusion_ranges(place, size):
            assert found[begin, end] == defined(LEAVES[begin:end])


async def test_leaves_that_are_missing_are_noticed() -> None:
    with pytest.raises(ValueError, match="fewer than 71 leaves"):
        await roots(one_by_one(LEAVES), 71, [3])
