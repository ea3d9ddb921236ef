"""The queue, the nodes and their GPUs, as they are now; and which of them take work."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import times, wire
from horizon.api.answers import answered, encode, encoded, gigabytes, json, page, slices
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.past import At, AtQuery
from horizon.api.problems import Fault, invalid, not_found
from horizon.api.reading import JsonBody, refuse_body
from horizon.api.times import rfc3339, rfc3339_or_null
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import DeviceFailed, DeviceRecovered, NodeCordoned, NodeResumed
from horizon.core.model import AllocationState, Device, JobState, Priority
from horizon.core.policy import Order
from horizon.core.state import Job, Node, State, gpu_state, node_state
from horizon.service.inbox import Render

CORDON: Final = JsonBody(wire.Cordon, limits.JOB_BODY_BYTES_MAX, wire.given, optional=True)
DRAIN: Final = JsonBody(wire.Drain, limits.JOB_BODY_BYTES_MAX, wire.given, optional=True)
DEVICE_FAULT: Final = JsonBody(wire.DeviceFault, limits.JOB_BODY_BYTES_MAX, wire.given, optional=True)

ORDER_DEFAULT: Final = 100
NODE_SLICE: Final = 50


class OrderQuery(Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_JOBS_MAX)] = ORDER_DEFAULT
    at: At = None


class GpuQuery(Struct, frozen=True, forbid_unknown_fields=True):
    node: Annotated[str, Meta(description="Only those of this node.")] | None = None
    at: At = None


# --- the queue ----------------------------------------------------------------------------------------


async def get_queue(context: Context, request: web.Request, query: AtQuery) -> web.Response:
    state, _ = await context.as_of(request, query.at)
    return json(encode(queue_answer(state)))


def queue_answer(state: State) -> wire.QueueAnswer:
    waiting = state.queue.counts()
    total = sum(waiting)
    counts = state.counts
    return wire.QueueAnswer(
        total,
        waiting[Priority.URGENT.rank],
        waiting[Priority.HIGH.rank],
        waiting[Priority.NORMAL.rank],
        waiting[Priority.LOW.rank],
        counts[JobState.QUEUED] - total,
        counts[JobState.SCHEDULED],
        counts[JobState.RUNNING],
        counts[JobState.PREEMPTED],
    )


async def get_order(context: Context, request: web.Request, query: OrderQuery) -> web.Response:
    state, now_us = await context.as_of(request, query.at)
    return json(encode(wire.OrderAnswer(order_of(state, now_us, query.limit), len(state.queue))))


def order_of(state: State, now_us: int, limit: int) -> list[wire.Waiting]:
    """The first of those that wait."""
    numbers = state.queue.order(limit, now_us, state.policy.order is Order.FIFO)
    return [
        _waiting(position, state.numbered[number - 1]) for position, number in enumerate(numbers, start=1)
    ]


def _waiting(position: int, job: Job) -> wire.Waiting:
    spec = job.spec
    return wire.Waiting(
        position,
        job.number,
        job.id,
        job.array or None,
        job.index if job.array else None,
        spec.user_id,
        spec.account,
        spec.job_name,
        job.priority,
        spec.gpu_count,
        rfc3339(job.created_at_us),
    )


# --- nodes --------------------------------------------------------------------------------------------


async def get_nodes(context: Context, request: web.Request, query: AtQuery) -> web.Response:
    state, _ = await context.as_of(request, query.at)
    return page("nodes", await node_rows(state))


async def node_rows(state: State) -> list[bytes]:
    return await encoded(list(state.nodes.values()), lambda node: encode(_node_answer(state, node)))


async def get_node(context: Context, request: web.Request) -> web.Response:
    state = context.state
    name = request.match_info["name"]
    node = state.nodes.get(name)
    if node is None:
        raise not_found(f"there is no node {clipped(name)!r}")
    return json(encode(_node_answer(state, node)))


def _node_answer(state: State, node: Node) -> wire.NodeAnswer:
    inventory = node.inventory
    return wire.NodeAnswer(
        inventory.name,
        node_state(node),
        (node.lost_reason if node.lost else node.cordon_reason) or None,
        node.cordoned_by or None,
        rfc3339_or_null(node.drain_by_us),
        inventory.simulated,
        inventory.labels,
        sorted({device.gpu_type for device in inventory.devices}),
        gpu_counts(state, node),
        inventory.cpu_cores,
        node.cores_held,
        gigabytes(inventory.memory_mib),
        gigabytes(node.memory_held_mib),
        [state.jobs[id].number for id in node.jobs],
        node.version,
    )


def gpu_counts(state: State, node: Node) -> wire.GpuCounts:
    """None of a lost node's GPUs is free."""
    counts = wire.GpuCounts(len(node.inventory.devices), 0, 0, 0, 0)
    for device in node.inventory.devices:
        holder = state.devices.holders.get(device.uuid)
        if device.uuid in state.devices.failed:
            counts.failed += 1
        elif holder is None:
            counts.free += not node.lost
        elif state.jobs[holder].allocation_state is AllocationState.RELEASING:
            counts.releasing += 1
        else:
            counts.held += 1
    return counts


# --- which nodes take work ----------------------------------------------------------------------------


async def cordon(context: Context, request: web.Request) -> web.Response:
    asked, body = await CORDON.read(request)
    name = request.match_info["name"]
    return await _change_node(context, request, body, cmd.CordonNode(name, asked.reason or ""))


async def drain(context: Context, request: web.Request) -> web.Response:
    asked, body = await DRAIN.read(request)
    command = cmd.CordonNode(
        request.match_info["name"],
        asked.reason or "",
        drain=True,
        deadline_us=_deadline_us(asked, context.now_us()),
    )
    return await _change_node(context, request, body, command)


def _deadline_us(asked: wire.Drain, now_us: int) -> int:
    """0 for none."""
    if isinstance(asked.deadline_s, int):
        if asked.deadline_at:
            raise invalid([Fault("give deadline_s or deadline_at, not both", "/deadline_at")])
        return now_us + asked.deadline_s * 1_000_000
    if not asked.deadline_at:
        return 0
    return times.checked(asked.deadline_at, "/deadline_at")


async def resume(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    await refuse_body(request, "give the reason as ?reason=")
    command = cmd.ResumeNode(request.match_info["name"], query.reason)
    return await _change_node(context, request, b"", command)


async def _change_node(
    context: Context, request: web.Request, body: bytes, command: cmd.CordonNode | cmd.ResumeNode
) -> web.Response:
    return answered(await context.ask(request, body, command, _render_node(command.name)))


def _render_node(name: str) -> Render:
    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        return 200, encode(_node_answer(state, _foreseen(state.nodes[name], events)))

    return render


def _foreseen(node: Node, events: Events) -> Node:
    """The node as it will be once these events are in the log."""
    node = copy.copy(node)
    for event in events:
        match event:
            case NodeCordoned():
                node.cordoned, node.draining = True, event.drain
                node.drain_by_us, node.cordoned_by = event.deadline_us, event.by
                node.cordon_reason = event.reason
                node.version += 1
            case NodeResumed():
                node.cordoned = node.draining = False
                node.drain_by_us, node.cordoned_by, node.cordon_reason = 0, "", ""
                node.version += 1
    return node


# --- GPUs ---------------------------------------------------------------------------------------------


async def get_gpus(context: Context, request: web.Request, query: GpuQuery) -> web.Response:
    state, _ = await context.as_of(request, query.at)
    nodes = list(state.nodes.values())
    if query.node is not None:
        nodes = [state.nodes[query.node]] if query.node in state.nodes else []
    rows: list[bytes] = []
    async for some in slices(nodes, NODE_SLICE):
        rows.extend(encode(gpu) for node in some for gpu in _gpu_answers(state, node))
    return page("gpus", rows)


def _gpu_answers(state: State, node: Node) -> Iterator[wire.GpuAnswer]:
    for device in node.inventory.devices:
        yield _gpu_answer(state, node, device, _failure(state, device.uuid))


def _failure(state: State, uuid: str) -> str | None:
    fault = state.devices.failed.get(uuid)
    return None if fault is None else fault.reason


def _gpu_answer(state: State, node: Node, device: Device, failure: str | None) -> wire.GpuAnswer:
    """``failure`` is why it is not to be used, None when it is well."""
    holder = state.devices.holders.get(device.uuid)
    job = None if holder is None else state.jobs[holder]
    return wire.GpuAnswer(
        device.uuid,
        node.inventory.name,
        device.index,
        device.gpu_type,
        gigabytes(device.memory_mib),
        None if device.link_group < 0 else device.link_group,
        None if device.numa_node < 0 else device.numa_node,
        device.pcie_root or None,
        gpu_state(node, failure is not None, job),
        failure or None,
        None if job is None else _holder(job),
    )


def _holder(job: Job) -> wire.Holder:
    index = job.index if job.array else None
    return wire.Holder(job.id, job.number, job.array or None, index, job.spec.user_id)


async def fail_gpu(context: Context, request: web.Request) -> web.Response:
    asked, body = await DEVICE_FAULT.read(request)
    command = cmd.FailDevice(request.match_info["uuid"], asked.reason or "")
    return answered(await context.ask(request, body, command, _render_gpu(command.device)))


async def recover_gpu(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    await refuse_body(request, "give the reason as ?reason=")
    command = cmd.RecoverDevice(request.match_info["uuid"], query.reason)
    return answered(await context.ask(request, b"", command, _render_gpu(command.device)))


def _render_gpu(uuid: str) -> Render:
    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        failure = _failure(state, uuid)
        for event in events:
            if isinstance(event, DeviceFailed):
                failure = event.reason
            elif isinstance(event, DeviceRecovered):
                failure = None
        node, device = _place_of(state, uuid)
        return 200, encode(_gpu_answer(state, node, device, failure))

    return render


def _place_of(state: State, uuid: str) -> tuple[Node, Device]:
    """Where a device is: where it turned up last, but rather on a node that is there."""
    places = [(state.nodes[name], slot) for name, slot in state.devices.places[uuid]]
    node, slot = max(reversed(places), key=lambda place: not place[0].lost)
    return node, node.inventory.devices[slot]
