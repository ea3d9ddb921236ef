"""Makes answers: from what the core knows to bytes, without a detour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDict

from horizon.api.times import rfc3339, rfc3339_or_null
from horizon.api.wire import DependencyAnswer, EventAnswer, JobAnswer, Resources, TaskCounts
from horizon.core.blobs import decode_environment
from horizon.core.events import Recorded
from horizon.core.model import JobSpec, JobState
from horizon.core.sentences import sentence
from horizon.core.state import Job, State
from horizon.service.inbox import Reply

T = TypeVar("T")

encode: Final = msgspec.json.Encoder().encode

SLICE: Final = 100
"""Rows of a long list that are made before others get their turn; about a millisecond."""

_JSON: Final = CIMultiDict({"Content-Type": "application/json"})


def json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=_JSON)


def answered(
    reply: Reply, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> web.Response:
    """What the engine answered to a request for a change, or another body in its place."""
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    if reply.replayed:
        all_headers["Idempotency-Replayed"] = "true"
    body = reply.body if body is None else body
    return web.Response(body=body, status=reply.status, headers=all_headers)


class Stamp(Struct):
    """What the headers of an answer repeat of its body."""

    id: str = ""
    version: int = 0


stamp: Final = msgspec.json.Decoder(Stamp).decode


def etag(version: int) -> str:
    return f'"{version}"'


# --- jobs ---------------------------------------------------------------------------------------------


class Hidden(NamedTuple):
    """What a job was given that the log does not hold; None for what has been erased."""

    environment: dict[str, str] | None
    script: str | None


NOTHING_HIDDEN: Final = Hidden({}, None)


def is_erased(job: Job, state: State) -> bool:
    """Whether what it was given has been erased: it, or with its array."""
    return job.erased or (job.array > 0 and state.arrays[job.array].job.erased)


def hidden_in(job: Job, state: State, blobs: dict[str, bytes]) -> Hidden:
    """The environment and the script of a job, out of these blobs."""
    spec = job.spec
    if is_erased(job, state):
        blobs = {}  # another job may have filed the same script
    if spec.environment_digest is None and spec.script_digest is None:
        return NOTHING_HIDDEN
    environment: dict[str, str] | None = {}
    if spec.environment_digest is not None:
        blob = blobs.get(spec.environment_digest)
        environment = None if blob is None else decode_environment(blob)
    script = blobs.get(spec.script_digest) if spec.script_digest is not None else None
    return Hidden(environment, None if script is None else script.decode())


def reveal(body: bytes, hidden: Hidden) -> bytes:
    """A job's answer that was made with nothing hidden, with what is hidden put in.

    Answers are stored under idempotency keys, and what is stored must hold no secret: so it goes in on the
    way out. A quote inside a JSON text is escaped, so neither of the two can be found in one.
    """
    if hidden == NOTHING_HIDDEN:
        return body
    body = body.replace(b'"script":null', b'"script":' + encode(hidden.script), 1)
    return body.replace(b'"environment":{}', b'"environment":' + encode(hidden.environment), 1)


def job_answer(
    job: Job,
    state: State,
    hidden: Hidden = NOTHING_HIDDEN,
    reason: str | None = None,
    tasks: Mapping[JobState, int] | None = None,
) -> bytes:
    """A job as JSON, among those of the state.

    ``reason`` is the explainer's; without one it is what the log says. ``tasks`` says how many of an array's
    are in each state; without it the state does.
    """
    # In two halves: a call with so many arguments would first gather them in a list, one by one.
    return encode(JobAnswer(*_asked(job, state, hidden, reason, tasks) + _became(job, state)))


def _asked(
    job: Job, state: State, hidden: Hidden, reason: str | None, tasks: Mapping[JobState, int] | None
) -> tuple[Any, ...]:
    """The fields of an answer down to ``tasks``: which job it is, and what was asked for."""
    spec = job.spec
    array = counts = None
    if is_array(job):
        array, counts = str(spec.array), _task_counts(tasks or counts_of(job, state))
    return (
        job.id,
        job.number,
        job.state,
        reason or job.reason or None,
        spec.user_id,
        spec.account,
        spec.job_name,
        spec.command or None,
        hidden.script,
        spec.working_dir,
        hidden.environment,
        spec.gpu_count,
        spec.gpu_type,
        gigabytes(spec.gpu_memory_mib),
        spec.cpu_cores,
        gigabytes(spec.memory_mib),
        spec.nodes or None,
        spec.constraints,
        spec.exclusive,
        job.priority,
        job.time_limit_s or None,
        spec.grace_period_s,
        spec.stop_signal,
        spec.max_retries,
        spec.preemptible,
        _dependencies(spec, state) if spec.depends_on else [],
        array,
        job.array or None,
        job.index if job.array else None,
        counts,
    )


def _became(job: Job, state: State) -> tuple[Any, ...]:
    """The fields from ``begin_at`` on: mostly what became of it."""
    spec = job.spec
    node_ids: list[str] = []
    gpu_ids: list[str] = []
    for placement in job.allocation:
        node_ids.append(placement.node)
        gpu_ids += placement.gpu_ids
    return (
        rfc3339_or_null(spec.begin_at_us),
        job.held,
        spec.labels,
        spec.comment,
        Resources(spec.gpu_count, spec.gpu_type, spec.cpu_cores, gigabytes(spec.memory_mib)),
        rfc3339(job.created_at_us),
        rfc3339_or_null(job.scheduled_at_us),
        rfc3339_or_null(job.started_at_us),
        rfc3339_or_null(job.completed_at_us),
        job.exit_code,
        job.signal,
        job.attempt,
        job.retries_used,
        job.preempted,
        job.lost_gpu_us / 1e6,
        rfc3339_or_null(job.predicted_us),
        node_ids,
        gpu_ids,
        job.allocation_state,
        is_erased(job, state),
        job.version,
    )


def is_array(job: Job) -> bool:
    """Whether it stands for the tasks that follow it, and is none of them."""
    return job.spec.array is not None and not job.array


def counts_of(array: Job, state: State) -> Mapping[JobState, int]:
    """Tasks of an array by state; of one that is not in the state yet, all wait."""
    known = state.arrays.get(array.number)
    if known is not None:
        return known.counts
    assert array.spec.array is not None
    return {JobState.QUEUED: array.spec.array.tasks}


def _task_counts(counts: Mapping[JobState, int]) -> TaskCounts:
    return TaskCounts(sum(counts.values()), *(counts.get(one, 0) for one in JobState))


def _dependencies(spec: JobSpec, state: State) -> list[DependencyAnswer]:
    return [DependencyAnswer(one.job_id, state.jobs[one.job_id].number, one.kind) for one in spec.depends_on]


def gigabytes(mebibytes: int) -> float:
    """Whole gigabytes are written without a point."""
    return mebibytes / 1024 if mebibytes & 1023 else mebibytes >> 10


# --- events -------------------------------------------------------------------------------------------


def event_answer(recorded: Recorded, state: State) -> bytes:
    """An event in its envelope; its payload goes out as the very bytes that were hashed.

    ``state`` is that at the event, or any later one.
    """
    return encode(
        EventAnswer(
            recorded.position,
            rfc3339(recorded.recorded_at_us),
            recorded.epoch,
            recorded.type,
            recorded.schema_version,
            recorded.stream,
            recorded.stream_version,
            recorded.actor,
            sentence(state, recorded),
            _uuid(recorded.command_id),
            _uuid(recorded.correlation_id),
            recorded.causation,
            recorded.hash.hex(),
            msgspec.Raw(recorded.payload),
        )
    )


def _uuid(id: bytes) -> str:
    digits = id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


# --- lists --------------------------------------------------------------------------------------------


async def slices(rows: Sequence[T], size: int = SLICE) -> AsyncIterator[Sequence[T]]:
    """The rows in slices, with a turn for everybody else between two of them."""
    for start in range(0, len(rows), size):
        if start:
            await asyncio.sleep(0)
        yield rows[start : start + size]


async def encoded(rows: Sequence[T], encode_one: Callable[[T], bytes]) -> list[bytes]:
    """The rows as JSON, made in slices."""
    pieces: list[bytes] = []
    async for some in slices(rows):
        pieces.extend(map(encode_one, some))
    return pieces


def page(name: str, rows: Iterable[bytes], **more: Any) -> web.Response:
    """``{"<name>": [rows], ...more}``, from rows that are JSON already."""
    tail = b"".join(b',"%b":%b' % (key.encode(), encode(value)) for key, value in more.items())
    return json(b'{"%b":[%b]%b}' % (name.encode(), b",".join(rows), tail))
