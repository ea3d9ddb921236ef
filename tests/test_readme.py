"""The README tells the truth: its commands run, its lists are complete."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NAMED_PATHS = sorted(set(re.findall(r"`((?:horizon|migrations|benchmarks|tests)/[\w/.]+)`", README)))
PATIENCE_S = 60.0


def console_commands() -> list[str]:
    """Every line after a ``$`` in the console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_commands_of_the_tour_run_in_their_order(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HORIZON_DATA_DIR": str(tmp_path / "data"),
        "HORIZON_URL": "",
        "HORIZON_TOKEN": "",
        "DATABASE_URL": "",
    }
    for name in ("HORIZON_URL", "HORIZON_TOKEN", "DATABASE_URL"):
        del environment[name]
    server: subprocess.Popen[bytes] | None = None
    commands = console_commands()
    assert len(commands) >= 10
    try:
        for command in commands:
            if command.startswith("horizon up"):
                server = subprocess.Popen(
                    [*command.rstrip(" &").split(), "--port", "0"], env=environment, cwd=tmp_path
                )
                _wait_for(tmp_path / "data" / "endpoint.json")
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_command_is_in_the_reference() -> None:
    from horizon.cli.main import COMMANDS

    missing = [name for name in COMMANDS if f"`{name}`" not in README and f"horizon {name}" not in README]
    assert not missing


def test_every_verb_of_the_makefile_that_the_readme_names_is_there() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert named <= verbs


@pytest.mark.parametrize("path", NAMED_PATHS)
def test_every_path_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()
