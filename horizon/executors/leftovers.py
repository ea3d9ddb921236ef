"""Finding and killing what a killed keeper left running, by the marks that every process of a job carries.

A process belongs to a rank when its environment says so, or when it is in the session that the rank's main
process led. Reading every process of the machine is slow, so this is for the rare case, in a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

LINUX: Final = sys.platform == "linux"
RESCAN_S: Final = 0.02
EMPTY_SCANS: Final = 2
"""A process may be between fork and exec, or be forking, while we look: look twice."""
WARN_AFTER_S: Final = 60.0


class Mark(NamedTuple):
    """What the processes of one rank carry."""

    attempt_id: str
    rank: int
    session: int
    """The main process, which leads the session; 0 when it is not known."""


class _Process(NamedTuple):
    pid: int
    session: int
    environment: bytes


def kill_leftovers(marks: Iterable[Mark], give_up_after_s: float = WARN_AFTER_S) -> frozenset[Mark]:
    """SIGKILL everything that carries one of these marks, until two looks in a row find nothing.

    Gives the marks whose processes are all gone; others have one that even SIGKILL did not end in time.
    """
    wanted = frozenset(marks)
    deadline = time.monotonic() + give_up_after_s
    empty_scans = 0
    while True:
        found = _carriers(wanted)
        empty_scans = 0 if found else empty_scans + 1
        if empty_scans >= EMPTY_SCANS or time.monotonic() > deadline:
            return wanted - {mark for mark, _ in found}
        for _, pid in found:
            _kill(pid)
        time.sleep(RESCAN_S)


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _carriers(marks: frozenset[Mark]) -> list[tuple[Mark, int]]:
    by_environment = {
        (f"HORIZON_ATTEMPT_ID={mark.attempt_id}".encode(), f"HORIZON_NODE_RANK={mark.rank}".encode()): mark
        for mark in marks
    }
    processes = list(_processes())
    by_session = {mark.session: mark for mark in marks if mark.session > 1}
    for process in processes:
        # A leader that does not carry the mark has the number by chance: the session ended long ago.
        if process.pid in by_session and _mark_of(process, by_environment) is None:
            del by_session[process.pid]
    found = []
    for process in processes:
        mark = _mark_of(process, by_environment) or by_session.get(process.session)
        if mark is not None and process.pid != os.getpid():
            found.append((mark, process.pid))
    return found


def _mark_of(process: _Process, marks: dict[tuple[bytes, bytes], Mark]) -> Mark | None:
    if b"HORIZON_ATTEMPT_ID=" not in process.environment:
        return None
    variables = process.environment.split(b"\0")
    attempt = next((entry for entry in variables if entry.startswith(b"HORIZON_ATTEMPT_ID=")), b"")
    rank = next((entry for entry in variables if entry.startswith(b"HORIZON_NODE_RANK=")), b"")
    return marks.get((attempt, rank))


def _processes() -> Iterator[_Process]:
    """Every process of ours that has not ended yet."""
    return _processes_by_proc() if LINUX else _processes_by_psutil()


def _processes_by_proc() -> Iterator[_Process]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, _, _, session = file.read().rpartition(b")")[2].split(maxsplit=4)[:4]
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
        except OSError:  # it has ended, or is not ours
            continue
        if state not in (b"Z", b"X"):
            yield _Process(int(name), int(session), environment)


def _processes_by_psutil() -> Iterator[_Process]:
    import psutil

    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            pairs = process.environ().items()
            environment = b"\0".join(f"{name}={value}".encode() for name, value in pairs)
            yield _Process(process.pid, os.getsid(process.pid), environment)
        except (psutil.Error, OSError):
            continue
