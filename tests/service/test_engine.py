"""The single writer: what it promises on good days and on bad ones. The store's faults are real appends that
are reported as something else; executor and processes are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.blobs import digest_of, encode_environment
from horizon.core.decide import Events, Rejected
from horizon.core.explain import explainer
from horizon.core.model import JobSpec, JobState
from horizon.core.policy import Policy
from horizon.core.state import State, digest
from horizon.executors.inventory import simulated
from horizon.executors.local import LocalExecutor
from horizon.executors.port import ExecutorError
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine, Stopped
from horizon.service.inbox import Busy, KeyReused, Reply
from horizon.service.recovery import fold_log
from horizon.store import codec
from horizon.store.memory import Log, MemoryStore
from horizon.store.port import Answer, Batch, Head, Unavailable, UnknownOutcome

Start = Callable[..., Awaitable[Engine]]


class TroubledStore(MemoryStore):
    """A memory store whose next appends can be delayed or misreported."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.gate = asyncio.Event()
        self.gate.set()
        self.trouble: list[str] = []
        self.appends: list[int] = []

    async def append(self, batch: Batch) -> tuple[ev.Recorded, ...]:
        await self.gate.wait()
        trouble = self.trouble.pop(0) if self.trouble else ""
        assert self._head is not None
        tail = codec.after(self._head, codec.seal(self._head, batch.drafts, batch.recorded_at_us))
        if trouble == "unavailable":
            raise Unavailable("disk full")
        if trouble == "lost":
            raise UnknownOutcome("cut off before it arrived", tail.position, tail.tip)
        recorded = await super().append(batch)
        self.appends.append(len(recorded))
        if trouble == "executed":
            raise UnknownOutcome("cut off before the answer", tail.position, tail.tip)
        return recorded


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    engines: list[Engine] = []

    async def start(
        log: Log | None = None, spec: str = "4xH100", config: EngineConfig | None = None, clock: Any = None
    ) -> Engine:
        clock = clock or SystemClock()
        executor = LocalExecutor(tmp_path, simulated(spec))
        engine = Engine(TroubledStore(log or Log()), executor, clock, Ids(clock), config)
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        if not engine.stopped.done() and engine.ready:
            for job in list(engine.state.jobs.values()):
                if not job.state.ended:
                    await ask(engine, cmd.Cancel(job.id))
            await until(lambda engine=engine: not engine.state.holding)  # type: ignore[misc]
        await engine.stop()


def rendered(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    return 200, b" ".join(type(event).__name__.encode() for event in events)


async def ask(engine: Engine, command: cmd.Command, **more: Any) -> Reply:
    return await engine.ask(command, "owner", rendered, **more)


def submission(engine: Engine, command: str = "true", **fields: Any) -> cmd.Submit:
    return cmd.Submit(engine.ids.new_text(), JobSpec(**{"user_id": "alice", "command": command, **fields}))


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def troubled(engine: Engine) -> TroubledStore:
    assert isinstance(engine.store, TroubledStore)
    return engine.store


async def refolded(engine: Engine) -> str:
    head: Head = troubled(engine).log.head
    return digest(await fold_log(engine.store, head))


# --- good days ----------------------------------------------------------------------------------------


async def test_a_job_runs_from_submission_to_its_end(start: Start) -> None:
    engine = await start()
    assert await ask(engine, submission(engine)) == Reply(200, b"JobSubmitted")
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1 and not engine.state.holding)
    types = [one.type for one in troubled(engine).log.events]
    begun = ["LeaderElected", "PolicySet", "NodeRegistered", "JobSubmitted", "JobScheduled", "JobStarted"]
    assert types == [*begun, "JobCompleted", "AllocationReleased"]
    assert await refolded(engine) == digest(engine.state)


async def test_nothing_is_answered_or_visible_before_it_is_durable(start: Start) -> None:
    engine = await start()
    store = troubled(engine)
    store.gate.clear()
    waiting = asyncio.create_task(ask(engine, submission(engine)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert engine.state.jobs == {}
    store.gate.set()
    await waiting
    assert len(engine.state.jobs) == 1


async def test_what_arrives_while_a_batch_commits_forms_the_next_batch(start: Start) -> None:
    engine = await start(spec="1xH100")
    await ask(engine, submission(engine, "sleep 30"))
    await until(lambda: engine.state.counts[JobState.RUNNING] == 1)
    store = troubled(engine)
    store.appends.clear()
    await asyncio.gather(*(ask(engine, submission(engine)) for _ in range(500)))
    assert store.appends[0] == 500
    assert len(store.appends) <= 3
    assert [job.number for job in engine.state.numbered] == list(range(1, 502))


async def test_two_commands_about_one_job_are_decided_one_after_the_other(start: Start) -> None:
    engine = await start(spec="1xH100")
    command = submission(engine, hold=True)
    await ask(engine, command)
    replies = await asyncio.gather(
        *(ask(engine, cmd.Cancel(command.job_id)) for _ in range(5)), return_exceptions=True
    )
    assert [type(reply) for reply in replies] == [Reply, Rejected, Rejected, Rejected, Rejected]


@pytest.mark.parametrize("leaves", [cmd.Cancel, lambda id: cmd.Update(id, hold=True)])
async def test_when_a_job_that_was_planned_for_leaves_those_kept_back_for_it_start(
    start: Start, leaves: Callable[[str], cmd.Command]
) -> None:
    engine = await start(spec="2xH100")
    await ask(engine, submission(engine, "sleep 30", time_limit_s=60))
    wide, long = submission(engine, gpu_count=2), submission(engine, time_limit_s=600)
    await ask(engine, wide)
    await until(lambda: len(engine.cycle.reservations) == 1)
    await ask(engine, long)
    await until(lambda: len(engine.cycle.reservations) == 2)
    assert engine.state.jobs[long.job_id].state is JobState.QUEUED
    await ask(engine, leaves(wide.job_id))
    await until(lambda: engine.state.jobs[long.job_id].state is JobState.COMPLETED)


async def test_behind_a_full_cluster_a_submission_is_not_worth_a_cycle(start: Start) -> None:
    engine = await start(spec="1xH100")
    await ask(engine, cmd.SetPolicy(Policy(reservation_depth=1)))
    running = submission(engine, "sleep 30")
    await asyncio.gather(*(ask(engine, one) for one in (running, *(submission(engine) for _ in range(2)))))
    await until(lambda: engine.cycle.full is not None)
    before = engine.cycle
    for _ in range(3):
        await ask(engine, submission(engine))
    assert engine.cycle is before, "none of them can start, and all of them know why"
    reason = explainer(engine.state, engine.cycle, 0)(engine.state.numbered[-1])
    assert reason.startswith("waits for")
    await ask(engine, submission(engine, gpu_count=0, cpu_cores=1))
    await until(lambda: engine.state.numbered[-1].state is JobState.COMPLETED)
    await ask(engine, cmd.Cancel(running.job_id))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 6)


async def test_every_event_names_what_it_came_from(start: Start) -> None:
    engine = await start()
    await ask(engine, submission(engine))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1 and not engine.state.holding)
    events = troubled(engine).log.events
    job_events = [one for one in events if one.stream.startswith("job/")]
    assert len({one.correlation_id for one in job_events}) == 1
    assert job_events[0].correlation_id == job_events[0].command_id
    assert [one.stream_version for one in job_events] == [1, 2, 3, 4, 5]
    assert [one.causation for one in job_events] == [0, 4, 5, 6, 6]
    assert [one.actor for one in job_events] == ["owner", "scheduler", "executor", "executor", "executor"]


async def test_a_refused_command_is_told_why_and_leaves_nothing(start: Start) -> None:
    engine = await start()
    before = engine.state.position
    with pytest.raises(Rejected, match="asks for nothing"):
        await ask(engine, submission(engine, gpu_count=0))
    assert engine.state.position == before


async def ended_job(engine: Engine) -> str:
    command = submission(engine, hold=True)
    await ask(engine, command)
    await ask(engine, cmd.Cancel(command.job_id))
    return command.job_id


def refusals(engine: Engine) -> list[str]:
    return [
        one.event.detail for one in troubled(engine).log.events if isinstance(one.event, ev.CommandRefused)
    ]


async def test_a_refusal_is_answered_once_the_log_has_it(start: Start) -> None:
    engine = await start()
    id = await ended_job(engine)
    store = troubled(engine)
    store.gate.clear()
    waiting = asyncio.create_task(ask(engine, cmd.Cancel(id), key="k"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    store.gate.set()
    with pytest.raises(Rejected, match="job 1 has already ended: Cancelled"):
        await waiting
    assert refusals(engine) == ["job 1 has already ended: Cancelled"]
    assert await refolded(engine) == digest(engine.state)


async def test_a_client_in_a_loop_is_recorded_once(start: Start) -> None:
    engine = await start()
    id = await ended_job(engine)
    together = [ask(engine, cmd.Cancel(id)) for _ in range(50)]
    for reply in await asyncio.gather(*together, return_exceptions=True):
        assert isinstance(reply, Rejected)
    for _ in range(5):
        with pytest.raises(Rejected):
            await ask(engine, cmd.Cancel(id))
    assert len(refusals(engine)) == 1


@pytest.mark.parametrize("trouble", ["lost", "executed"])
async def test_a_refusal_of_unknown_outcome_is_recorded_once_and_answered(start: Start, trouble: str) -> None:
    engine = await start()
    id = await ended_job(engine)
    troubled(engine).trouble.append(trouble)
    with pytest.raises(Rejected, match="already ended"):
        await ask(engine, cmd.Cancel(id))
    assert len(refusals(engine)) == 1
    assert await refolded(engine) == digest(engine.state)


async def test_a_refusal_that_cannot_be_recorded_is_not_given(start: Start) -> None:
    engine = await start(config=EngineConfig(unavailable_retry_s=0.01))
    id = await ended_job(engine)
    troubled(engine).trouble.append("unavailable")
    with pytest.raises(Unavailable, match="disk full"):
        await ask(engine, cmd.Cancel(id))
    assert refusals(engine) == []
    with pytest.raises(Rejected):
        await ask(engine, cmd.Cancel(id))
    assert len(refusals(engine)) == 1


async def test_a_caller_that_goes_away_does_not_take_back_what_it_asked(start: Start) -> None:
    engine = await start()
    troubled(engine).gate.clear()
    waiting = asyncio.create_task(ask(engine, submission(engine)))
    await asyncio.sleep(0.02)
    waiting.cancel()
    troubled(engine).gate.set()
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1)


async def test_environment_and_script_reach_the_job_by_way_of_the_blobs(start: Start, tmp_path: Path) -> None:
    engine = await start()
    blob = encode_environment({"SECRET": "s3cr3t"}, b"salt")
    script = f"#!/bin/sh\necho $SECRET > {tmp_path}/out\n".encode()
    command = submission(engine, "", environment_digest=digest_of(blob), script_digest=digest_of(script))
    await ask(engine, command, blobs={digest_of(blob): blob, digest_of(script): script})
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1)
    assert (tmp_path / "out").read_text() == "s3cr3t\n"
    assert not any(b"s3cr3t" in one.payload for one in troubled(engine).log.events)


async def test_a_time_limit_and_a_begin_time_come_by_themselves(start: Start) -> None:
    engine = await start()
    limited = submission(engine, "sleep 30", time_limit_s=1, grace_period_s=1)
    later = submission(engine, begin_at_us=time.time_ns() // 1_000 + 500_000)
    await asyncio.gather(ask(engine, limited), ask(engine, later))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1)
    await until(lambda: engine.state.jobs[limited.job_id].state is JobState.FAILED)
    assert engine.state.jobs[limited.job_id].reason == "its time limit of 1 s was reached"
    ran = engine.state.jobs[later.job_id]
    assert ran.started_at_us >= later.spec.begin_at_us


# --- idempotency --------------------------------------------------------------------------------------


async def test_one_key_has_one_effect_however_often_and_wherever_it_is_asked(start: Start) -> None:
    log = Log()
    engine = await start(log, "1xH100")
    key = {"key": "k-1", "fingerprint": b"f"}
    replies = await asyncio.gather(*(ask(engine, submission(engine, hold=True), **key) for _ in range(50)))
    assert len(engine.state.jobs) == 1
    assert sum(not reply.replayed for reply in replies) == 1
    assert len({reply.body for reply in replies}) == 1
    with pytest.raises(KeyReused):
        await ask(engine, submission(engine), key="k-1", fingerprint=b"other")
    await engine.stop()
    again = await start(log, "1xH100")
    assert (await ask(again, submission(again), **key)).replayed
    assert len(again.state.jobs) == 1


async def test_a_refused_command_does_not_use_up_its_key(start: Start) -> None:
    engine = await start()
    for _ in range(2):
        with pytest.raises(Rejected):
            await ask(engine, submission(engine, gpu_count=0), key="k", fingerprint=b"f")


async def test_a_key_that_another_scheduler_takes_while_we_take_the_lead_has_one_effect(
    start: Start, tmp_path: Path
) -> None:
    """We looked for the key when the other had not used it yet, and hear of it only when we lead."""
    log = Log()
    old = await start(log, "1xH100")
    store, clock = TroubledStore(log), SystemClock()
    new = Engine(store, LocalExecutor(tmp_path / "new", simulated("1xH100")), clock, Ids(clock))
    looked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(key: str) -> Answer | None:
        found = log.answers.get(key)
        looked.set()
        await may_answer.wait()
        return found

    store.answer = answer  # type: ignore[method-assign]
    key = {"key": "k", "fingerprint": b"f"}
    again = asyncio.create_task(ask(new, submission(new, hold=True), **key))
    await looked.wait()
    first = await ask(old, submission(old, hold=True), **key)
    await new.start()
    may_answer.set()
    assert await again == Reply(first.status, first.body, replayed=True)
    assert len(new.state.jobs) == 1
    await new.stop()
    with pytest.raises(Stopped):
        await ask(old, submission(old))


@pytest.mark.parametrize("trouble", ["lost", "executed"])
async def test_the_answer_to_what_changes_nothing_outlives_a_connection_that_was_cut(
    start: Start, trouble: str
) -> None:
    """It is all that its append has, so nothing in the log says whether that came about."""
    log = Log()
    engine = await start(log, "1xH100")
    await ask(engine, submission(engine, hold=True))
    store = troubled(engine)
    await until(lambda: not engine._cycle_due and not engine._wake.is_set())
    store.trouble = [trouble]
    update = cmd.Update(next(iter(engine.state.jobs)), hold=True)
    reply = await ask(engine, update, key="k", fingerprint=b"f")
    assert log.answers["k"].body == reply.body
    assert store.trouble == []


# --- bad days -----------------------------------------------------------------------------------------


async def test_a_full_inbox_refuses_instead_of_growing(start: Start) -> None:
    engine = await start(spec="1xH100", config=EngineConfig(inbox_jobs_max=10))
    troubled(engine).gate.clear()
    asks = [asyncio.create_task(ask(engine, submission(engine, hold=True))) for _ in range(30)]
    await asyncio.sleep(0.05)
    troubled(engine).gate.set()
    replies = await asyncio.gather(*asks, return_exceptions=True)
    assert sum(isinstance(reply, Busy) for reply in replies) == 20
    await ask(engine, submission(engine, hold=True))
    assert len(engine.state.jobs) == 11


async def test_a_command_that_breaks_the_decision_harms_nobody_else(start: Start) -> None:
    engine = await start(spec="1xH100")

    def broken(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        raise ZeroDivisionError

    poison = engine.ask(submission(engine), "owner", broken)
    replies = await asyncio.gather(
        ask(engine, submission(engine, hold=True)), poison, ask(engine, submission(engine, hold=True)),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(reply) for reply in replies] == [Reply, ZeroDivisionError, Reply]
    assert [job.number for job in engine.state.numbered] == [1, 2]


async def test_a_deposed_leader_stops_at_once_and_starts_nothing(start: Start) -> None:
    log = Log()
    engine = await start(log)
    other = MemoryStore(log)
    await other.open()
    await other.elect()
    with pytest.raises(Stopped, match="another scheduler leads"):
        await ask(engine, submission(engine))
    assert "another scheduler leads" in await engine.stopped
    assert not engine.ready
    with pytest.raises(Stopped):
        await ask(engine, submission(engine))
    assert log.events[-1].type == "NodeRegistered"


@pytest.mark.parametrize("trouble", ["executed", "lost"])
async def test_an_append_of_unknown_outcome_takes_effect_exactly_once(start: Start, trouble: str) -> None:
    engine = await start(spec="1xH100")
    running = submission(engine, "sleep 0.4")
    await ask(engine, running)
    await until(lambda: engine.state.counts[JobState.RUNNING] == 1)
    troubled(engine).trouble = [trouble]
    replies = await asyncio.gather(*(ask(engine, submission(engine, hold=True)) for _ in range(3)))
    assert [reply.body for reply in replies] == [b"JobSubmitted"] * 3
    assert len(engine.state.jobs) == 4
    assert engine.state.epoch == 2
    await until(lambda: engine.state.jobs[running.job_id].state is JobState.COMPLETED)
    assert engine.state.jobs[running.job_id].attempt == 1
    assert await refolded(engine) == digest(engine.state)


@pytest.mark.parametrize("read", [1, 2])
async def test_a_stop_while_a_doubt_is_settled_is_a_clean_one(start: Start, read: int) -> None:
    """Before it leads again, and after that."""
    log = Log()
    engine = await start(log)
    store, stops, reads = troubled(engine), [], 0
    read_at = store.read_at

    async def stopped_meanwhile(positions: Iterable[int]) -> list[ev.Recorded]:
        nonlocal reads
        reads += 1
        if reads == read:
            stops.append(asyncio.create_task(engine.stop()))
            await asyncio.sleep(0)
        return await read_at(positions)

    store.read_at = stopped_meanwhile  # type: ignore[method-assign]
    store.trouble = ["executed"]
    await ask(engine, submission(engine, hold=True), key="key", fingerprint=b"f")
    [stop] = stops
    await stop
    assert log.lease_until_s <= time.monotonic()


@pytest.mark.parametrize("trouble", ["executed", "lost"])
async def test_a_schedule_of_unknown_outcome_starts_its_job_exactly_once(
    start: Start, trouble: str, tmp_path: Path
) -> None:
    engine = await start()
    troubled(engine).trouble = ["", trouble]
    await ask(engine, submission(engine, f"echo ran >> {tmp_path}/ran"))
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 1)
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert engine.state.epoch == 2


async def test_while_the_store_refuses_callers_are_told_and_reports_are_kept(start: Start) -> None:
    engine = await start(config=EngineConfig(unavailable_retry_s=0.02))
    job = submission(engine, "sleep 0.2")
    await ask(engine, job)
    await until(lambda: engine.state.counts[JobState.RUNNING] == 1)
    troubled(engine).trouble = ["unavailable"] * 20
    with pytest.raises(Unavailable, match="disk full"):
        await ask(engine, submission(engine))
    await until(lambda: engine.state.jobs[job.job_id].state is JobState.COMPLETED)
    assert not troubled(engine).trouble


class SteppingClock:
    """A clock that goes back an hour half a second after it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now_us(self) -> int:
        step_s = 3_600 if time.monotonic() - self._began > 0.5 else 0
        return time.time_ns() // 1_000 - step_s * 1_000_000


async def test_a_clock_that_goes_backwards_never_takes_the_log_with_it(start: Start) -> None:
    engine = await start(clock=SteppingClock())
    for _ in range(8):
        await ask(engine, submission(engine))
        await asyncio.sleep(0.1)
    await until(lambda: engine.state.counts[JobState.COMPLETED] == 8 and not engine.state.holding)
    times = [one.recorded_at_us for one in troubled(engine).log.events]
    assert times == sorted(times)
    assert await refolded(engine) == digest(engine.state)


async def test_a_clock_set_back_does_not_put_off_a_time_limit(start: Start) -> None:
    engine = await start(clock=SteppingClock())
    job = submission(engine, "sleep 30", time_limit_s=1, grace_period_s=0)
    await ask(engine, job)
    await until(lambda: engine.state.jobs[job.job_id].state is JobState.FAILED)


class FastClock:
    """A clock that is an hour ahead."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000 + 3_600 * 1_000_000


async def test_after_a_restart_under_a_clock_behind_the_log_time_goes_on(start: Start) -> None:
    log = Log()
    engine = await start(log, clock=FastClock())
    job = submission(engine, "sleep 30", time_limit_s=1, grace_period_s=0)
    await ask(engine, job)
    await engine.stop()
    again = await start(log)
    await until(lambda: again.state.jobs[job.job_id].state is JobState.FAILED)


async def test_a_restart_gives_the_same_state_and_adopts_what_runs(start: Start, tmp_path: Path) -> None:
    log = Log()
    engine = await start(log, "1xH100")
    running = submission(engine, f"sleep 0.5; echo ran >> {tmp_path}/ran")
    await ask(engine, running)
    waiting = [submission(engine) for _ in range(3)]
    for command in waiting:
        await ask(engine, command)
    await until(lambda: engine.state.counts[JobState.RUNNING] == 1)
    await engine.stop()
    again = await start(log, "1xH100")
    assert again.state.epoch == 2
    assert again.state.jobs[running.job_id].state is JobState.RUNNING
    await until(lambda: again.state.counts[JobState.COMPLETED] == 4)
    assert (tmp_path / "ran").read_text() == "ran\n"
    starts = [
        again.state.jobs[one.event.job_id].number
        for one in log.events
        if isinstance(one.event, ev.JobStarted)
    ]
    assert starts == [1, 2, 3, 4]


async def test_a_node_that_is_not_there_any_more_is_lost(start: Start) -> None:
    log = Log()
    await (await start(log, "2*1xH100")).stop()
    engine = await start(log, "1*1xH100")
    assert [node.lost for node in engine.state.nodes.values()] == [False, True]


async def test_a_command_that_spoils_every_append_is_refused_and_its_neighbours_are_not(start: Start) -> None:
    """Whatever breaks the connection whenever it is sent must not be sent for ever."""
    engine = await start(spec="1xH100", config=EngineConfig(unavailable_retry_s=0.01))
    store = troubled(engine)
    poison = submission(engine, comment="poison", hold=True)
    real = store.append

    async def append(batch: Batch) -> tuple[ev.Recorded, ...]:
        if any(b"poison" in ev.encode(draft.event) for draft in batch.drafts):
            raise UnknownOutcome("closed in the middle of operation", store.log.head.position + 1, b"x" * 32)
        return await real(batch)

    store.append = append  # type: ignore[method-assign]
    replies = await asyncio.gather(
        ask(engine, submission(engine, hold=True)),
        ask(engine, poison),
        ask(engine, submission(engine, hold=True)),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(reply) for reply in replies] == [Reply, Unavailable, Reply]
    assert poison.job_id not in engine.state.jobs
    assert len(engine.state.jobs) == 2
    await ask(engine, submission(engine, hold=True))


async def test_an_append_is_bounded_in_bytes(start: Start) -> None:
    engine = await start(spec="1xH100", config=EngineConfig(append_bytes_max=1_000))
    store = troubled(engine)
    await ask(engine, submission(engine, hold=True))
    store.appends.clear()
    await asyncio.gather(*(ask(engine, submission(engine, hold=True), size_bytes=400) for _ in range(6)))
    assert store.appends == [2, 2, 2]
    await ask(engine, submission(engine, hold=True), size_bytes=5_000)


async def test_an_inbox_is_bounded_in_bytes(start: Start) -> None:
    engine = await start(spec="1xH100", config=EngineConfig(inbox_bytes_max=1_000))
    troubled(engine).gate.clear()
    asks = [asyncio.create_task(ask(engine, submission(engine, hold=True), size_bytes=400)) for _ in range(5)]
    await asyncio.sleep(0.05)
    troubled(engine).gate.set()
    replies = await asyncio.gather(*asks, return_exceptions=True)
    assert sum(isinstance(reply, Busy) for reply in replies) == 3
    await ask(engine, submission(engine, hold=True), size_bytes=900)


async def test_a_deposed_leader_that_is_in_doubt_does_not_depose_the_next(start: Start) -> None:
    log = Log()
    engine = await start(log)
    other = MemoryStore(log)
    await other.open()
    await other.elect()
    troubled(engine).trouble = ["lost"]
    with pytest.raises(Stopped, match="another scheduler"):
        await ask(engine, submission(engine))
    assert log.head.epoch == 2
    assert "another scheduler" in await engine.stopped


async def test_a_keyed_command_that_changes_nothing_keeps_its_answer(start: Start) -> None:
    log = Log()
    engine = await start(log, "1xH100")
    job = submission(engine, hold=True)
    await ask(engine, job)
    await ask(engine, cmd.Update(job.job_id, hold=True), key="k", fingerprint=b"f")
    await engine.stop()
    again = await start(log, "1xH100")
    assert (await ask(again, cmd.Update(job.job_id, hold=False), key="k", fingerprint=b"f")).replayed
    assert again.state.jobs[job.job_id].held


async def test_a_job_whose_script_is_missing_fails_and_says_so(start: Start) -> None:
    engine = await start()
    job = submission(engine, "", script_digest="00" * 32)
    await ask(engine, job)
    await until(lambda: engine.state.counts[JobState.FAILED] == 1 and not engine.state.holding)
    reason = "its script is missing from the database, and the log does not say that it was erased"
    assert reason in engine.state.jobs[job.job_id].reason


@pytest.mark.parametrize("which", ["environment", "script"])
async def test_a_job_whose_script_or_environment_was_changed_is_not_run(
    start: Start, tmp_path: Path, which: str
) -> None:
    engine = await start()
    given = {
        "environment": encode_environment({"SECRET": "s3cr3t"}, b"salt"),
        "script": f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode(),
    }
    digests = {f"{name}_digest": digest_of(blob) for name, blob in given.items()}
    job = submission(engine, "", hold=True, **digests)
    await ask(engine, job, blobs={digest_of(blob): blob for blob in given.values()})
    evil = {
        "environment": encode_environment({"SECRET": "evil"}, b"salt"),
        "script": b"#!/bin/sh\n",
    }
    troubled(engine).log.blobs[digests[f"{which}_digest"]] = evil[which]
    await ask(engine, cmd.Update(job.job_id, hold=False))
    await until(lambda: engine.state.counts[JobState.FAILED] == 1 and not engine.state.holding)
    assert f"not started: its {which} was changed in the database" in engine.state.jobs[job.job_id].reason
    assert not (tmp_path / "ran").exists()


async def test_a_data_directory_of_another_log_is_refused(start: Start) -> None:
    await (await start(Log())).stop()
    with pytest.raises(ExecutorError, match="belongs to another log"):
        await start(Log())


async def test_a_data_directory_whose_first_start_was_cut_off_is_for_the_log_of_the_next(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "log").touch()  # it was killed before it wrote which log it is for
    await (await start(Log())).stop()
    with pytest.raises(ExecutorError, match="belongs to another log"):
        await start(Log())


async def test_a_log_that_went_back_in_time_is_refused(start: Start) -> None:
    log = Log()
    backup = log.head
    await (await start(log)).stop()
    await (await start(log)).stop()
    log.head, log.events = backup, []
    with pytest.raises(ExecutorError, match="went back in time"):
        await start(log)


@pytest.mark.parametrize("trouble", ["", "lost"])
async def test_a_leader_whose_log_is_set_back_stops_and_blames_nobody(start: Start, trouble: str) -> None:
    """Nor does it lead what is left after a doubt, as if nothing had been there."""
    engine = await start()
    await ask(engine, submission(engine, hold=True))
    store = troubled(engine)
    earlier = store.log.head
    await ask(engine, submission(engine, hold=True))
    store.log.head = earlier
    del store.log.events[earlier.position :]
    store.trouble = [trouble]
    with pytest.raises(Stopped):
        await ask(engine, submission(engine, hold=True))
    reason = await asyncio.wait_for(engine.stopped, 5)
    assert f"set back from position {earlier.position + 1} to {earlier.position}" in reason
    assert "another scheduler" not in reason
    assert store.log.events[-1].hash == earlier.tip, "nothing was added to what is left"
