"""Ids: unique, growing, and what RFC 9562 says they are."""

from __future__ import annotations

import uuid

from horizon.service.clock import Ids, SystemClock


class ManualClock:
    def __init__(self, now_us: int) -> None:
        self.at_us = now_us

    def now_us(self) -> int:
        return self.at_us


def test_an_id_is_a_version_7_uuid_of_its_millisecond() -> None:
    clock = ManualClock(1_700_000_000_123_456)
    id = uuid.UUID(Ids(clock).new_text())
    assert (id.version, id.variant) == (7, uuid.RFC_4122)
    assert id.int >> 80 == 1_700_000_000_123
    assert len(Ids(clock).new()) == 16


def test_ids_grow_within_a_millisecond_past_the_counter_and_when_the_clock_steps_back() -> None:
    clock = ManualClock(1_700_000_000_000_000)
    ids = Ids(clock)
    made = [ids.new_text() for _ in range(10_000)]
    clock.at_us -= 3_600_000_000
    made += [ids.new_text() for _ in range(10_000)]
    clock.at_us += 7_200_000_000
    made.append(ids.new_text())
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_two_makers_do_not_make_the_same_ids() -> None:
    one, other = Ids(SystemClock()), Ids(SystemClock())
    assert not {one.new() for _ in range(1_000)} & {other.new() for _ in range(1_000)}
