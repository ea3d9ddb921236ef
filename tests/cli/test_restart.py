"""The scheduler is killed while jobs run, and started again: nothing is lost and nothing runs twice."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.cli.house import PATIENCE_S, Up, eventually, lines_in

CLIENTS = 8


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


def _submit(up: Up, key: str) -> bytes | None:
    """Ask for a job under this key; the answer, or None when none came."""
    connection = http.client.HTTPConnection(urlsplit(up.url).netloc, timeout=PATIENCE_S)
    token = (up.data_dir / "token").read_text().strip()
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    body = b'{"user_id": "alice", "command": "true", "hold": true}'
    try:
        connection.request("POST", "/api/v1/jobs", body, headers)
        response = connection.getresponse()
        answer = response.read()
        return answer if response.status == 201 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def test_killed_while_it_answers_each_key_has_one_effect(start_up: Callable[..., Up]) -> None:
    """Eight clients ask as fast as they can; each repeats, under the old key, what was not answered."""
    up = start_up("--simulate-gpus", "1xH100")
    answers: dict[str, bytes] = {}
    asked: list[str] = []
    enough = threading.Event()

    def client(number: int) -> None:
        for step in range(10_000):
            key = f"{number}-{step}"
            asked.append(key)
            answer = _submit(up, key)
            if answer is None:
                return
            answers[key] = answer
            if len(answers) >= 100:
                enough.set()

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client, number) for number in range(CLIENTS)]
        assert enough.wait(PATIENCE_S)
        up.kill()
    for one in running:
        one.result()
    assert len(asked) == len(answers) + CLIENTS, "each had one request under way"
    up = start_up("--simulate-gpus", "1xH100")
    for key in asked:
        again = _submit(up, key)
        assert again is not None
        assert again == answers.get(key, again)
    assert up.look("/jobs")["total"] == len(asked)
    up.stop()


def test_a_snapshot_changes_nothing_but_where_the_log_is_read_from(
    start_up: Callable[..., Up], home: Path
) -> None:
    up = start_up("--simulate-gpus", "1xH100")
    for _ in range(3):
        up.until(up.submit("--", "true"), "Completed")
    waiting = up.submit("--gpus", "2", "--", "true")
    said = up.ok("snapshot")
    assert str(home / "data" / "snapshots") in said
    up.until(up.submit("--", "true"), "Completed")
    up.kill()
    up = start_up("--simulate-gpus", "1xH100")
    listed = up.look("/jobs")
    assert [job["state"] for job in listed["jobs"]] == ["Completed", "Queued", *["Completed"] * 3]
    assert up.look("/jobs?user_id=nobody")["total"] == 0
    assert up.json("show", "1")["state"] == "Completed"
    assert up.json("show", waiting)["state"] == "Queued"
    for snapshot in (home / "data" / "snapshots").glob("*.snapshot"):
        os.truncate(snapshot, 0)
    assert up.json("show", "2")["state"] == "Completed"
    assert up.process.poll() is None
    assert up.ok("verify").startswith("the log horizon/")
