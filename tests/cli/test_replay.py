"""The past from the command line: folded from the database or an export, whether Horizon runs or not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.cli.house import Up, run


def test_the_system_as_it_was_is_the_same_for_whoever_folds_the_log(
    start_up: Callable[..., Up], home: Path
) -> None:
    up = start_up()
    first = up.submit("--gpus", "8", "--name", "first", "--", "sleep", "60")
    up.until(first, "Running")
    up.ok("shares", "set", "--account", "research", "3", "--max-gpus", "6")
    up.submit("--gpus", "2", "--user", "bob", "--account", "research", "--", "true")
    up.ok("policy", "set", "order=fifo")
    then = up.look("/state")
    position = str(then["position"])
    up.ok("cancel", first)
    up.until("2", "Completed")
    told = up.look(f"/state?at={position}")
    assert json.loads(up.ok("replay", "--until", position, "--json")) == told
    assert json.loads(up.ok("replay", "--until", then["at"], "--json")) == then | {"digest": told["digest"]}
    shown = up.ok("replay", "--until", position)
    for words in (
        f"position {position}, ", 'policy  version 2, order="fifo"', "jobs    1 Queued, 1 Running",
        "queue   1 waiting, 0 held back", told["digest"], "node-1  up", "0/8", "at most 6",
    ):  # fmt: skip
        assert words in shown
    up.ok("export", "--out", str(home / "log.jsonl.gz"))
    up.ok("export", "--from", "2", "--out", str(home / "part.jsonl"))
    up.stop()

    exported = run(
        home / "data", "replay", "--export", str(home / "log.jsonl.gz"), "--until", position, "--json"
    )
    assert json.loads(exported.stdout) == told
    end = json.loads(run(home / "data", "replay", "--json").stdout)
    assert end["position"] > told["position"]
    assert (end["holding"], end["waiting"]) == ([], [])

    today = datetime.now().astimezone().date().isoformat()
    of_today = json.loads(run(home / "data", "replay", "--until", today, "--json").stdout)
    assert of_today["position"] == end["position"], "of a day all of it"

    done = run(home / "data", "replay", "--diff", position, str(end["position"]))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"from position {position}, ")
    assert lines[1].endswith(end["digest"])
    (moved,) = [line for line in lines if line.startswith("  job 1 of ")]
    assert " (first): state from Running to Cancelled, " in moved
    other_way = run(home / "data", "replay", "--diff", str(end["position"]), position, "--json")
    difference = json.loads(other_way.stdout)
    assert (difference["from"]["digest"], difference["to"]["digest"]) == (told["digest"], end["digest"])
    changed = {(one["subject"], one["name"]): one for one in difference["changes"]}
    assert changed["job", "2"]["fields"]["state"] == ["Queued", "Completed"]
    assert [f"  {one['sentence']}" for one in difference["changes"]] == lines[2:]

    for_what_cannot_be_replayed_the_reason_is_said(home)


def for_what_cannot_be_replayed_the_reason_is_said(home: Path) -> None:
    exported = gzip.decompress((home / "log.jsonl.gz").read_bytes()).decode()
    lines = exported.replace('"actor":"owner"', '"actor":"mallory"', 1)
    (home / "changed.jsonl").write_text(lines)
    for code, words, arguments in (
        (2, "the log has positions 1 to ", ["--until", "100000"]),
        (2, "is no position of the log, which are from 1 on", ["--until", "-1"]),
        (2, "--until and --diff exclude each other", ["--until", "1", "--diff", "1", "2"]),
        (2, "begins at 2: a fold begins at 1", ["--export", str(home / "part.jsonl")]),
        (1, "the log cannot be folded: position ", ["--export", str(home / "changed.jsonl")]),
        (1, "missing.jsonl cannot be read", ["--export", str(home / "missing.jsonl")]),
    ):
        done = run(home / "data", "replay", *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr


def test_a_replay_begins_at_the_nearest_snapshot_and_says_so(start_up: Callable[..., Up], home: Path) -> None:
    up = start_up()
    for _ in range(3):
        up.until(up.submit("--", "true"), "Completed")
    early = str(up.look("/state")["position"])
    up.until(up.submit("--", "true"), "Completed")
    up.stop()
    said = run(home / "data", "snapshot").stdout
    kept = int(said.split(" as of ")[1].split()[0].replace(",", ""))
    up = start_up()
    waiting = up.submit("--hold", "--", "true")
    at = up.look("/state")
    up.ok("cancel", waiting)
    up.stop()
    from_there = f"from the snapshot as of {kept:,} on"
    for arguments, begins in (
        (["--until", str(at["position"])], from_there),
        (["--until", at["at"]], from_there),
        (["--until", str(kept)], from_there),
        ([], from_there),
        (["--until", early], "from the first event on"),
        (["--diff", str(at["position"]), str(kept)], from_there),
        (["--diff", str(at["position"]), early], "from the first event on"),
    ):
        found, whole = (
            run(home / "data", "replay", *arguments, *more, "--json") for more in ([], ["--from-zero"])
        )
        assert found.returncode == 0, found.stderr
        assert begins in found.stderr
        assert "from the first event on, each one checked" in whole.stderr
        assert json.loads(found.stdout) == json.loads(whole.stdout), "the digest, too, is the same"
    assert from_there in run(home / "data", "replay").stdout
    run(home / "data", "export", "--out", str(home / "log.jsonl"))
    exported = run(home / "data", "replay", "--export", str(home / "log.jsonl")).stdout
    assert "from the first event on" in exported
    (snapshot,) = (home / "data" / "snapshots").glob("*.snapshot")
    snapshot.write_bytes(b"rubbish")
    done = run(home / "data", "replay", "--json")
    assert "a snapshot is not used" in done.stderr
    assert json.loads(done.stdout)["position"] > kept
