"""The lease: whose turn it is to lead, and what a leader does not do once it may have lost it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from horizon.core import events as ev
from horizon.core.model import JobState
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine, Stopped
from horizon.service.leadership import Lease, Led, Turn, await_turn, steady_s
from horizon.store.memory import Log, MemoryStore
from horizon.store.port import Batch, Candidate, Fenced, Leader, Unavailable
from tests.service.test_engine import TroubledStore, ask, submission, until

TTL_S = 0.4


async def leading(log: Log, home: str = "theirs", ttl_s: float = TTL_S) -> MemoryStore:
    store = MemoryStore(log, Candidate(home, "host/1", "http://host", ttl_s))
    await store.open()
    await store.elect()
    return store


async def turn(log: Log, home: str = "ours") -> tuple[Turn, list[Leader]]:
    waited: list[Leader] = []
    return await await_turn(MemoryStore(log), home, waited.append), waited


# --- whose turn it is ---------------------------------------------------------------------------------


async def test_a_log_that_nobody_leads_is_not_waited_for() -> None:
    assert await turn(Log()) == (Turn(0), [])


async def test_the_lease_of_another_is_waited_for_to_its_end() -> None:
    log = Log()
    await leading(log)
    assert (await turn(log))[0] == Turn(1)
    assert log.lease_until_s <= asyncio.get_running_loop().time()
    await MemoryStore(log).elect(over=1)


async def test_whoever_waits_says_for_whom() -> None:
    log = Log()
    await leading(log)
    _, [waited] = await turn(log)
    assert (waited.name, waited.url) == ("host/1", "http://host")


async def test_ones_own_lease_is_not_waited_for() -> None:
    log = Log()
    await leading(log, "ours", ttl_s=600)
    assert await turn(log) == (Turn(1, living=True), [])


async def test_one_that_goes_on_leading_is_not_waited_for_for_ever() -> None:
    log = Log()
    store = await leading(log, ttl_s=600)
    waiting = asyncio.create_task(turn(log))
    await asyncio.sleep(0.02)
    await store.renew()
    with pytest.raises(Led, match="the scheduler host/1 at http://host leads this log"):
        await waiting


async def test_one_that_was_elected_meanwhile_is_not_waited_for_either() -> None:
    log = Log()
    await leading(log, ttl_s=600)
    waiting = asyncio.create_task(turn(log))
    await asyncio.sleep(0.02)
    await leading(log, ttl_s=0.001)
    with pytest.raises(Led):
        await waiting


# --- what a leader knows of its lease -----------------------------------------------------------------


async def test_a_leader_thinks_its_lease_over_before_the_store_does() -> None:
    asked_at = steady_s()
    log = Log()
    store = await leading(log)
    await asyncio.sleep(TTL_S / 2)  # the answer was long on its way
    lease = Lease(TTL_S, store.renew, lambda: None)
    lease.granted(asked_at)
    await until(lambda: not lease.holds)
    assert (await store.leader()).lease_left_s > 0


async def test_an_idle_leader_renews_its_lease() -> None:
    log = Log()
    store = await leading(log)
    lease = Lease(TTL_S, store.renew, lambda: None)
    lease.keep()
    await asyncio.sleep(3 * TTL_S)
    assert lease.holds
    assert (await store.leader()).lease_left_s > 0
    await lease.drop()
    assert not lease.holds


async def test_an_append_that_hangs_lets_the_lease_end() -> None:
    log = Log()
    store = await leading(log)
    lease = Lease(TTL_S, store.renew, lambda: None)
    lease.keep()
    lease.appending = True
    await asyncio.sleep(2 * TTL_S)
    assert not lease.holds
    assert (await store.leader()).lease_left_s <= 0
    await lease.drop()


# --- what an engine does without one ------------------------------------------------------------------


def engine_on(store: MemoryStore, directory: Path, ttl_s: float) -> Engine:
    executor = LocalExecutor(directory, simulated("4xH100"))
    clock = SystemClock()
    return Engine(
        store, executor, clock, Ids(clock), EngineConfig(unavailable_retry_s=0.02, lease_ttl_s=ttl_s)
    )


async def test_an_idle_engine_finds_out_by_itself_that_another_leads(tmp_path: Path) -> None:
    log = Log()
    engine = engine_on(TroubledStore(log), tmp_path, TTL_S)
    await engine.start()
    await MemoryStore(log).elect()
    assert "another scheduler leads" in await asyncio.wait_for(engine.stopped, 5)
    assert not engine.ready
    await engine.stop()


async def test_an_engine_gives_its_lease_back_when_it_stops(tmp_path: Path) -> None:
    log = Log()
    engine = engine_on(MemoryStore(log, Candidate(lease_ttl_s=600)), tmp_path, 600)
    await engine.start()
    await engine.stop()
    await MemoryStore(log).elect(over=1)


class Mute(TroubledStore):
    """One that renews nothing for a while, or takes its time with a placement."""

    mute = False
    slow = False

    async def append(self, batch: Batch) -> tuple[ev.Recorded, ...]:
        if self.slow and any(type(draft.event) is ev.JobScheduled for draft in batch.drafts):
            await asyncio.sleep(TTL_S)
            self.mute = True
        return await super().append(batch)

    async def renew(self) -> None:
        if self.mute:
            raise Unavailable("no answer")
        await super().renew()


async def test_a_leader_that_may_have_lost_its_lease_takes_no_commands(tmp_path: Path) -> None:
    store = Mute(Log())
    engine = engine_on(store, tmp_path, TTL_S)
    await engine.start()
    assert engine.ready
    store.mute = True
    await until(lambda: not engine.ready)
    with pytest.raises(Stopped, match="heard nothing of the store"):
        await ask(engine, submission(engine))
    store.mute = False
    await until(lambda: engine.ready)
    await ask(engine, submission(engine))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1 and not engine.state.holding)
    await engine.stop()


async def test_a_leader_that_stood_still_over_its_lease_starts_nothing_before_it_has_renewed_it(
    tmp_path: Path,
) -> None:
    """The append of the placement took longer than the lease; meanwhile another one may lead."""
    log, ran = Log(), tmp_path / "ran"
    store = Mute(log)
    engine = engine_on(store, tmp_path / "data", TTL_S)
    await engine.start()
    store.slow = True
    await ask(engine, submission(engine, f"touch {ran}"))
    await until(lambda: engine.state.counts[JobState.SCHEDULED] == 1)
    await asyncio.sleep(0.3)
    assert not ran.exists()
    await MemoryStore(log).elect()
    store.mute = False
    assert "another scheduler leads" in await asyncio.wait_for(engine.stopped, 5)
    await engine.stop()
    assert not ran.exists()


async def test_an_election_that_another_won_starts_nothing(tmp_path: Path) -> None:
    log = Log()
    await leading(log, ttl_s=600)
    engine = engine_on(TroubledStore(log), tmp_path, TTL_S)
    with pytest.raises(Fenced):
        await engine.start(turn=Turn(1))
    assert log.events == []
    await engine.stop()
