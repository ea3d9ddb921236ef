"""The log, from any position, and what was signed of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import times, wire
from horizon.api.answers import SLICE, answered, encode, event_answer, page
from horizon.api.context import Context
from horizon.api.problems import CONFLICT, Fault, Problem, invalid, not_found
from horizon.api.reading import JsonBody
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import SCHEMA_VERSIONS, Recorded
from horizon.core.state import State
from horizon.store.port import Archivable, EventStore, Wanted

EVENTS_DEFAULT: Final = 1_000
ARCHIVE: Final = JsonBody(wire.ArchiveAsked, limits.JOB_BODY_BYTES_MAX, wire.given)
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page ends after the event that reaches this, however many were asked for."""
SCANNED_MAX: Final = 1_000_000
"""Positions that are looked at for one page: a second of Postgres, more or less."""
SCANNED_AT_ONCE: Final = 100_000
FOUND_AT_ONCE: Final = 1_000


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[int, Meta(ge=0, le=wire.SIGNED_64_MAX, description="Begin behind this position.")] = 0
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_EVENTS_MAX)] = EVENTS_DEFAULT
    actor: Annotated[str, Meta(description="Only what this one asked for or reported.")] | None = None
    job: wire.JobName | None = None
    type: Annotated[list[str], Meta(description="Only events of these types.")] = []
    since: Annotated[datetime, Meta(tz=True, description="Recorded then or later.")] | None = None
    until: Annotated[datetime, Meta(tz=True, description="Recorded then or before.")] | None = None


async def get_events(context: Context, request: web.Request, query: EventsQuery) -> web.Response:
    """One page; it may end before its limit, and even be empty, where there is much that does not fit."""
    state, store = context.state, context.engine.store
    head = state.position  # what is folded is durable; the store may be a batch ahead
    wanted = _wanted(context, query)
    first, last = await _span(store, query, head)
    end = last if query.job is not None else min(last, first + SCANNED_MAX)
    rows: list[bytes] = []
    size, next_after = 0, max(query.after, head if end == last else end)
    async for recorded in _events(store, wanted, first, end, query.limit):
        rows.append(event_answer(recorded, state))
        size += len(rows[-1])
        if len(rows) == query.limit or size >= PAGE_BYTES_MAX:
            next_after = recorded.position
            break
        if len(rows) % SLICE == 0:
            await asyncio.sleep(0)
    return page("events", rows, next_after=next_after, head=head)


def _wanted(context: Context, query: EventsQuery) -> Wanted:
    unknown = [name for name in query.type if name not in SCHEMA_VERSIONS]
    if unknown:
        raise invalid([Fault(f"there are: {', '.join(SCHEMA_VERSIONS)}", parameter="type")])
    positions = None if query.job is None else tuple(context.find_job(query.job).positions)
    return Wanted(query.actor, tuple(query.type), positions)


async def _span(store: EventStore, query: EventsQuery, head: int) -> tuple[int, int]:
    """Behind which position, and up to which, it can be: along the log times never decrease."""
    after, end = query.after, head
    if query.since is not None:
        after = max(after, await store.position_at(times.checked(query.since, parameter="since") - 1))
    if query.until is not None:
        end = min(end, await store.position_at(times.checked(query.until, parameter="until")))
    return after, end


async def _events(
    store: EventStore, wanted: Wanted, after: int, end: int, limit: int
) -> AsyncIterator[Recorded]:
    """In short reads. Whole pieces are read along the chain, which is checked."""
    if wanted == Wanted():
        if after < end:
            async for recorded in store.read(after, min(limit, end - after)):
                yield recorded
        return
    step = end - after if wanted.positions is not None else SCANNED_AT_ONCE
    while after < end and limit:
        found = await store.find(wanted, after, min(after + step, end), min(limit, FOUND_AT_ONCE))
        for recorded in found:
            yield recorded
        limit -= len(found)
        after = found[-1].position if len(found) == FOUND_AT_ONCE else after + step


async def record_archive(context: Context, request: web.Request) -> web.Response:
    """Whoever archives has checked the file; what is said of it is held against this log, here."""
    asked, body = await ARCHIVE.read(request)
    command = cmd.RecordArchive(
        asked.first,
        asked.last,
        asked.previous,
        asked.tip,
        asked.frontier,
        asked.file,
        asked.sha256,
        asked.reason or "",
    )
    if not await context.answered(request, body):
        fault = _fault_in(asked, await context.engine.store.archivable(asked.first))
        if fault is not None:
            raise Problem(CONFLICT, fault.detail, [fault])
    answer = encode(wire.ArchiveAnswer(asked.first, asked.last, asked.file, asked.sha256))

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        return 201, answer

    return answered(await context.ask(request, body, command, render))


def _fault_in(asked: wire.ArchiveAsked, partition: Archivable | None) -> Fault | None:
    """What is not so of an archive, by what the log has."""
    if partition is None:
        return Fault(f"no full partition in the database begins at {asked.first}", "/first")
    last = partition.last
    if asked.last != last:
        return Fault(f"the partition that begins at {asked.first} ends at {last}", "/last")
    if partition.signed <= last:
        signed = f"the log is signed up to {partition.signed}"
        return Fault(f"{signed}: what is archived must be signed beyond its end, which is {last}", "/last")
    if asked.previous != partition.previous.hex():
        return Fault(f"the previous is not the hash of event {asked.first - 1}", "/previous")
    if asked.tip != partition.tip.hex():
        return Fault(f"the tip is not the hash of event {last}", "/tip")
    if asked.frontier != partition.frontier.hex():
        return Fault(f"the frontier is not that of the log's tree at {last}", "/frontier")
    return None


async def get_checkpoint(context: Context, request: web.Request) -> web.Response:
    newest = await context.engine.store.newest_checkpoint()
    if newest is None:
        raise not_found("nothing of the log has been signed yet")
    return web.Response(text=newest.note)
