"""``horizon shares``: the share tree, the weights in it, the bounds of accounts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import click

from horizon.cli.client import segment
from horizon.cli.output import Column, clean, json_option, print_json, print_table
from horizon.cli.session import client_of
from horizon.cli.values import BOUND, at_option, reason_option

_NUMBERS: Final = (
    ("used GPU-h", "usage_gpu_s"),
    ("charged ahead GPU-h", "charged_ahead_gpu_s"),
    ("together GPU-h", "effective_gpu_s"),
    ("weight", "weight"),
    ("score", "score"),
    ("held now, in GPUs by cost", "held_gpu"),
    ("waiting", "waiting"),
)
"""What makes a turn, in the order in which it is worked out."""


@click.group(
    invoke_without_command=True, short_help="Show the share tree; `shares set` changes weights and bounds."
)
@at_option
@json_option
@click.pass_context
def shares(ctx: click.Context, at: str | None, as_json: bool) -> None:
    """Show who has which share, has used how much, and so whose turn is next.

    At each level of the tree the child with the smallest SCORE goes first: its usage, with what it holds now
    charged ahead, over its weight. RANK says it: 1 goes first.
    """
    if ctx.invoked_subcommand is not None:
        return
    body = client_of(ctx).get("/api/v1/shares", {"at": at})
    print_json(body) if as_json else print_shares(json.loads(body)["shares"])


def print_shares(found: list[dict[str, Any]]) -> None:
    titles = ("SHARE", "KIND", "WEIGHT", "USED GPU-H", "SCORE", "RANK", "GPUS HELD", "BOUNDS", "WAITING")
    columns = [Column(title, right=title not in ("SHARE", "KIND", "BOUNDS")) for title in titles]
    print_table(columns, _rows(found), "nobody has a share yet")


def _rows(tree: list[dict[str, Any]]) -> Iterable[tuple[Any, ...]]:
    for share in tree:
        yield (
            share["path"],
            share["kind"],
            share["weight"],
            _hours(share["usage_gpu_s"]),
            _hours(share["score"]),
            share["rank"],
            share["gpus_held"],
            _bounds(share),
            share["waiting"],
        )


def _hours(gpu_seconds: float) -> str:
    return f"{gpu_seconds / 3_600:.3f}"


def _bounds(share: dict[str, Any]) -> str:
    parts = [f"guaranteed {share['guaranteed_gpus']}"] if share["guaranteed_gpus"] else []
    parts += [f"at most {share['max_gpus']}"] if share["max_gpus"] is not None else []
    return ", ".join(parts)


@shares.command(name="set", short_help="Change a share's weight, an account's bounds.")
@click.argument("path")
@click.argument("weight", type=click.IntRange(1), required=False)
@click.option(
    "--max-gpus",
    type=BOUND,
    metavar="N|none",
    help="The account never holds more GPUs, all below it included.",
)
@click.option(
    "--guaranteed-gpus",
    type=click.IntRange(0),
    metavar="N",
    help="While the account holds less, it may take from accounts that hold more than theirs.",
)
@click.option("--user", "kind", flag_value="user", help="The path names a user under an account.")
@click.option("--account", "kind", flag_value="account", help="The path names an account.")
@reason_option
@json_option
@click.pass_context
def set_share(
    ctx: click.Context,
    path: str,
    weight: int | None,
    max_gpus: int | str | None,
    guaranteed_gpus: int | None,
    kind: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Give the account or user at PATH, such as research/nlp, this WEIGHT among its siblings, or bounds.

    What is not given stays as it is. For a path that has not been seen before say --user or --account.
    """
    given = {"weight": weight, "max_gpus": max_gpus, "guaranteed_gpus": guaranteed_gpus}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("there is nothing to set: give a WEIGHT, --max-gpus or --guaranteed-gpus")
    if body.get("max_gpus") == "none":
        body["max_gpus"] = None
    if kind is not None:
        body["kind"] = kind
    body["reason"] = reason
    at = "/".join(segment(name) for name in path.split("/"))
    answer = client_of(ctx).change("PUT", f"/api/v1/shares/{at}", body)
    print_json(answer) if as_json else click.echo(_said(json.loads(answer)))


def _said(share: dict[str, Any]) -> str:
    bounds = _bounds(share)
    return f"{clean(share['path'])} has weight {share['weight']}" + (f", {bounds} GPUs" if bounds else "")


@shares.command(short_help="Show why one share's jobs go before another's.")
@click.argument("first")
@click.argument("second")
@at_option
@json_option
@click.pass_context
def compare(ctx: click.Context, first: str, second: str, at: str | None, as_json: bool) -> None:
    """Show why jobs of the share FIRST go before those of SECOND, or after them, priorities being equal.

    Where the two part in the tree, the numbers are shown side by side.
    """
    body = client_of(ctx).get("/api/v1/shares/compare", {"first": first, "second": second, "at": at})
    if as_json:
        print_json(body)
        return
    answer = json.loads(body)
    one, other = answer["first"], answer["second"]
    rows = [(title, _number(one, field), _number(other, field)) for title, field in _NUMBERS]
    columns = [Column(""), Column(clean(one["path"]), right=True), Column(clean(other["path"]), right=True)]
    print_table(columns, rows, "")
    click.echo(clean(answer["why"]))


def _number(share: dict[str, Any], field: str) -> str:
    value = share[field]
    if field.endswith("_gpu_s") or field == "score":
        return _hours(value)
    return f"{value:g}"
