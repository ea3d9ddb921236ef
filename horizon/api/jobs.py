"""Jobs one by one: submit, look, change, cancel. And many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

from aiohttp import web
from msgspec import UNSET, Meta, Struct

from horizon.api import wire
from horizon.api.answers import (
    Hidden,
    answered,
    counts_of,
    encode,
    etag,
    event_answer,
    is_array,
    job_answer,
    page,
    reveal,
    stamp,
)
from horizon.api.context import Context
from horizon.api.problems import Fault, invalid
from horizon.api.reading import JsonBody, expected_version, is_unchanged, refuse_body
from horizon.api.submission import Secrets, priority_of, spec_of
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.admission import new_job
from horizon.core.decide import Events
from horizon.core.events import JobSubmitted
from horizon.core.evolve import foresee
from horizon.core.model import JobState
from horizon.core.state import State
from horizon.service.inbox import Render, Reply

SUBMISSION: Final = JsonBody(wire.Submission, limits.JOB_BODY_BYTES_MAX, wire.names_in_submission)
BATCH: Final = JsonBody(wire.Batch, limits.BODY_BYTES_MAX, wire.names_in_batch)
CHANGE: Final = JsonBody(wire.Change, limits.JOB_BODY_BYTES_MAX, wire.given)

BATCH_SLICE: Final = 500
"""Jobs of a batch that are read before others get their turn; a few milliseconds."""


class CheckpointQuery(Struct, frozen=True, forbid_unknown_fields=True):
    attempt: (
        Annotated[
            int, Meta(ge=1, description="Which attempt saved its work; the one that runs if not given.")
        ]
        | None
    ) = None


# --- submitting ---------------------------------------------------------------------------------------


async def submit(context: Context, request: web.Request) -> web.Response:
    job, body = await SUBMISSION.read(request)
    secrets = Secrets()
    spec = spec_of(job, secrets, context.find_job)
    hidden = Hidden(job.environment or {}, job.script or None)

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        (event,) = events
        assert isinstance(event, JobSubmitted)
        return 201, job_answer(new_job(event, b"", now_us), state)

    command = cmd.Submit(context.engine.ids.new_text(), spec)
    reply = await context.ask(request, body, command, render, blobs=secrets.blobs)
    id, version = command.job_id, 1
    if reply.replayed:
        earlier = stamp(reply.body)
        id, version = earlier.id, earlier.version
    return _answered(reply, version, hidden, f"/api/v1/jobs/{id}")


def _answered(reply: Reply, version: int, hidden: Hidden, location: str | None = None) -> web.Response:
    headers = {"ETag": etag(version)}
    if location is not None:
        headers["Location"] = location
    return answered(reply, headers, reveal(reply.body, hidden))


async def submit_batch(context: Context, request: web.Request) -> web.Response:
    batch, body = await BATCH.read(request)
    secrets = Secrets()
    new_id = context.engine.ids.new_text
    jobs: list[cmd.Submit] = []
    for index, job in enumerate(batch.jobs):
        jobs.append(cmd.Submit(new_id(), spec_of(job, secrets, context.find_job, f"/jobs/{index}")))
        if index % BATCH_SLICE == BATCH_SLICE - 1:
            await asyncio.sleep(0)
    reply = await context.ask(
        request, body, cmd.SubmitBatch(tuple(jobs)), _render_batch, blobs=secrets.blobs, weight=len(jobs)
    )
    return answered(reply)


def _render_batch(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    jobs = [wire.Submitted(event.job_id, event.number) for event in events if isinstance(event, JobSubmitted)]
    return 201, encode(wire.BatchAnswer(len(jobs), jobs))


# --- looking ------------------------------------------------------------------------------------------


async def get_job(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    if is_unchanged(request, etag(job.version)):
        return web.Response(status=304, headers={"ETag": etag(job.version)})
    hidden = await context.hidden(job)
    state = context.state
    body = job_answer(job, state, hidden, context.reasons(state)(job))
    headers = {"Content-Type": "application/json", "ETag": etag(job.version)}
    return web.Response(body=body, headers=headers)


async def get_job_events(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    recorded = await context.engine.store.read_at(job.positions)
    return page("events", [event_answer(one, context.state) for one in recorded])


# --- changing -----------------------------------------------------------------------------------------


async def cancel(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    return await _stop(context, request, query, cmd.Cancel)


async def requeue(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    return await _stop(context, request, query, cmd.Requeue)


async def _stop(
    context: Context, request: web.Request, query: wire.ReasonQuery, command: type[cmd.Cancel | cmd.Requeue]
) -> web.Response:
    job = context.find_job(request.match_info["id"])
    await refuse_body(request, "give the reason as ?reason=")
    version = expected_version(request, job.version)
    hidden = await context.hidden(job)
    asked = command(job.id, query.reason, version)
    reply = await context.ask(request, b"", asked, _render_change(job.id))
    return _answered(reply, stamp(reply.body).version, hidden)


async def erase(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    job = context.find_job(request.match_info["id"])
    await refuse_body(request, "give the reason as ?reason=")
    command = cmd.Erase(job.id, query.reason, expected_version(request, job.version))
    reply = await context.ask(request, b"", command, _render_change(job.id))
    return _answered(reply, stamp(reply.body).version, await context.hidden(job))


async def checkpoint(context: Context, request: web.Request, query: CheckpointQuery) -> web.Response:
    job = context.find_job(request.match_info["id"])
    await refuse_body(request, "give the attempt, if any, as ?attempt=")
    hidden = await context.hidden(job)
    command = cmd.Checkpoint(job.id, query.attempt)
    reply = await context.ask(request, b"", command, _render_change(job.id))
    return _answered(reply, stamp(reply.body).version, hidden)


async def change(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    asked, body = await CHANGE.read(request)
    if asked.priority is asked.time_limit_s is asked.hold is UNSET:
        raise invalid([Fault("changes nothing: give priority, time_limit_s or hold", pointer="")])
    command = cmd.Update(
        job.id,
        priority=UNSET if asked.priority is UNSET else priority_of(asked.priority, "/priority"),
        time_limit_s=UNSET if asked.time_limit_s is UNSET else asked.time_limit_s or 0,
        hold=asked.hold,
        version=expected_version(request, job.version),
        reason=asked.reason or "",
    )
    hidden = await context.hidden(job)
    reply = await context.ask(request, body, command, _render_change(job.id))
    return _answered(reply, stamp(reply.body).version, hidden)


def _render_change(job_id: str) -> Render:
    """The job as it will be once these events of its own are in the log, and of an array its tasks."""

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        job = state.jobs[job_id]
        then = foresee(job, events, now_us)
        tasks = _foreseen_tasks(counts_of(job, state), then.state) if is_array(job) else None
        return 200, job_answer(then, state, tasks=tasks)

    return render


def _foreseen_tasks(counts: Mapping[JobState, int], then: JobState) -> Mapping[JobState, int]:
    """Tasks by state when their array is in this one: one that is ended takes along all that still live."""
    if not then.ended:
        return counts
    foreseen = {one: count for one, count in counts.items() if one.ended}
    foreseen[then] = foreseen.get(then, 0) + sum(counts.values()) - sum(foreseen.values())
    return foreseen
