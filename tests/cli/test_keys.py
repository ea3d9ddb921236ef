"""The key that signs the log, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.house import Up, run


def test_a_key_is_made_at_the_first_start_and_can_be_rotated(start_up: Callable[..., Up], home: Path) -> None:
    data = home / "data"
    nothing = run(data, "keys")
    assert (nothing.returncode, nothing.stdout) == (4, "")
    assert "`horizon up` makes one" in nothing.stderr
    up = start_up()
    first = up.ok("keys").strip()
    assert first.startswith("horizon/")
    assert first == (data / "keys" / "signing.pub").read_text().strip()
    second = up.ok("keys", "rotate").strip()
    assert second != first
    assert up.ok("keys").strip() == second
    up.stop()
    assert second not in (data / "checkpoints").read_text()
    start_up().stop()
    named = (data / "checkpoints").read_text()
    assert named.count("horizon/") >= 5
    assert not (data / "keys" / "signing.old").exists()


def test_a_data_directory_with_another_database_is_refused(start_up: Callable[..., Up], home: Path) -> None:
    """An older copy of the embedded database: what was signed since then is gone, and that is said."""
    up = start_up()
    up.stop()
    postgres, older = home / "data" / "postgres", home / "older"
    postgres.rename(older)
    refused = run(home / "data", "up", "--port", "0", "--simulate-gpus", "1xH100")
    assert refused.returncode == 1
    assert "signs for the log horizon/" in refused.stderr
