"""Export and verification from the command line, with and without a running Horizon."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from horizon import auditor
from tests.cli.house import Up, run


def test_an_export_is_proven_by_the_auditor_alone(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    job = up.submit("--", "true")
    up.until(job, "Completed")
    running = up.ok("export").splitlines()
    assert json.loads(running[0])["horizon_export"] == 1
    assert json.loads(running[-1]) == {"end": True, "events": json.loads(running[0])["to"]}
    key = up.ok("keys").strip()
    up.stop()
    out = home / "log.jsonl.gz"
    done = run(home / "data", "export", "--out", str(out))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = gzip.decompress(out.read_bytes()).splitlines()
    assert len(lines) > len(running)
    check = [sys.executable, auditor.__file__, str(out), "--key", key]
    kept = ["--checkpoint", str(home / "data" / "checkpoints")]
    proven = subprocess.run([*check, *kept], capture_output=True, text=True)
    assert (proven.returncode, proven.stderr) == (0, "")
    assert "0 events behind it are linked and not signed" in proven.stdout
    refused = run(home / "data", "export", "--from", "100000")
    assert refused.returncode == 2
    assert "the log has the events 1 to" in refused.stderr
    assert not (home / "data" / "postgres" / "postmaster.pid").exists(), "it stops what it started"


def test_without_a_database_there_is_nothing_to_export(home: Path) -> None:
    done = run(home / "data", "export")
    assert done.returncode == 4
    assert "there is no database in" in done.stderr
