"""``snapshot``: the state that the log folds to, kept in the data directory for a quick start."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from horizon.cli import exits, places
from horizon.cli.exits import CliError

NICE: Final = 19


@click.command(short_help="Keep the state that the log folds to, for a quick start.")
@click.option("--data-dir", metavar="DIR", help="Whose log.")
@click.pass_context
def snapshot(ctx: click.Context, data_dir: str | None) -> int:
    """Fold the log, checking its chain, from the last snapshot on, and write another.

    A scheduler with a long log has this done by itself, now and then, by a process like this one. It only
    reads the database, and gives way to everything else on this machine. Whatever is in `snapshots` in the
    data directory may be deleted at any time: the log is the truth, and starting just takes longer.
    """
    import asyncio

    _give_way()
    gc.disable()  # what is built here lives until the end
    return asyncio.run(_snapshot(places.data_directory(data_dir or ctx.find_root().obj["data_dir"])))


def _give_way() -> None:
    """To whoever else wants the processors or the disk."""
    import psutil

    os.nice(NICE)
    with suppress(psutil.Error, OSError):  # where that is not allowed it goes without
        if psutil.LINUX:
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


async def _snapshot(directory: Path) -> int:
    from horizon.cli.database import log_reader, progress_printer
    from horizon.core.at_rest import Unreadable
    from horizon.service.recovery import fold_nearest
    from horizon.store.snapshots import Snapshots

    snapshots = Snapshots(places.snapshots(directory))
    async with log_reader(directory) as reader:
        with snapshots.alone() as alone:
            if not alone:
                raise CliError(f"another process is writing a snapshot into {snapshots.directory}")
            head = await reader.head()
            progress = progress_printer("reading the log")
            state, _ = await fold_nearest(reader, snapshots, head, progress)
            try:
                path = snapshots.write(state, head.log_id, head.tip)
            except Unreadable as error:
                raise CliError(str(error)) from error
            except OSError as error:
                where = f"no snapshot can be written into {snapshots.directory}: {error.strerror}"
                raise CliError(f"{where}; those that are there are as they were") from error
    click.echo(f"{path} holds the state as of {head.position:,} events")
    return exits.OK
