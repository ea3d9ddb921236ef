"""Recorded cycles run again: what was decided otherwise is named, with both decisions in words."""

from __future__ import annotations

import random

import msgspec
import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.evolve import evolve
from horizon.core.rerun import NOTHING, Difference, Rerun
from horizon.core.state import State
from tests.core.spec import SECOND, World, given, node
from tests.core.test_random_worlds import known

Log = list[ev.Recorded]


def rerun(log: Log, decisions: int = 1) -> tuple[Rerun, list[Difference]]:
    again, state, found = Rerun(decisions), State(), list[Difference]()
    for recorded in log:
        found += again.see(state, recorded)
        evolve(state, recorded)
    return again, found + again.end(state)


def forged(log: Log, at: int, **fields: object) -> Log:
    """The log with other fields in the event at this place."""
    event = msgspec.structs.replace(log[at].event, **fields)
    return [*log[:at], msgspec.structs.replace(log[at], event=event), *log[at + 1 :]]


def without(log: Log, at: int) -> Log:
    moved = [msgspec.structs.replace(one, position=one.position - 1) for one in log[at + 1 :]]
    return [*log[:at], *moved]


def elected(version: str, decisions: int) -> ev.LeaderElected:
    return ev.LeaderElected(
        epoch=1, host="here", pid=1, version=version, config_digest="", decisions=decisions
    )


@pytest.fixture
def world() -> World:
    """Two jobs start in the first cycle and a third, which waits, is planned for; then the first ends."""
    world = given(node(gpus=8))
    for gpus in (2, 2, 8):
        world.submit(gpu_count=gpus, time_limit_s=600)
    world.cycle().started(1).started(2).later(60).ended(1).later(1)
    return world.ended(2).cycle()


def test_what_was_decided_by_this_code_is_decided_again(world: World) -> None:
    again, found = rerun(world.log)
    assert found == []
    assert (again.cycles, again.events, again.others) == (2, 4, {})


def test_another_placement_is_named_with_both_decisions_in_words(world: World) -> None:
    (at, *_) = [at for at, one in enumerate(world.log) if isinstance(one.event, ev.JobScheduled)]
    event = world.log[at].event
    assert isinstance(event, ev.JobScheduled)
    last_two = ("GPU-node-1-6", "GPU-node-1-7")
    other = msgspec.structs.replace(event.allocation[0], gpu_ids=last_two)
    told = "alice's job 1 was given 2 GPUs on node-1: its turn had come"
    again, found = rerun(forged(world.log, at, allocation=(other,)))
    assert found[0] == Difference(
        1,
        world.log[at].position,
        told,
        told,
        {"allocation": ((other,), event.allocation)},
        "",
    )
    assert again.differing == len(found) == 1, "what follows in the cycle hangs on it"


def test_a_decision_that_was_taken_out_is_missed_where_it_should_stand(world: World) -> None:
    places = [at for at, one in enumerate(world.log) if getattr(one.event, "cycle", 0) == 1]
    _, (found,) = rerun(without(world.log, places[-1])[: places[-1] + 1])
    assert (found.cycle, found.position) == (1, world.log[places[-1]].position)
    assert found.recorded == NOTHING
    assert found.decided.startswith("alice's job 3 was planned for node-1 from ")
    _, (at_the_end,) = rerun(world.log[: places[-1]])
    assert at_the_end == found


def test_a_decision_too_many_is_named(world: World) -> None:
    cycle = [at for at, one in enumerate(world.log) if getattr(one.event, "cycle", 0) == 2]
    world.record(
        ev.AllocationOverdue(
            job_id=world.job(3).id, attempt=1, until_us=world.now_us, cycle=2, now_us=world.now_us
        )
    )
    _, (found,) = rerun(world.log)
    assert (found.cycle, found.position) == (2, world.log[cycle[-1]].position + 1)
    assert found.recorded.startswith("what alice's job 3 holds should have been free by now")
    assert found.decided == NOTHING


def test_a_cycle_was_decided_between_what_was_recorded_before_it_and_itself(world: World) -> None:
    places = [at for at, one in enumerate(world.log) if getattr(one.event, "cycle", 0) == 2]
    for late_us in (SECOND, -10_000 * SECOND):
        log = world.log
        for at in places:
            log = forged(log, at, now_us=world.now_us + late_us)
        _, (found,) = rerun(log)
        assert (found.cycle, found.position) == (2, log[places[0]].position)
        assert found.recorded.startswith("as of ")
        assert found.decided.startswith("between ")


def test_what_other_code_decided_is_counted_and_not_run_again() -> None:
    world = World()
    world.record(elected("0.1", decisions=1)).when(cmd.RegisterNode(node(gpus=2)))
    world.submit().cycle()
    world.record(elected("0.2", decisions=2)).submit().cycle()
    world.record(elected("0.3", decisions=1)).submit().cycle()
    again, found = rerun(world.log, decisions=1)
    assert (again.cycles, again.others, found) == (2, {2: 1}, [])
    again, found = rerun(world.log, decisions=2)
    assert (again.cycles, again.others, found) == (1, {1: 2}, [])
    (*_, at) = [at for at, one in enumerate(world.log) if isinstance(one.event, ev.JobReserved)]
    was = world.log[at].event
    assert isinstance(was, ev.JobReserved)
    tampered = forged(world.log, at, start_us=1)
    assert rerun(tampered, decisions=2)[1] == []
    (difference,) = rerun(tampered, decisions=1)[1]
    assert (difference.version, difference.fields) == ("0.3", {"start_us": (1, was.start_us)})


@pytest.mark.parametrize("seed", range(6))
def test_the_least_change_of_a_decision_in_a_random_life_is_found(seed: int) -> None:
    log, rng = known(seed).world.log, random.Random(seed)
    starts = [at for at, one in enumerate(log) if isinstance(one.event, ev.JobScheduled)]
    for at in rng.sample(starts, min(3, len(starts))):
        event = log[at].event
        assert isinstance(event, ev.JobScheduled)
        again, (found,) = rerun(forged(log, at, score=event.score + 1e-9))
        assert (found.position, list(found.fields)) == (log[at].position, ["score"]), f"seed {seed}"
        assert again.cycles > len(starts) // 10
