"""What a simulated trace says of a policy: waits, slowdowns, utilisation, fairness, and these over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import Final

from msgspec import Struct

from horizon.core.state import Estimates
from horizon.service.simulator import Hardware, Ran, Simulation
from horizon.service.traces import TraceJob

BSLD_THRESHOLD_S: Final = 10
"""Jobs that ran shorter count as this long, or the shortest would be all that a mean slowdown shows."""


class Spread(Struct, frozen=True):
    """How values are spread; a percentile is the smallest value that so many are not above."""

    mean: float
    median: float
    p95: float
    p99: float
    max: float


class UserOutcome(Struct, frozen=True):
    """How a user fared."""

    account: str
    user: str
    jobs: int
    gpu_s: int
    """Device-seconds used."""
    mean_wait_s: float
    mean_bounded_slowdown: float
    progress: float
    """Of the device-seconds while their jobs waited or ran, those while they ran: 1 when none waited."""


class Fairness(Struct, frozen=True):
    """Whether some fared much worse than others."""

    index: float
    """Jain's index of the users' progress: 1 when all get on equally well, 1/n when one alone does. (Of their
    slowdowns it would say little: they have no bound, and one short job that waited long decides it.)"""
    users: list[UserOutcome]
    """Those that used most come first."""


class PlannedStarts(Struct, frozen=True):
    """How good the starts were that the core planned for blocked jobs: actual against first planned."""

    planned: int
    """Jobs that had a planned start."""
    in_time: int
    """Started within the very second."""
    early: int
    late: int
    mean_early_s: float
    mean_late_s: float
    mean_ahead_s: float
    """How long before the planned start it was planned."""


class Measures(Struct, frozen=True, kw_only=True):
    """What policies are compared by."""

    jobs: int
    """That ran."""
    wait_s: Spread
    bounded_slowdown: Spread
    utilisation: float
    """Device-seconds used of those there were."""
    fairness: Fairness


class Outcome(Measures, frozen=True, kw_only=True):
    """All of it; utilisation is that of the makespan."""

    too_large: list[str]
    """Jobs left out since the cluster can never hold them."""
    never_started: list[str]
    mean_completion_s: float
    """From submission to end."""
    makespan_s: int
    """From the first submission to the last end."""
    planned_starts: PlannedStarts


def outcome_of(simulation: Simulation, hardware: Hardware) -> Outcome:
    """The numbers of a simulation in which at least one job ran. O(jobs log jobs)."""
    ran = simulation.ran
    makespan_s = max(one.end_s for one in ran) - simulation.zero_s
    used_s = sum(one.job.gpus * one.job.run_s for one in ran)
    return Outcome(
        jobs=len(ran),
        too_large=_names(simulation.too_large),
        never_started=_names(simulation.left),
        wait_s=spread([one.wait_s for one in ran]),
        bounded_slowdown=spread([bounded_slowdown(one) for one in ran]),
        mean_completion_s=_mean([one.wait_s + one.job.run_s for one in ran]),
        makespan_s=makespan_s,
        utilisation=used_s / (makespan_s * hardware.gpus_total),
        fairness=_fairness(ran),
        planned_starts=_planned_starts(simulation.estimates),
    )


def bounded_slowdown(ran: Ran) -> float:
    """How many times longer than its run a job took from submission to end, at least 1."""
    run_s = ran.job.run_s
    return max(1.0, (ran.wait_s + run_s) / max(run_s, BSLD_THRESHOLD_S))


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    ordered = sorted(values)
    median, p95, p99 = (percentile(ordered, percent) for percent in (50, 95, 99))
    return Spread(_mean(ordered), median, p95, p99, ordered[-1])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of these ordered values that so many percent are not above."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: ``(sum x)^2 / (n * sum x^2)``."""
    squares = fsum(value * value for value in values)
    return fsum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if values else 0.0


def _names(jobs: Iterable[TraceJob]) -> list[str]:
    return [job.name for job in jobs]


def _fairness(ran: Iterable[Ran]) -> Fairness:
    by_user: dict[tuple[str, str], list[Ran]] = {}
    for one in ran:
        by_user.setdefault((one.job.account, one.job.user), []).append(one)
    users = [_user_outcome(account, user, theirs) for (account, user), theirs in by_user.items()]
    users.sort(key=lambda one: (-one.gpu_s, one.account, one.user))
    return Fairness(jain([one.progress for one in users]), users)


def _user_outcome(account: str, user: str, ran: Sequence[Ran]) -> UserOutcome:
    gpu_s = sum(one.job.gpus * one.job.run_s for one in ran)
    waited_s = sum(one.job.gpus * one.wait_s for one in ran)
    return UserOutcome(
        account,
        user,
        jobs=len(ran),
        gpu_s=gpu_s,
        mean_wait_s=_mean([one.wait_s for one in ran]),
        mean_bounded_slowdown=_mean([bounded_slowdown(one) for one in ran]),
        progress=gpu_s / (gpu_s + waited_s),
    )


def _planned_starts(estimates: Estimates) -> PlannedStarts:
    in_time = sum(estimates.early[:1])
    early, late = sum(estimates.early[1:]), sum(estimates.late)
    return PlannedStarts(
        estimates.total,
        in_time,
        early,
        late,
        mean_early_s=estimates.early_s / early if early else 0.0,
        mean_late_s=estimates.late_s / late if late else 0.0,
        mean_ahead_s=estimates.ahead_s / estimates.total if estimates.total else 0.0,
    )


# --- by size, and over time -----------------------------------------------------------------------------


class SizeClass(Struct, frozen=True):
    """Jobs of about one size."""

    least: int
    """The fewest devices that one of them asks for."""
    most: int
    waits_s: list[int]
    """In growing order."""

    @property
    def label(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}\N{EN DASH}{self.most}"


def by_size(ran: Iterable[Ran]) -> list[SizeClass]:
    """Jobs of 1, 2-3, 4-7, 8-15, ... devices; classes without jobs are left out."""
    classes: dict[int, list[Ran]] = {}
    for one in ran:
        classes.setdefault(one.job.gpus.bit_length(), []).append(one)
    return [_size_class(alike) for _, alike in sorted(classes.items())]


def _size_class(ran: Sequence[Ran]) -> SizeClass:
    sizes = [one.job.gpus for one in ran]
    return SizeClass(min(sizes), max(sizes), sorted(one.wait_s for one in ran))


class Timeline(Struct, frozen=True):
    """Means over equal spans of time, the first of which begins with the first submission."""

    span_s: int
    busy: list[float]
    """Devices in use."""
    waiting_jobs: list[float]
    waiting_gpus: list[float]
    """Devices that waiting jobs ask for."""


def timeline(simulation: Simulation, spans: int) -> Timeline:
    """The whole of a simulation in at most this many spans. Exact means. O(jobs + spans)."""
    ran, zero_s = simulation.ran, simulation.zero_s
    length_s = max(one.end_s for one in ran) - zero_s
    span_s = -(-length_s // spans)
    waits = [(one.job.submit_s - zero_s, one.start_s - zero_s, one.job.gpus) for one in ran]
    return Timeline(
        span_s,
        _means([(one.start_s - zero_s, one.end_s - zero_s, one.job.gpus) for one in ran], span_s, length_s),
        _means([(begin_s, end_s, 1) for begin_s, end_s, _ in waits], span_s, length_s),
        _means(waits, span_s, length_s),
    )


def _means(amounts: Iterable[tuple[int, int, int]], span_s: int, length_s: int) -> list[float]:
    """The mean of what is there in each span, given from when to when how much is there."""
    spans = -(-length_s // span_s)
    inside = [0] * (spans + 1)
    """Of those that begin or end within the span: amount x seconds."""
    steps = [0] * (spans + 1)
    """What more is there throughout the span than throughout the one before."""
    for begin_s, end_s, amount in amounts:
        first, last = begin_s // span_s, end_s // span_s
        if first == last:
            inside[first] += amount * (end_s - begin_s)
            continue
        inside[first] += amount * ((first + 1) * span_s - begin_s)
        inside[last] += amount * (end_s - last * span_s)
        steps[first + 1] += amount
        steps[last] -= amount
    means, throughout = [], 0
    for span in range(spans):
        throughout += steps[span]
        seconds = min(span_s, length_s - span * span_s)
        means.append(throughout + inside[span] / seconds)
    return means
