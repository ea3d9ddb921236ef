"""``queue``, ``nodes`` and ``gpus``: the cluster, and what of it takes work."""

from __future__ import annotations

import json
from typing import Any

import click

from horizon.cli.client import Client, Query, segment
from horizon.cli.output import Column, json_option, print_json, print_table, show_time, since
from horizon.cli.session import client_of, for_each, name_of, the_one
from horizon.cli.values import DURATION, MOMENT, at_option, reason_option


@click.command(short_help="Show who waits, in the order of starting.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, metavar="N")
@at_option
@json_option
@click.pass_context
def queue(ctx: click.Context, limit: int, at: str | None, as_json: bool) -> None:
    """Show who waits, in the order of starting if every job fitted, and how many there are.

    With --at it shows who waited at an earlier position of the log or moment, such as 2030-01-31T14:05.
    """
    client = client_of(ctx)
    counts = json.loads(client.get("/api/v1/queue", {"at": at}))
    order = json.loads(client.get("/api/v1/queue/order", {"limit": limit, "at": at}))
    if as_json:
        print_json({**counts, "jobs": order["jobs"]})
        return
    print_order(order["jobs"], then=at is not None)
    waiting = ", ".join(
        f"{counts[f'{kind}_priority']} {kind}" for kind in ("urgent", "high", "normal", "low")
    )
    click.echo(
        f"{counts['total']} waiting ({waiting}), {counts['held']} held back, {counts['scheduled']} starting, "
        f"{counts['running']} running",
        err=True,
    )


def print_order(jobs: list[dict[str, Any]], then: bool) -> None:
    """Those that wait; ``then`` says that it is long ago, and not how long they have waited."""
    titles = (
        "PLACE",
        "JOB",
        "NAME",
        "USER",
        "ACCOUNT",
        "PRIORITY",
        "GPUS",
        "SUBMITTED" if then else "WAITED",
    )
    columns = [Column(title, right=title in ("PLACE", "JOB", "GPUS", "WAITED")) for title in titles]
    rows = [
        (
            job["position"],
            name_of(job),
            job["job_name"],
            job["user_id"],
            job["account"],
            job["priority"],
            job["gpu_count"],
            show_time(job["created_at"]) if then else since(job["created_at"]),
        )
        for job in jobs
    ]
    print_table(columns, rows, "nobody waits")


# --- nodes --------------------------------------------------------------------------------------------


@click.group(
    invoke_without_command=True, short_help="List nodes; `nodes drain` and its like keep work off them."
)
@at_option
@json_option
@click.pass_context
def nodes(ctx: click.Context, at: str | None, as_json: bool) -> None:
    """List nodes and what is free on them.

    A cordoned node takes no new work. A draining one is to be emptied, too, and is drained once nothing is
    held there any more.
    """
    if ctx.invoked_subcommand is not None:
        return
    body = client_of(ctx).get("/api/v1/nodes", {"at": at})
    print_json(body) if as_json else print_nodes(json.loads(body)["nodes"])


def print_nodes(found: list[dict[str, Any]]) -> None:
    titles = ("NODE", "STATE", "GPU TYPE", "GPUS FREE", "CORES FREE", "MEMORY FREE", "JOBS", "REASON")
    columns = [Column(title, right="FREE" in title, wide=title == "REASON") for title in titles]
    print_table(columns, map(_node_row, found), "no node has joined")


def _node_row(node: dict[str, Any]) -> tuple[Any, ...]:
    gpus = node["gpus"]
    return (
        node["name"],
        node["state"],
        ",".join(node["gpu_types"]),
        f"{gpus['free']}/{gpus['total']}" + _troubled(gpus),
        f"{node['cpu_cores'] - node['cpu_cores_held']}/{node['cpu_cores']}",
        f"{node['memory_gb'] - node['memory_gb_held']:.0f}/{node['memory_gb']:.0f} GB",
        ",".join(map(str, node["jobs"])),
        _node_reason(node),
    )


def _troubled(gpus: dict[str, int]) -> str:
    parts = [f"{gpus[state]} {state}" for state in ("releasing", "failed") if gpus[state]]
    return f" ({', '.join(parts)})" if parts else ""


def _node_reason(node: dict[str, Any]) -> str:
    parts = [node["reason"] or "", f"by {node['by']}" if node["by"] else ""]
    parts.append(f"empty by {show_time(node['drain_by'])}" if node["drain_by"] else "")
    return ", ".join(part for part in parts if part)


@nodes.command(short_help="Start nothing on nodes any more; what runs there goes on.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@reason_option
@json_option
@click.pass_context
def cordon(ctx: click.Context, names: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Start nothing on nodes any more; what runs there goes on, and `nodes resume` ends it."""
    return _change_nodes(ctx, names, "cordon", {"reason": reason}, as_json)


@nodes.command(short_help="Start nothing on nodes any more, and see them emptied.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--within", "deadline_s", type=DURATION, metavar="TIME", help="Empty after 30m at the latest.")
@click.option("--by", "deadline_at", type=MOMENT, metavar="TIME", help="Empty at 2030-01-31T08:00.")
@reason_option
@json_option
@click.pass_context
def drain(
    ctx: click.Context,
    names: tuple[str, ...],
    deadline_s: int | None,
    deadline_at: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Start nothing on nodes any more, and see them emptied.

    What runs there may run to its end, or with --within or --by until then: it is stopped and goes back to
    its place in the queue.
    """
    if deadline_s is not None and deadline_at is not None:
        raise click.UsageError("--within and --by exclude each other")
    body = {"reason": reason, "deadline_s": deadline_s, "deadline_at": deadline_at}
    return _change_nodes(ctx, names, "drain", body, as_json)


@nodes.command(short_help="Let nodes take work again.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@reason_option
@json_option
@click.pass_context
def resume(ctx: click.Context, names: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Let cordoned and draining nodes take work again."""
    return _change_nodes(ctx, names, "resume", None, as_json, {"reason": reason})


def _change_nodes(
    ctx: click.Context,
    names: tuple[str, ...],
    verb: str,
    body: dict[str, Any] | None,
    as_json: bool,
    query: Query | None = None,
) -> int:
    def change(client: Client, name: str) -> bytes:
        return client.change("POST", f"/api/v1/nodes/{segment(name)}/{verb}", body, query=query)

    return for_each(ctx, names, change, lambda node: f"{node['name']} is {node['state']}", as_json)


# --- GPUs ---------------------------------------------------------------------------------------------


@click.group(
    invoke_without_command=True, short_help="List GPUs and who holds them; `gpus fail` takes one out."
)
@at_option
@json_option
@click.pass_context
def gpus(ctx: click.Context, at: str | None, as_json: bool) -> None:
    """List GPUs and who holds them.

    Those of a node with the same LINK reach each other over NVLink; NUMA is the NUMA node a GPU is at.
    """
    if ctx.invoked_subcommand is not None:
        return
    body = client_of(ctx).get("/api/v1/gpus", {"at": at})
    if as_json:
        print_json(body)
        return
    titles = ("NODE", "GPU", "TYPE", "MEMORY", "LINK", "NUMA", "STATE", "JOB", "USER", "UUID", "REASON")
    right = ("GPU", "MEMORY", "LINK", "NUMA", "JOB")
    columns = [
        Column(title, right=title in right, style=_gpu_style, wide=title == "REASON") for title in titles
    ]
    print_table(columns, map(_gpu_row, json.loads(body)["gpus"]), "there are no GPUs")


def _gpu_style(text: str) -> str:
    styles = {"free": "green", "held": "yellow", "releasing": "magenta", "failed": "bold red", "lost": "red"}
    return styles.get(text, "")


def _gpu_row(gpu: dict[str, Any]) -> tuple[Any, ...]:
    holder = gpu["job"]
    return (
        gpu["node"],
        gpu["index"],
        gpu["gpu_type"],
        f"{gpu['memory_gb']:.0f} GB",
        gpu["link_group"],
        gpu["numa_node"],
        gpu["state"],
        name_of(holder) if holder else None,
        holder["user_id"] if holder else None,
        gpu["uuid"],
        gpu["reason"],
    )


@gpus.command(short_help="Use a GPU no more.")
@click.argument("uuid")
@reason_option
@json_option
@click.pass_context
def fail(ctx: click.Context, uuid: str, reason: str | None, as_json: bool) -> int:
    """Use the GPU whose UUID is, or begins with, UUID no more. A job that has it keeps it until it ends."""
    return _change_gpu(ctx, uuid, "fail", {"reason": reason}, as_json)


@gpus.command(short_help="Use a GPU that had failed again.")
@click.argument("uuid")
@reason_option
@json_option
@click.pass_context
def recover(ctx: click.Context, uuid: str, reason: str | None, as_json: bool) -> int:
    """Use the GPU whose UUID is, or begins with, UUID again."""
    return _change_gpu(ctx, uuid, "recover", None, as_json, {"reason": reason})


def _change_gpu(
    ctx: click.Context,
    prefix: str,
    verb: str,
    body: dict[str, Any] | None,
    as_json: bool,
    query: Query | None = None,
) -> int:
    def change(client: Client, prefix: str) -> bytes:
        known = json.loads(client.get("/api/v1/gpus"))["gpus"]
        uuid = the_one(prefix, (gpu["uuid"] for gpu in known), "GPU")
        return client.change("POST", f"/api/v1/gpus/{segment(uuid)}/{verb}", body, query=query)

    return for_each(ctx, (prefix,), change, lambda gpu: f"{gpu['uuid']} is {gpu['state']}", as_json)
