"""How things are shown: tables by rich on a terminal, aligned text in a pipe, the API's JSON on request."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import click

from horizon.core.words import span

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

STATE_STYLES: Final = {
    "Queued": "yellow",
    "Scheduled": "cyan",
    "Running": "bold green",
    "Preempted": "magenta",
    "Completed": "green",
    "Failed": "bold red",
    "Cancelled": "dim",
}


class Column(NamedTuple):
    title: str
    right: bool = False
    style: Callable[[str], str] = lambda text: ""
    wide: bool = False
    """Takes what room is left, and is cut first."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's JSON instead.")


def clean(value: Any) -> str:
    """Text that does to a terminal nothing but appear: names and reasons come from anyone."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value))


def print_json(body: bytes | Any) -> None:
    """The API's JSON, indented for people on a terminal and as it came otherwise."""
    if isinstance(body, bytes) and not sys.stdout.isatty():
        click.echo(body.rstrip(b"\n"))
        return
    fields = json.loads(body) if isinstance(body, bytes) else body
    click.echo(json.dumps(fields, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """The rows under their titles; ``empty`` goes to stderr when there are none."""
    texts = [[clean(value) for value in row] for row in rows]
    if not texts:
        click.echo(empty, err=True)
    elif sys.stdout.isatty():
        _print_rich(columns, texts)
    else:
        _print_plain(columns, texts)


def _print_plain(columns: Sequence[Column], rows: list[list[str]]) -> None:
    lines = [[column.title for column in columns], *([text or "-" for text in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich.console import Console

    Console(highlight=False).print(rich_table(columns, rows))


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Any:
    """A rich table; cells are plain text, so that no name is taken for markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column.wide else None,
        )
    for row in rows:
        texts = [clean(value) for value in row]
        table.add_row(
            *(Text(text, style=column.style(text)) for text, column in zip(texts, columns, strict=True))
        )
    return table


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair a line, without those that have no value."""
    shown = [(name, clean(value)) for name, value in fields if value not in (None, "", [], {}, ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}", color=_colour())


def _colour() -> bool | None:
    import os

    return False if os.environ.get("NO_COLOR") else None


def state_style(text: str) -> str:
    return STATE_STYLES.get(text, "")


# --- times and amounts --------------------------------------------------------------------------------


def parse_time(text: str | None) -> datetime | None:
    """A moment as the API writes it."""
    return None if not text else datetime.fromisoformat(text)


def show_time(text: str | None, timespec: str = "seconds") -> str | None:
    """A moment in the reader's time zone."""
    moment = parse_time(text)
    return None if moment is None else moment.astimezone().isoformat(" ", timespec)


def show_duration(seconds: float) -> str:
    """``4.2s``, ``3m05s``, ``2h07m``, ``5d03h``: two units at most."""
    return f"{max(0.0, seconds):.1f}s" if seconds < 10 else span(int(seconds))


def since(start: str | None, end: str | None = None) -> str | None:
    """How long from one moment to another, or to now."""
    began = parse_time(start)
    if began is None:
        return None
    return show_duration(((parse_time(end) or datetime.now(UTC)) - began).total_seconds())
