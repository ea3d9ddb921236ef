"""Reads what a request brings: its body, its query, its conditions. What cannot be read is a ``Problem``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from horizon.api import faults
from horizon.api.problems import MALFORMED, MEDIA_TYPE, TOO_LARGE, Fault, Problem, invalid, malformed

T = TypeVar("T", bound=Struct)

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
IDEMPOTENCY_KEY_MAX: Final = 255
MIN_POSITION: Final = "min_position"
_POSITION: Final = re.compile(r"[0-9]{1,18}")
_VISIBLE_ASCII: Final = re.compile(r"[!-~]{1,255}")
_ENTITY_TAG: Final = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')
_JSON_TYPE: Final = re.compile(r'\s*application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?;?\s*', re.IGNORECASE)


def is_gone(request: web.Request) -> bool:
    """Whether nobody waits for the answer any more."""
    return request.transport is None or request.transport.is_closing()


# --- the body -----------------------------------------------------------------------------------------


class JsonBody(Generic[T]):
    """A JSON object that a route takes: its type, its greatest size."""

    def __init__(
        self, expected: type[T], bytes_max: int, names_in: Callable[[T], int], optional: bool = False
    ) -> None:
        """``names_in`` counts the distinct names in all objects of a value, as it was sent.

        With ``optional`` a request without a body is like one with an empty object.
        """
        self.expected = expected
        self.bytes_max = bytes_max
        self.optional = optional
        self._decode = msgspec.json.Decoder(expected).decode
        self._names_in = names_in

    async def read(self, request: web.Request) -> tuple[T, bytes]:
        """The value, and the bytes it was read from."""
        check_length(request, self.bytes_max)
        content_type = request.headers.get(hdrs.CONTENT_TYPE)
        if content_type != "application/json" and request.body_exists:
            _check_json(content_type)
        body = await _read(request, self.bytes_max)
        if self.optional and not body:
            return self.expected(), body
        try:
            value = self._decode(body)
        except msgspec.ValidationError as error:
            raise faults.mistaken(body, self.expected, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise faults.unreadable(body, error) from None
        if b"\\u0000" in body:
            self._refuse_nul(body)
        self._refuse_duplicates(body, self._names_in(value))
        return value, body

    @staticmethod
    def _refuse_nul(body: bytes) -> None:
        found = list(faults.nul_faults(msgspec.json.decode(body)))
        if found:
            raise invalid(found)

    @staticmethod
    def _refuse_duplicates(body: bytes, names: int) -> None:
        """A name given twice has no meaning; the last one winning in silence would be a trap.

        Every name is followed by a colon, so as many colons as distinct names prove that there is none. Only
        a body with colons in its texts is looked at more closely.
        """
        if body.count(b":") == names:
            return
        closing = body.count(b'":') + sum(body.count(space + b":") for space in (b" ", b"\n", b"\r", b"\t"))
        if closing == names:
            return
        found = faults.duplicate_faults(body)
        if found:
            raise invalid(found)


def check_length(request: web.Request, bytes_max: int) -> None:
    """Refuse a body by what it says of its own size, before any of it is read."""
    length = request.content_length
    if length is not None and length > bytes_max:
        raise _too_large(bytes_max)


async def _read(request: web.Request, bytes_max: int) -> bytes:
    content = request.content
    body = await content.readany()
    if content.at_eof():
        return body
    pieces, size = [body], len(body)
    while piece := await content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max)
    return b"".join(pieces)


async def refuse_body(request: web.Request, instead: str) -> None:
    """For routes that take none: what is sent in one would be lost without a word."""
    if request.can_read_body and await request.read():
        raise invalid([Fault(f"is not read here: {instead}", pointer="")])


def _too_large(bytes_max: int) -> Problem:
    return Problem(TOO_LARGE, f"a body here may have up to {bytes_max:,} bytes")


def _check_json(content_type: str | None) -> None:
    if content_type is None or not _JSON_TYPE.fullmatch(content_type):
        given = f"not {faults.clipped(content_type)!r}" if content_type else "and there is none"
        fault = Fault(f"must be application/json (in UTF-8), {given}", header="Content-Type")
        raise Problem(MEDIA_TYPE, f"Content-Type {fault.detail}", (fault,))


# --- the query ----------------------------------------------------------------------------------------


class Query(Generic[T]):
    """The query parameters of a route, from the fields of a struct; a list may be given more than once."""

    def __init__(self, expected: type[T]) -> None:
        self.expected = expected
        fields = msgspec.structs.fields(expected)
        self._names = {field.name for field in fields}
        self._lists = {field.name for field in fields if _is_list(field.type)}
        self._defaults = expected()

    def read(self, request: web.Request) -> T:
        if not request.rel_url.raw_query_string:
            return self._defaults
        given = request.query
        self._check_names(given.keys())
        values: dict[str, Any] = {}
        for name in given:
            texts = given.getall(name)
            if any("\0" in text or "\ufffd" in text for text in texts):
                raise invalid([Fault("has a character that is not text", parameter=name)])
            if name not in self._lists and len(texts) > 1:
                raise invalid([Fault("may be given once", parameter=name)])
            values[name] = texts if name in self._lists else texts[0]
        try:
            return msgspec.convert(values, self.expected, strict=False)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `$.")
            raise invalid([Fault(what, parameter=path.partition("[")[0].rstrip("`"))]) from None

    def _check_names(self, names: Iterable[str]) -> None:
        unknown = [name for name in dict.fromkeys(names) if name not in self._names]
        if unknown:
            allowed = ", ".join(sorted(self._names)) if self._names else "none here"
            raise invalid(
                Fault(f"unknown parameter; there are: {allowed}", parameter=faults.clipped(name))
                for name in unknown
            )


def without_min_position(request: web.Request) -> tuple[web.Request, int]:
    """The position that a read is to wait for, 0 for none, and the request without it."""
    texts = request.query.getall(MIN_POSITION, [])
    if not texts:
        return request, 0
    if len(texts) > 1 or not _POSITION.fullmatch(texts[0]):
        raise invalid([Fault("must be one position of the log, a number from 0", parameter=MIN_POSITION)])
    return request.clone(rel_url=request.rel_url.without_query_params(MIN_POSITION)), int(texts[0])


def _is_list(kind: Any) -> bool:
    if hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    return get_origin(kind) is list or any(_is_list(one) for one in get_args(kind))


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """For routes that take no parameters."""


# --- the headers --------------------------------------------------------------------------------------


def idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall(IDEMPOTENCY_KEY, None)
    if keys is None:
        return None
    if len(keys) > 1 or not _VISIBLE_ASCII.fullmatch(keys[0]):
        what = f"must be one key of 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"
        raise Problem(MALFORMED, f"{IDEMPOTENCY_KEY} {what}", (Fault(what, header=IDEMPOTENCY_KEY),))
    return keys[0]


def fingerprint(request: web.Request, body: bytes) -> bytes:
    """SHA-256 over what is asked: method, path, query and body."""
    target = f"{request.method}\0{request.rel_url.raw_path}\0{request.rel_url.raw_query_string}\0"
    return hashlib.sha256(target.encode() + body).digest()


def expected_version(request: web.Request, version: int) -> int | None:
    """The version that ``If-Match`` allows: the present one if it is listed, None for any."""
    header = request.headers.get(hdrs.IF_MATCH)
    if header is None or header.strip() == "*":
        return None
    tags = _entity_tags(header, hdrs.IF_MATCH)
    strong = [tag for weak, tag in tags if not weak]
    if str(version) in strong:
        return version
    # No version is 0: the engine refuses it, with the words and the status of any other stale one.
    return next((int(tag) for tag in strong if tag.isdecimal() and len(tag) < 19), 0)


def is_unchanged(request: web.Request, etag: str) -> bool:
    """Whether ``If-None-Match`` says that the client has this one already."""
    header = request.headers.get(hdrs.IF_NONE_MATCH)
    if header is None:
        return False
    if header == etag or header.strip() == "*":
        return True
    return any(f'"{tag}"' == etag for _, tag in _entity_tags(header, hdrs.IF_NONE_MATCH))


def _entity_tags(header: str, name: str) -> list[tuple[str, str]]:
    tags, end = [], 0
    while end < len(header):
        match = _ENTITY_TAG.match(header, end)
        if match is None:
            raise malformed(f'{name} must be a list of entity tags such as "3", in double quotes')
        tags.append((match[1] or "", match[2]))
        end = match.end()
    return tags
