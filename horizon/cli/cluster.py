"""``queue``, ``nodes``, ``gpus`` and ``events``: looking at the cluster and at its log."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from horizon.cli.client import Client
from horizon.cli.output import Column, json_option, print_json, print_table, show_time, since
from horizon.cli.session import client_of, job_path

PAGE_EVENTS_MAX: Final = 10_000
PAYLOAD_SHOWN: Final = 160
"""Characters of a payload in a table; --json has all of it."""


@click.command(short_help="Show who waits, in the order of starting.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, metavar="N")
@json_option
@click.pass_context
def queue(ctx: click.Context, limit: int, as_json: bool) -> None:
    """Show who waits, in the order of starting if every job fitted, and how many there are."""
    client = client_of(ctx)
    counts = json.loads(client.get("/api/v1/queue"))
    order = json.loads(client.get("/api/v1/queue/order", {"limit": limit}))
    if as_json:
        print_json({**counts, "jobs": order["jobs"]})
        return
    titles = ("PLACE", "JOB", "NAME", "USER", "ACCOUNT", "PRIORITY", "GPUS", "WAITED")
    columns = [Column(title, right=title in ("PLACE", "JOB", "GPUS", "WAITED")) for title in titles]
    rows = [
        (
            job["position"],
            job["number"],
            job["job_name"],
            job["user_id"],
            job["account"],
            job["priority"],
            job["gpu_count"],
            since(job["created_at"]),
        )
        for job in order["jobs"]
    ]
    print_table(columns, rows, "nobody waits")
    waiting = ", ".join(
        f"{counts[f'{kind}_priority']} {kind}" for kind in ("urgent", "high", "normal", "low")
    )
    click.echo(
        f"{counts['total']} waiting ({waiting}), {counts['held']} held back, {counts['scheduled']} starting, "
        f"{counts['running']} running",
        err=True,
    )


@click.command(short_help="List nodes and what is free on them.")
@json_option
@click.pass_context
def nodes(ctx: click.Context, as_json: bool) -> None:
    """List nodes and what is free on them."""
    body = client_of(ctx).get("/api/v1/nodes")
    if as_json:
        print_json(body)
        return
    titles = ("NODE", "STATE", "GPU TYPE", "GPUS FREE", "CORES FREE", "MEMORY FREE", "JOBS", "REASON")
    columns = [Column(title, right="FREE" in title, wide=title == "REASON") for title in titles]
    print_table(columns, map(_node_row, json.loads(body)["nodes"]), "no node has joined")


def _node_row(node: dict[str, Any]) -> tuple[Any, ...]:
    gpus = node["gpus"]
    return (
        node["name"],
        node["state"],
        ",".join(node["gpu_types"]),
        f"{gpus['free']}/{gpus['total']}"
        + (f" ({gpus['releasing']} releasing)" if gpus["releasing"] else ""),
        f"{node['cpu_cores'] - node['cpu_cores_held']}/{node['cpu_cores']}",
        f"{node['memory_gb'] - node['memory_gb_held']:.0f}/{node['memory_gb']:.0f} GB",
        ",".join(map(str, node["jobs"])),
        node["reason"],
    )


@click.command(short_help="List GPUs and who holds them.")
@json_option
@click.pass_context
def gpus(ctx: click.Context, as_json: bool) -> None:
    """List GPUs and who holds them."""
    body = client_of(ctx).get("/api/v1/gpus")
    if as_json:
        print_json(body)
        return
    titles = ("NODE", "GPU", "TYPE", "MEMORY", "STATE", "JOB", "USER", "UUID")
    columns = [Column(title, right=title in ("GPU", "MEMORY", "JOB"), style=_gpu_style) for title in titles]
    print_table(columns, map(_gpu_row, json.loads(body)["gpus"]), "there are no GPUs")


def _gpu_style(text: str) -> str:
    return {"free": "green", "held": "yellow", "releasing": "magenta", "lost": "red"}.get(text, "")


def _gpu_row(gpu: dict[str, Any]) -> tuple[Any, ...]:
    holder = gpu["job"] or {}
    return (
        gpu["node"],
        gpu["index"],
        gpu["gpu_type"],
        f"{gpu['memory_gb']:.0f} GB",
        gpu["state"],
        holder.get("number"),
        holder.get("user_id"),
        gpu["uuid"],
    )


@click.command(short_help="Print the log of events.")
@click.option("--job", metavar="JOB", help="Only of this job.")
@click.option("--after", type=click.IntRange(0), metavar="N", help="Only after this position.  [0]")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most this many."
)
@json_option
@click.pass_context
def events(ctx: click.Context, job: str | None, after: int | None, limit: int, as_json: bool) -> None:
    """Print events of the log, the oldest first: of all, or of one job."""
    client = client_of(ctx)
    if job is None:
        page = _log(client, after or 0, limit)
    else:
        page = json.loads(client.get(job_path(job, "events")))
        page["events"] = [one for one in page["events"] if one["position"] > (after or 0)][:limit]
    if as_json:
        print_json(page)
        return
    titles = ("POSITION", "RECORDED", "TYPE", "STREAM", "ACTOR", "PAYLOAD")
    columns = [Column(title, right=title == "POSITION", wide=title == "PAYLOAD") for title in titles]
    print_table(columns, map(_event_row, page["events"]), "no such events")
    head = page.get("head", 0)
    last = page["events"][-1]["position"] if page["events"] else head
    if last < head:
        click.echo(f"the log goes on to {head}; --after {last} shows what follows", err=True)


def _log(client: Client, after: int, limit: int) -> dict[str, Any]:
    """A piece of the log, in as many requests as it takes."""
    found: list[Any] = []
    while True:
        size = min(limit - len(found), PAGE_EVENTS_MAX)
        page: dict[str, Any] = json.loads(client.get("/api/v1/events", {"after": after, "limit": size}))
        found += page["events"]
        after = page["next_after"]
        if len(found) >= limit or not page["events"]:
            return {**page, "events": found}


def _event_row(event: dict[str, Any]) -> tuple[Any, ...]:
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
