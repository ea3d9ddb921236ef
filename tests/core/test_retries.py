"""Trying again: retries and their wait, attempts that vanish, and a requeue that someone asks for."""

from __future__ import annotations

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import Exit, JobState
from tests.core.spec import BAD, SECOND, World, given, job_id, node

TERMINATED = Exit(signal=15)


def running(world: World, user_id: str = "alice", **fields: object) -> World:
    """One more job, placed and started."""
    number = world.state.next_number
    return world.submit(user_id, **fields).cycle().started(number)


def waited(world: World, number: int = 1) -> float:
    """For how many seconds from now the job is kept from the queue."""
    job = world.job(number)
    assert job.begin_pending
    return (job.begin_at_us - world.now_us) / SECOND


def tried(world: World, number: int = 1) -> World:
    """The attempt that waits for its time is placed, starts and fails."""
    world.now_us = max(world.now_us, world.job(number).begin_at_us)
    world.cycle().cycle()
    return world.started(number).ended(number, exit=BAD)


def test_a_job_that_failed_waits_before_its_retry_and_twice_as_long_before_each_further_one() -> None:
    world = given().policy(retry_backoff_s=10, retry_backoff_max_s=45).submit(max_retries=9)
    waits = [waited(tried(world)) for _ in range(5)]
    assert waits == [10, 20, 40, 45, 45]
    world.check()


def test_a_job_that_is_tried_for_ever_never_waits_longer_than_the_longest_wait() -> None:
    world = given().policy(retry_backoff_s=1, retry_backoff_max_s=300).submit(max_retries=100)
    waits = [waited(tried(world)) for _ in range(70)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256] + [300] * 61
    world.check()


def test_the_wait_is_in_the_event_and_ends_with_one() -> None:
    world = given().policy(retry_backoff_s=10).submit(max_retries=1).cycle().started().ended(exit=BAD)
    again_us = world.now_us + 10 * SECOND
    world.then(
        ev.JobRequeued(
            job_id=job_id(1),
            cause=ev.RequeueCause.RETRY,
            reason="exit code 3",
            exit=BAD,
            not_before_us=again_us,
            avoid=("node-1",),
        ),
        ev.AllocationReleased,
    )
    world.cycle().then_nothing()
    assert world.state.next_deadline_us() == again_us
    world.later(10).cycle()
    world.then(
        ev.JobReleased(job_id=job_id(1), begin_reached=True, cycle=2, now_us=world.now_us, policy_version=1)
    )
    assert world.cycle().starts() == [1]
    world.check()


def test_without_a_wait_the_retry_may_start_at_once() -> None:
    world = given().policy(retry_backoff_s=0).submit(max_retries=1).cycle().started().ended(exit=BAD)
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_that_waits_before_its_retry_says_until_when_and_why() -> None:
    world = given().submit(max_retries=1).cycle().started().ended(exit=BAD)
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job()) == (
        "waits for its begin time 2023-11-14T22:13:21+00:00 (exit code 3)"
    )
    world.check()


def test_a_job_that_has_used_its_retries_has_failed() -> None:
    world = given().policy(retry_backoff_s=0).submit(max_retries=2)
    for _ in range(2):
        world.cycle().started().ended(exit=BAD).is_(JobState.QUEUED)
    world.cycle().started().ended(exit=BAD).is_(JobState.FAILED)
    assert (world.job().retries_used, world.job().attempt) == (2, 3)
    world.check()


def test_a_job_without_retries_fails_at_once() -> None:
    world = given().submit().cycle().started().ended(exit=BAD).is_(JobState.FAILED)
    world.check()


def test_a_retry_takes_the_place_that_its_submission_gives_it() -> None:
    world = given(node(gpus=1)).submit(max_retries=1).submit().submit().cycle().started().ended(exit=BAD)
    assert world.cycle().starts() == [2]
    world.later(1).cycle().started(2).ended(2)
    assert world.cycle().starts() == [1]
    world.check()


def test_while_it_waits_before_its_retry_others_may_have_its_devices() -> None:
    world = given(node(gpus=1)).submit(max_retries=1).submit("bob").cycle().started().ended(exit=BAD)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_launch_that_fails_is_not_tried_again() -> None:
    world = given().submit(max_retries=3).cycle()
    world.ended(exit=Exit(error="no such file"), started=False).is_(JobState.FAILED)
    world.check()


def test_a_job_that_ran_out_of_time_is_not_tried_again() -> None:
    world = given().submit(max_retries=3, time_limit_s=60).cycle().started().later(60).cycle()
    world.ended(exit=TERMINATED).is_(JobState.FAILED)
    world.check()


def test_a_job_whose_attempt_vanished_waits_like_for_a_retry_and_spends_none() -> None:
    world = given(node("a"), node("b")).policy(retry_backoff_s=10).submit(max_retries=1).cycle().started()
    world.ended(exit=Exit(error="its keeper was killed"), lost=True)
    assert (waited(world), world.job().retries_used, world.job().attempts_lost) == (10, 0, 1)
    assert world.job().avoid == ("a",)
    world.check()


def test_a_job_that_waits_before_its_retry_may_be_cancelled() -> None:
    world = given().submit(max_retries=1).cycle().started().ended(exit=BAD).when(cmd.Cancel(job_id(1)))
    world.is_(JobState.CANCELLED)
    assert world.state.next_deadline_us() is None
    world.later(10).cycle().then_nothing().check()


def test_a_job_that_is_held_while_it_waits_before_its_retry_starts_when_both_are_over() -> None:
    world = given().submit(max_retries=1).cycle().started().ended(exit=BAD)
    world.when(cmd.Update(job_id(1), hold=True)).later(10).cycle().cycle().then_nothing()
    world.when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [1]
    world.check()


def test_releasing_a_job_does_not_end_its_wait_before_a_retry() -> None:
    world = given().policy(retry_backoff_s=60).submit(max_retries=1).cycle().started().ended(exit=BAD)
    world.when(cmd.Update(job_id(1), hold=True)).when(cmd.Update(job_id(1), hold=False))
    world.cycle().then_nothing()
    world.check()


# --- a requeue by command -----------------------------------------------------------------------------


def test_a_running_job_may_be_sent_back_to_its_place_in_the_queue() -> None:
    world = given(node(gpus=1)).submit().submit().cycle().started()
    world.when(cmd.Requeue(job_id(1), "wrong node"), actor="ann").then(
        ev.RequeueRequested(job_id=job_id(1), attempt=1, by="ann", reason="wrong node")
    )
    world.is_(JobState.RUNNING).cycle().then_no_start()
    world.ended(exit=TERMINATED).then(
        ev.JobRequeued(job_id=job_id(1), cause=ev.RequeueCause.REQUEST, reason="requeued by ann"),
        ev.AllocationReleased,
    )
    assert (world.job().retries_used, world.job().avoid) == (0, ())
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_that_ends_well_while_it_is_sent_back_has_completed() -> None:
    world = given().submit().cycle().started().when(cmd.Requeue(job_id(1))).ended()
    world.is_(JobState.COMPLETED)
    world.check()


def test_a_job_is_sent_back_once_at_a_time() -> None:
    world = given().submit().cycle().started().when(cmd.Requeue(job_id(1)))
    world.when(cmd.Requeue(job_id(1))).then_refused("is being stopped already: requeue")
    world.check()


@pytest.mark.parametrize("state", ["waiting", "ended"])
def test_only_what_runs_can_be_sent_back(state: str) -> None:
    world = given(node(gpus=1 if state == "ended" else 0)).submit()
    if state == "ended":
        world.cycle().started().ended()
    world.when(cmd.Requeue(job_id(1))).then_refused("only a running job can be requeued")
    world.when(cmd.Checkpoint(job_id(1))).then_refused("only a running job can be saved")
    world.check()


def test_a_job_that_is_being_sent_back_may_be_cancelled_instead() -> None:
    world = given().submit().cycle().started().when(cmd.Requeue(job_id(1))).when(cmd.Cancel(job_id(1)))
    world.is_(JobState.CANCELLED).ended(exit=TERMINATED).then(ev.AllocationReleased)
    world.check()


def test_a_time_limit_that_passes_while_a_job_is_sent_back_does_not_fail_it() -> None:
    world = given().submit(time_limit_s=60).cycle().started().later(50).when(cmd.Requeue(job_id(1)))
    world.later(20).cycle().then_nothing().ended(exit=TERMINATED).is_(JobState.QUEUED)
    world.cycle().started().later(59).cycle().then_nothing()
    world.later(1).cycle().then(ev.TimeLimitReached)
    world.check()


def test_a_retry_has_its_whole_time_limit_again() -> None:
    world = given().policy(retry_backoff_s=0).submit(time_limit_s=60, max_retries=1).cycle().started()
    world.later(50).ended(exit=BAD).cycle().started().later(59).cycle().then_nothing()
    world.later(1).cycle().then(ev.TimeLimitReached)
    world.check()


# --- time limits of running jobs ----------------------------------------------------------------------


def test_a_running_job_may_be_given_less_time_than_it_has_used_and_is_stopped_then() -> None:
    world = given().submit(time_limit_s=600).cycle().started().later(100)
    world.when(cmd.Update(job_id(1), time_limit_s=60)).cycle()
    world.then(ev.TimeLimitReached)
    world.check()


def test_a_running_job_may_be_freed_of_its_time_limit_and_be_given_one() -> None:
    world = given().submit(time_limit_s=60).cycle().started().when(cmd.Update(job_id(1), time_limit_s=0))
    world.later(1_000).cycle().then_nothing()
    assert world.state.deadlines == []
    world.when(cmd.Update(job_id(1), time_limit_s=2_000)).later(1_000).cycle().then(ev.TimeLimitReached)
    world.check()


def test_a_job_whose_time_limit_was_changed_and_changed_back_is_stopped_once() -> None:
    world = given().submit(time_limit_s=50).submit(time_limit_s=100).cycle().started(1).started(2)
    world.when(cmd.Update(job_id(2), time_limit_s=200)).when(cmd.Update(job_id(2), time_limit_s=100))
    world.later(50).ended(1).later(50).cycle()
    world.then(ev.TimeLimitReached)


def test_a_job_does_not_stay_away_from_where_it_failed_for_a_node_that_takes_no_work() -> None:
    world = given(node("a", 1), node("b", 1)).policy(retry_backoff_s=0)
    running(world, max_retries=1).when(cmd.CordonNode("b", "broken")).ended(1, exit=BAD)
    for _ in range(10):
        world.later(86_400).cycle()
    world.is_(JobState.SCHEDULED, 1)


def test_a_job_that_reached_its_limit_is_told_the_limit_it_reached() -> None:
    world = running(given(), time_limit_s=9).later(9).cycle().then(ev.TimeLimitReached)
    world.when(cmd.Update(job_id(1), time_limit_s=1_000))
    if world.refused is None:
        world.ended(1, exit=BAD)
        assert world.job(1).reason == "its time limit of 9 s was reached"
