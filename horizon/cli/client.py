"""A small synchronous HTTP client: what the commands need, from the standard library, quick to import."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from horizon.cli import exits
from horizon.cli.exits import CliError
from horizon.cli.places import Server

TIMEOUT_S: Final = 60.0
PAST_TIMEOUT_S: Final = 600.0
"""For an answer about the past, for which a server may have to fold a long log."""
TRIES_MAX: Final = 5
BACKOFF_S: Final = 0.2
"""Before the second try; doubled before each one after it."""
BACKOFF_S_MAX: Final = 2.0
CHUNK_BYTES: Final = 64 * 1024

Query = Mapping[str, "str | int | list[str] | None"]

_EXIT_CODES: Final = {404: exits.NOT_FOUND, 409: exits.CONFLICT, 412: exits.CONFLICT, 503: exits.UNREACHABLE}


class Refused(CliError):
    """The server said no, as an RFC 9457 problem."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(self._sentence(), _EXIT_CODES.get(status, exits.FAILED))

    def _sentence(self) -> str:
        detail = str(self.problem.get("detail") or self.problem.get("title") or f"HTTP status {self.status}")
        faults = self.faults
        if len(faults) == 1:
            return detail if faults[0][0] in detail else f"{detail} ({faults[0][0].lstrip('/')})"
        return "\n".join([detail, *(f"  at {place}: {text}" for place, text in faults)])

    @property
    def faults(self) -> list[tuple[str, str]]:
        """Where in what was sent something is wrong, each with what that is."""
        return [
            (str(place), str(fault.get("detail", "")))
            for fault in self.problem.get("errors", [])
            if isinstance(fault, dict)
            and (place := fault.get("pointer") or fault.get("parameter") or fault.get("header"))
        ]


class Unreachable(CliError):
    """No answer came."""

    def __init__(self, url: str, error: Exception, in_doubt: bool = False) -> None:
        """``in_doubt``: a change was sent, and may have been made."""
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "Is it running? `horizon up` starts it here; HORIZON_URL points at another"
        if in_doubt:
            hint = "What was asked was sent and may have been done: look before you ask again"
        super().__init__(f"cannot reach Horizon at {url}: {said}. {hint}", exits.UNREACHABLE)


class Client:
    """One connection to one server, opened when first needed and kept for the next request."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        # Whoever puts a password in front of the host does not want it repeated.
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(f"{shown!r} is no http:// or https:// address", exits.USAGE)
        self._server = server
        self._url = shown.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        try:
            self._port = parts.port
        except ValueError as error:
            raise CliError(f"{shown!r} has no valid port", exits.USAGE) from error
        self._headers = {"Accept": "application/json", "User-Agent": "horizon-cli"}
        if server.token:
            if not server.token.isascii():
                raise CliError("the token has characters that cannot be sent: it is ASCII", exits.USAGE)
            self._headers["Authorization"] = f"Bearer {server.token}"
        self._connection: http.client.HTTPConnection | None = None

    def twin(self) -> Client:
        """Another client of the same server, for another thread."""
        return Client(self._server)

    # --- asking ---------------------------------------------------------------------------------------

    def get(self, path: str, query: Query | None = None) -> bytes:
        """The body of the answer. Raises ``Refused``, ``Unreachable``."""
        timeout_s = PAST_TIMEOUT_S if query and query.get("at") else TIMEOUT_S
        return self._request("GET", path + encode_query(query), None, {}, timeout_s)

    def change(self, method: str, path: str, body: Any = None, query: Query | None = None) -> bytes:
        """Ask for a change; safe to repeat, and repeated, because it carries an idempotency key."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        return self._request(method, path + encode_query(query), data, headers)

    def stream(self, path: str, query: Query | None = None) -> Iterator[bytes]:
        """The body of the answer piece by piece, as it comes, for as long as it comes."""
        connection = self._connect(timeout_s=None)
        try:
            response = self._exchange(connection, "GET", path + encode_query(query), None, {})
            if response.status >= 400:
                raise _refused(response.status, response.read())
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._url, error) from error
        finally:
            connection.close()

    # --- the wire -------------------------------------------------------------------------------------

    def _request(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        sent = False
        for tried in range(1, TRIES_MAX + 1):
            wait_s = min(BACKOFF_S * 2 ** (tried - 1), BACKOFF_S_MAX)
            fresh = self._connection is None
            try:
                connection = self._connected(timeout_s)
                sent = True
                status, body, retry_after = self._answer(connection, method, path, data, headers)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A kept connection may have been closed by the server meanwhile: that says nothing yet. One
                # that cannot be opened is worth waiting for only when something is to be changed.
                if tried == TRIES_MAX or (fresh and method == "GET"):
                    raise Unreachable(self._url, error, sent and method != "GET") from error
                wait_s = wait_s if fresh else 0.0
            else:
                if status != 503 or tried == TRIES_MAX:
                    if status >= 400:
                        raise _refused(status, body)
                    return body
                wait_s = max(wait_s, min(retry_after, BACKOFF_S_MAX))
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = self._connect(TIMEOUT_S)
            connection.connect()
            self._connection = connection
        self._connection.sock.settimeout(timeout_s)
        return self._connection

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
    ) -> tuple[int, bytes, float]:
        response = self._exchange(connection, method, path, data, headers)
        body = response.read()
        retry_after = response.getheader("Retry-After", "0")
        if response.will_close:
            self.close()
        return response.status, body, float(retry_after) if retry_after.isdigit() else 0.0

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        connection.request(method, self._base + path, data, {**self._headers, **headers})
        return connection.getresponse()

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def encode_query(query: Query | None) -> str:
    """``?a=1&b=2``; fields that are None are left out, a list gives its field once for each entry."""
    fields = {name: value for name, value in (query or {}).items() if value not in (None, [])}
    return "?" + urlencode(fields, doseq=True) if fields else ""


def _refused(status: int, body: bytes) -> Refused:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    refused = Refused(status, problem if isinstance(problem, dict) else {})
    if status == 401:
        hint = "set HORIZON_TOKEN to the server's token; `horizon token` shows it on the server's machine"
        return Refused(status, {"detail": f"the server does not know this token: {hint}"})
    return refused
