"""The verifier that does not trust Horizon: on the published vectors, on changed exports, on random lives."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from horizon import auditor
from horizon.core import events as ev
from horizon.store.export import event_line
from horizon.store.note import Checkpoint, signed
from tests.core.worlds import live
from tests.vectors import make

VECTORS = json.loads((make.HERE / "vectors.json").read_bytes())
GOOD = make.HERE / "good.jsonl"
KEY = str(make.FIRST.public)
ORIGIN = make.FIRST.public.name
KEPT = list(make.notes(make.history(), make.SIGNED).values())


def arguments(vector: dict[str, Any]) -> list[str]:
    keys = [f"--key={key}" for key in vector["keys"]]
    kept = [f"--checkpoint={make.HERE / kept}" for kept in vector["kept"]]
    if "proof" in vector:
        return ["--proof", str(make.HERE / vector["proof"]), *keys]
    return [str(make.HERE / vector["export"]), *keys, *kept]


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: Path(vector.get("export") or vector["proof"]).stem
)
def test_a_vector_is_judged_as_it_says(vector: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code = auditor.main(arguments(vector))
    said = capsys.readouterr()
    if vector["holds"]:
        assert (code, said.err) == (0, "")
        assert ("1 events behind it are linked and not signed" in said.out) is ("export" in vector)
    else:
        assert code == 1
        assert f"position {vector['position']}: " in said.err


def test_the_vectors_are_what_they_always_were() -> None:
    made = make.files()
    assert {path.name for path in make.HERE.iterdir() if path.suffix not in (".py", "")} == made.keys()
    for name, data in made.items():
        assert (make.HERE / name).read_bytes() == data, name


def test_it_knows_what_is_written_today() -> None:
    assert auditor.VERSIONS == ev.SCHEMA_VERSIONS


def test_it_runs_alone(tmp_path: Path) -> None:
    """A copy of the file, in a process that cannot see Horizon."""
    (tmp_path / "auditor.py").write_text(Path(auditor.__file__).read_text())
    run = [sys.executable, "-I", "auditor.py", str(GOOD)]
    done = subprocess.run([*run, "--key", KEY], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "key.pub").write_text(KEY + "\n")
    assert subprocess.run([*run, "--key", "key.pub"], cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "asked",
    [[], [str(GOOD)], ["--key", KEY], [str(GOOD), "--key", "nonsense"], ["/nowhere", "--key", KEY],
     [str(GOOD), "--proof", str(GOOD), "--key", KEY],
     ["--proof", str(make.HERE / "proof.json"), "--key", KEY, "--checkpoint", str(make.HERE / "kept.txt")],
     [str(GOOD), "--key", KEY, "--checkpoint", "/nowhere"]],
)  # fmt: skip
def test_asked_wrongly_it_says_so(asked: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        auditor.main(asked)
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["packed.jsonl", "plain.jsonl.gz"])
def test_what_is_gzipped_is_known_by_its_bytes(tmp_path: Path, name: str) -> None:
    data = GOOD.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name == "packed.jsonl" else data)
    assert auditor.main([str(tmp_path / name), "--key", KEY]) == 0


@pytest.mark.parametrize("text", ["", "garbage", "{note}garbage\n", "{cut}", "{note}{cut}"])
def test_a_file_of_kept_checkpoints_is_refused_unless_it_is_one(tmp_path: Path, text: str) -> None:
    note = KEPT[0]
    (tmp_path / "kept.txt").write_text(text.format(note=note, cut=note[:-1]))
    with pytest.raises(SystemExit) as ended:
        auditor.main([str(GOOD), "--key", KEY, "--checkpoint", str(tmp_path / "kept.txt")])
    assert ended.value.code == 2


@pytest.mark.parametrize("between", ["", "\n"])
def test_kept_checkpoints_are_read_one_behind_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], between: str
) -> None:
    (tmp_path / "kept.txt").write_text(between.join(KEPT))
    asked = ["--key", KEY, "--checkpoint", str(tmp_path / "kept.txt")]
    assert auditor.main([str(GOOD), *asked]) == 0
    assert "8 checkpoints hold, 4 of them kept elsewhere;" in capsys.readouterr().out
    assert auditor.main([str(make.HERE / "rewritten-unsigned.jsonl"), *asked]) == 1
    assert "position 12: " in capsys.readouterr().err


def test_a_kept_checkpoint_that_cannot_be_checked_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later, key = str(make.HERE / "good-from-5.jsonl"), str(make.SECOND.public)
    assert auditor.main([later, "--key", key]) == 0
    assert "events 1 to 4 are not in this export" in capsys.readouterr().out
    early, foreign = tmp_path / "early.txt", tmp_path / "foreign.txt"
    early.write_text(signed(Checkpoint(ORIGIN, 3, bytes(32), bytes(32)), [make.FIRST]) + KEPT[1])
    assert auditor.main([later, "--key", key, "--checkpoint", str(early)]) == 6
    assert "NOT CHECKED: the kept checkpoint at 3 lies before these events" in capsys.readouterr().out
    foreign.write_text(signed(Checkpoint("horizon/00", 3, bytes(32), bytes(32)), [make.FIRST]))
    assert auditor.main([later, "--key", key, "--checkpoint", str(foreign)]) == 1
    assert "position 3: its checkpoint is of the log horizon/00, and this is" in capsys.readouterr().err


def judged(tmp_path: Path, lines: list[bytes], capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "export.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    code = auditor.main([str(tmp_path / "export.jsonl"), "--key", KEY])
    said = capsys.readouterr().err
    assert code == bool(said)
    return said


def test_a_change_of_any_field_of_any_event_is_found_at_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = GOOD.read_bytes().splitlines()
    for place, line in enumerate(lines):
        fields = json.loads(line)
        if "position" not in fields:
            continue
        for name, value in fields.items():
            if isinstance(value, int):
                changed: Any = value + 1
            elif all(one in "0123456789abcdef" for one in value):
                changed = ("1" if value[0] == "0" else "0") + value[1:]
            else:
                changed = value + " "
            spoilt = json.dumps({**fields, name: changed}).encode()
            said = judged(tmp_path, [*lines[:place], spoilt, *lines[place + 1 :]], capsys)
            assert f"position {fields['position']}: " in said, (name, said)


def test_nonsense_is_not_taken_for_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = GOOD.read_bytes().splitlines()
    for place in range(len(lines)):
        for nonsense in (b"", b"{", b"[]", b"{}", b"null", b'{"position":1}', b'{"checkpoint":7}', b"\xff"):
            assert judged(tmp_path, [*lines[:place], nonsense, *lines[place + 1 :]], capsys)
    assert judged(tmp_path, [*lines, lines[-1]], capsys)
    assert judged(tmp_path, [], capsys)


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_every_lawful_history_is_found_lawful(first: int) -> None:
    """Random lives make every move there is; from the beginning, and from the middle on."""
    header = {"horizon_export": 1, "log_id": "00", "from": 1, "to": 0, "frontier": [], "tip": "00" * 32}
    for seed in range(first, first + 10):
        log = live(seed).world.log
        audit = auditor.Audit(header, [], [])
        audit.epoch = 1  # these worlds have no leader
        half = len(log) // 2
        frontier = []
        for one in log:
            assert not audit.line(json.loads(event_line(one)))
            if one.position == half:
                frontier = [hash.hex() for hash in audit.frontier]
        later = {**header, "from": half + 1, "tip": log[half - 1].hash.hex(), "frontier": frontier}
        audit = auditor.Audit(later, [], [])
        for one in log[half:]:
            assert not audit.line(json.loads(event_line(one)))
        assert audit.tip == log[-1].hash
