"""How the GPUs of a node hang together: which of them are linked, and where they sit on its PCIe buses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple

SYSFS_DEVICES: Final = Path("/sys/bus/pci/devices")
PRETENDED_GPUS_MAX: Final = 16
"""No machine links more than these; where the GPUs of a larger pretend node are, nobody could say."""

_WITHOUT_NVLINK: Final = re.compile(r"T4|L4|A10G?|A2|A16|(?:L40|RTX|GTX).*", re.IGNORECASE)
_PCI_BUS: Final = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}")


class Spot(NamedTuple):
    """The place of one GPU among those of its node; the fields are those of ``core.model.Device``."""

    link_group: int = -1
    numa_node: int = -1
    pcie_root: str = ""


def link_groups(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of ``count`` GPUs the number of its group, given which pairs are linked.

    A group is what can be reached from one another over links, through third ones too. Groups are numbered
    in the order of their first members; a GPU without any link has -1. O((count + links) x count).
    """
    leader = list(range(count))
    for one, other in links:
        kept, absorbed = sorted((leader[one], leader[other]))
        leader = [kept if each == absorbed else each for each in leader]
    alone = {each for each in leader if leader.count(each) == 1}
    numbers: dict[int, int] = {}
    return [-1 if each in alone else numbers.setdefault(each, len(numbers)) for each in leader]


# Pretend GPUs


def pretended(count: int, gpu_type: str) -> list[Spot]:
    """As in a server of today: all GPUs on one switch of links, half of them near each of two processors,
    and two of them below each PCIe root."""
    if count > PRETENDED_GPUS_MAX:
        return [Spot()] * count
    linked = count > 1 and not _WITHOUT_NVLINK.fullmatch(gpu_type)
    half = (count + 1) // 2
    return [
        Spot(0 if linked else -1, index // half, f"{index // half}:{index % half // 2:02x}")
        for index in range(count)
    ]


# Real GPUs


def spots(pynvml: Any, gpus: Sequence[Any]) -> list[Spot]:
    """Where the GPUs with these NVML handles are. Never raises: what cannot be found out is not known."""
    groups = link_groups(len(gpus), _linked_pairs(pynvml, gpus))
    return [Spot(group, *_on_the_bus(pynvml, gpu)) for gpu, group in zip(gpus, groups, strict=True)]


def _linked_pairs(pynvml: Any, gpus: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Asked pair by pair: the state of a GPU's own links does not say who is at the other end, and behind a
    switch nobody in particular is."""
    for one, other in combinations(range(len(gpus)), 2):
        try:
            status = pynvml.nvmlDeviceGetP2PStatus(gpus[one], gpus[other], pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        except pynvml.NVMLError:
            continue
        if status == pynvml.NVML_P2P_STATUS_OK:
            yield one, other


def _on_the_bus(pynvml: Any, gpu: Any) -> tuple[int, str]:
    try:
        bus_id = pynvml.nvmlDeviceGetPciInfo(gpu).busId
    except pynvml.NVMLError:
        return -1, ""
    return on_the_bus(bus_id.decode() if isinstance(bus_id, bytes) else bus_id)


def on_the_bus(bus_id: str, sysfs: Path = SYSFS_DEVICES) -> tuple[int, str]:
    """The NUMA node and the PCIe root of the GPU with this NVML bus id, as the kernel has them.

    NVML's own NUMA node is another thing: that of the GPU's memory, where it is memory of the machine.
    """
    device = sysfs / sysfs_name(bus_id)
    try:
        numa_node = int((device / "numa_node").read_text())
    except (OSError, ValueError):
        numa_node = -1
    try:
        return max(-1, numa_node), pcie_root(device.resolve(strict=True))
    except OSError:
        return max(-1, numa_node), ""


def sysfs_name(bus_id: str) -> str:
    """``0000:3b:00.0`` of ``00000000:3B:00.0``: NVML writes the domain with more digits than the kernel."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain.lstrip('0'):0>4}:{rest}"


def pcie_root(path: Path) -> str:
    """The root port above a device, given its path below ``/sys/devices``: the first bridge behind the bus.
    Everything below one shares its way to the processor. Empty when nothing is between bus and device, as
    in a virtual machine."""
    buses = [place for place, part in enumerate(path.parts) if _PCI_BUS.fullmatch(part)]
    below = path.parts[buses[-1] + 1 :] if buses else ()
    return below[0] if len(below) > 1 else ""
