"""A log whose oldest partitions are in files is read like any other, and says so when they are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon.core.events import Recorded
from horizon.core.state import digest
from horizon.service.recovery import Begun, fold_log, fold_until
from horizon.store.archive import Archives, events_in
from horizon.store.export import plan_export
from horizon.store.partitions import apart, drop, set_apart
from horizon.store.partitions import attached as partitions_of
from horizon.store.port import Archive, Archived, Batch, Corrupt, Unavailable, Wanted
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader
from horizon.store.tree import Frontier
from tests.partitions import attached, make_small
from tests.store.contract import drafts

SIZE, EVENTS = 10, 35


@pytest.fixture
async def store(
    database: str, admin: asyncpg.Connection[Any], tmp_path: Path
) -> AsyncIterator[PostgresStore]:
    """35 events in partitions of ten."""
    await make_small(admin, SIZE)
    store = PostgresStore(database, archive=[tmp_path])
    await store.open()
    await store.elect()
    await store.append(Batch(drafts(EVENTS, comment="x" * 5_000), 1_000))
    yield store
    await store.close()


@pytest.fixture
async def reader(database: str, store: PostgresStore, tmp_path: Path) -> AsyncIterator[LogReader]:
    reader = LogReader(database, [tmp_path])
    await reader.open()
    yield reader
    await reader.close()


async def archive(store: PostgresStore, reader: LogReader, directory: Path, first: int) -> Path:
    """Put the partition from this event on into a file, and take it out of the log."""
    last = first + SIZE - 1
    path = directory / f"{first}.jsonl"
    plan = await plan_export(reader, first, last)
    path.write_bytes(b"".join([lines async for _, lines in plan.lines()]))
    hashes = [one async for one in reader.hashes(0, last)]
    frontier = Frontier()
    for hash in hashes:
        frontier.add(hash)
    known = Archive(first, last, frontier.packed(), hashes[-1], path.name, bytes(32))
    number = 1 + sum([1 async for _ in store.read(0)])
    await store.append(Batch(drafts(1, first=number), 3_000, archive=known))
    await set_apart(reader.dsn, first)
    return path


async def all_of(store: PostgresStore, after: int = 0, limit: int | None = None) -> list[Recorded]:
    return [one async for one in store.read(after, limit)]


async def test_events_in_files_are_read_as_from_the_table(
    store: PostgresStore, reader: LogReader, tmp_path: Path
) -> None:
    before = await all_of(store)
    await archive(store, reader, tmp_path, 1)
    await archive(store, reader, tmp_path, 11)
    after = await all_of(store)
    assert after[:EVENTS] == before
    for begin, limit in ((0, 3), (5, 10), (8, 4), (9, None), (10, 1), (15, 17), (19, 2), (20, 5)):
        assert await all_of(store, begin, limit) == after[begin:][:limit], (begin, limit)
    assert await store.read_at([1, 10, 11, 20, 21, 35, 99]) == [
        after[at - 1] for at in (1, 10, 11, 20, 21, 35)
    ]
    stored = [one.hash async for chunk in reader.stored(3, 33) for one in chunk]
    assert stored == [one.hash for one in after[3:33]]
    assert [one async for one in reader.hashes(7, 26)] == [one.hash for one in after[7:26]]
    assert [await reader.hash_at(at) for at in (0, 5, 10, 20, 21)] == [
        bytes(32), *(after[at - 1].hash for at in (5, 10, 20, 21))
    ]  # fmt: skip


async def test_events_in_files_are_found_as_in_the_table(
    store: PostgresStore, reader: LogReader, tmp_path: Path
) -> None:
    await store.append(Batch(drafts(1, first=36), 2_000))
    asks = [
        (Wanted(), 0, 36, 100),
        (Wanted(), 5, 12, 100),
        (Wanted(), 5, 36, 7),
        (Wanted(actor="eve"), 0, 36, 9),
    ]
    asks += [(Wanted(positions=(2, 9, 11, 25, 36)), 2, 30, limit) for limit in (1, 2, 9)]
    asks += [(Wanted("owner", ("JobSubmitted",)), 8, 36, 30), (Wanted(types=("JobHeld",)), 0, 36, 30)]
    before = [await store.find(*one) for one in asks]
    assert [len(one) for one in before] == [36, 7, 7, 0, 1, 2, 3, 28, 0]
    moments = [await store.position_at(at) for at in (0, 999, 1_000, 1_500, 2_000)]
    assert moments == [0, 0, 35, 35, 36]
    await archive(store, reader, tmp_path, 1)
    await archive(store, reader, tmp_path, 11)
    assert [await store.find(*one) for one in asks] == before
    assert [await store.position_at(at) for at in (0, 999, 1_000, 1_500)] == moments[:-1]


async def test_hashes_are_read_on_when_partitions_go_meanwhile(
    store: PostgresStore, reader: LogReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the reader is: before a partition, in it, and behind it."""
    monkeypatch.setattr("horizon.store.reader.READ_HASHES", 4)
    known = [one.hash for one in await all_of(store)]
    read: list[bytes] = []
    async for hash in reader.hashes(0, 30):
        read.append(hash)
        if len(read) == 7:
            await archive(store, reader, tmp_path, 1)
            await archive(store, reader, tmp_path, 11)
    assert read == known[:30]


async def test_events_are_found_when_a_partition_goes_meanwhile(
    store: PostgresStore, reader: LogReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [True]

    async def archives() -> Archives:
        known = await PostgresStore.archives(store)
        if first:
            first.clear()
            await archive(store, reader, tmp_path, 1)
        return known

    before = await all_of(store)
    monkeypatch.setattr(store, "archives", archives)
    assert await store.find(Wanted(), 0, EVENTS, 100) == before


async def test_without_its_file_an_event_is_said_to_be_archived(
    store: PostgresStore, reader: LogReader, tmp_path: Path
) -> None:
    head = await store.open()
    path = await archive(store, reader, tmp_path, 1)
    path.unlink()
    words = r"events 1 to 10 are in the file 1\.jsonl \(SHA-256 0{64}\), which is not in .*HORIZON_ARCHIVE"
    with pytest.raises(Archived, match=words):
        await fold_log(store, head)
    with pytest.raises(Archived, match=words):
        await store.read_at([3])
    assert [one.position for one in await all_of(store, 10, 2)] == [11, 12], (
        "what follows hangs on what is on record"
    )
    with pytest.raises(Archived, match=words):
        [chunk async for chunk in reader.stored(0, 5)]


async def test_without_its_file_a_fold_begins_at_a_snapshot_behind_it(
    store: PostgresStore, reader: LogReader, tmp_path: Path
) -> None:
    path = await archive(store, reader, tmp_path, 1)
    head = await store.open()
    whole = digest(await fold_log(store, head))
    hash = (await store.read_at([25]))[0].hash
    begun = Begun(await fold_until(store, head.position, 25), hash)
    path.unlink()
    assert digest(await fold_log(store, head, begun=begun)) == whole


async def test_a_file_that_does_not_lead_to_the_rest_is_found(
    store: PostgresStore, reader: LogReader, tmp_path: Path
) -> None:
    path = await archive(store, reader, tmp_path, 1)
    whole = path.read_bytes()
    half = whole[: whole.index(b'"payload"', len(whole) // 2)]
    for spoilt, words in (
        (whole.replace(b'"actor":"owner"', b'"actor":"eve"', 1), "event 1 has been changed"),
        (whole.replace(b'"position":7', b'"position":8', 1), "the log has a gap: after 6 comes 8"),
        (b"\n".join(whole.split(b"\n")[:5]), "event 5 is missing"),
        (half, f"cannot be read behind event {half.count(b'position') - 1}: "),
        (whole.replace(b'"hash":"', b'"hash":"zz', 1), "cannot be read"),
        (b"", "event 1 is missing"),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(Corrupt, match=words):
            await all_of(store)
    path.write_bytes(whole)
    await all_of(store)


@pytest.mark.parametrize("at", [1, 2, 10, 11, 15, 21, 25])
async def test_what_was_changed_is_not_found_as_if_it_were_true(
    store: PostgresStore, reader: LogReader, admin: asyncpg.Connection[Any], tmp_path: Path, at: int
) -> None:
    """In files and in the table, at their ends and in between; what hangs on it by its hash alone is."""
    await archive(store, reader, tmp_path, 1)
    path = await archive(store, reader, tmp_path, 11)
    if at > 20:
        await admin.execute("ALTER TABLE events_000002 DISABLE TRIGGER ALL")
        await admin.execute("UPDATE events SET actor = 'eve' WHERE position = $1", at)
    else:
        path = path if at > 10 else tmp_path / "1.jsonl"
        [line] = [line for line in path.read_bytes().splitlines() if f'"position":{at},'.encode() in line]
        path.write_bytes(path.read_bytes().replace(line, line.replace(b'"actor":"owner"', b'"actor":"eve"')))
    for wanted in (Wanted(actor="eve"), Wanted(positions=(at,))):
        with pytest.raises(Corrupt, match=f"event {at} has been changed"):
            await store.find(wanted, 0, EVENTS, 100)
    with pytest.raises(Corrupt, match=f"event {at} has been changed"):
        await store.read_at([at])
    others = [one for one in range(1, EVENTS + 1) if one != at]
    assert [one.position for one in await store.read_at(others)] == others


async def test_partitions_are_numbered_on_whichever_were_taken_out(
    store: PostgresStore, reader: LogReader, admin: asyncpg.Connection[Any], tmp_path: Path, database: str
) -> None:
    assert await attached(admin) == [f"events_00000{number}" for number in range(4)]
    with pytest.raises(Unavailable, match="does not say that the events from 1 on are archived"):
        await set_apart(database, 1)
    await archive(store, reader, tmp_path, 1)
    [taken] = await apart(reader)
    assert (taken.first, taken.last) == (1, 10)
    for statement in (
        "UPDATE events_000000 SET epoch = 2",
        "DELETE FROM events_000000",
        "TRUNCATE events_000000",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await admin.execute(statement)
    await drop(database, taken)
    assert await apart(reader) == []
    await store.append(Batch(drafts(30, first=37), 4_000))
    again = PostgresStore(database, archive=[tmp_path])
    await again.open()
    await again.elect()
    assert len(await all_of(again)) == 66
    assert [(one.first, one.last) for one in await partitions_of(reader)] == [
        (first, first + 9) for first in range(11, 71, 10)
    ]
    await again.close()


def test_an_event_is_found_in_a_long_file_without_reading_all_of_it(tmp_path: Path) -> None:
    from horizon.store.codec import seal
    from horizon.store.export import event_line
    from horizon.store.port import GENESIS_HASH, Head

    sealed = seal(Head(bytes(16), 1, 0, GENESIS_HASH, 0), drafts(2_000, comment="y" * 300), 1_000)
    path = tmp_path / "log.jsonl"
    lines = [b'{"horizon_export":1}', *map(event_line, sealed), b'{"end":true,"events":2000}']
    lines.insert(1_000, b'{"checkpoint":"' + b"z" * 100_000 + b'"}')
    path.write_bytes(b"\n".join(lines) + b"\n")
    for after, end in (
        (0, 1),
        (1, 5),
        (998, 1_003),
        (1_999, 2_000),
        (1_234, 1_235),
        (0, 2_000),
        (2_000, 2_005),
    ):
        found = [one.position for chunk in events_in(path, after, end) for one in chunk]
        assert found == list(range(after + 1, min(end, 2_000) + 1))
