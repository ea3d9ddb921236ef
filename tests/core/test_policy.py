"""The policy: data with a history, and every cycle says under which version it decided."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Refusal
from horizon.core.model import Dependency, Exit, Priority
from horizon.core.policy import Order, Policy
from horizon.core.schedule import schedule
from tests.core.spec import BAD, SECOND, World, given, job_id, node

# --- setting it ---------------------------------------------------------------------------------------


def test_before_anything_was_set_the_defaults_hold_as_version_zero() -> None:
    world = given().submit().cycle()
    assert world.state.policy == Policy()
    [scheduled] = world.happened
    assert isinstance(scheduled, ev.JobScheduled)
    assert scheduled.policy_version == 0
    world.check()


def test_each_policy_that_is_set_is_the_next_version_in_full() -> None:
    world = given().policy(strict=True).then(ev.PolicySet(version=1, policy=Policy(strict=True), by="owner"))
    world.when(cmd.SetPolicy(Policy(half_life_s=60)), actor="ann")
    world.then(ev.PolicySet(version=2, policy=Policy(half_life_s=60), by="ann"))
    assert (world.state.policy.strict, world.state.policy_version) == (False, 2)
    world.check()


def test_every_choice_is_in_the_record_though_it_is_the_default() -> None:
    world = given().policy()
    recorded = msgspec.json.decode(world.log[-1].payload)["policy"]
    assert recorded.keys() == set(Policy.__struct_fields__)
    world.check()


def test_the_policy_that_holds_already_is_no_event() -> None:
    world = given().policy().then(ev.PolicySet)
    world.policy().then_nothing()
    world.policy(strict=True).then(ev.PolicySet).policy(strict=True).then_nothing()
    world.check()


def test_a_policy_for_another_version_is_refused() -> None:
    world = given().policy(strict=True).when(cmd.SetPolicy(Policy(), version=0))
    world.then_refused("is at version 1, not 0")
    assert world.refused is not None
    assert world.refused.kind is Refusal.STALE
    world.when(cmd.SetPolicy(Policy(), version=1)).then(ev.PolicySet)
    world.check()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("reservation_depth", -2, "must be -1 to 100000"),
        ("examined_max", 0, "must be 1 to"),
        ("assumed_time_limit_s", 0, "must be 1 to"),
        ("half_life_s", 0, "must be 1 to"),
        ("charge_ahead_s", -1, "must be 0 to"),
        ("cores_per_gpu", 0, "must be 1 to"),
        ("memory_gb_per_gpu", 0, "must be 1 to"),
        ("min_runtime_s", -1, "must be 0 to"),
        ("preemption_searches_max", 1_001, "must be 0 to 1000, not 1001"),
        ("retry_backoff_s", -1, "must be 0 to"),
        ("retry_backoff_max_s", 10**9, "must be 0 to"),
        ("gpu_cost", {"H100": 0}, "of H100 must be 1 to"),
        ("gpu_cost", {"H100": 10**9}, "of H100 must be 1 to"),
        ("gpu_cost", {"h100": 1, "H100": 2}, "names a type twice"),
        ("gpu_cost", {f"type-{number}": 1 for number in range(1_001)}, "there may be 1000"),
        ("topology_labels", ("a", "b", "c", "d", "e"), "there may be 4"),
    ],
)
def test_a_policy_that_may_not_be_is_refused_with_the_field_that_is_wrong(
    field: str, value: Any, words: str
) -> None:
    world = given().policy(**{field: value}).then_refused(field, words)
    assert world.refused is not None
    assert world.refused.pointer == f"/{field}"
    assert world.state.policy_version == 0
    world.check()


@pytest.mark.parametrize("field", Policy.__struct_fields__)
def test_every_default_is_within_its_own_bounds(field: str) -> None:
    assert field not in dict(Policy().faults())


def test_all_that_is_wrong_with_a_policy_can_be_told_at_once() -> None:
    faults = list(Policy(half_life_s=0, examined_max=0, gpu_cost={"A": 0}).faults())
    assert [field for field, _ in faults] == ["examined_max", "half_life_s", "gpu_cost"]


# --- the order of jobs --------------------------------------------------------------------------------


def test_with_fifo_whoever_came_first_goes_first_whatever_he_used() -> None:
    world = given(node(gpus=3)).policy(order=Order.FIFO)
    world.submit("ann").submit("ann").submit("ann").submit("bob")
    assert world.cycle().starts() == [1, 2, 3]
    world.check()


def test_with_fifo_priority_still_goes_first() -> None:
    world = given(node(gpus=1)).policy(order=Order.FIFO).submit().submit(priority=Priority.HIGH)
    assert world.cycle().starts() == [2]
    world.check()


def test_with_fifo_a_blocked_job_may_still_be_passed_by_what_does_not_delay_it() -> None:
    world = given().policy(order=Order.FIFO).submit(gpu_count=6, time_limit_s=600).cycle().started()
    world.submit("a", gpu_count=8).submit("a", time_limit_s=600).submit("a", time_limit_s=900)
    assert world.cycle().starts() == [3]
    world.check()


def test_the_order_may_be_changed_while_jobs_wait() -> None:
    world = given(node(gpus=1)).submit("ann").cycle().started().later(60).ended()
    world.submit("ann").submit("bob").policy(order=Order.FIFO)
    assert [job.number for job in world.state.numbered][1:] == [2, 3]
    assert schedule(world.state, world.now_us).events[0].stream == f"job/{job_id(2)}"
    world.policy(order=Order.FAIR)
    assert world.cycle().starts() == [3]
    world.check()


# --- what a cycle says --------------------------------------------------------------------------------


def eventful() -> World:
    """A world in which, a minute from its moment, a cycle has something of every kind to decide."""
    world = given(node("a", 6), node("b", 4), node("c", 2), node("d", 2)).policy(min_runtime_s=0)
    now_us = world.now_us
    world.submit(gpu_count=6, preemptible=True).cycle().started(1)  # on a: makes way
    world.submit(gpu_count=4, time_limit_s=60).cycle().started(2)  # on b: uses up its time
    world.submit(gpu_count=2).cycle().started(3)  # on c: is drained
    world.submit(hold=True).when(cmd.Cancel(job_id(4)))
    world.submit(hold=True)
    world.submit(depends_on=(Dependency(job_id(5)),))  # fails once 5 is cancelled
    world.submit(begin_at_us=now_us + 60 * SECOND)
    world.when(cmd.CordonNode("c", drain=True, deadline_us=now_us + 60 * SECOND))
    world.when(cmd.Book("b1", ("c",), now_us, now_us + 60 * SECOND))
    world.later(60).when(cmd.Cancel(job_id(5)))
    world.submit("bob", gpu_count=6, priority=Priority.HIGH)
    return world.submit("cyd").submit("dan", gpu_count=4)


def test_every_event_of_a_cycle_says_its_number_its_moment_and_the_version_of_the_policy() -> None:
    world = eventful()
    before = world.state.cycle
    world.cycle()
    assert {type(event) for event in world.happened} == {
        ev.JobReleased,
        ev.TimeLimitReached,
        ev.RequeueRequested,
        ev.BookingEnded,
        ev.JobFailed,
        ev.PreemptionRequested,
        ev.JobScheduled,
        ev.JobReserved,
    }
    for event in world.happened:
        mark: Any = event
        assert (mark.cycle, mark.now_us, mark.policy_version) == (before + 1, world.now_us, 1), event
    assert world.state.cycle == before + 1
    world.check()


def test_a_cycle_can_be_run_again_from_what_its_events_say() -> None:
    world = eventful()
    earlier = world.refolded()
    world.cycle()
    first: Any = world.happened[0]
    assert schedule(earlier, first.now_us).events == world.happened
    world.check()


def test_a_cycle_that_decides_nothing_has_no_number() -> None:
    world = given().submit().cycle().cycle().then_nothing().submit().cycle()
    [scheduled] = world.happened
    assert isinstance(scheduled, ev.JobScheduled)
    assert scheduled.cycle == 2
    world.check()


def test_the_version_that_a_cycle_names_is_the_one_that_held_then() -> None:
    world = given().policy(strict=True).submit().cycle().policy(strict=False).submit().cycle()
    versions = [r.event.policy_version for r in world.log if isinstance(r.event, ev.JobScheduled)]
    assert versions == [1, 2]
    world.check()


def test_what_people_decide_is_marked_with_no_cycle() -> None:
    world = given().submit(hold=True).when(cmd.Update(job_id(1), hold=False))
    world.then(ev.JobReleased(job_id=job_id(1), cycle=0, now_us=0))
    world.cycle().started().ended(exit=BAD)
    failed: Any = world.happened[0]
    assert (type(failed), failed.cycle) == (ev.JobFailed, 0)
    world.check()


# --- what it rules ------------------------------------------------------------------------------------


def test_a_policy_holds_from_the_next_cycle_on_and_touches_nothing_that_runs() -> None:
    world = given().submit(max_retries=1).cycle().started().policy(retry_backoff_s=100)
    world.then(ev.PolicySet).cycle().then_nothing()
    world.ended(exit=Exit(exit_code=1))
    assert world.job().begin_at_us == world.now_us + 100 * SECOND
    world.check()


def test_another_assumed_time_limit_holds_for_what_is_planned_from_then_on() -> None:
    world = given().submit(gpu_count=8).cycle().started().policy(assumed_time_limit_s=60)
    world.submit("bob", gpu_count=8, time_limit_s=60).submit("bob", gpu_count=8).submit("bob").cycle()
    starts = [one.start_us - world.now_us for one in world.last_cycle.reservations[:2]]
    assert starts[1] - starts[0] == 60 * SECOND
    world.check()


def test_plans_go_by_the_assumed_time_limit_of_the_policy_that_holds() -> None:
    world = given(node(gpus=4)).submit(gpu_count=4).cycle().started().policy(assumed_time_limit_s=600)
    world.submit("bob", gpu_count=4).cycle()
    [reservation] = world.last_cycle.reservations
    assert reservation.start_us == world.job(1).started_at_us + 600 * SECOND
