"""The composition root: makes the parts of one scheduler, joins them, starts and stops them in order."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from horizon.api.app import create_app
from horizon.api.forward import is_known
from horizon.cli import lock, places
from horizon.cli.exits import CONFLICT, USAGE, CliError
from horizon.core.model import Inventory, JobState
from horizon.core.state import State
from horizon.executors.inventory import BadSimulationSpec, InventoryError, discover, simulated, without_gpus
from horizon.executors.local import LocalExecutor
from horizon.executors.port import ExecutorError
from horizon.service.clock import Ids, SystemClock
from horizon.service.config import EngineConfig
from horizon.service.engine import Engine
from horizon.service.follower import Follower
from horizon.service.keys import BadKey, KeyFile
from horizon.service.launches import devices_of
from horizon.service.leadership import Led, await_turn, describe
from horizon.service.notary import Distrust, Notary
from horizon.service.notefile import NoteFile
from horizon.service.snapshots import SnapshotKeeper
from horizon.service.standby import Standby
from horizon.service.transactions import TransactionWatch
from horizon.store.embedded import EmbeddedPostgres
from horizon.store.port import Candidate, Fenced, Leader, StoreError
from horizon.store.postgres import PostgresStore
from horizon.store.snapshots import Snapshots

log = structlog.get_logger()

LISTEN_BACKLOG: Final = 1024
DRAIN_S_MAX: Final = 2.0
"""How long open requests, streams among them, may go on when the server stops."""

HOLD_AGAIN_S: Final = 0.1
"""Between two tries to hold a data directory that another process has yet to let go."""

Progress = Callable[[int, int], None]
Waits = Callable[[Leader], None]


class Settings(NamedTuple):
    """What whoever starts a scheduler has chosen."""

    data_dir: Path
    host: str
    port: int
    """0 for any that is free."""
    token: str
    database_url: str | None = None
    """None for an embedded Postgres under the data directory."""
    simulate_gpus: str | None = None
    no_gpus: bool = False
    labels: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    """Of this machine's node; those of pretended ones are in ``simulate_gpus``."""
    signing_key: Path | None = None
    """The file of the key that signs the log; None for the data directory's own."""
    advertise: str | None = None
    """Where other schedulers reach this one; None for where it listens."""
    lease_ttl_s: float = EngineConfig().lease_ttl_s
    standby: bool = False
    """Follow whoever leads, and lead when nobody else does. The data directory is not held before that."""


class Scheduler:
    """One scheduler with everything it needs. Started once, stopped once."""

    engine: Engine
    standby: Standby | None = None
    _store: PostgresStore

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = AsyncExitStack()
        self.inventories: tuple[Inventory, ...] = ()
        self._keys = KeyFile(settings.signing_key or places.own_signing_key(settings.data_dir))
        self._held = self._parts.enter_context(ExitStack())
        """The data directory, once a standby holds it: let go last of all."""
        self._snapshots = Snapshots(places.snapshots(settings.data_dir))
        self._holding: asyncio.Task[None] | None = None
        self.dsn = ""
        self.url = ""

    async def start(
        self, progress: Progress = lambda done, total: None, waits: Waits = lambda leader: None
    ) -> None:
        """Make and start every part, cheap checks first. Raises ``CliError``; afterwards stop either way.

        ``waits`` is told of the scheduler whose lease has yet to end.
        """
        settings = self._settings
        self.inventories = find_inventories(settings)
        # Listening from the start on: whoever comes early waits a moment rather than being turned away.
        listener = listen(settings.host, settings.port)
        self._parts.callback(listener.close)
        self.url = url_of(settings.host, listener.getsockname()[1])
        try:
            self.dsn = settings.database_url or await self._start_postgres()
            await self._start_engine(listener, progress, waits)
        except Led as error:
            raise CliError(
                f"{error}, and goes on leading it: `horizon serve --standby` waits beside it and takes over "
                "when it ends; or point DATABASE_URL at another database",
                CONFLICT,
            ) from error
        except Fenced as error:
            raise CliError(f"{error} in this very moment: start again", CONFLICT) from error
        except (StoreError, ExecutorError, Distrust) as error:
            raise CliError(str(error)) from error

    async def _start_postgres(self) -> str:
        postgres = EmbeddedPostgres(self._settings.data_dir / "postgres")
        starting = asyncio.ensure_future(postgres.start())

        async def stop() -> None:
            # Were we cancelled while it started, it must come up before it can be taken down.
            await asyncio.wait({starting})
            if starting.exception() is None:
                try:
                    await postgres.stop()
                except (OSError, subprocess.SubprocessError) as error:
                    log.warning("the embedded Postgres did not stop, or was gone already", error=str(error))

        self._parts.push_async_callback(stop)
        dsn = await asyncio.shield(starting)
        watching = asyncio.create_task(postgres.watch())
        self._parts.callback(watching.cancel)
        return dsn

    async def _start_engine(self, listener: socket.socket, progress: Progress, waits: Waits) -> None:
        settings = self._settings
        home = places.home_id(settings.data_dir)
        self.engine = self._make_engine(home)
        self._parts.push_async_callback(self.engine.stop)
        if settings.standby:
            follower = Follower(self.engine.store, self._snapshots)
            self.standby = Standby(self.engine, follower, self._before_leading)
        await self._start_http(listener)
        gc.disable()  # a fold only ever adds to what is there
        if self.standby is not None:
            await self._follow(self.standby, progress)
            _spare_the_collector()
            return
        await self.engine.store.open()
        turn = await await_turn(self.engine.store, home, waits)
        await self.engine.start(progress, turn)
        _spare_the_collector()
        self._watch()

    def _make_engine(self, home: str) -> Engine:
        settings, clock = self._settings, SystemClock()
        name = f"{socket.gethostname()}/{os.getpid()}"
        url = settings.advertise or reachable(settings.host, self.url)
        candidate = Candidate(home, name, url, settings.lease_ttl_s)
        self._store = PostgresStore(self.dsn, candidate, [places.archive(settings.data_dir)])
        return Engine(
            self._store,
            LocalExecutor(settings.data_dir, self.inventories),
            clock,
            Ids(clock),
            EngineConfig(lease_ttl_s=settings.lease_ttl_s),
            notary=Notary(self._keys, NoteFile(places.checkpoints(settings.data_dir))),
            snapshots=self._snapshots,
        )

    async def _start_http(self, listener: socket.socket) -> None:
        app = create_app(self.engine, token=self._settings.token, standby=self.standby)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S_MAX)
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=LISTEN_BACKLOG).start()

    # --- standing by ----------------------------------------------------------------------------------

    async def _follow(self, standby: Standby, progress: Progress) -> None:
        await standby.start(progress)
        if standby.leader is not None:
            self._check_nodes(standby.leader, standby.follower.state)
            self._check_devices(standby.leader, standby.follower.state)
        asking = asyncio.create_task(self._ask_leaders(standby))
        self._parts.callback(asking.cancel)
        _warn_of_key(self._keys, standby.follower.state.signing_key)

    async def lead(self, leads: Callable[[], None]) -> str:
        """Lead until that ends by itself, and say why it did. Raises ``CliError``.

        A standby follows first, and calls ``leads`` when it does.
        """
        if self.standby is not None:
            try:
                await self.standby.run()
            except (StoreError, ExecutorError, Distrust) as error:
                raise CliError(str(error)) from error
            self._watch()
            leads()
        return await self.engine.stopped

    def _before_leading(self, led: Leader, state: State) -> None:
        """A standby is about to lead: from here on the data directory is ours."""
        self._check_nodes(led, state)
        if self._holding is None:
            self._holding = asyncio.create_task(self._hold_directory())
            self._parts.callback(self._holding.cancel)

    def _check_nodes(self, led: Leader, state: State) -> None:
        """Refuse to lead where the jobs of whoever led would be taken for ours, and for dead.

        What runs on a node is known by the files in a data directory. Under another directory, or on another
        machine, a node of the same name is another node.
        """
        ours = {inventory.name for inventory in self.inventories}
        both = sorted(name for name, node in state.nodes.items() if name in ours and not node.lost)
        if both and led.home != places.home_id(self._settings.data_dir):
            raise CliError(
                f"{both[0]} is a node of {describe(led)}, and of this scheduler, which has another data "
                "directory: what runs there would be taken for lost and be run twice. Give a standby on the "
                "same machine the same --data-dir; where that one is gone for good, start without --standby",
                CONFLICT,
            )

    def _check_devices(self, led: Leader, state: State) -> None:
        """Refuse to stand by with other pretended GPUs than whoever leads from the same data directory has,
        and warn of other real ones, which may have failed since.

        Once this one led, jobs would hold devices that are not there, or are of another type.
        """
        if led.home != places.home_id(self._settings.data_dir):
            return
        theirs = {name: node.inventory for name, node in state.nodes.items() if not node.lost}
        ours = {inventory.name: inventory for inventory in self.inventories}
        names = sorted({*theirs, *ours})
        differ = [name for name in names if _devices(theirs.get(name)) != _devices(ours.get(name))]
        if not differ:
            return
        what = (
            f"{differ[0]} has other GPUs here than with {describe(led)}, which leads from the same data "
            "directory: jobs would hold GPUs that are gone once this one led"
        )
        if any(inventory.simulated for inventory in (*theirs.values(), *ours.values())):
            raise CliError(f"{what}. Give both the same --simulate-gpus", CONFLICT)
        log.warning(what)

    async def _ask_leaders(self, standby: Standby) -> None:
        """Find out of each leader whether it takes our token: clients have one, for it, through us to it, and
        for us once we lead."""
        while standby.following:
            leader, term = standby.leader, standby.term
            if leader is None or not leader.url:
                await asyncio.sleep(HOLD_AGAIN_S)
                continue
            try:
                if not await is_known(leader.url, self._settings.token):
                    log.error(
                        "the leader does not take this scheduler's token: its clients could change nothing "
                        "through this one, and would be turned away once it leads; give both the same "
                        "HORIZON_TOKEN",
                        leader=describe(leader),
                    )
            except OSError as error:
                log.warning("the leader cannot be reached, nor changes sent to it", error=str(error))
            await term.wait()

    async def _hold_directory(self) -> None:
        """Hold the data directory as soon as whoever led from it has let it go.

        A process that stands still holds it yet, and need not be waited for: its epoch is over, for the log
        and for every keeper of a job.
        """
        for tried in itertools.count(1):
            try:
                self._held.enter_context(lock.hold(self._settings.data_dir))
                return
            except CliError as error:
                if tried == 20:  # one that stops cleanly lets it go in a moment
                    log.warning("the data directory is not let go yet, and used all the same", why=str(error))
            await asyncio.sleep(HOLD_AGAIN_S)

    def _watch(self) -> None:
        """What is looked after while this scheduler leads."""
        command = (sys.executable, "-m", "horizon.cli.main", "--data-dir", str(self._settings.data_dir))
        environment = {**os.environ, "DATABASE_URL": self.dsn}
        keeper = SnapshotKeeper(self.engine, (*command, "snapshot"), environment)
        transactions = TransactionWatch(self.engine, self._store.open_transactions)
        for one in (keeper, transactions):
            self._parts.push_async_callback(one.stop)
            one.start()

    async def stop(self) -> None:
        """Stop what was started, in the opposite order. Running jobs go on running."""
        await self._parts.aclose()

    @property
    def token(self) -> str:
        return self._settings.token

    @property
    def jobs_running(self) -> int:
        """How many jobs have processes, or are about to."""
        active = (JobState.SCHEDULED, JobState.RUNNING)
        return sum(job.state in active for job in self.engine.state.holding.values())


def _devices(inventory: Inventory | None) -> set[tuple[str, str]] | None:
    return None if inventory is None else devices_of(inventory)


def _warn_of_key(keys: KeyFile, signing_key: str) -> None:
    """A standby without the key of the log signs with one of its own, once it leads."""
    try:
        own = (keys.public(), keys.in_force())  # of which the one in force hands over to the other
    except BadKey as error:
        raise CliError(str(error)) from error
    if signing_key and signing_key not in map(str, own):
        log.warning(
            "the key that signs the log is not here: once it leads, this scheduler signs with one of its "
            "own, which the other did not hand over to; have HORIZON_SIGNING_KEY name the same file on both",
            key=str(keys.path),
        )


def _spare_the_collector() -> None:
    """Have the garbage collector look at a large, long-lived state seldom: what it looks for is not in it.

    A full collection reads every tracked object, and what the log folds into lives for as long as we do. So
    they are rare, and those of what is younger come often enough to be short.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 5_000)
    gc.enable()


def find_inventories(settings: Settings) -> tuple[Inventory, ...]:
    """The nodes of this machine, pretended or real."""
    try:
        if settings.simulate_gpus:
            return simulated(settings.simulate_gpus)
        labels = settings.labels
        return (without_gpus(labels) if settings.no_gpus else discover(labels),)
    except BadSimulationSpec as error:
        raise CliError(str(error), USAGE) from error
    except InventoryError as error:
        raise CliError(str(error)) from error


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``CliError`` saying which other choice would do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise CliError(
            f"there is no host {host!r} to listen on: {error.strerror}; choose another with --host"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} on {host} is in use"
        else:
            why = f"cannot listen on port {port} of {host}: {error.strerror}"
        raise CliError(f"{why}; choose another with --port, or --port 0 for any that is free") from error
    return listener


def url_of(host: str, port: int) -> str:
    """The URL under which a client on this machine reaches a listener on ``host``."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address}:{port}" if address.version == 4 else f"http://[{address}]:{port}"


def reachable(host: str, url: str) -> str:
    """The URL for other machines: by this one's name where it listens on all addresses."""
    try:
        if ip_address(host).is_unspecified and socket.getaddrinfo(socket.gethostname(), None):
            return f"http://{socket.gethostname()}:{urlsplit(url).port}"
    except (ValueError, OSError):
        pass  # it has a name, or nobody knows ours
    return url


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a listener on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
