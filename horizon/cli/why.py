"""``horizon why``: why a job is where it is, or was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from horizon.cli.output import Column, clean, json_option, print_json, print_table, show_duration, show_time
from horizon.cli.session import client_of, job_path
from horizon.cli.values import at_option


@click.command(short_help="Say why a job is where it is, and what would start it.")
@click.argument("job")
@at_option
@json_option
@click.pass_context
def why(ctx: click.Context, job: str, at: str | None, as_json: bool) -> None:
    """Say why a job is where it is: what keeps it, who is ahead, when it is likely to start, what would
    start it now; and who did what to it before.

    With --at it says so of an earlier position of the log or moment, such as 2030-01-31T14:05.
    """
    body = client_of(ctx).get(job_path(job, "why"), {"at": at})
    if as_json:
        print_json(body)
        return
    told = json.loads(body)
    click.echo(clean(f"job {told['number']} ({told['state']}) {told['summary']}"))
    for line in _lines(told):
        click.echo("  " + clean(line))
    if told["ahead"]:
        print_table(_COLUMNS, map(_ahead_row, told["ahead"]), "")


_COLUMNS = (
    Column("AHEAD", right=True),
    Column("JOB", right=True),
    Column("USER"),
    Column("ACCOUNT"),
    Column("PRIORITY"),
    Column("GPUS", right=True),
    Column("OWNER HOLDS", right=True),
)


def _ahead_row(one: dict[str, Any]) -> tuple[Any, ...]:
    return (
        one["position"],
        one["number"],
        one["user_id"],
        one["account"],
        one["priority"],
        one["gpu_count"],
        one["owner_gpus_held"],
    )


def _lines(told: dict[str, Any]) -> Iterator[str]:
    if told["position"]:
        yield f"place {told['position']} of {told['waiting']} that wait"
    for one in told["depends_on"]:
        held = {True: "holds", False: "can never hold", None: "is open"}[one["holds"]]
        yield f"{one['kind']} of job {one['number']} ({one['state']}) {held}"
    if told["nodes"]:
        yield "nodes: " + ", ".join(_NODES[verdict].format(n) for verdict, n in told["nodes"].items())
    if told["reservation"]:
        where = ", ".join(told["reservation"]["nodes"])
        yield f"reserved for it: {where} from {show_time(told['reservation']['start_at'])}"
    if told["estimated_start"]:
        yield f"likely to start by {show_time(told['estimated_start'])}{_trust(told['estimates'])}"
    for place, change in enumerate(told["changes"]):
        yield ("what would start it: " if place == 0 else "or: ") + change["sentence"]
    for one in told["history"]:
        yield _happening(one)


_NODES = {
    "fits": "{} where it fits",
    "closed": "{} that take no work",
    "labels": "{} without its labels",
    "kind": "{} without such a GPU",
    "small": "{} too small for it",
    "shared": "{} that others use, or use alone",
    "devices": "{} with too few GPUs free",
    "cores": "{} with too few cores free",
    "memory": "{} with too little memory free",
    "reserved": "{} booked or planned for others",
}


def _trust(estimates: dict[str, Any]) -> str:
    if not estimates["total"]:
        return ""
    total = estimates["total"]
    kept = 100 * estimates["on_time"] // total
    late = f", the others {show_duration(estimates['mean_late_s'])} late" if kept < 100 else ""
    early = f", {show_duration(estimates['mean_early_s'])} early on average" if kept else ""
    return f" ({kept} % of {total} so far started by then{early}{late})"


def _happening(one: dict[str, Any]) -> str:
    lost = f", {show_duration(one['lost_gpu_s'])} of GPU time lost" if one["lost_gpu_s"] else ""
    reason = f": {one['reason']}" if one["reason"] else ""
    return f"{show_time(one['at'])} {one['what']} by {one['by']}{reason}{lost}"
