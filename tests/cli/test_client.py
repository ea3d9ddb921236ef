"""The client on a bad network: what is asked once takes effect once, however often it must be said."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from horizon.cli import client as module
from horizon.cli import database, exits, watch
from horizon.cli.client import Client, Refused, Unreachable, encode_query, segment
from horizon.cli.exits import CliError
from horizon.cli.places import Server

DROP = 0
"""In a script of answers: close the connection without one."""


class Scripted(HTTPServer):
    """Answers as it is told and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers.get("Idempotency-Key")))
        status, body = self.server.script.pop(0)
        if status == DROP:
            self.close_connection = True
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    scripted = Scripted()
    thread = threading.Thread(target=scripted.serve_forever, args=(0.01,))
    thread.start()
    yield scripted
    scripted.shutdown()
    thread.join()
    scripted.server_close()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    made = Client(Server(server.url, "token"))
    yield made
    made.close()


def test_a_change_is_repeated_under_one_key(server: Scripted, client: Client) -> None:
    server.script = [(503, {}), (DROP, None), (503, {}), (201, {"number": 1})]
    assert json.loads(client.change("POST", "/jobs", {"a": 1})) == {"number": 1}
    keys = {key for _, _, key in server.asked}
    assert len(server.asked) == 4
    assert len(keys) == 1
    assert None not in keys


def test_two_changes_have_two_keys(server: Scripted, client: Client) -> None:
    server.script = [(201, {}), (201, {})]
    client.change("POST", "/jobs", {})
    client.change("POST", "/jobs", {})
    assert len({key for _, _, key in server.asked}) == 2


def test_it_gives_up_in_the_end(server: Scripted, client: Client) -> None:
    server.script = [(503, {"detail": "not leading yet"})] * module.TRIES_MAX
    with pytest.raises(Refused, match="not leading yet") as refused:
        client.change("DELETE", "/jobs/1")
    assert refused.value.exit_code == exits.UNREACHABLE
    server.script = [(DROP, None)] * module.TRIES_MAX
    with pytest.raises(Unreachable, match="may have been done: look before you ask again"):
        client.change("DELETE", "/jobs/1")
    assert len({key for _, _, key in server.asked[-module.TRIES_MAX :]}) == 1


def test_a_kept_connection_that_was_closed_is_opened_again(server: Scripted, client: Client) -> None:
    server.script = [(200, 1), (DROP, None), (200, 2)]
    assert client.get("/a") == b"1"
    assert client.get("/b") == b"2"


def test_nobody_listening_is_said_at_once(server: Scripted) -> None:
    client = Client(Server("http://127.0.0.1:9", None))
    with pytest.raises(
        Unreachable, match=r"cannot reach Horizon at http://127\.0\.0\.1:9: Connection refused"
    ):
        client.get("/a")
    with pytest.raises(Unreachable, match="Is it running"):
        client.change("POST", "/a")


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (401, 1), (404, 4), (409, 5), (412, 5), (413, 1), (422, 1), (500, 1)]
)
def test_a_refusal_has_its_exit_code_and_is_not_repeated(
    server: Scripted, client: Client, status: int, code: int
) -> None:
    server.script = [(status, {"detail": "no"})]
    with pytest.raises(Refused) as refused:
        client.change("POST", "/jobs", {})
    assert refused.value.exit_code == code
    assert len(server.asked) == 1


def test_a_refusal_is_a_sentence_with_pointers(server: Scripted, client: Client) -> None:
    faults = [{"detail": "too few", "pointer": "/a"}, {"detail": "too many", "parameter": "b"}]
    for body, sentence in [
        ({"detail": "bad", "errors": faults}, "bad\n  at /a: too few\n  at b: too many"),
        ({"detail": "/a: too few", "errors": faults[:1]}, "/a: too few"),
        ({"detail": "too few", "errors": faults[:1]}, "too few (a)"),
        ({"title": "No"}, "No"),
        ({}, "HTTP status 422"),
        (["odd"], "HTTP status 422"),
        ({"detail": "bad", "errors": ["odd", {"pointer": ""}]}, "bad"),
    ]:
        server.script = [(422, body)]
        with pytest.raises(Refused) as refused:
            client.get("/a")
        assert str(refused.value) == sentence


def test_output_is_followed_through_a_restart(
    server: Scripted, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_S_MAX", 0.01)
    server.script = [(DROP, None), (503, {}), (200, "output")]
    copied = io.BytesIO()
    watch.copy_log(client, "1", "stdout", copied, attempt=2)
    assert copied.getvalue() == b'"output"'
    assert server.asked[0][1] == "/api/v1/jobs/1/logs?stream=stdout&attempt=2&follow=1&offset=0"
    server.script = [(404, {"detail": "there is no job 1"})]
    with pytest.raises(Refused, match="there is no job 1"):
        watch.copy_log(client, "1", "stdout", copied, attempt=2)


def test_what_is_no_address() -> None:
    for url in ("", "localhost:7420", "ftp://host", "http://", "http://host:port"):
        with pytest.raises(CliError) as refused:
            Client(Server(url, None))
        assert refused.value.exit_code == exits.USAGE


def test_paths_and_queries_are_quoted() -> None:
    assert segment("a/b c?#") == "a%2Fb%20c%3F%23"
    assert encode_query({"a": None, "b": [], "c": ["x", "y z"], "d": 0}) == "?c=x&c=y+z&d=0"
    assert encode_query({}) == ""


def test_a_long_fold_is_told_of_and_a_short_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = iter([100.0, 100.5, 101.5, 102.0, 104.0])
    monkeypatch.setattr(database.time, "monotonic", lambda: next(moments))
    progress = database.progress_printer("reading the log")
    for done in (100_000, 200_000, 400_000, 600_000, 1_000_000):
        progress(done, 2_000_000)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "reading the log: 400,000 of 2,000,000 events (20 %, 200,000 a second)",
        "reading the log: 1,000,000 of 2,000,000 events (50 %, 225,000 a second)",
    ]
