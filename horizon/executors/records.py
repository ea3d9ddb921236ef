"""Reading what keepers wrote: the scheduler's side of the status files."""

from __future__ import annotations

import contextlib
import os
from typing import Final, NamedTuple

import msgspec

from horizon.core.model import Exit
from horizon.executors import keeper


class Record(msgspec.Struct, frozen=True):
    """A keeper's word on its rank. It only ever grows: what was true in one stays true in the next."""

    epoch: int
    keeper: int
    pid: int
    """The job's main process, which leads its session; 0 until it runs."""
    started_us: int
    ended_us: int
    exit_code: int | None
    signal: int | None
    error: str
    gone: bool
    """Every process of this rank is confirmed gone."""
    lost: bool
    """The keeper was killed; how the main process ended is not known."""

    @property
    def exit(self) -> Exit | None:
        if not self.ended_us:
            return None
        return Exit(exit_code=self.exit_code, signal=self.signal, error=self.error or None)


class Seen(NamedTuple):
    """What the disk says of a rank."""

    claimed: bool
    alive: bool
    """Its keeper lives, and may still write."""
    record: Record | None
    """None when there is none, or none that can be read (the machine lost its power)."""


_decoder: Final = msgspec.json.Decoder(Record)
_encoder: Final = msgspec.json.Encoder()


def decode(data: bytes) -> Record | None:
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return None


def inspect(attempts: str, key: str, rank: int) -> Seen:
    """Look at one rank. The lock is tried before the record is read: a record read after its lock was free
    is the last that will ever be."""
    try:
        fd = os.open(keeper.status_path(attempts, key, rank), os.O_RDWR)
    except FileNotFoundError:
        return Seen(claimed=False, alive=False, record=None)
    try:
        alive = keeper.is_locked(fd)
        return Seen(claimed=True, alive=alive, record=decode(os.pread(fd, keeper.STATUS_BYTES, 0)))
    finally:
        os.close(fd)


def conclude(attempts: str, key: str, rank: int, record: Record) -> None:
    """Write the last word for a keeper that was killed before it could, or never came to be: then this is
    its claim too. A disk that refuses only means that the next scheduler finds out anew."""
    try:
        os.makedirs(keeper.attempt_path(attempts, key), mode=0o700, exist_ok=True)
        fd = os.open(keeper.status_path(attempts, key, rank), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, _encoder.encode(record).ljust(keeper.STATUS_BYTES - 1) + b"\n", 0)
        finally:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(keeper.script_path(attempts, key, rank))
        os.unlink(keeper.live_path(attempts, key, rank))
    except OSError:
        pass


def ranks_claimed(attempts: str, key: str) -> int:
    """How many ranks of an attempt have a status file; 0 when it was never launched."""
    try:
        return sum(name.endswith(".status") for name in os.listdir(keeper.attempt_path(attempts, key)))
    except FileNotFoundError:
        return 0


def list_live(attempts: str) -> list[tuple[str, int]]:
    """The ranks that have a keeper, or whose keeper was killed: attempt and rank."""
    names = (name.rpartition(".") for name in os.listdir(f"{attempts}/live"))
    return sorted((key, int(rank)) for key, _, rank in names if rank.isdigit())


# Checkpoints


def checkpoint_path(attempts: str, key: str, rank: int) -> str:
    """What a job touches to say that its work is saved."""
    return f"{keeper.attempt_path(attempts, key)}/{rank}.checkpoint"


def checkpoint_ns(attempts: str, key: str, rank: int) -> int:
    """When the job last touched it, by the file system; 0 while it has not.

    A link is looked at, never through: what it leads to may be on a disk that does not answer.
    """
    return _touched_ns(checkpoint_path(attempts, key, rank))


def reported_checkpoint_ns(attempts: str, key: str, rank: int) -> int:
    """The touch that was reported last, by whichever scheduler; 0 when none was."""
    return _touched_ns(checkpoint_path(attempts, key, rank) + ".reported")


def keep_reported_checkpoint(attempts: str, key: str, rank: int, touched_ns: int) -> None:
    """For the next scheduler. A disk that refuses only means that it reports this touch once more."""
    path = checkpoint_path(attempts, key, rank) + ".reported"
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.utime(path, ns=(touched_ns, touched_ns))


def _touched_ns(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0
