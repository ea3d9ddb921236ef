"""How good planned starts have been: the first plan of a wait against the actual start."""

from __future__ import annotations

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Exit, Priority
from tests.core.spec import BAD, SECOND, World, given, job_id, node


def waiting(limit_s: int = 600, **fields: object) -> World:
    """Job 1 has all GPUs for its time; job 2 waits and has just been planned for the end of it."""
    world = given().submit(gpu_count=8, time_limit_s=limit_s).cycle().started()
    return world.submit("bob", **{"gpu_count": 8, "time_limit_s": 600, **fields}).cycle()


def test_a_start_on_time_counts_as_no_error() -> None:
    world = waiting().later(600).ended().cycle()
    estimates = world.state.estimates
    assert (estimates.total, estimates.early_s, estimates.late_s) == (1, 0, 0)
    assert (estimates.early, estimates.late) == ([1], [])
    world.check()


def test_a_start_before_its_time_counts_as_early_by_the_size_of_the_error() -> None:
    world = waiting().later(100).ended().cycle()
    estimates = world.state.estimates
    assert (estimates.total, estimates.early_s, estimates.late_s) == (1, 500, 0)
    assert estimates.early[(500).bit_length()] == sum(estimates.early) == 1
    world.check()


def test_a_start_after_its_time_counts_as_late() -> None:
    world = waiting().later(603).ended().cycle()
    estimates = world.state.estimates
    assert (estimates.total, estimates.early_s, estimates.late_s) == (1, 0, 3)
    assert estimates.late == [0, 0, 1]
    world.check()


def test_how_long_before_a_start_was_planned_is_counted_as_well() -> None:
    world = waiting().later(1_000).ended().cycle()
    assert world.state.estimates.ahead_s == 600
    world.check()


def test_the_first_plan_counts_and_not_the_last() -> None:
    world = waiting().when(cmd.Update(job_id(1), time_limit_s=900)).cycle().later(900).ended().cycle()
    assert world.starts() == [2]
    assert world.state.estimates.late_s == 300
    world.check()


def test_a_job_that_never_waited_is_not_counted() -> None:
    world = given().submit().cycle().started().ended()
    assert world.state.estimates.total == 0
    world.check()


def test_a_job_that_was_planned_and_did_not_start_is_not_counted() -> None:
    world = waiting().when(cmd.Cancel(job_id(2))).later(600).ended().cycle()
    assert world.state.estimates.total == 0
    world.check()


def test_a_job_that_comes_back_to_the_queue_is_planned_for_anew() -> None:
    world = waiting(max_retries=1).policy(retry_backoff_s=0).later(600).ended().cycle().started(2)
    world.later(5).ended(2, exit=BAD)
    assert world.job(2).predicted_us == 0
    world.submit("cyd", gpu_count=8, time_limit_s=100, priority=Priority.HIGH).cycle()
    assert world.starts() == [3]
    assert world.job(2).predicted_us == world.now_us + 100 * SECOND
    world.started(3).later(100).ended(3).cycle()
    assert (world.state.estimates.total, world.state.estimates.early) == (2, [2])
    world.check()


def test_a_job_that_was_held_after_it_had_been_planned_is_planned_for_anew() -> None:
    world = waiting().when(cmd.Update(job_id(2), hold=True)).later(10_000)
    world.when(cmd.Update(job_id(2), hold=False)).cycle().then(ev.TimeLimitReached, ev.JobReserved)
    world.ended(1, exit=Exit(signal=15)).cycle()
    assert world.starts() == [2]
    assert world.state.estimates.late_s == 0
    world.check()


def test_plans_are_of_the_cycle_that_made_them_first() -> None:
    world = waiting()
    assert (world.job(2).predicted_us, world.job(2).predicted_at_us) == (
        world.now_us + 600 * SECOND,
        world.now_us,
    )
    world.later(60).cycle().then_nothing()
    assert world.job(2).predicted_at_us == world.now_us - 60 * SECOND
    world.check()


def test_a_job_behind_the_planned_ones_has_no_plan_to_be_measured_by() -> None:
    world = waiting().policy(reservation_depth=1).submit("cyd", gpu_count=8).cycle()
    assert world.job(3).predicted_us == 0
    world.check()


def test_those_of_one_node_are_planned_one_after_the_other() -> None:
    world = given(node(gpus=1)).submit(time_limit_s=100).cycle().started()
    for _ in range(3):
        world.submit("bob", time_limit_s=100)
    world.cycle()
    plans = [world.job(number).predicted_us - world.now_us for number in (2, 3, 4)]
    assert plans == [100 * SECOND, 200 * SECOND, 300 * SECOND]
    world.check()
