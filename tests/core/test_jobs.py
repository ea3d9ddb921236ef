"""The life of a job: which moves are legal, who may make them, and what they leave behind."""

from __future__ import annotations

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import AllocationState, Exit, JobState, Priority
from tests.core.spec import BAD, OK, World, given, job_id, node, spec


def running() -> World:
    return given().submit().cycle().started()


def test_a_submitted_job_is_queued_and_numbered_from_one() -> None:
    world = given().submit().then(ev.JobSubmitted(job_id=job_id(1), number=1, spec=spec()))
    world.is_(JobState.QUEUED).check()
    world.submit("bob")
    assert world.job(2).number == 2


def test_a_job_goes_from_queued_over_scheduled_and_running_to_completed() -> None:
    world = given().submit().cycle().then(ev.JobScheduled).is_(JobState.SCHEDULED)
    world.started().then(ev.JobStarted(job_id=job_id(1), attempt=1)).is_(JobState.RUNNING)
    world.ended().then(ev.JobCompleted, ev.AllocationReleased).is_(JobState.COMPLETED)
    assert world.job().exit_code == 0
    assert world.job().version == 5
    world.check()


def test_an_end_without_a_start_report_records_both() -> None:
    given().submit().cycle().ended().then(ev.JobStarted, ev.JobCompleted, ev.AllocationReleased).check()


def test_a_bad_exit_code_fails_the_job_and_says_so() -> None:
    world = running().ended(exit=BAD).then(ev.JobFailed, ev.AllocationReleased).is_(JobState.FAILED)
    assert world.job().reason == "exit code 3"
    assert world.job().exit_code == 3


def test_a_signal_fails_the_job_and_is_named() -> None:
    world = running().ended(exit=Exit(signal=9)).is_(JobState.FAILED)
    assert world.job().reason == "killed by signal 9"


def test_a_launch_that_fails_fails_the_job_without_a_start() -> None:
    world = given().submit().cycle()
    world.ended(exit=Exit(error="command not found: 'trian'"), started=False)
    world.then(ev.JobFailed, ev.AllocationReleased).is_(JobState.FAILED)
    assert "trian" in world.job().reason
    assert world.job().started_at_us == 0


def test_no_device_is_free_before_every_process_is_confirmed_gone() -> None:
    world = given(node(gpus=1)).submit().submit().cycle().started()
    world.ended(exit=OK, released=False).then(ev.JobCompleted)
    assert world.job().allocation_state is AllocationState.RELEASING
    world.cycle().then_nothing()
    world.when(cmd.ReportReleased(job_id(1), 1)).then(ev.AllocationReleased)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_cancelled_running_job_is_cancelled_at_once_and_keeps_its_devices_until_they_are_released() -> None:
    world = running().when(cmd.Cancel(job_id(1), "wrong data"), actor="bob")
    world.then(ev.JobCancelled(job_id=job_id(1), by="bob", reason="wrong data")).is_(JobState.CANCELLED)
    assert world.job().reason == "cancelled by bob: wrong data"
    assert world.job().allocation_state is AllocationState.RELEASING
    world.ended(exit=Exit(signal=15)).then(ev.AllocationReleased)
    assert world.job().signal == 15
    assert world.job().allocation_state is None
    world.check()


def test_a_cancelled_waiting_job_leaves_the_queue() -> None:
    world = given(node(gpus=0)).submit().when(cmd.Cancel(job_id(1)))
    assert len(world.state.queue) == 0
    world.check()


def test_a_start_report_after_a_cancel_changes_nothing() -> None:
    world = given().submit().cycle().when(cmd.Cancel(job_id(1)))
    world.started().then_nothing().is_(JobState.CANCELLED)
    world.ended(exit=Exit(signal=15)).then(ev.AllocationReleased).check()


@pytest.mark.parametrize("report", [cmd.ReportStarted(job_id(1), 1), cmd.ReportReleased(job_id(1), 1)])
def test_a_repeated_or_late_report_changes_nothing(report: cmd.Report) -> None:
    running().ended().when(report).then_nothing().check()


def test_a_report_of_an_earlier_attempt_changes_nothing() -> None:
    world = given().policy(retry_backoff_s=0).submit(max_retries=1)
    world.cycle().started().ended(exit=BAD).cycle().started()
    world.when(cmd.ReportEnded(job_id(1), 1, OK)).then_nothing().is_(JobState.RUNNING)


def test_a_failed_job_with_retries_left_goes_back_to_its_place_in_the_queue() -> None:
    world = given(node(gpus=1)).policy(retry_backoff_s=0).submit(max_retries=1).submit().cycle().started()
    world.ended(exit=BAD).then(ev.JobRequeued, ev.AllocationReleased).is_(JobState.QUEUED)
    assert world.cycle().starts() == [1]
    world.started().ended(exit=BAD).then(ev.JobFailed, ev.AllocationReleased).check()
    assert world.job().attempt == 2


def test_a_lost_attempt_is_run_again_without_spending_a_retry_but_not_for_ever() -> None:
    world = given().policy(retry_backoff_s=0).submit()
    for _ in range(5):
        world.cycle().started().ended(exit=Exit(error="its keeper was killed"), lost=True)
        world.then(ev.JobRequeued, ev.AllocationReleased)
    assert world.job().retries_used == 0
    world.cycle().started().ended(exit=Exit(error="its keeper was killed"), lost=True)
    world.then(ev.JobFailed, ev.AllocationReleased).is_(JobState.FAILED).check()


def test_a_requeued_job_does_not_start_before_its_last_attempt_is_gone() -> None:
    world = given().policy(retry_backoff_s=0).submit(max_retries=1)
    world.cycle().started().ended(exit=BAD, released=False)
    world.then(ev.JobRequeued).cycle().then_nothing()
    world.when(cmd.ReportReleased(job_id(1), 1))
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_that_uses_up_its_time_limit_is_stopped_and_then_fails() -> None:
    world = given().submit(time_limit_s=60).cycle().started()
    world.later(59).cycle().then_nothing()
    world.later(1).cycle().then(
        ev.TimeLimitReached(job_id=job_id(1), attempt=1, time_limit_s=60, cycle=2, now_us=world.now_us)
    )
    world.is_(JobState.RUNNING).later(5).cycle().then_nothing()
    world.ended(exit=Exit(signal=15)).then(ev.JobFailed, ev.AllocationReleased)
    assert world.job().reason == "its time limit of 60 s was reached"
    assert world.state.next_deadline_us() is None
    world.check()


def test_a_time_limit_can_be_extended_while_the_job_runs() -> None:
    world = given().submit(time_limit_s=60).cycle().started()
    world.when(cmd.Update(job_id(1), time_limit_s=120)).then(ev.JobUpdated)
    world.later(61).cycle().then_nothing()
    world.later(60).cycle().then(ev.TimeLimitReached).check()


def test_a_held_job_does_not_start_until_it_is_released_and_then_at_its_own_place() -> None:
    world = given(node(gpus=1)).submit(hold=True).submit()
    world.when(cmd.Update(job_id(2), hold=True)).then(ev.JobHeld).cycle().then_nothing()
    world.when(cmd.Update(job_id(2), hold=False)).when(cmd.Update(job_id(1), hold=False))
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_with_a_begin_time_waits_for_it() -> None:
    world = given()
    world.submit(begin_at_us=world.now_us + 10_000_000).cycle().then_nothing()
    assert world.state.next_deadline_us() == world.now_us + 10_000_000
    world.later(10).cycle().then(
        ev.JobReleased(job_id=job_id(1), begin_reached=True, cycle=1, now_us=world.now_us)
    )
    assert world.cycle().starts() == [1]
    assert world.state.next_deadline_us() is None
    world.check()


def test_a_job_whose_begin_time_is_the_last_that_can_be_written_is_told_of() -> None:
    last_us = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z
    world = given().submit(begin_at_us=last_us).cycle()
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job()) == (
        "waits for its begin time 9999-12-31T23:59:59+00:00"
    )


def making_way() -> World:
    """Job 1 of two GPUs, being stopped after 100 s for job 3, which is urgent; job 2 waits like job 1."""
    world = given(node(gpus=2)).submit(gpu_count=2, preemptible=True).cycle().started().later(100)
    world.submit(gpu_count=2, preemptible=True).submit(gpu_count=2, priority=Priority.URGENT)
    return world.cycle()


def test_a_preempted_job_goes_back_to_its_place_with_what_it_lost_on_record() -> None:
    world = making_way().is_(JobState.RUNNING).later(5).ended(exit=Exit(signal=15))
    world.then(ev.JobPreempted, ev.JobRequeued, ev.AllocationReleased).is_(JobState.QUEUED)
    [preempted] = [r.event for r in world.log if isinstance(r.event, ev.JobPreempted)]
    assert preempted.lost_gpu_us == 2 * 105_000_000
    assert world.job().reason == "preempted by job 3 of alice (Urgent)"
    assert world.cycle().starts() == [3]
    world.started(3).ended(3)
    assert world.cycle().starts() == [1]
    assert world.job().retries_used == 0
    world.check()


def test_a_job_may_be_cancelled_while_it_is_being_preempted() -> None:
    world = making_way().when(cmd.Cancel(job_id(1)))
    world.is_(JobState.CANCELLED).ended(exit=Exit(signal=15)).then(ev.AllocationReleased).check()


@pytest.mark.parametrize("exit", [OK, BAD])
def test_an_ended_job_cannot_be_cancelled_or_changed(exit: Exit) -> None:
    world = running().ended(exit=exit)
    world.when(cmd.Cancel(job_id(1))).then_refused("already ended")
    world.when(cmd.Update(job_id(1), priority=Priority.HIGH)).then_refused("already ended")
    world.when(cmd.Requeue(job_id(1))).then_refused("only a running job")


def test_a_running_job_cannot_be_held() -> None:
    running().when(cmd.Update(job_id(1), hold=True)).then_refused("only a waiting job")


def test_an_unknown_job_is_refused() -> None:
    given().when(cmd.Cancel(job_id(9))).then_refused("there is no job")


def test_a_change_for_another_version_of_the_job_is_refused() -> None:
    given().submit().when(cmd.Cancel(job_id(1), version=2)).then_refused("is at version 1, not 2")


def test_an_update_that_changes_nothing_is_no_event() -> None:
    given().submit().when(cmd.Update(job_id(1), priority=Priority.NORMAL, hold=False)).then_nothing()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": ""}, "nothing to run"),
        ({"gpu_count": 0}, "asks for nothing"),
        ({"gpu_count": 0, "cpu_cores": 2, "gpu_type": "H100"}, "CPU job"),
        ({"script_digest": "00"}, "not both"),
        ({"gpu_count": 2, "nodes": 3}, "cannot share"),
        ({"gpu_count": 2, "cpu_cores": 9, "nodes": 3}, "a GPU on each"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    given().submit(**fields).then_refused(words)


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    jobs = tuple(cmd.Submit(job_id(n), spec(gpu_count=int(n != 3))) for n in range(1, 5))
    world = given().when(cmd.SubmitBatch(jobs)).then_refused("asks for nothing")
    assert world.refused is not None
    assert world.refused.pointer == "/jobs/2/gpu_count"
    world.when(cmd.SubmitBatch(jobs[:2])).then(ev.JobSubmitted, ev.JobSubmitted).check()


def test_a_job_that_ends_well_while_it_is_being_preempted_is_completed() -> None:
    world = making_way().ended()
    world.then(ev.JobCompleted, ev.AllocationReleased).is_(JobState.COMPLETED).check()
