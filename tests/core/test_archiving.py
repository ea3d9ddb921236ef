"""What is on record as archived is a part of the log without gaps, from the first event on."""

from __future__ import annotations

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.audit import fault
from tests.core.spec import World, given


def archive(first: int, last: int) -> cmd.RecordArchive:
    return cmd.RecordArchive(first, last, "00", "11", "22", "log.jsonl", "33", "full disk")


@pytest.fixture
def world() -> World:
    """A log of six events, signed with two keys from its second and from its fourth on."""
    world = given().record(ev.SigningKeySet(key="old", by="scheduler")).submit(hold=True)
    return world.record(ev.SigningKeySet(key="new", by="scheduler")).submit(hold=True).submit(hold=True)


def test_an_archive_is_recorded_with_the_keys_that_had_signed_by_then(world: World) -> None:
    world.when(archive(1, 3)).then(
        ev.PartitionArchived(
            first=1, last=3, previous="00", tip="11", frontier="22", keys=("old",), file="log.jsonl",
            sha256="33", by="owner", reason="full disk",
        )
    ).check()  # fmt: skip
    world.when(archive(4, 5))
    assert [one.keys for one in world.happened if isinstance(one, ev.PartitionArchived)] == [("old", "new")]
    assert world.state.archived_to == 5


def test_what_is_on_record_may_be_archived_again(world: World) -> None:
    world.when(archive(1, 3)).when(archive(4, 5)).when(archive(1, 3)).check()
    archived = [one.event for one in world.log if isinstance(one.event, ev.PartitionArchived)]
    assert [one.last for one in archived] == [3, 5, 3]
    assert world.state.archived_to == 5


@pytest.mark.parametrize(("first", "last"), [(2, 3), (1, 6), (1, 7), (2, 1), (1, 0)])
def test_what_leaves_a_gap_or_is_not_over_is_refused(world: World, first: int, last: int) -> None:
    words = "the next file begins at 1" if first != 1 else "before the last event, which is 6"
    world.when(archive(first, last)).then_refused(words)


def test_the_audit_knows_which_archive_may_come_next(world: World) -> None:
    before = world.when(archive(1, 3)).refolded()
    recorded = world.when(archive(4, 5)).log[-1]
    before.epoch = recorded.epoch  # these worlds have no leader
    assert fault(before, recorded) is None
    before.archived_to = 2
    assert "behind 2" in str(fault(before, recorded))
