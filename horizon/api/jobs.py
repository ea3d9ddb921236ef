"""Jobs one by one: submit, look, change, cancel. And many at once."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct

from horizon.api import wire
from horizon.api.answers import Hidden, encode, etag, event_answer, job_answer, page, reveal
from horizon.api.context import Context
from horizon.api.problems import Fault, invalid
from horizon.api.reading import JsonBody, expected_version, is_unchanged
from horizon.api.submission import Secrets, priority_of, spec_of
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import JobSubmitted
from horizon.core.evolve import foresee, new_job
from horizon.core.state import State
from horizon.service.engine import Render, Reply

SUBMISSION: Final = JsonBody(wire.Submission, limits.JOB_BODY_BYTES_MAX, wire.names_in_submission)
BATCH: Final = JsonBody(wire.Batch, limits.BODY_BYTES_MAX, wire.names_in_batch)
CHANGE: Final = JsonBody(wire.Change, limits.JOB_BODY_BYTES_MAX, wire.given)

BATCH_SLICE: Final = 500
"""Jobs of a batch that are read before others get their turn; a few milliseconds."""


class CancelQuery(Struct, frozen=True, forbid_unknown_fields=True):
    reason: wire.Text = ""


class _Stamp(Struct):
    """What the headers of an answer repeat of its body."""

    id: str
    version: int


_STAMP: Final = msgspec.json.Decoder(_Stamp).decode


# --- submitting ---------------------------------------------------------------------------------------


async def submit(context: Context, request: web.Request) -> web.Response:
    job, body = await SUBMISSION.read(request)
    secrets = Secrets()
    spec = spec_of(job, secrets)
    hidden = Hidden(job.environment or {}, job.script or None)

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        (event,) = events
        assert isinstance(event, JobSubmitted)
        return 201, job_answer(new_job(event, b"", now_us))

    command = cmd.Submit(context.engine.ids.new_text(), spec)
    reply = await context.ask(request, body, command, render, blobs=secrets.blobs)
    id, version = command.job_id, 1
    if reply.replayed:
        stamp = _STAMP(reply.body)
        id, version = stamp.id, stamp.version
    return _answered(reply, version, hidden, f"/api/v1/jobs/{id}")


def _answered(reply: Reply, version: int, hidden: Hidden, location: str | None = None) -> web.Response:
    headers = {"Content-Type": "application/json", "ETag": etag(version)}
    if location is not None:
        headers["Location"] = location
    if reply.replayed:
        headers["Idempotency-Replayed"] = "true"
    return web.Response(body=reveal(reply.body, hidden), status=reply.status, headers=headers)


async def submit_batch(context: Context, request: web.Request) -> web.Response:
    batch, body = await BATCH.read(request)
    secrets = Secrets()
    new_id = context.engine.ids.new_text
    jobs: list[cmd.Submit] = []
    for index, job in enumerate(batch.jobs):
        jobs.append(cmd.Submit(new_id(), spec_of(job, secrets, f"/jobs/{index}")))
        if index % BATCH_SLICE == BATCH_SLICE - 1:
            await asyncio.sleep(0)
    reply = await context.ask(
        request, body, cmd.SubmitBatch(tuple(jobs)), _render_batch, blobs=secrets.blobs, weight=len(jobs)
    )
    headers = {"Content-Type": "application/json"}
    if reply.replayed:
        headers["Idempotency-Replayed"] = "true"
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _render_batch(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    jobs = [wire.Submitted(event.job_id, event.number) for event in events if isinstance(event, JobSubmitted)]
    return 201, encode(wire.BatchAnswer(len(jobs), jobs))


# --- looking ------------------------------------------------------------------------------------------


async def get_job(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    if is_unchanged(request, etag(job.version)):
        return web.Response(status=304, headers={"ETag": etag(job.version)})
    hidden = await context.hidden(job.spec)
    body = job_answer(job, hidden, context.reasons(context.state)(job))
    headers = {"Content-Type": "application/json", "ETag": etag(job.version)}
    return web.Response(body=body, headers=headers)


async def get_job_events(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    recorded = await context.engine.store.read_at(job.positions)
    return page("events", map(event_answer, recorded))


# --- changing -----------------------------------------------------------------------------------------


async def cancel(context: Context, request: web.Request, query: CancelQuery) -> web.Response:
    job = context.find_job(request.match_info["id"])
    if request.can_read_body and await request.read():
        raise invalid([Fault("is not read here: give the reason as ?reason=", pointer="")])
    version = expected_version(request, job.version)
    hidden = await context.hidden(job.spec)
    command = cmd.Cancel(job.id, query.reason, version)
    reply = await context.ask(request, b"", command, _render_change(job.id))
    return _answered(reply, _STAMP(reply.body).version, hidden)


async def change(context: Context, request: web.Request) -> web.Response:
    job = context.find_job(request.match_info["id"])
    asked, body = await CHANGE.read(request)
    if asked == wire.Change():
        raise invalid([Fault("changes nothing: give priority, time_limit_s or hold", pointer="")])
    command = cmd.Update(
        job.id,
        priority=UNSET if asked.priority is UNSET else priority_of(asked.priority, "/priority"),
        time_limit_s=UNSET if asked.time_limit_s is UNSET else asked.time_limit_s or 0,
        hold=asked.hold,
        version=expected_version(request, job.version),
    )
    hidden = await context.hidden(job.spec)
    reply = await context.ask(request, body, command, _render_change(job.id))
    return _answered(reply, _STAMP(reply.body).version, hidden)


def _render_change(job_id: str) -> Render:
    """The job as it will be once these events of its own are in the log."""

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        return 200, job_answer(foresee(state.jobs[job_id], events, now_us))

    return render
