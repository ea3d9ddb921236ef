"""Secrets that sing: each is put in where Horizon takes one, and then looked for wherever none may be.

What may hold them: the blobs of the database, the processes of the job that they are for, files that nobody
but their owner can read, and an answer about that very job to whoever has the token.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import pytest

from tests.cli.house import PATIENCE_S, Up, environment, eventually, lines_in, run

MARK = f"canary-{os.getpid()}"
VALUE = f"{MARK}-in-an-environment"
SCRIPT = f"{MARK}-in-a-script"
PATH = f"/{MARK}-in-a-path"
PASSWORD = f"{MARK}-in-a-password"
ROLE = f"horizon_canary_{os.getpid()}"
KICK = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"


@pytest.fixture
async def dsn(database: str, admin: asyncpg.Connection[Any]) -> AsyncIterator[str]:
    """The address of a database with a password in it."""
    await admin.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    scheme, _, rest = database.partition("//")
    yield f"{scheme}//{ROLE}:{PASSWORD}@{rest.partition('@')[2] if '@' in rest else rest}"
    await admin.execute(KICK, ROLE)
    await admin.execute(f"REASSIGN OWNED BY {ROLE} TO CURRENT_USER; DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def ask(up: Up, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """The status of an answer, and all of its text."""
    token = (up.data_dir / "token").read_text().strip()
    given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    request = Request(f"{up.url}{path}", data=body, headers=given, method=method)
    try:
        with urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, f"{response.headers}{response.read().decode()}"
    except HTTPError as error:
        return error.code, f"{error.headers}{error.read().decode()}"


def refused(up: Up) -> Iterator[tuple[str, int, str]]:
    """Requests that bring secrets and are wrong: what they are answered."""
    given = json.dumps({"user_id": "u", "command": "true"})[:-1]
    for body in (
        f'{given}, "environment": "{VALUE}"}}',
        f'{given}, "environment": ["{VALUE}"]}}',
        f'{given}, "environment": {{"A": ["{VALUE}"]}}}}',
        f'{given}, "environment": {{"A": {{"{VALUE}": 1}}}}}}',
        f'{given}, "environment": {{"A={VALUE}": "x"}}}}',
        f'{given}, "environment": {{"A": "{VALUE}\\u0000"}}}}',
        f'{given}, "environment": {{"A": "{VALUE}", "A": "{VALUE}"}}}}',
        f'{given}, "environment": {{"A": "{VALUE}"}}, "gpu_count": "{VALUE[:3]}"}}',
        f'{given}, "environment": {{"A": "{VALUE}"',
        f'{given}, "environment": {{"A": "{VALUE}" "B"}}}}',
        f'{given}, "environment": {{"A": "{VALUE}\\ud800"}}}}',
        json.dumps({"user_id": "u", "script": SCRIPT}),
        json.dumps({"user_id": "u", "script": [SCRIPT]}),
        json.dumps({"user_id": "u", "script": f"#!/bin/sh\n{SCRIPT}", "command": "true"}),
        json.dumps({"user_id": "u", "script": f"#!/bin/sh\n{SCRIPT}" + "x" * 2_000_000}),
        f'{{"jobs": [{given}, "environment": {{"A": 7, "B": "{VALUE}"}}}}]}}',
    ):
        path = "/api/v1/jobs/batch" if body.startswith('{"jobs') else "/api/v1/jobs"
        yield body, *ask(up, "POST", path, body.encode())
        yield body, *ask(up, "POST", path, body.encode(), **{"Content-Type": f"text/{VALUE[:6]}"})
    yield "a token", *ask(up, "GET", "/api/v1/jobs", Authorization=f"Bearer {VALUE}")


class Canaries:
    """A scheduler that was given secrets in every way there is."""

    def __init__(self, home: Path, dsn: str) -> None:
        self.home, self.dsn, self.data = home, dsn, home / "data"
        self.up = Up(self.data, "--simulate-gpus", "2xH100", DATABASE_URL=dsn, HORIZON_LOG_LEVEL="debug")
        self.token = (self.data / "token").read_text().strip()
        signing = (self.data / "keys" / "signing.key").read_text().strip().split("+", 4)[4]
        self.all = [VALUE, SCRIPT, PATH, PASSWORD, self.token, signing]
        self._give()

    def _give(self) -> None:
        up, ran, script = self.up, self.home / "ran", self.home / "job.sh"
        script.write_text(f'#!/bin/sh\n# {SCRIPT}\necho "$SECRET" > {ran}\nexec sleep 600\n')
        up.ok("submit", "--workdir", "/tmp", "--env", "SECRET", str(script), SECRET=VALUE)
        eventually(lambda: lines_in(ran) == [VALUE], "the secret, in the job")
        up.ok("submit", "--workdir", "/tmp", "--env", "PATH", "--", "no-such-program", PATH=PATH)
        self.silent("why a job failed", str(up.until("2", "Failed")["reason"]))
        keyed = {"user_id": "alice", "command": "true", "hold": True, "environment": {"SECRET": VALUE}}
        for _ in range(2):
            answer = ask(up, "POST", "/api/v1/jobs", json.dumps(keyed).encode(), **{"Idempotency-Key": "k"})
            assert (answer[0], VALUE in answer[1]) == (201, True), "whoever asked is told what was asked"

    def silent(self, what: str, said: str) -> None:
        for canary in self.all:
            assert canary not in said, f"{what}: {canary} in {said[:2_000]}"
            assert canary.encode().hex() not in said, f"{what}: {canary} in hex"

    def check_processes(self) -> None:
        """Their arguments, and their environments: the secrets of a job are in its own alone."""
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                arguments = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
                variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            self.silent(f"the arguments of {process}", arguments)
            if int(process) != self.up.process.pid:
                assert PASSWORD not in variables, arguments
                assert self.token not in variables, arguments
            assert VALUE not in variables or "HORIZON_ATTEMPT_ID=" in variables, arguments

    def check_answers(self) -> None:
        for command in (
            ["events", "--json"], ["events", "--job", "1"], ["why", "1", "--json"], ["why", "2"],
            ["queue", "--json"], ["nodes", "--json"], ["gpus", "--json"], ["shares", "--json"], ["policy"],
            ["ps", "--all"], ["export"], ["verify"], ["keys"],
        ):  # fmt: skip
            done = self.up.run(*command, DATABASE_URL=self.dsn)
            assert done.returncode == 0, (command, done.stderr)
            self.silent(" ".join(command), done.stdout + done.stderr)
        for path in ("/health", "/readyz", "/metrics", "/openapi.json", "/api/v1/checkpoint"):
            self.silent(path, ask(self.up, "GET", path)[1])
        for body, status, said in refused(self.up):
            assert 400 <= status < 500, (body, status)
            self.silent(body, said)

    def check_bad_days(self) -> None:
        """Commands that are given something wrong."""
        url, dsn, token, key = self.up.url, self.dsn, self.token, str(self.data / "keys" / "signing.key")
        for arguments, env in (
            (["migrate"], {"DATABASE_URL": dsn.replace(PASSWORD, f"{PASSWORD}/x#y")}),
            (["migrate"], {"DATABASE_URL": dsn.replace(PASSWORD, f"x?{PASSWORD}")}),
            (["migrate"], {"DATABASE_URL": dsn.replace(ROLE, "nobody")}),
            (["migrate"], {"DATABASE_URL": f"postgresql://u:{PASSWORD}@127.0.0.1:1/x"}),
            (["export"], {"DATABASE_URL": f"mysql://u:{PASSWORD}@127.0.0.1:1/x"}),
            (["ps"], {"HORIZON_URL": f"http://u:{PASSWORD}@127.0.0.1:9", "HORIZON_TOKEN": token}),
            (["ps"], {"HORIZON_URL": f"ftp://u:{PASSWORD}@h", "HORIZON_TOKEN": token}),
            (["ps"], {"HORIZON_URL": url, "HORIZON_TOKEN": token + "\N{LATIN SMALL LETTER E WITH ACUTE}"}),
            (["ps"], {"HORIZON_URL": url, "HORIZON_TOKEN": token + "x"}),
            (["verify", "--key", key], {"DATABASE_URL": dsn}),
            (["verify", "--export", str(self.home / "job.sh"), "--key", key], {"DATABASE_URL": dsn}),
            (["submit", "--env", f"={VALUE}", "--", "true"], {}),
        ):
            failed = run(self.data, *arguments, **env)
            assert failed.returncode != 0, arguments
            self.silent(f"{arguments[0]} with {list(env)}", failed.stdout + failed.stderr)

    async def check_tables(self, admin: asyncpg.Connection[Any]) -> None:
        """All but the one for secrets, as text: bytes in hex."""
        names = await admin.fetchval(
            """SELECT array_agg(c.oid::regclass::text)
               FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
               WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')"""
        )
        assert set(names) >= {"events_000000", "answers", "checkpoints", "log_head", "blobs"}
        for name in set(names) - {"blobs"}:
            for row in await admin.fetch(f"SELECT t::text AS line FROM {name} t"):
                self.silent(name, row["line"])

    def check_files(self) -> None:
        self.silent("the server's log", self.up.log.read_text() + self.up.greeting)
        for file in filter(Path.is_file, self.data.rglob("*")):
            if any(canary.encode() in file.read_bytes() for canary in self.all):
                assert file.stat().st_mode & 0o077 == 0, f"{file} can be read by others"


async def test_no_secret_is_anywhere_but_where_it_belongs(
    dsn: str, admin: asyncpg.Connection[Any], home: Path
) -> None:
    canaries = Canaries(home, dsn)
    canaries.check_processes()
    canaries.check_answers()
    canaries.check_bad_days()
    await admin.execute(KICK, ROLE)  # what the server says on a bad day
    canaries.up.ok("submit", "--hold", "--workdir", "/tmp", "--", "true")
    canaries.up.clear()
    proven = run(canaries.data, "prove", "1", DATABASE_URL=dsn)
    assert proven.returncode == 0
    canaries.silent("the proof of a job", proven.stdout + proven.stderr)
    await canaries.check_tables(admin)
    canaries.check_files()


def test_a_traceback_on_a_terminal_shows_no_values(home: Path) -> None:
    program = (
        "import structlog; from horizon.cli.loglines import configure_logging\n"
        "def fail(secret): raise RuntimeError('as it does')\n"
        "configure_logging()\n"
        "try: fail('in-a-' + 'variable')\n"
        "except RuntimeError: structlog.get_logger().exception('it failed')\n"
    )
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stderr=theirs, env=environment(home, TERM="xterm")
        )
        os.close(theirs)
        said = b""
        try:
            while piece := terminal.read(4096):
                said += piece
        except OSError:
            pass  # how a terminal ends
        assert process.wait() == 0
    assert b"as it does" in said
    assert b"in-a-variable" not in said
