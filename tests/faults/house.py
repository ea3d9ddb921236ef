"""Real schedulers as processes, clients that write down what they are told, and the evidence of both."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
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
from tests.faults.checker import Evidence, Findings, Kind, Outcome, Start, Try, check
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


class House:
    """One data directory on one database, and the scheduler that runs on them, again and again."""

    def __init__(self, directory: Path, dsn: str, server: Server | None = None) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.dsn = dsn
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.tries: list[Try] = []
        self.faults: Counter[str] = Counter()
        self.followed: list[tuple[int, bytes]] = []
        self._at_work: list[asyncio.Task[None]] = []
        self.troubles = 0
        """How often a client was told that something is wrong."""
        self._trouble: dict[str, str] = {}
        """Why there was no answer to a command, last."""
        self._marks = itertools.count()
        self._starts = itertools.count(1)

    # --- the scheduler ----------------------------------------------------------------------------------

    async def start(self, **env: str) -> bool:
        """Start one; whether it came up. ``env`` names a point to be killed at, or a clock."""
        await self.end()
        self.process = self._spawn(env)
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            if "\nCtrl-C" in self.said:
                self.url = self.said.partition(" is ready at ")[2].split()[0]
                return True
            assert time.monotonic() < deadline, f"neither up nor dead: {self.said}"
            await asyncio.sleep(0.02)
        return False

    def _spawn(self, env: dict[str, str]) -> subprocess.Popen[bytes]:
        self._out = self.directory / f"out-{next(self._starts)}"
        with self._out.open("wb") as out:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults.scheduler", "serve"),
                    *("--data-dir", str(self.data_dir), "--host", "127.0.0.1", "--port", "0"),
                    *("--simulate-gpus", "4xH100"),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(self.data_dir, DATABASE_URL=self.dsn, HORIZON_TOKEN=TOKEN, **env),
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What the scheduler that was started last has printed."""
        return self._out.read_text(errors="replace")

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: int = signal.SIGKILL) -> int:
        """Have it end; its exit code."""
        if self.process is None:
            return 0
        if self.up:
            self.send(number)
        return await self.until_dead()

    async def until_dead(self) -> int:
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_S
        while (code := self.process.poll()) is None:
            for one in self._at_work:
                if one.done():
                    one.result()
            assert time.monotonic() < deadline, f"it does not end: {self.said}"
            await asyncio.sleep(0.01)
        return code

    def set_clock(self, ahead_s: float) -> str:
        """Have the scheduler's wall clock be ahead; the file that it is to follow."""
        new, clock = self.directory / "clock.new", self.directory / "clock"
        new.write_text(str(ahead_s))
        new.replace(clock)
        return str(clock)

    # --- its clients ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self, clients: int = 4, seed: int = 0, pause_s: float = 0.02) -> AsyncIterator[None]:
        """Clients that submit and cancel, each one thing after the other, and one that follows the log."""
        stop = asyncio.Event()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
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
            assert time.monotonic() < deadline, f"{mark}: {self._trouble[mark]}\n{self.said}"
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
            request = http.delete(
                f"{self.url}/api/v1/jobs/{fields['job']}", params={"reason": mark}, headers=headers
            )
        else:
            command = RUN.format(directory=self.directory, seconds=0.05)
            job = {"user_id": "alice", "command": command, "comment": mark, "grace_period_s": 1, **fields}
            request = http.post(f"{self.url}/api/v1/jobs", json=job, headers=headers)
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

    async def _look(self, http: aiohttp.ClientSession, path: str) -> Any:
        async with http.get(f"{self.url}/api/v1{path}") as response:
            return msgspec.json.decode(await response.read())

    # --- the end ----------------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Wait until nothing waits that could run, and nothing runs."""
        deadline = time.monotonic() + PATIENCE_S
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            while True:
                with suppress(aiohttp.ClientError, OSError, KeyError, msgspec.DecodeError):
                    gpus = (await self._look(http, "/gpus"))["gpus"]
                    queue = (await self._look(http, "/queue"))["total"]
                    held = (await self._look(http, "/jobs?state=queued&limit=1000"))["jobs"]
                    if all(gpu["state"] == "free" for gpu in gpus) and queue <= sum(
                        job["hold"] for job in held
                    ):
                        return
                assert time.monotonic() < deadline, f"never came to rest: {self.url}"
                await asyncio.sleep(0.05)

    async def checked(self) -> Findings:
        """Stop it cleanly, and look at what is left; everything must hold, and be signed to the end."""
        assert await self.end(signal.SIGTERM) == 0, self.said
        findings = await self.findings()
        assert findings.all == []
        assert findings.signed == findings.events
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
                starts=self._ran(),
                clashes=_lines(self.directory / "clashes"),
            )
            return await check(evidence)
        finally:
            await reader.close()

    def _ran(self) -> list[Start]:
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
