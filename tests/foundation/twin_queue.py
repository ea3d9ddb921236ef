"""The job queue in plain Python: the oracle for ``horizon._queue``. Slow, and meant to be obviously right.

Nothing is kept in order here. Whoever is next is found by looking at every waiting job, and every score is
computed when it is asked for. Only the arithmetic on doubles follows the compiled code step by step, because
the two must agree to the last bit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

LN_2 = 0.6931471805599453
USAGE_MIN = 2.0**-400
NOW_US_MAX = 2**62
RATE_MAX = 2**40
RATE_SUM_MAX = 2**62
TAYLOR = [1.0 / math.factorial(k) for k in range(13, -1, -1)]


def inflation(elapsed_us: int, half_life_us: int) -> float:
    """2 ** (elapsed / half-life): exact to the nearest half-life, from there by Taylor's series."""
    whole, part_us = divmod(elapsed_us, half_life_us)
    if 2 * part_us >= half_life_us:
        whole, part_us = whole + 1, part_us - half_life_us
    if whole < -1000:
        return 0.0
    x = part_us / half_life_us * LN_2
    y = TAYLOR[0]
    for term in TAYLOR[1:]:
        y = y * x + term
    return math.ldexp(y, whole)


def shrunk(usage: float, halvings: int) -> float:
    if halvings == 0:
        return usage
    if halvings >= 1022:
        return 0.0
    left = math.ldexp(usage, -halvings)
    return left if left >= USAGE_MIN else 0.0


@dataclass
class Share:
    parent: int | None
    weight: int
    rate: int = 0
    usage: float = 0.0
    since_us: int = 0
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    priority: int
    share: int
    shape: int


@dataclass(frozen=True)
class Moment:
    us: int
    landmark_us: int
    inflation: float


class JobQueue:
    def __init__(self, half_life_us: int, charge_ahead_us: int) -> None:
        self.decay_by(half_life_us, charge_ahead_us)
        self.instant = Moment(0, 0, 1.0)
        self.shares = [Share(None, 1)]
        self.shapes: list[int] = []
        self.jobs: dict[int, Job] = {}
        self.version = 0

    # -- jobs

    def check_job(self, number: int, priority: int, share: int, shape: int) -> None:
        if not 1 <= number < 2**40:
            raise ValueError("number")
        if not 0 <= priority <= 3:
            raise ValueError("priority")
        self.check_share(share)
        self.check_shape(shape)
        if self.shares[share].children:
            raise ValueError("not a leaf")
        if number in self.jobs:
            raise ValueError("already waiting")

    def enqueue(self, number: int, priority: int, share: int, shape: int) -> None:
        self.check_job(number, priority, share, shape)
        self.jobs[number] = Job(priority, share, shape)
        self.version += 1

    def enqueue_many(
        self, numbers: Sequence[int], priorities: Sequence[int], shares: Sequence[int], shapes: Sequence[int]
    ) -> None:
        if len({len(numbers), len(priorities), len(shares), len(shapes)}) != 1:
            raise ValueError("columns differ in length")
        before = dict(self.jobs)
        version = self.version
        try:
            for job in zip(numbers, priorities, shares, shapes, strict=True):
                self.enqueue(*job)
        except Exception:
            self.jobs, self.version = before, version
            raise
        self.version += 1

    def remove(self, number: int) -> bool:
        if self.jobs.pop(number, None) is None:
            return False
        self.version += 1
        return True

    def set_priority(self, number: int, priority: int) -> None:
        if number not in self.jobs:
            raise KeyError("not waiting")
        if not 0 <= priority <= 3:
            raise ValueError("priority")
        if self.jobs[number].priority != priority:
            self.jobs[number] = replace(self.jobs[number], priority=priority)
            self.version += 1

    def clear(self) -> None:
        self.jobs = {}
        self.version += 1

    def __len__(self) -> int:
        return len(self.jobs)

    def __contains__(self, number: int) -> bool:
        return number in self.jobs

    def get(self, number: int) -> tuple[int, int, int] | None:
        job = self.jobs.get(number)
        return None if job is None else (job.priority, job.share, job.shape)

    def counts(self) -> tuple[int, int, int, int]:
        low, normal, high, urgent = (sum(job.priority == p for job in self.jobs.values()) for p in range(4))
        return low, normal, high, urgent

    def waiting_in(self, share: int, priority: int = -1) -> int:
        self.check_share(share)
        if not -1 <= priority <= 3:
            raise ValueError("priority")
        return sum(
            share in self.path(job.share) and priority in (-1, job.priority) for job in self.jobs.values()
        )

    def shape_count(self, shape: int) -> int:
        self.check_shape(shape)
        return sum(job.shape == shape for job in self.jobs.values())

    # -- order

    def pick(self, numbers: Iterable[int], scores: dict[int, float], fifo: bool = False) -> int:
        """Which of these waiting jobs is next: the whole rule of order."""
        numbers = list(numbers)
        if not numbers:
            return 0
        top = max(self.jobs[number].priority for number in numbers)
        here = [number for number in numbers if self.jobs[number].priority == top]
        if fifo:
            return min(here)
        share = 0
        while self.shares[share].children:
            oldest = {}
            for child in self.shares[share].children:
                below = [number for number in here if child in self.path(self.jobs[number].share)]
                if below:
                    oldest[child] = min(below)
            share = min(oldest, key=lambda child: (scores[child], oldest[child]))
            here = [number for number in here if share in self.path(self.jobs[number].share)]
        return min(here)

    def scores_at(self, at: Moment, taken: list[int] | None = None) -> dict[int, float]:
        return {
            share: (
                self.settled(share, at)
                + float(node.rate + (taken[share] if taken else 0)) * self.ahead_s * at.inflation
            )
            / node.weight
            for share, node in enumerate(self.shares)
        }

    def peek(self) -> int:
        return self.pick(self.jobs, self.scores_at(self.instant))

    def dequeue(self) -> int:
        number = self.peek()
        if number:
            job = self.jobs[number]
            self.hold(job.share, self.shapes[job.shape], self.instant.us)
            del self.jobs[number]
        return number

    def walk(self, now_us: int, fifo: bool = False) -> Walk:
        self.check_now(now_us)
        return Walk(self, now_us, fifo)

    def order(self, limit: int, now_us: int, fifo: bool = False) -> list[int]:
        walk = self.walk(now_us, fifo)
        if limit < 0:
            raise ValueError("limit")
        numbers: list[int] = []
        while len(numbers) < limit and (number := walk.next()):
            numbers.append(number)
            walk.take()
        return numbers

    def rank(self, number: int, now_us: int, limit: int = 10_000, fifo: bool = False) -> int:
        order = self.order(limit, now_us, fifo)
        return order.index(number) + 1 if number in order else 0

    # -- shares and shapes

    def check_share(self, share: int) -> None:
        if not 0 <= share < len(self.shares):
            raise KeyError("share")

    def check_shape(self, shape: int) -> None:
        if not 0 <= shape < len(self.shapes):
            raise KeyError("shape")

    def check_now(self, now_us: int) -> None:
        if not 0 <= now_us <= NOW_US_MAX:
            raise ValueError("now_us")

    def path(self, share: int) -> list[int]:
        """The share and all above it, up to the root."""
        path = [share]
        while (parent := self.shares[path[-1]].parent) is not None:
            path.append(parent)
        return path

    def add_share(self, parent: int, weight: int = 1) -> int:
        self.check_share(parent)
        if not 1 <= weight <= 1_000_000:
            raise ValueError("weight")
        if any(job.share == parent for job in self.jobs.values()):
            raise ValueError("has waiting jobs")
        self.shares.append(Share(parent, weight))
        self.shares[parent].children.append(len(self.shares) - 1)
        self.version += 1
        return len(self.shares) - 1

    def set_weight(self, share: int, weight: int) -> None:
        self.check_share(share)
        if not 1 <= weight <= 1_000_000:
            raise ValueError("weight")
        self.shares[share].weight = weight
        self.version += 1

    def check_rate(self, rate: int) -> None:
        if not 0 <= rate <= RATE_MAX:
            raise ValueError("rate")

    def add_shape(self, rate: int) -> int:
        self.check_rate(rate)
        self.shapes.append(rate)
        self.version += 1
        return len(self.shapes) - 1

    def set_shape_rate(self, shape: int, rate: int) -> None:
        self.check_shape(shape)
        self.check_rate(rate)
        self.shapes[shape] = rate
        self.version += 1

    def set_decay(self, half_life_us: int, charge_ahead_us: int, now_us: int) -> None:
        """Usage as of now is taken out of the old inflation and put into the new one."""
        self.check_decay(half_life_us, charge_ahead_us)
        self.check_now(now_us)
        self.rebase(now_us)
        old = self.moment(now_us)
        for share, node in enumerate(self.shares):
            node.usage = self.settled(share, old) / old.inflation
            node.since_us = max(node.since_us, now_us)
        self.decay_by(half_life_us, charge_ahead_us)
        instant_us = max(now_us, self.instant.us)
        landmark_us = instant_us - instant_us % (32 * half_life_us)
        since = inflation(instant_us - landmark_us, half_life_us)
        self.instant = Moment(instant_us, landmark_us, since)
        for node in self.shares:
            node.usage *= inflation(now_us - landmark_us, half_life_us)
        self.version += 1

    def hold(self, share: int, rate: int, now_us: int) -> None:
        self.change_rate(share, rate, 1, now_us)

    def release(self, share: int, rate: int, now_us: int) -> None:
        self.change_rate(share, rate, -1, now_us)

    def change_rate(self, share: int, rate: int, sign: int, now_us: int) -> None:
        self.check_share(share)
        self.check_rate(rate)
        self.check_now(now_us)
        if not all(0 <= self.shares[s].rate + sign * rate <= RATE_SUM_MAX for s in self.path(share)):
            raise ValueError("cannot be released or held")
        self.rebase(now_us)
        at = self.moment(now_us)
        for above in self.path(share):
            node = self.shares[above]
            node.usage = self.settled(above, at)
            node.since_us = max(node.since_us, now_us)
            node.rate += sign * rate
        self.version += 1

    def charge(self, share: int, amount: float, now_us: int) -> None:
        self.check_share(share)
        self.check_now(now_us)
        if not 0.0 <= amount <= 1e18:
            raise ValueError("amount")
        self.rebase(now_us)
        for above in self.path(share):
            self.shares[above].usage += amount * self.moment(now_us).inflation
        self.version += 1

    def settle(self, now_us: int) -> None:
        self.check_now(now_us)
        if now_us != self.instant.us:
            self.rebase(now_us)
            self.instant = self.moment(now_us)
            self.version += 1

    @property
    def instant_us(self) -> int:
        return self.instant.us

    def rate(self, share: int) -> int:
        self.check_share(share)
        return self.shares[share].rate

    def weight(self, share: int) -> int:
        self.check_share(share)
        return self.shares[share].weight

    def usage(self, share: int, now_us: int) -> float:
        self.check_share(share)
        self.check_now(now_us)
        at = self.moment(now_us)
        return self.settled(share, at) / at.inflation

    def effective(self, share: int, now_us: int) -> float:
        return self.usage(share, now_us) + self.shares[share].rate * self.ahead_s

    def score(self, share: int, now_us: int) -> float:
        return self.effective(share, now_us) / self.shares[share].weight

    def memory_bytes(self) -> int:
        return sys.getsizeof(self.jobs) + sys.getsizeof(self.shares)

    # -- decay

    def check_decay(self, half_life_us: int, charge_ahead_us: int) -> None:
        if not 1 <= half_life_us <= 2**50:
            raise ValueError("half_life_us must be between 1 and 2**50")
        if not 0 <= charge_ahead_us <= 2**50:
            raise ValueError("charge_ahead_us must be between 0 and 2**50")

    def decay_by(self, half_life_us: int, charge_ahead_us: int) -> None:
        self.check_decay(half_life_us, charge_ahead_us)
        self.half_life_us = half_life_us
        self.tau_s = half_life_us / 1000000.0 / LN_2
        self.ahead_s = charge_ahead_us / 1000000.0

    def landmark_of(self, now_us: int) -> int:
        return max(now_us // (32 * self.half_life_us) * (32 * self.half_life_us), self.instant.landmark_us)

    def moment(self, now_us: int) -> Moment:
        landmark_us = self.landmark_of(now_us)
        return Moment(now_us, landmark_us, inflation(now_us - landmark_us, self.half_life_us))

    def settled(self, share: int, at: Moment) -> float:
        node = self.shares[share]
        usage = shrunk(node.usage, (at.landmark_us - self.instant.landmark_us) // self.half_life_us)
        if node.rate == 0 or at.us <= node.since_us:
            return usage
        growth = at.inflation - inflation(node.since_us - at.landmark_us, self.half_life_us)
        return usage + node.rate * self.tau_s * max(growth, 0.0)

    def rebase(self, now_us: int) -> None:
        landmark_us = self.landmark_of(now_us)
        for share in self.shares:
            share.usage = shrunk(share.usage, (landmark_us - self.instant.landmark_us) // self.half_life_us)
        since = inflation(self.instant.us - landmark_us, self.half_life_us)
        self.instant = Moment(self.instant.us, landmark_us, since)


class Walk:
    def __init__(self, queue: JobQueue, now_us: int, fifo: bool) -> None:
        self.queue = queue
        self.fifo = fifo
        self.version = queue.version
        self.at = queue.moment(now_us)
        self.ahead = set(queue.jobs)
        self.taken = [0] * len(queue.shares)
        self.blocked: set[int] = set()
        self.examined = 0
        self.last = 0

    def check(self) -> None:
        if self.version != self.queue.version:
            raise RuntimeError("the queue has changed")

    def next(self) -> int:
        """Passes the jobs one at a time in their turn, the blocked ones silently."""
        self.check()
        self.last = 0
        while any(self.queue.jobs[number].shape not in self.blocked for number in self.ahead):
            scores = self.queue.scores_at(self.at, self.taken)
            number = self.queue.pick(self.ahead, scores, self.fifo)
            self.ahead.discard(number)
            if self.queue.jobs[number].shape not in self.blocked:
                self.examined += 1
                self.last = number
                return number
        return 0

    def take(self, rate: int = -1) -> None:
        self.check()
        if self.last == 0:
            raise ValueError("nothing to take")
        job = self.queue.jobs[self.last]
        if rate < 0:
            rate = self.queue.shapes[job.shape]
        self.queue.check_rate(rate)
        if self.taken[0] > RATE_SUM_MAX - rate and not self.fifo:
            raise ValueError("rate")
        for above in self.queue.path(job.share):
            self.taken[above] += rate
        self.last = 0

    def block(self, shape: int) -> None:
        self.check()
        self.queue.check_shape(shape)
        self.blocked.add(shape)

    def block_many(self, shapes: Sequence[int]) -> None:
        self.check()
        for shape in shapes:
            self.block(shape)
