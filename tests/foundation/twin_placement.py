"""Placement in plain Python: the oracle for ``horizon._placement``. Slow, and meant to be obviously right.

Nothing is kept in order or summed up here. What a node has free at a moment is counted from what holds it
then, and whether something fits for a while is asked at every moment at which that can change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

TOPOLOGY_TRIED = 32
SPLITS_TRIED = 64
LOST, CORDONED, OPEN = range(3)
VERDICTS = (
    "fits", "closed", "labels", "kind", "small", "shared", "devices", "cores", "memory", "reserved",
)  # fmt: skip

SEATS = 1 << 30
AMOUNT_MAX = 1 << 50
TIME_US_MAX = 1 << 61
NEVER_US = 1 << 62
"""What would come back then, or later, does not come back."""
COUNT_MAX = 1 << 30
NUMBER_MAX = (1 << 63) - 1
DOMAINS_MAX = 4
IMAGINED = -1
"""The number of a plan's own request."""
LINK_GROUP, NUMA_NODE, PCIE_ROOT = range(3)


@dataclass(frozen=True)
class Kind:
    gpu_type: int
    memory_mib: int


@dataclass(frozen=True)
class Device:
    kind: int
    groups: tuple[int, int, int]
    """Link group, NUMA node, PCIe root."""


@dataclass(frozen=True)
class Hold:
    slots: tuple[int, ...]
    cores: int
    memory_mib: int
    seats: int
    end_us: int


@dataclass(frozen=True)
class Node:
    state: int = LOST
    cores: int = 0
    memory_mib: int = 0
    devices: tuple[Device, ...] = ()
    labels: frozenset[int] = frozenset()
    domains: tuple[int, ...] = ()
    broken: frozenset[int] = frozenset()
    """Slots that may not be given out."""
    holds: dict[int, Hold] = field(default_factory=dict)
    bookings: dict[int, tuple[int, int]] = field(default_factory=dict)

    def slots(self, kind: int | None) -> list[int]:
        """Those of its devices of a kind that may be given out; of any kind, for None."""
        return [
            slot
            for slot, device in enumerate(self.devices)
            if slot not in self.broken and kind in (None, device.kind)
        ]

    def unheld(self, kind: int | None) -> list[int]:
        held = {slot for hold in self.holds.values() for slot in hold.slots}
        return [slot for slot in self.slots(kind) if slot not in held]

    def empty(self, kind: int | None) -> Room:
        return Room(len(self.slots(kind)), self.cores, self.memory_mib, SEATS)


@dataclass(frozen=True)
class Part:
    """What a request takes on one node."""

    devices: int
    cores: int
    memory_mib: int
    seats: int


@dataclass(frozen=True)
class Room:
    """What a node has for a part at one moment, devices of one kind only."""

    devices: int
    cores: int
    memory_mib: int
    seats: int

    def lacks(self, part: Part) -> Iterator[str]:
        """What there is too little of, by the names of the verdicts. A part that asks for none lacks none."""
        if self.seats < part.seats:
            yield "shared"
        if part.devices and self.devices < part.devices:
            yield "devices"
        if part.cores and self.cores < part.cores:
            yield "cores"
        if part.memory_mib and self.memory_mib < part.memory_mib:
            yield "memory"

    def holds(self, part: Part) -> bool:
        return not any(self.lacks(part))


@dataclass(frozen=True)
class Request:
    gpus: int
    gpu_type: int
    gpu_memory_mib: int
    cores: int
    memory_mib: int
    nodes: int
    exclusive: bool
    labels: frozenset[int]

    def split(self, nodes: int) -> list[Part]:
        return [self.part(place, nodes) for place in range(nodes)]

    def part(self, place: int, nodes: int) -> Part:
        def share(amount: int) -> int:
            return amount // nodes + (place < amount % nodes)

        seats = SEATS if self.exclusive else 1
        return Part(share(self.gpus), share(self.cores), share(self.memory_mib), seats)


@dataclass(frozen=True)
class Promise:
    """What a plan has given away or promised on one node for a while."""

    node: int
    kind: int | None
    part: Part
    start_us: int
    end_us: int
    slots: tuple[int, ...] = ()
    reserved: bool = False


def can_share(parts: list[Part], fitting: dict[Part, set[int]]) -> bool:
    """Whether each part can have a node of its own among those that fit it.

    A node that fits a part fits every later one, which is no larger: so it is enough that there are as many
    nodes for every part as there are parts up to it.
    """
    return all(len(fitting[part]) > place for place, part in enumerate(parts))


def check(minimum: int, maximum: int, *values: int) -> None:
    if not all(minimum <= value <= maximum for value in values):
        raise ValueError(f"{values} must be between {minimum} and {maximum}")


def requested(
    gpus: int,
    gpu_type: int,
    gpu_memory_mib: int,
    cores: int,
    memory_mib: int,
    nodes: int,
    exclusive: bool,
    labels: Sequence[int],
) -> Request:
    check(0, COUNT_MAX, gpus, nodes, *labels)
    check(-1, COUNT_MAX, gpu_type)
    check(0, AMOUNT_MAX, gpu_memory_mib, cores, memory_mib)
    if 0 < gpus < nodes:
        raise ValueError("a device for each node")
    return Request(gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, frozenset(labels))


class Cluster:
    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self.nodes: list[Node] = []
        self.requests: list[Request] = []
        self.version = 0

    # -- what there is

    def add_kind(self, gpu_type: int, memory_mib: int) -> int:
        check(0, COUNT_MAX, gpu_type)
        check(0, AMOUNT_MAX, memory_mib)
        self.kinds.append(Kind(gpu_type, memory_mib))
        self.version += 1
        return len(self.kinds) - 1

    def add_node(self) -> int:
        self.nodes.append(Node())
        self.version += 1
        return len(self.nodes) - 1

    def set_node(
        self,
        node: int,
        cores: int,
        memory_mib: int,
        devices: Sequence[tuple[int, int, int, int]],
        labels: Sequence[int] = (),
        domains: Sequence[int] = (),
    ) -> None:
        state = self.node(node).state
        check(0, AMOUNT_MAX, cores, memory_mib)
        check(0, COUNT_MAX, *labels)
        check(-1, COUNT_MAX, *domains)
        if len(domains) > DOMAINS_MAX:
            raise ValueError("domains")
        for kind, *groups in devices:
            if not 0 <= kind < len(self.kinds):
                raise KeyError("kind")
            check(-1, COUNT_MAX, *groups)
        made = tuple(Device(kind, (link, numa, root)) for kind, link, numa, root in devices)
        self.change(node, Node(state, cores, memory_mib, made, frozenset(labels), tuple(domains)))

    def set_state(self, node: int, state: int) -> None:
        before = self.node(node)
        if state not in (LOST, CORDONED, OPEN):
            raise ValueError("state")
        self.change(node, replace(before, state=state))

    def set_device(self, node: int, slot: int, usable: bool) -> None:
        before = self.node(node)
        if not 0 <= slot < len(before.devices):
            raise ValueError("slot")
        broken = before.broken - {slot} if usable else before.broken | {slot}
        self.change(node, replace(before, broken=broken))

    def state(self, node: int) -> int:
        return self.node(node).state

    def free(self, node: int) -> tuple[int, int, tuple[int, ...]]:
        here = self.node(node)
        cores = here.cores - sum(hold.cores for hold in here.holds.values())
        memory_mib = here.memory_mib - sum(hold.memory_mib for hold in here.holds.values())
        return cores, memory_mib, tuple(here.unheld(None))

    def __len__(self) -> int:
        return len(self.nodes)

    def node(self, node: int) -> Node:
        if not 0 <= node < len(self.nodes):
            raise KeyError("node")
        return self.nodes[node]

    def change(self, node: int, changed: Node) -> None:
        self.nodes[node] = changed
        self.version += 1

    # -- what is held

    def hold(
        self,
        node: int,
        number: int,
        slots: Sequence[int],
        cores: int,
        memory_mib: int,
        exclusive: bool,
        end_us: int,
        seats: bool = True,
    ) -> None:
        before = self.node(node)
        check(1, NUMBER_MAX, number)
        check(0, AMOUNT_MAX, cores, memory_mib)
        check(0, TIME_US_MAX, end_us)
        if number in before.holds:
            raise ValueError("holds something here")
        held = [slot for hold in before.holds.values() for slot in hold.slots] + list(slots)
        if len(set(held)) < len(held) or any(not 0 <= slot < len(before.devices) for slot in slots):
            raise ValueError("slots")
        taken = (SEATS if exclusive else 1) if seats else 0
        made = Hold(tuple(slots), cores, memory_mib, taken, end_us)
        self.change(node, replace(before, holds={**before.holds, number: made}))

    def expect(self, node: int, number: int, end_us: int) -> None:
        before = self.node(node)
        check(0, TIME_US_MAX, end_us)
        if number in before.holds and before.holds[number].end_us != end_us:
            later = replace(before.holds[number], end_us=end_us)
            self.change(node, replace(before, holds={**before.holds, number: later}))

    def release(self, node: int, number: int) -> None:
        before = self.node(node)
        if number in before.holds:
            self.change(node, without(before, {number}))

    def book(self, node: int, booking: int, start_us: int, end_us: int) -> None:
        before = self.node(node)
        check(1, COUNT_MAX, booking)
        check(0, TIME_US_MAX, start_us, end_us)
        if end_us <= start_us or booking in before.bookings:
            raise ValueError("booking")
        self.change(node, replace(before, bookings={**before.bookings, booking: (start_us, end_us)}))

    def unbook(self, node: int, booking: int) -> None:
        before = self.node(node)
        if booking in before.bookings:
            left = {number: span for number, span in before.bookings.items() if number != booking}
            self.change(node, replace(before, bookings=left))

    # -- what is asked for

    def add_request(
        self,
        gpus: int,
        gpu_type: int,
        gpu_memory_mib: int,
        cores: int,
        memory_mib: int,
        nodes: int,
        exclusive: bool,
        labels: Sequence[int] = (),
    ) -> int:
        self.requests.append(
            requested(gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, labels)
        )
        return len(self.requests) - 1

    def request(self, request: int) -> Request:
        if not 0 <= request < len(self.requests):
            raise KeyError("request")
        return self.requests[request]

    def kinds_for(self, asked: Request) -> list[int | None]:
        """The kinds of devices that would do, the smallest first; None for a request without devices."""
        if not asked.gpus:
            return [None]
        return [
            kind
            for kind, made in enumerate(self.kinds)
            if asked.gpu_type in (-1, made.gpu_type) and made.memory_mib >= asked.gpu_memory_mib
        ]

    def nodes_for(self, request: int, avoid: Sequence[int] = ()) -> int:
        return self.split_over(self.request(request), avoid)

    def split_over(self, asked: Request, avoid: Sequence[int]) -> int:
        avoided = self.known(avoid)
        there = [
            number
            for number, node in enumerate(self.nodes)
            if number not in avoided and node.state != LOST and asked.labels <= node.labels
        ]
        sizes = [asked.nodes] if asked.nodes else self.sizes(asked, there)
        possible = [size for size in sizes if size <= len(there)]
        return next((size for size in possible if self.could_hold(asked, size, there)), 0)

    def sizes(self, asked: Request, there: list[int]) -> list[int]:
        """Over how many of these nodes a request that does not say may be split, the fewest first.

        Every part has a device or, of a request without, a core: memory alone is no reason to split. Those
        sizes are left out, and do not count as tried, of which no node has the devices or cores.
        """
        if asked.gpus:
            largest = max(
                (len(self.nodes[n].slots(k)) for n in there for k in self.kinds_for(asked)), default=0
            )
        else:
            largest = max((self.nodes[n].cores for n in there), default=0)
        amount = asked.gpus or asked.cores
        most = max(1, min(len(there), amount))
        return [size for size in range(1, most + 1) if -(-amount // size) <= largest][:SPLITS_TRIED]

    def could_hold(self, asked: Request, size: int, there: list[int]) -> bool:
        parts = asked.split(size)
        return any(
            can_share(
                parts,
                {part: {n for n in there if self.nodes[n].empty(kind).holds(part)} for part in set(parts)},
            )
            for kind in self.kinds_for(asked)
        )

    def known(self, nodes: Iterable[int]) -> set[int]:
        for node in nodes:
            self.node(node)
        return set(nodes)

    def plan(self, now_us: int) -> Plan:
        return Plan(self, now_us)

    def memory_bytes(self) -> int:
        return sys.getsizeof(self.nodes) + sum(sys.getsizeof(node.devices) for node in self.nodes)


class Plan:
    def __init__(self, cluster: Cluster, now_us: int) -> None:
        check(0, TIME_US_MAX, now_us)
        self.cluster = cluster
        self.version = cluster.version
        self.now_us = now_us
        self.imagined: Request | None = None
        self.promises: list[Promise] = []
        # The one answer: what ``take`` gives away, ``reserve`` promises, or ``claim`` keeps.
        self.placed: list[Promise] = []
        self.foreseen: list[Promise] = []
        self.fitting: list[Promise] = []

    # -- what is free, and when

    def back_us(self, end_us: int) -> int:
        """When what was expected back at this time is: what is overdue comes in a moment, at every now."""
        return max(end_us, self.now_us + 1)

    def room(self, number: int, kind: int | None, at_us: int, booked: bool = True) -> Room:
        """What is free of a node at a moment from now on; without ``booked`` as if no booking were there."""
        node = self.cluster.nodes[number]
        holds = [hold for hold in node.holds.values() if at_us < self.back_us(hold.end_us)]
        bookings = [start for start, end in node.bookings.values() if start <= at_us < self.back_us(end)]
        promises = [
            promise
            for promise in self.promises
            if promise.node == number and promise.start_us <= at_us < promise.end_us
        ]
        held = {slot for hold in holds for slot in hold.slots}
        promised = sum(promise.part.devices for promise in promises if kind in (None, promise.kind))
        return Room(
            sum(slot not in held for slot in node.slots(kind)) - promised,
            node.cores - sum(hold.cores for hold in holds) - sum(p.part.cores for p in promises),
            node.memory_mib
            - sum(hold.memory_mib for hold in holds)
            - sum(p.part.memory_mib for p in promises),
            SEATS
            - sum(hold.seats for hold in holds)
            - SEATS * len(bookings) * booked
            - sum(p.part.seats for p in promises),
        )

    def moments(self, numbers: Iterable[int]) -> list[int]:
        """Now, and every later moment at which what is free of one of these nodes may change."""
        moments = {self.now_us}
        for number in numbers:
            node = self.cluster.nodes[number]
            moments |= {self.back_us(hold.end_us) for hold in node.holds.values()}
            moments |= {
                moment for start, end in node.bookings.values() for moment in (start, self.back_us(end))
            }
            mine = [promise for promise in self.promises if promise.node == number]
            moments |= {moment for promise in mine for moment in (promise.start_us, promise.end_us)}
        return sorted(moment for moment in moments if self.now_us <= moment < NEVER_US)

    def has_room(self, number: int, kind: int | None, part: Part, at_us: int, duration_us: int) -> bool:
        """Whether the part fits there throughout [at, at + duration)."""
        changes = [moment for moment in self.moments([number]) if at_us < moment < at_us + duration_us]
        return all(self.room(number, kind, moment).holds(part) for moment in (at_us, *changes))

    # -- choosing

    def candidates(self, asked: Request, avoid: Sequence[int], only: Sequence[int] | None) -> list[int]:
        avoided = self.cluster.known(avoid)
        wanted = self.cluster.known(range(len(self.cluster)) if only is None else only)
        return [
            number
            for number, node in enumerate(self.cluster.nodes)
            if node.state == OPEN
            and number in wanted
            and number not in avoided
            and asked.labels <= node.labels
        ]

    def tightness(self, number: int, kind: int | None) -> tuple[int, ...]:
        """The smaller, the sooner a node is used: by what is free on it now."""
        now = self.room(number, kind, self.now_us)
        return (now.devices, number) if kind is not None else (now.devices, now.cores, number)

    def choose_one(self, asked: Request, part: Part, duration_us: int, numbers: list[int]) -> Choice | None:
        """The node for a request that takes one, from now on."""
        fitting = [
            Choice(kind, [number])
            for kind in self.cluster.kinds_for(asked)
            for number in numbers
            if self.has_room(number, kind, part, self.now_us, duration_us)
        ]
        if not fitting:
            return None
        if not asked.gpus:
            return min(fitting, key=lambda choice: self.tightness(choice.nodes[0], None))
        fewest = min(self.tightness(choice.nodes[0], choice.kind)[0] for choice in fitting)
        tightest = [c for c in fitting if self.tightness(c.nodes[0], c.kind)[0] == fewest]
        tried = [
            choice
            for kind in self.cluster.kinds_for(asked)
            for choice in [choice for choice in tightest if choice.kind == kind][:TOPOLOGY_TRIED]
        ]
        return min(tried, key=lambda c: (self.spread(c.nodes[0], c.kind, part), c.kind, c.nodes[0]))

    def choose_gang(
        self, asked: Request, parts: list[Part], duration_us: int, numbers: list[int]
    ) -> Choice | None:
        """The nodes for a request that takes several, part by part, from now on."""
        choices: list[tuple[int, int, Choice]] = []
        for kind in self.cluster.kinds_for(asked):
            nodes = self.gang_of(kind, parts, self.now_us, duration_us, numbers)
            if nodes is not None:
                first = min(self.tightness(number, kind)[0] for number in nodes)
                choices.append((first, len(choices), Choice(kind, nodes)))
        return min(choices)[2] if choices else None

    def gang_of(
        self, kind: int | None, parts: list[Part], at_us: int, duration_us: int, numbers: list[int]
    ) -> list[int] | None:
        """The nearest nodes, then the tightest, that have room for all parts at a time."""
        fitting = {
            part: {number for number in numbers if self.has_room(number, kind, part, at_us, duration_us)}
            for part in set(parts)
        }
        near = self.nearest(parts, fitting)
        if near is None:
            return None
        left = sorted(near, key=lambda number: self.tightness(number, kind))
        chosen = []
        for part in parts:
            chosen.append(next(number for number in left if number in fitting[part]))
            left.remove(chosen[-1])
        return chosen

    def nearest(self, parts: list[Part], fitting: dict[Part, set[int]]) -> set[int] | None:
        """The nodes of the closest domain that has room for all parts, else all nodes if they have."""

        def enough(among: set[int]) -> bool:
            return can_share(parts, {part: fitting[part] & among for part in fitting})

        fit_any = fitting[parts[-1]]
        for level in range(DOMAINS_MAX):
            domains: dict[int, set[int]] = {}
            for number in fit_any:
                of = self.cluster.nodes[number].domains
                if level < len(of) and of[level] >= 0:
                    domains.setdefault(of[level], set()).add(number)
            suiting = [domain for domain, among in domains.items() if enough(among)]
            if suiting:
                return domains[min(suiting, key=lambda domain: (len(domains[domain]), domain))]
        return fit_any if enough(fit_any) else None

    # -- devices of a node

    def free_slots(self, number: int, kind: int | None) -> list[int]:
        """Devices that nobody holds now and that this plan has not given away."""
        taken = {slot for promise in self.promises if promise.node == number for slot in promise.slots}
        return [slot for slot in self.cluster.nodes[number].unheld(kind) if slot not in taken]

    def slots_for(self, number: int, kind: int | None, part: Part) -> tuple[int, ...]:
        node = self.cluster.nodes[number]
        groups = {slot: device.groups for slot, device in enumerate(node.devices) if device.kind == kind}
        return choose_slots(groups, self.free_slots(number, kind), part.devices) if part.devices else ()

    def spread(self, number: int, kind: int | None, part: Part) -> tuple[int, ...]:
        """Over how many link groups, NUMA nodes and PCIe roots the part's devices would be; to be in none
        counts as one more."""
        node = self.cluster.nodes[number]
        slots = self.slots_for(number, kind, part)
        return tuple(
            len({node.devices[slot].groups[level] for slot in slots})
            for level in (LINK_GROUP, NUMA_NODE, PCIE_ROOT)
        )

    # -- questions

    def place(
        self,
        request: int,
        duration_us: int,
        avoid: Sequence[int] = (),
        only: Sequence[int] | None = None,
        over_reserved: bool = False,
    ) -> list[tuple[int, tuple[int, ...]]] | None:
        asked = self.ask(request, duration_us)
        if over_reserved:
            plan = self.seen_without((), over_reserved)
            found = plan.place(request, duration_us, avoid, only)
            self.forget()
            self.placed = plan.placed
            return found
        numbers = self.candidates(asked, avoid, only)
        size = self.cluster.split_over(asked, avoid)
        self.forget()
        parts = asked.split(size) if size else []
        if not parts:
            return None
        if size == 1:
            choice = self.choose_one(asked, parts[0], duration_us, numbers)
        else:
            choice = self.choose_gang(asked, parts, duration_us, numbers)
        if choice is None:
            return None
        span_us = (self.now_us, self.now_us + duration_us)
        self.placed = [
            Promise(number, choice.kind, part, *span_us, self.slots_for(number, choice.kind, part))
            for number, part in zip(choice.nodes, parts, strict=True)
        ]
        return [(promise.node, promise.slots) for promise in self.placed]

    def fits(
        self,
        request: int,
        duration_us: int,
        avoid: Sequence[int] = (),
        only: Sequence[int] | None = None,
        gone: Sequence[int] = (),
        over_reserved: bool = False,
    ) -> tuple[int, ...] | None:
        self.ask(request, duration_us)
        plan = self.seen_without(gone, over_reserved)
        plan.place(request, duration_us, avoid, only)
        self.forget()
        self.fitting = [replace(promise, slots=()) for promise in plan.placed]
        return tuple(promise.node for promise in self.fitting) or None

    def seen_without(self, gone: Sequence[int], over_reserved: bool) -> Plan:
        """A copy, with its reservations or without, on a copy of the cluster where those jobs are gone."""
        other = Cluster()
        other.kinds, other.requests = self.cluster.kinds, self.cluster.requests
        other.nodes = [without(node, set(gone)) for node in self.cluster.nodes]
        plan = other.plan(self.now_us)
        plan.promises = [one for one in self.promises if not (over_reserved and one.reserved)]
        plan.imagined = self.imagined
        return plan

    def take(self) -> None:
        self.keep(self.placed)

    def earliest(
        self, request: int, duration_us: int, avoid: Sequence[int] = ()
    ) -> tuple[int, tuple[int, ...]] | None:
        asked = self.ask(request, duration_us)
        numbers = self.candidates(asked, avoid, None)
        size = self.cluster.split_over(asked, avoid)
        self.forget()
        parts = asked.split(size) if size else []
        if not parts:
            return None
        for at_us in self.moments(numbers):
            for kind in self.cluster.kinds_for(asked):
                if size == 1:
                    nodes = self.tightest_at(kind, parts[0], at_us, duration_us, numbers)
                else:
                    nodes = self.gang_of(kind, parts, at_us, duration_us, numbers)
                if nodes is not None:
                    span_us = (at_us, at_us + duration_us)
                    self.foreseen = [
                        Promise(number, kind, part, *span_us, reserved=True)
                        for number, part in zip(nodes, parts, strict=True)
                    ]
                    return at_us, tuple(nodes)
        return None

    def tightest_at(
        self, kind: int | None, part: Part, at_us: int, duration_us: int, numbers: list[int]
    ) -> list[int] | None:
        fitting = [number for number in numbers if self.has_room(number, kind, part, at_us, duration_us)]
        return [min(fitting, key=lambda number: self.tightness(number, kind))] if fitting else None

    def reserve(self) -> None:
        self.keep(self.foreseen)

    def claim(self) -> None:
        self.keep(self.fitting)

    def keep(self, found: list[Promise]) -> None:
        """Has the answer to the last question be so, if it was of this kind and found something."""
        self.check()
        if not found:
            raise RuntimeError("nothing was found")
        self.promises = self.promises + found
        self.forget()

    def survey(self, request: int, duration_us: int, avoid: Sequence[int] = ()) -> tuple[int, ...]:
        asked = self.ask(request, duration_us)
        avoided = self.cluster.known(avoid)
        self.forget()
        part = asked.part(0, self.cluster.split_over(asked, avoid) or asked.nodes or 1)
        verdicts = [
            "closed" if number in avoided else self.verdict(number, asked, part, duration_us)
            for number, node in enumerate(self.cluster.nodes)
            if node.state != LOST
        ]
        return tuple(verdicts.count(verdict) for verdict in VERDICTS)

    def verdict(self, number: int, asked: Request, part: Part, duration_us: int) -> str:
        node = self.cluster.nodes[number]
        if node.state != OPEN:
            return "closed"
        if not asked.labels <= node.labels:
            return "labels"
        there = {None, *(device.kind for device in node.devices)}
        reasons = [
            self.verdict_of_kind(number, kind, part, duration_us)
            for kind in self.cluster.kinds_for(asked)
            if kind in there
        ]
        if not reasons:
            return "kind"
        return "fits" if "fits" in reasons else max(reasons, key=VERDICTS.index)

    def verdict_of_kind(self, number: int, kind: int | None, part: Part, duration_us: int) -> str:
        if not self.cluster.nodes[number].empty(kind).holds(part):
            return "small"
        for reason in self.room(number, kind, self.now_us, booked=False).lacks(part):
            return reason
        return "fits" if self.has_room(number, kind, part, self.now_us, duration_us) else "reserved"

    def imagine(
        self,
        gpus: int,
        gpu_type: int,
        gpu_memory_mib: int,
        cores: int,
        memory_mib: int,
        nodes: int,
        exclusive: bool,
        labels: Sequence[int] = (),
    ) -> int:
        self.imagined = requested(gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, labels)
        return IMAGINED

    def nodes_for(self, request: int) -> int:
        self.check()
        asked = self.request(request)
        self.forget()
        return self.cluster.split_over(asked, ())

    def idle(self) -> bool:
        self.check()
        return any(
            self.room(number, kind, self.now_us).devices > 0
            for number, node in enumerate(self.cluster.nodes)
            for kind in range(len(self.cluster.kinds))
            if node.state == OPEN
        )

    def offer(self, request: int, empty: bool = False) -> tuple[int, int, int]:
        self.check()
        asked = self.request(request)
        self.forget()
        amounts = [
            self.amount(number, asked, empty)
            for number, node in enumerate(self.cluster.nodes)
            if asked.labels <= node.labels and self.takes(number, asked, empty)
        ]
        return len(amounts), sum(amounts), max(amounts, default=0)

    def takes(self, number: int, asked: Request, empty: bool) -> bool:
        """Whether the node takes a job like this at all, were there devices, cores and memory."""
        state = self.cluster.nodes[number].state
        if empty:
            return state != LOST
        return state == OPEN and self.room(number, None, self.now_us).seats >= asked.part(0, 1).seats

    def amount(self, number: int, asked: Request, empty: bool) -> int:
        """The devices that will do, or the cores, that the node has free, or has at all."""
        rooms = [
            self.cluster.nodes[number].empty(kind) if empty else self.room(number, kind, self.now_us)
            for kind in self.cluster.kinds_for(asked)
        ]
        return sum(max(room.devices if asked.gpus else room.cores, 0) for room in rooms)

    def ask(self, request: int, duration_us: int) -> Request:
        self.check()
        asked = self.request(request)
        check(1, TIME_US_MAX, duration_us)
        return asked

    def request(self, request: int) -> Request:
        if request == IMAGINED and self.imagined is not None:
            return self.imagined
        return self.cluster.request(request)

    def forget(self) -> None:
        self.placed, self.foreseen, self.fitting = [], [], []

    def check(self) -> None:
        if self.version != self.cluster.version:
            raise RuntimeError("the cluster has changed")


@dataclass(frozen=True)
class Choice:
    """A kind of device and the nodes, one a part."""

    kind: int | None
    nodes: list[int]


def without(node: Node, gone: set[int]) -> Node:
    """The node when these jobs hold nothing there any more."""
    return replace(node, holds={number: hold for number, hold in node.holds.items() if number not in gone})


# -- devices of one kind on one node, by their groups

Groups = tuple[int, int, int]


def levels(groups: list[Groups]) -> list[int]:
    """The groupings that all of these devices are in, the one with the smallest groups first."""

    def largest(level: int) -> int:
        numbers = [of[level] for of in groups]
        return max(numbers.count(number) for number in numbers)

    known = [level for level in (LINK_GROUP, NUMA_NODE, PCIE_ROOT) if all(of[level] >= 0 for of in groups)]
    return sorted(known, key=largest)


def choose_slots(groups: dict[int, Groups], free: list[int], wanted: int) -> tuple[int, ...]:
    """Which of the free devices to give out: from the smallest group with enough, the fullest of those."""
    order = levels(list(groups.values()))

    def grouped(slots: list[int], level: int) -> list[list[int]]:
        numbers = {groups[slot][level] for slot in slots}
        return [[slot for slot in slots if groups[slot][level] == number] for number in numbers]

    def fullest(rooms: list[list[int]]) -> list[int]:
        return min(rooms, key=lambda slots: (len(slots), slots[0]))

    def filled(slots: list[int], depth: int, wanted: int) -> list[int]:
        """From these slots, which are within a group above ``depth``: whole smaller groups first."""
        if depth == 0:
            return slots[:wanted]
        rooms = grouped(slots, order[depth - 1])
        enough = [room for room in rooms if len(room) >= wanted]
        if enough:
            return filled(fullest(enough), depth - 1, wanted)
        whole = min(rooms, key=lambda room: (-len(room), room[0]))
        rest = [slot for slot in slots if slot not in whole]
        return whole + filled(rest, depth, wanted - len(whole))

    for depth, level in enumerate(order):
        enough = [room for room in grouped(free, level) if len(room) >= wanted]
        if enough:
            return tuple(sorted(filled(fullest(enough), depth, wanted)))
    return tuple(sorted(filled(free, len(order), wanted)))
