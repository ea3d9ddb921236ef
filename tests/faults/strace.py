"""System calls that fail, or at which a process dies: done by ``strace`` to programs as they are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import psutil

EIO: Final = "error=EIO"
KILL: Final = "signal=SIGKILL"
ATTACH_S_MAX: Final = 5.0
DETACH_S_MAX: Final = 2.0
_CALL: Final = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)


class Call(NamedTuple):
    """The n-th call of this name that a thread makes, counted from when it is traced."""

    name: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.name} {self.nth}"


@cache
def why_not() -> str:
    """Why no call can be made to fail here; empty when it can."""
    if shutil.which("strace") is None:
        return "there is no strace here: apt-get install strace"
    with subprocess.Popen(["sleep", "60"]) as asleep:
        tracer = _attached(["strace", "-o", os.devnull], [asleep.pid])
        traced = tracer.poll() is None and _is_traced(asleep.pid)
        said = _detached(tracer)
        asleep.kill()
    return "" if traced else f"no process can be traced here: {said.strip()}"


def tracing(out: Path, names: str, fault: str = "", nth: int = 1, paths: Iterable[str] = ()) -> list[str]:
    """The command that traces calls of these names, on these paths only if there are any, into a file."""
    command = ["strace", "-f", "-y", "-o", str(out), "-e", f"trace={names}"]
    command += ["-e", f"inject={names}:{fault}:when={nth}"] if fault else []
    return command + [word for path in paths for word in ("-P", path)]


def under(out: Path, call: Call, fault: str, paths: Iterable[str]) -> list[str]:
    """What a program is run under, so that it is still the child of whoever runs it."""
    return [*tracing(out, call.name, fault, call.nth, paths), "-D"]


@contextmanager
def traced(pids: Collection[int], command: list[str]) -> Iterator[None]:
    """Have these processes, and all that they start, be traced for as long as the block."""
    tracer = _attached(command, pids)
    try:
        yield
    finally:
        _detached(tracer)


def _attached(command: list[str], pids: Collection[int]) -> subprocess.Popen[str]:
    who = [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen([*command, *who], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + ATTACH_S_MAX
    while tracer.poll() is None and not all(map(_is_traced, pids)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return tracer


def _is_traced(pid: int) -> bool:
    """Every thread of it; or it is gone."""
    try:
        threads = [thread / "status" for thread in Path(f"/proc/{pid}/task").iterdir()]
        return all("TracerPid:\t0\n" not in status.read_text() for status in threads)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _detached(tracer: subprocess.Popen[str]) -> str:
    """What it said. One that waits for a process which waits for another that is stopped lets go of both when
    it is killed."""
    with suppress(ProcessLookupError):
        tracer.send_signal(signal.SIGINT)
    try:
        return tracer.communicate(timeout=DETACH_S_MAX)[1]
    except subprocess.TimeoutExpired:
        tracer.kill()
        return tracer.communicate()[1]


def calls(out: Path) -> list[str]:
    """The names of the calls in a trace, in their order."""
    return [found[1] for found in _CALL.finditer(out.read_text(errors="replace"))]


def struck(out: Path) -> bool:
    """Whether a call was made to fail, or was the last of a process."""
    told = out.read_text(errors="replace") if out.is_file() else ""
    return "(INJECTED)" in told or "killed by SIGKILL" in told


def family(pid: int) -> list[int]:
    """A process and all that it has started; none when it is gone."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(one.pid for one in process.children(recursive=True))]
    return []


def sockets_to(pid: int, port: int) -> list[str]:
    """The sockets on which a process talks to a port, by the names that the kernel gives them."""
    talks = [
        one for one in psutil.Process(pid).net_connections("tcp") if one.raddr and one.raddr.port == port
    ]
    return [os.readlink(f"/proc/{pid}/fd/{one.fd}") for one in talks]
