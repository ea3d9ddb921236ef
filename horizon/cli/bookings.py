"""``horizon bookings``: nodes kept free of jobs for a span of time, for maintenance."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from horizon.cli.client import Client, segment
from horizon.cli.output import Column, json_option, print_json, print_table, show_time
from horizon.cli.session import client_of, for_each, the_one
from horizon.cli.values import ENDS, MOMENT, reason_option


@click.group(
    invoke_without_command=True, short_help="List bookings; `bookings make` keeps nodes free for a time."
)
@json_option
@click.pass_context
def bookings(ctx: click.Context, as_json: bool) -> None:
    """List the bookings that are not over: nodes that are kept free of jobs for a span of time."""
    if ctx.invoked_subcommand is not None:
        return
    body = client_of(ctx).get("/api/v1/bookings")
    print_json(body) if as_json else print_bookings(json.loads(body)["bookings"])


def print_bookings(found: list[dict[str, Any]]) -> None:
    titles = ("BOOKING", "NODES", "FROM", "UNTIL", "BY", "REASON")
    columns = [Column(title, wide=title == "REASON") for title in titles]
    print_table(columns, _rows(found), "nothing is booked")


def _rows(found: list[dict[str, Any]]) -> Iterable[tuple[Any, ...]]:
    for booking in found:
        yield (
            booking["id"],
            ",".join(booking["nodes"]),
            show_time(booking["start_at"]),
            show_time(booking["end_at"]),
            booking["by"],
            booking["reason"],
        )


@bookings.command(short_help="Keep nodes free of jobs for a span of time.")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("--from", "start_at", type=MOMENT, metavar="TIME", help="2030-01-31T08:00, or +2h.  [now]")
@click.option(
    "--until", "end_at", type=ENDS, required=True, metavar="TIME", help="The same; a day is included."
)
@reason_option
@json_option
@click.pass_context
def make(
    ctx: click.Context,
    nodes: tuple[str, ...],
    start_at: str | None,
    end_at: str,
    reason: str | None,
    as_json: bool,
) -> None:
    """Keep nodes free of jobs for a span of time: nothing is started there that would run into it.

    What runs there already goes on; `horizon nodes drain` ends that, too.
    """
    body = {"nodes": list(nodes), "start_at": start_at, "end_at": end_at, "reason": reason}
    answer = client_of(ctx).change("POST", "/api/v1/bookings", body)
    print_json(answer) if as_json else click.echo(json.loads(answer)["id"])


@bookings.command(short_help="Give the nodes of bookings back.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@reason_option
@json_option
@click.pass_context
def end(ctx: click.Context, ids: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Give the nodes of bookings back before their time is over; the beginning of an ID will do."""

    def change(client: Client, prefix: str) -> bytes:
        known = json.loads(client.get("/api/v1/bookings"))["bookings"]
        id = the_one(prefix, (booking["id"] for booking in known), "booking")
        return client.change("DELETE", f"/api/v1/bookings/{segment(id)}", query={"reason": reason})

    return for_each(ctx, ids, change, lambda booking: f"{','.join(booking['nodes'])} given back", as_json)
