"""From what a client wrote to what a job is: ``Submission`` -> ``JobSpec``, and the secrets beside it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from horizon.api import arrays, times, wire
from horizon.api.faults import clipped, pointer
from horizon.api.problems import Fault, Problem, invalid
from horizon.core import limits
from horizon.core.blobs import digest_of, encode_environment
from horizon.core.model import Array, Dependency, DependencyKind, JobSpec, Priority, StopSignal
from horizon.core.state import Job

_PRIORITIES: Final = {priority.value: priority for priority in Priority}
_SIGNALS: Final = {signal.value: signal for signal in StopSignal}
_KINDS: Final = {kind.value: kind for kind in DependencyKind}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SALT_BYTES: Final = 16


class Secrets:
    """The blobs of one request. Equal environments and scripts within it are one blob."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self._digests: dict[tuple[tuple[str, str], ...], str] = {}

    def environment(self, values: dict[str, str]) -> str:
        """The digest of these values, filed."""
        key = tuple(sorted(values.items()))
        digest = self._digests.get(key)
        if digest is None:
            digest = self._digests[key] = self._file(encode_environment(values, os.urandom(_SALT_BYTES)))
        return digest

    def script(self, text: str) -> str:
        return self._file(text.encode())

    def _file(self, data: bytes) -> str:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest


def spec_of(job: wire.Submission, secrets: Secrets, find_job: Callable[[str], Job], at: str = "") -> JobSpec:
    """The job that was asked for. ``at`` is the pointer to it. Raises ``Problem`` naming every fault.

    ``find_job`` gives the job of a name, or raises ``Problem``.
    """
    faults = list(_faults(job, at))
    depends_on = _dependencies(job.depends_on, find_job, at + "/depends_on", faults) if job.depends_on else ()
    array = _array(job.array, at + "/array", faults) if job.array else None
    if faults:
        raise invalid(faults)
    environment, script, command = job.environment, job.script, job.command
    return JobSpec(
        user_id=job.user_id,
        command=tuple(command) if isinstance(command, list) else command or "",
        gpu_count=1 if not isinstance(job.gpu_count, int) else job.gpu_count,
        priority=_PRIORITIES[job.priority.title()] if job.priority else Priority.NORMAL,
        account=job.account or limits.DEFAULT_ACCOUNT,
        job_name=job.job_name or "",
        gpu_type=job.gpu_type or None,
        gpu_memory_mib=mebibytes(job.gpu_memory_gb) if job.gpu_memory_gb else 0,
        cpu_cores=job.cpu_cores or 0,
        memory_mib=mebibytes(job.memory_gb) if job.memory_gb else 0,
        nodes=job.nodes or 0,
        exclusive=job.exclusive or False,
        time_limit_s=job.time_limit_s or 0,
        grace_period_s=(
            job.grace_period_s if isinstance(job.grace_period_s, int) else limits.DEFAULT_GRACE_PERIOD_S
        ),
        max_retries=job.max_retries or 0,
        preemptible=job.preemptible or False,
        hold=job.hold or False,
        begin_at_us=times.microseconds(job.begin_at) if job.begin_at else 0,
        constraints=job.constraints or {},
        labels=job.labels or {},
        comment=job.comment or "",
        working_dir=job.working_dir or None,
        environment_names=tuple(sorted(environment)) if environment else (),
        environment_digest=secrets.environment(environment) if environment else None,
        script_digest=secrets.script(script) if script else None,
        stop_signal=_SIGNALS[job.stop_signal.upper()] if job.stop_signal else StopSignal.SIGTERM,
        depends_on=depends_on,
        array=array,
    )


def mebibytes(gigabytes: float) -> int:
    """Rounded up: a job gets at least what it asks for."""
    return math.ceil(gigabytes * 1024)


def priority_of(text: str, at: str) -> Priority:
    priority = _PRIORITIES.get(text.title())
    if priority is None:
        raise invalid([_no_priority(text, at)])
    return priority


def _no_priority(text: str, at: str) -> Fault:
    return _not_among("priority", text, _PRIORITIES, at)


def _not_among(what: str, text: str, allowed: Iterable[str], at: str) -> Fault:
    return Fault(f"there is no {what} {clipped(text)!r}; there are {', '.join(allowed)}", at)


# --- arrays and dependencies --------------------------------------------------------------------------


def _array(text: str, at: str, faults: list[Fault]) -> Array | None:
    try:
        return arrays.parse(text)
    except ValueError as error:
        faults.append(Fault(str(error), at))
        return None


def _dependencies(
    asked: list[wire.DependencyAsked | str],
    find_job: Callable[[str], Job],
    at: str,
    faults: list[Fault],
) -> tuple[Dependency, ...]:
    """Each once, by the job's id, whatever it was called."""
    found: dict[Dependency, None] = {}
    for index, one in enumerate(asked):
        where = f"{at}/{index}"
        if isinstance(one, str):
            kind, colon, name = one.partition(":")
            if not colon:
                faults.append(Fault(f"{clipped(one)!r} is no KIND:JOB such as after_ok:12", where))
                continue
        else:
            kind, name = one.kind or DependencyKind.AFTER_OK, str(one.job)
        if kind not in _KINDS:
            faults.append(_not_among("kind of dependency", kind, _KINDS, where))
            continue
        try:
            found[Dependency(find_job(name).id, _KINDS[kind])] = None
        except Problem as problem:
            faults.append(Fault(problem.answer.detail, where))
    return tuple(found)


# --- what msgspec cannot check ------------------------------------------------------------------------


def _faults(job: wire.Submission, at: str) -> Iterator[Fault]:
    if (fault := name_fault(job.user_id)) is not None:
        yield Fault(fault, at + "/user_id")
    if job.account and (fault := account_fault(job.account)) is not None:
        yield Fault(fault, at + "/account")
    if job.gpu_type and (fault := name_fault(job.gpu_type)) is not None:
        yield Fault(fault, at + "/gpu_type")
    if job.priority and job.priority.title() not in _PRIORITIES:
        yield _no_priority(job.priority, at + "/priority")
    if job.stop_signal and job.stop_signal.upper() not in _SIGNALS:
        yield _not_among("signal", job.stop_signal, _SIGNALS, at + "/stop_signal")
    if isinstance(job.command, list):
        yield from _argument_faults(job.command, at + "/command")
    elif job.command and len(job.command) * 4 > limits.COMMAND_BYTES_MAX:
        yield from _size_faults(job.command, limits.COMMAND_BYTES_MAX, at + "/command")
    if job.script:
        if not job.script.startswith("#!"):
            yield Fault("must begin with #!, so that it says what runs it", at + "/script")
        yield from _size_faults(job.script, limits.SCRIPT_BYTES_MAX, at + "/script")
    if job.working_dir and not job.working_dir.startswith("/"):
        yield Fault("must be an absolute path", at + "/working_dir")
    if job.environment:
        yield from _environment_faults(job.environment, at + "/environment")
    if job.begin_at and not 0 < times.microseconds(job.begin_at) <= times.LAST_US:
        yield Fault(times.OUT_OF_RANGE, at + "/begin_at")


@lru_cache(maxsize=4_096)
def name_fault(name: str) -> str | None:
    """What is wrong with a user, a segment of an account, a GPU type; None when nothing is."""
    if "/" in name:
        return "must not have a / in it"
    if not name.isprintable() and _CONTROL.search(name):
        return "must not have control characters in it"
    if name in (".", ".."):
        return f"must not be {name!r}: it could not be named in a path"
    return None


@lru_cache(maxsize=4_096)
def account_fault(path: str) -> str | None:
    """What is wrong with an account's path; None when nothing is."""
    segments = path.split("/")
    if len(segments) > limits.ACCOUNT_DEPTH_MAX:
        return f"has {len(segments)} segments; there may be {limits.ACCOUNT_DEPTH_MAX}"
    for segment in segments:
        if not segment:
            return "has an empty segment; write research/nlp, without / at the ends"
        if len(segment) > limits.NAME_LENGTH_MAX:
            return f"has a segment of more than {limits.NAME_LENGTH_MAX} characters"
        if (fault := name_fault(segment)) is not None:
            return fault
    return None


def _argument_faults(arguments: list[str], at: str) -> Iterator[Fault]:
    if arguments and not arguments[0]:
        yield Fault("must name a program", at + "/0")
    size = sum(len(argument.encode()) + 1 for argument in arguments)
    if size > limits.COMMAND_BYTES_MAX:
        yield _too_big(size, limits.COMMAND_BYTES_MAX, at)


def _size_faults(text: str, bytes_max: int, at: str) -> Iterator[Fault]:
    size = len(text.encode())
    if size > bytes_max:
        yield _too_big(size, bytes_max, at)


def _environment_faults(environment: dict[str, str], at: str) -> Iterator[Fault]:
    size = 0
    for name, value in environment.items():
        if not name or "=" in name:
            # What stands behind the = was to be its value: that is not repeated.
            where = at + pointer(name.partition("=")[0])
            yield Fault("a variable's name must not be empty and must not have a = in it", where)
        size += len(name.encode()) + len(value.encode())
    if size > limits.ENVIRONMENT_BYTES_MAX:
        yield _too_big(size, limits.ENVIRONMENT_BYTES_MAX, at)


def _too_big(size: int, bytes_max: int, at: str) -> Fault:
    return Fault(f"has {size:,} bytes; there may be {bytes_max:,}", at)
