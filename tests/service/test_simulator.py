"""The simulator: against small logs worked out by hand, and against a textbook's scheduler on random ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from pathlib import Path

import pytest

from horizon.core import limits
from horizon.core.decide import Rejected
from horizon.core.policy import Order, Policy
from horizon.core.state import Estimates
from horizon.service.outcomes import (
    bounded_slowdown,
    by_size,
    jain,
    outcome_of,
    percentile,
    spread,
    timeline,
)
from horizon.service.simulator import Hardware, Instants, Limits, Ran, Simulation, simulate
from horizon.service.traces import TraceJob, load

FOUR = Hardware(1, 4)
CONSERVATIVE = -1


def policy(depth: int = 0, *, strict: bool = False, order: Order = Order.FIFO) -> Policy:
    return Policy(
        order=order,
        strict=strict,
        reservation_depth=depth,
        examined_max=limits.EXAMINED_MAX,
        preemption=False,
    )


def job(name: str, submit_s: int, run_s: int, gpus: int, estimate_s: int = 0, user: str = "u") -> TraceJob:
    return TraceJob(name, submit_s, run_s, gpus, estimate_s or run_s, user, "g")


def starts(
    jobs: Sequence[TraceJob],
    hardware: Hardware,
    chosen: Policy,
    limits: Limits = Limits.USER,
    instants: Instants = Instants.BATCH,
) -> dict[str, int]:
    """When each job starts, in seconds from the zero of the trace."""
    ran = simulate(tuple(jobs), hardware, chosen, limits, instants).ran
    return {one.job.name: one.start_s for one in ran}


# --- by hand --------------------------------------------------------------------------------------------

#       job submit run procs estimate      on four processors
LOG = """\
; MaxProcs: 4
    1     0 -1  100  3 -1 -1  3  120 -1 1 1 1 -1 -1 -1 -1 -1
    2    10 -1   50  2 -1 -1  2   60 -1 1 2 1 -1 -1 -1 -1 -1
    3    20 -1   30  1 -1 -1  1   40 -1 1 1 1 -1 -1 -1 -1 -1
    4    30 -1  200  1 -1 -1  1  200 -1 1 2 1 -1 -1 -1 -1 -1
    5    40 -1   10  4 -1 -1  4   20 -1 1 1 1 -1 -1 -1 -1 -1
    6    60 -1   10  1 -1 -1  1  300 -1 1 2 1 -1 -1 -1 -1 -1
    7    70 -1   20  1 -1 -1  1  140 -1 1 1 1 -1 -1 -1 -1 -1
"""


@pytest.fixture
def log(tmp_path: Path) -> tuple[TraceJob, ...]:
    (tmp_path / "log.swf").write_text(LOG)
    return load(tmp_path / "log.swf").jobs


def test_strict_fcfs_by_hand(log: tuple[TraceJob, ...]) -> None:
    """One processor is idle from 0 to 100: job 3 would fit, but job 2 is before it and does not."""
    expected = {"1": 0, "2": 100, "3": 100, "4": 100, "5": 300, "6": 310, "7": 310}
    assert starts(log, FOUR, policy(strict=True)) == expected


def test_easy_backfill_by_hand(log: tuple[TraceJob, ...]) -> None:
    """Job 3 ends before job 2 can start, job 4 takes a processor that job 2 does not need; job 7 ends before
    job 5 can start, but job 6 says that it would not."""
    expected = {"1": 0, "2": 100, "3": 20, "4": 50, "5": 250, "6": 260, "7": 100}
    for instants in Instants:
        assert starts(log, FOUR, policy(1), instants=instants) == expected


def test_with_perfect_estimates_job_6_fits_too(log: tuple[TraceJob, ...]) -> None:
    expected = {"1": 0, "2": 100, "3": 20, "4": 50, "5": 250, "6": 100, "7": 110}
    assert starts(log, FOUR, policy(1), Limits.PERFECT) == expected


TWO_BLOCKED = [job("1", 0, 100, 3), job("2", 1, 100, 2), job("3", 2, 100, 4), job("4", 3, 250, 1)]


def test_under_easy_only_the_first_blocked_job_is_safe() -> None:
    assert starts(TWO_BLOCKED, FOUR, policy(1)) == {"1": 0, "2": 100, "3": 253, "4": 3}


@pytest.mark.parametrize("depth", [2, 16, CONSERVATIVE])
def test_with_more_reservations_the_second_is_safe_too(depth: int) -> None:
    assert starts(TWO_BLOCKED, FOUR, policy(depth)) == {"1": 0, "2": 100, "3": 200, "4": 300}


def test_without_reservations_whatever_fits_starts() -> None:
    jobs = [job("1", 0, 10, 1), job("2", 1, 10, 2), job("3", 2, 20, 1)]
    assert starts(jobs, Hardware(1, 2), policy(0)) == {"1": 0, "2": 22, "3": 2}
    assert starts(jobs, Hardware(1, 2), policy(1)) == {"1": 0, "2": 10, "3": 20}


def test_fair_order_brings_the_user_who_used_nothing_forward() -> None:
    jobs = [
        job("a1", 0, 100, 2, user="alice"),
        job("a2", 1, 100, 2, user="alice"),
        job("a3", 2, 100, 2, user="alice"),
        job("b1", 3, 100, 2, user="bob"),
    ]
    two = Hardware(1, 2)
    assert starts(jobs, two, policy(strict=True)) == {"a1": 0, "a2": 100, "a3": 200, "b1": 300}
    fair = policy(strict=True, order=Order.FAIR)
    # At 200 both have used as much, but what alice used is longer ago and counts less.
    assert starts(jobs, two, fair) == {"a1": 0, "b1": 100, "a2": 200, "a3": 300}


def test_what_happens_together_is_seen_together_or_one_by_one() -> None:
    """Jobs 1 and 2 end at 10, before their estimates. One by one job 4 slips in between the two ends: it is
    done before job 2 was expected to end."""
    jobs = [job("1", 0, 10, 1, 100), job("2", 0, 10, 1, 50), job("3", 1, 10, 2), job("4", 2, 20, 1)]
    two = Hardware(1, 2)
    assert starts(jobs, two, policy(1)) == {"1": 0, "2": 0, "3": 10, "4": 20}
    one_by_one = starts(jobs, two, policy(1), instants=Instants.EACH)
    assert one_by_one == {"1": 0, "2": 0, "3": 30, "4": 10}


def test_one_by_one_an_expected_end_counts_before_its_turn() -> None:
    jobs = [job("1", 0, 10, 1, 100), job("2", 0, 10, 1, 10), job("3", 1, 10, 2), job("4", 2, 20, 1)]
    one_by_one = starts(jobs, Hardware(1, 2), policy(1), instants=Instants.EACH)
    assert one_by_one == {"1": 0, "2": 0, "3": 10, "4": 20}


@pytest.mark.parametrize("instants", Instants)
def test_a_job_that_uses_its_time_limit_to_the_last_second_completes(instants: Instants) -> None:
    result = simulate((job("1", 0, 10, 4), job("2", 0, 10, 4)), FOUR, policy(1), instants=instants)
    assert [(one.start_s, one.end_s) for one in result.ran] == [(0, 10), (10, 20)]
    assert result.events == 2 + 1 + 2 * 5  # policy and node; job 2 was planned for; each job is told in five


def test_a_gang_runs_over_several_nodes() -> None:
    jobs = [job("1", 0, 10, 6), job("2", 0, 10, 1), job("3", 0, 10, 2)]
    assert starts(jobs, Hardware(2, 4, "H100"), policy(1)) == {"1": 0, "2": 0, "3": 10}


def test_a_job_that_can_never_fit_is_named_and_stands_in_nobody_s_way() -> None:
    jobs = (job("first", 5, 10, 5), job("wide", 6, 10, 4), job("huge", 7, 10, 9), job("last", 8, 10, 4))
    result = simulate(jobs, FOUR, policy(strict=True))
    assert [one.name for one in result.too_large] == ["first", "huge"]
    assert result.left == ()
    assert {one.job.name: one.start_s for one in result.ran} == {"wide": 6, "last": 16}
    assert result.zero_s == 5
    outcome = outcome_of(result, FOUR)
    assert (outcome.jobs, outcome.too_large, outcome.never_started) == (2, ["first", "huge"], [])


def test_more_starts_than_one_cycle_may_make_follow_at_once() -> None:
    jobs = tuple(job(str(place), 0, 10, 1) for place in range(2 * limits.CYCLE_STARTS_MAX + 5))
    result = simulate(jobs, Hardware(1, len(jobs)), policy(1))
    assert {one.start_s for one in result.ran} == {0}
    assert result.cycles == 3 + 1


def test_progress_is_told_and_no_jobs_are_no_trouble() -> None:
    told: list[int] = []
    jobs = tuple(job(str(place), place, 1, 1) for place in range(600))
    simulate(jobs, FOUR, policy(1), progress=told.append)
    assert told == [250, 500]
    assert simulate((), FOUR, policy(1)).ran == ()


def test_a_policy_that_may_not_be_is_refused() -> None:
    with pytest.raises(Rejected):
        simulate((job("1", 0, 1, 1),), FOUR, policy(-2))


# --- against a textbook -----------------------------------------------------------------------------------


class Profile:
    """Free processors over time, as steps of [from when, how many]."""

    def __init__(self, now: float, free: int, ends: list[tuple[float, int]]) -> None:
        self.steps: list[list[float]] = [[now, free]]
        for end, procs in sorted(ends):
            if end == self.steps[-1][0]:
                self.steps[-1][1] += procs
            else:
                self.steps.append([end, self.steps[-1][1] + procs])

    def earliest(self, procs: int, duration: int) -> float | None:
        start = None
        for at, free in self.steps:
            if start is not None and at >= start + duration:
                break
            if free < procs:
                start = None
            elif start is None:
                start = at
        return start

    def take(self, start: float, procs: int, duration: int) -> None:
        for moment in (start, start + duration):
            place = sum(at < moment for at, _ in self.steps)
            if place == len(self.steps) or self.steps[place][0] != moment:
                self.steps.insert(place, [moment, self.steps[place - 1][1]])
        for step in self.steps:
            if start <= step[0] < start + duration:
                step[1] -= procs


class Textbook:
    """FCFS with backfill as it is taught: processors are a number, and all plans are made anew every time."""

    def __init__(self, jobs: Sequence[TraceJob], procs: int, depth: int, strict: bool) -> None:
        self.jobs = jobs
        self.procs = procs
        self.depth = inf if depth < 0 else depth
        self.strict = strict
        self.starts: dict[int, int] = {}
        self.waiting: list[int] = []
        self.running: dict[int, bool] = {}
        self.ends: list[tuple[int, int, int]] = []

    def run(self, each: bool) -> dict[str, int]:
        submitted = 0
        while submitted < len(self.jobs) or self.ends:
            now = min(
                self.jobs[submitted].submit_s if submitted < len(self.jobs) else inf,
                self.ends[0][0] if self.ends else inf,
            )
            ending = []
            while self.ends and self.ends[0][0] == now:
                ending.append(heappop(self.ends)[2])
            for place in ending:
                if not each or self.jobs[place].run_s == self.jobs[place].estimate_s:
                    del self.running[place]
            while submitted < len(self.jobs) and self.jobs[submitted].submit_s == now:
                self.waiting.append(submitted)
                submitted += 1
                if each:
                    self.decide(int(now))
            if not each:
                self.decide(int(now))
                continue
            for place in ending:
                self.running.pop(place, None)
                self.decide(int(now))
        return {self.jobs[place].name: start for place, start in self.starts.items()}

    def decide(self, now: int) -> None:
        jobs = self.jobs
        free = self.procs - sum(jobs[place].gpus for place in self.running)
        profile = Profile(
            now,
            free,
            [(self.starts[place] + jobs[place].estimate_s, jobs[place].gpus) for place in self.running],
        )
        reservations = self.depth
        blocked = False
        for place in list(self.waiting):
            one = jobs[place]
            at = None if blocked else profile.earliest(one.gpus, one.estimate_s)
            if at == now:
                self.waiting.remove(place)
                self.running[place] = True
                self.starts[place] = now
                heappush(self.ends, (now + one.run_s, len(self.starts), place))
                profile.take(now, one.gpus, one.estimate_s)
                continue
            blocked = self.strict
            if at is not None and reservations:
                reservations -= 1
                profile.take(at, one.gpus, one.estimate_s)


SCHEMES = [(0, True), (0, False), (1, False), (2, False), (3, False), (CONSERVATIVE, False)]
"""Depth of reservations, and whether the first blocked job keeps all behind it waiting."""


def random_jobs(chance: random.Random, procs: int) -> list[TraceJob]:
    """Few moments and few lengths, so that much happens at once."""
    grain = chance.choice((1, 5, 10))
    moments = sorted(grain * chance.randrange(20) for _ in range(chance.randrange(5, 30)))
    jobs = []
    for place, submit_s in enumerate(moments):
        estimate_s = grain * chance.randrange(1, 15)
        run_s = estimate_s if chance.random() < 0.3 else grain * chance.randrange(1, 1 + estimate_s // grain)
        gpus = chance.randint(1, procs) if chance.random() < 0.5 else 1
        jobs.append(job(str(place), submit_s, run_s, gpus, estimate_s))
    return jobs


@pytest.mark.parametrize("tens", range(30))
def test_every_scheme_is_the_textbook_s_on_random_traces(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        chance = random.Random(seed)
        procs = chance.randint(1, 8)
        jobs = random_jobs(chance, procs)
        instants = chance.choice(list(Instants))
        for depth, strict in SCHEMES:
            expected = Textbook(jobs, procs, depth, strict).run(each=instants is Instants.EACH)
            got = starts(jobs, Hardware(1, procs), policy(depth, strict=strict), instants=instants)
            assert got == expected, f"seed {seed}, depth {depth}, strict {strict}, {instants}: {jobs}"


# --- statistics -------------------------------------------------------------------------------------------


def simulation(*ran: Ran, zero_s: int = 0) -> Simulation:
    return Simulation(zero_s, ran, (), (), Estimates(), 0, 0, 1.0)


def test_a_slowdown_is_bounded_by_ten_seconds_and_by_one() -> None:
    assert bounded_slowdown(Ran(job("1", 0, 100, 1), 300)) == 4.0
    assert bounded_slowdown(Ran(job("1", 0, 1, 1), 99)) == 10.0
    assert bounded_slowdown(Ran(job("1", 0, 1, 1), 3)) == 1.0


def test_a_percentile_is_the_smallest_value_that_so_many_are_not_above() -> None:
    assert [percentile([1, 2, 3, 4], percent) for percent in (1, 25, 26, 50, 95)] == [1, 1, 2, 2, 4]
    assert percentile([7], 50) == 7
    found = spread([4, 1, 3, 2])
    assert (found.mean, found.median, found.p95, found.p99, found.max) == (2.5, 2, 4, 4, 4)


def test_jain_s_index_is_1_for_equals_and_1_over_n_for_one_who_has_all() -> None:
    assert jain([3, 3, 3]) == 1.0
    assert jain([0, 5, 0, 0]) == 0.25
    assert jain([0, 0]) == 1.0


def test_the_outcome_of_two_users_by_hand() -> None:
    """On four GPUs: alice's two for 100 s at once, then bob's four for 50 s after a wait of 90."""
    ran = (Ran(job("1", 10, 100, 2, user="alice"), 10), Ran(job("2", 20, 50, 4, user="bob"), 110))
    outcome = outcome_of(simulation(*ran, zero_s=10), FOUR)
    assert outcome.makespan_s == 150
    assert outcome.utilisation == (200 + 200) / (4 * 150)
    assert (outcome.wait_s.mean, outcome.wait_s.max) == (45, 90)
    assert outcome.bounded_slowdown.mean == (1 + 140 / 50) / 2
    assert outcome.mean_completion_s == (100 + 140) / 2
    alice, bob = outcome.fairness.users
    assert (alice.user, alice.jobs, alice.gpu_s, alice.mean_wait_s, alice.progress) == ("alice", 1, 200, 0, 1)
    assert (bob.user, bob.gpu_s, bob.mean_wait_s) == ("bob", 200, 90)
    assert bob.progress == 200 / (200 + 4 * 90)
    assert outcome.fairness.index == jain([1.0, bob.progress])


def test_how_good_planned_starts_were_comes_from_the_core() -> None:
    jobs = (job("1", 0, 100, 4, 120), job("2", 10, 10, 4), job("3", 20, 10, 4))
    planned = outcome_of(simulate(jobs, FOUR, policy(1)), FOUR).planned_starts
    # Job 2 was planned for 120 and started at 100; job 3 was first planned then, for 110, and kept to it.
    assert (planned.planned, planned.in_time, planned.early, planned.late) == (2, 1, 1, 0)
    assert (planned.mean_early_s, planned.mean_late_s) == (20, 0)
    assert planned.mean_ahead_s == ((120 - 10) + (110 - 100)) / 2


def test_waits_by_size_put_doubling_sizes_together() -> None:
    sizes = (1, 1, 2, 3, 5, 8)
    ran = [Ran(job(str(place), 0, 1, gpus), 9 - place) for place, gpus in enumerate(sizes)]
    classes = by_size(ran)
    assert [one.label for one in classes] == ["1", "2\N{EN DASH}3", "5", "8"]
    assert [one.waits_s for one in classes] == [[8, 9], [6, 7], [5], [4]]


@pytest.mark.parametrize("seed", range(20))
def test_means_over_time_are_those_of_every_second(seed: int) -> None:
    chance = random.Random(seed)
    jobs = [
        job(str(place), 100 + chance.randrange(50), chance.randint(1, 30), chance.randint(1, 4))
        for place in range(12)
    ]
    jobs.sort(key=lambda one: one.submit_s)
    ran = [Ran(one, one.submit_s + chance.randrange(40)) for one in jobs]
    result = simulation(*ran, zero_s=jobs[0].submit_s)
    length_s = max(one.end_s for one in ran) - result.zero_s
    found = timeline(result, chance.randint(1, 20))
    for begin, busy, waiting_jobs, waiting_gpus in zip(
        range(0, length_s, found.span_s), found.busy, found.waiting_jobs, found.waiting_gpus, strict=True
    ):
        seconds = range(result.zero_s + begin, result.zero_s + min(begin + found.span_s, length_s))
        runs = [one.job.gpus * len(_within(seconds, one.start_s, one.end_s)) for one in ran]
        waits = [(one.job.gpus, len(_within(seconds, one.job.submit_s, one.start_s))) for one in ran]
        assert busy * len(seconds) == pytest.approx(sum(runs)), f"seed {seed}"
        assert waiting_jobs * len(seconds) == pytest.approx(sum(wait_s for _, wait_s in waits))
        assert waiting_gpus * len(seconds) == pytest.approx(sum(gpus * wait_s for gpus, wait_s in waits))


def _within(seconds: range, begin_s: int, end_s: int) -> list[int]:
    return [second for second in seconds if begin_s <= second < end_s]
