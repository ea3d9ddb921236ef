"""The scheduler is killed while jobs run, and started again: nothing is lost and nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.house import Up, eventually, lines_in


def _leaves_traces(directory: Path, name: str, seconds: float, code: int) -> str:
    """A command that says in files when it starts and ends, so that running twice would show."""
    file, order = directory / name, directory / "order"
    return f"echo start >> {file}; echo {name} >> {order}; sleep {seconds}; echo end >> {file}; exit {code}"


def test_killed_while_jobs_run(start_up: Callable[..., Up], home: Path) -> None:
    traces = home / "traces"
    traces.mkdir()
    up = start_up("--simulate-gpus", "2xH100")
    long = up.submit("--", _leaves_traces(traces, "long", 5, 5))
    short = up.submit("--", _leaves_traces(traces, "short", 1, 7))
    for job in (long, short):
        up.until(job, "Running")
    queued = {
        name: up.submit("--gpus", "2", "--", _leaves_traces(traces, name, 0, 0)) for name in ("a", "b", "c")
    }
    up.kill()
    eventually(lambda: lines_in(traces / "short") == ["start", "end"], "the end of the short job")

    up = start_up("--simulate-gpus", "2xH100")
    assert "adopted" in up.greeting
    running = up.json("show", long)
    assert (running["state"], running["attempt"]) == ("Running", 1)
    ended = up.until(short, "Failed")
    assert (ended["exit_code"], ended["attempt"]) == (7, 1)
    assert [str(job["number"]) for job in up.json("queue")["jobs"]] == list(queued.values())
    assert up.until(long, "Failed")["exit_code"] == 5
    for job in queued.values():
        assert up.until(job, "Completed")["attempt"] == 1
    for name in ("long", "short", *queued):
        assert lines_in(traces / name) == ["start", "end"]
    assert lines_in(traces / "order")[-3:] == ["a", "b", "c"]


def test_killed_again_and_again(start_up: Callable[..., Up], home: Path) -> None:
    """Every kill comes right after a submission was answered: what was answered is never lost."""
    traces = home / "traces"
    traces.mkdir()
    jobs = {}
    for step in range(3):
        up = start_up("--simulate-gpus", "1xH100")
        for name in (f"x{step}", f"y{step}"):
            jobs[name] = up.submit("--", _leaves_traces(traces, name, 0.2, 0))
        up.kill()
    up = start_up("--simulate-gpus", "1xH100")
    for name, job in jobs.items():
        assert up.until(job, "Completed")["attempt"] == 1
        assert lines_in(traces / name) == ["start", "end"]
    assert lines_in(traces / "order") == list(jobs)
