"""What do the questions to the compiled placement cost, asked from Python?

A plan is made anew for every round, outside of the clock. ``tests/foundation/twin_placement.py``, the same in
plain Python, answers some of them in the same run on the smallest cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.measure import FULL, per_call, size
from benchmarks.worlds import GPUS, MIXED, World
from horizon._placement import Cluster
from horizon.core.model import JobSpec
from horizon.core.state import SECOND_US
from tests.foundation import twin_placement

NODES = [size(100, 4), size(10_000, 16)]
GANG = size(64, 3)
"""Nodes of it."""
ROUNDS = 5 if FULL else 1
HOUR_US = 3_600 * SECOND_US
ASKS = {"1 GPU": (1, 1), "8 GPUs": (GPUS, 1), f"{GANG} nodes": (GANG * GPUS, GANG)}
"""GPUs, and nodes that they are on."""


@pytest.fixture(scope="module")
def full() -> World:
    """A cluster whose every GPU is held."""
    world = World(NODES[-1])
    world.fill(MIXED)
    return world


def request_for(world: World, ask: str) -> int:
    """The number of a request, which somebody makes."""
    gpus, nodes = ASKS[ask]
    job = world.submit(JobSpec("asker", "true", gpus, nodes=nodes, gpu_type="H100"))
    return world.state.shapes[job.shape].request


def plans(world: World, plan: list[Any]) -> Callable[[], None]:
    def build() -> None:
        plan[:] = [world.state.cluster.plan(world.now_us)]

    return build


def planned(plan: Any, request: int, jobs: int) -> list[Any]:
    """The next jobs in turn get the earliest place and time that those before them leave."""
    found = []
    for _ in range(jobs):
        found.append(plan.earliest(request, HOUR_US))
        if found[-1] is not None:
            plan.reserve()
    return found


def placed(plan: Any, request: int, jobs: int) -> list[Any]:
    found = []
    for _ in range(jobs):
        found.append(plan.place(request, HOUR_US))
        plan.take()
    return found


def test_make_a_plan(benchmark: Any, full: World) -> None:
    cluster, now_us = full.state.cluster, full.now_us
    calls = size(100, 2)

    def make() -> None:
        for _ in range(calls):
            cluster.plan(now_us)

    per_call(benchmark, make, calls, question="make a plan", input=f"{NODES[-1]:,} nodes", rounds=ROUNDS)


@pytest.mark.parametrize("ask", ASKS)
def test_no_place(benchmark: Any, full: World, ask: str) -> None:
    """Every GPU is held: how soon is that seen?"""
    request, calls = request_for(full, ask), size(100, 2)
    plan = full.state.cluster.plan(full.now_us)

    def ask_often() -> list[Any]:
        return [plan.place(request, HOUR_US) for _ in range(calls)]

    input = f"{NODES[-1]:,} busy nodes"
    per_call(benchmark, ask_often, calls, question=f"no place for {ask}", input=input, rounds=ROUNDS)


@pytest.mark.parametrize("ask", ASKS)
def test_place(benchmark: Any, ask: str) -> None:
    """Place and take, on an empty cluster until it is full, or for a while."""
    world = World(NODES[-1])
    request = request_for(world, ask)
    most = sum(node.inventory.devices[0].gpu_type == "H100" for node in world.state.nodes.values())
    jobs = min(most * GPUS // ASKS[ask][0], size(10_000, 8))
    plan: list[Any] = []

    def place() -> list[Any]:
        return placed(plan[0], request, jobs)

    per_call(
        benchmark, place, jobs, question=f"place {ask} and take it", input=f"{jobs:,} on {NODES[-1]:,} nodes",
        rounds=ROUNDS, setup=plans(world, plan),
    )  # fmt: skip


@pytest.mark.parametrize("jobs", [1, size(16, 4), size(1_000, 8)])
@pytest.mark.parametrize("ask", ASKS)
def test_plan_ahead(benchmark: Any, full: World, ask: str, jobs: int) -> None:
    request = request_for(full, ask)
    plan: list[Any] = []
    per_call(
        benchmark, lambda: planned(plan[0], request, jobs), jobs,
        question=f"plan {ask} ahead, each of {jobs:,}", input=f"{NODES[-1]:,} busy nodes",
        rounds=ROUNDS if jobs < 100 else min(2, ROUNDS), setup=plans(full, plan),
    )  # fmt: skip


@pytest.mark.parametrize(("by", "cluster"), [("compiled", Cluster), ("plain Python", twin_placement.Cluster)])
@pytest.mark.parametrize("ask", ASKS)
def test_plan_ahead_by_both(benchmark: Any, ask: str, by: str, cluster: Any) -> None:
    """The same answers from the compiled placement and from its twin."""
    world = World(NODES[0], cluster=cluster())
    world.fill(MIXED)
    request = request_for(world, ask)
    plan: list[Any] = []
    jobs = 4
    per_call(
        benchmark, lambda: planned(plan[0], request, jobs), jobs,
        question=f"plan {ask} ahead, {by}", input=f"{NODES[0]:,} busy nodes",
        rounds=min(2, ROUNDS), setup=plans(world, plan),
    )  # fmt: skip
