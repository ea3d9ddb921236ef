"""``horizon shares``: the share tree, and the weights in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from horizon.cli.client import segment
from horizon.cli.output import Column, json_option, print_json, print_table
from horizon.cli.session import client_of


@click.group(invoke_without_command=True, short_help="Show the share tree; `shares set` changes a weight.")
@json_option
@click.pass_context
def shares(ctx: click.Context, as_json: bool) -> None:
    """Show who has which share, has used how much, and so whose turn is next.

    At each level of the tree the child with the smallest SCORE goes first: its usage, with what it holds now
    charged ahead, over its weight.
    """
    if ctx.invoked_subcommand is not None:
        return
    body = client_of(ctx).get("/api/v1/shares")
    if as_json:
        print_json(body)
        return
    titles = ("SHARE", "KIND", "WEIGHT", "USED GPU-H", "SCORE", "GPUS HELD", "WAITING")
    columns = [Column(title, right=title not in ("SHARE", "KIND")) for title in titles]
    print_table(columns, _rows(json.loads(body)["shares"]), "nobody has a share yet")


def _rows(tree: list[dict[str, Any]]) -> Iterable[tuple[Any, ...]]:
    for share in tree:
        yield (
            share["path"],
            share["kind"],
            share["weight"],
            f"{share['usage_gpu_s'] / 3_600:.3f}",
            f"{share['score'] / 3_600:.3f}",
            share["gpus_held"],
            share["waiting"],
        )


@shares.command(name="set", short_help="Give an account or a user a weight among its siblings.")
@click.argument("path")
@click.argument("weight", type=click.IntRange(1))
@click.option("--user", "kind", flag_value="user", help="The path names a user under an account.")
@click.option("--account", "kind", flag_value="account", help="The path names an account.")
@json_option
@click.pass_context
def set_weight(ctx: click.Context, path: str, weight: int, kind: str | None, as_json: bool) -> None:
    """Give the account or user at PATH, such as research/nlp, this WEIGHT among its siblings.

    For a path that has not been seen before say --user or --account.
    """
    body: dict[str, Any] = {"weight": weight}
    if kind is not None:
        body["kind"] = kind
    at = "/".join(segment(name) for name in path.split("/"))
    answer = client_of(ctx).change("PUT", f"/api/v1/shares/{at}", body)
    print_json(answer) if as_json else click.echo(f"{path} has weight {weight}")
