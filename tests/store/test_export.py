"""The log written out from a real Postgres, by a role that may only read."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon.core.events import Stored
from horizon.store.export import ExportFile, plan_export
from horizon.store.note import Checkpoint, SigningKey, origin_of, signed
from horizon.store.port import Batch, Corrupt, Signed, Unavailable
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader
from horizon.store.tree import Frontier
from tests.store.contract import drafts


@pytest.fixture
async def reader(database: str, admin: asyncpg.Connection[Any]) -> AsyncIterator[LogReader]:
    """Of a log of twelve events with checkpoints over 4, 8 and 12, as a login of the auditor's role."""
    store = PostgresStore(database)
    head = await store.open()
    await store.elect()
    key, frontier = SigningKey.new(origin_of(head.log_id)), Frontier()
    for one in await store.append(Batch(drafts(12), 1_000)):
        frontier.add(one.hash)
        if frontier.size % 4 == 0:
            checkpoint = Checkpoint(key.public.name, frontier.size, frontier.root(), one.hash)
            await store.add_checkpoint(Signed(frontier.size, frontier.packed(), signed(checkpoint, [key])))
    await store.close()
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'CREATE ROLE "auditor_of_{name}" LOGIN IN ROLE horizon_auditor')
    reader = LogReader(database.replace("postgres:@", f"auditor_of_{name}:@"))
    await reader.open()
    yield reader
    await reader.close()
    await admin.execute(f'DROP ROLE "auditor_of_{name}"')


async def lines(reader: LogReader, first: int = 1, last: int | None = None) -> list[dict[str, Any]]:
    plan = await plan_export(reader, first, last)
    text = b"".join([some async for _, some in plan.lines()])
    return [json.loads(line) for line in text.splitlines()]


def shown(found: list[dict[str, Any]]) -> list[int | str]:
    """Events by position, checkpoints by ``s`` and size."""
    return [
        line["position"] if "position" in line else "s" + line["checkpoint"].split("\n")[1]
        for line in found[1:-1]
    ]


async def test_all_of_the_log_is_written_with_its_checkpoints(reader: LogReader) -> None:
    found = await lines(reader)
    assert found[0].pop("log_id")
    assert found[0] == {"horizon_export": 1, "from": 1, "to": 12, "frontier": [], "tip": "00" * 32}
    assert shown(found) == [1, 2, 3, 4, "s4", 5, 6, 7, 8, "s8", 9, 10, 11, 12, "s12"]
    assert found[-1] == {"end": True, "events": 12}
    assert json.loads(found[1]["payload"])["spec"] == {"user_id": "alice", "command": "true"}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (4, 7, [4, "s4", 5, 6, 7]),
        (5, 5, ["s4", 5]),
        (12, None, [12, "s12"]),
    ],
)
async def test_a_part_is_written_with_what_stands_before_it(
    reader: LogReader, first: int, last: int | None, expected: list[int | str]
) -> None:
    whole = [line for line in await lines(reader) if "position" in line]
    found = await lines(reader, first, last)
    assert shown(found) == expected
    frontier = Frontier()
    for line in whole[: first - 1]:
        frontier.add(bytes.fromhex(line["hash"]))
    assert found[0]["frontier"] == [hash.hex() for hash in frontier.hashes]
    assert found[0]["tip"] == (whole[first - 2]["hash"] if first > 1 else "00" * 32)


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (13, None, "has the events 1 to 12, and no 13"),
        (1, 13, "has the events 1 to 12, and no 13"),
        (14, 20, "has the events 1 to 12, and no 20"),
        (5, 3, "from 5 to 3 there is no event"),
        (5, 4, "from 5 to 4 there is no event"),
        (1, 0, "from 1 to 0 there is no event"),
    ],
)
async def test_what_the_log_has_not_is_not_written(
    reader: LogReader, first: int, last: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await plan_export(reader, first, last)


async def test_checkpoints_beyond_the_end_are_written_for_all_to_see(
    reader: LogReader, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
    await admin.execute("DELETE FROM events WHERE position > 6")
    await admin.execute("UPDATE log_head SET position = 6")
    assert shown(await lines(reader))[-3:] == [6, "s8", "s12"]
    assert shown(await lines(reader, last=5))[-1] == 5


async def test_a_payload_that_is_no_text_is_written_all_the_same(
    reader: LogReader, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
    await admin.execute("UPDATE events SET payload = '\\xff00'::bytea WHERE position = 3")
    found = await lines(reader)
    assert found[3]["payload"].encode("utf-8", "surrogateescape") == b"\xff\x00"


async def test_a_reader_can_change_nothing(reader: LogReader, database: str) -> None:
    owner = LogReader(database)
    await owner.open()
    for one in (reader, owner):
        with pytest.raises(Unavailable, match=r"read-only|denied"):
            await one.fetch("INSERT INTO checkpoints VALUES (99, '', '')")
    await owner.close()


async def test_what_is_no_log_is_said_to_be_none(postgres: str, admin: asyncpg.Connection[Any]) -> None:
    with pytest.raises(Unavailable, match="there is no log of Horizon in this database"):
        await LogReader(postgres).open()
    await admin.execute("UPDATE schema_revision SET version_num = '0001'")
    name = await admin.fetchval("SELECT current_database()")
    with pytest.raises(Unavailable, match="`horizon migrate` updates it"):
        await LogReader(postgres.replace("/postgres?", f"/{name}?")).open()


@pytest.fixture
async def exported(reader: LogReader, tmp_path: Path) -> Path:
    plan = await plan_export(reader, 1, None)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join([lines async for _, lines in plan.lines()]))
    return path


async def events_of(log: ExportFile | LogReader, after: int = 0, end: int = 12) -> list[Stored]:
    return [stored async for chunk in log.stored(after, end) for stored in chunk]


async def test_an_export_gives_back_the_events_that_were_written(
    reader: LogReader, exported: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(gzip.compress(exported.read_bytes()))  # noqa: ASYNC240
    for path in (exported, packed):
        file = ExportFile(path)
        assert (file.header().from_, file.header().to) == (1, 12)
        assert await events_of(file) == await events_of(reader)
        assert await events_of(file, 3, 7) == await events_of(reader, 3, 7)


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        (b'"horizon_export":1', b'"horizon_export":2', "is an export of version 2, not 1"),
        (b'{"horizon_export"', b'{"export"', "is no export of a log"),
        (b'"actor":', b'"author":', "line 2 of .* is no event"),
        (b'"hash":"', b'"hash":"no', "line 2 of .* is no event"),
    ],
)
async def test_what_is_no_export_says_so(exported: Path, was: bytes, becomes: bytes, message: str) -> None:
    exported.write_bytes(exported.read_bytes().replace(was, becomes, 1))  # noqa: ASYNC240
    with pytest.raises(Corrupt, match=message):
        await events_of(ExportFile(exported))


async def test_a_file_that_is_cut_off_or_missing_says_so(exported: Path, tmp_path: Path) -> None:
    packed = gzip.compress(exported.read_bytes())  # noqa: ASYNC240
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "endless").write_bytes(gzip.decompress(packed).rsplit(b'{"end"', 1)[0])
    for name in ("cut.gz", "empty", "endless", "missing"):
        with pytest.raises(Corrupt, match=name):
            await events_of(ExportFile(tmp_path / name))
