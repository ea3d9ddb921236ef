"""What the demo shows while its jobs run: a live table on a terminal, a line for each change in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import click

from horizon.cli.output import Column, clean, rich_table, since, state_style
from horizon.cli.session import Job

_COLUMNS: Final = (
    Column("JOB", right=True),
    Column("USER"),
    Column("NAME"),
    Column("PRIORITY"),
    Column("GPUS", right=True),
    Column("STATE", style=state_style),
    Column("TIME", right=True),
    Column("WHERE"),
    Column("REASON", wide=True),
)


class Screen(Protocol):
    def show(self, jobs: list[Job], elapsed_s: float) -> None:
        """Bring what is shown up to date."""


class _LiveTable:
    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, jobs: list[Job], elapsed_s: float) -> None:
        self._live.update(rich_table(_COLUMNS, map(_row, jobs)), refresh=True)


class _Lines:
    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def show(self, jobs: list[Job], elapsed_s: float) -> None:
        for job in jobs:
            if self._states.get(job["id"]) == job["state"]:
                continue
            self._states[job["id"]] = job["state"]
            more = ",".join(job["node_ids"] or ()) if job["state"] == "Running" else clean(job["reason"])
            name = f"job {job['number']:>2} {clean(job['user_id']):<5} {clean(job['job_name']):<8}"
            click.echo(f"{elapsed_s:5.1f}s  {name} {job['state']:<9} {more}".rstrip())


@contextmanager
def open_screen() -> Iterator[Screen]:
    """The kind of screen that standard output can show."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield _LiveTable(live)


def _row(job: Job) -> tuple[Any, ...]:
    ended = job["state"] in ("Completed", "Cancelled")
    return (
        job["number"],
        job["user_id"],
        job["job_name"],
        job["priority"],
        job["resources"]["gpu_count"],
        job["state"],
        since(job["started_at"] or job["created_at"], job["completed_at"]),
        ",".join(job["node_ids"] or ()),
        "" if ended else job["reason"],
    )
