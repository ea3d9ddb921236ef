"""Bad days by the thousand: real schedulers on a time, a database, nodes and clients that are all made up.

The engine and its notary are the ones that are shipped. Several of them over one log are killed, stopped and
continued, started beside one another, their clocks are set, their appends are lost, executed late or executed
and reported failed; clients ask again with the same key, go away, share keys. One seed is one day, always the
same; afterwards the checker looks at what is left.

    python -m tests.faults.simulation --seed 7                 one day, and its last events when a rule breaks
    python -m tests.faults.simulation --seeds 100000 --from 0  as many days
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool
from typing import Final

import msgspec
import structlog

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.blobs import digest_of, encode_environment
from horizon.core.decide import Events, Rejected
from horizon.core.model import JobSpec, Priority
from horizon.core.state import State, digest
from horizon.executors.inventory import simulated
from horizon.executors.port import ExecutorError
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine
from horizon.service.follower import POLL_S, Follower
from horizon.service.inbox import Busy, Reply
from horizon.service.leadership import Led, await_turn
from horizon.service.notary import Distrust, Notary
from horizon.service.standby import Standby
from horizon.store.port import Candidate, Leader, StoreError, Unavailable
from tests.faults.checker import Evidence, Findings, Kind, Lived, Outcome, Try, check
from tests.faults.twins import (
    Agent,
    Clock,
    Database,
    FaultyStore,
    Keys,
    Nodes,
    Notes,
    Snapshots,
    TwinLog,
    Weather,
    seeded_ids,
)
from tests.faults.virtual import Process, VirtualLoop, virtual_time

MACHINES: Final = ("a", "b")
DAY_S: Final = 40.0
"""So long things go wrong; then the sky clears."""
CLIENTS: Final = 4
COMMANDS: Final = 5
"""Of each client."""
PATIENCE_S: Final = 15.0
"""So long a client waits for an answer."""
QUIET_S_MAX: Final = 3_600.0
"""So long after the sky has cleared every job has ended."""
CLOCKS_S: Final = (-3_600, -10, -0.001, 10, 3_600)
"""By how much somebody may set a clock."""


BY_FORCE, WAITING, STANDBY = "elected by force", "waits for its turn", "stands by"


class Gone(Exception):
    """The connection to a scheduler broke, or nobody answered on it in time."""


class Scheduler:
    """One scheduler's process, from its start to its end."""

    def __init__(self, day: Day, machine: str, way: str) -> None:
        day.started += 1
        self.machine = machine
        self.process = Process(f"{machine}{day.started}")
        self._day = day
        self._way = way
        """How it comes to lead."""
        self.standby: Standby | None = None
        self.engine: Engine | None = None
        self.reason = ""
        day.loop.spawn(self.process, self._serve(day.clocks[machine], day.started))

    async def _serve(self, clock: Clock, number: int) -> None:
        day = self._day
        candidate = Candidate(self.machine, self.process.name, "", day.lease_ttl_s)
        notary = Notary(day.keys.as_file(), day.notes[self.machine].as_file())
        self.engine = engine = Engine(
            FaultyStore(day.database, candidate),
            Agent(day.nodes, self.process),
            clock,
            seeded_ids(clock, day.seed * 1_000 + number),
            EngineConfig(append_events_max=day.rng.choice((3, 5_000)), lease_ttl_s=day.lease_ttl_s),
            notary=notary,
            snapshots=day.snapshots[self.machine],
        )
        try:
            await self._lead(engine)
            self.reason = await engine.stopped
        except (StoreError, ExecutorError, Distrust, Led) as error:
            self.reason = str(error)
        self.die()

    async def _lead(self, engine: Engine) -> None:
        if self._way == BY_FORCE:
            await engine.start()
        elif self._way == WAITING:
            await engine.store.open()
            await engine.start(turn=await await_turn(engine.store, self.machine, self._day.waits))
        else:
            self.standby = Standby(
                engine, Follower(engine.store, self._day.snapshots[self.machine]), lambda led, state: None
            )
            await self.standby.start(lambda done, total: None)
            await self.standby.run()

    @property
    def followed(self) -> State | None:
        """What a standby has folded, if it is all there is."""
        if self.standby is None or not self.standby.following or self.standby.follower.events_behind:
            return None
        state = self.standby.follower.state
        return state if state.position == self._day.database.log.head.position else None

    @property
    def up(self) -> bool:
        return self.process.alive and not self.process.stopped

    def die(self) -> None:
        self.process.alive = False


@dataclass
class Day:
    """One run: the world, whoever lives in it, and what is written down of it."""

    seed: int
    rng: random.Random = field(init=False)
    loop: VirtualLoop = field(init=False)
    tries: list[Try] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    """Ids of those that were acknowledged."""
    started: int = 0
    calm: bool = False
    """Whether nothing goes wrong any more."""
    schedulers: list[Scheduler] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.loop = VirtualLoop(random.Random(self.seed + 1))
        self.weather = Weather(random.Random(self.seed + 2), self.rng.choice((0.0, 0.02, 0.05, 0.15)))
        self.database = Database(self.loop, self.weather)
        self.lease_ttl_s = self.rng.choice((2.0, 10.0))
        inventories = simulated(self.rng.choice(("1xH100", "2*4xH100", "4xH100,2xA100")))
        self.nodes = Nodes(self.loop, self.weather, inventories, self.database.log)
        self.clocks = {name: Clock(self.loop) for name in MACHINES}
        self.keys = Keys()
        self.notes = {name: Notes(name, self.weather) for name in MACHINES}
        self.snapshots = {name: Snapshots(self.database.log, self.weather) for name in MACHINES}

    def run(self) -> Day:
        try:
            with virtual_time(self.loop), structlog.testing.capture_logs():
                self.loop.run_until_complete(self._live())
        finally:
            self.loop.close()
        return self

    async def _live(self) -> None:
        watch = self.loop.create_task(self._keep_one_up())
        clients = [self.loop.create_task(self._client(number)) for number in range(CLIENTS)]
        await self._trouble()
        self.calm, self.weather.badness = True, 0.0
        for scheduler in self.schedulers:
            if scheduler.process.stopped:
                self.loop.carry_on(scheduler.process)
        await asyncio.gather(*clients)
        last = await self._until_quiet()
        while not (lived := await self._states(last)):
            last = await self._until_quiet()
        watch.cancel()
        await last.stop()
        evidence = Evidence(
            TwinLog(self.database.log),
            self.tries,
            [notes.as_file() for notes in self.notes.values()],
            leaders=self.database.led,
            starts=self.nodes.starts,
            clashes=self.nodes.clashes,
            lived=lived,
        )
        self.findings = await check(evidence)
        for scheduler in self.schedulers:
            if scheduler.reason.startswith("internal error"):
                self.findings.other.append(
                    f"{scheduler.process.name} stopped by a fault of its own: {scheduler.reason}"
                )
        if self.findings.signed != self.findings.events and not self.findings.all:
            self.findings.other.append(
                f"signed up to {self.findings.signed} of {self.findings.events} after a clean stop"
            )

    # --- those who see to it that there is a scheduler ----------------------------------------------------

    def waits(self, leader: Leader) -> None:
        self._note("lease waited for")

    def start_one(self, way: str = "") -> Scheduler | None:
        """On a machine that has none: two of them never have the same data directory."""
        taken = {one.machine for one in self.schedulers if one.process.alive}
        free = [name for name in MACHINES if name not in taken]
        if not free:
            return None
        scheduler = Scheduler(self, self.rng.choice(free), way or self.rng.choice((WAITING, STANDBY)))
        self.schedulers.append(scheduler)
        return scheduler

    async def _keep_one_up(self) -> None:
        while True:
            await asyncio.sleep(self.rng.random() * 2)
            if not any(one.up for one in self.schedulers):
                self.start_one()

    async def _until_quiet(self) -> Engine:
        """To the end of every job that can end; whoever leads then."""
        until = self.loop.time() + QUIET_S_MAX
        while True:
            await asyncio.sleep(1)
            up = [one.engine for one in self.schedulers if one.process.alive and one.engine is not None]
            for engine in up:
                if engine.ready and not engine.inbox_jobs and _is_quiet(engine.state):
                    return engine
            assert self.loop.time() < until, f"not quiet: {[_restless(engine) for engine in up]}"

    async def _states(self, last: Engine) -> list[Lived]:
        """What the leader and those that stand by have folded; none when it leads no more."""
        await asyncio.sleep(2 * POLL_S)
        if self.database.log.head.epoch != last.state.epoch:
            return []
        states = [last.state]
        for one in self.schedulers:
            if one.process.alive and one.engine is not last:
                if one.followed is not None:
                    self._note("standby that followed to the end")
                    states.append(one.followed)
                one.die()  # when the leader goes nobody shall follow it
        return [Lived(state.position, digest(state)) for state in states]

    # --- those who bring trouble --------------------------------------------------------------------------

    async def _trouble(self) -> None:
        rng = self.rng
        every_s = rng.choice((3.0, 8.0, 20.0))
        while self.loop.time() < DAY_S:
            await asyncio.sleep(rng.expovariate(1 / every_s))
            rng.choice(_TROUBLES)(self)

    def _note(self, fault: str) -> None:
        self.weather.seen[fault] += 1

    def _one_up(self) -> Scheduler | None:
        up = [one for one in self.schedulers if one.up]
        return self.rng.choice(up) if up else None

    def _kill(self) -> None:
        if scheduler := self._one_up():
            self._note("scheduler killed")
            scheduler.die()
            if self.rng.random() < 0.5:  # and again while it recovers, now and then
                self.loop.call_later(self.rng.random(), self._start_and_kill)

    def _start_and_kill(self) -> None:
        if not self.calm and (scheduler := self.start_one()):
            self._note("scheduler killed in recovery")
            self.loop.call_later(self.rng.random() * 0.02, scheduler.die)

    def _stop_and_continue(self) -> None:
        if scheduler := self._one_up():
            self._note("scheduler stopped and continued")
            scheduler.process.stopped = True
            if self.rng.random() < 0.7:
                self.loop.call_later(self.rng.random(), self._rival)
            self.loop.call_later(self.rng.random() * 20, self.loop.carry_on, scheduler.process)

    def _rival(self) -> None:
        way = self.rng.choice((BY_FORCE, WAITING, STANDBY, STANDBY))
        if not self.calm and self.start_one(way):
            self._note(f"another scheduler {way}")

    def _take_a_snapshot(self) -> None:
        scheduler = self._one_up()
        if scheduler is not None and scheduler.engine is not None and scheduler.engine.state.position:
            self._note("snapshot taken")
            self.snapshots[self.rng.choice(MACHINES)].take(scheduler.engine.state)

    def _set_a_clock(self) -> None:
        self._note("clock set")
        clock = self.clocks[self.rng.choice(MACHINES)]
        clock.ahead_us += round(self.rng.choice(CLOCKS_S) * 1e6)

    def _stop_cleanly(self) -> None:
        scheduler = self._one_up()
        if scheduler is not None and scheduler.engine is not None and scheduler.engine.ready:
            self._note("scheduler stopped cleanly")
            self.loop.spawn(scheduler.process, self._leave(scheduler, scheduler.engine))

    async def _leave(self, scheduler: Scheduler, engine: Engine) -> None:
        await engine.stop()
        scheduler.die()

    # --- those who ask ------------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        for count in range(COMMANDS):
            await asyncio.sleep(rng.expovariate(COMMANDS / DAY_S))
            mark = f"{number}-{count}" if rng.random() < 0.85 else f"shared-{rng.randrange(3)}"
            keyed = mark.startswith("shared") or rng.random() < 0.85
            if keyed and rng.random() < 0.1:
                await asyncio.gather(*(self._insist(rng, mark, keyed) for _ in range(5)))
            else:
                await self._insist(rng, mark, keyed)

    async def _insist(self, rng: random.Random, mark: str, keyed: bool) -> None:
        """Ask until there is an answer; without a key once; and now and then, go away."""
        kind, make, blobs = self._command(random.Random(f"{self.seed} {mark}"), mark)
        while True:
            one = Try(mark, kind, self.loop.time())
            self.tries.append(one)
            try:
                reply = await self._request(make(), mark if keyed else None, blobs)
                one.outcome, one.answer = Outcome.ACKNOWLEDGED, reply.body
            except (Rejected, Unavailable, Busy) as error:
                one.outcome = Outcome.REFUSED
                if isinstance(error, Rejected):
                    return
            except Exception:
                one.outcome = Outcome.UNKNOWN
            finally:
                one.answered = self.loop.time()
            if one.outcome is Outcome.ACKNOWLEDGED:
                if kind is Kind.SUBMIT:
                    self.jobs.append(msgspec.json.decode(one.answer)["id"])
                return
            if not keyed or rng.random() < 0.05:
                return
            await asyncio.sleep(rng.random() * 3)

    def _command(
        self, rng: random.Random, mark: str
    ) -> tuple[Kind, Callable[[], cmd.Command], dict[str, bytes]]:
        """What one asks for under a key is always the same thing, but for the id that the server makes up."""
        if self.jobs and rng.random() < 0.25 and not mark.startswith("shared"):
            job_id = rng.choice(self.jobs)
            if rng.random() < 0.6:
                return Kind.CANCEL, lambda: cmd.Cancel(job_id, reason=mark), {}
            return Kind.REQUEUE, lambda: cmd.Requeue(job_id, reason=mark), {}
        blobs = {}
        if rng.random() < 0.2:
            blob = encode_environment({"WHO": mark}, b"salt")
            blobs[digest_of(blob)] = blob
        spec = JobSpec(
            rng.choice(("alice", "bob")),
            "true",
            gpu_count=rng.choice((1, 1, 2, 4)),
            priority=rng.choice(list(Priority)),
            preemptible=rng.random() < 0.5,
            time_limit_s=rng.choice((0, 5, 30)),
            grace_period_s=rng.choice((0, 1, 5)),
            max_retries=rng.choice((0, 2)),
            comment=mark,
            environment_names=("WHO",) if blobs else (),
            environment_digest=next(iter(blobs), None),
        )
        ids = random.Random(f"{self.seed} {mark} id")
        return Kind.SUBMIT, lambda: cmd.Submit(f"{mark}/{ids.getrandbits(64):x}", spec), blobs

    async def _request(self, command: cmd.Command, key: str | None, blobs: dict[str, bytes]) -> Reply:
        """As over a network: what breaks the connection is told to nobody but whoever waits."""
        up = [one for one in self.schedulers if one.process.alive and one.engine is not None]
        if not up:
            raise Gone
        scheduler = self.rng.choice(up)
        answer: asyncio.Future[Reply] = self.loop.create_future()

        async def handle() -> None:
            assert scheduler.engine is not None
            try:
                reply = await scheduler.engine.ask(
                    command, "owner", rendered, blobs=blobs, key=key, fingerprint=b"the same"
                )
                self.nodes.at(self.rng.random() * 0.001, _settle, answer, reply, None)
            except Exception as error:
                self.nodes.at(self.rng.random() * 0.001, _settle, answer, None, error)

        self.nodes.at(self.rng.random() * 0.001, lambda: self.loop.spawn(scheduler.process, handle()))
        async with asyncio.timeout(PATIENCE_S):
            return await answer


def _settle(answer: asyncio.Future[Reply], reply: Reply | None, error: Exception | None) -> None:
    if answer.done():
        return  # whoever asked is gone
    if reply is not None:
        answer.set_result(reply)
    else:
        assert error is not None
        answer.set_exception(error)


_TROUBLES: Final = (
    Day._kill, Day._kill, Day._stop_and_continue, Day._rival, Day._set_a_clock, Day._stop_cleanly,
    Day._take_a_snapshot,
)  # fmt: skip


def rendered(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    for event in events:
        if isinstance(event, ev.JobSubmitted):
            return 201, msgspec.json.encode({"id": event.job_id, "number": event.number})
    return 200, b"{}"


def _is_quiet(state: State) -> bool:
    gpus = max(len(node.inventory.devices) for node in state.nodes.values())
    can_start = (job for job in state.jobs.values() if not job.state.ended and job.spec.gpu_count <= gpus)
    return not state.holding and not any(can_start)


def _restless(engine: Engine) -> str:
    jobs = [f"{job.number} {job.state}" for job in engine.state.jobs.values() if not job.state.ended]
    return f"ready {engine.ready}, trouble {engine.trouble!r}, jobs {jobs}"


# --- as a program ---------------------------------------------------------------------------------------


def live(seed: int) -> Day:
    """One whole day; a failure tells the seed, the command that repeats it, and the last events."""
    day = Day(seed)
    try:
        day.run()
        if day.findings.all:
            raise AssertionError("\n".join(day.findings.all))
    except Exception as error:
        again = f"python -m tests.faults.simulation --seed {seed}"
        raise AssertionError(
            f"seed {seed}: {type(error).__name__}: {error}\nagain: {again}\n{story(day)}"
        ) from error
    return day


def story(day: Day, last: int = 30) -> str:
    lines = []
    for one in day.database.log.events[-last:]:
        at_s = (one.recorded_at_us - day.database.log.events[0].recorded_at_us) / 1e6
        lines.append(
            f"{one.position:6} epoch {one.epoch:<3} {at_s:11.6f} {one.type} {one.payload.decode()[:160]}"
        )
    return "\n".join(lines)


def _try(seed: int) -> tuple[str, Counter[str]]:
    try:
        day = live(seed)
    except AssertionError as error:
        return str(error), Counter()
    outcomes = Counter(one.outcome.value for one in day.tries)
    return "", day.weather.seen + outcomes + Counter(
        events=day.findings.events, epochs=day.findings.epochs, checks=day.findings.checks
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="live this one day")
    parser.add_argument("--seeds", type=int, default=1_000, help="live as many days")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=None, help="processes; as many as there are cores")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        seeds: Sequence[int] = (chosen.seed,)
    else:
        seeds = range(chosen.first, chosen.first + chosen.seeds)
    began, broken, seen = time.monotonic(), 0, Counter[str]()
    with Pool(chosen.jobs) as pool:
        for done, (trouble, counts) in enumerate(pool.imap_unordered(_try, seeds, chunksize=8), start=1):
            seen += counts
            if trouble:
                broken += 1
                print(trouble if broken <= 3 else trouble.partition("\n")[0], flush=True)
            if done % 10_000 == 0:
                print(f"{done} days, {broken} broken, {time.monotonic() - began:.0f} s", flush=True)
    for name, count in sorted(seen.items()):
        print(f"{count:10} {name}")
    print(f"{len(seeds) - broken} days held, {broken} broke a rule, {time.monotonic() - began:.1f} s")
    return broken > 0


if __name__ == "__main__":
    sys.exit(main())
