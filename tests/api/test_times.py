"""Moments on the wire, against the standard library's."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from horizon.api.times import LAST_US, rfc3339, rfc3339_or_null

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("us", [0, 1, 999, 1_000, 999_999, 1_000_000, 1_769_868_309_000_250, LAST_US])
def test_a_moment_has_all_its_microseconds(us: int) -> None:
    assert rfc3339(us) == written_by_the_library(us)


def test_any_moment() -> None:
    chance = random.Random(1)
    moments = [chance.randint(0, LAST_US) for _ in range(1_000)]
    assert [rfc3339(us) for us in moments] == [written_by_the_library(us) for us in moments]


def test_a_moment_that_has_not_come_is_null() -> None:
    assert rfc3339_or_null(0) is None
    assert rfc3339_or_null(1) == "1970-01-01T00:00:00.000001Z"


def written_by_the_library(us: int) -> str:
    moment = EPOCH + timedelta(microseconds=us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
