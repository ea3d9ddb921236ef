"""A follower has folded a prefix of the log, always, and does not go on where the log is not what it was."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import pytest
from msgspec import structs

from horizon.core.state import digest
from horizon.service.follower import Follower
from horizon.service.recovery import fold_until
from horizon.store import codec
from horizon.store.memory import Log, MemoryStore
from horizon.store.port import Batch, Corrupt, EventStore, Head, Unavailable
from horizon.store.postgres import PostgresStore
from tests.store.contract import drafts


async def append(store: EventStore, first: int, count: int) -> int:
    await store.append(Batch(drafts(count, first), 1_000 * first))
    return first + count


async def test_every_state_of_a_follower_is_that_of_a_prefix_however_its_connections_break(
    database: str, admin: asyncpg.Connection[Any]
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    leading, following = PostgresStore(database), PostgresStore(database)
    await leading.open()
    await leading.elect()
    await following.open()
    follower = Follower(following)
    seen: dict[int, str] = {}

    async def append_all() -> int:
        at = 1
        for _ in range(40):
            at = await append(leading, at, chance.choice((1, 1, 2, 7, 450)))
            await asyncio.sleep(chance.choice((0, 0.002)))
        return at - 1

    async def cut() -> None:
        for _ in range(8):
            await asyncio.sleep(0.05)
            await admin.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND query NOT LIKE '%pg_stat_activity%'
                     AND pid NOT IN (SELECT leader_pid FROM log_head)"""
            )

    async def follow(appended: asyncio.Future[int]) -> None:
        while not (appended.done() and follower.state.position == appended.result()):
            try:
                await follower.look()
            except Unavailable:
                continue
            finally:
                at = follower.state.position
                assert at >= max(seen, default=0), f"it went back (seed {seed})"
                if at not in seen:
                    seen[at] = digest(follower.state)

    appending, cutting = asyncio.create_task(append_all()), asyncio.create_task(cut())
    await follow(appending)
    await cutting
    await leading.close()
    await following.close()
    await following.open()
    assert len(seen) > 3, f"it was never in between (seed {seed})"
    for position in chance.sample(sorted(seen), min(len(seen), 12)):
        if position:
            there = await fold_until(following, position, position)
            assert digest(there) == seen[position], f"not the prefix of {position} (seed {seed})"
    await following.close()


async def following(log: Log, events: int = 5) -> Follower:
    """A follower that has folded so many."""
    store = MemoryStore(log)
    await store.open()
    await store.elect()
    await append(store, 1, events)
    follower = Follower(MemoryStore(log))
    await follower.look()
    assert follower.state.position == events
    await append(store, events + 1, 3)
    return follower


async def test_what_is_new_is_folded_and_nothing_is_left_behind() -> None:
    follower = await following(Log())
    assert (await follower.look()).head.position == 8
    assert (follower.state.position, follower.events_behind) == (8, 0)
    assert follower.seconds_behind < 1


async def test_one_that_breaks_off_in_the_middle_goes_on_from_there() -> None:
    class Broken(MemoryStore):
        async def read(self, after: int, limit: int | None = None, previous: bytes | None = None) -> Any:
            async for recorded in super().read(after, limit, previous):
                if recorded.position == 7 and follower.state.position == 6 and not broken:
                    broken.append(True)
                    raise Unavailable("cut off")
                yield recorded

    broken: list[bool] = []
    log = Log()
    follower = await following(log)
    follower._store = Broken(log)
    with pytest.raises(Unavailable):
        await follower.look()
    assert (follower.state.position, follower.events_behind) == (6, 2)
    await follower.look()
    assert follower.state.position == 8


def cut_short(log: Log) -> None:
    log.events, log.head = log.events[:3], codec.after(log.head, log.events[:3])


def rewritten(log: Log) -> None:
    log.events[4] = structs.replace(log.events[4], actor="mallory", hash=b"other" * 6)
    log.events, log.head = log.events[:5], codec.after(log.head, log.events[:5])


def rewritten_and_gone_on_from(log: Log) -> None:
    """The chain of the new log holds; it is not the one that was followed."""
    before = Head(log.head.log_id, 1, 4, log.events[3].hash, 1_000)
    sealed = codec.seal(before, drafts(4, 5, "other"), 9_000)
    log.events, log.head = [*log.events[:4], *sealed], codec.after(before, sealed)


def with_a_gap(log: Log) -> None:
    del log.events[6]


def changed(log: Log) -> None:
    log.events[6] = structs.replace(log.events[6], actor="mallory")


def of_an_older_epoch(log: Log) -> None:
    log.head = structs.replace(log.head, epoch=0)


def another(log: Log) -> None:
    log.head = structs.replace(log.head, log_id=bytes(16))


def shorter_than_its_head(log: Log) -> None:
    log.head = structs.replace(log.head, tip=bytes(32))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut_short, "went back in time"),
        (rewritten, "has been rewritten"),
        (rewritten_and_gone_on_from, "event 6 has been changed, or the one before it"),
        (with_a_gap, "gap"),
        (changed, "event 7 has been changed"),
        (of_an_older_epoch, "went back in time"),
        (another, "holds another log"),
        (shorter_than_its_head, "its head says"),
    ],
)
async def test_a_log_that_is_not_what_it_was_is_not_followed(harm: Any, words: str) -> None:
    log = Log()
    follower = await following(log)
    harm(log)
    with pytest.raises(Corrupt, match=words):
        await follower.look()


async def test_an_event_of_an_older_epoch_behind_a_newer_one_is_not_folded() -> None:
    log = Log()
    follower = await following(log)
    follower.state.epoch = 2
    with pytest.raises(Corrupt, match="event 6 is of epoch 1, after 2"):
        await follower.look()
