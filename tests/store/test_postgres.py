"""The Postgres store keeps the contract, protects its tables, and says what is wrong with a database."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon.store.embedded import EmbeddedPostgres
from horizon.store.migrate import SCHEMA_REVISION, migrations_dir
from horizon.store.port import (
    GENESIS_HASH,
    Archive,
    Batch,
    Corrupt,
    EventStore,
    Fenced,
    Head,
    SetBack,
    Signed,
    Unavailable,
    UnknownOutcome,
)
from horizon.store.postgres import PostgresStore, _classify
from tests.store.contract import Connect, SetTo, StoreContract, drafts
from tests.store.test_fitness import warnings_of


@pytest.fixture
async def connect(database: str) -> AsyncIterator[Connect]:
    opened: list[PostgresStore] = []

    async def connect() -> PostgresStore:
        store = PostgresStore(database)
        await store.open()
        opened.append(store)
        return store

    yield connect
    for store in opened:
        await store.close()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def connect(self, connect: Connect) -> Connect:
        return connect

    @pytest.fixture
    def set_back(self, admin: asyncpg.Connection[Any]) -> SetTo:
        async def set_back(head: Head) -> None:
            await admin.execute("ALTER TABLE events DISABLE TRIGGER ALL")
            await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
            await admin.execute("DELETE FROM events WHERE position > $1", head.position)
            await admin.execute(
                "UPDATE log_head SET epoch = $1, position = $2, tip = $3, recorded_at_us = $4",
                head.epoch,
                head.position,
                head.tip,
                head.recorded_at_us,
            )

        return set_back


async def leader(connect: Connect) -> EventStore:
    store = await connect()
    await store.elect()
    return store


# --- the log is append-only ---------------------------------------------------------------------------


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'mallory'",
        "UPDATE events_000000 SET actor = 'mallory'",
        "DELETE FROM events",
        "DELETE FROM events_000000",
        "TRUNCATE events",
        "TRUNCATE events_000000",
        "UPDATE answers SET status = 200",
        "TRUNCATE answers",
        "DELETE FROM log_head",
        "TRUNCATE log_head",
        "TRUNCATE blobs",
        "UPDATE checkpoints SET note = ''",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
        "UPDATE archives SET file = ''",
        "DELETE FROM archives",
        "TRUNCATE archives",
    ],
)
async def test_the_owner_cannot_change_what_is_recorded(
    connect: Connect, admin: asyncpg.Connection[Any], statement: str, replica: bool
) -> None:
    from horizon.store.port import Answer

    store = await leader(connect)
    await store.append(Batch(drafts(1), 1_000, {"d": b"x"}, (Answer("key", b"f", 201, b"{}"),)))
    await store.add_checkpoint(Signed(1, bytes(32), "note"))
    archive = Archive(1, 1, bytes(32), bytes(32), "log.jsonl", bytes(32))
    await store.append(Batch(drafts(1, first=2), 1_000, archive=archive))
    if replica:  # switches ordinary triggers off
        await admin.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await admin.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE events SET epoch = 9", "UPDATE blobs SET data = ''", "TRUNCATE blobs",
     "UPDATE archives SET file = ''", "DELETE FROM archives", "CREATE TABLE x ()",
     "DROP TABLE events", "ALTER TABLE events DISABLE TRIGGER ALL",
     "UPDATE checkpoints SET size = 9", "DELETE FROM checkpoints",
     "UPDATE answers SET status = 1", "DELETE FROM log_head"],
)  # fmt: skip
async def test_the_writer_may_insert_and_erase_blobs_and_nothing_else(
    admin: asyncpg.Connection[Any], statement: str
) -> None:
    await admin.execute("SET ROLE horizon_writer")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.execute(statement)


@pytest.fixture
async def auditor(database: str, admin: asyncpg.Connection[Any]) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A login that is nothing but a member of the auditor's role."""
    name = "eve_of_" + await admin.fetchval("SELECT current_database()")
    await admin.execute(f'CREATE ROLE "{name}" LOGIN IN ROLE horizon_auditor')
    connection = await asyncpg.connect(database, user=name)
    yield connection
    await connection.close()
    await admin.execute(f'DROP ROLE "{name}"')


async def test_an_auditor_reads_the_log_and_all_that_proves_it(
    connect: Connect, auditor: asyncpg.Connection[Any]
) -> None:
    store = await leader(connect)
    await store.append(Batch(drafts(1), 1_000_000))
    row = await auditor.fetchrow("SELECT position, event->>'job_id' AS id, recorded_at FROM log")
    assert row is not None
    assert (row["position"], row["id"], row["recorded_at"].timestamp()) == (1, "id-1", 1.0)
    assert await auditor.fetchval("SELECT hash FROM events") == await auditor.fetchval(
        "SELECT tip FROM log_head"
    )
    assert await auditor.fetch("SELECT note FROM checkpoints") == []


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM blobs", "SELECT body FROM answers", "INSERT INTO events SELECT * FROM events",
     "UPDATE events SET epoch = 9", "DELETE FROM log", "TRUNCATE events",
     "UPDATE log_head SET epoch = 9", "UPDATE log_head SET leader = ''",
     "INSERT INTO checkpoints VALUES (1, '', '')", "DELETE FROM checkpoints",
     "INSERT INTO answers VALUES ('k', '', 1, '', 1)",
     "DROP VIEW log", "DROP TRIGGER refuse_change ON events", "CREATE TABLE x ()",
     "ALTER TABLE events_000000 DISABLE TRIGGER ALL", "SELECT add_partition()",
     "SET ROLE horizon_writer", "GRANT horizon_writer TO CURRENT_USER"],
)  # fmt: skip
async def test_an_auditor_sees_no_secret_and_changes_nothing(
    connect: Connect, auditor: asyncpg.Connection[Any], statement: str
) -> None:
    await (await leader(connect)).append(Batch(drafts(1), 1_000_000, {"d": b"secret"}))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await auditor.execute(statement)


async def test_who_is_no_member_of_the_writer_role_is_told_that_and_not_that_there_is_none(
    postgres: str, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("CREATE ROLE horizon_outsider LOGIN")
    await admin.execute("CREATE DATABASE horizon_outside OWNER horizon_outsider")
    dsn = re.sub(r"//[^/]*/[^?]*", "//horizon_outsider@/horizon_outside", postgres, count=1)
    try:
        assert await warnings_of(dsn) == (
            "the scheduler writes as the owner of the log: horizon_outsider is no member of the role "
            "horizon_writer: as a superuser, GRANT horizon_writer TO horizon_outsider"
        )
        await admin.execute("GRANT horizon_writer TO horizon_outsider")
        assert await warnings_of(dsn) == ""
    finally:
        await admin.execute("DROP DATABASE horizon_outside WITH (FORCE)")
        await admin.execute("DROP ROLE horizon_outsider")


async def test_the_scheduler_writes_as_the_writer_role(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    store = await leader(connect)
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    assert await store._writer.fetchval("SELECT current_user") == "horizon_writer"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER refuse_truncate ON events_000000",
        "DROP TRIGGER refuse_change ON answers",
        "DROP TRIGGER refuse_change ON archives",
        "DROP TRIGGER refuse_change ON events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "ALTER TABLE checkpoints DISABLE TRIGGER refuse_change",
        "ALTER TABLE events_000001 ENABLE TRIGGER refuse_truncate",  # which a replica's session goes past
        "DROP TRIGGER refuse_truncate ON blobs",
        "DROP TRIGGER refuse_delete ON log_head",
    ],
)
async def test_a_missing_trigger_is_noticed_at_start_and_what_is_said_to_do_puts_it_back(
    connect: Connect, admin: asyncpg.Connection[Any], statement: str
) -> None:
    await admin.execute(statement)
    table = statement.replace("ALTER TABLE ", "ON ").partition("ON ")[2].split()[0]
    with pytest.raises(Unavailable, match=rf"not protected against change.* {table}[.,]") as refused:
        await connect()
    await admin.execute(str(refused.value).partition("To put them back, as the owner: ")[2])
    await connect()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await admin.execute(f"TRUNCATE {table}")


# --- what was changed all the same is found -----------------------------------------------------------


async def tampered(connect: Connect, admin: asyncpg.Connection[Any], statement: str) -> str:
    store = await leader(connect)
    await store.append(Batch(drafts(5), 1_000))
    await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
    await admin.execute(statement)
    for trigger in ("refuse_change", "refuse_truncate"):
        await admin.execute(f"ALTER TABLE events_000000 ENABLE ALWAYS TRIGGER {trigger}")
    with pytest.raises(Corrupt) as found:
        [one async for one in store.read(0)]
    with pytest.raises(Corrupt):
        await store.hashes(0, GENESIS_HASH, 100)
    return str(found.value)


@pytest.mark.parametrize(
    "change",
    [
        "recorded_at_us = 2000", "epoch = 7", "stream = 'job/id-9'", "stream_version = 2",
        "actor = 'mallory'", "command_id = '\\x0102'::bytea", "correlation_id = '\\x01'::bytea",
        "causation = 1",
        "hash = '\\x01'::bytea",
        "payload = convert_to(replace(convert_from(payload, 'UTF8'), 'alice', 'malle'), 'UTF8')",
    ],
)  # fmt: skip
async def test_a_changed_column_is_found(
    connect: Connect, admin: asyncpg.Connection[Any], change: str
) -> None:
    assert "event 3" in await tampered(connect, admin, f"UPDATE events SET {change} WHERE position = 3")


async def test_a_deleted_event_is_found(connect: Connect, admin: asyncpg.Connection[Any]) -> None:
    assert "after 2 comes 4" in await tampered(connect, admin, "DELETE FROM events WHERE position = 3")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("schema_version = 99", "JobSubmitted of schema version 99"),
        ("type = 'JobTeleported'", "knows no such type"),
        ("type = 'JobHeld'", "is filed as a JobHeld but holds a JobSubmitted"),
        ('payload = \'{"type":"JobHeld","job_id":"1","more":1}\'', "cannot be read"),
    ],
)
async def test_an_event_this_program_does_not_know_is_not_guessed_at(
    connect: Connect, admin: asyncpg.Connection[Any], change: str, words: str
) -> None:
    assert words in await tampered(connect, admin, f"UPDATE events SET {change} WHERE position = 3")


# --- bad days -----------------------------------------------------------------------------------------


async def test_a_connection_killed_before_an_append_leaves_the_outcome_to_an_election(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    store = await leader(connect)
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    pid = await store._writer.fetchval("SELECT pg_backend_pid()")
    await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(UnknownOutcome):
        await store.append(Batch(drafts(1), 1_000))
    head = await store.elect()
    assert (head.epoch, head.position) == (2, 0)
    await store.append(Batch(drafts(1), 1_000))


async def test_an_append_behind_another_end_than_the_log_has_is_refused(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    """Whoever sets the log back under its leader must not get a log with a gap for it."""
    store = await leader(connect)
    await store.append(Batch(drafts(3), 1_000))
    await admin.execute(
        "UPDATE log_head SET position = 2, tip = (SELECT hash FROM events WHERE position = 2)"
    )
    with pytest.raises(SetBack):
        await store.append(Batch(drafts(1, first=4), 1_000))
    assert await admin.fetchval("SELECT max(position) FROM events") == 3


async def test_an_append_cut_off_while_it_waits_is_settled_by_the_election(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    """The head row is locked, so the append hangs; its backend is killed; it never happened."""
    store = await leader(connect)
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    pid = await store._writer.fetchval("SELECT pg_backend_pid()")
    async with admin.transaction():
        await admin.execute("SELECT * FROM log_head FOR UPDATE")
        append = asyncio.create_task(store.append(Batch(drafts(1), 1_000)))
        await asyncio.sleep(0.1)
        assert not append.done()
        await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(UnknownOutcome) as unknown:
            await append
    head = await store.elect()
    assert head.position == 0
    assert await store.read_at([unknown.value.position]) == []


async def test_a_leader_that_stands_still_in_an_append_is_cut_off_by_the_election_of_another(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    """Its backend has the head locked, and nobody is there to go on."""
    store = await leader(connect)
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    await store._writer.execute("BEGIN; UPDATE log_head SET position = position")
    other = await connect()
    with pytest.raises(Fenced):
        await other.elect(over=1)  # whose lease holds yet: its append may only be slow
    assert not store._writer.is_closed()
    await store._writer.execute("ROLLBACK")
    await store.resign()
    await store._writer.execute("BEGIN; UPDATE log_head SET position = position")
    assert (await other.elect(over=1)).epoch == 2
    with pytest.raises(UnknownOutcome):
        await store.append(Batch(drafts(1), 1_000))
    await other.append(Batch(drafts(1), 1_000))


@pytest.mark.parametrize(("set_back_s", "ended"), [(5, False), (3_600, True)])
async def test_a_clock_that_was_set_back_keeps_nobody_from_leading_for_as_long(
    connect: Connect, admin: asyncpg.Connection[Any], set_back_s: int, ended: bool
) -> None:
    await leader(connect)
    await admin.execute(
        "UPDATE log_head SET lease_until = lease_until + make_interval(secs => $1)", set_back_s
    )
    other = await connect()
    assert ((await other.leader()).lease_left_s <= 0) is ended
    if ended:
        assert (await other.elect(over=1)).epoch == 2
    else:
        with pytest.raises(Fenced):
            await other.elect(over=1)


async def test_a_lock_of_somebody_else_on_the_head_is_said_to_be_in_the_way(
    connect: Connect, admin: asyncpg.Connection[Any]
) -> None:
    store = await connect()
    async with admin.transaction():
        await admin.execute("SELECT * FROM log_head FOR UPDATE")
        pid = await admin.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(Unavailable, match=rf"end process {pid} \("):
            await store.elect()
    assert (await store.elect()).epoch == 1


@pytest.mark.parametrize(
    ("severity", "state", "unknown"),
    [
        ("ERROR", "40001", False),  # serialization failure
        ("ERROR", "40P01", False),  # deadlock
        ("ERROR", "40003", True),  # statement completion unknown
        ("ERROR", "57014", False),  # statement_timeout, or cancelled
        ("ERROR", "55P03", False),  # lock_timeout
        ("ERROR", "53100", False),  # disk full
        ("PANIC", "53100", True),  # disk full while the log of Postgres itself was written
        ("ERROR", "58030", False),  # input or output error
        ("PANIC", "58030", True),
        ("ERROR", "25006", False),  # read only
        ("ERROR", "23505", False),  # unique violation
        ("FATAL", "57P01", True),  # the backend was told to go
        ("FATAL", "57P02", True),  # another backend crashed
        ("FATAL", "57P03", True),  # the server starts or stops
        ("FATAL", "53300", True),
        ("ERROR", "08006", True),  # connection failure
    ],
)
def test_what_is_known_of_an_append_after_an_error(severity: str, state: str, unknown: bool) -> None:
    error = asyncpg.PostgresError.new({"S": severity, "V": severity, "C": state, "M": "trouble"})
    expected = UnknownOutcome if unknown else Unavailable
    assert type(_classify(error, Head(b"", 1, 9, b"tip", 0))) is expected


async def test_partitions_are_made_ahead(connect: Connect, admin: asyncpg.Connection[Any]) -> None:
    await admin.execute("UPDATE log_head SET position = 9500000")
    store = await leader(connect)
    await store.append(Batch(drafts(1), 1_000))
    partitions = await admin.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
    assert partitions == 3
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.execute("TRUNCATE events_000002")


async def unfit(dsn: str) -> str:
    with pytest.raises(Unavailable) as refused:
        await PostgresStore(dsn).open()
    return str(refused.value)


async def test_an_unreachable_server_is_said_to_be(tmp_path: object) -> None:
    assert "cannot be reached" in await unfit("postgresql://postgres@127.0.0.1:1/postgres")
    assert "cannot be reached" in await unfit(f"postgresql://postgres@/postgres?host={tmp_path}")


async def test_a_missing_database_is_said_to_be(postgres: str) -> None:
    dsn = re.sub(r"(//[^/]*)/[^?]*", r"\1/nowhere", postgres, count=1)
    assert "create the database" in await unfit(dsn)


async def test_nonsense_for_a_dsn_is_refused() -> None:
    unreadable = ("postgresql://u@h:port/x", "postgresql://u:se/cret@h/x", "mysql://u:secret@h/x",
                  "postgresql://u:[secret@h/x")  # fmt: skip
    for dsn in unreadable:
        message = await unfit(dsn)
        assert "DATABASE_URL cannot be read" in message
        assert "cret" not in message
        assert "'se'" not in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("synchronous_commit = off", "synchronous_commit is off"),
        ("default_transaction_read_only = on", "read-only"),
    ],
)
async def test_a_server_set_up_to_forget_or_refuse_writes_is_refused(
    database: str, admin: asyncpg.Connection[Any], setting: str, words: str
) -> None:
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{name}" SET {setting}')
    assert words in await unfit(database)


async def test_a_schema_from_the_future_is_refused(database: str, admin: asyncpg.Connection[Any]) -> None:
    await admin.execute("UPDATE schema_revision SET version_num = '9999'")
    assert "use a newer Horizon" in await unfit(database)


async def test_a_database_of_the_first_schema_is_brought_up_to_date(
    postgres: str, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("CREATE DATABASE horizon_first")
    dsn = re.sub(r"(//[^/]*)/[^?]*", r"\1/horizon_first", postgres, count=1)
    first = await asyncpg.connect(dsn)
    await first.execute("CREATE TABLE schema_revision AS SELECT '0001'::varchar(32) AS version_num")
    await first.execute((migrations_dir() / "0001_log.sql").read_text())
    await first.close()
    store = PostgresStore(dsn)
    await store.open()
    await store.elect()
    await store.append(Batch(drafts(3), 1_000))
    await store.add_checkpoint(Signed(3, bytes(64), "note"))
    assert await store.newest_checkpoint() == Signed(3, bytes(64), "note")
    await store.close()
    await admin.execute("DROP DATABASE horizon_first WITH (FORCE)")


def test_the_schema_this_program_knows_is_the_newest_migration() -> None:
    newest = max(path.stem for path in (migrations_dir() / "versions").glob("[0-9]*.py"))
    assert newest == SCHEMA_REVISION


async def test_two_schedulers_that_start_at_once_migrate_once(
    postgres: str, admin: asyncpg.Connection[Any]
) -> None:
    await admin.execute("CREATE DATABASE horizon_race")
    dsn = re.sub(r"(//[^/]*)/[^?]*", r"\1/horizon_race", postgres, count=1)
    script = (
        "import asyncio, sys; from horizon.store.postgres import PostgresStore\n"
        "print(asyncio.run(PostgresStore(sys.argv[1]).open()).log_id.hex())"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, dsn, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [(await process.communicate())[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(outputs)) == 1
    await admin.execute("DROP DATABASE horizon_race WITH (FORCE)")


async def test_a_server_that_is_too_old_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horizon.store.fitness.VERSION_MIN", 9_990_000)
    assert "Horizon needs 14 or newer" in await unfit(database)


async def test_a_wrong_password_and_an_unknown_user_are_said_to_be(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "with-passwords")
    dsn = await server.start()
    try:
        admin = await asyncpg.connect(dsn)
        await admin.execute("CREATE ROLE alice LOGIN PASSWORD 'right'")
        (tmp_path / "with-passwords" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
        await admin.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(0.2)
        for user, password in (("alice", "wrong"), ("nobody", "x")):
            message = await unfit(dsn.replace("postgres:@", f"{user}:{password}@"))
            assert "refused the login" in message
            assert password not in message.replace("password", "")
        await admin.close()
    finally:
        await server.stop()


async def test_a_stale_pid_file_of_the_embedded_server_is_harmless(tmp_path: Path) -> None:
    """What a machine that lost power leaves behind, its pid since given to another process."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    await server.start()
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    left_behind = pid_file.read_text().splitlines()
    await server.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *left_behind[1:]]) + "\n")
    again = EmbeddedPostgres(tmp_path / "postgres")
    connection = await asyncpg.connect(await again.start())
    await connection.close()
    await again.stop()
