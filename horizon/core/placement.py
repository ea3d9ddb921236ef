"""Finds the devices, cores and memory for one request: all of them or none. Pure.

A request is split into parts, one a node, and each part takes the node it fits most tightly: the one with
the fewest GPUs left, then the fewest cores, then the first name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from horizon.core.model import Allocation, Device, Placement
from horizon.core.state import Node, Shape

SPLITS_TRIED_MAX: Final = 64
"""How many gang sizes are tried for a request that no single node can ever hold."""

CPU_ONLY: Final = ""
"""The GPU type of a part that takes no GPU."""


class Room(Struct):
    """What is free on one node, as a cycle sees it: the state's, less what the cycle gave away already."""

    name: str
    labels: dict[str, str]
    devices: dict[str, list[Device]]
    """The free devices by type, lowest index first."""
    cores: int
    memory_mib: int
    jobs: int
    exclusive: bool
    """Whether a job has the node for itself."""

    def gpus(self) -> int:
        return sum(map(len, self.devices.values()))


class Part(Struct, frozen=True):
    """What one node of an allocation has to give."""

    gpus: int
    cores: int
    memory_mib: int


def room_on(name: str, node: Node, holders: Mapping[str, str]) -> Room:
    """The node's free resources; nothing at all on a lost node."""
    if node.lost:
        return Room(name, {}, {}, 0, 0, 0, True)
    free: dict[str, list[Device]] = {}
    for device in node.inventory.devices:
        if device.uuid not in holders:
            free.setdefault(device.gpu_type, []).append(device)
    exclusive = any(node.jobs.values())
    labels = node.inventory.labels
    return Room(name, labels, free, node.cores_free, node.memory_free_mib, len(node.jobs), exclusive)


def empty_room(name: str, node: Node) -> Room:
    """The node as if nothing ran on it and it were well."""
    return room_on(name, Node(inventory=node.inventory), {})


def parts(shape: Shape, nodes: int) -> list[Part]:
    """The request split over ``nodes`` as evenly as whole numbers allow, the largest part first."""
    return [
        Part(
            _part(shape.gpu_count, nodes, index),
            _part(shape.cpu_cores, nodes, index),
            _part(shape.memory_mib, nodes, index),
        )
        for index in range(nodes)
    ]


def _part(amount: int, nodes: int, index: int) -> int:
    share, rest = divmod(amount, nodes)
    return share + (index < rest)


def admits(shape: Shape, room: Room) -> bool:
    """Whether the node may be used at all: it has the labels, and nobody wants it for themselves."""
    if room.exclusive or (shape.exclusive and room.jobs):
        return False
    return all(room.labels.get(key) == value for key, value in shape.constraints)


def wants(shape: Shape, gpu_type: str) -> bool:
    """Whether GPUs of this type will do; types are compared without regard to case."""
    return shape.gpu_type is None or shape.gpu_type.lower() == gpu_type.lower()


def devices_for(shape: Shape, part: Part, room: Room, gpu_type: str) -> list[Device] | None:
    """The devices of this type for a part of the request on this node; None when it has no room for it."""
    if room.cores < part.cores or room.memory_mib < part.memory_mib:
        return None
    if not part.gpus:
        return []
    devices = room.devices.get(gpu_type, [])
    if shape.gpu_memory_mib:
        devices = [device for device in devices if device.memory_mib >= shape.gpu_memory_mib]
    return devices[: part.gpus] if len(devices) >= part.gpus else None


def place(shape: Shape, nodes: int, rooms: Iterable[Room]) -> Allocation | None:
    """An allocation over exactly ``nodes`` of the rooms, its GPUs all of one type. O(rooms log rooms)."""
    admitted = [room for room in rooms if admits(shape, room)]
    if len(admitted) < nodes:
        return None
    split = parts(shape, nodes)
    if shape.gpu_count:
        types = sorted({kind for room in admitted for kind in room.devices if wants(shape, kind)})
    else:
        types = [CPU_ONLY]
    found = [
        (fit, gpu_type, allocation)
        for gpu_type in types
        for fit, allocation in [_place_on_type(shape, split, admitted, gpu_type)]
        if allocation is not None
    ]
    return min(found, default=(None, None, None), key=lambda one: one[:2])[2]


def _place_on_type(
    shape: Shape, split: list[Part], rooms: list[Room], gpu_type: str
) -> tuple[int, Allocation | None]:
    """How many GPUs stay free on the first node it would use, and the allocation."""
    fitting = [room for room in rooms if devices_for(shape, split[-1], room, gpu_type) is not None]
    if len(fitting) < len(split):
        return 0, None
    fitting.sort(key=lambda room: (room.gpus(), room.cores, room.name))
    return fitting[0].gpus(), _assign(shape, split, fitting, gpu_type)


def _assign(shape: Shape, split: list[Part], rooms: list[Room], gpu_type: str) -> Allocation | None:
    """Give each part the first room that holds it.

    Every part is at most as large as the one before in each resource, so whatever holds a part holds all
    that follow: taking any room for a part never keeps a later one from fitting.
    """
    placements: list[Placement] = []
    unused = list(rooms)
    for part in split:
        for index, room in enumerate(unused):
            devices = devices_for(shape, part, room, gpu_type)
            if devices is not None:
                gpu_ids = tuple(device.uuid for device in devices)
                placements.append(Placement(room.name, gpu_ids, part.cores, part.memory_mib))
                del unused[index]
                break
        else:
            return None
    return tuple(placements)


def nodes_for(shape: Shape, empty: list[Room]) -> int:
    """How many nodes the request takes: as asked, else one, else as few as hold it when all are empty.

    0 when this cluster never can. Tries at most ``SPLITS_TRIED_MAX`` gang sizes.
    """
    sizes: Iterable[int]
    if shape.nodes:
        sizes = (shape.nodes,)
    else:
        largest = max((room.gpus() if shape.gpu_count else room.cores for room in empty), default=0)
        amount = shape.gpu_count or shape.cpu_cores
        fewest = -(-amount // largest) if largest else len(empty) + 1
        # Every node of a gang gets a GPU, or a core of a CPU job: memory alone makes no job two processes.
        sizes = range(fewest, min(len(empty), amount, fewest + SPLITS_TRIED_MAX - 1) + 1)
    for nodes in sizes:
        if place(shape, nodes, empty) is not None:
            return nodes
    return 0


def take(rooms: dict[str, Room], allocation: Allocation, exclusive: bool) -> None:
    """Give the allocation away within a cycle."""
    for placement in allocation:
        room = rooms[placement.node]
        taken = set(placement.gpu_ids)
        for gpu_type, devices in room.devices.items():
            room.devices[gpu_type] = [device for device in devices if device.uuid not in taken]
        room.cores -= placement.cpu_cores
        room.memory_mib -= placement.memory_mib
        room.jobs += 1
        room.exclusive |= exclusive
