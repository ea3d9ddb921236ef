"""``horizon simulate --from-log``, as a user types it: over the log of a running Horizon, and an export."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from horizon.cli.exits import CliError
from horizon.cli.supposition import read_supposition
from horizon.core.events import JobScheduled
from horizon.core.model import Placement
from horizon.core.policy import Order
from horizon.core.schedule import schedule
from horizon.service.supposition import SupposedShare
from horizon.store.export import Header, event_line
from tests.cli.house import Finished, Up, run
from tests.cli.test_simulate import assert_drawn
from tests.core.spec import World, given, node
from tests.service.test_whatif import two_orders

FIFO = 'order = "fifo"\n'


def written(path: Path, world: World) -> Path:
    """An export of the world's log."""
    header = msgspec.json.encode(Header(1, "00" * 16, 1, len(world.log), [], "00" * 32))
    lines = [header, *map(event_line, world.log)]
    lines += [msgspec.json.encode({"end": True, "events": len(world.log)})]
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return path


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("export") / "log.jsonl.gz", two_orders())


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo.toml"
    path.write_text(FIFO)
    return path


def simulate(export: Path, *arguments: str | Path) -> Finished:
    return run(Path("/nowhere"), "simulate", "--from-log", "--export", str(export), *map(str, arguments))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_another_policy_is_shown_beside_the_record(export: Path, fifo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = simulate(export, "--what-if", fifo, "--out", out)
    assert done.returncode == 0, done.stderr
    titles, recorded, otherwise, _, *users = done.stdout.splitlines()
    assert titles.split()[:6] == ["COURSE", "JOBS", "RAN", "MEAN", "WAIT", "MEDIAN"]
    assert recorded.split()[:4] == ["recorded", "4", "4", "55s"]
    assert otherwise.split()[:4] == ["fifo", "4", "4", "50s"]
    assert [line.split()[1] for line in users[1:]] == ["carl", "alice", "bob"]
    assert "fifo: goes otherwise from event " in done.stderr
    assert " 2023-11-14T22:15:00+00:00 (" in done.stderr
    assert f"wrote {out}" in done.stderr
    [bob] = [row for row in rows(out / "jobs.csv") if row["user"] == "bob"]
    assert (bob["job"], bob["attempt"], bob["state"]) == ("4", "1", "Completed")
    assert (bob["nodes"], bob["gpu_ids"]) == ("node-1", "GPU-node-1-0")
    assert (bob["scheduled"], bob["ended"]) == ("2023-11-14T22:15:30+00:00", "2023-11-14T22:16:20+00:00")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rerun"]["policy"] == {"order": "fifo"}
    assert summary["rerun"]["diverged_at"] == "2023-11-14T22:15:00+00:00"
    assert summary["outcome"]["wait_s"]["mean"] == 50
    assert json.loads((out / "recorded" / "summary.json").read_text())["rerun"] is None
    for picture in (
        "waits.png",
        "timeline.png",
        "comparison.png",
        "recorded/waits.png",
        "recorded/timeline.png",
    ):
        assert_drawn(out / picture)


def test_without_anything_otherwise_it_is_the_record(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = simulate(export, "--out", out)
    assert "once-more: every decision is the recorded one (" in done.stderr
    assert (out / "jobs.csv").read_text() == (out / "recorded" / "jobs.csv").read_text()
    assert len(rows(out / "jobs.csv")) == 4


def test_a_record_that_other_code_decided_is_said_to_be_one(tmp_path: Path) -> None:
    """On an empty node of two GPUs a job was given the second one."""
    world = given(node(gpus=2)).submit()
    [decided] = schedule(world.state, world.now_us).events
    assert isinstance(decided, JobScheduled)
    world.record(replace(decided, allocation=(Placement("node-1", ("GPU-node-1-1",)),)))
    done = simulate(written(tmp_path / "other.jsonl", world), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "once-more: goes otherwise from event 3 on, " in done.stderr
    assert "and nothing was supposed to be otherwise: other code decided then" in done.stderr
    [here], [there] = rows(tmp_path / "out" / "jobs.csv"), rows(tmp_path / "out" / "recorded" / "jobs.csv")
    assert (here["gpu_ids"], there["gpu_ids"]) == ("GPU-node-1-0", "GPU-node-1-1")


def test_several_files_and_another_cluster_go_into_folders_of_their_own(
    export: Path, fifo: Path, tmp_path: Path
) -> None:
    easy, out = tmp_path / "easy.toml", tmp_path / "out"
    easy.write_text('reservation_depth = "easy"\n[shares.default]\nweight = 2\n')
    done = simulate(
        export, "--what-if", fifo, "--what-if", easy, "--cluster", "2x1:A", "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert [one["label"] for one in found] == ["recorded", "fifo-2x1-A", "easy-2x1-A"]
    assert found[1]["rerun"]["never_fit"] == ["2"]
    assert "jobs that wait and that this cluster can never hold (1): 2\n" in done.stderr
    assert found[2]["rerun"]["policy"] == {"reservation_depth": 1}
    assert found[2]["rerun"]["shares"]["default"]["weight"] == 2
    assert {path.name for path in out.iterdir()} == {
        "recorded", "easy-2x1-A", "jobs.csv", "summary.json", "waits.png", "timeline.png", "comparison.png"
    }  # fmt: skip


def test_the_log_of_a_running_horizon_gives_its_own_schedule(up: Up, tmp_path: Path) -> None:
    jobs = [
        up.submit("--user", user, "--gpus", gpus, "--time-limit", "1m", "--", "sleep", "0.2")
        for user, gpus in (("ann", "6"), ("bob", "4"), ("ann", "2"), ("bob", "8"), ("cyd", "1"))
    ]
    for job in jobs:
        up.until(job, "Completed")
    done = up.run("simulate", "--from-log", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "once-more: every decision is the recorded one (" in done.stderr
    recorded, otherwise = tmp_path / "out" / "recorded" / "jobs.csv", tmp_path / "out" / "jobs.csv"
    assert recorded.read_text() == otherwise.read_text()
    ran = {row["job"]: row for row in rows(recorded)}
    shown = up.json("show", jobs[3])
    assert ran[jobs[3]]["gpu_ids"].split() == shown["gpu_ids"]
    assert ran[jobs[3]]["scheduled"].replace("+00:00", "Z") == shown["scheduled_at"].replace("+00:00", "Z")


def test_only_jobs_of_a_time_count(export: Path) -> None:
    done = simulate(export, "--since", "2023-11-14T22:13:30", "--until", "2023-11-15", "--json")
    found = json.loads(done.stdout)
    assert [one["outcome"]["counted"] for one in found] == [2, 2]
    assert found[0]["log"]["since"] == "2023-11-14T22:13:30+00:00"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("--since", "2024-01-01"),
            2,
            "nothing was recorded in that time; the log is of 2023-11-14T22:13:20",
        ),
        (("--until", "2023-11-13"), 2, "nothing was recorded in that time"),
        (("--since", "2023-11-14T22:16", "--until", "2023-11-14T22:15"), 2, "--since must be before --until"),
        (("--since", "2023-11-14T22:19"), 1, "no job was submitted in that time"),
        (("--order", "fifo"), 2, "--order is for traces, not for the log"),
        (("README.md",), 2, "TRACE is for traces, not for the log"),
        (("--what-if", "/nowhere.toml"), 2, "does not exist"),
    ],
)
def test_a_wrong_command_line_is_told(
    export: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = simulate(export, *arguments)
    assert (done.returncode, message in " ".join(done.stderr.split())) == (code, True), done.stderr


def test_what_is_for_the_log_is_not_for_traces(tmp_path: Path) -> None:
    done = run(Path("/nowhere"), "simulate", "README.md", "--data-dir", str(tmp_path))
    assert (done.returncode, "--data-dir is for the log: give --from-log" in done.stderr) == (2, True)
    done = run(Path("/nowhere"), "simulate", "--cluster", "1x4")
    assert (done.returncode, "name a TRACE, or give --from-log" in done.stderr) == (2, True)


def test_a_share_that_nobody_has_is_told(export: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[shares.nowhere]\nweight = 2\n")
    done = simulate(export, "--what-if", path)
    assert done.returncode == 2
    assert done.stderr == (
        "horizon: other: nobody in this log has run under nowhere, and nobody set its share\n"
    )


# --- logs that are none -------------------------------------------------------------------------------------


def damaged(path: Path, export: Path, damage: str) -> Path:
    lines = gzip.decompress(export.read_bytes()).splitlines(keepends=True)
    match damage:
        case "changed":
            lines[3] = lines[3].replace(b"alice", b"malik")
        case "cut off":
            del lines[-1]
        case "no export":
            lines = [b"a,b,c\n"]
        case "part":
            lines[0] = lines[0].replace(b'"from":1', b'"from":5')
        case "empty":
            lines = [lines[0], b'{"end":true,"events":0}\n']
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("changed", "event 3 has been changed"),
        ("cut off", "is cut off: its last line is missing"),
        ("no export", "is no export of a log"),
        ("part", "begins at 5: a fold begins at 1"),
        ("empty", "the log is empty: there is no history to go through"),
    ],
)
def test_a_log_that_does_not_hold_is_not_gone_through(
    export: Path, tmp_path: Path, damage: str, message: str
) -> None:
    done = simulate(damaged(tmp_path / "bad.jsonl", export, damage))
    assert done.returncode == (2 if damage == "part" else 1)
    assert message in done.stderr


# --- files of suppositions ----------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return read_supposition(path)


def test_a_file_says_what_is_to_be_otherwise_as_policy_set_takes_it(tmp_path: Path) -> None:
    text = """
        order = "fifo"
        reservation_depth = "conservative"
        half_life_s = "14d"
        patience_s = 60
        gpu_cost = { H100 = 2000 }
        topology_labels = ["rack"]
        [shares."research/nlp"]
        weight = 2
        max_gpus = "none"
        [shares."research/nlp/ann"]
        weight = 3
        [shares.ops]
        max_gpus = 8
        guaranteed_gpus = 4
    """
    policy, shares = read(tmp_path, text)
    assert policy == {
        "order": Order.FIFO,
        "reservation_depth": -1,
        "half_life_s": 14 * 86_400,
        "patience_s": 60,
        "gpu_cost": {"H100": 2000},
        "topology_labels": ("rack",),
    }
    assert shares == {
        "research/nlp": SupposedShare(weight=2, max_gpus=-1),
        "research/nlp/ann": SupposedShare(weight=3),
        "ops": SupposedShare(max_gpus=8, guaranteed_gpus=4),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order = ", "policy.toml is no TOML: Invalid value (at "),
        ("\npatiense_s = 3", "policy.toml:2: patiense_s: there is no 'patiense_s' to choose; did you mean"),
        ("# strict\nstrict = 3", "policy.toml:2: strict: Expected `bool | null`, got `int`"),
        ('order = "lifo"', "policy.toml:1: order: Invalid enum value 'lifo'"),
        ('order = "fifo"\nreservation_depth = -7', "policy.toml:2: reservation_depth: must be -1 to"),
        ('half_life_s = "soon"', "policy.toml:1: half_life_s: 'soon' is no duration"),
        ("shares = 3", "policy.toml:1: shares: must be tables such as [shares.research]"),
        (
            'strict = true\n[shares.a]\nweight = 1\n[shares."a/b"]\nweight = 0',
            "policy.toml:5: shares.a/b.weight: Expected `int` >= 1",
        ),
        ("[shares.a]\nwait = 1", "policy.toml:2: shares.a.wait: is nothing a share has; write weight, "),
        ("[shares.a]", "policy.toml:1: shares.a: must give some of weight, max_gpus, guaranteed_gpus"),
    ],
)  # fmt: skip
def test_a_file_with_a_fault_is_told_with_its_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CliError) as told:
        read(tmp_path, text)
    assert message in str(told.value)
    assert told.value.exit_code == 2
