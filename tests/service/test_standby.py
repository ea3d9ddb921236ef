"""A standby leads when its turn has come, from what it has folded, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from horizon.core import commands as cmd
from horizon.core.model import JobState
from horizon.core.state import digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine
from horizon.service.follower import Follower
from horizon.service.recovery import fold_log
from horizon.service.standby import Standby
from horizon.store.memory import Log, MemoryStore
from horizon.store.port import Candidate, Corrupt, Head, Unavailable
from tests.service.test_engine import ask, submission, until

TTL_S = 0.5
StandBy = Callable[..., Awaitable[tuple[Standby, Engine]]]


def engine_on(store: MemoryStore, directory: Path, spec: str = "4xH100") -> Engine:
    clock = SystemClock()
    config = EngineConfig(unavailable_retry_s=0.02, lease_ttl_s=TTL_S)
    return Engine(store, LocalExecutor(directory, simulated(spec)), clock, Ids(clock), config)


def store_on(log: Log, name: str, kind: type[MemoryStore] = MemoryStore) -> MemoryStore:
    return kind(log, Candidate(name, name, f"http://{name}", TTL_S))


@pytest.fixture
async def stand_by(tmp_path: Path) -> AsyncIterator[StandBy]:
    """Starts standbys on a log; each runs until the end of the test."""
    started: list[tuple[Engine, asyncio.Task[None]]] = []

    async def start(log: Log, name: str, kind: type[MemoryStore] = MemoryStore) -> tuple[Standby, Engine]:
        engine = engine_on(store_on(log, name, kind), tmp_path)
        standby = Standby(engine, Follower(engine.store), lambda led, state: None)
        await standby.start(lambda done, total: None)
        started.append((engine, asyncio.create_task(standby.run(), name=name)))
        return standby, engine

    yield start
    for engine, task in started:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.stop()


async def leader_of(log: Log, directory: Path) -> Engine:
    engine = engine_on(store_on(log, "first"), directory)
    await engine.start()
    return engine


async def die(engine: Engine) -> None:
    """As if it were killed: nothing is given back, nothing more is written."""
    await engine.lease.drop()
    assert engine._loop_task is not None
    engine._loop_task.cancel()
    await asyncio.gather(engine._loop_task, return_exceptions=True)
    engine._loop_task = None
    await engine.executor.close()


async def test_a_standby_leads_from_what_it_has_folded_when_the_leader_is_silent(
    stand_by: StandBy, tmp_path: Path
) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    standby, engine = await stand_by(log, "second")
    assert standby.leader is not None
    assert standby.leader.url == "http://first"
    command = submission(first, "sleep 1; exit 3")
    await ask(first, command)
    await until(lambda: first.state.counts[JobState.RUNNING] == 1)
    folded = standby.follower.state
    await until(lambda: folded.counts[JobState.RUNNING] == 1)
    await die(first)
    await until(lambda: not standby.following)
    assert engine.state is folded
    assert engine.state.epoch == 2
    await ask(engine, submission(engine))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1 and not engine.state.holding)
    assert engine.state.jobs[command.job_id].exit_code == 3
    assert digest(await fold_log(engine.store, log.head)) == digest(engine.state)
    await first.stop()


async def test_no_standby_leads_while_the_leader_is_heard_of(stand_by: StandBy, tmp_path: Path) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    standby, _ = await stand_by(log, "second")
    await asyncio.sleep(3 * TTL_S)
    assert standby.following
    assert log.head.epoch == 1
    await first.stop()


async def test_of_two_standbys_one_leads_and_the_other_follows_that_one(
    stand_by: StandBy, tmp_path: Path
) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    standbys = [await stand_by(log, "second"), await stand_by(log, "third")]
    await first.stop()
    await until(lambda: not all(standby.following for standby, _ in standbys))
    [(_, led)] = [pair for pair in standbys if not pair[0].following]
    [(follows, waits)] = [pair for pair in standbys if pair[0].following]
    await ask(led, submission(led, hold=True))
    await until(lambda: len(follows.follower.state.jobs) == 1)
    assert log.head.epoch == 2
    await led.stop()
    await until(lambda: waits.ready)
    assert log.head.epoch == 3
    assert len(waits.state.jobs) == 1


class ElectsLate(MemoryStore):
    """Its first election comes about and is not heard of."""

    lost = False

    async def elect(self, again: bool = False, over: int | None = None, living: bool = False) -> Head:
        head = await super().elect(again, over, living)
        if not self.lost:
            self.lost = True
            raise Unavailable("the answer was lost")
        return head


async def test_an_election_whose_answer_was_lost_is_won_all_the_same(
    stand_by: StandBy, tmp_path: Path
) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    _, engine = await stand_by(log, "second", ElectsLate)
    await first.stop()
    await until(lambda: engine.ready)
    assert log.head.epoch == 3


async def test_a_log_that_goes_back_in_time_is_not_led(stand_by: StandBy, tmp_path: Path) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    standby, _ = await stand_by(log, "second")
    await until(lambda: standby.follower.state.position == log.head.position)
    [running] = [task for task in asyncio.all_tasks() if task.get_name() == "second"]
    before = log.head
    log.head = Head(before.log_id, before.epoch, 1, log.events[0].hash, 1)
    log.lease_until_s = 0.0
    with pytest.raises(Corrupt, match="went back in time"):
        await running
    assert standby.following
    log.head = before
    await die(first)
    await first.stop()


async def test_whoever_waits_for_the_leader_is_told_that_its_term_is_over(
    stand_by: StandBy, tmp_path: Path
) -> None:
    log = Log()
    first = await leader_of(log, tmp_path)
    standby, _ = await stand_by(log, "second")
    term = standby.term
    assert not term.is_set()
    await first.stop()
    await asyncio.wait_for(term.wait(), 5)


# --- nodes that are not the new leader's --------------------------------------------------------------


async def test_jobs_on_nodes_of_another_scheduler_are_neither_lost_nor_run_again(tmp_path: Path) -> None:
    """It leads from another directory, and has one of the two nodes: the other one's jobs may well run."""
    log, ran = Log(), tmp_path / "ran"
    first = engine_on(store_on(log, "first"), tmp_path / "first", "1xH100,2xA100")
    await first.start()
    command = submission(first, f"echo ran >> {ran}; sleep 600", gpu_type="A100", grace_period_s=0)
    await ask(first, command)
    await until(lambda: first.state.counts[JobState.RUNNING] == 1)
    await die(first)
    other = engine_on(store_on(log, "second"), tmp_path / "second", "1xH100")
    await other.start()
    job = other.state.jobs[command.job_id]
    assert other.state.nodes["node-2"].lost
    await ask(other, cmd.Cancel(command.job_id))
    await asyncio.sleep(0.3)
    assert job.state is JobState.CANCELLED
    assert job.allocation_state is not None, "its devices are not free before they are known to be"
    assert ran.read_text() == "ran\n"
    await other.stop()
    again = engine_on(store_on(log, "first"), tmp_path / "first", "1xH100,2xA100")
    await again.start()  # where its files are, it is stopped as was asked
    await until(lambda: again.state.jobs[command.job_id].allocation_state is None)
    await again.stop()
    await first.stop()


async def test_jobs_on_nodes_that_were_taken_away_from_a_scheduler_go_on_under_its_eyes(
    tmp_path: Path,
) -> None:
    """Their files are here, whatever the nodes are called now."""
    log = Log()
    first = engine_on(store_on(log, "first"), tmp_path, "1xH100,2xA100")
    await first.start()
    ends = submission(first, "sleep 0.5; exit 4", gpu_type="A100")
    stopped = submission(first, "sleep 600", gpu_type="A100", grace_period_s=0)
    for command in (ends, stopped):
        await ask(first, command)
    await until(lambda: first.state.counts[JobState.RUNNING] == 2)
    await first.stop()
    again = engine_on(store_on(log, "first"), tmp_path, "1xH100")
    await again.start()
    assert again.state.nodes["node-2"].lost
    await ask(again, cmd.Cancel(stopped.job_id))
    await until(lambda: not again.state.holding)
    assert again.state.jobs[ends.job_id].exit_code == 4
    await again.stop()
