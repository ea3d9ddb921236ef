"""``keys``: what proves the log to people who do not trust whoever keeps it."""

from __future__ import annotations

from pathlib import Path

import click

from horizon.cli import exits, places
from horizon.cli.exits import CliError


@click.group(invoke_without_command=True, short_help="Show the key that the log is signed with.")
@click.option("--data-dir", metavar="DIR", help="Whose key.")
@click.pass_context
def keys(ctx: click.Context, data_dir: str | None) -> None:
    """Show the public half of the key that signs the checkpoints of the log.

    Keep a copy where the log's keepers cannot reach: it is what `horizon verify` and the auditor go by.
    """
    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    ctx.obj = {**ctx.find_root().obj, "data_dir": str(directory)}
    if ctx.invoked_subcommand is not None:
        return
    from horizon.service.keys import BadKey, KeyFile

    place = KeyFile(places.signing_key(directory))
    try:
        public = place.public()
    except BadKey as error:
        raise CliError(str(error)) from error
    if public is None:
        raise CliError(f"there is no key in {place.path} yet: `horizon up` makes one", exits.NOT_FOUND)
    click.echo(str(public))


@keys.command()
@click.pass_context
def rotate(ctx: click.Context) -> None:
    """Make a new key, which counts from the next start on; the old one hands over to it and is deleted."""
    from horizon.service.keys import BadKey, KeyFile

    try:
        public = KeyFile(places.signing_key(Path(ctx.obj["data_dir"]))).rotate()
    except BadKey as error:
        raise CliError(str(error)) from error
    click.echo("this key counts from the next start of Horizon on", err=True)
    click.echo(str(public))
