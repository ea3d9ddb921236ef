"""A load generator that costs little: keep-alive HTTP/1.1 over raw sockets, one request at a time a client.

It runs in a process of its own beside the server: ``python -m benchmarks.load PLAN RESULT`` reads one
JSON file and writes the other. It talks to loopback only and stops by itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop


class Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last has arrived."""

    def __init__(
        self, next_request: Callable[[], bytes | None], expected: bytes, done: asyncio.Future[None]
    ) -> None:
        self._next = next_request
        self._expected = expected
        self._done = done
        self._buffer = b""
        self.latencies: list[float] = []
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def _send(self) -> None:
        request = self._next()
        if request is None:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else end])
        if len(self._buffer) < end + 4 + length:
            return
        self.latencies.append(time.perf_counter() - self._sent_at)
        if not head.startswith(self._expected):
            self._done.set_exception(RuntimeError(self._buffer[:500].decode(errors="replace")))
            self._transport.close()
            return
        self._buffer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError(f"the server closed the connection: {exc}"))


def request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """``requests`` requests over ``clients`` connections, taking ``paths`` and ``body`` in turn."""
    loop = asyncio.get_running_loop()
    body = plan.get("body", "").encode()
    prepared = [request(plan["method"], path, plan["token"], body) for path in plan["paths"]]
    left = plan["requests"]

    def next_request() -> bytes | None:
        nonlocal left
        if left <= 0:
            return None
        left -= 1
        return prepared[left % len(prepared)]

    expected = b"HTTP/1.1 2"
    clients: list[Client] = []
    finished = [loop.create_future() for _ in range(plan["clients"])]
    began = time.perf_counter()
    for done in finished:
        _, client = await loop.create_connection(
            lambda done=done: Client(next_request, expected, done), "127.0.0.1", plan["port"]
        )
        clients.append(client)
    await asyncio.gather(*finished)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "latencies": [one for client in clients for one in client.latencies]}


def drive(
    port: int, token: str, method: str, paths: list[str], clients: int, requests: int, body: str = ""
) -> Any:
    """Run a plan in a process of its own; ``seconds`` and ``latencies``."""
    plan = {"port": port, "token": token, "method": method, "paths": paths, "clients": clients,
            "requests": requests, "body": body}  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        asked, told = Path(directory) / "plan.json", Path(directory) / "result.json"
        asked.write_text(json.dumps(plan))
        command = [sys.executable, "-m", "benchmarks.load", str(asked), str(told)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(done.stderr[-2_000:])
        return json.loads(told.read_text())


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(uvloop.run(run(json.loads(Path(sys.argv[1]).read_text())))))
