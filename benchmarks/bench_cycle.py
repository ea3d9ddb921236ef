"""What does a scheduling cycle cost, and what does it cost to fill a cluster?

Nodes have 8 GPUs. On a busy cluster every GPU is held by jobs of 1 to 8 with time limits, and those who wait
are as ``benchmarks.worlds`` says: 93 in 100 ask for one GPU, some for a gang of up to 16 nodes, in 50
users' names under 10 accounts. The jobs that have been planned for were so in an earlier cycle.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from benchmarks.measure import FULL, per_call, size
from benchmarks.worlds import GPUS, ONES, World, at_its_quota, busy, kept_for_a_gang
from horizon.core import events as ev
from horizon.core.model import JobSpec, Priority
from horizon.core.policy import UNLIMITED
from horizon.core.schedule import Cycle, schedule

WAITING = [size(1_000, 100), size(10_000, 200), size(100_000, 300)]
NODES = [size(100, 4), size(1_000, 8), size(10_000, 16)]
ROUNDS = 7 if FULL else 1


@pytest.fixture(scope="module", params=[(waiting, nodes) for nodes in NODES for waiting in WAITING])
def full(request: pytest.FixtureRequest) -> World:
    """A busy cluster."""
    waiting, nodes = request.param
    return busy(nodes, waiting)


def words(world: World) -> str:
    return f"{len(world.state.queue):,} waiting, {len(world.state.nodes):,} nodes"


def decided(cycle: Cycle) -> tuple[Any, ...]:
    return cycle.events, cycle.reservations


def test_cycle(benchmark: Any, full: World) -> None:
    def cycle() -> tuple[Any, ...]:
        return decided(schedule(full.state, full.now_us))

    per_call(benchmark, cycle, 1, question="cycle, all busy", input=words(full), rounds=ROUNDS)


def test_cycle_after_one_event(benchmark: Any, full: World) -> None:
    """A GPU was freed. What the cycle decides happens, so that the next round finds the cluster full."""
    input = words(full)
    last = Cycle((), 0, False)

    def free_one() -> None:
        full.fold(last.events)
        full.end_one()

    def cycle() -> tuple[Any, ...]:
        nonlocal last
        last = schedule(full.state, full.now_us)
        return decided(last)

    question = "cycle after one GPU was freed"
    per_call(benchmark, cycle, 1, question=question, input=input, rounds=ROUNDS, setup=free_one)


@pytest.mark.parametrize(
    ("why", "build"), [("kept for a gang", kept_for_a_gang), ("not for who is at quota", at_its_quota)]
)
def test_cycle_with_nodes_free(benchmark: Any, why: str, build: Callable[[int, int], World]) -> None:
    """There are GPUs free, but for nobody who waits: that has to be found out of each kind of job."""
    world = build(NODES[-1], WAITING[-1])

    def cycle() -> tuple[Any, ...]:
        return decided(schedule(world.state, world.now_us))

    assert not any(isinstance(event, ev.JobScheduled) for event in cycle()[0])
    question = f"cycle, free nodes {why}"
    per_call(benchmark, cycle, 1, question=question, input=words(world), rounds=ROUNDS)


def test_cycle_with_every_job_planned(benchmark: Any) -> None:
    """Conservative backfill: each blocked job has a reservation."""
    world = busy(NODES[-1], WAITING[0])
    world.policy(reservation_depth=UNLIMITED)
    world.cycle()

    def cycle() -> tuple[Any, ...]:
        return decided(schedule(world.state, world.now_us))

    per_call(benchmark, cycle, 1, question="cycle, conservative", input=words(world), rounds=min(3, ROUNDS))


# --- filling ----------------------------------------------------------------------------------------------


def ones_wait(world: World, gpus: int) -> None:
    world.wait_alike(gpus, 1)


def whole_nodes_wait(world: World, gpus: int) -> None:
    world.wait_alike(gpus // GPUS, GPUS)


def a_mix_waits(world: World, gpus: int) -> None:
    world.wait(gpus)


@pytest.mark.parametrize(
    ("kind", "come"), [("1 GPU", ones_wait), ("8 GPUs", whole_nodes_wait), ("a mix", a_mix_waits)]
)
def test_fill_an_empty_cluster(benchmark: Any, kind: str, come: Callable[[World, int], None]) -> None:
    """Cycle after cycle, each folded before the next, until nothing more starts."""
    gpus = NODES[-1] * GPUS
    worlds: list[World] = []
    spent: list[tuple[float, float]] = []

    def build() -> None:
        worlds[:] = [World(NODES[-1])]
        come(worlds[0], gpus)
        gc.collect()

    def fill() -> int:
        spent.append(filled(worlds[0]))
        return len(worlds[0].state.holding)

    question = f"fill a cluster with jobs of {kind}"
    per_call(
        benchmark, fill, 1, question=question, input=f"{gpus:,} GPUs", rounds=min(3, ROUNDS), setup=build
    )  # fmt: skip
    assert len(worlds[0].state.devices.holders) == gpus
    deciding, folding = min(spent, key=sum)
    benchmark.extra_info["result"] = f"deciding {deciding:.2f} s, folding {folding:.2f} s"


def filled(world: World) -> tuple[float, float]:
    """Seconds spent in cycles and in folding what they decided, until there is nothing more to start."""
    deciding = folding = 0.0
    more = True
    while more:
        began = perf_counter()
        cycle = schedule(world.state, world.now_us)
        had_decided = perf_counter()
        world.fold(cycle.events)
        deciding += had_decided - began
        folding += perf_counter() - had_decided
        more = cycle.more
    return deciding, folding


# --- preemption -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cheap() -> World:
    """Every GPU is held by a preemptible job of low priority; most cores of a node by one that is not."""
    world = World(NODES[-1])
    world.fill(ONES, preemptible=True, priority=Priority.LOW)
    world.take_cores(100)
    return world


@pytest.mark.parametrize("cores", [0, 100], ids=["found", "none"])
@pytest.mark.parametrize(("jobs", "gpus"), [(1, 1), (1, GPUS), (1, size(16, 4) * GPUS), (8, 1)])
def test_search_for_victims(benchmark: Any, cheap: World, jobs: int, gpus: int, cores: int) -> None:
    """A cycle with so many urgent jobs. With 100 cores on a node they do not fit, whoever stops."""
    victims = sum(job.spec.preemptible for job in cheap.state.holding.values())
    nodes = -(-gpus // GPUS)
    spec = JobSpec("urgent", "python train.py", gpus, Priority.URGENT, nodes=nodes, cpu_cores=cores * nodes)
    urgent = [cheap.submit(spec) for _ in range(jobs)]

    def cycle() -> tuple[Any, ...]:
        return decided(schedule(cheap.state, cheap.now_us))

    assert any(isinstance(event, ev.PreemptionRequested) for event in cycle()[0]) is not bool(cores)
    question = f"cycle, {jobs} urgent of {gpus} GPUs, victims: {'none' if cores else 'found'}"
    per_call(
        benchmark, cycle, 1, question=question, input=f"{victims:,} preemptible jobs", rounds=min(3, ROUNDS)
    )
    cheap.fold(ev.JobCancelled(job_id=job.id, by="bench") for job in urgent)
