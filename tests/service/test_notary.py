"""What is signed, when, and what is not: over the in-memory log with the real engine, keys and files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.state import digest
from horizon.executors.inventory import without_gpus
from horizon.executors.local import LocalExecutor
from horizon.service import notary as notary_module
from horizon.service.clock import Ids, SystemClock
from horizon.service.engine import Engine, Stopped
from horizon.service.keys import BadKey, KeyFile
from horizon.service.notary import Distrust, Notary
from horizon.service.notefile import NoteFile, kept_notes
from horizon.store import codec
from horizon.store.memory import Log, MemoryStore
from horizon.store.note import BadNote, SigningKey, VerifyKey, origin_of, read_note, signed, verified
from horizon.store.port import Batch, Signed, Unavailable, UnknownOutcome
from horizon.store.tree import root_of
from tests.service.test_engine import ask, submission, until

Start = Callable[..., Awaitable[Engine]]


class Gated(MemoryStore):
    """Is not read back while its gate is closed, so that there is time to tamper."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.gate = asyncio.Event()
        self.gate.set()
        self.cut_off = False
        """Whether the next append is never heard of."""

    async def append(self, batch: Batch) -> tuple[ev.Recorded, ...]:
        if self.cut_off:
            self.cut_off = False
            raise UnknownOutcome("cut off before it arrived", 0, b"")
        return await super().append(batch)

    async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
        await self.gate.wait()
        return await super().hashes(after, previous, limit)


class House:
    """One data directory and one log, led by one engine after another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = Log()
        self.keys = KeyFile(directory / "keys" / "signing.key")
        self.notes = NoteFile(directory / "checkpoints")
        self.engines: list[Engine] = []

    async def start(self, store: MemoryStore | None = None) -> Engine:
        clock = SystemClock()
        executor = LocalExecutor(self.directory, (without_gpus({}),))
        notary = Notary(self.keys, self.notes)
        engine = Engine(store or MemoryStore(self.log), executor, clock, Ids(clock), notary=notary)
        self.engines.append(engine)
        await engine.start()
        return engine

    async def stop(self) -> None:
        await self.engines[-1].stop()

    @property
    def signed(self) -> list[Signed]:
        return [self.log.checkpoints[size] for size in sorted(self.log.checkpoints)]

    def tamper(self, position: int, **fields: object) -> None:
        """Change an event and rewrite all hashes from there on, as a database's owner can."""
        self.log.events[position - 1] = replace(self.log.events[position - 1], **fields)
        self.rechain(position)

    def rechain(self, position: int) -> None:
        previous = self.log.events[position - 2].hash if position > 1 else bytes(32)
        for place in range(position - 1, len(self.log.events)):
            one = replace(self.log.events[place], position=place + 1)
            previous = codec.header_hash(one, previous)
            self.log.events[place] = replace(one, hash=previous)
        self.log.head = replace(self.log.head, position=len(self.log.events), tip=previous)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    for engine in house.engines:
        await engine.stop()


async def submit(engine: Engine, count: int) -> None:
    for _ in range(count):
        await ask(engine, submission(engine, hold=True))


async def submit_at_once(engine: Engine, count: int) -> None:
    """In one append, so that nobody is refused half way."""
    await ask(engine, cmd.SubmitBatch(tuple(submission(engine, hold=True) for _ in range(count))))


async def caught_up(engine: Engine) -> None:
    await until(lambda: engine.notary is not None and engine.notary.size == engine.state.position)


async def test_the_log_is_signed_at_each_new_epoch_and_at_stop(house: House) -> None:
    engine = await house.start()
    await caught_up(engine)
    [first] = house.signed
    assert first.size == engine.state.position
    await submit(engine, 3)
    await house.stop()
    assert [one.size for one in house.signed] == [first.size, first.size + 3]
    assert list(house.notes.notes()) == [one.note for one in house.signed]
    again = await house.start()
    await caught_up(again)
    assert house.signed[-1].size == again.state.position > first.size + 3


async def test_a_checkpoint_says_what_the_log_is(house: House) -> None:
    engine = await house.start()
    await submit(engine, 5)
    await house.stop()
    newest = house.signed[-1]
    public = house.keys.public()
    assert public is not None
    checkpoint = verified(newest.note, public)
    hashes = [one.hash for one in house.log.events[: newest.size]]
    assert checkpoint.origin == origin_of(house.log.head.log_id)
    assert (checkpoint.size, checkpoint.root, checkpoint.tip) == (newest.size, root_of(hashes), hashes[-1])
    named = [one.event.key for one in house.log.events if isinstance(one.event, ev.SigningKeySet)]
    assert named == [str(public)]


async def test_nothing_new_is_not_signed_again_and_the_key_is_named_once(house: House) -> None:
    await house.start()
    await house.stop()
    await house.start()
    await house.stop()
    assert sum(isinstance(one.event, ev.SigningKeySet) for one in house.log.events) == 1
    assert len(house.signed) == 2


async def test_a_thousand_events_are_signed_without_a_wait(house: House) -> None:
    engine = await house.start()
    await caught_up(engine)
    await submit(engine, 10)
    await asyncio.sleep(0.1)
    assert len(house.signed) == 1  # ten seconds are not over
    await submit(engine, notary_module.SIGN_EVENTS)
    await until(lambda: len(house.signed) == 2)


async def test_what_is_new_is_signed_when_somebody_wants_to_see_it(house: House) -> None:
    engine = await house.start()
    await caught_up(engine)
    await submit(engine, 1)
    assert engine.notary is not None
    engine.notary.sign_soon()
    await caught_up(engine)


async def test_what_is_new_is_signed_after_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notary_module, "SIGN_S", 0.05)
    engine = await house.start()
    await caught_up(engine)
    await submit(engine, 1)
    await caught_up(engine)


async def test_a_backlog_is_signed_piece_by_piece(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notary_module, "CHECKPOINT_EVENTS_MAX", 10)
    monkeypatch.setattr(notary_module, "CHUNK_EVENTS", 4)
    engine = await house.start()
    await submit(engine, 50)
    await house.stop()
    sizes = [one.size for one in house.signed]
    assert sizes[-1] == house.log.head.position
    assert all(later - earlier <= 10 for earlier, later in pairwise(sizes))


@pytest.mark.parametrize("delay_ms", range(0, 60, 6))
async def test_whenever_it_is_stopped_all_of_the_log_is_signed(
    house: House, monkeypatch: pytest.MonkeyPatch, delay_ms: int
) -> None:
    """Whatever it was about: reading back, resting, or filing."""
    monkeypatch.setattr(notary_module, "CHUNK_EVENTS", 100)
    engine = await house.start()
    await submit_at_once(engine, 1_050)
    await asyncio.sleep(delay_ms / 1_000)
    await house.stop()
    assert house.signed[-1].size == house.log.head.position
    newest = house.notes.newest()
    assert newest == house.signed[-1].note


async def test_signing_changes_nothing_of_what_is_folded(house: House) -> None:
    engine = await house.start()
    await submit(engine, 3)
    live = digest(engine.state)
    await house.stop()
    from horizon.service.recovery import fold_log

    assert digest(await fold_log(MemoryStore(house.log), house.log.head)) == live


# --- it refuses to sign -------------------------------------------------------------------------------


async def unsigned(house: House, events: int) -> tuple[Engine, Gated]:
    """A leader with so many events that have not been read back yet, and its store, gate closed."""
    store = Gated(house.log)
    engine = await house.start(store)
    await caught_up(engine)
    store.gate.clear()
    await submit_at_once(engine, events)
    return engine, store


async def refused_to_sign(engine: Engine, store: Gated) -> str:
    store.gate.set()
    return await asyncio.wait_for(engine.stopped, 10)


async def test_an_event_changed_before_it_was_signed_makes_the_leader_step_down(house: House) -> None:
    engine, store = await unsigned(house, 1_100)
    house.log.events[500] = replace(house.log.events[500], actor="mallory")
    reason = await refused_to_sign(engine, store)
    assert "event 501 has been changed" in reason
    assert "is not signed" in reason
    assert len(house.signed) == 1
    with pytest.raises(Stopped):
        await submit(engine, 1)


async def test_hashes_rewritten_before_they_were_signed_make_it_step_down(house: House) -> None:
    """The chain holds, so only what was appended tells."""
    engine, store = await unsigned(house, 1_100)
    end = house.log.head.position
    house.tamper(501, actor="mallory")
    assert f"event {end} is not the one that was appended" in await refused_to_sign(engine, store)


async def test_hashes_rewritten_before_a_new_election_are_found_by_it(house: House) -> None:
    engine, store = await unsigned(house, 1_100)
    end = house.log.head.position
    house.tamper(501, actor="mallory")
    store.cut_off = True
    with pytest.raises(Stopped):
        await submit(engine, 1)
    reason = await asyncio.wait_for(engine.stopped, 10)
    assert f"event {end}, which this leader appended last, is not the end of the log" in reason


async def test_hashes_rewritten_after_a_new_election_are_found_behind_it(house: House) -> None:
    """What was appended before is not forgotten."""
    engine, store = await unsigned(house, 1_100)
    end = house.log.head.position
    store.cut_off = True
    await submit(engine, 1)
    assert engine.state.epoch == 2
    house.tamper(501, actor="mallory")
    assert f"event {end} is not the one that was appended" in await refused_to_sign(engine, store)


async def test_a_rotation_waits_for_the_next_start(house: House) -> None:
    store = Gated(house.log)
    engine = await house.start(store)
    await caught_up(engine)
    house.keys.rotate()
    store.cut_off = True
    await submit(engine, 1)
    await caught_up(engine)
    assert engine.state.epoch == 2
    assert len(engine.state.signing_keys) == 1
    assert house.keys.outgoing() is not None


async def test_events_taken_away_before_they_were_signed_make_it_step_down(house: House) -> None:
    engine, store = await unsigned(house, 1_100)
    end = house.log.head.position
    del house.log.events[500:]
    reason = await refused_to_sign(engine, store)
    assert f"the log ends at 500, and {end} events were appended" in reason


# --- it refuses to lead -------------------------------------------------------------------------------


async def refusal(house: House) -> str:
    position = house.log.head.position
    with pytest.raises(Distrust) as refused:
        await house.start()
    assert house.log.head.position == position, "nothing was appended"
    return str(refused.value)


async def led(house: House, jobs: int = 5) -> None:
    engine = await house.start()
    await submit(engine, jobs)
    await house.stop()


async def test_an_older_backup_is_not_led(house: House) -> None:
    await led(house)
    end = house.log.head.position
    del house.log.events[-3:]
    house.log.checkpoints.clear()  # the backup is from before the last checkpoint; the file is not
    house.rechain(end - 3)
    assert f"events up to {end} were signed, the log ends at {end - 3}" in await refusal(house)


async def test_a_rewritten_log_is_not_led(house: House) -> None:
    await led(house)
    end = house.log.head.position
    house.tamper(3, actor="mallory")
    assert f"event {end} is not the one that was signed" in await refusal(house)
    house.log.checkpoints.clear()
    assert str(house.notes.path) in await refusal(house)


async def test_another_database_is_not_led_with_this_data_directory(house: House) -> None:
    await led(house)
    house.log = Log()
    assert "this database holds" in await refusal(house)
    house.keys.path.unlink()
    assert "it is another database than before" in await refusal(house)


async def test_a_checkpoint_that_somebody_made_up_is_found(house: House) -> None:
    await led(house)
    newest = house.signed[-1]
    checkpoint, _ = read_note(newest.note)
    forged = signed(checkpoint, [SigningKey.new(checkpoint.origin)])
    house.log.checkpoints[newest.size] = replace(newest, note=forged)
    assert "is not signed by" in await refusal(house)
    house.log.checkpoints[newest.size] = replace(newest, note=newest.note.replace("\n\n", "\n"))
    assert "cannot be read" in await refusal(house)
    house.log.checkpoints[newest.size] = replace(newest, frontier=bytes(len(newest.frontier)))
    assert "the table of checkpoints was changed" in await refusal(house)


async def test_a_log_without_checkpoints_is_signed_from_its_beginning(house: House) -> None:
    await led(house)
    house.log.checkpoints.clear()
    engine = await house.start()
    await caught_up(engine)
    assert len(house.signed) == 1


# --- keys ---------------------------------------------------------------------------------------------


async def test_a_key_is_for_its_owner_only(house: House) -> None:
    await led(house)
    assert house.keys.path.stat().st_mode & 0o777 == 0o600
    assert house.keys.path.parent.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in house.keys.public_path.read_text()


async def test_a_rotation_is_signed_by_both_keys_and_ends_the_old_one(house: House) -> None:
    await led(house)
    old = house.keys.public()
    new = house.keys.rotate()
    assert old is not None
    with pytest.raises(BadKey, match="has not taken effect yet"):
        house.keys.rotate()
    before = len(house.signed)
    engine = await house.start()
    await caught_up(engine)
    both, keys = house.signed[before].note, [one.event for one in house.log.events]
    assert [key.key for key in keys if isinstance(key, ev.SigningKeySet)] == [str(old), str(new)]
    assert verified(both, old) == verified(both, new)
    assert house.keys.outgoing() is None
    await submit(engine, 1)
    await house.stop()
    _, signatures = read_note(house.signed[-1].note)
    assert [key_id for _, key_id, _ in signatures] == [new.id]
    await led(house)
    house.keys.rotate()


async def test_a_rotation_that_was_cut_off_before_its_public_half_is_made_good(house: House) -> None:
    await led(house)
    before = house.keys.public_path.read_text()
    new = house.keys.rotate()
    house.keys.public_path.write_text(before)
    await led(house)
    assert str(house.keys.public()) == str(new)


async def test_the_old_key_stays_until_it_has_handed_over(house: House) -> None:
    """A crash between the event that names the new key and the checkpoint under both."""
    await led(house)
    old = house.keys.public()
    house.keys.rotate()

    class Deaf(MemoryStore):
        async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
            raise Unavailable("Postgres does not answer")

    await house.start(Deaf(house.log))
    await house.stop()
    assert house.keys.outgoing() is not None
    before = len(house.signed)
    await caught_up(await house.start())
    assert old is not None
    verified(house.signed[before].note, old)


async def test_a_key_that_was_lost_is_replaced(house: House) -> None:
    await led(house)
    house.keys.path.unlink()
    house.keys.public_path.unlink()
    engine = await house.start()
    await caught_up(engine)
    assert len(engine.state.signing_keys) == 2
    verified(house.signed[-1].note, VerifyKey.read(engine.state.signing_key))


def test_there_is_nothing_to_rotate_before_there_is_a_key(house: House) -> None:
    with pytest.raises(BadKey, match="the first start of Horizon makes one"):
        house.keys.rotate()
    assert house.keys.public() is None


# --- the file -----------------------------------------------------------------------------------------

NOTES = ["a\n1\nAA==\nAA==\n\n\u2014 a AAAA\n", "a\n22\nAA==\nAA==\n\n\u2014 a AAAA\n\u2014 a BBBB\n"]


def test_notes_are_read_as_they_were_added(tmp_path: Path) -> None:
    file = NoteFile(tmp_path / "checkpoints")
    assert file.newest() is None
    assert list(file.notes()) == []
    for count, note in enumerate(NOTES, 1):
        file.append(note)
        assert file.newest() == note
        assert list(file.notes()) == NOTES[:count]


def test_a_note_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    file = NoteFile(tmp_path / "checkpoints")
    file.append(NOTES[0])
    whole = file.path.read_bytes()
    record = f"{NOTES[1]}\n".encode()
    for cut in range(len(record)):
        file.path.write_bytes(whole + record[:cut])
        assert file.newest() == NOTES[0]
        assert list(file.notes()) == NOTES[:1]
        file.append(NOTES[1])
        assert file.path.read_bytes() == whole + record
    file.path.write_bytes(record[:-1])
    file.append(NOTES[0])
    assert file.path.read_bytes() == whole


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
def test_notes_that_somebody_kept_are_read_one_behind_the_other(tmp_path: Path, between: str) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text(between.join(NOTES))
    assert kept_notes(kept) == NOTES


def test_nothing_in_a_kept_file_is_passed_over(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    with pytest.raises(FileNotFoundError):
        kept_notes(kept)
    for nothing in ("", "\n\n"):
        kept.write_text(nothing)
        with pytest.raises(BadNote, match=r"there is no checkpoint in .*kept\.txt"):
            kept_notes(kept)
    for rest in ("x", "x\n", "\nx\n\nx\n\n", NOTES[1][:-1], NOTES[1][:9], "{}"):
        kept.write_text(NOTES[0] + rest)
        with pytest.raises(BadNote, match=r"checkpoint [12] in .*kept\.txt cannot be read"):
            kept_notes(kept)
    kept.write_text("<html></html>\n" + NOTES[0])
    with pytest.raises(BadNote, match="checkpoint 1 in"):
        kept_notes(kept)
