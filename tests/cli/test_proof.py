"""Export and verification from the command line, with and without a running Horizon."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from horizon import auditor
from horizon.service.notefile import NoteFile
from tests.cli.house import HORIZON, Up, environment, run


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


def test_an_export_that_fails_leaves_the_one_that_was_there(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    up.until(up.submit("--", "true"), "Completed")
    good = home / "good" / "log.jsonl.gz"
    good.parent.mkdir()
    up.ok("export", "--out", str(good))
    good.chmod(0o600)
    kept = good.read_bytes()
    unreachable = {"DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
    nothing: dict[str, str] = {}
    for code, arguments, env in (
        (2, ["--from", "9999"], nothing),
        (1, [], unreachable),
    ):
        done = up.run("export", *arguments, "--out", str(good), **env)
        assert done.returncode == code, done.stderr
        assert good.read_bytes() == kept, arguments
    no_room = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *HORIZON, "export", "--out", str(good)]
    done = subprocess.run(no_room, capture_output=True, text=True, env=environment(home / "data"))
    assert done.returncode == 1
    assert f"{good} cannot be written: File too large" in done.stderr
    assert good.read_bytes() == kept
    done = run(home / "data", "prove", "99", "--out", str(good))
    assert done.returncode == 4
    assert good.read_bytes() == kept
    assert [one.name for one in good.parent.iterdir()] == [good.name], "nothing is left beside it"
    link = home / "link.jsonl.gz"
    link.symlink_to(good)
    up.ok("export", "--to", "3", "--out", str(link))
    assert gzip.decompress(good.read_bytes()).splitlines()[-1] == b'{"end":true,"events":3}'
    assert (link.is_symlink(), good.stat().st_mode & 0o777) == (True, 0o600)
    up.ok("export", "--out", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_without_a_database_there_is_nothing_to_export(home: Path) -> None:
    done = run(home / "data", "export")
    assert done.returncode == 4
    assert "there is no database in" in done.stderr


def test_the_log_is_verified_while_horizon_runs_and_after(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    up.until(up.submit("--", "true"), "Completed")
    running = up.ok("verify", "--decisions")
    assert running.startswith("the log horizon/")
    assert "under 1 key" in running
    assert "decisions 1 cycle run again, all of them as recorded" in running
    up.ok("export", "--out", str(home / "log.jsonl"))
    exported = up.ok("verify", "--decisions", "--export", str(home / "log.jsonl"))
    assert "are linked and not signed" in exported
    assert "decisions 1 cycle run again, all of them as recorded" in exported
    up.ok("export", "--from", "2", "--out", str(home / "part.jsonl"))
    part = up.run("verify", "--decisions", "--export", str(home / "part.jsonl"))
    assert part.returncode == 2
    assert "begins at 2: a fold begins at 1" in part.stderr
    up.ok("keys", "rotate")
    assert "under 1 key" in up.ok("verify"), "the log does not know the new key yet"
    up.stop()
    up = start_up()
    up.stop()
    done = run(home / "data", "verify")
    assert done.returncode == 0, done.stderr
    assert "  unsigned  0 events behind that are linked only" in done.stdout
    assert "under 2 keys" in done.stdout
    (home / "data" / "checkpoints").write_text("nonsense\n")
    kept = run(home / "data", "verify", "--key", "nonsense")
    assert kept.returncode == 2
    lines = (home / "log.jsonl").read_text().replace('"actor":"owner"', '"actor":"mallory"', 1)
    (home / "log.jsonl").write_text(lines)
    done = run(home / "data", "verify", "--export", str(home / "log.jsonl"))
    assert done.returncode == 1
    assert "NOT PROVEN: position " in done.stderr


def test_an_export_that_ends_between_checkpoints_says_where_the_next_one_is(
    start_up: Callable[..., Up], home: Path
) -> None:
    up = start_up()
    for _ in range(3):
        up.submit("--hold", "--", "true")
    up.stop()
    sizes = [int(note.split("\n")[1]) for note in NoteFile(home / "data" / "checkpoints").notes()]
    last, out = sizes[-1], str(home / "part.jsonl")
    between = run(home / "data", "export", "--from", str(last - 1), "--to", str(last - 1), "--out", out)
    assert between.returncode == 0
    assert f"can prove nothing of it: --to {last} takes it to the next one" in between.stderr
    assert "NOT PROVEN" in run(home / "data", "verify", "--export", out).stderr
    from_the_first = run(home / "data", "export", "--to", str(last - 1), "--out", out)
    assert f"can prove only up to {sizes[-2]}: --to {last}" in from_the_first.stderr
    to_it = run(home / "data", "export", "--from", str(last - 1), "--to", str(last), "--out", out)
    assert (to_it.returncode, to_it.stderr) == (0, "")
    assert run(home / "data", "verify", "--export", out).returncode == 0


def test_a_log_is_held_to_the_checkpoints_that_somebody_kept(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    kept, nothing, forged = (home / name for name in ("kept.txt", "nothing.txt", "forged.txt"))
    up.submit("--hold", "--", "true")
    up.stop()
    [first, *_, last] = NoteFile(home / "data" / "checkpoints").notes()
    kept.write_text(first + last)
    done = run(home / "data", "verify", "--checkpoint", str(kept))
    assert done.returncode == 0, done.stderr
    assert ", 2 kept elsewhere, under 1 key" in done.stdout
    done = run(home / "data", "verify", "--decisions")
    assert "decisions none was run again: there is no cycle of this code in the log" in done.stdout
    nowhere = run(home / "data", "verify", "--export", str(home / "nowhere"))
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert nowhere.stderr == f"horizon: {home / 'nowhere'} cannot be read: No such file or directory\n"
    nothing.write_text("garbage\n")
    body, signature = first.split("\n\n")
    lines = body.split("\n")
    forged.write_text("\n".join([*lines[:2], lines[3], lines[3]]) + "\n\n" + signature)
    for file, code, words in (
        (home / "nowhere", 2, f"horizon: {home / 'nowhere'} cannot be read: No such file"),
        (nothing, 2, "checkpoint 1 in"),
        (forged, 1, f"in {forged}: the signature of"),
    ):
        refused = run(home / "data", "verify", "--checkpoint", str(file))
        assert (refused.returncode, refused.stdout) == (code, ""), file
        assert words in refused.stderr


def test_a_job_and_a_task_are_proven(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    up.until(up.submit("--array", "0-4:2", "--", "true"), "Completed")
    up.stop()
    proof = home / "proof.json"
    check = [sys.executable, auditor.__file__, "--proof", str(proof), "--key"]
    key = (home / "data" / "keys" / "signing.pub").read_text().strip()
    for job, events in (("1", 1), ("1_2", 5), ("3", 5)):
        done = run(home / "data", "prove", job, "--out", str(proof))
        assert (done.returncode, done.stderr) == (0, "")
        proven = subprocess.run([*check, key], capture_output=True, text=True)
        assert (proven.returncode, proven.stderr) == (0, "")
        assert f"these {events} events are in horizon/" in proven.stdout
    task = json.loads(proof.read_bytes())["streams"][0].removeprefix("job/")
    assert json.loads(run(home / "data", "prove", task).stdout)["job"] == task
    assert run(home / "data", "prove", "1_1").returncode == 4
