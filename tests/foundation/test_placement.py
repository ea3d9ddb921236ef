"""What placement promises, said once and run over the compiled one and its plain twin."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from horizon import _placement
from tests.foundation import twin_placement

LOST, CORDONED, OPEN = _placement.LOST, _placement.CORDONED, _placement.OPEN
NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
NO_GROUPS = (-1, -1, -1)


@pytest.fixture(params=[_placement, twin_placement], ids=["compiled", "plain"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def cluster(module: Any) -> Any:
    """No nodes yet; kind 0 is of type 0 with 80 GiB, kind 1 of type 1 with 40 GiB."""
    cluster = module.Cluster()
    assert [cluster.add_kind(0, 80 * 1024), cluster.add_kind(1, 40 * 1024)] == [0, 1]
    return cluster


def add(
    cluster: Any,
    devices: int | list[tuple[int, int, int, int]] = 0,
    kind: int = 0,
    cores: int = 64,
    memory_mib: int = 1000,
    labels: tuple[int, ...] = (),
    domains: tuple[int, ...] = (),
    state: int = OPEN,
) -> int:
    """A node with so many devices of a kind, without topology, or with just these."""
    node: int = cluster.add_node()
    made = [(kind, *NO_GROUPS)] * devices if isinstance(devices, int) else devices
    cluster.set_node(node, cores, memory_mib, made, labels, domains)
    cluster.set_state(node, state)
    return node


def ask(
    cluster: Any,
    gpus: int = 0,
    gpu_type: int = -1,
    gpu_memory_mib: int = 0,
    cores: int = 0,
    memory_mib: int = 0,
    nodes: int = 0,
    exclusive: bool = False,
    labels: tuple[int, ...] = (),
) -> int:
    request: int = cluster.add_request(
        gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, labels
    )
    return request


def hold(
    cluster: Any,
    node: int,
    number: int,
    slots: tuple[int, ...] = (),
    cores: int = 0,
    memory_mib: int = 0,
    exclusive: bool = False,
    end_us: int = NOW_US + HOUR_US,
    seats: bool = True,
) -> None:
    cluster.hold(node, number, slots, cores, memory_mib, exclusive, end_us, seats)


def placed(cluster: Any, request: int, duration_us: int = HOUR_US, **rest: Any) -> Any:
    """Where a plan of now would place the request."""
    return cluster.plan(NOW_US).place(request, duration_us, **rest)


def nodes_of(answer: Any) -> Any:
    return None if answer is None else [node for node, _ in answer]


def foreseen(cluster: Any, request: int, duration_us: int = HOUR_US, **rest: Any) -> Any:
    """When and where a plan of now would start the request; the time counts from now."""
    answer = cluster.plan(NOW_US).earliest(request, duration_us, **rest)
    return None if answer is None else (answer[0] - NOW_US, answer[1])


def test_the_compiled_placement_is_the_one_that_was_compiled() -> None:
    assert not _placement.__file__.endswith(".py")
    assert type(_placement.Cluster.hold).__name__ != "function"


def test_both_have_the_same_constants() -> None:
    for name in ("TOPOLOGY_TRIED", "SPLITS_TRIED", "LOST", "CORDONED", "OPEN", "VERDICTS"):
        assert getattr(_placement, name) == getattr(twin_placement, name)


# ---------------------------------------------------------------------------------------- what there is


def test_kinds_nodes_and_requests_are_numbered_from_zero(module: Any) -> None:
    cluster = module.Cluster()
    assert [cluster.add_kind(7, 100), cluster.add_kind(7, 100)] == [0, 1]
    assert [cluster.add_node(), cluster.add_node()] == [0, 1]
    assert [ask(cluster, 1), ask(cluster, 1)] == [0, 1]
    assert len(cluster) == 2
    assert cluster.memory_bytes() > 0


def test_a_new_node_is_lost_and_has_nothing(cluster: Any) -> None:
    node = cluster.add_node()
    assert (cluster.state(node), cluster.free(node)) == (LOST, (0, 0, ()))
    assert cluster.nodes_for(ask(cluster, cores=1)) == 0


def test_what_is_free_is_told_whatever_the_nodes_state(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 1, (1, 3), cores=4, memory_mib=100)
    for state in (LOST, CORDONED, OPEN):
        cluster.set_state(node, state)
        assert (cluster.state(node), cluster.free(node)) == (state, (60, 900, (0, 2)))


def test_a_node_given_its_inventory_again_has_all_of_it_free_and_keeps_its_state(cluster: Any) -> None:
    node = add(cluster, 4, state=CORDONED)
    hold(cluster, node, 1, (0, 1), cores=4)
    cluster.set_device(node, 3, False)
    cluster.book(node, 1, NOW_US, NOW_US + HOUR_US)
    cluster.set_node(node, 8, 10, [(1, *NO_GROUPS)] * 2)
    assert (cluster.state(node), cluster.free(node)) == (CORDONED, (8, 10, (0, 1)))
    cluster.set_state(node, OPEN)
    hold(cluster, node, 1, (0,))
    assert placed(cluster, ask(cluster, 1, gpu_type=1)) == [(node, (1,))]


def test_a_device_that_may_not_be_given_out_is_not_free_and_counts_for_nothing(cluster: Any) -> None:
    node = add(cluster, 2)
    cluster.set_device(node, 0, False)
    one, two = ask(cluster, 1), ask(cluster, 2, nodes=1)
    assert (cluster.free(node)[2], placed(cluster, one)) == ((1,), [(node, (1,))])
    assert (cluster.nodes_for(two), placed(cluster, two)) == (0, None)
    cluster.set_device(node, 0, True)
    assert (cluster.free(node)[2], cluster.nodes_for(two)) == ((0, 1), 1)


def test_a_held_device_that_breaks_stays_held_and_does_not_come_back(cluster: Any) -> None:
    node = add(cluster, 2)
    two = ask(cluster, 2, nodes=1)
    hold(cluster, node, 1, (0,))
    assert foreseen(cluster, two) == (HOUR_US, (node,))
    cluster.set_device(node, 0, False)
    assert foreseen(cluster, two) is None
    with pytest.raises(ValueError, match="slot"):
        hold(cluster, node, 2, (0,))
    cluster.release(node, 1)
    assert cluster.free(node)[2] == (1,)
    cluster.set_device(node, 0, True)
    assert placed(cluster, two) == [(node, (0, 1))]


def test_a_held_device_that_is_mended_comes_back_with_the_rest(cluster: Any) -> None:
    node = add(cluster, 2)
    cluster.set_device(node, 0, False)
    hold(cluster, node, 1, (0, 1))
    cluster.set_device(node, 0, True)
    assert cluster.free(node)[2] == ()
    assert foreseen(cluster, ask(cluster, 2)) == (HOUR_US, (node,))


# --------------------------------------------------------------------------------------- what is held


def test_what_a_job_holds_is_not_free_until_it_is_released(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 7, (2, 0), cores=10, memory_mib=300)
    assert cluster.free(node) == (54, 700, (1, 3))
    cluster.release(node, 7)
    cluster.release(node, 7)
    assert cluster.free(node) == (64, 1000, (0, 1, 2, 3))


def test_cores_and_memory_may_become_negative(cluster: Any) -> None:
    node = add(cluster, 1, cores=2, memory_mib=10)
    hold(cluster, node, 1, cores=5, memory_mib=30)
    assert cluster.free(node) == (-3, -20, (0,))
    cluster.release(node, 1)
    assert cluster.free(node) == (2, 10, (0,))


@pytest.mark.parametrize(
    "short",
    [{"cores": 5}, {"memory_mib": 2000}],
    ids=["cores", "memory"],
)
def test_a_request_for_none_of_something_is_not_stopped_by_its_lack(
    cluster: Any, short: dict[str, Any]
) -> None:
    node = add(cluster, 1, cores=2)
    hold(cluster, node, 1, **short)
    assert placed(cluster, ask(cluster, 1)) == [(node, (0,))]


def test_a_hold_without_seats_takes_what_it_holds_and_leaves_the_node_to_itself(cluster: Any) -> None:
    node = add(cluster, 2)
    hold(cluster, node, 1, (0,), exclusive=True, seats=False)
    assert placed(cluster, ask(cluster, 1, exclusive=True)) == [(node, (1,))]


def test_a_job_that_holds_nothing_on_a_node_can_be_expected_and_released_there(cluster: Any) -> None:
    node = add(cluster, 1)
    cluster.expect(node, 5, NOW_US)
    cluster.release(node, 5)
    cluster.unbook(node, 5)
    assert placed(cluster, ask(cluster, 1)) == [(node, (0,))]


def test_a_job_gives_back_what_it_holds_when_it_is_expected_to_end(cluster: Any) -> None:
    node = add(cluster, 1)
    one = ask(cluster, 1)
    hold(cluster, node, 1, (0,), end_us=NOW_US + 5)
    assert (placed(cluster, one), foreseen(cluster, one)) == (None, (5, (node,)))
    cluster.expect(node, 1, NOW_US + 9)
    assert foreseen(cluster, one) == (9, (node,))


@pytest.mark.parametrize("late_us", [0, 1, HOUR_US])
def test_a_job_that_should_have_ended_is_expected_to_end_in_a_moment_at_every_now(
    cluster: Any, late_us: int
) -> None:
    node = add(cluster, 1)
    one = ask(cluster, 1)
    hold(cluster, node, 1, (0,), end_us=NOW_US - late_us)
    assert (placed(cluster, one), foreseen(cluster, one)) == (None, (1, (node,)))


# ------------------------------------------------------------------------------------- over how many nodes


def test_a_request_goes_to_one_node_if_any_could_ever_hold_it(cluster: Any) -> None:
    for devices in (2, 4, 4):
        add(cluster, devices)
    hold(cluster, 1, 1, (0, 1, 2, 3))
    assert [cluster.nodes_for(ask(cluster, gpus)) for gpus in (0, 1, 4)] == [1, 1, 1]


def test_a_request_too_large_for_any_node_is_split_over_as_few_as_can_hold_it(cluster: Any) -> None:
    for devices in (2, 4, 4):
        add(cluster, devices)
    # Seven are split 4 + 3, eight 4 + 4; nine 3 + 3 + 3 do not fit a node of two.
    answers = [cluster.nodes_for(ask(cluster, gpus)) for gpus in (5, 7, 8, 9, 10, 11)]
    assert answers == [2, 2, 2, 0, 0, 0]


def test_a_request_that_says_over_how_many_nodes_is_split_so_or_never_fits(cluster: Any) -> None:
    for _ in range(3):
        add(cluster, 4)
    assert [cluster.nodes_for(ask(cluster, 4, nodes=nodes)) for nodes in (1, 2, 3, 4)] == [1, 2, 3, 0]


def test_closed_nodes_count_for_what_could_ever_fit_and_lost_ones_do_not(cluster: Any) -> None:
    add(cluster, 4, state=CORDONED)
    other = add(cluster, 2)
    four = ask(cluster, 4)
    assert cluster.nodes_for(four) == 1
    assert placed(cluster, four) is None
    cluster.set_state(0, LOST)
    assert cluster.nodes_for(four) == 0
    third = add(cluster, 2)
    assert cluster.nodes_for(four) == 2
    assert nodes_of(placed(cluster, four)) == [other, third]


def test_a_request_is_split_as_if_nodes_to_avoid_were_not_there(cluster: Any) -> None:
    for devices in (4, 2, 2):
        add(cluster, devices)
    four = ask(cluster, 4)
    assert [cluster.nodes_for(four, avoid) for avoid in ([], [0], [0, 1], [1, 1, 2])] == [1, 2, 0, 1]
    assert nodes_of(placed(cluster, four, avoid=[0])) == [1, 2]
    assert cluster.nodes_for(four) == 1


def test_a_request_restricted_to_some_nodes_is_split_as_ever(cluster: Any) -> None:
    for devices in (4, 2, 2):
        add(cluster, devices)
    four = ask(cluster, 4)
    assert placed(cluster, four, only=[1, 2]) is None
    assert nodes_of(placed(cluster, four, only=[2, 0])) == [0]
    assert placed(cluster, four, only=[]) is None


def test_devices_of_two_kinds_do_not_add_up(cluster: Any) -> None:
    add(cluster, [(0, *NO_GROUPS), (1, *NO_GROUPS)])
    add(cluster, 1, kind=1)
    assert cluster.nodes_for(ask(cluster, 2, nodes=1)) == 0
    assert cluster.nodes_for(ask(cluster, 2)) == 2
    assert cluster.nodes_for(ask(cluster, 2, gpu_type=0)) == 0
    assert placed(cluster, ask(cluster, 2)) == [(0, (1,)), (1, (0,))]


def test_memory_alone_makes_no_gang(cluster: Any) -> None:
    for _ in range(2):
        add(cluster, 1, cores=2)
    assert cluster.nodes_for(ask(cluster, 1, memory_mib=1500)) == 0
    assert cluster.nodes_for(ask(cluster, 2, memory_mib=1500)) == 2
    assert cluster.nodes_for(ask(cluster, cores=1, memory_mib=1500)) == 0
    assert cluster.nodes_for(ask(cluster, cores=2, memory_mib=1500)) == 2


def test_a_gang_can_be_larger_than_the_sizes_tried(cluster: Any) -> None:
    for _ in range(100):
        add(cluster, 2)
    assert [cluster.nodes_for(ask(cluster, gpus)) for gpus in (3, 131, 200, 201)] == [2, 66, 100, 0]
    assert nodes_of(placed(cluster, ask(cluster, 200))) == list(range(100))


def test_so_many_sizes_are_tried_from_the_first_for_which_a_node_has_the_devices_and_no_more(
    cluster: Any,
) -> None:
    for _ in range(100):
        add(cluster, 8, cores=1)
    # A hundred and thirty devices need 17 nodes at least; with a core on each, as many nodes as cores.
    last = 17 + _placement.SPLITS_TRIED - 1
    assert [cluster.nodes_for(ask(cluster, 130, cores=cores)) for cores in (17, last, last + 1)] == [
        17,
        last,
        0,
    ]


def test_nodes_without_the_labels_do_not_count_for_which_sizes_are_tried(cluster: Any) -> None:
    add(cluster, 1000)
    for _ in range(100):
        add(cluster, 1, labels=(1,))
    assert cluster.nodes_for(ask(cluster, 100, labels=(1,))) == 100


def test_how_many_nodes_follows_what_there_is(cluster: Any) -> None:
    add(cluster, 4)
    four = ask(cluster, 4)
    seen = [cluster.nodes_for(four)]
    changes: list[Callable[[], Any]] = [
        lambda: cluster.set_device(0, 2, False),
        lambda: cluster.set_device(0, 2, True),
        lambda: cluster.set_state(0, LOST),
        lambda: [add(cluster, 2), add(cluster, 2)],
        lambda: cluster.set_state(0, CORDONED),
        lambda: cluster.set_node(0, 1, 1, []),
    ]
    for change in changes:
        change()
        seen.append(cluster.nodes_for(four))
    assert seen == [1, 0, 1, 0, 2, 1, 2]


# ------------------------------------------------------------------------------- a place on a single node


def test_the_node_with_the_fewest_free_devices_of_the_kind_is_used_first(cluster: Any) -> None:
    for devices in (8, 3, 4, 1):
        add(cluster, devices)
    hold(cluster, 0, 1, (0, 1, 2, 3, 4, 5))
    assert [nodes_of(placed(cluster, ask(cluster, gpus))) for gpus in (1, 2, 3, 4)] == [[3], [0], [1], [2]]


def test_of_equally_tight_nodes_the_one_whose_devices_are_closest_is_used(cluster: Any) -> None:
    add(cluster, [(0, 0, 0, 0), (0, 1, 1, 1)])  # two of everything
    add(cluster, [(0, 0, 0, 0), (0, 0, 1, 1)])  # one link group
    add(cluster, [(0, 0, 0, 0), (0, 0, 0, 1)])  # and one NUMA node
    add(cluster, [(0, 0, 0, 0), (0, 0, 0, 0)])  # and one PCIe root
    add(cluster, 2)  # nothing known is as good
    two = ask(cluster, 2)
    chosen: list[int] = []
    for _ in range(5):
        chosen += nodes_of(placed(cluster, two, avoid=chosen))
    assert chosen == [3, 4, 2, 1, 0]


def test_devices_that_are_broken_count_for_no_group(cluster: Any) -> None:
    add(cluster, [(0, 0, 0, 0), (0, 1, 0, 0)])
    other = add(cluster, [(0, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)])
    cluster.set_device(other, 2, False)
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [other]
    cluster.set_device(other, 2, True)
    cluster.set_device(other, 1, False)
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [0]


def test_link_groups_come_before_numa_nodes_and_those_before_pcie_roots(cluster: Any) -> None:
    add(cluster, [(0, 0, 0, 0), (0, 1, 0, 0)])
    add(cluster, [(0, 0, 0, 0), (0, 0, 1, 1)])
    add(cluster, [(0, 0, 0, 0), (0, 0, 1, 0)])
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [2]
    assert nodes_of(placed(cluster, ask(cluster, 2), avoid=[2])) == [1]


def test_the_topology_of_so_many_equally_tight_nodes_is_compared_and_no_more(cluster: Any) -> None:
    far = [(0, 0, 0, 0), (0, 1, 1, 1)]
    near = [(0, 0, 0, 0), (0, 0, 0, 0)]
    for _ in range(_placement.TOPOLOGY_TRIED - 1):
        add(cluster, far)
    last, beyond = add(cluster, near), add(cluster, near)
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [last]
    assert nodes_of(placed(cluster, ask(cluster, 2), avoid=[last])) == [beyond]
    cluster.set_node(last, 64, 1000, far)
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [0]


@pytest.mark.parametrize("more", [0, 255])
def test_nodes_that_are_less_tight_are_not_among_those_whose_topology_is_compared(
    cluster: Any, more: int
) -> None:
    for _ in range(_placement.TOPOLOGY_TRIED):
        add(cluster, [(0, 0, 0, 0)] * (more + 4))
    for last in (1, 1, 0):
        tightest = add(cluster, [(0, 0, 0, 0)] * (more + 1) + [(0, last, last, last)])
    assert nodes_of(placed(cluster, ask(cluster, more + 2), only=range(len(cluster)))) == [tightest]
    assert nodes_of(placed(cluster, ask(cluster, more + 2))) == [tightest]


def test_topology_is_compared_on_so_many_nodes_of_each_kind(cluster: Any) -> None:
    for kind in (0, 1):
        for _ in range(_placement.TOPOLOGY_TRIED - 1):
            add(cluster, [(kind, 0, 0, 0), (kind, 1, 1, 1)])
    last = add(cluster, [(1, 0, 0, 0), (1, 0, 0, 0)])
    assert nodes_of(placed(cluster, ask(cluster, 2))) == [last]


def test_to_be_in_no_group_is_to_be_in_one_group_more(cluster: Any) -> None:
    add(cluster, [(0, 0, 0, 0), (0, -1, 0, 0), (0, -1, 0, 0)])  # the lowest slots span two
    add(cluster, [(0, -1, 0, 0), (0, -1, 0, 0), (0, 0, 0, 0)])  # and one here
    assert placed(cluster, ask(cluster, 2)) == [(1, (0, 1))]


def test_then_the_smallest_kind_is_used_and_then_the_smallest_index(cluster: Any) -> None:
    add(cluster, 2, kind=1)
    add(cluster, 2)
    add(cluster, 2)
    assert nodes_of(placed(cluster, ask(cluster, 1))) == [1]
    assert nodes_of(placed(cluster, ask(cluster, 1, gpu_type=1))) == [0]


def test_a_request_without_devices_goes_where_the_fewest_devices_of_any_kind_are_free(cluster: Any) -> None:
    mixed = [(0, *NO_GROUPS), (1, *NO_GROUPS)]
    add(cluster, mixed, cores=8)
    add(cluster, 1, cores=16)
    add(cluster, 1, kind=1, cores=8)
    add(cluster, 1, cores=8)
    one = ask(cluster, cores=1)
    assert placed(cluster, one) == [(2, ())]
    hold(cluster, 0, 1, (0, 1))
    assert placed(cluster, one) == [(0, ())]
    assert placed(cluster, ask(cluster, cores=9)) == [(1, ())]


def test_a_node_without_enough_cores_memory_or_labels_is_not_used(cluster: Any) -> None:
    add(cluster, 1, cores=4)
    add(cluster, 1, memory_mib=10)
    add(cluster, 1, labels=(5, 3))
    assert nodes_of(placed(cluster, ask(cluster, 1, cores=5))) == [1]
    assert nodes_of(placed(cluster, ask(cluster, 1, memory_mib=11))) == [0]
    assert nodes_of(placed(cluster, ask(cluster, 1, cores=5, memory_mib=11))) == [2]
    assert nodes_of(placed(cluster, ask(cluster, 1, labels=(3, 5)))) == [2]
    assert placed(cluster, ask(cluster, 1, labels=(3, 4))) is None


def test_only_devices_of_the_type_with_enough_memory_will_do(cluster: Any) -> None:
    big = cluster.add_kind(1, 160 * 1024)
    for kind in (0, 1, big):
        add(cluster, 1, kind=kind)
    wanted = [(-1, 0), (1, 0), (-1, 80 * 1024), (-1, 80 * 1024 + 1), (1, 41 * 1024), (0, 81 * 1024), (2, 0)]
    answers = [placed(cluster, ask(cluster, 1, *type_and_memory)) for type_and_memory in wanted]
    assert [answer and nodes_of(answer)[0] for answer in answers] == [0, 1, 0, 2, 2, None, None]


def test_only_open_nodes_that_are_not_avoided_are_used(cluster: Any) -> None:
    for state in (LOST, CORDONED, OPEN, OPEN):
        add(cluster, 1, state=state)
    one = ask(cluster, 1)
    assert nodes_of(placed(cluster, one)) == [2]
    assert nodes_of(placed(cluster, one, avoid=[2])) == [3]
    assert nodes_of(placed(cluster, one, only=[0, 1, 3])) == [3]
    assert placed(cluster, one, avoid=[3], only=[3]) is None


def test_slots_grow_and_skip_what_is_held(cluster: Any) -> None:
    node = add(cluster, 6)
    hold(cluster, node, 1, (4, 1))
    assert placed(cluster, ask(cluster, 3)) == [(node, (0, 2, 3))]


def test_a_node_with_hundreds_of_devices_is_a_node_like_any_other(cluster: Any) -> None:
    add(cluster, 400)
    add(cluster, 300)
    add(cluster, 301)
    assert nodes_of(placed(cluster, ask(cluster, 256))) == [1]
    assert nodes_of(placed(cluster, ask(cluster, 301))) == [2]
    assert placed(cluster, ask(cluster, 400)) == [(0, tuple(range(400)))]
    hold(cluster, 0, 1, tuple(range(2, 300)))
    assert nodes_of(placed(cluster, ask(cluster, 102))) == [0]


# ------------------------------------------------------------------------- sharing, bookings and exclusivity


def test_an_exclusive_job_needs_a_node_without_others_and_keeps_others_out(cluster: Any) -> None:
    node = add(cluster, 4)
    alone, other = ask(cluster, 1, exclusive=True), ask(cluster, 1)
    hold(cluster, node, 1, (0,), end_us=NOW_US + 5)
    assert placed(cluster, alone) is None
    assert foreseen(cluster, alone) == (5, (node,))
    cluster.release(node, 1)
    hold(cluster, node, 2, (0,), exclusive=True, end_us=NOW_US + 7)
    assert placed(cluster, other) is None
    assert foreseen(cluster, other) == (7, (node,))


def test_a_booking_keeps_out_what_would_run_into_it(cluster: Any) -> None:
    node = add(cluster, 1)
    one = ask(cluster, 1)
    cluster.book(node, 3, NOW_US + 10, NOW_US + 20)
    assert nodes_of(placed(cluster, one, 10)) == [node]
    assert placed(cluster, one, 11) is None
    assert foreseen(cluster, one, 10) == (0, (node,))
    assert foreseen(cluster, one, 11) == (20, (node,))
    cluster.unbook(node, 3)
    assert nodes_of(placed(cluster, one, 11)) == [node]


def test_a_booking_that_has_begun_keeps_everybody_out_until_it_ends(cluster: Any) -> None:
    node = add(cluster, 1)
    cluster.book(node, 3, NOW_US, NOW_US + 20)
    assert placed(cluster, ask(cluster, 1), 1) is None
    assert foreseen(cluster, ask(cluster, 1)) == (20, (node,))


def test_a_booking_that_should_have_ended_ends_in_a_moment(cluster: Any) -> None:
    node = add(cluster, 1)
    cluster.book(node, 3, NOW_US - 20, NOW_US - 10)
    assert placed(cluster, ask(cluster, 1), 1) is None
    assert foreseen(cluster, ask(cluster, 1)) == (1, (node,))


def test_a_booking_leaves_alone_who_is_there_already(cluster: Any) -> None:
    node = add(cluster, 2)
    cluster.book(node, 1, NOW_US, NOW_US + 5)
    hold(cluster, node, 1, (0,), exclusive=True, end_us=NOW_US + 9)
    assert cluster.free(node) == (64, 1000, (1,))
    assert foreseen(cluster, ask(cluster, 1)) == (9, (node,))


def test_of_two_bookings_that_overlap_the_later_end_counts(cluster: Any) -> None:
    node = add(cluster, 1)
    cluster.book(node, 1, NOW_US + 5, NOW_US + 30)
    cluster.book(node, 2, NOW_US, NOW_US + 10)
    assert foreseen(cluster, ask(cluster, 1), 3) == (30, (node,))
    cluster.unbook(node, 1)
    assert foreseen(cluster, ask(cluster, 1), 3) == (10, (node,))


# ----------------------------------------------------------------------------------------------- gangs


def test_a_gang_is_placed_whole_or_not_at_all(cluster: Any) -> None:
    for _ in range(3):
        add(cluster, 2)
    six = ask(cluster, 6, nodes=3)
    assert placed(cluster, six) == [(0, (0, 1)), (1, (0, 1)), (2, (0, 1))]
    hold(cluster, 1, 1, (0,))
    assert placed(cluster, six) is None


def test_the_larger_parts_come_first_and_each_takes_the_tightest_node_that_has_room(cluster: Any) -> None:
    for devices in (4, 2, 8, 3):
        add(cluster, devices)
    # Eight over three nodes are 3 + 3 + 2.
    assert placed(cluster, ask(cluster, 8, nodes=3)) == [(3, (0, 1, 2)), (0, (0, 1, 2)), (1, (0, 1))]


def test_cores_and_memory_of_a_gang_are_split_as_its_devices_are(cluster: Any) -> None:
    add(cluster, 2, cores=2, memory_mib=3)
    add(cluster, 2, cores=3, memory_mib=4)
    gang = ask(cluster, 3, cores=5, memory_mib=7, nodes=2)
    assert placed(cluster, gang) == [(1, (0, 1)), (0, (0,))]
    assert placed(cluster, ask(cluster, 3, cores=6, memory_mib=7, nodes=2)) is None


def test_all_devices_of_a_gang_are_of_one_kind(cluster: Any) -> None:
    add(cluster, 2)
    add(cluster, 2, kind=1)
    assert placed(cluster, ask(cluster, 4, nodes=2)) is None
    add(cluster, 2, kind=1)
    assert nodes_of(placed(cluster, ask(cluster, 4, nodes=2))) == [1, 2]


def test_a_gang_takes_the_kind_with_the_tightest_nodes_and_then_the_smallest(cluster: Any) -> None:
    for kind, devices in [(1, 3), (0, 3), (0, 4), (1, 4), (1, 2)]:
        add(cluster, devices, kind=kind)
    gang = ask(cluster, 4, nodes=2)
    assert nodes_of(placed(cluster, gang)) == [4, 0]
    cluster.set_state(4, CORDONED)
    assert nodes_of(placed(cluster, gang)) == [1, 2]


def test_a_gang_of_processes_without_devices_goes_where_few_devices_then_few_cores_are_free(
    cluster: Any,
) -> None:
    for devices, cores in [(1, 8), (0, 16), (0, 8), (0, 8), (0, 1)]:
        add(cluster, devices, cores=cores)
    assert nodes_of(placed(cluster, ask(cluster, cores=6, nodes=3))) == [2, 3, 1]


def test_a_gang_stays_within_the_nearest_domain_that_has_room_for_it(cluster: Any) -> None:
    for domains in [(0, 0), (1, 0), (0, 1), (2, 1), (1, 0)]:
        add(cluster, 1, domains=domains)
    assert nodes_of(placed(cluster, ask(cluster, 2, nodes=2))) == [0, 2]
    assert nodes_of(placed(cluster, ask(cluster, 3, nodes=3))) == [0, 1, 4]
    assert nodes_of(placed(cluster, ask(cluster, 4, nodes=4))) == [0, 1, 2, 3]


def test_of_two_domains_with_room_the_one_with_fewer_fitting_nodes_is_used(cluster: Any) -> None:
    for domain in (5, 5, 5, 3, 3, 4, 4, -1, -1):
        add(cluster, 1, domains=(domain,))
    pair = ask(cluster, 2, nodes=2)
    assert nodes_of(placed(cluster, pair)) == [3, 4]
    hold(cluster, 5, 1, (0,))
    assert nodes_of(placed(cluster, pair, avoid=[3])) == [0, 1]


def test_nodes_in_no_domain_are_together_only_as_part_of_the_whole(cluster: Any) -> None:
    for domain in (-1, -1, 7):
        add(cluster, 1, domains=(domain,))
    add(cluster, 1)
    assert nodes_of(placed(cluster, ask(cluster, 2, nodes=2))) == [0, 1]
    assert nodes_of(placed(cluster, ask(cluster, 4, nodes=4))) == [0, 1, 2, 3]


def test_a_domain_has_room_only_if_the_larger_parts_find_nodes_of_their_own(cluster: Any) -> None:
    for devices, domain in [(1, 0), (1, 0), (3, 0), (2, 1), (2, 1), (2, 1), (2, 1)]:
        add(cluster, devices, domains=(domain,))
    # Five over three nodes are 2 + 2 + 1: in domain 0 only one node has two.
    assert nodes_of(placed(cluster, ask(cluster, 5, nodes=3))) == [3, 4, 5]
    assert nodes_of(placed(cluster, ask(cluster, 4, nodes=3))) == [2, 0, 1]


def test_devices_are_preferred_tight_within_a_domain_and_not_across_domains(cluster: Any) -> None:
    for devices, domain in [(1, -1), (8, 2), (4, 2), (1, -1)]:
        add(cluster, devices, domains=(domain,))
    assert nodes_of(placed(cluster, ask(cluster, 2, nodes=2))) == [2, 1]


# ----------------------------------------------------------------------------------- devices of a node

FLAT = [(0, *NO_GROUPS)] * 8
PAIRS_IN_SOCKETS = [(0, slot // 2, slot // 4, -1) for slot in range(8)]
LINKED_ACROSS = [(0, 0, slot // 4, slot // 2) for slot in range(8)]
THREE_PAIRS = [(0, slot // 2, slot // 6, -1) for slot in range(12)]
CROSSED = [(0, slot % 2, slot // 4, -1) for slot in range(8)]
INSIDE_OUT = [(0, group, 0, -1) for group in (0, 1, 1, 0)]


@pytest.mark.parametrize(("devices", "held", "wanted", "slots"), [
    (FLAT, (0, 3), 3, (1, 2, 4)),
    (PAIRS_IN_SOCKETS, (), 1, (0,)),
    (PAIRS_IN_SOCKETS, (0,), 1, (1,)),  # the pair that is broken already
    (PAIRS_IN_SOCKETS, (0,), 2, (2, 3)),  # a whole pair
    (PAIRS_IN_SOCKETS, (0, 5, 6), 2, (2, 3)),
    (PAIRS_IN_SOCKETS, (0, 2, 5, 6), 2, (1, 3)),  # no pair left: two of one socket
    (PAIRS_IN_SOCKETS, (0,), 3, (1, 2, 3)),  # the socket with fewer free
    (PAIRS_IN_SOCKETS, (4,), 3, (5, 6, 7)),
    (PAIRS_IN_SOCKETS, (), 3, (0, 1, 2)),
    (PAIRS_IN_SOCKETS, (0, 7), 4, (1, 2, 3, 6)),  # no socket has four: all of one, then of the other
    (PAIRS_IN_SOCKETS, (0, 4), 5, (1, 2, 3, 6, 7)),  # a whole socket and a whole pair of the other
    (PAIRS_IN_SOCKETS, (), 8, tuple(range(8))),
    (THREE_PAIRS, (0, 2), 3, (1, 4, 5)),  # within the socket the whole pair, then half of another
    (LINKED_ACROSS, (), 2, (0, 1)),
    (LINKED_ACROSS, (0, 1, 2), 5, (3, 4, 5, 6, 7)),
    (LINKED_ACROSS, (0, 4), 3, (1, 2, 3)),
    (LINKED_ACROSS, (0,), 5, (1, 4, 5, 6, 7)),
    (CROSSED, (), 2, (0, 2)),
    (CROSSED, (0,), 4, (1, 3, 5, 7)),
    (CROSSED, (0, 3), 3, (1, 5, 7)),
    (CROSSED, (0, 1), 3, (2, 4, 6)),
    (INSIDE_OUT, (0, 2), 1, (1,)),  # of equal groups the one whose lowest slot is still free
])  # fmt: skip
def test_devices_are_taken_from_the_smallest_group_with_enough_and_whole_groups_first(
    cluster: Any,
    devices: list[tuple[int, int, int, int]],
    held: tuple[int, ...],
    wanted: int,
    slots: tuple[int, ...],
) -> None:
    node = add(cluster, devices)
    hold(cluster, node, 1, held)
    assert placed(cluster, ask(cluster, wanted)) == [(node, slots)]


def test_a_grouping_that_is_not_known_of_all_devices_of_the_kind_counts_for_nothing(cluster: Any) -> None:
    node = add(cluster, [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (1, -1, 0, 0)])
    assert placed(cluster, ask(cluster, 2, gpu_type=0)) == [(node, (0, 1))]
    other = add(cluster, [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 2, 0, 0), (1, -1, 0, 0)])
    assert placed(cluster, ask(cluster, 2, gpu_type=0), avoid=[node]) == [(other, (1, 2))]


def test_devices_of_another_kind_do_not_make_a_group_larger(cluster: Any) -> None:
    node = add(cluster, [(1, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 1, 0, 0)])
    assert placed(cluster, ask(cluster, 2, gpu_type=0)) == [(node, (2, 4))]
    assert placed(cluster, ask(cluster, 2, gpu_type=1)) == [(node, (0, 3))]


# -------------------------------------------------------------------------------------------------- plans


def test_a_plan_leaves_the_cluster_as_it_is(cluster: Any) -> None:
    node = add(cluster, 2)
    two = ask(cluster, 2)
    plan = cluster.plan(NOW_US)
    assert plan.now_us == NOW_US
    assert plan.place(two, HOUR_US) == [(node, (0, 1))]
    plan.take()
    assert plan.place(two, HOUR_US) is None
    assert cluster.free(node) == (64, 1000, (0, 1))
    assert cluster.plan(NOW_US).place(two, HOUR_US) == [(node, (0, 1))]


def test_what_a_plan_takes_is_not_free_until_its_time_is_over(cluster: Any) -> None:
    node = add(cluster, 4, cores=8)
    plan = cluster.plan(NOW_US)
    three = ask(cluster, 3, cores=5)
    plan.place(three, 10)
    plan.take()
    assert plan.place(ask(cluster, 1, cores=3), 99) == [(node, (3,))]
    assert plan.place(ask(cluster, 1, cores=4), 99) is None
    assert plan.place(ask(cluster, 2), 1) is None
    assert plan.earliest(ask(cluster, 2), 1) == (NOW_US + 10, (node,))


def test_a_plan_takes_each_device_once(cluster: Any) -> None:
    node = add(cluster, PAIRS_IN_SOCKETS)
    plan = cluster.plan(NOW_US)
    taken: list[int] = []
    for gpus in (1, 2, 1, 3, 1):
        ((where, slots),) = plan.place(ask(cluster, gpus), HOUR_US)
        plan.take()
        assert where == node
        taken += slots
    assert sorted(taken) == list(range(8))
    assert plan.place(ask(cluster, 1), HOUR_US) is None


def test_what_a_plan_takes_makes_a_node_tighter(cluster: Any) -> None:
    add(cluster, 4)
    add(cluster, 4)
    plan = cluster.plan(NOW_US)
    seen = []
    for gpus in (3, 2, 1, 2):
        seen += nodes_of(plan.place(ask(cluster, gpus), HOUR_US))
        plan.take()
    assert seen == [0, 1, 0, 1]


def test_an_exclusive_job_that_a_plan_takes_keeps_others_out(cluster: Any) -> None:
    add(cluster, 4)
    plan = cluster.plan(NOW_US)
    plan.place(ask(cluster, 1, exclusive=True), 10)
    plan.take()
    assert plan.place(ask(cluster, 1), 1) is None
    assert plan.earliest(ask(cluster, 1), 1) == (NOW_US + 10, (0,))


def test_what_is_promised_is_kept_from_what_would_run_into_it(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 1, (0, 1), end_us=NOW_US + 10)
    plan = cluster.plan(NOW_US)
    assert plan.earliest(ask(cluster, 4), 5) == (NOW_US + 10, (node,))
    plan.reserve()
    two = ask(cluster, 2)
    assert plan.place(two, 10) == [(node, (2, 3))]
    assert plan.place(two, 11) is None
    assert plan.earliest(two, 11) == (NOW_US + 15, (node,))
    plan.reserve()
    assert plan.earliest(ask(cluster, 3), 1) == (NOW_US + 26, (node,))
    assert plan.earliest(two, 1) == (NOW_US, (node,))


def test_only_what_was_found_last_can_be_taken_reserved_or_claimed_and_once(cluster: Any) -> None:
    add(cluster, 9)
    one, huge = ask(cluster, 1), ask(cluster, 40)
    plan = cluster.plan(NOW_US)
    for question in (
        lambda: None,
        lambda: plan.place(huge, 1),
        lambda: plan.earliest(huge, 1),
        lambda: plan.fits(huge, 1),
        lambda: [plan.place(one, 1), plan.fits(huge, 1)],
        lambda: [plan.place(one, 1), plan.survey(one, 1)],
        lambda: [plan.fits(one, 1), plan.earliest(huge, 1)],
        lambda: [plan.fits(one, 1), plan.claim()],
        lambda: [plan.place(one, 1), plan.offer(one)],
        lambda: [plan.place(one, 1), plan.nodes_for(one)],
        lambda: [plan.place(one, 1), plan.take()],
        lambda: [plan.earliest(one, 1), plan.reserve()],
    ):
        question()
        for answer in (plan.take, plan.reserve, plan.claim):
            with pytest.raises(RuntimeError, match="nothing"):
                answer()
    for ask_for, answers in (
        (plan.place, (plan.reserve, plan.claim, plan.take)),
        (plan.earliest, (plan.take, plan.claim, plan.reserve)),
        (plan.fits, (plan.take, plan.reserve, plan.claim)),
    ):
        ask_for(one, 1)
        for answer in answers[:2]:
            with pytest.raises(RuntimeError, match="nothing"):
                answer()
        answers[2]()


def test_what_was_found_is_left_by_a_refused_question_and_by_imagining_another(cluster: Any) -> None:
    add(cluster, 1)
    one = ask(cluster, 1)
    plan = cluster.plan(NOW_US)
    plan.place(one, HOUR_US)
    plan.imagine(4, -1, 0, 0, 0, 0, False)
    with pytest.raises(ValueError, match="must be between"):
        plan.place(one, 0)
    with pytest.raises(KeyError):
        plan.earliest(9, 1)
    plan.take()
    assert plan.place(one, 1) is None


def test_a_claim_keeps_what_fits_found_even_where_it_is_not_free_yet(cluster: Any) -> None:
    node = add(cluster, 4, cores=8)
    hold(cluster, node, 1, (0, 1, 2), cores=6)
    two, other = ask(cluster, 2, cores=4), ask(cluster, 1)
    plan = cluster.plan(NOW_US)
    assert plan.place(other, 1) == [(node, (3,))]
    assert plan.fits(two, 2 * HOUR_US, gone=[1]) == (node,)
    plan.claim()
    # The job in the way has not gone: one free device less two.
    assert plan.place(other, 1) is None
    # Three come back, and the claim of two stands.
    assert plan.earliest(two, 1) == (NOW_US + HOUR_US, (node,))
    assert plan.earliest(ask(cluster, 3), 1) == (NOW_US + 2 * HOUR_US, (node,))


def test_a_claim_keeps_others_out_of_a_node_it_needs_alone(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 1)
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 1, exclusive=True), 10, gone=[1]) == (node,)
    plan.claim()
    assert (plan.place(ask(cluster, 1), 1), plan.offer(ask(cluster, 1))) == (None, (0, 0, 0))
    assert plan.earliest(ask(cluster, 1), 1) == (NOW_US + 10, (node,))


def test_a_claim_of_a_gang_keeps_each_part_on_its_node(cluster: Any) -> None:
    for _ in range(3):
        add(cluster, 4)
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 5), HOUR_US, only=[2, 0]) == (0, 2)
    plan.claim()
    most = [max(n for n in (1, 2, 3, 4) if plan.place(ask(cluster, n), 1, only=[node])) for node in range(3)]
    assert most == [1, 4, 2]


def test_a_claim_is_of_the_kind_that_was_found_to_fit(cluster: Any) -> None:
    node = add(cluster, [(0, *NO_GROUPS), (0, *NO_GROUPS), (1, *NO_GROUPS), (1, *NO_GROUPS)])
    hold(cluster, node, 1, (0, 1))
    hold(cluster, node, 2, (2, 3))
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 2), 3 * HOUR_US, gone=[2]) == (node,)
    plan.claim()
    assert plan.earliest(ask(cluster, 1, gpu_type=0), 1) == (NOW_US + HOUR_US, (node,))
    assert plan.earliest(ask(cluster, 1, gpu_type=1), 1) == (NOW_US + 3 * HOUR_US, (node,))


def test_where_more_is_claimed_than_there_is_what_asks_for_none_of_it_is_placed(cluster: Any) -> None:
    add(cluster, 2, cores=4, memory_mib=10)
    hold(cluster, 0, 1, (0, 1), cores=4, memory_mib=10)
    plan = cluster.plan(NOW_US)
    for claimed in (ask(cluster, 2), ask(cluster, cores=4), ask(cluster, memory_mib=10)):
        assert plan.fits(claimed, HOUR_US, gone=[1]) == (0,)
        plan.claim()
    assert plan.place(ask(cluster), 1) == [(0, ())]
    short = [ask(cluster, 1), ask(cluster, cores=1), ask(cluster, memory_mib=1)]
    assert [plan.place(request, 1) for request in short] == [None, None, None]


def test_what_fits_if_some_jobs_were_gone_is_told_and_nothing_is_changed(cluster: Any) -> None:
    for node in (0, 1, 2):
        add(cluster, 4)
        hold(cluster, node, node + 1, (0, 1, 2))
    hold(cluster, 1, 4, (3,))
    plan = cluster.plan(NOW_US)
    four, two = ask(cluster, 4), ask(cluster, 2)
    assert plan.fits(four, HOUR_US) is None
    assert plan.fits(four, HOUR_US, gone=[2]) is None
    assert plan.fits(four, HOUR_US, gone=[2, 4, 99]) == (1,)
    assert plan.fits(four, HOUR_US, gone=[1, 3]) == (0,)
    assert plan.fits(four, HOUR_US, only=[2], gone=[1, 3]) == (2,)
    assert plan.fits(four, HOUR_US, avoid=[0], gone=[1, 3]) == (2,)
    assert plan.fits(two, HOUR_US, gone=[3, 2]) == (1,)  # three are free there then, four on node 2
    assert plan.fits(ask(cluster, 8), HOUR_US, gone=[1, 3]) == (0, 2)
    assert plan.fits(four, HOUR_US) is None


def test_what_fits_over_reservations_is_told_as_if_there_were_none_and_can_be_claimed(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 1, (0,), end_us=NOW_US + 10)
    plan, three, four = cluster.plan(NOW_US), ask(cluster, 3), ask(cluster, 4)
    plan.earliest(four, HOUR_US)
    plan.reserve()
    plan.place(ask(cluster, 1), 10)
    plan.take()
    assert plan.fits(three, 20) is None
    assert plan.fits(three, 20, over_reserved=True) is None  # what the plan took still counts
    assert plan.fits(three, 20, gone=[1]) is None
    assert plan.fits(three, 20, gone=[1], over_reserved=True) == (node,)
    plan.claim()
    assert plan.fits(three, 20, gone=[1], over_reserved=True) is None  # and so does what it claimed
    assert plan.earliest(ask(cluster, 1), 1) == (NOW_US + HOUR_US + 10, (node,))


def test_what_is_reserved_but_not_what_is_booked_or_claimed_can_be_given_away(cluster: Any) -> None:
    for _ in range(3):
        hold(cluster, add(cluster, 4), 1, (0,), end_us=NOW_US + 10)
    cluster.book(1, 1, NOW_US + 10, NOW_US + HOUR_US)
    plan, one, three, four = cluster.plan(NOW_US), ask(cluster, 1), ask(cluster, 3), ask(cluster, 4)
    assert plan.fits(three, HOUR_US, only=[2]) == (2,)
    plan.claim()
    assert plan.earliest(four, HOUR_US) == (NOW_US + 10, (0,))
    plan.reserve()
    assert plan.place(three, HOUR_US) is None
    assert plan.place(three, HOUR_US, over_reserved=True) == [(0, (1, 2, 3))]
    plan.take()
    assert plan.place(one, HOUR_US, over_reserved=True) is None
    assert plan.place(one, 10, over_reserved=True) == [(1, (1,))]  # until it is booked


def test_over_reservations_a_node_is_as_tight_as_without_them(cluster: Any) -> None:
    for devices in (3, 4):
        add(cluster, devices)
    plan, one = cluster.plan(NOW_US), ask(cluster, 1)
    assert plan.earliest(ask(cluster, 2, exclusive=True), 10, avoid=[0]) == (NOW_US, (1,))
    plan.reserve()
    assert (plan.fits(one, 1), plan.fits(one, 1, over_reserved=True)) == ((0,), (0,))
    assert plan.fits(one, 1, only=[1], over_reserved=True) == (1,)
    assert plan.fits(one, 1, only=[1]) is None


def test_a_job_that_is_gone_leaves_its_seats_too(cluster: Any) -> None:
    add(cluster, 2)
    hold(cluster, 0, 1, exclusive=True)
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 1), HOUR_US) is None
    assert plan.fits(ask(cluster, 1, exclusive=True), HOUR_US, gone=[1]) == (0,)


@pytest.mark.parametrize("change", [
    ("add_kind", 0, 1), ("add_node",), ("set_node", 0, 1, 1, []), ("set_state", 0, CORDONED),
    ("set_device", 0, 1, False), ("hold", 0, 9, [], 0, 0, False, NOW_US), ("expect", 0, 1, NOW_US),
    ("release", 0, 1), ("book", 0, 9, NOW_US, NOW_US + 1), ("unbook", 0, 1),
])  # fmt: skip
def test_a_plan_ends_with_an_error_when_the_cluster_changes(cluster: Any, change: tuple[Any, ...]) -> None:
    add(cluster, 4)
    one = ask(cluster, 1)
    hold(cluster, 0, 1, (0,))
    cluster.book(0, 1, NOW_US + HOUR_US, NOW_US + 2 * HOUR_US)
    plan = cluster.plan(NOW_US)
    assert plan.place(one, 1) is not None
    getattr(cluster, change[0])(*change[1:])
    for call in (
        lambda: plan.place(one, 1),
        lambda: plan.fits(one, 1),
        lambda: plan.earliest(one, 1),
        lambda: plan.survey(one, 1),
        lambda: plan.offer(one),
        lambda: plan.nodes_for(one),
        plan.idle,
        plan.take,
        plan.reserve,
        plan.claim,
    ):
        with pytest.raises(RuntimeError, match="cluster has changed"):
            call()
    assert plan.now_us == NOW_US


@pytest.mark.parametrize("call", [
    ("add_request", 1, -1, 0, 0, 0, 0, False), ("nodes_for", 0), ("free", 0), ("plan", 5),
    ("expect", 0, 9, NOW_US), ("expect", 0, 1, NOW_US + HOUR_US), ("release", 0, 9), ("unbook", 0, 9),
])  # fmt: skip
def test_what_changes_nothing_leaves_a_plan_alone(cluster: Any, call: tuple[Any, ...]) -> None:
    add(cluster, 2)
    hold(cluster, 0, 1)
    one = ask(cluster, 1)
    plan = cluster.plan(NOW_US)
    getattr(cluster, call[0])(*call[1:])
    with pytest.raises(KeyError):
        cluster.set_state(9, OPEN)
    assert plan.place(one, 1) == [(0, (0,))]


def test_a_request_made_after_the_plan_can_be_asked_for(cluster: Any) -> None:
    add(cluster, 2)
    plan = cluster.plan(NOW_US)
    assert plan.place(ask(cluster, 2), 1) == [(0, (0, 1))]


def test_a_plan_has_a_request_of_its_own_to_ask_what_would_be(cluster: Any) -> None:
    for _ in range(2):
        add(cluster, 4)
    plan = cluster.plan(NOW_US)
    with pytest.raises(KeyError):
        plan.nodes_for(-1)
    assert plan.imagine(6, -1, 0, 0, 0, 0, False) == -1
    assert plan.nodes_for(-1) == 2
    assert plan.place(-1, 1) == [(0, (0, 1, 2)), (1, (0, 1, 2))]
    plan.take()
    assert plan.imagine(2, -1, 0, 0, 0, 0, False) == -1
    assert (plan.nodes_for(-1), plan.place(-1, 1)) == (1, None)
    assert plan.earliest(-1, 1) == (NOW_US + 1, (0,))
    assert plan.offer(-1) == (2, 2, 1)
    with pytest.raises(ValueError, match="must be between"):
        plan.imagine(1, -1, 0, -2, 0, 0, False)
    assert plan.nodes_for(-1) == 1
    with pytest.raises(KeyError):
        cluster.nodes_for(-1)
    with pytest.raises(KeyError):
        cluster.plan(NOW_US).place(-1, 1)


def test_a_plan_outlives_the_name_of_its_cluster(module: Any) -> None:
    def plan_only() -> Any:
        cluster = module.Cluster()
        cluster.add_kind(0, 0)
        add(cluster, 2)
        ask(cluster, 1)
        return cluster.plan(NOW_US)

    assert plan_only().place(0, 1) == [(0, (0,))]


# ---------------------------------------------------------------------------------------- the earliest start


def test_what_fits_now_starts_now(cluster: Any) -> None:
    for devices in (8, 2):
        add(cluster, devices)
    assert foreseen(cluster, ask(cluster, 2)) == (0, (1,))


def test_the_node_that_is_free_first_is_foreseen(cluster: Any) -> None:
    for node, end_us in enumerate((30, 10, 20)):
        add(cluster, 2)
        hold(cluster, node, node + 1, (0, 1), end_us=NOW_US + end_us)
    two = ask(cluster, 2)
    assert foreseen(cluster, two) == (10, (1,))
    assert foreseen(cluster, two, avoid=[1]) == (20, (2,))


def test_enough_must_be_free_for_the_whole_time(cluster: Any) -> None:
    node = add(cluster, 4)
    plan = cluster.plan(NOW_US)
    hold(cluster, node, 1, (0, 1, 2), end_us=NOW_US + 10)
    cluster.book(node, 1, NOW_US + 30, NOW_US + 40)
    two = ask(cluster, 2)
    assert foreseen(cluster, two, 20) == (10, (node,))
    assert foreseen(cluster, two, 21) == (40, (node,))
    with pytest.raises(RuntimeError):
        plan.earliest(two, 1)


def test_of_nodes_free_at_the_same_time_the_one_that_is_tightest_now_is_foreseen(cluster: Any) -> None:
    for node, held in enumerate([(0, 1), (0, 1, 2), (1, 2, 3)]):
        add(cluster, 4)
        hold(cluster, node, node + 1, held, end_us=NOW_US + 10)
    assert foreseen(cluster, ask(cluster, 4)) == (10, (1,))


def test_of_two_kinds_the_earlier_is_foreseen_and_then_the_smaller(cluster: Any) -> None:
    for node, (kind, end_us) in enumerate([(1, 10), (0, 10), (0, 20)]):
        add(cluster, 2, kind=kind)
        hold(cluster, node, 1, (node % 2,), end_us=NOW_US + end_us)
    two = ask(cluster, 2)
    assert foreseen(cluster, two) == (10, (1,))
    cluster.expect(1, 1, NOW_US + 11)
    assert foreseen(cluster, two) == (10, (0,))


@pytest.mark.parametrize("gpus", range(1, 13))
def test_as_many_devices_as_are_wanted_are_free_when_enough_have_come_back(cluster: Any, gpus: int) -> None:
    node = add(cluster, 12)
    for number in range(1, 6):  # ten of twelve, two at a time
        hold(cluster, node, number, (2 * number - 1, 2 * number), end_us=NOW_US + 10 * number)
    assert foreseen(cluster, ask(cluster, gpus)) == (10 * max(0, (gpus - 1) // 2), (node,))


def test_the_earliest_start_follows_every_change_of_what_is_there_and_held(cluster: Any) -> None:
    node = add(cluster, 3)
    three = ask(cluster, 3, gpu_type=0)
    seen = []
    changes: list[Callable[[], Any]] = [
        lambda: hold(cluster, node, 1, (0, 1), end_us=NOW_US + 10),
        lambda: hold(cluster, node, 2, (2,), end_us=NOW_US + 20),
        lambda: cluster.expect(node, 1, NOW_US + 30),
        lambda: cluster.expect(node, 1, NOW_US - 30),
        lambda: cluster.release(node, 2),
        lambda: cluster.set_device(node, 1, False),
        lambda: cluster.set_device(node, 1, True),
        lambda: cluster.set_state(node, CORDONED),
        lambda: cluster.set_state(node, OPEN),
        lambda: cluster.book(node, 1, NOW_US, NOW_US + 40),
        lambda: cluster.unbook(node, 1),
        lambda: cluster.set_node(node, 0, 0, [(1, *NO_GROUPS)] * 3),
        lambda: cluster.set_node(node, 0, 0, [(0, *NO_GROUPS)] * 3),
    ]
    for change in changes:
        change()
        answer = foreseen(cluster, three)
        seen.append(answer and answer[0])
    assert seen == [10, 20, 30, 20, 1, None, 1, None, 1, 40, 1, None, 0]


def test_devices_of_a_kind_that_came_later_are_foreseen_too(cluster: Any) -> None:
    for _ in range(20):
        add(cluster, 0)
    kind = cluster.add_kind(7, 0)
    node = add(cluster, 2, kind=kind)
    hold(cluster, node, 1, (0,), end_us=NOW_US + 10)
    assert foreseen(cluster, ask(cluster, 2, gpu_type=7)) == (10, (node,))


def test_what_a_job_holds_of_several_kinds_comes_back_together(cluster: Any) -> None:
    node = add(cluster, [(0, *NO_GROUPS), (1, *NO_GROUPS), (0, *NO_GROUPS), (1, *NO_GROUPS)])
    hold(cluster, node, 1, (1, 0, 2), end_us=NOW_US + 10, seats=False)
    hold(cluster, node, 2, (3,), end_us=NOW_US + 20)
    wanted = [(1, 0), (2, 0), (1, 1), (2, 1)]
    for late_us in (0, 5):
        cluster.expect(node, 1, NOW_US + 10 + late_us)
        ends = [foreseen(cluster, ask(cluster, gpus, gpu_type=kind))[0] for gpus, kind in wanted]
        assert ends == [10 + late_us, 10 + late_us, 10 + late_us, 20]


def test_devices_that_are_free_first_help_nobody_who_lacks_cores_memory_or_the_node_alone(
    cluster: Any,
) -> None:
    for node, (cores, memory_mib, end_us) in enumerate([(60, 0, 30), (0, 990, 20), (0, 0, 40)]):
        add(cluster, 2)
        hold(cluster, node, 1, (0, 1), end_us=NOW_US + 10)
        hold(cluster, node, 2, (), cores, memory_mib, end_us=NOW_US + end_us)
    wanted = [
        ask(cluster, 2),
        ask(cluster, 2, cores=5, memory_mib=11),
        ask(cluster, 2, cores=65, nodes=2),
        ask(cluster, 2, exclusive=True),
    ]
    answers = [(10, (0,)), (10, (2,)), (10, (1, 2)), (20, (1,))]
    assert [foreseen(cluster, request) for request in wanted] == answers


def test_topology_does_not_matter_to_what_is_foreseen(cluster: Any) -> None:
    for groups in ((0, 1), (0, 0)):
        add(cluster, [(0, group, group, group) for group in groups])
    two = ask(cluster, 2)
    assert (nodes_of(placed(cluster, two)), foreseen(cluster, two)) == ([1], (0, (0,)))


def test_without_devices_the_tightest_of_nodes_free_at_the_same_time_is_foreseen(cluster: Any) -> None:
    for devices, cores in [(1, 8), (0, 16), (0, 8), (0, 8)]:
        add(cluster, devices, cores=cores)
    chosen: list[int] = []
    for _ in range(4):
        start, nodes = foreseen(cluster, ask(cluster, cores=8), avoid=chosen)
        chosen += nodes
        assert start == 0
    assert chosen == [2, 3, 1, 0]


def test_a_gang_starts_when_enough_nodes_are_free_together(cluster: Any) -> None:
    for node, end_us in enumerate((10, 20, 30)):
        add(cluster, 2)
        hold(cluster, node, 1, (0,), end_us=NOW_US + end_us)
    cluster.book(0, 1, NOW_US + 25, NOW_US + 50)
    pair = ask(cluster, 4, nodes=2)
    assert foreseen(cluster, pair, 5) == (20, (0, 1))
    assert foreseen(cluster, pair, 6) == (30, (1, 2))
    assert foreseen(cluster, ask(cluster, 6, nodes=3), 5) == (50, (0, 1, 2))


def test_a_gang_is_foreseen_in_the_nearest_domain_that_is_free_then(cluster: Any) -> None:
    for node, (domain, end_us) in enumerate([(0, 10), (1, 20), (0, 20), (1, 10)]):
        add(cluster, 1, domains=(domain,))
        hold(cluster, node, 1, (0,), end_us=NOW_US + end_us)
    assert foreseen(cluster, ask(cluster, 2, nodes=2)) == (10, (0, 3))
    assert foreseen(cluster, ask(cluster, 2, nodes=2), avoid=[0]) == (20, (1, 3))
    assert foreseen(cluster, ask(cluster, 3, nodes=3)) == (20, (0, 1, 2))


def test_what_no_open_node_can_hold_is_never_foreseen(cluster: Any) -> None:
    add(cluster, 4, state=CORDONED)
    add(cluster, 2)
    assert foreseen(cluster, ask(cluster, 4)) is None
    assert foreseen(cluster, ask(cluster, 5)) is None
    assert foreseen(cluster, ask(cluster, 1), avoid=[1]) is None


def test_a_reservation_on_time_is_never_put_off_by_what_is_placed_after_it(cluster: Any) -> None:
    add(cluster, 4)
    hold(cluster, 0, 1, (0,), end_us=NOW_US + 100)
    large, small = ask(cluster, 4), ask(cluster, 1)
    plan = cluster.plan(NOW_US)
    promised = plan.earliest(large, 50)
    plan.reserve()
    number = 1
    for duration_us in (200, 100, 101, 30, 100, 1):
        answer = plan.place(small, duration_us)
        assert (answer is None) == (duration_us > 100)
        if answer is not None and number < 3:
            plan.take()
            number += 1
    for _ in range(2):
        hold(cluster, 0, number, (number,), end_us=NOW_US + 100)
        number -= 1
    assert promised == (NOW_US + 100, (0,)) == cluster.plan(NOW_US).earliest(large, 50)


# ------------------------------------------------------------------------------------------- why it waits


def survey(cluster: Any, request: int, duration_us: int = HOUR_US, **rest: Any) -> dict[str, int]:
    counts = cluster.plan(NOW_US).survey(request, duration_us, **rest)
    assert len(counts) == len(_placement.VERDICTS)
    return {verdict: count for verdict, count in zip(_placement.VERDICTS, counts, strict=True) if count}


def test_every_node_that_is_there_counts_by_the_first_reason_against_it(cluster: Any) -> None:
    fitting = add(cluster, 4, labels=(1,))
    add(cluster, 4, labels=(1,), state=CORDONED)
    add(cluster, 4, labels=(1,), state=LOST)
    add(cluster, 4)
    add(cluster, 4, kind=1, labels=(1,))
    add(cluster, 1, labels=(1,))
    add(cluster, 4, cores=2, labels=(1,))
    shared, devices, cores, memory, reserved, booked = (add(cluster, 4, labels=(1,)) for _ in range(6))
    hold(cluster, shared, 1, exclusive=True)
    hold(cluster, devices, 1, (0, 1, 2), cores=64)
    hold(cluster, cores, 1, cores=62, memory_mib=1000)
    hold(cluster, memory, 1, memory_mib=991)
    cluster.book(reserved, 1, NOW_US + 1, NOW_US + 2)
    cluster.book(booked, 1, NOW_US, NOW_US + 2)
    two = ask(cluster, 2, gpu_type=0, cores=3, memory_mib=10, labels=(1,))
    assert survey(cluster, two) == {
        "fits": 1, "closed": 1, "labels": 1, "kind": 1, "small": 2, "shared": 1, "devices": 1, "cores": 1,
        "memory": 1, "reserved": 2,
    }  # fmt: skip
    assert survey(cluster, two, avoid=[fitting, 3])["closed"] == 3


def test_an_exclusive_request_counts_nodes_with_others_as_shared(cluster: Any) -> None:
    add(cluster, 4)
    hold(cluster, 0, 1)
    assert survey(cluster, ask(cluster, 1, exclusive=True)) == {"shared": 1}
    assert survey(cluster, ask(cluster, 1)) == {"fits": 1}


def test_a_kind_of_which_all_devices_are_broken_is_a_kind_all_the_same(cluster: Any) -> None:
    node = add(cluster, 1)
    cluster.set_device(node, 0, False)
    assert survey(cluster, ask(cluster, 1)) == {"small": 1}
    assert survey(cluster, ask(cluster, 1, gpu_type=1)) == {"kind": 1}


def test_of_several_kinds_on_a_node_the_one_that_gets_furthest_counts(cluster: Any) -> None:
    node = add(cluster, [(0, *NO_GROUPS), (1, *NO_GROUPS), (1, *NO_GROUPS)])
    two = ask(cluster, 2, nodes=1)
    assert survey(cluster, two) == {"fits": 1}
    hold(cluster, node, 1, (1,))
    assert survey(cluster, two) == {"devices": 1}
    assert survey(cluster, ask(cluster, 2, nodes=1, gpu_type=0)) == {"small": 1}


def test_what_a_plan_has_given_away_or_promised_counts_in_its_survey(cluster: Any) -> None:
    add(cluster, 4)
    plan = cluster.plan(NOW_US)
    three, two = ask(cluster, 3), ask(cluster, 2)
    plan.place(three, 10)
    plan.take()
    plan.earliest(three, 10)
    plan.reserve()
    names = _placement.VERDICTS
    assert plan.survey(two, 1)[names.index("devices")] == 1
    one = ask(cluster, 1, exclusive=True)
    assert plan.survey(one, 1)[names.index("shared")] == 1
    assert plan.survey(ask(cluster, 1), 30)[names.index("fits")] == 1
    plan.earliest(ask(cluster, 4), 10)
    plan.reserve()
    assert plan.survey(ask(cluster, 1), 21)[names.index("reserved")] == 1


def test_a_gang_is_surveyed_by_its_largest_part(cluster: Any) -> None:
    for devices in (4, 3, 2):
        add(cluster, devices)
    assert survey(cluster, ask(cluster, 5, nodes=2)) == {"fits": 2, "small": 1}
    assert survey(cluster, ask(cluster, 16, nodes=4)) == {"fits": 1, "small": 2}


# ---------------------------------------------------------------------------------------- what is on offer


def test_the_devices_on_offer_are_the_free_ones_of_kinds_that_will_do(cluster: Any) -> None:
    add(cluster, [(0, *NO_GROUPS), (0, *NO_GROUPS), (1, *NO_GROUPS)])
    add(cluster, 2, kind=1)
    add(cluster, 0)
    hold(cluster, 0, 1, (0,))
    cluster.set_device(1, 0, False)
    plan = cluster.plan(NOW_US)
    wanted = [ask(cluster, 1), ask(cluster, 1, gpu_type=0), ask(cluster, 1, gpu_memory_mib=41 * 1024)]
    assert [plan.offer(request) for request in wanted] == [(3, 3, 2), (3, 1, 1), (3, 1, 1)]
    assert [plan.offer(request, empty=True) for request in wanted] == [(3, 4, 3), (3, 2, 2), (3, 2, 2)]


def test_a_request_without_devices_is_offered_cores(cluster: Any) -> None:
    for cores in (8, 16):
        add(cluster, 1, cores=cores)
    hold(cluster, 1, 1, cores=10)
    hold(cluster, 1, 2, cores=10)
    plan = cluster.plan(NOW_US)
    assert plan.offer(ask(cluster, cores=1)) == (2, 8, 8)
    assert plan.offer(ask(cluster, cores=1), empty=True) == (2, 24, 16)


def test_only_nodes_that_may_be_used_are_on_offer(cluster: Any) -> None:
    for state in (LOST, CORDONED, OPEN):
        add(cluster, 1, labels=(1,), state=state)
    add(cluster, 1)
    plan = cluster.plan(NOW_US)
    labelled = ask(cluster, 1, labels=(1,))
    assert (plan.offer(labelled), plan.offer(labelled, empty=True)) == ((1, 1, 1), (2, 2, 1))
    assert plan.offer(ask(cluster, 1, labels=(2,))) == (0, 0, 0)


def test_a_node_kept_by_a_job_a_booking_or_the_plan_is_not_on_offer(cluster: Any) -> None:
    for _ in range(5):
        add(cluster, 2)
    hold(cluster, 0, 1, (0,))
    hold(cluster, 1, 1, exclusive=True)
    cluster.book(2, 1, NOW_US, NOW_US + HOUR_US)
    cluster.book(3, 1, NOW_US + 1, NOW_US + HOUR_US)
    plan = cluster.plan(NOW_US)
    shared, alone = ask(cluster, 1), ask(cluster, 1, exclusive=True)
    assert (plan.offer(shared), plan.offer(alone)) == ((3, 5, 2), (2, 4, 2))
    assert plan.place(alone, 1, only=[4]) == [(4, (0,))]
    plan.take()
    assert (plan.offer(shared), plan.offer(alone)) == ((2, 3, 2), (1, 2, 2))
    assert plan.offer(shared, empty=True) == (5, 10, 2)


def test_what_is_claimed_beyond_what_is_free_makes_no_other_offer_smaller(cluster: Any) -> None:
    for _ in range(2):
        add(cluster, 2)
    hold(cluster, 0, 1, (0,))
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 2), HOUR_US, only=[0], gone=[1]) == (0,)
    plan.claim()
    assert plan.offer(ask(cluster, 1)) == (2, 2, 2)


def test_a_cluster_is_idle_as_long_as_an_open_node_has_a_free_device(cluster: Any) -> None:
    add(cluster, 0)
    add(cluster, 1, state=CORDONED)
    assert not cluster.plan(NOW_US).idle()
    node = add(cluster, [(0, *NO_GROUPS), (1, *NO_GROUPS)])
    hold(cluster, node, 1, (0,), exclusive=True)
    assert cluster.plan(NOW_US).idle()  # whether anybody may have it or not
    cluster.set_device(node, 1, False)
    assert not cluster.plan(NOW_US).idle()
    cluster.release(node, 1)
    assert cluster.plan(NOW_US).idle()


def test_what_a_plan_gives_away_now_is_idle_no_longer(cluster: Any) -> None:
    node = add(cluster, 4)
    hold(cluster, node, 1, (0,), end_us=NOW_US + 5)
    plan, one, four = cluster.plan(NOW_US), ask(cluster, 1), ask(cluster, 4)
    assert plan.earliest(four, 1) == (NOW_US + 5, (node,))
    plan.reserve()
    plan.place(one, 1)
    plan.take()
    plan.earliest(one, 1)
    plan.reserve()
    assert plan.idle()
    plan.fits(one, 1)
    assert plan.idle()  # and that leaves the answer
    plan.claim()
    assert not plan.idle()
    assert cluster.plan(NOW_US).idle()


def test_a_device_that_is_free_is_not_idle_when_more_than_that_is_claimed(cluster: Any) -> None:
    add(cluster, 4)
    hold(cluster, 0, 1, (0, 1))
    plan = cluster.plan(NOW_US)
    assert plan.fits(ask(cluster, 3), 1, gone=[1]) == (0,)
    plan.claim()
    assert not plan.idle()


# --------------------------------------------------------------------------------------- what may not be

HUGE = 2**63 - 1


def test_the_largest_of_everything_is_taken_as_it_is(module: Any) -> None:
    cluster = module.Cluster()
    number, amount, end_us = 2**30, 2**50, 2**61
    cluster.add_kind(number, amount)
    cluster.add_node()
    cluster.set_node(0, amount, amount, [(0, number, number, number)], [number])
    cluster.set_state(0, OPEN)
    cluster.hold(0, HUGE, [0], amount, amount, False, end_us)
    cluster.book(0, number, end_us - 1, end_us)
    wanted = (1, number, amount, amount, amount, 1, False, [number])
    cluster.add_request(*wanted)
    assert cluster.add_request(number, number, amount, amount, amount, number, True) == 1
    assert [cluster.nodes_for(request) for request in (0, 1)] == [1, 0]
    assert cluster.plan(0).earliest(0, end_us) == (end_us, (0,))
    plan = cluster.plan(end_us)
    assert plan.earliest(0, end_us - 1) == (end_us + 1, (0,))
    plan.reserve()
    assert plan.earliest(0, 1) is None  # it comes back at 2**62
    assert plan.fits(0, end_us, gone=[HUGE]) is None
    cluster.unbook(0, number)
    plan = cluster.plan(end_us)
    assert plan.fits(0, end_us, gone=[HUGE]) == (0,)
    plan.claim()
    assert plan.earliest(0, 1) is None
    assert plan.survey(0, end_us)[_placement.VERDICTS.index("devices")] == 1


@pytest.mark.parametrize(("call", "error"), [
    (("add_kind", -1, 0), ValueError), (("add_kind", 0, -1), ValueError), (("add_kind", 0, HUGE), ValueError),
    (("set_node", 9, 1, 1, []), KeyError), (("set_node", -1, 1, 1, []), KeyError),
    (("set_node", 0, -1, 1, []), ValueError), (("set_node", 0, 1, -1, []), ValueError),
    (("set_node", 0, HUGE, 1, []), ValueError), (("set_node", 0, 1, HUGE, []), ValueError),
    (("set_node", 0, 1, 1, [(2, 0, 0, 0)]), KeyError), (("set_node", 0, 1, 1, [(-1, 0, 0, 0)]), KeyError),
    (("set_node", 0, 1, 1, [(0, -2, 0, 0)]), ValueError), (("set_node", 0, 1, 1, [(0, 0, 0)]), ValueError),
    (("set_node", 0, 1, 1, [], [-1]), ValueError), (("set_node", 0, 1, 1, [], [], [-2]), ValueError),
    (("set_node", 0, 1, 1, [], [], [0] * 5), ValueError),
    (("set_state", 9, OPEN), KeyError), (("set_state", 0, 3), ValueError), (("set_state", 0, -1), ValueError),
    (("set_device", 9, 0, True), KeyError), (("set_device", 0, 2, True), ValueError),
    (("set_device", 0, -1, False), ValueError), (("state", 9), KeyError), (("free", -1), KeyError),
    (("hold", 9, 5, [], 0, 0, False, 0), KeyError), (("hold", 0, 0, [], 0, 0, False, 0), ValueError),
    (("hold", 0, 5, [2], 0, 0, False, 0), ValueError), (("hold", 0, 5, [-1], 0, 0, False, 0), ValueError),
    (("hold", 0, 5, [0], 0, 0, False, 0), ValueError), (("hold", 0, 5, [1, 1], 0, 0, False, 0), ValueError),
    (("hold", 0, 1, [], 0, 0, False, 0), ValueError), (("hold", 0, 5, [1], -1, 0, False, 0), ValueError),
    (("hold", 0, 5, [1], 0, -1, False, 0), ValueError), (("hold", 0, 5, [1], 0, 0, False, -1), ValueError),
    (("hold", 0, 5, [1], 0, 0, False, HUGE), ValueError),
    (("expect", 9, 1, 0), KeyError), (("expect", 0, 1, -1), ValueError), (("expect", 0, 1, HUGE), ValueError),
    (("release", 9, 1), KeyError), (("release", -1, 1), KeyError),
    (("book", 9, 5, 0, 1), KeyError), (("book", 0, 0, 0, 1), ValueError), (("book", 0, 5, 2, 2), ValueError),
    (("book", 0, 5, 2, 1), ValueError), (("book", 0, 5, -1, 1), ValueError),
    (("book", 0, 5, 0, HUGE), ValueError), (("unbook", 9, 1), KeyError),
    (("add_request", -1, -1, 0, 0, 0, 0, False), ValueError),
    (("add_request", 1, -2, 0, 0, 0, 0, False), ValueError),
    (("add_request", 1, -1, -1, 0, 0, 0, False), ValueError),
    (("add_request", 1, -1, 0, -1, 0, 0, False), ValueError),
    (("add_request", 1, -1, 0, 0, -1, 0, False), ValueError),
    (("add_request", 1, -1, 0, 0, 0, -1, False), ValueError),
    (("add_request", 1, -1, 0, 0, 0, 0, False, [-1]), ValueError),
    (("add_request", 1, -1, 0, 0, 0, 2, False), ValueError),
    (("add_kind", 2**30 + 1, 0), ValueError), (("set_node", 0, 1, 1, [(0, 2**30 + 1, 0, 0)]), ValueError),
    (("set_node", 0, 1, 1, [], [2**30 + 1]), ValueError), (("book", 0, 2**30 + 1, 0, 1), ValueError),
    (("set_node", 0, 1, 1, [], [], [2**30 + 1]), ValueError),
    (("add_request", 1, 2**30 + 1, 0, 0, 0, 0, False), ValueError),
    (("add_request", 1, -1, 0, 0, 0, 0, False, [2**30 + 1]), ValueError),
    (("add_request", HUGE, -1, 0, 0, 0, 0, False), (ValueError, OverflowError)),
    (("nodes_for", 1), KeyError), (("nodes_for", -1), KeyError), (("nodes_for", 0, [9]), KeyError),
    (("nodes_for", 0, [-1]), KeyError), (("plan", -1), ValueError), (("plan", HUGE), ValueError),
])  # fmt: skip
def test_what_may_not_be_is_refused_and_changes_nothing(
    cluster: Any, call: tuple[Any, ...], error: type[Exception]
) -> None:
    node = add(cluster, 2)
    one = ask(cluster, 1)
    hold(cluster, node, 1, (0,), cores=4)
    plan = cluster.plan(NOW_US)
    with pytest.raises(error):
        getattr(cluster, call[0])(*call[1:])
    assert (len(cluster), cluster.state(node), cluster.free(node)) == (1, OPEN, (60, 1000, (1,)))
    assert plan.place(one, 1) == [(node, (1,))]
    assert foreseen(cluster, ask(cluster, 2)) == (HOUR_US, (node,))


@pytest.mark.parametrize(("call", "error"), [
    (("place", 1, 1), KeyError), (("place", -1, 1), KeyError), (("place", 0, 0), ValueError),
    (("place", 0, -1), ValueError), (("place", 0, HUGE), ValueError), (("place", 0, 1, [9]), KeyError),
    (("place", 0, 1, [-1]), KeyError), (("place", 0, 1, [], [9]), KeyError),
    (("place", 0, 1, [], [-1]), KeyError),
    (("fits", 1, 1), KeyError), (("fits", 0, 0), ValueError), (("fits", 0, 1, [9]), KeyError),
    (("fits", 0, 1, [], [9]), KeyError),
    (("earliest", 1, 1), KeyError), (("earliest", 0, 0), ValueError), (("earliest", 0, 1, [9]), KeyError),
    (("reserve",), RuntimeError), (("claim",), RuntimeError),
    (("survey", 1, 1), KeyError), (("survey", 0, 0), ValueError), (("survey", 0, 1, [9]), KeyError),
    (("offer", 1), KeyError), (("offer", -1, True), KeyError),
    (("nodes_for", 1), KeyError), (("imagine", 1, -2, 0, 0, 0, 0, False), ValueError),
    (("imagine", 1, -1, 0, -1, 0, 0, False), ValueError),
])  # fmt: skip
def test_what_may_not_be_asked_is_refused_and_changes_nothing(
    cluster: Any, call: tuple[Any, ...], error: type[Exception]
) -> None:
    add(cluster, 2)
    add(cluster, 2)
    one = ask(cluster, 1)
    plan = cluster.plan(NOW_US)
    assert plan.place(one, HOUR_US) == [(0, (0,))]
    with pytest.raises(error):
        getattr(plan, call[0])(*call[1:])
    plan.take()
    assert plan.place(one, 1) == [(0, (1,))]


# ----------------------------------------------------------------------------- memory, of the compiled one


def test_a_node_takes_memory_by_what_it_has_and_gives_it_back() -> None:
    cluster = _placement.Cluster()
    cluster.add_kind(0, 0)
    for _ in range(1000):
        add(cluster, 8)
    full = cluster.memory_bytes()
    assert full < 1000 * 2048
    for node in range(1000):
        cluster.set_node(node, 0, 0, [])
    assert cluster.memory_bytes() < full


def test_the_memory_told_is_the_memory_allocated() -> None:
    tracemalloc.start()
    try:
        cluster = _placement.Cluster()
        for kind in range(50):
            cluster.add_kind(kind, 0)
        for node in range(200):
            add(cluster, [(node % 50, 0, 0, 0)] * 8, labels=(1, 2))
            hold(cluster, node, 1, (0, 1))
            cluster.book(node, 1, 1, 2)
            ask(cluster, 1, labels=(1,))
        allocated = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert abs(allocated - cluster.memory_bytes()) < allocated // 100


def test_a_plan_is_made_by_a_cluster_only() -> None:
    for question in (lambda: _placement.Plan().take(), lambda: _placement.Plan().place(0, 1)):
        with pytest.raises(TypeError):
            question()


ENOUGH = 10_000


def memory_fails(call: Callable[[], Any], after: int) -> bool:
    """Whether a call that gets this many blocks of memory and no more lacks one; it may be refused for
    another reason."""
    testcapi = pytest.importorskip("_testcapi")
    testcapi.set_nomemory(after)
    try:
        call()
    except MemoryError:
        return True
    except ValueError:
        return False
    finally:
        testcapi.remove_mem_hooks()
    return False


def two_kinds() -> Any:
    """Eight nodes with devices of both kinds, and a job on the first; requests for one and for gangs."""
    cluster = _placement.Cluster()
    for kind in range(2):
        cluster.add_kind(kind, 0)
    for node in range(8):
        add(cluster, [(0, *NO_GROUPS)] * (4 if node else 300) + [(1, *NO_GROUPS)] * 4, domains=(0,))
        cluster.book(node, 1, NOW_US + 5 * HOUR_US, NOW_US + 6 * HOUR_US)
    hold(cluster, 0, 7, (299, 300), cores=1)
    ask(cluster, 1, gpu_type=1, cores=1)
    ask(cluster, 9, gpu_type=1, cores=1, nodes=3)
    ask(cluster, cores=3, nodes=3)
    return cluster


def told(plan: Any) -> list[Any]:
    asked = [(plan.offer, ()), (plan.survey, (1,)), (plan.earliest, (1,)), (plan.place, (1,))]
    return [plan.idle(), [question(request, *rest) for request in range(3) for question, rest in asked]]


@pytest.mark.parametrize("request_", range(3))
@pytest.mark.parametrize(("question", "answer"), [
    (("place", HOUR_US), "take"), (("earliest", HOUR_US), "reserve"), (("fits", HOUR_US), "claim"),
    (("earliest", 5 * HOUR_US + 1), "reserve"), (("fits", HOUR_US, (), None, [7], True), "claim"),
])  # fmt: skip
def test_a_plan_without_memory_to_keep_an_answer_keeps_none_of_it_and_can_try_again(
    question: tuple[Any, ...], answer: str, request_: int
) -> None:
    plans = [two_kinds().plan(NOW_US) for _ in range(24)]
    for plan in plans:
        assert getattr(plan, question[0])(request_, *question[1:]) is not None
    failed = [memory_fails(getattr(plan, answer), after=blocks) for blocks, plan in enumerate(plans)]
    assert failed == [True] * sum(failed) + [False] * (24 - sum(failed))
    assert 1 < sum(failed) < 24
    for plan, again in zip(plans, failed, strict=True):
        if again:
            getattr(plan, answer)()
        assert told(plan) == told(plans[-1])


@pytest.mark.parametrize("call", [
    ("add_kind", 2, 0), ("add_node",), ("set_node", 1, 8, 8, [(1, 0, 0, 0)] * 5, [1, 2], [3]),
    ("hold", 0, 8, [1, 2, 301, 302], 1, 1, False, NOW_US + HOUR_US),
    ("hold", 0, 8, [298, 299], 1, 1, False, NOW_US + HOUR_US),
    ("book", 1, 2, NOW_US + HOUR_US, NOW_US + 2 * HOUR_US), ("add_request", 1, 1, 0, 0, 0, 0, False, [1, 2]),
    ("nodes_for", 1, [2]),
])  # fmt: skip
def test_a_cluster_without_memory_for_a_change_is_as_it_was_and_can_be_changed_again(
    call: tuple[Any, ...],
) -> None:
    clusters = [two_kinds() for _ in range(24)]
    for cluster in clusters:
        for number in range(10, 15):
            hold(cluster, 0, number)
        for booking in range(2, 5):
            cluster.book(1, 10 * booking, NOW_US + booking * 9 * HOUR_US, NOW_US + booking * 10 * HOUR_US)
    plans = [cluster.plan(NOW_US) for cluster in clusters]
    before = told(plans[-1])
    calls = [partial(getattr(cluster, call[0]), *call[1:]) for cluster in clusters]
    failed = [memory_fails(change, after=blocks) for blocks, change in enumerate(calls)]
    assert 0 < sum(failed) < 24
    for cluster, change, plan, again in zip(clusters, calls, plans, failed, strict=True):
        if again:
            assert told(plan) == before
            memory_fails(change, after=ENOUGH)
        assert told(cluster.plan(NOW_US)) == told(clusters[-1].plan(NOW_US))
        assert [cluster.free(node) for node in range(8)] == [clusters[-1].free(node) for node in range(8)]


# --- snapshots ----------------------------------------------------------------------------------------

UNUSABLE, HOLDERS, HOLDS, BOOKED = 4, 5, 6, 7


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (0, 3),
        (1, -1),
        (3, [(1, *NO_GROUPS)]),
        (UNUSABLE, [2]),
        (HOLDERS, [(2, 5)]),
        (HOLDERS, [(0, 0)]),
        (HOLDS, [(NOW_US, 5, 1, 0, 1, 1)]),
        (HOLDS, [(NOW_US, 0, 1, 0, 1, 0)]),
        (HOLDS, [(-1, 5, 1, 0, 1, 0)]),
        (BOOKED, [(NOW_US, -1, 0)]),
        (BOOKED, [(NOW_US, -1)]),
    ],
)
def test_what_no_cluster_gives_is_not_loaded(part: int, value: Any) -> None:
    cluster = _placement.Cluster()
    cluster.add_kind(0, 80)
    node = add(cluster, devices=2)
    cluster.hold(node, 5, [0], 1, 1, False, NOW_US)
    cluster.book(node, 1, NOW_US, NOW_US + 1)
    kinds, nodes, requests = cluster.dump()
    _placement.Cluster.load((kinds, nodes, requests))
    changed = list(nodes[0])
    changed[part] = value
    with pytest.raises((ValueError, KeyError, TypeError)):
        _placement.Cluster.load((kinds, [tuple(changed)], requests))
