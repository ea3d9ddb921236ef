"""The long version: real schedulers, a real Postgres, and everything that can be done to them, at random.

    python -m tests.faults --minutes 10 --seed 7

Rounds of a minute: a leader, now and then a standby beside it, and clients that write down what they are
told; every second or so something is cut, killed, stopped, locked, filled up or set wrong. Then the sky
clears, every job ends, and the checker looks at what is left. The seed chooses what is done and when; what
comes of it is up to the machine. A table is printed at the end; exit status 1 when anything in it is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.cli.house import fresh_directory
from tests.faults import strace
from tests.faults.checker import Findings
from tests.faults.house import House, Scheduler, eventually
from tests.faults.scheduler import BEHIND_MIGRATION, IN_MIGRATION, POINTS
from tests.faults.server import Server, with_small_partitions

ROUND_S: Final = 60.0
CLIENTS: Final = 8
LEASE: Final = ("--lease-ttl", "2")
ANSWER_S: Final = "2"
"""How long Postgres may take for a statement."""
DIES_S_MAX: Final = 10.0
"""So long a scheduler may take to come to the point where it is to be killed, before it is killed anyway."""
CALLS: Final = ("openat", "write", "pwrite64", "fsync", "rename", "link", "unlink", "mkdir", "sendto")
CALL_S_MAX: Final = 3.0
"""So long it is waited for one that is to fail."""
PARTITION: Final = 1_000
"""Events in one: so that many are made in a round."""
ONCE: Final = (*IN_MIGRATION, *BEHIND_MIGRATION)
"""Points that a database is at only once."""
SMALL_DISK: Final = "300m"
SMALL_EVERY: Final = 3
"""One round in so many is on a disk that can be filled."""


class Round:
    """One house, and what is done to it."""

    def __init__(self, house: House, server: Server, rng: random.Random, small: bool) -> None:
        self.house = house
        self.server = server
        self.rng = rng
        self.faults: Counter[str] = Counter()
        self._deeds: list[Callable[[], Awaitable[None]]] = [
            self.cut_appends, self.cut_appends, self.cut_connections, self.hold_connections,
            self.terminate_backends, self.delay, self.stop_server, self.kill_server, self.kill_scheduler,
            self.kill_at_a_point, self.kill_at_a_point, self.kill_in_recovery, self.stand_still,
            self.stop_scheduler, self.stand_by, self.stand_by, self.set_clock, self.read_only, self.lock_head,
        ]  # fmt: skip
        if not strace.why_not():
            self._deeds += [self.fail_a_call] * 3
        if small:
            self._deeds += [self.fill_disk] * 6

    async def run(self, seconds: float) -> Findings:
        house, rng = self.house, self.rng
        await self.start()
        async with house.load(CLIENTS, rng.random(), pause_s=0.05):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(rng.expovariate(1.0))
                await rng.choice(self._deeds)()
                house.look_after_clients()
                if not house.up:
                    await self.start()
            await self.be_two()
        await house.quiet()
        await house.look_inside()
        await house.end(signal.SIGTERM)
        self.faults += self.server.proxy.seen
        return await house.findings()

    async def start(self) -> None:
        """Until one is up; of those that cannot yet, the next one may."""
        clock = self.house.set_clock(0)
        await eventually(
            lambda: self.house.start(*LEASE, HORIZON_CLOCK=clock, HORIZON_ANSWER_S=ANSWER_S), "a start"
        )

    async def be_two(self) -> None:
        """At the end one leads and another follows, so that both can be looked into."""
        if len(self.house.up) == 1:
            self._begin_standby()
            await self.house.last.until_up()

    def _begin_standby(self) -> None:
        clock = self.house.set_clock(0)
        self.house.begin("--standby", *LEASE, HORIZON_CLOCK=clock, HORIZON_ANSWER_S=ANSWER_S)

    def one_up(self) -> Scheduler:
        return self.rng.choice(self.house.up or [self.house.last])

    # --- between scheduler and Postgres -----------------------------------------------------------------

    async def cut_appends(self) -> None:
        self.server.proxy.badness = 0.3
        await asyncio.sleep(self.rng.random() * 2)
        self.server.proxy.badness = 0.0

    async def cut_connections(self) -> None:
        self.faults["connections cut"] += 1
        self.server.proxy.cut()

    async def hold_connections(self) -> None:
        self.faults["connections half open"] += 1
        self.server.proxy.hold()

    async def delay(self) -> None:
        self.faults["messages delayed"] += 1
        self.server.proxy.delay_s = 0.05
        await asyncio.sleep(2)
        self.server.proxy.delay_s = 0.0

    async def terminate_backends(self) -> None:
        self.faults["backends terminated"] += 1
        await self.server.terminate(self.house.dsn)

    # --- Postgres ---------------------------------------------------------------------------------------

    async def stop_server(self) -> None:
        self.faults["Postgres stopped at once"] += 1
        await self.server.crash()
        await asyncio.sleep(self.rng.random())
        await self.server.start()

    async def kill_server(self) -> None:
        self.faults["Postgres killed"] += 1
        await self.server.crash(signal.SIGKILL)
        await self.server.start()

    async def read_only(self) -> None:
        self.faults["database read-only"] += 1
        await self.server.read_only(self.house.dsn, True)
        await asyncio.sleep(1)
        await self.server.read_only(self.house.dsn, False)

    async def lock_head(self) -> None:
        self.faults["head locked"] += 1
        async with self.server.transaction(self.house.dsn, "SELECT FROM log_head FOR UPDATE"):
            await asyncio.sleep(self.rng.random() * 4)

    async def fill_disk(self) -> None:
        self.faults["disk full"] += 1
        self.server.fill_disk()
        await asyncio.sleep(2)
        self.server.make_room()
        if not self.server.running:
            await self.server.start()

    # --- schedulers -------------------------------------------------------------------------------------

    async def kill_scheduler(self) -> None:
        self.faults["scheduler killed"] += 1
        await self.one_up().end()

    async def kill_at_a_point(self) -> None:
        points = [name for name in POINTS if name not in ONCE]
        await self._die_at(self.rng.choice(points), self.rng.randrange(1, 20))

    async def kill_in_recovery(self) -> None:
        for point in self.rng.sample(("elected", "folded", "trusted", "announced", "adopted"), 2):
            await self._die_at(point, 1)

    async def _die_at(self, point: str, passes: int) -> None:
        """All others end first: one that is to be killed is to lead."""
        for one in self.house.up:
            await one.end()
        doomed = self.house.begin(*LEASE, HORIZON_ANSWER_S=ANSWER_S, HORIZON_KILL_AT=f"{point}:{passes}")
        until = time.monotonic() + DIES_S_MAX
        while doomed.up and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.faults[f"killed {point}" if not doomed.up else "scheduler killed"] += 1
        await doomed.end()

    async def fail_a_call(self) -> None:
        """Of a scheduler, or of those that keep its jobs."""
        rng, out = self.rng, self.house.directory / "trace"
        out.unlink(missing_ok=True)
        name, nth, fault = rng.choice(CALLS), rng.randrange(1, 20), rng.choice((strace.EIO, strace.KILL))
        command = strace.tracing(out, name, fault, nth)
        with strace.traced(strace.family(self.one_up().process.pid), command):
            until = time.monotonic() + CALL_S_MAX
            while not strace.struck(out) and time.monotonic() < until:
                await asyncio.sleep(0.02)
        if strace.struck(out):
            self.faults[f"{'killed in' if fault == strace.KILL else 'EIO of'} {name}"] += 1

    async def stop_scheduler(self) -> None:
        self.faults["scheduler stopped cleanly"] += 1
        await self.one_up().end(signal.SIGTERM)

    async def stand_still(self) -> None:
        self.faults["scheduler stopped and continued"] += 1
        scheduler = self.one_up()
        scheduler.send(signal.SIGSTOP)
        await asyncio.sleep(self.rng.random() * 5)
        scheduler.send(signal.SIGCONT)

    async def stand_by(self) -> None:
        if len(self.house.up) == 1:
            self.faults["standby started"] += 1
            self._begin_standby()

    async def set_clock(self) -> None:
        self.faults["clock set"] += 1
        self.house.set_clock(self.rng.choice((-3_600, -5, -0.1, 5, 3_600)))


# --- many rounds ----------------------------------------------------------------------------------------


class Course:
    """All rounds, and their sum."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rounds = 0
        self.faults: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, minutes: float) -> None:
        until = time.monotonic() + minutes * 60
        with fresh_directory() as directory, small_disk() as small:
            async with running(directory) as server, running(small) as small_server:
                while (left := until - time.monotonic()) > 0:
                    self.rounds += 1
                    use_small = small_server is not None and self.rounds % SMALL_EVERY == 0
                    chosen = small_server if use_small else server
                    assert chosen is not None
                    await self._round(chosen, min(ROUND_S, max(5.0, left)), use_small)

    async def _round(self, server: Server, seconds: float, small: bool) -> None:
        with fresh_directory() as directory:
            async with server.database() as dsn:
                await with_small_partitions(server.straight(dsn), PARTITION)
                house = House(directory, dsn, server)
                round_ = Round(house, server, random.Random(f"{self.seed} {self.rounds}"), small)
                try:
                    self._add(house, round_, await round_.run(seconds))
                finally:
                    for one in house.up:
                        await one.end()

    def _add(self, house: House, round_: Round, findings: Findings) -> None:
        self.faults += round_.faults
        self.sums["commands"] += len({one.mark for one in house.tries})
        for one in house.tries:
            self.sums[one.outcome.value] += 1
        self.sums["events"] += findings.events
        self.sums["elections"] += findings.epochs
        self.sums["attempts run"] += len(house.ran())
        self.sums["states"] += findings.states
        self.sums["checks"] += findings.checks
        self.sums["lost"] += len(findings.lost)
        self.sums["duplicated"] += len(findings.duplicated)
        self.sums["doubly allocated"] += len(findings.doubly_allocated)
        self.wrong += findings.all
        told = f"round {self.rounds}: {round_.faults.total()} faults, {findings.events} events"
        print(f"{told}, {findings.checks} checks, {len(findings.all)} wrong", flush=True)
        for one_finding in findings.all[:20]:
            print(f"  {one_finding}", flush=True)

    def table(self) -> Table:
        title = f"make faults, seed {self.seed}, {self.rounds} rounds, {datetime.now(UTC):%Y-%m-%d}"
        table = Table("what", "how often", title=title)
        for name, count in sorted(self.faults.items()):
            table.add_row(name, str(count))
        table.add_section()
        table.add_row("faults injected", str(self.faults.total()))
        for name, words in _ROWS:
            table.add_row(words, str(self.sums[name]))
        table.add_section()
        for name in ("lost", "duplicated", "doubly allocated"):
            table.add_row(name, str(self.sums[name]))
        table.add_row("anything else wrong", str(len(self.wrong) - sum(self.sums[name] for name in _WRONG)))
        table.add_row("checks made", str(self.sums["checks"]))
        return table


_WRONG: Final = ("lost", "duplicated", "doubly allocated")
_ROWS: Final = (
    ("commands", "commands"),
    ("acknowledged", "tries acknowledged"),
    ("refused", "tries refused"),
    ("unknown", "tries of unknown outcome"),
    ("elections", "elections"),
    ("events", "events"),
    ("attempts run", "attempts run"),
    ("states", "states in memory held against the log"),
)


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A disk that is soon full; None without the right to mount one."""
    with fresh_directory() as directory:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(directory)]
        if subprocess.run(command, capture_output=True).returncode:
            yield None
            return
        directory.chmod(0o755)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


@asynccontextmanager
async def running(directory: Path | None) -> AsyncIterator[Server | None]:
    if directory is None:
        yield None
        return
    server = Server(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    chosen = parser.parse_args(arguments)
    course = Course(chosen.seed)
    print(f"seed {chosen.seed}", flush=True)
    try:
        asyncio.run(course.run(chosen.minutes))
    except AssertionError as error:
        course.wrong.append(str(error))
        print(error, flush=True)
    Console().print(course.table())
    return bool(course.wrong)


if __name__ == "__main__":
    sys.exit(main())
