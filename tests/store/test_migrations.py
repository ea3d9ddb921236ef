"""The schema is brought up to date under a log that is there: nothing of it is lost, whatever is cut off."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from horizon.core.events import Recorded
from horizon.service.notefile import NoteFile
from horizon.service.verify import Report, verify
from horizon.store.migrate import SCHEMA_REVISION, current_revision, migrations_dir
from horizon.store.note import read_note
from horizon.store.port import Answer, Batch
from horizon.store.postgres import COLUMNS, PostgresStore
from horizon.store.reader import LogReader
from horizon.store.tree import Frontier
from tests.conftest import with_database
from tests.faults.scheduler import MIGRATIONS
from tests.golden import make
from tests.golden.test_golden import events
from tests.store.contract import drafts
from tests.vectors.make import FIRST

GOLDEN: Final = make.HERE / "0.1.0-2026-11-25.jsonl.gz"
OLDER: Final = [name[:4] for name in MIGRATIONS if name[:4] < SCHEMA_REVISION]
ANSWER: Final = Answer("a key", bytes(32), 201, b"{}")
BLOB: Final = {sha256(b"a script").hexdigest(): b"a script"}

Filled = Callable[[str], Awaitable[str]]


def checkpoints() -> dict[int, str]:
    """The notes that were signed of the golden log, by size."""
    said = (json.loads(line) for line in gzip.decompress(GOLDEN.read_bytes()).splitlines())
    notes = [line["checkpoint"] for line in said if "checkpoint" in line]
    return {read_note(note)[0].size: note for note in notes}


@pytest.fixture
async def filled(postgres: str, admin: asyncpg.Connection[Any], tmp_path: Path) -> AsyncIterator[Filled]:
    """Makes a database as it was at a revision, with a whole log in it; its DSN."""
    made: list[str] = []

    async def fill(revision: str) -> str:
        made.append(f"horizon_at_{revision}")
        await admin.execute(f'CREATE DATABASE "{made[-1]}"')
        dsn = with_database(postgres, made[-1])
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE TABLE schema_revision (version_num varchar(32) NOT NULL)")
        await connection.execute(f"INSERT INTO schema_revision VALUES ('{revision}')")
        for name in MIGRATIONS:
            if name[:4] <= revision:
                await connection.execute((migrations_dir() / name).read_text())
        await _write(connection, list(events(GOLDEN)))
        if revision >= "0002":
            await _sign(connection)
        else:  # what was signed was in a file then
            for note in checkpoints().values():
                NoteFile(tmp_path / "checkpoints").append(note)
        await connection.close()
        return dsn

    yield fill
    for name in made:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _write(connection: asyncpg.Connection[Any], log: list[Recorded]) -> None:
    """The golden log, a blob and an answer, into tables that have had these columns from the first."""
    names = COLUMNS.replace(",", " ").split()
    rows = [tuple(getattr(one, name) for name in names) for one in log]
    await connection.copy_records_to_table("events", records=rows, columns=names)
    header = json.loads(gzip.decompress(GOLDEN.read_bytes()).splitlines()[0])
    last = log[-1]
    await connection.execute(
        "UPDATE log_head SET log_id = $1, epoch = $2, position = $3, tip = $4, recorded_at_us = $5",
        *(bytes.fromhex(header["log_id"]), last.epoch, last.position, last.hash, last.recorded_at_us),
    )
    await connection.executemany("INSERT INTO blobs VALUES ($1, $2)", list(BLOB.items()))
    row = (ANSWER.key, ANSWER.fingerprint, ANSWER.status, ANSWER.body, last.position)
    await connection.execute("INSERT INTO answers VALUES ($1, $2, $3, $4, $5)", *row)


async def _sign(connection: asyncpg.Connection[Any]) -> None:
    frontier, notes = Frontier(), checkpoints()
    for one in events(GOLDEN):
        frontier.add(one.hash)
        if (note := notes.get(one.position)) is not None:
            query = "INSERT INTO checkpoints (size, frontier, note) VALUES ($1, $2, $3)"
            await connection.execute(query, frontier.size, frontier.packed(), note)


async def revision_of(dsn: str) -> str | None:
    connection = await asyncpg.connect(dsn)
    try:
        return await current_revision(connection)
    finally:
        await connection.close()


async def verified(dsn: str, directory: Path) -> Report:
    reader = LogReader(dsn)
    await reader.open()
    try:
        files = [NoteFile(directory / "checkpoints")]
        return await verify(reader, files, [FIRST.public], lambda done, total: None)
    finally:
        await reader.close()


async def killed(dsn: str, point: str) -> None:
    """``horizon migrate``, and its end there."""
    migrating = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.scheduler", "migrate"),
        env={**os.environ, "DATABASE_URL": dsn, "HORIZON_KILL_AT": point},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await migrating.communicate()
    assert migrating.returncode == -signal.SIGKILL, (point, said.decode())


async def up_to_date(dsn: str, directory: Path) -> None:
    """It is, all that was in it is there, it holds, and the log goes on."""
    store = PostgresStore(dsn)
    await store.open()
    try:
        assert await revision_of(dsn) == SCHEMA_REVISION
        assert await store.blobs(BLOB) == BLOB
        assert await store.answer(ANSWER.key) == ANSWER
        report = await verified(dsn, directory)
        log = list(events(GOLDEN))
        assert (report.events, report.epoch) == (len(log), log[-1].epoch)
        assert report.signed == max(checkpoints())
        assert report.in_table + report.in_files == len(checkpoints())
        await store.elect()
        await store.append(Batch(drafts(1), log[-1].recorded_at_us + 1))
        assert [one.position async for one in store.read(len(log))] == [len(log) + 1]
    finally:
        await store.close()


@pytest.mark.parametrize("revision", OLDER)
async def test_a_log_at_any_older_schema_is_brought_up_to_date_and_holds(
    filled: Filled, tmp_path: Path, revision: str
) -> None:
    await up_to_date(await filled(revision), tmp_path)


@pytest.mark.slow
async def test_an_upgrade_that_is_killed_in_any_of_its_files_is_whole_or_none(
    filled: Filled, tmp_path: Path
) -> None:
    first = OLDER[0]
    dsn = await filled(first)
    for name in MIGRATIONS[1:]:
        for point in (f"in {name}", f"behind {name}"):
            await killed(dsn, point)
            assert await revision_of(dsn) == first, point
    await up_to_date(dsn, tmp_path)


def test_every_migration_has_a_file_and_every_file_its_migration() -> None:
    run = [
        match[1]
        for path in sorted((migrations_dir() / "versions").glob("[0-9]*.py"))
        for match in re.finditer(r'run_sql\("(.+)"\)', path.read_text())
    ]
    assert run == list(MIGRATIONS)
