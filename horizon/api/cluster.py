"""The queue, the nodes and their GPUs, as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import wire
from horizon.api.answers import encode, encoded, gigabytes, json, page, slices
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.problems import not_found
from horizon.api.times import rfc3339
from horizon.core import limits
from horizon.core.model import AllocationState, Device, JobState, Priority
from horizon.core.state import Job, Node, State

ORDER_DEFAULT: Final = 100
NODE_SLICE: Final = 50


class OrderQuery(Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_JOBS_MAX)] = ORDER_DEFAULT


class GpuQuery(Struct, frozen=True, forbid_unknown_fields=True):
    node: Annotated[str, Meta(description="Only those of this node.")] | None = None


# --- the queue ----------------------------------------------------------------------------------------


async def get_queue(context: Context, request: web.Request) -> web.Response:
    state = context.state
    waiting = state.queue.counts()
    total = sum(waiting)
    counts = state.counts
    answer = wire.QueueAnswer(
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
    return json(encode(answer))


async def get_order(context: Context, request: web.Request, query: OrderQuery) -> web.Response:
    state = context.state
    numbers = state.queue.order(query.limit, context.now_us())
    jobs = [
        _waiting(position, state.numbered[number - 1]) for position, number in enumerate(numbers, start=1)
    ]
    return json(encode(wire.OrderAnswer(jobs, len(state.queue))))


def _waiting(position: int, job: Job) -> wire.Waiting:
    spec = job.spec
    return wire.Waiting(
        position,
        job.number,
        job.id,
        spec.user_id,
        spec.account,
        spec.job_name,
        job.priority,
        spec.gpu_count,
        rfc3339(job.created_at_us),
    )


# --- nodes --------------------------------------------------------------------------------------------


async def get_nodes(context: Context, request: web.Request) -> web.Response:
    state = context.state
    rows = await encoded(list(state.nodes.values()), lambda node: encode(_node_answer(state, node)))
    return page("nodes", rows)


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
        "lost" if node.lost else "up",
        node.lost_reason or None,
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
    devices = node.inventory.devices
    holders = [state.holders[device.uuid] for device in devices if device.uuid in state.holders]
    total, taken = len(devices), len(holders)
    releasing = sum(_is_releasing(state.jobs[id]) for id in holders)
    return wire.GpuCounts(total, 0 if node.lost else total - taken, taken - releasing, releasing)


def _is_releasing(job: Job) -> bool:
    return job.allocation_state is AllocationState.RELEASING


# --- GPUs ---------------------------------------------------------------------------------------------


async def get_gpus(context: Context, request: web.Request, query: GpuQuery) -> web.Response:
    state = context.state
    nodes = list(state.nodes.values())
    if query.node is not None:
        nodes = [state.nodes[query.node]] if query.node in state.nodes else []
    rows: list[bytes] = []
    async for some in slices(nodes, NODE_SLICE):
        rows.extend(encode(gpu) for node in some for gpu in _gpu_answers(state, node))
    return page("gpus", rows)


def _gpu_answers(state: State, node: Node) -> Iterator[wire.GpuAnswer]:
    for device in node.inventory.devices:
        id = state.holders.get(device.uuid)
        yield _gpu_answer(node, device, None if id is None else state.jobs[id])


def _gpu_answer(node: Node, device: Device, holder: Job | None) -> wire.GpuAnswer:
    if node.lost:
        state = "lost"
    elif holder is None:
        state = "free"
    else:
        state = "releasing" if _is_releasing(holder) else "held"
    return wire.GpuAnswer(
        device.uuid,
        node.inventory.name,
        device.index,
        device.gpu_type,
        gigabytes(device.memory_mib),
        state,
        None if holder is None else wire.Holder(holder.id, holder.number, holder.spec.user_id),
    )
