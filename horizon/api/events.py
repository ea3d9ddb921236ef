"""The log, from any position, and what was signed of it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import wire
from horizon.api.answers import SLICE, event_answer, page
from horizon.api.context import Context
from horizon.api.problems import not_found
from horizon.core import limits

EVENTS_DEFAULT: Final = 1_000
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page ends after the event that reaches this, however many were asked for."""


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[int, Meta(ge=0, le=wire.SIGNED_64_MAX, description="Begin behind this position.")] = 0
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_EVENTS_MAX)] = EVENTS_DEFAULT


async def get_events(context: Context, request: web.Request, query: EventsQuery) -> web.Response:
    head = context.state.position  # what is folded is durable; the store may be a batch ahead
    rows: list[bytes] = []
    size, next_after = 0, query.after
    if query.after < head:
        async for recorded in context.engine.store.read(query.after, min(query.limit, head - query.after)):
            rows.append(event_answer(recorded))
            size += len(rows[-1])
            next_after = recorded.position
            if size >= PAGE_BYTES_MAX:
                break
            if len(rows) % SLICE == 0:
                await asyncio.sleep(0)
    return page("events", rows, next_after=next_after, head=head)


async def get_checkpoint(context: Context, request: web.Request) -> web.Response:
    newest = await context.engine.store.newest_checkpoint()
    if newest is None:
        raise not_found("nothing of the log has been signed yet")
    return web.Response(text=newest.note)
