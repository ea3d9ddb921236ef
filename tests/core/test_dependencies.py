"""What must become of one job before another may start."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import Array, Dependency, DependencyKind, Exit, IndexRange, JobState, Priority
from tests.core.spec import BAD, OK, SECOND, World, given, job_id, node

OK_, ANY, NOT_OK, START = (
    DependencyKind.AFTER_OK,
    DependencyKind.AFTER_ANY,
    DependencyKind.AFTER_NOT_OK,
    DependencyKind.AFTER_START,
)


def after(world: World, kind: DependencyKind, *numbers: int, **fields: Any) -> World:
    """One more job, which depends on these."""
    return world.submit(depends_on=tuple(Dependency(job_id(number), kind) for number in numbers), **fields)


def until_quiet(world: World) -> list[int]:
    """Cycles until nothing happens; the jobs that started on the way."""
    started = []
    while world.cycle().happened:
        started += world.starts()
    return started


def why(world: World, number: int) -> str:
    return explainer(world.state, world.last_cycle, world.now_us)(world.job(number))


# --- the four kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "how", "starts"),
    [
        (OK_, "completed", True),
        (OK_, "failed", False),
        (OK_, "cancelled", False),
        (ANY, "completed", True),
        (ANY, "failed", True),
        (ANY, "cancelled", True),
        (NOT_OK, "completed", False),
        (NOT_OK, "failed", True),
        (NOT_OK, "cancelled", True),
        (START, "completed", True),
        (START, "failed", True),
    ],
)
def test_a_job_starts_or_fails_by_what_becomes_of_the_other(
    kind: DependencyKind, how: str, starts: bool
) -> None:
    world = after(given().submit(), kind, 1).cycle()
    assert world.starts() == [1], "it waits for as long as the other has not ended"
    world.started()
    if how == "cancelled":
        world.when(cmd.Cancel(job_id(1))).ended(exit=Exit(signal=15))
    else:
        world.ended(exit=OK if how == "completed" else BAD)
    assert until_quiet(world) == ([2] if starts else [])
    world.is_(JobState.SCHEDULED if starts else JobState.FAILED, 2)
    world.check()


def test_after_start_waits_only_until_the_other_runs() -> None:
    world = after(given().submit(), START, 1).cycle()
    assert world.starts() == [1]
    world.cycle().then_no_start()
    world.started()
    assert world.cycle().starts() == [2]
    world.check()


def test_after_start_can_never_hold_once_the_other_was_cancelled_without_a_start() -> None:
    world = after(given().submit(hold=True), START, 1).when(cmd.Cancel(job_id(1))).cycle()
    world.is_(JobState.FAILED, 2)
    assert world.job(2).reason == "after_start of job 1 can never hold: it was cancelled"
    world.check()


def test_after_start_holds_of_a_job_that_ran_and_is_being_started_again() -> None:
    world = given().submit().cycle().started().when(cmd.Requeue(job_id(1))).ended(exit=BAD).cycle()
    world.is_(JobState.SCHEDULED, 1)
    assert until_quiet(after(world, START, 1)) == [2]
    world.check()


def test_after_start_holds_at_once_of_a_job_that_runs_already() -> None:
    world = after(given().submit().cycle().started(), START, 1)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_condition_that_holds_already_is_none() -> None:
    world = after(given().submit().cycle().started().ended(), OK_, 1)
    assert world.job(2).unmet == 0
    assert world.cycle().starts() == [2]
    world.check()


def test_a_job_that_will_be_tried_again_has_not_failed() -> None:
    world = given().policy(retry_backoff_s=0)
    after(after(world.submit(max_retries=1), OK_, 1), NOT_OK, 1).cycle().started().ended(exit=BAD)
    assert until_quiet(world) == [1]
    world.is_(JobState.QUEUED, 2).is_(JobState.QUEUED, 3)
    world.started().ended()
    assert until_quiet(world) == [2]
    world.is_(JobState.FAILED, 3)
    world.check()


def test_a_job_that_is_preempted_has_not_ended() -> None:
    world = given(node(gpus=1))
    after(world.submit(preemptible=True), ANY, 1).cycle().started().later(100)
    world.submit("bob", priority=Priority.HIGH).cycle().ended(1, exit=Exit(signal=15))
    assert until_quiet(world) == [3]
    world.is_(JobState.QUEUED, 2)
    world.check()


# --- several at once ----------------------------------------------------------------------------------


def test_all_that_a_job_depends_on_must_hold() -> None:
    world = given().submit().submit()
    after(world, OK_, 1, 2).cycle().started(1).started(2).ended(1)
    assert until_quiet(world) == []
    assert world.ended(2).cycle().starts() == [3]
    world.check()


def test_conditions_of_different_kinds_may_be_mixed() -> None:
    world = given().submit().submit()
    depends = (Dependency(job_id(1), NOT_OK), Dependency(job_id(2), START))
    world.submit(depends_on=depends).cycle().started(1).ended(1, exit=BAD).cycle().then_nothing()
    assert world.started(2).cycle().starts() == [3]
    world.check()


def test_one_condition_that_can_never_hold_is_enough_to_fail() -> None:
    world = given().submit().submit()
    after(world, OK_, 1, 2).cycle().started(1).started(2).ended(1, exit=BAD).cycle()
    world.is_(JobState.FAILED, 3).ended(2).cycle().then_nothing()
    world.check()


def test_the_same_condition_twice_is_one() -> None:
    world = after(given().submit(), OK_, 1, 1).cycle().started().ended()
    assert world.cycle().starts() == [2]
    world.check()


def test_many_may_wait_for_one_and_start_in_their_order() -> None:
    world = given().submit()
    for _ in range(4):
        after(world, OK_, 1)
    world.cycle().started().ended()
    assert world.cycle().starts() == [2, 3, 4, 5]
    world.check()


# --- what can never be --------------------------------------------------------------------------------


def test_a_job_whose_condition_can_never_hold_fails_with_the_reason_in_a_cycle() -> None:
    world = after(given().submit(), OK_, 1).cycle().started().ended(exit=BAD).cycle()
    world.then(
        ev.JobFailed(
            job_id=job_id(2),
            reason="after_ok of job 1 can never hold: it has failed",
            cycle=2,
            now_us=world.now_us,
        )
    )
    assert world.job(2).started_at_us == 0
    assert not world.state.dependents
    world.check()


def test_a_failure_goes_down_a_chain() -> None:
    world = given().submit()
    for number in range(1, 6):
        after(world, OK_, number)
    world.cycle().started().ended(exit=BAD)
    assert until_quiet(world) == []
    for number in range(2, 7):
        world.is_(JobState.FAILED, number)
    assert world.job(6).reason == "after_ok of job 5 can never hold: it has failed"
    assert not world.state.doomed
    world.check()


def test_what_waits_for_a_failure_in_a_chain_starts() -> None:
    """1 fails, so 2 (after_ok) fails, so 3 (after_not_ok of 2) starts, and 4 (after_any of 2) does."""
    world = after(after(after(given().submit(), OK_, 1), NOT_OK, 2), ANY, 2)
    world.cycle().started().ended(exit=BAD)
    assert until_quiet(world) == [3, 4]
    world.is_(JobState.FAILED, 2)
    world.check()


def test_a_diamond_fails_once() -> None:
    """2 and 3 depend on 1, and 4 on both."""
    world = after(after(after(given().submit(), OK_, 1), OK_, 1), OK_, 2, 3)
    world.cycle().started().ended(exit=BAD)
    until_quiet(world)
    failures = [r.event.job_id for r in world.log if isinstance(r.event, ev.JobFailed)]
    assert failures == [job_id(number) for number in (1, 2, 3, 4)]
    world.check()


def test_cancelling_one_fails_those_that_wait_for_its_success() -> None:
    world = after(given(node(gpus=0)).submit(), OK_, 1).when(cmd.Cancel(job_id(1))).cycle()
    assert world.is_(JobState.FAILED, 2).job(2).reason == "after_ok of job 1 can never hold: it was cancelled"
    world.check()


def test_a_job_that_can_never_start_may_be_cancelled_before_the_cycle_fails_it() -> None:
    world = after(given(node(gpus=0)).submit(), OK_, 1).when(cmd.Cancel(job_id(1)))
    assert why(world, 2) == "after_ok of job 1 can never hold: it was cancelled"
    world.when(cmd.Cancel(job_id(2))).is_(JobState.CANCELLED, 2).cycle().then_nothing()
    world.check()


def test_a_held_job_whose_condition_can_never_hold_fails_as_well() -> None:
    world = after(given(node(gpus=0)).submit(), OK_, 1, hold=True).when(cmd.Cancel(job_id(1))).cycle()
    world.is_(JobState.FAILED, 2)
    world.check()


# --- other reasons to wait ----------------------------------------------------------------------------


def test_a_hold_and_a_begin_time_count_beside_what_a_job_depends_on() -> None:
    world = given().submit()
    after(world, OK_, 1, hold=True)
    after(world, OK_, 1, begin_at_us=world.now_us + 60 * SECOND)
    world.cycle().started().ended().cycle().then_nothing()
    world.when(cmd.Update(job_id(2), hold=False))
    assert until_quiet(world) == [2]
    world.later(60)
    assert until_quiet(world) == [3]
    world.check()


def test_releasing_a_job_does_not_free_it_of_what_it_depends_on() -> None:
    world = after(given(node(gpus=1)).submit(), OK_, 1, hold=True).cycle()
    world.when(cmd.Update(job_id(2), hold=False)).cycle().then_no_start()
    assert len(world.state.queue) == 0
    world.check()


def test_a_change_of_priority_does_not_free_a_job_of_what_it_depends_on() -> None:
    world = after(given().submit(), OK_, 1).when(cmd.Update(job_id(2), priority=Priority.URGENT)).cycle()
    assert world.starts() == [1]
    world.when(cmd.Update(job_id(2), time_limit_s=60)).cycle().then_no_start()
    world.check()


def test_a_job_that_waits_for_others_is_told_for_which_and_how_they_are() -> None:
    world = after(given().submit(), OK_, 1).cycle().started()
    assert why(world, 2) == "waits for what it depends on: after_ok of job 1, which is Running"
    world.check()


def test_a_job_that_waits_for_others_takes_the_place_of_its_number_once_they_are_done() -> None:
    world = after(given(node(gpus=1)).submit(), OK_, 1).submit().cycle().started().ended()
    assert world.cycle().starts() == [2]
    world.check()


# --- asking for it ------------------------------------------------------------------------------------


def test_a_job_may_depend_only_on_jobs_that_are_there() -> None:
    after(given(), OK_, 1).then_refused("there is no job", "to depend on")
    world = given().submit()
    after(world, OK_, 2).then_refused("there is no job")
    assert world.refused is not None
    assert world.refused.pointer == "/depends_on/0"
    world.check()


@pytest.mark.parametrize(
    ("kind", "exit"), [(OK_, BAD), (NOT_OK, OK)], ids=["success of a failed", "failure of a good"]
)
def test_a_condition_that_can_never_hold_is_refused(kind: DependencyKind, exit: Exit) -> None:
    world = given().submit().submit().cycle().started().ended(exit=exit)
    world.submit(depends_on=(Dependency(job_id(2)), Dependency(job_id(1), kind)))
    world.then_refused("can never hold: job 1 has ended as")
    assert world.refused is not None
    assert world.refused.pointer == "/depends_on/1"
    world.check()


# --- arrays -------------------------------------------------------------------------------------------

THREE = Array((IndexRange(0, 2),))


def test_a_condition_on_an_array_is_one_on_all_its_tasks_together() -> None:
    world = after(given().submit(array=THREE), OK_, 1).cycle()
    for task in (2, 3, 4):
        assert until_quiet(world) == []
        world.started(task).ended(task)
    assert until_quiet(world) == [5]
    world.check()


def test_one_task_that_failed_is_enough_for_an_array_not_to_have_ended_well() -> None:
    world = given().submit(array=THREE)
    after(after(after(world, OK_, 1), NOT_OK, 1), ANY, 1).cycle()
    for task, exit in ((2, OK), (3, BAD), (4, OK)):
        assert until_quiet(world) == []
        world.started(task).ended(task, exit=exit)
    assert until_quiet(world) == [6, 7]
    world.is_(JobState.FAILED, 5)
    world.check()


def test_an_array_has_started_when_one_of_its_tasks_has() -> None:
    world = after(given().submit(array=THREE), START, 1).cycle().started(3)
    assert until_quiet(world) == [5]
    world.check()


def test_a_condition_on_a_single_task_is_one_on_that_task() -> None:
    world = given().submit(array=THREE)
    world.submit(depends_on=(Dependency(world.job(3).id),)).cycle().started(2).ended(2)
    assert until_quiet(world) == []
    world.started(3).ended(3)
    assert until_quiet(world) == [5]
    world.check()


def test_an_array_may_depend_on_a_job_and_then_all_its_tasks_do() -> None:
    world = after(given().submit(), OK_, 1, array=THREE).cycle()
    assert world.starts() == [1]
    world.started().ended()
    assert world.cycle().starts() == [3, 4, 5]
    world.check()


def test_an_array_whose_condition_can_never_hold_fails_with_all_its_tasks_and_what_waits_for_them() -> None:
    world = after(after(given().submit(), OK_, 1, array=THREE), OK_, 2)
    world.cycle().started().ended(exit=BAD)
    assert until_quiet(world) == []
    for number in range(2, 7):
        world.is_(JobState.FAILED, number)
    assert world.job(3).reason == world.job(2).reason == "after_ok of job 1 can never hold: it has failed"
    assert world.job(6).reason == "after_ok of job 2 can never hold: it has failed"
    world.check()


def test_an_array_of_which_a_task_was_cancelled_fails_what_waits_for_its_success() -> None:
    world = after(given(node(gpus=2)).submit(array=THREE), OK_, 1).cycle()
    world.when(cmd.Cancel(world.job(4).id)).started(2).ended(2).started(3).ended(3)
    assert until_quiet(world) == []
    world.is_(JobState.FAILED, 5)
    world.check()
