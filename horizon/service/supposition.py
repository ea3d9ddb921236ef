"""What is to be otherwise when a log is gone through once more: policy, shares, or the cluster. Pure.

The command line reads one from a file (``cli.supposition``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from horizon.core import events as ev
from horizon.core.model import Device, Inventory
from horizon.core.policy import Policy
from horizon.core.state import State
from horizon.service.course import Course
from horizon.service.simulator import ANY_TYPE, Hardware


class BadSupposition(Exception):
    """What is asked for cannot be, of this log. One sentence."""


class SupposedShare(Struct, frozen=True):
    """What is to be otherwise of an account or a user; None leaves it as it is recorded."""

    weight: int | None = None
    max_gpus: int | None = None
    guaranteed_gpus: int | None = None


class Supposition(Struct, frozen=True):
    """What is to be otherwise, from the beginning on or from some moment; all else is as it is recorded."""

    policy: dict[str, Any] = {}
    """Fields of ``Policy``: they hold whatever else of the policy is changed meanwhile."""
    shares: dict[str, SupposedShare] = {}
    """By path."""
    cluster: Hardware | None = None

    def policy_after(self, policy: Policy) -> Policy:
        return replace(policy, **self.policy)

    def supposed(self, event: ev.Event) -> ev.Event:
        """A recorded setting with this in it; any other event as it is."""
        if type(event) is ev.PolicySet:
            return replace(event, policy=self.policy_after(event.policy))
        share = self.shares.get(event.path) if isinstance(event, ev.ShareSet | ev.QuotaSet) else None
        if share is None:
            return event
        if type(event) is ev.ShareSet:
            return event if share.weight is None else replace(event, weight=share.weight)
        assert type(event) is ev.QuotaSet
        return _bounds(event, share)

    def faults(self, log: Sequence[ev.Recorded], course: Course) -> Iterator[str]:
        """What cannot be of it, under what this log says at any time."""
        for path, share in self.shares.items():
            bounds = share.max_gpus is not None or share.guaranteed_gpus is not None
            if path not in course.accounts and path not in course.users:
                yield f"nobody in this log has run under {path}, and nobody set its share"
            elif bounds and path not in course.accounts:
                yield f"{path} is a user: quotas are for accounts"
            for quota in [ev.QuotaSet(path=path), *_quotas(log, path)] if bounds else []:
                after = _bounds(quota, share)
                if 0 <= after.max_gpus < after.guaranteed_gpus:
                    yield (
                        f"{path} cannot be guaranteed {after.guaranteed_gpus} GPUs and hold "
                        f"{after.max_gpus} at most"
                    )
                    break

    def settings(self, state: State, course: Course) -> Iterator[ev.Event]:
        """What makes it hold in a state."""
        policy = self.policy_after(state.policy)
        if policy != state.policy:
            yield ev.PolicySet(version=state.policy_version, policy=policy, by="what if")
        for path, share in self.shares.items():
            user = path not in course.accounts
            if share.weight is not None:
                yield ev.ShareSet(path=path, weight=share.weight, user=user)
            known = state.accounts.get(path)
            before = (-1, 0) if known is None else (known.max_gpus, known.guaranteed_gpus)
            after = _bounds(ev.QuotaSet(path=path, max_gpus=before[0], guaranteed_gpus=before[1]), share)
            if (after.max_gpus, after.guaranteed_gpus) != before:
                yield after


def _bounds(event: ev.QuotaSet, share: SupposedShare) -> ev.QuotaSet:
    max_gpus, guaranteed_gpus = share.max_gpus, share.guaranteed_gpus
    return replace(
        event,
        max_gpus=event.max_gpus if max_gpus is None else max_gpus,
        guaranteed_gpus=event.guaranteed_gpus if guaranteed_gpus is None else guaranteed_gpus,
    )


def _quotas(log: Iterable[ev.Recorded], path: str) -> Iterator[ev.QuotaSet]:
    events = (recorded.event for recorded in log)
    return (event for event in events if type(event) is ev.QuotaSet and event.path == path)


def nodes_like(hardware: Hardware, recorded: Iterable[Inventory]) -> Iterator[Inventory]:
    """Nodes for another cluster: their GPUs, and cores and memory for each GPU, as on the largest recorded
    node that has GPUs of this type, else of any; the labels that all recorded nodes share.
    ``BadSupposition`` if no recorded node has a GPU."""
    nodes = list(recorded)
    with_gpus = sorted((node for node in nodes if node.devices), key=lambda node: -len(node.devices))
    if not with_gpus:
        raise BadSupposition(
            "no node in this log has a GPU: nothing says what another cluster's would be like"
        )
    wanted = hardware.gpu_type.lower()
    alike = [node for node in with_gpus if node.devices[0].gpu_type.lower() == wanted]
    model = (alike or with_gpus)[0]
    gpus, had, device = hardware.gpus_per_node, len(model.devices), model.devices[0]
    gpu_type = device.gpu_type if hardware.gpu_type == ANY_TYPE else hardware.gpu_type
    linked = len({one.link_group for one in model.devices}) == 1
    common = set.intersection(*(set(node.labels.items()) for node in nodes))
    labels = {key: value for key, value in model.labels.items() if (key, value) in common}
    for number in range(1, hardware.nodes + 1):
        name = f"what-if-{number}"
        devices = tuple(
            Device(f"{name}-{index}", index, gpu_type, device.memory_mib, device.link_group if linked else -1)
            for index in range(gpus)
        )
        cores, memory_mib = model.cpu_cores * gpus // had, model.memory_mib * gpus // had
        yield Inventory(name, cores, memory_mib, devices, labels, simulated=True)
