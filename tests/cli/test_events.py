"""The log in sentences without a server: from the database, as an auditor may, and from an export."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg

from horizon.cli.events import Asked, folded_page
from tests.cli.house import Up, eventually, run
from tests.world import Scheduler

NOTHING = Asked(None, None, (), None, None, 0, 10_000)


def served(up: Up, asked: Asked) -> Any:
    """What the server says to the same question."""
    fields = {**asked._asdict(), "type": asked.types}
    del fields["types"]
    given = {name: value for name, value in fields.items() if value not in (None, ())}
    return up.look("/events?" + urlencode(given, doseq=True))


def test_the_same_is_told_by_the_server_the_database_and_an_export(
    start_up: Callable[..., Up], home: Path
) -> None:
    up = start_up()
    up.ok("policy", "set", "min_runtime_s=0", "--reason", "a demo")
    first = up.submit("--gpus", "8", "--preemptible", "--name", "first", "--", "sleep", "60")
    up.until(first, "Running")
    urgent = up.submit("--gpus", "8", "--user", "bob", "--priority", "Urgent", "--", "true")
    up.submit("--array", "0-7:7", "--", "true")
    up.until(urgent, "Completed")
    up.ok("cancel", first)
    assert up.run("hold", urgent).returncode == 5
    up.until("3", "Completed")
    eventually(lambda: all(gpu["state"] == "free" for gpu in up.look("/gpus")["gpus"]), "free GPUs")
    middle = served(up, NOTHING)["events"][12]["recorded_at"]
    asks = [
        NOTHING._replace(**fields)
        for fields in (
            {"job": "1"},
            {"job": up.look("/jobs/2")["id"].upper()},
            {"job": "3"},
            {"job": "3_7"},
            {"actor": "executor", "limit": 2},
            {"types": ("CommandRefused", "JobCancelled")},
            {"after": 4, "limit": 3},
            {"since": middle, "actor": "scheduler"},
            {"until": middle},
            {"since": "2100-01-01T00:00:00+00:00"},
            {"until": "2020-01-01T00:00:00+00:00"},
        )
    ]
    pages = [served(up, asked) for asked in asks]
    assert [bool(page["events"]) for page in pages] == [True] * 9 + [False] * 2
    table = up.ok("events", "--database", "--until", middle)
    assert table == up.ok("events", "--until", middle)
    assert "alice's job 1 (first) was given 8 GPUs" in table.replace(
        str(up.look("/jobs/1")["user_id"]), "alice"
    )
    up.stop()
    out = home / "log.jsonl.gz"
    assert run(home / "data", "export", "--out", str(out)).returncode == 0

    for asked, page in zip(asks, pages, strict=True):
        for exported in (out, None) if asked.job else (out,):  # to start Postgres takes a while
            told = asyncio.run(folded_page(home / "data", exported, asked))
            assert told["events"] == page["events"], (asked, exported)
            assert (told["next_after"] < told["head"]) == (page["next_after"] < page["head"]), asked
    for_what_cannot_be_told_the_reason_is_said(home, ("--export", str(out)))


def for_what_cannot_be_told_the_reason_is_said(home: Path, exported: tuple[str, ...]) -> None:
    text = gzip.decompress((home / "log.jsonl.gz").read_bytes()).decode()
    (home / "changed.jsonl").write_text(text.replace('"actor":"owner"', '"actor":"mallory"', 1))
    for code, words, arguments in (
        (2, "--database and --export exclude each other", ["--database", *exported]),
        (4, "there is no job 999", ["--job", "999", *exported]),
        (1, "'x y' is no job: give its id", ["--job", "x y", *exported]),
        (
            1,
            "there is no type JobTeleported; there are: JobSubmitted",
            ["--type", "JobTeleported", *exported],
        ),
        (1, "the log cannot be folded: position ", ["--export", str(home / "changed.jsonl")]),
        (1, "missing.jsonl cannot be read", ["--export", str(home / "missing.jsonl")]),
        (4, "there is no database in ", ["--database"]),
        (3, "--database and --export FILE need none", []),
    ):
        done = run(home / "elsewhere", "events", *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr


async def test_an_auditor_is_told_the_log_by_the_database_alone(
    scheduler: Scheduler, admin: asyncpg.Connection[Any], database: str, tmp_path: Path
) -> None:
    await scheduler.submit(environment={"SECRET": "canary"})
    await scheduler.until("1", "Completed")
    await scheduler.quiet()
    name = "eve_of_" + await admin.fetchval("SELECT current_database()")
    await admin.execute(f'CREATE ROLE "{name}" LOGIN IN ROLE horizon_auditor')
    try:
        dsn = re.sub("//[^/@]*@", f"//{name}@", database)
        assert name in dsn
        done = await asyncio.to_thread(
            run, tmp_path / "nowhere", "events", "--database", "--job", "1", DATABASE_URL=dsn
        )
    finally:
        await admin.execute(f'DROP ROLE "{name}"')
    assert done.returncode == 0, done.stderr
    assert "alice of default submitted job 1: 1 GPU, Normal" in done.stdout
    assert "alice's job 1 completed" in done.stdout
