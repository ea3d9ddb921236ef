"""Says why a waiting job waits, from the same code that decides. Pure, and computed only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from horizon.core.model import JobState
from horizon.core.placement import Room, admits, place, wants
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
        return f"asks for {_request(shape)}, more than this cluster has: {_offer(shape, rooms.empty)}"
    if place(shape, nodes, rooms.free.values()) is not None:
        return "there is room: it starts when its turn comes in the next cycle"
    where = "on one node" if nodes == 1 else f"spread over {nodes} nodes"
    return f"waits for {_request(shape)} {where}: {_offer(shape, rooms.free.values(), free=True)}"


def _request(shape: Shape) -> str:
    wanted = []
    if shape.gpu_count:
        kind = f" {shape.gpu_type}" if shape.gpu_type else ""
        wanted.append(f"{shape.gpu_count}{kind} GPU{'s' * (shape.gpu_count != 1)}")
    if shape.cpu_cores:
        wanted.append(f"{shape.cpu_cores} core{'s' * (shape.cpu_cores != 1)}")
    if shape.memory_mib:
        wanted.append(f"{shape.memory_mib / 1024:g} GB of memory")
    if shape.constraints:
        wanted.append("nodes with " + ", ".join(f"{key}={value}" for key, value in shape.constraints))
    if shape.exclusive:
        wanted.append("whole nodes for itself")
    return ", ".join(wanted)


def _offer(shape: Shape, rooms: Iterable[Room], free: bool = False) -> str:
    """What the nodes that the request admits have, all together and at most on one."""
    admitted = [room for room in rooms if admits(shape, room)]
    if not admitted:
        return "no node may be used for it"
    word = "free" if free else "there"
    if shape.gpu_count:
        gpus = [
            sum(len(devices) for kind, devices in room.devices.items() if wants(shape, kind))
            for room in admitted
        ]
        return f"{sum(gpus)} such GPUs are {word}, at most {max(gpus)} on one node"
    return f"at most {max(room.cores for room in admitted)} cores are {word} on one node"
