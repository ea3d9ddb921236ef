"""A state comes back from a snapshot bit for bit, and jobs at rest stay encoded until somebody asks."""

from __future__ import annotations

import msgspec
import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.at_rest import DECODED_MAX, Numbered, entries
from horizon.core.model import Array, Dependency, DependencyKind, IndexRange, JobState
from horizon.core.snapshot import Parts, dump
from horizon.core.state import State, digest
from tests.core.snapshots import assert_same, loaded, reloaded
from tests.core.spec import World, given, job_id, node


def at_rest(state: State) -> list[int]:
    """The numbers of the jobs that are kept encoded."""
    assert isinstance(state.numbered, Numbered)
    return [entry for entry in entries(state.numbered) if isinstance(entry, int)]


def go_on_from_a_snapshot(world: World) -> State:
    world.state = reloaded(world.state)
    return world.state


@pytest.fixture
def world() -> World:
    """Three jobs: one completed, one that runs, one that waits."""
    world = given(node(gpus=2))
    world.submit(gpu_count=2).cycle().started(1).ended(1).submit("bob", gpu_count=2, labels={"team": "nlp"})
    return world.cycle().started(2).submit("carol", gpu_count=2).cycle()


def test_an_empty_state_comes_back() -> None:
    assert at_rest(reloaded(State())) == []


def test_only_what_has_ended_and_holds_nothing_stays_encoded(world: World) -> None:
    assert at_rest(go_on_from_a_snapshot(world)) == [1]
    world.ended(2, released=False)
    assert at_rest(go_on_from_a_snapshot(world)) == [1], "its processes are not known to be gone"


def test_jobs_at_rest_are_found_by_number_and_by_id(world: World) -> None:
    live, state = world.state, reloaded(world.state)
    first = live.numbered[0]
    assert state.numbered[0] == state.numbered[-3] == state.job_numbered(1) == first
    assert state.jobs[first.id] == state.jobs.get(first.id) == first
    assert first.id in state.jobs
    assert state.stream_version(f"job/{first.id}") == first.version
    assert list(state.jobs) == list(live.jobs)
    assert list(state.jobs.items()) == list(live.jobs.items())
    assert len(state.jobs) == len(live.jobs)


def test_what_is_not_there_is_not_found(world: World) -> None:
    jobs = reloaded(world.state).jobs
    assert job_id(4) not in jobs
    assert jobs.get(job_id(4)) is None
    with pytest.raises(KeyError):
        jobs[job_id(4)]


def test_lists_of_jobs_decode_nothing_until_they_are_looked_at(world: World) -> None:
    live, state = world.state.numbered, reloaded(world.state).numbered
    some = state[:0]
    some += state[:2]
    some += live[2:]
    assert [type(entry) for entry in entries(some)] == [int, type(live[0]), type(live[0])]
    assert list(some) == live
    assert list(reversed(some)) == list(reversed(live))


def test_a_snapshot_goes_on_from_the_records_of_the_one_before(world: World) -> None:
    state = go_on_from_a_snapshot(world)
    before = state.numbered.at_rest.records  # type: ignore[attr-defined]
    world.ended(2).cycle()
    parts = dump(state)
    assert parts.before is before
    assert parts.records
    again = loaded(parts)
    assert_same(state, again)
    assert at_rest(again) == [1, 2]


def test_what_waited_in_vain_is_still_told_of_what_becomes_of_others(world: World) -> None:
    world.submit(depends_on=(Dependency(job_id(2), DependencyKind.AFTER_OK),), gpu_count=2)
    world.when(cmd.Cancel(job_id(4)))
    state = go_on_from_a_snapshot(world)
    assert 4 not in at_rest(state)
    world.ended(2)
    assert state.numbered[3].unmet == 0


def test_tasks_at_rest_ask_for_what_their_array_does() -> None:
    world = given(node(gpus=2)).submit(array=Array((IndexRange(0, 5),)), job_name="sweep").cycle()
    world.started(2).ended(2).started(3).ended(3).cycle()
    live = world.state
    state = go_on_from_a_snapshot(world)
    assert at_rest(state) == [2, 3]
    array = state.arrays[1]
    assert state.tasks(array)[0] == live.numbered[1]
    assert state.numbered[1].spec is array.job.spec
    for number in (4, 5):
        world.started(number).ended(number)
    world.cycle()
    assert state.numbered[5].state is JobState.SCHEDULED


def test_no_more_are_kept_decoded_than_are_asked_for_lately(world: World) -> None:
    state = loaded(dump(world.state))
    at = state.numbered.at_rest  # type: ignore[attr-defined]
    at._decoded.update({-number: state.numbered[1] for number in range(DECODED_MAX)})
    assert state.numbered[0] == world.state.numbered[0]
    assert len(at._decoded) == 1


def test_the_same_happens_after_a_snapshot_as_without(world: World) -> None:
    twin = World()
    twin.state, twin.head, twin.now_us = reloaded(world.state), world.head, world.now_us
    for one in (world, twin):
        one.later(30).ended(2).cycle().started(3).submit("dan").cycle().later(60).ended(3).cycle()
    assert world.log[-9:] == twin.log[-9:]
    assert isinstance(world.log[-1].event, ev.JobScheduled)
    assert digest(world.state) == digest(twin.state)


def test_what_no_state_gives_is_refused(world: World) -> None:
    parts = dump(world.state)
    with pytest.raises(msgspec.MsgspecError):
        loaded(msgspec.structs.replace(parts, contents=parts.contents[:-1]))
    with pytest.raises(msgspec.MsgspecError):
        loaded(Parts(b"\x90", parts.columns, None, b""))
