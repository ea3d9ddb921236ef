"""A Postgres of a test's own, that may be killed; and the way to it, on which anything may happen."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from horizon.store.embedded import EmbeddedPostgres
from horizon.store.postgres import PostgresStore
from tests.conftest import with_database
from tests.partitions import make_small

READ_BYTES: Final = 256 * 1024


class Server:
    """One server on a directory of its own, behind a ``Proxy``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "postgres"
        self._postgres = EmbeddedPostgres(self.directory)
        self.dsn = ""
        """Straight to it, to the database that is always there."""
        self.proxy = Proxy()
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Start it, or start it again."""
        self.dsn = await self._postgres.start()

    async def stop(self) -> None:
        if self.running:
            await self._postgres.stop()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The DSN of a new one, through a new proxy."""
        name = f"faults_{next(self._numbers)}"
        await self.run(f"CREATE DATABASE {name}")
        self.proxy = Proxy()
        port = await self.proxy.start(f"{self.directory}/.s.PGSQL.5432")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/{name}?sslmode=disable"
        finally:
            await self.proxy.close()

    @asynccontextmanager
    async def copy_of(self, dsn: str) -> AsyncIterator[str]:
        """What a backup of now would be, through the same proxy. Nobody may be connected."""
        name = _name_of(dsn)
        await self.run(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        yield dsn.replace(f"/{name}?", f"/{name}_copy?")

    @asynccontextmanager
    async def transaction(self, dsn: str, statement: str) -> AsyncIterator[None]:
        """One of somebody else, that goes on for as long as the block."""
        connection = await asyncpg.connect(self.straight(dsn))
        try:
            async with connection.transaction():
                await connection.execute(statement)
                yield
        finally:
            await connection.close()

    async def read_only(self, dsn: str, whether: bool) -> None:
        """For everybody: whoever is connected has to come again."""
        setting = "on" if whether else "off"
        await self.run(f"ALTER DATABASE {_name_of(dsn)} SET default_transaction_read_only = {setting}")
        await self.terminate(dsn)

    async def terminate(self, dsn: str) -> None:
        """``pg_terminate_backend`` for every connection of a scheduler."""
        await self.run(
            f"""SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name = 'horizon' AND datname = '{_name_of(dsn)}'"""
        )

    def fill_disk(self) -> None:
        """Leave no room on the disk that the server is on."""
        with suppress(OSError), (self.directory.parent / "ballast").open("wb") as ballast:
            while True:
                ballast.write(bytes(65_536))
                ballast.flush()

    def make_room(self) -> None:
        (self.directory.parent / "ballast").unlink()

    def straight(self, dsn: str) -> str:
        """The way to the same database that no fault lies on."""
        return with_database(self.dsn, _name_of(dsn))

    async def run(self, *statements: str, dsn: str = "") -> Any:
        """As the superuser; what the last statement gives."""
        connection = await asyncpg.connect(self.straight(dsn) if dsn else self.dsn)
        try:
            for statement in statements:
                given = await connection.fetchval(statement)
            return given
        finally:
            await connection.close()

    async def is_past(self, epoch: int, dsn: str) -> bool:
        return await self.epoch(dsn) > epoch

    async def epoch(self, dsn: str) -> int:
        return int(await self.run("SELECT epoch FROM log_head", dsn=dsn))

    async def has_grown(self, beyond: int, dsn: str) -> bool:
        return await self.position(dsn) > beyond

    async def position(self, dsn: str) -> int:
        return int(await self.run("SELECT position FROM log_head", dsn=dsn))

    async def crash(self, how: int = signal.SIGQUIT) -> None:
        """``pg_ctl stop -m immediate`` by default; with SIGKILL every process of it is gone at once."""
        postmaster = psutil.Process(self._pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        if how == signal.SIGKILL:
            for one in processes:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        else:
            postmaster.send_signal(how)
        await asyncio.to_thread(psutil.wait_procs, processes, 30)

    @property
    def running(self) -> bool:
        try:
            return psutil.pid_exists(self._pid)
        except FileNotFoundError:
            return False

    @property
    def _pid(self) -> int:
        return int((self.directory / "postmaster.pid").read_text().split()[0])


class Proxy:
    """Passes on what a client and Postgres say to each other, and does to an append what it is told to."""

    FAULTS: Final = ("lost", "cut short", "reported failed", "executed late")

    def __init__(self) -> None:
        self.rng = random.Random(0)
        self.badness = 0.0
        """The chance that something happens to an append."""
        self.delay_s = 0.0
        """How long every message takes."""
        self.seen: Counter[str] = Counter()
        self.port = 0
        self._upstream = ""
        self._server: asyncio.Server | None = None
        self._ways: set[_Way] = set()

    async def start(self, upstream: str) -> int:
        """Listen; what connects is led to this socket. The port."""
        self._upstream = upstream
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._ways:
            await asyncio.sleep(0.01)

    def counts(self) -> list[int]:
        """How often each of its faults has been seen."""
        return [self.seen[f"append {fault}"] for fault in self.FAULTS]

    def cut(self) -> None:
        """Every connection breaks."""
        for way in list(self._ways):
            way.cut()

    def hold(self) -> None:
        """Of every connection that is there now, nothing arrives any more, either way; nobody is told."""
        for way in self._ways:
            way.held = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        way = _Way(self, (reader, writer), (up_reader, up_writer))
        self._ways.add(way)
        try:
            await asyncio.gather(way.forth(), way.back())
        except OSError:
            pass
        finally:
            way.cut()
            self._ways.discard(way)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Way:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: Ends, server: Ends) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._started = False
        self._appends: set[bytes] = set()
        """Names of prepared statements that append."""
        self.held = False
        self._swallow_reply = False

    def cut(self) -> None:
        self._client[1].transport.abort()
        self._server[1].transport.abort()

    async def forth(self) -> None:
        """What the client says, message by message."""
        pending = b""
        while data := await self._client[0].read(READ_BYTES):
            if self.held:
                continue
            pending += data
            appends, pending = self._whole(pending)
            await asyncio.sleep(self._proxy.delay_s)
            if appends and self._proxy.rng.random() < self._proxy.badness:
                await self._spoil(data)
            else:
                self._server[1].write(data)
        self._server[1].close()

    def _whole(self, pending: bytes) -> tuple[bool, bytes]:
        """Whether there is an append among the messages that are whole; and what is left."""
        appends = False
        while len(pending) >= 5:
            head = 0 if not self._started else 1
            size = int.from_bytes(pending[head : head + 4], "big") + head
            if len(pending) < size:
                break
            message, pending = pending[:size], pending[size:]
            if not self._started:
                self._started = True
            elif message[:1] == b"P":
                name, query, _ = message[5:].split(b"\0", 2)
                if query.lstrip().startswith(b"WITH head AS"):
                    self._appends.add(name)
            elif message[:1] == b"B":
                appends = appends or message[5:].split(b"\0", 2)[1] in self._appends
        return appends, pending

    async def _spoil(self, data: bytes) -> None:
        proxy = self._proxy
        fault = proxy.rng.choice(proxy.FAULTS)
        proxy.seen[f"append {fault}"] += 1
        match fault:
            case "lost":
                self.cut()
            case "cut short":  # the server may be at it when the connection goes
                self._server[1].write(data)
                await self._server[1].drain()
                self.cut()
            case "reported failed":  # it is cut once the answer is there
                self._swallow_reply = True
                self._server[1].write(data)
            case "executed late":  # the client is told at once, the server hears of it later
                self._client[1].transport.abort()
                await asyncio.sleep(proxy.rng.random() * 0.2)
                self._server[1].write(data)
                await self._server[1].drain()

    async def back(self) -> None:
        while data := await self._server[0].read(READ_BYTES):
            if self.held:
                continue
            if self._swallow_reply:
                self.cut()
                return
            self._client[1].write(data)
        self._client[1].close()


async def with_small_partitions(dsn: str, size: int) -> None:
    """Bring a new database up to date, and have the log there go into many partitions."""
    store = PostgresStore(dsn)
    await store.open()
    await store.close()
    admin = await asyncpg.connect(dsn)
    await make_small(admin, size)
    await admin.close()


def _name_of(dsn: str) -> str:
    """The database that a DSN through the proxy leads to."""
    return dsn.rpartition("/")[2].partition("?")[0]
