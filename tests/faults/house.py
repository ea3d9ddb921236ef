"""Real schedulers as processes, clients that write down what they are told, and the evidence of both."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from horizon.service.keys import KeyFile
from horizon.service.notefile import NoteFile
from horizon.store.reader import LogReader
from tests.cli.house import environment
from tests.faults.checker import Evidence, Findings, Kind, Lived, Outcome, Start, Try, check
from tests.faults.server import Server

TOKEN: Final = "a-token-for-tests"
PATIENCE_S: Final = 60.0
"""How long a test waits for what must come; only a failing test waits that long."""
ANSWER_S_MAX: Final = 5.0
"""How long a client waits for an answer before it asks again."""

RUN: Final = """
echo "$HORIZON_JOB_ID $HORIZON_ATTEMPT" >> {directory}/ran
exec 9>"{directory}/$CUDA_VISIBLE_DEVICES"
flock -n 9 || echo "$HORIZON_ATTEMPT_ID finds another on $CUDA_VISIBLE_DEVICES" >> {directory}/clashes
sleep {seconds}
"""
"""What every job does: say that it ran, and see that it is alone on its GPU."""


class Scheduler:
    """One process of ``horizon serve``."""

    def __init__(self, house: House, out: Path, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        self._out = out
        self._house = house
        self._url = ""
        with out.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *house.under,
                    *(sys.executable, "-m", "tests.faults.scheduler", "serve"),
                    *("--data-dir", str(house.data_dir), "--host", "127.0.0.1", "--port", "0"),
                    *("--simulate-gpus", "4xH100", *arguments),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(house.data_dir, DATABASE_URL=house.dsn, HORIZON_TOKEN=TOKEN, **env),
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._out.read_text(errors="replace")

    @property
    def url(self) -> str:
        if not self._url and (found := re.search(r" at (http://\S+)\n", self.said)):
            self._url = found[1]
        return self._url

    @property
    def leads(self) -> bool:
        """Whether it has said that it does."""
        return " is ready at " in self.said

    @property
    def up(self) -> bool:
        return self.process.poll() is None

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    async def until_up(self) -> bool:
        """False when it ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while self.up:
            if "\nCtrl-C" in self.said or "\n  leader" in self.said:
                return True
            assert time.monotonic() < deadline, f"neither up nor dead: {self.said}"
            await asyncio.sleep(0.02)
        return False

    async def until_dead(self) -> int:
        """Its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while (code := self.process.poll()) is None:
            self._house.look_after_clients()
            assert time.monotonic() < deadline, f"it does not end: {self.said}"
            await asyncio.sleep(0.01)
        return code

    async def end(self, number: int = signal.SIGKILL) -> int:
        """Have it end; its exit code."""
        if self.up:
            self.send(number)
        return await self.until_dead()


class House:
    """One data directory on one database, the schedulers that run on them, and their clients."""

    def __init__(self, directory: Path, dsn: str, server: Server | None = None) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.dsn = dsn
        self.server = server
        self.under: list[str] = []
        """What schedulers and writers of snapshots are run under."""
        self.schedulers: list[Scheduler] = []
        self.tries: list[Try] = []
        self.followed: list[tuple[int, bytes]] = []
        self.lived: list[Lived] = []
        """The states of schedulers, as they were when they were asked."""
        self.troubles = 0
        """How often a client was told that something is wrong."""
        self._at_work: list[asyncio.Task[None]] = []
        self._trouble: dict[str, str] = {}
        """Why there was no answer to a command, last."""
        self._marks = itertools.count()

    # --- schedulers -------------------------------------------------------------------------------------

    async def start(self, *arguments: str, **env: str) -> bool:
        """Start one where the one before has ended; whether it came up.

        ``env`` names a point to be killed at, a clock, or how long Postgres may take.
        """
        if self.schedulers:
            await self.last.end()
        return await self.begin(*arguments, **env).until_up()

    def begin(self, *arguments: str, **env: str) -> Scheduler:
        """Start one more, beside those there are."""
        out = self.directory / f"out-{len(self.schedulers)}"
        scheduler = Scheduler(self, out, arguments, env)
        self.schedulers.append(scheduler)
        return scheduler

    @property
    def last(self) -> Scheduler:
        """The one that was started last."""
        return self.schedulers[-1]

    @property
    def up(self) -> list[Scheduler]:
        return [one for one in self.schedulers if one.up]

    async def end(self, number: int = signal.SIGKILL) -> None:
        """Have all of them end, those that stand by before the one that leads."""
        for one in sorted(self.up, key=lambda one: one.leads):
            code = await one.end(number)
            assert number == signal.SIGKILL or code == 0, one.said

    async def snapshot(self, **env: str) -> int:
        """Have a snapshot written, as a scheduler does; the exit code of the process that does it."""
        process = await asyncio.create_subprocess_exec(
            *self.under,
            *(sys.executable, "-m", "tests.faults.scheduler", "snapshot", "--data-dir", str(self.data_dir)),
            env=environment(self.data_dir, DATABASE_URL=self.dsn, **env),
        )
        return await process.wait()

    def look_after_clients(self) -> None:
        """Whatever went wrong with one of them goes wrong here."""
        for one in self._at_work:
            if one.done():
                one.result()

    def set_clock(self, ahead_s: float) -> str:
        """Have the scheduler's wall clock be ahead; the file that it is to follow."""
        new, clock = self.directory / "clock.new", self.directory / "clock"
        new.write_text(str(ahead_s))
        new.replace(clock)
        return str(clock)

    # --- their clients ------------------------------------------------------------------------------------

    def client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})

    @asynccontextmanager
    async def load(self, clients: int = 4, seed: float = 0, pause_s: float = 0.02) -> AsyncIterator[None]:
        """Clients that submit and cancel, each one thing after the other, and one that follows the log."""
        stop = asyncio.Event()
        async with self.client() as http:
            at_work = [
                asyncio.create_task(self._client(http, random.Random(f"{seed} {number}"), stop, pause_s))
                for number in range(clients)
            ]
            at_work.append(asyncio.create_task(self._follow(http, stop)))
            self._at_work = at_work
            try:
                yield
            finally:
                stop.set()
                await asyncio.wait_for(asyncio.gather(*at_work), 2 * PATIENCE_S)

    async def _client(
        self, http: aiohttp.ClientSession, rng: random.Random, stop: asyncio.Event, pause_s: float
    ) -> None:
        mine: list[str] = []
        while not stop.is_set():
            mark = f"command-{next(self._marks)}"
            if mine and rng.random() < 0.2:
                await self.insist(http, Kind.CANCEL, mark, job=rng.choice(mine))
            else:
                fields = {"priority": rng.choice(("Low", "Normal", "High")), "hold": rng.random() < 0.6}
                answer = await self.insist(
                    http, Kind.SUBMIT, mark, together=20 if rng.random() < 0.02 else 1, **fields
                )
                if answer is not None:
                    mine.append(answer["id"])
            await asyncio.sleep(rng.random() * pause_s)

    async def insist(
        self, http: aiohttp.ClientSession, kind: Kind, mark: str, together: int = 1, **fields: Any
    ) -> dict[str, Any] | None:
        """Ask with one key until there is an answer; now and then many at once, and some of them go away."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            tries = [self._try(http, kind, mark, place == 1, **fields) for place in range(together)]
            outcomes = await asyncio.gather(*tries)
            for one in outcomes:
                if one.outcome is Outcome.ACKNOWLEDGED:
                    return dict(msgspec.json.decode(one.answer))
            if any(one.outcome is Outcome.REFUSED for one in outcomes):
                return None
            assert time.monotonic() < deadline, f"{mark}: {self._trouble[mark]}\n{self.last.said}"
            await asyncio.sleep(0.05)

    async def _try(
        self, http: aiohttp.ClientSession, kind: Kind, mark: str, goes_away: bool, **fields: Any
    ) -> Try:
        one = Try(mark, kind, time.monotonic())
        self.tries.append(one)
        try:
            async with asyncio.timeout(0.002 if goes_away else ANSWER_S_MAX):
                status, body = await self._ask(http, kind, mark, fields)
            if status < 300:
                said = msgspec.json.decode(body)
                one.outcome = Outcome.ACKNOWLEDGED
                one.answer = msgspec.json.encode({"id": said["id"], "number": said["number"]})
            elif status < 500:
                one.outcome = Outcome.REFUSED
            else:
                self._trouble[mark] = body.decode()
                self.troubles += 1
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._trouble[mark] = repr(error)  # whether it was done is what nobody knows
        one.answered = time.monotonic()
        return one

    async def _ask(
        self, http: aiohttp.ClientSession, kind: Kind, mark: str, fields: dict[str, Any]
    ) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": mark}
        if kind is Kind.CANCEL:
            url = f"{self._url}/api/v1/jobs/{fields['job']}"
            request = http.delete(url, params={"reason": mark}, headers=headers)
        else:
            command = RUN.format(directory=self.directory, seconds=0.05)
            job = {"user_id": "alice", "command": command, "comment": mark, "grace_period_s": 1, **fields}
            request = http.post(f"{self._url}/api/v1/jobs", json=job, headers=headers)
        async with request as response:
            return response.status, await response.read()

    async def _follow(self, http: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """A reader that remembers where it was, whatever becomes of the server."""
        while not stop.is_set():
            with suppress(aiohttp.ClientError, OSError, TimeoutError, KeyError, msgspec.DecodeError):
                async with asyncio.timeout(ANSWER_S_MAX):
                    after = self.followed[-1][0] if self.followed else 0
                    events = await self._look(http, f"/events?after={after}")
                self.followed += [
                    (one["position"], bytes.fromhex(one["hash"])) for one in events.get("events", ())
                ]
            await asyncio.sleep(0.05)

    @property
    def _url(self) -> str:
        """Any scheduler will do; where there is none, a client finds out by trying."""
        urls = [one.url for one in self.up if one.url] or ["http://127.0.0.1:1"]
        return random.choice(urls)

    async def _look(self, http: aiohttp.ClientSession, path: str) -> Any:
        async with http.get(f"{self._url}/api/v1{path}") as response:
            return msgspec.json.decode(await response.read())

    # --- the end ----------------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Wait until nothing waits that could run, and nothing runs."""
        deadline = time.monotonic() + PATIENCE_S
        now: Any = None
        async with self.client() as http:
            while True:
                with suppress(aiohttp.ClientError, OSError, KeyError, msgspec.DecodeError):
                    now = await self._look(http, "/state")  # at once, for jobs go back and forth
                    held = (await self._look(http, "/jobs?state=queued&limit=1000"))["jobs"]
                    if not now["holding"] and now["queue"]["total"] <= sum(job["hold"] for job in held):
                        return
                assert time.monotonic() < deadline, f"never came to rest: {now}\n{self.last.said}"
                await asyncio.sleep(0.05)

    async def look_inside(self) -> None:
        """Ask every scheduler what it has in memory: not what it folds for whoever asks about the past.

        The leader comes first, for those that stand by are to have come as far.
        """
        async with self.client() as http:
            for one in sorted(self.up, key=lambda one: not one.leads):
                deadline = time.monotonic() + PATIENCE_S
                while one.up and not await self._look_inside(http, one):
                    assert time.monotonic() < deadline, f"it never says what it has in memory: {one.said}"
                    await asyncio.sleep(0.05)

    async def _look_inside(self, http: aiohttp.ClientSession, scheduler: Scheduler) -> bool:
        known = max((one.position for one in self.lived), default=0)
        path = f"/api/v1/state?digest=true&min_position={known}"
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX), http.get(f"{scheduler.url}{path}") as response:
                if response.status == 200:
                    said = msgspec.json.decode(await response.read())
                    self.lived.append(Lived(said["position"], said["digest"]))
                    return True
        return False

    async def checked(self) -> Findings:
        """Look inside, stop it cleanly, and look at what is left: everything must hold, and be signed to the
        end."""
        before = len(self.lived)
        await self.look_inside()
        assert len(self.lived) > before, self.last.said
        await self.end(signal.SIGTERM)
        findings = await self.findings()
        assert not findings.all, findings.all
        assert findings.signed == findings.events, findings
        return findings

    async def findings(self) -> Findings:
        reader = LogReader(self.server.straight(self.dsn) if self.server else self.dsn)
        await reader.open()
        try:
            public = KeyFile(self.data_dir / "keys" / "signing.key").public()
            assert public is not None
            evidence = Evidence(
                reader,
                self.tries,
                [NoteFile(self.data_dir / "checkpoints")],
                [public],
                followed=[self.followed],
                starts=self.ran(),
                clashes=_lines(self.directory / "clashes"),
                lived=self.lived,
            )
            return await check(evidence)
        finally:
            await reader.close()

    def ran(self) -> list[Start]:
        ran = [line.split() for line in _lines(self.directory / "ran")]
        return [Start(job_id, int(attempt), 0) for job_id, attempt in ran]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


async def eventually(holds: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, f"never came: {what}"
        await asyncio.sleep(0.02)
