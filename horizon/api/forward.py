"""A standby's way to the leader, for what only that can do: the request as it came, the answer as it is.

It is forwarded and not redirected: the leader may be where the client cannot reach it, clients do not send
their token after a redirect to another host, and many follow none on a POST.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from horizon.api.problems import Problem, unavailable
from horizon.service.standby import Standby

FORWARDED: Final = "Horizon-Forwarded"
"""Marks what a standby sent on: nobody sends it on again."""
CONNECT_S_MAX: Final = 2.0
ASK_S_MAX: Final = 5.0
RETRY_AFTER_S: Final = 1
_WHOLE_BYTES_MAX: Final = 1 << 20
"""aiohttp warns of sending more than this in one piece."""
_OF_THE_HOP: Final = (
    hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.PROXY_AUTHENTICATE, hdrs.PROXY_AUTHORIZATION, hdrs.TE,
    hdrs.TRAILER, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE, hdrs.HOST, hdrs.CONTENT_LENGTH, hdrs.EXPECT,
)  # fmt: skip
"""Headers that are about one connection, or are made anew for the next."""


async def is_known(url: str, token: str) -> bool:
    """Whether the leader there takes this token, as it will have to from clients of ours. Raises ``OSError``
    when it cannot be asked."""
    timeout = aiohttp.ClientTimeout(total=ASK_S_MAX)
    headers = {hdrs.AUTHORIZATION: f"Bearer {token}", FORWARDED: "1"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{url.rstrip('/')}/api/v1/queue", headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status != 401
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(str(error) or "it does not answer") from error


class Forwarder:
    """Sends requests on to whoever leads."""

    def __init__(self, standby: Standby) -> None:
        self._standby = standby
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, request: web.Request, streamed: bool) -> web.StreamResponse:
        """The leader's answer, passed on as it comes if it is ``streamed``. Raises ``Problem``."""
        url, term = self._leader(request), self._standby.term
        body = await request.read()
        asked = asyncio.ensure_future(self._ask(url, request, body))
        ended = asyncio.ensure_future(term.wait())
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered = asked.done()
            for task in (asked, ended):
                task.cancel()
        if not answered:
            raise _unknown(request, "it leads no more")
        try:
            answer = asked.result()
        except aiohttp.ClientConnectorError as error:
            raise unavailable(f"the leader at {url} cannot be reached: {error}", RETRY_AFTER_S) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unknown(request, f"the connection to it broke ({error})") from error
        async with answer:
            return await (_stream if streamed else _whole)(request, answer)

    def _leader(self, request: web.Request) -> str:
        leader = self._standby.leader
        if leader is None:
            raise unavailable("no scheduler leads just now: this one is about to, or another", RETRY_AFTER_S)
        if FORWARDED in request.headers:
            raise unavailable("another scheduler took this one for the leader, and it is not", RETRY_AFTER_S)
        if not leader.url:
            raise unavailable("the leader does not say where it can be reached", RETRY_AFTER_S)
        return leader.url

    async def _ask(self, url: str, request: web.Request, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX)
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=jar, auto_decompress=False)
        headers = _without_hop(request.headers)
        headers[FORWARDED] = "1"
        return await self._session.request(
            request.method,
            f"{url.rstrip('/')}{request.raw_path}",
            data=io.BytesIO(body) if len(body) > _WHOLE_BYTES_MAX else body or None,
            headers=headers,
            skip_auto_headers=(hdrs.USER_AGENT, hdrs.CONTENT_TYPE, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING),
            allow_redirects=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _without_hop(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _OF_THE_HOP:
        kept.popall(name, None)
    return kept


def _unknown(request: web.Request, why: str) -> Problem:
    """No answer came to what was sent."""
    done = (
        ""
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
        else ("; it may have been done all the same: ask again with the same Idempotency-Key")
    )
    return unavailable(f"the leader did not answer: {why}{done}", RETRY_AFTER_S)


async def _whole(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    try:
        body = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _unknown(request, f"the connection to it broke ({error})") from error
    return web.Response(status=answer.status, body=body, headers=_without_hop(answer.headers))


async def _stream(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_without_hop(answer.headers))
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            await response.write(piece)
    except aiohttp.ClientError as error:
        # A broken answer tells the client to come back; a finished one would not.
        raise ConnectionResetError(f"the leader broke off: {error}") from error
    return response
