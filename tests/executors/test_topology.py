"""Where the GPUs of a node are: which are linked, near which processor, below which PCIe root."""

from __future__ import annotations

from pathlib import Path

import pytest

from horizon.executors.inventory import simulated
from horizon.executors.topology import Spot, link_groups, on_the_bus, pcie_root, pretended, sysfs_name


@pytest.mark.parametrize(
    ("count", "links", "expected"),
    [
        (0, [], []),
        (3, [], [-1, -1, -1]),
        (4, [(0, 1), (2, 3)], [0, 0, 1, 1]),
        (4, [(0, 3), (1, 2)], [0, 1, 1, 0]),
        (4, [(2, 3)], [-1, -1, 0, 0]),
        (4, [(0, 1), (1, 2), (2, 3)], [0, 0, 0, 0]),
        (5, [(3, 4), (0, 4), (1, 2)], [0, 1, 1, 0, 0]),
        (3, [(0, 1), (0, 1), (1, 0)], [0, 0, -1]),
        (8, [(one, other) for one in range(8) for other in range(one + 1, 8)], [0] * 8),
    ],
)
def test_what_can_be_reached_over_links_is_one_group(
    count: int, links: list[tuple[int, int]], expected: list[int]
) -> None:
    assert link_groups(count, links) == expected


@pytest.mark.parametrize(
    ("bus_id", "expected"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00000001:00:00.0", "0001:00:00.0"),
        ("0000:CB:00.0", "0000:cb:00.0"),
        ("00010000:0A:00.0", "10000:0a:00.0"),
    ],
)
def test_a_bus_id_of_nvml_is_found_under_the_kernels_name(bus_id: str, expected: str) -> None:
    assert sysfs_name(bus_id) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/sys/devices/pci0000:16/0000:16:01.0/0000:17:00.0/0000:18:00.0/0000:19:00.0", "0000:16:01.0"),
        ("/sys/devices/pci0000:16/0000:16:01.0/0000:17:00.0", "0000:16:01.0"),
        ("/sys/devices/pci0000:00/0000:00:05.0", ""),
        ("/sys/devices/LNXSYSTM:00/VMBUS:01/guid/pci0001:00/0001:00:00.0", ""),
        (
            "/sys/devices/pci0000:e0/0000:e0:00.5/pci10000:e0/10000:e0:00.0/10000:e1:00.0",
            "10000:e0:00.0",
        ),
        ("/sys/devices/platform/soc/gpu", ""),
    ],
)
def test_the_root_is_the_first_bridge_behind_the_bus(path: str, expected: str) -> None:
    assert pcie_root(Path(path)) == expected


def a_gpu_in_sysfs(tmp_path: Path, numa_node: str | None) -> Path:
    """A directory as the kernel's /sys/bus/pci/devices, with a GPU behind a switch."""
    device = tmp_path / "devices/pci0000:16/0000:16:01.0/0000:17:00.0/0000:18:00.0/0000:19:00.0"
    device.mkdir(parents=True)
    if numa_node is not None:
        (device / "numa_node").write_text(numa_node)
    names = tmp_path / "bus"
    names.mkdir()
    (names / "0000:19:00.0").symlink_to(device)
    return names


@pytest.mark.parametrize(
    ("numa_node", "expected"), [("1\n", 1), ("0\n", 0), ("-1\n", -1), ("", -1), ("what\n", -1), (None, -1)]
)
def test_the_kernel_knows_the_processor_and_the_root(
    tmp_path: Path, numa_node: str | None, expected: int
) -> None:
    names = a_gpu_in_sysfs(tmp_path, numa_node)
    assert on_the_bus("00000000:19:00.0", names) == (expected, "0000:16:01.0")


def test_a_device_that_the_kernel_does_not_show_is_nowhere_in_particular(tmp_path: Path) -> None:
    assert on_the_bus("00000000:3B:00.0", tmp_path) == (-1, "")


def test_eight_pretend_gpus_are_like_a_server_of_eight() -> None:
    spots = pretended(8, "H100")
    assert {spot.link_group for spot in spots} == {0}
    assert [spot.numa_node for spot in spots] == [0, 0, 0, 0, 1, 1, 1, 1]
    roots = [spot.pcie_root for spot in spots]
    assert roots[::2] == roots[1::2]
    assert len(set(roots)) == 4
    devices = simulated("8xH100")[0].devices
    assert [Spot(device.link_group, device.numa_node, device.pcie_root) for device in devices] == spots


@pytest.mark.parametrize("count", range(1, 17))
def test_pretend_gpus_below_one_root_are_near_one_processor_and_two_at_most(count: int) -> None:
    spots = pretended(count, "A100")
    assert len(spots) == count
    roots = {spot.pcie_root for spot in spots}
    for root in roots:
        below = [spot for spot in spots if spot.pcie_root == root]
        assert len(below) <= 2
        assert len({spot.numa_node for spot in below}) == 1
    near_the_first = sum(spot.numa_node == 0 for spot in spots)
    assert near_the_first == (count + 1) // 2
    assert {spot.link_group for spot in spots} == ({0} if count > 1 else {-1})


@pytest.mark.parametrize(
    "gpu_type", ["T4", "L4", "A10", "a10g", "A2", "A16", "RTX4090", "RTX6000Ada", "L40", "L40S"]
)
def test_types_without_nvlink_are_not_linked_but_have_their_places(gpu_type: str) -> None:
    spots = pretended(4, gpu_type)
    assert {spot.link_group for spot in spots} == {-1}
    assert [spot.numa_node for spot in spots] == [0, 0, 1, 1]


@pytest.mark.parametrize("gpu_type", ["H100", "A100", "A40", "GB200", "V100", "NextThing"])
def test_types_with_nvlink_are_linked(gpu_type: str) -> None:
    assert {spot.link_group for spot in pretended(2, gpu_type)} == {0}


def test_a_pretend_node_larger_than_any_machine_has_no_topology() -> None:
    assert set(pretended(17, "H100")) == {Spot()}
    assert simulated("17xH100")[0].devices[0].link_group == -1
