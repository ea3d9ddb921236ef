"""How fast is a trace run through the scheduler, or the log once more?"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import FULL, per_call, size
from horizon.core import limits
from horizon.core.policy import Order, Policy
from horizon.service.course import course_of
from horizon.service.simulator import Hardware, simulate
from horizon.service.supposition import Supposition
from horizon.service.traces import TraceJob, load
from horizon.service.whatif import what_if

ROOT = Path(__file__).parent.parent
SP2 = (
    Path(os.environ.get("HORIZON_TRACES") or ROOT.parent / "shared" / "traces")
    / "SDSC-SP2-1998-4.2-cln.swf.gz"
)
"""A log of two years of a real machine, 53,999 jobs of which can be simulated."""
EASY = Policy(order=Order.FIFO, reservation_depth=1, examined_max=limits.EXAMINED_MAX, preemption=False)
JOBS = size(50_000, 300)
SEED = 1998


def trace(jobs: int) -> tuple[TraceJob, ...]:
    """Jobs of a hundred users who ask for three times what they need; the cluster is about 80 % full."""
    chance = random.Random(SEED)
    submit_s, made = 0, []
    for number in range(jobs):
        submit_s += chance.randrange(2_000)
        gpus = 1 << chance.choice((0, 0, 0, 1, 2, 3, 3, 4, 5, 6))
        run_s = chance.choice((60, 600, 3_600, 3_600, 14_400, 14_400))
        run_s = chance.randrange(run_s // 2, 2 * run_s)
        user = chance.randrange(100)
        owner = (f"user-{user}", f"group-{user % 10}")
        made.append(TraceJob(str(number), submit_s, run_s, gpus, 3 * run_s, *owner))
    return tuple(made)


def run(
    benchmark: Any, question: str, jobs: tuple[TraceJob, ...], what: str, hardware: Hardware, policy: Policy
) -> None:
    def simulated() -> list[int]:
        return [one.start_s for one in simulate(jobs, hardware, policy).ran]

    what = f"{len(jobs):,} {what}, {hardware.nodes} x {hardware.gpus_per_node} GPUs"
    per_call(benchmark, simulated, len(jobs), question=question, input=what, rounds=2)


def test_easy_backfill(benchmark: Any) -> None:
    run(benchmark, "simulate a job: fifo, easy", trace(JOBS), "jobs", Hardware(1, 128), EASY)


def test_fair_order_with_many_reservations(benchmark: Any) -> None:
    run(benchmark, "simulate a job: fair, 16 reservations", trace(JOBS), "jobs", Hardware(16, 8), Policy())


@pytest.mark.skipif(not (FULL and SP2.exists()), reason="needs full sizes and the log")
def test_a_real_log(benchmark: Any) -> None:
    run(benchmark, "simulate a job: fifo, easy", load(SP2).jobs, "of SDSC-SP2", Hardware(1, 128), EASY)


@pytest.mark.parametrize("what", ["as recorded", "another order"])
def test_the_log_once_more(benchmark: Any, what: str) -> None:
    """The cost is that of the cycles: 24 GPUs, of which four in five are busy."""
    from tests.service.history import History  # the same histories that the tests use

    log = History(SEED, size(3_000, 30), Policy(min_runtime_s=0), nodes=6).run().log
    recorded = course_of(log)
    supposition = Supposition({"order": Order.FIFO} if what == "another order" else {})

    def once_more() -> int:
        return what_if(log, recorded, supposition).cycles

    question, shown = f"an event of the log once more: {what}", f"{len(log):,} events"
    per_call(benchmark, once_more, len(log), question=question, input=shown, rounds=2)
