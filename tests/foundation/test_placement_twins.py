"""The compiled placement and its plain twin are driven through the same random calls and compared after each.

What must hold whatever is chosen is asked of the compiled one alone: no device is given out twice, no
reservation is put off by what is placed after it, and the earliest start is the first that a timetable drawn
moment by moment has room for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import msgspec
import pytest

from horizon import _placement
from tests.foundation import twin_placement
from tests.foundation.test_queue_twins import Pair

POOL_DEVICES = 300
WIDE_NODES = 70
NEVER_US = 1 << 50


class Play:
    """One seeded run. The world is kept small, so that ties, full nodes and coinciding moments are common."""

    def __init__(self, cluster_class: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.pair = Pair(cluster_class(), twin_placement.Cluster())
        self.now_us = self.random.choice([0, 1_000, 1_700_000_000_000_000])
        self.step_us = self.random.choice([1, 2, 10])
        self.imagining = False
        self.kinds = self.requests = self.nodes = self.jobs = self.bookings = 0
        self.devices_max = self.random.choice([2, 4, 8, 16])
        self.domains = self.random.randrange(0, 4)
        # Big nodes and many nodes are slow in the twin, so they come seldom and not together.
        self.size = self.random.choices(["small", "pool", "wide"], weights=[90, 7, 3])[0]
        self.nodes_max = WIDE_NODES if self.size == "wide" else 14
        for _ in range(self.random.randrange(1, 4)):
            self.add_kind()
        for _ in range(WIDE_NODES if self.size == "wide" else self.random.choice([1, 2, 4, 8, 12])):
            self.add_node()
        for _ in range(6):
            self.add_request()

    def often(self, probability: float = 0.9) -> bool:
        return self.random.random() < probability

    def some(self, most: int, numbers: range) -> list[int]:
        return [self.random.choice(numbers) for _ in range(self.random.randrange(0, most + 1)) if numbers]

    # What the steps need.

    def node(self) -> int:
        if self.often(0.01):
            return self.random.choice([-1, self.nodes])
        return self.random.randrange(self.nodes)

    def holder(self) -> tuple[int, int]:
        """A node, and mostly a job that holds something there."""
        node = self.node()
        holds = sorted(self.pair.plain.nodes[node].holds) if 0 <= node < self.nodes else []
        return node, self.random.choice(holds) if holds and self.often() else self.random.randrange(1, 50)

    def request(self) -> int:
        """Mostly one that there is; -1 is a plan's own, when it has one."""
        if self.often(0.005):
            return self.requests
        return self.random.randrange(-1 if self.imagining else 0, self.requests)

    def duration(self) -> int:
        if self.often(0.005):
            return self.random.choice([0, -1])
        return self.random.choice([1, 2, 3, 5, 10, 40, NEVER_US]) * self.step_us

    def moment(self) -> int:
        return max(0, self.now_us + self.random.randrange(-3, 12) * self.step_us)

    def avoided(self) -> list[int]:
        if self.often(0.005):
            return [self.random.choice([-1, self.nodes])]
        return self.some(2, range(self.nodes)) if self.often(0.3) else []

    def only(self) -> list[int] | None:
        if self.often(0.7):
            return None
        return self.some(self.nodes, range(self.nodes))

    def inventory(self) -> list[tuple[int, int, int, int]]:
        """Devices of a node; often regular, sometimes in groups that cut across each other."""
        total = self.random.randrange(0, self.devices_max + 1)
        if self.size == "pool" and self.often(0.3):
            total = POOL_DEVICES - self.random.randrange(0, 3)
        if self.size == "wide":
            total = 2
        kinds = [self.random.randrange(self.kinds) for _ in range(self.random.choice([1, 1, 2]))]
        if self.often(0.02):
            kinds = [self.kinds]
        link, numa, root = self.random.choice(
            [(8, 4, 2), (2, 4, 8), (4, 4, 1), (8, 8, 8), (3, 4, 2), (1, 2, 4), (2, 3, 2), (2, 6, 12)]
        )
        known = [self.often(0.8) for _ in range(3)]
        scattered = self.often(0.2)
        if self.size == "wide":
            link, numa, root = self.random.choices([(1, 1, 1), (1, 2, 1), (2, 2, 2)], weights=[90, 5, 5])[0]
            known, scattered = [True] * 3, False

        def group(slot: int, size: int, level: int) -> int:
            if not known[level] or self.often(0.01):
                return -1
            return self.random.randrange(0, 3) if scattered else slot // size

        return [
            (self.random.choice(kinds), group(slot, link, 0), group(slot, numa, 1), group(slot, root, 2))
            for slot in range(total)
        ]

    # One method for each kind of step on the cluster; `step` chooses among them by weight.

    def add_kind(self) -> None:
        if self.kinds < 4:
            answer = self.pair("add_kind", self.random.randrange(-1, 3), self.random.choice([0, 40, 80]))
            self.kinds += isinstance(answer, int)
            if self.kinds == 0:
                self.add_kind()

    def add_node(self) -> None:
        if self.nodes < self.nodes_max:
            node = self.pair("add_node")
            self.nodes += 1
            if self.often():
                self.set_node(node)
                self.pair("set_state", node, twin_placement.OPEN)

    def set_node(self, node: int | None = None) -> None:
        self.pair(
            "set_node",
            self.node() if node is None else node,
            self.random.choice([0, 4, 8, 64]),
            self.random.choice([0, 10, 100]),
            self.inventory(),
            self.some(3, range(3)),
            [self.random.choice([-1, 0, 1, 2]) for _ in range(self.domains)],
        )

    def set_state(self) -> None:
        self.pair("set_state", self.node(), self.random.choice([0, 1, 2, 2, 2, 2]))

    def set_device(self) -> None:
        node = self.node()
        total = len(self.pair.plain.nodes[node].devices) if 0 <= node < self.nodes else 1
        self.pair(
            "set_device", node, self.random.randrange(0, total + self.often(0.05) or 1), self.often(0.7)
        )

    def hold(self) -> None:
        node = self.node()
        free = self.pair.plain.free(node)[2] if 0 <= node < self.nodes else ()
        wanted = self.random.choice([0, 1, 1, 2, 4, len(free)])
        slots = self.random.sample(free, min(wanted, len(free)))
        if self.often(0.03):
            slots.append(self.random.choice([-1, 0, 1, 500]))
        number = self.number()
        amounts = (self.random.choice([0, 1, 4]), self.random.choice([0, 1, 50]))
        rest = (self.often(0.1), self.moment() if self.often() else NEVER_US, self.often())
        self.pair("hold", node, number, slots, *amounts, *rest)

    def number(self) -> int:
        if self.often(0.05):
            return self.random.randrange(0, self.jobs + 1)
        self.jobs += 1
        return self.jobs

    def expect(self) -> None:
        self.pair("expect", *self.holder(), self.moment())

    def release(self) -> None:
        self.pair("release", *self.holder())

    def book(self) -> None:
        self.bookings += 1
        start_us = self.moment()
        self.pair(
            "book",
            self.node(),
            self.bookings,
            start_us,
            start_us + self.random.randrange(0, 9) * self.step_us,
        )

    def unbook(self) -> None:
        node = self.node()
        bookings = sorted(self.pair.plain.nodes[node].bookings) if 0 <= node < self.nodes else []
        self.pair(
            "unbook", node, self.random.choice(bookings) if bookings and self.often() else self.bookings
        )

    def add_request(self) -> None:
        if self.requests < 40:
            answer = self.pair("add_request", *self.wanted())
            self.requests += isinstance(answer, int)

    def wanted(self) -> tuple[Any, ...]:
        gpus = self.random.choice([0, 1, 1, 2, 3, 4, 5, 8, 11, 20])
        if self.size != "small" and self.often(0.3):
            gpus = self.random.choice([64, 65, 70, 130, 254, 255, 256, 298, 300])
        nodes = self.random.choice([0, 0, 1, 2, 3, 4, 5])
        return (
            max(gpus, nodes) if gpus and self.often(0.98) else gpus,
            self.random.choice([-1, -1, 0, 1]),
            self.random.choice([0, 0, 40, 41]),
            self.random.choice([0, 1, 3, 8, 20]),
            self.random.choice([0, 1, 7, 12, 150]),
            nodes,
            self.often(0.15),
            self.some(1, range(3)) if self.often(0.2) else [],
        )

    def nodes_for(self) -> None:
        for request in range(self.requests):
            self.pair("nodes_for", request)
            self.pair("nodes_for", request, self.avoided())

    def snapshot(self) -> None:
        """The compiled one goes on from a snapshot of it, the plain one just goes on."""
        dump = msgspec.msgpack.decode(msgspec.msgpack.encode(self.pair.compiled.dump()))
        self.pair.compiled = type(self.pair.compiled).load(dump)

    # A cycle: a plan of each, asked and changed side by side.

    def cycle(self) -> None:
        self.now_us += self.random.choice([0, 0, 1, self.step_us, 5 * self.step_us])
        plans = Pair(self.pair.compiled.plan(self.now_us), self.pair.plain.plan(self.now_us))
        assert plans.compiled.now_us == self.now_us
        started: list[tuple[Any, int, Any]] = []
        steps: dict[Callable[[Pair], Any], int] = {
            self.place: 8, self.earliest: 6, self.fits: 3, self.survey: 3, self.offer: 2,
            self.imagine: 1,
        }  # fmt: skip
        for _ in range(self.random.choice([3, 8, 20])):
            chosen = self.random.choices(list(steps), weights=list(steps.values()))[0]
            plans("idle")
            taken = chosen(plans)
            if taken is not None:
                started.append(taken)
        self.imagining = False
        if self.often(0.6):
            self.start(started)
        if self.often(0.1):
            self.step()
            plans("place", 0, 1)  # refused by both, if the cluster has changed

    def place(self, plans: Pair) -> tuple[Any, int, Any] | None:
        request, duration_us = self.request(), self.duration()
        placed = plans("place", request, duration_us, self.avoided(), self.only(), self.often(0.2))
        if self.often(0.7 if isinstance(placed, list) else 0.02):
            answer = plans("take")
            if answer is None and isinstance(placed, list):
                return plans.plain.request(request), duration_us, placed
        return None

    def start(self, started: list[tuple[Any, int, Any]]) -> None:
        """What was taken is held from now on: every one of those devices must be free, and only once."""
        for asked, duration_us, placed in started:
            self.jobs += 1
            for (node, slots), part in zip(placed, asked.split(len(placed)), strict=True):
                end_us = self.now_us + duration_us
                amounts = (part.cores, part.memory_mib, asked.exclusive)
                assert self.pair("hold", node, self.jobs, slots, *amounts, end_us) is None

    def earliest(self, plans: Pair) -> None:
        found = plans("earliest", self.request(), self.duration(), self.avoided())
        if self.often(0.6 if isinstance(found, tuple) else 0.02):
            plans("reserve")

    def fits(self, plans: Pair) -> None:
        gone = self.some(6, range(1, self.jobs + 2))
        asked = (self.request(), self.duration(), self.avoided(), self.only())
        fitting = plans("fits", *asked, gone, self.often(0.4))
        if self.often(0.5 if isinstance(fitting, tuple) else 0.02):
            plans("claim")
            plans("idle")

    def survey(self, plans: Pair) -> None:
        counts = plans("survey", self.request(), self.duration(), self.avoided())
        if isinstance(counts, tuple):
            there = [node for node in self.pair.plain.nodes if node.state != twin_placement.LOST]
            assert sum(counts) == len(there)

    def offer(self, plans: Pair) -> None:
        plans("offer", self.request())
        plans("offer", self.request(), True)
        plans("nodes_for", self.request())

    def imagine(self, plans: Pair) -> None:
        if isinstance(plans("imagine", *self.wanted()), int):
            self.imagining = True

    def step(self) -> None:
        steps = {
            self.hold: 20, self.expect: 5, self.release: 12, self.book: 3, self.unbook: 2, self.set_node: 1,
            self.set_state: 2, self.set_device: 3, self.add_kind: 1, self.add_node: 1, self.add_request: 4,
            self.nodes_for: 2, self.cycle: 20, self.snapshot: 2,
        }  # fmt: skip
        self.random.choices(list(steps), weights=list(steps.values()))[0]()
        self.compare()

    def compare(self) -> None:
        self.pair("__len__")
        for node in range(self.nodes):
            self.pair("state", node)
            self.pair("free", node)


class Foresight(Play):
    """Plays in which every change is followed by the question when each request could start.

    Nodes have devices of two kinds and more of them than are looked ahead for; most requests are for devices
    alone, so that what is foreseen by holds alone answers many; ends coincide, and pass unnoticed.
    """

    def __init__(self, cluster_class: Any, seed: int) -> None:
        super().__init__(cluster_class, seed)
        self.devices_max = self.random.choice([4, 9, 12])
        for node in range(self.nodes):
            self.set_node(node)

    def inventory(self) -> list[tuple[int, int, int, int]]:
        if self.size != "small":
            return super().inventory()
        kinds = self.random.sample(range(self.kinds), min(self.kinds, 2))
        total = self.random.choice([self.devices_max, self.random.randrange(self.devices_max + 1)])
        return [(self.random.choice(kinds), slot // 4, -1, -1) for slot in range(total)]

    def wanted(self) -> tuple[Any, ...]:
        if self.often(0.3):
            return super().wanted()
        gpus = self.random.choice([1, 1, 2, 3, 4, 7, 8, 9, 10])
        nodes = self.random.choice([0, 0, 1, 2, 3])
        return (max(gpus, nodes), self.random.choice([-1, -1, 0, 1]), 0, 0, 0, nodes, self.often(0.05))

    def moment(self) -> int:
        return max(0, self.now_us + self.random.choice([-9, -1, 0, 1, 2, 2, 3, 5, 8]) * self.step_us)

    def step(self) -> None:
        steps = {
            self.hold: 12, self.expect: 8, self.release: 6, self.book: 1, self.unbook: 2, self.set_node: 1,
            self.set_state: 2, self.set_device: 5, self.add_kind: 1, self.add_node: 1,
        }  # fmt: skip
        for change in self.random.choices(list(steps), weights=list(steps.values()), k=3):
            change()
        self.now_us += self.random.choice([0, 0, 1, self.step_us])
        plans = Pair(self.pair.compiled.plan(self.now_us), self.pair.plain.plan(self.now_us))
        for request in range(self.requests):
            found = plans("earliest", request, self.duration(), self.avoided())
            if isinstance(found, tuple) and self.often(0.1):
                plans("reserve")
            if self.often(0.1):
                self.random.choice([self.place, self.fits])(plans)


def play(cluster_class: Any, seed: int, steps: int) -> None:
    with seed_told(seed):
        run = (Foresight if seed % 3 == 2 else Play)(cluster_class, seed)
        for _ in range(steps):
            run.step()


@contextmanager
def seed_told(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("seed", range(200))
def test_both_answer_every_random_call_the_same(seed: int) -> None:
    play(_placement.Cluster, seed, steps=40)


@pytest.mark.parametrize("seed", range(30))
def test_both_choose_the_same_devices_of_the_same_node_however_they_are_grouped(seed: int) -> None:
    with seed_told(seed):
        chance = random.Random(seed)
        pair = Pair(_placement.Cluster(), twin_placement.Cluster())
        for gpu_type in range(2):
            pair("add_kind", gpu_type, 0)
        for gpus in range(17):
            pair("add_request", gpus, 0, 0, 0, 0, 1, False)
        nodes = range(chance.choice([1, 1, 3]))
        for node in nodes:
            pair("add_node")
            pair("set_state", node, _placement.OPEN)
        for _ in range(30 // len(nodes)):
            for node in nodes:
                regroup(chance, pair, node)
            plans = Pair(pair.compiled.plan(5), pair.plain.plan(5))
            for gpus in range(17):
                plans("place", gpus, 1)


def regroup(chance: random.Random, pair: Pair, node: int) -> None:
    """Gives a node other devices, of which some are held and some are broken or were."""
    held, broken = chance.choice([(0.0, 0.0), (0.0, 0.2), (0.4, 0.0), (0.4, 0.1)])
    devices = some_devices(chance)
    pair("set_node", node, 0, 0, devices)
    pair("hold", node, 1, [slot for slot in range(len(devices)) if chance.random() < held], 0, 0, False, 5)
    for slot in range(len(devices)):
        if chance.random() < broken:
            pair("set_device", node, slot, False)
            pair("set_device", node, slot, chance.random() < 0.3)


def some_devices(chance: random.Random) -> list[tuple[int, int, int, int]]:
    """Up to sixteen devices, mostly of kind 0, in groups within groups or across each other."""
    sizes = [chance.choice([1, 2, 3, 4, 6, 8, 16]) for _ in range(3)]
    irregular = chance.choice([0.0, 0.0, 0.2, 1.0])

    def group(slot: int, level: int) -> int:
        return chance.randrange(-1, 4) if chance.random() < irregular else slot // sizes[level]

    return [
        (int(chance.random() < 0.1), group(slot, 0), group(slot, 1), group(slot, 2))
        for slot in range(chance.randrange(1, 17))
    ]


# ------------------------------------------------------------------------------ what holds whatever is chosen


def busy_cluster(chance: random.Random, nodes: int) -> Any:
    """Nodes of eight devices and sixteen cores, half of them in use for a while; now is 0."""
    cluster = _placement.Cluster()
    cluster.add_kind(0, 0)
    for node in range(nodes):
        cluster.add_node()
        cluster.set_node(node, 16, 100, [(0, s // 4, s // 4, s // 2) for s in range(8)], [], [node // 4])
        cluster.set_state(node, _placement.OPEN)
        for number in range(1, 4):
            slots = chance.sample(cluster.free(node)[2], chance.randrange(0, 3))
            cluster.hold(node, number, slots, len(slots), 10, False, chance.randrange(1, 50))
    for _ in range(20):
        gpus, gang = chance.choice([(1, 0), (2, 0), (3, 0), (4, 0), (8, 1), (9, 3), (16, 2), (30, 0)])
        cluster.add_request(gpus, -1, 0, chance.randrange(gpus + 1), 5, gang, chance.random() < 0.1)
    return cluster


def fill(chance: random.Random, cluster: Any, plan: Any, tries: int) -> int:
    """Places what fits and then has it held on the cluster, which refuses a device that is held already."""
    started: list[tuple[int, int, Any]] = []
    for _ in range(tries):
        request, duration_us = chance.randrange(20), chance.randrange(1, 60)
        placed = plan.place(request, duration_us)
        if placed is not None:
            plan.take()
            started.append((request, duration_us, placed))
    for number, (_, duration_us, placed) in enumerate(started, start=100):
        for node, slots in placed:
            cluster.hold(node, number, slots, 0, 0, False, duration_us)
    return len(started)


@pytest.mark.parametrize("seed", range(20))
def test_no_device_is_ever_given_out_twice(seed: int) -> None:
    with seed_told(seed):
        chance = random.Random(seed)
        cluster = busy_cluster(chance, nodes=40)
        assert fill(chance, cluster, cluster.plan(0), tries=200) > 20


@pytest.mark.parametrize("seed", range(60))
def test_a_reservation_is_never_put_off_by_what_is_placed_after_it(seed: int) -> None:
    with seed_told(seed):
        chance = random.Random(seed)
        cluster = busy_cluster(chance, nodes=12)
        request, duration_us = chance.randrange(20), chance.randrange(1, 60)
        plan = cluster.plan(0)
        promised = plan.earliest(request, duration_us)
        plan.reserve()
        fill(chance, cluster, plan, tries=60)
        assert cluster.plan(0).earliest(request, duration_us)[0] <= promised[0]


Amounts = tuple[int, int, int]
"""Devices, cores and seats."""
SEATS = 1000
MOMENTS = 200


class Timetable:
    """What each node has free in each of the next microseconds, written out."""

    def __init__(self, totals: list[Amounts]) -> None:
        self.rows = [[total] * MOMENTS for total in totals]

    def take(self, node: int, amounts: Amounts, start: int, end: int) -> None:
        row = self.rows[node]
        for at in range(max(start, 0), min(max(end, 1), MOMENTS)):
            devices, cores, seats = (have - less for have, less in zip(row[at], amounts, strict=True))
            row[at] = (devices, cores, seats)

    def fits(self, node: int, amounts: Amounts, at: int, duration: int) -> bool:
        return all(
            have >= wanted
            for moment in self.rows[node][at : at + duration]
            for have, wanted in zip(moment, amounts, strict=True)
        )

    def has_room(self, parts: list[Amounts], at: int, duration: int) -> bool:
        """Whether there is any way at all to give every part a node of its own."""
        return any(
            all(self.fits(node, part, at, duration) for node, part in zip(nodes, parts, strict=True))
            for nodes in permutations(range(len(self.rows)), len(parts))
        )

    def first(self, parts: list[Amounts], duration: int) -> int:
        return next(at for at in range(MOMENTS) if self.has_room(parts, at, duration))


class Timed:
    """A small cluster at time 0 and its timetable, asked and changed side by side."""

    def __init__(self, module: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.cluster = module.Cluster()
        self.cluster.add_kind(0, 0)
        self.totals = [
            (self.random.randrange(1, 5), self.random.choice([2, 4]), SEATS)
            for _ in range(self.random.randrange(1, 5))
        ]
        self.times = Timetable(self.totals)
        for node, (devices, cores, _) in enumerate(self.totals):
            self.cluster.add_node()
            self.cluster.set_node(node, cores, 0, [(0, -1, -1, -1)] * devices)
            self.cluster.set_state(node, module.OPEN)
            self.occupy(node)
        self.plan = self.cluster.plan(0)

    def occupy(self, node: int) -> None:
        for number in range(1, 4):
            cores, _, slots = self.cluster.free(node)
            slots = slots[: self.random.randrange(0, 3)]
            cores = self.random.randrange(0, cores + 1)
            exclusive = self.random.random() < 0.05
            end = self.random.randrange(0, 20)
            self.cluster.hold(node, number, slots, cores, 0, exclusive, end)
            self.times.take(node, (len(slots), cores, SEATS if exclusive else 1), 0, end)
        if self.random.random() < 0.4:
            start = self.random.randrange(0, 20)
            end = start + self.random.randrange(1, 9)
            self.cluster.book(node, 1, start, end)
            self.times.take(node, (0, 0, SEATS), start, end)

    def ask(self) -> tuple[int, list[Amounts]]:
        """A request and its parts, none if it can never fit."""
        gpus, cores = self.random.randrange(1, 7), self.random.randrange(1, 7)
        gang = min(self.random.choice([0, 0, 1, 2, 3]), gpus)
        seats = SEATS if self.random.random() < 0.2 else 1
        request = self.cluster.add_request(gpus, -1, 0, cores, 0, gang, seats == SEATS)
        for size in [gang] if gang else range(1, gpus + 1):
            parts = [
                (gpus // size + (i < gpus % size), cores // size + (i < cores % size), seats)
                for i in range(size)
            ]
            if Timetable(self.totals).has_room(parts, 0, 1):
                assert self.cluster.nodes_for(request) == size
                return request, parts
        assert self.cluster.nodes_for(request) == 0
        return request, []

    def step(self) -> None:
        request, parts = self.ask()
        duration = self.random.randrange(1, 8)
        placed = self.plan.place(request, duration)
        earliest = self.plan.earliest(request, duration)
        if not parts:
            assert placed is earliest is None
            return
        start, nodes = earliest
        assert start == self.times.first(parts, duration)
        assert (placed is None) == (start > 0)
        if placed is not None and self.random.random() < 0.5:
            assert self.plan.place(request, duration) == placed
            start, nodes = 0, [node for node, _ in placed]
            self.plan.take()
        else:
            self.plan.reserve()
        for node, part in zip(nodes, parts, strict=True):
            assert self.times.fits(node, part, start, duration)
            self.times.take(node, part, start, start + duration)


@pytest.mark.parametrize("module", [_placement, twin_placement], ids=["compiled", "plain"])
@pytest.mark.parametrize("seed", range(60))
def test_a_request_fits_and_starts_exactly_when_a_timetable_says_it_can(module: Any, seed: int) -> None:
    with seed_told(seed):
        run = Timed(module, seed)
        for _ in range(10):
            run.step()
