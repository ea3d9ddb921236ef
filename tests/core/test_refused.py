"""A refused command of consequence is kept, once, and no loop of a client fills the log with them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.model import Inventory, Priority
from horizon.core.policy import Order, Policy
from horizon.core.refused import OF_CONSEQUENCE, kept
from tests.core.spec import World, given, job_id


def asked(world: World, command: cmd.Command, actor: str = "mallory") -> list[ev.Event]:
    """What the log says of a command that is refused."""
    world.when(command, actor)
    assert world.refused is not None
    events = kept(world.state, command, world.refused, actor)
    world.record(*events)
    return list(events)


def ended() -> World:
    """Job 1 has ended, job 2 runs."""
    return given().submit(gpu_count=4).cycle().started().ended().submit().cycle().started(2)


def test_a_refusal_says_who_wanted_what_of_what_and_why_not() -> None:
    world = ended()
    assert asked(world, cmd.Cancel(job_id(1), "I need them")) == [
        ev.CommandRefused(
            command="Cancel",
            target=f"job/{job_id(1)}",
            kind="conflict",
            detail="job 1 has already ended: Completed",
            by="mallory",
            reason="I need them",
        )
    ]
    world.check()


def test_the_same_is_kept_once_until_something_happens_to_it() -> None:
    world = ended()
    hold = cmd.Update(job_id(2), hold=True)
    assert len(asked(world, hold)) == 1
    assert asked(world, hold) == asked(world, hold) == []
    world.when(cmd.Checkpoint(job_id(2)))
    assert len(asked(world, hold)) == 1
    assert asked(world, hold) == []
    world.check()


def test_what_was_asked_is_in_the_log_and_another_wish_is_another_refusal() -> None:
    world = ended()
    asks: list[tuple[cmd.Command, dict[str, ev.Asked]]] = [
        (cmd.Update(job_id(1), hold=True), {"hold": True}),
        (cmd.Update(job_id(1), hold=False), {"hold": False}),
        (cmd.Update(job_id(1), priority=Priority.HIGH), {"priority": "High"}),
        (cmd.Update(job_id(1), priority=Priority.LOW), {"priority": "Low"}),
        (cmd.Update(job_id(1), time_limit_s=3_600), {"time_limit_s": 3_600}),
        (cmd.Update(job_id(1), time_limit_s=7_200, hold=True), {"time_limit_s": 7_200, "hold": True}),
        (cmd.RecordArchive(3, 4, "", "", "", "log.jsonl", ""), {"first": 3, "last": 4, "file": "log.jsonl"}),
    ]
    for command, what in asks:
        [event] = asked(world, command)
        assert isinstance(event, ev.CommandRefused)
        assert event.asked == what
        assert asked(world, command) == []
    assert [ev.decode(one.payload) for one in world.log] == [one.event for one in world.log]
    world.check()


def test_another_reason_for_the_same_wish_is_another_refusal() -> None:
    world = ended()
    for ask in (cmd.Requeue, cmd.Erase):
        assert len(asked(world, ask(job_id(1)))) == 1
        [event] = asked(world, ask(job_id(1), "be nice"))
        assert isinstance(event, ev.CommandRefused)
        assert event.reason == "be nice"
        assert asked(world, ask(job_id(1), "be nice")) == []
    stale = cmd.Update(job_id(2), hold=True, version=1)
    assert len(asked(world, stale)) == 1
    assert len(asked(world, replace(stale, reason="be nice"))) == 1
    world.check()


def test_who_varies_his_words_in_a_loop_takes_no_room_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSALS_BEGIN", limits.REFUSALS_ALIKE + 2)
    monkeypatch.setattr(limits, "EVENTS_A_REFUSAL", 1_000)
    world = ended()
    loop = [asked(world, cmd.Update(job_id(1), time_limit_s=number), "mallory") for number in range(1, 50)]
    assert [len(one) for one in loop] == [1] * limits.REFUSALS_ALIKE + [0] * (49 - limits.REFUSALS_ALIKE)
    assert len(asked(world, cmd.Cancel(job_id(1)), "mallory")) == 1
    assert len(asked(world, cmd.Update(job_id(1), time_limit_s=9), "ann")) == 1
    world.check()


def test_another_asker_command_or_kind_of_no_is_another_refusal() -> None:
    world = ended()
    assert len(asked(world, cmd.Cancel(job_id(1)), "ann")) == 1
    assert len(asked(world, cmd.Cancel(job_id(1)), "bob")) == 1
    assert len(asked(world, cmd.Requeue(job_id(1)), "ann")) == 1
    assert len(asked(world, cmd.Cancel(job_id(1), version=1), "ann")) == 1
    assert asked(world, cmd.Cancel(job_id(1), version=2), "ann") == []


@pytest.mark.parametrize(
    ("command", "actor"),
    [
        (cmd.Cancel(job_id(99)), "mallory"),  # there is no such thing
        (cmd.ResumeNode("node-9"), "mallory"),
        (cmd.Book("b", ("node-1",), 5, 1), "mallory"),  # malformed
        (cmd.Checkpoint(job_id(1)), "mallory"),  # overrides nobody
        (cmd.FailDevice("GPU-9"), "executor"),
        (cmd.SetPolicy(Policy(), version=7, amends=True), "mallory"),  # is made anew at once
    ],
)
def test_what_is_of_no_consequence_is_not_kept(command: cmd.Command, actor: str) -> None:
    assert asked(ended(), command, actor) == []


def test_a_stale_view_of_the_policy_is_kept() -> None:
    [event] = asked(ended(), cmd.SetPolicy(Policy(strict=True, order=Order.FIFO), version=7))
    assert isinstance(event, ev.CommandRefused)
    assert (event.target, event.kind) == ("policy", "stale")
    assert event.asked == {"order": "fifo", "strict": True}


def test_every_command_of_consequence_says_why_it_is_asked() -> None:
    for command in OF_CONSEQUENCE:
        assert "reason" in command.__struct_fields__, command


def test_no_field_that_is_kept_of_a_wish_is_one_that_could_hold_a_secret() -> None:
    kept_fields = {name for fields in OF_CONSEQUENCE.values() for name in fields}
    assert kept_fields & {"spec", "command", "script", "environment", "reason", "idempotency_key"} == set()
    for command, fields in OF_CONSEQUENCE.items():
        assert set(fields) <= set(command.__struct_fields__), command


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSALS_REMEMBERED", 3)
    world = ended()
    for actor in "abcd":
        assert len(asked(world, cmd.Cancel(job_id(1)), actor)) == 1
    assert [key[0] for key in world.state.refusals.seen] == ["b", "c", "d"]
    assert asked(world, cmd.Cancel(job_id(1)), "b") == []
    assert len(asked(world, cmd.Cancel(job_id(1)), "a")) == 1
    world.check()


def test_however_much_is_asked_refusals_stay_a_small_part_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSALS_BEGIN", 2)
    world = ended()
    at = []
    for number in range(100):
        if asked(world, cmd.Cancel(job_id(1)), f"mallory {number}"):
            at.append(world.state.position)
        world.when(cmd.RegisterNode(Inventory(f"n{number}", 1, 1)))
    assert len(at) > 10
    assert {later - before for before, later in pairwise(at[4:])} == {limits.EVENTS_A_REFUSAL}
