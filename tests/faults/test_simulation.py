"""Bad days under the checker: two thousand here, as many as one likes by ``tests.faults.simulation``."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from tests.faults.simulation import live

DAYS = 2_000
A_BATCH = 20


@cache
def lived(first: int) -> tuple[Counter[str], Counter[str]]:
    """Faults and outcomes of a batch of days."""
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + A_BATCH):
        day = live(seed)
        faults += day.weather.seen
        outcomes.update(one.outcome.value for one in day.tries)
    return faults, outcomes


@pytest.mark.parametrize("first", range(0, DAYS, A_BATCH))
def test_the_rules_hold_on_bad_days(first: int) -> None:
    lived(first)


def test_whatever_can_go_wrong_has_gone_wrong() -> None:
    """What never happens in them is not tested by them."""
    seen: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for first in range(0, 200, A_BATCH):
        faults, said = lived(first)
        seen, outcomes = seen + faults, outcomes + said
    assert set(outcomes) == {"acknowledged", "refused", "unknown"}
    assert set(seen) == {
        "another scheduler elected by force",
        "another scheduler stands by",
        "another scheduler waits for its turn",
        "append executed and reported failed",
        "append executed late, or never",
        "append lost",
        "append refused",
        "attempt lost",
        "checkpoint file not written",
        "checkpoint filed and reported failed",
        "clock set",
        "connection lost while idle",
        "election whose answer was lost",
        "launch failed",
        "lease waited for",
        "read refused",
        "report late",
        "report twice",
        "scheduler killed",
        "scheduler killed in recovery",
        "scheduler stopped and continued",
        "scheduler stopped cleanly",
        "slow",
        "snapshot of another log",
        "snapshot taken",
        "standby that followed to the end",
    }


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_same_seed_is_the_same_day(seed: int) -> None:
    once, again = live(seed), live(seed)
    assert [one.hash for one in once.database.log.events] == [one.hash for one in again.database.log.events]
    assert [(one.sent, one.outcome) for one in once.tries] == [(one.sent, one.outcome) for one in again.tries]
