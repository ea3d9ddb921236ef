"""Single system calls that fail with EIO, or at which a process is killed: ``strace`` sees to it.

Each is chosen by name, number and file or socket, and is made to go wrong once:

- on the sockets to Postgres, every write of one append and of one checkpoint;
- on the file of checkpoints, what adds to it;
- in the directory of snapshots, what the process that writes one does, of many writes the first and the
  last;
- at the first start, what makes the signing key, and what binds the directory of attempts to a log;
- in the directory of attempts, what a keeper says of a job that it starts and ends.

Not here: reads; what Postgres itself writes (``test_postgres`` stops and fills it up); the files that clients
find a server by; and output of jobs, which is theirs. ``python -m tests.faults`` has any call of any of
Horizon's processes fail, whatever it is on.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from horizon.cli import places
from horizon.store.snapshots import Snapshots
from tests.faults import strace
from tests.faults.checker import Kind
from tests.faults.house import PATIENCE_S, House, eventually
from tests.faults.server import Server
from tests.faults.strace import EIO, KILL, Call

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not()),
]

PARTIAL: Final = ("openat", "write", "fdatasync", "fsync", "rename")
"""What is done to a snapshot before it has its name."""
NOTES: Final = (Call("openat"), Call("write"), Call("fsync"))
KEEPER: Final = (
    Call("mkdir"), Call("link"), Call("unlink"), *(Call("pwrite64", nth) for nth in (1, 2, 3))
)  # fmt: skip
"""The record of an attempt: made, started, ended."""
FIRST_START: Final = (
    ("keys/.signing.key", Call("write"), EIO),
    ("keys/.signing.key", Call("fsync"), EIO),
    ("keys/.signing.key", Call("rename"), EIO),
    ("keys/.signing.key", Call("rename"), KILL),
    ("keys", Call("fsync"), KILL),
    ("keys/.signing.pub", Call("openat"), KILL),
    ("keys/.signing.pub", Call("write"), EIO),
    ("keys/.signing.pub", Call("rename"), KILL),
    ("keys", Call("fsync"), EIO),
    ("attempts/log", Call("write"), EIO),
    ("attempts/log", Call("write"), KILL),
    ("attempts/epoch", Call("pwrite64"), EIO),
    ("attempts/epoch", Call("pwrite64"), KILL),
)
"""One start for each, in the order in which they come."""


class Work:
    """One append and a checkpoint over it, time and again."""

    def __init__(self, house: House, http: aiohttp.ClientSession) -> None:
        self._house = house
        self._http = http
        self._marks = itertools.count(1)

    async def once(self) -> None:
        assert await self._house.insist(self._http, Kind.SUBMIT, f"work-{next(self._marks)}", hold=True)
        await eventually(self._is_signed, "a checkpoint over all that there is")

    async def until(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await self.once()

    async def _is_signed(self) -> bool:
        with suppress(aiohttp.ClientError, OSError, KeyError):
            async with self._http.get(f"{self._house.last.url}/metrics") as response:
                words = (line.split() for line in (await response.text()).splitlines())
                numbers = {one[0]: one[-1] for one in words}
            return numbers["horizon_log_signed"] == numbers["horizon_log_position"]
        return False


async def start(house: House) -> None:
    assert await house.start(HORIZON_SIGN_S="0"), house.last.said


async def sockets(house: House, server: Server, work: Work) -> list[str]:
    """Those to Postgres of the scheduler that was started last, once it has all that the work takes."""
    await work.once()
    return strace.sockets_to(house.last.process.pid, server.proxy.port)


async def writes_to_postgres(house: House, server: Server, work: Work) -> int:
    """How many one append and a checkpoint take."""
    out = house.directory / "trace"
    command = strace.tracing(out, "write", paths=await sockets(house, server, work))
    with strace.traced([house.last.process.pid], command):
        await work.once()
    return len(strace.calls(out))


async def fails(house: House, work: Work, call: Call, paths: list[str]) -> None:
    """One call of the scheduler fails; what was asked is done all the same, by whoever is started again."""
    out = house.directory / f"trace {call}"
    command = strace.tracing(out, call.name, EIO, call.nth, paths)
    with strace.traced([house.last.process.pid], command):
        async with asyncio.timeout(PATIENCE_S):
            while not strace.struck(out):
                await work.once()
    if not house.last.up:
        await start(house)
    await work.once()


async def is_killed(house: House, work: Work, call: Call, paths: list[str]) -> None:
    """The scheduler comes as far as one call; what was asked is done by the next one."""
    command = strace.tracing(house.directory / "trace", call.name, KILL, call.nth, paths)
    done = asyncio.Event()
    with strace.traced([house.last.process.pid], command):
        working = asyncio.create_task(work.until(done))
        assert await house.last.until_dead() == -signal.SIGKILL, (call, house.last.said)
    await start(house)
    done.set()
    await working


@pytest.mark.parametrize("befalls", [fails, is_killed])
async def test_an_append_and_a_checkpoint_outlive_any_call_that_fails_or_is_the_last(
    house: House, server: Server, befalls: Callable[[House, Work, Call, list[str]], Awaitable[None]]
) -> None:
    notes = [str(places.checkpoints(house.data_dir))]
    await start(house)
    async with house.client() as http:
        work = Work(house, http)
        for nth in range(1, await writes_to_postgres(house, server, work) + 1):
            await befalls(house, work, Call("write", nth), await sockets(house, server, work))
        for call in NOTES:
            await befalls(house, work, call, notes)
    await house.checked()


# --- snapshots ------------------------------------------------------------------------------------------


async def calls_of_a_snapshot(house: House, directory: Path) -> list[tuple[str, Call]]:
    """Each on what it is; of the many writes the first and the last."""
    out = house.directory / "trace"
    house.under = [*strace.tracing(out, ",".join(PARTIAL), paths=[str(directory / "partial")]), "-D"]
    assert await house.snapshot() == 0
    house.under = []
    counts = Counter(strace.calls(out))
    assert set(counts) == set(PARTIAL)
    first_and_last = [("partial", Call(name, nth)) for name in PARTIAL for nth in sorted({1, counts[name]})]
    return [("lock", Call("openat")), *first_and_last, ("", Call("fsync")), ("*.snapshot", Call("unlink"))]


async def test_a_snapshot_is_whole_or_none_whichever_call_fails_or_is_the_last(house: House) -> None:
    directory = places.snapshots(house.data_dir)
    snapshots = Snapshots(directory)
    assert await house.start()
    async with house.load(clients=2, pause_s=0.1):
        for _ in range(3):
            assert await house.snapshot() == 0
            await asyncio.sleep(0.2)
        for name, call in await calls_of_a_snapshot(house, directory):
            for fault, code in ((EIO, 1), (KILL, -signal.SIGKILL)):
                where = map(str, directory.glob(name)) if "*" in name else [str(directory / name)]
                house.under = strace.under(house.directory / "trace", call, fault, where)
                assert await house.snapshot() == code, (name, call, fault)
                house.under = []
                named = sorted((int(path.stem) for path in directory.glob("*.snapshot")), reverse=True)
                assert [one.state().position for one in snapshots] == named
        assert await house.snapshot() == 0
        assert await house.start()  # from it on
    await house.quiet()
    await house.checked()


# --- the first start ------------------------------------------------------------------------------------


async def test_a_first_start_is_made_good_by_the_next_whichever_call_fails_or_is_the_last(
    house: House,
) -> None:
    for name, call, fault in FIRST_START:
        house.under = strace.under(house.directory / "trace", call, fault, [str(house.data_dir / name)])
        assert not await house.start(), (name, call, fault)
        code = await house.last.until_dead()
        assert code == (1 if fault == EIO else -signal.SIGKILL), (name, call, fault, house.last.said)
        assert "internal error" not in house.last.said
    house.under = []
    assert await house.start(), house.last.said
    async with house.load():
        await asyncio.sleep(0.3)
    await house.quiet()
    await house.checked()


# --- keepers --------------------------------------------------------------------------------------------


async def test_a_job_ends_whichever_call_of_its_keeper_fails_or_is_the_last(house: House) -> None:
    assert await house.start()
    async with house.client() as http:
        for call in KEEPER:
            for fault in (EIO, KILL):
                out = house.directory / f"trace {call} {fault}"
                keepers = strace.family(house.last.process.pid)[1:]
                with strace.traced(keepers, strace.tracing(out, call.name, fault, call.nth)):
                    assert await house.insist(http, Kind.SUBMIT, f"{call.name}-{call.nth}-{fault}")
                    await eventually(partial(strace.struck, out), f"{call} of a keeper")
                await house.quiet()
    await house.checked()
