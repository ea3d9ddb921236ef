"""What the client commands share: the client of an invocation, and reading jobs through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from horizon.cli.client import Client, Query, segment
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
