"""Who is asking. One bearer token for now: who has it is the owner."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from horizon.api.problems import UNAUTHORIZED, Problem

OWNER: Final = "owner"
"""The actor in the log for whoever holds the token."""

_SCHEME: Final = "bearer "


def authorizer(token: str | None) -> Callable[[str], bool]:
    """A test for ``Authorization`` headers, in constant time; without a token every header passes."""
    if token is None:
        return lambda header: True
    expected = token.encode()

    def authorized(header: str) -> bool:
        # surrogateescape: aiohttp carries bytes that are not UTF-8 that way, and they must not be an error
        given = header[len(_SCHEME) :].encode("utf-8", "surrogateescape")
        return compare_digest(given, expected) and header[: len(_SCHEME)].lower() == _SCHEME

    return authorized


def refused(header: str) -> Problem:
    """401, saying whether a token is missing or wrong."""
    if header:
        detail = "this token is not the server's; `horizon token` shows it on the server's machine"
        challenge = 'Bearer realm="horizon", error="invalid_token"'
    else:
        detail = "send the header Authorization: Bearer TOKEN; `horizon token` shows the token"
        challenge = 'Bearer realm="horizon"'
    return Problem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})
