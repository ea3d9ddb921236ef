"""Puts the routes behind one gate: who may come in, and what everybody is told when something is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from horizon.api import auth, openapi
from horizon.api.answers import json
from horizon.api.context import Context
from horizon.api.forward import Forwarder
from horizon.api.problems import EXPECTATION, Problem, problem_for, unavailable
from horizon.api.reading import MIN_POSITION, NoQuery, Query, check_length, without_min_position
from horizon.api.routes import API, OPEN_PATHS, OPENAPI_PATH, ROUTES, Route
from horizon.core import limits
from horizon.core.at_rest import Unreadable
from horizon.service.clock import Clock, SystemClock
from horizon.service.engine import Engine
from horizon.service.standby import Standby

Bound = Callable[[web.Request], Awaitable[web.StreamResponse]]

AS_OF: Final = "Horizon-As-Of"
"""The position up to which the answer knows the log, at least."""
CONTEXT: Final = web.AppKey("context", Context)
_NO_QUERY: Final = Query(NoQuery)


def create_app(
    engine: Engine, *, token: str | None, clock: Clock | None = None, standby: Standby | None = None
) -> web.Application:
    """The HTTP face of an engine.

    Every route but those for health and the description of the API wants ``Authorization: Bearer <token>``;
    None lets everybody in. The engine may be started before or after; until it leads, answers are 503, or a
    ``standby``'s: it answers reads itself, and sends on to the leader what it cannot. Run it with
    ``web.AppRunner(app, access_log=None)``: what happens is in the event log.
    """
    authorized = auth.authorizer(token)
    context = Context(engine, token, clock or SystemClock(), standby)
    app = web.Application(middlewares=[_gate(authorized, context)], client_max_size=limits.BODY_BYTES_MAX)
    app[CONTEXT] = context
    forwarder = None if standby is None else Forwarder(standby)
    if forwarder is not None:
        app.on_cleanup.append(lambda app: forwarder.close())
    for route in ROUTES:
        bound = _bind(route, context)
        if route.path.startswith(API):
            bound = _placed(route, context, bound)
        if forwarder is not None and (route.changes or route.at_leader):
            bound = _forwarded(route, context, bound, forwarder)
        _add(app, route, bound, _expect_handler(route, authorized))
    _add_description(app)
    app.on_shutdown.append(_stop_followers)
    return app


def _add(app: web.Application, route: Route, handler: Bound, expect: Bound) -> None:
    app.router.add_route(route.method, route.path, handler, expect_handler=expect)
    if route.method == hdrs.METH_GET:
        app.router.add_route(hdrs.METH_HEAD, route.path, handler)


def _bind(route: Route, context: Context) -> Bound:
    """The handler as the router calls it."""
    handler, query = route.handler, route.query
    if query is not None:

        async def with_query(request: web.Request) -> web.StreamResponse:
            return await handler(context, request, query.read(request))

        return with_query

    async def without_query(request: web.Request) -> web.StreamResponse:
        _NO_QUERY.read(request)
        return await handler(context, request)

    return without_query


def _placed(route: Route, context: Context, bound: Bound) -> Bound:
    """Says of an answer up to where it knows the log, at least; waits for a position first, if asked to."""

    async def read(request: web.Request) -> web.StreamResponse:
        if MIN_POSITION in request.rel_url.raw_query_string:
            request, wanted = without_min_position(request)
            await context.reach(wanted)
        position = context.latest.position
        return _stamped(await bound(request), position)

    async def change(request: web.Request) -> web.StreamResponse:
        return _stamped(await bound(request), context.latest.position)

    return change if route.changes else read


def _stamped(response: web.StreamResponse, position: int) -> web.StreamResponse:
    if not response.prepared:
        response.headers[AS_OF] = str(position)
    return response


def _forwarded(route: Route, context: Context, bound: Bound, forwarder: Forwarder) -> Bound:
    """What only the leader can answer."""

    async def forwarded(request: web.Request) -> web.StreamResponse:
        if context.following is None:
            return await bound(request)
        response = await forwarder.forward(request, streamed=not route.changes)
        if route.changes:
            # Whoever changes something here is to find it here: the answer waits, a moment, for the log.
            with suppress(Problem):
                await context.reach(int(response.headers.get(AS_OF, 0)))
        return response

    return forwarded


def _gate(authorized: Callable[[str], bool], context: Context) -> Middleware:
    """The one middleware: lets in who may come in, and turns whatever goes wrong into a problem."""

    @web.middleware
    async def gate(request: web.Request, handler: Bound) -> web.StreamResponse:
        try:
            given = request.headers.get(hdrs.AUTHORIZATION, "")
            if not authorized(given) and request.path not in OPEN_PATHS:
                raise auth.refused(given)
            return await handler(request)
        except Unreadable as error:
            context.doubt(error)
            return unavailable(f"{error}; the log is folded anew", 1).response()
        except ConnectionError:
            raise  # the client has gone; there is nobody to tell
        except Exception as error:
            return problem_for(error, request.method, request.path).response()

    return gate


def _expect_handler(route: Route, authorized: Callable[[str], bool]) -> Bound:
    """For ``Expect: 100-continue``: a no that need not wait for the body is said before it is sent."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        try:
            given = request.headers.get(hdrs.AUTHORIZATION, "")
            if not route.open and not authorized(given):
                raise auth.refused(given)
            if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
                raise Problem(EXPECTATION, "the only expectation that can be met is 100-continue")
            if route.body is not None:
                check_length(request, route.body.bytes_max)
        except Problem as problem:
            return problem.response()
        if request.version >= (1, 1):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # what counts is the answer, which is still to come
        return None

    return expect  # type: ignore[return-value]


def _add_description(app: web.Application) -> None:
    description = openapi.describe(ROUTES)

    async def get_openapi(request: web.Request) -> web.Response:
        return json(description)

    app.router.add_get(OPENAPI_PATH, get_openapi)


async def _stop_followers(app: web.Application) -> None:
    """Break off whoever follows a job: a broken answer tells them to come back, a finished one would not."""
    for task in list(app[CONTEXT].followers):
        task.cancel()
