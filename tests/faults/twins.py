"""What a simulated scheduler stands on: a database, nodes and files that fail like real ones, by the seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from horizon.core import commands as cmd
from horizon.core.events import Recorded, Stored
from horizon.core.model import Exit, Inventory
from horizon.core.snapshot import Parts, dump
from horizon.core.state import State
from horizon.executors.port import AttemptKey, Executor, ExecutorError, Held, Launch, LogChunk
from horizon.service.clock import Ids
from horizon.service.keys import KeyFile
from horizon.service.notefile import NoteFile
from horizon.store import codec
from horizon.store.memory import Log, MemoryStore
from horizon.store.note import SigningKey
from horizon.store.port import (
    Answer,
    Archivable,
    Batch,
    Candidate,
    Head,
    Leader,
    Signed,
    Unavailable,
    UnknownOutcome,
)
from tests.core.snapshots import loaded
from tests.faults.checker import Start
from tests.faults.virtual import CURRENT, Process, VirtualLoop

BEGAN_US = 1_800_000_000_000_000


@dataclass
class Weather:
    """How much goes wrong, and how much has."""

    rng: random.Random
    badness: float
    """The chance that a given thing goes wrong; 0 once the sky clears."""
    seen: Counter[str] = field(default_factory=Counter)

    def strikes(self, fault: str, share: float = 1.0) -> bool:
        struck = self.rng.random() < self.badness * share
        if struck:
            self.seen[fault] += 1
        return struck

    async def takes(self, usual_s: float) -> None:
        """What takes so long, and now and then far longer."""
        long = 2_000 if self.strikes("slow", 0.3) else 2
        await asyncio.sleep(usual_s * self.rng.random() * long)


class Clock:
    """The wall clock of one machine: it stands where somebody set it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.ahead_us = 0

    def now_us(self) -> int:
        return BEGAN_US + round(self._loop.time() * 1e6) + self.ahead_us


def seeded_ids(clock: Clock, seed: int) -> Ids:
    ids = Ids(clock)
    ids._random = random.Random(seed).getrandbits
    return ids


# --- the database ---------------------------------------------------------------------------------------


class Database:
    """A log, and the statements of connections that broke: each is carried out later, or never."""

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.log = Log()
        self.log.head = structs.replace(self.log.head, log_id=sha256(b"simulated").digest()[:16])
        self.loop = loop
        self.weather = weather
        self.under_way: list[Callable[[], None]] = []
        self.led: list[tuple[int, str]] = []
        """Epochs, and whose appends were acknowledged in them."""

    def leave_behind(self, statement: Callable[[], None]) -> None:
        """Its connection is gone; the server may be at it all the same."""
        self.under_way.append(statement)

        def finish() -> None:
            if statement in self.under_way:
                self.under_way.remove(statement)
                statement()

        self.loop.call_later(self.weather.rng.random() * 5, finish, context=_OF_NOBODY)

    def settle(self) -> None:
        """The row lock: an election waits for a statement that has it. Those that come for it later find
        another epoch there."""
        for statement in list(self.under_way):
            if self.weather.rng.random() < 0.5:
                self.under_way.remove(statement)
                statement()


_OF_NOBODY = copy_context()


class FaultyStore:
    """A scheduler's connections to the database. Implements ``EventStore``."""

    def __init__(self, database: Database, candidate: Candidate) -> None:
        self._database = database
        self._name = candidate.name
        self._weather = database.weather
        self._store = MemoryStore(database.log, candidate)

    async def open(self) -> Head:
        await self._answers()
        return await self._store.open()

    async def elect(self, again: bool = False, over: int | None = None, living: bool = False) -> Head:
        await self._answers()
        self._database.settle()
        head = await self._store.elect(again, over, living)
        if self._weather.strikes("election whose answer was lost"):
            raise Unavailable("the connection broke during an election")
        return head

    async def leader(self) -> Leader:
        await self._answers()
        return await self._store.leader()

    async def renew(self) -> None:
        await self._answers()
        await self._store.renew()

    async def resign(self) -> None:
        await self._answers()
        await self._store.resign()

    async def append(self, batch: Batch) -> tuple[Recorded, ...]:
        weather, store = self._weather, self._store
        head = store._head
        if head is None or weather.strikes("connection lost while idle", 0.5):
            raise UnknownOutcome("the connection was lost", 0, b"")
        tail = codec.after(head, codec.seal(head, batch.drafts, batch.recorded_at_us))
        broken = UnknownOutcome("the connection broke during an append", tail.position, tail.tip)
        await weather.takes(0.001)
        if weather.strikes("append refused"):
            raise Unavailable("no space left on device")
        if weather.strikes("append lost"):
            raise broken
        if weather.strikes("append executed late, or never"):
            self._database.leave_behind(lambda: _append_if_it_can(self._database.log, head, batch))
            raise broken
        recorded = await store.append(batch)
        self._database.led.append((tail.epoch, self._name))
        if weather.strikes("append executed and reported failed"):
            raise broken
        await weather.takes(0.001)
        return recorded

    async def _answers(self, usual_s: float = 0.001) -> None:
        await self._weather.takes(usual_s)
        if self._weather.strikes("read refused", 0.3):
            raise Unavailable("Postgres does not answer")

    async def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        await self._answers()
        count = 0
        async for recorded in self._store.read(after, limit, previous):
            yield recorded
            count += 1
            if count % 50 == 0:
                await self._answers()

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        await self._answers()
        return await self._store.read_at(positions)

    async def archivable(self, first: int) -> Archivable | None:
        await self._answers()
        return await self._store.archivable(first)

    async def blobs(self, digests: Iterable[str]) -> dict[str, bytes]:
        await self._answers()
        return await self._store.blobs(digests)

    async def answer(self, key: str) -> Answer | None:
        await self._answers()
        return await self._store.answer(key)

    async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
        await self._answers()
        return await self._store.hashes(after, previous, limit)

    async def add_checkpoint(self, signed: Signed) -> None:
        await self._answers()
        await self._store.add_checkpoint(signed)
        if self._weather.strikes("checkpoint filed and reported failed"):
            raise Unavailable("the connection broke")

    async def newest_checkpoint(self) -> Signed | None:
        await self._answers()
        return await self._store.newest_checkpoint()

    def checkpoints(self, after: int = 0) -> AsyncIterator[Signed]:
        return self._store.checkpoints(after)

    async def ping(self) -> None:
        await self._answers()

    async def close(self) -> None:
        await self._store.close()


def _append_if_it_can(log: Log, head: Head, batch: Batch) -> None:
    """What the statement does on the server, whether anyone still waits for it: all or nothing."""
    if log.head != head:
        return
    sealed = codec.seal(head, batch.drafts, batch.recorded_at_us)
    log.events += sealed
    log.blobs.update(batch.blobs)
    log.answers.update((answer.key, answer) for answer in batch.answers)
    log.head = codec.after(head, sealed)


class TwinLog:
    """The log of a ``Database`` for the checker. Implements ``LogSource``."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def head(self) -> Head:
        return self._log.head

    async def stored(self, after: int, end: int) -> AsyncIterator[list[Stored]]:
        if events := self._log.events[after:end]:
            yield [Stored(*structs.astuple(one)[:-1]) for one in events]

    async def newest_checkpoint(self) -> Signed | None:
        return await MemoryStore(self._log).newest_checkpoint()

    def checkpoints(self) -> AsyncIterator[Signed]:
        return MemoryStore(self._log).checkpoints()

    async def may_read_blobs(self) -> bool:
        return True

    async def filed(self) -> AsyncIterator[list[tuple[str, bytes]]]:
        yield list(self._log.blobs.items())


# --- files ----------------------------------------------------------------------------------------------


class Keys:
    """Stands in for ``KeyFile``: one key, the same for all schedulers of a log."""

    def __init__(self) -> None:
        self._key: SigningKey | None = None

    def key(self, name: str) -> SigningKey:
        self._key = self._key or SigningKey(name, sha256(b"a key").digest())
        return self._key

    def outgoing(self) -> SigningKey | None:
        return None

    def as_file(self) -> KeyFile:
        return cast(KeyFile, self)


class Notes:
    """Stands in for ``NoteFile``: whole notes only."""

    def __init__(self, name: str, weather: Weather) -> None:
        self.path = Path(name)
        self._weather = weather
        self._notes: list[str] = []

    def append(self, note: str) -> None:
        if self._weather.strikes("checkpoint file not written"):
            raise OSError("no space left on device")
        self._notes.append(note)

    def newest(self) -> str | None:
        return self._notes[-1] if self._notes else None

    def notes(self) -> Iterable[str]:
        return iter(self._notes)

    def as_file(self) -> NoteFile:
        return cast(NoteFile, self)


@dataclass
class Snapshot:
    """What the log folds to at a position, as it was dumped; or what of another log has come between."""

    log_id: bytes
    position: int
    hash: bytes
    recorded_at_us: int
    parts: Parts

    def state(self) -> State:
        return loaded(self.parts)


class Snapshots:
    """Those of one machine, the newest first."""

    def __init__(self, log: Log, weather: Weather) -> None:
        self._log = log
        self._weather = weather
        self._kept: list[Snapshot] = []

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._kept[::-1])

    def take(self, state: State) -> None:
        """As of the last event that is in the state."""
        last = self._log.events[state.position - 1]
        taken = Snapshot(self._log.head.log_id, last.position, last.hash, last.recorded_at_us, dump(state))
        if self._weather.strikes("snapshot of another log", 2):
            taken.hash = b"of another log, which is not this"
        self._kept.append(taken)


# --- the nodes ------------------------------------------------------------------------------------------


@dataclass
class Running:
    """The processes of one attempt, or the word that it shall have none."""

    launch: Launch | None
    """None for an attempt that was stopped before it was ever launched."""
    started: bool = False
    exit: Exit | None = None
    gone: bool = False
    end: asyncio.TimerHandle | None = None
    told_at: float = 0.0
    """When the last report of it arrives: they never overtake each other."""


class Nodes:
    """The machines: what runs there goes on whatever becomes of schedulers."""

    def __init__(
        self, loop: VirtualLoop, weather: Weather, inventories: tuple[Inventory, ...], log: Log
    ) -> None:
        self.loop = loop
        self.weather = weather
        self.inventories = inventories
        self.log = log
        self.epoch = 0
        self.attempts: dict[AttemptKey, Running] = {}
        self.listener: Agent | None = None
        self.starts: list[Start] = []
        self.clashes: list[str] = []
        self.refused = 0
        self._holders: dict[str, AttemptKey] = {}

    def at(self, delay_s: float, what: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        return self.loop.call_later(delay_s, what, *arguments, context=_OF_NOBODY)

    def launch(self, launch: Launch) -> None:
        if launch.key in self.attempts:
            return
        running = self.attempts[launch.key] = Running(launch)
        self.starts.append(Start(launch.key.job_id, launch.key.attempt, self.log.head.position))
        for uuid in _gpus(launch):
            if uuid in self._holders:
                self.clashes.append(f"{launch.key} finds {self._holders[uuid]} on {uuid}")
            self._holders[uuid] = launch.key
        self.at(self.weather.rng.random() * 0.1, self._begin, running)

    def _begin(self, running: Running) -> None:
        if running.exit is not None:
            return
        assert running.launch is not None
        rng, key = self.weather.rng, running.launch.key
        if self.weather.strikes("launch failed", 0.5):
            self._end(running, Exit(error="no such file or directory"))
            return
        running.started = True
        self.say(running, cmd.ReportStarted(key.job_id, key.attempt))
        took_s = rng.choice((0.01, 1.0, 10.0, 60.0)) * rng.random()
        lost = self.weather.strikes("attempt lost", 0.5)
        exit = Exit(error="its keeper was killed") if lost else Exit(exit_code=int(rng.random() < 0.2))
        running.end = self.at(took_s, self._end, running, exit, lost)

    def _end(self, running: Running, exit: Exit, lost: bool = False) -> None:
        if running.exit is not None or running.launch is None:
            return
        if running.end is not None:
            running.end.cancel()
        key, running.exit = running.launch.key, exit
        lingers_s = self.weather.rng.choice((0.0, 0.0, 0.5, 5.0))
        if not lingers_s:
            self._vanish(running)
        report = cmd.ReportEnded(
            key.job_id, key.attempt, exit, started=running.started, lost=lost, released=running.gone
        )
        self.say(running, report)
        if lingers_s:
            self.at(lingers_s, self._let_go, running)

    def _let_go(self, running: Running) -> None:
        assert running.launch is not None
        key = running.launch.key
        self._vanish(running)
        self.say(running, cmd.ReportReleased(key.job_id, key.attempt))

    def _vanish(self, running: Running) -> None:
        assert running.launch is not None
        running.gone = True
        for uuid in _gpus(running.launch):
            if self._holders.get(uuid) == running.launch.key:
                del self._holders[uuid]

    def stop(self, key: AttemptKey, grace_s: int) -> None:
        running = self.attempts.get(key)
        if running is None:  # barred from ever being launched
            running = self.attempts[key] = Running(None, exit=Exit(error="stopped"), gone=True)
            self.tell_all(key, running)
        elif running.exit is None:
            self.at(self.weather.rng.random() * (grace_s + 0.1), self._end, running, Exit(signal=15))

    def tell_all(self, key: AttemptKey, running: Running, started: bool = False) -> None:
        """Everything that there is to be told of an attempt, to whoever listens now."""
        if running.started and not started:
            self.say(running, cmd.ReportStarted(key.job_id, key.attempt))
        if running.exit is not None:
            report = cmd.ReportEnded(
                key.job_id,
                key.attempt,
                running.exit,
                started=running.started or started,
                released=running.gone,
            )
            self.say(running, report)

    def say(self, running: Running, report: cmd.Report) -> None:
        """A report arrives late, twice, or never, should nobody listen when it does."""
        delay_s = self.weather.rng.random() * (5.0 if self.weather.strikes("report late") else 0.005)
        running.told_at = max(running.told_at + 1e-6, self.loop.time() + delay_s)
        self.loop.call_at(running.told_at, self._deliver, report, context=_OF_NOBODY)
        if self.weather.strikes("report twice"):
            running.told_at += 1e-6
            self.loop.call_at(running.told_at, self._deliver, report, context=_OF_NOBODY)

    def _deliver(self, report: cmd.Report) -> None:
        if self.listener is not None:
            self.listener.hear(report)


def _gpus(launch: Launch) -> list[str]:
    return [uuid for placement in launch.allocation for uuid in placement.gpu_ids]


class Agent:
    """A scheduler's hand on the nodes. Implements ``Executor``; an older epoch's word counts for nothing."""

    def __init__(self, nodes: Nodes, process: Process) -> None:
        self._nodes = nodes
        self._process = process
        self._context = copy_context()
        self._context.run(CURRENT.set, process)
        self._report: Callable[[cmd.Report], None] | None = None
        self._epoch = 0
        self._heard: deque[cmd.Report] = deque()
        """In their order, however long the process stands still."""

    async def open(
        self, log_id: str, epoch: int, report: Callable[[cmd.Report], None]
    ) -> tuple[Inventory, ...]:
        await self._nodes.weather.takes(0.001)
        if epoch < self._nodes.epoch:
            raise ExecutorError(f"epoch {self._nodes.epoch} has begun here, and this is {epoch}")
        self._nodes.epoch = self._epoch = epoch
        self._nodes.listener, self._report = self, report
        return self._nodes.inventories

    async def adopt(self, held: Iterable[Held], failed: Iterable[str] = ()) -> frozenset[AttemptKey]:
        await self._nodes.weather.takes(0.001)
        never_launched, known = set(), set()
        for one in held:
            known.add(one.key)
            running = self._nodes.attempts.get(one.key)
            if running is None and not one.stopping:
                never_launched.add(one.key)
                continue
            if running is not None:
                self._nodes.tell_all(one.key, running, one.started)
            if one.stopping:
                self._nodes.stop(one.key, one.grace_period_s)
        for key, running in list(self._nodes.attempts.items()):
            if key not in known and running.exit is None:
                self._nodes.stop(key, 0)
        return frozenset(never_launched)

    def hear(self, report: cmd.Report) -> None:
        if self._report is not None:
            self._heard.append(report)
            self._nodes.loop.call_soon(self._pass_on, context=self._context)

    def _pass_on(self) -> None:
        report = self._heard.popleft()
        if self._report is not None:
            self._report(report)

    def launch(self, launch: Launch) -> None:
        if launch.epoch < self._nodes.epoch:
            self._nodes.refused += 1
        else:
            self._nodes.launch(launch)

    def stop(self, key: AttemptKey, grace_period_s: int) -> None:
        if self._epoch < self._nodes.epoch:
            self._nodes.refused += 1
        else:
            self._nodes.stop(key, grace_period_s)

    async def read_log(self, key: AttemptKey, rank: int, stream: str, offset: int, limit: int) -> LogChunk:
        return LogChunk(b"", offset)

    async def follow_log(
        self, key: AttemptKey, rank: int, stream: str, offset: int
    ) -> AsyncIterator[LogChunk]:
        return
        yield

    async def close(self) -> None:
        self._report = None
        if self._nodes.listener is self:
            self._nodes.listener = None


_IS_AN_EXECUTOR: type[Executor] = Agent
"""For whoever checks types."""
