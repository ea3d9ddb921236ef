"""``archive``: the oldest partitions of the log leave the database, for files that the log goes on in."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from horizon.cli import places
from horizon.cli.client import Client
from horizon.cli.exits import CliError
from horizon.cli.session import client_of
from horizon.cli.values import Parsed, parse_before, reason_option

if TYPE_CHECKING:
    from horizon.auditor import Key
    from horizon.store.partitions import Partition
    from horizon.store.port import Archive
    from horizon.store.reader import LogReader


@click.command(short_help="Move the oldest full partitions of the log into files, each checked.")
@click.option(
    "--to", metavar="DIR", help="Where the files go.  [HORIZON_ARCHIVE, else in the data directory]"
)
@click.option(
    "--before",
    type=Parsed("position or time", parse_before),
    metavar="POSITION|TIME",
    help="Only what ends before this.",
)
@click.option(
    "--keep",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Leave the N newest of them where they are.",
)
@click.option("--drop", is_flag=True, help="Delete the tables of archived partitions whose files hold.")
@click.option("--data-dir", metavar="DIR", help="Whose log.")
@reason_option
@click.pass_context
def archive(
    ctx: click.Context,
    to: str | None,
    before: str | None,
    keep: int,
    drop: bool,
    reason: str | None,
    data_dir: str | None,
) -> None:
    """Move the oldest full partitions of the log (five million events each) out of the database, into files.

    Each is exported, the file is checked by the auditor's own code from the bytes on the disk, the running
    Horizon puts on record what is in it (PartitionArchived), and the partition is taken out of the log. Its
    table stays, protected, until --drop deletes it. Whatever stops this, the same command goes on with it;
    where what is on record is of a file that is not there or does not hold, it makes and records it anew.
    DATABASE_URL, where it is set, must be the owner's.

    Whoever reads the log further back than the database goes reads the files: in HORIZON_ARCHIVE, else in
    `archive` in the data directory. Without them what is left still verifies.
    """
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    target = Path(to).absolute() if to else places.archive(directory)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"{target} cannot be made: {error.strerror}") from error
    archiver = Archiver(directory, target, client_of(ctx), reason)
    asyncio.run(archiver.drop() if drop else archiver.archive(before, keep))


class Written(NamedTuple):
    """What the bytes of a file say of the partition in it; hashes in hex."""

    sha256: str
    previous: str
    tip: str
    frontier: str


class Archiver:
    """Archives the partitions of one log into one directory, the oldest first."""

    def __init__(self, directory: Path, target: Path, client: Client, reason: str | None) -> None:
        self._directory = directory
        self._target = target
        self._client = client
        self._reason = reason

    async def archive(self, before: str | None, keep: int) -> None:
        from horizon.cli.database import log_reader
        from horizon.store.partitions import attached, set_apart

        async with log_reader(self._directory, self._target) as reader:
            newest = await reader.newest_checkpoint()
            signed = 0 if newest is None else newest.size
            # The event of the newest checkpoint stays: the next start holds it against what was signed.
            full = [one for one in await attached(reader) if one.last < signed]
            chosen = full[: max(0, len(full) - keep)]
            for partition in [one for one in chosen if await _ends_before(reader, one, before)]:
                await self._on_record(reader, partition)
                await set_apart(reader.dsn, partition.first)
                click.echo(f"events {partition.first:,} to {partition.last:,} are archived in {self._target}")
            click.echo(
                f"{len(await attached(reader))} partitions are in the database; "
                f"{len(full)} were full and signed"
            )

    async def _on_record(self, reader: LogReader, partition: Partition) -> None:
        """See that the partition is in a file that holds, and that this is on record. What is on record of it
        may be of a file that is not there, or does not hold: then it is archived again."""
        from horizon.store.port import Archived

        known = (await reader.recorded_archives()).holding(partition.first)
        if known is not None and (known.first, known.last) == partition:
            try:
                await self._check(reader, known)
                return
            except (Archived, CliError) as error:
                again = f"so events {known.first:,} to {known.last:,} are archived again"
                click.echo(f"{error}\n{again}", err=True)
        written = await self._write(reader, partition)
        known = (await reader.recorded_archives()).holding(partition.first)
        if known is None or known.sha256.hex() != written.sha256:
            raise CliError("what is on record is another file by now: nothing was taken out of the log")

    async def drop(self) -> None:
        from horizon.cli.database import log_reader
        from horizon.store.partitions import apart, drop

        async with log_reader(self._directory, self._target) as reader:
            archives = await reader.archives()
            for partition in await apart(reader):
                known = archives.holding(partition.first)
                assert known is not None, "it was found by what is on record"
                await self._check(reader, known)
                await drop(reader.dsn, partition)
                click.echo(f"events {partition.first:,} to {partition.last:,} are in {known.file} alone")

    # --- one partition --------------------------------------------------------------------------------

    async def _write(self, reader: LogReader, partition: Partition) -> Written:
        """Export it, up to the checkpoint behind its end; check what came to the disk; put it on record."""
        from horizon.cli.database import progress_printer
        from horizon.service.keys import sync_directory
        from horizon.store.export import plan_export

        log_id = (await reader.head()).log_id.hex()
        name = f"log-{log_id[:8]}-{partition.first:012}-{partition.last:012}.jsonl"
        behind = await anext(reader.checkpoints(partition.last - 1))
        plan = await plan_export(reader, partition.first, behind.size)
        progress = progress_printer(f"writing {name}")
        partial = self._target / f".{name}"
        try:
            partial.unlink(missing_ok=True)
            partial.touch(0o600)  # names, comments and command lines are for those who may read the log
            with partial.open("wb") as file:
                async for position, lines in plan.lines():
                    file.write(lines)
                    progress(position - plan.first + 1, plan.last - plan.first + 1)
                file.flush()
                os.fsync(file.fileno())
            written = audited(partial, partition, await self._keys(reader, behind.size))
            partial.replace(self._target / name)
            sync_directory(self._target)
        except OSError as error:
            raise CliError(f"{partial} cannot be written: {error.strerror}") from error
        body = {"first": partition.first, "last": partition.last, "file": name, **written._asdict()}
        self._client.change("POST", "/api/v1/log/archived", {**body, "reason": self._reason or ""})
        return written

    async def _check(self, reader: LogReader, known: Archive) -> None:
        """That the file of what is on record is there, and is what was recorded."""
        from horizon.store.partitions import Partition

        path = (await reader.recorded_archives()).path(known)
        written = audited(path, Partition(known.first, known.last), await self._keys(reader, known.last))
        if (written.sha256, written.tip) != (known.sha256.hex(), known.tip.hex()):
            raise CliError(
                f"{path} is not the file that is on record: that has the SHA-256 {known.sha256.hex()}"
            )

    async def _keys(self, reader: LogReader, size: int) -> list[Key]:
        """The keys that have signed the log up to there, as it says itself, and the one that signs now."""
        from horizon.auditor import Key
        from horizon.cli.proof import own_keys

        texts = [str(key) for key in own_keys(self._directory)]
        archives = await reader.recorded_archives()
        if archives.known:
            for stored in await reader.where("position = $1", archives.known[-1].position):
                texts += json.loads(stored.payload)["keys"]
        for stored in await reader.where("type = 'SigningKeySet' AND position <= $1", size):
            texts.append(json.loads(stored.payload)["key"])
        return [Key(text) for text in dict.fromkeys(texts)]


def audited(path: Path, partition: Partition, keys: list[Key]) -> Written:
    """Check a file by the auditor's own code; what it says of the partition. Raises ``CliError``."""
    from horizon.auditor import UNREADABLE, Audit, Wrong

    sha256 = hashlib.sha256()
    tip = frontier = ""
    ended = False
    try:
        with path.open("rb") as file:
            head = file.readline()
            sha256.update(head)
            audit = Audit(json.loads(head), keys, [])
            previous = audit.tip.hex()
            if audit.before != partition.first - 1:
                raise Wrong(audit.before + 1, f"it does not begin with event {partition.first}")
            for text in file:
                sha256.update(text)
                if ended:
                    raise Wrong(audit.position, "something comes after the last line")
                ended = audit.line(json.loads(text))
                if audit.position == partition.last and not tip:
                    tip, frontier = audit.tip.hex(), b"".join(audit.frontier).hex()
        if not ended or audit.signed < partition.last:
            raise Wrong(audit.position, "it is cut off, or not signed to the end of the partition")
    except UNREADABLE as error:
        raise CliError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    except Wrong as wrong:
        raise CliError(f"{path} does not hold, so nothing was archived: {wrong}") from wrong
    return Written(sha256.hexdigest(), previous, tip, frontier)


async def _ends_before(reader: LogReader, partition: Partition, before: str | None) -> bool:
    if before is None:
        return True
    if before.isdecimal():
        return partition.last < int(before)
    rows: list[Any] = await reader.fetch(
        "SELECT recorded_at_us FROM events WHERE position = $1", partition.last
    )
    return bool(rows) and rows[0]["recorded_at_us"] < datetime.fromisoformat(before).timestamp() * 1e6
