"""``keys``, ``export``: what proves the log to people who do not trust whoever keeps it."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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


@click.command(short_help="Write the log out, for whoever checks it without Horizon.")
@click.option(
    "--from", "first", type=click.IntRange(1), default=1, show_default=True, help="The first event."
)
@click.option("--to", "last", type=click.IntRange(0), help="The last event; where the log ends if not given.")
@click.option("--out", metavar="FILE", help="Write to this file, gzipped if its name ends in .gz.")
@click.option("--data-dir", metavar="DIR", help="Whose embedded Postgres, if DATABASE_URL is not set.")
@click.pass_context
def export(ctx: click.Context, first: int, last: int | None, out: str | None, data_dir: str | None) -> None:
    """Write the log out as lines of JSON, straight from the database, for whoever checks it without Horizon.

    Every event with the exact bytes that were hashed, and every signed checkpoint. Any role that may read the
    log will do, such as horizon_auditor. `python -m horizon.auditor` checks what comes out.
    """
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    with _output(out) as file:
        asyncio.run(_export(directory, first, last, file))


@contextmanager
def _output(out: str | None) -> Iterator[Any]:
    """A file of this name, or stdout."""
    if out is None:
        yield sys.stdout.buffer
        return
    try:
        file = Path(out).open("wb")  # noqa: SIM115 - closed below, and its errors said above
    except OSError as error:
        raise CliError(f"{out} cannot be written: {error.strerror}") from error
    with file:
        if not out.endswith(".gz"):
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="wb") as packed:
            yield packed


async def _export(directory: Path, first: int, last: int | None, file: IO[bytes]) -> None:
    from horizon.cli.database import log_reader, progress_printer
    from horizon.store.export import plan_export

    progress = progress_printer("writing the log")
    async with log_reader(directory) as reader:
        try:
            plan = await plan_export(reader, first, last)
        except ValueError as error:
            raise CliError(str(error), exits.USAGE) from error
        async for position, lines in plan.lines():
            file.write(lines)
            progress(position - plan.first + 1, plan.last - plan.first + 1)
        file.flush()
