"""One ``horizon up`` for the commands of a module; the bad days start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.house import Up, fresh_directory


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with fresh_directory() as home:
        running = Up(home / "data", "--simulate-gpus", "8xH100")
        yield running
        running.clear()


@pytest.fixture
def home() -> Iterator[Path]:
    with fresh_directory() as directory:
        yield directory


@pytest.fixture
def start_up(home: Path) -> Iterator[Callable[..., Up]]:
    """Starts ``horizon up`` on the test's own data directory, as often as the test wants."""
    started: list[Up] = []

    def start(*arguments: str, **env: str) -> Up:
        up = Up(home / "data", *(arguments or ("--simulate-gpus", "8xH100")), **env)
        started.append(up)
        return up

    yield start
    for up in started:
        up.clear()
