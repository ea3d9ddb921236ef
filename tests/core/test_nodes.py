"""What happens to nodes and devices: closed, emptied, failed, booked, and given back."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import EXECUTOR, Exit, JobState
from horizon.core.state import Fault
from tests.core.spec import BAD, SECOND, World, given, job_id, node

TERMINATED = Exit(signal=15)


def where(world: World) -> str:
    [placement] = world.placements()
    return placement.node


def used(world: World) -> list[str]:
    """The devices that the one job just placed got."""
    return [gpu_id for placement in world.placements() for gpu_id in placement.gpu_ids]


# --- cordon -------------------------------------------------------------------------------------------


def test_a_cordoned_node_takes_no_new_work_and_what_runs_there_goes_on() -> None:
    world = given(node("a", 1), node("b", 8)).submit().cycle().started()
    world.when(cmd.CordonNode("a", "noisy fan")).then(
        ev.NodeCordoned(node="a", by="owner", reason="noisy fan")
    )
    world.is_(JobState.RUNNING).submit().cycle()
    assert where(world) == "b"
    world.ended().submit().cycle()
    assert where(world) == "b"
    world.check()


def test_a_resumed_node_takes_work_again() -> None:
    world = given().when(cmd.CordonNode("node-1")).submit().cycle().then_nothing()
    world.when(cmd.ResumeNode("node-1")).then(ev.NodeResumed(node="node-1", by="owner"))
    assert world.cycle().starts() == [1]
    world.check()


def test_what_changes_nothing_about_a_node_is_no_event() -> None:
    world = given().when(cmd.ResumeNode("node-1")).then_nothing()
    world.when(cmd.CordonNode("node-1", "x")).then(ev.NodeCordoned)
    world.when(cmd.CordonNode("node-1", "x")).then_nothing()
    world.when(cmd.CordonNode("node-1", "y")).then(ev.NodeCordoned)
    world.when(cmd.CordonNode("nobody")).then_refused("there is no node 'nobody'")
    world.when(cmd.ResumeNode("nobody")).then_refused("there is no node 'nobody'")
    world.check()


def test_a_cordon_outlasts_the_node_going_and_coming_back() -> None:
    world = given().when(cmd.CordonNode("node-1")).when(cmd.LoseNode("node-1", "reboot"))
    world.when(cmd.RegisterNode(node())).then(ev.NodeRegistered).submit().cycle().then_nothing()
    world.when(cmd.ResumeNode("node-1"))
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_that_only_closed_nodes_could_hold_waits_and_says_so_and_holds_nobody_up() -> None:
    world = given(node("a", 8), node("b", 2)).when(cmd.CordonNode("a")).submit(gpu_count=8).submit("bob")
    assert world.cycle().starts() == [2]
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job()) == (
        "waits for 8 GPUs: the nodes that could hold it take no work now"
    )
    world.check()


def test_a_gang_does_not_use_a_cordoned_node() -> None:
    world = given(node("a", 4), node("b", 4), node("c", 4)).when(cmd.CordonNode("b"))
    world.submit(gpu_count=8, nodes=2).cycle()
    assert [one.node for one in world.placements()] == ["a", "c"]
    world.check()


# --- drain --------------------------------------------------------------------------------------------


def test_a_drain_without_a_deadline_lets_everything_run_to_its_end() -> None:
    world = given().submit().cycle().started().when(cmd.CordonNode("node-1", drain=True))
    world.later(80_000).cycle().then_nothing().is_(JobState.RUNNING)
    world.ended().then(ev.JobCompleted, ev.AllocationReleased)
    world.submit().cycle().then_nothing()
    world.check()


def test_at_the_deadline_of_a_drain_what_still_runs_goes_back_to_the_queue() -> None:
    world = given(node("a", 2), node("b", 2), node("c", 2)).submit().submit(gpu_count=2)
    world.cycle().started(1).started(2)
    deadline_us = world.now_us + 600 * SECOND
    world.when(cmd.CordonNode("a", "new kernel", drain=True, deadline_us=deadline_us))
    world.later(599).cycle().then_nothing()
    assert world.state.next_deadline_us() == deadline_us
    world.later(1).cycle().then(
        ev.RequeueRequested(job_id=job_id(1), attempt=1, by="drain of node a", cycle=2, now_us=world.now_us)
    )
    assert world.state.next_deadline_us() != deadline_us
    world.later(30).cycle().then_nothing()
    world.ended(1, exit=TERMINATED).then(ev.JobRequeued, ev.AllocationReleased)
    assert world.job().reason == "requeued by drain of node a"
    assert (world.job().retries_used, world.job().avoid) == (0, ())
    world.cycle()
    assert where(world) == "c"
    world.check()


def test_a_gang_on_a_node_to_be_emptied_is_asked_to_stop_once() -> None:
    world = given(node("a", 4), node("b", 4)).submit(gpu_count=8).cycle().started()
    for name in "ab":
        world.when(cmd.CordonNode(name, drain=True, deadline_us=world.now_us + SECOND))
    world.later(1).cycle().then(ev.RequeueRequested)
    world.check()


def test_a_job_that_was_placed_and_has_not_started_is_asked_to_stop_as_well() -> None:
    world = given().submit().cycle()
    world.when(cmd.CordonNode("node-1", drain=True, deadline_us=world.now_us + SECOND))
    world.later(1).cycle().then(ev.RequeueRequested)
    world.ended(exit=Exit(error="stopped"), started=False)
    world.is_(JobState.QUEUED)
    world.check()


def test_a_deadline_that_has_passed_already_empties_the_node_in_the_next_cycle() -> None:
    world = given().submit().cycle().started()
    world.when(cmd.CordonNode("node-1", drain=True, deadline_us=world.now_us - SECOND))
    world.cycle().then(ev.RequeueRequested)
    world.check()


def test_a_drain_may_be_given_another_deadline_or_none() -> None:
    world = given().submit().cycle().started()
    world.when(cmd.CordonNode("node-1", drain=True, deadline_us=world.now_us + 10 * SECOND))
    world.when(cmd.CordonNode("node-1", drain=True)).then(ev.NodeCordoned)
    world.later(20).cycle().then_nothing()
    assert world.state.drains == {}
    world.check()


def test_a_node_that_is_resumed_is_not_emptied_any_more() -> None:
    world = given().submit().cycle().started()
    world.when(cmd.CordonNode("node-1", drain=True, deadline_us=world.now_us + 10 * SECOND))
    world.when(cmd.ResumeNode("node-1")).later(20).cycle().then_nothing()
    world.is_(JobState.RUNNING)
    world.check()


def test_only_a_drain_has_a_deadline() -> None:
    world = given().when(cmd.CordonNode("node-1", deadline_us=5)).then_refused("only a drain has a deadline")
    world.check()


# --- devices ------------------------------------------------------------------------------------------


def test_a_failed_device_is_given_to_nobody_and_the_others_of_its_node_are() -> None:
    world = given(node(gpus=2)).when(cmd.FailDevice("GPU-node-1-0", "uncorrectable memory error"))
    world.then(
        ev.DeviceFailed(node="node-1", device="GPU-node-1-0", by="owner", reason="uncorrectable memory error")
    )
    world.submit().submit().cycle()
    assert used(world) == ["GPU-node-1-1"]
    world.cycle().then_no_start()
    world.check()


def test_a_device_that_has_recovered_is_given_out_again() -> None:
    world = given(node(gpus=1)).when(cmd.FailDevice("GPU-node-1-0")).submit().cycle().then_nothing()
    world.when(cmd.RecoverDevice("GPU-node-1-0")).then(ev.DeviceRecovered)
    assert world.cycle().starts() == [1]
    world.check()


def test_who_has_a_device_that_fails_keeps_it_until_it_ends_and_then_nobody_gets_it() -> None:
    world = given(node(gpus=2)).submit().cycle().started().when(cmd.FailDevice("GPU-node-1-0"))
    world.cycle().then_nothing().is_(JobState.RUNNING)
    world.ended().is_(JobState.COMPLETED).submit().submit().cycle()
    assert used(world) == ["GPU-node-1-1"]
    world.check()


def test_a_job_that_dies_on_a_failed_gpu_goes_back_without_spending_a_retry() -> None:
    world = given(node(gpus=4)).submit(gpu_count=2).cycle().started()
    world.when(cmd.FailDevice("GPU-node-1-1", "fell off the bus")).ended(exit=BAD)
    world.then(
        ev.JobRequeued(
            job_id=job_id(1),
            cause=ev.RequeueCause.DEVICE,
            reason="a GPU that it held has failed: exit code 3",
            exit=BAD,
        ),
        ev.AllocationReleased,
    )
    assert world.job().retries_used == 0
    world.cycle()
    assert used(world) == ["GPU-node-1-0", "GPU-node-1-2"]
    world.check()


def test_a_gang_that_dies_because_of_one_gpu_goes_back_as_a_whole() -> None:
    world = given(*(node(name, 4) for name in "abc")).submit(gpu_count=8, nodes=2).cycle().started()
    world.when(cmd.FailDevice("GPU-b-3")).ended(exit=BAD, rank=0)
    world.then(ev.JobRequeued, ev.AllocationReleased).cycle()
    assert [one.node for one in world.placements()] == ["a", "c"]
    world.check()


def test_a_job_that_dies_by_itself_beside_a_failed_gpu_has_failed() -> None:
    world = given(node(gpus=4)).submit().cycle().started().when(cmd.FailDevice("GPU-node-1-3"))
    world.ended(exit=BAD).is_(JobState.FAILED)
    world.check()


def test_a_job_that_ends_well_on_a_failed_gpu_has_completed() -> None:
    world = given().submit().cycle().started().when(cmd.FailDevice("GPU-node-1-0")).ended()
    world.is_(JobState.COMPLETED)
    world.check()


def test_a_job_that_dies_on_failed_gpus_again_and_again_is_the_culprit_in_the_end() -> None:
    world = given().policy(retry_backoff_s=0).submit()
    for index in range(5):
        world.cycle().started().when(cmd.FailDevice(f"GPU-node-1-{index}")).ended(exit=BAD)
        world.is_(JobState.QUEUED)
    world.cycle().started().when(cmd.FailDevice("GPU-node-1-5")).ended(exit=BAD).is_(JobState.FAILED)
    world.check()


def test_a_failure_outlasts_the_node_going_and_coming_back() -> None:
    world = given(node(gpus=1)).when(cmd.FailDevice("GPU-node-1-0")).when(cmd.LoseNode("node-1", "reboot"))
    world.when(cmd.RegisterNode(node(gpus=1))).submit().cycle().then_nothing()
    world.check()


def test_what_a_person_said_of_a_device_is_not_taken_back_by_the_executor() -> None:
    world = given(node(gpus=1)).when(cmd.FailDevice("GPU-node-1-0", "smells"), actor="ann")
    world.when(cmd.RecoverDevice("GPU-node-1-0"), actor="executor").then_nothing()
    world.when(cmd.FailDevice("GPU-node-1-0", "too hot"), actor="executor").then_nothing()
    world.when(cmd.RecoverDevice("GPU-node-1-0"), actor="ann").then(ev.DeviceRecovered)
    world.check()


def test_what_is_asked_again_without_a_reason_is_no_news_and_keeps_the_reason() -> None:
    world = given().when(cmd.FailDevice("GPU-node-1-0", "smells"), "ann").then(ev.DeviceFailed)
    world.when(cmd.FailDevice("GPU-node-1-0"), "bob").then_nothing()
    assert world.state.devices.failed["GPU-node-1-0"] == Fault("ann", "smells")
    world.when(cmd.FailDevice("GPU-node-1-0", "it burns"), "bob").then(ev.DeviceFailed)
    world.when(cmd.CordonNode("node-1", "new fans")).then(ev.NodeCordoned)
    world.when(cmd.CordonNode("node-1")).then_nothing()
    world.when(cmd.CordonNode("node-1", drain=True)).then(ev.NodeCordoned)


def test_what_a_person_says_of_a_device_stands_though_the_executor_said_the_same() -> None:
    world = given().when(cmd.FailDevice("GPU-node-1-0", "Xid 79"), EXECUTOR)
    world.when(cmd.FailDevice("GPU-node-1-0", "Xid 79"), "operator")
    world.when(cmd.RecoverDevice("GPU-node-1-0"), EXECUTOR)
    assert "GPU-node-1-0" in world.state.devices.failed


def test_what_the_executor_said_of_a_device_it_may_take_back() -> None:
    world = given(node(gpus=1)).when(cmd.FailDevice("GPU-node-1-0", "too hot"), actor="executor")
    world.then(ev.DeviceFailed).when(cmd.FailDevice("GPU-node-1-0", "too hot"), actor="executor")
    world.then_nothing().when(cmd.RecoverDevice("GPU-node-1-0"), actor="executor").then(ev.DeviceRecovered)
    world.check()


def test_an_unknown_device_is_refused() -> None:
    world = given().when(cmd.FailDevice("GPU-x")).then_refused("there is no GPU 'GPU-x'")
    world.when(cmd.RecoverDevice("GPU-x")).then_refused("there is no GPU 'GPU-x'")
    world.check()


def test_a_node_of_which_too_many_devices_have_failed_can_never_hold_what_it_could() -> None:
    world = given().submit(gpu_count=8).when(cmd.FailDevice("GPU-node-1-7")).cycle().then_nothing()
    assert "more than this cluster has" in explainer(world.state, world.last_cycle, world.now_us)(world.job())
    world.check()


# --- bookings -----------------------------------------------------------------------------------------


def booked(world: World, *names: str, begin: float = 600, end: float = 900, id: str = "b1") -> World:
    """Nodes booked from so many seconds from now on until so many."""
    start_us, end_us = (world.now_us + int(seconds * SECOND) for seconds in (begin, end))
    return world.when(cmd.Book(id, names or ("node-1",), start_us, end_us, "new disks"))


def test_a_booking_is_on_record_with_its_nodes_its_time_and_who_made_it() -> None:
    world = given(node("a"), node("b"))
    booked(world, "a", "b").then(
        ev.BookingMade(
            booking="b1",
            nodes=("a", "b"),
            start_us=world.now_us + 600 * SECOND,
            end_us=world.now_us + 900 * SECOND,
            by="owner",
            reason="new disks",
        )
    )
    world.check()


def test_a_job_that_would_run_into_a_booking_does_not_start_there_and_one_that_ends_before_does() -> None:
    world = booked(given()).submit(time_limit_s=601).submit(time_limit_s=600)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_job_that_would_run_into_a_booking_starts_on_another_node() -> None:
    world = booked(given(node("a", 8), node("b", 8)), "a").submit(time_limit_s=3_600).cycle()
    assert where(world) == "b"
    world.check()


def test_a_job_without_a_time_limit_counts_as_long_as_the_policy_assumes() -> None:
    world = booked(given()).submit().cycle().then_no_start()
    world.policy(assumed_time_limit_s=600)
    assert world.cycle().starts() == [1]
    world.check()


def test_nothing_starts_on_a_booked_node_until_the_booking_is_over() -> None:
    world = booked(given(), begin=-10, end=300).submit(time_limit_s=1).cycle().then_no_start()
    assert world.state.next_deadline_us() == world.now_us + 300 * SECOND
    world.later(300).cycle().then(ev.BookingEnded(booking="b1", by="its end", cycle=2, now_us=world.now_us))
    assert world.cycle().starts() == [1]
    assert not world.state.bookings
    world.check()


def test_what_runs_into_a_booking_that_was_made_later_is_left_alone() -> None:
    world = booked(given().submit(time_limit_s=3_600).cycle().started())
    world.later(700).cycle().then_nothing().is_(JobState.RUNNING)
    world.check()


def test_a_booking_may_be_ended_before_its_time_and_its_nodes_are_back_at_once() -> None:
    world = booked(given(), begin=0).submit(time_limit_s=3_600).cycle().then_no_start()
    world.when(cmd.EndBooking("b1")).then(ev.BookingEnded(booking="b1", by="owner"))
    assert world.cycle().starts() == [1]
    world.when(cmd.EndBooking("b1")).then_refused("there is no booking b1")
    world.check()


def test_a_blocked_job_is_planned_for_after_the_booking() -> None:
    world = booked(given()).submit(gpu_count=8, time_limit_s=1_000).cycle()
    [plan] = world.last_cycle.reservations
    assert plan.start_us == world.now_us + 900 * SECOND
    world.submit(time_limit_s=600)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_gang_is_planned_around_a_booking_of_one_of_its_nodes() -> None:
    world = booked(given(node("a", 4), node("b", 4)), "b").submit(gpu_count=8, time_limit_s=601).cycle()
    assert world.starts() == []
    [plan] = world.last_cycle.reservations
    assert plan.start_us == world.now_us + 900 * SECOND
    world.check()


def test_two_bookings_of_a_node_each_keep_it_free() -> None:
    world = booked(booked(given(), begin=0, end=100), begin=200, end=300, id="b2")
    world.submit(time_limit_s=101).submit(time_limit_s=100).cycle().then_no_start()
    world.later(100).cycle().then(ev.BookingEnded)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_booking_stays_when_its_node_goes_and_comes_back_changed() -> None:
    world = booked(given()).when(cmd.LoseNode("node-1", "reboot")).when(cmd.RegisterNode(node(gpus=4)))
    world.submit(time_limit_s=601).cycle().then_no_start()
    world.check()


def test_a_job_that_waits_for_a_booking_to_end_is_told_so() -> None:
    world = booked(given(), begin=0).submit().cycle()
    reason = explainer(world.state, world.last_cycle, world.now_us)(world.job())
    assert "booked" in reason
    world.check()


@pytest.mark.parametrize(
    ("fields", "words", "pointer"),
    [
        ({"nodes": ()}, "names no node", "/nodes"),
        ({"nodes": ("a", "x")}, "there is no node 'x'", "/nodes/1"),
        ({"nodes": ("a", "a")}, "names node 'a' twice", "/nodes/1"),
        ({"start_us": 20, "end_us": 20}, "must be after the start", "/end_at"),
        ({"start_us": 1, "end_us": 2}, "not over yet", "/end_at"),
    ],
)
def test_a_booking_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str, pointer: str) -> None:
    world = given(node("a"))
    asked = {"nodes": ("a",), "start_us": world.now_us, "end_us": world.now_us + 1, **fields}
    world.when(cmd.Book("b1", **asked)).then_refused(words)
    assert world.refused is not None
    assert world.refused.pointer == pointer
    world.check()


def test_a_booking_id_is_used_once_at_a_time() -> None:
    world = booked(given())
    booked(world).then_refused("booking id b1 is taken")
    world.check()


def test_what_should_have_been_free_a_minute_ago_is_said_to_be_overdue_and_expected_twice_as_long() -> None:
    world = given(node(gpus=1)).submit(grace_period_s=5).cycle().started()
    world.when(cmd.Cancel(job_id(1)))
    asked_us = world.now_us
    assert world.state.next_deadline_us() == asked_us + 65 * SECOND
    world.later(64).cycle().then_nothing()
    world.later(1).cycle().then(ev.AllocationOverdue)
    assert world.job().expected_us == asked_us + 130 * SECOND
    assert world.state.next_deadline_us() == asked_us + 190 * SECOND
    world.later(1).ended().cycle().then_nothing()
    assert world.state.next_deadline_us() is None
    world.check()


def test_a_job_that_has_been_given_a_limit_reaches_that_and_is_not_overdue_as_well() -> None:
    world = given(node(gpus=1)).policy(assumed_time_limit_s=100).submit().cycle().started()
    world.when(cmd.Update(job_id(1), time_limit_s=100)).later(160).cycle().then(ev.TimeLimitReached)
    world.check()


def test_what_is_expected_back_twice_for_one_time_has_been_waited_for_since_it_was_said_last() -> None:
    world = given(node(gpus=1)).submit(grace_period_s=10).cycle().started()
    world.when(cmd.Requeue(job_id(1))).later(5).when(cmd.Cancel(job_id(1)))
    asked_us = world.now_us
    world.later(70).cycle().then(ev.AllocationOverdue)
    assert world.job().expected_us == asked_us + 140 * SECOND
    world.check()


@pytest.mark.parametrize("time_limit_s", [0, 86_400])
def test_moments_that_were_overtaken_do_not_pile_up_behind_one_that_holds(time_limit_s: int) -> None:
    world = given(node(gpus=2)).submit(time_limit_s=time_limit_s).cycle().started()
    for number in range(2, 1_500):
        world.submit(time_limit_s=time_limit_s).later(1).cycle().started(number).ended(number)
    assert max(len(world.state.overdue), len(world.state.deadlines)) < 1_100
    world.check()


def test_a_time_limit_is_not_extended_into_a_booking() -> None:
    world = given().submit(time_limit_s=100).cycle().started()
    world.when(cmd.Book("b", ("node-1",), world.now_us + 600 * SECOND, world.now_us + 900 * SECOND))
    world.when(cmd.Update(job_id(1), time_limit_s=601)).then_refused("would run into booking b of node-1")
    world.when(cmd.Update(job_id(1), time_limit_s=600)).then(ev.JobUpdated)
    world.check()
