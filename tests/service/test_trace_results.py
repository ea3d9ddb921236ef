"""The simulator on real traces, against results that are known job by job.

The traces are no part of the project: HORIZON_TRACES names the folder they are in, else they are looked for
beside the checkout. Where they are not, these tests are skipped.
"""

from __future__ import annotations

import csv
import gzip
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from horizon.core import limits
from horizon.core.policy import Order, Policy
from horizon.service.outcomes import Outcome, outcome_of
from horizon.service.simulator import Hardware, Instants, Limits, simulate
from horizon.service.traces import Trace, TraceJob, load

ROOT = Path(__file__).parent.parent.parent
TRACES = Path(os.environ.get("HORIZON_TRACES") or ROOT.parent / "shared" / "traces")

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="the traces are not here")

SP2 = Hardware(1, 128, "CPU")
POOL = Hardware(1, 512)
"""All GPUs as one pool."""
DAY_S = 86_400
PREFIX = 6_000
"""Jobs of SP2 that are simulated whenever tests run; all of them are slow."""

STRICT = Policy(order=Order.FIFO, strict=True, reservation_depth=0, preemption=False)
EASY = Policy(order=Order.FIFO, reservation_depth=1, examined_max=limits.EXAMINED_MAX, preemption=False)


class Known(NamedTuple):
    """A policy whose results on SP2 are known."""

    column: str
    """Of the file with every job's wait."""
    policy: Policy
    limits: Limits
    instants: Instants
    mean_wait_s: float
    mean_bounded_slowdown: float
    makespan_s: int
    utilisation: float


KNOWN = (
    Known("wait_fcfs", STRICT, Limits.USER, Instants.BATCH, 1_535_707.3, 13_824.97, 68_412_579, 0.7596),
    Known("wait_easy_perfect", EASY, Limits.PERFECT, Instants.EACH, 17_330.03, 70.414, 63_022_769, 0.8245),
    Known("wait_easy_user_event", EASY, Limits.USER, Instants.EACH, 20_494.74, 87.825, 63_025_323, 0.8245),
    Known("wait_easy_user_batch", EASY, Limits.USER, Instants.BATCH, 20_567.86, 87.760, 63_025_323, 0.8245),
)
each_known = pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.column)


@cache
def sp2() -> Trace:
    return load(TRACES / "SDSC-SP2-1998-4.2-cln.swf.gz")


@cache
def philly() -> Trace:
    """Four weeks of it."""
    since, until = datetime(2017, 10, 3, tzinfo=UTC), datetime(2017, 10, 31, tzinfo=UTC)
    return load(TRACES / "philly-2017.csv.gz").part(int(since.timestamp()), int(until.timestamp()))


@cache
def waits() -> dict[str, dict[str, str]]:
    """Every job's wait on SP2, by job and by policy."""
    with gzip.open(TRACES / "SDSC-SP2-expected-waits.csv.gz", "rt") as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def waited(known: Known, jobs: tuple[TraceJob, ...]) -> tuple[dict[str, int], Outcome]:
    simulation = simulate(jobs, SP2, known.policy, known.limits, known.instants)
    assert not simulation.left
    return {one.job.name: one.wait_s for one in simulation.ran}, outcome_of(simulation, SP2)


@each_known
def test_the_first_jobs_of_sp2_wait_exactly_as_long_as_is_known(known: Known) -> None:
    """Those that start before the first job that is left out comes: what comes later can still be backfilled
    before jobs that wait, but changes nothing of what was before it."""
    jobs = sp2().jobs[:PREFIX]
    end_s = sp2().jobs[PREFIX].submit_s
    got, _ = waited(known, jobs)
    expected = {job.name: int(waits()[job.name][known.column]) for job in jobs}
    before = [job for job in jobs if job.submit_s + expected[job.name] < end_s]
    assert len(before) > 0.95 * PREFIX
    assert {job.name: got[job.name] for job in before} == {job.name: expected[job.name] for job in before}
    assert all(job.submit_s + got[job.name] >= end_s for job in set(jobs) - set(before))


@pytest.mark.slow
@each_known
def test_every_job_of_sp2_waits_exactly_as_long_as_is_known(known: Known) -> None:
    got, outcome = waited(known, sp2().jobs)
    wrong = {name: wait_s for name, wait_s in got.items() if wait_s != int(waits()[name][known.column])}
    assert len(got) == len(waits()) == 53_999
    assert not wrong
    assert outcome.wait_s.mean == pytest.approx(known.mean_wait_s, abs=0.05)
    assert outcome.bounded_slowdown.mean == pytest.approx(known.mean_bounded_slowdown, abs=0.005)
    assert outcome.makespan_s == known.makespan_s
    assert outcome.utilisation == pytest.approx(known.utilisation, abs=0.00005)


@pytest.mark.slow
def test_on_sp2_fair_shares_leave_nobody_waiting_for_a_month_thanks_to_patience() -> None:
    """Light users who come anew push the wide jobs of heavy ones back, again and again."""
    patient, impatient = (
        simulate(sp2().jobs, SP2, Policy(examined_max=limits.EXAMINED_MAX, patience_s=patience_s))
        for patience_s in (DAY_S, 0)
    )
    longest_s = max(one.wait_s for one in patient.ran)
    assert not patient.left
    assert longest_s < 7 * DAY_S
    assert sum(one.wait_s > 30 * DAY_S for one in impatient.ran) > 500
    one, other = (outcome_of(simulation, SP2) for simulation in (patient, impatient))
    assert one.wait_s.mean < other.wait_s.mean / 2
    assert one.utilisation > other.utilisation


@pytest.mark.slow
def test_philly_on_one_pool_in_strict_order() -> None:
    outcome = outcome_of(simulate(philly().jobs, POOL, STRICT), POOL)
    assert outcome.jobs == 45_098
    assert outcome.wait_s.mean == pytest.approx(43_425, abs=0.5)
    assert outcome.mean_completion_s == pytest.approx(53_936, abs=0.5)


@pytest.mark.slow
def test_philly_on_one_pool_with_easy_backfill() -> None:
    outcome = outcome_of(simulate(philly().jobs, POOL, EASY), POOL)
    assert outcome.wait_s.mean == pytest.approx(38_252, abs=0.5)
    assert outcome.bounded_slowdown.mean == pytest.approx(122.83, abs=0.005)


def test_without_users_estimates_the_true_run_times_stand_for_them() -> None:
    assert not philly().estimated
    assert all(job.estimate_s == job.run_s for job in philly().jobs)


@pytest.mark.slow
def test_nodes_of_eight_gpus_are_not_one_pool() -> None:
    """Gangs need whole nodes then: in strict order that costs more than the pool ever does."""
    nodes = Hardware(64, 8)
    jobs = philly().jobs[:10_000]
    spread, pooled = (outcome_of(simulate(jobs, one, STRICT), one) for one in (nodes, POOL))
    assert spread.jobs == pooled.jobs == len(jobs)
    assert spread.wait_s.mean > pooled.wait_s.mean
