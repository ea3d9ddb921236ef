"""The ledger of the share tree: what makes an account's or a user's turn, number by number. Pure, read only.

Usage is in cost units x seconds and rates in cost units a second; ``COST_PER_GPU`` makes GPUs of them.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from horizon.core.policy import Order
from horizon.core.state import COST_PER_GPU, Share, State

_GPU_HOUR: Final = COST_PER_GPU * 3_600


class Account(Struct, frozen=True):
    """One share as of one moment: ``(usage + charged_ahead) / weight`` is its score."""

    share: Share
    weight: int
    usage: float
    """Decayed, of all below it too."""
    held: int
    """The rate held now."""
    charged_ahead: int
    """What is held now, for as long as the policy charges ahead."""
    effective: float
    score: float


class Comparison(Struct, frozen=True):
    """Two siblings in the share tree, each with a share that was asked about at or below it."""

    parent: Share
    first: Account
    second: Account
    ahead: Account | None
    """Whose jobs go first, priorities being equal; None when the shares do not decide it."""
    sentence: str


def account_of(state: State, share: Share, now_us: int) -> Account:
    """The numbers of one share. O(1)."""
    queue = state.queue
    held = queue.rate(share.id)
    return Account(
        share=share,
        weight=queue.weight(share.id),
        usage=queue.usage(share.id, now_us),
        held=held,
        charged_ahead=held * state.policy.charge_ahead_s,
        effective=queue.effective(share.id, now_us),
        score=queue.score(share.id, now_us),
    )


def ranks(state: State, now_us: int) -> list[int]:
    """Each share's rank among its siblings by its id: 1 goes first; those of one score have one rank.

    The root, 0, has none. O(shares x log fan-out).
    """
    families: dict[int, list[tuple[float, int]]] = {}
    for share in state.shares[1:]:
        families.setdefault(share.parent, []).append((state.queue.score(share.id, now_us), share.id))
    found = [0] * len(state.shares)
    for family in families.values():
        family.sort()
        rank, last = 0, -1.0
        for place, (score, id) in enumerate(family, start=1):
            if score != last:
                rank, last = place, score
            found[id] = rank
    return found


def rank_of(state: State, share: Share, score: float, now_us: int) -> int:
    """The rank that a share has, or would have with this score: siblings before it, and one. O(shares)."""
    score_of = state.queue.score
    return 1 + sum(
        one.parent == share.parent and one is not share and score_of(one.id, now_us) < score
        for one in state.shares[1:]
    )


def compare(state: State, first: Share, second: Share, now_us: int) -> Comparison | None:
    """Why one share is ahead of the other; None when one is the other or stands above it. O(depth)."""
    ways = zip(_way(state, first), _way(state, second), strict=False)
    parting = next(((one, other) for one, other in ways if one is not other), None)
    if parting is None:
        return None
    one, other = (account_of(state, share, now_us) for share in parting)
    ahead = None
    if state.policy.order is Order.FAIR and one.score != other.score:
        ahead = one if one.score < other.score else other
    return Comparison(state.shares[one.share.parent], one, other, ahead, _sentence(state, one, other, ahead))


def _way(state: State, share: Share) -> list[Share]:
    """From below the root down to a share."""
    way = []
    while share.parent >= 0:
        way.append(share)
        share = state.shares[share.parent]
    way.reverse()
    return way


def _sentence(state: State, one: Account, other: Account, ahead: Account | None) -> str:
    if state.policy.order is Order.FIFO:
        return (
            f"{one.share.path} and {other.share.path} wait in one line: the policy orders jobs of one "
            "priority by when they came, whoever used how much"
        )
    if ahead is None:
        return (
            f"{one.share.path} and {other.share.path} have the same score, {_hours(one.score)}: of jobs "
            "of one priority the one that came first goes first"
        )
    behind = other if ahead is one else one
    return (
        f"{ahead.share.path} goes before {behind.share.path} with jobs of one priority: {_sum(ahead)}, "
        f"against {_sum(behind)}"
    )


def _sum(account: Account) -> str:
    """How a score comes about."""
    ahead = f" and {_hours(account.charged_ahead)} charged ahead" if account.charged_ahead else ""
    return (
        f"{_hours(account.usage)} GPU-hours used{ahead}, over a weight of {account.weight}, "
        f"make a score of {_hours(account.score)}"
    )


def _hours(amount: float) -> str:
    return f"{amount / _GPU_HOUR:.3f}"
