"""What does it cost to build a job?"""

from __future__ import annotations

from typing import Any

from benchmarks.measure import per_call, size
from horizon.core.model import JobSpec, Priority
from horizon.service.clock import Ids, SystemClock

JOBS = size(200_000, 2_000)
LABELS = {"team": "nlp"}


def test_build_minimal(benchmark: Any) -> None:
    def build() -> JobSpec:
        for _ in range(JOBS):
            job = JobSpec("alice", "true", 1)
        return job

    per_call(benchmark, build, JOBS, question="build a job: minimal", input=f"{JOBS:,} jobs of 3 fields")


def test_build_full(benchmark: Any) -> None:
    def build() -> JobSpec:
        for _ in range(JOBS):
            job = JobSpec(
                "alice", "python train.py", 4, Priority.HIGH, "research/nlp", "train", "H100", 81_920, 32,
                262_144, 2, False, 3_600, 120, 3, True, False, 0, LABELS, LABELS, "comment",
                "/home/alice", ("A", "B"), "digest", "digest",
            )  # fmt: skip
        return job

    per_call(benchmark, build, JOBS, question="build a job: all fields", input=f"{JOBS:,} jobs of 25 fields")


def test_make_an_id(benchmark: Any) -> None:
    ids = Ids(SystemClock())

    def make() -> int:
        return sum(len(ids.new_text()) for _ in range(JOBS))

    per_call(benchmark, make, JOBS, question="make a job id (UUIDv7 as text)", input=f"{JOBS:,} ids")
