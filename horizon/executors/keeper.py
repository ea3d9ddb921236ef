"""The keeper: the small process that owns one running job and outlives the scheduler.

A keeper is forked by the zygote, so it starts without an interpreter start, and it needs nothing outside the
standard library. It claims a rank of an attempt, starts the job in a session of its own, waits, kills what
the job leaves behind, and writes how it ended. When the job and all its descendants are gone it is free for
another one.

The status file is the truth, and every word to the scheduler is a copy of it:

- its creation (``O_EXCL``) is the claim: an attempt that has one is never started again;
- its lock (``flock``) is the life of the keeper: the kernel drops it with the keeper, and no reused
  process id can pretend to be one;
- its bytes are one status record of fixed width and one stop order of fixed width, both written in place
  over blocks that the claim has already filled, so that a full disk loses neither an exit code nor a stop.

On Linux the keeper is a subreaper: whatever the job starts and abandons comes back to it, however it tried
to hide, and ``ECHILD`` is the proof that nothing is left. Elsewhere it kills the job's process group and
leaves the proof to the scheduler's scan (``horizon.executors.leftovers``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import marshal
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LINUX = sys.platform == "linux"
HAS_CHILDREN_FILES = LINUX and os.path.exists(f"/proc/self/task/{os.getpid()}/children")
STATUS_BYTES = 1024
STOP_ORDER_BYTES = 64
MESSAGE_BYTES_MAX = 4096
"""What Linux writes to a pipe in one piece (PIPE_BUF)."""
ERROR_CHARS_MAX = 300
EPOCH_BYTES = 64
FRAME_HEADER_BYTES = 4
MARK_BYTES = 4
KILL_RETRY_S = 0.02
KILL_RETRY_MAX_S = 0.5

WAKE_SIGNAL = signal.SIGUSR1
"""Tells a keeper to read its stop order."""
WAITED_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGALRM, WAKE_SIGNAL})
"""Blocked from the zygote on and only ever waited for, so none arrives between a test and a wait."""

Order = tuple[int, str, int, list[str], bytes | None, str | None, dict[str, str], bool, int]
"""epoch, attempt, rank, arguments, script, working directory, environment, whether a shell runs it, the
signal that asks it to end."""

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl if LINUX else None


class World:
    """What every keeper of one zygote shares."""

    __slots__ = ("attempts", "environment", "epoch_fd", "reports_fd")

    def __init__(self, attempts: str, epoch_fd: int, reports_fd: int, environment: dict[str, str]) -> None:
        self.attempts = attempts
        self.epoch_fd = epoch_fd
        self.reports_fd = reports_fd
        self.environment = environment


class LaunchError(Exception):
    """The job could not be started; the message is for the person who submitted it."""


def attempt_path(attempts: str, key: str) -> str:
    return f"{attempts}/{key}"


def status_path(attempts: str, key: str, rank: int) -> str:
    return f"{attempts}/{key}/{rank}.status"


def script_path(attempts: str, key: str, rank: int) -> str:
    return f"{attempt_path(attempts, key)}/{rank}.script"


def live_path(attempts: str, key: str, rank: int) -> str:
    """A second name of the status file while its keeper is at work: the directory of these is the list of
    what runs, so that nobody has to walk through the history to find it."""
    return f"{attempts}/live/{key}.{rank}"


def output_path(attempts: str, key: str, rank: int, stream: str) -> str:
    return f"{attempts}/{key}/{rank}.{stream}"


class Status:
    """The status record of one rank: what is known of it, and where that is written.

    ``fd`` is -1 for an attempt that got no file; then the scheduler is told and nothing is remembered.
    """

    __slots__ = (
        "ended_us",
        "epoch",
        "error",
        "exit_code",
        "fd",
        "gone",
        "keeper",
        "key",
        "lost",
        "pid",
        "rank",
        "reports_fd",
        "signal",
        "started_us",
    )

    def __init__(self, epoch: int, key: str, rank: int, fd: int, reports_fd: int) -> None:
        self.epoch = epoch
        self.key = key
        self.rank = rank
        self.fd = fd
        self.reports_fd = reports_fd
        self.keeper = os.getpid()
        self.pid = 0
        self.started_us = 0
        self.ended_us = 0
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.error = ""
        self.gone = False
        self.lost = False

    def encode(self) -> bytes:
        """One line of JSON of at most ``STATUS_BYTES``."""
        return (
            f'{{"epoch":{self.epoch},"keeper":{self.keeper},"pid":{self.pid},"started_us":{self.started_us},'
            f'"ended_us":{self.ended_us},"exit_code":{_number(self.exit_code)},"signal":{_number(self.signal)},'
            f'"error":{_quoted(self.error)},"gone":{_boolean(self.gone)},"lost":{_boolean(self.lost)}}}'
        ).encode("utf-8", "replace")

    def save(self) -> None:
        """Write the record in place, then tell the scheduler, if one listens."""
        record = self.encode()
        if self.fd >= 0:
            _write_in_place(self.fd, record.ljust(STATUS_BYTES - 1) + b"\n", insist=bool(self.ended_us))
        self.tell(record)

    def tell(self, record: bytes) -> None:
        """Best effort: a scheduler that is down or busy finds the same record in the file."""
        with contextlib.suppress(OSError):
            os.write(self.reports_fd, b"%s %d %s\n" % (self.key.encode(), self.rank, record))

    def end(self, *, exit_code: int | None = None, by_signal: int | None = None, error: str = "") -> None:
        self.exit_code, self.signal, self.error = exit_code, by_signal, error
        self.ended_us = now_us()


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _quoted(text: str) -> str:
    if not text:
        return '""'
    import json  # only errors need it, and most jobs have none: every keeper is smaller without

    text = text.encode("utf-8", "replace").decode()
    if len(text) > ERROR_CHARS_MAX:
        text = text[: ERROR_CHARS_MAX - 2] + " …"
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if len(quoted.encode()) <= STATUS_BYTES - 300 else json.dumps(ascii(text)[:ERROR_CHARS_MAX])


def now_us() -> int:
    return time.time_ns() // 1000


def _write_in_place(fd: int, data: bytes, *, insist: bool) -> None:
    """The blocks exist, so this works on a full disk; where the file system copies on write it may not, and
    then the end of a job is tried until it is written, while the lock says that its keeper is still there."""
    while True:
        try:
            os.pwrite(fd, data, 0)
            return
        except OSError as error:
            if not insist or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                return
            time.sleep(1)


def read_epoch(fd: int) -> int:
    return int(os.pread(fd, EPOCH_BYTES, 0).split()[0])


def is_locked(fd: int) -> bool:
    """Whether a keeper lives that holds this status file, which must have been opened by the caller."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


# Claiming


def claim(world: World, epoch: int, key: str, rank: int) -> Status | None:
    """Take this rank for ourselves, once and for all; none when it was taken before.

    Must be called with the epoch file locked: then a claim is either wholly done or not begun for a new
    scheduler that raises the epoch and for a stop. Raises OSError when the directory cannot be written,
    leaving no claim behind.
    """
    path = status_path(world.attempts, key, rank)
    with contextlib.suppress(FileExistsError):
        os.mkdir(attempt_path(world.attempts, key), 0o700)
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return None
    status = Status(epoch, key, rank, fd, world.reports_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record = status.encode().ljust(STATUS_BYTES - 1) + b"\n" + b" " * (STOP_ORDER_BYTES - 1) + b"\n"
        if os.pwrite(fd, record, 0) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.link(path, live_path(world.attempts, key, rank))
    except OSError:
        os.unlink(path)
        os.close(fd)
        raise
    return status


def _claim_in_epoch(world: World, epoch: int, key: str, rank: int) -> Status | None:
    """``claim``, or a refusal that is told but not remembered: a newer scheduler may yet launch this."""
    fcntl.flock(world.epoch_fd, fcntl.LOCK_SH)
    try:
        newest = read_epoch(world.epoch_fd)
        if newest > epoch:
            refuse(world, epoch, key, rank, f"not started: a newer scheduler (epoch {newest}) has taken over")
            return None
        return claim(world, epoch, key, rank)
    except OSError as error:
        where = attempt_path(world.attempts, key)
        refuse(world, epoch, key, rank, f"not started: cannot write to {where!r}: {reason(error)}")
        return None
    finally:
        fcntl.flock(world.epoch_fd, fcntl.LOCK_UN)


def refuse(world: World, epoch: int, key: str, rank: int, why: str) -> None:
    status = Status(epoch, key, rank, -1, world.reports_fd)
    status.end(error=why)
    status.gone = True
    status.save()


def reason(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]


# Starting


def keep(world: World, order: Order) -> None:
    """Run one rank of one attempt to its end; afterwards no process of it is left."""
    epoch, key, rank, arguments, script, working_dir, environment, by_shell, stop_signal = order
    status = _claim_in_epoch(world, epoch, key, rank)
    if status is None:
        return
    try:
        directory = attempt_path(world.attempts, key)
        working_dir = directory if working_dir is None else working_dir
        try:
            if script is not None:
                arguments = [*_write_script(script_path(world.attempts, key, rank), script), *arguments]
            status.pid = _start(world, status, arguments, working_dir, world.environment | environment)
        except LaunchError as error:
            status.end(error=str(error))
        else:
            status.started_us = now_us()
            status.save()
            _watch(status, _Hints(world, working_dir, by_shell or script is not None), _Stop(stop_signal))
        status.gone = LINUX or not status.started_us
        status.save()
        if status.gone:
            _remove(script_path(world.attempts, key, rank))  # erased means erased, here too
            _remove(live_path(world.attempts, key, rank))
    finally:
        os.close(status.fd)
        os.chdir("/")


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _write_script(path: str, script: bytes) -> list[str]:
    """Put the script beside the output, for its owner only; gives what runs it."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o700)
        try:
            view = memoryview(script)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchError(f"cannot write the job's script: {reason(error)}") from None
    return [path] if script.startswith(b"#!") else ["/bin/sh", path]


def _start(
    world: World, status: Status, arguments: list[str], working_dir: str, environment: dict[str, str]
) -> int:
    outputs: list[int] = []
    try:
        for stream in ("stdout", "stderr"):
            outputs.append(_open_output(output_path(world.attempts, status.key, status.rank, stream)))
        _enter(working_dir)
        program = _find_program(
            arguments[0], environment.get("PATH", os.defpath), world.environment.get("PATH")
        )
        return _spawn(program, arguments, outputs, environment)
    finally:
        for fd in outputs:
            os.close(fd)


def _open_output(path: str) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    except OSError as error:
        raise LaunchError(f"cannot write the job's output: {reason(error)}") from None


def _enter(working_dir: str) -> None:
    try:
        os.chdir(working_dir)
    except FileNotFoundError:
        raise LaunchError(f"the working directory does not exist: {working_dir!r}") from None
    except OSError as error:
        raise LaunchError(f"cannot enter the working directory {working_dir!r}: {reason(error)}") from None
    except ValueError:
        raise LaunchError(f"no working directory can have this name: {working_dir!r}") from None


def _find_program(name: str, path: str, inherited: str | None) -> str:
    """The file that ``name`` means in the job's own PATH and working directory.

    What is said of it goes into the log, and there no value of a job's environment may be.
    """
    if "/" in name:
        return name
    candidates = [f"{directory or '.'}/{name}" for directory in path.split(":")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    for candidate in filter(os.path.isfile, candidates):
        raise LaunchError(f"permission denied: {candidate!r} is not executable")
    where = f"PATH {path}" if path in (inherited, os.defpath) else "the PATH that its environment sets"
    raise LaunchError(f"command not found: {name!r} (searched {where})")


def _spawn(program: str, arguments: list[str], outputs: list[int], environment: dict[str, str]) -> int:
    """Start the job in a session of its own; it is running its program when this returns.

    ``posix_spawn`` shares our memory until the exec (no page table is copied) and brings back its errno.
    Standard input is inherited: it is /dev/null from the zygote on.
    """
    actions = [(os.POSIX_SPAWN_DUP2, outputs[0], 1), (os.POSIX_SPAWN_DUP2, outputs[1], 2)]
    try:
        return os.posix_spawn(
            program,
            arguments,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        raise LaunchError(_why_not_spawned(program, error)) from None
    except ValueError as error:
        raise LaunchError(f"cannot start {program!r}: {error}") from None


def _why_not_spawned(program: str, error: OSError) -> str:
    if os.path.isdir(program):
        return f"permission denied: {program!r} is a directory"
    match error.errno:
        case errno.ENOENT if os.path.exists(program):
            return f"cannot start {program!r}: the interpreter that it names does not exist"
        case errno.ENOENT | errno.ENOTDIR:
            return f"command not found: {program!r}"
        case errno.EACCES:
            return f"permission denied: {program!r} is not executable"
        case errno.ENOEXEC:
            return f"cannot start {program!r}: neither a program for this machine nor a script with a #! line"
        case errno.E2BIG:
            return f"cannot start {program!r}: its arguments and environment are too long together"
        case _:
            return f"cannot start {program!r}: {reason(error)}"


# Watching


class _Hints:
    """Where to look for the reason when a job fails."""

    __slots__ = ("by_shell", "working_dir", "world")

    def __init__(self, world: World, working_dir: str, by_shell: bool) -> None:
        self.world = world
        self.working_dir = working_dir
        self.by_shell = by_shell

    def of(self, status: Status, exit_code: int) -> str:
        """What a person would want to hear beside a failing exit code; empty for most."""
        stderr = output_path(self.world.attempts, status.key, status.rank, "stderr")
        if self.by_shell and exit_code in (126, 127):
            what = "command not found" if exit_code == 127 else "not executable"
            return f"{what}: {_last_line(stderr)}".removesuffix(": ")
        for path, what in ((stderr, "its output"), (self.working_dir, "its working directory")):
            if _is_full(path):
                return f"no space left on the disk that holds {what}"
        if not os.access(self.working_dir, os.W_OK):
            return f"its working directory {self.working_dir!r} is not writable, which may be why"
        return ""


def _last_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - ERROR_CHARS_MAX))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _is_full(path: str) -> bool:
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_blocks > 0 and disk.f_bavail == 0


class _Stop:
    """The ladder of one job: those who were told got its stop signal, SIGKILL is due at ``deadline``."""

    __slots__ = ("deadline", "retry_s", "signal", "told")

    def __init__(self, stop_signal: int) -> None:
        self.signal = stop_signal
        self.deadline: float | None = None
        self.told: set[int] = set()
        self.retry_s = KILL_RETRY_S


def _watch(status: Status, hints: _Hints, stop: _Stop) -> None:
    """Until the job and every descendant is gone: reap, climb the ladder, wait for the next signal.

    While a stop is on, what outlives the main process keeps its grace: the shell dies of SIGTERM at once,
    the training below it is still writing its checkpoint.
    """
    told = False
    while not _reap(status, hints):
        if status.ended_us and not told:
            status.save()  # how it ended is known, and the rest may take its time
            told = True
        due = stop.deadline is not None and time.monotonic() >= stop.deadline
        if due or (status.ended_us and stop.deadline is None):
            kill_tree(status.pid)
            wait_s = stop.retry_s
            stop.retry_s = min(KILL_RETRY_MAX_S, stop.retry_s * 2)
        elif stop.deadline is not None:
            _ask_to_end(status, stop)
            wait_s = max(0.001, stop.deadline - time.monotonic())
        else:
            wait_s = 0.0
        if wait_s:
            signal.setitimer(signal.ITIMER_REAL, wait_s)
        if signal.sigwait(WAITED_SIGNALS) == WAKE_SIGNAL:
            stop.deadline = read_stop_order(status.fd)
    if told or stop.deadline is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reap(status: Status, hints: _Hints) -> bool:
    """Take the results of all children that ended; true when there are none left."""
    while True:
        try:
            pid, result = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False
        if pid == status.pid and not status.ended_us:
            code = os.waitstatus_to_exitcode(result)
            if code < 0:
                status.end(by_signal=-code)
            else:
                status.end(exit_code=code, error=hints.of(status, code) if code else "")


def _ask_to_end(status: Status, stop: _Stop) -> None:
    """The stop signal to every process of the tree, once; SIGCONT, so that a halted one hears it.

    Whoever comes up to us later is told too: a shell that dies of its signal may leave a child that it had
    just started. A child that stays below its parent is not: it may be saving the parent's work.
    """
    if not LINUX:
        if not stop.told:
            stop.told.add(status.pid)
            _signal(os.killpg, status.pid, stop.signal)
        return
    for child in _children(os.getpid()):
        if child not in stop.told:
            for pid in (child, *descendants(child)):
                stop.told.add(pid)
                _signal(os.kill, pid, stop.signal)
                _signal(os.kill, pid, signal.SIGCONT)


def read_stop_order(fd: int) -> float | None:
    """When SIGKILL is due, on the monotonic clock, which all processes of a machine share."""
    order = os.pread(fd, STOP_ORDER_BYTES, STATUS_BYTES).split()
    return int(order[0]) / 1e6 if order else None


def write_stop_order(fd: int, grace_s: int) -> None:
    """Bring the end nearer; an order with a longer grace than an earlier one changes nothing."""
    due = time.monotonic() + grace_s
    earlier = read_stop_order(fd)
    if earlier is None or due < earlier:
        order = str(int(due * 1e6)).encode()
        os.pwrite(fd, order.ljust(STOP_ORDER_BYTES - 1) + b"\n", STATUS_BYTES)


def kill_tree(main: int) -> None:
    """SIGKILL every process below us and their groups too: a group dies at one instant, so one that forks
    without end cannot run away from a list of process ids."""
    if not LINUX:
        _signal(os.killpg, main, signal.SIGKILL)
        return
    ours = os.getpgrp()
    pids = descendants(os.getpid())
    for group in {group for pid in pids if (group := _group(pid)) not in (0, 1, ours)}:
        _signal(os.killpg, group, signal.SIGKILL)
    for pid in pids:
        _signal(os.kill, pid, signal.SIGKILL)


def _signal(send: Callable[[int, int], None], target: int, number: int) -> None:
    with contextlib.suppress(OSError):
        send(target, number)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def descendants(root: int) -> list[int]:
    """All processes below this one, parents before their children."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    if not HAS_CHILDREN_FILES:
        return _children_by_parent(pid)
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass
    return children


def _children_by_parent(parent: int) -> list[int]:
    """For a kernel without lists of children: ask every process for its parent."""
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    children.append(int(name))
        except OSError:
            continue
    return children


# The keeper's life


def become_keeper() -> None:
    """Leave the zygote's session and become the one that inherits whatever the job abandons."""
    os.setsid()
    # A blocked signal that would be ignored may be dropped; one with a handler is kept for sigwait.
    signal.signal(signal.SIGCHLD, _nothing)
    if _prctl is not None:
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _prctl(PR_SET_NAME, b"horizon-keeper", 0, 0, 0)


def _nothing(number: int, frame: object) -> None:
    pass


def live(world: World, first: bytes, orders_fd: int, idle_fd: int) -> None:
    """Keep one job after the other: the first, then what the zygote sends, until it closes the pipe."""
    become_keeper()
    name = os.getpid().to_bytes(4, "little")
    frame: bytes | None = first
    while frame is not None:
        keep(world, marshal.loads(frame)[1])
        try:
            os.write(idle_fd, name)
        except OSError:
            return
        header = _read_exactly(orders_fd, FRAME_HEADER_BYTES)
        frame = header and _read_exactly(orders_fd, int.from_bytes(header, "little"))


def _read_exactly(fd: int, count: int) -> bytes | None:
    parts = b""
    while len(parts) < count:
        part = os.read(fd, count - len(parts))
        if not part:
            return None
        parts += part
    return parts
