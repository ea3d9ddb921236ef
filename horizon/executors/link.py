"""The scheduler's end of the zygote: starting it, sending it orders, replacing it when it dies."""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from horizon.executors import keeper

RESTART_DELAY_S: Final = 0.05
RESTART_DELAY_MAX_S: Final = 5.0
HEALTHY_AFTER_S: Final = 1.0
BROKEN_AFTER: Final = 4
"""Deaths in a row, each soon after the start, until orders are given up rather than kept waiting."""
EXIT_WAIT_S: Final = 2.0
MARKS_READ_BYTES: Final = 1 << 12

_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parents[2])
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from horizon.executors import zygote; zygote.main()"
)
_SECRETS: Final = frozenset({"DATABASE_URL", "PGPASSWORD", "PGPASSFILE"})


def job_environment_base(environment: Mapping[str, str]) -> dict[str, str]:
    """What every job inherits of the scheduler's environment: nothing of Horizon's own, no way to its
    database."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("HORIZON_") and name not in _SECRETS
    }


def encode_frame(kind: str, order: keeper.Order | tuple[int, str, int, int] | int) -> bytes:
    """``marshal``, because both ends are the same interpreter and the zygote needs no library for it."""
    body = marshal.dumps((kind, order))
    return len(body).to_bytes(keeper.FRAME_HEADER_BYTES, "little") + body


class ZygoteLink:
    """Orders go out in the order they were sent, as many at a time as the socket takes."""

    def __init__(self, attempts: str, restarted: Callable[[], None], broken: Callable[[str], None]) -> None:
        """``restarted`` is called when a new zygote stands in for one that died: orders may have been lost.
        ``broken`` is called instead when it dies again and again."""
        self._attempts = attempts
        self._restarted = restarted
        self._broken = broken
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self.reached = 0
        self._mark = 0
        self._sent_since_mark = False
        self._flush_is_due = False
        self._writer_is_on = False
        self._started_at = 0.0
        self._deaths = 0
        self._restart: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Raises OSError when the process cannot be started."""
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                self._process = _start_process(self._attempts, theirs.fileno())
            except OSError:
                ours.close()
                raise
        self._socket = ours
        self._out.clear()  # what was sent while there was no zygote, ``restarted`` sends again
        self._started_at = self._loop.time()
        self._loop.add_reader(ours.fileno(), self._on_readable)

    def mark(self) -> int:
        """A number that ``reached`` comes up to once the zygote has handled everything sent so far."""
        if self._sent_since_mark:
            self._mark += 1
            self.send(encode_frame("mark", self._mark))
            self._sent_since_mark = False
        return self._mark

    def send(self, frame: bytes) -> None:
        self._out += frame
        self._sent_since_mark = True
        if not self._flush_is_due and not self._writer_is_on:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._socket is None:
            return
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return  # the zygote died; the reader sees it too and replaces it
        if bool(self._out) != self._writer_is_on:
            self._writer_is_on = bool(self._out)
            if self._writer_is_on:
                self._loop.add_writer(self._socket.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        """The zygote writes nothing but the marks that it has come to; an end of file is its death."""
        assert self._socket is not None
        try:
            data = self._socket.recv(MARKS_READ_BYTES)
        except OSError:
            data = b""
        if data:
            # A mark is written in one piece, and the last is as good as all.
            self.reached = int.from_bytes(data[-keeper.MARK_BYTES :], "little")
        else:
            self._on_end()

    def _on_end(self) -> None:
        healthy = self._loop.time() - self._started_at >= HEALTHY_AFTER_S
        self._deaths = 1 if healthy else self._deaths + 1
        self._disconnect()
        self._sent_since_mark = True
        self._out.clear()  # a torn frame is worth nothing; whoever sent it sends it again
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._deaths >= BROKEN_AFTER:
            log = f"{self._attempts}/zygote.log"
            self._broken(f"the process that starts jobs dies again and again; see {log}")
        delay_s = min(RESTART_DELAY_MAX_S, RESTART_DELAY_S * 2**self._deaths)
        self._restart = self._loop.call_later(delay_s, self._start_again)

    def _start_again(self) -> None:
        self._restart = None
        if self._process is not None:
            self._process.wait()
        try:
            self.start()
        except OSError as error:
            self._broken(f"the process that starts jobs cannot be started: {keeper.reason(error)}")
            self._restart = self._loop.call_later(RESTART_DELAY_MAX_S, self._start_again)
        else:
            self._restarted()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._writer_is_on = False

    async def close(self) -> None:
        """Send what is left, then let the zygote go; keepers and jobs stay."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        deadline = asyncio.get_running_loop().time() + EXIT_WAIT_S
        while self._out and self._socket is not None and asyncio.get_running_loop().time() < deadline:
            self._flush()
            await asyncio.sleep(0.005)
        self._disconnect()
        self._out.clear()
        self._flush_is_due = False
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_wait_or_kill, process)


def _start_process(attempts: str, fd: int) -> subprocess.Popen[bytes]:
    with open(f"{attempts}/zygote.log", "ab", opener=_open_private) as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-c", _PROGRAM, _PACKAGE_ROOT, attempts, str(fd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(fd,),
            cwd="/",
            env=job_environment_base(os.environ),
            start_new_session=True,
        )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(EXIT_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
