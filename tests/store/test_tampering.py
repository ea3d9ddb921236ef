"""Whatever the owner of the database does to the log is found: by the live verification, and by the auditor
on an export, each with the position. What neither can find is shown, too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from horizon import auditor
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.model import Priority
from horizon.executors.inventory import without_gpus
from horizon.executors.local import LocalExecutor
from horizon.service import notary as notary_module
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine
from horizon.service.keys import KeyFile
from horizon.service.notary import Distrust, Notary
from horizon.service.notefile import NoteFile
from horizon.service.verify import Report, Unsound, kept_in, verify
from horizon.store import codec
from horizon.store.export import plan_export
from horizon.store.note import SigningKey, read_note, signed
from horizon.store.port import GENESIS_HASH, Corrupt
from horizon.store.postgres import PostgresStore
from horizon.store.proof import NotFound, prove
from horizon.store.reader import LogReader
from tests.service.test_engine import ask, submission, until

SIGNED = [4, 12, 13, 15]
"""The checkpoints: at each start and each stop of a scheduler that signs."""
END = 17
"""Two events more are linked and not signed."""


class House(NamedTuple):
    """A signed log in a database, and what stands outside of it."""

    dsn: str
    directory: Path

    @property
    def notes(self) -> NoteFile:
        return NoteFile(self.directory / "checkpoints")

    @property
    def keys(self) -> KeyFile:
        return KeyFile(self.directory / "signing.key")

    async def engine(self, with_notary: bool = True) -> Engine:
        clock = SystemClock()
        executor = LocalExecutor(self.directory, (without_gpus({}),))
        notary = Notary(self.keys, self.notes) if with_notary else None
        engine = Engine(PostgresStore(self.dsn), executor, clock, Ids(clock), notary=notary)
        try:
            await engine.start()
        except Distrust:
            await engine.stop()
            raise
        return engine


async def signed_up_to(engine: Engine, size: int) -> None:
    notary = engine.notary
    assert notary is not None
    await until(lambda: notary.size == size)


async def build(house: House) -> None:
    engine = await house.engine()
    await signed_up_to(engine, 4)
    for _ in range(6):
        await ask(engine, submission(engine, hold=True))
    first = engine.state.numbered[0].id
    await ask(engine, cmd.Update(first, priority=Priority.HIGH))
    await ask(engine, cmd.Cancel(first))
    await engine.stop()
    engine = await house.engine()
    await signed_up_to(engine, 13)
    for _ in range(2):
        await ask(engine, submission(engine, hold=True))
    await engine.stop()
    engine = await house.engine(with_notary=False)
    await ask(engine, submission(engine, hold=True))
    await engine.stop()


@pytest.fixture(scope="module")
def built(postgres: str) -> Iterator[House]:
    """One log for all tests; each tampers with a copy."""
    with TemporaryDirectory(prefix="horizon-tamper-") as directory:
        dsn = re.sub(r"(//[^/]*)/[^?]*", r"\1/horizon_tamper", postgres, count=1)

        async def make() -> None:
            admin = await asyncpg.connect(postgres)
            await admin.execute("DROP DATABASE IF EXISTS horizon_tamper WITH (FORCE)")
            await admin.execute("CREATE DATABASE horizon_tamper")
            await admin.close()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(notary_module, "SIGN_S", 3_600.0)  # however slowly it goes
                await build(House(dsn, Path(directory)))

        asyncio.run(make())
        yield House(dsn, Path(directory))


@pytest.fixture
async def house(built: House, postgres: str) -> AsyncIterator[House]:
    admin = await asyncpg.connect(postgres)
    await admin.execute("CREATE DATABASE horizon_tampered TEMPLATE horizon_tamper")
    yield House(built.dsn.replace("horizon_tamper", "horizon_tampered"), built.directory)
    await admin.execute("DROP DATABASE horizon_tampered WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def admin(house: House) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A superuser who has taken the triggers away."""
    connection = await asyncpg.connect(house.dsn)
    for table in ("events", "events_000000", "log_head", "checkpoints"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield connection
    await connection.close()


async def verified(house: House, files: bool = True, kept: Iterable[Path] = ()) -> Report:
    reader = LogReader(house.dsn)
    await reader.open()
    public = house.keys.public()
    assert public is not None
    try:
        own = [house.notes] if files else []
        said = [one for path in kept for one in kept_in(path)]
        return await verify(reader, own, [public], lambda done, total: None, kept=said)
    finally:
        await reader.close()


async def audited(house: House, path: Path, kept: bool = False) -> int:
    reader = LogReader(house.dsn)
    await reader.open()
    plan = await plan_export(reader, 1, None)
    path.write_bytes(b"".join([lines async for _, lines in plan.lines()]))  # noqa: ASYNC240
    await reader.close()
    more = ["--checkpoint", str(house.notes.path)] if kept else []
    return auditor.main([str(path), "--key", str(house.keys.public_path), *more])


async def test_the_untouched_log_holds(house: House, tmp_path: Path) -> None:
    found = await verified(house)
    assert (found.events, found.signed, found.in_table, found.in_files) == (
        END,
        SIGNED[-1],
        len(SIGNED),
        len(SIGNED),
    )
    assert (found.epoch, found.jobs, found.keys) == (3, 9, 1)
    assert await audited(house, tmp_path / "export.jsonl", kept=True) == 0


Tamper = Callable[["asyncpg.Connection[Any]"], Awaitable[None]]


def by(*statements: str) -> Tamper:
    async def tamper(admin: asyncpg.Connection[Any]) -> None:
        for statement in statements:
            await admin.execute(statement)

    return tamper


async def rechain(admin: asyncpg.Connection[Any], begin: int) -> None:
    """Make all hashes anew from here on, and the head fit: the chain holds again."""
    reader = LogReader("")
    reader._connection = admin
    rows = await reader.where("position >= $1 - 1 ORDER BY position", begin)
    previous = rows[0].hash if begin > 1 else GENESIS_HASH
    for one in rows[1:] if begin > 1 else rows:
        previous = codec.header_hash(one, previous)
        await admin.execute("UPDATE events SET hash = $1 WHERE position = $2", previous, one.position)
    await admin.execute(
        "UPDATE log_head SET position = $1, tip = $2, recorded_at_us = $3",
        rows[-1].position,
        previous,
        rows[-1].recorded_at_us,
    )


def then_rechain(begin: int, *statements: str) -> Tamper:
    async def tamper(admin: asyncpg.Connection[Any]) -> None:
        await by(*statements)(admin)
        await rechain(admin, begin)

    return tamper


SWAP = tuple(
    f"UPDATE events SET position = {to} WHERE position = {at}" for at, to in ((7, 99), (8, 7), (99, 8))
)
MAKE_ROOM = (
    "UPDATE events SET position = position + 100 WHERE position >= 7",
    "UPDATE events SET position = position - 99 WHERE position >= 107",
)
COPY = """INSERT INTO events
          SELECT {}, recorded_at_us, epoch, type, schema_version, stream, stream_version, actor, command_id,
          correlation_id, causation, payload, hash FROM events WHERE position = 6"""

TAMPERED: dict[str, tuple[Tamper, int]] = {
    **{
        f"{change.split(' ')[0]} changed": (by(f"UPDATE events SET {change} WHERE position = 7"), 7)
        for change in (
            "position = 99", "recorded_at_us = recorded_at_us + 1", "epoch = 2", "type = 'JobHeld'",
            "schema_version = 2", "stream = 'job/x'", "stream_version = 2", "actor = 'mallory'",
            "command_id = decode(repeat('01', 16), 'hex')",
            "correlation_id = decode(repeat('01', 16), 'hex')",
            "causation = 3", "hash = decode(repeat('01', 32), 'hex')",
            "payload = convert_to(replace(convert_from(payload, 'UTF8'), 'alice', 'malle'), 'UTF8')",
        )
    },
    **{
        change: (by(f"UPDATE events SET {change} WHERE position = 7"), 7)
        for change in (
            "epoch = -1", "stream_version = -1", "causation = -1", "schema_version = -1",
            "type = repeat('x', 70000)", "stream = repeat('x', 70000)", "actor = repeat('x', 70000)",
            "command_id = command_id || '\\x00'", "correlation_id = correlation_id || '\\x01'",
        )
    },
    "deleted": (by("DELETE FROM events WHERE position = 7"), 7),
    "swapped": (by(*SWAP), 7),
    "inserted": (by(*MAKE_ROOM, COPY.format(7)), 7),
    "all hashes rewritten": (then_rechain(7, "UPDATE events SET actor = 'mallory' WHERE position = 7"), 12),
    "swapped and rewritten": (then_rechain(7, *SWAP), 7),
    "deleted and rewritten": (
        then_rechain(
            7,
            "DELETE FROM events WHERE position = 7",
            "UPDATE events SET position = position - 1 WHERE position > 7",
        ),
        7,
    ),
    "the first of all rewritten": (then_rechain(1, "UPDATE events SET actor = 'm' WHERE position = 1"), 4),
    "truncated": (then_rechain(7, "DELETE FROM events WHERE position > 10"), 11),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
async def test_it_is_found_at_its_position(
    house: House,
    admin: asyncpg.Connection[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    tamper, position = TAMPERED[name]
    await tamper(admin)
    with pytest.raises(Unsound, match=f"position {position}: "):
        await verified(house)
    assert await audited(house, tmp_path / "export.jsonl") == 1
    assert f"position {position}: " in capsys.readouterr().err


async def test_what_was_rewritten_is_said_to_be_between_two_checkpoints(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hashes are right, so no more can be said; of a wrong hash it is said once where it is."""
    await then_rechain(7, "UPDATE events SET actor = 'mallory' WHERE position = 7")(admin)
    with pytest.raises(
        Unsound, match=r"^position 12: one of the events 5 to 12 is not what was signed in the"
    ):
        await verified(house)
    assert await audited(house, tmp_path / "export.jsonl") == 1
    assert "position 12: one of the events 5 to 12 is not what was signed\n" in capsys.readouterr().err
    await admin.execute("UPDATE events SET actor = 'eve' WHERE position = 9")
    with pytest.raises(Unsound, match=r"^position 9: it has been changed, or the one before it: "):
        await verified(house)


@pytest.mark.parametrize(
    ("tamper", "position"),
    [
        (then_rechain(7, "UPDATE events SET actor = 'm' WHERE position = 7", "DELETE FROM checkpoints"), 12),
        (then_rechain(1, "UPDATE events SET actor = 'm' WHERE position = 1", "DELETE FROM checkpoints"), 4),
        (then_rechain(7, "DELETE FROM events WHERE position > 10", "DELETE FROM checkpoints"), 11),
    ],
)
async def test_what_the_database_hides_the_file_outside_shows(
    house: House,
    admin: asyncpg.Connection[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tamper: Tamper,
    position: int,
) -> None:
    """A superuser takes the checkpoints away as well: what was kept elsewhere still says it."""
    await tamper(admin)
    with pytest.raises(Unsound) as found:
        await verified(house)
    assert found.value.position == position
    assert str(house.notes.path) in str(found.value)
    assert await audited(house, tmp_path / "export.jsonl", kept=True) == 1
    assert f"position {position}: " in capsys.readouterr().err
    for table in ("events", "events_000000", "events_000001", "checkpoints"):
        for trigger in ("refuse_change", "refuse_truncate"):
            await admin.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    for trigger in ("refuse_delete", "refuse_truncate"):
        await admin.execute(f"ALTER TABLE log_head ENABLE ALWAYS TRIGGER {trigger}")
    with pytest.raises(Distrust):
        await house.engine()


async def test_a_checkpoint_that_somebody_kept_shows_what_table_and_file_hide(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept as curl writes it: the note alone, or one behind the other."""
    one, both, foreign = (tmp_path / name for name in ("one.txt", "both.txt", "foreign.txt"))
    notes = list(house.notes.notes())
    one.write_text(notes[1])
    both.write_text("".join(notes[1:3]))
    found = await verified(house, kept=[one, both])
    assert (found.in_files, found.kept) == (len(SIGNED), 3)
    checkpoint, _ = read_note(notes[1])
    other = SigningKey.new("horizon/00")
    foreign.write_text(signed(replace(checkpoint, origin="horizon/00", size=99), [other]))
    with pytest.raises(Unsound, match=r"foreign\.txt is of horizon/00, and this is horizon/"):
        await verified(house, kept=[foreign])
    rewritten = "UPDATE events SET actor = 'mallory' WHERE position = 7"
    await then_rechain(7, rewritten, "DELETE FROM checkpoints WHERE size > 4")(admin)
    assert (await verified(house, files=False)).signed == 4
    for kept in (one, both):
        with pytest.raises(Unsound, match=rf"position 12: .* signed in .*{kept.name}"):
            await verified(house, files=False, kept=[kept])


async def test_checkpoints_that_were_taken_out_of_the_table_are_counted(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """The file has them, so the log holds; that they are gone is to be seen all the same."""
    kept = tmp_path / "kept.txt"
    kept.write_text(list(house.notes.notes())[1])
    assert (await verified(house, kept=[kept])).not_in_table == 0
    await admin.execute("DELETE FROM checkpoints WHERE size = 12")
    for files in (True, False):
        assert (await verified(house, files, [kept])).not_in_table == 1
    await admin.execute("DELETE FROM checkpoints")
    found = await verified(house)
    assert (found.in_table, found.in_files, found.not_in_table) == (0, len(SIGNED), len(SIGNED))


async def test_a_file_whose_checkpoints_are_out_of_their_order_is_found(house: House, tmp_path: Path) -> None:
    first, *others = house.notes.notes()
    checkpoint, _ = read_note(first)
    made_up = signed(replace(checkpoint, size=99), [SigningKey.new(checkpoint.origin)])
    swapped = NoteFile(tmp_path / "checkpoints")
    for note in (first, made_up, *others):
        swapped.append(note)
    reader = LogReader(house.dsn)
    await reader.open()
    with pytest.raises(Unsound, match=r"position 12: its checkpoint in .* is out of its order"):
        await verify(reader, [swapped], [], lambda done, total: None)
    await reader.close()


async def test_without_the_file_a_log_that_is_not_signed_any_more_is_noticed(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    await admin.execute("DELETE FROM checkpoints")
    with pytest.raises(Unsound, match="nothing is signed: the checkpoints were taken away"):
        await verified(house, files=False)
    assert await audited(house, tmp_path / "export.jsonl") == 1


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE log_head SET position = 18", "position 18: it is missing"),
        ("UPDATE log_head SET position = 16", "position 16: the head of the log does not say"),
        ("UPDATE log_head SET tip = ''", "position 17: the head of the log does not say"),
        ("UPDATE log_head SET recorded_at_us = 0", "position 17: the head of the log does not say"),
        ("UPDATE log_head SET epoch = 1", "position 17: the head of the log does not say"),
        ("UPDATE log_head SET log_id = ''", "is of horizon/"),
        (COPY.format(18), "position 18: it stands behind the head of the log"),
        ("UPDATE checkpoints SET size = 11 WHERE size = 12", "position 11: "),
        ("UPDATE checkpoints SET frontier = '' WHERE size = 12", "position 12: the frontier"),
        ("UPDATE checkpoints SET note = replace(note, E'\\n12\\n', E'\\n11\\n') WHERE size = 12", "is false"),
        ("UPDATE checkpoints SET note = '' WHERE size = 12", "cannot be read"),
        ("INSERT INTO checkpoints VALUES (99, '', '')", "position 18: events up to 99 were signed"),
    ],
)
async def test_what_stands_beside_the_events_is_checked_too(
    house: House, admin: asyncpg.Connection[Any], statement: str, words: str
) -> None:
    await admin.execute(statement)
    with pytest.raises(Unsound) as found:
        await verified(house)
    assert words in str(found.value)


async def test_a_checkpoint_under_another_key_is_found(house: House, admin: asyncpg.Connection[Any]) -> None:
    note = await admin.fetchval("SELECT note FROM checkpoints WHERE size = 12")
    checkpoint, _ = read_note(note)
    forged = signed(checkpoint, [SigningKey.new(checkpoint.origin)])
    await admin.execute("UPDATE checkpoints SET note = $1 WHERE size = 12", forged)
    with pytest.raises(Unsound, match=r"position 12: its checkpoint in the table .* is not signed by"):
        await verified(house)


async def append(admin: asyncpg.Connection[Any], event: ev.Event, version: int, **fields: Any) -> None:
    """What a superuser can add behind the last checkpoint: an event whose hash is right."""
    reader = LogReader("")
    reader._connection = admin
    [last] = await reader.where("position = $1", END)
    made = replace(
        last,
        position=END + 1,
        type=type(event).__name__,
        stream=event.stream,
        stream_version=version,
        payload=ev.encode(event),
        **fields,
    )
    hash = codec.header_hash(made, last.hash)
    names = ", ".join(made.__struct_fields__)
    values = [getattr(made, name) for name in made.__struct_fields__[:-1]]
    holders = ", ".join(f"${at}" for at in range(1, len(values) + 2))
    await admin.execute(f"INSERT INTO events ({names}) VALUES ({holders})", *values, hash)
    await admin.execute("UPDATE log_head SET position = $1, tip = $2", END + 1, hash)


async def test_an_event_that_no_rule_allows_is_found_though_its_hash_is_right(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = await admin.fetchval(
        "SELECT convert_from(payload, 'UTF8')::json FROM events WHERE position = 6"
    )
    id = re.findall(r'"job_id":"([^"]*)"', payload)[0]
    correlation = await admin.fetchval("SELECT correlation_id FROM events WHERE position = 6")
    await append(admin, ev.JobStarted(job_id=id, attempt=0), 2, correlation_id=correlation)
    with pytest.raises(Unsound, match="position 18: JobStarted cannot happen to job 2, which is Queued"):
        await verified(house)
    assert await audited(house, tmp_path / "export.jsonl") == 1
    assert "position 18: JobStarted cannot happen to a job that is Queued" in capsys.readouterr().err


async def test_what_is_not_signed_yet_can_be_taken_away(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """This is not promised: behind the last checkpoint a superuser can rewrite what nobody has kept."""
    await then_rechain(16, "DELETE FROM events WHERE position > 15")(admin)
    await admin.execute("UPDATE log_head SET epoch = 2")
    assert (await verified(house)).events == 15
    assert await audited(house, tmp_path / "export.jsonl", kept=True) == 0


async def proven(house: House, job: str, path: Path) -> list[str]:
    """The types of a job's proven events, as the auditor tells them."""
    reader = LogReader(house.dsn)
    await reader.open()
    try:
        path.write_bytes(msgspec.json.encode(await prove(reader, job)))  # noqa: ASYNC240
    finally:
        await reader.close()
    assert auditor.main(["--proof", str(path), "--key", str(house.keys.public_path)]) == 0
    return [line["type"] for line in msgspec.json.decode(path.read_bytes())["events"]]  # noqa: ASYNC240


async def test_a_job_is_proven_by_number_and_by_id(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    expected = ["JobSubmitted", "JobUpdated", "JobCancelled"]
    stream = await admin.fetchval("SELECT stream FROM events WHERE position = 5")
    for job in ("1", stream.removeprefix("job/"), stream.removeprefix("job/").upper()):
        assert await proven(house, job, tmp_path / "proof.json") == expected
    for job, words in (
        ("9", "newer than the newest checkpoint"),
        ("10", "there is no job 10"),
        ("1_0", "there is no job 1_0"),
        ("x", "'x' is no job"),
        ("01890a5d-ac96-774b-bcce-b302099a8057", "there is no job"),
    ):
        with pytest.raises(NotFound, match=words):
            await proven(house, job, tmp_path / "proof.json")


async def test_nothing_is_proven_of_a_log_that_is_not_the_signed_one(
    house: House, admin: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    await then_rechain(7, "UPDATE events SET actor = 'mallory' WHERE position = 7")(admin)
    with pytest.raises(Corrupt, match="is not the one that its newest checkpoint signed"):
        await proven(house, "1", tmp_path / "proof.json")
