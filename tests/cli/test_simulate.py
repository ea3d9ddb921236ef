"""``horizon simulate``, as a user types it: no server, no database, a trace and a cluster."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from tests.cli.house import HORIZON, Finished, environment, run

SWF = """\
; UnixStartTime: 893466664
; MaxProcs: 4
    1   100 -1  100  3 -1 -1  3  120 -1 1 1 1 -1 -1 -1 -1 -1
    2   110 -1   50  2 -1 -1  2   60 -1 1 2 1 -1 -1 -1 -1 -1
    3   120 -1   30  1 -1 -1  1   40 -1 1 1 1 -1 -1 -1 -1 -1
    4   130 -1   -1 -1 -1 -1  1   40 -1 5 1 1 -1 -1 -1 -1 -1
    5   140 -1   30  9 -1 -1  9   40 -1 1 1 1 -1 -1 -1 -1 -1
"""
CSV = """\
timestamp,duration,num_gpus,gpu_time,cluster
2017-10-02 23:59:59,10.0,1,10.0,vc-1
2017-10-03 00:00:00,20.0,2,40.0,vc-2
2017-10-04 12:00:00,20.0,2,40.0,vc-2
2017-10-05 00:00:00,20.0,2,40.0,vc-1
"""
EASY = ("--cluster", "1x4:CPU", "--order", "fifo", "--backfill", "easy")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "small.swf"
    path.write_text(SWF)
    return path


@pytest.fixture
def gpus(tmp_path: Path) -> Path:
    path = tmp_path / "gpus.csv"
    path.write_text(CSV)
    return path


def simulate(*arguments: str | Path) -> Finished:
    return run(Path("/nowhere"), "simulate", *map(str, arguments))


def ok(*arguments: str | Path) -> str:
    done = simulate(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def summaries(*arguments: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(*arguments, "--json"))
    return found


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_trace_gives_jobs_numbers_and_pictures(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = simulate(log, *EASY, "--out", out)
    assert done.returncode == 0, done.stderr
    assert rows(out / "jobs.csv") == [
        ["job", "submit_s", "start_s", "end_s", "wait_s"],
        ["1", "0", "0", "100", "0"],
        ["2", "10", "100", "150", "90"],
        ["3", "20", "20", "50", "0"],
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["label"] == "fifo/easy/user"
    assert summary["policy"]["reservation_depth"] == 1
    assert summary["setting"]["first_submission"] == "1998-04-25T01:12:44+00:00"
    assert summary["setting"]["cluster"] == {"nodes": 1, "gpus_per_node": 4, "gpu_type": "CPU"}
    assert summary["setting"]["dropped"] == {"no run time": 1}
    assert summary["outcome"]["wait_s"]["mean"] == 30
    assert summary["outcome"]["too_large"] == ["5"]
    assert [user["user"] for user in summary["outcome"]["fairness"]["users"]] == ["1", "2"]
    assert summary["outcome"]["planned_starts"]["planned"] == 1
    for name in ("waits.png", "timeline.png"):
        assert_drawn(out / name)
    assert not (out / "comparison.png").exists()
    assert "fifo/easy/user" in done.stdout
    assert "records of small.swf that cannot be simulated: 1 with no run time" in done.stderr
    assert "jobs left out, since this cluster can never hold them (1): 5\n" in done.stderr
    assert f"wrote {out}" in done.stderr


def assert_drawn(path: Path) -> None:
    """It is a picture of some size, and not only of one colour."""
    pixels = imread(path)
    height, width, _ = pixels.shape
    assert min(height, width) >= 500
    assert pixels.std() > 0.05


def test_nothing_is_written_unless_asked(log: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    text = ok(log, *EASY)
    assert text.split()[:2] == ["POLICY", "JOBS"]
    assert set(tmp_path.iterdir()) == before


def test_without_more_it_is_done_as_horizon_does_it(log: Path) -> None:
    [summary] = summaries(log, "--cluster", "1x4")
    assert summary["label"] == "fair/16/user"
    assert (summary["policy"]["order"], summary["policy"]["reservation_depth"]) == ("fair", 16)
    assert summary["setting"]["events"] == "batch"


def test_backfill_none_is_strict(log: Path) -> None:
    none = ("--cluster", "1x4", "--order", "fifo", "--backfill", "none")
    strict, greedy = summaries(log, *none, "--compare", "fifo/0")
    assert (strict["policy"]["strict"], strict["policy"]["reservation_depth"]) == (True, 0)
    assert (greedy["policy"]["strict"], greedy["policy"]["reservation_depth"]) == (False, 0)
    assert strict["outcome"]["wait_s"]["mean"] == (0 + 90 + 80) / 3
    assert greedy["outcome"]["wait_s"]["mean"] == (0 + 90 + 0) / 3


def test_policies_are_compared_side_by_side(log: Path, tmp_path: Path) -> None:
    production = tmp_path / "production.toml"
    production.write_text('order = "fair"\nreservation_depth = 4\nhalf_life_s = 86400\n')
    out = tmp_path / "out"
    others = ("--compare", "fair/conservative/perfect", "--compare", "fifo/none", "--compare", production)
    text = ok(log, *EASY, *others, "--out", out)
    labels = [line.split()[0] for line in text.splitlines()[1:]]
    assert labels == ["fifo/easy/user", "fair/conservative/perfect", "fifo/none/user", "production"]
    assert_drawn(out / "comparison.png")
    for folder in ("fair-conservative-perfect", "fifo-none-user", "production"):
        assert {path.name for path in (out / folder).iterdir()} == {
            "jobs.csv", "summary.json", "waits.png", "timeline.png"
        }  # fmt: skip
    written = json.loads((out / "production" / "summary.json").read_text())
    assert (written["policy"]["half_life_s"], written["policy"]["reservation_depth"]) == (86_400, 4)
    assert written["estimates"] == "user"


def test_a_window_is_chosen_by_dates_the_last_one_included(gpus: Path) -> None:
    def jobs(*arguments: str) -> int:
        [summary] = summaries(gpus, "--cluster", "2x2", *arguments)
        found: int = summary["setting"]["jobs"]
        return found

    assert jobs() == 4
    assert jobs("--since", "2017-10-03") == 3
    assert jobs("--since", "2017-10-03", "--until", "2017-10-04") == 2
    assert jobs("--until", "2017-10-04T12:00:00") == 2
    assert jobs("--since", "2017-10-03T02:00+02:00", "--limit", "2") == 2
    done = simulate(gpus, "--cluster", "2x2", "--since", "2018-01-01")
    assert done.returncode == 1
    assert (
        "no job of gpus.csv was submitted in that time; its jobs are of 2017-10-02 to 2017-10-05"
        in done.stderr
    )


def test_a_trace_without_estimates_is_said_to_have_none(gpus: Path) -> None:
    done = simulate(gpus, "--cluster", "2x2")
    assert "gpus.csv has no users' estimates: the true run times stand for them" in done.stderr


WRONG = [
    (("--cluster", "64"), "is no cluster: write NODESxGPUS"),
    (("--cluster", "0x8"), "is no cluster"),
    (("--cluster", "9999x9999"), "100,000 GPUs at most"),
    (
        ("--cluster", "1x4", "--backfill", "some"),
        "is no backfill: write none, easy, conservative or a",
    ),
    (("--cluster", "1x4", "--backfill", "-1"), "is no backfill"),
    (("--cluster", "1x4", "--since", "soon"), "is no moment: write such as 2017-10-03"),
    (("--cluster", "1x4", "--compare", "fifo"), "is no policy: name a .toml file, or write ORDER/BACKFILL"),
    (("--cluster", "1x4", "--compare", "lifo/easy"), "is no policy"),
    (("--cluster", "1x4", "--compare", "fair/16"), "fair/16/user is given twice"),
    ((), "Missing option '--cluster'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_command_line_is_told(log: Path, arguments: tuple[str, ...], message: str) -> None:
    done = simulate(log, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_a_policy_file_that_is_none_is_told(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    for text, message in (
        ("order = ", "is no policy"),
        ("depth = 3", "unknown field `depth`"),
        ("reservation_depth = -7", "reservation_depth must be -1 to"),
    ):
        path.write_text(text)
        done = simulate(log, *EASY, "--compare", path)
        assert done.returncode == 2
        assert f"{path} is no policy" in done.stderr
        assert message in done.stderr
    path.unlink()
    assert simulate(log, *EASY, "--compare", path).returncode == 1


def test_a_bad_trace_is_told_with_its_line(log: Path) -> None:
    log.write_text(SWF.replace("   50  2", "  5o  2"))
    done = simulate(log, *EASY)
    assert done.returncode == 1
    assert done.stderr == f"horizon: {log}:4: the run time (column 4) must be a whole number, not '5o'\n"


def test_a_log_without_its_time_is_simulated_but_not_cut_by_time(log: Path, tmp_path: Path) -> None:
    log.write_text(SWF.partition("\n")[2])
    [summary] = summaries(log, *EASY, "--out", tmp_path / "out")
    assert summary["setting"]["first_submission"] is None
    assert_drawn(tmp_path / "out" / "timeline.png")
    done = simulate(log, *EASY, "--since", "1998-01-01")
    assert done.returncode == 2
    assert "no part of small.swf can be chosen by time" in done.stderr


def test_a_cluster_too_small_for_every_job_is_told(log: Path) -> None:
    log.write_text("\n".join(line for line in SWF.splitlines() if line.startswith(("    1", "    5"))))
    done = simulate(log, "--cluster", "1x2")
    assert done.returncode == 1
    assert "none of the 2 jobs could start: the cluster is too small for them" in done.stderr


def test_without_matplotlib_there_are_no_pictures_and_all_else(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import sys; sys.modules['matplotlib'] = None; from horizon.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "simulate", log, *EASY, "--compare", "fifo/none", "--out", out],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no pictures") == 1
    assert "horizon-gpu-scheduler[plot]" in done.stderr
    assert {path.name for path in out.iterdir()} == {"jobs.csv", "summary.json", "fifo-none-user"}


def test_on_a_terminal_there_is_a_progress_bar(log: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*HORIZON, "simulate", log, *EASY],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(tmp_path, TERM="xterm"),
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    assert b"fifo/easy/user" in shown
    assert b"/4" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""
