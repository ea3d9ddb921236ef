"""What does it cost to keep a job that waits, and to take in a large array?

A process of its own decodes and folds submissions, as a starting scheduler does, and asks the system how much
it has grown. ``python -m benchmarks.bench_memory KIND JOBS`` is that process.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import psutil
import pytest

from benchmarks.measure import checksum, per_call, size
from benchmarks.worlds import START_US, USERS, World, job_id
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.decide import Given, decide
from horizon.core.model import Array, IndexRange, JobSpec, Priority

TASKS: Final = size(100_000, 500)
JOBS: Final = size(1_000_000, 2_000)
BEFORE: Final = 1_000
"""Jobs folded before the first look, so that what is there once is not counted."""


def minimal(number: int) -> JobSpec:
    account, user_id = USERS[number % len(USERS)]
    return JobSpec(user_id, "python train.py", account=account)


def usual(number: int) -> JobSpec:
    return msgspec.structs.replace(
        minimal(number),
        job_name=f"train-{number}",
        priority=Priority.HIGH,
        gpu_type="H100",
        cpu_cores=8,
        memory_mib=65_536,
        time_limit_s=3_600,
        working_dir="/home/alice/project",
        environment_names=("PATH", "HOME", "WANDB_API_KEY"),
        environment_digest=f"{number:064x}",
        labels={"team": "nlp"},
    )


def array(number: int) -> JobSpec:
    return msgspec.structs.replace(minimal(number), array=Array((IndexRange(0, TASKS - 1),)))


KINDS: Final = {"minimal": minimal, "usual": usual}


def payloads(kind: str, numbers: range) -> Iterator[bytes]:
    for number in numbers:
        spec = KINDS[kind](number)
        yield ev.encode(ev.JobSubmitted(job_id=job_id(number), number=number, spec=spec))


def grown(kind: str, jobs: int) -> dict[str, float]:
    """Bytes that the process holds more for each of so many jobs, or tasks, and the seconds it took."""
    world, process = World(1), psutil.Process()
    world.fold(ev.decode(payload) for payload in payloads("minimal", range(1, BEFORE + 1)))
    gc.collect()
    before, began = process.memory_info().rss, time.perf_counter()
    if kind == "array":
        number = BEFORE + 1
        world.fold([ev.JobSubmitted(job_id=job_id(number), number=number, spec=array(number))])
        jobs = TASKS
    else:
        world.fold(ev.decode(payload) for payload in payloads(kind, range(BEFORE + 1, BEFORE + 1 + jobs)))
    seconds = time.perf_counter() - began
    gc.collect()
    return {"bytes": (process.memory_info().rss - before) / jobs, "seconds": seconds, "jobs": jobs}


@pytest.mark.parametrize("kind", [*KINDS, "array"])
def test_memory_of_waiting_jobs(benchmark: Any, kind: str) -> None:
    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.bench_memory", kind, str(JOBS)]
        return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))

    found = benchmark.pedantic(run, rounds=1, iterations=1)
    jobs = int(found["jobs"])
    benchmark.extra_info.update(
        question=f"keep a waiting job: {kind}",
        input=f"{jobs:,} {'tasks of one array' if kind == 'array' else 'decoded and folded'}",
        per_op_ns=found["seconds"] / jobs * 1e9,
        result=f"{found['bytes']:,.0f} bytes each",
    )


def test_submit_an_array(benchmark: Any) -> None:
    worlds: list[World] = []

    def build() -> None:
        worlds[:] = [World(1)]

    def submit() -> int:
        [world] = worlds
        submission = cmd.Submit(job_id(1), array(1))
        world.fold(decide(world.state, submission, Given("bench", START_US, 1)))
        return len(world.state.queue)

    input = f"decide and fold, {TASKS:,} tasks"
    per_call(benchmark, submit, 1, question="submit an array", input=input, rounds=5, setup=build)
    benchmark.extra_info["result"] = checksum(worlds[0].state.queue.order(100, START_US))


if __name__ == "__main__":
    print(json.dumps(grown(sys.argv[1], int(sys.argv[2]))))
