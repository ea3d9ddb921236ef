"""``horizon demo`` is the first thing a newcomer runs."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.house import HORIZON, environment, run


@pytest.mark.slow
def test_the_demo_holds(home: Path) -> None:
    began = time.monotonic()
    done = run(home, "demo", TMPDIR=str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 45, "the demo is meant to take some ten seconds"
    for expected in (
        "alice",
        "bob",
        "carol",
        "GPU-SECONDS",
        "exit code 3",
        "cancelled",
        "to the bit",
        "node-2",
        "filled a gap on node-",
        "others made way for it on node-",
        "preempted by job 7 of carol (Urgent) and went back to its place",
        "planned on node-1 and node-2",
    ):
        assert expected in done.stdout
    assert done.stderr == ""
    assert list(home.glob("horizon-*")) == []


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing_behind(home: Path) -> None:
    process = subprocess.Popen(
        [*HORIZON, "demo"],
        env=environment(home, TMPDIR=str(home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Running" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(home.glob("horizon-*")) == []
    assert not [one for one in psutil.process_iter() if str(home) in " ".join(_command_line(one))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        line: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return line
