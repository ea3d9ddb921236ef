"""What random lives have found: each a small case with a name."""

from __future__ import annotations

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Array, Dependency, DependencyKind, IndexRange, JobState, Priority
from horizon.core.policy import Order
from tests.core.spec import BAD, World, given, job_id, node

HIGH = Priority.HIGH


def asked_to_stop(world: World) -> list[tuple[int, type[ev.Event]]]:
    """Who was asked to stop by what just happened, and how."""
    kinds = (ev.PreemptionRequested, ev.TimeLimitReached, ev.RequeueRequested)
    return [(world.state.jobs[e.job_id].number, type(e)) for e in world.happened if isinstance(e, kinds)]


def running(world: World, **fields: object) -> World:
    """Submit a job, and have it started."""
    world.submit(**fields).cycle()  # type: ignore[arg-type]
    return world.started(world.state.next_number - 1)


# --- who is asked to stop -----------------------------------------------------------------------------


def test_a_job_makes_way_for_one_job_only() -> None:
    world = running(given(node(gpus=2)).policy(min_runtime_s=0), gpu_count=2, preemptible=True)
    world.submit(priority=HIGH).submit(priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]


def test_a_job_whose_time_is_up_is_not_asked_to_make_way_as_well() -> None:
    world = running(
        given(node(gpus=2)).policy(min_runtime_s=0), gpu_count=2, preemptible=True, time_limit_s=9
    )
    world.submit(priority=HIGH).later(9).cycle()
    assert asked_to_stop(world) == [(1, ev.TimeLimitReached)]


def test_a_job_whose_time_is_up_as_its_node_is_to_be_empty_has_used_up_its_time() -> None:
    world = running(given(), time_limit_s=9)
    world.when(cmd.CordonNode("node-1", drain=True, deadline_us=world.now_us + 9_000_000)).later(9).cycle()
    assert asked_to_stop(world) == [(1, ev.TimeLimitReached)]
    world.ended(exit=BAD).is_(JobState.FAILED)


def test_nobody_makes_way_on_a_node_where_nobody_is_to_start() -> None:
    a, b = node("a", 2, cpu_cores=4, labels={"disk": "ssd"}), node("b", 3, cpu_cores=4)
    world = given(b, a).policy(min_runtime_s=0)
    running(world, gpu_count=0, cpu_cores=4, constraints={"disk": "ssd"}, preemptible=True)
    running(world, gpu_count=4, nodes=2, preemptible=True)
    running(world, gpu_count=1)
    world.later(5).submit(gpu_count=2, cpu_cores=4, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(2, ev.PreemptionRequested)]
    assert [claim.nodes for claim in world.state.claims.values()] == [("b",)]


# --- devices ------------------------------------------------------------------------------------------


def test_a_device_that_two_nodes_have_is_given_out_once() -> None:
    a, b = node("a", 1), node("b", 1, devices=node("a", 1).devices)
    world = given(a, b).submit().submit().cycle()
    assert world.starts() == [1]
    world.cycle().then_no_start().when(cmd.RegisterNode(node("b", 0))).cycle().then_no_start()
    world.ended().cycle()
    assert world.starts() == [2]
    world.check()


def test_a_device_that_a_gang_got_on_one_of_its_nodes_is_held_on_the_other_that_has_it_too() -> None:
    a = node("a", 1)
    b = node("b", 1, devices=(*node("b", 1).devices, *a.devices))
    world = given(a, b).submit(gpu_count=2, nodes=2).cycle()
    world.submit().cycle().check()


def test_a_device_that_two_nodes_have_is_not_given_to_a_gang_twice() -> None:
    a, b = node("a", 1), node("b", 1, devices=node("a", 1).devices)
    given(a, b).submit(gpu_count=2, nodes=2).cycle().then_no_start().check()


# --- those for whom others make way -------------------------------------------------------------------


def test_nobody_makes_way_for_a_job_that_a_quota_would_keep_from_starting_then() -> None:
    world = given(node(gpus=4)).policy(min_runtime_s=0).when(cmd.SetShare("a", max_gpus=2))
    running(world, account="z", gpu_count=2, preemptible=True)
    running(world, account="z", gpu_count=2, preemptible=True)
    world.submit(account="a", gpu_count=2, priority=HIGH).submit(account="a", gpu_count=2, priority=HIGH)
    assert len(asked_to_stop(world.cycle())) == 1


def test_what_others_make_way_for_is_not_taken_by_the_accounts_other_jobs() -> None:
    world = given(node("a", 2), node("b", 2, "A100")).policy(min_runtime_s=0)
    world.when(cmd.SetShare("q", max_gpus=2))
    running(world, gpu_count=2, gpu_type="H100", preemptible=True)
    world.submit(account="q", gpu_count=2, gpu_type="H100", priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.submit(account="q", gpu_count=1, gpu_type="A100").cycle().then_no_start()
    world.ended(1, BAD).cycle()
    assert world.starts() == [2]


def test_a_task_for_which_others_make_way_counts_as_one_that_runs() -> None:
    world = given(node("a", 2), node("b", 2, "A100")).policy(min_runtime_s=0)
    running(world, gpu_count=2, gpu_type="H100", preemptible=True)
    array = Array((IndexRange(0, 1),), limit=1)
    world.submit(array=array, gpu_count=2, priority=HIGH, gpu_type="H100").cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.RegisterNode(node("c", 2))).cycle()  # room for the other task, or for both
    world.ended(1, BAD).cycle()
    assert sum(job.array == 2 for job in world.state.holding.values()) == 1


def test_a_job_for_which_others_make_way_starts_elsewhere_when_there_is_room() -> None:
    world = given(node("a", 2)).policy(min_runtime_s=0)
    running(world, gpu_count=2, preemptible=True, grace_period_s=60)
    world.submit(gpu_count=2, priority=HIGH).submit(gpu_count=2, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.RegisterNode(node("b", 2))).cycle()
    assert world.starts() == [2]
    world.check()


def test_a_quota_that_was_lowered_while_others_make_way_holds_elsewhere_too() -> None:
    world = given(node("a", 2)).policy(min_runtime_s=0)
    running(world, gpu_count=2, preemptible=True)
    world.submit(account="q", gpu_count=2, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.SetShare("q", max_gpus=1)).when(cmd.RegisterNode(node("b", 2))).cycle().then_no_start()


def test_a_place_that_is_lost_is_not_where_later_victims_make_way() -> None:
    world = given(node("a", 2), node("b", 2)).policy(min_runtime_s=0)
    running(world, gpu_count=2, preemptible=True)
    running(world, gpu_count=2, preemptible=True)
    world.later(5).when(cmd.Checkpoint(job_id(1)))  # now it has less to lose
    world.submit(gpu_count=2, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.LoseNode("a", "gone")).cycle()
    assert asked_to_stop(world) == [(2, ev.PreemptionRequested)]
    assert [claim.nodes for claim in world.state.claims.values()] == [("b",)]
    world.ended(2, BAD).submit(gpu_count=1, priority=Priority.URGENT).cycle()
    assert 3 in world.starts()


def test_an_account_reclaims_no_more_than_it_is_guaranteed() -> None:
    world = given(node(gpus=4)).policy(min_runtime_s=0).when(cmd.SetShare("poor", guaranteed_gpus=2))
    running(world, account="rich", gpu_count=2, preemptible=True)
    running(world, account="rich", gpu_count=2, preemptible=True)
    world.submit(account="poor", gpu_count=2).submit(account="poor", gpu_count=2)
    assert len(asked_to_stop(world.cycle())) == 1
    assert asked_to_stop(world.cycle()) == []


def test_an_account_gives_no_more_than_it_holds_beyond_its_guarantee() -> None:
    world = given(node(gpus=4)).policy(min_runtime_s=0)
    world.when(cmd.SetShare("a", guaranteed_gpus=2)).when(cmd.SetShare("b", guaranteed_gpus=2))
    world.when(cmd.SetShare("rich", guaranteed_gpus=2))
    running(world, account="rich", gpu_count=2, preemptible=True)
    running(world, account="rich", gpu_count=2, preemptible=True)
    world.submit(account="a", gpu_count=2).submit(account="b", gpu_count=2)
    assert len(asked_to_stop(world.cycle())) == 1
    assert asked_to_stop(world.cycle()) == []


def test_an_account_below_its_guarantee_reclaims_from_one_beside_it_though_both_are_under_a_poor_one() -> (
    None
):
    world = given(node(gpus=2)).policy(min_runtime_s=0)
    world.when(cmd.SetShare("a", guaranteed_gpus=8)).when(cmd.SetShare("a/x", guaranteed_gpus=2))
    running(world, account="a/y", gpu_count=2, preemptible=True)
    world.submit(account="a/x", gpu_count=2).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]


def test_under_a_strict_order_nobody_passes_the_job_for_which_others_make_way() -> None:
    world = given(node("a", 4), node("b", 1)).policy(min_runtime_s=0, strict=True, order=Order.FIFO)
    running(world, gpu_count=2, preemptible=True)
    world.submit(gpu_count=4, priority=HIGH).submit(gpu_count=1).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.then_no_start().cycle().then_no_start()


def test_what_others_made_way_for_is_kept_until_all_are_gone_who_were_to_go() -> None:
    world = given(node(gpus=2, cpu_cores=4)).policy(min_runtime_s=0)
    running(world, gpu_count=0, cpu_cores=4, time_limit_s=10)
    running(world, gpu_count=2, preemptible=True)
    world.later(10).submit(gpu_count=2, cpu_cores=4, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.TimeLimitReached), (2, ev.PreemptionRequested)]
    world.ended(2, BAD).submit(gpu_count=2, priority=Priority.LOW, time_limit_s=5).cycle().then_no_start()
    world.ended(1, BAD).cycle()
    assert world.starts() == [3]
    world.check()


def test_who_could_not_take_what_was_freed_for_him_has_no_right_to_it_for_ever() -> None:
    world = given(node("a", 2), node("b", 1)).policy(min_runtime_s=0)
    running(world, gpu_count=2, preemptible=True)
    world.submit(gpu_count=2, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.CordonNode("a")).ended(1, BAD).submit(gpu_count=1).cycle()
    assert world.starts() == [3]
    world.submit(gpu_count=2, priority=Priority.URGENT).when(cmd.ResumeNode("a")).cycle()
    assert world.starts() == [4]
    world.check()


def test_what_one_gives_by_his_priority_and_another_by_the_guarantee_has_a_reason() -> None:
    world = given(node(gpus=2)).policy(min_runtime_s=0).when(cmd.SetShare("a", guaranteed_gpus=3))
    running(world, account="b", gpu_count=1, preemptible=True).later(5)
    running(world, account="a", gpu_count=1, preemptible=True, priority=Priority.LOW)
    world.submit(account="a", gpu_count=2).cycle()
    assert asked_to_stop(world) == [(2, ev.PreemptionRequested), (1, ev.PreemptionRequested)]
    reasons = {event.reason for event in world.happened if isinstance(event, ev.PreemptionRequested)}
    assert reasons == {"job 3 of alice: a holds 1 of the 3 GPUs that it is guaranteed"}


# --- patience -----------------------------------------------------------------------------------------


def test_who_came_early_but_waits_only_now_does_not_hide_those_who_have_waited_for_too_long() -> None:
    world = running(given(node(gpus=1)).policy(patience_s=100), user_id="bob")
    world.submit("alice", begin_at_us=world.now_us + 200_000_000).submit("alice").later(200).cycle()
    world.later(50).ended().cycle()
    assert world.starts() == [3]


def test_under_a_strict_order_nobody_passes_who_has_waited_for_too_long() -> None:
    world = running(given(node(gpus=2)).policy(strict=True, patience_s=100)).later(1_000).ended()
    running(world, user_id="bob").submit("alice", gpu_count=2).later(100).submit("carol")
    world.cycle().then_no_start()
    world.ended(2).cycle()
    assert world.starts() == [3]


# --- what may be asked --------------------------------------------------------------------------------


def test_a_task_that_runs_cannot_be_held() -> None:
    world = running(given(), array=Array((IndexRange(0, 0),)))
    assert world.job(2).state is JobState.SCHEDULED or world.started(2)
    world.when(cmd.Update(world.job(2).id, hold=True)).then_refused("only a waiting job")


def test_only_a_job_that_runs_can_have_saved_its_work() -> None:
    world = given().submit().cycle().is_(JobState.SCHEDULED)
    world.when(cmd.Checkpoint(job_id(1))).then_refused("it has nothing to save yet")


# --- waiting ------------------------------------------------------------------------------------------


def test_what_has_been_running_has_been_running_whatever_came_of_it() -> None:
    after = (Dependency(job_id(1), DependencyKind.AFTER_START),)
    world = running(given(), max_retries=1).ended(exit=BAD).later(10).cycle().cycle().is_(JobState.SCHEDULED)
    world.submit("bob", depends_on=after).cycle()
    assert world.starts() == [2]
    world.when(cmd.Cancel(job_id(1))).submit("bob", depends_on=after).cycle()
    assert world.starts() == [3]


def test_a_quota_of_gpus_keeps_no_job_without_gpus_waiting() -> None:
    world = running(given(), account="a", gpu_count=4).when(cmd.SetShare("a", max_gpus=2))
    world.submit(account="a", gpu_count=0, cpu_cores=1).cycle()
    assert world.starts() == [2]


def test_a_node_that_came_back_with_less_memory_than_is_held_takes_jobs_that_reserve_none() -> None:
    world = running(given(node(memory_mib=65_536)), memory_mib=40_000)
    world.when(cmd.RegisterNode(node(memory_mib=8_192))).submit().cycle()
    assert world.starts() == [2]


def test_a_job_that_is_being_stopped_as_it_starts_is_still_expected_back_soon() -> None:
    world = given(node(gpus=1)).submit(grace_period_s=5, time_limit_s=1_000).cycle()
    world.when(cmd.Requeue(job_id(1))).started(1)
    world.submit(priority=HIGH).cycle()
    assert [one.start_us for one in world.last_cycle.reservations] == [world.now_us + 5_000_000]


def test_a_job_that_fits_one_node_stays_on_one_when_it_is_tried_again() -> None:
    world = given(node("a", 2), node("b", 1), node("c", 1))
    running(world, gpu_count=2, max_retries=1).ended(exit=BAD).later(10).cycle().cycle()
    assert [placement.node for placement in world.job().allocation] == ["a"]


def test_what_is_freed_is_not_kept_for_a_job_that_its_quota_keeps_by_now() -> None:
    world = given(node("a", 4), node("b", 1)).policy(min_runtime_s=0, strict=True, order=Order.FIFO)
    running(world, gpu_count=2, preemptible=True)
    world.submit(account="q", gpu_count=4, priority=HIGH).cycle()
    assert asked_to_stop(world) == [(1, ev.PreemptionRequested)]
    world.when(cmd.SetShare("q", max_gpus=1)).submit(gpu_count=2).submit(gpu_count=1).cycle()
    assert world.starts() == [3, 4]
    world.check()
