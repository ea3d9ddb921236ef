"""The compiled queue and its plain twin are driven through the same random calls and compared after each."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from horizon import _queue
from tests.foundation import twin_queue

DAY_US = 86_400_000_000
SHARES_MAX = 12
HALF_LIVES_US = [1, 3, 1_000, 999_983, 3_600_000_000, 7 * DAY_US]
AHEADS_US = [0, 1_000_000, 3_600_000_000]


class Pair:
    """Both queues under one name: every call goes to both, and they must answer the same."""

    def __init__(self, compiled: Any, plain: Any) -> None:
        self.compiled, self.plain = compiled, plain

    def __call__(self, method: str, *arguments: Any) -> Any:
        answers = [outcome(getattr(side, method), *arguments) for side in (self.compiled, self.plain)]
        assert answers[0] == answers[1], f"{method}{arguments}: {answers[0]} compiled, {answers[1]} plain"
        return answers[0]


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the class of its refusal; a float as its exact digits."""
    try:
        result = call(*arguments)
    except (ValueError, KeyError, RuntimeError) as refusal:
        return type(refusal)
    return result.hex() if isinstance(result, float) else result


class Play:
    """One seeded run. The world is kept small, so that ties, full lanes and refusals are common."""

    def __init__(self, compiled_class: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.half_life_us = self.random.choice(HALF_LIVES_US)
        ahead_us = self.random.choice(AHEADS_US)
        self.pair = Pair(
            compiled_class(self.half_life_us, ahead_us), twin_queue.JobQueue(self.half_life_us, ahead_us)
        )
        self.now_us = self.random.choice([0, 1_700_000_000_000_000])
        self.shares, self.shapes = 1, 0
        # Few rates make for many ties between shares, above all when nothing else is ever charged.
        self.rates = self.random.choice([[0], [1000], [0, 1, 1000], [7, 1_000_003, 2**40]])
        self.calm = self.often(0.5)
        for _ in range(self.random.randrange(1, 4)):
            self.add_shape()
        for _ in range(self.random.randrange(0, SHARES_MAX)):
            self.add_share()

    def often(self, probability: float = 0.9) -> bool:
        return self.random.random() < probability

    def number(self) -> int:
        if self.often(0.02):
            return self.random.choice([-1, 0, 2**40 - 1, 2**40, 2**21, 2**20 - 1])
        return self.random.randrange(1, 300)

    def waiting(self) -> int:
        jobs = self.pair.plain.jobs
        return self.random.choice(sorted(jobs)) if jobs and self.often() else self.number()

    def share(self) -> int:
        return self.random.randrange(-1 if self.often(0.05) else 0, self.shares + self.often(0.05))

    def leaf(self) -> int:
        leaves = [share for share in range(self.shares) if not self.pair.plain.shares[share].children]
        return self.random.choice(leaves) if self.often(0.98) else self.share()

    def shape(self) -> int:
        return self.random.randrange(0, self.shapes + self.often(0.02))

    def priority(self) -> int:
        return self.random.randrange(0, 4) if self.often(0.99) else self.random.choice([-1, 4])

    def advance(self) -> int:
        step = self.random.random()
        if step < 0.05:
            self.now_us += self.half_life_us * self.random.choice([31, 32, 33, 100, 1030])
        elif step < 0.6:
            self.now_us += self.random.randrange(0, 2 * self.half_life_us + 2)
        elif step < 0.65:
            return max(0, self.now_us - self.random.randrange(0, 3 * self.half_life_us + 1))
        return self.now_us

    # One method for each kind of step; `step` chooses among them by weight.

    def add_share(self) -> None:
        if self.shares < SHARES_MAX:
            answer = self.pair("add_share", self.share(), self.random.choice([1, 1, 1, 2, 3]))
            self.shares += isinstance(answer, int)

    def add_shape(self) -> None:
        if self.shapes < 5:
            self.pair("add_shape", self.random.choice(self.rates))
            self.shapes += 1

    def set_shape_rate(self) -> None:
        self.pair("set_shape_rate", self.shape(), self.random.choice([*self.rates, -1, 2**40 + 1]))

    def set_decay(self) -> None:
        half_life_us = self.random.choice(HALF_LIVES_US if self.often(0.95) else [0, 2**50, 2**50 + 1])
        answer = self.pair("set_decay", half_life_us, self.random.choice(AHEADS_US), self.advance())
        if answer is None:
            self.half_life_us = half_life_us

    def set_weight(self) -> None:
        self.pair("set_weight", self.share(), self.random.choice([0, 1, 2, 5, 1_000_000, 1_000_001]))

    def enqueue(self) -> None:
        self.pair("enqueue", self.number(), self.priority(), self.leaf(), self.shape())

    def enqueue_many(self) -> None:
        count = self.random.randrange(0, 8)
        self.pair(
            "enqueue_many",
            array("q", [self.number() for _ in range(count)]),
            array("b", [self.priority() for _ in range(count)]),
            array("i", [self.leaf() for _ in range(count)]),
            array("i", [self.shape() for _ in range(count + self.often(0.05))]),
        )

    def remove(self) -> None:
        self.pair("remove", self.waiting())

    def set_priority(self) -> None:
        self.pair("set_priority", self.waiting(), self.priority())

    def dequeue(self) -> None:
        for _ in range(self.random.randrange(1, 12 if self.often(0.1) else 3)):
            self.pair("dequeue")

    def hold(self) -> None:
        self.pair("hold", self.share(), self.random.choice([*self.rates, -1]), self.advance())

    def release(self) -> None:
        held = [share for share, node in enumerate(self.pair.plain.shares) if node.rate]
        share = self.random.choice(held) if held and self.often() else self.share()
        everything = self.pair.plain.shares[share].rate if share in held else 0
        rate = everything if self.often(0.5) else self.random.choice(self.rates)
        self.pair("release", share, rate, self.advance())

    def charge(self) -> None:
        amount = self.random.choice([0.0, 1e-9, 0.1, 12345.678, -1.0, float("nan"), 1e18])
        self.pair("charge", self.share(), amount, self.advance())

    def settle(self) -> None:
        self.pair("settle", self.advance())

    def clear(self) -> None:
        if self.often(0.1):
            self.pair("clear")

    def snapshot(self) -> None:
        """The compiled one goes on from a snapshot of it, the plain one just goes on."""
        dump = msgspec.msgpack.decode(msgspec.msgpack.encode(self.pair.compiled.dump()))
        self.pair.compiled = type(self.pair.compiled).load(dump)

    def walk(self) -> None:
        now_us, fifo = self.advance(), self.often(0.3)
        walks = Pair(self.pair.compiled.walk(now_us, fifo), self.pair.plain.walk(now_us, fifo))
        taking = self.random.choice([0.1, 0.5, 0.9])
        for _ in range(self.random.randrange(1, 60)):
            if walks("next") and self.often(taking):
                walks("take", *self.random.choice([(), (-1,), (0,), (7,), (1000,), (2**40 + 1,)]))
            if self.often(0.03):
                walks("block", self.shape())
            if self.often(0.02):
                shapes = [self.shape() for _ in range(self.random.randrange(0, 3))]
                walks("block_many", array("i", shapes))
            if self.often(0.01):
                walks("take")
                self.enqueue()  # if it is not refused, the walk is over for both
        assert walks.compiled.examined == walks.plain.examined

    def order(self) -> None:
        now_us, fifo = self.advance(), self.often(0.3)
        self.pair("order", self.random.choice([0, 5, 1000]), now_us, fifo)
        self.pair("rank", self.waiting(), now_us, self.random.choice([0, 3, 10_000]), fifo)

    def step(self) -> None:
        steps = {
            self.enqueue: 40, self.enqueue_many: 10, self.remove: 8, self.set_priority: 12, self.dequeue: 8,
            self.hold: 5, self.release: 5, self.charge: 2, self.settle: 6, self.walk: 5, self.order: 3,
            self.set_weight: 1, self.add_share: 2, self.add_shape: 1, self.clear: 1,
            self.set_shape_rate: 2, self.set_decay: 2, self.snapshot: 2,
        }  # fmt: skip
        chosen = self.random.choices(list(steps), weights=list(steps.values()))[0]
        if not (self.calm and chosen in (self.hold, self.charge, self.set_weight, self.set_decay)):
            chosen()
        self.compare()

    def compare(self) -> None:
        self.pair("peek")
        self.pair("counts")
        self.pair("__len__")
        number = self.waiting()
        self.pair("get", number)
        self.pair("__contains__", number)
        for shape in range(self.shapes):
            self.pair("shape_count", shape)
        for share in range(self.shares):
            self.pair("waiting_in", share, self.random.randrange(-1, 4))
            self.pair("rate", share)
            self.pair("weight", share)
            self.pair("usage", share, self.now_us)
            self.pair("score", share, self.now_us)

    def drain(self) -> None:
        """What is left comes out in the order announced."""
        self.pair("settle", self.now_us)
        announced = self.pair("order", 1000, self.now_us)
        taken: list[Any] = []
        while number := self.pair("dequeue"):
            if not isinstance(number, int):
                return  # refused: the owner would hold too much
            taken.append(number)
        assert taken == announced


def play(compiled_class: Any, seed: int, steps: int) -> None:
    try:
        run = Play(compiled_class, seed)
        for _ in range(steps):
            run.step()
        run.drain()
    except BaseException as failure:
        failure.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("seed", range(60))
def test_both_answer_every_random_call_the_same(seed: int) -> None:
    play(_queue.JobQueue, seed, steps=150)
