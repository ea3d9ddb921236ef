"""Reads logs of real clusters, to be simulated: who asked for how much, when, and how long it really ran.

Two formats are known, each also gzipped, and told apart by what is in the file:

* **SWF**, the standard workload format of the Parallel Workloads Archive: lines of 18 numbers after a header
  of lines that start with ``;``. Processors become devices, the user is the user, the group the account.
* **GPU csv**, one row a job under ``timestamp,duration,num_gpus,gpu_time,cluster``: the cluster is the
  account.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from horizon.core import limits

SECONDS_MAX: Final = 100 * 366 * 86_400
"""No trace is longer, and no moment in one is later after 1970 or after its beginning."""
UNKNOWN: Final = "unknown"
"""The user or the account of a job whose trace does not say."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_SWF_COLUMNS: Final = 18
_CSV_HEADER: Final = ["timestamp", "duration", "num_gpus", "gpu_time", "cluster"]


class TraceError(Exception):
    """A trace cannot be used. One sentence: the file, the line if it is one line's fault, what is wrong."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        super().__init__(f"{path}:{line}: {what}" if line else f"{path}: {what}")


class TraceJob(Struct, frozen=True, gc=False):
    """One job as it was asked for and as it ran."""

    name: str
    """What the trace calls it: its number in an SWF log, its line in a csv file."""
    submit_s: int
    """Seconds from the zero of its trace."""
    run_s: int
    """What it really took, at least 1 and at most the estimate."""
    gpus: int
    estimate_s: int
    """What its user said that it would take, after which it would have been stopped."""
    user: str
    account: str


class Trace(Struct, frozen=True):
    """The jobs of a trace that can be simulated, by submission."""

    name: str
    digest: str
    """SHA-256 of the file as it is, in hex."""
    jobs: tuple[TraceJob, ...]
    dropped: dict[str, int]
    """Jobs that cannot be simulated, by why."""
    estimated: bool
    """Whether users' estimates are in it; else an estimate is the true run time."""
    zero_s: int | None
    """The moment its times count from, in seconds since 1970; None when it does not say."""

    def part(
        self, since_s: int | None = None, until_s: int | None = None, jobs_max: int | None = None
    ) -> Trace:
        """The jobs submitted in [since, until), in seconds since 1970, and of those the first ``jobs_max``.

        ``ValueError`` when there is a bound but no moment that the trace's times count from.
        """
        jobs = self.jobs
        if since_s is not None or until_s is not None:
            if self.zero_s is None:
                raise ValueError("it does not say when it was taken (an SWF log does by UnixStartTime)")
            first_s = 0 if since_s is None else since_s - self.zero_s
            end_s = SECONDS_MAX if until_s is None else until_s - self.zero_s
            jobs = tuple(job for job in jobs if first_s <= job.submit_s < end_s)
        return replace(self, jobs=jobs[:jobs_max])


def load(path: Path) -> Trace:
    """Read a trace. ``TraceError`` when it is none or has a bad line, ``OSError`` when it cannot be read."""
    raw = path.read_bytes()
    lines = _text_of(path, raw).splitlines()
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise TraceError(path, 0, "is empty")
    read = _read_csv if "," in first and not first.startswith(";") else _read_swf
    trace = read(_Source(path, hashlib.sha256(raw).hexdigest(), lines))
    if not trace.jobs:
        why = "".join(f"; {count:,} dropped: {reason}" for reason, count in trace.dropped.items())
        raise TraceError(path, 0, "has no job that can be simulated" + why)
    return trace


def _text_of(path: Path, raw: bytes) -> str:
    if raw.startswith(_GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise TraceError(path, 0, f"is a damaged gzip file: {error}") from None
    # Headers name people and places in whatever encoding; what is read as data is checked field by field.
    return raw.decode("utf-8", "replace")


class _Source(Struct):
    """The lines of a file, and where the reader is, so that every error can name its line."""

    path: Path
    digest: str
    lines: list[str]
    line: int = 0

    def __iter__(self) -> Iterator[str]:
        for line, text in enumerate(self.lines, start=1):
            self.line = line
            yield text

    def fault(self, what: str) -> TraceError:
        return TraceError(self.path, self.line, what)

    def whole(self, column: str, text: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        try:
            number = int(text)
        except ValueError:
            raise self.fault(f"{column} must be a whole number, not {text[:40]!r}") from None
        if not least <= number <= most:
            raise self.fault(f"{column} must be {least} to {most}, not {number}")
        return number

    def trace(
        self, jobs: list[TraceJob], dropped: Counter[str], estimated: bool, zero_s: int | None
    ) -> Trace:
        jobs.sort(key=lambda job: job.submit_s)  # stable: of one second, in the order of the file
        return Trace(self.path.name, self.digest, tuple(jobs), dict(dropped), estimated, zero_s)


# --- the standard workload format ---------------------------------------------------------------------


def _read_swf(source: _Source) -> Trace:
    jobs: list[TraceJob] = []
    dropped: Counter[str] = Counter()
    zero_s: int | None = None
    for text in source:
        if text.startswith(";"):
            name, _, value = text[1:].partition(":")
            if name.strip() == "UnixStartTime":
                zero_s = source.whole("UnixStartTime", value.strip(), 0, SECONDS_MAX)
        elif fields := text.split():
            job = _swf_job(source, fields)
            if isinstance(job, TraceJob):
                jobs.append(job)
            else:
                dropped[job] += 1
    return source.trace(jobs, dropped, True, zero_s)


def _swf_job(source: _Source, fields: list[str]) -> TraceJob | str:
    """The job of a line, or why it cannot be simulated. A number below 0 stands for what is not known."""
    if len(fields) != _SWF_COLUMNS:
        raise source.fault(f"must have {_SWF_COLUMNS} columns, not {len(fields)}")
    whole, longest_s = source.whole, limits.TIME_LIMIT_S_MAX
    number = whole("the job number (column 1)", fields[0], 0, 1 << 40)
    submit_s = whole("the submit time (column 2)", fields[1], 0, SECONDS_MAX)
    run_s = whole("the run time (column 4)", fields[3], -1, longest_s)
    gpus = whole("requested processors (column 8)", fields[7], -1, limits.GPU_COUNT_MAX)
    estimate_s = whole("the requested time (column 9)", fields[8], -1, longest_s)
    user = whole("the user (column 12)", fields[11], -1, 1 << 40)
    group = whole("the group (column 13)", fields[12], -1, 1 << 40)
    if run_s <= 0:
        return "no run time"
    if gpus <= 0:
        return "no requested processors"
    if estimate_s <= 0:
        return "no requested time"
    return TraceJob(
        str(number), submit_s, min(run_s, estimate_s), gpus, estimate_s, _swf_name(user), _swf_name(group)
    )


def _swf_name(number: int) -> str:
    return UNKNOWN if number < 0 else str(number)


# --- GPU csv ------------------------------------------------------------------------------------------


def _read_csv(source: _Source) -> Trace:
    jobs: list[TraceJob] = []
    dropped: Counter[str] = Counter()
    lines = iter(source)
    header = next(text for text in lines if text.strip())
    if [name.strip().lower() for name in header.split(",")] != _CSV_HEADER:
        raise source.fault(f"is neither an SWF log nor a csv file with the header {','.join(_CSV_HEADER)}")
    for text in lines:
        if text.strip():
            job = _csv_job(source, text.split(","))
            if job.run_s:
                jobs.append(job)
            else:
                dropped["less than a second of run time"] += 1
    return source.trace(jobs, dropped, False, 0)


def _csv_job(source: _Source, fields: list[str]) -> TraceJob:
    """The job of a row; how long it ran is cut to whole seconds."""
    if len(fields) != len(_CSV_HEADER):
        raise source.fault(f"must have {len(_CSV_HEADER)} columns, not {len(fields)}")
    timestamp, duration, num_gpus, _, cluster = (field.strip() for field in fields)
    run_s = source.whole("duration", _floored(source, duration), 0, limits.TIME_LIMIT_S_MAX)
    gpus = source.whole("num_gpus", num_gpus, 1, limits.GPU_COUNT_MAX)
    fits = 1 <= len(cluster) <= limits.NAME_LENGTH_MAX
    if not fits or "/" in cluster or not cluster.isprintable():
        raise source.fault(f"cluster must be a name of 1 to {limits.NAME_LENGTH_MAX} characters without /")
    submit_s = _csv_moment(source, timestamp)
    return TraceJob(str(source.line), submit_s, run_s, gpus, run_s, UNKNOWN, cluster)


def _floored(source: _Source, text: str) -> str:
    whole, point, fraction = text.partition(".")
    if point and not fraction.isdecimal():
        raise source.fault(f"duration must be seconds, not {text[:40]!r}")
    return whole


def _csv_moment(source: _Source, text: str) -> int:
    """Seconds since 1970. A moment without a zone is taken as one of UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"timestamp must be such as 2017-10-03 06:13:03, not {text[:40]!r}"
        raise source.fault(message) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return source.whole("timestamp", str(int(moment.timestamp())), 0, SECONDS_MAX)
