"""Says why a waiting job waits, from the same code that decides. Pure, and computed only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from horizon.core.model import JobState
from horizon.core.placement import Room, admits, parts, place, wants
from horizon.core.schedule import Rooms
from horizon.core.state import Job, Shape, State


def explainer(state: State) -> Callable[[Job], str]:
    """A function that gives the reason a job is where it is; it shares its work among jobs of one moment."""
    rooms = Rooms(state)
    known: dict[int, str] = {}

    def reason(job: Job) -> str:
        if job.state is not JobState.QUEUED:
            return job.reason
        waits_for = _before_the_queue(job)
        if waits_for is not None:
            return waits_for
        if job.shape not in known:
            known[job.shape] = _room_for(state.shapes[job.shape], rooms)
        return known[job.shape]

    return reason


def _before_the_queue(job: Job) -> str | None:
    """Why a queued job does not stand in the queue, None when it does."""
    if job.held:
        return "held: it starts only after a release"
    if job.begin_pending:
        begin = datetime.fromtimestamp(job.spec.begin_at_us / 1e6, UTC).isoformat(timespec="seconds")
        return f"waits for its begin time {begin}"
    if job.allocation_state is not None:
        return "waits until every process of its last attempt is gone"
    return None


def _room_for(shape: Shape, rooms: Rooms) -> str:
    """One sentence on whether there is room, and what is missing if not."""
    if not rooms.empty:
        return "waits for nodes: none has joined the cluster"
    nodes = rooms.nodes_for(shape)
    if not nodes:
        return f"asks for {_request(shape)}, more than this cluster has: {_missing(shape, rooms.empty)}"
    if place(shape, nodes, rooms.free.values()) is not None:
        return "there is room: it starts when its turn comes in the next cycle"
    where = "on one node" if nodes == 1 else f"spread over {nodes} nodes"
    return f"waits for {_request(shape)} {where}: {_offer(shape, rooms.free.values(), 'free')}"


def _missing(shape: Shape, empty: list[Room]) -> str:
    """What an empty cluster lacks: nodes it may use, GPUs, nodes enough, or room on one of them."""
    admitted = [room for room in empty if admits(shape, room)]
    if not admitted:
        return "no node may be used for it"
    if sum(_gpus(shape, room) for room in admitted) < shape.gpu_count:
        return _offer(shape, admitted, "there")
    if shape.nodes > len(admitted):
        return f"it wants {shape.nodes} nodes, and {len(admitted)} may be used for it"
    part = parts(shape, max(1, shape.nodes))[0]
    has = [f"{max(_gpus(shape, room) for room in admitted)} such GPUs"] if shape.gpu_count else []
    has += [f"{max(room.cores for room in admitted)} cores"] if shape.cpu_cores else []
    has += [f"{max(room.memory_mib for room in admitted) / 1024:g} GB"] if shape.memory_mib else []
    asked = [f"{part.gpus} GPUs"] if shape.gpu_count else []
    asked += [f"{part.cores} cores"] if shape.cpu_cores else []
    asked += [f"{part.memory_mib / 1024:g} GB"] if shape.memory_mib else []
    where = "on one node" if shape.nodes < 2 else f"on each of {shape.nodes} nodes"
    return f"it wants {', '.join(asked)} {where}; one node has at most {', '.join(has)}"


def _request(shape: Shape) -> str:
    wanted = []
    if shape.gpu_count:
        kind = f" {shape.gpu_type}" if shape.gpu_type else ""
        memory = f" with {shape.gpu_memory_mib / 1024:g} GB" if shape.gpu_memory_mib else ""
        wanted.append(f"{shape.gpu_count}{kind} GPU{'s' * (shape.gpu_count != 1)}{memory}")
    if shape.cpu_cores:
        wanted.append(f"{shape.cpu_cores} core{'s' * (shape.cpu_cores != 1)}")
    if shape.memory_mib:
        wanted.append(f"{shape.memory_mib / 1024:g} GB of memory")
    if shape.constraints:
        wanted.append("nodes with " + ", ".join(f"{key}={value}" for key, value in shape.constraints))
    if shape.exclusive:
        wanted.append("whole nodes for itself")
    return ", ".join(wanted)


def _gpus(shape: Shape, room: Room) -> int:
    """How many of a node's GPUs will do."""
    return sum(
        sum(device.memory_mib >= shape.gpu_memory_mib for device in devices)
        for kind, devices in room.devices.items()
        if wants(shape, kind)
    )


def _offer(shape: Shape, rooms: Iterable[Room], word: str) -> str:
    """What the nodes that the request admits have, all together and at most on one."""
    admitted = [room for room in rooms if admits(shape, room)]
    if not admitted:
        return "no node may be used for it now"
    if shape.gpu_count:
        gpus = [_gpus(shape, room) for room in admitted]
        return f"{sum(gpus)} such GPUs are {word}, at most {max(gpus)} on one node"
    return f"at most {max(room.cores for room in admitted)} cores are {word} on one node"
