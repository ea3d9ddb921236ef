"""Every no that HTTP gives, as RFC 9457 problem details.

A handler raises ``Problem``; what comes up from below (refusals of the core, a busy engine, a store that does
not answer) is turned into one by ``problem_for``. Nobody outside ever sees a traceback.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from horizon.core.decide import Refusal, Rejected
from horizon.service.engine import Stopped
from horizon.service.inbox import Busy, KeyReused
from horizon.store.port import Archived, Corrupt, StoreError

log = structlog.get_logger()

FAULTS_MAX: Final = 50
"""Faults named in one answer."""
CONTENT_TYPE: Final = "application/problem+json"


class Kind(Struct, frozen=True):
    """A kind of problem: its name in ``type``, its status, its title."""

    name: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        return f"urn:horizon:problem:{self.name}"


MALFORMED: Final = Kind("malformed", 400, "The request cannot be read")
UNAUTHORIZED: Final = Kind("unauthorized", 401, "A token is needed")
NOT_FOUND: Final = Kind("not-found", 404, "There is no such thing")
METHOD: Final = Kind("method-not-allowed", 405, "This cannot be done here")
CONFLICT: Final = Kind("conflict", 409, "Things stand differently")
ARCHIVED: Final = Kind("archived", 410, "It is in a file that is not here")
STALE: Final = Kind("stale", 412, "It has changed since you read it")
TOO_LARGE: Final = Kind("too-large", 413, "The request is too large")
MEDIA_TYPE: Final = Kind("media-type", 415, "The request is not JSON")
EXPECTATION: Final = Kind("expectation", 417, "The expectation cannot be met")
INVALID: Final = Kind("invalid", 422, "The request asks for what cannot be")
CORRUPT: Final = Kind("corrupt", 500, "What is stored is not what was written")
KEY_REUSED: Final = Kind("idempotency-key-reused", 422, "The idempotency key belongs to another request")
INTERNAL: Final = Kind("internal", 500, "Horizon has a bug")
UNAVAILABLE: Final = Kind("unavailable", 503, "Horizon cannot do this right now")


class Fault(Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong, and where: in the body (RFC 6901 pointer), the query or a header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


class ProblemAnswer(Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...] = ()
    instance: str | None = None
    """Names this one occurrence in the server's log."""


_ENCODE: Final = msgspec.json.Encoder().encode


class Problem(Exception):
    """A request that is answered with a problem; whoever made it did not change anything."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        faults: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.faults = tuple(faults)[:FAULTS_MAX]
        self.headers = headers or {}
        self.answer = ProblemAnswer(kind.uri, kind.title, kind.status, detail, self.faults, instance)

    def response(self) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE, **self.headers}
        return web.Response(status=self.kind.status, body=_ENCODE(self.answer), headers=headers)


def invalid(faults: Iterable[Fault]) -> Problem:
    """422 for values that cannot be; one fault is also the sentence."""
    faults = tuple(faults)
    first, more = faults[0], len(faults) - 1
    if not more:
        return Problem(INVALID, first.detail, faults)
    where = first.pointer or first.parameter or first.header or "the body"
    detail = f"{where}: {first.detail}; and {more} more fault{'s' * (more > 1)}"
    return Problem(INVALID, detail, faults)


def malformed(detail: str) -> Problem:
    return Problem(MALFORMED, detail)


def not_found(detail: str) -> Problem:
    return Problem(NOT_FOUND, detail)


def unavailable(detail: str, retry_after_s: int) -> Problem:
    return Problem(UNAVAILABLE, detail, headers={"Retry-After": str(retry_after_s)})


# --- from below ---------------------------------------------------------------------------------------

_REFUSALS: Final = {
    Refusal.INVALID: INVALID,
    Refusal.NOT_FOUND: NOT_FOUND,
    Refusal.CONFLICT: CONFLICT,
    Refusal.STALE: STALE,
}


def problem_for(error: Exception, method: str, path: str) -> Problem:
    """The problem that an exception from a handler is answered with."""
    match error:
        case Problem():
            return error
        case Rejected():
            faults = (Fault(error.message, pointer=error.pointer),) if error.pointer else ()
            return Problem(_REFUSALS[error.kind], error.message, faults)
        case Busy():
            return unavailable(str(error), retry_after_s=1)
        case Archived():
            return Problem(ARCHIVED, str(error))
        case Corrupt():
            return _corrupt(error, method, path)
        case Stopped() | StoreError():
            return unavailable(str(error), retry_after_s=5)
        case KeyReused():
            fault = Fault("this key came with another request before", header="Idempotency-Key")
            return Problem(KEY_REUSED, "this key belongs to another request: take a new one", (fault,))
        case web.HTTPException():
            return _from_router(error, method, path)
        case web.RequestPayloadError():
            return malformed(f"the body did not arrive whole: {error}")
    return _bug(error, method, path)


def _from_router(error: web.HTTPException, method: str, path: str) -> Problem:
    """aiohttp's own no, in our words."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(METHOD, f"{method} is not for {path}; what is: {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPNotFound):
        return not_found(f"there is nothing at {path}; /openapi.json lists what there is")
    return Problem(Kind("http", error.status, error.reason), error.reason)


def _corrupt(error: Corrupt, method: str, path: str) -> Problem:
    instance = uuid.uuid4().urn
    log.error("the log does not hold", reason=str(error), instance=instance, method=method, path=path)
    return Problem(CORRUPT, f"{error}; `horizon verify` checks the whole log", instance=instance)


def _bug(error: Exception, method: str, path: str) -> Problem:
    instance = uuid.uuid4().urn
    log.error("a request ran into a bug", instance=instance, method=method, path=path, exc_info=error)
    return Problem(INTERNAL, "this is a fault of Horizon; its log has the details", instance=instance)
