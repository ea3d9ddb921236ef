"""The notary over a real Postgres on bad days: it is cut off, a byte is changed under it, it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from horizon.core import commands as cmd
from horizon.executors.inventory import without_gpus
from horizon.executors.local import LocalExecutor
from horizon.service import notary as notary_module
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine, Stopped
from horizon.service.keys import KeyFile
from horizon.service.notary import Notary
from horizon.service.notefile import NoteFile
from horizon.service.verify import Report, Unsound, verify
from horizon.store.note import SigningKey, VerifyKey
from horizon.store.port import Unavailable
from horizon.store.postgres import PostgresStore
from horizon.store.reader import LogReader
from tests.service.test_engine import ask, submission, until


class House:
    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.directory = dsn, directory
        self.notes, self.keys = NoteFile(directory / "checkpoints"), KeyFile(directory / "signing.key")
        self.engines: list[Engine] = []

    async def start(self) -> Engine:
        clock = SystemClock()
        executor = LocalExecutor(self.directory, (without_gpus({}),))
        config = EngineConfig(unavailable_retry_s=0.02)
        notary = Notary(self.keys, self.notes)
        engine = Engine(PostgresStore(self.dsn), executor, clock, Ids(clock), config, notary=notary)
        self.engines.append(engine)
        await engine.start()
        return engine

    @property
    def public(self) -> VerifyKey:
        public = self.keys.public()
        assert public is not None
        return public

    async def verified(self, *keys: VerifyKey) -> Report:
        """Under these keys, else under the one there is."""
        reader = LogReader(self.dsn)
        await reader.open()
        try:
            return await verify(reader, [self.notes], keys or [self.public], lambda done, total: None)
        finally:
            await reader.close()


@pytest.fixture
async def house(database: str, tmp_path: Path) -> AsyncIterator[House]:
    house = House(database, tmp_path)
    yield house
    for engine in house.engines:
        await engine.stop()


async def submit(engine: Engine, count: int) -> None:
    for _ in range(count):
        while True:
            try:
                await ask(engine, submission(engine, hold=True))
                break
            except (Stopped, Unavailable):
                await asyncio.sleep(0.02)


async def test_cut_connections_leave_nothing_unsigned(
    house: House, admin: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notary_module, "SIGN_EVENTS", 5)
    monkeypatch.setattr(notary_module, "RETRY_S", 0.01)
    monkeypatch.setattr(notary_module, "REST", 0)
    engine = await house.start()

    async def cut() -> None:
        for _ in range(8):
            await asyncio.sleep(0.1)
            await admin.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'horizon' AND datname = current_database()"""
            )

    cutting = asyncio.create_task(cut())
    while not cutting.done():
        await submit(engine, 1)
    await engine.stop()
    found = await house.verified()
    assert found.signed == found.events
    assert found.in_table >= 2
    assert found.epoch > 1


async def test_a_byte_changed_before_it_is_signed_makes_the_scheduler_step_down(
    house: House, admin: asyncpg.Connection[Any]
) -> None:
    engine = await house.start()
    notary = engine.notary
    assert notary is not None
    await until(lambda: notary.size == engine.state.position)
    await submit(engine, 3)
    position = engine.state.position
    await admin.execute("ALTER TABLE events_000000 DISABLE TRIGGER ALL")
    await admin.execute(
        "UPDATE events SET payload = set_byte(payload, 3, get_byte(payload, 3) # 1) WHERE position = $1",
        position,
    )
    batch = tuple(submission(engine, hold=True) for _ in range(notary_module.SIGN_EVENTS))
    with suppress(Stopped):  # where it is slow, ten seconds are over and it has been found out already
        await ask(engine, cmd.SubmitBatch(batch))
    reason = await asyncio.wait_for(engine.stopped, 10)
    assert f"event {position} has been changed" in reason
    assert (await admin.fetchval("SELECT max(size) FROM checkpoints")) < position


async def test_a_scheduler_that_was_killed_goes_on_signing_where_it_was(house: House) -> None:
    engine = await house.start()
    await submit(engine, 20)
    notary = engine.notary
    assert notary is not None
    await notary.halt()  # as a kill would: what is new stays unsigned
    await house.start()
    await until(lambda: house.engines[-1].notary.size == house.engines[-1].state.position)  # type: ignore[union-attr]
    found = await house.verified()
    assert found.signed == found.events
    assert found.keys == 1


async def test_keys_that_handed_over_vouch_for_each_other(house: House) -> None:
    await (await house.start()).stop()
    first = house.public
    for _ in range(2):
        house.keys.rotate()
        await (await house.start()).stop()
    for known in (first, house.public):
        found = await house.verified(known)
        assert found.signed == found.events
        assert found.keys == 3


async def test_a_key_that_nobody_handed_over_to_must_be_known(house: House) -> None:
    """The first key was lost with its data directory, or somebody else has signed since."""
    await (await house.start()).stop()
    first = house.public
    for path in (house.keys.path, house.keys.public_path):
        path.unlink()
    await (await house.start()).stop()
    with pytest.raises(Unsound, match="without a signature of the one before"):
        await house.verified(first)
    for known in ([house.public], [first, house.public]):
        assert (await house.verified(*known)).keys == 2
    stranger = SigningKey.new(first.name).public
    with pytest.raises(Unsound, match="without a signature of the one before"):
        await house.verified(stranger)
