"""Waiting for a job's end and passing its output on, through restarts of the scheduler."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

import click

from horizon.cli import exits
from horizon.cli.client import Client
from horizon.cli.exits import CliError
from horizon.cli.output import clean
from horizon.cli.session import Job, job_path, name_of

POLL_S_MIN: Final = 0.05
POLL_S_MAX: Final = 1.0
POLL_GROWTH: Final = 1.3
PATIENCE_S: Final = 300.0
"""How long a scheduler may be away, for a restart say, before waiting for it is given up."""
SILENCE_S: Final = 1.0
"""A job that waits longer than this has its reason shown."""

ENDED: Final = ("Completed", "Failed", "Cancelled")


class Ended(NamedTuple):
    """A job that has ended: its JSON, and the exit code of whoever waited for it."""

    body: bytes
    exit_code: int


def wait_for_end(client: Client, job: Job) -> Ended:
    """Wait until the job has ended; say on stderr what it waits for. On ctrl-C the job goes on."""
    return _with_hint(job, lambda: _end_of(client, job, _until(client, job, _has_ended)))


def follow_to_end(client: Client, job: Job, quiet: bool = False) -> Ended:
    """Pass on the output of every attempt until the job has ended. On ctrl-C the job goes on."""

    def follow() -> Ended:
        printed = 0
        while True:
            body = _until(client, job, partial(_goes_on, printed))
            now = json.loads(body)
            if now["attempt"] == printed:
                return _end_of(client, job, body)
            while printed < now["attempt"]:  # a short one may have come and gone between two looks
                printed += 1
                if not quiet:
                    print_attempt(client, now, printed)

    return _with_hint(job, follow)


def print_attempt(client: Client, job: Job, attempt: int) -> None:
    """Both outputs of an attempt as they come, each to its own file of this process."""
    other = client.twin()
    failures: list[Exception] = []

    def copy_errors() -> None:
        try:
            copy_log(other, job["id"], "stderr", sys.stderr.buffer, attempt)
        except (CliError, OSError) as failure:
            failures.append(failure)

    errors = threading.Thread(target=copy_errors, daemon=True)
    errors.start()
    copy_log(client, job["id"], "stdout", sys.stdout.buffer, attempt)
    errors.join()
    if failures:
        raise failures[0]


def copy_log(
    client: Client, job_id: str, stream: str, to: BinaryIO, attempt: int | None, rank: int | None = None
) -> None:
    """One output as it comes, until its writer is gone; a lost connection is taken up where it broke."""
    offset = 0
    lost_at: float | None = None
    while True:
        query = {"stream": stream, "attempt": attempt, "rank": rank, "follow": 1, "offset": offset}
        try:
            for chunk in client.stream(job_path(job_id, "logs"), query):
                to.write(chunk)
                to.flush()
                offset += len(chunk)
                lost_at = None
            return
        except CliError as failure:
            if not _is_away(failure):
                raise
            lost_at = _lost(lost_at)
            time.sleep(POLL_S_MAX)


def _until(client: Client, job: Job, reached: Callable[[Job], bool]) -> bytes:
    """The job's JSON once ``reached`` says so of it."""
    pause_s, said, began = POLL_S_MIN, "", time.monotonic()
    lost_at: float | None = None
    while True:
        try:
            body = client.get(job_path(job["id"]))
        except CliError as failure:
            if not _is_away(failure):
                raise
            lost_at = _lost(lost_at)
        else:
            lost_at = None
            now: Job = json.loads(body)
            if reached(now):
                return body
            if now["state"] == "Queued" and now["reason"] != said and time.monotonic() - began > SILENCE_S:
                said = now["reason"] or ""
                click.echo(f"job {name_of(now)} {clean(said)}", err=True)
        time.sleep(pause_s)
        pause_s = min(pause_s * POLL_GROWTH, POLL_S_MAX)


def _is_away(failure: CliError) -> bool:
    """Whether the server cannot be reached or does not lead yet, which passes."""
    return failure.exit_code == exits.UNREACHABLE


def _lost(lost_at: float | None) -> float:
    """Since when the server has been away; gives up when that is too long."""
    if lost_at is None:
        click.echo("the server does not answer; waiting for it to come back", err=True)
        return time.monotonic()
    if time.monotonic() - lost_at > PATIENCE_S:
        raise CliError(f"the server has not answered for {PATIENCE_S:.0f} s", exits.UNREACHABLE)
    return lost_at


def _with_hint(job: Job, wait: Callable[[], Ended]) -> Ended:
    try:
        return wait()
    except KeyboardInterrupt:
        number = job["number"]
        hint = f"`horizon logs -f {number}` follows it, `horizon cancel {number}` ends it"
        click.echo(f"\njob {number} goes on; {hint}", err=True)
        raise


def _goes_on(printed: int, job: Job) -> bool:
    """Whether there is an attempt that has not been printed, or there will be no more."""
    return _has_ended(job) or job["attempt"] > printed


def _has_ended(job: Job) -> bool:
    return job["state"] in ENDED


def _end_of(client: Client, job: Job, body: bytes) -> Ended:
    ended: Job = json.loads(body)
    code = exit_code_of(ended)
    if ended["state"] != "Completed":
        reason = f": {clean(ended['reason'])}" if ended.get("reason") else ""
        click.echo(f"job {ended['number']} {ended['state'].lower()}{reason}", err=True)
    return Ended(body, code)


def exit_code_of(job: dict[str, Any]) -> int:
    """What a shell would have given for the job's command."""
    if job["state"] == "Completed":
        return exits.OK
    if job["state"] == "Cancelled":
        return exits.FAILED
    if job.get("signal"):
        return 128 + int(job["signal"])
    return int(job["exit_code"] or 0) or exits.FAILED
