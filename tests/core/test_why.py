"""Explanations: what keeps a job, who is ahead, when it is likely to start, and what would start it."""

from __future__ import annotations

import pytest

from horizon.core import commands as cmd
from horizon.core.explain import explainer
from horizon.core.model import (
    Array,
    Dependency,
    DependencyKind,
    Exit,
    IndexRange,
    JobState,
    Priority,
)
from horizon.core.policy import Order
from horizon.core.schedule import schedule
from horizon.core.why import Why, why
from tests.core.spec import BAD, SECOND, World, given, job_id, node

HIGH, URGENT = Priority.HIGH, Priority.URGENT
TERMINATED = Exit(signal=15)


def explained(world: World, number: int = 1) -> Why:
    job = world.job(number)
    events = [world.log[position - 1] for position in job.positions]
    return why(world.state, job, events, world.now_us)


def reason_of(world: World, number: int) -> str:
    """What a list says of the job after the last cycle."""
    return explainer(world.state, world.last_cycle, world.now_us)(world.job(number))


def running(world: World, user_id: str = "alice", **fields: object) -> World:
    """One more job, placed and started."""
    number = world.state.next_number
    world.submit(user_id, **fields).cycle().started(number)
    return world.is_(JobState.RUNNING, number)


def would_start_it(told: Why) -> list[tuple[str, str]]:
    return [(change.field, change.value) for change in told.changes]


def busy(**fields: object) -> World:
    """Two nodes of eight: one full for an hour, one with two GPUs free."""
    world = given(node("a"), node("b")).submit(gpu_count=8, time_limit_s=3_600)
    world.submit(gpu_count=6, time_limit_s=7_200).cycle().started(1).started(2)
    return world.submit("bob", **fields).cycle()


def test_a_blocked_job_is_told_its_place_its_reservation_and_the_nodes_that_fail_it() -> None:
    told = explained(busy(gpu_count=8, time_limit_s=600), 3)
    assert told.position == 1
    assert told.waiting == 1
    assert told.reservation is not None
    assert (told.reservation.start_us, told.reservation.nodes) == (told.now_us + 3_600 * SECOND, ("a",))
    assert told.start_us == told.reservation.start_us
    assert {verdict: count for verdict, count in told.nodes.items() if count} == {"devices": 2}
    assert told.summary == "waits for 8 GPUs on one node: 2 such GPUs are free, at most 2 on one node"


def test_a_job_is_told_who_is_ahead_and_what_they_hold() -> None:
    world = busy(gpu_count=8).submit("carol", gpu_count=8)
    told = explained(world.cycle(), 4)
    assert told.position == 2
    assert [(one.number, one.user_id, one.owner_gpus_held) for one in told.ahead] == [(3, "bob", 0)]


def test_fewer_gpus_that_fit_now_are_named() -> None:
    told = explained(busy(gpu_count=8), 3)
    assert ("gpu_count", "2") in would_start_it(told)
    assert would_start_it(told)[0] == ("gpu_count", "2")


def test_more_nodes_that_fit_now_are_named() -> None:
    world = given(node("a", 4), node("b", 4)).submit(gpu_count=6, nodes=2).cycle()
    world.submit(gpu_count=2).cycle()
    assert ("nodes", "2") in would_start_it(explained(world, 2))


def test_a_shorter_time_limit_that_would_delay_nobody_is_named() -> None:
    world = given(node("a", 8)).submit(gpu_count=6, time_limit_s=3_600).cycle().started()
    world.submit("bob", gpu_count=8, time_limit_s=600).submit(
        "carol", gpu_count=2, time_limit_s=7_200
    ).cycle()
    told = explained(world, 3)
    assert would_start_it(told)[0] == ("time_limit_s", "3600")
    assert "they are free, but 1 job planned ahead of it would start later" in told.summary


def test_a_request_that_can_never_fit_is_told_the_nearest_that_would() -> None:
    told = explained(given(node("a", 4)).submit(gpu_count=9, constraints={"zone": "x"}).cycle())
    assert told.summary.startswith("asks for 9 GPUs")
    assert told.start_us is None
    told = explained(given(node("a", 4)).submit(gpu_count=9, nodes=1).cycle())
    assert would_start_it(told) == [("gpu_count", "4")]
    told = explained(given(node("a", 4)).submit(gpu_count=2, gpu_type="A100").cycle())
    assert would_start_it(told) == [("gpu_type", "")]


def test_a_full_quota_is_named_with_what_it_would_have_to_be() -> None:
    world = given().when(cmd.SetShare("default", max_gpus=4)).submit(gpu_count=3).submit(gpu_count=2).cycle()
    told = explained(world, 2)
    assert told.quota is not None
    assert (told.quota.account, told.quota.max_gpus, told.quota.gpus_held) == ("default", 4, 3)
    assert would_start_it(told) == [("max_gpus", "5")]
    assert told.summary == (
        "waits for the quota of default: it holds 3 of at most 4 GPUs, and the job asks for 2"
    )


def test_a_higher_priority_is_named_when_only_the_order_keeps_it() -> None:
    world = given(node("a", 2)).submit(gpu_count=1, time_limit_s=600).cycle().started()
    world.submit("bob", gpu_count=2, time_limit_s=600).submit(
        "carol", gpu_count=1, time_limit_s=3_600
    ).cycle()
    assert ("priority", "High") in would_start_it(explained(world, 3))


def test_what_a_job_depends_on_is_told_with_how_it_is() -> None:
    world = given().submit().submit(depends_on=(Dependency(job_id(1), DependencyKind.AFTER_OK),)).cycle()
    told = explained(world, 2)
    assert told.summary == "waits for what it depends on: after_ok of job 1, which is Scheduled"
    [condition] = told.conditions
    assert (condition.number, condition.state, condition.holds) == (1, JobState.SCHEDULED, None)


def test_a_held_job_and_one_that_has_not_begun_are_told_what_lets_them_in() -> None:
    world = given().submit(hold=True)
    assert would_start_it(explained(world)) == [("hold", "false")]
    world.submit(begin_at_us=world.now_us + 60 * SECOND)
    [change] = explained(world, 2).changes
    assert change.field == "begin_at"


def test_a_preempted_job_is_told_by_whom_why_and_at_what_cost() -> None:
    world = given(node("a", 2)).submit(gpu_count=2, preemptible=True).cycle().started().later(100)
    world.submit("bob", gpu_count=2, priority=Priority.URGENT).cycle()
    assert explained(world).summary == "is being stopped: preemption by job 2 of bob"
    assert explained(world, 2).summary == "waits for jobs that make way for it: 1"
    world.later(5).ended()
    world = given(node("a", 2)).submit(gpu_count=2, preemptible=True).cycle().started().later(100)
    world.submit("bob", gpu_count=2, priority=Priority.URGENT).cycle().later(5).ended(
        exit=Exit(signal=15)
    ).cycle()
    told = [(one.what, one.by, one.lost_gpu_us) for one in explained(world).history]
    assert told == [
        ("asked to make way", "job 2 of bob", 200 * SECOND),
        ("preempted", "job 2 of bob", 210 * SECOND),
        ("requeued", "test", 0),
    ]


def test_a_cancelled_job_is_told_by_whom_and_why() -> None:
    world = given().submit().when(cmd.Cancel(job_id(1), "wrong data"), actor="eve")
    [told] = explained(world).history
    assert (told.what, told.by, told.reason) == ("cancelled", "eve", "wrong data")


def test_an_array_is_told_of_by_its_tasks() -> None:
    world = given(node("a", 1)).submit(array=Array((IndexRange(0, 3),))).cycle()
    assert explained(world).summary == (
        "an array of 4 tasks: 3 Queued, 1 Scheduled; ask about one of them, such as 1_INDEX"
    )


def test_an_array_that_waits_is_given_the_reason_of_its_first_waiting_task() -> None:
    world = given(node(gpus=2)).submit(gpu_count=2).submit(array=Array((IndexRange(0, 2),))).cycle()
    reason = explainer(world.state, schedule(world.state, world.now_us), world.now_us)
    assert reason(world.job(2)) == reason(world.job(3))
    assert reason(world.job(2)).startswith("waits for 1 GPU on one node: 0 such GPUs are free")


def test_a_job_without_a_time_limit_is_told_how_long_it_is_taken_to_need() -> None:
    world = given(node(gpus=2)).policy(assumed_time_limit_s=7_200)
    world.when(cmd.Book("b", ("node-1",), world.now_us + 3_600 * SECOND, world.now_us + 7_200 * SECOND))
    world.submit().submit(time_limit_s=3_601).cycle()
    reason = explainer(world.state, schedule(world.state, world.now_us), world.now_us)
    assert reason(world.job(1)).endswith(
        "before it would end, for it has no time limit and so is taken to need 2h00m"
    )
    assert reason(world.job(2)).endswith("before it would end")


def test_the_estimate_of_a_job_without_a_reservation_plans_for_all_ahead_of_it() -> None:
    world = given(node("a", 1)).policy(reservation_depth=1).submit(time_limit_s=100).cycle().started()
    for _ in range(3):
        world.submit(time_limit_s=100)
    told = explained(world.cycle(), 4)
    assert told.reservation is None
    assert told.start_us == world.now_us + 300 * SECOND


def test_explaining_changes_nothing() -> None:
    world = busy(gpu_count=8, gpu_type="A100", constraints={"zone": "x"}, memory_mib=1, cpu_cores=1)
    explained(world, 3)
    world.check()


@pytest.mark.parametrize("number", [1, 2])
def test_a_running_job_is_told_where_it_runs_and_until_when(number: int) -> None:
    told = explained(busy(gpu_count=1), number)
    assert told.summary.startswith(f"runs on {'ab'[number - 1]} since ")
    assert " at most" in told.summary


def promised_two() -> World:
    """Others make way for job 2, which is to have all of its account's quota; job 3 is of that account."""
    world = given(node("a", 2), node("b", 2, "A100")).policy(min_runtime_s=0)
    world.when(cmd.SetShare("q", max_gpus=2))
    running(world, gpu_count=2, gpu_type="H100", preemptible=True)
    world.submit(account="q", gpu_count=2, gpu_type="H100", priority=HIGH).cycle()
    world.submit(account="q", gpu_count=1, gpu_type="A100").cycle().then_no_start()
    return world


def test_the_quota_that_a_job_is_told_of_counts_what_is_kept_for_others_of_its_account() -> None:
    world = promised_two()
    assert reason_of(world, 3) == (
        "waits for the quota of q: it holds or is promised 2 of at most 2 GPUs, and the job asks for 1"
    )
    told = explained(world, 3).quota
    assert told is not None
    assert told.gpus_held == 2


def test_a_task_is_told_that_others_make_way_for_another_task_of_its_array() -> None:
    world = given(node("a", 2), node("b", 2, "A100")).policy(min_runtime_s=0)
    running(world, gpu_count=2, gpu_type="H100", preemptible=True)
    world.submit(
        array=Array((IndexRange(0, 1),), limit=1), gpu_count=2, priority=HIGH, gpu_type="H100"
    ).cycle()
    world.cycle()
    assert reason_of(world, 4) == (
        "waits for its array: 1 of at most 1 tasks hold resources or are promised them"
    )


def waiting_for_two() -> World:
    """Job 3 wants all of a node; job 2 has made way for it and job 1 is still to."""
    world = given(node(gpus=4)).policy(min_runtime_s=0)
    running(running(world, gpu_count=2, preemptible=True), gpu_count=2, preemptible=True).later(10)
    world.submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert len(world.stops()) == 2
    return world.ended(2, exit=TERMINATED)


def test_a_priority_is_not_said_to_help_where_others_make_way_for_someone() -> None:
    world = waiting_for_two().submit("cyd", gpu_count=2).cycle().cycle()
    fields = [change.field for change in explained(world, 4).changes]
    world.when(cmd.Update(job_id(4), priority=URGENT)).cycle()
    assert ("priority" in fields) is (world.starts() == [4])


def test_a_priority_is_not_said_to_help_a_task_that_its_array_keeps_waiting() -> None:
    world = running(given(node(gpus=4)), gpu_count=2)
    world.submit("a", array=Array((IndexRange(0, 1),), 1)).submit("b", gpu_count=4).cycle()
    waits = next(number for number in (3, 4) if world.job(number).state is JobState.QUEUED)
    world.submit("b", gpu_count=4, priority=HIGH).cycle()
    assert [change.field for change in explained(world, waits).changes] == []


def test_the_quota_that_would_start_a_job_is_more_than_it_has() -> None:
    world = promised_two()
    assert would_start_it(explained(world, 3)) == [("max_gpus", "3")]


def test_a_quota_is_not_said_to_start_a_job_that_finds_no_room() -> None:
    world = running(given(node(gpus=4)), account="blue", gpu_count=4)
    world.when(cmd.SetShare("red", max_gpus=1)).submit("r", account="red", gpu_count=2).cycle()
    assert explained(world, 2).changes == ()


def test_a_time_limit_is_not_said_to_help_a_task_that_its_array_keeps_waiting() -> None:
    world = given(node("a", 2), node("b", 2)).policy(order=Order.FIFO)
    running(world, gpu_count=2, time_limit_s=3_600)
    world.submit("a", array=Array((IndexRange(0, 1),), 1), time_limit_s=86_400).cycle().started(3)
    world.submit("big", gpu_count=2, nodes=1, priority=HIGH).cycle()
    assert [change.field for change in explained(world, 4).changes] == []


def test_the_quota_that_would_start_a_job_has_room_for_those_ahead_of_it() -> None:
    world = running(given().when(cmd.SetShare("red", max_gpus=2)), "r", account="red", gpu_count=2)
    world.submit("r", account="red").submit("r", account="red", gpu_count=3).cycle()
    assert would_start_it(explained(world, 2)) == [("max_gpus", "3")]
    assert would_start_it(explained(world, 3)) == [("max_gpus", "6")]


def test_a_priority_with_which_others_would_make_way_is_named_as_that() -> None:
    world = running(given(node(gpus=2)).policy(min_runtime_s=0), gpu_count=2, preemptible=True)
    [change] = explained(world.submit("bob").cycle().later(1), 2).changes
    assert change.sentence == "with priority High others would make way for it"
    world.when(cmd.Update(job_id(2), priority=HIGH)).cycle()
    assert world.stops() == [(1, 2)]


def test_nothing_but_its_place_is_said_to_start_a_job_that_a_strict_policy_does_not_come_to() -> None:
    world = running(given(node(gpus=4)).policy(strict=True), gpu_count=2, time_limit_s=600)
    world.submit("bob", gpu_count=4).submit("cyd", gpu_count=2, time_limit_s=9_000).cycle()
    assert would_start_it(explained(world, 3)) == [("priority", "High")]


def test_a_job_is_told_that_what_is_free_is_kept_for_one_for_whom_others_make_way() -> None:
    world = waiting_for_two().submit("cyd", gpu_count=2).cycle().cycle().then_no_start()
    assert reason_of(world, 4) == (
        "waits for 2 GPUs on one node: they are free, but kept for jobs for which others make way"
    )


def test_a_job_that_stays_away_from_where_it_failed_is_told_so() -> None:
    world = given(node("a", 1), node("b", 1)).policy(retry_backoff_s=0)
    running(world, max_retries=1)
    assert world.job(1).allocation[0].node == "a"
    running(world, "bob").ended(1, exit=BAD).cycle().cycle().then_no_start()
    world.is_(JobState.QUEUED, 1)
    assert reason_of(world, 1) == (
        "waits for 1 GPU on one node: they are free, but only with nodes where it failed: a"
    )


def test_a_gang_is_told_that_what_is_free_is_not_of_one_kind() -> None:
    world = given(node("a", 2), node("b", 2, "A100"), node("c", 2))
    running(world, gpu_count=2, gpu_type="H100").submit("bob", gpu_count=4, nodes=2).cycle().cycle()
    assert reason_of(world, 2) == (
        "waits for 4 GPUs spread over 2 nodes: they are free, but not of one type and size"
    )


def test_a_job_that_stays_away_from_where_it_failed_is_offered_nothing_that_would_start_it_there() -> None:
    world = given(node("a", 2), node("b", 2)).policy(retry_backoff_s=0)
    running(world, max_retries=1, gpu_count=2)
    running(world, "bob", gpu_count=2).ended(1, exit=BAD).cycle().cycle().then_no_start()
    assert world.job(1).avoid == ("a",)
    assert would_start_it(explained(world, 1)) == []


def test_a_job_that_comes_before_any_cycle_is_told_who_gets_what_is_free() -> None:
    world = given(node(gpus=2)).submit(gpu_count=2).submit("bob", gpu_count=2)
    assert explained(world, 1).summary == "there is room: it starts in the next cycle"
    assert explained(world, 2).summary == (
        "waits for 2 GPUs on one node: they are free, but the next cycle gives them to jobs ahead of it"
    )


def test_a_job_that_is_tried_for_its_age_alone_is_offered_only_what_its_quota_lets_start() -> None:
    world = given(node(gpus=2)).when(cmd.SetShare("red", max_gpus=2)).policy(patience_s=60, examined_max=1)
    running(world, "r", account="red", gpu_count=1).submit("r", account="red", gpu_count=2, time_limit_s=600)
    world.later(100).submit("bob", gpu_count=2).cycle()
    assert world.state.queue.order(1, world.now_us) == [3]
    told = explained(world, 2)
    assert told.summary.startswith("waits for the quota of red: it holds 1 of at most 2 GPUs")
    assert would_start_it(told) == []
