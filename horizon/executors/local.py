"""Jobs as processes of this machine. Pretend nodes run here too: only their devices are pretended.

Who does what: this module keeps the books and reports; the zygote (``zygote.py``) starts keepers; a keeper
(``keeper.py``) owns one running rank, survives this process and writes the truth to
``DATA_DIR/attempts/JOB_ID.ATTEMPT/RANK.status``. What a keeper writes it also says through a named pipe, so
that nothing is polled while all is well; a slow round over the files catches what was not said.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from msgspec import structs

from horizon.core import limits
from horizon.core.commands import Report, ReportCheckpoint, ReportEnded, ReportReleased, ReportStarted
from horizon.core.model import Exit, Inventory
from horizon.executors import health, keeper, records
from horizon.executors.environment import arguments, job_environment
from horizon.executors.leftovers import Mark, kill_leftovers
from horizon.executors.link import ZygoteLink, encode_frame
from horizon.executors.port import AttemptKey, ExecutorError, Held, Launch, LogChunk
from horizon.executors.records import Record, Seen

STREAMS: Final = ("stdout", "stderr")
REPORTS_READ_BYTES: Final = 1 << 18
REPORTS_PIPE_BYTES: Final = 1 << 20
"""Some 5,000 reports may wait while the event loop is busy; one more and it is found by the round."""
ROUND_S: Final = 2.0
ROUND_SLICE: Final = 100
ROUND_SLICE_PAUSE_S: Final = 0.1
"""With many attempts a round takes longer: about 1.5 ms of looking in every 100 ms."""
STOP_AGAIN_AFTER_S: Final = 5.0
RESEND_AFTER_S: Final = 1.0
LEFTOVERS_TRY_S: Final = 5.0
ORPHANS_WAIT_S: Final = 10.0
OPEN_WAIT_S: Final = 10.0
FOLLOW_POLL_S: Final = 0.05
FOLLOW_BYTES: Final = 1 << 18
RECENT_MAX: Final = 16_384
ADOPT_SLICE: Final = 64
F_SETPIPE_SZ: Final = 1031
_SAFE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\.[0-9]{1,18}")


@dataclass(slots=True)
class _Rank:
    """What is known of one process group of an attempt."""

    frame: bytes | None = None
    """Its launch order, kept until a keeper has taken it."""
    started: bool = False
    exit: Exit | None = None
    ended_us: int = 0
    gone: bool = False
    lost: bool = False
    empty_looks: int = 0
    checkpoint_ns: int = 0
    """The touch of its checkpoint file that was reported last."""


@dataclass(slots=True)
class _Attempt:
    """What is known of one attempt, and what of it was reported."""

    key: AttemptKey
    ranks: list[_Rank]
    grace_period_s: int = limits.DEFAULT_GRACE_PERIOD_S
    """For the ranks of a gang that is stopped because one of them failed."""
    silent: bool = False
    """An orphan: nobody asked for it, so nobody is told."""
    started_reported: bool = False
    ended_reported: bool = False
    stop_grace_s: int | None = None
    stop_again_at: float = 0.0
    launched_at: float = 0.0
    mark: int | None = None
    """What the link reaches when the zygote has had the launch; asked for when the launch is overdue."""

    @property
    def gone(self) -> bool:
        return all(rank.gone for rank in self.ranks)


class LocalExecutor:
    """The ``Executor`` of this machine, for the nodes of ``inventories``; its files are below ``data_dir``.

    ``open`` comes first, then ``adopt``, then everything else, all on one event loop.
    """

    def __init__(self, data_dir: Path, inventories: tuple[Inventory, ...]) -> None:
        self._attempts_dir = str(data_dir.resolve() / "attempts")
        self._failed_devices_file = data_dir.resolve() / health.FAILED_DEVICES_FILE
        self._inventories = inventories
        self._attempts: dict[str, _Attempt] = {}
        self._recent: dict[str, None] = {}
        """Attempts that are over and reported: launching or stopping them again does nothing."""
        self._lost: dict[Mark, tuple[_Attempt, int, Record | None]] = {}
        self._elsewhere: set[str] = set()
        """Attempts that may run under another executor's eyes."""
        self._orphans: set[str] = set()
        self._orphans_are_gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: list[health.Watch] = []
        self._partial = b""
        self._reports_fd = -1
        self._link = ZygoteLink(self._attempts_dir, self._send_everything_again, self._fail_unclaimed)

    # Opening and closing

    async def open(self, log_id: str, epoch: int, report: Callable[[Report], None]) -> tuple[Inventory, ...]:
        """Raises ``ExecutorError`` when the data directory cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._report = report
        self._epoch = epoch
        try:
            _make_directories(self._attempts_dir)
            _check_log(f"{self._attempts_dir}/log", log_id)
            self._rebooted = await _raise_epoch(f"{self._attempts_dir}/epoch", epoch)
            self._reports_fd = _open_reports(f"{self._attempts_dir}/reports")
            self._link.start()
        except OSError as error:
            await self.close()
            where = error.filename or self._attempts_dir
            raise ExecutorError(f"cannot run jobs with {where!r}: {keeper.reason(error)}") from None
        self._loop.add_reader(self._reports_fd, self._read_reports)
        self._spawn(self._make_rounds())
        return self._inventories

    async def close(self) -> None:
        """Idempotent; ``open`` may follow. Running jobs go on, and whoever opens next adopts them."""
        self._stop_listening()
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()
        self._attempts.clear()
        self._recent.clear()
        self._elsewhere.clear()
        self._lost.clear()
        self._partial = b""

    def _stop_listening(self) -> None:
        for watch in self._watches:
            watch.stop()
        self._watches.clear()
        if self._reports_fd >= 0:
            self._loop.remove_reader(self._reports_fd)
            os.close(self._reports_fd)
            self._reports_fd = -1

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Launching and stopping

    def launch(self, launch: Launch) -> None:
        """O(ranks); the order is with the kernel when the event loop has gone round once."""
        key = str(launch.key)
        if key in self._attempts or key in self._recent:
            return
        assert _SAFE_KEY.fullmatch(key), f"an attempt that is no file name: {key!r}"
        assert launch.allocation, "an attempt is launched somewhere"
        frames = [self._frame(launch, rank) for rank in range(len(launch.allocation))]
        attempt = _Attempt(launch.key, [_Rank(frame) for frame in frames], launch.grace_period_s)
        attempt.launched_at = self._loop.time()
        self._attempts[key] = attempt
        for frame in frames:
            self._link.send(frame)

    def _frame(self, launch: Launch, rank: int) -> bytes:
        command, by_shell = arguments(launch)
        checkpoint_file = records.checkpoint_path(self._attempts_dir, str(launch.key), rank)
        return encode_frame(
            "launch",
            (
                launch.epoch,
                str(launch.key),
                rank,
                command,
                launch.script,
                launch.working_dir,
                job_environment(launch, rank, checkpoint_file),
                by_shell,
                signal.Signals[launch.stop_signal.value].value,
            ),
        )

    def stop(self, key: AttemptKey, grace_period_s: int) -> None:
        """What was never launched is barred from ever being, and reported as ended without a start."""
        text = str(key)
        if text in self._recent or text in self._elsewhere:
            return
        assert _SAFE_KEY.fullmatch(text), f"an attempt that is no file name: {text!r}"
        attempt = self._attempts.get(text)
        if attempt is None:
            ranks = max(1, records.ranks_claimed(self._attempts_dir, text))
            attempt = self._attempts[text] = _Attempt(key, [_Rank() for _ in range(ranks)])
        self._stop(attempt, grace_period_s)

    def _stop(self, attempt: _Attempt, grace_s: int) -> None:
        attempt.stop_grace_s = grace_s if attempt.stop_grace_s is None else min(grace_s, attempt.stop_grace_s)
        attempt.stop_again_at = self._loop.time() + grace_s + STOP_AGAIN_AFTER_S
        for place, rank in enumerate(attempt.ranks):
            if not rank.gone:
                self._link.send(encode_frame("stop", (self._epoch, str(attempt.key), place, grace_s)))

    # Listening

    def _read_reports(self) -> None:
        try:
            data = os.read(self._reports_fd, REPORTS_READ_BYTES)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._hear(line)

    def _hear(self, line: bytes) -> None:
        """What cannot be read is left to the round, which reads the files."""
        key, _, rest = line.partition(b" ")
        rank, _, record = rest.partition(b" ")
        attempt = self._attempts.get(key.decode("ascii", "replace"))
        if attempt is not None and rank.isdigit() and int(rank) < len(attempt.ranks):
            self._take(attempt, int(rank), records.decode(record))

    def _take(self, attempt: _Attempt, place: int, record: Record | None) -> None:
        """Learn from a record, whichever way and however often it came; report what is new."""
        if record is None:
            return
        rank = attempt.ranks[place]
        rank.frame = None
        rank.started = rank.started or record.started_us > 0
        if rank.exit is None and (ended := record.exit) is not None:
            rank.exit, rank.ended_us, rank.lost = ended, record.ended_us, record.lost
        rank.gone = rank.gone or record.gone
        self._settle(attempt)

    def _settle(self, attempt: _Attempt) -> None:
        """Report each fact once, in the order of an attempt's life."""
        ranks = attempt.ranks
        if not attempt.started_reported and all(rank.started for rank in ranks):
            attempt.started_reported = True
            self._say(attempt, ReportStarted(attempt.key.job_id, attempt.key.attempt))
        if len(ranks) > 1 and attempt.stop_grace_s is None and _first_failure(ranks) is not None:
            self._stop(attempt, attempt.grace_period_s)
        if not attempt.ended_reported and all(rank.exit is not None for rank in ranks):
            self._note_checkpoint(attempt)  # what was saved on the way out counts, so it is told first
            attempt.ended_reported = True
            self._say(attempt, _report_ended(attempt))
            if attempt.gone:
                self._forget(attempt)
        elif attempt.ended_reported and attempt.gone:
            self._say(attempt, ReportReleased(attempt.key.job_id, attempt.key.attempt))
            self._forget(attempt)

    def _note_checkpoint(self, attempt: _Attempt) -> None:
        """Report once whatever touches there have been since the last look. One system call a rank.

        A touch counts as reported before its report is durable: when the scheduler is killed between the two
        it is forgotten, which is better than to have an old touch count as a new one after the restart.
        """
        if not attempt.started_reported:
            return
        key, touched = str(attempt.key), False
        for place, rank in enumerate(attempt.ranks):
            touched_ns = records.checkpoint_ns(self._attempts_dir, key, place)
            if touched_ns and touched_ns != rank.checkpoint_ns:
                rank.checkpoint_ns, touched = touched_ns, True
                records.keep_reported_checkpoint(self._attempts_dir, key, place, touched_ns)
        if touched:
            self._say(attempt, ReportCheckpoint(attempt.key.job_id, attempt.key.attempt))

    def _say(self, attempt: _Attempt, report: Report) -> None:
        if not attempt.silent:
            self._report(report)

    def _forget(self, attempt: _Attempt) -> None:
        key = str(attempt.key)
        self._orphans.discard(key)
        if not self._orphans:
            self._orphans_are_gone.set()
        if self._attempts.pop(key, None) is not None:
            self._recent[key] = None
            if len(self._recent) > RECENT_MAX:
                del self._recent[next(iter(self._recent))]

    # Making rounds

    async def _make_rounds(self) -> None:
        """Look at every attempt now and then, a slice at a time, for what nobody could say."""
        while True:
            keys = list(self._attempts)
            slices_count = max(1, -(-len(keys) // ROUND_SLICE))
            pause_s = max(ROUND_SLICE_PAUSE_S, ROUND_S / slices_count)
            for at in range(slices_count):
                if self._is_deposed():
                    self._stop_listening()
                    return
                for key in keys[at * ROUND_SLICE : (at + 1) * ROUND_SLICE]:
                    self._look_at(key)
                await asyncio.sleep(pause_s)

    def _is_deposed(self) -> bool:
        """Whether a newer executor has this directory: then the keepers' words are for it alone."""
        return _read_epoch_file(f"{self._attempts_dir}/epoch")[0] > self._epoch

    def _look_at(self, key: str) -> None:
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        now = self._loop.time()
        if attempt.stop_grace_s is not None and now >= attempt.stop_again_at:
            self._stop(attempt, 0)
        for place, rank in enumerate(attempt.ranks):
            if not rank.gone:
                self._look_at_rank(attempt, place, records.inspect(self._attempts_dir, key, place))
        if not attempt.ended_reported:
            self._note_checkpoint(attempt)
        if any(rank.frame for rank in attempt.ranks) and now >= attempt.launched_at + RESEND_AFTER_S:
            self._doubt(attempt)

    def _doubt(self, attempt: _Attempt) -> None:
        """No keeper has taken a launch. When the zygote has not come to it yet, that is no wonder; when it
        has, a keeper was killed with the order in its hand, and saying it again is saying it once."""
        if attempt.mark is None:
            attempt.mark = self._link.mark()
        elif self._link.reached >= attempt.mark:
            self._send_again(attempt)

    def _look_at_rank(self, attempt: _Attempt, place: int, seen: Seen) -> None:
        rank = attempt.ranks[place]
        if not seen.claimed:
            return
        self._take(attempt, place, seen.record)
        if seen.alive or rank.gone:
            rank.empty_looks = 0
            return
        # Between its creation and its lock a file is empty for a moment; one that stays so has no keeper.
        rank.empty_looks += 1
        if seen.record is not None or rank.empty_looks > 1:
            self._bury(attempt, place, seen.record)

    # Keepers that died

    def _bury(self, attempt: _Attempt, place: int, record: Record | None) -> None:
        """Kill what a keeper left that was killed, confirm that it is gone, then say that it is lost."""
        mark = Mark(str(attempt.key), place, _session(record))
        if any(known[:2] == mark[:2] for known in self._lost):
            return
        self._lost[mark] = (attempt, place, record)
        if len(self._lost) == 1:
            self._spawn(self._bury_all())

    async def _bury_all(self) -> None:
        while self._lost:
            for mark in await asyncio.to_thread(kill_leftovers, tuple(self._lost), LEFTOVERS_TRY_S):
                attempt, place, record = self._lost.pop(mark)
                last = _last_word(record, self._epoch)
                records.conclude(self._attempts_dir, str(attempt.key), place, last)
                self._take(attempt, place, last)

    def _fail_unclaimed(self, why: str) -> None:
        """No zygote can be had: say so of what waits for one rather than let it wait for ever."""
        for key, attempt in list(self._attempts.items()):
            for place, rank in enumerate(attempt.ranks):
                if rank.frame and not records.inspect(self._attempts_dir, key, place).claimed:
                    self._take(attempt, place, _refusal(f"not started: {why}", self._epoch))

    def _send_everything_again(self) -> None:
        """After the zygote's death: what it had been told and not done is lost with it."""
        for attempt in list(self._attempts.values()):
            self._send_again(attempt)

    def _send_again(self, attempt: _Attempt) -> None:
        attempt.mark = None
        for rank in attempt.ranks:
            if rank.frame:
                self._link.send(rank.frame)
        if attempt.stop_grace_s is not None:
            self._stop(attempt, attempt.stop_grace_s)

    # Adopting

    async def adopt(self, held: Iterable[Held], failed: Iterable[str] = ()) -> frozenset[AttemptKey]:
        """O(held + what runs), whatever the length of the history. Orphans are dead when it returns, unless
        one withstands SIGKILL for long."""
        never_launched: set[AttemptKey] = set()
        for count, entry in enumerate(held, start=1):
            if self._adopt_one(entry):
                never_launched.add(entry.key)
            if count % ADOPT_SLICE == 0:
                await asyncio.sleep(0)
        await self._kill_orphans({str(key) for key in never_launched})
        self._watch_devices(frozenset(failed))
        return frozenset(never_launched)

    def _adopt_one(self, held: Held) -> bool:
        """True when it was never launched and may be."""
        key = str(held.key)
        attempt = _Attempt(
            held.key,
            [_Rank() for _ in range(max(1, held.ranks))],
            grace_period_s=held.grace_period_s,
            started_reported=held.started,
        )
        seen = [records.inspect(self._attempts_dir, key, place) for place in range(len(attempt.ranks))]
        claimed = any(look.claimed for look in seen)
        if held.elsewhere and not claimed:
            self._elsewhere.add(key)
            return False
        vanished = not claimed and (held.started or self._rebooted)
        if not claimed and not vanished and not held.stopping:
            return True
        self._attempts[key] = attempt
        for place, rank in enumerate(attempt.ranks):
            rank.checkpoint_ns = records.reported_checkpoint_ns(self._attempts_dir, key, place)
        for place, look in enumerate(seen):
            self._look_at_rank(attempt, place, look)
            if not look.claimed and (vanished or not held.stopping):
                # Its files are gone, or the launch of its gang was cut in the middle: it may never start.
                self._bury(attempt, place, None)
        if held.stopping and not attempt.gone:
            self._stop(attempt, held.grace_period_s)
        return False

    async def _kill_orphans(self, spared: set[str]) -> None:
        """A rank of an attempt that nobody holds. One of an attempt that was never launched can only be of
        another epoch's launch that lost its race; it is watched when it is launched again."""
        orphans: dict[str, _Attempt] = {}
        for key, place in records.list_live(self._attempts_dir):
            ours = key in spared or (key in self._attempts and key not in orphans)
            if ours or not _SAFE_KEY.fullmatch(key):
                continue
            job_id, _, number = key.rpartition(".")
            orphan = orphans.setdefault(key, _Attempt(AttemptKey(job_id, int(number)), [], silent=True))
            self._attempts[key] = orphan
            orphan.ranks += [_Rank(gone=True, exit=Exit(error="")) for _ in range(place - len(orphan.ranks))]
            orphan.ranks.append(_Rank())
        for key, orphan in orphans.items():
            self._stop(orphan, 0)
            self._look_at(key)
        self._orphans = {key for key, orphan in orphans.items() if not orphan.gone}
        self._orphans_are_gone.clear()
        if self._orphans:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._orphans_are_gone.wait(), ORPHANS_WAIT_S)

    # Devices

    def _watch_devices(self, failed: frozenset[str]) -> None:
        if not self._watches:
            sources = health.sources_for(self._inventories, self._failed_devices_file)
            self._watches = [health.Watch(source, failed, self._report) for source in sources]

    # Output

    async def read_log(self, key: AttemptKey, rank: int, stream: str, offset: int, limit: int) -> LogChunk:
        """Raises ValueError for a stream that is neither ``stdout`` nor ``stderr``."""
        return await asyncio.to_thread(_read_output, self._output_path(key, rank, stream), offset, limit)

    async def follow_log(
        self, key: AttemptKey, rank: int, stream: str, offset: int
    ) -> AsyncIterator[LogChunk]:
        """Complete to the last byte: that all is over is looked up before the last read, not after it."""
        path = self._output_path(key, rank, stream)
        while True:
            over = self._is_over(str(key), rank)
            if _size(path) > offset:
                chunk = await asyncio.to_thread(_read_output, path, offset, FOLLOW_BYTES)
                offset = chunk.next_offset
                yield chunk
            elif over:
                return
            else:
                await asyncio.sleep(FOLLOW_POLL_S)

    def _output_path(self, key: AttemptKey, rank: int, stream: str) -> str:
        if stream not in STREAMS:
            raise ValueError(f"no such stream: {stream!r}; there are stdout and stderr")
        return keeper.output_path(self._attempts_dir, str(key), rank, stream)

    def _is_over(self, key: str, rank: int) -> bool:
        attempt = self._attempts.get(key)
        if attempt is not None and rank < len(attempt.ranks):
            return attempt.ranks[rank].gone
        return not records.inspect(self._attempts_dir, key, rank).alive


# What is reported


def _first_failure(ranks: list[_Rank]) -> int | None:
    """The rank that failed first, the lowest of those that failed together."""
    failed = [place for place, rank in enumerate(ranks) if rank.exit is not None and not rank.exit.succeeded]
    return min(failed, key=lambda place: ranks[place].ended_us, default=None)


def _report_ended(attempt: _Attempt) -> ReportEnded:
    """The exit of the rank that failed first; rank 0's when none failed."""
    place = _first_failure(attempt.ranks) or 0
    decisive = attempt.ranks[place]
    assert decisive.exit is not None, "an attempt has ended when all of its ranks have"
    return ReportEnded(
        attempt.key.job_id,
        attempt.key.attempt,
        exit=decisive.exit,
        started=attempt.started_reported,
        lost=decisive.lost,
        released=attempt.gone,
        rank=place,
    )


def _last_word(record: Record | None, epoch: int) -> Record:
    """What to say for a keeper that cannot: how the job ended if that was written, else that it is lost."""
    if record is not None and record.ended_us:
        return structs.replace(record, gone=True)
    who = f"its keeper (process {record.keeper}) was killed" if record else "its keeper is gone"
    return Record(
        epoch=record.epoch if record else epoch,
        keeper=record.keeper if record else 0,
        pid=record.pid if record else 0,
        started_us=record.started_us if record else 0,
        ended_us=time.time_ns() // 1000,
        exit_code=None,
        signal=None,
        error=f"lost: {who}, or the machine was restarted, and with it went the exit status",
        gone=True,
        lost=True,
    )


def _refusal(why: str, epoch: int) -> Record:
    now_us = time.time_ns() // 1000
    return Record(epoch, 0, 0, 0, now_us, None, None, why, gone=True, lost=False)


def _session(record: Record | None) -> int:
    """The session of a job's main process, unless the machine has started anew since and numbers with it."""
    if record is None or record.started_us < int(psutil.boot_time()) * 1_000_000:
        return 0
    return record.pid


# Files


def _make_directories(attempts: str) -> None:
    for path in (attempts, f"{attempts}/live"):
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, 0o700)


def _check_log(path: str, log_id: str) -> None:
    """A data directory is for the jobs of one log."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        known = os.read(fd, keeper.STATUS_BYTES).decode("ascii", "replace")
        if not known:  # it is new, or whoever was to write it was killed, or could not: nothing ran here yet
            os.write(fd, log_id.encode())
            return
    finally:
        os.close(fd)
    if known != log_id:
        raise ExecutorError(
            "what runs here belongs to another log than the database has: choose another data directory, or "
            "point DATABASE_URL back"
        )


async def _raise_epoch(path: str, epoch: int) -> bool:
    """Write our epoch; true when the machine was restarted since the last time. Refuses to go back.

    From here on no launch of an older epoch begins: every claim holds this lock while it reads the epoch.
    """
    boot = _boot_id()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _lock(fd)
        known, last_boot = _parse_epoch(os.pread(fd, keeper.EPOCH_BYTES, 0))
        if known > epoch:
            raise ExecutorError(
                f"what runs here belongs to epoch {known} of the log, which is at {epoch}: the log went "
                "back in time, perhaps to a backup. To go on, stop those jobs and remove `attempts`"
            )
        line = f"{epoch} {boot}\n".encode().ljust(keeper.EPOCH_BYTES)
        os.pwrite(fd, line, 0)
        return last_boot not in ("", boot)
    finally:
        os.close(fd)


async def _lock(fd: int) -> None:
    deadline = time.monotonic() + OPEN_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.002)


def _parse_epoch(data: bytes) -> tuple[int, str]:
    words = data.decode("ascii", "replace").split()
    return (int(words[0]), words[1]) if len(words) == 2 and words[0].isdigit() else (0, "")


def _read_epoch_file(path: str) -> tuple[int, str]:
    try:
        return _parse_epoch(Path(path).read_bytes())
    except OSError:
        return 0, ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _open_reports(path: str) -> int:
    """Open for both directions, so that the pipe never ends while keepers come and go."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    if sys.platform == "linux":
        try:
            fcntl.fcntl(fd, F_SETPIPE_SZ, REPORTS_PIPE_BYTES)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EBUSY):
                raise
    return fd


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read_output(path: str, offset: int, limit: int) -> LogChunk:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return LogChunk(b"", offset)
    try:
        data = os.pread(fd, max(0, limit), offset)
    finally:
        os.close(fd)
    return LogChunk(data, offset + len(data))
