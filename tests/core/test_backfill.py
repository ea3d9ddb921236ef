"""Reservations and backfill: who is planned for, and who may start before them."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Array, IndexRange, JobState, Priority
from horizon.core.policy import Order, Policy
from tests.core.spec import SECOND, World, given, job_id, node


def planned(world: World) -> dict[int, float]:
    """When the last cycle planned each blocked job to start, in seconds from its moment."""
    return {one.number: (one.start_us - world.now_us) / SECOND for one in world.last_cycle.reservations}


def busy(gpus: int = 6, total: int = 8, **fields: Any) -> World:
    """Job 1 runs on some of the GPUs of the one node, for 600 s; job 2 waits for all of them."""
    world = given(node(gpus=total)).submit("a", gpu_count=gpus, time_limit_s=600).cycle().started()
    return world.submit("b", gpu_count=total, time_limit_s=600, **fields)


# --- reservations -------------------------------------------------------------------------------------


def test_a_blocked_job_is_planned_for_when_and_where_it_can_start_at_the_earliest() -> None:
    world = busy().cycle()
    world.then(
        ev.JobReserved(
            job_id=job_id(2),
            start_us=world.now_us + 600 * SECOND,
            nodes=("node-1",),
            cycle=2,
            now_us=world.now_us,
        )
    )
    assert planned(world) == {2: 600}
    world.check()


def test_a_plan_is_an_event_once_and_made_anew_in_every_cycle() -> None:
    world = busy().cycle().later(60).cycle().then_nothing()
    assert planned(world) == {2: 540}
    world.check()


def test_the_cycle_says_when_time_alone_will_let_something_start() -> None:
    world = busy().cycle()
    assert world.last_cycle.again_us == world.now_us + 600 * SECOND
    world.check()


def test_the_planned_job_starts_when_the_others_end_as_they_said() -> None:
    world = busy().cycle().later(600).ended()
    assert world.cycle().starts() == [2]
    [started] = [event for event in world.happened if isinstance(event, ev.JobScheduled)]
    assert started.cause is ev.Cause.PRIORITY
    world.check()


def test_the_planned_job_starts_at_once_when_the_others_end_early() -> None:
    world = busy().cycle().later(5).ended()
    assert world.cycle().starts() == [2]
    world.check()


def test_a_job_without_a_time_limit_counts_as_long_as_the_policy_assumes() -> None:
    world = given().policy(assumed_time_limit_s=7_200).submit("a", gpu_count=6).cycle().started()
    assert planned(world.submit("b", gpu_count=8).cycle()) == {2: 7_200}
    assert world.submit("c").cycle().starts() == [3], "it is assumed to end in time"
    world.later(1).submit("c").cycle().then_no_start()
    world.submit("c", time_limit_s=7_199)
    assert world.cycle().starts() == [5]
    assert world.later(8_000).cycle().is_(JobState.RUNNING, 1), "the assumption stops nobody"
    world.check()


def test_a_running_job_that_is_given_more_time_moves_the_plan() -> None:
    world = busy().cycle().when(cmd.Update(job_id(1), time_limit_s=900)).cycle()
    assert planned(world) == {2: 900}
    world.check()


def test_who_is_being_stopped_is_expected_to_let_go_by_the_end_of_its_grace_and_then_any_moment() -> None:
    world = busy().cycle().later(600).cycle().then(ev.TimeLimitReached).cycle()
    assert planned(world) == {2: 60}
    world.later(75).submit("c", time_limit_s=3_600).cycle().then_no_start()
    assert planned(world)[2] == 0.000_001
    world.check()


def test_a_gang_is_planned_for_as_a_whole() -> None:
    world = given(*(node(name, 4) for name in "abc"))
    for seconds in (100, 200, 300):
        world.submit("a", gpu_count=4, time_limit_s=seconds)
    world.cycle().started(1).started(2).started(3).submit("b", gpu_count=8, nodes=2).cycle()
    [plan] = world.last_cycle.reservations
    assert (planned(world), plan.nodes) == ({4: 200}, ("a", "b"))
    world.check()


def test_an_exclusive_job_is_planned_for_when_a_node_is_empty() -> None:
    world = given(node("a", 8)).submit("a", time_limit_s=100).submit("a", time_limit_s=300).cycle()
    assert planned(world.submit("b", exclusive=True).cycle()) == {3: 300}
    world.check()


def test_what_can_never_start_is_not_planned_for_and_is_in_nobodys_way() -> None:
    world = given().submit("a", gpu_count=9, priority=Priority.URGENT).submit("b", gpu_count=8)
    assert world.cycle().starts() == [2]
    assert world.last_cycle.reservations == ()
    world.check()


def test_a_job_of_higher_priority_goes_before_one_that_is_planned_for() -> None:
    world = busy().cycle().submit("c", gpu_count=8, time_limit_s=600, priority=Priority.HIGH).cycle()
    assert planned(world) == {3: 600, 2: 1_200}
    world.later(600).ended()
    assert world.cycle().starts() == [3]
    world.check()


def test_whose_turn_it_is_decides_who_is_planned_for_first() -> None:
    world = given().submit("a", gpu_count=8, time_limit_s=600).cycle().started()
    world.submit("a", gpu_count=8, time_limit_s=600).submit("b", gpu_count=8, time_limit_s=600).cycle()
    assert planned(world) == {3: 600, 2: 1_200}
    world.check()


# --- backfill -----------------------------------------------------------------------------------------


def test_a_later_job_starts_only_if_it_is_over_before_the_planned_start() -> None:
    world = busy().cycle().submit("c", time_limit_s=601).submit("c", time_limit_s=600)
    assert world.cycle().starts() == [4]
    [scheduled] = [event for event in world.happened if isinstance(event, ev.JobScheduled)]
    assert scheduled.cause is ev.Cause.BACKFILL
    assert planned(world) == {2: 600, 3: 1_200}
    world.check()


def test_a_later_job_may_run_for_ever_on_what_the_planned_job_does_not_need() -> None:
    world = given().submit("a", gpu_count=4, time_limit_s=600).cycle().started()
    world.submit("b", gpu_count=6).submit("c", gpu_count=2).submit("d", gpu_count=1).cycle()
    assert world.starts() == [3]
    assert planned(world)[2] == 600
    world.check()


def test_a_later_job_may_run_for_ever_on_another_node() -> None:
    world = given(node("a", 8), node("b", 2)).submit("a", gpu_count=6, time_limit_s=600).cycle()
    assert world.submit("b", gpu_count=8).submit("c", gpu_count=2).cycle().starts() == [3]
    world.check()


def test_cores_and_memory_are_planned_for_like_gpus() -> None:
    small = node(gpus=8, cpu_cores=16, memory_mib=1_000)
    world = given(small).submit("a", cpu_cores=12, time_limit_s=600).cycle().started()
    world.submit("b", cpu_cores=16)
    world.submit("c", cpu_cores=4, time_limit_s=700).submit("c", cpu_cores=4, time_limit_s=500)
    world.submit("c", memory_mib=500)
    assert world.cycle().starts() == [4, 5]
    world.check()


def four_blocked(depth: int) -> World:
    """Two nodes of four GPUs. Job 1 has all of a for 100 s, job 2 half of b for 1,000 s. Job 3 can start on a
    at 100, job 4 on b at 1,000; job 5 would take the other half of b until 1,500."""
    world = given(node("a", 4), node("b", 4)).policy(order=Order.FIFO, reservation_depth=depth)
    world.submit(gpu_count=4, time_limit_s=100).submit(gpu_count=2, time_limit_s=1_000).cycle()
    world.submit(gpu_count=4, time_limit_s=5_000).submit(gpu_count=4, time_limit_s=5_000)
    return world.submit(gpu_count=2, time_limit_s=1_500).cycle()


@pytest.mark.parametrize(
    ("depth", "plans", "starts"),
    [
        (0, {}, [5]),
        (1, {3: 100}, [5]),
        (2, {3: 100, 4: 1_000}, []),
        (16, {3: 100, 4: 1_000, 5: 1_000}, []),
        (-1, {3: 100, 4: 1_000, 5: 1_000}, []),
    ],
)
def test_the_depth_says_how_many_of_the_blocked_are_protected(
    depth: int, plans: dict[int, float], starts: list[int]
) -> None:
    """1 is EASY backfill, -1 conservative; with 0 a blocked job is passed by everybody."""
    world = four_blocked(depth)
    assert world.starts() == starts
    got = planned(world)
    assert {number: got[number] for number in got if number < 5} == {
        number: at for number, at in plans.items() if number < 5
    }
    assert got.keys() == plans.keys()
    world.check()


def test_sixteen_are_planned_for_unless_the_policy_says_otherwise() -> None:
    world = given().submit(gpu_count=8).cycle()
    for _ in range(20):
        world.submit(gpu_count=8)
    assert Policy().reservation_depth == 16
    assert len(world.cycle().last_cycle.reservations) == 16
    assert len(world.policy(reservation_depth=-1).cycle().last_cycle.reservations) == 20
    assert len(world.policy(reservation_depth=3).cycle().last_cycle.reservations) == 3
    world.check()


def test_those_behind_the_depth_may_start_if_they_delay_nobody_before() -> None:
    world = busy().policy(reservation_depth=1).submit("c", gpu_count=8).submit("d", time_limit_s=600)
    assert world.cycle().starts() == [4]
    world.check()


def test_a_plan_is_kept_through_every_cycle_while_later_jobs_come_and_go() -> None:
    world = busy().cycle()
    for minute in range(10):
        world.submit("c", time_limit_s=30 + 60 * minute).submit("d", time_limit_s=59)
        world.cycle()
        for number in world.starts():
            world.started(number)
        assert planned(world)[2] == 600 - 60 * minute
        world.later(60)
        for job in list(world.state.holding.values())[1:]:
            if job.started_at_us + job.time_limit_s * SECOND <= world.now_us:
                world.ended(job.number)
    world.ended()
    assert 2 in world.cycle().starts()
    world.check()


def test_a_cycle_looks_at_no_more_jobs_than_the_policy_says() -> None:
    world = given().policy(examined_max=3)
    for user in "abcde":
        world.submit(user)
    assert world.cycle().starts() == [1, 2, 3]
    assert world.last_cycle.examined == 3
    assert world.cycle().starts() == [4, 5]
    world.check()


# --- strict order -------------------------------------------------------------------------------------


def test_in_strict_order_nothing_passes_the_first_that_waits() -> None:
    world = busy().policy(strict=True, order=Order.FIFO).submit("c", time_limit_s=1).cycle()
    world.then_nothing()
    assert world.last_cycle.reservations == ()
    world.ended()
    assert world.cycle().starts() == [2]
    world.started(2).ended(2)
    assert world.cycle().starts() == [3]
    world.check()


def test_in_strict_order_what_can_never_start_keeps_nobody_waiting() -> None:
    world = given().policy(strict=True).submit(gpu_count=9).submit().cycle()
    assert world.starts() == [2]
    world.check()


def test_in_strict_order_what_only_a_closed_node_could_hold_keeps_all_behind_it_waiting() -> None:
    world = given(node("a", 8), node("b", 2)).policy(strict=True).when(cmd.CordonNode("a"))
    world.submit(gpu_count=4).submit().cycle().then_nothing()
    world.when(cmd.ResumeNode("a"))
    assert world.cycle().starts() == [1, 2]
    world.check()


def test_in_strict_order_a_job_of_higher_priority_still_goes_first() -> None:
    world = busy().policy(strict=True, order=Order.FIFO).submit("c", priority=Priority.HIGH)
    assert world.cycle().starts() == [3]
    world.check()


def test_in_strict_order_nothing_passes_a_job_for_which_others_make_way() -> None:
    world = given(node("a", 2), node("b", 1)).policy(strict=True)
    world.submit(gpu_count=2, preemptible=True).cycle().started().later(100)
    world.submit("b", gpu_count=2, priority=Priority.HIGH).submit("c")
    assert world.cycle().stops() == [(1, 2)]
    assert world.starts() == []
    world.cycle().then_no_start()
    world.check()


# --- hours of a stream --------------------------------------------------------------------------------


class Stream:
    """Sixty-four nodes of eight GPUs, never short of small jobs of one GPU: there are always some waiting
    that take a minute at most, and some that take two to twelve.

    A job ends when its time limit is reached, or earlier.
    """

    def __init__(self, early: bool = False, **policy: Any) -> None:
        self.world = given(*(node(f"n{index:02}") for index in range(64)))
        self.world.policy(**policy)
        self.early = early
        self.ends: list[tuple[int, int]] = []
        self.submitted = 0
        self.waiting = {True: 0, False: 0}
        """How many of the short ones wait, and how many of the others."""
        self.large = 0
        self.idle_gpu_us = 0
        self.began_us = self.world.now_us

    def run(self, hours: float) -> Stream:
        """For so long, or until the large job starts."""
        end_us = self.world.now_us + int(hours * 3_600) * SECOND
        while self.world.now_us < end_us and self.large not in self.cycle():
            self.pass_time(end_us)
        return self

    def refill(self) -> None:
        for short in self.waiting:
            while self.waiting[short] < 80:
                self.submitted += 1
                minutes = 1 if short else 2 + self.submitted * 7 % 11
                self.world.submit(f"user-{self.submitted % 3}", time_limit_s=60 * minutes)
                self.waiting[short] += 1

    def cycle(self) -> list[int]:
        """Until nothing more starts; all that start are running at once."""
        started: list[int] = []
        self.refill()
        while starts := self.world.cycle().starts():
            for number in starts:
                job = self.world.started(number).job(number)
                if number != self.large:
                    self.waiting[job.time_limit_s == 60] -= 1
                lasts_s = job.time_limit_s // (1 + number % 3) if self.early else job.time_limit_s
                heappush(self.ends, (self.world.now_us + lasts_s * SECOND, number))
            started += starts
            self.refill()
        return started

    def pass_time(self, end_us: int) -> None:
        """To the next half minute, with all that ends until then."""
        next_us = min(end_us, self.world.now_us + 30 * SECOND)
        self.idle_gpu_us += (512 - len(self.world.state.devices.holders)) * (next_us - self.world.now_us)
        self.world.now_us = next_us
        while self.ends and self.ends[0][0] <= next_us:
            _, number = heappop(self.ends)
            self.world.ended(number)

    def submit_the_large_one(self, user_id: str) -> None:
        self.large = self.world.state.next_number
        self.world.submit(user_id, gpu_count=512, nodes=64, time_limit_s=3_600)
        self.idle_gpu_us, self.began_us = 0, self.world.now_us

    @property
    def idle_share(self) -> float:
        """Of all GPUs over the time since the large one was submitted."""
        return self.idle_gpu_us / (512 * max(1, self.world.now_us - self.began_us))


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("early", [False, True], ids=["to the limit", "early"])
def test_a_job_of_all_512_gpus_starts_by_its_planned_time_in_a_stream_of_small_ones(
    order: Order, early: bool
) -> None:
    stream = Stream(early, order=order).run(0.3)
    stream.submit_the_large_one("user-1" if order is Order.FIFO else "gang")
    stream.run(3)
    job = stream.world.job(stream.large)
    assert job.allocation, "it never started"
    [reserved] = [
        recorded.event
        for recorded in stream.world.log
        if isinstance(recorded.event, ev.JobReserved) and recorded.event.job_id == job.id
    ]
    assert reserved.now_us < job.scheduled_at_us <= reserved.start_us <= reserved.now_us + 720 * SECOND
    stream.world.check()


def test_the_cluster_does_not_idle_while_the_large_job_waits() -> None:
    """What still fits before the planned start goes on being started: little is idle, and late."""
    stream = Stream().run(0.3)
    stream.submit_the_large_one("gang")
    stream.run(3)
    waited_s = (stream.world.now_us - stream.began_us) / SECOND
    assert waited_s >= 600
    assert stream.idle_share < 0.1
    stream.world.check()


def test_while_the_large_job_waits_a_gpu_is_idle_only_if_all_who_wait_would_run_into_its_start() -> None:
    stream = Stream().run(0.3)
    stream.submit_the_large_one("gang")
    state = stream.world.state
    while stream.large not in stream.cycle():
        if len(state.devices.holders) < 512:
            left_us = planned(stream.world)[stream.large] * SECOND
            waiting = [job for job in state.jobs.values() if job.state is JobState.QUEUED]
            assert all(job.time_limit_s * SECOND > left_us for job in waiting)
        stream.pass_time(stream.world.now_us + 30 * SECOND)
    stream.world.check()


def test_without_reservations_the_same_stream_keeps_the_large_job_waiting() -> None:
    stream = Stream(reservation_depth=0).run(0.3)
    stream.submit_the_large_one("gang")
    stream.run(1.2)
    assert not stream.world.job(stream.large).allocation
    stream.world.check()


def test_a_cycle_over_a_blocked_queue_is_bounded_by_its_shapes_and_plans() -> None:
    """What cannot start is looked at once a shape when there are no plans left to make."""
    world = given().submit(gpu_count=8).cycle().policy(reservation_depth=4)
    for _ in range(300):
        world.submit(gpu_count=8)
    assert world.cycle().last_cycle.examined <= 5
    world.check()


def two_nodes_with_a_gpu_free() -> World:
    """On each a job runs that takes the other three, for 1,000 s."""
    world = given(node("a", 4), node("b", 4))
    for number in (1, 2):
        world.submit(gpu_count=3, time_limit_s=1_000).cycle().started(number)
    return world


def test_no_more_tasks_are_planned_for_at_one_time_than_the_limit_of_their_array_says() -> None:
    world = two_nodes_with_a_gpu_free()
    world.submit("bob", array=Array((IndexRange(0, 1),), 1), gpu_count=4, time_limit_s=3_600).cycle()
    spans = sorted((one.start_us, one.start_us + one.duration_us) for one in world.last_cycle.reservations)
    assert all(ends <= begins for (_, ends), (begins, _) in pairwise(spans))


def test_no_more_gpus_are_planned_for_at_one_time_than_an_account_may_hold() -> None:
    world = two_nodes_with_a_gpu_free().when(cmd.SetShare("red", max_gpus=4))
    world.submit("bob", account="red", gpu_count=4, time_limit_s=3_600)
    world.submit("bob", account="red", gpu_count=4, time_limit_s=3_600).cycle()
    spans = sorted((one.start_us, one.start_us + one.duration_us) for one in world.last_cycle.reservations)
    assert all(ends <= begins for (_, ends), (begins, _) in pairwise(spans))


def test_a_job_that_delays_nobody_who_could_start_then_is_started() -> None:
    world = two_nodes_with_a_gpu_free()
    world.submit("bob", array=Array((IndexRange(0, 1),), 1), gpu_count=4, time_limit_s=3_600)
    world.submit("cyd", gpu_count=1, time_limit_s=2_000).cycle()
    assert world.starts() == [6]
