"""``horizon events``: the log in sentences, from a server, or from the database or an export without one."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from horizon.cli import exits, places
from horizon.cli.client import Client, Query
from horizon.cli.exits import CliError
from horizon.cli.output import Column, json_option, print_json, print_table, show_time
from horizon.cli.session import client_of
from horizon.cli.values import MOMENT, UNTIL

if TYPE_CHECKING:
    from horizon.core.events import Stored
    from horizon.core.state import Job, State

PAGE_EVENTS_MAX: Final = 10_000
PAYLOAD_SHOWN: Final = 160
"""Characters of a payload in a table; --json has all of it."""


class Asked(NamedTuple):
    """Which events; moments as the API takes them."""

    job: str | None
    actor: str | None
    types: tuple[str, ...]
    since: str | None
    until: str | None
    after: int
    limit: int


@click.command(short_help="Print the log of events, in sentences.")
@click.option("--job", metavar="JOB", help="Only of this job.")
@click.option("--actor", metavar="NAME", help="Only what this one asked for or reported.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only of this type: CommandRefused.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Recorded then or later: 2030-01-31T08:00, -2h.")
@click.option("--until", type=UNTIL, metavar="TIME", help="Recorded then or before; a day is included.")
@click.option(
    "--after", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Only after this one."
)
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most this many."
)
@click.option("--raw", is_flag=True, help="What is stored, instead of a sentence about it.")
@click.option("--database", is_flag=True, help="From the database itself: DATABASE_URL, or the embedded one.")
@click.option(
    "--export", "exported", type=click.Path(path_type=Path), metavar="FILE", help="From this export."
)
@json_option
@click.pass_context
def events(
    ctx: click.Context, /, raw: bool, database: bool, exported: Path | None, as_json: bool, **asked: Any
) -> None:
    """Print events of the log, the oldest first, each in a sentence: all of them, or those asked for.

    They are asked of the server; or, with --database or --export, read without one, as an auditor may: then
    the log is folded from its first event up to the last one shown, and every event is checked on the way, as
    `replay` does.
    """
    if database and exported is not None:
        raise click.UsageError("--database and --export exclude each other")
    wanted = Asked(**asked)
    if database or exported is not None:
        directory = places.data_directory(ctx.find_root().obj["data_dir"])
        page = asyncio.run(folded_page(directory, exported, wanted))
    else:
        page = _served(_server(ctx), wanted)
    if as_json:
        print_json(page)
        return
    titles = _RAW if raw else _TOLD
    columns = [Column(title, right=title == "POSITION", wide=title == titles[-1]) for title in titles]
    print_table(columns, map(_raw_row if raw else _told_row, page["events"]), "no such events")
    if page["next_after"] < page["head"]:
        more = f"--after {page['next_after']} shows what follows"
        click.echo(f"the log goes on to {page['head']}; {more}", err=True)


# --- from a server ------------------------------------------------------------------------------------


def _server(ctx: click.Context) -> Client:
    try:
        return client_of(ctx)
    except CliError as error:
        hint = "--database and --export FILE need none"
        raise CliError(f"{error}; {hint}", error.exit_code) from error


def _served(client: Client, asked: Asked) -> dict[str, Any]:
    """A piece of the log, in as many requests as it takes."""
    query: Query = {
        "job": asked.job,
        "actor": asked.actor,
        "type": list(asked.types),
        "since": asked.since,
        "until": asked.until,
    }
    after, found = asked.after, list[Any]()
    while True:
        size = min(asked.limit - len(found), PAGE_EVENTS_MAX)
        body = client.get("/api/v1/events", {**query, "after": after, "limit": size})
        page: dict[str, Any] = json.loads(body)
        found += page["events"]
        after = page["next_after"]
        if len(found) >= asked.limit or after >= page["head"]:
            return {**page, "events": found}


# --- from the log itself ------------------------------------------------------------------------------


async def folded_page(directory: Path, exported: Path | None, asked: Asked) -> dict[str, Any]:
    """The same page, from a fold of the log."""
    from horizon.api.answers import event_answer
    from horizon.cli.database import log_events, progress_printer
    from horizon.service.replay import checked

    search = _Search(asked)
    found: list[Any] = []
    progress = progress_printer("folding the log")
    async with (
        log_events(directory, exported) as (log, end),
        aclosing(checked(log, end, progress)) as folded,
    ):
        async for state, recorded in folded:
            if search.is_behind(recorded):
                break
            if search.finds(state, recorded):
                found.append(json.loads(event_answer(recorded, state)))
                if len(found) == asked.limit:
                    return {"events": found, "next_after": recorded.position, "head": end}
        else:
            search.end()
    return {"events": found, "next_after": max(asked.after, end), "head": end}


class _Search:
    """Which events of a fold are wanted, in the terms of ``GET /api/v1/events``."""

    def __init__(self, asked: Asked) -> None:
        from horizon.core.events import SCHEMA_VERSIONS
        from horizon.store.port import Wanted

        unknown = [name for name in asked.types if name not in SCHEMA_VERSIONS]
        if unknown:
            raise CliError(f"there is no type {unknown[0]}; there are: {', '.join(SCHEMA_VERSIONS)}")
        self._asked = asked
        self._wanted = Wanted(asked.actor, asked.types)
        self._since_us, self._until_us = _us(asked.since), _us(asked.until)
        self._job: Job | None = None

    def is_behind(self, stored: Stored) -> bool:
        """Whether it comes after all that are wanted: along the log times never decrease."""
        return self._until_us is not None and stored.recorded_at_us > self._until_us

    def finds(self, state: State, stored: Stored) -> bool:
        """Whether this one, with which the state ends, is wanted."""
        is_of_the_job = self._asked.job is None or self._is_of_the_job(state)
        return (
            is_of_the_job
            and stored.position > self._asked.after
            and (self._since_us is None or stored.recorded_at_us >= self._since_us)
            and self._wanted.fits(stored)
        )

    def end(self) -> None:
        """To be told behind the last event of the log. Raises ``CliError`` when it has no such job."""
        if self._asked.job is not None and self._job is None:
            raise CliError(f"there is no job {self._asked.job}", exits.NOT_FOUND)

    def _is_of_the_job(self, state: State) -> bool:
        from horizon.api.context import job_called
        from horizon.api.problems import Problem

        if self._job is None:
            try:
                self._job = job_called(state, str(self._asked.job))
            except Problem as problem:
                raise CliError(str(problem)) from problem
        return self._job is not None and self._job.positions[-1] == state.position


def _us(moment: str | None) -> int | None:
    from horizon.api.times import microseconds

    return None if moment is None else microseconds(datetime.fromisoformat(moment))


# --- as a table ---------------------------------------------------------------------------------------

_TOLD: Final = ("POSITION", "RECORDED", "ACTOR", "WHAT")
_RAW: Final = ("POSITION", "RECORDED", "TYPE", "STREAM", "ACTOR", "PAYLOAD")


def _told_row(event: dict[str, Any]) -> tuple[Any, ...]:
    return (
        event["position"],
        show_time(event["recorded_at"], "milliseconds"),
        event["actor"],
        event["sentence"],
    )


def _raw_row(event: dict[str, Any]) -> tuple[Any, ...]:
    payload = {name: value for name, value in event["payload"].items() if name not in ("type", "job_id")}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")) if payload else ""
    return (
        event["position"],
        show_time(event["recorded_at"], "milliseconds"),
        event["type"],
        event["stream"],
        event["actor"],
        text if len(text) <= PAYLOAD_SHOWN else text[: PAYLOAD_SHOWN - 1] + "…",
    )
