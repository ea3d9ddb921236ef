"""Where a job goes: which nodes and devices will do, and which of them are taken."""

from __future__ import annotations

from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core.model import Device, Inventory, Priority
from tests.core.spec import BAD, World, given, node

GIB = 1024


def where(world: World) -> list[tuple[str, int]]:
    """Node and number of GPUs of each placement of the one job just placed."""
    return [(placement.node, len(placement.gpu_ids)) for placement in world.placements()]


def slots(world: World) -> list[int]:
    """The devices that the one job just placed got, by their index, on its only node."""
    [placement] = world.placements()
    return [int(gpu_id.rpartition("-")[2]) for gpu_id in placement.gpu_ids]


def wired(name: str = "node-1", gpus: int = 8, **fields: Any) -> Inventory:
    """A node whose devices have what ``fields`` say: a function of the index for each field of a device."""
    devices = tuple(
        Device(
            f"GPU-{name}-{index}",
            index,
            "H100",
            81_559,
            **{field: value(index) for field, value in fields.items()},
        )
        for index in range(gpus)
    )
    return node(name, devices=devices)


def sized(name: str, memory_mib: int, gpus: int = 4) -> Inventory:
    devices = tuple(Device(f"GPU-{name}-{index}", index, "A100", memory_mib) for index in range(gpus))
    return node(name, devices=devices)


# --- which will do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_gib", "fits"), [(1, True), (79, True), (80, True), (81, False), (96, False)])
def test_an_80_gb_device_holds_80_gb_though_its_driver_reports_a_little_less(
    asked_gib: int, fits: bool
) -> None:
    world = given(node()).submit(gpu_memory_mib=asked_gib * GIB).cycle()
    assert (world.starts() == [1]) is fits
    world.check()


@pytest.mark.parametrize(
    ("reported_mib", "sold_gb"),
    [
        (16_160, 16),
        (32_510, 32),
        (40_536, 40),
        (81_559, 80),
        (81_920, 80),
        (95_830, 94),
        (81_251, 80),
        (143_771, 141),
        (183_359, 180),
    ],
)
def test_a_device_holds_what_it_is_sold_for(reported_mib: int, sold_gb: int) -> None:
    world = given(sized("a", reported_mib)).submit(gpu_memory_mib=sold_gb * GIB)
    assert world.cycle().starts() == [1]
    world.check()


def test_devices_whose_drivers_differ_in_the_last_megabytes_are_alike() -> None:
    world = given(sized("a", 81_559), sized("b", 81_920)).submit(gpu_count=8, nodes=2).cycle()
    assert where(world) == [("a", 4), ("b", 4)]
    world.check()


def test_type_and_memory_are_both_asked_of_the_same_device() -> None:
    world = given(sized("small", 40_536), sized("large", 81_920), node("other", 4))
    world.submit(gpu_type="A100", gpu_memory_mib=80 * GIB).cycle()
    assert where(world) == [("large", 1)]
    world.submit(gpu_type="H100", gpu_memory_mib=96 * GIB).cycle().then_no_start()
    world.check()


def test_cores_and_memory_beside_the_gpus_must_fit_on_the_same_node() -> None:
    world = given(node("a", cpu_cores=16), node("b", memory_mib=64 * GIB))
    world.submit(cpu_cores=32, memory_mib=32 * GIB).cycle()
    assert where(world) == [("b", 1)]
    world.submit(cpu_cores=32, memory_mib=128 * GIB).cycle().then_no_start()
    world.check()


def test_a_node_whose_cores_are_given_out_takes_no_job_that_wants_cores_though_gpus_are_free() -> None:
    world = given(node(cpu_cores=16)).submit(cpu_cores=16).submit(cpu_cores=1).submit()
    assert world.cycle().starts() == [1, 3]
    world.check()


def test_every_node_of_a_gang_has_the_labels() -> None:
    fast = {"fabric": "ib"}
    world = given(node("a", 4, labels=fast), node("b", 4), node("c", 4, labels=fast))
    world.submit(gpu_count=8, nodes=2, constraints=fast).cycle()
    assert where(world) == [("a", 4), ("c", 4)]
    world.check()


def test_all_the_labels_that_were_asked_for_must_be_there() -> None:
    world = given(node("a", labels={"disk": "nvme"}), node("b", labels={"disk": "nvme", "zone": "1"}))
    world.submit(constraints={"zone": "1", "disk": "nvme"}).cycle()
    assert where(world) == [("b", 1)]
    world.check()


def test_a_node_that_comes_back_with_a_label_may_be_used_for_it() -> None:
    world = given(node()).submit(constraints={"zone": "1"}).cycle().then_nothing()
    world.when(cmd.RegisterNode(node(labels={"zone": "1"})))
    assert world.cycle().starts() == [1]
    world.check()


def test_an_exclusive_gang_has_each_of_its_nodes_for_itself() -> None:
    world = given(node("a"), node("b"), node("c")).submit().cycle()
    assert where(world) == [("a", 1)]
    world.submit(gpu_count=2, nodes=2, exclusive=True).cycle()
    assert where(world) == [("b", 1), ("c", 1)]
    world.submit(gpu_count=0, cpu_cores=1).cycle()
    assert where(world) == [("a", 0)]
    world.check()


def test_an_exclusive_job_may_have_a_node_with_devices_that_it_did_not_ask_for() -> None:
    world = given(node("a", 8)).submit(gpu_count=0, cpu_cores=1, exclusive=True).cycle()
    assert where(world) == [("a", 0)]
    world.submit().cycle().then_no_start()
    world.check()


def test_a_gang_of_two_sizes_of_one_type_is_not_made() -> None:
    world = given(sized("a", 40_536), sized("b", 81_920)).submit(gpu_count=8, nodes=2).cycle().then_nothing()
    world.when(cmd.RegisterNode(sized("c", 81_920))).cycle()
    assert where(world) == [("b", 4), ("c", 4)]
    world.check()


def test_a_job_of_one_node_gets_devices_of_one_kind() -> None:
    mixed = node(
        "mixed",
        devices=(
            *(Device(f"GPU-mixed-{index}", index, "A100", 40_536) for index in range(2)),
            *(Device(f"GPU-mixed-{index}", index, "H100", 81_559) for index in range(2, 4)),
        ),
    )
    world = given(mixed).submit(gpu_count=3).cycle().then_nothing()
    world.submit(gpu_count=2, gpu_type="h100").cycle()
    assert slots(world) == [2, 3]
    world.check()


# --- which is taken -----------------------------------------------------------------------------------


def test_small_jobs_leave_the_empty_node_to_a_large_one() -> None:
    world = given(node("a", 8), node("b", 8)).submit(gpu_count=5).cycle()
    for _ in range(3):
        world.submit("bob").cycle()
        assert where(world) == [("a", 1)]
    world.submit("carol", gpu_count=8).cycle()
    assert where(world) == [("b", 8)]
    world.check()


def test_the_tightest_node_is_one_with_few_free_devices_not_one_with_few() -> None:
    world = given(node("large", 8), node("small", 4)).submit(gpu_count=6).cycle()
    assert where(world) == [("large", 6)]
    world.submit(gpu_count=2).cycle()
    assert where(world) == [("large", 2)]
    world.check()


def test_a_cpu_job_keeps_away_from_free_gpus() -> None:
    world = given(node("a", 8), node("b", 8), node("cpu", 0)).submit(gpu_count=0, cpu_cores=8).cycle()
    assert where(world) == [("cpu", 0)]
    world.submit(gpu_count=8).cycle()
    assert where(world) == [("a", 8)]
    world.when(cmd.LoseNode("cpu", "gone")).submit(gpu_count=0, cpu_cores=8).cycle()
    assert where(world) == [("a", 0)]
    world.check()


def test_devices_in_one_nvlink_group_go_together() -> None:
    world = given(wired(link_group=lambda index: index % 2)).submit(gpu_count=4).cycle()
    assert slots(world) == [0, 2, 4, 6]
    world.submit(gpu_count=4).cycle()
    assert slots(world) == [1, 3, 5, 7]
    world.check()


def test_a_small_job_breaks_the_nvlink_group_that_is_broken_already() -> None:
    world = given(wired(link_group=lambda index: index // 4)).submit(gpu_count=2).cycle()
    assert slots(world) == [0, 1]
    world.submit(gpu_count=2).cycle()
    assert slots(world) == [2, 3]
    world.submit(gpu_count=4).cycle()
    assert slots(world) == [4, 5, 6, 7]
    world.check()


def test_a_job_that_needs_more_than_a_group_takes_whole_groups_first() -> None:
    world = given(wired(link_group=lambda index: index // 2)).submit().cycle()
    assert slots(world) == [0]
    world.submit(gpu_count=5).cycle()
    assert slots(world) == [1, 2, 3, 4, 5]
    world.submit(gpu_count=2).cycle()
    assert slots(world) == [6, 7]
    world.check()


def test_without_nvlink_devices_of_one_numa_node_go_together() -> None:
    world = given(wired(numa_node=lambda index: index % 2)).submit(gpu_count=3).cycle()
    assert slots(world) == [0, 2, 4]
    world.submit(gpu_count=4).cycle()
    assert slots(world) == [1, 3, 5, 7]
    world.check()


def test_within_a_numa_node_devices_below_one_pcie_root_go_together() -> None:
    world = given(wired(numa_node=lambda index: index // 4, pcie_root=lambda index: f"root-{index % 4}"))
    world.submit().cycle()
    assert slots(world) == [0]
    world = given(wired(numa_node=lambda index: index // 4, pcie_root=lambda index: f"root-{index // 2}"))
    world.submit().cycle().submit(gpu_count=2).cycle()
    assert slots(world) == [2, 3]
    world.check()


def test_of_equally_tight_nodes_the_one_whose_devices_are_closest_is_taken() -> None:
    world = given(
        wired("scattered", 4, link_group=lambda index: index), wired("whole", 4, link_group=lambda _: 0)
    )
    world.submit(gpu_count=2).cycle()
    assert where(world) == [("whole", 2)]
    world.check()


# --- what connects nodes ------------------------------------------------------------------------------


def floor() -> World:
    """Six nodes of four GPUs: a and b on switch s1, c and d on s2, both in rack r1; e and f on s3 in r2."""
    places = {"a": ("s1", "r1"), "c": ("s2", "r1"), "e": ("s3", "r2"), "b": ("s1", "r1"), "d": ("s2", "r1")}
    places["f"] = ("s3", "r2")
    return given(*(node(name, 4, labels={"switch": s, "rack": r}) for name, (s, r) in places.items()))


def names(world: World) -> str:
    return "".join(sorted(placement.node for placement in world.placements()))


def test_a_gang_keeps_within_one_switch_if_it_can() -> None:
    world = floor()
    for pair in ("ab", "cd", "ef"):
        world.submit(gpu_count=8, nodes=2).cycle()
        assert names(world) == pair
    world.check()


def test_a_gang_too_large_for_a_switch_keeps_within_one_rack() -> None:
    world = floor().submit(gpu_count=12, nodes=3).cycle()
    assert set(names(world)) < set("abcd")
    world.check()


def test_a_gang_whose_switches_are_half_taken_keeps_within_one_rack() -> None:
    world = floor()
    for name in "ace":
        world.when(cmd.CordonNode(name))
    world.submit(gpu_count=8, nodes=2).cycle()
    assert names(world) == "bd"
    world.check()


def test_a_gang_too_large_for_any_rack_goes_where_there_is_room() -> None:
    world = floor().submit(gpu_count=20, nodes=5).cycle()
    assert len(names(world)) == 5
    world.check()


def test_a_small_gang_leaves_the_larger_domain_whole() -> None:
    places = {"a": "s1", "b": "s1", "c": "s1", "d": "s2", "e": "s2"}
    world = given(*(node(name, 4, labels={"switch": s}) for name, s in places.items()))
    world.submit(gpu_count=8, nodes=2).cycle()
    assert names(world) == "de"
    world.submit(gpu_count=12, nodes=3).cycle()
    assert names(world) == "abc"
    world.check()


def test_which_labels_connect_nodes_is_a_matter_of_policy() -> None:
    """The first and third node are in one pod; without the policy nothing says so."""
    pods = {"a": "p1", "b": "p2", "c": "p1"}
    nodes = [node(name, 4, labels={"pod": pod}) for name, pod in pods.items()]
    assert names(given(*nodes).submit(gpu_count=8, nodes=2).cycle()) == "ab"
    world = given(*nodes).policy(topology_labels=("pod",)).submit(gpu_count=8, nodes=2).cycle()
    assert names(world) == "ac"
    world.check()


def test_a_gang_waits_rather_than_start_in_part() -> None:
    world = floor().submit(gpu_count=4).submit(gpu_count=24, nodes=6)
    assert world.cycle().starts() == [1]
    world.started().ended()
    assert world.cycle().starts() == [2]
    world.check()


# --- where it failed before ---------------------------------------------------------------------------


def failed_once(*nodes: Inventory, **fields: Any) -> World:
    """Job 1 failed in its first attempt and waits for its second."""
    world = given(*nodes).policy(retry_backoff_s=0).submit(max_retries=3, **fields).cycle().started()
    return world.ended(exit=BAD)


def test_a_job_that_failed_on_a_node_is_tried_on_another() -> None:
    world = failed_once(node("a", 2), node("b", 8)).cycle()
    assert where(world) == [("b", 1)]
    world.check()


def test_a_job_that_failed_on_the_only_node_there_is_is_tried_there_again() -> None:
    world = failed_once(node("a")).cycle()
    assert where(world) == [("a", 1)]
    world.check()


def test_a_job_that_failed_on_the_only_node_that_will_do_is_tried_there_again() -> None:
    world = failed_once(node("a"), node("b", 8, "A100"), gpu_type="H100").cycle()
    assert where(world) == [("a", 1)]
    world.check()


def test_a_job_that_failed_waits_for_another_node_while_the_one_where_it_failed_is_free() -> None:
    world = failed_once(node("a", 1), node("b", 2), priority=Priority.LOW)
    world.submit("bob", gpu_count=2, time_limit_s=60)
    assert world.cycle().starts() == [2]
    world.started(2).later(60).ended(2).cycle()
    assert where(world) == [("b", 1)]
    world.check()


def test_a_job_that_failed_everywhere_is_tried_anywhere() -> None:
    world = failed_once(node("a", 2), node("b", 8)).cycle().started().ended(exit=BAD)
    assert world.job().avoid == ("a", "b")
    world.cycle()
    assert where(world) == [("a", 1)]
    world.check()


def test_a_gang_avoids_only_the_node_of_the_process_that_failed() -> None:
    world = given(*(node(name, 4) for name in "abc")).policy(retry_backoff_s=0)
    world.submit(gpu_count=8, nodes=2, max_retries=1).cycle().started().ended(exit=BAD, rank=1)
    assert world.job().avoid == ("b",)
    world.cycle()
    assert where(world) == [("a", 4), ("c", 4)]
    world.check()


def test_other_jobs_may_go_where_one_failed() -> None:
    world = failed_once(node("a", 2), node("b", 8)).submit("bob")
    world.cycle()
    assert {p.node for p in world.job(2).allocation} == {"a"}
    world.check()
