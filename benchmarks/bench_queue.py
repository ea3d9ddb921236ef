"""What do the queue's operations cost, called from Python, with few and with many jobs waiting?

Every figure is the time of a Python loop over the bound method, loop and call included: a call that does
nothing is the first line. Each block is timed on its own, with the queue put back between blocks outside of
the clock, because one call is shorter than what a benchmark harness adds to it. The best block counts:
noise only ever adds.

The queue has 100 users in 10 accounts, four priorities and 16 shapes, given to the jobs at random with a
fixed seed. ``benchmarks/reference/classic.rs`` answers the same questions.
"""

from __future__ import annotations

import gc
import random
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

import pytest

from benchmarks.measure import checksum, size
from horizon._queue import JobQueue

WAITING = [100, size(10_000, 1_000), size(1_000_000, 5_000)]
NOW_US = 1_700_000_000_000_000
HALF_LIFE_US = 7 * 86_400 * 1_000_000
AHEAD_US = 3_600 * 1_000_000
SHAPE_RATES = [1_000 * (shape + 1) for shape in range(16)]
Job = tuple[int, int, int, int]


class World:
    """A queue with its jobs 1 to `waiting`, the same at every call."""

    def __init__(self, waiting: int) -> None:
        self.queue = JobQueue(HALF_LIFE_US, AHEAD_US)
        self.queue.settle(NOW_US)
        accounts = [self.queue.add_share(0) for _ in range(10)]
        self.users = [self.queue.add_share(account) for account in accounts for _ in range(10)]
        self.shapes = [self.queue.add_shape(rate) for rate in SHAPE_RATES]
        self.random = random.Random(waiting)
        self.next_number = 1
        self.jobs = self.new_columns(waiting)
        self.queue.enqueue_many(*self.jobs)

    def new_columns(self, count: int) -> tuple[array[int], array[int], array[int], array[int]]:
        first = self.next_number
        self.next_number += count
        return (
            array("q", range(first, first + count)),
            array("b", self.random.choices(range(4), k=count)),
            array("i", self.random.choices(self.users, k=count)),
            array("i", self.random.choices(self.shapes, k=count)),
        )


def note(benchmark: Any, question: str, waiting: int, per_op_ns: float, result: Any) -> None:
    benchmark.extra_info.update(
        question=question,
        input=f"{waiting:,} waiting, 100 users in 10 accounts, 4 priorities",
        per_op_ns=per_op_ns,
        result=checksum(result),
    )


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def best(benchmark: Any, block: Callable[[], float], blocks: int) -> float:
    """The least ns per operation over so many blocks, run as one round of the harness."""
    with no_collection():
        return float(benchmark.pedantic(lambda: min(block() for _ in range(blocks)), rounds=1, iterations=1))


def blocks_of(operations: int) -> int:
    """Enough blocks for a steady best, in a second or so."""
    return max(3, size(400_000, 1_000) // operations)


def test_a_call_that_does_nothing(benchmark: Any) -> None:
    queue = JobQueue(HALF_LIFE_US, AHEAD_US)

    def block() -> float:
        call = queue.peek
        began = perf_counter_ns()
        for _ in range(1_000):
            call()
        return (perf_counter_ns() - began) / 1_000

    per_op_ns = best(benchmark, block, blocks_of(1_000))
    note(benchmark, "call the queue, which does nothing", 0, per_op_ns, queue.peek())


@pytest.mark.parametrize("waiting", WAITING)
def test_enqueue(benchmark: Any, waiting: int) -> None:
    world = World(waiting)
    jobs: list[Job] = list(zip(*world.new_columns(min(10 * waiting, 10_000)), strict=True))
    remove = world.queue.remove

    def block() -> float:
        enqueue = world.queue.enqueue
        began = perf_counter_ns()
        for number, priority, share, shape in jobs:
            enqueue(number, priority, share, shape)
        spent = perf_counter_ns() - began
        for job in jobs:
            remove(job[0])
        return spent / len(jobs)

    per_op_ns = best(benchmark, block, blocks_of(len(jobs)))
    note(benchmark, f"enqueue a job, {waiting:,} waiting", waiting, per_op_ns, world.queue.order(100, NOW_US))


@pytest.mark.parametrize("waiting", WAITING)
def test_enqueue_many(benchmark: Any, waiting: int) -> None:
    world = World(waiting)
    columns = world.new_columns(1_000)
    remove = world.queue.remove

    def block() -> float:
        began = perf_counter_ns()
        world.queue.enqueue_many(*columns)
        spent = perf_counter_ns() - began
        for number in columns[0]:
            remove(number)
        return spent / 1_000

    per_op_ns = best(benchmark, block, blocks_of(1_000))
    question = "enqueue 1,000 jobs at once, each"
    note(benchmark, question, waiting, per_op_ns, world.queue.order(100, NOW_US))


@pytest.mark.parametrize("waiting", WAITING)
def test_dequeue(benchmark: Any, waiting: int) -> None:
    world = World(waiting)
    queue = world.queue
    numbers, priorities, shares, shapes = world.jobs
    # At a million enough of them that no cache holds the jobs from one block to the next.
    operations = min(waiting // 2, 200_000)
    taken = queue.order(operations, NOW_US)

    def block() -> float:
        dequeue = queue.dequeue
        began = perf_counter_ns()
        for _ in range(operations):
            dequeue()
        spent = perf_counter_ns() - began
        for number in reversed(taken):
            at = number - 1
            queue.enqueue(numbers[at], priorities[at], shares[at], shapes[at])
            queue.release(shares[at], SHAPE_RATES[shapes[at]], NOW_US)
        return spent / operations

    per_op_ns = best(benchmark, block, blocks_of(operations))
    note(benchmark, f"dequeue a job, {waiting:,} waiting", waiting, per_op_ns, taken)


@pytest.mark.parametrize("waiting", WAITING)
def test_remove(benchmark: Any, waiting: int) -> None:
    operations = min(waiting // 2, 100_000)
    order = list(range(1, waiting + 1))
    random.Random(7).shuffle(order)
    # An array, so that the loop makes its numbers anew and does not look for scattered int objects.
    chosen = array("q", order[:operations])
    order.clear()
    left: list[int] = []

    def block() -> float:
        queue = World(waiting).queue
        remove = queue.remove
        began = perf_counter_ns()
        for number in chosen:
            remove(number)
        spent = perf_counter_ns() - began
        left[:] = queue.order(100, NOW_US)
        return spent / operations

    per_op_ns = best(benchmark, block, min(100, blocks_of(operations)))
    note(benchmark, f"remove a job by its name, {waiting:,} waiting", waiting, per_op_ns, left)


@pytest.mark.parametrize("waiting", WAITING)
def test_walk(benchmark: Any, waiting: int) -> None:
    queue = World(waiting).queue
    operations = min(waiting, 10_000)
    seen: list[int] = []

    def block() -> float:
        seen.clear()
        began = perf_counter_ns()
        walk = queue.walk(NOW_US)
        advance, take = walk.next, walk.take
        for _ in range(operations):
            seen.append(advance())
            take()
        return (perf_counter_ns() - began) / operations

    per_op_ns = best(benchmark, block, min(100, blocks_of(operations)))
    note(benchmark, f"walk to a job and take it, {waiting:,} waiting", waiting, per_op_ns, seen)
