"""The cycle: whose turn it is, and where a job goes."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.explain import explainer
from horizon.core.model import Priority
from tests.core.spec import World, given, job_id, node


def gpus(world: World) -> list[tuple[str, int]]:
    """Node and number of GPUs of each placement of the one job just placed."""
    return [(placement.node, len(placement.gpu_ids)) for placement in world.placements()]


# --- order --------------------------------------------------------------------------------------------


def test_urgent_goes_before_high_before_normal_before_low() -> None:
    world = given(node(gpus=4))
    for priority in (Priority.LOW, Priority.NORMAL, Priority.URGENT, Priority.HIGH):
        world.submit(priority=priority)
    assert world.cycle().starts() == [3, 4, 2, 1]
    world.check()


def test_one_owners_jobs_start_in_the_order_of_submission() -> None:
    world = given(node(gpus=3)).submit().submit().submit()
    assert world.cycle().starts() == [1, 2, 3]


def test_three_users_interleave_within_one_cycle() -> None:
    world = given(node(gpus=9))
    for user in ("alice", "bob", "carol"):
        world.submit(user).submit(user).submit(user)
    assert world.cycle().starts() == [1, 4, 7, 2, 5, 8, 3, 6, 9]
    world.check()


def test_whoever_used_less_goes_first() -> None:
    world = given(node(gpus=1)).submit("alice").cycle().started().later(3_600).ended()
    world.submit("alice").submit("bob")
    assert world.cycle().starts() == [3]
    world.check()


def test_a_team_with_twice_the_weight_gets_twice_the_devices() -> None:
    world = given(node(gpus=6))
    world.when(cmd.SetShare("red", 2, user=False)).when(cmd.SetShare("blue", 1, user=False))
    for _ in range(6):
        world.submit("r", account="red").submit("b", account="blue")
    starts = world.cycle().starts()
    assert sorted(number % 2 for number in starts) == [0, 0, 1, 1, 1, 1]
    world.check()


def test_accounts_are_weighed_before_the_users_in_them() -> None:
    world = given(node(gpus=4))
    world.submit("a1", account="big").submit("a2", account="big").submit("a3", account="big")
    world.submit("solo", account="small").submit("solo", account="small")
    assert sorted(world.cycle().starts()) == [1, 2, 4, 5]


def test_a_changed_priority_moves_a_waiting_job() -> None:
    world = given(node(gpus=1)).submit().submit()
    world.when(cmd.Update(job_id(2), priority=Priority.HIGH))
    assert world.cycle().starts() == [2]
    world.check()


def test_what_does_not_fit_waits_without_blocking_what_does() -> None:
    world = given(node(gpus=2)).submit(gpu_count=4).submit(gpu_count=1)
    assert world.cycle().starts() == [2]


def test_the_event_tells_why_it_was_this_jobs_turn() -> None:
    world = given().submit().submit(priority=Priority.HIGH).cycle()
    first, second = world.happened
    assert isinstance(first, ev.JobScheduled)
    assert isinstance(second, ev.JobScheduled)
    assert (first.rank, second.rank) == (1, 2)
    assert first.cycle == second.cycle == 1
    assert first.now_us == world.now_us
    assert first.cause is ev.Cause.PRIORITY


# --- placement ----------------------------------------------------------------------------------------


def test_the_node_it_fits_most_tightly_is_taken() -> None:
    world = given(node("a", 8), node("b", 2), node("c", 4)).submit(gpu_count=2).cycle()
    assert gpus(world) == [("b", 2)]


def test_a_job_gets_as_many_devices_as_it_asked_for_and_no_device_twice() -> None:
    world = given(node(gpus=8)).submit(gpu_count=3).submit(gpu_count=5).cycle()
    world.check()
    assert len(world.state.devices.holders) == 8


def test_a_request_is_placed_whole_or_not_at_all() -> None:
    world = given(node("a", 2), node("b", 2)).submit(gpu_count=4, nodes=3).cycle().then_nothing()
    world.submit(gpu_count=4, nodes=2).cycle()
    assert gpus(world) == [("a", 2), ("b", 2)]
    world.check()


def test_what_one_node_could_hold_waits_for_one_node() -> None:
    world = given(node("a", 4), node("b", 4)).submit(gpu_count=2, nodes=2).cycle().started()
    assert gpus(given(node("a", 4), node("b", 4)).submit(gpu_count=2, nodes=2).cycle()) == [
        ("a", 1),
        ("b", 1),
    ]
    world.submit(gpu_count=4).cycle().then_no_start()


def test_what_no_node_can_hold_is_spread_over_as_few_as_can() -> None:
    world = given(*(node(name, 4) for name in "abcd")).submit(gpu_count=10).cycle()
    assert gpus(world) == [("a", 4), ("b", 3), ("c", 3)]
    world.check()


def test_a_gang_of_uneven_parts_gives_the_larger_part_a_node_that_holds_it() -> None:
    world = given(node("a", 1), node("b", 2)).submit(gpu_count=3, nodes=2).cycle()
    assert gpus(world) == [("b", 2), ("a", 1)]


def test_the_devices_of_a_gang_are_of_one_type() -> None:
    world = given(node("a", 2), node("b", 2, "A100")).submit(gpu_count=4, nodes=2).cycle().then_nothing()
    world.when(cmd.RegisterNode(node("c", 2, "A100"))).cycle()
    assert gpus(world) == [("b", 2), ("c", 2)]


def test_a_gpu_type_is_honoured_in_any_case_of_letters() -> None:
    world = given(node("a", 8), node("b", 8, "A100")).submit(gpu_type="a100").cycle()
    assert gpus(world) == [("b", 1)]


def test_a_gpu_has_at_least_the_memory_asked_for() -> None:
    given(node()).submit(gpu_memory_mib=90_000).cycle().then_nothing()
    assert gpus(given(node()).submit(gpu_memory_mib=80_000).cycle()) == [("node-1", 1)]


def test_cores_and_memory_are_given_out_beside_gpus_and_come_back() -> None:
    world = given(node(cpu_cores=8, memory_mib=4_096)).submit(cpu_cores=6, memory_mib=1_024)
    world.submit(cpu_cores=4).submit(memory_mib=4_096).cycle()
    assert world.starts() == [1]
    world.started().ended()
    assert world.cycle().starts() == [2, 3]
    world.check()


def test_a_cpu_job_takes_no_gpu() -> None:
    world = given().submit(gpu_count=0, cpu_cores=4).cycle()
    assert gpus(world) == [("node-1", 0)]


def test_labels_decide_which_nodes_may_be_used() -> None:
    fast = node("fast", labels={"disk": "nvme"})
    world = given(node("slow"), fast).submit(constraints={"disk": "nvme"}).cycle()
    assert gpus(world) == [("fast", 1)]
    given(node("slow")).submit(constraints={"disk": "nvme"}).cycle().then_nothing()


def test_an_exclusive_job_shares_its_node_with_nobody() -> None:
    world = given(node("a")).submit().submit(exclusive=True)
    assert world.cycle().starts() == [1]
    world.started().ended().submit()
    assert world.cycle().starts() == [2]
    world.cycle().then_nothing()
    world.check()


def test_a_device_that_turns_up_on_another_node_is_still_held() -> None:
    world = given(node("old", 1)).submit().submit().cycle().started()
    world.when(cmd.LoseNode("old", "renamed"))
    renamed = node("new", devices=node("old", 1).devices)
    world.when(cmd.RegisterNode(renamed)).cycle().then_nothing()
    world.ended()
    assert world.cycle().starts() == [2]
    world.check()


def test_memory_alone_never_makes_a_job_two_processes() -> None:
    world = given(node("a", memory_mib=1_000), node("b", memory_mib=1_000))
    world.submit(memory_mib=1_500).cycle().then_nothing()


def test_a_node_that_is_gone_does_not_keep_a_job_from_being_spread() -> None:
    world = given(node("big", 8), node("a", 4), node("b", 4)).when(cmd.LoseNode("big", "sold"))
    world.submit(gpu_count=8).cycle()
    assert gpus(world) == [("a", 4), ("b", 4)]


def test_a_gang_larger_than_the_cluster_waits_and_costs_nothing() -> None:
    given().submit(gpu_count=100_000, nodes=100_000).cycle().then_nothing()


def test_many_begin_times_at_once_are_dealt_with_in_bounded_cycles() -> None:
    from horizon.core import limits
    from horizon.core.schedule import schedule

    world = given(node(gpus=0))
    for _ in range(limits.CYCLE_STARTS_MAX + 5):
        world.submit(begin_at_us=world.now_us + 1)
    world.later(1)
    cycle = schedule(world.state, world.now_us)
    assert len(cycle.events) == limits.CYCLE_STARTS_MAX
    assert cycle.more
    released = [
        world.state.jobs[event.job_id].number for event in cycle.events if isinstance(event, ev.JobReleased)
    ]
    assert released == list(range(1, limits.CYCLE_STARTS_MAX + 1))
    world.cycle().cycle()
    assert not world.state.begins


def test_nothing_is_placed_on_a_lost_node() -> None:
    world = given().when(cmd.LoseNode("node-1", "gone")).then(ev.NodeLost)
    world.submit().cycle().then_nothing()
    world.when(cmd.RegisterNode(node())).then(ev.NodeRegistered)
    assert world.cycle().starts() == [1]
    world.check()


def test_a_node_that_is_registered_again_unchanged_is_no_event() -> None:
    given().when(cmd.RegisterNode(node())).then_nothing()
    given().when(cmd.RegisterNode(node(gpus=4))).then(ev.NodeChanged)


def test_a_cycle_reads_the_state_and_writes_nothing() -> None:
    from horizon.core.schedule import schedule
    from horizon.core.state import digest

    world = given().submit().submit("bob").cycle().submit("carol").submit(gpu_count=99)
    before = digest(world.state)
    first = schedule(world.state, world.now_us + 5)
    assert schedule(world.state, world.now_us + 5) == first
    assert digest(world.state) == before


# --- why not ------------------------------------------------------------------------------------------


def why(world: World, number: int = 1) -> str:
    return explainer(world.state, world.last_cycle, world.now_us)(world.job(number))


def test_a_job_larger_than_the_cluster_is_told_so() -> None:
    world = given(node("a"), node("b")).submit(gpu_count=1_000).cycle().then_nothing()
    assert why(world) == (
        "asks for 1000 GPUs, more than this cluster has: 16 such GPUs are there, at most 8 on one node"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"gpu_count": 6, "nodes": 2},
            "it wants 3 GPUs on each of 2 nodes; one node has at most 2 such GPUs",
        ),
        ({"gpu_count": 4, "nodes": 4}, "it wants 4 nodes, and 3 may be used for it"),
        ({"gpu_memory_mib": 204_800}, "asks for 1 GPU with 200 GB, more than this cluster has: 0 such GPUs"),
        (
            {"cpu_cores": 9_999},
            "it wants 1 GPUs, 9999 cores on one node; one node has at most 2 such GPUs, 128 cores",
        ),
        ({"gpu_type": "A100"}, "asks for 1 A100 GPU, more than this cluster has: 0 such GPUs are there"),
    ],
)
def test_what_can_never_fit_is_told_what_is_missing(fields: dict[str, Any], words: str) -> None:
    assert words in why(given(*(node(name, 2) for name in "abc")).submit(**fields).cycle())


def test_a_job_that_waits_for_devices_is_told_what_is_free() -> None:
    world = given(node(gpus=4)).submit(gpu_count=3).submit(gpu_count=2).cycle()
    assert why(world, 2) == "waits for 2 GPUs on one node: 1 such GPUs are free, at most 1 on one node"


def test_a_job_that_may_not_start_yet_is_told_why() -> None:
    world = given().submit(hold=True)
    assert why(world) == "held: it starts only after a release"
    world = given()
    world.submit(begin_at_us=world.now_us + 1_000_000)
    assert why(world) == "waits for its begin time 2023-11-14T22:13:21+00:00"


def test_a_job_in_a_cluster_without_nodes_is_told_so() -> None:
    assert why(World().submit()) == "waits for nodes: none has joined the cluster"


def test_a_label_that_no_node_has_is_named() -> None:
    world = given().submit(constraints={"zone": "moon"}).cycle()
    assert why(world) == (
        "asks for 1 GPU, nodes with zone=moon, more than this cluster has: no node may be used for it"
    )
