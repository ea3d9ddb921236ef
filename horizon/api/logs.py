"""What a job wrote: all of it, its end, or as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Final

from aiohttp import hdrs, web
from msgspec import Meta, Struct

from horizon.api import wire
from horizon.api.answers import is_array
from horizon.api.context import Context
from horizon.api.problems import Fault, invalid, not_found
from horizon.api.reading import is_gone
from horizon.core.state import Job
from horizon.executors.port import AttemptKey, LogChunk

CHUNK_BYTES: Final = 256 * 1024
TAIL_LINES_MAX: Final = 100_000
TAIL_BYTES_MAX: Final = 16 * 1024 * 1024
"""A tail looks back no further than this, however long the lines are."""
START_POLL_S: Final = 0.1
"""How often a follower looks whether the job has an attempt by now."""
GONE_POLL_S: Final = 1.0
"""How often it is seen whether the client of a silent job is still there."""


class LogQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which output, and which part of it."""

    stream: Annotated[str, Meta(extra_json_schema={"enum": ["stdout", "stderr"]})] = "stdout"
    rank: Annotated[int, Meta(ge=0, description="Which process of a gang.")] = 0
    attempt: Annotated[int, Meta(ge=1, description="The last one when not given.")] | None = None
    offset: Annotated[int, Meta(ge=0, le=wire.SIGNED_64_MAX, description="Bytes to leave out.")] = 0
    tail: Annotated[int, Meta(ge=0, le=TAIL_LINES_MAX, description="Only the last lines.")] | None = None
    follow: Annotated[bool, Meta(description="Wait for the start, go on to the end.")] = False


async def get_logs(context: Context, request: web.Request, query: LogQuery) -> web.StreamResponse:
    job = context.find_job(request.match_info["id"])
    _check(job, query)
    response = web.StreamResponse(headers={"Content-Type": "text/plain", "X-Content-Type-Options": "nosniff"})
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    task = asyncio.current_task()
    assert task is not None
    context.followers.add(task)
    try:
        # A client that went away is no fault, and nobody is left to be told.
        with suppress(ConnectionResetError):
            await _send(context, request, response, job.id, query)
    finally:
        context.followers.discard(task)
    return response


def _check(job: Job, query: LogQuery) -> None:
    if is_array(job):
        assert job.spec.array is not None
        task = f"{job.number}_{job.spec.array.index_of(0)}"
        raise not_found(
            f"job {job.number} is an array and writes nothing itself: name a task, such as {task}"
        )
    if query.stream not in ("stdout", "stderr"):
        raise invalid([Fault("there are stdout and stderr", parameter="stream")])
    if query.tail is not None and query.offset:
        raise invalid([Fault("give an offset or a tail, not both", parameter="tail")])
    attempt = query.attempt or max(job.attempt, 1)
    if attempt > job.attempt and (job.state.ended or not query.follow):
        had = f"it had {job.attempt} attempts" if job.attempt else "it was never started"
        more = f"and has ended: {job.state}" if job.state.ended else "so far; follow=1 waits for more"
        raise not_found(f"job {job.name} has no output of attempt {attempt}: {had} {more}")
    if attempt == job.attempt and query.rank >= len(job.allocation):
        raise not_found(f"attempt {attempt} of job {job.name} has no rank {query.rank}")


async def _send(
    context: Context, request: web.Request, response: web.StreamResponse, job_id: str, query: LogQuery
) -> None:
    attempt = query.attempt
    if query.follow:
        attempt = await _started(context, request, job_id, query.attempt)
        if attempt is None:
            return
    elif attempt is None:
        attempt = context.state.jobs[job_id].attempt
    key = AttemptKey(job_id, attempt)
    executor = context.engine.executor
    offset = query.offset
    if query.tail is not None:
        offset = await _tail_offset(context, key, query)
    if query.follow:
        chunks = executor.follow_log(key, query.rank, query.stream, offset)
        await _pass_on(request, response, chunks)
        return
    while (chunk := await executor.read_log(key, query.rank, query.stream, offset, CHUNK_BYTES)).data:
        offset = chunk.next_offset
        await response.write(chunk.data)


# --- following ----------------------------------------------------------------------------------------


async def _started(context: Context, request: web.Request, job_id: str, attempt: int | None) -> int | None:
    """The attempt to follow, once there is one; None when there will be none, or nobody waits any more."""
    while not is_gone(request):
        job = context.latest.jobs.get(job_id)
        if job is not None:
            if job.attempt >= (attempt or 1):
                return attempt or job.attempt
            if job.state.ended:
                return None
        await asyncio.sleep(START_POLL_S)
    return None


async def _pass_on(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[LogChunk]
) -> None:
    """Send chunks until there are no more or the client has gone, which a silent job would never notice."""
    while True:
        chunk = asyncio.ensure_future(_next(chunks))
        try:
            while not (await asyncio.wait({chunk}, timeout=GONE_POLL_S))[0]:
                if is_gone(request):
                    return
        finally:
            if not chunk.done():
                chunk.cancel()
                await asyncio.wait({chunk})
        found = chunk.result()
        if found is None:
            return
        await response.write(found.data)


async def _next(chunks: AsyncIterator[LogChunk]) -> LogChunk | None:
    return await anext(chunks, None)


# --- the tail -----------------------------------------------------------------------------------------


async def _tail_offset(context: Context, key: AttemptKey, query: LogQuery) -> int:
    """Where the last ``tail`` lines begin."""
    assert query.tail is not None
    end = await _size(context, key, query)
    lines, start = query.tail, end
    if not lines:
        return end
    while start and end - start < TAIL_BYTES_MAX:
        piece_start = max(0, start - CHUNK_BYTES)
        chunk = await context.engine.executor.read_log(
            key, query.rank, query.stream, piece_start, start - piece_start
        )
        piece = chunk.data
        if start == end and piece.endswith(b"\n"):
            piece = piece[:-1]  # the end of the last line begins no other
        breaks = piece.count(b"\n")
        if breaks >= lines:
            return piece_start + _after_break(piece, breaks - lines)
        lines -= breaks
        start = piece_start
    return start


def _after_break(piece: bytes, skipped: int) -> int:
    """Where the line begins that follows line break number ``skipped``, counting from 0."""
    at = -1
    for _ in range(skipped + 1):
        at = piece.index(b"\n", at + 1)
    return at + 1


async def _size(context: Context, key: AttemptKey, query: LogQuery) -> int:
    """How long the output is by now. The port does not say, so it is found by halving: O(log size) reads."""
    low, high = 0, 1
    while await _has(context, key, query, high - 1):
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if await _has(context, key, query, middle):
            low = middle + 1
        else:
            high = middle
    return low


async def _has(context: Context, key: AttemptKey, query: LogQuery, offset: int) -> bool:
    return bool((await context.engine.executor.read_log(key, query.rank, query.stream, offset, 1)).data)
