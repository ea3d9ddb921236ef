"""The key that signs the log, from the command line."""

from __future__ import annotations

import shutil
import subprocess
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


def test_an_older_backup_is_not_led(start_up: Callable[..., Up], home: Path) -> None:
    """What was signed since then is gone, and that is said, rather than to go on from there."""
    up = start_up()
    up.submit("--hold", "--", "true")
    up.stop()
    postgres, older = home / "data" / "postgres", home / "older"
    subprocess.run(["cp", "-a", postgres, older], check=True)
    up = start_up()
    up.submit("--hold", "--", "true")
    up.stop()
    signed = (home / "data" / "checkpoints").read_text().split("\n\n")[-3].split("\n")[1]
    shutil.rmtree(postgres)
    older.rename(postgres)
    refused = run(home / "data", "up", "--port", "0", "--simulate-gpus", "8xH100")
    assert refused.returncode == 1
    assert f"events up to {signed} were signed, the log ends at" in refused.stderr
    assert "an older backup was restored" in refused.stderr
    found = run(home / "data", "verify")
    assert found.returncode == 1
    assert f"events up to {signed} were signed" in found.stderr


def test_another_database_is_not_led_and_a_key_may_be_elsewhere(
    start_up: Callable[..., Up], home: Path
) -> None:
    elsewhere = home / "elsewhere.key"
    up = start_up(HORIZON_SIGNING_KEY=str(elsewhere))
    assert up.ok("keys", HORIZON_SIGNING_KEY=str(elsewhere)) == (home / "elsewhere.pub").read_text()
    assert not (home / "data" / "keys").exists()
    up.stop()
    shutil.rmtree(home / "data" / "postgres")
    arguments = ("up", "--port", "0", "--simulate-gpus", "1xH100")
    refused = run(home / "data", *arguments, HORIZON_SIGNING_KEY=str(elsewhere))
    assert refused.returncode == 1
    assert "signs for the log horizon/" in refused.stderr
    refused = run(home / "data", *arguments)
    assert refused.returncode == 1
    assert "it is another database than before" in refused.stderr
