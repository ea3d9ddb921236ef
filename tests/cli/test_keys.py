"""The key that signs the log, from the command line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from structlog.testing import capture_logs

from horizon import auditor
from horizon.cli.server import _warn_of_key
from horizon.service.keys import KeyFile
from horizon.store.note import SigningKey
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
    up.submit("--hold", "--", "true")
    export, proof = home / "log.jsonl", home / "proof.json"
    second = up.ok("keys", "rotate").strip()
    assert second != first
    up.stop()
    assert second not in (data / "checkpoints").read_text()

    # Until the next start the old one is in force: it is shown, and what is made now holds under it.
    shown = run(data, "keys")
    assert shown.stdout.strip() == first
    assert f"from the next start of Horizon on the log is signed with {second}" in shown.stderr
    assert run(data, "export", "--out", str(export)).returncode == 0
    assert run(data, "prove", "1", "--out", str(proof)).returncode == 0
    assert auditor.main([str(export), "--key", shown.stdout]) == 0
    assert auditor.main(["--proof", str(proof), "--key", shown.stdout]) == 0
    assert run(data, "verify", "--export", str(export)).returncode == 0
    start_up().stop()

    # Behind it the new one is; the public half of the old one stays, and is named to whoever needs it.
    assert run(data, "keys").stdout.strip() == second
    old = data / "keys" / f"signing-{first.split('+')[1]}.pub"
    assert old.read_text().strip() == first
    before = run(data, "verify", "--export", str(export))
    assert before.returncode == 1
    assert f"is signed with the key {first.split('+')[1]}, which no key given here" in before.stderr
    assert f"{old} is that key, which was in force before a rotation" in before.stderr
    assert run(data, "verify", "--export", str(export), "--key", str(old)).returncode == 0
    assert auditor.main(["--proof", str(proof), "--key", second]) == 1
    assert auditor.main(["--proof", str(proof), "--key", str(old)]) == 0
    named = (data / "checkpoints").read_text()
    assert named.count("horizon/") >= 5
    assert not (data / "keys" / "signing.old").exists()


def test_a_standby_is_content_with_either_key_of_a_rotation(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "signing.key")
    old = keys.key("horizon/00").public
    new = keys.rotate()
    with capture_logs() as said:
        for signing_key in ("", str(old), str(new)):
            _warn_of_key(keys, signing_key)
    assert said == []
    with capture_logs() as said:
        _warn_of_key(keys, str(SigningKey.new("horizon/00").public))
    assert len(said) == 1


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
