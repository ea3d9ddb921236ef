"""What the job queue promises, said once and run over the compiled queue and its plain twin."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest

from horizon import _queue
from tests.foundation import twin_queue

LOW, NORMAL, HIGH, URGENT = range(4)
HOUR_US = 3_600_000_000
WEEK_US = 7 * 24 * HOUR_US
NOW_US = 1_700_000_000_000_000


@pytest.fixture(params=[_queue.JobQueue, twin_queue.JobQueue], ids=["compiled", "plain"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def queue(make: Any) -> Any:
    """Users ann (1) and bob (2) below the root, as of NOW_US; shape 0 costs 1000, shape 1 costs 10."""
    queue = make(WEEK_US, HOUR_US)
    queue.settle(NOW_US)
    assert [queue.add_share(0), queue.add_share(0)] == [1, 2]
    assert [queue.add_shape(1000), queue.add_shape(10)] == [0, 1]
    return queue


ANN, BOB = 1, 2


def fill(queue: Any, *jobs: tuple[int, int]) -> None:
    """Enqueues (number, share) pairs at Normal."""
    for number, share in jobs:
        queue.enqueue(number, NORMAL, share, 0)


def drain(queue: Any) -> list[int]:
    return list(iter(queue.dequeue, 0))


def columns(*jobs: tuple[int, int, int, int]) -> list[array[int]]:
    return [array(code, [job[i] for job in jobs]) for i, code in enumerate("qbii")]


def test_the_compiled_queue_is_the_one_that_was_compiled() -> None:
    assert not _queue.__file__.endswith(".py")
    assert type(_queue.JobQueue.enqueue).__name__ != "function"


# ------------------------------------------------------------------------------------------------ order


def test_an_empty_queue_gives_zero(queue: Any) -> None:
    assert (queue.peek(), queue.dequeue(), len(queue), queue.counts()) == (0, 0, 0, (0, 0, 0, 0))
    assert queue.walk(NOW_US).next() == 0
    assert queue.order(10, NOW_US) == []


def test_a_higher_priority_goes_first_whoever_owns_it(queue: Any) -> None:
    queue.hold(BOB, 5000, NOW_US)
    for number, priority in [(1, LOW), (2, NORMAL), (3, HIGH), (4, URGENT)]:
        queue.enqueue(number, priority, BOB, 0)
    queue.enqueue(5, HIGH, ANN, 0)
    assert drain(queue) == [4, 5, 3, 2, 1]


def test_one_users_jobs_go_in_order_of_number_however_they_came(queue: Any) -> None:
    fill(queue, *[(number, ANN) for number in (5, 9, 2, 7, 1, 8, 6)])
    assert drain(queue) == [1, 2, 5, 6, 7, 8, 9]


def test_a_requeued_job_returns_to_the_place_of_its_number(queue: Any) -> None:
    fill(queue, *[(number, ANN) for number in range(1, 6)])
    assert queue.remove(3)
    fill(queue, (3, ANN))
    assert queue.dequeue() == 1
    fill(queue, (1, ANN))
    assert drain(queue) == [1, 2, 3, 4, 5]


def test_a_job_that_changes_priority_takes_the_place_of_its_number_there(queue: Any) -> None:
    fill(queue, (2, ANN), (4, ANN), (6, ANN))
    queue.enqueue(3, LOW, ANN, 0)
    queue.set_priority(3, NORMAL)
    queue.set_priority(4, URGENT)
    assert queue.get(3) == (NORMAL, ANN, 0)
    assert queue.counts() == (0, 3, 0, 1)
    assert drain(queue) == [4, 2, 3, 6]


def test_dequeuing_moves_the_owner_back_at_once_so_users_interleave(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, ANN), (4, BOB), (5, BOB))
    assert drain(queue) == [1, 4, 2, 5, 3]
    assert (queue.rate(ANN), queue.rate(BOB), queue.rate(0)) == (3000, 2000, 5000)


def test_twice_the_weight_gets_twice_the_jobs(queue: Any) -> None:
    queue.set_weight(BOB, 2)
    fill(queue, *[(number, ANN if number % 2 else BOB) for number in range(1, 25)])
    first = [queue.get(number)[1] for number in queue.order(12, NOW_US)]
    assert (first.count(ANN), first.count(BOB)) == (4, 8)


def test_equal_scores_go_by_the_oldest_job_below(make: Any) -> None:
    queue = make(WEEK_US, HOUR_US)
    first, second = queue.add_share(0), queue.add_share(0)
    a, b, c = queue.add_share(first), queue.add_share(first), queue.add_share(second)
    shape = queue.add_shape(0)
    for number, share in [(1, c), (2, a), (3, c), (4, b), (5, a)]:
        queue.enqueue(number, NORMAL, share, shape)
    assert drain(queue) == [1, 2, 3, 4, 5]


def test_an_account_waits_for_what_its_users_hold(make: Any) -> None:
    queue = make(WEEK_US, HOUR_US)
    queue.settle(NOW_US)
    busy, idle = queue.add_share(0), queue.add_share(0)
    worker, friend, other = queue.add_share(busy), queue.add_share(busy), queue.add_share(idle)
    shape = queue.add_shape(1000)
    queue.hold(worker, 1000, NOW_US)
    for number, share in [(1, worker), (2, friend), (3, other)]:
        queue.enqueue(number, NORMAL, share, shape)
    assert drain(queue) == [3, 2, 1]


def test_the_root_is_a_leaf_until_it_has_shares_below(make: Any) -> None:
    queue = make(WEEK_US, HOUR_US)
    shape = queue.add_shape(1)
    for number in (2, 1):
        queue.enqueue(number, NORMAL, 0, shape)
    with pytest.raises(ValueError, match="has waiting jobs"):
        queue.add_share(0)
    assert queue.order(5, NOW_US) == [1, 2]
    assert drain(queue) == [1, 2]
    assert queue.add_share(0) == 1


def test_the_announced_order_is_the_order_of_dequeuing(queue: Any) -> None:
    fill(queue, *[(number, ANN if number < 20 else BOB) for number in range(1, 31)])
    queue.hold(ANN, 3333, NOW_US)
    later_us = NOW_US + WEEK_US
    announced = queue.order(100, later_us)
    ranks = [queue.rank(number, later_us) for number in announced]
    queue.settle(later_us)
    assert drain(queue) == announced
    assert ranks == list(range(1, 31))


def test_rank_is_zero_beyond_the_limit_and_for_a_job_that_does_not_wait(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, ANN))
    assert queue.rank(3, NOW_US, limit=2) == 0
    assert queue.rank(3, NOW_US, limit=3) == 3
    assert queue.rank(4, NOW_US) == 0


def test_with_fifo_a_priority_is_walked_by_number_alone_whoever_owns_the_jobs(queue: Any) -> None:
    queue.hold(ANN, 5000, NOW_US)
    fill(queue, (1, ANN), (2, ANN), (3, BOB), (4, ANN))
    queue.enqueue(5, HIGH, ANN, 0)
    assert queue.order(9, NOW_US) == [5, 3, 1, 2, 4]
    assert queue.order(9, NOW_US, fifo=True) == [5, 1, 2, 3, 4]
    assert queue.order(2, NOW_US, fifo=True) == [5, 1]
    assert [queue.rank(number, NOW_US, fifo=True) for number in (1, 2, 3, 4, 5)] == [2, 3, 4, 5, 1]
    assert queue.rank(4, NOW_US, limit=4, fifo=True) == 0
    assert list(iter(queue.walk(NOW_US, fifo=True).next, 0)) == [5, 1, 2, 3, 4]


def test_with_fifo_the_depth_of_an_owner_in_the_tree_makes_no_difference(make: Any) -> None:
    queue = make(WEEK_US, HOUR_US)
    queue.settle(NOW_US)
    top, deep = queue.add_share(0), queue.add_share(0)
    deeper = queue.add_share(queue.add_share(deep))
    shape = queue.add_shape(1000)
    queue.hold(deeper, 9000, NOW_US)
    for number in range(1, 21):
        queue.enqueue(number, NORMAL, deeper if number % 3 else top, shape)
    queue.remove(7)
    queue.enqueue(7, NORMAL, deeper, shape)
    assert queue.order(30, NOW_US, fifo=True) == list(range(1, 21))


# ------------------------------------------------------------------------------------------------- jobs


def test_the_queue_counts_its_jobs_by_priority_share_and_shape(queue: Any) -> None:
    queue.enqueue(1, URGENT, ANN, 0)
    queue.enqueue(2, LOW, ANN, 1)
    queue.enqueue(3, LOW, BOB, 1)
    assert (len(queue), queue.counts()) == (3, (2, 0, 0, 1))
    assert [queue.waiting_in(share) for share in (0, ANN, BOB)] == [3, 2, 1]
    assert [queue.waiting_in(0, priority) for priority in range(4)] == [2, 0, 0, 1]
    assert [queue.shape_count(shape) for shape in (0, 1)] == [1, 2]
    assert queue.remove(2)
    assert (2 in queue, 3 in queue) == (False, True)
    assert (queue.waiting_in(ANN), queue.shape_count(1), queue.get(2)) == (1, 1, None)


def test_removing_tells_whether_the_job_was_waiting(queue: Any) -> None:
    fill(queue, (1, ANN))
    assert [queue.remove(number) for number in (1, 1, 2, -5, 2**40)] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ((1, NORMAL, ANN, 0), ValueError),
        ((0, NORMAL, ANN, 0), ValueError),
        ((-1, NORMAL, ANN, 0), ValueError),
        ((2**40, NORMAL, ANN, 0), ValueError),
        ((9, 4, ANN, 0), ValueError),
        ((9, -1, ANN, 0), ValueError),
        ((9, NORMAL, 0, 0), ValueError),
        ((9, NORMAL, 3, 0), KeyError),
        ((9, NORMAL, -1, 0), KeyError),
        ((9, NORMAL, ANN, 2), KeyError),
    ],
    ids=["duplicate", "zero", "negative", "huge", "priority", "minus", "inner", "share", "below", "shape"],
)
def test_a_refused_job_changes_nothing_alone_or_among_others(
    queue: Any, job: tuple[int, int, int, int], error: type[Exception]
) -> None:
    fill(queue, (1, ANN))
    with pytest.raises(error):
        queue.enqueue(*job)
    with pytest.raises(error):
        queue.enqueue_many(*columns((7, NORMAL, BOB, 1), (5_000_000, LOW, ANN, 1), job, (8, LOW, ANN, 1)))
    assert (len(queue), queue.counts(), queue.shape_count(1)) == (1, (0, 1, 0, 0), 0)
    assert not any(number in queue for number in (7, 8, 9, 5_000_000))
    assert queue.dequeue() == 1


def test_many_jobs_enter_like_one_after_the_other(make: Any, queue: Any) -> None:
    numbers = (*range(500, 800), *range(1, 300, 3))
    jobs = [(number, number % 4, 1 + number % 2, number % 2) for number in numbers]
    queue.enqueue_many(*columns(*jobs))
    single = make(WEEK_US, HOUR_US)
    for add in (single.add_share, single.add_share):
        add(0)
    for rate in (1000, 10):
        single.add_shape(rate)
    for job in jobs:
        single.enqueue(*job)
    assert queue.counts() == single.counts()
    assert queue.order(50, NOW_US) == single.order(50, NOW_US)


def test_a_number_given_twice_in_one_call_is_refused(queue: Any) -> None:
    with pytest.raises(ValueError, match="already waiting"):
        queue.enqueue_many(*columns((3, LOW, ANN, 0), (3, LOW, ANN, 0)))
    assert len(queue) == 0


def test_columns_of_different_length_are_refused(queue: Any) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        queue.enqueue_many(array("q", [1, 2]), array("b", [1]), array("i", [ANN]), array("i", [0]))
    assert len(queue) == 0


def test_the_largest_number_has_room_and_huge_ones_cost_no_memory(queue: Any) -> None:
    fill(queue, (2**40 - 1, ANN), (1, ANN))
    with pytest.raises((ValueError, OverflowError)):
        queue.enqueue(2**80, NORMAL, ANN, 0)
    assert drain(queue) == [1, 2**40 - 1]
    assert queue.memory_bytes() < 16 * 2**20


def test_a_share_with_jobs_can_have_no_shares_below_it(queue: Any) -> None:
    fill(queue, (1, ANN))
    with pytest.raises(ValueError, match="has waiting jobs"):
        queue.add_share(ANN)
    assert queue.add_share(BOB) == 3
    queue.remove(1)
    assert queue.add_share(ANN) == 4


def test_a_share_whose_only_job_came_back_into_its_line_has_jobs(queue: Any) -> None:
    fill(queue, (1, ANN), (3, ANN), (2, ANN))
    queue.remove(1)
    queue.remove(3)
    with pytest.raises(ValueError, match="has waiting jobs"):
        queue.add_share(ANN)
    assert drain(queue) == [2]


def test_clearing_removes_the_jobs_and_keeps_the_shares(queue: Any) -> None:
    fill(queue, (1, ANN), (2, BOB))
    queue.hold(ANN, 7, NOW_US)
    queue.clear()
    assert (len(queue), queue.peek(), queue.waiting_in(ANN), queue.shape_count(0)) == (0, 0, 0, 0)
    assert queue.rate(ANN) == 7
    fill(queue, (1, ANN), (2, BOB))
    assert drain(queue) == [2, 1]


@pytest.mark.parametrize(("call", "error"), [
    (("set_priority", 9, LOW), KeyError), (("set_priority", 1, 4), ValueError),
    (("add_share", 9), KeyError), (("add_share", 0, 0), ValueError),
    (("add_share", 0, 1_000_001), ValueError),
    (("set_weight", 9, 1), KeyError), (("set_weight", ANN, 0), ValueError),
    (("add_shape", -1), ValueError), (("add_shape", 2**40 + 1), ValueError),
    (("set_shape_rate", 2, 1), KeyError), (("set_shape_rate", -1, 1), KeyError),
    (("set_shape_rate", 0, -1), ValueError), (("set_shape_rate", 0, 2**40 + 1), ValueError),
    (("set_decay", 0, 1, 0), ValueError), (("set_decay", 2**50 + 1, 1, 0), ValueError),
    (("set_decay", 1, -1, 0), ValueError), (("set_decay", 1, 2**50 + 1, 0), ValueError),
    (("set_decay", 1, 1, -1), ValueError),
    (("hold", 9, 1, 0), KeyError), (("hold", ANN, -1, 0), ValueError), (("hold", ANN, 1, -1), ValueError),
    (("release", ANN, 1, 0), ValueError), (("release", 9, 1, 0), KeyError),
    (("charge", ANN, -0.5, 0), ValueError), (("charge", ANN, math.nan, 0), ValueError),
    (("charge", ANN, math.inf, 0), ValueError), (("charge", 9, 1.0, 0), KeyError),
    (("settle", -1), ValueError), (("settle", 2**62 + 1), ValueError), (("walk", -1), ValueError),
    (("waiting_in", 9), KeyError), (("waiting_in", ANN, 4), ValueError), (("shape_count", 2), KeyError),
    (("rate", 9), KeyError), (("weight", -1), KeyError), (("usage", 9, 0), KeyError),
    (("score", 9, 0), KeyError), (("usage", ANN, -1), ValueError), (("order", -1, 0), ValueError),
])  # fmt: skip
def test_what_may_not_be_is_refused(queue: Any, call: tuple[Any, ...], error: type[Exception]) -> None:
    fill(queue, (1, ANN))
    with pytest.raises(error):
        getattr(queue, call[0])(*call[1:])


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (2**50 + 1, 1), (1, -1), (1, 2**50 + 1)])
def test_a_half_life_and_a_charge_ahead_have_bounds(make: Any, arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        make(*arguments)


# ------------------------------------------------------------------------------------------------- usage


def test_usage_halves_in_a_half_life(queue: Any) -> None:
    queue.charge(ANN, 4096.0, NOW_US)
    assert queue.usage(ANN, NOW_US) == 4096.0
    assert queue.usage(0, NOW_US) == 4096.0
    for half_lives in range(1, 60):
        assert queue.usage(ANN, NOW_US + half_lives * WEEK_US) == 4096.0 / 2**half_lives


def test_usage_decays_by_the_exponential_law_in_between(queue: Any) -> None:
    queue.charge(ANN, 1.0, NOW_US)
    for elapsed_us in range(0, WEEK_US, WEEK_US // 997):
        expected = 2.0 ** (-elapsed_us / WEEK_US)
        assert queue.usage(ANN, NOW_US + elapsed_us) == pytest.approx(expected, rel=1e-15, abs=0)


def test_holding_charges_the_integral_and_not_a_sample(queue: Any) -> None:
    queue.hold(ANN, 1000, NOW_US)
    queue.release(ANN, 1000, NOW_US + 10_000_000)
    assert queue.usage(ANN, NOW_US + 10_000_000) == pytest.approx(10_000.0, rel=1e-5)
    assert queue.usage(0, NOW_US + 10_000_000) == queue.usage(ANN, NOW_US + 10_000_000)


def test_what_is_held_for_ever_tends_to_half_life_over_ln_two(queue: Any) -> None:
    queue.hold(ANN, 1, NOW_US)
    settled = WEEK_US / 1e6 / math.log(2)
    assert queue.usage(ANN, NOW_US + 200 * WEEK_US) == pytest.approx(settled, rel=1e-12)


def test_effective_usage_adds_what_is_held_times_the_charge_ahead(queue: Any) -> None:
    queue.charge(ANN, 500.0, NOW_US)
    queue.hold(ANN, 10, NOW_US)
    queue.set_weight(ANN, 4)
    assert queue.effective(ANN, NOW_US) == pytest.approx(500.0 + 10 * 3600)
    assert queue.score(ANN, NOW_US) == queue.effective(ANN, NOW_US) / 4


def test_a_time_before_the_last_one_charges_nothing(queue: Any) -> None:
    queue.hold(ANN, 10, NOW_US)
    queue.hold(ANN, 10, NOW_US - 5_000_000)
    assert queue.usage(ANN, NOW_US) == 0.0
    assert queue.rate(ANN) == 20


def test_more_than_is_held_cannot_be_released_by_anyone_on_the_path(queue: Any) -> None:
    queue.hold(ANN, 10, NOW_US)
    queue.release(0, 8, NOW_US)
    with pytest.raises(ValueError, match="cannot be released"):
        queue.release(ANN, 5, NOW_US + 1)
    assert (queue.rate(ANN), queue.rate(0)) == (10, 2)


def test_settling_changes_the_order_but_never_a_usage(make: Any) -> None:
    often, never = make(WEEK_US, HOUR_US), make(WEEK_US, HOUR_US)
    for queue in (often, never):
        for share in (ANN, BOB):
            assert queue.add_share(0) == share
    for step in range(300):
        now_us = NOW_US + step * WEEK_US // 3
        often.settle(now_us)
        for queue in (often, never):
            (queue.release if step % 3 == 2 else queue.hold)(ANN + step % 2, 1000, now_us - now_us % 7)
            queue.charge(ANN, 0.1, now_us)
        often.settle(now_us + 1)
        for share in range(3):
            assert often.usage(share, now_us).hex() == never.usage(share, now_us).hex()
            assert often.score(share, now_us).hex() == never.score(share, now_us).hex()
    for queue in (often, never):
        queue.add_shape(1)
        fill(queue, (1, ANN), (2, BOB), (3, ANN))
    assert often.order(5, now_us) == never.order(5, now_us)


def test_whoever_holds_falls_behind_as_time_passes(queue: Any) -> None:
    queue.charge(BOB, 5e6, NOW_US)
    queue.hold(ANN, 1, NOW_US)
    fill(queue, (1, ANN), (2, BOB))
    assert queue.peek() == 1
    assert queue.order(2, NOW_US + 30 * WEEK_US) == [2, 1]
    queue.settle(NOW_US + 30 * WEEK_US)
    assert (queue.instant_us, queue.peek()) == (NOW_US + 30 * WEEK_US, 2)


def test_whoever_still_holds_falls_behind_when_others_have_let_go(queue: Any) -> None:
    first, last = queue.add_share(0), queue.add_share(0)
    for share in (first, ANN, last):
        queue.hold(share, 1, NOW_US)
    for share in (first, last):
        queue.release(share, 1, NOW_US)
    queue.charge(BOB, 5e6, NOW_US)
    fill(queue, (1, ANN), (2, BOB))
    assert queue.peek() == 1
    queue.settle(NOW_US + 30 * WEEK_US)
    assert queue.peek() == 2


# ------------------------------------------------------------------------------- other rates, other decay


def test_a_shape_that_costs_more_from_now_on_moves_its_owner_back_further(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, ANN))
    for number in (4, 5, 6):
        queue.enqueue(number, NORMAL, BOB, 1)
    assert queue.order(9, NOW_US) == [1, 4, 5, 6, 2, 3]
    queue.set_shape_rate(0, 5)
    assert queue.order(9, NOW_US) == [1, 4, 2, 3, 5, 6]
    assert queue.dequeue() == 1
    assert queue.rate(ANN) == 5


def test_a_refused_rate_or_decay_changes_nothing(queue: Any) -> None:
    queue.charge(ANN, 4096.0, NOW_US)
    fill(queue, (1, ANN), (2, BOB))
    for refused in (("set_shape_rate", 0, -1), ("set_decay", 0, 0, NOW_US), ("set_decay", 1, -1, NOW_US)):
        with pytest.raises(ValueError, match=r"rate|must be between"):
            getattr(queue, refused[0])(*refused[1:])
    assert queue.usage(ANN, NOW_US + WEEK_US) == 2048.0
    assert queue.dequeue() == 2
    assert queue.rate(BOB) == 1000


def test_another_half_life_leaves_usage_as_it_is_and_halves_it_at_the_new_pace(queue: Any) -> None:
    queue.charge(ANN, 4096.0, NOW_US)
    queue.set_decay(HOUR_US, 0, NOW_US + WEEK_US)
    now_us = NOW_US + WEEK_US
    assert queue.usage(ANN, now_us) == pytest.approx(2048.0, rel=1e-14)
    assert queue.usage(0, now_us) == pytest.approx(2048.0, rel=1e-14)
    assert queue.usage(ANN, now_us + HOUR_US) == pytest.approx(1024.0, rel=1e-14)
    assert queue.usage(ANN, now_us + 50 * HOUR_US) == pytest.approx(2048.0 / 2**50, rel=1e-14)


def test_what_was_held_before_the_half_life_changed_is_charged_by_the_old_one(make: Any) -> None:
    """Held for an hour under one half-life, then for an hour under another: each hour by its own."""
    queue = make(HOUR_US, 0)
    assert queue.add_share(0) == ANN
    queue.hold(ANN, 1000, NOW_US)
    queue.set_decay(2 * HOUR_US, 0, NOW_US + HOUR_US)
    first = 1000 * 3600 / math.log(2) * (1 - 0.5)
    assert queue.usage(ANN, NOW_US + HOUR_US) == pytest.approx(first, rel=1e-12)
    second = 1000 * 7200 / math.log(2) * (1 - 0.5**0.5)
    both = first * 0.5**0.5 + second
    assert queue.usage(ANN, NOW_US + 2 * HOUR_US) == pytest.approx(both, rel=1e-12)
    queue.release(ANN, 1000, NOW_US + 2 * HOUR_US)
    assert queue.usage(ANN, NOW_US + 4 * HOUR_US) == pytest.approx(both / 2, rel=1e-12)


def test_a_longer_charge_ahead_puts_who_holds_behind_who_has_used(queue: Any) -> None:
    queue.charge(BOB, 5000.0 * 3600, NOW_US)
    queue.hold(ANN, 1000, NOW_US)
    fill(queue, (1, ANN), (2, BOB))
    assert (queue.peek(), queue.order(2, NOW_US)) == (1, [1, 2])
    queue.set_decay(WEEK_US, 10 * HOUR_US, NOW_US)
    assert queue.effective(ANN, NOW_US) == pytest.approx(1000 * 36_000.0)
    assert (queue.peek(), queue.order(2, NOW_US)) == (2, [2, 1])


def test_the_half_life_can_be_changed_again_and_again_over_years(queue: Any) -> None:
    queue.charge(ANN, 1e12, NOW_US)
    now_us = NOW_US
    for half_life_us in (HOUR_US, 52 * WEEK_US, 1, 2**50, WEEK_US):
        before = queue.usage(ANN, now_us)
        queue.set_decay(half_life_us, HOUR_US, now_us)
        assert queue.usage(ANN, now_us) == pytest.approx(before, rel=1e-14)
        now_us += 3 * half_life_us
        assert queue.usage(ANN, now_us) == pytest.approx(before / 8, rel=1e-14)


def test_a_queue_with_another_half_life_orders_like_one_that_never_knew_the_old(make: Any) -> None:
    changed, fresh = make(HOUR_US, HOUR_US), make(WEEK_US, HOUR_US)
    changed.set_decay(WEEK_US, HOUR_US, NOW_US)
    fresh.settle(NOW_US)
    for queue in (changed, fresh):
        for share in (ANN, BOB):
            assert queue.add_share(0) == share
        queue.add_shape(1000)
        queue.charge(ANN, 0.1, NOW_US)
        queue.hold(BOB, 3, NOW_US + 1)
        fill(queue, (1, ANN), (2, BOB), (3, ANN), (4, BOB))
    later_us = NOW_US + 40 * WEEK_US
    for share in range(3):
        assert changed.score(share, later_us).hex() == fresh.score(share, later_us).hex()
    assert changed.order(9, later_us) == fresh.order(9, later_us)


# -------------------------------------------------------------------------------------------------- walks


def test_a_walk_that_takes_nothing_passes_one_user_before_the_next(queue: Any) -> None:
    queue.charge(BOB, 1.0, NOW_US)
    fill(queue, (1, BOB), (2, ANN), (3, BOB), (4, ANN))
    walk = queue.walk(NOW_US)
    assert list(iter(walk.next, 0)) == [2, 4, 1, 3]
    assert walk.examined == 4


def test_a_walk_that_takes_charges_within_itself_only(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, BOB))
    walk = queue.walk(NOW_US)
    seen = []
    while number := walk.next():
        seen.append(number)
        walk.take()
    assert seen == [1, 3, 2]
    assert (len(queue), queue.rate(ANN), queue.peek()) == (3, 0, 1)


def test_a_walk_charges_by_the_rate_it_is_told_or_else_by_that_of_the_shape(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, BOB), (4, BOB), (5, BOB))
    walk = queue.walk(NOW_US)
    seen = []
    for rate in (5000, -1, 3000, 0, 0):  # Ann's got a dear device; Bob's two cost less than that together
        seen.append(walk.next())
        walk.take(rate)
    assert seen == [1, 3, 4, 5, 2]
    assert (queue.rate(ANN), queue.rate(BOB)) == (0, 0)


def test_a_rate_that_may_not_be_takes_nothing(queue: Any) -> None:
    fill(queue, (1, ANN), (2, ANN), (3, BOB))
    walk = queue.walk(NOW_US)
    assert walk.next() == 1
    with pytest.raises(ValueError, match="rate"):
        walk.take(2**40 + 1)
    walk.take(1)
    assert walk.next() == 3


def test_a_walk_by_number_alone_charges_nobody_and_passes_blocked_shapes(queue: Any) -> None:
    for number in range(1, 7):
        queue.enqueue(number, NORMAL, ANN if number < 5 else BOB, number % 2)
    walk = queue.walk(NOW_US, fifo=True)
    assert walk.next() == 1
    walk.take(2**40)
    assert walk.next() == 2
    walk.block(1)
    assert list(iter(walk.next, 0)) == [4, 6]
    assert walk.examined == 4


def test_what_a_walk_takes_at_one_priority_counts_at_the_next(queue: Any) -> None:
    queue.enqueue(3, URGENT, ANN, 0)
    fill(queue, (1, ANN), (2, BOB))
    walk = queue.walk(NOW_US)
    assert walk.next() == 3
    walk.take()
    assert [walk.next(), walk.next()] == [2, 1]


def test_a_blocked_shape_is_not_returned_any_more(queue: Any) -> None:
    for number in range(1, 11):
        queue.enqueue(number, NORMAL, ANN, number % 2)
    queue.enqueue(11, LOW, BOB, 1)
    walk = queue.walk(NOW_US)
    assert walk.next() == 1
    walk.block(1)
    assert list(iter(walk.next, 0)) == [2, 4, 6, 8, 10]
    walk.block(0)
    assert (walk.next(), walk.examined) == (0, 6)


def test_many_shapes_can_be_blocked_at_once_and_twice_is_no_more_than_once(queue: Any) -> None:
    other = queue.add_shape(1)
    for number in range(1, 10):
        queue.enqueue(number, NORMAL, ANN, number % 3)
    walk = queue.walk(NOW_US)
    walk.block_many(array("i", [0, other, 0]))
    assert list(iter(walk.next, 0)) == [1, 4, 7]
    assert walk.examined == 3
    walk = queue.walk(NOW_US)
    walk.block_many(array("i"))
    with pytest.raises(KeyError):
        walk.block_many(array("i", [3]))
    assert len(list(iter(walk.next, 0))) == 9


def test_a_walk_ends_at_once_when_every_shape_left_is_blocked(queue: Any) -> None:
    fill(queue, (1, ANN), (2, BOB))
    walk = queue.walk(NOW_US)
    walk.block(0)
    walk.block(0)
    assert (walk.next(), walk.examined) == (0, 0)


def test_only_the_job_returned_last_can_be_taken_and_once(queue: Any) -> None:
    fill(queue, (1, ANN))
    walk = queue.walk(NOW_US)
    with pytest.raises(ValueError, match="nothing to take"):
        walk.take()
    walk.next()
    walk.take()
    with pytest.raises(ValueError, match="nothing to take"):
        walk.take()
    assert walk.next() == 0
    with pytest.raises(ValueError, match="nothing to take"):
        walk.take()
    with pytest.raises(KeyError):
        walk.block(2)


@pytest.mark.parametrize("change", [
    ("enqueue", 5, LOW, ANN, 0), ("remove", 1), ("set_priority", 1, HIGH), ("dequeue",), ("clear",),
    ("hold", ANN, 1, NOW_US), ("charge", ANN, 1.0, NOW_US), ("settle", NOW_US + 1), ("add_share", 0),
    ("add_shape", 1), ("set_weight", ANN, 2), ("set_shape_rate", 0, 5), ("set_decay", HOUR_US, 0, NOW_US),
])  # fmt: skip
def test_a_walk_ends_with_an_error_when_the_queue_changes(queue: Any, change: tuple[Any, ...]) -> None:
    fill(queue, (1, ANN), (2, BOB))
    walk = queue.walk(NOW_US)
    walk.next()
    getattr(queue, change[0])(*change[1:])
    for call in (walk.next, walk.take, lambda: walk.block(0), lambda: walk.block_many(array("i"))):
        with pytest.raises(RuntimeError):
            call()


def test_what_changes_nothing_leaves_a_walk_alone(queue: Any) -> None:
    fill(queue, (1, ANN), (2, BOB))
    walk = queue.walk(NOW_US)
    queue.settle(NOW_US)
    queue.set_priority(1, NORMAL)
    assert (queue.peek(), queue.remove(9), queue.order(9, 5)) == (1, False, [1, 2])
    with pytest.raises(ValueError, match="already waiting"):
        queue.enqueue(1, NORMAL, ANN, 0)
    assert list(iter(walk.next, 0)) == [1, 2]


def test_a_walk_outlives_the_name_of_its_queue(make: Any) -> None:
    queue = make(WEEK_US, HOUR_US)
    queue.add_shape(1)
    fill(queue, (1, 0), (2, 0))
    walk = queue.walk(NOW_US)
    del queue
    assert list(iter(walk.next, 0)) == [1, 2]


# ----------------------------------------------------------------------------- memory, of the compiled one


def test_a_waiting_job_takes_less_than_thirty_two_bytes() -> None:
    queue = _queue.JobQueue(WEEK_US, HOUR_US)
    queue.add_shape(1)
    count = 200_000
    zeros = array("i", bytes(4 * count))
    queue.enqueue_many(array("q", range(1, count + 1)), array("b", bytes(count)), zeros, zeros)
    assert queue.memory_bytes() < 32 * count
    assert queue.__sizeof__() > queue.memory_bytes()


def test_pages_are_given_back_when_their_last_job_leaves() -> None:
    queue = _queue.JobQueue(WEEK_US, HOUR_US)
    queue.add_shape(1)
    empty = queue.memory_bytes()
    for number in range(1, 3_000_000, 100_000):
        queue.enqueue(number, NORMAL, 0, 0)
    while queue.dequeue():
        pass
    assert queue.memory_bytes() - empty < 64 * 1024


def test_a_walk_is_made_by_a_queue_only() -> None:
    with pytest.raises(TypeError):
        _queue.Walk().next()


# --- snapshots ----------------------------------------------------------------------------------------


def dumped() -> list[Any]:
    """A queue with a user that holds something and a job that waits, as lists that a test may change."""
    queue = _queue.JobQueue(WEEK_US, HOUR_US)
    queue.add_share(0)
    queue.add_shape(1000)
    queue.hold(ANN, 10, NOW_US)
    queue.enqueue(7, NORMAL, ANN, 0)
    return [list(part) if isinstance(part, tuple) else part for part in queue.dump()]


SHARES, JOBS = 4, 6


@pytest.mark.parametrize(
    ("part", "column", "value"),
    [
        (SHARES, 0, array("i", [-1, 1])),
        (SHARES, 1, array("i", [1, 0])),
        (SHARES, 2, array("q", [10, -1])),
        (SHARES, 3, array("d", [0.0, math.nan])),
        (SHARES, 4, array("q", [0, -1])),
        (SHARES, 4, array("q", [0])),
        (JOBS, 0, array("q", [0])),
        (JOBS, 2, array("i", [2])),
        (JOBS, 3, array("i", [1])),
        (JOBS, 3, array("b", [1])),
    ],
)
def test_what_no_queue_gives_is_not_loaded(part: int, column: int, value: array[Any]) -> None:
    dump = dumped()
    _queue.JobQueue.load(tuple(dump))
    dump[part][column] = value.tobytes()
    with pytest.raises((ValueError, KeyError, TypeError)):
        _queue.JobQueue.load(tuple(dump))
