"""Keeps the compiled cluster true to the nodes, their devices and who holds what. For ``evolve`` only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from horizon._placement import CORDONED, LOST, OPEN
from horizon.core.model import Device, Inventory
from horizon.core.state import Booking, Job, Node, State

K = TypeVar("K")

MIB_PER_GIB: Final = 1024


def join(state: State, node: Node, inventory: Inventory) -> None:
    """The node has this inventory from now on; whatever is held or booked of it stays so. O(its size).

    A device that several nodes have is to be used where it turned up last, and nowhere else.
    """
    name, before = inventory.name, node.slots
    for uuid in before:
        state.devices.places[uuid].remove((name, before[uuid]))
    node.inventory = inventory
    node.slots = {device.uuid: slot for slot, device in enumerate(inventory.devices)}
    for uuid, slot in node.slots.items():
        state.devices.places.setdefault(uuid, []).append((name, slot))
        if state.devices.homes.setdefault(uuid, name) != name:
            state.devices.moved = True
    concerned = {name: True}
    if state.devices.moved:
        concerned.update(
            {place[0]: True for uuid in (*before, *node.slots) for place in state.devices.places[uuid]}
        )
    for one in concerned:
        _set_up(state, state.nodes[one])


def _set_up(state: State, node: Node) -> None:
    """Has the cluster know of the node all that the state knows."""
    inventory = node.inventory
    state.cluster.set_node(
        node.index,
        inventory.cpu_cores,
        inventory.memory_mib,
        [
            (kind_of(state, device), device.link_group, device.numa_node, root)
            for device, root in zip(inventory.devices, _pcie_roots(inventory), strict=True)
        ],
        [number_in(state.terms.labels, pair) for pair in inventory.labels.items()],
        list(_domains(state, inventory)),
    )
    set_node_state(state, node)
    for uuid, slot in node.slots.items():
        if uuid in state.devices.failed or state.devices.places[uuid][-1] != (inventory.name, slot):
            state.cluster.set_device(node.index, slot, False)
    for job in _holding_on(state, node):
        _hold(state, node, job)
    for booking in state.bookings.values():
        if inventory.name in booking.nodes:
            state.cluster.book(node.index, booking.number, booking.start_us, booking.end_us)


def rejoin_all(state: State) -> None:
    """What connects nodes is said by other labels now."""
    for node in state.nodes.values():
        _set_up(state, node)


def kind_of(state: State, device: Device) -> int:
    """Devices of one type and size are of one kind. The size is rounded up to what it is sold as: drivers
    keep some MiB for themselves, and not all the same."""
    gpu_type = device.gpu_type.lower()
    gib = -(-device.memory_mib // MIB_PER_GIB)
    kind = state.terms.kinds.get((gpu_type, gib))
    if kind is None:
        kind = state.cluster.add_kind(number_in(state.terms.gpu_types, gpu_type), gib * MIB_PER_GIB)
        state.terms.kinds[gpu_type, gib] = kind
    return kind


def _pcie_roots(inventory: Inventory) -> list[int]:
    roots: dict[str, int] = {}
    return [number_in(roots, device.pcie_root) if device.pcie_root else -1 for device in inventory.devices]


def _domains(state: State, inventory: Inventory) -> Iterator[int]:
    for label in state.policy.topology_labels:
        value = inventory.labels.get(label)
        yield -1 if value is None else number_in(state.terms.domains, (label, value))


def number_in(known: dict[K, int], what: K) -> int:
    """Its number among those known, a new one if it is not."""
    return known.setdefault(what, len(known))


def set_node_state(state: State, node: Node) -> None:
    state.cluster.set_state(node.index, LOST if node.lost else CORDONED if node.cordoned else OPEN)


def set_device(state: State, uuid: str, usable: bool) -> None:
    places = state.devices.places.get(uuid, [])
    for place in places:
        state.cluster.set_device(state.nodes[place[0]].index, place[1], usable and place == places[-1])


# --- who holds what -----------------------------------------------------------------------------------


def _holding_on(state: State, node: Node) -> list[Job]:
    """Who holds something of the node: what it was given there, or a device that has turned up there."""
    ids, holders = dict.fromkeys(node.jobs), state.devices.holders
    ids.update(dict.fromkeys(holders[uuid] for uuid in node.slots if uuid in holders))
    return [state.jobs[id] for id in ids]


def _hold(state: State, node: Node, job: Job) -> None:
    slots = [slot for uuid, slot in node.slots.items() if state.devices.holders.get(uuid) == job.id]
    placement = next((one for one in job.allocation if one.node == node.inventory.name), None)
    cores, memory_mib = (placement.cpu_cores, placement.memory_mib) if placement else (0, 0)
    state.cluster.hold(
        node.index,
        job.number,
        slots,
        cores,
        memory_mib,
        job.spec.exclusive,
        job.expected_us,
        placement is not None,
    )


def hold_what_it_got(state: State, job: Job, end_us: int) -> None:
    """The job holds its allocation, and is expected to end then. O(allocation)."""
    job.expected_us = end_us
    exclusive, holders = job.spec.exclusive, state.devices.holders
    for placement in job.allocation:
        node, cores, memory_mib = state.nodes[placement.node], placement.cpu_cores, placement.memory_mib
        node.jobs[job.id] = exclusive
        node.cores_held += cores
        node.memory_held_mib += memory_mib
        for uuid in placement.gpu_ids:
            holders[uuid] = job.id
        slots = [node.slots[uuid] for uuid in placement.gpu_ids]
        state.cluster.hold(node.index, job.number, slots, cores, memory_mib, exclusive, end_us)


def expect_end(state: State, job: Job, end_us: int) -> None:
    """The job is expected to end then. O(allocation)."""
    if end_us == job.expected_us:
        return
    job.expected_us = end_us
    for index in _nodes_of(state, job):
        state.cluster.expect(index, job.number, end_us)


def free_what_it_held(state: State, job: Job) -> None:
    """Nothing of the allocation is held any more. O(allocation)."""
    for placement in job.allocation:
        node = state.nodes[placement.node]
        del node.jobs[job.id]
        node.cores_held -= placement.cpu_cores
        node.memory_held_mib -= placement.memory_mib
        for uuid in placement.gpu_ids:
            del state.devices.holders[uuid]
    for index in _nodes_of(state, job):
        state.cluster.release(index, job.number)


def _nodes_of(state: State, job: Job) -> list[int]:
    """The numbers of the nodes where the job holds something."""
    allocation = job.allocation
    if not state.devices.moved:
        if len(allocation) == 1:
            return [state.nodes[allocation[0].node].index]  # nearly all jobs, and a comprehension is a call
        return [state.nodes[placement.node].index for placement in allocation]
    nodes = dict.fromkeys(state.nodes[placement.node].index for placement in job.allocation)
    for placement in job.allocation:
        for uuid in placement.gpu_ids:
            places = state.devices.places.get(uuid, ())
            if len(places) != 1 or places[0][0] != placement.node:
                nodes.update(dict.fromkeys(state.nodes[name].index for name, _ in places))
    return list(nodes)


# --- bookings -----------------------------------------------------------------------------------------


def book_nodes(state: State, booking: Booking) -> None:
    for name in booking.nodes:
        state.cluster.book(state.nodes[name].index, booking.number, booking.start_us, booking.end_us)


def unbook_nodes(state: State, booking: Booking) -> None:
    for name in booking.nodes:
        state.cluster.unbook(state.nodes[name].index, booking.number)
