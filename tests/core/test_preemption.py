"""Making way: who may take from whom, how little, and what becomes of both."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import Array, Device, Exit, IndexRange, Inventory, JobState, Priority
from horizon.core.policy import Order
from tests.core.spec import BAD, OK, SECOND, World, given, job_id, node

TERMINATED = Exit(signal=15)
URGENT, HIGH, NORMAL, LOW = Priority.URGENT, Priority.HIGH, Priority.NORMAL, Priority.LOW


def running(world: World, user_id: str = "alice", **fields: Any) -> World:
    """One more preemptible job, placed and started."""
    number = world.state.next_number
    world.submit(user_id, **{"preemptible": True, **fields}).cycle().started(number)
    return world.is_(JobState.RUNNING, number)


def full(*gpus: int, nodes: tuple[Inventory, ...] = (), **fields: Any) -> World:
    """A node just large enough, filled with jobs of so many GPUs that have run for 100 s."""
    world = given(*(nodes or (node(gpus=sum(gpus)),)))
    for count in gpus:
        running(world, gpu_count=count, **fields)
    return world.later(100)


def lost(world: World) -> int:
    """GPU-microseconds that those asked to make way would lose, by the last cycle."""
    return sum(event.lost_gpu_us for event in world.happened if isinstance(event, ev.PreemptionRequested))


def settled(world: World) -> World:
    """Cycles, in which whoever is asked to stop does and whoever is placed starts, until all is quiet."""
    for _ in range(50):
        world.cycle()
        if not world.happened:
            return world
        for job in list(world.state.holding.values()):
            if job.stop is not None:
                world.ended(job.number, exit=TERMINATED)
            elif job.state is JobState.SCHEDULED:
                world.started(job.number)
    raise AssertionError("it does not come to rest")


# --- who may take from whom ---------------------------------------------------------------------------


def test_a_job_of_higher_priority_takes_from_a_running_job_of_lower_priority() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(1, 2)]
    world.is_(JobState.RUNNING, 1).is_(JobState.QUEUED, 2)
    world.check()


@pytest.mark.parametrize("priority", Priority)
def test_only_a_lower_priority_is_taken_from(priority: Priority) -> None:
    world = full(4, priority=priority).submit("bob", gpu_count=4, priority=NORMAL).cycle()
    assert world.stops() == ([(1, 2)] if priority is LOW else [])
    world.check()


def test_a_job_that_is_not_preemptible_is_never_taken_from() -> None:
    world = full(4, preemptible=False).submit("bob", gpu_count=4, priority=URGENT)
    world.cycle()
    assert world.stops() == []
    world.check()


def test_nobody_is_taken_from_when_the_policy_forbids_it() -> None:
    world = full(4).policy(preemption=False).submit("bob", gpu_count=4, priority=URGENT).cycle()
    assert world.stops() == []
    world.policy(preemption=True)
    assert world.cycle().stops() == [(1, 2)]
    world.check()


def test_a_job_is_not_taken_from_before_it_has_run_for_as_long_as_the_policy_grants() -> None:
    world = given(node(gpus=4)).policy(min_runtime_s=300)
    running(world, gpu_count=4).later(299).submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert world.stops() == []
    assert world.last_cycle.again_us == world.now_us + SECOND
    assert world.later(1).cycle().stops() == [(1, 2)]
    world.check()


def test_a_job_that_has_been_placed_and_not_started_yet_is_not_taken_from() -> None:
    world = given(node(gpus=4)).submit(gpu_count=4, preemptible=True).cycle().later(1_000)
    world.submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert world.stops() == []
    world.check()


def test_a_job_that_has_not_been_granted_time_enough_is_left_alone_and_an_older_one_is_taken_from() -> None:
    world = full(4, nodes=(node("a", 4), node("b", 4)))
    running(world, gpu_count=4).later(30).submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(1, 3)]
    world.check()


# --- the least work lost ------------------------------------------------------------------------------


def test_of_two_that_would_do_the_one_that_has_run_less_makes_way() -> None:
    world = full(4, nodes=(node("a", 4), node("b", 4)))
    running(world, gpu_count=4).later(100).submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(2, 3)]
    assert lost(world) == 4 * 100 * SECOND
    world.check()


def test_what_a_job_has_saved_is_not_lost() -> None:
    world = full(4, nodes=(node("a", 4), node("b", 4)))
    running(world, gpu_count=4).later(100).when(cmd.Checkpoint(job_id(1))).later(10)
    assert world.submit("bob", gpu_count=4, priority=HIGH).cycle().stops() == [(1, 3)]
    assert lost(world) == 4 * 10 * SECOND
    world.later(20).ended(1, exit=TERMINATED)
    assert world.job().lost_gpu_us == 4 * 30 * SECOND
    world.check()


def test_a_checkpoint_that_the_running_attempt_reports_counts_as_well() -> None:
    world = full(4).when(cmd.ReportCheckpoint(job_id(1), 1)).later(5)
    world.submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert lost(world) == 4 * 5 * SECOND
    world.check()


def test_two_small_ones_make_way_if_they_lose_less_together_than_a_large_one() -> None:
    world = full(4, nodes=(node("a", 4), node("b", 4)))
    world.later(200)
    running(running(world, gpu_count=2), gpu_count=2).later(100)
    world.submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert sorted(world.stops()) == [(2, 4), (3, 4)]
    assert lost(world) == 4 * 100 * SECOND
    world.check()


def test_a_large_one_makes_way_if_it_loses_less_than_two_small_ones() -> None:
    world = full(2, 2, nodes=(node("a", 4), node("b", 4)))
    running(world, gpu_count=4).later(90).submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(3, 4)]
    world.check()


def test_the_cheapest_set_is_found_though_the_cheapest_job_is_not_in_it() -> None:
    """Needed are three GPUs: job 1 with three loses 300, jobs 2 and 3 with two each 250 and 240."""
    world = given(node(gpus=7)).policy(min_runtime_s=0)
    running(world, gpu_count=3)
    world.later(25)
    running(running(world, gpu_count=2), gpu_count=2).later(75)
    world.when(cmd.Checkpoint(job_id(1))).later(40)
    world.submit("bob", gpu_count=3, priority=HIGH).cycle()
    assert world.stops() == [(1, 4)]
    assert lost(world) == 3 * 40 * SECOND
    world.check()


def test_no_more_are_stopped_than_are_needed() -> None:
    world = full(1, 1, 1, 1, nodes=(node(gpus=5),)).submit("bob", gpu_count=3, priority=HIGH).cycle()
    assert len(world.stops()) == 2
    world.check()


def test_one_who_would_lose_nothing_is_spared_if_it_does_not_help() -> None:
    world = full(1, 4, nodes=(node("a", 1), node("b", 4))).when(cmd.Checkpoint(job_id(1)))
    world.submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(2, 3)]
    world.check()


def test_one_who_would_lose_nothing_is_spared_on_the_same_node_if_another_alone_makes_room() -> None:
    world = full(1, 3).when(cmd.Checkpoint(job_id(1))).when(cmd.Checkpoint(job_id(2)))
    world.submit("bob", gpu_count=3, priority=HIGH)
    assert world.cycle().stops() == [(2, 3)]
    world.check()


def test_of_equal_losses_the_youngest_makes_way() -> None:
    world = full(1, 1, 1).submit("bob", priority=HIGH)
    assert world.cycle().stops() == [(3, 4)]
    world.check()


def test_what_is_free_already_is_used_before_anybody_is_stopped() -> None:
    world = full(2, nodes=(node("a", 2), node("b", 2))).submit("bob", gpu_count=2, priority=URGENT)
    assert world.cycle().starts() == [2]
    assert world.stops() == []
    world.check()


def test_what_others_are_giving_back_already_is_waited_for() -> None:
    world = full(4, 4, nodes=(node("a", 4), node("b", 4))).when(cmd.Cancel(job_id(1)))
    world.submit("bob", gpu_count=4, priority=URGENT).cycle()
    assert world.stops() == []
    world.ended(1, exit=TERMINATED)
    assert world.cycle().starts() == [3]
    world.check()


def test_cores_and_memory_are_taken_like_gpus() -> None:
    world = given(node(gpus=8, cpu_cores=16))
    running(world, gpu_count=0, cpu_cores=16).later(100)
    world.submit("bob", cpu_cores=8, priority=HIGH)
    assert world.cycle().stops() == [(1, 2)]
    assert lost(world) == 0
    world.check()


def test_an_exclusive_job_has_all_on_its_node_make_way() -> None:
    world = full(1, 1, nodes=(node(gpus=8),)).submit("bob", exclusive=True, priority=HIGH)
    assert sorted(world.cycle().stops()) == [(1, 3), (2, 3)]
    world.check()


def random_crowd(rng: random.Random) -> World:
    """One to three nodes, most of them full of jobs that have saved their work at some time or never."""
    sizes = [rng.randint(1, 6) for _ in range(rng.randint(1, 3))]
    world = given(*(node(f"n{index}", size) for index, size in enumerate(sizes))).policy(min_runtime_s=0)
    for _ in range(rng.randint(1, 9)):
        gpus = rng.randint(1, 3)
        gang = {"nodes": 2} if gpus > 1 and len(sizes) > 1 and rng.random() < 0.2 else {}
        preemptible = rng.random() < 0.85
        number = world.state.next_number
        world.submit(gpu_count=gpus, preemptible=preemptible, **gang).cycle()
        if world.starts() == [number]:
            world.started(number)
        else:
            world.when(cmd.Cancel(job_id(number)))
        world.later(rng.choice((0, 1, 10, 100)))
    for job in list(world.state.holding.values()):
        if rng.random() < 0.4:
            world.when(cmd.Checkpoint(job.id)).later(rng.choice((0, 5)))
    return world


def cheapest(world: World, gpus: int) -> int | None:
    """The least that must be lost for so many GPUs to be free on one node, by trying everything; None when
    they cannot be, or are free already."""
    best = None
    for name, one in world.state.nodes.items():
        held: dict[int, tuple[int, int]] = {}
        free = len(one.inventory.devices)
        for job in (world.state.jobs[id] for id in one.jobs):
            here = sum(len(part.gpu_ids) for part in job.allocation if part.node == name)
            free -= here
            if job.spec.preemptible:
                held[job.number] = here, (world.now_us - job.saved_at_us) * job.spec.gpu_count
        if free >= gpus:
            return None
        for many in range(1, len(held) + 1):
            for some in combinations(held.values(), many):
                if free + sum(here for here, _ in some) >= gpus:
                    cost = sum(lost for _, lost in some)
                    best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_no_set_of_victims_would_lose_less_and_none_of_them_could_be_spared(first: int) -> None:
    for seed in range(first, first + 50):
        rng = random.Random(seed)
        world = random_crowd(rng)
        gpus = rng.randint(1, 6)
        expected = cheapest(world, gpus)
        number = world.state.next_number
        world.submit("bob", gpu_count=gpus, nodes=1, priority=HIGH).cycle()
        victims = [victim for victim, _ in world.stops()]
        assert bool(victims) is (expected is not None), f"seed {seed}"
        assert lost(world) == (expected or 0), f"seed {seed}: {world.happened}"
        for victim in rng.sample(victims, len(victims)):
            assert number not in world.cycle().starts(), f"seed {seed}: {victim} was stopped without need"
            world.ended(victim, exit=TERMINATED)
        if victims:
            assert world.cycle().starts()[0] == number, f"seed {seed}"
        world.check()


# --- nothing in vain ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"gpu_count": 5},
        {"gpu_count": 8, "nodes": 2},
        {"constraints": {"zone": "moon"}},
        {"gpu_type": "A100"},
        {"gpu_memory_mib": 200 * 1_024},
        {"cpu_cores": 1_000},
    ],
    ids=["too large", "too few nodes", "labels", "type", "memory", "cores"],
)
def test_nobody_is_stopped_for_a_job_that_could_not_start_after_all(asked: dict[str, Any]) -> None:
    world = full(1, 1, 1, 1).submit("bob", **{"priority": URGENT, **asked}).cycle()
    assert world.stops() == []
    world.is_(JobState.RUNNING, 1).check()


def test_nobody_is_stopped_when_those_who_may_be_are_too_few() -> None:
    world = given(node(gpus=4))
    running(running(world, gpu_count=2), gpu_count=2, preemptible=False).later(100)
    world.submit("bob", gpu_count=3, priority=URGENT).cycle()
    assert world.stops() == []
    world.check()


def test_nobody_is_stopped_for_an_exclusive_job_beside_one_that_may_not_be_stopped() -> None:
    world = given(node(gpus=8))
    running(running(world), preemptible=False).later(100)
    world.submit("bob", exclusive=True, priority=URGENT).cycle()
    assert world.stops() == []
    world.check()


def test_nobody_is_stopped_for_a_job_that_would_run_into_a_booking_if_they_use_all_their_grace() -> None:
    world = full(4, grace_period_s=10)
    world.when(cmd.Book("b", ("node-1",), world.now_us + 600 * SECOND, world.now_us + 900 * SECOND))
    world.submit("bob", gpu_count=4, priority=URGENT, time_limit_s=591).cycle()
    assert world.stops() == []
    world.submit("bob", gpu_count=4, priority=URGENT, time_limit_s=590)
    assert world.cycle().stops() == [(1, 3)]
    world.check()


def test_nobody_is_stopped_on_a_cordoned_node() -> None:
    world = full(4).when(cmd.CordonNode("node-1")).submit("bob", gpu_count=4, priority=URGENT).cycle()
    assert world.stops() == []
    world.check()


def test_nobody_is_stopped_for_a_task_beyond_its_arrays_limit() -> None:
    world = given(node("a", 1), node("b", 1))
    two = Array((IndexRange(0, 1),), 1)
    world.submit("bob", array=two, priority=HIGH).cycle().started(2)
    running(world).later(100)
    assert world.cycle().stops() == []
    world.check()


def test_nobody_is_stopped_for_a_second_task_when_one_may_run() -> None:
    world = full(1, 1).submit("bob", array=Array((IndexRange(0, 3),), 1), priority=HIGH).cycle()
    assert world.stops() == [(2, 4)]
    settled(world.ended(2, exit=TERMINATED))
    assert len([job for job in world.state.holding.values() if job.array]) == 1
    world.check()


def test_nobody_is_stopped_for_a_second_job_that_its_quota_will_not_let_start() -> None:
    world = full(2, 2).when(cmd.SetShare("red", max_gpus=2))
    world.submit("bob", gpu_count=2, account="red", priority=HIGH)
    world.submit("bob", gpu_count=2, account="red", priority=HIGH).cycle()
    assert [by for _, by in world.stops()] == [3]
    world.check()


def test_a_quota_is_kept_for_the_job_for_which_others_are_being_stopped() -> None:
    """Job 2 may start once job 1 is gone; job 3, of the same account, finds a free GPU before that."""
    world = full(2, nodes=(node("a", 2),)).when(cmd.SetShare("red", max_gpus=2))
    world.submit("bob", gpu_count=2, account="red", priority=HIGH).cycle()
    world.when(cmd.RegisterNode(node("b", 1))).submit("ann", account="red").cycle()
    assert world.starts() == []
    world.ended(1, exit=TERMINATED)
    assert world.cycle().starts() == [2]
    world.check()


def test_a_job_has_others_make_way_though_one_before_it_waits_for_more_than_they_have() -> None:
    world = given(node("a", 1), node("b", 4)).policy(reservation_depth=0)
    running(running(world), gpu_count=4, preemptible=False).later(100)
    world.submit("bob", gpu_count=4, priority=URGENT).submit("cyd", priority=HIGH)
    assert world.cycle().stops() == [(1, 4)]
    world.check()


def test_a_cycle_looks_for_victims_of_no_more_jobs_than_the_policy_says() -> None:
    world = full(1, 1, 1, 1, nodes=tuple(node(name, 1) for name in "abcd"))
    for _ in range(4):
        world.submit("bob", priority=HIGH)
    world.policy(preemption_searches_max=0).cycle()
    assert world.stops() == []
    world.policy(preemption_searches_max=3)
    assert len(world.cycle().stops()) == 3
    assert len(world.cycle().stops()) == 1
    world.check()


# --- what the record says -----------------------------------------------------------------------------


def test_the_event_says_for_whom_why_where_and_at_what_cost() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.then(
        ev.PreemptionRequested(
            job_id=job_id(1),
            attempt=1,
            by=job_id(2),
            reason="job 2 of bob has priority High",
            nodes=("node-1",),
            lost_gpu_us=4 * 100 * SECOND,
            cycle=2,
            now_us=world.now_us,
            policy_version=0,
        )
    )
    world.check()


def test_the_job_that_waits_for_others_is_told_for_whom() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle().cycle()
    assert explainer(world.state, world.last_cycle, world.now_us)(world.job(2)) == (
        "waits for jobs that make way for it: 1"
    )
    world.check()


def test_two_jobs_of_one_shape_are_each_told_who_makes_way_for_them() -> None:
    world = given(node("a", 1), node("b", 1)).policy(min_runtime_s=0)
    running(running(world, preemptible=True), preemptible=True).later(10)
    world.submit("bob", priority=HIGH).submit("bob", priority=HIGH).cycle()
    asked = {by: victim for victim, by in world.stops()}
    tell = explainer(world.state, world.last_cycle, world.now_us)
    assert [tell(world.job(number)) for number in (3, 4)] == [
        f"waits for jobs that make way for it: {asked[number]}" for number in (3, 4)
    ]


def test_what_was_lost_in_the_end_is_counted_on_the_job_over_all_its_preemptions() -> None:
    world = full(4)
    for turn in (1, 2):
        number = world.state.next_number
        world.submit("bob", gpu_count=4, priority=HIGH).cycle().later(10).ended(1, exit=TERMINATED)
        world.then(ev.JobPreempted, ev.JobRequeued, ev.AllocationReleased)
        assert world.job().preempted == turn
        assert world.job().reason == f"preempted by job {number} of bob (High)"
        world.cycle().started(number).ended(number).cycle().started(1).later(90)
    assert world.job().lost_gpu_us == 4 * (110 + 100) * SECOND
    assert world.job().retries_used == 0
    world.check()


def test_the_requeue_says_that_it_spends_no_retry() -> None:
    world = full(4, max_retries=1).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.ended(1, exit=TERMINATED)
    [requeued] = [event for event in world.happened if isinstance(event, ev.JobRequeued)]
    assert requeued.cause is ev.RequeueCause.PREEMPTION
    assert requeued.avoid == ()
    world.cycle().started(2).ended(2).cycle().started(1).ended(1, exit=BAD)
    world.then(ev.JobRequeued, ev.AllocationReleased)
    world.check()


def test_a_victim_goes_back_to_the_place_its_submission_gives_it() -> None:
    world = full(4)
    for _ in range(3):
        world.submit(gpu_count=4, preemptible=True)
    world.submit("bob", gpu_count=4, priority=HIGH).cycle().ended(1, exit=TERMINATED).cycle().started(5)
    assert world.state.queue.order(9, world.now_us) == [1, 2, 3, 4]
    world.ended(5)
    assert world.cycle().starts() == [1]
    world.check()


@pytest.mark.parametrize(
    ("exit", "state"), [(OK, JobState.COMPLETED), (BAD, JobState.QUEUED), (TERMINATED, JobState.QUEUED)]
)
def test_who_ends_well_while_it_is_asked_to_stop_has_ended_well(exit: Exit, state: JobState) -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle().ended(1, exit=exit)
    world.is_(state, 1)
    assert world.cycle().starts() == [2]
    world.check()


# --- what is freed goes to the one it was freed for ---------------------------------------------------


def test_what_is_freed_goes_to_the_job_it_was_freed_for_though_others_have_more_claim_by_share() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.submit("newcomer", account="idle", gpu_count=4, priority=HIGH)
    world.ended(1, exit=TERMINATED)
    assert world.state.queue.order(1, world.now_us) == [3]
    assert world.cycle().starts() == [2]
    [scheduled] = [event for event in world.happened if isinstance(event, ev.JobScheduled)]
    assert scheduled.cause is ev.Cause.PREEMPTION
    world.check()


def test_what_is_freed_bit_by_bit_is_kept_until_it_is_enough() -> None:
    world = full(2, 2).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.ended(2, exit=TERMINATED).submit("cyd", gpu_count=2, priority=URGENT, time_limit_s=1)
    world.cycle().then_no_start()
    world.ended(1, exit=TERMINATED)
    assert world.cycle().starts() == [3]
    world.check()


def test_other_nodes_go_on_being_used_while_some_make_way() -> None:
    world = full(4, nodes=(node("a", 4),)).when(cmd.RegisterNode(node("b", 2)))
    world.submit("bob", gpu_count=4, priority=HIGH).submit("cyd", gpu_count=2)
    world.cycle()
    assert (world.stops(), world.starts()) == ([(1, 2)], [3])
    world.check()


def test_no_second_round_is_stopped_while_the_first_is_still_stopping() -> None:
    world = full(4, 4, nodes=(node("a", 4), node("b", 4))).submit("bob", gpu_count=4, priority=HIGH)
    assert len(world.cycle().stops()) == 1
    for _ in range(5):
        world.later(20).cycle().then_nothing()
    world.check()


def test_a_job_starts_at_the_latest_when_those_who_make_way_for_it_are_gone() -> None:
    world = full(4, 4, nodes=(node("a", 4), node("b", 4))).submit("bob", gpu_count=4, priority=HIGH)
    [(victim, _)] = world.cycle().stops()
    world.ended(3 - victim).cycle()
    if not world.starts():
        assert world.ended(victim, exit=TERMINATED).cycle().starts()[0] == 3
    world.check()


def test_two_jobs_share_what_one_gives_up() -> None:
    world = full(2).submit("bob", priority=HIGH).submit("bob", priority=HIGH).cycle()
    assert [victim for victim, _ in world.stops()] == [1]
    world.ended(1, exit=TERMINATED)
    assert sorted(world.cycle().starts()) == [2, 3]
    world.check()


@pytest.mark.parametrize("kinds", [("H100", "A100"), ("A100", "H100")])
def test_what_was_freed_for_a_job_is_not_taken_by_another_for_whom_others_still_make_way(
    kinds: tuple[str, ...],
) -> None:
    devices = [Device(f"GPU-{kind}", index, kind, 81_559) for index, kind in enumerate(kinds)]
    world = given(node(devices=tuple(devices))).policy(min_runtime_s=0)
    running(world, gpu_type="A100", preemptible=True).later(10)
    running(world, gpu_type="H100", preemptible=True)
    world.submit("any", priority=HIGH).submit("choosy", gpu_type="A100", priority=HIGH).cycle()
    assert sorted(world.stops()) == [(1, 4), (2, 3)]
    world.ended(1, exit=TERMINATED).cycle().ended(2, exit=TERMINATED).cycle()
    assert {world.job(3).state, world.job(4).state} == {JobState.SCHEDULED}


def test_nobody_is_asked_to_stop_twice() -> None:
    world = full(2).submit("bob", priority=HIGH).submit("cyd", priority=URGENT).cycle()
    world.cycle().submit("dan", priority=URGENT).cycle()
    asked = [r.event.job_id for r in world.log if isinstance(r.event, ev.PreemptionRequested)]
    assert len(asked) == len(set(asked))
    world.check()


# --- who has lost his reason gives up his claim -------------------------------------------------------


@pytest.mark.parametrize("command", [cmd.Cancel(job_id(2)), cmd.Update(job_id(2), hold=True)])
def test_a_job_that_is_cancelled_or_held_gives_up_what_is_being_freed_for_it(command: cmd.Command) -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle().when(command)
    world.submit("cyd", gpu_count=4, priority=URGENT).ended(1, exit=TERMINATED)
    world.then(ev.JobPreempted, ev.JobRequeued, ev.AllocationReleased)
    assert world.cycle().starts() == [3]
    assert not world.state.claims
    world.check()


def test_a_victim_of_a_job_that_gave_up_goes_back_and_starts_again() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle().when(cmd.Cancel(job_id(2)))
    world.ended(1, exit=TERMINATED)
    assert world.cycle().starts() == [1]
    world.check()


def test_a_job_whose_node_is_cordoned_meanwhile_looks_elsewhere() -> None:
    world = full(4, nodes=(node("a", 4),)).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.when(cmd.CordonNode("a")).when(cmd.RegisterNode(node("b", 4)))
    assert world.cycle().starts() == [2]
    world.ended(1, exit=TERMINATED).check()


def test_a_job_whose_node_is_lost_meanwhile_may_have_others_make_way_elsewhere() -> None:
    world = full(4, 4, nodes=(node("a", 4), node("b", 4))).submit("bob", gpu_count=4, priority=HIGH)
    [(victim, _)] = world.cycle().stops()
    lost_node = world.job(victim).allocation[0].node
    world.when(cmd.LoseNode(lost_node, "power")).cycle()
    assert world.stops() == [(3 - victim, 3)]
    world.check()


def test_a_released_job_that_gave_up_its_claim_may_claim_again() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH).cycle()
    world.when(cmd.Update(job_id(2), hold=True)).ended(1, exit=TERMINATED).cycle().started(1)
    world.when(cmd.Update(job_id(2), hold=False)).cycle().then_no_start()
    assert world.later(60).cycle().stops() == [(1, 2)]
    world.check()


# --- no quarrels --------------------------------------------------------------------------------------


def test_two_jobs_do_not_take_from_each_other_in_turn() -> None:
    world = full(4).submit("bob", gpu_count=4, priority=HIGH, preemptible=True)
    settled(world)
    for _ in range(5):
        settled(world.later(1_000))
    assert world.job(2).state is JobState.RUNNING
    assert (world.job(1).preempted, world.job(2).preempted) == (1, 0)
    world.check()


def test_a_victim_that_was_given_the_priority_of_the_other_does_not_take_back() -> None:
    world = settled(full(4).submit("bob", gpu_count=4, priority=HIGH, preemptible=True))
    world.later(1_000).when(cmd.Update(job_id(1), priority=HIGH)).cycle()
    assert world.stops() == []
    world.when(cmd.Update(job_id(1), priority=URGENT))
    assert world.cycle().stops() == [(2, 1)]
    world.check()


# --- gangs --------------------------------------------------------------------------------------------


def test_a_gang_has_jobs_on_all_its_nodes_make_way_and_starts_as_a_whole() -> None:
    world = full(4, 4, 4, nodes=tuple(node(name, 4) for name in "abc"))
    world.submit("bob", gpu_count=8, nodes=2, priority=HIGH).cycle()
    victims = [victim for victim, _ in world.stops()]
    assert len(victims) == 2
    [nodes] = {event.nodes for event in world.happened if isinstance(event, ev.PreemptionRequested)}
    assert sorted(nodes) == sorted(world.job(victim).allocation[0].node for victim in victims)
    world.ended(victims[0], exit=TERMINATED).cycle().then_no_start()
    world.ended(victims[1], exit=TERMINATED)
    assert world.cycle().starts() == [4]
    assert sorted(one.node for one in world.placements()) == sorted(nodes)
    world.check()


def test_a_gang_uses_the_node_that_is_free_and_has_only_as_many_make_way_as_it_lacks() -> None:
    world = full(4, 4, nodes=(node("a", 4), node("b", 4), node("c", 4)))
    world.submit("bob", gpu_count=8, nodes=2, priority=HIGH).cycle()
    assert len(world.stops()) == 1
    world.check()


def test_nobody_is_stopped_for_a_gang_that_one_node_would_still_be_missing_for() -> None:
    world = given(node("a", 4), node("b", 4))
    running(running(world, gpu_count=4), gpu_count=4, preemptible=False).later(100)
    world.submit("bob", gpu_count=8, nodes=2, priority=URGENT).cycle()
    assert world.stops() == []
    world.check()


def test_a_gang_that_makes_way_stops_on_all_its_nodes_and_is_gone_from_all() -> None:
    world = full(8, nodes=(node("a", 4), node("b", 4)))
    assert len(world.job().allocation) == 2
    world.submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(1, 2)]
    assert lost(world) == 8 * 100 * SECOND
    world.ended(1, exit=TERMINATED)
    assert world.cycle().starts() == [2]
    assert len(world.state.devices.holders) == 4
    world.check()


def test_a_gang_makes_way_only_if_nobody_smaller_loses_less() -> None:
    world = full(8, nodes=(node("a", 4), node("b", 4), node("c", 4)))
    running(world, gpu_count=4).later(100).submit("bob", gpu_count=4, priority=HIGH)
    assert world.cycle().stops() == [(2, 3)]
    world.check()


# --- reclaim: what an account is guaranteed -----------------------------------------------------------


def borrowed(*gpus: int, red: int = 4, blue: int = 0, **fields: Any) -> World:
    """Eight GPUs, of which red is guaranteed some; blue runs jobs of so many GPUs, for 100 s by now."""
    world = given().when(cmd.SetShare("red", guaranteed_gpus=red))
    world.when(cmd.SetShare("blue", guaranteed_gpus=blue))
    for count in gpus:
        running(world, "b", account="blue", gpu_count=count, **fields)
    return world.later(100)


def test_an_account_below_its_guarantee_takes_back_from_one_above_its_own() -> None:
    world = borrowed(4, 4).submit("r", account="red", gpu_count=4)
    assert world.cycle().stops() == [(2, 3)]
    [event] = world.happened
    assert isinstance(event, ev.PreemptionRequested)
    assert event.reason == "job 3 of r: red holds 0 of the 4 GPUs that it is guaranteed"
    world.ended(2, exit=TERMINATED)
    assert world.cycle().starts() == [3]
    world.check()


def test_an_account_without_a_guarantee_takes_nothing_back() -> None:
    world = borrowed(4, 4, red=0).submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == []
    world.check()


def test_a_job_that_would_bring_its_account_above_its_guarantee_takes_nothing_back() -> None:
    world = borrowed(4, 4, red=4).submit("r", account="red", gpu_count=5).cycle()
    assert world.stops() == []
    world.check()


def test_an_account_that_holds_its_guarantee_takes_nothing_more_back() -> None:
    world = borrowed(4, red=4).submit("r", account="red", gpu_count=4).cycle().started(2)
    world.submit("r", account="red").cycle()
    assert world.stops() == []
    world.check()


def test_the_one_that_gives_is_left_with_its_guarantee() -> None:
    world = borrowed(2, 2, 2, 2, red=8, blue=6).submit("r", account="red", gpu_count=4)
    assert world.cycle().stops() == []
    world.submit("r", account="red", gpu_count=2)
    assert world.cycle().stops() == [(4, 6)]
    world.check()


def test_reclaim_never_takes_from_a_higher_priority() -> None:
    world = borrowed(4, 4, priority=HIGH).submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == []
    world.submit("r", account="red", gpu_count=4, priority=HIGH)
    assert [by for _, by in world.cycle().stops()] == [4]
    world.check()


def test_reclaim_takes_only_from_who_is_preemptible_and_has_run_for_long_enough() -> None:
    world = borrowed(4, 4, preemptible=False).submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == []
    world = borrowed(4).policy(min_runtime_s=300)
    running(world, "b", account="blue", gpu_count=4).submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == []
    assert world.later(200).cycle().stops() == [(1, 3)]
    world.check()


def test_what_was_taken_back_is_not_taken_back_again() -> None:
    world = borrowed(4, 4, red=4, blue=4).submit("r", account="red", gpu_count=4, preemptible=True)
    settled(world)
    for _ in range(5):
        settled(world.later(1_000))
    assert sum(job.preempted for job in world.state.numbered) == 1
    assert world.state.accounts["red"].gpus_held == 4
    assert world.state.accounts["blue"].gpus_held == 4
    world.check()


def test_the_guarantee_of_an_account_counts_for_all_below_it_against_those_outside() -> None:
    world = given().when(cmd.SetShare("lab", guaranteed_gpus=4))
    running(world, "n", account="lab/nlp", gpu_count=2)
    running(world, "s", account="shop", gpu_count=6).later(100)
    world.submit("v", account="lab/vision", gpu_count=2)
    assert world.cycle().stops() == [(2, 3)]
    world.check()


def test_an_account_takes_nothing_back_from_its_own_children() -> None:
    world = given().when(cmd.SetShare("lab", guaranteed_gpus=8))
    running(world, "n", account="lab/nlp", gpu_count=6)
    running(world, "s", account="lab/shop", gpu_count=2, preemptible=False).later(100)
    world.submit("v", account="lab/vision", gpu_count=2).cycle()
    assert world.stops() == []
    world.check()


def test_a_child_with_a_guarantee_takes_back_from_its_siblings() -> None:
    world = given().when(cmd.SetShare("lab/vision", guaranteed_gpus=2))
    running(running(world, "n", account="lab/nlp", gpu_count=4), "n", account="lab/nlp", gpu_count=4)
    world.later(100).submit("v", account="lab/vision", gpu_count=2)
    assert world.cycle().stops() == [(2, 3)]
    world.check()


def test_a_parents_guarantee_protects_what_its_children_borrowed_from_each_other() -> None:
    world = given().when(cmd.SetShare("lab", guaranteed_gpus=8)).when(cmd.SetShare("red", guaranteed_gpus=8))
    running(world, "n", account="lab/nlp", gpu_count=8).later(100)
    world.submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == []
    world.check()


def test_a_cpu_job_reclaims_no_gpus_and_none_is_reclaimed_from_it() -> None:
    world = given(node(gpus=8, cpu_cores=8)).when(cmd.SetShare("red", guaranteed_gpus=8))
    running(world, "b", account="blue", gpu_count=0, cpu_cores=8).later(100)
    world.submit("r", account="red", gpu_count=0, cpu_cores=8).submit("r", account="red", cpu_cores=8).cycle()
    assert world.stops() == []
    world.check()


def test_priority_needs_no_guarantee_and_leaves_none() -> None:
    """What is taken by priority is taken whatever the other's account is guaranteed."""
    world = borrowed(8, red=0, blue=8).submit("r", account="red", gpu_count=8, priority=HIGH)
    assert world.cycle().stops() == [(1, 2)]
    world.check()


def test_two_jobs_do_not_both_take_back_what_is_guaranteed_once() -> None:
    world = borrowed(4, 4, red=4)
    world.submit("r", account="red", gpu_count=4).submit("r", account="red", gpu_count=4).cycle()
    assert len(world.stops()) == 1
    world.cycle()
    assert world.stops() == []
    world.check()


def test_two_jobs_do_not_take_the_giver_below_its_guarantee_together() -> None:
    world = borrowed(2, 2, 2, 2, red=8, blue=6)
    world.submit("r", account="red", gpu_count=2).cycle().submit("r", account="red", gpu_count=2).cycle()
    world.submit("r2", account="red", gpu_count=2)
    settled(world)
    assert world.state.accounts["blue"].gpus_held == 6
    world.check()


def test_an_account_takes_back_what_it_is_guaranteed_however_many_wait_before_it() -> None:
    world = borrowed(4, 4).policy(order=Order.FIFO)
    for _ in range(20):
        world.submit("b", account="blue", gpu_count=4)
    world.submit("r", account="red", gpu_count=4)
    assert world.cycle().stops() == [(2, 23)]
    world.check()


def test_whoever_reclaims_has_the_cheapest_of_those_that_may_be_taken() -> None:
    world = borrowed(4, 2, red=2)
    running(world, "b", account="blue", gpu_count=2).later(100).when(cmd.Checkpoint(job_id(2)))
    world.later(10).submit("r", account="red", gpu_count=2)
    assert world.cycle().stops() == [(2, 4)]
    world.check()


def test_an_account_takes_back_from_the_one_job_that_will_do_though_a_cheaper_one_will_not() -> None:
    world = given(node(gpus=5)).policy(min_runtime_s=0)
    world.when(cmd.SetShare("red", guaranteed_gpus=4)).when(cmd.SetShare("blue", guaranteed_gpus=1))
    running(world, account="blue", gpu_count=1, preemptible=True)
    running(world, account="blue", gpu_count=4, preemptible=True).later(10)
    world.submit("r", account="red", gpu_count=4).cycle()
    assert world.stops() == [(2, 3)]


def test_a_gang_takes_back_from_the_one_job_that_will_do_though_a_cheaper_one_will_not() -> None:
    world = given(node("a", 4), node("b", 5)).policy(min_runtime_s=0)
    world.when(cmd.SetShare("red", guaranteed_gpus=8)).when(cmd.SetShare("blue", guaranteed_gpus=1))
    running(world, account="blue", gpu_count=8, nodes=2, preemptible=True)
    running(world, account="blue", gpu_count=1, preemptible=True).later(10)
    world.submit("r", account="red", gpu_count=8, nodes=2).cycle()
    assert world.stops() == [(1, 3)]


def test_a_gang_takes_back_two_nodes_though_the_cheapest_are_on_all() -> None:
    nodes = tuple(node(name, 4) for name in "abcd")
    world = full(*[1] * 16, nodes=nodes, account="blue").when(cmd.SetShare("red", guaranteed_gpus=8))
    world.when(cmd.SetShare("blue", guaranteed_gpus=8))
    for number in range(1, 17, 2):
        world.when(cmd.ReportCheckpoint(job_id(number), 1))
    world.later(10).submit("r", account="red", gpu_count=8, nodes=2).cycle()
    for victim, _ in world.stops():
        world.ended(victim, exit=TERMINATED)
    assert world.cycle().starts()[0] == 17


def test_a_gang_takes_back_from_small_jobs_where_large_ones_are_more_than_is_owed() -> None:
    world = given(*(node(name, 8) for name in "abcd")).when(cmd.SetShare("red", guaranteed_gpus=8))
    for count in (8, 8, 4, 4, 4, 4):
        running(world, account="blue", gpu_count=count)
    world.later(100).when(cmd.SetShare("blue", guaranteed_gpus=24))
    world.submit("r", account="red", gpu_count=8, nodes=2).cycle()
    assert [world.job(victim).spec.gpu_count for victim, _ in world.stops()] == [4, 4]


def kept_for_green(**fields: Any) -> World:
    """Of eight devices four are free, and planned for a job of green that wants all; red is owed two."""
    world = given(node(gpus=8)).when(cmd.SetShare("red", guaranteed_gpus=2)).policy(order=Order.FIFO)
    running(world, "b", account="blue", gpu_count=4, time_limit_s=3_600, **fields)
    return world.submit("g", account="green", gpu_count=8).cycle()


def test_an_account_below_its_guarantee_starts_where_it_is_free_though_it_is_reserved() -> None:
    world = kept_for_green(preemptible=True).later(100)
    assert world.submit("r", account="red", gpu_count=2).cycle().starts() == [3]
    assert not world.stops()
    world.check()


def test_an_account_starts_over_what_is_reserved_though_another_just_like_it_may_not() -> None:
    world = kept_for_green().submit("b", account="blue", gpu_count=2)
    assert world.submit("r", account="red", gpu_count=2).cycle().starts() == [4]


def test_nothing_is_started_over_what_is_reserved_beyond_what_is_guaranteed() -> None:
    world = kept_for_green().submit("r", account="red", gpu_count=3).cycle().then_no_start()
    assert world.submit("r", account="red", gpu_count=2, time_limit_s=7_200).cycle().starts() == [4]
    world.submit("r", account="red", gpu_count=1).cycle().then_no_start()


def test_nothing_is_started_over_what_is_booked() -> None:
    world = kept_for_green()
    world.when(cmd.Book("b", ("node-1",), world.now_us + 600 * SECOND, world.now_us + 900 * SECOND))
    world.submit("r", account="red", gpu_count=2, time_limit_s=601).cycle().then_no_start()


def test_nothing_is_started_over_what_others_make_way_for() -> None:
    world = given(node(gpus=4)).when(cmd.SetShare("red", guaranteed_gpus=2)).policy(min_runtime_s=0)
    running(world, account="blue", gpu_count=2, preemptible=True)
    world.submit("g", account="green", gpu_count=4, priority=HIGH).cycle()
    world.submit("r", account="red", gpu_count=2).cycle().then_no_start()


def test_an_account_goes_over_what_is_reserved_only_where_it_must() -> None:
    world = kept_for_green().when(cmd.RegisterNode(node("z", gpus=4)))
    world.submit("r", account="red", gpu_count=2).cycle()
    assert [one.node for one in world.placements()] == ["z"]


def test_a_job_does_not_wait_for_ever_for_processes_that_will_not_go() -> None:
    world = given(node("a", 4), node("b", 4)).policy(min_runtime_s=0)
    running(world, "x", gpu_count=4, preemptible=True)
    running(world, "z", gpu_count=2).later(1_000)
    running(world, "y", gpu_count=2, preemptible=True)
    world.when(cmd.Cancel(job_id(2))).submit("bob", gpu_count=4, priority=HIGH).cycle()
    assert world.stops() == [(3, 4)]
    world.ended(3, exit=TERMINATED)
    for _ in range(10):
        world.later(86_400).cycle()
    assert world.job(1).stop is not None


def test_a_job_does_not_wait_for_ever_for_processes_that_will_not_go_where_others_could_make_way() -> None:
    world = given(node("a", 4), node("b", 4)).policy(min_runtime_s=0)
    running(world, "x", gpu_count=4, preemptible=True)
    running(world, "z", gpu_count=4).later(1_000)
    world.when(cmd.Cancel(job_id(2))).submit("bob", gpu_count=4, priority=HIGH).cycle()
    for _ in range(10):
        world.later(86_400).cycle()
    assert world.job(1).stop is not None


def test_those_for_whom_nobody_can_make_way_do_not_keep_others_from_being_looked_at_for_ever() -> None:
    world = given(node("a", 4), node("b", 4)).policy(min_runtime_s=0)
    running(world, gpu_count=1)
    running(world, gpu_count=3, preemptible=True, priority=LOW)
    running(world, gpu_count=1)
    running(world, gpu_count=3, preemptible=True, priority=LOW).later(10)
    for _ in range(8):
        world.submit("big", gpu_count=4, nodes=1, priority=HIGH)
    world.submit("small", gpu_count=3, priority=HIGH, time_limit_s=600)
    for _ in range(5):
        world.later(100).cycle()
        if world.stops():
            return
    raise AssertionError("nobody was asked to make way")
