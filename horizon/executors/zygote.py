"""The zygote: the one small process of which keepers are forked.

It holds no truth and decides nothing. It reads orders from the scheduler, gives each launch to a keeper that
is idle or forks a new one, carries out stops, and dies when the scheduler's end closes; the keepers stay.
Standard library only, one thread.

Keepers come back for more: a fork of an interpreter and its end cost more than the start of a small job.
"""

from __future__ import annotations

import fcntl
import gc
import marshal
import os
import select
import signal
import sys

from horizon.executors import keeper

CHANNELS_MAX = 256
"""Keepers that may come back; the oldest of more, which has the longest job, loses its channel and leaves
when that has ended."""
IDLE_SECONDS_MAX = 10
READ_BYTES = 1 << 18

StopOrder = tuple[int, str, int, int]
"""epoch, attempt, rank, grace in seconds."""


class _Zygote:
    __slots__ = ("channels", "idle", "idle_in", "idle_out", "requests_fd", "world")

    def __init__(self, world: keeper.World, requests_fd: int) -> None:
        self.world = world
        self.requests_fd = requests_fd
        self.idle_in, self.idle_out = os.pipe()
        self.channels: dict[int, int] = {}
        """Where a keeper that may come back reads its next order, oldest first."""
        self.idle: list[int] = []


def main() -> None:
    """``argv``: the directory of the attempts, the file descriptor of the orders."""
    attempts, requests_fd = sys.argv[1], int(sys.argv[2])
    _reset_signals()
    reports_fd = os.open(f"{attempts}/reports", os.O_WRONLY | os.O_NONBLOCK)
    os.set_inheritable(requests_fd, False)
    world = keeper.World(attempts, _open_epoch(attempts), reports_fd, dict(os.environ))
    os.chdir("/")
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in a child would copy every page it looks at
    _serve(_Zygote(world, requests_fd))


def _open_epoch(attempts: str) -> int:
    return os.open(f"{attempts}/epoch", os.O_RDWR)


def _reset_signals() -> None:
    """Jobs inherit what is ignored: start them with nothing ignored, whoever started the scheduler and how.

    SIGCHLD is ignored here so that the kernel reaps the keepers; SIGPIPE is, so that a write can fail.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, keeper.WAITED_SIGNALS)


def _serve(zygote: _Zygote) -> None:
    poll = select.poll()
    poll.register(zygote.requests_fd, select.POLLIN)
    poll.register(zygote.idle_in, select.POLLIN)
    buffer = bytearray()
    while True:
        ready = poll.poll(IDLE_SECONDS_MAX * 1000 if zygote.idle else None)
        if not ready:
            _dismiss_idle(zygote)
        # The idle ones first: they may take what has come in.
        for fd, _ in sorted(ready, key=lambda entry: entry[0] == zygote.requests_fd):
            data = os.read(fd, READ_BYTES)
            if fd == zygote.idle_in:
                _note_idle(zygote, data)
            elif data:
                buffer += data
                _take_frames(zygote, buffer)
            else:
                return


def _note_idle(zygote: _Zygote, data: bytes) -> None:
    pids = (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
    zygote.idle += [pid for pid in pids if pid in zygote.channels]


def _dismiss_idle(zygote: _Zygote) -> None:
    for pid in zygote.idle:
        os.close(zygote.channels.pop(pid))
    zygote.idle.clear()


def _take_frames(zygote: _Zygote, buffer: bytearray) -> None:
    """Carry out every whole frame; what is left of the buffer is the beginning of the next."""
    at = 0
    while len(buffer) - at >= keeper.FRAME_HEADER_BYTES:
        end = at + keeper.FRAME_HEADER_BYTES + int.from_bytes(buffer[at : at + 4], "little")
        if end > len(buffer):
            break
        frame = bytes(buffer[at + 4 : end])
        at = end
        kind, order = marshal.loads(frame)
        if kind == "launch":
            _hand_over(zygote, frame, order)
        elif kind == "stop":
            _stop(zygote.world, order)
        else:
            os.write(zygote.requests_fd, order.to_bytes(keeper.MARK_BYTES, "little"))
    del buffer[:at]


def _hand_over(zygote: _Zygote, frame: bytes, order: keeper.Order) -> None:
    """To the keeper that was last to come back, its memory is the warmest; to a new one when none is idle."""
    message = len(frame).to_bytes(keeper.FRAME_HEADER_BYTES, "little") + frame
    while zygote.idle:
        pid = zygote.idle.pop()
        channel = zygote.channels.pop(pid)
        try:
            _write_all(channel, message)
        except OSError:  # it was killed; nothing of a frame that it has not wholly read was carried out
            os.close(channel)
        else:
            zygote.channels[pid] = channel
            return
    _fork(zygote, frame, order)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _fork(zygote: _Zygote, frame: bytes, order: keeper.Order) -> None:
    pipe: tuple[int, ...] = ()
    try:
        orders_fd, channel = pipe = os.pipe()
        pid = os.fork()
    except OSError as error:
        for fd in pipe:
            os.close(fd)
        why = f"not started: this machine cannot start another process: {keeper.reason(error)}"
        keeper.refuse(zygote.world, order[0], order[1], order[2], why)
        return
    if pid == 0:
        _be_keeper(zygote, frame, orders_fd, channel)
    os.close(orders_fd)
    zygote.channels[pid] = channel
    if len(zygote.channels) > CHANNELS_MAX:
        oldest = next(iter(zygote.channels))
        os.close(zygote.channels.pop(oldest))
        zygote.idle = [pid for pid in zygote.idle if pid != oldest]


def _be_keeper(zygote: _Zygote, frame: bytes, orders_fd: int, channel: int) -> None:
    """In the child; does not return. What would hold the scheduler's or another keeper's end open is closed,
    and the epoch file is opened anew: a lock belongs to an open file, which a fork shares."""
    failed = 70
    try:
        for fd in (zygote.requests_fd, zygote.idle_in, channel, *zygote.channels.values()):
            os.close(fd)
        os.close(zygote.world.epoch_fd)
        zygote.world.epoch_fd = _open_epoch(zygote.world.attempts)
        keeper.live(zygote.world, frame, orders_fd, zygote.idle_out)
        failed = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(failed)


# Stopping


def _stop(world: keeper.World, order: StopOrder) -> None:
    """Stop one rank, or make sure that it never starts.

    Under the epoch file's exclusive lock: no claim is half made, so the rank either has a keeper whose
    process id is written, or has none and never will.
    """
    epoch, key, rank, grace_s = order
    fcntl.flock(world.epoch_fd, fcntl.LOCK_EX)
    try:
        if keeper.read_epoch(world.epoch_fd) <= epoch and not _bar(world, epoch, key, rank):
            _order_stop(world, key, rank, grace_s)
    except OSError as error:
        print(f"cannot stop rank {rank} of {key}: {keeper.reason(error)}", file=sys.stderr, flush=True)
    finally:
        fcntl.flock(world.epoch_fd, fcntl.LOCK_UN)


def _bar(world: keeper.World, epoch: int, key: str, rank: int) -> bool:
    """Claim a rank that was never launched, as one that has ended; false when it was launched."""
    why = "stopped before it was started"
    try:
        status = keeper.claim(world, epoch, key, rank)
    except OSError:  # nothing can be written, so nothing was launched and nothing can be
        keeper.refuse(world, epoch, key, rank, why)
        return True
    if status is None:
        return False
    status.end(error=why)
    status.gone = True
    status.save()
    os.unlink(keeper.live_path(world.attempts, key, rank))
    os.close(status.fd)
    return True


def _order_stop(world: keeper.World, key: str, rank: int, grace_s: int) -> None:
    """Write the order, then wake the keeper. The process is pinned before its lock is looked at: if the lock
    is held then, the process we hold is the keeper and no later one with its number."""
    fd = os.open(keeper.status_path(world.attempts, key, rank), os.O_RDWR)
    try:
        keeper.write_stop_order(fd, grace_s)
        pid = _keeper_of(fd)
        if pid and keeper.LINUX:
            pidfd = os.pidfd_open(pid)
            try:
                if keeper.is_locked(fd):
                    signal.pidfd_send_signal(pidfd, keeper.WAKE_SIGNAL)
            finally:
                os.close(pidfd)
        elif pid and keeper.is_locked(fd):
            os.kill(pid, keeper.WAKE_SIGNAL)
    except ProcessLookupError:
        pass  # it has ended, or was killed; the scheduler's round will find out which
    finally:
        os.close(fd)


def _keeper_of(fd: int) -> int:
    record = os.pread(fd, keeper.STATUS_BYTES, 0)
    return int(record.partition(b'"keeper":')[2].partition(b",")[0] or 0)
