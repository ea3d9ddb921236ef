"""What is different between two moments of a log, as sentences."""

from __future__ import annotations

import random

import pytest

from horizon.core import commands as cmd
from horizon.core.changes import FIELDS, Change, changes, picture
from horizon.core.evolve import evolve
from horizon.core.state import State
from tests.core.spec import World, given, node
from tests.core.test_random_worlds import known


def different(world: World, position: int) -> list[Change]:
    """From a position to now."""
    state = State()
    for recorded in world.log[:position]:
        evolve(state, recorded)
    return list(changes(picture(state, state.recorded_at_us), world.state, world.now_us))


def sentences(world: World, position: int) -> list[str]:
    return [change.sentence for change in different(world, position)]


def test_where_nothing_happened_nothing_is_different() -> None:
    world = given().submit(gpu_count=2).cycle()
    assert different(world, len(world.log)) == []


def test_a_job_that_came_and_one_that_started() -> None:
    world = given(node(gpus=2)).submit(job_name="train", gpu_count=1)
    before = len(world.log)
    world.cycle().started(1).submit("bob")
    told = {change.subject + change.name: change for change in different(world, before)}
    assert told["job1"].sentence == (
        "job 1 of alice (train): state from Queued to Running, attempt from 0 to 1, "
        "holds from none to node-1 (GPU-node-1-0)"
    )
    assert told["job1"].fields["state"] == ("Queued", "Running")
    assert told["job2"].sentence == "job 2 of bob is new: state Queued, priority Normal"
    assert told["job2"].change == "new"
    assert told["deviceGPU-node-1-0 on node-1"].fields == {"state": ("free", "held"), "job": (None, "1")}
    assert told["sharedefault"].fields == {"gpus_held": (0, 1)}
    assert told["sharedefault/bob (user)"].change == "new"


def test_a_task_of_an_array_is_named_as_people_do() -> None:
    from horizon.core.model import Array, IndexRange

    world = given().submit(array=Array((IndexRange(5, 6),), 0))
    before = len(world.log)
    world.cycle()
    assert [one.name for one in different(world, before) if one.subject == "job"] == ["1", "1_5", "1_6"]


def test_what_operators_change() -> None:
    world = given(node(gpus=1)).submit(gpu_count=1, account="research")
    before = len(world.log)
    world.policy(order="fifo", gpu_cost={"H100": 2_000})
    world.when(cmd.SetShare("research", 3, user=False, max_gpus=4, guaranteed_gpus=2))
    world.when(cmd.CordonNode("node-1", "fans"))
    world.when(cmd.FailDevice("GPU-node-1-0", "Xid 79"))
    world.when(cmd.Book("b-1", ("node-1",), world.now_us + 10_000_000, world.now_us + 20_000_000, "fans"))
    world.when(cmd.Update(world.job(1).id, time_limit_s=60, hold=True))
    assert sentences(world, before) == [
        "policy: version from 0 to 1, order from fair to fifo, gpu cost from none to H100 2000",
        "share research: weight from 1 to 3, max gpus from none to 4, guaranteed gpus from 0 to 2",
        "node node-1: state from up to cordoned, reason from none to fans",
        "device GPU-node-1-0 on node-1: state from free to failed, reason from none to Xid 79",
        "booking b-1 is new: nodes node-1, start 2023-11-14T22:13:30+00:00, end 2023-11-14T22:13:40+00:00",
        "job 1 of alice: time limit s from none to 60, held from no to yes",
    ]
    booked = len(world.log)
    world.when(cmd.EndBooking("b-1"))
    assert sentences(world, booked) == ["booking b-1 is gone"]


@pytest.mark.parametrize("seed", range(6))
def test_in_random_lives_every_job_that_an_event_moved_is_named(seed: int) -> None:
    """And none that no event speaks of: that which is not in the picture did not change."""
    life, rng = known(seed), random.Random(seed)
    first = rng.randrange(1, len(life.world.log))
    state = State()
    for recorded in life.world.log[:first]:
        evolve(state, recorded)
    before = {job.number: (job.state, job.allocation_state, job.attempt) for job in state.numbered}
    told = list(changes(picture(state, state.recorded_at_us), life.world.state, life.world.now_us))
    named = {change.name for change in told if change.subject == "job"}
    for job in life.world.state.numbered:
        moved = before.get(job.number) != (job.state, job.allocation_state, job.attempt)
        happened = bool(job.positions) and job.positions[-1] > first
        assert not moved or job.name in named, f"seed {seed}: job {job.name}"
        if not job.spec.array or job.array:  # the state of an array follows from what becomes of its tasks
            assert happened or job.name not in named, f"seed {seed}: job {job.name}"
    assert {change.subject for change in told} <= FIELDS.keys()
