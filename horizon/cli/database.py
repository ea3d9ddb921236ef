"""The database of a log, for commands that read it themselves: whoever audits asks no server."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import click

from horizon.cli import exits, lock, places
from horizon.cli.exits import CliError
from horizon.core.at_rest import Unreadable
from horizon.service.verify import StoredEvents, Unsound
from horizon.store.embedded import EmbeddedPostgres
from horizon.store.export import ExportFile
from horizon.store.port import StoreError
from horizon.store.reader import LogReader

PROGRESS_AFTER_S: Final = 1.0
PROGRESS_EVERY_S: Final = 2.0


@asynccontextmanager
async def log_reader(directory: Path, *archives: Path) -> AsyncIterator[LogReader]:
    """The log that DATABASE_URL names, or the one in the data directory, whether Horizon runs there or not.

    ``archives`` are directories with files of archived partitions, besides the one where they should be.

    Whatever goes wrong with it becomes a ``CliError``.
    """
    try:
        async with AsyncExitStack() as parts:
            dsn = os.environ.get("DATABASE_URL") or await _embedded(directory, parts)
            reader = LogReader(dsn, [*archives, places.archive(directory)])
            parts.push_async_callback(reader.close)
            await reader.open()
            yield reader
    except StoreError as error:
        raise CliError(str(error)) from error


@asynccontextmanager
async def log_events(directory: Path, exported: Path | None) -> AsyncIterator[tuple[StoredEvents, int]]:
    """The events of a whole log and how many there are: from an export, or like ``log_reader``.

    What is wrong with it becomes a ``CliError``, while they are read, too.
    """
    try:
        if exported is None:
            async with log_reader(directory) as reader:
                yield reader, (await reader.head()).position
            return
        file = ExportFile(exported)
        header = file.header()
        if header.from_ != 1:
            raise CliError(f"{exported} begins at {header.from_}: a fold begins at 1", exits.USAGE)
        yield file, header.to
    except (StoreError, Unsound, Unreadable) as error:
        raise CliError(f"the log cannot be folded: {error}") from error


async def _embedded(directory: Path, parts: AsyncExitStack) -> str:
    postgres = EmbeddedPostgres(directory / "postgres")
    if not (postgres.directory / "PG_VERSION").exists():
        message = f"there is no database in {directory}: name its data directory, or set DATABASE_URL"
        raise CliError(message, exits.NOT_FOUND)
    try:
        parts.enter_context(lock.hold(directory))
    except CliError:
        return await postgres.start()  # whoever holds the directory has it running, and goes on using it
    parts.push_async_callback(postgres.stop)
    return await postgres.start()


def progress_printer(doing: str) -> Callable[[int, int], None]:
    """Says how far it is, once it takes long enough to wonder. The first call says where it begins."""
    first, began_at, said_at = 0, 0.0, 0.0

    def progress(done: int, total: int) -> None:
        nonlocal first, began_at, said_at
        now = time.monotonic()
        if not began_at:
            first, began_at, said_at = done, now, now - PROGRESS_EVERY_S + PROGRESS_AFTER_S
        if now - said_at >= PROGRESS_EVERY_S:
            said_at = now
            share = f"{done * 100 // max(total, 1)} %, {(done - first) / (now - began_at):,.0f} a second"
            click.echo(f"{doing}: {done:,} of {total:,} events ({share})", err=True)

    return progress
