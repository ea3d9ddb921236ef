from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from horizon.executors import local
from horizon.executors.health import FileHealth
from tests.executors.box import LOOKS_EVERY_S, Box


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an executor looks at every second or two, to find what nobody told it, it looks at more often."""
    monkeypatch.setattr(local, "ROUND_S", LOOKS_EVERY_S)
    monkeypatch.setattr(FileHealth, "every_s", LOOKS_EVERY_S)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path)
    await box.open()
    yield box
    await box.close()
