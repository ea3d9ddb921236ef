"""Snapshots are a cache: whatever is wrong with one, the state is what the log says."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from horizon.core import commands as cmd
from horizon.core.at_rest import Unreadable, rests_on
from horizon.core.evolve import evolve
from horizon.core.state import State, digest
from horizon.service.recovery import fold_log, fold_nearest, fold_until, nearest
from horizon.store import snapshots as files
from horizon.store.memory import Log, MemoryStore
from horizon.store.port import BadSnapshot, Corrupt, Head
from horizon.store.snapshots import KEEP, SnapshotFile, Snapshots
from tests.core.spec import World, given, job_id, node


def a_life() -> World:
    """A little of everything that a state holds: jobs that ended, run, wait and depend, tasks, shares."""
    world = given(node(gpus=4), node("node-2", gpus=2))
    for number in range(1, 9):
        world.submit("ann" if number % 2 else "bob", account=f"lab/{number % 3}", gpu_count=2)
    world.cycle()
    for number in world.starts():
        world.started(number).later(5).ended(number)
    return world.cycle().later(1).started(4)


WORLD: World = a_life()
LIVE = digest(WORLD.state)


class House:
    """A log in memory, and a directory of snapshots of it."""

    def __init__(self, directory: Path, world: World = WORLD) -> None:
        self.world = world
        self.log = Log()
        self.log.events = list(world.log)
        self.log.head = msgspec.structs.replace(world.head, log_id=self.log.head.log_id)
        self.store = MemoryStore(self.log)
        self.snapshots = Snapshots(directory)

    @property
    def head(self) -> Head:
        return self.log.head

    def state_at(self, position: int) -> State:
        state = State()
        for recorded in self.world.log[:position]:
            evolve(state, recorded)
        return state

    def write(self, position: int, log_id: bytes | None = None, hash: bytes | None = None) -> Path:
        """A snapshot of this position, with everything right about it but for what is given."""
        with self.snapshots.alone() as alone:
            assert alone
            hash = hash or self.world.log[position - 1].hash
            return self.snapshots.write(self.state_at(position), log_id or self.head.log_id, hash)

    def positions(self) -> list[int]:
        return [one.position for one in self.snapshots]

    async def begun_at(self) -> int:
        """The position from which the log is folded, which must lead to the live state."""
        begun = await nearest(self.store, self.snapshots, self.head.position, self.head.log_id)
        position = begun.state.position
        assert digest(await fold_log(self.store, self.head, begun=begun)) == LIVE
        return position


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "snapshots")


END = len(WORLD.log)


# --- which one is taken -------------------------------------------------------------------------------


async def test_without_any_the_log_is_folded_from_its_first_event(house: House) -> None:
    assert await house.begun_at() == 0


async def test_the_newest_is_taken(house: House) -> None:
    for position in (5, 12, 20):
        house.write(position)
    assert await house.begun_at() == 20


async def test_one_of_the_very_end_leaves_nothing_to_fold(house: House) -> None:
    house.write(END)
    assert await house.begun_at() == END


async def test_deleting_them_changes_nothing(house: House) -> None:
    house.write(12).unlink()
    assert await house.begun_at() == 0


async def test_few_are_kept(house: House) -> None:
    for position in (3, 5, 8, 12, 20):
        house.write(position)
    assert house.positions() == [20, 12, 8]
    assert len(house.positions()) == KEEP


async def test_what_is_of_no_use_is_removed_when_the_next_one_is_written(house: House) -> None:
    house.write(12).write_bytes(b"rubbish")
    house.write(20, log_id=bytes(16))
    house.write(8)
    assert [path.name for path in house.snapshots.directory.glob("*.snapshot")] == [f"{8:020}.snapshot"]


# --- what is wrong with one ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"log_id": bytes(16)}, {"hash": bytes(32)}], ids=["log", "hash"])
async def test_one_of_another_log_is_not_taken(house: House, wrong: dict[str, bytes]) -> None:
    other = house.write(20, **wrong)
    kept = other.read_bytes()
    house.write(12)
    other.write_bytes(kept)
    house.snapshots = Snapshots(house.snapshots.directory)  # one that has not complained yet
    with capture_logs() as logs:
        assert await house.begun_at() == 12
    assert [one["log_level"] for one in logs] == ["warning"], logs


async def test_one_from_beyond_the_end_of_the_log_is_not_taken(house: House) -> None:
    house.write(12)
    house.write(20)
    del house.log.events[15:]
    house.log.head = msgspec.structs.replace(house.head, position=15, tip=house.log.events[-1].hash)
    with capture_logs() as logs:
        begun = await nearest(house.store, house.snapshots, 15, house.head.log_id)
    assert begun.state.position == 12
    assert digest(await fold_log(house.store, house.head, begun=begun)) == digest(house.state_at(15))
    assert "ends at 15" in logs[0]["why"]


async def test_one_of_other_code_is_not_taken(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.write(12)
    monkeypatch.setattr(files, "program", lambda: bytes(32))
    assert await house.begun_at() == 0


async def test_a_log_that_does_not_lead_to_its_head_is_corrupt_with_a_snapshot_too(house: House) -> None:
    house.write(12)
    house.log.head = msgspec.structs.replace(house.head, tip=bytes(32))
    begun = await nearest(house.store, house.snapshots, house.head.position, house.head.log_id)
    with pytest.raises(Corrupt):
        await fold_log(house.store, house.head, begun=begun)


async def test_an_event_behind_the_snapshot_that_was_changed_is_found(house: House) -> None:
    house.write(12)
    house.log.events[12] = msgspec.structs.replace(house.log.events[12], actor="mallory")
    begun = await nearest(house.store, house.snapshots, house.head.position, house.head.log_id)
    assert begun.state.position == 12
    with pytest.raises(Corrupt, match="event 13 has been changed"):
        await fold_log(house.store, house.head, begun=begun)


async def test_a_change_of_any_byte_is_noticed(house: House) -> None:
    """All bytes of the head and the end, and some of each part between; what is changed is never read."""
    path = house.write(20)
    whole = path.read_bytes()
    rng = random.Random(7)
    tried = [*range(150), *range(len(whole) - 40, len(whole)), *rng.sample(range(len(whole)), 60)]
    for at in tried:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(BadSnapshot):
            SnapshotFile(path).state()
    assert await house.begun_at() == 0


@pytest.mark.parametrize("length", [0, 1, 18, 19, 26, 27, 100, 1_000, -33, -32, -1])
async def test_one_that_was_cut_off_is_not_taken(house: House, length: int) -> None:
    house.write(12)
    path = house.write(20)
    path.write_bytes(path.read_bytes()[:length])
    assert await house.begun_at() == 12


async def test_one_with_something_behind_it_is_not_taken(house: House) -> None:
    path = house.write(20)
    path.write_bytes(path.read_bytes() + b"\0")
    assert await house.begun_at() == 0


# --- what becomes of one while it is in use -----------------------------------------------------------


def cut_off(path: Path) -> None:
    os.truncate(path, 100)


def written_over(path: Path) -> None:
    """In place, so that whoever has it open sees it."""
    with path.open("r+b") as file:
        file.seek(-SHORT, os.SEEK_END)
        file.write(bytes(SHORT))


SHORT = 400


@pytest.mark.parametrize("spoil", [cut_off, written_over])
async def test_one_that_is_damaged_while_it_is_in_use_says_so_and_is_not_taken_again(
    house: House, spoil: Callable[[Path], None]
) -> None:
    path = house.write(END)
    [file] = house.snapshots
    state = file.state()
    spoil(path)
    ended = [job.number for job in WORLD.state.numbered if job.state.ended]
    with pytest.raises(Unreadable, match=f"{path} has been damaged since it was loaded") as raised:
        state.numbered[ended[-1] - 1]
    assert rests_on(state, raised.value.records)
    assert not rests_on(State(), raised.value.records)
    with pytest.raises(BadSnapshot):
        SnapshotFile(path).state()
    assert not list(house.snapshots)
    assert await house.begun_at() == 0


class Failing(Snapshots):
    """What loads well, and cannot be read afterwards."""

    def __iter__(self) -> Iterator[SnapshotFile]:
        for one in super().__iter__():
            load = one.state

            def state(path: Path = one.path, load: Callable[[], State] = load) -> State:
                loaded = load()
                cut_off(path)
                return loaded

            one.state = state  # type: ignore[method-assign]
            yield one


async def test_one_that_is_damaged_between_loading_and_folding_is_passed_over(tmp_path: Path) -> None:
    secrets = {"environment_digest": "env", "script_digest": "script", "command": ""}
    world = given().submit(**secrets).cycle().started().ended()
    at_rest = len(world.log)
    world.when(cmd.Erase(job_id(1)))
    house = House(tmp_path, world)
    house.write(at_rest)
    snapshots = Failing(tmp_path)
    with capture_logs() as logs:
        state, begun_at = await fold_nearest(house.store, snapshots, house.head, lambda done, total: None)
    assert (begun_at, digest(state)) == (0, digest(world.state))
    assert "has been damaged since it was loaded" in logs[0]["why"]


# --- the past -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 11, 12, 13, 20, END])
async def test_the_state_of_any_position_is_the_same_with_snapshots(house: House, position: int) -> None:
    for one in (5, 12, 20):
        house.write(one)
    state = await fold_until(house.store, END, position, snapshots=house.snapshots)
    assert digest(state) == digest(house.state_at(position))


# --- writing ------------------------------------------------------------------------------------------


def test_one_writes_at_a_time(house: House) -> None:
    with house.snapshots.alone() as alone, Snapshots(house.snapshots.directory).alone() as other:
        assert (alone, other) == (True, False)
    with house.snapshots.alone() as alone:
        assert alone
