"""Bookings: nodes that are kept free of jobs for a span of time, for maintenance."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from horizon.api import times, wire
from horizon.api.answers import answered, encode, encoded, json, page, stamp
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.problems import not_found
from horizon.api.reading import JsonBody, refuse_body
from horizon.api.times import rfc3339
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import BookingMade
from horizon.core.state import Booking, State

BOOKING: Final = JsonBody(wire.BookingAsked, limits.JOB_BODY_BYTES_MAX, wire.given)


async def get_bookings(context: Context, request: web.Request) -> web.Response:
    return page("bookings", await booking_rows(context.state))


async def booking_rows(state: State) -> list[bytes]:
    return await encoded(list(state.bookings.values()), lambda booking: encode(_answer(booking)))


async def get_booking(context: Context, request: web.Request) -> web.Response:
    id = request.match_info["booking"]
    booking = context.state.bookings.get(id.lower())
    if booking is None:
        raise not_found(f"there is no booking {clipped(id)!r}, or it is over")
    return json(encode(_answer(booking)))


async def make_booking(context: Context, request: web.Request) -> web.Response:
    asked, body = await BOOKING.read(request)
    command = cmd.Book(
        context.engine.ids.new_text(),
        tuple(asked.nodes),
        times.checked(asked.start_at, "/start_at") if asked.start_at else context.now_us(),
        times.checked(asked.end_at, "/end_at"),
        asked.reason or "",
    )
    reply = await context.ask(request, body, command, _render_made)
    return answered(reply, {"Location": f"/api/v1/bookings/{stamp(reply.body).id}"})


def _render_made(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    (event,) = events
    assert isinstance(event, BookingMade)
    answer = wire.BookingAnswer(
        event.booking,
        list(event.nodes),
        rfc3339(event.start_us),
        rfc3339(event.end_us),
        event.by,
        event.reason,
    )
    return 201, encode(answer)


async def end_booking(context: Context, request: web.Request, query: wire.ReasonQuery) -> web.Response:
    await refuse_body(request, "give the reason as ?reason=")
    command = cmd.EndBooking(request.match_info["booking"].lower(), query.reason)

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        return 200, encode(_answer(state.bookings[command.booking_id]))

    return answered(await context.ask(request, b"", command, render))


def _answer(booking: Booking) -> wire.BookingAnswer:
    return wire.BookingAnswer(
        booking.id,
        list(booking.nodes),
        rfc3339(booking.start_us),
        rfc3339(booking.end_us),
        booking.by,
        booking.reason,
    )
