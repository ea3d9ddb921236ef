"""What the client commands share: the client of an invocation, and reading and changing through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from horizon.cli import exits
from horizon.cli.client import Client, Query, segment
from horizon.cli.exits import CliError
from horizon.cli.output import print_json
from horizon.cli.places import find_server

Job = dict[str, Any]


def client_of(ctx: click.Context) -> Client:
    """A client of the server that this invocation means. Raises ``CliError`` when there is none."""
    chosen = ctx.find_root().obj
    return Client(find_server(chosen["url"], chosen["data_dir"]))


def job_path(job_id: str, *more: str) -> str:
    """The path of a job, by its id or its number, or of something under it."""
    return "/".join(["/api/v1/jobs", segment(job_id), *more])


def get_job(client: Client, job_id: str) -> Job:
    job: Job = json.loads(client.get(job_path(job_id)))
    return job


def name_of(job: Job) -> str:
    """What people call a job: its number, or for a task that of its array and its index, 12_7."""
    number = job.get("array_number")
    return str(job["number"]) if number is None else f"{number}_{job['array_index']}"


def for_each(
    ctx: click.Context,
    names: tuple[str, ...],
    change: Callable[[Client, str], bytes],
    done: Callable[[dict[str, Any]], str],
    as_json: bool,
) -> int:
    """Change everything that can be changed; say which could not, and end with the first one's exit code."""
    client = client_of(ctx)
    code = exits.OK
    for name in dict.fromkeys(names):
        try:
            body = change(client, name)
        except CliError as error:
            if len(names) == 1 or error.exit_code == exits.UNREACHABLE:
                raise
            click.echo(f"horizon: {name}: {error}", err=True)
            code = code or error.exit_code
        else:
            print_json(body) if as_json else click.echo(done(json.loads(body)))
    return code


def the_one(prefix: str, known: Iterable[str], what: str) -> str:
    """The only known name that begins so: nobody types a whole UUID. Raises ``CliError``."""
    found = sorted({name for name in known if name.lower().startswith(prefix.lower())})
    if prefix in found or len(found) == 1:
        return prefix if prefix in found else found[0]
    if not found:
        raise CliError(f"there is no {what} {prefix!r}", exits.NOT_FOUND)
    some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    raise CliError(f"{prefix!r} could be any of {len(found)}: {some}; write more of it", exits.USAGE)


def pages(client: Client, path: str, query: Query, limit: int, page_max: int) -> Iterator[dict[str, Any]]:
    """The pages of a listing, as many as it takes to have ``limit`` entries."""
    cursor: str | None = None
    left = limit
    while left > 0:
        size = min(left, page_max)
        page: dict[str, Any] = json.loads(client.get(path, {**query, "limit": size, "cursor": cursor}))
        yield page
        left -= size
        cursor = page.get("next_cursor")
        if cursor is None:
            return
