"""What is different between two moments of one log: jobs, shares, policy, nodes, devices, bookings. Pure.

A fold cannot go back, and two states of a large log are twice its size. So what may change is noted at the
first moment, as a ``Picture``, and held against the state at the second one. A job that has ended and holds
nothing never changes again, and is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

from horizon.core.policy import UNLIMITED, Policy
from horizon.core.state import COST_PER_GPU, Booking, Job, Node, Share, State, gpu_state, node_state
from horizon.core.words import moment, text

Facts = tuple[Any, ...]
"""The values of a thing, in the order of ``FIELDS``."""

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "policy": ("version", *Policy.__struct_fields__),
    "share": ("weight", "max_gpus", "guaranteed_gpus", "used_gpu_h", "gpus_held"),
    "node": ("state", "reason", "cpu_cores", "memory_mib", "cpu_cores_held", "memory_mib_held"),
    "device": ("state", "reason", "job"),
    "booking": ("nodes", "start", "end"),
    "job": ("state", "reason", "priority", "time_limit_s", "held", "attempt", "holds"),
}
"""What is looked at of each kind of thing."""
_HOUR: Final = COST_PER_GPU * 3_600


class Change(Struct, frozen=True):
    """One thing that is not what it was."""

    subject: str
    """What kind of thing: one of ``FIELDS``."""
    name: str
    change: str
    """``new``, ``gone`` or ``changed``."""
    fields: dict[str, tuple[Any, Any]]
    """What of it differs: before and after, null where there was, or is, nothing."""
    sentence: str


class Picture(Struct, frozen=True):
    """What may change, as of one moment."""

    next_number: int
    jobs: dict[int, Facts]
    """By number, those that may still change."""
    things: dict[str, dict[str, Facts]]
    """All else, by kind and name."""


def picture(state: State, now_us: int) -> Picture:
    """O(state)."""
    jobs = {
        job.number: _of_job(job)
        for job in state.numbered
        if not job.state.ended or job.allocation_state is not None
    }
    return Picture(state.next_number, jobs, _things(state, now_us))


def changes(before: Picture, state: State, now_us: int) -> Iterator[Change]:
    """What is different in a later state of the same log, in the order of ``FIELDS``. O(state)."""
    things = _things(state, now_us)
    for subject, now in things.items():
        was = before.things[subject]
        for name in [*was, *(name for name in now if name not in was)]:
            yield from _change(subject, name, f"{subject} {name}", was.get(name), now.get(name))
    # An array comes with its tasks, which have the numbers behind its own.
    for number in [*before.jobs, *range(before.next_number, state.next_number)]:
        job = state.numbered[number - 1]
        yield from _change("job", job.name, _called(job), before.jobs.get(number), _of_job(job))


def _things(state: State, now_us: int) -> dict[str, dict[str, Facts]]:
    """Everything but the jobs."""
    return {
        "policy": {"": (state.policy_version, *astuple(state.policy))},
        "share": {_path(share): _of_share(state, share, now_us) for share in state.shares[1:]},
        "node": {name: _of_node(node) for name, node in state.nodes.items()},
        "device": {
            f"{device.uuid} on {name}": _of_device(state, node, device.uuid)
            for name, node in state.nodes.items()
            for device in node.inventory.devices
        },
        "booking": {booking.id: _of_booking(booking) for booking in state.bookings.values()},
    }


def _path(share: Share) -> str:
    return f"{share.path} (user)" if share.user else share.path


def _of_share(state: State, share: Share, now_us: int) -> Facts:
    most = None if share.max_gpus == UNLIMITED else share.max_gpus
    used_gpu_h = round(state.queue.usage(share.id, now_us) / _HOUR, 3)
    return state.queue.weight(share.id), most, share.guaranteed_gpus, used_gpu_h, share.gpus_held


def _of_node(node: Node) -> Facts:
    reason = (node.lost_reason if node.lost else node.cordon_reason) or None
    whole = node.inventory.cpu_cores, node.inventory.memory_mib
    return node_state(node), reason, *whole, node.cores_held, node.memory_held_mib


def _of_device(state: State, node: Node, uuid: str) -> Facts:
    fault, holder = state.devices.failed.get(uuid), state.devices.holders.get(uuid)
    job = None if holder is None else state.jobs[holder]
    reason = None if fault is None else fault.reason or None
    return gpu_state(node, fault is not None, job), reason, None if job is None else job.name


def _of_booking(booking: Booking) -> Facts:
    return ", ".join(booking.nodes), moment(booking.start_us), moment(booking.end_us)


def _of_job(job: Job) -> Facts:
    holds = ", ".join(
        f"{one.node} ({', '.join(one.gpu_ids) or f'{one.cpu_cores} cores'})" for one in job.allocation
    )
    return (
        job.state,
        job.reason or None,
        job.priority.value,
        job.time_limit_s or None,
        job.held,
        job.attempt,
        holds if job.allocation_state is not None else None,
    )


def _called(job: Job) -> str:
    title = f" ({job.spec.job_name})" if job.spec.job_name else ""
    return f"job {job.name} of {job.spec.user_id}{title}"


# --- in words -----------------------------------------------------------------------------------------


def _change(subject: str, name: str, called: str, was: Facts | None, now: Facts | None) -> Iterator[Change]:
    if was == now:
        return
    names = FIELDS[subject]
    nothing = (None,) * len(names)
    pairs = zip(names, was or nothing, now or nothing, strict=True)
    fields = {field: (old, new) for field, old, new in pairs if old != new}
    if now is None:
        yield Change(subject, name, "gone", fields, f"{called.strip()} is gone")
    elif was is None:
        told = ", ".join(f"{_label(field)} {text(new)}" for field, (_, new) in fields.items() if new)
        yield Change(subject, name, "new", fields, f"{called.strip()} is new: {told}")
    else:
        told = ", ".join(
            f"{_label(field)} from {text(old)} to {text(new)}" for field, (old, new) in fields.items()
        )
        yield Change(subject, name, "changed", fields, f"{called.strip()}: {told}")


def _label(field: str) -> str:
    return field.replace("_", " ")
