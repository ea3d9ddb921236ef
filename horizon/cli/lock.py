"""One scheduler per data directory, made sure of by a lock that the kernel drops with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from horizon.cli.exits import CliError
from horizon.cli.places import read_endpoint


def make(directory: Path) -> None:
    """Make the directory if there is none. Raises ``CliError``."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Make the directory if there is none and hold it. Raises ``CliError`` when it cannot be had.

    The pid in the lock file is for the message only: a file left by a process that was killed is not locked
    and so keeps nobody out. The descriptor is not inherited, or jobs would hold the lock after us.
    """
    make(directory)
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CliError(_who_holds(directory, descriptor)) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _unusable(directory: Path, error: OSError) -> CliError:
    return CliError(
        f"the data directory {directory} cannot be used: {error.strerror}; choose another with --data-dir"
    )


def _who_holds(directory: Path, descriptor: int) -> str:
    pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    endpoint = read_endpoint(directory)
    at = f" at {endpoint.url}" if endpoint is not None and str(endpoint.pid) == pid else ""
    who = f"process {pid}" if pid else "another process"
    return (
        f"Horizon is running already on {directory}: {who}{at}. Use that one, stop it first, or choose "
        "another directory with --data-dir"
    )
