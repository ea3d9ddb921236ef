"""How a number is taken and what travels with it: its input, a hash of its result, the machine."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FULL = os.environ.get("HORIZON_BENCH_FULL") == "1"
"""Whether to use the full sizes; the small ones keep the benchmarks from rotting in the test suite."""


def size(full: int, small: int) -> int:
    return full if FULL else small


def machine() -> str:
    """One line on what the numbers were taken on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = models[0] if models else model
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {system}"


def checksum(result: Any) -> str:
    """A short hash of what was computed, so that nobody gets faster by computing something else."""
    return hashlib.sha256(repr(result).encode()).hexdigest()[:12]


def per_call(
    benchmark: Any,
    call: Callable[[], Any],
    operations: int,
    *,
    question: str,
    input: str,
    rounds: int = 5,
    setup: Callable[[], Any] | None = None,
) -> None:
    """Time ``call``, which does ``operations`` operations; the best round counts, as noise only ever adds."""
    result = None

    def timed() -> None:
        nonlocal result
        result = call()

    gc.collect()
    gc.disable()
    try:
        benchmark.pedantic(timed, setup=setup, rounds=rounds, iterations=1, warmup_rounds=1)
    finally:
        gc.enable()
    note(benchmark, question, input, operations, result)


def note(benchmark: Any, question: str, input: str, operations: int, result: Any) -> None:
    """Put beside the timing what the table needs."""
    best = benchmark.stats.stats.min if benchmark.stats else 0.0
    benchmark.extra_info.update(
        question=question, input=input, per_op_ns=best / operations * 1e9, result=checksum(result)
    )


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e3,
    }


def note_service(
    benchmark: Any,
    question: str,
    input: str,
    seconds: float,
    operations: int,
    latencies: list[float] | None = None,
) -> None:
    """The same for a run against a whole service: throughput, and latencies where they were taken."""
    benchmark.extra_info.update(
        question=question, input=input, per_op_ns=seconds / operations * 1e9, per_s=operations / seconds
    )
    if latencies:
        benchmark.extra_info.update(percentiles(latencies))


def timer() -> Callable[[], float]:
    """Seconds since it was made."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began
