"""Makes answers: from what the core knows to bytes, without a detour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from horizon.api.times import rfc3339, rfc3339_or_null
from horizon.api.wire import EventAnswer, JobAnswer, Resources
from horizon.core.blobs import decode_environment
from horizon.core.events import Recorded
from horizon.core.model import JobSpec
from horizon.core.state import Job

T = TypeVar("T")

encode: Final = msgspec.json.Encoder().encode

SLICE: Final = 100
"""Rows of a long list that are made before others get their turn; about a millisecond."""

_JSON: Final = CIMultiDict({"Content-Type": "application/json"})


def json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=_JSON)


def etag(version: int) -> str:
    return f'"{version}"'


# --- jobs ---------------------------------------------------------------------------------------------


class Hidden(NamedTuple):
    """What a job was given that the log does not hold; None for what has been erased."""

    environment: dict[str, str] | None
    script: str | None


NOTHING_HIDDEN: Final = Hidden({}, None)


def hidden_digests(spec: JobSpec) -> list[str]:
    return [digest for digest in (spec.environment_digest, spec.script_digest) if digest]


def hidden_in(spec: JobSpec, blobs: dict[str, bytes]) -> Hidden:
    """The environment and the script of a job, out of these blobs."""
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


def job_answer(job: Job, hidden: Hidden = NOTHING_HIDDEN, reason: str | None = None) -> bytes:
    """A job as JSON. ``reason`` is the explainer's; without one it is what the log says."""
    spec = job.spec
    allocation = job.allocation
    memory_gb = gigabytes(spec.memory_mib)
    return encode(
        JobAnswer(
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
            memory_gb,
            spec.nodes or None,
            spec.constraints,
            spec.exclusive,
            job.priority,
            job.time_limit_s or None,
            spec.grace_period_s,
            spec.max_retries,
            spec.preemptible,
            rfc3339_or_null(spec.begin_at_us),
            job.held,
            spec.labels,
            spec.comment,
            Resources(spec.gpu_count, spec.gpu_type, spec.cpu_cores, memory_gb),
            rfc3339(job.created_at_us),
            rfc3339_or_null(job.scheduled_at_us),
            rfc3339_or_null(job.started_at_us),
            rfc3339_or_null(job.completed_at_us),
            job.exit_code,
            job.signal,
            job.attempt,
            job.retries_used,
            [placement.node for placement in allocation] if allocation else [],
            [gpu_id for placement in allocation for gpu_id in placement.gpu_ids] if allocation else [],
            job.allocation_state,
            job.version,
        )
    )


def gigabytes(mebibytes: int) -> float:
    """Whole gigabytes are written without a point."""
    return mebibytes / 1024 if mebibytes & 1023 else mebibytes >> 10


# --- events -------------------------------------------------------------------------------------------


def event_answer(recorded: Recorded) -> bytes:
    """An event in its envelope; its payload goes out as the very bytes that were hashed."""
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
