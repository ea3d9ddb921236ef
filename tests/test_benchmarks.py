"""The benchmarks run, small, so that they never rot. What they measure here is nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_benchmark_runs_and_has_a_row_in_the_table() -> None:
    # Without what would tell the pytest in there that it is a part of this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--small"],
        cwd=ROOT,
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for question in (
        "enqueue a job",
        "build a job: minimal",
        "fold the log",
        "cycle, all busy",
        "cycle after one GPU was freed",
        "cycle, conservative",
        "fill a cluster with jobs of a mix",
        "victims: found",
        "plan 1 GPU ahead",
        "plain Python",
        "keep a waiting job",
        "submit an array",
        "durable submit over HTTP",
        "end to end",
        "takeover from a killed leader",
        "read from a standby",
        "restart: load the snapshot",
    ):
        assert question in done.stdout, done.stdout
