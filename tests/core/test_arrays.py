"""Many jobs alike from one submission: their numbers, their limit, and what may be done to all or to one."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.explain import explainer
from horizon.core.model import Array, Exit, IndexRange, JobState, Priority
from tests.core.spec import BAD, SECOND, World, given, job_id, node


def array(tasks: int = 4, limit: int = 0) -> Array:
    return Array((IndexRange(0, tasks - 1),), limit)


def asked(world: World, tasks: int = 4, limit: int = 0, **fields: Any) -> World:
    return world.submit(array=array(tasks, limit), **fields)


def states(world: World, *numbers: int) -> list[JobState]:
    return [world.job(number).state for number in numbers]


# --- one submission -----------------------------------------------------------------------------------


def test_an_array_is_one_event_and_as_many_jobs_as_it_says() -> None:
    world = asked(given(), 4).then(ev.JobSubmitted)
    assert len(world.log) == 2
    assert len(world.state.numbered) == 5
    assert world.state.counts[JobState.QUEUED] == 4
    assert world.cycle().starts() == [2, 3, 4, 5]
    world.check()


def test_the_tasks_follow_the_array_in_number_and_have_its_indices() -> None:
    world = given().submit(array=Array((IndexRange(0, 6, 3), IndexRange(10, 10))))
    assert [(job.number, job.array, job.index) for job in world.state.numbered[1:]] == [
        (2, 1, 0),
        (3, 1, 3),
        (4, 1, 6),
        (5, 1, 10),
    ]
    assert len({job.id for job in world.state.numbered}) == 5
    world.submit()
    assert world.job(6).array == 0
    world.check()


def test_an_array_is_written_as_it_was_asked_for() -> None:
    whole = Array((IndexRange(0, 99, 2), IndexRange(200, 200)), 10)
    assert (str(whole), whole.tasks) == ("0-99:2,200%10", 51)
    assert [whole.index_of(task) for task in (0, 1, 49, 50)] == [0, 2, 98, 200]
    assert [whole.task_of(index) for index in (0, 98, 200, 99)] == [0, 49, 50, None]


def test_a_batch_counts_the_tasks_of_its_arrays() -> None:
    from tests.core.spec import spec

    jobs = (cmd.Submit(job_id(1), spec(array=array(3))), cmd.Submit(job_id(5), spec()))
    world = given().when(cmd.SubmitBatch(jobs)).then(ev.JobSubmitted, ev.JobSubmitted)
    assert world.job(5).id == job_id(5)
    many = tuple(cmd.Submit(job_id(number * 100_000), spec(array=array(60_000))) for number in (1, 2))
    world.when(cmd.SubmitBatch(many)).then_refused("120,000 tasks in all")
    world.check()


def test_a_hundred_thousand_tasks_are_one_event_and_fold_again_from_it() -> None:
    world = asked(given(), limits.ARRAY_TASKS_MAX, gpu_count=0, cpu_cores=1)
    assert len(world.log) == 2
    assert len(world.log[-1].payload) < 500
    assert len(world.state.queue) == limits.ARRAY_TASKS_MAX
    assert len(world.state.shapes) == 1
    assert len(world.cycle().starts()) == 128
    assert world.last_cycle.examined < 200, "what cannot start is looked at once"
    world.when(cmd.Cancel(job_id(1)))
    assert len(world.state.queue) == 0
    assert world.state.counts[JobState.CANCELLED] == limits.ARRAY_TASKS_MAX
    assert world.refolded().counts == world.state.counts


def test_the_tasks_of_an_array_stand_in_the_queue_like_jobs_of_their_owner() -> None:
    world = given(node(gpus=4))
    asked(world, 4).submit("bob").submit("bob")
    assert world.cycle().starts() == [2, 6, 3, 7]
    world.check()


# --- the limit ----------------------------------------------------------------------------------------


def test_no_more_tasks_hold_resources_than_the_limit_says() -> None:
    world = asked(given(), 5, limit=2).cycle()
    assert world.starts() == [2, 3]
    world.cycle().then_nothing()
    world.started(2).ended(2)
    assert world.cycle().starts() == [4]
    world.check()


def test_a_task_that_is_being_released_still_counts_for_the_limit() -> None:
    world = asked(given(), 3, limit=1).cycle().started(2).ended(2, released=False).cycle().then_nothing()
    world.when(cmd.ReportReleased(world.job(2).id, 1))
    assert world.cycle().starts() == [3]
    world.check()


def test_an_array_at_its_limit_holds_nobody_up_and_reserves_nothing() -> None:
    world = asked(given(node(gpus=2)), 5, limit=1).submit("bob").cycle()
    assert sorted(world.starts()) == [2, 7]
    assert world.last_cycle.reservations == ()
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job(3)) == (
        "waits for its array: 1 of at most 1 tasks hold resources"
    )
    world.check()


def test_two_arrays_alike_have_each_their_own_limit() -> None:
    world = asked(asked(given(), 3, limit=1), 3, limit=2).cycle()
    assert sorted(world.starts()) == [2, 6, 7]
    world.check()


def test_a_task_with_another_time_limit_still_counts_for_the_limit_of_its_array() -> None:
    world = asked(given(), 4, limit=1, time_limit_s=600)
    world.when(cmd.Update(world.job(4).id, time_limit_s=60)).cycle()
    assert world.starts() == [2]
    world.started(2).ended(2).cycle().started(3).ended(3)
    assert world.cycle().starts() == [4]
    world.check()


# --- what may be done to all of it --------------------------------------------------------------------


def test_cancelling_an_array_cancels_all_its_tasks_in_one_event() -> None:
    world = asked(given(node(gpus=2))).cycle().started(2)
    world.when(cmd.Cancel(job_id(1), "enough")).then(
        ev.JobCancelled(job_id=job_id(1), by="owner", reason="enough")
    )
    assert set(states(world, 1, 2, 3, 4, 5)) == {JobState.CANCELLED}
    assert world.job(4).reason == "cancelled by owner: enough"
    assert len(world.state.queue) == 0
    world.ended(2, exit=Exit(signal=15)).then(ev.AllocationReleased)
    world.ended(3, exit=Exit(signal=15)).then(ev.AllocationReleased)
    world.when(cmd.Cancel(job_id(1))).then_refused("already ended")
    world.check()


def test_cancelling_an_array_leaves_the_tasks_that_have_ended_as_they_ended() -> None:
    world = asked(given(node(gpus=2))).cycle().started(2).ended(2).started(3).ended(3, exit=BAD)
    world.when(cmd.Cancel(job_id(1)))
    assert states(world, 2, 3, 4, 5) == [
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.CANCELLED,
    ]
    world.check()


def test_holding_an_array_holds_the_tasks_that_wait_and_releasing_it_lets_them_go() -> None:
    world = asked(given(node(gpus=1))).cycle().started(2)
    world.when(cmd.Update(job_id(1), hold=True)).then(ev.JobHeld(job_id=job_id(1)))
    world.ended(2).cycle().then_nothing()
    world.when(cmd.Update(job_id(1), hold=False)).then(ev.JobReleased(job_id=job_id(1)))
    assert world.cycle().starts() == [3]
    world.check()


def test_an_array_submitted_on_hold_waits_for_its_release() -> None:
    world = asked(given(), hold=True).cycle().then_nothing()
    world.when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [2, 3, 4, 5]
    world.check()


def test_a_begin_time_holds_for_all_the_tasks() -> None:
    world = given()
    asked(world, begin_at_us=world.now_us + 60 * SECOND).cycle().then_nothing()
    assert world.state.next_deadline_us() == world.now_us + 60 * SECOND
    world.later(60).cycle().then(ev.JobReleased)
    assert world.cycle().starts() == [2, 3, 4, 5]
    world.check()


def test_a_begin_time_does_not_end_a_hold() -> None:
    world = given()
    asked(world, begin_at_us=world.now_us + 60 * SECOND, hold=True).later(60).cycle().cycle().then_nothing()
    world.when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [2, 3, 4, 5]
    world.check()


def test_changing_the_priority_of_an_array_changes_that_of_all_its_tasks() -> None:
    world = asked(given(node(gpus=2)).submit("bob").submit("bob"))
    world.when(cmd.Update(job_id(3), priority=Priority.HIGH)).then(ev.JobUpdated)
    assert world.cycle().starts() == [4, 5]
    world.check()


def test_changing_the_time_limit_of_an_array_changes_that_of_its_running_tasks_too() -> None:
    world = asked(given(), time_limit_s=600).cycle().started(2)
    world.when(cmd.Update(job_id(1), time_limit_s=60)).later(60).cycle()
    assert [event.job_id for event in world.happened if isinstance(event, ev.TimeLimitReached)] == [
        world.job(2).id
    ]
    world.check()


def test_what_is_asked_of_an_array_is_asked_of_a_task_that_had_been_changed_alone() -> None:
    world = given().submit(array=Array((IndexRange(0, 1),)), hold=True)
    world.when(cmd.Update(world.job(2).id, priority=Priority.HIGH, time_limit_s=5))
    world.when(cmd.Update(world.job(1).id, priority=Priority.NORMAL, time_limit_s=0)).then(ev.JobUpdated)
    assert [world.job(number).priority for number in (2, 3)] == [Priority.NORMAL] * 2
    assert [world.job(number).time_limit_s for number in (2, 3)] == [0, 0]
    world.when(cmd.Update(world.job(1).id, priority=Priority.NORMAL, time_limit_s=0)).then_nothing().check()


def test_what_is_about_one_attempt_cannot_be_asked_of_an_array() -> None:
    world = asked(given()).cycle().started(2)
    world.when(cmd.Requeue(job_id(1))).then_refused("name one of its tasks, such as 1_INDEX")
    world.when(cmd.Checkpoint(job_id(1))).then_refused("is an array")
    world.check()


# --- what may be done to one --------------------------------------------------------------------------


def test_a_single_task_may_be_cancelled() -> None:
    world = asked(given(node(gpus=1)))
    world.when(cmd.Cancel(world.job(3).id)).then(ev.JobCancelled)
    assert states(world, 2, 3, 4) == [JobState.QUEUED, JobState.CANCELLED, JobState.QUEUED]
    assert world.cycle().starts() == [2]
    world.started(2).ended(2)
    assert world.cycle().starts() == [4]
    world.check()


def test_a_single_task_may_be_held_and_released() -> None:
    world = asked(given(), 3).when(cmd.Update(world_task(2), hold=True)).then(ev.JobHeld)
    assert world.cycle().starts() == [3, 4]
    world.when(cmd.Update(world_task(2), hold=False))
    assert world.cycle().starts() == [2]
    world.check()


def world_task(number: int) -> str:
    """The id of a task of array 1, by the number of the task."""
    from horizon.core.admission import task_ids

    return task_ids(job_id(1))(number - 2)


def test_a_single_task_may_go_before_the_others() -> None:
    world = asked(given(node(gpus=1)), 3).when(cmd.Update(world_task(4), priority=Priority.HIGH))
    assert world.cycle().starts() == [4]
    world.check()


def test_a_single_running_task_may_be_given_more_time() -> None:
    world = asked(given(), 2, time_limit_s=60).cycle().started(2).started(3)
    world.when(cmd.Update(world_task(3), time_limit_s=120)).later(60).cycle()
    assert [event.job_id for event in world.happened] == [world_task(2)]
    world.check()


def test_a_single_task_may_be_requeued() -> None:
    world = asked(given(node(gpus=2))).cycle().started(2).started(3).when(cmd.Requeue(world_task(2)))
    world.ended(2, exit=Exit(signal=15)).then(ev.JobRequeued, ev.AllocationReleased)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_single_task_makes_way_and_the_others_go_on() -> None:
    world = asked(given(node(gpus=2)), 2, preemptible=True).cycle().started(2).started(3).later(100)
    world.submit("bob", priority=Priority.HIGH).cycle()
    assert world.stops() == [(3, 4)]
    world.ended(3, exit=Exit(signal=15))
    assert states(world, 1, 2, 3) == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED]
    assert world.cycle().starts() == [4]
    world.check()


def test_a_task_that_fails_is_tried_again_by_itself() -> None:
    world = asked(given(), 2, max_retries=1).cycle().started(2).started(3).ended(2, exit=BAD)
    world.then(ev.JobRequeued, ev.AllocationReleased)
    assert (world.job(2).retries_used, world.job(3).retries_used) == (1, 0)
    world.later(1).cycle().cycle()
    assert world.starts() == [2]
    world.check()


def test_a_released_array_releases_the_tasks_that_were_held_one_by_one_as_well() -> None:
    world = asked(given(), 3).when(cmd.Update(world_task(2), hold=True))
    world.when(cmd.Update(job_id(1), hold=True)).when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [2, 3, 4]
    world.check()


def test_an_array_of_which_single_tasks_are_held_can_be_released_as_a_whole() -> None:
    world = asked(given(), 3).when(cmd.Update(world_task(2), hold=True))
    world.when(cmd.Update(job_id(1), hold=False)).then(ev.JobReleased)
    assert world.cycle().starts() == [2, 3, 4]
    world.check()


def test_a_task_that_comes_back_to_an_array_on_hold_is_held() -> None:
    world = asked(given(node(gpus=1)), 2, max_retries=1).policy(retry_backoff_s=0).cycle().started(2)
    world.when(cmd.Update(job_id(1), hold=True)).ended(2, exit=BAD)
    world.cycle().then_nothing()
    world.when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [2]
    world.check()


# --- the array as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exits", "state"),
    [
        ((0, 0), JobState.COMPLETED),
        ((0, 1), JobState.FAILED),
        ((1, 0), JobState.FAILED),
        ((0, None), JobState.CANCELLED),
        ((None, 1), JobState.CANCELLED),
    ],
)
def test_an_array_has_ended_when_all_its_tasks_have_and_as_the_worst_of_them(
    exits: tuple[int | None, int | None], state: JobState
) -> None:
    world = asked(given(), 2)
    assert states(world, 1) == [JobState.QUEUED]
    world.cycle()
    for task, exit_code in zip((2, 3), exits, strict=True):
        assert states(world, 1) == [JobState.RUNNING]
        if exit_code is None:
            world.when(cmd.Cancel(world_task(task)))
        world.started(task).ended(task, exit=Exit(exit_code=exit_code or 0))
    assert states(world, 1) == [state]
    assert world.job().completed_at_us == world.now_us
    world.check()


def test_an_array_waits_when_none_of_its_tasks_runs_any_more() -> None:
    world = asked(given(node(gpus=1)), 2).cycle().started(2).ended(2)
    assert states(world, 1, 2, 3) == [JobState.QUEUED, JobState.COMPLETED, JobState.QUEUED]
    assert world.state.arrays[1].counts[JobState.COMPLETED] == 1
    world.check()


def test_an_array_never_holds_anything_itself() -> None:
    world = asked(given()).cycle()
    assert world.job(1).allocation == ()
    assert job_id(1) not in world.state.holding
    assert 1 not in world.state.queue
    world.check()
