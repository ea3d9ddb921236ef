"""What every store must do. ``MemoryStore`` and ``PostgresStore`` both inherit this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from horizon.core import events as ev
from horizon.core.model import JobSpec
from horizon.store.port import (
    GENESIS_HASH,
    Answer,
    Batch,
    Corrupt,
    EventStore,
    Fenced,
    Head,
    SetBack,
    Signed,
    Wanted,
)

Connect = Callable[[], Awaitable[EventStore]]
"""Opens one more store on the same log, as another process would."""


def drafts(count: int, first: int = 1, comment: str = "") -> tuple[ev.Draft, ...]:
    return tuple(
        ev.Draft(
            ev.JobSubmitted(
                job_id=f"id-{number}", number=number, spec=JobSpec("alice", "true", comment=comment)
            ),
            f"job/id-{number}",
            1,
            "owner",
            bytes([number % 256]) * 16,
            bytes(16),
            0,
        )
        for number in range(first, first + count)
    )


SetTo = Callable[[Head], Awaitable[None]]
"""What whoever owns the database can do: have the log end there, and say so."""


class StoreContract:
    """Subclasses provide the fixtures ``connect`` and ``set_back``."""

    async def leader(self, connect: Connect) -> EventStore:
        store = await connect()
        await store.elect()
        return store

    async def test_a_new_log_is_empty(self, connect: Connect) -> None:
        store = await connect()
        head = await store.open()
        assert (head.epoch, head.position, head.tip) == (0, 0, GENESIS_HASH)
        assert [one async for one in store.read(0)] == []

    async def test_an_election_raises_the_epoch_by_one(self, connect: Connect) -> None:
        first = await connect()
        assert (await first.elect()).epoch == 1
        assert (await (await connect()).elect()).epoch == 2

    async def test_what_is_appended_is_read_back_the_same_and_in_order(self, connect: Connect) -> None:
        store = await self.leader(connect)
        appended = await store.append(Batch(drafts(3), 1_000))
        appended += await store.append(Batch(drafts(2, first=4), 2_000))
        assert [one async for one in store.read(0)] == list(appended)
        assert [one.position for one in appended] == [1, 2, 3, 4, 5]
        assert [one.recorded_at_us for one in appended] == [1_000] * 3 + [2_000] * 2

    async def test_reading_begins_after_a_position_and_ends_at_a_limit(self, connect: Connect) -> None:
        store = await self.leader(connect)
        appended = await store.append(Batch(drafts(10), 1_000))
        assert [one async for one in store.read(4, 3)] == list(appended[4:7])
        assert [one async for one in store.read(10)] == []
        assert await store.read_at([9, 2]) == [appended[1], appended[8]]
        assert await store.read_at([0, 11]) == []

    async def test_events_are_found_by_who_what_and_where(self, connect: Connect) -> None:
        store = await self.leader(connect)
        given = drafts(6)
        given = (*given[:2], replace(given[2], actor="bob"), *given[3:])
        shares = [ev.ShareSet(path="a", weight=weight) for weight in (1, 2)]
        given += tuple(
            ev.Draft(one, one.stream, version, "bob", bytes(16), bytes(16), 0)
            for version, one in enumerate(shares, 1)
        )
        log = await store.append(Batch(given, 1_000))

        async def found(after: int = 0, end: int = 8, limit: int = 9, **wanted: Any) -> list[int]:
            some = await store.find(Wanted(**wanted), after, end, limit)
            assert [log[one.position - 1] for one in some] == some
            return [one.position for one in some]

        assert await found() == list(range(1, 9))
        assert await found(after=2, end=5) == [3, 4, 5]
        assert await found(limit=2) == [1, 2]
        assert await found(actor="bob") == [3, 7, 8]
        assert await found(actor="bob", types=("ShareSet", "QuotaSet"), limit=1) == [7]
        assert await found(types=("JobSubmitted",), after=4) == [5, 6]
        assert await found(positions=(1, 3, 8)) == [1, 3, 8]
        assert await found(positions=(1, 3, 8), after=1, end=7) == [3]
        assert await found(positions=(1, 3, 8), actor="bob", limit=1) == [3]
        assert await found(positions=()) == await found(actor="nobody") == []

    async def test_what_is_looked_up_hangs_on_the_event_before(
        self, connect: Connect, set_back: SetTo
    ) -> None:
        store = await self.leader(connect)
        appended = await store.append(Batch(drafts(3), 1_000))
        await set_back(Head(bytes(16), 1, 2, bytes(32), 1_000))
        await store.elect()
        await store.append(Batch(drafts(1, first=3), 1_000))
        assert await store.read_at([1, 2]) == list(appended[:2])
        with pytest.raises(Corrupt, match="event 3 has been changed, or the one before it"):
            await store.read_at([1, 3])
        for wanted in (Wanted(), Wanted(positions=(3,))):
            with pytest.raises(Corrupt, match="event 3 has been changed, or the one before it"):
                await store.find(wanted, 0, 3, 9)

    async def test_a_moment_has_a_position(self, connect: Connect) -> None:
        store = await self.leader(connect)
        assert await store.position_at(5) == 0
        for number, at_us in enumerate((10, 20, 20, 30), 1):
            await store.append(Batch(drafts(1, first=number), at_us))
        asked = (9, 10, 19, 20, 25, 30, 99)
        assert [await store.position_at(at_us) for at_us in asked] == [0, 1, 1, 3, 3, 4, 4]

    async def test_another_reader_sees_what_was_appended(self, connect: Connect) -> None:
        store = await self.leader(connect)
        reader = await connect()
        appended = await store.append(Batch(drafts(2), 1_000))
        assert [one async for one in reader.read(0)] == list(appended)

    async def test_an_older_leader_is_fenced_and_writes_nothing(self, connect: Connect) -> None:
        old = await self.leader(connect)
        new = await self.leader(connect)
        with pytest.raises(Fenced):
            await old.append(Batch(drafts(1), 1_000))
        assert [one async for one in new.read(0)] == []
        await new.append(Batch(drafts(1), 1_000))

    async def test_a_log_that_was_set_back_under_its_leader_is_nobody_elses_doing(
        self, connect: Connect, set_back: SetTo
    ) -> None:
        store = await self.leader(connect)
        await store.append(Batch(drafts(2), 1_000))
        earlier = await (await connect()).open()
        await store.append(Batch(drafts(1, first=3), 2_000))
        await set_back(earlier)
        with pytest.raises(SetBack, match="from position 3 to 2: its end was taken away, or an older backup"):
            await store.append(Batch(drafts(1, first=4), 3_000))
        await set_back(replace(earlier, position=3, tip=bytes(32)))
        with pytest.raises(SetBack, match=r"event 3, .* is not the end of the log any more, and nobody else"):
            await store.append(Batch(drafts(1, first=4), 3_000))
        await set_back(replace(earlier, epoch=0))
        for attempt in (store.append(Batch(drafts(1, first=4), 3_000)), store.renew()):
            with pytest.raises(SetBack, match="from position 3 to 2"):
                await attempt
        await set_back(replace(earlier, epoch=2))
        with pytest.raises(Fenced, match="from epoch 1 to 2"):
            await store.append(Batch(drafts(1, first=4), 3_000))

    async def test_a_leader_may_be_elected_again_but_not_over_another(self, connect: Connect) -> None:
        old = await self.leader(connect)
        assert (await old.elect(again=True)).epoch == 2
        new = await self.leader(connect)
        with pytest.raises(Fenced):
            await old.elect(again=True)
        assert (await new.elect(again=True)).epoch == 4

    async def test_an_election_begins_a_lease_and_nobody_is_elected_while_it_lasts(
        self, connect: Connect
    ) -> None:
        first, second = await self.leader(connect), await connect()
        leader = await second.leader()
        assert leader.head == await second.open()
        assert 9 < leader.lease_left_s <= 10
        with pytest.raises(Fenced):
            await second.elect(over=1)
        await first.append(Batch(drafts(1), 1_000))
        assert (await second.elect(over=1, living=True)).epoch == 2

    async def test_a_lease_that_was_given_back_is_not_waited_for(self, connect: Connect) -> None:
        first, second = await self.leader(connect), await connect()
        await first.resign()
        assert (await second.leader()).lease_left_s <= 0
        assert (await second.elect(over=1)).epoch == 2

    async def test_of_two_that_end_one_term_one_is_elected(self, connect: Connect) -> None:
        first, second, third = await self.leader(connect), await connect(), await connect()
        await first.resign()
        await second.elect(over=1)
        with pytest.raises(Fenced):
            await third.elect(over=1, living=True)
        await second.append(Batch(drafts(1), 1_000))

    async def test_who_asks_again_for_an_election_it_has_won_has_won_it(self, connect: Connect) -> None:
        """The answer to the first time was lost."""
        store = await connect()
        await store.elect(over=0)
        assert (await store.elect(over=0)).epoch == 2

    async def test_appends_and_renewals_put_the_end_of_the_lease_off(self, connect: Connect) -> None:
        store = await self.leader(connect)
        ends = [(await store.leader()).lease_until_us]
        await store.append(Batch(drafts(1), 1_000))
        ends.append((await store.leader()).lease_until_us)
        await store.renew()
        ends.append((await store.leader()).lease_until_us)
        assert ends[0] < ends[1] < ends[2]

    async def test_an_older_leader_can_neither_renew_a_lease_nor_end_it(self, connect: Connect) -> None:
        old = await self.leader(connect)
        await self.leader(connect)
        before = (await old.leader()).lease_until_us
        with pytest.raises(Fenced):
            await old.renew()
        await old.resign()
        assert (await old.leader()).lease_until_us == before

    async def test_reading_on_from_an_event_that_is_another_now_is_found(self, connect: Connect) -> None:
        store = await self.leader(connect)
        appended = await store.append(Batch(drafts(3), 1_000))
        assert [one async for one in store.read(2, previous=appended[1].hash)] == [appended[2]]
        with pytest.raises(Corrupt):
            [one async for one in store.read(2, previous=appended[0].hash)]

    async def test_an_append_may_hold_an_answer_and_no_event(self, connect: Connect) -> None:
        store = await self.leader(connect)
        await store.append(Batch(drafts(1), 1_000))
        answer = Answer("key", b"f" * 32, 200, b"{}")
        assert await store.append(Batch((), 2_000, {}, (answer,))) == ()
        assert await (await connect()).answer("key") == answer
        [second] = await store.append(Batch(drafts(1, first=2), 3_000))
        assert second.position == 2

    async def test_reading_past_the_end_gives_nothing(self, connect: Connect) -> None:
        store = await self.leader(connect)
        assert [one async for one in store.read(7)] == []

    async def test_a_fenced_append_leaves_no_blob_and_no_answer(self, connect: Connect) -> None:
        old = await self.leader(connect)
        new = await self.leader(connect)
        answer = Answer("key", b"f" * 32, 201, b"{}")
        with pytest.raises(Fenced):
            await old.append(Batch(drafts(1), 1_000, {"d": b"x"}, (answer,)))
        assert await new.blobs(["d"]) == {}
        assert await new.answer("key") is None

    async def test_blobs_are_filed_once_and_found_by_digest(self, connect: Connect) -> None:
        store = await self.leader(connect)
        await store.append(Batch(drafts(1), 1_000, {"d1": b"one", "d2": b"\x00two"}))
        await store.append(Batch(drafts(1, first=2), 1_000, {"d1": b"one"}))
        assert await store.blobs(["d1", "d2", "d3"]) == {"d1": b"one", "d2": b"\x00two"}

    async def test_blobs_are_erased_with_the_events_that_say_so_or_not_at_all(self, connect: Connect) -> None:
        old = await self.leader(connect)
        await old.append(Batch(drafts(1), 1_000, {"d1": b"one", "d2": b"two", "d3": b"three"}))
        answer = Answer("key", b"f" * 32, 200, b"{}")
        await old.append(Batch(drafts(1, first=2), 1_000, answers=(answer,), erased=("d1", "d3", "d4")))
        assert await old.blobs(["d1", "d2", "d3"]) == {"d2": b"two"}
        assert await old.answer("key") == answer
        new = await self.leader(connect)
        with pytest.raises(Fenced):
            await old.append(Batch(drafts(1, first=3), 1_000, erased=("d2",)))
        assert await new.blobs(["d2"]) == {"d2": b"two"}
        await new.append(Batch(drafts(1, first=3), 1_000, {"d1": b"one"}))
        assert await new.blobs(["d1"]) == {"d1": b"one"}, "the same may be filed again"

    async def test_an_answer_is_kept_with_its_events(self, connect: Connect) -> None:
        store = await self.leader(connect)
        answer = Answer("key", b"f" * 32, 201, b'{"id": 1}')
        await store.append(Batch(drafts(1), 1_000, {}, (answer,)))
        assert await (await connect()).answer("key") == answer
        assert await store.answer("other") is None

    async def test_any_text_and_size_survives(self, connect: Connect) -> None:
        store = await self.leader(connect)
        comment = "ünïcode \u2028 \U0001d525 \\ \" ' \x01 " * 20_000
        await store.append(Batch(drafts(1, comment=comment), 1_000))
        [one] = [one async for one in store.read(0)]
        assert isinstance(one.event, ev.JobSubmitted)
        assert one.event.spec.comment == comment

    async def test_a_batch_of_ten_thousand_is_one_append(self, connect: Connect) -> None:
        store = await self.leader(connect)
        await store.append(Batch(drafts(10_000), 1_000))
        assert sum([1 async for _ in store.read(0)]) == 10_000

    async def test_hashes_are_those_that_were_given(self, connect: Connect) -> None:
        store = await self.leader(connect)
        given = [one.hash for one in await store.append(Batch(drafts(7), 1_000))]
        assert await store.hashes(0, GENESIS_HASH, 100) == given
        assert await store.hashes(2, given[1], 3) == given[2:5]
        assert await store.hashes(7, given[6], 3) == []

    async def test_hashes_follow_from_the_one_that_is_said_to_stand_before(self, connect: Connect) -> None:
        store = await self.leader(connect)
        await store.append(Batch(drafts(3), 1_000))
        with pytest.raises(Corrupt, match="event 2 has been changed, or the one before it"):
            await store.hashes(1, bytes(32), 10)

    async def test_checkpoints_are_filed_in_their_order(self, connect: Connect) -> None:
        store = await self.leader(connect)
        assert await store.newest_checkpoint() is None
        assert [one async for one in store.checkpoints()] == []
        filed = [Signed(size, bytes(32), f"note {size}\n") for size in (3, 12, 500)]
        for one in filed:
            await store.add_checkpoint(one)
        reader = await connect()
        assert await reader.newest_checkpoint() == filed[-1]
        assert [one async for one in reader.checkpoints()] == filed
        assert [one async for one in reader.checkpoints(3)] == filed[1:]

    async def test_a_checkpoint_that_is_filed_stays_as_it_is(self, connect: Connect) -> None:
        store = await self.leader(connect)
        await store.add_checkpoint(Signed(3, bytes(32), "first\n"))
        await store.add_checkpoint(Signed(3, bytes(64), "second\n"))
        assert await store.newest_checkpoint() == Signed(3, bytes(32), "first\n")
